//! The one record that every request leaves, as a value.
//!
//! Invariant: it never holds content, a secret, a query string or a path of the caller's making.

use std::time::Duration;

use crate::domain::key::Labels;
use crate::domain::timestamp::Timestamp;
use crate::domain::webhook::{Source, Verdict};

/// How a request ended.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Outcome {
    /// The gateway answered by itself, as asked: model lists and the like.
    Answered,
    /// A backend's whole reply was handed on.
    Forwarded,
    /// The gateway refused.
    Refused,
    /// The caller left before the end.
    CallerGone,
    /// The backend's reply broke off on the way.
    Broken,
    /// The gateway ended it on the way: revoked, expired, or draining for too long.
    Ended,
}

impl Outcome {
    /// Every outcome, in the order of the enum.
    pub const ALL: [Self; 6] =
        [Self::Answered, Self::Forwarded, Self::Refused, Self::CallerGone, Self::Broken, Self::Ended];

    /// The word in records and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Forwarded => "forwarded",
            Self::Refused => "refused",
            Self::CallerGone => "caller_gone",
            Self::Broken => "broken",
            Self::Ended => "ended",
        }
    }
}

/// What one webhook said of a request.
#[derive(Clone, Debug)]
pub struct Consulted<'a> {
    /// Its name.
    pub name: &'a str,
    /// What it came to.
    pub verdict: Verdict,
    /// Where that came from; `None` when there was no answer that counts.
    pub source: Option<Source>,
    /// What it wants to be remembered with the request; they get the prefix `wh.`.
    pub labels: Option<&'a Labels>,
}

/// One line of the record. Field names and their order are a contract.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the names are the published contract; docs/records.md explains each")]
pub struct Entry<'a> {
    pub ts: Timestamp,
    pub request_id: &'a str,
    pub outcome: Outcome,
    pub status: Option<u16>,
    pub code: Option<&'static str>,
    pub owner: Option<&'a str>,
    pub identity_owner: Option<&'a str>,
    pub key_id: Option<&'a str>,
    pub identity: Option<&'a str>,
    pub client_ip: &'a str,
    pub endpoint: Option<&'static str>,
    pub model: Option<&'a str>,
    pub target: Option<&'a str>,
    pub backend: Option<&'a str>,
    pub stream: bool,
    pub bytes_in: u64,
    pub bytes_out: u64,
    /// `ttfb_ms` in the line.
    pub ttfb: Option<Duration>,
    /// `duration_ms` in the line.
    pub duration: Duration,
    pub kx: Option<&'a str>,
    pub webhooks: &'a [Consulted<'a>],
    pub detail: Option<&'a str>,
}

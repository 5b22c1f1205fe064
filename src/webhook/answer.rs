//! What a webhook says, read strictly.
//!
//! Invariant: an answer counts whole or not at all. What two readers could understand differently
//! (a key twice, in another case, of another type) and what is not in the contract's ranges is
//! trouble: a receiver that meant to narrow must never be heard as one that allows all.

use std::time::Duration;

use serde::Deserialize;

use crate::config::Override;
use crate::dialect::json::{self, Field, Kind};
use crate::domain::key::Labels;
use crate::domain::timestamp::Timestamp;
use crate::webhook::trouble::Trouble;

/// Longest answer in bytes.
pub const MAX_BYTES: usize = 64 * 1024;
/// Longest reason and public message that is kept, in bytes.
const MAX_TEXT: usize = 256;
/// Most labels of one answer.
const MAX_LABELS: usize = 16;
/// Statuses that a denial may have.
const STATUSES: [u16; 5] = [401, 402, 403, 404, 429];
/// What a denial says whose answer has no message for the caller.
const NO_MESSAGE: &str = "The request was denied by the organisation's policy.";
/// Longest wait that is passed on; longer ones make SDKs give up.
const MAX_WAIT: Duration = Duration::from_secs(120);

/// A decision that counts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Decision {
    /// What it is.
    pub ruling: Ruling,
    /// Why, for the log: plain text of at most 256 bytes.
    pub reason: Option<Box<str>>,
    /// How long it may be remembered, if the answer says so.
    pub ttl: Option<Duration>,
}

/// Yes or no.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Ruling {
    /// The request may go on, as narrow as this.
    Allow(Narrowing),
    /// It may not.
    Deny(Denial),
}

/// How a denial looks to the caller.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Denial {
    /// One of 401, 402, 403, 404, 429.
    pub status: u16,
    /// Plain text of at most 256 bytes.
    pub message: Box<str>,
    /// When trying again can help.
    pub retry_after: Option<Duration>,
}

/// In which ways an allowed request is narrowed.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Narrowing {
    /// No more tokens than this are generated.
    pub max_tokens: Option<u64>,
    /// The reply ends so long after the request came.
    pub deadline: Option<Duration>,
    /// The reply ends at this time.
    pub expires_at: Option<Timestamp>,
    /// Only this backend serves it.
    pub backend: Option<Box<str>>,
    /// For the record, without the prefix `wh.` that they get there.
    pub labels: Option<Box<Labels>>,
}

impl Narrowing {
    /// True when nothing is narrowed.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

/// What the contract says of answers.
const FIELDS: &[Field] = &[
    Field { name: "version", kind: Kind::Cap { least: 0 } },
    Field { name: "request_id", kind: Kind::String },
    Field { name: "decision", kind: Kind::String },
    Field { name: "reason", kind: Kind::String },
    Field { name: "public_message", kind: Kind::String },
    Field { name: "status", kind: Kind::Cap { least: 0 } },
    Field { name: "ttl_s", kind: Kind::Cap { least: 0 } },
    Field { name: "retry_after_s", kind: Kind::Cap { least: 0 } },
    Field {
        name: "overrides",
        kind: Kind::Object(&[
            Field { name: "max_tokens", kind: Kind::Cap { least: 0 } },
            Field { name: "deadline_ms", kind: Kind::Cap { least: 0 } },
            Field { name: "expires_at", kind: Kind::String },
            Field { name: "backend", kind: Kind::String },
            Field { name: "labels", kind: Kind::Object(&[]) },
        ]),
    },
];

#[derive(Deserialize)]
struct Raw {
    version: u64,
    request_id: String,
    decision: String,
    reason: Option<String>,
    public_message: Option<String>,
    status: Option<u16>,
    ttl_s: Option<u64>,
    retry_after_s: Option<u64>,
    overrides: Option<RawOverrides>,
}

/// A name that is not known here could be a narrowing that would be lost.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawOverrides {
    max_tokens: Option<u64>,
    deadline_ms: Option<u64>,
    expires_at: Option<String>,
    backend: Option<String>,
    labels: Option<std::collections::BTreeMap<String, String>>,
}

/// Reads the body of an answer to the question `request_id`. Overrides that are not among `allowed`
/// do not count; `candidates` are the backends that may serve the request.
///
/// # Errors
///
/// [`Trouble::Malformed`] and [`Trouble::OtherRequest`].
pub fn read(
    body: &[u8],
    request_id: &str,
    allowed: &[Override],
    candidates: &[impl AsRef<str>],
) -> Result<Decision, Trouble> {
    let wrong = |why: &str| Trouble::Malformed(why.to_owned());
    // What the scanner says never quotes what it read.
    json::scan(body, FIELDS, &mut |_, _| ()).map_err(|fault| Trouble::Malformed(fault.to_string()))?;
    let raw: Raw = serde_json::from_slice(body)
        .map_err(|_| wrong("version, request_id and decision are needed, and overrides has known names only"))?;
    if raw.version != 1 {
        return Err(wrong("version is not 1"));
    }
    if raw.request_id != request_id {
        return Err(Trouble::OtherRequest);
    }
    let ruling = match raw.decision.as_str() {
        "allow" => Ruling::Allow(narrowing(raw.overrides.unwrap_or_default(), allowed, candidates)?),
        "deny" => {
            let status = raw.status.unwrap_or(403);
            if !STATUSES.contains(&status) {
                return Err(wrong("the status of a denial is 401, 402, 403, 404 or 429"));
            }
            let message = raw.public_message.as_deref().map(plain).filter(|message| !message.is_empty());
            Ruling::Deny(Denial {
                status,
                message: message.unwrap_or_else(|| NO_MESSAGE.into()),
                retry_after: raw.retry_after_s.map(|wait| Duration::from_secs(wait).min(MAX_WAIT)),
            })
        }
        _ => return Err(wrong("decision is neither allow nor deny")),
    };
    let reason = raw.reason.as_deref().map(plain).filter(|reason| !reason.is_empty());
    Ok(Decision { ruling, reason, ttl: raw.ttl_s.map(Duration::from_secs) })
}

fn narrowing(raw: RawOverrides, allowed: &[Override], candidates: &[impl AsRef<str>]) -> Result<Narrowing, Trouble> {
    let wrong = |why: &str| Trouble::Malformed(why.to_owned());
    let listed = |kind| allowed.contains(&kind);
    let expires_at = raw.expires_at.as_deref().map(Timestamp::parse).transpose();
    let expires_at = expires_at.map_err(|_| wrong("expires_at is not a date and time with a zone"))?;
    let labels =
        raw.labels.map(|labels| if labels.len() > MAX_LABELS { Err(Vec::new()) } else { Labels::parse(labels) });
    let labels = labels.transpose().map_err(|_| wrong("labels are up to 16, of [a-z0-9._-]{1,63} and 256 bytes"))?;
    let backend = raw.backend.filter(|_| listed(Override::Backend));
    if let Some(backend) = &backend
        && !candidates.iter().any(|candidate| candidate.as_ref() == backend)
    {
        return Err(wrong("backend is none of the candidates"));
    }
    Ok(Narrowing {
        max_tokens: raw.max_tokens.filter(|_| listed(Override::MaxTokens)),
        deadline: raw.deadline_ms.filter(|_| listed(Override::DeadlineMs)).map(Duration::from_millis),
        expires_at: expires_at.filter(|_| listed(Override::ExpiresAt)),
        backend: backend.map(Into::into),
        labels: labels.filter(|labels| listed(Override::Labels) && !labels.is_empty()).map(Box::new),
    })
}

/// Text without what could forge lines of a log or colour a terminal, of bounded length.
fn plain(text: &str) -> Box<str> {
    let mut kept = String::new();
    for c in text.chars() {
        let c = if c.is_control() || is_formatting(c) { ' ' } else { c };
        if kept.len() + c.len_utf8() > MAX_TEXT {
            break;
        }
        kept.push(c);
    }
    kept.trim().into()
}

/// Characters that change how others are shown: line separators and writing directions.
const fn is_formatting(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{2028}' | '\u{2029}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
#[path = "answer_tests.rs"]
mod tests;

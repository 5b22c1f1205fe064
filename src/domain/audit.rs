//! What was done with certificates, as lines of the records.
//!
//! Invariant: a line says who did what to whose certificate, and holds nothing secret. It is written
//! by whoever does it, in the same step, so that nothing is done without one.

use serde::Serialize;

use crate::domain::timestamp::Timestamp;

/// What was done.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Deed {
    /// A certificate was signed for a holder that had none, or by hand.
    CertificateIssued,
    /// A certificate was signed for the holder of another.
    CertificateRenewed,
    /// A certificate was asked for and not signed.
    CertificateRefused,
    /// One certificate was revoked.
    CertificateRevoked,
    /// A name was revoked, with its certificates and unused bundles.
    NameRevoked,
    /// New certificates may be signed for a revoked name.
    NameReinstated,
    /// An enrollment bundle was made.
    BundleCreated,
    /// An enrollment bundle was revoked before it was used.
    BundleRevoked,
}

impl Deed {
    /// Every deed.
    pub const ALL: [Self; 8] = [
        Self::CertificateIssued,
        Self::CertificateRenewed,
        Self::CertificateRefused,
        Self::CertificateRevoked,
        Self::NameRevoked,
        Self::NameReinstated,
        Self::BundleCreated,
        Self::BundleRevoked,
    ];

    /// The word in records.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::CertificateIssued => "certificate_issued",
            Self::CertificateRenewed => "certificate_renewed",
            Self::CertificateRefused => "certificate_refused",
            Self::CertificateRevoked => "certificate_revoked",
            Self::NameRevoked => "name_revoked",
            Self::NameReinstated => "name_reinstated",
            Self::BundleCreated => "bundle_created",
            Self::BundleRevoked => "bundle_revoked",
        }
    }
}

/// Who does something.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Actor {
    /// `uid 1000`, or the identity of an operator or holder, or the bundle of somebody who has none.
    pub who: String,
    /// Where a request came from, if one did.
    pub client_ip: Option<String>,
    /// The id of the request.
    pub request_id: Option<String>,
}

/// One thing that was done. Field names and their order are a contract.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the names are the published contract; docs/records.md explains each")]
pub struct Event<'a> {
    pub ts: Timestamp,
    pub event: Deed,
    pub identity: Option<&'a str>,
    pub serial: Option<String>,
    pub not_after: Option<Timestamp>,
    pub bundle: Option<&'a str>,
    pub detail: Option<&'a str>,
}

#[derive(Serialize)]
struct Line<'a> {
    ts: String,
    event: &'static str,
    by: &'a str,
    client_ip: Option<&'a str>,
    request_id: Option<&'a str>,
    identity: Option<&'a str>,
    serial: Option<&'a str>,
    not_after: Option<String>,
    bundle: Option<&'a str>,
    detail: Option<&'a str>,
}

impl Event<'_> {
    /// One that says nothing yet but what and when.
    #[must_use]
    pub const fn new(ts: Timestamp, event: Deed) -> Self {
        Self { ts, event, identity: None, serial: None, not_after: None, bundle: None, detail: None }
    }

    /// The line, without its end.
    #[must_use]
    pub fn line(&self, actor: &Actor) -> String {
        let line = Line {
            ts: self.ts.to_string(),
            event: self.event.as_str(),
            by: &actor.who,
            client_ip: actor.client_ip.as_deref(),
            request_id: actor.request_id.as_deref(),
            identity: self.identity,
            serial: self.serial.as_deref(),
            not_after: self.not_after.map(|at| at.to_string()),
            bundle: self.bundle,
            detail: self.detail,
        };
        // Text and numbers only: it cannot fail.
        serde_json::to_string(&line).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_object_whatever_is_in_it() {
        let event = Event {
            ts: Timestamp::from_seconds(0),
            event: Deed::CertificateIssued,
            identity: Some("spiffe://corp.example/client/alice"),
            serial: Some("0a1b".to_owned()),
            not_after: Some(Timestamp::from_seconds(60)),
            bundle: None,
            detail: Some("a\nb\"c"),
        };
        let actor = Actor { who: "uid 0".to_owned(), client_ip: None, request_id: None };
        assert_eq!(
            event.line(&actor),
            r#"{"ts":"1970-01-01T00:00:00.000Z","event":"certificate_issued","by":"uid 0","client_ip":null,"request_id":null,"identity":"spiffe://corp.example/client/alice","serial":"0a1b","not_after":"1970-01-01T00:01:00.000Z","bundle":null,"detail":"a\nb\"c"}"#
        );
    }

    #[test]
    fn every_deed_has_a_word_of_its_own() {
        let words: std::collections::HashSet<_> = Deed::ALL.iter().map(|deed| deed.as_str()).collect();
        assert_eq!(words.len(), Deed::ALL.len());
    }
}

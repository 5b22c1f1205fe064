//! Why the desk says no, and how: RFC 9457 with a code of [`Code`].
//!
//! Invariant: who has proven nothing is told nothing. What was wrong with a bundle is for the record
//! alone; outside, all bundles that cannot be used look the same.

use std::borrow::Cow;
use std::time::Duration;

use http::StatusCode;
use serde_json::json;

use crate::ca::CaError;
use crate::ca::exchange::Code;
use crate::store::error::StoreError;

/// Why there is no certificate.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// What kind it is.
    pub code: Code,
    /// What is said to whoever asked.
    pub detail: Cow<'static, str>,
    /// What the record says.
    pub why: Cow<'static, str>,
    /// When trying again can help.
    pub retry_after: Option<Duration>,
    /// True when a secret was presented that nothing proves: guesses are among these.
    pub is_guess: bool,
}

impl Refusal {
    /// A refusal that says the same to everybody.
    pub fn new(code: Code, detail: impl Into<Cow<'static, str>>) -> Self {
        let detail = detail.into();
        Self { code, why: detail.clone(), detail, retry_after: None, is_guess: false }
    }

    /// A bundle that cannot be used; `why` is for the record.
    pub fn bundle(why: impl Into<Cow<'static, str>>) -> Self {
        let detail = "The bundle cannot be used: it is unknown, used, expired or revoked, or not for this network. \
                      Ask whoever gave it to you for a new one.";
        Self { why: why.into(), ..Self::new(Code::InvalidEnrollment, detail) }
    }

    /// A bundle that nobody was given, or not with this secret; `why` is for the record.
    pub fn guess(why: impl Into<Cow<'static, str>>) -> Self {
        Self { is_guess: true, ..Self::bundle(why) }
    }

    /// A certificate that is not renewed; `why` is for the record.
    pub fn certificate(why: impl Into<Cow<'static, str>>) -> Self {
        let detail = "Only a certificate of this gateway's authority that has not ended is renewed. Connect with it, \
                      or ask for a new enrollment bundle.";
        Self { why: why.into(), ..Self::new(Code::CertificateRequired, detail) }
    }

    /// A certificate that was revoked; `why` is for the record.
    pub fn revoked(why: impl Into<Cow<'static, str>>) -> Self {
        let detail = "The certificate, its key or its name is revoked. Only a new enrollment bundle helps.";
        Self { why: why.into(), ..Self::new(Code::CertificateRevoked, detail) }
    }

    /// A request for a certificate that is not accepted.
    pub fn csr(why: impl std::fmt::Display) -> Self {
        Self::new(Code::BadCsr, format!("{why}. The bundle or the certificate can still be used."))
    }

    /// A holder that renews without end.
    #[must_use]
    pub fn too_many_good() -> Self {
        Self {
            why: "100 certificates of this identity are good at the moment".into(),
            retry_after: Some(Duration::from_secs(120)),
            ..Self::new(
                Code::Unavailable,
                "Too many certificates of this name are good at the moment. Renew less often.",
            )
        }
    }

    /// Something of ours; `why` is for the record.
    pub fn unavailable(why: impl Into<Cow<'static, str>>) -> Self {
        Self {
            why: why.into(),
            retry_after: Some(Duration::from_secs(1)),
            ..Self::new(Code::Unavailable, "No certificate can be issued at the moment. Try again.")
        }
    }

    /// Something of ours that takes too long, and may yet be done.
    #[must_use]
    pub fn too_slow() -> Self {
        Self {
            detail:
                "It takes too long, and may yet be done: then a bundle is used up. Try again, or ask for a new one."
                    .into(),
            ..Self::unavailable("the store takes too long")
        }
    }

    /// The same refusal from an address that has had its share.
    #[must_use]
    pub fn too_many(self, wait: Duration) -> Self {
        Self {
            why: format!("too many failures from this address: {}", self.why).into(),
            retry_after: Some(wait),
            ..Self::new(Code::TooManyFailures, "Too many bundles that cannot be used came from this address. Wait.")
        }
    }

    /// The HTTP status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// The body of the answer.
    #[must_use]
    pub fn body(&self, request_id: &str) -> Vec<u8> {
        let status = self.status();
        json!({
            "type": "about:blank",
            "title": status.canonical_reason(),
            "status": status.as_u16(),
            "detail": self.detail,
            "code": self.code.as_str(),
            "request_id": request_id,
        })
        .to_string()
        .into_bytes()
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        // Revoked, or used, after it was looked at.
        if matches!(error, StoreError::NameRevoked(_)) {
            return Self::bundle("its name is revoked");
        }
        if matches!(error, StoreError::Exists(_)) {
            return Self::bundle("another request was faster");
        }
        if matches!(error, StoreError::KeyCompromised) {
            return Self::csr("The key was revoked as compromised: make another");
        }
        tracing::error!(%error, "a certificate could not be issued");
        Self::unavailable(format!("the store: {error}"))
    }
}

impl From<CaError> for Refusal {
    fn from(error: CaError) -> Self {
        match error {
            CaError::PublicKey(_) | CaError::Request(_) => Self::csr(error),
            CaError::Exists(_)
            | CaError::Missing(_)
            | CaError::Busy(_)
            | CaError::Locked(_)
            | CaError::RootOffline(_)
            | CaError::NotNow(_)
            | CaError::KeyExposed { .. }
            | CaError::Broken { .. }
            | CaError::Plan(_)
            | CaError::NotAsPlanned(_)
            | CaError::Crypto(_)
            | CaError::Io { .. } => {
                tracing::error!(%error, "a certificate could not be issued");
                Self::unavailable(format!("the authority: {error}"))
            }
        }
    }
}

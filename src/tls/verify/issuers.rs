//! What a chain says beside the caller's own certificate: who in it may issue, and how long all of it
//! holds.

use rustls_pki_types::CertificateDer;

use crate::domain::timestamp::Timestamp;
use crate::tls::peer::{PeerFault, Validity, parse};

impl Validity {
    /// Reads the validity of any certificate.
    pub(crate) fn read(certificate: &CertificateDer<'_>) -> Result<Self, PeerFault> {
        parse(certificate).map(|certificate| Self::of(&certificate))
    }

    /// True when `now` lies within.
    pub(crate) fn contains(self, now: Timestamp) -> bool {
        self.not_before <= now && now < self.not_after
    }

    /// True when webpki, which counts in whole seconds and the last one in, finds it valid.
    pub(crate) fn contains_second_of(self, now: Timestamp) -> bool {
        self.not_before <= now && now.as_seconds() <= self.not_after.as_seconds()
    }

    /// The time in which both are valid.
    pub(crate) fn and(self, other: Self) -> Self {
        Self { not_before: self.not_before.max(other.not_before), not_after: self.not_after.min(other.not_after) }
    }
}

/// False when the certificate's key usage says that it issues none (RFC 5280, 6.1.4 n). webpki does
/// not look at that: it must never see such a one as an issuer. What is malformed is left to it.
pub(super) fn may_issue(certificate: &CertificateDer<'_>) -> bool {
    let Ok(certificate) = parse(certificate) else { return true };
    certificate.key_usage().is_ok_and(|usage| usage.is_none_or(|usage| usage.value.key_cert_sign()))
}

//! From what the store says is revoked to lists for others.

use crate::ca::crl;
use crate::store::rows::{CertificateRecord, Reason};

/// How a list names a certificate; `None` when it is not revoked.
#[must_use]
pub fn listed(record: &CertificateRecord) -> Option<crl::Revoked> {
    let (at, reason) = record.revoked?;
    Some(crl::Revoked {
        serial: record.certificate.serial.as_bytes().to_vec(),
        at,
        not_after: record.certificate.not_after,
        reason: match reason {
            Reason::Unspecified => crl::Reason::Unspecified,
            Reason::KeyCompromise => crl::Reason::KeyCompromise,
            Reason::AffiliationChanged => crl::Reason::AffiliationChanged,
            Reason::Superseded => crl::Reason::Superseded,
            Reason::CessationOfOperation => crl::Reason::CessationOfOperation,
            Reason::PrivilegeWithdrawn => crl::Reason::PrivilegeWithdrawn,
        },
    })
}

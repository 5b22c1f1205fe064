//! Why a certificate was refused: for the handshake, and in words for people on this side.

use std::sync::Arc;

use rustls::{CertificateError, Error, OtherError};
use rustls_pki_types::UnixTime;

use crate::domain::timestamp::Timestamp;
use crate::tls::peer::Validity;

pub(super) fn unix_time(now: Timestamp) -> UnixTime {
    UnixTime::since_unix_epoch(now.since(Timestamp::from_seconds(0)))
}

pub(super) fn out_of(validity: Validity, now: Timestamp) -> Error {
    let (time, unix) = (unix_time(now), unix_time);
    if now < validity.not_before {
        CertificateError::NotValidYetContext { time, not_before: unix(validity.not_before) }.into()
    } else {
        CertificateError::ExpiredContext { time, not_after: unix(validity.not_after) }.into()
    }
}

/// Why a certificate was refused, for people on this side.
#[must_use]
pub fn explain(error: &Error) -> String {
    if let Error::InvalidCertificate(CertificateError::Other(OtherError(why))) = error {
        return why.to_string();
    }
    if *error == Error::InvalidCertificate(CertificateError::UnknownIssuer) {
        return "no authority that is trusted has issued it, or its issuer is not beside it".to_owned();
    }
    out_of_time(error).unwrap_or_else(|| error.to_string())
}

/// What is wrong with its time, in words, when that is what is wrong: of a certificate in the chain.
fn out_of_time(error: &Error) -> Option<String> {
    let Error::InvalidCertificate(fault) = error else { return None };
    let at = |time: UnixTime| Timestamp::from_seconds(i64::try_from(time.as_secs()).unwrap_or(i64::MAX));
    // The alert for both is the same, and a clock is behind the one more often than not.
    #[expect(clippy::wildcard_enum_match_arm, reason = "rustls's enum is open-ended")]
    match fault {
        CertificateError::NotValidYetContext { time, not_before } => Some(format!(
            "it, or its issuer, begins at {}, and here it is {}: check the clocks of both machines",
            at(*not_before),
            at(*time)
        )),
        CertificateError::ExpiredContext { time, not_after } => Some(format!(
            "it, or its issuer, ended at {}, and here it is {}: it needs a new one, or a clock is wrong",
            at(*not_after),
            at(*time)
        )),
        _ => None,
    }
}

/// The client hears `certificate_unknown`; the reason is in the error for the log.
pub(super) fn refused(fault: impl std::error::Error + Send + Sync + 'static) -> Error {
    CertificateError::Other(OtherError(Arc::new(fault))).into()
}

//! Lists of revoked certificates, for others than the gateway: it looks revocations up itself.
//!
//! Invariant: a list carries a number that no list before it had, whatever crashed in between: the
//! number is on disk before the list is signed.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use rcgen::{
    CertificateRevocationListParams, Issuer, KeyIdMethod, RevocationReason, RevokedCertParams, SerialNumber, SigningKey,
};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer};
use time::OffsetDateTime;
use x509_parser::extensions::ParsedExtension;

use crate::ca::authority::Authority;
use crate::ca::contents::{Lock, replace};
use crate::ca::{CaError, files, x509};
use crate::domain::timestamp::Timestamp;

/// Beside the authority: the number of the last list.
const NUMBER: &str = "crl-number";
/// Lists begin this much earlier, for machines whose clocks are behind.
const BACKDATED: Duration = Duration::from_secs(60);
/// When the next list is due.
pub const NEXT_UPDATE: Duration = Duration::from_secs(24 * 3600);
/// Certificates stay on the list this long after their end.
pub const KEPT: Duration = Duration::from_secs(3600);

/// A certificate that was revoked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Revoked {
    /// Its serial number, big-endian.
    pub serial: Vec<u8>,
    /// When it was revoked.
    pub at: Timestamp,
    /// When it ends anyway.
    pub not_after: Timestamp,
    /// Why.
    pub reason: Reason,
}

/// Why, as far as RFC 5280 has a code that fits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reason {
    /// Nobody said: no code is written, as section 5.3.1 asks for.
    Unspecified,
    /// Code 1.
    KeyCompromise,
    /// Code 3.
    AffiliationChanged,
    /// Code 4.
    Superseded,
    /// Code 5.
    CessationOfOperation,
    /// Code 9.
    PrivilegeWithdrawn,
}

/// A signed list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Crl {
    /// In DER.
    pub der: CertificateRevocationListDer<'static>,
    /// In PEM.
    pub pem: String,
}

/// The lists of the authority in `dir`: of its issuer first, then of the issuers before it that
/// have not ended. Each holds everything that is revoked, since serial numbers are never shared.
///
/// # Errors
///
/// When the number cannot be stored or a list cannot be signed.
pub fn issue(dir: &Path, authority: &Authority, revoked: &[Revoked], now: Timestamp) -> Result<Vec<Crl>, CaError> {
    let number = next_number(dir, now)?;
    let issuer = authority.issuer().ok_or(CaError::NotAsPlanned("no issuer"))?;
    let mut lists = vec![sign(issuer, authority.signer(), (revoked, number), now)?];
    for older in authority.older_issuers().iter().filter(|older| now < older.not_after) {
        let signer = Issuer::from_ca_cert_der(&older.der, &older.key)?;
        lists.push(sign(&older.der, &signer, (revoked, number), now)?);
    }
    Ok(lists)
}

fn sign(
    issuer: &CertificateDer<'_>,
    signer: &Issuer<'_, impl SigningKey>,
    (revoked, number): (&[Revoked], u64),
    now: Timestamp,
) -> Result<Crl, CaError> {
    let second = Timestamp::from_seconds(now.as_seconds());
    let listed = revoked.iter().filter(|one| second < one.not_after.after(KEPT));
    let params = CertificateRevocationListParams {
        this_update: date(second.before(BACKDATED))?,
        next_update: date(second.after(NEXT_UPDATE))?,
        crl_number: SerialNumber::from(number),
        // Verifiers are split over partitioned lists; this one is whole.
        issuing_distribution_point: None,
        revoked_certs: listed.map(entry).collect::<Result<_, _>>()?,
        key_identifier_method: KeyIdMethod::PreSpecified(key_id(issuer)?),
    };
    let list = params.signed_by(signer)?;
    Ok(Crl { pem: list.pem()?, der: list.into() })
}

fn entry(one: &Revoked) -> Result<RevokedCertParams, CaError> {
    Ok(RevokedCertParams {
        serial_number: SerialNumber::from_slice(&one.serial),
        revocation_time: date(one.at)?,
        reason_code: match one.reason {
            Reason::Unspecified => None,
            Reason::KeyCompromise => Some(RevocationReason::KeyCompromise),
            Reason::AffiliationChanged => Some(RevocationReason::AffiliationChanged),
            Reason::Superseded => Some(RevocationReason::Superseded),
            Reason::CessationOfOperation => Some(RevocationReason::CessationOfOperation),
            Reason::PrivilegeWithdrawn => Some(RevocationReason::PrivilegeWithdrawn),
        },
        invalidity_date: None,
    })
}

/// A number above the last one and not below the clock's seconds: those who lost the file, or took
/// an old one out of a backup, go on above what was published.
fn next_number(dir: &Path, now: Timestamp) -> Result<u64, CaError> {
    let _lock = Lock::take(dir)?;
    let path = dir.with_file_name(NUMBER);
    let last = match fs::read_to_string(&path) {
        Ok(text) => text.trim().parse().map_err(|_| CaError::broken(&path, "it is not a number"))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
        Err(error) => return Err(CaError::io(&path)(error)),
    };
    let clock = u64::try_from(now.as_seconds()).unwrap_or(0);
    let next = clock.max(u64::checked_add(last, 1).ok_or_else(|| CaError::broken(&path, "the numbers are used up"))?);
    replace(&path, format!("{next}\n").as_bytes(), files::PUBLIC).map_err(CaError::io(&path))?;
    Ok(next)
}

fn key_id(issuer: &CertificateDer<'_>) -> Result<Vec<u8>, CaError> {
    let parsed = x509::parse(issuer).map_err(|_| CaError::NotAsPlanned("the issuer is not X.509"))?;
    let found = parsed.extensions().iter().find_map(|extension| {
        if let ParsedExtension::SubjectKeyIdentifier(id) = extension.parsed_extension() {
            Some(id.0.to_vec())
        } else {
            None
        }
    });
    found.ok_or(CaError::NotAsPlanned("the issuer has no key identifier"))
}

fn date(at: Timestamp) -> Result<OffsetDateTime, CaError> {
    OffsetDateTime::from_unix_timestamp(at.as_seconds())
        .map_err(|_| CaError::NotAsPlanned("a date out of the calendar"))
}

/// Replaces `file` by a list, so that whoever reads it sees the old or the new one.
///
/// # Errors
///
/// When it cannot be written.
pub fn write(file: &Path, list: &[u8]) -> Result<(), CaError> {
    replace(file, list, files::PUBLIC).map_err(CaError::io(file))
}

#[cfg(test)]
#[path = "crl_tests.rs"]
mod tests;

//! New roots and issuers.

use std::time::Duration;

use aws_lc_rs::rand;
use rcgen::{Issuer, KeyPair, PublicKeyData};
use rustls_pki_types::CertificateDer;

use crate::ca::CaError;
use crate::ca::issue::{self, Profile};
use crate::ca::plan::{self, Serial, Span};
use crate::domain::identity::TrustDomain;
use crate::domain::timestamp::Timestamp;

const DAY: u64 = 24 * 3600;
const ROOT_LIFE: Duration = Duration::from_secs(3650 * DAY);
pub(super) const ISSUER_LIFE: Duration = Duration::from_secs(365 * DAY);

/// A certificate that was just made, with its key.
pub(super) struct Made {
    pub(super) certificate: rcgen::Certificate,
    pub(super) key: KeyPair,
}

/// A root that signed itself.
pub(super) fn root(domain: &TrustDomain, now: Timestamp) -> Result<Made, CaError> {
    let key = KeyPair::generate()?;
    let serial = random_serial()?;
    let name = common_name(domain, "root", serial);
    let profile = Profile::authority(name, uri(domain), 1, serial, plan::authority_span(now, ROOT_LIFE));
    let certificate = profile.params()?.self_signed(&key)?;
    issue::check(&profile, certificate.der(), &key.subject_public_key_info(), certificate.der())?;
    Ok(Made { certificate, key })
}

/// An issuer below a root, with another root's certificate of the same issuer if there is one.
pub(super) fn issuer(
    domain: &TrustDomain,
    (root, root_key): (&CertificateDer<'_>, &KeyPair),
    bridge_from: Option<(&CertificateDer<'_>, &KeyPair, Span)>,
    (root_span, now): (Span, Timestamp),
) -> Result<(Made, Option<rcgen::Certificate>), CaError> {
    let key = KeyPair::generate()?;
    let serial = random_serial()?;
    let name = common_name(domain, "issuer", serial);
    let certify = |by: (&CertificateDer<'_>, &KeyPair), ends: Span, serial: Serial| {
        let mut span = plan::authority_span(now, ISSUER_LIFE);
        span.not_after = span.not_after.min(ends.not_after);
        span.not_before = span.not_before.max(ends.not_before);
        if span.not_after <= now {
            return Err(CaError::NotNow(format!("the root ended at {}", ends.not_after)));
        }
        let profile = Profile::authority(name.clone(), uri(domain), 0, serial, span);
        let signer = Issuer::from_ca_cert_der(by.0, by.1)?;
        let certificate = profile.params()?.signed_by(&key, &signer)?;
        issue::check(&profile, certificate.der(), &key.subject_public_key_info(), by.0)?;
        Ok(certificate)
    };
    let certificate = certify((root, root_key), root_span, serial)?;
    let bridge = match bridge_from {
        None => None,
        Some((older, older_key, span)) => Some(certify((older, older_key), span, random_serial()?)?),
    };
    Ok((Made { certificate, key }, bridge))
}

pub(super) fn random_serial() -> Result<Serial, CaError> {
    let mut bytes = [0; 16];
    rand::fill(&mut bytes).map_err(|_| CaError::Crypto("no random numbers".to_owned()))?;
    Ok(Serial::from_random(bytes))
}

pub(super) fn uri(domain: &TrustDomain) -> String {
    format!("spiffe://{domain}")
}

/// A part of the serial number keeps two authorities of one name apart in chain building.
pub(super) fn common_name(domain: &TrustDomain, what: &str, serial: Serial) -> String {
    let short: String = serial.to_string().chars().take(8).collect();
    // 64 characters fit into a common name.
    let domain: String = domain.as_str().chars().take(40).collect();
    format!("{domain} {what} {short}")
}

//! What makes a certificate an authority's: checked when one is read, and when one comes from
//! elsewhere.

use rcgen::{KeyPair, PublicKeyData};
use rustls_pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;

use crate::ca::x509::certificates;
use crate::domain::identity::TrustDomain;

/// The only certificate of a PEM text.
pub(super) fn certificate(pem: &str) -> Result<CertificateDer<'static>, String> {
    match <[CertificateDer<'static>; 1]>::try_from(certificates(pem)?) {
        Ok([only]) => Ok(only),
        Err(_) => Err("it holds more than one certificate".to_owned()),
    }
}

/// The key belongs to the certificate.
pub(super) fn is_pair(key: &KeyPair, certificate: &X509Certificate<'_>) -> bool {
    key.subject_public_key_info() == certificate.public_key().raw
}

/// A root of our own: it says its trust domain.
pub(super) fn own_root(root: &X509Certificate<'_>) -> Result<TrustDomain, String> {
    authority(root)?;
    if !signed_by(root, root) {
        return Err("it did not sign itself".to_owned());
    }
    trust_domain(root)?.ok_or_else(|| "its only name must be spiffe://<trust-domain>".to_owned())
}

/// An issuer, directly below its root or below what is between.
pub(super) fn issuer(issuer: &X509Certificate<'_>, domain: &TrustDomain) -> Result<(), String> {
    if authority(issuer)? != Some(0) {
        return Err("an issuer must have the path length 0".to_owned());
    }
    match trust_domain(issuer)? {
        Some(own) if own != *domain => Err(format!("it is of the trust domain {own}, the authority of {domain}")),
        Some(_) | None => Ok(()),
    }
}

/// Any certificate that may sign others: its path length.
pub(super) fn authority(certificate: &X509Certificate<'_>) -> Result<Option<u32>, String> {
    let constraints = certificate.basic_constraints().ok().flatten();
    let Some(constraints) = constraints.filter(|constraints| constraints.value.ca) else {
        return Err("it is not the certificate of an authority".to_owned());
    };
    let usage = certificate.key_usage().ok().flatten();
    if !usage.is_some_and(|usage| usage.value.key_cert_sign() && usage.value.crl_sign()) {
        return Err("it may not sign certificates and CRLs".to_owned());
    }
    Ok(constraints.value.path_len_constraint)
}

/// True when `by` signed `certificate`.
pub(super) fn signed_by(certificate: &X509Certificate<'_>, by: &X509Certificate<'_>) -> bool {
    certificate.issuer().as_raw() == by.subject().as_raw()
        && certificate.verify_signature(Some(by.public_key())).is_ok()
}

/// The trust domain in a certificate without any other name; `None` in one without names.
pub(super) fn trust_domain(certificate: &X509Certificate<'_>) -> Result<Option<TrustDomain>, String> {
    let names = certificate.subject_alternative_name().map_err(|_| "its names cannot be read".to_owned())?;
    let uri = match names.as_ref().map(|names| names.value.general_names.as_slice()) {
        None => return Ok(None),
        Some([GeneralName::URI(uri)]) => *uri,
        Some(_) => return Err("its only name must be spiffe://<trust-domain>".to_owned()),
    };
    let domain = uri.strip_prefix("spiffe://").ok_or_else(|| format!("{uri:?} is not spiffe://<trust-domain>"))?;
    TrustDomain::parse(domain).map(Some)
}

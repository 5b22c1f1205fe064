//! Certificates as they are stored and sent: as text, and what X.509 says in them.

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use crate::ca::plan::Span;
use crate::domain::timestamp::Timestamp;

/// Every certificate of a PEM text.
pub(crate) fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    match found {
        Ok(found) if found.is_empty() => Err("not a certificate in PEM".to_owned()),
        Ok(found) => Ok(found),
        Err(_) => Err("not a certificate in PEM".to_owned()),
    }
}

/// What is in a certificate.
pub(crate) fn parse<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, String> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        Ok(_) | Err(_) => Err("not X.509 in DER".to_owned()),
    }
}

/// When a certificate is valid.
pub(crate) fn span(certificate: &X509Certificate<'_>) -> Span {
    Span {
        not_before: Timestamp::from_seconds(certificate.validity().not_before.timestamp()),
        not_after: Timestamp::from_seconds(certificate.validity().not_after.timestamp()),
    }
}

//! A caller's request for a certificate (PKCS#10).
//!
//! Invariant: only the public key is taken, and only when the request proves that its sender has
//! the private key. Names and extensions that it asks for are not even read.

use rustls_pki_types::CertificateSigningRequestDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::oid_registry::{OID_PKCS1_SHA1WITHRSA, OID_SHA1_WITH_RSA};
use x509_parser::prelude::FromDer;

use crate::ca::{CaError, issue};

/// Most bytes of a request that are looked at.
pub const MAX_BYTES: usize = 64 * 1024;

/// The public key (a DER `SubjectPublicKeyInfo`) of a request in PEM or DER.
///
/// # Errors
///
/// When it is no request, its signature is not by the key in it, or the key is of a kind that is
/// not certified.
pub fn public_key(request: &[u8]) -> Result<Vec<u8>, CaError> {
    let refused = |why| CaError::Request(why);
    if request.len() > MAX_BYTES {
        return Err(refused("it has more than 64 KiB"));
    }
    let der = match CertificateSigningRequestDer::from_pem_slice(request) {
        Ok(der) => der,
        // A DER request begins with a SEQUENCE.
        Err(_) if request.first() == Some(&0x30) => CertificateSigningRequestDer::from(request),
        Err(_) => return Err(refused("it is not a certificate request in PEM or DER (PKCS#10)")),
    };
    let Ok(([], parsed)) = X509CertificationRequest::from_der(&der) else {
        return Err(refused("it is not a certificate request in PEM or DER (PKCS#10)"));
    };
    let key = parsed.certification_request_info.subject_pki.raw;
    issue::check_key(key)?;
    let algorithm = &parsed.signature_algorithm.algorithm;
    if *algorithm == OID_PKCS1_SHA1WITHRSA || *algorithm == OID_SHA1_WITH_RSA {
        return Err(refused("it is signed with SHA-1"));
    }
    let signed = parsed.verify_signature();
    signed.map_err(|_| refused("its signature is not by the key in it, or made in a way that is not read"))?;
    Ok(key.to_vec())
}

#[cfg(test)]
#[path = "csr_tests.rs"]
mod tests;

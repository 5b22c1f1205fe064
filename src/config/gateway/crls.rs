//! `crls` of a `[[trust]]`: what an external authority has revoked.
//!
//! Invariant: a list that is in force was read whole by the library that will look certificates up
//! in it. What cannot be read, or is not signed by the root that it names, is no list.

use std::sync::Arc;

use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer};
use x509_parser::prelude::{CertificateRevocationList, FromDer, X509Certificate};

use crate::config::document::Value;
use crate::domain::timestamp::Timestamp;

/// A list, in DER.
pub type List = CertificateRevocationListDer<'static>;

/// Reads the files of the setting. `roots` are the authority's own.
pub(super) fn read_crls(setting: &Value<'_>, roots: &[CertificateDer<'static>]) -> Option<Vec<List>> {
    let lists = setting.each("an empty list revokes nothing; leave the setting out", |file| read_file(file, roots))?;
    Some(lists.into_iter().flatten().collect())
}

fn read_file(setting: &Value<'_>, roots: &[CertificateDer<'static>]) -> Option<Vec<List>> {
    let (shown, bytes) = setting.list_file()?;
    let lists = match lists_in(bytes) {
        Ok(lists) => lists,
        Err(why) => return setting.refuse(&format!("{shown} {why}")),
    };
    for (index, list) in lists.iter().enumerate() {
        match check(list, roots, setting.place.document.now) {
            Ok(warnings) => warnings.into_iter().for_each(|warning| setting.place.warn(warning)),
            Err(why) => return setting.refuse(&format!("list {} of {shown} {why}", index + 1)),
        }
    }
    Some(lists)
}

/// The lists in a file, in PEM or DER.
///
/// # Errors
///
/// What is wrong with the file.
pub fn lists_in(file: Vec<u8>) -> Result<Vec<List>, &'static str> {
    if file.first() == Some(&0x30) {
        // DER begins with a SEQUENCE.
        return Ok(vec![List::from(file)]);
    }
    match List::pem_slice_iter(&file).collect::<Result<Vec<_>, _>>() {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err("holds no list (-----BEGIN X509 CRL-----)"),
        Err(_) => Err("is neither PEM nor DER"),
    }
}

/// Judges a list of an authority with these roots; gives what the operator should know of it.
///
/// # Errors
///
/// Why it is none that can be in force.
pub fn check(list: &List, roots: &[CertificateDer<'static>], now: Timestamp) -> Result<Vec<String>, String> {
    let Ok(([], parsed)) = CertificateRevocationList::from_der(list) else {
        return Err("cannot be read".to_owned());
    };
    usable(list, roots).map_err(|why| format!("cannot be used: {why}"))?;
    let issuer = parsed.issuer();
    let roots: Vec<_> =
        roots.iter().filter_map(|root| X509Certificate::from_der(root).ok()).map(|(_, root)| root).collect();
    let mut namesakes = roots.iter().filter(|root| root.subject().as_raw() == issuer.as_raw()).peekable();
    if namesakes.peek().is_some() && !namesakes.any(|root| parsed.verify_signature(root.public_key()).is_ok()) {
        return Err(format!("says that it is by {issuer}, and is not signed by that root"));
    }
    let mut warnings = Vec::new();
    let at = |time: x509_parser::time::ASN1Time| Timestamp::from_seconds(time.timestamp());
    if at(parsed.last_update()) > now {
        warnings.push(format!("the list of {issuer} begins only on {}: is a clock wrong?", parsed.last_update()));
    }
    match parsed.next_update() {
        Some(next) if at(next) <= now => warnings.push(format!(
            "the list of {issuer} was to be replaced by {next}: it is in force, and what was revoked since is not known"
        )),
        Some(_) | None => {}
    }
    Ok(warnings)
}

/// Whether the verifier takes it: lists of changes, and lists that cover a part only, it does not.
fn usable(list: &List, roots: &[CertificateDer<'static>]) -> Result<(), String> {
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(roots.iter().cloned());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let built =
        WebPkiClientVerifier::builder_with_provider(Arc::new(store), provider).with_crls([list.clone()]).build();
    built.map(drop).map_err(|error| error.to_string())
}

#[cfg(test)]
#[path = "crls_tests.rs"]
mod tests;

//! SPIFFE bundles: the roots of a trust domain as a JWKS document, as SPIRE publishes it
//! (SPIFFE Trust Domain and Bundle, section 4; X.509-SVID, section 6).
//!
//! Invariant: a root is the certificate of an authority, whole, and of the very key that its entry
//! describes. Entries for other uses are passed over, as the specification asks; one that claims
//! to be a root and is none spoils the document.

use rustls_pki_types::CertificateDer;
use serde_json::{Map, Value};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};
use x509_parser::public_key::PublicKey;

use crate::dialect::json;
use crate::domain::base64url;

/// Largest document that is read, in bytes.
pub const MAX_DOCUMENT: usize = 1 << 20;

/// Most entries that a document may have.
pub const MAX_KEYS: usize = 256;

/// The roots of a trust domain, and what there is to say about the document.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Bundle {
    /// The roots, each once; never empty.
    pub roots: Vec<CertificateDer<'static>>,
    /// The trust domains that the roots themselves name, as they spell them. A root need not name
    /// one.
    pub named: Vec<String>,
    /// Entries that count for nothing although they were meant as roots, from 1.
    pub without_certificate: Vec<usize>,
}

/// True when a file is meant as a document of this kind: PEM never begins so.
#[must_use]
pub fn looks_like(file: &[u8]) -> bool {
    file.trim_ascii_start().first() == Some(&b'{')
}

impl Bundle {
    /// Reads a document.
    ///
    /// # Errors
    ///
    /// When it is no such document, a root in it is not sound, or there is none.
    pub fn parse(document: &[u8]) -> Result<Self, String> {
        if document.len() > MAX_DOCUMENT {
            return Err(format!("it has more than {MAX_DOCUMENT} bytes"));
        }
        json::scan(document, &[], &mut |_, _| ()).map_err(|_| "it is not strict JSON".to_owned())?;
        let document: Map<String, Value> = serde_json::from_slice(document).map_err(|_| "it is not JSON".to_owned())?;
        // Neither number decides anything here: the file is read again whenever it changes.
        for name in ["spiffe_sequence", "spiffe_refresh_hint"] {
            if document.get(name).is_some_and(|value| !value.is_u64()) {
                return Err(format!("{name} is not a whole number"));
            }
        }
        let keys = document.get("keys").and_then(Value::as_array);
        let keys = keys.ok_or("it is not a SPIFFE bundle: it has no list \"keys\"")?;
        if keys.len() > MAX_KEYS {
            return Err(format!("it has more than {MAX_KEYS} keys"));
        }
        let mut bundle = Self::default();
        for (index, key) in keys.iter().enumerate() {
            bundle.take(index + 1, key).map_err(|why| format!("key {} {why}", index + 1))?;
        }
        if bundle.roots.is_empty() {
            return Err("it holds no root: no key with \"use\": \"x509-svid\" and a certificate in \"x5c\"".to_owned());
        }
        Ok(bundle)
    }

    fn take(&mut self, number: usize, key: &Value) -> Result<(), String> {
        let key = key.as_object().ok_or("is not an object")?;
        let text = |name: &str| match key.get(name) {
            None => Err(format!("has no \"{name}\"")),
            Some(value) => value.as_str().ok_or_else(|| format!("has a \"{name}\" that is not a string")),
        };
        // JWT-SVIDs are no certificates, and what other uses will mean nobody knows yet.
        if text("use")? != "x509-svid" || !matches!(text("kty")?, "EC" | "RSA" | "OKP") {
            return Ok(());
        }
        // A private key that was published is nobody's any more.
        if key.contains_key("d") {
            return Err("holds a private key".to_owned());
        }
        let certificates = match key.get("x5c") {
            None => &[],
            Some(list) => list.as_array().ok_or("has an \"x5c\" that is not a list")?.as_slice(),
        };
        // Of several the first is the root, and the others are ignored (X.509-SVID, 6.2).
        let Some(first) = certificates.first() else {
            self.without_certificate.push(number);
            return Ok(());
        };
        let der = first.as_str().and_then(base64).ok_or("has a certificate that is not base64")?;
        let named = check(&der, key).map_err(|why| format!("has a certificate that {why}"))?;
        let root = CertificateDer::from(der);
        if !self.roots.contains(&root) {
            self.roots.push(root);
            self.named.extend(named);
        }
        Ok(())
    }
}

/// Whether it is a certificate of an authority, for the key that the entry describes; the trust
/// domain that it names.
fn check(der: &[u8], key: &Map<String, Value>) -> Result<Option<String>, String> {
    let Ok(([], certificate)) = X509Certificate::from_der(der) else {
        return Err("cannot be read".to_owned());
    };
    let constraints = certificate.basic_constraints().map_err(|_| "has its basic constraints twice")?;
    let usage = certificate.key_usage().map_err(|_| "has its key usage twice")?;
    if !constraints.is_some_and(|constraints| constraints.value.ca) {
        return Err("is not one of an authority (no CA:TRUE)".to_owned());
    }
    if usage.is_some_and(|usage| !usage.value.key_cert_sign()) {
        return Err("is not one of an authority (no keyCertSign)".to_owned());
    }
    // RFC 7517, section 4.7: the two must be the same key.
    if !describes(key, &certificate) {
        return Err("is not for the key beside it".to_owned());
    }
    let names = certificate.subject_alternative_name().map_err(|_| "has its alternative names twice")?;
    let names = names.map_or(&[][..], |names| names.value.general_names.as_slice());
    let named = names.iter().find_map(|name| {
        let GeneralName::URI(uri) = name else { return None };
        uri.strip_prefix("spiffe://").map(str::to_owned)
    });
    Ok(named)
}

/// True when the values of a JWK (RFC 7518, section 6; RFC 8037) are the certificate's public key.
fn describes(key: &Map<String, Value>, certificate: &X509Certificate<'_>) -> bool {
    let value = |name: &str| key.get(name).and_then(Value::as_str).and_then(|text| base64url::decode(text.as_bytes()));
    let plain = |bytes: &[u8]| bytes.iter().copied().skip_while(|byte| *byte == 0).collect::<Vec<u8>>();
    let same = |name: &str, bytes: &[u8]| value(name).is_some_and(|value| plain(&value) == plain(bytes));
    let info = certificate.public_key();
    match (key.get("kty").and_then(Value::as_str), info.parsed()) {
        (Some("EC"), Ok(PublicKey::EC(point))) => match (value("x"), value("y")) {
            (Some(x), Some(y)) => point.data() == [&[4][..], &x, &y].concat(),
            (_, _) => false,
        },
        (Some("RSA"), Ok(PublicKey::RSA(rsa))) => same("n", rsa.modulus) && same("e", rsa.exponent),
        (Some("OKP"), Ok(PublicKey::Unknown(bytes))) => value("x").is_some_and(|x| x == bytes),
        (_, _) => false,
    }
}

/// Base64 with padding (RFC 4648, section 4), as `x5c` has it; one value has one spelling.
fn base64(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(4) || text.contains(['-', '_']) {
        return None;
    }
    let bare = text.strip_suffix("==").or_else(|| text.strip_suffix('=')).unwrap_or(text);
    let other: Vec<u8> = bare
        .bytes()
        .map(|letter| match letter {
            b'+' => b'-',
            b'/' => b'_',
            letter => letter,
        })
        .collect();
    base64url::decode(&other)
}

#[cfg(test)]
#[path = "bundle_tests.rs"]
mod tests;

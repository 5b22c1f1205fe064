//! SPIFFE bundles: what counts as a root is one, whole and once, and of the key beside it.

use doorward::config::bundle::{Bundle, MAX_DOCUMENT, MAX_KEYS, looks_like};
use doorward::domain::base64url;
use serde_json::{Value, json};
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::public_key::PublicKey;

/// The first byte says how to read the rest: as a document, or as the certificate of an entry, since
/// nobody finds base64, or the key of a certificate, by chance.
pub(super) fn check(input: &[u8]) {
    let Some((how, rest)) = input.split_first() else { return };
    if how % 2 == 0 {
        judge(rest);
        return;
    }
    let entry = |key: Value| {
        let mut entry = json!({"use": "x509-svid", "x5c": [padded(rest)]});
        entry.as_object_mut().expect("an object").extend(key.as_object().expect("an object").clone());
        json!({"keys": [entry]}).to_string()
    };
    let Some(key) = key_of(rest) else {
        judge(entry(json!({"kty": "EC", "x": "", "y": ""})).as_bytes());
        return;
    };
    if let Some(bundle) = judge(entry(key).as_bytes()) {
        assert_eq!(bundle.roots.iter().map(|root| root.to_vec()).collect::<Vec<_>>(), [rest]);
    }
    // The same certificate is no root of another key.
    let other = json!({"kty": "EC", "x": base64url::encode(&[1; 32]), "y": base64url::encode(&[2; 32])});
    assert!(judge(entry(other).as_bytes()).is_none_or(|_| rest.windows(32).any(|part| part == [1; 32])));
}

fn judge(document: &[u8]) -> Option<Bundle> {
    let bundle = Bundle::parse(document).ok()?;
    assert!(document.len() <= MAX_DOCUMENT && looks_like(document));
    assert!(!bundle.roots.is_empty() && bundle.roots.len() + bundle.without_certificate.len() <= MAX_KEYS);
    assert!(bundle.named.len() <= bundle.roots.len());
    for (index, root) in bundle.roots.iter().enumerate() {
        // None is there twice. Whether TLS can use it is judged when it is put among the roots.
        assert!(!bundle.roots.iter().take(index).any(|earlier| earlier == root));
    }
    Some(bundle)
}

/// The members of a JWK for the key in a certificate.
fn key_of(der: &[u8]) -> Option<Value> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let text = |bytes: &[u8]| base64url::encode(bytes);
    match certificate.public_key().parsed().ok()? {
        PublicKey::EC(point) => {
            let (x, y) = point.data().get(1..)?.split_at(point.data().len() / 2);
            Some(json!({"kty": "EC", "x": text(x), "y": text(y)}))
        }
        PublicKey::RSA(rsa) => Some(json!({"kty": "RSA", "n": text(rsa.modulus), "e": text(rsa.exponent)})),
        PublicKey::Unknown(bytes) => Some(json!({"kty": "OKP", "x": text(bytes)})),
        _ => None,
    }
}

fn padded(bytes: &[u8]) -> String {
    let mut text = base64url::encode(bytes).replace('-', "+").replace('_', "/");
    while !text.len().is_multiple_of(4) {
        text.push('=');
    }
    text
}

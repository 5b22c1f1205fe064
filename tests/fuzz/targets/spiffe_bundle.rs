//! SPIFFE bundles: read or refused, never a panic; what counts as a root is one, whole and once.

#![no_main]

use doorward::config::bundle::{Bundle, MAX_DOCUMENT, MAX_KEYS, looks_like};
use libfuzzer_sys::fuzz_target;
use serde_json::json;

fuzz_target!(|input: (&[u8], &[u8])| {
    let (bytes, der) = input;
    judge(bytes);
    // As a certificate in an entry: a fuzzer does not find base64 by itself.
    for kty in ["EC", "RSA", "OKP"] {
        let entry = json!({"use": "x509-svid", "kty": kty, "x": "", "y": "", "n": "", "e": "AQAB", "x5c": [encode(der)]});
        judge(json!({"keys": [entry]}).to_string().as_bytes());
    }
});

fn judge(document: &[u8]) {
    let Ok(bundle) = Bundle::parse(document) else { return };
    assert!(document.len() <= MAX_DOCUMENT && looks_like(document));
    assert!(!bundle.roots.is_empty() && bundle.roots.len() + bundle.without_certificate.len() <= MAX_KEYS);
    assert!(bundle.named.len() <= bundle.roots.len());
    for (index, root) in bundle.roots.iter().enumerate() {
        // DER of a SEQUENCE, and none twice.
        assert_eq!(root.first(), Some(&0x30));
        assert!(!bundle.roots.iter().take(index).any(|earlier| earlier == root));
    }
}

fn encode(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let bits: Vec<u8> = bytes.iter().flat_map(|byte| (0..8).rev().map(move |at| byte >> at & 1)).collect();
    let sextet = |six: &[u8]| (0..6).fold(0, |number, at| number * 2 + six.get(at).copied().unwrap_or(0));
    let mut text: String = bits.chunks(6).map(|six| char::from(ALPHABET[usize::from(sextet(six))])).collect();
    while !text.len().is_multiple_of(4) {
        text.push('=');
    }
    text
}

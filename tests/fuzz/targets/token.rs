//! Tokens and key documents: read or refused, never a panic; what is read has one spelling.

#![no_main]

use doorward::domain::owner_template::{Claim, OwnerTemplate};
use doorward::domain::token::Algorithm;
use doorward::token::compact::{MAX_BYTES, Presented};
use doorward::token::keys::{KeySet, MAX_KEYS};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (&[u8], &str)| {
    let (bytes, template) = input;
    if let Ok(keys) = KeySet::parse(bytes) {
        assert!(keys.len() <= MAX_KEYS);
        // A document is no signature.
        for algorithm in Algorithm::ALL {
            assert!(!keys.fitting(None, algorithm).any(|key| key.verifies(algorithm, bytes, bytes)));
        }
    }
    let template = OwnerTemplate::parse(template);
    // As it is, and as the parts of a token: a fuzzer does not find base64 by itself.
    let encoded = bytes.split(|&byte| byte == b'.').map(encode).collect::<Vec<_>>().join(".");
    for token in [bytes, encoded.as_bytes()] {
        let Ok(read) = Presented::parse(token) else { continue };
        assert!(token.len() <= MAX_BYTES);
        let signature = encode(&read.signature);
        assert_eq!([read.signed, b".", signature.as_bytes()].concat(), token);
        if let Ok(template) = &template
            && let Ok(owner) = template.fill(|name| read.claims.claim(name))
        {
            for name in template.claims() {
                assert!(matches!(read.claims.claim(name), Claim::Text(_)));
            }
            assert!(owner.as_str().split('/').count() <= 8);
        }
    }
});

fn encode(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let bits: Vec<u8> = bytes.iter().flat_map(|byte| (0..8).rev().map(move |at| byte >> at & 1)).collect();
    let sextet = |six: &[u8]| (0..6).fold(0, |number, at| number * 2 + six.get(at).copied().unwrap_or(0));
    bits.chunks(6).map(|six| char::from(ALPHABET[usize::from(sextet(six))])).collect()
}

//! Tokens and key documents: read or refused, never a panic; what is read has one spelling.

use doorward::domain::base64url;
use doorward::domain::owner_template::{Claim, OwnerTemplate};
use doorward::domain::token::Algorithm;
use doorward::token::compact::{MAX_BYTES, Presented};
use doorward::token::keys::{KeySet, MAX_KEYS};

/// A template of owners, a line feed, and a document of keys or the parts of a token.
pub(super) fn check(input: &[u8]) {
    let mut parts = input.splitn(2, |byte| *byte == b'\n');
    let (Some(template), Some(bytes)) = (parts.next(), parts.next()) else { return };
    if let Ok(keys) = KeySet::parse(bytes) {
        assert!(keys.len() <= MAX_KEYS);
        // A document is no signature.
        for algorithm in Algorithm::ALL {
            assert!(!keys.fitting(None, algorithm).any(|key| key.verifies(algorithm, bytes, bytes)));
        }
    }
    let template = std::str::from_utf8(template).ok().and_then(|text| OwnerTemplate::parse(text).ok());
    // As it is, and as the parts of a token: a fuzzer does not find base64 by itself.
    let encoded = bytes.split(|&byte| byte == b'\n').map(base64url::encode).collect::<Vec<_>>().join(".");
    for token in [bytes, encoded.as_bytes()] {
        let Ok(read) = Presented::parse(token) else { continue };
        assert!(token.len() <= MAX_BYTES);
        let signature = base64url::encode(&read.signature);
        assert_eq!([read.signed, b".", signature.as_bytes()].concat(), token);
        if let Some(template) = &template
            && let Ok(owner) = template.fill(|name| read.claims.claim(name))
        {
            for name in template.claims() {
                assert!(matches!(read.claims.claim(name), Claim::Text(_)));
            }
            assert!(owner.as_str().split('/').count() <= 8);
        }
    }
}

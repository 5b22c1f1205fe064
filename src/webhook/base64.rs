//! Base64 with padding (RFC 4648, section 4), as Standard Webhooks writes secrets and signatures.
//!
//! Invariant: one value has one spelling. A secret with stray bits at its end is a slip of whoever
//! copied it, and would verify nowhere.

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Appends the spelling of `bytes` to `text`.
pub fn encode_into(bytes: &[u8], text: &mut String) {
    for chunk in bytes.chunks(3) {
        let byte = |at: usize| u32::from(chunk.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for place in 0..4 {
            let letter = ALPHABET.get((bits >> (18 - 6 * place) & 63) as usize).copied().unwrap_or(b'=');
            text.push(if place > chunk.len() { '=' } else { char::from(letter) });
        }
    }
}

/// The bytes that `text` spells; `None` when it is not the one spelling of anything.
#[must_use]
pub fn decode(text: &str) -> Option<Vec<u8>> {
    let text = text.as_bytes();
    if !text.len().is_multiple_of(4) {
        return None;
    }
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let groups = text.len() / 4;
    for (index, group) in text.chunks(4).enumerate() {
        let letters = if index + 1 == groups { unpadded(group) } else { group };
        let mut bits = 0u32;
        for &letter in letters {
            let value = ALPHABET.iter().position(|known| *known == letter)?;
            bits = bits << 6 | u32::try_from(value).ok()?;
        }
        let [_, a, b, c] = (bits << (6 * (4 - letters.len()))).to_be_bytes();
        match letters.len() {
            4 => bytes.extend_from_slice(&[a, b, c]),
            3 if c == 0 => bytes.extend_from_slice(&[a, b]),
            2 if b == 0 && c == 0 => bytes.push(a),
            _ => return None,
        }
    }
    Some(bytes)
}

/// A group without its padding.
fn unpadded(group: &[u8]) -> &[u8] {
    let kept = group.iter().rposition(|letter| *letter != b'=').map_or(0, |last| last + 1);
    group.get(..kept).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encode(bytes: &[u8]) -> String {
        let mut text = String::new();
        encode_into(bytes, &mut text);
        text
    }

    /// RFC 4648, section 10.
    #[test]
    fn the_examples_of_the_rfc() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(encode(bytes.as_bytes()), text);
            assert_eq!(decode(text).as_deref(), Some(bytes.as_bytes()), "{text}");
        }
        for text in ["Zg", "Zg=", "Z===", "====", "Zh==", "Zm9=", "Zm9v\n", "Zg==Zg==", "Zm-v", "Zm_v", "Zm9vZ", "Zmé="]
        {
            assert_eq!(decode(text), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn every_value_has_one_spelling(bytes: Vec<u8>, text in "[A-Za-z0-9+/=]{0,12}") {
            prop_assert_eq!(decode(&encode(&bytes)), Some(bytes));
            if let Some(bytes) = decode(&text) {
                prop_assert_eq!(encode(&bytes), text);
            }
        }
    }
}

//! Base64url (RFC 4648, section 5) as tokens and enrollment bundles have it.
//!
//! Invariant: one value has one spelling. No padding, no white space, no other alphabet, and no
//! stray bits at the end; else one signed text could come in several looks.

/// The bytes that `text` spells; `None` when it is not the one spelling of anything.
#[must_use]
pub fn decode(text: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3 + 2);
    for chunk in text.chunks(4) {
        let mut value = 0u32;
        for &letter in chunk {
            value = value << 6 | u32::from(sextet(letter)?);
        }
        let [_, a, b, c] = (value << (6 * (4 - chunk.len()))).to_be_bytes();
        match chunk.len() {
            4 => bytes.extend_from_slice(&[a, b, c]),
            3 if c == 0 => bytes.extend_from_slice(&[a, b]),
            2 if b == 0 && c == 0 => bytes.push(a),
            _ => return None,
        }
    }
    Some(bytes)
}

/// The one spelling of `bytes`.
#[must_use]
pub fn encode(bytes: &[u8]) -> String {
    // In one piece: a secret must not leave copies behind as its text grows.
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |at| u32::from(chunk.get(at).copied().unwrap_or(0));
        let value = byte(0) << 16 | byte(1) << 8 | byte(2);
        text.extend([18u8, 12, 6, 0].into_iter().take(chunk.len() + 1).map(|shift| letter((value >> shift) & 63)));
    }
    text
}

fn letter(sextet: u32) -> char {
    let letter = u8::try_from(sextet).unwrap_or(63);
    char::from(match letter {
        0..26 => b'A' + letter,
        26..52 => b'a' + letter - 26,
        52..62 => b'0' + letter - 52,
        62 => b'-',
        _ => b'_',
    })
}

const fn sextet(letter: u8) -> Option<u8> {
    match letter {
        b'A'..=b'Z' => Some(letter - b'A'),
        b'a'..=b'z' => Some(letter - b'a' + 26),
        b'0'..=b'9' => Some(letter - b'0' + 52),
        b'-' => Some(62),
        b'_' => Some(63),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Bit by bit, as the definition has it.
    fn spelled(bytes: &[u8]) -> String {
        const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let bits: Vec<u8> = bytes.iter().flat_map(|byte| (0..8).rev().map(move |at| byte >> at & 1)).collect();
        let sextet = |six: &[u8]| (0..6).fold(0, |number, at| number * 2 + six.get(at).copied().unwrap_or(0));
        bits.chunks(6).map(|six| char::from(ALPHABET[usize::from(sextet(six))])).collect()
    }

    #[test]
    fn reads_one_spelling_only() {
        // RFC 4648, section 10, and RFC 7515, appendix C.
        for (text, bytes) in [
            ("", &b""[..]),
            ("Zg", b"f"),
            ("Zm8", b"fo"),
            ("Zm9v", b"foo"),
            ("Zm9vYg", b"foob"),
            ("A-z_4ME", &[3, 236, 255, 224, 193]),
        ] {
            assert_eq!(decode(text.as_bytes()).as_deref(), Some(bytes), "{text}");
            assert_eq!(encode(bytes), text);
        }
        for text in
            ["Z", "Zg==", "Zm8=", "Zh", "Zm9", "Zm9vY", "Zm+v", "Zm/v", "Zm 9v", "Zm9v\n", " Zm9v", "Zg.", "Zmé"]
        {
            assert_eq!(decode(text.as_bytes()), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn every_value_has_one_spelling(bytes: Vec<u8>, text: Vec<u8>) {
            prop_assert_eq!(encode(&bytes), spelled(&bytes));
            prop_assert_eq!(decode(encode(&bytes).as_bytes()), Some(bytes));
            if let Some(bytes) = decode(&text) {
                prop_assert_eq!(encode(&bytes).into_bytes(), text);
            }
        }
    }
}

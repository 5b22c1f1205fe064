//! Jumps over bytes that decide nothing, many at a time.
//!
//! Invariant: the answer is that of a byte-by-byte search; only the pace differs. Short runs are
//! crossed eight bytes at a time in a register, long ones in blocks that the compiler turns into
//! vector code.

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGHS: u64 = 0x8080_8080_8080_8080;

/// Where the plain run of a JSON string that goes on at `from` ends: the next quote, backslash or
/// control character. The length of `bytes` when there is none.
pub(crate) fn string_stop(bytes: &[u8], from: usize) -> usize {
    let stops = |byte: u8| byte < 0x20 || byte == b'"' || byte == b'\\';
    let below_space = |word: u64| word.wrapping_sub(ONES * 0x20) & !word;
    let word_stops = |word: u64| below_space(word) | equal(word, b'"') | equal(word, b'\\');
    find(bytes, from, word_stops, stops)
}

/// The next quote or bracket at or after `from`, or the length of `bytes`.
pub(crate) fn structure_stop(bytes: &[u8], from: usize) -> usize {
    // `[` and `{`, and `]` and `}`, differ in this bit only, and no other byte joins them.
    const CASE: u8 = 0x20;
    let stops = |byte: u8| byte == b'"' || byte | CASE == b'{' || byte | CASE == b'}';
    let word_stops = |word: u64| {
        let folded = word | (ONES * u64::from(CASE));
        equal(word, b'"') | equal(folded, b'{') | equal(folded, b'}')
    };
    find(bytes, from, word_stops, stops)
}

/// High bits of the bytes of `word` that equal `byte`. Bytes above an equal one may be marked
/// wrongly (the subtraction borrows), the lowest mark is always right.
const fn equal(word: u64, byte: u8) -> u64 {
    let zero = word ^ (ONES * byte as u64);
    zero.wrapping_sub(ONES) & !zero
}

#[inline(always)]
fn find(bytes: &[u8], from: usize, word_stops: impl Fn(u64) -> u64, stops: impl Fn(u8) -> bool) -> usize {
    /// Most strings and values are over within this many words; blocks would cost more.
    const WORDS_BEFORE_BLOCKS: usize = 4;
    let mut rest = bytes.get(from..).unwrap_or_default();
    let mut words = 0;
    loop {
        if words == WORDS_BEFORE_BLOCKS {
            while let Some((block, tail)) = rest.split_first_chunk::<64>() {
                if block.iter().fold(0, |any, &byte| any | u8::from(stops(byte))) != 0 {
                    break;
                }
                rest = tail;
            }
        }
        let Some((word, tail)) = rest.split_first_chunk::<8>() else { break };
        let marks = word_stops(u64::from_le_bytes(*word)) & HIGHS;
        if marks != 0 {
            return bytes.len() - rest.len() + marks.trailing_zeros() as usize / 8;
        }
        rest = tail;
        words += 1;
    }
    bytes.len() - rest.len() + rest.iter().position(|&byte| stops(byte)).unwrap_or(rest.len())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Every needle at every place, beside bytes that look like one but for a bit.
        #[test]
        fn agrees_with_a_plain_search(
            bytes in prop::collection::vec(prop_oneof![20 => Just(b'a'), 1 => any::<u8>(), 1 => Just(b'!'), 1 => Just(0xa2)], 0..300),
            from in 0usize..310,
        ) {
            let plain = |stops: fn(u8) -> bool| {
                (from..bytes.len()).find(|&at| stops(bytes[at])).unwrap_or(bytes.len().max(from.min(bytes.len())))
            };
            prop_assert_eq!(string_stop(&bytes, from), plain(|b| b < 0x20 || b == b'"' || b == b'\\'));
            prop_assert_eq!(structure_stop(&bytes, from), plain(|b| b"\"[]{}".contains(&b)));
        }
    }

    #[test]
    fn every_byte_value_is_judged_alike_by_words_and_bytes() {
        for byte in 0..=255u8 {
            for at in [0, 3, 7, 40, 90, 200] {
                let mut bytes = vec![b'a'; 201];
                bytes[at] = byte;
                let stop = if byte < 0x20 || byte == b'"' || byte == b'\\' { at } else { 201 };
                assert_eq!(string_stop(&bytes, 0), stop, "{byte:#x} at {at}");
                let stop = if b"\"[]{}".contains(&byte) { at } else { 201 };
                assert_eq!(structure_stop(&bytes, 0), stop, "{byte:#x} at {at}");
            }
        }
    }
}

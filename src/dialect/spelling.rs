//! What a spelling stands for: escaped strings, keys in other capitals, numbers with exponents.
//!
//! Invariant: two spellings that any JSON reader takes for the same value come out equal here. The
//! input is text that the strict scanner has passed.

use std::borrow::Cow;

/// The text that the inside of a JSON string stands for. `None` when it has a lone surrogate.
pub(crate) fn unescape(inside: &str) -> Option<Cow<'_, str>> {
    let Some(first) = inside.find('\\') else { return Some(Cow::Borrowed(inside)) };
    let (plain, mut rest) = inside.split_at_checked(first)?;
    let mut text = String::with_capacity(inside.len());
    text.push_str(plain);
    while let Some((before, after)) = rest.split_once('\\') {
        text.push_str(before);
        let mut letters = after.chars();
        match letters.next()? {
            'b' => text.push('\u{8}'),
            'f' => text.push('\u{c}'),
            'n' => text.push('\n'),
            'r' => text.push('\r'),
            't' => text.push('\t'),
            'u' => {
                let (unit, tail) = hex_unit(letters.as_str())?;
                letters = tail.chars();
                match char::decode_utf16([unit]).next()? {
                    Ok(letter) => text.push(letter),
                    Err(_) => {
                        let (low, tail) = hex_unit(tail.strip_prefix("\\u")?)?;
                        letters = tail.chars();
                        text.push(char::decode_utf16([unit, low]).next()?.ok()?);
                    }
                }
            }
            itself => text.push(itself),
        }
        rest = letters.as_str();
    }
    text.push_str(rest);
    Some(Cow::Owned(text))
}

fn hex_unit(text: &str) -> Option<(u16, &str)> {
    let (digits, tail) = text.split_at_checked(4)?;
    Some((u16::from_str_radix(digits, 16).ok()?, tail))
}

/// True when a case-folding reader would take `key` for `name`, which is lower-case ASCII. Beside
/// the ASCII capitals, two characters of Unicode fold into ASCII: the long s and the Kelvin sign.
pub(crate) fn folds_to(key: &str, name: &str) -> bool {
    let fold = |letter: char| match letter {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        other => other.to_ascii_lowercase(),
    };
    key.len() >= name.len() && key.chars().map(fold).eq(name.chars())
}

/// The integer that a JSON number stands for, if it is one and fits, however it is spelled.
pub(crate) fn whole_number(text: &str) -> Option<i64> {
    let (negative, text) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{fraction}");
    let significant = digits.trim_end_matches('0');
    if significant.is_empty() {
        return Some(0);
    }
    let dropped = i64::try_from(digits.len() - significant.len()).ok()?;
    let shift = exponent.parse::<i64>().ok()?.checked_add(dropped)?.checked_sub(i64::try_from(fraction.len()).ok()?)?;
    let number = significant.parse::<i64>().ok()?.checked_mul(10i64.checked_pow(u32::try_from(shift).ok()?)?)?;
    Some(if negative { -number } else { number })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_what_they_stand_for() {
        for (text, number) in [
            ("0", 0),
            ("-0", 0),
            ("0.000", 0),
            ("0e999", 0),
            ("0.0E-7", 0),
            ("5", 5),
            ("5.0", 5),
            ("5e0", 5),
            ("50E-1", 5),
            ("0.5e+1", 5),
            ("1e3", 1000),
            ("-1", -1),
            ("-2.0", -2),
            ("9223372036854775807", i64::MAX),
            ("9223372036854775807000e-3", i64::MAX),
        ] {
            assert_eq!(whole_number(text), Some(number), "{text}");
        }
        for text in ["0.5", "5e-1", "1e19", "9223372036854775808", "1e99999999999999999999", "1.05e1"] {
            assert_eq!(whole_number(text), None, "{text}");
        }
    }

    #[test]
    fn escapes_are_what_they_stand_for() {
        for (inside, text) in [
            ("plain", Some("plain")),
            (r"mod\u0065l", Some("model")),
            (r#"\"\\\/\b\f\n\r\t"#, Some("\"\\/\u{8}\u{c}\n\r\t")),
            (r"a\ud83d\uDE00b", Some("a😀b")),
            (r"\ud83d", None),
            (r"\ude00", None),
            (r"\ud83d\ud83d", None),
            (r"\ud83dx", None),
            (r"\\u0041", Some("\\u0041")),
        ] {
            assert_eq!(unescape(inside).as_deref(), text, "{inside}");
        }
    }

    #[test]
    fn capitals_and_their_unicode_kin_fold() {
        for key in ["MODEL", "Model", "modeL", "model"] {
            assert!(folds_to(key, "model"), "{key}");
        }
        assert!(folds_to("\u{17f}tream", "stream"));
        assert!(folds_to("max_to\u{212a}ens", "max_tokens"));
        for key in ["", "mode", "models", "modél", "m\u{17f}del", " model"] {
            assert!(!folds_to(key, "model"), "{key}");
        }
    }
}

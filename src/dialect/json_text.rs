//! JSON that is written by hand, straight into memory: what is written for every request.
//!
//! A general serialiser costs a request more than all of its checks together (measured: a tenth of
//! a chat's instructions).
//!
//! Invariant: whatever a caller wrote comes out as one string, spelled as `serde_json` spells it.

use std::io::Write;

use crate::dialect::seek::string_stop;
use crate::domain::timestamp::Timestamp;

/// Appends a member behind others: `,"name":"value"`, or `null` for nothing. `name` is the program's own.
pub fn text(out: &mut Vec<u8>, name: &str, value: Option<&str>) {
    member(out, name);
    match value {
        None => out.extend_from_slice(b"null"),
        Some(value) => string(out, value.as_bytes()),
    }
}

/// As [`text`], for words that need no look at each byte: names of closed sets, addresses.
pub fn word(out: &mut Vec<u8>, name: &str, value: &str) {
    member(out, name);
    quoted(out, value);
}

/// Appends such a word with its quotes.
pub fn quoted(out: &mut Vec<u8>, value: &str) {
    debug_assert_eq!(string_stop(value.as_bytes(), 0), value.len(), "{value:?} is no plain word");
    out.push(b'"');
    out.extend_from_slice(value.as_bytes());
    out.push(b'"');
}

/// Appends a member that is a time (RFC 3339), or `null` for none.
pub fn time(out: &mut Vec<u8>, name: &str, at: Option<Timestamp>) {
    member(out, name);
    match at {
        None => out.extend_from_slice(b"null"),
        Some(at) => {
            out.push(b'"');
            moment(out, at);
            out.push(b'"');
        }
    }
}

/// Appends a time without quotes.
pub fn moment(out: &mut Vec<u8>, at: Timestamp) {
    match at.ascii() {
        Some(text) => out.extend_from_slice(&text),
        // Writing to memory cannot fail.
        None => drop(write!(out, "{at}")),
    }
}

/// Appends a whole number.
pub fn number(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// Appends a string, with its quotes (RFC 8259, section 7). `value` is UTF-8.
pub fn string(out: &mut Vec<u8>, value: &[u8]) {
    out.push(b'"');
    escaped(out, value);
    out.push(b'"');
}

/// Appends the inside of a string.
pub fn escaped(out: &mut Vec<u8>, mut rest: &[u8]) {
    loop {
        let (plain, odd) = rest.split_at(string_stop(rest, 0));
        out.extend_from_slice(plain);
        let Some((&byte, behind)) = odd.split_first() else { return };
        rest = behind;
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0x08 => out.extend_from_slice(b"\\b"),
            0x0c => out.extend_from_slice(b"\\f"),
            // Writing to memory cannot fail.
            control => drop(write!(out, "\\u{control:04x}")),
        }
    }
}

fn member(out: &mut Vec<u8>, name: &str) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn strings_are_spelled_as_serde_json_spells_them(value in any::<String>(), controls in "[\\x00-\\x1f\"\\\\ab]*") {
            for value in [value, controls] {
                let mut out = Vec::new();
                string(&mut out, value.as_bytes());
                prop_assert_eq!(out, serde_json::to_vec(&value).unwrap());
            }
        }
    }
}

//! What must hold of whatever strangers send: one check for each target of the fuzzer.
//!
//! A check takes any bytes and panics when its invariant does not hold. The fuzzer looks for such bytes;
//! an ordinary test (`replay.rs`) gives every check its seeds, so that a check that does not compile,
//! or fails for what is known, is seen without a fuzzer.

mod address;
mod bundle;
mod control;
mod crl;
mod csr;
mod dial_admit;
mod json_body;
mod paths;
mod peer;
mod presented_key;
mod proxy_header;
mod relay;
mod reply;
mod spiffe_bundle;
mod spiffe_id;
mod token;
mod webhook_answer;

/// A check.
pub type Check = fn(&[u8]);

/// Every check, by the name of its target and of the folder of its seeds.
pub const ALL: [(&str, Check); 17] = [
    ("address", address::check),
    ("bundle", bundle::check),
    ("control", control::check),
    ("crl", crl::check),
    ("csr", csr::check),
    ("dial_admit", dial_admit::check),
    ("json_body", json_body::check),
    ("paths", paths::check),
    ("peer", peer::check),
    ("presented_key", presented_key::check),
    ("proxy_header", proxy_header::check),
    ("relay", relay::check),
    ("reply", reply::check),
    ("spiffe_bundle", spiffe_bundle::check),
    ("spiffe_id", spiffe_id::check),
    ("token", token::check),
    ("webhook_answer", webhook_answer::check),
];

/// The check of this name.
pub fn named(name: &str) -> Check {
    let found = ALL.into_iter().find(|(known, _)| *known == name);
    found.unwrap_or_else(|| panic!("no check is called {name}")).1
}

/// How Go's encoding/json reads a key: without regard to case, where two letters beyond ASCII count
/// as s and k.
fn folded(key: &str) -> String {
    key.to_ascii_lowercase().replace('ſ', "s").replace('\u{212a}', "k")
}

/// A value of DER.
fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let length = content.len();
    let mut value = match length {
        0..=0x7f => vec![tag, length as u8],
        _ => vec![tag, 0x82, (length >> 8) as u8, length as u8],
    };
    value.extend(content);
    value
}

/// The values that DER has in a row, as tag and content; `None` for what is not DER.
fn values(mut bytes: &[u8]) -> Option<Vec<(u8, &[u8])>> {
    let mut found = Vec::new();
    while let [tag, length, rest @ ..] = bytes {
        let (length, rest) = match length {
            0..=0x7f => (usize::from(*length), rest),
            0x81 => (usize::from(*rest.first()?), rest.get(1..)?),
            0x82 => (usize::from(u16::from_be_bytes([*rest.first()?, *rest.get(1)?])), rest.get(2..)?),
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(length)?;
        found.push((*tag, content));
        bytes = rest;
    }
    bytes.is_empty().then_some(found)
}

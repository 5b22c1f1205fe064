//! Which web pages may call: the origins of a grant.
//! Source: RFC 6454, section 6.2, and the serialisation of origins in the HTML standard.
//!
//! Invariant: an origin is compared byte by byte with what the browser sends, and only what a
//! browser would send is taken into a list. There is no pattern and no `"*"`: a browser lends
//! installed certificates to pages, so "every page" would be every page that a caller ever opens.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::domain::gateway_address::ends_in_number;

/// The origins of pages that may call. Never empty.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Origins(Box<[Box<str>]>);

impl Origins {
    /// Reads a list as it stands in config.
    ///
    /// # Errors
    ///
    /// Every entry that is wrong, as its index and what to write instead. An empty list is wrong
    /// as a whole: index 0.
    pub fn parse<S: AsRef<str>>(entries: &[S]) -> Result<Self, Vec<(usize, String)>> {
        if entries.is_empty() {
            return Err(vec![(0, "an empty list lets no page call; leave it out".to_owned())]);
        }
        let check = |(index, entry): (usize, &S)| check(entry.as_ref()).err().map(|why| (index, why));
        let wrong: Vec<_> = entries.iter().enumerate().filter_map(check).collect();
        if wrong.is_empty() {
            Ok(Self(entries.iter().map(|entry| entry.as_ref().into()).collect()))
        } else {
            Err(wrong)
        }
    }

    /// True when a page of `origin` (an `Origin` header, as it came) is among them.
    #[must_use]
    pub fn admit(&self, origin: &str) -> bool {
        self.0.iter().any(|listed| **listed == *origin)
    }

    /// The entries as they would be written in config.
    #[must_use]
    pub fn entries(&self) -> Vec<String> {
        self.0.iter().map(ToString::to_string).collect()
    }

    /// The entries that came to the browser in the clear, from another machine than its own: what
    /// runs there, anybody on the way may have written.
    pub fn in_the_clear(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|origin| &**origin).filter(|origin| {
            let host = origin.strip_prefix("http://").map(|rest| split_port(rest).0);
            host.is_some_and(|host| {
                let loopback = host.parse::<Ipv4Addr>().is_ok_and(|address| address.is_loopback());
                !loopback && !matches!(host, "localhost" | "[::1]") && !host.ends_with(".localhost")
            })
        })
    }
}

/// Checks that `text` is an origin in the very form that browsers send.
fn check(text: &str) -> Result<(), String> {
    if text == "*" {
        return Err("every page is not a choice: browsers lend installed certificates; name the origins".to_owned());
    }
    if text == "null" {
        return Err("\"null\" is what browsers say for local files and sandboxed pages of anybody".to_owned());
    }
    let example = "such as \"https://chat.corp.example\" or \"http://localhost:3000\"";
    let Some((scheme, rest)) = text.split_once("://") else {
        return Err(format!("{text:?} is not an origin {example}"));
    };
    let letter = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'+' | b'-' | b'.');
    if !scheme.starts_with(|first: char| first.is_ascii_lowercase()) || !scheme.bytes().all(letter) {
        return Err(format!("{scheme:?} is not a scheme in lower case: an origin is written {example}"));
    }
    if rest.contains(['/', '?', '#']) {
        let bare = rest.split(['/', '?', '#']).next().unwrap_or_default();
        return Err(format!("an origin has no path and no final slash: {:?}", format!("{scheme}://{bare}")));
    }
    if rest.contains('@') {
        return Err("an origin has no user name".to_owned());
    }
    let (host, port) = split_port(rest);
    check_host(host)?;
    let Some(port) = port else { return Ok(()) };
    let number: u16 = port.parse().map_err(|_| format!("{port:?} is not a port"))?;
    if number == 0 || number.to_string() != port {
        return Err(format!("{port:?} is not a port"));
    }
    let default = match scheme {
        "https" => 443,
        "http" => 80,
        _ => 0,
    };
    if number == default {
        return Err(format!("browsers leave the port of {scheme} out: {:?}", format!("{scheme}://{host}")));
    }
    Ok(())
}

/// The host, and what follows its colon.
fn split_port(rest: &str) -> (&str, Option<&str>) {
    let after_address = rest.find(']').map_or(0, |at| at + 1);
    match rest.get(after_address..).and_then(|tail| tail.find(':')) {
        Some(colon) => (rest.get(..after_address + colon).unwrap_or(rest), rest.get(after_address + colon + 1..)),
        None => (rest, None),
    }
}

fn check_host(host: &str) -> Result<(), String> {
    if let Some(address) = host.strip_prefix('[') {
        let spelled = address.strip_suffix(']').and_then(|address| address.parse::<Ipv6Addr>().ok());
        return match spelled {
            Some(spelled) if format!("[{spelled}]") == host => Ok(()),
            Some(spelled) => Err(format!("browsers write this address as [{spelled}]")),
            None => Err(format!("{host:?} is not an IPv6 address in brackets")),
        };
    }
    if host.contains('*') {
        return Err(format!("{host:?} is a pattern: origins are named exactly, one by one"));
    }
    if !host.is_ascii() {
        return Err(format!("{host:?} is not ASCII: browsers send the name in its xn-- form"));
    }
    if host.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err(format!("browsers send host names in lower case: {:?}", host.to_ascii_lowercase()));
    }
    let label =
        |label: &str| !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
    let good = if ends_in_number(host) { host.parse::<Ipv4Addr>().is_ok() } else { host.split('.').all(label) };
    if good { Ok(()) } else { Err(format!("{host:?} is not a host name or an address")) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn takes_what_browsers_send() {
        for good in [
            "https://chat.corp.example",
            "https://chat.corp.example:8443",
            "http://localhost:3000",
            "http://127.0.0.1:8080",
            "http://[::1]:3000",
            "https://10.1.2.3",
            "https://xn--bcher-kva.example",
            "chrome-extension://abcdefghijklmnop",
            "tauri://localhost",
            "https://intranet_1",
            "ws+x://h:443",
        ] {
            let origins = Origins::parse(&[good]).unwrap_or_else(|why| panic!("{good}: {why:?}"));
            assert!(origins.admit(good));
            assert_eq!(origins.entries(), [good]);
        }
    }

    #[test]
    fn refuses_what_would_never_match_or_match_too_much() {
        for (wrong, hint) in [
            ("*", "name the origins"),
            ("null", "anybody"),
            ("", "such as"),
            ("chat.corp.example", "such as"),
            ("https:chat.corp.example", "such as"),
            ("://x", "not a scheme"),
            ("HTTPS://chat.corp.example", "lower case"),
            ("https://chat.corp.example/", "\"https://chat.corp.example\""),
            ("https://chat.corp.example/app?x#y", "\"https://chat.corp.example\""),
            ("https://user@chat.corp.example", "no user name"),
            ("https://*.corp.example", "named exactly"),
            ("https://Chat.corp.example", "\"chat.corp.example\""),
            ("https://bücher.example", "xn--"),
            ("https://chat.corp.example:443", "\"https://chat.corp.example\""),
            ("http://chat.corp.example:80", "\"http://chat.corp.example\""),
            ("https://chat.corp.example:", "not a port"),
            ("https://chat.corp.example:08443", "not a port"),
            ("https://chat.corp.example:65536", "not a port"),
            ("https://chat.corp.example:0", "not a port"),
            ("https://chat.corp.example:+1", "not a port"),
            ("https://", "not a host name"),
            ("https://a..b", "not a host name"),
            ("https://chat.corp.example.", "not a host name"),
            ("https://10.1.2.300", "not a host name"),
            ("https://0x7f.0.0x1", "not a host name"),
            ("https://chat.0x", "not a host name"),
            ("https://a b", "not a host name"),
            ("https://[::1", "not an IPv6"),
            ("https://[0:0::1]", "[::1]"),
            ("https://[::1]x:1", "not an IPv6"),
            ("https://a,https://b", "no path"),
        ] {
            let why = Origins::parse(&[wrong]).unwrap_err();
            assert!(why[0].1.contains(hint), "{wrong}: {}", why[0].1);
        }
        assert!(Origins::parse::<&str>(&[]).is_err());
        assert_eq!(Origins::parse(&["https://a", "*", "null"]).unwrap_err().len(), 2);
    }

    #[test]
    fn origins_are_compared_exactly() {
        let origins = Origins::parse(&["https://chat.corp.example"]).unwrap();
        for other in [
            "",
            "null",
            "*",
            "http://chat.corp.example",
            "https://chat.corp.example:443",
            "https://chat.corp.example.evil.example",
            "https://evil.example/https://chat.corp.example",
            "https://xchat.corp.example",
            "https://CHAT.corp.example",
            "https://chat.corp.example ",
            "https://chat.corp.example https://chat.corp.example",
        ] {
            assert!(!origins.admit(other), "{other}");
        }
    }

    #[test]
    fn pages_in_the_clear_are_told_apart() {
        let origins = Origins::parse(&[
            "https://a.example",
            "http://localhost:3000",
            "http://x.localhost",
            "http://127.0.0.2",
            "http://[::1]:1",
            "tauri://localhost",
            "http://b.example:8080",
            "http://10.0.0.1",
        ]);
        let origins = origins.unwrap();
        assert_eq!(origins.in_the_clear().collect::<Vec<_>>(), ["http://b.example:8080", "http://10.0.0.1"]);
    }

    proptest! {
        /// No text panics, and what is taken admits itself and nothing that differs from it.
        #[test]
        fn any_text_is_judged(text in "\\PC{0,40}", other in "\\PC{0,40}") {
            if let Ok(origins) = Origins::parse(&[&text]) {
                prop_assert!(origins.admit(&text));
                prop_assert_eq!(origins.admit(&other), other == text);
            }
        }
    }
}

//! Where an issuer's keys are.
//!
//! Invariant: keys come over TLS, or from this machine. Plain HTTP to anywhere else would let
//! whoever is on the way make callers.

use std::net::IpAddr;

use http::Uri;

/// Longest URL that is taken.
const MAX_BYTES: usize = 2048;
const WELL_KNOWN: &str = "/.well-known/openid-configuration";

/// A URL that keys may be fetched from.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct KeyUrl {
    text: Box<str>,
    https: bool,
}

impl KeyUrl {
    /// Reads a URL: https, or http where the host is this machine.
    ///
    /// # Errors
    ///
    /// What is wrong. Messages never repeat the text: people put passwords into URLs.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || "is not a URL such as https://sso.corp.example/realms/llm".to_owned();
        // Readers differ on what a backslash is.
        if text.len() > MAX_BYTES || !text.bytes().all(|b| b.is_ascii_graphic() && b != b'\\') {
            return Err(wrong());
        }
        if text.contains('#') {
            return Err("a fragment (#…) means nothing here".to_owned());
        }
        let uri: Uri = text.parse().map_err(|_| wrong())?;
        let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else { return Err(wrong()) };
        if authority.as_str().contains('@') {
            return Err("a URL holds no user name or password".to_owned());
        }
        if authority.host().is_empty() || authority.port_u16() == Some(0) {
            return Err(wrong());
        }
        match scheme {
            "https" => Ok(Self { text: text.into(), https: true }),
            "http" if is_loopback(authority.host()) => Ok(Self { text: text.into(), https: false }),
            "http" => Err("keys are fetched over https; http is for this machine only".to_owned()),
            _ => Err("the scheme is https".to_owned()),
        }
    }

    /// The URL as written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// True when it has a query.
    #[must_use]
    pub fn has_query(&self) -> bool {
        self.text.contains('?')
    }

    /// True for https.
    #[must_use]
    pub const fn is_https(&self) -> bool {
        self.https
    }

    /// Where the discovery document of the issuer at this URL is (OpenID Connect Discovery, 4).
    #[must_use]
    pub fn discovery(&self) -> String {
        format!("{}{WELL_KNOWN}", self.text.strip_suffix('/').unwrap_or(&self.text))
    }
}

/// Where the keys of an issuer come from.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Location {
    /// Its discovery document says where its keys are.
    Discovery(KeyUrl),
    /// They are here.
    Keys(KeyUrl),
}

fn is_loopback(host: &str) -> bool {
    let address = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    host == "localhost" || address.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_over_tls_or_from_this_machine() {
        for good in [
            "https://sso.corp.example",
            "https://sso.corp.example/realms/llm/",
            "https://sso.corp.example:8443/keys?p=x",
            "http://127.0.0.1:8080",
            "http://localhost/keys",
            "http://[::1]:1/keys",
        ] {
            assert!(KeyUrl::parse(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "sso.corp.example",
            "/keys",
            "file:///etc/keys",
            "ftp://sso.corp.example",
            "http://sso.corp.example",
            "http://10.0.0.1",
            "http://localhost.corp.example",
            "http://127.0.0.1.corp.example",
            "http://127.0.0.1@corp.example",
            "http://127.0.0.1\\@corp.example",
            "https://sso.corp.example\\.test/",
            "http://127.1",
            "http://0x7f.0.0.1",
            "http://localhost%2ecorp.example",
            "//sso.corp.example",
            "HTTPS:sso.corp.example",
            "https://user:pass@sso.corp.example",
            "https://sso.corp.example/#keys",
            "https://sso.corp.example/a b",
            "https://",
            "https://sso.corp.example:0",
        ] {
            assert!(KeyUrl::parse(bad).is_err(), "{bad}");
        }
        assert!(!KeyUrl::parse("https://u:hunter2@x").unwrap_err().contains("hunter2"));
    }

    #[test]
    fn discovery_is_below_the_issuer() {
        let discovery = |url| KeyUrl::parse(url).unwrap().discovery();
        let expected = "https://sso.corp.example/realms/llm/.well-known/openid-configuration";
        assert_eq!(discovery("https://sso.corp.example/realms/llm"), expected);
        assert_eq!(discovery("https://sso.corp.example/realms/llm/"), expected);
    }
}

//! Where a webhook is.
//!
//! Invariant: decisions come over TLS, or from this machine. Plain HTTP to anywhere else would let
//! whoever is on the way decide.

use std::net::{IpAddr, Ipv6Addr};

/// Longest URL that is taken.
const MAX_BYTES: usize = 2048;

/// `https://host[:port]/path`, or http where the host is this machine.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WebhookUrl {
    /// True for https.
    pub https: bool,
    /// Host name in lower case, or address; IPv6 without brackets.
    pub host: String,
    /// Port; the scheme's own when the URL had none.
    pub port: u16,
    /// The path, and the query if there is one; begins with a slash.
    pub path: String,
}

impl WebhookUrl {
    /// Reads a URL.
    ///
    /// # Errors
    ///
    /// What is wrong. Messages never repeat the text: people put passwords into URLs.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || "is not a URL such as https://iam.corp.example/doorward".to_owned();
        // Readers differ on what a backslash is.
        if text.len() > MAX_BYTES || !text.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'\\' | b'"')) {
            return Err(wrong());
        }
        if text.contains('#') {
            return Err("a fragment (#…) means nothing here".to_owned());
        }
        let (scheme, rest) = text.split_once("://").ok_or_else(wrong)?;
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        if authority.contains('@') {
            return Err("a URL holds no user name or password".to_owned());
        }
        let (host, port) = host_and_port(authority).ok_or_else(wrong)?;
        let https = match scheme {
            "https" => true,
            "http" if is_loopback(&host) => false,
            "http" => return Err("decisions come over https; http is for this machine only".to_owned()),
            _ => return Err("the scheme is https".to_owned()),
        };
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        Ok(Self { https, host, port: port.unwrap_or(if https { 443 } else { 80 }), path })
    }

    /// The value of the `Host` header.
    #[must_use]
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        if self.port == if self.https { 443 } else { 80 } { host } else { format!("{host}:{}", self.port) }
    }
}

fn host_and_port(authority: &str) -> Option<(String, Option<u16>)> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']')?;
            let address: Ipv6Addr = host.parse().ok()?;
            let port = match rest.strip_prefix(':') {
                Some(port) => Some(port),
                None if rest.is_empty() => None,
                None => return None,
            };
            (address.to_string(), port)
        }
        None => match authority.split_once(':') {
            Some((host, port)) => (host.to_ascii_lowercase(), Some(port)),
            None => (authority.to_ascii_lowercase(), None),
        },
    };
    // `parse` alone would take "+80".
    let port = match port {
        None => None,
        Some(port) if port.bytes().all(|b| b.is_ascii_digit()) => Some(port.parse().ok().filter(|port| *port != 0)?),
        Some(_) => return None,
    };
    (host.parse::<IpAddr>().is_ok() || is_host_name(&host)).then_some((host, port))
}

/// A DNS name whose last label is no number: resolvers read `0x7f.1` and `127.1` as addresses.
fn is_host_name(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let last = text.rsplit('.').next().unwrap_or_default();
    text.len() <= 253 && text.split('.').all(label) && last.starts_with(|c: char| c.is_ascii_alphabetic())
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Option<(&str, u16, &str)>) {
        let found = WebhookUrl::parse(text).ok();
        assert_eq!(found.as_ref().map(|url| (&*url.host, url.port, &*url.path)), expected, "{text}");
    }

    #[test]
    fn urls() {
        check("https://IAM.corp.example/doorward", Some(("iam.corp.example", 443, "/doorward")));
        check("https://iam.corp.example", Some(("iam.corp.example", 443, "/")));
        check("https://iam.corp.example:8443/a/b/?tenant=1", Some(("iam.corp.example", 8443, "/a/b/?tenant=1")));
        check("https://iam.corp.example?x", Some(("iam.corp.example", 443, "/?x")));
        check("http://127.0.0.1:8080/x", Some(("127.0.0.1", 8080, "/x")));
        check("http://localhost", Some(("localhost", 80, "/")));
        check("http://[::1]:81", Some(("::1", 81, "/")));
        check("https://10.0.0.1/x", Some(("10.0.0.1", 443, "/x")));
        for wrong in [
            "",
            "iam.corp.example",
            "ftp://iam.corp.example",
            "http://iam.corp.example/x",
            "http://10.0.0.1/x",
            "http://localhost.corp.example",
            "http://127.1",
            "https://0x7f.0.0.1",
            "https://2130706433",
            "https://127.1",
            "https://",
            "https://:443",
            "https://x:0",
            "https://x:+1",
            "https://x:65536",
            "https://u:p@x",
            "https://x/#a",
            "https://x/a b",
            "https://x\\@y",
            "https://[::1",
            "https://[10.0.0.1]",
            "https://x..y",
            "https://-x",
            "https://x/\u{e4}",
        ] {
            check(wrong, None);
        }
        assert!(!WebhookUrl::parse("https://user:hunter2@x").unwrap_err().contains("hunter2"));
    }

    #[test]
    fn the_host_header_is_the_url_s() {
        let authority = |text| WebhookUrl::parse(text).unwrap().authority();
        assert_eq!(authority("https://x.example/"), "x.example");
        assert_eq!(authority("https://x.example:444/"), "x.example:444");
        assert_eq!(authority("http://[::1]:81/"), "[::1]:81");
        assert_eq!(authority("http://localhost:443/"), "localhost:443");
    }
}

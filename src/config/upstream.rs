//! How a server is reached: its URL, TLS towards it, and how long to wait.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use crate::config::document::{Table, Value};
use crate::config::{BackendTls, BackendUrl, Timeouts};
use crate::domain::gateway_address::HostName;

const DAY: Duration = Duration::from_secs(86_400);

pub(super) fn read_tls(table: &Table<'_>) -> Option<BackendTls> {
    let roots = table.get("ca_file").map_or(Some(Vec::new()), |value| value.roots());
    let (chain_setting, key_setting) = (table.get("client_certificate"), table.get("client_key"));
    let chain = chain_setting.as_ref().map(Value::certificates);
    let key = key_setting.as_ref().map(Value::private_key);
    let client = match (chain, key) {
        (None, None) => Some(None),
        (Some(_), None) => {
            table.missing("client_key", "a PEM file with the private key of client_certificate");
            None
        }
        (None, Some(_)) => {
            table.missing("client_certificate", "a PEM file with the certificate of client_key");
            None
        }
        (Some(chain), Some(key)) => key_setting?.belonging(chain?, key?, "client_certificate").map(Some),
    };
    Some(BackendTls { roots: roots?, client: client? })
}

/// The defaults of the example config.
pub(super) const DEFAULT_TIMEOUTS: Timeouts = Timeouts {
    connect: Duration::from_secs(2),
    first_byte: Duration::from_secs(600),
    first_event: Duration::from_secs(120),
    idle: Duration::from_secs(60),
};

pub(super) fn read_timeouts(table: &Table<'_>) -> Option<Timeouts> {
    let read = |name, default| table.get(name).map_or(Some(default), |v| v.span(Duration::from_millis(1)..=DAY));
    let connect = read("connect", DEFAULT_TIMEOUTS.connect);
    let first_byte = read("first_byte", DEFAULT_TIMEOUTS.first_byte);
    let first_event = read("first_event", DEFAULT_TIMEOUTS.first_event);
    let idle = read("idle", DEFAULT_TIMEOUTS.idle);
    Some(Timeouts { connect: connect?, first_byte: first_byte?, first_event: first_event?, idle: idle? })
}

pub(super) fn read_url(value: &Value<'_>) -> Option<BackendUrl> {
    let url = value.parsed(parse_url)?;
    if url.base_path.rsplit('/').next() == Some("v1") {
        value.place.warn("every path is appended to the URL, its /v1 included: /v1/v1/chat/completions; leave /v1 out");
    }
    Some(url)
}

/// Reads `http(s)://host[:port][/base/path]`. Messages never repeat the text: people put
/// passwords into URLs.
fn parse_url(text: &str) -> Result<BackendUrl, String> {
    let (scheme, rest) = text.split_once("://").ok_or("is not a URL such as http://10.0.0.5:8000")?;
    let https = match scheme {
        "https" => true,
        "http" => false,
        _ => return Err(format!("the scheme is http or https, not {scheme:?}")),
    };
    if rest.contains('#') {
        return Err("a fragment (#…) means nothing here".to_owned());
    }
    if rest.contains('?') {
        return Err("a query (?…) would be sent nowhere".to_owned());
    }
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    if authority.contains('@') {
        return Err("a URL holds no user name or password; use credential".to_owned());
    }
    let (host, port) = split_authority(authority)?;
    let port = match port {
        None if https => 443,
        None => 80,
        // `parse` alone would take "+80".
        Some(port) if port.bytes().all(|b| b.is_ascii_digit()) => port.parse().unwrap_or(0),
        Some(_) => 0,
    };
    if port == 0 {
        return Err("the port is a number from 1 to 65535".to_owned());
    }
    let base_path = path.trim_end_matches('/');
    let segment = |segment: &str| {
        !matches!(segment, "" | "." | "..")
            && segment
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'~' | b':' | b'@'))
    };
    if !base_path.split('/').skip(1).all(segment) {
        return Err("the path has an empty or dotted segment, or a character that would need escaping".to_owned());
    }
    Ok(BackendUrl { https, host, port, base_path: base_path.to_owned() })
}

fn split_authority(authority: &str) -> Result<(String, Option<&str>), String> {
    let wrong = || "the host is a name or an address, IPv6 in brackets: http://[::1]:8000".to_owned();
    if let Some(rest) = authority.strip_prefix('[') {
        let (host, rest) = rest.split_once(']').ok_or_else(wrong)?;
        let address: Ipv6Addr = host.parse().map_err(|_| wrong())?;
        return match rest.strip_prefix(':') {
            Some(port) => Ok((address.to_string(), Some(port))),
            None if rest.is_empty() => Ok((address.to_string(), None)),
            None => Err(wrong()),
        };
    }
    let (host, port) = match authority.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (authority, None),
    };
    let host = host.to_ascii_lowercase();
    if host.parse::<IpAddr>().is_ok() || is_host_name(&host) { Ok((host, port)) } else { Err(wrong()) }
}

/// True for lower-case DNS names.
pub(super) fn is_host_name(text: &str) -> bool {
    HostName::parse(text).is_ok()
}

pub(super) fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_urls() {
        check("http://10.0.0.5:8000", Some((false, "10.0.0.5", 8000, "")));
        check("https://Gpu.corp.example", Some((true, "gpu.corp.example", 443, "")));
        check("http://localhost/", Some((false, "localhost", 80, "")));
        check("http://[FD00::1]:81/a/b/", Some((false, "fd00::1", 81, "/a/b")));
        check("http://[::1]", Some((false, "::1", 80, "")));
        for wrong in [
            "",
            "10.0.0.5:8000",
            "HTTP://x",
            "ftp://x",
            "unix:///run/x",
            "http://",
            "http://:80",
            "http://x:",
            "http://x:0",
            "http://x:65536",
            "http://x:-1",
            "http://x:+1",
            "http://u:p@x",
            "http://x?a",
            "http://x/#a",
            "http://x//a",
            "http://x/../a",
            "http://x/%2e",
            "http://x/a b",
            "http://::1:80",
            "http://[::1",
            "http://[::1]80",
            "http://[10.0.0.1]",
            "http://x y",
            "http://x\\y",
            "http://10.0.0",
        ] {
            check(wrong, None);
        }
    }

    #[track_caller]
    fn check(text: &str, expected: Option<(bool, &str, u16, &str)>) {
        let expected = expected.map(|(https, host, port, path)| BackendUrl {
            https,
            host: host.to_owned(),
            port,
            base_path: path.to_owned(),
        });
        assert_eq!(parse_url(text).ok(), expected, "{text}");
    }

    #[test]
    fn a_password_is_not_repeated() {
        assert!(!parse_url("http://user:hunter2@x").unwrap_err().contains("hunter2"));
        assert!(!parse_url("http://user:hunter2").unwrap_err().contains("hunter2"));
    }
}

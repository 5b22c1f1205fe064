//! Check 1: the connection's server name and the request's host agree.
//!
//! hyper compares neither SNI with Host nor Host with an absolute-form target, so we do.

use http::header::HOST;
use http::request::Parts;
use http::{HeaderMap, Uri};

use crate::config::{Names, is_address_name};
use crate::domain::refusal::Refusal;
use crate::gate::connection::Connection;

/// Checks that the request is for a host of the role that the TLS session was opened for: `api`.
///
/// # Errors
///
/// `invalid_host` when the host is missing, repeated, malformed or contradicts itself;
/// `misdirected` when it is no name of that role.
pub fn check(connection: &Connection, head: &Parts, names: &Names) -> Result<(), Refusal> {
    let host = named(&head.headers, &head.uri)?.ok_or(Refusal::InvalidHost("The Host header is missing."))?;
    let named = names.api.iter().any(|name| name.eq_ignore_ascii_case(host));
    // An address is a host only for clients that had no name to send.
    let dialled = connection.sni.is_none() && is_address_name(host, connection.local.ip());
    if named || dialled { Ok(()) } else { Err(Refusal::Misdirected) }
}

const MALFORMED: Refusal = Refusal::InvalidHost("The Host header is malformed.");

/// The host that a request is for, without port and brackets, if it says one: whoever is called by a name
/// of somebody else's (a browser that was led here) says so here.
///
/// # Errors
///
/// `invalid_host` when the host is repeated, malformed or contradicts itself.
pub fn named<'r>(headers: &'r HeaderMap, uri: &'r Uri) -> Result<Option<&'r str>, Refusal> {
    let mut hosts = headers.get_all(HOST).iter();
    let header = match (hosts.next(), hosts.next()) {
        (_, Some(_)) => return Err(Refusal::InvalidHost("The Host header is repeated.")),
        (Some(value), None) => Some(value.to_str().map_err(|_| MALFORMED)?),
        (None, None) => None,
    };
    let authority = uri.authority().map(http::uri::Authority::as_str);
    match (authority, header) {
        (Some(authority), Some(header)) if !authority.eq_ignore_ascii_case(header) => {
            Err(Refusal::InvalidHost("The Host header and the request target name different hosts."))
        }
        (Some(host), _) | (None, Some(host)) => host_name(host).map(Some),
        (None, None) => Ok(None),
    }
}

/// The host without port and brackets.
fn host_name(text: &str) -> Result<&str, Refusal> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => rest.split_once(']').ok_or(MALFORMED)?,
        None => text.split_at(text.find(':').unwrap_or(text.len())),
    };
    let port_is_good = port.is_empty()
        || port
            .strip_prefix(':')
            .is_some_and(|p| !p.is_empty() && p.len() <= 5 && p.bytes().all(|b| b.is_ascii_digit()));
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b':');
    if host.is_empty() || !port_is_good || !host.bytes().all(allowed) || host.ends_with('.') {
        return Err(MALFORMED);
    }
    Ok(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_hosts_and_refuses_tricks() {
        for (text, expected) in [
            ("llm.corp.example", Some("llm.corp.example")),
            ("llm.corp.example:8443", Some("llm.corp.example")),
            ("127.0.0.1:1", Some("127.0.0.1")),
            ("[::1]:8443", Some("::1")),
            ("[::1]", Some("::1")),
            ("", None),
            (":8443", None),
            ("a:", None),
            ("a:b", None),
            ("a:123456", None),
            ("user@a", None),
            ("a/b", None),
            ("a.", None),
            ("a b", None),
            ("[::1", None),
            ("[::1]x", None),
            ("a,b", None),
            ("a%00", None),
        ] {
            assert_eq!(host_name(text).ok(), expected, "{text:?}");
        }
    }
}

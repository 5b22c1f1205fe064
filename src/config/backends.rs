//! `[[backend]]`: private inference servers, reached at a URL or through a connector; and
//! `[[connector]]`, what is said of a connector besides.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use crate::config::document::{Table, Value};
use crate::config::listen::is_host_name;
use crate::config::suggest::did_you_mean;
use crate::config::{Backend, BackendTls, BackendUrl, ConnectorRule, Timeouts, Via};
use crate::domain::endpoint::Dialect;
use crate::domain::identity::IdentityName;

const DAY: Duration = Duration::from_secs(86_400);

/// What the checks of `[[model]]` need to know of a backend, readable or not.
pub(super) struct Declared {
    /// `None` when the name itself could not be read.
    pub(super) name: Option<String>,
    /// `None` when its dialects could not be read.
    pub(super) dialects: Option<Vec<Dialect>>,
}

/// Reads every `[[backend]]`. The second list has those too that cannot be used, so that a mistake
/// in a backend is not reported again at each target; in it and in the first, the order is that of
/// the sections.
///
/// `no_connectors` says why no connector can reach this gateway, if none can.
pub(super) fn read_backends(
    sections: &[Value<'_>],
    no_connectors: Option<&str>,
) -> (Option<Vec<Backend>>, Vec<Declared>) {
    let (mut names, mut declared) = (HashMap::new(), Vec::new());
    let backends: Vec<Option<Backend>> =
        sections.iter().map(|entry| read_backend(entry, no_connectors, &mut names, &mut declared)).collect();
    (backends.into_iter().collect(), declared)
}

fn read_backend(
    entry: &Value<'_>,
    no_connectors: Option<&str>,
    names: &mut HashMap<String, String>,
    declared: &mut Vec<Declared>,
) -> Option<Backend> {
    entry.table(|table| {
        let name = table.require("name", "what targets and records call this backend, such as \"vllm-a\"");
        let name = name.and_then(|value| value.unique_name(names));
        let via = read_via(table, no_connectors);
        let dialects = table.require("dialects", "the APIs that it speaks, such as [\"openai\"]");
        let dialects = dialects.and_then(|value| read_dialects(&value));
        let credential_setting = table.get("credential");
        let credential = credential_setting.as_ref().map_or(Some(None), |value| value.secret().map(Some));
        let tls_setting = table.get("tls");
        let tls = tls_setting.as_ref().map_or_else(|| Some(BackendTls::default()), |value| value.table(read_tls));
        let timeouts = table.get("timeouts").map_or(Some(DEFAULT_TIMEOUTS), |value| value.table(read_timeouts));
        let forward_identity = table.get("forward_identity").map_or(Some(false), |value| value.boolean());
        table.later("max_concurrent", |_| false);
        table.later("discover", |value| value.as_bool() == Some(false));
        if let Some(value) = table.get("on_disconnect")
            && value.choice(&[("abort", false), ("drain", true)]) == Some(true)
        {
            value.wrong("\"drain\" is not available in this version");
        }

        declared.push(Declared { name: name.clone(), dialects: dialects.clone() });
        let via = via?;
        check_way(&via, tls_setting.as_ref(), credential_setting.as_ref());
        Some(Backend {
            name: name?,
            via,
            dialects: dialects?,
            credential: credential?,
            tls: tls?,
            timeouts: timeouts?,
            forward_identity: forward_identity?,
        })
    })
}

/// `url` or `connector`: one of them, and not both.
fn read_via(table: &Table<'_>, no_connectors: Option<&str>) -> Option<Via> {
    if !table.has("connector") {
        let url = table.require("url", "such as \"http://10.0.0.5:8000\"; or connector = \"site-a\"");
        return url.as_ref().and_then(read_url).map(Via::Url);
    }
    let connector = table.get("connector")?;
    let name = connector.parsed(IdentityName::parse);
    if let Some(url) = table.get("url") {
        return url.refuse("goes without connector: where the backend is, is for the connector's own config to say");
    }
    match no_connectors {
        Some(why) => connector.refuse(why),
        None => name.map(Via::Connector),
    }
}

/// What does not go together with the way to a backend.
fn check_way(via: &Via, tls: Option<&Value<'_>>, credential: Option<&Value<'_>>) {
    match via {
        Via::Url(url) => {
            if let (false, Some(setting)) = (url.https, tls) {
                setting.wrong("goes with an https URL; this one is http, and nothing would be encrypted");
            }
            if let (false, false, Some(setting)) = (url.https, is_loopback(&url.host), credential) {
                setting.place.warn("travels unencrypted: the URL is http and not on this machine");
            }
        }
        Via::Connector(_) => {
            if let Some(setting) = credential {
                setting.wrong("goes with a URL: a connector adds the backend's credential itself, from connector.toml");
            }
            if let Some(setting) = tls {
                setting.wrong("goes with an https URL: a connector speaks to the backend itself, by connector.toml");
            }
        }
    }
}

/// Most processes with one connector's certificate.
const MAX_INSTANCES: u32 = 64;

/// Reads every `[[connector]]`. Connectors that no section is about have the defaults.
pub(super) fn read_connectors(sections: &[Value<'_>], backends: Option<&[Backend]>) -> Option<Vec<ConnectorRule>> {
    let mut names = HashMap::new();
    let connectors: Vec<Option<ConnectorRule>> =
        sections.iter().map(|entry| read_connector(entry, backends, &mut names)).collect();
    connectors.into_iter().collect()
}

fn read_connector(
    entry: &Value<'_>,
    backends: Option<&[Backend]>,
    names: &mut HashMap<String, String>,
) -> Option<ConnectorRule> {
    entry.table(|table| {
        let setting = table.require("name", "the name in the connector's certificate, such as \"site-a\"");
        let name = setting.as_ref().and_then(|value| {
            let name = value.parsed(IdentityName::parse)?;
            value.distinct(name.as_str().to_owned(), names)?;
            Some(name)
        });
        let instances = table.get("max_instances");
        let max_instances = instances.map_or(Some(1), |value| value.number(1..=MAX_INSTANCES));
        let name = name?;
        if let (Some(backends), Some(setting)) = (backends, &setting) {
            let used = || {
                backends.iter().filter_map(|backend| match &backend.via {
                    Via::Connector(connector) => Some(connector.as_str()),
                    Via::Url(_) => None,
                })
            };
            if !used().any(|used| used == name.as_str()) {
                let hint = did_you_mean(name.as_str(), used());
                setting.place.warn(format!("no [[backend]] is reached through this connector{hint}"));
            }
        }
        Some(ConnectorRule { name, max_instances: max_instances? })
    })
}

fn read_dialects(value: &Value<'_>) -> Option<Vec<Dialect>> {
    let words = Dialect::ALL.map(Dialect::as_str);
    let dialects = value.each("an empty list makes a backend that nothing can be sent to", |entry| {
        entry.parsed(|text| Dialect::parse(text).map_err(|why| format!("{why}{}", did_you_mean(text, words))))
    })?;
    let twice = |dialect: &Dialect| dialects.iter().filter(|other| *other == dialect).count() > 1;
    match dialects.iter().find(|dialect| twice(dialect)) {
        Some(dialect) => value.refuse(&format!("names {} twice", dialect.as_str())),
        None => Some(dialects),
    }
}

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

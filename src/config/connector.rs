//! `connector.toml`: what `doorward connect` runs with.
//!
//! Invariant: what a gateway can reach is written here and nowhere else. A gateway names a backend;
//! only this file says which URL that is and what may be asked there.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::config::document::{Table, Value};
use crate::config::parse::{parse_as, read_text};
use crate::config::process::{read_log, read_state_dir};
use crate::config::suggest::did_you_mean;
use crate::config::upstream::{DEFAULT_TIMEOUTS, is_loopback, read_timeouts, read_tls, read_url};
use crate::config::{Backend, BackendTls, Log, Problem, Timeouts, Via};
use crate::domain::endpoint::{Dialect, Endpoint, Endpoints};
use crate::domain::gateway_address::{GatewayAddress, HostName};

/// What a site serves when `allow` is silent.
const DEFAULT_ALLOW: [&str; 3] = ["@inference", "@tokenize", "ollama.show"];
/// Between two pieces of a reply. Longer than a gateway waits: it is the gateway's to decide, and
/// this only ends what no gateway cares for any more.
const DEFAULT_IDLE: Duration = Duration::from_secs(300);
/// Where a backend is asked how it is: vLLM, llama.cpp and SGLang answer 503 there while they load.
const DEFAULT_PROBE: &str = "/health";

/// Everything that `connector.toml` says, checked. Paths are absolute.
#[derive(Debug)]
pub struct Connector {
    /// The file itself.
    pub file: PathBuf,
    /// Holds the identity.
    pub state_dir: PathBuf,
    /// Where the gateway is; `None`: where the identity was enrolled.
    pub gateway: Option<GatewayAt>,
    /// The only way out, where there is no other.
    pub proxy: Option<GatewayAddress>,
    /// The process log.
    pub log: Log,
    /// How long requests may go on after a SIGTERM.
    pub drain: Duration,
    /// What is served; names are distinct. Never empty.
    pub backends: Vec<SiteBackend>,
    /// Every file that was read besides this one.
    pub watched: Vec<PathBuf>,
    /// What is allowed and yet worth a word.
    pub warnings: Vec<Problem>,
}

/// Where a gateway is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GatewayAt {
    /// Hosts and ports; every address that each stands for is dialled. Never empty.
    pub addresses: Vec<GatewayAddress>,
    /// The name in the gateway's certificate, one of its `connect` names.
    pub name: HostName,
    /// Connections to each address, 1 to 8.
    pub connections: u32,
}

/// A backend beside the connector.
#[derive(PartialEq, Eq, Debug)]
pub struct SiteBackend {
    /// How it is reached.
    pub backend: Backend,
    /// What may be asked there.
    pub allow: Endpoints,
    /// Requests at once.
    pub max_concurrent: u32,
    /// The path that tells how it is.
    pub probe: String,
}

/// Reads and checks `connector.toml`, with everything that it refers to.
///
/// # Errors
///
/// Every problem, in the order of lines; a mistake in the TOML itself comes alone.
pub fn load_connector(file: &Path, environment: &dyn Fn(&str) -> Option<String>) -> Result<Connector, Vec<Problem>> {
    parse_connector(&read_text(file)?, file, environment)
}

/// Checks the text of a `connector.toml`. `file` is what it was read from: relative paths start
/// there.
///
/// # Errors
///
/// As [`load_connector`].
pub fn parse_connector(
    text: &str,
    file: &Path,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<Connector, Vec<Problem>> {
    let (connector, findings) = parse_as(text, file, environment, read)?;
    Ok(Connector { watched: findings.watched, warnings: findings.warnings, ..connector })
}

fn read(root: &Table<'_>, file: PathBuf) -> Option<Connector> {
    let state_dir = match root.get("state_dir") {
        Some(_) => read_state_dir(root),
        None => Some(root.place.document.directory.join("connector-state")),
    };
    let gateway = root.get("gateway").map_or(Some(None), |value| value.table(read_gateway).map(Some));
    let proxy = root.get("proxy").map_or(Some(None), |value| value.parsed(parse_proxy).map(Some));
    let log = read_log(root.get("log").as_ref());
    let drain = root
        .get("drain")
        .map_or(Some(Duration::from_secs(30)), |value| value.span(Duration::ZERO..=Duration::from_secs(180)));
    let mut names = HashMap::new();
    let sections = root.require("backend", "[[backend]] with name and url: what this site serves");
    let backends: Option<Vec<_>> = sections
        .as_ref()
        .map(Value::sections)
        .unwrap_or_default()
        .iter()
        .map(|s| read_backend(s, &mut names))
        .collect();
    if let (Some(sections), Some([])) = (&sections, backends.as_deref()) {
        sections.wrong("an empty list serves nothing");
    }
    Some(Connector {
        file,
        state_dir: state_dir?,
        gateway: gateway?,
        proxy: proxy?,
        log: log?,
        drain: drain?,
        backends: backends.filter(|backends| !backends.is_empty())?,
        watched: Vec::new(),
        warnings: Vec::new(),
    })
}

fn read_gateway(table: &Table<'_>) -> Option<GatewayAt> {
    let addresses = table.require("addresses", "a list such as [\"gw.corp.example:8443\"]");
    let addresses = addresses
        .and_then(|value| value.each("an empty list is nothing to dial", |entry| entry.parsed(GatewayAddress::parse)));
    let name = table.require("name", "the gateway's connect name, such as \"connect.llm.corp.example\"");
    let name = name.and_then(|value| value.parsed(HostName::parse));
    let connections = table.get("connections").map_or(Some(2), |value| value.number(1..=8));
    Some(GatewayAt { addresses: addresses?, name: name?, connections: connections? })
}

fn read_backend(entry: &Value<'_>, names: &mut HashMap<String, String>) -> Option<SiteBackend> {
    entry.table(|table| {
        let name = table.require("name", "what the gateway's config calls this backend, such as \"vllm-a\"");
        let name = name.and_then(|value| value.unique_name(names));
        let url = table.require("url", "such as \"http://127.0.0.1:8000\"").and_then(|value| read_url(&value));
        let credential_setting = table.get("credential");
        let credential = credential_setting.as_ref().map_or(Some(None), |value| value.secret().map(Some));
        let tls_setting = table.get("tls");
        let tls = tls_setting.as_ref().map_or_else(|| Some(BackendTls::default()), |value| value.table(read_tls));
        let timeouts = table
            .get("timeouts")
            .map_or(Some(Timeouts { idle: DEFAULT_IDLE, ..DEFAULT_TIMEOUTS }), |value| value.table(read_timeouts));
        let allow = match table.get("allow") {
            Some(value) => value.list(|entries| {
                let known = || Endpoints::vocabulary();
                Endpoints::parse(entries).map_err(|wrong| {
                    let hint = |index: usize| entries.get(index).map_or_else(String::new, |e| did_you_mean(e, known()));
                    wrong.into_iter().map(|(index, why)| (index, format!("{why}{}", hint(index)))).collect()
                })
            }),
            None => Endpoints::parse(&DEFAULT_ALLOW).ok(),
        };
        let max_concurrent = table.get("max_concurrent").map_or(Some(64), |value| value.number(1..=100_000));
        let probe = table.get("probe").map_or(Some(DEFAULT_PROBE.to_owned()), |value| value.parsed(parse_probe));
        let url = url?;
        if let (false, Some(setting)) = (url.https, &tls_setting) {
            setting.wrong("goes with an https URL; this one is http, and nothing would be encrypted");
        }
        if let (false, false, Some(setting)) = (url.https, is_loopback(&url.host), &credential_setting) {
            setting.place.warn("travels unencrypted: the URL is http and not on this machine");
        }
        let backend = Backend {
            name: name?,
            via: Via::Url(url),
            dialects: Dialect::ALL.to_vec(),
            credential: credential?,
            tls: tls?,
            timeouts: timeouts?,
            forward_identity: true,
        };
        let allow = allow?;
        if !Endpoint::ALL.into_iter().any(|endpoint| endpoint != Endpoint::OpenAiModel && allow.contain(endpoint)) {
            table.place_of("allow").wrong("openai.model is answered by the gateway, so this serves nothing");
            return None;
        }
        Some(SiteBackend { backend, allow, max_concurrent: max_concurrent?, probe: probe? })
    })
}

/// Reads `http://host:port`. The message does not repeat the text: it may hold a password.
pub(super) fn parse_proxy(text: &str) -> Result<GatewayAddress, String> {
    let rest = text.strip_prefix("http://").map(|rest| rest.strip_suffix('/').unwrap_or(rest));
    let address = rest.filter(|rest| !rest.contains('@')).and_then(|rest| GatewayAddress::parse(rest).ok());
    address.ok_or_else(|| {
        "is not the URL of a proxy that takes CONNECT, such as http://proxy.corp.example:3128, \
         without user name and password"
            .to_owned()
    })
}

fn parse_probe(text: &str) -> Result<String, String> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'/' | b'.' | b'_' | b'-');
    if text.starts_with('/') && text.len() <= 256 && text.bytes().all(allowed) {
        return Ok(text.to_owned());
    }
    Err(format!("{text:?} is not a path such as /health"))
}

#[cfg(test)]
#[path = "connector_tests.rs"]
mod tests;

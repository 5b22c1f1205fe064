//! `dial.toml`: what `doorward dial` runs with.
//!
//! Invariant: whatever is written here, nobody on another machine can use what listens: an address
//! that is not this machine's own is an error, and there is no setting that changes it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use toml::de::DeValue;

use crate::config::connector::parse_proxy;
use crate::config::document::{Table, Value};
use crate::config::parse::{parse_as, read_text};
use crate::config::process::{read_log, read_state_dir};
use crate::config::{Log, Problem, Secret};
use crate::domain::gateway_address::{GatewayAddress, GatewayName};
use crate::domain::origin::Origins;

/// Where the identity is when nobody says.
const STATE: &str = "dial-state";
/// Where Ollama listens, so that its tools need no setting at all.
const LISTEN: &str = "127.0.0.1:11434";
/// Shortest token that is taken.
const MIN_TOKEN: usize = 16;
/// Most addresses of a gateway.
const MAX_ADDRESSES: usize = 8;

/// Everything that `dial.toml` says, checked. Paths are absolute.
#[derive(Debug)]
pub struct Dial {
    /// The file itself.
    pub file: PathBuf,
    /// Holds the identity and the local token.
    pub state_dir: PathBuf,
    /// Where the gateway is; `None`: where the identity was enrolled.
    pub gateway: Option<DialGateway>,
    /// The only way out, where there is no other.
    pub proxy: Option<GatewayAddress>,
    /// Where tools connect to.
    pub listen: DialListen,
    /// Sent to the gateway instead of what tools send.
    pub key: Option<Secret>,
    /// What tools must send.
    pub token: DialToken,
    /// Web pages that may call.
    pub origins: Option<Origins>,
    /// The process log.
    pub log: Log,
    /// Every file that was read besides this one.
    pub watched: Vec<PathBuf>,
    /// What is allowed and yet worth a word.
    pub warnings: Vec<Problem>,
}

/// Where a gateway is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DialGateway {
    /// Hosts and ports, in the order in which to try. Never empty.
    pub addresses: Vec<GatewayAddress>,
    /// One of its names for callers.
    pub name: GatewayName,
}

/// Where tools connect to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DialListen {
    /// An address of this machine that no other can reach.
    Loopback(SocketAddr),
    /// A Unix socket, for its owner alone.
    Unix(PathBuf),
}

/// What tools must send.
#[derive(Debug)]
pub enum DialToken {
    /// One that is made once and kept in the state directory.
    Kept,
    /// This one.
    Given(Secret),
    /// None: whoever can connect may use the identity.
    Off,
}

/// Reads and checks `dial.toml`, with everything that it refers to.
///
/// # Errors
///
/// Every problem, in the order of lines; a mistake in the TOML itself comes alone.
pub fn load_dial(file: &Path, environment: &dyn Fn(&str) -> Option<String>) -> Result<Dial, Vec<Problem>> {
    parse_dial(&read_text(file)?, file, environment)
}

/// Checks the text of a `dial.toml`. `file` is what it was read from: relative paths start there.
///
/// # Errors
///
/// As [`load_dial`].
pub fn parse_dial(text: &str, file: &Path, environment: &dyn Fn(&str) -> Option<String>) -> Result<Dial, Vec<Problem>> {
    let (dial, findings) = parse_as(text, file, environment, read)?;
    Ok(Dial { watched: findings.watched, warnings: findings.warnings, ..dial })
}

fn read(root: &Table<'_>, file: PathBuf) -> Option<Dial> {
    let directory = &root.place.document.directory;
    let state_dir = match root.get("state_dir") {
        Some(_) => read_state_dir(root),
        None => Some(directory.join(STATE)),
    };
    let gateway = root.get("gateway").map_or(Some(None), |value| value.table(read_gateway).map(Some));
    let proxy = root.get("proxy").map_or(Some(None), |value| value.parsed(parse_proxy).map(Some));
    let listen = match root.get("listen") {
        Some(value) => value.parsed(|text| parse_listen(text, directory)),
        None => parse_listen(LISTEN, directory).ok(),
    };
    let key = root.get("key").map_or(Some(None), |value| read_key(&value).map(Some));
    let token = match (root.get("token"), &listen) {
        (Some(value), _) => read_token(&value),
        // Other users share loopback; a socket has an owner.
        (None, Some(DialListen::Unix(_))) => Some(DialToken::Off),
        (None, Some(DialListen::Loopback(_)) | None) => Some(DialToken::Kept),
    };
    let origins = root.get("allowed_origins").map_or(Some(None), |value| read_origins(&value));
    let log = read_log(root.get("log").as_ref());
    Some(Dial {
        file,
        state_dir: state_dir?,
        gateway: gateway?,
        proxy: proxy?,
        listen: listen?,
        key: key?,
        token: token?,
        origins: origins?,
        log: log?,
        watched: Vec::new(),
        warnings: Vec::new(),
    })
}

fn read_gateway(table: &Table<'_>) -> Option<DialGateway> {
    let address = table.get("address").map(|value| value.parsed(GatewayAddress::parse).map(|one| vec![one]));
    let addresses = table.get("addresses").map(|value| {
        let read = value.each("an empty list is nothing to dial", |entry| entry.parsed(GatewayAddress::parse))?;
        if read.len() > MAX_ADDRESSES {
            return value.refuse(&format!("has more than {MAX_ADDRESSES} addresses"));
        }
        Some(read)
    });
    let addresses = match (address, addresses) {
        (Some(one), None) => one,
        (None, Some(several)) => several,
        (None, None) => {
            table.missing("address", "where the gateway is, such as \"gw.corp.example:8443\"");
            None
        }
        (Some(_), Some(_)) => {
            table.place_of("addresses").wrong("address or addresses, not both");
            None
        }
    };
    let name = table.require("name", "one of the gateway's names for callers, such as \"llm.corp.example\"");
    let name = name.and_then(|value| value.parsed(GatewayName::parse));
    Some(DialGateway { addresses: addresses?, name: name? })
}

/// Reads `127.0.0.1:PORT`, `[::1]:PORT`, `localhost:PORT` or `unix:PATH`.
fn parse_listen(text: &str, directory: &Path) -> Result<DialListen, String> {
    let how = "write 127.0.0.1:PORT, [::1]:PORT or unix:PATH";
    if let Some(path) = text.strip_prefix("unix:") {
        let path = path.strip_prefix("//").unwrap_or(path);
        return if path.is_empty() {
            Err(format!("names no socket; {how}"))
        } else {
            Ok(DialListen::Unix(directory.join(path)))
        };
    }
    let text = text.strip_prefix("localhost:").map_or_else(|| text.to_owned(), |port| format!("127.0.0.1:{port}"));
    let address: SocketAddr = text.parse().map_err(|_| format!("{text:?} is no address to listen on; {how}"))?;
    if address.ip().is_loopback() {
        Ok(DialListen::Loopback(address))
    } else {
        Err(format!("{address} can be reached from other machines, which would use this identity; {how}"))
    }
}

fn read_key(value: &Value<'_>) -> Option<Secret> {
    let key = value.secret()?;
    if key.reveal().starts_with("dw_") {
        Some(key)
    } else {
        value.refuse("is not a Doorward key (dw_…); the gateway would refuse every request (the value is not shown)")
    }
}

fn read_token(value: &Value<'_>) -> Option<DialToken> {
    if let DeValue::Boolean(wanted) = value.raw() {
        return Some(if *wanted { DialToken::Kept } else { DialToken::Off });
    }
    let token = value.secret()?;
    if token.reveal().starts_with("dw_") {
        return value.refuse("begins like a Doorward key; a key is set with key = … (the value is not shown)");
    }
    if token.reveal().len() < MIN_TOKEN {
        return value.refuse(&format!("has fewer than {MIN_TOKEN} characters: leave it out, and one is made"));
    }
    Some(DialToken::Given(token))
}

/// An empty list says what is so anyway: no page.
fn read_origins(value: &Value<'_>) -> Option<Option<Origins>> {
    if value.raw().as_array().is_some_and(|list| list.is_empty()) {
        return Some(None);
    }
    value.list(Origins::parse).map(Some)
}

#[cfg(test)]
#[path = "dial_tests.rs"]
mod tests;

//! Settings that the program may trust.
//!
//! Invariant: a config exists only if every setting in it was checked, and every problem is reported
//! at once, each with its path, its line and the known choices. There are three: `doorward.toml` of the
//! gateway, [`connector.toml`](Connector) and [`dial.toml`](Dial).

mod connector;
mod dial;
#[cfg_attr(not(feature = "gateway"), expect(dead_code, reason = "doorward.toml says more than the other two"))]
mod document;
#[cfg_attr(not(feature = "gateway"), expect(dead_code, reason = "doorward.toml says more than the other two"))]
mod files;
mod filesystem;
#[cfg(feature = "gateway")]
mod gateway;
mod identity_map;
mod parse;
mod process;
mod restart;
mod suggest;
mod upstream;
#[cfg_attr(not(feature = "gateway"), expect(dead_code, reason = "doorward.toml says more than the other two"))]
mod values;

pub use connector::{Connector, GatewayAt, SiteBackend, load_connector, parse_connector};
pub use dial::{Dial, DialGateway, DialListen, DialToken, load_dial, parse_dial};
#[cfg(feature = "gateway")]
pub use gateway::{
    ClientAuth, Config, ConnectorRule, Declared, GrantLines, IdentityEntry, Include, Issuer, KeySource, Listen, Names,
    OnError, Override, Reachable, Record, ServerCertificate, Trust, Webhook, WhenFull, bundle, crls, declared, find,
    is_address_name, load, needs_restart, parse, reachable, state_dir,
};
pub use identity_map::{IdentityField, IdentityMap};
pub use restart::{connector_needs_restart, dial_needs_restart};
#[cfg(feature = "gateway")]
pub(crate) use suggest::did_you_mean;

use std::fmt;
use std::time::Duration;

use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::Zeroizing;

use crate::domain::endpoint::Dialect;
use crate::domain::identity::IdentityName;

/// The process log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Log {
    /// Least severe level that is written.
    pub level: tracing::Level,
    /// True for JSON lines.
    pub json: bool,
}

/// A private inference server.
#[derive(PartialEq, Eq, Debug)]
pub struct Backend {
    /// Its name in config, logs and records.
    pub name: String,
    /// How it is reached.
    pub via: Via,
    /// API families that it speaks; never empty.
    pub dialects: Vec<Dialect>,
    /// Sent as `Authorization: Bearer`; never the caller's.
    pub credential: Option<Secret>,
    /// For https.
    pub tls: BackendTls,
    /// How long to wait for what.
    pub timeouts: Timeouts,
    /// True to tell the backend who is calling, in `x-doorward-*` headers.
    pub forward_identity: bool,
}

/// How a backend is reached.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Via {
    /// Directly.
    Url(BackendUrl),
    /// Through the tunnels of the connector whose certificate has this name.
    Connector(IdentityName),
}

/// `http(s)://host[:port]` and an optional base path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BackendUrl {
    /// True for https.
    pub https: bool,
    /// Host name in lower case, or address; IPv6 without brackets.
    pub host: String,
    /// Port; the scheme's own when the URL had none.
    pub port: u16,
    /// Prefix of every path, without a trailing slash; mostly empty.
    pub base_path: String,
}

/// TLS towards a backend.
#[derive(PartialEq, Eq, Default, Debug)]
pub struct BackendTls {
    /// Private roots; empty: the roots of the operating system.
    pub roots: Vec<CertificateDer<'static>>,
    /// The gateway's own certificate for the backend.
    pub client: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
}

/// How long to wait for a backend.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timeouts {
    /// TCP and TLS.
    pub connect: Duration,
    /// The head of a reply that is not streamed.
    pub first_byte: Duration,
    /// The first event of a stream.
    pub first_event: Duration,
    /// Between the events of a stream.
    pub idle: Duration,
}

/// A secret from config: cannot be printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Wraps a secret.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The secret itself, for the one place that sends it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(redacted)")
    }
}

/// Something wrong, or worth a word, in a config file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    /// Where in the document: `grant[2].networks[0]`.
    pub path: String,
    /// Line in the file, from 1; 0 when it is about the file as a whole.
    pub line: usize,
    /// What is wrong and what can be written instead.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.line, self.path.as_str()) {
            (0, "") => f.write_str(&self.message),
            (0, path) => write!(f, "{path}: {}", self.message),
            (line, "") => write!(f, "line {line}: {}", self.message),
            (line, path) => write!(f, "line {line}: {path}: {}", self.message),
        }
    }
}

#[cfg(test)]
#[cfg(feature = "gateway")]
mod example_tests;

//! What `doorward.toml` says, as the gateway reads it.
//!
//! Invariant: a [`Config`] exists only if every setting in it was checked; only [`load()`] makes one, and it
//! reports every problem at once, each with its path, its line and the known choices.

mod backends;
pub mod bundle;
pub mod crls;
mod declared;
mod grants;
mod issuers;
mod keys;
mod listen;
mod load;
mod models;
mod part;
mod reachable;
mod record;
mod restart;
mod trust;
mod webhooks;

pub use declared::{Declared, declared};
pub use issuers::{Issuer, KeySource};
pub use load::{find, load, parse, state_dir};
pub use reachable::{Reachable, reachable};
pub use restart::needs_restart;
pub use trust::Trust;
pub use webhooks::{Include, OnError, Override, Webhook};

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::config::{Backend, Log, Problem};
use crate::domain::gateway_address::GatewayAddress;
use crate::domain::grant::Grant;
use crate::domain::identity::{Identity, IdentityMatch, IdentityName, TrustDomain};
use crate::domain::key::KeyRecord;
use crate::domain::network::Networks;
use crate::domain::owner::OwnerPath;
use crate::domain::route::Model;

/// Everything that `doorward.toml` says, checked. Paths are absolute.
#[derive(Debug)]
pub struct Config {
    /// The file that it was read from.
    pub file: PathBuf,
    /// Holds the CA, the store, the pepper and the records.
    pub state_dir: PathBuf,
    /// Name of this gateway in records and webhooks.
    pub gateway_id: String,
    /// The public listener.
    pub listen: Listen,
    /// The admin listener: metrics and health.
    pub admin: SocketAddr,
    /// The admin API over TLS; `None` when it is on the Unix socket only.
    pub admin_api: Option<SocketAddr>,
    /// The process log.
    pub log: Log,
    /// The record of requests.
    pub record: Record,
    /// How long the last state of a store that cannot be read stays in force.
    pub state_stale_max: Duration,
    /// Trust domain of the built-in authority; `None` when there is no `[ca]` section.
    pub trust_domain: Option<TrustDomain>,
    /// External authorities.
    pub trust: Vec<Trust>,
    /// Where certificate identities sit on the owner tree.
    pub identities: Vec<IdentityEntry>,
    /// Who may vouch for callers with tokens.
    pub issuers: Vec<Issuer>,
    /// What may be done; at most one per node.
    pub grants: Vec<Grant>,
    /// Where in [`Self::file`] each grant is.
    pub grant_lines: HashMap<OwnerPath, GrantLines>,
    /// Keys that live in the config; ids are distinct. How often one may be used is never limited:
    /// uses are counted in the store.
    pub keys: Vec<KeyRecord>,
    /// Private inference servers; targets refer to them by index.
    pub backends: Vec<Backend>,
    /// What is said of connectors; names are distinct. Those that are not listed have the defaults.
    pub connectors: Vec<ConnectorRule>,
    /// Public aliases; names are distinct.
    pub models: Vec<Model>,
    /// Who has the last word; names are distinct.
    pub webhooks: Vec<Arc<Webhook>>,
    /// Files besides [`Self::file`] whose change asks for a reload.
    pub watched: Vec<PathBuf>,
    /// What is allowed and yet worth a word.
    pub warnings: Vec<Problem>,
}

/// Where a `[[grant]]` is written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GrantLines {
    /// The line of its section.
    pub section: usize,
    /// The lines of what it says, by setting.
    pub settings: Vec<(&'static str, usize)>,
}

impl GrantLines {
    /// The line of a setting, or of the section when that is silent about it.
    #[must_use]
    pub fn line_of(&self, setting: &str) -> usize {
        self.settings.iter().find(|(name, _)| *name == setting).map_or(self.section, |(_, line)| *line)
    }
}

/// The public listener. Defaults are those of the example config.
#[derive(Debug)]
pub struct Listen {
    /// Where to listen.
    pub address: SocketAddr,
    /// Where those elsewhere connect to; empty when nobody said.
    pub advertise: Vec<GatewayAddress>,
    /// Host names by role.
    pub names: Names,
    /// Whether callers must present certificates.
    pub client_auth: ClientAuth,
    /// The certificate for the `api` names.
    pub certificate: ServerCertificate,
    /// True when TLS 1.2 is allowed beside 1.3.
    pub tls12: bool,
    /// Longest request body in bytes.
    pub max_body_bytes: u64,
    /// All buffered request bodies together, in bytes.
    pub max_buffered_bytes: u64,
    /// Most connections at once.
    pub max_connections: u32,
    /// Most connections at once from one address (IPv6: from one /64).
    pub max_connections_per_address: u32,
    /// The proxies that tell where callers come from, each connection with a PROXY header; `None`
    /// when callers connect themselves. Never every address.
    pub proxies: Option<Networks>,
    /// How long requests in flight may go on after a SIGTERM.
    pub drain: Duration,
}

/// Host names by role, lower-case. A name belongs to one role only.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Names {
    /// Callers; never empty. May hold IP addresses, which match a Host without SNI.
    pub api: Vec<String>,
    /// Connectors.
    pub connect: Vec<String>,
    /// Enrollment, renewal, CRL.
    pub enroll: Vec<String>,
}

/// Whether callers must present certificates. Deliberately without a default.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClientAuth {
    /// No certificate, no connection.
    Required,
    /// A certificate is asked for and may be absent; a bad one is refused.
    Optional,
    /// Certificates are not asked for.
    Off,
}

/// Where the certificate for the `api` names comes from.
#[derive(Debug)]
pub enum ServerCertificate {
    /// The built-in authority issues it.
    Internal,
    /// Files, already read and checked to belong together.
    Files {
        /// Leaf first.
        chain: Vec<CertificateDer<'static>>,
        /// The leaf's private key.
        key: PrivateKeyDer<'static>,
        /// What clients pin; for enrollment bundles.
        roots: Vec<CertificateDer<'static>>,
    },
}
/// The record of requests.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// `None`: standard output.
    pub file: Option<PathBuf>,
    /// What happens when records cannot be written fast enough.
    pub when_full: WhenFull,
    /// The file is rotated when it would grow beyond this.
    pub max_bytes: u64,
    /// How many rotated files are kept.
    pub keep: u32,
}

/// What happens to a request whose record cannot be queued.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WhenFull {
    /// It waits up to 1 s, then is refused.
    Block,
    /// It passes; the lost record is counted.
    Drop,
}

/// An `[[identity]]` entry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IdentityEntry {
    /// Which identities.
    pub matches: IdentityMatch,
    /// Where they sit.
    pub owner: OwnerPath,
}

impl IdentityEntry {
    /// Where `entries` place an identity: the most literal match; ties were refused on load.
    #[must_use]
    pub fn owner_of(entries: &[Self], identity: &Identity) -> Option<OwnerPath> {
        let precision = |entry: &&Self| entry.matches.glob().literal_characters();
        let fitting = entries.iter().filter(|entry| entry.matches.matches(identity));
        fitting.max_by_key(precision).map(|entry| entry.owner.clone())
    }
}

/// What the gateway's config says of a connector.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConnectorRule {
    /// The name in its certificate.
    pub name: IdentityName,
    /// Processes that may be connected with it at once, 1 to 64. Above 1 they are replicas, and
    /// share the requests.
    pub max_instances: u32,
}

/// True when `address` is one that the host name `name` of [`Names`] spells.
#[must_use]
pub fn is_address_name(name: &str, address: IpAddr) -> bool {
    name.parse::<IpAddr>().is_ok_and(|named| named.to_canonical() == address.to_canonical())
}

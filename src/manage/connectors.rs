//! Connectors: which tunnels are open to a running gateway, drained and closed.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::did_you_mean;
use crate::domain::identity::IdentityName;
use crate::manage::Manager;
use crate::manage::fault::{Code, Fault};
use crate::manage::operation::{Method, Operation};
use crate::manage::page::{self, Page};
use crate::overlay::hub::tunnel::Tunnel;
use crate::overlay::hub::tunnels::Tunnels;

/// A connector that the config gives backends to, or that is connected.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Connector {
    /// The name in its certificate.
    pub connector: String,
    /// The backends that the config gives it.
    pub backends: Vec<ConnectorBackend>,
    /// Its tunnels, in the order in which they came; none when it is not connected.
    pub tunnels: Vec<OpenTunnel>,
}

/// A backend behind a connector.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ConnectorBackend {
    /// Its name.
    pub name: String,
    /// `up`, `down` or `draining`, as the connector says; `absent` when no tunnel leads to it.
    pub state: String,
}

/// An open tunnel.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct OpenTunnel {
    /// Which process has dialled it.
    pub instance: String,
    /// Which of the process's links it is.
    pub index: u32,
    /// Where it comes from.
    pub address: String,
    /// The version of the connector.
    pub version: String,
    /// Since when it is registered.
    pub since: String,
    /// True when it takes no new requests and finishes those that it has.
    pub leaving: bool,
    /// The last round trip in microseconds; null before the first.
    pub rtt_micros: Option<u64>,
    /// Requests that are under way.
    pub streams: u64,
    /// When its certificate ends, and the tunnel with it.
    pub certificate_ends: String,
}

impl OpenTunnel {
    fn new(tunnel: &Tunnel) -> Self {
        Self {
            instance: tunnel.instance.to_string(),
            index: tunnel.index,
            address: tunnel.holder.address.to_string(),
            version: tunnel.version.to_string(),
            since: tunnel.since.to_string(),
            leaving: tunnel.is_leaving(),
            rtt_micros: tunnel.rtt().and_then(|span| u64::try_from(span.as_micros()).ok()),
            streams: tunnel.streams() as u64,
            certificate_ends: tunnel.holder.peer.not_after.to_string(),
        }
    }
}

impl Manager<'_> {
    /// The tunnels of the gateway that is asked.
    fn tunnels(&self) -> Result<&Tunnels, Fault> {
        let none = || Fault::new(Code::Failed, "only a running gateway has tunnels");
        self.tunnels.ok_or_else(|| none().hint("ask it over its admin API"))
    }
}

/// Lists connectors, by name.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ListConnectors {
    /// `next` of the page before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// Most entries of a page: 1 to 1000, 100 when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub limit: Option<u32>,
}

impl Operation for ListConnectors {
    type Answer = Page<Connector>;

    const NAME: &'static str = "listConnectors";
    const SUMMARY: &'static str = "List connectors, their backends and their tunnels";
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/v1/connectors";

    fn perform(self, manager: &mut Manager<'_>) -> Result<Self::Answer, Fault> {
        let limit = page::limit(self.limit)?;
        let all = connectors(manager.tunnels()?);
        Ok(page::cut(all, self.cursor.as_deref(), limit, |connector| connector.connector.clone()))
    }
}

/// Every connector, by name.
fn connectors(tunnels: &Tunnels) -> Vec<Connector> {
    let mut by_name: BTreeMap<String, Connector> = BTreeMap::new();
    let mut of = |name: &str, add: &mut dyn FnMut(&mut Connector)| {
        let empty = || Connector { connector: name.to_owned(), backends: Vec::new(), tunnels: Vec::new() };
        add(by_name.entry(name.to_owned()).or_insert_with(empty));
    };
    for (connector, backend) in tunnels.given() {
        let state = tunnels.state_of(&backend).map_or("absent", |state| state.as_str()).to_owned();
        of(&connector, &mut |connector| {
            connector.backends.push(ConnectorBackend { name: backend.to_string(), state: state.clone() });
        });
    }
    for tunnel in tunnels.all() {
        of(&tunnel.holder.name, &mut |connector| connector.tunnels.push(OpenTunnel::new(&tunnel)));
    }
    by_name.into_values().collect()
}

/// What became of a connector's tunnels.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct EndedTunnels {
    /// The connector.
    pub connector: String,
    /// How many tunnels end.
    pub tunnels: u64,
}

/// Ends the tunnels of a connector after the requests under way. It may dial again, and does.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DrainConnector {
    /// The name in its certificate.
    pub connector: String,
}

impl Operation for DrainConnector {
    type Answer = EndedTunnels;

    const NAME: &'static str = "drainConnector";
    const SUMMARY: &'static str = "End a connector's tunnels after the requests under way";
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/v1/connectors/{connector}/drain";

    fn perform(self, manager: &mut Manager<'_>) -> Result<Self::Answer, Fault> {
        end(manager.tunnels()?, self.connector, false)
    }
}

/// Ends the tunnels of a connector at once. It may dial again, and does: whom you do not want back,
/// revoke.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KickConnector {
    /// The name in its certificate.
    pub connector: String,
}

impl Operation for KickConnector {
    type Answer = EndedTunnels;

    const NAME: &'static str = "kickConnector";
    const SUMMARY: &'static str = "End a connector's tunnels at once, and the requests on them";
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/v1/connectors/{connector}/kick";

    fn perform(self, manager: &mut Manager<'_>) -> Result<Self::Answer, Fault> {
        end(manager.tunnels()?, self.connector, true)
    }
}

fn end(tunnels: &Tunnels, connector: String, at_once: bool) -> Result<EndedTunnels, Fault> {
    IdentityName::parse(&connector).map_err(|why| Fault::field("connector", why))?;
    let ended = tunnels.end(&connector, at_once) as u64;
    if ended > 0 {
        return Ok(EndedTunnels { connector, tunnels: ended });
    }
    let open = tunnels.all();
    let near = did_you_mean(&connector, open.iter().map(|tunnel| &*tunnel.holder.name));
    Err(Fault::new(Code::NotFound, format!("no tunnel of {connector:?} is open{near}")))
}

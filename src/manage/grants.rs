//! Grants in the store, beside those of the config file. Of two on one node both apply.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::domain::endpoint::Endpoints;
use crate::domain::grant::{self, Models, Require};
use crate::domain::network::Networks;
use crate::domain::origin::Origins;
use crate::domain::owner::OwnerPath;
use crate::domain::timestamp::{Timestamp, parse_span};
use crate::domain::webhook::{Hooked, WebhookName};
use crate::manage::fault::{Code, Fault};
use crate::manage::fields::{Reading, endpoints, when};
use crate::manage::operation::{Method, Operation};
use crate::manage::page::{self, Page};
use crate::manage::{Manager, Source};

/// A grant, as verbs show it. A field that is null says nothing: the path's other grants decide.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Grant {
    /// The node that it sits on.
    pub owner: String,
    /// Where it is kept.
    pub source: Source,
    /// Which credentials it asks for: certificate, key, both or either.
    pub require: Option<String>,
    /// Where callers may come from.
    pub networks: Option<Vec<String>>,
    /// What they may call.
    pub endpoints: Option<Vec<String>>,
    /// Which models they may name.
    pub models: Option<Vec<String>>,
    /// Which web pages may call and read the answers.
    pub cors_origins: Option<Vec<String>>,
    /// From this moment on everything at and below the node is refused.
    pub expires_at: Option<String>,
    /// How long a key lives that is made without an expiry.
    pub default_key_ttl: Option<String>,
    /// How long a key may live at most.
    pub max_key_ttl: Option<String>,
    /// The webhook that has the last word.
    pub webhook: Option<String>,
    /// Whether requests pass when the webhook fails and has `on_error = "allow"`.
    pub accept_fail_open: bool,
}

impl Grant {
    fn new(grant: &grant::Grant, source: Source) -> Self {
        Self {
            owner: grant.owner.to_string(),
            source,
            require: grant.require.map(|require| require.as_str().to_owned()),
            networks: grant.networks.as_ref().map(Networks::entries),
            endpoints: grant.endpoints.as_ref().map(Endpoints::entries),
            models: grant.models.as_ref().map(Models::entries),
            cors_origins: grant.cors_origins.as_ref().map(Origins::entries),
            expires_at: grant.expires_at.map(|at| at.to_string()),
            default_key_ttl: grant.default_key_ttl.map(spelled),
            max_key_ttl: grant.max_key_ttl.map(spelled),
            webhook: grant.webhook.as_ref().map(|hooked| hooked.name.to_string()),
            accept_fail_open: grant.webhook.as_ref().is_some_and(|hooked| hooked.accept_fail_open),
        }
    }
}

/// A span as it is written: in the largest unit that is exact.
fn spelled(span: Duration) -> String {
    let millis = span.as_millis();
    let units = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1000, "s")];
    let exact = units.into_iter().find(|(unit, _)| millis > 0 && millis.is_multiple_of(*unit));
    exact.map_or_else(|| format!("{millis}ms"), |(unit, name)| format!("{}{name}", millis / unit))
}

impl Manager<'_> {
    /// The grants on the path of `owner`, root first; of two on one node the config's first.
    pub(super) fn grants_on(&self, owner: &OwnerPath) -> Result<Vec<grant::Grant>, Fault> {
        self.placed_on(owner).map(|placed| placed.into_iter().map(|(grant, _)| grant).collect())
    }

    fn placed_on(&self, owner: &OwnerPath) -> Result<Vec<(grant::Grant, Source)>, Fault> {
        let config = self.policy.grants()?;
        let mut placed = Vec::new();
        for node in owner.lineage() {
            let of_config = config.iter().filter(|grant| grant.owner.as_str() == node);
            placed.extend(of_config.map(|grant| (grant.clone(), Source::Config)));
            let node = OwnerPath::parse(node).map_err(|why| Fault::field("owner", why))?;
            placed.extend(self.store.grant(&node)?.map(|grant| (grant, Source::Store)));
        }
        Ok(placed)
    }
}

/// Lists the grants of the config and of the store, by node.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ListGrants {
    /// `next` of the page before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// Most entries of a page: 1 to 1000, 100 when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub limit: Option<u32>,
}

impl Operation for ListGrants {
    type Answer = Page<Grant>;

    const NAME: &'static str = "listGrants";
    const SUMMARY: &'static str = "List the grants of the config and of the store";
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/v1/grants";

    fn perform(self, manager: &mut Manager<'_>) -> Result<Self::Answer, Fault> {
        let limit = page::limit(self.limit)?;
        let config = manager.policy.grants()?;
        let stored = manager.store.list_grants()?;
        let mut all: Vec<Grant> = config.iter().map(|grant| Grant::new(grant, Source::Config)).collect();
        all.extend(stored.iter().map(|grant| Grant::new(grant, Source::Store)));
        all.sort_by_cached_key(place);
        Ok(page::cut(all, self.cursor.as_deref(), limit, place))
    }
}

/// The order of lists: by node, the config's before the store's.
fn place(grant: &Grant) -> String {
    format!("{} {}", grant.owner, grant.source.as_str())
}

/// Shows the grants on the path of an owner: all of them apply to it.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ShowGrants {
    /// The owner. In a path `/` is written `%2F`.
    pub owner: String,
}

/// The grants on a path.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct GrantsOnPath {
    /// The owner.
    pub owner: String,
    /// The grants, root first.
    pub grants: Vec<Grant>,
}

impl Operation for ShowGrants {
    type Answer = GrantsOnPath;

    const NAME: &'static str = "showGrants";
    const SUMMARY: &'static str = "Show the grants on the path of an owner";
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/v1/grants/{owner}";

    fn perform(self, manager: &mut Manager<'_>) -> Result<Self::Answer, Fault> {
        let owner = OwnerPath::parse(&self.owner).map_err(|why| Fault::field("owner", why))?;
        let placed = manager.placed_on(&owner)?;
        let grants = placed.iter().map(|(grant, source)| Grant::new(grant, *source)).collect();
        Ok(GrantsOnPath { owner: owner.to_string(), grants })
    }
}

/// Puts a grant on a node, in the place of the one that the store had there. A field that is absent
/// says nothing.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SetGrant {
    /// The node, such as acme/research. In a path `/` is written `%2F`.
    pub owner: String,
    /// Which credentials it asks for: certificate, key, both or either.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub require: Option<String>,
    /// Where callers may come from, such as 10.20.0.0/16.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub networks: Option<Vec<String>>,
    /// What they may call: endpoints, groups (@chat) and patterns (ollama.*).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoints: Option<Vec<String>>,
    /// Which models they may name, and patterns over them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub models: Option<Vec<String>>,
    /// Which web pages may call and read the answers: origins such as `https://chat.corp.example`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cors_origins: Option<Vec<String>>,
    /// From this moment on everything at and below the node is refused: a span from now, or a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
    /// How long a key lives that is made without an expiry, such as 30d.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_key_ttl: Option<String>,
    /// How long a key may live at most, such as 90d. It counts when keys are made or changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_key_ttl: Option<String>,
    /// The webhook that has the last word: the NAME of a [webhook.NAME] of the config.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook: Option<String>,
    /// Whether requests pass when the webhook fails. It counts only where the webhook itself says
    /// `on_error = "allow"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accept_fail_open: Option<bool>,
}

/// A grant, and what will surprise whoever set it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct GrantAnswer {
    /// The grant as it is now.
    #[serde(flatten)]
    pub grant: Grant,
    /// What is allowed and yet worth a word.
    pub warnings: Vec<String>,
}

impl Operation for SetGrant {
    type Answer = GrantAnswer;

    const NAME: &'static str = "setGrant";
    const SUMMARY: &'static str = "Put a grant on a node of the owner tree";
    const METHOD: Method = Method::Put;
    const PATH: &'static str = "/v1/grants/{owner}";

    fn perform(self, manager: &mut Manager<'_>) -> Result<Self::Answer, Fault> {
        let grant = self.read(manager.now)?;
        manager.store.set_grant(&grant, manager.now)?;
        let mut warnings = Vec::new();
        let grants = manager.grants_on(&grant.owner)?;
        if manager.policy.knows_config() && grants.iter().all(|grant| grant.require.is_none()) {
            warnings
                .push(format!("no grant on the path of {} names `require`: callers there are refused", grant.owner));
        }
        Ok(GrantAnswer { grant: Grant::new(&grant, Source::Store), warnings })
    }
}

impl SetGrant {
    /// Fails when the request is wrong whatever the store holds.
    ///
    /// # Errors
    ///
    /// All that is wrong.
    pub fn check(&self, now: Timestamp) -> Result<(), Fault> {
        self.read(now).map(|_| ())
    }

    fn read(&self, now: Timestamp) -> Result<grant::Grant, Fault> {
        let mut reading = Reading::default();
        let read = self.fields(&mut reading, now);
        reading.finish()?;
        let Some(grant) = read else { return Err(Fault::field("owner", "is missing")) };
        if grant == grant::Grant::new(grant.owner.clone()) {
            return Err(Fault::new(Code::InvalidRequest, "the grant says nothing")
                .hint("`doorward grant remove` takes a grant away"));
        }
        Ok(grant)
    }

    fn fields(&self, reading: &mut Reading, now: Timestamp) -> Option<grant::Grant> {
        let owner = reading.value("owner", &self.owner, OwnerPath::parse);
        let grant = grant::Grant {
            owner: owner?,
            require: reading.optional("require", self.require.as_deref(), Require::parse),
            networks: reading.list("networks", self.networks.as_ref(), Networks::parse),
            endpoints: reading.list("endpoints", self.endpoints.as_ref(), endpoints),
            models: reading.list("models", self.models.as_ref(), Models::parse),
            cors_origins: reading.list("cors_origins", self.cors_origins.as_ref(), Origins::parse),
            expires_at: reading.optional("expires_at", self.expires_at.as_deref(), |text| {
                when(text, now).and_then(|at| if at > now { Ok(at) } else { Err("is not in the future".to_owned()) })
            }),
            default_key_ttl: reading.optional("default_key_ttl", self.default_key_ttl.as_deref(), ttl),
            max_key_ttl: reading.optional("max_key_ttl", self.max_key_ttl.as_deref(), ttl),
            webhook: reading
                .optional("webhook", self.webhook.as_deref(), WebhookName::parse)
                .map(|name| Hooked { name, accept_fail_open: self.accept_fail_open == Some(true) }),
        };
        if self.webhook.is_none() && self.accept_fail_open == Some(true) {
            reading.wrong("accept_fail_open", "goes with webhook");
        }
        if let (Some(default), Some(max)) = (grant.default_key_ttl, grant.max_key_ttl)
            && default > max
        {
            reading.wrong("default_key_ttl", "is longer than max_key_ttl");
        }
        Some(grant)
    }
}

fn ttl(text: &str) -> Result<Duration, String> {
    parse_span(text).and_then(|span| if span.is_zero() { Err("must not be zero".to_owned()) } else { Ok(span) })
}

/// Takes the store's grant of a node away.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RemoveGrant {
    /// The node. In a path `/` is written `%2F`.
    pub owner: String,
}

/// A grant that is gone.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct RemovedGrant {
    /// The node.
    pub owner: String,
}

impl Operation for RemoveGrant {
    type Answer = RemovedGrant;

    const NAME: &'static str = "removeGrant";
    const SUMMARY: &'static str = "Take the store's grant of a node away";
    const METHOD: Method = Method::Delete;
    const PATH: &'static str = "/v1/grants/{owner}";

    fn perform(self, manager: &mut Manager<'_>) -> Result<Self::Answer, Fault> {
        let owner = OwnerPath::parse(&self.owner).map_err(|why| Fault::field("owner", why))?;
        if manager.store.remove_grant(&owner, manager.now)? {
            return Ok(RemovedGrant { owner: owner.to_string() });
        }
        let fault = Fault::new(Code::NotFound, format!("the store has no grant on {owner}"));
        let in_config = manager.policy.grants().is_ok_and(|config| config.iter().any(|grant| grant.owner == owner));
        Err(if in_config {
            fault.hint("the grant there is in the config file: change it there")
        } else {
            fault.hint("`doorward grant list` shows all grants")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_read_back() {
        for text in ["30d", "36h", "90m", "5s", "1500ms", "0ms"] {
            assert_eq!(spelled(parse_span(text).unwrap()), text);
        }
        assert_eq!(spelled(parse_span("48h").unwrap()), "2d");
    }
}

//! `[[grant]]`: what may be done at which node of the owner tree.

use std::collections::{HashMap, HashSet};
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::config::document::{Place, Table, Value};
use crate::config::gateway::listen::is_empty_list;
use crate::config::suggest::did_you_mean;
use crate::config::{ClientAuth, GrantLines, IdentityEntry};
use crate::domain::endpoint::Endpoints;
use crate::domain::glob::Glob;
use crate::domain::grant::{Grant, Models, Require};
use crate::domain::network::Networks;
use crate::domain::origin::Origins;
use crate::domain::owner::OwnerPath;
use crate::domain::route::Model;
use crate::domain::webhook::{Hooked, WebhookName};

/// How long the keys of a grant may be told to live: a second to a hundred years.
const KEY_TTL: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(36_500 * 86_400);

/// A grant with the place of its section, for the checks that look at several at once.
pub(super) struct PlacedGrant<'d> {
    pub(super) grant: Grant,
    pub(super) lines: GrantLines,
    place: Place<'d>,
    models: Option<Value<'d>>,
    /// Where it names its webhook.
    pub(super) webhook: Option<Value<'d>>,
}

/// Reads every `[[grant]]`.
pub(super) fn read_grants<'d>(sections: &[Value<'d>]) -> Option<Vec<PlacedGrant<'d>>> {
    let mut owners = HashMap::new();
    let grants: Vec<Option<PlacedGrant<'d>>> = sections.iter().map(|entry| read_grant(entry, &mut owners)).collect();
    grants.into_iter().collect()
}

fn read_grant<'d>(entry: &Value<'d>, owners: &mut HashMap<OwnerPath, String>) -> Option<PlacedGrant<'d>> {
    entry.table(|table| {
        let owner = table.require("owner", "the node that this is granted to, such as \"acme/research\"");
        let owner = owner.and_then(|value| {
            let owner = value.parsed(OwnerPath::parse)?;
            if let Some(other) = owners.get(&owner) {
                return value.refuse(&format!("{owner} has its grant at {other}; a node has one"));
            }
            owners.insert(owner.clone(), value.place.pointer());
            Some(owner)
        });
        let require = optional(table.get("require"), |v| v.choice(&Require::ALL.map(|r| (r.as_str(), r))));
        let networks = optional(table.get("networks"), |value| value.list(Networks::parse));
        let endpoints = optional(table.get("endpoints"), Value::endpoints);
        let models_setting = table.get("models");
        let models = optional(models_setting.clone(), |value| value.list(Models::parse));
        let expires_at = optional(table.get("expires_at"), |value| {
            let expires_at = value.timestamp()?;
            if expires_at <= value.place.document.now {
                value.place.warn("has passed: everything at and below this node is refused");
            }
            Some(expires_at)
        });
        let max_key_ttl = optional(table.get("max_key_ttl"), |value| value.span(KEY_TTL));
        let default_key_ttl = optional(table.get("default_key_ttl"), |value| {
            let default = value.span(KEY_TTL)?;
            if max_key_ttl.flatten().is_some_and(|max| default > max) {
                value.place.warn("is longer than max_key_ttl, which holds");
            }
            Some(default)
        });
        let cors_origins = optional(table.get("cors_origins"), |value| {
            let origins = value.list(Origins::parse)?;
            for origin in origins.in_the_clear() {
                value.place.warn(format!("{origin} is fetched in the clear: anybody on the way can make it call"));
            }
            Some(origins)
        });
        let webhook_setting = table.get("webhook");
        let webhook = read_hooked(table, webhook_setting.as_ref());
        refuse_later_settings(table);
        let settings = ["require", "networks", "endpoints", "models", "cors_origins", "expires_at", "webhook"];
        let lines = settings.into_iter().filter_map(|name| Some((name, table.line_of(name)?))).collect();
        Some(PlacedGrant {
            lines: GrantLines { section: entry.place.line(), settings: lines },
            grant: Grant {
                owner: owner?,
                require: require?,
                networks: networks?,
                endpoints: endpoints?,
                models: models?,
                cors_origins: cors_origins?,
                expires_at: expires_at?,
                default_key_ttl: default_key_ttl?,
                max_key_ttl: max_key_ttl?,
                webhook: webhook?,
            },
            place: entry.place.clone(),
            models: models_setting,
            webhook: webhook_setting,
        })
    })
}

fn refuse_later_settings(table: &Table<'_>) {
    table.later("default_max_tokens", |_| false);
    table.later("limits", is_empty_list);
}

/// `webhook`, and `accept_fail_open` beside it.
fn read_hooked(table: &Table<'_>, webhook: Option<&Value<'_>>) -> Option<Option<Hooked>> {
    let name = webhook.map(|value| value.parsed(WebhookName::parse));
    let fail_open_setting = table.get("accept_fail_open");
    let accept_fail_open = fail_open_setting.as_ref().map_or(Some(false), Value::boolean)?;
    if let (None, true, Some(setting)) = (&name, accept_fail_open, &fail_open_setting) {
        return setting.refuse("goes with webhook, on the grant that names it");
    }
    match name {
        None => Some(None),
        Some(name) => Some(Some(Hooked { name: name?, accept_fail_open })),
    }
}

/// A setting that may be absent: `Some(None)` when it is, `None` when it is wrong.
pub(super) fn optional<'d, T>(
    value: Option<Value<'d>>,
    read: impl FnOnce(&Value<'d>) -> Option<T>,
) -> Option<Option<T>> {
    match value {
        None => Some(None),
        Some(value) => read(&value).map(Some),
    }
}

impl Value<'_> {
    /// A list of endpoint names, groups and patterns.
    pub(super) fn endpoints(&self) -> Option<Endpoints> {
        self.list(|words| {
            Endpoints::parse(words).map_err(|wrong| {
                let hint = |index: usize| match words.get(index) {
                    Some(word) if !word.contains('*') => did_you_mean(word, Endpoints::vocabulary()),
                    Some(_) | None => String::new(),
                };
                wrong.into_iter().map(|(index, why)| (index, format!("{why}{}", hint(index)))).collect()
            })
        })
    }
}

/// Warns of grants that refuse more than their author can have meant, and of identities that can
/// never pass.
pub(super) fn doubt(
    grants: &[PlacedGrant<'_>],
    identities: &[(&IdentityEntry, &Place<'_>)],
    client_auth: ClientAuth,
    models: &[Model],
) {
    let nodes = Nodes::of(grants);
    for PlacedGrant { grant, place, models: setting, .. } in grants {
        if !nodes.inner.contains(grant.owner.as_str()) {
            nodes.doubt(&grant.owner, place);
        }
        let wants_certificate = matches!(grant.require, Some(Require::Certificate | Require::Both));
        if wants_certificate && client_auth == ClientAuth::Off {
            place.warn("asks for certificates, and listen.client_auth = \"off\" takes none: nobody passes");
        }
        if grant.cors_origins.is_some() && client_auth == ClientAuth::Required {
            place.warn("lists origins, and browsers ask leave without a certificate: with listen.client_auth = \"required\" no page passes");
        }
        if let (Some(patterns), Some(setting)) = (&grant.models, setting) {
            doubt_models(patterns, setting, models);
        }
    }
    for (identity, place) in identities {
        nodes.doubt(&identity.owner, place);
    }
}

/// What the warnings need to know of the owner tree.
struct Nodes<'g> {
    /// Nodes whose grant names `require`.
    requiring: HashSet<&'g str>,
    /// Nodes with a grant below them, which may name what they do not.
    inner: HashSet<&'g str>,
}

impl<'g> Nodes<'g> {
    fn of(grants: &'g [PlacedGrant<'_>]) -> Self {
        let grants = || grants.iter().map(|placed| &placed.grant);
        let above = |owner: &'g OwnerPath| owner.lineage().filter(|node| *node != owner.as_str());
        Self {
            requiring: grants().filter(|grant| grant.require.is_some()).map(|grant| grant.owner.as_str()).collect(),
            inner: grants().flat_map(|grant| above(&grant.owner)).collect(),
        }
    }

    fn doubt(&self, owner: &OwnerPath, place: &Place<'_>) {
        if !owner.lineage().any(|node| self.requiring.contains(node)) {
            place.warn(format!("no grant on the path of {owner} names require: callers there are refused (no_grant)"));
        }
    }
}

/// A pattern that fits none of the models is a slip, unless there are no models yet.
fn doubt_models(patterns: &Models, setting: &Value<'_>, models: &[Model]) {
    let entries = setting.entries().unwrap_or_default();
    for (entry, pattern) in entries.iter().zip(patterns.entries()) {
        let admits = |model: &Model| Glob::parse(&pattern).is_ok_and(|glob| glob.matches(&model.name));
        if !models.is_empty() && !models.iter().any(admits) {
            let hint = did_you_mean(&pattern, models.iter().map(|model| model.name.as_str()));
            entry.place.warn(format!("{pattern:?} fits no [[model]]{hint}"));
        }
    }
}

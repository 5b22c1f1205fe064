//! `[[backend]]`: private inference servers, reached at a URL or through a connector; and
//! `[[connector]]`, what is said of a connector besides.

use std::collections::HashMap;

use crate::config::document::{Table, Value};
use crate::config::suggest::did_you_mean;
use crate::config::upstream::{DEFAULT_TIMEOUTS, is_loopback, read_timeouts, read_tls, read_url};
use crate::config::{Backend, BackendTls, ConnectorRule, Via};
use crate::domain::endpoint::Dialect;
use crate::domain::identity::IdentityName;

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
    let Some(connector) = table.get("connector") else {
        let url = table.require("url", "such as \"http://10.0.0.5:8000\"; or connector = \"site-a\"");
        return url.as_ref().and_then(read_url).map(Via::Url);
    };
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

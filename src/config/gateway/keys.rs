//! `[[key]]`: keys that live in the config, known by the hash of the whole key.

use std::collections::HashMap;

use crate::config::document::Value;
use crate::config::gateway::grants::{PlacedGrant, optional};
use crate::domain::grant::Models;
use crate::domain::key::{Binding, KeyDetails, KeyDigest, KeyId, KeyRecord, Labels, Narrowing, Note};
use crate::domain::network::Networks;
use crate::domain::owner::OwnerPath;

/// Reads every `[[key]]`.
pub(super) fn read_keys(sections: &[Value<'_>], grants: Option<&[PlacedGrant<'_>]>) -> Option<Vec<KeyRecord>> {
    let mut ids = HashMap::new();
    let keys: Vec<Option<KeyRecord>> = sections.iter().map(|entry| read_key(entry, &mut ids)).collect();
    for (entry, key) in sections.iter().zip(&keys) {
        if let (Some(key), Some(grants)) = (key, grants) {
            check_lifetime(entry, key, grants);
        }
    }
    keys.into_iter().collect()
}

fn read_key(entry: &Value<'_>, ids: &mut HashMap<String, String>) -> Option<KeyRecord> {
    let now = entry.place.document.now;
    entry.table(|table| {
        let id = table.require("id", "the 12 characters between dw_ and the second _ of the key");
        let id = id.and_then(|value| {
            let id = value.parsed(KeyId::parse)?;
            value.distinct(id.to_string(), ids)?;
            Some(id)
        });
        let owner = table.require("owner", "whom the key belongs to, such as \"acme/research\"");
        let owner = owner.and_then(|value| value.parsed(OwnerPath::parse));
        let digest = table.require("sha256", "the SHA-256 of the whole key in hexadecimal digits");
        let digest = digest.and_then(|value| value.parsed(KeyDigest::parse_sha256));
        let networks = optional(table.get("networks"), |value| value.list(Networks::parse));
        let endpoints = optional(table.get("endpoints"), Value::endpoints);
        let models = optional(table.get("models"), |value| value.list(Models::parse));
        let not_before = optional(table.get("not_before"), Value::timestamp);
        let expires_at = optional(table.get("expires_at"), Value::timestamp);
        let disabled = table.get("disabled").map_or(Some(false), |value| value.boolean());
        let bound_to = optional(table.get("bound_to"), |value| value.parsed(Binding::parse));
        let labels = optional(table.get("labels"), read_labels);
        let note = optional(table.get("note"), |value| value.parsed(Note::parse));
        match expires_at {
            Some(None) => entry.place.warn("never expires; expires_at would end it"),
            Some(Some(at)) if at <= now => entry.place.warn("has expired: it is refused"),
            Some(Some(_)) | None => {}
        }
        let details = KeyDetails {
            bound_to: bound_to?,
            labels: labels?.unwrap_or_default(),
            note: note?,
            ..KeyDetails::default()
        };
        Some(KeyRecord {
            narrowing: Narrowing { networks: networks?, endpoints: endpoints?, models: models? },
            not_before: not_before?,
            expires_at: expires_at?,
            disabled: disabled?,
            details: details.boxed(),
            ..KeyRecord::new(id?, owner?, digest?, now)
        })
    })
}

fn read_labels(value: &Value<'_>) -> Option<Labels> {
    let Some(table) = value.raw().as_table() else {
        return value.mistyped("a table such as { team = \"search\" }");
    };
    let pairs = table.iter().map(|(name, label)| Some((name.get_ref(), label.get_ref().as_str()?)));
    let Some(pairs) = pairs.collect::<Option<Vec<_>>>() else {
        return value.refuse("the value of a label is a string");
    };
    match Labels::parse(pairs) {
        Ok(labels) => Some(labels),
        Err(wrong) => {
            wrong.into_iter().for_each(|(_, why)| value.wrong(why));
            None
        }
    }
}

/// Nobody knows when such a key was made: it must end within `max_key_ttl` from now.
fn check_lifetime(entry: &Value<'_>, key: &KeyRecord, grants: &[PlacedGrant<'_>]) {
    let on_path = grants.iter().map(|placed| &placed.grant).filter(|grant| key.owner.is_within(grant.owner.as_str()));
    let limits = on_path.filter_map(|grant| Some((grant.max_key_ttl?, &grant.owner)));
    let Some((ttl, by)) = limits.min_by_key(|(ttl, _)| *ttl) else { return };
    let latest = entry.place.document.now.after(ttl);
    if key.expires_at.is_none_or(|end| end > latest) {
        entry.wrong(format!("lives longer from now on than max_key_ttl of the grant {by} allows: set expires_at"));
    }
}

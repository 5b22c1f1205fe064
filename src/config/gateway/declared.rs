//! What a config file lists of the owner tree, read without the rest of the file.
//!
//! Invariant: a verb that keeps to grants and keys must not need the secrets that serving needs, so
//! nothing else decides here whether the file is good.

use std::collections::HashMap;
use std::path::Path;

use crate::config::gateway::backends::{self, read_backends};
use crate::config::gateway::grants::read_grants;
use crate::config::gateway::keys::read_keys;
use crate::config::gateway::models::read_models;
use crate::config::gateway::part::read_part;
use crate::config::gateway::trust::{Authorities, read_ca, read_identities};
use crate::config::gateway::webhooks::webhook_names;
use crate::config::parse::whole;
use crate::config::{Config, GrantLines, IdentityEntry, Problem};
use crate::domain::endpoint::Dialect;
use crate::domain::grant::Grant;
use crate::domain::key::KeyRecord;
use crate::domain::owner::OwnerPath;
use crate::domain::route::Model;

/// The grants and keys that a config file lists, and what an explanation of them needs besides.
#[derive(Clone, Default, Debug)]
pub struct Declared {
    /// `[[grant]]`.
    pub grants: Vec<Grant>,
    /// Where each grant is written.
    pub grant_lines: HashMap<OwnerPath, GrantLines>,
    /// `[[key]]`.
    pub keys: Vec<KeyRecord>,
    /// `[[identity]]`; `None` when they cannot be read.
    pub identities: Option<Vec<IdentityEntry>>,
    /// `[[model]]`; `None` when they cannot be read.
    pub models: Option<Vec<Model>>,
    /// The names of `[webhook.NAME]`.
    pub webhooks: Vec<String>,
    /// Name and dialects of each `[[backend]]`, in the order that targets count by.
    pub backends: Vec<(String, Vec<Dialect>)>,
}

impl Declared {
    /// What a config that was read as a whole lists.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        Self {
            grants: config.grants.clone(),
            grant_lines: config.grant_lines.clone(),
            keys: config.keys.clone(),
            identities: Some(config.identities.clone()),
            models: Some(config.models.clone()),
            webhooks: config.webhooks.iter().map(|webhook| webhook.name.to_string()).collect(),
            backends: config.backends.iter().map(|it| (it.name.clone(), it.dialects.clone())).collect(),
        }
    }
}

/// The grants and keys that a config file lists, whatever else is in the file: as `state_dir`, for
/// verbs that keep to them.
///
/// # Errors
///
/// When the file cannot be read, is not TOML, or one of them is wrong.
pub fn declared(file: &Path) -> Result<Declared, Vec<Problem>> {
    let (declared, mut problems) = read_part(file, |root| {
        let sections = |name| root.get(name).map(|value| value.sections()).unwrap_or_default();
        let grants = read_grants(&sections("grant"));
        let keys = read_keys(&sections("key"), grants.as_deref());
        let mut authorities = Authorities::new();
        // Which domains an authority owns is looked at where the whole config is checked.
        drop(read_ca(root.get("ca").as_ref(), &mut authorities));
        let identities = read_identities(&sections("identity"), &authorities);
        let (_, backends) = read_backends(&sections("backend"), None);
        let models = read_models(&sections("model"), &backends);
        let named =
            |backend: backends::Declared| (backend.name.unwrap_or_default(), backend.dialects.unwrap_or_default());
        Some(Declared {
            grant_lines: grants.iter().flatten().map(|it| (it.grant.owner.clone(), it.lines.clone())).collect(),
            grants: grants?.into_iter().map(|placed| placed.grant).collect(),
            keys: keys?,
            identities,
            models,
            webhooks: webhook_names(root.get("webhook").as_ref()),
            backends: backends.into_iter().map(named).collect(),
        })
    })?;
    let is_ours =
        |name: &str| ["grant", "key"].iter().any(|ours| name == *ours || name.starts_with(&format!("{ours}[")));
    problems.retain(|problem| is_ours(&problem.path));
    match declared {
        Some(declared) if problems.is_empty() => Ok(declared),
        None if problems.is_empty() => Err(vec![whole("the config was refused without a reason".to_owned())]),
        Some(_) | None => Err(problems),
    }
}

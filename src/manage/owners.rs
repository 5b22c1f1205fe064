//! Owners: switched off and on again, each with everything below it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::did_you_mean;
use crate::domain::owner::{DisabledOwners, OwnerPath};
use crate::manage::Manager;
use crate::manage::fault::Fault;
use crate::manage::operation::{Method, Operation};
use crate::manage::page::{self, Page};
use crate::store::rows::OwnerRow;

/// An owner that the store knows of: it has a key or a grant there, or is switched off.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Owner {
    /// Its path.
    pub owner: String,
    /// Since when it is switched off.
    pub disabled_at: Option<String>,
    /// How many keys belong to it, revoked ones included.
    pub keys: u64,
    /// Whether the store has a grant on it.
    pub granted: bool,
}

impl Owner {
    fn new(row: OwnerRow) -> Self {
        let OwnerRow { owner, disabled_at, keys, granted } = row;
        Self { owner: owner.to_string(), disabled_at: disabled_at.map(|at| at.to_string()), keys, granted }
    }
}

impl Manager<'_> {
    /// The owners that are switched off.
    pub(super) fn disabled_owners(&self) -> Result<DisabledOwners, Fault> {
        let owners = self.store.list_owners()?;
        Ok(owners.into_iter().filter(|row| row.disabled_at.is_some()).map(|row| row.owner).collect())
    }
}

/// Lists owners, by path.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ListOwners {
    /// `next` of the page before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// Most entries of a page: 1 to 1000, 100 when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub limit: Option<u32>,
}

impl Operation for ListOwners {
    type Answer = Page<Owner>;

    const NAME: &'static str = "listOwners";
    const SUMMARY: &'static str = "List the owners that the store knows of";
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/v1/owners";

    fn perform(self, manager: &mut Manager<'_>) -> Result<Self::Answer, Fault> {
        let limit = page::limit(self.limit)?;
        let owners = manager.store.list_owners()?.into_iter().map(Owner::new);
        Ok(page::cut(owners, self.cursor.as_deref(), limit, |owner| owner.owner.clone()))
    }
}

/// An owner that was switched off or on.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "SwitchedOwner")]
pub struct Switched {
    /// Its path.
    pub owner: String,
    /// Whether it is off now.
    pub disabled: bool,
    /// False when it was so before.
    pub newly: bool,
    /// What is allowed and yet worth a word.
    pub warnings: Vec<String>,
}

/// Switches an owner off, with everything below it: keys and certificates alike.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DisableOwner {
    /// Its path. In a URL `/` is written `%2F`.
    pub owner: String,
}

impl Operation for DisableOwner {
    type Answer = Switched;

    const NAME: &'static str = "disableOwner";
    const SUMMARY: &'static str = "Switch an owner off with everything below it, within a second";
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/v1/owners/{owner}/disable";

    fn perform(self, manager: &mut Manager<'_>) -> Result<Self::Answer, Fault> {
        let owner = OwnerPath::parse(&self.owner).map_err(|why| Fault::field("owner", why))?;
        let known = manager.store.list_owners()?;
        let mut warnings = Vec::new();
        if !known.iter().any(|row| row.owner.is_within(owner.as_str())) {
            let near = did_you_mean(owner.as_str(), known.iter().map(|row| row.owner.as_str()));
            warnings.push(format!("no key and no grant of the store belongs to {owner}{near}"));
        }
        let newly = manager.store.set_owner_disabled(&owner, true, manager.now)?;
        Ok(Switched { owner: owner.to_string(), disabled: true, newly, warnings })
    }
}

/// Switches an owner on again.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EnableOwner {
    /// Its path. In a URL `/` is written `%2F`.
    pub owner: String,
}

impl Operation for EnableOwner {
    type Answer = Switched;

    const NAME: &'static str = "enableOwner";
    const SUMMARY: &'static str = "Switch an owner on again";
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/v1/owners/{owner}/enable";

    fn perform(self, manager: &mut Manager<'_>) -> Result<Self::Answer, Fault> {
        let owner = OwnerPath::parse(&self.owner).map_err(|why| Fault::field("owner", why))?;
        let newly = manager.store.set_owner_disabled(&owner, false, manager.now)?;
        let above = manager.disabled_owners()?.on_path(&owner).cloned();
        let warnings = above.map(|above| format!("{above} is switched off, and {owner} with it")).into_iter().collect();
        Ok(Switched { owner: owner.to_string(), disabled: false, newly, warnings })
    }
}

//! A key as verbs show it.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::domain::endpoint::Endpoints;
use crate::domain::grant::Models;
use crate::domain::key::{KeyRecord, KeyState, NewKey};
use crate::domain::network::Networks;
use crate::domain::owner::DisabledOwners;
use crate::domain::timestamp::Timestamp;
use crate::manage::Manager;
use crate::manage::Source;
use crate::manage::fault::Fault;
use crate::manage::fields::Revealed;

/// A key. Only the answer that makes it holds its secret.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Key {
    /// Its public name.
    pub id: String,
    /// The whole key: shown once, only its hash is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Revealed>,
    /// Where it is kept.
    pub source: Source,
    /// Whom it belongs to.
    pub owner: String,
    /// What it is good for now.
    pub state: State,
    /// Networks that it works from; null: its owner's grants decide.
    pub networks: Option<Vec<String>>,
    /// What it may call; null: its owner's grants decide.
    pub endpoints: Option<Vec<String>>,
    /// Models that it may name; null: its owner's grants decide.
    pub models: Option<Vec<String>>,
    /// When it was made; null for a key of the config.
    pub created_at: Option<String>,
    /// Before this it is refused.
    pub not_before: Option<String>,
    /// From this moment on it is refused.
    pub expires_at: Option<String>,
    /// Since when it is revoked, for good.
    pub revoked_at: Option<String>,
    /// How often it may still be used; null: as often as one likes.
    pub uses_left: Option<u32>,
    /// Whether a use is given back that ended without a backend's answer.
    pub refund_on_failure: bool,
    /// The identity over whose connections alone it works.
    pub bound_to: Option<String>,
    /// Whether it is switched off.
    pub disabled: bool,
    /// The operator's own words about it.
    pub labels: BTreeMap<String, String>,
    /// A remark.
    pub note: Option<String>,
    /// When it was last used, up to a second old.
    pub last_used_at: Option<String>,
    /// The key whose place it took.
    pub rotated_from: Option<String>,
    /// What another system calls it.
    pub external_id: Option<String>,
}

/// What a key is good for. Of several reasons against it the most final is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "KeyState")]
pub enum State {
    /// It can be used.
    Active,
    /// Its time has not come.
    NotYet,
    /// Its time is over.
    Expired,
    /// It was revoked, for good.
    Revoked,
    /// It is switched off.
    Disabled,
    /// Its owner, or one above, is switched off.
    OwnerDisabled,
    /// It was used as often as it may be.
    Spent,
}

impl State {
    /// Every state.
    pub const ALL: [Self; 7] =
        [Self::Active, Self::NotYet, Self::Expired, Self::Revoked, Self::Disabled, Self::OwnerDisabled, Self::Spent];

    /// The word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::NotYet => "not_yet",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
            Self::Disabled => "disabled",
            Self::OwnerDisabled => "owner_disabled",
            Self::Spent => "spent",
        }
    }

    /// Reads the word.
    ///
    /// # Errors
    ///
    /// When `text` is no state; the message has all of them.
    pub fn parse(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|state| state.as_str() == text).ok_or_else(|| {
            let known = Self::ALL.map(Self::as_str);
            format!("{text:?} is not a state ({})", known.join(", "))
        })
    }

    pub(super) fn of(record: &KeyRecord, disabled: &DisabledOwners, now: Timestamp) -> Self {
        let by_owner = disabled.on_path(&record.owner).is_some();
        match record.state(now) {
            KeyState::Revoked => Self::Revoked,
            KeyState::Expired => Self::Expired,
            KeyState::Disabled => Self::Disabled,
            KeyState::NotYet | KeyState::Spent | KeyState::Active if by_owner => Self::OwnerDisabled,
            KeyState::NotYet => Self::NotYet,
            KeyState::Spent => Self::Spent,
            KeyState::Active => Self::Active,
        }
    }
}

impl Key {
    pub(super) fn new(
        (record, source): (&KeyRecord, Source),
        disabled: &DisabledOwners,
        last_used_at: Option<Timestamp>,
        now: Timestamp,
    ) -> Self {
        let details = record.details();
        let time = |at: Timestamp| at.to_string();
        Self {
            id: record.id.to_string(),
            key: None,
            source,
            owner: record.owner.to_string(),
            state: State::of(record, disabled, now),
            networks: record.narrowing.networks.as_ref().map(Networks::entries),
            endpoints: record.narrowing.endpoints.as_ref().map(Endpoints::entries),
            models: record.narrowing.models.as_ref().map(Models::entries),
            created_at: (source == Source::Store).then(|| record.created_at.to_string()),
            not_before: record.not_before.map(time),
            expires_at: record.expires_at.map(time),
            revoked_at: record.revoked_at.map(time),
            uses_left: record.uses.map(|uses| uses.left),
            refund_on_failure: record.uses.is_some_and(|uses| uses.refund_on_failure),
            bound_to: details.bound_to.map(|binding| binding.to_string()),
            disabled: record.disabled,
            labels: details.labels.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
            note: details.note.map(|note| note.as_str().to_owned()),
            last_used_at: last_used_at.map(time),
            rotated_from: details.rotated_from.map(|id| id.to_string()),
            external_id: details.external_id.map(|id| id.to_string()),
        }
    }

    pub(super) fn with_secret(self, key: &NewKey) -> Self {
        Self { key: Some(Revealed::new(key.reveal())), ..self }
    }
}

/// A key, and what will surprise its owner.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct KeyAnswer {
    /// The key as it is now.
    #[serde(flatten)]
    pub key: Key,
    /// What is allowed and yet worth a word.
    pub warnings: Vec<String>,
}

impl Manager<'_> {
    /// A key as it is shown.
    pub(super) fn shown(&self, record: &KeyRecord) -> Result<Key, Fault> {
        let last_used_at = self.store.last_used_at(&record.id)?;
        Ok(Key::new((record, Source::Store), &self.disabled_owners()?, last_used_at, self.now))
    }
}

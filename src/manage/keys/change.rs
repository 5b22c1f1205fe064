//! Keys, changed: updated, rotated, revoked, deleted.

use std::collections::BTreeMap;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::domain::grant::{Grant, Models};
use crate::domain::key::{
    Binding, ExternalId, KeyChange, KeyId, KeyRecord, Lifetime, NotAllowed, Note, expiry_allowed,
};
use crate::domain::network::Networks;
use crate::domain::timestamp::{Timestamp, parse_span};
use crate::manage::fault::{Code, Fault};
use crate::manage::fields::{Change, Reading, endpoints, when};
use crate::manage::keys::policy::{self, not_allowed};
use crate::manage::keys::{Key, KeyAnswer, labels, read_id, unknown, uses};
use crate::manage::operation::{Method, Operation};
use crate::manage::{Manager, Policy};
use crate::store::rows::{Revoked, Rotated, Rotation, Updated};

/// Changes the fields of a key that are named; null takes one away. Its owner and its secret never
/// change.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UpdateKey {
    /// Its public id.
    pub id: String,
    /// When it ends: a span from now (30d) or a time; null: what the grants on its path say by default.
    #[serde(default, skip_serializing_if = "Change::is_keep")]
    pub expires_at: Change<String>,
    /// Before this it is refused: a span from now, or a time.
    #[serde(default, skip_serializing_if = "Change::is_keep")]
    pub not_before: Change<String>,
    /// How often it may be used from now on; null: as often as one likes.
    #[serde(default, skip_serializing_if = "Change::is_keep")]
    pub uses: Change<u32>,
    /// Whether a use is given back that ended without a backend's answer. Goes with `uses`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refund_on_failure: Option<bool>,
    /// Networks that it works from; null: its owner's grants decide.
    #[serde(default, skip_serializing_if = "Change::is_keep")]
    pub networks: Change<Vec<String>>,
    /// What it may call; null: its owner's grants decide.
    #[serde(default, skip_serializing_if = "Change::is_keep")]
    pub endpoints: Change<Vec<String>>,
    /// Models that it may name; null: its owner's grants decide.
    #[serde(default, skip_serializing_if = "Change::is_keep")]
    pub models: Change<Vec<String>>,
    /// The identity over whose connections alone it works.
    #[serde(default, skip_serializing_if = "Change::is_keep")]
    pub bound_to: Change<String>,
    /// Whether it is switched off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disabled: Option<bool>,
    /// All its labels from now on.
    #[serde(default, skip_serializing_if = "Change::is_keep")]
    pub labels: Change<BTreeMap<String, String>>,
    /// A remark, in one line.
    #[serde(default, skip_serializing_if = "Change::is_keep")]
    pub note: Change<String>,
    /// What another system calls it.
    #[serde(default, skip_serializing_if = "Change::is_keep")]
    pub external_id: Change<String>,
}

impl Operation for UpdateKey {
    type Answer = KeyAnswer;

    const NAME: &'static str = "updateKey";
    const SUMMARY: &'static str = "Change fields of a key";
    const METHOD: Method = Method::Patch;
    const PATH: &'static str = "/v1/keys/{id}";

    fn perform(self, manager: &mut Manager<'_>) -> Result<Self::Answer, Fault> {
        let id = read_id(&self.id)?;
        let mut reading = Reading::default();
        let mut change = self.read(&mut reading, manager.now);
        reading.finish()?;
        only_in_store(&id, manager.policy)?;
        let record = manager.store.key(&id)?.ok_or_else(|| unknown(&id, manager.policy))?;
        let grants = manager.grants_on(&record.owner)?;
        if change.expires_at.is_some() || change.not_before.is_some() {
            let asked = Lifetime {
                created_at: record.created_at,
                not_before: change.not_before.unwrap_or(record.not_before),
                expires_at: change.expires_at.unwrap_or(record.expires_at),
            };
            let expires_at = expiry_allowed(asked, manager.now, &grants).map_err(|why| not_allowed(&why))?;
            change.expires_at = Some(expires_at);
        }
        let record = match manager.store.update_key(&id, &change, manager.now)? {
            Updated::Changed(record) | Updated::Unchanged(record) => record,
            Updated::Unknown => return Err(unknown(&id, manager.policy)),
        };
        Ok(KeyAnswer { key: manager.shown(&record)?, warnings: policy::warnings(&record, &grants, manager.policy) })
    }
}

/// A key that the config has too is the config's, whatever the store says of it, except that it is
/// revoked: to change it here would do nothing, and to forget its revocation would revive it.
fn only_in_store(id: &KeyId, policy: &Policy) -> Result<(), Fault> {
    if policy.keys().iter().any(|key| key.id == *id) { Err(unknown(id, policy)) } else { Ok(()) }
}

impl UpdateKey {
    fn read(&self, reading: &mut Reading, now: Timestamp) -> KeyChange {
        let list = |change: &Change<Vec<String>>| change.value().cloned();
        KeyChange {
            expires_at: field(
                &self.expires_at,
                reading.optional("expires_at", text(&self.expires_at), |t| when(t, now)),
            ),
            not_before: field(
                &self.not_before,
                reading.optional("not_before", text(&self.not_before), |t| when(t, now)),
            ),
            uses: field(&self.uses, uses(reading, self.uses.value().copied(), self.refund_on_failure)),
            networks: field(&self.networks, reading.list("networks", list(&self.networks).as_ref(), Networks::parse)),
            endpoints: field(&self.endpoints, reading.list("endpoints", list(&self.endpoints).as_ref(), endpoints)),
            models: field(&self.models, reading.list("models", list(&self.models).as_ref(), Models::parse)),
            bound_to: field(&self.bound_to, reading.optional("bound_to", text(&self.bound_to), Binding::parse)),
            disabled: self.disabled,
            labels: match &self.labels {
                Change::Keep => None,
                Change::Clear => Some(labels(reading, &BTreeMap::new())),
                Change::Set(all) => Some(labels(reading, all)),
            },
            note: field(&self.note, reading.optional("note", text(&self.note), Note::parse)),
            external_id: field(
                &self.external_id,
                reading.optional("external_id", text(&self.external_id), ExternalId::parse),
            ),
        }
    }
}

fn text(change: &Change<String>) -> Option<&str> {
    change.value().map(String::as_str)
}

/// What the store is told of a field that was read.
fn field<T, R>(change: &Change<T>, read: Option<R>) -> Option<Option<R>> {
    (!change.is_keep()).then_some(read)
}

/// Puts a new key in the place of one: new secret, new id, the same policy.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RotateKey {
    /// Public id of the old one.
    pub id: String,
    /// How long the old one may be used beside the new one: a span, 24h when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overlap: Option<String>,
    /// When the new one ends: a span from now or a time. When absent it lives as long as the old one
    /// was made for, from now on, as far as the grants on its path allow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
}

/// What came of a rotation.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct RotatedKey {
    /// The new key.
    #[serde(flatten)]
    pub key: Key,
    /// When the old one ends.
    pub old_expires_at: Option<String>,
    /// What is allowed and yet worth a word.
    pub warnings: Vec<String>,
}

const OVERLAP: Duration = Duration::from_secs(86_400);

impl Operation for RotateKey {
    type Answer = RotatedKey;

    const NAME: &'static str = "rotateKey";
    const SUMMARY: &'static str = "Put a new key in the place of one; it is shown in this answer and never again";
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/v1/keys/{id}/rotate";
    const CREATES: bool = true;

    fn perform(self, manager: &mut Manager<'_>) -> Result<Self::Answer, Fault> {
        let (id, now) = (read_id(&self.id)?, manager.now);
        let mut reading = Reading::default();
        let overlap = reading.optional("overlap", self.overlap.as_deref(), parse_span);
        let asked = reading.optional("expires_at", self.expires_at.as_deref(), |text| when(text, now));
        reading.finish()?;
        only_in_store(&id, manager.policy)?;
        let old = manager.store.key(&id)?.ok_or_else(|| unknown(&id, manager.policy))?;
        let grants = manager.grants_on(&old.owner)?;
        let expires_at = match asked {
            Some(_) => life(&old, asked, now, &grants).map_err(|why| not_allowed(&why))?,
            None => same_life(&old, now, &grants)?,
        };
        let (key, digest) = manager.mint()?;
        let rotation = Rotation { id: key.id(), digest, expires_at, overlap: overlap.unwrap_or(OVERLAP), now };
        let ended = |why: &str| {
            Fault::new(Code::Conflict, format!("{id} {why}")).hint("`doorward key create` makes another key")
        };
        match manager.store.rotate_key(&id, &rotation)? {
            Rotated::Rotated { new, old } => Ok(RotatedKey {
                key: manager.shown(&new)?.with_secret(&key),
                old_expires_at: old.expires_at.map(|at| at.to_string()),
                warnings: policy::warnings(&new, &grants, manager.policy),
            }),
            Rotated::Unknown => Err(unknown(&id, manager.policy)),
            Rotated::Revoked => Err(ended("is revoked: nothing takes its place")),
            Rotated::Expired => Err(ended("has expired: nothing takes its place")),
        }
    }
}

fn life(
    old: &KeyRecord,
    expires_at: Option<Timestamp>,
    now: Timestamp,
    grants: &[Grant],
) -> Result<Option<Timestamp>, NotAllowed> {
    expiry_allowed(Lifetime { created_at: now, not_before: old.not_before, expires_at }, now, grants)
}

/// As long a life as the old key was made for, and no longer than the grants allow now.
fn same_life(old: &KeyRecord, now: Timestamp, grants: &[Grant]) -> Result<Option<Timestamp>, Fault> {
    let as_long = old.expires_at.map(|end| now.after(end.since(old.created_at)));
    let allowed = match life(old, as_long, now, grants) {
        Err(NotAllowed::TooLong { latest, .. }) => life(old, Some(latest), now, grants),
        decided => decided,
    };
    allowed.map_err(|why| not_allowed(&why))
}

/// Revokes a key for good.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RevokeKey {
    /// Its public id.
    pub id: String,
}

/// A key that is revoked.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct RevokedKey {
    /// Its public id.
    pub id: String,
    /// False when it was revoked before; the first time stays.
    pub newly: bool,
}

impl Operation for RevokeKey {
    type Answer = RevokedKey;

    const NAME: &'static str = "revokeKey";
    const SUMMARY: &'static str = "Revoke a key for good, within a second";
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/v1/keys/{id}/revoke";

    fn perform(self, manager: &mut Manager<'_>) -> Result<Self::Answer, Fault> {
        let id = read_id(&self.id)?;
        let newly = match manager.store.revoke_key(&id, manager.now)? {
            Revoked::Revoked => true,
            Revoked::AlreadyRevoked => false,
            Revoked::Unknown => return Err(unknown(&id, manager.policy)),
        };
        Ok(RevokedKey { id: id.to_string(), newly })
    }
}

/// Forgets a key. What was recorded of it stays in the records; revoking keeps it listed.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DeleteKey {
    /// Its public id.
    pub id: String,
}

/// A key that is gone.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct DeletedKey {
    /// Its public id.
    pub id: String,
}

impl Operation for DeleteKey {
    type Answer = DeletedKey;

    const NAME: &'static str = "deleteKey";
    const SUMMARY: &'static str = "Forget a key; it is refused within a second";
    const METHOD: Method = Method::Delete;
    const PATH: &'static str = "/v1/keys/{id}";

    fn perform(self, manager: &mut Manager<'_>) -> Result<Self::Answer, Fault> {
        let id = read_id(&self.id)?;
        only_in_store(&id, manager.policy)?;
        if manager.store.delete_key(&id, manager.now)? {
            Ok(DeletedKey { id: id.to_string() })
        } else {
            Err(unknown(&id, manager.policy))
        }
    }
}

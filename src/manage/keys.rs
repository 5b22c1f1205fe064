//! Keys: made, shown, changed, rotated, revoked and deleted.

mod answer;
mod change;
mod import;
mod list;
mod policy;

pub use answer::{Key, KeyAnswer, State};
pub use change::{DeleteKey, DeletedKey, RevokeKey, RevokedKey, RotateKey, RotatedKey, UpdateKey};
pub use import::{ImportKey, ImportKeys, ImportedKey, ImportedKeys, MAX_KEYS, Outcome};
pub use list::{ListKeys, ShowKey};

use std::collections::BTreeMap;

use aws_lc_rs::rand;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::domain::grant::Models;
use crate::domain::key::{
    Binding, ExternalId, KeyDetails, KeyDigest, KeyId, KeyRecord, Labels, Narrowing, NewKey, Note, Uses,
};
use crate::domain::network::Networks;
use crate::domain::owner::OwnerPath;
use crate::domain::timestamp::Timestamp;
use crate::manage::fault::{Code, Fault};
use crate::manage::fields::{Reading, endpoints, when};
use crate::manage::operation::{Method, Operation};
use crate::manage::{Manager, Policy};
use crate::store::pepper;

/// Makes a key. Without limits of its own it may do what its owner's grants say.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateKey {
    /// Whom the key belongs to, such as acme/research/alice.
    pub owner: String,
    /// When it ends: a span from now (30d) or a time (2027-01-31T00:00:00Z). When absent, the shortest
    /// default_key_ttl of the grants on the owner's path, else never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
    /// Before this it is refused: a span from now, or a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<String>,
    /// How often it may be used; as often as one likes when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub uses: Option<u32>,
    /// Whether a use is given back that ended without a backend's answer. Goes with `uses`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refund_on_failure: Option<bool>,
    /// Networks that it works from, such as 10.20.0.0/16.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub networks: Option<Vec<String>>,
    /// Endpoints, groups (@chat) and patterns (ollama.*) that it may call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoints: Option<Vec<String>>,
    /// Models and patterns over them that it may name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub models: Option<Vec<String>>,
    /// The identity over whose connections alone it works; * is allowed in the last segment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bound_to: Option<String>,
    /// The operator's own words about it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// A remark, in one line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// What another system calls it; no two keys have the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_id: Option<String>,
}

impl Operation for CreateKey {
    type Answer = KeyAnswer;

    const NAME: &'static str = "createKey";
    const SUMMARY: &'static str = "Make a key; it is shown in this answer and never again";
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/v1/keys";
    const CREATES: bool = true;

    fn perform(self, manager: &mut Manager<'_>) -> Result<Self::Answer, Fault> {
        let wanted = self.wanted(manager.now)?;
        let grants = manager.grants_on(&wanted.owner)?;
        let expires_at = policy::expiry(&wanted, manager.now, manager.now, &grants)?;
        let (key, digest) = manager.mint()?;
        let mut record = wanted.record(key.id(), digest, manager.now);
        record.expires_at = expires_at;
        manager.store.create_key(&record)?;
        let warnings = policy::warnings(&record, &grants, manager.policy);
        Ok(KeyAnswer { key: manager.shown(&record)?.with_secret(&key), warnings })
    }
}

/// A key that is asked for, its fields read.
#[derive(Debug)]
struct Wanted {
    owner: OwnerPath,
    expires_at: Option<Timestamp>,
    not_before: Option<Timestamp>,
    uses: Option<Uses>,
    narrowing: Narrowing,
    details: KeyDetails,
}

impl CreateKey {
    /// Fails when the request is wrong whatever the store holds.
    ///
    /// # Errors
    ///
    /// All that is wrong.
    pub fn check(&self, now: Timestamp) -> Result<(), Fault> {
        policy::expiry(&self.wanted(now)?, now, now, &[]).map(|_| ())
    }

    fn wanted(&self, now: Timestamp) -> Result<Wanted, Fault> {
        let mut reading = Reading::default();
        let wanted = self.read(&mut reading, now);
        reading.finish()?;
        wanted.ok_or_else(|| Fault::field("owner", "is missing"))
    }

    /// Reads the fields; spans begin at `now`. `None` when something is wrong, which is noted.
    fn read(&self, reading: &mut Reading, now: Timestamp) -> Option<Wanted> {
        let owner = reading.value("owner", &self.owner, OwnerPath::parse);
        let expires_at = reading.optional("expires_at", self.expires_at.as_deref(), |text| when(text, now));
        let not_before = reading.optional("not_before", self.not_before.as_deref(), |text| when(text, now));
        let uses = uses(reading, self.uses, self.refund_on_failure);
        let narrowing = Narrowing {
            networks: reading.list("networks", self.networks.as_ref(), Networks::parse),
            endpoints: reading.list("endpoints", self.endpoints.as_ref(), endpoints),
            models: reading.list("models", self.models.as_ref(), Models::parse),
        };
        let details = KeyDetails {
            bound_to: reading.optional("bound_to", self.bound_to.as_deref(), Binding::parse),
            labels: labels(reading, &self.labels),
            note: reading.optional("note", self.note.as_deref(), Note::parse),
            rotated_from: None,
            external_id: reading.optional("external_id", self.external_id.as_deref(), ExternalId::parse),
        };
        Some(Wanted { owner: owner?, expires_at, not_before, uses, narrowing, details })
    }
}

impl Wanted {
    fn record(self, id: KeyId, digest: KeyDigest, created_at: Timestamp) -> KeyRecord {
        KeyRecord {
            narrowing: self.narrowing,
            not_before: self.not_before,
            expires_at: self.expires_at,
            uses: self.uses,
            details: self.details.boxed(),
            ..KeyRecord::new(id, self.owner, digest, created_at)
        }
    }
}

fn uses(reading: &mut Reading, left: Option<u32>, refund: Option<bool>) -> Option<Uses> {
    match (left, refund) {
        (Some(0), _) => reading.wrong("uses", "must be 1 or more"),
        (None, Some(_)) => reading.wrong("refund_on_failure", "goes with a number of uses"),
        (Some(_), _) | (None, None) => {}
    }
    left.map(|left| Uses { left, refund_on_failure: refund.unwrap_or(false) })
}

fn labels(reading: &mut Reading, labels: &BTreeMap<String, String>) -> Labels {
    let parsed = Labels::parse(labels);
    parsed.unwrap_or_else(|wrong| {
        wrong.into_iter().for_each(|(_, why)| reading.wrong("labels", why));
        Labels::default()
    })
}

/// A new random key.
///
/// # Errors
///
/// When the machine gives no randomness.
pub fn mint() -> Result<NewKey, Fault> {
    let (mut id, mut secret) = ([0; 8], Zeroizing::new([0; 32]));
    rand::fill(&mut id)
        .and_then(|()| rand::fill(&mut *secret))
        .map_err(|_| Fault::new(Code::Failed, "the operating system gave no random bytes"))?;
    Ok(NewKey::from_random(id, &secret))
}

impl Manager<'_> {
    /// A new key, and the form in which it is stored.
    fn mint(&mut self) -> Result<(NewKey, KeyDigest), Fault> {
        let pepper = pepper::load(self.state_dir, self.store)?;
        let key = mint()?;
        let digest = pepper.digest(&key);
        Ok((key, digest))
    }
}

/// What is said of an id that no key of the store has.
fn unknown(id: &KeyId, policy: &Policy) -> Fault {
    if policy.keys().iter().any(|key| key.id == *id) {
        return Fault::new(Code::Conflict, format!("the key {id} is in the config file, which alone changes it"))
            .hint("change or remove its [[key]] there");
    }
    Fault::new(Code::NotFound, format!("no key has the id {id}")).hint("`doorward key list` shows all ids")
}

/// Reads the id that a request names.
fn read_id(text: &str) -> Result<KeyId, Fault> {
    KeyId::parse(text).map_err(|why| Fault::field("id", why))
}

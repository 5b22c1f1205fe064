//! Many keys at once, as another system knows them.
//!
//! Invariant: the same import may be made again: what is there stays as it is, and is told apart
//! from what is new and from what differs. A key is known by its external id, or else by its own.

use std::collections::{BTreeMap, HashMap, HashSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::domain::grant::Grant;
use crate::domain::key::{KeyDigest, KeyId, KeyRecord, NewKey, Pepper};
use crate::domain::owner::OwnerPath;
use crate::manage::Manager;
use crate::manage::fault::Fault;
use crate::manage::fields::{Reading, Revealed};
use crate::manage::keys::{CreateKey, mint, policy};
use crate::manage::operation::{Method, Operation};
use crate::store::pepper;
use crate::store::rows::{Imported, KeyImport};

/// Most keys of one import.
pub const MAX_KEYS: usize = 10_000;

/// Stores many keys. All that are new are stored, or none is.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ImportKeys {
    /// The keys: at most 10,000.
    #[schemars(length(min = 1, max = 10_000))]
    pub keys: Vec<ImportKey>,
}

/// A key to import: one that was made elsewhere, by its `id` and `sha256`; or one to make now, whose
/// secret is in the answer. Spans of time begin when the key is made, also when the import is made
/// again.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ImportKey {
    /// Public id of a key that was made elsewhere. Goes with `sha256`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// SHA-256 of that whole key in hexadecimal digits, as `doorward key hash` prints it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
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
    /// What another system calls it; no two keys have the same. A key that is to be made needs one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_id: Option<String>,
}

impl ImportKey {
    fn as_create(&self) -> CreateKey {
        let key = self.clone();
        CreateKey {
            owner: key.owner,
            expires_at: key.expires_at,
            not_before: key.not_before,
            uses: key.uses,
            refund_on_failure: key.refund_on_failure,
            networks: key.networks,
            endpoints: key.endpoints,
            models: key.models,
            bound_to: key.bound_to,
            labels: key.labels,
            note: key.note,
            external_id: key.external_id,
        }
    }
}

/// What came of an import.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ImportedKeys {
    /// Each key, in the order of the import.
    pub keys: Vec<ImportedKey>,
    /// What is allowed and yet worth a word.
    pub warnings: Vec<String>,
}

/// What came of one key.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ImportedKey {
    /// Its public id.
    pub id: String,
    /// What became of it.
    pub outcome: Outcome,
    /// What another system calls it.
    pub external_id: Option<String>,
    /// The whole key, when it was made now: shown once, only its hash is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Revealed>,
}

/// What became of an imported key.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "ImportOutcome")]
pub enum Outcome {
    /// It is there from now on.
    Created,
    /// It was there.
    Unchanged,
    /// The key that is there differs; it was left alone.
    Conflict,
}

impl Outcome {
    /// The word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Unchanged => "unchanged",
            Self::Conflict => "conflict",
        }
    }
}

impl Operation for ImportKeys {
    type Answer = ImportedKeys;

    const NAME: &'static str = "importKeys";
    const SUMMARY: &'static str = "Store many keys; the same import may be made again";
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/v1/keys/import";
    const MAX_BYTES: usize = 16 << 20;
    const LOGGED_WHOLE: bool = false;

    fn perform(self, manager: &mut Manager<'_>) -> Result<Self::Answer, Fault> {
        if !(1..=MAX_KEYS).contains(&self.keys.len()) {
            return Err(Fault::field("keys", format!("must be 1 to {MAX_KEYS}")));
        }
        let mut context = Context {
            pepper: pepper::load(manager.state_dir, manager.store)?,
            existing: Existing::read(manager)?,
            grants: HashMap::new(),
        };
        let (mut all, mut imports, mut made, mut endless) =
            (Reading::default(), Vec::new(), Vec::new(), HashSet::new());
        let mut seen = HashSet::new();
        for (index, entry) in self.keys.iter().enumerate() {
            let mut reading = Reading::of(format!("keys[{index}]."));
            if let Some(import) = prepare(entry, manager, &mut context, &mut reading)? {
                let record = &import.import.record;
                let names = [record.external_id().map(ToString::to_string), Some(record.id.to_string())];
                if names.into_iter().flatten().any(|name| !seen.insert(name)) {
                    reading.wrong("external_id", "or the id is that of another key of this import");
                }
                if record.expires_at.is_none() {
                    endless.insert(record.id.to_string());
                }
                imports.push(import.import);
                made.push(import.made);
            }
            all.absorb(reading);
        }
        all.finish()?;
        let outcomes = manager.store.import_keys(&imports)?;
        let keys = outcomes.into_iter().zip(made).zip(&imports).map(|((outcome, made), import)| {
            let (id, outcome) = match outcome {
                Imported::Created(id) => (id, Outcome::Created),
                Imported::Unchanged(id) => (id, Outcome::Unchanged),
                Imported::Conflict(id) => (id, Outcome::Conflict),
            };
            ImportedKey {
                id: id.to_string(),
                outcome,
                external_id: import.record.external_id().map(ToString::to_string),
                key: made.filter(|_| outcome == Outcome::Created).map(|key| Revealed::new(key.reveal())),
            }
        });
        let keys: Vec<_> = keys.collect();
        let endless = keys.iter().filter(|key| key.outcome == Outcome::Created && endless.contains(&key.id)).count();
        let warnings = match endless {
            0 => Vec::new(),
            1 => vec!["1 of the keys never expires".to_owned()],
            many => vec![format!("{many} of the keys never expire")],
        };
        Ok(ImportedKeys { keys, warnings })
    }
}

/// A key of an import that is ready for the store.
struct Prepared {
    import: KeyImport,
    made: Option<NewKey>,
}

/// What is the same for all keys of an import.
struct Context {
    pepper: Pepper,
    existing: Existing,
    grants: HashMap<OwnerPath, Vec<Grant>>,
}

impl Context {
    fn grants_on(&mut self, manager: &Manager<'_>, owner: &OwnerPath) -> Result<Vec<Grant>, Fault> {
        if let Some(known) = self.grants.get(owner) {
            return Ok(known.clone());
        }
        let grants = manager.grants_on(owner)?;
        self.grants.insert(owner.clone(), grants.clone());
        Ok(grants)
    }
}

/// What the store has, by both names.
struct Existing {
    by_external_id: HashMap<String, KeyRecord>,
    by_id: HashMap<KeyId, KeyRecord>,
}

impl Existing {
    fn read(manager: &Manager<'_>) -> Result<Self, Fault> {
        let (mut by_external_id, mut by_id) = (HashMap::new(), HashMap::new());
        for record in manager.store.list_keys()? {
            if let Some(name) = record.external_id() {
                by_external_id.insert(name.to_string(), record.clone());
            }
            by_id.insert(record.id, record);
        }
        Ok(Self { by_external_id, by_id })
    }

    fn find(&self, entry: &ImportKey) -> Option<&KeyRecord> {
        let by_name = entry.external_id.as_ref().and_then(|name| self.by_external_id.get(name));
        by_name.or_else(|| self.by_id.get(&KeyId::parse(entry.id.as_deref()?).ok()?))
    }
}

fn prepare(
    entry: &ImportKey,
    manager: &Manager<'_>,
    context: &mut Context,
    reading: &mut Reading,
) -> Result<Option<Prepared>, Fault> {
    let id = reading.optional("id", entry.id.as_deref(), KeyId::parse);
    let digest = reading.optional("sha256", entry.sha256.as_deref(), KeyDigest::parse_sha256);
    match (&entry.id, &entry.sha256) {
        (Some(_), None) => reading.wrong("sha256", "is missing: it goes with `id`"),
        (None, Some(_)) => reading.wrong("id", "is missing: it goes with `sha256`, and is in the key itself"),
        (None, None) if entry.external_id.is_none() => {
            reading.wrong("external_id", "is missing: without it each import would make another key");
        }
        (Some(_), Some(_)) | (None, None) => {}
    }
    // What is relative is relative to when the key was made, so that it is the same the next time.
    let created_at = context.existing.find(entry).map_or(manager.now, |record| record.created_at);
    let Some(wanted) = entry.as_create().read(reading, created_at) else { return Ok(None) };
    let grants = context.grants_on(manager, &wanted.owner)?;
    let expires_at = match policy::expiry(&wanted, created_at, created_at, &grants) {
        Ok(expires_at) => expires_at,
        Err(fault) => {
            fault.wrong.iter().for_each(|wrong| reading.wrong(&wrong.field, &*wrong.message));
            return Ok(None);
        }
    };
    let (made, id, digest) = match (id, digest) {
        (Some(id), Some(digest)) => (None, id, digest),
        (None, None) if entry.id.is_none() && entry.sha256.is_none() => {
            let key = mint()?;
            let (id, digest) = (key.id(), context.pepper.digest(&key));
            (Some(key), id, digest)
        }
        (Some(_) | None, Some(_) | None) => return Ok(None),
    };
    let mut record = wanted.record(id, digest, created_at);
    record.expires_at = expires_at;
    Ok(Some(Prepared { import: KeyImport { record, minted: made.is_some() }, made }))
}

//! The in-memory view that the request path reads: keys, owners, grants and revocations, never a
//! query.
//!
//! Invariant: a snapshot never changes; a change makes a new one that shares all but the touched
//! parts, so one changed key among 100,000 costs one shard and not the world.

use std::collections::HashSet;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::domain::grant::{Grant, GrantTree};
use crate::domain::key::{KeyId, KeyRecord};
use crate::domain::owner::{DisabledOwners, OwnerPath};
use crate::tls::peer::{Authority, PeerCertificate};

const SHARDS: usize = 256;
type Shard = Arc<FxHashMap<KeyId, Arc<KeyRecord>>>;

/// What the store says, at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    shards: Box<[Shard]>,
    grants: Arc<GrantTree>,
    disabled: Arc<DisabledOwners>,
    denied: Arc<DenySet>,
}

impl Default for Snapshot {
    fn default() -> Self {
        Self {
            shards: vec![Shard::default(); SHARDS].into(),
            grants: Arc::default(),
            disabled: Arc::default(),
            denied: Arc::default(),
        }
    }
}

impl Snapshot {
    /// The key of this id, whatever its state.
    #[must_use]
    pub fn key(&self, id: &KeyId) -> Option<&Arc<KeyRecord>> {
        self.shards.get(shard_of(id)).and_then(|shard| shard.get(id))
    }

    /// How many keys there are, revoked ones included.
    #[must_use]
    pub fn key_count(&self) -> usize {
        self.shards.iter().map(|shard| shard.len()).sum()
    }

    /// Every key, revoked ones included, in no order.
    pub fn keys(&self) -> impl Iterator<Item = &Arc<KeyRecord>> {
        self.shards.iter().flat_map(|shard| shard.values())
    }

    /// The grants of the store.
    #[must_use]
    pub fn grants(&self) -> &GrantTree {
        &self.grants
    }

    /// The owners that are switched off.
    #[must_use]
    pub fn disabled_owners(&self) -> &DisabledOwners {
        &self.disabled
    }

    /// All that is denied among certificates.
    #[must_use]
    pub fn denied(&self) -> &DenySet {
        &self.denied
    }

    /// True when the certificate, its key or its subject was revoked.
    #[must_use]
    pub fn denies(&self, certificate: &PeerCertificate) -> bool {
        self.denied.denies(certificate)
    }

    /// True when grants, owners and what is denied are the same in both.
    #[must_use]
    pub fn same_but_for_keys(&self, other: &Self) -> bool {
        let same_denied = Arc::ptr_eq(&self.denied, &other.denied) || self.denied == other.denied;
        Arc::ptr_eq(&self.grants, &other.grants) && Arc::ptr_eq(&self.disabled, &other.disabled) && same_denied
    }

    /// True when some key may be another. It costs a look at each shard.
    #[must_use]
    pub fn any_key_changed(&self, other: &Self) -> bool {
        self.shards.iter().zip(&other.shards).any(|(one, other)| !Arc::ptr_eq(one, other))
    }

    /// A snapshot in which these keys have their new records.
    #[must_use]
    pub fn with_keys(&self, changed: impl IntoIterator<Item = Arc<KeyRecord>>) -> Self {
        let mut next = self.clone();
        for record in changed {
            if let Some(shard) = next.shards.get_mut(shard_of(&record.id)) {
                Arc::make_mut(shard).insert(record.id, record);
            }
        }
        next
    }

    /// A snapshot without these keys.
    #[must_use]
    pub fn without_keys<'k>(&self, deleted: impl IntoIterator<Item = &'k KeyId>) -> Self {
        let mut next = self.clone();
        for id in deleted {
            if let Some(shard) = next.shards.get_mut(shard_of(id))
                && shard.contains_key(id)
            {
                Arc::make_mut(shard).remove(id);
            }
        }
        next
    }

    /// A snapshot without the first grants, and then with the second ones.
    #[must_use]
    pub fn with_grants(&self, deleted: &[OwnerPath], changed: impl IntoIterator<Item = Grant>) -> Self {
        let mut changed = changed.into_iter().peekable();
        if deleted.is_empty() && changed.peek().is_none() {
            return self.clone();
        }
        let mut grants = GrantTree::clone(&self.grants);
        deleted.iter().for_each(|owner| grants.remove(owner.as_str()));
        changed.for_each(|grant| grants.set(grant));
        Self { grants: Arc::new(grants), ..self.clone() }
    }

    /// A snapshot in which these owners are switched off (true) or on.
    #[must_use]
    pub fn with_owners(&self, changed: impl IntoIterator<Item = (OwnerPath, bool)>) -> Self {
        let mut changed = changed.into_iter().peekable();
        if changed.peek().is_none() {
            return self.clone();
        }
        let mut disabled = DisabledOwners::clone(&self.disabled);
        changed.for_each(|(owner, is)| disabled.set(owner, is));
        Self { disabled: Arc::new(disabled), ..self.clone() }
    }

    /// A snapshot with another deny set.
    #[must_use]
    pub fn with_denied(&self, denied: DenySet) -> Self {
        Self { denied: Arc::new(denied), ..self.clone() }
    }
}

/// Every character counts: ids that somebody chose may begin alike.
fn shard_of(id: &KeyId) -> usize {
    id.as_bytes().iter().fold(0, |sum: usize, byte| sum * 31 % 65_521 + usize::from(*byte)) % SHARDS
}

/// What is revoked among the certificates of the built-in authority.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct DenySet {
    /// Serial numbers as bytes, without leading zeros.
    pub serials: HashSet<Box<[u8]>>,
    /// SHA-256 of revoked public keys.
    pub public_keys: HashSet<[u8; 32]>,
    /// Whole SPIFFE IDs.
    pub subjects: HashSet<Box<str>>,
}

impl DenySet {
    /// True when a certificate, its key or its subject is among them.
    #[must_use]
    pub fn denies(&self, certificate: &PeerCertificate) -> bool {
        // Serial numbers are unique within one authority only.
        let ours = certificate.authority == Authority::BuiltIn;
        (ours && self.serials.contains(&certificate.serial))
            || self.public_keys.contains(&certificate.spki_sha256)
            || self.subjects.contains(certificate.identity.uri())
    }
}

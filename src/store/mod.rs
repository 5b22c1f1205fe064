//! Keys, certificates and revocations: durable rows, and what the request path reads of them.
//!
//! Invariant: the request path reads a [`snapshot`] and never a query. Everything in here blocks,
//! so it runs on threads of its own.

mod codec;
pub mod directory;
pub mod error;
mod migrate;
pub mod pepper;
pub mod rows;
pub mod snapshot;
pub mod sqlite;
pub mod watch;

use std::path::Path;

use crate::domain::identity::{IdentityName, TrustDomain};
use crate::domain::key::{KeyId, KeyRecord};
use crate::domain::timestamp::Timestamp;
use crate::store::error::StoreError;
use crate::store::rows::{CertificateRecord, NameRevoked, NewCertificate, NewKeyRow, Reason, Revoked, Serial};
use crate::store::snapshot::DenySet;
use crate::store::sqlite::{Changes, Sqlite};

/// The store, whichever engine keeps it. What the verbs promise is written at [`Sqlite`]'s, and
/// one conformance suite holds every engine to it.
#[derive(Debug)]
pub enum Store {
    /// One file in the state directory.
    Sqlite(Sqlite),
}

#[expect(clippy::missing_errors_doc, reason = "the engine's verbs of the same names say it")]
impl Store {
    /// Opens the store of a state directory, and makes what is missing of the two.
    pub fn open(state_dir: &Path) -> Result<Self, StoreError> {
        Sqlite::open(state_dir).map(Self::Sqlite)
    }

    /// Stores a key, durably.
    pub fn create_key(&mut self, key: &NewKeyRow) -> Result<(), StoreError> {
        let Self::Sqlite(engine) = self;
        engine.create_key(key)
    }

    /// Every key, oldest first.
    pub fn list_keys(&self) -> Result<Vec<KeyRecord>, StoreError> {
        let Self::Sqlite(engine) = self;
        engine.list_keys()
    }

    /// The key of this id.
    pub fn key(&self, id: &KeyId) -> Result<Option<KeyRecord>, StoreError> {
        let Self::Sqlite(engine) = self;
        engine.key(id)
    }

    /// Revokes a key for good, durably.
    pub fn revoke_key(&mut self, id: &KeyId, now: Timestamp) -> Result<Revoked, StoreError> {
        let Self::Sqlite(engine) = self;
        engine.revoke_key(id, now)
    }

    /// The keys that changed after `revision` (0: all), and the revision to ask from next.
    pub fn keys_since(&self, revision: i64) -> Result<(Vec<KeyRecord>, i64), StoreError> {
        let Self::Sqlite(engine) = self;
        engine.keys_since(revision)
    }

    /// What changed after `revision` (0: everything), as of one moment.
    pub fn changes_since(&self, revision: i64) -> Result<Changes, StoreError> {
        let Self::Sqlite(engine) = self;
        engine.changes_since(revision)
    }

    /// Stores an issued certificate, durably.
    pub fn record_certificate(&mut self, certificate: &NewCertificate) -> Result<(), StoreError> {
        let Self::Sqlite(engine) = self;
        engine.record_certificate(certificate)
    }

    /// Every certificate, oldest first.
    pub fn list_certificates(&self) -> Result<Vec<CertificateRecord>, StoreError> {
        let Self::Sqlite(engine) = self;
        engine.list_certificates()
    }

    /// The certificate of this number.
    pub fn certificate(&self, serial: &Serial) -> Result<Option<CertificateRecord>, StoreError> {
        let Self::Sqlite(engine) = self;
        engine.certificate(serial)
    }

    /// Revokes one certificate for good, durably.
    pub fn revoke_certificate(
        &mut self,
        serial: &Serial,
        reason: Reason,
        now: Timestamp,
    ) -> Result<Revoked, StoreError> {
        let Self::Sqlite(engine) = self;
        engine.revoke_certificate(serial, reason, now)
    }

    /// Revokes a name in every role, with its certificates and those issued later, durably.
    pub fn revoke_name(
        &mut self,
        domain: &TrustDomain,
        name: &IdentityName,
        reason: Reason,
        now: Timestamp,
    ) -> Result<NameRevoked, StoreError> {
        let Self::Sqlite(engine) = self;
        engine.revoke_name(domain, name, reason, now)
    }

    /// True when the name is revoked as a whole.
    pub fn is_name_revoked(&self, domain: &TrustDomain, name: &IdentityName) -> Result<bool, StoreError> {
        let Self::Sqlite(engine) = self;
        engine.is_name_revoked(domain, name)
    }

    /// Lets new certificates be issued for a revoked name; the old ones stay revoked.
    pub fn reinstate(&mut self, domain: &TrustDomain, name: &IdentityName) -> Result<bool, StoreError> {
        let Self::Sqlite(engine) = self;
        engine.reinstate(domain, name)
    }

    /// All that is revoked among certificates.
    pub fn denied(&self) -> Result<DenySet, StoreError> {
        let Self::Sqlite(engine) = self;
        engine.denied()
    }

    /// A number that changes when another connection commits.
    pub fn data_version(&self) -> Result<i64, StoreError> {
        let Self::Sqlite(engine) = self;
        engine.data_version()
    }
}

#[cfg(test)]
mod conformance_tests;
#[cfg(test)]
mod durability_tests;

//! Keys, certificates and revocations: durable rows, and what the request path reads of them.
//!
//! Invariant: the request path reads a [`snapshot`] and never a query. Everything in here blocks,
//! so it runs on threads of its own.

pub mod backup;
mod codec;
pub mod directory;
pub mod enrollment;
pub mod error;
mod migrate;
pub mod pepper;
pub mod queue;
pub mod rows;
pub mod snapshot;
pub mod sqlite;
pub mod watch;
pub mod writer;

use std::collections::HashMap;
use std::path::Path;

use crate::domain::audit::{Actor, Event};
use crate::domain::grant::Grant;
use crate::domain::identity::{IdentityName, Role, TrustDomain};
use crate::domain::key::{KeyChange, KeyId, KeyRecord};
use crate::domain::notification::Notification;
use crate::domain::owner::OwnerPath;
use crate::domain::timestamp::Timestamp;
use crate::store::enrollment::{EnrollmentRecord, NewEnrollment, Renewed};
use crate::store::error::StoreError;
use crate::store::queue::{End, QueueState, Queued, Retry, Subscription};
use crate::store::rows::{
    CertificateRecord, CertificateRevoked, Claimed, Imported, KeyImport, NameRevoked, NewCertificate, OwnerRow, Reason,
    Revoked, Rotated, Rotation, Serial, Updated,
};
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

    /// Opens a store that must be there.
    pub fn open_existing(state_dir: &Path) -> Result<Self, StoreError> {
        Sqlite::open_existing(state_dir).map(Self::Sqlite)
    }

    /// Stores a key, durably.
    pub fn create_key(&mut self, key: &KeyRecord) -> Result<(), StoreError> {
        let Self::Sqlite(engine) = self;
        engine.create_key(key)
    }

    /// Every key, oldest first.
    pub fn list_keys(&self) -> Result<Vec<KeyRecord>, StoreError> {
        let Self::Sqlite(engine) = self;
        engine.list_keys()
    }

    /// The next keys after one of this age and id, oldest first: at most `count`.
    pub fn keys_after(&self, place: Option<(Timestamp, KeyId)>, count: usize) -> Result<Vec<KeyRecord>, StoreError> {
        let Self::Sqlite(engine) = self;
        engine.keys_after(place, count)
    }

    /// The key of this id.
    pub fn key(&self, id: &KeyId) -> Result<Option<KeyRecord>, StoreError> {
        let Self::Sqlite(engine) = self;
        engine.key(id)
    }

    /// Changes a key, durably.
    pub fn update_key(&mut self, id: &KeyId, change: &KeyChange, now: Timestamp) -> Result<Updated, StoreError> {
        let Self::Sqlite(engine) = self;
        engine.update_key(id, change, now)
    }

    /// Puts a new key in the place of an old one, durably.
    pub fn rotate_key(&mut self, id: &KeyId, to: &Rotation) -> Result<Rotated, StoreError> {
        let Self::Sqlite(engine) = self;
        engine.rotate_key(id, to)
    }

    /// Revokes a key for good, durably.
    pub fn revoke_key(&mut self, id: &KeyId, now: Timestamp) -> Result<Revoked, StoreError> {
        let Self::Sqlite(engine) = self;
        engine.revoke_key(id, now)
    }

    /// Forgets a key, durably. False when there was none.
    pub fn delete_key(&mut self, id: &KeyId, now: Timestamp) -> Result<bool, StoreError> {
        let Self::Sqlite(engine) = self;
        engine.delete_key(id, now)
    }

    /// Stores many keys, durably, and says of each what became of it.
    pub fn import_keys(&mut self, keys: &[KeyImport]) -> Result<Vec<Imported>, StoreError> {
        let Self::Sqlite(engine) = self;
        engine.import_keys(keys)
    }

    /// Claims one use of each key, durably.
    pub fn claim_uses(&mut self, keys: &[KeyId]) -> Result<Vec<Claimed>, StoreError> {
        let Self::Sqlite(engine) = self;
        engine.claim_uses(keys)
    }

    /// Gives one use of each key back.
    pub fn refund_uses(&mut self, keys: &[KeyId]) -> Result<(), StoreError> {
        let Self::Sqlite(engine) = self;
        engine.refund_uses(keys)
    }

    /// Notes when keys were last used.
    pub fn touch_keys(&mut self, used: &[(KeyId, Timestamp)]) -> Result<(), StoreError> {
        let Self::Sqlite(engine) = self;
        engine.touch_keys(used)
    }

    /// When each key was last used, of those that ever were.
    pub fn last_used(&self) -> Result<HashMap<KeyId, Timestamp>, StoreError> {
        let Self::Sqlite(engine) = self;
        engine.last_used()
    }

    /// When a key was last used, if it ever was.
    pub fn last_used_at(&self, id: &KeyId) -> Result<Option<Timestamp>, StoreError> {
        let Self::Sqlite(engine) = self;
        engine.last_used_at(id)
    }

    /// Puts a grant on its node, durably. False when nothing changes.
    pub fn set_grant(&mut self, grant: &Grant, now: Timestamp) -> Result<bool, StoreError> {
        let Self::Sqlite(engine) = self;
        engine.set_grant(grant, now)
    }

    /// Every grant of the store, by node.
    pub fn list_grants(&self) -> Result<Vec<Grant>, StoreError> {
        let Self::Sqlite(engine) = self;
        engine.list_grants()
    }

    /// The store's grant on this node.
    pub fn grant(&self, owner: &OwnerPath) -> Result<Option<Grant>, StoreError> {
        let Self::Sqlite(engine) = self;
        engine.grant(owner)
    }

    /// Takes the store's grant of a node away, durably. False when there was none.
    pub fn remove_grant(&mut self, owner: &OwnerPath, now: Timestamp) -> Result<bool, StoreError> {
        let Self::Sqlite(engine) = self;
        engine.remove_grant(owner, now)
    }

    /// Switches an owner off or on again, durably. False when it was so.
    pub fn set_owner_disabled(
        &mut self,
        owner: &OwnerPath,
        disabled: bool,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let Self::Sqlite(engine) = self;
        engine.set_owner_disabled(owner, disabled, now)
    }

    /// Every owner that has a key or a grant in the store or is switched off, by path.
    pub fn list_owners(&self) -> Result<Vec<OwnerRow>, StoreError> {
        let Self::Sqlite(engine) = self;
        engine.list_owners()
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

    /// For each role the moment at which somebody is left without a good certificate first.
    pub fn soonest_ends(&self, now: Timestamp) -> Result<Vec<(Role, Timestamp)>, StoreError> {
        let Self::Sqlite(engine) = self;
        engine.soonest_ends(now)
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
    ) -> Result<CertificateRevoked, StoreError> {
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
    pub fn reinstate(&mut self, domain: &TrustDomain, name: &IdentityName, now: Timestamp) -> Result<bool, StoreError> {
        let Self::Sqlite(engine) = self;
        engine.reinstate(domain, name, now)
    }

    /// Every certificate that is revoked and ends after `since`, oldest revocation first.
    pub fn revoked_certificates(&self, since: Timestamp) -> Result<Vec<CertificateRecord>, StoreError> {
        let Self::Sqlite(engine) = self;
        engine.revoked_certificates(since)
    }

    /// Stores an enrollment bundle, durably; those that ended before `forget` go.
    pub fn create_enrollment(&mut self, new: &NewEnrollment, forget: Timestamp) -> Result<(), StoreError> {
        let Self::Sqlite(engine) = self;
        engine.create_enrollment(new, forget)
    }

    /// Every bundle that is not forgotten, oldest first.
    pub fn list_enrollments(&self) -> Result<Vec<EnrollmentRecord>, StoreError> {
        let Self::Sqlite(engine) = self;
        engine.list_enrollments()
    }

    /// The bundle of this id.
    pub fn enrollment(&self, id: &str) -> Result<Option<EnrollmentRecord>, StoreError> {
        let Self::Sqlite(engine) = self;
        engine.enrollment(id)
    }

    /// Revokes a bundle that was not used, durably.
    pub fn revoke_enrollment(&mut self, id: &str, now: Timestamp) -> Result<Revoked, StoreError> {
        let Self::Sqlite(engine) = self;
        engine.revoke_enrollment(id, now)
    }

    /// Turns a bundle into a certificate, durably and once.
    pub fn redeem<T, E: From<StoreError>>(
        &mut self,
        id: &str,
        now: Timestamp,
        sign: impl FnOnce(Option<&EnrollmentRecord>) -> Result<(NewCertificate, T), E>,
    ) -> Result<T, E> {
        let Self::Sqlite(engine) = self;
        engine.redeem(id, now, sign)
    }

    /// Records the next certificate of the holder of `serial`, durably.
    pub fn renew<T, E: From<StoreError>>(
        &mut self,
        serial: &Serial,
        sign: impl FnOnce(&CertificateRecord) -> Result<(NewCertificate, T), E>,
    ) -> Result<Renewed<T>, E> {
        let Self::Sqlite(engine) = self;
        engine.renew(serial, sign)
    }

    /// Says who does what is done through this handle from now on.
    pub fn act_as(&mut self, actor: Actor) {
        let Self::Sqlite(engine) = self;
        engine.act_as(actor);
    }

    /// Notes something that was refused.
    pub fn note(&mut self, event: &Event<'_>) -> Result<(), StoreError> {
        let Self::Sqlite(engine) = self;
        engine.note(event)
    }

    /// The oldest lines that are not in the records yet, with their numbers; at most `count`.
    pub fn pending_events(&self, count: usize) -> Result<Vec<(i64, String)>, StoreError> {
        let Self::Sqlite(engine) = self;
        engine.pending_events(count)
    }

    /// Forgets lines up to this number: they are in the records.
    pub fn forget_events(&mut self, up_to: i64) -> Result<(), StoreError> {
        let Self::Sqlite(engine) = self;
        engine.forget_events(up_to)
    }

    /// All that is revoked among certificates.
    pub fn denied(&self) -> Result<DenySet, StoreError> {
        let Self::Sqlite(engine) = self;
        engine.denied()
    }

    /// Writes a copy of the store, as of one moment, to a file that does not exist.
    pub fn copy_to(&self, file: &Path) -> Result<(), StoreError> {
        let Self::Sqlite(engine) = self;
        engine.copy_to(file)
    }

    /// What is wrong with the engine's files; nothing when they are sound.
    pub fn faults(&self) -> Result<Vec<String>, StoreError> {
        let Self::Sqlite(engine) = self;
        engine.faults()
    }

    /// Says who is told of what from now on.
    pub fn set_subscriptions(&mut self, subscriptions: &[Subscription]) -> Result<(), StoreError> {
        let Self::Sqlite(engine) = self;
        engine.set_subscriptions(subscriptions)
    }

    /// Puts something into the queues of those who are told of it, durably.
    pub fn notify(&mut self, notification: &Notification) -> Result<(), StoreError> {
        let Self::Sqlite(engine) = self;
        engine.notify(notification)
    }

    /// The oldest notification that a webhook has not taken yet.
    pub fn first_notification(&self, webhook: &str) -> Result<Option<Queued>, StoreError> {
        let Self::Sqlite(engine) = self;
        engine.first_notification(webhook)
    }

    /// Takes a notification out of its queue, durably: it was delivered, or given up.
    pub fn finish_notification(&mut self, webhook: &str, number: i64, end: End) -> Result<(), StoreError> {
        let Self::Sqlite(engine) = self;
        engine.finish_notification(webhook, number, end)
    }

    /// Notes that an attempt failed, durably, and when the next one is due.
    pub fn postpone_notification(&mut self, webhook: &str, retry: Retry) -> Result<(), StoreError> {
        let Self::Sqlite(engine) = self;
        engine.postpone_notification(webhook, retry)
    }

    /// How full each queue is, by webhook.
    pub fn notification_queues(&self) -> Result<Vec<QueueState>, StoreError> {
        let Self::Sqlite(engine) = self;
        engine.notification_queues()
    }

    /// A number that changes when another connection commits.
    pub fn data_version(&self) -> Result<i64, StoreError> {
        let Self::Sqlite(engine) = self;
        engine.data_version()
    }
}

#[cfg(test)]
mod conformance_enrollment_tests;
#[cfg(test)]
mod conformance_keys_tests;
#[cfg(test)]
mod conformance_queue_tests;
#[cfg(test)]
mod conformance_tests;
#[cfg(test)]
pub(crate) mod durability_tests;

//! Keys: their policy, verb by verb.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, Transaction, ffi, params};

use crate::domain::key::{KeyChange, KeyDetails, KeyId, KeyRecord, KeyState, Uses};
use crate::domain::notification::{Data, Kind};
use crate::domain::timestamp::Timestamp;
use crate::store::codec::{self, Lists};
use crate::store::error::StoreError;
use crate::store::rows::{Imported, KeyImport, Revoked, Rotated, Rotation, Updated};
use crate::store::sqlite::{Sqlite, all, next_revision, note_deletion, notifications};

/// For [`codec::KEY`] and the revision.
const KEY_VALUES: &str = "?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20";

impl Sqlite {
    /// Stores a key, with everything that the record says. It is durable when this returns.
    ///
    /// # Errors
    ///
    /// [`StoreError::Exists`] when the id or the external id is taken.
    pub fn create_key(&mut self, key: &KeyRecord) -> Result<(), StoreError> {
        self.write(|transaction| {
            insert(transaction, key, next_revision(transaction)?)?;
            notifications::queue(transaction, Kind::KeyCreated, key.created_at, || Data::key(key))
        })
    }

    /// Every key, oldest first, revoked ones included.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    pub fn list_keys(&self) -> Result<Vec<KeyRecord>, StoreError> {
        let sql = format!("SELECT {} FROM keys ORDER BY created_at, id", columns());
        let lists = Lists::default();
        all(&self.connection, &sql, &[], |row| codec::key(row, &lists))
    }

    /// The next keys after one of this age and id (from the beginning: `None`), oldest first: at
    /// most `count`.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    pub fn keys_after(&self, place: Option<(Timestamp, KeyId)>, count: usize) -> Result<Vec<KeyRecord>, StoreError> {
        let columns = columns();
        let sql =
            format!("SELECT {columns} FROM keys WHERE (created_at, id) > (?1, ?2) ORDER BY created_at, id LIMIT ?3");
        let (created_at, id) = match &place {
            Some((created_at, id)) => (created_at.as_millis(), id.as_str()),
            None => (i64::MIN, ""),
        };
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        let lists = Lists::default();
        all(&self.connection, &sql, &[&created_at, &id, &count], |row| codec::key(row, &lists))
    }

    /// The key of this id.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    pub fn key(&self, id: &KeyId) -> Result<Option<KeyRecord>, StoreError> {
        by(&self.connection, "id", id.as_str())
    }

    /// Changes a key. It is durable when this returns; claims of uses are never lost to it.
    ///
    /// # Errors
    ///
    /// [`StoreError::Exists`] when the new external id is taken.
    pub fn update_key(&mut self, id: &KeyId, change: &KeyChange, now: Timestamp) -> Result<Updated, StoreError> {
        self.write(|transaction| {
            let Some(old) = by(transaction, "id", id.as_str())? else { return Ok(Updated::Unknown) };
            let new = change.applied_to(&old);
            if new == old {
                return Ok(Updated::Unchanged(new));
            }
            update(transaction, &new, next_revision(transaction)?)?;
            notifications::queue(transaction, Kind::KeyUpdated, now, || Data::key(&new))?;
            Ok(Updated::Changed(new))
        })
    }

    /// Puts a new key in the place of an old one, whose policy it takes over; the old one ends
    /// after the overlap or at its own expiry, whichever is first. Both or nothing is durable when
    /// this returns.
    ///
    /// What there is once only goes over at once: the uses that are left (the old key is spent, so
    /// that both together are not used more often than allowed) and the external id.
    ///
    /// # Errors
    ///
    /// [`StoreError::Exists`] when the new id is taken.
    pub fn rotate_key(&mut self, id: &KeyId, to: &Rotation) -> Result<Rotated, StoreError> {
        self.write(|transaction| {
            let Some(old) = by(transaction, "id", id.as_str())? else { return Ok(Rotated::Unknown) };
            match old.state(to.now) {
                KeyState::Revoked => return Ok(Rotated::Revoked),
                KeyState::Expired => return Ok(Rotated::Expired),
                KeyState::Active | KeyState::NotYet | KeyState::Disabled | KeyState::Spent => {}
            }
            let overlap_ends = to.now.after(to.overlap);
            let details = old.details();
            let new = KeyRecord {
                id: to.id,
                digest: to.digest.clone(),
                created_at: to.now,
                expires_at: to.expires_at,
                details: KeyDetails { rotated_from: Some(old.id), ..details.clone() }.boxed(),
                ..old.clone()
            };
            let ending = KeyRecord {
                expires_at: Some(old.expires_at.map_or(overlap_ends, |end| end.min(overlap_ends))),
                uses: old.uses.map(|uses| Uses { left: 0, ..uses }),
                details: KeyDetails { external_id: None, ..details }.boxed(),
                ..old
            };
            let revision = next_revision(transaction)?;
            update(transaction, &ending, revision)?;
            insert(transaction, &new, revision)?;
            notifications::queue(transaction, Kind::KeyRotated, to.now, || Data::key(&new))?;
            Ok(Rotated::Rotated { new: Box::new(new), old: Box::new(ending) })
        })
    }

    /// Revokes a key for good. It is durable when this returns.
    ///
    /// # Errors
    ///
    /// When the store cannot be written.
    pub fn revoke_key(&mut self, id: &KeyId, now: Timestamp) -> Result<Revoked, StoreError> {
        self.write(|transaction| {
            let revoked_at: Option<Option<i64>> = transaction
                .query_row("SELECT revoked_at FROM keys WHERE id = ?1", [id.as_str()], |row| row.get(0))
                .optional()?;
            match revoked_at {
                None => Ok(Revoked::Unknown),
                Some(Some(_)) => Ok(Revoked::AlreadyRevoked),
                Some(None) => {
                    let data = told(transaction, id);
                    transaction.execute(
                        "UPDATE keys SET revoked_at = ?2, revision = ?3 WHERE id = ?1",
                        params![id.as_str(), now.as_millis(), next_revision(transaction)?],
                    )?;
                    notifications::queue(transaction, Kind::KeyRevoked, now, || data)?;
                    Ok(Revoked::Revoked)
                }
            }
        })
    }

    /// Forgets a key. False when there was none. It is durable when this returns.
    ///
    /// # Errors
    ///
    /// When the store cannot be written.
    pub fn delete_key(&mut self, id: &KeyId, now: Timestamp) -> Result<bool, StoreError> {
        self.write(|transaction| {
            let data = told(transaction, id);
            if transaction.execute("DELETE FROM keys WHERE id = ?1", [id.as_str()])? == 0 {
                return Ok(false);
            }
            note_deletion(transaction, "key", id.as_str(), next_revision(transaction)?)?;
            notifications::queue(transaction, Kind::KeyDeleted, now, || data)?;
            Ok(true)
        })
    }

    /// Stores many keys, and says of each what became of it; what is there already stays as it is,
    /// so that the same import may be made again. A key is found by its external id, or else by
    /// its id. All that was created is durable when this returns, or nothing is.
    ///
    /// # Errors
    ///
    /// When the store cannot be written.
    pub fn import_keys(&mut self, keys: &[KeyImport]) -> Result<Vec<Imported>, StoreError> {
        self.write(|transaction| {
            let mut revision = None;
            let mut outcomes = Vec::with_capacity(keys.len());
            for new in keys {
                let outcome = match found(transaction, &new.record)? {
                    Some(old) if new.agrees_with(&old) => Imported::Unchanged(old.id),
                    Some(old) => Imported::Conflict(old.id),
                    None => {
                        let at = match revision {
                            Some(revision) => revision,
                            None => *revision.insert(next_revision(transaction)?),
                        };
                        insert(transaction, &new.record, at)?;
                        let record = &new.record;
                        notifications::queue(transaction, Kind::KeyCreated, record.created_at, || Data::key(record))?;
                        Imported::Created(new.record.id)
                    }
                };
                outcomes.push(outcome);
            }
            Ok(outcomes)
        })
    }
}

fn columns() -> String {
    codec::KEY.join(", ")
}

pub(super) fn since(connection: &Connection, revision: i64) -> Result<Vec<Arc<KeyRecord>>, StoreError> {
    let sql = format!("SELECT {} FROM keys WHERE revision > ?1", columns());
    let lists = Lists::default();
    all(connection, &sql, &[&revision], |row| codec::key(row, &lists).map(Arc::new))
}

fn by(connection: &Connection, column: &str, value: &str) -> Result<Option<KeyRecord>, StoreError> {
    let sql = format!("SELECT {} FROM keys WHERE {column} = ?1", columns());
    Ok(all(connection, &sql, &[&value], |row| codec::key(row, &Lists::default()))?.pop())
}

/// What webhooks are told of a key. One whose row cannot be read can be revoked and deleted too.
fn told(connection: &Connection, id: &KeyId) -> Data {
    match by(connection, "id", id.as_str()) {
        Ok(Some(record)) => Data::key(&record),
        Ok(None) | Err(_) => Data::key_of_id(id),
    }
}

/// The key that an import means.
fn found(connection: &Connection, record: &KeyRecord) -> Result<Option<KeyRecord>, StoreError> {
    let by_name = record.external_id().map_or(Ok(None), |name| by(connection, "external_id", name.as_str()))?;
    match by_name {
        Some(found) => Ok(Some(found)),
        None => by(connection, "id", record.id.as_str()),
    }
}

fn insert(transaction: &Transaction<'_>, record: &KeyRecord, revision: i64) -> Result<(), StoreError> {
    let sql = format!("INSERT INTO keys ({}, revision) VALUES ({KEY_VALUES})", columns());
    put(transaction, &sql, record, revision)?;
    // What was deleted under this name is back.
    transaction.execute("DELETE FROM deletions WHERE kind = 'key' AND name = ?1", [record.id.as_str()])?;
    Ok(())
}

fn update(transaction: &Transaction<'_>, record: &KeyRecord, revision: i64) -> Result<(), StoreError> {
    let sql = format!("UPDATE keys SET ({}, revision) = ({KEY_VALUES}) WHERE id = ?1", columns());
    put(transaction, &sql, record, revision)
}

/// Runs a statement that takes [`KEY_VALUES`].
fn put(transaction: &Transaction<'_>, sql: &str, record: &KeyRecord, revision: i64) -> Result<(), StoreError> {
    let narrowing = &record.narrowing;
    let details = record.details();
    let external_id = details.external_id.as_ref().map(|id| id.as_str());
    let written = transaction.execute(
        sql,
        params![
            record.id.as_str(),
            record.owner.as_str(),
            record.digest.as_bytes(),
            record.digest.hashing().as_str(),
            narrowing.networks.as_ref().map(|networks| codec::list(&networks.entries())),
            narrowing.endpoints.as_ref().map(|endpoints| codec::list(&endpoints.entries())),
            narrowing.models.as_ref().map(|models| codec::list(&models.entries())),
            record.created_at.as_millis(),
            record.not_before.map(Timestamp::as_millis),
            record.expires_at.map(Timestamp::as_millis),
            record.revoked_at.map(Timestamp::as_millis),
            record.uses.map(|uses| uses.left),
            record.uses.is_some_and(|uses| uses.refund_on_failure),
            record.disabled,
            details.bound_to.as_ref().map(|binding| binding.as_str()),
            codec::labels(&details.labels),
            details.note.as_ref().map(|note| note.as_str()),
            details.rotated_from.as_ref().map(KeyId::as_str),
            external_id,
            revision
        ],
    );
    match written {
        Ok(_) => Ok(()),
        Err(error) if StoreError::is_taken(&error) => {
            let by_name = error.sqlite_error().is_some_and(|e| e.extended_code == ffi::SQLITE_CONSTRAINT_UNIQUE);
            Err(StoreError::Exists(match external_id {
                Some(name) if by_name => format!("a key with the external id {name}"),
                Some(_) | None => format!("key {}", record.id),
            }))
        }
        Err(error) => Err(error.into()),
    }
}

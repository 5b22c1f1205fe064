//! What is counted about keys: uses that are claimed, and when a key was last used.
//!
//! Invariant: a use is claimed by one statement that counts down and looks at the count, so that
//! of any number of claimers, in any number of processes, no more win than there are uses.

use std::collections::HashMap;

use rusqlite::{OptionalExtension, Transaction, params};

use crate::domain::key::KeyId;
use crate::domain::timestamp::Timestamp;
use crate::store::error::StoreError;
use crate::store::rows::Claimed;
use crate::store::sqlite::{Sqlite, all, next_revision};

impl Sqlite {
    /// Claims one use of each key (one for each time that it is named), in order. What was claimed
    /// is durable when this returns; nothing is when it fails.
    ///
    /// # Errors
    ///
    /// When the store cannot be written.
    pub fn claim_uses(&mut self, keys: &[KeyId]) -> Result<Vec<Claimed>, StoreError> {
        self.write(|transaction| {
            let mut claim = transaction.prepare(
                "UPDATE keys SET uses_left = uses_left - 1 WHERE id = ?1 AND uses_left > 0 RETURNING uses_left",
            )?;
            let mut outcomes = Vec::with_capacity(keys.len());
            for id in keys {
                // Stepped to its end: an unfinished statement would keep the write lock.
                let left: Option<i64> = claim.query_row([id.as_str()], |row| row.get(0)).optional()?;
                outcomes.push(match left {
                    Some(0) => {
                        tell_readers(transaction, id)?;
                        Claimed::Claimed
                    }
                    Some(_) => Claimed::Claimed,
                    None => why_not(transaction, id)?,
                });
            }
            Ok(outcomes)
        })
    }

    /// Gives one use back for each time that a key is named. It is durable when this returns.
    ///
    /// # Errors
    ///
    /// When the store cannot be written.
    pub fn refund_uses(&mut self, keys: &[KeyId]) -> Result<(), StoreError> {
        self.write(|transaction| {
            let mut refund = transaction.prepare(
                "UPDATE keys SET uses_left = uses_left + 1
                 WHERE id = ?1 AND uses_left < 4294967295 RETURNING uses_left",
            )?;
            for id in keys {
                let left: Option<i64> = refund.query_row([id.as_str()], |row| row.get(0)).optional()?;
                if left == Some(1) {
                    tell_readers(transaction, id)?;
                }
            }
            Ok(())
        })
    }

    /// Notes when keys were last used; an earlier time never takes the place of a later one. Keys
    /// that are gone are passed over.
    ///
    /// # Errors
    ///
    /// When the store cannot be written.
    pub fn touch_keys(&mut self, used: &[(KeyId, Timestamp)]) -> Result<(), StoreError> {
        self.write(|transaction| {
            let mut touch = transaction.prepare(
                "INSERT INTO key_use (id, last_used_at) SELECT id, ?2 FROM keys WHERE id = ?1
                 ON CONFLICT (id) DO UPDATE SET last_used_at = max(last_used_at, excluded.last_used_at)",
            )?;
            for (id, at) in used {
                touch.execute(params![id.as_str(), at.as_millis()])?;
            }
            Ok(())
        })
    }

    /// When each key was last used, of those that ever were; up to a second old.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    pub fn last_used(&self) -> Result<HashMap<KeyId, Timestamp>, StoreError> {
        let rows = all(&self.connection, "SELECT id, last_used_at FROM key_use", &[], |row| {
            let id: String = row.get(0)?;
            let id = KeyId::parse(&id).map_err(|why| StoreError::Row { what: format!("the use of key {id}"), why })?;
            Ok((id, Timestamp::from_millis(row.get(1)?)))
        })?;
        Ok(rows.into_iter().collect())
    }

    /// When a key was last used, if it ever was; up to a second old.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    pub fn last_used_at(&self, id: &KeyId) -> Result<Option<Timestamp>, StoreError> {
        let sql = "SELECT last_used_at FROM key_use WHERE id = ?1";
        let at: Option<i64> = self.connection.query_row(sql, [id.as_str()], |row| row.get(0)).optional()?;
        Ok(at.map(Timestamp::from_millis))
    }
}

/// Snapshots learn that a key is spent, or is no longer.
fn tell_readers(transaction: &Transaction<'_>, id: &KeyId) -> Result<(), StoreError> {
    let revision = next_revision(transaction)?;
    transaction.execute("UPDATE keys SET revision = ?2 WHERE id = ?1", params![id.as_str(), revision])?;
    Ok(())
}

fn why_not(transaction: &Transaction<'_>, id: &KeyId) -> Result<Claimed, StoreError> {
    let sql = "SELECT uses_left FROM keys WHERE id = ?1";
    let left: Option<Option<i64>> = transaction.query_row(sql, [id.as_str()], |row| row.get(0)).optional()?;
    Ok(match left {
        Some(None) => Claimed::Unlimited,
        Some(Some(_)) => Claimed::Spent,
        None => Claimed::Unknown,
    })
}

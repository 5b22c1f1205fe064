//! Owners that are switched off, and grants that live in the store.

use rusqlite::{Connection, params};

use crate::domain::grant::Grant;
use crate::domain::notification::{Data, Kind};
use crate::domain::owner::OwnerPath;
use crate::domain::timestamp::Timestamp;
use crate::store::codec;
use crate::store::error::StoreError;
use crate::store::rows::OwnerRow;
use crate::store::sqlite::{Sqlite, all, next_revision, note_deletion, notifications};

impl Sqlite {
    /// Puts a grant on its node, in the place of the one that was there. False when nothing
    /// changes. It is durable when this returns.
    ///
    /// # Errors
    ///
    /// When the store cannot be written.
    pub fn set_grant(&mut self, grant: &Grant, now: Timestamp) -> Result<bool, StoreError> {
        self.write(|transaction| {
            if grant_on(transaction, &grant.owner)?.as_ref() == Some(grant) {
                return Ok(false);
            }
            transaction.execute(
                &format!(
                    "INSERT OR REPLACE INTO grants ({}, revision) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
                    columns()
                ),
                params![
                    grant.owner.as_str(),
                    grant.require.map(|require| require.as_str()),
                    grant.networks.as_ref().map(|networks| codec::list(&networks.entries())),
                    grant.endpoints.as_ref().map(|endpoints| codec::list(&endpoints.entries())),
                    grant.models.as_ref().map(|models| codec::list(&models.entries())),
                    grant.cors_origins.as_ref().map(|origins| codec::list(&origins.entries())),
                    grant.expires_at.map(Timestamp::as_millis),
                    grant.default_key_ttl.map(codec::millis),
                    grant.max_key_ttl.map(codec::millis),
                    grant.webhook.as_ref().map(|hooked| hooked.name.as_str()),
                    grant.webhook.as_ref().is_some_and(|hooked| hooked.accept_fail_open),
                    next_revision(transaction)?
                ],
            )?;
            transaction.execute("DELETE FROM deletions WHERE kind = 'grant' AND name = ?1", [grant.owner.as_str()])?;
            notifications::queue(transaction, Kind::GrantSet, now, || Data::owner(&grant.owner))?;
            Ok(true)
        })
    }

    /// Every grant of the store, by node.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    pub fn list_grants(&self) -> Result<Vec<Grant>, StoreError> {
        all(&self.connection, &format!("SELECT {} FROM grants ORDER BY owner", columns()), &[], codec::grant)
    }

    /// The store's grant on this node.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    pub fn grant(&self, owner: &OwnerPath) -> Result<Option<Grant>, StoreError> {
        grant_on(&self.connection, owner)
    }

    /// Takes the store's grant of a node away. False when there was none. It is durable when this
    /// returns.
    ///
    /// # Errors
    ///
    /// When the store cannot be written.
    pub fn remove_grant(&mut self, owner: &OwnerPath, now: Timestamp) -> Result<bool, StoreError> {
        self.write(|transaction| {
            if transaction.execute("DELETE FROM grants WHERE owner = ?1", [owner.as_str()])? == 0 {
                return Ok(false);
            }
            note_deletion(transaction, "grant", owner.as_str(), next_revision(transaction)?)?;
            notifications::queue(transaction, Kind::GrantDeleted, now, || Data::owner(owner))?;
            Ok(true)
        })
    }

    /// Switches an owner off, with everything below it; or on again. False when it was so
    /// already. An owner that nothing belongs to yet can be switched off too. It is durable when
    /// this returns.
    ///
    /// # Errors
    ///
    /// When the store cannot be written.
    pub fn set_owner_disabled(
        &mut self,
        owner: &OwnerPath,
        disabled: bool,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        self.write(|transaction| {
            let sql = "SELECT EXISTS (SELECT 1 FROM owners WHERE path = ?1 AND disabled_at IS NOT NULL)";
            let was: bool = transaction.query_row(sql, [owner.as_str()], |row| row.get(0))?;
            if was == disabled {
                return Ok(false);
            }
            transaction.execute(
                "INSERT OR REPLACE INTO owners (path, disabled_at, revision) VALUES (?1, ?2, ?3)",
                params![owner.as_str(), disabled.then_some(now.as_millis()), next_revision(transaction)?],
            )?;
            let kind = if disabled { Kind::OwnerDisabled } else { Kind::OwnerEnabled };
            notifications::queue(transaction, kind, now, || Data::owner(owner))?;
            Ok(true)
        })
    }

    /// Every owner that has a key or a grant in the store or is switched off, by path.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    pub fn list_owners(&self) -> Result<Vec<OwnerRow>, StoreError> {
        let sql = "SELECT node.path AS path, disabled_at,
                       (SELECT count(*) FROM keys WHERE owner = node.path) AS keys,
                       EXISTS (SELECT 1 FROM grants WHERE owner = node.path) AS granted
                   FROM (SELECT owner AS path FROM keys
                         UNION SELECT owner FROM grants
                         UNION SELECT path FROM owners WHERE disabled_at IS NOT NULL) AS node
                   LEFT JOIN owners ON owners.path = node.path
                   ORDER BY node.path";
        all(&self.connection, sql, &[], codec::owner)
    }
}

fn columns() -> String {
    codec::GRANT.join(", ")
}

pub(super) fn grants_since(connection: &Connection, revision: i64) -> Result<Vec<Grant>, StoreError> {
    let sql = format!("SELECT {} FROM grants WHERE revision > ?1", columns());
    all(connection, &sql, &[&revision], codec::grant)
}

pub(super) fn owners_since(connection: &Connection, revision: i64) -> Result<Vec<(OwnerPath, bool)>, StoreError> {
    let sql = "SELECT path, disabled_at, 0 AS keys, 0 AS granted FROM owners WHERE revision > ?1";
    let owners = all(connection, sql, &[&revision], codec::owner)?;
    Ok(owners.into_iter().map(|row| (row.owner, row.disabled_at.is_some())).collect())
}

fn grant_on(connection: &Connection, owner: &OwnerPath) -> Result<Option<Grant>, StoreError> {
    let sql = format!("SELECT {} FROM grants WHERE owner = ?1", columns());
    Ok(all(connection, &sql, &[&owner.as_str()], codec::grant)?.pop())
}

//! The embedded engine: one SQLite file in the state directory, shared by the gateway and the
//! command line.
//!
//! Invariants: what a verb acknowledged survives a crash (WAL with `synchronous = FULL`); every
//! change raises the one revision counter in its own transaction, so that a reader who asks for
//! what is newer than N misses nothing; no decision is made in SQL.

mod certificates;
mod counters;
mod enrollments;
mod events;
mod keys;
mod notifications;
mod owners;
mod upkeep;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags, Row, Transaction, TransactionBehavior, params};
use tokio::time::Instant;

use crate::domain::audit::Actor;
use crate::domain::grant::Grant;
use crate::domain::key::{KeyId, KeyRecord};
use crate::domain::owner::OwnerPath;
use crate::store::directory;
use crate::store::error::StoreError;
use crate::store::migrate;
use crate::store::snapshot::DenySet;

/// Name of the database in the state directory.
pub const FILE: &str = "doorward.db";

/// How long a writer waits for another process's transaction.
const BUSY: Duration = Duration::from_secs(5);

/// How long a process that makes a new store is given before it is tried again.
const AGAIN: Duration = Duration::from_millis(5);

/// So many deletions are kept for readers that fell behind.
const MAX_DELETIONS: i64 = 10_000;

/// One connection to the database. Readers never wait; writers wait for one another.
#[derive(Debug)]
pub struct Sqlite {
    connection: Connection,
    /// Who does what is done through it.
    actor: Actor,
}

/// What happened since a revision, as of one moment. What is deleted comes first: the same name
/// may have been made anew since.
#[derive(Debug)]
pub struct Changes {
    /// True when this is all there is, and whatever a reader had before is to be forgotten.
    pub whole: bool,
    /// Keys that are gone.
    pub deleted_keys: Vec<KeyId>,
    /// Keys that are new or changed, as they are now.
    pub keys: Vec<Arc<KeyRecord>>,
    /// Nodes whose grant is gone.
    pub deleted_grants: Vec<OwnerPath>,
    /// Grants that are new or changed, as they are now.
    pub grants: Vec<Grant>,
    /// Owners that were disabled (true) or enabled again.
    pub owners: Vec<(OwnerPath, bool)>,
    /// All that is denied among certificates, if that changed.
    pub denied: Option<DenySet>,
    /// Ask from here the next time.
    pub revision: i64,
}

impl Sqlite {
    /// Opens the store of a state directory, and makes what is missing of the two.
    ///
    /// # Errors
    ///
    /// Under another uid than the directory's owner, before anything is touched; when the file is
    /// not a store, is damaged or newer than this program; when the file system says no.
    pub fn open(state_dir: &Path) -> Result<Self, StoreError> {
        directory::prepare(state_dir)?;
        let path = path(state_dir);
        directory::private_file(state_dir, &path)?;
        Self::connect(state_dir, &path)
    }

    /// Opens a store that must be there: for a reader that must not put an empty one in the place
    /// of one that was moved away.
    ///
    /// # Errors
    ///
    /// As [`Self::open`], and [`StoreError::File`] when there is no store.
    pub fn open_existing(state_dir: &Path) -> Result<Self, StoreError> {
        directory::check(state_dir)?;
        let path = path(state_dir);
        fs::metadata(&path).map_err(|source| StoreError::file(&path, source))?;
        Self::connect(state_dir, &path)
    }

    fn connect(state_dir: &Path, path: &Path) -> Result<Self, StoreError> {
        for name in [FILE.to_owned(), format!("{FILE}-wal"), format!("{FILE}-shm")] {
            directory::check_file(state_dir, &state_dir.join(name))?;
        }
        let begun = Instant::now();
        let mut opened = Self::set_up(path);
        // SQLite waits for locks, but not for the one that makes a new file a WAL database: two
        // processes that make a store at once would refuse one another.
        while matches!(opened, Err(StoreError::Locked)) && begun.elapsed() < BUSY {
            thread::sleep(AGAIN);
            opened = Self::set_up(path);
        }
        if let Err(StoreError::Sql(error)) = &opened
            && error.sqlite_error_code() == Some(ErrorCode::CannotOpen)
        {
            // SQLite could not make its files beside the database, and does not say why.
            directory::check_writable(state_dir)?;
        }
        opened
    }

    fn set_up(path: &Path) -> Result<Self, StoreError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut connection = Connection::open_with_flags(path, flags)?;
        connection.busy_timeout(BUSY)?;
        migrate::check_is_ours(&connection, path)?;
        let journal: String = connection.pragma_update_and_check(None, "journal_mode", "wal", |row| row.get(0))?;
        if journal != "wal" {
            return Err(StoreError::NoSharedMemory(path.to_owned()));
        }
        connection.pragma_update(None, "synchronous", "full")?;
        connection.pragma_update(None, "foreign_keys", true)?;
        connection.pragma_update(None, "trusted_schema", false)?;
        migrate::run(&mut connection)?;
        Ok(Self { connection, actor: events::this_process() })
    }

    /// What changed after `revision` (0: everything), as of one moment. A reader that is ahead of
    /// the store, or too far behind it, gets everything.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    pub fn changes_since(&self, revision: i64) -> Result<Changes, StoreError> {
        // One read transaction: without it a key could be newer than the counter beside it.
        let reading = self.connection.unchecked_transaction()?;
        let (now, forgotten, denied_revision): (i64, i64, i64) =
            reading.query_row("SELECT revision, forgotten, denied_revision FROM meta", [], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?))
            })?;
        let whole = revision == 0 || revision > now || revision < forgotten;
        let since = if whole { 0 } else { revision };
        let changes = Changes {
            whole,
            deleted_keys: deleted(&reading, "key", since, KeyId::parse)?,
            keys: keys::since(&reading, since)?,
            deleted_grants: deleted(&reading, "grant", since, OwnerPath::parse)?,
            grants: owners::grants_since(&reading, since)?,
            owners: owners::owners_since(&reading, since)?,
            denied: (whole || denied_revision > since).then(|| certificates::denied(&reading)).transpose()?,
            revision: now,
        };
        reading.finish()?;
        Ok(changes)
    }

    /// A number that differs from the last one when another connection committed in between
    /// (and now and then when it did not). Costs microseconds.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    pub fn data_version(&self) -> Result<i64, StoreError> {
        Ok(self.connection.query_row("PRAGMA data_version", [], |row| row.get(0))?)
    }

    /// Settles which pepper the keys are made with: `choose` is told the id of the pepper so far
    /// and whether keys exist, and gives the id that holds from now on. No other process can
    /// settle it, or make a key, at the same time.
    pub(super) fn settle_pepper<T>(
        &mut self,
        choose: impl FnOnce(Option<String>, bool) -> Result<(T, String), StoreError>,
    ) -> Result<T, StoreError> {
        self.write(|transaction| {
            let (stored, keys): (Option<String>, bool) =
                transaction.query_row("SELECT pepper_id, EXISTS (SELECT 1 FROM keys) FROM meta", [], |row| {
                    Ok((row.get(0)?, row.get(1)?))
                })?;
            let (chosen, id) = choose(stored.clone(), keys)?;
            if stored.as_ref() != Some(&id) {
                transaction.execute("UPDATE meta SET pepper_id = ?1", [id])?;
            }
            Ok(chosen)
        })
    }

    /// Runs `work` in a transaction of its own that holds the write lock from the start.
    fn write<T>(&mut self, work: impl FnOnce(&Transaction<'_>) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let done = work(&transaction)?;
        transaction.commit()?;
        Ok(done)
    }

    /// As [`Self::write`], for what leaves a line in the records.
    fn noting<T, E: From<StoreError>>(
        &mut self,
        work: impl FnOnce(&Transaction<'_>, &Actor) -> Result<T, E>,
    ) -> Result<T, E> {
        let begun = self.connection.transaction_with_behavior(TransactionBehavior::Immediate);
        let transaction = begun.map_err(StoreError::from)?;
        let done = work(&transaction, &self.actor)?;
        transaction.commit().map_err(StoreError::from)?;
        Ok(done)
    }
}

/// Where the database of a state directory is.
#[must_use]
pub fn path(state_dir: &Path) -> PathBuf {
    state_dir.join(FILE)
}

fn next_revision(transaction: &Transaction<'_>) -> rusqlite::Result<i64> {
    transaction.query_row("UPDATE meta SET revision = revision + 1 RETURNING revision", [], |row| row.get(0))
}

/// What of a kind was deleted after a revision.
fn deleted<T>(
    connection: &Connection,
    kind: &str,
    since: i64,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<Vec<T>, StoreError> {
    let sql = "SELECT name FROM deletions WHERE revision > ?1 AND kind = ?2";
    all(connection, sql, &[&since, &kind], |row| {
        let name: String = row.get(0)?;
        parse(&name).map_err(|why| StoreError::Row { what: format!("the deletion of {kind} {name}"), why })
    })
}

/// Notes that something is gone, and forgets what has been gone for long.
fn note_deletion(transaction: &Transaction<'_>, kind: &str, name: &str, revision: i64) -> Result<(), StoreError> {
    transaction.execute(
        "INSERT INTO deletions (kind, name, revision) VALUES (?1, ?2, ?3)
         ON CONFLICT (kind, name) DO UPDATE SET revision = excluded.revision",
        params![kind, name, revision],
    )?;
    let sql = "SELECT revision FROM deletions ORDER BY revision DESC LIMIT 1 OFFSET ?1";
    if let Some(old) = all(transaction, sql, &[&MAX_DELETIONS], |row| Ok(row.get::<_, i64>(0)?))?.pop() {
        transaction.execute("DELETE FROM deletions WHERE revision <= ?1", [old])?;
        transaction.execute("UPDATE meta SET forgotten = ?1", [old])?;
    }
    Ok(())
}

/// Reads every row of a query.
fn all<T>(
    connection: &Connection,
    sql: &str,
    parameters: &[&dyn rusqlite::ToSql],
    read: impl Fn(&Row<'_>) -> Result<T, StoreError>,
) -> Result<Vec<T>, StoreError> {
    let mut statement = connection.prepare(sql)?;
    let mut rows = statement.query(parameters)?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(read(row)?);
    }
    Ok(found)
}

fn new_row(inserted: rusqlite::Result<usize>, what: impl FnOnce() -> String) -> Result<(), StoreError> {
    match inserted {
        Ok(_) => Ok(()),
        Err(error) if StoreError::is_taken(&error) => Err(StoreError::Exists(what())),
        Err(error) => Err(error.into()),
    }
}

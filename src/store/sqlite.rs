//! The embedded engine: one SQLite file in the state directory, shared by the gateway and the
//! command line.
//!
//! Invariants: what a verb acknowledged survives a crash (WAL with `synchronous = FULL`); every
//! change raises the one revision counter in its own transaction, so that a reader who asks for
//! what is newer than N misses nothing; no decision is made in SQL.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, Row, Transaction, TransactionBehavior, params};

use crate::domain::identity::{Identity, IdentityName, Role, TrustDomain};
use crate::domain::key::{KeyId, KeyRecord};
use crate::domain::timestamp::Timestamp;
use crate::store::codec;
use crate::store::directory;
use crate::store::error::StoreError;
use crate::store::migrate;
use crate::store::rows::{CertificateRecord, NameRevoked, NewCertificate, NewKeyRow, Reason, Revoked, Serial};
use crate::store::snapshot::DenySet;

/// Name of the database in the state directory.
pub const FILE: &str = "doorward.db";

/// How long a writer waits for another process's transaction.
const BUSY: Duration = Duration::from_secs(5);

const KEY_COLUMNS: &str = "id, owner, digest, networks, endpoints, models, created_at, expires_at, revoked_at";
const CERTIFICATE_COLUMNS: &str = "serial, uri, not_before, not_after, spki_sha256, issued_at, revoked_at, reason";

/// One connection to the database. Readers never wait; writers wait for one another.
#[derive(Debug)]
pub struct Sqlite {
    connection: Connection,
}

/// What happened since a revision, as of one moment.
#[derive(Debug)]
pub struct Changes {
    /// Keys that are new or changed, as they are now.
    pub keys: Vec<KeyRecord>,
    /// All that is denied.
    pub denied: DenySet,
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
        let opened = Self::set_up(path);
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
        Ok(Self { connection })
    }

    /// Stores a key. It is durable when this returns.
    ///
    /// # Errors
    ///
    /// [`StoreError::Exists`] when the id is taken.
    pub fn create_key(&mut self, key: &NewKeyRow) -> Result<(), StoreError> {
        let narrowing = &key.narrowing;
        self.write(|transaction| {
            let revision = next_revision(transaction)?;
            let inserted = transaction.execute(
                "INSERT INTO keys (id, owner, digest, networks, endpoints, models, created_at, expires_at, revision)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
                params![
                    key.id.as_str(),
                    key.owner.as_str(),
                    key.digest.as_bytes(),
                    narrowing.networks.as_ref().map(|networks| codec::list(&networks.entries())),
                    narrowing.endpoints.as_ref().map(|endpoints| codec::list(&endpoints.entries())),
                    narrowing.models.as_ref().map(|models| codec::list(&models.entries())),
                    key.created_at.as_millis(),
                    key.expires_at.map(Timestamp::as_millis),
                    revision
                ],
            );
            new_row(inserted, || format!("key {}", key.id))
        })
    }

    /// Every key, oldest first, revoked ones included.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    pub fn list_keys(&self) -> Result<Vec<KeyRecord>, StoreError> {
        self.all(&format!("SELECT {KEY_COLUMNS} FROM keys ORDER BY created_at, id"), &[], codec::key)
    }

    /// The key of this id.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    pub fn key(&self, id: &KeyId) -> Result<Option<KeyRecord>, StoreError> {
        let sql = format!("SELECT {KEY_COLUMNS} FROM keys WHERE id = ?1");
        Ok(self.all(&sql, &[&id.as_str()], codec::key)?.pop())
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
                    transaction.execute(
                        "UPDATE keys SET revoked_at = ?2, revision = ?3 WHERE id = ?1",
                        params![id.as_str(), now.as_millis(), next_revision(transaction)?],
                    )?;
                    Ok(Revoked::Revoked)
                }
            }
        })
    }

    /// The keys that changed after `revision` (0: all), and the revision to ask from next.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    pub fn keys_since(&self, revision: i64) -> Result<(Vec<KeyRecord>, i64), StoreError> {
        let changes = self.changes_since(revision)?;
        Ok((changes.keys, changes.revision))
    }

    /// What changed after `revision` (0: everything), as of one moment.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    pub fn changes_since(&self, revision: i64) -> Result<Changes, StoreError> {
        // One read transaction: without it a key could be newer than the counter beside it.
        let reading = self.connection.unchecked_transaction()?;
        let sql = format!("SELECT {KEY_COLUMNS} FROM keys WHERE revision > ?1");
        let changes = Changes {
            keys: self.all(&sql, &[&revision], codec::key)?,
            denied: self.denied()?,
            revision: reading.query_row("SELECT revision FROM meta", [], |row| row.get(0))?,
        };
        reading.finish()?;
        Ok(changes)
    }

    /// Stores an issued certificate. It is durable when this returns, so sign, record, hand out.
    ///
    /// # Errors
    ///
    /// [`StoreError::NameRevoked`] when its name was revoked, even in between;
    /// [`StoreError::Exists`] when the serial number is taken.
    pub fn record_certificate(&mut self, certificate: &NewCertificate) -> Result<(), StoreError> {
        let identity = &certificate.identity;
        self.write(|transaction| {
            if is_subject_revoked(transaction, identity.uri())? {
                return Err(StoreError::NameRevoked(identity.uri().to_owned()));
            }
            let revision = next_revision(transaction)?;
            let inserted = transaction.execute(
                "INSERT INTO certificates
                     (serial, uri, role, name, not_before, not_after, spki_sha256, issued_at, revision)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
                params![
                    certificate.serial.to_string(),
                    identity.uri(),
                    identity.role().as_str(),
                    codec::name_of(identity),
                    certificate.not_before.as_millis(),
                    certificate.not_after.as_millis(),
                    certificate.spki_sha256,
                    certificate.issued_at.as_millis(),
                    revision
                ],
            );
            new_row(inserted, || format!("certificate {}", certificate.serial))
        })
    }

    /// Every certificate, oldest first, expired and revoked ones included.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    pub fn list_certificates(&self) -> Result<Vec<CertificateRecord>, StoreError> {
        let sql = format!("SELECT {CERTIFICATE_COLUMNS} FROM certificates ORDER BY issued_at, serial");
        self.all(&sql, &[], codec::certificate)
    }

    /// The certificate of this number.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    pub fn certificate(&self, serial: &Serial) -> Result<Option<CertificateRecord>, StoreError> {
        let sql = format!("SELECT {CERTIFICATE_COLUMNS} FROM certificates WHERE serial = ?1");
        Ok(self.all(&sql, &[&serial.to_string()], codec::certificate)?.pop())
    }

    /// Revokes one certificate for good. It is durable when this returns.
    ///
    /// # Errors
    ///
    /// When the store cannot be written.
    pub fn revoke_certificate(
        &mut self,
        serial: &Serial,
        reason: Reason,
        now: Timestamp,
    ) -> Result<Revoked, StoreError> {
        let serial = serial.to_string();
        self.write(|transaction| {
            let revoked_at: Option<Option<i64>> = transaction
                .query_row("SELECT revoked_at FROM certificates WHERE serial = ?1", [&serial], |row| row.get(0))
                .optional()?;
            match revoked_at {
                None => Ok(Revoked::Unknown),
                Some(Some(_)) => Ok(Revoked::AlreadyRevoked),
                Some(None) => {
                    transaction.execute(
                        "UPDATE certificates SET revoked_at = ?2, reason = ?3, revision = ?4 WHERE serial = ?1",
                        params![serial, now.as_millis(), reason.as_str(), next_revision(transaction)?],
                    )?;
                    Ok(Revoked::Revoked)
                }
            }
        })
    }

    /// Revokes a name in every role, with all its certificates, for good, and with those that
    /// would be issued later, until [`Self::reinstate`]. A name without certificates can be
    /// revoked too.
    ///
    /// # Errors
    ///
    /// When the store cannot be written.
    pub fn revoke_name(
        &mut self,
        domain: &TrustDomain,
        name: &IdentityName,
        reason: Reason,
        now: Timestamp,
    ) -> Result<NameRevoked, StoreError> {
        let (reason, now) = (reason.as_str(), now.as_millis());
        self.write(|transaction| {
            let revision = next_revision(transaction)?;
            let mut done = NameRevoked { newly: false, certificates: 0 };
            for identity in Role::ALL.map(|role| Identity::new(domain, role, name)) {
                let subjects = transaction.execute(
                    "INSERT INTO revocations (uri, revoked_at, reason, revision) VALUES (?1, ?2, ?3, ?4)
                     ON CONFLICT (uri) DO NOTHING",
                    params![identity.uri(), now, reason, revision],
                )?;
                done.newly |= subjects > 0;
                done.certificates += transaction.execute(
                    "UPDATE certificates SET revoked_at = ?2, reason = ?3, revision = ?4
                     WHERE uri = ?1 AND revoked_at IS NULL",
                    params![identity.uri(), now, reason, revision],
                )?;
            }
            Ok(done)
        })
    }

    /// True when the name is revoked as a whole.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    pub fn is_name_revoked(&self, domain: &TrustDomain, name: &IdentityName) -> Result<bool, StoreError> {
        let revoked =
            Role::ALL.map(|role| is_subject_revoked(&self.connection, Identity::new(domain, role, name).uri()));
        revoked.into_iter().try_fold(false, |any, one| Ok(any | one?))
    }

    /// Lets new certificates be issued for a revoked name; the old ones stay revoked. False when
    /// the name was not revoked.
    ///
    /// # Errors
    ///
    /// When the store cannot be written.
    pub fn reinstate(&mut self, domain: &TrustDomain, name: &IdentityName) -> Result<bool, StoreError> {
        self.write(|transaction| {
            next_revision(transaction)?;
            let mut lifted = 0;
            for identity in Role::ALL.map(|role| Identity::new(domain, role, name)) {
                lifted += transaction.execute("DELETE FROM revocations WHERE uri = ?1", [identity.uri()])?;
            }
            Ok(lifted > 0)
        })
    }

    /// All that is revoked among certificates. A public key is denied when it was compromised:
    /// another reason does not speak against the key, which a later certificate may have again.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    pub fn denied(&self) -> Result<DenySet, StoreError> {
        let sql = format!("SELECT {CERTIFICATE_COLUMNS} FROM certificates WHERE revoked_at IS NOT NULL");
        let mut denied = DenySet::default();
        for record in self.all(&sql, &[], codec::certificate)? {
            denied.serials.insert(record.certificate.serial.as_bytes().into());
            if matches!(record.revoked, Some((_, Reason::KeyCompromise))) {
                denied.public_keys.insert(record.certificate.spki_sha256);
            }
        }
        let subjects: Vec<String> = self.all("SELECT uri FROM revocations", &[], |row| Ok(row.get(0)?))?;
        denied.subjects.extend(subjects.into_iter().map(String::into_boxed_str));
        Ok(denied)
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

    fn all<T>(
        &self,
        sql: &str,
        parameters: &[&dyn rusqlite::ToSql],
        read: impl Fn(&Row<'_>) -> Result<T, StoreError>,
    ) -> Result<Vec<T>, StoreError> {
        let mut statement = self.connection.prepare(sql)?;
        let mut rows = statement.query(parameters)?;
        let mut found = Vec::new();
        while let Some(row) = rows.next()? {
            found.push(read(row)?);
        }
        Ok(found)
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

fn is_subject_revoked(connection: &Connection, uri: &str) -> Result<bool, StoreError> {
    let sql = "SELECT EXISTS (SELECT 1 FROM revocations WHERE uri = ?1)";
    Ok(connection.query_row(sql, [uri], |row| row.get(0))?)
}

fn new_row(inserted: rusqlite::Result<usize>, what: impl FnOnce() -> String) -> Result<(), StoreError> {
    match inserted {
        Ok(_) => Ok(()),
        Err(error) if StoreError::is_taken(&error) => Err(StoreError::Exists(what())),
        Err(error) => Err(error.into()),
    }
}

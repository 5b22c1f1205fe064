//! What can go wrong with the store, in words that say what to do.

use std::io;
use std::path::{Path, PathBuf};

use rusqlite::{Error as SqlError, ErrorCode};

/// Why the store could not do what was asked. Each message ends with what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Files made under another uid would be unreadable to the gateway.
    #[error(
        "{} belongs to {owner}, and this runs as {us}: a file that it left there would stop the gateway\n\
         hint: sudo -u {owner} doorward …, or ask the running gateway: --admin unix:{0}/admin.sock", path.display()
    )]
    OtherUser {
        /// The state directory.
        path: PathBuf,
        /// Its owner, as `sudo -u` takes it.
        owner: String,
        /// Who runs this.
        us: String,
    },
    /// A file that an earlier command left there under another uid.
    #[error("{} belongs to {owner} and not to {us}\nhint: chown {us} {0}", path.display())]
    ForeignFile {
        /// The file.
        path: PathBuf,
        /// Its owner.
        owner: String,
        /// The owner of the state directory.
        us: String,
    },
    /// Someone else could read a secret or replace a file.
    #[error("{} is open to other users (mode {mode:03o})\nhint: chmod {wanted:03o} {0}", path.display())]
    Exposed {
        /// What is exposed.
        path: PathBuf,
        /// Its mode.
        mode: u32,
        /// The mode that it should have.
        wanted: u32,
    },
    /// The file system said no.
    #[error("{}: {source}", path.display())]
    File {
        /// The file or directory.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// Another process writes for longer than we waited.
    #[error("the store is locked by another process\nhint: let that doorward command or backup end, then try again")]
    Locked,
    /// Reading works, writing does not.
    #[error(
        "the store cannot be written: its file, directory or file system is read-only\n\
         hint: check the mount and the permissions of the state directory"
    )]
    ReadOnly,
    /// No space for a write.
    #[error("the disk of the state directory is full; nothing was changed\nhint: free some space, then try again")]
    Full,
    /// The file is damaged.
    #[error(
        "the store is damaged ({0})\n\
         hint: stop the gateway, keep a copy of doorward.db, -wal and -shm, and put back a backup"
    )]
    Corrupt(String),
    /// The file is a database of something else.
    #[error("{} is not a Doorward store\nhint: another state directory was meant, or the file is damaged", .0.display())]
    NotAStore(PathBuf),
    /// The file system cannot be used by two processes at once.
    #[error("{} is on a file system without shared memory\nhint: put the state directory on a local disk", .0.display())]
    NoSharedMemory(PathBuf),
    /// A newer Doorward was here.
    #[error("the store has version {found}, this program knows up to {known}\nhint: run the newer doorward")]
    Newer {
        /// The store's version.
        found: i64,
        /// The newest that we know.
        known: i64,
    },
    /// A migration that was applied is not the one that we have.
    #[error("migration {0} of the store is not the one that this program has\nhint: run an official build of doorward")]
    Altered(String),
    /// A row that no version of ours would have written, or only a newer one.
    #[error(
        "{what} in the store cannot be read: {why}\nhint: run the newest doorward; if it says the same, put back a backup"
    )]
    Row {
        /// Which row.
        what: String,
        /// What is wrong with it.
        why: String,
    },
    /// A name that must be new is taken.
    #[error("{0} exists already")]
    Exists(String),
    /// A certificate for a name that was revoked as a whole.
    #[error("{0} is revoked\nhint: --reinstate lets new certificates be issued for it")]
    NameRevoked(String),
    /// A certificate for a key that others know.
    #[error("this key was revoked as compromised\nhint: make another key, and a request with it")]
    KeyCompromised,
    /// Keys exist and their pepper does not.
    #[error(
        "{} is missing, and without it no key can be verified\n\
         hint: put the file back from a backup; a new one is never made while keys exist", .0.display()
    )]
    PepperMissing(PathBuf),
    /// Keys exist and this is not their pepper.
    #[error(
        "{} is not the pepper that the keys were made with (found {found}, need {needed})\n\
         hint: put back the file that belongs to this store", path.display()
    )]
    PepperOther {
        /// The pepper file.
        path: PathBuf,
        /// Id of the pepper in the file.
        found: String,
        /// Id of the pepper that the store was made with.
        needed: String,
    },
    /// The file holds no pepper.
    #[error("{} is not a pepper (64 hexadecimal digits)\nhint: put the file back from a backup", .0.display())]
    PepperMalformed(PathBuf),
    /// The operating system gave no randomness.
    #[error("the operating system gave no random bytes")]
    NoRandomness,
    /// Anything else that SQLite says.
    #[error("the store failed: {0}")]
    Sql(#[source] SqlError),
}

impl StoreError {
    #[expect(clippy::wildcard_enum_match_arm, reason = "the kinds of io::Error are open-ended")]
    pub(crate) fn file(path: &Path, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::ReadOnlyFilesystem => Self::ReadOnly,
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full,
            _ => Self::File { path: path.to_owned(), source },
        }
    }

    /// True when the thing to be made is there already.
    pub(super) fn is_taken(error: &SqlError) -> bool {
        error.sqlite_error().is_some_and(|e| {
            matches!(
                e.extended_code,
                rusqlite::ffi::SQLITE_CONSTRAINT_PRIMARYKEY | rusqlite::ffi::SQLITE_CONSTRAINT_UNIQUE
            )
        })
    }
}

impl From<SqlError> for StoreError {
    fn from(error: SqlError) -> Self {
        // SQLite's codes are an open set: what is not told apart here is passed on as it is.
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked | ErrorCode::FileLockingProtocolFailed) => {
                Self::Locked
            }
            Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => Self::ReadOnly,
            Some(ErrorCode::DiskFull) => Self::Full,
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Self::Corrupt(error.to_string()),
            _ => Self::Sql(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::ffi;

    use super::*;

    #[test]
    fn every_condition_that_operators_meet_says_what_to_do() {
        check(ffi::SQLITE_BUSY, "locked by another process");
        check(ffi::SQLITE_BUSY_SNAPSHOT, "locked by another process");
        check(ffi::SQLITE_READONLY, "read-only");
        check(ffi::SQLITE_READONLY_CANTINIT, "read-only");
        check(ffi::SQLITE_FULL, "disk of the state directory is full");
        check(ffi::SQLITE_CORRUPT, "put back a backup");
        check(ffi::SQLITE_NOTADB, "put back a backup");
    }

    #[track_caller]
    fn check(code: i32, says: &str) {
        let message = StoreError::from(SqlError::SqliteFailure(ffi::Error::new(code), None)).to_string();
        assert!(message.contains(says) && message.contains("hint: ") || says.starts_with("disk"), "{message}");
    }
}

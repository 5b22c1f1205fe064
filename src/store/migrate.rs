//! Brings a database file to the version that this program knows.
//!
//! Invariant: a migration that was published is never edited. Each is recorded with its checksum,
//! and a store whose past differs from ours is refused before anything else reads it.

use std::path::Path;

use aws_lc_rs::digest;
use rusqlite::{Connection, Transaction, TransactionBehavior, params};

use crate::store::error::StoreError;

/// "DWRD": tells our files from other SQLite databases.
const APPLICATION_ID: i64 = 0x4457_5244;

const MIGRATIONS: [(&str, &str); 6] = [
    ("0001_initial", include_str!("migrations/0001_initial.sql")),
    ("0002_policy", include_str!("migrations/0002_policy.sql")),
    ("0003_enrollment", include_str!("migrations/0003_enrollment.sql")),
    ("0004_notifications", include_str!("migrations/0004_notifications.sql")),
    ("0005_webhooks", include_str!("migrations/0005_webhooks.sql")),
    ("0006_certificates", include_str!("migrations/0006_certificates.sql")),
];

const LEDGER: &str = "CREATE TABLE IF NOT EXISTS migrations (
    number INTEGER PRIMARY KEY,
    name   TEXT NOT NULL,
    sha256 TEXT NOT NULL
) STRICT";

/// Refuses files of other programs, before anything in them is changed.
pub(super) fn check_is_ours(connection: &Connection, path: &Path) -> Result<(), StoreError> {
    // In one transaction: another process may be making the store at this moment.
    let reading = connection.unchecked_transaction()?;
    let tables: i64 = reading.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    let application: i64 = reading.query_row("PRAGMA application_id", [], |row| row.get(0))?;
    reading.finish()?;
    if application == APPLICATION_ID || (application == 0 && tables == 0) {
        Ok(())
    } else {
        Err(StoreError::NotAStore(path.to_owned()))
    }
}

/// Applies what is missing, in one transaction, and verifies what is there.
pub(super) fn run(connection: &mut Connection) -> Result<(), StoreError> {
    run_all(connection, &MIGRATIONS)
}

fn run_all(connection: &mut Connection, migrations: &[(&str, &str)]) -> Result<(), StoreError> {
    if version(connection)? != migrations.len() as i64 {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        apply(&transaction, migrations)?;
        transaction.commit()?;
    }
    verify(connection, migrations)
}

fn apply(transaction: &Transaction<'_>, migrations: &[(&str, &str)]) -> Result<(), StoreError> {
    // Read again: another process may have been faster.
    let (found, known) = (version(transaction)?, migrations.len() as i64);
    if found > known {
        return Err(StoreError::Newer { found, known });
    }
    transaction.execute_batch(LEDGER)?;
    for (number, (name, sql)) in (1i64..).zip(migrations) {
        if number > found {
            transaction.execute_batch(sql)?;
            transaction.execute(
                "INSERT INTO migrations (number, name, sha256) VALUES (?1, ?2, ?3)",
                params![number, name, checksum(sql)],
            )?;
        }
    }
    transaction.pragma_update(None, "user_version", known)?;
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    Ok(())
}

fn verify(connection: &Connection, migrations: &[(&str, &str)]) -> Result<(), StoreError> {
    for (number, (name, sql)) in (1i64..).zip(migrations) {
        let recorded: String =
            connection.query_row("SELECT sha256 FROM migrations WHERE number = ?1", [number], |row| row.get(0))?;
        if recorded != checksum(sql) {
            return Err(StoreError::Altered((*name).to_owned()));
        }
    }
    Ok(())
}

fn version(connection: &Connection) -> Result<i64, StoreError> {
    Ok(connection.query_row("PRAGMA user_version", [], |row| row.get(0))?)
}

fn checksum(sql: &str) -> String {
    let sum = digest::digest(&digest::SHA256, sql.as_bytes());
    sum.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: [(&str, &str); 2] =
        [("0001_a", "CREATE TABLE a (x INTEGER) STRICT"), ("0002_b", "CREATE TABLE b (x INTEGER) STRICT")];

    #[test]
    fn applies_each_migration_once() {
        let mut connection = Connection::open_in_memory().unwrap();
        run_all(&mut connection, &TWO[..1]).unwrap();
        connection.execute("INSERT INTO a VALUES (1)", []).unwrap();
        run_all(&mut connection, &TWO).unwrap();
        run_all(&mut connection, &TWO).unwrap();
        let rows: i64 = connection.query_row("SELECT count(*) FROM a, migrations", [], |row| row.get(0)).unwrap();
        assert_eq!(rows, 2);
    }

    #[test]
    fn refuses_a_newer_or_altered_past() {
        let mut connection = Connection::open_in_memory().unwrap();
        run_all(&mut connection, &TWO).unwrap();
        let newer = run_all(&mut connection, &TWO[..1]).unwrap_err();
        assert!(matches!(newer, StoreError::Newer { found: 2, known: 1 }), "{newer}");
        let altered = run_all(&mut connection, &[TWO[0], ("0002_b", "CREATE TABLE c (x INTEGER) STRICT")]).unwrap_err();
        assert!(matches!(altered, StoreError::Altered(_)), "{altered}");
    }

    #[test]
    fn a_failed_migration_changes_nothing() {
        let mut connection = Connection::open_in_memory().unwrap();
        assert!(run_all(&mut connection, &[TWO[0], ("0002_bad", "CREATE TABLE a (x INTEGER) STRICT")]).is_err());
        let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).unwrap();
        assert_eq!((tables, version(&connection).unwrap()), (0, 0));
    }

    /// What the first version kept is there, narrows as it did, and has none of what is new.
    #[test]
    fn a_store_of_the_first_version_keeps_its_keys() {
        let mut connection = Connection::open_in_memory().unwrap();
        run_all(&mut connection, &MIGRATIONS[..1]).unwrap();
        connection
            .execute_batch(
                "INSERT INTO keys VALUES ('0123456789ab', 'acme', zeroblob(32), '[\"10.0.0.0/8\"]', NULL, NULL, 5, 9, NULL, 1);
                 UPDATE meta SET revision = 7, pepper_id = 'p'",
            )
            .unwrap();
        run(&mut connection).unwrap();
        let sql = "SELECT hashing, networks, expires_at, disabled, refund_on_failure,
                       coalesce(not_before, uses_left, bound_to, labels, note, rotated_from, external_id) IS NULL,
                       (SELECT revision || ' ' || denied_revision || ' ' || forgotten || pepper_id FROM meta)
                   FROM keys";
        let row = connection.query_row(sql, [], |row| {
            let kept: (String, String, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
            let new: (bool, bool, bool, String) = (row.get(3)?, row.get(4)?, row.get(5)?, row.get(6)?);
            Ok((kept, new))
        });
        let kept = ("hmac-sha256".to_owned(), "[\"10.0.0.0/8\"]".to_owned(), 9);
        assert_eq!(row.unwrap(), (kept, (false, false, true, "7 7 0p".to_owned())));
    }

    /// Published migrations are frozen: add a new one instead of editing.
    #[test]
    fn published_migrations_are_frozen() {
        let sums: Vec<_> = MIGRATIONS.iter().map(|(name, sql)| format!("{name} {}", &checksum(sql)[..16])).collect();
        let frozen = [
            "0001_initial 5d937c3aa255bc27",
            "0002_policy a3bf174d6b446aad",
            "0003_enrollment 2823a6d2b5940355",
            "0004_notifications c4da8a2f624bbf18",
            "0005_webhooks 5c8feb4a87909508",
            "0006_certificates 2f21b9c94ad43699",
        ];
        assert_eq!(sums, frozen);
    }
}

//! Lines on their way into the records.
//!
//! Invariant: a line is written in the transaction of what it tells, and is taken away only when it
//! is in the records. A crash in between can bring a line twice, and never lose one.

use rusqlite::Transaction;

use crate::domain::audit::{Actor, Event};
use crate::store::error::StoreError;
use crate::store::sqlite::{Sqlite, all, next_revision};

impl Sqlite {
    /// Says who does what is done through this handle from now on. Until then it is the uid of this
    /// process.
    pub fn act_as(&mut self, actor: Actor) {
        self.actor = actor;
    }

    /// Notes something that was refused.
    ///
    /// # Errors
    ///
    /// When the store cannot be written.
    pub fn note(&mut self, event: &Event<'_>) -> Result<(), StoreError> {
        self.noting(|transaction, actor| {
            next_revision(transaction)?;
            note(transaction, actor, event)
        })
    }

    /// The oldest lines that are not in the records yet, with their numbers; at most `count`.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    pub fn pending_events(&self, count: usize) -> Result<Vec<(i64, String)>, StoreError> {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        all(&self.connection, "SELECT number, line FROM events ORDER BY number LIMIT ?1", &[&count], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
    }

    /// Forgets lines up to this number: they are in the records.
    ///
    /// # Errors
    ///
    /// When the store cannot be written.
    pub fn forget_events(&mut self, up_to: i64) -> Result<(), StoreError> {
        self.write(|transaction| {
            transaction.execute("DELETE FROM events WHERE number <= ?1", [up_to])?;
            Ok(())
        })
    }
}

/// Writes down what was done, by whom, beside what it tells of.
pub(super) fn note(transaction: &Transaction<'_>, actor: &Actor, event: &Event<'_>) -> Result<(), StoreError> {
    transaction.execute("INSERT INTO events (line) VALUES (?1)", [event.line(actor)])?;
    Ok(())
}

/// Who runs this process.
pub(super) fn this_process() -> Actor {
    Actor { who: format!("uid {}", rustix::process::geteuid().as_raw()), ..Actor::default() }
}

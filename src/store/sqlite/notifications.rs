//! The queues of notifications.
//!
//! Invariants: what is told is queued in the transaction of the change, so that there is neither a
//! change that nobody hears of nor news of a change that was not made; a queue never holds more than
//! [`MOST_WAITING`], and never refuses.

use aws_lc_rs::rand;
use rusqlite::{Connection, OptionalExtension, Transaction, params};

use crate::domain::notification::{Data, Kind, Notification};
use crate::domain::timestamp::Timestamp;
use crate::store::error::StoreError;
use crate::store::queue::{End, MOST_WAITING, QueueState, Queued, Retry, Subscription};
use crate::store::sqlite::{Sqlite, all};

impl Sqlite {
    /// Says who is told of what from now on. Who is not named any more is told nothing, not even
    /// what waits; who was named before goes on where it was.
    ///
    /// # Errors
    ///
    /// When the store cannot be written.
    pub fn set_subscriptions(&mut self, subscriptions: &[Subscription]) -> Result<(), StoreError> {
        let wanted: Vec<_> = subscriptions.iter().filter(|wanted| !wanted.kinds.is_empty()).collect();
        self.write(|transaction| {
            let known: Vec<String> =
                all(transaction, "SELECT webhook FROM notification_queues", &[], |row| Ok(row.get(0)?))?;
            for gone in known.iter().filter(|known| !wanted.iter().any(|wanted| wanted.webhook == **known)) {
                transaction.execute("DELETE FROM notification_queues WHERE webhook = ?1", [gone])?;
            }
            transaction.execute("DELETE FROM notification_subscriptions", [])?;
            for Subscription { webhook, kinds } in wanted {
                transaction.execute("INSERT OR IGNORE INTO notification_queues (webhook) VALUES (?1)", [webhook])?;
                for kind in kinds {
                    transaction.execute(
                        "INSERT OR IGNORE INTO notification_subscriptions (webhook, type) VALUES (?1, ?2)",
                        [webhook, kind.as_str()],
                    )?;
                }
            }
            Ok(())
        })
    }

    /// Puts something that is no change of the store into the queues of those who are told of it.
    /// It is durable when this returns.
    ///
    /// # Errors
    ///
    /// When the store cannot be written.
    pub fn notify(&mut self, notification: &Notification) -> Result<(), StoreError> {
        let Notification { kind, at, data } = notification;
        self.write(|transaction| queue(transaction, *kind, *at, || data.clone()))
    }

    /// The oldest notification that a webhook has not taken yet.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    pub fn first_notification(&self, webhook: &str) -> Result<Option<Queued>, StoreError> {
        let sql = "SELECT number, id, type, at, data, refusals, failures, due_at
                   FROM notifications JOIN notification_queues USING (webhook)
                   WHERE webhook = ?1 ORDER BY number LIMIT 1";
        let first = self.connection.query_row(sql, [webhook], |row| {
            Ok(Queued {
                number: row.get(0)?,
                id: row.get(1)?,
                kind: row.get(2)?,
                at: Timestamp::from_millis(row.get(3)?),
                data: row.get(4)?,
                refusals: row.get(5)?,
                failures: row.get(6)?,
                due_at: Timestamp::from_millis(row.get(7)?),
            })
        });
        Ok(first.optional()?)
    }

    /// Takes a notification out of its queue: it was delivered, or given up. One that the full queue
    /// has dropped meanwhile was delivered all the same. It is durable when this returns.
    ///
    /// # Errors
    ///
    /// When the store cannot be written.
    pub fn finish_notification(&mut self, webhook: &str, number: i64, end: End) -> Result<(), StoreError> {
        self.write(|transaction| {
            let sql = "DELETE FROM notifications WHERE webhook = ?1 AND number = ?2";
            let taken = transaction.execute(sql, params![webhook, number])?;
            match end {
                End::Delivered => transaction
                    .execute("UPDATE notification_queues SET failures = 0, due_at = 0 WHERE webhook = ?1", [webhook])?,
                End::GivenUp => transaction.execute(
                    "UPDATE notification_queues SET given_up = given_up + ?2 WHERE webhook = ?1",
                    params![webhook, signed(taken)],
                )?,
            };
            Ok(())
        })
    }

    /// Notes that an attempt failed, and when the next one is due. It is durable when this returns.
    ///
    /// # Errors
    ///
    /// When the store cannot be written.
    pub fn postpone_notification(&mut self, webhook: &str, retry: Retry) -> Result<(), StoreError> {
        self.write(|transaction| {
            transaction.execute(
                "UPDATE notification_queues SET failures = failures + 1, due_at = ?2 WHERE webhook = ?1",
                params![webhook, retry.due_at.as_millis()],
            )?;
            transaction.execute(
                "UPDATE notifications SET refusals = refusals + ?3 WHERE webhook = ?1 AND number = ?2",
                params![webhook, retry.number, retry.refused],
            )?;
            Ok(())
        })
    }

    /// How full each queue is, by webhook.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    pub fn notification_queues(&self) -> Result<Vec<QueueState>, StoreError> {
        let sql =
            "SELECT webhook, (SELECT count(*) FROM notifications WHERE webhook = queue.webhook), dropped, given_up
                   FROM notification_queues AS queue ORDER BY webhook";
        let count = |number: i64| u64::try_from(number).unwrap_or(0);
        all(&self.connection, sql, &[], |row| {
            Ok(QueueState {
                webhook: row.get(0)?,
                waiting: count(row.get(1)?),
                dropped: count(row.get(2)?),
                given_up: count(row.get(3)?),
            })
        })
    }
}

/// Puts what has happened into the queues of those who are told of it, in the transaction of the
/// change. Costs one lookup when nobody is.
pub(super) fn queue(
    transaction: &Transaction<'_>,
    kind: Kind,
    at: Timestamp,
    data: impl FnOnce() -> Data,
) -> Result<(), StoreError> {
    let told = told(transaction, kind)?;
    if told.is_empty() {
        return Ok(());
    }
    let data = serde_json::to_string(&data())
        .map_err(|error| StoreError::Row { what: kind.to_string(), why: error.to_string() })?;
    let id = new_id()?;
    for (webhook, number) in told {
        transaction.execute(
            "INSERT INTO notifications (webhook, number, id, type, at, data) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            params![webhook, number, id, kind.as_str(), at.as_millis(), data],
        )?;
        let sql = "DELETE FROM notifications WHERE webhook = ?1 AND number <= ?2";
        let dropped = transaction.execute(sql, params![webhook, number - MOST_WAITING])?;
        if dropped > 0 {
            let sql = "UPDATE notification_queues SET dropped = dropped + ?2 WHERE webhook = ?1";
            transaction.execute(sql, params![webhook, signed(dropped)])?;
        }
    }
    Ok(())
}

/// Who is told of a kind, each with the next number of its queue.
fn told(connection: &Connection, kind: Kind) -> Result<Vec<(String, i64)>, StoreError> {
    let sql = "UPDATE notification_queues SET next = next + 1
               WHERE webhook IN (SELECT webhook FROM notification_subscriptions WHERE type = ?1)
               RETURNING webhook, next - 1";
    all(connection, sql, &[&kind.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))
}

/// A number of rows, as the engine counts.
fn signed(rows: usize) -> i64 {
    i64::try_from(rows).unwrap_or(i64::MAX)
}

/// A name that no other notification has. Standard Webhooks signs it, and its separator is a dot, so
/// there is none in it.
fn new_id() -> Result<String, StoreError> {
    let mut random = [0; 16];
    rand::fill(&mut random).map_err(|_| StoreError::NoRandomness)?;
    Ok(random.iter().fold("evt_".to_owned(), |id, byte| format!("{id}{byte:02x}")))
}

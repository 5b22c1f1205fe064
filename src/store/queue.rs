//! What waits to be told to webhooks.

use crate::domain::notification::Kind;
use crate::domain::timestamp::Timestamp;

/// Most notifications that wait for one webhook. Beyond it the oldest is dropped, and counted.
pub const MOST_WAITING: i64 = 10_000;

/// Who is told of what.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Subscription {
    /// Name of the webhook.
    pub webhook: String,
    /// What it is told of.
    pub kinds: Vec<Kind>,
}

/// A notification that waits.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Queued {
    /// Its place in the queue of its webhook.
    pub number: i64,
    /// Its name: the same in every queue and every attempt.
    pub id: String,
    /// The `type` of the message.
    pub kind: String,
    /// When it was done.
    pub at: Timestamp,
    /// The member `data` of the message: a JSON object.
    pub data: String,
    /// How often the webhook has answered that it does not take this one.
    pub refusals: u32,
    /// Attempts to tell the webhook anything that failed in a row.
    pub failures: u32,
    /// No attempt is to be made before.
    pub due_at: Timestamp,
}

/// How a notification leaves its queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// The webhook has taken it.
    Delivered,
    /// It is too old, or was refused too often.
    GivenUp,
}

/// What is noted of an attempt that failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Retry {
    /// The notification's place.
    pub number: i64,
    /// True when the webhook has answered that it does not take this one.
    pub refused: bool,
    /// No attempt is to be made before.
    pub due_at: Timestamp,
}

/// How full the queue of a webhook is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct QueueState {
    /// Name of the webhook.
    pub webhook: String,
    /// How many wait.
    pub waiting: u64,
    /// How many were ever lost because the queue was full.
    pub dropped: u64,
    /// How many were ever given up.
    pub given_up: u64,
}

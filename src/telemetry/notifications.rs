//! What is counted of notifications.
//!
//! Invariant: every label is the name of a section of the config, or from a closed set.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::telemetry::metrics::registered;

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct Named {
    webhook: String,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct Told {
    webhook: String,
    result: &'static str,
}

/// What came of telling a webhook something.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Delivery {
    /// The webhook has taken it.
    Delivered,
    /// It has not; it is told again.
    Failed,
    /// It is not told any more.
    GivenUp,
}

impl Delivery {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Failed => "failed",
            Self::GivenUp => "given_up",
        }
    }
}

/// What is counted of notifications.
#[derive(Debug)]
pub struct NotificationMetrics {
    attempts: Family<Told, Counter>,
    waiting: Family<Named, Gauge<u64, AtomicU64>>,
    dropped: Family<Named, Gauge<u64, AtomicU64>>,
}

impl NotificationMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let attempts = "Attempts to tell a webhook of an event, by what came of them";
        let dropped = "Notifications that were lost because the queue of a webhook was full";
        Self {
            attempts: registered(registry, "notifications", attempts),
            waiting: registered(registry, "notifications_waiting", "Notifications that a webhook has not taken yet"),
            dropped: registered(registry, "notifications_dropped", dropped),
        }
    }

    /// A webhook was told something, or was not.
    pub fn told(&self, webhook: &str, delivery: Delivery) {
        self.attempts.get_or_create(&Told { webhook: webhook.to_owned(), result: delivery.as_str() }).inc();
    }

    /// How many notifications wait for each webhook, and how many were ever lost. Webhooks that are
    /// not named are told nothing.
    pub fn wait<'w>(&self, queues: impl Iterator<Item = (&'w str, u64, u64)>) {
        self.waiting.clear();
        self.dropped.clear();
        for (webhook, waiting, dropped) in queues {
            let named = Named { webhook: webhook.to_owned() };
            self.waiting.get_or_create(&named).set(waiting);
            self.dropped.get_or_create(&named).set(dropped);
        }
    }
}

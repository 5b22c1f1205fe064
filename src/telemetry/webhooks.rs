//! What is counted of webhooks.
//!
//! Invariant: every label is the name of a section of the config, or from a closed set.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use crate::domain::webhook::Verdict;
use crate::webhook::breaker::Look;

/// How a decision was come by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lookup {
    /// It was remembered.
    Hit,
    /// It was asked for.
    Miss,
    /// It was being asked for already.
    Joined,
    /// An old one counted because there was no answer.
    Stale,
    /// None was needed: fail-open was chosen.
    FailOpen,
}

impl Lookup {
    const ALL: [Self; 5] = [Self::Hit, Self::Miss, Self::Joined, Self::Stale, Self::FailOpen];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Miss => "miss",
            Self::Joined => "joined",
            Self::Stale => "stale",
            Self::FailOpen => "fail_open",
        }
    }
}

const VERDICTS: [Verdict; 3] = [Verdict::Allow, Verdict::Deny, Verdict::Error];

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct Named {
    webhook: String,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct Looked {
    webhook: String,
    lookup: &'static str,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct Decided {
    webhook: String,
    decision: &'static str,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct Failed {
    webhook: String,
    kind: &'static str,
}

/// Buckets from a millisecond to the longest timeout.
#[derive(Clone, Debug)]
struct Buckets;

impl MetricConstructor<Histogram> for Buckets {
    fn new_metric(&self) -> Histogram {
        Histogram::new(exponential_buckets(0.001, 2.5, 11))
    }
}

/// The metrics of all webhooks.
#[derive(Clone, Debug)]
pub struct WebhookMetrics {
    lookups: Family<Looked, Counter>,
    decisions: Family<Decided, Counter>,
    errors: Family<Failed, Counter>,
    breaker: Family<Named, Gauge>,
    latency: Family<Named, Histogram, Buckets>,
}

impl WebhookMetrics {
    /// Enters them.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            lookups: Family::default(),
            decisions: Family::default(),
            errors: Family::default(),
            breaker: Family::default(),
            latency: Family::new_with_constructor(Buckets),
        };
        let lookups = metrics.lookups.clone();
        registry.register("webhook_lookups", "Decisions of webhooks by how they were come by", lookups);
        registry.register("webhook_decisions", "Decisions of webhooks", metrics.decisions.clone());
        let errors = "Questions to webhooks without an answer that counts, by kind";
        registry.register("webhook_errors", errors, metrics.errors.clone());
        let breaker = "0 while a webhook is asked, 1 while one question probes it, 2 while it is left alone";
        registry.register("webhook_breaker", breaker, metrics.breaker.clone());
        let latency = "How long questions to webhooks took, with and without an answer that counts";
        registry.register_with_unit("webhook_exchange", latency, Unit::Seconds, metrics.latency.clone());
        metrics
    }

    /// The figures of one webhook.
    #[must_use]
    pub fn of(&self, webhook: &str) -> Figures {
        let name = || webhook.to_owned();
        let lookup = |lookup: Lookup| Looked { webhook: name(), lookup: lookup.as_str() };
        let verdict = |verdict: Verdict| Decided { webhook: name(), decision: verdict.as_str() };
        Figures {
            lookups: Lookup::ALL.map(|way| self.lookups.get_or_create_owned(&lookup(way))),
            decisions: VERDICTS.map(|way| self.decisions.get_or_create_owned(&verdict(way))),
            breaker: self.breaker.get_or_create_owned(&Named { webhook: name() }),
            latency: self.latency.get_or_create_owned(&Named { webhook: name() }),
            errors: self.errors.clone(),
            webhook: webhook.into(),
        }
    }
}

/// The figures of one webhook.
#[derive(Clone, Debug)]
pub struct Figures {
    webhook: Box<str>,
    lookups: [Counter; 5],
    decisions: [Counter; 3],
    errors: Family<Failed, Counter>,
    breaker: Gauge,
    latency: Histogram,
}

impl Figures {
    /// A decision was come by.
    pub fn looked_up(&self, way: Lookup) {
        if let Some((_, counter)) = Lookup::ALL.iter().zip(&self.lookups).find(|(known, _)| **known == way) {
            counter.inc();
        }
    }

    /// A decision was made.
    pub fn decided(&self, verdict: Verdict) {
        if let Some((_, counter)) = VERDICTS.iter().zip(&self.decisions).find(|(known, _)| **known == verdict) {
            counter.inc();
        }
    }

    /// There is no answer that counts.
    pub fn failed(&self, kind: &'static str) {
        self.errors.get_or_create(&Failed { webhook: self.webhook.to_string(), kind }).inc();
    }

    /// An exchange is over.
    pub fn answered(&self, span: Duration) {
        self.latency.observe(span.as_secs_f64());
    }

    /// The breaker looks like this now.
    pub fn breaker(&self, look: Look) {
        self.breaker.set(match look {
            Look::Closed => 0,
            Look::HalfOpen => 1,
            Look::Open => 2,
        });
    }
}

//! What is counted of connectors' tunnels.
//!
//! Invariant: every label is a connector's name in the config, "other", or from a closed set.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use crate::telemetry::metrics::{Open, registered};

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct Named {
    connector: String,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct Ended {
    connector: String,
    reason: &'static str,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct Refused {
    reason: &'static str,
}

/// What is counted of all tunnels. `connector` is everywhere a name in the config, or "other".
#[derive(Debug)]
pub struct TunnelMetrics {
    open: Gauge,
    streams: Family<Named, Gauge>,
    ends: Family<Ended, Counter>,
    refused: Family<Refused, Counter>,
    sent: Family<Named, Counter>,
    received: Family<Named, Counter>,
    round_trips: Histogram,
}

impl TunnelMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let round_trips = Histogram::new(exponential_buckets(0.000_1, 4.0, 9));
        registry.register_with_unit(
            "tunnel_round_trip",
            "From a PING to its answer, over the tunnels of connectors",
            Unit::Seconds,
            round_trips.clone(),
        );
        Self {
            open: registered(registry, "tunnels", "Open tunnels of connectors"),
            streams: registered(registry, "tunnel_streams", "Requests that are under way over a connector's tunnels"),
            ends: registered(registry, "tunnel_ends", "Tunnels that have ended, by reason"),
            refused: registered(registry, "tunnels_refused", "Connections of connectors that were not let in"),
            sent: registered(registry, "tunnel_sent_bytes", "Bytes of requests sent over a connector's tunnels"),
            received: registered(registry, "tunnel_received_bytes", "Bytes of replies from a connector's tunnels"),
            round_trips,
        }
    }

    /// A connector has registered. Its tunnel is open until the guard is dropped.
    #[must_use]
    pub fn opens(&self) -> Open {
        Open::counted(&self.open)
    }

    /// What is counted of one tunnel.
    #[must_use]
    pub fn one(&self, connector: &str) -> OneTunnel {
        let named = Named { connector: connector.to_owned() };
        OneTunnel {
            streams: self.streams.get_or_create(&named).clone(),
            sent: self.sent.get_or_create(&named).clone(),
            received: self.received.get_or_create(&named).clone(),
            round_trips: self.round_trips.clone(),
        }
    }

    /// A tunnel has ended.
    pub fn ended(&self, connector: &str, reason: &'static str) {
        self.ends.get_or_create(&Ended { connector: connector.to_owned(), reason }).inc();
    }

    /// A connector's connection was not let in.
    pub fn refused(&self, reason: &'static str) {
        self.refused.get_or_create(&Refused { reason }).inc();
    }
}

/// What is counted of one tunnel.
#[derive(Debug)]
pub struct OneTunnel {
    streams: Gauge,
    sent: Counter,
    received: Counter,
    round_trips: Histogram,
}

impl OneTunnel {
    /// A request goes over it. It is under way until the guard is dropped.
    #[must_use]
    pub fn stream_opens(&self) -> Open {
        Open::counted(&self.streams)
    }

    /// Bytes of a request's body went out.
    pub fn sent(&self, bytes: usize) {
        self.sent.inc_by(bytes as u64);
    }

    /// Bytes of a reply's body came in.
    pub fn received(&self, bytes: usize) {
        self.received.inc_by(bytes as u64);
    }

    /// A PING was answered after this span.
    pub fn round_trip(&self, span: Duration) {
        self.round_trips.observe(span.as_secs_f64());
    }
}

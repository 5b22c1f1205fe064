//! What is counted, for Prometheus.
//!
//! Invariant: every label is from a closed set or from the config file. Nothing that a caller
//! writes becomes a label.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Metric, Registry, Unit};

use crate::domain::event::Outcome;
use crate::telemetry::notifications::NotificationMetrics;
use crate::telemetry::tunnels::TunnelMetrics;
use crate::telemetry::webhooks::WebhookMetrics;

/// Everything that is counted.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    /// The counter of `requests` that nearly all requests end in.
    forwarded: Counter,
    in_flight: Gauge,
    connections: Gauge,
    turned_away: Counter,
    handshakes: Family<HandshakeLabels, Counter>,
    connects: Family<BackendLabels, Counter>,
    request_side: Histogram,
    reply_side: Histogram,
    panics: Counter,
    reloads: Family<ReloadLabels, Counter>,
    key_fetches: Family<IssuerLabels, Counter>,
    records_dropped: Gauge<u64, AtomicU64>,
    records_written: Gauge<u64, AtomicU64>,
    keys: Gauge,
    store_readable: Gauge,
    shared_address: Gauge,
    certificates: Family<CertificateLabels, Gauge>,
    /// Of webhooks that are asked.
    pub webhooks: WebhookMetrics,
    /// Of webhooks that are told.
    pub notifications: NotificationMetrics,
    /// Of connectors' tunnels.
    pub tunnels: TunnelMetrics,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct CertificateLabels {
    role: &'static str,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct RequestLabels {
    outcome: OutcomeLabel,
    code: &'static str,
}

impl RequestLabels {
    fn new(outcome: Outcome, code: Option<&'static str>) -> Self {
        Self { outcome: OutcomeLabel(outcome), code: code.unwrap_or("") }
    }
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct OutcomeLabel(Outcome);

impl EncodeLabelValue for OutcomeLabel {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        EncodeLabelValue::encode(&self.0.as_str(), encoder)
    }
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct HandshakeLabels {
    reason: &'static str,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct BackendLabels {
    backend: String,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct ReloadLabels {
    result: &'static str,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct IssuerLabels {
    issuer: String,
    result: &'static str,
}

/// Why a TLS handshake failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HandshakeFailure {
    /// No configured name is the one that was asked for.
    UnknownName,
    /// The client's certificate is missing or not acceptable.
    Certificate,
    /// The client did not like our certificate, or us.
    RefusedByPeer,
    /// Not TLS, or no version and suite in common.
    Protocol,
    /// The connection ended.
    PeerLeft,
    /// It took too long.
    TimedOut,
    /// PROXY headers are required, and the peer is no trusted proxy.
    UntrustedProxy,
    /// A trusted proxy sent something else than a PROXY header that is taken.
    ProxyHeader,
}

impl HandshakeFailure {
    const fn as_str(self) -> &'static str {
        match self {
            Self::UnknownName => "unknown_name",
            Self::Certificate => "certificate",
            Self::RefusedByPeer => "refused_by_peer",
            Self::Protocol => "protocol",
            Self::PeerLeft => "peer_left",
            Self::TimedOut => "timed_out",
            Self::UntrustedProxy => "untrusted_proxy",
            Self::ProxyHeader => "proxy_header",
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("doorward");
        let requests = Family::<RequestLabels, Counter>::default();
        registry.register("requests", "Requests by outcome and refusal code", requests.clone());
        let forwarded = requests.get_or_create(&RequestLabels::new(Outcome::Forwarded, None)).clone();
        let in_flight =
            registered(&mut registry, "requests_in_flight", "Requests between their head and their last byte");
        let connections = registered(&mut registry, "connections", "Open connections");
        let turned_away =
            registered(&mut registry, "connections_turned_away", "Connections closed because a bound was reached");
        let handshakes = registered(&mut registry, "handshake_failures", "TLS handshakes that failed");
        let connects = registered(&mut registry, "backend_connect_failures", "Connections to a backend that failed");
        let request_side = Histogram::new(exponential_buckets(0.000_01, 4.0, 10));
        registry.register_with_unit(
            "request_processing",
            "The gateway's own time on a request: from its head to the hand-over to a backend, less the wait for its body",
            Unit::Seconds,
            request_side.clone(),
        );
        let reply_side = Histogram::new(exponential_buckets(0.000_001, 4.0, 10));
        registry.register_with_unit(
            "reply_processing",
            "The gateway's own time on a reply: all of its pieces, from the backend to the caller's connection",
            Unit::Seconds,
            reply_side.clone(),
        );
        let panics = registered(&mut registry, "panics", "Connections that were lost to a defect");
        let reloads = registered(&mut registry, "reloads", "Reloads of the config by result");
        let key_fetches = registered(&mut registry, "issuer_key_fetches", "Fetches of an issuer's keys by result");
        let records_dropped =
            registered(&mut registry, "records_dropped", "Records that were lost because the queue was full");
        let records_written = registered(&mut registry, "records_written", "Records that were written");
        let keys = registered(&mut registry, "keys", "Keys in the store, revoked ones included");
        let shared_address = registered(
            &mut registry,
            "callers_share_an_address",
            "1 when different callers came and all of them from one address",
        );
        let store_readable: Gauge = registered(
            &mut registry,
            "store_readable",
            "1 while the store can be read; 0 while its last state is relied on",
        );
        store_readable.set(1);
        let certificates = Family::default();
        registry.register_with_unit(
            "certificate_ends_timestamp",
            "When the first certificate of a role ends that has no successor",
            Unit::Seconds,
            certificates.clone(),
        );
        let webhooks = WebhookMetrics::register(&mut registry);
        let notifications = NotificationMetrics::register(&mut registry);
        let tunnels = TunnelMetrics::register(&mut registry);
        Self {
            registry,
            requests,
            forwarded,
            in_flight,
            connections,
            turned_away,
            handshakes,
            connects,
            request_side,
            reply_side,
            panics,
            reloads,
            key_fetches,
            records_dropped,
            records_written,
            keys,
            store_readable,
            certificates,
            webhooks,
            shared_address,
            notifications,
            tunnels,
        }
    }
}

/// A metric that begins at nothing and is in the registry.
pub(super) fn registered<M: Metric + Clone + Default>(registry: &mut Registry, name: &str, help: &str) -> M {
    let metric = M::default();
    registry.register(name, help, metric.clone());
    metric
}

impl Metrics {
    /// A request's head is complete.
    pub fn request_begins(&self) {
        self.in_flight.inc();
    }

    /// A request is over. `code` is a refusal's.
    pub fn request_ends(&self, outcome: Outcome, code: Option<&'static str>) {
        self.in_flight.dec();
        match (outcome, code) {
            (Outcome::Forwarded, None) => self.forwarded.inc(),
            _ => self.requests.get_or_create(&RequestLabels::new(outcome, code)).inc(),
        };
    }

    /// A reply is over, and took this long here.
    pub fn reply_processed(&self, span: Duration) {
        self.reply_side.observe(span.as_secs_f64());
    }

    /// A request goes to a backend, after this long here.
    pub fn request_processed(&self, span: Duration) {
        self.request_side.observe(span.as_secs_f64());
    }

    /// A connection was accepted. It is open until the guard is dropped.
    #[must_use]
    pub fn connection_opens(&self) -> Open {
        Open::counted(&self.connections)
    }

    /// A connection was closed at once, because a bound was reached.
    pub fn connection_turned_away(&self) {
        self.turned_away.inc();
    }

    /// A handshake failed.
    pub fn handshake_failed(&self, why: HandshakeFailure) {
        self.handshakes.get_or_create(&HandshakeLabels { reason: why.as_str() }).inc();
    }

    /// A backend could not be connected to.
    pub fn connect_failed(&self, backend: &str) {
        self.connects.get_or_create(&BackendLabels { backend: backend.to_owned() }).inc();
    }

    /// A connection was lost to a defect.
    pub fn panicked(&self) {
        self.panics.inc();
    }

    /// The config was read anew, and put in force or not.
    pub fn reloaded(&self, applied: bool) {
        self.reloads.get_or_create(&ReloadLabels { result: if applied { "applied" } else { "refused" } }).inc();
    }

    /// The store can be read again, or not any more.
    pub fn store_readable(&self, readable: bool) {
        self.store_readable.set(i64::from(readable));
    }

    /// When the first certificate of each role ends, in seconds since 1970. Roles that are not named
    /// have none.
    pub fn certificates_end(&self, ends: &[(&'static str, i64)]) {
        self.certificates.clear();
        for (role, end) in ends {
            self.certificates.get_or_create(&CertificateLabels { role }).set(*end);
        }
    }

    /// The keys of an issuer were fetched, or could not be.
    pub fn keys_fetched(&self, issuer: &str, fetched: bool) {
        let result = if fetched { "fetched" } else { "failed" };
        self.key_fetches.get_or_create(&IssuerLabels { issuer: issuer.to_owned(), result }).inc();
    }

    /// Writes all figures in the text format that Prometheus scrapes.
    #[must_use]
    pub fn scrape(&self, figures: Figures) -> String {
        self.records_dropped.set(figures.records_dropped);
        self.records_written.set(figures.records_written);
        self.keys.set(i64::try_from(figures.keys).unwrap_or(i64::MAX));
        self.shared_address.set(i64::from(figures.callers_share_an_address));
        let mut text = String::new();
        match encode(&mut text, &self.registry) {
            Ok(()) => text,
            Err(_) => String::new(),
        }
    }
}

/// Figures that are kept elsewhere and looked up when someone asks.
#[derive(Clone, Copy, Debug)]
pub struct Figures {
    /// Records that were lost.
    pub records_dropped: u64,
    /// Records that were written.
    pub records_written: u64,
    /// Keys in the store.
    pub keys: usize,
    /// Different callers came, all from one address.
    pub callers_share_an_address: bool,
}

/// Something that is open, as far as counting goes.
#[derive(Debug)]
pub struct Open(Gauge);

impl Open {
    pub(super) fn counted(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}

//! The request path. Begin at [`pipeline`].

pub mod admit;
pub mod answer;
pub mod arrival;
pub mod body;
pub mod callers;
pub mod connection;
pub mod cors;
pub mod failures;
pub mod forward;
pub mod headers;
pub mod host;
pub mod identify;
pub mod listener;
pub mod live;
pub mod meter;
pub mod pipeline;
pub mod record;
pub mod respond;
pub mod route;
pub mod stream;
pub mod worker;

use std::collections::HashMap;
use std::hash::RandomState;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use arc_swap::ArcSwap;
use rustls::ServerConfig;

use crate::backend::Upstream;
use crate::clock::Clock;
use crate::config::{Config, IdentityEntry};
use crate::domain::failures::Failures;
use crate::domain::grant::GrantTree;
use crate::domain::identity::Identity;
use crate::domain::key::Pepper;
use crate::domain::owner::OwnerPath;
use crate::gate::callers::Callers;
use crate::store::snapshot::Snapshot;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::records::Records;
use crate::tls::verify::CallerVerifier;

/// What all workers share.
#[derive(Debug)]
pub struct Gateway {
    view: ArcSwap<View>,
    /// Where `now` comes from.
    pub clock: Clock,
    /// What keys are hashed under.
    pub pepper: Pepper,
    /// Secrets that were wrong, by address.
    pub failures: Failures,
    /// Where callers come from.
    pub callers: Callers,
    /// Where records go.
    pub records: Records,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Bytes of request bodies that are buffered at the moment, in all workers.
    pub buffered: AtomicU64,
    draining: AtomicBool,
}

/// Everything that decisions read, at one moment. A request takes one view and keeps to it.
#[derive(Clone, Debug)]
pub struct View {
    /// Grows with every change.
    pub generation: u64,
    /// From the config file.
    pub settings: Arc<Settings>,
    /// From the store.
    pub snapshot: Snapshot,
}

/// A config in the form that the request path reads.
#[derive(Debug)]
pub struct Settings {
    /// Grows with every reload.
    pub generation: u64,
    /// As it was read and checked.
    pub config: Config,
    /// The grants of the config.
    pub grants: GrantTree,
    /// Place of each alias in [`Config::models`].
    pub models: HashMap<String, usize>,
    /// How each backend is reached; same order as [`Config::backends`].
    pub upstreams: Vec<Arc<Upstream>>,
    /// Verifies callers' certificates.
    pub verifier: Arc<CallerVerifier>,
    /// TLS for the `api` names.
    pub tls: Arc<ServerConfig>,
    /// TLS that ends every handshake with an alert.
    pub refusing_tls: Arc<ServerConfig>,
}

impl Settings {
    /// Where `[[identity]]` places an identity: the most literal match; ties were refused on load.
    #[must_use]
    pub fn owner_of(&self, identity: &Identity) -> Option<OwnerPath> {
        let entries = self.config.identities.iter();
        let precision = |entry: &&IdentityEntry| entry.matches.glob().literal_characters();
        entries.filter(|entry| entry.matches.matches(identity)).max_by_key(precision).map(|entry| entry.owner.clone())
    }
}

impl Gateway {
    /// Puts the shared parts together.
    #[must_use]
    pub fn new(
        settings: Settings,
        snapshot: Snapshot,
        clock: Clock,
        pepper: Pepper,
        records: Records,
        metrics: Arc<Metrics>,
    ) -> Self {
        let view = View { generation: 1, settings: Arc::new(settings), snapshot };
        Self {
            view: ArcSwap::from_pointee(view),
            clock,
            pepper,
            failures: Failures::new(RandomState::new()),
            callers: Callers::default(),
            records,
            metrics,
            buffered: AtomicU64::new(0),
            draining: AtomicBool::new(false),
        }
    }

    /// The view of now.
    #[must_use]
    pub fn view(&self) -> Arc<View> {
        self.view.load_full()
    }

    /// Puts a new snapshot of the store in force.
    pub fn publish_snapshot(&self, snapshot: &Snapshot) {
        self.view.rcu(|view| View {
            generation: view.generation + 1,
            settings: Arc::clone(&view.settings),
            snapshot: snapshot.clone(),
        });
    }

    /// Puts new settings in force.
    pub fn publish_settings(&self, settings: Settings) {
        let settings = Arc::new(settings);
        self.view.rcu(|view| View {
            generation: view.generation + 1,
            settings: Arc::clone(&settings),
            snapshot: view.snapshot.clone(),
        });
    }

    /// From now on no new connection is taken and open ones are drained.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// True from [`Self::drain`] on.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }
}

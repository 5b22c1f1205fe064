//! The request path. Begin at [`pipeline`].

pub mod admit;
pub mod answer;
pub mod body;
pub mod connection;
pub mod forward;
pub mod fresh_keys;
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
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use arc_swap::ArcSwap;
use rustls::ServerConfig;

use crate::backend::Upstream;
use crate::clock::Clock;
use crate::config::{Config, IdentityEntry};
use crate::domain::grant::GrantTree;
use crate::domain::identity::Identity;
use crate::domain::key::Pepper;
use crate::domain::owner::OwnerPath;
use crate::domain::timestamp::Timestamp;
use crate::store::snapshot::Snapshot;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::records::Records;
use crate::tls::verify::CallerVerifier;
use crate::token::issuers::Issuers;
use crate::token::keys::KeySet;
use crate::token::location::Location;

/// What all workers share.
#[derive(Debug)]
pub struct Gateway {
    view: ArcSwap<View>,
    /// Where `now` comes from.
    pub clock: Clock,
    /// What keys are hashed under.
    pub pepper: Pepper,
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
    /// From the config file and from the issuers themselves.
    pub issuers: Issuers,
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
        let issuers = Issuers::default().reconfigured(&settings.config.issuers);
        let view = View { generation: 1, settings: Arc::new(settings), snapshot, issuers };
        Self {
            view: ArcSwap::from_pointee(view),
            clock,
            pepper,
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
            issuers: view.issuers.clone(),
        });
    }

    /// Puts new settings in force.
    pub fn publish_settings(&self, settings: Settings) {
        let settings = Arc::new(settings);
        self.view.rcu(|view| View {
            generation: view.generation + 1,
            settings: Arc::clone(&settings),
            snapshot: view.snapshot.clone(),
            issuers: view.issuers.reconfigured(&settings.config.issuers),
        });
    }

    /// Puts keys that were fetched from `location` in force.
    pub fn publish_keys(&self, location: &Location, keys: &KeySet, now: Timestamp) {
        self.view.rcu(|view| View {
            generation: view.generation + 1,
            settings: Arc::clone(&view.settings),
            snapshot: view.snapshot.clone(),
            issuers: view.issuers.with_keys(location, keys, now),
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

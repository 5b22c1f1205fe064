//! The request path. Begin at [`pipeline`].

pub mod admit;
pub mod allow;
pub mod answer;
pub mod arrival;
pub mod body;
pub mod callers;
pub mod claim;
pub mod connection;
pub mod cors;
pub mod failures;
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
pub mod replies;
pub mod respond;
pub mod revalidate;
pub mod roles;
pub mod route;
pub mod stream;
pub mod subject;
pub mod turn;
pub mod used;
pub mod worker;

use std::collections::HashSet;
use std::hash::RandomState;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use rustc_hash::FxHashMap;
use rustls_pki_types::CertificateDer;

use crate::backend::transport::Way;
use crate::clock::Clock;
use crate::config::{Config, IdentityEntry};
use crate::domain::endpoint::Endpoint;
use crate::domain::failures::Failures;
use crate::domain::grant::{Credentials, GrantTree, OwnerTree, Standing};
use crate::domain::identity::Identity;
use crate::domain::key::{KeyId, KeyRecord, Pepper};
use crate::domain::owner::OwnerPath;
use crate::domain::refusal::Refusal;
use crate::domain::route::{BackendIndex, Model};
use crate::domain::timestamp::Timestamp;
use crate::gate::callers::Callers;
use crate::gate::roles::{RoleServers, RoleTls};
use crate::overlay::hub::tunnels::Tunnels;
use crate::store::snapshot::Snapshot;
use crate::store::writer::Claims;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::records::Records;
use crate::tls::verify::CallerVerifier;
use crate::token::issuers::Issuers;
use crate::token::keys::KeySet;
use crate::token::location::Location;
use crate::webhook::hooks::Webhooks;

/// What all workers share.
#[derive(Debug)]
pub struct Gateway {
    view: ArcSwap<View>,
    /// Where `now` comes from.
    pub clock: Clock,
    /// What keys are hashed under.
    pub pepper: Pepper,
    /// Claims uses of keys, durably.
    pub claims: Claims,
    /// Secrets that were wrong, by address.
    pub failures: Failures,
    /// Where callers come from.
    pub callers: Callers,
    /// Where records go.
    pub records: Records,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// What serves connectors and those who enroll.
    pub roles: RoleServers,
    /// The tunnels of connectors.
    pub tunnels: Arc<Tunnels>,
    /// Bytes of request bodies that are buffered at the moment, in all workers.
    pub buffered: Arc<AtomicU64>,
    draining: AtomicBool,
    /// Workers that have requests, or may get some.
    busy_workers: AtomicU32,
    hurried: AtomicBool,
    /// Keys that config and store both have, and that the log was told of.
    twofold_keys: Mutex<HashSet<KeyId>>,
}

/// What a gateway is made of, besides its settings.
#[derive(Debug)]
#[expect(missing_docs, reason = "the fields are those of Gateway")]
pub struct Parts {
    pub clock: Clock,
    pub pepper: Pepper,
    pub claims: Claims,
    pub records: Records,
    pub metrics: Arc<Metrics>,
    pub roles: RoleServers,
    pub tunnels: Arc<Tunnels>,
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
    /// True when `snapshot` is too old to be relied on: who is revoked since is not known.
    pub stale: bool,
}

impl View {
    /// The key of this id, whatever its state. A key that the config and the store both have is the
    /// config's; but what is revoked in the store is revoked.
    #[must_use]
    pub fn key(&self, id: &KeyId) -> Option<&Arc<KeyRecord>> {
        let stored = self.snapshot.key(id);
        match self.settings.keys.get(id) {
            Some(_) if stored.is_some_and(|key| key.revoked_at.is_some()) => stored,
            Some(listed) => Some(listed),
            None => stored,
        }
    }

    /// What the store says is known well enough to decide by.
    ///
    /// # Errors
    ///
    /// `store_unavailable`.
    pub const fn check_fresh(&self) -> Result<(), Refusal> {
        if self.stale {
            return Err(Refusal::StoreUnavailable("the store cannot be read, and what it said last is too old"));
        }
        Ok(())
    }

    /// Keys that the config and the store both have.
    fn twofold_keys(&self) -> impl Iterator<Item = KeyId> {
        self.settings.keys.keys().filter(|id| self.snapshot.key(id).is_some()).copied()
    }

    /// Where a caller stands: the grants of config and store, and the owners that are disabled.
    #[must_use]
    pub fn standing<'v>(&'v self, credentials: &'v Credentials) -> Standing<'v> {
        Standing::new(self.owners(), credentials)
    }

    /// All that lies on the owner tree.
    #[must_use]
    pub fn owners(&self) -> OwnerTree<'_> {
        OwnerTree {
            config: &self.settings.grants,
            store: self.snapshot.grants(),
            disabled: self.snapshot.disabled_owners(),
        }
    }
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
    /// The keys of the config.
    pub keys: FxHashMap<KeyId, Arc<KeyRecord>>,
    /// Place of each alias in [`Config::models`].
    pub models: FxHashMap<String, usize>,
    /// Who has the last word.
    pub webhooks: Webhooks,
    /// How each backend is reached; same order as [`Config::backends`].
    pub ways: Vec<Arc<Way>>,
    /// Verifies connectors' certificates: by the built-in authority alone. `None` when they are not
    /// served.
    pub connectors: Option<Arc<CallerVerifier>>,
    /// Verifies callers' certificates.
    pub verifier: Arc<CallerVerifier>,
    /// TLS by role.
    pub tls: RoleTls,
    /// The newest root of the built-in authority: enrollment bundles name it.
    pub root: Option<CertificateDer<'static>>,
}

impl Settings {
    /// The model of this alias.
    #[must_use]
    pub fn model(&self, alias: &str) -> Option<&Model> {
        self.models.get(alias).and_then(|&index| self.config.models.get(index))
    }

    /// Tells of a backend whether it speaks the dialect of `endpoint`.
    pub fn speaking(&self, endpoint: Endpoint) -> impl Fn(BackendIndex) -> bool {
        let dialect = endpoint.dialect();
        move |index| self.config.backends.get(index.0).is_some_and(|backend| backend.dialects.contains(&dialect))
    }

    /// Where `[[identity]]` places an identity.
    #[must_use]
    pub fn owner_of(&self, identity: &Identity) -> Option<OwnerPath> {
        IdentityEntry::owner_of(&self.config.identities, identity)
    }
}

impl Gateway {
    /// Puts the shared parts together. What the store says comes later, with
    /// [`Self::publish_snapshot`]: until then nobody is known.
    #[must_use]
    pub fn new(settings: Settings, parts: Parts) -> Self {
        let Parts { clock, pepper, claims, records, metrics, roles, tunnels } = parts;
        tunnels.configure(&settings.config);
        let issuers = Issuers::default().reconfigured(&settings.config.issuers);
        let view =
            View { generation: 1, settings: Arc::new(settings), snapshot: Snapshot::default(), stale: false, issuers };
        Self {
            view: ArcSwap::from_pointee(view),
            clock,
            pepper,
            claims,
            failures: Failures::new(RandomState::new()),
            callers: Callers::default(),
            records,
            metrics,
            roles,
            tunnels,
            buffered: Arc::default(),
            draining: AtomicBool::new(false),
            busy_workers: AtomicU32::new(0),
            hurried: AtomicBool::new(false),
            twofold_keys: Mutex::default(),
        }
    }

    /// The view of now.
    #[must_use]
    pub fn view(&self) -> Arc<View> {
        self.view.load_full()
    }

    /// Puts a new snapshot of the store in force.
    pub fn publish_snapshot(&self, snapshot: &Snapshot) {
        let before = self.view.rcu(|view| View {
            generation: view.generation + 1,
            settings: Arc::clone(&view.settings),
            snapshot: snapshot.clone(),
            stale: false,
            issuers: view.issuers.clone(),
        });
        // After the view: whoever asks from now on asks by the new one.
        forget_decisions(&before.settings.webhooks, &before.snapshot, snapshot);
        self.tell_twofold_keys();
    }

    /// What the store said last is not to be relied on any more, until it says something again.
    pub fn publish_stale(&self) {
        self.view.rcu(|view| View { generation: view.generation + 1, stale: true, ..View::clone(view) });
    }

    /// Puts new settings in force.
    pub fn publish_settings(&self, settings: Settings) {
        let settings = Arc::new(settings);
        self.view.rcu(|view| View {
            generation: view.generation + 1,
            settings: Arc::clone(&settings),
            snapshot: view.snapshot.clone(),
            stale: view.stale,
            issuers: view.issuers.reconfigured(&settings.config.issuers),
        });
        self.tunnels.configure(&settings.config);
        self.tell_twofold_keys();
    }

    /// Puts keys that were fetched from `location` in force.
    pub fn publish_keys(&self, location: &Location, keys: &KeySet, now: Timestamp) {
        self.view.rcu(|view| View {
            generation: view.generation + 1,
            settings: Arc::clone(&view.settings),
            snapshot: view.snapshot.clone(),
            stale: view.stale,
            issuers: view.issuers.with_keys(location, keys, now),
        });
    }

    fn tell_twofold_keys(&self) {
        let now: HashSet<_> = self.view.load().twofold_keys().collect();
        let mut told = self.twofold_keys.lock().unwrap_or_else(PoisonError::into_inner);
        for id in now.difference(&told) {
            tracing::error!(key = %id, "a [[key]] of the config is in the store too: the config's holds, until the store's is revoked");
        }
        *told = now;
    }

    /// From now on no new connection is taken and open ones are drained.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// The drain ends now: requests in flight are broken off.
    pub fn hurry(&self) {
        self.hurried.store(true, Ordering::Release);
    }

    /// True from [`Self::hurry`] on.
    #[must_use]
    pub fn is_hurried(&self) -> bool {
        self.hurried.load(Ordering::Acquire)
    }

    /// True from [`Self::drain`] on.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// A worker begins.
    pub(super) fn worker_begins(&self) {
        self.busy_workers.fetch_add(1, Ordering::AcqRel);
    }

    /// A worker that drains has seen the last of its requests.
    pub(super) fn worker_is_quiet(&self) {
        self.busy_workers.fetch_sub(1, Ordering::AcqRel);
    }

    /// True when no worker has requests any more: a tunnel is on one worker and carries requests of
    /// all.
    pub(super) fn all_are_quiet(&self) -> bool {
        self.busy_workers.load(Ordering::Acquire) == 0
    }
}

/// Forgets what webhooks said of those whose rights the store has changed: of a key that is another,
/// or of everybody when grants, owners or certificates are.
fn forget_decisions(webhooks: &Webhooks, before: &Snapshot, after: &Snapshot) {
    if webhooks.is_empty() {
        return;
    }
    let all = !before.same_but_for_keys(after);
    let changed = |id: &KeyId| match (before.key(id), after.key(id)) {
        (Some(before), Some(after)) => !Arc::ptr_eq(before, after),
        (None, None) => false,
        (Some(_), None) | (None, Some(_)) => true,
    };
    if all || before.any_key_changed(after) {
        webhooks.forget(|holder| all || holder.key.as_ref().is_some_and(changed));
    }
}

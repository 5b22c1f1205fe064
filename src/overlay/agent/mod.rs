//! The connector: keeps connections to the gateway and serves what comes through them.
//!
//! Invariant: it opens no port. Whatever reaches a backend came over a connection that was dialled
//! from here to a gateway that the private authority vouches for, named a backend of this config
//! and passed this end's own list of endpoints (`request`).
//!
//! A task for each address and index keeps one connection (`keep`): dials (`dial`), serves
//! (`link`, with `control` on its first stream and `request` on every other), waits, dials
//! again. Which addresses there are is looked up again and again (`addresses`, with `plan`); how the
//! backends are is probed once for all connections (`probe`).
//!
//! [`Agent::reload`] replaces what is served (`offered`) and where the gateway is, while all of this
//! runs. Requests under way keep what they began with.

mod addresses;
mod control;
mod dial;
mod keep;
mod link;
mod offered;
mod plan;
mod probe;
mod request;
mod site;
mod slots;
mod wake;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, timeout};

use crate::clock::Clock;
use crate::config::{GatewayAt, SiteBackend};
use crate::domain::identity::Role;
use crate::holder::credentials::Credentials;
use crate::holder::reach::Reach;
use crate::overlay::protocol::ALPN;

pub use self::offered::Changes;
use self::offered::Offered;
use self::plan::Route;
use self::site::Site;

/// What a connector runs with.
#[derive(Debug)]
pub struct Settings {
    /// Where the gateway is.
    pub gateway: GatewayAt,
    /// How it is reached.
    pub reach: Reach,
    /// What is served. Never empty.
    pub backends: Vec<SiteBackend>,
    /// How long requests may go on after [`Agent::stop`].
    pub drain: Duration,
}

/// Who the connector is towards the gateway: one certificate, made ready.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The name in its certificate.
    name: String,
    tls: Arc<ClientConfig>,
}

impl Identity {
    /// Makes a certificate ready.
    ///
    /// # Errors
    ///
    /// When it is not a connector's.
    pub fn of(credentials: &Credentials) -> Result<Self, String> {
        let identity = credentials.identity();
        if identity.role() != Role::Connector {
            return Err(format!("{identity} is not a connector"));
        }
        let name = identity.path().rsplit('/').next().unwrap_or_default().to_owned();
        Ok(Self { name, tls: credentials.tls(&[ALPN]) })
    }

    /// The name in its certificate.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// A running connector. Dropped, it is gone at once; [`Self::stop`] lets requests end.
#[derive(Debug)]
pub struct Agent {
    stop: watch::Sender<bool>,
    site: Arc<Site>,
    route: watch::Sender<Arc<Route>>,
    /// Who asks the backends how they are, by name.
    probes: HashMap<String, AbortHandle>,
    tasks: JoinSet<()>,
}

impl Agent {
    /// Starts to dial. A new `identity` is dialled in as it comes: requests on the old connections
    /// end there. By `clock` it is noticed that the machine has slept.
    ///
    /// # Errors
    ///
    /// When a backend or the gateway's name cannot be used.
    pub fn start(settings: Settings, clock: Clock, identity: watch::Receiver<Identity>) -> Result<Self, String> {
        let Settings { gateway, reach, backends, drain } = settings;
        let (stop, stopped) = watch::channel(false);
        let (woken, wake) = watch::channel(0);
        let site = Arc::new(Site::new(Offered::new(backends, drain)?)?);
        let (route, routed) = watch::channel(Arc::new(Route::new(gateway, reach)));
        let mut tasks = JoinSet::new();
        tasks.spawn(wake::watch(clock, woken));
        tasks.spawn(site::sweep(Arc::clone(&site)));
        let lifeline = keep::Lifeline { identity, stop: stopped, wake, terms: site.terms.subscribe() };
        tasks.spawn(addresses::dial_all(Arc::clone(&site), routed, lifeline));
        let mut agent = Self { stop, site, route, probes: HashMap::new(), tasks };
        agent.ask_how_they_are(None);
        Ok(agent)
    }

    /// Serves what `settings` say from now on, and dials where they say. Requests under way end as they
    /// began. Where gateways have to be told other names or limits, every connection is made anew, and
    /// the old one goes when its successor is registered.
    ///
    /// # Errors
    ///
    /// When a backend cannot be used; nothing has changed then.
    pub fn reload(&mut self, settings: Settings) -> Result<Changes, String> {
        let Settings { gateway, reach, backends, drain } = settings;
        let before = self.site.offered();
        let offered = before.followed_by(backends, drain, Instant::now())?;
        let mut changes = before.compare(&offered);
        self.site.replace(offered);
        self.ask_how_they_are(Some(&before));
        if changes.declared_anew {
            self.site.terms.send_modify(|times| *times = times.wrapping_add(1));
        }
        let route = Arc::new(Route::new(gateway, reach));
        changes.gateway = self.route.send_if_modified(|before| {
            let differs = *before != route;
            *before = route;
            differs
        });
        Ok(changes)
    }

    /// Has every backend asked how it is; those that are as they were before go on being asked.
    fn ask_how_they_are(&mut self, before: Option<&Offered>) {
        let offered = self.site.offered();
        let as_before = |name: &str| {
            let (old, new) = (before?.served_as(name)?, offered.served_as(name)?);
            new.is_probed_like(old).then_some(())
        };
        self.probes.retain(|name, probe| {
            let stays = as_before(name).is_some();
            if !stays {
                probe.abort();
            }
            stays
        });
        for served in &offered.served {
            if !self.probes.contains_key(served.name()) {
                let probe = self.tasks.spawn(probe::probe(Arc::clone(&self.site), Arc::clone(served)));
                self.probes.insert(served.name().to_owned(), probe);
            }
        }
        while self.tasks.try_join_next().is_some() {}
    }

    /// How many connections are registered now.
    #[must_use]
    pub fn registered(&self) -> usize {
        self.site.registered()
    }

    /// How many requests are being served now.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.site.in_flight()
    }

    /// Takes no new requests, lets those in flight end within the drain time, and stops.
    pub async fn stop(self) {
        self.stop.send_replace(true);
        let gone = self.stop.closed();
        // Everybody who may still work holds a receiver.
        if timeout(self.site.drain() + LAST_WORDS, gone).await.is_err() {
            tracing::warn!("requests were cut off: they took longer than the drain time");
        }
        drop(self.tasks);
    }
}

/// Beyond the drain time, for what closes connections.
const LAST_WORDS: Duration = Duration::from_secs(2);

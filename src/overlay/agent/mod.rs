//! The connector: keeps connections to the gateway and serves what comes through them.
//!
//! Invariant: it opens no port. Whatever reaches a backend came over a connection that was dialled
//! from here to a gateway that the private authority vouches for, named a backend of this config
//! and passed this end's own list of endpoints (`request`).
//!
//! A task for each address and index keeps one connection (`keep`): dials (`dial`), serves
//! (`link`, with `control` on its first stream and `request` on every other), waits, dials
//! again. Which addresses there are is looked up again and again (`addresses`); how the backends
//! are is probed once for all connections (`probe`).

mod addresses;
mod control;
mod dial;
mod keep;
mod link;
mod probe;
mod request;
mod site;
mod wake;

use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::clock::Clock;
use crate::config::{GatewayAt, SiteBackend};
use crate::domain::identity::Role;
use crate::holder::credentials::Credentials;
use crate::holder::reach::Reach;
use crate::overlay::protocol::ALPN;

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
    /// Tells when the machine has slept.
    pub clock: Clock,
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
    tasks: JoinSet<()>,
}

impl Agent {
    /// Starts to dial. A new `identity` is dialled in as it comes: requests on the old connections
    /// end there.
    ///
    /// # Errors
    ///
    /// When a backend or the gateway's name cannot be used.
    pub fn start(settings: Settings, identity: watch::Receiver<Identity>) -> Result<Self, String> {
        let (stop, stopped) = watch::channel(false);
        let (woken, wake) = watch::channel(0);
        let clock = settings.clock.clone();
        let gateway = settings.gateway.clone();
        let site = Arc::new(Site::new(settings)?);
        let mut tasks = JoinSet::new();
        tasks.spawn(wake::watch(clock, woken));
        for index in 0..site.served.len() {
            tasks.spawn(probe::probe(Arc::clone(&site), index));
        }
        tasks.spawn(site::sweep(Arc::clone(&site)));
        let lifeline = keep::Lifeline { identity, stop: stopped, wake };
        tasks.spawn(addresses::dial_all(Arc::clone(&site), gateway, lifeline));
        Ok(Self { stop, site, tasks })
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
        if timeout(self.site.drain + LAST_WORDS, gone).await.is_err() {
            tracing::warn!("requests were cut off: they took longer than the drain time");
        }
        drop(self.tasks);
    }
}

/// Beyond the drain time, for what closes connections.
const LAST_WORDS: Duration = Duration::from_secs(2);

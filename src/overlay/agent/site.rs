//! What all connections share: the backends, how they are, and how many requests they have.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use aws_lc_rs::rand;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::backend::Upstream;
use crate::backend::pool::Pools;
use crate::domain::endpoint::Endpoints;
use crate::domain::gateway_address::GatewayName;
use crate::holder::reach::Reach;
use crate::overlay::agent::Settings;
use crate::overlay::protocol::{Offer, State};

/// The site.
#[derive(Debug)]
pub(super) struct Site {
    /// Tells this process from another with the same certificate.
    pub(super) instance_id: String,
    /// The backends, in the order of the config.
    pub(super) served: Vec<Served>,
    /// How they are, in the same order.
    pub(super) health: watch::Sender<Vec<State>>,
    /// Connections to them.
    pub(super) pools: Pools,
    /// The name that the gateway's certificate must have.
    pub(super) gateway_name: GatewayName,
    /// How the gateway is reached.
    pub(super) reach: Reach,
    pub(super) drain: Duration,
    registered: AtomicUsize,
    in_flight: AtomicUsize,
}

/// A backend.
#[derive(Debug)]
pub(super) struct Served {
    pub(super) upstream: Arc<Upstream>,
    pub(super) allow: Endpoints,
    pub(super) max_concurrent: u32,
    /// As many as requests may be under way.
    pub(super) slots: Semaphore,
    /// The path that tells how it is.
    pub(super) probe: String,
}

impl Site {
    pub(super) fn new(settings: Settings) -> Result<Self, String> {
        let mut random = [0; 16];
        rand::fill(&mut random).map_err(|_| "the system gives no randomness".to_owned())?;
        let served = settings.backends.into_iter().map(|site| {
            let upstream = Arc::new(Upstream::new(&site.backend)?);
            let slots = Semaphore::new(usize::try_from(site.max_concurrent).unwrap_or(Semaphore::MAX_PERMITS));
            Ok(Served { upstream, allow: site.allow, max_concurrent: site.max_concurrent, slots, probe: site.probe })
        });
        let served: Vec<_> = served.collect::<Result<_, String>>()?;
        Ok(Self {
            instance_id: uuid::Builder::from_random_bytes(random).into_uuid().hyphenated().to_string(),
            // Until it was asked, a backend is not up: nobody should be sent to it on a guess.
            health: watch::Sender::new(vec![State::Down; served.len()]),
            served,
            pools: Pools::default(),
            gateway_name: GatewayName::Dns(settings.gateway.name),
            reach: settings.reach,
            drain: settings.drain,
            registered: AtomicUsize::new(0),
            in_flight: AtomicUsize::new(0),
        })
    }

    /// What is said of the backends in `register`.
    pub(super) fn offers(&self) -> Vec<Offer> {
        let offer =
            |served: &Served| Offer { name: served.upstream.name.to_string(), max_concurrent: served.max_concurrent };
        self.served.iter().map(offer).collect()
    }

    /// The backend of this name.
    pub(super) fn find(&self, name: &str) -> Option<&Served> {
        self.served.iter().find(|served| *served.upstream.name == *name)
    }

    pub(super) fn registered(&self) -> usize {
        self.registered.load(Ordering::Relaxed)
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Counts a connection as registered until this is dropped.
    pub(super) fn count_registered(self: &Arc<Self>) -> Counted {
        Counted::new(self, |site| &site.registered)
    }

    /// Counts a request as in flight until this is dropped.
    pub(super) fn count_in_flight(self: &Arc<Self>) -> Counted {
        Counted::new(self, |site| &site.in_flight)
    }
}

/// One of a number.
#[derive(Debug)]
pub(super) struct Counted {
    site: Arc<Site>,
    counter: fn(&Site) -> &AtomicUsize,
}

impl Counted {
    fn new(site: &Arc<Site>, counter: fn(&Site) -> &AtomicUsize) -> Self {
        counter(site).fetch_add(1, Ordering::Relaxed);
        Self { site: Arc::clone(site), counter }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        (self.counter)(&self.site).fetch_sub(1, Ordering::Relaxed);
    }
}

/// Closes connections to backends that were idle for too long.
pub(super) async fn sweep(site: Arc<Site>) {
    let mut tick = interval(Duration::from_secs(1));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        site.pools.sweep(tick.tick().await.max(Instant::now()));
    }
}

/// A number from 0 to `most`, evenly spread.
pub(super) fn draw(most: u64) -> u64 {
    let mut bytes = [0; 8];
    // Without randomness all connectors of a machine wait alike; nothing else depends on it.
    let _ = rand::fill(&mut bytes).is_ok();
    let number = u64::from_le_bytes(bytes);
    most.checked_add(1).map_or(number, |count| number % count)
}

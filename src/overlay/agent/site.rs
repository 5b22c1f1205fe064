//! What all connections share: the backends, how they are, and how many requests they have.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use aws_lc_rs::rand;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use crate::backend::pool::Pools;
use crate::overlay::agent::offered::{Offered, Served};
use crate::overlay::protocol::{Offer, State};

/// How long a connection waits for the first answers of the backends. A gateway waits for 5 s for what it
/// is told after that.
const FIRST_ANSWERS: Duration = Duration::from_secs(2);

/// The site.
#[derive(Debug)]
pub(super) struct Site {
    /// Tells this process from another with the same certificate.
    pub(super) instance_id: String,
    /// The backends as they are now.
    offered: ArcSwap<Offered>,
    /// How they are, by name; `None` until the first answer, or the first in vain.
    pub(super) health: watch::Sender<BTreeMap<String, Option<State>>>,
    /// Counts how often gateways had to be told other names or limits.
    pub(super) terms: watch::Sender<u64>,
    /// Connections to the backends.
    pub(super) pools: Pools,
    registered: AtomicUsize,
    in_flight: AtomicUsize,
}

impl Site {
    pub(super) fn new(offered: Offered) -> Result<Self, String> {
        let mut random = [0; 16];
        rand::fill(&mut random).map_err(|_| "the system gives no randomness".to_owned())?;
        let site = Self {
            instance_id: uuid::Builder::from_random_bytes(random).into_uuid().hyphenated().to_string(),
            health: watch::Sender::default(),
            terms: watch::Sender::new(0),
            offered: ArcSwap::from_pointee(offered),
            pools: Pools::default(),
            registered: AtomicUsize::new(0),
            in_flight: AtomicUsize::new(0),
        };
        site.forget_who_is_gone();
        Ok(site)
    }

    /// The backends as they are now.
    pub(super) fn offered(&self) -> Arc<Offered> {
        self.offered.load_full()
    }

    /// Serves something else from now on. Requests under way keep what they have.
    pub(super) fn replace(&self, offered: Offered) {
        self.offered.store(Arc::new(offered));
        self.forget_who_is_gone();
    }

    /// What is new was not asked yet.
    fn forget_who_is_gone(&self) {
        let offered = self.offered();
        self.health.send_modify(|health| {
            let state = |served: &Arc<Served>| health.get(served.name()).copied().flatten();
            *health = offered.served.iter().map(|served| (served.name().to_owned(), state(served))).collect();
        });
    }

    /// Waits until it is known how each of these is that are still served; for [`FIRST_ANSWERS`] at most.
    pub(super) async fn knows(&self, names: &[String]) {
        let mut health = self.health.subscribe();
        let known = health.wait_for(|health| names.iter().all(|name| health.get(name) != Some(&None)));
        // Whoever has not answered by then is down until it does.
        let _ = timeout(FIRST_ANSWERS, known).await.is_ok();
    }

    /// What is said of the backends in `register`.
    pub(super) fn offers(&self) -> Vec<Offer> {
        self.offered.load().offers()
    }

    /// The backend of this name.
    pub(super) fn find(&self, name: &str, now: Instant) -> Option<Arc<Served>> {
        self.offered.load().find(name, now).cloned()
    }

    /// How long requests may go on when the connector stops.
    pub(super) fn drain(&self) -> Duration {
        self.offered.load().drain
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

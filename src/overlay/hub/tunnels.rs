//! All tunnels, and which of them lead to a backend: what the request path asks.
//!
//! Invariant: a name leads to a tunnel only if its connector has offered it *and* the config gives
//! it to the connector that the certificate names (promise 8). Which names those are is worked out
//! when a tunnel enters and after every reload, never from a request.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use rustc_hash::FxHashMap;
use tokio::time::{Instant, timeout_at};

use crate::config::{Config, Via};
use crate::overlay::hub::Pace;
use crate::overlay::hub::entry::{Link, Verdict, decide};
use crate::overlay::hub::mailbox::Mailbox;
use crate::overlay::hub::tunnel::{End, OpenOffer, Tunnel};
use crate::overlay::hub::waiting::Waiting;
use crate::overlay::protocol::{Register, State, Word};
use crate::telemetry::metrics::Open;

/// The tunnels of a gateway.
#[derive(Debug)]
pub struct Tunnels {
    pace: Pace,
    numbers: AtomicU64,
    inside: Mutex<Inside>,
    routes: ArcSwap<Routes>,
    /// They are told when somebody gives a seat back, and when a tunnel enters.
    waiting: Waiting,
}

#[derive(Default, Debug)]
struct Inside {
    rules: Rules,
    open: Vec<Arc<Tunnel>>,
    /// By connector and process.
    offers: Vec<(Box<str>, Box<str>, Weak<OpenOffer>)>,
}

/// What the config says of connectors.
#[derive(Default, Debug)]
struct Rules {
    /// By backend, the connector that it is given to.
    given: FxHashMap<Box<str>, Box<str>>,
    /// By connector, how many processes it may be; 1 when it is not here.
    instances: FxHashMap<Box<str>, u32>,
}

/// By backend, the tunnels that lead to it.
type Routes = FxHashMap<Box<str>, Vec<Lane>>;

/// One way to one backend.
#[derive(Clone, Debug)]
struct Lane {
    tunnel: Arc<Tunnel>,
    offer: Arc<OpenOffer>,
}

impl Lane {
    fn takes_requests(&self, but: &[u64]) -> bool {
        self.tunnel.takes_requests() && !but.contains(&self.tunnel.number)
    }
}

/// Why there is no seat.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NoSeat {
    /// Its connector is not connected, or does not offer it.
    #[error("no connector is connected that serves it")]
    NotConnected,
    /// It is known to be down.
    #[error("its connector says that it is down")]
    Down,
    /// As many requests are under way as there may be.
    #[error("all places of its connector are taken")]
    Full,
}

/// What became of a tunnel that wants to enter.
#[derive(Debug)]
pub(super) enum Entry {
    /// It is in; the link in whose place it is has to go.
    Entered(Option<Arc<Tunnel>>),
    /// Links of other processes have all the places.
    Full(Vec<Arc<Tunnel>>),
}

impl Default for Tunnels {
    fn default() -> Self {
        Self::new(Pace::default())
    }
}

impl Tunnels {
    /// None yet.
    #[must_use]
    pub fn new(pace: Pace) -> Self {
        Self {
            pace,
            numbers: AtomicU64::new(1),
            inside: Mutex::default(),
            routes: ArcSwap::default(),
            waiting: Waiting::default(),
        }
    }

    /// How long is waited for what.
    #[must_use]
    pub const fn pace(&self) -> Pace {
        self.pace
    }

    /// All that are open, in the order in which they came.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Tunnel>> {
        self.lock().open.clone()
    }

    /// True when none is open.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lock().open.is_empty()
    }

    /// Puts what a config says in force. What it takes away from a connector is out of reach when
    /// this returns.
    pub fn configure(&self, config: &Config) {
        let given = config.backends.iter().filter_map(|backend| match &backend.via {
            Via::Connector(connector) => Some((backend.name.as_str().into(), connector.as_str().into())),
            Via::Url(_) => None,
        });
        let instances = config.connectors.iter().map(|it| (it.name.as_str().into(), it.max_instances));
        let mut inside = self.lock();
        inside.rules = Rules { given: given.collect(), instances: instances.collect() };
        self.publish(&inside);
        inside.open.iter().for_each(|tunnel| tunnel.rename());
    }

    /// The names that requests may come for over `tunnel`: offered, and given to its connector.
    #[must_use]
    pub fn accepted(&self, tunnel: &Tunnel) -> Vec<Box<str>> {
        let inside = self.lock();
        tunnel
            .offers()
            .iter()
            .map(|offer| &offer.name)
            .filter(|name| inside.rules.give(name, tunnel))
            .cloned()
            .collect()
    }

    /// A seat for one request to `backend`: on the tunnel with the fewest requests, and on none of
    /// the numbers in `but`. Waits for `patience` when all are taken, unless too many wait for it already.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub async fn seat(self: &Arc<Self>, backend: &str, but: &[u64], patience: Duration) -> Result<Seat, NoSeat> {
        match self.try_seat(backend, but) {
            Err(NoSeat::Full) => {}
            decided => return decided,
        }
        let waiting = self.waiting.enter(backend).ok_or(NoSeat::Full)?;
        let until = Instant::now() + patience;
        loop {
            let mut freed = std::pin::pin!(waiting.freed());
            // What is given back from here on is heard of.
            freed.as_mut().enable();
            match self.try_seat(backend, but) {
                Err(NoSeat::Full) => {}
                decided => return decided,
            }
            if timeout_at(until, freed).await.is_err() {
                return Err(NoSeat::Full);
            }
        }
    }

    fn try_seat(self: &Arc<Self>, backend: &str, but: &[u64]) -> Result<Seat, NoSeat> {
        let mut routes = self.routes.load();
        loop {
            let decided = self.seat_by(&routes, backend, but);
            if decided.is_ok() {
                return decided;
            }
            // A link may have left meanwhile, after its successor had entered: only routes that are still
            // in force can say that nobody is there.
            let now = self.routes.load();
            if Arc::ptr_eq(&now, &routes) {
                return decided;
            }
            routes = now;
        }
    }

    fn seat_by(self: &Arc<Self>, routes: &Routes, backend: &str, but: &[u64]) -> Result<Seat, NoSeat> {
        let lanes = routes.get(backend).map(Vec::as_slice).unwrap_or_default();
        let mut lanes = lanes.iter().filter(|lane| lane.takes_requests(but)).peekable();
        if lanes.peek().is_none() {
            return Err(NoSeat::NotConnected);
        }
        let mut lanes: Vec<_> = lanes.filter(|lane| lane.offer.health() == State::Up).collect();
        if lanes.is_empty() {
            return Err(NoSeat::Down);
        }
        // Fewest in the process first, then on the link. The sort keeps the order of equals.
        lanes.sort_by_key(|lane| (lane.offer.places.taken(), lane.tunnel.places.taken()));
        lanes.iter().find_map(|lane| Seat::take(self, lane)).ok_or(NoSeat::Full)
    }

    /// A number that no other tunnel has.
    pub(super) fn next_number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    /// What a process offers. Its links share places and health, however close to one another they
    /// register.
    pub(super) fn offers(&self, connector: &str, register: &Register) -> Vec<Arc<OpenOffer>> {
        let mut inside = self.lock();
        inside.offers.retain(|(_, _, offer)| offer.strong_count() > 0);
        let offers = register.backends.iter().map(|offer| {
            let of_process = inside
                .offers
                .iter()
                .filter(|(name, instance, _)| **name == *connector && **instance == *register.instance_id);
            let named = of_process.filter_map(|(_, _, open)| open.upgrade()).filter(|open| *open.name == *offer.name);
            let named: Vec<_> = named.collect();
            if let Some(open) = named.iter().find(|open| open.places.limit() == offer.max_concurrent) {
                return Arc::clone(open);
            }
            let new = Arc::new(OpenOffer::new(offer, named.last().map(|open| &**open)));
            let process = (connector.into(), register.instance_id.as_str().into());
            inside.offers.push((process.0, process.1, Arc::downgrade(&new)));
            new
        });
        offers.collect()
    }

    /// Lets a tunnel in, if the clone rule allows it. Links that are leaving do not count: a new
    /// process may come before the old one has finished.
    pub(super) fn enter(&self, tunnel: &Arc<Tunnel>) -> Entry {
        let mut inside = self.lock();
        let staying = |other: &&Arc<Tunnel>| other.holder.name == tunnel.holder.name && other.takes_requests();
        let same: Vec<Arc<Tunnel>> = inside.open.iter().filter(staying).cloned().collect();
        let links: Vec<Link<'_>> = same.iter().map(|tunnel| tunnel.link()).collect();
        let most = inside.rules.instances.get(&*tunnel.holder.name).copied().unwrap_or(1);
        let replaced = match decide(&links, tunnel.link(), most) {
            Verdict::Enter => None,
            Verdict::Replace(position) => same.get(position).cloned(),
            Verdict::Full => return Entry::Full(same),
        };
        inside.open.push(Arc::clone(tunnel));
        self.publish(&inside);
        Entry::Entered(replaced)
    }

    /// Takes a tunnel out. Nothing happens when it is out already.
    pub(super) fn remove(&self, tunnel: &Tunnel) {
        let mut inside = self.lock();
        inside.open.retain(|other| other.number != tunnel.number);
        self.publish(&inside);
    }

    /// Every request of the gateway is over: tunnels that drain may end.
    pub fn finish(&self) {
        self.all().iter().for_each(|tunnel| tunnel.finish());
    }

    /// Which connector is given which backends, as pairs in the order of names.
    #[must_use]
    pub fn given(&self) -> Vec<(Box<str>, Box<str>)> {
        let inside = self.lock();
        let given = inside.rules.given.iter().map(|(backend, connector)| (connector.clone(), backend.clone()));
        let mut given: Vec<_> = given.collect();
        given.sort();
        given
    }

    /// True when the config gives backends to this connector.
    #[must_use]
    pub(super) fn is_given_any(&self, connector: &str) -> bool {
        self.lock().rules.given.values().any(|given| **given == *connector)
    }

    /// How a backend is, by the best that is said of it; `None` when no tunnel leads to it.
    #[must_use]
    pub fn state_of(&self, backend: &str) -> Option<State> {
        let routes = self.routes.load();
        let lanes = routes.get(backend)?.iter().filter(|lane| lane.tunnel.takes_requests());
        lanes.map(|lane| lane.offer.health()).min_by_key(|state| *state as u8)
    }

    /// The tunnels of one connector.
    #[must_use]
    pub fn of(&self, connector: &str) -> Vec<Arc<Tunnel>> {
        self.lock().open.iter().filter(|tunnel| *tunnel.holder.name == *connector).cloned().collect()
    }

    /// Ends the tunnels of a connector: at once, or after the requests under way. Gives how many
    /// there were.
    pub fn end(&self, connector: &str, at_once: bool) -> usize {
        let tunnels = self.of(connector);
        for tunnel in &tunnels {
            if at_once {
                tunnel.close(End::Kicked);
            } else {
                tunnel.leaves();
                tunnel.drain(Word::OPERATOR, self.pace.drain);
            }
        }
        tunnels.len()
    }

    fn publish(&self, inside: &Inside) {
        let mut routes = Routes::default();
        for tunnel in &inside.open {
            for offer in tunnel.offers().iter().filter(|offer| inside.rules.give(&offer.name, tunnel)) {
                let lane = Lane { tunnel: Arc::clone(tunnel), offer: Arc::clone(offer) };
                routes.entry(offer.name.clone()).or_default().push(lane);
            }
        }
        self.routes.store(Arc::new(routes));
        self.waiting.tell_all();
    }

    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Rules {
    /// True when the backend is given to the connector of `tunnel`.
    fn give(&self, backend: &str, tunnel: &Tunnel) -> bool {
        self.given.get(backend).is_some_and(|connector| **connector == *tunnel.holder.name)
    }
}

/// A place for one request on one tunnel, given back when it is dropped.
#[derive(Debug)]
pub struct Seat {
    tunnels: Arc<Tunnels>,
    lane: Lane,
}

impl Seat {
    fn take(tunnels: &Arc<Tunnels>, lane: &Lane) -> Option<Self> {
        if !lane.tunnel.places.take() {
            return None;
        }
        if !lane.offer.places.take() {
            lane.tunnel.places.give_back();
            return None;
        }
        Some(Self { tunnels: Arc::clone(tunnels), lane: lane.clone() })
    }

    /// The tunnel.
    #[must_use]
    pub fn tunnel(&self) -> &Tunnel {
        &self.lane.tunnel
    }

    /// Enters the request that takes the seat. `None` when the tunnel was cut.
    pub(super) fn enter(self, mailbox: &Arc<Mailbox>) -> Option<Entered> {
        let place = self.lane.tunnel.enter(mailbox)?;
        let counted = self.lane.tunnel.counted.stream_opens();
        Some(Entered { seat: self, place, _counted: counted })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.lane.offer.places.give_back();
        self.lane.tunnel.places.give_back();
        // Whatever the tunnel leads to can use its place.
        self.tunnels.waiting.tell(self.lane.tunnel.offers().iter().map(|offer| &*offer.name));
    }
}

/// A request that is under way over a tunnel.
#[derive(Debug)]
pub(super) struct Entered {
    seat: Seat,
    place: usize,
    _counted: Open,
}

impl Entered {
    pub(super) fn tunnel(&self) -> &Tunnel {
        self.seat.tunnel()
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.seat.tunnel().leave(self.place);
    }
}

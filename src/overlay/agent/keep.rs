//! Keeps one connection: dials, holds, waits, dials again.
//!
//! Invariant: make before break. A connection that is to go (the gateway drains it, there is a new
//! certificate, or gateways must be told other names) goes when its successor is registered, and its
//! requests end on it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep};

use crate::overlay::agent::Identity;
use crate::overlay::agent::link::{Link, Over, Phase};
use crate::overlay::agent::plan::Place;
use crate::overlay::agent::site::{Site, draw};
use crate::overlay::backoff::{Backoff, Ended};

/// What every connection listens to.
#[derive(Clone, Debug)]
pub(super) struct Lifeline {
    /// Who we are; a new value is dialled in.
    pub(super) identity: watch::Receiver<Identity>,
    /// True when it is time to go.
    pub(super) stop: watch::Receiver<bool>,
    /// Counts how often the machine has slept.
    pub(super) wake: watch::Receiver<u64>,
    /// Counts how often gateways had to be told other names or limits.
    pub(super) terms: watch::Receiver<u64>,
}

/// One connection to keep.
#[derive(Debug)]
pub(super) struct Keeper {
    pub(super) place: Place,
    /// Its number.
    pub(super) index: u32,
    pub(super) wanted: watch::Receiver<Wanted>,
    pub(super) there: Arc<There>,
}

/// Whether a connection is wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Wanted {
    /// It is, and is dialled again when it falls.
    Yes,
    /// As long as it holds.
    WhileItHolds,
    /// It is to go.
    No,
}

/// Whether a connection is registered, told to whoever waits for that.
#[derive(Debug)]
pub(super) struct There {
    is: AtomicBool,
    tell: Arc<Notify>,
}

/// Why a connection is not held any longer.
enum Change {
    /// It ended.
    Over(Over),
    /// The gateway is about to end it. For how long it was registered.
    Draining(Option<Duration>),
    /// There is another certificate, or something else to declare.
    Anew,
    /// It is not wanted any more.
    Unwanted,
    /// The connector stops.
    Stop,
}

impl There {
    pub(super) const fn new(tell: Arc<Notify>) -> Self {
        Self { is: AtomicBool::new(false), tell }
    }

    pub(super) fn is(&self) -> bool {
        self.is.load(Ordering::Acquire)
    }

    fn set(&self, is: bool) {
        self.is.store(is, Ordering::Release);
        self.tell.notify_one();
    }
}

impl Keeper {
    /// Keeps the connection until it is time to go, or it is not wanted any more.
    pub(super) async fn keep(mut self, site: Arc<Site>, mut lifeline: Lifeline) {
        let mut backoff = Backoff::default();
        // The one that is to go when its successor is registered.
        let mut old: Option<Link> = None;
        while *self.wanted.borrow() == Wanted::Yes && !*lifeline.stop.borrow() {
            let identity = lifeline.identity.borrow_and_update().clone();
            lifeline.wake.mark_unchanged();
            lifeline.terms.mark_unchanged();
            let at = (self.place.clone(), self.index);
            let signals = (lifeline.stop.clone(), lifeline.wake.clone());
            let mut link = Link::open(Arc::clone(&site), at, identity, signals);
            let wait = match self.hold(&mut link, &mut old, &mut lifeline).await {
                Change::Stop | Change::Unwanted => {
                    old.take().into_iter().chain([link]).for_each(Link::leave);
                    break;
                }
                Change::Anew => {
                    old = Some(link);
                    Duration::ZERO
                }
                Change::Draining(registered) => {
                    self.there.set(false);
                    // One that was never registered is nobody's predecessor.
                    if registered.is_some() {
                        old = Some(link);
                    }
                    backoff.next_wait(Ended::Lost(registered), draw)
                }
                Change::Over(over) => {
                    self.there.set(false);
                    let wait = backoff.next_wait(over.ended, draw);
                    self.tell(&over, wait);
                    wait
                }
            };
            if self.rest(wait, &mut lifeline).await {
                backoff = Backoff::default();
            }
        }
        self.there.set(false);
        if let Some(old) = old {
            old.leave();
        }
    }

    /// Waits until something happens to the connection. Once it is registered, the old one may go;
    /// not before that is looked for a reason to dial again, or the old one would go too soon.
    async fn hold(&mut self, link: &mut Link, old: &mut Option<Link>, lifeline: &mut Lifeline) -> Change {
        let mut registered = None;
        loop {
            tokio::select! {
                biased;
                _ = lifeline.stop.wait_for(|stop| *stop) => return Change::Stop,
                Ok(_) = self.wanted.wait_for(|wanted| *wanted == Wanted::No) => return Change::Unwanted,
                over = &mut link.over => return Change::Over(over.unwrap_or_else(|_| Over::lost("it was given up"))),
                Ok(()) = lifeline.identity.changed(), if registered.is_some() => return Change::Anew,
                Ok(()) = lifeline.terms.changed(), if registered.is_some() => return Change::Anew,
                Ok(()) = link.phase.changed() => match *link.phase.borrow_and_update() {
                    Phase::Opening => {}
                    Phase::Registered => {
                        registered = Some(Instant::now());
                        self.there.set(true);
                        old.take().into_iter().for_each(Link::leave);
                    }
                    Phase::Draining => return Change::Draining(registered.map(|since| since.elapsed())),
                },
            }
        }
    }

    /// Waits before the next attempt, unless something promises that it will go better. True then.
    async fn rest(&mut self, wait: Duration, lifeline: &mut Lifeline) -> bool {
        tokio::select! {
            () = sleep(wait) => false,
            Ok(()) = lifeline.identity.changed() => true,
            Ok(()) = lifeline.wake.changed() => true,
            Ok(_) = self.wanted.wait_for(|wanted| *wanted != Wanted::Yes) => false,
            _ = lifeline.stop.wait_for(|stop| *stop) => false,
        }
    }

    fn tell(&self, over: &Over, wait: Duration) {
        let (gateway, index, why) = (&self.place.target, self.index, &over.why);
        let again = format!("{}.{:03} s", wait.as_secs(), wait.subsec_millis());
        match over.ended {
            Ended::Hopeless => tracing::error!(%gateway, index, again, "the gateway does not let us in: {why}"),
            Ended::Lost(_) | Ended::PutOff(_) => tracing::warn!(%gateway, index, again, "not connected: {why}"),
        }
    }
}

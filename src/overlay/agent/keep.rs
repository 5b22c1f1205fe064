//! Keeps one connection: dials, holds, waits, dials again.
//!
//! Invariant: make before break. A connection that is to go (the gateway drains it, or there is a
//! new certificate) goes when its successor is registered, and its requests end on it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::holder::reach::Target;
use crate::overlay::agent::Identity;
use crate::overlay::agent::link::{Link, Over, Phase};
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
}

/// One connection to keep.
#[derive(Debug)]
pub(super) struct Keeper {
    pub(super) target: Target,
    /// Which of the connections to this address.
    pub(super) index: u32,
    /// False when the address is none of the gateway's any more: a connection that holds is kept,
    /// one that falls is not dialled again.
    pub(super) wanted: watch::Receiver<bool>,
}

/// Why a connection is not held any longer.
enum Change {
    /// It ended.
    Over(Over),
    /// The gateway is about to end it. For how long it was registered.
    Draining(Option<Duration>),
    /// There is another certificate.
    Identity,
    /// The connector stops.
    Stop,
}

impl Keeper {
    /// Keeps the connection until it is time to go, or the address is not wanted any more.
    pub(super) async fn keep(self, site: Arc<Site>, mut lifeline: Lifeline) {
        let mut backoff = Backoff::default();
        // The one that is to go when its successor is registered.
        let mut old: Option<Link> = None;
        while *self.wanted.borrow() && !*lifeline.stop.borrow() {
            let identity = lifeline.identity.borrow_and_update().clone();
            lifeline.wake.mark_unchanged();
            let at = (self.target.clone(), self.index);
            let signals = (lifeline.stop.clone(), lifeline.wake.clone());
            let mut link = Link::open(Arc::clone(&site), at, identity, signals);
            let wait = match self.hold(&mut link, &mut old, &mut lifeline).await {
                Change::Stop => {
                    old.take().into_iter().chain([link]).for_each(Link::leave);
                    break;
                }
                Change::Identity => {
                    old = Some(link);
                    Duration::ZERO
                }
                Change::Draining(registered) => {
                    old = Some(link);
                    backoff.next_wait(Ended::Lost(registered), draw)
                }
                Change::Over(over) => {
                    let wait = backoff.next_wait(over.ended, draw);
                    self.tell(&over, wait);
                    wait
                }
            };
            if self.rest(wait, &mut lifeline).await {
                backoff = Backoff::default();
            }
        }
        if let Some(old) = old {
            old.leave();
        }
    }

    /// Waits until something happens to the connection. Once it is registered, the old one may go.
    async fn hold(&self, link: &mut Link, old: &mut Option<Link>, lifeline: &mut Lifeline) -> Change {
        let mut registered = None;
        loop {
            tokio::select! {
                biased;
                _ = lifeline.stop.wait_for(|stop| *stop) => return Change::Stop,
                over = &mut link.over => return Change::Over(over.unwrap_or_else(|_| Over::lost("it was given up"))),
                Ok(()) = lifeline.identity.changed() => return Change::Identity,
                Ok(()) = link.phase.changed() => match *link.phase.borrow_and_update() {
                    Phase::Opening => {}
                    Phase::Registered => {
                        registered = Some(Instant::now());
                        old.take().into_iter().for_each(Link::leave);
                    }
                    Phase::Draining => return Change::Draining(registered.map(|since| since.elapsed())),
                },
            }
        }
    }

    /// Waits before the next attempt, unless something promises that it will go better. True then.
    async fn rest(&self, wait: Duration, lifeline: &mut Lifeline) -> bool {
        tokio::select! {
            () = sleep(wait) => false,
            Ok(()) = lifeline.identity.changed() => true,
            Ok(()) = lifeline.wake.changed() => true,
            _ = lifeline.stop.wait_for(|stop| *stop) => false,
        }
    }

    fn tell(&self, over: &Over, wait: Duration) {
        let (gateway, index, why) = (&self.target, self.index, &over.why);
        let again = format!("{}.{:03} s", wait.as_secs(), wait.subsec_millis());
        match over.ended {
            Ended::Hopeless => tracing::error!(%gateway, index, again, "the gateway does not let us in: {why}"),
            Ended::Lost(_) | Ended::PutOff(_) => tracing::warn!(%gateway, index, again, "not connected: {why}"),
        }
    }
}

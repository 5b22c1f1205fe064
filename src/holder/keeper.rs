//! An identity that stays good by itself: renewed in time, and picked up when somebody else renews it.
//!
//! Invariant: [`Keeper::current`] is always a key with its certificate, from the files or from the
//! gateway; it is replaced in one step, and never by anything older or anybody else's.
//!
//! The wall clock is compared every [`LOOK`], however long the machine slept in between.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::clock::Clock;
use crate::domain::timestamp::Timestamp;
use crate::holder::chance::Chance;
use crate::holder::credentials::Credentials;
use crate::holder::fault::HolderFault;
use crate::holder::files::Place;
use crate::holder::origin::Origin;
use crate::holder::reach::Reach;
use crate::holder::renew::renew_locked;
use crate::holder::schedule::{HOPELESS_PAUSE, pause, renew_at};

/// How often the clock and the files are looked at.
pub const LOOK: Duration = Duration::from_secs(30);

/// What a keeper needs besides the files.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the certificate is renewed; `None` when nobody says: then it is watched only.
    pub origin: Option<Origin>,
    /// How that is reached.
    pub reach: Reach,
    /// Where `now` comes from.
    pub clock: Clock,
    /// Where randomness comes from.
    pub chance: Chance,
}

/// How an identity stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Standing {
    /// It is good, and renewed in time.
    Good,
    /// Its renewal fails and is tried again; it is good until then. Why.
    Failing(String),
    /// Its renewal is refused for good: somebody has to act. It may be good until its end. Why.
    Refused(String),
    /// Its time is over. Why it was not renewed, and what to do.
    Expired(String),
}

/// An identity that stays good by itself, until it is dropped.
pub struct Keeper {
    kept: Arc<Kept>,
    task: JoinHandle<()>,
}

struct Kept {
    place: Place,
    /// Where it is renewed, and how that is reached.
    to: ArcSwap<(Option<Origin>, Reach)>,
    clock: Clock,
    chance: Chance,
    current: ArcSwap<Credentials>,
    standing: watch::Sender<Standing>,
    /// Counts what was put in force.
    changes: watch::Sender<u64>,
    plan: Mutex<Plan>,
}

/// When the next renewal is due.
#[derive(Clone, Copy, Debug)]
struct Plan {
    due: Timestamp,
    failures: u32,
}

impl Keeper {
    /// Reads the identity in `place` and looks after it from now on, on the runtime that this is
    /// called on. One that has expired is kept all the same: somebody may yet put another in its place.
    ///
    /// # Errors
    ///
    /// When there is no usable identity.
    pub fn start(place: Place, options: Options) -> Result<Self, HolderFault> {
        let kept = Arc::new(Kept::new(place, options)?);
        let task = tokio::spawn({
            let kept = Arc::clone(&kept);
            async move {
                loop {
                    kept.look().await;
                    sleep(LOOK).await;
                }
            }
        });
        Ok(Self { kept, task })
    }

    /// The identity at the moment. Not to be held on to: the next connection asks again.
    #[must_use]
    pub fn current(&self) -> Arc<Credentials> {
        self.kept.current.load_full()
    }

    /// Looks at the clock and the files at once, instead of within [`LOOK`].
    pub async fn look_now(&self) {
        self.kept.look().await;
    }

    /// Where `now` comes from.
    #[must_use]
    pub fn clock(&self) -> Clock {
        self.kept.clock.clone()
    }

    /// Renews there from now on.
    pub fn redirect(&self, origin: Option<Origin>, reach: Reach) {
        self.kept.to.store(Arc::new((origin, reach)));
    }

    /// How it stands.
    #[must_use]
    pub fn standing(&self) -> Standing {
        self.kept.standing_at(self.kept.clock.now())
    }

    /// Notices when another certificate is in force: open connections were made with the old one.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.kept.changes.subscribe()
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Kept {
    fn new(place: Place, options: Options) -> Result<Self, HolderFault> {
        let Options { origin, reach, clock, chance } = options;
        let current = Credentials::load(&place, &clock)?;
        let due = renew_at(current.span(), chance.draw());
        Ok(Self {
            place,
            to: ArcSwap::from_pointee((origin, reach)),
            clock,
            chance,
            current: ArcSwap::from_pointee(current),
            standing: watch::Sender::new(Standing::Good),
            changes: watch::Sender::new(0),
            plan: Mutex::new(Plan { due, failures: 0 }),
        })
    }

    /// One look: takes what somebody else has put into the files, and renews what is due.
    async fn look(&self) {
        let now = self.clock.now();
        self.take_over();
        if now < self.plan().due {
            return;
        }
        let to = self.to.load_full();
        let (Some(origin), reach) = &*to else {
            return self.warn_of_end(now);
        };
        let renewed = match self.place.lock() {
            Err(fault) => Err(fault),
            Ok(lock) => {
                // Between the look and the lock somebody else may have renewed it.
                if self.take_over() {
                    return;
                }
                let current = self.current.load_full();
                renew_locked(&self.place, &current, (origin, reach), &self.clock, &lock).await
            }
        };
        match renewed {
            Ok(credentials) => {
                tracing::info!(identity = %credentials.identity(), until = %credentials.span().not_after, "certificate renewed");
                self.put_in_force(credentials);
            }
            Err(fault) => self.failed(&fault, now),
        }
    }

    /// Puts what is in the files in force when it is another certificate of the same identity, or
    /// other roots. True when it did.
    fn take_over(&self) -> bool {
        // What cannot be read now may be in the middle of being written; the next look sees.
        let Ok(found) = Credentials::load(&self.place, &self.clock) else { return false };
        let current = self.current.load();
        let newer = found.span().not_before >= current.span().not_before;
        if found.is_same_as(&current) || !newer || found.identity() != current.identity() {
            return false;
        }
        tracing::info!(identity = %found.identity(), until = %found.span().not_after, "certificate replaced");
        self.put_in_force(found);
        true
    }

    fn put_in_force(&self, credentials: Credentials) {
        let due = renew_at(credentials.span(), self.chance.draw());
        *self.lock_plan() = Plan { due, failures: 0 };
        self.current.store(Arc::new(credentials));
        self.standing.send_replace(Standing::Good);
        self.changes.send_modify(|count| *count += 1);
    }

    fn failed(&self, fault: &HolderFault, now: Timestamp) {
        let ends = self.current.load().span().not_after;
        let mut plan = self.lock_plan();
        plan.failures = plan.failures.saturating_add(1);
        let said = said(fault);
        let wait =
            if fault.is_final() { HOPELESS_PAUSE } else { pause(plan.failures, ends.since(now), self.chance.draw()) };
        plan.due = now.after(wait);
        drop(plan);
        if now >= ends {
            tracing::error!(%ends, "the certificate has expired and every connection is refused: {said}");
            self.standing.send_replace(Standing::Expired(said));
        } else if fault.is_final() {
            tracing::error!(%ends, "the certificate is not renewed, and somebody has to act: {said}");
            self.standing.send_replace(Standing::Refused(said));
        } else {
            tracing::warn!(%ends, again_in_s = wait.as_secs(), "the certificate could not be renewed: {said}");
            self.standing.send_replace(Standing::Failing(said));
        }
    }

    fn warn_of_end(&self, now: Timestamp) {
        let ends = self.current.load().span().not_after;
        self.lock_plan().due = now.after(HOPELESS_PAUSE);
        let said = said(&HolderFault::NoOrigin(self.place.dir().to_owned()));
        if now >= ends {
            tracing::error!(%ends, "the certificate has expired and every connection is refused: {said}");
            self.standing.send_replace(Standing::Expired(said));
        } else {
            tracing::warn!(%ends, "the certificate is not renewed by itself: {said}");
            self.standing.send_replace(Standing::Refused(said));
        }
    }

    /// How it stands: a certificate may have ended since the last look.
    fn standing_at(&self, now: Timestamp) -> Standing {
        let standing = self.standing.borrow().clone();
        match (self.current.load().check_alive(now), standing) {
            (Ok(()), Standing::Expired(why)) => Standing::Failing(why),
            (Ok(()), standing) => standing,
            (Err(_), Standing::Refused(why) | Standing::Failing(why) | Standing::Expired(why)) => {
                Standing::Expired(why)
            }
            (Err(fault), Standing::Good) => Standing::Expired(said(&fault)),
        }
    }

    fn plan(&self) -> Plan {
        *self.lock_plan()
    }

    fn lock_plan(&self) -> std::sync::MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A fault with what to do about it.
fn said(fault: &HolderFault) -> String {
    fault.hint().map_or_else(|| fault.to_string(), |hint| format!("{fault}; {hint}"))
}

impl fmt::Debug for Keeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Kept { place, to, current, .. } = &*self.kept;
        f.debug_struct("Keeper")
            .field("place", place)
            .field("to", to)
            .field("current", &current.load())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
#[cfg(feature = "gateway")]
#[path = "keeper_tests.rs"]
mod tests;

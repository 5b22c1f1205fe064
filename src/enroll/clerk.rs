//! What is done about certificates when nobody asks: lines for the records, the list of what is
//! revoked, the issuer's own end.
//!
//! Invariant: nothing here is on the way of a request. What fails is said once in the log, tried again,
//! and what was there before stays: an old list, lines that wait in the store, an issuer that signs
//! until its end.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use std::{io, ptr};

use bytes::Bytes;

use crate::ca::authority::{Authority, RootKey};
use crate::ca::change::{self, Unlock};
use crate::ca::{CaError, crl};
use crate::domain::timestamp::Timestamp;
use crate::enroll::office::Office;
use crate::enroll::{Desk, listed};
use crate::gate::Gateway;
use crate::store::Store;
use crate::store::error::StoreError;
use crate::store::snapshot::Snapshot;
use crate::telemetry::records::Records;

/// How often the clerk looks up.
const TICK: Duration = Duration::from_millis(200);
/// How often the clerk looks, before it ends, whether its last lines are written, and between two looks.
const LAST_LOOKS: u32 = 25;
const LAST_PAUSE: Duration = Duration::from_millis(20);
/// Lines that are on their way into the records at once.
const BATCH: usize = 256;
/// A list is made anew this often, even when nothing was revoked.
pub const LIST_EVERY: Duration = Duration::from_secs(6 * 3600);
/// From one attempt that failed to the next.
const AGAIN: Duration = Duration::from_secs(10);
/// How often the issuer's end is looked at.
const ISSUER_EVERY: Duration = Duration::from_secs(60);
/// An issuer is replaced this long before its end: a certificate of the longest life still fits.
pub const ISSUER_DUE: Duration = Duration::from_secs(120 * 24 * 3600);
/// And when nobody can replace it, this is said from so long before its end on, once a day.
const ISSUER_WARNED: Duration = Duration::from_secs(90 * 24 * 3600);
const WARN_EVERY: Duration = Duration::from_secs(24 * 3600);

/// The clerk at work, on a thread of its own, until it is dropped.
#[derive(Debug)]
pub struct Clerk {
    stop: Arc<Stop>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Stop {
    stopping: Mutex<bool>,
    changed: Condvar,
}

impl Clerk {
    /// Begins to work for `gateway`, whose authority is in `ca_dir`.
    ///
    /// # Errors
    ///
    /// When there is no thread for it.
    pub fn start(gateway: &Arc<Gateway>, desk: Desk, state_dir: &Path, ca_dir: PathBuf) -> io::Result<Self> {
        let stop = Arc::new(Stop::default());
        let (theirs, gateway, state_dir) = (Arc::clone(&stop), Arc::clone(gateway), state_dir.to_owned());
        let thread = thread::Builder::new().name("clerk".to_owned()).spawn(move || {
            let mut lines = Lines::default();
            let mut list = List::default();
            let mut issuer = Issuer::default();
            while !theirs.wait() {
                // Asked before the store is read: a line that comes in between has another one.
                let generation = gateway.view().generation;
                lines.look(&gateway.records, generation, &state_dir);
                list.look(&gateway, &desk, &ca_dir);
                if gateway.view().settings.config.trust_domain.is_some() {
                    issuer.look(gateway.clock.now(), &ca_dir);
                }
            }
            lines.last_look(&gateway.records, gateway.view().generation, &state_dir);
        })?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Stop {
    /// Waits for the next look. True when there is to be none.
    fn wait(&self) -> bool {
        let stopping = self.stopping.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.changed.wait_timeout_while(stopping, TICK, |stopping| !*stopping);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

impl Drop for Clerk {
    fn drop(&mut self) {
        *self.stop.stopping.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.stop.changed.notify_all();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the clerk had panicked");
        }
    }
}

/// Moves lines from the store into the records.
#[derive(Debug, Default)]
struct Lines {
    /// The view whose lines are all in the records.
    done: Option<u64>,
    queued: Option<Queued>,
    failing: bool,
}

/// Lines that are queued for the records, and are forgotten once they are written.
#[derive(Debug)]
struct Queued {
    up_to: i64,
    rounds: u64,
}

impl Lines {
    fn look(&mut self, records: &Records, generation: u64, state_dir: &Path) {
        let looked = self.try_look(records, generation, state_dir);
        if let Err(error) = &looked
            && !self.failing
        {
            tracing::error!(%error, "what was done with certificates waits in the store for the records");
        }
        self.failing = looked.is_err();
    }

    /// `generation` is of the newest view: every line comes with a new revision of the store, and so with
    /// a new view.
    fn try_look(&mut self, records: &Records, generation: u64, state_dir: &Path) -> Result<(), StoreError> {
        if !self.forget_written(records, state_dir)? {
            return Ok(());
        }
        if self.done == Some(generation) {
            return Ok(());
        }
        let (mut last, mut has_more) = (None, false);
        for (number, text) in Store::open_existing(state_dir)?.pending_events(BATCH)? {
            let Some(place) = records.try_reserve() else {
                has_more = true;
                break;
            };
            place.write(|waiting| waiting.extend_from_slice(text.as_bytes()));
            last = Some(number);
        }
        match last {
            Some(up_to) => self.queued = Some(Queued { up_to, rounds: records.rounds() }),
            // The records are full, and no new view may come for long: the next look tries again.
            None if has_more => {}
            None => self.done = Some(generation),
        }
        Ok(())
    }

    /// Forgets what was queued and is in the records by now. False while it is not.
    fn forget_written(&mut self, records: &Records, state_dir: &Path) -> Result<bool, StoreError> {
        let Some(queued) = &self.queued else { return Ok(true) };
        if records.rounds() < queued.rounds + 2 {
            return Ok(false);
        }
        Store::open_existing(state_dir)?.forget_events(queued.up_to)?;
        self.queued = None;
        Ok(true)
    }

    /// Before an end that nobody forced: what came since the last look is told too, whatever the view.
    fn last_look(&mut self, records: &Records, generation: u64, state_dir: &Path) {
        self.finish(records, state_dir);
        self.done = None;
        self.look(records, generation, state_dir);
        self.finish(records, state_dir);
    }

    /// Waits until what was queued is written, and forgets it: what is queued is not for the next gateway to tell again.
    fn finish(&mut self, records: &Records, state_dir: &Path) {
        for _ in 0..LAST_LOOKS {
            if !matches!(self.forget_written(records, state_dir), Ok(false)) {
                return;
            }
            thread::sleep(LAST_PAUSE);
        }
    }
}

/// Keeps the list of what is revoked.
#[derive(Debug, Default)]
struct List {
    /// What the list in force was made of, and when.
    made: Option<(Snapshot, Arc<Office>, Timestamp)>,
    not_before: Option<Timestamp>,
    failing: bool,
}

impl List {
    fn look(&mut self, gateway: &Gateway, desk: &Desk, ca_dir: &Path) {
        let Ok(office) = desk.office() else { return };
        let (now, snapshot) = (gateway.clock.now(), gateway.view().snapshot.clone());
        let is_due = self.made.as_ref().is_none_or(|(before, theirs, at)| {
            !ptr::eq(before.denied(), snapshot.denied())
                || !Arc::ptr_eq(theirs, &office)
                || now >= at.after(LIST_EVERY)
                // A clock that was set back must not keep a list for ever.
                || now < *at
        });
        let waits = self.not_before.is_some_and(|at| now < at && at.since(now) <= AGAIN);
        if !is_due || waits {
            return;
        }
        match make(&office, ca_dir, now) {
            Ok(list) => {
                desk.0.list.store(Some(Arc::new(list)));
                self.made = Some((snapshot, office, now));
                (self.not_before, self.failing) = (None, false);
            }
            Err(error) => {
                if !self.failing {
                    tracing::error!(
                        error,
                        "the list of revoked certificates cannot be made anew; the old one is served"
                    );
                }
                (self.not_before, self.failing) = (Some(now.after(AGAIN)), true);
            }
        }
    }
}

/// Signs a list of all that is revoked now.
fn make(office: &Office, ca_dir: &Path, now: Timestamp) -> Result<Bytes, String> {
    let store = Store::open_existing(&office.state_dir).map_err(|error| error.to_string())?;
    let revoked = store.revoked_certificates(now.before(crl::KEPT)).map_err(|error| error.to_string())?;
    let revoked: Vec<_> = revoked.iter().filter_map(listed).collect();
    let lists = crl::issue(ca_dir, &office.authority, &revoked, now).map_err(|error| error.to_string())?;
    let newest = lists.into_iter().next().ok_or("the authority signed no list")?;
    Ok(Bytes::from(newest.der.to_vec()))
}

/// Looks after the issuer's own end.
#[derive(Debug, Default)]
struct Issuer {
    look_at: Option<Timestamp>,
    warned_at: Option<Timestamp>,
}

/// What is to be done about an issuer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Due {
    Nothing,
    /// It can be replaced here and now.
    Replace,
    /// Somebody has to replace it.
    Warn,
}

impl Issuer {
    fn look(&mut self, now: Timestamp, ca_dir: &Path) {
        if self.look_at.is_some_and(|at| now < at && at.since(now) <= ISSUER_EVERY) {
            return;
        }
        self.look_at = Some(now.after(ISSUER_EVERY));
        // Read anew: what the desk signs with may be from before the last rotation.
        let due = match Authority::open(ca_dir) {
            Ok(authority) => (due(&authority, now), authority.issuer_not_after()),
            // Whoever is changing it right now has said why; the reload says what is wrong with it.
            Err(_) => return,
        };
        match due {
            (Due::Nothing, _) => {}
            (Due::Replace, end) => match change::rotate_issuer(ca_dir, Unlock::default(), now) {
                Ok(authority) => {
                    tracing::info!(until = %authority.issuer_not_after(), "the issuer was near its end: a new one is in force");
                }
                Err(CaError::Busy(_)) => {}
                Err(error) => self.warn(now, end, &error.to_string()),
            },
            (Due::Warn, end) => self.warn(now, end, "its root's key is not here, or the root ends with it"),
        }
    }

    fn warn(&mut self, now: Timestamp, end: Timestamp, why: &str) {
        if self.warned_at.is_some_and(|at| now < at.after(WARN_EVERY) && at <= now) {
            return;
        }
        self.warned_at = Some(now);
        tracing::warn!(ends = %end, why, "the issuer is near its end, and so is all that it issues: doorward ca rotate --issuer");
    }
}

fn due(authority: &Authority, now: Timestamp) -> Due {
    let left = authority.issuer_not_after().since(now);
    let can_be_replaced = match authority.root_key() {
        // A root that ends with its issuer could not make a better one.
        RootKey::Here => authority.root_not_after().is_ok_and(|end| end > authority.issuer_not_after()),
        RootKey::Encrypted | RootKey::Offline | RootKey::NotOurs => false,
    };
    if can_be_replaced && left < ISSUER_DUE {
        Due::Replace
    } else if left < ISSUER_WARNED {
        Due::Warn
    } else {
        Due::Nothing
    }
}

#[cfg(test)]
#[path = "clerk_tests.rs"]
mod tests;

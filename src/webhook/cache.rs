//! Decisions that are remembered for a while.
//!
//! Invariants: what is remembered is bounded, in all and for each credential, so that one caller who
//! varies its requests pushes out its own decisions and nobody else's; a newer decision replaces the
//! older one even when it is not to be remembered itself. Pure: `now` is a span on a clock that only
//! goes forward.

use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use rustc_hash::FxHashMap;
use slab::Slab;

use crate::domain::timestamp::Timestamp;
use crate::webhook::answer::{Decision, Ruling};
use crate::webhook::lru::{Links, List};

/// What decisions are found by: an HMAC over all that was told.
pub type Key = [u8; 32];

/// Most decisions of one webhook.
const MOST: usize = 8192;
/// Most decisions of one credential.
const SHARE: usize = 256;

/// The decisions of one webhook; `H` says whose they are.
#[derive(Debug)]
pub struct Cache<H> {
    entries: Slab<Entry>,
    places: FxHashMap<Key, usize>,
    used: List,
    shares: Slab<Share<H>>,
    share_of: std::collections::HashMap<Arc<H>, usize>,
    most: usize,
    most_of_one: usize,
}

#[derive(Debug)]
struct Entry {
    key: Key,
    decision: Arc<Decision>,
    fresh_until: Duration,
    stale_until: Duration,
    share: usize,
    in_all: Links,
    in_share: Links,
}

#[derive(Debug)]
struct Share<H> {
    holder: Arc<H>,
    used: List,
}

/// How long a decision counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Keep {
    /// Without asking again.
    pub fresh: Duration,
    /// When the webhook cannot be asked; never shorter.
    pub stale: Duration,
}

impl Keep {
    /// How long to keep `decision` of a credential that ends at `credential_ends`. `caps` are the
    /// config's for an allow and for a denial, `stale_max` is zero where nothing stale counts.
    /// `None` when it is not to be remembered at all.
    #[must_use]
    pub fn of(
        decision: &Decision,
        caps: (Duration, Duration),
        stale_max: Duration,
        credential_ends: Timestamp,
        now: Timestamp,
    ) -> Option<Self> {
        if decision.ttl == Some(Duration::ZERO) {
            return None;
        }
        let (cap, stale_max, ends) = match &decision.ruling {
            Ruling::Allow(narrowing) => {
                (caps.0, stale_max, narrowing.expires_at.map_or(credential_ends, |at| at.min(credential_ends)))
            }
            // A denial that is over is not asked for again by falling back to it.
            Ruling::Deny(_) => (caps.1, Duration::ZERO, credential_ends),
        };
        let left = ends.since(now);
        let fresh = decision.ttl.map_or(cap, |ttl| ttl.min(cap)).min(left);
        let stale = (fresh + stale_max).min(left);
        (!stale.is_zero()).then_some(Self { fresh, stale })
    }
}

impl<H: Hash + Eq> Default for Cache<H> {
    fn default() -> Self {
        Self::bounded(MOST, SHARE)
    }
}

impl<H: Hash + Eq> Cache<H> {
    fn bounded(most: usize, most_of_one: usize) -> Self {
        Self {
            entries: Slab::new(),
            places: FxHashMap::default(),
            used: List::default(),
            shares: Slab::new(),
            share_of: std::collections::HashMap::new(),
            most,
            most_of_one,
        }
    }

    /// What was decided, if it still counts without asking again.
    pub fn fresh(&mut self, key: &Key, now: Duration) -> Option<Arc<Decision>> {
        let place = *self.places.get(key)?;
        let entry = self.entries.get(place)?;
        if now >= entry.fresh_until {
            if now >= entry.stale_until {
                self.remove(place);
            }
            return None;
        }
        let decision = Arc::clone(&entry.decision);
        let share = entry.share;
        self.used.front(&mut self.entries, place, |entry| &mut entry.in_all);
        if let Some(share) = self.shares.get_mut(share) {
            share.used.front(&mut self.entries, place, |entry| &mut entry.in_share);
        }
        Some(decision)
    }

    /// What was allowed, if that still counts where the webhook cannot be asked.
    #[must_use]
    pub fn stale(&self, key: &Key, now: Duration) -> Option<Arc<Decision>> {
        let entry = self.entries.get(*self.places.get(key)?)?;
        let allows = matches!(entry.decision.ruling, Ruling::Allow(_));
        (allows && now < entry.stale_until).then(|| Arc::clone(&entry.decision))
    }

    /// Remembers a decision in the place of an older one; without `keep` forgets that only.
    pub fn put(&mut self, key: Key, holder: H, decision: &Arc<Decision>, keep: Option<Keep>, now: Duration) {
        if let Some(place) = self.places.get(&key).copied() {
            self.remove(place);
        }
        let Some(keep) = keep else { return };
        let share = self.share(holder);
        let place = self.entries.insert(Entry {
            key,
            decision: Arc::clone(decision),
            fresh_until: now + keep.fresh,
            stale_until: now + keep.stale.max(keep.fresh),
            share,
            in_all: Links::default(),
            in_share: Links::default(),
        });
        self.places.insert(key, place);
        self.used.push(&mut self.entries, place, |entry| &mut entry.in_all);
        let most_of_one = self.most_of_one;
        let mut too_many = None;
        if let Some(share) = self.shares.get_mut(share) {
            share.used.push(&mut self.entries, place, |entry| &mut entry.in_share);
            too_many = share.used.last().filter(|_| share.used.len() > most_of_one);
        }
        let too_many = too_many.or_else(|| self.used.last().filter(|_| self.entries.len() > self.most));
        if let Some(oldest) = too_many {
            self.remove(oldest);
        }
    }

    /// Forgets the decisions of those holders; gives how many there were.
    pub fn forget(&mut self, whose: impl Fn(&H) -> bool) -> usize {
        let shares: Vec<usize> =
            self.shares.iter().filter(|(_, share)| whose(&share.holder)).map(|(place, _)| place).collect();
        let before = self.entries.len();
        for share in shares {
            while let Some(place) = self.shares.get(share).and_then(|share| share.used.last()) {
                self.remove(place);
            }
        }
        before - self.entries.len()
    }

    /// How many decisions are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True when none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn share(&mut self, holder: H) -> usize {
        if let Some(share) = self.share_of.get(&holder) {
            return *share;
        }
        let holder = Arc::new(holder);
        let share = self.shares.insert(Share { holder: Arc::clone(&holder), used: List::default() });
        self.share_of.insert(holder, share);
        share
    }

    fn remove(&mut self, place: usize) {
        let Some(share) = self.entries.get(place).map(|entry| entry.share) else { return };
        self.used.unlink(&mut self.entries, place, |entry| &mut entry.in_all);
        let mut empty = false;
        if let Some(share) = self.shares.get_mut(share) {
            share.used.unlink(&mut self.entries, place, |entry| &mut entry.in_share);
            empty = share.used.len() == 0;
        }
        if empty {
            let share = self.shares.remove(share);
            self.share_of.remove(&share.holder);
        }
        let entry = self.entries.remove(place);
        self.places.remove(&entry.key);
    }
}

#[cfg(test)]
#[path = "cache_tests.rs"]
mod tests;

//! A bounded memory of what was proven, so that a caller who comes again with the same token costs
//! a hash and not a signature.
//!
//! Invariant: what is in here was proven once, and is believed only as long as the issuer and the
//! keys that proved it are in force: whoever looks something up checks that. Nobody fills it who
//! has no valid tokens.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Shards, so that threads seldom meet.
const SHARDS: usize = 8;
/// Most entries of one generation in one shard; there are two generations.
const GENERATION: usize = 256;

/// SHA-256 of a whole token.
pub type Digest = [u8; 32];

/// The memory. Each shard has two generations: when the young one is full it becomes the old one,
/// and what nobody asked for since is forgotten.
#[derive(Debug)]
pub struct Proven<T>([Mutex<Shard<T>>; SHARDS]);

#[derive(Debug)]
struct Shard<T> {
    young: HashMap<Digest, Arc<T>>,
    old: HashMap<Digest, Arc<T>>,
}

impl<T> Default for Proven<T> {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Mutex::new(Shard { young: HashMap::new(), old: HashMap::new() })))
    }
}

impl<T> Proven<T> {
    /// What is remembered of a token.
    #[must_use]
    pub fn find(&self, digest: &Digest) -> Option<Arc<T>> {
        let mut shard = self.shard(digest)?;
        if let Some(found) = shard.young.get(digest) {
            return Some(Arc::clone(found));
        }
        let found = shard.old.remove(digest)?;
        shard.insert(*digest, Arc::clone(&found));
        Some(found)
    }

    /// Remembers a token, for a while.
    pub fn remember(&self, digest: Digest, proof: Arc<T>) {
        if let Some(mut shard) = self.shard(&digest) {
            shard.insert(digest, proof);
        }
    }

    fn shard(&self, digest: &Digest) -> Option<MutexGuard<'_, Shard<T>>> {
        let [first, ..] = digest;
        let shard = self.0.get(usize::from(*first) % SHARDS)?;
        Some(shard.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<T> Shard<T> {
    fn insert(&mut self, digest: Digest, proof: Arc<T>) {
        if self.young.len() >= GENERATION {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(digest, proof);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(number: u32) -> Digest {
        let mut digest = [0; 32];
        digest[0] = number.to_be_bytes()[3];
        digest[1..5].copy_from_slice(&number.to_be_bytes());
        digest
    }

    #[test]
    fn it_is_bounded_and_keeps_what_is_asked_for() {
        let proven = Proven::default();
        proven.remember(digest(0), Arc::new(0));
        for number in 1..100_000 {
            proven.remember(digest(number), Arc::new(number));
            // Asked for every now and then, the first one stays.
            if number % 1000 == 0 {
                assert_eq!(proven.find(&digest(0)).as_deref(), Some(&0), "{number}");
            }
        }
        let held: usize = proven.0.iter().map(|shard| shard.lock().unwrap()).map(|s| s.young.len() + s.old.len()).sum();
        assert!(held <= 2 * GENERATION * SHARDS, "{held}");
        assert_eq!(proven.find(&digest(1)), None);
        assert_eq!(proven.find(&digest(99_999)).as_deref(), Some(&99_999));
    }
}

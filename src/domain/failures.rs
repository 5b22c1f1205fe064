//! How many secrets an address may get wrong: the limiter of failures.
//!
//! Invariant: however many addresses there are, in whatever order and at once, of the failures of
//! one address at most [`BURST`] and one more in each [`EVERY`] are answered as plain failures. The
//! memory is fixed, and nothing is ever evicted: what is full is shared.
//!
//! Each address (IPv6: each /64) is hashed, under a key of this process, to one bucket in either
//! row of its shard. A plain answer is given when either bucket has a token, and takes one from
//! both. So the buckets of an address never hold more than a bucket of its own would, and nobody
//! can win tokens back by any number of other addresses: only time gives them. The price is that
//! an address can find both of its buckets emptied by others: then its failures are called too many
//! though they were few, and nothing else happens, as a credential that is good never comes here.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::domain::network::block_of;
use crate::domain::timestamp::Timestamp;

/// So many failures of one address are answered plainly at once.
pub const BURST: u32 = 20;
/// And then one in each of these spans.
pub const EVERY: Duration = Duration::from_secs(6);

/// Enough that threads seldom meet.
const SHARDS: usize = 64;
/// Buckets in either row of a shard: 64 x 2 x 512 x 8 bytes = 512 KiB for the process. With a
/// thousand addresses over their limit, another one is taken for such in one of 4,000 cases.
const BUCKETS: usize = 512;

/// The failures of all addresses.
#[derive(Debug)]
pub struct Failures {
    hasher: RandomState,
    shards: Box<[Mutex<Shard>]>,
}

/// Two rows of buckets. A bucket is the time, in milliseconds, at which it will be full again.
#[derive(Debug)]
struct Shard([Box<[i64]>; 2]);

impl Failures {
    /// Nobody has failed yet. `hasher` is secret, so that nobody can aim at another's buckets.
    #[must_use]
    pub fn new(hasher: RandomState) -> Self {
        Self::sized(hasher, SHARDS, BUCKETS)
    }

    fn sized(hasher: RandomState, shards: usize, buckets: usize) -> Self {
        let shard = || Mutex::new(Shard([vec![0; buckets].into(), vec![0; buckets].into()]));
        Self { hasher, shards: (0..shards).map(|_| shard()).collect() }
    }

    /// Counts a failure of `address`.
    ///
    /// # Errors
    ///
    /// When the address has had its share: how long until the next one is answered plainly.
    pub fn count(&self, address: IpAddr, now: Timestamp) -> Result<(), Duration> {
        let hash = self.hasher.hash_one(block_of(address));
        let [shard, first, second] =
            [hash, hash >> 16, hash >> 40].map(|bits| usize::try_from(bits & 0xff_ffff).unwrap_or(0));
        let Some(shard) = self.shards.get(shard % self.shards.len().max(1)) else { return Ok(()) };
        let Shard(rows) = &mut *shard.lock().unwrap_or_else(PoisonError::into_inner);
        let [left, right] = rows;
        let (left_at, right_at) = (first % left.len().max(1), second % right.len().max(1));
        match (left.get_mut(left_at), right.get_mut(right_at)) {
            (Some(left), Some(right)) => spend([left, right], now.as_millis()),
            (None, _) | (_, None) => Ok(()),
        }
    }
}

/// Takes a token from both buckets if either has one. A bucket never owes: it is at least empty.
fn spend(buckets: [&mut i64; 2], now: i64) -> Result<(), Duration> {
    let every = i64::try_from(EVERY.as_millis()).unwrap_or(i64::MAX);
    let empty = now.saturating_add(every.saturating_mul(i64::from(BURST)));
    let [left, right] = buckets;
    for bucket in [&mut *left, &mut *right] {
        // Beyond empty lies only what a clock that was set back has left. Kept, even when nothing is
        // taken: else it would never refill.
        *bucket = (*bucket).clamp(now, empty);
    }
    let wait = (*left).min(*right).saturating_add(every).saturating_sub(empty);
    if wait > 0 {
        return Err(Duration::from_millis(wait.unsigned_abs()));
    }
    for bucket in [left, right] {
        *bucket = (*bucket).saturating_add(every).min(empty);
    }
    Ok(())
}

#[cfg(test)]
#[path = "failures_tests.rs"]
mod tests;

//! A counted number of places: a semaphore that is asked and never waited for.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// So many places, and how many are taken.
#[derive(Debug)]
pub struct Places {
    taken: Arc<AtomicU32>,
    limit: u32,
}

impl Places {
    /// All free.
    #[must_use]
    pub fn new(limit: u32) -> Self {
        Self { taken: Arc::default(), limit }
    }

    /// The same places under another limit: what is taken of one is taken of both.
    #[must_use]
    pub fn with_limit(&self, limit: u32) -> Self {
        Self { taken: Arc::clone(&self.taken), limit }
    }

    /// How many there are.
    #[must_use]
    pub const fn limit(&self) -> u32 {
        self.limit
    }

    /// How many are taken.
    #[must_use]
    pub fn taken(&self) -> u32 {
        self.taken.load(Ordering::Relaxed)
    }

    /// True when one is free at the moment.
    #[must_use]
    pub fn has_free(&self) -> bool {
        self.taken() < self.limit
    }

    /// Takes one. Whoever gets `true` gives it back with [`Self::give_back`], once.
    #[must_use]
    pub fn take(&self) -> bool {
        let taken = self.taken.fetch_update(Ordering::AcqRel, Ordering::Relaxed, |taken| {
            if taken < self.limit { Some(taken + 1) } else { None }
        });
        taken.is_ok()
    }

    /// Gives one back.
    pub fn give_back(&self) {
        self.taken.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Never more are taken than there are, and what is given back can be taken again.
        #[test]
        fn counts(limit in 0u32..5, steps in prop::collection::vec(any::<bool>(), 0..40)) {
            let places = Places::new(limit);
            let mut taken = 0;
            for take in steps {
                if take {
                    let got = places.take();
                    prop_assert_eq!(got, taken < limit);
                    taken += u32::from(got);
                } else if taken > 0 {
                    places.give_back();
                    taken -= 1;
                }
                prop_assert_eq!(places.taken(), taken);
                prop_assert_eq!(places.has_free(), taken < limit);
            }
        }
    }
    #[test]
    fn another_limit_counts_the_same() {
        let one = Places::new(1);
        assert!(one.take() && !one.take());
        let two = one.with_limit(2);
        assert!(two.take() && !two.take() && two.taken() == 2 && one.taken() == 2);
        one.give_back();
        assert!(!one.take() && two.take());
    }
}

//! How many requests a backend has at once.
//!
//! Invariant: pure but for the counting. The count goes along when the limit changes: requests that
//! began under the old one are still there.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::time::Instant;

/// Places for requests at one backend.
#[derive(Debug)]
pub(super) struct Slots {
    taken: Arc<AtomicU32>,
    limit: u32,
    /// What gateways were told before, and until when some of them may go by it.
    told: Option<(u32, Instant)>,
}

/// A place, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Slot(Arc<AtomicU32>);

impl Slots {
    pub(super) fn new(limit: u32) -> Self {
        Self { taken: Arc::default(), limit, told: None }
    }

    /// The same places under another limit. Until `until` the old one holds as well: a gateway that
    /// keeps to what it was told is not refused.
    pub(super) fn with_limit(&self, limit: u32, until: Instant) -> Self {
        Self { taken: Arc::clone(&self.taken), limit, told: Some((self.limit, until)) }
    }

    /// A place, if one is free.
    pub(super) fn take(&self, now: Instant) -> Option<Slot> {
        let told = self.told.filter(|(_, until)| now < *until).map_or(0, |(limit, _)| limit);
        let limit = self.limit.max(told);
        let more = |taken: u32| if taken < limit { taken.checked_add(1) } else { None };
        let taken = self.taken.fetch_update(Ordering::AcqRel, Ordering::Relaxed, more);
        taken.is_ok().then(|| Slot(Arc::clone(&self.taken)))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Take,
        GiveBack,
        Limit(u32),
        Wait(u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => Just(Step::Take),
            2 => Just(Step::GiveBack),
            1 => (1u32..5).prop_map(Step::Limit),
            1 => (0u64..15).prop_map(Step::Wait),
        ];
        prop::collection::vec(step, 0..60)
    }

    proptest! {
        /// Whatever happens in whatever order: a place is given exactly when fewer are taken than the
        /// limit, or the one before for a while, and every place counts under every limit.
        #[test]
        fn the_count_outlives_the_limit(steps in steps()) {
            const GRACE: Duration = Duration::from_secs(10);
            let mut now = Instant::now();
            let mut slots = Slots::new(2);
            let (mut limit, mut before) = (2, (0, now));
            let mut held = Vec::new();
            for step in steps {
                match step {
                    Step::Take => {
                        let most = if now < before.1 { limit.max(before.0) } else { limit };
                        let slot = slots.take(now);
                        prop_assert_eq!(slot.is_some(), held.len() < most as usize);
                        held.extend(slot);
                    }
                    Step::GiveBack => drop(held.pop()),
                    Step::Limit(new) => {
                        slots = slots.with_limit(new, now + GRACE);
                        (before, limit) = ((limit, now + GRACE), new);
                    }
                    Step::Wait(seconds) => now += Duration::from_secs(seconds),
                }
                prop_assert_eq!(slots.taken.load(Ordering::Relaxed) as usize, held.len());
            }
        }
    }
}

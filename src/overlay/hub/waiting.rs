//! Requests that wait for a seat, counted by backend.
//!
//! Invariant: of no backend wait more than [`MOST`], and none waits less because others do: a backend that
//! everybody wants takes nothing from the rest.

use std::sync::{Mutex, MutexGuard, PoisonError};

use rustc_hash::FxHashMap;

/// Requests that wait for one backend. More are turned away at once. Backends are as many as the config has.
pub(super) const MOST: u32 = 256;

/// How many wait, by backend.
#[derive(Default, Debug)]
pub(super) struct Waiting(Mutex<FxHashMap<Box<str>, u32>>);

/// One request that waits, until it is dropped.
#[derive(Debug)]
pub(super) struct Place<'w> {
    waiting: &'w Waiting,
    backend: &'w str,
}

impl Waiting {
    /// Lets one more request wait for `backend`; `None` when as many wait as may.
    pub(super) fn enter<'w>(&'w self, backend: &'w str) -> Option<Place<'w>> {
        let mut waiting = self.lock();
        match waiting.get_mut(backend) {
            Some(count) if *count >= MOST => return None,
            Some(count) => *count += 1,
            None => drop(waiting.insert(backend.into(), 1)),
        }
        Some(Place { waiting: self, backend })
    }

    fn lock(&self) -> MutexGuard<'_, FxHashMap<Box<str>, u32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut waiting = self.waiting.lock();
        match waiting.get_mut(self.backend) {
            Some(count) if *count > 1 => *count -= 1,
            // The last one leaves nothing behind: names come and go with the config.
            Some(_) | None => drop(waiting.remove(self.backend)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_backend_that_everybody_wants_leaves_room_for_the_rest() {
        let waiting = Waiting::default();
        let mut hot: Vec<_> = (0..MOST).map(|_| waiting.enter("hot").unwrap()).collect();
        assert!(waiting.enter("hot").is_none());
        let others: Vec<_> = (0..MOST).map(|_| waiting.enter("other").unwrap()).collect();
        hot.pop();
        hot.push(waiting.enter("hot").unwrap());
        assert!(waiting.enter("hot").is_none());
        drop((hot, others));
        assert!(waiting.lock().is_empty());
    }

    proptest! {
        /// Whoever comes and goes in whatever order: what is counted is what waits.
        #[test]
        fn counts(steps in prop::collection::vec((0usize..3, any::<bool>()), 0..200)) {
            let (waiting, names) = (Waiting::default(), ["a", "b", "c"]);
            let mut inside: [Vec<Place<'_>>; 3] = Default::default();
            for (at, comes) in steps {
                if comes { inside[at].extend(waiting.enter(names[at])) } else { drop(inside[at].pop()) }
                for (places, name) in inside.iter().zip(names) {
                    let counted = waiting.lock().get(name).copied();
                    prop_assert_eq!(counted.unwrap_or(0) as usize, places.len());
                    prop_assert_ne!(counted, Some(0));
                }
            }
        }
    }
}

//! Requests that wait for a seat, counted and told by backend.
//!
//! Invariant: of no backend wait more than [`MOST`], and none waits less because others do: a backend that
//! everybody wants takes nothing from the rest. Nor is anybody woken for a seat that cannot be theirs: with
//! many backends that everybody wants, each request that ends would wake all who wait for any of them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustc_hash::FxHashMap;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

/// Requests that wait for one backend. More are turned away at once. Backends are as many as the config has.
pub(super) const MOST: u32 = 256;

/// Who waits, by backend.
#[derive(Default, Debug)]
pub(super) struct Waiting(Mutex<FxHashMap<Box<str>, Queue>>);

#[derive(Default, Debug)]
struct Queue {
    count: u32,
    freed: Arc<Notify>,
}

/// One request that waits, until it is dropped.
#[derive(Debug)]
pub(super) struct Place<'w> {
    waiting: &'w Waiting,
    backend: &'w str,
    freed: Arc<Notify>,
}

impl Place<'_> {
    /// Comes when there may be a seat.
    pub(super) fn freed(&self) -> Notified<'_> {
        self.freed.notified()
    }
}

impl Waiting {
    /// Lets one more request wait for `backend`; `None` when as many wait as may.
    pub(super) fn enter<'w>(&'w self, backend: &'w str) -> Option<Place<'w>> {
        let mut waiting = self.lock();
        let freed = match waiting.get_mut(backend) {
            Some(queue) if queue.count >= MOST => return None,
            Some(queue) => {
                queue.count += 1;
                Arc::clone(&queue.freed)
            }
            None => {
                let queue = Queue { count: 1, freed: Arc::default() };
                let freed = Arc::clone(&queue.freed);
                waiting.insert(backend.into(), queue);
                freed
            }
        };
        Some(Place { waiting: self, backend, freed })
    }

    /// There may be seats for these backends.
    pub(super) fn tell<'n>(&self, backends: impl Iterator<Item = &'n str>) {
        let waiting = self.lock();
        // Mostly nobody waits at all.
        if waiting.is_empty() {
            return;
        }
        let told: Vec<_> =
            backends.filter_map(|name| waiting.get(name)).map(|queue| Arc::clone(&queue.freed)).collect();
        // Whoever is woken may leave, and needs the lock for that.
        drop(waiting);
        told.iter().for_each(|freed| freed.notify_waiters());
    }

    /// There may be seats for any backend.
    pub(super) fn tell_all(&self) {
        let told: Vec<_> = self.lock().values().map(|queue| Arc::clone(&queue.freed)).collect();
        told.iter().for_each(|freed| freed.notify_waiters());
    }

    fn lock(&self) -> MutexGuard<'_, FxHashMap<Box<str>, Queue>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut waiting = self.waiting.lock();
        match waiting.get_mut(self.backend) {
            Some(queue) if queue.count > 1 => queue.count -= 1,
            // The last one leaves nothing behind: names come and go with the config.
            Some(_) | None => drop(waiting.remove(self.backend)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::FutureExt;
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

    #[test]
    fn nobody_is_woken_for_the_seat_of_another() {
        let waiting = Waiting::default();
        let (one, other) = (waiting.enter("one").unwrap(), waiting.enter("other").unwrap());
        let (mut for_one, mut for_other) = (pin!(one.freed()), pin!(other.freed()));
        for_one.as_mut().enable();
        for_other.as_mut().enable();
        waiting.tell(["one", "nobody's"].into_iter());
        assert!(for_one.now_or_never().is_some());
        assert!(for_other.as_mut().now_or_never().is_none());
        waiting.tell_all();
        assert!(for_other.now_or_never().is_some());
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
                    let counted = waiting.lock().get(name).map(|queue| queue.count);
                    prop_assert_eq!(counted.unwrap_or(0) as usize, places.len());
                    prop_assert_ne!(counted, Some(0));
                }
            }
        }
    }
}

//! Places for the connections of tools, and a few for those who have not shown yet that they are one.
//!
//! Invariant: whoever has not had a request admitted (who has no token, say) takes no place from those who
//! have. Strangers have [`STRANGERS`] places, each for [`PATIENCE`] at the most; when all are taken, the one
//! who came first makes room for the next. So another user of this machine, who can connect as often as
//! he likes, cannot keep a tool from being heard.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until, timeout};

/// Connections of tools at once.
pub(super) const TOOLS: usize = 256;
/// Connections at once that have had no request admitted.
pub(super) const STRANGERS: usize = 64;
/// For so long one may be a stranger.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// How long a connection waits for the place of a tool.
const TURN: Duration = Duration::from_secs(5);

/// The places of a listener.
#[derive(Debug)]
pub(super) struct Places {
    tools: Arc<Semaphore>,
    strangers: Arc<Semaphore>,
    /// Strangers in the order in which they came.
    queue: Mutex<VecDeque<Arc<Notify>>>,
}

/// The place of one connection, until it is dropped.
#[derive(Debug)]
pub(super) struct Guest {
    places: Arc<Places>,
    /// Called when somebody else needs the place.
    leave: Arc<Notify>,
    since: Instant,
    held: Mutex<Held>,
}

#[derive(Debug)]
enum Held {
    Stranger(#[expect(dead_code, reason = "it is given back when it is dropped")] OwnedSemaphorePermit),
    Tool(#[expect(dead_code, reason = "it is given back when it is dropped")] OwnedSemaphorePermit),
}

impl Places {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            tools: Arc::new(Semaphore::new(TOOLS)),
            strangers: Arc::new(Semaphore::new(STRANGERS)),
            queue: Mutex::default(),
        })
    }

    /// A place for a stranger. Whoever has been one for the longest leaves for it, if need be. `None` never
    /// comes as long as there are places at all.
    pub(super) async fn enter(self: &Arc<Self>) -> Option<Arc<Guest>> {
        let free = Arc::clone(&self.strangers).try_acquire_owned();
        let permit = match free {
            Ok(permit) => permit,
            Err(_) => {
                let first = self.queue().pop_front();
                if let Some(first) = first {
                    first.notify_one();
                }
                Arc::clone(&self.strangers).acquire_owned().await.ok()?
            }
        };
        let leave = Arc::new(Notify::new());
        self.queue().push_back(Arc::clone(&leave));
        let held = Mutex::new(Held::Stranger(permit));
        Some(Arc::new(Guest { places: Arc::clone(self), leave, since: Instant::now(), held }))
    }

    /// Waits until all places are free.
    pub(super) async fn all_free(&self) {
        for (places, most) in [(&self.tools, TOOLS), (&self.strangers, STRANGERS)] {
            let all = u32::try_from(most).unwrap_or(u32::MAX);
            // Nobody closes them.
            drop(places.acquire_many(all).await);
        }
    }

    fn queue(&self) -> MutexGuard<'_, VecDeque<Arc<Notify>>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Guest {
    /// A request was admitted: from now on the connection is a tool's. False when there are so many of those
    /// that none came free in time.
    pub(super) async fn is_a_tool(&self) -> bool {
        if !self.is_stranger() {
            return true;
        }
        let Ok(Ok(permit)) = timeout(TURN, Arc::clone(&self.places.tools).acquire_owned()).await else { return false };
        *self.held() = Held::Tool(permit);
        self.leaves_queue();
        true
    }

    /// Waits until the place is needed by somebody else, or was a stranger's for too long. Never comes once it
    /// is a tool's.
    pub(super) async fn has_to_leave(&self) {
        tokio::select! {
            () = self.leave.notified() => {}
            () = sleep_until(self.since + PATIENCE) => {}
        }
        if !self.is_stranger() {
            std::future::pending::<()>().await;
        }
    }

    fn is_stranger(&self) -> bool {
        matches!(*self.held(), Held::Stranger(_))
    }

    fn leaves_queue(&self) {
        self.places.queue().retain(|other| !Arc::ptr_eq(other, &self.leave));
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.leaves_queue();
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use super::*;

    async fn at_once<T>(future: impl Future<Output = T>) -> Option<T> {
        timeout(Duration::from_millis(1), future).await.ok()
    }

    /// As a connection does: ends when it has to leave.
    fn connected(guest: Arc<Guest>) -> tokio::task::JoinHandle<()> {
        tokio::spawn(async move { guest.has_to_leave().await })
    }

    #[tokio::test(start_paused = true)]
    async fn strangers_make_room_for_those_who_come_after_them() {
        let places = Places::new();
        let mut guests = Vec::new();
        for _ in 0..STRANGERS {
            guests.push(connected(places.enter().await.unwrap()));
        }
        let newcomer = at_once(places.enter()).await.unwrap().unwrap();
        assert!(at_once(guests.remove(0)).await.is_some(), "who came first leaves");
        assert!(at_once(&mut guests[0]).await.is_none());
        // However many strangers come: who has become a tool stays, and so do the places of all tools.
        assert!(newcomer.is_a_tool().await);
        for _ in 0..3 * STRANGERS {
            guests.push(connected(places.enter().await.unwrap()));
        }
        assert!(at_once(newcomer.has_to_leave()).await.is_none());
        assert_eq!(places.tools.available_permits(), TOOLS - 1);
        for guest in guests {
            timeout(PATIENCE, guest).await.unwrap().unwrap();
        }
        assert_eq!(places.strangers.available_permits(), STRANGERS);
        assert!(places.queue().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_is_a_stranger_for_long() {
        let places = Places::new();
        let (stranger, tool) = (places.enter().await.unwrap(), places.enter().await.unwrap());
        let begun = Instant::now();
        assert!(tool.is_a_tool().await);
        stranger.has_to_leave().await;
        assert!(begun.elapsed() >= PATIENCE && begun.elapsed() <= PATIENCE + Duration::from_millis(1));
        assert!(timeout(PATIENCE * 100, tool.has_to_leave()).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn tools_wait_for_a_place_and_not_for_ever() {
        let places = Places::new();
        let mut tools = Vec::new();
        for _ in 0..TOOLS {
            let tool = places.enter().await.unwrap();
            assert!(tool.is_a_tool().await);
            tools.push(tool);
        }
        let late = places.enter().await.unwrap();
        assert!(!late.is_a_tool().await);
        let waits = async { late.is_a_tool().await };
        let mut waits = Box::pin(waits);
        assert!(at_once(&mut waits).await.is_none());
        tools.pop();
        assert!(waits.as_mut().await);
        drop(waits);
        let mut all_free = pin!(places.all_free());
        assert!(at_once(&mut all_free).await.is_none());
        drop((tools, late));
        all_free.await;
    }
}

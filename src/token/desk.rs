//! Where requests ask for fresh keys of an issuer.
//!
//! Invariants: at most one fetch is under way for an issuer, whoever asks; strangers can bring one
//! about every [`PAUSE`] and no oftener; nobody waits longer than [`PATIENCE`].

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout};

/// From one fetch that a request asked for to the next.
pub const PAUSE: Duration = Duration::from_secs(30);

/// How long a request waits for keys.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// Between those who need keys and the one who fetches them.
#[derive(Debug)]
pub struct Desk {
    state: Mutex<State>,
    asked: Notify,
    rounds: watch::Sender<u64>,
}

#[derive(Debug)]
struct State {
    /// A fetch is under way, or was asked for.
    busy: bool,
    asked_at: Option<Instant>,
}

impl Default for Desk {
    fn default() -> Self {
        // Busy: whoever makes a desk begins with a fetch.
        Self {
            state: Mutex::new(State { busy: true, asked_at: None }),
            asked: Notify::new(),
            rounds: watch::Sender::new(0),
        }
    }
}

impl Desk {
    /// Waits for a fetch to end, and begins one if none is under way and it is time. True when one
    /// has ended: look again.
    pub async fn fresh(&self, now: Instant) -> bool {
        let mut rounds = self.rounds.subscribe();
        if !self.ask(now) {
            return false;
        }
        timeout(PATIENCE, rounds.changed()).await.is_ok_and(|round| round.is_ok())
    }

    /// True when there is something to wait for.
    fn ask(&self, now: Instant) -> bool {
        let mut state = self.lock();
        if state.busy {
            return true;
        }
        if state.asked_at.is_some_and(|at| now.saturating_duration_since(at) < PAUSE) {
            return false;
        }
        *state = State { busy: true, asked_at: Some(now) };
        self.asked.notify_one();
        true
    }

    /// A fetch begins.
    pub fn begins(&self) {
        self.lock().busy = true;
    }

    /// A fetch has ended, and what it brought is in force.
    pub fn ended(&self) {
        self.lock().busy = false;
        self.rounds.send_modify(|round| *round += 1);
    }

    /// Waits until somebody asks.
    pub async fn asked(&self) {
        self.asked.notified().await;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use futures_util::future::join_all;

    use super::*;

    fn run<T>(test: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test)
    }

    #[test]
    fn many_ask_and_one_is_sent() {
        run(async {
            let desk = Desk::default();
            desk.ended();
            let now = Instant::now();
            let askers = join_all((0..100).map(|_| desk.fresh(now)));
            let fetcher = async {
                desk.asked().await;
                desk.begins();
                desk.ended();
                // Nobody else has asked meanwhile.
                assert!(desk.asked().now_or_never().is_none());
            };
            let (answers, ()) = tokio::join!(askers, fetcher);
            assert!(answers.into_iter().all(|answer| answer));
        });
    }

    #[test]
    fn nobody_asks_oftener_than_the_pause() {
        run(async {
            let desk = Desk::default();
            desk.ended();
            let begun = Instant::now();
            assert!(desk.ask(begun));
            desk.ended();
            // It does not even wait.
            assert_eq!(desk.fresh(begun + PAUSE - Duration::from_millis(1)).now_or_never(), Some(false));
            assert_eq!(desk.fresh(begun + PAUSE).now_or_never(), None);
        });
    }

    /// The first keys of an issuer are waited for from the start.
    #[test]
    fn the_first_fetch_is_waited_for() {
        run(async {
            let desk = Desk::default();
            let (answer, ()) = tokio::join!(desk.fresh(Instant::now()), async { desk.ended() });
            assert!(answer);
            assert!(desk.asked().now_or_never().is_none());
        });
    }
}

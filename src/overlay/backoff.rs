//! When to dial again.
//!
//! Invariant: pure. Full jitter: a wait is drawn evenly from nothing up to a bound that doubles
//! with each failure, so that a thousand connectors do not come back in the same moment. The bound
//! goes back only when a connection has been of use: one that registers and falls at once counts
//! as a failure.

use std::time::Duration;

/// The first bound.
const FIRST: Duration = Duration::from_secs(1);
/// The last bound.
const LAST: Duration = Duration::from_secs(60);
/// A connection that was registered for so long was of use.
pub const OF_USE: Duration = Duration::from_secs(30);
/// When the gateway said that dialling again does not help, it is tried this often all the same:
/// what was revoked may be given back, and nobody should have to come here for that.
pub const HOPELESS: Duration = Duration::from_secs(5 * 60);
/// A gateway may not put a connector off for longer than this.
const LONGEST_REQUEST: Duration = Duration::from_secs(10 * 60);

/// How a connection ended, as far as it matters here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    /// It could not be opened, or was lost: after being registered for so long, if it was.
    Lost(Option<Duration>),
    /// The gateway asked for a certain wait.
    PutOff(Duration),
    /// The gateway said that dialling again does not help.
    Hopeless,
}

/// The failures of one connection so far.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The wait before the next attempt. `draw(n)` gives a number from 0 to `n`, evenly spread.
    pub fn next_wait(&mut self, ended: Ended, draw: impl FnOnce(u64) -> u64) -> Duration {
        match ended {
            Ended::Lost(registered) => {
                if registered.is_some_and(|span| span >= OF_USE) {
                    self.failures = 0;
                }
                let bound = self.bound();
                self.failures = self.failures.saturating_add(1);
                drawn(bound, draw)
            }
            // A little later than asked for, and not all at once.
            Ended::PutOff(span) => span.min(LONGEST_REQUEST) + drawn(FIRST, draw),
            Ended::Hopeless => HOPELESS,
        }
    }

    fn bound(self) -> Duration {
        let doubled = 1u32.checked_shl(self.failures).and_then(|factor| FIRST.checked_mul(factor));
        doubled.map_or(LAST, |bound| bound.min(LAST))
    }
}

fn drawn(bound: Duration, draw: impl FnOnce(u64) -> u64) -> Duration {
    let most = u64::try_from(bound.as_millis()).unwrap_or(u64::MAX);
    Duration::from_millis(draw(most).min(most))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MOST: fn(u64) -> u64 = |most| most;

    #[test]
    fn the_bound_doubles_up_to_a_minute() {
        let mut backoff = Backoff::default();
        let bounds: Vec<u64> = (0..9).map(|_| backoff.next_wait(Ended::Lost(None), MOST).as_secs()).collect();
        assert_eq!(bounds, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
    }

    #[test]
    fn only_a_connection_of_use_resets_it() {
        let mut backoff = Backoff { failures: 4 };
        let short = Some(OF_USE.checked_sub(Duration::from_millis(1)).unwrap());
        assert_eq!(backoff.next_wait(Ended::Lost(short), MOST).as_secs(), 16);
        assert_eq!(backoff.next_wait(Ended::Lost(Some(OF_USE)), MOST).as_secs(), 1);
        assert_eq!(backoff.next_wait(Ended::Lost(None), MOST).as_secs(), 2);
    }

    #[test]
    fn what_the_gateway_asks_for_is_heeded_within_reason() {
        let mut backoff = Backoff::default();
        let wait = backoff.next_wait(Ended::PutOff(Duration::from_secs(7)), |_| 0);
        assert_eq!(wait, Duration::from_secs(7));
        let wait = backoff.next_wait(Ended::PutOff(Duration::from_secs(1 << 30)), MOST);
        assert_eq!(wait, LONGEST_REQUEST + FIRST);
        assert_eq!(backoff.next_wait(Ended::Hopeless, MOST), HOPELESS);
        // Neither is a failure of the link.
        assert_eq!(backoff.next_wait(Ended::Lost(None), MOST), FIRST);
    }

    proptest! {
        /// No wait is above a minute, however many failures and whatever is drawn.
        #[test]
        fn waits_are_bounded(failures in any::<u32>(), drawn in any::<u64>()) {
            let mut backoff = Backoff { failures };
            prop_assert!(backoff.next_wait(Ended::Lost(None), |_| drawn) <= LAST);
        }

        /// The whole range is used: what is drawn is what is waited.
        #[test]
        fn the_whole_range_is_drawn_from(failures in 0u32..40, share in 0u64..=100) {
            let mut backoff = Backoff { failures };
            let mut most = 0;
            let wait = backoff.next_wait(Ended::Lost(None), |bound| { most = bound; bound * share / 100 });
            prop_assert_eq!(u128::from(most * share / 100), wait.as_millis());
        }
    }
}

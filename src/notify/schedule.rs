//! When a webhook that did not take a notification is told again, and when that ends.
//!
//! Pure: no clock, no I/O, no randomness of its own.

use std::time::Duration;

use crate::domain::timestamp::Timestamp;

/// The wait after the first failure; it doubles with each further one in a row.
pub const FIRST: Duration = Duration::from_secs(1);
/// The longest wait between two attempts.
pub const LONGEST: Duration = Duration::from_secs(300);
/// Older than this nothing is told any more.
pub const OLDEST: Duration = Duration::from_secs(24 * 3600);
/// So often a webhook may answer that it does not take a notification before it is given up: the next
/// one may be one that it takes.
pub const MOST_REFUSALS: u32 = 10;

/// What came of an attempt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Attempt {
    /// The webhook has taken it.
    Taken,
    /// The webhook has answered that it does not take this one.
    Refused,
    /// The webhook could not be reached, did not answer, or said that it cannot take anything now.
    Unavailable,
}

impl Attempt {
    /// What a status says. Redirects are refusals: they are never followed.
    #[must_use]
    pub const fn of_status(status: u16) -> Self {
        match status {
            200..=299 => Self::Taken,
            408 | 425 | 429 | 500..=599 => Self::Unavailable,
            _ => Self::Refused,
        }
    }
}

/// How long to wait after so many failures in a row, at least one. `random` spreads the waits of many
/// senders: between half of the full wait and all of it.
#[must_use]
pub fn wait(failures: u32, random: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    let full = FIRST.saturating_mul(1 << doublings).min(LONGEST);
    let half = full / 2;
    half + Duration::from_secs_f64(half.as_secs_f64() * f64::from(random) / f64::from(u32::MAX))
}

/// True when a notification of this age, refused so often, is not told any more.
#[must_use]
pub fn is_over(at: Timestamp, refusals: u32, now: Timestamp) -> bool {
    refusals >= MOST_REFUSALS || now.since(at) > OLDEST
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn statuses() {
        for (status, expected) in [
            (200, Attempt::Taken),
            (204, Attempt::Taken),
            (302, Attempt::Refused),
            (304, Attempt::Refused),
            (400, Attempt::Refused),
            (401, Attempt::Refused),
            (410, Attempt::Refused),
            (408, Attempt::Unavailable),
            (429, Attempt::Unavailable),
            (500, Attempt::Unavailable),
            (503, Attempt::Unavailable),
            (999, Attempt::Refused),
        ] {
            assert_eq!(Attempt::of_status(status), expected, "{status}");
        }
    }

    #[test]
    fn the_ends_are_exact() {
        let at = Timestamp::from_seconds(1000);
        assert!(!is_over(at, 0, at.after(OLDEST)));
        assert!(is_over(at, 0, at.after(OLDEST + Duration::from_millis(1))));
        assert!(!is_over(at, MOST_REFUSALS - 1, at));
        assert!(is_over(at, MOST_REFUSALS, at));
        // A clock that was set back makes nothing old.
        assert!(!is_over(at, 0, Timestamp::from_seconds(1)));
    }

    proptest! {
        /// Never less than half a second and never more than the longest; jitter is within a factor
        /// of two; more failures never shorten the wait that the same luck gives.
        #[test]
        fn waits_are_bounded_and_grow(failures: u32, random: u32) {
            let waited = wait(failures, random);
            prop_assert!(waited >= FIRST / 2 && waited <= LONGEST);
            prop_assert!(wait(failures, 0) <= waited && waited <= wait(failures, u32::MAX));
            prop_assert!(wait(failures, u32::MAX) <= wait(failures, 0) * 2 + Duration::from_nanos(2));
            prop_assert!(wait(failures.saturating_add(1), random) >= waited);
        }

        /// Within its time a notification is tried often: an outage of an hour costs none.
        #[test]
        fn an_outage_of_hours_is_outlived(luck in prop::collection::vec(any::<u32>(), 64)) {
            let mut at = Timestamp::from_seconds(0);
            let mut attempts = 1;
            for (failures, random) in (1u32..).zip(luck.iter().cycle()) {
                at = at.after(wait(failures, *random));
                if is_over(Timestamp::from_seconds(0), 0, at) {
                    break;
                }
                attempts += 1;
            }
            prop_assert!((280..=600).contains(&attempts), "{attempts}");
        }
    }
}

//! When a certificate is renewed. Pure: time and randomness come in.
//!
//! Invariant: the first attempt lies between 60 % and 74 % of the certificate's life, different for
//! each holder, and after a failure there are always several more before the end.

use std::time::Duration;

use crate::ca::plan::Span;
use crate::domain::timestamp::Timestamp;

/// The first pause after a failure; each next one doubles.
pub const FIRST_PAUSE: Duration = Duration::from_secs(30);
/// The longest pause between attempts.
pub const LONGEST_PAUSE: Duration = Duration::from_secs(600);
/// The shortest pause between attempts.
pub const SHORTEST_PAUSE: Duration = Duration::from_secs(1);
/// From one attempt to the next when somebody has to act first: a revoked name may be reinstated.
pub const HOPELESS_PAUSE: Duration = Duration::from_secs(300);

/// When to renew a certificate for the first time: at 2/3 of its life, 10 % more or less. `chance` is
/// any number, each as likely as any other.
#[must_use]
pub fn renew_at(span: Span, chance: u32) -> Timestamp {
    let life = span.not_after.since(span.not_before);
    let two_thirds = life * 2 / 3;
    span.not_before.after(two_thirds - two_thirds / 10 + share(two_thirds / 5, chance))
}

/// How long to wait after the attempt that failed as the `failures`-th in a row (1 for the first):
/// 30 s, doubling to 10 min, up to half of it by chance; never more than a quarter of the life that is
/// left, so that a short life sees several attempts.
#[must_use]
pub fn pause(failures: u32, left: Duration, chance: u32) -> Duration {
    let doubled = FIRST_PAUSE.saturating_mul(1u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX));
    let longest = doubled.min(LONGEST_PAUSE).min(left / 4);
    (longest / 2 + share(longest / 2, chance)).max(SHORTEST_PAUSE)
}

/// The part of `span` that `chance` is of all numbers.
fn share(span: Duration, chance: u32) -> Duration {
    let millis = span.as_millis() * u128::from(chance) / u128::from(u32::MAX);
    Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DAY: u64 = 24 * 3600;

    fn span(begin: i64, life: u64) -> Span {
        let not_before = Timestamp::from_seconds(begin);
        Span { not_before, not_after: not_before.after(Duration::from_secs(life)) }
    }

    #[test]
    fn a_day_is_renewed_after_sixteen_hours() {
        let span = span(0, DAY);
        assert_eq!(renew_at(span, 0), Timestamp::from_seconds(51_840));
        assert_eq!(renew_at(span, u32::MAX), Timestamp::from_seconds(63_360));
        let middle = renew_at(span, u32::MAX / 2).as_seconds();
        assert!((57_598..=57_600).contains(&middle), "{middle}");
    }

    #[test]
    fn pauses_double_to_ten_minutes() {
        let long = Duration::from_secs(DAY);
        let longest: Vec<u64> = (1..8).map(|failures| pause(failures, long, u32::MAX).as_secs()).collect();
        assert_eq!(longest, [30, 60, 120, 240, 480, 600, 600]);
        let shortest: Vec<u64> = (1..8).map(|failures| pause(failures, long, 0).as_secs()).collect();
        assert_eq!(shortest, [15, 30, 60, 120, 240, 300, 300]);
    }

    proptest! {
        #[test]
        fn the_first_attempt_is_around_two_thirds(begin in 0i64..4_000_000_000, life in 300u64..90 * DAY, chance: u32) {
            let span = span(begin, life);
            let waits = renew_at(span, chance).since(span.not_before).as_millis();
            let life = u128::from(life) * 1000;
            prop_assert!(waits >= life * 60 / 100 - 1 && waits <= life * 74 / 100, "{waits} of {life}");
        }

        #[test]
        fn the_more_the_later(begin in 0i64..4_000_000_000, life in 300u64..90 * DAY, one: u32, other: u32) {
            let span = span(begin, life);
            prop_assert!(renew_at(span, one.min(other)) <= renew_at(span, one.max(other)));
        }

        #[test]
        fn a_pause_is_bounded(failures in 1u32.., left in 0u64..90 * DAY, chance: u32) {
            let pause = pause(failures, Duration::from_secs(left), chance);
            prop_assert!(pause >= SHORTEST_PAUSE && pause <= LONGEST_PAUSE);
        }

        /// However short the life, whoever fails from the first attempt on tries at least five times.
        #[test]
        fn there_is_always_another_attempt(begin in 0i64..4_000_000_000, life in 300u64..90 * DAY, chances: [u32; 8]) {
            let span = span(begin, life);
            let mut now = renew_at(span, chances[0]);
            for failures in 1..5u32 {
                let chance = chances[failures as usize];
                now = now.after(pause(failures, span.not_after.since(now), chance));
                prop_assert!(now < span.not_after, "attempt {failures}");
            }
        }

        /// What was never valid, or has no life, makes no trouble.
        #[test]
        fn any_span_has_a_time(begin in any::<i64>(), end in any::<i64>(), chance: u32) {
            let span = Span { not_before: Timestamp::from_seconds(begin), not_after: Timestamp::from_seconds(end) };
            prop_assert!(renew_at(span, chance) >= span.not_before);
        }
    }
}

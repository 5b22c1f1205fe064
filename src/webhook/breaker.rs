//! When a webhook that fails is left alone for a while.
//!
//! Invariants: while the breaker is open nothing is asked; when its rest is over one question probes
//! and all others go on as if it were open; only an answer that counts closes it. Pure: `now` is a
//! span on a clock that only goes forward.

use std::collections::VecDeque;
use std::time::Duration;

/// So many failures in a row open it.
const IN_A_ROW: u32 = 5;
/// As does every second failure of at least so many questions …
const MANY: usize = 20;
/// … in this span.
const WINDOW: Duration = Duration::from_secs(30);
/// Most questions that are remembered of the window.
const REMEMBERED: usize = 512;
/// The first rest; each that follows at once is twice as long, until …
const REST: Duration = Duration::from_secs(10);
/// … this.
const LONGEST_REST: Duration = Duration::from_secs(60);

/// The breaker of one webhook.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Breaker {
    state: State,
    in_a_row: u32,
    /// When questions ended, and whether they failed.
    recent: VecDeque<(Duration, bool)>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Closed,
    Open { until: Duration, rest: Duration },
    Probing { rest: Duration },
}

/// What a breaker looks like from outside.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Look {
    /// Questions are asked.
    Closed,
    /// One is, to see.
    HalfOpen,
    /// None is.
    Open,
}

/// Leave to ask one question. How it ended must be told, with [`Breaker::ended`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Leave {
    is_probe: bool,
}

impl Default for Breaker {
    fn default() -> Self {
        Self { state: State::Closed, in_a_row: 0, recent: VecDeque::new() }
    }
}

impl Breaker {
    /// Leave to ask, if there is any at the moment.
    pub fn ask(&mut self, now: Duration) -> Option<Leave> {
        match self.state {
            State::Closed => Some(Leave { is_probe: false }),
            State::Open { until, rest } if now >= until => {
                self.state = State::Probing { rest };
                Some(Leave { is_probe: true })
            }
            State::Open { .. } | State::Probing { .. } => None,
        }
    }

    /// A question ended. `None`: it was lost, and says nothing of the webhook.
    pub fn ended(&mut self, leave: Leave, failed: Option<bool>, now: Duration) {
        match (self.state, leave.is_probe, failed) {
            (State::Probing { rest }, true, Some(true)) => self.open(now, (rest * 2).min(LONGEST_REST)),
            (State::Probing { .. }, true, Some(false)) => *self = Self::default(),
            // Nobody knows; the next one probes.
            (State::Probing { rest }, true, None) => self.state = State::Open { until: now, rest },
            (State::Closed, false, Some(failed)) => {
                self.note(failed, now);
                let failures = self.recent.iter().filter(|(_, failed)| *failed).count();
                let half = self.recent.len() >= MANY && failures * 2 >= self.recent.len();
                if self.in_a_row >= IN_A_ROW || half {
                    self.open(now, REST);
                }
            }
            // Answers to questions from before it opened change nothing.
            (State::Closed | State::Open { .. } | State::Probing { .. }, _, _) => {}
        }
    }

    /// What it looks like.
    #[must_use]
    pub const fn look(&self) -> Look {
        match self.state {
            State::Closed => Look::Closed,
            State::Open { .. } => Look::Open,
            State::Probing { .. } => Look::HalfOpen,
        }
    }

    fn note(&mut self, failed: bool, now: Duration) {
        self.in_a_row = if failed { self.in_a_row + 1 } else { 0 };
        self.recent.push_back((now, failed));
        let begins = now.saturating_sub(WINDOW);
        while self.recent.len() > REMEMBERED || self.recent.front().is_some_and(|(at, _)| *at < begins) {
            self.recent.pop_front();
        }
    }

    fn open(&mut self, now: Duration, rest: Duration) {
        *self = Self { state: State::Open { until: now + rest, rest }, ..Self::default() };
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// Asks and hears at once.
    fn go(breaker: &mut Breaker, failed: bool, now: Duration) -> bool {
        let leave = breaker.ask(now);
        if let Some(leave) = leave {
            breaker.ended(leave, Some(failed), now);
        }
        leave.is_some()
    }

    #[test]
    fn five_in_a_row_open_it() {
        let mut breaker = Breaker::default();
        for _ in 0..4 {
            assert!(go(&mut breaker, true, s(1)));
        }
        assert!(go(&mut breaker, false, s(1)), "a success begins the row anew");
        for _ in 0..5 {
            assert!(go(&mut breaker, true, s(2)));
        }
        assert_eq!(breaker.look(), Look::Open);
        assert!(!go(&mut breaker, false, s(11)));
        assert!(go(&mut breaker, false, s(12)), "after ten seconds one probes");
        assert_eq!(breaker, Breaker::default());
    }

    #[test]
    fn half_of_twenty_within_the_window_open_it() {
        let mut breaker = Breaker::default();
        for n in 0..19 {
            assert!(go(&mut breaker, n % 2 == 0, s(1)));
        }
        assert_eq!(breaker.look(), Look::Closed);
        assert!(go(&mut breaker, false, s(1)));
        assert_eq!(breaker.look(), Look::Open);
        // Spread over more than the window they are not that many.
        let mut breaker = Breaker::default();
        for n in 0..200 {
            assert!(go(&mut breaker, n % 2 == 0, s(2 * n)));
        }
        assert_eq!(breaker.look(), Look::Closed);
    }

    #[test]
    fn rests_double_up_to_a_minute() {
        let mut breaker = Breaker::default();
        (0..5).for_each(|_| assert!(go(&mut breaker, true, s(0))));
        let mut now = s(0);
        for rest in [10, 20, 40, 60, 60] {
            assert!(!go(&mut breaker, true, now + s(rest) - Duration::from_millis(1)));
            now += s(rest);
            assert!(go(&mut breaker, true, now), "{rest}");
        }
        now += s(60);
        assert!(go(&mut breaker, false, now));
        (0..5).for_each(|_| assert!(go(&mut breaker, true, now)));
        assert!(go(&mut breaker, true, now + s(10)), "after a success the rest is short again");
    }

    #[test]
    fn one_probes_and_late_answers_do_not_count() {
        let mut breaker = Breaker::default();
        let late = breaker.ask(s(0)).unwrap();
        (0..5).for_each(|_| assert!(go(&mut breaker, true, s(0))));
        let probe = breaker.ask(s(10)).unwrap();
        assert_eq!((breaker.ask(s(10)), breaker.look()), (None, Look::HalfOpen));
        breaker.ended(late, Some(false), s(10));
        assert_eq!(breaker.look(), Look::HalfOpen);
        // A probe that is lost leaves the place to the next.
        breaker.ended(probe, None, s(11));
        assert!(breaker.ask(s(11)).is_some());
    }

    proptest! {
        /// Whatever happens, in whatever order: never two probes, never more memory than the bound,
        /// and a webhook that is well again is asked again within a minute.
        #[test]
        fn it_never_sticks(steps in prop::collection::vec((0u64..15, 0u8..5), 0..400)) {
            let (mut breaker, mut now, mut out) = (Breaker::default(), s(0), Vec::new());
            for (pause, what) in steps {
                now += s(pause);
                match (what, out.pop()) {
                    (0 | 1, taken) => {
                        out.extend(taken);
                        out.extend(breaker.ask(now));
                    }
                    (_, None) => {}
                    (2, Some(leave)) => breaker.ended(leave, Some(false), now),
                    (3, Some(leave)) => breaker.ended(leave, Some(true), now),
                    (_, Some(leave)) => breaker.ended(leave, None, now),
                }
                prop_assert!(out.iter().filter(|leave| leave.is_probe).count() <= 1);
                prop_assert!(breaker.recent.len() <= REMEMBERED);
            }
            for leave in out {
                breaker.ended(leave, None, now);
            }
            prop_assert!(go(&mut breaker, false, now + s(60)));
            prop_assert_eq!(breaker.look(), Look::Closed);
        }
    }
}

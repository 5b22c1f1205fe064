//! Webhooks that are asked again while a reply streams.
//!
//! Invariant: what ends a request here is what would have refused it at the beginning: a denial, or
//! no answer where `on_error` does not let that pass; who is asked, and whether a failure passes, is
//! what the grants say by then. The asking ends with the request. No question is later than its webhook's
//! `revalidate`, and those about replies that began together are not all put in one moment.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::clock::Clock;
use crate::domain::refusal::Refusal;
use crate::domain::webhook::Hooked;
use crate::gate::allow::{ROUNDS, hear, over, period, settle};
use crate::gate::route::Routed;
use crate::gate::subject::Subject;
use crate::gate::{Gateway, View};
use crate::holder::chance::Chance;

/// How often it is looked at least whether it is time: a clock can be set.
const LOOK: Duration = Duration::from_secs(1);
/// Of the time to the next question, the part by which that may come early.
const EARLY: u32 = 4;

/// A task that asks again, until it is dropped.
#[derive(Debug)]
pub struct Revalidation(JoinHandle<()>);

impl Drop for Revalidation {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// From now on asks again about a request whose reply streams, if one of its webhooks wants that.
pub fn revalidate(gateway: &Arc<Gateway>, routed: &mut Routed, view: &View, subject: Subject) {
    let admitted = &mut routed.admitted;
    if !admitted.request.stream || period(view, &admitted.hooks).is_none() {
        return;
    }
    let asking = again(Arc::clone(gateway), admitted.hooks.clone(), subject, Chance::System);
    admitted.live.revalidated_by(Revalidation(tokio::spawn(asking)));
}

async fn again(gateway: Arc<Gateway>, mut hooks: Vec<Hooked>, subject: Subject, chance: Chance) {
    let mut asked = gateway.clock.steady();
    // Beyond what was asked before the request went on.
    for turn in ROUNDS.. {
        // A reload may have changed how often.
        let Some(period) = period(&gateway.view(), &hooks) else { return };
        // From one question to the next: how long the answer takes is within that, as it is always shorter.
        wait(&gateway.clock, asked + pause(period, chance.draw())).await;
        asked = gateway.clock.steady();
        let view = gateway.view();
        // A word of two may have been taken back since.
        let decided = subject.live().facts().decide(&view, gateway.clock.now());
        let settled = match decided {
            Ok(decided) => {
                hooks = decided.hooks;
                once(&view, &hooks, (&subject, turn)).await
            }
            Err(refusal) => Err(refusal),
        };
        if let Err(refusal) = settled {
            subject.live().end(refusal);
            return;
        }
    }
}

/// How long it is to the next question: at most `period`, and as long as `draw` has it within the last
/// quarter of that.
fn pause(period: Duration, draw: u32) -> Duration {
    let early = period / EARLY;
    // A part of a part: it cannot overflow, and is never more than `early`.
    period.saturating_sub(early.mul_f64(f64::from(draw) / f64::from(u32::MAX)))
}

async fn wait(clock: &Clock, due: Duration) {
    while let Some(left) = due.checked_sub(clock.steady()).filter(|left| !left.is_zero()) {
        sleep(left.min(LOOK)).await;
    }
}

async fn once(view: &View, hooks: &[Hooked], (subject, turn): (&Subject, u32)) -> Result<(), Refusal> {
    let wanted: Vec<Hooked> =
        hooks.iter().filter(|hooked| period(view, std::slice::from_ref(hooked)).is_some()).cloned().collect();
    let heard = hear(view, &wanted, subject, (true, turn)).await?;
    for (name, narrowing) in settle(&heard)? {
        if let Some(at) = narrowing.expires_at {
            subject.live().limit(at, over(&name));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::time::Instant;

    use super::*;

    proptest! {
        #[test]
        fn no_question_is_late_and_none_much_too_early(millis in 30_000u64..90_000_000, draw: u32) {
            let period = Duration::from_millis(millis);
            let pause = pause(period, draw);
            prop_assert!(pause <= period && pause >= period * 3 / 4, "{pause:?} of {period:?}");
        }
    }

    /// A thousand replies that began in one moment: their questions are spread over the last quarter of
    /// the time, and each comes when it was drawn.
    #[tokio::test(start_paused = true)]
    async fn what_began_together_is_not_asked_about_together() {
        const REPLIES: u32 = 1000;
        const PERIOD: Duration = Duration::from_secs(40);
        let begun = Instant::now();
        let waiting = (0..REPLIES).map(|reply| async move {
            let chance = Chance::Fixed(reply * (u32::MAX / REPLIES));
            wait(&Clock::System, Clock::System.steady() + pause(PERIOD, chance.draw())).await;
            begun.elapsed()
        });
        let mut asked = futures_util::future::join_all(waiting).await;
        asked.sort_unstable();
        // Timers are good for a millisecond.
        assert!(asked[asked.len() - 1] <= PERIOD + Duration::from_millis(1), "{asked:?}");
        assert!(asked[0] >= PERIOD * 3 / 4, "{asked:?}");
        let second = Duration::from_secs(1);
        let most =
            asked.iter().map(|from| asked.iter().filter(|at| *at >= from && **at < *from + second).count()).max();
        assert!(most.is_some_and(|most| most <= 110), "{most:?} in one second");
    }

    /// A clock that is moved is seen within a second.
    #[tokio::test(start_paused = true)]
    async fn a_clock_that_is_moved_is_followed() {
        let clock = Clock::manual(crate::domain::timestamp::Timestamp::from_millis(0));
        let (begun, moved) = (Instant::now(), clock.clone());
        tokio::join!(wait(&clock, clock.steady() + Duration::from_secs(40)), async {
            sleep(Duration::from_millis(2500)).await;
            moved.advance(Duration::from_secs(40));
        });
        assert!(begun.elapsed() <= Duration::from_millis(3001), "{:?}", begun.elapsed());
    }
}

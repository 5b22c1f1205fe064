//! Notices that the machine has slept: timers do not run meanwhile, so a connection that died in
//! the night would be believed in for another 20 s, and a wait of a minute begun before would go on.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::clock::Clock;

/// How often it is looked.
const LOOK: Duration = Duration::from_secs(2);
/// The wall clock may run ahead by so much without anybody having slept.
const SLACK: Duration = Duration::from_secs(10);

/// Counts `woken` up each time that the wall clock has run ahead of the steady one. A clock that was
/// set looks the same, and costs a PING.
pub(super) async fn watch(clock: Clock, woken: watch::Sender<u64>) {
    let mut tick = interval(LOOK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut wall, mut steady) = (clock.now(), Instant::now());
    loop {
        tick.tick().await;
        let (wall_now, steady_now) = (clock.now(), Instant::now());
        let ahead = wall_now.since(wall).saturating_sub(steady_now.saturating_duration_since(steady));
        if ahead > SLACK {
            tracing::info!(seconds = ahead.as_secs(), "the machine has slept, or its clock was set");
            woken.send_modify(|times| *times = times.wrapping_add(1));
        }
        (wall, steady) = (wall_now, steady_now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::timestamp::Timestamp;

    #[tokio::test(start_paused = true)]
    async fn a_night_is_noticed_and_a_second_is_not() {
        let clock = Clock::manual(Timestamp::from_seconds(1_000));
        let (woken, mut wake) = watch::channel(0);
        let task = tokio::spawn(watch(clock.clone(), woken));
        // Both clocks move alike.
        for _ in 0..5 {
            tokio::time::advance(LOOK).await;
            clock.advance(LOOK);
        }
        assert!(!wake.has_changed().unwrap());
        clock.advance(Duration::from_secs(8 * 3600));
        wake.changed().await.unwrap();
        assert_eq!(*wake.borrow(), 1);
        task.abort();
    }
}

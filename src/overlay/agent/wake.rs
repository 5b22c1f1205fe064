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
        let steady_span = steady_now.saturating_duration_since(steady);
        if let Some(slept) = slept(wall_now.since(wall), steady_span) {
            tracing::info!(seconds = slept.as_secs(), "the machine has slept, or its clock was set");
            woken.send_modify(|times| *times = times.wrapping_add(1));
        }
        (wall, steady) = (wall_now, steady_now);
    }
}

/// For how long the machine has slept, when it has: by the wall clock `wall` went by, by the steady
/// one `steady`.
fn slept(wall: Duration, steady: Duration) -> Option<Duration> {
    let ahead = wall.saturating_sub(steady);
    (ahead > SLACK).then_some(ahead)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_night_is_noticed_and_a_second_is_not() {
        let seconds = Duration::from_secs;
        assert_eq!(slept(seconds(2), seconds(2)), None);
        assert_eq!(slept(seconds(3), seconds(2)), None);
        // A process that was not scheduled for long: both clocks saw it.
        assert_eq!(slept(seconds(600), seconds(600)), None);
        assert_eq!(slept(seconds(8 * 3600), seconds(2)), Some(seconds(8 * 3600 - 2)));
        // A clock that was set back.
        assert_eq!(slept(seconds(0), seconds(2)), None);
    }
}

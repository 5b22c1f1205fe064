//! Whether the other end of a tunnel is alive: HTTP/2 PINGs, in their time or when somebody asks.

use std::future::poll_fn;
use std::time::Duration;

use h2::{Ping, PingPong};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};

use crate::overlay::hub::Pace;

/// The PINGs of one connection.
#[derive(Debug)]
pub(super) struct Pulse {
    ping_pong: PingPong,
    every: Duration,
    answer: Duration,
    /// When the PING went out that is not answered yet.
    sent_at: Option<Instant>,
    next_at: Instant,
    asking: Vec<oneshot::Sender<()>>,
}

/// What a beat brought.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Beat {
    /// An answer, after this span.
    Answered(Duration),
    /// Nothing yet: a PING went out.
    Asked,
    /// No answer in time.
    Silent,
    /// There is no connection any more.
    Broken,
}

impl Pulse {
    /// Begins with a PING, so that the round trip is known soon.
    pub(super) fn new(ping_pong: PingPong, pace: Pace) -> Self {
        let (every, answer) = (pace.ping_every, pace.ping_answer);
        Self { ping_pong, every, answer, sent_at: None, next_at: Instant::now(), asking: Vec::new() }
    }

    /// Somebody wants to know, and does not wait for the next PING in its time.
    pub(super) fn ask(&mut self, asking: Vec<oneshot::Sender<()>>) {
        if !asking.is_empty() {
            self.asking.extend(asking);
            self.next_at = Instant::now();
        }
    }

    /// The next thing that happens. May be dropped and asked again.
    pub(super) async fn beat(&mut self) -> Beat {
        let Some(sent_at) = self.sent_at else {
            sleep_until(self.next_at).await;
            self.sent_at = Some(Instant::now());
            return if self.ping_pong.send_ping(Ping::opaque()).is_ok() { Beat::Asked } else { Beat::Broken };
        };
        tokio::select! {
            biased;
            answered = poll_fn(|context| self.ping_pong.poll_pong(context)) => {
                if answered.is_err() {
                    return Beat::Broken;
                }
                let now = Instant::now();
                self.sent_at = None;
                self.next_at = now + self.every;
                for asking in self.asking.drain(..) {
                    // Who asked may have given up.
                    let _ = asking.send(()).is_ok();
                }
                Beat::Answered(now.saturating_duration_since(sent_at))
            }
            () = sleep_until(sent_at + self.answer) => Beat::Silent,
        }
    }
}

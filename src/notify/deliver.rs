//! The desk that empties the queues, one task for each webhook.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::rand;
use tokio::sync::{oneshot, watch};
use tokio::task::{JoinSet, yield_now};
use tokio::time::{MissedTickBehavior, interval};

use crate::clock::Clock;
use crate::notify::Target;
use crate::notify::message::body;
use crate::notify::post::{Line, Message};
use crate::notify::schedule::{Attempt, LONGEST, is_over, wait};
use crate::store::Store;
use crate::store::error::StoreError;
use crate::store::queue::{End, QueueState, Queued, Retry};
use crate::store::sqlite;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::notifications::Delivery;

/// How often a queue is looked at. A look at one where nothing waits costs microseconds.
const EVERY: Duration = Duration::from_millis(200);
/// How often it is counted what waits.
const COUNT: Duration = Duration::from_secs(1);

/// What all tasks share.
pub(super) struct Desk {
    state_dir: PathBuf,
    gateway_id: String,
    clock: Clock,
    metrics: Arc<Metrics>,
    opened: Mutex<Opened>,
}

/// The store, as far as it can be used.
#[derive(Default)]
struct Opened {
    store: Option<(Store, FileId)>,
    failing: bool,
}

/// Device and inode: another file may come into the place of the one that we opened.
type FileId = (u64, u64);

impl Desk {
    pub(super) fn new(state_dir: &Path, gateway_id: &str, clock: Clock, metrics: Arc<Metrics>) -> Arc<Self> {
        let (state_dir, gateway_id) = (state_dir.to_owned(), gateway_id.to_owned());
        Arc::new(Self { state_dir, gateway_id, clock, metrics, opened: Mutex::default() })
    }

    /// Tells whoever is to be told, until the other end of `stopped` is gone.
    pub(super) async fn run(
        self: Arc<Self>,
        mut targets: watch::Receiver<Arc<[Arc<Target>]>>,
        mut stopped: oneshot::Receiver<()>,
    ) {
        loop {
            let mut tasks = JoinSet::new();
            let current = Arc::clone(&targets.borrow_and_update());
            for target in current.iter() {
                tasks.spawn(Arc::clone(&self).tell(Arc::clone(target)));
            }
            tasks.spawn(Arc::clone(&self).count());
            tokio::select! {
                biased;
                _ = &mut stopped => break,
                changed = targets.changed() => if changed.is_err() { break },
            }
        }
    }

    /// Tells one webhook what waits for it, in order.
    async fn tell(self: Arc<Self>, target: Arc<Target>) {
        let mut look = interval(EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut failing = false;
        loop {
            look.tick().await;
            let mut line: Line = None;
            while let Some(queued) = self.due(&target.name) {
                let done = if is_over(queued.at, queued.refusals, self.clock.now()) {
                    // Nothing else waits in here: thousands that are too old must not keep the thread.
                    yield_now().await;
                    self.give_up(&target.name, &queued)
                } else {
                    self.attempt(&target, &queued, (&mut line, &mut failing)).await
                };
                // What could not be noted would be done again at once.
                if done.is_none() {
                    break;
                }
            }
        }
    }

    /// The first that waits, when its time has come.
    fn due(&self, webhook: &str) -> Option<Queued> {
        let first = self.with_store(|store| store.first_notification(webhook))??;
        let now = self.clock.now();
        // A wait that no schedule makes is one from before the clock was set back.
        (first.due_at <= now || first.due_at > now.after(LONGEST)).then_some(first)
    }

    /// One attempt. `None` when what came of it could not be noted.
    async fn attempt(&self, target: &Target, queued: &Queued, (line, failing): (&mut Line, &mut bool)) -> Option<()> {
        let name = target.name.as_str();
        let Ok(body) = body(queued, &self.gateway_id) else {
            return self.give_up(name, queued);
        };
        let message = Message { id: &queued.id, seconds: self.clock.now().as_seconds(), body: &body };
        let sent = target.post.send(line, message).await;
        let (came, why) = match sent {
            Ok(status) => (Attempt::of_status(status), format!("it answers {status}")),
            Err(why) => (Attempt::Unavailable, why),
        };
        match came {
            Attempt::Taken => {
                if std::mem::take(failing) {
                    tracing::info!(webhook = name, "the webhook takes notifications again");
                }
                self.metrics.notifications.told(name, Delivery::Delivered);
                self.with_store(|store| store.finish_notification(name, queued.number, End::Delivered))
            }
            Attempt::Refused | Attempt::Unavailable => {
                if !std::mem::replace(failing, true) {
                    tracing::warn!(webhook = name, "notifications wait, the webhook does not take them: {why}");
                }
                self.metrics.notifications.told(name, Delivery::Failed);
                let due_at = self.clock.now().after(wait(queued.failures.saturating_add(1), luck()));
                let retry = Retry { number: queued.number, refused: came == Attempt::Refused, due_at };
                self.with_store(|store| store.postpone_notification(name, retry))
            }
        }
    }

    /// Stops telling something. `None` when that could not be noted.
    fn give_up(&self, name: &str, queued: &Queued) -> Option<()> {
        tracing::warn!(
            webhook = name,
            id = queued.id,
            kind = queued.kind,
            refusals = queued.refusals,
            "a notification is given up"
        );
        self.metrics.notifications.told(name, Delivery::GivenUp);
        self.with_store(|store| store.finish_notification(name, queued.number, End::GivenUp))
    }

    /// Says in metrics and log how full the queues are.
    async fn count(self: Arc<Self>) {
        let mut look = interval(COUNT);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut before: Option<Vec<QueueState>> = None;
        loop {
            look.tick().await;
            let Some(queues) = self.with_store(|store| store.notification_queues()) else { continue };
            let known = |webhook: &str| before.iter().flatten().find(|queue| queue.webhook == webhook);
            for queue in &queues {
                let lost = queue.dropped.saturating_sub(known(&queue.webhook).map_or(0, |before| before.dropped));
                if lost > 0 && before.is_some() {
                    tracing::error!(
                        webhook = queue.webhook,
                        lost,
                        "the queue is full: the oldest notifications are lost"
                    );
                }
            }
            self.metrics.notifications.wait(queues.iter().map(|queue| (&*queue.webhook, queue.waiting, queue.dropped)));
            before = Some(queues);
        }
    }

    /// Does something with the store that is there now. `None` when that fails; whether it does is
    /// logged once.
    fn with_store<T>(&self, act: impl FnOnce(&mut Store) -> Result<T, StoreError>) -> Option<T> {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        let done = opened.store(&self.state_dir).and_then(act);
        match &done {
            Ok(_) if opened.failing => tracing::info!("the queues of notifications can be used again"),
            Err(error) if !opened.failing => {
                tracing::error!(%error, "the queues of notifications cannot be used: webhooks are not told");
            }
            Ok(_) | Err(_) => {}
        }
        opened.failing = done.is_err();
        if opened.failing {
            opened.store = None;
        }
        done.ok()
    }
}

impl Opened {
    fn store(&mut self, state_dir: &Path) -> Result<&mut Store, StoreError> {
        let path = sqlite::path(state_dir);
        let file = fs::metadata(&path).map_err(|source| StoreError::file(&path, source))?;
        let file = (file.dev(), file.ino());
        let store = match self.store.take() {
            Some((store, opened)) if opened == file => store,
            Some(_) | None => Store::open_existing(state_dir)?,
        };
        Ok(&mut self.store.insert((store, file)).0)
    }
}

/// What spreads the waits of many gateways.
fn luck() -> u32 {
    let mut random = [0; 4];
    // Without randomness all waits are long, and nothing else.
    rand::fill(&mut random).map_or(u32::MAX, |()| u32::from_ne_bytes(random))
}

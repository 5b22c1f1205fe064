//! Webhooks are told what has happened: keys and certificates that come and go, reloads.
//!
//! Invariants: what is told was queued in the store in the transaction of the change, whoever made it,
//! and stays there until the webhook has taken it, so nothing is lost and something may come twice,
//! under the same id; each webhook has a queue, an order and a backoff of its own; nothing in here is
//! shared with the questions that webhooks are asked, so neither fails with the other.

mod deliver;
pub mod message;
pub mod post;
pub mod schedule;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use tokio::runtime;
use tokio::sync::{oneshot, watch};

use crate::clock::Clock;
use crate::config::Webhook;
use crate::domain::notification::{Kind, Notification};
use crate::notify::deliver::Desk;
use crate::notify::post::Post;
use crate::store::Store;
use crate::store::error::StoreError;
use crate::store::queue::Subscription;
use crate::telemetry::metrics::Metrics;

/// A webhook that is told something.
#[derive(Debug)]
pub struct Target {
    name: String,
    kinds: Vec<Kind>,
    post: Post,
}

impl Target {
    /// The webhooks that are told something, made ready.
    ///
    /// # Errors
    ///
    /// When the TLS material of one does not fit together.
    pub fn all(webhooks: &[Webhook]) -> Result<Vec<Self>, String> {
        let told = webhooks.iter().filter(|webhook| !webhook.events.is_empty());
        told.map(|webhook| {
            let name = webhook.name.as_str().to_owned();
            let post = Post::new(webhook).map_err(|why| format!("webhook {name}: {why}"))?;
            Ok(Self { name, kinds: webhook.events.clone(), post })
        })
        .collect()
    }
}

/// Tells webhooks, on a thread of its own, until it is dropped.
#[derive(Debug)]
pub struct Notifier {
    state_dir: PathBuf,
    targets: watch::Sender<Arc<[Arc<Target>]>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Notifier {
    /// Begins to tell `targets` what is queued in the store of `state_dir`, which must be there.
    /// `gateway_id` says in each message who tells.
    ///
    /// # Errors
    ///
    /// When the store cannot be written, or no thread be started.
    pub fn start(
        state_dir: &Path,
        gateway_id: &str,
        targets: Vec<Target>,
        clock: Clock,
        metrics: Arc<Metrics>,
    ) -> Result<Self, StoreError> {
        let failed = |source| StoreError::file(state_dir, source);
        subscribe(state_dir, &targets)?;
        let (targets, followed) = watch::channel(shared(targets));
        let (stop, stopped) = oneshot::channel();
        // Its waits are asynchronous; its work on the store blocks, and nothing else is in here.
        let runtime = runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let desk = Desk::new(state_dir, gateway_id, clock, metrics);
        let run = move || {
            runtime.block_on(desk.run(followed, stopped));
            // A name that is being looked up is not waited for.
            runtime.shutdown_background();
        };
        let thread = thread::Builder::new().name("notify".to_owned()).spawn(run).map_err(failed)?;
        Ok(Self { state_dir: state_dir.to_owned(), targets, stop: Some(stop), thread: Some(thread) })
    }

    /// From now on tells these. What waits for one that is not named any more is forgotten.
    ///
    /// # Errors
    ///
    /// When the store cannot be written; all is as before then.
    pub fn follow(&self, targets: Vec<Target>) -> Result<(), StoreError> {
        subscribe(&self.state_dir, &targets)?;
        self.targets.send_replace(shared(targets));
        Ok(())
    }

    /// Queues what is no change of the store. That it could not be queued is logged, and nothing else.
    pub fn tell(&self, notification: &Notification) {
        let queued = Store::open_existing(&self.state_dir).and_then(|mut store| store.notify(notification));
        if let Err(error) = queued {
            tracing::warn!(kind = %notification.kind, "webhooks are not told: {error}");
        }
    }
}

impl Drop for Notifier {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::warn!("the notifier had panicked");
        }
    }
}

fn shared(targets: Vec<Target>) -> Arc<[Arc<Target>]> {
    targets.into_iter().map(Arc::new).collect()
}

fn subscribe(state_dir: &Path, targets: &[Target]) -> Result<(), StoreError> {
    let subscription = |target: &Target| Subscription { webhook: target.name.clone(), kinds: target.kinds.clone() };
    let subscriptions: Vec<_> = targets.iter().map(subscription).collect();
    Store::open_existing(state_dir)?.set_subscriptions(&subscriptions)
}

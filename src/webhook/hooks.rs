//! All webhooks of a config.
//!
//! Invariant: a webhook that a reload leaves as it was keeps its connections and its breaker; what
//! it had decided is forgotten all the same.

use std::sync::{Arc, Mutex, PoisonError};

use rustc_hash::FxHashMap;

use crate::clock::Clock;
use crate::config::Webhook;
use crate::domain::webhook::WebhookName;
use crate::telemetry::metrics::Metrics;
use crate::webhook::hook::{Holder, Hook};
use crate::webhook::runner::Runner;

/// The webhooks, by name.
#[derive(Clone, Default, Debug)]
pub struct Webhooks(Arc<FxHashMap<WebhookName, Arc<Hook>>>);

/// What all webhooks of a process share.
#[derive(Debug)]
pub struct Workshop {
    clock: Clock,
    metrics: Arc<Metrics>,
    /// Started for the first webhook.
    runner: Mutex<Option<Arc<Runner>>>,
}

impl Workshop {
    /// A place to make webhooks in.
    #[must_use]
    pub const fn new(clock: Clock, metrics: Arc<Metrics>) -> Self {
        Self { clock, metrics, runner: Mutex::new(None) }
    }

    /// Makes the webhooks of a config; of `before` those go on that are the same.
    ///
    /// # Errors
    ///
    /// When a server could not be verified, or the thread for them cannot be started.
    pub fn make(&self, config: &[Arc<Webhook>], before: &Webhooks) -> Result<Webhooks, String> {
        let mut hooks = FxHashMap::default();
        for webhook in config {
            let name = &webhook.name;
            let hook = match before.0.get(name).filter(|hook| hook.webhook() == webhook) {
                Some(same) => {
                    same.forget(|_| true);
                    Arc::clone(same)
                }
                None => {
                    let figures = self.metrics.webhooks.of(name.as_str());
                    let hook = Hook::new(webhook, self.runner()?, self.clock.clone(), figures);
                    Arc::new(hook.map_err(|why| format!("webhook {name}: {why}"))?)
                }
            };
            hooks.insert(name.clone(), hook);
        }
        Ok(Webhooks(Arc::new(hooks)))
    }

    fn runner(&self) -> Result<Arc<Runner>, String> {
        let mut runner = self.runner.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(runner) = &*runner {
            return Ok(Arc::clone(runner));
        }
        let started = Runner::start().map_err(|error| format!("the thread for webhooks cannot be started: {error}"))?;
        Ok(Arc::clone(runner.insert(Arc::new(started))))
    }
}

impl Webhooks {
    /// The webhook of this name.
    #[must_use]
    pub fn get(&self, name: &WebhookName) -> Option<&Arc<Hook>> {
        self.0.get(name)
    }

    /// True when there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Forgets what was decided for these holders; gives how many decisions.
    pub fn forget(&self, whose: impl Fn(&Holder) -> bool) -> usize {
        self.0.values().map(|hook| hook.forget(&whose)).sum()
    }
}

//! Keeps the keys of issuers fresh, away from the request path.
//!
//! Invariants: for each place there is one task, so one fetch at a time; a fetch that fails changes
//! nothing but the time that is left; one log line says when an issuer stops answering, and one
//! when it answers again.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::CertificateDer;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::config::{Issuer, KeySource};
use crate::token::desk::Desk;
use crate::token::fetch::Fetcher;
use crate::token::issuers::Issuers;
use crate::token::keys::KeySet;
use crate::token::location::Location;

/// How long after a failure the next attempt is made, at most.
const RETRY: Duration = Duration::from_secs(10);

/// What came of a fetch.
#[derive(Debug)]
pub struct News<'n> {
    /// Name of the first `[[issuer]]` with these keys.
    pub issuer: &'n str,
    /// Where they are.
    pub location: &'n Location,
    /// The keys; `None` when they could not be fetched.
    pub keys: Option<&'n KeySet>,
}

/// Takes what came of a fetch, and puts it in force.
pub type Publish = Arc<dyn Fn(News<'_>) + Send + Sync>;

/// Looks after the keys of all issuers, until it is dropped.
pub struct Refresher {
    publish: Publish,
    tasks: Vec<(Errand, JoinHandle<()>)>,
}

/// One place to fetch keys from, ready to go.
#[derive(Clone, Debug)]
pub struct Errand {
    issuer: Arc<str>,
    location: Location,
    roots: Vec<CertificateDer<'static>>,
    refresh: Duration,
    fetcher: Fetcher,
}

impl Errand {
    /// What must be fetched for these issuers: each place once.
    ///
    /// # Errors
    ///
    /// When a server could not be verified.
    pub fn all(issuers: &[Issuer]) -> Result<Vec<Self>, String> {
        let mut errands: Vec<Self> = Vec::new();
        for issuer in issuers {
            let KeySource::Fetched { location, roots, refresh, .. } = &issuer.keys else { continue };
            let name = &issuer.rules.name;
            if let Some(known) = errands.iter_mut().find(|errand| errand.location == *location) {
                known.refresh = known.refresh.min(*refresh);
                continue;
            }
            let fetcher = Fetcher::new(location.clone(), roots).map_err(|why| format!("issuer {name}: {why}"))?;
            errands.push(Self {
                issuer: Arc::clone(name),
                location: location.clone(),
                roots: roots.clone(),
                refresh: *refresh,
                fetcher,
            });
        }
        Ok(errands)
    }

    fn is(&self, other: &Self) -> bool {
        self.location == other.location && self.roots == other.roots && self.refresh == other.refresh
    }

    async fn run(self, desk: Arc<Desk>, publish: Publish) {
        let mut failing = false;
        loop {
            desk.begins();
            let fetched = self.fetcher.keys().await;
            publish(News { issuer: &self.issuer, location: &self.location, keys: fetched.as_ref().ok() });
            match fetched {
                Ok(keys) => {
                    if failing {
                        tracing::info!(issuer = &*self.issuer, "the issuer's keys can be fetched again");
                    }
                    if keys.is_empty() {
                        tracing::warn!(issuer = &*self.issuer, "the issuer has no key that could verify a token");
                    }
                    failing = false;
                }
                Err(why) => {
                    if !failing {
                        tracing::warn!(
                            issuer = &*self.issuer,
                            "the issuer's keys cannot be fetched, the last ones stay in force for stale_max: {why}"
                        );
                    }
                    failing = true;
                }
            }
            desk.ended();
            let pause = if failing { self.refresh.min(RETRY) } else { self.refresh };
            tokio::select! {
                () = sleep(pause) => {}
                () = desk.asked() => {}
            }
        }
    }
}

impl Refresher {
    /// Looks after nothing yet.
    #[must_use]
    pub const fn new(publish: Publish) -> Self {
        Self { publish, tasks: Vec::new() }
    }

    /// From now on does these errands, for these issuers. Those that were done already go on.
    /// Must be called in a runtime.
    pub fn follow(&mut self, errands: Vec<Errand>, issuers: &Issuers) {
        let (mut going_on, stopping): (Vec<_>, Vec<_>) =
            self.tasks.drain(..).partition(|(known, _)| errands.iter().any(|errand| errand.is(known)));
        stopping.iter().for_each(|(_, task)| task.abort());
        for errand in errands {
            if going_on.iter().any(|(known, _)| known.is(&errand)) {
                continue;
            }
            if let Some(desk) = issuers.desk_of(&errand.location) {
                let task = tokio::spawn(errand.clone().run(desk, Arc::clone(&self.publish)));
                going_on.push((errand, task));
            }
        }
        self.tasks = going_on;
    }
}

impl Drop for Refresher {
    fn drop(&mut self) {
        self.tasks.iter().for_each(|(_, task)| task.abort());
    }
}

impl fmt::Debug for Refresher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Refresher").field("tasks", &self.tasks).finish_non_exhaustive()
    }
}

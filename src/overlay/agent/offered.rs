//! What is served, and what a reload changes about it.
//!
//! Invariant: it is replaced as a whole. A request looks its backend up once and keeps what it found:
//! URL, credential, TLS and limits of one request are of one config.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::backend::Upstream;
use crate::config::SiteBackend;
use crate::overlay::agent::slots::Slots;
use crate::overlay::protocol::Offer;

/// What gateways were told holds for so long after a reload: until they have heard of it, requests
/// come that are due to them.
const GRACE: Duration = Duration::from_secs(10);

/// The backends.
#[derive(Debug)]
pub(super) struct Offered {
    /// In the order of the config.
    pub(super) served: Vec<Arc<Served>>,
    /// What the config has no more, for requests that were on their way: until when.
    gone: Vec<(Arc<Served>, Instant)>,
    /// How long requests may go on when the connector stops.
    pub(super) drain: Duration,
}

/// A backend.
#[derive(Debug)]
pub(super) struct Served {
    /// As it is in the config.
    pub(super) site: SiteBackend,
    pub(super) upstream: Arc<Upstream>,
    pub(super) slots: Slots,
}

/// What a reload has changed.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Changes {
    /// Backends that are new.
    pub added: Vec<String>,
    /// Backends that are gone.
    pub removed: Vec<String>,
    /// Backends of which anything is different.
    pub changed: Vec<String>,
    /// True when gateways have to be told other names or limits: every connection is made anew.
    pub declared_anew: bool,
    /// True when the gateway is elsewhere, or is reached otherwise.
    pub gateway: bool,
}

impl Offered {
    /// What a connector serves from its start.
    pub(super) fn new(backends: Vec<SiteBackend>, drain: Duration) -> Result<Self, String> {
        let nothing = Self { served: Vec::new(), gone: Vec::new(), drain };
        nothing.followed_by(backends, drain, Instant::now())
    }

    /// What is served when the config says `backends` instead. What has not changed stays the same,
    /// with its connections.
    ///
    /// # Errors
    ///
    /// When a backend cannot be used.
    pub(super) fn followed_by(
        &self,
        backends: Vec<SiteBackend>,
        drain: Duration,
        now: Instant,
    ) -> Result<Self, String> {
        let served = backends.into_iter().map(|site| self.next(site, now));
        let served: Vec<Arc<Served>> = served.collect::<Result<_, String>>()?;
        let stays = |name: &str| served.iter().any(|served| served.name() == name);
        let earlier = self.gone.iter().filter(|(_, until)| now < *until).cloned();
        let just = self.served.iter().map(|served| (Arc::clone(served), now + GRACE));
        let gone = earlier.chain(just).filter(|(served, _)| !stays(served.name())).collect();
        Ok(Self { served, gone, drain })
    }

    /// A backend of the next config.
    fn next(&self, site: SiteBackend, now: Instant) -> Result<Arc<Served>, String> {
        let gone = self.gone.iter().rev().map(|(served, _)| served);
        let Some(before) = self.served.iter().chain(gone).find(|served| served.name() == site.backend.name) else {
            let (upstream, slots) = (Arc::new(Upstream::new(&site.backend)?), Slots::new(site.max_concurrent));
            return Ok(Arc::new(Served { site, upstream, slots }));
        };
        if before.site == site {
            return Ok(Arc::clone(before));
        }
        let upstream = if before.site.backend == site.backend {
            Arc::clone(&before.upstream)
        } else {
            Arc::new(Upstream::new(&site.backend)?)
        };
        let slots = if before.site.backend.via == site.backend.via {
            before.slots.with_limit(site.max_concurrent, now + GRACE)
        } else {
            // Another server: it has no requests yet.
            Slots::new(site.max_concurrent)
        };
        Ok(Arc::new(Served { site, upstream, slots }))
    }

    /// The backend of this name.
    pub(super) fn find(&self, name: &str, now: Instant) -> Option<&Arc<Served>> {
        let gone = self.gone.iter().filter(|(_, until)| now < *until).map(|(served, _)| served);
        self.served.iter().chain(gone).find(|served| served.name() == name)
    }

    /// The backend that the config calls so.
    pub(super) fn served_as(&self, name: &str) -> Option<&Arc<Served>> {
        self.served.iter().find(|served| served.name() == name)
    }

    /// What is said of the backends in `register`.
    pub(super) fn offers(&self) -> Vec<Offer> {
        let offer =
            |served: &Arc<Served>| Offer { name: served.name().to_owned(), max_concurrent: served.site.max_concurrent };
        self.served.iter().map(offer).collect()
    }

    /// What is different in `next`.
    pub(super) fn compare(&self, next: &Self) -> Changes {
        let mut changes = Changes::default();
        for served in &next.served {
            let name = served.name().to_owned();
            match self.served_as(served.name()) {
                None => changes.added.push(name),
                Some(before) if before.site != served.site => changes.changed.push(name),
                Some(_) => {}
            }
        }
        let gone = self.served.iter().filter(|before| next.served_as(before.name()).is_none());
        changes.removed = gone.map(|before| before.name().to_owned()).collect();
        let declared = |offered: &Self| {
            let mut offers = offered.offers();
            offers.sort_by(|one, other| one.name.cmp(&other.name));
            offers
        };
        changes.declared_anew = declared(self) != declared(next);
        changes
    }
}

impl Served {
    pub(super) fn name(&self) -> &str {
        &self.upstream.name
    }

    /// True when `other` is asked how it is at the same place and in the same way.
    pub(super) fn is_probed_like(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.upstream, &other.upstream) && self.site.probe == other.site.probe
    }
}

#[cfg(test)]
#[path = "offered_tests.rs"]
mod tests;

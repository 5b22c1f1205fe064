//! Requests in flight, so that a change of what is allowed reaches them too.
//!
//! Invariant: between admission and its last byte a request is in here, and whatever refuses it
//! now ends it: revocation, expiry, a narrowed grant, a reload.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::Context;
use std::time::Duration;

use futures_util::task::AtomicWaker;
use slab::Slab;
use tokio::time::Instant;

use crate::domain::refusal::Refusal;
use crate::domain::timestamp::Timestamp;
use crate::gate::View;
use crate::gate::admit::Facts;
use crate::gate::connection::{Order, Patience};
use crate::gate::revalidate::Revalidation;

/// How long a request that was ended may still be there. Its reply looks at the end only when the
/// caller reads, and one that does not must not keep a backend busy.
const LAST_RESORT: Duration = Duration::from_secs(1);

/// The requests in flight of one worker.
#[derive(Clone, Default, Debug)]
pub struct LiveRequests(Arc<Mutex<Slab<Arc<LiveRequest>>>>);

impl LiveRequests {
    /// Enters an admitted request. It stays until the guard is dropped.
    pub fn enter(&self, facts: Facts, expires_at: Timestamp, entered_at: Instant) -> LiveGuard {
        let request = Arc::new(LiveRequest {
            facts,
            expires_at: Mutex::new(expires_at),
            limit: Mutex::new(None),
            ended: AtomicBool::new(false),
            why: OnceLock::new(),
            ended_at: OnceLock::new(),
            entered_at,
            handed_out: AtomicU64::new(0),
            waker: AtomicWaker::new(),
        });
        let place = self.lock().insert(Arc::clone(&request));
        LiveGuard { place, request, live: self.clone(), revalidation: None }
    }

    /// How many requests are in flight.
    #[must_use]
    pub fn count(&self) -> usize {
        self.lock().len()
    }

    /// Decides all requests again, by the view of now.
    pub fn decide_again(&self, view: &View, now: Timestamp) {
        let requests: Vec<_> = self.lock().iter().map(|(_, request)| Arc::clone(request)).collect();
        for request in requests {
            match request.facts.decide(view, now) {
                Ok(decided) => {
                    *request.expires_at.lock().unwrap_or_else(PoisonError::into_inner) = decided.until;
                    request.end_at_limit(now);
                }
                Err(refusal) => request.end(refusal),
            }
        }
    }

    /// Ends the requests whose time is over.
    pub fn end_expired(&self, view: &View, now: Timestamp) {
        let expired: Vec<_> = self
            .lock()
            .iter()
            .map(|(_, request)| request)
            .inspect(|request| request.end_at_limit(now))
            .filter(|request| now >= *request.expires_at.lock().unwrap_or_else(PoisonError::into_inner))
            .cloned()
            .collect();
        for request in expired {
            if let Err(refusal) = request.facts.decide(view, now) {
                request.end(refusal);
            }
        }
    }

    /// Closes the connections of callers who do not take the end that was made for them, or have
    /// stopped reading.
    pub fn close_stuck(&self, now: Instant, patience: Patience) {
        for (_, request) in self.lock().iter() {
            let unheard = request.ended_at.get().is_some_and(|at| now.saturating_duration_since(*at) >= LAST_RESORT);
            if unheard || request.is_stalled(now, patience.stalled) {
                request.facts.connection().supervised.give(Order::Close);
            }
        }
    }

    /// Ends every request: the drain took too long.
    pub fn end_all(&self, why: &Refusal) {
        for (_, request) in self.lock().iter() {
            request.end(why.clone());
        }
    }

    fn lock(&self) -> MutexGuard<'_, Slab<Arc<LiveRequest>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One request in flight.
#[derive(Debug)]
struct LiveRequest {
    facts: Facts,
    expires_at: Mutex<Timestamp>,
    /// An earlier end that somebody else than the checks wants, and why.
    limit: Mutex<Option<(Timestamp, Refusal)>>,
    ended: AtomicBool,
    why: OnceLock<Refusal>,
    ended_at: OnceLock<Instant>,
    entered_at: Instant,
    /// Milliseconds after `entered_at` (plus one) when a piece of the reply was handed out; 0 when
    /// the caller's side has asked for more since.
    handed_out: AtomicU64,
    waker: AtomicWaker,
}

impl LiveRequest {
    fn is_stalled(&self, now: Instant, limit: Duration) -> bool {
        let handed_out = self.handed_out.load(Ordering::Relaxed);
        handed_out != 0 && Duration::from_millis((self.millis(now) + 1).saturating_sub(handed_out)) >= limit
    }

    fn millis(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.entered_at).as_millis()).unwrap_or(u64::MAX - 1)
    }

    /// Ends the request when its limit has come.
    fn end_at_limit(&self, now: Timestamp) {
        let limit = self.limit.lock().unwrap_or_else(PoisonError::into_inner);
        let why = limit.as_ref().filter(|(at, _)| now >= *at).map(|(_, why)| why.clone());
        drop(limit);
        if let Some(why) = why {
            self.end(why);
        }
    }

    fn limit(&self, at: Timestamp, why: Refusal) {
        let mut limit = self.limit.lock().unwrap_or_else(PoisonError::into_inner);
        if limit.as_ref().is_none_or(|(earlier, _)| at < *earlier) {
            *limit = Some((at, why));
        }
    }

    fn end(&self, refusal: Refusal) {
        // The first reason stands.
        if self.why.set(refusal).is_ok() {
            self.ended_at.get_or_init(Instant::now);
            self.ended.store(true, Ordering::Release);
            self.waker.wake();
        }
    }
}

/// Keeps a request entered. Travels with the response body.
#[derive(Debug)]
pub struct LiveGuard {
    place: usize,
    request: Arc<LiveRequest>,
    live: LiveRequests,
    /// Who asks again about it.
    revalidation: Option<Revalidation>,
}

/// A request in flight, from outside.
#[derive(Clone, Debug)]
pub struct LiveHandle(Arc<LiveRequest>);

impl LiveHandle {
    /// What it is decided by.
    #[must_use]
    pub fn facts(&self) -> &Facts {
        &self.0.facts
    }

    /// Ends the request.
    pub fn end(&self, why: Refusal) {
        self.0.end(why);
    }

    /// Ends the request at this time, if nothing ends it before.
    pub fn limit(&self, at: Timestamp, why: Refusal) {
        self.0.limit(at, why);
    }
}

impl LiveGuard {
    /// What the request is decided by.
    #[must_use]
    pub fn facts(&self) -> &Facts {
        &self.request.facts
    }

    /// The request, for those who watch it.
    #[must_use]
    pub fn handle(&self) -> LiveHandle {
        LiveHandle(Arc::clone(&self.request))
    }

    /// Ends the request at this time, if nothing ends it before.
    pub fn limit(&self, at: Timestamp, why: Refusal) {
        self.request.limit(at, why);
    }

    /// Keeps who asks again about the request, for as long as it lives.
    pub fn revalidated_by(&mut self, revalidation: Revalidation) {
        self.revalidation = Some(revalidation);
    }

    /// Why the request must end now, if it must. Registers to be woken when that changes.
    pub fn poll_ended(&self, context: &Context<'_>) -> Option<&Refusal> {
        self.request.waker.register(context.waker());
        if self.request.ended.load(Ordering::Acquire) { self.request.why.get() } else { None }
    }

    /// Why the request had to end, if it had to.
    #[must_use]
    pub fn why_ended(&self) -> Option<&Refusal> {
        self.request.why.get()
    }

    /// Notes that the caller's side was given a piece of the reply.
    pub fn handed_out(&self, now: Instant) {
        self.request.handed_out.store(self.request.millis(now) + 1, Ordering::Relaxed);
    }

    /// Notes that the caller's side asks for more.
    pub fn asked_for_more(&self) {
        self.request.handed_out.store(0, Ordering::Relaxed);
    }

    /// Waits until the request must end.
    pub async fn ended(&self) -> Refusal {
        std::future::poll_fn(|context| match self.poll_ended(context) {
            Some(refusal) => std::task::Poll::Ready(refusal.clone()),
            None => std::task::Poll::Pending,
        })
        .await
    }
}

impl Drop for LiveGuard {
    fn drop(&mut self) {
        self.live.lock().try_remove(self.place);
    }
}

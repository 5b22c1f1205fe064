//! Requests in flight, so that a change of what is allowed reaches them too.
//!
//! Invariant: between admission and its last byte a request is in here, and whatever refuses it
//! now ends it: revocation, expiry, a narrowed grant, a reload.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::task::Context;
use std::time::Duration;

use futures_util::task::AtomicWaker;
use tokio::time::Instant;

use crate::domain::refusal::Refusal;
use crate::domain::timestamp::Timestamp;
use crate::gate::View;
use crate::gate::admit::Facts;
use crate::gate::connection::Order;

/// How long a request that was ended may take to be over. hyper asks a reply for more, and so lets
/// it end, only when the caller takes what it has; one that takes nothing is disconnected.
const LAST_GASP: Duration = Duration::from_secs(1);

/// The requests in flight of one worker.
#[derive(Clone, Default, Debug)]
pub struct LiveRequests(Arc<Inner>);

#[derive(Default, Debug)]
struct Inner {
    requests: Mutex<HashMap<u64, Arc<LiveRequest>>>,
    /// Those that were ended, and when.
    ended: Mutex<Vec<(Instant, Weak<LiveRequest>)>>,
    next: AtomicU64,
}

impl LiveRequests {
    /// Enters an admitted request. It stays until the guard is dropped.
    pub fn enter(&self, facts: Facts, expires_at: Timestamp) -> LiveGuard {
        let id = self.0.next.fetch_add(1, Ordering::Relaxed);
        let request = Arc::new(LiveRequest {
            facts,
            expires_at: Mutex::new(expires_at),
            ended: AtomicBool::new(false),
            why: OnceLock::new(),
            waker: AtomicWaker::new(),
        });
        self.lock().insert(id, Arc::clone(&request));
        LiveGuard { id, request, live: self.clone() }
    }

    /// How many requests are in flight.
    #[must_use]
    pub fn count(&self) -> usize {
        self.lock().len()
    }

    /// Decides all requests again, by the view of now.
    pub fn decide_again(&self, view: &View, now: Timestamp) {
        let requests: Vec<_> = self.lock().values().cloned().collect();
        for request in requests {
            match request.facts.decide(view, now) {
                Ok(expires_at) => *request.expires_at.lock().unwrap_or_else(PoisonError::into_inner) = expires_at,
                Err(refusal) => self.end(&request, refusal),
            }
        }
    }

    /// Ends the requests whose time is over.
    pub fn end_expired(&self, view: &View, now: Timestamp) {
        let expired: Vec<_> = self
            .lock()
            .values()
            .filter(|request| now >= *request.expires_at.lock().unwrap_or_else(PoisonError::into_inner))
            .cloned()
            .collect();
        for request in expired {
            if let Err(refusal) = request.facts.decide(view, now) {
                self.end(&request, refusal);
            }
        }
    }

    /// Ends every request: the drain took too long.
    pub fn end_all(&self, why: &Refusal) {
        let requests: Vec<_> = self.lock().values().cloned().collect();
        for request in requests {
            self.end(&request, why.clone());
        }
    }

    /// Closes the connections of requests that were ended a while ago and are still not over.
    pub fn disconnect_stuck(&self, now: Instant) {
        self.lock_ended().retain(|(ended_at, request)| {
            let Some(request) = request.upgrade() else { return false };
            let stuck = now.saturating_duration_since(*ended_at) >= LAST_GASP;
            if stuck {
                request.facts.connection().supervised.give(Order::Close);
            }
            !stuck
        });
    }

    fn end(&self, request: &Arc<LiveRequest>, refusal: Refusal) {
        // The first reason stands.
        if request.why.set(refusal).is_ok() {
            request.ended.store(true, Ordering::Release);
            request.waker.wake();
            self.lock_ended().push((Instant::now(), Arc::downgrade(request)));
        }
    }

    fn lock_ended(&self) -> MutexGuard<'_, Vec<(Instant, Weak<LiveRequest>)>> {
        self.0.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Arc<LiveRequest>>> {
        self.0.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One request in flight.
#[derive(Debug)]
struct LiveRequest {
    facts: Facts,
    expires_at: Mutex<Timestamp>,
    ended: AtomicBool,
    why: OnceLock<Refusal>,
    waker: AtomicWaker,
}

/// Keeps a request entered. Travels with the response body.
#[derive(Debug)]
pub struct LiveGuard {
    id: u64,
    request: Arc<LiveRequest>,
    live: LiveRequests,
}

impl LiveGuard {
    /// Why the request must end now, if it must. Registers to be woken when that changes.
    pub fn poll_ended(&self, context: &Context<'_>) -> Option<&Refusal> {
        self.request.waker.register(context.waker());
        if self.request.ended.load(Ordering::Acquire) { self.request.why.get() } else { None }
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
        self.live.lock().remove(&self.id);
    }
}

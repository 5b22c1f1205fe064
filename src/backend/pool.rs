//! Keep-alive connections to backends, one pool for each worker and backend.
//!
//! Invariant: a connection is in the pool only between two complete exchanges. One that was
//! abandoned half-way is closed, so a reply can never meet another request.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use rustc_hash::FxHashMap;
use tokio::time::Instant;

use crate::backend::Upstream;
use crate::backend::connect::connect;
use crate::backend::reply::Fields;
use crate::backend::wire::{Failure, Source, Wire};

/// vLLM's server closes idle connections after 5 s. Whoever keeps one for longer races it, and a
/// lost race is a failed request that must not be repeated.
const IDLE: Duration = Duration::from_secs(4);
/// More idle connections than this to one backend are closed.
const MAX_IDLE: usize = 256;

/// The pools of one worker.
#[derive(Default, Debug)]
pub struct Pools(Mutex<FxHashMap<usize, Arc<Pool>>>);

impl Pools {
    /// The pool of `upstream`.
    pub fn of(&self, upstream: &Arc<Upstream>) -> Arc<Pool> {
        let address = Arc::as_ptr(upstream).addr();
        let mut pools = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // An address is a backend's for as long as the pool's weak reference holds it.
        Arc::clone(pools.entry(address).or_insert_with(|| Pool::new(upstream)))
    }

    /// Closes what was idle for too long, and forgets backends that a reload took away.
    pub fn sweep(&self, now: Instant) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|_, pool| {
            pool.lock().retain_mut(|idle| now.saturating_duration_since(idle.since) < IDLE && !idle.wire.is_stale());
            pool.upstream.strong_count() > 0
        });
    }
}

/// Idle connections to one backend.
#[derive(Debug)]
pub struct Pool {
    upstream: Weak<Upstream>,
    idle: Mutex<Vec<Idle>>,
}

#[derive(Debug)]
struct Idle {
    wire: Wire,
    since: Instant,
}

impl Pool {
    fn new(upstream: &Arc<Upstream>) -> Arc<Self> {
        Arc::new(Self { upstream: Arc::downgrade(upstream), idle: Mutex::default() })
    }

    /// A connection that is ready to take a request: the idle one that was used last, or a new one.
    ///
    /// # Errors
    ///
    /// When a new one is needed and cannot be opened.
    pub async fn lease(self: &Arc<Self>, upstream: &Upstream, now: Instant) -> io::Result<Lease> {
        match self.idle_wire(now) {
            Some(wire) => Ok(Lease { wire, pool: Arc::clone(self), reused: true }),
            None => self.lease_new(upstream).await,
        }
    }

    /// A new connection.
    ///
    /// # Errors
    ///
    /// When it cannot be opened.
    pub async fn lease_new(self: &Arc<Self>, upstream: &Upstream) -> io::Result<Lease> {
        Ok(Lease { wire: Wire::new(connect(upstream).await?), pool: Arc::clone(self), reused: false })
    }

    fn idle_wire(&self, now: Instant) -> Option<Wire> {
        let mut idle = self.lock();
        while let Some(Idle { mut wire, since }) = idle.pop() {
            if now.saturating_duration_since(since) < IDLE && !wire.is_stale() {
                return Some(wire);
            }
        }
        None
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection that is ours until it is given back; dropped, it is closed.
#[derive(Debug)]
pub struct Lease {
    wire: Wire,
    pool: Arc<Pool>,
    reused: bool,
}

impl Lease {
    /// Sends a request and waits for the head of its reply.
    ///
    /// # Errors
    ///
    /// After [`Failure::NothingSent`] the request may be sent again, over a new connection.
    pub async fn exchange(&mut self, request: Vec<Bytes>) -> Result<(StatusCode, Fields), Failure> {
        self.wire.exchange(request).await
    }

    /// The same for a request that is still coming: see [`Wire::exchange_from`].
    ///
    /// # Errors
    ///
    /// After [`Failure::NothingSent`] the request may be sent again as long as nothing was taken
    /// from the source.
    pub async fn exchange_from(
        &mut self,
        begin: Vec<Bytes>,
        source: &mut impl Source,
    ) -> Result<(StatusCode, Fields), Failure> {
        self.wire.exchange_from(begin, source).await
    }

    /// The next data of the reply's body; `None` when it is complete.
    pub fn poll_body(&mut self, context: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        self.wire.poll_body(context)
    }

    /// The connection, to be asked about the exchange.
    #[must_use]
    pub const fn wire(&self) -> &Wire {
        &self.wire
    }

    /// True when the connection has carried other requests before.
    #[must_use]
    pub const fn is_reused(&self) -> bool {
        self.reused
    }

    /// Gives the connection back after an exchange, if it can carry another.
    pub fn give_back(self, now: Instant) {
        if self.wire.is_reusable() {
            let mut idle = self.pool.lock();
            if idle.len() < MAX_IDLE {
                idle.push(Idle { wire: self.wire, since: now });
            }
        }
    }
}

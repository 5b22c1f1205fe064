//! Keep-alive connections to backends, one pool for each worker and backend.
//!
//! Invariant: a connection is in the pool only between two complete exchanges. One that was
//! abandoned half-way is closed, so a reply can never meet another request.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use tokio::time::Instant;

use crate::backend::Upstream;
use crate::backend::connect::{Pieces, connect};

/// vLLM's server closes idle connections after 5 s. Whoever keeps one for longer races it, and a
/// lost race is a failed request that must not be repeated.
const IDLE: Duration = Duration::from_secs(4);
/// More idle connections than this to one backend are closed.
const MAX_IDLE: usize = 256;

/// The pools of one worker.
#[derive(Default, Debug)]
pub struct Pools(Mutex<HashMap<usize, Arc<Pool>>>);

impl Pools {
    /// The pool of `upstream`.
    pub fn of(&self, upstream: &Arc<Upstream>) -> Arc<Pool> {
        let address = Arc::as_ptr(upstream).addr();
        let mut pools = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let pool = pools.entry(address).or_insert_with(|| Pool::new(upstream));
        if pool.upstream.as_ptr() != Arc::as_ptr(upstream) || pool.upstream.strong_count() == 0 {
            *pool = Pool::new(upstream);
        }
        Arc::clone(pool)
    }

    /// Closes what was idle for too long, and forgets backends that a reload took away.
    pub fn sweep(&self, now: Instant) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|_, pool| {
            pool.lock().retain(|idle| now.saturating_duration_since(idle.since) < IDLE && !idle.sender.is_closed());
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
    sender: SendRequest<Pieces>,
    since: Instant,
}

impl Pool {
    fn new(upstream: &Arc<Upstream>) -> Arc<Self> {
        Arc::new(Self { upstream: Arc::downgrade(upstream), idle: Mutex::default() })
    }

    /// A connection that is ready to take a request: an idle one, or a new one.
    ///
    /// # Errors
    ///
    /// When a new one is needed and cannot be opened.
    pub async fn lease(self: &Arc<Self>, upstream: &Upstream) -> io::Result<Lease> {
        if let Some(sender) = self.ready() {
            return Ok(Lease { sender, pool: Arc::clone(self), reused: true });
        }
        self.lease_new(upstream).await
    }

    /// A new connection.
    ///
    /// # Errors
    ///
    /// When it cannot be opened.
    pub async fn lease_new(self: &Arc<Self>, upstream: &Upstream) -> io::Result<Lease> {
        Ok(Lease { sender: connect(upstream).await?, pool: Arc::clone(self), reused: false })
    }

    /// The idle connection that was used last, if it is still good.
    fn ready(&self) -> Option<SendRequest<Pieces>> {
        let now = Instant::now();
        let mut idle = self.lock();
        let mut at = idle.len();
        while let Some(index) = at.checked_sub(1) {
            at = index;
            let candidate = idle.get(index)?;
            if candidate.sender.is_closed() || now.saturating_duration_since(candidate.since) >= IDLE {
                idle.swap_remove(index);
            } else if candidate.sender.is_ready() {
                return Some(idle.swap_remove(index).sender);
            }
            // Neither closed nor ready: its task has not yet noticed that the last exchange is over.
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
    sender: SendRequest<Pieces>,
    pool: Arc<Pool>,
    reused: bool,
}

impl Lease {
    /// Sends a request and waits for the head of its reply.
    ///
    /// # Errors
    ///
    /// [`SendError::NothingSent`] gives the request back: it may be sent again. After any other
    /// error it may have reached the backend.
    pub async fn send(&mut self, request: Request<Pieces>) -> Result<Response<Incoming>, SendError> {
        self.sender.try_send_request(request).await.map_err(|mut error| match error.take_message() {
            Some(request) => SendError::NothingSent(Box::new(request)),
            None => SendError::Broke(error.into_error()),
        })
    }

    /// True when the connection has carried other requests before.
    #[must_use]
    pub const fn is_reused(&self) -> bool {
        self.reused
    }

    /// Gives the connection back after a complete exchange.
    pub fn give_back(self) {
        let mut idle = self.pool.lock();
        if idle.len() < MAX_IDLE && !self.sender.is_closed() {
            idle.push(Idle { sender: self.sender, since: Instant::now() });
        }
    }
}

/// Why no head of a reply came.
#[derive(Debug)]
pub enum SendError {
    /// The connection was closed before the request left.
    NothingSent(Box<Request<Pieces>>),
    /// The connection broke with the request under way.
    Broke(hyper::Error),
}

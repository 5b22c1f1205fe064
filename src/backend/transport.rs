//! The one way to a backend, over whatever it is reached by: a connection of ours, or a tunnel that
//! its connector has dialled.
//!
//! Invariant: the request path sees no difference. What is tried again, what is broken and what is
//! whole means the same over both.

use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, StatusCode};
use tokio::time::Instant;

use crate::backend::pool::{Lease, Pool, Pools};
use crate::backend::reply::Fields;
use crate::backend::{Upstream, wire};
use crate::config::{Backend, Timeouts, Via};
use crate::overlay::hub::stream::{self, Incoming};
use crate::overlay::hub::tunnels::{Seat, Tunnels};

/// Tunnels that a request is given to, one after the other, as long as none has taken it.
const TUNNELS_TRIED: usize = 3;

/// The way to a backend.
#[derive(Debug)]
pub enum Way {
    /// A connection of ours.
    Direct(Arc<Upstream>),
    /// A tunnel of its connector's.
    Tunnel(Remote),
}

/// A backend behind a connector. Where it is, and with which credential, the connector knows.
#[derive(Debug)]
pub struct Remote {
    /// Its name in config, logs and records; and all that its connector is told of it.
    pub name: Arc<str>,
    /// How long to wait for what.
    pub timeouts: Timeouts,
    /// True to tell the backend who is calling.
    pub forward_identity: bool,
}

impl Way {
    /// Makes a config entry ready.
    ///
    /// # Errors
    ///
    /// As [`Upstream::new`].
    pub fn new(backend: &Backend) -> Result<Self, String> {
        match &backend.via {
            Via::Url(_) => Upstream::new(backend).map(|upstream| Self::Direct(Arc::new(upstream))),
            Via::Connector(_) => Ok(Self::Tunnel(Remote {
                name: backend.name.as_str().into(),
                timeouts: backend.timeouts,
                forward_identity: backend.forward_identity,
            })),
        }
    }

    /// The backend's name in config, logs and records.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        match self {
            Self::Direct(upstream) => &upstream.name,
            Self::Tunnel(remote) => &remote.name,
        }
    }

    /// How long to wait for what.
    #[must_use]
    pub fn timeouts(&self) -> Timeouts {
        match self {
            Self::Direct(upstream) => upstream.timeouts,
            Self::Tunnel(remote) => remote.timeouts,
        }
    }

    /// True to tell the backend who is calling.
    #[must_use]
    pub fn forwards_identity(&self) -> bool {
        match self {
            Self::Direct(upstream) => upstream.forward_identity,
            Self::Tunnel(remote) => remote.forward_identity,
        }
    }
}

/// What there is to reach backends with.
#[derive(Clone, Copy, Debug)]
pub struct Transport<'t> {
    /// Connections of ours.
    pub pools: &'t Pools,
    /// Tunnels of connectors.
    pub tunnels: &'t Arc<Tunnels>,
}

/// A way that is ready to take one request.
#[derive(Debug)]
pub enum Ready<'u> {
    /// A connection: takes the request as the text of HTTP/1.
    Wire(Leased<'u>),
    /// A seat on a tunnel: takes head and body.
    Tunnel(Seated<'u>),
}

/// A connection to a backend.
#[derive(Debug)]
pub struct Leased<'u> {
    /// To whom.
    pub upstream: &'u Arc<Upstream>,
    lease: Lease,
    pool: Arc<Pool>,
}

/// A seat on a tunnel to a backend.
#[derive(Debug)]
pub struct Seated<'u> {
    remote: &'u Remote,
    seat: Seat,
    tunnels: Arc<Tunnels>,
}

/// What a reply comes over, after its head.
#[derive(Debug)]
pub enum Passage {
    /// A connection.
    Wire(Lease),
    /// A stream of a tunnel.
    Tunnel(Incoming),
}

/// Why no reply came.
#[derive(Debug)]
pub enum Failure {
    /// The backend has seen nothing: another target may be tried.
    Unreachable(String),
    /// The backend may have seen the request: it is never sent twice.
    Broke(String),
    /// It was waited for, in vain.
    TimedOut,
}

/// A reply's head, and where its body comes from.
pub type Replied = (StatusCode, Fields, Passage);

impl Transport<'_> {
    /// Makes a way ready: an idle connection or a new one, or a seat on a tunnel.
    ///
    /// # Errors
    ///
    /// When the backend cannot be reached; [`Failure::Unreachable`] and no other.
    pub async fn reach<'u>(&self, way: &'u Way, now: Instant) -> Result<Ready<'u>, Failure> {
        match way {
            Way::Direct(upstream) => {
                let pool = self.pools.of(upstream);
                let lease = pool.lease(upstream, now).await.map_err(unreachable)?;
                Ok(Ready::Wire(Leased { upstream, lease, pool }))
            }
            Way::Tunnel(remote) => {
                let seat = self.tunnels.seat(&remote.name, &[], remote.timeouts.connect).await.map_err(unreachable)?;
                Ok(Ready::Tunnel(Seated { remote, seat, tunnels: Arc::clone(self.tunnels) }))
            }
        }
    }
}

impl Leased<'_> {
    /// Sends a request. A connection that the backend had closed meanwhile is exchanged for a new
    /// one, which shows whether the backend is there.
    ///
    /// # Errors
    ///
    /// See [`Failure`].
    pub async fn send(self, request: Vec<Bytes>) -> Result<Replied, Failure> {
        let Self { upstream, mut lease, pool } = self;
        loop {
            match lease.exchange(request.clone()).await {
                Ok((status, fields)) => return Ok((status, fields, Passage::Wire(lease))),
                Err(wire::Failure::NothingSent) if lease.is_reused() => {
                    lease = pool.lease_new(upstream).await.map_err(unreachable)?;
                }
                Err(wire::Failure::NothingSent) => return Err(Failure::Unreachable("closed at once".to_owned())),
                Err(wire::Failure::Broke(why)) => return Err(Failure::Broke(why)),
            }
        }
    }
}

impl Seated<'_> {
    /// Sends a request. What a tunnel that is leaving did not take goes over another.
    ///
    /// # Errors
    ///
    /// See [`Failure`].
    pub async fn send(self, head: Request<()>, body: Vec<Bytes>) -> Result<Replied, Failure> {
        let Self { remote, mut seat, tunnels } = self;
        let stalled = tunnels.pace().stalled;
        let mut tried = Vec::new();
        loop {
            tried.push(seat.tunnel().number);
            match stream::exchange(seat, head.clone(), body.clone(), stalled).await {
                Ok((head, incoming)) => {
                    return Ok((head.status, Fields::of(&head.headers), Passage::Tunnel(incoming)));
                }
                Err(stream::Failure::NotTaken(_)) if tried.len() < TUNNELS_TRIED => {}
                Err(failed @ (stream::Failure::NotTaken(_) | stream::Failure::ConnectFailed)) => {
                    return Err(unreachable(failed));
                }
                Err(stream::Failure::Broke(why)) => return Err(Failure::Broke(why)),
                Err(stream::Failure::TimedOut) => return Err(Failure::TimedOut),
            }
            seat = tunnels.seat(&remote.name, &tried, remote.timeouts.connect).await.map_err(unreachable)?;
        }
    }
}

fn unreachable(why: impl std::fmt::Display) -> Failure {
    Failure::Unreachable(why.to_string())
}

impl Passage {
    /// The next data of the reply's body; `None` when it is complete.
    pub fn poll_body(&mut self, context: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        match self {
            Self::Wire(lease) => lease.poll_body(context),
            Self::Tunnel(incoming) => incoming.poll_body(context),
        }
    }

    /// True when the reply's body is read to its end.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        match self {
            Self::Wire(lease) => lease.wire().is_complete(),
            Self::Tunnel(incoming) => incoming.is_complete(),
        }
    }

    /// How long the rest of the reply's body is, when that is known.
    #[must_use]
    pub const fn length(&self) -> Option<u64> {
        match self {
            Self::Wire(lease) => lease.wire().length(),
            Self::Tunnel(incoming) => incoming.length(),
        }
    }

    /// True when the reply ends with the backend's connection, so that a truncated one looks whole.
    #[must_use]
    pub fn ends_with_connection(&self) -> bool {
        match self {
            Self::Wire(lease) => lease.wire().ends_with_connection(),
            Self::Tunnel(incoming) => incoming.ends_with_connection(),
        }
    }

    /// The exchange is over: what can carry another is kept.
    pub fn give_back(self, now: Instant) {
        match self {
            Self::Wire(lease) => lease.give_back(now),
            // Its stream is over; the seat was given back with it.
            Self::Tunnel(_) => {}
        }
    }
}

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

use crate::backend::pool::{Lease, Pools};
use crate::backend::reply::Fields;
use crate::backend::{Direct, Upstream, Way, wire};
use crate::overlay::hub::stream::{self, Incoming};
use crate::overlay::hub::tunnels::{Seat, Tunnels};

/// How often a request that a tunnel did not take is given to another.
const TUNNELS_TRIED: u32 = 3;

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
    Wire(Lease, &'u Direct),
    /// A seat on a tunnel: takes head and body.
    Tunnel(Seat),
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
    pub async fn reach<'u>(&self, upstream: &'u Arc<Upstream>, now: Instant) -> Result<Ready<'u>, Failure> {
        let patience = upstream.timeouts.connect;
        match &upstream.way {
            Way::Direct(direct) => match self.pools.of(upstream).lease(direct, patience, now).await {
                Ok(lease) => Ok(Ready::Wire(lease, direct)),
                Err(error) => Err(Failure::Unreachable(error.to_string())),
            },
            Way::Tunnel => match self.tunnels.seat(&upstream.name, patience).await {
                Ok(seat) => Ok(Ready::Tunnel(seat)),
                Err(none) => Err(Failure::Unreachable(none.to_string())),
            },
        }
    }

    /// Sends a request over a connection.
    ///
    /// # Errors
    ///
    /// See [`Failure`].
    pub async fn over_wire(
        &self,
        (mut lease, direct): (Lease, &Direct),
        upstream: &Upstream,
        request: Vec<Bytes>,
    ) -> Result<Replied, Failure> {
        match lease.exchange((direct, upstream.timeouts.connect), request).await {
            Ok((status, fields)) => Ok((status, fields, Passage::Wire(lease))),
            Err(wire::Failure::NothingSent(why)) => Err(Failure::Unreachable(why)),
            Err(wire::Failure::Broke(why)) => Err(Failure::Broke(why)),
        }
    }

    /// Sends a request over a tunnel. What a tunnel that is leaving did not take goes over another.
    ///
    /// # Errors
    ///
    /// See [`Failure`].
    pub async fn over_tunnel(
        &self,
        mut seat: Seat,
        upstream: &Upstream,
        (head, body): (Request<()>, Vec<Bytes>),
    ) -> Result<Replied, Failure> {
        let stalled = self.tunnels.pace().stalled;
        let mut tried = 1;
        loop {
            match stream::exchange(seat, head.clone(), body.clone(), stalled).await {
                Ok((head, incoming)) => {
                    return Ok((head.status, Fields::of(&head.headers), Passage::Tunnel(incoming)));
                }
                Err(stream::Failure::NotTaken(why)) if tried == TUNNELS_TRIED => return Err(Failure::Unreachable(why)),
                Err(stream::Failure::NotTaken(_)) => tried += 1,
                Err(failed @ stream::Failure::ConnectFailed) => return Err(Failure::Unreachable(failed.to_string())),
                Err(stream::Failure::Broke(why)) => return Err(Failure::Broke(why)),
                Err(stream::Failure::TimedOut) => return Err(Failure::TimedOut),
            }
            let another = self.tunnels.seat(&upstream.name, upstream.timeouts.connect).await;
            seat = another.map_err(|none| Failure::Unreachable(none.to_string()))?;
        }
    }
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

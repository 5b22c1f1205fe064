//! Where a connection comes from, and its place among the open ones.
//!
//! Invariant: every socket counts against `max_connections` before its first byte is read, and
//! every address against its own bound before TLS begins. An address that a PROXY header names is
//! believed of the configured proxies alone; of those nothing else is taken, so that a way around
//! the proxy ends at a closed connection and not at the proxy's own address.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::TcpStream;

use crate::domain::network::block_of;
use crate::domain::proxy_header::{Announced, Fault, ProxyHeader};
use crate::gate::worker::Worker;
use crate::telemetry::metrics::HandshakeFailure;

/// How much of a header is read at a time.
const PIECE: usize = 256;

/// Bounds on connections, shared by all workers.
#[derive(Debug)]
pub struct Admission {
    limit: u32,
    limit_per_address: u32,
    open: AtomicU32,
    by_address: Mutex<HashMap<IpAddr, u32>>,
}

impl Admission {
    /// At most `limit` connections, and `limit_per_address` from one address (IPv6: one /64).
    #[must_use]
    pub fn new(limit: u32, limit_per_address: u32) -> Self {
        Self { limit, limit_per_address, open: AtomicU32::new(0), by_address: Mutex::default() }
    }

    /// A place among all connections.
    /// A place for `address` at once, if there is one.
    pub fn enter_from(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        self.enter()?.count_for(address)
    }

    fn enter(self: &Arc<Self>) -> Option<Place> {
        if self.open.fetch_add(1, Ordering::Relaxed) >= self.limit {
            self.open.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        Some(Place { admission: Arc::clone(self), counted_for: None })
    }
}

/// A place among the open connections, given back when it is dropped.
#[derive(Debug)]
pub struct Place {
    admission: Arc<Admission>,
    /// The address that it counts for as well.
    counted_for: Option<IpAddr>,
}

impl Place {
    /// Counts the connection for `address` too; `None` when that has as many as it may.
    fn count_for(mut self, address: IpAddr) -> Option<Self> {
        let address = block_of(address);
        {
            let mut by_address = self.admission.by_address.lock().unwrap_or_else(PoisonError::into_inner);
            let count = by_address.entry(address).or_insert(0);
            if *count >= self.admission.limit_per_address {
                return None;
            }
            *count += 1;
        }
        self.counted_for = Some(address);
        Some(self)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.admission.open.fetch_sub(1, Ordering::Relaxed);
        let Some(address) = self.counted_for else { return };
        let mut by_address = self.admission.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = by_address.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                by_address.remove(&address);
            }
        }
    }
}

/// An accepted socket that has a place. Behind a proxy its caller is not known yet.
#[derive(Debug)]
pub struct Arrival {
    /// The other end of the socket; never IPv4 in IPv6 clothes.
    peer: IpAddr,
    place: Place,
    behind_proxy: bool,
}

/// Where a connection comes from.
#[derive(Debug)]
pub struct Source {
    /// The caller's address; never IPv4 in IPv6 clothes.
    pub address: IpAddr,
    /// What the caller connected to: our socket, or the proxy's.
    pub local: SocketAddr,
    /// True for a proxy that looks whether we are there: it may leave as it likes.
    pub is_probe: bool,
    /// To be kept for as long as the connection is open.
    pub place: Place,
}

impl Arrival {
    /// Takes in a socket that was accepted from `peer`. `None` when it is to be closed at once,
    /// which is counted.
    pub fn admit(worker: &Worker, admission: &Arc<Admission>, peer: IpAddr) -> Option<Self> {
        let metrics = &worker.gateway.metrics;
        let peer = peer.to_canonical();
        let view = worker.gateway.view();
        let proxies = view.settings.config.listen.proxies.as_ref();
        if proxies.is_some_and(|proxies| !proxies.admit(peer)) {
            metrics.handshake_failed(HandshakeFailure::UntrustedProxy);
            return None;
        }
        let behind_proxy = proxies.is_some();
        let place = admission.enter();
        // Behind a proxy the peer is the proxy: all callers' connections would count for it.
        let place = if behind_proxy { place } else { place.and_then(|place| place.count_for(peer)) };
        if place.is_none() {
            metrics.connection_turned_away();
        }
        place.map(|place| Self { peer, place, behind_proxy })
    }

    /// Finds out where the connection comes from; behind a proxy, from the header that comes first.
    /// `None` when there is nothing to serve and nothing to say: a check of the proxy's that sends
    /// nothing, or an address with too many connections, which is counted.
    ///
    /// # Errors
    ///
    /// When the header is not one, or the peer leaves in its middle.
    pub async fn source(self, worker: &Worker, socket: &mut TcpStream) -> Result<Option<Source>, HandshakeFailure> {
        let Self { peer, place, behind_proxy } = self;
        let local = socket.local_addr().map_err(|_| HandshakeFailure::PeerLeft)?;
        if !behind_proxy {
            return Ok(Some(Source { address: peer, local, is_probe: false, place }));
        }
        let (address, local, is_probe) = match announced(socket).await {
            Ok(Some(Announced::Caller { address, reached })) => (address, reached, false),
            Ok(Some(Announced::Probe)) => (peer, local, true),
            Ok(None) => return Ok(None),
            Err(Broken::PeerLeft) => return Err(HandshakeFailure::PeerLeft),
            Err(Broken::Header(fault)) => {
                tracing::debug!(proxy = %peer, %fault, "refused a PROXY header");
                return Err(HandshakeFailure::ProxyHeader);
            }
        };
        let Some(place) = place.count_for(address) else {
            worker.gateway.metrics.connection_turned_away();
            return Ok(None);
        };
        Ok(Some(Source { address, local, is_probe, place }))
    }
}

/// Why no header could be read.
#[derive(Debug)]
enum Broken {
    PeerLeft,
    Header(Fault),
}

/// Reads a header, and not a byte of what follows. `None` when the peer leaves without a word.
async fn announced(socket: &mut (impl AsyncRead + Unpin)) -> Result<Option<Announced>, Broken> {
    let mut header = ProxyHeader::default();
    let mut piece = [0; PIECE];
    loop {
        let wanted = header.missing().min(PIECE);
        let room = piece.get_mut(..wanted).unwrap_or_default();
        let read = match socket.read(room).await {
            Ok(0) | Err(_) if header.is_untouched() => return Ok(None),
            Ok(0) | Err(_) => return Err(Broken::PeerLeft),
            Ok(read) => read,
        };
        let announced = header.take(room.get(..read).unwrap_or_default()).map_err(Broken::Header)?;
        if announced.is_some() {
            return Ok(announced);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    fn enter(admission: &Arc<Admission>, address: &str) -> Option<Place> {
        admission.enter()?.count_for(address.parse().unwrap())
    }

    #[test]
    fn connections_are_bounded_in_all_and_by_address() {
        let admission = Arc::new(Admission::new(3, 2));
        let first = enter(&admission, "fd00::1").unwrap();
        let second = enter(&admission, "fd00::2").unwrap();
        assert!(enter(&admission, "fd00::1").is_none(), "one /64 is one address");
        let third = enter(&admission, "10.0.0.1").unwrap();
        assert!(enter(&admission, "10.0.0.1").is_none(), "three in all");
        drop((first, second));
        assert!(enter(&admission, "fd00::1").is_some());
        drop(third);
        assert_eq!(admission.open.load(Ordering::Relaxed), 0);
        assert!(admission.by_address.lock().unwrap().is_empty());
    }

    /// A connection whose caller is not known yet has its place among all, and none for an address.
    #[test]
    fn who_has_not_said_a_word_counts() {
        let admission = Arc::new(Admission::new(1, 1));
        let silent = admission.enter().unwrap();
        assert!(admission.enter().is_none());
        assert!(admission.by_address.lock().unwrap().is_empty());
        let known = silent.count_for("10.0.0.1".parse().unwrap()).unwrap();
        assert!(admission.enter().is_none());
        drop(known);
        assert!(admission.enter().is_some());
    }

    /// What follows the header stays in the socket, however the bytes come.
    #[tokio::test]
    async fn not_a_byte_too_many_is_read() {
        for piece in [1, 5, 16, 28, 1000] {
            let head = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x01\x5c\xc0\x00\x02\x07\xc6\x33\x64\x01\x9c\x40\x01\xbb";
            let bytes = [&head[..], &[7; 336], b"TLS"].concat();
            let (mut proxy, mut here) = tokio::io::duplex(piece);
            let sending = tokio::spawn(async move { proxy.write_all(&bytes).await.unwrap() });
            let found = announced(&mut here).await.unwrap();
            let expected = Announced::Caller {
                address: "192.0.2.7".parse().unwrap(),
                reached: "198.51.100.1:443".parse().unwrap(),
            };
            assert_eq!(found, Some(expected));
            let mut rest = Vec::new();
            here.read_to_end(&mut rest).await.unwrap();
            assert_eq!(rest, b"TLS");
            sending.await.unwrap();
        }
    }
}

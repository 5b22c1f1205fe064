//! One accepted connection: what is known of its peer, and the hand that can end it.
//!
//! Invariant: nothing in here is told by the caller's requests. Address, names and certificate come
//! from the socket (or the PROXY header of a trusted proxy) and the TLS session only.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use rustls_pki_types::CertificateDer;
use tokio::time::Instant;

use crate::domain::owner::OwnerPath;
use crate::gate::Settings;
use crate::tls::peer::PeerCertificate;

/// What is known of a peer before it has said a word of HTTP.
#[derive(Debug)]
pub struct Connection {
    /// Where it comes from; never IPv4 in IPv6 clothes.
    pub address: IpAddr,
    /// The same as text, for its records.
    pub address_text: Box<str>,
    /// The address that it reached us at; behind a proxy, the proxy's.
    pub local: SocketAddr,
    /// The server name that it asked for, lower-case.
    pub sni: Option<Box<str>>,
    /// The version of TLS.
    pub tls: &'static str,
    /// The negotiated key exchange group.
    pub key_exchange: Box<str>,
    /// Its certificate chain, leaf first; empty when it presented none.
    pub chain: Vec<CertificateDer<'static>>,
    /// What the chain says under one generation of settings.
    identified: Mutex<Identified>,
    /// The hand that can end the connection.
    pub supervised: Arc<Supervised>,
}

#[derive(Default, Debug)]
struct Identified {
    /// 0: nobody has asked yet.
    generation: u64,
    caller: Option<Arc<Identity>>,
}

/// Who a certificate says its holder is, and where that is on the owner tree.
#[derive(Debug)]
pub struct Identity {
    /// What the certificate says.
    pub peer: Arc<PeerCertificate>,
    /// Where `[[identity]]` places it.
    pub owner: Option<OwnerPath>,
}

impl Connection {
    /// Gathers what the TLS session proved.
    pub fn new(peer: Peer, supervised: Arc<Supervised>) -> Self {
        Self {
            address: peer.address,
            address_text: peer.address.to_string().into(),
            local: peer.local,
            sni: peer.sni,
            tls: peer.tls,
            key_exchange: peer.key_exchange,
            chain: peer.chain,
            identified: Mutex::default(),
            supervised,
        }
    }

    /// Who the certificate says the caller is, by the authorities and `[[identity]]` entries in
    /// force now: worked out once, and again after each reload. A reload that drops an authority
    /// takes its callers' identities from open connections too.
    pub fn identity(&self, settings: &Settings) -> Option<Arc<Identity>> {
        if self.chain.is_empty() {
            return None;
        }
        let mut identified = self.identified.lock().unwrap_or_else(PoisonError::into_inner);
        if identified.generation != settings.generation {
            let caller = settings.verifier.identify(&self.chain).map(|peer| {
                let owner = settings.owner_of(&peer.identity);
                Arc::new(Identity { peer, owner })
            });
            *identified = Identified { generation: settings.generation, caller };
        }
        identified.caller.clone()
    }
}

/// The parts of a [`Connection`] that the handshake yields.
#[derive(Debug)]
pub struct Peer {
    /// See [`Connection::address`].
    pub address: IpAddr,
    /// See [`Connection::local`].
    pub local: SocketAddr,
    /// See [`Connection::sni`].
    pub sni: Option<Box<str>>,
    /// See [`Connection::tls`].
    pub tls: &'static str,
    /// See [`Connection::key_exchange`].
    pub key_exchange: Box<str>,
    /// See [`Connection::chain`].
    pub chain: Vec<CertificateDer<'static>>,
}

/// How long a connection may do what.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// From the first byte of a request's head to its last.
    pub head: Duration,
    /// Without any request.
    pub idle: Duration,
    /// With a piece of a reply that the peer does not take: its backend works for nobody then.
    pub stalled: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { head: Duration::from_secs(10), idle: Duration::from_secs(60), stalled: Duration::from_secs(60) }
    }
}

/// What a connection is told to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Order {
    /// Go on.
    Serve = 0,
    /// Take no further request, finish those in flight, close.
    Drain = 1,
    /// Close at once.
    Close = 2,
}

/// Shared between a connection's task, its requests, and the worker's sweeper: timers without a
/// timer for each connection.
#[derive(Debug)]
pub struct Supervised {
    opened: Instant,
    max_age: Duration,
    order: AtomicU8,
    waker: AtomicWaker,
    in_flight: AtomicU32,
    /// Milliseconds after `opened` of the last sign of life: bytes on HTTP/1.1; on HTTP/2, where
    /// answers to pings keep coming, requests only.
    active_at: AtomicU64,
    /// Milliseconds after `opened` (plus one) of the first byte of an unfinished head; 0: none.
    head_since: AtomicU64,
    /// False on HTTP/2, where bytes without a request in flight are not always a head.
    watch_head: bool,
}

impl Supervised {
    /// A connection opened now. After `max_age` it is drained.
    #[must_use]
    pub fn new(max_age: Duration, watch_head: bool) -> Self {
        Self {
            opened: Instant::now(),
            max_age,
            order: AtomicU8::new(Order::Serve as u8),
            waker: AtomicWaker::new(),
            in_flight: AtomicU32::new(0),
            active_at: AtomicU64::new(0),
            head_since: AtomicU64::new(0),
            watch_head,
        }
    }

    /// Bytes came in. On HTTP/2 that is no sign of use: a peer that has nothing to ask answers PINGs.
    pub fn read_some(&self) {
        if !self.watch_head {
            return;
        }
        let now = self.elapsed(Instant::now());
        self.active_at.store(now, Ordering::Relaxed);
        if self.in_flight.load(Ordering::Relaxed) == 0 && self.head_since.load(Ordering::Relaxed) == 0 {
            self.head_since.store(now + 1, Ordering::Relaxed);
        }
    }

    /// A request's head is complete. Until the returned guard is dropped, the connection is busy.
    #[must_use]
    pub fn request_begins(self: &Arc<Self>) -> InFlight {
        self.head_since.store(0, Ordering::Relaxed);
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight { supervised: Arc::clone(self), ended_at: None }
    }

    /// Gives an order; the stricter of two stands.
    pub fn give(&self, order: Order) {
        if self.order.fetch_max(order as u8, Ordering::AcqRel) < order as u8 {
            self.waker.wake();
        }
    }

    /// The order that stands. Registers to be woken when it changes.
    pub fn poll_order(&self, context: &Context<'_>) -> Order {
        self.waker.register(context.waker());
        match self.order.load(Ordering::Acquire) {
            0 => Order::Serve,
            1 => Order::Drain,
            _ => Order::Close,
        }
    }

    /// Looks at the clock and gives the order that is due.
    pub fn sweep(&self, now: Instant, patience: Patience) {
        let at = self.elapsed(now);
        let past = |since: u64, limit: Duration| Duration::from_millis(at.saturating_sub(since)) >= limit;
        let head = self.head_since.load(Ordering::Relaxed);
        if self.in_flight.load(Ordering::Relaxed) == 0 {
            if head != 0 && past(head - 1, patience.head) {
                return self.give(Order::Close);
            }
            if past(self.active_at.load(Ordering::Relaxed), patience.idle) {
                // A peer that does not even answer a GOAWAY is not waited for a second time.
                let drained = past(self.active_at.load(Ordering::Relaxed), patience.idle * 2);
                self.give(if drained || self.watch_head { Order::Close } else { Order::Drain });
            }
        }
        if past(0, self.max_age) {
            self.give(Order::Drain);
        }
    }

    fn elapsed(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.opened).as_millis()).unwrap_or(u64::MAX)
    }
}

/// Marks a request in flight on its connection.
#[derive(Debug)]
pub struct InFlight {
    supervised: Arc<Supervised>,
    ended_at: Option<Instant>,
}

impl InFlight {
    /// Spares a look at the clock to whoever has looked already.
    pub const fn ends_at(&mut self, now: Instant) {
        self.ended_at = Some(now);
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let now = self.ended_at.unwrap_or_else(Instant::now);
        self.supervised.active_at.store(self.supervised.elapsed(now), Ordering::Relaxed);
        self.supervised.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Drives a hyper connection under orders.
pub async fn drive<C: Drivable + Unpin>(mut connection: C, supervised: &Supervised) {
    let mut draining = false;
    std::future::poll_fn(|context| {
        match supervised.poll_order(context) {
            Order::Serve => {}
            Order::Drain if draining => {}
            Order::Drain => {
                draining = true;
                connection.drain();
            }
            Order::Close => return Poll::Ready(()),
        }
        connection.poll(context)
    })
    .await;
}

/// What HTTP/1.1 and HTTP/2 connections have in common here.
pub trait Drivable {
    /// Takes no further request.
    fn drain(&mut self);
    /// Drives the connection; ready when it is over, well or not.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()>;
}

//! One tunnel: what is known of it, and the hand that can end it.
//!
//! Invariant: once it is cut nothing goes over it any more, and no reply that was under
//! way ends as if it were whole.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use rustls_pki_types::CertificateDer;
use slab::Slab;
use tokio::sync::{Notify, oneshot};

use crate::domain::identity::{Identity, Role};
use crate::domain::timestamp::Timestamp;
use crate::overlay::hub::entry::Link;
use crate::overlay::hub::mailbox::Mailbox;
use crate::overlay::hub::places::Places;
use crate::overlay::protocol::{Offer, Register, State, Word};
use crate::telemetry::tunnels::OneTunnel;
use crate::tls::peer::PeerCertificate;

/// A tunnel whose connector has registered.
#[derive(Debug)]
pub struct Tunnel {
    /// Tells it from every other of this process.
    pub number: u64,
    /// Whose it is.
    pub holder: Holder,
    /// Which process dialled, and which of its links this is.
    pub instance: Box<str>,
    /// See [`Register::conn_index`].
    pub index: u32,
    /// The version of the connector.
    pub version: Box<str>,
    /// Since when it is registered.
    pub since: Timestamp,
    /// Requests that it carries at once.
    pub places: Places,
    /// What is counted of it.
    pub counted: OneTunnel,
    offers: Vec<Arc<OpenOffer>>,
    requests: Mutex<Option<SendRequest<Bytes>>>,
    streams: Mutex<Slab<Arc<Mailbox>>>,
    leaving: AtomicBool,
    closed: AtomicBool,
    rtt_micros: AtomicU64,
    orders: Mutex<Orders>,
    ordered: Notify,
    /// The generation of the view that it was judged by last; 0: none.
    pub(super) judged: AtomicU64,
}

/// Who has dialled.
#[derive(Clone, Debug)]
pub struct Holder {
    /// The name in the certificate.
    pub name: Arc<str>,
    /// The certificate, as it was verified.
    pub peer: Arc<PeerCertificate>,
    /// The chain as it was presented, to be verified again after a reload.
    pub chain: Arc<[CertificateDer<'static>]>,
    /// Where it comes from.
    pub address: IpAddr,
}

/// The name of a connector; `None` for every other identity.
#[must_use]
pub fn connector_name(identity: &Identity) -> Option<&str> {
    match identity.role() {
        Role::Connector => identity.path().strip_prefix("/connector/"),
        Role::Client | Role::Operator => None,
    }
}

/// A backend that a process offers, over all its links.
#[derive(Debug)]
pub struct OpenOffer {
    /// Its name.
    pub name: Box<str>,
    /// Requests that it takes at once.
    pub places: Places,
    health: AtomicU8,
}

impl OpenOffer {
    /// As it was registered; taken to be up until something else is said. `before` is what the same
    /// process has offered under this name: its requests count.
    #[must_use]
    pub fn new(offer: &Offer, before: Option<&Self>) -> Self {
        let limit = offer.max_concurrent;
        let places = before.map_or_else(|| Places::new(limit), |before| before.places.with_limit(limit));
        Self { name: offer.name.as_str().into(), places, health: AtomicU8::new(State::Up as u8) }
    }

    /// How it is.
    #[must_use]
    pub fn health(&self) -> State {
        match self.health.load(Ordering::Relaxed) {
            0 => State::Up,
            1 => State::Down,
            _ => State::Draining,
        }
    }
}

/// Why a tunnel ended: the label of a metric, and a word in the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// The connector closed it, or the network did.
    Lost,
    /// PINGs were not answered.
    Silent,
    /// It was drained, at whoever's wish.
    Drained,
    /// An operator ended it.
    Kicked,
    /// The same process has dialled it anew, or another has taken the place of a dead one.
    Replaced,
    /// The certificate was revoked, or is not trusted any more.
    Revoked,
    /// The certificate has ended.
    Expired,
    /// What came was not the protocol.
    Protocol,
}

impl End {
    /// Every reason.
    pub const ALL: [Self; 8] = [
        Self::Lost,
        Self::Silent,
        Self::Drained,
        Self::Kicked,
        Self::Replaced,
        Self::Revoked,
        Self::Expired,
        Self::Protocol,
    ];

    /// The word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Lost => "lost",
            Self::Silent => "silent",
            Self::Drained => "drained",
            Self::Kicked => "kicked",
            Self::Replaced => "replaced",
            Self::Revoked => "revoked",
            Self::Expired => "expired",
            Self::Protocol => "protocol",
        }
    }
}

/// What the task of a tunnel is asked to do.
#[derive(Default, Debug)]
pub(super) struct Orders {
    /// End now.
    pub(super) close: Option<End>,
    /// Let requests under way finish within this span, then end.
    pub(super) drain: Option<(&'static str, Duration)>,
    /// The last request is over: what is drained may end.
    pub(super) finish: bool,
    /// Who wants to know whether the other end is alive.
    pub(super) probes: Vec<oneshot::Sender<()>>,
    /// Names are accepted anew.
    pub(super) renamed: bool,
}

impl Tunnel {
    /// A tunnel whose connector has said `register`.
    #[must_use]
    pub(super) fn new(number: u64, holder: Holder, register: &Register, parts: Parts) -> Self {
        let Parts { requests, offers, limit, since, counted } = parts;
        Self {
            number,
            holder,
            instance: register.instance_id.as_str().into(),
            index: register.conn_index,
            version: register.version.as_str().into(),
            since,
            places: Places::new(limit),
            counted,
            offers,
            requests: Mutex::new(Some(requests)),
            streams: Mutex::default(),
            leaving: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            rtt_micros: AtomicU64::new(0),
            orders: Mutex::default(),
            ordered: Notify::new(),
            judged: AtomicU64::new(0),
        }
    }

    /// What the clone rule sees.
    #[must_use]
    pub fn link(&self) -> Link<'_> {
        Link { instance: &self.instance, index: self.index }
    }

    /// What its connector offers, accepted or not.
    #[must_use]
    pub fn offers(&self) -> &[Arc<OpenOffer>] {
        &self.offers
    }

    /// How many requests are under way.
    #[must_use]
    pub fn streams(&self) -> usize {
        self.lock_streams().len()
    }

    /// The last round trip; `None` before the first PING was answered.
    #[must_use]
    pub fn rtt(&self) -> Option<Duration> {
        match self.rtt_micros.load(Ordering::Relaxed) {
            0 => None,
            micros => Some(Duration::from_micros(micros)),
        }
    }

    /// Notes a round trip.
    pub(super) fn answered_in(&self, span: Duration) {
        let micros = u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
        self.rtt_micros.store(micros.max(1), Ordering::Relaxed);
        self.counted.round_trip(span);
    }

    /// Notes what its connector says of a backend; nothing, of one that it does not offer.
    pub(super) fn set_health(&self, backend: &str, state: State) {
        if let Some(offer) = self.offers.iter().find(|offer| *offer.name == *backend) {
            offer.health.store(state as u8, Ordering::Relaxed);
        }
    }

    /// True when new requests may go over it.
    #[must_use]
    pub fn takes_requests(&self) -> bool {
        !self.leaving.load(Ordering::Acquire) && !self.closed.load(Ordering::Acquire)
    }

    /// True when it is open and takes no new requests.
    #[must_use]
    pub fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Acquire)
    }

    /// From now on no new request goes over it.
    pub(super) fn leaves(&self) {
        self.leaving.store(true, Ordering::Release);
    }

    /// What requests are sent with; `None` once it is closed.
    pub(super) fn sender(&self) -> Option<SendRequest<Bytes>> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Lets go of the sender. When the last request is over, the connection says GOAWAY and ends.
    pub(super) fn hang_up(&self) {
        self.leaves();
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Ends every request under way, as broken: nothing goes over it any more.
    pub(super) fn cut(&self, why: &str) {
        self.closed.store(true, Ordering::Release);
        self.hang_up();
        let streams: Vec<_> = self.lock_streams().iter().map(|(_, mailbox)| Arc::clone(mailbox)).collect();
        for mailbox in streams {
            mailbox.cut(why);
        }
    }

    /// Enters a request, and gives its place. `None` when the tunnel was cut: whoever came after
    /// the cut would not be told.
    pub(super) fn enter(&self, mailbox: &Arc<Mailbox>) -> Option<usize> {
        let mut streams = self.lock_streams();
        if self.closed.load(Ordering::Acquire) { None } else { Some(streams.insert(Arc::clone(mailbox))) }
    }

    /// A request is over.
    pub(super) fn leave(&self, place: usize) {
        self.lock_streams().try_remove(place);
        if self.is_leaving() {
            // It may have been the last one.
            self.ordered.notify_one();
        }
    }

    /// Asks for an end, now.
    pub fn close(&self, end: End) {
        self.lock_orders().close.get_or_insert(end);
        self.ordered.notify_one();
    }

    /// Asks for an end within `span`, after the requests under way.
    pub fn drain(&self, reason: &'static str, span: Duration) {
        let mut orders = self.lock_orders();
        // The one that leaves less time counts.
        if orders.drain.is_none_or(|(_, earlier)| span < earlier) {
            orders.drain = Some((reason, span));
        }
        drop(orders);
        self.ordered.notify_one();
    }

    /// No further request will come: what drains for its sake may end.
    pub(super) fn finish(&self) {
        self.lock_orders().finish = true;
        self.ordered.notify_one();
    }

    /// The names that are accepted may have changed: tells the connector.
    pub(super) fn rename(&self) {
        self.lock_orders().renamed = true;
        self.ordered.notify_one();
    }

    /// Asks whether the other end is alive: the receiver gets a word as soon as it shows.
    pub(super) fn probe(&self) -> oneshot::Receiver<()> {
        let (alive, answer) = oneshot::channel();
        self.lock_orders().probes.push(alive);
        self.ordered.notify_one();
        answer
    }

    /// What was asked for since the last time.
    pub(super) fn take_orders(&self) -> Orders {
        std::mem::take(&mut *self.lock_orders())
    }

    /// Waits until there may be something new for its task.
    pub(super) async fn ordered(&self) {
        self.ordered.notified().await;
    }

    fn lock_orders(&self) -> MutexGuard<'_, Orders> {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_streams(&self) -> MutexGuard<'_, Slab<Arc<Mailbox>>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a tunnel is made of, besides who dialled.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) requests: SendRequest<Bytes>,
    pub(super) offers: Vec<Arc<OpenOffer>>,
    pub(super) limit: u32,
    pub(super) since: Timestamp,
    pub(super) counted: OneTunnel,
}

/// A word of the protocol that is one of its constants.
#[must_use]
pub(super) fn word(text: &'static str) -> Option<Word> {
    Word::new(text).ok()
}

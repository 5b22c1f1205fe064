//! Connections to the gateway: HTTP/2 carries many requests, HTTP/1.1 one at a time.
//!
//! Invariants: a request goes over a connection that was made with the certificate of now; a request
//! of which anything was sent is not sent again; a connection that was idle for long, over a sleep of
//! the machine say, is not tried.
//!
//! Windows: hyper gives a connection up when small frames that nobody reads use up a budget of half its
//! window. With 64 KiB for a stream and 64 MiB for the connection, all the streams that fit can be left
//! unread (measured: `reference/protocol-traps.md`).

use std::error::Error;
use std::fmt;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderValue, Request, Response, Uri, Version, header};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::clock::Clock;
use crate::config::DialGateway;
use crate::domain::gateway_address::GatewayName;
use crate::domain::timestamp::Timestamp;
use crate::holder::credentials::Credentials;
use crate::holder::fault::{Attempt, CertificateAlert, HolderFault};
use crate::holder::keeper::{Keeper, Standing};
use crate::holder::reach::Reach;
use crate::holder::tls;
use crate::overlay::dial::refusal::Refusal;

/// An idle connection is not tried after this: the gateway, or something in between, may have closed it.
const IDLE: Duration = Duration::from_secs(45);
/// Most idle connections of HTTP/1.1 that are kept.
const MAX_IDLE: usize = 16;
const STREAM_WINDOW: u32 = 64 * 1024;
const CONNECTION_WINDOW: u32 = 64 * 1024 * 1024;
/// More streams than are ever given up at once: see `reference/protocol-traps.md`.
const MAX_RESET: usize = 2000;
const PING: Duration = Duration::from_secs(10);
/// A request that was not sent may be tried on so many connections.
const TRIES: usize = 3;

/// What a request's body is: the tool's own, as it comes.
pub(super) type OutBody = Incoming;

/// The connections to one gateway.
pub(super) struct Links {
    gateway: DialGateway,
    authority: Authority,
    host: HeaderValue,
    reach: Reach,
    keeper: Arc<Keeper>,
    clock: Clock,
    open: Mutex<Vec<Arc<Link>>>,
    /// Held while one is opened, so that many requests at once wait for it instead of opening their own;
    /// holds why the last attempt failed, if it did.
    opening: tokio::sync::Mutex<Option<Refusal>>,
    /// Attempts that have ended.
    attempts: AtomicU64,
}

/// A connection.
struct Link {
    /// Of which certificate.
    made_with: Arc<Credentials>,
    sender: Mutex<Sender>,
    in_flight: AtomicUsize,
    idle_since: Mutex<Timestamp>,
    /// A request could not be sent over it, or its answer was given up half-way on HTTP/1.1. After a
    /// GOAWAY, hyper does not say by itself that a connection takes no more.
    gone: AtomicBool,
    /// What the gateway's alert said, once it came.
    alert: Arc<OnceLock<CertificateAlert>>,
}

enum Sender {
    Http2(http2::SendRequest<OutBody>),
    /// `None` while it is in use.
    Http1(Option<http1::SendRequest<OutBody>>),
}

/// A connection that carries one request, from its head to the end of the answer's body.
pub(super) struct Lease {
    link: Arc<Link>,
    clock: Clock,
    /// Of HTTP/1.1, to be given back.
    http1: Option<http1::SendRequest<OutBody>>,
}

impl Links {
    pub(super) fn new(gateway: DialGateway, reach: Reach, keeper: Arc<Keeper>) -> Result<Self, String> {
        let host = match &gateway.name {
            GatewayName::Ip(address) if address.is_ipv6() => format!("[{address}]"),
            GatewayName::Ip(_) | GatewayName::Dns(_) => gateway.name.to_string(),
        };
        let wrong = |_| format!("{host} is no host");
        Ok(Self {
            authority: host.parse().map_err(wrong)?,
            host: HeaderValue::from_str(&host).map_err(|_| format!("{host} is no host"))?,
            gateway,
            reach,
            clock: keeper.clock(),
            keeper,
            open: Mutex::default(),
            opening: tokio::sync::Mutex::default(),
            attempts: AtomicU64::new(0),
        })
    }

    /// True when they are the connections to this gateway, reached in this way.
    pub(super) fn lead_to(&self, gateway: &DialGateway, reach: &Reach) -> bool {
        self.gateway == *gateway && self.reach == *reach
    }

    /// Sends a request whose target is a path, and waits for the head of the answer.
    pub(super) async fn send(&self, request: Request<OutBody>) -> Result<(Response<Incoming>, Lease), Refusal> {
        let mut request = request;
        for tried in 1.. {
            let mut lease = self.lease(tried == 1).await?;
            let (head, body) = request.into_parts();
            let failed = match lease.send(self.addressed(head, body, lease.http1.is_some())).await {
                Ok(response) => return Ok((response, lease)),
                Err(failed) => failed,
            };
            lease.link.gone.store(true, Ordering::Release);
            match failed.unsent {
                Some(unsent) if tried < TRIES && failed.alert.is_none() => request = unsent,
                Some(_) | None => return Err(failed.refusal(&self.keeper)),
            }
        }
        Err(Refusal::Overloaded)
    }

    /// HTTP/2 has the host in the target, HTTP/1.1 in a header.
    fn addressed(&self, mut head: http::request::Parts, body: OutBody, http1: bool) -> Request<OutBody> {
        let path = head.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
        if http1 {
            head.version = Version::HTTP_11;
            head.uri = Uri::from(path);
            head.headers.insert(header::HOST, self.host.clone());
        } else {
            head.version = Version::HTTP_2;
            head.headers.remove(header::HOST);
            let mut parts = http::uri::Parts::default();
            (parts.scheme, parts.authority) = (Some(Scheme::HTTPS), Some(self.authority.clone()));
            parts.path_and_query = Some(path);
            head.uri = Uri::from_parts(parts).unwrap_or_default();
        }
        Request::from_parts(head, body)
    }

    async fn lease(&self, may_reuse: bool) -> Result<Lease, Refusal> {
        if may_reuse && let Some(lease) = self.reuse() {
            return Ok(lease);
        }
        let before = self.attempts.load(Ordering::Acquire);
        let mut opening = self.opening.lock().await;
        // Somebody else may have opened one meanwhile, or have found out that it cannot be done: a queue
        // of requests must not wait for one timeout after the other.
        if let Some(lease) = self.reuse() {
            return Ok(lease);
        }
        if self.attempts.load(Ordering::Acquire) != before
            && let Some(refusal) = &*opening
        {
            return Err(refusal.clone());
        }
        let connected = self.connect().await;
        self.attempts.fetch_add(1, Ordering::AcqRel);
        *opening = connected.as_ref().err().cloned();
        let link = Arc::new(connected?);
        let lease = Lease::of(&link, &self.clock);
        self.lock_open().push(link);
        lease.ok_or_else(|| Refusal::Broke("it was closed at once".to_owned()))
    }

    /// A connection that is open and has room.
    fn reuse(&self) -> Option<Lease> {
        let (now, current) = (self.clock.now(), self.keeper.current());
        let mut open = self.lock_open();
        open.retain(|link| link.may_be_used(&current, now));
        let idle = open.iter().filter(|link| link.is_idle()).count();
        if idle > MAX_IDLE
            && let Some(at) = open.iter().position(|link| link.is_idle())
        {
            open.remove(at);
        }
        open.iter().rev().find_map(|link| Lease::of(link, &self.clock))
    }

    async fn connect(&self) -> Result<Link, Refusal> {
        let credentials = self.keeper.current();
        if let Err(fault) = credentials.check_alive(self.clock.now()) {
            return Err(Refusal::Certificate(said(&fault, &self.keeper)));
        }
        let config = credentials.tls(&[b"h2", b"http/1.1"]);
        let mut attempts = Vec::new();
        for address in &self.gateway.addresses {
            let opened = async {
                let stream = self.reach.open_any(address).await?;
                tls::secure(stream, Arc::clone(&config), &self.gateway.name).await
            };
            match opened.await {
                Ok(stream) => return self.start(stream, credentials).await,
                Err(why) => attempts.push(Attempt { address: address.clone(), why }),
            }
        }
        let fault = HolderFault::Unreached(attempts);
        tracing::warn!("{fault}");
        Err(Refusal::Unreachable(said(&fault, &self.keeper)))
    }

    async fn start(&self, stream: TlsStream<TcpStream>, made_with: Arc<Credentials>) -> Result<Link, Refusal> {
        let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        let alert = Arc::new(OnceLock::new());
        let io = TokioIo::new(Watched { stream, alert: Arc::clone(&alert) });
        let broke = |error: hyper::Error| Refusal::Broke(error.to_string());
        let sender = if is_http2 {
            let (sender, connection) = http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .initial_stream_window_size(STREAM_WINDOW)
                .initial_connection_window_size(CONNECTION_WINDOW)
                .max_concurrent_reset_streams(MAX_RESET)
                .keep_alive_interval(PING)
                .keep_alive_timeout(PING)
                .handshake(io)
                .await
                .map_err(broke)?;
            tokio::spawn(connection);
            Sender::Http2(sender)
        } else {
            let (sender, connection) = http1::handshake(io).await.map_err(broke)?;
            tokio::spawn(connection);
            Sender::Http1(Some(sender))
        };
        Ok(Link {
            made_with,
            sender: Mutex::new(sender),
            in_flight: AtomicUsize::new(0),
            idle_since: Mutex::new(self.clock.now()),
            gone: AtomicBool::new(false),
            alert,
        })
    }

    fn lock_open(&self) -> MutexGuard<'_, Vec<Arc<Link>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Link {
    fn lock(&self) -> MutexGuard<'_, Sender> {
        self.sender.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_idle(&self) -> bool {
        self.in_flight.load(Ordering::Acquire) == 0
    }

    fn may_be_used(&self, current: &Arc<Credentials>, now: Timestamp) -> bool {
        let closed = self.gone.load(Ordering::Acquire)
            || match &*self.lock() {
                Sender::Http2(sender) => sender.is_closed(),
                Sender::Http1(sender) => sender.as_ref().is_some_and(|sender| sender.is_closed()),
            };
        let idle_since = *self.idle_since.lock().unwrap_or_else(PoisonError::into_inner);
        let stale = self.is_idle() && now.since(idle_since) > IDLE;
        !closed && !stale && Arc::ptr_eq(&self.made_with, current)
    }
}

impl Lease {
    /// Takes a place on a connection, if it has one.
    fn of(link: &Arc<Link>, clock: &Clock) -> Option<Self> {
        let http1 = match &mut *link.lock() {
            Sender::Http2(sender) => {
                if sender.is_closed() {
                    return None;
                }
                None
            }
            Sender::Http1(sender) => Some(sender.take_if(|sender| !sender.is_closed())?),
        };
        if link.gone.load(Ordering::Acquire) {
            return None;
        }
        link.in_flight.fetch_add(1, Ordering::AcqRel);
        Some(Self { link: Arc::clone(link), clock: clock.clone(), http1 })
    }

    async fn send(&mut self, request: Request<OutBody>) -> Result<Response<Incoming>, Failed> {
        let answered = match &mut self.http1 {
            Some(sender) => match sender.ready().await {
                Ok(()) => sender.try_send_request(request).await,
                Err(error) => return Err(Failed::new(&error, Some(request), &self.link.alert)),
            },
            None => {
                let sender = match &*self.link.lock() {
                    Sender::Http2(sender) => Some(sender.clone()),
                    Sender::Http1(_) => None,
                };
                let Some(mut sender) = sender else {
                    return Err(Failed { why: "it is in use".to_owned(), unsent: Some(request), alert: None });
                };
                match sender.ready().await {
                    Ok(()) => sender.try_send_request(request).await,
                    Err(error) => return Err(Failed::new(&error, Some(request), &self.link.alert)),
                }
            }
        };
        answered.map_err(|mut failed| {
            let unsent = failed.take_message();
            Failed::new(&failed.into_error(), unsent, &self.link.alert)
        })
    }

    /// The answer is complete: another request may follow on HTTP/1.1.
    pub(super) fn finished(&mut self) {
        if let (Some(sender), Sender::Http1(place)) = (self.http1.take(), &mut *self.link.lock()) {
            *place = Some(sender);
        }
    }

    /// What the gateway has said about the certificate, if it has.
    pub(super) fn alert(&self) -> Option<CertificateAlert> {
        self.link.alert.get().copied()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.http1.is_some() {
            self.link.gone.store(true, Ordering::Release);
        }
        *self.link.idle_since.lock().unwrap_or_else(PoisonError::into_inner) = self.clock.now();
        self.link.in_flight.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Why there is no answer.
struct Failed {
    why: String,
    /// The request, when nothing of it was sent.
    unsent: Option<Request<OutBody>>,
    alert: Option<CertificateAlert>,
}

impl Failed {
    fn new(error: &hyper::Error, unsent: Option<Request<OutBody>>, alert: &OnceLock<CertificateAlert>) -> Self {
        let mut why = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            why = format!("{why}: {error}");
            cause = error.source();
        }
        Self { why, unsent, alert: alert.get().copied() }
    }

    fn refusal(self, keeper: &Keeper) -> Refusal {
        match self.alert {
            None => Refusal::Broke(self.why),
            Some(alert) => {
                let what =
                    format!("the gateway does not take the certificate of {}: {alert}", keeper.current().identity());
                tracing::error!("{what}");
                Refusal::Certificate(with_standing(what, keeper))
            }
        }
    }
}

/// A fault, what to do, and what is known of the certificate.
fn said(fault: &HolderFault, keeper: &Keeper) -> String {
    let what = fault.hint().map_or_else(|| fault.to_string(), |hint| format!("{fault}; {hint}"));
    with_standing(what, keeper)
}

fn with_standing(what: String, keeper: &Keeper) -> String {
    match keeper.standing() {
        Standing::Good => what,
        Standing::Failing(why) | Standing::Refused(why) | Standing::Expired(why) if what.contains(&why) => what,
        Standing::Failing(why) => format!("{what}; its renewal fails: {why}"),
        Standing::Refused(why) => format!("{what}; its renewal is refused: {why}"),
        Standing::Expired(why) => format!("{what}; it was not renewed: {why}"),
    }
}

impl fmt::Debug for Links {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Links").field("gateway", &self.gateway).finish_non_exhaustive()
    }
}

/// A connection that remembers what the gateway's alert says about the certificate: in TLS 1.3 it comes
/// after the handshake, and HTTP/2 hides it.
struct Watched {
    stream: TlsStream<TcpStream>,
    alert: Arc<OnceLock<CertificateAlert>>,
}

impl AsyncRead for Watched {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_read(context, out);
        if let Poll::Ready(Err(error)) = &polled
            && let Some(alert) = CertificateAlert::in_error(error)
        {
            self.alert.get_or_init(|| alert);
        }
        polled
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

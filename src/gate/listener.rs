//! Accepting connections: TCP, TLS, and the HTTP version that ALPN says.
//!
//! Invariant: slow peers pay for themselves. A handshake runs in its own task under a deadline,
//! every connection counts against the bounds before its first byte is read, and the protocol is
//! the negotiated one, never guessed from bytes.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, TcpListener as StdListener};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ProtocolVersion;
use rustls::server::Acceptor;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use crate::gate::arrival::{Admission, Arrival, Place, Source};
use crate::gate::connection::{Connection, Drivable, Peer, Supervised, drive};
use crate::gate::pipeline;
use crate::gate::roles::{Arrived, Role};
use crate::gate::worker::Worker;
use crate::telemetry::metrics::HandshakeFailure;
use crate::tls::read_ahead::ReadAhead;
use crate::tls::verify::explain;

const HANDSHAKE: Duration = Duration::from_secs(5);
/// After an accept that failed for want of file descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Unacknowledged bytes may be this old before the kernel gives a peer up: HTTP timers do not end
/// a connection that is blocked in write.
const USER_TIMEOUT: Duration = Duration::from_secs(30);
const MAX_AGE: Duration = Duration::from_secs(3600);
const HEADER_LIST: u32 = 32 * 1024;
const MAX_HEADERS: usize = 100;

/// Accepts connections for one worker, until its task is ended.
pub async fn run(worker: Arc<Worker>, listener: StdListener, admission: Arc<Admission>) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "cannot listen"),
    };
    while !worker.gateway.is_draining() {
        let (socket, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "accept failed; pausing");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Some(arrival) = Arrival::admit(&worker, &admission, address.ip()) else { continue };
        let worker = Arc::clone(&worker);
        tokio::spawn(async move {
            let _open = worker.gateway.metrics.connection_opens();
            let _caught = CountPanic(&worker);
            serve(&worker, socket, arrival).await;
        });
    }
}

/// Counts a panic that unwinds through a connection's task: it ends that connection only.
struct CountPanic<'a>(&'a Worker);

impl Drop for CountPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.gateway.metrics.panicked();
        }
    }
}

async fn serve(worker: &Arc<Worker>, socket: TcpStream, arrival: Arrival) {
    // Boxed: what only the handshake needs is not kept for as long as the connection lives.
    let handshake = match timeout(HANDSHAKE, Box::pin(open(worker, socket, arrival))).await {
        Ok(Ok(Some(handshake))) => handshake,
        Ok(Ok(None)) => return,
        Ok(Err(failure)) => return worker.gateway.metrics.handshake_failed(failure),
        Err(_) => return worker.gateway.metrics.handshake_failed(HandshakeFailure::TimedOut),
    };
    let Handshake { role, stream, peer, place } = handshake;
    match (role, worker.gateway.roles.of(role)) {
        (Role::Api, _) => serve_callers(worker, stream, peer, place).await,
        (Role::Enroll | Role::Connect, Some(server)) => {
            let gateway = Arc::clone(&worker.gateway);
            server.serve(Arrived { stream, peer, gateway, place }).await;
        }
        (Role::Enroll | Role::Connect, None) => {}
    }
}

/// Serves requests; `place` is kept for as long as the connection is open.
async fn serve_callers(worker: &Arc<Worker>, stream: TlsStream<ReadAhead<TcpStream>>, peer: Peer, _place: Place) {
    let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let spread = Duration::from_secs(worker.draw(MAX_AGE.as_secs() / 5));
    let connection = Connection::new(peer, Arc::new(Supervised::new(MAX_AGE * 9 / 10 + spread, !http2)));
    let supervised = Arc::clone(&connection.supervised);
    worker.watch(&supervised);
    let io = TokioIo::new(Watched { stream, supervised: Arc::clone(&supervised) });
    let service = {
        let worker = Arc::clone(worker);
        let connection = Arc::new(connection);
        service_fn(move |request: Request<Incoming>| {
            let (worker, connection) = (Arc::clone(&worker), Arc::clone(&connection));
            // Boxed: hyper keeps room for this future in every idle connection.
            async move { Ok::<_, Infallible>(Box::pin(pipeline::handle(&worker, &connection, request)).await) }
        })
    };
    if http2 {
        let connection = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_concurrent_streams(100)
            .max_header_list_size(HEADER_LIST)
            .max_pending_accept_reset_streams(20)
            .max_local_error_reset_streams(1024)
            .initial_stream_window_size(256 * 1024)
            .initial_connection_window_size(1024 * 1024)
            .keep_alive_interval(Some(Duration::from_secs(20)))
            .keep_alive_timeout(Duration::from_secs(20))
            .serve_connection(io, service);
        drive(Box::pin(connection), &supervised).await;
    } else {
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            // Our own supervision keeps these times: hyper's timer would end idle connections too.
            .header_read_timeout(None)
            .max_headers(MAX_HEADERS)
            .max_header_size(HEADER_LIST as usize)
            .serve_connection(io, service);
        drive(Box::pin(connection), &supervised).await;
    }
}

struct Handshake {
    role: Role,
    stream: TlsStream<ReadAhead<TcpStream>>,
    peer: Peer,
    /// Kept for as long as the connection is open.
    place: Place,
}

/// Finds out who is there and shakes hands. `None` when nobody is to be served.
async fn open(worker: &Worker, mut socket: TcpStream, arrival: Arrival) -> Result<Option<Handshake>, HandshakeFailure> {
    let Some(source) = arrival.source(worker, &mut socket).await? else { return Ok(None) };
    let is_probe = source.is_probe;
    match handshake(worker, socket, source).await {
        Err(_) if is_probe => Ok(None),
        result => result.map(Some),
    }
}

async fn handshake(worker: &Worker, socket: TcpStream, source: Source) -> Result<Handshake, HandshakeFailure> {
    let Source { address, local, place, is_probe: _ } = source;
    let broke = |_: io::Error| HandshakeFailure::PeerLeft;
    socket.set_nodelay(true).map_err(broke)?;
    SockRef::from(&socket).set_tcp_user_timeout(Some(USER_TIMEOUT)).map_err(broke)?;
    let start =
        LazyConfigAcceptor::new(Acceptor::default(), ReadAhead::new(socket)).await.map_err(|error| failure(&error))?;
    let settings = Arc::clone(&worker.gateway.view().settings);
    let sni: Option<Box<str>> = start.client_hello().server_name().map(|name| name.to_ascii_lowercase().into());
    // Names that are nobody's, and roles that are not served, get a TLS alert.
    let role = Role::of(&settings.config.listen.names, sni.as_deref());
    let config = Arc::clone(settings.tls.of(role));
    let stream = start.into_stream(config).await.map_err(|error| refused(address, &error))?;
    let role = role.ok_or(HandshakeFailure::UnknownName)?;
    let session = stream.get_ref().1;
    let chain: Vec<_> =
        session.peer_certificates().unwrap_or_default().iter().map(|der| der.clone().into_owned()).collect();
    let key_exchange = session.negotiated_key_exchange_group().map(|group| format!("{:?}", group.name()));
    let tls = if session.protocol_version() == Some(ProtocolVersion::TLSv1_2) { "1.2" } else { "1.3" };
    let peer = Peer { address, local, sni, tls, key_exchange: key_exchange.unwrap_or_default().into(), chain };
    Ok(Handshake { role, stream, peer, place })
}

/// As [`failure`]. Why a certificate was refused, theirs or ours, is said, though not to everybody's log.
fn refused(address: IpAddr, error: &io::Error) -> HandshakeFailure {
    let failure = failure(error);
    match (failure, error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>())) {
        (HandshakeFailure::Certificate, Some(why)) => {
            tracing::debug!(%address, why = explain(why), "refused a certificate");
        }
        (HandshakeFailure::RefusedByPeer, Some(why)) => {
            tracing::debug!(%address, %why, "a client refused this gateway: does it have the roots, and a right clock?");
        }
        (_, _) => {}
    }
    failure
}

/// Sorts a failed handshake into the few kinds that an operator can act on.
fn failure(error: &io::Error) -> HandshakeFailure {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        None => HandshakeFailure::PeerLeft,
        Some(rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented) => {
            HandshakeFailure::Certificate
        }
        Some(rustls::Error::AlertReceived(_)) => HandshakeFailure::RefusedByPeer,
        Some(rustls::Error::General(_)) => HandshakeFailure::UnknownName,
        Some(_) => HandshakeFailure::Protocol,
    }
}

/// Tells the connection's supervision about signs of life.
struct Watched {
    stream: TlsStream<ReadAhead<TcpStream>>,
    supervised: Arc<Supervised>,
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(context, buffer);
        if buffer.filled().len() > before {
            self.supervised.read_some();
        }
        result
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
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

impl<S> Drivable for Pin<Box<http1::Connection<TokioIo<Watched>, S>>>
where
    S: hyper::service::HttpService<Incoming, ResBody = crate::gate::stream::ReplyBody>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    fn drain(&mut self) {
        self.as_mut().graceful_shutdown();
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.as_mut().poll(context).map(|_| ())
    }
}

impl<S> Drivable for Pin<Box<http2::Connection<TokioIo<Watched>, S, TokioExecutor>>>
where
    S: hyper::service::HttpService<Incoming, ResBody = crate::gate::stream::ReplyBody>,
    S::Future: Send + 'static,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    fn drain(&mut self) {
        self.as_mut().graceful_shutdown();
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.as_mut().poll(context).map(|_| ())
    }
}

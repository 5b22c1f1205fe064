//! Dialling a backend.

use std::io;
use std::time::Duration;

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use socket2::SockRef;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::backend::Upstream;

/// Unacknowledged bytes may be this old before the kernel gives a peer up: a peer that is frozen
/// would otherwise hold a request for a quarter of an hour.
const USER_TIMEOUT: Duration = Duration::from_secs(30);

/// Opens a connection: TCP, TLS where the URL says https, HTTP/1.1.
///
/// # Errors
///
/// When that fails or takes longer than the backend's connect timeout. Nothing of the request was
/// sent yet, so another target may be tried.
pub async fn connect(upstream: &Upstream) -> io::Result<SendRequest<Pieces>> {
    match timeout(upstream.timeouts.connect, dial(upstream)).await {
        Ok(result) => result,
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "connect timed out")),
    }
}

async fn dial(upstream: &Upstream) -> io::Result<SendRequest<Pieces>> {
    let (host, port) = &upstream.dial;
    let socket = TcpStream::connect((host.as_str(), *port)).await?;
    socket.set_nodelay(true)?;
    SockRef::from(&socket).set_tcp_user_timeout(Some(USER_TIMEOUT))?;
    match &upstream.tls {
        None => start(socket).await,
        Some((config, name)) => start(TlsConnector::from(config.clone()).connect(name.clone(), socket).await?).await,
    }
}

async fn start<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(stream: S) -> io::Result<SendRequest<Pieces>> {
    let handshake = http1::Builder::new().handshake(TokioIo::new(stream)).await;
    let (sender, connection) = handshake.map_err(io::Error::other)?;
    // Ends by itself when the sender is dropped or the backend closes; its error is also the
    // request's, which is where it is handled.
    tokio::spawn(connection);
    Ok(sender)
}

/// A request body made of slices of the caller's.
#[derive(Debug)]
pub struct Pieces(VecDeque<Bytes>);

impl Pieces {
    /// A body of these pieces, in order.
    #[must_use]
    pub fn new(pieces: Vec<Bytes>) -> Self {
        Self(pieces.into())
    }
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.pop_front().map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.iter().map(|piece| piece.remaining() as u64).sum())
    }
}

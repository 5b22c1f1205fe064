//! Dialling a backend.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::backend::Upstream;

/// Unacknowledged bytes may be this old before the kernel gives a peer up: a peer that is frozen
/// would otherwise hold a request for a quarter of an hour.
const USER_TIMEOUT: Duration = Duration::from_secs(30);

/// Opens a connection: TCP, and TLS where the URL says https.
///
/// # Errors
///
/// When that fails or takes longer than the backend's connect timeout. Nothing of a request was
/// sent yet, so another target may be tried.
pub async fn connect(upstream: &Upstream) -> io::Result<Stream> {
    // Boxed: requests keep room for this, and nearly all find a connection that is open.
    match timeout(upstream.timeouts.connect, Box::pin(dial(upstream))).await {
        Ok(result) => result,
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "connect timed out")),
    }
}

async fn dial(upstream: &Upstream) -> io::Result<Stream> {
    let (host, port) = &upstream.dial;
    let socket = TcpStream::connect((host.as_str(), *port)).await?;
    socket.set_nodelay(true)?;
    give_up_after(USER_TIMEOUT, &socket)?;
    match &upstream.tls {
        None => Ok(Stream::Plain(socket)),
        Some((config, name)) => {
            let stream = TlsConnector::from(config.clone()).connect(name.clone(), socket).await?;
            Ok(Stream::Tls(Box::new(stream)))
        }
    }
}

/// Has the kernel give a peer up that has acknowledged nothing for `silence`.
#[cfg(target_os = "linux")]
pub(crate) fn give_up_after(silence: Duration, socket: &TcpStream) -> io::Result<()> {
    socket2::SockRef::from(socket).set_tcp_user_timeout(Some(silence))
}

/// Elsewhere it takes as long as the system likes.
#[cfg(not(target_os = "linux"))]
#[expect(clippy::unnecessary_wraps, reason = "the same as on Linux")]
pub(crate) const fn give_up_after(_silence: Duration, _socket: &TcpStream) -> io::Result<()> {
    Ok(())
}

/// A connection to a backend.
#[derive(Debug)]
pub enum Stream {
    /// Over http.
    Plain(TcpStream),
    /// Over https.
    Tls(Box<TlsStream<TcpStream>>),
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(context, slices),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(context, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_flush(context),
            Self::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

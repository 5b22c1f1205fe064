//! Where tools connect to: a loopback address, or a Unix socket for its owner alone.
//!
//! Invariant: nothing listens where another machine, or for a socket another user, could connect.

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
#[cfg(unix)]
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::config::DialListen;
use crate::overlay::dial::places::{Guest, Places};
#[cfg(unix)]
use crate::overlay::dial::socket;
use crate::overlay::dial::{Dial, forward};

/// How long a head may take, and how long a connection may be idle.
const HEAD: Duration = Duration::from_secs(120);
/// Most bytes of a head.
const MAX_HEAD: usize = 64 * 1024;
/// How long answers may go on when it is to stop.
const DRAIN: Duration = Duration::from_secs(10);
/// Before the next attempt when a connection could not be taken: files may be scarce.
const PAUSE: Duration = Duration::from_millis(100);

/// Where tools connect to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Endpoint {
    /// An address of this machine alone, with its port.
    Loopback(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Loopback(address) => write!(f, "http://{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// What listens and does not serve yet.
#[derive(Debug)]
pub struct Bound {
    listener: Listener,
    endpoint: Endpoint,
}

#[derive(Debug)]
enum Listener {
    Tcp(TcpListener),
    #[cfg(unix)]
    Unix {
        listener: UnixListener,
        /// Goes with it.
        _file: socket::SocketFile,
    },
}

impl Bound {
    /// Listens.
    ///
    /// # Errors
    ///
    /// When the address is not this machine's own, somebody else listens there, or the socket cannot
    /// be made.
    pub async fn bind(listen: &DialListen) -> io::Result<Self> {
        match listen {
            DialListen::Loopback(address) => {
                if !address.ip().is_loopback() {
                    return Err(io::Error::new(io::ErrorKind::InvalidInput, "other machines can reach this address"));
                }
                let listener = TcpListener::bind(address).await?;
                let endpoint = Endpoint::Loopback(listener.local_addr()?);
                Ok(Self { listener: Listener::Tcp(listener), endpoint })
            }
            #[cfg(unix)]
            DialListen::Unix(path) => {
                let (listener, file) = socket::bind(path)?;
                let endpoint = Endpoint::Unix(path.clone());
                Ok(Self { listener: Listener::Unix { listener, _file: file }, endpoint })
            }
            #[cfg(not(unix))]
            DialListen::Unix(_) => {
                Err(io::Error::new(io::ErrorKind::Unsupported, "this system has no Unix sockets that we can use"))
            }
        }
    }

    /// Where tools connect to.
    #[must_use]
    pub const fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }
}

/// Takes connections until `stop` is done, then waits a little for answers that are under way.
pub(super) async fn serve(bound: Bound, dial: Arc<Dial>, stop: impl Future<Output = ()>) {
    let places = Places::new();
    let (stopping, _) = watch::channel(());
    let mut stop = pin!(stop);
    loop {
        // Not before: when all places are taken, it must still be possible to stop.
        let taken = tokio::select! {
            () = &mut stop => break,
            taken = take(&bound.listener, &dial, &places, &stopping) => taken,
        };
        if let Err(error) = taken {
            tracing::warn!(%error, "a connection could not be taken");
            sleep(PAUSE).await;
        }
    }
    drop(bound);
    stopping.send_replace(());
    if timeout(DRAIN, places.all_free()).await.is_err() {
        tracing::warn!("answers that were under way are cut");
    }
}

async fn take(
    listener: &Listener,
    dial: &Arc<Dial>,
    places: &Arc<Places>,
    stopping: &watch::Sender<()>,
) -> io::Result<()> {
    let (dial, stopping) = (Arc::clone(dial), stopping.subscribe());
    let closed = || io::Error::other("there are no places");
    match listener {
        Listener::Tcp(listener) => {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let guest = places.enter().await.ok_or_else(closed)?;
            tokio::spawn(connection(stream, dial, guest, stopping));
        }
        #[cfg(unix)]
        Listener::Unix { listener, .. } => {
            let (stream, _) = listener.accept().await?;
            let guest = places.enter().await.ok_or_else(closed)?;
            tokio::spawn(connection(stream, dial, guest, stopping));
        }
    }
    Ok(())
}

async fn connection<S>(stream: S, dial: Arc<Dial>, guest: Arc<Guest>, mut stopping: watch::Receiver<()>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let asks = Arc::clone(&guest);
    let service = service_fn(move |request| {
        let (dial, guest) = (Arc::clone(&dial), Arc::clone(&asks));
        async move { Ok::<_, Infallible>(forward::handle(dial, guest, request).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service);
    let mut served = pin!(served);
    let ended = tokio::select! {
        ended = &mut served => ended,
        () = guest.has_to_leave() => {
            tracing::debug!("a connection that showed nothing made room");
            return;
        }
        _ = stopping.changed() => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a tool's connection ended");
    }
    drop(guest);
}

#[cfg(test)]
#[path = "listener_tests.rs"]
mod tests;

//! Serving one connection of the admin API.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{sleep, timeout};

use crate::admin::api::{Api, Peer};

/// From one request to the end of the next one's head.
const HEAD: Duration = Duration::from_secs(10);
/// How long an operator's connection takes requests.
pub(super) const LIFE: Duration = Duration::from_secs(600);
/// How long the last requests may take.
const LAST: Duration = Duration::from_secs(60);
const HEAD_BYTES: u32 = 16 * 1024;
const MAX_HEADERS: usize = 64;

/// Serves a connection to its end. After `life` it takes no further request.
pub(super) async fn connection<S>(api: Arc<Api>, peer: Peer, stream: S, is_http2: bool, life: Duration)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request: Request<Incoming>| {
        let (api, peer) = (Arc::clone(&api), peer.clone());
        async move { Ok::<_, Infallible>(Box::pin(api.answer(&peer, request)).await) }
    });
    // How a connection ends is no news: every change has a line in the log already.
    if is_http2 {
        let served = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_concurrent_streams(16)
            .max_header_list_size(HEAD_BYTES)
            .max_pending_accept_reset_streams(20)
            .keep_alive_interval(Some(Duration::from_secs(20)))
            .keep_alive_timeout(Duration::from_secs(20))
            .serve_connection(TokioIo::new(stream), service);
        let mut served = pin!(served);
        if timeout(life, served.as_mut()).await.is_err() {
            served.as_mut().graceful_shutdown();
            drop(timeout(LAST, served).await);
        }
    } else {
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD)
            .max_headers(MAX_HEADERS)
            .max_header_size(HEAD_BYTES as usize)
            .serve_connection(TokioIo::new(stream), service);
        let mut served = pin!(served);
        if timeout(life, served.as_mut()).await.is_err() {
            served.as_mut().graceful_shutdown();
            drop(timeout(LAST, served).await);
        }
    }
}

/// After an accept that failed for want of file descriptors or memory.
pub(super) async fn pause(listener: &str, error: &std::io::Error) {
    tracing::warn!(listener, %error, "admin API: cannot accept; pausing");
    sleep(Duration::from_millis(100)).await;
}

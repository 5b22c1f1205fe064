//! The operator's listener: `/metrics`, `/healthz`, `/readyz`, and nothing else. What operators
//! change is changed through [`api`], on listeners of its own.
//!
//! Invariant: it changes nothing and tells no secret. It is plain HTTP, so it belongs on loopback; there it
//! answers only whoever calls it by a name of this machine, so that no web page reads it through a browser
//! that was led here.

pub mod api;

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::gate::{Gateway, host};
use crate::telemetry::metrics::Figures;

/// Scrapers and probes are few.
const MAX_CONNECTIONS: usize = 64;
/// A scrape or a probe is over soon, keep-alive included.
const CONNECTION_LIFE: Duration = Duration::from_secs(60);
const HEAD: Duration = Duration::from_secs(10);

/// The listener, bound and not yet serving.
#[derive(Debug)]
pub struct Admin {
    listener: TcpListener,
    gateway: Arc<Gateway>,
}

impl Admin {
    /// Binds `address`.
    ///
    /// # Errors
    ///
    /// When it cannot be bound.
    pub async fn bind(address: SocketAddr, gateway: Arc<Gateway>) -> io::Result<Self> {
        Ok(Self { listener: TcpListener::bind(address).await?, gateway })
    }

    /// Where it listens.
    ///
    /// # Errors
    ///
    /// When the socket does not say.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until its task is ended.
    pub async fn run(self) {
        let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
            let (socket, on_loopback) = match self.listener.accept().await {
                // What is not known counts as loopback, where more is asked for.
                Ok((socket, _)) => {
                    let on_loopback = socket.local_addr().map_or(true, |local| local.ip().to_canonical().is_loopback());
                    (socket, on_loopback)
                }
                Err(error) => {
                    tracing::warn!(%error, "the admin listener cannot accept; pausing");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let gateway = Arc::clone(&self.gateway);
            tokio::spawn(async move {
                let _slot = slot;
                let service = service_fn(|request: Request<Incoming>| {
                    let response = answer(&gateway, &request, on_loopback);
                    async move { Ok::<_, Infallible>(response) }
                });
                let connection = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(HEAD)
                    .serve_connection(TokioIo::new(socket), service);
                // A probe that breaks off or stays for too long is no news.
                let _ = timeout(CONNECTION_LIFE, connection).await.is_ok();
            });
        }
    }
}

const TEXT: &str = "text/plain; charset=utf-8";

/// Says no to whoever calls this machine by another name than its own. Elsewhere than on loopback any name
/// may be right: those who are let through to that address are let through to all that is here.
fn misled(request: &Request<Incoming>) -> Option<Response<Full<Bytes>>> {
    let refused = |status, why: &str| Some(plain(status, TEXT, format!("{why}\n")));
    match host::named(request.headers(), request.uri()) {
        Ok(Some(name)) if name.eq_ignore_ascii_case("localhost") => None,
        Ok(Some(name)) if name.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback()) => None,
        Ok(Some(_)) => refused(StatusCode::MISDIRECTED_REQUEST, "call this listener localhost, or by its address"),
        // Simple probes speak HTTP/1.0 and name no host; browsers do neither.
        Ok(None) if request.version() == Version::HTTP_10 => None,
        Ok(None) | Err(_) => refused(StatusCode::BAD_REQUEST, "the Host header is missing, repeated or malformed"),
    }
}

fn answer(gateway: &Gateway, request: &Request<Incoming>, on_loopback: bool) -> Response<Full<Bytes>> {
    const METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    if on_loopback && let Some(response) = misled(request) {
        return response;
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, TEXT, "GET and HEAD only\n".to_owned());
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match request.uri().path() {
        "/metrics" => plain(StatusCode::OK, METRICS, gateway.metrics.scrape(figures(gateway))),
        "/healthz" => plain(StatusCode::OK, TEXT, "ok\n".to_owned()),
        "/readyz" if gateway.is_draining() => plain(StatusCode::SERVICE_UNAVAILABLE, TEXT, "draining\n".to_owned()),
        "/readyz" => plain(StatusCode::OK, TEXT, "ready\n".to_owned()),
        _ => plain(StatusCode::NOT_FOUND, TEXT, "only /metrics, /healthz and /readyz\n".to_owned()),
    }
}

fn figures(gateway: &Gateway) -> Figures {
    Figures {
        records_dropped: gateway.records.dropped(),
        records_written: gateway.records.written(),
        keys: gateway.view().snapshot.key_count(),
        callers_share_an_address: gateway.callers.share_an_address(),
    }
}

fn plain(status: StatusCode, content_type: &'static str, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

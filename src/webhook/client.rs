//! One exchange with a webhook: resolve, look at the addresses, connect, send, read.
//!
//! Invariants: only an address that was looked at is connected to, or the proxy that the config names; no redirect is followed, no proxy
//! of the environment is used, no cookie is kept; a question of which a byte may have been read is
//! never sent twice; nothing is read without bound; of the threads that look names up, which all
//! webhooks share, one whose name nobody answers for keeps a few.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;

use crate::config::Webhook;
use crate::tls::client::backend_config;
use crate::webhook::answer::MAX_BYTES;
use crate::webhook::proxied::Proxied;
use crate::webhook::trouble::Trouble;

/// Most connections that wait for the next question.
const MAX_IDLE: usize = 32;
/// How long one waits at most: shorter than servers usually do.
const IDLE: Duration = Duration::from_secs(30);
/// Most look-ups of the name at once.
const LOOKING_UP: usize = 8;
/// Longest head of an answer in bytes.
const MAX_HEAD: usize = 32 * 1024;

/// Reaches one webhook. Its connections live on the runtime that it is used on.
#[derive(Debug)]
pub struct Client {
    webhook: Arc<Webhook>,
    target: Uri,
    host: HeaderValue,
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    proxy: Option<Proxied>,
    resolver: Resolver,
    looking_up: Arc<Semaphore>,
    idle: Mutex<Vec<Idle>>,
}

impl std::fmt::Debug for Resolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Resolver")
    }
}

/// How names become addresses.
enum Resolver {
    /// As the operating system does it.
    System,
    /// Every name has these.
    #[cfg(test)]
    Fixed(Vec<IpAddr>),
    /// Nobody answers; how often it was asked.
    #[cfg(test)]
    Silent(Arc<std::sync::atomic::AtomicUsize>),
}

#[derive(Debug)]
struct Idle {
    sender: SendRequest<Full<Bytes>>,
    since: Instant,
}

impl Client {
    /// Makes ready to ask a webhook.
    ///
    /// # Errors
    ///
    /// When there are no roots to verify its server with, or the client certificate cannot be used.
    pub fn new(webhook: &Arc<Webhook>) -> Result<Self, String> {
        let url = &webhook.url;
        let tls = if url.https {
            let name = ServerName::try_from(url.host.clone()).map_err(|error| error.to_string())?;
            Some((Arc::new(backend_config(&webhook.tls)?), name))
        } else {
            None
        };
        Ok(Self {
            target: url.path.parse().map_err(|_| "its path cannot be used".to_owned())?,
            host: HeaderValue::from_str(&url.authority()).map_err(|error| error.to_string())?,
            webhook: Arc::clone(webhook),
            tls,
            proxy: Proxied::of(webhook)?,
            resolver: Resolver::System,
            looking_up: Arc::new(Semaphore::new(LOOKING_UP)),
            idle: Mutex::default(),
        })
    }

    /// Posts `body` and gives the body of an answer that has status 200 and is JSON. The caller
    /// bounds the time.
    ///
    /// # Errors
    ///
    /// Whatever came between.
    pub async fn post(&self, headers: &HeaderMap, body: Bytes) -> Result<Bytes, Trouble> {
        // Of a connection that was never used for anything, one more may be tried.
        let mut again = true;
        loop {
            let (mut sender, reused) = match self.take_idle().await {
                Some(sender) => (sender, true),
                None => match self.connect().await {
                    Ok(sender) => (sender, false),
                    Err(trouble) if again && is_passing(&trouble) => {
                        again = false;
                        continue;
                    }
                    Err(trouble) => return Err(trouble),
                },
            };
            match sender.try_send_request(self.request(headers, body.clone())).await {
                Ok(response) => return self.read(sender, response).await,
                Err(mut error) => match error.take_message() {
                    // It came back whole: not a byte of it was written.
                    Some(_) if reused || std::mem::take(&mut again) => {}
                    Some(_) => return Err(Trouble::Connect("the connection was closed at once".to_owned())),
                    None => return Err(Trouble::Broken),
                },
            }
        }
    }

    fn request(&self, headers: &HeaderMap, body: Bytes) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.target.clone();
        *request.headers_mut() = headers.clone();
        request.headers_mut().insert(http::header::HOST, self.host.clone());
        request
    }

    async fn read(&self, sender: SendRequest<Full<Bytes>>, response: Response<Incoming>) -> Result<Bytes, Trouble> {
        let (head, body) = response.into_parts();
        if head.status != StatusCode::OK {
            return Err(Trouble::Status(head.status.as_u16()));
        }
        if head
            .headers
            .get_all(CONTENT_ENCODING)
            .iter()
            .any(|value| !value.as_bytes().eq_ignore_ascii_case(b"identity"))
        {
            return Err(Trouble::Encoding);
        }
        if !is_json(&head.headers) {
            return Err(Trouble::ContentType);
        }
        let too_long = Trouble::TooLong { limit: MAX_BYTES };
        let announced = head.headers.get(CONTENT_LENGTH).is_some() && body.size_hint().lower() > MAX_BYTES as u64;
        if announced {
            return Err(too_long);
        }
        let whole = Limited::new(body, MAX_BYTES)
            .collect()
            .await
            .map_err(|error| if error.is::<http_body_util::LengthLimitError>() { too_long } else { Trouble::Broken })?;
        self.keep(sender);
        Ok(whole.to_bytes())
    }

    async fn take_idle(&self) -> Option<SendRequest<Full<Bytes>>> {
        loop {
            let Idle { mut sender, since } = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()?;
            // Its last exchange is over; what is left of it takes no time.
            if since.elapsed() < IDLE && sender.ready().await.is_ok() {
                return Some(sender);
            }
        }
    }

    fn keep(&self, sender: SendRequest<Full<Bytes>>) {
        if sender.is_closed() {
            return;
        }
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|idle| idle.since.elapsed() < IDLE && !idle.sender.is_closed());
        if idle.len() < MAX_IDLE {
            idle.push(Idle { sender, since: Instant::now() });
        }
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, Trouble> {
        let addresses = if self.proxy.is_none() { self.addresses().await? } else { Vec::new() };
        let connecting = async {
            if let Some(proxy) = &self.proxy {
                return self.handshake(proxy.open().await.map_err(Trouble::Connect)?).await;
            }
            let mut last = Trouble::Resolve;
            for address in addresses {
                match TcpStream::connect(address).await {
                    Ok(socket) => return self.handshake(socket).await,
                    Err(error) => last = Trouble::Connect(error.kind().to_string()),
                }
            }
            Err(last)
        };
        timeout(self.webhook.connect_timeout, connecting)
            .await
            .unwrap_or_else(|_| Err(Trouble::Connect("not in connect_timeout".to_owned())))
    }

    async fn handshake(&self, socket: TcpStream) -> Result<SendRequest<Full<Bytes>>, Trouble> {
        // Questions are small and wait for answers.
        let _ = socket.set_nodelay(true).is_ok();
        match &self.tls {
            None => speak_http(socket).await,
            Some((config, name)) => {
                let connector = TlsConnector::from(Arc::clone(config));
                let stream = connector.connect(name.clone(), socket).await.map_err(|error| tls_trouble(&error))?;
                speak_http(stream).await
            }
        }
    }

    /// The addresses that may be connected to.
    async fn addresses(&self) -> Result<Vec<SocketAddr>, Trouble> {
        let url = &self.webhook.url;
        let found = match url.host.parse::<IpAddr>() {
            Ok(address) => vec![address],
            Err(_) => self.resolve(&url.host, url.port).await.map_err(|_| Trouble::Resolve)?,
        };
        let reach = &self.webhook.reach;
        reach.filter(&found, url.port).map_err(|(address, kind)| Trouble::AddressRefused { address, kind })
    }

    async fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<IpAddr>> {
        let place = Arc::clone(&self.looking_up).acquire_owned().await.map_err(io::Error::other)?;
        let host = host.to_owned();
        let looking = match &self.resolver {
            // A task of its own: a look-up goes on when nobody waits for it any more, and keeps its place.
            Resolver::System => tokio::spawn(async move {
                let found = lookup_host((host, port)).await.map(|found| found.map(|address| address.ip()).collect());
                drop(place);
                found
            }),
            #[cfg(test)]
            Resolver::Fixed(addresses) => return Ok(addresses.clone()),
            #[cfg(test)]
            Resolver::Silent(asked) => {
                asked.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                tokio::spawn(async move {
                    let _place = place;
                    std::future::pending().await
                })
            }
        };
        looking.await.map_err(io::Error::other)?
    }
}

async fn speak_http(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> Result<SendRequest<Full<Bytes>>, Trouble> {
    let (sender, connection) = http1::Builder::new()
        .max_buf_size(MAX_HEAD)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| Trouble::Connect(error.to_string()))?;
    // Over when its sender is dropped, or the server closes.
    tokio::spawn(async move { connection.await.is_ok() });
    Ok(sender)
}

/// Trouble that may be gone a moment later.
const fn is_passing(trouble: &Trouble) -> bool {
    matches!(trouble, Trouble::Connect(_))
}

fn tls_trouble(error: &io::Error) -> Trouble {
    let of_tls = error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>());
    if of_tls { Trouble::Tls(error.to_string()) } else { Trouble::Connect(error.kind().to_string()) }
}

fn is_json(headers: &HeaderMap) -> bool {
    let mut types = headers.get_all(CONTENT_TYPE).iter();
    let (Some(only), None) = (types.next(), types.next()) else { return false };
    let media_type = only.as_bytes().split(|&b| b == b';').next().unwrap_or_default();
    media_type.trim_ascii().eq_ignore_ascii_case(b"application/json")
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;

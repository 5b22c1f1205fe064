//! One exchange with a webhook: connect, send, read.
//!
//! Invariants: a connection is made by its [`Way`]; no redirect is followed, no cookie is kept; a
//! question of which a byte may have been read is never sent twice; nothing is read without bound.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout};

use crate::config::Webhook;
use crate::webhook::answer::MAX_BYTES;
use crate::webhook::trouble::Trouble;
use crate::webhook::way::{Opened, Unreached, Way};

/// Most connections that wait for the next question.
const MAX_IDLE: usize = 32;
/// How long one waits at most: shorter than servers usually do.
const IDLE: Duration = Duration::from_secs(30);
/// Longest head of an answer in bytes.
const MAX_HEAD: usize = 32 * 1024;

/// Reaches one webhook. Its connections live on the runtime that it is used on.
#[derive(Debug)]
pub struct Client {
    way: Way,
    connect_timeout: Duration,
    target: Uri,
    host: HeaderValue,
    idle: Mutex<Vec<Idle>>,
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
    pub fn new(webhook: &Webhook) -> Result<Self, String> {
        let url = &webhook.url;
        Ok(Self {
            way: Way::new(webhook)?,
            connect_timeout: webhook.connect_timeout,
            target: url.path.parse().map_err(|_| "its path cannot be used".to_owned())?,
            host: HeaderValue::from_str(&url.authority()).map_err(|error| error.to_string())?,
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
        let places = self.way.places().await.map_err(trouble)?;
        let connecting = async {
            match self.way.open(places).await.map_err(trouble)? {
                Opened::Plain(stream) => speak_http(stream).await,
                Opened::Tls(stream) => speak_http(stream).await,
            }
        };
        timeout(self.connect_timeout, connecting)
            .await
            .unwrap_or_else(|_| Err(Trouble::Connect("not in connect_timeout".to_owned())))
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

fn trouble(unreached: Unreached) -> Trouble {
    match unreached {
        Unreached::Resolve(_) => Trouble::Resolve,
        Unreached::Refused(address, kind) => Trouble::AddressRefused { address, kind },
        Unreached::Proxy(why) => Trouble::Connect(why),
        Unreached::Tls(error) if error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()) => {
            Trouble::Tls(error.to_string())
        }
        Unreached::Connect(error) | Unreached::Tls(error) => Trouble::Connect(error.kind().to_string()),
    }
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

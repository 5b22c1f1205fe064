//! A request and its answer on their way: heads are written anew, bodies pass as they come.
//!
//! Invariant: what is given up on one side is given up on the other. When a tool hangs up, its request
//! is dropped here, and with it the gateway's stream; when the gateway's answer breaks off, the tool's
//! connection is aborted and never ends cleanly.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ACCESS_CONTROL_ALLOW_ORIGIN, AUTHORIZATION, CONNECTION, COOKIE, EXPECT, HOST, ORIGIN, PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION, REFERER, TE, TRAILER, TRANSFER_ENCODING, UPGRADE, VARY,
};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use crate::overlay::dial::Dial;
use crate::overlay::dial::admit::Admitted;
use crate::overlay::dial::link::Lease;
use crate::overlay::dial::places::Guest;
use crate::overlay::dial::refusal::Refusal;

/// How long a request waits for its turn.
const TURN: Duration = Duration::from_secs(5);
/// How long the gateway may take to begin its answer. It has limits of its own, which are shorter.
const FIRST_BYTE: Duration = Duration::from_secs(1800);

/// Between one hop and the next only (RFC 9110, section 7.6.1), in either direction.
const HOP: [HeaderName; 9] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// What of a tool's head stays here. Credentials and cookies are this machine's own affair, the page is
/// judged here, and the rest is framing.
const STAYS: [HeaderName; 11] = [
    HOST,
    EXPECT,
    AUTHORIZATION,
    HeaderName::from_static("x-api-key"),
    HeaderName::from_static("api-key"),
    HeaderName::from_static("x-goog-api-key"),
    COOKIE,
    ORIGIN,
    REFERER,
    HeaderName::from_static("http2-settings"),
    HeaderName::from_static("forwarded"),
];
const STAYS_TOO: [&str; 4] = ["x-doorward-", "sec-", "x-forwarded-", "access-control-"];

/// What a tool gets.
pub(super) type Answer = Either<Relayed, Full<Bytes>>;

/// Answers one request. Never fails: a refusal is an answer too.
pub(super) async fn handle(dial: Arc<Dial>, guest: Arc<Guest>, request: Request<Incoming>) -> Response<Answer> {
    let path = request.uri().path().to_owned();
    match answer(&dial, &guest, request).await {
        Ok(response) => response.map(Either::Left),
        Err(refusal) => {
            tracing::debug!(path, code = refusal.code().1, "not passed on");
            refusal.response(&path).map(Either::Right)
        }
    }
}

async fn answer(dial: &Dial, guest: &Guest, request: Request<Incoming>) -> Result<Response<Relayed>, Refusal> {
    let (mut head, body) = request.into_parts();
    // Of one config from here to the end.
    let terms = dial.terms.load_full();
    let admitted = terms.rules.admit(&head)?;
    if !guest.is_a_tool().await {
        return Err(Refusal::Overloaded);
    }
    let turn = timeout(TURN, Arc::clone(&dial.requests).acquire_owned()).await;
    let Ok(Ok(permit)) = turn else { return Err(Refusal::Overloaded) };
    head.headers = outward(&head.headers, &admitted, terms.key.as_ref());
    let sent = timeout(FIRST_BYTE, terms.links.send(Request::from_parts(head, body))).await;
    let (response, lease) = sent.map_err(|_| Refusal::Timeout)??;
    let (mut head, body) = response.into_parts();
    head.headers = inward(&head.headers, admitted.origin);
    head.version = http::Version::HTTP_11;
    Ok(Response::from_parts(head, Relayed { body, lease, _permit: permit }))
}

/// The head that the gateway gets.
fn outward(from_tool: &HeaderMap, admitted: &Admitted, key: Option<&HeaderValue>) -> HeaderMap {
    let stays =
        |name: &HeaderName| STAYS.contains(name) || STAYS_TOO.iter().any(|prefix| name.as_str().starts_with(prefix));
    let mut headers = next_hop(from_tool, stays);
    match key {
        Some(key) => {
            headers.insert(AUTHORIZATION, key.clone());
        }
        None => headers.extend(admitted.keys.iter().map(|(name, value)| {
            let mut value = value.clone();
            value.set_sensitive(true);
            (name.clone(), value)
        })),
    }
    headers
}

/// The head that the tool gets.
fn inward(from_gateway: &HeaderMap, page: Option<HeaderValue>) -> HeaderMap {
    let mut headers = next_hop(from_gateway, |name| name.as_str().starts_with("access-control-"));
    if let Some(page) = page {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, page);
        headers.append(VARY, HeaderValue::from_static("origin"));
    }
    headers
}

/// Headers without those between one hop and the next, and without those that stay.
fn next_hop(from: &HeaderMap, stays: impl Fn(&HeaderName) -> bool) -> HeaderMap {
    let named = |name: &HeaderName| {
        from.get_all(CONNECTION).iter().any(|value| {
            let mut names = value.as_bytes().split(|byte| *byte == b',');
            names.any(|named| named.trim_ascii().eq_ignore_ascii_case(name.as_str().as_bytes()))
        })
    };
    let passes = |name: &HeaderName| !(HOP.contains(name) || stays(name) || named(name));
    from.iter().filter(|(name, _)| passes(name)).map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// An answer's body with all that must last as long as it does.
pub(super) struct Relayed {
    body: Incoming,
    lease: Lease,
    _permit: OwnedSemaphorePermit,
}

impl Body for Relayed {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        match &polled {
            Poll::Ready(None) => self.lease.finished(),
            Poll::Ready(Some(Ok(_))) if self.body.is_end_stream() => self.lease.finished(),
            Poll::Ready(Some(Err(error))) => match self.lease.alert() {
                Some(alert) => tracing::warn!("the gateway ended the connection: {alert}"),
                None => tracing::info!(%error, "an answer broke off"),
            },
            Poll::Ready(Some(Ok(_))) | Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Relayed {
    fn drop(&mut self) {
        // A body without bytes is never asked for any.
        if self.body.is_end_stream() {
            self.lease.finished();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        fields.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    fn names(headers: &HeaderMap) -> Vec<&str> {
        headers.keys().map(HeaderName::as_str).collect()
    }

    #[test]
    fn what_is_this_machines_own_stays_here() {
        let from_tool = headers(&[
            ("host", "localhost:11434"),
            ("authorization", "Bearer sk-secret"),
            ("x-api-key", "sk-secret"),
            ("api-key", "sk-secret"),
            ("x-goog-api-key", "sk-secret"),
            ("cookie", "session=1"),
            ("origin", "http://localhost:3000"),
            ("referer", "http://localhost:3000/secret"),
            ("proxy-authorization", "Basic x"),
            ("connection", "close, X-Mine"),
            ("x-mine", "1"),
            ("keep-alive", "1"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("http2-settings", "x"),
            ("expect", "100-continue"),
            ("x-forwarded-for", "1.2.3.4"),
            ("x-doorward-origin", "gateway"),
            ("sec-fetch-site", "none"),
            ("accept", "*/*"),
            ("content-type", "application/json"),
            ("anthropic-version", "2023-06-01"),
        ]);
        let passed = outward(&from_tool, &Admitted::default(), None);
        assert_eq!(names(&passed), ["accept", "content-type", "anthropic-version"]);
    }

    #[test]
    fn a_configured_key_takes_the_place_of_the_tools() {
        let key = (HeaderName::from_static("x-api-key"), HeaderValue::from_static("dw_tool"));
        let admitted = Admitted { keys: vec![key.clone()], origin: None };
        let passed = outward(&headers(&[("x-api-key", "dw_tool")]), &admitted, None);
        assert_eq!((passed.get("x-api-key"), passed.len()), (Some(&key.1), 1));
        let configured = HeaderValue::from_static("Bearer dw_config");
        let passed = outward(&headers(&[("x-api-key", "dw_tool")]), &admitted, Some(&configured));
        assert_eq!((passed.get("authorization"), passed.len()), (Some(&configured), 1));
    }

    #[test]
    fn only_a_page_that_may_call_may_read() {
        let from_gateway =
            headers(&[("access-control-allow-origin", "*"), ("content-type", "x"), ("connection", "close")]);
        assert_eq!(names(&inward(&from_gateway, None)), ["content-type"]);
        let page = inward(&from_gateway, Some(HeaderValue::from_static("http://localhost:3000")));
        assert_eq!(page.get("access-control-allow-origin").unwrap(), "http://localhost:3000");
        assert_eq!(page.get("vary").unwrap(), "origin");
    }
}

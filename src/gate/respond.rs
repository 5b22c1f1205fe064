//! Responses that the gateway makes itself.

use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONNECTION, CONTENT_TYPE, EXPECT, RETRY_AFTER, WWW_AUTHENTICATE};
use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, Response, StatusCode, Version};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use tokio::time::timeout;

use crate::dialect::errors::Shape;
use crate::domain::refusal::{Code, Refusal, Retry};
use crate::gate::body::is_plainly_framed;
use crate::gate::connection::Connection;
use crate::gate::headers::{X_DOORWARD_ORIGIN, X_REQUEST_ID};
use crate::gate::record::Record;
use crate::gate::stream::ReplyBody;

/// `Retry-After` in milliseconds, as SDKs read it.
const RETRY_AFTER_MS: HeaderName = HeaderName::from_static("retry-after-ms");
/// Whether a client's own retries can help.
const X_SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

/// Turns a refusal into a response in the dialect of the path.
#[must_use]
pub fn refuse(refusal: &Refusal, shape: Shape, head: &Parts, mut record: Option<Record>) -> Response<ReplyBody> {
    if let Some(record) = &mut record {
        record.refused(refusal);
    }
    let request_id = record.as_ref().map_or("", Record::id);
    let body = Bytes::from(shape.body(refusal, request_id));
    let mut response = made_here(refusal.status(), shape.content_type(), body, head, record);
    let headers = response.headers_mut();
    match refusal.retry() {
        Retry::AsTheClientLikes => {}
        Retry::After(wait) => {
            let millis = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
            headers.insert(RETRY_AFTER, HeaderValue::from(millis.div_ceil(1000).max(1)));
            headers.insert(RETRY_AFTER_MS, HeaderValue::from(millis));
        }
        Retry::Never => {
            headers.insert(X_SHOULD_RETRY, HeaderValue::from_static("false"));
        }
    }
    if let Refusal::MethodNotAllowed { allow } = refusal {
        headers.insert(ALLOW, HeaderValue::from_static(allow));
    }
    if refusal.status() == StatusCode::UNAUTHORIZED {
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    if refusal.code() == Code::HttpVersionNotSupported {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Turns an answer of the gateway's own into a response.
#[must_use]
pub fn answer(content_type: &'static str, body: Bytes, head: &Parts, mut record: Record) -> Response<ReplyBody> {
    record.answered(StatusCode::OK.as_u16());
    made_here(StatusCode::OK, content_type, body, head, Some(record))
}

/// An answer that has nothing to say: leave to call.
#[must_use]
pub fn nothing(head: &Parts, mut record: Record) -> Response<ReplyBody> {
    record.answered(StatusCode::NO_CONTENT.as_u16());
    let mut response = made_here(StatusCode::NO_CONTENT, "", Bytes::new(), head, Some(record));
    response.headers_mut().remove(CONTENT_TYPE);
    response
}

/// The record ends here, before the first byte is sent. A caller that never reads its refusal would
/// otherwise hold a place in the queue of records, and its connection busy, for as long as it likes;
/// callers that are nobody yet could so take all places.
fn made_here(
    status: StatusCode,
    content_type: &'static str,
    body: Bytes,
    head: &Parts,
    record: Option<Record>,
) -> Response<ReplyBody> {
    let body = if head.method == Method::HEAD { Bytes::new() } else { body };
    let length = body.len();
    let mut response = Response::new(ReplyBody::Whole(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(X_DOORWARD_ORIGIN, HeaderValue::from_static("gateway"));
    if let Some(mut record) = record {
        headers.insert(X_REQUEST_ID, record.id_header());
        record.sent(length);
    }
    response
}

/// Most bytes of a refused body that are read and thrown away.
const DRAIN_BYTES: usize = 256 * 1024;
/// Longest time that a refused body is read for.
const DRAIN_TIME: Duration = Duration::from_secs(2);

/// Reads on what is left of a refused request's body, within bounds, while the refusal is on its
/// way: a caller that still sends must see the answer and not a reset. When the body ends within
/// the bounds the connection stays usable, else hyper closes it. Where that is known beforehand the
/// answer says so: a caller must not send its next request into a closing connection. Nor is a
/// connection used again on which two readers could disagree where the request ends.
pub fn drain_or_close(head: &Parts, mut body: Incoming, connection: &Connection, response: &mut Response<ReplyBody>) {
    let has_body = !body.is_end_stream();
    let awaits_leave = has_body && awaits_leave(head);
    let too_long = body.size_hint().lower() > DRAIN_BYTES as u64;
    let oddly_framed = head.method == Method::CONNECT || !is_plainly_framed(&head.headers);
    if head.version == Version::HTTP_11 && (awaits_leave || too_long || oddly_framed) {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    if !has_body {
        return;
    }
    if awaits_leave {
        return;
    }
    // Owned by nobody on purpose: bounded in time and bytes, and over with its connection.
    let busy = connection.supervised.request_begins();
    tokio::spawn(async move {
        // What still comes in belongs to this request and is no head of the next.
        let _busy = busy;
        let mut left = DRAIN_BYTES;
        let drained = async {
            while let Some(Ok(frame)) = body.frame().await {
                let length = frame.data_ref().map_or(0, Bytes::len);
                match left.checked_sub(length) {
                    Some(rest) => left = rest,
                    // To close now would reset the connection, and many clients throw the answer
                    // away when that happens to their write. One that cannot write reads.
                    None => return std::future::pending().await,
                }
            }
        };
        // Out of time is as good as out of bytes.
        let _ = timeout(DRAIN_TIME, drained).await.is_ok();
    });
}

/// Reads a body that nobody wants, to its end or to a bound: many clients that cannot write read no answer.
pub async fn read_off(body: &mut Incoming, most: usize, span: Duration) {
    let read = async {
        let mut length = 0;
        while let Some(Ok(frame)) = body.frame().await {
            length += frame.data_ref().map_or(0, Bytes::len);
            if length > most {
                return;
            }
        }
    };
    // Out of time is as good as out of bytes.
    let _ = timeout(span, read).await.is_ok();
}

/// True when the caller waits for leave to send its body: nothing is on its way then.
fn awaits_leave(head: &Parts) -> bool {
    head.version == Version::HTTP_11 && head.headers.contains_key(EXPECT)
}

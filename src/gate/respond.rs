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
use crate::gate::headers::{X_DOORWARD_ORIGIN, X_REQUEST_ID};
use crate::gate::record::Record;
use crate::gate::stream::ReplyBody;

/// Turns a refusal into a response in the dialect of the path.
#[must_use]
pub fn refuse(refusal: &Refusal, shape: Shape, mut record: Option<Record>) -> Response<ReplyBody> {
    if let Some(record) = &mut record {
        record.refused(refusal);
    }
    let request_id = record.as_ref().map_or("", Record::id);
    let body = Bytes::from(shape.body(refusal, request_id));
    let mut response = made_here(refusal.code().status(), shape.content_type(), body, record);
    let headers = response.headers_mut();
    match refusal.retry() {
        Retry::AsTheClientLikes => {}
        Retry::After(wait) => {
            headers.insert(RETRY_AFTER, HeaderValue::from(wait.as_secs().max(1)));
            headers.insert(
                HeaderName::from_static("retry-after-ms"),
                HeaderValue::from(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)),
            );
        }
        Retry::Never => {
            headers.insert(HeaderName::from_static("x-should-retry"), HeaderValue::from_static("false"));
        }
    }
    if let Refusal::MethodNotAllowed { allow } = refusal {
        headers.insert(ALLOW, HeaderValue::from_static(allow));
    }
    if refusal.code().status() == StatusCode::UNAUTHORIZED {
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    if refusal.code() == Code::HttpVersionNotSupported {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Turns an answer of the gateway's own into a response.
#[must_use]
pub fn answer(content_type: &'static str, body: Bytes, mut record: Record) -> Response<ReplyBody> {
    record.answered(StatusCode::OK.as_u16());
    made_here(StatusCode::OK, content_type, body, Some(record))
}

fn made_here(
    status: StatusCode,
    content_type: &'static str,
    body: Bytes,
    record: Option<Record>,
) -> Response<ReplyBody> {
    let id = record.as_ref().map(Record::id_header);
    let mut response = Response::new(ReplyBody::whole(body, record));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(X_DOORWARD_ORIGIN, HeaderValue::from_static("gateway"));
    if let Some(id) = id {
        headers.insert(X_REQUEST_ID, id);
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
/// answer says so: a caller must not send its next request into a closing connection.
pub fn drain_or_close(head: &Parts, mut body: Incoming, response: &mut Response<ReplyBody>) {
    if body.is_end_stream() {
        return;
    }
    let awaits_leave = awaits_leave(head);
    let too_long = body.size_hint().lower() > DRAIN_BYTES as u64;
    if head.version == Version::HTTP_11 && (awaits_leave || too_long) {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    if awaits_leave {
        return;
    }
    // Owned by nobody on purpose: bounded in time and bytes, and over with its connection.
    tokio::spawn(async move {
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

/// True when the caller waits for leave to send its body: nothing is on its way then.
fn awaits_leave(head: &Parts) -> bool {
    head.version == Version::HTTP_11 && head.headers.contains_key(EXPECT)
}

/// A response to HEAD has no body.
#[must_use]
pub fn without_body_for(method: &Method, mut response: Response<ReplyBody>) -> Response<ReplyBody> {
    if *method == Method::HEAD
        && let ReplyBody::Whole(whole) = response.body_mut()
    {
        whole.clear();
    }
    response
}

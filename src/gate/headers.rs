//! Which headers pass, in either direction. Framing is always made anew.
//!
//! What passes however a backend is reached is listed once, beside what tunnels carry
//! ([`passage`](crate::overlay::protocol::passage)); here is what is decided at the gateway alone.

use bytes::BytesMut;
use http::header::{
    ACCEPT_ENCODING, ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ALT_SVC, AUTHORIZATION,
    CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_LOCATION, CONTENT_TYPE, DATE, HOST, LOCATION, REFRESH,
    SERVER, SET_COOKIE, VIA, WWW_AUTHENTICATE,
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use crate::backend::Upstream;
use crate::backend::reply::Fields;
use crate::backend::transport::Way;
use crate::gate::record::Record;
use crate::overlay::protocol::passage::{caller_header_passes, request_header_passes, response_header_passes};

/// What a backend may not say to a caller, besides what is no backend's to say anywhere.
const NOT_TO_CALLER: [HeaderName; 20] = [
    SERVER,
    // These can hold a backend's address, or tell a browser what is not a backend's to say.
    LOCATION,
    CONTENT_LOCATION,
    REFRESH,
    VIA,
    HeaderName::from_static("clear-site-data"),
    SET_COOKIE,
    ALT_SVC,
    ACCESS_CONTROL_ALLOW_CREDENTIALS,
    ACCESS_CONTROL_ALLOW_HEADERS,
    ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS,
    ACCESS_CONTROL_MAX_AGE,
    HeaderName::from_static("access-control-allow-private-network"),
    CONTENT_ENCODING,
    DATE,
    WWW_AUTHENTICATE,
    X_REQUEST_ID,
    HeaderName::from_static("openai-organization"),
];

/// Our id of the request, in both directions.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// On every response that the gateway made itself.
pub const X_DOORWARD_ORIGIN: HeaderName = HeaderName::from_static("x-doorward-origin");
/// Room for a head, and for most bodies: both go out as one piece then.
const HEAD_AND_SMALL_BODY: usize = 2048;

/// The head of the request to a backend, written anew: framing, host, credential and id are ours,
/// and of the caller's headers only those listed pass. There is room behind it for a small body.
#[must_use]
pub fn request_head(
    target: (&str, &str, Option<&str>),
    from_caller: &HeaderMap,
    (way, upstream): (&Way, &Upstream),
    record: &Record,
    content_length: usize,
) -> BytesMut {
    let (base, path, query) = target;
    let mut head = BytesMut::with_capacity(HEAD_AND_SMALL_BODY);
    for part in ["POST ", base, path, query.map_or("", |_| "?"), query.unwrap_or(""), " HTTP/1.1\r\n"] {
        head.extend_from_slice(part.as_bytes());
    }
    // A header's value cannot hold what would end its line: `HeaderValue` sees to that.
    let mut put = |name: &str, value: &[u8]| {
        head.extend_from_slice(name.as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(value);
        head.extend_from_slice(b"\r\n");
    };
    put(HOST.as_str(), upstream.host.as_bytes());
    put(ACCEPT_ENCODING.as_str(), b"identity");
    if let Some(credential) = &upstream.credential {
        put(AUTHORIZATION.as_str(), credential.as_bytes());
    }
    to_backend(from_caller, way, record, content_length, put);
    head.extend_from_slice(b"\r\n");
    head
}

/// The headers of a request through a tunnel. What belongs to the backend alone, its host and its
/// credential, its connector adds.
#[must_use]
pub fn through_tunnel(from_caller: &HeaderMap, way: &Way, record: &Record, content_length: usize) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(12);
    to_backend(from_caller, way, record, content_length, |name, value| {
        // They come from headers and from text that fits into one, so these are a formality.
        let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_bytes(value)) else {
            return;
        };
        if request_header_passes(&name, &value) {
            headers.append(name, value);
        }
    });
    headers
}

/// The headers that every backend gets, however it is reached.
fn to_backend(
    from_caller: &HeaderMap,
    way: &Way,
    record: &Record,
    content_length: usize,
    mut put: impl FnMut(&str, &[u8]),
) {
    put(CONTENT_TYPE.as_str(), b"application/json");
    put(CONTENT_LENGTH.as_str(), content_length.to_string().as_bytes());
    let connection = || from_caller.get_all(CONNECTION).iter().map(HeaderValue::as_bytes);
    let names_some = connection().next().is_some();
    for (name, value) in from_caller {
        if caller_header_passes(name, value) && !(names_some && names_in_connection(connection(), name)) {
            put(name.as_str(), value.as_bytes());
        }
    }
    put(X_REQUEST_ID.as_str(), record.id().as_bytes());
    if way.forwards_identity() {
        for (name, value) in record.identity() {
            put(name, value.as_bytes());
        }
    }
}

/// What of a reply's head goes on to the caller. `edited` replies have another length, and one of
/// status 204 has none (RFC 9110, 8.6).
#[must_use]
pub fn to_caller(status: StatusCode, from_backend: &Fields, record: &Record, edited: bool) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(8);
    for (name, value) in from_backend.iter() {
        // The head's parser has passed them, so these are a formality.
        let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) else { continue };
        let for_us_alone = names_in_connection(from_backend.all("connection"), &name);
        let length_changes = (edited || status == StatusCode::NO_CONTENT) && name == CONTENT_LENGTH;
        if response_header_passes(&name, for_us_alone) && !(length_changes || NOT_TO_CALLER.contains(&name)) {
            headers.append(name, value);
        }
    }
    headers.insert(X_REQUEST_ID, record.id_header());
    headers
}

/// True when one of the `Connection` fields names the header: then it was meant for us alone.
fn names_in_connection<'v>(mut connection: impl Iterator<Item = &'v [u8]>, name: &HeaderName) -> bool {
    connection.any(|value| {
        value.split(|&b| b == b',').any(|named| named.trim_ascii().eq_ignore_ascii_case(name.as_str().as_bytes()))
    })
}

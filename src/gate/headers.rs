//! Which headers pass, in either direction. Framing is always made anew.

use bytes::{Bytes, BytesMut};
use http::header::{
    ACCEPT, ACCEPT_ENCODING, ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS,
    ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ALT_SVC, AUTHORIZATION, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, DATE, HOST, PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION, SERVER, SET_COOKIE, TE, TRAILER, TRANSFER_ENCODING, UPGRADE, WWW_AUTHENTICATE,
};
use http::{HeaderMap, HeaderName};

use crate::backend::Upstream;
use crate::gate::record::Record;

/// What a caller may say to a backend.
const TO_BACKEND: [HeaderName; 7] = [
    ACCEPT,
    HeaderName::from_static("anthropic-version"),
    HeaderName::from_static("anthropic-beta"),
    HeaderName::from_static("openai-beta"),
    HeaderName::from_static("idempotency-key"),
    HeaderName::from_static("traceparent"),
    HeaderName::from_static("tracestate"),
];

/// What a backend may not say to a caller, besides `x-doorward-*`.
const NOT_TO_CALLER: [HeaderName; 24] = [
    SERVER,
    SET_COOKIE,
    ALT_SVC,
    ACCESS_CONTROL_ALLOW_CREDENTIALS,
    ACCESS_CONTROL_ALLOW_HEADERS,
    ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS,
    ACCESS_CONTROL_MAX_AGE,
    HeaderName::from_static("access-control-allow-private-network"),
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
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
const OURS: &str = "x-doorward-";

/// The head of the request to a backend, written anew: framing, host, credential and id are ours,
/// and of the caller's headers only those listed pass.
#[must_use]
pub fn request_head(
    target: &str,
    from_caller: &HeaderMap,
    upstream: &Upstream,
    record: &Record,
    content_length: usize,
) -> Bytes {
    let mut head = BytesMut::with_capacity(512);
    // A header's value cannot hold what would end its line: `HeaderValue` sees to that.
    let mut put = |name: &str, value: &[u8]| {
        head.extend_from_slice(name.as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(value);
        head.extend_from_slice(b"\r\n");
    };
    put(HOST.as_str(), upstream.host.as_bytes());
    put(CONTENT_TYPE.as_str(), b"application/json");
    put(CONTENT_LENGTH.as_str(), content_length.to_string().as_bytes());
    put(ACCEPT_ENCODING.as_str(), b"identity");
    for name in &TO_BACKEND {
        if !is_hop_by_hop_by_request(from_caller, name) {
            // Readers differ on bytes outside of ASCII, and none of these headers has a use for them.
            for value in from_caller.get_all(name).iter().filter(|value| value.to_str().is_ok()) {
                put(name.as_str(), value.as_bytes());
            }
        }
    }
    if let Some(credential) = &upstream.credential {
        put(AUTHORIZATION.as_str(), credential.as_bytes());
    }
    put(X_REQUEST_ID.as_str(), record.id().as_bytes());
    if upstream.forward_identity {
        for (name, value) in record.identity() {
            put(name, value.as_bytes());
        }
    }
    let mut request = BytesMut::with_capacity(head.len() + target.len() + 24);
    request.extend_from_slice(b"POST ");
    request.extend_from_slice(target.as_bytes());
    request.extend_from_slice(b" HTTP/1.1\r\n");
    request.extend_from_slice(&head);
    request.extend_from_slice(b"\r\n");
    request.freeze()
}

/// True when the caller named the header in `Connection`: then it was meant for us alone.
fn is_hop_by_hop_by_request(headers: &HeaderMap, name: &HeaderName) -> bool {
    headers.get_all(CONNECTION).iter().any(|value| {
        value
            .as_bytes()
            .split(|&b| b == b',')
            .any(|named| named.trim_ascii().eq_ignore_ascii_case(name.as_str().as_bytes()))
    })
}

/// Takes away what a backend may not say to a caller. `edited` replies have another length.
pub fn to_caller(headers: &mut HeaderMap, record: &Record, edited: bool) {
    if headers.contains_key(CONNECTION) {
        let named: Vec<HeaderName> = headers
            .get_all(CONNECTION)
            .iter()
            .flat_map(|value| value.as_bytes().split(|&b| b == b','))
            .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
            .filter(|name| *name != CONTENT_LENGTH && *name != CONTENT_TYPE)
            .collect();
        for name in named {
            headers.remove(name);
        }
    }
    for name in &NOT_TO_CALLER {
        headers.remove(name);
    }
    if headers.keys().any(|name| name.as_str().starts_with(OURS)) {
        let ours: Vec<HeaderName> = headers.keys().filter(|name| name.as_str().starts_with(OURS)).cloned().collect();
        for name in ours {
            headers.remove(name);
        }
    }
    if edited {
        headers.remove(CONTENT_LENGTH);
    }
    headers.insert(X_REQUEST_ID, record.id_header());
}

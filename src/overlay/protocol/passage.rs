//! What may pass through a tunnel, at both ends: methods, paths, queries, headers.
//!
//! Invariant: a gateway that fell into wrong hands reaches nothing but the endpoints that the
//! connector's own config allows. A request names an [`Endpoint`] or is refused; the path that a
//! backend gets is written from the endpoint table, never copied.

use http::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};

use crate::dialect::paths::{allow, check_query, find, has_credential, upstream_path};
use crate::domain::endpoint::Endpoint;
use crate::overlay::protocol::{CONTROL_PATH, is_name};

/// What a caller may say to a backend, however that is reached. Nothing else of a caller's passes: no
/// credential, no cookie, no `Host`.
const OF_CALLER: [HeaderName; 7] = [
    ACCEPT,
    HeaderName::from_static("anthropic-version"),
    HeaderName::from_static("anthropic-beta"),
    HeaderName::from_static("openai-beta"),
    HeaderName::from_static("idempotency-key"),
    HeaderName::from_static("traceparent"),
    HeaderName::from_static("tracestate"),
];

/// What a gateway says itself, and a connector passes on beside those. What belongs to a backend is
/// added by its connector.
const OF_GATEWAY: [HeaderName; 7] = [
    CONTENT_TYPE,
    CONTENT_LENGTH,
    HeaderName::from_static("x-request-id"),
    // Who is calling, where the gateway's config says that the backend is to know.
    HeaderName::from_static("x-doorward-subject"),
    HeaderName::from_static("x-doorward-owner"),
    HeaderName::from_static("x-doorward-key-id"),
    HeaderName::from_static("x-doorward-request-id"),
];

/// Response headers that stay where the backend is connected to: they speak of that connection, and
/// HTTP/2 has no place for them (RFC 9113, 8.2.2).
const OF_ONE_HOP: [&str; 9] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "transfer-encoding",
    "te",
    "trailer",
    "upgrade",
    "proxy-authenticate",
    "proxy-authorization",
];

/// The gateway's own headers: a backend has none of them to say.
const OURS: &str = "x-doorward-";

/// True when a request header passes from the caller to the backend.
#[must_use]
pub fn caller_header_passes(name: &HeaderName, value: &HeaderValue) -> bool {
    // Readers differ on bytes outside of ASCII, and none of these headers has a use for them.
    OF_CALLER.contains(name) && value.to_str().is_ok()
}

/// True when a request header passes from the gateway to the backend.
#[must_use]
pub fn request_header_passes(name: &HeaderName, value: &HeaderValue) -> bool {
    caller_header_passes(name, value) || (OF_GATEWAY.contains(name) && value.to_str().is_ok())
}

/// True when a response header, or a trailer, of a backend passes to the gateway, and with any backend
/// from there on. `names_hop` tells whether the backend's `Connection` header names it.
#[must_use]
pub fn response_header_passes(name: &HeaderName, names_hop: bool) -> bool {
    let of_message = name == CONTENT_LENGTH || name == CONTENT_TYPE;
    let name = name.as_str();
    !(OF_ONE_HOP.contains(&name) || name.starts_with(OURS) || (names_hop && !of_message))
}

/// What a request through a tunnel asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Asked {
    /// The control stream.
    Control,
    /// An endpoint of a backend.
    Backend(Target),
}

/// An endpoint of a backend.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target {
    /// The backend's name.
    pub backend: String,
    /// The endpoint.
    pub endpoint: Endpoint,
    /// What of the query passes.
    pub query: Option<String>,
}

impl Target {
    /// The path at the backend, written from the endpoint table.
    #[must_use]
    pub const fn path(&self) -> &'static str {
        upstream_path(self.endpoint)
    }
}

/// Why a request does not pass.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NotPassed {
    /// The authority is not the name of a backend.
    #[error("the authority is not a name")]
    Authority,
    /// Method and path are those of no endpoint.
    #[error("method and path are those of no endpoint")]
    Path,
    /// The query has something that no endpoint takes.
    #[error("the query has something that the endpoint does not take")]
    Query,
}

/// Reads what a request asks for. Whether the backend exists and allows the endpoint is for the
/// connector's config to say.
///
/// # Errors
///
/// See [`NotPassed`].
pub fn read(method: &Method, uri: &Uri) -> Result<Asked, NotPassed> {
    let authority = uri.authority().map(http::uri::Authority::as_str).unwrap_or_default();
    if uri.path() == CONTROL_PATH {
        return if *method == Method::POST && uri.query().is_none() {
            Ok(Asked::Control)
        } else {
            Err(NotPassed::Path)
        };
    }
    if !is_name(authority) {
        return Err(NotPassed::Authority);
    }
    let route = find(method, uri.path()).map_err(|_| NotPassed::Path)?;
    // HEAD, too, is answered by the gateway: no backend is asked with it.
    if *method != self::method(route.endpoint) {
        return Err(NotPassed::Path);
    }
    // The gateway answers it itself; and its path is the only one with a part of a caller's in it.
    if route.endpoint == Endpoint::OpenAiModel {
        return Err(NotPassed::Path);
    }
    // A query that carries a credential was never let through by a gateway in its right mind.
    if uri.query().is_some_and(has_credential) {
        return Err(NotPassed::Query);
    }
    let query = check_query(route.endpoint, uri.query()).map_err(|_| NotPassed::Query)?;
    // What the gateway sends was filtered by it: a parameter that does not survive was put there.
    if query.as_deref() != uri.query() {
        return Err(NotPassed::Query);
    }
    Ok(Asked::Backend(Target { backend: authority.to_owned(), endpoint: route.endpoint, query }))
}

/// The URI of a request through a tunnel, for the gateway to send.
///
/// # Errors
///
/// When `backend` or `query` are nothing that [`read`] takes.
pub fn write(backend: &str, endpoint: Endpoint, query: Option<&str>) -> Result<Uri, NotPassed> {
    if !is_name(backend) {
        return Err(NotPassed::Authority);
    }
    let path = upstream_path(endpoint);
    let target = query.map_or_else(|| path.to_owned(), |query| format!("{path}?{query}"));
    let uri = Uri::builder().scheme("https").authority(backend).path_and_query(target);
    let uri = uri.build().map_err(|_| NotPassed::Query)?;
    let method = method(endpoint);
    match read(&method, &uri)? {
        Asked::Backend(_) => Ok(uri),
        Asked::Control => Err(NotPassed::Path),
    }
}

/// The method that an endpoint is asked with.
#[must_use]
pub fn method(endpoint: Endpoint) -> Method {
    if allow(endpoint) == "POST" { Method::POST } else { Method::GET }
}

/// The request headers that pass, for either end.
#[must_use]
pub fn request_headers(from: &HeaderMap) -> HeaderMap {
    let mut passed = HeaderMap::with_capacity(8);
    for (name, value) in from {
        if request_header_passes(name, value) {
            passed.append(name, value.clone());
        }
    }
    passed
}

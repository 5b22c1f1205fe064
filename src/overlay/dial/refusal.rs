//! What a tool is told when its request does not reach the gateway, in the shape that it reads.
//!
//! These answers go to the user of this machine: they say what is wrong and what to do.

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderName, HeaderValue, Response, StatusCode};
use http_body_util::Full;

use crate::dialect::errors::shape_of;

/// On every answer that this side made, so that it is told from the gateway's.
const ORIGIN: HeaderName = HeaderName::from_static("x-doorward-origin");

/// Why a request goes no further.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// The Host is not this machine's: a page whose name was pointed here.
    ForeignHost,
    /// A web page asks that may not.
    Origin,
    /// A browser asks whether a page may.
    Preflight,
    /// No token, where one is asked for.
    TokenMissing,
    /// Something else than the token.
    TokenWrong,
    /// CONNECT, and what else is no request for a model.
    Method,
    /// HTTP/1.0, in which the end of a stream cannot be told from its being cut.
    Version,
    /// More requests at once than pass.
    Overloaded,
    /// The gateway cannot be reached.
    Unreachable(String),
    /// The connection to the gateway broke before an answer came.
    Broke(String),
    /// The gateway did not begin to answer.
    Timeout,
    /// The certificate has ended, or the gateway does not take it.
    Certificate(String),
}

impl Refusal {
    /// HTTP status and stable code.
    #[must_use]
    pub const fn code(&self) -> (StatusCode, &'static str) {
        match self {
            Self::ForeignHost => (StatusCode::FORBIDDEN, "host_not_allowed"),
            Self::Origin => (StatusCode::FORBIDDEN, "origin_not_allowed"),
            Self::Preflight => (StatusCode::FORBIDDEN, "preflight_not_allowed"),
            Self::TokenMissing => (StatusCode::UNAUTHORIZED, "token_required"),
            Self::TokenWrong => (StatusCode::UNAUTHORIZED, "token_wrong"),
            Self::Method => (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed"),
            Self::Version => (StatusCode::HTTP_VERSION_NOT_SUPPORTED, "http_version_not_supported"),
            Self::Overloaded => (StatusCode::SERVICE_UNAVAILABLE, "overloaded"),
            Self::Unreachable(_) => (StatusCode::BAD_GATEWAY, "gateway_unreachable"),
            Self::Broke(_) => (StatusCode::BAD_GATEWAY, "gateway_broke"),
            Self::Timeout => (StatusCode::GATEWAY_TIMEOUT, "gateway_timeout"),
            Self::Certificate(_) => (StatusCode::BAD_GATEWAY, "certificate_refused"),
        }
    }

    fn message(&self) -> String {
        match self {
            Self::ForeignHost => "doorward dial answers to localhost and its own address only.".to_owned(),
            Self::Origin => {
                "doorward dial does not serve this web page; allowed_origins in dial.toml names those that it does."
                    .to_owned()
            }
            Self::Preflight => {
                "doorward dial answers no preflight: a web page must not borrow its identity.".to_owned()
            }
            Self::TokenMissing => {
                "doorward dial asks for its local token as API key: `doorward dial --print-env` shows it.".to_owned()
            }
            Self::TokenWrong => {
                "The API key is not the local token of doorward dial: `doorward dial --print-env` shows it.".to_owned()
            }
            Self::Method => "doorward dial passes no request of this method on.".to_owned(),
            Self::Version => {
                "HTTP/1.0 is not supported: a truncated answer could not be told from a whole one.".to_owned()
            }
            Self::Overloaded => "Too many requests at once go through doorward dial. Try again.".to_owned(),
            Self::Unreachable(why) => format!("doorward dial: {why}."),
            Self::Broke(why) => format!("doorward dial: the connection to the gateway broke: {why}. Try again."),
            Self::Timeout => "doorward dial: the gateway did not begin to answer in time.".to_owned(),
            Self::Certificate(why) => format!("doorward dial: {why}."),
        }
    }

    /// The answer to a request for `path`.
    #[must_use]
    pub fn response(&self, path: &str) -> Response<Full<Bytes>> {
        let ((status, code), shape) = (self.code(), shape_of(path));
        let body = shape.body_before(status, code, &self.message());
        let mut response = Response::new(Full::new(Bytes::from(body)));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(shape.content_type()));
        headers.insert(ORIGIN, HeaderValue::from_static("dial"));
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if *self == Self::Overloaded {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if *self == Self::Method {
            headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD, POST"));
        }
        response
    }
}

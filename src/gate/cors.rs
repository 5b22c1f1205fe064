//! Web pages as callers (CORS): which page may call, and what it may read of the answer.
//! Source: the CORS protocol of the Fetch standard.
//!
//! Invariant: nothing of this lets a request pass that would not pass without; it adds the check
//! that a page may not lend itself a certificate, and tells browsers what pages may read. Before a
//! caller is known, a page may read what any stranger may read, if *any* grant lists it; after
//! that, what its caller is told, if the caller's *own* grants list it.

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Response};

use crate::dialect::paths;
use crate::domain::grant::{DecidedBy, OwnerTree, Standing};
use crate::domain::refusal::Refusal;
use crate::gate::identify::carries_credential;
use crate::gate::record::Record;
use crate::gate::respond;
use crate::gate::stream::ReplyBody;

/// What of our own headers a page may read, besides those that browsers always show.
const EXPOSED: HeaderValue =
    HeaderValue::from_static("x-request-id, x-doorward-origin, retry-after, retry-after-ms, x-should-retry");
/// For how many seconds a browser may keep leave to call. What is called is decided each time.
const LEAVE_SECONDS: HeaderValue = HeaderValue::from_static("600");
/// Longest list of header names that leave is given for, in bytes.
const MAX_REQUEST_HEADERS: usize = 2048;

/// The web page that a request comes from, if it comes from one.
#[derive(Clone, Debug)]
pub struct Page {
    /// The `Origin`; empty when there are several, or one that is no text: nothing lists that.
    origin: Option<HeaderValue>,
    /// Some grant lists it, so that answers differ with the origin.
    listed: bool,
    may_read: bool,
}

impl Page {
    /// The page that `headers` name; by now it may read nothing.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Self {
        let mut origins = headers.get_all(ORIGIN).iter();
        let origin = match (origins.next(), origins.next()) {
            (None, _) => None,
            (Some(origin), None) if origin.to_str().is_ok() => Some(origin.clone()),
            (Some(_), _) => Some(HeaderValue::from_static("")),
        };
        Self { origin, listed: false, may_read: false }
    }

    /// The origin, when the request comes from a page.
    #[must_use]
    pub fn origin(&self) -> Option<&str> {
        self.origin.as_ref().map(|origin| origin.to_str().unwrap_or_default())
    }

    /// The caller is not known yet.
    pub fn met(&mut self, owners: OwnerTree<'_>) {
        self.listed = self.origin().is_some_and(|origin| owners.lists_origin(origin));
        self.may_read = self.listed;
    }

    /// The caller is known: its own grants decide from now on.
    pub fn calls_for(&mut self, standing: &Standing<'_>) {
        self.may_read = self.origin().is_some_and(|origin| standing.check_origin(origin).is_ok());
    }

    /// Tells the browser whether the page may read the answer.
    pub fn let_read(&self, headers: &mut HeaderMap) {
        let Some(origin) = self.origin.as_ref().filter(|_| self.listed) else { return };
        headers.append(VARY, HeaderValue::from_static("Origin"));
        if self.may_read {
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            // Without it a browser neither presents a certificate nor shows what came for one.
            headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
            headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
        }
    }
}

/// A browser's question whether a page may call. Nobody is called yet, so it needs no credential.
#[derive(Debug)]
pub struct Preflight<'a> {
    asked: &'a HeaderValue,
}

impl<'a> Preflight<'a> {
    /// The question that a request is, if it is one: browsers put it without any credential of ours.
    #[must_use]
    pub fn of(head: &'a Parts) -> Option<Self> {
        let asked = head.headers.get(ACCESS_CONTROL_REQUEST_METHOD)?;
        let is_one =
            head.method == Method::OPTIONS && head.headers.contains_key(ORIGIN) && !carries_credential(&head.headers);
        is_one.then_some(Self { asked })
    }

    /// Gives leave to call: for a path and a method that exist, to a page that some grant lists.
    ///
    /// # Errors
    ///
    /// `origin_not_allowed` for another page; `not_found`, `method_not_allowed` and the like for
    /// what nobody can call.
    pub fn decide(&self, head: &Parts, page: &Page, record: &mut Record) -> Result<Leave, Refusal> {
        if !page.may_read {
            return Err(Refusal::OriginNotAllowed { by: DecidedBy::Nobody });
        }
        let method = Method::from_bytes(self.asked.as_bytes())
            .map_err(|_| Refusal::InvalidPath("Access-Control-Request-Method is no method."))?;
        let found = paths::find(&method, head.uri.path())?;
        record.asked_for(found.endpoint);
        Ok(Leave { methods: paths::allow(found.endpoint) })
    }
}

/// Leave for a page to call an endpoint.
#[derive(Debug)]
pub struct Leave {
    methods: &'static str,
}

impl Leave {
    /// The leave as a response.
    #[must_use]
    pub fn into_response(self, head: &Parts, record: Record) -> Response<ReplyBody> {
        let mut response = respond::nothing(head, record);
        let headers = response.headers_mut();
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(self.methods));
        headers.insert(ACCESS_CONTROL_MAX_AGE, LEAVE_SECONDS);
        headers.append(VARY, HeaderValue::from_static("Access-Control-Request-Method, Access-Control-Request-Headers"));
        // Any header may be sent: SDKs have many of their own, and none passes that is not listed.
        if let Some(names) = head.headers.get(ACCESS_CONTROL_REQUEST_HEADERS).filter(|names| are_names(names)) {
            headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, names.clone());
        }
        response
    }
}

/// True for a list of header names and nothing else.
fn are_names(value: &HeaderValue) -> bool {
    let letter = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b',' | b' ');
    value.len() <= MAX_REQUEST_HEADERS && value.as_bytes().iter().all(letter)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(origins: &[&[u8]]) -> Page {
        let mut headers = HeaderMap::new();
        for origin in origins {
            headers.append(ORIGIN, HeaderValue::from_bytes(origin).unwrap());
        }
        Page::of(&headers)
    }

    #[test]
    fn one_origin_in_text_is_a_page_that_can_be_listed() {
        assert_eq!(page(&[]).origin(), None);
        assert_eq!(page(&[b"https://a.example"]).origin(), Some("https://a.example"));
        assert_eq!(page(&[b"null"]).origin(), Some("null"));
        // Still a page, and none that anything lists.
        assert_eq!(page(&[b"https://a.example", b"https://a.example"]).origin(), Some(""));
        assert_eq!(page(&[b"https://\xe4.example"]).origin(), Some(""));
    }

    #[test]
    fn leave_is_given_for_names_only() {
        for (names, expected) in [
            ("authorization, content-type,x-stainless-os", true),
            ("", true),
            ("x_y", true),
            ("a:b", false),
            ("*", false),
            ("a;b", false),
        ] {
            assert_eq!(are_names(&HeaderValue::from_static(names)), expected, "{names}");
        }
        assert!(!are_names(&HeaderValue::from_str(&"a".repeat(MAX_REQUEST_HEADERS + 1)).unwrap()));
    }
}

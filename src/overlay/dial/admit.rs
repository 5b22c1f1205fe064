//! Is it a tool of this machine that asks? Pure.
//!
//! Invariant: a request passes only when it names this machine as its host, comes from no web page
//! that was not allowed, and brings the token where one is asked for. Browsers are kept out three
//! times: by the host, which a page whose name points here cannot have; by what they say of the page
//! (`Origin`, `Sec-Fetch-Site`); and by the token.

use std::net::{IpAddr, SocketAddr};

use http::header::{AUTHORIZATION, HOST, ORIGIN};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Version};

use crate::domain::origin::Origins;
use crate::overlay::dial::listener::Endpoint;
use crate::overlay::dial::refusal::Refusal;
use crate::overlay::dial::token::LocalToken;

const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
/// How a Doorward key begins.
const KEY: &[u8] = b"dw_";

/// What a request must fulfil.
#[derive(Debug)]
pub struct Rules {
    /// Hosts that are this machine.
    pub hosts: Hosts,
    /// What must be sent where tools put an API key.
    pub token: Option<LocalToken>,
    /// Pages that may call.
    pub origins: Option<Origins>,
}

/// The values of Host that name this machine.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Hosts {
    /// Exactly these, in lower case, and the port.
    Port(Vec<String>),
    /// Any port: a socket has none.
    Socket,
}

/// What of a request's credentials goes on.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Admitted {
    /// Headers with a Doorward key.
    pub keys: Vec<(HeaderName, HeaderValue)>,
    /// The page that may read the answer.
    pub origin: Option<HeaderValue>,
}

impl Hosts {
    /// What tools that connect to `endpoint` call it.
    #[must_use]
    pub fn of(endpoint: &Endpoint) -> Self {
        match endpoint {
            Endpoint::Unix(_) => Self::Socket,
            Endpoint::Loopback(address) => Self::Port(names_of(*address)),
        }
    }

    fn contain(&self, host: &str) -> bool {
        match self {
            Self::Port(names) => names.iter().any(|name| name.eq_ignore_ascii_case(host)),
            Self::Socket => {
                let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
                    Some((inner, _)) => inner,
                    None => host.split_once(':').map_or(host, |(name, _)| name),
                };
                name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
            }
        }
    }
}

fn names_of(address: SocketAddr) -> Vec<String> {
    let own = match address.ip() {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    };
    let mut names = Vec::new();
    for name in ["localhost", "127.0.0.1", "[::1]", &own] {
        names.push(format!("{name}:{}", address.port()));
        if address.port() == 80 {
            names.push(name.to_owned());
        }
    }
    names
}

impl Rules {
    /// Judges a request by its head.
    ///
    /// # Errors
    ///
    /// The first reason why it goes no further.
    pub fn admit(&self, head: &Parts) -> Result<Admitted, Refusal> {
        self.check_host(head)?;
        if head.version == Version::HTTP_10 {
            return Err(Refusal::Version);
        }
        let origin = self.check_page(&head.headers)?;
        if head.method == Method::OPTIONS {
            return Err(Refusal::Preflight);
        }
        if !matches!(head.method, Method::GET | Method::HEAD | Method::POST) {
            return Err(Refusal::Method);
        }
        self.check_token(&head.headers)?;
        let keys = presented(&head.headers).filter(|(_, _, credential)| credential.starts_with(KEY));
        Ok(Admitted { keys: keys.map(|(name, value, _)| (name, value.clone())).collect(), origin })
    }

    /// One Host, and it is this machine's; a target with a host of its own has the same.
    fn check_host(&self, head: &Parts) -> Result<(), Refusal> {
        let mut hosts = head.headers.get_all(HOST).iter();
        let (Some(host), None) = (hosts.next(), hosts.next()) else { return Err(Refusal::ForeignHost) };
        let host = host.to_str().map_err(|_| Refusal::ForeignHost)?;
        let agrees = head.uri.authority().is_none_or(|authority| authority.as_str().eq_ignore_ascii_case(host));
        if agrees && self.hosts.contain(host) { Ok(()) } else { Err(Refusal::ForeignHost) }
    }

    /// The page that asks, when one does that may.
    fn check_page(&self, headers: &HeaderMap) -> Result<Option<HeaderValue>, Refusal> {
        let mut origins = headers.get_all(ORIGIN).iter();
        match (origins.next(), origins.next()) {
            (None, _) => {}
            (Some(origin), None) => {
                let listed =
                    origin.to_str().is_ok_and(|text| self.origins.as_ref().is_some_and(|list| list.admit(text)));
                return if listed { Ok(Some(origin.clone())) } else { Err(Refusal::Origin) };
            }
            (Some(_), Some(_)) => return Err(Refusal::Origin),
        }
        // Browsers leave Origin out of some requests that pages make, and say this instead. What the
        // user typed into the address bar is none of a page's.
        let by_a_page = |site: &HeaderValue| site.as_bytes() != b"none";
        if headers.get_all(SEC_FETCH_SITE).iter().any(by_a_page) { Err(Refusal::Origin) } else { Ok(None) }
    }

    fn check_token(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let Some(token) = &self.token else { return Ok(()) };
        let mut any = false;
        for (_, _, credential) in presented(headers) {
            any = true;
            if token.is(credential) {
                return Ok(());
            }
        }
        Err(if any { Refusal::TokenWrong } else { Refusal::TokenMissing })
    }
}

/// Credentials where tools put an API key.
fn presented(headers: &HeaderMap) -> impl Iterator<Item = (HeaderName, &HeaderValue, &[u8])> {
    let bearers = headers.get_all(AUTHORIZATION).iter().filter_map(|value| {
        let (scheme, credential) = value.as_bytes().split_at_checked(7)?;
        scheme.eq_ignore_ascii_case(b"bearer ").then(|| (AUTHORIZATION, value, credential.trim_ascii()))
    });
    let keys = headers.get_all(X_API_KEY).iter().map(|value| (X_API_KEY, value, value.as_bytes().trim_ascii()));
    bearers.chain(keys)
}

#[cfg(test)]
#[path = "admit_tests.rs"]
mod tests;

//! Private inference servers: reached directly, or through the tunnels of their connectors.
//! [`transport`] is the one way to either.

pub mod chunked;
pub mod connect;
pub mod pool;
pub mod reply;
#[cfg(feature = "gateway")]
pub mod transport;
pub mod wire;

use std::sync::Arc;

use http::HeaderValue;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;

use crate::config::{Backend, Timeouts, Via};
use crate::tls::client::backend_config;

/// How a backend with a URL is reached: one config entry, made ready.
#[derive(Debug)]
pub struct Upstream {
    /// Its name in config, logs and records.
    pub name: Arc<str>,
    /// `host:port` to dial.
    pub dial: (String, u16),
    /// Value of the `Host` header.
    pub host: HeaderValue,
    /// Prefix of every path.
    pub base_path: String,
    /// Value of the `Authorization` header.
    pub credential: Option<HeaderValue>,
    /// For https: how to speak TLS, and to whom.
    pub tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    /// How long to wait for what.
    pub timeouts: Timeouts,
    /// True to tell the backend who is calling.
    pub forward_identity: bool,
}

impl Upstream {
    /// Makes a config entry ready.
    ///
    /// # Errors
    ///
    /// When it has no URL, its TLS material does not fit together or its credential is no header
    /// value.
    pub fn new(backend: &Backend) -> Result<Self, String> {
        let wrong = |what: &str| format!("backend {}: {what}", backend.name);
        let Via::Url(url) = &backend.via else { return Err(wrong("it is reached through a connector, not at a URL")) };
        let bracketed = if url.host.contains(':') { format!("[{}]", url.host) } else { url.host.clone() };
        let own_port = if url.https { 443 } else { 80 };
        let host = if url.port == own_port { bracketed } else { format!("{bracketed}:{}", url.port) };
        let host = HeaderValue::from_str(&host).map_err(|_| wrong("the host is no header value"))?;
        let credential = match &backend.credential {
            None => None,
            Some(secret) => {
                let mut value = HeaderValue::from_str(&format!("Bearer {}", secret.reveal()))
                    .map_err(|_| wrong("the credential has characters that no header can carry"))?;
                value.set_sensitive(true);
                Some(value)
            }
        };
        let tls = if url.https {
            let name = ServerName::try_from(url.host.clone()).map_err(|_| wrong("the host is no server name"))?;
            Some((Arc::new(backend_config(&backend.tls).map_err(|why| wrong(&why))?), name))
        } else {
            None
        };
        Ok(Self {
            name: backend.name.as_str().into(),
            dial: (url.host.clone(), url.port),
            host,
            base_path: url.base_path.clone(),
            credential,
            tls,
            timeouts: backend.timeouts,
            forward_identity: backend.forward_identity,
        })
    }
}

//! The way to a webhook through a proxy that the config names.
//!
//! Invariant: the proxy is asked for the host and port of the webhook's URL and for nothing else; TLS
//! goes through it to the webhook. The proxy looks the name up, so whom it may lead to is the
//! proxy's to say.

use tokio::net::TcpStream;

use crate::config::Webhook;
use crate::domain::gateway_address::GatewayAddress;
use crate::holder::reach::{Reach, Target};

/// A webhook behind a proxy.
#[derive(Debug)]
pub struct Proxied {
    reach: Reach,
    target: Target,
}

impl Proxied {
    /// The way to a webhook; `None` when it is connected to straight.
    ///
    /// # Errors
    ///
    /// When its host is none that a proxy can be asked for.
    pub fn of(webhook: &Webhook) -> Result<Option<Self>, String> {
        let Some(proxy) = webhook.proxy.clone() else { return Ok(None) };
        let url = &webhook.url;
        let host = if url.host.contains(':') { format!("[{}]", url.host) } else { url.host.clone() };
        let target = Target::Proxied(GatewayAddress::parse(&format!("{host}:{}", url.port))?);
        Ok(Some(Self { reach: Reach { proxy: Some(proxy.into()) }, target }))
    }

    /// Opens a connection. The caller bounds the time.
    ///
    /// # Errors
    ///
    /// Why there is none.
    pub async fn open(&self) -> Result<TcpStream, String> {
        self.reach.open(&self.target).await.map_err(|why| why.to_string())
    }
}

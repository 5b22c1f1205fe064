//! The way to a webhook, for questions and for what it is told: resolve, look at the addresses, connect.
//!
//! Invariants: only an address that [`Reach`] lets through is connected to, or the proxy that the
//! config names, and TLS is verified; no proxy of the environment is used; of the threads that look
//! names up, which all webhooks share, one whose name nobody answers for keeps a few. Time is the
//! caller's to bound.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::net::{TcpStream, lookup_host};
use tokio::sync::Semaphore;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::config::Webhook;
use crate::tls::client::backend_config;
use crate::webhook::address::Reach;
use crate::webhook::proxied::Proxied;
use crate::webhook::url::WebhookUrl;

/// Most look-ups of the name at once.
pub(super) const LOOKING_UP: usize = 8;

/// How one webhook is connected to.
#[derive(Debug)]
pub struct Way {
    url: WebhookUrl,
    reach: Reach,
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    proxy: Option<Proxied>,
    pub(super) resolver: Resolver,
    looking_up: Arc<Semaphore>,
}

/// How names become addresses.
pub(super) enum Resolver {
    /// As the operating system does it.
    System,
    /// Every name has these.
    #[cfg(test)]
    Fixed(Vec<IpAddr>),
    /// Nobody answers; how often it was asked.
    #[cfg(test)]
    Silent(Arc<std::sync::atomic::AtomicUsize>),
}

impl std::fmt::Debug for Resolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Resolver")
    }
}

/// What a webhook's name leads to: each address was looked at.
#[derive(Debug)]
pub struct Places(Vec<SocketAddr>);

/// An open connection to a webhook.
#[derive(Debug)]
pub enum Opened {
    /// Over http.
    Plain(TcpStream),
    /// Over https.
    Tls(Box<TlsStream<TcpStream>>),
}

/// Why there is no connection.
#[derive(Debug)]
pub enum Unreached {
    /// The name could not be looked up.
    Resolve(io::Error),
    /// None of its addresses may be connected to: the first of them, if it has any, and what kind it is.
    Refused(Option<IpAddr>, &'static str),
    /// Nobody takes the connection.
    Connect(io::Error),
    /// The proxy made none.
    Proxy(String),
    /// TLS came to nothing.
    Tls(io::Error),
}

impl Way {
    /// The way to a webhook.
    ///
    /// # Errors
    ///
    /// When there are no roots to verify its server with, the client certificate cannot be used, or its
    /// host is nothing that TLS or a proxy can be asked for.
    pub fn new(webhook: &Webhook) -> Result<Self, String> {
        let tls = webhook.url.https.then(|| backend_config(&webhook.tls)).transpose()?;
        Self::with_tls(webhook.url.clone(), webhook.reach.clone(), tls, Proxied::of(webhook)?)
    }

    /// A way with this TLS, for an https URL.
    pub(crate) fn with_tls(
        url: WebhookUrl,
        reach: Reach,
        tls: Option<ClientConfig>,
        proxy: Option<Proxied>,
    ) -> Result<Self, String> {
        let tls = match tls {
            Some(config) => {
                let name = ServerName::try_from(url.host.clone()).map_err(|error| error.to_string())?;
                Some((Arc::new(config), name))
            }
            None => None,
        };
        let looking_up = Arc::new(Semaphore::new(LOOKING_UP));
        Ok(Self { url, reach, tls, proxy, resolver: Resolver::System, looking_up })
    }

    /// The URL at its end.
    #[must_use]
    pub const fn url(&self) -> &WebhookUrl {
        &self.url
    }

    /// The places that may be connected to; none with a proxy, which looks the name up itself.
    ///
    /// # Errors
    ///
    /// When the name leads nowhere, or only to where it may not.
    pub async fn places(&self) -> Result<Places, Unreached> {
        if self.proxy.is_some() {
            return Ok(Places(Vec::new()));
        }
        let found = match self.url.host.parse::<IpAddr>() {
            Ok(address) => vec![address],
            Err(_) => self.resolve().await.map_err(Unreached::Resolve)?,
        };
        let allowed = self.reach.filter(&found, self.url.port);
        allowed.map(Places).map_err(|(address, kind)| Unreached::Refused(address, kind))
    }

    /// Connects to the first of the places that takes the connection.
    ///
    /// # Errors
    ///
    /// Why the last one did not; or what became of TLS.
    pub async fn open(&self, places: Places) -> Result<Opened, Unreached> {
        let socket = match &self.proxy {
            Some(proxy) => proxy.open().await.map_err(Unreached::Proxy)?,
            None => first(places).await?,
        };
        // Messages are small and wait for answers.
        let _ = socket.set_nodelay(true).is_ok();
        match &self.tls {
            None => Ok(Opened::Plain(socket)),
            Some((config, name)) => {
                let connector = TlsConnector::from(Arc::clone(config));
                let stream = connector.connect(name.clone(), socket).await.map_err(Unreached::Tls)?;
                Ok(Opened::Tls(Box::new(stream)))
            }
        }
    }

    async fn resolve(&self) -> io::Result<Vec<IpAddr>> {
        let place = Arc::clone(&self.looking_up).acquire_owned().await.map_err(io::Error::other)?;
        let (host, port) = (self.url.host.clone(), self.url.port);
        let looking = match &self.resolver {
            // A task of its own: a look-up goes on when nobody waits for it any more, and keeps its place.
            Resolver::System => tokio::spawn(async move {
                let found = lookup_host((host, port)).await.map(|found| found.map(|address| address.ip()).collect());
                drop(place);
                found
            }),
            #[cfg(test)]
            Resolver::Fixed(addresses) => return Ok(addresses.clone()),
            #[cfg(test)]
            Resolver::Silent(asked) => {
                asked.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                tokio::spawn(async move {
                    let _place = place;
                    std::future::pending().await
                })
            }
        };
        looking.await.map_err(io::Error::other)?
    }
}

async fn first(places: Places) -> Result<TcpStream, Unreached> {
    let mut failed = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in places.0 {
        match TcpStream::connect(address).await {
            Ok(socket) => return Ok(socket),
            Err(error) => failed = error,
        }
    }
    Err(Unreached::Connect(failed))
}

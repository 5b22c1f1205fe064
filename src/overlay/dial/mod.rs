//! `dial`: a port of this machine for tools that cannot present a certificate.
//!
//! ```text
//! tool -> listener -> admit (is it a tool of this machine?) -> forward -> link (mTLS) -> gateway
//! ```
//!
//! Invariants: nobody on another machine and no web page can use the identity ([`admit`]); what a tool
//! sends as its credential never reaches the gateway unless it is a Doorward key; bodies pass in both
//! directions as they come, and what ends on one side ends on the other.

pub mod admit;
mod forward;
mod link;
mod listener;
mod places;
pub mod refusal;
#[cfg(unix)]
mod socket;
pub mod token;

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use http::HeaderValue;
pub use listener::{Bound, Endpoint};
use tokio::sync::Semaphore;

use crate::config::{DialGateway, Secret};
use crate::domain::origin::Origins;
use crate::holder::keeper::Keeper;
use crate::holder::reach::Reach;
use crate::overlay::dial::admit::{Hosts, Rules};
use crate::overlay::dial::link::Links;
use crate::overlay::dial::token::LocalToken;

/// Requests at once. A gateway lets a connection carry 100, and a queue behind that would be one that
/// nobody bounds.
const MAX_REQUESTS: usize = 96;

/// What a dial goes by.
#[derive(Debug)]
pub struct Settings {
    /// Where the gateway is.
    pub gateway: DialGateway,
    /// How it is reached.
    pub reach: Reach,
    /// Sent instead of what tools send.
    pub key: Option<Secret>,
    /// What tools must send; `None` where nothing is asked.
    pub token: Option<LocalToken>,
    /// Web pages that may call.
    pub origins: Option<Origins>,
}

/// What every request shares.
pub struct Dial {
    keeper: Arc<Keeper>,
    hosts: Hosts,
    /// A request goes by what is here when it comes.
    terms: ArcSwap<Terms>,
    requests: Arc<Semaphore>,
}

/// What a request goes by, made from [`Settings`].
struct Terms {
    rules: Rules,
    key: Option<HeaderValue>,
    links: Arc<Links>,
}

impl Dial {
    /// Makes ready to serve at `endpoint` with the identity of `keeper`.
    ///
    /// # Errors
    ///
    /// When the key is no header value, or the gateway's name no host.
    pub fn new(endpoint: &Endpoint, settings: Settings, keeper: Arc<Keeper>) -> Result<Self, String> {
        let hosts = Hosts::of(endpoint);
        let Settings { gateway, reach, key, token, origins } = settings;
        let links = Arc::new(Links::new(gateway, reach, Arc::clone(&keeper))?);
        let terms = Terms::new(&hosts, key, (token, origins), links)?;
        let requests = Arc::new(Semaphore::new(MAX_REQUESTS));
        Ok(Self { keeper, hosts, terms: ArcSwap::from_pointee(terms), requests })
    }

    /// Goes by other settings from now on. Requests under way end as they began, over the connections
    /// that they have.
    ///
    /// # Errors
    ///
    /// As of [`Self::new`]; nothing has changed then.
    pub fn reload(&self, settings: Settings) -> Result<(), String> {
        let Settings { gateway, reach, key, token, origins } = settings;
        let links = Arc::clone(&self.terms.load().links);
        let links = if links.lead_to(&gateway, &reach) {
            links
        } else {
            Arc::new(Links::new(gateway, reach, Arc::clone(&self.keeper))?)
        };
        self.terms.store(Arc::new(Terms::new(&self.hosts, key, (token, origins), links)?));
        Ok(())
    }
}

impl Terms {
    fn new(
        hosts: &Hosts,
        key: Option<Secret>,
        (token, origins): (Option<LocalToken>, Option<Origins>),
        links: Arc<Links>,
    ) -> Result<Self, String> {
        let key = key.map(|key| bearer(key.reveal())).transpose()?;
        Ok(Self { rules: Rules { hosts: hosts.clone(), token, origins }, key, links })
    }
}

impl fmt::Debug for Dial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dial").field("hosts", &self.hosts).finish_non_exhaustive()
    }
}

impl Bound {
    /// Serves tools until `stop` is done; then waits a little for what is under way.
    pub async fn serve(self, dial: Arc<Dial>, stop: impl Future<Output = ()>) {
        listener::serve(self, dial, stop).await;
    }
}

/// The value of `Authorization` for a key.
fn bearer(key: &str) -> Result<HeaderValue, String> {
    let mut value = HeaderValue::from_str(&format!("Bearer {key}"))
        .map_err(|_| "the key has characters that no header can carry")?;
    value.set_sensitive(true);
    Ok(value)
}

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
pub mod token;

use std::sync::Arc;

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

/// What a dial is started with.
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
struct Dial {
    rules: Rules,
    key: Option<HeaderValue>,
    links: Links,
    requests: Arc<Semaphore>,
}

impl Bound {
    /// Serves tools with the identity of `keeper`, until `stop` is done; then waits a little for what
    /// is under way.
    ///
    /// # Errors
    ///
    /// When the key is no header value.
    pub async fn serve(
        self,
        settings: Settings,
        keeper: Arc<Keeper>,
        stop: impl Future<Output = ()>,
    ) -> Result<(), String> {
        let Settings { gateway, reach, key, token, origins } = settings;
        let key = key.map(|key| bearer(key.reveal())).transpose()?;
        let dial = Arc::new(Dial {
            rules: Rules { hosts: Hosts::of(self.endpoint()), token, origins },
            key,
            links: Links::new(gateway, reach, keeper)?,
            requests: Arc::new(Semaphore::new(MAX_REQUESTS)),
        });
        listener::serve(self, dial, stop).await;
        Ok(())
    }
}

/// The value of `Authorization` for a key.
fn bearer(key: &str) -> Result<HeaderValue, String> {
    let mut value = HeaderValue::from_str(&format!("Bearer {key}"))
        .map_err(|_| "the key has characters that no header can carry")?;
    value.set_sensitive(true);
    Ok(value)
}

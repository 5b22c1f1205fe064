//! Getting an issuer's keys: two small documents over HTTPS.
//!
//! Invariant: only what the config names is asked, and what that names as the place of its keys;
//! over TLS with a verified certificate, or on this machine. No redirect is followed, no proxy of
//! the environment is used, and nothing is read without bound.

use std::time::Duration;

use reqwest::Client;
use reqwest::redirect::Policy;
use rustls_pki_types::CertificateDer;
use serde::Deserialize;

use crate::dialect::json;
use crate::tls::client::issuer_config;
use crate::token::keys::{KeySet, MAX_DOCUMENT};
use crate::token::location::{KeyUrl, Location};

/// How long the connection may take, and each document with it.
const CONNECT: Duration = Duration::from_secs(5);
const DOCUMENT: Duration = Duration::from_secs(10);

/// Fetches the keys of one place.
#[derive(Clone, Debug)]
pub struct Fetcher {
    client: Client,
    location: Location,
}

/// The members of a discovery document that count (OpenID Connect Discovery, 3).
#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

impl Fetcher {
    /// Makes ready to fetch. `roots` are those that vouch for the issuer's server; without any, the
    /// operating system's do.
    ///
    /// # Errors
    ///
    /// When there are no roots to verify the server with.
    pub fn new(location: Location, roots: &[CertificateDer<'static>]) -> Result<Self, String> {
        let (Location::Discovery(url) | Location::Keys(url)) = &location;
        let client = Client::builder()
            .tls_backend_preconfigured(issuer_config(roots, url.is_https())?)
            .https_only(url.is_https())
            .no_proxy()
            .redirect(Policy::none())
            .connect_timeout(CONNECT)
            .timeout(DOCUMENT)
            .pool_max_idle_per_host(0)
            .build()
            .map_err(|error| error.to_string())?;
        Ok(Self { client, location })
    }

    /// Fetches the keys.
    ///
    /// # Errors
    ///
    /// Why there are none.
    pub async fn keys(&self) -> Result<KeySet, String> {
        let document = match &self.location {
            Location::Keys(url) => self.get(url.as_str()).await?,
            Location::Discovery(issuer) => {
                let url = self.jwks_url(issuer).await.map_err(|why| format!("its discovery document: {why}"))?;
                self.get(url.as_str()).await?
            }
        };
        KeySet::parse(&document)
    }

    async fn jwks_url(&self, issuer: &KeyUrl) -> Result<KeyUrl, String> {
        let document = self.get(&issuer.discovery()).await?;
        json::scan(&document, &[], &mut |_, _| ()).map_err(|_| "it is not strict JSON".to_owned())?;
        let document: Discovery =
            serde_json::from_slice(&document).map_err(|_| "it has no issuer and jwks_uri".to_owned())?;
        if document.issuer != issuer.as_str() {
            return Err("its issuer is not the url of the config, to the letter".to_owned());
        }
        let url = KeyUrl::parse(&document.jwks_uri).map_err(|why| format!("its jwks_uri: {why}"))?;
        if issuer.is_https() && !url.is_https() {
            return Err("its jwks_uri is not https".to_owned());
        }
        Ok(url)
    }

    async fn get(&self, url: &str) -> Result<Vec<u8>, String> {
        let request = self.client.get(url).header("accept", "application/json");
        let mut response = request.send().await.map_err(explain)?;
        if response.status() != reqwest::StatusCode::OK {
            return Err(format!("the status is {}", response.status()));
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(explain)? {
            body.extend_from_slice(&chunk);
            if body.len() > MAX_DOCUMENT {
                return Err(format!("it has more than {MAX_DOCUMENT} bytes"));
            }
        }
        Ok(body)
    }
}

/// An error with its causes. The URL is not repeated: the log names the issuer.
fn explain(error: reqwest::Error) -> String {
    let error = error.without_url();
    let causes = std::iter::successors(std::error::Error::source(&error), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

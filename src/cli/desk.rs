//! The desk of a running gateway: its authority, its certificate, and what a reload makes of both.

use std::sync::Arc;

use rustls::ServerConfig;

use crate::ca::authority::Authority;
use crate::ca::exchange::CRL;
use crate::ca::plan::SERVER_TTL;
use crate::cli::ca;
use crate::cli::output::Failure;
use crate::clock::Clock;
use crate::config::{ClientAuth, Config, Reachable};
use crate::domain::timestamp::Timestamp;
use crate::enroll::office::Office;
use crate::tls::holder::enroll_config;
use crate::tls::server::{CurrentCertificate, certified_key, provider};
use crate::tls::verify::CallerVerifier;

/// What the `enroll` names need.
#[derive(Debug)]
pub struct Prepared {
    /// Where certificates are signed.
    pub office: Office,
    /// TLS for the names.
    pub tls: Arc<ServerConfig>,
    /// When it must be made anew.
    pub due: Timestamp,
}

/// Prepares the desk; `None` when no name is for enrollment, or there is no authority.
///
/// # Errors
///
/// When the authority cannot be read, or cannot issue.
pub fn prepare(config: &Config, clock: &Clock) -> Result<Option<Prepared>, Failure> {
    let names = &config.listen.names.enroll;
    let (Some(domain), false) = (&config.trust_domain, names.is_empty()) else { return Ok(None) };
    let authority = Authority::open(&ca::directory(&config.state_dir)).map_err(|e| ca::said(&e, domain.as_str()))?;
    let builtin = Some((authority.trust_domain().clone(), authority.anchors()));
    // No `[[trust]]`: only what the built-in authority has issued is renewed.
    let verifier = CallerVerifier::new(ClientAuth::Required, builtin, &[], clock.clone(), provider());
    let verifier = verifier.map_err(Failure::new)?;
    let now = clock.now();
    let (chain, key) = authority.issue_server_to_strangers(names, now).map_err(Failure::new)?;
    let due = now.after(SERVER_TTL.min(authority.issuer_not_after().since(now)) * 2 / 3);
    let certificate = CurrentCertificate::new(certified_key(chain, key).map_err(Failure::new)?);
    let tls = Arc::new(enroll_config(Arc::new(certificate)).map_err(Failure::new)?);
    let crl = Reachable::of(&config.listen).enroll_url(CRL);
    Ok(Some(Prepared { office: Office { state_dir: config.state_dir.clone(), authority, verifier, crl }, tls, due }))
}

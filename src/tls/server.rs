//! Server configurations.
//!
//! Invariant: no session is ever resumed. rustls does not run the client verifier again on
//! resumption, so a resumed session would outlive an expiry, a revocation and a reload.

use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

pub use crate::tls::provider::provider;
use crate::tls::verify::CallerVerifier;

const ONLY_13: &[&rustls::SupportedProtocolVersion] = &[&TLS13];
const FROM_12: &[&rustls::SupportedProtocolVersion] = &[&TLS13, &TLS12];

/// TLS 1.3 and nothing before it.
pub(super) const fn only_13() -> &'static [&'static rustls::SupportedProtocolVersion] {
    ONLY_13
}

/// TLS for the `api` names: HTTP/2 and HTTP/1.1, callers verified by `verifier`.
///
/// # Errors
///
/// When the provider cannot do the protocol versions: never, with [`provider`].
pub fn api_config(
    verifier: Arc<CallerVerifier>,
    certificate: Arc<dyn ResolvesServerCert>,
    tls12: bool,
) -> Result<ServerConfig, String> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(if tls12 { FROM_12 } else { ONLY_13 })
        .map_err(|error| error.to_string())?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(certificate);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    forbid_resumption(&mut config);
    Ok(config)
}

/// TLS for the `connect` names: TLS 1.3 and `alpn` only, connectors verified by `verifier`.
///
/// # Errors
///
/// As [`api_config`].
pub fn connect_config(
    verifier: Arc<CallerVerifier>,
    certificate: Arc<dyn ResolvesServerCert>,
    alpn: &[u8],
) -> Result<ServerConfig, String> {
    let mut config = api_config(verifier, certificate, false)?;
    config.alpn_protocols = vec![alpn.to_vec()];
    Ok(config)
}

/// TLS for names that are nobody's: every handshake ends in an alert. Without it the connection
/// would just be dropped, which clients report as a network fault and try again.
///
/// # Errors
///
/// As [`api_config`].
pub fn refusing_config() -> Result<ServerConfig, String> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(FROM_12)
        .map_err(|error| error.to_string())?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(NoCertificate));
    forbid_resumption(&mut config);
    Ok(config)
}

pub(super) fn forbid_resumption(config: &mut ServerConfig) {
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    // `config.ticketer` stays as built: disabled.
}

/// A chain with its key, checked to belong together.
///
/// # Errors
///
/// When the key cannot be used, or is not the key of the first certificate.
pub fn certified_key(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Result<CertifiedKey, String> {
    CertifiedKey::from_der(chain, key, &provider())
        .map_err(|error| format!("the certificate and its private key cannot be used together: {error}"))
}

/// The certificate that a name serves; it can be replaced while connections come in.
#[derive(Debug)]
pub struct CurrentCertificate(ArcSwap<CertifiedKey>);

impl CurrentCertificate {
    /// Serves `key` until it is replaced.
    #[must_use]
    pub fn new(key: CertifiedKey) -> Self {
        Self(ArcSwap::from_pointee(key))
    }

    /// Serves `key` to every handshake from now on.
    pub fn replace(&self, key: CertifiedKey) {
        self.0.store(Arc::new(key));
    }

    /// What is served at the moment.
    #[must_use]
    pub fn current(&self) -> Arc<CertifiedKey> {
        self.0.load_full()
    }
}

impl ResolvesServerCert for CurrentCertificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }
}

#[derive(Debug)]
struct NoCertificate;

impl ResolvesServerCert for NoCertificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::config::ClientAuth;
    use crate::tls::testing::{Ca, handshake};

    #[test]
    fn a_key_must_belong_to_its_certificate() {
        let ca = Ca::new("Any");
        let (one, other) = (ca.client("spiffe://x.example/client/a"), ca.client("spiffe://x.example/client/b"));
        assert!(certified_key(one.chain.clone(), one.key()).is_ok());
        assert!(certified_key(one.chain, other.key()).unwrap_err().contains("cannot be used together"));
    }

    #[test]
    fn the_next_handshake_gets_the_replaced_certificate() {
        let (old, new) = (Ca::new("Old"), Ca::new("New"));
        let current = Arc::new(CurrentCertificate::new((*old.server().current()).clone()));
        let verifier = CallerVerifier::new(ClientAuth::Off, None, &[], Clock::System, provider()).unwrap();
        let server =
            Arc::new(api_config(verifier, Arc::clone(&current) as Arc<dyn ResolvesServerCert>, false).unwrap());
        let trusting = |ca: &Ca| handshake(&server, &Arc::new(ca.dialler(None)), "gw.example").alert.is_none();
        assert_eq!((trusting(&old), trusting(&new)), (true, false));
        current.replace((*new.server().current()).clone());
        assert_eq!((trusting(&old), trusting(&new)), (false, true));
    }
}

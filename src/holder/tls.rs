//! TLS towards a gateway: version 1.3, private roots, no session that outlives a renewal.

use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::time_provider::TimeProvider;
use rustls::version::TLS13;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, OtherError, RootCertStore, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::ca::bundle::RootPin;
use crate::clock::Clock;
use crate::domain::gateway_address::GatewayName;
use crate::holder::fault::Why;
use crate::tls::provider::provider;

/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Most certificates that a gateway may show.
const MAX_CHAIN: usize = 16;

/// A chain and its key.
pub type Pair = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// TLS towards a gateway below `roots`, as whoever `pair` is.
///
/// # Errors
///
/// When a root cannot be used, or the key does not belong to the chain.
pub fn config(roots: &[CertificateDer<'static>], pair: Option<Pair>, clock: &Clock) -> Result<ClientConfig, String> {
    let verifier = verifier(roots, provider())?;
    finish(verifier, pair, clock)
}

/// TLS towards a gateway that shows a chain to the pinned root, as nobody.
///
/// # Errors
///
/// Never, with our provider.
pub fn pinned_config(pin: RootPin, clock: &Clock) -> Result<ClientConfig, String> {
    finish(Arc::new(PinnedRoot { pin, provider: provider() }), None, clock)
}

/// The handshake over a connection.
///
/// # Errors
///
/// Why it failed. Nothing but the handshake was sent.
pub async fn secure(
    stream: TcpStream,
    config: Arc<ClientConfig>,
    name: &GatewayName,
) -> Result<TlsStream<TcpStream>, Why> {
    let server_name = match name {
        GatewayName::Dns(name) => {
            ServerName::try_from(name.to_string()).map_err(|error| Why::Handshake(error.to_string()))?
        }
        GatewayName::Ip(address) => ServerName::from(*address),
    };
    match timeout(HANDSHAKE, TlsConnector::from(config).connect(server_name, stream)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(Why::of_handshake(&error, &name.to_string())),
        Err(_) => Err(Why::Handshake("it takes too long".to_owned())),
    }
}

fn finish(verifier: Arc<dyn ServerCertVerifier>, pair: Option<Pair>, clock: &Clock) -> Result<ClientConfig, String> {
    let builder = ClientConfig::builder_with_details(provider(), Arc::new(Now(clock.clone())))
        .with_protocol_versions(&[&TLS13])
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match pair {
        None => builder.with_no_client_auth(),
        Some((chain, key)) => builder
            .with_client_auth_cert(chain, key)
            .map_err(|error| format!("it and its private key cannot be used together: {error}"))?,
    };
    config.resumption = Resumption::disabled();
    Ok(config)
}

fn verifier(
    roots: &[CertificateDer<'static>],
    provider: Arc<CryptoProvider>,
) -> Result<Arc<WebPkiServerVerifier>, String> {
    let mut store = RootCertStore::empty();
    for root in roots {
        store.add(root.clone()).map_err(|error| format!("a root cannot be used: {error}"))?;
    }
    WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider).build().map_err(|error| error.to_string())
}

/// Reads our clock for rustls.
#[derive(Debug)]
struct Now(Clock);

impl TimeProvider for Now {
    fn current_time(&self) -> Option<UnixTime> {
        let seconds = u64::try_from(self.0.now().as_seconds()).ok()?;
        Some(UnixTime::since_unix_epoch(Duration::from_secs(seconds)))
    }
}

/// The chain does not end at the pinned root.
#[derive(Debug, thiserror::Error)]
#[error("the chain does not hold the root {0}")]
pub struct NotPinned(pub RootPin);

/// Verifies a gateway with nothing but the hash of its root: the root itself is in the chain.
#[derive(Debug)]
struct PinnedRoot {
    pin: RootPin,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for PinnedRoot {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let not_pinned = || {
            let other = OtherError(Arc::new(NotPinned(self.pin)));
            Error::InvalidCertificate(CertificateError::Other(other))
        };
        let shown = intermediates.iter().take(MAX_CHAIN);
        let root = shown.into_iter().find(|certificate| RootPin::of(certificate) == self.pin).ok_or_else(not_pinned)?;
        let verifier = verifier(&[root.clone().into_owned()], Arc::clone(&self.provider)).map_err(|_| not_pinned())?;
        // A chain that holds the root and does not come from it is no better than one without.
        let verified = verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        verified.map_err(|error| {
            let strange = matches!(
                error,
                Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature)
            );
            if strange { not_pinned() } else { error }
        })
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

//! TLS for the `enroll` names, where strangers come for their first certificate and holders for the
//! next one.
//!
//! Invariant: a client certificate proves here that its sender has the private key, and nothing else.
//! Whose it is, and whether it still holds, is asked with the one request that needs to know: so a
//! holder whose certificate has ended is told that, and not cut off.

use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::server::ResolvesServerCert;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, ServerConfig, SignatureScheme};
use rustls_pki_types::{CertificateDer, UnixTime};

use crate::tls::server::{forbid_resumption, only_13, provider};

/// Most certificates that a holder may send beside its own, and most bytes of all.
const MAX_INTERMEDIATES: usize = 4;
const MAX_CHAIN_BYTES: usize = 32 * 1024;

/// TLS 1.3 with HTTP/1.1; client certificates are asked for and may be absent.
///
/// # Errors
///
/// When the provider cannot do TLS 1.3: never, with [`provider`].
pub fn enroll_config(certificate: Arc<dyn ResolvesServerCert>) -> Result<ServerConfig, String> {
    let provider = provider();
    let mut config = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(only_13())
        .map_err(|error| error.to_string())?
        .with_client_cert_verifier(Arc::new(Possession(provider)))
        .with_cert_resolver(certificate);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    forbid_resumption(&mut config);
    Ok(config)
}

/// Takes any certificate whose private key the sender has.
#[derive(Debug)]
struct Possession(Arc<CryptoProvider>);

impl ClientCertVerifier for Possession {
    fn offer_client_auth(&self) -> bool {
        true
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let bytes = intermediates.iter().fold(leaf.len(), |bytes, certificate| bytes.saturating_add(certificate.len()));
        if intermediates.len() > MAX_INTERMEDIATES || bytes > MAX_CHAIN_BYTES {
            return Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure));
        }
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

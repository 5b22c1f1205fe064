//! TLS towards backends.
//!
//! Invariant: a backend's certificate is always verified; there is no setting that turns it off.

use std::fs;
use std::io;
use std::path::Path;

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use crate::config::BackendTls;
use crate::tls::provider::provider;

/// Where Linux distributions keep the public roots; the first that exists is used. The environment
/// (`SSL_CERT_FILE`) is not asked: what is trusted is written in config or set by the system.
const SYSTEM_ROOTS: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// TLS towards one backend: HTTP/1.1 only, TLS 1.2 allowed because many inference servers offer
/// nothing newer.
///
/// # Errors
///
/// When there are no roots to verify the backend with, or the client certificate and its key
/// cannot be used together.
pub fn backend_config(tls: &BackendTls) -> Result<ClientConfig, String> {
    let roots = if tls.roots.is_empty() { system_roots(SYSTEM_ROOTS)? } else { private_roots(&tls.roots)? };
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots);
    let mut config = match &tls.client {
        None => builder.with_no_client_auth(),
        Some((chain, key)) => builder
            .with_client_auth_cert(chain.clone(), key.clone_key())
            .map_err(|error| format!("the client certificate and its private key cannot be used together: {error}"))?,
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// TLS towards the server of an issuer's keys. `wanted` is false where it is not spoken: then no
/// certificate is good, and the operating system needs to have no roots.
///
/// # Errors
///
/// When there are no roots to verify the server with.
pub fn issuer_config(private: &[CertificateDer<'static>], wanted: bool) -> Result<ClientConfig, String> {
    let roots = match (wanted, private) {
        (false, _) => RootCertStore::empty(),
        (true, []) => system_roots(SYSTEM_ROOTS)?,
        (true, private) => private_roots(private)?,
    };
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn private_roots(certificates: &[CertificateDer<'static>]) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        roots.add(certificate.clone()).map_err(|error| format!("a root certificate cannot be used: {error}"))?;
    }
    Ok(roots)
}

fn system_roots(bundles: impl IntoIterator<Item = impl AsRef<Path>>) -> Result<RootCertStore, String> {
    for bundle in bundles {
        let path = bundle.as_ref();
        let text = match fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(format!("{}: {error}", path.display())),
        };
        let certificates: Vec<_> = CertificateDer::pem_slice_iter(&text).filter_map(Result::ok).collect();
        let mut roots = RootCertStore::empty();
        // Bundles of the system may hold the odd certificate that webpki cannot read.
        let (usable, _) = roots.add_parsable_certificates(certificates);
        if usable == 0 {
            return Err(format!("{} holds no usable root certificate", path.display()));
        }
        return Ok(roots);
    }
    Err("the operating system has no root certificates (is ca-certificates installed?); \
         name the backend's own with ca_file"
        .to_owned())
}

#[cfg(test)]
#[cfg(feature = "gateway")]
mod tests {
    use super::*;

    #[test]
    fn the_first_bundle_that_exists_is_used() {
        let dir = tempfile::tempdir().unwrap();
        let bundle = dir.path().join("bundle.pem");
        let missing = dir.path().join("missing.pem");
        let root = crate::tls::testing::Ca::new("Backends").root_pem();
        fs::write(
            &bundle,
            format!("# a comment\n{root}\n-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
        )
        .unwrap();
        assert_eq!(system_roots([&missing, &bundle]).unwrap().len(), 1);
        assert!(system_roots([&missing]).unwrap_err().contains("no root certificates"));
        fs::write(&bundle, "nothing here").unwrap();
        assert!(system_roots([&bundle]).unwrap_err().contains("no usable root certificate"));
    }

    #[test]
    fn backends_get_http_1_1_only() {
        let roots = vec![crate::tls::testing::Ca::new("Backends").root()];
        let config = backend_config(&BackendTls { roots, client: None }).unwrap();
        assert_eq!(config.alpn_protocols, [b"http/1.1"]);
        assert!(config.enable_sni);
    }

    #[test]
    fn a_client_certificate_must_match_its_key() {
        let ca = crate::tls::testing::Ca::new("Backends");
        let (one, other) = (ca.client("spiffe://x.example/client/a"), ca.client("spiffe://x.example/client/b"));
        let tls = |chain, key| BackendTls { roots: vec![ca.root()], client: Some((chain, key)) };
        assert!(backend_config(&tls(one.chain.clone(), one.key())).is_ok());
        assert!(backend_config(&tls(one.chain.clone(), other.key())).is_err());
    }
}

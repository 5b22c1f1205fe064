//! A key with its certificate and the roots that the gateway is verified with: ready for TLS.

use std::fmt;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::extensions::GeneralName;

use crate::ca::plan::Span;
use crate::ca::x509;
use crate::clock::Clock;
use crate::domain::identity::{Identity, TrustDomain};
use crate::domain::timestamp::Timestamp;
use crate::holder::fault::HolderFault;
use crate::holder::files::{Contents, Place};
use crate::holder::tls;
use crate::tls::peer::{self, Mapping};

/// A key with its certificate and roots.
pub struct Credentials {
    identity: Identity,
    serial: String,
    span: Span,
    leaf: CertificateDer<'static>,
    roots: Vec<CertificateDer<'static>>,
    config: ClientConfig,
}

impl Credentials {
    /// Reads the identity in its place.
    ///
    /// # Errors
    ///
    /// When a file is missing or wrong, or key and certificate do not belong together. That it has
    /// expired is no error: see [`Self::check_alive`].
    pub fn load(place: &Place, clock: &Clock) -> Result<Self, HolderFault> {
        Self::of(&place.read()?, place, clock)
    }

    fn of(contents: &Contents, place: &Place, clock: &Clock) -> Result<Self, HolderFault> {
        let paths = place.files();
        let wrong = |why: &dyn fmt::Display| HolderFault::file(&paths.certificate, why);
        let chain = x509::certificates(&contents.certificate).map_err(|why| wrong(&why))?;
        let leaf = chain.first().cloned().ok_or_else(|| wrong(&"it holds no certificate"))?;
        let identity = identity_of(&leaf).map_err(|why| wrong(&why))?;
        let (span, serial) = {
            let parsed = x509::parse(&leaf).map_err(|why| wrong(&why))?;
            let digits = parsed.raw_serial().iter().skip_while(|byte| **byte == 0);
            (x509::span(&parsed), digits.map(|byte| format!("{byte:02x}")).collect())
        };
        let key = PrivateKeyDer::from_pem_slice(contents.key.as_bytes())
            .map_err(|_| HolderFault::file(&paths.key, "not a private key in PEM"))?;
        let roots = x509::certificates(&contents.roots).map_err(|why| HolderFault::file(&paths.roots, why))?;
        let config = tls::config(&roots, Some((chain, key)), clock).map_err(|why| wrong(&why))?;
        Ok(Self { identity, serial, span, leaf, roots, config })
    }

    /// TLS as this identity, towards a gateway below its roots. `protocols` is what is offered by
    /// ALPN, the best first.
    #[must_use]
    pub fn tls(&self, protocols: &[&[u8]]) -> Arc<ClientConfig> {
        let mut config = self.config.clone();
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        Arc::new(config)
    }

    /// As [`Self::tls`], without a protocol.
    pub(super) fn config(&self) -> ClientConfig {
        self.config.clone()
    }

    /// Who this is.
    #[must_use]
    pub const fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The certificate's number in hexadecimal.
    #[must_use]
    pub fn serial(&self) -> &str {
        &self.serial
    }

    /// When the certificate is valid.
    #[must_use]
    pub const fn span(&self) -> Span {
        self.span
    }

    /// The roots that the gateway is verified with.
    #[must_use]
    pub fn roots(&self) -> &[CertificateDer<'static>] {
        &self.roots
    }

    /// True when both are of the same certificate and trust the same roots.
    #[must_use]
    pub fn is_same_as(&self, other: &Self) -> bool {
        self.leaf == other.leaf && self.roots == other.roots
    }

    /// Fails when the certificate's time is over.
    ///
    /// # Errors
    ///
    /// [`HolderFault::Expired`].
    pub fn check_alive(&self, now: Timestamp) -> Result<(), HolderFault> {
        if now < self.span.not_after {
            return Ok(());
        }
        Err(HolderFault::Expired { identity: self.identity.to_string(), ended_at: self.span.not_after, now })
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("identity", &self.identity)
            .field("serial", &self.serial)
            .field("span", &self.span)
            .finish_non_exhaustive()
    }
}

/// Whose certificate this is: read as strictly as the gateway reads it.
pub(super) fn identity_of(leaf: &CertificateDer<'_>) -> Result<Identity, String> {
    let parsed = x509::parse(leaf)?;
    let names = parsed.subject_alternative_name().map_err(|_| "its names cannot be read".to_owned())?;
    let uri = names
        .iter()
        .flat_map(|names| &names.value.general_names)
        .find_map(|name| if let GeneralName::URI(uri) = name { Some(*uri) } else { None });
    let uri = uri.ok_or_else(|| "it names no identity (spiffe://…)".to_owned())?;
    let domain = Identity::parse(uri)?.trust_domain().to_owned();
    // The gateway's own reader: nothing that it would refuse is held for good.
    let mapping = Mapping::BuiltIn(TrustDomain::parse(&domain)?);
    let peer = peer::read(leaf, &peer::Authority::BuiltIn, &mapping).map_err(|fault| fault.to_string())?;
    Ok(peer.identity.as_ref().clone())
}

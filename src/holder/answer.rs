//! What came back from a gateway, checked before it takes the place of anything.
//!
//! Invariant: a certificate is used only when it is for the key that was made for it, names whom it
//! should, and comes from a root that the holder has reason to trust.

use std::sync::Arc;

use rcgen::{CertificateParams, DistinguishedName, KeyPair, PublicKeyData};
use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::{CertificateDer, UnixTime};
use zeroize::Zeroizing;

use crate::ca::bundle::RootPin;
use crate::ca::exchange::Granted;
use crate::ca::plan::Span;
use crate::ca::x509;
use crate::domain::identity::Identity;
use crate::holder::credentials::identity_of;
use crate::holder::fault::HolderFault;
use crate::tls::provider::provider;

/// Most certificates in a chain, and most roots.
const MAX_CERTIFICATES: usize = 16;

/// A key that waits for its certificate.
pub(super) struct NewKey {
    pair: KeyPair,
}

impl NewKey {
    /// Makes a P-256 key.
    pub(super) fn generate() -> Result<Self, HolderFault> {
        KeyPair::generate().map(|pair| Self { pair }).map_err(|error| HolderFault::Crypto(error.to_string()))
    }

    /// A request for its certificate (PKCS#10, PEM): the key and the proof of it, no names.
    pub(super) fn request(&self) -> Result<String, HolderFault> {
        let failed = |error: rcgen::Error| HolderFault::Crypto(error.to_string());
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.serialize_request(&self.pair).and_then(|request| request.pem()).map_err(failed)
    }

    /// PKCS#8 in PEM.
    pub(super) fn pem(&self) -> Zeroizing<String> {
        self.pair.serialize_pem().into()
    }
}

/// A certificate that was found to be good.
#[derive(Debug)]
pub(super) struct Checked {
    /// Who it names.
    pub(super) identity: Identity,
    /// When it is valid.
    pub(super) span: Span,
}

/// Which roots a new certificate may come from.
pub(super) enum Trusted {
    /// The one that a bundle pins; it must be among those of the answer.
    Pinned(RootPin),
    /// Those of the answer: it came over a connection that the current roots vouch for.
    Answered,
}

/// Checks an answer for `key`; `is_expected` says whether it names the right one.
pub(super) fn check(
    granted: &Granted,
    key: &NewKey,
    is_expected: impl FnOnce(&Identity) -> bool,
    trusted: &Trusted,
) -> Result<Checked, String> {
    let chain = bounded(&granted.certificate).map_err(|why| format!("the certificate: {why}"))?;
    let roots = bounded(&granted.ca).map_err(|why| format!("the roots: {why}"))?;
    let (leaf, intermediates) = chain.split_first().ok_or("it holds no certificate")?;
    let span = {
        let parsed = x509::parse(leaf)?;
        if parsed.public_key().raw != key.pair.subject_public_key_info() {
            return Err("the certificate is for another key".to_owned());
        }
        x509::span(&parsed)
    };
    let identity = identity_of(leaf)?;
    if !is_expected(&identity) {
        return Err(format!("the certificate is for {identity}"));
    }
    let anchors: Vec<_> = match trusted {
        Trusted::Answered => roots,
        Trusted::Pinned(pin) => roots.into_iter().filter(|root| RootPin::of(root) == *pin).collect(),
    };
    if anchors.is_empty() {
        return Err("the roots do not hold the pinned one".to_owned());
    }
    verify(leaf, intermediates, &anchors, span)?;
    Ok(Checked { identity, span })
}

fn bounded(pem: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates = x509::certificates(pem)?;
    if certificates.len() > MAX_CERTIFICATES { Err("too many certificates".to_owned()) } else { Ok(certificates) }
}

/// Verifies the chain as the gateway will, at the middle of the certificate's own life: that this
/// machine's clock may be wrong is another matter.
fn verify(
    leaf: &CertificateDer<'static>,
    intermediates: &[CertificateDer<'static>],
    anchors: &[CertificateDer<'static>],
    span: Span,
) -> Result<(), String> {
    let mut store = RootCertStore::empty();
    for anchor in anchors {
        store.add(anchor.clone()).map_err(|error| format!("a root cannot be used: {error}"))?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(store), provider())
        .build()
        .map_err(|error| error.to_string())?;
    let middle = span.not_before.after(span.not_after.since(span.not_before) / 2);
    let seconds = u64::try_from(middle.as_seconds()).map_err(|_| "the certificate is never valid")?;
    let at = UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
    verifier
        .verify_client_cert(leaf, intermediates, at)
        .map(|_| ())
        .map_err(|error| format!("the certificate does not come from the trusted root: {error}"))
}

//! Verifies callers in the handshake.
//!
//! Invariant: an identity is formed only by the entry whose root verified the chain, and only for
//! as long as the leaf, every issuer that was sent and that root are valid. A certificate that is
//! not good ends the handshake; it never makes an anonymous caller.

mod cache;
mod fault;
mod issuers;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use cache::{Cache, Verified, key_of};
pub use fault::explain;
use fault::{out_of, refused, unix_time};
use issuers::may_issue;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime};

use crate::clock::Clock;
use crate::config::{ClientAuth, IdentityMap, Trust};
use crate::domain::identity::TrustDomain;
use crate::domain::timestamp::Timestamp;
use crate::tls::peer::{self, Authority, Mapping, PeerCertificate, Validity};

/// Most certificates that a client may send beside its own.
const MAX_INTERMEDIATES: usize = 4;
/// Most bytes of certificates that a client may send.
const MAX_CHAIN_BYTES: usize = 32 * 1024;
/// Most names of authorities that are sent to clients, and their bytes. Above either none is sent,
/// which means "any": half a list would make clients hold back a good certificate.
const MAX_HINTS: usize = 64;
const MAX_HINT_BYTES: usize = 8 * 1024;
/// Verifies callers, and knows who they are.
pub struct CallerVerifier {
    mandatory: bool,
    entries: Vec<Entry>,
    hints: Vec<DistinguishedName>,
    clock: Clock,
    provider: Arc<CryptoProvider>,
    cache: Mutex<Cache>,
}

/// The built-in authority or one `[[trust]]` entry.
struct Entry {
    authority: Authority,
    mapping: Mapping,
    roots: Vec<Root>,
}

/// webpki takes a root's word for ever, so each root has a verifier of its own: then it is known
/// whose end to heed.
struct Root {
    verifier: Arc<dyn ClientCertVerifier>,
    /// Where lists of revoked certificates are: refuses those that no list speaks of.
    covered: Option<Arc<dyn ClientCertVerifier>>,
    validity: Validity,
}

impl CallerVerifier {
    /// Verifies against the built-in authority's roots and each `[[trust]]` entry, in this order.
    /// A reload makes a new verifier; what the old one remembers goes with it.
    ///
    /// [`ClientAuth::Off`], and [`ClientAuth::Optional`] without any authority, ask for no
    /// certificates.
    ///
    /// # Errors
    ///
    /// When a root cannot be used, two entries share a root or a trust domain (whose would the
    /// caller be?), or certificates are required and there is no authority.
    pub fn new(
        client_auth: ClientAuth,
        builtin: Option<(TrustDomain, Vec<CertificateDer<'static>>)>,
        trust: &[Trust],
        clock: Clock,
        provider: Arc<CryptoProvider>,
    ) -> Result<Arc<Self>, String> {
        let mut sources = Vec::new();
        if let Some((domain, roots)) = builtin {
            // What the built-in authority has revoked is looked up in the store.
            sources.push((Authority::BuiltIn, Mapping::BuiltIn(domain), roots, Vec::new()));
        }
        for entry in trust {
            let authority = Authority::External(entry.name.as_str().into());
            let mapping = Mapping::External(entry.map.clone());
            sources.push((authority, mapping, entry.roots.clone(), entry.crls.clone()));
        }
        if client_auth == ClientAuth::Off {
            sources.clear();
        }
        if client_auth == ClientAuth::Required && sources.is_empty() {
            return Err("client_auth = \"required\" needs a [ca] section or a [[trust]] entry".to_owned());
        }
        refuse_shared(&sources)?;
        let entries = sources
            .into_iter()
            .map(|(authority, mapping, roots, crls)| Entry::new((authority, mapping), &roots, &crls, &provider))
            .collect::<Result<Vec<_>, _>>()?;
        let mandatory = client_auth == ClientAuth::Required;
        let hints = hints(&entries);
        Ok(Arc::new(Self { mandatory, entries, hints, clock, provider, cache: Mutex::default() }))
    }

    /// Who sent `chain` (leaf first, as in the handshake), or `None` when it is not, or no longer,
    /// a good certificate. What the handshake verified is remembered and not verified again.
    #[must_use]
    pub fn identify(&self, chain: &[CertificateDer<'_>]) -> Option<Arc<PeerCertificate>> {
        let (leaf, intermediates) = chain.split_first()?;
        self.verify(leaf, intermediates).ok()
    }

    /// As [`Self::identify`], with the reason when there is no identity: for people.
    ///
    /// # Errors
    ///
    /// When it is not a good certificate.
    pub fn judge(&self, chain: &[CertificateDer<'_>]) -> Result<Arc<PeerCertificate>, String> {
        let (leaf, intermediates) = chain.split_first().ok_or("there is no certificate")?;
        self.verify(leaf, intermediates).map_err(|error| explain(&error))
    }

    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
    ) -> Result<Arc<PeerCertificate>, Error> {
        let bytes = intermediates.iter().fold(leaf.len(), |bytes, certificate| bytes.saturating_add(certificate.len()));
        if intermediates.len() > MAX_INTERMEDIATES || bytes > MAX_CHAIN_BYTES {
            return Err(refused(ChainTooLong));
        }
        let now = self.clock.now();
        let key = key_of(leaf, intermediates);
        if let Some(peer) = self.cache().get(&key, now) {
            return Ok(peer);
        }
        let verified = self.verify_anew(leaf, intermediates, now)?;
        self.cache().insert(key, verified.clone());
        Ok(verified.peer)
    }

    fn verify_anew(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: Timestamp,
    ) -> Result<Verified, Error> {
        let mut fault = None;
        // Those that may not sign are left out, as strays are.
        let issuers: Vec<_> = intermediates.iter().filter(|sent| may_issue(sent)).cloned().collect();
        for entry in &self.entries {
            // The built-in authority's roots are its issuers, which sign callers themselves. What else was
            // sent counts for nothing there: of a root, webpki looks at no path length.
            let between = if entry.authority == Authority::BuiltIn { &[] } else { issuers.as_slice() };
            match entry.verify(leaf, between, now) {
                // Whatever the names in it say: the root decides whose certificate it is.
                Ok(root) => return entry.identify(leaf, between, root, now),
                // "Expired" says more than "not one of mine".
                Err(unknown @ Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {
                    fault.get_or_insert(unknown);
                }
                Err(specific) => match fault {
                    None | Some(Error::InvalidCertificate(CertificateError::UnknownIssuer)) => fault = Some(specific),
                    Some(_) => {}
                },
            }
        }
        Err(fault.unwrap_or(Error::InvalidCertificate(CertificateError::UnknownIssuer)))
    }

    fn cache(&self) -> std::sync::MutexGuard<'_, Cache> {
        // The cache is whole at every moment, so a panic elsewhere does not spoil it.
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Root {
    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: Timestamp,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.verifier.verify_client_cert(leaf, intermediates, unix_time(now))?;
        match &self.covered {
            None => Ok(verified),
            Some(covered) => covered.verify_client_cert(leaf, intermediates, unix_time(now)),
        }
    }
}

impl Entry {
    fn new(
        (authority, mapping): (Authority, Mapping),
        roots: &[CertificateDer<'static>],
        crls: &[CertificateRevocationListDer<'static>],
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, String> {
        let name = name_of(&authority);
        let wrong = |why: &dyn fmt::Display| format!("{name}: a root certificate cannot be used: {why}");
        let roots = roots
            .iter()
            .map(|certificate| {
                let mut store = RootCertStore::empty();
                store.add(certificate.clone()).map_err(|error| wrong(&error))?;
                let store = Arc::new(store);
                let builder = || {
                    WebPkiClientVerifier::builder_with_provider(Arc::clone(&store), Arc::clone(provider))
                        .with_crls(crls.iter().cloned())
                };
                // Two questions: is nothing in the chain revoked, as far as there are lists; and is
                // there a list that speaks of the leaf? An authority between need not publish one.
                let verifier = builder().allow_unknown_revocation_status().build().map_err(|error| wrong(&error))?;
                let covered = match crls {
                    [] => None,
                    [_, ..] => {
                        let leaf = builder().only_check_end_entity_revocation();
                        Some(leaf.build().map_err(|error| wrong(&error))?)
                    }
                };
                let validity = Validity::read(certificate).map_err(|error| wrong(&error))?;
                Ok(Root { verifier, covered, validity })
            })
            .collect::<Result<Vec<_>, String>>()?;
        if roots.is_empty() {
            Err(format!("{name} has no root certificates"))
        } else {
            Ok(Self { authority, mapping, roots })
        }
    }

    /// The root that the chain leads to.
    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: Timestamp,
    ) -> Result<&Root, Error> {
        let mut fault = Error::InvalidCertificate(CertificateError::UnknownIssuer);
        for root in &self.roots {
            match root.verify(leaf, intermediates, now) {
                Ok(_) if root.validity.contains(now) => return Ok(root),
                // The root has ended, or not begun: for whom it vouches does not matter.
                Ok(_) => fault = out_of(root.validity, now),
                Err(Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {}
                Err(specific) => fault = specific,
            }
        }
        Err(fault)
    }

    fn identify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        root: &Root,
        now: Timestamp,
    ) -> Result<Verified, Error> {
        let mut peer = peer::read(leaf, &self.authority, &self.mapping).map_err(refused)?;
        let own = Validity::read(leaf).map_err(refused)?;
        // webpki does not tell which intermediates it used. It used none that is out of date, so
        // the rest bound the time: too soon an end when a stray one was sent, never too late.
        let mut validity = own.and(root.validity);
        for certificate in intermediates {
            let issuer = Validity::read(certificate).map_err(refused)?;
            if issuer.contains_second_of(now) {
                validity = validity.and(issuer);
            }
        }
        if !validity.contains(now) {
            return Err(out_of(validity, now));
        }
        peer.not_after = validity.not_after;
        Ok(Verified { peer: Arc::new(peer), validity })
    }
}

impl ClientCertVerifier for CallerVerifier {
    fn offer_client_auth(&self) -> bool {
        !self.entries.is_empty()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    /// The time is the verifier's own clock, so that the handshake and [`CallerVerifier::identify`]
    /// can never disagree.
    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.verify(end_entity, intermediates).map(|_| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

impl fmt::Debug for CallerVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let authorities: Vec<_> = self.entries.iter().map(|entry| &entry.authority).collect();
        f.debug_struct("CallerVerifier").field("mandatory", &self.mandatory).field("authorities", &authorities).finish()
    }
}

#[derive(Debug, thiserror::Error)]
#[error("the certificate chain is too long: at most {MAX_INTERMEDIATES} intermediates and {MAX_CHAIN_BYTES} bytes")]
struct ChainTooLong;

fn name_of(authority: &Authority) -> String {
    match authority {
        Authority::BuiltIn => "the built-in authority".to_owned(),
        Authority::External(name) => format!("[[trust]] {name:?}"),
    }
}

type Source = (Authority, Mapping, Vec<CertificateDer<'static>>, Vec<CertificateRevocationListDer<'static>>);

fn refuse_shared(sources: &[Source]) -> Result<(), String> {
    for (at, (authority, mapping, roots, _)) in sources.iter().enumerate() {
        for (earlier, earlier_mapping, earlier_roots, _) in sources.iter().take(at) {
            let both = || format!("{} and {}", name_of(earlier), name_of(authority));
            if let Some(domain) = domains(mapping).iter().find(|domain| domains(earlier_mapping).contains(domain)) {
                return Err(format!("{} both speak for the trust domain {domain}", both()));
            }
            if roots.iter().any(|root| earlier_roots.contains(root)) {
                return Err(format!("{} have a root certificate in common", both()));
            }
        }
    }
    Ok(())
}

fn domains(mapping: &Mapping) -> &[TrustDomain] {
    match mapping {
        Mapping::BuiltIn(domain) => std::slice::from_ref(domain),
        Mapping::External(IdentityMap::Spiffe { trust_domains }) => trust_domains,
        Mapping::External(IdentityMap::Field { trust_domain, .. }) => std::slice::from_ref(trust_domain),
    }
}

fn hints(entries: &[Entry]) -> Vec<DistinguishedName> {
    let roots = entries.iter().flat_map(|entry| &entry.roots);
    let names: Vec<_> = roots.flat_map(|root| root.verifier.root_hint_subjects()).cloned().collect();
    let bytes: usize = names.iter().map(|name| name.as_ref().len()).sum();
    if names.len() > MAX_HINTS || bytes > MAX_HINT_BYTES { Vec::new() } else { names }
}

#[cfg(test)]
#[path = "verify_session_tests.rs"]
mod session_tests;
#[cfg(test)]
#[path = "verify_tests.rs"]
mod tests;

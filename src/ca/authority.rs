//! The two-level authority in the state directory.
//!
//! Invariant: the directory holds a whole authority or there is none (see `contents`), and an
//! [`Authority`] is one whose parts were found to belong together.
//!
//! The trust domain is in the root's only subject alternative name, `spiffe://<trust-domain>`:
//! there is no second place that could disagree with it. Under a root of somebody else's it is in a
//! file. Callers are verified up to our issuers, never up to a root: what else it signs, or signed
//! once, is no caller of ours.

mod read;

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{Issuer, KeyPair, PublicKeyData};
pub(super) use read::{check_chain, read_key, span_of};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::ca::contents::{Contents, ISSUER_CRT, ISSUER_KEY, Lock, ROOT_CRT, ROOT_KEY, refuse_existing};
use crate::ca::issue::{self, Profile};
use crate::ca::make::{self, random_serial};
use crate::ca::passphrase::{self, Passphrase};
use crate::ca::plan::{LeafPlan, ServerPlan, Span};
use crate::ca::{CaError, contents};
use crate::domain::identity::{IdentityName, Role, TrustDomain};
use crate::domain::timestamp::Timestamp;

/// The built-in authority, ready to issue. The root's key is not held: it may be offline.
pub struct Authority {
    domain: TrustDomain,
    root: CertificateDer<'static>,
    root_key: RootKey,
    /// The issuer, and what is between it and a root of somebody else's.
    issuer: Vec<CertificateDer<'static>>,
    issuer_pem: String,
    signer: Issuer<'static, KeyPair>,
    span: Span,
    /// What is sent with the gateway's own certificate instead of `issuer`.
    bridge: Option<CertificateDer<'static>>,
    older_roots: Vec<CertificateDer<'static>>,
    /// The roots in PEM, newest first.
    bundle_pem: String,
    older_issuers: Vec<OlderIssuer>,
    issuer_since: Option<Timestamp>,
}

/// An issuer from before, which signs nothing but CRLs any more.
pub(super) struct OlderIssuer {
    pub(super) der: CertificateDer<'static>,
    pub(super) key: KeyPair,
    pub(super) not_after: Timestamp,
}

/// Where the key of the root is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RootKey {
    /// Beside the root, as it is.
    Here,
    /// Beside the root, under a passphrase.
    Encrypted,
    /// Somewhere else.
    Offline,
    /// The root is somebody else's.
    NotOurs,
}

impl RootKey {
    /// The word in output.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Here => "here",
            Self::Encrypted => "encrypted",
            Self::Offline => "offline",
            Self::NotOurs => "not-ours",
        }
    }
}

/// A certificate with its issuer, in both forms.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Issued {
    /// Leaf, then issuer.
    pub chain: Vec<CertificateDer<'static>>,
    /// The same in PEM.
    pub pem: String,
}

impl Authority {
    /// Makes an authority for `domain` in `dir`: a root for ten years and an issuer for one.
    ///
    /// # Errors
    ///
    /// When `dir` holds one, or anything else, already.
    pub fn init(dir: &Path, domain: &TrustDomain, now: Timestamp) -> Result<Self, CaError> {
        Self::init_with(dir, domain, None, now)
    }

    /// As [`Self::init`]. With a passphrase the root's key is encrypted.
    ///
    /// # Errors
    ///
    /// As [`Self::init`].
    pub fn init_with(
        dir: &Path,
        domain: &TrustDomain,
        passphrase: Option<&Passphrase>,
        now: Timestamp,
    ) -> Result<Self, CaError> {
        init(dir, (domain, passphrase), now, &mut || Ok(()))?;
        Self::open(dir)
    }

    /// Opens the authority in `dir` and checks that its parts belong together. A missing root key
    /// is fine. Dates are not checked here: see [`Authority::issuer_not_after`].
    ///
    /// # Errors
    ///
    /// When there is none, its parts do not belong together, or others can read a private key.
    pub fn open(dir: &Path) -> Result<Self, CaError> {
        Self::of(dir, &Contents::read(dir)?)
    }

    /// The trust domain of every identity that it names.
    #[must_use]
    pub const fn trust_domain(&self) -> &TrustDomain {
        &self.domain
    }

    /// What clients verify the gateway with: the root, and those before it that still count.
    #[must_use]
    pub fn roots(&self) -> Vec<CertificateDer<'static>> {
        std::iter::once(&self.root).chain(&self.older_roots).cloned().collect()
    }

    /// What callers are verified with: the issuers that count. Never a root: it vouches for each issuer
    /// until that ends, also for one whose key was stolen and which was replaced, and somebody else's
    /// signs for others as well.
    #[must_use]
    pub fn anchors(&self) -> Vec<CertificateDer<'static>> {
        let older = self.older_issuers.iter().map(|older| &older.der);
        self.issuer.first().into_iter().chain(older).cloned().collect()
    }

    /// What clients trust, in PEM: the file that is called `ca.crt` on their side.
    #[must_use]
    pub fn bundle_pem(&self) -> &str {
        &self.bundle_pem
    }

    /// When the issuer ends, and with it everything that it issued.
    #[must_use]
    pub const fn issuer_not_after(&self) -> Timestamp {
        self.span.not_after
    }

    /// When the root ends.
    ///
    /// # Errors
    ///
    /// When it cannot be read: never, with one that was opened.
    pub fn root_not_after(&self) -> Result<Timestamp, CaError> {
        span_of(&self.root).map(|span| span.not_after)
    }

    /// The root.
    #[must_use]
    pub const fn root(&self) -> &CertificateDer<'static> {
        &self.root
    }

    /// The issuer.
    #[must_use]
    pub fn issuer(&self) -> Option<&CertificateDer<'static>> {
        self.issuer.first()
    }

    /// Where the key of the root is.
    #[must_use]
    pub const fn root_key(&self) -> RootKey {
        self.root_key
    }

    /// Own roots from before that are still trusted.
    #[must_use]
    pub fn older_roots(&self) -> &[CertificateDer<'static>] {
        &self.older_roots
    }

    /// How many issuers from before still count.
    #[must_use]
    pub const fn older_issuer_count(&self) -> usize {
        self.older_issuers.len()
    }

    /// True when an issuer from before ends at `at`: what ends with it was cut short by it.
    #[must_use]
    pub fn has_older_issuer_until(&self, at: Timestamp) -> bool {
        self.older_issuers.iter().any(|older| older.not_after == at)
    }

    /// Since when its issuer issues; `None` when no other did before, or none of those counts.
    #[must_use]
    pub const fn issuer_since(&self) -> Option<Timestamp> {
        self.issuer_since
    }

    pub(super) const fn signer(&self) -> &Issuer<'static, KeyPair> {
        &self.signer
    }

    pub(super) fn older_issuers(&self) -> &[OlderIssuer] {
        &self.older_issuers
    }

    pub(super) const fn issuer_span(&self) -> Span {
        self.span
    }

    /// Plans a certificate of this authority with a fresh serial number.
    ///
    /// # Errors
    ///
    /// As [`LeafPlan::new`].
    pub fn plan_client(
        &self,
        role: Role,
        name: &IdentityName,
        ttl: Option<Duration>,
        now: Timestamp,
    ) -> Result<LeafPlan, CaError> {
        Ok(LeafPlan::new((&self.domain, role, name), ttl, random_serial()?, self.span, now)?)
    }

    /// Certifies the public key in `spki` (a DER `SubjectPublicKeyInfo`) as planned. `crl` is where
    /// the list of revoked certificates will be.
    ///
    /// # Errors
    ///
    /// When the key is not of a kind that is certified, or the plan was made for another authority.
    pub fn issue_client(&self, plan: &LeafPlan, spki: &[u8], crl: Option<&str>) -> Result<Issued, CaError> {
        if plan.identity().trust_domain() != self.domain.as_str() {
            return Err(CaError::NotAsPlanned("trust domain"));
        }
        if plan.span().not_after > self.span.not_after {
            return Err(CaError::NotAsPlanned("the plan outlives this issuer"));
        }
        self.issue(&Profile::client(plan, crl), spki, None)
    }

    /// Certifies the gateway's own names under a fresh key: leaf and issuer, and the key.
    ///
    /// # Errors
    ///
    /// As [`ServerPlan::new`].
    pub fn issue_server<S: AsRef<str>>(
        &self,
        names: &[S],
        now: Timestamp,
    ) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), CaError> {
        let plan = ServerPlan::new(names, random_serial()?, self.span, now)?;
        let key = KeyPair::generate()?;
        let issued = self.issue(&Profile::server(&plan), &key.subject_public_key_info(), self.bridge.as_ref())?;
        Ok((issued.chain, PrivatePkcs8KeyDer::from(key.serialize_der()).into()))
    }

    /// As [`Self::issue_server`], with all that leads to each root that is trusted, the roots
    /// included: for those who have no root yet, and know one by its hash.
    ///
    /// # Errors
    ///
    /// As [`ServerPlan::new`].
    pub fn issue_server_to_strangers<S: AsRef<str>>(
        &self,
        names: &[S],
        now: Timestamp,
    ) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), CaError> {
        let (chain, key) = self.issue_server(names, now)?;
        let leaf = chain.into_iter().take(1);
        Ok((leaf.chain(self.issuer.iter().chain(&self.bridge).cloned()).chain(self.roots()).collect(), key))
    }

    fn issue(
        &self,
        profile: &Profile,
        spki: &[u8],
        instead_of_issuer: Option<&CertificateDer<'static>>,
    ) -> Result<Issued, CaError> {
        let issuer = self.issuer.first().ok_or(CaError::NotAsPlanned("no issuer"))?;
        let leaf = issue::issue(profile, spki, &self.signer, issuer)?;
        let pem = format!("{}{}", leaf.pem(), self.issuer_pem);
        let above = instead_of_issuer.map_or(self.issuer.as_slice(), std::slice::from_ref);
        Ok(Issued { chain: std::iter::once(leaf.into()).chain(above.iter().cloned()).collect(), pem })
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("domain", &self.domain).field("span", &self.span).finish_non_exhaustive()
    }
}

/// `before_each` runs before every change on disk: tests stop there to see what a crash leaves.
fn init(
    dir: &Path,
    (domain, passphrase): (&TrustDomain, Option<&Passphrase>),
    now: Timestamp,
    before_each: contents::BeforeEach<'_>,
) -> Result<(), CaError> {
    refuse_existing(dir)?;
    let _lock = Lock::take(dir)?;
    let root = make::root(domain, now)?;
    let (issuer, _) =
        make::issuer(domain, (root.certificate.der(), &root.key), None, (span_of(root.certificate.der())?, now))?;
    let mut contents = Contents::default();
    contents.set(ROOT_KEY, stored_key(&root.key, passphrase)?);
    contents.set(ROOT_CRT, root.certificate.pem().into());
    contents.set(ISSUER_KEY, issuer.key.serialize_pem().into());
    contents.set(ISSUER_CRT, issuer.certificate.pem().into());
    contents.place_new(dir, before_each)
}

/// A private key as it is kept.
pub(super) fn stored_key(
    key: &KeyPair,
    passphrase: Option<&Passphrase>,
) -> Result<zeroize::Zeroizing<String>, CaError> {
    match passphrase {
        None => Ok(key.serialize_pem().into()),
        Some(passphrase) => passphrase::encrypt(key.serialized_der(), passphrase),
    }
}

/// Where the authority's files are, for messages and backups.
#[must_use]
pub fn files_in(dir: &Path) -> [PathBuf; 4] {
    [ROOT_CRT, ROOT_KEY, ISSUER_CRT, ISSUER_KEY].map(|name| dir.join(name))
}

#[cfg(test)]
#[path = "authority_tests.rs"]
mod tests;

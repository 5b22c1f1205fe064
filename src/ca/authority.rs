//! The two-level authority in the state directory.
//!
//! Invariant: the directory holds a whole authority or there is none. [`Authority::init`] builds it
//! beside its place and renames it there in one step, so no crash leaves half of one.
//!
//! The trust domain is in the root's only subject alternative name, `spiffe://<trust-domain>`:
//! there is no second place that could disagree with it.

use std::fmt;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aws_lc_rs::rand;
use rcgen::{Issuer, KeyPair, PublicKeyData};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;
use zeroize::Zeroizing;

use crate::ca::issue::{self, Profile};
use crate::ca::plan::{self, LeafPlan, Serial, ServerPlan, Span};
use crate::ca::{CaError, files};
use crate::domain::identity::{IdentityName, Role, TrustDomain};
use crate::domain::timestamp::Timestamp;

const DAY: u64 = 24 * 3600;
const ROOT_LIFE: Duration = Duration::from_secs(3650 * DAY);
const ISSUER_LIFE: Duration = Duration::from_secs(365 * DAY);

const ROOT_CRT: &str = "root.crt";
const ROOT_KEY: &str = "root.key";
const ISSUER_CRT: &str = "issuer.crt";
const ISSUER_KEY: &str = "issuer.key";

/// The built-in authority, ready to issue. The root's key is not held: it may be offline.
pub struct Authority {
    domain: TrustDomain,
    root: Held,
    issuer: Held,
    signer: Issuer<'static, KeyPair>,
    span: Span,
}

/// A certificate as it is in its file.
struct Held {
    der: CertificateDer<'static>,
    pem: String,
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
        init(dir, domain, now, &mut || Ok(()))?;
        Self::open(dir)
    }

    /// Opens the authority in `dir` and checks that its parts belong together. A missing root key
    /// is fine. Dates are not checked here: see [`Authority::issuer_not_after`].
    ///
    /// # Errors
    ///
    /// When there is none, its parts do not belong together, or others can read a private key.
    pub fn open(dir: &Path) -> Result<Self, CaError> {
        let at = |name: &str| dir.join(name);
        if !fs::exists(at(ROOT_CRT)).map_err(CaError::io(dir))? {
            return Err(CaError::Missing(dir.to_owned()));
        }
        let (root, issuer) = (read_certificate(&at(ROOT_CRT))?, read_certificate(&at(ISSUER_CRT))?);
        let key = read_key(&at(ISSUER_KEY))?;
        let root_x509 = parse(&root, &at(ROOT_CRT))?;
        let issuer_x509 = parse(&issuer, &at(ISSUER_CRT))?;

        let domain = check_root(&root_x509).map_err(|why| CaError::broken(&at(ROOT_CRT), why))?;
        check_issuer(&issuer_x509, &root_x509, &domain).map_err(|why| CaError::broken(&at(ISSUER_CRT), why))?;
        check_pair(&key, &issuer_x509, &at(ISSUER_KEY))?;
        if fs::exists(at(ROOT_KEY)).map_err(CaError::io(dir))? {
            check_pair(&read_key(&at(ROOT_KEY))?, &root_x509, &at(ROOT_KEY))?;
        }
        let span = Span {
            not_before: Timestamp::from_seconds(issuer_x509.validity().not_before.timestamp()),
            // An issuer is worth no more than its root.
            not_after: Timestamp::from_seconds(
                issuer_x509.validity().not_after.timestamp().min(root_x509.validity().not_after.timestamp()),
            ),
        };
        let signer = Issuer::from_ca_cert_der(&issuer.der, key)?;
        Ok(Self { domain, signer, span, root, issuer })
    }

    /// The trust domain of every identity that it names.
    #[must_use]
    pub const fn trust_domain(&self) -> &TrustDomain {
        &self.domain
    }

    /// What verifiers trust.
    #[must_use]
    pub fn roots(&self) -> Vec<CertificateDer<'static>> {
        vec![self.root.der.clone()]
    }

    /// What clients trust, in PEM: the file that is called `ca.crt` on their side.
    #[must_use]
    pub fn bundle_pem(&self) -> &str {
        &self.root.pem
    }

    /// When the issuer ends, and with it everything that it issued.
    #[must_use]
    pub const fn issuer_not_after(&self) -> Timestamp {
        self.span.not_after
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
        self.issue(&Profile::client(plan, crl), spki)
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
        let issued = self.issue(&Profile::server(&plan), &key.subject_public_key_info())?;
        Ok((issued.chain, PrivatePkcs8KeyDer::from(key.serialize_der()).into()))
    }

    fn issue(&self, profile: &Profile, spki: &[u8]) -> Result<Issued, CaError> {
        let leaf = issue::issue(profile, spki, &self.signer, &self.issuer.der)?;
        let pem = format!("{}{}", leaf.pem(), self.issuer.pem);
        Ok(Issued { chain: vec![leaf.into(), self.issuer.der.clone()], pem })
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
    domain: &TrustDomain,
    now: Timestamp,
    before_each: &mut dyn FnMut() -> io::Result<()>,
) -> Result<(), CaError> {
    let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    let name = dir.file_name().ok_or_else(|| CaError::broken(dir, "not the name of a directory"))?;
    let mut staging_name = std::ffi::OsString::from(".");
    staging_name.push(name);
    staging_name.push(".new");
    let staging = parent.join(staging_name);

    refuse_existing(dir)?;
    fs::create_dir_all(parent).map_err(CaError::io(parent))?;
    let _lock = claim(&staging, dir)?;
    // Somebody else may have been done a moment ago.
    refuse_existing(dir)?;
    for (name, text, mode) in generate(domain, now)? {
        let path = staging.join(name);
        before_each().map_err(CaError::io(&path))?;
        files::write_new(&path, text.as_bytes(), mode).map_err(CaError::io(&path))?;
    }
    before_each().map_err(CaError::io(&staging))?;
    files::sync_dir(&staging).map_err(CaError::io(&staging))?;
    before_each().map_err(CaError::io(dir))?;
    // A directory is renamed onto another only if that is empty: nothing can be overwritten.
    fs::rename(&staging, dir).map_err(|error| {
        let taken = matches!(error.kind(), io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists);
        if taken { CaError::Exists(dir.to_owned()) } else { CaError::io(dir)(error) }
    })?;
    files::sync_dir(parent).map_err(CaError::io(parent))
}

fn refuse_existing(dir: &Path) -> Result<(), CaError> {
    match fs::read_dir(dir) {
        Ok(mut entries) => entries.next().map_or(Ok(()), |_| Err(CaError::Exists(dir.to_owned()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(CaError::io(dir)(error)),
    }
}

/// The staging directory, empty and ours alone until the lock is dropped.
fn claim(staging: &Path, dir: &Path) -> Result<File, CaError> {
    match files::create_private_dir(staging) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(CaError::io(staging)(error)),
        Ok(()) | Err(_) => {}
    }
    let lock = File::open(staging).map_err(CaError::io(staging))?;
    lock.try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => CaError::Busy(dir.to_owned()),
        TryLockError::Error(error) => CaError::io(staging)(error),
    })?;
    // What a crashed attempt left: keys that nobody has ever used.
    for entry in fs::read_dir(staging).map_err(CaError::io(staging))? {
        let path = entry.map_err(CaError::io(staging))?.path();
        fs::remove_file(&path).map_err(CaError::io(&path))?;
    }
    Ok(lock)
}

type NewFile = (&'static str, Zeroizing<String>, u32);

fn generate(domain: &TrustDomain, now: Timestamp) -> Result<[NewFile; 4], CaError> {
    let uri = || format!("spiffe://{domain}");
    // A part of the serial number keeps two authorities of one name apart in chain building.
    let name = |what: &str, serial: Serial| {
        let short: String = serial.to_string().chars().take(8).collect();
        // 64 characters fit into a common name.
        let domain: String = domain.as_str().chars().take(40).collect();
        format!("{domain} {what} {short}")
    };
    let (root_key, issuer_key) = (KeyPair::generate()?, KeyPair::generate()?);

    let serial = random_serial()?;
    let root_span = plan::authority_span(now, ROOT_LIFE);
    let root_profile = Profile::authority(name("root", serial), uri(), 1, serial, root_span);
    let root_params = root_profile.params()?;
    let root = root_params.self_signed(&root_key)?;
    issue::check(&root_profile, root.der(), &root_key.subject_public_key_info(), root.der())?;

    let serial = random_serial()?;
    let issuer_span = plan::authority_span(now, ISSUER_LIFE);
    let issuer_profile = Profile::authority(name("issuer", serial), uri(), 0, serial, issuer_span);
    let root_signer = Issuer::from_params(&root_params, &root_key);
    let issuer = issuer_profile.params()?.signed_by(&issuer_key, &root_signer)?;
    issue::check(&issuer_profile, issuer.der(), &issuer_key.subject_public_key_info(), root.der())?;

    Ok([
        (ROOT_KEY, Zeroizing::new(root_key.serialize_pem()), files::SECRET),
        (ISSUER_KEY, Zeroizing::new(issuer_key.serialize_pem()), files::SECRET),
        (ISSUER_CRT, Zeroizing::new(issuer.pem()), files::PUBLIC),
        (ROOT_CRT, Zeroizing::new(root.pem()), files::PUBLIC),
    ])
}

fn random_serial() -> Result<Serial, CaError> {
    let mut bytes = [0; 16];
    rand::fill(&mut bytes).map_err(|_| CaError::Crypto("no random numbers".to_owned()))?;
    Ok(Serial::from_random(bytes))
}

fn read_certificate(path: &Path) -> Result<Held, CaError> {
    let pem = fs::read_to_string(path).map_err(CaError::io(path))?;
    let mut found = CertificateDer::pem_slice_iter(pem.as_bytes());
    match (found.next(), found.next()) {
        (Some(Ok(der)), None) => Ok(Held { der, pem }),
        (Some(Ok(_)), Some(_)) => Err(CaError::broken(path, "more than one certificate")),
        (Some(Err(_)) | None, _) => Err(CaError::broken(path, "not a certificate in PEM")),
    }
}

fn read_key(path: &Path) -> Result<KeyPair, CaError> {
    let mode = files::mode(path).map_err(CaError::io(path))?;
    if mode & 0o077 != 0 {
        return Err(CaError::KeyExposed { path: path.to_owned(), mode });
    }
    let text = Zeroizing::new(fs::read_to_string(path).map_err(CaError::io(path))?);
    KeyPair::from_pem(&text).map_err(|_| CaError::broken(path, "not a private key in PEM (PKCS#8)"))
}

fn parse<'a>(held: &'a Held, path: &Path) -> Result<X509Certificate<'a>, CaError> {
    match X509Certificate::from_der(&held.der) {
        Ok(([], certificate)) => Ok(certificate),
        Ok(_) | Err(_) => Err(CaError::broken(path, "not X.509 in DER")),
    }
}

fn check_pair(key: &KeyPair, certificate: &X509Certificate<'_>, path: &Path) -> Result<(), CaError> {
    if key.subject_public_key_info() == certificate.public_key().raw {
        Ok(())
    } else {
        Err(CaError::broken(path, "it is not the key of the certificate beside it"))
    }
}

fn check_root(root: &X509Certificate<'_>) -> Result<TrustDomain, String> {
    check_ca(root, root)?;
    trust_domain(root)
}

fn check_issuer(issuer: &X509Certificate<'_>, root: &X509Certificate<'_>, domain: &TrustDomain) -> Result<(), String> {
    let below = check_ca(issuer, root)?;
    if below != Some(0) {
        return Err("an issuer must have the path length 0".to_owned());
    }
    let own = trust_domain(issuer)?;
    if own == *domain { Ok(()) } else { Err(format!("it is of the trust domain {own}, the root of {domain}")) }
}

/// The path length.
fn check_ca(certificate: &X509Certificate<'_>, by: &X509Certificate<'_>) -> Result<Option<u32>, String> {
    let constraints = certificate.basic_constraints().ok().flatten();
    let Some(constraints) = constraints.filter(|constraints| constraints.value.ca) else {
        return Err("it is not the certificate of an authority".to_owned());
    };
    let usage = certificate.key_usage().ok().flatten();
    if !usage.is_some_and(|usage| usage.value.key_cert_sign() && usage.value.crl_sign()) {
        return Err("it may not sign certificates and CRLs".to_owned());
    }
    if certificate.issuer().as_raw() != by.subject().as_raw()
        || certificate.verify_signature(Some(by.public_key())).is_err()
    {
        return Err("the root beside it did not sign it".to_owned());
    }
    Ok(constraints.value.path_len_constraint)
}

fn trust_domain(certificate: &X509Certificate<'_>) -> Result<TrustDomain, String> {
    let names = certificate.subject_alternative_name().ok().flatten();
    let uri = match names.as_ref().map(|names| names.value.general_names.as_slice()) {
        Some([GeneralName::URI(uri)]) => *uri,
        Some(_) | None => return Err("its only name must be spiffe://<trust-domain>".to_owned()),
    };
    let domain = uri.strip_prefix("spiffe://").ok_or_else(|| format!("{uri:?} is not spiffe://<trust-domain>"))?;
    TrustDomain::parse(domain)
}

/// Where the authority's files are, for messages and backups.
#[must_use]
pub fn files_in(dir: &Path) -> [PathBuf; 4] {
    [ROOT_CRT, ROOT_KEY, ISSUER_CRT, ISSUER_KEY].map(|name| dir.join(name))
}

#[cfg(test)]
#[path = "authority_tests.rs"]
mod tests;

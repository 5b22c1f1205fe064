//! A request for an issuer, for an authority that stands above this one, and the key behind it.
//!
//! Invariant: the key of a request is made once and stays the same until the request is answered,
//! so that an answer that takes weeks still fits.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, KeyUsagePurpose, SanType};
use zeroize::Zeroizing;

use crate::ca::contents::{Lock, replace};
use crate::ca::{CaError, files, make};
use crate::domain::identity::TrustDomain;

/// Beside the authority: the key, and the domain that it is for.
const KEY: &str = "issuer-request.key";
const DOMAIN: &str = "issuer-request.domain";

/// A request that waits for its answer.
pub struct Request {
    domain: TrustDomain,
    key: KeyPair,
}

impl Request {
    /// The request beside the authority in `dir`; it is made if there is none.
    ///
    /// # Errors
    ///
    /// When there is one for another trust domain, or files cannot be written.
    pub fn make(dir: &Path, domain: &TrustDomain) -> Result<Self, CaError> {
        let _lock = Lock::take(dir)?;
        if let Some(request) = Self::read(dir)? {
            if request.domain == *domain {
                return Ok(request);
            }
            return Err(CaError::NotNow(format!("there is a request for the trust domain {} already", request.domain)));
        }
        let key = KeyPair::generate()?;
        let [key_file, domain_file] = paths(dir);
        // The key comes last: with it the request exists.
        replace(&domain_file, format!("{domain}\n").as_bytes(), files::PUBLIC).map_err(CaError::io(&domain_file))?;
        let pem = Zeroizing::new(key.serialize_pem());
        replace(&key_file, pem.as_bytes(), files::SECRET).map_err(CaError::io(&key_file))?;
        Ok(Self { domain: domain.clone(), key })
    }

    pub(super) fn read(dir: &Path) -> Result<Option<Self>, CaError> {
        let [key_file, domain_file] = paths(dir);
        let pem = match fs::read_to_string(&key_file) {
            Ok(pem) => Zeroizing::new(pem),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(CaError::io(&key_file)(error)),
        };
        let mode = files::mode(&key_file).map_err(CaError::io(&key_file))?;
        if mode & 0o077 != 0 {
            return Err(CaError::KeyExposed { path: key_file, mode });
        }
        let key = KeyPair::from_pem(&pem).map_err(|_| CaError::broken(&key_file, "not a private key in PEM"))?;
        let domain = fs::read_to_string(&domain_file).map_err(CaError::io(&domain_file))?;
        let domain = TrustDomain::parse(domain.trim()).map_err(|why| CaError::broken(&domain_file, why))?;
        Ok(Some(Self { domain, key }))
    }

    /// It was answered.
    pub(super) fn remove(dir: &Path) -> Result<(), CaError> {
        for path in paths(dir) {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(CaError::io(&path)(error)),
                Ok(()) | Err(_) => {}
            }
        }
        Ok(())
    }

    /// The request in PKCS#10, PEM.
    ///
    /// # Errors
    ///
    /// When it cannot be signed.
    pub fn pem(&self) -> Result<String, CaError> {
        let mut params = CertificateParams::default();
        let name = make::common_name(&self.domain, "issuer", make::random_serial()?);
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.subject_alt_names = vec![SanType::URI(make::uri(&self.domain).as_str().try_into()?)];
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Ok(params.serialize_request(&self.key)?.pem()?)
    }

    /// The trust domain that the issuer will name callers in.
    #[must_use]
    pub const fn trust_domain(&self) -> &TrustDomain {
        &self.domain
    }

    pub(super) const fn key(&self) -> &KeyPair {
        &self.key
    }

    pub(super) fn key_pem(&self) -> Zeroizing<String> {
        self.key.serialize_pem().into()
    }
}

impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Request").field("domain", &self.domain).finish_non_exhaustive()
    }
}

fn paths(dir: &Path) -> [PathBuf; 2] {
    [KEY, DOMAIN].map(|name| dir.with_file_name(name))
}

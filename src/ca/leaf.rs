//! A new key with its certificate, as files for its owner.
//!
//! Invariant: a private key is never replaced without its certificate, and nothing is replaced
//! unasked. Files appear whole: written beside their place, on disk, then moved.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rcgen::{KeyPair, PublicKeyData};
use zeroize::Zeroizing;

use crate::ca::authority::{Authority, Issued};
use crate::ca::leaf_files::LeafFiles;
use crate::ca::plan::LeafPlan;
use crate::ca::{CaError, files, x509};

/// A certificate with the private key that was made for it.
pub struct NewLeaf {
    /// The certificate with its issuer.
    pub issued: Issued,
    /// PKCS#8 in PEM; `None` when the key was made elsewhere and never seen here.
    pub key_pem: Option<Zeroizing<String>>,
}

impl std::fmt::Debug for NewLeaf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewLeaf").field("issued", &self.issued).finish_non_exhaustive()
    }
}

/// What to do about files that are there already.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Existing {
    /// Leave them alone and fail.
    Keep,
    /// Replace key and certificate together: a renewal.
    Replace,
}

/// Makes a P-256 key and certifies it as planned.
///
/// # Errors
///
/// As [`Authority::issue_client`].
pub fn generate(authority: &Authority, plan: &LeafPlan, crl: Option<&str>) -> Result<NewLeaf, CaError> {
    let key = KeyPair::generate()?;
    let issued = authority.issue_client(plan, &key.subject_public_key_info(), crl)?;
    Ok(NewLeaf { issued, key_pem: Some(Zeroizing::new(key.serialize_pem())) })
}

/// Certifies a key that was made elsewhere, as planned: `spki` is its DER `SubjectPublicKeyInfo`.
///
/// # Errors
///
/// As [`Authority::issue_client`].
pub fn certify(authority: &Authority, plan: &LeafPlan, spki: &[u8], crl: Option<&str>) -> Result<NewLeaf, CaError> {
    Ok(NewLeaf { issued: authority.issue_client(plan, spki, crl)?, key_pem: None })
}

/// Writes `NAME.crt`, `NAME.key` (when the key was made here) and `ca.crt` into `dir`, which is made if it is missing. Another
/// `ca.crt` than this authority's counts as existing; the same one is fine, and one from before a
/// rotation makes way.
///
/// A crash between the last moves can leave a new key beside an old certificate: run it again.
///
/// # Errors
///
/// When files exist that are to be kept, or the directory cannot be written.
pub fn write(
    leaf: &NewLeaf,
    bundle_pem: &str,
    dir: &Path,
    name: &str,
    existing: Existing,
) -> Result<LeafFiles, CaError> {
    let paths = LeafFiles::of(dir, name);
    if paths.certificate == paths.roots {
        return Err(CaError::broken(&paths.roots, "the certificate of this name would overwrite the roots"));
    }
    fs::create_dir_all(dir).map_err(CaError::io(dir))?;
    let found_roots = fs::read_to_string(&paths.roots).unwrap_or_default();
    let same_roots = found_roots == bundle_pem;
    let existing_roots = if shares_a_root(&found_roots, bundle_pem) { Existing::Replace } else { existing };
    let mut staged = Vec::with_capacity(3);
    let key = leaf.key_pem.as_ref().map(|key| (&paths.key, key.as_str(), files::SECRET));
    let public =
        [(&paths.certificate, leaf.issued.pem.as_str(), files::PUBLIC), (&paths.roots, bundle_pem, files::PUBLIC)];
    for (path, text, mode) in key.into_iter().chain(public) {
        if path == &paths.roots && same_roots {
            continue;
        }
        // Before anything is moved, so that a certificate that is there saves its key as well.
        let existing = if path == &paths.roots { existing_roots } else { existing };
        if existing == Existing::Keep && fs::symlink_metadata(path).is_ok() {
            return Err(CaError::Exists(path.clone()));
        }
        staged.push((path, text, mode, staging_of(path), existing));
    }
    let mut placed = Vec::with_capacity(3);
    let mut write_all = || {
        for (_, text, mode, staging, _) in &staged {
            remove_stale(staging)?;
            files::write_new(staging, text.as_bytes(), *mode).map_err(CaError::io(staging))?;
        }
        for (path, _, _, staging, existing) in &staged {
            place(staging, path, *existing)?;
            if *existing == Existing::Keep {
                placed.push(path);
            }
        }
        files::sync_dir(dir).map_err(CaError::io(dir))
    };
    if let Err(why) = write_all() {
        // No key stays behind for a certificate that nobody got. What was not here before is ours.
        for file in staged.iter().map(|(_, _, _, staging, _)| staging).chain(placed.into_iter().copied()) {
            drop(fs::remove_file(file));
        }
        return Err(why);
    }
    Ok(paths)
}

fn shares_a_root(found: &str, bundle: &str) -> bool {
    match (x509::certificates(found), x509::certificates(bundle)) {
        (Ok(found), Ok(bundle)) => found.iter().any(|root| bundle.contains(root)),
        (Ok(_) | Err(_), _) => false,
    }
}

fn staging_of(path: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".new");
    path.with_file_name(name)
}

fn remove_stale(staging: &Path) -> Result<(), CaError> {
    match fs::remove_file(staging) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(CaError::io(staging)(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn place(staging: &Path, path: &Path, existing: Existing) -> Result<(), CaError> {
    match existing {
        Existing::Replace => fs::rename(staging, path).map_err(CaError::io(path)),
        Existing::Keep => {
            // Unlike a rename, a link fails when somebody was faster.
            fs::hard_link(staging, path).map_err(|error| {
                let taken = error.kind() == io::ErrorKind::AlreadyExists;
                if taken { CaError::Exists(path.to_owned()) } else { CaError::io(path)(error) }
            })?;
            fs::remove_file(staging).map_err(CaError::io(staging))
        }
    }
}

#[cfg(test)]
#[path = "leaf_tests.rs"]
mod tests;

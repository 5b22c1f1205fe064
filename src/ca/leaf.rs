//! A new key with its certificate, as files for its owner.
//!
//! Invariant: a private key is never replaced without its certificate, and nothing is replaced
//! unasked. Files appear whole: written beside their place, on disk, then moved.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
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

/// The files of a leaf beside their places, on disk. They go when it is dropped before [`Self::place`].
///
/// The certificate is not in its file yet, only the room for it: what can be used is whole only when it is
/// on record.
#[derive(Debug)]
pub struct Staged {
    dir: PathBuf,
    paths: LeafFiles,
    files: Vec<StagedFile>,
    /// What was not here before and is in its place.
    placed: Vec<PathBuf>,
    done: bool,
}

struct StagedFile {
    path: PathBuf,
    staging: PathBuf,
    /// It, whatever has its name by now.
    file: File,
    /// What is still to be written.
    text: Option<String>,
    existing: Existing,
}

impl std::fmt::Debug for StagedFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StagedFile").field("path", &self.path).finish_non_exhaustive()
    }
}

/// Prepares `NAME.crt`, `NAME.key` (when the key was made here) and `ca.crt` in `dir`, which is made if it is
/// missing. Another `ca.crt` than this authority's counts as existing; the same one is fine, and one from
/// before a rotation makes way.
///
/// # Errors
///
/// When files exist that are to be kept, or the directory cannot be written.
pub fn stage(leaf: &NewLeaf, bundle_pem: &str, dir: &Path, name: &str, existing: Existing) -> Result<Staged, CaError> {
    let paths = LeafFiles::of(dir, name);
    if paths.certificate == paths.roots {
        return Err(CaError::broken(&paths.roots, "the certificate of this name would overwrite the roots"));
    }
    fs::create_dir_all(dir).map_err(CaError::io(dir))?;
    let found_roots = fs::read_to_string(&paths.roots).unwrap_or_default();
    let same_roots = found_roots == bundle_pem;
    let existing_roots = if shares_a_root(&found_roots, bundle_pem) { Existing::Replace } else { existing };
    let mut staged =
        Staged { dir: dir.to_owned(), paths, files: Vec::with_capacity(3), placed: Vec::new(), done: false };
    let LeafFiles { certificate, key, roots } = staged.paths.clone();
    let of_key = leaf.key_pem.as_ref().map(|text| (key, text.as_str(), files::SECRET, existing, false));
    let of_certificate = (certificate, leaf.issued.pem.as_str(), files::PUBLIC, existing, true);
    let of_roots = (roots, bundle_pem, files::PUBLIC, existing_roots, false);
    let wanted: Vec<_> = of_key.into_iter().chain([of_certificate]).chain((!same_roots).then_some(of_roots)).collect();
    // Before anything is written, so that a certificate that is there saves its key as well.
    if let Some((path, ..)) = wanted
        .iter()
        .find(|(path, _, _, existing, _)| *existing == Existing::Keep && fs::symlink_metadata(path).is_ok())
    {
        return Err(CaError::Exists(path.clone()));
    }
    for (path, text, mode, existing, later) in wanted {
        // The roots are those of others, too, who come at the same time.
        let staging = if path == staged.paths.roots { staging_of_roots(dir, name) } else { staging_of(&path) };
        remove_stale(&staging)?;
        let room = if later { " ".repeat(text.len()) } else { String::new() };
        let now = if later { room.as_str() } else { text };
        let written = files::write_new(&staging, now.as_bytes(), mode);
        if written.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::AlreadyExists) {
            return Err(busy(&staging));
        }
        let file = match fs::OpenOptions::new().write(true).open(&staging) {
            Ok(file) => file,
            Err(error) => return Err(CaError::io(&staging)(written.err().unwrap_or(error))),
        };
        let text = later.then(|| text.to_owned());
        // What was begun is cleared away too.
        staged.files.push(StagedFile { path, staging: staging.clone(), file, text, existing });
        written.map_err(CaError::io(&staging))?;
    }
    files::sync_dir(dir).map_err(CaError::io(dir))?;
    Ok(staged)
}

impl Staged {
    /// Puts the files in their places, whole.
    ///
    /// A crash between the last moves can leave a new key beside an old certificate: run it again.
    ///
    /// # Errors
    ///
    /// When one that is to be kept has come in between, or the directory cannot be written. Then nothing of
    /// it stays behind that was not here before.
    pub fn place(mut self) -> Result<LeafFiles, CaError> {
        // One's certificate beside the key of the other would be of no use.
        if let Some(file) = self.files.iter().find(|file| !file.is_there()) {
            return Err(busy(&file.staging));
        }
        for StagedFile { staging, file, text, .. } in &self.files {
            if let Some(text) = text {
                // As long as what is there: it takes no more room.
                overwrite(file, text.as_bytes()).map_err(CaError::io(staging))?;
            }
        }
        for StagedFile { path, staging, existing, .. } in &self.files {
            match place(staging, path, *existing) {
                Ok(()) if *existing == Existing::Keep => self.placed.push(path.clone()),
                Ok(()) => {}
                // Somebody was faster, with the same.
                Err(CaError::Exists(_)) if *path == self.paths.roots && have_same_text(staging, path) => {
                    fs::remove_file(staging).map_err(CaError::io(staging))?;
                }
                Err(error) => return Err(error),
            }
        }
        files::sync_dir(&self.dir).map_err(CaError::io(&self.dir))?;
        self.done = true;
        Ok(self.paths.clone())
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // No key stays behind for a certificate that nobody got. What was not here before is ours.
        if !self.done {
            let staged = self.files.iter().filter(|file| file.is_there()).map(|file| &file.staging);
            for file in staged.chain(&self.placed) {
                drop(fs::remove_file(file));
            }
        }
    }
}

impl StagedFile {
    /// False when another process has put a file of its own there.
    fn is_there(&self) -> bool {
        let of = |found: fs::Metadata| (found.dev(), found.ino());
        match (self.file.metadata(), fs::symlink_metadata(&self.staging)) {
            (Ok(ours), Ok(found)) => of(ours) == of(found),
            (Ok(_) | Err(_), _) => false,
        }
    }
}

/// Writes over a file that was just opened, down to the disk.
fn overwrite(mut file: &File, bytes: &[u8]) -> io::Result<()> {
    file.write_all(bytes)?;
    file.sync_all()
}

fn busy(staging: &Path) -> CaError {
    CaError::broken(staging, "another process writes it at this moment")
}

fn have_same_text(one: &Path, other: &Path) -> bool {
    matches!((fs::read(one), fs::read(other)), (Ok(one), Ok(other)) if one == other)
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

/// No name of a leaf has a `~`.
fn staging_of_roots(dir: &Path, name: &str) -> PathBuf {
    staging_of(&dir.join(format!("ca.crt~{name}")))
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

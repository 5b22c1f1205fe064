//! The files of an identity: `NAME.key`, `NAME.crt`, `ca.crt` and `gateway.toml` in a directory.
//!
//! Invariant: a key and its certificate are replaced so that a crash at any moment leaves a usable
//! pair. Both are written beside their places first; then the key moves, then the certificate. What a
//! crash leaves between the two moves is a new key beside an old certificate, with the new
//! certificate waiting: whoever opens the identity next ends the move.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rcgen::{KeyPair, PublicKeyData};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use zeroize::Zeroizing;

use crate::ca::bundle::RootPin;
use crate::ca::leaf_files::LeafFiles;
use crate::ca::{files, x509};
use crate::domain::identity::IdentityName;
use crate::holder::fault::HolderFault;
use crate::holder::origin::{self, Origin};

/// Most bytes of a file that are read.
const MAX_BYTES: u64 = 1 << 20;

/// Where the files of one identity are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    dir: PathBuf,
    name: IdentityName,
}

/// What is written: a new key with its certificate, and what comes along.
pub struct NewFiles<'n> {
    /// PKCS#8 in PEM.
    pub key: &'n str,
    /// The chain in PEM, leaf first.
    pub certificate: &'n str,
    /// The roots in PEM.
    pub roots: &'n str,
    /// The text of [`origin::FILE`]; `None` leaves it as it is.
    pub origin: Option<&'n str>,
}

/// What is in the files.
pub struct Contents {
    /// PKCS#8 in PEM.
    pub key: Zeroizing<String>,
    /// The chain in PEM, leaf first.
    pub certificate: String,
    /// The roots in PEM.
    pub roots: String,
}

/// Nobody else changes the identities of a directory while this lives.
#[derive(Debug)]
pub struct Lock {
    _directory: File,
}

/// Runs before every change on disk: tests stop there to see what a crash leaves.
pub(super) type BeforeEach<'b> = &'b mut dyn FnMut() -> io::Result<()>;

impl Place {
    /// The place of `name` in `dir`.
    #[must_use]
    pub fn new(dir: &Path, name: &IdentityName) -> Self {
        Self { dir: dir.to_owned(), name: name.clone() }
    }

    /// The only identity in `dir`.
    ///
    /// # Errors
    ///
    /// When there is none, or more than one.
    pub fn only(dir: &Path) -> Result<Self, HolderFault> {
        let entries = match fs::read_dir(dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(HolderFault::Missing(dir.to_owned())),
            Err(error) => return Err(HolderFault::file(dir, error)),
        };
        let mut names: Vec<IdentityName> = entries
            .filter_map(|entry| {
                let file = entry.ok()?.file_name();
                IdentityName::parse(file.to_str()?.strip_suffix(".key")?).ok()
            })
            .collect();
        names.sort();
        match <[IdentityName; 1]>::try_from(names) {
            Ok([name]) => Ok(Self::new(dir, &name)),
            Err(names) if names.is_empty() => Err(HolderFault::Missing(dir.to_owned())),
            Err(names) => Err(HolderFault::Several {
                dir: dir.to_owned(),
                names: names.iter().map(ToString::to_string).collect(),
            }),
        }
    }

    /// The directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The name of the identity.
    #[must_use]
    pub const fn name(&self) -> &IdentityName {
        &self.name
    }

    /// The files.
    #[must_use]
    pub fn files(&self) -> LeafFiles {
        LeafFiles::of(&self.dir, self.name.as_str())
    }

    /// Makes the directory, for its owner alone, if it is missing, and takes the lock on it.
    ///
    /// # Errors
    ///
    /// When another process has it, or the directory cannot be made.
    pub fn lock(&self) -> Result<Lock, HolderFault> {
        let failed = |error: &io::Error| HolderFault::file(&self.dir, error);
        files::create_private_dirs(&self.dir).map_err(|error| failed(&error))?;
        let directory = files::lockable(&self.dir).map_err(|error| failed(&error))?;
        match directory.try_lock() {
            Ok(()) => Ok(Lock { _directory: directory }),
            Err(TryLockError::WouldBlock) => Err(HolderFault::Busy(self.dir.clone())),
            Err(TryLockError::Error(error)) => Err(failed(&error)),
        }
    }

    /// Fails when a file of this identity is there already, or the roots of another authority are,
    /// with an identity that needs them, or a file that only has the name of [`origin::FILE`].
    ///
    /// # Errors
    ///
    /// [`HolderFault::Exists`], with the file.
    pub fn check_free(&self, pin: RootPin) -> Result<(), HolderFault> {
        let LeafFiles { certificate, key, roots } = self.files();
        if certificate == roots {
            return Err(HolderFault::file(&roots, "the certificate of this name would overwrite the roots"));
        }
        if let Some(file) = [key, certificate].into_iter().find(|file| fs::symlink_metadata(file).is_ok()) {
            return Err(HolderFault::Exists(file));
        }
        let is_pinned = |root: &CertificateDer<'_>| RootPin::of(root) == pin;
        let ours = match read(&roots) {
            Ok(text) => x509::certificates(&text).is_ok_and(|found| found.iter().any(is_pinned)),
            Err(_) => fs::symlink_metadata(&roots).is_err(),
        };
        let needed = !matches!(Self::only(&self.dir), Err(HolderFault::Missing(_)));
        if needed && !ours {
            return Err(HolderFault::Exists(roots));
        }
        // It may well be a gateway's own config.
        let origin = self.dir.join(origin::FILE);
        let is_free = fs::symlink_metadata(&origin).is_err() || Origin::read(&self.dir).is_ok();
        if is_free { Ok(()) } else { Err(HolderFault::Exists(origin)) }
    }

    /// Fails when nothing can be written here: before something is asked for that works once.
    ///
    /// # Errors
    ///
    /// Why nothing can be written.
    pub fn check_writable(&self) -> Result<(), HolderFault> {
        // As much as the largest file that may come.
        let sample = vec![b'\n'; 64 * 1024];
        let staging = staging_of(&self.files().certificate);
        let removed = || match fs::remove_file(&staging) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        };
        let written =
            removed().and_then(|()| files::write_new(&staging, &sample, files::PUBLIC)).and_then(|()| removed());
        written.map_err(|error| HolderFault::file(&self.dir, error))
    }

    /// Reads the files, and first ends a move that a crash has interrupted.
    ///
    /// # Errors
    ///
    /// When one is missing, cannot be read, or others can read the key; or when key and certificate
    /// do not belong together.
    pub fn read(&self) -> Result<Contents, HolderFault> {
        let paths = self.files();
        let key = Zeroizing::new(read(&paths.key)?);
        let mode = files::mode(&paths.key).map_err(|error| HolderFault::file(&paths.key, error))?;
        if mode & 0o077 != 0 {
            let path = paths.key.display();
            return Err(HolderFault::file(
                &paths.key,
                format_args!("it can be read by others (mode {mode:04o}); run: chmod 600 {path}"),
            ));
        }
        let pair = KeyPair::from_pem(&key).map_err(|_| HolderFault::file(&paths.key, "not a private key in PEM"))?;
        let certificate = match read(&paths.certificate) {
            Ok(certificate) if belongs(&pair, &certificate) => certificate,
            found => {
                let waiting = staging_of(&paths.certificate);
                match read(&waiting) {
                    Ok(certificate) if belongs(&pair, &certificate) => {
                        fs::rename(&waiting, &paths.certificate).map_err(|error| HolderFault::file(&waiting, error))?;
                        certificate
                    }
                    Ok(_) | Err(_) => {
                        found?;
                        return Err(HolderFault::file(&paths.certificate, "it does not belong to the key beside it"));
                    }
                }
            }
        };
        Ok(Contents { key, certificate, roots: read(&paths.roots)? })
    }

    /// Writes the files in the place of what is there.
    ///
    /// # Errors
    ///
    /// When the directory cannot be written.
    pub fn write(&self, new: &NewFiles<'_>, lock: &Lock) -> Result<(), HolderFault> {
        self.write_with(new, lock, &mut || Ok(()))
    }

    pub(super) fn write_with(
        &self,
        new: &NewFiles<'_>,
        _lock: &Lock,
        before_each: BeforeEach<'_>,
    ) -> Result<(), HolderFault> {
        let paths = self.files();
        let origin_path = self.dir.join(origin::FILE);
        let origin = new.origin.map(|text| (&origin_path, text, files::PUBLIC));
        // The key before the certificate: see the head of this file.
        let pair = [(&paths.key, new.key, files::SECRET), (&paths.certificate, new.certificate, files::PUBLIC)];
        let all: Vec<_> = [(&paths.roots, new.roots, files::PUBLIC)].into_iter().chain(origin).chain(pair).collect();
        for (path, text, mode) in &all {
            let staging = staging_of(path);
            step(&staging, before_each, || match fs::remove_file(&staging) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                Ok(()) | Err(_) => Ok(()),
            })?;
            step(&staging, before_each, || files::write_new(&staging, text.as_bytes(), *mode))?;
        }
        step(&self.dir, before_each, || files::sync_dir(&self.dir))?;
        for (path, ..) in &all {
            step(path, before_each, || fs::rename(staging_of(path), path))?;
        }
        step(&self.dir, before_each, || files::sync_dir(&self.dir))
    }
}

fn step(path: &Path, before_each: BeforeEach<'_>, change: impl FnOnce() -> io::Result<()>) -> Result<(), HolderFault> {
    before_each().and_then(|()| change()).map_err(|error| HolderFault::file(path, error))
}

/// True when the first certificate of a chain is for this key.
fn belongs(pair: &KeyPair, chain: &str) -> bool {
    let Ok(leaf) = CertificateDer::from_pem_slice(chain.as_bytes()) else { return false };
    x509::parse(&leaf).is_ok_and(|leaf| leaf.public_key().raw == pair.subject_public_key_info())
}

fn read(path: &Path) -> Result<String, HolderFault> {
    let mut text = String::new();
    let file = File::open(path).map_err(|error| HolderFault::file(path, error))?;
    file.take(MAX_BYTES + 1).read_to_string(&mut text).map_err(|error| HolderFault::file(path, error))?;
    if text.len() as u64 > MAX_BYTES { Err(HolderFault::file(path, "it is too large")) } else { Ok(text) }
}

fn staging_of(path: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".new");
    path.with_file_name(name)
}

impl std::fmt::Debug for Contents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Contents").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for NewFiles<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewFiles").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[cfg(feature = "gateway")]
#[path = "files_tests.rs"]
mod tests;

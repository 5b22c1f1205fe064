//! The files of an authority, as one.
//!
//! Invariant: a directory holds one state of an authority, whole. A change builds the next state
//! beside it and exchanges the two directories in one step, so no crash and no reader sees a mixture.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use zeroize::Zeroizing;

use crate::ca::{CaError, files};

/// The root.
pub(super) const ROOT_CRT: &str = "root.crt";
/// Its key, unless it is offline or an authority of somebody else's.
pub(super) const ROOT_KEY: &str = "root.key";
/// The issuer; under a root of somebody else's also what is between the two.
pub(super) const ISSUER_CRT: &str = "issuer.crt";
/// Its key.
pub(super) const ISSUER_KEY: &str = "issuer.key";
/// The trust domain, when the root is somebody else's and cannot tell.
pub(super) const TRUST_DOMAIN: &str = "trust-domain";
/// The issuer's key certified by the root before this one, for clients that know only that root.
pub(super) const BRIDGE_CRT: &str = "bridge.crt";
/// Own roots from before that are still trusted.
pub(super) const OLDER_ROOTS: &str = "older-roots.crt";
/// Since when the issuer issues, when another one did before.
pub(super) const ISSUER_SINCE: &str = "issuer-since";
/// Issuers from before with their keys, which sign nothing but CRLs any more.
pub(super) const OLDER_ISSUERS: &str = "older-issuers.pem";

const NAMES: [&str; 9] =
    [ROOT_KEY, ISSUER_KEY, OLDER_ISSUERS, ISSUER_CRT, BRIDGE_CRT, OLDER_ROOTS, TRUST_DOMAIN, ISSUER_SINCE, ROOT_CRT];

/// How often a directory is read again that is being exchanged.
const ATTEMPTS: usize = 16;

/// How long another change is waited for, and from one look to the next.
const PATIENCE: Duration = Duration::from_secs(2);
const AGAIN: Duration = Duration::from_millis(10);

/// Runs before every change on disk: tests stop there to see what a crash leaves.
pub(super) type BeforeEach<'a> = &'a mut dyn FnMut() -> io::Result<()>;

/// The text of each file.
#[derive(Clone, Default)]
pub(super) struct Contents(BTreeMap<&'static str, Zeroizing<String>>);

impl Contents {
    /// Reads a directory; what is in it belongs to one state.
    pub(super) fn read(dir: &Path) -> Result<Self, CaError> {
        for _ in 0..ATTEMPTS {
            let before = inode(dir)?;
            let read = Self::read_once(dir);
            if before == inode(dir)? {
                return if before.is_none() { Err(CaError::Missing(dir.to_owned())) } else { read };
            }
        }
        Err(CaError::Busy(dir.to_owned()))
    }

    fn read_once(dir: &Path) -> Result<Self, CaError> {
        let mut contents = Self::default();
        for name in NAMES {
            let path = dir.join(name);
            match fs::read_to_string(&path) {
                Ok(text) => contents.set(name, Zeroizing::new(text)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(CaError::io(&path)(error)),
            }
            let mode = files::mode(&path).map_err(CaError::io(&path))?;
            if mode_of(name) == files::SECRET && mode & 0o077 != 0 {
                return Err(CaError::KeyExposed { path, mode });
            }
        }
        Ok(contents)
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(|text| text.as_str())
    }

    pub(super) fn set(&mut self, name: &'static str, text: Zeroizing<String>) {
        self.0.insert(name, text);
    }

    pub(super) fn remove(&mut self, name: &str) {
        self.0.remove(name);
    }

    /// Puts this where no authority is.
    pub(super) fn place_new(&self, dir: &Path, before_each: BeforeEach<'_>) -> Result<(), CaError> {
        refuse_existing(dir)?;
        let staging = self.stage(dir, before_each)?;
        before_each().map_err(CaError::io(dir))?;
        // A directory is renamed onto another only if that is empty: nothing can be overwritten.
        fs::rename(&staging, dir).map_err(|error| {
            let taken = matches!(error.kind(), io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists);
            given_up(&staging, if taken { CaError::Exists(dir.to_owned()) } else { CaError::io(dir)(error) })
        })?;
        let parent = parent_of(dir);
        files::sync_dir(parent).map_err(CaError::io(parent))
    }

    /// Puts this in the place of the authority that is there.
    pub(super) fn place_instead(&self, dir: &Path, before_each: BeforeEach<'_>) -> Result<(), CaError> {
        let staging = self.stage(dir, before_each)?;
        before_each().map_err(CaError::io(dir))?;
        exchange(&staging, dir).map_err(|error| given_up(&staging, CaError::io(dir)(error)))?;
        let parent = parent_of(dir);
        files::sync_dir(parent).map_err(CaError::io(parent))?;
        before_each().map_err(CaError::io(&staging))?;
        remove_staging(&staging)
    }

    /// Writes everything beside `dir`, down to the disk.
    fn stage(&self, dir: &Path, before_each: BeforeEach<'_>) -> Result<PathBuf, CaError> {
        let staging = staging_of(dir)?;
        // What a crashed attempt left.
        remove_staging(&staging)?;
        create_private_dir(&staging).map_err(CaError::io(&staging))?;
        for (name, text) in &self.0 {
            let path = staging.join(name);
            before_each().map_err(CaError::io(&path))?;
            files::write_new(&path, text.as_bytes(), mode_of(name))
                .map_err(|error| given_up(&staging, CaError::io(&path)(error)))?;
        }
        before_each().map_err(CaError::io(&staging))?;
        files::sync_dir(&staging).map_err(CaError::io(&staging))?;
        Ok(staging)
    }
}

/// Only whoever holds this changes the authority in a directory. Its end, or the process's, frees it.
#[derive(Debug)]
pub(super) struct Lock {
    _directory: File,
}

impl Lock {
    /// Takes the lock, and removes what a crash has left of an earlier change: keys may be in it.
    pub(super) fn take(dir: &Path) -> Result<Self, CaError> {
        let parent = parent_of(dir);
        fs::create_dir_all(parent).map_err(CaError::io(parent))?;
        let directory = File::open(parent).map_err(CaError::io(parent))?;
        let mut left = PATIENCE;
        loop {
            match directory.try_lock() {
                Ok(()) => break,
                // A running gateway takes it for a moment now and then, to number a list.
                Err(TryLockError::WouldBlock) if !left.is_zero() => {
                    thread::sleep(AGAIN);
                    left = left.saturating_sub(AGAIN);
                }
                Err(TryLockError::WouldBlock) => return Err(CaError::Busy(dir.to_owned())),
                Err(TryLockError::Error(error)) => return Err(CaError::io(parent)(error)),
            }
        }
        remove_staging(&staging_of(dir)?)?;
        Ok(Self { _directory: directory })
    }
}

pub(super) fn refuse_existing(dir: &Path) -> Result<(), CaError> {
    match fs::read_dir(dir) {
        Ok(mut entries) => entries.next().map_or(Ok(()), |_| Err(CaError::Exists(dir.to_owned()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(CaError::io(dir)(error)),
    }
}

fn parent_of(dir: &Path) -> &Path {
    dir.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."))
}

fn staging_of(dir: &Path) -> Result<PathBuf, CaError> {
    let name = dir.file_name().ok_or_else(|| CaError::broken(dir, "not the name of a directory"))?;
    let mut staging = std::ffi::OsString::from(".");
    staging.push(name);
    staging.push(".new");
    Ok(parent_of(dir).join(staging))
}

fn remove_staging(staging: &Path) -> Result<(), CaError> {
    match fs::remove_dir_all(staging) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(CaError::io(staging)(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Nothing was changed, so nothing is left: there are keys in it. What cannot be removed, the next
/// change removes.
fn given_up(staging: &Path, why: CaError) -> CaError {
    drop(remove_staging(staging));
    why
}

fn mode_of(name: &str) -> u32 {
    if matches!(name, ROOT_KEY | ISSUER_KEY | OLDER_ISSUERS) { files::SECRET } else { files::PUBLIC }
}

fn inode(dir: &Path) -> Result<Option<u64>, CaError> {
    match fs::metadata(dir) {
        Ok(metadata) => Ok(Some(metadata.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(CaError::io(dir)(error)),
    }
}

/// Writes a file in the place of what may be there, whole and down to the disk.
pub(super) fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".new");
    let staging = path.with_file_name(name);
    match fs::remove_file(&staging) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    files::write_new(&staging, bytes, mode).and_then(|()| fs::rename(&staging, path)).inspect_err(|_| {
        drop(fs::remove_file(&staging));
    })?;
    files::sync_dir(path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or_else(|| Path::new(".")))
}

/// Puts each of two directories in the other's place, in one step.
fn exchange(one: &Path, other: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    Ok(renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE)?)
}

/// Makes a directory that only its owner can look into.
fn create_private_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(path)
}

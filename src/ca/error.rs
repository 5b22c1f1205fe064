//! Why the authority could not do something.

use std::io;
use std::path::{Path, PathBuf};

use crate::ca::plan::PlanFault;

/// Why the authority could not do something. The text says what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// There is something where an authority or a certificate should go.
    #[error("{} exists already and is not overwritten", .0.display())]
    Exists(PathBuf),
    /// There is no authority.
    #[error("there is no authority in {}; make one with: doorward ca init --trust-domain corp.example", .0.display())]
    Missing(PathBuf),
    /// Another process is making or changing the authority.
    #[error("another process is changing the authority in {}", .0.display())]
    Busy(PathBuf),
    /// A private key is encrypted and no passphrase was given.
    #[error("{} is encrypted and needs its passphrase", .0.display())]
    Locked(PathBuf),
    /// The key of the root is elsewhere.
    #[error("the root's key is not in {}: it was taken offline", .0.display())]
    RootOffline(PathBuf),
    /// The authority is not in a state in which this can be done.
    #[error("{0}")]
    NotNow(String),
    /// A private key that others can read.
    #[error("{} can be read by others (mode {mode:04o}); run: chmod 600 {}", path.display(), path.display())]
    KeyExposed {
        /// The key.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The files of the authority do not make one.
    #[error("{}: {why}", path.display())]
    Broken {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// What was asked for may not be certified.
    #[error(transparent)]
    Plan(#[from] PlanFault),
    /// The public key may not be certified.
    #[error("the public key cannot be certified: {0}")]
    PublicKey(&'static str),
    /// A request for a certificate is not accepted.
    #[error("the request is not accepted: {0}")]
    Request(&'static str),
    /// A certificate did not say what was planned, and was thrown away.
    #[error("the issued certificate differs from its plan: {0}")]
    NotAsPlanned(&'static str),
    /// The random number generator or a signature failed.
    #[error("cryptography failed: {0}")]
    Crypto(String),
    /// The file system said no.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl CaError {
    pub(super) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self + use<'_> {
        move |source| Self::Io { path: path.to_owned(), source }
    }

    pub(super) fn broken(path: &Path, why: impl Into<String>) -> Self {
        Self::Broken { path: path.to_owned(), why: why.into() }
    }
}

impl From<rcgen::Error> for CaError {
    fn from(error: rcgen::Error) -> Self {
        Self::Crypto(error.to_string())
    }
}

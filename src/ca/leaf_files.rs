//! Which files a certificate is in, with its key and what verifies the gateway.

use std::path::{Path, PathBuf};

/// The roots, beside every certificate.
const ROOTS: &str = "ca.crt";

/// Where the files of a leaf are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LeafFiles {
    /// `NAME.crt`: the chain, leaf first.
    pub certificate: PathBuf,
    /// `NAME.key`: readable by its owner only.
    pub key: PathBuf,
    /// `ca.crt`: what the gateway's certificate is verified with.
    pub roots: PathBuf,
}

impl LeafFiles {
    /// The files of `name` in `dir`.
    #[must_use]
    pub fn of(dir: &Path, name: &str) -> Self {
        let at = |suffix: &str| dir.join(format!("{name}.{suffix}"));
        Self { certificate: at("crt"), key: at("key"), roots: dir.join(ROOTS) }
    }
}

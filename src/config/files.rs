//! What a config file refers to on disk: secrets, certificates, keys.
//!
//! Invariant: every file that is read is watched, and none is read without bound.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rustls::RootCertStore;
use rustls::crypto::aws_lc_rs;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::Zeroizing;

use crate::config::document::Value;
use crate::config::values::Text;

/// Largest file that is read: far more than any chain of certificates.
const MAX_FILE_BYTES: u64 = 4 << 20;
/// Largest list of revoked certificates: a million of them.
const MAX_LIST_BYTES: u64 = 48 << 20;

/// Reads a file, refusing one that is too large to be meant.
pub(super) fn read_bounded(file: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    read_at_most(file, MAX_FILE_BYTES)
}

fn read_at_most(file: &Path, most: u64) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(Vec::new());
    File::open(file)?.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it has more than {most} bytes")));
    }
    Ok(bytes)
}

/// Certificates with the key of the first.
pub(super) type Pair = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

impl<'d> Value<'d> {
    /// A path, absolute.
    pub(super) fn path(&self) -> Option<PathBuf> {
        self.text().and_then(|text| self.resolve(&text))
    }

    /// What `${file:PATH}` stands for.
    pub(super) fn referred_file(&self, path: &str) -> Option<String> {
        let bytes = self.read(&self.place.document.directory.join(path), path, Content::Secret)?;
        let Ok(text) = std::str::from_utf8(&bytes) else {
            return self.refuse(&format!("{path} does not hold UTF-8 text"));
        };
        let text = text.strip_suffix('\n').map_or(text, |text| text.strip_suffix('\r').unwrap_or(text));
        Some(text.to_owned())
    }

    /// The certificates of a PEM file; at least one.
    pub(super) fn certificates(&self) -> Option<Vec<CertificateDer<'static>>> {
        let text = self.text()?;
        let bytes = self.read(&self.resolve(&text)?, text.shown(), Content::Public)?;
        let shown = text.shown();
        let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
        let found = found.map_err(|error| self.wrong(format!("{shown} is not PEM: {}", explain(&error)))).ok()?;
        if found.is_empty() {
            return self.refuse(&format!("{shown} holds no certificate (-----BEGIN CERTIFICATE-----)"));
        }
        let broken = |der: &CertificateDer<'_>| !X509Certificate::from_der(der).is_ok_and(|(rest, _)| rest.is_empty());
        match found.iter().position(broken) {
            Some(index) => self.refuse(&format!("certificate {} of {shown} cannot be read", index + 1)),
            None => Some(found),
        }
    }

    /// What is in a file that anybody may read, and the file's name for a message.
    pub(super) fn public_file(&self) -> Option<(Zeroizing<Vec<u8>>, String)> {
        let text = self.text()?;
        let bytes = self.read(&self.resolve(&text)?, text.shown(), Content::Public)?;
        Some((bytes, text.shown().to_owned()))
    }

    /// The certificates of a PEM file that can serve as roots.
    pub(super) fn roots(&self) -> Option<Vec<CertificateDer<'static>>> {
        self.certificates().and_then(|found| self.fit_as_roots(found))
    }

    /// These certificates, when each can serve as a root.
    pub(super) fn fit_as_roots(&self, found: Vec<CertificateDer<'static>>) -> Option<Vec<CertificateDer<'static>>> {
        let mut store = RootCertStore::empty();
        let unfit = found.iter().position(|der| store.add(der.clone()).is_err());
        match unfit {
            Some(index) => self.refuse(&format!("certificate {} cannot be a root", index + 1)),
            None => Some(found),
        }
    }

    /// A file of revoked certificates, with what to call it. Such files may be long.
    pub(super) fn list_file(&self) -> Option<(String, Vec<u8>)> {
        let text = self.text()?;
        let file = self.resolve(&text)?;
        let shown = text.shown();
        self.place.document.watch(&file);
        let bytes = read_at_most(&file, MAX_LIST_BYTES);
        let bytes = bytes.map_err(|error| self.wrong(format!("cannot read {shown}: {error}"))).ok()?;
        Some((shown.to_owned(), bytes.to_vec()))
    }

    /// The private key of a PEM file.
    pub(super) fn private_key(&self) -> Option<PrivateKeyDer<'static>> {
        let text = self.text()?;
        let bytes = self.read(&self.resolve(&text)?, text.shown(), Content::Secret)?;
        let shown = text.shown();
        if memchr::memmem::find(&bytes, b"ENCRYPTED PRIVATE KEY").is_some() {
            return self.refuse(&format!("the key in {shown} is encrypted, and there is nobody to ask at start"));
        }
        PrivateKeyDer::from_pem_slice(&bytes)
            .map_err(|error| self.wrong(format!("{shown} holds no private key in PEM: {}", explain(&error))))
            .ok()
    }

    /// Checks that `key`, read from this setting, belongs to the first certificate of `chain`.
    pub(super) fn belonging(
        &self,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        chain_setting: &str,
    ) -> Option<Pair> {
        match CertifiedKey::from_der(chain.clone(), key.clone_key(), &aws_lc_rs::default_provider()) {
            Ok(_) => Some((chain, key)),
            Err(rustls::Error::InconsistentKeys(_)) => {
                self.refuse(&format!("does not belong to the first certificate of {chain_setting}"))
            }
            Err(error) => self.refuse(&format!("cannot be used: {error}")),
        }
    }

    /// Warns when clients will turn a server's certificate down.
    pub(super) fn doubt_server(&self, chain: &[CertificateDer<'_>]) {
        let Some(Ok((_, leaf))) = chain.first().map(|leaf| X509Certificate::from_der(leaf)) else { return };
        let now = self.place.document.now.as_seconds();
        if leaf.validity().not_after.timestamp() <= now {
            self.place.warn(format!("the certificate ended on {}", leaf.validity().not_after));
        }
        if leaf.validity().not_before.timestamp() > now {
            self.place.warn(format!("the certificate begins on {}", leaf.validity().not_before));
        }
        let usage = leaf.extended_key_usage().ok().flatten();
        if usage.is_some_and(|usage| !usage.value.server_auth && !usage.value.any) {
            self.place.warn("the certificate is not meant for servers: no serverAuth in its extended key usage");
        }
    }

    fn resolve(&self, text: &Text<'_>) -> Option<PathBuf> {
        if text.text.is_empty() {
            return self.refuse("must be a path");
        }
        // `join` keeps an absolute path as it is.
        Some(self.place.document.directory.join(&text.text))
    }

    fn read(&self, file: &Path, shown: &str, content: Content) -> Option<Zeroizing<Vec<u8>>> {
        self.place.document.watch(file);
        let bytes = read_bounded(file).map_err(|error| self.wrong(format!("cannot read {shown}: {error}"))).ok()?;
        match content {
            Content::Secret if others_may_read(file) => {
                self.place.warn(format!("{shown} can be read by others than its owner; chmod 600 it"));
            }
            Content::Secret | Content::Public => {}
        }
        Some(bytes)
    }
}

#[cfg(unix)]
fn others_may_read(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    file.metadata().is_ok_and(|metadata| metadata.permissions().mode() & 0o044 != 0)
}

/// Access lists are the operator's matter: nothing is known of them here.
#[cfg(not(unix))]
const fn others_may_read(_: &Path) -> bool {
    false
}

/// Whether others may see what a file holds.
#[derive(Clone, Copy)]
enum Content {
    Public,
    Secret,
}

/// Why PEM was refused, without a piece of the file: it may be a key.
fn explain(error: &pem::Error) -> &'static str {
    match error {
        pem::Error::MissingSectionEnd { .. } => "an -----END …----- line is missing",
        pem::Error::IllegalSectionStart { .. } => "a -----BEGIN …----- line is malformed",
        pem::Error::Base64Decode(_) => "its base64 is damaged",
        pem::Error::NoItemsFound => "nothing of the kind is in it",
        pem::Error::Io(_) | pem::Error::SectionTooLarge | _ => "it is malformed",
    }
}

#[cfg(test)]
#[cfg(feature = "gateway")]
#[path = "files_tests.rs"]
mod tests;

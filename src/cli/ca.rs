//! `doorward ca`

mod crl;
mod enterprise;
mod rotate;
mod show;

use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use crate::ca::CaError;
use crate::ca::authority::Authority;
use crate::cli::output::Failure;
use crate::cli::place::Place;
use crate::cli::root_key::PassphraseFrom;
use crate::clock::Clock;
use crate::domain::identity::TrustDomain;

/// The built-in certificate authority.
#[derive(Debug, Subcommand)]
pub enum Ca {
    /// Make the authority: a root for ten years and an issuer for one
    Init(Init),
    /// Show the authority
    Show(show::Show),
    /// Print the root certificates, which clients verify the gateway with
    Bundle(Bundle),
    /// Print a signed list of what is revoked, for others than the gateway
    Crl(crl::Crl),
    /// Take the root's key offline: into a file under a passphrase, and off this machine's state
    ExportRoot(rotate::ExportRoot),
    /// Print a request for an issuer that the enterprise's own root signs
    Csr(enterprise::Csr),
    /// Put an issuer in force that the enterprise's own root has signed
    ImportIssuer(enterprise::ImportIssuer),
    /// Replace the issuer or the root; what they have signed stays good
    Rotate(rotate::Rotate),
}

/// Makes the authority in the state directory.
#[derive(Debug, Args)]
pub struct Init {
    /// The domain of all identities, such as corp.example; it cannot be changed later
    #[arg(long, value_name = "DOMAIN", value_parser = TrustDomain::parse)]
    trust_domain: TrustDomain,
    #[command(flatten)]
    passphrase: PassphraseFrom,
    #[command(flatten)]
    place: Place,
}

/// Prints the root certificates in PEM: the newest, and those before it that are still trusted.
#[derive(Debug, Args)]
pub struct Bundle {
    #[command(flatten)]
    place: Place,
}

/// Where the authority is in a state directory.
#[must_use]
pub fn directory(state_dir: &Path) -> PathBuf {
    state_dir.join("ca")
}

/// The authority in a state directory.
///
/// # Errors
///
/// When there is none, or it is damaged.
pub fn open(state_dir: &Path) -> Result<Authority, Failure> {
    Authority::open(&directory(state_dir)).map_err(|error| said(&error, "corp.example"))
}

/// What an authority's error means on the command line; `domain` is for the hint.
#[must_use]
pub fn said(error: &CaError, domain: &str) -> Failure {
    if let CaError::Missing(dir) = error {
        return Failure::with_hint(
            format!("there is no authority in {}", dir.display()),
            format!("`doorward ca init --trust-domain {domain}` makes one"),
        );
    }
    hinted(error)
}

/// An error, with what to do about a disk that takes nothing.
pub(super) fn hinted(error: &CaError) -> Failure {
    let CaError::Io { source, .. } = error else { return Failure::new(error) };
    #[expect(clippy::wildcard_enum_match_arm, reason = "the kinds of io::Error are open-ended")]
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            Failure::with_hint(error, "free some space, then try again")
        }
        io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => {
            Failure::with_hint(error, "check the mount, and the permissions of the directory")
        }
        _ => Failure::new(error),
    }
}

impl Ca {
    /// Runs the verb.
    ///
    /// # Errors
    ///
    /// When there is an authority already, none, or one that is damaged.
    pub fn run(self, out: &mut impl Write, err: &mut impl Write) -> Result<(), Failure> {
        match self {
            Self::Init(verb) => verb.run(out, err),
            Self::Show(verb) => verb.run(out),
            Self::Bundle(verb) => {
                let authority = open(&verb.place.state_dir()?)?;
                write!(out, "{}", authority.bundle_pem())?;
                Ok(())
            }
            Self::Crl(verb) => verb.run(out),
            Self::ExportRoot(verb) => verb.run(out, err),
            Self::Csr(verb) => verb.run(out),
            Self::ImportIssuer(verb) => verb.run(out, err),
            Self::Rotate(verb) => verb.run(out, err),
        }
    }
}

impl Init {
    fn run(self, out: &mut impl Write, err: &mut impl Write) -> Result<(), Failure> {
        let directory = directory(&self.place.state_dir()?);
        let passphrase = self.passphrase.read()?;
        let made = Authority::init_with(&directory, &self.trust_domain, passphrase.as_ref(), Clock::System.now());
        let authority = made.map_err(|error| {
            if matches!(error, CaError::Exists(_)) {
                Failure::with_hint(error, "`doorward ca show` shows what is there")
            } else {
                hinted(&error)
            }
        })?;
        writeln!(out, "made the authority of {} in {}", authority.trust_domain(), directory.display())?;
        writeln!(err, "Keep a copy of that directory where only you can read it.")?;
        Ok(())
    }
}

/// What a change's error means on the command line.
fn changed(error: &CaError) -> Failure {
    match error {
        CaError::Missing(_) => said(error, "corp.example"),
        CaError::Locked(_) => Failure::with_hint(
            error,
            "--passphrase-file FILE reads it from a file (- for stdin), $DOORWARD_ROOT_PASSPHRASE from the environment",
        ),
        CaError::RootOffline(_) => Failure::with_hint(error, "--root-key FILE says where it is"),
        CaError::Io { .. } => hinted(error),
        CaError::Exists(_)
        | CaError::Busy(_)
        | CaError::KeyExposed { .. }
        | CaError::Broken { .. }
        | CaError::NotNow(_)
        | CaError::Plan(_)
        | CaError::PublicKey(_)
        | CaError::Request(_)
        | CaError::NotAsPlanned(_)
        | CaError::Crypto(_) => Failure::new(error),
    }
}

/// A file, or stdin for `-`, of which no more than `most` bytes are taken.
///
/// # Errors
///
/// When it cannot be read, or is longer.
pub fn read_bounded(file: &Path, most: u64) -> Result<Vec<u8>, Failure> {
    let shown = if file == Path::new("-") { "stdin".to_owned() } else { file.display().to_string() };
    let cannot = |error: io::Error| Failure::new(format!("cannot read {shown}: {error}"));
    let mut bytes = Vec::new();
    let limit = most.saturating_add(1);
    if file == Path::new("-") {
        io::stdin().take(limit).read_to_end(&mut bytes).map_err(cannot)?;
    } else {
        fs::File::open(file).map_err(cannot)?.take(limit).read_to_end(&mut bytes).map_err(cannot)?;
    }
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > most {
        return Err(Failure::new(format!("{shown} has more than {most} bytes")));
    }
    Ok(bytes)
}

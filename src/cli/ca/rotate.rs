//! `doorward ca rotate` and `doorward ca export-root`: what needs the root's key, or takes it away.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;

use super::{changed, directory, open};
use crate::ca::authority::Authority;
use crate::ca::change;
use crate::cli::output::{self, Failure};
use crate::cli::place::Place;
use crate::cli::root_key::{PassphraseFrom, RootKeyFrom};
use crate::clock::Clock;
use crate::domain::timestamp::Timestamp;
use crate::store::rows::CertificateRecord;

/// Takes the root's key offline: PKCS#8 under a passphrase, as openssl reads it.
#[derive(Debug, Args)]
pub struct ExportRoot {
    /// Where the key goes; it must not exist
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    passphrase: PassphraseFrom,
    #[command(flatten)]
    place: Place,
}

/// Replaces the issuer or the root. Certificates that are out stay good until they end, and clients
/// that know only the old root go on.
#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("what").required(true)))]
pub struct Rotate {
    /// A new issuer under the same root
    #[arg(long, group = "what")]
    issuer: bool,
    /// A new root, and a new issuer under it
    #[arg(long, group = "what")]
    root: bool,
    /// Trust only the newest root and issuer from now on
    #[arg(long, group = "what")]
    finish: bool,
    /// Finish although certificates end by it that are still good
    #[arg(long, requires = "finish")]
    force: bool,
    #[command(flatten)]
    root_key: RootKeyFrom,
    #[command(flatten)]
    place: Place,
}

impl ExportRoot {
    pub(super) fn run(self, out: &mut impl Write, err: &mut impl Write) -> Result<(), Failure> {
        let state_dir = self.place.state_dir()?;
        let passphrase = self.passphrase.require()?;
        change::export_root(&directory(&state_dir), &self.out, &passphrase).map_err(|error| changed(&error))?;
        writeln!(out, "the root's key is in {}, and no longer in the state directory", self.out.display())?;
        writeln!(err, "Move it to a medium that is not on the network. `ca rotate --root-key FILE` needs it again.")?;
        Ok(())
    }
}

impl Rotate {
    pub(super) fn run(self, out: &mut impl Write, err: &mut impl Write) -> Result<(), Failure> {
        let state_dir = self.place.state_dir()?;
        let (directory, now) = (directory(&state_dir), Clock::System.now());
        if self.finish {
            if !self.force {
                self.refuse_early_finish(&open(&state_dir)?, now)?;
            }
            change::finish(&directory).map_err(|error| changed(&error))?;
            writeln!(out, "only the newest root and issuer are trusted")?;
            return Ok(());
        }
        let passphrase = self.root_key.passphrase()?;
        let unlock = self.root_key.unlock(passphrase.as_ref());
        if self.root {
            change::rotate_root(&directory, unlock, now).map_err(|error| changed(&error))?;
            writeln!(out, "a new root and a new issuer are in force; the old root is trusted beside them")?;
            writeln!(
                err,
                "Hand out `doorward ca bundle` to all clients. When all have it, and certificates from before have\n\
                 ended: doorward ca rotate --finish"
            )?;
        } else {
            change::rotate_issuer(&directory, unlock, now).map_err(|error| changed(&error))?;
            writeln!(out, "a new issuer is in force; certificates of the old one stay good until they end")?;
        }
        Ok(())
    }

    fn refuse_early_finish(&self, authority: &Authority, now: Timestamp) -> Result<(), Failure> {
        let Some(since) = authority.issuer_since() else { return Ok(()) };
        let records = self.place.store()?.list_certificates().map_err(Failure::new)?;
        let good = |record: &&CertificateRecord| {
            record.revoked.is_none() && record.certificate.issued_at < since && now < record.certificate.not_after
        };
        let last = records.iter().filter(good).map(|record| record.certificate.not_after).max();
        let Some(last) = last else { return Ok(()) };
        let number = records.iter().filter(good).count();
        Err(Failure::with_hint(
            format!("{} from before the rotation would end", output::count(number, "good certificate")),
            format!("wait until {last}, issue them anew, or end them with --force"),
        ))
    }
}

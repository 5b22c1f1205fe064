//! `doorward ca`

use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use rustls_pki_types::CertificateDer;
use serde::Serialize;

use crate::ca::CaError;
use crate::ca::authority::Authority;
use crate::ca::crl::{self, Revoked};
use crate::ca::request::Request;
use crate::ca::{change, describe};
use crate::cli::output::{self, Failure, Format};
use crate::cli::place::Place;
use crate::cli::root_key::{PassphraseFrom, RootKeyFrom};
use crate::clock::Clock;
use crate::domain::identity::TrustDomain;
use crate::domain::timestamp::Timestamp;
use crate::store::rows::{CertificateRecord, Reason};

/// Most bytes of a chain that is imported.
const MAX_IMPORT: u64 = 1 << 20;

/// The built-in certificate authority.
#[derive(Debug, Subcommand)]
pub enum Ca {
    /// Make the authority: a root for ten years and an issuer for one
    Init(Init),
    /// Show the authority
    Show(Show),
    /// Print the root certificates, which clients verify the gateway with
    Bundle(Bundle),
    /// Print a signed list of what is revoked, for others than the gateway
    Crl(Crl),
    /// Take the root's key offline: into a file under a passphrase, and off this machine's state
    ExportRoot(ExportRoot),
    /// Print a request for an issuer that the enterprise's own root signs
    Csr(Csr),
    /// Put an issuer in force that the enterprise's own root has signed
    ImportIssuer(ImportIssuer),
    /// Replace the issuer or the root; what they have signed stays good
    Rotate(Rotate),
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

/// Shows the authority.
#[derive(Debug, Args)]
pub struct Show {
    /// How to print the result
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
    #[command(flatten)]
    place: Place,
}

/// Prints the root certificates in PEM: the newest, and those before it that are still trusted.
#[derive(Debug, Args)]
pub struct Bundle {
    #[command(flatten)]
    place: Place,
}

/// Prints a list of revoked certificates, signed anew: good for a day. In PEM there is one list for
/// each issuer that still counts.
#[derive(Debug, Args)]
pub struct Crl {
    /// The form of the list; der holds that of the newest issuer
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    format: Encoding,
    /// Replace this file instead of printing
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    place: Place,
}

/// The forms of a list.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub enum Encoding {
    /// Text
    #[default]
    Pem,
    /// Bytes
    Der,
}

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

/// Prints a request (PKCS#10) for an issuer. Its key stays in the state directory; the same request
/// can be printed again until it is answered.
#[derive(Debug, Args)]
pub struct Csr {
    /// The domain of all identities [default: that of the authority]
    #[arg(long, value_name = "DOMAIN", value_parser = TrustDomain::parse)]
    trust_domain: Option<TrustDomain>,
    #[command(flatten)]
    place: Place,
}

/// Puts an issuer in force that was signed elsewhere. Callers that have certificates keep them.
#[derive(Debug, Args)]
pub struct ImportIssuer {
    /// PEM: the issuer, what is between, and the root, in this order; - for stdin
    file: PathBuf,
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
    Failure::new(error)
}

#[derive(Debug, Serialize)]
struct Shown<'a> {
    trust_domain: &'a str,
    directory: String,
    root: Part,
    /// here, encrypted, offline, or not-ours.
    root_key: &'static str,
    issuer: Part,
    /// When nothing can be issued any more: the issuer's end, or what is above it.
    issuer_ends: String,
    older_roots: Vec<Part>,
    older_issuers: usize,
}

#[derive(Debug, Serialize)]
struct Part {
    subject: String,
    ends: String,
    sha256: String,
}

impl Part {
    fn new(der: &CertificateDer<'_>) -> Result<Self, Failure> {
        let read = describe::Description::read(der).map_err(Failure::new)?;
        Ok(Self { subject: read.subject, ends: read.span.not_after.to_string(), sha256: read.sha256 })
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
                Failure::new(error)
            }
        })?;
        writeln!(out, "made the authority of {} in {}", authority.trust_domain(), directory.display())?;
        writeln!(err, "Keep a copy of that directory where only you can read it.")?;
        Ok(())
    }
}

impl Show {
    fn run(self, out: &mut impl Write) -> Result<(), Failure> {
        let state_dir = self.place.state_dir()?;
        let authority = open(&state_dir)?;
        let issuer = authority.issuer().ok_or_else(|| Failure::new("the authority has no issuer"))?;
        let shown = Shown {
            trust_domain: authority.trust_domain().as_str(),
            directory: directory(&state_dir).display().to_string(),
            root: Part::new(authority.root())?,
            root_key: authority.root_key().as_str(),
            issuer: Part::new(issuer)?,
            issuer_ends: authority.issuer_not_after().to_string(),
            older_roots: authority.older_roots().iter().map(Part::new).collect::<Result<_, _>>()?,
            older_issuers: authority.older_issuer_count(),
        };
        match self.output {
            Format::Json => output::json(out, &shown),
            Format::Table => {
                writeln!(out, "trust domain  {}", shown.trust_domain)?;
                writeln!(out, "directory     {}", shown.directory)?;
                writeln!(out, "root          {}, until {}", shown.root.subject, shown.root.ends)?;
                writeln!(out, "              sha256 {}", shown.root.sha256)?;
                writeln!(out, "root key      {}", shown.root_key)?;
                writeln!(out, "issuer        {}, until {}", shown.issuer.subject, shown.issuer_ends)?;
                for older in &shown.older_roots {
                    writeln!(out, "older root    {}, until {}", older.subject, older.ends)?;
                }
                if shown.older_issuers > 0 {
                    writeln!(out, "              {} from before", output::count(shown.older_issuers, "issuer"))?;
                }
                Ok(())
            }
        }
    }
}

impl Crl {
    fn run(self, out: &mut impl Write) -> Result<(), Failure> {
        let state_dir = self.place.state_dir()?;
        let authority = open(&state_dir)?;
        let records = self.place.store()?.list_certificates().map_err(Failure::new)?;
        let revoked: Vec<_> = records.iter().filter_map(listed).collect();
        let lists = crl::issue(&directory(&state_dir), &authority, &revoked, Clock::System.now());
        let lists = lists.map_err(Failure::new)?;
        let bytes: Vec<u8> = match self.format {
            Encoding::Pem => lists.iter().flat_map(|list| list.pem.bytes()).collect(),
            Encoding::Der => lists.first().map(|list| list.der.to_vec()).unwrap_or_default(),
        };
        match &self.out {
            None => out.write_all(&bytes)?,
            Some(file) => {
                crl::write(file, &bytes).map_err(Failure::new)?;
                writeln!(out, "wrote {}", file.display())?;
            }
        }
        Ok(())
    }
}

fn listed(record: &CertificateRecord) -> Option<Revoked> {
    let (at, reason) = record.revoked?;
    Some(Revoked {
        serial: record.certificate.serial.as_bytes().to_vec(),
        at,
        not_after: record.certificate.not_after,
        reason: match reason {
            Reason::Unspecified => crl::Reason::Unspecified,
            Reason::KeyCompromise => crl::Reason::KeyCompromise,
            Reason::AffiliationChanged => crl::Reason::AffiliationChanged,
            Reason::Superseded => crl::Reason::Superseded,
            Reason::CessationOfOperation => crl::Reason::CessationOfOperation,
            Reason::PrivilegeWithdrawn => crl::Reason::PrivilegeWithdrawn,
        },
    })
}

impl ExportRoot {
    fn run(self, out: &mut impl Write, err: &mut impl Write) -> Result<(), Failure> {
        let state_dir = self.place.state_dir()?;
        let passphrase = self.passphrase.require()?;
        change::export_root(&directory(&state_dir), &self.out, &passphrase).map_err(|error| changed(&error))?;
        writeln!(out, "the root's key is in {}, and no longer in the state directory", self.out.display())?;
        writeln!(err, "Move it to a medium that is not on the network. `ca rotate --root-key FILE` needs it again.")?;
        Ok(())
    }
}

impl Csr {
    fn run(self, out: &mut impl Write) -> Result<(), Failure> {
        let directory = directory(&self.place.state_dir()?);
        let domain = match (Authority::open(&directory), self.trust_domain) {
            (Ok(authority), Some(asked)) if asked != *authority.trust_domain() => {
                return Err(Failure::new(format!(
                    "the authority here is of the trust domain {}, which cannot change",
                    authority.trust_domain()
                )));
            }
            (Ok(authority), _) => authority.trust_domain().clone(),
            (Err(CaError::Missing(_)), Some(asked)) => asked,
            (Err(CaError::Missing(_)), None) => {
                return Err(Failure::with_hint(
                    "there is no authority that would tell the trust domain",
                    "name it: --trust-domain corp.example",
                ));
            }
            (Err(error), _) => return Err(Failure::new(error)),
        };
        let request = Request::make(&directory, &domain).map_err(Failure::new)?;
        write!(out, "{}", request.pem().map_err(Failure::new)?)?;
        Ok(())
    }
}

impl ImportIssuer {
    fn run(self, out: &mut impl Write, err: &mut impl Write) -> Result<(), Failure> {
        let directory = directory(&self.place.state_dir()?);
        let text = read_bounded(&self.file, MAX_IMPORT)?;
        let text = String::from_utf8(text).map_err(|_| Failure::new(format!("{} is not PEM", self.file.display())))?;
        let authority =
            change::import_issuer(&directory, &text, Clock::System.now()).map_err(|error| changed(&error))?;
        writeln!(out, "the issuer of {} is in force until {}", authority.trust_domain(), authority.issuer_not_after())?;
        writeln!(err, "Clients verify the gateway with another root now: hand out `doorward ca bundle`.")?;
        Ok(())
    }
}

impl Rotate {
    fn run(self, out: &mut impl Write, err: &mut impl Write) -> Result<(), Failure> {
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

/// What a change's error means on the command line.
fn changed(error: &CaError) -> Failure {
    match error {
        CaError::Missing(_) => said(error, "corp.example"),
        CaError::Locked(_) => Failure::with_hint(
            error,
            "--passphrase-file FILE reads it from a file (- for stdin), $DOORWARD_ROOT_PASSPHRASE from the environment",
        ),
        CaError::RootOffline(_) => Failure::with_hint(error, "--root-key FILE says where it is"),
        CaError::Exists(_)
        | CaError::Busy(_)
        | CaError::KeyExposed { .. }
        | CaError::Broken { .. }
        | CaError::NotNow(_)
        | CaError::Plan(_)
        | CaError::PublicKey(_)
        | CaError::Request(_)
        | CaError::NotAsPlanned(_)
        | CaError::Crypto(_)
        | CaError::Io { .. } => Failure::new(error),
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

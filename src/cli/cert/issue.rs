//! `doorward cert issue`
//!
//! Invariant: a certificate is on record before anybody can use it.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::ca::CaError;
use crate::ca::authority::Authority;
use crate::ca::csr;
use crate::ca::exchange::CRL;
use crate::ca::leaf::{self, Existing, NewLeaf};
use crate::ca::leaf_files::LeafFiles;
use crate::ca::plan::LeafPlan;
use crate::cli::output::{self, Failure, Format};
use crate::cli::place::Place;
use crate::cli::{ca, usage};
use crate::clock::Clock;
use crate::config::{self, Config};
use crate::domain::audit::{Deed, Event};
use crate::domain::identity::{Identity, IdentityName, Role};
use crate::domain::timestamp::{Timestamp, parse_span};
use crate::enroll::office::row_of;
use crate::store::Store;
use crate::store::error::StoreError;
use crate::store::rows::{Reason, Serial};

/// Most bytes of a request that are read.
const MAX_CSR: u64 = 1 << 20;

/// Makes a key and a certificate for it: `NAME.crt`, `NAME.key` and `ca.crt`.
#[derive(Debug, Args)]
pub struct Issue {
    /// Who it is for, such as alice
    #[arg(value_parser = IdentityName::parse)]
    name: IdentityName,
    /// client, connector or operator
    #[arg(long, default_value = "client", value_parser = Role::parse)]
    role: Role,
    /// How long it is good for: 5m to 90d [default: 24h]
    #[arg(long, value_name = "SPAN", value_parser = parse_span)]
    ttl: Option<Duration>,
    /// Certify the key of this request (PKCS#10; - for stdin), whatever names it asks for
    #[arg(long, value_name = "FILE")]
    csr: Option<PathBuf>,
    /// Where the files go
    #[arg(long, value_name = "DIR", default_value = ".")]
    out: PathBuf,
    /// pem, or p12: the same files, and the line that makes a PKCS#12 file of them
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT", conflicts_with = "csr")]
    format: Form,
    /// Lift the revocation of this name
    #[arg(long)]
    reinstate: bool,
    /// How to print the result
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
    #[command(flatten)]
    place: Place,
}

/// The forms in which a certificate and its key can be had.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
enum Form {
    /// Files in PEM
    #[default]
    Pem,
    /// And PKCS#12, which browsers and Java read; openssl makes it, and asks for its password
    P12,
}

/// A certificate that was just made.
#[derive(Debug)]
pub struct Made {
    /// Where its files are.
    pub files: LeafFiles,
    /// Its number.
    pub serial: Serial,
    /// Who it names.
    pub identity: String,
    /// When it ends.
    pub not_after: Timestamp,
}

/// Makes a key and a certificate in `dir`. It is on record before anybody can use it.
///
/// # Errors
///
/// When the plan is not allowed, or files or the store cannot be written.
pub fn issue(
    authority: &Authority,
    store: &mut Store,
    (role, name, ttl): (Role, &IdentityName, Option<Duration>),
    (dir, existing): (&Path, Existing),
    now: Timestamp,
) -> Result<Made, Failure> {
    issue_listed(authority, store, (role, name, ttl), (dir, existing, None), now)
}

/// As [`issue`]; `crl` is where the list of revoked certificates will be.
fn issue_listed(
    authority: &Authority,
    store: &mut Store,
    (role, name, ttl): (Role, &IdentityName, Option<Duration>),
    (dir, existing, crl): (&Path, Existing, Option<&str>),
    now: Timestamp,
) -> Result<Made, Failure> {
    let plan = authority.plan_client(role, name, ttl, now).map_err(Failure::new)?;
    let made = leaf::generate(authority, &plan, crl).map_err(Failure::new)?;
    hand_out(authority, store, (&plan, &made), (dir, existing), now)
}

/// As [`issue_listed`], for a key that was made elsewhere.
fn issue_for(
    spki: &[u8],
    authority: &Authority,
    store: &mut Store,
    (role, name, ttl): (Role, &IdentityName, Option<Duration>),
    (dir, crl): (&Path, Option<&str>),
    now: Timestamp,
) -> Result<Made, Failure> {
    let plan = authority.plan_client(role, name, ttl, now).map_err(Failure::new)?;
    let made = leaf::certify(authority, &plan, spki, crl).map_err(Failure::new)?;
    hand_out(authority, store, (&plan, &made), (dir, Existing::Keep), now)
}

/// Makes room for a certificate's files, records it, and then puts them in their places.
fn hand_out(
    authority: &Authority,
    store: &mut Store,
    (plan, made): (&LeafPlan, &NewLeaf),
    (dir, existing): (&Path, Existing),
    now: Timestamp,
) -> Result<Made, Failure> {
    let certificate = made.issued.chain.first().ok_or_else(|| Failure::new("the authority issued nothing"))?;
    let row = row_of(authority, plan, certificate, now)
        .map_err(|fault| Failure::new(format!("the issued certificate cannot be read back: {fault}")))?;
    // A disk that is full is found out here, while nothing is on record.
    let name = plan.name().as_str();
    let staged = leaf::stage(made, authority.bundle_pem(), dir, name, existing).map_err(|error| taken(&error))?;
    store.record_certificate(&row).map_err(|error| refused(store, (&row.identity, &error), now))?;
    let files = staged.place().map_err(|error| {
        // Nobody has it, and nobody shall look for its owner. When even that fails, it just ends.
        drop(store.revoke_certificate(&row.serial, Reason::CessationOfOperation, now));
        taken(&error)
    })?;
    Ok(Made { files, serial: row.serial, identity: row.identity.to_string(), not_after: row.not_after })
}

/// What is said of a certificate that the store does not take, which is noted.
fn refused(store: &mut Store, (identity, error): (&Identity, &StoreError), now: Timestamp) -> Failure {
    if matches!(error, StoreError::NameRevoked(_) | StoreError::KeyCompromised) {
        let text = error.to_string();
        let (why, hint) = text.split_once("\nhint: ").unwrap_or((&text, "issue another"));
        return match note_refusal(store, identity, why, now) {
            Ok(()) => Failure::with_hint(why, hint),
            Err(failure) => failure,
        };
    }
    Failure::new(error)
}

/// Notes that somebody asked for a certificate and did not get it.
fn note_refusal(store: &mut Store, identity: &Identity, why: &str, now: Timestamp) -> Result<(), Failure> {
    let refusal = Event::new(now, Deed::CertificateRefused);
    let refusal = Event { identity: Some(identity.uri()), detail: Some(why), ..refusal };
    store.note(&refusal).map_err(Failure::new)
}

/// Fails when a certificate of `name` is in `dir` already: before anything is issued, since what is
/// recorded and reaches nobody would be in all lists.
fn check_free(dir: &Path, name: &IdentityName, with_key: bool) -> Result<(), Failure> {
    let LeafFiles { key, certificate, .. } = LeafFiles::of(dir, name.as_str());
    match with_key.then_some(key).into_iter().chain([certificate]).find(|file| file.exists()) {
        Some(file) => Err(taken(&CaError::Exists(file))),
        None => Ok(()),
    }
}

fn taken(error: &CaError) -> Failure {
    if matches!(error, CaError::Exists(_)) {
        Failure::with_hint(error, "choose another --out, or move the old files away")
    } else {
        ca::hinted(error)
    }
}

#[derive(Debug, Serialize)]
struct Issued {
    name: String,
    identity: String,
    serial: String,
    not_after: String,
    certificate: PathBuf,
    /// Absent when the key was made elsewhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    key_file: Option<PathBuf>,
    ca: PathBuf,
}

impl Issue {
    pub(super) fn run(self, out: &mut impl Write, err: &mut impl Write) -> Result<(), Failure> {
        let authority = ca::open(&self.place.state_dir()?)?;
        // Before anything changes: who sends junk must not reinstate a name.
        let spki = match &self.csr {
            None => None,
            Some(file) => {
                let request = ca::read_bounded(file, MAX_CSR)?;
                Some(csr::public_key(&request).map_err(Failure::new)?)
            }
        };
        check_free(&self.out, &self.name, spki.is_none())?;
        let mut store = self.place.store()?;
        let domain = authority.trust_domain();
        if store.is_name_revoked(domain, &self.name).map_err(Failure::new)? {
            if !self.reinstate {
                let identity = Identity::new(domain, self.role, &self.name);
                note_refusal(&mut store, &identity, "the name is revoked", Clock::System.now())?;
                return Err(Failure::with_hint(
                    format!("{} is revoked", self.name),
                    "--reinstate lifts the revocation of the name",
                ));
            }
            store.reinstate(domain, &self.name, Clock::System.now()).map_err(Failure::new)?;
            writeln!(err, "warning: the revocation of {} is lifted", self.name)?;
        }
        let now = Clock::System.now();
        let wanted = (self.role, &self.name, self.ttl);
        // What the config says for others to read is no reason to fail.
        let reachable = self.place.config_file().and_then(|file| config::reachable(&file).ok());
        let crl = reachable.and_then(|reachable| reachable.enroll_url(CRL));
        let crl = crl.as_deref();
        let made = match &spki {
            None => issue_listed(&authority, &mut store, wanted, (&self.out, Existing::Keep, crl), now)?,
            Some(spki) => issue_for(spki, &authority, &mut store, wanted, (&self.out, crl), now)?,
        };
        let key_file = Some(&made.files.key).filter(|_| spki.is_none());
        match self.output {
            Format::Json => {
                let shown = Issued {
                    name: self.name.to_string(),
                    identity: made.identity,
                    serial: made.serial.to_string(),
                    not_after: made.not_after.to_string(),
                    certificate: made.files.certificate,
                    key_file: key_file.cloned(),
                    ca: made.files.roots,
                };
                output::json(out, &shown)
            }
            Format::Table => {
                writeln!(out, "{} until {}, serial {}", made.identity, made.not_after, made.serial)?;
                for file in std::iter::once(&made.files.certificate).chain(key_file).chain([&made.files.roots]) {
                    writeln!(out, "  {}", file.display())?;
                }
                if self.format == Form::P12 {
                    writeln!(
                        out,
                        "\n# PKCS#12; it asks for the password of the file\n{}",
                        usage::pkcs12(&made.files, &self.name)
                    )?;
                }
                if self.role == Role::Client {
                    let url = url_of(self.place.config_if_any().as_ref());
                    writeln!(out, "\n{}", usage::lines(&url, &made.files, "certificate"))?;
                }
                Ok(())
            }
        }
    }
}

/// Where callers reach the gateway, as far as the config tells.
fn url_of(config: Option<&Config>) -> String {
    let listen = config.map(|config| &config.listen);
    let host = listen.and_then(|listen| listen.names.api.first()).map_or("GATEWAY", String::as_str);
    let port = listen.map_or(8443, |listen| listen.address.port());
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    format!("https://{host}:{port}")
}

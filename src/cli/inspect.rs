//! `doorward cert inspect`

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde::Serialize;

use crate::ca::CaError;
use crate::ca::authority::Authority as BuiltIn;
use crate::ca::describe::Description;
use crate::cli::ca;
use crate::cli::output::{self, Failure, Format};
use crate::cli::place::Place;
use crate::clock::Clock;
use crate::config::{ClientAuth, Config};
use crate::domain::identity::Role;
use crate::store::rows::Serial;
use crate::store::sqlite;
use crate::tls::peer::{Authority, PeerCertificate};
use crate::tls::server::provider;
use crate::tls::verify::CallerVerifier;

/// Most bytes that are read.
const MAX_BYTES: u64 = 1 << 20;

/// Shows what a certificate says, who issued it, when it ends, and what this gateway makes of it.
/// The first certificate of the file counts; those after it are taken for its issuers.
#[derive(Debug, Args)]
pub struct Inspect {
    /// The certificate with its issuers in PEM, or the certificate alone in DER; - for stdin
    file: PathBuf,
    /// How to print the result
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
    #[command(flatten)]
    place: Place,
}

#[derive(Debug, Serialize)]
struct Shown {
    subject: String,
    issuer: String,
    serial: String,
    not_before: String,
    not_after: String,
    names: Vec<String>,
    key: String,
    is_ca: bool,
    sha256: String,
    /// True when this gateway would let it in, as far as the certificate goes.
    accepted: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
    /// built-in, or the name of the `[[trust]]` entry.
    #[serde(skip_serializing_if = "Option::is_none")]
    authority: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    identity: Option<String>,
    /// Where `[[identity]]` places it.
    #[serde(skip_serializing_if = "Option::is_none")]
    owner: Option<String>,
    /// When the whole chain ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    refused_from: Option<String>,
}

impl Inspect {
    /// Runs the verb.
    ///
    /// # Errors
    ///
    /// When it is no certificate.
    pub fn run(self, out: &mut impl Write) -> Result<(), Failure> {
        let bytes = ca::read_bounded(&self.file, MAX_BYTES)?;
        let chain = read_chain(&bytes).map_err(|why| Failure::new(format!("{}: {why}", self.file.display())))?;
        let leaf = chain.first().ok_or_else(|| Failure::new("no certificate"))?;
        let said = Description::read(leaf).map_err(|why| Failure::new(format!("{}: {why}", self.file.display())))?;
        let mut shown = Shown {
            subject: said.subject,
            issuer: said.issuer,
            serial: said.serial,
            not_before: said.span.not_before.to_string(),
            not_after: said.span.not_after.to_string(),
            names: said.names,
            key: said.key,
            is_ca: said.is_ca,
            sha256: said.sha256,
            accepted: false,
            why: None,
            authority: None,
            identity: None,
            owner: None,
            refused_from: None,
        };
        self.judge(&chain, &mut shown)?;
        match self.output {
            Format::Json => output::json(out, &shown),
            Format::Table => print(out, &shown),
        }
    }

    fn judge(&self, chain: &[CertificateDer<'static>], shown: &mut Shown) -> Result<(), Failure> {
        let config = self.place.config_if_any();
        let verifier = match self.verifier(config.as_ref())? {
            Ok(verifier) => verifier,
            Err(why) => {
                shown.why = Some(why);
                return Ok(());
            }
        };
        let peer = match verifier.judge(chain) {
            Ok(peer) => peer,
            Err(why) => {
                shown.why = Some(why);
                return Ok(());
            }
        };
        shown.authority = Some(match &peer.authority {
            Authority::BuiltIn => "built-in".to_owned(),
            Authority::External(name) => name.to_string(),
        });
        shown.identity = Some(peer.identity.to_string());
        shown.refused_from = Some(peer.not_after.to_string());
        shown.owner = config.as_ref().and_then(|config| {
            let entries = config.identities.iter().filter(|entry| entry.matches.matches(&peer.identity));
            entries.max_by_key(|entry| entry.matches.glob().literal_characters()).map(|entry| entry.owner.to_string())
        });
        shown.why = self.revocation(&peer)?;
        shown.accepted = shown.why.is_none();
        if shown.accepted && peer.identity.role() != Role::Client {
            shown.why = Some(format!("a certificate of a {} calls no model", peer.identity.role().as_str()));
        }
        Ok(())
    }

    /// What the gateway verifies callers with; or why nobody can be verified.
    fn verifier(&self, config: Option<&Config>) -> Result<Result<Arc<CallerVerifier>, String>, Failure> {
        let authority = match BuiltIn::open(&ca::directory(&self.place.state_dir()?)) {
            Ok(authority) => Some((authority.trust_domain().clone(), authority.anchors())),
            Err(CaError::Missing(_)) => None,
            Err(error) => return Err(Failure::new(error)),
        };
        let trust = config.map_or(&[][..], |config| config.trust.as_slice());
        if authority.is_none() && trust.is_empty() {
            return Ok(Err("this gateway trusts no authority".to_owned()));
        }
        Ok(CallerVerifier::new(ClientAuth::Required, authority, trust, Clock::System, provider()))
    }

    fn revocation(&self, peer: &PeerCertificate) -> Result<Option<String>, Failure> {
        if !self.place.state_dir()?.join(sqlite::FILE).exists() {
            return Ok(None);
        }
        let store = self.place.existing_store()?;
        if peer.authority == Authority::BuiltIn {
            let record = store.certificate(&Serial::from_bytes(&peer.serial)).map_err(Failure::new)?;
            if let Some((at, reason)) = record.and_then(|record| record.revoked) {
                return Ok(Some(format!("it was revoked at {at} ({})", reason.as_str())));
            }
        }
        let denied = store.denied().map_err(Failure::new)?;
        Ok(denied.denies(peer).then(|| "its key or its name is revoked".to_owned()))
    }
}

fn read_chain(bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    // DER begins with a SEQUENCE.
    if bytes.first() == Some(&0x30) {
        return Ok(vec![CertificateDer::from(bytes.to_vec())]);
    }
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(bytes).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) | Err(_) => Err("it holds no certificate in PEM or DER".to_owned()),
    }
}

fn print(out: &mut impl Write, shown: &Shown) -> Result<(), Failure> {
    let names = if shown.names.is_empty() { "none".to_owned() } else { shown.names.join(", ") };
    let kind = if shown.is_ca { "an authority" } else { "not an authority" };
    writeln!(out, "subject   {}", shown.subject)?;
    writeln!(out, "issuer    {}", shown.issuer)?;
    writeln!(out, "serial    {}", shown.serial)?;
    writeln!(out, "valid     {} to {}", shown.not_before, shown.not_after)?;
    writeln!(out, "names     {names}")?;
    writeln!(out, "key       {}, {kind}", shown.key)?;
    writeln!(out, "sha256    {}", shown.sha256)?;
    if let (Some(authority), Some(identity), Some(end)) = (&shown.authority, &shown.identity, &shown.refused_from) {
        writeln!(out, "verified  {authority}: {identity}, until {end}")?;
        writeln!(out, "owner     {}", shown.owner.as_deref().unwrap_or("none: no [[identity]] places it"))?;
    }
    match (&shown.why, shown.accepted) {
        (None, _) => writeln!(out, "gateway   accepts it")?,
        (Some(why), true) => writeln!(out, "gateway   accepts it; {why}")?,
        (Some(why), false) => writeln!(out, "gateway   refuses it: {why}")?,
    }
    Ok(())
}

//! `doorward ca`

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde::Serialize;

use crate::ca::CaError;
use crate::ca::authority::Authority;
use crate::cli::output::{self, Failure, Format};
use crate::cli::place::Place;
use crate::clock::Clock;
use crate::domain::identity::TrustDomain;

/// The built-in certificate authority.
#[derive(Debug, Subcommand)]
pub enum Ca {
    /// Make the authority: a root for ten years and an issuer for one
    Init(Init),
    /// Show the authority
    Show(Show),
    /// Print the root certificate, which clients verify the gateway with
    Bundle(Bundle),
}

/// Makes the authority in the state directory.
#[derive(Debug, Args)]
pub struct Init {
    /// The domain of all identities, such as corp.example; it cannot be changed later
    #[arg(long, value_name = "DOMAIN", value_parser = TrustDomain::parse)]
    trust_domain: TrustDomain,
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

/// Prints the root certificate in PEM.
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
    Failure::new(error)
}

#[derive(Debug, Serialize)]
struct Shown<'a> {
    trust_domain: &'a str,
    directory: String,
    issuer_ends: String,
}

impl Ca {
    /// Runs the verb.
    ///
    /// # Errors
    ///
    /// When there is an authority already, none, or one that is damaged.
    pub fn run(self, out: &mut impl Write, err: &mut impl Write) -> Result<(), Failure> {
        match self {
            Self::Init(verb) => {
                let directory = directory(&verb.place.state_dir()?);
                let made = Authority::init(&directory, &verb.trust_domain, Clock::System.now());
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
            Self::Show(verb) => {
                let state_dir = verb.place.state_dir()?;
                let authority = open(&state_dir)?;
                let shown = Shown {
                    trust_domain: authority.trust_domain().as_str(),
                    directory: directory(&state_dir).display().to_string(),
                    issuer_ends: authority.issuer_not_after().to_string(),
                };
                match verb.output {
                    Format::Json => output::json(out, &shown),
                    Format::Table => {
                        let row = vec![shown.trust_domain.to_owned(), shown.issuer_ends, shown.directory];
                        output::table(out, &["TRUST DOMAIN", "ISSUER ENDS", "DIRECTORY"], &[row])
                    }
                }
            }
            Self::Bundle(verb) => {
                let authority = open(&verb.place.state_dir()?)?;
                write!(out, "{}", authority.bundle_pem())?;
                Ok(())
            }
        }
    }
}

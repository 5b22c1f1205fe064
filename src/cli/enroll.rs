//! `doorward enroll`

use std::io::Write;

use clap::{Args, Subcommand};

use crate::ca::bundle::BundleId;
use crate::cli::join;
use crate::cli::output::{self, Failure, Format};
use crate::cli::reach::{Reach, said};
use crate::clock::Clock;
use crate::domain::identity::{IdentityName, Role};
use crate::domain::timestamp::parse_span;
use crate::manage::enrollments::{CreateEnrollment, ListEnrollments, RevokeEnrollment, ShownEnrollment};
use crate::manage::page;

/// Certificates for machines elsewhere, with a bundle that works once.
#[derive(Debug, Subcommand)]
pub enum Enroll {
    /// Make a bundle with which somebody gets a certificate, once; it is shown once
    Create(Create),
    /// List bundles, without their secrets
    List(List),
    /// Revoke a bundle that was not used
    Revoke(Revoke),
    /// On the other machine: turn a bundle into a key and a certificate
    Join(join::Join),
}

/// Makes a bundle with which somebody gets a certificate, once. Hand it over on a way that you trust.
#[derive(Debug, Args)]
pub struct Create {
    /// Whom the certificate will be for, such as alice
    #[arg(value_parser = IdentityName::parse)]
    name: IdentityName,
    /// client or connector
    #[arg(long, value_parser = Role::parse)]
    role: Role,
    /// How long the bundle works: 1m to 24h [default: 15m]
    #[arg(long, value_name = "SPAN", value_parser = span)]
    ttl: Option<String>,
    /// A network that it works from; can be repeated [default: anywhere]
    #[arg(long = "network", value_name = "CIDR")]
    networks: Vec<String>,
    /// Where its holder connects to; can be repeated [default: what the listener advertises, or its address]
    #[arg(long = "address", value_name = "HOST:PORT")]
    addresses: Vec<String>,
    /// How to print the result
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
    #[command(flatten)]
    reach: Reach,
}

/// Lists bundles: those that are open, and those that ended in the last 30 days.
#[derive(Debug, Args)]
pub struct List {
    /// How to print the result
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
    #[command(flatten)]
    reach: Reach,
}

/// Revokes a bundle that was not used.
#[derive(Debug, Args)]
pub struct Revoke {
    /// The id of the bundle, as `enroll list` shows it
    #[arg(value_parser = id)]
    id: String,
    /// How to print the result
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
    #[command(flatten)]
    reach: Reach,
}

impl Enroll {
    /// Runs the verb.
    ///
    /// # Errors
    ///
    /// When it was not done.
    pub fn run(self, out: &mut impl Write, err: &mut impl Write) -> Result<(), Failure> {
        match self {
            Self::Create(verb) => verb.run(out, err),
            Self::List(verb) => verb.run(out),
            Self::Revoke(verb) => verb.run(out, err),
            Self::Join(verb) => verb.run(out, err),
        }
    }
}

impl Create {
    fn run(self, out: &mut impl Write, err: &mut impl Write) -> Result<(), Failure> {
        let named = |list: Vec<String>| (!list.is_empty()).then_some(list);
        let asked = CreateEnrollment {
            name: self.name.to_string(),
            role: self.role.as_str().to_owned(),
            ttl: self.ttl,
            networks: named(self.networks),
            addresses: named(self.addresses),
        };
        // Before a store is made for it.
        asked.check(Clock::System.now()).map_err(said)?;
        let made = self.reach.any()?.perform(asked)?;
        match self.output {
            Format::Json => output::json(out, &made),
            Format::Table => {
                writeln!(err, "The bundle works once, until {}; its id is {}.", made.expires_at, made.id)?;
                writeln!(out, "{}", made.bundle.reveal())?;
                Ok(())
            }
        }
    }
}

impl List {
    fn run(self, out: &mut impl Write) -> Result<(), Failure> {
        let bundles = self.reach.existing()?.all(|cursor| ListEnrollments { cursor, limit: Some(page::MAX_LIMIT) })?;
        match self.output {
            Format::Json => output::json(out, &bundles),
            Format::Table => {
                let row = |one: &ShownEnrollment| {
                    vec![
                        one.id.clone(),
                        one.identity.clone(),
                        one.state.as_str().to_owned(),
                        one.expires_at.clone(),
                        output::cell(one.networks.as_ref()),
                        one.serial.clone().unwrap_or_else(|| "-".to_owned()),
                    ]
                };
                let rows: Vec<_> = bundles.iter().map(row).collect();
                output::table(out, &["ID", "IDENTITY", "STATE", "EXPIRES", "NETWORKS", "SERIAL"], &rows)
            }
        }
    }
}

impl Revoke {
    fn run(self, out: &mut impl Write, err: &mut impl Write) -> Result<(), Failure> {
        let done = self.reach.existing()?.perform(RevokeEnrollment { id: self.id })?;
        if let Some(serial) = &done.serial {
            writeln!(
                err,
                "warning: it was used; its certificate is another matter: doorward cert revoke --serial {serial}"
            )?;
        }
        match (self.output, done.newly) {
            (Format::Json, _) => output::json(out, &done)?,
            (Format::Table, true) => writeln!(out, "{} is revoked", done.id)?,
            (Format::Table, false) => writeln!(out, "{} was used or revoked before", done.id)?,
        }
        Ok(())
    }
}

/// Checks a span and keeps its spelling.
fn span(text: &str) -> Result<String, String> {
    parse_span(text).map(|_| text.to_owned())
}

fn id(text: &str) -> Result<String, String> {
    let wrong = || format!("{text:?} is not the id of a bundle: 16 lower-case hexadecimal digits");
    BundleId::parse(text).map(|id| id.to_string()).ok_or_else(wrong)
}

//! `doorward cert`

mod issue;
mod list;
mod revoke;

use std::io::Write;

use clap::Subcommand;
pub use issue::{Made, issue};

use crate::cli::inspect::Inspect;
use crate::cli::output::Failure;
use crate::cli::renew;

/// Certificates for clients, connectors and operators.
#[derive(Debug, Subcommand)]
pub enum Cert {
    /// Make a key and a certificate for it
    Issue(issue::Issue),
    /// List issued certificates
    List(list::List),
    /// Show what a certificate says, and what this gateway makes of it
    Inspect(Inspect),
    /// On the machine of its holder: replace a certificate and its key by new ones
    Renew(renew::Renew),
    /// Revoke a certificate, or a name with all its certificates, within a second
    Revoke(revoke::Revoke),
}

impl Cert {
    /// Runs the verb.
    ///
    /// # Errors
    ///
    /// When the certificate may not be issued, or state cannot be read or written.
    pub fn run(self, out: &mut impl Write, err: &mut impl Write) -> Result<(), Failure> {
        match self {
            Self::Issue(verb) => verb.run(out, err),
            Self::List(verb) => verb.run(out),
            Self::Inspect(verb) => verb.run(out),
            Self::Renew(verb) => verb.run(out),
            Self::Revoke(verb) => verb.run(out, err),
        }
    }
}

//! `doorward enroll`

mod join;

use std::io::Write;

use clap::Subcommand;
pub use join::{identity_in, read_bundle};

use crate::cli::output::Failure;

/// Certificates for machines elsewhere, with a bundle that works once.
#[derive(Debug, Subcommand)]
pub enum Enroll {
    /// On the other machine: turn a bundle into a key and a certificate
    Join(join::Join),
}

impl Enroll {
    /// Runs the verb.
    ///
    /// # Errors
    ///
    /// When there is no certificate to be had.
    pub fn run(self, out: &mut impl Write, err: &mut impl Write) -> Result<(), Failure> {
        match self {
            Self::Join(verb) => verb.run(out, err),
        }
    }
}

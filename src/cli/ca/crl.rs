//! `doorward ca crl`

use std::io::Write;
use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{directory, hinted, open};
use crate::ca::crl;
use crate::cli::output::Failure;
use crate::cli::place::Place;
use crate::clock::Clock;
use crate::enroll;

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
enum Encoding {
    /// Text
    #[default]
    Pem,
    /// Bytes
    Der,
}

impl Crl {
    pub(super) fn run(self, out: &mut impl Write) -> Result<(), Failure> {
        let state_dir = self.place.state_dir()?;
        let authority = open(&state_dir)?;
        let records = self.place.store()?.list_certificates().map_err(Failure::new)?;
        let revoked: Vec<_> = records.iter().filter_map(enroll::listed).collect();
        let lists = crl::issue(&directory(&state_dir), &authority, &revoked, Clock::System.now());
        let lists = lists.map_err(|error| hinted(&error))?;
        let bytes: Vec<u8> = match self.format {
            Encoding::Pem => lists.iter().flat_map(|list| list.pem.bytes()).collect(),
            Encoding::Der => lists.first().map(|list| list.der.to_vec()).unwrap_or_default(),
        };
        match &self.out {
            None => out.write_all(&bytes)?,
            Some(file) => {
                crl::write(file, &bytes).map_err(|error| hinted(&error))?;
                writeln!(out, "wrote {}", file.display())?;
            }
        }
        Ok(())
    }
}

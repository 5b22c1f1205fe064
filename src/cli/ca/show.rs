//! `doorward ca show`

use std::io::Write;

use clap::Args;
use rustls_pki_types::CertificateDer;
use serde::Serialize;

use super::{directory, open};
use crate::ca::describe;
use crate::cli::output::{self, Failure, Format};
use crate::cli::place::Place;

/// Shows the authority.
#[derive(Debug, Args)]
pub struct Show {
    /// How to print the result
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
    #[command(flatten)]
    place: Place,
}

impl Show {
    pub(super) fn run(self, out: &mut impl Write) -> Result<(), Failure> {
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

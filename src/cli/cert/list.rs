//! `doorward cert list`

use std::io::Write;

use clap::Args;

use crate::cli::output::{self, Failure, Format};
use crate::cli::reach::Reach;
use crate::domain::timestamp::parse_span;
use crate::manage::certificates::{Certificate, ListCertificates};
use crate::manage::page;

/// Lists issued certificates.
#[derive(Debug, Args)]
pub struct List {
    /// Only those that end within this span, such as 7d
    #[arg(long, value_name = "SPAN", value_parser = span)]
    expiring: Option<String>,
    /// How to print the result
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
    #[command(flatten)]
    reach: Reach,
}

impl List {
    pub(super) fn run(self, out: &mut impl Write) -> Result<(), Failure> {
        let mut reached = self.reach.existing()?;
        let certificates = reached.all(|cursor| ListCertificates {
            expiring: self.expiring.clone(),
            cursor,
            limit: Some(page::MAX_LIMIT),
        })?;
        match self.output {
            Format::Json => output::json(out, &certificates),
            Format::Table => {
                let row = |one: &Certificate| {
                    vec![one.serial.clone(), one.identity.clone(), one.state.as_str().to_owned(), one.not_after.clone()]
                };
                let rows: Vec<_> = certificates.iter().map(row).collect();
                output::table(out, &["SERIAL", "IDENTITY", "STATE", "ENDS"], &rows)
            }
        }
    }
}

/// Checks a span and keeps its spelling.
fn span(text: &str) -> Result<String, String> {
    parse_span(text).map(|_| text.to_owned())
}

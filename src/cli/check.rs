//! `doorward check`

use std::io::Write;
use std::path::PathBuf;

use clap::Args;

use crate::cli::output::{Failure, count};
use crate::cli::place::find;
use crate::cli::process::environment;
use crate::config;

/// Validates a config file. Every problem is printed at once.
#[derive(Debug, Args)]
pub struct Check {
    /// Config file [default: $DOORWARD_CONFIG, ./doorward.toml, /etc/doorward/doorward.toml]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Check {
    /// Runs the verb.
    ///
    /// # Errors
    ///
    /// When the file has problems.
    pub fn run(self, out: &mut impl Write, err: &mut impl Write) -> Result<(), Failure> {
        let file = find(self.config.as_deref())?;
        let config = config::load(&file, &environment)
            .map_err(|problems| Failure::Config { file: file.display().to_string(), problems })?;
        for warning in &config.warnings {
            writeln!(err, "warning: {warning}")?;
        }
        writeln!(
            out,
            "{} is good: {}, {}, {}",
            file.display(),
            count(config.grants.len(), "grant"),
            count(config.backends.len(), "backend"),
            count(config.models.len(), "model"),
        )?;
        Ok(())
    }
}

//! `doorward completions`

use std::io::Write;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::cli::Doorward;
use crate::cli::output::Failure;

/// Prints completions for a shell.
#[derive(Debug, Args)]
pub struct Completions {
    /// Which shell
    shell: Shell,
}

impl Completions {
    /// Runs the verb.
    ///
    /// # Errors
    ///
    /// When the result cannot be printed.
    pub fn run(self, out: &mut impl Write) -> Result<(), Failure> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Doorward::command(), "doorward", &mut script);
        out.write_all(&script)?;
        Ok(())
    }
}

//! `doorward webhook`

mod sample;

use std::io::Write;

use clap::{Args, Subcommand};

use crate::cli::output::{self, Failure, Format};
use crate::cli::reach::Reach;
use crate::domain::key::KeyId;
use crate::domain::owner::OwnerPath;
use crate::manage::webhooks::InvalidateWebhooks;

/// Webhooks: who has the last word.
#[derive(Debug, Subcommand)]
pub enum Webhook {
    /// Have the running gateway forget what webhooks decided, so that they are asked anew
    Invalidate(Invalidate),
    /// Ask a webhook about a caller that there is not, and print what it would decide
    Test(sample::Test),
}

/// Has decisions forgotten.
#[derive(Debug, Args)]
pub struct Invalidate {
    #[command(flatten)]
    whose: Whose,
    /// How to print the result
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
    #[command(flatten)]
    reach: Reach,
}

/// Whose decisions.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Whose {
    /// Those for requests with this key
    #[arg(long, value_name = "ID", value_parser = KeyId::parse)]
    key: Option<KeyId>,
    /// Those for callers at or below this owner
    #[arg(long, value_name = "PATH", value_parser = OwnerPath::parse)]
    owner: Option<OwnerPath>,
    /// All of them
    #[arg(long)]
    all: bool,
}

impl Webhook {
    /// Runs the verb.
    ///
    /// # Errors
    ///
    /// When no gateway runs, or it cannot be reached; what the test says.
    pub fn run(self, out: &mut impl Write, err: &mut impl Write) -> Result<(), Failure> {
        match self {
            Self::Invalidate(verb) => verb.run(out),
            Self::Test(verb) => verb.run(out, err),
        }
    }
}

impl Invalidate {
    fn run(self, out: &mut impl Write) -> Result<(), Failure> {
        let Whose { key, owner, all } = self.whose;
        let asked =
            InvalidateWebhooks { key: key.map(|id| id.to_string()), owner: owner.map(|owner| owner.to_string()), all };
        let done = self.reach.running()?.perform(asked)?;
        match self.output {
            Format::Json => output::json(out, &done)?,
            Format::Table => writeln!(out, "{} decisions are forgotten", done.forgotten)?,
        }
        Ok(())
    }
}

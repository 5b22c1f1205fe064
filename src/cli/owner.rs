//! `doorward owner`

use std::io::Write;

use clap::{Args, Subcommand};

use crate::cli::output::{self, Failure, Format};
use crate::cli::reach::Reach;
use crate::domain::owner::OwnerPath;
use crate::manage::owners::{self, DisableOwner, EnableOwner, ListOwners, Switched};
use crate::manage::page;

/// Owners, each with everything below it.
#[derive(Debug, Subcommand)]
pub enum Owner {
    /// List the owners that have a key or a grant in the store, or are switched off
    List(List),
    /// Switch an owner off, with everything below it, within a second
    Disable(Switch),
    /// Switch an owner on again
    Enable(Switch),
}

/// Lists owners, by path.
#[derive(Debug, Args)]
pub struct List {
    /// How to print the result
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
    #[command(flatten)]
    reach: Reach,
}

/// Which owner.
#[derive(Debug, Args)]
pub struct Switch {
    /// The owner, such as acme/research
    #[arg(value_name = "PATH", value_parser = OwnerPath::parse)]
    owner: OwnerPath,
    /// How to print the result
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
    #[command(flatten)]
    reach: Reach,
}

impl Owner {
    /// Runs the verb.
    ///
    /// # Errors
    ///
    /// When the store or the gateway cannot be reached.
    pub fn run(self, out: &mut impl Write, err: &mut impl Write) -> Result<(), Failure> {
        match self {
            Self::List(verb) => verb.run(out),
            Self::Disable(verb) => {
                // An owner can be known to the config alone, so its store may have to be made.
                let done = verb.reach.any()?.perform(DisableOwner { owner: verb.owner.to_string() })?;
                print(&done, verb.output, out, err)
            }
            Self::Enable(verb) => {
                let done = verb.reach.existing()?.perform(EnableOwner { owner: verb.owner.to_string() })?;
                print(&done, verb.output, out, err)
            }
        }
    }
}

fn print(done: &Switched, format: Format, out: &mut impl Write, err: &mut impl Write) -> Result<(), Failure> {
    if format == Format::Json {
        return output::json(out, done);
    }
    output::warn(err, &done.warnings)?;
    let (is, was) = if done.disabled { ("disabled", "disabled before") } else { ("enabled", "not disabled") };
    match done.newly {
        true => writeln!(out, "{} is {is}", done.owner)?,
        false => writeln!(out, "{} was {was}", done.owner)?,
    }
    Ok(())
}

impl List {
    fn run(self, out: &mut impl Write) -> Result<(), Failure> {
        let all = self.reach.existing()?.all(|cursor| ListOwners { cursor, limit: Some(page::MAX_LIMIT) })?;
        if self.output == Format::Json {
            return output::json(out, &all);
        }
        let row = |owner: &owners::Owner| {
            vec![
                owner.owner.clone(),
                owner.disabled_at.clone().map_or_else(|| "enabled".to_owned(), |at| format!("disabled {at}")),
                owner.keys.to_string(),
                if owner.granted { "store" } else { "-" }.to_owned(),
            ]
        };
        output::table(out, &["OWNER", "STATE", "KEYS", "GRANT"], &all.iter().map(row).collect::<Vec<_>>())
    }
}

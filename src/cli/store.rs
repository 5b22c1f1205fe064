//! `doorward store`

use std::io::Write;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde::Serialize;

use crate::ca::authority::files_in;
use crate::cli::ca;
use crate::cli::output::{self, Failure, Format};
use crate::cli::place::Place;
use crate::store::{backup, pepper, sqlite};

/// The store of this machine.
#[derive(Debug, Subcommand)]
pub enum Store {
    /// Copy the store into a new directory, while the gateway runs
    Backup(Backup),
    /// Look whether the store is sound and its pepper the right one
    Check(Check),
}

/// Copies the store as of one moment. With the secrets, the copy can take the place of the state
/// directory; without, it is worthless to a thief, and needs them beside it.
#[derive(Debug, Args)]
pub struct Backup {
    /// The directory to make; it must not exist
    #[arg(value_name = "DIR")]
    target: PathBuf,
    /// Copy the pepper and the authority's keys too
    #[arg(long)]
    with_secrets: bool,
    /// How to print the result
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
    #[command(flatten)]
    place: Place,
}

/// Reads the whole store, row by row.
#[derive(Debug, Args)]
pub struct Check {
    /// How to print the result
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
    #[command(flatten)]
    place: Place,
}

impl Store {
    /// Runs the verb.
    ///
    /// # Errors
    ///
    /// When there is no store, it is not sound, or the copy cannot be written.
    pub fn run(self, out: &mut impl Write, err: &mut impl Write) -> Result<(), Failure> {
        match self {
            Self::Backup(verb) => verb.run(out, err),
            Self::Check(verb) => verb.run(out),
        }
    }
}

#[derive(Debug, Serialize)]
struct Copied {
    backup: PathBuf,
    files: Vec<PathBuf>,
}

impl Backup {
    fn run(self, out: &mut impl Write, err: &mut impl Write) -> Result<(), Failure> {
        let state_dir = self.place.state_dir()?;
        let store = self.place.existing_store()?;
        let mut secrets = Vec::new();
        if self.with_secrets {
            let authority = files_in(&ca::directory(&state_dir));
            let all = [state_dir.join(pepper::FILE)].into_iter().chain(authority).filter(|file| file.exists());
            secrets.extend(all.filter_map(|file| {
                let place = file.strip_prefix(&state_dir).ok()?.to_owned();
                Some((file, place))
            }));
        }
        backup::make(&store, &self.target, &secrets).map_err(Failure::new)?;
        let files = [PathBuf::from(sqlite::FILE)].into_iter().chain(secrets.into_iter().map(|(_, place)| place));
        let copied = Copied { backup: self.target, files: files.collect() };
        match self.output {
            Format::Json => output::json(out, &copied)?,
            Format::Table => {
                writeln!(out, "{}", copied.backup.display())?;
                copied.files.iter().try_for_each(|file| writeln!(out, "  {}", file.display()))?;
                if self.with_secrets {
                    writeln!(err, "Keep it where only you can read it.")?;
                } else {
                    writeln!(err, "Without the pepper no key of it can be verified: --with-secrets copies it too.")?;
                }
            }
        }
        Ok(())
    }
}

#[derive(Debug, Serialize)]
struct Checked {
    keys: usize,
    grants: usize,
    owners: usize,
    certificates: usize,
    pepper: Option<String>,
    faults: Vec<String>,
}

impl Check {
    fn run(self, out: &mut impl Write) -> Result<(), Failure> {
        let state_dir = self.place.state_dir()?;
        // Opening it compares its migrations with those of this program.
        let mut store = self.place.existing_store()?;
        let mut faults = store.faults().map_err(Failure::new)?;
        let mut count = |counted: Result<usize, crate::store::error::StoreError>| {
            counted.unwrap_or_else(|error| {
                faults.push(error.to_string().replace("\nhint: ", "; "));
                0
            })
        };
        let keys = count(store.list_keys().map(|rows| rows.len()));
        let grants = count(store.list_grants().map(|rows| rows.len()));
        let owners = count(store.list_owners().map(|rows| rows.len()));
        let certificates = count(store.list_certificates().map(|rows| rows.len()));
        // A pepper is made where there is none and no key needs one; looking must not make it.
        let needed = keys > 0 || state_dir.join(pepper::FILE).exists();
        let pepper = needed.then(|| pepper::load(&state_dir, &mut store)).transpose();
        let pepper = pepper.unwrap_or_else(|error| {
            faults.push(error.to_string().replace("\nhint: ", "; "));
            None
        });
        let checked = Checked { keys, grants, owners, certificates, pepper: pepper.map(|pepper| pepper.id()), faults };
        match self.output {
            Format::Json => output::json(out, &checked)?,
            Format::Table => {
                let figures = [
                    ("keys", checked.keys.to_string()),
                    ("grants", checked.grants.to_string()),
                    ("owners", checked.owners.to_string()),
                    ("certificates", checked.certificates.to_string()),
                    ("pepper", checked.pepper.clone().unwrap_or_else(|| "-".to_owned())),
                ];
                let rows = figures.into_iter().map(|(what, value)| vec![what.to_owned(), value]);
                output::table(out, &["WHAT", "VALUE"], &rows.collect::<Vec<_>>())?;
            }
        }
        if checked.faults.is_empty() {
            return Ok(());
        }
        Err(Failure::with_hint(
            format!("the store is not sound\n  {}", checked.faults.join("\n  ")),
            "stop the gateway, keep a copy of the state directory, and put back a backup",
        ))
    }
}

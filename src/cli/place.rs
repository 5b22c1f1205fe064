//! Where the state is that a verb works on: `--config FILE` or `--state DIR`.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::cli::output::Failure;
use crate::cli::process::environment;
use crate::config::{self, Config};
use crate::store::{Store, sqlite};

/// The options that every verb which touches state takes.
#[derive(Clone, Debug, Args)]
pub struct Place {
    /// Config file [default: $DOORWARD_CONFIG, ./doorward.toml, /etc/doorward/doorward.toml]
    #[arg(long, value_name = "FILE", conflicts_with = "state")]
    config: Option<PathBuf>,
    /// State directory, instead of a config file that names one
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
}

impl Place {
    /// The state directory. Of a config file only that one setting is read: issuing a key must
    /// not need the secrets that serving needs.
    ///
    /// # Errors
    ///
    /// When there is no config file, or it cannot be read.
    pub fn state_dir(&self) -> Result<PathBuf, Failure> {
        if let Some(dir) = &self.state {
            return std::path::absolute(dir).map_err(|error| Failure::new(format!("{}: {error}", dir.display())));
        }
        let file = find(self.config.as_deref())?;
        config::state_dir(&file).map_err(|problems| Failure::Config { file: file.display().to_string(), problems })
    }

    /// The config file, which must be there.
    ///
    /// # Errors
    ///
    /// When there is none; the failure says where it was looked for.
    pub fn existing_config_file(&self) -> Result<PathBuf, Failure> {
        match &self.state {
            Some(dir) => find(Some(&dir.join("doorward.toml"))),
            None => find(self.config.as_deref()),
        }
    }

    /// The config file, when there is one.
    #[must_use]
    pub fn config_file(&self) -> Option<PathBuf> {
        match &self.state {
            Some(dir) => Some(dir.join("doorward.toml")).filter(|file| file.exists()),
            None => find(self.config.as_deref()).ok(),
        }
    }

    /// The whole config, when there is one that loads: for advice, never for decisions.
    #[must_use]
    pub fn config_if_any(&self) -> Option<Config> {
        config::load(&self.config_file()?, &environment).ok()
    }

    /// The store, opened for changes.
    ///
    /// # Errors
    ///
    /// When it cannot be opened.
    pub fn store(&self) -> Result<Store, Failure> {
        Store::open(&self.state_dir()?).map_err(Failure::new)
    }

    /// The store, which must be there: a mistyped directory is no empty store.
    ///
    /// # Errors
    ///
    /// When there is none, or it cannot be opened.
    pub fn existing_store(&self) -> Result<Store, Failure> {
        let dir = self.state_dir()?;
        if !dir.join(sqlite::FILE).exists() {
            return Err(Failure::with_hint(
                format!("there is no store in {}", dir.display()),
                "is it the right --config or --state? `doorward key create` and `doorward cert issue` make one",
            ));
        }
        Store::open(&dir).map_err(Failure::new)
    }
}

/// Finds the config file.
///
/// # Errors
///
/// When there is none; the failure says where it was looked for.
pub fn find(explicit: Option<&Path>) -> Result<PathBuf, Failure> {
    let hint = "write one (config/doorward.toml explains every setting), or begin with `doorward up`";
    let file = config::find(explicit, &environment).map_err(|problem| Failure::with_hint(problem, hint))?;
    if file.exists() { Ok(file) } else { Err(Failure::with_hint(format!("there is no {}", file.display()), hint)) }
}

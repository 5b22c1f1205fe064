//! `doorward connect`: the connector, beside the backends of a closed site.

mod running;

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::{ArgGroup, Args};
use tokio::runtime;
use tokio::time::{MissedTickBehavior, interval};

use self::running::Running;
use crate::cli::output::Failure;
use crate::cli::process::{environment, raise_file_limit};
use crate::cli::seen::WATCH;
use crate::cli::signal::{SignalKind, signal};
use crate::config::{self, Connector, Problem};
use crate::telemetry::log;

/// Runs a connector until SIGTERM or SIGINT: dials the gateway, and serves what it sends for the
/// backends named here. Opens no port. SIGHUP, or a change of a file, reloads the config file.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("what").required(true).args(["config", "backend"])))]
pub struct Connect {
    /// Config file
    #[arg(long, value_name = "FILE", conflicts_with = "state")]
    config: Option<PathBuf>,
    /// Enrollment bundle: a file, - for stdin, or the text itself; an identity already in the state directory wins
    #[arg(long, value_name = "BUNDLE", env = "DOORWARD_BUNDLE", hide_env_values = true)]
    bundle: Option<String>,
    /// A backend: the name that the gateway's config gives it, and its URL
    #[arg(long, value_name = "NAME=URL")]
    backend: Vec<String>,
    /// Where the identity is kept
    #[arg(long, value_name = "DIR", default_value = "connector-state", requires = "backend")]
    state: PathBuf,
}

impl Connect {
    /// Runs the verb.
    ///
    /// # Errors
    ///
    /// When the connector cannot start.
    pub fn run(self, _out: &mut impl Write, _err: &mut impl Write) -> Result<(), Failure> {
        let config = self.read()?;
        log::start(config.log);
        for warning in &config.warnings {
            tracing::warn!("{warning}");
        }
        // Each request is a connection to a backend, and most are idle.
        let requests: u32 = config.backends.iter().map(|site| site.max_concurrent).fold(0, u32::saturating_add);
        raise_file_limit(requests);
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(self.connect(config))
    }

    fn read(&self) -> Result<Connector, Failure> {
        let (result, file) = match &self.config {
            Some(file) => (config::load_connector(file, &environment), file.clone()),
            None => {
                let file = PathBuf::from("--backend");
                let text = self.as_config()?;
                // Relative paths start where the command was given, and nobody has seen these lines.
                let read = config::parse_connector(&text, &Path::new(".").join("connector.toml"), &environment);
                let unlined = |problem| Problem { line: 0, ..problem };
                (read.map_err(|problems| problems.into_iter().map(unlined).collect()), file)
            }
        };
        result.map_err(|problems| Failure::Config { file: file.display().to_string(), problems })
    }

    /// The config that the options stand for.
    fn as_config(&self) -> Result<String, Failure> {
        let mut root = toml::Table::new();
        root.insert("state_dir".to_owned(), self.state.display().to_string().into());
        let backends = self.backend.iter().map(|backend| {
            let (name, url) = backend.split_once('=').ok_or_else(|| {
                Failure::Usage(vec![format!(
                    "--backend is NAME=URL, such as vllm-a=http://127.0.0.1:8000, not {backend:?}"
                )])
            })?;
            let pairs = [("name", name), ("url", url)];
            let table: toml::Table = pairs.into_iter().map(|(key, value)| (key.to_owned(), value.into())).collect();
            Ok(toml::Value::Table(table))
        });
        root.insert("backend".to_owned(), backends.collect::<Result<Vec<_>, Failure>>()?.into());
        toml::to_string(&root).map_err(Failure::new)
    }
    async fn connect(&self, config: Connector) -> Result<(), Failure> {
        // Before anything can take long: the first signal must be heard.
        let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let mut hang_up = signal(SignalKind::hangup())?;
        let mut signalled = async || {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        let file = self.config.is_some();
        let mut running = tokio::select! {
            running = Running::start(config, self.bundle.as_deref(), file) => running?,
            () = signalled() => return Ok(()),
        };
        let mut look = interval(WATCH);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = signalled() => break,
                _ = hang_up.recv() => running.reload(),
                _ = look.tick() => running.reload_if_due(),
                () = running.renewed() => {}
            }
        }
        let agent = running.into_agent();
        tracing::info!(requests = agent.in_flight(), "draining; a second signal ends it at once");
        tokio::select! {
            () = agent.stop() => tracing::info!("stopped"),
            () = signalled() => tracing::warn!("stopped at once: signalled again"),
        }
        Ok(())
    }
}

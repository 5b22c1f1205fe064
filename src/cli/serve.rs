//! `doorward serve`

use std::io::Write;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;

use clap::Args;
use tokio::runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval};

use crate::cli::output::Failure;
use crate::cli::place::find;
use crate::cli::process::{environment, raise_file_limit};
use crate::cli::seen::WATCH;
use crate::cli::server::{Options, Server};
use crate::clock::Clock;
use crate::config;
use crate::gate::connection::Patience;
use crate::overlay::hub::Pace;
use crate::telemetry::log;

/// Runs the gateway until SIGTERM or SIGINT. SIGHUP, or a change of a file, reloads the config.
#[derive(Debug, Args)]
pub struct Serve {
    /// Config file [default: $DOORWARD_CONFIG, ./doorward.toml, /etc/doorward/doorward.toml]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Serve {
    /// Runs the verb.
    ///
    /// # Errors
    ///
    /// When the gateway cannot start.
    pub fn run(self, _out: &mut impl Write, _err: &mut impl Write) -> Result<(), Failure> {
        let file = find(self.config.as_deref())?;
        serve(&file, |_| Ok(()))
    }
}

/// Serves what `file` says until a signal comes. `ready` is called once requests are served.
///
/// # Errors
///
/// When the gateway cannot start, or `ready` fails.
pub fn serve(file: &Path, ready: impl FnOnce(&Server) -> Result<(), Failure>) -> Result<(), Failure> {
    let config = config::load(file, &environment)
        .map_err(|problems| Failure::Config { file: file.display().to_string(), problems })?;
    log::start(config.log);
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    raise_file_limit(config.listen.max_connections);
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let workers = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let (patience, pace) = (Patience::default(), Pace::default());
        let options = Options { workers, clock: Clock::System, patience, pace, environment };
        // Before anybody can know that the gateway runs: the first signal must not end it undrained.
        let signals = Signals::listen()?;
        let server = Server::start(config, options).await?;
        tracing::info!(address = %server.address(), admin = %server.admin_address(), workers, "serving");
        ready(&server)?;
        until_signal(server, signals).await
    })
}

struct Signals {
    stop: Stop,
    hang_up: Signal,
}

struct Stop {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> Result<Self, Failure> {
        Ok(Self {
            stop: Stop { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? },
            hang_up: signal(SignalKind::hangup())?,
        })
    }
}

impl Stop {
    async fn asked(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

async fn until_signal(mut server: Server, mut signals: Signals) -> Result<(), Failure> {
    let mut look = interval(WATCH);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = signals.stop.asked() => break,
            _ = signals.hang_up.recv() => {
                server.reopen_records();
                server.reload();
            }
            _ = look.tick() => server.reload_if_due(),
        }
    }
    tracing::info!("draining; a second signal ends it at once");
    let gateway = Arc::clone(server.gateway());
    let mut shut_down = pin!(server.shut_down());
    tokio::select! {
        () = &mut shut_down => {}
        () = signals.stop.asked() => {
            tracing::warn!("stopping at once: requests in flight are broken off");
            gateway.hurry();
            shut_down.await;
        }
    }
    tracing::info!("stopped");
    Ok(())
}

//! `doorward dial`: a port of this machine for tools that cannot present a certificate.

mod running;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use tokio::runtime;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use self::running::Running;
use crate::ca::files;
use crate::cli::output::Failure;
use crate::cli::process::environment;
use crate::cli::seen::WATCH;
use crate::cli::signal::{SignalKind, signal};
use crate::config::{self, Dial as Config, DialListen, DialToken};
use crate::domain::gateway_address::{GatewayAddress, GatewayName};
use crate::overlay::dial::token::LocalToken;
use crate::telemetry::log;

/// Where the config is when nobody names it.
const DEFAULT_CONFIG: &str = "dial.toml";

/// Listens on this machine and passes requests on to the gateway, with a client certificate that it
/// renews by itself: for tools that cannot present one. Runs until SIGTERM or SIGINT. SIGHUP, or a
/// change of a file, reloads the config file.
#[derive(Debug, Args)]
pub struct Dial {
    /// Config file [default: ./dial.toml, if it is there and no option below says the same]
    #[arg(long, value_name = "FILE", conflicts_with_all = ["certificate", "gateway", "name", "listen", "state", "no_token"])]
    config: Option<PathBuf>,
    /// Enrollment bundle: a file, - for stdin, or the text itself; an identity already in the state directory wins
    #[arg(
        long,
        value_name = "BUNDLE",
        env = "DOORWARD_BUNDLE",
        hide_env_values = true,
        conflicts_with = "certificate"
    )]
    bundle: Option<String>,
    /// Where the certificate is: NAME.crt, NAME.key and ca.crt
    #[arg(long, value_name = "DIR")]
    certificate: Option<PathBuf>,
    /// Where the gateway is, instead of where the certificate came from
    #[arg(long, value_name = "HOST:PORT", value_parser = GatewayAddress::parse, requires = "name")]
    gateway: Option<GatewayAddress>,
    /// The gateway's name for callers
    #[arg(long, value_name = "NAME", value_parser = GatewayName::parse, requires = "gateway")]
    name: Option<GatewayName>,
    /// Where tools connect to: a port of loopback as ADDRESS:PORT, or unix:PATH [default: 127.0.0.1:11434]
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
    /// Where the identity and the local token are kept [default: ./dial-state]
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Ask tools for no token: other users of this machine can use the identity then
    #[arg(long)]
    no_token: bool,
    /// Print the environment for tools, token included, and exit
    #[arg(long)]
    print_env: bool,
}

impl Dial {
    /// Runs the verb.
    ///
    /// # Errors
    ///
    /// When it cannot start.
    pub fn run(self, out: &mut impl Write) -> Result<(), Failure> {
        let config = self.read()?;
        if self.print_env {
            return print_env(&config, out);
        }
        log::start(config.log);
        for warning in &config.warnings {
            tracing::warn!("{warning}");
        }
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(self.dial(config))
    }

    fn read(&self) -> Result<Config, Failure> {
        let (result, file) = match self.config_file() {
            Some(file) => (config::load_dial(file, &environment), file.to_owned()),
            // Relative paths start where the command was given.
            None => {
                (config::parse_dial(&self.as_config()?, Path::new(DEFAULT_CONFIG), &environment), "the options".into())
            }
        };
        result.map_err(|problems| Failure::Config { file: file.display().to_string(), problems })
    }

    /// The file that is the config, where the options are not.
    fn config_file(&self) -> Option<&Path> {
        let default = || Some(Path::new(DEFAULT_CONFIG)).filter(|file| self.is_bare() && file.exists());
        self.config.as_deref().or_else(default)
    }

    const fn is_bare(&self) -> bool {
        self.certificate.is_none()
            && self.gateway.is_none()
            && self.listen.is_none()
            && self.state.is_none()
            && !self.no_token
    }

    /// The config that the options stand for.
    fn as_config(&self) -> Result<String, Failure> {
        let mut root = toml::Table::new();
        let mut set = |name: &str, value: Option<String>| {
            if let Some(value) = value {
                root.insert(name.to_owned(), value.into());
            }
        };
        set("state_dir", self.state.as_ref().map(|dir| dir.display().to_string()));
        set("listen", self.listen.clone());
        if let (Some(address), Some(name)) = (&self.gateway, &self.name) {
            let pairs = [("address", address.to_string()), ("name", name.to_string())];
            let table: toml::Table = pairs.into_iter().map(|(key, value)| (key.to_owned(), value.into())).collect();
            root.insert("gateway".to_owned(), table.into());
        }
        if self.no_token {
            root.insert("token".to_owned(), false.into());
        }
        toml::to_string(&root).map_err(Failure::new)
    }

    async fn dial(self, config: Config) -> Result<(), Failure> {
        // Before anything can take long: the first signal must be heard.
        let signals = count_signals()?;
        let mut hang_up = signal(SignalKind::hangup())?;
        let heard = |least: u32| {
            let mut signals = signals.clone();
            async move {
                // Whoever counts lives as long as this runtime does.
                let _ = signals.wait_for(|count| *count >= least).await.is_ok();
            }
        };
        let file = self.config_file().is_some();
        let (bound, mut running) = tokio::select! {
            started = Running::start(config, &self, file) => started?,
            () = heard(1) => return Ok(()),
        };
        let stopping = async {
            heard(1).await;
            tracing::info!("draining; a second signal ends it at once");
        };
        let served = bound.serve(Arc::clone(running.dial()), stopping);
        let reloading = async {
            let mut look = interval(WATCH);
            look.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    _ = hang_up.recv() => running.reload(),
                    _ = look.tick() => running.reload_if_due(),
                }
            }
        };
        tokio::select! {
            () = served => {}
            () = heard(2) => tracing::warn!("stopped at once: signalled again"),
            () = reloading => {}
        }
        tracing::info!("stopped");
        Ok(())
    }
}

/// Counts SIGTERM and SIGINT: the first ends the program gently, the second at once.
fn count_signals() -> Result<watch::Receiver<u32>, Failure> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let (count, counted) = watch::channel(0);
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            count.send_modify(|count| *count += 1);
        }
    });
    Ok(counted)
}

fn token_of(wanted: &DialToken, state_dir: &Path) -> Result<Option<LocalToken>, Failure> {
    match wanted {
        DialToken::Off => Ok(None),
        DialToken::Given(token) => Ok(Some(LocalToken::given(token.reveal()))),
        DialToken::Kept => {
            files::create_private_dirs(state_dir)
                .map_err(|error| Failure::new(format!("{}: {error}", state_dir.display())))?;
            LocalToken::kept(state_dir).map(Some).map_err(Failure::new)
        }
    }
}

/// Lines for a shell. Without a token the variables are set all the same: tools refuse to run without
/// a key, and what they send is dropped.
fn print_env(config: &Config, out: &mut impl Write) -> Result<(), Failure> {
    let address = match &config.listen {
        DialListen::Unix(path) => {
            return Err(Failure::with_hint(
                format!("unix:{} has no URL that tools could be told", path.display()),
                "tools that speak HTTP over a Unix socket take its path; for all others listen on 127.0.0.1:PORT",
            ));
        }
        DialListen::Loopback(address) if address.port() == 0 => {
            return Err(Failure::with_hint("port 0 is another port each time", "name a port in listen"));
        }
        DialListen::Loopback(address) => address,
    };
    let token = token_of(&config.token, &config.state_dir)?;
    let key = token.as_ref().map_or("none-needed", LocalToken::reveal);
    for (name, value) in [
        ("OPENAI_BASE_URL", format!("http://{address}/v1").as_str()),
        ("OPENAI_API_KEY", key),
        ("ANTHROPIC_BASE_URL", &format!("http://{address}")),
        ("ANTHROPIC_API_KEY", key),
        ("OLLAMA_HOST", &format!("http://{address}")),
        ("OLLAMA_API_KEY", key),
    ] {
        writeln!(out, "export {name}='{}'", value.replace('\'', r"'\''"))?;
    }
    Ok(())
}

//! `doorward connect`: the connector, beside the backends of a closed site.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::{ArgGroup, Args};
use tokio::runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::cli::join::read_bundle;
use crate::cli::output::Failure;
use crate::cli::process::{environment, raise_file_limit};
use crate::clock::Clock;
use crate::config::{self, Connector, GatewayAt, Problem, SiteBackend};
use crate::domain::identity::Role;
use crate::holder::chance::Chance;
use crate::holder::fault::HolderFault;
use crate::holder::files::Place;
use crate::holder::join::join;
use crate::holder::keeper::{Keeper, Options};
use crate::holder::origin::Origin;
use crate::holder::reach::{ProxyUrl, Reach};
use crate::overlay::agent::{Agent, Identity, Settings};
use crate::telemetry::log;

/// Connections to each address where the config does not say.
const CONNECTIONS: u32 = 2;

/// Runs a connector until SIGTERM or SIGINT: dials the gateway, and serves what it sends for the
/// backends named here. Opens no port.
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
        runtime.block_on(connect(config, self.bundle.as_deref()))
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
}

async fn connect(config: Connector, bundle: Option<&str>) -> Result<(), Failure> {
    // Before anything can take long: the first signal must be heard.
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut signalled = async || {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    let running = tokio::select! {
        running = start(config, bundle) => running?,
        () = signalled() => return Ok(()),
    };
    let Running { agent, keeper, changes, tell } = running;
    tokio::select! {
        () = signalled() => {}
        () = follow(&keeper, changes, tell) => {}
    }
    tracing::info!(requests = agent.in_flight(), "draining");
    tokio::select! {
        () = agent.stop() => tracing::info!("stopped"),
        () = signalled() => tracing::warn!("stopped at once: signalled again"),
    }
    Ok(())
}

/// A connector with what keeps its identity good.
struct Running {
    agent: Agent,
    keeper: Keeper,
    changes: watch::Receiver<u64>,
    tell: watch::Sender<Identity>,
}

async fn start(config: Connector, bundle: Option<&str>) -> Result<Running, Failure> {
    let clock = Clock::System;
    let reach = Reach { proxy: config.proxy.clone().map(ProxyUrl::from) };
    let place = identity(&config.state_dir, bundle, &reach, &clock).await?;
    let origin = Origin::read(&config.state_dir)?;
    let options =
        Options { origin: origin.clone(), reach: reach.clone(), clock: clock.clone(), chance: Chance::System };
    let keeper = Keeper::start(place, options)?;
    // Before it is read: no change is missed.
    let changes = keeper.changes();
    let identity = current(&keeper)?;
    let gateway = config.gateway.map_or_else(|| gateway_of(origin.as_ref(), &config.state_dir), Ok)?;
    let backends: Vec<_> = config.backends.iter().map(|site: &SiteBackend| site.backend.name.as_str()).collect();
    tracing::info!(connector = identity.name(), gateway = %gateway.name, backends = backends.join(","), "connecting");
    let (tell, identity) = watch::channel(identity);
    let settings = Settings { gateway, reach, backends: config.backends, drain: config.drain, clock };
    let agent = Agent::start(settings, identity).map_err(Failure::new)?;
    Ok(Running { agent, keeper, changes, tell })
}

/// The identity in the state directory; where there is none yet, the one that a bundle gives.
async fn identity(state: &Path, bundle: Option<&str>, reach: &Reach, clock: &Clock) -> Result<Place, Failure> {
    match (Place::only(state), bundle) {
        (Ok(place), _) => Ok(place),
        (Err(HolderFault::Missing(_)), Some(bundle)) => {
            let bundle = read_bundle(bundle)?;
            // Before it is used up.
            if bundle.role != Role::Connector {
                return Err(not_a_connector(format!("the bundle is for the {} {}", bundle.role.as_str(), bundle.name)));
            }
            let joined = join(&bundle, Place::new(state, &bundle.name), reach, clock).await?;
            tracing::info!(identity = %joined.identity, until = %joined.span.not_after, "joined");
            Ok(joined.place)
        }
        (Err(fault), _) => Err(fault.into()),
    }
}

fn gateway_of(origin: Option<&Origin>, state: &Path) -> Result<GatewayAt, Failure> {
    let Some(origin) = origin else {
        return Err(Failure::with_hint(
            format!("nothing in {} says where the gateway is", state.display()),
            "use --config with gateway = { addresses = [\"HOST:PORT\"], name = \"CONNECT-NAME\" }",
        ));
    };
    let Some(name) = &origin.connect else {
        return Err(Failure::with_hint(
            "the gateway that gave this certificate had no name for connectors",
            "set [listen] names.connect in the gateway's config, and gateway.name in this one",
        ));
    };
    Ok(GatewayAt { addresses: origin.addresses.clone(), name: name.clone(), connections: CONNECTIONS })
}

fn current(keeper: &Keeper) -> Result<Identity, Failure> {
    Identity::of(&keeper.current()).map_err(not_a_connector)
}

fn not_a_connector(what: String) -> Failure {
    Failure::with_hint(what, "a connector's is made with `doorward enroll create NAME --role connector`")
}

/// Hands each new certificate to the connections.
async fn follow(keeper: &Keeper, mut changes: watch::Receiver<u64>, tell: watch::Sender<Identity>) {
    while changes.changed().await.is_ok() {
        match Identity::of(&keeper.current()) {
            Ok(identity) => drop(tell.send_replace(identity)),
            Err(why) => tracing::error!("the new certificate is not used: {why}"),
        }
    }
}

//! A running connector: the parts, put together and reloaded.

use std::iter::once;
use std::path::{Path, PathBuf};

use tokio::sync::watch;

use crate::cli::join;
use crate::cli::output::Failure;
use crate::cli::process::environment;
use crate::cli::seen::Seen;
use crate::clock::Clock;
use crate::config::{self, Connector, GatewayAt};
use crate::domain::identity::Role;
use crate::holder::chance::Chance;
use crate::holder::keeper::{Keeper, Options};
use crate::holder::origin::Origin;
use crate::holder::reach::{ProxyUrl, Reach};
use crate::overlay::agent::{Agent, Changes, Identity, Settings};

/// Connections to each address where the config does not say.
const CONNECTIONS: u32 = 2;

/// A connector with what keeps its identity good, and its config up to date.
pub(super) struct Running {
    agent: Agent,
    keeper: Keeper,
    changes: watch::Receiver<u64>,
    tell: watch::Sender<Identity>,
    /// The config in force. Its backends are the agent's.
    config: Connector,
    /// How the files were that were read; `None` where the options are the config.
    seen: Option<Seen>,
}

impl Running {
    /// Starts everything that `config` says; `file` tells whether it is a file's.
    ///
    /// # Errors
    ///
    /// When there is no identity, or a part cannot start.
    pub(super) async fn start(mut config: Connector, bundle: Option<&str>, file: bool) -> Result<Self, Failure> {
        let clock = Clock::System;
        let seen = file.then(|| Seen::of(watched(&config)));
        let reach = reach(&config);
        let place = join::identity_in(&config.state_dir, (Role::Connector, bundle), &reach, &clock).await?;
        let origin = Origin::read(&config.state_dir)?;
        let settings = settings(&mut config, origin.as_ref())?;
        let origin = origin.map(|origin| renewed_at(origin, &settings.gateway));
        let options = Options { origin, reach, clock: clock.clone(), chance: Chance::System };
        let keeper = Keeper::start(place, options)?;
        // Before it is read: no change is missed.
        let changes = keeper.changes();
        let identity = Identity::of(&keeper.current()).map_err(not_a_connector)?;
        let backends: Vec<_> = settings.backends.iter().map(|site| site.backend.name.as_str()).collect();
        let addresses: Vec<_> = settings.gateway.addresses.iter().map(ToString::to_string).collect();
        tracing::info!(
            connector = identity.name(), gateway = addresses.join(","), name = %settings.gateway.name,
            backends = backends.join(","), until = %keeper.current().span().not_after, "connecting"
        );
        let (tell, identity) = watch::channel(identity);
        let agent = Agent::start(settings, clock, identity).map_err(Failure::new)?;
        Ok(Self { agent, keeper, changes, tell, config, seen })
    }

    /// Waits for a new certificate, and hands it to the connections.
    pub(super) async fn renewed(&mut self) {
        if self.changes.changed().await.is_err() {
            // Nobody looks after the certificate any more: there is nothing to wait for.
            return std::future::pending().await;
        }
        match Identity::of(&self.keeper.current()) {
            Ok(identity) => drop(self.tell.send_replace(identity)),
            Err(why) => tracing::error!("the new certificate is not used: {why}"),
        }
    }

    /// Reads the config and everything that it names anew. It is put in force as a whole or not at
    /// all; either way a log line says so.
    pub(super) fn reload(&mut self) {
        if self.seen.is_none() {
            tracing::warn!(
                "there is no config file to reload: this connector was started with --backend; restart it to change it"
            );
            return;
        }
        // Taken before reading: what is written meanwhile is noticed the next time. What fails is not
        // tried again before something changes.
        let before = Seen::of(watched(&self.config));
        let result = self.read_anew();
        self.seen = Some(Seen::of(watched(&self.config)).since(&before));
        match result {
            Ok(Changes { added, removed, changed, declared_anew, gateway }) => tracing::info!(
                added = added.join(","),
                removed = removed.join(","),
                changed = changed.join(","),
                reconnects = declared_anew,
                gateway_changed = gateway,
                "reloaded the config"
            ),
            Err(failure) => tracing::error!("the last good config stays in force: {}", failure.to_string().trim_end()),
        }
    }

    /// Reloads if a file has changed since it was read.
    pub(super) fn reload_if_due(&mut self) {
        if self.seen.as_ref().is_some_and(|seen| *seen != Seen::of(watched(&self.config))) {
            self.reload();
        }
    }

    fn read_anew(&mut self) -> Result<Changes, Failure> {
        let file = &self.config.file;
        let mut config = config::load_connector(file, &environment)
            .map_err(|problems| Failure::Config { file: file.display().to_string(), problems })?;
        let restart = config::connector_needs_restart(&self.config, &config);
        if !restart.is_empty() {
            return Err(Failure::with_hint(
                format!("a reload cannot change {}", restart.join(", ")),
                "restart the connector",
            ));
        }
        let origin = Origin::read(&config.state_dir)?;
        let settings = settings(&mut config, origin.as_ref())?;
        let origin = origin.map(|origin| renewed_at(origin, &settings.gateway));
        let changes = self.agent.reload(settings).map_err(Failure::new)?;
        self.keeper.redirect(origin, reach(&config));
        for warning in &config.warnings {
            tracing::warn!("{warning}");
        }
        self.config = config;
        Ok(changes)
    }

    /// The connector itself, to be stopped.
    pub(super) fn into_agent(self) -> Agent {
        self.agent
    }
}

/// Everything that the config was read from.
fn watched(config: &Connector) -> impl Iterator<Item = PathBuf> {
    config.watched.iter().cloned().chain(once(config.file.clone()))
}

fn reach(config: &Connector) -> Reach {
    Reach { proxy: config.proxy.clone().map(ProxyUrl::from) }
}

/// What the connector runs with. Takes the backends out of `config`.
fn settings(config: &mut Connector, origin: Option<&Origin>) -> Result<Settings, Failure> {
    let gateway = config.gateway.clone().map_or_else(|| gateway_of(origin, &config.state_dir), Ok)?;
    let backends = std::mem::take(&mut config.backends);
    Ok(Settings { gateway, reach: reach(config), backends, drain: config.drain })
}

/// Where the certificate is renewed: at the gateway that the config names, which may have moved since the
/// certificate came from it. Where that serves connectors alone, where it came from.
fn renewed_at(origin: Origin, gateway: &GatewayAt) -> Origin {
    let mut addresses = gateway.addresses.clone();
    addresses.extend(origin.addresses.iter().filter(|address| !gateway.addresses.contains(address)).cloned());
    Origin { addresses, ..origin }
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

fn not_a_connector(what: String) -> Failure {
    Failure::with_hint(what, "a connector's is made with `doorward enroll create NAME --role connector`")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::gateway_address::{GatewayAddress, HostName};

    #[test]
    fn the_certificate_is_renewed_where_the_gateway_is_now() {
        let addresses =
            |texts: &[&str]| texts.iter().map(|text| GatewayAddress::parse(text).unwrap()).collect::<Vec<_>>();
        let name = |text| HostName::parse(text).unwrap();
        let origin = Origin {
            addresses: addresses(&["old:1", "both:1"]),
            enroll: name("enroll.gw"),
            connect: Some(name("connect.gw")),
            api: None,
        };
        let gateway =
            GatewayAt { addresses: addresses(&["new:1", "both:1"]), name: name("connect.gw"), connections: 2 };
        let renewed = renewed_at(origin.clone(), &gateway);
        assert_eq!(renewed.addresses, addresses(&["new:1", "both:1", "old:1"]));
        assert_eq!(renewed.enroll, origin.enroll);
        let enrolled = GatewayAt { addresses: origin.addresses.clone(), ..gateway };
        assert_eq!(renewed_at(origin.clone(), &enrolled), origin);
    }
}

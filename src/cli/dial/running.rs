//! A running dial: the parts, put together and reloaded.

use std::io;
use std::iter::once;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::token_of;
use crate::cli::join;
use crate::cli::output::Failure;
use crate::cli::process::environment;
use crate::cli::seen::Seen;
use crate::clock::Clock;
use crate::config::{self, Dial as Config, DialGateway, DialListen, DialToken};
use crate::domain::identity::Role;
use crate::holder::chance::Chance;
use crate::holder::files::Place;
use crate::holder::keeper::{Keeper, Options};
use crate::holder::origin::Origin;
use crate::holder::reach::{ProxyUrl, Reach};
use crate::overlay::dial::token::{self, LocalToken};
use crate::overlay::dial::{Bound, Dial, Endpoint, Settings};

/// A dial with what keeps its identity good, and its config up to date.
pub(super) struct Running {
    dial: Arc<Dial>,
    keeper: Arc<Keeper>,
    /// Where the identity is.
    place: PathBuf,
    /// The config in force.
    config: Config,
    /// How the files were that were read; `None` where the options are the config.
    seen: Option<Seen>,
}

impl Running {
    /// Starts what `config` says, with the identity that `options` name; `file` tells whether it is a
    /// file's.
    ///
    /// # Errors
    ///
    /// When there is no identity, or nothing can listen.
    pub(super) async fn start(config: Config, options: &super::Dial, file: bool) -> Result<(Bound, Self), Failure> {
        let clock = Clock::System;
        let reach = reach(&config);
        let read = Seen::of(read_from(&config));
        // A port that is taken must not cost a bundle.
        let bound = Bound::bind(&config.listen).await.map_err(|error| cannot_listen(&config.listen, &error))?;
        let place = match &options.certificate {
            Some(dir) => Place::only(dir)?,
            None => {
                let who = (Role::Client, options.bundle.as_deref());
                join::identity_in(&config.state_dir, who, &reach, &clock).await?
            }
        };
        let dir = place.dir().to_owned();
        let (settings, origin) = settings(&config, &dir)?;
        let (name, has_token) = (settings.gateway.name.clone(), settings.token.is_some());
        let keeper = Arc::new(Keeper::start(place, Options { origin, reach, clock, chance: Chance::System })?);
        let current = keeper.current();
        if current.identity().role() != Role::Client {
            return Err(Failure::with_hint(
                format!("{} is no client: the gateway serves clients only", current.identity()),
                "`doorward enroll create NAME --role client` on the gateway's machine makes a bundle for one",
            ));
        }
        let dial = Arc::new(Dial::new(bound.endpoint(), settings, Arc::clone(&keeper)).map_err(Failure::new)?);
        let (identity, ends) = (current.identity(), current.span().not_after);
        tracing::info!(listen = %bound.endpoint(), gateway = %name, %identity, %ends, token = has_token, "serving");
        if !has_token && matches!(bound.endpoint(), Endpoint::Loopback(_)) {
            tracing::warn!("no token is asked for: every user of this machine can use this identity");
        }
        let seen = file.then(|| Seen::of(watched(&config)).since(&read));
        Ok((bound, Self { dial, keeper, place: dir, config, seen }))
    }

    /// What serves.
    pub(super) const fn dial(&self) -> &Arc<Dial> {
        &self.dial
    }

    /// Reads the config and everything that it names anew. It is put in force as a whole or not at
    /// all; either way a log line says so.
    pub(super) fn reload(&mut self) {
        if self.seen.is_none() {
            tracing::warn!(
                "there is no config file to reload: this dial was started without one; restart it to change it"
            );
            return;
        }
        // Taken before reading: what is written meanwhile is noticed the next time. What fails is not
        // tried again before something changes.
        let before = Seen::of(read_from(&self.config));
        let result = self.read_anew();
        self.seen = Some(Seen::of(watched(&self.config)).since(&before));
        match result {
            Ok(()) => tracing::info!("reloaded the config"),
            Err(failure) => tracing::error!("the last good config stays in force: {}", failure.to_string().trim_end()),
        }
    }

    /// Reloads if a file has changed since it was read.
    pub(super) fn reload_if_due(&mut self) {
        if self.seen.as_ref().is_some_and(|seen| *seen != Seen::of(watched(&self.config))) {
            self.reload();
        }
    }

    fn read_anew(&mut self) -> Result<(), Failure> {
        let file = &self.config.file;
        let config = config::load_dial(file, &environment)
            .map_err(|problems| Failure::Config { file: file.display().to_string(), problems })?;
        let restart = config::dial_needs_restart(&self.config, &config);
        if !restart.is_empty() {
            return Err(Failure::with_hint(
                format!("a reload cannot change {}", restart.join(", ")),
                "restart the dial",
            ));
        }
        let (settings, origin) = settings(&config, &self.place)?;
        self.dial.reload(settings).map_err(Failure::new)?;
        self.keeper.redirect(origin, reach(&config));
        for warning in &config.warnings {
            tracing::warn!("{warning}");
        }
        self.config = config;
        Ok(())
    }
}

/// Everything that the config was read from.
fn read_from(config: &Config) -> impl Iterator<Item = PathBuf> {
    config.watched.iter().cloned().chain(once(config.file.clone()))
}

/// The same with the token that is kept beside the identity. It is made where there is none, which is
/// no change.
fn watched(config: &Config) -> impl Iterator<Item = PathBuf> {
    let token = match &config.token {
        DialToken::Kept => Some(config.state_dir.join(token::FILE)),
        DialToken::Given(_) | DialToken::Off => None,
    };
    read_from(config).chain(token)
}

fn reach(config: &Config) -> Reach {
    Reach { proxy: config.proxy.clone().map(ProxyUrl::from) }
}

/// What the dial goes by with an identity in `place`, and where that is renewed.
fn settings(config: &Config, place: &Path) -> Result<(Settings, Option<Origin>), Failure> {
    let origin = Origin::read(place)?;
    let gateway = config.gateway.clone().map_or_else(|| gateway_of(origin.as_ref(), place), Ok)?;
    let origin = origin.map(|origin| Origin { addresses: gateway.addresses.clone(), ..origin });
    let token: Option<LocalToken> = token_of(&config.token, &config.state_dir)?;
    let (key, origins) = (config.key.clone(), config.origins.clone());
    Ok((Settings { gateway, reach: reach(config), key, token, origins }, origin))
}

fn cannot_listen(listen: &DialListen, error: &io::Error) -> Failure {
    let place = match listen {
        DialListen::Loopback(address) => address.to_string(),
        DialListen::Unix(path) => path.display().to_string(),
    };
    Failure::with_hint(
        format!("cannot listen on {place}: {error}"),
        "does something else listen there, Ollama perhaps? --listen (or listen in the config) takes another place",
    )
}

fn gateway_of(origin: Option<&Origin>, dir: &Path) -> Result<DialGateway, Failure> {
    let known = origin.and_then(|origin| Some((origin, origin.api.clone()?)));
    let Some((origin, name)) = known else {
        return Err(Failure::with_hint(
            format!("nothing in {} says where the gateway is", dir.display()),
            "say it: --gateway HOST:PORT --name NAME, or [gateway] in the config",
        ));
    };
    Ok(DialGateway { addresses: origin.addresses.clone(), name })
}

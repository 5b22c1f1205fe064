//! A running gateway: the parts, put together, reloaded and taken down in order.

mod settings;
mod watched;

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;

pub(super) use self::settings::server_names;
use self::settings::settings;
use self::watched::{ends, seen};
use crate::admin::Admin;
use crate::admin::api::operators::Tls;
use crate::cli::admin_api::{self, AdminApi, Prepared};
use crate::cli::ca;
use crate::cli::desk;
use crate::cli::output::Failure;
use crate::cli::seen::Seen;
use crate::clock::Clock;
use crate::config::{self, Config};
use crate::domain::notification::{Data, Kind, Notification};
use crate::domain::timestamp::Timestamp;
use crate::enroll::Desk;
use crate::enroll::clerk::Clerk;
use crate::enroll::office::Office;
use crate::gate::connection::Patience;
use crate::gate::roles::{RoleServer, RoleServers};
use crate::gate::worker::Workers;
use crate::gate::{Gateway, Parts, Settings};
use crate::notify::{self, Notifier, Target};
use crate::overlay::hub::Pace;
use crate::overlay::hub::serve::Hub;
use crate::overlay::hub::tunnels::Tunnels;
use crate::overlay::hub::watch::{announce, watch};
use crate::store::watch::{News, Watcher};
use crate::store::writer::Writer;
use crate::store::{Store, pepper};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::records::{self, RecordWriter, Records};
use crate::token::refresh::{self, Errand, Publish, Refresher};
use crate::webhook::hooks::{Webhooks, Workshop};

/// How the environment is read.
pub type Environment = fn(&str) -> Option<String>;

/// What a gateway is started with, besides its config.
#[derive(Clone, Debug)]
pub struct Options {
    /// Threads of the request path.
    pub workers: usize,
    /// Where `now` comes from.
    pub clock: Clock,
    /// How long connections may do what.
    pub patience: Patience,
    /// How long tunnels may do what.
    pub pace: Pace,
    /// How the environment is read.
    pub environment: Environment,
}

/// A running gateway.
#[derive(Debug)]
pub struct Server {
    gateway: Arc<Gateway>,
    options: Options,
    workers: Workers,
    admin_address: SocketAddr,
    admin: JoinHandle<()>,
    /// Judge tunnels, and tell of them.
    tunnels: [JoinHandle<()>; 2],
    admin_api: AdminApi,
    watcher: Watcher,
    store_writer: Writer,
    notifier: Notifier,
    refresher: Refresher,
    workshop: Workshop,
    writer: RecordWriter,
    desk: Desk,
    clerk: Clerk,
    renew_at: Option<Timestamp>,
    /// When it is looked up again which certificates end first.
    look_at: Timestamp,
    seen: Seen,
}

impl Server {
    /// Starts everything that `config` says. When this returns, requests are served.
    ///
    /// # Errors
    ///
    /// When a part cannot start; nothing is left running then.
    pub async fn start(config: Config, options: Options) -> Result<Self, Failure> {
        let seen = seen(&config);
        let state_dir = config.state_dir.clone();
        let (admin_address, record) = (config.admin, config.record.clone());
        let (api_address, state_stale_max) = (config.admin_api, config.state_stale_max);
        let operators = admin_api::prepare(&config, &options.clock)?;
        let address = config.listen.address;
        let mut store = Store::open(&state_dir).map_err(Failure::new)?;
        let pepper = pepper::load(&state_dir, &mut store).map_err(Failure::new)?;
        let errands = Errand::all(&config.issuers).map_err(Failure::new)?;
        let targets = Target::all(&config.webhooks).map_err(Failure::new)?;
        let gateway_id = config.gateway_id.clone();
        let prepared = desk::prepare(&config, &options.clock)?;
        let metrics = Arc::new(Metrics::default());
        let workshop = Workshop::new(options.clock.clone(), Arc::clone(&metrics));
        let (mut settings, renew_at) = settings(config, 1, &options.clock, (&workshop, &Webhooks::default()))?;
        let (operators, renew_at) = earliest(operators, renew_at);
        let (desk, renew_at) = at_desk(prepared, &mut settings, renew_at);
        let desk = Desk::new(desk, options.patience);
        let (records, writer) = Records::start(&record, records::log)
            .map_err(|error| Failure::new(format!("the records cannot be written: {error}")))?;
        let store_writer = Writer::start(&state_dir).map_err(Failure::new)?;
        let notifier = Notifier::start(&state_dir, &gateway_id, targets, options.clock.clone(), Arc::clone(&metrics))
            .map_err(Failure::new)?;
        let enroll: Arc<dyn RoleServer> = Arc::new(desk.clone());
        let tunnels = Arc::new(Tunnels::new(options.pace));
        let connect: Arc<dyn RoleServer> = Arc::new(Hub::new(Arc::clone(&tunnels)));
        let roles = RoleServers { enroll: Some(enroll), connect: Some(connect) };
        let (clock, claims) = (options.clock.clone(), store_writer.claims());
        let gateway =
            Arc::new(Gateway::new(settings, Parts { clock, pepper, claims, records, metrics, roles, tunnels }));
        let tell = {
            let gateway = Arc::clone(&gateway);
            move |news: News| match news {
                News::State(snapshot) => gateway.publish_snapshot(&snapshot),
                News::Unreadable => gateway.metrics.store_readable(false),
                News::Readable => gateway.metrics.store_readable(true),
                News::Stale => gateway.publish_stale(),
            }
        };
        let watcher = Watcher::start(&state_dir, state_stale_max, options.clock.clone(), tell).map_err(Failure::new)?;
        let admin = Admin::bind(admin_address, Arc::clone(&gateway))
            .await
            .map_err(|error| cannot_listen(admin_address, &error))?;
        let admin_address = admin.address()?;
        let admin_api = AdminApi::start(&gateway, &state_dir, api_address, operators).await?;
        let workers = Workers::start(&gateway, address, options.workers, options.patience)
            .map_err(|error| cannot_listen(address, &error))?;
        let clerk = Clerk::start(&gateway, desk.clone(), &state_dir, ca::directory(&state_dir))?;
        let admin = tokio::spawn(admin.run());
        let tunnels = [
            tokio::spawn(watch(Arc::clone(&gateway))),
            tokio::spawn(announce(Arc::clone(&gateway), of_connectors(&state_dir, &options.clock))),
        ];
        let mut refresher = Refresher::new(publish_keys(&gateway));
        refresher.follow(errands, &gateway.view().issuers);
        let look_at = Timestamp::from_seconds(0);
        let mut server = Self {
            gateway,
            options,
            workers,
            admin_address,
            admin,
            tunnels,
            admin_api,
            watcher,
            store_writer,
            notifier,
            refresher,
            workshop,
            writer,
            desk,
            clerk,
            renew_at,
            look_at,
            seen,
        };
        server.look_at_ends();
        Ok(server)
    }

    /// Where callers are served.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.workers.address()
    }

    /// Where `/metrics` and the health endpoints are.
    #[must_use]
    pub const fn admin_address(&self) -> SocketAddr {
        self.admin_address
    }

    /// The admin API.
    #[must_use]
    pub const fn admin_api(&self) -> &AdminApi {
        &self.admin_api
    }

    /// What the request path shares.
    #[must_use]
    pub const fn gateway(&self) -> &Arc<Gateway> {
        &self.gateway
    }

    /// Reads the config and everything that it names anew. It is put in force as a whole or not at
    /// all; either way a log line and a metric say so.
    pub fn reload(&mut self) {
        let old = Arc::clone(&self.gateway.view().settings);
        let result = self.read_anew(&old);
        self.gateway.metrics.reloaded(result.is_ok());
        self.tell_of_reload(result.is_ok());
        match result {
            Ok(()) => tracing::info!("reloaded the config"),
            Err(failure) => tracing::error!("the last good config stays in force: {}", failure.to_string().trim_end()),
        }
    }

    fn tell_of_reload(&self, applied: bool) {
        let kind = if applied { Kind::ReloadSucceeded } else { Kind::ReloadFailed };
        let data = Data::Config { revision: self.gateway.view().settings.generation };
        self.notifier.tell(&Notification { kind, at: self.options.clock.now(), data });
    }

    fn read_anew(&mut self, old: &Settings) -> Result<(), Failure> {
        let file = &old.config.file;
        // Taken before reading: what is written meanwhile is noticed the next time.
        let before = seen(&old.config);
        let config = config::load(file, &self.options.environment)
            .map_err(|problems| Failure::Config { file: file.display().to_string(), problems })?;
        let restart = config::needs_restart(&old.config, &config);
        if !restart.is_empty() {
            return Err(Failure::with_hint(
                format!("a reload cannot change {}", restart.join(", ")),
                "restart the gateway",
            ));
        }
        let seen = seen(&config).since(&before);
        let operators = admin_api::prepare(&config, &self.options.clock)?;
        let errands = Errand::all(&config.issuers).map_err(Failure::new)?;
        let targets = Target::all(&config.webhooks).map_err(Failure::new)?;
        let prepared = desk::prepare(&config, &self.options.clock)?;
        let (mut settings, renew_at) =
            settings(config, old.generation + 1, &self.options.clock, (&self.workshop, &old.webhooks))?;
        let (operators, renew_at) = earliest(operators, renew_at);
        let (office, renew_at) = at_desk(prepared, &mut settings, renew_at);
        self.notifier.follow(targets).map_err(Failure::new)?;
        // Only what is in force is watched: else a config that fails here is tried every second.
        self.seen = seen;
        self.renew_at = renew_at;
        self.desk.replace(office);
        self.gateway.publish_settings(settings);
        self.admin_api.replace(operators);
        self.refresher.follow(errands, &self.gateway.view().issuers);
        Ok(())
    }

    /// Reloads if a file has changed since it was read, or the internal certificate is due.
    pub fn reload_if_due(&mut self) {
        self.look_at_ends();
        let now = seen(&self.gateway.view().settings.config);
        let due = self.renew_at.is_some_and(|at| self.options.clock.now() >= at);
        if now != self.seen || due {
            self.seen = now;
            self.reload();
        }
    }

    /// Says in the metrics which certificates end first; once a minute.
    fn look_at_ends(&mut self) {
        let now = self.options.clock.now();
        if now < self.look_at {
            return;
        }
        self.look_at = now.after(LOOK);
        let settings = Arc::clone(&self.gateway.view().settings);
        match ends(&settings.config, now) {
            Ok(ends) => self.gateway.metrics.certificates_end(&ends),
            Err(failure) => {
                tracing::warn!("which certificates end first is not known: {}", failure.to_string().trim_end());
            }
        }
    }

    /// Opens the records' file anew, after someone moved it away.
    pub fn reopen_records(&self) {
        self.gateway.records.reopen();
    }

    /// Takes no new connection, lets requests in flight finish within the configured drain time,
    /// writes the last records, and stops.
    pub async fn shut_down(mut self) {
        self.desk.close().await;
        self.gateway.drain();
        let workers = self.workers;
        if tokio::task::spawn_blocking(move || workers.join()).await.is_err() {
            tracing::error!("the workers could not be waited for");
        }
        drop(self.clerk);
        self.tunnels.iter().for_each(JoinHandle::abort);
        drop(self.watcher);
        // Joins its thread: last uses are written when this returns.
        drop(self.store_writer);
        drop(self.notifier);
        drop(self.refresher);
        let lost = self.writer.finish(LAST_RECORDS);
        if lost > 0 {
            tracing::error!(lost, "records could not be written in time");
        }
        self.admin.abort();
        self.admin_api.stop().await;
    }
}

/// Takes apart what was prepared for operators, and tells when the first certificate is due.
fn earliest(operators: Prepared, renew_at: Option<Timestamp>) -> (Option<Tls>, Option<Timestamp>) {
    let (tls, due) = operators.unzip();
    (tls, due.into_iter().chain(renew_at).min())
}

/// Takes apart what was prepared for the `enroll` names, and tells when the first certificate is due.
fn at_desk(
    prepared: Option<desk::Prepared>,
    settings: &mut Settings,
    renew_at: Option<Timestamp>,
) -> (Option<Office>, Option<Timestamp>) {
    let Some(desk::Prepared { office, tls, due }) = prepared else { return (None, renew_at) };
    settings.tls.enroll = Some(tls);
    (Some(office), renew_at.into_iter().chain([due]).min())
}

/// Tells webhooks of connectors that come and go.
fn of_connectors(state_dir: &Path, clock: &Clock) -> impl Fn(&str, bool) + Send + Sync + 'static {
    let (state_dir, clock) = (state_dir.to_owned(), clock.clone());
    move |connector, there| {
        let kind = if there { Kind::ConnectorUp } else { Kind::ConnectorDown };
        let data = Data::Connector { connector: connector.to_owned() };
        notify::queue(&state_dir, &Notification { kind, at: clock.now(), data });
    }
}

/// Puts issuers' keys in force as they come.
fn publish_keys(gateway: &Arc<Gateway>) -> Publish {
    let gateway = Arc::clone(gateway);
    Arc::new(move |news: refresh::News<'_>| {
        gateway.metrics.keys_fetched(news.issuer, news.keys.is_some());
        if let Some(keys) = news.keys {
            gateway.publish_keys(news.location, keys, gateway.clock.now());
        }
    })
}

pub(super) fn cannot_listen(address: SocketAddr, error: &io::Error) -> Failure {
    let what = format!("cannot listen on {address}: {error}");
    if error.kind() == io::ErrorKind::AddrInUse {
        Failure::with_hint(what, "another process has the port; is a gateway running already?")
    } else if error.kind() == io::ErrorKind::PermissionDenied {
        Failure::with_hint(what, "ports below 1024 need CAP_NET_BIND_SERVICE")
    } else {
        Failure::new(what)
    }
}

/// How long the last records may take to reach the disk.
const LAST_RECORDS: Duration = Duration::from_secs(5);
/// How often it is looked up which certificates end first.
const LOOK: Duration = Duration::from_secs(60);

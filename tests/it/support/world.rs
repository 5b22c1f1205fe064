//! The gateway under test: a real one, with a state directory of its own.

use std::fs;
use std::net::SocketAddr;
use std::ops::Deref;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use doorward::ca::authority::Authority;
use doorward::ca::leaf::Existing;
use doorward::cli::ca::directory;
use doorward::cli::server::{Options, Server};
use doorward::cli::{cert, key};
use doorward::clock::Clock;
use doorward::config;
use doorward::domain::endpoint::Endpoints;
use doorward::domain::grant::Models;
use doorward::domain::identity::{IdentityName, Role, TrustDomain};
use doorward::domain::key::{KeyId, KeyRecord, Narrowing};
use doorward::domain::network::Networks;
use doorward::domain::owner::OwnerPath;
use doorward::domain::timestamp::Timestamp;
use doorward::gate::connection::Patience;
use doorward::overlay::hub::Pace;
use doorward::store::rows::{CertificateRevoked, Reason, Revoked, Serial};
use doorward::store::{Store, pepper};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::process::figure;
use super::{Caller, LONG, Leaf, Line, Stub, until, within};

/// The trust domain of the built-in authority.
pub(crate) const DOMAIN: &str = "corp.test";

/// What a gateway is made of. Every field can be changed before the start.
pub(crate) struct Setup {
    /// Where it listens.
    pub(crate) address: &'static str,
    pub(crate) client_auth: &'static str,
    /// More settings of `[listen]`.
    pub(crate) listen: String,
    /// More settings of `[admin]`.
    pub(crate) admin: String,
    /// `[[grant]]` and `[[identity]]`.
    pub(crate) grants: String,
    /// `[[backend]]` and `[[model]]`.
    pub(crate) backends: String,
    /// More sections.
    pub(crate) more: String,
    pub(crate) clock: Clock,
    pub(crate) patience: Patience,
    /// How long tunnels may do what.
    pub(crate) pace: Pace,
    pub(crate) workers: usize,
    /// Files to write beside the config before it is read.
    pub(crate) files: Vec<(String, String)>,
}

/// Everything is allowed from this machine, with a certificate or a key.
pub(crate) const OPEN: &str = r#"
[[grant]]
owner = "acme"
require = "either"
networks = ["127.0.0.0/8"]
endpoints = ["*"]
models = ["*"]

[[identity]]
match = "spiffe://corp.test/client/*"
owner = "acme/people"
"#;

impl Setup {
    /// A gateway with one backend: `llama` is its `org/llama-8b`, `same` has one name on both sides.
    pub(crate) fn new(stub: &Stub) -> Self {
        Self {
            address: "127.0.0.1:0",
            client_auth: "optional",
            listen: String::new(),
            admin: String::new(),
            grants: OPEN.to_owned(),
            backends: backends(stub, ""),
            more: String::new(),
            clock: Clock::System,
            patience: Patience::default(),
            pace: Pace::default(),
            workers: 1,
            files: Vec::new(),
        }
    }

    /// More settings of the one backend.
    pub(crate) fn backend(mut self, stub: &Stub, settings: &str) -> Self {
        self.backends = backends(stub, settings);
        self
    }

    pub(crate) fn grants(mut self, grants: &str) -> Self {
        grants.clone_into(&mut self.grants);
        self
    }

    pub(crate) fn listen(mut self, settings: &str) -> Self {
        settings.clone_into(&mut self.listen);
        self
    }

    /// The admin API over TLS too.
    pub(crate) fn admin_api(mut self) -> Self {
        "api_address = \"127.0.0.1:0\"".clone_into(&mut self.admin);
        self
    }

    /// A clock that stands at the time of now until it is moved.
    pub(crate) fn manual_clock(mut self) -> Self {
        self.clock = Clock::manual(Clock::System.now());
        self
    }

    /// The text of the config file.
    pub(crate) fn text(&self) -> String {
        let Self { address, client_auth, listen, admin, grants, backends, more, .. } = self;
        format!(
            r#"
state_dir = "state"

[listen]
address = "{address}"
names = {{ api = ["llm.test", "other.test"], connect = ["connect.test"], enroll = ["enroll.test"] }}
client_auth = "{client_auth}"
{listen}

[admin]
address = "127.0.0.1:0"
{admin}

[ca]
trust_domain = "{DOMAIN}"
{more}
{grants}
{backends}
"#
        )
    }

    /// Writes the files that it needs, and does not start it.
    pub(crate) fn write(&self) -> Prepared {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        fs::create_dir(&state).unwrap();
        fs::set_permissions(&state, fs::Permissions::from_mode(0o700)).unwrap();
        let domain = TrustDomain::parse(DOMAIN).unwrap();
        let authority = Authority::init(&directory(&state), &domain, self.clock.now()).unwrap();
        for (name, content) in &self.files {
            fs::write(dir.path().join(name), content).unwrap();
        }
        let file = dir.path().join("doorward.toml");
        fs::write(&file, self.text()).unwrap();
        Prepared { authority, state, file, clock: self.clock.clone(), dir }
    }

    /// Starts it.
    pub(crate) async fn start(self) -> World {
        let prepared = self.write();
        let Self { clock, patience, pace, workers, .. } = self;
        let config = config::load(&prepared.file, &|_| None).unwrap_or_else(|problems| panic!("{problems:#?}"));
        let options = Options { workers, clock, patience, pace, environment: |_| None };
        let server = Server::start(config, options).await.unwrap();
        World { server, prepared }
    }
}

/// One backend and two models.
fn backends(stub: &Stub, settings: &str) -> String {
    format!(
        r#"
[[backend]]
name = "stub"
url = "http://{}"
dialects = ["openai", "anthropic", "ollama"]
{settings}

[[model]]
name = "llama"
targets = [{{ backend = "stub", model = "org/llama-8b" }}]

[[model]]
name = "same"
targets = [{{ backend = "stub", model = "same" }}]
"#,
        stub.address
    )
}

/// The files of a gateway.
pub(crate) struct Prepared {
    pub(crate) authority: Authority,
    pub(crate) state: PathBuf,
    pub(crate) file: PathBuf,
    pub(crate) clock: Clock,
    /// Gone with the world, state and all.
    pub(crate) dir: TempDir,
}

/// A running gateway.
pub(crate) struct World {
    pub(crate) server: Server,
    prepared: Prepared,
}

impl Deref for World {
    type Target = Prepared;

    fn deref(&self) -> &Prepared {
        &self.prepared
    }
}

/// A key, as its owner has it.
#[derive(Clone)]
pub(crate) struct Key {
    pub(crate) id: KeyId,
    pub(crate) text: String,
}

/// A certificate, as its owner has it.
#[derive(Clone)]
pub(crate) struct Issued {
    pub(crate) leaf: Leaf,
    pub(crate) serial: Serial,
    pub(crate) not_after: Timestamp,
}

impl Prepared {
    pub(crate) fn store(&self) -> Store {
        Store::open(&self.state).unwrap()
    }

    /// Makes a key as `doorward key create` does.
    pub(crate) fn make_key(
        &self,
        owner: &str,
        expires_at: Option<Timestamp>,
        networks: &[&str],
        endpoints: &[&str],
        models: &[&str],
    ) -> Key {
        let named = |list: &[&str]| !list.is_empty();
        let narrowing = Narrowing {
            networks: named(networks).then(|| Networks::parse(networks).unwrap()),
            endpoints: named(endpoints).then(|| Endpoints::parse(endpoints).unwrap()),
            models: named(models).then(|| Models::parse(models).unwrap()),
        };
        self.make_key_like(owner, |record| KeyRecord { narrowing, expires_at, ..record })
    }

    /// Stores a key of `owner` that is made of a plain one.
    pub(crate) fn make_key_like(&self, owner: &str, like: impl FnOnce(KeyRecord) -> KeyRecord) -> Key {
        let owner = OwnerPath::parse(owner).unwrap();
        let mut store = self.store();
        let pepper = pepper::load(&self.state, &mut store).unwrap();
        let made = key::create(&owner).unwrap();
        let row = like(KeyRecord::new(made.id(), owner, pepper.digest(&made), self.clock.now()));
        store.create_key(&row).unwrap();
        Key { id: row.id, text: made.reveal().to_owned() }
    }

    /// A client certificate for `name`.
    pub(crate) fn certificate(&self, name: &str) -> Issued {
        self.certificate_as(Role::Client, name, None)
    }

    pub(crate) fn certificate_as(&self, role: Role, name: &str, ttl: Option<Duration>) -> Issued {
        let out = tempfile::tempdir_in(self.dir.path()).unwrap();
        let name = IdentityName::parse(name).unwrap();
        self.issue(&self.authority, (role, &name, ttl), out.path())
    }

    /// As [`Self::certificate`], by an authority that came after the first one.
    pub(crate) fn certificate_of(&self, authority: &Authority, name: &str) -> Issued {
        let out = tempfile::tempdir_in(self.dir.path()).unwrap();
        let name = IdentityName::parse(name).unwrap();
        self.issue(authority, (Role::Client, &name, None), out.path())
    }

    /// A connector's identity, in a directory of its own.
    pub(crate) fn connector(&self, name: &str) -> (PathBuf, Issued) {
        let out = tempfile::tempdir_in(self.dir.path()).unwrap().keep();
        let issued = self.issue(&self.authority, (Role::Connector, &IdentityName::parse(name).unwrap(), None), &out);
        (out, issued)
    }

    /// As [`Self::certificate`], with its files.
    pub(crate) fn issue(
        &self,
        authority: &Authority,
        wanted: (Role, &IdentityName, Option<Duration>),
        out: &Path,
    ) -> Issued {
        let mut store = self.store();
        let made = cert::issue(authority, &mut store, wanted, (out, Existing::Keep), self.clock.now()).unwrap();
        let chain = CertificateDer::pem_file_iter(&made.files.certificate).unwrap().map(Result::unwrap).collect();
        let key = PrivateKeyDer::from_pem_file(&made.files.key).unwrap();
        Issued { leaf: Leaf::new(chain, key), serial: made.serial, not_after: made.not_after }
    }

    /// Revokes a key as `doorward key revoke` does.
    pub(crate) fn revoke_key(&self, id: &KeyId) {
        assert_eq!(self.store().revoke_key(id, self.clock.now()).unwrap(), Revoked::Revoked);
    }

    /// Revokes a certificate as `doorward cert revoke --serial` does.
    pub(crate) fn revoke_certificate(&self, serial: &Serial) {
        let revoked = self.store().revoke_certificate(serial, Reason::KeyCompromise, self.clock.now()).unwrap();
        assert_eq!(revoked, CertificateRevoked::Newly);
    }

    /// Revokes a name as `doorward cert revoke --name` does.
    pub(crate) fn revoke_name(&self, name: &str) {
        let name = IdentityName::parse(name).unwrap();
        let domain = self.authority.trust_domain();
        assert!(self.store().revoke_name(domain, &name, Reason::KeyCompromise, self.clock.now()).unwrap().newly);
    }

    /// All records that are written by now.
    pub(crate) fn records(&self) -> Vec<Value> {
        self.lines().into_iter().filter(|line| line.get("event").is_none()).collect()
    }

    /// All lines that tell what was done with certificates.
    pub(crate) fn events(&self) -> Vec<Value> {
        self.lines().into_iter().filter(|line| line.get("event").is_some()).collect()
    }

    fn lines(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.state.join("records.jsonl")).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }
}

impl World {
    /// A gateway that allows everything, in front of `stub`.
    pub(crate) async fn open(stub: &Stub) -> Self {
        Setup::new(stub).start().await
    }

    pub(crate) const fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// A caller that trusts this gateway and has no credential yet.
    pub(crate) fn caller(&self) -> Caller {
        Caller::new(self.address(), self.authority.roots())
    }

    /// Somebody who reaches the admin API over TLS and has no certificate yet.
    pub(crate) fn operator(&self) -> Caller {
        Caller::new(self.server.admin_api().address().unwrap(), self.authority.roots()).named("localhost")
    }

    /// A connection to the admin API's Unix socket.
    pub(crate) async fn socket(&self) -> Line {
        self.caller().named("localhost").unix(self.server.admin_api().socket()).await
    }

    /// A key of `owner`, in force.
    pub(crate) async fn key(&self, owner: &str) -> Key {
        self.key_with(owner, None, &[], &[], &[]).await
    }

    /// A key of `owner` with limits of its own, in force.
    pub(crate) async fn key_with(
        &self,
        owner: &str,
        expires_at: Option<Timestamp>,
        networks: &[&str],
        endpoints: &[&str],
        models: &[&str],
    ) -> Key {
        self.in_force(self.make_key(owner, expires_at, networks, endpoints, models)).await
    }

    /// A key of `owner` that is made of a plain one, in force.
    pub(crate) async fn key_like(&self, owner: &str, like: impl FnOnce(KeyRecord) -> KeyRecord) -> Key {
        self.in_force(self.make_key_like(owner, like)).await
    }

    async fn in_force(&self, key: Key) -> Key {
        let gateway = self.server.gateway();
        until(LONG, "the key is in force", || gateway.view().snapshot.key(&key.id).map(|_| ())).await;
        key
    }

    /// Grows whenever something that decisions read has changed.
    pub(crate) fn generation(&self) -> u64 {
        self.server.gateway().view().generation
    }

    /// Waits until a change that was made after `generation` is in force.
    pub(crate) async fn changed_since(&self, generation: u64) {
        until(LONG, "the change is in force", || (self.generation() > generation).then_some(())).await;
    }

    /// The record of a request, once it is written; there must be one only.
    pub(crate) async fn record(&self, request_id: &str) -> Value {
        let of_id = || self.records().into_iter().filter(|record| record["request_id"] == request_id);
        let record = until(LONG, "the record is written", || of_id().next()).await;
        assert_eq!(of_id().count(), 1, "{record}");
        record
    }

    /// The `count` records that were written so far, and no more.
    pub(crate) async fn all_records(&self, count: usize) -> Vec<Value> {
        until(LONG, "the records are written", || (self.records().len() >= count).then_some(())).await;
        let records = self.records();
        assert_eq!(records.len(), count, "{records:#?}");
        records
    }

    /// The `count` events that have this in a field, and no more.
    pub(crate) async fn events_with(&self, field: &str, value: &str, count: usize) -> Vec<Value> {
        let with = || self.events().into_iter().filter(|event| event[field] == value).collect::<Vec<_>>();
        until(LONG, "the events are written", || (with().len() >= count).then_some(())).await;
        let events = with();
        assert_eq!(events.len(), count, "{events:#?}");
        events
    }

    /// The server, to be shut down, and its files.
    pub(crate) fn into_parts(self) -> (Server, Prepared) {
        (self.server, self.prepared)
    }

    /// The same gateway after a restart, with so many threads.
    pub(crate) async fn restart(self, workers: usize) -> Self {
        let (server, prepared) = self.into_parts();
        server.shut_down().await;
        Self::resume_with(prepared, workers).await
    }

    /// A gateway with the files of one that was shut down.
    pub(crate) async fn resume(prepared: Prepared) -> Self {
        Self::resume_with(prepared, 1).await
    }

    async fn resume_with(prepared: Prepared, workers: usize) -> Self {
        let config = config::load(&prepared.file, &|_| None).unwrap_or_else(|problems| panic!("{problems:#?}"));
        let options = Options {
            workers,
            clock: prepared.clock.clone(),
            patience: Patience::default(),
            pace: Pace::default(),
            environment: |_| None,
        };
        Self { server: Server::start(config, options).await.unwrap(), prepared }
    }

    /// A gateway of files that another one has left.
    pub(crate) async fn again(prepared: Prepared) -> Self {
        let config = config::load(&prepared.file, &|_| None).unwrap_or_else(|problems| panic!("{problems:#?}"));
        let (clock, patience) = (prepared.clock.clone(), Patience::default());
        let options = Options { workers: 1, clock, patience, pace: Pace::default(), environment: |_| None };
        Self { server: Server::start(config, options).await.unwrap(), prepared }
    }

    /// Puts another config into the file and has it read.
    pub(crate) fn reload(&mut self, text: &str) {
        fs::write(&self.file, text).unwrap();
        self.server.reload();
    }

    /// What the admin listener answers at `path`: status line, headers and body.
    pub(crate) async fn admin(&self, path: &str) -> String {
        admin(self.server.admin_address(), path).await
    }

    /// What the admin listener answers to these bytes, until it closes.
    pub(crate) async fn admin_says(&self, request: &str) -> String {
        admin_says(self.server.admin_address(), request).await
    }

    /// The figure of a metric, with its labels as they are printed; 0 when it was never counted.
    pub(crate) async fn metric(&self, name: &str) -> f64 {
        figure(&self.admin("/metrics").await, name)
    }

    /// Waits until a metric has this figure.
    pub(crate) async fn metric_becomes(&self, name: &str, expected: f64) {
        within(LONG, name, async {
            while (self.metric(name).await - expected).abs() > f64::EPSILON {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
}

/// What an admin listener answers at `path`: status line, headers and body.
pub(crate) async fn admin(address: SocketAddr, path: &str) -> String {
    admin_says(address, &format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")).await
}

async fn admin_says(address: SocketAddr, request: &str) -> String {
    within(LONG, "the admin listener answers", async {
        let mut socket = TcpStream::connect(address).await.unwrap();
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        socket.read_to_string(&mut text).await.unwrap();
        text
    })
    .await
}

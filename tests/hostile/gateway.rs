//! A gateway in this process, with its own authority, keys and backend.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use doorward::ca::authority::Authority;
use doorward::ca::leaf;
use doorward::cli::ca::directory;
use doorward::cli::key;
use doorward::cli::server::{Options, Server};
use doorward::clock::Clock;
use doorward::config;
use doorward::domain::identity::{IdentityName, Role, TrustDomain};
use doorward::domain::key::{KeyId, KeyRecord, Pepper};
use doorward::domain::owner::OwnerPath;
use doorward::gate::connection::Patience;
use doorward::overlay::hub::Pace;
use doorward::store::{Store, pepper};
use doorward::telemetry::metrics::Figures;
use rustls::client::ResolvesClientCert;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::backend::Backend;

/// The alias that everybody may name; the backend knows it by [`OPEN_THERE`].
pub const OPEN: &str = "open";
pub const OPEN_THERE: &str = "backends-own/open";
/// The alias that only a wide key may name.
pub const SECRET: &str = "secret";
pub const SECRET_THERE: &str = "backends-own/secret";
/// An alias that is also the backend's name; as long as [`OPEN`].
pub const SAME: &str = "same";

/// Nothing in here may take longer.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A running gateway and what it was made of.
pub struct Gateway {
    pub server: Server,
    pub backend: Backend,
    store: Store,
    pepper: Pepper,
    file: PathBuf,
    authority: Authority,
    /// May everything.
    pub key: String,
    /// May chat with [`OPEN`] and nothing else.
    pub narrow: String,
    dir: TempDir,
}

/// What differs between gateways.
pub struct Setup {
    /// More lines of `[listen]`.
    pub listen: &'static str,
    pub patience: Patience,
    pub workers: usize,
}

impl Default for Setup {
    fn default() -> Self {
        Self { listen: "", patience: Patience::default(), workers: 1 }
    }
}

impl Gateway {
    pub async fn start() -> Self {
        Self::with(Setup::default()).await
    }

    pub async fn with(setup: Setup) -> Self {
        let backend = Backend::start().await;
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        let now = Clock::System.now();
        let mut store = Store::open(&state).unwrap();
        let authority =
            Authority::init(&directory(&state), &TrustDomain::parse("hostile.example").unwrap(), now).unwrap();
        let pepper = pepper::load(&state, &mut store).unwrap();
        let (key, narrow) = (new_key(&mut store, &pepper, "team/wide"), new_key(&mut store, &pepper, "team/narrow"));
        let file = dir.path().join("doorward.toml");
        fs::write(&file, config_text("optional", setup.listen, backend.port())).unwrap();
        let config = config::load(&file, &|_| None).unwrap();
        let options = Options {
            workers: setup.workers,
            clock: Clock::System,
            patience: setup.patience,
            pace: Pace::default(),
            environment: |_| None,
        };
        let server = Server::start(config, options).await.unwrap();
        Self { server, backend, store, pepper, file, authority, key, narrow, dir }
    }

    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.server.address().port()))
    }

    /// TLS towards the gateway, with or without the certificate of a caller.
    pub fn tls(&self, alpn: &[&[u8]], with_certificate: bool) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        for root in self.authority.roots() {
            roots.add(root).unwrap();
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let mut config = if with_certificate {
            let name = IdentityName::parse("alice").unwrap();
            let plan = self.authority.plan_client(Role::Client, &name, None, Clock::System.now()).unwrap();
            let leaf = leaf::generate(&self.authority, &plan, None).unwrap();
            let chain = CertificateDer::pem_slice_iter(leaf.issued.pem.as_bytes()).map(Result::unwrap).collect();
            let key = PrivateKeyDer::from_pem_slice(leaf.key_pem.as_ref().unwrap().as_bytes()).unwrap();
            builder.with_client_auth_cert(chain, key).unwrap()
        } else {
            builder.with_no_client_auth()
        };
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        Arc::new(config)
    }

    /// TLS towards the gateway with any certificates at all, and the key to sign with.
    pub fn tls_presenting(
        &self,
        chain: Vec<CertificateDer<'static>>,
        key: &PrivateKeyDer<'static>,
    ) -> Arc<ClientConfig> {
        let mut config = (*self.tls(&[b"http/1.1"], false)).clone();
        let signer = rustls::crypto::aws_lc_rs::sign::any_supported_type(key).unwrap();
        config.client_auth_cert_resolver = Arc::new(Presenting(Arc::new(CertifiedKey::new(chain, signer))));
        Arc::new(config)
    }

    /// The directory of the authority, keys and all.
    pub fn authority_directory(&self) -> PathBuf {
        directory(&self.dir.path().join("state"))
    }

    /// Another key, in force when this returns.
    pub async fn new_key(&mut self, owner: &str) -> String {
        let key = new_key(&mut self.store, &self.pepper, owner);
        let id = id_of(&key);
        self.until("the key is in force", || self.server.gateway().view().snapshot.key(&id).is_some()).await;
        key
    }

    /// Revokes a key; when this returns the gateway knows.
    pub async fn revoke(&mut self, key: &str) {
        let id = id_of(key);
        self.store.revoke_key(&id, Clock::System.now()).unwrap();
        let revoked = || {
            let view = self.server.gateway().view();
            view.snapshot.key(&id).is_some_and(|record| record.revoked_at.is_some())
        };
        self.until("the key is revoked", revoked).await;
    }

    /// Reloads with another `client_auth`.
    pub fn reload_with_client_auth(&mut self, client_auth: &str) {
        fs::write(&self.file, config_text(client_auth, "", self.backend.port())).unwrap();
        let before = self.server.gateway().view().settings.generation;
        self.server.reload();
        assert!(self.server.gateway().view().settings.generation > before, "the reload was refused");
    }

    /// Waits until `holds`, and fails when that takes too long.
    pub async fn until(&self, what: &str, holds: impl FnMut() -> bool) {
        until(what, holds).await;
    }

    /// A number from the metrics.
    pub fn figure(&self, name: &str) -> u64 {
        let figures = Figures { records_dropped: 0, records_written: 0, keys: 0, callers_share_an_address: false };
        let text = self.server.gateway().metrics.scrape(figures);
        let line = text.lines().find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ')));
        line.and_then(|line| line.split(' ').nth(1)).unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
    }

    pub fn in_flight(&self) -> u64 {
        self.figure("doorward_requests_in_flight")
    }

    /// No request is under way, nothing is buffered, and the backend is left alone.
    pub async fn until_quiet(&self) {
        let buffered = || self.server.gateway().buffered.load(std::sync::atomic::Ordering::SeqCst);
        self.until("no request is in flight", || self.in_flight() == 0).await;
        self.until("nothing is buffered", || buffered() == 0).await;
        self.until("the backend has no connections", || self.backend.open() == 0).await;
        assert_eq!(self.figure("doorward_panics_total"), 0);
    }
}

/// Presents its certificates whatever they are, to whoever asks.
#[derive(Debug)]
struct Presenting(Arc<CertifiedKey>);

impl ResolvesClientCert for Presenting {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let patience_ends = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < patience_ends, "waited in vain until {what}");
        sleep(Duration::from_millis(5)).await;
    }
}

fn new_key(store: &mut Store, pepper: &Pepper, owner: &str) -> String {
    let owner = OwnerPath::parse(owner).unwrap();
    let key = key::create(&owner).unwrap();
    let row = KeyRecord::new(key.id(), owner, pepper.digest(&key), Clock::System.now());
    store.create_key(&row).unwrap();
    key.reveal().to_owned()
}

fn id_of(key: &str) -> KeyId {
    KeyId::parse(key.split('_').nth(1).unwrap()).unwrap()
}

fn config_text(client_auth: &str, listen: &str, backend: u16) -> String {
    format!(
        r#"
state_dir = "state"
[listen]
address = "127.0.0.1:0"
names = {{ api = ["localhost", "api.example"] }}
client_auth = "{client_auth}"
certificate = "internal"
{listen}
[admin]
address = "127.0.0.1:0"
[ca]
trust_domain = "hostile.example"
[[identity]]
match = "spiffe://hostile.example/client/*"
owner = "team/wide"
[[grant]]
owner = "team"
require = "either"
networks = ["127.0.0.0/8"]
[[grant]]
owner = "team/wide"
endpoints = ["*"]
models = ["*"]
[[grant]]
owner = "team/narrow"
endpoints = ["openai.chat_completions"]
models = ["{OPEN}"]
[[backend]]
name = "stub"
url = "http://127.0.0.1:{backend}"
dialects = ["openai", "anthropic", "ollama"]
[[model]]
name = "{OPEN}"
targets = [{{ backend = "stub", model = "{OPEN_THERE}" }}]
[[model]]
name = "{SECRET}"
targets = [{{ backend = "stub", model = "{SECRET_THERE}" }}]
[[model]]
name = "{SAME}"
targets = [{{ backend = "stub", model = "{SAME}" }}]
"#
    )
}

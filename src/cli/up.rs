//! `doorward up`: from nothing to a gateway in one command.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use tokio::runtime;

use crate::ca::authority::Authority;
use crate::ca::leaf::Existing;
use crate::ca::leaf_files::LeafFiles;
use crate::cli::discover::{self, Found};
use crate::cli::output::{self, Failure, Format};
use crate::cli::process::environment;
use crate::cli::server::cannot_listen;
use crate::cli::{ca, cert, key, serve, usage};
use crate::clock::Clock;
use crate::config;
use crate::domain::identity::{IdentityName, Role, TrustDomain};
use crate::domain::key::KeyRecord;
use crate::domain::owner::OwnerPath;
use crate::domain::timestamp::Timestamp;
use crate::store::{Store, pepper};

const LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8443);
const TRUST_DOMAIN: &str = "doorward.internal";
const CALLER: &str = "me";
const OWNER: &str = "local/me";
/// The longest that the authority gives: a first try should not end over night.
const CERTIFICATE_LIFE: Duration = Duration::from_secs(90 * 86_400);

/// Sets everything up on the first run, then serves. Later runs just serve.
#[derive(Debug, Args)]
pub struct Up {
    /// Where everything is kept
    #[arg(long, value_name = "DIR", default_value = "./doorward-state")]
    state: PathBuf,
    /// Where to listen (first run only), the admin listener on the next port of loopback [default: 127.0.0.1:8443]
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
    /// An inference server (first run only); may be repeated [default: those found on this host]
    #[arg(long = "backend", value_name = "URL")]
    backends: Vec<String>,
    /// How to print where everything is
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
}

/// Everything that a caller needs.
#[derive(Debug, Serialize)]
struct Ready {
    url: String,
    ca: PathBuf,
    certificate: PathBuf,
    key_file: PathBuf,
    api_key_file: PathBuf,
    config: PathBuf,
}

impl Up {
    /// Runs the verb.
    ///
    /// # Errors
    ///
    /// When no backend is found, or a part cannot be made or started.
    pub fn run(self, out: &mut impl Write, err: &mut impl Write) -> Result<(), Failure> {
        let state = std::path::absolute(&self.state)?;
        let paths = Paths::of(&state);
        if paths.config.exists() {
            if !self.backends.is_empty() || self.listen.is_some() {
                writeln!(
                    err,
                    "warning: {} exists; --backend and --listen count on the first run only",
                    paths.config.display()
                )?;
            }
        } else {
            self.set_up(&paths, err)?;
        }
        serve::serve(&paths.config, |server| {
            let address = server.address();
            let host = if address.ip().is_loopback() || address.ip().is_unspecified() {
                "localhost".to_owned()
            } else {
                address.ip().to_string()
            };
            let url = format!("https://{host}:{}", address.port());
            self.announce(&paths, url, out)
        })
    }

    /// The config is written last: a run that was interrupted before is taken up again.
    fn set_up(&self, paths: &Paths, err: &mut impl Write) -> Result<(), Failure> {
        let no_url = |url: &&String| !["http://", "https://"].iter().any(|scheme| url.starts_with(scheme));
        if let Some(backend) = self.backends.iter().find(no_url) {
            let wrong = format!("--backend: {backend:?} is no URL such as http://10.0.0.5:8000");
            return Err(Failure::Usage(vec![wrong]));
        }
        let listen = self.listen.unwrap_or(LISTEN);
        let admin_port = listen
            .port()
            .checked_add(1)
            .ok_or_else(|| Failure::Usage(vec!["--listen: choose a port below 65535".to_owned()]))?;
        let admin = SocketAddr::from((Ipv4Addr::LOCALHOST, admin_port));
        for address in [listen, admin] {
            // Before the config keeps an address that cannot be had.
            drop(TcpListener::bind(address).map_err(|error| cannot_listen(address, &error))?);
        }
        let found = self.find_backends(err)?;
        let now = Clock::System.now();
        let mut store = Store::open(&paths.state).map_err(Failure::new)?;
        let authority = match ca::directory(&paths.state) {
            dir if dir.exists() => Authority::open(&dir),
            dir => Authority::init(&dir, &TrustDomain::parse(TRUST_DOMAIN).map_err(Failure::new)?, now),
        };
        let authority = authority.map_err(Failure::new)?;
        let LeafFiles { key, certificate, roots } = &paths.leaf;
        if ![key, certificate, roots].into_iter().all(|file| file.exists()) {
            let name = IdentityName::parse(CALLER).map_err(Failure::new)?;
            let wanted = (Role::Client, &name, Some(CERTIFICATE_LIFE));
            // A run that was interrupted may have left some of the files.
            cert::issue(&authority, &mut store, wanted, (&paths.client, Existing::Replace), now)?;
        }
        if !paths.api_key.exists() {
            make_key(&mut store, paths, now)?;
        }
        let text = config_text(listen, admin, &found);
        // What is written here must load; a problem is ours to find before it is left behind.
        config::parse(&text, &paths.config, &environment)
            .map_err(|problems| Failure::Config { file: paths.config.display().to_string(), problems })?;
        write_new(&paths.config, text.as_bytes(), 0o644)
    }

    fn find_backends(&self, err: &mut impl Write) -> Result<Vec<Found>, Failure> {
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let asked: Vec<&str> = if self.backends.is_empty() {
            discover::USUAL.to_vec()
        } else {
            self.backends.iter().map(String::as_str).collect()
        };
        let mut found = Vec::new();
        let mut said = String::new();
        for url in asked {
            match runtime.block_on(discover::probe(url)) {
                Ok(backend) => {
                    writeln!(err, "found {} serving {}", backend.url, backend.models.join(", "))?;
                    found.push(backend);
                }
                Err(why) if self.backends.is_empty() => said = format!("{said}\n  {url}: {why}"),
                Err(why) => {
                    let hint =
                        "is it running? for one that asks for a key, write a config: config/doorward.toml explains it";
                    return Err(Failure::with_hint(format!("no inference server at {url}: {why}"), hint));
                }
            }
        }
        if found.is_empty() {
            return Err(Failure::with_hint(
                format!("no inference server was found on this host{said}"),
                "start Ollama, vLLM or llama-server, or name one: doorward up --backend http://10.0.0.5:8000",
            ));
        }
        Ok(found)
    }

    fn announce(&self, paths: &Paths, url: String, out: &mut impl Write) -> Result<(), Failure> {
        match self.output {
            Format::Json => output::json(
                out,
                &Ready {
                    url,
                    ca: paths.leaf.roots.clone(),
                    certificate: paths.leaf.certificate.clone(),
                    key_file: paths.leaf.key.clone(),
                    api_key_file: paths.api_key.clone(),
                    config: paths.config.clone(),
                },
            )?,
            Format::Table => {
                let key = fs::read_to_string(&paths.api_key)?;
                writeln!(out, "Doorward serves at {url}. The config is {}.\n", paths.config.display())?;
                writeln!(out, "{}\n", usage::lines(&url, &paths.leaf, key.trim()))?;
            }
        }
        out.flush()?;
        Ok(())
    }
}

/// The config of a first run.
fn config_text(listen: SocketAddr, admin: SocketAddr, found: &[Found]) -> String {
    let loopback = listen.ip().is_loopback();
    let networks = if loopback { r#"["127.0.0.0/8", "::1"]"# } else { r#"["*"]"# };
    let address = listen.ip();
    let names = if loopback || address.is_unspecified() {
        r#"["localhost"]"#.to_owned()
    } else {
        format!(r#"["localhost", {}]"#, quoted(&address.to_string()))
    };
    let mut text = format!(
        r#"# Written by `doorward up`. config/doorward.toml in the source explains every setting.

state_dir = "."

[listen]
address     = {address}
names       = {{ api = {names} }}
client_auth = "optional"       # a missing certificate is answered with 401, not with a TLS alert
certificate = "internal"       # issued by the authority below

[admin]
address = "{admin}"   # /metrics /healthz /readyz

[ca]
trust_domain = "{TRUST_DOMAIN}"

# Certificates of this authority sit on the owner tree ...
[[identity]]
match = "spiffe://{TRUST_DOMAIN}/client/*"
owner = "{OWNER}"

# ... and this is what may be done there: a certificate and a key together.
[[grant]]
owner     = "local"
require   = "both"
networks  = {networks}
endpoints = ["*"]
models    = ["*"]
"#,
        address = quoted(&listen.to_string()),
    );
    let mut models: Vec<(&str, Vec<(usize, &str)>)> = Vec::new();
    for (index, backend) in found.iter().enumerate() {
        let dialects: Vec<_> = backend.dialects.iter().map(|dialect| quoted(dialect.as_str())).collect();
        let _ = write!(
            text,
            "\n[[backend]]\nname     = \"backend-{}\"\nurl      = {}\ndialects = [{}]\n",
            index + 1,
            quoted(&backend.url),
            dialects.join(", "),
        )
        .is_ok();
        for model in &backend.models {
            match models.iter_mut().find(|(name, _)| name == model) {
                Some((_, targets)) => targets.push((index, model)),
                None => models.push((model, vec![(index, model)])),
            }
        }
    }
    for (name, targets) in models {
        let targets: Vec<_> = targets
            .into_iter()
            .map(|(index, model)| format!("{{ backend = \"backend-{}\", model = {} }}", index + 1, quoted(model)))
            .collect();
        let _ = write!(text, "\n[[model]]\nname    = {}\ntargets = [{}]\n", quoted(name), targets.join(", ")).is_ok();
    }
    text
}

/// Where the parts are.
#[derive(Debug)]
struct Paths {
    state: PathBuf,
    config: PathBuf,
    client: PathBuf,
    leaf: LeafFiles,
    api_key: PathBuf,
}

impl Paths {
    fn of(state: &Path) -> Self {
        let client = state.join("client");
        Self {
            config: state.join("doorward.toml"),
            leaf: LeafFiles::of(&client, CALLER),
            api_key: client.join("api-key"),
            state: state.to_owned(),
            client,
        }
    }
}

fn make_key(store: &mut Store, paths: &Paths, now: Timestamp) -> Result<(), Failure> {
    let owner = OwnerPath::parse(OWNER).map_err(Failure::new)?;
    let pepper = pepper::load(&paths.state, store).map_err(Failure::new)?;
    let key = key::create(&owner)?;
    let row = KeyRecord::new(key.id(), owner, pepper.digest(&key), now);
    store.create_key(&row).map_err(Failure::new)?;
    write_new(&paths.api_key, format!("{}\n", key.reveal()).as_bytes(), 0o600)
}

/// Writes a file that did not exist, whole or not at all.
fn write_new(path: &Path, bytes: &[u8], mode: u32) -> Result<(), Failure> {
    let staging = path.with_extension("new");
    let write = || -> io::Result<()> {
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&staging)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&staging, path)
    };
    write().map_err(|error| Failure::new(format!("cannot write {}: {error}", path.display())))
}

/// A TOML string.
fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

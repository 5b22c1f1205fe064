//! The admin API of a running gateway: its listeners, and what operators are judged by.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::task::JoinHandle;

use crate::admin::api::Api;
use crate::admin::api::operators::{Listener, Operators, Tls};
use crate::admin::api::socket::{self, Socket};
use crate::ca::authority::Authority;
use crate::ca::plan::SERVER_TTL;
use crate::cli::ca;
use crate::cli::output::Failure;
use crate::cli::server::{cannot_listen, server_names};
use crate::clock::Clock;
use crate::config::{ClientAuth, Config};
use crate::domain::timestamp::Timestamp;
use crate::gate::Gateway;
use crate::tls::server::{CurrentCertificate, api_config, certified_key, provider};
use crate::tls::verify::CallerVerifier;

/// The admin API, serving.
#[derive(Debug)]
pub struct AdminApi {
    operators: Option<Arc<Operators>>,
    address: Option<SocketAddr>,
    socket: PathBuf,
    tasks: Vec<JoinHandle<()>>,
}

/// What operators are judged by, and when it must be made anew: `None` without `api_address`.
pub type Prepared = Option<(Tls, Timestamp)>;

/// Prepares TLS for operators.
///
/// # Errors
///
/// When there is no authority, or it cannot issue.
pub fn prepare(config: &Config, clock: &Clock) -> Result<Prepared, Failure> {
    let (Some(address), Some(domain)) = (config.admin_api, &config.trust_domain) else { return Ok(None) };
    let authority = Authority::open(&ca::directory(&config.state_dir)).map_err(|e| ca::said(&e, domain.as_str()))?;
    let builtin = Some((authority.trust_domain().clone(), authority.anchors()));
    // No `[[trust]]`: only the built-in authority makes operators.
    let verifier = CallerVerifier::new(ClientAuth::Required, builtin, &[], clock.clone(), provider());
    let verifier = verifier.map_err(Failure::new)?;
    let mut names = server_names(config);
    for name in ["localhost".to_owned(), address.ip().to_canonical().to_string()] {
        if !names.contains(&name) && !address.ip().is_unspecified() {
            names.push(name);
        }
    }
    let now = clock.now();
    let (chain, key) = authority.issue_server(&names, now).map_err(Failure::new)?;
    let life = SERVER_TTL.min(authority.issuer_not_after().since(now));
    let certificate = CurrentCertificate::new(certified_key(chain, key).map_err(Failure::new)?);
    let server = api_config(Arc::clone(&verifier), Arc::new(certificate), false).map_err(Failure::new)?;
    Ok(Some((Tls { verifier, config: Arc::new(server) }, now.after(life * 2 / 3))))
}

impl AdminApi {
    /// Serves on the Unix socket of the state directory, and on `address` when there is one.
    ///
    /// # Errors
    ///
    /// When a listener cannot be bound.
    pub async fn start(
        gateway: &Arc<Gateway>,
        state_dir: &Path,
        address: Option<SocketAddr>,
        tls: Option<Tls>,
    ) -> Result<Self, Failure> {
        let api = Arc::new(Api::new(Arc::clone(gateway), state_dir.to_owned()));
        let socket = Socket::bind(state_dir).map_err(|error| no_socket(state_dir, &error))?;
        let path = socket.path().to_owned();
        let mut served = Self { operators: None, address: None, socket: path, tasks: Vec::new() };
        if let (Some(address), Some(tls)) = (address, tls) {
            let operators = Arc::new(Operators::new(tls));
            let cannot = |error: io::Error| cannot_listen(address, &error);
            let listener = Listener::bind(address, Arc::clone(&operators)).await.map_err(cannot)?;
            served.address = Some(listener.address()?);
            served.operators = Some(operators);
            served.tasks.push(tokio::spawn(listener.run(Arc::clone(&api))));
        }
        served.tasks.push(tokio::spawn(socket.run(api)));
        Ok(served)
    }

    /// Where operators are served over TLS.
    #[must_use]
    pub const fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// The Unix socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Judges operators by what a reload made.
    pub fn replace(&self, tls: Option<Tls>) {
        if let (Some(operators), Some(tls)) = (&self.operators, tls) {
            operators.replace(tls);
        }
    }

    /// Takes no further connection, and removes the socket.
    pub async fn stop(&mut self) {
        for task in self.tasks.drain(..) {
            task.abort();
            // Over when its listener, and with it the socket's file, is gone.
            drop(task.await);
        }
    }
}

impl Drop for AdminApi {
    fn drop(&mut self) {
        // A gateway that could not start after all leaves nothing running.
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

fn no_socket(state_dir: &Path, error: &io::Error) -> Failure {
    let what = format!("cannot listen on {}: {error}", state_dir.join(socket::FILE).display());
    if error.kind() == io::ErrorKind::AddrInUse {
        Failure::with_hint(what, "a state directory belongs to one gateway: stop the other, or use another state_dir")
    } else {
        Failure::new(what)
    }
}

//! The admin API over TLS, for operators elsewhere: `[admin] api_address`.
//!
//! Invariant: a connection without a certificate of the built-in authority ends in the handshake.
//! No external authority makes operators, and no other role's certificate does.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls_pki_types::CertificateDer;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use crate::admin::api::problem::Refusal;
use crate::admin::api::{Api, Peer, serve};
use crate::domain::identity::Role;
use crate::gate::View;
use crate::gate::arrival::Admission;
use crate::manage::fault::{Code, Fault};
use crate::tls::verify::CallerVerifier;

const HANDSHAKE: Duration = Duration::from_secs(5);
/// Strangers can hold these and no others.
const MAX_HANDSHAKES: u32 = 64;
/// From one address (IPv6: one /64), so that one stranger cannot hold them all.
const MAX_HANDSHAKES_PER_ADDRESS: u32 = 8;
const MAX_CONNECTIONS: usize = 64;
/// Connections with certificates of the authority that are no operator's. They are told so, and
/// cannot take the operators' places meanwhile.
const MAX_OTHERS: usize = 16;
const OTHERS: Duration = Duration::from_secs(10);

/// Who operators are, and how the listener shows itself to them.
#[derive(Debug)]
pub struct Tls {
    /// Verifies certificates of the built-in authority, and of no other.
    pub verifier: Arc<CallerVerifier>,
    /// TLS 1.3 with that verifier.
    pub config: Arc<ServerConfig>,
}

/// Judges certificates by what is in force now.
pub struct Operators(ArcSwap<Tls>);

impl fmt::Debug for Operators {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Operators").field(&self.0.load().verifier).finish()
    }
}

impl Operators {
    /// Begins with `tls`.
    #[must_use]
    pub fn new(tls: Tls) -> Self {
        Self(ArcSwap::from_pointee(tls))
    }

    /// Takes over what a reload made.
    pub fn replace(&self, tls: Tls) {
        self.0.store(Arc::new(tls));
    }

    /// The operator that `chain` names, when it is good now.
    pub(super) fn identify(&self, chain: &[CertificateDer<'_>], view: &View) -> Result<String, Refusal> {
        // The verifier looks at the time again, whatever it remembers.
        let peer =
            self.0.load().verifier.identify(chain).ok_or(Refusal::NotAnOperator("it is not good, or has ended"))?;
        match peer.identity.role() {
            Role::Operator => {}
            Role::Client | Role::Connector => return Err(Refusal::NotAnOperator("it is of another role")),
        }
        if view.snapshot.denies(&peer) {
            return Err(Refusal::NotAnOperator("it is revoked"));
        }
        if view.stale {
            // Nobody knows who is revoked by now.
            return Err(Fault::new(Code::StoreUnavailable, "the store cannot be read").into());
        }
        Ok(peer.identity.to_string())
    }
}

/// The listener, bound and not yet serving.
#[derive(Debug)]
pub struct Listener {
    listener: TcpListener,
    operators: Arc<Operators>,
}

impl Listener {
    /// Binds `address`.
    ///
    /// # Errors
    ///
    /// When it cannot be bound.
    pub async fn bind(address: SocketAddr, operators: Arc<Operators>) -> io::Result<Self> {
        Ok(Self { listener: TcpListener::bind(address).await?, operators })
    }

    /// Where it listens.
    ///
    /// # Errors
    ///
    /// When the socket does not say.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until its task is ended.
    pub async fn run(self, api: Arc<Api>) {
        let handshakes = Arc::new(Admission::new(MAX_HANDSHAKES, MAX_HANDSHAKES_PER_ADDRESS));
        let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let others = Arc::new(Semaphore::new(MAX_OTHERS));
        loop {
            let (socket, address) = match self.listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    serve::pause("api_address", &error).await;
                    continue;
                }
            };
            // Who finds no place is closed at once: waiting strangers would stand before operators.
            let Some(handshaking) = handshakes.enter_from(address.ip().to_canonical()) else { continue };
            let (api, operators) = (Arc::clone(&api), Arc::clone(&self.operators));
            let (connections, others) = (Arc::clone(&connections), Arc::clone(&others));
            tokio::spawn(async move {
                // A stranger's handshake that fails is no news.
                let Ok(Ok(shaken)) = timeout(HANDSHAKE, handshake(socket, address, operators)).await else { return };
                drop(handshaking);
                let (peer, stream, http2) = shaken;
                let is_operator = api.identify(&peer).is_ok();
                let (places, life) = if is_operator { (connections, serve::LIFE) } else { (others, OTHERS) };
                let Ok(_place) = places.try_acquire() else { return };
                serve::connection(api, peer, stream, http2, life).await;
            });
        }
    }
}

type Stream = tokio_rustls::server::TlsStream<TcpStream>;

async fn handshake(
    socket: TcpStream,
    address: SocketAddr,
    operators: Arc<Operators>,
) -> io::Result<(Peer, Stream, bool)> {
    socket.set_nodelay(true)?;
    let local = socket.local_addr()?.ip().to_canonical();
    let config = Arc::clone(&operators.0.load().config);
    let stream = TlsAcceptor::from(config).accept(socket).await?;
    let session = stream.get_ref().1;
    let chain = session.peer_certificates().unwrap_or_default().iter().map(|der| der.clone().into_owned()).collect();
    let http2 = session.alpn_protocol() == Some(b"h2");
    Ok((Peer::Remote { operators, chain, address: address.ip().to_canonical(), local }, stream, http2))
}

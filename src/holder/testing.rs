//! A gateway's desk as tests want it: real TLS, a real authority, and any answer.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::ca::authority::Authority;
use crate::ca::bundle::{Bundle, BundleId, BundleSecret, RootPin};
use crate::ca::csr;
use crate::ca::exchange::{EnrollRequest, Granted, RenewRequest};
use crate::clock::Clock;
use crate::domain::gateway_address::{GatewayAddress, GatewayName, HostName};
use crate::domain::identity::{IdentityName, Role, TrustDomain};
use crate::domain::timestamp::Timestamp;
use crate::holder::chance::Chance;
use crate::holder::files::Place;
use crate::holder::join::join;
use crate::holder::keeper::Options;
use crate::holder::origin::Origin;
use crate::holder::reach::Reach;
use crate::tls::provider::provider;

pub(super) const ENROLL_NAME: &str = "enroll.test";

/// What a desk got.
#[derive(Clone, Default, Debug)]
pub(super) struct Seen {
    /// Every byte that came, as it came.
    pub(super) raw: Vec<u8>,
    /// What came through TLS.
    pub(super) request: Vec<u8>,
    /// The client's certificate.
    pub(super) certificate: Option<CertificateDer<'static>>,
}

impl Seen {
    pub(super) fn line(&self) -> String {
        let text = String::from_utf8_lossy(&self.request);
        text.lines().next().unwrap_or_default().to_owned()
    }

    pub(super) fn body(&self) -> &[u8] {
        let at = self.request.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
        &self.request[at + 4..]
    }
}

/// What a desk answers.
pub(super) enum Reply {
    Granted(Granted),
    Status(u16, String),
    /// Closes the connection.
    Nothing,
}

type Script = Box<dyn Fn(&Seen, Timestamp) -> Reply + Send + Sync>;

/// A hand-made gateway.
pub(super) struct Desk {
    pub(super) address: GatewayAddress,
    shared: Arc<Shared>,
}

struct Shared {
    seen: Mutex<Vec<Seen>>,
    script: Mutex<Script>,
    clock: Clock,
}

impl Desk {
    /// Shows `chain` (leaf first) and does as `script` says.
    pub(super) async fn start(house: &House, script: Script) -> Self {
        let (mut chain, key) = house.authority.issue_server(&[ENROLL_NAME], house.clock.now()).unwrap();
        chain.extend(house.authority.roots());
        Self::with(house, chain, key, script).await
    }

    pub(super) async fn with(
        house: &House,
        chain: Vec<CertificateDer<'static>>,
        key: rustls_pki_types::PrivateKeyDer<'static>,
        script: Script,
    ) -> Self {
        let mut roots = RootCertStore::empty();
        for root in house.authority.anchors() {
            roots.add(root).unwrap();
        }
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
            .allow_unauthenticated()
            .build()
            .unwrap();
        let config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = GatewayAddress::parse(&listener.local_addr().unwrap().to_string()).unwrap();
        let shared =
            Arc::new(Shared { seen: Mutex::default(), script: Mutex::new(script), clock: house.clock.clone() });
        tokio::spawn(accept(listener, TlsAcceptor::from(Arc::new(config)), Arc::clone(&shared)));
        Self { address, shared }
    }

    /// From now on it answers otherwise.
    pub(super) fn answer(&self, script: Script) {
        *self.shared.script.lock().unwrap() = script;
    }

    /// One entry for each connection.
    pub(super) fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().unwrap().clone()
    }
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, shared: Arc<Shared>) {
    while let Ok((socket, _)) = listener.accept().await {
        let index = {
            let mut seen = shared.seen.lock().unwrap();
            seen.push(Seen::default());
            seen.len() - 1
        };
        let (acceptor, shared) = (acceptor.clone(), Arc::clone(&shared));
        tokio::spawn(async move {
            let tap = Tap { socket, shared: Arc::clone(&shared), index };
            let Ok(mut stream) = acceptor.accept(tap).await else { return };
            let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first()).cloned();
            shared.seen.lock().unwrap()[index].certificate = certificate.map(CertificateDer::into_owned);
            let Some(seen) = read_request(&mut stream, &shared, index).await else { return };
            let reply = (shared.script.lock().unwrap())(&seen, shared.clock.now());
            let (status, body) = match reply {
                Reply::Granted(granted) => (201, serde_json::to_string(&granted).unwrap()),
                Reply::Status(status, body) => (status, body),
                Reply::Nothing => return,
            };
            let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n", body.len());
            let _ = stream.write_all(format!("{head}{body}").as_bytes()).await.is_ok();
            let _ = stream.flush().await.is_ok();
        });
    }
}

async fn read_request<S: AsyncRead + Unpin>(stream: &mut S, shared: &Shared, index: usize) -> Option<Seen> {
    loop {
        let mut piece = [0; 4096];
        let count = stream.read(&mut piece).await.ok().filter(|count| *count > 0)?;
        let seen = {
            let mut all = shared.seen.lock().unwrap();
            all[index].request.extend_from_slice(&piece[..count]);
            all[index].clone()
        };
        let text = String::from_utf8_lossy(&seen.request).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length =
            head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok()).unwrap_or(0usize);
        if body.len() >= length {
            return Some(seen);
        }
    }
}

/// Keeps a copy of what comes in.
struct Tap {
    socket: TcpStream,
    shared: Arc<Shared>,
    index: usize,
}

impl AsyncRead for Tap {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = out.filled().len();
        let polled = Pin::new(&mut self.socket).poll_read(context, out);
        let index = self.index;
        self.shared.seen.lock().unwrap()[index].raw.extend_from_slice(&out.filled()[before..]);
        polled
    }
}

impl AsyncWrite for Tap {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(context)
    }
}

/// An authority in a directory of its own, and a place for a holder's files beside it.
pub(super) struct House {
    pub(super) dir: TempDir,
    pub(super) authority: Arc<Authority>,
    /// Stands until it is moved; begins at the time of now, which the hand-made gateway goes by.
    pub(super) clock: Clock,
}

impl House {
    pub(super) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clock = Clock::manual(Clock::System.now());
        let domain = TrustDomain::parse("corp.test").unwrap();
        let authority = Authority::init(&dir.path().join("ca"), &domain, clock.now()).unwrap();
        Self { dir, authority: Arc::new(authority), clock }
    }

    pub(super) fn place(&self) -> Place {
        Place::new(&self.dir.path().join("holder"), &IdentityName::parse("alice").unwrap())
    }

    /// What a good gateway answers.
    pub(super) fn grants(&self) -> Script {
        let authority = Arc::clone(&self.authority);
        Box::new(move |seen, now| Reply::Granted(grant(&authority, &request_of(seen), (Role::Client, "alice"), now)))
    }

    pub(super) fn bundle(&self, addresses: Vec<GatewayAddress>) -> Bundle {
        Bundle {
            addresses,
            enroll: HostName::parse(ENROLL_NAME).unwrap(),
            connect: Some(HostName::parse("connect.test").unwrap()),
            api: GatewayName::parse("llm.test").unwrap(),
            pin: RootPin::of(self.authority.root()),
            id: BundleId::from_random([0xab; 8]),
            secret: BundleSecret::from_random([7; 32]),
            role: Role::Client,
            name: IdentityName::parse("alice").unwrap(),
            expires_at: self.clock.now().after(Duration::from_secs(900)),
        }
    }

    /// An identity that was got from a desk, for a day.
    pub(super) async fn joined(&self, desk: &Desk) -> Place {
        let bundle = self.bundle(vec![desk.address.clone()]);
        join(&bundle, self.place(), &Reach::default(), &self.clock).await.unwrap().place
    }

    pub(super) fn options(&self, desk: &Desk) -> Options {
        Options {
            origin: Some(self.origin(desk)),
            reach: Reach::default(),
            clock: self.clock.clone(),
            chance: Chance::Fixed(u32::MAX),
        }
    }

    pub(super) fn origin(&self, desk: &Desk) -> Origin {
        Origin::of(&self.bundle(vec![desk.address.clone()]))
    }
}

/// The public key that a request asks to be certified.
pub(super) fn request_of(seen: &Seen) -> Vec<u8> {
    let body = seen.body();
    let csr = match EnrollRequest::parse(body) {
        Ok(request) => request.csr,
        Err(_) => RenewRequest::parse(body).unwrap().csr,
    };
    csr::public_key(csr.as_bytes()).unwrap()
}

/// A certificate of an authority for a day.
pub(super) fn grant(authority: &Authority, spki: &[u8], (role, name): (Role, &str), now: Timestamp) -> Granted {
    let plan = authority.plan_client(role, &IdentityName::parse(name).unwrap(), None, now).unwrap();
    let issued = authority.issue_client(&plan, spki, None).unwrap();
    Granted { certificate: issued.pem, ca: authority.bundle_pem().to_owned() }
}

/// An address where nobody listens.
pub(super) async fn dead_address() -> GatewayAddress {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    GatewayAddress::parse(&listener.local_addr().unwrap().to_string()).unwrap()
}

pub(super) fn leaf(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
}

//! A closed site: a connector in this process; and a gateway made by hand, to say to it what no real
//! gateway says.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use doorward::clock::Clock;
use doorward::config::{GatewayAt, parse_connector};
use doorward::domain::gateway_address::{GatewayAddress, HostName};
use doorward::holder::credentials::Credentials;
use doorward::holder::files::Place;
use doorward::holder::reach::{ProxyUrl, Reach};
use doorward::overlay::agent::{Agent, Changes, Identity, Settings};
use doorward::overlay::protocol::lines::Lines;
use doorward::tls::server::provider;
use futures_util::FutureExt;
use h2::client::SendRequest;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy, duplex, split};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::world::Prepared;
use super::{LONG, within};

/// A connector, with the end by which it is given new certificates.
pub(crate) struct RealConnector {
    pub(crate) agent: Agent,
    pub(crate) identity: watch::Sender<Identity>,
}

impl RealConnector {
    /// Starts a connector to `gateways`, one connection to each. `backends` are `[[backend]]`
    /// sections; `directory` holds its identity.
    pub(crate) fn start(gateways: &[SocketAddr], directory: &Path, backends: &str) -> Self {
        Self::start_with(gateways, directory, backends, Reach::default(), Clock::System)
    }

    /// The same, with so many connections to one gateway.
    pub(crate) fn with_links(gateway: SocketAddr, directory: &Path, backends: &str, connections: u32) -> Self {
        let settings = settings(&[gateway], connections, backends, Reach::default());
        Self::start_by(settings, directory, Clock::System)
    }

    pub(crate) fn by_proxy(proxy: SocketAddr, gateway: SocketAddr, directory: &Path, backends: &str) -> Self {
        let reach = Reach { proxy: Some(ProxyUrl::parse(&format!("http://{proxy}")).unwrap()) };
        Self::start_with(&[gateway], directory, backends, reach, Clock::System)
    }

    /// The same with more than one of these.
    pub(crate) fn start_with(
        gateways: &[SocketAddr],
        directory: &Path,
        backends: &str,
        reach: Reach,
        clock: Clock,
    ) -> Self {
        Self::start_by(settings(gateways, 1, backends, reach), directory, clock)
    }

    fn start_by(settings: Settings, directory: &Path, clock: Clock) -> Self {
        let (identity, current) = watch::channel(Self::identity(directory));
        Self { agent: Agent::start(settings, clock, current).unwrap(), identity }
    }

    /// Has it go by another config.
    pub(crate) fn reload(&mut self, gateways: &[SocketAddr], connections: u32, backends: &str) -> Changes {
        self.agent.reload(settings(gateways, connections, backends, Reach::default())).unwrap()
    }

    /// The identity in a directory.
    pub(crate) fn identity(directory: &Path) -> Identity {
        let credentials = Credentials::load(&Place::only(directory).unwrap(), &Clock::System).unwrap();
        Identity::of(&credentials).unwrap()
    }
}

fn settings(gateways: &[SocketAddr], connections: u32, backends: &str, reach: Reach) -> Settings {
    let config = parse_connector(backends, Path::new("/nowhere/connector.toml"), &|_| None);
    let config = config.unwrap_or_else(|problems| panic!("{problems:#?}"));
    let addresses = gateways.iter().map(|address| GatewayAddress::parse(&address.to_string()).unwrap()).collect();
    let name = HostName::parse("connect.test").unwrap();
    let gateway = GatewayAt { addresses, name, connections };
    Settings { gateway, reach, backends: config.backends, drain: config.drain }
}

/// A gateway that says what the test has it say.
pub(crate) struct HandGateway {
    listener: TcpListener,
    acceptor: TlsAcceptor,
    pub(crate) address: SocketAddr,
}

impl HandGateway {
    /// One whose certificate is good for connectors.
    pub(crate) async fn new(files: &Prepared) -> Self {
        Self::with(files, "connect.test", b"doorward-connector/1").await
    }

    pub(crate) async fn with(files: &Prepared, name: &str, alpn: &[u8]) -> Self {
        let (chain, key) = files.authority.issue_server(&[name], files.clock.now()).unwrap();
        let mut roots = RootCertStore::empty();
        files.authority.roots().into_iter().for_each(|root| roots.add(root).unwrap());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider()).build().unwrap();
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)
            .unwrap();
        config.alpn_protocols = if alpn.is_empty() { Vec::new() } else { vec![alpn.to_vec()] };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        Self { listener, acceptor: TlsAcceptor::from(Arc::new(config)), address }
    }

    /// The next connection, up to the connector's `register`.
    pub(crate) async fn accept(&self) -> Tunnel {
        within(LONG, "the connector dials", async {
            loop {
                let (socket, _) = self.listener.accept().await.unwrap();
                socket.set_nodelay(true).unwrap();
                // A connector that is stopped while it dials leaves half a handshake.
                let Ok(stream) = self.acceptor.accept(socket).await else { continue };
                assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"doorward-connector/1"[..]));
                let mut builder = h2::client::Builder::new();
                builder.initial_window_size(64 << 10).initial_connection_window_size(16 << 20);
                builder.max_local_error_reset_streams(None).data_frame_budget(64 << 20);
                let Ok((send, connection)) = builder.handshake(stream).await else { continue };
                let driver = tokio::spawn(async move { connection.await.map_err(|error| error.to_string()) });
                let mut tunnel = Tunnel { send, driver, control: None };
                tunnel.control = Some(tunnel.open_control().await);
                return tunnel;
            }
        })
        .await
    }

    /// The next connection, registered, on which the gateway never hears that the connector leaves.
    pub(crate) async fn deaf_to_farewells(&self) -> Tunnel {
        let (from_site, mut to_site) = split(self.secured().await);
        let (ours, theirs) = duplex(64 << 10);
        let (mut from_us, to_us) = split(theirs);
        tokio::spawn(async move { copy(&mut from_us, &mut to_site).await });
        tokio::spawn(without_farewells(from_site, to_us));
        let (send, connection) = h2::client::handshake(ours).await.unwrap();
        let driver = tokio::spawn(async move { connection.await.map_err(|error| error.to_string()) });
        let mut tunnel = Tunnel { send, driver, control: None };
        tunnel.control = Some(tunnel.open_control().await);
        tunnel.control().hear_of("register").await;
        tunnel.control().register().await;
        tunnel
    }

    /// The next connection, of which nothing is known but that it speaks TLS.
    pub(crate) async fn secured(&self) -> TlsStream<TcpStream> {
        within(LONG, "the connector dials", async {
            let (socket, _) = self.listener.accept().await.unwrap();
            self.acceptor.accept(socket).await.unwrap()
        })
        .await
    }

    /// The next connection, registered.
    pub(crate) async fn registered(&self) -> Tunnel {
        let mut tunnel = self.accept().await;
        let register = tunnel.control().hear_of("register").await;
        assert_eq!(register["protocol"], 1);
        tunnel.control().register().await;
        tunnel
    }

    /// Takes the next connection, and waits until the connector hangs up without a word of HTTP/2.
    pub(crate) async fn expect_hang_up(&self) {
        within(LONG, "the connector dials and hangs up", async {
            let (socket, _) = self.listener.accept().await.unwrap();
            if let Ok(mut stream) = self.acceptor.accept(socket).await {
                let mut bytes = Vec::new();
                // However it ends: with a close or a reset.
                let _ = stream.read_to_end(&mut bytes).await.is_ok();
                assert_eq!(bytes, b"");
            }
        })
        .await;
    }
}

/// Passes frames on, but for those that say that the sender leaves.
async fn without_farewells(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) -> io::Result<()> {
    const PING: u8 = 6;
    const GO_AWAY: u8 = 7;
    // The PING with which h2 asks whether its GOAWAY was heard.
    const IS_HEARD: &[u8] = &[0x0b, 0x7b, 0xa2, 0xf0, 0x8b, 0x9b, 0xfe, 0x54];
    loop {
        let mut frame = vec![0; 9];
        from.read_exact(&mut frame).await?;
        let length = usize::from(frame[0]) << 16 | usize::from(frame[1]) << 8 | usize::from(frame[2]);
        frame.resize(9 + length, 0);
        from.read_exact(&mut frame[9..]).await?;
        if frame[3] != GO_AWAY && (frame[3] != PING || &frame[9..] != IS_HEARD) {
            to.write_all(&frame).await?;
        }
    }
}

/// The gateway's end of a tunnel.
pub(crate) struct Tunnel {
    send: SendRequest<Bytes>,
    pub(crate) driver: JoinHandle<Result<(), String>>,
    control: Option<Control>,
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// The gateway's end of the control stream.
pub(crate) struct Control {
    pub(crate) send: SendStream<Bytes>,
    receive: RecvStream,
    lines: Lines,
    heard: VecDeque<Value>,
}

impl Tunnel {
    pub(crate) fn control(&mut self) -> &mut Control {
        self.control.as_mut().unwrap()
    }

    async fn open_control(&mut self) -> Control {
        let request = Request::post("https://connect.test/.doorward/v1/control").body(()).unwrap();
        let mut ready = self.send.clone().ready().await.unwrap();
        let (response, send) = ready.send_request(request, false).unwrap();
        let response = response.await.unwrap();
        assert_eq!(response.status(), 200);
        Control { send, receive: response.into_body(), lines: Lines::default(), heard: VecDeque::new() }
    }

    /// Sends a request as it is. What is given is the reply's head with its body, and the rest of
    /// the request.
    pub(crate) async fn send(
        &mut self,
        request: Request<()>,
        body: &str,
    ) -> Result<(Response<RecvStream>, SendStream<Bytes>), h2::Error> {
        let mut ready = self.send.clone().ready().await?;
        let (response, mut send) = ready.send_request(request, false)?;
        send.send_data(Bytes::copy_from_slice(body.as_bytes()), true)?;
        let response = within(LONG, "the connector answers", response).await?;
        Ok((response, send))
    }

    /// Begins a request and does not wait for its reply.
    pub(crate) async fn begin(
        &mut self,
        request: Request<()>,
        ended: bool,
    ) -> (h2::client::ResponseFuture, SendStream<Bytes>) {
        let mut ready = self.send.clone().ready().await.unwrap();
        ready.send_request(request, ended).unwrap()
    }

    /// A chat with the backend `name`, as a gateway asks for it.
    pub(crate) fn chat(name: &str, length: usize) -> Request<()> {
        Request::post(format!("https://{name}/v1/chat/completions"))
            .header("content-type", "application/json")
            .header("content-length", length)
            .body(())
            .unwrap()
    }
}

impl Control {
    /// The next object that the connector sends.
    pub(crate) async fn hear(&mut self) -> Value {
        within(LONG, "the connector says something", async {
            loop {
                if let Some(value) = self.heard.pop_front() {
                    return value;
                }
                let data = poll_fn(|context| self.receive.poll_data(context)).await.unwrap().unwrap();
                self.receive.flow_control().release_capacity(data.len()).unwrap();
                self.lines.push(&data);
                while let Some(line) = self.lines.next_line().unwrap() {
                    self.heard.push_back(serde_json::from_slice(&line).unwrap());
                }
            }
        })
        .await
    }

    /// The next object of this type.
    pub(crate) async fn hear_of(&mut self, kind: &str) -> Value {
        loop {
            let heard = self.hear().await;
            if heard["type"] == kind {
                return heard;
            }
        }
    }

    /// True when no object of this type is among those that were heard and not asked for yet.
    pub(crate) fn has_not_said(&mut self, kind: &str) -> bool {
        // What has come already is taken now.
        while let Some(Some(Ok(data))) = poll_fn(|context| self.receive.poll_data(context)).now_or_never() {
            self.receive.flow_control().release_capacity(data.len()).unwrap();
            self.lines.push(&data);
            while let Some(line) = self.lines.next_line().unwrap() {
                self.heard.push_back(serde_json::from_slice(&line).unwrap());
            }
        }
        self.heard.iter().all(|heard| heard["type"] != kind)
    }

    /// Waits until the connector has said that a backend is in this state.
    pub(crate) async fn hear_health(&mut self, backend: &str, state: &str) {
        loop {
            let health = self.hear_of("health").await;
            if health["backend"] == backend && health["state"] == state {
                return;
            }
        }
    }

    /// Says something.
    pub(crate) fn say(&mut self, value: &Value) {
        self.say_text(&format!("{value}\n"));
    }

    pub(crate) fn say_text(&mut self, text: &str) {
        self.send.send_data(Bytes::copy_from_slice(text.as_bytes()), false).unwrap();
    }

    pub(crate) async fn register(&mut self) {
        let name =
            json!({"type": "registered", "accepted": ["a"], "refused": [], "server_time": "2026-01-01T00:00:00Z"});
        self.say(&name);
        // Heard is not yet done; what follows in a test is.
        tokio::task::yield_now().await;
    }
}

/// The rest of a body with its trailers; the error when it does not end well.
pub(crate) async fn unread(mut body: RecvStream) -> Result<(String, HeaderMap), h2::Error> {
    within(LONG, "a body ends", async {
        let mut text = Vec::new();
        while let Some(data) = poll_fn(|context| body.poll_data(context)).await {
            let data = data?;
            body.flow_control().release_capacity(data.len())?;
            text.extend_from_slice(&data);
        }
        let trailers = poll_fn(|context| body.poll_trailers(context)).await?;
        Ok((String::from_utf8(text).unwrap(), trailers.unwrap_or_default()))
    })
    .await
}

//! Callers: HTTP/1.1 and HTTP/2 over TLS, with what credentials they are given.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use doorward::tls::server::provider;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{CHAT, Issued, Key, LONG, RawLine, World, within};

/// What a request carries.
pub(crate) type Body = BoxBody<Bytes, std::io::Error>;

/// A certificate chain with its key.
pub(crate) struct Leaf {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: PrivateKeyDer<'static>,
}

impl Leaf {
    pub(crate) const fn new(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Self {
        Self { chain, key }
    }
}

impl Clone for Leaf {
    fn clone(&self) -> Self {
        Self { chain: self.chain.clone(), key: self.key.clone_key() }
    }
}

/// Somebody who calls.
#[derive(Clone)]
pub(crate) struct Caller {
    address: SocketAddr,
    /// The server name to ask for; an address asks for none.
    name: String,
    roots: Vec<CertificateDer<'static>>,
    leaf: Option<Leaf>,
    headers: HeaderMap,
    /// Where it calls from, on a machine with several addresses.
    source: Option<IpAddr>,
    /// What is sent before TLS begins.
    preface: Vec<u8>,
    /// Room for what comes and is not read, in bytes.
    room: Option<u32>,
    /// How long the head of an answer may take.
    patience: Duration,
}

impl Caller {
    pub(crate) fn new(address: SocketAddr, roots: Vec<CertificateDer<'static>>) -> Self {
        Self {
            address,
            name: "llm.test".to_owned(),
            roots,
            leaf: None,
            headers: HeaderMap::new(),
            source: None,
            preface: Vec::new(),
            room: None,
            patience: LONG,
        }
    }

    pub(crate) fn named(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }

    /// Connects to another address: that of a proxy.
    pub(crate) const fn through(mut self, proxy: SocketAddr) -> Self {
        self.address = proxy;
        self
    }

    /// Calls from this address, and to the gateway's own in the same family.
    pub(crate) const fn calling_from(mut self, source: IpAddr) -> Self {
        self.source = Some(source);
        self
    }

    /// Sends these bytes before TLS begins.
    pub(crate) fn announced(mut self, preface: impl Into<Vec<u8>>) -> Self {
        self.preface = preface.into();
        self
    }

    /// Takes in little that it does not read.
    pub(crate) const fn cramped(mut self) -> Self {
        self.room = Some(4096);
        self
    }

    /// Waits for so long for the head of an answer.
    pub(crate) const fn patient(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    pub(crate) fn certificate(self, issued: &Issued) -> Self {
        self.leaf(&issued.leaf)
    }

    pub(crate) fn leaf(mut self, leaf: &Leaf) -> Self {
        self.leaf = Some(leaf.clone());
        self
    }

    pub(crate) fn key(self, key: &Key) -> Self {
        let bearer = format!("Bearer {}", key.text);
        self.header("authorization", &bearer)
    }

    /// A header of every request.
    pub(crate) fn header(self, name: &str, value: &str) -> Self {
        self.header_bytes(name, value.as_bytes())
    }

    /// The same, with a value that need not be text.
    pub(crate) fn header_bytes(mut self, name: &str, value: &[u8]) -> Self {
        self.headers.append(HeaderName::try_from(name).unwrap(), HeaderValue::from_bytes(value).unwrap());
        self
    }

    /// How it speaks TLS.
    pub(crate) fn config(&self, alpn: &[&str]) -> ClientConfig {
        self.config_of(&[&TLS13, &TLS12], alpn)
    }

    /// The same, in these versions of TLS only.
    pub(crate) fn config_of(&self, versions: &[&'static SupportedProtocolVersion], alpn: &[&str]) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        for root in &self.roots {
            roots.add(root.clone()).unwrap();
        }
        let builder = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match self.leaf.clone() {
            None => builder.with_no_client_auth(),
            Some(Leaf { chain, key }) => builder.with_client_auth_cert(chain, key).unwrap(),
        };
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        config
    }

    /// A TLS connection.
    pub(crate) async fn tls(&self, alpn: &[&str]) -> std::io::Result<TlsStream<TcpStream>> {
        self.tls_with(Arc::new(self.config(alpn))).await
    }

    pub(crate) async fn tls_with(&self, config: Arc<ClientConfig>) -> std::io::Result<TlsStream<TcpStream>> {
        let mut socket = self.tcp().await?;
        socket.write_all(&self.preface).await?;
        let name = ServerName::try_from(self.name.clone()).unwrap();
        within(LONG, "the handshake ends", TlsConnector::from(config).connect(name, socket)).await
    }

    /// A connection on which nothing was sent yet.
    pub(crate) async fn tcp(&self) -> std::io::Result<TcpStream> {
        let gateway = match self.source {
            None => self.address.ip(),
            Some(IpAddr::V4(_)) => Ipv4Addr::LOCALHOST.into(),
            Some(IpAddr::V6(_)) => Ipv6Addr::LOCALHOST.into(),
        };
        let socket = if gateway.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        if let Some(source) = self.source {
            socket.bind(SocketAddr::new(source, 0))?;
        }
        if let Some(room) = self.room {
            socket.set_recv_buffer_size(room)?;
        }
        let socket = socket.connect(SocketAddr::new(gateway, self.address.port())).await?;
        socket.set_nodelay(true)?;
        Ok(socket)
    }

    /// An HTTP/1.1 connection.
    pub(crate) async fn h1(&self) -> Line {
        let stream = self.tls(&["http/1.1"]).await.unwrap();
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Line { sender: Sender::H1(sender), caller: self.clone() }
    }

    /// An HTTP/2 connection.
    pub(crate) async fn h2(&self) -> Line {
        let stream = self.tls(&["h2"]).await.unwrap();
        let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Line { sender: Sender::H2(sender), caller: self.clone() }
    }

    /// An HTTP/1.1 connection over a Unix socket, without TLS.
    pub(crate) async fn unix(&self, path: &Path) -> Line {
        let stream = UnixStream::connect(path).await.unwrap();
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Line { sender: Sender::H1(sender), caller: self.clone() }
    }

    /// One connection of each kind.
    pub(crate) async fn both(&self) -> [Line; 2] {
        [self.h1().await, self.h2().await]
    }

    /// An HTTP/1.1 connection for bytes of the test's choosing.
    pub(crate) async fn raw(&self) -> RawLine {
        RawLine::new(self.tls(&["http/1.1"]).await.unwrap())
    }

    /// Posts JSON over a new HTTP/1.1 connection.
    pub(crate) async fn post(&self, path: &str, body: &str) -> Whole {
        self.h1().await.post(path, body).await
    }

    /// Asks for a chat over a new HTTP/1.1 connection.
    pub(crate) async fn chat(&self, body: &str) -> Whole {
        self.post(CHAT, body).await
    }
}

/// An open connection.
pub(crate) struct Line {
    sender: Sender,
    caller: Caller,
}

enum Sender {
    H1(http1::SendRequest<Body>),
    H2(http2::SendRequest<Body>),
}

impl Line {
    pub(crate) const fn is_h2(&self) -> bool {
        matches!(self.sender, Sender::H2(_))
    }

    /// Another request's place on the same HTTP/2 connection.
    pub(crate) fn stream(&self) -> Self {
        match &self.sender {
            Sender::H2(sender) => Self { sender: Sender::H2(sender.clone()), caller: self.caller.clone() },
            Sender::H1(_) => panic!("one request at a time"),
        }
    }

    /// A request of this caller.
    pub(crate) fn request(&self, method: Method, path: &str, body: Body) -> Request<Body> {
        let name = &self.caller.name;
        let target = if self.is_h2() { format!("https://{name}{path}") } else { path.to_owned() };
        let mut request = Request::builder().method(method).uri(target).body(body).unwrap();
        *request.headers_mut() = self.caller.headers.clone();
        if !self.is_h2() {
            request.headers_mut().insert("host", HeaderValue::from_str(name).unwrap());
        }
        request
    }

    /// A request with a JSON body.
    pub(crate) fn json(&self, path: &str, body: &str) -> Request<Body> {
        let mut request = self.request(Method::POST, path, full(body));
        request.headers_mut().entry("content-type").or_insert(HeaderValue::from_static("application/json"));
        request
    }

    /// Sends a request and waits for the head of the reply.
    pub(crate) async fn send(&mut self, request: Request<Body>) -> hyper::Result<Response<Incoming>> {
        within(self.caller.patience, "the gateway answers", async {
            match &mut self.sender {
                Sender::H1(sender) => {
                    sender.ready().await?;
                    sender.send_request(request).await
                }
                Sender::H2(sender) => {
                    sender.ready().await?;
                    sender.send_request(request).await
                }
            }
        })
        .await
    }

    /// Begins to post JSON: the head of the reply is here, its body is not read.
    pub(crate) async fn begin(&mut self, path: &str, body: &str) -> Response<Incoming> {
        let request = self.json(path, body);
        self.send(request).await.unwrap()
    }

    pub(crate) async fn post(&mut self, path: &str, body: &str) -> Whole {
        Whole::of(self.begin(path, body).await).await
    }

    pub(crate) async fn chat(&mut self, body: &str) -> Whole {
        self.post(CHAT, body).await
    }

    pub(crate) async fn get(&mut self, path: &str) -> Whole {
        self.fetch(Method::GET, path).await
    }

    /// Sends a request with a JSON body, and waits for the whole answer.
    pub(crate) async fn ask(&mut self, method: Method, path: &str, body: &str) -> Whole {
        let mut request = self.json(path, body);
        *request.method_mut() = method;
        Whole::of(self.send(request).await.unwrap()).await
    }

    pub(crate) async fn fetch(&mut self, method: Method, path: &str) -> Whole {
        let request = self.request(method, path, full(""));
        Whole::of(self.send(request).await.unwrap()).await
    }

    /// True until the gateway has closed the connection.
    pub(crate) fn is_open(&self) -> bool {
        match &self.sender {
            Sender::H1(sender) => !sender.is_closed(),
            Sender::H2(sender) => !sender.is_closed(),
        }
    }
}

/// A body that is all there.
pub(crate) fn full(text: &str) -> Body {
    Full::new(Bytes::copy_from_slice(text.as_bytes())).map_err(|never| match never {}).boxed()
}

/// A whole answer, or as much of it as came before it broke off.
#[derive(Debug)]
pub(crate) struct Whole {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
    /// How the body broke off; `None` when it came to its end.
    pub(crate) broke: Option<String>,
}

impl Whole {
    pub(crate) async fn of(response: Response<Incoming>) -> Self {
        let (head, mut incoming) = response.into_parts();
        let (mut body, mut broke) = (Vec::new(), None);
        within(LONG, "the answer ends", async {
            while let Some(frame) = incoming.frame().await {
                match frame {
                    Ok(frame) => body.extend_from_slice(frame.data_ref().unwrap_or(&Bytes::new())),
                    Err(error) => {
                        broke = Some(format!("{error:?}"));
                        return;
                    }
                }
            }
        })
        .await;
        Self { status: head.status.as_u16(), headers: head.headers, body, broke }
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// The value of a header that comes once.
    #[track_caller]
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let values: Vec<_> = self.headers.get_all(name).iter().collect();
        assert!(values.len() <= 1, "{name} comes {} times", values.len());
        values.first().map(|value| value.to_str().unwrap())
    }

    pub(crate) fn request_id(&self) -> &str {
        self.header("x-request-id").unwrap()
    }

    /// It was whole, and a backend's.
    #[track_caller]
    pub(crate) fn assert_served(&self) {
        assert_eq!((self.status, &self.broke), (200, &None), "{}", String::from_utf8_lossy(&self.body));
        assert_eq!(self.header("x-doorward-origin"), None);
    }

    /// The gateway refused with this code, says so in the dialect's shape, and left the record of
    /// it, which is given.
    pub(crate) async fn assert_refused(&self, world: &World, status: u16, code: &str) -> Value {
        assert_eq!(self.broke, None);
        let text = String::from_utf8_lossy(&self.body).into_owned();
        let record = world.record(self.request_id()).await;
        assert_eq!((self.status, record["code"].as_str()), (status, Some(code)), "{text} {record}");
        assert_eq!(self.header("x-doorward-origin"), Some("gateway"));
        if let Some(said) = self.json().pointer("/error/code") {
            assert_eq!(said, code);
        }
        assert_eq!(record["outcome"], "refused", "{record}");
        assert_eq!(record["status"], status, "{record}");
        record
    }
}

/// An answer that is read as it comes.
pub(crate) struct Flow {
    pub(crate) head: http::response::Parts,
    incoming: Incoming,
    /// All that came so far.
    pub(crate) text: String,
}

impl Flow {
    pub(crate) fn of(response: Response<Incoming>) -> Self {
        let (head, incoming) = response.into_parts();
        Self { head, incoming, text: String::new() }
    }

    pub(crate) fn request_id(&self) -> String {
        self.head.headers["x-request-id"].to_str().unwrap().to_owned()
    }

    /// Reads until `mark` has come.
    #[track_caller]
    pub(crate) fn until(&mut self, mark: &str) -> impl Future<Output = ()> {
        let what = format!("{mark:?} comes");
        let wait = async move {
            while !self.text.contains(mark) {
                let frame = self.incoming.frame().await.unwrap_or_else(|| panic!("ended before {mark:?}"));
                self.take(&frame.unwrap_or_else(|error| panic!("{error:?} before {mark:?} in {:?}", self.text)));
            }
        };
        async move { within(LONG, &what, wait).await }
    }

    /// Reads the next piece.
    pub(crate) async fn more(&mut self) {
        let frame = within(LONG, "more comes", self.incoming.frame()).await.unwrap().unwrap();
        self.take(&frame);
    }

    /// Reads to the end; gives what came in all, and how it broke off if it did.
    #[track_caller]
    pub(crate) fn end(self) -> impl Future<Output = (String, Option<String>)> {
        self.end_within(LONG)
    }

    /// The same, when the end may take a while.
    #[track_caller]
    pub(crate) fn end_within(mut self, span: Duration) -> impl Future<Output = (String, Option<String>)> {
        within(span, "the answer ends", async move {
            while let Some(frame) = self.incoming.frame().await {
                match frame {
                    Ok(frame) => self.take(&frame),
                    Err(error) => return (self.text, Some(format!("{error:?}"))),
                }
            }
            (self.text, None)
        })
    }

    fn take(&mut self, frame: &Frame<Bytes>) {
        let bytes = frame.data_ref().unwrap();
        self.text.push_str(std::str::from_utf8(bytes).unwrap());
    }
}

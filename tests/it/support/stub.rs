//! A backend that does as it is told, faults included, and keeps every byte that it got.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio_rustls::TlsAcceptor;

use super::{LONG, within};

/// Answers a request by itself.
type Scripted = fn(&Seen) -> Vec<u8>;

/// A backend. What it has no script for, the test answers by hand: see [`Stub::next`].
pub(crate) struct Stub {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    exchanges: tokio::sync::Mutex<mpsc::Receiver<Exchange>>,
}

struct Shared {
    script: Option<Scripted>,
    seen: Mutex<Vec<Seen>>,
    connections: AtomicUsize,
    bytes: AtomicUsize,
    hand_over: mpsc::Sender<Exchange>,
}

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// Request line and headers, as bytes and in order.
    pub(crate) head: String,
    /// The body without its framing.
    pub(crate) body: Vec<u8>,
    /// Which connection it came over, counted from 1.
    pub(crate) connection: usize,
}

impl Seen {
    /// The request line.
    pub(crate) fn line(&self) -> &str {
        self.head.lines().next().unwrap_or_default()
    }

    /// All values of a header.
    pub(crate) fn values(&self, name: &str) -> Vec<&str> {
        let fields = self.head.lines().skip(1).filter_map(|line| line.split_once(':'));
        fields.filter(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).collect()
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Wire for T {}

/// Certificates for a backend that speaks TLS.
pub(crate) struct TlsFiles {
    pub(crate) config: Arc<ServerConfig>,
}

impl Stub {
    /// Leaves every request to the test.
    pub(crate) async fn by_hand() -> Self {
        Self::start(None, None).await
    }

    /// Answers every request with a whole chat completion.
    pub(crate) async fn chatty() -> Self {
        Self::start(Some(|_| json_reply(r#"{"object":"chat.completion","model":"org/llama-8b"}"#)), None).await
    }

    pub(crate) async fn scripted(script: Scripted) -> Self {
        Self::start(Some(script), None).await
    }

    pub(crate) async fn over_tls(script: Scripted, files: TlsFiles) -> Self {
        Self::start(Some(script), Some(files)).await
    }

    async fn start(script: Option<Scripted>, tls: Option<TlsFiles>) -> Self {
        Self::start_at(TcpListener::bind("127.0.0.1:0").await.unwrap(), script, tls)
    }

    /// Leaves every request that comes to this listener to the test.
    pub(crate) fn by_hand_at(listener: TcpListener) -> Self {
        Self::start_at(listener, None, None)
    }

    fn start_at(listener: TcpListener, script: Option<Scripted>, tls: Option<TlsFiles>) -> Self {
        let address = listener.local_addr().unwrap();
        let (hand_over, exchanges) = mpsc::channel(256);
        let shared = Arc::new(Shared {
            script,
            seen: Mutex::default(),
            connections: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            hand_over,
        });
        tokio::spawn(accept(listener, Arc::clone(&shared), tls.map(|files| TlsAcceptor::from(files.config))));
        Self { address, shared, exchanges: exchanges.into() }
    }

    /// The next request, to be answered by hand.
    #[track_caller]
    pub(crate) fn next(&self) -> impl Future<Output = Exchange> {
        within(LONG, "the backend gets a request", self.coming())
    }

    /// The same, whenever it comes.
    pub(crate) async fn coming(&self) -> Exchange {
        self.exchanges.lock().await.recv().await.unwrap()
    }

    /// All requests so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().unwrap().clone()
    }

    /// The one request that it got.
    pub(crate) fn only(&self) -> Seen {
        let mut seen = self.seen();
        assert_eq!(seen.len(), 1, "{seen:#?}");
        seen.remove(0)
    }

    /// Connections so far.
    pub(crate) fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// Nobody has even connected.
    #[track_caller]
    pub(crate) fn assert_untouched(&self) {
        assert_eq!(self.connections(), 0, "the backend saw {:#?}", self.seen());
        assert_eq!(self.shared.bytes.load(Ordering::SeqCst), 0);
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, tls: Option<TlsAcceptor>) {
    while let Ok((socket, _)) = listener.accept().await {
        let connection = shared.connections.fetch_add(1, Ordering::SeqCst) + 1;
        let (shared, tls) = (Arc::clone(&shared), tls.clone());
        tokio::spawn(async move {
            match tls {
                None => serve(Box::new(socket), &shared, connection).await,
                Some(tls) => {
                    if let Ok(stream) = tls.accept(socket).await {
                        serve(Box::new(stream), &shared, connection).await;
                    }
                }
            }
        });
    }
}

async fn serve(mut wire: Box<dyn Wire>, shared: &Arc<Shared>, connection: usize) {
    let mut buffer = Vec::new();
    while let Some(seen) = read_request(&mut wire, &mut buffer, shared, connection).await {
        // A connector's question how the backend is: nobody's request.
        if seen.line() == "GET /health HTTP/1.1" {
            if wire.write_all(&json_reply("{}")).await.is_err() {
                return;
            }
            continue;
        }
        shared.seen.lock().unwrap().push(seen.clone());
        if let Some(script) = shared.script {
            if wire.write_all(&script(&seen)).await.is_err() {
                return;
            }
            continue;
        }
        let (give_back, wait) = oneshot::channel();
        let exchange = Exchange { wire, give_back };
        if shared.hand_over.send(exchange).await.is_err() {
            return;
        }
        match wait.await {
            Ok(given_back) => wire = given_back,
            Err(_) => return,
        }
    }
}

async fn read_request(
    wire: &mut Box<dyn Wire>,
    buffer: &mut Vec<u8>,
    shared: &Shared,
    connection: usize,
) -> Option<Seen> {
    let head_end = loop {
        if let Some(at) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
        more(wire, buffer, shared).await?;
    };
    let head = String::from_utf8(buffer[..head_end].to_vec()).unwrap();
    let mut seen = Seen { head, body: Vec::new(), connection };
    assert!(seen.values("transfer-encoding").is_empty(), "bodies come with a length: {}", seen.head);
    let length: usize = seen.values("content-length").first().map_or(0, |length| length.parse().unwrap());
    while buffer.len() < head_end + length {
        more(wire, buffer, shared).await?;
    }
    seen.body = buffer[head_end..head_end + length].to_vec();
    buffer.drain(..head_end + length);
    Some(seen)
}

async fn more(wire: &mut Box<dyn Wire>, buffer: &mut Vec<u8>, shared: &Shared) -> Option<()> {
    let count = wire.read_buf(buffer).await.ok().filter(|count| *count > 0)?;
    shared.bytes.fetch_add(count, Ordering::SeqCst);
    Some(())
}

/// A request that waits for its reply. Dropped, the connection is closed.
pub(crate) struct Exchange {
    wire: Box<dyn Wire>,
    give_back: oneshot::Sender<Box<dyn Wire>>,
}

impl Exchange {
    /// Sends bytes as they are.
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).await.unwrap();
    }

    pub(crate) async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.wire.write_all(bytes.as_ref()).await?;
        self.wire.flush().await
    }

    /// Begins a chunked reply of this type.
    pub(crate) async fn begin(&mut self, content_type: &str) {
        self.send(format!("HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\nTransfer-Encoding: chunked\r\n\r\n"))
            .await;
    }

    /// Sends one chunk of a chunked reply.
    pub(crate) async fn chunk(&mut self, text: &str) {
        self.send(chunk(text)).await;
    }

    /// Ends a chunked reply, and takes further requests.
    pub(crate) async fn end(mut self) {
        self.send("0\r\n\r\n").await;
        self.keep();
    }

    /// Sends a whole reply, and takes further requests.
    pub(crate) async fn reply(mut self, bytes: impl AsRef<[u8]>) {
        self.send(bytes).await;
        self.keep();
    }

    /// Takes further requests over this connection.
    pub(crate) fn keep(self) {
        let Self { wire, give_back, .. } = self;
        assert!(give_back.send(wire).is_ok());
    }

    /// Sends chunks without end; gives the bytes that went out once the other side has taken none
    /// for `quiet`.
    pub(crate) async fn flood(&mut self, text: &str, quiet: Duration) -> usize {
        let piece = chunk(text).into_bytes();
        let mut sent = 0;
        while let Ok(written) = tokio::time::timeout(quiet, self.wire.write(&piece[sent % piece.len()..])).await {
            sent += written.unwrap();
        }
        sent
    }

    /// Waits until the other side has closed the connection, and gives how long that took.
    #[track_caller]
    pub(crate) fn closed(mut self) -> impl Future<Output = Duration> {
        let begun = tokio::time::Instant::now();
        within(LONG, "the gateway closes the connection to the backend", async move {
            let mut byte = [0; 1];
            // A reset is as good as an end.
            while self.wire.read(&mut byte).await.is_ok_and(|count| count > 0) {}
            begun.elapsed()
        })
    }
}

/// One chunk of the chunked coding.
pub(crate) fn chunk(text: &str) -> String {
    format!("{:x}\r\n{text}\r\n", text.len())
}

/// A whole reply with a length.
pub(crate) fn json_reply(body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}").into_bytes()
}

/// A port that nobody listens at.
pub(crate) async fn dead_port() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    assert!(TcpStream::connect(address).await.is_err());
    address
}

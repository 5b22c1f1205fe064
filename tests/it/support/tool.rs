//! A dial in this process, and tools that use it: plain HTTP, byte by byte.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use doorward::clock::Clock;
use doorward::config::{DialGateway, DialListen, Secret};
use doorward::domain::gateway_address::{GatewayAddress, GatewayName};
use doorward::domain::identity::{IdentityName, Role};
use doorward::domain::origin::Origins;
use doorward::holder::chance::Chance;
use doorward::holder::files::Place;
use doorward::holder::keeper::{Keeper, Options};
use doorward::holder::reach::Reach;
use doorward::overlay::dial::token::LocalToken;
use doorward::overlay::dial::{Bound, Dial, Endpoint, Settings};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::{LONG, World, within};

/// What a dial is made of. Every field can be changed before the start.
pub(crate) struct DialSetup {
    pub(crate) name: &'static str,
    pub(crate) ttl: Option<Duration>,
    pub(crate) addresses: Vec<SocketAddr>,
    pub(crate) server_name: &'static str,
    pub(crate) key: Option<String>,
    pub(crate) token: Option<&'static str>,
    pub(crate) reach: Reach,
    pub(crate) unix: bool,
    pub(crate) clock: Clock,
}

/// A dial. Ended when it is dropped.
pub(crate) struct Dialled {
    pub(crate) address: SocketAddr,
    pub(crate) socket: PathBuf,
    pub(crate) dir: TempDir,
    pub(crate) keeper: Arc<Keeper>,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl DialSetup {
    /// Towards a gateway, as `dialler`, without a token.
    pub(crate) fn new(world: &World) -> Self {
        Self {
            name: "dialler",
            ttl: None,
            addresses: vec![world.address()],
            server_name: "llm.test",
            key: None,
            token: None,
            reach: Reach::default(),
            unix: false,
            clock: world.clock.clone(),
        }
    }

    /// Issues its certificate and starts it.
    pub(crate) async fn start(self, world: &World) -> Dialled {
        let dir = tempfile::tempdir().unwrap();
        let name = IdentityName::parse(self.name).unwrap();
        world.issue(&world.authority, (Role::Client, &name, self.ttl), dir.path());
        let place = Place::new(dir.path(), &name);
        let options = Options { origin: None, reach: self.reach.clone(), clock: self.clock, chance: Chance::Fixed(0) };
        let keeper = Arc::new(Keeper::start(place, options).unwrap());
        let socket = dir.path().join("dial.sock");
        let listen = if self.unix {
            DialListen::Unix(socket.clone())
        } else {
            DialListen::Loopback("127.0.0.1:0".parse().unwrap())
        };
        let bound = Bound::bind(&listen).await.unwrap();
        let address = match bound.endpoint() {
            Endpoint::Loopback(address) => *address,
            Endpoint::Unix(_) => "127.0.0.1:1".parse().unwrap(),
        };
        let address_of = |address: &SocketAddr| GatewayAddress::parse(&address.to_string()).unwrap();
        let settings = Settings {
            gateway: DialGateway {
                addresses: self.addresses.iter().map(address_of).collect(),
                name: GatewayName::parse(self.server_name).unwrap(),
            },
            reach: self.reach,
            key: self.key.map(Secret::new),
            token: self.token.map(LocalToken::given),
            origins: Some(Origins::parse(&["http://localhost:3000"]).unwrap()),
        };
        let (stop, stopped) = oneshot::channel();
        let stopped = async {
            let _ = stopped.await.is_ok();
        };
        let dial = Arc::new(Dial::new(bound.endpoint(), settings, Arc::clone(&keeper)).unwrap());
        let task = tokio::spawn(bound.serve(dial, stopped));
        Dialled { address, socket, dir, keeper, stop: Some(stop), task }
    }
}

impl Drop for Dialled {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Dialled {
    /// A tool's connection.
    pub(crate) async fn tool(&self) -> Tool {
        Tool::to(self.address).await
    }

    /// Tells it to stop, and waits until it has.
    pub(crate) async fn stop(mut self) {
        drop(self.stop.take());
        within(LONG, "the dial stops", &mut self.task).await.unwrap();
    }

    /// One request over a connection of its own.
    pub(crate) async fn post(&self, path: &str, fields: &str, body: &str) -> Said {
        self.tool().await.post(path, fields, body).await
    }
}

/// A tool's connection.
pub(crate) struct Tool {
    pub(crate) stream: TcpStream,
    buffer: Vec<u8>,
    host: String,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Said {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("{self:?}"))
    }

    pub(crate) fn value(&self, name: &str) -> Option<&str> {
        let fields = self.head.lines().skip(1).filter_map(|line| line.split_once(':'));
        fields.filter(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).next()
    }
}

impl Tool {
    /// A connection to a dial.
    pub(crate) async fn to(address: SocketAddr) -> Self {
        Self { stream: TcpStream::connect(address).await.unwrap(), buffer: Vec::new(), host: address.to_string() }
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.unwrap();
    }

    /// A POST as tools make it; `fields` are more headers, each with its line's end.
    pub(crate) async fn begin(&mut self, path: &str, fields: &str, body: &str) {
        let (host, length) = (&self.host, body.len());
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n{fields}\r\n"
        );
        self.send(format!("{head}{body}")).await;
    }

    pub(crate) async fn post(&mut self, path: &str, fields: &str, body: &str) -> Said {
        self.begin(path, fields, body).await;
        self.answer().await
    }

    /// Everything up to and with `mark`.
    #[track_caller]
    pub(crate) fn until(&mut self, mark: &str) -> impl Future<Output = String> {
        let what = format!("{mark:?} comes");
        let wait = async move {
            loop {
                let found = self.buffer.windows(mark.len()).position(|window| window == mark.as_bytes());
                if let Some(at) = found {
                    return String::from_utf8(self.buffer.drain(..at + mark.len()).collect()).unwrap();
                }
                let count = self.stream.read_buf(&mut self.buffer).await.unwrap();
                assert!(count > 0, "the end came first, after {:?}", String::from_utf8_lossy(&self.buffer));
            }
        };
        async move { within(LONG, &what, wait).await }
    }

    /// The next answer, with a body of a known length or in chunks.
    pub(crate) async fn answer(&mut self) -> Said {
        let head = self.until("\r\n\r\n").await;
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let mut said = Said { status, head, body: String::new() };
        if said.value("transfer-encoding").is_some() {
            loop {
                let size = self.until("\r\n").await;
                let size = usize::from_str_radix(size.trim(), 16).unwrap();
                let data = self.exactly(size + 2).await;
                if size == 0 {
                    return said;
                }
                said.body.push_str(&data[..size]);
            }
        }
        let length = said.value("content-length").map_or(0, |length| length.parse().unwrap());
        said.body = self.exactly(length).await;
        said
    }

    async fn exactly(&mut self, length: usize) -> String {
        within(LONG, "the body comes", async {
            while self.buffer.len() < length {
                assert!(self.stream.read_buf(&mut self.buffer).await.unwrap() > 0, "the end came first");
            }
        })
        .await;
        String::from_utf8(self.buffer.drain(..length).collect()).unwrap()
    }

    /// What comes until the connection ends.
    pub(crate) async fn rest(&mut self) -> String {
        within(LONG, "the connection ends", async {
            let mut bytes = std::mem::take(&mut self.buffer);
            // A reset is an end too.
            let _ = self.stream.read_to_end(&mut bytes).await.is_ok();
            String::from_utf8_lossy(&bytes).into_owned()
        })
        .await
    }
}

//! A webhook over TLS that does as it is told, faults included, and keeps every message that it got.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_lc_rs::hmac;
use doorward::tls::server::provider;
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::ServerConfig;
use rustls_pki_types::PrivateKeyDer;
use serde_json::Value;
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::interval;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::{LONG, base64url, until};

/// What the secrets are made of: bytes whose base64 needs neither padding nor signs.
const SECRETS: [&[u8; 30]; 2] = [b"0123456789abcdefghijklmnopqrst", b"tsrqponmlkjihgfedcba9876543210"];

/// What a webhook does with a message.
#[derive(Clone)]
pub(crate) enum Play {
    /// Answers with these bytes.
    Answer(Answer),
    /// Sends so many bytes of an answer, and resets the connection.
    Cut(Answer, usize),
    /// Sends an answer byte by byte, with a pause before each.
    Drip(Answer, Duration),
    /// Reads the message and says nothing.
    Silence,
    /// Resets connections as soon as they are made.
    Slam,
    /// Takes connections and never says a word of TLS.
    Freeze,
    /// Speaks something else than TLS.
    Babble,
}

/// Makes an answer for a message: raw bytes, the head included.
pub(crate) type Answer = Arc<dyn Fn(&Message) -> Vec<u8> + Send + Sync>;

/// A message as it came.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
    pub(crate) json: Value,
}

impl Message {
    /// The one value of a header.
    #[track_caller]
    pub(crate) fn header(&self, name: &str) -> &str {
        let fields = self.head.lines().skip(1).filter_map(|line| line.split_once(": "));
        let values: Vec<_> =
            fields.filter(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value).collect();
        assert_eq!(values.len(), 1, "{name} in {}", self.head);
        values[0]
    }

    /// What it is, without what all types begin with.
    pub(crate) fn kind(&self) -> &str {
        self.json["type"].as_str().unwrap().strip_prefix("doorward.event.").unwrap()
    }

    /// Fails unless every secret of [`Hook::section`] has signed it, in their order.
    #[track_caller]
    pub(crate) fn assert_signed(&self) {
        let signed = [self.header("webhook-id"), ".", self.header("webhook-timestamp"), "."].concat();
        let signature = |secret: &[u8; 30]| {
            let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, secret));
            context.update(signed.as_bytes());
            context.update(&self.body);
            // 32 bytes: one character of padding.
            format!("v1,{}=", base64url(context.sign()).replace('-', "+").replace('_', "/"))
        };
        assert_eq!(self.header("webhook-signature"), SECRETS.map(signature).join(" "));
        assert!(!self.header("webhook-id").contains('.'));
    }
}

/// A webhook.
pub(crate) struct Hook {
    pub(crate) address: SocketAddr,
    /// The authority of its certificate, in PEM.
    pub(crate) ca: String,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    play: Mutex<Play>,
    seen: Mutex<Vec<Message>>,
    connections: AtomicUsize,
}

impl Hook {
    /// A webhook for 127.0.0.1.
    pub(crate) async fn start(play: Play) -> Self {
        Self::named("127.0.0.1", play).await
    }

    /// A webhook with a certificate for `name`.
    pub(crate) async fn named(name: &str, play: Play) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (config, ca) = certificate(name);
        let shared =
            Arc::new(Shared { play: Mutex::new(play), seen: Mutex::default(), connections: AtomicUsize::new(0) });
        let task = tokio::spawn(accept(listener, TlsAcceptor::from(config), Arc::clone(&shared)));
        Self { address, ca, shared, task }
    }

    /// Its section in the config, with the name of its file with [`Self::ca`]. The two secrets are
    /// those of all hooks.
    pub(crate) fn section(&self, name: &str, settings: &str) -> String {
        let [one, two] = SECRETS.map(|secret| format!("whsec_{}", base64url(secret)));
        let url = if settings.contains("url =") { String::new() } else { format!("url = \"{}\"", self.url()) };
        format!("[webhook.{name}]\n{url}\nca_file = \"{name}.pem\"\nsecrets = [\"{one}\", \"{two}\"]\n{settings}\n")
    }

    /// The file that its section names.
    pub(crate) fn file(&self, name: &str) -> (String, String) {
        (format!("{name}.pem"), self.ca.clone())
    }

    pub(crate) fn url(&self) -> String {
        format!("https://{}/hook", self.address)
    }

    /// From now on does this.
    pub(crate) fn play(&self, play: Play) {
        *self.shared.play.lock().unwrap() = play;
    }

    /// All messages so far.
    pub(crate) fn seen(&self) -> Vec<Message> {
        self.shared.seen.lock().unwrap().clone()
    }

    /// All messages, once there are so many.
    #[track_caller]
    pub(crate) fn gets(&self, count: usize) -> impl Future<Output = Vec<Message>> {
        let got =
            until(LONG, "the webhook gets its messages", move || Some(self.seen()).filter(|seen| seen.len() >= count));
        async move {
            let seen = got.await;
            assert_eq!(seen.len(), count, "{seen:#?}");
            seen
        }
    }

    /// Connections so far.
    pub(crate) fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }
}

impl Drop for Hook {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A whole answer with a status and no body.
pub(crate) fn status(line: &'static str) -> Play {
    Play::Answer(Arc::new(move |_| format!("HTTP/1.1 {line}\r\ncontent-length: 0\r\n\r\n").into_bytes()))
}

/// A server for `name`, and its authority.
fn certificate(name: &str) -> (Arc<ServerConfig>, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let ca = params.self_signed(&key).unwrap().pem();
    let issuer = Issuer::new(params, key);
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new([name.to_owned()]).unwrap();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let leaf = params.signed_by(&key, &issuer).unwrap();
    let config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
        .unwrap();
    (Arc::new(config), ca)
}

async fn accept(listener: TcpListener, tls: TlsAcceptor, shared: Arc<Shared>) {
    while let Ok((socket, _)) = listener.accept().await {
        shared.connections.fetch_add(1, Ordering::SeqCst);
        tokio::spawn(serve(socket, tls.clone(), Arc::clone(&shared)));
    }
}

async fn serve(mut socket: TcpStream, tls: TlsAcceptor, shared: Arc<Shared>) {
    let play = shared.play.lock().unwrap().clone();
    match play {
        Play::Slam => return reset(&socket),
        Play::Freeze => return std::future::pending().await,
        Play::Babble => {
            let _ = socket.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").await.is_ok();
            return;
        }
        Play::Answer(_) | Play::Cut(..) | Play::Drip(..) | Play::Silence => {}
    }
    let Ok(mut stream) = tls.accept(socket).await else { return };
    while let Some(message) = read(&mut stream).await {
        shared.seen.lock().unwrap().push(message.clone());
        let play = shared.play.lock().unwrap().clone();
        let going_on = match play {
            Play::Answer(answer) => stream.write_all(&answer(&message)).await.is_ok() && stream.flush().await.is_ok(),
            Play::Drip(answer, pause) => drip(&mut stream, &answer(&message), pause).await,
            Play::Cut(answer, count) => {
                let bytes = answer(&message);
                let sent = stream.write_all(&bytes[..count.min(bytes.len())]).await.is_ok();
                let _ = sent && stream.flush().await.is_ok();
                return reset(stream.get_ref().0);
            }
            Play::Silence => return std::future::pending().await,
            Play::Slam | Play::Freeze | Play::Babble => return reset(stream.get_ref().0),
        };
        if !going_on {
            return;
        }
    }
}

async fn drip(stream: &mut TlsStream<TcpStream>, bytes: &[u8], pause: Duration) -> bool {
    let mut pace = interval(pause);
    for byte in bytes {
        pace.tick().await;
        if stream.write_all(&[*byte]).await.is_err() || stream.flush().await.is_err() {
            return false;
        }
    }
    true
}

/// Closing is a reset from now on.
fn reset(socket: &TcpStream) {
    let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO)).is_ok();
}

async fn read(stream: &mut TlsStream<TcpStream>) -> Option<Message> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let mut message =
        Message { head: String::from_utf8(head).unwrap().trim_end().to_owned(), body: Vec::new(), json: Value::Null };
    message.body.resize(message.header("content-length").parse().unwrap(), 0);
    stream.read_exact(&mut message.body).await.ok()?;
    message.json = serde_json::from_slice(&message.body).unwrap();
    Some(message)
}

//! One signed message to one webhook, and the status that it answers.
//!
//! Invariants: a connection is made by a [`Way`]; no redirect is followed; of the answer nothing
//! counts but its status, and no more is read than a bound says.

use std::future::poll_fn;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;

use crate::backend::connect::Stream;
use crate::backend::wire::Wire;
use crate::config::Webhook;
use crate::webhook::sign::{self, SigningSecret, sign};
use crate::webhook::way::{Opened, Unreached, Way};

/// Most of an answer's body that is read, so that the connection can be used again.
const MAX_ANSWER: usize = 16 * 1024;

/// How messages get to one webhook.
#[derive(Debug)]
pub struct Post {
    way: Way,
    secrets: Vec<SigningSecret>,
    patience: Patience,
}

/// How long what may take.
#[derive(Clone, Copy, Debug)]
struct Patience {
    /// TCP and TLS.
    connect: Duration,
    /// The whole attempt.
    attempt: Duration,
}

/// Longer than for questions: nobody waits for this.
const PATIENCE: Patience = Patience { connect: Duration::from_secs(5), attempt: Duration::from_secs(15) };

/// An open connection to a webhook, if there is one that can be used again.
pub type Line = Option<Wire>;

/// What is sent.
#[derive(Clone, Copy, Debug)]
pub struct Message<'m> {
    /// Its name: the same in every attempt.
    pub id: &'m str,
    /// The time of this attempt, in seconds since 1970.
    pub seconds: i64,
    /// A JSON object.
    pub body: &'m [u8],
}

impl Post {
    /// Makes a config entry ready.
    ///
    /// # Errors
    ///
    /// When its TLS material does not fit together.
    pub fn new(webhook: &Webhook) -> Result<Self, String> {
        Ok(Self { way: Way::new(webhook)?, secrets: webhook.secrets.clone(), patience: PATIENCE })
    }

    /// Sends a message, over the connection that is open or over a new one.
    ///
    /// # Errors
    ///
    /// Why there was no answer.
    pub async fn send(&self, line: &mut Line, message: Message<'_>) -> Result<u16, String> {
        let request = self.request(message);
        let patience = self.patience.attempt;
        match timeout(patience, self.exchange(line, request)).await {
            Ok(answered) => answered,
            Err(_) => {
                *line = None;
                Err(format!("no answer within {patience:?}"))
            }
        }
    }

    async fn exchange(&self, line: &mut Line, request: Bytes) -> Result<u16, String> {
        // A connection that was open may have been closed meanwhile, so what goes wrong on it says
        // nothing. The message may have arrived: then it comes twice, under one id.
        if let Some(mut wire) = line.take()
            && !wire.is_stale()
            && let Ok((status, _)) = wire.exchange(vec![request.clone()]).await
        {
            *line = rested(wire).await;
            return Ok(status.as_u16());
        }
        let mut wire = Wire::new(self.connect().await?);
        let (status, _) = wire.exchange(vec![request]).await.map_err(|failure| failure.to_string())?;
        *line = rested(wire).await;
        Ok(status.as_u16())
    }

    async fn connect(&self) -> Result<Stream, String> {
        let patience = self.patience.connect;
        // Boxed: nearly all messages of a burst find a connection that is open.
        match timeout(patience, Box::pin(self.dial())).await {
            Ok(dialled) => dialled,
            Err(_) => Err(format!("no connection within {patience:?}")),
        }
    }

    async fn dial(&self) -> Result<Stream, String> {
        let places = self.way.places().await.map_err(said)?;
        match self.way.open(places).await.map_err(said)? {
            Opened::Plain(socket) => Ok(Stream::Plain(socket)),
            Opened::Tls(stream) => Ok(Stream::Tls(stream)),
        }
    }

    /// The request as bytes. Ids, times and signatures are of our making, and the path was checked
    /// when the config was read: nothing in here can end a line.
    fn request(&self, message: Message<'_>) -> Bytes {
        let Message { id, seconds, body } = message;
        let head = format!(
            "POST {path} HTTP/1.1\r\n\
             host: {host}\r\n\
             user-agent: doorward/{version}\r\n\
             content-type: application/json\r\n\
             content-length: {length}\r\n\
             {id_name}: {id}\r\n\
             {timestamp_name}: {seconds}\r\n\
             {signature_name}: {signature}\r\n\r\n",
            path = self.way.url().path,
            host = self.way.url().authority(),
            version = env!("CARGO_PKG_VERSION"),
            length = body.len(),
            id_name = sign::ID,
            timestamp_name = sign::TIMESTAMP,
            signature_name = sign::SIGNATURE,
            signature = sign(&self.secrets, id, seconds, body),
        );
        [head.as_bytes(), body].concat().into()
    }
}

/// A connection after its answer, if another message may follow on it.
async fn rested(mut wire: Wire) -> Line {
    if wire.ends_with_connection() {
        return None;
    }
    let mut read = 0;
    while let Some(data) = poll_fn(|context| wire.poll_body(context)).await {
        read += data.ok()?.len();
        if read > MAX_ANSWER {
            return None;
        }
    }
    wire.is_reusable().then_some(wire)
}

/// Why there is no connection, in one line.
fn said(unreached: Unreached) -> String {
    match unreached {
        Unreached::Refused(Some(address), kind) => {
            format!("{address} is {kind}: nothing is sent there (see allow_networks)")
        }
        Unreached::Refused(None, kind) => format!("the name {kind}"),
        Unreached::Proxy(why) => why,
        Unreached::Resolve(error) | Unreached::Connect(error) | Unreached::Tls(error) => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::tls::client::backend_config;
    use crate::webhook::address::Reach;
    use crate::webhook::url::WebhookUrl;

    const MESSAGE: Message<'static> = Message { id: "evt_1", seconds: 1_795_000_000, body: b"{}" };

    fn post(url: &str) -> Post {
        let url = WebhookUrl::parse(url).unwrap();
        let tls = url.https.then(|| {
            let roots = vec![crate::tls::testing::Ca::new("Webhooks").root()];
            backend_config(&crate::config::BackendTls { roots, client: None }).unwrap()
        });
        let patience = Patience { connect: Duration::from_millis(80), attempt: Duration::from_millis(160) };
        let way = Way::with_tls(url.clone(), Reach::new(&url, None), tls, None).unwrap();
        Post { way, secrets: Vec::new(), patience }
    }

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    }

    /// Silence after the message, silence in the handshake, and an answer that never ends.
    #[test]
    fn nothing_is_waited_for_without_end() {
        run(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let failed = post(&format!("https://{address}/x")).send(&mut None, MESSAGE).await.unwrap_err();
            assert_eq!(failed, "no connection within 80ms");
            let silent = post(&format!("http://{address}/x"));
            let mut line = None;
            assert_eq!(silent.send(&mut line, MESSAGE).await.unwrap_err(), "no answer within 160ms");
            assert!(line.is_none());
            // The two before were never accepted.
            let endless = async {
                loop {
                    let (mut socket, _) = listener.accept().await.unwrap();
                    let begin = b"HTTP/1.1 200 OK\r\ncontent-length: 99999999\r\n\r\n";
                    let _ = socket.write_all(begin).await.is_ok();
                    while socket.write_all(&[b'x'; 4096]).await.is_ok() {}
                }
            };
            tokio::select! {
                () = endless => {}
                sent = silent.send(&mut line, MESSAGE) => assert_eq!(sent, Ok(200)),
            }
            assert!(line.is_none(), "an answer that is too long ends the connection");
        });
    }

    /// The address is looked at before anything is sent, or even a connection made.
    #[test]
    fn the_inside_is_not_connected_to() {
        for (url, kind) in [
            ("https://169.254.169.254/latest/meta-data", "link-local"),
            ("https://10.0.0.1/", "private"),
            ("https://[fe80::1]/", "link-local"),
            ("https://[::ffff:169.254.169.254]/", "link-local"),
        ] {
            let failed = run(post(url).send(&mut None, MESSAGE)).unwrap_err();
            assert!(failed.contains(kind) && failed.contains("nothing is sent there"), "{url}: {failed}");
        }
    }

    #[test]
    fn a_connection_is_used_again_and_an_old_one_replaced() {
        run(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let post = post(&format!("http://{}/x", listener.local_addr().unwrap()));
            let server = async {
                let mut answered = Vec::new();
                for messages in [2, 1] {
                    let (mut socket, _) = listener.accept().await.unwrap();
                    for _ in 0..messages {
                        let mut head = Vec::new();
                        while !head.ends_with(b"\r\n\r\n{}") {
                            head.push(socket.read_u8().await.unwrap());
                        }
                        socket.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
                        answered.push(messages);
                    }
                }
                answered
            };
            let sender = async {
                let mut line = None;
                for _ in 0..3 {
                    assert_eq!(post.send(&mut line, MESSAGE).await, Ok(204));
                }
            };
            let (answered, ()) = tokio::join!(server, sender);
            assert_eq!(answered, [2, 2, 1]);
        });
    }
}

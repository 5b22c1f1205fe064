//! A connector made by hand: every frame of it is the test's to choose.

use std::sync::Arc;

use bytes::Bytes;
use h2::server::{Builder, SendResponse};
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use serde_json::{Value, json};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinHandle;

use super::{Caller, Issued, LONG, World, within};

const ALPN: &str = "doorward-connector/1";

/// A connector's end of one tunnel.
pub(crate) struct Site {
    control: SendStream<Bytes>,
    said: mpsc::Receiver<Value>,
    requests: mpsc::Receiver<Asked>,
    /// Ends with the connection.
    over: JoinHandle<()>,
    frozen: Arc<Notify>,
}

/// A request that came over a tunnel, and waits for its reply.
pub(crate) struct Asked {
    pub(crate) request: Request<RecvStream>,
    pub(crate) respond: SendResponse<Bytes>,
}

/// Whoever dials the `connect` name with this certificate.
pub(crate) fn dialler(world: &World, issued: &Issued) -> Caller {
    world.caller().named("connect.test").certificate(issued)
}

impl Site {
    /// Dials, and lets the gateway open the control stream. Nothing is said yet.
    pub(crate) async fn dial(world: &World, issued: &Issued) -> Self {
        Self::dial_with(world, issued, |builder| builder).await
    }

    pub(crate) async fn dial_with(
        world: &World,
        issued: &Issued,
        with: impl FnOnce(&mut Builder) -> &mut Builder,
    ) -> Self {
        let stream = dialler(world, issued).tls(&[ALPN]).await.unwrap();
        let mut builder = Builder::new();
        builder
            .initial_window_size(64 * 1024)
            .initial_connection_window_size(16 << 20)
            .max_concurrent_streams(300)
            .max_pending_accept_reset_streams(1024)
            .max_concurrent_reset_streams(4096)
            .max_local_error_reset_streams(None);
        let mut connection = with(&mut builder).handshake::<_, Bytes>(stream).await.unwrap();
        let (control, opened) = oneshot::channel();
        let (hand_over, requests) = mpsc::channel(1024);
        let frozen = Arc::new(Notify::new());
        let freeze = Arc::clone(&frozen);
        let over = tokio::spawn(async move {
            let mut control = Some(control);
            loop {
                let next = tokio::select! {
                    next = connection.accept() => next,
                    // Holds the socket open and does nothing any more.
                    () = freeze.notified() => std::future::pending().await,
                };
                let Some(Ok((request, respond))) = next else { return };
                if let Some(control) = control.take() {
                    assert!(control.send((request, respond)).is_ok());
                } else {
                    hand_over.send(Asked { request, respond }).await.unwrap();
                }
            }
        });
        let (request, mut respond) = within(LONG, "the control stream opens", opened).await.unwrap();
        assert_eq!((request.method().as_str(), request.uri().path()), ("POST", "/.doorward/v1/control"));
        let control = respond.send_response(Response::new(()), false).unwrap();
        let (hear, said) = mpsc::channel(64);
        tokio::spawn(listen(request.into_body(), hear));
        Self { control, said, requests, over, frozen }
    }

    /// Dials and registers under the certificate's name.
    pub(crate) async fn registered(world: &World, issued: &Issued, instance: &str, backends: &[&str]) -> Self {
        let mut site = Self::dial(world, issued).await;
        site.say(&register("site-a", instance, 0, backends));
        let answer = site.hear().await;
        assert_eq!(answer["type"], "registered", "{answer}");
        site
    }

    /// Says an object.
    pub(crate) fn say(&mut self, object: &Value) {
        self.say_bytes(format!("{object}\n"));
    }

    pub(crate) fn say_bytes(&mut self, bytes: impl Into<Bytes>) {
        self.control.send_data(bytes.into(), false).unwrap();
    }

    /// Says nothing any more, and ends its side.
    pub(crate) fn hush(&mut self) {
        self.control.send_data(Bytes::new(), true).unwrap();
    }

    /// What the gateway says next.
    pub(crate) async fn hear(&mut self) -> Value {
        self.try_hear().await.unwrap_or_else(|| panic!("the gateway says nothing more"))
    }

    /// The same; `None` when it says nothing any more.
    pub(crate) async fn try_hear(&mut self) -> Option<Value> {
        within(LONG, "the gateway says something", self.said.recv()).await
    }

    /// The next request.
    pub(crate) async fn next(&mut self) -> Asked {
        within(LONG, "a request comes over the tunnel", self.requests.recv()).await.unwrap()
    }

    /// True when no request has come that was not taken with [`Self::next`].
    pub(crate) fn is_untouched(&self) -> bool {
        self.requests.is_empty()
    }

    /// Does nothing any more, as a process that was stopped.
    pub(crate) fn freeze(&self) {
        self.frozen.notify_one();
    }

    /// Waits until the gateway has closed the connection.
    pub(crate) async fn over(mut self) {
        within(LONG, "the tunnel ends", &mut self.over).await.unwrap();
    }
}

impl Drop for Site {
    /// Tears the connection, without a word.
    fn drop(&mut self) {
        self.over.abort();
    }
}

/// `register` as an object.
pub(crate) fn register(connector: &str, instance: &str, index: u32, backends: &[&str]) -> Value {
    let backends: Vec<_> = backends.iter().map(|name| json!({"name": name, "max_concurrent": 1000})).collect();
    json!({
        "type": "register", "protocol": 1, "connector": connector, "instance_id": instance, "conn_index": index,
        "version": "0.0.0", "backends": backends, "max_streams": 256,
    })
}

async fn listen(mut body: RecvStream, hear: mpsc::Sender<Value>) {
    let mut buffer = Vec::new();
    while let Some(Ok(data)) = body.data().await {
        body.flow_control().release_capacity(data.len()).unwrap();
        buffer.extend_from_slice(&data);
        while let Some(at) = buffer.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = buffer.drain(..=at).collect();
            assert!(line.len() <= 16 * 1024 + 1);
            if hear.send(serde_json::from_slice(&line).unwrap()).await.is_err() {
                return;
            }
        }
    }
}

impl Asked {
    /// The whole body.
    pub(crate) async fn body(&mut self) -> Vec<u8> {
        let mut whole = Vec::new();
        let body = self.request.body_mut();
        within(LONG, "the request's body comes", async {
            while let Some(data) = body.data().await {
                let data = data.unwrap();
                body.flow_control().release_capacity(data.len()).unwrap();
                whole.extend_from_slice(&data);
            }
        })
        .await;
        whole
    }

    pub(crate) fn headers(&self) -> &HeaderMap {
        self.request.headers()
    }

    /// Answers with the head of a reply.
    pub(crate) fn begin(&mut self, headers: &[(&str, &str)]) -> SendStream<Bytes> {
        self.begin_with(200, headers)
    }

    pub(crate) fn begin_with(&mut self, status: u16, headers: &[(&str, &str)]) -> SendStream<Bytes> {
        self.respond.send_response(head(status, headers), false).unwrap()
    }

    /// Answers with a whole reply.
    pub(crate) fn reply(&mut self, status: u16, headers: &[(&str, &str)], body: &str) {
        let mut stream = self.begin_with(status, headers);
        stream.send_data(Bytes::copy_from_slice(body.as_bytes()), true).unwrap();
    }

    /// A chat completion.
    pub(crate) fn chat(&mut self) {
        self.reply(200, &[("content-type", "application/json")], r#"{"object":"chat.completion","model":"org/llama"}"#);
    }

    /// Waits until the gateway has reset the stream, of which no reply has begun.
    pub(crate) async fn reset(&mut self) -> Reason {
        let wait = std::future::poll_fn(|context| self.respond.poll_reset(context));
        within(LONG, "the gateway resets the stream", wait).await.unwrap()
    }
}

/// Waits until the gateway has reset the stream of a reply.
pub(crate) async fn reset_of(reply: &mut SendStream<Bytes>) -> Reason {
    let wait = std::future::poll_fn(|context| reply.poll_reset(context));
    within(LONG, "the gateway resets the reply", wait).await.unwrap()
}

fn head(status: u16, headers: &[(&str, &str)]) -> Response<()> {
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    response.body(()).unwrap()
}

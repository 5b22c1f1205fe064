//! A backend that takes nothing on trust: it keeps what came, byte for byte, and says when a
//! request is not as plain as the gateway promises to write it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// All headers that may come.
const HEADERS: [&str; 12] = [
    "host",
    "content-type",
    "content-length",
    "accept-encoding",
    "accept",
    "anthropic-version",
    "anthropic-beta",
    "openai-beta",
    "idempotency-key",
    "traceparent",
    "tracestate",
    "x-request-id",
];

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Seen {
    pub path: String,
    pub body: Vec<u8>,
}

impl Seen {
    /// What the body says, as a reader takes it that keeps the last of two.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

#[derive(Default)]
struct Shared {
    seen: Mutex<Vec<Seen>>,
    faults: Mutex<Vec<String>>,
    open: AtomicUsize,
    streamed: AtomicUsize,
}

#[derive(Clone)]
pub struct Backend {
    port: u16,
    shared: Arc<Shared>,
}

impl Backend {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let shared = Arc::clone(&theirs);
                tokio::spawn(async move {
                    shared.open.fetch_add(1, Ordering::SeqCst);
                    serve(socket, &shared).await;
                    shared.open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Self { port, shared }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Takes what came since the last time; every request must have been well-formed.
    pub fn take(&self) -> Vec<Seen> {
        let faults = std::mem::take(&mut *self.shared.faults.lock().unwrap());
        assert!(faults.is_empty(), "the backend got odd requests: {faults:#?}");
        std::mem::take(&mut *self.shared.seen.lock().unwrap())
    }

    /// How many requests came since the last [`Self::take`].
    pub fn count(&self) -> usize {
        self.shared.seen.lock().unwrap().len()
    }

    /// Open connections.
    pub fn open(&self) -> usize {
        self.shared.open.load(Ordering::SeqCst)
    }

    /// Bytes that endless streams could write so far.
    pub fn streamed(&self) -> usize {
        self.shared.streamed.load(Ordering::SeqCst)
    }
}

async fn serve(mut socket: TcpStream, shared: &Shared) {
    let mut buffer = Vec::new();
    loop {
        let seen = match next(&mut socket, &mut buffer).await {
            Ok(Some(seen)) => seen,
            Ok(None) => return,
            Err(fault) => return shared.faults.lock().unwrap().push(fault),
        };
        let said = serde_json::from_slice(&seen.body).unwrap_or(Value::Null);
        let row = said["row"].clone();
        let say = said["say"].as_str().unwrap_or("echo").to_owned();
        shared.seen.lock().unwrap().push(seen);
        let written = match say.as_str() {
            "hang" => {
                // Until the gateway gives up.
                let _said = socket.read_u8().await.is_ok();
                return;
            }
            "stream" => return stream_for_ever(&mut socket, shared).await,
            "sized events, cut" => {
                let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: 120\r\n\r\n";
                let _sent = socket.write_all(format!("{head}data: {{\"a\":1}}\n\n").as_bytes()).await.is_ok();
                return;
            }
            "early" => {
                // An answer whose connection stays open, with something behind it that nobody asked for.
                let answer = echo(&row);
                socket.write_all(format!("{answer}{}", echo(&"poison".into())).as_bytes()).await
            }
            _ => socket.write_all(echo(&row).as_bytes()).await,
        };
        if written.is_err() {
            return;
        }
    }
}

fn echo(row: &Value) -> String {
    let body = serde_json::json!({ "row": row }).to_string();
    format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

async fn stream_for_ever(socket: &mut TcpStream, shared: &Shared) {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
    if socket.write_all(head.as_bytes()).await.is_err() {
        return;
    }
    let event = format!("data: {{\"text\":\"{}\"}}\n\n", "x".repeat(2000));
    let chunk = format!("{:x}\r\n{event}\r\n", event.len());
    loop {
        if socket.write_all(chunk.as_bytes()).await.is_err() {
            return;
        }
        shared.streamed.fetch_add(event.len(), Ordering::SeqCst);
        tokio::task::yield_now().await;
    }
}

/// Reads one request; `None` when the connection ends between two.
async fn next(socket: &mut TcpStream, buffer: &mut Vec<u8>) -> Result<Option<Seen>, String> {
    let mut piece = vec![0; 16 * 1024];
    loop {
        if let Some(end) = buffer.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = buffer[..end].to_vec();
            let (path, length) = check(&head)?;
            if buffer.len() >= end + 4 + length {
                let body = buffer[end + 4..end + 4 + length].to_vec();
                buffer.drain(..end + 4 + length);
                return Ok(Some(Seen { path, body }));
            }
        }
        match socket.read(&mut piece).await {
            Ok(0) | Err(_) if buffer.is_empty() => return Ok(None),
            // Callers that leave may take an unfinished request with them.
            Ok(0) | Err(_) => return Ok(None),
            Ok(count) => buffer.extend_from_slice(&piece[..count]),
        }
    }
}

/// Checks a head, and gives path and length.
fn check(head: &[u8]) -> Result<(String, usize), String> {
    let fault = |why: &str| Err(format!("{why}: {}", head.escape_ascii()));
    let Ok(text) = std::str::from_utf8(head) else { return fault("not text") };
    let mut lines = text.split("\r\n");
    if text.replace("\r\n", "").contains(|c: char| c.is_control() && c != '\t') {
        return fault("a control character");
    }
    let Some([method, path, version]) = lines
        .next()
        .map(|line| line.split(' ').collect::<Vec<_>>())
        .as_deref()
        .and_then(|parts| <[&str; 3]>::try_from(parts).ok())
    else {
        return fault("the request line");
    };
    if method != "POST" || version != "HTTP/1.1" || !path.starts_with('/') {
        return fault("the request line");
    }
    let (mut hosts, mut lengths) = (0, Vec::new());
    for line in lines {
        let Some((name, value)) = line.split_once(": ") else { return fault("a header") };
        if !HEADERS.contains(&name) {
            return fault(name);
        }
        hosts += usize::from(name == "host");
        if name == "content-length" {
            lengths.push(value.parse::<usize>().map_err(|error| error.to_string())?);
        }
    }
    match (hosts, lengths.as_slice()) {
        (1, [length]) => Ok((path.to_owned(), *length)),
        _ => fault("Host or Content-Length"),
    }
}

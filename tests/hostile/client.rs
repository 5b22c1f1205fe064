//! A caller that writes whatever it likes and reads replies strictly.

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::gateway::{Gateway, OPEN, PATIENCE};

pub type Tls = TlsStream<TcpStream>;

/// A reply as it came.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }
}

pub async fn connect(gateway: &Gateway) -> Tls {
    connect_with(gateway.address(), gateway.tls(&[b"http/1.1"], false), "127.0.0.1", None).await.unwrap()
}

pub async fn connect_with(
    to: SocketAddr,
    tls: Arc<ClientConfig>,
    from: &str,
    receive_buffer: Option<u32>,
) -> std::io::Result<Tls> {
    let socket = TcpSocket::new_v4()?;
    if let Some(bytes) = receive_buffer {
        socket.set_recv_buffer_size(bytes)?;
    }
    socket.bind(SocketAddr::new(from.parse().unwrap(), 0))?;
    let tcp = socket.connect(to).await?;
    let name = ServerName::try_from("localhost").unwrap();
    timeout(PATIENCE, TlsConnector::from(tls).connect(name, tcp)).await.expect("the handshake hangs")
}

/// Writes `bytes` while reading, until the gateway closes; gives all that came.
pub async fn talk(stream: Tls, bytes: &[u8]) -> Vec<u8> {
    let (mut reading, mut writing) = tokio::io::split(stream);
    let write = async {
        // A gateway that has heard enough closes.
        let _sent = writing.write_all(bytes).await.is_ok();
        let _flushed = writing.flush().await.is_ok();
    };
    let read = async {
        let (mut all, mut piece) = (Vec::new(), vec![0; 64 * 1024]);
        loop {
            match reading.read(&mut piece).await {
                Ok(0) | Err(_) => return all,
                Ok(count) => all.extend_from_slice(&piece[..count]),
            }
        }
    };
    timeout(PATIENCE, async { tokio::join!(write, read).1 }).await.expect("the gateway neither answers nor closes")
}

/// Reads replies until the end; every byte must belong to one.
pub fn replies(mut bytes: &[u8]) -> Vec<Reply> {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let (reply, rest) = reply(bytes);
        bytes = rest;
        all.push(reply);
    }
    all
}

fn reply(bytes: &[u8]) -> (Reply, &[u8]) {
    let odd = |why: &str| -> ! { panic!("{why}: {}", bytes.escape_ascii()) };
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { odd("no end of the head") };
    let head = std::str::from_utf8(&bytes[..end]).unwrap();
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap();
    let version = status.get(..9).unwrap();
    assert!(matches!(version, "HTTP/1.1 " | "HTTP/1.0 "), "{status}");
    let status: u16 = status[9..12].parse().unwrap();
    let headers: Vec<(String, String)> = lines
        .map(|line| line.split_once(':').unwrap_or_else(|| odd("a header")))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let rest = &bytes[end + 4..];
    let length = headers.iter().find(|(name, _)| name == "content-length").map(|(_, value)| value.parse::<usize>());
    let chunked = headers.iter().any(|(name, value)| name == "transfer-encoding" && value == "chunked");
    let (body, rest) = match length {
        _ if status < 200 => (Vec::new(), rest),
        Some(Ok(length)) if rest.len() >= length => (rest[..length].to_vec(), &rest[length..]),
        None if chunked => dechunked(rest).unwrap_or_else(|| odd("the chunks")),
        _ => odd("the framing"),
    };
    (Reply { status, headers, body }, rest)
}

fn dechunked(mut rest: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut body = Vec::new();
    loop {
        let end = rest.windows(2).position(|two| two == b"\r\n")?;
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..end]).ok()?, 16).ok()?;
        rest = rest.get(end + 2..)?;
        body.extend_from_slice(rest.get(..size)?);
        rest = rest.get(size..)?.strip_prefix(b"\r\n")?;
        if size == 0 {
            return Some((body, rest));
        }
    }
}

/// Statuses of the replies to `bytes`, all of which must be well-formed.
pub async fn statuses(gateway: &Gateway, bytes: &[u8]) -> Vec<u16> {
    let stream = connect(gateway).await;
    replies(&talk(stream, bytes).await).iter().map(|reply| reply.status).collect()
}

/// A head for the chat endpoint; `headers` are whole lines, framing included.
pub fn chat_head(key: &str, headers: &str) -> String {
    format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\n\
         Content-Type: application/json\r\n{headers}\r\n"
    )
}

/// A whole and honest chat request. `more` are more members of the body.
pub fn chat(key: &str, headers: &str, more: &str) -> Vec<u8> {
    let body = format!("{{\"model\":\"{OPEN}\"{more}}}");
    let mut bytes = chat_head(key, &format!("{headers}Content-Length: {}\r\n", body.len())).into_bytes();
    bytes.extend_from_slice(body.as_bytes());
    bytes
}

/// An honest request that the gateway answers itself, and closes after.
pub fn last(key: &str) -> Vec<u8> {
    format!("GET /v1/models HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\nConnection: close\r\n\r\n")
        .into_bytes()
}

/// Other callers are served.
pub async fn others_are_served(gateway: &Gateway) {
    assert_eq!(statuses(gateway, &chat(&gateway.key, "Connection: close\r\n", "")).await, [200]);
}

//! Opens one connection to a gateway: TCP, a proxy in between if there is one, TLS.
//!
//! Invariant: what comes out is TLS 1.3 with a gateway whose certificate the private authority made
//! for the configured name, and that has agreed to speak this protocol.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::overlay::agent::Identity;
use crate::overlay::agent::site::Site;
use crate::overlay::protocol::ALPN;

/// For TCP, the proxy and TLS together.
const DIAL: Duration = Duration::from_secs(15);
/// Unacknowledged bytes may be this old: a peer that is gone while we write is noticed by the
/// kernel, since no PING gets out behind what is stuck.
const USER_TIMEOUT: Duration = Duration::from_secs(20);
/// Longest answer of a proxy, in bytes.
const MAX_ANSWER: usize = 8 * 1024;

/// What is dialled.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) enum Target {
    /// An address of the gateway.
    Address(SocketAddr),
    /// A host that the proxy looks up, and its port.
    ByProxy(String, u16),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => write!(f, "{address}"),
            Self::ByProxy(host, port) => f.write_str(&authority(host, *port)),
        }
    }
}

fn authority(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// Dials.
///
/// # Errors
///
/// When any of the steps fails or all together take too long.
pub(super) async fn dial(site: &Site, target: &Target, identity: &Identity) -> io::Result<TlsStream<TcpStream>> {
    match timeout(DIAL, open(site, target, identity)).await {
        Ok(result) => result,
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, format!("no connection within {} s", DIAL.as_secs()))),
    }
}

async fn open(site: &Site, target: &Target, identity: &Identity) -> io::Result<TlsStream<TcpStream>> {
    let socket = match (target, &site.proxy) {
        (Target::Address(address), _) => tcp(TcpStream::connect(address).await?)?,
        (Target::ByProxy(host, port), Some((proxy, proxy_port))) => {
            let mut socket = tcp(TcpStream::connect((proxy.as_str(), *proxy_port)).await?)?;
            through(&mut socket, &authority(host, *port)).await?;
            socket
        }
        (Target::ByProxy(..), None) => return Err(io::Error::other("there is no proxy")),
    };
    let stream = TlsConnector::from(identity.tls.clone()).connect(site.gateway_name.clone(), socket).await?;
    // A server that does not know the protocol may finish the handshake all the same.
    if stream.get_ref().1.alpn_protocol() != Some(ALPN) {
        return Err(io::Error::other(
            "the server does not speak doorward-connector/1: is this name one of the gateway's listen.names.connect?",
        ));
    }
    Ok(stream)
}

fn tcp(socket: TcpStream) -> io::Result<TcpStream> {
    socket.set_nodelay(true)?;
    let options = SockRef::from(&socket);
    options.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
    // PING tells sooner; this is for proxies and firewalls that forget what is idle.
    options.set_tcp_keepalive(&TcpKeepalive::new().with_time(Duration::from_secs(30)))?;
    Ok(socket)
}

/// Asks a proxy for a way through (RFC 9110, 9.3.6).
async fn through(socket: &mut TcpStream, authority: &str) -> io::Result<()> {
    let request = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n");
    socket.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        // Byte by byte: behind the answer the gateway's bytes begin, and they are not ours to take.
        if answer.len() >= MAX_ANSWER {
            return Err(io::Error::other("the proxy's answer is too long"));
        }
        answer.push(socket.read_u8().await?);
    }
    let line = answer.split(|&b| b == b'\r').next().unwrap_or_default();
    if line.starts_with(b"HTTP/1.") && line.get(8..10) == Some(b" 2") {
        return Ok(());
    }
    let line: String = String::from_utf8_lossy(line).chars().filter(|c| !c.is_control()).take(80).collect();
    Err(io::Error::other(format!("the proxy does not let us through: {line:?}")))
}

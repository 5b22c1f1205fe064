//! TCP towards a gateway: straight, or through a proxy that somebody named.
//!
//! Invariant: no proxy is used that is not written down here; the environment is not asked. What is
//! read from a proxy is bounded, and nothing but the gateway's address is told to it.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

use crate::domain::gateway_address::GatewayAddress;
use crate::holder::fault::Why;

/// How long a connection may take, for each IP address of a host.
const CONNECT: Duration = Duration::from_secs(10);
/// How long a proxy may take to connect.
const PROXY: Duration = Duration::from_secs(20);
/// Most bytes of a proxy's answer.
const MAX_PROXY_HEAD: usize = 8 * 1024;
/// Most IP addresses of a host that are tried.
const MAX_TARGETS: usize = 16;
/// Unacknowledged bytes may be this old before the kernel gives the gateway up.
#[cfg(target_os = "linux")]
const USER_TIMEOUT: Duration = Duration::from_secs(30);
/// An idle connection is probed this often.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// An HTTP proxy, spoken to with CONNECT (RFC 9110, section 9.3.6).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ProxyUrl(GatewayAddress);

impl ProxyUrl {
    /// Reads `http://HOST:PORT`.
    ///
    /// # Errors
    ///
    /// When it is anything else. The text is not repeated: people put passwords into URLs.
    pub fn parse(text: &str) -> Result<Self, String> {
        let how = "write http://HOST:PORT, such as http://proxy.corp.example:3128";
        if text.contains('@') {
            return Err(format!("a proxy that asks for a user name is not supported; {how}"));
        }
        if text.starts_with("https://") {
            return Err(format!(
                "the connection to the proxy is plain HTTP: what goes through it is TLS anyway; {how}"
            ));
        }
        let rest = text.strip_prefix("http://").ok_or_else(|| how.to_owned())?;
        GatewayAddress::parse(rest.strip_suffix('/').unwrap_or(rest)).map(Self).map_err(|_| how.to_owned())
    }
}

impl From<GatewayAddress> for ProxyUrl {
    fn from(address: GatewayAddress) -> Self {
        Self(address)
    }
}

impl fmt::Display for ProxyUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}", self.0)
    }
}

/// How addresses are reached.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Reach {
    /// The proxy, if there is one.
    pub proxy: Option<ProxyUrl>,
}

/// One place behind an address: what a connection is opened to.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Target {
    /// An IP address of the host.
    Direct(SocketAddr),
    /// The address as it is: a proxy resolves it.
    Proxied(GatewayAddress),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Direct(address) => write!(f, "{address}"),
            Self::Proxied(address) => write!(f, "{address}"),
        }
    }
}

impl Reach {
    /// The places behind an address, in the order in which to try: one for each IP address of the
    /// host, 16 at most.
    ///
    /// # Errors
    ///
    /// When the host has no IP address.
    pub async fn targets(&self, address: &GatewayAddress) -> Result<Vec<Target>, Why> {
        if self.proxy.is_some() {
            return Ok(vec![Target::Proxied(address.clone())]);
        }
        let failed = |why: &dyn fmt::Display| Why::Connect(format!("{} is not found: {why}", address.host()));
        let found = timeout(CONNECT, lookup_host((address.host(), address.port()))).await;
        let found = found.map_err(|_| failed(&"looking it up takes too long"))?.map_err(|error| failed(&error))?;
        let mut targets: Vec<_> = found.map(Target::Direct).take(MAX_TARGETS).collect();
        targets.dedup();
        if targets.is_empty() { Err(failed(&"it has no address")) } else { Ok(targets) }
    }

    /// Opens a connection to one place.
    ///
    /// # Errors
    ///
    /// Why there is none.
    pub async fn open(&self, target: &Target) -> Result<TcpStream, Why> {
        match (target, &self.proxy) {
            (Target::Direct(address), _) => connect(*address).await.map_err(|error| Why::Connect(explain(&error))),
            (Target::Proxied(address), Some(proxy)) => {
                let asked = timeout(PROXY, through(proxy, address)).await;
                asked.unwrap_or_else(|_| Err(Why::Proxy(format!("the proxy {proxy} takes too long"))))
            }
            (Target::Proxied(_), None) => Err(Why::Proxy("there is no proxy".to_owned())),
        }
    }

    /// Opens a connection to the first place behind an address that answers.
    ///
    /// # Errors
    ///
    /// Why there is none: what the last place said.
    pub async fn open_any(&self, address: &GatewayAddress) -> Result<TcpStream, Why> {
        let mut last = Why::Connect("it has no address".to_owned());
        for target in self.targets(address).await? {
            match self.open(&target).await {
                Ok(stream) => return Ok(stream),
                Err(why) => last = why,
            }
        }
        Err(last)
    }
}

async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = match timeout(CONNECT, TcpStream::connect(address)).await {
        Ok(connected) => connected?,
        Err(_) => return Err(io::Error::new(io::ErrorKind::TimedOut, "no answer in 10 s")),
    };
    stream.set_nodelay(true)?;
    let socket = SockRef::from(&stream);
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE))?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
    Ok(stream)
}

async fn through(proxy: &ProxyUrl, address: &GatewayAddress) -> Result<TcpStream, Why> {
    let failed = |why: &dyn fmt::Display| Why::Proxy(format!("the proxy {proxy}: {why}"));
    let mut last = io::Error::other("it has no address");
    let found = lookup_host((proxy.0.host(), proxy.0.port())).await.map_err(|error| failed(&error))?;
    for place in found.take(MAX_TARGETS) {
        match connect(place).await {
            Ok(stream) => return tunnel(stream, address).await.map_err(|why| failed(&why)),
            Err(error) => last = error,
        }
    }
    Err(failed(&explain(&last)))
}

/// Asks for a tunnel over a connection to a proxy.
async fn tunnel(mut stream: TcpStream, address: &GatewayAddress) -> Result<TcpStream, String> {
    let request = format!("CONNECT {address} HTTP/1.1\r\nHost: {address}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.map_err(|error| explain(&error))?;
    // Byte by byte: what comes behind the head is the gateway's, and is not for us to take here.
    let mut head = Vec::with_capacity(256);
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() >= MAX_PROXY_HEAD {
            return Err("its answer is too long".to_owned());
        }
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) if head.is_empty() => return Err("it closed the connection".to_owned()),
            Err(_) => return Err("it broke off its answer".to_owned()),
        }
    }
    let mut fields = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut fields);
    let parsed = response.parse(&head);
    match (parsed, response.code) {
        (Ok(httparse::Status::Complete(_)), Some(200..300)) => Ok(stream),
        (Ok(httparse::Status::Complete(_)), Some(407)) => {
            Err("it asks for a user name, which is not supported (407)".to_owned())
        }
        (Ok(httparse::Status::Complete(_)), Some(status)) => {
            Err(format!("it does not connect to {address} ({status})"))
        }
        (Ok(_) | Err(_), _) => Err("its answer is not HTTP".to_owned()),
    }
}

/// An I/O error without the operating system's number.
fn explain(error: &io::Error) -> String {
    #[expect(clippy::wildcard_enum_match_arm, reason = "an open set: the rest is said as the system says it")]
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        io::ErrorKind::NetworkUnreachable => "network unreachable".to_owned(),
        io::ErrorKind::HostUnreachable => "host unreachable".to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
#[cfg(feature = "gateway")]
#[path = "reach_tests.rs"]
mod tests;

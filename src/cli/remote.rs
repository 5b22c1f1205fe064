//! Asking a running gateway's admin API: over its Unix socket, or over TLS as an operator.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST};
use http::{HeaderValue, Request};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::runtime::{self, Runtime};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::admin::api::problem::Problem;
use crate::admin::api::{route, socket};
use crate::cli::output::{self, Failure};
use crate::config::BackendTls;
use crate::manage::fault::Fault;
use crate::manage::operation::Operation;
use crate::tls::client::backend_config;

/// Where `[admin] api_address` is when a URL names no port.
const PORT: u16 = 8445;
const CONNECT: Duration = Duration::from_secs(10);
/// Longer than the gateway takes to say that the store takes too long.
const ANSWER: Duration = Duration::from_secs(60);
/// Most bytes of an answer: a page of the longest entries.
const MAX_ANSWER: usize = 64 << 20;

/// Where a gateway's admin API is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AdminUrl {
    /// `unix:/path/to/admin.sock`.
    Unix(PathBuf),
    /// `https://host[:port]`.
    Https {
        /// Host name or address; IPv6 without brackets.
        host: String,
        /// Port.
        port: u16,
    },
}

impl AdminUrl {
    /// Reads a URL.
    ///
    /// # Errors
    ///
    /// When it is neither of the two; the message shows both.
    pub fn parse(text: &str) -> Result<Self, String> {
        let how = "write https://HOST:8445 or unix:/PATH/admin.sock";
        if let Some(path) = text.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            return if path.is_empty() { Err(format!("names no socket; {how}")) } else { Ok(Self::Unix(path.into())) };
        }
        if text.starts_with("http://") {
            return Err(format!("the admin API is never served without TLS; {how}"));
        }
        let rest = text.strip_prefix("https://").ok_or_else(|| how.to_owned())?;
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = match rest.strip_prefix('[') {
            Some(rest) => rest.split_once(']').ok_or_else(|| how.to_owned())?,
            None => rest.split_at(rest.find(':').unwrap_or(rest.len())),
        };
        let port = match port {
            "" => PORT,
            port => port.strip_prefix(':').and_then(|port| port.parse().ok()).ok_or_else(|| how.to_owned())?,
        };
        if ServerName::try_from(host).is_err() {
            return Err(format!("{host:?} is no host; {how}"));
        }
        Ok(Self::Https { host: host.to_owned(), port })
    }
}

impl fmt::Display for AdminUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Https { host, port } if host.contains(':') => write!(f, "https://[{host}]:{port}"),
            Self::Https { host, port } => write!(f, "https://{host}:{port}"),
        }
    }
}

/// A gateway elsewhere.
#[derive(Debug)]
pub struct Remote {
    url: AdminUrl,
    tls: Option<Arc<ClientConfig>>,
    runtime: Runtime,
}

impl Remote {
    /// Makes ready to ask; `operator` is the directory that `doorward cert issue` wrote to.
    ///
    /// # Errors
    ///
    /// When a certificate is needed and cannot be read.
    pub fn new(url: AdminUrl, operator: Option<&Path>) -> Result<Self, Failure> {
        let tls = match (&url, operator) {
            (AdminUrl::Unix(_), _) => None,
            (AdminUrl::Https { .. }, Some(dir)) => Some(Arc::new(credentials(dir)?)),
            (AdminUrl::Https { .. }, None) => {
                return Err(Failure::with_hint(
                    format!("{url} asks for an operator's certificate"),
                    "`doorward cert issue NAME --role operator --out DIR` on the gateway's machine makes one; then --operator DIR",
                ));
            }
        };
        Ok(Self { url, tls, runtime: runtime::Builder::new_current_thread().enable_all().build()? })
    }

    /// Has an operation done there.
    ///
    /// # Errors
    ///
    /// When the gateway cannot be reached, or says no.
    pub fn perform<O: Operation>(&self, operation: &O) -> Result<Result<O::Answer, Fault>, Failure> {
        let written = match route::write(operation) {
            Ok(written) => written,
            Err(fault) => return Ok(Err(fault)),
        };
        let host = match &self.url {
            AdminUrl::Unix(_) => "localhost".to_owned(),
            AdminUrl::Https { .. } => self.url.to_string().trim_start_matches("https://").to_owned(),
        };
        let mut request = Request::builder().method(O::METHOD.as_str()).uri(written.target).header(HOST, host);
        if written.body.is_some() {
            request = request.header(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        let body = Full::new(Bytes::from(written.body.unwrap_or_default()));
        let request = request.body(body).map_err(Failure::new)?;
        let answer = self.runtime.block_on(self.ask(request)).map_err(|why| {
            let hint = match &self.url {
                AdminUrl::Unix(_) => "is the gateway running, and is this its user or root?",
                AdminUrl::Https { .. } => {
                    "is [admin] api_address set there, and the operator's certificate still good?"
                }
            };
            Failure::with_hint(format!("no answer from {}: {why}", self.url), hint)
        })?;
        let (status, body) = answer;
        let unreadable = |error: serde_json::Error| {
            Failure::with_hint(
                format!("the answer of {} ({status}) cannot be read: {error}", self.url),
                "is it a Doorward gateway of the same version?",
            )
        };
        if (200..300).contains(&status) {
            return Ok(Ok(serde_json::from_slice(&body).map_err(unreadable)?));
        }
        let problem: Problem = serde_json::from_slice(&body).map_err(unreadable)?;
        Ok(Err(problem.into_fault()))
    }

    async fn ask(&self, request: Request<Full<Bytes>>) -> Result<(u16, Bytes), String> {
        let connecting = async {
            match &self.url {
                AdminUrl::Unix(path) => {
                    let stream = socket::reach(path, |path| std::os::unix::net::UnixStream::connect(path))?;
                    stream.set_nonblocking(true)?;
                    Ok(Box::new(UnixStream::from_std(stream)?) as Box<dyn Stream>)
                }
                AdminUrl::Https { host, port } => {
                    let tcp = TcpStream::connect((host.as_str(), *port)).await?;
                    tcp.set_nodelay(true)?;
                    let name = ServerName::try_from(host.clone()).map_err(io::Error::other)?;
                    let config = self.tls.clone().ok_or_else(|| io::Error::other("no certificate"))?;
                    Ok::<_, io::Error>(Box::new(TlsConnector::from(config).connect(name, tcp).await?) as Box<dyn Stream>)
                }
            }
        };
        let stream = match timeout(CONNECT, connecting).await {
            Ok(connected) => connected.map_err(|error| output::causes(&error))?,
            Err(_) => return Err("it does not answer".to_owned()),
        };
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| output::causes(&error))?;
        let exchange = async {
            let driven = tokio::spawn(connection);
            let response = sender.send_request(request).await.map_err(|error| output::causes(&error))?;
            let status = response.status().as_u16();
            let body =
                Limited::new(response.into_body(), MAX_ANSWER).collect().await.map_err(|error| error.to_string())?;
            driven.abort();
            Ok((status, body.to_bytes()))
        };
        timeout(ANSWER, exchange).await.unwrap_or_else(|_| Err("it takes too long".to_owned()))
    }
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// TLS with the certificate in `dir`: `NAME.crt`, `NAME.key` and `ca.crt`, as `cert issue` writes.
fn credentials(dir: &Path) -> Result<ClientConfig, Failure> {
    let failed = |path: &Path, error: &dyn fmt::Display| {
        Failure::with_hint(
            format!("{}: {error}", path.display()),
            "--operator takes the directory that `doorward cert issue NAME --role operator --out DIR` wrote to",
        )
    };
    let entries = fs::read_dir(dir).map_err(|error| failed(dir, &error))?;
    let mut keys: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "key"))
        .collect();
    let (Some(key_file), None) = (keys.pop(), keys.pop()) else {
        return Err(failed(dir, &"must hold one certificate with its key: NAME.crt and NAME.key"));
    };
    let read = |path: &Path| -> Result<Vec<CertificateDer<'static>>, Failure> {
        let certificates = CertificateDer::pem_file_iter(path).map_err(|error| failed(path, &error))?;
        certificates.collect::<Result<_, _>>().map_err(|error| failed(path, &error))
    };
    let chain = read(&key_file.with_extension("crt"))?;
    let key = PrivateKeyDer::from_pem_file(&key_file).map_err(|error| failed(&key_file, &error))?;
    let roots = read(&dir.join("ca.crt"))?;
    if roots.is_empty() {
        return Err(failed(&dir.join("ca.crt"), &"holds no certificate"));
    }
    backend_config(&BackendTls { roots, client: Some((chain, key)) }).map_err(Failure::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_of_two_kinds() {
        for (text, url) in [
            ("unix:/run/doorward/admin.sock", "unix:/run/doorward/admin.sock"),
            ("unix:///run/admin.sock", "unix:/run/admin.sock"),
            ("unix:state/admin.sock", "unix:state/admin.sock"),
            ("https://gw.corp.example", "https://gw.corp.example:8445"),
            ("https://gw.corp.example:1/", "https://gw.corp.example:1"),
            ("https://127.0.0.1:9", "https://127.0.0.1:9"),
            ("https://[::1]", "https://[::1]:8445"),
        ] {
            assert_eq!(AdminUrl::parse(text).unwrap().to_string(), url);
        }
        for wrong in [
            "",
            "unix:",
            "http://gw:8445",
            "gw:8445",
            "https://",
            "https://gw:x",
            "https://gw/path",
            "https://a@b",
            "https://[::1",
        ] {
            assert!(AdminUrl::parse(wrong).unwrap_err().contains("https://HOST:8445"), "{wrong}");
        }
    }
}

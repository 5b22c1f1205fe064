//! Asking a gateway's desk: one POST over a connection that was verified.

use std::error::Error;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{Either, select};
use http::header::{CONTENT_TYPE, HOST};
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;
use zeroize::Zeroizing;

use crate::ca::exchange::{Granted, JSON, MAX_ANSWER, Refused};
use crate::domain::gateway_address::{GatewayAddress, GatewayName, HostName};
use crate::holder::fault::{Attempt, CertificateAlert, HolderFault};
use crate::holder::reach::Reach;
use crate::holder::tls;

/// How long an answer may take: the gateway signs, and writes to its store.
const ANSWER: Duration = Duration::from_secs(30);

/// A verified connection to a gateway, and where it leads.
#[derive(Debug)]
pub(super) struct Verified {
    pub(super) address: GatewayAddress,
    stream: TlsStream<TcpStream>,
    name: HostName,
}

/// Connects to the first of `addresses` that leads to the gateway.
///
/// # Errors
///
/// [`HolderFault::Unreached`] with every address. Nothing but handshakes was sent.
pub(super) async fn connect(
    addresses: &[GatewayAddress],
    name: &HostName,
    config: ClientConfig,
    reach: &Reach,
) -> Result<Verified, HolderFault> {
    let mut config = config;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let config = Arc::new(config);
    let mut attempts = Vec::new();
    for address in addresses {
        let opened = async {
            let stream = reach.open_any(address).await?;
            tls::secure(stream, Arc::clone(&config), &GatewayName::Dns(name.clone())).await
        };
        match opened.await {
            Ok(stream) => return Ok(Verified { address: address.clone(), stream, name: name.clone() }),
            Err(why) => attempts.push(Attempt { address: address.clone(), why }),
        }
    }
    Err(HolderFault::Unreached(attempts))
}

/// Posts `body` to `path` and reads the answer.
///
/// # Errors
///
/// When the gateway says no, or its answer is lost.
pub(super) async fn post(
    verified: Verified,
    path: &'static str,
    body: Zeroizing<Vec<u8>>,
) -> Result<Granted, HolderFault> {
    let Verified { address, stream, name } = verified;
    let lost = |why: String| HolderFault::AnswerLost { address: address.clone(), why };
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| lost(error.to_string()))?;
    // It owns the body until it is sent, and wipes it then.
    let body = Full::new(Bytes::from_owner(Wiped(body)));
    let request = Request::post(path).header(HOST, name.as_str()).header(CONTENT_TYPE, JSON).body(body);
    let request = request.map_err(|error| lost(error.to_string()))?;
    let exchange = async move {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await?.to_bytes();
        Ok::<_, Box<dyn Error + Send + Sync>>((status, body))
    };
    // The connection is driven for as long as the answer is not there, and no longer.
    let answered = async {
        match select(pin!(exchange), pin!(connection)).await {
            Either::Left((answer, _)) => answer,
            Either::Right((_, exchange)) => exchange.await,
        }
    };
    let (status, body) = match timeout(ANSWER, answered).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => {
            return Err(match CertificateAlert::in_error(error.as_ref()) {
                Some(what) => HolderFault::CertificateRefused { address, what },
                None => lost(error.to_string()),
            });
        }
        Err(_) => return Err(lost("it takes too long".to_owned())),
    };
    if status == StatusCode::CREATED {
        let why = "it is not the JSON of a certificate".to_owned();
        return Granted::parse(&body).map_err(|_| HolderFault::Answer { address, why });
    }
    let refused =
        serde_json::from_slice(&body).unwrap_or_else(|_| Refused { code: String::new(), detail: String::new() });
    Err(HolderFault::Refused { address, status: status.as_u16(), refused })
}

/// A body that is wiped when it was sent.
struct Wiped(Zeroizing<Vec<u8>>);

impl AsRef<[u8]> for Wiped {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

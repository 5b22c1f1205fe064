//! Opens one connection to a gateway: TCP, a proxy in between if there is one, TLS.
//!
//! Invariant: what comes out is TLS 1.3 with a gateway whose certificate the private authority made
//! for the configured name, and that has agreed to speak this protocol.

use std::time::Duration;

use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::backend::connect::give_up_after;
use crate::holder::fault::Why;
use crate::holder::tls::secure;
use crate::overlay::agent::Identity;
use crate::overlay::agent::plan::Place;
use crate::overlay::protocol::ALPN;

/// Unacknowledged bytes may be this old: a peer that is gone while we write is noticed by the
/// kernel, since no PING gets out behind what is stuck.
const USER_TIMEOUT: Duration = Duration::from_secs(20);

/// Dials.
///
/// # Errors
///
/// When any of the steps fails or takes too long.
pub(super) async fn dial(place: &Place, identity: &Identity) -> Result<TlsStream<TcpStream>, Why> {
    let Place { target, way } = place;
    let socket = way.reach.open(target).await?;
    give_up_after(USER_TIMEOUT, &socket).map_err(|error| Why::Connect(error.to_string()))?;
    let stream = secure(socket, identity.tls.clone(), &way.name).await?;
    // A server that does not know the protocol may finish the handshake all the same.
    if stream.get_ref().1.alpn_protocol() == Some(ALPN) {
        Ok(stream)
    } else {
        Err(Why::NotServed(format!("connectors under the name {}", way.name)))
    }
}

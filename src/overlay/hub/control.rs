//! The control stream: the first stream of a tunnel, an object in each line both ways.
//!
//! Invariant: no more than one object is held, and none that is longer than the protocol says.

use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use h2::{PingPong, RecvStream, SendStream};
use http::header::CONTENT_TYPE;
use http::{Request, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::overlay::protocol::lines::Lines;
use crate::overlay::protocol::{
    CONNECTION_WINDOW, CONTROL_PATH, CONTROL_TYPE, Fault, FromConnector, FromGateway, MAX_HEADER_LIST, MAX_STREAMS,
    STREAM_WINDOW, decode, encode,
};

/// Room for small frames that nobody has taken yet. On its default one caller who stops reading
/// ends the connection for all; what it guards, memory, is bounded by the windows, and every stream
/// is taken from the connection as it comes.
const SMALL_FRAMES: usize = 64 << 20;
/// Until the connector's own limit is known: more could be refused.
const FIRST_STREAMS: usize = 10;
/// Streams of which we remember that we have reset them, while their data is still on its way.
const RESET_STREAMS: usize = 1000;
/// How long a last word may take to leave.
const FAREWELL: Duration = Duration::from_millis(200);

/// A connection whose control stream is open.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) control: Control,
    pub(super) connection: Driven,
    pub(super) requests: SendRequest<Bytes>,
    pub(super) ping_pong: PingPong,
}

/// The control stream.
#[derive(Debug)]
pub(super) struct Control {
    lines: Lines,
    body: RecvStream,
    out: SendStream<Bytes>,
}

/// The task that moves the connection's frames; without it there is no connection.
#[derive(Debug)]
pub(super) struct Driven(JoinHandle<()>);

impl Drop for Driven {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Why nothing more comes.
#[derive(Debug, thiserror::Error)]
pub(super) enum Ended {
    /// The connector has ended the stream, or the connection is lost.
    #[error("{0}")]
    Lost(String),
    /// What came is not the protocol.
    #[error("{0}")]
    Wrong(#[from] Fault),
}

/// Begins HTTP/2 as its client on a connection that was accepted, and opens the control stream.
pub(super) async fn open<S>(stream: S) -> Result<Opened, Ended>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let lost = |error: h2::Error| Ended::Lost(error.to_string());
    let (requests, mut connection) = h2::client::Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(MAX_HEADER_LIST)
        .initial_max_send_streams(FIRST_STREAMS)
        .data_frame_budget(SMALL_FRAMES)
        // Never given back: cancelled requests would end the connection after so many.
        .max_local_error_reset_streams(None)
        .max_concurrent_reset_streams(RESET_STREAMS)
        .enable_push(false)
        .handshake(stream)
        .await
        .map_err(lost)?;
    let ping_pong = connection.ping_pong().ok_or_else(|| Ended::Lost("no PINGs".to_owned()))?;
    let connection = Driven(tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a tunnel's connection broke");
        }
    }));
    let mut requests = requests.ready().await.map_err(lost)?;
    let request = Request::post(format!("https://connector{CONTROL_PATH}"))
        .header(CONTENT_TYPE, CONTROL_TYPE)
        .body(())
        .map_err(|error| Ended::Lost(error.to_string()))?;
    let (response, out) = requests.send_request(request, false).map_err(lost)?;
    let response = response.await.map_err(lost)?;
    if response.status() != StatusCode::OK {
        return Err(Ended::Lost(format!("the control stream was answered with {}", response.status())));
    }
    let control = Control { lines: Lines::default(), body: response.into_body(), out };
    Ok(Opened { control, connection, requests, ping_pong })
}

impl Control {
    /// The next message. Objects of unknown types are passed over. May be dropped and asked again.
    pub(super) async fn next(&mut self) -> Result<FromConnector, Ended> {
        loop {
            while let Some(line) = self.lines.next_line()? {
                if let Some(message) = decode(&line)? {
                    return Ok(message);
                }
            }
            match self.body.data().await {
                Some(Ok(data)) => {
                    let credit = self.body.flow_control().release_capacity(data.len());
                    credit.map_err(|error| Ended::Lost(error.to_string()))?;
                    self.lines.push(&data);
                }
                Some(Err(error)) => return Err(Ended::Lost(error.to_string())),
                None => return Err(Ended::Lost("the connector has ended the control stream".to_owned())),
            }
        }
    }

    /// Says something. That it cannot be said any more is no news: the connection tells.
    pub(super) fn say(&mut self, message: &FromGateway) {
        match encode(message) {
            Ok(line) => {
                let _ = self.out.send_data(line, false).is_ok();
            }
            Err(fault) => tracing::error!(%fault, "a message for a connector cannot be written"),
        }
    }

    /// Lets what was said leave, and the connector hang up first; then there is no connection.
    pub(super) async fn part(mut self, mut connection: Driven) {
        let _ = self.out.send_data(Bytes::new(), true).is_ok();
        if !connection.0.is_finished() {
            let _ = timeout(FAREWELL, connection.over()).await.is_ok();
        }
    }
}

impl Driven {
    /// Waits for the end of the connection.
    pub(super) async fn over(&mut self) {
        // A panic in it is an end as well.
        let _ = (&mut self.0).await.is_ok();
    }
}

/// How many requests a connection may carry at once: what the connector says, what its HTTP/2 says
/// (where the control stream counts too), and what the windows hold.
pub(super) fn limit(requests: &SendRequest<Bytes>, max_streams: u32) -> u32 {
    let allowed = u32::try_from(requests.current_max_send_streams()).unwrap_or(u32::MAX).saturating_sub(1);
    max_streams.min(allowed).min(MAX_STREAMS)
}

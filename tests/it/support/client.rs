//! What well-behaved clients do not do: bytes of the test's choosing, and bodies that come late.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::client::TlsStream;

use super::{LONG, World, within};

/// A request body that the test sends piece by piece. It ends when the sender is dropped.
pub(crate) struct ChannelBody(mpsc::Receiver<Bytes>);

impl ChannelBody {
    pub(crate) fn channel() -> (mpsc::Sender<Bytes>, super::caller::Body) {
        let (sender, receiver) = mpsc::channel(8);
        (sender, Self(receiver).boxed())
    }
}

impl Body for ChannelBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.0.poll_recv(context).map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
    }
}

/// A TLS connection with bytes in it.
pub(crate) struct RawLine {
    pub(crate) stream: TlsStream<TcpStream>,
    buffer: Vec<u8>,
}

impl RawLine {
    pub(crate) const fn new(stream: TlsStream<TcpStream>) -> Self {
        Self { stream, buffer: Vec::new() }
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.unwrap();
        self.stream.flush().await.unwrap();
    }

    /// Everything up to and with `mark`.
    #[track_caller]
    pub(crate) fn read_until(&mut self, mark: &str) -> impl Future<Output = String> {
        let what = format!("{mark:?} comes");
        let wait = async move {
            loop {
                let found = self.buffer.windows(mark.len()).position(|window| window == mark.as_bytes());
                if let Some(at) = found {
                    return String::from_utf8(self.buffer.drain(..at + mark.len()).collect()).unwrap();
                }
                let count = self.stream.read_buf(&mut self.buffer).await.unwrap();
                assert!(count > 0, "the end came first, after {:?}", String::from_utf8_lossy(&self.buffer));
            }
        };
        async move { within(LONG, &what, wait).await }
    }

    /// The next answer: its status, its head and its body of a known length.
    pub(crate) async fn answer(&mut self) -> RawAnswer {
        let head = self.read_until("\r\n\r\n").await;
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let mut answer = RawAnswer { status, head, body: String::new() };
        let length = answer.value("content-length").map_or(0, |length| length.parse().unwrap());
        within(LONG, "the body comes", async {
            while self.buffer.len() < length {
                assert!(self.stream.read_buf(&mut self.buffer).await.unwrap() > 0, "the end came first");
            }
        })
        .await;
        answer.body = String::from_utf8(self.buffer.drain(..length).collect()).unwrap();
        answer
    }

    /// What comes until the connection ends; true when it was closed without TLS's goodbye.
    pub(crate) async fn read_to_end(&mut self) -> (String, bool) {
        within(LONG, "the connection ends", async {
            let mut bytes = std::mem::take(&mut self.buffer);
            let cut = self.stream.read_to_end(&mut bytes).await.is_err();
            (String::from_utf8_lossy(&bytes).into_owned(), cut)
        })
        .await
    }
}

/// An answer as it came.
#[derive(Debug)]
pub(crate) struct RawAnswer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl RawAnswer {
    /// The value of a header.
    pub(crate) fn value(&self, name: &str) -> Option<&str> {
        let fields = self.head.lines().skip(1).filter_map(|line| line.split_once(':'));
        fields.filter(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).next()
    }

    /// As [`Whole::assert_refused`](super::Whole::assert_refused).
    pub(crate) async fn assert_refused(&self, world: &World, status: u16, code: &str) -> Value {
        let record = world.record(self.value("x-request-id").unwrap()).await;
        assert_eq!((self.status, record["code"].as_str()), (status, Some(code)), "{self:?} {record}");
        assert_eq!((&record["outcome"], &record["status"]), (&"refused".into(), &status.into()), "{record}");
        record
    }
}

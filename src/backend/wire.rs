//! One connection to a backend: an exchange at a time, in HTTP/1.1.
//!
//! Our own, because the request path needs less than a general client and pays for each task and
//! channel between it and the socket (measured: `design/performance.md`). No task of its own, no
//! channel: whoever awaits the reply reads the socket.
//!
//! Invariant: [`Wire::is_reusable`] is true only when the last exchange is complete in both
//! directions, neither side said close, and not a byte came beyond it.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use futures_util::task::noop_waker_ref;
use http::StatusCode;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::io::poll_read_buf;

use crate::backend::chunked::Decoder;
use crate::backend::connect::Stream;
use crate::backend::reply::{Fields, Framing, Head, take_head};

/// Read at once while little comes in, and while much does.
const READ: usize = 8 * 1024;
const READ_MUCH: usize = 64 * 1024;

/// A connection to a backend.
#[derive(Debug)]
pub struct Wire {
    stream: Stream,
    buffer: BytesMut,
    /// What is left of the request.
    unsent: Vec<Bytes>,
    flushed: bool,
    framing: Framing,
    keep_alive: bool,
    read_at_once: usize,
}

/// Where the rest of a request comes from while it is being sent.
pub trait Source {
    /// The next piece, framed as it goes on the wire; `None` when that was all. An error ends the
    /// exchange: the request cannot be made whole any more.
    fn poll_piece(&mut self, context: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>>;
}

/// Of a request that is all there, nothing more comes.
struct Nothing;

impl Source for Nothing {
    fn poll_piece(&mut self, _: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        Poll::Ready(None)
    }
}

/// A request on its way.
struct Upload<'s, S> {
    source: &'s mut S,
    /// The source has given its last piece.
    exhausted: bool,
    sent_any: bool,
}

/// Pieces are gathered up to so many bytes before they are written.
const GATHERED: usize = 64 * 1024;

impl<S: Source> Upload<'_, S> {
    /// Takes what is there. True when there is no more for now.
    fn gather(&mut self, context: &mut Context<'_>, unsent: &mut Vec<Bytes>) -> Result<bool, Failure> {
        let mut gathered: usize = unsent.iter().map(Bytes::len).sum();
        while !self.exhausted && gathered < GATHERED {
            match self.source.poll_piece(context) {
                Poll::Ready(Some(Ok(piece))) => {
                    gathered += piece.len();
                    unsent.push(piece);
                }
                Poll::Ready(Some(Err(error))) => {
                    return Err(Failure::Broke(format!("the request ended early: {error}")));
                }
                Poll::Ready(None) => self.exhausted = true,
                Poll::Pending => return Ok(true),
            }
        }
        Ok(self.exhausted)
    }
}

/// Why no reply came.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The connection was closed before anything of the request left.
    #[error("closed before the request was sent")]
    NothingSent,
    /// The connection broke with the request under way.
    #[error("{0}")]
    Broke(String),
}

impl Wire {
    /// A connection that has carried nothing yet.
    #[must_use]
    pub fn new(stream: Stream) -> Self {
        Self {
            stream,
            buffer: BytesMut::new(),
            unsent: Vec::new(),
            flushed: true,
            framing: Framing::Length(0),
            keep_alive: true,
            read_at_once: READ,
        }
    }

    /// Sends a request and waits for the head of its reply. A backend may reply before it has read
    /// the whole request; the connection is not used again then.
    ///
    /// # Errors
    ///
    /// See [`Failure`].
    pub async fn exchange(&mut self, request: Vec<Bytes>) -> Result<(StatusCode, Fields), Failure> {
        self.exchange_from(request, &mut Nothing).await
    }

    /// The same for a request that is still coming: `begin` is sent first, then what `source`
    /// gives.
    ///
    /// # Errors
    ///
    /// See [`Failure`]. After [`Failure::NothingSent`] pieces may have been taken from the source.
    pub async fn exchange_from(
        &mut self,
        begin: Vec<Bytes>,
        source: &mut impl Source,
    ) -> Result<(StatusCode, Fields), Failure> {
        self.unsent = begin;
        self.flushed = false;
        let mut upload = Upload { source, exhausted: false, sent_any: false };
        let head = std::future::poll_fn(|context| self.poll_exchange(context, &mut upload)).await?;
        self.framing = head.framing;
        self.keep_alive = head.keep_alive && upload.exhausted && self.unsent.is_empty() && self.flushed;
        Ok((head.status, head.fields))
    }

    fn poll_exchange<S: Source>(
        &mut self,
        context: &mut Context<'_>,
        upload: &mut Upload<'_, S>,
    ) -> Poll<Result<Head, Failure>> {
        if let Poll::Ready(Err(failure)) = self.poll_upload(context, upload) {
            return Poll::Ready(Err(failure));
        }
        loop {
            match take_head(&mut self.buffer) {
                Ok(Some(head)) => return Poll::Ready(Ok(head)),
                Ok(None) => {}
                Err(fault) => return Poll::Ready(Err(Failure::Broke(fault.to_string()))),
            }
            match ready!(self.poll_fill(context)) {
                Ok(0) => return Poll::Ready(Err(Failure::Broke("closed without a reply".to_owned()))),
                Ok(_) => {}
                Err(error) => return Poll::Ready(Err(Failure::Broke(error.to_string()))),
            }
        }
    }

    fn poll_upload<S: Source>(
        &mut self,
        context: &mut Context<'_>,
        upload: &mut Upload<'_, S>,
    ) -> Poll<Result<(), Failure>> {
        loop {
            let dry = upload.gather(context, &mut self.unsent)?;
            match ready!(self.poll_send(context, &mut upload.sent_any)) {
                Ok(()) if dry && upload.exhausted => return Poll::Ready(Ok(())),
                Ok(()) if dry => return Poll::Pending,
                Ok(()) => {}
                Err(_) if !upload.sent_any => return Poll::Ready(Err(Failure::NothingSent)),
                // A backend that refuses a request closes its side: what it said is worth more than
                // the error of writing on.
                Err(_) => return Poll::Ready(Ok(())),
            }
        }
    }

    fn poll_send(&mut self, context: &mut Context<'_>, sent_any: &mut bool) -> Poll<io::Result<()>> {
        while !self.unsent.is_empty() {
            let stream = Pin::new(&mut self.stream);
            let writing = if let [only] = self.unsent.as_slice() {
                stream.poll_write(context, only)
            } else {
                let slices: Vec<IoSlice<'_>> = self.unsent.iter().map(|piece| IoSlice::new(piece)).collect();
                stream.poll_write_vectored(context, &slices)
            };
            let mut written = ready!(writing)?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            *sent_any = true;
            self.flushed = false;
            self.unsent.retain_mut(|piece| {
                let taken = written.min(piece.len());
                piece.advance(taken);
                written -= taken;
                !piece.is_empty()
            });
        }
        if !self.flushed {
            ready!(Pin::new(&mut self.stream).poll_flush(context))?;
            self.flushed = true;
        }
        Poll::Ready(Ok(()))
    }

    /// The next data of the reply's body; `None` when it is complete.
    pub fn poll_body(&mut self, context: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        loop {
            match self.take_data() {
                Ok(Some(data)) => return Poll::Ready(Some(Ok(data))),
                Ok(None) if self.is_complete() => return Poll::Ready(None),
                Ok(None) => {}
                Err(error) => return Poll::Ready(Some(Err(error))),
            }
            match (ready!(self.poll_fill(context)), &self.framing) {
                (Ok(0), Framing::UntilClose) => {
                    self.framing = Framing::Length(0);
                    return Poll::Ready(None);
                }
                (Ok(0), Framing::Length(_) | Framing::Chunked(_)) => {
                    return Poll::Ready(Some(Err(io::ErrorKind::UnexpectedEof.into())));
                }
                (Ok(_), _) => {}
                (Err(error), _) => return Poll::Ready(Some(Err(error))),
            }
        }
    }

    /// True when the reply's body is read to its end.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        match &self.framing {
            Framing::Length(left) => *left == 0,
            Framing::Chunked(decoder) => decoder.is_done(),
            Framing::UntilClose => false,
        }
    }

    /// How long the rest of the reply's body is, when that is known.
    #[must_use]
    pub const fn length(&self) -> Option<u64> {
        match &self.framing {
            Framing::Length(left) => Some(*left),
            Framing::Chunked(_) | Framing::UntilClose => None,
        }
    }

    /// The trailers of a reply that is complete, as name and value.
    pub fn trailers(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let decoder = if let Framing::Chunked(decoder) = &self.framing { Some(decoder) } else { None };
        decoder.into_iter().flat_map(Decoder::trailers)
    }

    /// True when the reply ends with the connection.
    #[must_use]
    pub fn ends_with_connection(&self) -> bool {
        self.framing == Framing::UntilClose
    }

    /// True when another exchange may begin.
    #[must_use]
    pub fn is_reusable(&self) -> bool {
        self.keep_alive && self.is_complete() && self.buffer.is_empty()
    }

    /// True when the backend has closed an idle connection, or said something unasked.
    pub fn is_stale(&mut self) -> bool {
        let mut byte = [0];
        let mut buffer = ReadBuf::new(&mut byte);
        let mut context = Context::from_waker(noop_waker_ref());
        Pin::new(&mut self.stream).poll_read(&mut context, &mut buffer).is_ready()
    }

    fn take_data(&mut self) -> io::Result<Option<Bytes>> {
        match &mut self.framing {
            Framing::Length(left) => {
                let length = usize::try_from(*left).unwrap_or(usize::MAX).min(self.buffer.len());
                *left -= length as u64;
                Ok(if length == 0 { None } else { Some(self.buffer.split_to(length).freeze()) })
            }
            Framing::Chunked(decoder) => decoder.decode(&mut self.buffer).map_err(io::Error::other),
            Framing::UntilClose => Ok(if self.buffer.is_empty() { None } else { Some(self.buffer.split().freeze()) }),
        }
    }

    fn poll_fill(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.buffer.reserve(self.read_at_once);
        let room = self.buffer.capacity() - self.buffer.len();
        let read = ready!(poll_read_buf(Pin::new(&mut self.stream), context, &mut self.buffer))?;
        self.read_at_once = if read >= room { READ_MUCH } else { READ };
        Poll::Ready(Ok(read))
    }
}

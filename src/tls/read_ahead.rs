//! Larger reads for large bodies, without memory for idle connections.
//!
//! rustls asks the socket for 4 KiB at a time: 64 system calls for a 256 KiB prompt. A buffer for
//! each connection would cost more than the rest of an idle one. So the buffer comes when reads
//! come back full, and goes when the socket has nothing more.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

const LARGE: usize = 64 * 1024;

/// A stream that reads ahead while much is coming in.
#[derive(Debug)]
pub struct ReadAhead<S> {
    stream: S,
    /// Bytes read and not yet taken: `ahead[taken..]`. Empty capacity while little is coming in.
    ahead: Vec<u8>,
    taken: usize,
    busy: bool,
}

impl<S> ReadAhead<S> {
    /// Wraps a stream.
    pub const fn new(stream: S) -> Self {
        Self { stream, ahead: Vec::new(), taken: 0, busy: false }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ReadAhead<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.taken == this.ahead.len() {
            if !this.busy {
                let room = out.remaining();
                ready!(Pin::new(&mut this.stream).poll_read(context, out))?;
                this.busy = room > 0 && out.remaining() == 0;
                return Poll::Ready(Ok(()));
            }
            this.taken = 0;
            this.ahead.resize(LARGE, 0);
            let mut buffer = ReadBuf::new(&mut this.ahead);
            let polled = Pin::new(&mut this.stream).poll_read(context, &mut buffer);
            let filled = buffer.filled().len();
            this.ahead.truncate(filled);
            if polled.is_pending() || filled < LARGE / 4 {
                this.busy = false;
            }
            if polled.is_pending() || filled == 0 {
                this.ahead = Vec::new();
            }
            ready!(polled)?;
        }
        let rest = this.ahead.get(this.taken..).unwrap_or_default();
        let length = rest.len().min(out.remaining());
        out.put_slice(rest.get(..length).unwrap_or_default());
        this.taken += length;
        if this.taken == this.ahead.len() && !this.busy {
            this.ahead = Vec::new();
            this.taken = 0;
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ReadAhead<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let stream = Pin::new(&mut self.stream);
        match slices {
            // What TLS has to say is one record most of the time, and a plain write costs the kernel less.
            [only] => stream.poll_write(context, only),
            several => stream.poll_write_vectored(context, several),
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test]
    async fn every_byte_comes_once_and_in_order() {
        let sent: Vec<u8> = (0..400_000u32).map(|n| u8::try_from(n % 251).unwrap()).collect();
        let (mut near, far) = duplex(100_000);
        let mut reader = ReadAhead::new(far);
        let expected = sent.clone();
        let writing = tokio::spawn(async move { near.write_all(&sent).await });
        let mut received = Vec::new();
        let mut piece = [0; 4096];
        loop {
            let length = reader.read(&mut piece).await.unwrap();
            if length == 0 {
                break;
            }
            received.extend_from_slice(&piece[..length]);
        }
        writing.await.unwrap().unwrap();
        assert!(received == expected);
        assert_eq!(reader.ahead.capacity(), 0, "no memory for a quiet connection");
    }
}

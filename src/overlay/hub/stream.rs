//! One request over a tunnel: sent, and its reply drained into a mailbox.
//!
//! Invariant: a reply is taken from the connection as it comes, and waits in the mailbox for its
//! caller, so that a caller who does not read parks nothing in the connection that others share. A
//! caller who takes nothing for too long loses the reply. And whoever leaves early resets the
//! stream, request body and reply alike.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use h2::client::ResponseFuture;
use h2::{Reason, RecvStream, SendStream};
use http::header::CONTENT_LENGTH;
use http::{Request, response};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::overlay::hub::mailbox::{Ending, Mailbox};
use crate::overlay::hub::tunnels::{Entered, Seat};
use crate::overlay::protocol::{CONNECTOR_ENDS, CONNECTOR_ERROR, ConnectorError, ENDS_WITH_CONNECTION};

/// Why no reply came.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Failure {
    /// The connection was lost, or leaving, before the connector has looked at the request: it may
    /// go over another.
    #[error("not taken: {0}")]
    NotTaken(String),
    /// The connector could not connect to the backend: the request may go to another target.
    #[error("the connector cannot reach it")]
    ConnectFailed,
    /// The backend may have seen the request.
    #[error("{0}")]
    Broke(String),
    /// The connector has waited for too long.
    #[error("the connector waited in vain")]
    TimedOut,
}

/// The caller's side of a request over a tunnel. Dropped before its end, it resets the stream.
#[derive(Debug)]
pub struct Incoming {
    mailbox: Arc<Mailbox>,
    length: Option<u64>,
    ends_with_connection: bool,
}

impl Drop for Incoming {
    fn drop(&mut self) {
        self.mailbox.lock().gone = true;
        self.mailbox.pump.wake();
    }
}

/// Sends a request over the tunnel of `seat` and waits for the head of its reply.
///
/// # Errors
///
/// See [`Failure`].
pub async fn exchange(
    seat: Seat,
    head: Request<()>,
    body: Vec<Bytes>,
    stalled: Duration,
) -> Result<(response::Parts, Incoming), Failure> {
    let not_taken = |error: h2::Error| Failure::NotTaken(error.to_string());
    let gone = || Failure::NotTaken("the tunnel has closed".to_owned());
    let sender = seat.tunnel().sender().ok_or_else(gone)?;
    let mut sender = sender.ready().await.map_err(not_taken)?;
    let mut pieces: VecDeque<Bytes> = body.into();
    pieces.retain(|piece| !piece.is_empty());
    let mailbox = Mailbox::new();
    let entered = seat.enter(&mailbox).ok_or_else(gone)?;
    let (response, upload) = sender.send_request(head, pieces.is_empty()).map_err(not_taken)?;
    let pump = Pump {
        mailbox: Arc::clone(&mailbox),
        phase: Phase::Head(response),
        upload,
        pieces,
        unreleased: 0,
        received: 0,
        announced: None,
        patience: Patience { span: stalled, taken: 0, vain: 0, timer: None },
        entered,
    };
    tokio::spawn(pump);
    let mut incoming = Incoming { mailbox, length: None, ends_with_connection: false };
    let head = incoming.head().await?;
    if let Some(error) = head.headers.get(CONNECTOR_ERROR) {
        return Err(match ConnectorError::parse(error.as_bytes()) {
            Some(ConnectorError::ConnectFailed) => Failure::ConnectFailed,
            Some(ConnectorError::Timeout) => Failure::TimedOut,
            Some(refused @ (ConnectorError::NotFound | ConnectorError::Refused)) => {
                Failure::Broke(format!("the connector says {}", refused.as_str()))
            }
            None => Failure::Broke("the connector says an error that is not known".to_owned()),
        });
    }
    incoming.length = announced(&head)?;
    incoming.ends_with_connection =
        head.headers.get(CONNECTOR_ENDS).is_some_and(|ends| ends.as_bytes() == ENDS_WITH_CONNECTION.as_bytes());
    Ok((head, incoming))
}

fn announced(head: &response::Parts) -> Result<Option<u64>, Failure> {
    let mut lengths = head.headers.get_all(CONTENT_LENGTH).iter();
    let (first, second) = (lengths.next(), lengths.next());
    let ambiguous = || Failure::Broke("the reply's framing is ambiguous".to_owned());
    match (first, second) {
        (None, _) => Ok(None),
        (Some(length), None) => {
            let text = length.to_str().map_err(|_| ambiguous())?;
            let plain = !text.is_empty() && text.len() <= 18 && text.bytes().all(|b| b.is_ascii_digit());
            text.parse().ok().filter(|_| plain).map(Some).ok_or_else(ambiguous)
        }
        (Some(_), Some(_)) => Err(ambiguous()),
    }
}

impl Incoming {
    async fn head(&mut self) -> Result<response::Parts, Failure> {
        std::future::poll_fn(|context| {
            self.mailbox.reader.register(context.waker());
            let mut inside = self.mailbox.lock();
            if let Some(head) = inside.head.take() {
                return Poll::Ready(Ok(head));
            }
            match &inside.ending {
                Some(Ending::Failed(failure)) => Poll::Ready(Err(failure.clone())),
                Some(Ending::Whole) => Poll::Ready(Err(Failure::Broke("it ended without a reply".to_owned()))),
                None => Poll::Pending,
            }
        })
        .await
    }

    /// The next data of the reply's body; `None` when it is complete.
    pub fn poll_body(&mut self, context: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        self.mailbox.reader.register(context.waker());
        let mut inside = self.mailbox.lock();
        if let Some(chunk) = inside.take() {
            let wake = inside.starved && inside.has_room();
            drop(inside);
            if wake {
                self.mailbox.pump.wake();
            }
            self.length = self.length.map(|length| length.saturating_sub(chunk.len() as u64));
            return Poll::Ready(Some(Ok(chunk)));
        }
        match &inside.ending {
            Some(Ending::Whole) => Poll::Ready(None),
            Some(Ending::Failed(failure)) => Poll::Ready(Some(Err(io::Error::other(failure.to_string())))),
            None => Poll::Pending,
        }
    }

    /// True when the reply's body is read to its end.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        let inside = self.mailbox.lock();
        inside.held == 0 && matches!(inside.ending, Some(Ending::Whole))
    }

    /// How long the rest of the reply's body is, when that is known.
    #[must_use]
    pub const fn length(&self) -> Option<u64> {
        self.length
    }

    /// True when the backend marked the end of its reply only by closing its connection.
    #[must_use]
    pub const fn ends_with_connection(&self) -> bool {
        self.ends_with_connection
    }
}

/// What moves the bytes of one request, in a task of its own.
#[derive(Debug)]
struct Pump {
    mailbox: Arc<Mailbox>,
    phase: Phase,
    upload: SendStream<Bytes>,
    /// What is left of the request.
    pieces: VecDeque<Bytes>,
    /// Bytes that came and for which no new credit was given yet.
    unreleased: usize,
    received: u64,
    announced: Option<u64>,
    patience: Patience,
    entered: Entered,
}

#[derive(Debug)]
enum Phase {
    Head(ResponseFuture),
    Body(RecvStream),
    Trailers(RecvStream),
    Over,
}

/// Watches whether the caller takes what waits for it: looks four times in its span.
#[derive(Debug)]
struct Patience {
    span: Duration,
    /// `taken` when it looked last.
    taken: u64,
    /// Looks since then at which something waited and nothing had been taken.
    vain: u32,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Future for Pump {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        this.mailbox.pump.register(context.waker());
        if this.is_abandoned() {
            this.upload.send_reset(Reason::CANCEL);
            return Poll::Ready(());
        }
        this.send(context);
        this.receive(context);
        this.give_credit();
        if matches!(this.phase, Phase::Over) {
            return Poll::Ready(());
        }
        if this.patience.is_over(&this.mailbox, context) {
            this.mailbox.fail(Failure::Broke("the caller takes nothing".to_owned()));
            this.upload.send_reset(Reason::CANCEL);
            return Poll::Ready(());
        }
        Poll::Pending
    }
}

impl Pump {
    /// The caller has gone, or the tunnel was cut.
    fn is_abandoned(&self) -> bool {
        let inside = self.mailbox.lock();
        inside.gone || inside.ending.is_some()
    }

    /// Sends as much of the request as there is credit for. That it cannot go on is no news: the
    /// reply tells why.
    fn send(&mut self, context: &mut Context<'_>) {
        while let Some(piece) = self.pieces.front_mut() {
            self.upload.reserve_capacity(piece.len());
            let mut room = self.upload.capacity();
            while room == 0 {
                match self.upload.poll_capacity(context) {
                    Poll::Ready(Some(Ok(more))) => room = more,
                    Poll::Ready(Some(Err(_)) | None) => return self.pieces.clear(),
                    Poll::Pending => return,
                }
            }
            let part = piece.split_to(room.min(piece.len()));
            if piece.is_empty() {
                self.pieces.pop_front();
            }
            self.entered.tunnel().counted.sent(part.len());
            if self.upload.send_data(part, self.pieces.is_empty()).is_err() {
                return self.pieces.clear();
            }
        }
    }

    fn receive(&mut self, context: &mut Context<'_>) {
        let mut news = false;
        loop {
            let next = match &mut self.phase {
                Phase::Head(response) => match Pin::new(response).poll(context) {
                    Poll::Pending => break,
                    Poll::Ready(Ok(reply)) => {
                        let (head, body) = reply.into_parts();
                        self.announced = announced(&head).ok().flatten();
                        self.mailbox.lock().head = Some(head);
                        Phase::Body(body)
                    }
                    Poll::Ready(Err(error)) => {
                        if error.is_go_away() {
                            // It takes no other request either.
                            self.entered.tunnel().leaves();
                        }
                        self.over(Ending::Failed(refused(&error)))
                    }
                },
                Phase::Body(body) => match body.poll_data(context) {
                    Poll::Pending => break,
                    Poll::Ready(Some(Ok(data))) => {
                        self.unreleased += data.len();
                        self.received += data.len() as u64;
                        self.entered.tunnel().counted.received(data.len());
                        self.mailbox.lock().put(data);
                        news = true;
                        continue;
                    }
                    Poll::Ready(Some(Err(error))) => self.over(Ending::Failed(broke(&error))),
                    Poll::Ready(None) => match std::mem::replace(&mut self.phase, Phase::Over) {
                        Phase::Body(body) => Phase::Trailers(body),
                        other @ (Phase::Head(_) | Phase::Trailers(_) | Phase::Over) => other,
                    },
                },
                // They say nothing that callers are told, as with direct backends; and they may be
                // where the stream breaks.
                Phase::Trailers(body) => match body.poll_trailers(context) {
                    Poll::Pending => break,
                    Poll::Ready(Ok(_)) => self.over(self.ending()),
                    Poll::Ready(Err(error)) => self.over(Ending::Failed(broke(&error))),
                },
                Phase::Over => break,
            };
            self.phase = next;
            news = true;
        }
        if news {
            self.mailbox.reader.wake();
        }
    }

    /// The stream has ended cleanly: is the reply whole?
    fn ending(&self) -> Ending {
        match self.announced {
            Some(length) if length != self.received => {
                Ending::Failed(Failure::Broke("it is not as long as it said".to_owned()))
            }
            Some(_) | None => Ending::Whole,
        }
    }

    fn over(&self, ending: Ending) -> Phase {
        self.mailbox.lock().ending.get_or_insert(ending);
        Phase::Over
    }

    /// Gives the connector credit for what came, unless too much waits here.
    fn give_credit(&mut self) {
        let mut inside = self.mailbox.lock();
        inside.starved = self.unreleased > 0 && !inside.has_room();
        if inside.starved {
            return;
        }
        drop(inside);
        if let (Phase::Body(body), true) = (&mut self.phase, self.unreleased > 0)
            && body.flow_control().release_capacity(self.unreleased).is_ok()
        {
            self.unreleased = 0;
        }
    }
}

impl Patience {
    const LOOKS: u32 = 4;

    /// True when something has waited for too long. A reply whose pieces are taken at once costs no
    /// timer.
    fn is_over(&mut self, mailbox: &Mailbox, context: &mut Context<'_>) -> bool {
        let (waits, taken) = {
            let inside = mailbox.lock();
            (inside.held > 0, inside.taken)
        };
        if self.timer.is_none() && !waits {
            return false;
        }
        let next = self.span / Self::LOOKS;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(Instant::now() + next)));
        while timer.as_mut().poll(context).is_ready() {
            self.vain = if waits && taken == self.taken { self.vain + 1 } else { 0 };
            self.taken = taken;
            if self.vain >= Self::LOOKS {
                return true;
            }
            timer.as_mut().reset(Instant::now() + next);
        }
        false
    }
}

/// What an error says that came instead of a reply.
fn refused(error: &h2::Error) -> Failure {
    // Both say that nobody has looked at the request (RFC 9113, 6.8 and 8.7).
    let leaving = error.is_go_away() && error.is_remote() && error.reason() == Some(Reason::NO_ERROR);
    if leaving || error.reason() == Some(Reason::REFUSED_STREAM) {
        return Failure::NotTaken(error.to_string());
    }
    broke(error)
}

fn broke(error: &h2::Error) -> Failure {
    Failure::Broke(format!("the tunnel broke off: {error}"))
}

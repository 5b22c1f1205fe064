//! A backend's reply on its way to the caller: watched, counted, its model's alias restored.
//!
//! Invariant: a reply ends cleanly for the caller only if it was whole. Whatever else happens (the
//! backend breaks off or falls silent, the request is refused meanwhile) is said in the stream, in
//! the dialect's own words, and then the connection or stream is aborted: SDKs take a clean end
//! for a full answer.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Response, StatusCode};
use http_body::SizeHint;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::backend::transport::Passage;
use crate::dialect::errors::Shape;
use crate::dialect::relay::{Mode, Rewriter};
use crate::domain::event::Outcome;
use crate::domain::refusal::Refusal;
use crate::gate::forward::{Forwarded, Reply};
use crate::gate::headers;
use crate::gate::live::LiveGuard;
use crate::gate::record::Record;
use crate::gate::stream::ReplyBody;

/// Between the in-band error and the abort, so that the error is on the wire before the abort
/// throws away what is queued behind it.
const LAST_WORDS: Duration = Duration::from_millis(20);

/// Hands the reply on, and the record with it.
pub fn meter(forwarded: Forwarded, shape: Shape, mut record: Record) -> Response<ReplyBody> {
    let Forwarded { routed, stop, reply, manner } = forwarded;
    let Reply { status, fields, passage, first_event_by } = reply;
    let admitted = routed.admitted;
    let stop = routed.stops.get(stop);
    let alias = Some(&*admitted.request.model).filter(|alias| stop.is_none_or(|stop| *stop.model != **alias));
    let edited = alias.is_some() && manner.mode != Mode::Opaque;
    let now = Instant::now();
    record.replied(status.as_u16(), now);
    let headers = headers::to_caller(status, &fields, &record, edited);
    let relay = Relay {
        length: passage.length().filter(|_| !edited && status != StatusCode::NO_CONTENT),
        passage: Some(passage),
        rewriter: Rewriter::new(manner.mode, alias, manner.until_close.then_some(admitted.endpoint)),
        out: VecDeque::new(),
        stage: Stage::Flowing,
        record,
        live: admitted.live,
        shape,
        streamed: matches!(manner.mode, Mode::Sse | Mode::Ndjson),
        until_close: manner.until_close,
        watchdog: None,
        first_event_by,
        idle: stop.map_or(Duration::ZERO, |stop| stop.way.timeouts().idle),
        last_chunk: now,
    };
    let mut response = Response::new(ReplyBody::Relayed(Box::new(relay)));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

/// A reply on its way.
#[derive(Debug)]
pub struct Relay {
    rewriter: Rewriter,
    /// Pieces that are ready for the caller.
    out: VecDeque<Bytes>,
    stage: Stage,
    passage: Option<Passage>,
    record: Record,
    live: LiveGuard,
    shape: Shape,
    /// Bytes that are still to come, when that is known and they stay what they are.
    length: Option<u64>,
    /// True when the reply is a stream of events or lines.
    streamed: bool,
    until_close: bool,
    watchdog: Option<Pin<Box<Sleep>>>,
    first_event_by: Instant,
    idle: Duration,
    last_chunk: Instant,
}

#[derive(Debug)]
enum Stage {
    /// More is to come from the backend.
    Flowing,
    /// All came; what is in `out` is the rest.
    Complete,
    /// Something broke; after the pause the body fails.
    Breaking(Pin<Box<Sleep>>),
    /// Nothing more is to be said.
    Over,
}

impl Drop for Relay {
    fn drop(&mut self) {
        // It was ended, and its caller did not read on to hear of it.
        if let (Stage::Flowing, Some(refusal)) = (&self.stage, self.live.why_ended()) {
            self.record.ended(Outcome::Ended, Some(refusal));
        }
    }
}

impl Relay {
    /// The next piece for the caller.
    pub fn poll_data(&mut self, context: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        self.live.asked_for_more();
        loop {
            if let Some(piece) = next_piece(&mut self.out) {
                return Poll::Ready(Some(Ok(self.hand_out(piece))));
            }
            match &mut self.stage {
                Stage::Flowing => ready!(self.poll_backend(context)),
                Stage::Complete => {
                    self.close_well();
                }
                Stage::Breaking(pause) => {
                    ready!(pause.as_mut().poll(context));
                    self.stage = Stage::Over;
                    return Poll::Ready(Some(Err(io::Error::other("the reply broke off"))));
                }
                Stage::Over => return Poll::Ready(None),
            }
        }
    }

    /// True when nothing more will come.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.out.is_empty() && matches!(self.stage, Stage::Over)
    }

    /// The reply's length, when it is known and stays what it is.
    #[must_use]
    pub fn size_hint(&self) -> SizeHint {
        self.length.map_or_else(SizeHint::default, SizeHint::with_exact)
    }

    /// Takes from the backend until something is ready for the caller, or the stage changes.
    fn poll_backend(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if let Some(refusal) = self.live.poll_ended(context) {
            let refusal = refusal.clone();
            self.break_off(Outcome::Ended, &refusal);
            return Poll::Ready(());
        }
        let Some(passage) = &mut self.passage else {
            self.complete();
            return Poll::Ready(());
        };
        match passage.poll_body(context) {
            Poll::Ready(Some(Ok(data))) => {
                self.last_chunk = Instant::now();
                self.rewriter.push(data, &mut self.out);
                if self.rewriter.looks_into() {
                    self.record.worked_on_reply(self.last_chunk.elapsed());
                }
                if passage.is_complete() {
                    self.complete();
                }
                Poll::Ready(())
            }
            Poll::Ready(Some(Err(error))) => {
                self.break_off(Outcome::Broken, &Refusal::BackendBroke(format!("the reply broke off: {error}")));
                Poll::Ready(())
            }
            Poll::Ready(None) => {
                self.complete();
                Poll::Ready(())
            }
            Poll::Pending => self.poll_watchdog(context),
        }
    }

    /// Breaks off when the backend has been silent for too long. One timer, put off only when it
    /// fires: a chunk costs a look at the clock and nothing more.
    fn poll_watchdog(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let patience_ends =
            if self.streamed && !self.rewriter.saw_event() { self.first_event_by } else { self.last_chunk + self.idle };
        let watchdog = self.watchdog.get_or_insert_with(|| Box::pin(sleep_until(patience_ends)));
        // It was set for the first event, and after that one the wait is shorter.
        if watchdog.deadline() > patience_ends {
            watchdog.as_mut().reset(patience_ends);
        }
        while watchdog.as_mut().poll(context).is_ready() {
            if Instant::now() >= patience_ends {
                self.break_off(Outcome::Broken, &Refusal::BackendTimeout("the reply fell silent"));
                return Poll::Ready(());
            }
            watchdog.as_mut().reset(patience_ends);
        }
        Poll::Pending
    }

    /// The backend has said all.
    fn complete(&mut self) {
        let mut rest = VecDeque::new();
        self.rewriter.finish(&mut rest);
        if self.until_close && !self.rewriter.saw_terminator() {
            // The rest is half a line: the error must not be glued to it.
            self.break_off(
                Outcome::Broken,
                &Refusal::BackendBroke("the stream ended without its terminator".to_owned()),
            );
            return;
        }
        self.out.append(&mut rest);
        if let Some(passage) = self.passage.take() {
            passage.give_back(self.last_chunk);
        }
        self.stage = Stage::Complete;
        if self.out.is_empty() {
            self.close_well();
        }
    }

    /// The caller's connection has taken all.
    fn close_well(&mut self) {
        self.record.ended(Outcome::Forwarded, None);
        self.stage = Stage::Over;
    }

    fn break_off(&mut self, outcome: Outcome, refusal: &Refusal) {
        self.passage = None;
        // In a reply of announced length the error could fill up what is missing.
        if self.streamed && self.length.is_none() {
            self.rewriter.interrupt(self.shape.stream_event(refusal), &mut self.out);
        }
        self.record.ended(outcome, Some(refusal));
        self.stage = Stage::Breaking(Box::pin(sleep_until(Instant::now() + LAST_WORDS)));
    }

    fn hand_out(&mut self, piece: Bytes) -> Bytes {
        self.record.sent(piece.len());
        self.live.handed_out(self.last_chunk);
        self.length = self.length.map(|length| length.saturating_sub(piece.len() as u64));
        if self.out.is_empty() && matches!(self.stage, Stage::Complete) {
            self.close_well();
        }
        piece
    }
}

/// Pieces smaller than this are joined: each would become a chunk, a DATA frame and a TLS record of
/// its own, and HTTP/2 peers end connections that bring too many tiny frames.
const SMALL: usize = 16 * 1024;

/// The next piece, joined with the small ones behind it.
fn next_piece(out: &mut VecDeque<Bytes>) -> Option<Bytes> {
    let first = out.pop_front()?;
    let fits = |length: usize, next: &Bytes| length + next.len() <= SMALL;
    if !out.front().is_some_and(|next| fits(first.len(), next)) {
        return Some(first);
    }
    let mut joined = BytesMut::with_capacity(SMALL.min(first.len() + out.iter().map(Bytes::len).sum::<usize>()));
    joined.extend_from_slice(&first);
    while let Some(next) = out.pop_front_if(|next| fits(joined.len(), next)) {
        joined.extend_from_slice(&next);
    }
    Some(joined.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_pieces_are_joined_and_none_is_lost() {
        let lengths = [1, 0, 20_000, 3, 16_000, 500, 2];
        let mut out: VecDeque<Bytes> = lengths.iter().map(|&length| Bytes::from(vec![7; length])).collect();
        let mut handed = Vec::new();
        while let Some(piece) = next_piece(&mut out) {
            handed.push(piece.len());
        }
        assert_eq!(handed, [1, 20_000, 16_003, 502]);
    }
}

//! What a response is made of, and what happens while its body drains.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::gate::meter::Relay;
use crate::gate::record::Record;

/// The body of a response. A backend's owns the record, which is written when the body is dropped.
#[derive(Debug)]
pub enum ReplyBody {
    /// Made by the gateway, all there.
    Whole(Whole),
    /// A backend's, on its way.
    Relayed(Box<Relay>),
}

/// A body that is all there.
#[derive(Debug)]
pub struct Whole {
    bytes: Bytes,
    record: Option<Box<Record>>,
}

impl Whole {
    /// Throws the bytes away: a response to HEAD has none.
    pub fn clear(&mut self) {
        self.bytes.clear();
    }

    /// Ends the record before the first byte is sent. A caller that never reads its refusal would
    /// otherwise hold a place in the queue of records, and its connection busy, for as long as it
    /// likes; callers that are nobody yet could so take all places.
    pub fn settle(&mut self) {
        if let Some(mut record) = self.record.take() {
            record.sent(self.bytes.len());
        }
    }
}

impl ReplyBody {
    /// A body that is all there. There is no record when there was no room for one.
    #[must_use]
    pub fn whole(bytes: Bytes, record: Option<Record>) -> Self {
        Self::Whole(Whole { bytes, record: record.map(Box::new) })
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        match &mut *self {
            Self::Whole(whole) => {
                let bytes = std::mem::take(&mut whole.bytes);
                Poll::Ready(Some(bytes).filter(|bytes| !bytes.is_empty()).map(|bytes| Ok(Frame::data(bytes))))
            }
            Self::Relayed(relay) => relay.poll_data(context).map(|data| data.map(|result| result.map(Frame::data))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(whole) => whole.bytes.is_empty(),
            Self::Relayed(relay) => relay.is_over(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(whole) => SizeHint::with_exact(whole.bytes.len() as u64),
            Self::Relayed(relay) => relay.size_hint(),
        }
    }
}

//! What came for one request and waits for its caller.
//!
//! Invariant: what waits is bounded: no further credit is given to the connector beyond [`MAILBOX`]
//! bytes. Small pieces that wait are joined: each alone would cost more than it holds.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use futures_util::task::AtomicWaker;
use http::response;

use crate::overlay::hub::stream::Failure;
use crate::overlay::protocol::STREAM_WINDOW;

/// Most bytes of one reply that wait for its caller.
pub(super) const MAILBOX: usize = 256 * 1024;
/// Pieces up to this size are joined with what waits already.
const SMALL: usize = 4 * 1024;
/// Joined pieces are as large as this.
const JOINED: usize = 16 * 1024;

/// How a stream ended.
#[derive(Clone, Debug)]
pub(super) enum Ending {
    Whole,
    Failed(Failure),
}

/// What came for one request and waits for its caller.
#[derive(Debug)]
pub(super) struct Mailbox {
    inside: Mutex<Inside>,
    pub(super) reader: AtomicWaker,
    pub(super) pump: AtomicWaker,
}

#[derive(Default, Debug)]
pub(super) struct Inside {
    pub(super) head: Option<response::Parts>,
    chunks: VecDeque<Bytes>,
    /// The last chunk, as long as it is being joined.
    tail: BytesMut,
    pub(super) held: usize,
    /// Pieces that were taken so far.
    pub(super) taken: u64,
    pub(super) ending: Option<Ending>,
    /// The caller has gone.
    pub(super) gone: bool,
    /// The pump holds back credit until there is room.
    pub(super) starved: bool,
}

impl Inside {
    pub(super) fn put(&mut self, data: Bytes) {
        self.held += data.len();
        if data.len() > SMALL {
            self.close_tail();
            self.chunks.push_back(data);
        } else if self.held == data.len() {
            // Nothing waits: it goes on as it is.
            self.chunks.push_back(data);
        } else {
            if self.tail.len() + data.len() > JOINED {
                self.close_tail();
            }
            self.tail.extend_from_slice(&data);
        }
    }

    pub(super) fn take(&mut self) -> Option<Bytes> {
        if self.chunks.is_empty() {
            self.close_tail();
        }
        let chunk = self.chunks.pop_front()?;
        self.held -= chunk.len();
        self.taken += 1;
        Some(chunk)
    }

    fn close_tail(&mut self) {
        if !self.tail.is_empty() {
            self.chunks.push_back(std::mem::take(&mut self.tail).freeze());
        }
    }

    pub(super) const fn has_room(&self) -> bool {
        self.held + STREAM_WINDOW as usize <= MAILBOX
    }
}

impl Mailbox {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { inside: Mutex::default(), reader: AtomicWaker::new(), pump: AtomicWaker::new() })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the request, as broken. What waits is thrown away.
    pub(super) fn cut(&self, why: &str) {
        self.fail(Failure::Broke(why.to_owned()));
        self.pump.wake();
    }

    pub(super) fn fail(&self, failure: Failure) {
        let mut inside = self.lock();
        if inside.ending.is_none() {
            inside.chunks.clear();
            inside.tail.clear();
            inside.held = 0;
            inside.ending = Some(Ending::Failed(failure));
        }
        drop(inside);
        self.reader.wake();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// However pieces come and are taken, every byte passes once and in order, what is held is
        /// counted, and small pieces that wait are joined.
        #[test]
        fn what_is_put_is_taken(steps in prop::collection::vec(prop_oneof![
            3 => (1usize..200).prop_map(Some),
            1 => (1usize..20_000).prop_map(Some),
            2 => Just(None),
        ], 0..80)) {
            let (mut inside, mut put, mut taken, mut byte) = (Inside::default(), Vec::new(), Vec::new(), 0u8);
            for step in steps {
                match step {
                    Some(length) => {
                        let piece: Vec<u8> = (0..length).map(|_| { byte = byte.wrapping_add(1); byte }).collect();
                        put.extend_from_slice(&piece);
                        inside.put(piece.into());
                    }
                    None => taken.extend(inside.take().into_iter().flatten()),
                }
                prop_assert_eq!(inside.held, put.len() - taken.len());
                prop_assert!(inside.tail.len() <= JOINED);
            }
            let mut small = 0;
            while let Some(piece) = inside.take() {
                small += usize::from(piece.len() <= SMALL);
                taken.extend_from_slice(&piece);
            }
            prop_assert_eq!(&taken, &put);
            prop_assert_eq!(inside.held, 0);
            // Beside large ones and full ones, only a few are small.
            prop_assert!(small <= put.len() / SMALL + 2);
        }

        /// There is room for as long as a stream's window more fits in.
        #[test]
        fn what_is_held_is_bounded(held in 0usize..(2 * MAILBOX)) {
            let inside = Inside { held, ..Inside::default() };
            prop_assert_eq!(inside.has_room(), held <= MAILBOX - STREAM_WINDOW as usize);
        }
    }
}

//! Where a reply names its model, found in one pass over JSON that arrives in pieces.
//!
//! Invariant: nothing is held. What was found depends on the bytes alone, never on how they were
//! cut. Only the levels that can name the model are read closely; deeper ones are skipped by their
//! brackets and strings.

use crate::dialect::seek;

/// A part of the piece that was fed last which belongs to the value of a model.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Found {
    pub(crate) start: usize,
    pub(crate) end: usize,
    /// True when the value begins here, false when it began in an earlier piece.
    pub(crate) begins: bool,
}

/// Reads one JSON value: an object with `model`, `message.model` or `response.model`, or anything.
#[derive(Debug)]
pub(crate) struct Finder {
    state: State,
    /// How many objects are read closely: 1 in the outer one, 2 in `message` or `response`.
    level: u8,
    /// How many containers are open inside a value that is skipped.
    depth: usize,
    key: [u8; LONGEST_KEY],
    /// Length of the key, of which only the beginning is kept.
    key_length: usize,
    after_backslash: bool,
    said_done: bool,
}

/// `response` and `message` are the longest keys of interest.
const LONGEST_KEY: usize = 8;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Start,
    KeyOrEnd,
    Key,
    InKey,
    Colon,
    Value,
    InModel,
    InText,
    InScalar,
    CommaOrEnd,
    Skipping,
    SkippingText,
    Over,
    Broken,
}

impl Finder {
    pub(crate) const fn new() -> Self {
        Self {
            state: State::Start,
            level: 0,
            depth: 0,
            key: [0; LONGEST_KEY],
            key_length: 0,
            after_backslash: false,
            said_done: false,
        }
    }

    /// True when the value is complete and only white space followed.
    pub(crate) const fn is_over(&self) -> bool {
        matches!(self.state, State::Over)
    }

    /// True when more may follow: neither complete nor broken.
    pub(crate) const fn is_open(&self) -> bool {
        !matches!(self.state, State::Over | State::Broken)
    }

    /// True when the object has `"done": true`.
    pub(crate) const fn said_done(&self) -> bool {
        self.said_done
    }

    /// Reads the next piece and adds what it holds of model values to `found`.
    pub(crate) fn feed(&mut self, bytes: &[u8], found: &mut Vec<Found>) {
        let mut at = 0;
        if self.state == State::InModel && !bytes.is_empty() {
            found.push(Found { start: 0, end: bytes.len(), begins: false });
        }
        if self.after_backslash && !bytes.is_empty() {
            self.after_backslash = false;
            at = 1;
        }
        while at < bytes.len() {
            at = match self.state {
                State::InKey | State::InModel | State::InText | State::SkippingText => self.in_string(bytes, at, found),
                State::Skipping => self.skip(bytes, at),
                State::InScalar => self.in_scalar(bytes, at),
                State::Broken => return,
                State::Start
                | State::KeyOrEnd
                | State::Key
                | State::Colon
                | State::Value
                | State::CommaOrEnd
                | State::Over => self.between(bytes, at, found),
            };
        }
    }

    /// Reads one byte between tokens, or crosses white space.
    fn between(&mut self, bytes: &[u8], at: usize, found: &mut Vec<Found>) -> usize {
        let Some(&byte) = bytes.get(at) else { return at };
        self.state = match (self.state, byte) {
            (state, b' ' | b'\t' | b'\r' | b'\n') => state,
            (State::Start, b'{') => self.enter(),
            (State::KeyOrEnd | State::Key, b'"') => {
                self.key_length = 0;
                State::InKey
            }
            (State::KeyOrEnd | State::CommaOrEnd, b'}') => self.leave(),
            (State::Colon, b':') => State::Value,
            (State::CommaOrEnd, b',') => State::Key,
            (State::Value, b'"') if self.key() == b"model" => {
                found.push(Found { start: at, end: bytes.len(), begins: true });
                State::InModel
            }
            (State::Value, b'"') => State::InText,
            (State::Value, b'{') if self.level == 1 && matches!(self.key(), b"message" | b"response") => self.enter(),
            (State::Start | State::Value, b'{' | b'[') => {
                self.depth = 1;
                State::Skipping
            }
            (State::Value, b'-' | b'0'..=b'9' | b't' | b'f' | b'n') => {
                self.said_done |= self.level == 1 && byte == b't' && self.key() == b"done";
                State::InScalar
            }
            _ => State::Broken,
        };
        at + 1
    }

    fn enter(&mut self) -> State {
        self.level += 1;
        State::KeyOrEnd
    }

    fn leave(&mut self) -> State {
        self.level = self.level.saturating_sub(1);
        self.after_value()
    }

    const fn after_value(&self) -> State {
        if self.level == 0 { State::Over } else { State::CommaOrEnd }
    }

    /// The key that was read last; empty when it is longer than any of interest.
    fn key(&self) -> &[u8] {
        self.key.get(..self.key_length).unwrap_or_default()
    }

    fn in_string(&mut self, bytes: &[u8], at: usize, found: &mut [Found]) -> usize {
        let stop = seek::string_stop(bytes, at);
        let stopped_by = bytes.get(stop);
        if self.state == State::InKey {
            self.add_to_key(bytes.get(at..stop).unwrap_or_default());
        }
        if stopped_by == Some(&b'\\') {
            // No key of interest is written with escapes by any backend.
            self.key_length = LONGEST_KEY + 1;
            self.after_backslash = stop + 1 == bytes.len();
            return stop + 2;
        }
        let Some(byte) = stopped_by else { return bytes.len() };
        let closed = *byte == b'"';
        if self.state == State::InModel
            && let Some(value) = found.last_mut()
        {
            value.end = stop + usize::from(closed);
        }
        self.state = match (closed, self.state) {
            (false, _) => State::Broken,
            (true, State::InKey) => State::Colon,
            (true, State::SkippingText) => State::Skipping,
            (true, _) => self.after_value(),
        };
        stop + 1
    }

    fn add_to_key(&mut self, part: &[u8]) {
        let kept = self.key.iter_mut().skip(self.key_length).zip(part);
        kept.for_each(|(slot, byte)| *slot = *byte);
        self.key_length = self.key_length.saturating_add(part.len());
    }

    fn in_scalar(&mut self, bytes: &[u8], at: usize) -> usize {
        let belongs = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'+');
        let rest = bytes.get(at..).unwrap_or_default();
        match rest.iter().position(|byte| !belongs(byte)) {
            Some(length) => {
                self.state = self.after_value();
                at + length
            }
            None => bytes.len(),
        }
    }

    fn skip(&mut self, bytes: &[u8], at: usize) -> usize {
        let stop = seek::structure_stop(bytes, at);
        match bytes.get(stop) {
            Some(b'"') => self.state = State::SkippingText,
            Some(b'{' | b'[') => self.depth += 1,
            Some(_) => {
                self.depth -= 1;
                if self.depth == 0 {
                    self.state = self.after_value();
                }
            }
            None => {}
        }
        stop + 1
    }
}

//! Replies on their way back: the alias in place of the backend's own name of the model, and what
//! the relay must know of a stream.
//!
//! Invariant: what comes out depends on the bytes and not on how they were cut into chunks. Only
//! the values of `model`, `message.model` and `response.model` change; everything else, comments
//! and data that is no JSON included, comes out byte for byte, as slices of what came in. A
//! complete line is never kept back, unless its data goes on in the next line of its event.

use std::collections::VecDeque;
use std::mem;

use bytes::Bytes;
use memchr::memmem;

use crate::dialect::finder::{Finder, Found};
use crate::dialect::framing::{Terminator, field};
use crate::domain::endpoint::Endpoint;

pub use crate::dialect::framing::Mode;

/// The most that is kept back of one event or line; what is longer passes unedited.
pub const MAX_HELD: usize = 1 << 20;

/// One reply on its way back.
#[derive(Debug)]
pub struct Rewriter {
    mode: Mode,
    /// The alias as a JSON string; `None` when nothing is to be replaced.
    alias: Option<Bytes>,
    /// `None` when nobody asks how the reply ends.
    watched: Option<Terminator>,
    saw_event: bool,
    saw_terminator: bool,
    finder: Finder,
    /// Model values of the line or piece at hand; kept for its memory.
    found: Vec<Found>,
    /// What came and did not go out yet: the beginning of a line, and before it the lines of an
    /// event whose data is not complete.
    held: Vec<u8>,
    /// Where the unfinished line begins in `held`.
    line_at: usize,
    /// The rest of the event passes unedited: it is too long.
    passing: bool,
    /// The beginning of the current line went out already.
    mid_line: bool,
    /// The last byte was a CR that ended a line; an LF after it belongs to it.
    after_cr: bool,
    /// The current event has data.
    in_data: bool,
    last_sent: Option<u8>,
}

/// What becomes of a line.
enum Verdict {
    Pass,
    Edit,
    /// Its data goes on in the next line.
    Hold,
}

impl Rewriter {
    /// A reply in `mode`. With an `alias` the model's name is replaced by it; without one the
    /// bytes pass untouched, at next to no cost once the first event was seen. `watched` is the
    /// endpoint when [`Self::saw_terminator`] will be asked for: when the reply has no length.
    #[must_use]
    pub fn new(mode: Mode, alias: Option<&str>, watched: Option<Endpoint>) -> Self {
        Self {
            mode,
            alias: alias.map(|alias| serde_json::Value::from(alias).to_string().into()),
            watched: watched.map(Terminator::of),
            saw_event: false,
            saw_terminator: false,
            finder: Finder::new(),
            found: Vec::new(),
            held: Vec::new(),
            line_at: 0,
            passing: false,
            mid_line: false,
            after_cr: false,
            in_data: false,
            last_sent: None,
        }
    }

    /// True once something of substance came: data of an event, a line, or any byte of a reply
    /// that is no stream. Comments do not count.
    #[must_use]
    pub const fn saw_event(&self) -> bool {
        self.saw_event
    }

    /// True once the reply said that it is complete: the dialect's last event or line, or the end
    /// of the JSON value. Known only when the endpoint was given to be watched.
    #[must_use]
    pub const fn saw_terminator(&self) -> bool {
        self.saw_terminator
    }

    /// False when chunks pass without a look at what is in them.
    #[must_use]
    pub const fn looks_into(&self) -> bool {
        self.alias.is_some() || self.watched.is_some() || matches!(self.mode, Mode::Sse | Mode::Ndjson)
    }

    /// Takes the next chunk of the reply, and adds to `out` all that can go on.
    pub fn push(&mut self, chunk: Bytes, out: &mut VecDeque<Bytes>) {
        let Some(last) = chunk.last().copied() else { return };
        match (self.mode, self.alias.is_some()) {
            (Mode::Opaque, _) => {
                self.saw_event = true;
                out.push_back(chunk);
            }
            (Mode::Json, _) => self.push_json(chunk, out),
            (Mode::Sse | Mode::Ndjson, true) => self.push_lines(&chunk, out),
            (Mode::Sse | Mode::Ndjson, false) => {
                if !self.saw_event || (self.watched.is_some() && !self.saw_terminator) {
                    self.push_lines(&chunk, &mut VecDeque::new());
                }
                self.last_sent = Some(last);
                out.push_back(chunk);
            }
        }
        if let Some(piece) = out.back() {
            self.last_sent = piece.last().copied();
        }
    }

    /// Takes the end of the reply: what is held goes on, a last line without its end included.
    pub fn finish(&mut self, out: &mut VecDeque<Bytes>) {
        let mut unsent = VecDeque::new();
        if self.line_at > 0 {
            self.end_held_event(&mut unsent);
        } else if !self.held.is_empty() {
            self.end_held_line(0, &mut unsent);
            unsent.extend(Some(Bytes::from(mem::take(&mut self.held))).filter(|rest| !rest.is_empty()));
        }
        if self.alias.is_some() {
            out.append(&mut unsent);
        }
    }

    /// Ends a stream that broke: drops the incomplete rest and adds `error`, the dialect's event,
    /// so that it stands on its own. Nothing is added where an error cannot be told in-band; the
    /// connection must be aborted in any case.
    pub fn interrupt(&mut self, error: Bytes, out: &mut VecDeque<Bytes>) {
        self.held.clear();
        self.line_at = 0;
        let ends_line = matches!(self.last_sent, Some(b'\n' | b'\r'));
        let separator: &'static [u8] = match (self.mode, self.last_sent) {
            (Mode::Opaque | Mode::Json, _) => return,
            (Mode::Sse | Mode::Ndjson, None) => b"",
            (Mode::Sse, Some(_)) if !ends_line => b"\n\n",
            (Mode::Sse, Some(_)) => b"\n",
            (Mode::Ndjson, Some(_)) if !ends_line => b"\n",
            // Some clients cannot read an empty line.
            (Mode::Ndjson, Some(_)) => b"",
        };
        if !separator.is_empty() {
            out.push_back(Bytes::from_static(separator));
        }
        out.push_back(error);
    }

    fn push_json(&mut self, chunk: Bytes, out: &mut VecDeque<Bytes>) {
        self.saw_event = true;
        if self.alias.is_none() && self.watched.is_none() {
            return out.push_back(chunk);
        }
        self.found.clear();
        self.finder.feed(&chunk, &mut self.found);
        self.saw_terminator = self.finder.is_over();
        let mut sent = 0;
        self.splice(&chunk, 0, &mut sent, out);
        send(&chunk, sent, chunk.len(), out);
    }

    fn push_lines(&mut self, chunk: &Bytes, out: &mut VecDeque<Bytes>) {
        // All before `sent` is in `out` or held; `at` is where the rest of the current line begins.
        let (mut sent, mut at) = (0, 0);
        if mem::take(&mut self.after_cr) && chunk.first() == Some(&b'\n') {
            at = 1;
            if self.line_at > 0 {
                self.held.push(b'\n');
                self.line_at += 1;
                sent = 1;
            }
        }
        while let Some(line) = self.mode.line_end(chunk, at) {
            self.after_cr = line.may_go_on;
            let next = line.next;
            if self.mid_line {
                self.mid_line = false;
            } else if self.held.is_empty() {
                match self.judge(chunk.get(at..line.content).unwrap_or_default()) {
                    Verdict::Pass => {}
                    Verdict::Edit => self.splice(chunk, at, &mut sent, out),
                    Verdict::Hold => {
                        send(chunk, sent, at, out);
                        sent = next;
                        self.held.extend_from_slice(chunk.get(at..next).unwrap_or_default());
                        self.line_at = self.held.len();
                    }
                }
            } else {
                self.held.extend_from_slice(chunk.get(at..next).unwrap_or_default());
                sent = next;
                self.end_held_line(next - line.content, out);
            }
            at = next;
        }
        if at < chunk.len() {
            if self.passing || self.mid_line {
                self.mid_line = true;
            } else {
                send(chunk, sent, at, out);
                sent = chunk.len();
                self.held.extend_from_slice(chunk.get(at..).unwrap_or_default());
                if self.held.len() > MAX_HELD {
                    self.mid_line = true;
                    self.give_up(out);
                }
            }
        }
        send(chunk, sent, chunk.len(), out);
    }

    /// Takes notice of a whole line, without its line end, and leaves its model values in `found`.
    fn judge(&mut self, line: &[u8]) -> Verdict {
        if self.mode == Mode::Ndjson {
            return self.judge_ndjson(line);
        }
        if line.is_empty() {
            (self.passing, self.in_data) = (false, false);
            return Verdict::Pass;
        }
        let Some(data) = self.notice_field(line) else { return Verdict::Pass };
        let first = !mem::replace(&mut self.in_data, true);
        if line.len() > MAX_HELD {
            self.passing = true;
        }
        if self.alias.is_none() || self.passing || !first {
            return Verdict::Pass;
        }
        let inside = data.trim_ascii();
        let goes_on = inside.first() == Some(&b'{') && inside.last() != Some(&b'}');
        if !goes_on && memmem::find(data, b"\"model\"").is_none() {
            return Verdict::Pass;
        }
        self.find_in(data, line.len() - data.len());
        match (self.finder.is_over(), self.finder.is_open()) {
            (true, _) => Verdict::Edit,
            (_, true) => Verdict::Hold,
            _ => Verdict::Pass,
        }
    }

    fn judge_ndjson(&mut self, line: &[u8]) -> Verdict {
        if line.trim_ascii().is_empty() {
            return Verdict::Pass;
        }
        self.saw_event = true;
        let watching = matches!(self.watched, Some(Terminator::LineDone)) && !self.saw_terminator;
        let of_interest = (self.alias.is_some() && memmem::find(line, b"\"model\"").is_some())
            || (watching && memmem::find(line, b"\"done\"").is_some());
        if line.len() > MAX_HELD || !of_interest {
            return Verdict::Pass;
        }
        self.find_in(line, 0);
        if !self.finder.is_over() {
            return Verdict::Pass;
        }
        self.saw_terminator |= watching && self.finder.said_done();
        if self.alias.is_some() { Verdict::Edit } else { Verdict::Pass }
    }

    /// Takes notice of a line of an event; its data, if it is that.
    fn notice_field<'a>(&mut self, line: &'a [u8]) -> Option<&'a [u8]> {
        if let (Some(Terminator::Event(names)), Some(name)) = (self.watched, field(line, b"event")) {
            self.saw_terminator |= names.contains(&name);
        }
        let data = field(line, b"data")?;
        self.saw_event = true;
        self.saw_terminator |= matches!(self.watched, Some(Terminator::DataDone)) && data == b"[DONE]";
        Some(data)
    }

    fn find_in(&mut self, json: &[u8], offset: usize) {
        self.finder = Finder::new();
        self.found.clear();
        self.finder.feed(json, &mut self.found);
        for value in &mut self.found {
            value.start += offset;
            value.end += offset;
        }
    }

    /// The line at the end of `held` is whole, with a line end of `ending` bytes.
    fn end_held_line(&mut self, ending: usize, out: &mut VecDeque<Bytes>) {
        let content_end = self.held.len() - ending;
        let held = mem::take(&mut self.held);
        let line = held.get(self.line_at..content_end).unwrap_or_default();
        if self.line_at > 0 {
            let blank = line.is_empty();
            self.notice_field(line);
            self.line_at = held.len();
            self.held = held;
            if content_end > MAX_HELD {
                self.give_up(out);
                (self.passing, self.in_data) = (!blank, !blank);
            } else if blank {
                self.end_held_event(out);
            }
            return;
        }
        match self.judge(line) {
            Verdict::Pass => out.push_back(held.into()),
            Verdict::Edit => self.send_edited(&held.into(), out),
            Verdict::Hold => {
                self.line_at = held.len();
                self.held = held;
            }
        }
    }

    /// The event whose lines are held is over: its data is whole, or will never be.
    fn end_held_event(&mut self, out: &mut VecDeque<Bytes>) {
        self.line_at = 0;
        self.in_data = false;
        self.finder = Finder::new();
        self.found.clear();
        let held = Bytes::from(mem::take(&mut self.held));
        let mut at = 0;
        let mut values = Vec::new();
        while at < held.len() {
            let end = self.mode.line_end(&held, at);
            let (content_end, next) = end.map_or((held.len(), held.len()), |end| (end.content, end.next));
            if let Some(data) = held.get(at..content_end).and_then(|line| field(line, b"data")) {
                self.finder.feed(data, &mut values);
                let shift = content_end - data.len();
                self.found.extend(values.drain(..).map(|v| Found { start: v.start + shift, end: v.end + shift, ..v }));
                self.finder.feed(b"\n", &mut values);
            }
            at = next;
        }
        if !self.finder.is_over() {
            self.found.clear();
        }
        self.send_edited(&held, out);
    }

    /// What is held is too long: it passes unedited, and so does the rest of its line and, when it
    /// is data, of its event.
    fn give_up(&mut self, out: &mut VecDeque<Bytes>) {
        let line = self.held.get(self.line_at..).unwrap_or_default();
        let data = self.mode == Mode::Sse && field(line, b"data").is_some();
        self.saw_event |= data || self.mode == Mode::Ndjson;
        self.in_data |= data;
        self.passing = data || self.line_at > 0;
        self.line_at = 0;
        out.push_back(mem::take(&mut self.held).into());
    }

    fn send_edited(&self, whole: &Bytes, out: &mut VecDeque<Bytes>) {
        let mut sent = 0;
        self.splice(whole, 0, &mut sent, out);
        send(whole, sent, whole.len(), out);
    }

    /// Sends `source` up to the last of the values in `found`, which are counted from `base`, with
    /// the alias in their place.
    fn splice(&self, source: &Bytes, base: usize, sent: &mut usize, out: &mut VecDeque<Bytes>) {
        let Some(alias) = &self.alias else { return };
        for value in &self.found {
            send(source, *sent, base + value.start, out);
            if value.begins {
                out.push_back(alias.clone());
            }
            *sent = base + value.end;
        }
    }
}

fn send(source: &Bytes, start: usize, end: usize, out: &mut VecDeque<Bytes>) {
    if start < end {
        out.push_back(source.slice(start..end));
    }
}

#[cfg(test)]
#[path = "relay_tests.rs"]
mod tests;

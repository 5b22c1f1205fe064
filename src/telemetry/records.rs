//! The writer of records: one line per request, off the request path.
//!
//! Invariants: a line that was accepted is written once and whole, however often the disk refuses
//! it; what waits is bounded in lines and bytes, and a request takes its place before it is
//! forwarded, so that a full queue is noticed while the request can still be refused.
//!
//! The writer looks every 20 ms of its own accord. Waking it for each record would cost a request
//! more than everything else that the gateway does for it.

mod file;
pub mod line;

use std::cell::Cell;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::sync::Notify;

use crate::config::{self, WhenFull};
use crate::telemetry::records::file::{Chunk, Output};

/// Most requests that hold a place: under way, or with a line that waits.
pub const MAX_PLACES: usize = 65_536;
/// No place is given while more bytes than this wait.
pub const MAX_PENDING_BYTES: usize = 32 << 20;

const SHARDS: usize = 8;
const TICK: Duration = Duration::from_millis(20);
/// The file at the path is looked at once in so many ticks: once a second.
const TICKS_PER_CHECK: u32 = 50;

/// A change in how writing goes. Said once, not at every attempt.
#[derive(Debug)]
pub enum Change {
    /// Records cannot be written, or the file cannot be rotated. They wait, and are tried again.
    Failing(io::Error),
    /// All is well again.
    Recovered,
}

/// The usual thing to do about a [`Change`]: one line in the process log.
pub fn log(change: Change) {
    match change {
        Change::Failing(error) => tracing::error!(%error, "records cannot be written; they wait"),
        Change::Recovered => tracing::info!("records are written again"),
    }
}

/// The queue of records. Cheap to clone; every clone is the same queue.
#[derive(Clone)]
pub struct Records(Arc<Shared>);

struct Shared {
    when_full: WhenFull,
    shards: [Mutex<Shard>; SHARDS],
    taken: AtomicUsize,
    pending_bytes: AtomicUsize,
    dropped: AtomicU64,
    written: AtomicU64,
    rounds: AtomicU64,
    room: Notify,
    reopen: AtomicBool,
    closed: AtomicBool,
    control: Mutex<Control>,
    changed: Condvar,
}

#[derive(Default)]
struct Shard {
    bytes: Vec<u8>,
    lines: usize,
}

/// What the writer's thread is told, and tells.
#[derive(Default)]
struct Control {
    stopping: bool,
    give_up: bool,
    done: bool,
}

impl Records {
    /// Opens the file, or standard output, and starts the writer's thread, which hands every
    /// change of state to `on_change` ([`log`] will do).
    ///
    /// # Errors
    ///
    /// When the file cannot be opened.
    pub fn start(
        settings: &config::Record,
        on_change: impl Fn(Change) + Send + 'static,
    ) -> io::Result<(Self, RecordWriter)> {
        let output = Output::open(settings)?;
        let records = Self(Arc::new(Shared {
            when_full: settings.when_full,
            shards: Default::default(),
            taken: AtomicUsize::new(0),
            pending_bytes: AtomicUsize::new(0),
            dropped: AtomicU64::new(0),
            written: AtomicU64::new(0),
            rounds: AtomicU64::new(0),
            room: Notify::new(),
            reopen: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            control: Mutex::default(),
            changed: Condvar::new(),
        }));
        let pump = Pump { shared: Arc::clone(&records.0), output, chunks: Default::default() };
        let thread = thread::Builder::new().name("records".to_owned()).spawn(move || pump.run(on_change))?;
        let writer = RecordWriter { shared: Arc::clone(&records.0), thread: Some(thread) };
        Ok((records, writer))
    }

    /// Takes a place in the queue. `None` when it is full, or the writer was finished: with
    /// [`WhenFull::Drop`] the request goes on and its record is counted as dropped; with
    /// [`WhenFull::Block`] it asks [`Self::reserve_within`] next.
    #[must_use]
    pub fn reserve(&self) -> Option<Place> {
        let place = self.take();
        if place.is_none() && self.0.when_full == WhenFull::Drop {
            self.0.dropped.fetch_add(1, Ordering::Relaxed);
        }
        place
    }

    /// As [`Self::reserve`], for a line that is kept elsewhere and comes again: without a place nothing is
    /// lost, and nothing is counted.
    #[must_use]
    pub fn try_reserve(&self) -> Option<Place> {
        self.take()
    }

    /// Takes a place, and waits for one if it must. `None` after `wait`: the record of this
    /// request is counted as dropped, and the request is to be refused.
    pub async fn reserve_within(&self, wait: Duration) -> Option<Place> {
        let waiting = async {
            loop {
                // Listen first, look second: room that comes in between is not missed.
                let mut room = std::pin::pin!(self.0.room.notified());
                room.as_mut().enable();
                if let Some(place) = self.take() {
                    return place;
                }
                room.await;
            }
        };
        let place = tokio::time::timeout(wait, waiting).await.ok();
        if place.is_none() {
            self.0.dropped.fetch_add(1, Ordering::Relaxed);
        }
        place
    }

    /// What a request does that finds no place.
    #[must_use]
    pub fn when_full(&self) -> WhenFull {
        self.0.when_full
    }

    /// How many records were lost for want of room.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.0.dropped.load(Ordering::Relaxed)
    }

    /// How many records were written.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.0.written.load(Ordering::Relaxed)
    }

    /// How often all that waited was written. What was queued when this was N is in the file when it is
    /// N + 2: the round under way may have passed it by.
    #[must_use]
    pub fn rounds(&self) -> u64 {
        self.0.rounds.load(Ordering::Acquire)
    }

    /// Has the file at the path opened anew, within a moment: after a rotation by others.
    pub fn reopen(&self) {
        self.0.reopen.store(true, Ordering::Release);
    }

    fn take(&self) -> Option<Place> {
        let shared = &self.0;
        if shared.closed.load(Ordering::Relaxed) || shared.pending_bytes.load(Ordering::Relaxed) >= MAX_PENDING_BYTES {
            return None;
        }
        let one_more = |taken| (taken < MAX_PLACES).then_some(taken + 1);
        shared.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).ok()?;
        Some(Place { shared: Some(Arc::clone(shared)) })
    }
}

impl fmt::Debug for Records {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let taken = self.0.taken.load(Ordering::Relaxed);
        f.debug_struct("Records").field("taken", &taken).field("written", &self.written()).finish_non_exhaustive()
    }
}

/// Room for one record. Dropped unused, it is given back.
#[must_use = "a place that is not written to leaves no record"]
pub struct Place {
    shared: Option<Arc<Shared>>,
}

impl Place {
    /// Queues one line, which `append` adds to what waits, without its newline. Never waits for the
    /// disk.
    pub fn write(mut self, append: impl FnOnce(&mut Vec<u8>)) {
        let Some(shared) = self.shared.take() else { return };
        let Some(shard) = shared.shards.get(shard_of_thread()) else { return };
        let mut shard = lock(shard);
        let before = shard.bytes.len();
        append(&mut shard.bytes);
        debug_assert!(!shard.bytes.iter().skip(before).any(|byte| *byte == b'\n'), "a record is one line");
        shard.bytes.push(b'\n');
        shard.lines += 1;
        shared.pending_bytes.fetch_add(shard.bytes.len() - before, Ordering::Relaxed);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.take() {
            shared.release(1, 0);
        }
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Place")
    }
}

/// The writer's end of the queue: finishes it at shutdown.
pub struct RecordWriter {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl RecordWriter {
    /// Gives no more places, waits until every place that was taken is written or given back, but
    /// not longer than `within`, and ends the writer. Gives the number of places that are left:
    /// records that were lost.
    #[must_use = "a number above 0 is worth a line in the log"]
    pub fn finish(mut self, within: Duration) -> usize {
        self.stop(within);
        self.shared.taken.load(Ordering::Relaxed)
    }

    fn stop(&mut self, within: Duration) {
        let Some(thread) = self.thread.take() else { return };
        self.shared.closed.store(true, Ordering::Relaxed);
        let mut control = lock(&self.shared.control);
        control.stopping = true;
        self.shared.changed.notify_all();
        let waited = self.shared.changed.wait_timeout_while(control, within, |control| !control.done);
        let mut control = waited.unwrap_or_else(PoisonError::into_inner).0;
        control.give_up = true;
        let done = control.done;
        drop(control);
        self.shared.changed.notify_all();
        // A thread that is not done may hang in a write that nobody can end: it is left alone.
        if done && thread.join().is_err() {
            tracing::error!("the writer of records had panicked");
        }
    }
}

impl Drop for RecordWriter {
    fn drop(&mut self) {
        self.stop(Duration::from_secs(1));
    }
}

impl fmt::Debug for RecordWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RecordWriter")
    }
}

impl Shared {
    fn release(&self, places: usize, bytes: usize) {
        self.pending_bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.taken.fetch_sub(places, Ordering::Relaxed);
        self.room.notify_waiters();
    }

    /// Waits for the next tick or for news; tells whether to stop when all is written, and
    /// whether to give up.
    fn tick(&self, stopping: bool) -> (bool, bool) {
        let quiet = |control: &mut Control| if stopping { !control.give_up } else { !control.stopping };
        let waited = self.changed.wait_timeout_while(lock(&self.control), TICK, quiet);
        let control = waited.unwrap_or_else(PoisonError::into_inner).0;
        (control.stopping, control.give_up)
    }
}

/// What the writer's thread has: one chunk per shard, which holds what is being written.
struct Pump {
    shared: Arc<Shared>,
    output: Output,
    chunks: [Chunk; SHARDS],
}

impl Pump {
    fn run(mut self, on_change: impl Fn(Change)) {
        let (mut stopping, mut give_up, mut failing) = (false, false, false);
        let mut ticks = 0;
        loop {
            if !give_up {
                (stopping, give_up) = self.shared.tick(stopping);
            }
            ticks = (ticks + 1) % TICKS_PER_CHECK;
            let written = self.write_all(ticks == 0);
            match written.and_then(|()| self.output.trouble()) {
                Ok(()) if failing => {
                    failing = false;
                    on_change(Change::Recovered);
                }
                Ok(()) => {}
                // A pipe whose reader is slow: that is what the queue is for.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => {
                    if !failing {
                        on_change(Change::Failing(error));
                    }
                    failing = true;
                }
            }
            if give_up || (stopping && self.shared.taken.load(Ordering::Relaxed) == 0) {
                break;
            }
        }
        lock(&self.shared.control).done = true;
        self.shared.changed.notify_all();
    }

    fn write_all(&mut self, check: bool) -> io::Result<()> {
        if self.shared.reopen.swap(false, Ordering::Acquire) {
            self.output.must_reopen();
        } else if check {
            self.output.check();
        }
        if self.output.reopen_if_needed()? {
            // What was begun in another file is begun again in this one.
            for chunk in &mut self.chunks {
                chunk.rewind();
            }
        }
        for (shard, chunk) in self.shared.shards.iter().zip(&mut self.chunks) {
            if chunk.is_empty() {
                let shard = &mut *lock(shard);
                chunk.fill(&mut shard.bytes, &mut shard.lines);
            }
            if !chunk.is_empty() {
                self.output.write(chunk)?;
                let (lines, bytes) = chunk.clear();
                self.shared.written.fetch_add(lines as u64, Ordering::Relaxed);
                self.shared.release(lines, bytes);
            }
        }
        self.shared.rounds.fetch_add(1, Ordering::Release);
        Ok(())
    }
}

/// Each thread keeps to one shard, so that threads seldom meet and its lines stay in order.
fn shard_of_thread() -> usize {
    static THREADS: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static SHARD: Cell<usize> = Cell::new(THREADS.fetch_add(1, Ordering::Relaxed) % SHARDS);
    }
    SHARD.get()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;

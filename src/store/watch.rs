//! Publishes a new [`Snapshot`] within a moment of every change, whichever process made it.
//!
//! Invariants: what is published was in force at one moment; a failure keeps the last snapshot, and
//! after `state_stale_max` of failures it is said to be stale, until the store can be read again;
//! `data_version` is read before the rows, so a change that comes in between is seen twice and
//! never missed.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::clock::Clock;
use crate::store::Store;
use crate::store::error::StoreError;
use crate::store::snapshot::Snapshot;
use crate::store::sqlite::{self, Changes, Sqlite};

/// How often the store is looked at. A look without a change costs microseconds.
const EVERY: Duration = Duration::from_millis(100);

/// Looks after the store on a thread of its own, until it is dropped.
#[derive(Debug)]
pub struct Watcher {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    stop: Condvar,
}

#[derive(Debug)]
struct State {
    stopping: bool,
}

/// What the watcher tells.
#[derive(Clone, Debug)]
pub enum News {
    /// This is what the store says, from now on.
    State(Snapshot),
    /// The store cannot be read; what it said last stays in force for a while.
    Unreadable,
    /// What it said last is too old to be relied on.
    Stale,
    /// The store can be read again. If it was stale, a [`News::State`] has come before.
    Readable,
}

impl Watcher {
    /// Loads the store of `state_dir`, and from then on hands every later state of it to
    /// `publish`: the first here and now, the others on the watcher's thread. A state that could
    /// not be read anew for `stale_max` is said to be stale.
    ///
    /// # Errors
    ///
    /// When the store cannot be opened or read.
    pub fn start(
        state_dir: &Path,
        stale_max: Duration,
        clock: Clock,
        publish: impl Fn(News) + Send + 'static,
    ) -> Result<Self, StoreError> {
        // Makes a store where there is none; a later look must not.
        Sqlite::open(state_dir)?;
        let mut view = View {
            state_dir: state_dir.to_owned(),
            opened: None,
            file: None,
            revision: 0,
            snapshot: Snapshot::default(),
        };
        view.look()?;
        // Before the thread is there: a later state must not be overtaken by the first.
        publish(News::State(view.snapshot.clone()));
        let health = Health { last_ok: clock.steady(), failing: false, stale: false };
        let shared = Arc::new(Shared { state: Mutex::new(State { stopping: false }), stop: Condvar::new() });
        let theirs = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("store-watch".to_owned())
            .spawn(move || theirs.run(view, health, stale_max, &clock, publish))
            .map_err(|source| StoreError::file(state_dir, source))?;
        Ok(Self { shared, thread: Some(thread) })
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.shared.lock().stopping = true;
        self.shared.stop.notify_all();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::warn!("the watcher of the store had panicked");
        }
    }
}

impl Shared {
    fn run(&self, mut view: View, mut health: Health, stale_max: Duration, clock: &Clock, publish: impl Fn(News)) {
        while !self.pause() {
            let looked = view.look();
            for news in health.after(looked, stale_max, clock.steady(), &view.snapshot) {
                publish(news);
            }
        }
    }

    /// Waits until the next look is due. True when there is to be none.
    fn pause(&self) -> bool {
        let waited = self.stop.wait_timeout_while(self.lock(), EVERY, |state| !state.stopping);
        waited.unwrap_or_else(PoisonError::into_inner).0.stopping
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How reading goes. Each change of it is told and logged once.
#[derive(Clone, Copy, Debug)]
struct Health {
    /// When the store was last read.
    last_ok: Duration,
    failing: bool,
    stale: bool,
}

impl Health {
    /// What there is to tell after a look at `now`: whether it failed, and whether the snapshot has
    /// changed.
    fn after(
        &mut self,
        looked: Result<bool, StoreError>,
        stale_max: Duration,
        now: Duration,
        snapshot: &Snapshot,
    ) -> Vec<News> {
        let mut news = Vec::new();
        match looked {
            Ok(changed) => {
                if changed || self.stale {
                    news.push(News::State(snapshot.clone()));
                }
                if self.failing {
                    tracing::info!("the store can be read again");
                    news.push(News::Readable);
                }
                *self = Self { last_ok: now, failing: false, stale: false };
            }
            Err(error) => {
                if !self.failing {
                    tracing::warn!(%error, "the store cannot be read; its last state stays in force for {stale_max:?}");
                    news.push(News::Unreadable);
                }
                self.failing = true;
                if !self.stale && now.saturating_sub(self.last_ok) >= stale_max {
                    tracing::error!(%error, "the store could not be read for {stale_max:?}: requests are refused");
                    news.push(News::Stale);
                    self.stale = true;
                }
            }
        }
        news
    }
}

/// What was last read, and the connection to read more with.
struct View {
    state_dir: PathBuf,
    opened: Option<Opened>,
    /// The file that `revision` and `snapshot` are of.
    file: Option<FileId>,
    revision: i64,
    snapshot: Snapshot,
}

struct Opened {
    store: Store,
    file: FileId,
    /// `None` until the rows were read once through this connection.
    version: Option<i64>,
}

/// Device and inode: another file may come into the place of the one that we opened.
type FileId = (u64, u64);

impl View {
    /// Brings the snapshot up to date. True when it changed.
    fn look(&mut self) -> Result<bool, StoreError> {
        let looked = self.try_look();
        if looked.is_err() {
            // Whatever was wrong with it, the next look begins with a new connection.
            self.opened = None;
        }
        looked
    }

    fn try_look(&mut self) -> Result<bool, StoreError> {
        let path = sqlite::path(&self.state_dir);
        let file = fs::metadata(&path).map_err(|source| StoreError::file(&path, source))?;
        let file = (file.dev(), file.ino());
        let opened = match &mut self.opened {
            Some(opened) if opened.file == file => opened,
            stale => {
                let store = Store::Sqlite(Sqlite::open_existing(&self.state_dir)?);
                stale.insert(Opened { store, file, version: None })
            }
        };
        let version = opened.store.data_version()?;
        if opened.version == Some(version) {
            return Ok(false);
        }
        // In another file, such as a backup that was put back, revisions mean other changes.
        let since = if self.file == Some(file) { self.revision } else { 0 };
        let changes = opened.store.changes_since(since)?;
        let revision = changes.revision;
        let changed = changes.whole || revision != since;
        if changed {
            self.snapshot = after(&self.snapshot, changes);
        }
        (self.file, self.revision) = (Some(file), revision);
        opened.version = Some(version);
        Ok(changed)
    }
}

/// The snapshot that changes make of another.
fn after(snapshot: &Snapshot, changes: Changes) -> Snapshot {
    let base = if changes.whole { &Snapshot::default() } else { snapshot };
    // What is deleted first: its name may be in use again.
    let next = base
        .without_keys(&changes.deleted_keys)
        .with_keys(changes.keys)
        .with_grants(&changes.deleted_grants, changes.grants)
        .with_owners(changes.owners);
    match changes.denied {
        Some(denied) => next.with_denied(denied),
        None => next,
    }
}

#[cfg(test)]
#[path = "watch_tests.rs"]
mod tests;

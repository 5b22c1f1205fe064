//! What the request path writes: uses that are claimed, and when keys were last used.
//!
//! Invariants: a claim is answered after it is durable, and by one writer that puts all that wait
//! into one transaction; a claim whose asker has left is given back; what cannot be made durable
//! is an error and never a free pass. Queue and waits are bounded.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustc_hash::FxHashMap;
use tokio::runtime;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::domain::key::KeyId;
use crate::domain::timestamp::Timestamp;
use crate::store::Store;
use crate::store::error::StoreError;
use crate::store::rows::Claimed;
use crate::store::sqlite::{self, Sqlite};

/// Most jobs that wait.
const QUEUE: usize = 4096;
/// Most claims and refunds in one transaction.
const BATCH: usize = 512;
/// How long a claim may take, its wait in the queue included.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often last uses are written down.
const FLUSH: Duration = Duration::from_millis(500);

/// The hand of the request path: claims uses, and never touches the store itself.
#[derive(Clone, Debug)]
pub struct Claims(mpsc::Sender<Job>);

/// A use could not be claimed durably; nothing is taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotClaimed;

#[derive(Debug)]
enum Job {
    Claim { key: KeyId, answer: oneshot::Sender<Result<Answer, NotClaimed>> },
    Refund(KeyId),
    Touch(Vec<(KeyId, Timestamp)>),
}

/// What became of a claim, on its way to the asker. One that never arrives gives the use back.
#[derive(Debug)]
struct Answer {
    key: KeyId,
    outcome: Claimed,
    /// `None` once it has arrived.
    back: Option<Claims>,
}

impl Answer {
    /// It has arrived: the use is the asker's.
    fn arrived(mut self) -> Claimed {
        self.back = None;
        self.outcome
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if let Some(claims) = self.back.take()
            && self.outcome == Claimed::Claimed
        {
            claims.refund(self.key);
        }
    }
}

impl Claims {
    /// Claims one use of a key. If the caller of this stops waiting, what was claimed is given
    /// back.
    ///
    /// # Errors
    ///
    /// When the claim could not be made durable within two seconds.
    pub async fn claim(&self, key: KeyId) -> Result<Claimed, NotClaimed> {
        let (answer, answered) = oneshot::channel();
        let asked = async {
            self.0.send(Job::Claim { key, answer }).await.map_err(|_| NotClaimed)?;
            answered.await.map_err(|_| NotClaimed)?.map(Answer::arrived)
        };
        timeout(PATIENCE, asked).await.map_err(|_| NotClaimed)?
    }

    /// Gives a use back. When the queue is full it is lost: a key may be used less often than
    /// allowed, and never more often.
    pub fn refund(&self, key: KeyId) {
        if self.0.try_send(Job::Refund(key)).is_err() {
            tracing::warn!(%key, "a use could not be given back");
        }
    }

    /// Notes when keys were last used. False when there is no room: try again later.
    pub fn touch(&self, used: &FxHashMap<KeyId, Timestamp>) -> bool {
        let used = used.iter().map(|(key, at)| (*key, *at)).collect();
        self.0.try_send(Job::Touch(used)).is_ok()
    }
}

/// The writer's thread. It ends, and has written everything, when this is dropped.
#[derive(Debug)]
pub struct Writer {
    claims: Claims,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Starts the writer of a state directory that has a store.
    ///
    /// # Errors
    ///
    /// When no thread can be started.
    pub fn start(state_dir: &Path) -> Result<Self, StoreError> {
        let failed = |source| StoreError::file(state_dir, source);
        let (sender, jobs) = mpsc::channel(QUEUE);
        let (stop, stopped) = oneshot::channel();
        // Its waits are asynchronous; its work on the store blocks, and nothing else is in here.
        let runtime = runtime::Builder::new_current_thread().enable_time().build().map_err(failed)?;
        let claims = Claims(sender);
        let mut desk = Desk {
            state_dir: state_dir.to_owned(),
            claims: claims.clone(),
            opened: None,
            refunds: Vec::new(),
            used: FxHashMap::default(),
            failing: false,
        };
        let run = move || runtime.block_on(desk.run(jobs, stopped));
        let thread = thread::Builder::new().name("store-write".to_owned()).spawn(run).map_err(failed)?;
        Ok(Self { claims, stop: Some(stop), thread: Some(thread) })
    }

    /// The hand of the request path.
    #[must_use]
    pub fn claims(&self) -> Claims {
        self.claims.clone()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::warn!("the writer of the store had panicked");
        }
    }
}

/// What the writer has before it.
struct Desk {
    state_dir: PathBuf,
    /// For answers that do not arrive.
    claims: Claims,
    opened: Option<(Store, FileId)>,
    /// Uses to be given back; kept until that is done.
    refunds: Vec<KeyId>,
    /// Last uses that are not written yet.
    used: FxHashMap<KeyId, Timestamp>,
    failing: bool,
}

/// Device and inode: another file may come into the place of the one that we opened.
type FileId = (u64, u64);

type Waiting = (KeyId, oneshot::Sender<Result<Answer, NotClaimed>>);

impl Desk {
    async fn run(&mut self, mut jobs: mpsc::Receiver<Job>, mut stopped: oneshot::Receiver<()>) {
        let mut flush = interval(FLUSH);
        flush.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let mut batch = Vec::new();
            tokio::select! {
                biased;
                _ = &mut stopped => break,
                taken = jobs.recv_many(&mut batch, BATCH) => {
                    if taken == 0 {
                        break;
                    }
                    self.work(batch);
                }
                _ = flush.tick() => self.write_down(),
            }
        }
        jobs.close();
        let mut rest = Vec::new();
        while jobs.recv_many(&mut rest, BATCH).await > 0 {
            self.work(std::mem::take(&mut rest));
        }
        self.write_down();
    }

    /// Does what was asked for, the claims in one transaction.
    fn work(&mut self, batch: Vec<Job>) {
        let mut waiting: Vec<Waiting> = Vec::new();
        for job in batch {
            match job {
                // Nobody waits for it any more.
                Job::Claim { answer, .. } if answer.is_closed() => {}
                Job::Claim { key, answer } => waiting.push((key, answer)),
                Job::Refund(key) => self.refunds.push(key),
                Job::Touch(used) => {
                    for (key, at) in used {
                        let last = self.used.entry(key).or_insert(at);
                        *last = at.max(*last);
                    }
                }
            }
        }
        self.give_back();
        if waiting.is_empty() {
            return;
        }
        let keys: Vec<_> = waiting.iter().map(|(key, _)| *key).collect();
        let outcomes = self.with_store(|store| store.claim_uses(&keys));
        for (index, (key, answer)) in waiting.into_iter().enumerate() {
            let outcome = outcomes.as_ref().and_then(|outcomes| outcomes.get(index)).copied().ok_or(NotClaimed);
            let made = outcome.map(|outcome| Answer { key, outcome, back: Some(self.claims.clone()) });
            if let Err(Ok(unheard)) = answer.send(made)
                && unheard.arrived() == Claimed::Claimed
            {
                self.refunds.push(key);
            }
        }
        self.give_back();
    }

    fn give_back(&mut self) {
        if self.refunds.is_empty() {
            return;
        }
        let refunds = std::mem::take(&mut self.refunds);
        if self.with_store(|store| store.refund_uses(&refunds)).is_none() {
            self.refunds = refunds;
            // Bounded: what is lost is a use less, never one more.
            self.refunds.truncate(QUEUE);
        }
    }

    /// Writes last uses and what could not be given back before.
    fn write_down(&mut self) {
        self.give_back();
        if self.used.is_empty() {
            return;
        }
        let used: Vec<_> = self.used.iter().map(|(key, at)| (*key, *at)).collect();
        if self.with_store(|store| store.touch_keys(&used)).is_some() {
            self.used.clear();
        }
    }

    /// Does something with the store that is there now. `None` when that fails; whether it does is
    /// logged once.
    fn with_store<T>(&mut self, act: impl FnOnce(&mut Store) -> Result<T, StoreError>) -> Option<T> {
        let done = self.store().and_then(act);
        match &done {
            Ok(_) if self.failing => tracing::info!("the store can be written again"),
            Err(error) if !self.failing => {
                tracing::error!(%error, "the store cannot be written: keys of limited use are refused");
            }
            Ok(_) | Err(_) => {}
        }
        self.failing = done.is_err();
        if self.failing {
            self.opened = None;
        }
        done.ok()
    }

    fn store(&mut self) -> Result<&mut Store, StoreError> {
        let path = sqlite::path(&self.state_dir);
        let file = fs::metadata(&path).map_err(|source| StoreError::file(&path, source))?;
        let file = (file.dev(), file.ino());
        let store = match self.opened.take() {
            Some((store, opened)) if opened == file => store,
            Some(_) | None => Store::Sqlite(Sqlite::open_existing(&self.state_dir)?),
        };
        Ok(&mut self.opened.insert((store, file)).0)
    }
}

#[cfg(test)]
#[path = "writer_tests.rs"]
mod tests;

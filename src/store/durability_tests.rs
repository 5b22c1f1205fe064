//! What happens to the embedded engine when processes die, race, or the disk lets them down.

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Barrier;
use std::time::Duration;
use std::{fs, io, thread};

use super::*;
use crate::clock::Clock;
use crate::domain::notification::Kind;
use crate::store::conformance_tests::{Fixture, at, new_key, uses};

/// Set for a child process: where its store is, and the number of its first key.
const CHILD: &str = "DOORWARD_TEST_CHILD";
const CHILD_TEST: &str = "store::durability_tests::child_process_writes_keys";

/// Not a test of its own: the body of the child processes below.
#[test]
fn child_process_writes_keys() {
    let Some(argument) = std::env::var_os(CHILD) else { return };
    let argument = argument.into_string().unwrap();
    let (first, state_dir) = argument.split_once(':').unwrap();
    let first: u64 = first.parse().unwrap();
    let mut store = Store::open(Path::new(state_dir)).unwrap();
    for number in first..first + 100_000 {
        store.create_key(&new_key(number)).unwrap();
        // Acknowledged: from here on it has to be there, whatever happens to this process.
        writeln!(io::stdout(), "ack {number}").unwrap();
    }
}

const CHANGING_TEST: &str = "store::durability_tests::child_process_changes_keys";

/// Not a test of its own: makes keys, claims uses of them, and revokes them.
#[test]
fn child_process_changes_keys() {
    let Some(argument) = std::env::var_os(CHILD) else { return };
    let argument = argument.into_string().unwrap();
    let (first, state_dir) = argument.split_once(':').unwrap();
    let first: u64 = first.parse().unwrap();
    let mut store = Store::open(Path::new(state_dir)).unwrap();
    let tell = |what: &str, number: u64| writeln!(io::stdout(), "ack {what} {number}").unwrap();
    for number in first..first + 100_000 {
        let key = KeyRecord { uses: uses(9), ..new_key(number) };
        store.create_key(&key).unwrap();
        tell("create", number);
        for _ in 0..3 {
            assert_eq!(store.claim_uses(&[key.id]).unwrap(), [Claimed::Claimed]);
            tell("claim", number);
        }
        store.revoke_key(&key.id, at(5)).unwrap();
        tell("revoke", number);
    }
}

/// A change and the news of it are both there, or neither is.
#[test]
fn kill_9_loses_no_notification_and_makes_none_up() {
    let fixture = Fixture::new();
    let told = Subscription { webhook: "iam".to_owned(), kinds: vec![Kind::KeyCreated] };
    fixture.open().set_subscriptions(&[told]).unwrap();
    for (round, after) in [1usize, 2, 7, 60].into_iter().enumerate() {
        let mut child = spawn(CHILD_TEST, fixture.dir(), round as u64 * 1_000_000);
        let mut acknowledged = 0;
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            acknowledged += usize::from(line.unwrap().contains("ack "));
            if acknowledged == after {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        let mut store = fixture.open();
        let keys: Vec<_> = store.list_keys().unwrap().iter().map(|key| key.id.to_string()).collect();
        assert!(keys.len() >= acknowledged);
        let mut news = Vec::new();
        while let Some(first) = store.first_notification("iam").unwrap() {
            store.finish_notification("iam", first.number, End::Delivered).unwrap();
            let data: serde_json::Value = serde_json::from_str(&first.data).unwrap();
            news.push(data["key_id"].as_str().unwrap().to_owned());
        }
        let made: HashSet<_> = news.iter().collect();
        assert_eq!(made.len(), news.len());
        assert_eq!(made, keys.iter().collect::<HashSet<_>>());
        for key in store.list_keys().unwrap() {
            assert!(store.delete_key(&key.id, at(9)).unwrap());
        }
    }
}

/// Every claim that was acknowledged is counted, every revocation holds; at most the one step that
/// was under way may have been done unacknowledged.
#[test]
fn kill_9_loses_no_claim_and_no_revocation() {
    let fixture = Fixture::new();
    for (round, after) in [1usize, 3, 5, 44, 203].into_iter().enumerate() {
        let mut child = spawn(CHANGING_TEST, fixture.dir(), round as u64 * 1_000_000);
        let mut acknowledged = Vec::new();
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            if let Some((_, step)) = line.unwrap().split_once("ack ")
                && let Some((what, number)) = step.split_once(' ')
                && let Ok(number) = number.parse::<u64>()
            {
                acknowledged.push((what.to_owned(), number));
            }
            if acknowledged.len() == after {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        assert!(acknowledged.len() >= after);
        let store = fixture.open();
        let last = acknowledged.last().unwrap().1;
        for number in acknowledged.iter().map(|(_, number)| *number) {
            let key = store.key(&new_key(number).id).unwrap().unwrap_or_else(|| panic!("key {number} is gone"));
            let steps = |step: &str| acknowledged.iter().filter(|(what, n)| what == step && *n == number).count();
            let claimed = 9 - usize::try_from(key.uses.unwrap().left).unwrap();
            let slack = usize::from(number == last);
            assert!((steps("claim")..=steps("claim") + slack).contains(&claimed), "{claimed} of key {number}");
            assert!(steps("revoke") == 0 || key.revoked_at == Some(at(5)), "key {number} lives again");
        }
    }
}

fn spawn_writer(state_dir: &Path, first: u64) -> Child {
    spawn(CHILD_TEST, state_dir, first)
}

fn spawn(test: &str, state_dir: &Path, first: u64) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(CHILD, format!("{first}:{}", state_dir.display()))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Kills the writer once it acknowledged `after` keys, and gives all that it acknowledged.
fn kill_after(mut child: Child, after: usize) -> Vec<u64> {
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut acknowledged = Vec::new();
    for line in lines {
        // The harness writes "test NAME ... " without a newline before the first line.
        if let Some((_, number)) = line.unwrap().split_once("ack ")
            && let Ok(number) = number.parse()
        {
            acknowledged.push(number);
        }
        if acknowledged.len() == after {
            child.kill().unwrap();
        }
    }
    child.wait().unwrap();
    acknowledged
}

#[test]
fn kill_9_loses_nothing_that_was_acknowledged() {
    let fixture = Fixture::new();
    let mut expected = Vec::new();
    for (round, after) in [1usize, 7, 40, 150].into_iter().enumerate() {
        let child = spawn_writer(fixture.dir(), round as u64 * 1_000_000);
        let acknowledged = kill_after(child, after);
        assert!(acknowledged.len() >= after);
        expected.extend(acknowledged);
        let store = fixture.open();
        for number in &expected {
            assert!(store.key(&new_key(*number).id).unwrap().is_some(), "key {number} was acknowledged and is gone");
        }
    }
    let unacknowledged = fixture.open().list_keys().unwrap().len() - expected.len();
    assert!(unacknowledged <= 4, "at most the one key that each process was writing");
}

#[test]
fn two_processes_write_at_once() {
    let fixture = Fixture::new();
    drop(fixture.open());
    let children = [0u64, 1_000_000].map(|first| spawn_writer(fixture.dir(), first));
    let acknowledged: Vec<_> = thread::scope(|scope| {
        let readers = children.map(|child| scope.spawn(move || kill_after(child, 50)));
        readers.into_iter().flat_map(|reader| reader.join().unwrap()).collect()
    });
    let store = fixture.open();
    assert!(acknowledged.len() >= 100);
    assert!(acknowledged.iter().all(|number| store.key(&new_key(*number).id).unwrap().is_some()));
}

#[test]
fn many_threads_open_a_new_store_and_write_at_once() {
    let fixture = Fixture::new();
    let start = Barrier::new(8);
    thread::scope(|scope| {
        for thread in 0..8u64 {
            let (fixture, start) = (&fixture, &start);
            scope.spawn(move || {
                start.wait();
                let mut store = fixture.open();
                for number in 0..20 {
                    store.create_key(&new_key(thread * 100 + number)).unwrap();
                }
                // All want the same one dead: one of them does it.
                store.revoke_key(&new_key(thread * 100).id, at(5)).unwrap()
            });
        }
    });
    let store = fixture.open();
    let changes = store.changes_since(0).unwrap();
    assert_eq!((changes.keys.len(), changes.revision), (160, 168), "each change has a revision of its own");
}

#[test]
fn one_of_many_revokers_wins() {
    let fixture = Fixture::new();
    fixture.open().create_key(&new_key(1)).unwrap();
    let outcomes: Vec<_> = thread::scope(|scope| {
        let fixture = &fixture;
        let revoke = move || fixture.open().revoke_key(&new_key(1).id, at(5)).unwrap();
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(revoke)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(outcomes.iter().filter(|outcome| **outcome == Revoked::Revoked).count(), 1, "{outcomes:?}");
}

#[test]
fn every_file_is_closed_to_others() {
    let fixture = Fixture::new();
    let mut store = fixture.open();
    store.create_key(&new_key(1)).unwrap();
    let mut names = Vec::new();
    for entry in fs::read_dir(fixture.dir()).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.metadata().unwrap().mode() & 0o077, 0, "{entry:?}");
        names.push(entry.file_name());
    }
    names.sort();
    assert_eq!(names, ["doorward.db", "doorward.db-shm", "doorward.db-wal"]);
}

#[test]
fn files_that_are_no_sound_store_are_refused_unchanged() {
    let garbage = Fixture::new();
    let content = "no database at all".repeat(1000);
    fs::write(sqlite::path(garbage.dir()), &content).unwrap();
    let message = Store::open(garbage.dir()).unwrap_err().to_string();
    assert!(message.contains("damaged") && message.contains("hint: stop the gateway"), "{message}");
    assert_eq!(fs::read_to_string(sqlite::path(garbage.dir())).unwrap(), content);

    let foreign = Fixture::new();
    let raw = rusqlite::Connection::open(sqlite::path(foreign.dir())).unwrap();
    raw.execute_batch("CREATE TABLE something (else_ INTEGER)").unwrap();
    let message = Store::open(foreign.dir()).unwrap_err().to_string();
    assert!(message.contains("is not a Doorward store"), "{message}");
    let mode: String = raw.query_row("PRAGMA journal_mode", [], |row| row.get(0)).unwrap();
    assert_eq!(mode, "delete", "a foreign database keeps its mode");

    let newer = Fixture::new();
    drop(newer.open());
    rusqlite::Connection::open(sqlite::path(newer.dir())).unwrap().pragma_update(None, "user_version", 99).unwrap();
    let message = Store::open(newer.dir()).unwrap_err().to_string();
    assert!(message.contains("version 99") && message.contains("hint: run the newer"), "{message}");
}

#[test]
fn a_damaged_page_is_an_error_and_not_fewer_keys() {
    let fixture = Fixture::new();
    let mut store = fixture.open();
    for number in 0..200 {
        store.create_key(&new_key(number)).unwrap();
    }
    drop(store);
    let path = sqlite::path(fixture.dir());
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..].fill(0xa5);
    fs::write(&path, bytes).unwrap();
    let read = Store::open(fixture.dir()).and_then(|store| store.list_keys());
    assert!(matches!(read, Err(StoreError::Corrupt(_))), "{read:?}");
}

/// A small file system of its own; unmounted when dropped.
pub(crate) struct Mount(pub(crate) tempfile::TempDir);

impl Mount {
    #[expect(clippy::print_stderr, reason = "a skipped test says so")]
    pub(crate) fn new(options: &str) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", options, "none"]).arg(directory.path()).output();
        if mounted.is_ok_and(|output| output.status.success()) {
            return Some(Self(directory));
        }
        eprintln!("SKIPPED: mounting a tmpfs is not permitted here");
        None
    }

    pub(crate) fn remount(&self, options: &str) {
        let done = Command::new("mount").args(["-o", options]).arg(self.0.path()).status().unwrap();
        assert!(done.success());
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(self.0.path()).status());
    }
}

#[test]
fn a_full_disk_refuses_the_write_and_keeps_the_rest() {
    let Some(mount) = Mount::new("size=300k,mode=700") else { return };
    let mut store = Store::open(mount.0.path()).unwrap();
    let limited = KeyRecord { uses: uses(9), ..new_key(0) };
    store.create_key(&limited).unwrap();
    let mut written = 1;
    let error = loop {
        match store.create_key(&new_key(written)) {
            Ok(()) => written += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, StoreError::Full), "{error:?}");
    assert!(written > 1);
    // Each write takes a little more; then none is possible.
    let claimed = (0..9).filter(|_| store.claim_uses(&[limited.id]).is_ok()).count();
    assert!(claimed < 9);
    let left = store.key(&limited.id).unwrap().unwrap().uses.unwrap().left;
    assert_eq!(left as usize, 9 - claimed, "what was not acknowledged was not taken");
    assert_eq!(store.list_keys().unwrap().len() as u64, written, "reading goes on, and no half key is there");
    drop(store);
    mount.remount("remount,size=2m");
    let mut store = Store::open(mount.0.path()).unwrap();
    store.create_key(&new_key(written)).unwrap();
    assert_eq!(store.list_keys().unwrap().len() as u64, written + 1);
}

#[test]
fn a_read_only_disk_refuses_the_write_and_says_so() {
    let Some(mount) = Mount::new("size=4m,mode=700") else { return };
    let mut store = Store::open(mount.0.path()).unwrap();
    store.create_key(&new_key(1)).unwrap();
    drop(store);
    mount.remount("remount,ro");
    let message = Store::open(mount.0.path()).unwrap_err().to_string();
    assert!(message.contains("read-only") && message.contains("hint: check the mount"), "{message}");
}

#[test]
#[expect(clippy::print_stderr, reason = "the time is worth seeing and too noisy to assert")]
fn a_hundred_thousand_keys_load() {
    const KEYS: usize = 100_000;
    let fixture = Fixture::new();
    let mut store = fixture.open();
    store.create_key(&new_key(0)).unwrap();
    let mut raw = rusqlite::Connection::open(sqlite::path(fixture.dir())).unwrap();
    let filling = raw.transaction().unwrap();
    for number in 1..KEYS as u64 {
        let key = new_key(number);
        filling
            .prepare(
                "INSERT INTO keys (id, owner, digest, networks, endpoints, models, created_at, revision)
                 SELECT ?1, owner, ?2, '[\"10.0.0.0/8\"]', '[\"@chat\"]', '[\"llama-*\"]', created_at, revision
                 FROM keys WHERE rowid = 1",
            )
            .unwrap()
            .execute((key.id.as_str(), key.digest.as_bytes()))
            .unwrap();
    }
    filling.commit().unwrap();
    let begin = tokio::time::Instant::now();
    let (publish, published) = std::sync::mpsc::channel();
    let (minute, clock) = (Duration::from_secs(60), Clock::System);
    let watcher = watch::Watcher::start(fixture.dir(), minute, clock, move |news| publish.send(news).unwrap()).unwrap();
    let Ok(watch::News::State(snapshot)) = published.try_recv() else { panic!("the first state comes at once") };
    eprintln!("{KEYS} keys loaded in {:?}", begin.elapsed());
    drop(watcher);
    assert_eq!(snapshot.key_count(), KEYS);
    for number in [0, 1, 77_777, KEYS as u64 - 1] {
        assert_eq!(snapshot.key(&new_key(number).id).unwrap().digest, new_key(number).digest);
    }
}

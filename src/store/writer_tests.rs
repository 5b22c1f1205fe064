use std::sync::Barrier;

use futures_util::future::join_all;

use super::*;
use crate::domain::key::KeyRecord;
use crate::store::conformance_tests::{Fixture, at, new_key, uses};

fn limited(fixture: &Fixture, number: u64, left: u32) -> KeyId {
    let key = KeyRecord { uses: uses(left), ..new_key(number) };
    fixture.open().create_key(&key).unwrap();
    key.id
}

fn left(fixture: &Fixture, key: &KeyId) -> u32 {
    fixture.open().key(key).unwrap().unwrap().uses.unwrap().left
}

/// Runs a future on a runtime of its own, as a worker has one.
fn run<T>(future: impl Future<Output = T>) -> T {
    runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
}

#[test]
fn as_many_claims_win_as_there_are_uses_over_threads_writers_and_restarts() {
    let fixture = Fixture::new();
    let key = limited(&fixture, 1, 70);
    let mut won = 0;
    for _restart in 0..2 {
        let writers = [Writer::start(fixture.dir()).unwrap(), Writer::start(fixture.dir()).unwrap()];
        let start = Barrier::new(4);
        won += thread::scope(|scope| {
            let workers: Vec<_> = (0..4)
                .map(|worker| {
                    let (claims, start) = (writers[worker % 2].claims(), &start);
                    scope.spawn(move || {
                        start.wait();
                        run(join_all((0..20).map(|_| claims.claim(key))))
                    })
                })
                .collect();
            let outcomes = workers.into_iter().flat_map(|worker| worker.join().unwrap());
            outcomes.filter(|outcome| *outcome == Ok(Claimed::Claimed)).count()
        });
    }
    assert_eq!((won, left(&fixture, &key)), (70, 0));
}

#[test]
fn a_claim_whose_asker_leaves_is_given_back() {
    let fixture = Fixture::new();
    let key = limited(&fixture, 1, 100);
    let writer = Writer::start(fixture.dir()).unwrap();
    let mut kept = 0;
    for round in 0..60 {
        let claims = writer.claims();
        // They leave at every stage: before the writer has looked, while it writes, after it.
        let outcome = run(async { timeout(Duration::from_micros(round * 40), claims.claim(key)).await });
        kept += u32::from(outcome == Ok(Ok(Claimed::Claimed)));
    }
    // Everything that was asked for is done when the writer ends.
    drop(writer);
    assert!(kept < 60);
    assert_eq!(left(&fixture, &key), 100 - kept);
}

/// Even when the answer lies ready and nobody has looked at it yet.
#[test]
fn an_answer_that_is_not_taken_is_given_back() {
    let fixture = Fixture::new();
    let key = limited(&fixture, 1, 5);
    let writer = Writer::start(fixture.dir()).unwrap();
    let (answer, answered) = oneshot::channel();
    writer.claims().0.blocking_send(Job::Claim { key, answer }).unwrap();
    let begun = tokio::time::Instant::now();
    while left(&fixture, &key) == 5 {
        assert!(begun.elapsed() < Duration::from_secs(10));
    }
    drop(answered);
    drop(writer);
    assert_eq!(left(&fixture, &key), 5);
}

#[test]
fn a_refund_makes_one_more_claim_and_no_two() {
    let fixture = Fixture::new();
    let key = limited(&fixture, 1, 1);
    let writer = Writer::start(fixture.dir()).unwrap();
    let claims = writer.claims();
    run(async {
        assert_eq!(claims.claim(key).await, Ok(Claimed::Claimed));
        assert_eq!(claims.claim(key).await, Ok(Claimed::Spent));
        claims.refund(key);
        assert_eq!(claims.claim(key).await, Ok(Claimed::Claimed));
        assert_eq!(claims.claim(key).await, Ok(Claimed::Spent));
        assert_eq!(claims.claim(new_key(2).id).await, Ok(Claimed::Unknown));
    });
}

#[test]
fn last_uses_are_written_at_the_latest_when_the_writer_ends() {
    let fixture = Fixture::new();
    fixture.open().create_key(&new_key(1)).unwrap();
    let writer = Writer::start(fixture.dir()).unwrap();
    let key = new_key(1).id;
    for seconds in [7, 9, 8] {
        assert!(writer.claims().touch(&FxHashMap::from_iter([(key, at(seconds))])));
    }
    drop(writer);
    assert_eq!(fixture.open().last_used_at(&key).unwrap(), Some(at(9)));
}

#[test]
fn what_cannot_be_made_durable_is_no_claim() {
    let fixture = Fixture::new();
    let key = limited(&fixture, 1, 3);
    let writer = Writer::start(fixture.dir()).unwrap();
    let claims = writer.claims();
    let claim = || run(claims.claim(key));
    assert_eq!(claim(), Ok(Claimed::Claimed));
    // Another process writes for longer than a request waits.
    let locking = rusqlite::Connection::open(sqlite::path(fixture.dir())).unwrap();
    locking.execute_batch("BEGIN IMMEDIATE").unwrap();
    assert_eq!(claim(), Err(NotClaimed));
    locking.execute_batch("ROLLBACK").unwrap();
    drop(locking);
    assert_eq!(claim(), Ok(Claimed::Claimed));
    // The file is gone; then there is one that is no store; then it is back.
    let (path, away) = (sqlite::path(fixture.dir()), fixture.dir().join("away"));
    fs::rename(&path, &away).unwrap();
    assert_eq!(claim(), Err(NotClaimed));
    assert!(!path.exists(), "a writer never makes a store");
    fs::write(&path, "this is not a database, and long enough to be looked at as one".repeat(99)).unwrap();
    assert_eq!(claim(), Err(NotClaimed));
    fs::rename(&away, &path).unwrap();
    assert_eq!(claim(), Ok(Claimed::Claimed));
    assert_eq!(claim(), Ok(Claimed::Spent), "of three uses, three");
}

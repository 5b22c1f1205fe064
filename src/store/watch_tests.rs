use std::collections::BTreeMap;
use std::sync::mpsc;

use proptest::prelude::*;

use super::*;
use crate::domain::identity::Role;
use crate::store::conformance_tests::{Fixture, at, domain, name, new_certificate, new_key, shown};
use crate::store::rows::Reason;

/// The longest that a change may take to be in force.
const SOON: Duration = Duration::from_secs(1);

fn unread(fixture: &Fixture) -> View {
    let state_dir = fixture.dir().to_owned();
    View { state_dir, opened: None, file: None, revision: 0, snapshot: Snapshot::default() }
}

/// All that a snapshot says, comparably.
fn content(snapshot: &Snapshot) -> (BTreeMap<String, String>, String) {
    let keys = snapshot.keys().map(|record| (record.id.to_string(), shown(record))).collect();
    let denied = snapshot.denied();
    let mut all: Vec<_> = denied.serials.iter().map(|s| format!("{s:?}")).collect();
    all.extend(denied.public_keys.iter().map(|k| format!("{k:?}")));
    all.extend(denied.subjects.iter().map(ToString::to_string));
    all.sort();
    (keys, all.join(" "))
}

#[test]
fn a_change_by_another_connection_is_published_soon() {
    let fixture = Fixture::new();
    let mut other = fixture.open();
    other.create_key(&new_key(1)).unwrap();
    let (publish, published) = mpsc::channel();
    let watcher = Watcher::start(fixture.dir(), move |snapshot| publish.send(snapshot).unwrap()).unwrap();
    assert_eq!(published.try_recv().unwrap().key_count(), 1);

    other.create_key(&new_key(2)).unwrap();
    assert_eq!(published.recv_timeout(SOON).unwrap().key_count(), 2);
    other.revoke_key(&new_key(1).id, at(5)).unwrap();
    let snapshot = published.recv_timeout(SOON).unwrap();
    assert_eq!(snapshot.key(&new_key(1).id).unwrap().revoked_at, Some(at(5)));
    other.revoke_name(&domain(), &name("alice"), Reason::Unspecified, at(6)).unwrap();
    assert_eq!(published.recv_timeout(SOON).unwrap().denied().subjects.len(), 3);
    assert!(watcher.last_ok().elapsed() < SOON);

    drop(watcher);
    assert!(published.recv_timeout(SOON).is_err_and(|error| error == mpsc::RecvTimeoutError::Disconnected));
}

#[test]
fn nothing_is_missed_while_the_watcher_starts() {
    let fixture = Fixture::new();
    let mut other = fixture.open();
    let (publish, published) = mpsc::channel();
    thread::scope(|scope| {
        scope.spawn(move || {
            for number in 0..100 {
                other.create_key(&new_key(number)).unwrap();
            }
        });
        let watcher = Watcher::start(fixture.dir(), move |snapshot| publish.send(snapshot).unwrap()).unwrap();
        while published.recv_timeout(10 * SOON).unwrap().key_count() < 100 {}
        drop(watcher);
    });
}

#[test]
fn a_change_right_after_the_first_load_is_seen_by_the_first_look() {
    let fixture = Fixture::new();
    let mut other = fixture.open();
    let mut view = unread(&fixture);
    assert!(view.look().unwrap());
    other.create_key(&new_key(1)).unwrap();
    assert!(view.look().unwrap());
    assert_eq!(view.snapshot.key_count(), 1);
    assert!(!view.look().unwrap());
}

#[test]
fn an_unreadable_store_keeps_the_last_snapshot() {
    let fixture = Fixture::new();
    fixture.open().create_key(&new_key(1)).unwrap();
    let mut view = unread(&fixture);
    view.look().unwrap();
    let (path, away) = (sqlite::path(fixture.dir()), fixture.dir().join("away"));
    fs::rename(&path, &away).unwrap();
    for _ in 0..2 {
        assert!(matches!(view.look(), Err(StoreError::File { .. })));
        assert_eq!(view.snapshot.key_count(), 1);
        assert!(!path.exists(), "a look never makes a store");
    }
    fs::write(&path, "this is not a database, and long enough to be looked at as one".repeat(99)).unwrap();
    assert!(matches!(view.look(), Err(StoreError::Corrupt(_))));
    assert_eq!(view.snapshot.key_count(), 1);
    fs::rename(&away, &path).unwrap();
    assert!(!view.look().unwrap(), "the same store in the same state is no change");
    fixture.open().create_key(&new_key(2)).unwrap();
    assert!(view.look().unwrap());
    assert_eq!(view.snapshot.key_count(), 2);
}

#[test]
fn a_store_that_was_put_back_is_read_whole() {
    let (fixture, backup) = (Fixture::new(), Fixture::new());
    for number in 1..4 {
        fixture.open().create_key(&new_key(number)).unwrap();
    }
    backup.open().create_key(&new_key(9)).unwrap();
    let mut view = unread(&fixture);
    view.look().unwrap();
    assert_eq!(view.snapshot.key_count(), 3);
    view.opened = None;
    fs::rename(sqlite::path(backup.dir()), sqlite::path(fixture.dir())).unwrap();
    assert!(view.look().unwrap());
    assert_eq!(view.snapshot.keys().map(|key| key.id).collect::<Vec<_>>(), [new_key(9).id]);
}

#[test]
fn a_row_that_cannot_be_understood_is_an_error_and_no_wider_key() {
    let fixture = Fixture::new();
    fixture.open().create_key(&new_key(1)).unwrap();
    let mut view = unread(&fixture);
    view.look().unwrap();
    let raw = rusqlite::Connection::open(sqlite::path(fixture.dir())).unwrap();
    for bad in ["[]", "[\"banana/8\"]", "null", "\"*\""] {
        raw.execute("UPDATE keys SET networks = ?1, revision = 99", [bad]).unwrap();
        raw.execute("UPDATE meta SET revision = 99", []).unwrap();
        let message = view.look().unwrap_err().to_string();
        assert!(message.contains(&format!("key {}", new_key(1).id)) && message.contains("networks"), "{message}");
    }
}

#[derive(Clone, Debug)]
enum Step {
    Create(u64),
    Revoke(u64),
    Record(u8, u8),
    RevokeSerial(u8, Reason),
    RevokeName(u8),
    Reinstate(u8),
    Look,
    Reconnect,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0u64..6).prop_map(Step::Create),
        (0u64..6).prop_map(Step::Revoke),
        (1u8..6, 0u8..2).prop_map(|(number, who)| Step::Record(number, who)),
        (1u8..6, prop::sample::select(&Reason::ALL[..])).prop_map(|(number, why)| Step::RevokeSerial(number, why)),
        (0u8..2).prop_map(Step::RevokeName),
        (0u8..2).prop_map(Step::Reinstate),
        Just(Step::Look),
        Just(Step::Reconnect),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// However the changes fall between the looks, the snapshot is that of a fresh load, and no
    /// revoked key is ever seen alive again.
    #[test]
    fn a_snapshot_equals_a_fresh_load(steps in prop::collection::vec(step(), 1..30)) {
        let fixture = Fixture::new();
        let mut store = fixture.open();
        let mut view = unread(&fixture);
        view.look().unwrap();
        let who = |who: u8| name(if who == 0 { "alice" } else { "bob" });
        let mut dead = std::collections::HashSet::new();
        for step in steps {
            // Steps that are refused (a taken id, a revoked name) are part of the sequence.
            match step {
                Step::Create(number) => drop(store.create_key(&new_key(number))),
                Step::Revoke(number) => drop(store.revoke_key(&new_key(number).id, at(7))),
                Step::Record(number, whose) => {
                    drop(store.record_certificate(&new_certificate(number, Role::Client, who(whose).as_str())));
                }
                Step::RevokeSerial(number, reason) => {
                    let serial = new_certificate(number, Role::Client, "alice").serial;
                    store.revoke_certificate(&serial, reason, at(8)).unwrap();
                }
                Step::RevokeName(whose) => {
                    store.revoke_name(&domain(), &who(whose), Reason::Unspecified, at(9)).unwrap();
                }
                Step::Reinstate(whose) => drop(store.reinstate(&domain(), &who(whose)).unwrap()),
                Step::Look => drop(view.look().unwrap()),
                Step::Reconnect => view.opened = None,
            }
            dead.extend(view.snapshot.keys().filter(|key| key.revoked_at.is_some()).map(|key| key.id));
            for id in &dead {
                prop_assert!(view.snapshot.key(id).unwrap().revoked_at.is_some());
            }
        }
        view.look().unwrap();
        let mut fresh = unread(&fixture);
        fresh.look().unwrap();
        prop_assert_eq!(content(&view.snapshot), content(&fresh.snapshot));
    }
}

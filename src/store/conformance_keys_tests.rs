//! What every engine must do with keys.

use std::collections::HashMap;
use std::time::Duration;

use super::*;
use crate::domain::key::{ExternalId, Hashing, KeyDetails, KeyDigest, Labels, Narrowing};
use crate::domain::network::Networks;
use crate::store::conformance_tests::{Fixture, at, full_key, named, new_key, owner, revision, uses};

#[test]
fn a_key_comes_back_as_it_was_stored() {
    let fixture = Fixture::new();
    let mut store = fixture.open();
    let anywhere =
        KeyRecord { narrowing: Narrowing { networks: Some(Networks::Any), ..Narrowing::default() }, ..new_key(2) };
    let plain = KeyRecord { digest: KeyDigest::new([9; 32], Hashing::Plain), ..new_key(4) };
    for key in [&full_key(1), &anywhere, &plain] {
        store.create_key(key).unwrap();
        assert_eq!(fixture.open().key(&key.id).unwrap().unwrap(), *key);
    }
    assert_eq!(store.list_keys().unwrap().len(), 3);
    assert!(store.key(&new_key(3).id).unwrap().is_none());
}

#[test]
fn a_taken_name_is_refused_and_changes_nothing() {
    let fixture = Fixture::new();
    let mut store = fixture.open();
    store.create_key(&named(new_key(1), "crm:1")).unwrap();
    store.create_key(&named(new_key(2), "crm:2")).unwrap();
    let before = revision(&store);
    let other = KeyRecord { owner: owner("evil"), ..new_key(1) };
    assert!(store.create_key(&other).is_err_and(|error| error.to_string().contains(other.id.as_str())));
    let taken = |error: StoreError| error.to_string() == "a key with the external id crm:1 exists already";
    assert!(store.create_key(&named(new_key(3), "crm:1")).is_err_and(taken));
    let rename = KeyChange { external_id: Some(ExternalId::parse("crm:1").ok()), ..KeyChange::default() };
    assert!(store.update_key(&new_key(2).id, &rename, at(8000)).is_err_and(taken));
    assert_eq!(store.key(&other.id).unwrap().unwrap(), named(new_key(1), "crm:1"));
    assert_eq!(store.list_keys().unwrap().len(), 2);
    assert_eq!(revision(&store), before);
}

#[test]
fn a_change_is_kept_and_leaves_the_rest() {
    let fixture = Fixture::new();
    let mut store = fixture.open();
    let key = full_key(1);
    store.create_key(&key).unwrap();
    assert_eq!(store.update_key(&new_key(9).id, &KeyChange::default(), at(8000)).unwrap(), Updated::Unknown);
    let before = revision(&store);
    assert_eq!(store.update_key(&key.id, &KeyChange::default(), at(8000)).unwrap(), Updated::Unchanged(key.clone()));
    assert_eq!(revision(&store), before, "what changes nothing is no change");
    let change = KeyChange {
        networks: Some(None),
        expires_at: Some(Some(at(1900))),
        uses: Some(uses(1)),
        disabled: Some(false),
        bound_to: Some(None),
        ..KeyChange::default()
    };
    let expected = change.applied_to(&key);
    assert_eq!(store.update_key(&key.id, &change, at(8000)).unwrap(), Updated::Changed(expected.clone()));
    assert_eq!(fixture.open().key(&key.id).unwrap().unwrap(), expected);
    let clear = KeyChange {
        labels: Some(Labels::default()),
        note: Some(None),
        external_id: Some(None),
        not_before: Some(None),
        ..KeyChange::default()
    };
    store.update_key(&key.id, &clear, at(8000)).unwrap();
    assert_eq!(fixture.open().key(&key.id).unwrap().unwrap(), clear.applied_to(&expected));
}

#[test]
fn a_rotated_key_ends_and_the_new_one_takes_over() {
    let fixture = Fixture::new();
    let mut store = fixture.open();
    let to = |number: u64, overlap: u64, expires_at: Option<i64>| Rotation {
        id: new_key(number).id,
        digest: new_key(number).digest,
        expires_at: expires_at.map(at),
        overlap: Duration::from_secs(overlap),
        now: at(1600),
    };
    let old = KeyRecord { revoked_at: None, ..full_key(1) };
    store.create_key(&old).unwrap();
    assert_eq!(store.rotate_key(&new_key(5).id, &to(2, 100, None)).unwrap(), Rotated::Unknown);
    assert!(matches!(store.rotate_key(&old.id, &to(1, 100, None)), Err(StoreError::Exists(_))));
    assert_eq!(store.key(&old.id).unwrap().unwrap(), old, "both or nothing");

    let Rotated::Rotated { new, old: ending } = store.rotate_key(&old.id, &to(2, 100, Some(5000))).unwrap() else {
        panic!("not rotated")
    };
    let rotated_from = Some(old.id);
    let expected = KeyRecord {
        id: new_key(2).id,
        digest: new_key(2).digest,
        created_at: at(1600),
        expires_at: Some(at(5000)),
        details: KeyDetails { rotated_from, ..old.details() }.boxed(),
        ..old.clone()
    };
    assert_eq!(*new, expected, "all policy, the uses and the external id go over");
    assert_eq!(ending.expires_at, Some(at(1700)));
    assert_eq!(ending.uses.unwrap().left, 0, "both together are used no more often than allowed");
    assert_eq!(ending.external_id(), None);
    for key in [&*new, &*ending] {
        assert_eq!(fixture.open().key(&key.id).unwrap().unwrap(), *key);
    }
    // Its own expiry is earlier than the end of the overlap.
    let Rotated::Rotated { old: ending, .. } = store.rotate_key(&new.id, &to(3, 86_400, None)).unwrap() else {
        panic!("not rotated")
    };
    assert_eq!(ending.expires_at, Some(at(5000)));

    store.revoke_key(&new_key(3).id, at(1650)).unwrap();
    assert_eq!(store.rotate_key(&new_key(3).id, &to(4, 1, None)).unwrap(), Rotated::Revoked);
    store.create_key(&KeyRecord { expires_at: Some(at(1600)), ..new_key(6) }).unwrap();
    assert_eq!(store.rotate_key(&new_key(6).id, &to(4, 1, None)).unwrap(), Rotated::Expired);
    assert!(store.key(&new_key(4).id).unwrap().is_none());
}

#[test]
fn revoking_a_key_is_for_good_and_keeps_the_first_time() {
    let fixture = Fixture::new();
    let mut store = fixture.open();
    let id = new_key(1).id;
    assert_eq!(store.revoke_key(&id, at(5)).unwrap(), Revoked::Unknown);
    store.create_key(&new_key(1)).unwrap();
    assert_eq!(store.revoke_key(&id, at(5)).unwrap(), Revoked::Revoked);
    assert_eq!(store.revoke_key(&id, at(6)).unwrap(), Revoked::AlreadyRevoked);
    assert_eq!(fixture.open().key(&id).unwrap().unwrap().revoked_at, Some(at(5)));
}

#[test]
fn a_deleted_key_is_gone_with_its_use_and_may_come_back() {
    let fixture = Fixture::new();
    let mut store = fixture.open();
    assert!(!store.delete_key(&new_key(1).id, at(8000)).unwrap());
    store.create_key(&named(new_key(1), "crm:1")).unwrap();
    store.touch_keys(&[(new_key(1).id, at(5))]).unwrap();
    let reader = fixture.open();
    let seen = revision(&reader);
    assert!(store.delete_key(&new_key(1).id, at(8000)).unwrap());
    assert!(!store.delete_key(&new_key(1).id, at(8000)).unwrap());
    assert!(reader.key(&new_key(1).id).unwrap().is_none());
    assert!(reader.last_used().unwrap().is_empty());
    let changes = reader.changes_since(seen).unwrap();
    assert_eq!((changes.whole, changes.deleted_keys), (false, vec![new_key(1).id]));

    store.create_key(&named(new_key(1), "crm:1")).unwrap();
    let changes = reader.changes_since(seen).unwrap();
    assert_eq!((changes.keys.len(), changes.deleted_keys.len()), (1, 0));
}

#[test]
fn an_import_can_be_made_again() {
    let fixture = Fixture::new();
    let mut store = fixture.open();
    let import = |record: KeyRecord| KeyImport { record, minted: false };
    let batch: Vec<_> = (1..=3).map(|n| import(named(new_key(n), &format!("crm:{n}")))).collect();
    let before = revision(&store);
    let outcomes = store.import_keys(&batch).unwrap();
    assert_eq!(outcomes, [1, 2, 3].map(|n| Imported::Created(new_key(n).id)));
    assert_eq!(revision(&store), before + 1, "one transaction, one revision");
    let after = revision(&store);
    assert_eq!(store.import_keys(&batch).unwrap(), [1, 2, 3].map(|n| Imported::Unchanged(new_key(n).id)));
    assert_eq!(revision(&store), after);

    // A use or a revocation since then is no difference; another policy, secret or id is.
    let counted = import(KeyRecord { uses: uses(5), ..named(new_key(4), "crm:4") });
    store.import_keys(std::slice::from_ref(&counted)).unwrap();
    store.claim_uses(&[new_key(4).id]).unwrap();
    store.revoke_key(&new_key(4).id, at(7)).unwrap();
    let outcomes = store
        .import_keys(&[
            counted,
            import(KeyRecord { expires_at: Some(at(9)), ..named(new_key(1), "crm:1") }),
            import(named(new_key(7), "crm:1")),
            KeyImport { record: named(new_key(8), "crm:2"), minted: true },
            import(named(new_key(3), "crm:other")),
            import(new_key(9)),
            import(KeyRecord { disabled: true, ..new_key(9) }),
        ])
        .unwrap();
    let id = |number| new_key(number).id;
    assert_eq!(
        outcomes,
        [
            Imported::Unchanged(id(4)),
            Imported::Conflict(id(1)),
            Imported::Conflict(id(1)),
            Imported::Unchanged(id(2)),
            Imported::Conflict(id(3)),
            Imported::Created(id(9)),
            Imported::Conflict(id(9)),
        ]
    );
    assert_eq!(store.list_keys().unwrap().len(), 5);
    assert_eq!(store.key(&id(1)).unwrap().unwrap(), named(new_key(1), "crm:1"), "a conflict leaves it alone");
}

#[test]
fn a_use_is_claimed_once_and_given_back_once() {
    let fixture = Fixture::new();
    let mut store = fixture.open();
    store.create_key(&KeyRecord { uses: uses(2), ..new_key(1) }).unwrap();
    store.create_key(&new_key(2)).unwrap();
    let [limited, free, unknown] = [1, 2, 3].map(|number| new_key(number).id);
    let before = revision(&store);
    let left = |store: &Store| store.key(&limited).unwrap().unwrap().uses.unwrap().left;
    assert_eq!(
        store.claim_uses(&[limited, free, unknown]).unwrap(),
        [Claimed::Claimed, Claimed::Unlimited, Claimed::Unknown]
    );
    assert_eq!((left(&fixture.open()), revision(&store)), (1, before), "counting is no change of policy");
    assert_eq!(store.claim_uses(&[limited, limited]).unwrap(), [Claimed::Claimed, Claimed::Spent]);
    assert!(revision(&store) > before, "readers learn that it is spent");
    let spent = revision(&store);
    store.refund_uses(&[limited, free, unknown]).unwrap();
    assert!(revision(&store) > spent, "readers learn that it is not");
    assert_eq!(left(&fixture.open()), 1);
    assert_eq!(store.key(&free).unwrap().unwrap().uses, None);
    assert_eq!(store.claim_uses(&[limited]).unwrap(), [Claimed::Claimed]);
    assert_eq!(fixture.open().claim_uses(&[limited]).unwrap(), [Claimed::Spent]);
}

#[test]
fn the_last_use_is_the_latest_and_no_change() {
    let fixture = Fixture::new();
    let mut store = fixture.open();
    for number in [1, 2] {
        store.create_key(&new_key(number)).unwrap();
    }
    let [first, second, unknown] = [1, 2, 3].map(|number| new_key(number).id);
    let before = revision(&store);
    store.touch_keys(&[(first, at(7)), (unknown, at(7)), (first, at(5))]).unwrap();
    assert_eq!(fixture.open().last_used().unwrap(), HashMap::from([(first, at(7))]));
    store.touch_keys(&[(first, at(9)), (second, at(8))]).unwrap();
    let reader = fixture.open();
    assert_eq!((reader.last_used_at(&first).unwrap(), reader.last_used_at(&unknown).unwrap()), (Some(at(9)), None));
    assert_eq!(reader.last_used().unwrap().len(), 2);
    assert_eq!(revision(&store), before);
}

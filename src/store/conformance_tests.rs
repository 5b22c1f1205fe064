//! What every engine must do, whichever way it keeps rows. `Fixture::open` gives a new handle on
//! one and the same store, as another process would have it.

use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;

use super::*;
use crate::domain::endpoint::Endpoints;
use crate::domain::grant::{Models, Require};
use crate::domain::identity::{Identity, Role};
use crate::domain::key::{Binding, ExternalId, Hashing, KeyDetails, KeyDigest, Labels, Narrowing, NewKey, Note, Uses};
use crate::domain::network::Networks;

pub(super) struct Fixture(pub(super) TempDir);

impl Fixture {
    pub(super) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(super) fn dir(&self) -> &Path {
        self.0.path()
    }

    pub(super) fn open(&self) -> Store {
        Store::open(self.dir()).unwrap()
    }
}

pub(super) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_seconds(seconds)
}

pub(super) fn new_key(number: u64) -> KeyRecord {
    let mut digest = [7; 32];
    digest[..8].copy_from_slice(&number.to_be_bytes());
    let id = NewKey::from_random(number.to_be_bytes(), &[0; 32]).id();
    KeyRecord::new(id, owner("acme/research"), KeyDigest::from_bytes(digest), at(1000))
}

/// A key that has all that a key can have.
pub(super) fn full_key(number: u64) -> KeyRecord {
    KeyRecord {
        narrowing: Narrowing {
            networks: Some(Networks::parse(&["10.0.0.0/8", "fd00:20::/64"]).unwrap()),
            endpoints: Some(Endpoints::parse(&["@chat", "ollama.*"]).unwrap()),
            models: Some(Models::parse(&["llama-*", "qwen3:8b"]).unwrap()),
        },
        not_before: Some(at(1500)),
        expires_at: Some(at(2000)),
        revoked_at: Some(at(1800)),
        uses: uses(3),
        disabled: true,
        details: KeyDetails {
            bound_to: Some(Binding::parse("spiffe://corp.example/client/ci-*").unwrap()),
            labels: Labels::parse([("team", "search \"ü\""), ("empty", "")]).unwrap(),
            note: Some(Note::parse("for the demo").unwrap()),
            rotated_from: Some(new_key(number + 1000).id),
            external_id: Some(ExternalId::parse(&format!("crm:{number}")).unwrap()),
        }
        .boxed(),
        ..new_key(number)
    }
}

pub(super) fn uses(left: u32) -> Option<Uses> {
    Some(Uses { left, refund_on_failure: true })
}

pub(super) fn named(record: KeyRecord, external_id: &str) -> KeyRecord {
    let external_id = Some(ExternalId::parse(external_id).unwrap());
    KeyRecord { details: KeyDetails { external_id, ..record.details() }.boxed(), ..record }
}

pub(super) fn owner(path: &str) -> OwnerPath {
    OwnerPath::parse(path).unwrap()
}

pub(super) fn full_grant(path: &str) -> Grant {
    Grant {
        require: Some(Require::Both),
        networks: Some(Networks::parse(&["10.0.0.0/8"]).unwrap()),
        endpoints: Some(Endpoints::parse(&["@chat"]).unwrap()),
        models: Some(Models::parse(&["llama-*"]).unwrap()),
        expires_at: Some(at(9000)),
        default_key_ttl: Some(Duration::from_millis(1500)),
        max_key_ttl: Some(Duration::from_secs(86_400)),
        ..Grant::new(owner(path))
    }
}

pub(super) fn domain() -> TrustDomain {
    TrustDomain::parse("corp.example").unwrap()
}

pub(super) fn name(text: &str) -> IdentityName {
    IdentityName::parse(text).unwrap()
}

pub(super) fn new_certificate(number: u8, role: Role, who: &str) -> NewCertificate {
    NewCertificate {
        serial: Serial::from_bytes(&[0, number, 0xff]),
        identity: Identity::new(&domain(), role, &name(who)),
        not_before: at(940),
        not_after: at(87_400),
        spki_sha256: [number; 32],
        issued_at: at(1000 + i64::from(number)),
    }
}

fn revision(store: &Store) -> i64 {
    store.changes_since(0).unwrap().revision
}

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
    assert!(store.update_key(&new_key(2).id, &rename).is_err_and(taken));
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
    assert_eq!(store.update_key(&new_key(9).id, &KeyChange::default()).unwrap(), Updated::Unknown);
    let before = revision(&store);
    assert_eq!(store.update_key(&key.id, &KeyChange::default()).unwrap(), Updated::Unchanged(key.clone()));
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
    assert_eq!(store.update_key(&key.id, &change).unwrap(), Updated::Changed(expected.clone()));
    assert_eq!(fixture.open().key(&key.id).unwrap().unwrap(), expected);
    let clear = KeyChange {
        labels: Some(Labels::default()),
        note: Some(None),
        external_id: Some(None),
        not_before: Some(None),
        ..KeyChange::default()
    };
    store.update_key(&key.id, &clear).unwrap();
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
    assert!(!store.delete_key(&new_key(1).id).unwrap());
    store.create_key(&named(new_key(1), "crm:1")).unwrap();
    store.touch_keys(&[(new_key(1).id, at(5))]).unwrap();
    let reader = fixture.open();
    let seen = revision(&reader);
    assert!(store.delete_key(&new_key(1).id).unwrap());
    assert!(!store.delete_key(&new_key(1).id).unwrap());
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

#[test]
fn a_grant_comes_back_as_it_was_set() {
    let fixture = Fixture::new();
    let mut store = fixture.open();
    let (full, empty) = (full_grant("acme/research"), Grant::new(owner("acme")));
    assert!(store.set_grant(&full).unwrap());
    assert!(store.set_grant(&empty).unwrap());
    assert_eq!(fixture.open().list_grants().unwrap(), [empty.clone(), full.clone()]);
    let before = revision(&store);
    assert!(!store.set_grant(&full).unwrap());
    assert_eq!(revision(&store), before, "what changes nothing is no change");

    let narrower = Grant { models: Some(Models::parse(&["llama-3"]).unwrap()), ..full };
    assert!(store.set_grant(&narrower).unwrap());
    assert_eq!(fixture.open().grant(&narrower.owner).unwrap(), Some(narrower.clone()));
    let reader = fixture.open();
    let changes = reader.changes_since(before).unwrap();
    assert_eq!((changes.grants, changes.deleted_grants), (vec![narrower.clone()], vec![]));

    let before = revision(&store);
    assert!(store.remove_grant(&narrower.owner).unwrap());
    assert!(!store.remove_grant(&narrower.owner).unwrap());
    assert_eq!(reader.grant(&narrower.owner).unwrap(), None);
    assert_eq!(reader.changes_since(before).unwrap().deleted_grants, std::slice::from_ref(&narrower.owner));
    store.set_grant(&narrower).unwrap();
    let changes = reader.changes_since(before).unwrap();
    assert_eq!((changes.grants.len(), changes.deleted_grants.len()), (1, 0));
}

#[test]
fn an_owner_is_switched_off_and_on() {
    let fixture = Fixture::new();
    let mut store = fixture.open();
    store.create_key(&new_key(1)).unwrap();
    store.create_key(&new_key(2)).unwrap();
    store.set_grant(&full_grant("acme")).unwrap();
    let (research, nobody) = (owner("acme/research"), owner("nobody"));
    assert!(!store.set_owner_disabled(&research, None).unwrap());
    assert!(store.set_owner_disabled(&research, Some(at(5))).unwrap());
    assert!(store.set_owner_disabled(&nobody, Some(at(6))).unwrap());
    let before = revision(&store);
    assert!(!store.set_owner_disabled(&research, Some(at(7))).unwrap(), "the first time stays");
    assert_eq!(revision(&store), before);
    let row = |path: &str, disabled_at, keys, granted| OwnerRow { owner: owner(path), disabled_at, keys, granted };
    assert_eq!(
        fixture.open().list_owners().unwrap(),
        [row("acme", None, 0, true), row("acme/research", Some(at(5)), 2, false), row("nobody", Some(at(6)), 0, false)]
    );
    assert!(store.set_owner_disabled(&research, None).unwrap());
    assert!(store.set_owner_disabled(&nobody, None).unwrap());
    assert_eq!(store.list_owners().unwrap(), [row("acme", None, 0, true), row("acme/research", None, 2, false)]);
    let mut changed = fixture.open().changes_since(before).unwrap().owners;
    changed.sort();
    assert_eq!(changed, [(research, false), (nobody, false)]);
}

#[test]
fn a_reader_learns_what_changed_since() {
    let fixture = Fixture::new();
    let (mut writer, reader) = (fixture.open(), fixture.open());
    assert_eq!(revision(&reader), 0);
    for number in 1..=3 {
        writer.create_key(&new_key(number)).unwrap();
    }
    let changes = reader.changes_since(0).unwrap();
    assert_eq!((changes.whole, changes.keys.len()), (true, 3));
    let first = changes.revision;
    let version = reader.data_version().unwrap();
    let changes = reader.changes_since(first).unwrap();
    assert!(!changes.whole && changes.keys.is_empty() && changes.denied.is_none());
    assert_eq!(reader.data_version().unwrap(), version);

    writer.revoke_key(&new_key(2).id, at(5)).unwrap();
    writer.record_certificate(&new_certificate(1, Role::Client, "alice")).unwrap();
    assert_ne!(reader.data_version().unwrap(), version);
    let changes = reader.changes_since(first).unwrap();
    let keys: Vec<_> = changes.keys.iter().map(|key| (key.id, key.revoked_at)).collect();
    assert_eq!(keys, [(new_key(2).id, Some(at(5)))]);
    assert!(changes.denied.is_none(), "an issued certificate denies nothing");
    let second = changes.revision;
    assert!(second > first + 1, "certificates count too");
    assert_eq!(writer.revoke_key(&new_key(2).id, at(6)).unwrap(), Revoked::AlreadyRevoked);
    assert_eq!(revision(&reader), second, "what changes nothing is no change");

    writer.revoke_name(&domain(), &name("alice"), Reason::Superseded, at(7)).unwrap();
    let changes = reader.changes_since(second).unwrap();
    assert!(changes.keys.is_empty() && changes.denied.is_some_and(|denied| denied.subjects.len() == 3));
    // One that has seen more than there is reads another store's past.
    assert!(reader.changes_since(second + 99).unwrap().whole);
}

#[test]
fn a_certificate_comes_back_as_it_was_stored() {
    let fixture = Fixture::new();
    let mut store = fixture.open();
    let certificate = new_certificate(1, Role::Connector, "gpu-1");
    store.record_certificate(&certificate).unwrap();
    assert!(matches!(store.record_certificate(&certificate), Err(StoreError::Exists(_))));
    let found = fixture.open().certificate(&certificate.serial).unwrap().unwrap();
    assert_eq!(found, CertificateRecord { certificate, revoked: None });
    assert_eq!(store.list_certificates().unwrap(), [found]);
    assert!(store.certificate(&Serial::parse("01").unwrap()).unwrap().is_none());
    assert_eq!(store.denied().unwrap(), DenySet::default());
}

#[test]
fn revoking_a_serial_denies_that_certificate_alone() {
    let fixture = Fixture::new();
    let mut store = fixture.open();
    for number in [1, 2, 3] {
        store.record_certificate(&new_certificate(number, Role::Client, "alice")).unwrap();
    }
    let serial = |number| new_certificate(number, Role::Client, "alice").serial;
    assert_eq!(store.revoke_certificate(&serial(1), Reason::Superseded, at(5)).unwrap(), Revoked::Revoked);
    assert_eq!(store.revoke_certificate(&serial(1), Reason::KeyCompromise, at(6)).unwrap(), Revoked::AlreadyRevoked);
    assert_eq!(store.revoke_certificate(&serial(9), Reason::Superseded, at(6)).unwrap(), Revoked::Unknown);
    assert_eq!(store.certificate(&serial(1)).unwrap().unwrap().revoked, Some((at(5), Reason::Superseded)));
    assert_eq!(store.certificate(&serial(2)).unwrap().unwrap().revoked, None);

    store.revoke_certificate(&serial(3), Reason::KeyCompromise, at(7)).unwrap();
    let denied = fixture.open().denied().unwrap();
    assert_eq!(denied.serials, [serial(1), serial(3)].map(|s| s.as_bytes().into()).into());
    assert_eq!(denied.public_keys, [[3; 32]].into(), "only a compromised key is bad in other certificates");
    assert!(denied.subjects.is_empty());
}

#[test]
fn revoking_a_name_covers_every_role_and_later_certificates() {
    let fixture = Fixture::new();
    let mut store = fixture.open();
    let alice = name("alice");
    store.record_certificate(&new_certificate(1, Role::Client, "alice")).unwrap();
    store.record_certificate(&new_certificate(2, Role::Operator, "alice")).unwrap();
    store.record_certificate(&new_certificate(3, Role::Client, "alice2")).unwrap();
    assert!(!store.is_name_revoked(&domain(), &alice).unwrap());

    let done = store.revoke_name(&domain(), &alice, Reason::PrivilegeWithdrawn, at(5)).unwrap();
    assert_eq!(done, NameRevoked { newly: true, certificates: 2 });
    let again = store.revoke_name(&domain(), &alice, Reason::PrivilegeWithdrawn, at(6)).unwrap();
    assert_eq!(again, NameRevoked { newly: false, certificates: 0 });
    assert!(store.is_name_revoked(&domain(), &alice).unwrap());
    assert!(!store.is_name_revoked(&domain(), &name("alice2")).unwrap());
    let denied = fixture.open().denied().unwrap();
    let uris = ["client", "connector", "operator"].map(|role| format!("spiffe://corp.example/{role}/alice"));
    assert_eq!(denied.subjects, uris.map(String::into_boxed_str).into());
    assert_eq!(denied.serials.len(), 2);
    assert_eq!(store.certificate(&new_certificate(3, Role::Client, "alice2").serial).unwrap().unwrap().revoked, None);

    let later = new_certificate(4, Role::Connector, "alice");
    assert!(matches!(store.record_certificate(&later), Err(StoreError::NameRevoked(_))));

    assert!(store.reinstate(&domain(), &alice).unwrap());
    assert!(!store.reinstate(&domain(), &alice).unwrap());
    store.record_certificate(&later).unwrap();
    let denied = fixture.open().denied().unwrap();
    assert!(denied.subjects.is_empty());
    assert_eq!(denied.serials.len(), 2, "old certificates stay revoked");
}

#[test]
fn every_change_moves_the_revision() {
    let fixture = Fixture::new();
    let mut store = fixture.open();
    let mut last = 0;
    let mut moved = |store: &Store, what: &str| {
        let now = revision(store);
        assert!(now > last, "{what}");
        last = now;
    };
    store.create_key(&new_key(1)).unwrap();
    moved(&store, "create_key");
    store.update_key(&new_key(1).id, &KeyChange { disabled: Some(true), ..KeyChange::default() }).unwrap();
    moved(&store, "update_key");
    let (id, digest) = (new_key(2).id, new_key(2).digest);
    let to = Rotation { id, digest, expires_at: None, overlap: Duration::ZERO, now: at(1) };
    assert!(matches!(store.rotate_key(&new_key(1).id, &to).unwrap(), Rotated::Rotated { .. }));
    moved(&store, "rotate_key");
    store.import_keys(&[KeyImport { record: new_key(3), minted: false }]).unwrap();
    moved(&store, "import_keys");
    store.revoke_key(&new_key(1).id, at(1)).unwrap();
    moved(&store, "revoke_key");
    store.delete_key(&new_key(1).id).unwrap();
    moved(&store, "delete_key");
    store.set_grant(&full_grant("acme")).unwrap();
    moved(&store, "set_grant");
    store.remove_grant(&owner("acme")).unwrap();
    moved(&store, "remove_grant");
    store.set_owner_disabled(&owner("acme"), Some(at(1))).unwrap();
    moved(&store, "disable");
    store.set_owner_disabled(&owner("acme"), None).unwrap();
    moved(&store, "enable");
    store.record_certificate(&new_certificate(1, Role::Client, "a")).unwrap();
    moved(&store, "record_certificate");
    store.revoke_certificate(&new_certificate(1, Role::Client, "a").serial, Reason::Unspecified, at(1)).unwrap();
    moved(&store, "revoke_certificate");
    store.revoke_name(&domain(), &name("a"), Reason::Unspecified, at(1)).unwrap();
    moved(&store, "revoke_name");
    store.reinstate(&domain(), &name("a")).unwrap();
    moved(&store, "reinstate");
}

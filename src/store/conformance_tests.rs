//! What every engine must do, whichever way it keeps rows. `Fixture::open` gives a new handle on
//! one and the same store, as another process would have it.

use std::path::Path;

use tempfile::TempDir;

use super::*;
use crate::domain::endpoint::Endpoints;
use crate::domain::grant::Models;
use crate::domain::identity::{Identity, Role};
use crate::domain::key::{KeyDigest, Narrowing, NewKey};
use crate::domain::network::Networks;
use crate::domain::owner::OwnerPath;

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

pub(super) fn new_key(number: u64) -> NewKeyRow {
    let mut digest = [7; 32];
    digest[..8].copy_from_slice(&number.to_be_bytes());
    NewKeyRow {
        id: NewKey::from_random(number.to_be_bytes(), &[0; 32]).id(),
        owner: OwnerPath::parse("acme/research").unwrap(),
        digest: KeyDigest::from_bytes(digest),
        narrowing: Narrowing::default(),
        created_at: at(1000),
        expires_at: None,
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

/// A key record as comparable text; `Debug` would hide the digest.
pub(super) fn shown(record: &KeyRecord) -> String {
    format!("{record:?} {:?}", record.digest.as_bytes())
}

#[test]
fn a_key_comes_back_as_it_was_stored() {
    let fixture = Fixture::new();
    let mut store = fixture.open();
    let full = NewKeyRow {
        narrowing: Narrowing {
            networks: Some(Networks::parse(&["10.0.0.0/8", "fd00:20::/64"]).unwrap()),
            endpoints: Some(Endpoints::parse(&["@chat", "ollama.*"]).unwrap()),
            models: Some(Models::parse(&["llama-*", "qwen3:8b"]).unwrap()),
        },
        expires_at: Some(at(2000)),
        ..new_key(1)
    };
    let anywhere =
        NewKeyRow { narrowing: Narrowing { networks: Some(Networks::Any), ..Narrowing::default() }, ..new_key(2) };
    for key in [&full, &anywhere] {
        store.create_key(key).unwrap();
        let found = fixture.open().key(&key.id).unwrap().unwrap();
        assert_eq!((found.id, &found.owner, &found.digest), (key.id, &key.owner, &key.digest));
        assert_eq!(found.narrowing, key.narrowing);
        assert_eq!((found.created_at, found.expires_at, found.revoked_at), (key.created_at, key.expires_at, None));
    }
    assert_eq!(store.list_keys().unwrap().len(), 2);
    assert!(store.key(&new_key(3).id).unwrap().is_none());
}

#[test]
fn a_taken_key_id_is_refused_and_changes_nothing() {
    let fixture = Fixture::new();
    let mut store = fixture.open();
    store.create_key(&new_key(1)).unwrap();
    let before = store.keys_since(0).unwrap().1;
    let other = NewKeyRow { owner: OwnerPath::parse("evil").unwrap(), ..new_key(1) };
    assert!(matches!(store.create_key(&other), Err(StoreError::Exists(_))));
    assert_eq!(store.key(&other.id).unwrap().unwrap().owner, new_key(1).owner);
    assert_eq!(store.keys_since(0).unwrap().1, before);
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
fn a_reader_learns_what_changed_since() {
    let fixture = Fixture::new();
    let (mut writer, reader) = (fixture.open(), fixture.open());
    assert_eq!(reader.keys_since(0).unwrap().1, 0);
    for number in 1..=3 {
        writer.create_key(&new_key(number)).unwrap();
    }
    let (keys, first) = reader.keys_since(0).unwrap();
    assert_eq!(keys.len(), 3);
    let version = reader.data_version().unwrap();
    assert_eq!(reader.keys_since(first).unwrap().0.len(), 0);
    assert_eq!(reader.data_version().unwrap(), version);

    writer.revoke_key(&new_key(2).id, at(5)).unwrap();
    writer.record_certificate(&new_certificate(1, Role::Client, "alice")).unwrap();
    assert_ne!(reader.data_version().unwrap(), version);
    let (keys, second) = reader.keys_since(first).unwrap();
    assert_eq!(keys.iter().map(|key| (key.id, key.revoked_at)).collect::<Vec<_>>(), [(new_key(2).id, Some(at(5)))]);
    assert!(second > first + 1, "certificates count too");
    assert_eq!(writer.revoke_key(&new_key(2).id, at(6)).unwrap(), Revoked::AlreadyRevoked);
    assert_eq!(reader.keys_since(second).unwrap().1, second, "what changes nothing is no change");
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
        let now = store.keys_since(0).unwrap().1;
        assert!(now > last, "{what}");
        last = now;
    };
    store.create_key(&new_key(1)).unwrap();
    moved(&store, "create_key");
    store.revoke_key(&new_key(1).id, at(1)).unwrap();
    moved(&store, "revoke_key");
    store.record_certificate(&new_certificate(1, Role::Client, "a")).unwrap();
    moved(&store, "record_certificate");
    store.revoke_certificate(&new_certificate(1, Role::Client, "a").serial, Reason::Unspecified, at(1)).unwrap();
    moved(&store, "revoke_certificate");
    store.revoke_name(&domain(), &name("a"), Reason::Unspecified, at(1)).unwrap();
    moved(&store, "revoke_name");
    store.reinstate(&domain(), &name("a")).unwrap();
    moved(&store, "reinstate");
}

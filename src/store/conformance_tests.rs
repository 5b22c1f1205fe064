//! What every engine must do, whichever way it keeps rows. `Fixture::open` gives a new handle on
//! one and the same store, as another process would have it.

use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;

use super::*;
use crate::domain::endpoint::Endpoints;
use crate::domain::grant::{Models, Require};
use crate::domain::identity::{Identity, Role};
use crate::domain::key::{Binding, ExternalId, KeyDetails, KeyDigest, Labels, Narrowing, NewKey, Note, Uses};
use crate::domain::network::Networks;
use crate::domain::origin::Origins;
use crate::domain::webhook::{Hooked, WebhookName};

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
        cors_origins: Some(Origins::parse(&["https://chat.corp.example"]).unwrap()),
        expires_at: Some(at(9000)),
        default_key_ttl: Some(Duration::from_millis(1500)),
        max_key_ttl: Some(Duration::from_secs(86_400)),
        webhook: Some(Hooked { name: WebhookName::parse("iam").unwrap(), accept_fail_open: true }),
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

pub(super) fn revision(store: &Store) -> i64 {
    store.changes_since(0).unwrap().revision
}

#[test]
fn a_grant_comes_back_as_it_was_set() {
    let fixture = Fixture::new();
    let mut store = fixture.open();
    let (full, empty) = (full_grant("acme/research"), Grant::new(owner("acme")));
    assert!(store.set_grant(&full, at(8000)).unwrap());
    assert!(store.set_grant(&empty, at(8000)).unwrap());
    assert_eq!(fixture.open().list_grants().unwrap(), [empty.clone(), full.clone()]);
    let before = revision(&store);
    assert!(!store.set_grant(&full, at(8000)).unwrap());
    assert_eq!(revision(&store), before, "what changes nothing is no change");

    let narrower = Grant { models: Some(Models::parse(&["llama-3"]).unwrap()), ..full };
    assert!(store.set_grant(&narrower, at(8000)).unwrap());
    assert_eq!(fixture.open().grant(&narrower.owner).unwrap(), Some(narrower.clone()));
    let reader = fixture.open();
    let changes = reader.changes_since(before).unwrap();
    assert_eq!((changes.grants, changes.deleted_grants), (vec![narrower.clone()], vec![]));

    let before = revision(&store);
    assert!(store.remove_grant(&narrower.owner, at(8000)).unwrap());
    assert!(!store.remove_grant(&narrower.owner, at(8000)).unwrap());
    assert_eq!(reader.grant(&narrower.owner).unwrap(), None);
    assert_eq!(reader.changes_since(before).unwrap().deleted_grants, std::slice::from_ref(&narrower.owner));
    store.set_grant(&narrower, at(8000)).unwrap();
    let changes = reader.changes_since(before).unwrap();
    assert_eq!((changes.grants.len(), changes.deleted_grants.len()), (1, 0));
}

#[test]
fn an_owner_is_switched_off_and_on() {
    let fixture = Fixture::new();
    let mut store = fixture.open();
    store.create_key(&new_key(1)).unwrap();
    store.create_key(&new_key(2)).unwrap();
    store.set_grant(&full_grant("acme"), at(8000)).unwrap();
    let (research, nobody) = (owner("acme/research"), owner("nobody"));
    assert!(!store.set_owner_disabled(&research, false, at(8000)).unwrap());
    assert!(store.set_owner_disabled(&research, true, at(5)).unwrap());
    assert!(store.set_owner_disabled(&nobody, true, at(6)).unwrap());
    let before = revision(&store);
    assert!(!store.set_owner_disabled(&research, true, at(7)).unwrap(), "the first time stays");
    assert_eq!(revision(&store), before);
    let row = |path: &str, disabled_at, keys, granted| OwnerRow { owner: owner(path), disabled_at, keys, granted };
    assert_eq!(
        fixture.open().list_owners().unwrap(),
        [row("acme", None, 0, true), row("acme/research", Some(at(5)), 2, false), row("nobody", Some(at(6)), 0, false)]
    );
    assert!(store.set_owner_disabled(&research, false, at(8000)).unwrap());
    assert!(store.set_owner_disabled(&nobody, false, at(8000)).unwrap());
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
    let mut revoke = |number, reason, when| store.revoke_certificate(&serial(number), reason, at(when)).unwrap();
    assert_eq!(revoke(1, Reason::Superseded, 5), CertificateRevoked::Newly);
    assert_eq!(revoke(1, Reason::PrivilegeWithdrawn, 6), CertificateRevoked::Before);
    assert_eq!(revoke(9, Reason::Superseded, 6), CertificateRevoked::Unknown);
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
    assert_eq!(done, NameRevoked { newly: true, certificates: 2, compromised: 0, bundles: 0 });
    let again = store.revoke_name(&domain(), &alice, Reason::PrivilegeWithdrawn, at(6)).unwrap();
    assert_eq!(again, NameRevoked { newly: false, certificates: 0, compromised: 0, bundles: 0 });
    assert!(store.is_name_revoked(&domain(), &alice).unwrap());
    assert!(!store.is_name_revoked(&domain(), &name("alice2")).unwrap());
    let denied = fixture.open().denied().unwrap();
    let uris = ["client", "connector", "operator"].map(|role| format!("spiffe://corp.example/{role}/alice"));
    assert_eq!(denied.subjects, uris.map(String::into_boxed_str).into());
    assert_eq!(denied.serials.len(), 2);
    assert_eq!(store.certificate(&new_certificate(3, Role::Client, "alice2").serial).unwrap().unwrap().revoked, None);

    let later = new_certificate(4, Role::Connector, "alice");
    assert!(matches!(store.record_certificate(&later), Err(StoreError::NameRevoked(_))));

    assert!(store.reinstate(&domain(), &alice, at(8)).unwrap());
    assert!(!store.reinstate(&domain(), &alice, at(8)).unwrap());
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
    store.update_key(&new_key(1).id, &KeyChange { disabled: Some(true), ..KeyChange::default() }, at(8000)).unwrap();
    moved(&store, "update_key");
    let (id, digest) = (new_key(2).id, new_key(2).digest);
    let to = Rotation { id, digest, expires_at: None, overlap: Duration::ZERO, now: at(1) };
    assert!(matches!(store.rotate_key(&new_key(1).id, &to).unwrap(), Rotated::Rotated { .. }));
    moved(&store, "rotate_key");
    store.import_keys(&[KeyImport { record: new_key(3), minted: false }]).unwrap();
    moved(&store, "import_keys");
    store.revoke_key(&new_key(1).id, at(1)).unwrap();
    moved(&store, "revoke_key");
    store.delete_key(&new_key(1).id, at(8000)).unwrap();
    moved(&store, "delete_key");
    store.set_grant(&full_grant("acme"), at(8000)).unwrap();
    moved(&store, "set_grant");
    store.remove_grant(&owner("acme"), at(8000)).unwrap();
    moved(&store, "remove_grant");
    store.set_owner_disabled(&owner("acme"), true, at(1)).unwrap();
    moved(&store, "disable");
    store.set_owner_disabled(&owner("acme"), false, at(8000)).unwrap();
    moved(&store, "enable");
    store.record_certificate(&new_certificate(1, Role::Client, "a")).unwrap();
    moved(&store, "record_certificate");
    store.revoke_certificate(&new_certificate(1, Role::Client, "a").serial, Reason::Unspecified, at(1)).unwrap();
    moved(&store, "revoke_certificate");
    store.revoke_name(&domain(), &name("a"), Reason::Unspecified, at(1)).unwrap();
    moved(&store, "revoke_name");
    store.reinstate(&domain(), &name("a"), at(8)).unwrap();
    moved(&store, "reinstate");
}

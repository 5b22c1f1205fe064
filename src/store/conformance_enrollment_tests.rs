//! Enrollment bundles, renewals, and lines for the records: what every engine must do.

use std::time::Duration;

use super::conformance_tests::{Fixture, at, domain, name, new_certificate, revision};
use super::*;
use crate::domain::audit::Deed;
use crate::domain::identity::Identity;
use crate::domain::network::Networks;
use crate::store::enrollment::EnrollmentState;

fn bundle(number: u64, role: Role, who: &str) -> NewEnrollment {
    NewEnrollment {
        id: id(number),
        identity: Identity::new(&domain(), role, &name(who)),
        secret_sha256: [number.to_be_bytes()[7]; 32],
        networks: None,
        created_at: at(100),
        expires_at: at(200),
    }
}

fn id(number: u64) -> String {
    format!("{number:016x}")
}

/// What somebody decides who finds everything in order.
fn yes(number: u8, who: &str) -> impl FnOnce(Option<&EnrollmentRecord>) -> Result<(NewCertificate, u8), StoreError> {
    let certificate = new_certificate(number, Role::Client, who);
    move |_| Ok((certificate, number))
}

fn events(store: &Store) -> Vec<(String, serde_json::Value)> {
    let lines = store.pending_events(1000).unwrap().into_iter();
    lines
        .map(|(_, line)| {
            let line: serde_json::Value = serde_json::from_str(&line).unwrap();
            (line["event"].as_str().unwrap().to_owned(), line)
        })
        .collect()
}

#[test]
fn a_bundle_reads_back_and_is_used_once() {
    let fixture = Fixture::new();
    let mut store = fixture.open();
    let networks = Networks::parse(&["10.0.0.0/8", "fd00::/8"]).unwrap();
    let first = NewEnrollment { networks: Some(networks), ..bundle(1, Role::Client, "alice") };
    store.create_enrollment(&first, at(0)).unwrap();
    assert!(matches!(store.create_enrollment(&first, at(0)), Err(StoreError::Exists(_))));
    let found = store.enrollment(&first.id).unwrap().unwrap();
    assert_eq!((&found.enrollment, &found.used, found.revoked_at), (&first, &None, None));
    assert_eq!((found.state(at(199)), found.state(at(200))), (EnrollmentState::Open, EnrollmentState::Expired));
    assert!(found.admits("10.1.2.3".parse().unwrap()) && !found.admits("11.1.2.3".parse().unwrap()));

    let seen = store.redeem(&first.id, at(150), |found| {
        assert_eq!(found.unwrap().enrollment, first);
        Ok::<_, StoreError>((new_certificate(7, Role::Client, "alice"), 7))
    });
    assert_eq!(seen.unwrap(), 7);
    let used = fixture.open().enrollment(&first.id).unwrap().unwrap();
    let certificate = new_certificate(7, Role::Client, "alice");
    assert_eq!(used.used, Some((at(150), certificate.serial.clone())));
    assert_eq!(used.state(at(150)), EnrollmentState::Used);
    assert_eq!(store.certificate(&certificate.serial).unwrap().unwrap().certificate, certificate);
    // Whoever says yes to it once more changes nothing.
    assert!(matches!(store.redeem(&first.id, at(160), yes(8, "alice")), Err(StoreError::Exists(_))));
    assert_eq!(store.list_certificates().unwrap().len(), 1);
    assert_eq!(store.revoke_enrollment(&first.id, at(170)).unwrap(), Revoked::AlreadyRevoked);
    assert_eq!(store.list_enrollments().unwrap(), [used]);
}

#[test]
fn what_is_refused_changes_nothing() {
    let fixture = Fixture::new();
    let mut store = fixture.open();
    store.create_enrollment(&bundle(1, Role::Client, "alice"), at(0)).unwrap();
    let before = events(&store).len();
    let no = |_: Option<&EnrollmentRecord>| Err::<(NewCertificate, u8), _>(StoreError::NoRandomness);
    assert!(matches!(store.redeem(&id(1), at(150), no), Err(StoreError::NoRandomness)));
    let mut told = false;
    let unknown = store.redeem("ffffffffffffffff", at(150), |found| {
        told = found.is_none();
        yes(1, "alice")(found)
    });
    assert!(told && matches!(unknown, Err(StoreError::Exists(_))), "a bundle that is not there becomes nothing");
    assert!(store.list_certificates().unwrap().is_empty());
    assert_eq!(events(&store).len(), before);
    assert_eq!(store.redeem(&id(1), at(150), yes(1, "alice")).unwrap(), 1);
}

#[test]
fn a_revoked_name_has_no_bundles_and_gets_none() {
    let fixture = Fixture::new();
    let mut store = fixture.open();
    for (number, role, who) in [
        (1, Role::Client, "alice"),
        (2, Role::Connector, "alice"),
        (3, Role::Client, "bob"),
        (4, Role::Client, "alice"),
    ] {
        store.create_enrollment(&bundle(number, role, who), at(0)).unwrap();
    }
    store.redeem(&id(4), at(150), yes(4, "alice")).unwrap();
    let done = store.revoke_name(&domain(), &name("alice"), Reason::PrivilegeWithdrawn, at(160)).unwrap();
    assert_eq!(done, NameRevoked { newly: true, certificates: 1, compromised: 0, bundles: 2 });
    let state = |store: &Store, number| store.enrollment(&id(number)).unwrap().unwrap().state(at(160));
    let states = [1, 2, 3, 4].map(|number| state(&store, number));
    use EnrollmentState::{Open, Revoked as Gone, Used};
    assert_eq!(states, [Gone, Gone, Open, Used]);
    assert!(matches!(store.redeem(&id(1), at(161), yes(1, "alice")), Err(StoreError::NameRevoked(_))));
    assert!(matches!(
        store.create_enrollment(&bundle(5, Role::Client, "alice"), at(0)),
        Err(StoreError::NameRevoked(_))
    ));
    // A name that is reinstated gets new bundles; the old ones stay dead.
    store.reinstate(&domain(), &name("alice"), at(170)).unwrap();
    assert!(matches!(store.redeem(&id(1), at(171), yes(1, "alice")), Err(StoreError::Exists(_))));
    store.create_enrollment(&bundle(5, Role::Client, "alice"), at(0)).unwrap();
}

#[test]
fn a_bundle_is_revoked_once_and_old_ones_are_forgotten() {
    let fixture = Fixture::new();
    let mut store = fixture.open();
    store.create_enrollment(&bundle(1, Role::Client, "alice"), at(0)).unwrap();
    let first = id(1);
    assert_eq!(store.revoke_enrollment(&first, at(110)).unwrap(), Revoked::Revoked);
    assert_eq!(store.revoke_enrollment(&first, at(120)).unwrap(), Revoked::AlreadyRevoked);
    assert_eq!(store.revoke_enrollment("ffffffffffffffff", at(120)).unwrap(), Revoked::Unknown);
    assert!(matches!(store.redeem(&first, at(130), yes(1, "alice")), Err(StoreError::Exists(_))));
    assert_eq!(store.enrollment(&first).unwrap().unwrap().revoked_at, Some(at(110)));
    store.create_enrollment(&bundle(2, Role::Client, "bob"), at(200)).unwrap();
    assert_eq!(store.list_enrollments().unwrap().len(), 2, "it ended at that moment, not before");
    store.create_enrollment(&bundle(3, Role::Client, "bob"), at(201)).unwrap();
    let left: Vec<_> = store.list_enrollments().unwrap().into_iter().map(|record| record.enrollment.id).collect();
    assert_eq!(left, [id(3)]);
}

#[test]
fn a_renewal_needs_a_good_certificate() {
    let fixture = Fixture::new();
    let mut store = fixture.open();
    for number in [1, 2, 3, 4] {
        store
            .record_certificate(&new_certificate(number, Role::Client, if number == 4 { "bob" } else { "alice" }))
            .unwrap();
    }
    let serial = |number| new_certificate(number, Role::Client, "alice").serial;
    let next = |number: u8| {
        move |current: &CertificateRecord| {
            Ok::<_, StoreError>((new_certificate(number, Role::Client, "alice"), current.certificate.serial.clone()))
        }
    };
    assert_eq!(store.renew(&serial(1), next(11)).unwrap(), Renewed::Renewed(serial(1)));
    assert_eq!(
        store.certificate(&serial(1)).unwrap().unwrap().revoked,
        None,
        "the one before stays good until it ends"
    );
    assert_eq!(store.renew(&serial(99), next(12)).unwrap(), Renewed::Unknown);
    store.revoke_certificate(&serial(1), Reason::Superseded, at(5)).unwrap();
    assert_eq!(store.renew(&serial(1), next(12)).unwrap(), Renewed::Revoked);
    // The key of number 2 was compromised under another number: whoever has it renews nothing.
    let twin = NewCertificate { serial: serial(22), ..new_certificate(2, Role::Client, "alice") };
    store.record_certificate(&twin).unwrap();
    store.revoke_certificate(&twin.serial, Reason::KeyCompromise, at(5)).unwrap();
    assert_eq!(store.renew(&serial(2), next(12)).unwrap(), Renewed::Revoked);
    let known = NewCertificate { spki_sha256: twin.spki_sha256, ..new_certificate(12, Role::Client, "alice") };
    let result = store.renew(&serial(3), |_| Ok::<_, StoreError>((known, ())));
    assert!(matches!(result, Err(StoreError::KeyCompromised)));
    store.revoke_name(&domain(), &name("alice"), Reason::Unspecified, at(6)).unwrap();
    assert_eq!(store.renew(&serial(3), next(12)).unwrap(), Renewed::Revoked);
    assert!(store.certificate(&serial(12)).unwrap().is_none());
    assert!(matches!(store.renew(&serial(4), next(12)), Err(StoreError::NameRevoked(_))), "nor does bob become alice");
}

#[test]
fn what_is_done_leaves_a_line_by_whom() {
    let fixture = Fixture::new();
    let mut store = fixture.open();
    store.record_certificate(&new_certificate(1, Role::Client, "alice")).unwrap();
    store.act_as(Actor {
        who: "spiffe://corp.example/operator/ops".to_owned(),
        client_ip: Some("10.0.0.9".to_owned()),
        request_id: None,
    });
    store.create_enrollment(&bundle(1, Role::Client, "bob"), at(0)).unwrap();
    store.redeem(&id(1), at(150), yes(2, "bob")).unwrap();
    let serial = new_certificate(2, Role::Client, "bob").serial;
    store.renew(&serial, |_| Ok::<_, StoreError>((new_certificate(3, Role::Client, "bob"), ()))).unwrap();
    store.revoke_certificate(&serial, Reason::Superseded, at(5)).unwrap();
    store.revoke_certificate(&serial, Reason::Superseded, at(5)).unwrap();
    store.revoke_name(&domain(), &name("bob"), Reason::KeyCompromise, at(6)).unwrap();
    store.revoke_name(&domain(), &name("bob"), Reason::KeyCompromise, at(6)).unwrap();
    store.reinstate(&domain(), &name("bob"), at(7)).unwrap();
    store.create_enrollment(&bundle(2, Role::Client, "bob"), at(0)).unwrap();
    store.revoke_enrollment(&id(2), at(8)).unwrap();
    let found = events(&store);
    let words: Vec<_> = found.iter().map(|(word, _)| word.as_str()).collect();
    let expected = [
        Deed::CertificateIssued,
        Deed::BundleCreated,
        Deed::CertificateIssued,
        Deed::CertificateRenewed,
        Deed::CertificateRevoked,
        Deed::NameRevoked,
        Deed::NameReinstated,
        Deed::BundleCreated,
        Deed::BundleRevoked,
    ];
    assert_eq!(words, expected.map(Deed::as_str), "what was so before leaves none");
    let uid = format!("uid {}", rustix::process::geteuid().as_raw());
    assert_eq!((found[0].1["by"].as_str(), &found[0].1["client_ip"]), (Some(uid.as_str()), &serde_json::Value::Null));
    for (_, line) in &found[1..] {
        assert_eq!(
            (&line["by"], &line["client_ip"]),
            (&"spiffe://corp.example/operator/ops".into(), &"10.0.0.9".into())
        );
    }
    assert_eq!((&found[2].1["serial"], &found[2].1["bundle"]), (&serial.to_string().into(), &id(1).into()));
    assert_eq!(found[3].1["detail"], format!("after {serial}"));

    let numbers: Vec<_> = store.pending_events(4).unwrap().into_iter().map(|(number, _)| number).collect();
    store.forget_events(numbers[3]).unwrap();
    assert_eq!(events(&fixture.open()).len(), expected.len() - 4);
    store.forget_events(i64::MAX).unwrap();
    store.revoke_name(&domain(), &name("eve"), Reason::Unspecified, at(9)).unwrap();
    assert!(store.pending_events(9).unwrap()[0].0 > numbers[3], "a number is never used again");
}

#[test]
fn every_line_comes_with_a_revision() {
    let fixture = Fixture::new();
    let mut store = fixture.open();
    let mut last = 0;
    let mut moved = |store: &Store, what: &str| {
        let now = store.changes_since(0).unwrap().revision;
        assert!(now > last, "{what}");
        last = now;
    };
    store.create_enrollment(&bundle(1, Role::Client, "bob"), at(0)).unwrap();
    moved(&store, "create_enrollment");
    store.redeem(&id(1), at(150), yes(1, "bob")).unwrap();
    moved(&store, "redeem");
    let serial = new_certificate(1, Role::Client, "bob").serial;
    store.renew(&serial, |_| Ok::<_, StoreError>((new_certificate(2, Role::Client, "bob"), ()))).unwrap();
    moved(&store, "renew");
    store.create_enrollment(&bundle(2, Role::Client, "bob"), at(0)).unwrap();
    moved(&store, "create_enrollment");
    store.revoke_enrollment(&id(2), at(8)).unwrap();
    moved(&store, "revoke_enrollment");
    store.note(&Event::new(at(1), Deed::CertificateRefused)).unwrap();
    moved(&store, "note");
}

#[test]
fn revoked_certificates_are_listed_until_they_end() {
    let fixture = Fixture::new();
    let mut store = fixture.open();
    for number in [1, 2, 3] {
        let certificate =
            NewCertificate { not_after: at(i64::from(number) * 100), ..new_certificate(number, Role::Client, "alice") };
        store.record_certificate(&certificate).unwrap();
    }
    let serial = |number| new_certificate(number, Role::Client, "alice").serial;
    store.revoke_certificate(&serial(3), Reason::Superseded, at(5)).unwrap();
    store.revoke_certificate(&serial(1), Reason::Superseded, at(6)).unwrap();
    let listed = |since| {
        let found = store.revoked_certificates(at(since)).unwrap();
        found.into_iter().map(|record| record.certificate.serial).collect::<Vec<_>>()
    };
    assert_eq!(listed(0), [serial(3), serial(1)]);
    assert_eq!(listed(100), [serial(3)]);
    assert!(listed(300).is_empty());
}

/// That a key is known to others is often learnt last: it counts whatever was said before, from the time
/// that was said before on, and no reason takes it back.
#[test]
fn what_is_revoked_can_still_become_compromised() {
    let fixture = Fixture::new();
    let mut store = fixture.open();
    for (number, who) in [(1, "alice"), (2, "alice"), (3, "alice"), (4, "bob")] {
        store.record_certificate(&new_certificate(number, Role::Client, who)).unwrap();
    }
    let serial = |number| new_certificate(number, Role::Client, "alice").serial;
    store.revoke_certificate(&serial(1), Reason::Superseded, at(5)).unwrap();
    let before = revision(&store);
    let again = store.revoke_certificate(&serial(1), Reason::KeyCompromise, at(8)).unwrap();
    assert_eq!(again, CertificateRevoked::Compromised);
    assert_eq!(store.certificate(&serial(1)).unwrap().unwrap().revoked, Some((at(5), Reason::KeyCompromise)));
    let changes = store.changes_since(before).unwrap();
    assert!(changes.denied.is_some_and(|denied| denied.public_keys == [[1; 32]].into()), "it reaches the gate");
    let known = NewCertificate { spki_sha256: [1; 32], ..new_certificate(9, Role::Client, "bob") };
    assert!(matches!(store.record_certificate(&known), Err(StoreError::KeyCompromised)));
    for reason in [Reason::KeyCompromise, Reason::Unspecified] {
        assert_eq!(store.revoke_certificate(&serial(1), reason, at(9)).unwrap(), CertificateRevoked::Before);
    }

    // And of a whole name.
    store.revoke_certificate(&serial(2), Reason::Superseded, at(10)).unwrap();
    store.revoke_name(&domain(), &name("alice"), Reason::CessationOfOperation, at(11)).unwrap();
    let done = store.revoke_name(&domain(), &name("alice"), Reason::KeyCompromise, at(12)).unwrap();
    assert_eq!(done, NameRevoked { newly: false, certificates: 0, compromised: 2, bundles: 0 });
    let revoked = |number| store.certificate(&serial(number)).unwrap().unwrap().revoked;
    assert_eq!(revoked(2), Some((at(10), Reason::KeyCompromise)));
    assert_eq!(revoked(3), Some((at(11), Reason::KeyCompromise)));
    assert_eq!(revoked(4), None);
    let listed = store.revoked_certificates(at(0)).unwrap();
    assert!(listed.iter().all(|record| matches!(record.revoked, Some((_, Reason::KeyCompromise)))));
}

/// A certificate is forgotten 30 days after its end, a few at a time; what was revoked much later, and a
/// compromised key never.
#[test]
fn certificates_that_ended_long_ago_are_forgotten() {
    const DAY: i64 = 24 * 3600;
    let fixture = Fixture::new();
    let mut store = fixture.open();
    let ending =
        |number: u8, end: i64| NewCertificate { not_after: at(end), ..new_certificate(number, Role::Client, "a") };
    store.create_enrollment(&bundle(1, Role::Client, "a"), at(0)).unwrap();
    let enrolled = ending(4, 2 * DAY);
    store.redeem(&id(1), at(150), |_| Ok::<_, StoreError>((enrolled, ()))).unwrap();
    for number in [1, 2, 3] {
        store.record_certificate(&ending(number, 2 * DAY)).unwrap();
    }
    store.revoke_certificate(&ending(2, 0).serial, Reason::Superseded, at(DAY)).unwrap();
    store.revoke_certificate(&ending(3, 0).serial, Reason::KeyCompromise, at(DAY)).unwrap();
    let mut number = 100;
    let mut left_at = |now: i64| {
        number += 1;
        store.record_certificate(&NewCertificate { issued_at: at(now), ..ending(number, 9000 * DAY) }).unwrap();
        [1, 2, 3, 4].map(|number| store.certificate(&ending(number, 0).serial).unwrap().is_some())
    };
    assert_eq!(left_at(2 * DAY), [true; 4]);
    assert_eq!(left_at(32 * DAY), [true; 4], "30 days after the end, to the second");
    assert_eq!(left_at(32 * DAY + 1), [false, true, true, false]);
    assert_eq!(left_at(402 * DAY), [false, true, true, false]);
    assert_eq!(left_at(402 * DAY + 1), [false, false, true, false]);
    assert_eq!(left_at(8000 * DAY), [false, false, true, false]);
    assert!(store.list_enrollments().unwrap().is_empty());
}

/// However many there are: one that is issued waits for a hundred of them at the most.
#[test]
fn forgetting_takes_a_bounded_time() {
    let fixture = Fixture::new();
    let mut store = fixture.open();
    for number in 0..=249 {
        store.record_certificate(&new_certificate(number, Role::Client, "a")).unwrap();
    }
    let later = at(1_000_000_000);
    let mut left = Vec::new();
    for number in 250..=253 {
        let new = NewCertificate {
            issued_at: later,
            not_after: later.after(Duration::from_secs(600)),
            ..new_certificate(number, Role::Client, "a")
        };
        store.record_certificate(&new).unwrap();
        left.push(store.list_certificates().unwrap().len());
    }
    assert_eq!(left, [151, 52, 3, 4]);
}

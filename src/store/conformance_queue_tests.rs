//! What every engine must do with notifications.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use proptest::prelude::*;
use serde_json::Value;

use super::conformance_tests::*;
use super::*;
use crate::domain::key::{ExternalId, KeyDetails};
use crate::domain::notification::{Data, Kind};
use crate::store::queue::MOST_WAITING;

fn subscribed(store: &mut Store, who: &[(&str, &[Kind])]) {
    let who: Vec<_> = who
        .iter()
        .map(|(webhook, kinds)| Subscription { webhook: (*webhook).to_owned(), kinds: kinds.to_vec() })
        .collect();
    store.set_subscriptions(&who).unwrap();
}

/// Takes all that waits for a webhook.
fn taken(store: &mut Store, webhook: &str) -> Vec<Queued> {
    let mut all = Vec::new();
    while let Some(first) = store.first_notification(webhook).unwrap() {
        store.finish_notification(webhook, first.number, End::Delivered).unwrap();
        all.push(first);
    }
    all
}

fn told(queued: &Queued) -> (&str, i64, Value) {
    let kind = queued.kind.strip_prefix("doorward.event.").unwrap();
    (kind, queued.at.as_seconds(), serde_json::from_str(&queued.data).unwrap())
}

fn reload(number: u64) -> Notification {
    Notification { kind: Kind::ReloadSucceeded, at: at(1), data: Data::Config { revision: number } }
}

fn number_of(queued: &Queued) -> u64 {
    let data: Value = serde_json::from_str(&queued.data).unwrap();
    data["revision"].as_u64().unwrap()
}

/// One of each change, made by one handle and found by another, oldest first.
#[test]
fn every_change_is_told_once_and_names_what_it_was_done_to() {
    let fixture = Fixture::new();
    let mut gateway = fixture.open();
    subscribed(&mut gateway, &[("iam", &Kind::ALL)]);
    let mut store = fixture.open();
    let external_id = Some(ExternalId::parse("crm:1").unwrap());
    let key = KeyRecord {
        expires_at: Some(at(90_000)),
        details: KeyDetails { external_id, ..KeyDetails::default() }.boxed(),
        ..new_key(1)
    };
    store.create_key(&key).unwrap();
    let change = KeyChange { disabled: Some(true), ..KeyChange::default() };
    store.update_key(&key.id, &change, at(2)).unwrap();
    let (id, digest) = (new_key(2).id, new_key(2).digest);
    let to = Rotation { id, digest, expires_at: None, overlap: Duration::ZERO, now: at(3) };
    store.rotate_key(&key.id, &to).unwrap();
    store.revoke_key(&key.id, at(4)).unwrap();
    store.delete_key(&key.id, at(5)).unwrap();
    store.import_keys(&[KeyImport { record: new_key(3), minted: false }]).unwrap();
    store.set_owner_disabled(&owner("acme"), true, at(6)).unwrap();
    store.set_owner_disabled(&owner("acme"), false, at(7)).unwrap();
    store.set_grant(&full_grant("acme"), at(8)).unwrap();
    store.remove_grant(&owner("acme"), at(9)).unwrap();
    let certificate = new_certificate(1, Role::Client, "alice");
    store.record_certificate(&certificate).unwrap();
    store.revoke_certificate(&certificate.serial, Reason::KeyCompromise, at(10)).unwrap();
    store.record_certificate(&new_certificate(2, Role::Client, "alice")).unwrap();
    store.revoke_name(&domain(), &name("alice"), Reason::Superseded, at(11)).unwrap();
    store.notify(&Notification { kind: Kind::ReloadFailed, at: at(12), data: Data::Config { revision: 3 } }).unwrap();

    let queued = taken(&mut gateway, "iam");
    let of_key = |disabled: bool, record: &KeyRecord, external: Option<&str>, replaces: Option<&KeyId>| {
        serde_json::json!({
            "key_id": record.id.as_str(), "owner": "acme/research", "external_id": external,
            "expires_at": record.expires_at.map(|at| at.to_string()), "disabled": disabled,
            "replaces": replaces.map(KeyId::as_str),
        })
    };
    let rotated = KeyRecord { expires_at: None, ..new_key(2) };
    let ended = KeyRecord { expires_at: Some(at(3)), ..key.clone() };
    let acme = serde_json::json!({"owner": "acme"});
    let of_certificate = |number: u8, reason: Option<&str>| {
        let certificate = new_certificate(number, Role::Client, "alice");
        serde_json::json!({
            "serial": certificate.serial.to_string(), "identity": "spiffe://corp.example/client/alice",
            "not_after": certificate.not_after.to_string(), "reason": reason,
        })
    };
    let of_name = serde_json::json!({
        "trust_domain": "corp.example", "name": "alice", "certificates": 1, "reason": "superseded",
    });
    let expected = [
        ("key.created", 1000, of_key(false, &key, Some("crm:1"), None)),
        ("key.updated", 2, of_key(true, &key, Some("crm:1"), None)),
        ("key.rotated", 3, of_key(true, &rotated, Some("crm:1"), Some(&key.id))),
        ("key.revoked", 4, of_key(true, &ended, None, None)),
        ("key.deleted", 5, of_key(true, &ended, None, None)),
        ("key.created", 1000, of_key(false, &new_key(3), None, None)),
        ("owner.disabled", 6, acme.clone()),
        ("owner.enabled", 7, acme.clone()),
        ("grant.set", 8, acme.clone()),
        ("grant.deleted", 9, acme),
        ("certificate.issued", 1001, of_certificate(1, None)),
        ("certificate.revoked", 10, of_certificate(1, Some("key-compromise"))),
        ("certificate.issued", 1002, of_certificate(2, None)),
        ("certificate.revoked", 11, of_name),
        ("reload.failed", 12, serde_json::json!({"revision": 3})),
    ];
    let got: Vec<_> = queued.iter().map(told).collect();
    assert_eq!(got, expected);
    let ids: std::collections::HashSet<_> = queued.iter().map(|queued| &queued.id).collect();
    assert_eq!(ids.len(), queued.len());
    assert!(ids.iter().all(|id| id.starts_with("evt_") && id.len() == 36 && !id.contains('.')));
}

#[test]
fn what_changes_nothing_is_not_told() {
    let fixture = Fixture::new();
    let mut store = fixture.open();
    store.create_key(&new_key(1)).unwrap();
    store.revoke_key(&new_key(1).id, at(1)).unwrap();
    store.set_grant(&full_grant("acme"), at(1)).unwrap();
    store.set_owner_disabled(&owner("acme"), true, at(1)).unwrap();
    let certificate = new_certificate(1, Role::Client, "a");
    store.record_certificate(&certificate).unwrap();
    store.revoke_name(&domain(), &name("a"), Reason::Unspecified, at(1)).unwrap();
    subscribed(&mut store, &[("iam", &Kind::ALL)]);

    assert!(store.create_key(&new_key(1)).is_err());
    store.update_key(&new_key(1).id, &KeyChange::default(), at(2)).unwrap();
    store.update_key(&new_key(9).id, &KeyChange::default(), at(2)).unwrap();
    store.revoke_key(&new_key(1).id, at(2)).unwrap();
    store.revoke_key(&new_key(9).id, at(2)).unwrap();
    store.delete_key(&new_key(9).id, at(2)).unwrap();
    store.import_keys(&[KeyImport { record: new_key(1), minted: false }]).unwrap();
    store.set_grant(&full_grant("acme"), at(2)).unwrap();
    store.remove_grant(&owner("other"), at(2)).unwrap();
    store.set_owner_disabled(&owner("acme"), true, at(2)).unwrap();
    assert!(store.record_certificate(&certificate).is_err());
    store.revoke_certificate(&certificate.serial, Reason::Unspecified, at(2)).unwrap();
    store.revoke_name(&domain(), &name("a"), Reason::Unspecified, at(2)).unwrap();
    store.claim_uses(&[new_key(1).id]).unwrap();
    assert_eq!(taken(&mut store, "iam"), []);
}

#[test]
fn each_is_told_what_it_subscribes_to_and_only_while_it_does() {
    let fixture = Fixture::new();
    let mut store = fixture.open();
    store.create_key(&new_key(1)).unwrap();
    let (keys, grants): (&[Kind], &[Kind]) = (&[Kind::KeyCreated, Kind::KeyRevoked], &[Kind::GrantSet]);
    subscribed(&mut store, &[("keys", keys), ("grants", grants), ("nothing", &[])]);
    store.create_key(&new_key(2)).unwrap();
    store.set_grant(&full_grant("acme"), at(1)).unwrap();
    // Queues outlive what is said of the others, and a change of what they are told.
    subscribed(&mut store, &[("keys", &[Kind::KeyDeleted])]);
    store.create_key(&new_key(3)).unwrap();
    store.delete_key(&new_key(3).id, at(2)).unwrap();
    let kinds = |queued: Vec<Queued>| queued.into_iter().map(|queued| queued.kind).collect::<Vec<_>>();
    assert_eq!(kinds(taken(&mut store, "keys")), [Kind::KeyCreated.as_str(), Kind::KeyDeleted.as_str()]);
    assert_eq!(kinds(taken(&mut store, "grants")), [""; 0], "who is not named any more is told nothing");
    subscribed(&mut store, &[("keys", keys), ("grants", grants)]);
    assert_eq!(kinds(taken(&mut store, "grants")), [""; 0]);
    let queues = store.notification_queues().unwrap();
    assert_eq!(queues.iter().map(|queue| queue.webhook.as_str()).collect::<Vec<_>>(), ["grants", "keys"]);
}

#[test]
fn one_thing_has_one_id_in_all_queues() {
    let fixture = Fixture::new();
    let mut store = fixture.open();
    subscribed(&mut store, &[("one", &[Kind::KeyCreated]), ("two", &[Kind::KeyCreated])]);
    store.create_key(&new_key(1)).unwrap();
    assert_eq!(taken(&mut store, "one"), taken(&mut store, "two"));
}

/// The change is made whatever the queue says, and the oldest goes.
#[test]
fn a_full_queue_drops_its_oldest_and_counts_it() {
    let fixture = Fixture::new();
    let mut store = fixture.open();
    subscribed(&mut store, &[("slow", &[Kind::KeyCreated]), ("quick", &[Kind::KeyCreated])]);
    let most = u64::try_from(MOST_WAITING).unwrap();
    let import = |numbers: std::ops::Range<u64>| -> Vec<_> {
        numbers.map(|number| KeyImport { record: new_key(number), minted: false }).collect()
    };
    store.import_keys(&import(0..most)).unwrap();
    let first = taken(&mut store, "quick");
    assert_eq!(first.len() as u64, most);
    store.import_keys(&import(most..most + 3)).unwrap();
    let state =
        |webhook: &str, waiting, dropped| QueueState { webhook: webhook.to_owned(), waiting, dropped, given_up: 0 };
    assert_eq!(store.notification_queues().unwrap(), [state("quick", 3, 0), state("slow", most, 3)]);
    assert_eq!(store.first_notification("slow").unwrap().unwrap().id, first[3].id);
    // What was being sent when it was dropped is over, and counts once.
    store.finish_notification("slow", first[0].number, End::GivenUp).unwrap();
    assert_eq!(store.notification_queues().unwrap()[1], state("slow", most, 3));
}

#[test]
fn failures_are_the_queues_and_refusals_the_notifications() {
    let fixture = Fixture::new();
    let mut store = fixture.open();
    subscribed(&mut store, &[("iam", &[Kind::ReloadSucceeded])]);
    store.notify(&reload(1)).unwrap();
    store.notify(&reload(2)).unwrap();
    let first = store.first_notification("iam").unwrap().unwrap();
    assert_eq!((first.failures, first.refusals, first.due_at), (0, 0, at(0)));
    store.postpone_notification("iam", Retry { number: first.number, refused: true, due_at: at(5) }).unwrap();
    store.postpone_notification("iam", Retry { number: first.number, refused: false, due_at: at(7) }).unwrap();
    let again = fixture.open().first_notification("iam").unwrap().unwrap();
    assert_eq!(again, Queued { failures: 2, refusals: 1, due_at: at(7), ..first.clone() });
    // Who is down is not asked at once for the next one.
    store.finish_notification("iam", first.number, End::GivenUp).unwrap();
    let second = store.first_notification("iam").unwrap().unwrap();
    assert_eq!((second.failures, second.refusals, second.due_at), (2, 0, at(7)));
    assert_eq!(store.notification_queues().unwrap()[0].given_up, 1);
    store.notify(&reload(3)).unwrap();
    store.finish_notification("iam", second.number, End::Delivered).unwrap();
    let third = store.first_notification("iam").unwrap().unwrap();
    assert_eq!((third.failures, third.due_at), (0, at(0)));
}

#[derive(Clone, Debug)]
enum Step {
    Notify,
    Deliver(usize),
    GiveUp(usize),
    Postpone(usize),
    Reopen,
    Subscribe(bool, bool),
}

const WHO: [&str; 2] = ["one", "two"];

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Notify),
        3 => (0..2usize).prop_map(Step::Deliver),
        1 => (0..2usize).prop_map(Step::GiveUp),
        1 => (0..2usize).prop_map(Step::Postpone),
        1 => Just(Step::Reopen),
        1 => any::<(bool, bool)>().prop_map(|(one, two)| Step::Subscribe(one, two)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// A queue is what a list is: first in, first out, nothing lost, nothing twice, whoever looks.
    #[test]
    fn queues_are_lists(steps in prop::collection::vec(step(), 1..40)) {
        let fixture = Fixture::new();
        let mut store = fixture.open();
        let mut model: BTreeMap<&str, VecDeque<u64>> = BTreeMap::new();
        let mut number = 0;
        for step in steps {
            match step {
                Step::Notify => {
                    number += 1;
                    store.notify(&reload(number)).unwrap();
                    model.values_mut().for_each(|queue| queue.push_back(number));
                }
                Step::Deliver(who) | Step::GiveUp(who) => {
                    let end = if matches!(step, Step::Deliver(_)) { End::Delivered } else { End::GivenUp };
                    if let Some(first) = store.first_notification(WHO[who]).unwrap() {
                        store.finish_notification(WHO[who], first.number, end).unwrap();
                        prop_assert_eq!(model.get_mut(WHO[who]).and_then(VecDeque::pop_front), Some(number_of(&first)));
                    }
                }
                Step::Postpone(who) => {
                    if let Some(first) = store.first_notification(WHO[who]).unwrap() {
                        let retry = Retry { number: first.number, refused: false, due_at: at(9) };
                        store.postpone_notification(WHO[who], retry).unwrap();
                    }
                }
                Step::Reopen => store = fixture.open(),
                Step::Subscribe(one, two) => {
                    let named = WHO.into_iter().zip([one, two]).filter(|(_, named)| *named).map(|(who, _)| who);
                    let who: Vec<(&str, &[Kind])> = named.map(|who| (who, &[Kind::ReloadSucceeded][..])).collect();
                    subscribed(&mut store, &who);
                    model.retain(|known, _| who.iter().any(|(name, _)| name == known));
                    for (name, _) in who {
                        model.entry(name).or_default();
                    }
                }
            }
            for who in WHO {
                let first = store.first_notification(who).unwrap();
                prop_assert_eq!(first.as_ref().map(number_of), model.get(who).and_then(|queue| queue.front().copied()));
            }
        }
        let waiting: Vec<_> = store.notification_queues().unwrap().into_iter().map(|queue| queue.waiting).collect();
        prop_assert_eq!(waiting, model.values().map(|queue| queue.len() as u64).collect::<Vec<_>>());
    }
}

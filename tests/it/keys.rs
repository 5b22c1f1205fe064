//! What a key can be limited to, live: switched off, not yet valid, rotated, bound; and owners.

use std::time::Duration;

use doorward::cli::key;
use doorward::clock::Clock;
use doorward::domain::key::{Binding, KeyChange, KeyDetails, KeyId, KeyRecord};
use doorward::domain::owner::OwnerPath;
use doorward::domain::timestamp::Timestamp;
use doorward::store::pepper;
use doorward::store::rows::{Rotated, Rotation, Updated};
use futures_util::future::join_all;
use tokio::time::Instant;

use crate::support::{Key, LONG, Line, Setup, Stub, World, chat, live, until, within};

const SECOND: Duration = Duration::from_secs(1);

/// Asks over an open connection until the answer has another status, which must be `expected` and
/// come within a second.
async fn becomes(line: &mut Line, expected: u16) {
    let begun = Instant::now();
    loop {
        let answer = line.get("/v1/models").await;
        if answer.status == expected {
            break;
        }
        assert!(begun.elapsed() < SECOND, "{answer:?} instead of {expected}");
    }
}

impl World {
    fn change_key(&self, id: &KeyId, change: &KeyChange) {
        assert!(matches!(self.store().update_key(id, change, self.clock.now()).unwrap(), Updated::Changed(_)));
    }

    fn disable_owner(&self, owner: &str, disabled: bool) {
        let owner = OwnerPath::parse(owner).unwrap();
        let since = disabled.then(|| self.clock.now());
        assert!(self.store().set_owner_disabled(&owner, since.is_some(), self.clock.now()).unwrap());
    }

    /// Rotates a key as `doorward key rotate` does; the new one is in force.
    async fn rotate(&self, id: &KeyId, overlap: Duration) -> (Key, Timestamp) {
        let before = self.generation();
        let mut store = self.store();
        let pepper = pepper::load(&self.state, &mut store).unwrap();
        let made = key::create(&store.key(id).unwrap().unwrap().owner).unwrap();
        let digest = pepper.digest(&made);
        let rotation = Rotation { id: made.id(), digest, expires_at: None, overlap, now: self.clock.now() };
        let Rotated::Rotated { new, old } = store.rotate_key(id, &rotation).unwrap() else { panic!("not rotated") };
        assert_eq!(new.details().rotated_from, Some(*id));
        self.changed_since(before).await;
        (Key { id: new.id, text: made.reveal().to_owned() }, old.expires_at.unwrap())
    }
}

#[tokio::test]
async fn a_key_that_is_switched_off_is_refused_within_a_second_and_works_again_when_it_is_switched_on() {
    let stub = Stub::chatty().await;
    let world = World::open(&stub).await;
    let key = world.key("acme/x").await;
    for mut line in world.caller().key(&key).both().await {
        line.chat(&chat("llama")).await.assert_served();
        world.change_key(&key.id, &KeyChange { disabled: Some(true), ..KeyChange::default() });
        becomes(&mut line, 401).await;
        let before = stub.seen().len();
        line.chat(&chat("llama")).await.assert_refused(&world, 401, "invalid_credentials").await;
        assert_eq!(stub.seen().len(), before);
        world.change_key(&key.id, &KeyChange { disabled: Some(false), ..KeyChange::default() });
        becomes(&mut line, 200).await;
    }
}

#[tokio::test]
async fn promise_02_an_owner_that_is_disabled_is_refused_with_everything_below_it() {
    let stub = Stub::chatty().await;
    let world = World::open(&stub).await;
    let [above, at, below] = ["acme", "acme/x", "acme/x/y/z"].map(|owner| world.make_key_like(owner, |record| record));
    let beside = world.key("acme/x2").await;
    for h2 in [false, true] {
        let mut lines = Vec::new();
        for key in [&above, &at, &below, &beside] {
            let caller = world.caller().key(key);
            lines.push(if h2 { caller.h2().await } else { caller.h1().await });
        }
        let [above, at, below, beside] = &mut lines[..] else { unreachable!() };
        world.disable_owner("acme/x", true);
        becomes(at, 401).await;
        becomes(below, 401).await;
        for line in [above, beside] {
            line.chat(&chat("llama")).await.assert_served();
        }
        at.chat(&chat("llama")).await.assert_refused(&world, 401, "invalid_credentials").await;
        world.disable_owner("acme/x", false);
        becomes(at, 200).await;
        becomes(below, 200).await;
    }
}

/// The owner of the certificate counts as much as that of the key.
#[tokio::test]
async fn promise_02_the_certificates_owner_is_disabled_too() {
    let stub = Stub::chatty().await;
    let world = World::open(&stub).await;
    let alice = world.certificate("alice");
    let key = world.key("acme/x").await;
    let [mut alone, mut both] =
        [world.caller().certificate(&alice).h2().await, world.caller().certificate(&alice).key(&key).h1().await];
    let mut other = world.caller().key(&key).h1().await;
    for line in [&mut alone, &mut both, &mut other] {
        line.chat(&chat("llama")).await.assert_served();
    }
    world.disable_owner("acme/people", true);
    becomes(&mut alone, 401).await;
    becomes(&mut both, 401).await;
    other.chat(&chat("llama")).await.assert_served();
}

/// A hundred streams of one key end within two seconds of its revocation, none of them cleanly;
/// those of another key go on.
#[tokio::test]
async fn promise_02_a_hundred_live_streams_of_a_revoked_key_end() {
    const LINES: usize = 10;
    let stub = Stub::by_hand().await;
    let world = World::open(&stub).await;
    let [revoked, other] = [world.key("acme/x").await, world.key("acme/x").await];
    let (mut lines, mut flows) = (Vec::new(), Vec::new());
    for n in 0..LINES {
        // HTTP/1.1 carries one stream, HTTP/2 the others.
        let caller = world.caller().key(&revoked);
        let mut line = if n == 0 { caller.h1().await } else { caller.h2().await };
        for _ in 0..if n == 0 { 1 } else { 11 } {
            flows.push(live(&mut line, &stub).await);
        }
        lines.push(line);
    }
    assert_eq!(flows.len(), 100);
    let mut bystander = world.caller().key(&other).h2().await;
    let (mut flow, mut exchange) = live(&mut bystander, &stub).await;

    let begun = Instant::now();
    world.revoke_key(&revoked.id);
    let ends = flows.into_iter().map(|(flow, exchange)| async move { tokio::join!(flow.end(), exchange.closed()) });
    for ((text, broke), _) in within(2 * SECOND, "the streams end", join_all(ends)).await {
        assert!(broke.is_some(), "a clean end after {text:?}");
        assert!(text.contains("\"code\":\"invalid_credentials\"") && !text.contains("[DONE]"), "{text:?}");
    }
    assert!(begun.elapsed() < 2 * SECOND, "{:?}", begun.elapsed());
    exchange.chunk("data: [DONE]\n\n").await;
    flow.until("[DONE]").await;
    exchange.end().await;
    assert_eq!(flow.end().await.1, None);
}

#[tokio::test]
async fn promise_02_live_streams_of_a_disabled_owner_end() {
    let stub = Stub::by_hand().await;
    let world = World::open(&stub).await;
    let key = world.key("acme/x/y").await;
    for mut line in world.caller().key(&key).both().await {
        let (flow, exchange) = live(&mut line, &stub).await;
        world.disable_owner("acme/x", true);
        let ((text, broke), _) =
            within(2 * SECOND, "the stream ends", async { tokio::join!(flow.end(), exchange.closed()) }).await;
        assert!(broke.is_some() && text.contains("\"code\":\"invalid_credentials\""), "{text:?} {broke:?}");
        world.disable_owner("acme/x", false);
        until(LONG, "the owner is enabled", || {
            let view = world.server.gateway().view();
            view.snapshot.disabled_owners().iter().next().is_none().then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn promise_03_a_key_begins_when_it_says() {
    let stub = Stub::chatty().await;
    let world = Setup::new(&stub).manual_clock().start().await;
    let begin = world.clock.now().after(Duration::from_secs(60));
    let key = world.key_like("acme/x", |record| KeyRecord { not_before: Some(begin), ..record }).await;
    let mut lines = world.caller().key(&key).both().await;
    for (step, expected) in [(Duration::from_millis(59_999), 401), (Duration::from_millis(1), 200)] {
        world.clock.advance(step);
        for line in &mut lines {
            assert_eq!(line.chat(&chat("llama")).await.status, expected);
        }
    }
}

/// On the machine's own clock: never refused before its time, and always after it.
#[tokio::test]
async fn promise_03_a_key_ends_on_time_by_the_real_clock() {
    let stub = Stub::chatty().await;
    let world = World::open(&stub).await;
    let end = Clock::System.now().after(2 * SECOND);
    let key = world.key_with("acme/x", Some(end), &[], &[], &[]).await;
    for mut line in world.caller().key(&key).both().await {
        loop {
            let before = Clock::System.now();
            let answer = line.get("/v1/models").await;
            let after = Clock::System.now();
            match answer.status {
                200 => assert!(before < end, "served at {before}, after {end}"),
                401 => {
                    assert!(after >= end, "refused at {after}, before {end}");
                    break;
                }
                other => panic!("{other}: {answer:?}"),
            }
        }
    }
}

#[tokio::test]
async fn promise_03_a_rotated_key_ends_with_its_overlap() {
    let stub = Stub::chatty().await;
    let world = Setup::new(&stub).manual_clock().start().await;
    let hour = Duration::from_secs(3600);
    let old = world.key("acme/x").await;
    let mut old_lines = world.caller().key(&old).both().await;
    let (new, ends) = world.rotate(&old.id, hour).await;
    assert_eq!(ends, world.clock.now().after(hour));
    let mut new_lines = world.caller().key(&new).both().await;
    for step in [Duration::ZERO, hour - Duration::from_millis(1)] {
        world.clock.advance(step);
        for line in old_lines.iter_mut().chain(&mut new_lines) {
            line.chat(&chat("llama")).await.assert_served();
        }
    }
    world.clock.advance(Duration::from_millis(1));
    for line in &mut old_lines {
        line.chat(&chat("llama")).await.assert_refused(&world, 401, "invalid_credentials").await;
    }
    for line in &mut new_lines {
        line.chat(&chat("llama")).await.assert_served();
    }
}

/// The overlap never makes a key live longer than it would have.
#[tokio::test]
async fn a_rotated_key_ends_no_later_than_before() {
    let stub = Stub::chatty().await;
    let world = Setup::new(&stub).manual_clock().start().await;
    let end = world.clock.now().after(Duration::from_secs(60));
    let old = world.key_with("acme/x", Some(end), &[], &[], &[]).await;
    let (_, ends) = world.rotate(&old.id, Duration::from_secs(3600)).await;
    assert_eq!(ends, end);
}

#[tokio::test]
async fn a_bound_key_works_only_over_a_connection_that_proved_the_identity() {
    let stub = Stub::chatty().await;
    let world = World::open(&stub).await;
    let bound = |to: &str| {
        let bound_to = Some(Binding::parse(to).unwrap());
        world.key_like("acme/x", move |record| KeyRecord {
            details: KeyDetails { bound_to, ..KeyDetails::default() }.boxed(),
            ..record
        })
    };
    let to_alice = bound("spiffe://corp.test/client/alice").await;
    let to_jobs = bound("spiffe://corp.test/client/ci-*").await;
    let [alice, renewed, bob, job] = ["alice", "alice", "bob", "ci-7"].map(|name| world.certificate(name));
    let plain = world.caller();
    for (caller, key, served) in [
        (plain.clone(), &to_alice, false),
        (plain.clone().certificate(&bob), &to_alice, false),
        (plain.clone().certificate(&job), &to_alice, false),
        (plain.clone().certificate(&alice), &to_alice, true),
        // The same holder with another certificate.
        (plain.clone().certificate(&renewed), &to_alice, true),
        (plain.clone().certificate(&job), &to_jobs, true),
        (plain.clone().certificate(&alice), &to_jobs, false),
    ] {
        let answer = caller.key(key).chat(&chat("llama")).await;
        if served {
            answer.assert_served();
        } else {
            answer.assert_refused(&world, 403, "key_bound_elsewhere").await;
        }
    }
}

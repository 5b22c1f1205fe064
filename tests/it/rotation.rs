//! A new root and issuer, under traffic: nobody notices, until the operator says that it is over.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use doorward::ca::authority::Authority;
use doorward::ca::change::{self, Unlock};
use doorward::cli::ca::directory;
use doorward::domain::identity::Role;

use crate::support::{Caller, LONG, Prepared, Setup, Stub, World, chat, live, until};

fn now_of(world: &Prepared) -> Authority {
    Authority::open(&directory(&world.state)).unwrap()
}

#[tokio::test]
async fn a_new_root_costs_no_request() {
    let stub = Stub::chatty().await;
    let mut world = World::open(&stub).await;
    let alice = world.certificate("alice");
    let old_roots = world.authority.roots();
    let address = world.address();
    // Somebody who knows only the old root keeps calling, on one connection and on new ones.
    let over = Arc::new(AtomicBool::new(false));
    let traffic = {
        let (caller, over) = (Caller::new(address, old_roots.clone()).certificate(&alice), Arc::clone(&over));
        tokio::spawn(async move {
            let mut line = caller.h1().await;
            let mut requests = 0;
            while !over.load(Ordering::Relaxed) {
                line.chat(&chat("llama")).await.assert_served();
                caller.h2().await.chat(&chat("llama")).await.assert_served();
                requests += 2;
            }
            requests
        })
    };
    until(LONG, "traffic", || (stub.seen().len() > 4).then_some(())).await;
    let generation = world.server.gateway().view().settings.generation;
    change::rotate_root(&directory(&world.state), Unlock::default(), world.clock.now()).unwrap();
    // Noticed like any file that has changed.
    world.server.reload_if_due();
    assert_eq!(world.server.gateway().view().settings.generation, generation + 1);
    let rotated = now_of(&world);
    assert_ne!(rotated.root(), world.authority.root());
    let seen = stub.seen().len();
    until(LONG, "traffic afterwards", || (stub.seen().len() > seen + 4).then_some(())).await;

    // New certificates, new clients, with either bundle.
    let bob = world.certificate_of(&rotated, "bob");
    for roots in [old_roots.clone(), rotated.roots()] {
        for certificate in [&alice, &bob] {
            let caller = Caller::new(address, roots.clone()).certificate(certificate);
            caller.h1().await.chat(&chat("llama")).await.assert_served();
        }
    }
    over.store(true, Ordering::Relaxed);
    assert!(traffic.await.unwrap() > 4);

    // Over: who is from before is nobody, on open connections too.
    let mut line = Caller::new(address, old_roots).certificate(&alice).h1().await;
    line.chat(&chat("llama")).await.assert_served();
    change::finish(&directory(&world.state)).unwrap();
    world.server.reload_if_due();
    assert_eq!(line.chat(&chat("llama")).await.status, 401);
    let newest = Caller::new(address, vec![rotated.root().clone()]).certificate(&bob);
    newest.h1().await.chat(&chat("llama")).await.assert_served();
}

/// A new issuer, then a new root: streams whose certificates still count go on through both, and
/// nobody who calls meanwhile is turned away, with whichever roots and certificate.
#[tokio::test]
async fn rotations_cut_no_stream() {
    let stub = Stub::by_hand().await;
    let mut world = World::open(&stub).await;
    let (old_roots, alice) = (world.authority.roots(), world.certificate("alice"));
    let [mut h1, mut h2] = Caller::new(world.address(), old_roots.clone()).certificate(&alice).both().await;
    let mut streams = vec![live(&mut h1, &stub).await, live(&mut h2, &stub).await];
    let dir = directory(&world.state);
    for (step, rotate) in [change::rotate_issuer, change::rotate_root].into_iter().enumerate() {
        let generation = world.server.gateway().view().settings.generation;
        rotate(&dir, Unlock::default(), world.clock.now()).unwrap();
        world.server.reload_if_due();
        assert_eq!(world.server.gateway().view().settings.generation, generation + 1);
        for (flow, exchange) in &mut streams {
            exchange.chunk(&format!("data: {{\"step\":{step}}}\n\n")).await;
            flow.until(&format!("\"step\":{step}")).await;
        }
        let newest = now_of(&world);
        let bob = world.certificate_of(&newest, &format!("bob-{step}"));
        for roots in [old_roots.clone(), newest.roots()] {
            for certificate in [&alice, &bob] {
                let caller = Caller::new(world.address(), roots.clone()).certificate(certificate);
                for mut line in caller.both().await {
                    assert_eq!(line.get("/v1/models").await.status, 200);
                }
            }
        }
    }
    for (mut flow, mut exchange) in streams {
        exchange.chunk("data: [DONE]\n\n").await;
        exchange.end().await;
        flow.until("[DONE]").await;
        assert_eq!(flow.end().await.1, None, "a clean end");
    }
}

#[tokio::test]
async fn an_authority_that_cannot_be_read_changes_nothing() {
    let stub = Stub::chatty().await;
    let mut world = World::open(&stub).await;
    let alice = world.certificate("alice");
    let file = directory(&world.state).join("issuer.crt");
    let good = std::fs::read(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    let generation = world.server.gateway().view().settings.generation;
    world.server.reload_if_due();
    assert_eq!(world.server.gateway().view().settings.generation, generation);
    world.caller().certificate(&alice).h1().await.chat(&chat("llama")).await.assert_served();
    std::fs::write(&file, good).unwrap();
    world.server.reload_if_due();
    assert_eq!(world.server.gateway().view().settings.generation, generation + 1);
}

#[tokio::test]
async fn metrics_say_which_certificates_end_first() {
    let stub = Stub::chatty().await;
    let mut world = Setup::new(&stub).manual_clock().start().await;
    let hours = |hours: u64| Some(Duration::from_secs(hours * 3600));
    let day = world.certificate_as(Role::Client, "alice", hours(24));
    // Alice has a longer one too, so bob is the first who is left without.
    world.certificate_as(Role::Client, "alice", hours(240));
    let bob = world.certificate_as(Role::Client, "bob", hours(48));
    let site = world.certificate_as(Role::Connector, "site", hours(24));
    world.clock.advance(Duration::from_secs(61));
    world.server.reload_if_due();
    let ends = |role: &str| format!("doorward_certificate_ends_timestamp_seconds{{role=\"{role}\"}}");
    for (role, end) in
        [("client", bob.not_after), ("connector", site.not_after), ("issuer", world.authority.issuer_not_after())]
    {
        let seconds = world.metric(&ends(role)).await;
        assert!((seconds - end.as_seconds() as f64).abs() < 0.5, "{role}: {seconds}");
    }
    assert!(day.not_after < bob.not_after);
    world.revoke_name("bob");
    world.clock.advance(Duration::from_secs(61));
    world.server.reload_if_due();
    assert!(world.metric(&ends("client")).await > bob.not_after.as_seconds() as f64);
}

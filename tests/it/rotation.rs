//! A new root and issuer, under traffic: nobody notices, until the operator says that it is over.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use doorward::ca::authority::Authority;
use doorward::ca::change::{self, Unlock};
use doorward::cli::ca::directory;

use crate::support::{Caller, LONG, Prepared, Stub, World, chat, until};

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

//! The promises of the README, each by its number. The second has a file of its own.

use std::time::Duration;

use crate::support::{OPEN, Setup, Stub, World, chat};

/// Expiry counts to the millisecond on a clock that the test moves, over connections that were
/// opened and used before.
#[tokio::test]
async fn promise_03_expiry_of_a_key_is_exact_on_reused_connections() {
    let stub = Stub::chatty().await;
    let world = Setup::new(&stub).manual_clock().start().await;
    let end = world.clock.now().after(Duration::from_secs(60));
    let key = world.key_with("acme/x", Some(end), &[], &[], &[]).await;
    expires(&world, world.caller().key(&key).both().await, Duration::from_secs(60)).await;
}

#[tokio::test]
async fn promise_03_expiry_of_a_certificate_is_exact_on_reused_connections() {
    let stub = Stub::chatty().await;
    let world = Setup::new(&stub).manual_clock().start().await;
    let issued =
        world.certificate_as(doorward::domain::identity::Role::Client, "alice", Some(Duration::from_secs(300)));
    let left = issued.not_after.since(world.clock.now());
    expires(&world, world.caller().certificate(&issued).both().await, left).await;
}

#[tokio::test]
async fn promise_03_expiry_of_a_grant_is_exact_on_reused_connections() {
    let stub = Stub::chatty().await;
    let mut setup = Setup::new(&stub).manual_clock();
    let end = setup.clock.now().after(Duration::from_secs(90));
    setup.grants = OPEN.replace("models =", &format!("expires_at = \"{end}\"\nmodels ="));
    let world = setup.start().await;
    let key = world.key("acme/x").await;
    expires(&world, world.caller().key(&key).both().await, Duration::from_secs(90)).await;
}

async fn expires(world: &World, mut lines: [crate::support::Line; 2], left: Duration) {
    for line in &mut lines {
        line.chat(&chat("llama")).await.assert_served();
    }
    world.clock.advance(left - Duration::from_millis(1));
    for line in &mut lines {
        line.chat(&chat("llama")).await.assert_served();
    }
    world.clock.advance(Duration::from_millis(1));
    for line in &mut lines {
        line.chat(&chat("llama")).await.assert_refused(world, 401, "invalid_credentials").await;
        line.get("/v1/models").await.assert_refused(world, 401, "invalid_credentials").await;
    }
}

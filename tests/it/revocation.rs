//! What is taken away is gone: on open connections within a second, from live requests within two,
//! and never with a clean end.

use std::time::Duration;

use bytes::Bytes;
use http::Method;
use tokio::time::Instant;

use crate::support::{CHAT, ChannelBody, Exchange, Flow, Line, OPEN, Setup, Stub, Whole, World, chat, live};

const SECOND: Duration = Duration::from_secs(1);

/// Asks over an open connection until the answer is 401, which must be within a second. What is
/// asked for is answered at once: a request under way would be cut, and with it its connection.
async fn refused_within_a_second(line: &mut Line, stub: &Stub) {
    let begun = Instant::now();
    loop {
        let answer = line.get("/v1/models").await;
        if answer.status == 401 {
            break;
        }
        assert!(answer.status == 200 && begun.elapsed() < SECOND, "{answer:?}");
    }
    assert!(begun.elapsed() < SECOND, "{:?}", begun.elapsed());
    let before = stub.seen().len();
    assert_eq!(line.chat(&chat("llama")).await.status, 401);
    assert_eq!(stub.seen().len(), before);
    assert!(line.is_open());
}

#[tokio::test]
async fn promise_02_a_revoked_key_is_refused_within_a_second_on_open_connections() {
    let stub = Stub::chatty().await;
    let world = World::open(&stub).await;
    let key = world.key("acme/x").await;
    let [mut h1, mut h2] = world.caller().key(&key).both().await;
    h1.chat(&chat("llama")).await.assert_served();
    h2.chat(&chat("llama")).await.assert_served();
    world.revoke_key(&key.id);
    refused_within_a_second(&mut h1, &stub).await;
    refused_within_a_second(&mut h2, &stub).await;
}

#[tokio::test]
async fn promise_02_a_revoked_certificate_is_refused_within_a_second_on_open_connections() {
    let stub = Stub::chatty().await;
    let world = World::open(&stub).await;
    for h2 in [false, true] {
        for whole_name in [false, true] {
            let name = format!("alice-{h2}-{whole_name}");
            let issued = world.certificate(&name);
            let caller = world.caller().certificate(&issued);
            let mut line = if h2 { caller.h2().await } else { caller.h1().await };
            line.chat(&chat("llama")).await.assert_served();
            if whole_name {
                world.revoke_name(&name);
            } else {
                world.revoke_certificate(&issued.serial);
            }
            refused_within_a_second(&mut line, &stub).await;
            // A new connection is no way around.
            caller.chat(&chat("llama")).await.assert_refused(&world, 401, "invalid_credentials").await;
        }
    }
    // Nobody else is hit.
    world.caller().certificate(&world.certificate("bob")).chat(&chat("llama")).await.assert_served();
}

/// A live stream that was cut: said in the stream, then broken off; the backend is let go.
async fn cut(world: &World, flow: Flow, exchange: Exchange, code: &str) {
    let begun = Instant::now();
    let id = flow.request_id();
    let ((text, broke), _) = tokio::join!(flow.end(), exchange.closed());
    assert!(begun.elapsed() < 2 * SECOND, "{:?}", begun.elapsed());
    let broke = broke.unwrap_or_else(|| panic!("a clean end after {text:?}"));
    assert!(text.starts_with("data: {\"n\":1}\n\n") && text.contains(&format!("\"code\":\"{code}\"")), "{text:?}");
    assert!(!text.contains("[DONE]"));
    assert!(!broke.contains("CANCEL") && !broke.contains("NO_ERROR"), "{broke}");
    let record = world.record(&id).await;
    assert_eq!((&record["outcome"], &record["code"], &record["status"]), (&"ended".into(), &code.into(), &200.into()));
}

#[tokio::test]
async fn promise_02_live_streams_of_the_revoked_end_within_two_seconds_and_not_cleanly() {
    let stub = Stub::by_hand().await;
    let world = World::open(&stub).await;
    for h2 in [false, true] {
        let key = world.key("acme/x").await;
        let alice = world.certificate(if h2 { "alice-2" } else { "alice-1" });
        let carol_name = if h2 { "carol-2" } else { "carol-1" };
        let carol = world.certificate(carol_name);
        let bystander = world.caller().key(&world.key("acme/x").await);
        let by_name = world.caller().certificate(&carol);
        let callers = [world.caller().key(&key), world.caller().certificate(&alice), by_name, bystander];
        let mut lines = Vec::new();
        for caller in callers {
            lines.push(if h2 { caller.h2().await } else { caller.h1().await });
        }
        let [by_key, by_certificate, by_name, other] = &mut lines[..] else { unreachable!() };
        let (flow, exchange) = live(by_key, &stub).await;
        let (certified_flow, certified_exchange) = live(by_certificate, &stub).await;
        let (named_flow, named_exchange) = live(by_name, &stub).await;
        let (mut other_flow, mut other_exchange) = live(other, &stub).await;
        world.revoke_key(&key.id);
        cut(&world, flow, exchange, "invalid_credentials").await;
        world.revoke_certificate(&alice.serial);
        cut(&world, certified_flow, certified_exchange, "invalid_credentials").await;
        world.revoke_name(carol_name);
        cut(&world, named_flow, named_exchange, "invalid_credentials").await;
        other_exchange.chunk("data: [DONE]\n\n").await;
        other_flow.until("[DONE]").await;
        other_exchange.end().await;
        assert_eq!(other_flow.end().await.1, None);
    }
}

/// A head that was sent in time opens nothing when the body comes after the revocation.
#[tokio::test]
async fn promise_02_a_request_whose_body_is_still_coming_is_refused() {
    let stub = Stub::chatty().await;
    let world = World::open(&stub).await;
    for h2 in [false, true] {
        let key = world.key("acme/x").await;
        let caller = world.caller().key(&key);
        let mut line = if h2 { caller.h2().await } else { caller.h1().await };
        let (pieces, body) = ChannelBody::channel();
        let mut request = line.request(Method::POST, CHAT, body);
        request.headers_mut().insert("content-type", "application/json".parse().unwrap());
        let text = chat("llama");
        let (begin, rest) = text.split_at(10);
        pieces.send(Bytes::from(begin.to_owned())).await.unwrap();
        let answer = tokio::spawn(async move { line.send(request).await });
        world.metric_becomes("doorward_requests_in_flight", 1.0).await;
        let before = world.generation();
        world.revoke_key(&key.id);
        world.changed_since(before).await;
        pieces.send(Bytes::from(rest.to_owned())).await.unwrap();
        drop(pieces);
        let answer = Whole::of(answer.await.unwrap().unwrap()).await;
        answer.assert_refused(&world, 401, "invalid_credentials").await;
        stub.assert_untouched();
        world.metric_becomes("doorward_requests_in_flight", 0.0).await;
    }
}

/// While the backend thinks, too.
#[tokio::test]
async fn promise_02_a_request_that_waits_for_its_backend_is_refused() {
    let stub = Stub::by_hand().await;
    let world = World::open(&stub).await;
    for h2 in [false, true] {
        let key = world.key("acme/x").await;
        let caller = world.caller().key(&key);
        let mut line = if h2 { caller.h2().await } else { caller.h1().await };
        let body = chat("llama");
        let backend = async {
            let exchange = stub.next().await;
            world.revoke_key(&key.id);
            assert!(exchange.closed().await < 2 * SECOND);
        };
        let (answer, ()) = tokio::join!(line.chat(&body), backend);
        answer.assert_refused(&world, 401, "invalid_credentials").await;
    }
}

/// A caller who does not read is cut as well: nothing goes on for it behind the scenes.
#[tokio::test]
async fn promise_02_a_stream_whose_caller_does_not_read_ends() {
    let stub = Stub::by_hand().await;
    let world = World::open(&stub).await;
    for h2 in [false, true] {
        let key = world.key("acme/x").await;
        let caller = world.caller().key(&key);
        let mut line = if h2 { caller.h2().await } else { caller.h1().await };
        let (flow, mut exchange) = live(&mut line, &stub).await;
        let id = flow.request_id();
        exchange.flood(&"x".repeat(4000), Duration::from_millis(200)).await;
        world.revoke_key(&key.id);
        assert!(exchange.closed().await < 2 * SECOND);
        let record = world.record(&id).await;
        assert_eq!(record["outcome"], "ended", "{record}");
        drop((flow, line));
    }
}

/// A reload that takes a grant away reaches live streams; others go on.
#[tokio::test]
async fn a_reload_that_removes_a_grant_ends_live_streams() {
    let stub = Stub::by_hand().await;
    let one = "[[grant]]\nowner = \"acme\"\nrequire = \"either\"\nnetworks = [\"*\"]\nendpoints = [\"*\"]\nmodels = [\"*\"]\n";
    let two = one.replace("acme", "other");
    let setup = |grants: &str| Setup::new(&stub).grants(grants);
    let mut world = setup(&format!("{one}{two}")).start().await;
    let (staying, leaving) = (world.key("acme/x").await, world.key("other/x").await);
    let [mut h1, mut h2] = world.caller().key(&leaving).both().await;
    let mut other = world.caller().key(&staying).h2().await;
    let (first, first_exchange) = live(&mut h1, &stub).await;
    let (second, second_exchange) = live(&mut h2, &stub).await;
    let (mut third, mut third_exchange) = live(&mut other, &stub).await;
    world.reload(&setup(one).text());
    tokio::join!(cut(&world, first, first_exchange, "no_grant"), cut(&world, second, second_exchange, "no_grant"));
    third_exchange.chunk("data: [DONE]\n\n").await;
    third.until("[DONE]").await;
    third_exchange.end().await;
    assert_eq!(third.end().await.1, None);
}

/// So does one that only narrows: models, endpoints, networks.
#[tokio::test]
async fn a_reload_that_narrows_ends_live_streams() {
    let stub = Stub::by_hand().await;
    for (from, to, code) in [
        ("models = [\"*\"]", "models = [\"same\"]", "model_not_found"),
        ("endpoints = [\"*\"]", "endpoints = [\"@models\"]", "endpoint_not_allowed"),
        ("127.0.0.0/8", "10.0.0.0/8", "network_not_allowed"),
        ("\"either\"", "\"both\"", "certificate_required"),
    ] {
        let mut world = World::open(&stub).await;
        let key = world.key("acme/x").await;
        let mut line = world.caller().key(&key).h1().await;
        let (flow, exchange) = live(&mut line, &stub).await;
        world.reload(&Setup::new(&stub).grants(&OPEN.replace(from, to)).text());
        cut(&world, flow, exchange, code).await;
    }
}

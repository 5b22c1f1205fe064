//! The published order of the checks: a request that fails two of them hears of the earlier one.

use std::time::Duration;

use crate::support::{CHAT, OPEN, Setup, Stub, World, chat};

/// A world in which every check can be failed by choice.
async fn world(stub: &Stub) -> World {
    let grants = format!(
        r#"{OPEN}
[[grant]]
owner = "acme/certified"
require = "certificate"

[[grant]]
owner = "acme/certified/far"
networks = ["10.0.0.0/8"]

[[grant]]
owner = "acme/far"
networks = ["10.0.0.0/8"]
endpoints = ["@models"]
"#
    );
    Setup::new(stub).grants(&grants).listen("max_body_bytes = 1024").manual_clock().start().await
}

/// 1 before 2: the host is looked at before the credential.
#[tokio::test]
async fn host_before_credential() {
    let stub = Stub::chatty().await;
    let world = world(&stub).await;
    for (head, status, code) in [
        ("POST /v1/chat/completions?api_key=x HTTP/1.0\r\n", 505, "http_version_not_supported"),
        ("POST /v1/chat/completions?api_key=x HTTP/1.1\r\n", 400, "invalid_host"),
        ("POST /v1/chat/completions?api_key=x HTTP/1.1\r\nHost: evil.test\r\n", 421, "misdirected"),
        ("POST /v1/chat/completions?api_key=x HTTP/1.1\r\nHost: llm.test\r\n", 400, "credential_in_query"),
        ("POST /v1/chat/completions HTTP/1.1\r\nHost: llm.test\r\n", 401, "invalid_credentials"),
    ] {
        let mut line = world.caller().raw().await;
        line.send(format!("{head}Content-Length: 0\r\n\r\n")).await;
        line.answer().await.assert_refused(&world, status, code).await;
    }
    stub.assert_untouched();
}

/// 2 before 3: a credential that proves nothing is reported before a certificate that is revoked.
#[tokio::test]
async fn credential_before_status() {
    let stub = Stub::chatty().await;
    let world = world(&stub).await;
    let alice = world.certificate("alice");
    let before = world.generation();
    world.revoke_certificate(&alice.serial);
    world.changed_since(before).await;
    let caller = world.caller().certificate(&alice);
    for (caller, detail) in [
        (caller.clone(), "the certificate is revoked"),
        (caller.header("authorization", "Bearer dw_nonsense"), "not the form of a key"),
    ] {
        let answer = caller.chat(&chat("llama")).await;
        let record = answer.assert_refused(&world, 401, "invalid_credentials").await;
        assert_eq!(record["detail"], detail);
    }
    stub.assert_untouched();
}

/// 3 before 4: an expired key is not told that a certificate is missing too.
#[tokio::test]
async fn status_before_required_kinds() {
    let stub = Stub::chatty().await;
    let world = world(&stub).await;
    let end = world.clock.now().after(Duration::from_secs(1));
    let key = world.key_with("acme/certified", Some(end), &[], &[], &[]).await;
    let caller = world.caller().key(&key);
    caller.chat(&chat("llama")).await.assert_refused(&world, 401, "certificate_required").await;
    world.clock.advance(Duration::from_secs(1));
    caller.chat(&chat("llama")).await.assert_refused(&world, 401, "invalid_credentials").await;
    stub.assert_untouched();
}

/// 4 before 5: a missing certificate is reported before the network.
#[tokio::test]
async fn required_kinds_before_network() {
    let stub = Stub::chatty().await;
    let world = world(&stub).await;
    let caller = world.caller().key(&world.key("acme/certified/far").await);
    caller.chat(&chat("llama")).await.assert_refused(&world, 401, "certificate_required").await;
    stub.assert_untouched();
}

/// 5 before 6: from a wrong network, nobody learns which paths there are.
#[tokio::test]
async fn network_before_endpoint() {
    let stub = Stub::chatty().await;
    let world = world(&stub).await;
    let mut line = world.caller().key(&world.key("acme/far").await).h1().await;
    for path in ["//", "/nowhere", "/v1/models", CHAT] {
        line.post(path, &chat("llama")).await.assert_refused(&world, 403, "network_not_allowed").await;
    }
    stub.assert_untouched();
}

/// 6: path, then method, then endpoint; and all of it before 7, the body.
#[tokio::test]
async fn endpoint_before_body() {
    let stub = Stub::chatty().await;
    let world = world(&stub).await;
    let key = world.key_with("acme/x", None, &[], &["ollama.*"], &[]).await;
    let caller = world.caller().key(&key).header("content-type", "text/plain");
    let large = "x".repeat(2000);
    for (path, status, code) in [
        ("/v1//models", 400, "invalid_path"),
        ("/nowhere", 404, "not_found"),
        ("/v1/models", 405, "method_not_allowed"),
        (CHAT, 403, "endpoint_not_allowed"),
    ] {
        caller.post(path, &large).await.assert_refused(&world, status, code).await;
    }
    stub.assert_untouched();
}

/// 7: size, then type and coding, then JSON; and all of it before 8, the model.
#[tokio::test]
async fn body_before_model() {
    let stub = Stub::chatty().await;
    let world = world(&stub).await;
    let caller = world.caller().key(&world.key("acme/x").await);
    let plain = caller.clone().header("content-type", "text/plain");
    plain.chat(&"x".repeat(2000)).await.assert_refused(&world, 413, "body_too_large").await;
    plain.chat("x").await.assert_refused(&world, 415, "unsupported_media_type").await;
    let body = r#"{"model":"unknown","stream":"true"}"#;
    caller.chat(body).await.assert_refused(&world, 400, "invalid_body").await;
    stub.assert_untouched();
}

/// 8 before 12: a model that the caller may not name is reported whether or not its backend is up.
#[tokio::test]
async fn model_before_target() {
    let stub = Stub::chatty().await;
    let mut setup = Setup::new(&stub);
    setup.backends = setup.backends.replace(&stub.address.to_string(), "127.0.0.1:1");
    let world = setup.start().await;
    let key = world.key_with("acme/x", None, &[], &[], &["same"]).await;
    let mut line = world.caller().key(&key).h1().await;
    line.chat(&chat("llama")).await.assert_refused(&world, 404, "model_not_found").await;
    line.chat(&chat("same")).await.assert_refused(&world, 503, "no_backend").await;
    stub.assert_untouched();
}

/// Web pages: leave to call is decided after 1 and asks for no credential; a lent certificate after
/// 4 and before 5.
#[tokio::test]
async fn pages_between_the_checks() {
    let stub = Stub::chatty().await;
    let grants = format!(
        r#"{OPEN}
[[identity]]
match = "spiffe://corp.test/client/far-*"
owner = "acme/far"

[[identity]]
match = "spiffe://corp.test/client/keyed-*"
owner = "acme/keyed"

[[grant]]
owner = "acme/far"
networks = ["10.0.0.0/8"]

[[grant]]
owner = "acme/keyed"
require = "key"

[[grant]]
owner = "pages"
cors_origins = ["https://chat.corp.test"]
"#
    );
    let world = Setup::new(&stub).grants(&grants).start().await;
    let asking = "Access-Control-Request-Method: POST\r\nOrigin:";
    for (target, headers, status) in [
        ("/v1/models?key=x", format!("Host: evil.test\r\n{asking} https://chat.corp.test"), 421),
        ("/nowhere?key=x", format!("Host: llm.test\r\n{asking} https://evil.test"), 400),
        ("/nowhere", format!("Host: llm.test\r\n{asking} https://evil.test"), 403),
        ("/nowhere", format!("Host: llm.test\r\n{asking} https://chat.corp.test"), 404),
        (CHAT, format!("Host: llm.test\r\n{asking} https://chat.corp.test"), 204),
    ] {
        let mut line = world.caller().raw().await;
        line.send(format!("OPTIONS {target} HTTP/1.1\r\n{headers}\r\n\r\n")).await;
        assert_eq!(line.answer().await.status, status, "{target} {headers}");
    }
    for (name, status, code) in [("keyed-a", 401, "key_required"), ("far-a", 403, "origin_not_allowed")] {
        let caller = world.caller().certificate(&world.certificate(name)).header("origin", "https://chat.corp.test");
        caller.post("/nowhere", "x").await.assert_refused(&world, status, code).await;
    }
    stub.assert_untouched();
}

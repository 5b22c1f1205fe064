//! An explanation says what the gate does: the same question put to both.

use doorward::domain::key::{Binding, KeyDetails, KeyRecord, Uses};
use http::Method;
use serde_json::{Value, json};

use crate::support::{Key, OPEN, Setup, Stub, World, chat};

const GRANTS: &str = r#"
[[grant]]
owner = "narrow"
require = "key"
networks = ["127.0.0.1/32"]
endpoints = ["openai.chat_completions", "openai.models"]
models = ["llama"]

[[grant]]
owner = "silent"
models = ["*"]

[[grant]]
owner = "strict"
require = "both"
networks = ["*"]
endpoints = ["*"]
models = ["*"]
"#;

async fn explain(world: &World, question: Value) -> Value {
    let mut line = world.socket().await;
    let mut request = line.json("/v1/explain", &question.to_string());
    *request.method_mut() = Method::POST;
    let answer = crate::support::Whole::of(line.send(request).await.unwrap()).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

#[tokio::test]
async fn an_explanation_is_what_the_gate_says() {
    let stub = Stub::chatty().await;
    let world = Setup::new(&stub).grants(&format!("{OPEN}{GRANTS}")).start().await;
    let now = world.clock.now();
    let to_alice = || KeyDetails {
        bound_to: Some(Binding::parse("spiffe://corp.test/client/alice").unwrap()),
        ..KeyDetails::default()
    };
    let keys: Vec<Key> = vec![
        world.key("acme/x").await,
        world.key("narrow/x").await,
        world.key("silent/x").await,
        world.key("strict/x").await,
        world.key("nowhere").await,
        world.key_with("acme/x", Some(now), &[], &[], &[]).await,
        world.key_with("acme/x", None, &["127.0.0.2"], &[], &["sa*"]).await,
        world.key_like("acme/x", |record| KeyRecord { disabled: true, ..record }).await,
        world
            .key_like("acme/x", |record| KeyRecord { uses: Some(Uses { left: 0, refund_on_failure: false }), ..record })
            .await,
        world.key_like("strict/x", |record| KeyRecord { details: to_alice().boxed(), ..record }).await,
        world.key_like("acme/x", |record| KeyRecord { details: to_alice().boxed(), ..record }).await,
    ];
    let [alice, bob] = ["alice", "bob"].map(|name| world.certificate(name));
    let mut seen = std::collections::BTreeMap::new();
    for key in keys.iter().map(Some).chain([None]) {
        for (name, certificate) in [("", None), ("alice", Some(&alice)), ("bob", Some(&bob))] {
            if key.is_none() && certificate.is_none() {
                continue;
            }
            for (source, model) in [("127.0.0.1", "llama"), ("127.0.0.2", "same"), ("127.0.0.1", "other")] {
                let mut caller = world.caller().calling_from(source.parse().unwrap());
                let mut question = json!({"from": source, "endpoint": "openai.chat_completions", "model": model});
                if let Some(key) = key {
                    caller = caller.key(key);
                    question["key"] = key.id.as_str().into();
                }
                if let Some(certificate) = certificate {
                    caller = caller.certificate(certificate);
                    question["identity"] = format!("spiffe://corp.test/client/{name}").into();
                }
                let answer = caller.chat(&chat(model)).await;
                let explained = explain(&world, question.clone()).await;
                let code = if answer.status == 200 { Value::Null } else { answer.json()["error"]["code"].clone() };
                assert_eq!(explained["code"], code, "{question} {explained:#}");
                assert_eq!(explained["allowed"], answer.status == 200);
                assert_eq!(explained["status"], if answer.status == 200 { Value::Null } else { answer.status.into() });
                // What the record knows, the explanation says.
                let record = world.record(answer.request_id()).await;
                assert_eq!(explained["reason"], record["detail"], "{question}");
                assert_eq!(explained["owner"], record["owner"]);
                assert_eq!(explained["identity_owner"], record["identity_owner"]);
                *seen.entry(code.to_string()).or_insert(0) += 1;
            }
        }
    }
    // Enough came about to make this worth something.
    for code in [
        "null",
        "invalid_credentials",
        "certificate_required",
        "no_grant",
        "network_not_allowed",
        "model_not_found",
        "key_bound_elsewhere",
    ] {
        assert!(seen.keys().any(|seen| seen.contains(code)), "{code} in {seen:?}");
    }
}

#[tokio::test]
async fn an_explanation_names_the_line_and_the_store() {
    let stub = Stub::chatty().await;
    let world = Setup::new(&stub).grants(&format!("{OPEN}{GRANTS}")).start().await;
    let key = world.key("narrow/x").await;
    let mut line = world.socket().await;
    let mut request = line.json("/v1/grants/narrow", r#"{"models": ["same"]}"#);
    *request.method_mut() = Method::PUT;
    assert_eq!(line.send(request).await.unwrap().status(), 200);
    let question =
        json!({"key": key.id.as_str(), "from": "127.0.0.1", "endpoint": "openai.chat_completions", "model": "llama"});
    let explained = explain(&world, question).await;
    let checks = explained["checks"].as_array().unwrap();
    let names: Vec<_> = checks.iter().map(|check| check["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["status", "uses", "credentials", "network", "endpoint", "model"]);
    let text = std::fs::read_to_string(&world.file).unwrap();
    let line_of = |text: &str, what: &str| text.lines().position(|line| line == what).unwrap() + 1;
    let said = checks[5]["said"].as_array().unwrap();
    assert_eq!(said.len(), 2, "{said:?}");
    let expected = json!({"grant": "narrow", "key": null, "source": "config", "line": line_of(&text, "models = [\"llama\"]"),
        "setting": "models", "words": ["llama"], "admits": true});
    assert_eq!(said[0], expected);
    let expected = json!({"grant": "narrow", "key": null, "source": "store", "line": null,
        "setting": "models", "words": ["same"], "admits": false});
    assert_eq!(said[1], expected);
    assert_eq!((&explained["allowed"], &explained["code"]), (&false.into(), &"model_not_found".into()));
}

#[tokio::test]
async fn questions_that_make_no_sense_are_told_so() {
    let stub = Stub::chatty().await;
    let world = World::open(&stub).await;
    for (question, field) in [
        (json!({"from": "127.0.0.1", "endpoint": "openai.models"}), "key"),
        (json!({"key": "x", "from": "127.0.0.1", "endpoint": "openai.models"}), "key"),
        (json!({"identity": "alice", "from": "127.0.0.1", "endpoint": "openai.models"}), "identity"),
        (json!({"identity": "spiffe://corp.test/client/a", "from": "here", "endpoint": "openai.models"}), "from"),
        (json!({"identity": "spiffe://corp.test/client/a", "from": "::1", "endpoint": "openai.modells"}), "endpoint"),
        (
            json!({"identity": "spiffe://corp.test/client/a", "from": "::1", "endpoint": "openai.chat_completions"}),
            "model",
        ),
        (
            json!({"identity": "spiffe://corp.test/client/a", "from": "::1", "endpoint": "openai.models", "at": "soon"}),
            "at",
        ),
    ] {
        let mut line = world.socket().await;
        let mut request = line.json("/v1/explain", &question.to_string());
        *request.method_mut() = Method::POST;
        let answer = crate::support::Whole::of(line.send(request).await.unwrap()).await;
        assert!(answer.status == 400 || answer.status == 422, "{question}: {} {}", answer.status, answer.text());
        assert!(answer.text().contains(&format!("\"{field}\"")), "{question}: {}", answer.text());
    }
}

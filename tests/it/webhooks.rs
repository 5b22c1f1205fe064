//! Webhooks: what they are told, what their answers do, and what happens without one.

use std::time::Duration;

use doorward::domain::key::{KeyChange, Labels};
use doorward::store::rows::Updated;
use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::support::{CHAT, ConnectProxy, Key, Manner, Receiver, Setup, Stub, Whole, World, chat, chat_stream, within};

const SECOND: Duration = Duration::from_secs(1);

/// A gateway whose one grant names the receiver, and a caller with a key.
async fn guarded(stub: &Stub, receiver: &Receiver, settings: &str) -> (World, Key) {
    let world = receiver.guard(Setup::new(stub).manual_clock(), settings).start().await;
    let key = world.key("acme/research/alice").await;
    (world, key)
}

/// The `webhooks` of the record of an answer.
async fn said(world: &World, answer: &Whole) -> Value {
    world.record(answer.request_id()).await["webhooks"].clone()
}

fn one(decision: &str, source: Option<&str>) -> Value {
    json!([{"name": "iam", "decision": decision, "source": source}])
}

#[tokio::test]
async fn a_webhook_is_told_what_the_contract_says_and_no_secret() {
    let (stub, receiver) = (Stub::chatty().await, Receiver::start().await);
    let settings = "include = [\"headers:x-project\", \"headers:x-absent\", \"content_length\"]";
    let (world, key) = guarded(&stub, &receiver, settings).await;
    let certificate = world.certificate("alice");
    let caller = world.caller().certificate(&certificate).key(&key).header("x-project", "a\"b").header("x-other", "no");
    let body = r#"{"model":"llama","max_tokens":512,"messages":[{"role":"user","content":"hunter2"}]}"#;
    let answer = caller.chat(body).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(said(&world, &answer).await, one("allow", Some("fresh")));
    let asked = receiver.asked().remove(0);
    asked.assert_signed();
    assert_eq!(asked.header("content-type"), "application/json");
    assert_eq!(asked.header("content-length"), asked.text.len().to_string());
    assert!(asked.headers.get("cookie").is_none() && asked.headers.get("authorization").is_none());
    assert!(!asked.text.contains("hunter2") && !asked.text.contains(&key.text), "{}", asked.text);
    let told = &asked.body;
    assert_eq!(told["version"], json!(1));
    assert_eq!(told["type"], json!("doorward.request.validate"));
    assert_eq!(told["request_id"], json!(answer.request_id()));
    assert_eq!(told["gateway"], json!({"id": "doorward", "config_revision": 1}));
    let serial: String = certificate.serial.to_string();
    assert_eq!(
        told["caller"],
        json!({"kind": "both", "owner": "acme/research/alice", "identity_owner": "acme/people", "key_id": key.id.to_string(),
               "identity": "spiffe://corp.test/client/alice", "certificate_serial": serial,
               "certificate_expires_at": certificate.not_after.to_string(), "key_expires_at": null, "labels": {}})
    );
    assert_eq!(told["client"], json!({"ip": "127.0.0.1", "tls": "1.3", "kx": "X25519MLKEM768", "sni": "llm.test"}));
    assert_eq!(
        told["request"],
        json!({"method": "POST", "dialect": "openai", "endpoint": "openai.chat_completions", "model": "llama", "stream": false,
               "max_tokens": 512, "headers": {"x-project": "a\"b"}, "content_length": body.len()})
    );
    assert_eq!(told["route"], json!({"candidates": ["stub"]}));
}

/// Where the only way out is a proxy, it is asked for the webhook's address and sees nothing else.
#[tokio::test]
async fn the_way_to_a_webhook_may_be_a_proxy() {
    let (stub, receiver, proxy) = (Stub::chatty().await, Receiver::start().await, ConnectProxy::start().await);
    let (world, key) = guarded(&stub, &receiver, &format!("proxy = \"http://{}\"", proxy.address)).await;
    let answer = world.caller().key(&key).chat(&chat("llama")).await;
    assert_eq!((answer.status, said(&world, &answer).await), (200, one("allow", Some("fresh"))));
    receiver.asked().remove(0).assert_signed();
    let address = receiver.address;
    assert_eq!(proxy.asked(), [format!("CONNECT {address} HTTP/1.1\r\nHost: {address}\r\n\r\n")]);
    // And no other way is tried when nobody is there.
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let (world, key) = guarded(&stub, &receiver, &format!("proxy = \"http://{nobody}\"")).await;
    let answer = world.caller().key(&key).chat(&chat("llama")).await;
    answer.assert_refused(&world, 503, "authorization_unavailable").await;
    assert_eq!((receiver.count(), receiver.connections()), (1, 1));
}

/// Whatever a webhook does instead of answering, and in whichever way it is to be treated then: no
/// request passes, unless two words were written that say so.
#[tokio::test]
async fn promise_07_a_failing_webhook_never_opens_the_gate() {
    let ok = "\"version\":1,\"request_id\":\"ID\"";
    let raw = |status, kind, body: &str| Manner::Raw(status, kind, body.to_owned());
    let json_of = |body: &str| Manner::Raw(200, "application/json", body.to_owned());
    let failures = [
        ("500", raw(500, "application/json", &format!("{{{ok},\"decision\":\"allow\"}}"))),
        ("403 of a proxy", raw(403, "text/html", "<html>Forbidden</html>")),
        ("a redirect", raw(302, "application/json", &format!("{{{ok},\"decision\":\"allow\"}}"))),
        ("no content", raw(204, "application/json", "")),
        ("HTML", raw(200, "text/html", &format!("{{{ok},\"decision\":\"allow\"}}"))),
        ("no JSON", json_of("allow")),
        ("an unknown decision", json_of(&format!("{{{ok},\"decision\":\"maybe\"}}"))),
        ("keys twice", json_of(&format!("{{{ok},\"decision\":\"deny\",\"decision\":\"allow\"}}"))),
        ("a wrong id", json_of("{\"version\":1,\"request_id\":\"x\",\"decision\":\"allow\"}")),
        ("too long", json_of(&format!("{{{ok},\"decision\":\"allow\",\"x\":\"{}\"}}", "y".repeat(70_000)))),
        ("silence", Manner::Hang),
    ];
    for settings in ["", "on_error = \"stale\"", "on_error = \"allow\""] {
        let (stub, receiver) = (Stub::chatty().await, Receiver::start().await);
        let (world, key) =
            guarded(&stub, &receiver, &format!("timeout = \"300ms\"\nconnect_timeout = \"10s\"\n{settings}")).await;
        let mut line = world.caller().key(&key).h1().await;
        for (what, manner) in &failures {
            receiver.answers(manner.clone());
            let answer = line.chat(&chat("llama")).await;
            assert_eq!(answer.headers["retry-after"], "5", "{what}");
            let record = answer.assert_refused(&world, 503, "authorization_unavailable").await;
            assert_eq!(record["webhooks"], one("error", None), "{what}");
            // Its breaker rests for a minute at most.
            world.clock.advance(60 * SECOND);
        }
        receiver.stop();
        let answer = line.chat(&chat("llama")).await;
        answer.assert_refused(&world, 503, "authorization_unavailable").await;
        assert!(stub.seen().is_empty(), "{settings}");
    }
}

#[tokio::test]
async fn failing_open_takes_two_words() {
    let (stub, receiver) = (Stub::chatty().await, Receiver::start().await);
    let mut setup = receiver.guard(Setup::new(&stub), "on_error = \"allow\"");
    setup.grants.push_str("[[grant]]\nowner = \"acme/half\"\nwebhook = \"iam\"\n");
    setup.grants = setup.grants.replacen("webhook = \"iam\"\n", "webhook = \"iam\"\naccept_fail_open = true\n", 1);
    let world = setup.start().await;
    receiver.answers(Manner::Raw(500, "text/plain", String::new()));
    let open = world.key("acme/open").await;
    let answer = world.caller().key(&open).chat(&chat("llama")).await;
    assert_eq!(answer.status, 200);
    assert_eq!(said(&world, &answer).await, one("allow", Some("fail_open")));
    // Where one of the grants on the path does not accept it, it is not accepted.
    let half = world.key("acme/half").await;
    let answer = world.caller().key(&half).chat(&chat("llama")).await;
    answer.assert_refused(&world, 503, "authorization_unavailable").await;
    // A denial is no failure.
    receiver.says(json!({"decision": "deny"}));
    let answer = world.caller().key(&open).chat(&chat("llama")).await;
    answer.assert_refused(&world, 403, "denied_by_webhook").await;
    assert_eq!(stub.seen().len(), 1);
}

#[tokio::test]
async fn an_old_allow_counts_for_a_while_where_that_is_wanted() {
    let (stub, receiver) = (Stub::chatty().await, Receiver::start().await);
    let (world, key) =
        guarded(&stub, &receiver, "on_error = \"stale\"\nstale_max = \"1m\"\ncache_allow = \"10s\"").await;
    let mut line = world.caller().key(&key).h1().await;
    assert_eq!(line.chat(&chat("llama")).await.status, 200);
    receiver.answers(Manner::Raw(500, "text/plain", String::new()));
    let answer = line.chat(&chat("llama")).await;
    assert_eq!(said(&world, &answer).await, one("allow", Some("cached")));
    world.clock.advance(10 * SECOND);
    let answer = line.chat(&chat("llama")).await;
    assert_eq!(said(&world, &answer).await, one("allow", Some("stale")));
    let other = line.chat(&chat("same")).await;
    other.assert_refused(&world, 503, "authorization_unavailable").await;
    world.clock.advance(60 * SECOND);
    let late = line.chat(&chat("llama")).await;
    late.assert_refused(&world, 503, "authorization_unavailable").await;
    // A denial ends what was allowed before, for good.
    world.clock.advance(60 * SECOND);
    receiver.says(json!({"decision": "allow"}));
    assert_eq!(line.chat(&chat("llama")).await.status, 200);
    world.clock.advance(10 * SECOND);
    receiver.says(json!({"decision": "deny", "ttl_s": 0}));
    line.chat(&chat("llama")).await.assert_refused(&world, 403, "denied_by_webhook").await;
    receiver.answers(Manner::Raw(500, "text/plain", String::new()));
    line.chat(&chat("llama")).await.assert_refused(&world, 503, "authorization_unavailable").await;
}

#[tokio::test]
async fn denials_look_as_the_webhook_wants() {
    let (stub, receiver) = (Stub::chatty().await, Receiver::start().await);
    let (world, key) = guarded(&stub, &receiver, "").await;
    let mut line = world.caller().key(&key).h1().await;
    receiver.says(json!({"decision": "deny", "status": 429, "retry_after_s": 30, "reason": "over\nquota",
                         "public_message": "Your team has no budget left."}));
    let answer = line.chat(&chat("llama")).await;
    assert_eq!(answer.headers["retry-after"], "30");
    assert_eq!(answer.json()["error"]["message"], "Your team has no budget left.");
    assert_eq!(answer.json()["error"]["type"], "rate_limit_error");
    let record = answer.assert_refused(&world, 429, "denied_by_webhook").await;
    assert_eq!(record["detail"], "webhook iam denied: over quota");
    assert_eq!(record["webhooks"], one("deny", Some("fresh")));
    let again = line.chat(&chat("llama")).await;
    assert_eq!(said(&world, &again).await, one("deny", Some("cached")));
    world.clock.advance(5 * SECOND);
    receiver.says(json!({"decision": "deny"}));
    let plain = line.chat(&chat("llama")).await;
    plain.assert_refused(&world, 403, "denied_by_webhook").await;
    assert_eq!(receiver.count(), 2);
    assert_eq!(receiver.connections(), 1, "connections are used again");
    assert!(stub.seen().is_empty());
}

/// What local checks refuse is not asked about, and an allow does not make it pass.
#[tokio::test]
async fn a_webhook_is_asked_last() {
    let (stub, receiver) = (Stub::chatty().await, Receiver::start().await);
    let (world, _) = guarded(&stub, &receiver, "").await;
    let narrow = world.key_with("acme/x", None, &[], &["@chat"], &["same"]).await;
    let elsewhere = world.key_with("acme/x", None, &["10.0.0.0/8"], &[], &[]).await;
    let mut line = world.caller().key(&narrow).h1().await;
    line.chat(&chat("llama")).await.assert_refused(&world, 404, "model_not_found").await;
    line.post("/v1/embeddings", r#"{"model":"same","input":"x"}"#)
        .await
        .assert_refused(&world, 403, "endpoint_not_allowed")
        .await;
    line.chat("{").await.assert_refused(&world, 400, "invalid_body").await;
    let answer = world.caller().key(&elsewhere).chat(&chat("llama")).await;
    answer.assert_refused(&world, 403, "network_not_allowed").await;
    // What the gateway answers itself goes nowhere, so nobody is asked.
    let wide = world.key("acme/x").await;
    assert_eq!(world.caller().key(&wide).h1().await.get("/v1/models").await.status, 200);
    assert_eq!(receiver.count(), 0);
    assert_eq!(line.chat(&chat("same")).await.status, 200);
    assert_eq!(receiver.count(), 1);
}

#[tokio::test]
async fn a_grant_of_the_store_can_name_a_webhook_and_one_that_is_not_there_refuses() {
    use doorward::domain::grant::Grant;
    use doorward::domain::owner::OwnerPath;
    use doorward::domain::webhook::{Hooked, WebhookName};
    let (stub, receiver) = (Stub::chatty().await, Receiver::start().await);
    let world = receiver.beside(Setup::new(&stub), "iam", "").start().await;
    let key = world.key("acme/x").await;
    let set = async |name: &str| {
        let generation = world.generation();
        let hooked = Hooked { name: WebhookName::parse(name).unwrap(), accept_fail_open: true };
        let grant = Grant { webhook: Some(hooked), ..Grant::new(OwnerPath::parse("acme/x").unwrap()) };
        world.store().set_grant(&grant, world.clock.now()).unwrap();
        world.changed_since(generation).await;
    };
    assert_eq!(world.caller().key(&key).chat(&chat("llama")).await.status, 200);
    assert_eq!(receiver.count(), 0);
    set("iam").await;
    assert_eq!(world.caller().key(&key).chat(&chat("llama")).await.status, 200);
    assert_eq!(receiver.count(), 1);
    set("mai").await;
    let record = world.caller().key(&key).chat(&chat("llama")).await;
    let record = record.assert_refused(&world, 503, "authorization_unavailable").await;
    assert_eq!(record["detail"], "webhook mai: the config has no such webhook");
}

/// Both are asked, at once; the first denial in the order of the path counts, and one that several
/// grants name is asked once.
#[tokio::test]
async fn two_webhooks_on_a_path() {
    let (stub, root, leaf) = (Stub::chatty().await, Receiver::start().await, Receiver::start().await);
    let mut setup = leaf.beside(root.guard(Setup::new(&stub), "cache_deny = \"0s\"\ncache_allow = \"0s\""), "team", "");
    setup.grants.push_str(
        "[[grant]]\nowner = \"acme/a\"\nwebhook = \"team\"\n[[grant]]\nowner = \"acme/a/b\"\nwebhook = \"iam\"\n",
    );
    let world = setup.start().await;
    let key = world.key("acme/a/b").await;
    let mut line = world.caller().key(&key).h1().await;
    // Neither is answered before both are asked.
    root.open(false);
    leaf.open(false);
    let asked = async {
        root.was_asked(1).await;
        leaf.was_asked(1).await;
        root.open(true);
        leaf.open(true);
    };
    let body = chat("llama");
    let (answer, ()) = tokio::join!(line.chat(&body), asked);
    assert_eq!(answer.status, 200);
    let both = json!([{"name": "iam", "decision": "allow", "source": "fresh"},
                      {"name": "team", "decision": "allow", "source": "fresh"}]);
    assert_eq!(said(&world, &answer).await, both);
    assert_eq!((root.count(), leaf.count()), (1, 1));
    root.says(json!({"decision": "deny", "public_message": "root"}));
    let answer = line.chat(&body).await;
    assert_eq!(answer.json()["error"]["message"], "root");
    let record = answer.assert_refused(&world, 403, "denied_by_webhook").await;
    assert_eq!(record["webhooks"][1], json!({"name": "team", "decision": "allow", "source": "cached"}));
    // A denial counts for more than a failure before it.
    root.answers(Manner::Raw(500, "text/plain", String::new()));
    leaf.says(json!({"decision": "deny", "public_message": "leaf"}));
    let answer = line.chat(&chat("same")).await;
    assert_eq!(answer.json()["error"]["message"], "leaf");
    answer.assert_refused(&world, 403, "denied_by_webhook").await;
    leaf.says(json!({"decision": "allow"}));
    world
        .caller()
        .key(&key)
        .post(CHAT, &chat_stream("same"))
        .await
        .assert_refused(&world, 503, "authorization_unavailable")
        .await;
}

/// One of two is remembered and the other asked: each has decided twice, and one of them from memory.
#[tokio::test]
async fn what_is_remembered_is_counted_once() {
    let (stub, root, leaf) = (Stub::chatty().await, Receiver::start().await, Receiver::start().await);
    let mut setup = leaf.beside(root.guard(Setup::new(&stub), ""), "team", "cache_allow = \"0s\"");
    setup.grants.push_str("[[grant]]\nowner = \"acme/a\"\nwebhook = \"team\"\n");
    let world = setup.start().await;
    let key = world.key("acme/a/b").await;
    let mut line = world.caller().key(&key).h1().await;
    for _ in 0..2 {
        assert_eq!(line.chat(&chat("llama")).await.status, 200);
    }
    assert_eq!((root.count(), leaf.count()), (1, 2));
    for (figure, expected) in [
        ("lookups_total{webhook=\"iam\",lookup=\"hit\"}", 1.0),
        ("decisions_total{webhook=\"iam\",decision=\"allow\"}", 2.0),
        ("decisions_total{webhook=\"team\",decision=\"allow\"}", 2.0),
    ] {
        assert_eq!(world.metric(&format!("doorward_webhook_{figure}")).await, expected, "{figure}");
    }
}

/// What was revoked while the webhook was asked is refused, whatever the webhook says.
#[tokio::test]
async fn an_allow_does_not_revive_what_was_revoked_meanwhile() {
    let (stub, receiver) = (Stub::chatty().await, Receiver::start().await);
    let (world, key) = guarded(&stub, &receiver, "").await;
    let mut line = world.caller().key(&key).h1().await;
    receiver.open(false);
    let revoke = async {
        receiver.was_asked(1).await;
        let generation = world.generation();
        world.revoke_key(&key.id);
        world.changed_since(generation).await;
        receiver.open(true);
    };
    let body = chat("llama");
    let (answer, ()) = tokio::join!(line.chat(&body), revoke);
    answer.assert_refused(&world, 401, "invalid_credentials").await;
    assert!(stub.seen().is_empty());
}

/// A hundred equal requests at once are one question, and each has its record.
#[tokio::test]
async fn equal_requests_at_once_are_one_question() {
    let (stub, receiver) = (Stub::chatty().await, Receiver::start().await);
    let mut setup = receiver.guard(Setup::new(&stub), "");
    setup.workers = 2;
    let world = setup.start().await;
    let key = world.key("acme/x").await;
    let caller = world.caller().key(&key);
    receiver.open(false);
    let h2 = caller.h2().await;
    let mut lines: Vec<_> = (0..100).map(|_| h2.stream()).collect();
    let body = chat("llama");
    let all = join_all(lines.iter_mut().map(|line| line.chat(&body)));
    let release = async {
        receiver.was_asked(1).await;
        world.metric_becomes("doorward_webhook_lookups_total{webhook=\"iam\",lookup=\"joined\"}", 99.0).await;
        receiver.open(true);
    };
    let (answers, ()) = tokio::join!(all, release);
    assert!(answers.iter().all(|answer| answer.status == 200));
    assert_eq!(receiver.count(), 1);
    for record in world.all_records(100).await {
        assert_eq!(record["webhooks"], one("allow", Some("fresh")));
    }
    assert_eq!(world.metric("doorward_webhook_lookups_total{webhook=\"iam\",lookup=\"miss\"}").await, 1.0);
}

/// After five failures in a row it is left alone for ten seconds, then one question probes.
#[tokio::test]
async fn a_webhook_that_fails_is_left_alone() {
    let (stub, receiver) = (Stub::chatty().await, Receiver::start().await);
    let (world, key) = guarded(&stub, &receiver, "").await;
    let mut line = world.caller().key(&key).h1().await;
    receiver.answers(Manner::Raw(500, "text/plain", String::new()));
    for _ in 0..7 {
        line.chat(&chat("llama")).await.assert_refused(&world, 503, "authorization_unavailable").await;
    }
    assert_eq!(receiver.count(), 5);
    assert_eq!(world.metric("doorward_webhook_breaker{webhook=\"iam\"}").await, 2.0);
    assert_eq!(world.metric("doorward_webhook_errors_total{webhook=\"iam\",kind=\"resting\"}").await, 2.0);
    receiver.says(json!({"decision": "allow"}));
    world.clock.advance(10 * SECOND);
    assert_eq!(line.chat(&chat("llama")).await.status, 200);
    assert_eq!(world.metric("doorward_webhook_breaker{webhook=\"iam\"}").await, 0.0);
}

/// While a webhook hangs, its bound is reached at once and nobody else waits.
#[tokio::test]
async fn a_webhook_that_hangs_costs_only_its_own_callers() {
    let (stub, receiver) = (Stub::chatty().await, Receiver::start().await);
    let mut setup = receiver.beside(Setup::new(&stub), "iam", "max_in_flight = 4\ncache_allow = \"0s\"");
    setup.grants.push_str("[[grant]]\nowner = \"acme/slow\"\nwebhook = \"iam\"\n");
    let world = setup.start().await;
    let (slow, quick) = (world.key("acme/slow").await, world.key("acme/quick").await);
    receiver.open(false);
    let h2 = world.caller().key(&slow).h2().await;
    let mut hanging: Vec<_> = (0..4).map(|_| h2.stream()).collect();
    let bodies: Vec<String> = (1..5).map(|n| format!(r#"{{"model":"llama","max_tokens":{n}}}"#)).collect();
    let waiting = join_all(hanging.iter_mut().zip(&bodies).map(|(line, body)| line.chat(body)));
    let others = async {
        receiver.was_asked(4).await;
        let mut line = h2.stream();
        let refused = within(SECOND, "the bound refuses at once", line.chat(&chat("llama"))).await;
        refused.assert_refused(&world, 503, "authorization_unavailable").await;
        let mut line = world.caller().key(&quick).h1().await;
        for _ in 0..100 {
            assert_eq!(within(SECOND, "others go on", line.chat(&chat("llama"))).await.status, 200);
        }
        assert_eq!(receiver.count(), 4);
        receiver.open(true);
    };
    let (answers, ()) = tokio::join!(waiting, others);
    assert!(answers.iter().all(|answer| answer.status == 200));
}

/// A change of what a caller is and may do makes the webhook be asked anew.
#[tokio::test]
async fn what_was_decided_is_forgotten_when_rights_change() {
    use doorward::domain::owner::OwnerPath;
    let (stub, receiver) = (Stub::chatty().await, Receiver::start().await);
    let (mut world, key) = guarded(&stub, &receiver, "").await;
    let other = world.key("acme/other").await;
    let asks = async |world: &World, key: &Key| {
        let before = receiver.count();
        assert_eq!(world.caller().key(key).chat(&chat("llama")).await.status, 200);
        receiver.count() - before
    };
    assert_eq!((asks(&world, &key).await, asks(&world, &key).await, asks(&world, &other).await), (1, 0, 1));
    // A key that changes is asked about anew, and no other key.
    let generation = world.generation();
    let change = KeyChange { labels: Some(Labels::parse([("team", "a")]).unwrap()), ..KeyChange::default() };
    assert!(matches!(world.store().update_key(&key.id, &change, world.clock.now()).unwrap(), Updated::Changed(_)));
    world.changed_since(generation).await;
    assert_eq!((asks(&world, &key).await, asks(&world, &key).await, asks(&world, &other).await), (1, 0, 0));
    let generation = world.generation();
    world.store().revoke_key(&other.id, world.clock.now()).unwrap();
    world.changed_since(generation).await;
    world.caller().key(&other).chat(&chat("llama")).await.assert_refused(&world, 401, "invalid_credentials").await;
    assert_eq!(asks(&world, &key).await, 0);
    // An owner that was off and is on again.
    let owner = OwnerPath::parse("acme/research").unwrap();
    for disabled in [true, false] {
        let generation = world.generation();
        assert!(world.store().set_owner_disabled(&owner, disabled, world.clock.now()).unwrap());
        world.changed_since(generation).await;
    }
    assert_eq!((asks(&world, &key).await, asks(&world, &key).await), (1, 0));
    // A reload.
    let text = std::fs::read_to_string(&world.file).unwrap();
    world.reload(&text);
    assert_eq!((asks(&world, &key).await, asks(&world, &key).await), (1, 0));
}

//! What a webhook's overrides do, to requests and to replies under way; what has it asked again.

use std::time::Duration;

use doorward::domain::key::{KeyRecord, Uses};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};

use crate::support::{
    CHAT, Exchange, Flow, Key, LONG, Line, Manner, Receiver, Setup, Stub, World, chat, chat_stream, json_reply, live,
    until, within,
};

const SECOND: Duration = Duration::from_secs(1);
const ALL: &str = "allow_overrides = [\"max_tokens\", \"deadline_ms\", \"expires_at\", \"backend\", \"labels\"]\ncache_allow = \"0s\"\n";

async fn guarded(stub: &Stub, receiver: &Receiver, settings: &str) -> (World, Key) {
    let world = receiver.guard(Setup::new(stub).manual_clock(), settings).start().await;
    let key = world.key("acme/research/alice").await;
    (world, key)
}

/// The reply is cut, says why in its own words, and its record has the code.
async fn cut(world: &World, flow: Flow, exchange: Exchange, code: &str) -> Value {
    let id = flow.request_id();
    let ((text, broke), _) = tokio::join!(flow.end(), exchange.closed());
    assert!(broke.is_some() && !text.contains("[DONE]"), "a clean end after {text:?}");
    assert!(text.contains(code), "{text}");
    let record = world.record(&id).await;
    assert_eq!((&record["outcome"], &record["code"]), (&json!("ended"), &json!(code)), "{record}");
    record
}

#[tokio::test]
async fn fewer_tokens_are_asked_of_the_backend() {
    let (stub, receiver) = (Stub::chatty().await, Receiver::start().await);
    let (world, key) = guarded(&stub, &receiver, ALL).await;
    let mut line = world.caller().key(&key).h1().await;
    receiver.says(json!({"decision": "allow", "overrides": {"max_tokens": 256}}));
    for (asked, told, sent) in [
        (json!({"model": "llama"}), Value::Null, (256, 256)),
        (json!({"model": "llama", "max_tokens": 512}), json!(512), (256, 256)),
        (json!({"model": "llama", "max_tokens": 5, "max_completion_tokens": 4096}), json!(4096), (5, 256)),
        (json!({"model": "llama", "max_completion_tokens": null}), Value::Null, (256, 256)),
        (json!({"model": "llama", "max_tokens": 0}), Value::Null, (1, 256)),
    ] {
        assert_eq!(line.chat(&asked.to_string()).await.status, 200);
        assert_eq!(receiver.asked().pop().unwrap().body["request"]["max_tokens"], told);
        let forwarded: Value = serde_json::from_str(stub.seen().pop().unwrap().text()).unwrap();
        assert_eq!((&forwarded["max_tokens"], &forwarded["max_completion_tokens"]), (&json!(sent.0), &json!(sent.1)));
        assert_eq!(forwarded["model"], "org/llama-8b");
    }
}

/// A cap is one of the request: whoever asks for several replies shares it among them, and whoever asks for
/// more of them than there are tokens is refused before a use of the key is taken.
#[tokio::test]
async fn several_replies_share_the_tokens() {
    let (stub, receiver) = (Stub::chatty().await, Receiver::start().await);
    let (world, _) = guarded(&stub, &receiver, ALL).await;
    let uses = Some(Uses { left: 2, refund_on_failure: false });
    let key = world.key_like("acme/research/bob", |key| KeyRecord { uses, ..key }).await;
    let mut line = world.caller().key(&key).h1().await;
    receiver.says(json!({"decision": "allow", "overrides": {"max_tokens": 256}}));
    for (replies, told, sent) in [(json!({"n": 3}), 300, 85), (json!({"n": 2, "n_cmpl": 256, "best_of": 5}), 25_600, 1)]
    {
        let mut body = json!({"model": "llama", "max_tokens": 100});
        body.as_object_mut().unwrap().append(&mut replies.as_object().unwrap().clone());
        let too_many = json!({"model": "llama", "n": 257});
        let refused = line.chat(&too_many.to_string()).await;
        refused.assert_refused(&world, 403, "denied_by_webhook").await;
        assert!(refused.text().contains("256 tokens, and it asks for 257 replies"), "{}", refused.text());
        assert_eq!(line.chat(&body.to_string()).await.status, 200);
        assert_eq!(receiver.asked().pop().unwrap().body["request"]["max_tokens"], json!(told));
        let forwarded: Value = serde_json::from_str(stub.seen().pop().unwrap().text()).unwrap();
        assert_eq!((&forwarded["max_tokens"], &forwarded["max_completion_tokens"]), (&json!(sent), &json!(sent)));
    }
    assert_eq!(stub.seen().len(), 2);
}

/// What is not among `allow_overrides` narrows nothing; labels reach the record, with their prefix.
#[tokio::test]
async fn labels_reach_the_record_and_what_is_not_listed_does_nothing() {
    let (stub, receiver) = (Stub::chatty().await, Receiver::start().await);
    let (world, key) = guarded(&stub, &receiver, "allow_overrides = [\"labels\"]").await;
    receiver.says(json!({"decision": "allow",
                         "overrides": {"max_tokens": 1, "backend": "elsewhere", "labels": {"cost_center": "9\""}}}));
    let answer = world.caller().key(&key).chat(r#"{"model":"llama","max_tokens":7}"#).await;
    answer.assert_served();
    assert!(stub.only().text().contains("\"max_tokens\":7"));
    let record = world.record(answer.request_id()).await;
    let labels = json!({"wh.cost_center": "9\""});
    assert_eq!(record["webhooks"], json!([{"name": "iam", "decision": "allow", "source": "fresh", "labels": labels}]));
}

#[tokio::test]
async fn a_webhook_can_choose_the_backend() {
    let other = Stub::scripted(|_| json_reply(r#"{"from":"other"}"#)).await;
    let (stub, receiver) = (Stub::chatty().await, Receiver::start().await);
    let mut setup = receiver.guard(Setup::new(&stub), ALL);
    setup.backends = format!(
        "[[backend]]\nname = \"one\"\nurl = \"http://{}\"\ndialects = [\"openai\"]\n\
         [[backend]]\nname = \"two\"\nurl = \"http://{}\"\ndialects = [\"openai\"]\n\
         [[model]]\nname = \"llama\"\ntargets = [{{ backend = \"one\", model = \"a\" }}, {{ backend = \"two\", model = \"b\", priority = 2 }}]\n",
        stub.address, other.address
    );
    let world = setup.start().await;
    let key = world.key("acme/x").await;
    let mut line = world.caller().key(&key).h1().await;
    line.chat(&chat("llama")).await.assert_served();
    assert_eq!(receiver.asked()[0].body["route"]["candidates"], json!(["one", "two"]));
    receiver.says(json!({"decision": "allow", "overrides": {"backend": "two"}}));
    assert_eq!(line.chat(&chat("llama")).await.json(), json!({"from": "other"}));
    receiver.says(json!({"decision": "allow", "overrides": {"backend": "three"}}));
    line.chat(&chat("llama")).await.assert_refused(&world, 503, "authorization_unavailable").await;
    assert_eq!((stub.seen().len(), other.seen().len()), (1, 1));
}

#[tokio::test]
async fn a_reply_ends_when_the_webhook_says() {
    let (stub, receiver) = (Stub::by_hand().await, Receiver::start().await);
    let (world, key) = guarded(&stub, &receiver, ALL).await;
    let line = async || world.caller().key(&key).h1().await;
    let ends = world.clock.now().after(30 * SECOND);
    receiver.says(json!({"decision": "allow", "overrides": {"expires_at": ends.to_string()}}));
    let (flow, exchange) = live(&mut line().await, &stub).await;
    world.clock.advance(30 * SECOND);
    cut(&world, flow, exchange, "denied_by_webhook").await;
    receiver.says(json!({"decision": "allow", "overrides": {"deadline_ms": 5000}}));
    let (flow, exchange) = live(&mut line().await, &stub).await;
    world.clock.advance(5 * SECOND);
    cut(&world, flow, exchange, "backend_timeout").await;
    // A time that has passed allows nothing.
    receiver.says(json!({"decision": "allow", "overrides": {"expires_at": ends.to_string()}}));
    line().await.chat(&chat("llama")).await.assert_refused(&world, 403, "denied_by_webhook").await;
    // No more does no time at all.
    receiver.says(json!({"decision": "allow", "overrides": {"deadline_ms": 0}}));
    let before = stub.seen().len();
    line().await.chat(&chat("llama")).await.assert_refused(&world, 504, "backend_timeout").await;
    assert_eq!(stub.seen().len(), before);
}

/// While a reply streams the webhook is asked again, past what is remembered; a denial ends it, an
/// allow does not, and with `on_error = "deny"` a failure does.
#[tokio::test]
async fn replies_are_asked_about_again() {
    let (stub, receiver) = (Stub::by_hand().await, Receiver::start().await);
    let (world, key) = guarded(&stub, &receiver, "revalidate = \"30s\"\ncache_allow = \"5m\"").await;
    let mut line = world.caller().key(&key).h1().await;
    let (flow, exchange) = live(&mut line, &stub).await;
    assert_eq!(receiver.count(), 1);
    world.clock.advance(30 * SECOND);
    receiver.was_asked(2).await;
    receiver.says(json!({"decision": "deny", "reason": "left the company"}));
    // The pause begins anew when it was asked, which was a moment ago: a while later it is due for certain.
    within(LONG, "the webhook is asked once more", async {
        while receiver.count() < 3 {
            world.clock.advance(30 * SECOND);
            let _ = tokio::time::timeout(2 * SECOND, receiver.was_asked(3)).await.is_ok();
        }
    })
    .await;
    let record = cut(&world, flow, exchange, "denied_by_webhook").await;
    assert_eq!(record["detail"], "webhook iam denied: left the company");
    // Receivers refuse ids that they have seen.
    let ids: std::collections::HashSet<_> =
        receiver.asked().iter().map(|asked| asked.header("webhook-id").to_owned()).collect();
    assert_eq!(ids.len(), receiver.count());

    receiver.says(json!({"decision": "allow"}));
    world.clock.advance(60 * SECOND);
    let mut line = world.caller().key(&key).h1().await;
    let (flow, exchange) = live(&mut line, &stub).await;
    receiver.answers(Manner::Raw(500, "text/plain", String::new()));
    world.clock.advance(30 * SECOND);
    cut(&world, flow, exchange, "authorization_unavailable").await;
}

/// A webhook that takes its time to answer is not asked less often for it.
#[tokio::test]
async fn the_time_of_an_answer_puts_no_question_off() {
    let (stub, receiver) = (Stub::by_hand().await, Receiver::start().await);
    let (world, key) = guarded(&stub, &receiver, "revalidate = \"30s\"\ntimeout = \"10s\"").await;
    let mut line = world.caller().key(&key).h1().await;
    let (flow, exchange) = live(&mut line, &stub).await;
    receiver.open(false);
    world.clock.advance(30 * SECOND);
    receiver.was_asked(2).await;
    world.clock.advance(20 * SECOND);
    receiver.open(true);
    world.clock.advance(10 * SECOND);
    receiver.was_asked(3).await;
    drop((flow, exchange));
}

/// Failing open takes both words when it happens: a reply that began when there were two is asked
/// about by what the grants say now.
#[tokio::test]
async fn a_word_for_failing_open_can_be_taken_back() {
    let (stub, receiver) = (Stub::by_hand().await, Receiver::start().await);
    let mut setup = receiver
        .guard(Setup::new(&stub).manual_clock(), "revalidate = \"30s\"\non_error = \"allow\"\ncache_allow = \"0s\"");
    let open = "webhook = \"iam\"\naccept_fail_open = true\n";
    setup.grants = setup.grants.replacen("webhook = \"iam\"\n", open, 1);
    let mut world = setup.start().await;
    let key = world.key("acme/research/alice").await;
    let mut line = world.caller().key(&key).h1().await;
    let (flow, exchange) = live(&mut line, &stub).await;
    let text = std::fs::read_to_string(&world.file).unwrap();
    world.reload(&text.replacen("accept_fail_open = true\n", "", 1));
    receiver.answers(Manner::Raw(500, "text/plain", String::new()));
    world.clock.advance(30 * SECOND);
    cut(&world, flow, exchange, "authorization_unavailable").await;
}

/// Who asks again is gone with the reply.
#[tokio::test]
async fn nobody_asks_about_a_reply_that_is_over() {
    let (stub, receiver) = (Stub::by_hand().await, Receiver::start().await);
    let (world, key) = guarded(&stub, &receiver, "revalidate = \"30s\"").await;
    let mut line = world.caller().key(&key).h1().await;
    let (flow, exchange) = live(&mut line, &stub).await;
    drop((flow, line));
    exchange.closed().await;
    world.all_records(1).await;
    world.clock.advance(3600 * SECOND);
    let mut other = world.caller().key(&key).h1().await;
    let asked = receiver.count();
    let (flow, exchange) = live(&mut other, &stub).await;
    assert_eq!(receiver.count(), asked + 1);
    drop((flow, exchange));
}

/// An answer of any kind: some right, most not.
fn answers() -> impl Strategy<Value = Value> {
    let decision = prop_oneof![
        Just(json!("allow")),
        Just(json!("deny")),
        Just(json!("Allow")),
        Just(json!(true)),
        Just(Value::Null)
    ];
    let status =
        prop_oneof![Just(Value::Null), Just(json!(200)), Just(json!(403)), Just(json!(429)), Just(json!("403"))];
    let id = prop_oneof![8 => Just(json!("ID")), 1 => Just(json!("other")), 1 => Just(Value::Null)];
    let version = prop_oneof![8 => Just(json!(1)), 1 => Just(json!(2)), 1 => Just(json!("1"))];
    let tokens = prop_oneof![Just(Value::Null), (0u64..1000).prop_map(Value::from), Just(json!(-1)), Just(json!("5"))];
    let backend = prop_oneof![Just(Value::Null), Just(json!("stub")), Just(json!("elsewhere"))];
    (decision, status, id, version, tokens, backend).prop_map(|(decision, status, id, version, tokens, backend)| {
        json!({"version": version, "request_id": id, "decision": decision, "status": status, "ttl_s": 0,
               "overrides": {"max_tokens": tokens, "backend": backend}})
    })
}

async fn tokens_sent(line: &mut Line, stub: &Stub, body: &str) -> Option<u64> {
    let before = stub.seen().len();
    let answer = line.post(CHAT, body).await;
    let seen = stub.seen();
    assert_eq!(seen.len() - before, usize::from(answer.status == 200), "{answer:?}");
    let sent = seen.get(before)?;
    serde_json::from_str::<Value>(sent.text()).unwrap()["max_tokens"].as_u64()
}

/// Whatever the webhook answers: nothing passes that local checks refuse, and of what they let
/// through nothing passes that the webhook did not allow, nor with more than was asked for.
#[tokio::test]
async fn whatever_a_webhook_answers_what_is_admitted_never_grows() {
    let (stub, receiver) = (Stub::chatty().await, Receiver::start().await);
    let (world, key) = guarded(&stub, &receiver, ALL).await;
    let narrow = world.key_with("acme/x", None, &[], &[], &["same"]).await;
    let (mut line, mut refused) = (world.caller().key(&key).h1().await, world.caller().key(&narrow).h1().await);
    let mut runner = TestRunner::deterministic();
    let (mut passed, mut turned_away) = (0, 0);
    for _ in 0..200 {
        let answer = answers().new_tree(&mut runner).unwrap().current();
        receiver.answers(Manner::Raw(200, "application/json", answer.to_string()));
        assert_eq!(refused.chat(&chat("llama")).await.status, 404, "{answer}");
        match tokens_sent(&mut line, &stub, r#"{"model":"llama","max_tokens":512}"#).await {
            Some(sent) => {
                passed += 1;
                assert!(sent <= 512, "{answer}");
                assert_eq!(
                    (&answer["decision"], &answer["request_id"], &answer["version"]),
                    (&json!("allow"), &json!("ID"), &json!(1))
                );
                assert!(answer["overrides"]["max_tokens"].as_u64().is_none_or(|most| sent <= most.max(1)), "{answer}");
                assert_ne!(answer["overrides"]["backend"], "elsewhere");
            }
            None => turned_away += 1,
        }
        // Its breaker never rests for longer.
        world.clock.advance(60 * SECOND);
    }
    assert!(passed > 5 && turned_away > 100, "{passed} and {turned_away}");
}

/// An operator can have decisions forgotten: of a key, of an owner, or all.
#[tokio::test]
async fn decisions_are_forgotten_when_an_operator_says_so() {
    let (stub, receiver) = (Stub::chatty().await, Receiver::start().await);
    let (world, alice) = guarded(&stub, &receiver, "").await;
    let bob = world.key("acme/sales/bob").await;
    let mut socket = world.socket().await;
    let ask = async || {
        let before = receiver.count();
        for key in [&alice, &bob] {
            world.caller().key(key).chat(&chat("llama")).await.assert_served();
        }
        receiver.count() - before
    };
    assert_eq!((ask().await, ask().await), (2, 0));
    let id = alice.id.to_string();
    for (what, forgotten) in [
        (json!({"key": id}), 1),
        (json!({"owner": "acme/sales"}), 1),
        (json!({"owner": "acme/sal"}), 0),
        (json!({"all": true}), 2),
    ] {
        let answer = socket.post("/v1/webhook/invalidate", &what.to_string()).await;
        assert_eq!((answer.status, answer.json()), (200, json!({"forgotten": forgotten})), "{what}");
        assert_eq!(ask().await, forgotten, "{what}");
    }
    for wrong in
        [json!({}), json!({"all": false}), json!({"all": true, "key": id}), json!({"owner": "A"}), json!({"keys": []})]
    {
        let answer = socket.post("/v1/webhook/invalidate", &wrong.to_string()).await;
        assert_eq!(answer.status, 400, "{wrong}");
    }
    assert_eq!(ask().await, 0);
    // What is asked for at the moment is not remembered.
    receiver.open(false);
    let (mut line, body, asked) = (world.caller().key(&alice).h1().await, chat("same"), receiver.count());
    let forget = async {
        receiver.was_asked(asked + 1).await;
        assert_eq!(socket.post("/v1/webhook/invalidate", r#"{"all":true}"#).await.status, 200);
        receiver.open(true);
    };
    let (answer, ()) = tokio::join!(line.chat(&body), forget);
    answer.assert_served();
    line.chat(&body).await.assert_served();
    line.chat(&body).await.assert_served();
    assert_eq!(receiver.count(), asked + 2);
}

/// A reload while the webhook is asked: what it says counts for the config that asked it, so it is
/// asked again; a grant that names no webhook any more needs none.
#[tokio::test]
async fn a_reload_while_it_is_asked() {
    let (stub, receiver) = (Stub::chatty().await, Receiver::start().await);
    let (mut world, key) = guarded(&stub, &receiver, "").await;
    let text = std::fs::read_to_string(&world.file).unwrap();
    let mut line = world.caller().key(&key).h1().await;
    receiver.open(false);
    let body = chat("llama");
    let request = tokio::spawn(async move { line.chat(&body).await });
    receiver.was_asked(1).await;
    world.reload(&text);
    receiver.open(true);
    request.await.unwrap().assert_served();
    assert_eq!(receiver.count(), 2);
    let revisions: Vec<_> =
        receiver.asked().iter().map(|asked| asked.body["gateway"]["config_revision"].clone()).collect();
    assert_eq!(revisions, [json!(1), json!(2)]);
    let asked = receiver.asked();
    assert_eq!(asked[1].header("webhook-id"), format!("{}_1", asked[0].header("webhook-id")));
    world.reload(&text.replacen("webhook = \"iam\"\n", "", 1));
    world.caller().key(&key).post(CHAT, &chat_stream("same")).await.assert_served();
    assert_eq!(receiver.count(), 2);
    until(LONG, "records are written", || (world.records().len() == 2).then_some(())).await;
}

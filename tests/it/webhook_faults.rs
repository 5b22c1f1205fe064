//! Everything that can be wrong with a webhook that is asked, in every mode of `on_error`: a real
//! gateway, and a server over TLS that misbehaves as no honest one would.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::{
    Answer, CHAT, Hook, Key, LONG, Line, Message, Play, Setup, Stub, Whole, World, chat, dead_port, until,
};

const SECOND: Duration = Duration::from_secs(1);

/// The modes: the owner and its webhook are called so. `half` is fail-open in one word of two.
const MODES: [(&str, &str, &str); 4] = [
    ("deny", "on_error = \"deny\"", ""),
    ("stale", "on_error = \"stale\"\nstale_max = \"60s\"\ncache_allow = \"1s\"", ""),
    ("open", "on_error = \"allow\"", "accept_fail_open = true"),
    ("half", "on_error = \"allow\"", ""),
];

/// One gateway with a caller in each mode, and one webhook behind all of them.
struct Scene {
    world: World,
    stub: Stub,
    hook: Hook,
    /// In the order of [`MODES`].
    callers: Vec<Line>,
}

/// A gateway in which [`MODES`] are, with webhooks at the URL of `hook` or at another.
pub(crate) fn modes(stub: &Stub, hook: &Hook, url: &str) -> Setup {
    let mut setup = Setup::new(stub).manual_clock();
    for (mode, on_error, accept) in MODES {
        let settings = format!("timeout = \"1s\"\nconnect_timeout = \"900ms\"\n{url}\n{on_error}");
        setup.more += &hook.section(mode, &settings);
        setup.files.push(hook.file(mode));
        setup.grants += &format!("[[grant]]\nowner = \"acme/{mode}\"\nwebhook = \"{mode}\"\n{accept}\n");
    }
    setup
}

impl Scene {
    async fn set() -> Self {
        let (stub, hook) = (Stub::chatty().await, Hook::start(allow()).await);
        let world = modes(&stub, &hook, "").start().await;
        let callers = callers(&world).await;
        Self { world, stub, hook, callers }
    }

    /// Asks in all modes at once.
    async fn ask(&mut self) -> Vec<Whole> {
        ask(&mut self.callers).await
    }

    async fn ask_in(&mut self, mode: &str) -> Whole {
        let place = MODES.iter().position(|(name, ..)| *name == mode).unwrap();
        self.callers[place].post(CHAT, &chat("llama")).await
    }

    /// What becomes of a fault: nothing passes but what was allowed a moment ago, where that counts,
    /// and what was said twice to be let through.
    async fn suffers(&mut self, fault: &str, play: Play, kind: &str) {
        // Nothing of what was before counts any more, with caches and breakers.
        self.world.clock.advance(120 * SECOND);
        self.hook.play(allow());
        self.ask_in("stale").await.assert_served();
        self.world.clock.advance(2 * SECOND);
        self.hook.play(play);
        let counted = format!("doorward_webhook_errors_total{{webhook=\"deny\",kind=\"{kind}\"}}");
        let errors = self.world.metric(&counted).await;
        let before = self.stub.seen().len();
        let answers = self.ask().await;
        for (answer, (mode, ..)) in answers.iter().zip(MODES) {
            check(&self.world, answer, mode, mode == "stale", fault).await;
        }
        assert_eq!(self.stub.seen().len(), before + 2, "{fault}");
        let all = self.world.admin("/metrics").await;
        assert!((self.world.metric(&counted).await - errors - 1.0).abs() < 0.1, "{fault} is no {kind}: {all}");
        // What was allowed is too old now.
        self.world.clock.advance(120 * SECOND);
        let late = self.ask_in("stale").await;
        check(&self.world, &late, "stale", false, fault).await;
        // It was an error and no decision: nothing of it is left.
        self.hook.play(allow());
        for answer in self.ask().await {
            answer.assert_served();
        }
    }
}

/// A caller in each mode.
pub(crate) async fn callers(world: &World) -> Vec<Line> {
    let mut callers = Vec::new();
    for (mode, ..) in MODES {
        let key: Key = world.key(&format!("acme/{mode}")).await;
        callers.push(world.caller().key(&key).h1().await);
    }
    callers
}

/// Asks in all modes at once.
pub(crate) async fn ask(callers: &mut [Line]) -> Vec<Whole> {
    let body = chat("llama");
    join_all(callers.iter_mut().map(|line| line.post(CHAT, &body))).await
}

/// What a caller gets in a mode while its webhook fails, and what the record says of it.
pub(crate) async fn check(world: &World, answer: &Whole, mode: &str, remembered: bool, fault: &str) {
    let said = |decision: &str, source: &Value| json!([{"name": mode, "decision": decision, "source": source}]);
    let expected = match mode {
        "open" => Some(said("allow", &json!("fail_open"))),
        "stale" if remembered => Some(said("allow", &json!("stale"))),
        _ => None,
    };
    let record = match expected {
        Some(expected) => {
            assert_eq!(answer.status, 200, "{fault} in mode {mode}: {}", answer.text());
            answer.assert_served();
            let record = world.record(answer.request_id()).await;
            assert_eq!(record["webhooks"], expected, "{fault} in mode {mode}");
            record
        }
        None => {
            assert_eq!(answer.status, 503, "{fault} in mode {mode}: {}", answer.text());
            let record = answer.assert_refused(world, 503, "authorization_unavailable").await;
            assert_eq!(answer.header("retry-after"), Some("5"), "{fault}");
            assert_eq!(record["webhooks"], said("error", &Value::Null), "{fault} in mode {mode}");
            record
        }
    };
    assert!(!record.to_string().contains("<html>"), "{fault}: what was received is in the record");
}

/// An answer: a head without its framing, and what is made of the question.
fn reply(head: &'static str, body: impl Fn(&Message) -> Vec<u8> + Send + Sync + 'static) -> Answer {
    Arc::new(move |message| {
        let body = body(message);
        let mut bytes = format!("HTTP/1.1 {head}\r\ncontent-length: {}\r\n\r\n", body.len()).into_bytes();
        bytes.extend(body);
        bytes
    })
}

const JSON: &str = "200 OK\r\ncontent-type: application/json\r\nconnection: close";

/// A good answer. Connections are new for each question, so that what is wrong with them shows.
fn allowed() -> Answer {
    reply(JSON, |message| decision(message, &json!({"decision": "allow"})))
}

fn allow() -> Play {
    Play::Answer(allowed())
}

/// A decision about the question, with what else is said.
fn decision(message: &Message, more: &Value) -> Vec<u8> {
    let mut decision = json!({"version": 1, "request_id": message.json["request_id"]});
    decision.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    serde_json::to_vec(&decision).unwrap()
}

/// An answer whose body is `text`, with the question's id in the place of `ID`.
fn text(text: &'static str) -> Play {
    Play::Answer(reply(JSON, move |message| {
        text.replace("ID", message.json["request_id"].as_str().unwrap()).into_bytes()
    }))
}

/// A whole good answer under another head.
fn headed(head: &'static str) -> Play {
    Play::Answer(reply(head, |message| decision(message, &json!({"decision": "allow"}))))
}

/// Bytes as they are.
fn raw(bytes: impl Into<Vec<u8>>) -> Play {
    let bytes = bytes.into();
    Play::Answer(Arc::new(move |_| bytes.clone()))
}

#[tokio::test]
async fn promise_07_a_webhook_that_cannot_be_reached_never_opens_the_gate() {
    let mut scene = Scene::set().await;
    for (fault, play, kind) in [
        ("a reset at once", Play::Slam, "connect"),
        ("no TLS", Play::Babble, "tls"),
        ("an unknown authority", Play::Impostor, "tls"),
        ("another name", Play::Misnamed, "tls"),
    ] {
        scene.suffers(fault, play, kind).await;
    }
}

#[tokio::test]
async fn promise_07_a_webhook_that_is_slow_never_opens_the_gate() {
    let mut scene = Scene::set().await;
    let endless = {
        let mut bytes = b"HTTP/1.1 200 OK\r\n".to_vec();
        bytes.extend(b"x: y\r\n".repeat(50));
        bytes
    };
    for (fault, play, kind) in [
        ("silence after the question", Play::Silence, "timeout"),
        ("silence in the handshake", Play::Freeze, "timeout"),
        ("an answer byte by byte", Play::Drip(allowed(), Duration::from_millis(25)), "timeout"),
        ("half of a head", raw(endless), "timeout"),
        (
            "half of a body",
            raw(&b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 90\r\n\r\n{"[..]),
            "timeout",
        ),
        ("interim answers only", raw(&b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n"[..]), "timeout"),
    ] {
        scene.suffers(fault, play, kind).await;
    }
}

#[tokio::test]
async fn promise_07_an_answer_that_is_none_never_opens_the_gate() {
    let elsewhere = Hook::start(allow()).await;
    let away = format!("HTTP/1.1 302 Found\r\nlocation: {}\r\ncontent-length: 0\r\n\r\n", elsewhere.url());
    let html = "HTTP/1.1 403 Forbidden\r\ncontent-type: text/html\r\ncontent-length: 20\r\n\r\n<html>blocked</html>";
    let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
    let chunked = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";
    let padded = |message: &Message| {
        let mut body = decision(message, &json!({"decision": "allow"}));
        body.resize(70_000, b' ');
        body
    };
    let mut scene = Scene::set().await;
    for (fault, play, kind) in [
        ("500", headed("500 Internal Server Error\r\ncontent-type: application/json"), "status"),
        ("a proxy's 403", raw(html), "status"),
        ("a redirect", raw(away), "status"),
        ("201", headed("201 Created\r\ncontent-type: application/json"), "status"),
        ("nothing", raw(&b"HTTP/1.1 204 No Content\r\n\r\n"[..]), "status"),
        ("another protocol", raw(&b"SSH-2.0-OpenSSH_9.2\r\n"[..]), "broken"),
        ("too long", Play::Answer(reply(JSON, padded)), "too_long"),
        ("too long, in chunks", raw(format!("{chunked}{}", chunk.repeat(3))), "too_long"),
        (
            "compressed",
            Play::Answer(reply("200 OK\r\ncontent-type: application/json\r\ncontent-encoding: gzip", bomb)),
            "encoding",
        ),
        ("compressed unsaid", Play::Answer(reply(JSON, bomb)), "malformed"),
        ("text", headed("200 OK\r\ncontent-type: text/plain"), "content_type"),
        ("no type", headed("200 OK"), "content_type"),
        ("two types", headed("200 OK\r\ncontent-type: application/json\r\ncontent-type: text/html"), "content_type"),
        ("two lengths", headed("200 OK\r\ncontent-type: application/json\r\ncontent-length: 3"), "broken"),
        (
            "a length and chunks",
            headed("200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: gzip, chunked"),
            "broken",
        ),
    ] {
        scene.suffers(fault, play, kind).await;
    }
    assert_eq!(elsewhere.connections(), 0, "a redirect was followed");
}

/// A gzip stream that would be a megabyte of zeros; what it is does not matter, it is never unpacked.
fn bomb(_: &Message) -> Vec<u8> {
    let mut bytes = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 0xed, 0xc1, 0x01, 0x0d, 0, 0, 0, 0xc2, 0xa0, 0xf7, 0x4f];
    bytes.resize(1000, 0);
    bytes
}

#[tokio::test]
async fn promise_07_an_answer_that_does_not_count_never_opens_the_gate() {
    let mut scene = Scene::set().await;
    for (fault, play, kind) in [
        ("empty", text(""), "malformed"),
        ("no JSON", text("allow"), "malformed"),
        ("a list", text(r#"[{"version":1,"request_id":"ID","decision":"allow"}]"#), "malformed"),
        ("more behind it", text(r#"{"version":1,"request_id":"ID","decision":"allow"}{}"#), "malformed"),
        ("cut off", text(r#"{"version":1,"request_id":"ID","decision":"allow""#), "malformed"),
        ("another id", text(r#"{"version":1,"request_id":"ID-","decision":"allow"}"#), "other_request"),
        ("no id", text(r#"{"version":1,"decision":"allow"}"#), "malformed"),
        (
            "a decision twice",
            text(r#"{"version":1,"request_id":"ID","decision":"deny","decision":"allow"}"#),
            "malformed",
        ),
        (
            "twice, spelled differently",
            text(r#"{"version":1,"request_id":"ID","decision":"deny","d\u0065cision":"allow"}"#),
            "malformed",
        ),
        ("an unknown decision", text(r#"{"version":1,"request_id":"ID","decision":"Allow"}"#), "malformed"),
        ("no decision", text(r#"{"version":1,"request_id":"ID"}"#), "malformed"),
        ("true", text(r#"{"version":1,"request_id":"ID","decision":true}"#), "malformed"),
        ("another version", text(r#"{"version":2,"request_id":"ID","decision":"allow"}"#), "malformed"),
        ("no version", text(r#"{"request_id":"ID","decision":"allow"}"#), "malformed"),
        ("OPA's own answer", text(r#"{"result":{"version":1,"request_id":"ID","decision":"allow"}}"#), "malformed"),
        (
            "a denial with a status of success",
            text(r#"{"version":1,"request_id":"ID","decision":"deny","status":200}"#),
            "malformed",
        ),
        (
            "an override that nobody knows",
            text(r#"{"version":1,"request_id":"ID","decision":"allow","overrides":{"model":"same"}}"#),
            "malformed",
        ),
    ] {
        scene.suffers(fault, play, kind).await;
    }
}

/// Wherever the connection breaks: until the answer is whole there is none. That goes for a denial
/// too, which is none before it is whole.
#[tokio::test]
async fn promise_07_a_reset_at_each_byte_of_an_answer_never_opens_the_gate() {
    let denied = || reply(JSON, |message| decision(message, &json!({"decision": "deny", "status": 403})));
    let mut scene = Scene::set().await;
    let length = {
        scene.ask_in("deny").await.assert_served();
        allowed()(&scene.hook.seen()[0]).len()
    };
    for count in 0..length {
        // So long that an open breaker lets one question through.
        scene.world.clock.advance(120 * SECOND);
        let asked = scene.hook.seen().len();
        scene.hook.play(Play::Cut(if count % 2 == 0 { allowed() } else { denied() }, count));
        for (answer, (mode, ..)) in scene.ask().await.iter().zip(MODES) {
            let expected = if mode == "open" { 200 } else { 503 };
            assert_eq!(answer.status, expected, "after {count} bytes in mode {mode}: {}", answer.text());
        }
        assert_eq!(scene.hook.seen().len(), asked + MODES.len(), "after {count} bytes: each was asked");
    }
    scene.world.clock.advance(120 * SECOND);
    scene.hook.play(allow());
    let asked = scene.hook.seen().len();
    for answer in scene.ask().await {
        answer.assert_served();
    }
    assert_eq!(scene.hook.seen().len(), asked + MODES.len(), "each of them was asked");
    // Only fail-open passed meanwhile; the first and the last four were allowed.
    assert_eq!(scene.stub.seen().len(), length + 1 + MODES.len());
}

/// Every second answer is an error: no error is taken for the answer before it, and no question is
/// answered by the one after.
#[tokio::test]
async fn promise_07_a_flapping_webhook_never_opens_the_gate() {
    let mut scene = Scene::set().await;
    for round in 0..20 {
        // A pace at which no breaker opens.
        scene.world.clock.advance(4 * SECOND);
        let good = round % 2 == 0;
        scene.hook.play(if good { allow() } else { text("{}") });
        let (deny, half) = (scene.ask_in("deny").await, scene.ask_in("half").await);
        // The webhook allows for 30 s when it says nothing else: what it has allowed counts.
        for answer in [deny, half] {
            answer.assert_served();
        }
    }
    let forgetful =
        || Play::Answer(reply(JSON, |message| decision(message, &json!({"decision": "allow", "ttl_s": 0}))));
    scene.world.clock.advance(120 * SECOND);
    for round in 0..20 {
        scene.world.clock.advance(4 * SECOND);
        let good = round % 2 == 0;
        scene.hook.play(if good { forgetful() } else { text("{}") });
        for mode in ["deny", "half", "stale"] {
            let answer = scene.ask_in(mode).await;
            assert_eq!(answer.status, if good { 200 } else { 503 }, "round {round} in mode {mode}");
        }
    }
    // Without a pace the breaker opens; then nothing is asked, and nothing passes.
    scene.hook.play(text("{}"));
    for _ in 0..5 {
        assert_eq!(scene.ask_in("deny").await.status, 503);
    }
    scene.hook.play(forgetful());
    let asked = scene.hook.seen().len();
    for _ in 0..3 {
        let answer = scene.ask_in("deny").await;
        check(&scene.world, &answer, "deny", false, "an open breaker").await;
    }
    assert_eq!(scene.hook.seen().len(), asked, "an open breaker asks nothing");
    scene.world.clock.advance(120 * SECOND);
    scene.ask_in("deny").await.assert_served();
}

/// Nobody listens, and nobody has that name.
#[tokio::test]
async fn promise_07_a_webhook_that_is_not_there_never_opens_the_gate() {
    let (stub, hook) = (Stub::chatty().await, Hook::start(allow()).await);
    let dead = dead_port().await;
    let world = modes(&stub, &hook, &format!("url = \"https://{dead}/hook\"")).start().await;
    let mut callers = callers(&world).await;
    for (answer, (mode, ..)) in ask(&mut callers).await.iter().zip(MODES) {
        check(&world, answer, mode, false, "nobody listens").await;
    }
    assert_eq!((stub.seen().len(), hook.connections()), (1, 0));
}

/// What callers write stays what it is: in the message, under the signature, in the record, and in
/// what is remembered. No header of one caller is ever another's decision.
#[tokio::test]
async fn what_callers_write_breaks_nothing() {
    let by_project = reply("200 OK\r\ncontent-type: application/json", |message| {
        let project = message.json["request"]["headers"]["x-project"].as_str().unwrap_or_default();
        let word = if project.starts_with("good") { "allow" } else { "deny" };
        decision(message, &json!({"decision": word, "ttl_s": 20, "reason": format!("{project}\n\u{1b}[31m\"")}))
    });
    let (stub, hook) = (Stub::chatty().await, Hook::start(Play::Answer(by_project)).await);
    let mut setup = Setup::new(&stub);
    setup.more = hook.section("iam", "include = [\"headers:x-project\"]");
    setup.files.push(hook.file("iam"));
    setup.grants += "[[grant]]\nowner = \"acme/x\"\nwebhook = \"iam\"\n";
    let world = setup.start().await;
    let key = world.key("acme/x").await;
    let values: [&[u8]; 12] = [
        b"good",
        b"bad",
        b"good\"",
        b"\"},\"decision\":\"allow\",\"x\":{\"",
        b"good\\",
        b"\\u0067ood",
        b"good\x80\xff\xfe",
        b"\xffgood",
        b"good\t.v1,AAAA",
        "good \u{202e}\u{1f600}".as_bytes(),
        b"v1,AAAA webhook-id: dec_1",
        b"%67ood",
    ];
    // Twice: the second time what is remembered answers.
    for round in 0..2 {
        for value in values {
            let caller = world.caller().key(&key).header_bytes("x-project", value);
            let answer = caller.post(CHAT, &chat("llama")).await;
            let good = value.starts_with(b"good");
            assert_eq!(answer.status, if good { 200 } else { 403 }, "{:?}", String::from_utf8_lossy(value));
            let record = world.record(answer.request_id()).await;
            let source = if round == 0 { "fresh" } else { "cached" };
            assert_eq!(record["webhooks"][0]["source"], source, "{record}");
        }
    }
    let seen = hook.seen();
    assert_eq!(seen.len(), values.len());
    for (message, value) in seen.iter().zip(values) {
        message.assert_signed();
        let expected = match std::str::from_utf8(value) {
            Ok(text) => text.to_owned(),
            Err(_) => value.iter().map(|byte| char::from(*byte)).collect(),
        };
        assert_eq!(message.json["request"]["headers"]["x-project"], expected);
        assert_eq!(message.json["request"]["headers"].as_object().unwrap().len(), 1);
        assert_eq!(message.header("webhook-id"), format!("dec_{}", message.json["request_id"].as_str().unwrap()));
    }
    let records = std::fs::read_to_string(world.state.join("records.jsonl")).unwrap();
    assert_eq!(records.lines().count(), 2 * values.len());
    for line in records.lines() {
        assert!(serde_json::from_str::<Value>(line).is_ok() && !line.contains('\u{1b}'), "{line}");
    }
}

/// Whatever becomes of questions, notifications go out; whatever becomes of notifications, questions
/// are answered.
#[tokio::test]
async fn questions_and_notifications_share_no_failure() {
    let (stub, hook) = (Stub::chatty().await, Hook::start(allow()).await);
    let is_question = |message: &Message| message.json["type"] == "doorward.request.validate";
    let mut setup = Setup::new(&stub).manual_clock();
    setup.more = hook.section("iam", "cache_allow = \"0s\"\nevents = [\"doorward.event.key.revoked\"]");
    setup.files.push(hook.file("iam"));
    setup.grants += "[[grant]]\nowner = \"acme/x\"\nwebhook = \"iam\"\n";
    let world = setup.start().await;
    let key = world.key("acme/x").await;
    let mut line = world.caller().key(&key).h1().await;

    // Questions fail until the breaker opens; what is told arrives all the same.
    hook.play(Play::Answer(Arc::new(move |message| {
        if is_question(message) {
            b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n".to_vec()
        } else {
            b"HTTP/1.1 204 No Content\r\n\r\n".to_vec()
        }
    })));
    for _ in 0..7 {
        assert_eq!(line.post(CHAT, &chat("llama")).await.status, 503);
    }
    let told = |hook: &Hook| hook.seen().iter().filter(|message| !is_question(message)).count();
    let other = world.make_key("acme/y", None, &[], &[], &[]);
    world.revoke_key(&other.id);
    until(LONG, "it is told", || (told(&hook) == 1).then_some(())).await;

    // What is told fails; questions are answered.
    world.clock.advance(120 * SECOND);
    hook.play(Play::Answer(Arc::new(move |message| {
        if is_question(message) {
            allowed()(message)
        } else {
            b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n".to_vec()
        }
    })));
    for _ in 0..10 {
        let other = world.make_key("acme/y", None, &[], &[], &[]);
        world.revoke_key(&other.id);
        line.post(CHAT, &chat("llama")).await.assert_served();
    }
}

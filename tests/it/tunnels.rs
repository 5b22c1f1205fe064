//! Backends behind connectors: the gateway's end of the tunnels, with a connector made by hand.

use std::time::Duration;

use bytes::Bytes;
use doorward::domain::identity::Role;
use doorward::overlay::hub::Pace;
use h2::{Reason, SendStream};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;

use crate::support::{
    Asked, CHAT, Caller, Flow, Issued, LONG, Line, Setup, Site, Stub, World, chat, chat_stream, dialler, register,
    reset_of, until, within,
};

const SECOND: Duration = Duration::from_secs(1);
const SSE: &[(&str, &str)] = &[("content-type", "text/event-stream")];
const EVENT: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n";
const DONE: &str = "data: [DONE]\n\n";

/// One model behind `site-a`, under two names; and one that is given to another connector.
const BACKENDS: &str = r#"
[[backend]]
name = "vllm-a"
connector = "site-a"
dialects = ["openai", "anthropic", "ollama"]
timeouts = { connect = "300ms" }

[[backend]]
name = "vllm-b"
connector = "site-b"
dialects = ["openai"]

[[model]]
name = "llama"
targets = [{ backend = "vllm-a", model = "org/llama" }]

[[model]]
name = "foreign"
targets = [{ backend = "vllm-b", model = "m" }]
"#;

/// A gateway with [`BACKENDS`] and more.
async fn world_with(more: &str, pace: Pace) -> World {
    let stub = Stub::by_hand().await;
    let mut setup = Setup::new(&stub);
    setup.backends = format!("{BACKENDS}{more}");
    setup.pace = pace;
    setup.start().await
}

async fn world() -> World {
    world_with("", Pace::default()).await
}

fn site_a(world: &World) -> Issued {
    world.certificate_as(Role::Connector, "site-a", None)
}

async fn caller(world: &World) -> Caller {
    world.caller().key(&world.key("acme/x").await)
}

/// A gateway, and a connector that serves `vllm-a`.
async fn connected() -> (World, Site) {
    let world = world().await;
    let site = Site::registered(&world, &site_a(&world), "one", &["vllm-a"]).await;
    (world, site)
}

/// A chat that streams: what the caller reads, and what the connector answers with.
async fn streaming(line: &mut Line, site: &mut Site) -> (Flow, Asked, SendStream<Bytes>) {
    let request = chat_stream("llama");
    let answer = async {
        let mut asked = site.next().await;
        let stream = asked.begin(SSE);
        (asked, stream)
    };
    let (response, (asked, stream)) = tokio::join!(line.begin(CHAT, &request), answer);
    (Flow::of(response), asked, stream)
}

/// A chat goes through, under the backend's name and a path from the table; and its record is like
/// that of a direct backend.
#[tokio::test]
async fn a_chat_goes_through_a_tunnel() {
    let (world, mut site) = connected().await;
    let caller = caller(&world).await.header("anthropic-version", "2023-06-01").header("cookie", "a=b");
    for mut line in caller.both().await {
        let answer = async {
            let mut asked = site.next().await;
            assert_eq!(asked.request.method(), "POST");
            assert_eq!(asked.request.uri().to_string(), "https://vllm-a/v1/chat/completions");
            let body = asked.body().await;
            assert_eq!(asked.headers()["content-length"], body.len().to_string().as_str());
            let mut names: Vec<_> = asked.headers().keys().map(|name| name.as_str().to_owned()).collect();
            names.sort();
            assert_eq!(names, ["anthropic-version", "content-length", "content-type", "x-request-id"]);
            asked.chat();
            String::from_utf8(body).unwrap()
        };
        let request = chat("llama");
        let (whole, body) = tokio::join!(line.chat(&request), answer);
        whole.assert_served();
        assert_eq!(whole.json()["model"], "llama");
        assert_eq!(body, chat("org/llama"));
        let record = world.record(whole.request_id()).await;
        assert_eq!(
            (&record["outcome"], &record["backend"], &record["target"], &record["status"]),
            (&json!("forwarded"), &json!("vllm-a"), &json!("org/llama"), &json!(200)),
            "{record}"
        );
    }
}

/// Each event is with the caller before the next is said.
#[tokio::test]
async fn events_pass_one_by_one() {
    let (world, mut site) = connected().await;
    for mut line in caller(&world).await.both().await {
        let (mut flow, _asked, mut stream) = streaming(&mut line, &mut site).await;
        for count in 1..=5 {
            stream.send_data(Bytes::from(format!("data: {{\"n\":{count}}}\n\n")), false).unwrap();
            flow.until(&format!("{{\"n\":{count}}}")).await;
        }
        stream.send_data(Bytes::from(DONE), false).unwrap();
        stream.send_trailers(http::HeaderMap::from_iter([(http::header::ETAG, "x".parse().unwrap())])).unwrap();
        let id = flow.request_id();
        let (text, broke) = flow.end().await;
        assert_eq!((text.ends_with(DONE), broke), (true, None));
        assert_eq!(world.record(&id).await["outcome"], "forwarded");
    }
}

/// A request for `model` that is refused because nobody can be reached.
async fn no_backend(world: &World, caller: &Caller, model: &str) -> Value {
    caller.chat(&chat(model)).await.assert_refused(world, 503, "no_backend").await
}

/// Nobody is connected: the backend is a target that cannot be reached, and another one serves.
#[tokio::test]
async fn an_absent_connector_is_an_unreachable_target() {
    let stub = Stub::chatty().await;
    let more = format!(
        r#"
[[backend]]
name = "direct"
url = "http://{}"
dialects = ["openai"]

[[model]]
name = "either"
targets = [{{ backend = "vllm-a", model = "a" }}, {{ backend = "direct", model = "b", priority = 2 }}]
"#,
        stub.address
    );
    let world = world_with(&more, Pace::default()).await;
    let caller = caller(&world).await;
    let record = no_backend(&world, &caller, "llama").await;
    assert!(record["detail"].as_str().unwrap().contains("no connector is connected"), "{record}");
    let whole = caller.chat(&chat("either")).await;
    whole.assert_served();
    assert_eq!(world.record(whole.request_id()).await["backend"], "direct");

    // What its connector says of it counts too.
    let mut site = Site::registered(&world, &site_a(&world), "one", &["vllm-a"]).await;
    for state in ["down", "draining"] {
        site.say(&json!({"type": "health", "backend": "vllm-a", "state": state}));
        // What is not offered changes nothing.
        site.say(&json!({"type": "health", "backend": "vllm-b", "state": "up"}));
        site.say(&json!({"type": "something_of_later", "x": 1}));
        within(LONG, "the state is known", async {
            loop {
                let (mut line, request) = (caller.h1().await, chat("either"));
                tokio::select! {
                    whole = line.chat(&request) => {
                        whole.assert_served();
                        return;
                    }
                    mut asked = site.next() => asked.reply(503, &[("x-doorward-connector-error", "connect_failed")], ""),
                }
            }
        })
        .await;
        site.say(&json!({"type": "health", "backend": "vllm-a", "state": "up"}));
        within(LONG, "it is used again", async {
            loop {
                let (mut line, request) = (caller.h1().await, chat("either"));
                tokio::select! {
                    whole = line.chat(&request) => whole.assert_served(),
                    mut asked = site.next() => {
                        asked.chat();
                        return;
                    }
                }
            }
        })
        .await;
    }
}

/// Promise 8: a connector serves only the names that the gateway's config gives its certificate,
/// whatever it registers; and what a reload takes away is out of its reach.
#[tokio::test]
async fn promise_8_a_connector_serves_its_own_names_only() {
    let mut world = world().await;
    let caller = caller(&world).await;
    let mut site = Site::dial(&world, &site_a(&world)).await;
    site.say(&register("site-a", "one", 0, &["vllm-b", "vllm-a", "nobody"]));
    let answer = site.hear().await;
    assert_eq!((&answer["type"], &answer["accepted"]), (&json!("registered"), &json!(["vllm-a"])), "{answer}");
    let not_permitted = |name: &str| json!({"name": name, "code": "not_permitted"});
    // Of a name that is somebody else's and of one that is nobody's it hears the same.
    assert_eq!(answer["refused"], json!([not_permitted("vllm-b"), not_permitted("nobody")]));
    no_backend(&world, &caller, "foreign").await;
    assert!(site.is_untouched());

    // Taken away: and the tunnel stays, with a word about it.
    let text = std::fs::read_to_string(&world.file).unwrap();
    world.reload(&text.replace("connector = \"site-a\"", "connector = \"site-c\""));
    no_backend(&world, &caller, "llama").await;
    assert!(site.is_untouched());
    assert_eq!(site.hear().await["accepted"], json!([]));
    // And given, that which it had offered in vain.
    world.reload(&text.replace("connector = \"site-b\"", "connector = \"site-a\""));
    assert_eq!(site.hear().await["accepted"], json!(["vllm-b", "vllm-a"]));
    let request = chat("foreign");
    let (whole, ()) = tokio::join!(caller.chat(&request), async { site.next().await.chat() });
    whole.assert_served();
}

/// Who is no connector of this authority gets nowhere: no other role, no stranger, no other protocol.
#[tokio::test]
async fn only_connectors_are_let_in() {
    let world = world().await;
    let strangers = World::open(&Stub::by_hand().await).await;
    let issued = |role| world.certificate_as(role, "site-a", None);
    for (who, alpn) in [
        (issued(Role::Client), "doorward-connector/1"),
        (issued(Role::Operator), "doorward-connector/1"),
        (strangers.certificate_as(Role::Connector, "site-a", None), "doorward-connector/1"),
        (issued(Role::Connector), "h2"),
        (issued(Role::Connector), "http/1.1"),
    ] {
        let Ok(mut stream) = dialler(&world, &who).tls(&[alpn]).await else { continue };
        // In TLS 1.3 a refusal shows on the first read.
        let mut bytes = Vec::new();
        let end = within(LONG, "the connection ends", stream.read_to_end(&mut bytes)).await;
        assert!(bytes.is_empty(), "{end:?} {bytes:?}");
    }
    // No protocol at all passes the handshake, and no further.
    let mut stream = dialler(&world, &issued(Role::Connector)).tls(&[]).await.unwrap();
    let mut bytes = Vec::new();
    let _ = within(LONG, "the connection ends", stream.read_to_end(&mut bytes)).await.is_ok();
    assert!(bytes.is_empty());
    assert!(world.server.gateway().tunnels.is_empty());
    // Nor does a connector's certificate call.
    let connector = world.caller().certificate(&issued(Role::Connector));
    connector.chat(&chat("llama")).await.assert_refused(&world, 401, "invalid_credentials").await;
}

/// What comes instead of a good `register` is answered with a code, or not at all.
#[tokio::test]
async fn nothing_comes_before_a_good_register() {
    let world = world_with("", Pace { register: 2 * SECOND, ..Pace::default() }).await;
    let issued = site_a(&world);
    let good = register("site-a", "one", 0, &["vllm-a"]);
    let with = |field: &str, value: Value| {
        let mut object = good.clone();
        object[field] = value;
        format!("{object}\n").into_bytes()
    };
    let giant = [b"{\"type\":\"x\",\"pad\":\"".to_vec(), vec![b'x'; 20_000]].concat();
    for bytes in [
        // Data before register: a health report, another message, something that is no object.
        b"{\"type\":\"health\",\"backend\":\"vllm-a\",\"state\":\"up\"}\n".to_vec(),
        b"{\"type\":\"drain\"}\n".to_vec(),
        b"GET / HTTP/1.1\r\n\r\n\n".to_vec(),
        b"\n".to_vec(),
        giant.clone(),
        [giant, b"\"}\n".to_vec()].concat(),
        with("protocol", json!(2)),
        with("connector", json!("site-b")),
        with("conn_index", json!(8)),
        with("conn_index", json!(-1)),
        with("max_streams", json!(0)),
        with("backends", json!([])),
        with("backends", json!([{"name": "../etc", "max_concurrent": 1}])),
        with("backends", json!([{"name": "a", "max_concurrent": 1}, {"name": "a", "max_concurrent": 1}])),
        with("instance_id", json!("a\nb")),
    ] {
        let mut site = Site::dial(&world, &issued).await;
        site.say_bytes(bytes.clone());
        let answer = site.hear().await;
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(80)]).into_owned();
        assert_eq!(answer, json!({"type": "error", "code": "bad_register", "retry": "never"}), "{shown}");
        site.over().await;
    }
    // Silence, and a register that comes too slowly: the time is for the whole of it.
    let silent = Site::dial(&world, &issued).await;
    let mut slow = Site::dial(&world, &issued).await;
    slow.say_bytes(format!("{good}")[..40].to_owned());
    silent.over().await;
    slow.over().await;
    assert!(world.server.gateway().tunnels.is_empty());
    assert!(world.metric("doorward_tunnels_refused_total{reason=\"late\"}").await >= 2.0);

    // After a good one, the same bounds hold.
    for bytes in [b"{}\n".to_vec(), vec![b'x'; 20_000], format!("{good}\n").into_bytes()] {
        let mut site = Site::registered(&world, &issued, "one", &["vllm-a"]).await;
        site.say_bytes(bytes);
        assert_eq!(site.hear().await, json!({"type": "error", "code": "bad_message", "retry": "later"}));
        site.over().await;
        world.metric_becomes("doorward_tunnels", 0.0).await;
    }
}

/// Revoked in the middle of a stream: tunnel and stream end within a second, and the caller is not
/// told that all came.
#[tokio::test]
async fn a_revoked_connector_loses_tunnel_and_streams_at_once() {
    for by_name in [false, true] {
        let world = world().await;
        let issued = site_a(&world);
        let mut site = Site::registered(&world, &issued, "one", &["vllm-a"]).await;
        let mut line = caller(&world).await.h2().await;
        let (mut flow, _asked, mut stream) = streaming(&mut line, &mut site).await;
        stream.send_data(Bytes::from(EVENT), false).unwrap();
        flow.until(EVENT).await;
        let begun = tokio::time::Instant::now();
        if by_name {
            world.revoke_name("site-a");
        } else {
            world.revoke_certificate(&issued.serial);
        }
        assert_eq!(site.hear().await, json!({"type": "error", "code": "revoked", "retry": "never"}));
        let id = flow.request_id();
        assert_broken(&world, flow, &id).await;
        assert!(begun.elapsed() < SECOND, "{:?}", begun.elapsed());
        assert_eq!(reset_of(&mut stream).await, Reason::CANCEL);
        site.over().await;

        // The next one is refused.
        let mut again = Site::dial(&world, &issued).await;
        again.say(&register("site-a", "two", 0, &["vllm-a"]));
        assert_eq!(again.hear().await, json!({"type": "error", "code": "revoked", "retry": "never"}));
        again.over().await;
        assert_eq!(world.metric("doorward_tunnel_ends_total{connector=\"site-a\",reason=\"revoked\"}").await, 1.0);
        assert_eq!(world.metric("doorward_tunnel_streams{connector=\"site-a\"}").await, 0.0);
    }
}

/// A stream that broke off: an error in the stream, no terminator, no clean end.
async fn assert_broken(world: &World, flow: Flow, id: &str) {
    let (text, broke) = flow.end().await;
    assert!(text.contains("data: {\"error\":{"), "{text}");
    assert!(!text.contains("[DONE]"), "{text}");
    assert!(broke.is_some(), "a clean end: {text}");
    let record = world.record(id).await;
    assert_eq!((&record["outcome"], &record["code"]), (&json!("broken"), &json!("backend_broke")), "{record}");
}

/// The certificate's last second is the tunnel's too.
#[tokio::test]
async fn an_expired_connector_loses_its_tunnel() {
    let stub = Stub::by_hand().await;
    let mut setup = Setup::new(&stub).manual_clock();
    BACKENDS.clone_into(&mut setup.backends);
    let world = setup.start().await;
    let issued = site_a(&world);
    let mut site = Site::registered(&world, &issued, "one", &["vllm-a"]).await;
    let now = world.clock.now();
    world.clock.advance(issued.not_after.since(now) - Duration::from_millis(1));
    // Still good.
    let mut line = caller(&world).await.h1().await;
    let (flow, _asked, _stream) = streaming(&mut line, &mut site).await;
    world.clock.advance(Duration::from_millis(1));
    assert_eq!(site.hear().await, json!({"type": "drain", "reason": "cert_expiring", "deadline_s": 0}));
    let id = flow.request_id();
    assert_broken(&world, flow, &id).await;
    site.over().await;
}

/// However a stream is cut, the caller sees that it was.
#[tokio::test]
async fn a_cut_in_the_middle_is_seen() {
    let world = world().await;
    let issued = site_a(&world);
    for how in ["torn", "reset", "reset without an error", "too short"] {
        for mut line in caller(&world).await.both().await {
            let mut site = Site::registered(&world, &issued, "one", &["vllm-a"]).await;
            let request = chat_stream("llama");
            let answer = async {
                let mut asked = site.next().await;
                let short: &[_] = &[("content-type", "text/event-stream"), ("content-length", "5000")];
                let stream = asked.begin(if how == "too short" { short } else { SSE });
                (asked, stream)
            };
            let (response, (asked, mut stream)) = tokio::join!(line.begin(CHAT, &request), answer);
            let mut flow = Flow::of(response);
            stream.send_data(Bytes::from(EVENT), false).unwrap();
            flow.until(EVENT).await;
            let mut site = Some(site);
            match how {
                "torn" => drop(site.take()),
                "reset" => stream.send_reset(Reason::INTERNAL_ERROR),
                "reset without an error" => stream.send_reset(Reason::NO_ERROR),
                _ => drop((asked, stream)),
            }
            let id = flow.request_id();
            let (text, broke) = flow.end().await;
            assert!(broke.is_some() && !text.contains("[DONE]"), "{how}: {text}");
            assert_eq!(world.record(&id).await["outcome"], "broken", "{how}");
            drop(site);
            world.metric_becomes("doorward_tunnels", 0.0).await;
        }
    }
}

/// A reply of which only closing marks the end is whole with the dialect's terminator, and not
/// without it.
#[tokio::test]
async fn an_end_that_is_only_a_close_needs_the_terminator() {
    let (world, mut site) = connected().await;
    let ends: &[_] = &[("content-type", "text/event-stream"), ("x-doorward-connector-ends", "connection")];
    for (body, whole) in [(format!("{EVENT}{DONE}"), true), (EVENT.to_owned(), false)] {
        let mut line = caller(&world).await.h1().await;
        let request = chat_stream("llama");
        let answer = async { site.next().await.reply(200, ends, &body) };
        let (response, ()) = tokio::join!(line.begin(CHAT, &request), answer);
        assert!(!response.headers().contains_key("x-doorward-connector-ends"));
        let (text, broke) = Flow::of(response).end().await;
        assert_eq!(broke.is_none(), whole, "{text}");
    }
}

/// The caller leaves: the connector hears of it within a second, whether a reply has begun or not.
#[tokio::test]
async fn a_caller_who_leaves_resets_the_stream() {
    let (world, mut site) = connected().await;
    for _ in 0..2 {
        let mut line = caller(&world).await.h1().await;
        let request = chat_stream("llama");
        let mut asked = tokio::select! {
            _ = line.begin(CHAT, &request) => panic!("no reply was sent"),
            asked = site.next() => asked,
        };
        let begun = tokio::time::Instant::now();
        drop(line);
        assert_eq!(asked.reset().await, Reason::CANCEL);
        assert!(begun.elapsed() < SECOND);

        let mut line = caller(&world).await.h2().await;
        let (mut flow, _asked, mut stream) = streaming(&mut line, &mut site).await;
        stream.send_data(Bytes::from(EVENT), false).unwrap();
        flow.until(EVENT).await;
        drop(flow);
        assert_eq!(reset_of(&mut stream).await, Reason::CANCEL);
    }
    world.metric_becomes("doorward_tunnel_streams{connector=\"site-a\"}", 0.0).await;
    assert_eq!(world.metric("doorward_tunnels").await, 1.0);
}

/// What the connector itself answers is told from what a backend answers, and only what is safe to
/// send twice is.
#[tokio::test]
async fn errors_of_the_connector_are_not_the_backends() {
    let stub = Stub::chatty().await;
    let more = format!(
        r#"
[[backend]]
name = "direct"
url = "http://{}"
dialects = ["openai"]

[[model]]
name = "either"
targets = [{{ backend = "vllm-a", model = "a" }}, {{ backend = "direct", model = "b", priority = 2 }}]
"#,
        stub.address
    );
    let world = world_with(&more, Pace::default()).await;
    let mut site = Site::registered(&world, &site_a(&world), "one", &["vllm-a"]).await;
    let caller = caller(&world).await;
    let request = chat("either");
    let mut answered = async |error: &str, status| {
        let headers = [("x-doorward-connector-error", error)];
        let answer = async { site.next().await.reply(status, &headers, "10.0.0.7 refused") };
        tokio::join!(caller.chat(&request), answer).0
    };
    answered("connect_failed", 502).await.assert_served();
    assert_eq!(stub.seen().len(), 1);
    for (error, status, refused, code) in [
        ("timeout", 504, 504, "backend_timeout"),
        ("not_found", 404, 502, "backend_broke"),
        ("refused", 403, 502, "backend_broke"),
        ("something_new", 500, 502, "backend_broke"),
    ] {
        let whole = answered(error, status).await;
        whole.assert_refused(&world, refused, code).await;
        assert!(!whole.text().contains("10.0.0.7"));
    }
    // A backend's own errors pass, as ever.
    let answer = async { site.next().await.reply(500, &[("content-type", "application/json")], "{}") };
    assert_eq!(tokio::join!(caller.chat(&request), answer).0.status, 500);
    assert_eq!(stub.seen().len(), 1, "only what was not connected goes on to another target");
}

//! The promises of the README, each by its number. The second has a file of its own.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use bytes::Bytes;
use doorward::dialect::paths::upstream_path;
use doorward::domain::endpoint::Endpoint;
use doorward::domain::failures::EVERY;
use doorward::domain::identity::Role;
use http::Method;
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, KeyPair, SanType};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{
    CHAT, Caller, ChannelBody, LONG, Leaf, Line, OPEN, Process, Setup, Stub, Whole, World, chat, json_reply, live,
    until, within,
};

/// No byte of an unidentified caller reaches a backend: whatever it sends, nobody even connects.
#[tokio::test]
async fn promise_01_no_byte_of_an_unidentified_caller_reaches_a_backend() {
    let stub = Stub::chatty().await;
    let world = Setup::new(&stub).manual_clock().start().await;
    let key = world.key("acme/x").await;
    let stranger = World::open(&stub).await;
    let strange_key = stranger.key("acme/x").await;

    // Not TLS at all.
    for bytes in [
        &b"POST /v1/chat/completions HTTP/1.1\r\nHost: llm.test\r\n\r\n"[..],
        &b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..],
        &[0x16, 3, 1, 0, 5, 1, 0, 0, 1, 0][..],
        &[0; 64][..],
    ] {
        let mut socket = TcpStream::connect(world.address()).await.unwrap();
        socket.write_all(bytes).await.unwrap();
        socket.shutdown().await.unwrap();
        let mut answer = Vec::new();
        // Reset or closed; an alert at the most.
        let _ = within(LONG, "it is closed", socket.read_to_end(&mut answer)).await.is_ok();
        assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
    }

    // Certificates of somebody else, in our own names: the handshake fails.
    for leaf in [stranger.certificate("alice").leaf, self_made()] {
        let stream = world.caller().leaf(&leaf).tls(&["http/1.1"]).await;
        if let Ok(mut stream) = stream {
            let sent = stream.write_all(b"GET /v1/models HTTP/1.1\r\nHost: llm.test\r\n\r\n").await;
            let mut answer = Vec::new();
            let read = within(LONG, "it is closed", stream.read_to_end(&mut answer)).await;
            assert!((sent.is_err() || read.is_err()) && answer.is_empty(), "{answer:?}");
        }
    }

    // Every endpoint, with what is no credential here.
    let nobody = [
        world.caller(),
        world.caller().key(&strange_key),
        world.caller().header("x-api-key", "certificate"),
        world.caller().header("api-key", &key.text[..20]),
        world.caller().certificate(&world.certificate_as(Role::Connector, "site", None)),
    ];
    for caller in nobody {
        for mut line in caller.both().await {
            for endpoint in Endpoint::ALL {
                let answer = line.post(upstream_path(endpoint), &chat("llama")).await;
                answer.assert_refused(&world, 401, "invalid_credentials").await;
                // Below the limit of failures.
                world.clock.advance(EVERY);
            }
        }
    }

    // A request inside of another, or behind it.
    let inner = format!("POST {CHAT} HTTP/1.1\r\nHost: llm.test\r\nContent-Length: 0\r\n\r\n");
    for framing in [
        format!("Content-Length: {}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{inner}", inner.len() + 5),
        format!("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n{inner}"),
        format!("Content-Length: 0\r\nContent-Length: {}\r\n\r\n{inner}", inner.len()),
        format!("Content-Length: 0\r\n\r\n{inner}"),
    ] {
        let mut line = world.caller().raw().await;
        line.send(format!("POST {CHAT} HTTP/1.1\r\nHost: llm.test\r\n{framing}")).await;
        line.stream.get_mut().0.shutdown().await.unwrap();
        let (answers, _) = line.read_to_end().await;
        assert!(!answers.contains(" 200 "), "{answers}");
    }

    stub.assert_untouched();
    world.caller().key(&key).chat(&chat("llama")).await.assert_served();
    assert_eq!(stub.connections(), 1);
}

/// A certificate with a good name that nobody signed.
fn self_made() -> Leaf {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI("spiffe://corp.test/client/alice".try_into().unwrap())];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let certificate = params.self_signed(&key).unwrap();
    Leaf::new(vec![certificate.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
}

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
    let issued = world.certificate_as(Role::Client, "alice", Some(Duration::from_secs(300)));
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

async fn expires(world: &World, mut lines: [Line; 2], left: Duration) {
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

/// A stream that outlives its key ends with it.
#[tokio::test]
async fn promise_03_a_live_stream_ends_when_its_key_expires() {
    let stub = Stub::by_hand().await;
    let world = Setup::new(&stub).manual_clock().start().await;
    for h2 in [false, true] {
        let end = world.clock.now().after(Duration::from_secs(60));
        let caller = world.caller().key(&world.key_with("acme/x", Some(end), &[], &[], &[]).await);
        let mut line = if h2 { caller.h2().await } else { caller.h1().await };
        let (flow, exchange) = live(&mut line, &stub).await;
        let id = flow.request_id();
        world.clock.advance(Duration::from_secs(60));
        let ((_, broke), took) = tokio::join!(flow.end(), exchange.closed());
        assert!(broke.is_some() && took < Duration::from_secs(1), "{broke:?} {took:?}");
        let record = world.record(&id).await;
        assert_eq!((&record["outcome"], &record["code"]), (&"ended".into(), &"invalid_credentials".into()));
    }
}

/// Each list must be named by somebody; until then it holds nothing. `"*"` is everything.
#[tokio::test]
async fn promise_04_absent_means_none() {
    let stub = Stub::chatty().await;
    let lists = [
        ("network_not_allowed", 403, "networks = [\"*\"]\n"),
        ("endpoint_not_allowed", 403, "endpoints = [\"*\"]\n"),
        ("model_not_found", 404, "models = [\"*\"]\n"),
    ];
    let mut grant = "[[grant]]\nowner = \"acme\"\nrequire = \"either\"\n".to_owned();
    for (code, status, list) in lists {
        let world = Setup::new(&stub).grants(&grant).start().await;
        let key = world.key("acme/x").await;
        world.caller().key(&key).chat(&chat("llama")).await.assert_refused(&world, status, code).await;
        grant.push_str(list);
    }
    stub.assert_untouched();
    let world = Setup::new(&stub).grants(&grant).start().await;
    world.caller().key(&world.key("acme/x").await).chat(&chat("llama")).await.assert_served();
}

/// Grants on the path and the key itself can each only take away.
#[tokio::test]
async fn promise_04_a_key_works_only_from_its_networks_endpoints_and_models() {
    type Lists<'a> = (&'a [&'a str], &'a [&'a str], &'a [&'a str]);
    const HERE: &[&str] = &["127.0.0.1/32"];
    const CHATS: &[&str] = &["@chat"];
    const LLAMAS: &[&str] = &["lla*"];
    let stub = Stub::chatty().await;
    let grants = format!(
        r#"{OPEN}
[[grant]]
owner = "acme/narrow"
networks = ["127.0.0.0/8", "10.0.0.0/8"]
endpoints = ["openai.*"]
models = ["llama", "other"]
"#
    );
    let world = Setup::new(&stub).grants(&grants).start().await;
    let cases: [(&str, Lists<'_>, &str, &str, &str); 12] = [
        ("acme/narrow/x", (&[], &[], &[]), CHAT, "llama", ""),
        ("acme/narrow/x", (HERE, CHATS, LLAMAS), CHAT, "llama", ""),
        ("acme/narrow/x", (&["*"], &["*"], &["*"]), CHAT, "llama", ""),
        // A key that is wider than its owner's grant stays narrowed.
        ("acme/narrow/x", (&["*"], &["*"], &["*"]), "/api/chat", "llama", "endpoint_not_allowed"),
        ("acme/narrow/x", (&["*"], &["*"], &["*"]), CHAT, "same", "model_not_found"),
        ("acme/narrow/x", (&[], &[], &["same"]), CHAT, "same", "model_not_found"),
        ("acme/narrow/x", (&["10.0.0.0/8"], &[], &[]), CHAT, "llama", "network_not_allowed"),
        ("acme/narrow/x", (&["127.0.0.2", "10.1.2.3"], &[], &[]), CHAT, "llama", "network_not_allowed"),
        ("acme/narrow/x", (&["::1"], &[], &[]), CHAT, "llama", "network_not_allowed"),
        ("acme/x", (HERE, CHATS, LLAMAS), "/v1/embeddings", "llama", "endpoint_not_allowed"),
        ("acme/x", (HERE, CHATS, LLAMAS), "/v1/messages", "llama", ""),
        ("acme/x", (HERE, CHATS, LLAMAS), CHAT, "same", "model_not_found"),
    ];
    for (owner, (networks, endpoints, models), path, model, code) in cases {
        let key = world.key_with(owner, None, networks, endpoints, models).await;
        for mut line in world.caller().key(&key).both().await {
            let before = stub.seen().len();
            let answer = line.post(path, &chat(model)).await;
            if code.is_empty() {
                answer.assert_served();
                assert_eq!(stub.seen().len(), before + 1);
            } else {
                answer.assert_refused(&world, answer.status, code).await;
                assert_eq!(stub.seen().len(), before);
            }
        }
    }
}

/// Lists show what the caller may name, and nothing else.
#[tokio::test]
async fn promise_04_model_lists_are_the_callers_own() {
    let stub = Stub::chatty().await;
    let world = World::open(&stub).await;
    for (models, expected) in [(&["*"][..], &["llama", "same"][..]), (&["sam*"], &["same"]), (&["none"], &[])] {
        let mut line = world.caller().key(&world.key_with("acme/x", None, &[], &[], models).await).h1().await;
        let names = |answer: &Whole, list: &str, name: &str| -> Vec<String> {
            let list = answer.json()[list].as_array().unwrap().clone();
            list.iter().map(|entry| entry[name].as_str().unwrap().to_owned()).collect()
        };
        assert_eq!(names(&line.get("/v1/models").await, "data", "id"), expected);
        assert_eq!(names(&line.get("/api/tags").await, "models", "name"), expected);
        assert_eq!(names(&line.get("/api/ps").await, "models", "name"), expected);
        let status = line.get("/v1/models/same").await.status;
        assert_eq!(status, if expected.contains(&"same") { 200 } else { 404 });
    }
    stub.assert_untouched();
}

/// Secrets and prompts, sent in every way that there is: not in the log at its most talkative, not
/// in records, metrics or errors.
#[tokio::test]
async fn promise_09_secrets_and_prompts_appear_nowhere() {
    const PROMPT: &str = "canary-prompt-5f1c";
    const BACKEND_SECRET: &str = "canary-backend-77aa";
    let stub = Stub::scripted(|seen| {
        if seen.text().contains("\"fail\":1") {
            return b"HTTP/1.1 401 Unauthorized\r\nX-Canary: canary-reply-31\r\nContent-Length: 15\r\n\r\ncanary-reply-31".to_vec();
        }
        json_reply(&format!("{{\"model\":\"org/llama-8b\",\"echo\":\"canary-reply-31\",\"n\":{}}}", seen.body.len()))
    })
    .await;
    let mut setup = Setup::new(&stub).backend(&stub, &format!("credential = \"{BACKEND_SECRET}\""));
    setup.more = "[log]\nlevel = \"trace\"".to_owned();
    let mut process = Process::serve(&setup).await;
    let key = process.files.make_key("acme/x", None, &[], &[], &[]);
    let alice = process.files.certificate("alice");
    let caller = process.caller().key(&key);
    until(LONG, "the key is in force", || process.log().contains("serving").then_some(())).await;
    within(LONG, "the key is in force", async { while caller.h1().await.get("/v1/models").await.status != 200 {} })
        .await;
    let secret = &key.text[16..];
    let mut errors = String::new();
    let mut note = |answer: &Whole| {
        if answer.status != 200 {
            errors.push_str(&format!("{answer:?}{}", String::from_utf8_lossy(&answer.body)));
        }
    };
    let bodies = [
        format!(r#"{{"model":"llama","messages":[{{"content":"{PROMPT}"}}]}}"#),
        format!(r#"{{"model":"llama","fail":1,"messages":[{{"content":"{PROMPT}"}}]}}"#),
        format!(r#"{{"model":"{PROMPT} and more","x":"{PROMPT}"}}"#),
        format!(r#"{{"{PROMPT}":1,"{PROMPT}":2}}"#),
        format!(r#"{{"model":"llama","stream":"{PROMPT}"}}"#),
        format!("{PROMPT} that is no JSON"),
    ];
    let callers = [
        caller.clone(),
        process.caller().certificate(&alice).key(&key),
        process.caller().header("authorization", &format!("Bearer {}x", key.text)),
        process.caller().header("authorization", &format!("Basic {secret}")),
        process.caller().header("x-api-key", &key.text.replace("dw_", "dw_0")),
        process.caller().key(&key).header("cookie", &format!("{PROMPT}={secret}")),
        process.caller().key(&key).header("x-api-key", &format!("other-{secret}")),
    ];
    for caller in callers {
        for mut line in caller.both().await {
            for body in &bodies {
                note(&line.chat(body).await);
            }
            note(&line.chat(&format!("{{\"{PROMPT}\"")).await);
            note(&line.post(&format!("{CHAT}?api_key={}", key.text), &bodies[0]).await);
            note(&line.post(&format!("/v1/{PROMPT}?x={PROMPT}"), &bodies[0]).await);
            note(&line.get(&format!("/v1/models/{PROMPT}")).await);
        }
    }
    let mut admin = TcpStream::connect(process.admin).await.unwrap();
    admin.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut metrics = String::new();
    admin.read_to_string(&mut metrics).await.unwrap();
    process.signal("TERM");
    assert!(process.ended().await.success());
    let records = fs::read_to_string(process.files.state.join("records.jsonl")).unwrap();
    let log = process.log();
    assert!(log.contains("refused") && records.lines().count() > 100 && metrics.contains("doorward_requests"));
    for (what, text) in [("log", &log), ("records", &records), ("metrics", &metrics), ("errors", &errors)] {
        for canary in [secret, PROMPT, BACKEND_SECRET, "canary-reply", &key.text] {
            let line = text.lines().find(|line| line.contains(canary));
            assert!(line.is_none(), "{canary} is in the {what}: {line:?}");
        }
    }
    // Nor in what is kept: keys are hashed under a pepper.
    for file in fs::read_dir(&process.files.state).unwrap().map(|entry| entry.unwrap().path()).filter(|p| p.is_file()) {
        let bytes = fs::read(&file).unwrap();
        assert!(!bytes.windows(secret.len()).any(|window| window == secret.as_bytes()), "{}", file.display());
    }
}

/// One record for every request, however it ended, and none for what is none.
#[tokio::test]
async fn promise_10_every_request_leaves_exactly_one_record() {
    let stub = Stub::by_hand().await;
    let world = World::open(&stub).await;
    let caller = world.caller().key(&world.key("acme/x").await);
    let mut expected = Vec::new();
    let body = chat("llama");
    for h2 in [false, true] {
        let line = || async { if h2 { caller.h2().await } else { caller.h1().await } };
        // Forwarded, answered, refused.
        let mut one = line().await;
        let (answer, ()) = tokio::join!(one.chat(&body), async { stub.next().await.reply(json_reply("{}")).await });
        answer.assert_served();
        assert_eq!(one.get("/v1/models").await.status, 200);
        assert_eq!(one.fetch(Method::HEAD, "/").await.status, 200);
        assert_eq!(one.get("/nowhere").await.status, 404);
        expected.extend(["forwarded", "answered", "answered", "refused"]);
        // The backend breaks before the head, and after it.
        let (answer, ()) = tokio::join!(one.chat(&body), async { drop(stub.next().await) });
        assert_eq!(answer.status, 502);
        let (flow, exchange) = live(&mut one, &stub).await;
        drop(exchange);
        assert!(flow.end().await.1.is_some());
        expected.extend(["refused", "broken"]);
        // The caller leaves while its body is read, before the head of the reply, in its middle.
        let mut leaver = line().await;
        let (pieces, stuck) = ChannelBody::channel();
        let mut request = leaver.request(Method::POST, CHAT, stuck);
        request.headers_mut().insert("content-type", "application/json".parse().unwrap());
        pieces.send(Bytes::from_static(b"{")).await.unwrap();
        tokio::select! {
            answer = leaver.send(request) => panic!("{answer:?}"),
            () = world.metric_becomes("doorward_requests_in_flight", 1.0) => {}
        }
        drop((leaver, pieces));
        world.metric_becomes("doorward_requests_in_flight", 0.0).await;
        let mut leaver = line().await;
        let request = leaver.json(CHAT, &body);
        let exchange = tokio::select! {
            answer = leaver.send(request) => panic!("{answer:?}"),
            exchange = stub.next() => exchange,
        };
        drop(leaver);
        exchange.closed().await;
        let mut leaver = line().await;
        let (flow, exchange) = live(&mut leaver, &stub).await;
        drop((flow, leaver));
        exchange.closed().await;
        expected.extend(["caller_gone", "caller_gone", "caller_gone"]);
    }
    // No requests: a handshake that fails, a head that is none.
    assert!(world.caller().named("evil.test").tls(&["h2"]).await.is_err());
    let mut raw = caller.raw().await;
    raw.send("NONSENSE\r\n\r\n").await;
    raw.read_to_end().await;
    let records = world.all_records(expected.len()).await;
    let ids: BTreeSet<_> = records.iter().map(|record| record["request_id"].to_string()).collect();
    assert_eq!(ids.len(), expected.len());
    let mut outcomes: Vec<_> = records.iter().map(|record| record["outcome"].as_str().unwrap()).collect();
    outcomes.sort_unstable();
    expected.sort_unstable();
    assert_eq!(outcomes, expected, "{records:#?}");
    for record in &records {
        assert_eq!(record["backend"].is_null(), record["target"].is_null(), "{record}");
        assert!(record["status"].is_u64() || record["outcome"] == "caller_gone", "{record}");
    }
}

/// A certificate for `llm.test` of its own making, with its key, in PEM.
fn server_files() -> (String, String, CertificateDer<'static>) {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(["llm.test".to_owned()]).unwrap();
    let certificate = params.self_signed(&key).unwrap();
    (certificate.pem(), key.serialize_pem(), certificate.der().clone())
}

/// Whatever is wrong with a new config, the last good one stays in force, as a whole.
#[tokio::test]
async fn promise_11_a_bad_reload_changes_nothing() {
    let stub = Stub::chatty().await;
    let (chain, key_pem, root) = server_files();
    let mut setup = Setup::new(&stub).listen("certificate = { chain = \"llm.crt\", key = \"llm.key\" }");
    setup.files = vec![("llm.crt".to_owned(), chain.clone()), ("llm.key".to_owned(), key_pem.clone())];
    let good = setup.text();
    let mut world = setup.start().await;
    let key = world.key("acme/x").await;
    let caller = Caller::new(world.address(), vec![root]).key(&key);
    let mut open = caller.h2().await;
    open.chat(&chat("llama")).await.assert_served();
    let dir = world.dir.path().to_owned();
    let (other_chain, other_key, other_root) = server_files();
    let closed = good.replace("models = [\"*\"]", "models = [\"none\"]");
    let write = |name: &str, text: &str| fs::write(dir.join(name), text).unwrap();
    let spoil: [(&str, &dyn Fn()); 10] = [
        ("garbage", &|| write("doorward.toml", "[[[")),
        ("not UTF-8", &|| fs::write(dir.join("doorward.toml"), [0xff, 0xfe]).unwrap()),
        ("empty", &|| write("doorward.toml", "")),
        ("missing", &|| fs::remove_file(dir.join("doorward.toml")).unwrap()),
        ("unknown setting", &|| write("doorward.toml", &format!("{closed}\n[nonsense]\nx = 1\n"))),
        ("needs a restart", &|| write("doorward.toml", &closed.replacen("127.0.0.1:0", "127.0.0.1:1", 1))),
        ("other trust domain", &|| write("doorward.toml", &closed.replace("corp.test\"", "evil.test\""))),
        ("bad chain", &|| {
            write("doorward.toml", &closed);
            write("llm.crt", "garbage");
        }),
        ("chain and key apart", &|| {
            write("doorward.toml", &closed);
            write("llm.crt", &other_chain);
        }),
        ("no chain", &|| {
            write("doorward.toml", &closed);
            fs::remove_file(dir.join("llm.crt")).unwrap();
        }),
    ];
    for (count, (what, spoil)) in (1u32..).zip(spoil) {
        spoil();
        world.server.reload();
        let refused = world.metric("doorward_reloads_total{result=\"refused\"}").await;
        assert!((refused - f64::from(count)).abs() < 0.5, "{what}: {refused}");
        // Open connections and new ones, with the certificate, the grants and the models of before.
        open.chat(&chat("llama")).await.assert_served();
        caller.chat(&chat("llama")).await.assert_served();
        write("llm.crt", &chain);
    }
    write("doorward.toml", &closed);
    write("llm.crt", &other_chain);
    write("llm.key", &other_key);
    world.server.reload_if_due();
    assert!((world.metric("doorward_reloads_total{result=\"applied\"}").await - 1.0).abs() < 0.5);
    open.chat(&chat("llama")).await.assert_refused(&world, 404, "model_not_found").await;
    assert!(caller.tls(&["h2"]).await.is_err());
    let caller = Caller::new(world.address(), vec![other_root]).key(&key);
    caller.chat(&chat("llama")).await.assert_refused(&world, 404, "model_not_found").await;
    // What has not changed is not read again.
    world.server.reload_if_due();
    assert!((world.metric("doorward_reloads_total{result=\"applied\"}").await - 1.0).abs() < 0.5);
}

/// Only two places open connections: the one that reaches backends, and the verbs that ask a
/// backend for its models or a gateway for its health, or to do something, because somebody typed
/// them. And at its start a gateway looks whether another one answers on its own socket.
#[test]
fn promise_12_nothing_else_opens_connections() {
    let mut dialling = BTreeSet::new();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for file in rust_files(&source) {
        let text = fs::read_to_string(&file).unwrap();
        let words =
            ["reqwest::", "TcpStream::connect", "UdpSocket", "UnixStream::connect", "lookup_host", "ToSocketAddrs"];
        for word in words.into_iter().filter(|word| text.contains(word)) {
            dialling.insert((file.strip_prefix(&source).unwrap().display().to_string(), word));
        }
    }
    let expected = [
        ("admin/api/socket.rs", "UnixStream::connect"),
        ("backend/connect.rs", "TcpStream::connect"),
        ("cli/discover.rs", "reqwest::"),
        ("cli/remote.rs", "TcpStream::connect"),
        ("cli/remote.rs", "UnixStream::connect"),
        ("cli/status.rs", "reqwest::"),
        ("holder/reach.rs", "TcpStream::connect"),
        ("holder/reach.rs", "lookup_host"),
        ("holder/reach_tests.rs", "TcpStream::connect"),
        ("notify/post.rs", "TcpStream::connect"),
        ("notify/post.rs", "lookup_host"),
        // A probe of a socket that lies about: it is replaced when nobody answers.
        ("overlay/dial/listener.rs", "UnixStream::connect"),
        ("token/fetch.rs", "reqwest::"),
        ("webhook/client.rs", "TcpStream::connect"),
        ("webhook/client.rs", "lookup_host"),
    ];
    let expected: BTreeSet<_> = expected.into_iter().map(|(file, word)| (file.to_owned(), word)).collect();
    assert_eq!(dialling, expected);
}

pub(crate) fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|end| end == "rs") {
            files.push(path);
        }
    }
    files
}

/// Runs the next test in a network that has nothing but a loopback.
#[test]
#[expect(clippy::print_stderr, reason = "a test that is skipped says so")]
fn promise_12_nothing_leaves_the_host_unasked() {
    let me = std::env::current_exe().unwrap();
    let inner = "promises::in_a_network_of_its_own";
    let script = "ip link set lo up && exec \"$0\" --exact \"$1\" --ignored --nocapture";
    let allowed = Command::new("unshare").args(["--net", "ip", "link", "set", "lo", "up"]).output();
    if !allowed.is_ok_and(|output| output.status.success()) {
        eprintln!("SKIPPED: no permission to make a network namespace");
        return;
    }
    let run = Command::new("unshare").args(["--net", "sh", "-c", script]).arg(me).arg(inner).output();
    let output = run.unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

/// What the kernel has refused to send for want of a way out of this network.
fn stray_packets() -> u64 {
    let v4 = fs::read_to_string("/proc/self/net/snmp").unwrap();
    let mut ip = v4.lines().filter(|line| line.starts_with("Ip:"));
    let (names, figures) = (ip.next().unwrap().split(' '), ip.next().unwrap().split(' '));
    let v4: u64 = names.zip(figures).find(|(name, _)| *name == "OutNoRoutes").unwrap().1.parse().unwrap();
    let v6 = fs::read_to_string("/proc/self/net/snmp6").unwrap_or_default();
    let v6 = v6.lines().find_map(|line| line.strip_prefix("Ip6OutNoRoutes")?.trim().parse().ok());
    v4 + v6.unwrap_or(0)
}

#[tokio::test]
#[ignore = "run by promise_12_nothing_leaves_the_host_unasked"]
async fn in_a_network_of_its_own() {
    let interfaces = fs::read_to_string("/proc/self/net/dev").unwrap();
    assert_eq!(interfaces.lines().skip(2).count(), 1, "{interfaces}");
    let before = stray_packets();
    let stub = Stub::chatty().await;
    let mut process = Process::serve(&Setup::new(&stub)).await;
    let key = process.files.make_key("acme/x", None, &[], &[], &[]);
    let caller = process.caller().key(&key);
    within(LONG, "the key is in force", async { while caller.h1().await.get("/v1/models").await.status != 200 {} })
        .await;
    for mut line in caller.both().await {
        line.chat(&chat("llama")).await.assert_served();
        assert_eq!(line.get("/nowhere").await.status, 404);
    }
    process.signal("HUP");
    until(LONG, "it has reloaded", || process.log().contains("reloaded the config").then_some(())).await;
    process.signal("TERM");
    assert!(process.ended().await.success());
    assert_eq!(stray_packets(), before, "something tried to leave:\n{}", process.log());
    // The counter would have told.
    assert!(TcpStream::connect("192.0.2.1:443").await.is_err());
    assert!(stray_packets() > before);
}

//! Every refusal: its status, its code, its record, and that no backend saw a byte of it.
//!
//! Each test is named after the code that it brings about; a test makes sure that none is missing.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use doorward::domain::identity::Role;
use doorward::domain::key::{Binding, KeyDetails, KeyRecord, Uses};
use doorward::domain::owner::OwnerPath;
use doorward::domain::refusal::Code;
use doorward::telemetry::records::MAX_PLACES;
use http::Method;

use crate::support::{
    CHAT, ChannelBody, LONG, OPEN, Setup, Stub, Whole, World, chat, chat_stream, dead_port, live, until,
};

/// The table in the documentation, the enum, and the tests in this file know the same codes.
#[test]
fn codes_are_documented_and_tested() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let documentation = fs::read_to_string(root.join("docs/errors.md")).unwrap();
    let documented: BTreeMap<String, u16> = documentation
        .lines()
        .filter_map(|line| {
            let mut cells = line.strip_prefix("| `")?.split(" | ");
            let code = cells.next()?.strip_suffix('`')?;
            Some((code.to_owned(), cells.next()?.parse().ok()?))
        })
        .collect();
    let known: BTreeMap<String, u16> =
        Code::ALL.iter().map(|code| (code.as_str().to_owned(), code.status().as_u16())).collect();
    assert_eq!(documented, known);

    let tests = fs::read_to_string(root.join("tests/it/refusals.rs")).unwrap();
    for code in known.keys() {
        assert!(tests.contains(&format!("async fn {code}()")), "no test brings about {code}");
    }
}

/// Whatever is wrong with a credential, the caller sees the same; the record tells.
#[tokio::test]
async fn invalid_credentials() {
    let stub = Stub::chatty().await;
    let world = Setup::new(&stub).manual_clock().start().await;
    let good = world.key("acme/x").await;
    let soon = world.clock.now().after(Duration::from_secs(1));
    let expired = world.key_with("acme/x", Some(soon), &[], &[], &[]).await;
    let revoked = world.key("acme/x").await;
    let before = world.generation();
    world.revoke_key(&revoked.id);
    world.changed_since(before).await;
    world.clock.advance(Duration::from_secs(1));
    let later = world.clock.now().after(Duration::from_secs(1));
    let to_come = world.key_like("acme/x", |key| KeyRecord { not_before: Some(later), ..key }).await;
    let disabled = world.key_like("acme/x", |key| KeyRecord { disabled: true, ..key }).await;
    let spent = Some(Uses { left: 0, refund_on_failure: false });
    let spent = world.key_like("acme/x", |key| KeyRecord { uses: spent, ..key }).await;
    let of_disabled = world.key("acme/off/x").await;
    let before = world.generation();
    let off = OwnerPath::parse("acme/off").unwrap();
    assert!(world.store().set_owner_disabled(&off, true, world.clock.now()).unwrap());
    world.changed_since(before).await;
    let elsewhere = World::open(&stub).await.key("acme/x").await;
    let with = |text: &str| world.caller().header("authorization", &format!("Bearer {text}"));
    let mangled = good.text.replace("dw_", "dx_");
    let cases = [
        (world.caller(), "no credential presented"),
        (with(&mangled), "not the form of a key"),
        (with("certificate"), "the placeholder credential without a certificate"),
        (world.caller().header("authorization", "Basic eDp5"), "not the form of a key"),
        (with(&elsewhere.text), "unknown key"),
        (with(&revoked.text), "is revoked"),
        (with(&expired.text), "is expired"),
        (with(&to_come.text), "is not valid yet"),
        (with(&disabled.text), "is disabled"),
        (with(&spent.text), "is spent"),
        (with(&of_disabled.text), "owner acme/off is disabled"),
        (with(&good.text).header("x-api-key", &revoked.text), "different credentials in two headers"),
        (world.caller().certificate(&world.certificate_as(Role::Operator, "op", None)), "role is operator, not client"),
    ];
    let mut seen = None;
    for (caller, detail) in cases {
        let mut answer = caller.chat(&chat("llama")).await;
        let record = answer.assert_refused(&world, 401, "invalid_credentials").await;
        assert!(record["detail"].as_str().unwrap().contains(detail), "{record}");
        answer.headers.remove("x-request-id");
        answer.headers.remove("date");
        let look = format!("{answer:?}");
        assert_eq!(*seen.get_or_insert_with(|| look.clone()), look, "{detail}");
    }
    stub.assert_untouched();
    with(&good.text).chat(&chat("llama")).await.assert_served();
}

/// Who guesses is told to wait; who has a credential that is good, or was, never hears of it.
#[tokio::test]
async fn too_many_failures() {
    let stub = Stub::chatty().await;
    let world = Setup::new(&stub).manual_clock().start().await;
    let good = world.key("acme/x").await;
    let revoked = world.key("acme/x").await;
    let before = world.generation();
    world.revoke_key(&revoked.id);
    world.changed_since(before).await;
    let unknown = World::open(&stub).await.key("acme/x").await;
    let with = |text: &str| world.caller().header("authorization", &format!("Bearer {text}"));
    // What is no guess is not counted.
    for (caller, times) in
        [(world.caller(), 25), (with(&revoked.text), 25), (with(&good.text).header("api-key", "x"), 25)]
    {
        let mut line = caller.h1().await;
        for _ in 0..times {
            line.chat(&chat("llama")).await.assert_refused(&world, 401, "invalid_credentials").await;
        }
    }
    let guesses = [unknown.text.clone(), "dw_nonsense".to_owned(), "sk-elsewhere".to_owned()];
    let mut lines = Vec::new();
    for guess in &guesses {
        lines.extend(with(guess).both().await);
    }
    let count = lines.len();
    for guess in 0..20 {
        let line = &mut lines[guess % count];
        line.chat(&chat("llama")).await.assert_refused(&world, 401, "invalid_credentials").await;
    }
    for line in &mut lines {
        let answer = line.chat(&chat("llama")).await;
        let record = answer.assert_refused(&world, 429, "too_many_failures").await;
        assert!(record["detail"].as_str().unwrap().starts_with("too many failures from this address: "), "{record}");
        assert_eq!((answer.header("retry-after"), answer.header("retry-after-ms")), (Some("6"), Some("6000")));
        assert_eq!((answer.header("www-authenticate"), answer.header("x-should-retry")), (None, None));
        assert_eq!(answer.json()["error"]["type"], "rate_limit_error");
    }
    stub.assert_untouched();
    // The same address, at the same time.
    with(&good.text).chat(&chat("llama")).await.assert_served();
    world.caller().certificate(&world.certificate("alice")).chat(&chat("llama")).await.assert_served();
    with(&revoked.text).chat(&chat("llama")).await.assert_refused(&world, 401, "invalid_credentials").await;
    world.caller().chat(&chat("llama")).await.assert_refused(&world, 401, "invalid_credentials").await;
    // Time, and nothing else, gives the next one.
    world.clock.advance(Duration::from_millis(4_500));
    let answer = lines[0].chat(&chat("llama")).await;
    answer.assert_refused(&world, 429, "too_many_failures").await;
    assert_eq!((answer.header("retry-after"), answer.header("retry-after-ms")), (Some("2"), Some("1500")));
    world.clock.advance(Duration::from_millis(1_500));
    lines[1].chat(&chat("llama")).await.assert_refused(&world, 401, "invalid_credentials").await;
    lines[2].chat(&chat("llama")).await.assert_refused(&world, 429, "too_many_failures").await;
    assert!(world.metric("doorward_requests_total{outcome=\"refused\",code=\"too_many_failures\"}").await > 7.5);
}

#[tokio::test]
async fn key_required() {
    let stub = Stub::chatty().await;
    let world = Setup::new(&stub).grants(&OPEN.replace("either", "key")).start().await;
    let caller = world.caller().certificate(&world.certificate("alice"));
    caller.chat(&chat("llama")).await.assert_refused(&world, 401, "key_required").await;
    stub.assert_untouched();
    caller.key(&world.key("acme/x").await).chat(&chat("llama")).await.assert_served();
}

#[tokio::test]
async fn certificate_required() {
    let stub = Stub::chatty().await;
    let world = Setup::new(&stub).grants(&OPEN.replace("either", "certificate")).start().await;
    let caller = world.caller().key(&world.key("acme/x").await);
    caller.chat(&chat("llama")).await.assert_refused(&world, 401, "certificate_required").await;
    stub.assert_untouched();
    caller.certificate(&world.certificate("alice")).chat(&chat("llama")).await.assert_served();
}

#[tokio::test]
async fn key_bound_elsewhere() {
    let stub = Stub::chatty().await;
    let world = World::open(&stub).await;
    let key = world
        .key_like("acme/x", |record| {
            let bound_to = Some(Binding::parse("spiffe://corp.test/client/ali*").unwrap());
            KeyRecord { details: KeyDetails { bound_to, ..KeyDetails::default() }.boxed(), ..record }
        })
        .await;
    let caller = world.caller().key(&key);
    for caller in [caller.clone(), caller.clone().certificate(&world.certificate("bob"))] {
        let record = caller.chat(&chat("llama")).await.assert_refused(&world, 403, "key_bound_elsewhere").await;
        assert_eq!(record["detail"], format!("key {} is bound to spiffe://corp.test/client/ali*", key.id));
    }
    stub.assert_untouched();
    // It is the subject that counts: any certificate of alice will do.
    for _renewed in 0..2 {
        caller.clone().certificate(&world.certificate("alice")).chat(&chat("llama")).await.assert_served();
    }
}

/// The store is gone: what it said last holds for a minute, then nobody passes until it is back.
#[tokio::test]
async fn store_unavailable() {
    for garbage in [false, true] {
        let stub = Stub::chatty().await;
        let world = Setup::new(&stub).manual_clock().start().await;
        let with_key = world.caller().key(&world.key("acme/x").await);
        let with_certificate = world.caller().certificate(&world.certificate("alice"));
        let unknown = world.caller().key(&World::open(&stub).await.key("acme/x").await);
        let (path, away) = (world.state.join("doorward.db"), world.state.join("away"));
        // All that was written is in the one file then: what is left beside it would be read.
        let raw = rusqlite::Connection::open(&path).unwrap();
        raw.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
        drop(raw);
        fs::rename(&path, &away).unwrap();
        if garbage {
            fs::write(&path, "not a store".repeat(999)).unwrap();
        }
        world.metric_becomes("doorward_store_readable", 0.0).await;
        world.clock.advance(Duration::from_millis(59_000));
        for caller in [&with_key, &with_certificate] {
            caller.chat(&chat("llama")).await.assert_served();
        }
        let (seen, before) = (stub.seen().len(), world.generation());
        world.clock.advance(Duration::from_secs(2));
        world.changed_since(before).await;
        for caller in [&with_key, &with_certificate, &unknown] {
            let answer = caller.chat(&chat("llama")).await;
            assert_eq!(answer.header("retry-after"), Some("1"));
            answer.assert_refused(&world, 503, "store_unavailable").await;
        }
        // What proves nothing, whatever the store says, is what it always was.
        world.caller().chat(&chat("llama")).await.assert_refused(&world, 401, "invalid_credentials").await;
        assert_eq!(stub.seen().len(), seen);
        let before = world.generation();
        fs::rename(&away, &path).unwrap();
        world.changed_since(before).await;
        world.metric_becomes("doorward_store_readable", 1.0).await;
        with_key.chat(&chat("llama")).await.assert_served();
        unknown.chat(&chat("llama")).await.assert_refused(&world, 401, "invalid_credentials").await;
    }
}

/// A store that cannot be written is no free pass for keys of limited use; others do not notice.
#[tokio::test]
async fn store_unavailable_for_claims() {
    let stub = Stub::chatty().await;
    let world = World::open(&stub).await;
    let uses = Some(Uses { left: 2, refund_on_failure: false });
    let limited = world.caller().key(&world.key_like("acme/x", |key| KeyRecord { uses, ..key }).await);
    let free = world.caller().key(&world.key("acme/x").await);
    limited.chat(&chat("llama")).await.assert_served();
    let locking = rusqlite::Connection::open(world.state.join("doorward.db")).unwrap();
    locking.execute_batch("BEGIN IMMEDIATE").unwrap();
    limited.chat(&chat("llama")).await.assert_refused(&world, 503, "store_unavailable").await;
    assert_eq!(stub.seen().len(), 1);
    free.chat(&chat("llama")).await.assert_served();
    locking.execute_batch("ROLLBACK").unwrap();
    // The refused request took nothing.
    limited.chat(&chat("llama")).await.assert_served();
    limited.chat(&chat("llama")).await.assert_refused(&world, 401, "invalid_credentials").await;
}

/// Live streams end when nobody knows any more whether they may go on.
#[tokio::test]
async fn store_unavailable_ends_live_streams() {
    let stub = Stub::by_hand().await;
    let world = Setup::new(&stub).manual_clock().start().await;
    let (flow, exchange) = live(&mut world.caller().key(&world.key("acme/x").await).h2().await, &stub).await;
    fs::rename(world.state.join("doorward.db"), world.state.join("away")).unwrap();
    world.metric_becomes("doorward_store_readable", 0.0).await;
    world.clock.advance(Duration::from_secs(60));
    let ((text, broke), _) = tokio::join!(flow.end(), exchange.closed());
    assert!(broke.is_some() && text.contains("store_unavailable"), "{text:?}");
}

#[tokio::test]
async fn no_grant() {
    let stub = Stub::chatty().await;
    let world = Setup::new(&stub)
        .grants(&OPEN.replace("client/*", "client/a*").replace("require = \"either\"\n", ""))
        .start()
        .await;
    // No grant on the path says what it takes.
    let key = world.key("acme/x").await;
    let answer = world.caller().key(&key).chat(&chat("llama")).await;
    answer.assert_refused(&world, 403, "no_grant").await;
    // No grant is on the path at all.
    let elsewhere = world.key("other/x").await;
    let answer = world.caller().key(&elsewhere).chat(&chat("llama")).await;
    answer.assert_refused(&world, 403, "no_grant").await;
    // No path.
    let answer = world.caller().certificate(&world.certificate("bob")).chat(&chat("llama")).await;
    answer.assert_refused(&world, 403, "no_grant").await;
    stub.assert_untouched();
}

#[tokio::test]
async fn network_not_allowed() {
    let stub = Stub::chatty().await;
    let world = World::open(&stub).await;
    let key = world.key_with("acme/x", None, &["10.0.0.0/8"], &[], &[]).await;
    // What a request says about where it comes from decides nothing.
    let caller = world.caller().key(&key).header("x-forwarded-for", "10.0.0.1").header("forwarded", "for=10.0.0.1");
    let answer = caller.header("x-real-ip", "10.0.0.1").chat(&chat("llama")).await;
    let record = answer.assert_refused(&world, 403, "network_not_allowed").await;
    assert_eq!((&record["client_ip"], &record["key_id"]), (&"127.0.0.1".into(), &key.id.as_str().into()));
    assert!(answer.text().contains("127.0.0.1"));
    stub.assert_untouched();
}

#[tokio::test]
async fn endpoint_not_allowed() {
    let stub = Stub::chatty().await;
    let world = World::open(&stub).await;
    let key = world.key_with("acme/x", None, &[], &["@models", "openai.embeddings"], &[]).await;
    let answer = world.caller().key(&key).chat(&chat("llama")).await;
    let record = answer.assert_refused(&world, 403, "endpoint_not_allowed").await;
    assert_eq!(record["endpoint"], "openai.chat_completions");
    stub.assert_untouched();
}

#[tokio::test]
async fn origin_not_allowed() {
    let stub = Stub::chatty().await;
    let world = World::open(&stub).await;
    let page = world.caller().certificate(&world.certificate("alice")).header("origin", "https://evil.example");
    page.chat(&chat("llama")).await.assert_refused(&world, 403, "origin_not_allowed").await;
    stub.assert_untouched();
    // A key is nothing that a browser lends by itself.
    page.key(&world.key("acme/x").await).chat(&chat("llama")).await.assert_served();
}

#[tokio::test]
async fn invalid_host() {
    let stub = Stub::chatty().await;
    let world = World::open(&stub).await;
    let key = world.key("acme/x").await;
    let heads = [
        "GET /v1/models HTTP/1.1\r\n",
        "GET /v1/models HTTP/1.1\r\nHost: llm.test\r\nHost: llm.test\r\n",
        "GET /v1/models HTTP/1.1\r\nHost: llm.test\r\nHost: evil.test\r\n",
        "GET /v1/models HTTP/1.1\r\nHost: user@llm.test\r\n",
        "GET /v1/models HTTP/1.1\r\nHost: llm.test.\r\n",
        "GET /v1/models HTTP/1.1\r\nHost: \r\n",
        "GET https://other.test/v1/models HTTP/1.1\r\nHost: llm.test\r\n",
        "GET https://llm.test/v1/models HTTP/1.1\r\nHost: other.test\r\n",
        "GET https://user@llm.test/v1/models HTTP/1.1\r\nHost: user@llm.test\r\n",
    ];
    for head in heads {
        let mut line = world.caller().raw().await;
        line.send(format!("{head}Authorization: Bearer {}\r\n\r\n", key.text)).await;
        line.answer().await.assert_refused(&world, 400, "invalid_host").await;
    }
    stub.assert_untouched();
}

#[tokio::test]
async fn misdirected() {
    let stub = Stub::chatty().await;
    let world = World::open(&stub).await;
    let key = world.key("acme/x").await;
    for host in ["connect.test", "enroll.test", "evil.test", "127.0.0.1"] {
        let mut line = world.caller().raw().await;
        line.send(format!("GET /v1/models HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {}\r\n\r\n", key.text))
            .await;
        line.answer().await.assert_refused(&world, 421, "misdirected").await;
    }
    let mut line = world.caller().key(&key).h2().await;
    let mut request = line.json(CHAT, &chat("llama"));
    *request.uri_mut() = "https://evil.test/v1/chat/completions".parse().unwrap();
    let answer = Whole::of(line.send(request).await.unwrap()).await;
    answer.assert_refused(&world, 421, "misdirected").await;
    stub.assert_untouched();
}

#[tokio::test]
async fn credential_in_query() {
    let stub = Stub::chatty().await;
    let world = World::open(&stub).await;
    let key = world.key("acme/x").await;
    for query in ["api_key=x", "key=x", "a=b&Access%5FToken=x", &format!("x={}", key.text)] {
        let answer = world.caller().key(&key).post(&format!("{CHAT}?{query}"), &chat("llama")).await;
        let record = answer.assert_refused(&world, 400, "credential_in_query").await;
        assert!(!format!("{record} {answer:?}").contains(&key.text));
    }
    stub.assert_untouched();
}

#[tokio::test]
async fn invalid_path() {
    let stub = Stub::chatty().await;
    let world = World::open(&stub).await;
    let mut line = world.caller().key(&world.key("acme/x").await).h1().await;
    let paths = [
        "//v1/chat/completions",
        "/v1/../v1/chat/completions",
        "/v1/./chat/completions",
        "/v1/chat%2Fcompletions",
        "/v1/chat/completions;x",
        "/v1/chat\\completions",
        "/v1/chat/completions?model=llama",
        "/v1/chat/completions?Mode%6c=llama",
    ];
    for path in paths {
        line.post(path, &chat("llama")).await.assert_refused(&world, 400, "invalid_path").await;
    }
    stub.assert_untouched();
}

#[tokio::test]
async fn not_found() {
    let stub = Stub::chatty().await;
    let world = World::open(&stub).await;
    let mut line = world.caller().key(&world.key("acme/x").await).h1().await;
    let paths = [
        "/v1/chat/completions/",
        "/V1/chat/completions",
        "/v1",
        "/metrics",
        "/api/pull",
        "/api/delete",
        "/v1/load_lora_adapter",
        "/invocations",
        "/collective_rpc",
        "/slots",
        "/props",
        "/v1/responses/resp_1",
        "/v1/realtime",
        "/health",
    ];
    for path in paths {
        let answer = line.post(path, &chat("llama")).await;
        let record = answer.assert_refused(&world, 404, "not_found").await;
        assert!(record["endpoint"].is_null(), "{record}");
    }
    stub.assert_untouched();
}

#[tokio::test]
async fn method_not_allowed() {
    let stub = Stub::chatty().await;
    let world = World::open(&stub).await;
    let mut line = world.caller().key(&world.key("acme/x").await).h1().await;
    for (method, path, allow) in [
        (Method::GET, CHAT, "POST"),
        (Method::DELETE, "/v1/models", "GET"),
        (Method::POST, "/", "GET, HEAD"),
        (Method::OPTIONS, CHAT, "POST"),
    ] {
        let answer = line.fetch(method, path).await;
        answer.assert_refused(&world, 405, "method_not_allowed").await;
        assert_eq!(answer.header("allow"), Some(allow));
    }
    stub.assert_untouched();
}

#[tokio::test]
async fn body_too_large() {
    let stub = Stub::chatty().await;
    let world = Setup::new(&stub).listen("max_body_bytes = 1024").start().await;
    let caller = world.caller().key(&world.key("acme/x").await);
    let large = format!("{}{}", chat("llama"), " ".repeat(1024));
    for mut line in caller.both().await {
        line.chat(&large).await.assert_refused(&world, 413, "body_too_large").await;
    }
    // Without a length, it is noticed on the way.
    for mut line in caller.both().await {
        let (pieces, body) = ChannelBody::channel();
        let mut request = line.request(Method::POST, CHAT, body);
        request.headers_mut().insert("content-type", "application/json".parse().unwrap());
        let sending = async move {
            for piece in large_pieces() {
                if pieces.send(piece).await.is_err() {
                    return;
                }
            }
        };
        let (answer, ()) = tokio::join!(line.send(request), sending);
        let answer = Whole::of(answer.unwrap()).await;
        answer.assert_refused(&world, 413, "body_too_large").await;
    }
    let just_right = format!("{:1024}", chat("llama"));
    stub.assert_untouched();
    caller.chat(&just_right).await.assert_served();
}

fn large_pieces() -> impl Iterator<Item = Bytes> {
    (0..4).map(|_| Bytes::from(vec![b' '; 512]))
}

#[tokio::test]
async fn unsupported_media_type() {
    let stub = Stub::chatty().await;
    let world = World::open(&stub).await;
    let caller = world.caller().key(&world.key("acme/x").await);
    for (name, value) in [
        ("content-type", "text/plain"),
        ("content-type", "multipart/form-data; boundary=x"),
        ("content-encoding", "gzip"),
    ] {
        let answer = caller.clone().header(name, value).chat(&chat("llama")).await;
        answer.assert_refused(&world, 415, "unsupported_media_type").await;
    }
    stub.assert_untouched();
    // Ollama's clients send JSON under any type.
    caller.header("content-type", "text/plain").post("/api/chat", &chat("llama")).await.assert_served();
}

#[tokio::test]
async fn invalid_body() {
    let stub = Stub::chatty().await;
    let world = World::open(&stub).await;
    let mut line = world.caller().key(&world.key("acme/x").await).h1().await;
    let bodies = [
        "",
        "{",
        "[]",
        "{\"messages\":[]}",
        "{\"model\":\"llama\",\"model\":\"llama\"}",
        "{\"model\":\"llama\",\"Model\":\"llama\"}",
        "{\"model\":\"llama\",\"\\u006dodel\":\"llama\"}",
        "{\"model\":\"llama\",\"stream\":\"true\"}",
        "{\"model\":7}",
        "{\"model\":\"a b\"}",
        "\u{feff}{\"model\":\"llama\"}",
        "{\"model\":\"llama\"} {}",
        "{\"model\":\"llama\",\"x\":NaN}",
    ];
    for body in bodies {
        line.chat(body).await.assert_refused(&world, 400, "invalid_body").await;
    }
    let deep = format!("{{\"model\":\"llama\",\"x\":{}{}}}", "[".repeat(65), "]".repeat(65));
    line.chat(&deep).await.assert_refused(&world, 400, "invalid_body").await;
    stub.assert_untouched();
}

/// Unknown and forbidden look alike.
#[tokio::test]
async fn model_not_found() {
    let stub = Stub::chatty().await;
    let world = World::open(&stub).await;
    let key = world.key_with("acme/x", None, &[], &[], &["llama"]).await;
    let mut line = world.caller().key(&key).h1().await;
    let mut seen = None;
    for model in ["same", "unknown", "org/llama-8b"] {
        let answer = line.chat(&chat(model)).await;
        let record = answer.assert_refused(&world, 404, "model_not_found").await;
        assert_eq!(record["model"], model);
        assert_eq!(*seen.get_or_insert_with(|| answer.body.clone()), answer.body, "{model}");
    }
    line.get("/v1/models/same").await.assert_refused(&world, 404, "model_not_found").await;
    stub.assert_untouched();
    line.chat(&chat("llama")).await.assert_served();
}

/// Without room for a record nothing passes, unless the operator wrote that it may.
#[tokio::test]
async fn record_unavailable() {
    let stub = Stub::chatty().await;
    let world = World::open(&stub).await;
    let key = world.key("acme/x").await;
    let places: Vec<_> = (0..MAX_PLACES).map_while(|_| world.server.gateway().records.reserve()).collect();
    let answer = world.caller().key(&key).chat(&chat("llama")).await;
    assert_eq!((answer.status, &answer.json()["error"]["code"]), (503, &"record_unavailable".into()));
    assert_eq!(answer.header("x-doorward-origin"), Some("gateway"));
    assert_eq!(answer.header("retry-after"), Some("1"));
    stub.assert_untouched();
    assert!(world.metric("doorward_records_dropped").await > 0.5);
    drop(places);
    let answer = world.caller().key(&key).chat(&chat("llama")).await;
    answer.assert_served();
    world.record(answer.request_id()).await;

    let mut setup = Setup::new(&stub);
    setup.more = "[record]\nwhen_full = \"drop\"".to_owned();
    let world = setup.start().await;
    let key = world.key("acme/x").await;
    let _places: Vec<_> = (0..MAX_PLACES).map_while(|_| world.server.gateway().records.reserve()).collect();
    world.caller().key(&key).chat(&chat("llama")).await.assert_served();
    assert!(world.metric("doorward_records_dropped").await > 0.5);
}

#[tokio::test]
async fn no_backend() {
    let stub = Stub::chatty().await;
    let mut setup = Setup::new(&stub);
    let dead = dead_port().await;
    setup.backends = setup.backends.replace(&stub.address.to_string(), &dead.to_string());
    let world = setup.start().await;
    let answer = world.caller().key(&world.key("acme/x").await).chat(&chat("llama")).await;
    let record = answer.assert_refused(&world, 503, "no_backend").await;
    assert!(record["detail"].as_str().unwrap().contains("stub"), "{record}");
    assert_eq!(answer.header("retry-after"), Some("2"));
    assert_eq!(answer.header("retry-after-ms"), Some("2000"));
    let port = dead.port().to_string();
    assert!(!answer.text().contains(&port) && !answer.text().contains("refused"), "{}", answer.text());
    assert!(world.metric("doorward_backend_connect_failures_total{backend=\"stub\"}").await > 0.5);
}

/// All bodies that are held at once have a bound.
#[tokio::test]
async fn overloaded() {
    let stub = Stub::chatty().await;
    let world = Setup::new(&stub).listen("max_body_bytes = 65536\nmax_buffered_bytes = 65536").start().await;
    let caller = world.caller().key(&world.key("acme/x").await);
    let mut first = caller.h2().await;
    let (pieces, body) = ChannelBody::channel();
    let mut request = first.request(Method::POST, CHAT, body);
    request.headers_mut().insert("content-type", "application/json".parse().unwrap());
    pieces.send(Bytes::from(format!("{:40000}", chat("llama")))).await.unwrap();
    let held = tokio::spawn(async move { first.send(request).await });
    let buffered = &world.server.gateway().buffered;
    until(LONG, "the first body is held", || (buffered.load(Ordering::Relaxed) == 40_000).then_some(())).await;
    let answer = caller.chat(&format!("{:40000}", chat("llama"))).await;
    answer.assert_refused(&world, 503, "overloaded").await;
    assert_eq!(answer.header("retry-after"), Some("1"));
    stub.assert_untouched();
    drop(pieces);
    Whole::of(held.await.unwrap().unwrap()).await.assert_served();
    assert_eq!(buffered.load(Ordering::Relaxed), 0);
}

/// What a backend must not say to a caller.
#[tokio::test]
async fn backend_broke() {
    let replies: &[(&str, &str)] = &[
        ("HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n", "own credential"),
        ("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", "own credential"),
        ("HTTP/1.1 302 Found\r\nLocation: http://10.0.0.9/\r\nContent-Length: 0\r\n\r\n", "never passed on"),
        ("HTTP/1.1 304 Not Modified\r\n\r\n", "never passed on"),
        ("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", "never passed on"),
        ("HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}", "compressed"),
        ("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\nhalf", "neither a length nor a terminator"),
        ("ICY 200 OK\r\n\r\n", "stub"),
        ("", "stub"),
    ];
    for (reply, detail) in replies {
        let stub = Stub::by_hand().await;
        let world = World::open(&stub).await;
        let caller = world.caller().key(&world.key("acme/x").await);
        let backend = async {
            let mut exchange = stub.next().await;
            exchange.send(reply).await;
        };
        let body = chat("llama");
        let (answer, ()) = tokio::join!(caller.chat(&body), backend);
        let record = answer.assert_refused(&world, 502, "backend_broke").await;
        assert!(record["detail"].as_str().unwrap().contains(detail), "{record}");
        assert_eq!((&record["backend"], &record["target"]), (&"stub".into(), &"org/llama-8b".into()));
        assert!(answer.header("location").is_none() && !answer.text().contains("10.0.0.9"));
        // It is never sent twice.
        stub.only();
    }
}

#[tokio::test]
async fn backend_timeout() {
    let stub = Stub::by_hand().await;
    let world =
        Setup::new(&stub).backend(&stub, "timeouts = { first_byte = \"50ms\", first_event = \"60ms\" }").start().await;
    let caller = world.caller().key(&world.key("acme/x").await);
    for body in [chat("llama"), chat_stream("llama")] {
        let backend = async { stub.next().await.closed().await };
        let (answer, _) = tokio::join!(caller.chat(&body), backend);
        answer.assert_refused(&world, 504, "backend_timeout").await;
    }
}

#[tokio::test]
async fn http_version_not_supported() {
    let stub = Stub::chatty().await;
    let world = World::open(&stub).await;
    let key = world.key("acme/x").await;
    let mut line = world.caller().raw().await;
    line.send(format!("GET /v1/models HTTP/1.0\r\nHost: llm.test\r\nAuthorization: Bearer {}\r\n\r\n", key.text)).await;
    let answer = line.answer().await;
    answer.assert_refused(&world, 505, "http_version_not_supported").await;
    assert_eq!(answer.value("x-should-retry"), Some("false"));
    assert_eq!(line.read_to_end().await, (String::new(), false));
    stub.assert_untouched();
}

/// The error is written in the words of the API whose path was asked for.
#[tokio::test]
async fn shapes_follow_the_path() {
    let stub = Stub::chatty().await;
    let world = World::open(&stub).await;
    let mut line = world.caller().h1().await;
    let openai = line.post(CHAT, "{}").await.json();
    assert_eq!(openai["error"]["code"], "invalid_credentials");
    assert!(openai["error"]["param"].is_null() && openai["error"]["type"] == "authentication_error");
    let anthropic = line.post("/v1/messages", "{}").await.json();
    assert_eq!((&anthropic["type"], &anthropic["error"]["type"]), (&"error".into(), &"authentication_error".into()));
    for path in ["/api/chat", "/"] {
        assert!(line.post(path, "{}").await.json()["error"].is_string());
    }
    let own = line.post("/.doorward/v1/enroll", "{}").await;
    assert_eq!((own.header("content-type"), &own.json()["status"]), (Some("application/problem+json"), &401.into()));
    stub.assert_untouched();
}

/// A backend's own errors are the caller's to read.
#[tokio::test]
async fn errors_of_a_backend_pass() {
    let stub = Stub::scripted(|_| {
        b"HTTP/1.1 429 Too Many Requests\r\nContent-Type: application/json\r\nRetry-After: 7\r\nContent-Length: 14\r\n\r\n{\"error\":\"no\"}".to_vec()
    })
    .await;
    let world = World::open(&stub).await;
    let answer = world.caller().key(&world.key("acme/x").await).chat(&chat("same")).await;
    assert_eq!((answer.status, answer.text()), (429, "{\"error\":\"no\"}"));
    assert_eq!((answer.header("retry-after"), answer.header("x-doorward-origin")), (Some("7"), None));
    let record = world.record(answer.request_id()).await;
    assert_eq!((&record["outcome"], &record["status"]), (&"forwarded".into(), &429.into()));
    assert!(record["code"].is_null());
}

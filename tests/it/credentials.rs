//! Credentials as they should not be sent. All are refused alike, and none reaches a backend.

use std::time::Duration;

use doorward::domain::failures::EVERY;
use doorward::domain::key::NewKey;
use http::Method;

use crate::support::{CHAT, Caller, Setup, Stub, Whole, World, chat};

/// All that a caller can see of an answer, but what differs in every answer.
fn look(mut answer: Whole) -> String {
    for name in ["x-request-id", "date"] {
        assert!(answer.headers.remove(name).is_some(), "{name}");
    }
    let text = String::from_utf8(answer.body).unwrap();
    // Anthropic's errors name the request in their body too.
    let id = serde_json::from_str::<serde_json::Value>(&text).unwrap()["request_id"].as_str().map(str::to_owned);
    format!("{} {:?} {}", answer.status, answer.headers, id.map_or(text.clone(), |id| text.replace(&id, "ID")))
}

/// A credential, and where it is put.
fn presenting(world: &World, header: &str, value: &[u8]) -> Caller {
    world.caller().header_bytes(header, value)
}

/// How the key is written around is not the secret: what HTTP leaves open is read generously, what
/// could be two things is refused.
#[tokio::test]
async fn the_scheme_is_case_insensitive_and_nothing_else_is() {
    let stub = Stub::chatty().await;
    let world = World::open(&stub).await;
    let key = world.key("acme/x").await.text;
    for good in [format!("Bearer {key}"), format!("bearer {key}"), format!("BEARER {key}"), format!("bEaReR {key}")] {
        for mut line in presenting(&world, "authorization", good.as_bytes()).both().await {
            line.chat(&chat("llama")).await.assert_served();
        }
    }
    // HTTP/1.1 has white space around a value that does not belong to it (RFC 9110, 5.5).
    let mut line = world.caller().raw().await;
    line.send(format!("GET /v1/models HTTP/1.1\r\nHost: llm.test\r\nAuthorization: \t Bearer {key} \t \r\n\r\n")).await;
    assert_eq!(line.answer().await.status, 200);

    // In HTTP/2 a value never ends in white space (RFC 9113, 8.2.1): then it is part of it.
    let mut line = presenting(&world, "authorization", format!("Bearer {key} ").as_bytes()).h2().await;
    line.chat(&chat("llama")).await.assert_refused(&world, 401, "invalid_credentials").await;

    let served = stub.seen().len();
    for wrong in [
        format!("Bearer  {key}"),
        format!("Bearer\t{key}"),
        format!("Bearer{key}"),
        format!("Bearer:{key}"),
        format!("Bearer {key},"),
        format!("Bearer {key} {key}"),
        format!("Bearer \"{key}\""),
        format!("Bearer {key};"),
        format!("Basic {key}"),
        format!("Token {key}"),
        key.clone(),
        "Bearer".to_owned(),
        String::new(),
    ] {
        let mut line = presenting(&world, "authorization", wrong.as_bytes()).h1().await;
        line.chat(&chat("llama")).await.assert_refused(&world, 401, "invalid_credentials").await;
    }
    assert_eq!(stub.seen().len(), served);
}

/// Keys that are nearly one.
fn look_alikes(key: &str) -> Vec<Vec<u8>> {
    let mut wrong: Vec<Vec<u8>> = vec![
        key[..key.len() - 1].into(),
        key[1..].into(),
        format!("{key}0").into(),
        format!("{key}\u{200b}").into(),
        key.replacen("dw_", "DW_", 1).into(),
        key.replacen("dw_", "dw-", 1).into(),
        // Cyrillic.
        key.replacen("dw_", "\u{501}w_", 1).into(),
        key.to_ascii_uppercase().into(),
        key[..15].into(),
        format!("{}_", &key[..15]).into(),
        b"dw_".to_vec(),
        b"dw__".to_vec(),
        b"sk-0123456789abcdef".to_vec(),
        b"Certificate".to_vec(),
        b"null".to_vec(),
        vec![b'x'; 8 << 10],
        [key.as_bytes(), &vec![b'0'; 8 << 10]].concat(),
        vec![0xff; 65],
        [&key.as_bytes()[..64], &[0xe9]].concat(),
    ];
    // Letters that look alike, one at a time.
    for (from, to) in [(b'0', b'O'), (b'O', b'0'), (b'l', b'1'), (b'1', b'l'), (b'I', b'l')] {
        if let Some(at) = key.bytes().position(|byte| byte == from) {
            let mut bytes = key.as_bytes().to_vec();
            bytes[at] = to;
            wrong.push(bytes);
        }
    }
    wrong
}

#[tokio::test]
async fn what_looks_like_a_key_is_none() {
    let stub = Stub::chatty().await;
    let world = Setup::new(&stub).manual_clock().start().await;
    let key = world.key("acme/x").await;
    let mut seen = None;
    for wrong in look_alikes(&key.text) {
        for header in ["authorization", "x-api-key", "api-key"] {
            let value = if header == "authorization" { [b"Bearer ", &wrong[..]].concat() } else { wrong.clone() };
            for mut line in presenting(&world, header, &value).both().await {
                let answer = line.chat(&chat("llama")).await;
                let record = answer.assert_refused(&world, 401, "invalid_credentials").await;
                assert_eq!((&record["key_id"], &record["owner"]), (&().into(), &().into()));
                let h2 = line.is_h2();
                let look = look(answer);
                assert_eq!(*seen.get_or_insert_with(|| look.clone()), look, "{h2} {}", String::from_utf8_lossy(&wrong));
                // Below the limit of failures.
                world.clock.advance(EVERY);
            }
        }
    }
    stub.assert_untouched();
    assert!(!std::fs::read_to_string(world.state.join("records.jsonl")).unwrap().contains(&key.text[..40]));
}

/// Longer than all headers may be together: refused before anybody is asked.
#[tokio::test]
async fn an_endless_key_is_not_read() {
    let stub = Stub::chatty().await;
    let world = World::open(&stub).await;
    let endless = vec![b'x'; 64 << 10];
    let [mut h1, mut h2] = presenting(&world, "x-api-key", &endless).both().await;
    assert_eq!(h1.get("/v1/models").await.status, 431);
    let request = h2.json(CHAT, &chat("llama"));
    match h2.send(request).await {
        Ok(answer) => assert_eq!(answer.status(), 431),
        Err(error) => assert!(error.is_closed() || format!("{error:?}").contains("Reset"), "{error:?}"),
    }
    stub.assert_untouched();
}

/// Two different ones are none, whichever of them is good; the same one in all places is one.
#[tokio::test]
async fn two_credentials_are_none() {
    let stub = Stub::chatty().await;
    let world = World::open(&stub).await;
    let (one, two) = (world.key("acme/x").await.text, world.key("acme/y").await.text);
    let bearer = |key: &str| format!("Bearer {key}");
    let alice = world.certificate("alice");
    for (headers, served) in [
        (vec![("authorization", bearer(&one)), ("x-api-key", one.clone()), ("api-key", one.clone())], true),
        (vec![("x-api-key", one.clone()), ("x-api-key", one.clone())], true),
        (vec![("authorization", bearer(&one)), ("x-api-key", two.clone())], false),
        (vec![("authorization", bearer(&one)), ("authorization", bearer(&two))], false),
        (vec![("x-api-key", one.clone()), ("api-key", two)], false),
        (vec![("authorization", bearer(&one)), ("x-api-key", "nonsense".to_owned())], false),
        (vec![("authorization", bearer(&one)), ("x-api-key", String::new())], false),
        (vec![("authorization", bearer(&one)), ("x-api-key", "certificate".to_owned())], false),
        (vec![("authorization", bearer("certificate")), ("x-api-key", "certificate".to_owned())], true),
    ] {
        let caller =
            headers.iter().fold(world.caller().certificate(&alice), |caller, (name, value)| caller.header(name, value));
        for mut line in caller.both().await {
            let answer = line.chat(&chat("llama")).await;
            if served {
                answer.assert_served();
            } else {
                answer.assert_refused(&world, 401, "invalid_credentials").await;
            }
        }
    }
}

/// A key in a URL is refused, whoever else vouches for the caller, and is not written down.
#[tokio::test]
async fn keys_in_queries_are_refused() {
    let stub = Stub::chatty().await;
    let world = World::open(&stub).await;
    let key = world.key("acme/x").await;
    let escaped: String = key.text.bytes().map(|byte| format!("%{byte:02x}")).collect();
    for mut line in world.caller().key(&key).certificate(&world.certificate("alice")).both().await {
        for query in [
            format!("api_key={}", key.text),
            format!("beta=true&API-KEY={}", key.text),
            format!("x={}", key.text),
            format!("x=Bearer%20{}", key.text),
            key.text.clone(),
            format!("x={escaped}"),
            format!("access_token={}", &key.text[..20]),
        ] {
            let answer = line.fetch(Method::GET, &format!("/v1/models?{query}")).await;
            answer.assert_refused(&world, 400, "credential_in_query").await;
            assert!(!answer.text().contains(&key.text[..20]));
        }
    }
    let records = std::fs::read_to_string(world.state.join("records.jsonl")).unwrap();
    assert!(!records.contains(&key.text[3..]) && !records.contains(&escaped));
    stub.assert_untouched();
}

/// A key of the right form, check characters and all, under the id of another.
fn with_another_secret(key: &str) -> String {
    const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let mut text = key[..59].to_owned();
    let other = if &text[30..31] == "a" { "b" } else { "a" };
    text.replace_range(30..31, other);
    let mut number = crc32fast::hash(text.as_bytes());
    let mut check = Vec::new();
    for _ in 0..6 {
        check.insert(0, BASE62[(number % 62) as usize]);
        number /= 62;
    }
    text + std::str::from_utf8(&check).unwrap()
}

/// Unknown, wrong, malformed, expired and revoked are one answer to the last byte, in each dialect
/// and over either protocol, below the limit of failures.
#[tokio::test]
async fn refused_credentials_are_indistinguishable() {
    let stub = Stub::chatty().await;
    let world = Setup::new(&stub).manual_clock().start().await;
    let good = world.key("acme/x").await;
    let expired = world.key_with("acme/x", Some(world.clock.now().after(Duration::from_secs(1))), &[], &[], &[]).await;
    let revoked = world.key("acme/x").await;
    let before = world.generation();
    world.revoke_key(&revoked.id);
    world.changed_since(before).await;
    world.clock.advance(Duration::from_secs(1));
    let wrong = with_another_secret(&good.text);
    let unknown = NewKey::from_random([9; 8], &[9; 32]).reveal().to_owned();
    for path in [CHAT, "/v1/messages", "/api/chat", "/.doorward/v1/enroll"] {
        let mut seen: [Option<String>; 2] = [None, None];
        for (credential, detail) in [
            (&unknown, "unknown key"),
            (&wrong, "wrong secret"),
            (&expired.text, "is expired"),
            (&revoked.text, "is revoked"),
            (&"dw_nonsense".to_owned(), "not the form"),
        ] {
            for mut line in world.caller().header("authorization", &format!("Bearer {credential}")).both().await {
                let answer = line.post(path, &chat("llama")).await;
                let record = answer.assert_refused(&world, 401, "invalid_credentials").await;
                assert!(record["detail"].as_str().unwrap().contains(detail), "{record}");
                let first = &mut seen[usize::from(line.is_h2())];
                let look = look(answer);
                assert_eq!(*first.get_or_insert_with(|| look.clone()), look, "{detail}");
                world.clock.advance(EVERY);
            }
        }
    }
    stub.assert_untouched();
}

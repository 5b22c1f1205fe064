//! Which headers pass. What a caller says about itself never reaches a backend as if it were ours,
//! and what a backend says of itself stays with us.

use std::collections::BTreeMap;

use crate::support::{CHAT, Setup, Stub, World, chat, json_reply};

/// What callers try to make a backend believe.
const SPOOFS: [&str; 34] = [
    "authorization",
    "cookie",
    "forwarded",
    "host",
    "proxy-authorization",
    "proxy-connection",
    "keep-alive",
    "te",
    "trailer",
    "upgrade",
    "via",
    "range",
    "if-none-match",
    "accept-encoding",
    "content-language",
    "user-agent",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-forwarded-user",
    "x-real-ip",
    "x-client-cert",
    "x-ssl-client-dn",
    "x-request-id",
    "x-doorward-subject",
    "x-doorward-owner",
    "x-doorward-key-id",
    "x-doorward-request-id",
    "x-doorward-anything",
    "x-remote-user",
    "x-original-url",
    "x-http-method-override",
    "x-api-key",
    "api-key",
];

#[tokio::test]
async fn nothing_but_the_listed_reaches_a_backend() {
    let stub = Stub::scripted(|_| json_reply("{}")).await;
    for forward_identity in [false, true] {
        let more = format!("credential = \"backend-secret\"\nforward_identity = {forward_identity}");
        let world = Setup::new(&stub).backend(&stub, &more).start().await;
        let key = world.key("acme/x").await;
        let title = |name: &str| {
            let words = name.split('-').map(|word| format!("{}{}", word[..1].to_uppercase(), &word[1..]));
            words.collect::<Vec<_>>().join("-")
        };
        let spellings: [&dyn Fn(&str) -> String; 4] =
            [&str::to_owned, &title, &str::to_uppercase, &|name| name.replace('-', "_")];
        for spell in spellings {
            for name in SPOOFS {
                let spelled = spell(name);
                // The same key may come twice; the host may not, and is tested elsewhere.
                let value = if name.ends_with("api-key") { &key.text } else { "spoofed" };
                if matches!(spelled.to_lowercase().as_str(), "host" | "authorization") {
                    continue;
                }
                let body = chat("same");
                let request = format!(
                    "POST {CHAT} HTTP/1.1\r\nHost: llm.test\r\nAuthorization: Bearer {}\r\nContent-Type: application/json; charset=utf-8\r\n{spelled}: {value}\r\n{spelled}: {value}\r\nConnection: x-named, accept, {spelled}\r\nX-Named: spoofed\r\nAccept: spoofed\r\nTraceparent: kept\r\nAnthropic-Version: kept\r\nContent-Length: {}\r\n\r\n{body}",
                    key.text,
                    body.len()
                );
                let mut line = world.caller().raw().await;
                line.send(request).await;
                let answer = line.answer().await;
                assert_eq!(answer.status, 200, "{spelled} {answer:?}");
                let seen = stub.seen().pop().unwrap();
                let mut fields: BTreeMap<String, String> = BTreeMap::new();
                for field in seen.head.lines().skip(1).filter(|line| !line.is_empty()) {
                    let (name, value) = field.split_once(':').unwrap();
                    let double = fields.insert(name.to_ascii_lowercase(), value.trim().to_owned());
                    assert_eq!(double, None, "{}", seen.head);
                }
                let id = answer.value("x-request-id").unwrap();
                let (address, length) = (stub.address.to_string(), body.len().to_string());
                let mut expected = BTreeMap::from([
                    ("accept-encoding", "identity"),
                    ("anthropic-version", "kept"),
                    ("authorization", "Bearer backend-secret"),
                    ("content-length", &length),
                    ("content-type", "application/json"),
                    ("host", &address),
                    ("traceparent", "kept"),
                    ("x-request-id", id),
                ]);
                if forward_identity {
                    expected.insert("x-doorward-owner", "acme/x");
                    expected.insert("x-doorward-key-id", key.id.as_str());
                    expected.insert("x-doorward-request-id", id);
                }
                let fields: BTreeMap<_, _> = fields.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
                assert_eq!(fields, expected, "{spelled}");
                assert!(!seen.head.contains("spoofed") && !seen.head.contains(&key.text), "{}", seen.head);
            }
        }
    }
}

/// Over HTTP/2, and with a certificate: the identity that the gateway tells is the proven one.
#[tokio::test]
async fn the_told_identity_is_the_proven_one() {
    let stub = Stub::scripted(|_| json_reply("{}")).await;
    let world = Setup::new(&stub).backend(&stub, "forward_identity = true").start().await;
    let caller = world.caller().certificate(&world.certificate("alice")).header("x-doorward-subject", "root");
    let caller = caller.header("x-doorward-key-id", "spoofed").header("x_doorward_subject", "spoofed");
    for mut line in caller.both().await {
        line.chat(&chat("llama")).await.assert_served();
        let seen = stub.seen().pop().unwrap();
        assert_eq!(seen.values("x-doorward-subject"), ["spiffe://corp.test/client/alice"]);
        assert_eq!(seen.values("x-doorward-owner"), ["acme/people"]);
        assert!(seen.values("x-doorward-key-id").is_empty() && !seen.head.contains("spoofed"), "{}", seen.head);
        assert!(seen.values("authorization").is_empty());
    }
}

#[tokio::test]
async fn what_a_backend_says_of_itself_stays_here() {
    const REPLY: &str = "HTTP/1.1 200 OK\r\nServer: uvicorn\r\nSet-Cookie: a=b\r\nset-cookie: c=d\r\nAlt-Svc: h3=\":443\"\r\nAccess-Control-Allow-Origin: *\r\nAccess-Control-Allow-Credentials: true\r\nAccess-Control-Allow-Headers: *\r\nAccess-Control-Allow-Methods: *\r\nAccess-Control-Expose-Headers: *\r\nAccess-Control-Max-Age: 1\r\nAccess-Control-Allow-Private-Network: true\r\nX-Doorward-Origin: gateway\r\nX-DOORWARD-Anything: x\r\nX-Request-Id: theirs\r\nProxy-Authenticate: Basic\r\nWWW-Authenticate: Basic\r\nKeep-Alive: timeout=5\r\nConnection: keep-alive, X-Named\r\nX-Named: hidden\r\nOpenAI-Organization: org\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\nX-Ratelimit-Limit: 7\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";
    let stub = Stub::scripted(|_| REPLY.as_bytes().to_vec()).await;
    let world = World::open(&stub).await;
    for mut line in world.caller().key(&world.key("acme/x").await).both().await {
        let answer = line.chat(&chat("same")).await;
        let id = world.record(answer.request_id()).await["request_id"].clone();
        assert_eq!(answer.header("x-request-id"), id.as_str());
        let mut names: Vec<_> = answer.headers.keys().map(http::HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["content-length", "content-type", "date", "x-ratelimit-limit", "x-request-id"]);
        assert!(!answer.header("date").unwrap().contains("1970"));
    }
}

/// A reply without content has no length (RFC 9110, 8.6), whatever its backend says; and where it
/// lives is for nobody to know.
#[tokio::test]
async fn a_reply_without_content_has_no_length_and_no_address() {
    let stub = Stub::scripted(|_| {
        b"HTTP/1.1 204 No Content\r\ncontent-length: 5\r\nlocation: http://10.0.0.5:8000/x\r\nvia: 1.1 inside\r\n\r\n"
            .to_vec()
    })
    .await;
    let world = World::open(&stub).await;
    let key = world.key("acme/x").await;
    for mut line in world.caller().key(&key).both().await {
        for _ in 0..2 {
            let answer = line.chat(&chat("llama")).await;
            assert_eq!((answer.status, &answer.broke), (204, &None));
            for name in ["content-length", "location", "via"] {
                assert_eq!(answer.header(name), None, "{name}");
            }
        }
    }
}

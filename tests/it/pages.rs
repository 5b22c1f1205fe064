//! Web pages as callers: who may call, and what browsers are told that pages may read.

use http::{HeaderMap, Method};

use crate::support::{CHAT, Caller, Setup, Stub, Whole, World, chat, chat_stream, json_reply, live};

const CHAT_PAGE: &str = "https://chat.corp.test";
const TOOLS_PAGE: &str = "http://localhost:3000";
const FOREIGN: &str = "https://evil.test";

/// Pages of two origins for `acme`, of one for `acme/one`, of a third for `other`.
const PAGES: &str = r#"
[[grant]]
owner = "acme"
require = "either"
networks = ["127.0.0.0/8"]
endpoints = ["*"]
models = ["*"]
cors_origins = ["https://chat.corp.test", "http://localhost:3000"]

[[grant]]
owner = "acme/one"
cors_origins = ["https://chat.corp.test"]

[[grant]]
owner = "other"
require = "either"
networks = ["127.0.0.0/8"]
endpoints = ["*"]
models = ["*"]

[[grant]]
owner = "third"
cors_origins = ["https://third.corp.test"]

[[identity]]
match = "spiffe://corp.test/client/*"
owner = "acme/one"

[[identity]]
match = "spiffe://corp.test/client/other-*"
owner = "other"
"#;

async fn world(stub: &Stub) -> World {
    Setup::new(stub).grants(PAGES).start().await
}

/// All headers that speak to browsers about pages, in order.
fn told(headers: &HeaderMap) -> Vec<(String, String)> {
    let about = |name: &str| name.starts_with("access-control-") || name == "vary";
    let mut told: Vec<_> = headers
        .iter()
        .filter(|(name, _)| about(name.as_str()))
        .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
        .collect();
    told.sort();
    told
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

const EXPOSED: &str = "x-request-id, x-doorward-origin, retry-after, retry-after-ms, x-should-retry";

#[track_caller]
fn assert_readable(headers: &HeaderMap, origin: &str) {
    let expected = pairs(&[
        ("access-control-allow-credentials", "true"),
        ("access-control-allow-origin", origin),
        ("access-control-expose-headers", EXPOSED),
        ("vary", "Origin"),
    ]);
    assert_eq!(told(headers), expected);
}

/// Nothing is said to browsers but, at most, that answers differ.
#[track_caller]
fn assert_unreadable(headers: &HeaderMap) {
    let told: Vec<_> = told(headers).into_iter().filter(|(name, _)| name != "vary").collect();
    assert_eq!(told, []);
}

async fn ask(caller: &Caller, path: &str, method: &str) -> Whole {
    let caller = caller.clone().header("access-control-request-method", method);
    caller.h1().await.fetch(Method::OPTIONS, path).await
}

/// A browser asks before a page calls; it has no credential then, and needs none.
#[tokio::test]
async fn a_preflight_is_answered_if_any_grant_lists_the_origin() {
    let stub = Stub::chatty().await;
    let world = world(&stub).await;
    for origin in [CHAT_PAGE, TOOLS_PAGE, "https://third.corp.test"] {
        let caller = world.caller().header("origin", origin).header("access-control-request-method", "POST");
        let caller = caller.header("access-control-request-headers", "authorization,content-type,x-stainless-os");
        for mut line in caller.both().await {
            let answer = line.fetch(Method::OPTIONS, CHAT).await;
            let expected = pairs(&[
                ("access-control-allow-credentials", "true"),
                ("access-control-allow-headers", "authorization,content-type,x-stainless-os"),
                ("access-control-allow-methods", "POST"),
                ("access-control-allow-origin", origin),
                ("access-control-expose-headers", EXPOSED),
                ("access-control-max-age", "600"),
                ("vary", "Access-Control-Request-Method, Access-Control-Request-Headers"),
                ("vary", "Origin"),
            ]);
            assert_eq!((answer.status, told(&answer.headers)), (204, expected));
            assert_eq!((answer.text(), answer.header("content-type")), ("", None));
            assert_eq!(answer.header("x-doorward-origin"), Some("gateway"));
            let record = world.record(answer.request_id()).await;
            assert_eq!((&record["outcome"], &record["status"]), (&"answered".into(), &204.into()));
            assert_eq!(record["endpoint"], "openai.chat_completions");
            assert!(record["owner"].is_null() && record["code"].is_null(), "{record}");
            // The connection goes on.
            assert_eq!(line.fetch(Method::OPTIONS, CHAT).await.status, 204);
        }
    }
    stub.assert_untouched();
}

/// Leave is given for paths and methods that exist, to listed pages, and for nothing else.
#[tokio::test]
async fn other_preflights_are_refused() {
    let stub = Stub::chatty().await;
    let world = world(&stub).await;
    let page = world.caller().header("origin", CHAT_PAGE);
    for (path, method, status, code) in [
        ("/nowhere", "POST", 404, "not_found"),
        ("/api/pull", "POST", 404, "not_found"),
        ("/v1/../v1/models", "GET", 400, "invalid_path"),
        (CHAT, "GET", 405, "method_not_allowed"),
        (CHAT, "DELETE", 405, "method_not_allowed"),
        (CHAT, "post", 405, "method_not_allowed"),
        ("/v1/models", "POST", 405, "method_not_allowed"),
        (CHAT, "a b", 400, "invalid_path"),
        ("/v1/models?key=x", "GET", 400, "credential_in_query"),
    ] {
        ask(&page, path, method).await.assert_refused(&world, status, code).await;
    }
    assert_eq!(ask(&page, "/v1/models/org%2Fllama", "GET").await.header("access-control-allow-methods"), Some("GET"));
    assert_eq!(ask(&page, "/", "HEAD").await.header("access-control-allow-methods"), Some("GET, HEAD"));
    for origin in
        [FOREIGN, "null", "", "*", "https://chat.corp.test/", "https://chat.corp.test:443", "http://chat.corp.test"]
    {
        let answer = ask(&world.caller().header("origin", origin), CHAT, "POST").await;
        answer.assert_refused(&world, 403, "origin_not_allowed").await;
        assert_unreadable(&answer.headers);
    }
    // Two origins are none.
    let answer = ask(&page.clone().header("origin", CHAT_PAGE), CHAT, "POST").await;
    answer.assert_refused(&world, 403, "origin_not_allowed").await;
    assert_unreadable(&answer.headers);
    // Names of headers that are none.
    let odd = page.clone().header("access-control-request-headers", "x: y");
    assert_eq!(ask(&odd, CHAT, "POST").await.header("access-control-allow-headers"), None);
    // Without a question, or with a credential, OPTIONS is a method like others.
    page.h1().await.fetch(Method::OPTIONS, CHAT).await.assert_refused(&world, 401, "invalid_credentials").await;
    let keyed = page.key(&world.key("acme/x").await);
    ask(&keyed, CHAT, "POST").await.assert_refused(&world, 405, "method_not_allowed").await;
    stub.assert_untouched();
}

/// The request itself goes by its caller's own grants: every list on the path that names origins.
#[tokio::test]
async fn a_page_reads_what_its_callers_grants_let_it_read() {
    let stub = Stub::chatty().await;
    let world = world(&stub).await;
    let (wide, narrow, none) = (world.key("acme/x").await, world.key("acme/one/x").await, world.key("other/x").await);
    for (key, origin, readable) in [
        (&wide, CHAT_PAGE, true),
        (&wide, TOOLS_PAGE, true),
        (&wide, "https://third.corp.test", false),
        (&narrow, CHAT_PAGE, true),
        (&narrow, TOOLS_PAGE, false),
        (&none, CHAT_PAGE, false),
        (&wide, FOREIGN, false),
        (&wide, "null", false),
    ] {
        for mut line in world.caller().key(key).header("origin", origin).both().await {
            // A key is nothing that a browser lends by itself: the request passes either way.
            for answer in
                [line.chat(&chat("llama")).await, line.chat(&chat_stream("llama")).await, line.get("/v1/models").await]
            {
                assert_eq!(answer.status, 200);
                if readable {
                    assert_readable(&answer.headers, origin);
                } else {
                    assert_unreadable(&answer.headers);
                }
            }
        }
    }
    // Who is no page is told nothing.
    let answer = world.caller().key(&wide).chat(&chat("llama")).await;
    assert_eq!(told(&answer.headers), []);
}

/// A page must not lend itself a certificate, unless its caller's own grants say so.
#[tokio::test]
async fn a_certificate_is_lent_to_listed_pages_only() {
    let stub = Stub::chatty().await;
    let world = world(&stub).await;
    let alice = world.caller().certificate(&world.certificate("alice"));
    for caller in [alice.clone(), alice.clone().header("authorization", "Bearer certificate")] {
        for mut line in caller.clone().header("origin", CHAT_PAGE).both().await {
            let answer = line.chat(&chat("llama")).await;
            answer.assert_served();
            assert_readable(&answer.headers, CHAT_PAGE);
        }
        let served = stub.seen().len();
        for origin in [TOOLS_PAGE, "https://third.corp.test", FOREIGN, "null", ""] {
            for mut line in caller.clone().header("origin", origin).both().await {
                let answer = line.chat(&chat("llama")).await;
                answer.assert_refused(&world, 403, "origin_not_allowed").await;
                assert_unreadable(&answer.headers);
            }
        }
        let twice = caller.header("origin", CHAT_PAGE).header("origin", CHAT_PAGE);
        twice.chat(&chat("llama")).await.assert_refused(&world, 403, "origin_not_allowed").await;
        assert_eq!(stub.seen().len(), served);
    }
    // Both paths apply, of which the key's says nothing about pages.
    let both = alice.clone().header("origin", CHAT_PAGE).key(&world.key("other/x").await);
    let answer = both.chat(&chat("llama")).await;
    answer.assert_served();
    assert_readable(&answer.headers, CHAT_PAGE);
    let other = world.caller().certificate(&world.certificate("other-bob")).header("origin", CHAT_PAGE);
    other.chat(&chat("llama")).await.assert_refused(&world, 403, "origin_not_allowed").await;
}

/// A page can show its reader why it was refused, where any stranger may know that.
#[tokio::test]
async fn refusals_are_readable_by_listed_pages() {
    let stub = Stub::chatty().await;
    let world = Setup::new(&stub).grants(PAGES).manual_clock().start().await;
    let page = |origin: &str| world.caller().header("origin", origin).header("authorization", "Bearer dw_nonsense");
    for _ in 0..20 {
        let answer = page(TOOLS_PAGE).chat(&chat("llama")).await;
        answer.assert_refused(&world, 401, "invalid_credentials").await;
        assert_readable(&answer.headers, TOOLS_PAGE);
    }
    let answer = page(TOOLS_PAGE).chat(&chat("llama")).await;
    answer.assert_refused(&world, 429, "too_many_failures").await;
    assert_readable(&answer.headers, TOOLS_PAGE);
    assert_eq!(answer.header("retry-after-ms"), Some("6000"));
    let answer = page(FOREIGN).chat(&chat("llama")).await;
    answer.assert_refused(&world, 429, "too_many_failures").await;
    assert_eq!(told(&answer.headers), []);
    // Of a caller that is known, its own grants decide.
    let (wide, narrow) = (world.key("acme/x").await, world.key("acme/one/x").await);
    for (key, readable) in [(&wide, true), (&narrow, false)] {
        let answer = world.caller().key(key).header("origin", TOOLS_PAGE).chat(&chat("unknown")).await;
        answer.assert_refused(&world, 404, "model_not_found").await;
        if readable {
            assert_readable(&answer.headers, TOOLS_PAGE);
        } else {
            assert_unreadable(&answer.headers);
        }
    }
    stub.assert_untouched();
}

/// What a backend says to browsers is not passed on, neither beside ours nor instead.
#[tokio::test]
async fn a_backends_own_words_to_browsers_stay_here() {
    const REPLY: &str = "HTTP/1.1 200 OK\r\nAccess-Control-Allow-Origin: *\r\nAccess-Control-Allow-Credentials: true\r\nAccess-Control-Expose-Headers: *\r\nVary: Accept-Encoding\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";
    let stub = Stub::scripted(|_| REPLY.as_bytes().to_vec()).await;
    let world = world(&stub).await;
    let page = world.caller().key(&world.key("acme/x").await).header("origin", CHAT_PAGE);
    let answer = page.chat(&chat("same")).await;
    let expected = pairs(&[
        ("access-control-allow-credentials", "true"),
        ("access-control-allow-origin", CHAT_PAGE),
        ("access-control-expose-headers", EXPOSED),
        ("vary", "Accept-Encoding"),
        ("vary", "Origin"),
    ]);
    assert_eq!(told(&answer.headers), expected);
    let foreign = world.caller().key(&world.key("acme/x").await).header("origin", FOREIGN);
    assert_unreadable(&foreign.chat(&chat("same")).await.headers);
}

/// Off unless written: no page is told anything, and none is lent a certificate.
#[tokio::test]
async fn without_origins_no_page_is_told_anything() {
    let stub = Stub::scripted(|_| json_reply("{}")).await;
    let world = World::open(&stub).await;
    let page = world.caller().header("origin", CHAT_PAGE);
    let answer = ask(&page, CHAT, "POST").await;
    answer.assert_refused(&world, 403, "origin_not_allowed").await;
    assert_eq!(told(&answer.headers), []);
    let answer = page.clone().key(&world.key("acme/x").await).chat(&chat("llama")).await;
    answer.assert_served();
    assert_eq!(told(&answer.headers), []);
}

/// A grant that loses a page ends what that page does with a lent certificate, and nothing else.
#[tokio::test]
async fn a_page_that_is_struck_from_the_list_loses_its_live_stream() {
    let stub = Stub::by_hand().await;
    let mut setup = Setup::new(&stub);
    setup.grants = PAGES.to_owned();
    let text = setup.text();
    let mut world = setup.start().await;
    let lent = world.caller().certificate(&world.certificate("alice")).header("origin", CHAT_PAGE);
    let keyed = world.caller().key(&world.key("acme/one/x").await).header("origin", CHAT_PAGE);
    let (mut lent_line, mut keyed_line) = (lent.h1().await, keyed.h2().await);
    let (lent_flow, lent_exchange) = live(&mut lent_line, &stub).await;
    let (keyed_flow, mut keyed_exchange) = live(&mut keyed_line, &stub).await;
    world.reload(&text.replace("https://chat.corp.test", "https://new.corp.test"));
    let (_, broke) = lent_flow.end().await;
    assert!(broke.is_some());
    lent_exchange.closed().await;
    keyed_exchange.chunk("data: [DONE]\n\n").await;
    keyed_exchange.end().await;
    assert_eq!(keyed_flow.end().await.1, None);
    lent.chat(&chat("llama")).await.assert_refused(&world, 403, "origin_not_allowed").await;
}

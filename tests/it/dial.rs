//! `dial`: tools that know nothing of certificates, against a real gateway.

use std::time::Duration;

use doorward::ca::leaf::Existing;
use doorward::cli::cert;
use doorward::domain::identity::{IdentityName, Role};
use doorward::holder::reach::{ProxyUrl, Reach};
use doorward::store::rows::Serial;
use futures_util::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream, UnixStream};

use crate::support::{
    CHAT, DialSetup, Exchange, LONG, Setup, Stub, World, chat, chat_stream, dead_port, until, within,
};

const TOKEN: &str = "dial_0123456789012345678901234567890123456789012";

#[tokio::test]
async fn a_tool_is_served_with_the_certificate_and_its_own_credential_stays() {
    let stub = Stub::chatty().await;
    let world = World::open(&stub).await;
    let dial = DialSetup::new(&world).start(&world).await;
    let fields = "Authorization: Bearer sk-tool-secret\r\nX-Api-Key: other-secret\r\nCookie: c=1\r\n";
    let said = dial.post(CHAT, fields, &chat("llama")).await;
    assert_eq!(said.status, 200, "{said:?}");
    assert_eq!(said.json()["object"], "chat.completion");
    let record = world.record(said.value("x-request-id").unwrap()).await;
    assert_eq!(record["identity"], "spiffe://corp.test/client/dialler", "{record}");
    assert_eq!(record.get("key_id").filter(|id| !id.is_null()), None, "{record}");
    let head = stub.only().head;
    assert!(!head.contains("secret") && !head.contains("c=1"), "{head}");
}

#[tokio::test]
async fn requests_share_one_connection() {
    let stub = Stub::chatty().await;
    let world = World::open(&stub).await;
    let dial = DialSetup::new(&world).start(&world).await;
    let mut tool = dial.tool().await;
    for _ in 0..3 {
        assert_eq!(tool.post(CHAT, "", &chat("llama")).await.status, 200);
    }
    let body = chat("llama");
    let many = (0..20).map(|_| dial.post(CHAT, "", &body));
    assert!(join_all(many).await.iter().all(|said| said.status == 200));
    assert!((world.metric("doorward_connections").await - 1.0).abs() < f64::EPSILON);
}

#[tokio::test]
async fn a_stream_passes_event_by_event() {
    let stub = Stub::by_hand().await;
    let world = World::open(&stub).await;
    let dial = DialSetup::new(&world).start(&world).await;
    let mut tool = dial.tool().await;
    tool.begin(CHAT, "", &chat_stream("llama")).await;
    let mut exchange = stub.next().await;
    exchange.begin("text/event-stream").await;
    for n in 0..5 {
        // The next event is not sent before this one is here.
        exchange.chunk(&format!("data: {{\"n\":{n}}}\n\n")).await;
        tool.until(&format!("data: {{\"n\":{n}}}\n\n")).await;
    }
    exchange.chunk("data: [DONE]\n\n").await;
    exchange.end().await;
    tool.until("data: [DONE]\n\n").await;
    tool.until("0\r\n\r\n").await;
}

#[tokio::test]
async fn a_tool_that_hangs_up_ends_the_request() {
    let stub = Stub::by_hand().await;
    let world = World::open(&stub).await;
    let dial = DialSetup::new(&world).start(&world).await;
    // In the middle of an answer, and before there is one.
    for begun in [true, false] {
        let mut tool = dial.tool().await;
        tool.begin(CHAT, "", &chat_stream("llama")).await;
        let mut exchange = stub.next().await;
        if begun {
            exchange.begin("text/event-stream").await;
            exchange.chunk("data: {\"n\":1}\n\n").await;
            tool.until("\"n\":1").await;
        }
        drop(tool);
        assert!(exchange.closed().await < Duration::from_secs(2));
    }
    // And half-way through its own body.
    let mut tool = dial.tool().await;
    tool.send(format!("POST {CHAT} HTTP/1.1\r\nHost: {}\r\nContent-Length: 1000\r\n\r\n{{", dial.address)).await;
    drop(tool);
    until(LONG, "the gateway notices", || (world.records().len() == 3).then_some(())).await;
    let served = async {
        stub.next().await.reply(crate::support::json_reply(r#"{"object":"chat.completion"}"#)).await;
    };
    let body = chat("llama");
    let (said, ()) = tokio::join!(dial.post(CHAT, "", &body), served);
    assert_eq!(said.status, 200, "its neighbours go on");
}

/// Each cancel is one stream of the same connection; none of them takes others along.
#[tokio::test]
async fn many_tools_that_hang_up_do_no_harm() {
    let stub = Stub::by_hand().await;
    let world = World::open(&stub).await;
    let dial = DialSetup::new(&world).start(&world).await;
    let mut survivor = dial.tool().await;
    survivor.begin(CHAT, "", &chat_stream("llama")).await;
    let mut exchange = stub.next().await;
    exchange.begin("text/event-stream").await;
    for n in 0..150 {
        let mut tool = dial.tool().await;
        tool.begin(CHAT, "", &chat_stream("llama")).await;
        let mut other = stub.next().await;
        other.begin("text/event-stream").await;
        other.chunk("data: {\"n\":1}\n\n").await;
        tool.until("\"n\":1").await;
        drop(tool);
        other.closed().await;
        exchange.chunk(&format!("data: {{\"s\":{n}}}\n\n")).await;
        survivor.until(&format!("\"s\":{n}")).await;
    }
}

/// A tool that reads nothing costs itself, whatever its neighbours get.
#[tokio::test]
async fn a_tool_that_does_not_read_stalls_nobody_else() {
    let stub = Stub::by_hand().await;
    let world = World::open(&stub).await;
    let dial = DialSetup::new(&world).start(&world).await;
    let mut stalled: Vec<(crate::support::Tool, Exchange)> = Vec::new();
    for _ in 0..4 {
        let mut tool = dial.tool().await;
        tool.begin(CHAT, "", &chat_stream("llama")).await;
        let mut exchange = stub.next().await;
        exchange.begin("text/event-stream").await;
        // Small events: those are what use a connection's patience up.
        assert!(exchange.flood("data: {\"n\":1}\n\n", Duration::from_millis(300)).await > 1000);
        stalled.push((tool, exchange));
    }
    let mut tool = dial.tool().await;
    tool.begin(CHAT, "", &chat_stream("llama")).await;
    let mut exchange = stub.next().await;
    exchange.begin("text/event-stream").await;
    for n in 0..200 {
        exchange.chunk(&format!("data: {{\"live\":{n}}}\n\n")).await;
        tool.until(&format!("\"live\":{n}}}")).await;
    }
    // Who reads again gets what was sent, from its beginning.
    stalled[0].0.until("data: {\"n\":1}\n\n").await;
}

#[tokio::test]
async fn an_answer_that_breaks_off_never_ends_cleanly() {
    let stub = Stub::by_hand().await;
    let world = World::open(&stub).await;
    let dial = DialSetup::new(&world).start(&world).await;
    let mut tool = dial.tool().await;
    tool.begin(CHAT, "", &chat_stream("llama")).await;
    let mut exchange = stub.next().await;
    exchange.begin("text/event-stream").await;
    exchange.chunk("data: {\"n\":1}\n\n").await;
    tool.until("\"n\":1").await;
    drop(exchange);
    let rest = tool.rest().await;
    assert!(!rest.ends_with("0\r\n\r\n") && !rest.contains("[DONE]"), "{rest:?}");
}

#[tokio::test]
async fn a_large_body_passes_whole() {
    let stub = Stub::chatty().await;
    let world = World::open(&stub).await;
    let dial = DialSetup::new(&world).start(&world).await;
    let text = "x".repeat(3 << 20);
    let body = format!(r#"{{"model":"llama","messages":[{{"role":"user","content":"{text}"}}]}}"#);
    assert_eq!(dial.post(CHAT, "", &body).await.status, 200);
    assert!(stub.only().text().contains(&text));
    // In chunks, whose length nobody knows before.
    let mut tool = dial.tool().await;
    let body = chat("llama");
    let (head, half) = (format!("Host: {}\r\nTransfer-Encoding: chunked\r\n", dial.address), body.len() / 2);
    tool.send(format!("POST {CHAT} HTTP/1.1\r\nContent-Type: application/json\r\n{head}\r\n")).await;
    for piece in [&body[..half], &body[half..], ""] {
        tool.send(format!("{:x}\r\n{piece}\r\n", piece.len())).await;
    }
    assert_eq!(tool.answer().await.status, 200);
}

/// What a page in a browser can do, byte by byte: nothing of it reaches the gateway.
#[tokio::test]
async fn a_web_page_does_not_borrow_the_identity() {
    let stub = Stub::chatty().await;
    let world = World::open(&stub).await;
    let dial = DialSetup::new(&world).start(&world).await;
    let (here, body) = (dial.address, chat("llama"));
    let length = body.len();
    for (head, code) in [
        (format!("POST {CHAT} HTTP/1.1\r\nHost: evil.example\r\n"), "host_not_allowed"),
        (format!("POST {CHAT} HTTP/1.1\r\nHost: evil.example:{}\r\n", here.port()), "host_not_allowed"),
        (format!("POST {CHAT} HTTP/1.1\r\nHost: {here}\r\nHost: evil.example\r\n"), "host_not_allowed"),
        (format!("POST {CHAT} HTTP/1.1\r\nHost: llm.test\r\n"), "host_not_allowed"),
        (format!("POST {CHAT} HTTP/1.1\r\n"), "host_not_allowed"),
        (format!("POST http://evil.example{CHAT} HTTP/1.1\r\nHost: {here}\r\n"), "host_not_allowed"),
        (format!("POST {CHAT} HTTP/1.1\r\nHost: {here}\r\nOrigin: https://evil.example\r\n"), "origin_not_allowed"),
        (format!("POST {CHAT} HTTP/1.1\r\nHost: {here}\r\nOrigin: null\r\n"), "origin_not_allowed"),
        (format!("POST {CHAT} HTTP/1.1\r\nHost: {here}\r\nSec-Fetch-Site: cross-site\r\n"), "origin_not_allowed"),
        (
            format!(
                "OPTIONS {CHAT} HTTP/1.1\r\nHost: {here}\r\nOrigin: http://localhost:3000\r\nAccess-Control-Request-Method: POST\r\n"
            ),
            "preflight_not_allowed",
        ),
        (format!("OPTIONS {CHAT} HTTP/1.1\r\nHost: {here}\r\n"), "preflight_not_allowed"),
    ] {
        let mut tool = dial.tool().await;
        tool.send(format!("{head}Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}")).await;
        let said = tool.answer().await;
        assert_eq!((said.status, said.json()["error"]["code"].as_str()), (403, Some(code)), "{head}");
        assert_eq!(said.value("x-doorward-origin"), Some("dial"), "{head}");
        assert!(!said.head.to_lowercase().contains("access-control"), "{head}");
    }
    // CONNECT, an upgrade and other oddities.
    for (head, status) in [
        (format!("CONNECT evil.example:443 HTTP/1.1\r\nHost: {here}\r\n\r\n"), "403"),
        (format!("CONNECT {here} HTTP/1.1\r\nHost: {here}\r\n\r\n"), "405"),
        (format!("DELETE /api/delete HTTP/1.1\r\nHost: {here}\r\n\r\n"), "405"),
        (format!("GET /v1/models HTTP/1.0\r\nHost: {here}\r\n\r\n"), "505"),
    ] {
        let mut tool = dial.tool().await;
        tool.send(&head).await;
        let line = tool.until("\r\n").await;
        assert!(line.split(' ').nth(1).unwrap().starts_with(status), "{head} {line}");
    }
    // HTTP/2 is not spoken here.
    let mut tool = dial.tool().await;
    tool.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    assert!(!tool.rest().await.contains(" 200 "));
    assert_eq!(stub.seen().len(), 0);
    assert_eq!(world.records().len(), 0, "the gateway was not even asked");
    // A page that is listed may call, and read.
    let said = dial.post(CHAT, "Origin: http://localhost:3000\r\n", &body).await;
    assert_eq!((said.status, said.value("access-control-allow-origin")), (200, Some("http://localhost:3000")));
    assert!(!stub.only().head.to_lowercase().contains("origin"));
}

#[tokio::test]
async fn the_token_opens_and_nothing_else() {
    let stub = Stub::chatty().await;
    let world = World::open(&stub).await;
    let dial = DialSetup { token: Some(TOKEN), ..DialSetup::new(&world) }.start(&world).await;
    let body = chat("llama");
    for (path, fields, message) in [
        (CHAT, "", "/error/message"),
        (CHAT, "Authorization: Bearer sk-x\r\n", "/error/message"),
        ("/v1/messages", "X-Api-Key: x\r\n", "/error/message"),
        ("/api/chat", "Authorization: Bearer dw_x\r\n", "/error"),
    ] {
        let said = dial.post(path, fields, &body).await;
        assert_eq!((said.status, said.value("www-authenticate")), (401, Some("Bearer")), "{said:?}");
        assert!(said.json().pointer(message).unwrap().as_str().unwrap().contains("--print-env"), "{said:?}");
        assert!(!said.body.contains(TOKEN));
    }
    assert_eq!(world.records().len(), 0);
    for fields in [format!("Authorization: Bearer {TOKEN}\r\n"), format!("x-api-key: {TOKEN}\r\n")] {
        assert_eq!(dial.post(CHAT, &fields, &body).await.status, 200);
    }
    assert!(stub.seen().iter().all(|seen| !seen.head.contains(TOKEN)));
}

#[tokio::test]
async fn keys_go_on_and_a_configured_one_replaces_them() {
    let stub = Stub::chatty().await;
    let grants = crate::support::OPEN.replace("\"either\"", "\"both\"").replace("acme/people", "acme");
    let world = Setup::new(&stub).grants(&grants).start().await;
    let (own, configured) = (world.key("acme").await, world.key("acme").await);
    let plain = DialSetup::new(&world).start(&world).await;
    let body = chat("llama");
    assert_eq!(plain.post(CHAT, "", &body).await.json()["error"]["code"], "key_required", "the gateway's own word");
    let fields = [format!("Authorization: Bearer {}\r\n", own.text), format!("x-api-key: {}\r\n", own.text)];
    for fields in &fields {
        let said = plain.post(CHAT, fields, &body).await;
        let record = world.record(said.value("x-request-id").unwrap()).await;
        assert_eq!((said.status, record["key_id"].as_str()), (200, Some(own.id.as_str())), "{record}");
    }
    let setup = DialSetup { name: "other", key: Some(configured.text.clone()), ..DialSetup::new(&world) };
    let with_key = setup.start(&world).await;
    for fields in ["", &fields[0], "x-api-key: sk-x\r\n"] {
        let said = with_key.post(CHAT, fields, &body).await;
        let record = world.record(said.value("x-request-id").unwrap()).await;
        assert_eq!((said.status, record["key_id"].as_str()), (200, Some(configured.id.as_str())), "{record}");
    }
}

#[tokio::test]
async fn a_gateway_that_cannot_be_reached_is_said_in_every_shape() {
    let stub = Stub::chatty().await;
    let world = World::open(&stub).await;
    let dead = dead_port().await;
    let dial = DialSetup { addresses: vec![dead, dead], ..DialSetup::new(&world) }.start(&world).await;
    for (path, message) in [(CHAT, "/error/message"), ("/v1/messages", "/error/message"), ("/api/chat", "/error")] {
        let said = dial.post(path, "", &chat("llama")).await;
        let body = said.json();
        let message = body.pointer(message).unwrap().as_str().unwrap();
        assert_eq!(said.status, 502);
        assert!(message.contains("cannot be reached") && message.contains("connection refused"), "{message}");
        assert!(message.contains(&dead.to_string()) && message.contains("is the gateway running"), "{message}");
    }
    // One that is somebody else's, and one that has another name, are not reached either.
    let other = World::open(&stub).await;
    let stranger = DialSetup { addresses: vec![other.address()], ..DialSetup::new(&world) };
    let said = DialSetup { name: "b", ..stranger }.start(&world).await.post(CHAT, "", &chat("llama")).await;
    assert!(said.status == 502 && said.body.contains("does not come from a root in ca.crt"), "{said:?}");
    let named = DialSetup { server_name: "nobody.test", name: "c", ..DialSetup::new(&world) };
    let said = named.start(&world).await.post(CHAT, "", &chat("llama")).await;
    assert!(said.status == 502 && said.body.contains("does not serve nobody.test"), "{said:?}");
    // The second of two addresses answers.
    let second = DialSetup { addresses: vec![dead, world.address()], name: "d", ..DialSetup::new(&world) };
    assert_eq!(second.start(&world).await.post(CHAT, "", &chat("llama")).await.status, 200);
}

/// A gateway that takes connections and says nothing: whoever waits behind the one that finds it out
/// learns it from that one.
#[tokio::test]
async fn many_requests_wait_for_one_attempt() {
    let stub = Stub::chatty().await;
    let world = World::open(&stub).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mute = listener.local_addr().unwrap();
    let dial = DialSetup { addresses: vec![mute], ..DialSetup::new(&world) }.start(&world).await;
    let body = chat("llama");
    let first = dial.post(CHAT, "", &body);
    let others = async {
        let (mut line, _) = listener.accept().await.unwrap();
        line.read_u8().await.unwrap();
        let many = join_all((0..20).map(|_| dial.post(CHAT, "", &body)));
        let hang_up = async {
            // Everything is on this thread: by then all of them wait behind the first.
            for _ in 0..5000 {
                tokio::task::yield_now().await;
            }
            drop(line);
            let mut lines = 0;
            loop {
                drop(listener.accept().await.unwrap());
                lines += 1;
                assert!(lines < 5, "each opens a line of its own");
            }
        };
        tokio::select! {
            said = many => said,
            () = hang_up => unreachable!("it goes on for ever"),
        }
    };
    let (first, others) = tokio::join!(first, others);
    assert!(others.iter().chain([&first]).all(|said| said.status == 502), "{others:?}");
}

#[tokio::test]
async fn a_gateway_that_was_restarted_is_found_again() {
    let stub = Stub::chatty().await;
    let world = World::open(&stub).await;
    let relay = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let front = relay.local_addr().unwrap();
    let target = std::sync::Arc::new(std::sync::Mutex::new(world.address()));
    let lines = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let accepting = {
        let (target, lines) = (std::sync::Arc::clone(&target), std::sync::Arc::clone(&lines));
        tokio::spawn(async move {
            while let Ok((mut near, _)) = relay.accept().await {
                let to = *target.lock().unwrap();
                let line = tokio::spawn(async move {
                    let Ok(mut far) = TcpStream::connect(to).await else { return };
                    let _ = copy_bidirectional(&mut near, &mut far).await.is_ok();
                });
                lines.lock().unwrap().push(line);
            }
        })
    };
    let dial = DialSetup { addresses: vec![front], ..DialSetup::new(&world) }.start(&world).await;
    assert_eq!(dial.post(CHAT, "", &chat("llama")).await.status, 200);
    let world = world.restart(1).await;
    *target.lock().unwrap() = world.address();
    // The goodbye of the old one makes the next request use a new connection, and fail none.
    assert_eq!(dial.post(CHAT, "", &chat("llama")).await.status, 200);
    // A line that is cut while idle is noticed as well.
    lines.lock().unwrap().drain(..).for_each(|line: tokio::task::JoinHandle<()>| line.abort());
    until(LONG, "the gateway sees it", || (world.records().len() >= 2).then_some(())).await;
    assert_eq!(dial.post(CHAT, "", &chat("llama")).await.status, 200);
    accepting.abort();
}

#[tokio::test]
async fn a_revoked_or_expired_certificate_says_so() {
    let stub = Stub::chatty().await;
    let world = Setup::new(&stub).manual_clock().start().await;
    let dial = DialSetup { name: "mallory", ..DialSetup::new(&world) }.start(&world).await;
    assert_eq!(dial.post(CHAT, "", &chat("llama")).await.status, 200);
    world.revoke_name("mallory");
    within(LONG, "the gateway's own word passes", async {
        loop {
            let mut tool = dial.tool().await;
            tool.begin(CHAT, "Connection: close\r\n", &chat("llama")).await;
            // An answer that the revocation meets half-way is cut.
            if tool.rest().await.starts_with("HTTP/1.1 401 ") {
                break;
            }
        }
    })
    .await;
    let expired = DialSetup::new(&world).start(&world).await;
    world.clock.advance(Duration::from_secs(25 * 3600));
    let said = expired.post(CHAT, "", &chat("llama")).await;
    let message = said.json()["error"]["message"].as_str().unwrap().to_owned();
    assert_eq!((said.status, said.json()["error"]["code"].as_str()), (502, Some("certificate_refused")), "{said:?}");
    assert!(message.contains("ended at") && message.contains("enroll create"), "{message}");
}

/// The next request after a renewal goes over a connection of the new certificate.
#[tokio::test]
async fn a_renewed_certificate_is_used_without_a_lost_request() {
    let stub = Stub::by_hand().await;
    let world = World::open(&stub).await;
    let dial = DialSetup::new(&world).start(&world).await;
    let mut live = dial.tool().await;
    live.begin(CHAT, "", &chat_stream("llama")).await;
    let mut exchange = stub.next().await;
    exchange.begin("text/event-stream").await;
    let before = dial.keeper.current().serial().to_owned();
    let name = IdentityName::parse("dialler").unwrap();
    let mut store = world.store();
    let wanted = (Role::Client, &name, None);
    cert::issue(&world.authority, &mut store, wanted, (dial.dir.path(), Existing::Replace), world.clock.now()).unwrap();
    dial.keeper.look_now().await;
    let after = dial.keeper.current().serial().to_owned();
    assert_ne!(before, after);
    let served = async {
        stub.next().await.reply(crate::support::json_reply(r#"{"object":"chat.completion"}"#)).await;
    };
    let body = chat("llama");
    let (said, ()) = tokio::join!(dial.post(CHAT, "", &body), served);
    assert_eq!(said.status, 200);
    world.metric_becomes("doorward_connections", 2.0).await;
    // What was under way goes on over the old one.
    exchange.chunk("data: [DONE]\n\n").await;
    exchange.end().await;
    live.until("[DONE]").await;
    live.until("0\r\n\r\n").await;
    // The old one closes when nothing is under way on it any more, and is missed by nobody.
    world.revoke_certificate(&Serial::parse(&before).unwrap());
    let served = async {
        stub.next().await.reply(crate::support::json_reply(r#"{"object":"chat.completion"}"#)).await;
    };
    let (said, ()) = tokio::join!(dial.post(CHAT, "", &body), served);
    assert_eq!(said.status, 200);
    world.metric_becomes("doorward_connections", 1.0).await;
}

/// Another user of this machine can connect as often as he likes: without the token he keeps no tool out,
/// neither with connections that say nothing nor with ones that guess.
#[tokio::test]
async fn who_has_no_token_keeps_nobody_out() {
    let stub = Stub::chatty().await;
    let world = World::open(&stub).await;
    let dial = DialSetup { token: Some(TOKEN), ..DialSetup::new(&world) }.start(&world).await;
    let token = format!("Authorization: Bearer {TOKEN}\r\n");
    let mut first = dial.tool().await;
    assert_eq!(first.post(CHAT, &token, &chat("llama")).await.status, 200);
    let (mut silent, mut guessing) = (Vec::new(), Vec::new());
    for _ in 0..400 {
        silent.push(TcpStream::connect(dial.address).await.unwrap());
    }
    for _ in 0..400 {
        let mut tool = dial.tool().await;
        assert_eq!(tool.post(CHAT, "Authorization: Bearer sk-x\r\n", "{}").await.status, 401);
        guessing.push(tool);
    }
    within(LONG, "a tool is served beside them", async {
        assert_eq!(dial.post(CHAT, &token, &chat("llama")).await.status, 200);
        assert_eq!(first.post(CHAT, &token, &chat("llama")).await.status, 200, "and the one that was there is still");
    })
    .await;
    // Who came first made room.
    assert_eq!(within(LONG, "the first stranger is out", silent[0].read(&mut [0])).await.unwrap_or(0), 0);
}

/// However many tools hold a connection, it can be stopped.
#[tokio::test]
async fn it_stops_when_all_places_are_taken() {
    let stub = Stub::chatty().await;
    let world = World::open(&stub).await;
    let dial = DialSetup::new(&world).start(&world).await;
    let mut tools = Vec::new();
    for _ in 0..256 {
        let mut tool = dial.tool().await;
        // Let through, so it has its place; and idle from here on.
        assert_eq!(tool.post(CHAT, "", "{}").await.status, 400);
        tools.push(tool);
    }
    dial.stop().await;
}

#[tokio::test]
async fn a_unix_socket_serves_its_owner() {
    let stub = Stub::chatty().await;
    let world = World::open(&stub).await;
    let dial = DialSetup { unix: true, ..DialSetup::new(&world) }.start(&world).await;
    let ask = async |host: &str| {
        let mut stream = UnixStream::connect(&dial.socket).await.unwrap();
        let request = format!("GET /api/version HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        within(LONG, "it answers", stream.read_to_string(&mut answer)).await.unwrap();
        answer
    };
    assert!(ask("localhost").await.starts_with("HTTP/1.1 200"));
    assert!(ask("evil.example").await.starts_with("HTTP/1.1 403"));
}

#[tokio::test]
async fn the_way_out_may_be_a_proxy() {
    let stub = Stub::chatty().await;
    let world = World::open(&stub).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = ProxyUrl::parse(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
    let proxy = tokio::spawn(async move {
        let (mut near, _) = listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(near.read_u8().await.unwrap());
        }
        let head = String::from_utf8(head).unwrap();
        let mut far = TcpStream::connect(head.split(' ').nth(1).unwrap()).await.unwrap();
        near.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        let _ = copy_bidirectional(&mut near, &mut far).await.is_ok();
    });
    let dial = DialSetup { reach: Reach { proxy: Some(url) }, ..DialSetup::new(&world) }.start(&world).await;
    assert_eq!(dial.post(CHAT, "", &chat("llama")).await.status, 200);
    proxy.abort();
    let _ = proxy.await.is_err();
    let said = dial.post(CHAT, "", &chat("llama")).await;
    assert!(said.status == 502 && said.body.contains("the proxy"), "{said:?}");
}

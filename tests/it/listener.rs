//! The public listener: TLS, names, protocols, bounds, and how connections end.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use doorward::gate::connection::Patience;
use http::Method;
use rustls::HandshakeKind;
use rustls::version::TLS12;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::support::{
    CHAT, Caller, ChannelBody, Flow, LONG, RawLine, Setup, Stub, Whole, World, chat, live, until, within,
};

async fn served_raw(caller: &Caller, alpn: &[&str], head: &str) -> RawLine {
    let mut line = RawLine::new(caller.tls(alpn).await.unwrap());
    line.send(head).await;
    let answer = line.answer().await;
    assert_eq!(answer.status, 200, "{answer:?}");
    line
}

/// The protocol is what ALPN says, and HTTP/1.1 when it says nothing; it is never guessed.
#[tokio::test]
async fn the_protocol_follows_alpn() {
    let stub = Stub::chatty().await;
    let world = World::open(&stub).await;
    let key = world.key("acme/x").await;
    let head = format!("GET /v1/models HTTP/1.1\r\nHost: llm.test\r\nAuthorization: Bearer {}\r\n\r\n", key.text);
    let caller = world.caller();
    for alpn in [&[][..], &["http/1.1"], &["foo", "http/1.1"]] {
        served_raw(&caller, alpn, &head).await;
    }
    let [mut h1, mut h2] = caller.clone().key(&key).both().await;
    h1.chat(&chat("llama")).await.assert_served();
    h2.chat(&chat("llama")).await.assert_served();
    alert(caller.tls(&["foo"]).await, "NoApplicationProtocol");
    // HTTP/2 without having said so.
    let mut line = RawLine::new(caller.tls(&["http/1.1"]).await.unwrap());
    line.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    assert!(!line.read_to_end().await.0.contains(" 200 "));
}

#[track_caller]
fn alert<T>(result: std::io::Result<T>, name: &str) {
    let Err(error) = result else { panic!("the handshake succeeded") };
    assert!(format!("{error:?}").contains(&format!("AlertReceived({name})")), "{error:?}");
}

/// Names decide: those of callers, of nobody, and of roles that are not served yet.
#[tokio::test]
async fn names_decide_who_is_talked_to() {
    let stub = Stub::chatty().await;
    let world = World::open(&stub).await;
    let key = world.key("acme/x").await;
    for name in ["evil.test", "connect.llm.test", "sub.llm.test", "test"] {
        alert(world.caller().named(name).tls(&["h2", "http/1.1"]).await, "AccessDenied");
    }
    world.metric_becomes("doorward_handshake_failures_total{reason=\"unknown_name\"}", 4.0).await;
    for name in ["llm.test", "LLM.test", "other.test"] {
        world.caller().named(name).key(&key).chat(&chat("llama")).await.assert_served();
    }
    // Without a name: by address, or by a name in the Host.
    let nameless = world.caller().named("127.0.0.1");
    let port = world.address().port();
    for host in ["127.0.0.1".to_owned(), format!("127.0.0.1:{port}"), "llm.test".to_owned(), format!("llm.test:{port}")]
    {
        let head = format!("GET /v1/models HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {}\r\n\r\n", key.text);
        served_raw(&nameless, &["http/1.1"], &head).await;
    }
    for host in ["127.0.0.2", "[::1]", "localhost"] {
        let mut line = nameless.raw().await;
        line.send(format!("GET /v1/models HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
        line.answer().await.assert_refused(&world, 421, "misdirected").await;
    }
    // A target in absolute form is fine when it says the same.
    let head = format!(
        "GET https://llm.test/v1/models HTTP/1.1\r\nHost: llm.test\r\nAuthorization: Bearer {}\r\n\r\n",
        key.text
    );
    served_raw(&world.caller(), &["http/1.1"], &head).await;
}

/// A session that is resumed would not be asked for its certificate again.
#[tokio::test]
async fn no_session_is_resumed() {
    let stub = Stub::chatty().await;
    for (version, minimum) in [(&rustls::version::TLS13, "1.3"), (&TLS12, "1.2")] {
        let world = Setup::new(&stub).listen(&format!("min_version = \"{minimum}\"")).start().await;
        let alice = world.certificate("alice");
        let caller = world.caller().certificate(&alice);
        let config = Arc::new(caller.config_of(&[version], &["http/1.1"]));
        for _ in 0..3 {
            let mut line = RawLine::new(caller.tls_with(Arc::clone(&config)).await.unwrap());
            line.send("GET /v1/models HTTP/1.1\r\nHost: llm.test\r\n\r\n").await;
            assert_eq!(line.answer().await.status, 200);
            let session = line.stream.get_ref().1;
            assert_eq!(session.handshake_kind(), Some(HandshakeKind::Full));
            assert_eq!(session.tls13_tickets_received(), 0);
        }
    }
}

#[tokio::test]
async fn tls_1_2_is_refused_unless_asked_for() {
    let stub = Stub::chatty().await;
    let world = World::open(&stub).await;
    let caller = world.caller();
    let config = Arc::new(caller.config_of(&[&TLS12], &["http/1.1"]));
    alert(caller.tls_with(config).await, "ProtocolVersion");
    world.metric_becomes("doorward_handshake_failures_total{reason=\"protocol\"}", 1.0).await;
    let answer = world.caller().key(&world.key("acme/x").await).chat(&chat("llama")).await;
    assert_eq!(world.record(answer.request_id()).await["kx"], "X25519MLKEM768");
}

async fn closed_at_once(world: &World) -> bool {
    let mut socket = TcpStream::connect(world.address()).await.unwrap();
    let mut byte = [0; 1];
    // A reset or an end, before anything was said.
    let read = tokio::time::timeout(Duration::from_millis(200), socket.read(&mut byte)).await;
    read.is_ok_and(|count| !count.is_ok_and(|count| count > 0))
}

#[tokio::test]
async fn connections_are_bounded() {
    let stub = Stub::chatty().await;
    for bound in ["max_connections = 2", "max_connections_per_address = 2"] {
        let world = Setup::new(&stub).listen(bound).start().await;
        let caller = world.caller().key(&world.key("acme/x").await);
        let mut lines = caller.both().await;
        assert!(closed_at_once(&world).await);
        assert!(world.metric("doorward_connections_turned_away_total").await > 0.5);
        for line in &mut lines {
            line.chat(&chat("llama")).await.assert_served();
        }
        drop(lines);
        world.metric_becomes("doorward_connections", 0.0).await;
        caller.chat(&chat("llama")).await.assert_served();
    }
}

/// The one test that waits for real: five seconds are allowed for a handshake, and no more.
#[tokio::test]
async fn a_slow_handshake_is_given_up() {
    let stub = Stub::chatty().await;
    let world = World::open(&stub).await;
    let begun = Instant::now();
    let mut sockets = Vec::new();
    for begin in [&b""[..], &[0x16, 3, 1][..]] {
        let mut socket = TcpStream::connect(world.address()).await.unwrap();
        socket.write_all(begin).await.unwrap();
        sockets.push(socket);
    }
    for mut socket in sockets {
        let mut rest = Vec::new();
        let _ = within(LONG, "it is closed", socket.read_to_end(&mut rest)).await.is_ok();
        assert!(rest.is_empty());
    }
    let took = begun.elapsed();
    assert!((4..8).contains(&took.as_secs()), "{took:?}");
    world.metric_becomes("doorward_handshake_failures_total{reason=\"timed_out\"}", 2.0).await;
    world.metric_becomes("doorward_connections", 0.0).await;
}

/// A head that trickles is not waited for; a connection that is quiet is closed.
#[tokio::test]
async fn slow_heads_and_idle_connections_are_closed() {
    let stub = Stub::chatty().await;
    let mut setup = Setup::new(&stub);
    setup.patience = Patience { head: Duration::from_millis(300), idle: LONG, stalled: LONG };
    let world = setup.start().await;
    let begun = Instant::now();
    let mut line = world.caller().raw().await;
    line.send("GET /v1/models HTTP/1.1\r\nHost: llm.test\r\n").await;
    let (said, _) = line.read_to_end().await;
    assert!(said.is_empty() && begun.elapsed() >= Duration::from_millis(300), "{said}");
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());

    let mut setup = Setup::new(&stub);
    setup.patience = Patience { head: LONG, idle: Duration::from_millis(300), stalled: LONG };
    let world = setup.start().await;
    let key = world.key("acme/x").await;
    let caller = world.caller().key(&key);
    for h2 in [false, true] {
        let mut line = if h2 { caller.h2().await } else { caller.h1().await };
        line.chat(&chat("llama")).await.assert_served();
        until(LONG, "it is closed", || (!line.is_open()).then_some(())).await;
    }
    // One that waits for a backend is not idle.
    let stub = Stub::by_hand().await;
    let mut setup = Setup::new(&stub);
    setup.patience = Patience { head: Duration::from_millis(300), idle: Duration::from_millis(300), stalled: LONG };
    let world = setup.start().await;
    let key = world.key("acme/x").await;
    let caller = world.caller().key(&key);
    for h2 in [false, true] {
        let mut line = if h2 { caller.h2().await } else { caller.h1().await };
        let (mut flow, mut exchange) = live(&mut line, &stub).await;
        // The sweeper has come by when a connection without a request is gone.
        let mut other = world.caller().h1().await;
        other.get("/").await;
        until(LONG, "another one is closed", || (!other.is_open()).then_some(())).await;
        exchange.chunk("data: [DONE]\n\n").await;
        flow.until("[DONE]").await;
        exchange.end().await;
        assert_eq!(flow.end().await.1, None);
    }
}

/// Who is refused before its upload is over hears of it, instead of a reset.
#[tokio::test]
async fn an_early_refusal_is_seen_by_who_still_sends() {
    let stub = Stub::chatty().await;
    let world = World::open(&stub).await;
    let large = "x".repeat(5 << 20);
    for _ in 0..5 {
        for mut line in world.caller().both().await {
            line.chat(&large).await.assert_refused(&world, 401, "invalid_credentials").await;
        }
    }
    // One that reads only when it has sent all, or cannot send more.
    for _ in 0..2 {
        let mut line = world.caller().raw().await;
        line.send(format!("POST {CHAT} HTTP/1.1\r\nHost: llm.test\r\nContent-Length: {}\r\n\r\n", large.len())).await;
        for piece in large.as_bytes().chunks(16 << 10) {
            if within(LONG, "it is taken, or refused", line.stream.write_all(piece)).await.is_err() {
                break;
            }
        }
        line.answer().await.assert_refused(&world, 401, "invalid_credentials").await;
    }
    // A small body is drained, and the connection goes on.
    for mut line in world.caller().both().await {
        for _ in 0..3 {
            line.chat(&"x".repeat(100 << 10)).await.assert_refused(&world, 401, "invalid_credentials").await;
        }
    }
    stub.assert_untouched();
}

/// Nobody is told to go on before the checks that need no body have passed.
#[tokio::test]
async fn expect_100_continue_is_answered_after_the_checks() {
    let stub = Stub::chatty().await;
    let world = World::open(&stub).await;
    let key = world.key("acme/x").await;
    let body = chat("llama");
    let head = |path: &str, credential: &str| {
        format!(
            "POST {path} HTTP/1.1\r\nHost: llm.test\r\nAuthorization: Bearer {credential}\r\nExpect: 100-continue\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        )
    };
    for (path, credential, status, code) in
        [(CHAT, "nonsense", 401, "invalid_credentials"), ("/nowhere", key.text.as_str(), 404, "not_found")]
    {
        let mut line = world.caller().raw().await;
        line.send(head(path, credential)).await;
        let answer = line.answer().await;
        answer.assert_refused(&world, status, code).await;
        assert_eq!(line.read_to_end().await.0, "");
    }
    let mut line = world.caller().raw().await;
    line.send(head(CHAT, &key.text)).await;
    assert_eq!(line.read_until("\r\n\r\n").await, "HTTP/1.1 100 Continue\r\n\r\n");
    stub.assert_untouched();
    line.send(&body).await;
    let answer = line.read_until("\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert_eq!(stub.seen().len(), 1);
}

/// Oddly framed bodies are refused before anybody else could read them differently.
#[tokio::test]
async fn odd_framing_is_refused() {
    let stub = Stub::chatty().await;
    let world = World::open(&stub).await;
    let key = world.key("acme/x").await;
    let body = chat("llama");
    let length = body.len();
    for framing in [
        format!("Content-Length: 0{length}\r\n\r\n{body}"),
        format!("Content-Length: +{length}\r\n\r\n{body}"),
        format!("Content-Length: {length}\r\nContent-Length: 1\r\n\r\n{body}"),
        format!("Transfer-Encoding: gzip, chunked\r\n\r\n{length:x}\r\n{body}\r\n0\r\n\r\n"),
        format!("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n{length:x}\r\n{body}\r\n0\r\n\r\n"),
        format!("Transfer-Encoding: chunked\r\n\r\nzz\r\n{body}\r\n0\r\n\r\n"),
        format!("Transfer-Encoding : chunked\r\n\r\n{length:x}\r\n{body}\r\n0\r\n\r\n"),
        format!("X: a\r\n b\r\nContent-Length: {length}\r\n\r\n{body}"),
    ] {
        let mut line = world.caller().raw().await;
        line.send(format!(
            "POST {CHAT} HTTP/1.1\r\nHost: llm.test\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\n{framing}",
            key.text
        ))
        .await;
        let head = line.read_until("\r\n\r\n").await;
        assert!(head.starts_with("HTTP/1.1 400 "), "{framing}: {head}");
    }
    stub.assert_untouched();
    let mut line = world.caller().key(&key).h1().await;
    let (pieces, chunked) = ChannelBody::channel();
    let mut request = line.request(Method::POST, CHAT, chunked);
    request.headers_mut().insert("content-type", "application/json".parse().unwrap());
    for piece in body.as_bytes().chunks(10) {
        pieces.send(Bytes::copy_from_slice(piece)).await.unwrap();
    }
    drop(pieces);
    Whole::of(line.send(request).await.unwrap()).await.assert_served();
    assert_eq!(stub.only().values("content-length").len(), 1);
}

/// A gateway that is told to stop lets live streams end well, takes nobody new, and says so.
#[tokio::test]
async fn a_drain_finishes_live_streams() {
    let stub = Stub::by_hand().await;
    let world = World::open(&stub).await;
    let caller = world.caller().key(&world.key("acme/x").await);
    let [mut h1, mut h2] = caller.both().await;
    let idle = caller.both().await;
    let mut flows: Vec<(Flow, crate::support::Exchange)> = Vec::new();
    for line in [&mut h1, &mut h2] {
        flows.push(live(line, &stub).await);
    }
    let (address, admin) = (world.address(), world.server.admin_address());
    let state = world.state.clone();
    let (server, _files) = world.into_parts();
    let stopping = tokio::spawn(server.shut_down());
    until(LONG, "idle connections are closed", || idle.iter().all(|line| !line.is_open()).then_some(())).await;
    let mut probe = TcpStream::connect(admin).await.unwrap();
    probe.write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut ready = String::new();
    probe.read_to_string(&mut ready).await.unwrap();
    assert!(ready.starts_with("HTTP/1.1 503 "), "{ready}");
    assert!(!stopping.is_finished());
    for (flow, mut exchange) in flows {
        exchange.chunk("data: [DONE]\n\n").await;
        exchange.end().await;
        let (text, broke) = flow.end().await;
        assert!(text.ends_with("data: [DONE]\n\n") && broke.is_none(), "{text:?} {broke:?}");
    }
    within(LONG, "it stops", stopping).await.unwrap();
    assert!(TcpStream::connect(address).await.is_err());
    let records = std::fs::read_to_string(state.join("records.jsonl")).unwrap();
    assert_eq!(records.matches("\"outcome\":\"forwarded\"").count(), 2, "{records}");
}

/// But not for ever; then they are broken off, and recorded as that.
#[tokio::test]
async fn a_drain_has_an_end() {
    let stub = Stub::by_hand().await;
    let world = Setup::new(&stub).listen("drain = \"300ms\"").start().await;
    let caller = world.caller().key(&world.key("acme/x").await);
    let [mut h1, mut h2] = caller.both().await;
    let first = live(&mut h1, &stub).await;
    let second = live(&mut h2, &stub).await;
    let state = world.state.clone();
    let (server, _files) = world.into_parts();
    let stopping = tokio::spawn(server.shut_down());
    for (flow, exchange) in [first, second] {
        let ((text, broke), _) = tokio::join!(flow.end(), exchange.closed());
        assert!(broke.is_some() && text.contains("\"code\":\"overloaded\""), "{text:?}");
    }
    within(LONG, "it stops", stopping).await.unwrap();
    let records = std::fs::read_to_string(state.join("records.jsonl")).unwrap();
    assert_eq!(records.matches("\"outcome\":\"ended\"").count(), 2, "{records}");
}

/// Nor longer than the operator has patience.
#[tokio::test]
async fn a_drain_can_be_cut_short() {
    let stub = Stub::by_hand().await;
    let world = Setup::new(&stub).listen("drain = \"10m\"").start().await;
    let (mut h1, idle) = (world.caller().key(&world.key("acme/x").await).h1().await, world.caller().h1().await);
    let (flow, exchange) = live(&mut h1, &stub).await;
    let gateway = Arc::clone(world.server.gateway());
    let (server, _files) = world.into_parts();
    let stopping = tokio::spawn(server.shut_down());
    until(LONG, "it drains", || (!idle.is_open()).then_some(())).await;
    assert!(!stopping.is_finished());
    gateway.hurry();
    let ((text, broke), _) = tokio::join!(flow.end(), exchange.closed());
    assert!(broke.is_some() && text.contains("\"code\":\"overloaded\""), "{text:?}");
    within(LONG, "it stops", stopping).await.unwrap();
}

/// The admin listener tells how it is, changes nothing, and is not the callers'.
#[tokio::test]
async fn the_admin_listener_answers_three_paths() {
    let stub = Stub::chatty().await;
    let world = World::open(&stub).await;
    assert!(world.admin("/healthz").await.starts_with("HTTP/1.1 200 "));
    assert!(world.admin("/readyz").await.starts_with("HTTP/1.1 200 "));
    assert!(world.admin("/metrics").await.contains("doorward_requests_in_flight 0"));
    assert!(world.admin("/v1/models").await.starts_with("HTTP/1.1 404 "));
    let mut line = world.caller().key(&world.key("acme/x").await).h1().await;
    for path in ["/metrics", "/healthz", "/readyz"] {
        line.get(path).await.assert_refused(&world, 404, "not_found").await;
    }
}

/// The heartbeat of Ollama's clients, and its HEAD without a body.
#[tokio::test]
async fn head_has_no_body() {
    let stub = Stub::chatty().await;
    let world = World::open(&stub).await;
    for mut line in world.caller().key(&world.key("acme/x").await).both().await {
        assert_eq!(line.get("/").await.text(), "Ollama is running");
        let answer = line.fetch(Method::HEAD, "/").await;
        assert_eq!((answer.status, answer.text()), (200, ""));
    }
    stub.assert_untouched();
}

/// A page whose name was made to point here (DNS rebinding) is told nothing by the operator's listener.
#[tokio::test]
async fn the_operators_listener_answers_to_names_of_this_machine_alone() {
    let stub = Stub::chatty().await;
    let world = World::open(&stub).await;
    let status = async |line: &str, hosts: &[&str]| {
        let hosts: String = hosts.iter().map(|host| format!("Host: {host}\r\n")).collect();
        let said = world.admin_says(&format!("{line}\r\n{hosts}Connection: close\r\n\r\n")).await;
        assert_eq!(said.contains("doorward_requests_in_flight"), said.contains(" 200 OK"), "{said}");
        said.split(' ').nth(1).unwrap().to_owned()
    };
    let get = "GET /metrics HTTP/1.1";
    for ours in ["localhost", "LocalHost:9000", "127.0.0.1", "127.0.0.1:8444", "[::1]:1"] {
        assert_eq!(status(get, &[ours]).await, "200", "{ours}");
    }
    for foreign in ["rebind.evil.example", "llm.test", "localhost.evil.example", "10.0.0.1:8444", "169.254.169.254"] {
        assert_eq!(status(get, &[foreign]).await, "421", "{foreign}");
    }
    for bad in [&["localhost", "localhost"][..], &["localhost:x"], &["user@localhost"], &[]] {
        assert_eq!(status(get, bad).await, "400", "{bad:?}");
    }
    assert_eq!(status("GET http://evil.example/metrics HTTP/1.1", &["localhost"]).await, "400");
    // As load balancers probe.
    assert_eq!(status("GET /metrics HTTP/1.0", &[]).await, "200");
}

//! The connector, under gateways made by hand: what it says, what it lets through, how it goes.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use doorward::clock::Clock;
use doorward::holder::reach::Reach;
use futures_util::FutureExt;
use h2::Reason;
use http::{Method, Request, Uri};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::support::{
    HandGateway, LONG, Prepared, RealConnector, Setup, Stub, Tunnel, chat, chunk, dead_port, json_reply, unread, until,
    within,
};

/// A backend, a gateway made by hand, and a connector between them.
struct Scene {
    stub: Stub,
    files: Prepared,
    gateway: HandGateway,
    site: RealConnector,
}

/// `[[backend]]`, called `a`.
fn backend(address: SocketAddr, settings: &str) -> String {
    format!("[[backend]]\nname = \"a\"\nurl = \"http://{address}\"\n{settings}")
}

async fn scene(stub: Stub, settings: &str) -> Scene {
    let files = Setup::new(&stub).write();
    let gateway = HandGateway::new(&files).await;
    let (directory, _) = files.connector("site-a");
    let site = RealConnector::start(&[gateway.address], &directory, &backend(stub.address, settings));
    Scene { stub, files, gateway, site }
}

/// Sends a chat to `a`; what comes back is status, `x-doorward-connector-error`, body.
async fn ask(tunnel: &mut Tunnel, request: Request<()>, body: &str) -> (u16, Option<String>, String) {
    let (response, _rest) = tunnel.send(request, body).await.unwrap();
    let error = response.headers().get("x-doorward-connector-error").map(|value| value.to_str().unwrap().to_owned());
    let status = response.status().as_u16();
    (status, error, unread(response.into_body()).await.unwrap().0)
}

#[tokio::test]
async fn it_registers_and_says_how_its_backends_are() {
    let scene = scene(Stub::chatty().await, "max_concurrent = 7").await;
    let mut tunnel = scene.gateway.accept().await;
    let register = tunnel.control().hear().await;
    assert_eq!(register["type"], "register");
    assert_eq!(
        (&register["protocol"], &register["connector"], &register["conn_index"]),
        (&json!(1), &json!("site-a"), &json!(0))
    );
    assert_eq!(register["backends"], json!([{"name": "a", "max_concurrent": 7}]));
    assert_eq!(register["max_streams"], 256);
    assert!(register["instance_id"].as_str().unwrap().len() > 16);
    tunnel.control().register().await;
    tunnel.control().hear_health("a", "up").await;
    until(LONG, "it counts itself registered", || (scene.site.agent.registered() == 1).then_some(())).await;
}

/// Two links of one process share what the gateway knows of a backend: a guess said on one of them could
/// overtake the truth on the other.
#[tokio::test]
async fn it_guesses_nothing_about_its_backends() {
    let scene = scene(Stub::by_hand().await, "probe = \"/how\"").await;
    let mut tunnel = scene.gateway.accept().await;
    let probe = scene.stub.next().await;
    // What it has said by now has come before this answer.
    let nowhere = Request::get("https://a/").body(()).unwrap();
    assert_eq!(ask(&mut tunnel, nowhere, "").await.0, 403);
    assert_eq!(tunnel.control().hear().now_or_never(), None);
    probe.reply(json_reply("{}")).await;
    assert_eq!(tunnel.control().hear().await["type"], "register");
    assert_eq!(tunnel.control().hear().await, json!({"type": "health", "backend": "a", "state": "up"}));
}

#[tokio::test]
async fn a_backend_that_does_not_answer_holds_nobody_up() {
    let scene = scene(Stub::by_hand().await, "probe = \"/how\"").await;
    let mut tunnel = scene.gateway.accept().await;
    let probe = scene.stub.next().await;
    assert_eq!(tunnel.control().hear().await["type"], "register");
    assert_eq!(tunnel.control().hear().await, json!({"type": "health", "backend": "a", "state": "down"}));
    probe.reply(json_reply("{}")).await;
    assert_eq!(tunnel.control().hear().await, json!({"type": "health", "backend": "a", "state": "up"}));
}

#[tokio::test]
async fn a_request_is_written_anew() {
    let scene = scene(Stub::scripted(|_| {
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\nConnection: x-hop\r\nX-Hop: 1\r\n\
          X-Doorward-Connector-Error: connect_failed\r\nX-Doorward-Origin: gateway\r\nX-Other: kept\r\n\r\n{}"
            .to_vec()
    }).await, "credential = \"its-own\"").await;
    let mut tunnel = scene.gateway.registered().await;
    let body = chat("llama");
    let mut request = Tunnel::chat("a", body.len());
    for (name, value) in [
        ("authorization", "Bearer callers"),
        ("cookie", "c=1"),
        ("x-api-key", "k"),
        ("host", "evil"),
        ("x-forwarded-for", "1.2.3.4"),
        ("x-anything", "1"),
        ("anthropic-version", "2023-06-01"),
        ("x-request-id", "r-1"),
        ("x-doorward-owner", "acme"),
    ] {
        request.headers_mut().insert(name, value.parse().unwrap());
    }
    let (response, _rest) = tunnel.send(request, &body).await.unwrap();
    let mut names: Vec<_> = response.headers().iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["content-length", "content-type", "x-other"]);
    assert_eq!(unread(response.into_body()).await.unwrap().0, "{}");

    let seen = scene.stub.only();
    assert_eq!(seen.line(), "POST /v1/chat/completions HTTP/1.1");
    assert_eq!(seen.text(), body);
    let mut names: Vec<_> = seen.head.lines().skip(1).filter_map(|line| Some(line.split_once(':')?.0)).collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "accept-encoding",
            "anthropic-version",
            "authorization",
            "content-length",
            "content-type",
            "host",
            "x-doorward-owner",
            "x-request-id"
        ]
    );
    assert_eq!(seen.values("authorization"), ["Bearer its-own"]);
    assert_eq!(seen.values("host"), [scene.stub.address.to_string()]);
}

/// A gateway in wrong hands reaches nothing but what this config allows.
#[tokio::test]
async fn a_compromised_gateway_reaches_nothing_else() {
    let scene = scene(Stub::chatty().await, "allow = [\"openai.chat_completions\", \"anthropic.messages\"]").await;
    let mut tunnel = scene.gateway.registered().await;
    let chat_path = "/v1/chat/completions";
    let mut asked = Vec::new();
    for path in [
        "/",
        "/metrics",
        "/health",
        "/v1/models",
        "/v1/embeddings",
        "/v1/models/x",
        "/v1/chat/completions/",
        "/v1/chat/./completions",
        "/v1/x/../chat/completions",
        "/v1/chat%2Fcompletions",
        "/v1%2f..%2fmetrics",
        "//v1/chat/completions",
        "/v1/chat/completions;x=1",
        "/api/pull",
        "/api/delete",
        "/v1/load_lora_adapter",
        "/v1/chat/completions?api_key=x",
        "/v1/chat/completions?model=y",
        "/v1/messages?beta=true&key=x",
    ] {
        asked.push(("POST", format!("https://a{path}")));
    }
    for method in ["GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "FROB"] {
        asked.push((method, format!("https://a{chat_path}")));
    }
    let port = scene.stub.address.port();
    for authority in
        ["b", "A", "127.0.0.1", &format!("127.0.0.1:{port}"), "localhost", "a:80", "x@a", "169.254.169.254", "[::1]"]
    {
        asked.push(("POST", format!("https://{authority}{chat_path}")));
    }
    for (method, uri) in asked {
        let request = Request::builder().method(method.parse::<Method>().unwrap()).uri(uri.parse::<Uri>().unwrap());
        let outcome = tunnel.send(request.body(()).unwrap(), "{}").await;
        match outcome {
            Ok((response, _)) => {
                let error =
                    response.headers().get("x-doorward-connector-error").map(|e| e.to_str().unwrap().to_owned());
                assert!(matches!(error.as_deref(), Some("refused" | "not_found")), "{method} {uri}: {response:?}");
                assert!(response.status().is_client_error(), "{method} {uri}");
            }
            // Where HTTP/2 itself refuses.
            Err(error) => assert!(error.is_reset(), "{method} {uri}: {error}"),
        }
    }
    assert!(scene.stub.seen().is_empty(), "{:#?}", scene.stub.seen());
    // And all the while the tunnel is as good as before.
    let served = ask(&mut tunnel, Tunnel::chat("a", 2), "{}").await;
    assert_eq!((served.0, served.1), (200, None));
}

/// A body that a backend does not expect would be its next request, past the list of endpoints.
#[tokio::test]
async fn a_body_cannot_follow_where_none_belongs() {
    let scene = scene(Stub::chatty().await, "allow = [\"openai.models\"]").await;
    let mut tunnel = scene.gateway.registered().await;
    let smuggled = "POST /api/delete HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n";
    for announced in [true, false] {
        let mut request = Request::get("https://a/v1/models");
        if announced {
            request = request.header("content-length", smuggled.len());
        }
        let (status, error, _) = ask(&mut tunnel, request.body(()).unwrap(), smuggled).await;
        assert_eq!((status, error.as_deref()), (403, Some("refused")));
    }
    assert!(scene.stub.seen().is_empty(), "{:#?}", scene.stub.seen());
    let (response, _send) = tunnel.begin(Request::get("https://a/v1/models").body(()).unwrap(), true).await;
    assert_eq!(within(LONG, "the connector answers", response).await.unwrap().status(), 200);
}

#[tokio::test]
async fn connect_is_no_way_through() {
    let scene = scene(Stub::chatty().await, "").await;
    let mut tunnel = scene.gateway.registered().await;
    let request = Request::connect(Uri::builder().authority(scene.stub.address.to_string()).build().unwrap());
    let (response, _send) = tunnel.begin(request.body(()).unwrap(), false).await;
    match within(LONG, "the connector answers", response).await {
        Ok(response) => assert_eq!(response.status(), 403),
        Err(error) => assert!(error.is_reset(), "{error}"),
    }
    assert!(scene.stub.seen().is_empty());
}

#[tokio::test]
async fn its_own_errors_are_marked() {
    let stub = Stub::by_hand().await;
    let files = Setup::new(&stub).write();
    let gateway = HandGateway::new(&files).await;
    let (directory, _) = files.connector("site-a");
    let backends = format!(
        "[[backend]]\nname = \"dead\"\nurl = \"http://{}\"\n{}max_concurrent = 1\ntimeouts = {{ first_byte = \"200ms\" }}",
        dead_port().await,
        backend(stub.address, "")
    );
    let _site = RealConnector::start(&[gateway.address], &directory, &backends);
    let mut tunnel = gateway.registered().await;
    let answered = ask(&mut tunnel, Tunnel::chat("dead", 2), "{}").await;
    assert_eq!(answered, (502, Some("connect_failed".to_owned()), String::new()));
    let answered = ask(&mut tunnel, Tunnel::chat("nobody", 2), "{}").await;
    assert_eq!(answered, (404, Some("not_found".to_owned()), String::new()));

    // A backend that takes the request and says nothing.
    let (silent, mut upload) = tunnel.begin(Tunnel::chat("a", 2), false).await;
    upload.send_data(Bytes::from_static(b"{}"), true).unwrap();
    let exchange = stub.next().await;
    // One is under way, and one is what the config allows.
    let answered = ask(&mut tunnel, Tunnel::chat("a", 2), "{}").await;
    assert_eq!(answered, (503, Some("refused".to_owned()), String::new()));
    let response = within(LONG, "the connector gives up", silent).await.unwrap();
    assert_eq!(response.status(), 504);
    assert_eq!(response.headers()["x-doorward-connector-error"], "timeout");
    // And the backend is told.
    exchange.closed().await;
}

#[tokio::test]
async fn streams_pass_event_by_event_with_their_trailers() {
    let scene = scene(Stub::by_hand().await, "").await;
    let mut tunnel = scene.gateway.registered().await;
    let (response, mut upload) = tunnel.begin(Tunnel::chat("a", 2), false).await;
    upload.send_data(Bytes::from_static(b"{}"), true).unwrap();
    let mut exchange = scene.stub.next().await;
    exchange.begin("text/event-stream").await;
    let response = within(LONG, "the head comes before any event", response).await.unwrap();
    let mut body = response.into_body();
    for n in 0..5 {
        let event = format!("data: {n}\n\n");
        exchange.chunk(&event).await;
        let data = within(LONG, "the event comes", poll_fn(|context| body.poll_data(context))).await.unwrap().unwrap();
        assert_eq!(data, event);
        body.flow_control().release_capacity(data.len()).unwrap();
    }
    exchange.send("0\r\nX-Checksum: 7\r\nX-Doorward-Origin: x\r\n\r\n").await;
    let (rest, trailers) = unread(body).await.unwrap();
    assert_eq!(rest, "");
    assert_eq!(trailers.len(), 1);
    assert_eq!(trailers["x-checksum"], "7");
    exchange.keep();
    // The connection to the backend is used again.
    let (_, mut upload) = tunnel.begin(Tunnel::chat("a", 2), false).await;
    upload.send_data(Bytes::from_static(b"{}"), true).unwrap();
    drop(scene.stub.next().await);
    let seen = scene.stub.seen();
    assert_eq!(seen[0].connection, seen[1].connection);
}

#[tokio::test]
async fn a_long_prompt_passes_and_its_length_is_kept() {
    let scene = scene(Stub::chatty().await, "").await;
    let mut tunnel = scene.gateway.registered().await;
    let long = "x".repeat(1 << 20);
    let (response, mut upload) = tunnel.begin(Tunnel::chat("a", long.len()), false).await;
    let mut rest = Bytes::from(long.clone());
    while !rest.is_empty() {
        upload.reserve_capacity(rest.len());
        let room = poll_fn(|context| upload.poll_capacity(context)).await.unwrap().unwrap();
        let piece = rest.split_to(room.min(rest.len()));
        upload.send_data(piece, rest.is_empty()).unwrap();
    }
    assert_eq!(within(LONG, "a reply", response).await.unwrap().status(), 200);
    assert_eq!(scene.stub.only().body.len(), long.len());
}

#[tokio::test]
async fn a_caller_that_leaves_is_felt_by_the_backend() {
    let scene = scene(Stub::by_hand().await, "").await;
    let mut tunnel = scene.gateway.registered().await;
    // While the head is awaited, and while the body comes.
    for begun in [false, true] {
        let (response, mut upload) = tunnel.begin(Tunnel::chat("a", 2), false).await;
        upload.send_data(Bytes::from_static(b"{}"), true).unwrap();
        let mut exchange = scene.stub.next().await;
        if begun {
            exchange.begin("text/event-stream").await;
            exchange.chunk("data: 1\n\n").await;
            let response = within(LONG, "the head", response).await.unwrap();
            upload.send_reset(Reason::CANCEL);
            drop(response);
        } else {
            upload.send_reset(Reason::CANCEL);
            drop(response);
        }
        let span = exchange.closed().await;
        assert!(span < Duration::from_secs(1), "{span:?}");
    }
    until(LONG, "nothing is in flight", || (scene.site.agent.in_flight() == 0).then_some(())).await;
}

#[tokio::test]
async fn a_backend_that_dies_never_ends_a_reply_cleanly() {
    let scene = scene(Stub::by_hand().await, "").await;
    let mut tunnel = scene.gateway.registered().await;
    // In a chunked reply, in one with a length, and before any reply.
    for begin in [
        Some(format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{}", chunk("data: 1\n\n"))),
        Some("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\ndata: 1\n\n".to_owned()),
        None,
    ] {
        let (response, mut upload) = tunnel.begin(Tunnel::chat("a", 2), false).await;
        upload.send_data(Bytes::from_static(b"{}"), true).unwrap();
        let mut exchange = scene.stub.next().await;
        let error = match begin {
            Some(begin) => {
                exchange.send(begin).await;
                let mut body = within(LONG, "the head", response).await.unwrap().into_body();
                let data = within(LONG, "an event", poll_fn(|context| body.poll_data(context))).await.unwrap().unwrap();
                assert_eq!(data, "data: 1\n\n");
                drop(exchange);
                unread(body).await.unwrap_err()
            }
            None => {
                drop(exchange);
                within(LONG, "an end", response).await.unwrap_err()
            }
        };
        assert_eq!(error.reason(), Some(Reason::INTERNAL_ERROR));
    }
    // A reply whose end is the connection's is told to be one: only its terminator can say it is whole.
    let (response, mut upload) = tunnel.begin(Tunnel::chat("a", 2), false).await;
    upload.send_data(Bytes::from_static(b"{}"), true).unwrap();
    let mut exchange = scene.stub.next().await;
    exchange.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n").await;
    drop(exchange);
    let response = within(LONG, "the head", response).await.unwrap();
    assert_eq!(response.headers()["x-doorward-connector-ends"], "connection");
    assert_eq!(unread(response.into_body()).await.unwrap().0, "data: 1\n\n");
}

/// Twenty readers that stop reading tiny events, while another goes on: what one does not read is
/// merged, and neither end gives the connection up.
#[tokio::test]
async fn readers_that_stall_hurt_nobody_else() {
    let scene = scene(Stub::by_hand().await, "").await;
    let mut tunnel = scene.gateway.registered().await;
    let event = chunk("data: {\"n\":1}\n\n").repeat(1000);
    let mut parked = Vec::new();
    for _ in 0..20 {
        let (response, mut upload) = tunnel.begin(Tunnel::chat("a", 2), false).await;
        upload.send_data(Bytes::from_static(b"{}"), true).unwrap();
        let mut exchange = scene.stub.next().await;
        exchange.begin("text/event-stream").await;
        let body = within(LONG, "the head", response).await.unwrap().into_body();
        parked.push((
            body,
            tokio::spawn(async move {
                for _ in 0..20 {
                    if exchange.try_send(event_bytes()).await.is_err() {
                        return;
                    }
                }
            }),
        ));
    }
    assert_eq!(event.as_bytes(), event_bytes());
    let (response, mut upload) = tunnel.begin(Tunnel::chat("a", 2), false).await;
    upload.send_data(Bytes::from_static(b"{}"), true).unwrap();
    let mut exchange = scene.stub.next().await;
    exchange.begin("text/event-stream").await;
    let mut body = within(LONG, "the head", response).await.unwrap().into_body();
    for n in 0..200 {
        let event = format!("data: {n}\n\n");
        exchange.chunk(&event).await;
        let data = within(LONG, "the event comes", poll_fn(|context| body.poll_data(context))).await.unwrap().unwrap();
        assert_eq!(data, event);
        body.flow_control().release_capacity(data.len()).unwrap();
    }
    exchange.end().await;
    unread(body).await.unwrap();
    // The parked ones, read at last, are whole as far as they go.
    let (body, flood) = parked.pop().unwrap();
    let read = tokio::spawn(unread_some(body, 64 << 10));
    assert!(within(LONG, "a parked reader goes on", read).await.unwrap().starts_with("data: {\"n\":1}\n\n"));
    flood.abort();
}

fn event_bytes() -> Vec<u8> {
    chunk("data: {\"n\":1}\n\n").repeat(1000).into_bytes()
}

async fn unread_some(mut body: h2::RecvStream, enough: usize) -> String {
    let mut text = Vec::new();
    while text.len() < enough {
        let data = poll_fn(|context| body.poll_data(context)).await.unwrap().unwrap();
        body.flow_control().release_capacity(data.len()).unwrap();
        text.extend_from_slice(&data);
    }
    String::from_utf8(text).unwrap()
}

/// A crowd of callers that leave at once is no attack by the gateway.
#[tokio::test]
async fn a_crowd_may_leave() {
    let scene = scene(Stub::by_hand().await, "max_concurrent = 1000").await;
    let mut tunnel = scene.gateway.registered().await;
    for _ in 0..3 {
        let mut crowd = Vec::new();
        for _ in 0..250 {
            crowd.push(tunnel.begin(Tunnel::chat("a", 2), false).await);
        }
        for (_, upload) in &mut crowd {
            upload.send_reset(Reason::CANCEL);
        }
    }
    until(LONG, "nothing is in flight", || (scene.site.agent.in_flight() == 0).then_some(())).await;
    let asking = tunnel.send(Tunnel::chat("a", 2), "{}");
    let answering = async {
        // Some of the crowd may have got as far as the backend.
        while scene.stub.seen().iter().all(|seen| seen.text() != "{}") {
            drop(scene.stub.next().await);
        }
    };
    // The last exchange is dropped unanswered: that it came is what counts.
    let (asked, ()) = tokio::join!(asking, answering);
    assert!(asked.is_err_and(|error| error.is_reset()));
    assert!(!tunnel.driver.is_finished());
}

#[tokio::test]
async fn what_it_stops_for_ends_first() {
    let scene = scene(Stub::by_hand().await, "").await;
    let mut tunnel = scene.gateway.registered().await;
    let (response, mut upload) = tunnel.begin(Tunnel::chat("a", 2), false).await;
    upload.send_data(Bytes::from_static(b"{}"), true).unwrap();
    let mut exchange = scene.stub.next().await;
    exchange.begin("text/event-stream").await;
    let body = within(LONG, "the head", response).await.unwrap().into_body();
    let stopping = tokio::spawn(scene.site.agent.stop());
    tunnel.control().hear_of("drain").await;
    exchange.chunk("data: 1\n\n").await;
    exchange.end().await;
    assert_eq!(unread(body).await.unwrap().0, "data: 1\n\n");
    within(LONG, "it stops", stopping).await.unwrap();
    within(LONG, "the connection ends", &mut tunnel.driver).await.unwrap().unwrap();
}

/// A new certificate: the new connection is there before the old one goes, and no request is lost.
#[tokio::test]
async fn a_renewed_certificate_is_dialled_in() {
    let stub = Stub::by_hand().await;
    let files = Setup::new(&stub).write();
    let gateway = HandGateway::new(&files).await;
    let (directory, _) = files.connector("site-a");
    // The drain time is for a connector that stops.
    let config = format!("drain = \"0s\"\n{}", backend(stub.address, ""));
    let site = RealConnector::start(&[gateway.address], &directory, &config);
    let scene = Scene { stub, files, gateway, site };
    let mut old = scene.gateway.registered().await;
    let (response, mut upload) = old.begin(Tunnel::chat("a", 2), false).await;
    upload.send_data(Bytes::from_static(b"{}"), true).unwrap();
    let mut exchange = scene.stub.next().await;
    exchange.begin("text/event-stream").await;
    let body = within(LONG, "the head", response).await.unwrap().into_body();

    let (renewed, _) = scene.files.connector("site-a");
    scene.site.identity.send_replace(RealConnector::identity(&renewed));
    let mut new = scene.gateway.accept().await;
    let register = new.control().hear().await;
    assert_eq!(register["conn_index"], 0);
    // Not before the new one is registered.
    assert!(!old.driver.is_finished());
    new.control().register().await;
    old.control().hear_of("drain").await;
    exchange.chunk("data: 1\n\n").await;
    exchange.end().await;
    assert_eq!(unread(body).await.unwrap().0, "data: 1\n\n");
    within(LONG, "the old connection ends", &mut old.driver).await.unwrap().unwrap();

    let served = tokio::join!(ask(&mut new, Tunnel::chat("a", 2), "{}"), async {
        scene.stub.next().await.reply(json_reply("{}")).await;
    });
    assert_eq!(served.0.0, 200);
}

/// The gateway drains: another connection is there before the old one is closed.
#[tokio::test]
async fn a_gateway_that_drains_is_dialled_again() {
    let scene = scene(Stub::chatty().await, "").await;
    let mut old = scene.gateway.registered().await;
    old.control().say(&json!({"type": "drain", "reason": "shutdown", "deadline_s": 30}));
    let mut new = scene.gateway.registered().await;
    assert_eq!(ask(&mut new, Tunnel::chat("a", 2), "{}").await.0, 200);
    old.control().hear_of("drain").await;
    within(LONG, "the old connection ends", &mut old.driver).await.unwrap().unwrap();
}

/// Revoked: it stays alive, and comes back with a new certificate at once.
/// A gateway that the config does not name any more reaches nothing, even if it acts as if it had not heard that.
#[tokio::test]
async fn a_gateway_that_was_left_gets_no_more_requests_through() {
    let mut scene = scene(Stub::chatty().await, "").await;
    let mut old = scene.gateway.deaf_to_farewells().await;
    old.control().hear_health("a", "up").await;
    assert_eq!(ask(&mut old, Tunnel::chat("a", 2), "{}").await.0, 200);
    // One that is under way keeps the connection.
    let (_reply, _unsent) = old.begin(Tunnel::chat("a", 2), false).await;
    let other = HandGateway::new(&scene.files).await;
    scene.site.reload(&[other.address], 1, &backend(scene.stub.address, ""));
    let _new = other.registered().await;
    old.control().hear_of("drain").await;
    let mut again = tokio::time::interval(Duration::from_millis(20));
    let refused = within(LONG, "it takes no more requests", async {
        loop {
            again.tick().await;
            match old.send(Tunnel::chat("a", 2), "{}").await {
                Ok((reply, _)) => drop(unread(reply.into_body()).await),
                Err(error) => return error,
            }
        }
    });
    assert_eq!(refused.await.reason(), Some(Reason::REFUSED_STREAM));
}

#[tokio::test]
async fn a_revoked_connector_stays_alive() {
    let scene = scene(Stub::chatty().await, "").await;
    let mut tunnel = scene.gateway.accept().await;
    tunnel.control().hear_of("register").await;
    tunnel.control().say(&json!({"type": "error", "code": "revoked", "retry": "never"}));
    within(LONG, "it closes the connection", &mut tunnel.driver).await.unwrap().ok();
    let (renewed, _) = scene.files.connector("site-a");
    scene.site.identity.send_replace(RealConnector::identity(&renewed));
    let mut tunnel = scene.gateway.registered().await;
    assert_eq!(ask(&mut tunnel, Tunnel::chat("a", 2), "{}").await.0, 200);
}

/// What is unknown on the control stream is nothing; what is wrong ends the connection, and it is
/// dialled again.
#[tokio::test]
async fn the_control_stream_is_bounded() {
    let scene = scene(Stub::chatty().await, "").await;
    let mut tunnel = scene.gateway.registered().await;
    tunnel.control().say(&json!({"type": "rebalance", "to": ["x"]}));
    tunnel.control().say(&json!({"type": "registered", "accepted": [], "refused": [{"name": "a", "code": "not_permitted"}], "server_time": "", "more": 1}));
    assert_eq!(ask(&mut tunnel, Tunnel::chat("a", 2), "{}").await.0, 200);
    for wrong in ["{\"type\":\"drain\"}\n".to_owned(), "x".repeat(17_000), "\n".to_owned()] {
        tunnel.control().say_text(&wrong);
        within(LONG, "the connection ends", &mut tunnel.driver).await.unwrap().ok();
        tunnel = scene.gateway.registered().await;
    }
    // There is one control stream.
    let second = Request::post("https://connect.test/.doorward/v1/control").body(()).unwrap();
    let (response, _send) = tunnel.begin(second, false).await;
    assert_eq!(within(LONG, "an answer", response).await.unwrap().status(), 409);
}

/// Only the gateway of the private authority, under its name, with this protocol, is spoken to.
#[tokio::test]
async fn nobody_else_is_spoken_to() {
    let stub = Stub::chatty().await;
    let (files, foreign) = (Setup::new(&stub).write(), Setup::new(&stub).write());
    let (directory, _) = files.connector("site-a");
    for (whose, name, alpn) in [
        (&foreign, "connect.test", &b"doorward-connector/1"[..]),
        (&files, "llm.test", b"doorward-connector/1"),
        (&files, "connect.test", b""),
    ] {
        let gateway = HandGateway::with(whose, name, alpn).await;
        let _site = RealConnector::start(&[gateway.address], &directory, &backend(stub.address, ""));
        // It hangs up before it has said a word of HTTP/2, and comes again.
        for _ in 0..2 {
            gateway.expect_hang_up().await;
        }
    }
}

#[tokio::test]
async fn every_gateway_has_a_tunnel() {
    let stub = Stub::chatty().await;
    let files = Setup::new(&stub).write();
    let (directory, _) = files.connector("site-a");
    let (one, other) = (HandGateway::new(&files).await, HandGateway::new(&files).await);
    let _site = RealConnector::start(&[one.address, other.address], &directory, &backend(stub.address, ""));
    let (mut first, mut second) = tokio::join!(one.registered(), other.registered());
    assert_eq!(ask(&mut first, Tunnel::chat("a", 2), "{}").await.0, 200);
    assert_eq!(ask(&mut second, Tunnel::chat("a", 2), "{}").await.0, 200);
}

#[tokio::test]
async fn it_goes_through_a_proxy() {
    let stub = Stub::chatty().await;
    let files = Setup::new(&stub).write();
    let (directory, _) = files.connector("site-a");
    let gateway = HandGateway::new(&files).await;
    let proxy = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = proxy.local_addr().unwrap();
    let to = gateway.address;
    tokio::spawn(async move {
        loop {
            let (mut inside, _) = proxy.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(inside.read_u8().await.unwrap());
            }
            assert!(head.starts_with(format!("CONNECT {to} HTTP/1.1\r\n").as_bytes()));
            let mut outside = TcpStream::connect(to).await.unwrap();
            inside.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await.unwrap();
            tokio::spawn(async move { copy_bidirectional(&mut inside, &mut outside).await });
        }
    });
    let _site = RealConnector::by_proxy(address, gateway.address, &directory, &backend(stub.address, ""));
    let mut tunnel = gateway.registered().await;
    assert_eq!(ask(&mut tunnel, Tunnel::chat("a", 2), "{}").await.0, 200);
}

/// Connections come and go a thousand times; nothing of them stays.
#[tokio::test]
async fn reconnects_leave_nothing_behind() {
    let scene = scene(Stub::chatty().await, "").await;
    let files = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let memory = || {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap()
    };
    let (renewed, _) = scene.files.connector("site-a");
    let identity = RealConnector::identity(&renewed);
    let mut tunnel = scene.gateway.registered().await;
    let mut settled = None;
    for round in 0..1000 {
        // Sent anew, it is dialled anew, without a wait.
        scene.site.identity.send_replace(identity.clone());
        let new = scene.gateway.registered().await;
        let mut old = std::mem::replace(&mut tunnel, new);
        within(LONG, "the old one ends", &mut old.driver).await.unwrap().ok();
        if round == 200 {
            settled = Some((files(), tasks(), memory()));
        }
    }
    let (files_before, tasks_before, memory_before) = settled.unwrap();
    // 800 connections that left 8 KiB each would be seen.
    let grown = memory().saturating_sub(memory_before);
    assert!(grown < 6 << 10, "{grown} KiB more than after 200 connections");
    until(LONG, "no files and tasks are left", || {
        (files() <= files_before + 2 && tasks() <= tasks_before + 2).then_some(())
    })
    .await;
    assert_eq!(ask(&mut tunnel, Tunnel::chat("a", 2), "{}").await.0, 200);
}

/// A way to a gateway that can be frozen: what goes over it then is never heard of again, and nobody
/// is told. What is opened later passes.
struct Freezer {
    address: SocketAddr,
    freeze: watch::Sender<()>,
}

impl Freezer {
    async fn to(gateway: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, freeze) = (listener.local_addr().unwrap(), watch::Sender::new(()));
        let opened = freeze.clone();
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let mut frozen = opened.subscribe();
                tokio::spawn(async move {
                    let mut far = TcpStream::connect(gateway).await.unwrap();
                    tokio::select! {
                        _ = copy_bidirectional(&mut near, &mut far) => {}
                        _ = frozen.changed() => std::future::pending().await,
                    }
                });
            }
        });
        Self { address, freeze }
    }
}

/// The machine sleeps for a night, and its connection dies meanwhile: that is found out in seconds. It
/// would take 20 s by the PINGs alone, and this test is not that patient.
#[tokio::test]
async fn after_a_sleep_a_dead_link_is_dialled_again_at_once() {
    let stub = Stub::chatty().await;
    let files = Setup::new(&stub).write();
    let gateway = HandGateway::new(&files).await;
    let way = Freezer::to(gateway.address).await;
    let (directory, _) = files.connector("site-a");
    let clock = Clock::manual(Clock::System.now());
    let config = backend(stub.address, "");
    let site = RealConnector::start_with(&[way.address], &directory, &config, Reach::default(), clock.clone());
    let _dead = gateway.registered().await;
    until(LONG, "it is registered", || (site.agent.registered() == 1).then_some(())).await;
    way.freeze.send_replace(());
    clock.advance(Duration::from_secs(8 * 3600));
    let mut tunnel = gateway.registered().await;
    assert_eq!(ask(&mut tunnel, Tunnel::chat("a", 2), "{}").await.0, 200);
}

/// A wait that began before the machine slept is over when it wakes.
#[tokio::test]
async fn after_a_sleep_nobody_waits_any_longer() {
    let stub = Stub::chatty().await;
    let files = Setup::new(&stub).write();
    let gateway = HandGateway::new(&files).await;
    let (directory, _) = files.connector("site-a");
    let clock = Clock::manual(Clock::System.now());
    let config = backend(stub.address, "");
    let _site = RealConnector::start_with(&[gateway.address], &directory, &config, Reach::default(), clock.clone());
    let mut tunnel = gateway.accept().await;
    tunnel.control().hear_of("register").await;
    tunnel
        .control()
        .say(&json!({"type": "error", "code": "duplicate_instance", "retry": "later", "retry_after_s": 600}));
    within(LONG, "it closes the connection", &mut tunnel.driver).await.unwrap().ok();
    clock.advance(Duration::from_secs(3600));
    let mut tunnel = gateway.registered().await;
    assert_eq!(ask(&mut tunnel, Tunnel::chat("a", 2), "{}").await.0, 200);
}

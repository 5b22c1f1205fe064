//! Replies on their way: unbuffered, byte for byte, under back-pressure, and never with a clean end
//! that is a lie.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::time::Instant;

use crate::support::{
    CHAT, Caller, Flow, Line, Setup, Stub, World, chat, chat_stream, chunk, json_reply, live, until, within,
};

const SECOND: Duration = Duration::from_secs(1);

/// What a stream looks like in each dialect.
struct Api {
    path: &'static str,
    content_type: &'static str,
    /// An event, or a line.
    event: &'static str,
    /// What says that all came.
    terminator: &'static str,
    /// How an error in the stream begins.
    error: &'static str,
}

const APIS: [Api; 4] = [
    Api {
        path: CHAT,
        content_type: "text/event-stream",
        event: "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n",
        terminator: "data: [DONE]\n\n",
        error: "data: {\"error\":{",
    },
    Api {
        path: "/v1/responses",
        content_type: "text/event-stream; charset=utf-8",
        event: "event: response.output_text.delta\ndata: {\"delta\":\"a\"}\n\n",
        terminator: "event: response.completed\ndata: {\"type\":\"response.completed\"}\n\n",
        error: "data: {\"error\":{",
    },
    Api {
        path: "/v1/messages",
        content_type: "text/event-stream",
        event: "event: content_block_delta\ndata: {\"type\":\"content_block_delta\"}\n\n",
        terminator: "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
        error: "event: error\ndata: {\"error\":{",
    },
    Api {
        path: "/api/chat",
        content_type: "application/x-ndjson",
        event: "{\"message\":{\"content\":\"a\"},\"done\":false}\n",
        terminator: "{\"done\":true}\n",
        error: "{\"error\":\"",
    },
];

async fn caller(world: &World) -> Caller {
    world.caller().key(&world.key("acme/x").await)
}

/// Each event is with the caller before the backend has said the next, and nothing is changed: not
/// even line ends, comments, or pieces of characters.
#[tokio::test]
async fn events_pass_one_by_one_and_byte_by_byte() {
    let stub = Stub::by_hand().await;
    let world = World::open(&stub).await;
    let pieces = [
        ": a comment\n\n",
        "data: {\"n\":1}\n\n",
        "data: {\"n\":2}\r\n\r\n",
        "id: 7\nevent: x\nretry: 1\ndata: not json\ndata: in two lines\n\n",
        "data: {\"half\":",
        "\"of an event\"}\n\n",
        "data: {\"ü\":\"\u{1f980}\"}\r\r",
        "data: [DONE]\n\n",
    ];
    for mut line in caller(&world).await.both().await {
        let backend = async {
            let mut exchange = stub.next().await;
            exchange.begin("text/event-stream").await;
            exchange
        };
        let body = chat_stream("same");
        let (response, mut exchange) = tokio::join!(line.begin(CHAT, &body), backend);
        let mut flow = Flow::of(response);
        let mut sent = String::new();
        for piece in pieces {
            exchange.chunk(piece).await;
            sent.push_str(piece);
            flow.until(&sent).await;
        }
        exchange.end().await;
        assert_eq!(flow.head.headers["content-type"], "text/event-stream");
        let id = flow.request_id();
        assert_eq!(flow.end().await, (sent.clone(), None));
        let record = world.record(&id).await;
        assert_eq!((&record["outcome"], &record["stream"]), (&"forwarded".into(), &true.into()));
        assert_eq!(record["bytes_out"], sent.len());
    }
    // A connection that has carried a whole stream carries the next.
    assert_eq!(stub.connections(), 1);
}

/// Who does not read stops the backend, after what the sockets and windows between them hold.
#[tokio::test]
async fn a_caller_that_does_not_read_stops_the_backend() {
    let stub = Stub::by_hand().await;
    let world = World::open(&stub).await;
    for mut line in caller(&world).await.both().await {
        let (mut flow, mut exchange) = live(&mut line, &stub).await;
        let event = format!("data: {}\n\n", "x".repeat(4000));
        let sent = exchange.flood(&event, Duration::from_millis(300)).await;
        assert!(sent < 24 << 20, "{sent} bytes for a caller that reads none");
        // It goes on when the caller does.
        let (more, ()) = tokio::join!(exchange.try_send(chunk("")), async {
            while flow.text.len() < sent / 2 {
                flow.more().await;
            }
        });
        assert!(more.is_ok());
        drop((flow, line));
        exchange.closed().await;
        world.metric_becomes("doorward_requests_in_flight", 0.0).await;
    }
}

/// A caller that leaves lets the backend go within a second, wherever the request stands.
#[tokio::test]
async fn a_caller_that_leaves_lets_the_backend_go() {
    let stub = Stub::by_hand().await;
    let world = World::open(&stub).await;
    for h2 in [false, true] {
        for streaming in [false, true] {
            let caller = caller(&world).await;
            let mut line = if h2 { caller.h2().await } else { caller.h1().await };
            let exchange = if streaming {
                let (flow, exchange) = live(&mut line, &stub).await;
                drop(flow);
                exchange
            } else {
                let request = line.json(CHAT, &chat("llama"));
                tokio::select! {
                    answer = line.send(request) => panic!("{answer:?}"),
                    exchange = stub.next() => exchange,
                }
            };
            if !h2 {
                drop(line);
            }
            assert!(exchange.closed().await < SECOND);
            world.metric_becomes("doorward_requests_in_flight", 0.0).await;
        }
    }
    for record in world.all_records(4).await {
        assert_eq!(record["outcome"], "caller_gone", "{record}");
    }
}

async fn begin(line: &mut Line, stub: &Stub, api: &Api, reply: &str) -> (Flow, crate::support::Exchange) {
    let backend = async {
        let mut exchange = stub.next().await;
        exchange.send(reply).await;
        exchange
    };
    let body = r#"{"model":"llama","stream":true}"#;
    let (response, exchange) = tokio::join!(line.begin(api.path, body), backend);
    (Flow::of(response), exchange)
}

/// A stream that breaks off says so in its own words, and then is aborted.
#[tokio::test]
async fn a_stream_that_breaks_off_is_an_error_in_every_dialect() {
    let stub = Stub::by_hand().await;
    let world = World::open(&stub).await;
    for api in &APIS {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Type: {}\r\n", api.content_type);
        let chunked = format!("{head}Transfer-Encoding: chunked\r\n\r\n");
        let broken = [
            // Between events; within one; after the terminator, but before the end of the coding.
            format!("{chunked}{}", chunk(api.event)),
            format!("{chunked}{}{}", chunk(api.event), chunk("data: {\"hal")),
            format!("{chunked}{}", &chunk(api.event)[..12]),
            format!("{chunked}{}{}", chunk(api.event), chunk(api.terminator)),
            // Neither length nor chunks: complete only with the terminator.
            format!("{head}\r\n{}", api.event),
            format!("{head}\r\n{}{}", api.event, &api.terminator[..4]),
            format!("{head}Content-Length: 1000\r\n\r\n{}", api.event),
        ];
        for reply in &broken {
            for mut line in caller(&world).await.both().await {
                let (flow, exchange) = begin(&mut line, &stub, api, reply).await;
                let id = flow.request_id();
                drop(exchange);
                let (text, broke) = flow.end().await;
                let broke = broke.unwrap_or_else(|| panic!("{reply:?} ended cleanly as {text:?}"));
                assert!(!broke.contains("CANCEL") && !broke.contains("NO_ERROR"), "{broke}");
                let error = text.find(api.error).unwrap_or_else(|| panic!("no error in {text:?} for {reply:?}"));
                assert!(error == 0 || text[..error].ends_with('\n'), "{text:?}");
                assert!(!text[error..].contains("127.0.0.1"), "{text:?}");
                let record = world.record(&id).await;
                assert_eq!((&record["outcome"], &record["code"]), (&"broken".into(), &"backend_broke".into()));
            }
        }
        // With its terminator, one without a length is whole.
        for mut line in caller(&world).await.both().await {
            let reply = format!("{head}\r\n{}{}", api.event, api.terminator);
            let (flow, exchange) = begin(&mut line, &stub, api, &reply).await;
            drop(exchange);
            assert_eq!(flow.end().await, (format!("{}{}", api.event, api.terminator), None));
        }
    }
    world.metric_becomes("doorward_requests_in_flight", 0.0).await;
}

/// Wherever a reply is cut, no caller takes it for a whole one.
#[tokio::test]
async fn a_reply_that_is_cut_anywhere_is_never_whole() {
    let stub = Stub::by_hand().await;
    let world = World::open(&stub).await;
    let json = String::from_utf8(json_reply(r#"{"model":"org/llama-8b","x":"y"}"#)).unwrap();
    let unframed = json.replace("Content-Length: 32\r\n", "");
    let sse = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n{}{}0\r\n\r\n",
        chunk("data: {\"model\":\"org/llama-8b\"}\n\n"),
        chunk("data: [DONE]\n\n")
    );
    let mut line = caller(&world).await.h2().await;
    for reply in [json, unframed, sse] {
        let head = reply.find("\r\n\r\n").unwrap();
        for cut in (0..head).step_by(16).chain(head..reply.len()) {
            let backend = async {
                let mut exchange = stub.next().await;
                exchange.send(&reply[..cut]).await;
            };
            let (answer, ()) = tokio::join!(line.chat("{\"model\":\"llama\"}"), backend);
            let refused = answer.status == 502 && answer.broke.is_none();
            assert!(refused || answer.broke.is_some(), "{:?} gave {answer:?}", &reply[..cut]);
        }
        let backend = async { stub.next().await.send(&reply).await };
        let (answer, ()) = tokio::join!(line.chat("{\"model\":\"llama\"}"), backend);
        answer.assert_served();
    }
}

/// A comment is no event: the first one must come in time. After it, silence has a bound.
#[tokio::test]
async fn a_stream_that_falls_silent_is_broken_off() {
    let stub = Stub::by_hand().await;
    let world =
        Setup::new(&stub).backend(&stub, "timeouts = { first_event = \"150ms\", idle = \"60ms\" }").start().await;
    for api in &APIS {
        for (first, least) in [(": still here\n\n", 150), (api.event, 60)] {
            if first.starts_with(':') && api.content_type.ends_with("ndjson") {
                continue;
            }
            for mut line in caller(&world).await.both().await {
                let begun = Instant::now();
                let head = format!("HTTP/1.1 200 OK\r\nContent-Type: {}\r\n", api.content_type);
                let reply = format!("{head}Transfer-Encoding: chunked\r\n\r\n{}", chunk(first));
                let (flow, exchange) = begin(&mut line, &stub, api, &reply).await;
                let id = flow.request_id();
                let ((text, broke), _) = tokio::join!(flow.end(), exchange.closed());
                assert!(begun.elapsed() >= Duration::from_millis(least) && begun.elapsed() < 2 * SECOND);
                assert!(broke.is_some() && text.contains(api.error), "{text:?}");
                let record = world.record(&id).await;
                assert_eq!((&record["outcome"], &record["code"]), (&"broken".into(), &"backend_timeout".into()));
            }
        }
    }
}

/// Once there was an event, the long wait for the first one is over.
#[tokio::test]
async fn silence_after_the_first_event_is_not_waited_for_as_the_first_event_is() {
    let stub = Stub::by_hand().await;
    let world = Setup::new(&stub).backend(&stub, "timeouts = { first_event = \"10m\", idle = \"60ms\" }").start().await;
    for api in &APIS {
        let mut line = caller(&world).await.h1().await;
        let head = format!("HTTP/1.1 200 OK\r\nContent-Type: {}\r\n", api.content_type);
        // Its head alone: the wait for the first event has begun when that comes.
        let reply = format!("{head}Transfer-Encoding: chunked\r\n\r\n");
        let (flow, mut exchange) = begin(&mut line, &stub, api, &reply).await;
        exchange.send(chunk(api.event)).await;
        let id = flow.request_id();
        let ((_, broke), _) = tokio::join!(flow.end(), exchange.closed());
        assert!(broke.is_some());
        assert_eq!(world.record(&id).await["code"], "backend_timeout");
    }
}

/// A backend may close what is idle: the next request takes a new connection, and is sent once.
#[tokio::test]
async fn a_connection_that_the_backend_closed_while_idle_costs_nothing() {
    let stub = Stub::by_hand().await;
    let world = World::open(&stub).await;
    let mut line = caller(&world).await.h1().await;
    for round in 1..=20 {
        let backend = async {
            let mut exchange = stub.next().await;
            exchange.send(json_reply("{}")).await;
        };
        let body = chat("llama");
        let (answer, ()) = tokio::join!(line.chat(&body), backend);
        answer.assert_served();
        assert_eq!((stub.seen().len(), stub.connections()), (round, round));
    }
}

/// Only a connection whose last exchange came to its end is used again.
#[tokio::test]
async fn a_connection_is_never_reused_after_an_unfinished_exchange() {
    let stub = Stub::by_hand().await;
    let world = World::open(&stub).await;
    let caller = caller(&world).await;
    let mut line = caller.h2().await;
    let (flow, exchange) = live(&mut line, &stub).await;
    drop(flow);
    exchange.closed().await;
    let body = chat("llama");
    for _ in 0..2 {
        let backend = async { stub.next().await.reply(json_reply("{}")).await };
        let (answer, ()) = tokio::join!(line.chat(&body), backend);
        answer.assert_served();
    }
    let connections: Vec<_> = stub.seen().iter().map(|seen| seen.connection).collect();
    assert_eq!(connections, [1, 2, 2]);
}

/// A backend that says more than it was asked for never says it to the next caller.
#[tokio::test]
async fn a_reply_that_nobody_asked_for_meets_no_request() {
    let stub = Stub::by_hand().await;
    let world = World::open(&stub).await;
    let mut line = caller(&world).await.h1().await;
    for _ in 0..20 {
        let body = chat("llama");
        let backend = async {
            let mut first = stub.next().await;
            let [good, bad] = [json_reply("{\"good\":1}"), json_reply("{\"smuggled\":1}")];
            first.send([good, bad].concat()).await;
            first.keep();
        };
        let (answer, ()) = tokio::join!(line.chat(&body), backend);
        assert_eq!(answer.text(), "{\"good\":1}");
        let backend = async {
            let exchange = stub.next().await;
            exchange.reply(json_reply("{\"next\":1}")).await;
        };
        let (answer, ()) = tokio::join!(line.chat(&body), backend);
        assert_eq!(answer.text(), "{\"next\":1}");
    }
}

/// An interim response is not the answer.
#[tokio::test]
async fn interim_responses_are_skipped() {
    let stub = Stub::scripted(|_| {
        let mut reply = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n".to_vec();
        reply.extend(json_reply("{}"));
        reply
    })
    .await;
    let world = World::open(&stub).await;
    let answer = caller(&world).await.chat(&chat("llama")).await;
    answer.assert_served();
    assert_eq!((answer.text(), answer.header("link")), ("{}", None));
}

/// Many callers of one gateway, some of which leave: every request has its own reply.
#[tokio::test]
async fn replies_belong_to_their_requests() {
    let stub = Stub::scripted(|seen| json_reply(&format!("{{\"echo\":{}}}", seen.text()))).await;
    let mut setup = Setup::new(&stub);
    setup.workers = 2;
    let world = setup.start().await;
    let caller = caller(&world).await;
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..8 {
        let caller = caller.clone();
        tasks.spawn(async move {
            let mut line = if task % 2 == 0 { caller.h1().await } else { caller.h2().await };
            for n in 0..40 {
                let body = format!("{{\"model\":\"same\",\"tag\":\"{task}-{n}\"}}");
                if line.is_h2() && n % 5 == 0 {
                    let request = line.json(CHAT, &body);
                    // Leaves at some point before the answer.
                    let _ = tokio::time::timeout(Duration::from_micros(300 * n), line.send(request)).await.is_ok();
                    continue;
                }
                assert_eq!(line.chat(&body).await.text(), format!("{{\"echo\":{body}}}"));
            }
        });
    }
    within(3 * crate::support::LONG, "all are served", async {
        while let Some(result) = tasks.join_next().await {
            result.unwrap();
        }
    })
    .await;
    until(crate::support::LONG, "nothing is left", || {
        (world.server.gateway().buffered.load(Ordering::Relaxed) == 0).then_some(())
    })
    .await;
    world.metric_becomes("doorward_requests_in_flight", 0.0).await;
}

/// A backend that takes connections and reads nothing is given up in time.
#[tokio::test]
async fn a_backend_that_stops_reading_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stub = Stub::chatty().await;
    let mut setup = Setup::new(&stub).backend(&stub, "timeouts = { first_byte = \"300ms\" }");
    setup.backends = setup.backends.replace(&stub.address.to_string(), &listener.local_addr().unwrap().to_string());
    let world = setup.start().await;
    let body = format!("{{\"model\":\"llama\",\"x\":\"{}\"}}", "x".repeat(12 << 20));
    for mut line in caller(&world).await.both().await {
        let backend = async { listener.accept().await.unwrap() };
        let (answer, held) = tokio::join!(line.chat(&body), backend);
        answer.assert_refused(&world, 504, "backend_timeout").await;
        drop(held);
        world.metric_becomes("doorward_requests_in_flight", 0.0).await;
    }
    assert_eq!(world.server.gateway().buffered.load(Ordering::Relaxed), 0);
}

//! Gateway and connector, both real, under crowds, with certificates that end, and with peers that
//! say nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use doorward::domain::identity::{IdentityName, Role};
use doorward::overlay::hub::Pace;
use tokio::io::AsyncReadExt;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, advance, pause, resume};

use crate::overlay::{BACKENDS, site};
use crate::support::{
    CHAT, Flow, HandGateway, LONG, Line, RealConnector, Setup, Stub, Tunnel, World, ask, chat_stream, chunk, dialler,
    json_reply, live, served_within, until, within,
};
use crate::tunnels::{SECOND, caller, site_a};

const EVENT: &str = "data: {\"n\":1}\n\n";
const DONE: &str = "data: [DONE]\n\n";

/// A gateway, and a connector with `links` connections to it, which takes as many requests as come.
async fn scene(stub: &Stub, links: usize, like: impl FnOnce(&mut Setup)) -> (World, RealConnector) {
    let mut setup = Setup::new(stub);
    BACKENDS.clone_into(&mut setup.backends);
    like(&mut setup);
    let world = setup.start().await;
    let (directory, _) = world.connector("site-a");
    let backend = format!("{}\nmax_concurrent = 1000", site(stub.address));
    let connector = RealConnector::with_links(world.address(), &directory, &backend, links.try_into().unwrap());
    up(&world, links).await;
    served_within(LONG, &caller(&world).await, stub).await;
    (world, connector)
}

async fn up(world: &World, links: usize) {
    let tunnels = || world.server.gateway().tunnels.all();
    until(LONG, "the tunnels are there", || (tunnels().len() == links).then_some(())).await;
}

/// The tunnels that there are; none of two gateways, or of two times, has the number of another.
fn numbers(world: &World) -> Vec<u64> {
    world.server.gateway().tunnels.all().iter().map(|tunnel| tunnel.number).collect()
}

/// A connection carries 256 requests at most, so it takes two for five hundred callers at once. All
/// of them leave within a second, in the middle of their streams: the tunnel stays, nothing of them
/// does, and a neighbour reads on.
#[tokio::test]
async fn five_hundred_callers_leave_at_once() {
    const CALLERS: usize = 500;
    let stub = Stub::by_hand().await;
    let (world, connector) = scene(&stub, 2, |_| {}).await;
    let before = numbers(&world);
    let caller = caller(&world).await;
    let (mut neighbour, mut neighbours) = live(&mut caller.h2().await, &stub).await;
    // A caller's connection carries a hundred.
    let mut lines = Vec::new();
    for _ in 0..CALLERS / 100 {
        lines.push(caller.h2().await);
    }
    let (begun, read) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let mut calls = JoinSet::new();
    for index in 0..CALLERS {
        let mut line: Line = lines[index % lines.len()].stream();
        let (begun, read) = (Arc::clone(&begun), Arc::clone(&read));
        calls.spawn(async move {
            let response = line.begin(CHAT, &chat_stream("llama")).await;
            assert_eq!(response.status(), 200);
            let mut flow = Flow::of(response);
            flow.until(EVENT).await;
            begun.fetch_add(1, Relaxed);
            loop {
                flow.more().await;
                read.fetch_add(1, Relaxed);
            }
        });
    }
    let (go, going) = watch::channel(false);
    let mut floods = JoinSet::new();
    for _ in 0..CALLERS {
        let (mut exchange, mut going) = (stub.next().await, going.clone());
        floods.spawn(async move {
            exchange.begin("text/event-stream").await;
            let event = chunk(EVENT);
            exchange.send(&event).await;
            assert!(going.wait_for(|going| *going).await.is_ok());
            // Until nobody wants it.
            while exchange.try_send(&event).await.is_ok() {
                tokio::task::yield_now().await;
            }
        });
    }
    until(LONG, "all streams have begun", || (begun.load(Relaxed) == CALLERS).then_some(())).await;
    assert_eq!(connector.agent.in_flight(), CALLERS + 1);
    go.send_replace(true);
    until(LONG, "they are in full flow", || (read.load(Relaxed) > 10 * CALLERS).then_some(())).await;
    let begun = Instant::now();
    calls.abort_all();
    while let Some(call) = calls.join_next().await {
        assert!(call.unwrap_err().is_cancelled());
    }
    // Much sooner, where nobody else keeps the machine busy.
    assert!(begun.elapsed() < 3 * SECOND, "{:?}", begun.elapsed());
    while let Some(flood) = within(LONG, "the backend hears of it", floods.join_next()).await {
        flood.unwrap();
    }
    neighbours.chunk("data: {\"n\":2}\n\n").await;
    neighbour.until("{\"n\":2}").await;
    neighbours.chunk(DONE).await;
    neighbours.end().await;
    assert_eq!(neighbour.end().await.1, None);
    world.metric_becomes("doorward_tunnel_streams{connector=\"site-a\"}", 0.0).await;
    until(LONG, "nothing is in flight", || (connector.agent.in_flight() == 0).then_some(())).await;
    assert_eq!(numbers(&world), before);
    assert_eq!(ask(&mut caller.h1().await, &stub).await.status, 200);
}

/// Twenty callers with next to no room read nothing of tens of thousands of tiny events each, and
/// lose their replies after a while; five others read theirs as they come, over the same connection.
#[tokio::test]
async fn callers_who_do_not_read_hold_nobody_up() {
    const PARKED: usize = 20;
    let stub = Stub::by_hand().await;
    let pace = Pace { stalled: 2 * SECOND, ..Pace::default() };
    let (world, connector) = scene(&stub, 1, |setup| setup.pace = pace).await;
    let before = numbers(&world);
    let caller = caller(&world).await;
    let (mut parked, mut floods) = (Vec::new(), JoinSet::new());
    for _ in 0..PARKED {
        let mut line = caller.clone().cramped().h1().await;
        let (flow, mut exchange) = live(&mut line, &stub).await;
        parked.push((line, flow));
        floods.spawn(async move {
            // One by one at first, as a model says them.
            let tiny = chunk(EVENT);
            for events in std::iter::repeat_n(1, 1000).chain(std::iter::repeat_n(100, 190)) {
                if exchange.try_send(tiny.repeat(events)).await.is_err() {
                    return;
                }
                tokio::task::yield_now().await;
            }
            // And without end, past what the kernel's buffers take in on the way.
            let large = chunk(&format!(": {}\n\n", "x".repeat(64 * 1024)));
            while exchange.try_send(&large).await.is_ok() {
                tokio::task::yield_now().await;
            }
        });
    }
    let mut readers = JoinSet::new();
    for _ in 0..5 {
        let (mut flow, mut exchange) = live(&mut caller.h2().await, &stub).await;
        readers.spawn(async move {
            let mut slowest = Duration::ZERO;
            for count in 0..200 {
                let begun = Instant::now();
                exchange.chunk(&format!("data: {{\"count\":{count}}}\n\n")).await;
                flow.until(&format!("{{\"count\":{count}}}")).await;
                slowest = slowest.max(begun.elapsed());
            }
            exchange.chunk(DONE).await;
            exchange.end().await;
            assert_eq!(flow.end().await.1, None);
            slowest
        });
    }
    while let Some(slowest) = within(3 * LONG, "a reader is done", readers.join_next()).await {
        let slowest = slowest.unwrap();
        assert!(slowest < 2 * SECOND, "{slowest:?}");
    }
    while let Some(flood) = within(3 * LONG, "the backend of a parked one hears of it", floods.join_next()).await {
        flood.unwrap();
    }
    // What the kernel holds for so small a window may take minutes to arrive: some are enough to see
    // that no reply ends as if it were whole.
    let mut ends: JoinSet<_> = parked
        .into_iter()
        .map(|(line, flow)| async move {
            let (id, end) = (flow.request_id(), flow.end_within(6 * LONG).await);
            drop(line);
            (id, end)
        })
        .collect();
    for _ in 0..PARKED / 4 {
        let (id, (text, broke)) = ends.join_next().await.unwrap().unwrap();
        assert!(broke.is_some() && !text.contains("[DONE]"));
        let record = world.record(&id).await;
        assert_eq!(record["outcome"], "broken", "{record}");
    }
    until(LONG, "nothing is in flight", || (connector.agent.in_flight() == 0).then_some(())).await;
    assert_eq!(numbers(&world), before);
    assert_eq!(ask(&mut caller.h1().await, &stub).await.status, 200);
}

/// The certificate ends in the middle of a stream: so does the stream, visibly. The connector stays
/// alive, and a new certificate brings it back.
#[tokio::test]
async fn a_certificate_ends_in_the_middle_of_a_stream() {
    let stub = Stub::by_hand().await;
    let mut setup = Setup::new(&stub).manual_clock();
    BACKENDS.clone_into(&mut setup.backends);
    let world = setup.start().await;
    let of = |ttl| {
        let directory = tempfile::tempdir_in(world.dir.path()).unwrap().keep();
        let wanted = (Role::Connector, &IdentityName::parse("site-a").unwrap(), Some(ttl));
        (world.issue(&world.authority, wanted, &directory), directory)
    };
    let ((short, directory), (_, renewed)) = (of(600 * SECOND), of(3600 * SECOND));
    let connector = RealConnector::start(&[world.address()], &directory, &site(stub.address));
    up(&world, 1).await;
    let caller = caller(&world).await;
    served_within(LONG, &caller, &stub).await;
    let mut line = caller.h2().await;
    world.clock.advance(short.not_after.since(world.clock.now()) - Duration::from_millis(1));
    let (mut flow, mut exchange) = live(&mut line, &stub).await;
    exchange.chunk("data: {\"n\":2}\n\n").await;
    flow.until("{\"n\":2}").await;
    world.clock.advance(Duration::from_millis(1));
    let id = flow.request_id();
    let (text, broke) = flow.end().await;
    assert!(broke.is_some() && text.contains("data: {\"error\":{") && !text.contains("[DONE]"), "{text} {broke:?}");
    let record = world.record(&id).await;
    assert_eq!((&record["outcome"], &record["code"]), (&"broken".into(), &"backend_broke".into()), "{record}");
    assert!(exchange.closed().await < SECOND * 2);
    within(LONG, "it is counted", async {
        while world.metric("doorward_tunnel_ends_total{connector=\"site-a\",reason=\"expired\"}").await < 1.0 {}
    })
    .await;

    connector.identity.send_replace(RealConnector::identity(&renewed));
    within(LONG, "a chat is served", async { while ask(&mut line, &stub).await.status != 200 {} }).await;
    // And that one goes on past the end of the first.
    let (flow, mut exchange) = live(&mut line, &stub).await;
    exchange.chunk(DONE).await;
    exchange.end().await;
    assert_eq!(flow.end().await.1, None);
}

/// Whoever passes the handshake and then says nothing, or HTTP/2 but no `register`, is hung up on.
#[tokio::test]
async fn a_connector_that_says_nothing_is_hung_up_on() {
    assert!(Pace::default().register <= 20 * SECOND);
    let pace = Pace { register: SECOND, ..Pace::default() };
    let stub = Stub::by_hand().await;
    let mut setup = Setup::new(&stub);
    (setup.pace, setup.backends) = (pace, BACKENDS.to_owned());
    let world = setup.start().await;
    let issued = site_a(&world);
    // An HTTP/2 server's first frame: SETTINGS, with nothing in it.
    let settings: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
    for says in [&[], settings] {
        let begun = Instant::now();
        let mut stream = dialler(&world, &issued).tls(&["doorward-connector/1"]).await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut stream, says).await.unwrap();
        let mut bytes = Vec::new();
        // However it ends: with a close or a reset.
        let _ = within(LONG, "it hangs up", stream.read_to_end(&mut bytes)).await.is_ok();
        assert!(bytes.starts_with(b"PRI * HTTP/2.0\r\n"), "it was let in, and asked");
        assert!(begun.elapsed() >= SECOND, "{:?}", begun.elapsed());
    }
    world.metric_becomes("doorward_tunnels_refused_total{reason=\"late\"}", 2.0).await;
    assert!(world.server.gateway().tunnels.is_empty());
}

/// A gateway that passes the handshake and then says nothing, or HTTP/2 but no `registered`, is left
/// after 20 s, and dialled again.
#[tokio::test]
async fn a_gateway_that_says_nothing_is_left() {
    const PATIENCE: Duration = Duration::from_secs(20);
    let stub = Stub::by_hand().await;
    let files = Setup::new(&stub).write();
    let gateway = HandGateway::new(&files).await;
    let (directory, _) = files.connector("site-a");
    let _connector = RealConnector::start(&[gateway.address], &directory, &site(stub.address));

    let mut silent = gateway.secured().await;
    let mut bytes = [0; 1024];
    // Its HTTP/2 begins: now it waits.
    assert!(within(LONG, "it begins to speak", silent.read(&mut bytes)).await.unwrap() > 0);
    pass(PATIENCE - SECOND).await;
    assert!(!has_ended(&mut silent));
    pass(SECOND).await;
    let _ = within(LONG, "it hangs up", silent.read_to_end(&mut Vec::new())).await.is_ok();

    let mut unwilling = gateway.accept().await;
    unwilling.control().hear_of("register").await;
    pass(PATIENCE - SECOND).await;
    assert!(!unwilling.driver.is_finished());
    pass(SECOND).await;
    within(LONG, "it hangs up", &mut unwilling.driver).await.unwrap().ok();
    let mut tunnel = gateway.registered().await;
    tunnel.control().hear_health("vllm-a", "up").await;
}

/// What a gateway says in pieces is heard, and so are requests in between.
#[tokio::test]
async fn a_gateway_that_speaks_slowly_is_heard() {
    let stub = Stub::by_hand().await;
    let files = Setup::new(&stub).write();
    let gateway = HandGateway::new(&files).await;
    let (directory, _) = files.connector("site-a");
    let connector = RealConnector::start(&[gateway.address], &directory, &site(stub.address));
    let mut tunnel = gateway.accept().await;
    tunnel.control().hear_of("register").await;
    let registered = "{\"type\":\"registered\",\"accepted\":[\"vllm-a\"],\"refused\":[],\"server_time\":\"\"}\n";
    for index in 0..registered.len() {
        tunnel.control().say_text(&registered[index..=index]);
        tokio::task::yield_now().await;
    }
    until(LONG, "it is registered", || (connector.agent.registered() == 1).then_some(())).await;
    tunnel.control().say_text("{\"type\":\"drain\",\"reason\":");
    let answer = async { stub.next().await.reply(json_reply("{}")).await };
    let (asked, ()) = tokio::join!(tunnel.send(Tunnel::chat("vllm-a", 2), "{}"), answer);
    assert_eq!(asked.unwrap().0.status(), 200);
    tunnel.control().say_text("\"shutdown\",\"deadline_s\":30}\n");
    let _successor = gateway.registered().await;
    tunnel.control().hear_of("drain").await;
}

/// Lets time pass at once, in steps that every timer notices.
async fn pass(span: Duration) {
    pause();
    advance(span).await;
    resume();
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

/// True when the other side has closed the connection, as far as is known by now.
fn has_ended(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> bool {
    let mut byte = [0; 1];
    let mut buffer = tokio::io::ReadBuf::new(&mut byte);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let read = std::pin::Pin::new(stream).poll_read(&mut context, &mut buffer);
    matches!(read, std::task::Poll::Ready(_)) && buffer.filled().is_empty()
}

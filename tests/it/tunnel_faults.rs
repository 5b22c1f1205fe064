//! Tunnels under stress: clones, dead links, drains, callers who do not read and callers who leave.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use doorward::domain::identity::Role;
use doorward::overlay::hub::Pace;
use h2::{Reason, SendStream};
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::support::{CHAT, Flow, LONG, Line, Site, World, chat, chat_stream, register, reset_of, until, within};
use crate::tunnels::{
    DONE, EVENT, SECOND, SSE, assert_broken, caller, connected, no_backend, site_a, streaming, world, world_with,
};

const TWO_INSTANCES: &str = "[[connector]]\nname = \"site-a\"\nmax_instances = 2\n";

/// Asks for a chat that must be answered over this tunnel.
async fn served_by(world: &World, site: &mut Site) {
    let (caller, request) = (caller(world).await, chat("llama"));
    let (whole, ()) = tokio::join!(caller.chat(&request), async { site.next().await.chat() });
    whole.assert_served();
}

/// How many tunnels have ended for this reason.
async fn ended(world: &World, reason: &str, count: f64) {
    let name = format!("doorward_tunnel_ends_total{{connector=\"site-a\",reason=\"{reason}\"}}");
    world.metric_becomes(&name, count).await;
}

/// A second process with the same identity is refused while the first one answers, and takes its
/// place when it does not.
#[tokio::test]
async fn a_clone_is_refused_while_the_first_is_alive() {
    let world = world_with("", Pace { probe: Duration::from_millis(500), ..Pace::default() }).await;
    let issued = site_a(&world);
    let mut first = Site::registered(&world, &issued, "one", &["vllm-a"]).await;
    // A renewed certificate is the same identity.
    let renewed = site_a(&world);
    let mut clone = Site::dial(&world, &renewed).await;
    clone.say(&register("site-a", "two", 0, &["vllm-a"]));
    let refused = json!({"type": "error", "code": "duplicate_instance", "retry": "later", "retry_after_s": 60});
    assert_eq!(clone.hear().await, refused);
    clone.over().await;
    served_by(&world, &mut first).await;
    assert_eq!(world.metric("doorward_tunnels_refused_total{reason=\"duplicate_instance\"}").await, 1.0);

    // More links of the same process are no clones.
    let mut second = Site::dial(&world, &renewed).await;
    second.say(&register("site-a", "one", 1, &["vllm-a"]));
    assert_eq!(second.hear().await["type"], "registered");

    let mut line = caller(&world).await.h2().await;
    let request = chat_stream("llama");
    let begun = async { line.begin(CHAT, &request).await };
    let (response, (_asked, mut stream)) = tokio::join!(begun, async {
        let mut asked = tokio::select! {
            asked = first.next() => asked,
            asked = second.next() => asked,
        };
        let stream = asked.begin(SSE);
        (asked, stream)
    });
    let mut flow = Flow::of(response);
    stream.send_data(Bytes::from(EVENT), false).unwrap();
    flow.until(EVENT).await;
    first.freeze();
    second.freeze();
    let mut heir = Site::registered(&world, &renewed, "two", &["vllm-a"]).await;
    let id = flow.request_id();
    assert_broken(&world, flow, &id).await;
    ended(&world, "replaced", 2.0).await;
    served_by(&world, &mut heir).await;
}

/// One link that answers is enough: the process is alive.
#[tokio::test]
async fn a_process_is_alive_if_one_link_is() {
    let world = world_with("", Pace { probe: Duration::from_millis(300), ..Pace::default() }).await;
    let issued = site_a(&world);
    let first = Site::registered(&world, &issued, "one", &["vllm-a"]).await;
    let mut second = Site::dial(&world, &issued).await;
    second.say(&register("site-a", "one", 1, &["vllm-a"]));
    assert_eq!(second.hear().await["type"], "registered");
    first.freeze();
    let mut clone = Site::dial(&world, &issued).await;
    clone.say(&register("site-a", "two", 0, &["vllm-a"]));
    assert_eq!(clone.hear().await["code"], "duplicate_instance");
}

/// Replicas on purpose share the requests, and a process that goes leaves them to the other.
#[tokio::test]
async fn instances_share_the_requests() {
    let world = world_with(TWO_INSTANCES, Pace::default()).await;
    let issued = site_a(&world);
    let mut sites = Vec::new();
    for instance in ["one", "two"] {
        for index in 0..2 {
            let mut site = Site::dial(&world, &issued).await;
            site.say(&register("site-a", instance, index, &["vllm-a"]));
            assert_eq!(site.hear().await["type"], "registered");
            sites.push(site);
        }
    }
    let caller = caller(&world).await;
    let line = caller.h2().await;
    let mut calls = JoinSet::new();
    for _ in 0..20 {
        let mut line = line.stream();
        calls.spawn(async move { line.chat(&chat("llama")).await });
    }
    let mut asked = Vec::new();
    for site in &mut sites {
        // As many on each, before any is answered.
        for _ in 0..5 {
            asked.push(site.next().await);
        }
        assert!(site.is_untouched());
    }
    asked.iter_mut().for_each(|asked| asked.chat());
    while let Some(whole) = calls.join_next().await {
        whole.unwrap().assert_served();
    }
    // A third process is one too many.
    let mut third = Site::dial(&world, &issued).await;
    third.say(&register("site-a", "three", 0, &["vllm-a"]));
    assert_eq!(third.hear().await["code"], "duplicate_instance");
    let mut last = sites.pop().unwrap();
    sites.clear();
    world.metric_becomes("doorward_tunnels", 1.0).await;
    served_by(&world, &mut last).await;
}

/// A link that its process dials anew takes the old one's place, and what is under way on the old
/// one finishes there: so a certificate is renewed without a lost request.
#[tokio::test]
async fn a_link_is_replaced_without_a_lost_request() {
    let (world, mut old) = connected().await;
    let mut line = caller(&world).await.h1().await;
    let (mut flow, _asked, mut stream) = streaming(&mut line, &mut old).await;
    stream.send_data(Bytes::from(EVENT), false).unwrap();
    flow.until(EVENT).await;
    let mut new = Site::registered(&world, &site_a(&world), "one", &["vllm-a"]).await;
    assert_eq!(old.hear().await, json!({"type": "drain", "reason": "replaced", "deadline_s": 30}));
    served_by(&world, &mut new).await;
    stream.send_data(Bytes::from(DONE), true).unwrap();
    assert_eq!(flow.end().await.1, None);
    ended(&world, "drained", 1.0).await;
    old.over().await;
    served_by(&world, &mut new).await;
}

/// A connector that says it leaves gets no new request, finishes what it has, and its successor, a
/// new process, is no clone.
#[tokio::test]
async fn a_connector_that_leaves_finishes_what_it_has() {
    let (world, mut old) = connected().await;
    let mut line = caller(&world).await.h1().await;
    let (mut flow, _asked, mut stream) = streaming(&mut line, &mut old).await;
    stream.send_data(Bytes::from(EVENT), false).unwrap();
    flow.until(EVENT).await;
    old.say(&json!({"type": "drain"}));
    let gateway = world.server.gateway();
    until(LONG, "the drain is known", || gateway.tunnels.all()[0].is_leaving().then_some(())).await;
    no_backend(&world, &caller(&world).await, "llama").await;
    let mut new = Site::registered(&world, &site_a(&world), "two", &["vllm-a"]).await;
    served_by(&world, &mut new).await;
    assert!(old.is_untouched());
    // It may end the control stream before the last reply.
    old.hush();
    stream.send_data(Bytes::from(EVENT), false).unwrap();
    stream.send_data(Bytes::from(DONE), true).unwrap();
    let (text, broke) = flow.end().await;
    assert_eq!((text, broke), (format!("{EVENT}{EVENT}{DONE}"), None));
    ended(&world, "drained", 1.0).await;
    old.over().await;
}

/// The gateway stops: connectors hear of it at once, requests under way finish, over whichever
/// worker their tunnel runs; and then the tunnels are closed.
#[tokio::test]
async fn a_gateway_that_stops_lets_requests_finish() {
    for workers in [1, 4] {
        let world = world().await.restart(workers).await;
        let issued = site_a(&world);
        let mut sites = Vec::new();
        for index in 0..4 {
            let mut site = Site::dial(&world, &issued).await;
            site.say(&register("site-a", "one", index, &["vllm-a"]));
            assert_eq!(site.hear().await["type"], "registered");
            sites.push(site);
        }
        let caller = caller(&world).await;
        let (mut lines, mut flows, mut streams) = (Vec::new(), Vec::new(), Vec::new());
        // Fewest first: each link gets one, and then another.
        for _ in 0..2 {
            for site in &mut sites {
                let mut line = caller.h1().await;
                let request = chat_stream("llama");
                let (response, stream) = tokio::join!(line.begin(CHAT, &request), async {
                    let mut asked = site.next().await;
                    asked.begin(SSE)
                });
                lines.push(line);
                flows.push(Flow::of(response));
                streams.push(stream);
            }
        }
        let (server, _files) = world.into_parts();
        let stopping = tokio::spawn(server.shut_down());
        for site in &mut sites {
            assert_eq!(site.hear().await, json!({"type": "drain", "reason": "shutdown", "deadline_s": 30}));
        }
        for (mut flow, mut stream) in flows.into_iter().zip(streams) {
            stream.send_data(Bytes::from(EVENT), false).unwrap();
            flow.until(EVENT).await;
            stream.send_data(Bytes::from(DONE), true).unwrap();
            assert_eq!(flow.end().await.1, None);
        }
        within(LONG, "the gateway stops", stopping).await.unwrap();
        for site in sites {
            site.over().await;
        }
    }
}

/// What a leaving connector did not take goes over another tunnel; and over none, the target cannot
/// be reached.
#[tokio::test]
async fn what_a_tunnel_does_not_take_goes_over_another() {
    let world = world_with(TWO_INSTANCES, Pace::default()).await;
    let issued = site_a(&world);
    let mut first = Site::registered(&world, &issued, "one", &["vllm-a"]).await;
    let caller = caller(&world).await;
    let request = chat("llama");
    // Refused before anybody has looked at it.
    let refuse = async { first.next().await.respond.send_reset(Reason::REFUSED_STREAM) };
    let (whole, ()) = tokio::join!(caller.chat(&request), refuse);
    whole.assert_refused(&world, 503, "no_backend").await;
    let mut second = Site::registered(&world, &issued, "two", &["vllm-a"]).await;
    let serve = async {
        first.next().await.respond.send_reset(Reason::REFUSED_STREAM);
        second.next().await.chat();
    };
    let (whole, ()) = tokio::join!(caller.chat(&request), serve);
    whole.assert_served();
    // Any other reset may mean that the backend has it: it is not sent again.
    for site in [&first, &second] {
        assert!(site.is_untouched());
    }
    let reset = async {
        tokio::select! {
            mut asked = first.next() => asked.respond.send_reset(Reason::INTERNAL_ERROR),
            mut asked = second.next() => asked.respond.send_reset(Reason::INTERNAL_ERROR),
        }
    };
    let (whole, ()) = tokio::join!(caller.chat(&request), reset);
    whole.assert_refused(&world, 502, "backend_broke").await;
    assert!(first.is_untouched() && second.is_untouched());
}

/// A peer that does not answer PINGs is dead: its tunnel ends, and so do the requests on it.
#[tokio::test]
async fn a_frozen_connector_is_noticed() {
    let pace =
        Pace { ping_every: Duration::from_millis(50), ping_answer: Duration::from_millis(500), ..Pace::default() };
    let world = world_with("", pace).await;
    let mut site = Site::registered(&world, &site_a(&world), "one", &["vllm-a"]).await;
    let mut line = caller(&world).await.h2().await;
    let (mut flow, _asked, mut stream) = streaming(&mut line, &mut site).await;
    stream.send_data(Bytes::from(EVENT), false).unwrap();
    flow.until(EVENT).await;
    // Some PINGs come and go, idle or not.
    until(LONG, "round trips are known", || world.server.gateway().tunnels.all()[0].rtt()).await;
    site.freeze();
    let id = flow.request_id();
    assert_broken(&world, flow, &id).await;
    ended(&world, "silent", 1.0).await;
    world.metric_becomes("doorward_tunnels", 0.0).await;
}

/// As many requests as the connector takes, and no more: the next waits for its turn, for as long
/// as it may.
#[tokio::test]
async fn no_more_requests_than_the_connector_takes() {
    let world = world().await;
    let mut site = Site::dial(&world, &site_a(&world)).await;
    let mut object = register("site-a", "one", 0, &["vllm-a"]);
    object["backends"][0]["max_concurrent"] = json!(2);
    site.say(&object);
    assert_eq!(site.hear().await["type"], "registered");
    let line = caller(&world).await.h2().await;
    let mut calls = JoinSet::new();
    let call = |calls: &mut JoinSet<_>| {
        let mut line = line.stream();
        calls.spawn(async move { line.chat(&chat("llama")).await });
    };
    call(&mut calls);
    call(&mut calls);
    let (mut one, mut two) = (site.next().await, site.next().await);
    // The third waits in vain.
    let record = no_backend(&world, &caller(&world).await, "llama").await;
    assert!(record["detail"].as_str().unwrap().contains("all places"), "{record}");
    assert!(site.is_untouched());
    // The fourth gets the place that is given back while it waits.
    call(&mut calls);
    one.chat();
    site.next().await.chat();
    two.chat();
    while let Some(whole) = calls.join_next().await {
        whole.unwrap().assert_served();
    }
}

/// However many wait for a backend that everybody wants, whoever wants another one of the same connector waits
/// for that alone.
#[tokio::test]
async fn a_backend_that_everybody_wants_takes_no_turn_from_another() {
    const WAIT: usize = 256;
    let backend = |name: &str| {
        format!(
            "[[backend]]\nname = \"{name}\"\nconnector = \"site-a\"\ndialects = [\"openai\"]\n\
             timeouts = {{ connect = \"60s\" }}\n\
             [[model]]\nname = \"{name}\"\ntargets = [{{ backend = \"{name}\", model = \"m\" }}]\n"
        )
    };
    let world = world_with(&format!("{}{}", backend("hot"), backend("calm")), Pace::default()).await;
    let mut site = Site::dial(&world, &site_a(&world)).await;
    let mut object = register("site-a", "one", 0, &["hot", "calm"]);
    for backend in object["backends"].as_array_mut().unwrap() {
        backend["max_concurrent"] = json!(1);
    }
    site.say(&object);
    assert_eq!(site.hear().await["type"], "registered");
    let caller = caller(&world).await;
    let mut lines = Vec::new();
    for _ in 0..5 {
        lines.push(caller.h2().await);
    }
    let call = |calls: &mut JoinSet<_>, line: &Line, model: &'static str| {
        let mut line = line.stream();
        calls.spawn(async move { line.chat(&chat(model)).await });
    };
    let (mut hot, mut calm) = (JoinSet::new(), JoinSet::new());
    call(&mut hot, &lines[0], "hot");
    let _taken = site.next().await;
    for nth in 0..WAIT + 9 {
        call(&mut hot, &lines[nth % 4], "hot");
    }
    // Those who are too many hear of it long before the others have waited in vain.
    for _ in 0..9 {
        let whole = within(LONG, "one too many is turned away", hot.join_next()).await.unwrap().unwrap();
        whole.assert_refused(&world, 503, "no_backend").await;
    }
    call(&mut calm, &lines[4], "calm");
    let mut first = site.next().await;
    call(&mut calm, &lines[4], "calm");
    first.chat();
    site.next().await.chat();
    while let Some(whole) = calm.join_next().await {
        whole.unwrap().assert_served();
    }
    assert_eq!(hot.len(), 1 + WAIT);
}

/// Sends so many times `piece` for as long as there is credit, or until the stream is reset: false
/// then.
async fn flood(stream: &mut SendStream<Bytes>, piece: &Bytes, times: usize) -> bool {
    for sent in 0..times {
        stream.reserve_capacity(piece.len());
        while stream.capacity() < piece.len() {
            let room = std::future::poll_fn(|context| stream.poll_capacity(context)).await;
            if !matches!(room, Some(Ok(_))) {
                return false;
            }
        }
        if stream.send_data(piece.clone(), false).is_err() {
            return false;
        }
        if sent % 64 == 0 {
            tokio::task::yield_now().await;
        }
    }
    true
}

/// Twenty callers who do not read their streams of tiny events hold nobody up, and lose
/// their replies after a while.
#[tokio::test]
async fn callers_who_do_not_read_hold_nobody_up() {
    let world = world_with("", Pace { stalled: 2 * SECOND, ..Pace::default() }).await;
    let mut site = Site::registered(&world, &site_a(&world), "one", &["vllm-a"]).await;
    let caller = caller(&world).await;
    let mut parked = Vec::new();
    let mut floods = JoinSet::new();
    for _ in 0..20 {
        let mut line = caller.clone().cramped().h1().await;
        let (flow, _asked, stream) = streaming(&mut line, &mut site).await;
        floods.spawn(async move {
            let mut stream = stream;
            // What the kernel's buffers between here and the caller take in goes in large pieces;
            // then come more tiny events than there is room for anywhere.
            let large = Bytes::from(vec![b':'; 16 * 1024]);
            let whole = flood(&mut stream, &large, 160).await && flood(&mut stream, &Bytes::from(EVENT), 60_000).await;
            (whole, stream)
        });
        parked.push((line, flow));
    }
    let mut line = caller.h2().await;
    let (mut flow, _asked, mut stream) = streaming(&mut line, &mut site).await;
    let mut slowest = Duration::ZERO;
    for count in 0..200 {
        let begun = Instant::now();
        stream.send_data(Bytes::from(format!("data: {{\"n\":{count}}}\n\n")), false).unwrap();
        flow.until(&format!("{{\"n\":{count}}}")).await;
        slowest = slowest.max(begun.elapsed());
    }
    assert!(slowest < SECOND, "{slowest:?}");
    assert_eq!(world.metric("doorward_tunnels").await, 1.0);
    // All are aborted in the end: no flood came to its end, and none waits for ever.
    while let Some(flood) = within(LONG, "a flood is aborted", floods.join_next()).await {
        let (whole, mut stream) = flood.unwrap();
        assert!(!whole, "the caller took it all");
        assert_eq!(reset_of(&mut stream).await, Reason::CANCEL);
    }
    // What the kernel holds for so small a window may take minutes to arrive: some are enough to see.
    let mut ends: JoinSet<_> = parked
        .into_iter()
        .map(|(line, flow)| async move {
            let end = flow.end_within(6 * LONG).await;
            drop(line);
            end
        })
        .collect();
    for _ in 0..5 {
        let (text, broke) = ends.join_next().await.unwrap().unwrap();
        assert!(broke.is_some() && !text.contains("[DONE]"));
    }
    stream.send_data(Bytes::from(DONE), true).unwrap();
    assert_eq!(flow.end().await.1, None);
    served_by(&world, &mut site).await;
    assert_eq!(world.metric("doorward_tunnels").await, 1.0);
}

/// Five hundred callers leave within a second, in the middle of their streams: the tunnel stays,
/// and so does a neighbour's stream.
#[tokio::test]
async fn five_hundred_cancels_leave_the_tunnel_alive() {
    let (world, mut site) = connected().await;
    let caller = caller(&world).await;
    let mut line = caller.h2().await;
    let (mut neighbour, _asked, mut neighbours) = streaming(&mut line, &mut site).await;
    for _ in 0..2 {
        let lines = [caller.h2().await, caller.h2().await, caller.h2().await];
        let (mut calls, begun) = (JoinSet::new(), Arc::new(AtomicUsize::new(0)));
        for index in 0..250 {
            let mut line: Line = lines[index % lines.len()].stream();
            let begun = Arc::clone(&begun);
            // One that does not read is its own end, by its own limit of small frames.
            calls.spawn(async move {
                let mut flow = Flow::of(line.begin(CHAT, &chat_stream("llama")).await);
                flow.until(EVENT).await;
                begun.fetch_add(1, Relaxed);
                loop {
                    flow.more().await;
                }
            });
        }
        let mut floods = JoinSet::new();
        for _ in 0..250 {
            let mut asked = site.next().await;
            let stream = asked.begin(SSE);
            floods.spawn(async move {
                let mut stream = stream;
                assert!(!flood(&mut stream, &Bytes::from(EVENT), 1_000_000).await);
                stream
            });
        }
        until(LONG, "all streams have begun", || (begun.load(Relaxed) == 250).then_some(())).await;
        calls.abort_all();
        while let Some(call) = calls.join_next().await {
            assert!(call.unwrap_err().is_cancelled());
        }
        while let Some(flood) = within(LONG, "a stream is cancelled", floods.join_next()).await {
            assert_eq!(reset_of(&mut flood.unwrap()).await, Reason::CANCEL);
        }
    }
    neighbours.send_data(Bytes::from(EVENT), false).unwrap();
    neighbour.until(EVENT).await;
    neighbours.send_data(Bytes::from(DONE), true).unwrap();
    assert_eq!(neighbour.end().await.1, None);
    world.metric_becomes("doorward_tunnel_streams{connector=\"site-a\"}", 0.0).await;
    served_by(&world, &mut site).await;
}

/// A connector that says one word at a time is heard all the same, and holds nobody up.
#[tokio::test]
async fn a_slow_control_stream_is_heard() {
    let world = world().await;
    let mut site = Site::dial(&world, &world.certificate_as(Role::Connector, "site-a", None)).await;
    for byte in format!("{}\n", register("site-a", "one", 0, &["vllm-a"])).into_bytes() {
        site.say_bytes(vec![byte]);
        tokio::task::yield_now().await;
    }
    assert_eq!(site.hear().await["type"], "registered");
    site.say_bytes("{\"type\":\"health\",\"backend\":");
    served_by(&world, &mut site).await;
    site.say_bytes("\"vllm-a\",\"state\":\"down\"}\n");
    let offer = || world.server.gateway().tunnels.all()[0].offers()[0].health().as_str() == "down";
    until(LONG, "the rest is heard", || offer().then_some(())).await;
    no_backend(&world, &caller(&world).await, "llama").await;
}

/// A thousand tunnels that come and go leave nothing behind: no descriptor, no memory, no tunnel, no
/// request. (A task that stayed would hold all of these.)
#[tokio::test]
async fn reconnects_leave_nothing_behind() {
    let world = world().await;
    let issued = site_a(&world);
    let descriptors = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let memory = || {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap()
    };
    let mut settled = None;
    for round in 0..1000 {
        let mut site = Site::registered(&world, &issued, &format!("process-{round}"), &["vllm-a"]).await;
        if round % 20 == 0 {
            served_by(&world, &mut site).await;
        }
        drop(site);
        let gateway = world.server.gateway();
        until(LONG, "the tunnel has ended", || gateway.tunnels.is_empty().then_some(())).await;
        // After the first rounds everything that is kept once is there.
        if round == 200 {
            settled = Some((descriptors(), memory()));
        }
    }
    ended(&world, "lost", 1000.0).await;
    assert_eq!(world.metric("doorward_tunnel_streams{connector=\"site-a\"}").await, 0.0);
    let (descriptors_before, memory_before) = settled.unwrap();
    // 800 tunnels that left 8 KiB each would be seen.
    let grown = memory().saturating_sub(memory_before);
    assert!(grown < 6 << 10, "{grown} KiB more than after 200 tunnels");
    until(LONG, "descriptors are closed", || (descriptors() <= descriptors_before + 4).then_some(())).await;
}

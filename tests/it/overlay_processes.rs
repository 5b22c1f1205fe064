//! Gateway and connector, both as programs, one of which is frozen, killed or started again: whoever
//! waits hears of it within bounds, and the other comes back by itself.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::overlay::{BACKENDS, Process as Connector};
use crate::support::{
    Caller, Exchange, Flow, LONG, Process, RealConnector, Setup, Stub, ask, json_reply, live, served_within, until,
    within,
};

/// A dead link is noticed in 20 s, at either end; and a machine that is busy may take a little longer.
pub(crate) const NOTICED: Duration = Duration::from_secs(25);
/// A link that can be dialled again is there. Waits double while it cannot: after a minute's outage
/// they are of some seconds, and each try may take ten.
pub(crate) const BACK: Duration = Duration::from_secs(40);
/// What takes no timer to be seen.
pub(crate) const AT_ONCE: Duration = Duration::from_secs(5);

/// Two programs, a backend, and somebody who calls.
struct Scene {
    stub: Stub,
    gateway: Process,
    connector: Connector,
    caller: Caller,
}

impl Scene {
    /// The gateway keeps its address when it is started again, so it has one of its own.
    async fn start(address: &'static str) -> Self {
        let stub = Stub::by_hand().await;
        let mut setup = Setup::new(&stub);
        setup.address = address;
        BACKENDS.clone_into(&mut setup.backends);
        let gateway = Process::serve(&setup).await;
        let (directory, _) = gateway.files.connector("site-a");
        let connector = Connector::connect_by(&[], gateway.address, &directory, stub.address);
        let key = gateway.files.make_key("acme/x", None, &[], &[], &[]);
        let caller = gateway.caller().key(&key);
        let mut scene = Self { stub, gateway, connector, caller };
        scene.connector.logs_times("registered", 2, LONG).await;
        served_within(LONG, &scene.caller, &scene.stub).await;
        scene
    }

    /// Streams that have begun, over two kinds of connections.
    async fn streams(&self) -> Vec<(Flow, Exchange)> {
        let mut streams = Vec::new();
        for mut line in self.caller.both().await {
            streams.push(live(&mut line, &self.stub).await);
        }
        streams
    }
}

/// A stream that broke off, and is recorded so: an error in it, no terminator, no clean end.
pub(crate) async fn assert_broken(gateway: &Process, flow: Flow, span: Duration) {
    let id = flow.request_id();
    let (text, broke) = flow.end_within(span).await;
    assert!(broke.is_some() && !text.contains("[DONE]"), "a clean end: {text}");
    assert!(text.contains("data: {\"error\":{"), "{text}");
    let record = gateway.record(&id).await;
    assert_eq!((&record["outcome"], &record["code"]), (&"broken".into(), &"backend_broke".into()), "{record}");
}

/// Nobody serves it, and the caller is told so at once.
pub(crate) async fn assert_no_backend(caller: &Caller, stub: &Stub) {
    let begun = Instant::now();
    let whole = ask(&mut caller.h1().await, stub).await;
    assert_eq!(whole.status, 503, "{}", whole.text());
    assert_eq!(whole.json()["error"]["code"], "no_backend");
    assert!(begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());
}

/// Frozen: nothing is closed, so only PINGs can tell. All three at once, since each waits for long.
#[tokio::test]
async fn who_is_frozen_is_noticed_in_time() {
    tokio::join!(
        Box::pin(a_frozen_connector("127.77.0.1:0")),
        Box::pin(a_frozen_gateway("127.77.0.2:0", false)),
        Box::pin(a_frozen_gateway("127.77.0.3:0", true)),
    );
}

/// Callers of a frozen connector hear of it; when it goes on, it is back by itself.
async fn a_frozen_connector(address: &'static str) {
    let mut scene = Scene::start(address).await;
    let streams = scene.streams().await;
    scene.connector.signal("STOP");
    let begun = Instant::now();
    // One that comes before anybody has noticed ends with the tunnel.
    let late = scene.caller.clone().patient(NOTICED);
    let late = async {
        let whole = ask(&mut late.h1().await, &scene.stub).await;
        assert_eq!(whole.status, 502, "{}", whole.text());
        assert_eq!(whole.json()["error"]["code"], "backend_broke");
    };
    let ended = async {
        for (flow, exchange) in streams {
            assert_broken(&scene.gateway, flow, NOTICED).await;
            drop(exchange);
        }
    };
    tokio::join!(late, ended);
    assert!(begun.elapsed() < NOTICED, "{:?}", begun.elapsed());
    until(NOTICED, "both links are silent", || {
        (scene.gateway.log().matches("reason=\"silent\"").count() == 2).then_some(())
    })
    .await;
    assert!(begun.elapsed() < NOTICED, "{:?}", begun.elapsed());
    assert_no_backend(&scene.caller, &scene.stub).await;
    scene.connector.signal("CONT");
    served_within(BACK, &scene.caller, &scene.stub).await;
    scene.connector.logs_times("registered gateway=", 4, BACK).await;
    assert!(scene.gateway.metric("doorward_tunnels").await > 1.0);
}

/// A frozen gateway is left, and what the backend does for it ends. It is found again when it goes
/// on, or when it is killed and another begins.
async fn a_frozen_gateway(address: &'static str, killed: bool) {
    let mut scene = Scene::start(address).await;
    let streams = scene.streams().await;
    scene.gateway.signal("STOP");
    let begun = Instant::now();
    scene.connector.logs_times("does not answer PING", 2, NOTICED).await;
    assert!(begun.elapsed() < NOTICED, "{:?}", begun.elapsed());
    let mut flows = Vec::new();
    for (flow, exchange) in streams {
        exchange.closed().await;
        flows.push(flow);
    }
    if killed {
        scene.gateway.signal("KILL");
        scene.gateway.ended().await;
        for flow in flows {
            assert!(flow.end().await.1.is_some());
        }
        scene.gateway.again().await;
    } else {
        scene.gateway.signal("CONT");
        for flow in flows {
            assert_broken(&scene.gateway, flow, AT_ONCE).await;
        }
    }
    served_within(BACK, &scene.caller, &scene.stub).await;
    scene.connector.logs_times("registered gateway=", 4, BACK).await;
}

/// Killed, the gateway says nothing to anybody; the kernel does. Callers and backend see the end, and
/// the connector is back by itself.
#[tokio::test]
async fn a_killed_gateway_is_found_again() {
    let mut scene = Scene::start("127.77.0.4:0").await;
    for round in 2..4 {
        let streams = scene.streams().await;
        scene.gateway.signal("KILL");
        scene.gateway.ended().await;
        for (flow, exchange) in streams {
            let (text, broke) = flow.end_within(AT_ONCE).await;
            assert!(broke.is_some() && !text.contains("[DONE]"), "{text}");
            assert!(exchange.closed().await < AT_ONCE);
        }
        scene.gateway.again().await;
        served_within(BACK, &scene.caller, &scene.stub).await;
        scene.connector.logs_times("registered gateway=", 2 * round, BACK).await;
    }
}

/// What the code in this process has logged.
#[derive(Clone, Default)]
struct Said(Arc<Mutex<Vec<u8>>>);

impl Said {
    /// Of this thread, from now on.
    fn listen() -> (Self, tracing::subscriber::DefaultGuard) {
        let said = Self::default();
        let writer = said.clone();
        let lines = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
        (said, tracing::subscriber::set_default(lines))
    }

    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()).unwrap()
    }

    /// How long connections that were lost wait before they are dialled again, in milliseconds.
    fn waits(&self) -> Vec<u64> {
        let text = self.text();
        // Where nobody listens any more, none was there to be lost.
        let lost = text.lines().filter(|line| !line.contains("refused"));
        let again = lost.filter_map(|line| line.split_once("again=\"")?.1.split_once(" s\""));
        again.map(|(seconds, _)| seconds.replace('.', "").parse().unwrap()).collect()
    }
}

impl Write for Said {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

const SITES: usize = 25;
const LINKS: usize = 8;

/// A gateway with two hundred tunnels ends, by a kill and by a signal, and begins again: all tunnels
/// are there again, they do not all come in the same moment, and nothing of the old ones stays.
#[tokio::test]
async fn two_hundred_tunnels_come_back() {
    let (said, _listening) = Said::listen();
    let stub = Stub::scripted(|_| json_reply(r#"{"object":"chat.completion","model":"m"}"#)).await;
    let mut setup = Setup::new(&stub);
    setup.address = "127.77.0.5:0";
    let section = |n| {
        format!(
            "[[backend]]\nname = \"b-{n}\"\nconnector = \"site-{n}\"\ndialects = [\"openai\"]\n\
             [[model]]\nname = \"m-{n}\"\ntargets = [{{ backend = \"b-{n}\", model = \"m\" }}]\n"
        )
    };
    setup.backends = (0..SITES).map(section).collect();
    let mut gateway = Process::serve(&setup).await;
    let connector = |n| {
        let (directory, _) = gateway.files.connector(&format!("site-{n}"));
        let backend = format!("[[backend]]\nname = \"b-{n}\"\nurl = \"http://{}\"", stub.address);
        RealConnector::with_links(gateway.address, &directory, &backend, LINKS.try_into().unwrap())
    };
    let connectors: Vec<_> = (0..SITES).map(connector).collect();
    let key = gateway.files.make_key("acme/x", None, &[], &[], &[]);
    let caller = gateway.caller().key(&key);
    let all = SITES * LINKS;
    let registered = || connectors.iter().map(|connector| connector.agent.registered()).sum::<usize>();
    let descriptors = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let mut settled = None;
    for how in ["", "KILL", "TERM"] {
        if !how.is_empty() {
            let before = said.waits().len();
            gateway.signal(how);
            assert_eq!(gateway.ended().await.success(), how == "TERM");
            // A gateway that stops tells its connectors: theirs are replaced, not lost.
            if how == "KILL" {
                until(LONG, "all are lost", || (said.waits().len() >= before + all).then_some(())).await;
                assert_spread(&said.waits()[before..]);
            }
            until(LONG, "the connectors have noticed", || (registered() == 0).then_some(())).await;
            gateway.again().await;
        }
        until(BACK, "all are registered", || (registered() == all).then_some(())).await;
        let tunnels = async { while gateway.metric("doorward_tunnels").await != all as f64 {} };
        within(LONG, "the gateway knows all of them", tunnels).await;
        // Each serves, and no link more than there was is left behind.
        for n in 0..SITES {
            let model = format!("{{\"model\":\"m-{n}\",\"messages\":[]}}");
            let serves = async { while caller.chat(&model).await.status != 200 {} };
            within(LONG, "a chat is served", serves).await;
        }
        let now = || (descriptors(), tasks(), gateway.descriptors());
        let (descriptors, tasks, gateways) = *settled.get_or_insert_with(now);
        until(LONG, "no descriptors and tasks are left", || {
            let now = now();
            (now.0 <= descriptors + 4 && now.1 <= tasks + 4 && now.2 <= gateways + 4).then_some(())
        })
        .await;
    }
}

/// They are drawn evenly, from the first second if nothing has failed before: no tenth of a second
/// has a quarter of them.
fn assert_spread(waits: &[u64]) {
    let mut tenths = BTreeMap::new();
    for wait in waits {
        *tenths.entry(wait / 100).or_insert(0) += 1;
    }
    assert!(tenths.values().all(|count| *count < waits.len() / 4), "{tenths:?}");
}

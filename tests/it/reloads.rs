//! A connector and a dial that are told to read their config anew, while requests go through them.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use doorward::domain::identity::{IdentityName, Role};
use doorward::overlay::hub::Pace;
use doorward::overlay::protocol::State;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::support::{
    CHAT, Caller, Daemon, Exchange, Flow, HandGateway, LONG, Line, Prepared, RealConnector, Setup, Stub, Tool, Tunnel,
    World, chat, chat_stream, json_reply, live, unread, until, within,
};

/// Two models behind `site-a`, and the same one twice.
const BACKENDS: &str = r#"
[[backend]]
name = "vllm-a"
connector = "site-a"
dialects = ["openai"]

[[backend]]
name = "vllm-b"
connector = "site-a"
dialects = ["openai"]

[[model]]
name = "llama"
targets = [{ backend = "vllm-a", model = "org/llama" }]

[[model]]
name = "other"
targets = [{ backend = "vllm-b", model = "org/other" }]
"#;

/// A gateway, and the program as a connector with a config of its own.
struct Scene {
    world: World,
    directory: PathBuf,
    daemon: Daemon,
}

/// One `[[backend]]` of a connector's config.
fn backend(name: &str, address: SocketAddr, settings: &str) -> String {
    format!("[[backend]]\nname = \"{name}\"\nurl = \"http://{address}\"\n{settings}\n")
}

impl Scene {
    async fn start(stub: &Stub, pace: Pace, backends: &str) -> Self {
        let mut setup = Setup::new(stub);
        BACKENDS.clone_into(&mut setup.backends);
        setup.pace = pace;
        let world = setup.start().await;
        let (directory, _) = world.connector("site-a");
        write(&world, &directory, "", backends);
        let mut daemon = Daemon::start(&directory, "connect", &["--config", "connector.toml"]);
        daemon.says("registered", 2).await;
        is_up(&world, "vllm-a").await;
        Self { world, directory, daemon }
    }

    fn write(&self, backends: &str) {
        write(&self.world, &self.directory, "", backends);
    }

    /// Has the config read anew, and waits until that is done and has led to what is expected. That a
    /// file has changed may be noticed before the signal comes, so only what is said tells.
    async fn reload(&mut self, expected: &[&str], backends: &str) {
        let mark = self.daemon.log().len();
        self.write(backends);
        self.daemon.signal("HUP");
        let words: Vec<_> = ["reloaded the config"].iter().chain(expected).copied().collect();
        self.daemon.says_since(mark, &words).await;
    }

    async fn caller(&self) -> Caller {
        self.world.caller().key(&self.world.key("acme/x").await)
    }
}

fn write(world: &World, directory: &Path, more: &str, backends: &str) {
    let gateway = world.server.address();
    let text = format!(
        "state_dir = \".\"\n{more}gateway = {{ addresses = [\"{gateway}\"], name = \"connect.test\" }}\n{backends}"
    );
    // As editors do: the file is never half there.
    fs::write(directory.join("connector.new"), text).unwrap();
    fs::rename(directory.join("connector.new"), directory.join("connector.toml")).unwrap();
}

/// Waits until the gateway sends requests for this backend.
async fn is_up(world: &World, backend: &str) {
    let tunnels = &world.server.gateway().tunnels;
    until(LONG, "the backend is up", || (tunnels.state_of(backend) == Some(State::Up)).then_some(())).await;
}

/// A chat that the test answers.
async fn served_by(line: &mut Line, stub: &Stub) -> Exchange {
    let body = chat("llama");
    let (whole, exchange) = tokio::join!(line.chat(&body), async {
        let mut exchange = stub.next().await;
        exchange.send(json_reply("{}")).await;
        exchange
    });
    whole.assert_served();
    exchange
}

/// Ends a stream that [`live`] began, and sees that it came whole.
async fn ends_well(flow: Flow, mut exchange: Exchange) {
    exchange.chunk("data: [DONE]\n\n").await;
    exchange.end().await;
    let (text, broke) = flow.end().await;
    assert!(broke.is_none() && text.contains("[DONE]"), "{text:?} {broke:?}");
}

/// Callers that ask one thing after the other, and must all be served.
struct Crowd {
    asks: Arc<AtomicBool>,
    served: Arc<AtomicUsize>,
    tasks: Vec<JoinHandle<()>>,
}

impl Crowd {
    async fn of(callers: usize, caller: &Caller) -> Self {
        let (asks, served) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicUsize::new(0)));
        let mut tasks = Vec::new();
        for _ in 0..callers {
            let mut line = caller.h2().await;
            let (asks, served) = (Arc::clone(&asks), Arc::clone(&served));
            tasks.push(tokio::spawn(async move {
                while asks.load(Ordering::Relaxed) {
                    line.chat(&chat("llama")).await.assert_served();
                    served.fetch_add(1, Ordering::Relaxed);
                }
            }));
        }
        Self { asks, served, tasks }
    }

    fn served(&self) -> usize {
        self.served.load(Ordering::Relaxed)
    }

    async fn go_home(self) {
        self.asks.store(false, Ordering::Relaxed);
        for task in self.tasks {
            within(LONG, "a caller is done", task).await.unwrap();
        }
    }
}

/// Another URL and another credential: for new requests, over the connections that are open.
#[tokio::test]
async fn a_backend_that_moves_is_followed_and_what_is_under_way_ends_where_it_began() {
    let (old, new) = (Stub::by_hand().await, Stub::by_hand().await);
    let mut scene = Scene::start(&old, Pace::default(), &backend("vllm-a", old.address, "credential = \"one\"")).await;
    let mut line = scene.caller().await.h2().await;
    let (flow, exchange) = live(&mut line, &old).await;
    let before = scene.world.server.gateway().tunnels.all().len();
    let moved = backend("vllm-a", new.address, "credential = \"two\"");
    scene.reload(&["changed=\"vllm-a\" reconnects=false"], &moved).await;
    drop(served_by(&mut line, &new).await);
    let seen = new.seen().pop().unwrap();
    assert_eq!(seen.values("authorization"), ["Bearer two"]);
    ends_well(flow, exchange).await;
    assert_eq!(scene.world.server.gateway().tunnels.all().len(), before);
    assert_eq!(scene.daemon.log().matches(" registered ").count(), 2, "{}", scene.daemon.log());
}

/// Names and limits come and go while callers ask all the time: none of them notices.
#[tokio::test]
async fn no_request_is_lost_while_backends_come_and_go() {
    let stub = Stub::chatty().await;
    let a = |limit: usize| backend("vllm-a", stub.address, &format!("max_concurrent = {limit}"));
    let mut scene = Scene::start(&stub, Pace::default(), &a(64)).await;
    let caller = scene.caller().await;
    let crowd = Crowd::of(4, &caller).await;
    for round in 1..=8 {
        let b = if round % 2 == 0 { String::new() } else { backend("vllm-b", stub.address, "") };
        let word = if round % 2 == 0 { "removed=\"vllm-b\"" } else { "added=\"vllm-b\"" };
        scene.reload(&[word, "changed=\"vllm-a\" reconnects=true"], &format!("{}{b}", a(64 + round))).await;
        scene.daemon.says(" registered ", 2 + 2 * round).await;
        let before = crowd.served();
        until(LONG, "callers go on", || (crowd.served() > before + 20).then_some(())).await;
    }
    crowd.go_home().await;
    // What is gone is out of reach, and is a target that nobody serves.
    let refused = caller.chat(&chat("other")).await;
    refused.assert_refused(&scene.world, 503, "no_backend").await;
    scene.reload(&["added=\"vllm-b\""], &format!("{}{}", a(64), backend("vllm-b", stub.address, ""))).await;
    is_up(&scene.world, "vllm-b").await;
    caller.chat(&chat("other")).await.assert_served();
    until(LONG, "the old links are gone", || (scene.world.server.gateway().tunnels.all().len() == 2).then_some(()))
        .await;
}

/// Requests of before count under a new limit, at both ends: no gateway sends what is refused.
#[tokio::test]
async fn a_limit_that_changes_counts_what_is_under_way() {
    let stub = Stub::by_hand().await;
    let a = |limit: usize| backend("vllm-a", stub.address, &format!("max_concurrent = {limit}"));
    let mut scene = Scene::start(&stub, Pace::default(), &a(1)).await;
    let caller = scene.caller().await;
    let (mut one, mut two, mut three) = (caller.h2().await, caller.h2().await, caller.h2().await);
    let (first, first_exchange) = live(&mut one, &stub).await;
    two.chat(&chat("llama")).await.assert_refused(&scene.world, 503, "no_backend").await;
    scene.reload(&["changed=\"vllm-a\""], &a(2)).await;
    scene.daemon.says(" registered ", 4).await;
    let (second, second_exchange) = live(&mut two, &stub).await;
    three.chat(&chat("llama")).await.assert_refused(&scene.world, 503, "no_backend").await;
    scene.reload(&["changed=\"vllm-a\""], &a(1)).await;
    scene.daemon.says(" registered ", 6).await;
    ends_well(first, first_exchange).await;
    one.chat(&chat("llama")).await.assert_refused(&scene.world, 503, "no_backend").await;
    ends_well(second, second_exchange).await;
    drop(served_by(&mut three, &stub).await);
}

/// The links that a reload replaces have the time that their requests need, not the gateway's for
/// those that it drains itself.
#[tokio::test]
async fn a_stream_outlives_the_reload_for_longer_than_a_drain() {
    let stub = Stub::by_hand().await;
    let drain = Duration::from_millis(500);
    let pace = Pace { drain, ..Pace::default() };
    let a = |limit: usize| backend("vllm-a", stub.address, &format!("max_concurrent = {limit}"));
    let mut scene = Scene::start(&stub, pace, &a(4)).await;
    let mut line = scene.caller().await.h2().await;
    let (mut flow, mut exchange) = live(&mut line, &stub).await;
    scene.reload(&["changed=\"vllm-a\""], &a(5)).await;
    scene.daemon.says(" registered ", 4).await;
    let begun = Instant::now();
    let mut events = 0;
    while begun.elapsed() < 3 * drain {
        exchange.chunk(&format!("data: {{\"event\":{events}}}\n\n")).await;
        flow.until(&format!("{{\"event\":{events}}}")).await;
        events += 1;
    }
    assert!(events > 10);
    ends_well(flow, exchange).await;
    until(LONG, "the old links are gone", || (scene.world.server.gateway().tunnels.all().len() == 2).then_some(()))
        .await;
}

/// Whatever is wrong with it: a line says where and what, and all goes on as before.
#[tokio::test]
async fn a_bad_config_changes_nothing_for_a_connector() {
    let stub = Stub::chatty().await;
    let good = backend("vllm-a", stub.address, "credential = \"one\"");
    let mut scene = Scene::start(&stub, Pace::default(), &good).await;
    let mut line = scene.caller().await.h2().await;
    let file = scene.directory.join("connector.toml");
    let text = fs::read_to_string(&file).unwrap();
    let words = "the last good config stays in force";
    let replaced = |from: &str, to: &str| {
        assert!(text.contains(from));
        text.replacen(from, to, 1).into_bytes()
    };
    let cases: [(&[u8], &str); 9] = [
        (b"[[[", "line 1: "),
        (&[0xff, 0xfe], "is not UTF-8"),
        (b"", "backend: is missing: [[backend]] with name and url"),
        (&replaced("url", "ulr"), "is not a setting; did you mean \"url\"?"),
        (&replaced("\"one\"", "\"${file:nowhere}\""), "line 6: backend[0].credential: cannot read nowhere"),
        (&replaced("\"one\"", "\"a b\""), "must be visible ASCII"),
        (&replaced("state_dir = \".\"", "state_dir = \"other\""), "a reload cannot change state_dir"),
        (&replaced("state_dir", "log = { level = \"debug\" }\nstate_dir"), "a reload cannot change log.level"),
        (&replaced("connect.test", "not a name"), "line 2: gateway.name"),
    ];
    for (spoilt, expected) in cases {
        let mark = scene.daemon.log().len();
        fs::write(&file, spoilt).unwrap();
        scene.daemon.signal("HUP");
        scene.daemon.says_since(mark, &[words, expected]).await;
        line.chat(&chat("llama")).await.assert_served();
        assert_eq!(stub.seen().pop().unwrap().values("authorization"), ["Bearer one"]);
    }
    let mark = scene.daemon.log().len();
    fs::remove_file(&file).unwrap();
    scene.daemon.signal("HUP");
    scene.daemon.says_since(mark, &[words, "cannot read"]).await;
    line.chat(&chat("llama")).await.assert_served();
    assert!(scene.daemon.log().contains("hint: restart the connector"));
    let other = backend("vllm-a", stub.address, "credential = \"two\"");
    scene.reload(&["changed=\"vllm-a\" reconnects=false"], &other).await;
    line.chat(&chat("llama")).await.assert_served();
    assert_eq!(stub.seen().pop().unwrap().values("authorization"), ["Bearer two"]);
    assert_eq!(scene.daemon.log().matches(" registered ").count(), 2);
    scene.daemon.signal("TERM");
    assert!(scene.daemon.ended().await.success());
}

/// A file that the config names is looked at again too, and nobody has to say so.
#[tokio::test]
async fn a_credential_that_is_replaced_is_taken_up() {
    let stub = Stub::chatty().await;
    let a = backend("vllm-a", stub.address, "credential = \"${file:secret}\"");
    let mut setup = Setup::new(&stub);
    BACKENDS.clone_into(&mut setup.backends);
    let world = setup.start().await;
    let (directory, _) = world.connector("site-a");
    fs::write(directory.join("secret"), "first").unwrap();
    write(&world, &directory, "", &a);
    let mut daemon = Daemon::start(&directory, "connect", &["--config", "connector.toml"]);
    is_up(&world, "vllm-a").await;
    let caller = world.caller().key(&world.key("acme/x").await);
    caller.chat(&chat("llama")).await.assert_served();
    assert_eq!(stub.seen().pop().unwrap().values("authorization"), ["Bearer first"]);
    fs::write(directory.join("secret"), "and-another").unwrap();
    let said = daemon.says("reloaded the config", 1).await;
    assert!(said.contains("changed=\"vllm-a\"") && !daemon.log().contains("another"), "{said}");
    caller.chat(&chat("llama")).await.assert_served();
    assert_eq!(stub.seen().pop().unwrap().values("authorization"), ["Bearer and-another"]);
}

/// Without a file there is nothing to read; it is said, and all goes on.
#[tokio::test]
async fn options_cannot_be_reloaded_and_a_hang_up_ends_nothing() {
    let stub = Stub::chatty().await;
    let mut setup = Setup::new(&stub);
    BACKENDS.clone_into(&mut setup.backends);
    let world = setup.start().await;
    let (directory, _) = world.connector("site-a");
    let gateway = world.server.address();
    // As `enroll join` leaves it.
    let origin = format!("addresses = [\"{gateway}\"]\nenroll = \"enroll.test\"\nconnect = \"connect.test\"\n");
    fs::write(directory.join("gateway.toml"), origin).unwrap();
    let backend = format!("vllm-a=http://{}", stub.address);
    let mut daemon = Daemon::start(&directory, "connect", &["--backend", &backend, "--state", "."]);
    is_up(&world, "vllm-a").await;
    for times in 1..=2 {
        daemon.signal("HUP");
        daemon.says("there is no config file to reload", times).await;
    }
    world.caller().key(&world.key("acme/x").await).chat(&chat("llama")).await.assert_served();
}

/// A connector, and gateways made by hand.
struct Hands {
    stub: Stub,
    files: Prepared,
    one: HandGateway,
    other: HandGateway,
    site: RealConnector,
    a: String,
}

impl Hands {
    async fn new() -> Self {
        let stub = Stub::by_hand().await;
        let files = Setup::new(&stub).write();
        let (one, other) = (HandGateway::new(&files).await, HandGateway::new(&files).await);
        let (directory, _) = files.connector("site-a");
        let a = backend("a", stub.address, "");
        let site = RealConnector::start(&[one.address], &directory, &a);
        Self { stub, files, one, other, site, a }
    }

    /// A stream that is under way over a tunnel, with both of its ends.
    async fn streaming(&self, tunnel: &mut Tunnel) -> (h2::RecvStream, Exchange) {
        let (response, mut upload) = tunnel.begin(Tunnel::chat("a", 2), false).await;
        upload.send_data("{}".into(), true).unwrap();
        let mut exchange = self.stub.next().await;
        exchange.begin("text/event-stream").await;
        (within(LONG, "the head", response).await.unwrap().into_body(), exchange)
    }
}

/// The gateway moves: the connection to the new place is there before the old one goes.
#[tokio::test]
async fn a_gateway_that_moves_is_followed() {
    let mut hands = Hands::new().await;
    let mut old = hands.one.registered().await;
    let (body, mut exchange) = hands.streaming(&mut old).await;
    let changes = hands.site.reload(&[hands.other.address], 1, &hands.a);
    assert!(changes.gateway && !changes.declared_anew && changes.changed.is_empty());
    let mut new = hands.other.accept().await;
    new.control().hear_of("register").await;
    assert!(!old.driver.is_finished() && old.control().has_not_said("drain"));
    new.control().register().await;
    old.control().hear_of("drain").await;
    exchange.chunk("data: 1\n\n").await;
    exchange.end().await;
    assert_eq!(unread(body).await.unwrap().0, "data: 1\n\n");
    within(LONG, "the old connection ends", &mut old.driver).await.unwrap().unwrap();
    until(LONG, "one is left", || (hands.site.agent.registered() == 1).then_some(())).await;
    drop(hands.files);
}

/// Where nobody answers at the new place, the old one goes on; until that is the config again, or an
/// answer comes.
#[tokio::test]
async fn a_gateway_that_is_not_there_costs_nothing() {
    let mut hands = Hands::new().await;
    let mut old = hands.one.registered().await;
    hands.site.reload(&[crate::support::dead_port().await], 2, &hands.a);
    let (body, exchange) = hands.streaming(&mut old).await;
    exchange.end().await;
    unread(body).await.unwrap();
    // More of them at the old place: what there is stays, and another comes.
    hands.site.reload(&[hands.one.address], 2, &hands.a);
    let mut second = hands.one.accept().await;
    assert_ne!(second.control().hear_of("register").await["conn_index"], 0);
    second.control().register().await;
    until(LONG, "both are registered", || (hands.site.agent.registered() == 2).then_some(())).await;
    assert!(old.control().has_not_said("drain"));
    // Fewer: one goes, at once.
    hands.site.reload(&[hands.one.address], 1, &hands.a);
    second.control().hear_of("drain").await;
    within(LONG, "it ends", &mut second.driver).await.unwrap().unwrap();
    assert!(old.control().has_not_said("drain"));
}

/// What is declared changes: a new link says so before the old one goes. What is not there any more is
/// said to be leaving at once, and what is on its way to it is served all the same.
#[tokio::test]
async fn a_name_that_goes_is_no_error_for_who_did_not_know() {
    let mut hands = Hands::new().await;
    let mut old = hands.one.registered().await;
    old.control().hear_health("a", "up").await;
    let b = backend("b", hands.stub.address, "");
    let changes = hands.site.reload(&[hands.one.address], 1, &b);
    assert!(changes.declared_anew && !changes.gateway, "{changes:?}");
    old.control().hear_health("a", "draining").await;
    let (body, exchange) = hands.streaming(&mut old).await;
    let mut new = hands.one.accept().await;
    let register = new.control().hear_of("register").await;
    assert_eq!(register["backends"], serde_json::json!([{"name": "b", "max_concurrent": 64}]));
    new.control().register().await;
    new.control().hear_health("b", "up").await;
    old.control().hear_of("drain").await;
    exchange.end().await;
    unread(body).await.unwrap();
    within(LONG, "the old connection ends", &mut old.driver).await.unwrap().unwrap();
}

/// One change after the other, before anything could settle: the last one counts, and there was always
/// a link that is registered.
#[tokio::test]
async fn changes_in_a_row_leave_no_gap() {
    let stub = Stub::chatty().await;
    let a = |limit: usize| backend("vllm-a", stub.address, &format!("max_concurrent = {limit}"));
    let mut setup = Setup::new(&stub);
    BACKENDS.clone_into(&mut setup.backends);
    let world = setup.start().await;
    let (directory, _) = world.connector("site-a");
    let mut site = RealConnector::start(&[world.server.address()], &directory, &a(64));
    is_up(&world, "vllm-a").await;
    let crowd = Crowd::of(3, &world.caller().key(&world.key("acme/x").await)).await;
    for round in 0..60 {
        site.reload(&[world.server.address()], 1 + round % 3, &a(65 + usize::try_from(round).unwrap()));
        let before = crowd.served();
        until(LONG, "callers go on", || (crowd.served() > before + 3).then_some(())).await;
    }
    site.reload(&[world.server.address()], 1, &a(7));
    let tunnels = &world.server.gateway().tunnels;
    until(LONG, "there is one, with the last limit", || {
        let all = tunnels.all();
        (all.len() == 1 && all[0].offers()[0].places.limit() == 7).then_some(())
    })
    .await;
    crowd.go_home().await;
}

/// The program as a dial, with a config of its own.
async fn dial(world: &World, config: &str) -> (PathBuf, Daemon, SocketAddr) {
    let directory = tempfile::tempdir_in(world.dir.path()).unwrap().keep();
    let name = IdentityName::parse("dialler").unwrap();
    world.issue(&world.authority, (Role::Client, &name, None), &directory);
    fs::write(directory.join("dial.toml"), config).unwrap();
    let mut daemon = Daemon::start(&directory, "dial", &["--config", "dial.toml"]);
    let line = daemon.says(" serving ", 1).await;
    let address = line.split("http://").nth(1).and_then(|rest| rest.split(' ').next()).unwrap().parse().unwrap();
    (directory, daemon, address)
}

/// Whom it serves, with what key and over which gateway changes; where it listens does not.
#[tokio::test]
async fn a_dial_goes_by_its_new_config_and_finishes_what_it_has() {
    let stub = Stub::by_hand().await;
    let world = World::open(&stub).await;
    let config = |name: &str, more: &str| {
        format!(
            "state_dir = \".\"\nlisten = \"127.0.0.1:0\"\n{more}\n[gateway]\naddress = \"{}\"\nname = \"{name}\"\n",
            world.address()
        )
    };
    let (directory, mut daemon, address) = dial(&world, &config("llm.test", "token = false")).await;
    let set = |text: &str| {
        fs::write(directory.join("dial.new"), text).unwrap();
        fs::rename(directory.join("dial.new"), directory.join("dial.toml")).unwrap();
    };
    let mut tool = Tool::to(address).await;
    tool.begin(CHAT, "", &chat_stream("llama")).await;
    let mut exchange = stub.next().await;
    exchange.begin("text/event-stream").await;
    exchange.chunk("data: {\"n\":1}\n\n").await;
    tool.until("\"n\":1").await;

    let key = world.key("acme/x").await;
    fs::write(directory.join("key"), &key.text).unwrap();
    let token = "a-token-of-our-own";
    let tokened = config("llm.test", &format!("token = \"{token}\"\nkey = \"${{file:key}}\""));
    set(&tokened);
    // Each is noticed by itself, once.
    daemon.says("reloaded the config", 1).await;
    let body = chat("llama");
    assert_eq!(Tool::to(address).await.post(CHAT, "", &body).await.status, 401);
    let fields = format!("Authorization: Bearer {token}\r\n");
    let served = async {
        let mut tool = Tool::to(address).await;
        let answer = async { stub.next().await.reply(json_reply("{}")).await };
        tokio::join!(tool.post(CHAT, &fields, &body), answer).0
    };
    let said = served.await;
    assert_eq!(said.status, 200, "{said:?}");
    let record = world.record(said.value("x-request-id").unwrap()).await;
    assert_eq!(record["key_id"], key.id.to_string(), "{record}");

    // A gateway that is not there, and back.
    let elsewhere = crate::support::dead_port().await;
    set(&tokened.replace(&world.address().to_string(), &elsewhere.to_string()));
    daemon.says("reloaded the config", 2).await;
    assert_eq!(Tool::to(address).await.post(CHAT, &fields, &body).await.status, 502);
    set(&tokened);
    daemon.says("reloaded the config", 3).await;

    daemon.signal("HUP");
    daemon.says("reloaded the config", 4).await;

    let words = "the last good config stays in force";
    for (spoilt, expected) in [
        (tokened.replace("127.0.0.1:0", "127.0.0.1:1"), "a reload cannot change listen"),
        (tokened.replace("127.0.0.1:0", "0.0.0.0:1"), "line 2: listen"),
        (tokened.replace("state_dir = \".\"", "state_dir = \"x\""), "a reload cannot change state_dir"),
        (tokened.replace("${file:key}", "sk-other"), "is not a Doorward key"),
    ] {
        let mark = daemon.log().len();
        set(&spoilt);
        daemon.signal("HUP");
        daemon.says_since(mark, &[words, expected]).await;
        let mut tool = Tool::to(address).await;
        let answer = async { stub.next().await.reply(json_reply("{}")).await };
        let (said, ()) = tokio::join!(tool.post(CHAT, &fields, &body), answer);
        assert_eq!(said.status, 200, "{said:?}");
    }
    // All the while, what was under way went on.
    exchange.chunk("data: [DONE]\n\n").await;
    exchange.end().await;
    tool.until("data: [DONE]\n\n").await;
    tool.until("0\r\n\r\n").await;
    daemon.signal("TERM");
    assert!(daemon.ended().await.success());
}

/// A token that is made anew is asked for, without a word to the dial.
#[tokio::test]
async fn a_local_token_that_is_made_anew_is_taken_up() {
    let stub = Stub::chatty().await;
    let world = World::open(&stub).await;
    let gateway = world.address();
    let config = format!(
        "state_dir = \".\"\nlisten = \"127.0.0.1:0\"\n[gateway]\naddress = \"{gateway}\"\nname = \"llm.test\"\n"
    );
    let (directory, mut daemon, address) = dial(&world, &config).await;
    let file = directory.join("dial.token");
    let fields = |token: &str| format!("X-Api-Key: {}\r\n", token.trim_end());
    let first = fs::read_to_string(&file).unwrap();
    let body = chat("llama");
    assert_eq!(Tool::to(address).await.post(CHAT, &fields(&first), &body).await.status, 200);
    fs::remove_file(&file).unwrap();
    daemon.says("reloaded the config", 1).await;
    let second = fs::read_to_string(&file).unwrap();
    assert_ne!(first, second);
    assert_eq!(Tool::to(address).await.post(CHAT, &fields(&first), &body).await.status, 401);
    assert_eq!(Tool::to(address).await.post(CHAT, &fields(&second), &body).await.status, 200);
}

//! Gateway and connector, both real: what a caller sees of a backend that nothing can reach.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::Duration;

use doorward::overlay::hub::tunnel::Tunnel;
use doorward::overlay::protocol::State;
use serde_json::json;

use crate::support::{
    Caller, LONG, Line, RealConnector, Setup, Stub, World, chat, chunk, doorward, json_reply, live, until, within,
};

/// A model behind `site-a`.
pub(crate) const BACKENDS: &str = r#"
[[backend]]
name = "vllm-a"
connector = "site-a"
dialects = ["openai", "anthropic", "ollama"]

[[model]]
name = "llama"
targets = [{ backend = "vllm-a", model = "org/llama" }]
"#;

struct Scene {
    stub: Stub,
    world: World,
    connector: RealConnector,
    line: Line,
}

pub(crate) fn site(address: SocketAddr) -> String {
    format!("[[backend]]\nname = \"vllm-a\"\nurl = \"http://{address}\"\ncredential = \"its-own\"")
}

async fn world(stub: &Stub) -> World {
    let mut setup = Setup::new(stub);
    BACKENDS.clone_into(&mut setup.backends);
    setup.start().await
}

async fn caller(world: &World) -> Caller {
    world.caller().key(&world.key("acme/x").await)
}

async fn scene(stub: Stub) -> Scene {
    let world = world(&stub).await;
    let (directory, _) = world.connector("site-a");
    let connector = RealConnector::start(&[world.server.address()], &directory, &site(stub.address));
    up(&world).await;
    let line = caller(&world).await.h2().await;
    Scene { stub, world, connector, line }
}

/// Waits until a chat gets as far as the connector.
async fn up(world: &World) {
    until(LONG, "the tunnel is there", || {
        let tunnels = world.server.gateway().tunnels.all();
        let is_up = |tunnel: &Arc<Tunnel>| tunnel.offers().iter().any(|offer| offer.health() == State::Up);
        tunnels.iter().any(is_up).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_chat_goes_through() {
    let mut scene = scene(Stub::scripted(|_| json_reply(r#"{"model":"org/llama","choices":[]}"#)).await).await;
    let whole = scene.line.chat(&chat("llama")).await;
    whole.assert_served();
    assert_eq!(whole.json()["model"], "llama");
    let seen = scene.stub.seen().pop().unwrap();
    assert_eq!(seen.line(), "POST /v1/chat/completions HTTP/1.1");
    assert_eq!(seen.values("authorization"), ["Bearer its-own"]);
    assert_eq!(serde_json::from_str::<serde_json::Value>(seen.text()).unwrap()["model"], json!("org/llama"));
    let record = scene.world.record(whole.request_id()).await;
    assert_eq!(record["backend"], "vllm-a");
}

/// A name that stands for two addresses of one gateway, of IPv4 and IPv6 say: two links, and neither
/// takes the other's place.
#[tokio::test]
async fn two_addresses_of_one_gateway_are_two_links() {
    let stub = Stub::chatty().await;
    let mut setup = Setup::new(&stub);
    BACKENDS.clone_into(&mut setup.backends);
    setup.address = "0.0.0.0:0";
    let world = setup.start().await;
    let (directory, _) = world.connector("site-a");
    let port = world.server.address().port();
    let addresses = [([127, 0, 0, 1], port).into(), ([127, 0, 0, 2], port).into()];
    let _connector = RealConnector::start(&addresses, &directory, &site(stub.address));
    let indexes = || {
        let mut indexes: Vec<_> = world.server.gateway().tunnels.all().iter().map(|tunnel| tunnel.index).collect();
        indexes.sort_unstable();
        indexes
    };
    until(LONG, "both are there", || (indexes() == [0, 1]).then_some(())).await;
    up(&world).await;
    caller(&world).await.chat(&chat("llama")).await.assert_served();
    assert_eq!(indexes(), [0, 1]);
    let metrics = world.admin("/metrics").await;
    let ends = metrics.lines().filter(|line| line.starts_with("doorward_tunnel_ends_total"));
    assert!(ends.clone().all(|line| line.ends_with(" 0")), "{:?}", ends.collect::<Vec<_>>());
}

#[tokio::test]
async fn a_caller_that_leaves_is_felt_in_the_site() {
    let mut scene = scene(Stub::by_hand().await).await;
    let (flow, exchange) = live(&mut scene.line, &scene.stub).await;
    drop(flow);
    let span = exchange.closed().await;
    assert!(span < Duration::from_secs(1), "{span:?}");
    until(LONG, "nothing is in flight", || (scene.connector.agent.in_flight() == 0).then_some(())).await;
}

/// As of a direct backend: however a reply is cut, the caller sees it.
#[tokio::test]
async fn a_reply_that_is_cut_in_the_site_is_never_whole() {
    let mut scene = scene(Stub::by_hand().await).await;
    let json = String::from_utf8(json_reply(r#"{"model":"org/llama","x":"y"}"#)).unwrap();
    let unframed = json.replace("Content-Length: 29\r\n", "");
    assert_ne!(unframed, json);
    let sse = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n{}{}0\r\n\r\n",
        chunk("data: {\"model\":\"org/llama\"}\n\n"),
        chunk("data: [DONE]\n\n")
    );
    for reply in [json, unframed, sse] {
        let head = reply.find("\r\n\r\n").unwrap();
        for cut in (0..head).step_by(16).chain((head..reply.len()).step_by(3)) {
            let backend = async {
                let mut exchange = scene.stub.next().await;
                exchange.send(&reply[..cut]).await;
            };
            let (answer, ()) = tokio::join!(scene.line.chat("{\"model\":\"llama\"}"), backend);
            let refused = answer.status == 502 && answer.broke.is_none();
            assert!(refused || answer.broke.is_some(), "{:?} gave {answer:?}", &reply[..cut]);
        }
        let backend = async { scene.stub.next().await.send(&reply).await };
        let (answer, ()) = tokio::join!(scene.line.chat("{\"model\":\"llama\"}"), backend);
        answer.assert_served();
    }
}

#[tokio::test]
async fn a_renewed_connector_loses_no_request() {
    let mut scene = scene(Stub::by_hand().await).await;
    let (flow, mut exchange) = live(&mut scene.line, &scene.stub).await;
    let (renewed, _) = scene.world.connector("site-a");
    let before: Vec<_> = scene.world.server.gateway().tunnels.all();
    scene.connector.identity.send_replace(RealConnector::identity(&renewed));
    until(LONG, "there is another tunnel", || {
        let now = scene.world.server.gateway().tunnels.all();
        now.iter()
            .any(|tunnel| !before.iter().any(|old| std::ptr::eq(&raw const **old, &raw const **tunnel)))
            .then_some(())
    })
    .await;
    // A request that comes meanwhile is served, and the one under way ends.
    let body = chat("llama");
    let (answer, ()) = tokio::join!(scene.line.chat(&body), async {
        scene.stub.next().await.reply(json_reply("{}")).await;
    });
    answer.assert_served();
    exchange.chunk("data: [DONE]\n\n").await;
    exchange.end().await;
    let (text, broke) = flow.end().await;
    assert!(broke.is_none() && text.contains("[DONE]"), "{text:?} {broke:?}");
}

#[tokio::test]
async fn a_revoked_connector_is_cut_off_and_stays_alive() {
    let mut scene = scene(Stub::by_hand().await).await;
    let (flow, exchange) = live(&mut scene.line, &scene.stub).await;
    scene.world.revoke_name("site-a");
    let (_, broke) = flow.end().await;
    assert!(broke.is_some());
    exchange.closed().await;
    until(LONG, "it is not registered", || (scene.connector.agent.registered() == 0).then_some(())).await;
    assert_eq!(scene.line.chat(&chat("llama")).await.status, 503);
}

/// The program itself, under a config of its own.
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    fn connect(world: &World, directory: &Path, backend: SocketAddr) -> Self {
        Self::connect_by(&[], world.server.address(), directory, backend)
    }

    /// Begun by a command that stays the same process.
    pub(crate) fn connect_by(launcher: &[String], gateway: SocketAddr, directory: &Path, backend: SocketAddr) -> Self {
        let file = directory.join("connector.toml");
        fs::write(
            &file,
            format!(
                "state_dir = \".\"\ngateway = {{ addresses = [\"{gateway}\"], name = \"connect.test\" }}\n{}",
                site(backend)
            ),
        )
        .unwrap();
        Self::start_by(launcher, directory, &["--config", file.to_str().unwrap()])
    }

    fn start(directory: &Path, options: &[&str]) -> Self {
        Self::start_by(&[], directory, options)
    }

    fn start_by(launcher: &[String], directory: &Path, options: &[&str]) -> Self {
        let log = directory.join("connector.log");
        let child =
            doorward(launcher).arg("connect").args(options).stderr(File::create(&log).unwrap()).spawn().unwrap();
        Self { child, log }
    }

    async fn logs(&mut self, words: &str) {
        self.logs_times(words, 1, LONG).await;
    }

    /// Waits until it has logged something so many times, and lives.
    pub(crate) async fn logs_times(&mut self, words: &str, times: usize, span: Duration) {
        until(span, words, || {
            let log = self.log();
            assert!(self.child.try_wait().unwrap().is_none(), "{log}");
            (log.matches(words).count() >= times).then_some(())
        })
        .await;
    }

    /// All that it has logged.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    pub(crate) fn signal(&self, name: &str) {
        let status = Command::new("kill").arg(format!("-{name}")).arg(self.child.id().to_string()).status().unwrap();
        assert!(status.success());
    }

    /// The local addresses, in hexadecimal, of its sockets that listen.
    fn listening(&self) -> Vec<String> {
        let process = PathBuf::from(format!("/proc/{}", self.child.id()));
        let files = fs::read_dir(process.join("fd")).unwrap();
        let links: Vec<_> = files.filter_map(|file| fs::read_link(file.ok()?.path()).ok()).collect();
        let own = |inode: &str| links.iter().any(|link| link.to_str() == Some(&format!("socket:[{inode}]")));
        let mut found = Vec::new();
        let mut connected = 0;
        for table in ["net/tcp", "net/tcp6"] {
            for line in fs::read_to_string(process.join(table)).unwrap().lines().skip(1) {
                let fields: Vec<_> = line.split_whitespace().collect();
                match (fields[3], own(fields[9])) {
                    ("0A", true) => found.push(fields[1].to_owned()),
                    ("01", true) => connected += 1,
                    _ => {}
                }
            }
        }
        assert!(connected >= 2, "its connections were found, so its listeners would be");
        found
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.child.kill().is_ok() {
            assert!(self.child.wait().is_ok());
        }
    }
}

#[tokio::test]
async fn the_program_opens_no_port_and_goes_when_told() {
    let stub = Stub::by_hand().await;
    let world = world(&stub).await;
    let (directory, _) = world.connector("site-a");
    let mut process = Process::connect(&world, &directory, stub.address);
    process.logs("registered").await;
    up(&world).await;
    let mut line = caller(&world).await.h2().await;
    let (flow, mut exchange) = live(&mut line, &stub).await;
    assert_eq!(process.listening(), [""; 0]);
    // What is under way ends before it goes.
    process.signal("TERM");
    process.logs("draining").await;
    exchange.chunk("data: [DONE]\n\n").await;
    exchange.end().await;
    let (text, broke) = flow.end().await;
    assert!(broke.is_none() && text.contains("[DONE]"), "{text:?} {broke:?}");
    let status = until(LONG, "the program ends", || process.child.try_wait().unwrap()).await;
    assert!(status.success());
    assert_eq!(line.chat(&chat("llama")).await.status, 503);
}

#[tokio::test]
async fn a_killed_connector_is_noticed_at_once_and_replaced() {
    let stub = Stub::by_hand().await;
    let world = world(&stub).await;
    let (directory, _) = world.connector("site-a");
    let mut process = Process::connect(&world, &directory, stub.address);
    process.logs("registered").await;
    up(&world).await;
    let mut line = caller(&world).await.h2().await;
    let (flow, exchange) = live(&mut line, &stub).await;
    process.signal("KILL");
    let (_, broke) = within(Duration::from_secs(2), "the caller sees it", flow.end()).await;
    assert!(broke.is_some());
    exchange.closed().await;
    let mut process = Process::connect(&world, &directory, stub.address);
    process.logs("registered").await;
    up(&world).await;
    let body = chat("llama");
    let (answer, ()) = tokio::join!(line.chat(&body), async {
        stub.next().await.reply(json_reply("{}")).await;
    });
    answer.assert_served();
}

/// One line starts a connector for the first time and every time after.
#[tokio::test]
async fn a_bundle_is_all_that_a_connector_needs() {
    let stub = Stub::by_hand().await;
    let world = world(&stub).await;
    let directory = tempfile::tempdir().unwrap();
    let made = Command::new(env!("CARGO_BIN_EXE_doorward"))
        .args(["enroll", "create", "site-a", "--role", "connector", "--output", "json", "--address"])
        .arg(world.server.address().to_string())
        .arg("--config")
        .arg(&world.file)
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let made: serde_json::Value = serde_json::from_slice(&made.stdout).unwrap();
    let (state, backend) = (directory.path().join("state"), format!("vllm-a=http://{}", stub.address));
    let options =
        ["--bundle", made["bundle"].as_str().unwrap(), "--backend", &backend, "--state", state.to_str().unwrap()];
    for _ in 0..2 {
        let mut process = Process::start(directory.path(), &options);
        process.logs("registered").await;
        up(&world).await;
        let mut line = caller(&world).await.h2().await;
        let body = chat("llama");
        let (answer, ()) = tokio::join!(line.chat(&body), async {
            stub.next().await.reply(json_reply("{}")).await;
        });
        answer.assert_served();
        process.signal("TERM");
        let status = until(LONG, "the program ends", || process.child.try_wait().unwrap()).await;
        assert!(status.success());
        until(LONG, "its tunnels are gone", || world.server.gateway().tunnels.is_empty().then_some(())).await;
    }
}

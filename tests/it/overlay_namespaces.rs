//! Three hosts, as network namespaces: the caller's, the gateway's and a closed site, with the real
//! programs and a link between them that is cut, swallows everything, and heals.
//!
//! The test's own process is the caller's host. The other two belong to a process that sleeps, so
//! that nothing of them stays, however the test ends.

use std::fs::{self, File};
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::time::Instant;

use crate::overlay::{BACKENDS, Process as Connector};
use crate::overlay_processes::{AT_ONCE, BACK, NOTICED, assert_broken, assert_no_backend};
use crate::support::{Caller, LONG, Process, Setup, Stub, ask, chunk, live, served_within, until, within};

/// The gateway, as its site sees it and as callers do.
const GATEWAY_OF_SITE: &str = "10.77.1.1:8443";
const GATEWAY_OF_CALLER: &str = "10.77.2.1:8443";
/// The site, if it let anything in.
const SITE: &str = "10.77.1.2";

/// Makes the links between the namespaces of two processes, and lets nothing into the site.
const SET_UP: &str = r#"
gateway() { nsenter --net=/proc/$GATEWAY/ns/net "$@"; }
site() { nsenter --net=/proc/$SITE/ns/net "$@"; }
ip link add name to-gw type veth peer name to-caller netns $GATEWAY
gateway ip link add name to-site type veth peer name to-gw netns $SITE
ip address add 10.77.2.2/24 dev to-gw
gateway ip address add 10.77.2.1/24 dev to-caller
gateway ip address add 10.77.1.1/24 dev to-site
site ip address add 10.77.1.2/24 dev to-gw
ip link set to-gw up
for link in lo to-caller to-site; do gateway ip link set $link up; done
for link in lo to-gw; do site ip link set $link up; done
site nft -f - <<'NFT'
table inet site {
	counter refused { }
	chain in {
		type filter hook input priority 0; policy drop;
		iif lo accept
		ct state established,related accept
		tcp dport != 0 counter name refused
	}
}
NFT
"#;

/// A test of this file, by its name, in a network of its own. All of them at once: they wait for
/// clocks that nobody may wind.
#[test]
#[expect(clippy::print_stderr, reason = "a test that is skipped says so")]
fn links_between_hosts_fail_and_heal() {
    let allowed =
        "ip link add name one type veth peer name two && nft add table inet x && nsenter --net=/proc/self/ns/net true";
    let allowed = Command::new("unshare").args(["--net", "sh", "-c", allowed]).output();
    if !allowed.is_ok_and(|output| output.status.success()) {
        eprintln!("SKIPPED: no permission to make network namespaces, or no ip, nft and nsenter");
        return;
    }
    let me = std::env::current_exe().unwrap();
    let begin = |inner| {
        let mut command = Command::new("unshare");
        command.args(["--net", "sh", "-c", "ip link set lo up && exec \"$0\" --exact \"$1\" --ignored --nocapture"]);
        command.arg(&me).arg(format!("overlay_namespaces::{inner}"));
        (inner, command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
    };
    let running = ["a_link_is_cut", "a_link_swallows_everything", "a_closed_site"].map(begin);
    // Each is heard before any of them fails this test: nothing is left running.
    let ended = running.map(|(inner, child)| (inner, child.wait_with_output().unwrap()));
    for (inner, output) in ended {
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        assert!(output.status.success() && said.contains("1 passed"), "{inner}: {said}");
    }
}

/// A host: a network namespace, for as long as a process sleeps in it.
struct Host(Child);

impl Host {
    async fn start() -> Self {
        let child = Command::new("unshare").args(["--net", "sleep", "infinity"]).spawn().unwrap();
        let host = Self(child);
        let own = fs::read_link("/proc/self/ns/net").unwrap();
        until(LONG, "the namespace is there", || {
            fs::read_link(host.path()).is_ok_and(|namespace| namespace != own).then_some(())
        })
        .await;
        host
    }

    fn path(&self) -> String {
        format!("/proc/{}/ns/net", self.0.id())
    }

    /// What begins a program on it.
    fn launcher(&self) -> Vec<String> {
        vec!["nsenter".to_owned(), format!("--net={}", self.path())]
    }

    /// Runs a command on it, and gives what it printed.
    fn run(&self, line: &str) -> String {
        let output =
            Command::new("nsenter").arg(format!("--net={}", self.path())).args(["sh", "-ec", line]).output().unwrap();
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Does something with its network: sockets stay in the namespace that they were made in.
    fn on<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        let namespace = File::open(self.path()).unwrap();
        thread::scope(|scope| {
            let entered = scope.spawn(move || {
                move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
                act()
            });
            entered.join().unwrap()
        })
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if self.0.kill().is_ok() {
            assert!(self.0.wait().is_ok());
        }
    }
}

/// Programs on their hosts.
struct Scene {
    stub: Stub,
    gateway: Process,
    connector: Connector,
    caller: Caller,
    // The hosts go last.
    host: Host,
    site: Host,
}

impl Scene {
    async fn start() -> Self {
        let (host, site) = (Host::start().await, Host::start().await);
        let made = Command::new("sh")
            .args(["-ec", SET_UP])
            .env("GATEWAY", host.0.id().to_string())
            .env("SITE", site.0.id().to_string())
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let listener = site.on(|| TcpListener::bind("127.0.0.1:0")).unwrap();
        listener.set_nonblocking(true).unwrap();
        let stub = Stub::by_hand_at(tokio::net::TcpListener::from_std(listener).unwrap());

        let mut setup = Setup::new(&stub);
        setup.address = "0.0.0.0:8443";
        setup.grants = setup.grants.replace("127.0.0.0/8", "10.77.2.0/24");
        BACKENDS.clone_into(&mut setup.backends);
        let mut gateway = Process::serve_by(&host.launcher(), &setup).await;
        gateway.address = GATEWAY_OF_CALLER.parse().unwrap();
        let (directory, _) = gateway.files.connector("site-a");
        let address = GATEWAY_OF_SITE.parse().unwrap();
        let connector = Connector::connect_by(&site.launcher(), address, &directory, stub.address);
        let key = gateway.files.make_key("acme/x", None, &[], &[], &[]);
        let caller = gateway.caller().key(&key);
        let mut scene = Self { stub, gateway, connector, caller, host, site };
        scene.connector.logs_times("registered gateway=", 2, LONG).await;
        served_within(LONG, &scene.caller, &scene.stub).await;
        scene
    }

    /// The link is dead: callers hear of it in time, both ends notice, and new callers are told at once.
    async fn is_dead(&mut self, fail: impl FnOnce(&Self)) {
        let (idle, waiting) = live(&mut self.caller.h1().await, &self.stub).await;
        let (busy, mut saying) = live(&mut self.caller.h2().await, &self.stub).await;
        fail(self);
        let begun = Instant::now();
        // One stream says nothing more; in the other the backend goes on, so that the connector is
        // stuck with what it has to write.
        let flood = tokio::spawn(async move {
            let events = chunk(": and on\n\n").repeat(100);
            while saying.try_send(&events).await.is_ok() {
                tokio::task::yield_now().await;
            }
        });
        // One that comes before anybody has noticed ends with the tunnel.
        let late = self.caller.clone().patient(NOTICED);
        let late = async {
            let whole = ask(&mut late.h1().await, &self.stub).await;
            assert_eq!(whole.status, 502, "{}", whole.text());
            assert_eq!(whole.json()["error"]["code"], "backend_broke");
        };
        tokio::join!(late, assert_broken(&self.gateway, idle, NOTICED), assert_broken(&self.gateway, busy, NOTICED),);
        until(NOTICED, "the gateway has given up both connections", || {
            (self.gateway.log().matches("a tunnel has ended").count() == 2).then_some(())
        })
        .await;
        self.connector.logs_times("not connected: ", 2, NOTICED).await;
        assert!(begun.elapsed() < NOTICED, "{:?}", begun.elapsed());
        // What the backend did for them has ended too.
        waiting.closed().await;
        within(LONG, "the connector closes its connection", flood).await.unwrap();
        assert_no_backend(&self.caller, &self.stub).await;
    }

    /// The link is good again: the connector comes back by itself, with all its connections.
    async fn is_back(&mut self) {
        served_within(BACK, &self.caller, &self.stub).await;
        self.connector.logs_times("registered gateway=", 4, BACK).await;
        let (mut flow, mut exchange) = live(&mut self.caller.h2().await, &self.stub).await;
        exchange.chunk("data: [DONE]\n\n").await;
        exchange.end().await;
        flow.until("[DONE]").await;
        assert_eq!(flow.end().await.1, None);
    }
}

#[tokio::test]
#[ignore = "run by links_between_hosts_fail_and_heal"]
async fn a_link_is_cut() {
    let mut scene = Scene::start().await;
    scene.is_dead(|scene| drop(scene.host.run("ip link set to-site down"))).await;
    scene.host.run("ip link set to-site up");
    scene.is_back().await;
}

/// Both ends believe in the link, and nothing comes through: no reset, no word from the network.
#[tokio::test]
#[ignore = "run by links_between_hosts_fail_and_heal"]
async fn a_link_swallows_everything() {
    let mut scene = Scene::start().await;
    let hole = "nft -f - <<'NFT'
table inet hole {
	chain in { type filter hook input priority -10; policy accept; iifname to-gw drop; }
	chain out { type filter hook output priority -10; policy accept; oifname to-gw drop; }
}
NFT";
    scene.is_dead(|scene| drop(scene.site.run(hole))).await;
    scene.site.run("nft delete table inet hole");
    scene.is_back().await;
}

/// Nothing of ours listens in the site, nothing comes in; and a link that is away for a moment costs
/// nobody anything.
#[tokio::test]
#[ignore = "run by links_between_hosts_fail_and_heal"]
async fn a_closed_site() {
    let mut scene = Scene::start().await;
    let listening = scene.site.run("ss -H -ltnup");
    let lines: Vec<_> = listening.lines().collect();
    // The backend, on loopback; and no socket that takes datagrams.
    assert_eq!(lines.len(), 1, "{listening}");
    assert!(lines[0].contains(&scene.stub.address.to_string()) && !lines[0].contains("doorward"), "{listening}");
    let connected = scene.site.run("ss -H -tnp state established");
    assert!(connected.matches("doorward").count() >= 2, "ss knows whose its connections are: {connected}");

    let refused = || {
        let counter = scene.site.run("nft list counter inet site refused");
        counter.split_once("packets ").unwrap().1.split(' ').next().unwrap().parse::<u64>().unwrap()
    };
    assert_eq!(refused(), 0);
    for port in [scene.stub.address.port(), 8443, 22] {
        let address: SocketAddr = format!("{SITE}:{port}").parse().unwrap();
        let tried = scene.host.on(|| TcpStream::connect_timeout(&address, Duration::from_millis(500)));
        assert_eq!(tried.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
    assert!(refused() >= 3);

    let (mut flow, mut exchange) = live(&mut scene.caller.h2().await, &scene.stub).await;
    scene.host.run("ip link set to-site down");
    exchange.chunk("data: {\"n\":2}\n\n").await;
    until(AT_ONCE, "the event is stuck in the site", || {
        let waiting =
            scene.site.run("ss -H -tn state established dst 10.77.1.1 | awk '{ sum += $2 } END { print sum + 0 }'");
        (waiting.trim() != "0").then_some(())
    })
    .await;
    scene.host.run("ip link set to-site up");
    flow.until("{\"n\":2}").await;
    exchange.chunk("data: [DONE]\n\n").await;
    exchange.end().await;
    assert_eq!(flow.end().await.1, None);
    assert!(!scene.gateway.log().contains("a tunnel has ended"), "{}", scene.gateway.log());
    scene.connector.logs_times("registered gateway=", 2, AT_ONCE).await;
    assert_eq!(scene.connector.log().matches("registered gateway=").count(), 2, "it was never dialled anew");
}

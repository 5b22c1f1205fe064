//! Webhooks whose names lead to where they must not: in a network of its own, with a server that
//! waits at the very address, so that one packet too many would be seen.

use std::io;
use std::net::TcpListener;
use std::process::Command;

use doorward::domain::notification::Kind;

use crate::support::{Hook, LONG, Play, Setup, Stub, status, until};

/// Where clouds have their metadata; and a name for it in the file of hosts of the network.
const METADATA: &str = "169.254.169.254";
const NAME: &str = "metadata.test";

/// Runs a test of this file where [`METADATA`] is an address of this machine and has the name.
#[expect(clippy::print_stderr, reason = "a test that is skipped says so")]
fn with_metadata(inner: &str) {
    let hosts = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(hosts.path(), format!("127.0.0.1 localhost\n{METADATA} {NAME}\n")).unwrap();
    let set_up = format!(
        "mount --bind {} /etc/hosts && ip link set lo up && ip address add {METADATA}/32 dev lo",
        hosts.path().display()
    );
    let unshare = || {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--net", "sh", "-c"]);
        command
    };
    if !unshare().arg(&set_up).output().is_ok_and(|output| output.status.success()) {
        eprintln!("SKIPPED: no permission to make a network namespace");
        return;
    }
    let run = unshare()
        .arg(format!("{set_up} && exec \"$0\" --exact \"$1\" --ignored --nocapture"))
        .arg(std::env::current_exe().unwrap())
        .arg(format!("webhook_network::{inner}"))
        .output()
        .unwrap();
    let said = [run.stdout, run.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(run.status.success() && said.contains("1 passed"), "{said}");
}

/// What waits for whoever comes.
struct Trap(TcpListener);

impl Trap {
    fn set() -> Self {
        let listener = TcpListener::bind((METADATA, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        Self(listener)
    }

    fn url(&self) -> String {
        format!("https://{NAME}:{}/latest/meta-data", self.0.local_addr().unwrap().port())
    }

    /// True when somebody has connected.
    fn caught(&self) -> bool {
        match self.0.accept() {
            Ok(_) => true,
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                false
            }
        }
    }
}

#[test]
fn a_notification_is_not_sent_to_a_cloud_s_metadata() {
    with_metadata("tells_no_metadata");
}

#[tokio::test]
#[ignore = "run by a_notification_is_not_sent_to_a_cloud_s_metadata"]
async fn tells_no_metadata() {
    let (trap, hook, stub) = (Trap::set(), Hook::start(status("204 No Content")).await, Stub::chatty().await);
    hook.play(Play::Silence);
    let section = |allow: &str| {
        let events = format!("events = [{:?}]", Kind::KeyCreated.as_str());
        hook.section("iam", &format!("url = \"{}\"\n{events}\n{allow}", trap.url()))
    };
    let mut setup = Setup::new(&stub).manual_clock();
    setup.files.push(hook.file("iam"));
    setup.more = section("");
    let refused = setup.text();
    setup.more = section("allow_networks = [\"169.254.0.0/16\"]");
    let allowed = setup.text();
    setup.more = section("");
    assert_eq!(refused, setup.text());
    let mut world = setup.start().await;
    for attempts in 1..=4 {
        world.make_key("acme/x", None, &[], &[], &[]);
        world
            .metric_becomes("doorward_notifications_total{webhook=\"iam\",result=\"failed\"}", f64::from(attempts))
            .await;
        assert!(!trap.caught(), "attempt {attempts}");
        world.clock.advance(LONG * 60);
    }
    // The trap is a good one.
    world.reload(&allowed);
    world.clock.advance(LONG * 60);
    until(LONG, "somebody comes", || trap.caught().then_some(())).await;
}

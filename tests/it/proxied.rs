//! Behind a proxy that says who is calling: the PROXY protocol, version 2.
//!
//! The proxy is this machine, under whatever address a test gives it; and in one test HAProxy.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::{Child, Command};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use crate::support::{CHAT, Caller, LONG, OPEN, Process, Setup, Stub, World, chat, dead_port, within};

/// A gateway behind the proxy 127.0.0.1, whose callers may come from these networks.
fn behind_proxy(stub: &Stub, networks: &str) -> Setup {
    Setup::new(stub)
        .listen("proxy_protocol = true\ntrusted_proxies = [\"127.0.0.1\"]")
        .grants(&OPEN.replace("\"127.0.0.0/8\"", networks))
}

/// A header as a proxy writes it.
fn header(version_command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
    [b"\r\n\r\n\0\r\nQUIT\n", &[version_command, family][..], &length, rest].concat()
}

/// The header for a caller that comes from `source` and reached the proxy at `reached`.
fn reaching(source: &str, reached: &str) -> Vec<u8> {
    let [source, reached]: [IpAddr; 2] = [source, reached].map(|address| address.parse().unwrap());
    let (family, addresses) = match (source, reached) {
        (IpAddr::V4(source), IpAddr::V4(reached)) => (0x11, [source.octets(), reached.octets()].concat()),
        (IpAddr::V6(source), IpAddr::V6(reached)) => (0x21, [source.octets(), reached.octets()].concat()),
        _ => panic!("two families"),
    };
    // A checksum and a no-op behind the ports, as proxies may add.
    let tlvs = [0x03, 0, 4, 1, 2, 3, 4, 0x04, 0, 2, 0, 0];
    header(0x21, family, &[&addresses[..], &[0x9c, 0x40, 0x01, 0xbb], &tlvs].concat())
}

fn from(source: &str) -> Vec<u8> {
    reaching(source, if source.contains(':') { "2001:db8::443" } else { "198.51.100.1" })
}

/// Sends `bytes` and hears nothing but the end.
async fn closed_without_a_word(world: &World, bytes: &[u8]) {
    let mut socket = TcpStream::connect(world.address()).await.unwrap();
    let _sent = socket.write_all(bytes).await.is_ok();
    let mut heard = Vec::new();
    let _reset = within(LONG, "it is closed", socket.read_to_end(&mut heard)).await.is_err();
    assert!(heard.is_empty(), "{heard:?}");
}

const UNTRUSTED: &str = "doorward_handshake_failures_total{reason=\"untrusted_proxy\"}";
const HEADER: &str = "doorward_handshake_failures_total{reason=\"proxy_header\"}";

/// Networks and records go by the header, whichever family it speaks; what a request says about
/// where it comes from still decides nothing.
#[tokio::test]
async fn the_caller_is_who_the_header_names() {
    let stub = Stub::chatty().await;
    let world = behind_proxy(&stub, "\"203.0.113.0/24\", \"2001:db8:7::/48\"").start().await;
    let caller = world.caller().key(&world.key("acme/x").await).certificate(&world.certificate("alice"));
    for (source, recorded) in
        [("203.0.113.7", "203.0.113.7"), ("2001:db8:7::9", "2001:db8:7::9"), ("::ffff:203.0.113.8", "203.0.113.8")]
    {
        for mut line in caller.clone().announced(from(source)).both().await {
            let answer = line.chat(&chat("llama")).await;
            answer.assert_served();
            let record = world.record(answer.request_id()).await;
            assert_eq!(
                (&record["client_ip"], &record["identity"]),
                (&recorded.into(), &"spiffe://corp.test/client/alice".into())
            );
        }
    }
    let spoofing = caller.header("x-forwarded-for", "203.0.113.7").header("forwarded", "for=203.0.113.7");
    let spoofing = spoofing.header("x-real-ip", "203.0.113.7").header("x-client-ip", "203.0.113.7");
    let before = stub.seen().len();
    for source in ["198.51.100.9", "127.0.0.1", "2001:db8:8::9", "::ffff:198.51.100.9"] {
        for mut line in spoofing.clone().announced(from(source)).both().await {
            let answer = line.chat(&chat("llama")).await;
            let record = answer.assert_refused(&world, 403, "network_not_allowed").await;
            let expected = source.trim_start_matches("::ffff:");
            assert_eq!(record["client_ip"], expected);
            assert!(answer.text().contains(expected));
        }
    }
    assert_eq!(stub.seen().len(), before);
}

/// With the setting on there is no other way in: what comes without a header of the right kind is
/// closed, unanswered, and counted.
#[tokio::test]
async fn the_header_is_mandatory() {
    let stub = Stub::chatty().await;
    let world = behind_proxy(&stub, "\"*\"").start().await;
    let key = world.key("acme/x").await;
    // TLS without a header.
    assert!(world.caller().tls(&["h2"]).await.is_err());
    let tcp4 = &from("203.0.113.7")[16..];
    let long = vec![0; 5000];
    let wrong = [
        b"PROXY TCP4 203.0.113.7 198.51.100.1 40000 443\r\n".to_vec(),
        b"GET / HTTP/1.1\r\nHost: llm.test\r\n\r\n".to_vec(),
        header(0x11, 0x11, tcp4),
        header(0x2f, 0x11, tcp4),
        header(0x21, 0x00, tcp4),
        header(0x21, 0x12, tcp4),
        header(0x21, 0x31, &[b'/'; 216]),
        header(0x21, 0x21, tcp4),
        header(0x21, 0x11, &tcp4[..8]),
        header(0x21, 0x11, &long),
        from("0.0.0.0"),
        // A second header is no TLS.
        header(0x11, 0x11, &from("203.0.113.7")),
    ];
    for bytes in &wrong {
        closed_without_a_word(&world, bytes).await;
    }
    world.metric_becomes(HEADER, 1.0 + f64::from(u8::try_from(wrong.len()).unwrap())).await;
    world.metric_becomes("doorward_connections", 0.0).await;
    // One that breaks off.
    let mut socket = TcpStream::connect(world.address()).await.unwrap();
    socket.write_all(&from("203.0.113.7")[..20]).await.unwrap();
    drop(socket);
    world.metric_becomes("doorward_handshake_failures_total{reason=\"peer_left\"}", 1.0).await;
    stub.assert_untouched();
    world.caller().key(&key).announced(from("203.0.113.7")).chat(&chat("llama")).await.assert_served();
}

/// A header that never comes to its end is bounded by the time for the handshake.
#[tokio::test]
async fn a_slow_header_ends_with_the_handshakes_time() {
    let stub = Stub::chatty().await;
    let world = behind_proxy(&stub, "\"*\"").start().await;
    let bytes = from("203.0.113.7");
    let silent = closed_without_a_word(&world, b"");
    let half = closed_without_a_word(&world, &bytes[..30]);
    let whole_and_silent = closed_without_a_word(&world, &bytes);
    tokio::join!(silent, half, whole_and_silent);
    world.metric_becomes("doorward_handshake_failures_total{reason=\"timed_out\"}", 3.0).await;
}

/// Who goes around the proxy finds nobody at home, with or without a header of its own making.
#[tokio::test]
async fn only_trusted_proxies_are_heard() {
    let stub = Stub::chatty().await;
    let world = behind_proxy(&stub, "\"*\"").start().await;
    let key = world.key("acme/x").await;
    let stranger = world.caller().key(&key).calling_from("127.0.0.2".parse().unwrap());
    assert!(stranger.tls(&["h2"]).await.is_err());
    assert!(stranger.clone().announced(from("203.0.113.7")).tls(&["h2"]).await.is_err());
    let mut probe = stranger.tcp().await.unwrap();
    let mut heard = Vec::new();
    let _reset = within(LONG, "it is closed", probe.read_to_end(&mut heard)).await.is_err();
    assert!(heard.is_empty());
    world.metric_becomes(UNTRUSTED, 3.0).await;
    stub.assert_untouched();
    stranger
        .calling_from("127.0.0.1".parse().unwrap())
        .announced(from("203.0.113.7"))
        .chat(&chat("llama"))
        .await
        .assert_served();
}

/// A proxy that only looks whether we are there leaves no trace, and is served as itself.
#[tokio::test]
async fn probes_are_silent() {
    let stub = Stub::chatty().await;
    let world = behind_proxy(&stub, "\"127.0.0.1\"").start().await;
    let key = world.key("acme/x").await;
    for sent in [
        Vec::new(),
        header(0x20, 0, b""),
        header(0x20, 0x11, &[0; 12]),
        [header(0x20, 0, b""), b"no TLS".to_vec()].concat(),
    ] {
        let mut socket = TcpStream::connect(world.address()).await.unwrap();
        socket.write_all(&sent).await.unwrap();
        // Some leave with a reset.
        socket2::SockRef::from(&socket).set_linger(sent.is_empty().then_some(Duration::ZERO)).unwrap();
        drop(socket);
    }
    let as_proxy = world.caller().key(&key).announced(header(0x20, 0x11, &from("203.0.113.7")[16..]));
    let answer = as_proxy.chat(&chat("llama")).await;
    answer.assert_served();
    // What a LOCAL header says beside is not believed.
    assert_eq!(world.record(answer.request_id()).await["client_ip"], "127.0.0.1");
    drop(answer);
    world.metric_becomes("doorward_connections", 0.0).await;
    let metrics = world.admin("/metrics").await;
    assert!(!metrics.contains("doorward_handshake_failures_total{"), "{metrics}");
    assert!(metrics.contains("doorward_connections_turned_away_total 0"), "{metrics}");
    world.all_records(1).await;
}

/// The bound for each address is for callers, not for the proxy that all of them come through.
#[tokio::test]
async fn connections_count_for_the_address_in_the_header() {
    let stub = Stub::chatty().await;
    let mut setup = behind_proxy(&stub, "\"*\"");
    setup.listen.push_str("\nmax_connections_per_address = 1");
    let world = setup.start().await;
    let caller = world.caller().key(&world.key("acme/x").await);
    let mut first = caller.clone().announced(from("203.0.113.7")).h1().await;
    first.chat(&chat("llama")).await.assert_served();
    let turned_away = "doorward_connections_turned_away_total";
    for same in ["203.0.113.7", "::ffff:203.0.113.7"] {
        assert!(caller.clone().announced(from(same)).tls(&["h2"]).await.is_err());
    }
    world.metric_becomes(turned_away, 2.0).await;
    let mut other = caller.clone().announced(from("203.0.113.8")).h1().await;
    other.chat(&chat("llama")).await.assert_served();
    drop(first);
    world.metric_becomes("doorward_connections", 1.0).await;
    caller.announced(from("203.0.113.7")).chat(&chat("llama")).await.assert_served();
}

/// A connection counts among all before a word of its header was said.
#[tokio::test]
async fn a_silent_proxy_connection_has_its_place() {
    let stub = Stub::chatty().await;
    let mut setup = behind_proxy(&stub, "\"*\"");
    setup.listen.push_str("\nmax_connections = 1");
    let world = setup.start().await;
    let caller = world.caller().key(&world.key("acme/x").await).announced(from("203.0.113.7"));
    let silent = TcpStream::connect(world.address()).await.unwrap();
    world.metric_becomes("doorward_connections", 1.0).await;
    assert!(caller.tls(&["h2"]).await.is_err());
    world.metric_becomes("doorward_connections_turned_away_total", 1.0).await;
    drop(silent);
    world.metric_becomes("doorward_connections", 0.0).await;
    caller.chat(&chat("llama")).await.assert_served();
}

/// Failures count for the address in the header: one bad caller does not use up the proxy's share.
#[tokio::test]
async fn failures_count_for_the_address_in_the_header() {
    let stub = Stub::chatty().await;
    let world = behind_proxy(&stub, "\"*\"").manual_clock().start().await;
    let guessing = world.caller().header("authorization", "Bearer nonsense");
    let mut line = guessing.clone().announced(from("203.0.113.7")).h1().await;
    for _ in 0..20 {
        line.chat(&chat("llama")).await.assert_refused(&world, 401, "invalid_credentials").await;
    }
    line.chat(&chat("llama")).await.assert_refused(&world, 429, "too_many_failures").await;
    let mut other = guessing.announced(from("203.0.113.8")).h1().await;
    other.chat(&chat("llama")).await.assert_refused(&world, 401, "invalid_credentials").await;
    stub.assert_untouched();
}

/// Without a server name, the address that the caller dialled is a host: the proxy's, not ours.
#[tokio::test]
async fn an_address_as_host_is_the_one_at_the_proxy() {
    let stub = Stub::chatty().await;
    let world = behind_proxy(&stub, "\"*\"").start().await;
    let key = world.key("acme/x").await;
    let nameless = world.caller().named("127.0.0.1");
    for (reached, host, status) in [
        ("198.51.100.1", "198.51.100.1", 200),
        ("198.51.100.1", "198.51.100.2", 421),
        ("198.51.100.1", "127.0.0.1", 421),
        ("127.0.0.1", "127.0.0.1", 200),
    ] {
        let mut line = nameless.clone().announced(reaching("203.0.113.7", reached)).raw().await;
        let request = format!("GET /v1/models HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {}\r\n\r\n", key.text);
        line.send(request).await;
        assert_eq!(line.answer().await.status, status, "{host} at {reached}");
    }
}

/// A reload turns it on and off, for new connections.
#[tokio::test]
async fn a_reload_decides_about_new_connections() {
    let stub = Stub::chatty().await;
    let mut world = Setup::new(&stub).start().await;
    let proxied = behind_proxy(&stub, "\"203.0.113.0/24\", \"127.0.0.0/8\"");
    let caller = world.caller().key(&world.key("acme/x").await);
    let mut open = caller.h1().await;
    open.chat(&chat("llama")).await.assert_served();
    // With a header, to a gateway that wants none.
    assert!(caller.clone().announced(from("203.0.113.7")).tls(&["h2"]).await.is_err());
    world.reload(&proxied.text());
    open.chat(&chat("llama")).await.assert_served();
    assert!(caller.tls(&["h2"]).await.is_err());
    caller.clone().announced(from("203.0.113.7")).chat(&chat("llama")).await.assert_served();
    world.reload(&proxied.text().replace("[\"127.0.0.1\"]", "[\"127.0.0.2\"]"));
    assert!(caller.clone().announced(from("203.0.113.7")).tls(&["h2"]).await.is_err());
    world.metric_becomes(UNTRUSTED, 1.0).await;
}

/// HAProxy, killed when it is dropped.
struct Haproxy(Child);

impl Drop for Haproxy {
    fn drop(&mut self) {
        if self.0.kill().is_ok() {
            assert!(self.0.wait().is_ok());
        }
    }
}

impl Haproxy {
    /// Starts it on `address` in front of `gateway`, with its commands at `socket`.
    fn start(dir: &Path, address: SocketAddr, gateway: SocketAddr, socket: &Path) -> Self {
        let program = ["/usr/sbin/haproxy", "/usr/local/sbin/haproxy", "/usr/bin/haproxy"];
        let program = program.into_iter().find(|path| Path::new(path).exists());
        let program = program.unwrap_or_else(|| panic!("this test needs HAProxy: apt-get install haproxy"));
        let config = dir.join("haproxy.cfg");
        let text = format!(
            "global\n  stats socket {} level admin\ndefaults\n  mode tcp\n  timeout connect 5s\n  timeout client 30s\n  timeout server 30s\n\
             frontend in\n  bind {address}\n  default_backend gateway\n\
             backend gateway\n  server plain {gateway} send-proxy-v2 check inter 20ms\n\
             \x20 server tls {gateway} send-proxy-v2 check check-ssl verify none inter 20ms weight 0\n",
            socket.display()
        );
        fs::write(&config, text).unwrap();
        let child = Command::new(program).arg("-db").arg("-f").arg(&config).spawn().unwrap();
        Self(child)
    }
}

/// What HAProxy says to a command.
async fn ask(socket: &Path, command: &str) -> std::io::Result<String> {
    let mut socket = UnixStream::connect(socket).await?;
    socket.write_all(format!("{command}\n").as_bytes()).await?;
    let mut said = String::new();
    socket.read_to_string(&mut said).await?;
    Ok(said)
}

/// A real proxy: callers' addresses and certificates come through, its health checks are silent,
/// and around it there is no way.
#[tokio::test]
async fn haproxy_hands_callers_on() {
    let stub = Stub::chatty().await;
    let world = behind_proxy(&stub, "\"127.0.0.5\"").start().await;
    let (address, socket) = (dead_port().await, world.dir.path().join("haproxy.sock"));
    let _proxy = Haproxy::start(world.dir.path(), address, world.address(), &socket);
    let caller = world.caller().key(&world.key("acme/x").await).certificate(&world.certificate("alice"));
    let through = caller.clone().through(address);
    let checked = async {
        loop {
            // Until it listens there, it says nothing.
            let said = ask(&socket, "show stat").await.unwrap_or_default();
            if said.contains(",L4OK,") && said.contains(",L6OK,") {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    within(LONG, "HAProxy finds the gateway healthy", checked).await;

    for mut line in through.clone().calling_from("127.0.0.5".parse().unwrap()).both().await {
        let answer = line.chat(&chat("llama")).await;
        answer.assert_served();
        let record = world.record(answer.request_id()).await;
        assert_eq!(
            (&record["client_ip"], &record["identity"]),
            (&"127.0.0.5".into(), &"spiffe://corp.test/client/alice".into())
        );
    }
    let answer = through.calling_from("127.0.0.6".parse().unwrap()).post(CHAT, &chat("llama")).await;
    let record = answer.assert_refused(&world, 403, "network_not_allowed").await;
    assert_eq!(record["client_ip"], "127.0.0.6");
    assert!(caller.calling_from("127.0.0.5".parse().unwrap()).tls(&["h2"]).await.is_err());

    let metrics = world.admin("/metrics").await;
    let failures: Vec<_> =
        metrics.lines().filter(|line| line.starts_with("doorward_handshake_failures_total{")).collect();
    assert_eq!(failures, [format!("{UNTRUSTED} 1")], "health checks are silent");
    world.all_records(3).await;
}

/// `doorward status` says when callers' addresses seem to be hidden, and takes it back.
#[tokio::test]
async fn status_warns_when_all_callers_share_an_address() {
    let stub = Stub::chatty().await;
    let process = Process::serve(&Setup::new(&stub)).await;
    // The verb reads the address from the config, where port 0 stands for any.
    let config = process.files.file.with_file_name("status.toml");
    let text = fs::read_to_string(&process.files.file).unwrap();
    let admin = format!("[admin]\naddress = \"{}\"", process.admin);
    fs::write(&config, text.replace("[admin]\naddress = \"127.0.0.1:0\"", &admin)).unwrap();
    let status = |format: &str| {
        let done = Command::new(env!("CARGO_BIN_EXE_doorward"))
            .args(["status", "--output", format, "--config"])
            .arg(&config)
            .output()
            .unwrap();
        assert!(done.status.success(), "{done:?}");
        (String::from_utf8(done.stdout).unwrap(), String::from_utf8(done.stderr).unwrap())
    };
    let shared = || {
        let (report, said) = status("json");
        let report: serde_json::Value = serde_json::from_str(&report).unwrap();
        let shared = report["callers_share_an_address"].as_bool().unwrap();
        assert_eq!(said.starts_with("warning: all callers come from one address"), shared, "{said}");
        assert_eq!(said.contains("\nhint: docs/addresses.md"), shared, "{said}");
        shared
    };
    let served = async |caller: Caller| {
        // A new key is in force within a second.
        within(LONG, "the key is in force", async { while caller.chat(&chat("llama")).await.status != 200 {} }).await;
    };
    let one = process.caller().key(&process.files.make_key("acme/one", None, &[], &[], &[]));
    let two = process.caller().key(&process.files.make_key("acme/two", None, &[], &[], &[]));
    assert!(!shared());
    served(one).await;
    assert!(!shared(), "one caller has one address");
    served(two.clone()).await;
    assert!(shared());
    assert_eq!(status("table").1.lines().count(), 2);
    served(two.calling_from("127.0.0.2".parse().unwrap())).await;
    assert!(!shared());
}

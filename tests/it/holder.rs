//! The holder's side, as programs: a gateway, `enroll join`, `cert renew` and `dial`, each a process of its own.

use std::fs::{self, File};
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{CHAT, LONG, Process, Setup, Stub, chat, dead_port, until, within};

/// The program, in a directory.
fn doorward(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_doorward"));
    command.current_dir(dir).env_remove("DOORWARD_CONFIG").env_remove("DOORWARD_BUNDLE").stdin(Stdio::null());
    command
}

/// Runs it; what it printed, when it succeeded.
#[track_caller]
fn done(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}\n{}", stderr(&output));
    String::from_utf8(output.stdout).unwrap()
}

/// Runs it; what it said, when it failed as it should.
#[track_caller]
fn failed(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{command:?}\n{}", stderr(&output));
    assert_eq!(output.stdout, b"", "a failure has no result");
    stderr(&output)
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

impl Process {
    fn bundle(&self, name: &str, role: &str, more: &[&str]) -> String {
        let state = self.files.file.display().to_string();
        let mut command = doorward(self.files.dir.path());
        command.args(["enroll", "create", name, "--role", role, "--config", &state]).args(more);
        if !more.contains(&"--address") {
            command.args(["--address", &self.address.to_string()]);
        }
        done(&mut command).trim().to_owned()
    }
}

async fn gateway() -> (Stub, Process) {
    let stub = Stub::chatty().await;
    let process = Process::serve(&Setup::new(&stub)).await;
    (stub, process)
}

fn mode(path: PathBuf) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn a_bundle_becomes_files_once() {
    let (_stub, gateway) = gateway().await;
    let dir = tempfile::tempdir().unwrap();
    let bundle = gateway.bundle("alice", "client", &[]);
    let join = |out: &str| {
        let mut command = doorward(dir.path());
        command.args(["enroll", "join", &bundle, "--out", out]);
        command
    };
    let shown: Value = serde_json::from_str(&done(join("alice").args(["--output", "json"]))).unwrap();
    assert_eq!(shown["identity"], "spiffe://corp.test/client/alice");
    let at = |name: &str| dir.path().join("alice").join(name);
    assert_eq!([mode(at("alice.key")), mode(at("alice.crt")), mode(at("ca.crt"))], [0o600, 0o644, 0o644]);
    let origin = fs::read_to_string(at("gateway.toml")).unwrap();
    assert!(origin.contains(&gateway.address.to_string()) && origin.contains("enroll.test"), "{origin}");
    // Again into the same place: nothing is asked. Elsewhere: it was used.
    assert!(failed(&mut join("alice")).contains("exists already"));
    let said = failed(&mut join("other"));
    assert!(said.contains("invalid_enrollment") && said.contains("hint: a bundle works once"), "{said}");
    assert!(!dir.path().join("other").join("alice.key").exists());
    // From a file, from stdin and from the environment.
    for way in ["file", "-", "environment"] {
        let bundle = gateway.bundle(&format!("by-{}", way.len()), "client", &[]);
        let mut command = doorward(dir.path());
        command.args(["enroll", "join", "--out", way]);
        match way {
            "file" => {
                fs::write(dir.path().join("bundle"), format!("{bundle}\n")).unwrap();
                command.arg("bundle");
            }
            "environment" => {
                command.env("DOORWARD_BUNDLE", &bundle);
            }
            _ => {
                let mut child = command.arg("-").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
                child.stdin.take().unwrap().write_all(bundle.as_bytes()).unwrap();
                assert!(child.wait().unwrap().success());
                continue;
            }
        }
        assert!(done(&mut command).contains("  file/by-4.key") || way != "file");
    }
}

#[tokio::test]
async fn what_is_wrong_with_a_bundle_is_said() {
    let (_stub, gateway) = gateway().await;
    let (_other_stub, stranger) = self::gateway().await;
    let dir = tempfile::tempdir().unwrap();
    let join = |bundle: &str| failed(doorward(dir.path()).args(["enroll", "join", bundle, "--out", "out"]));
    let good = gateway.bundle("alice", "client", &[]);
    assert!(join(&good[..good.len() - 5]).contains("damaged"));
    assert!(join("dwe9.AAAA").contains("another version"));
    assert!(join("no-such-file").contains("hint: "));
    // Of another gateway, at this address: the pin is another one.
    let foreign = stranger.bundle("alice", "client", &["--address", &gateway.address.to_string()]);
    let said = join(&foreign);
    assert!(said.contains("does not come from the root") && said.contains("nothing was sent"), "{said}");
    let dead = dead_port().await.to_string();
    let nowhere = gateway.bundle("alice", "client", &["--address", &dead, "--address", "nowhere.invalid:1"]);
    let said = join(&nowhere);
    assert!(said.contains(&dead) && said.contains("nowhere.invalid") && said.contains("hint: "), "{said}");
    // A clock is called by its name: see the tests beside the code. Revoked is like used.
    let id: Value = serde_json::from_str(&done(doorward(dir.path()).args([
        "enroll",
        "list",
        "--output",
        "json",
        "--config",
        &gateway.files.file.display().to_string(),
    ])))
    .unwrap();
    for bundle in id.as_array().unwrap() {
        let config = gateway.files.file.display().to_string();
        done(doorward(dir.path()).args(["enroll", "revoke", bundle["id"].as_str().unwrap(), "--config", &config]));
    }
    assert!(join(&good).contains("invalid_enrollment"));
    assert!(!dir.path().join("out").join("alice.key").exists());
    for said in [join(&foreign), join(&good)] {
        assert!(!said.contains(&good[5..40]) && !said.contains(&foreign[5..40]), "{said}");
    }
}

#[tokio::test]
async fn a_certificate_is_renewed_by_its_holder_until_it_is_revoked() {
    let (_stub, gateway) = gateway().await;
    let dir = tempfile::tempdir().unwrap();
    done(doorward(dir.path()).args(["enroll", "join", &gateway.bundle("alice", "client", &[]), "--out", "alice"]));
    let file = |name: &str| fs::read_to_string(dir.path().join("alice").join(name)).unwrap();
    let before = (file("alice.key"), file("alice.crt"));
    let renew = || {
        let mut command = doorward(dir.path());
        command.args(["cert", "renew", "--dir", "alice"]);
        command
    };
    let said = done(&mut renew());
    assert!(said.contains("spiffe://corp.test/client/alice until "), "{said}");
    assert!(file("alice.key") != before.0 && file("alice.crt") != before.1);
    assert_eq!(mode(dir.path().join("alice/alice.key")), 0o600);
    // A new root arrives with the next one.
    let config = gateway.files.file.display().to_string();
    assert_eq!(file("ca.crt").matches("BEGIN CERTIFICATE").count(), 1);
    done(doorward(dir.path()).args(["ca", "rotate", "--root", "--config", &config]));
    until(LONG, "the gateway issues with the new root", || {
        done(&mut renew());
        (file("ca.crt").matches("BEGIN CERTIFICATE").count() == 2).then_some(())
    })
    .await;
    done(&mut renew());
    // Without gateway.toml it must be said where.
    fs::rename(dir.path().join("alice/gateway.toml"), dir.path().join("saved")).unwrap();
    assert!(failed(&mut renew()).contains("--enroll-name"));
    let address = gateway.address.to_string();
    done(renew().args(["--gateway", &address, "--enroll-name", "enroll.test"]));
    fs::rename(dir.path().join("saved"), dir.path().join("alice/gateway.toml")).unwrap();
    done(doorward(dir.path()).args(["cert", "revoke", "--name", "alice", "--config", &config]));
    let said = until(LONG, "the revocation is in force", || {
        let output = renew().output().unwrap();
        (!output.status.success()).then(|| stderr(&output))
    })
    .await;
    assert!(said.contains("revoked") && said.contains("hint: only a new bundle helps"), "{said}");
    let kept = (file("alice.key"), file("alice.crt"));
    failed(&mut renew());
    assert!((file("alice.key"), file("alice.crt")) == kept, "a refusal changes nothing");
}

/// `doorward dial`. Killed when it is dropped.
struct Running {
    child: Child,
    log: PathBuf,
    listen: SocketAddr,
}

impl Running {
    async fn start(dir: &Path, log: &str, arguments: &[&str], bundle: Option<&str>) -> Self {
        let log = dir.join(log);
        let mut command = doorward(dir);
        command.arg("dial").args(arguments).stderr(File::create(&log).unwrap());
        if let Some(bundle) = bundle {
            command.env("DOORWARD_BUNDLE", bundle);
        }
        let mut child = command.spawn().unwrap();
        let listen = until(LONG, "it serves", || {
            let text = fs::read_to_string(&log).unwrap();
            assert!(child.try_wait().unwrap().is_none(), "{text}");
            let line = text.lines().find(|line| line.contains(" serving "))?;
            line.split("listen=http://").nth(1)?.split(' ').next()?.parse().ok()
        })
        .await;
        Self { child, log, listen }
    }

    async fn ask(&self, credential: &str) -> String {
        let mut stream = TcpStream::connect(self.listen).await.unwrap();
        let body = chat("llama");
        let request = format!(
            "POST {CHAT} HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {credential}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            self.listen,
            body.len()
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        within(LONG, "it answers", stream.read_to_string(&mut answer)).await.unwrap();
        answer
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.child.kill().is_ok() {
            assert!(self.child.wait().is_ok());
        }
    }
}

/// The whole way of a tool's user: one bundle, one line, and the environment for tools.
#[tokio::test]
async fn dial_begins_with_a_bundle_and_goes_on_without() {
    let (_stub, gateway) = gateway().await;
    let dir = tempfile::tempdir().unwrap();
    let bundle = gateway.bundle("alice", "client", &[]);
    let listen = dead_port().await.to_string();
    let arguments = ["--listen", listen.as_str()];
    let environment = done(doorward(dir.path()).arg("dial").args(arguments).arg("--print-env"));
    let variable = |name: &str| {
        let line =
            environment.lines().find_map(|line| line.strip_prefix("export ")?.strip_prefix(name)?.strip_prefix('='));
        line.unwrap().trim_matches('\'').to_owned()
    };
    let token = variable("OPENAI_API_KEY");
    assert_eq!(variable("OPENAI_BASE_URL"), format!("http://{listen}/v1"));
    assert_eq!((variable("OLLAMA_HOST"), variable("ANTHROPIC_API_KEY")), (format!("http://{listen}"), token.clone()));
    assert_eq!(mode(dir.path().join("dial-state/dial.token")), 0o600);
    let mut dial = Running::start(dir.path(), "first", &arguments, Some(&bundle)).await;
    assert!(dial.ask(&token).await.starts_with("HTTP/1.1 200"));
    assert!(dial.ask("sk-x").await.starts_with("HTTP/1.1 401"));
    // SIGTERM ends it gently.
    let id = dial.child.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
    let status = until(LONG, "it ends", || dial.child.try_wait().unwrap()).await;
    assert!(status.success());
    let log = fs::read_to_string(&dial.log).unwrap();
    assert!(!log.contains(&token) && !log.contains(&bundle), "{log}");
    drop(dial);
    // The same line again: the identity is there, and the bundle is used up.
    let again = Running::start(dir.path(), "second", &arguments, Some(&bundle)).await;
    assert!(again.ask(&token).await.starts_with("HTTP/1.1 200"));
    drop(again);
    // And as a config file.
    let (address, state) = (gateway.address, dir.path().join("dial-state"));
    let text = format!(
        "state_dir = {state:?}\nlisten = \"127.0.0.1:0\"\ntoken = false\ngateway = {{ address = \"{address}\", name = \"llm.test\" }}\n"
    );
    fs::write(dir.path().join("mine.toml"), text).unwrap();
    let third = Running::start(dir.path(), "third", &["--config", "mine.toml"], None).await;
    assert!(third.ask("whatever").await.starts_with("HTTP/1.1 200"));
    assert!(fs::read_to_string(&third.log).unwrap().contains("every user of this machine"));
}

#[tokio::test]
async fn dial_does_not_start_with_what_cannot_work() {
    let (_stub, gateway) = gateway().await;
    let dir = tempfile::tempdir().unwrap();
    let dial = |arguments: &[&str]| failed(doorward(dir.path()).arg("dial").args(arguments));
    assert!(dial(&["--listen", "127.0.0.1:0"]).contains("hint: the first start needs a bundle"));
    assert!(dial(&["--listen", "0.0.0.0:1"]).contains("other machines"));
    let bundle = gateway.bundle("site-a", "connector", &[]);
    done(doorward(dir.path()).args(["enroll", "join", &bundle, "--out", "site-a"]));
    assert!(dial(&["--certificate", "site-a", "--listen", "127.0.0.1:0"]).contains("is no client"));
    // Neither a bundle for another role nor a port that is taken costs the bundle.
    let bundle = gateway.bundle("site-b", "connector", &[]);
    assert!(dial(&["--bundle", &bundle, "--listen", "127.0.0.1:0"]).contains("is for the connector site-b"));
    done(doorward(dir.path()).args(["enroll", "join", &bundle, "--out", "site-b"]));
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let bundle = gateway.bundle("alice", "client", &[]);
    assert!(dial(&["--bundle", &bundle, "--listen", &address]).contains("cannot listen"));
    drop(taken);
    let dial = Running::start(dir.path(), "log", &["--listen", &address, "--no-token"], Some(&bundle)).await;
    assert!(dial.ask("x").await.starts_with("HTTP/1.1 200"));
}

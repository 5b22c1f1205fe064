//! The command line as people see it: transcripts in `tests/cli/`, and what needs both streams apart, a value of an
//! earlier command, or a backend.
//!
//! `TRYCMD=overwrite cargo test --test cli` writes the transcripts anew; look at the difference.

#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a failed set-up is a failed test")]

#[path = "cli/certs.rs"]
mod certs;
#[path = "cli/faults.rs"]
mod faults;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread;

use serde_json::Value;
use tempfile::TempDir;

/// Every transcript, word for word.
#[test]
fn transcripts() {
    trycmd::TestCases::new().env("COLUMNS", "100").env("DOORWARD_CONFIG", "").case("tests/cli/*.trycmd").run();
}

#[test]
fn a_secret_is_on_stdout_once_and_nowhere_else() {
    let dir = tempfile::tempdir().unwrap();
    let made = run(dir.path(), &["key", "create", "--owner", "acme/alice"]);
    let (key, said) = (stdout(&made), stderr(&made));
    let id = key.strip_prefix("dw_").unwrap().split_once('_').unwrap().0.to_owned();
    assert_eq!(key.trim().len(), "dw_".len() + 12 + 1 + 43 + 6, "{key}");
    assert_eq!(key.lines().count(), 1, "{key}");
    assert!(said.contains("never expires"), "{said}");
    assert!(!said.contains(&id), "{said}");
    for format in ["table", "json"] {
        let listed = stdout(&run(dir.path(), &["key", "list", "--output", format]));
        assert!(listed.contains(&id), "{listed}");
        assert!(!listed.contains("dw_"), "{listed}");
    }
}

#[test]
fn a_key_is_revoked_once() {
    let dir = tempfile::tempdir().unwrap();
    let made = run(dir.path(), &["key", "create", "--owner", "acme/alice", "--expires", "1h", "--output", "json"]);
    assert_eq!(stderr(&made), "", "a document and nothing beside it");
    let made: Value = serde_json::from_slice(&made.stdout).unwrap();
    let id = made["id"].as_str().unwrap();
    assert_eq!(stdout(&run(dir.path(), &["key", "revoke", id])), format!("{id} is revoked\n"));
    let listed = |state: &str| {
        let keys: Value =
            serde_json::from_slice(&run(dir.path(), &["key", "list", "--output", "json"]).stdout).unwrap();
        assert_eq!(keys[0]["state"], state);
        keys[0]["revoked_at"].clone()
    };
    let revoked_at = listed("revoked");
    assert_eq!(stdout(&run(dir.path(), &["key", "revoke", id])), format!("{id} was revoked before\n"));
    assert_eq!(listed("revoked"), revoked_at);
}

#[test]
fn a_certificate_is_revoked_by_its_serial_number() {
    let dir = tempfile::tempdir().unwrap();
    run(dir.path(), &["ca", "init", "--trust-domain", "corp.example"]);
    let out = dir.path().join("certs").display().to_string();
    let issued = run(dir.path(), &["cert", "issue", "alice", "--out", &out, "--output", "json"]);
    let issued: Value = serde_json::from_slice(&issued.stdout).unwrap();
    let serial = issued["serial"].as_str().unwrap();
    let mode = |field: &str| fs::metadata(issued[field].as_str().unwrap()).unwrap().mode() & 0o777;
    assert_eq!((mode("key_file"), mode("certificate"), mode("ca")), (0o600, 0o644, 0o644));
    let crl = || {
        let list = dir.path().join("list.pem");
        run(dir.path(), &["ca", "crl", "--out", list.to_str().unwrap()]);
        let shown = Command::new("openssl").args(["crl", "-noout", "-text", "-in"]).arg(list).output().unwrap();
        let text = String::from_utf8(shown.stdout).unwrap();
        let date = text.lines().find(|line| line.contains("Revocation Date")).unwrap().trim().to_owned();
        (date, text.contains("Key Compromise"), text.contains("Superseded"))
    };
    let revoke = |reason| stdout(&run(dir.path(), &["cert", "revoke", "--serial", serial, "--reason", reason]));
    assert_eq!(revoke("superseded"), format!("{serial} is revoked\n"));
    let (date, compromised, superseded) = crl();
    assert!(superseded && !compromised);
    assert_eq!(revoke("unspecified"), format!("{serial} was revoked before\n"));
    let learnt = format!("{serial} was revoked before; its key counts as compromised from now on\n");
    assert_eq!(revoke("key-compromise"), learnt);
    assert_eq!(crl(), (date, true, false), "the date stays, the list says the new reason");
    assert_eq!(revoke("key-compromise"), format!("{serial} was revoked before\n"));
    let listed: Value = serde_json::from_slice(&run(dir.path(), &["cert", "list", "--output", "json"]).stdout).unwrap();
    assert_eq!((&listed[0]["state"], &listed[0]["reason"]), (&"revoked".into(), &"key-compromise".into()));
}

#[test]
fn a_damaged_store_is_found_out() {
    let dir = tempfile::tempdir().unwrap();
    for _ in 0..40 {
        run(dir.path(), &["key", "create", "--owner", "acme/alice", "--expires", "1h", "--note", &"n".repeat(900)]);
    }
    let sound = run_with(dir.path(), &["store", "check", "--state", "state", "--output", "json"]);
    let sound: Value = serde_json::from_slice(&sound.stdout).unwrap();
    assert_eq!((&sound["keys"], &sound["faults"]), (&40.into(), &serde_json::json!([])));
    // One page of the keys is overwritten, as by a disk that forgot it.
    let file = dir.path().join("state/doorward.db");
    let mut bytes = fs::read(&file).unwrap();
    let at = bytes.windows(900).position(|window| window == "n".repeat(900).as_bytes()).unwrap() / 4096 * 4096;
    bytes[at..at + 4096].fill(0);
    fs::write(&file, bytes).unwrap();
    let checked = run_with(dir.path(), &["store", "check", "--state", "state"]);
    assert_eq!(checked.status.code(), Some(1));
    assert!(stderr(&checked).contains("hint: "), "{}", stderr(&checked));
}

#[test]
fn up_without_a_backend_makes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let port = free_ports();
    let done = doorward(dir.path())
        .args(["up", "--state", "state", "--listen", &port.to_string(), "--backend", "http://127.0.0.1:1"])
        .output()
        .unwrap();
    assert_eq!(done.status.code(), Some(1));
    assert!(stderr(&done).starts_with("error: no inference server at http://127.0.0.1:1: "), "{}", stderr(&done));
    assert!(stderr(&done).contains("\nhint: "), "{}", stderr(&done));
    assert_eq!(stdout(&done), "");
    assert!(!dir.path().join("state").exists());
}

#[test]
fn up_makes_nothing_when_its_port_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    let backend = backend();
    let taken = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let done = doorward(dir.path())
        .args(["up", "--state", "state", "--listen", &taken.local_addr().unwrap().to_string(), "--backend", &backend])
        .output()
        .unwrap();
    assert_eq!(done.status.code(), Some(1));
    let said = stderr(&done);
    assert!(said.starts_with(&format!("error: cannot listen on {}: ", taken.local_addr().unwrap())), "{said}");
    assert!(said.contains("\nhint: another process has the port"), "{said}");
    assert!(!dir.path().join("state").exists());
}

#[test]
fn up_run_again_changes_nothing() {
    let (dir, backend, address) = (tempfile::tempdir().unwrap(), backend(), free_ports());
    let first = up(&dir, &backend, address);
    let status = run_with(dir.path(), &["status", "--config", "state/doorward.toml", "--output", "json"]);
    let status: Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!((&status["ready"], &status["keys"]), (&true.into(), &1.into()));
    let said = first.end();
    let before = tree(&dir.path().join("state"));
    assert!(before.len() >= 12, "{before:?}");

    let second = up(&dir, &backend, address);
    assert_eq!(second.ready, said);
    assert_eq!(tree(&dir.path().join("state")), before);
    second.end();
    assert_eq!(tree(&dir.path().join("state")), before);

    let status = run_with(dir.path(), &["status", "--config", "state/doorward.toml"]);
    assert_eq!(status.status.code(), Some(1));
    assert!(stderr(&status).contains("\nhint: start it with `doorward serve`\n"), "{}", stderr(&status));
}

/// The set-up goes: store, authority, certificate, key, config. Whatever is there already is kept.
#[test]
fn an_interrupted_up_is_taken_up_again() {
    let (dir, backend, address) = (tempfile::tempdir().unwrap(), backend(), free_ports());
    let whole = up(&dir, &backend, address).end();
    let state = dir.path().join("state");
    let authority = fs::read(state.join("ca/root.crt")).unwrap();
    let steps: [&[&str]; 5] = [
        &["doorward.toml"],
        &["doorward.toml", "client/api-key"],
        &["doorward.toml", "client/api-key", "client/ca.crt"],
        &["doorward.toml", "client/api-key", "client/ca.crt", "client/me.crt"],
        &["doorward.toml", "client/api-key", "client/ca.crt", "client/me.crt", "client/me.key"],
    ];
    for missing in steps {
        for file in missing {
            fs::remove_file(state.join(file)).unwrap();
        }
        fs::write(state.join("client/.me.key.new"), "half a key").unwrap();
        assert_eq!(up(&dir, &backend, address).end(), whole, "without {missing:?}");
        let certificate = fs::read_to_string(state.join("client/me.crt")).unwrap();
        assert!(certificate.starts_with("-----BEGIN CERTIFICATE-----"));
    }
    assert_eq!(fs::read(state.join("ca/root.crt")).unwrap(), authority);
}

/// A gateway that `doorward up` set up and serves.
struct Up {
    child: Child,
    ready: Value,
}

fn up(dir: &TempDir, backend: &str, address: SocketAddr) -> Up {
    let mut command = doorward(dir.path());
    command.args(["up", "--state", "state", "--output", "json"]).stdout(Stdio::piped());
    if !dir.path().join("state/doorward.toml").exists() {
        command.args(["--listen", &address.to_string(), "--backend", backend]);
    }
    let mut up = Up { child: command.spawn().unwrap(), ready: Value::Null };
    let mut document = String::new();
    for line in BufReader::new(up.child.stdout.as_mut().unwrap()).lines() {
        document.push_str(&line.unwrap());
        if let Ok(ready) = serde_json::from_str(&document) {
            up.ready = ready;
            return up;
        }
    }
    panic!("up ended before it was ready: {document}");
}

impl Up {
    /// Ends it with SIGTERM, and gives what it had printed.
    fn end(mut self) -> Value {
        let told = Command::new("kill").arg(self.child.id().to_string()).status().unwrap();
        assert!(told.success());
        assert_eq!(self.child.wait().unwrap().code(), Some(0));
        self.ready.take()
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        // Over already, unless the test failed.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A server that lists one model, as Ollama and vLLM do.
fn backend() -> String {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        for connection in listener.incoming() {
            let mut connection = connection.unwrap();
            let mut head = [0; 1024];
            let read = connection.read(&mut head).unwrap();
            let (status, body) = if head[..read].starts_with(b"GET /v1/models ") {
                ("200 OK", r#"{"object":"list","data":[{"id":"tiny","object":"model","owned_by":"vllm"}]}"#)
            } else {
                ("404 Not Found", "{}")
            };
            let reply = format!(
                "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                body.len()
            );
            connection.write_all(reply.as_bytes()).unwrap();
        }
    });
    url
}

/// An address whose port and the next one, the admin listener's, are free. They are below those that the kernel gives
/// to others, and each process and test looks in another place.
fn free_ports() -> SocketAddr {
    static TAKEN: AtomicU16 = AtomicU16::new(0);
    let begin = u16::try_from(std::process::id() % 1_000).unwrap() * 10;
    loop {
        let port = 15_000 + begin + TAKEN.fetch_add(2, Ordering::Relaxed);
        if [port, port + 1].iter().all(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()) {
            return ([127, 0, 0, 1], port).into();
        }
    }
}

/// Inode, mode and content of everything in the state directory but SQLite's side files, the records and the socket.
fn tree(dir: &Path) -> BTreeMap<String, (u64, u32, Vec<u8>)> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.display().to_string();
        if ["-wal", "-shm", "records.jsonl", "admin.sock"].iter().any(|end| name.ends_with(end)) {
            continue;
        }
        let metadata = fs::metadata(&path).unwrap();
        if metadata.is_dir() {
            found.extend(tree(&path));
        }
        let content = if metadata.is_dir() { Vec::new() } else { fs::read(&path).unwrap() };
        found.insert(name, (metadata.ino(), metadata.mode(), content));
    }
    found
}

fn doorward(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_doorward"));
    command.current_dir(dir).env_remove("DOORWARD_CONFIG").stdin(Stdio::null());
    command
}

/// Runs a verb on the state directory `state`, and expects it to succeed.
fn run(dir: &Path, arguments: &[&str]) -> Output {
    let done = doorward(dir).args(arguments).args(["--state", "state"]).output().unwrap();
    assert!(done.status.success(), "{arguments:?}: {}", stderr(&done));
    done
}

fn run_with(dir: &Path, arguments: &[&str]) -> Output {
    doorward(dir).args(arguments).output().unwrap()
}

fn stdout(done: &Output) -> String {
    String::from_utf8(done.stdout.clone()).unwrap()
}

fn stderr(done: &Output) -> String {
    String::from_utf8(done.stderr.clone()).unwrap()
}

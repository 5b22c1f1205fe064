//! Sessions that a client saves, by openssl: none is taken up again, so a certificate that was
//! revoked since is looked at again, whichever version of TLS it is.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use rustls_pki_types::PrivateKeyDer;

use crate::support::{Issued, Setup, Stub, World};

/// Writes what openssl needs.
fn files(world: &World, issued: &Issued, dir: &Path) {
    let write = |name: &str, kind: &str, ders: &[&[u8]]| {
        let mut text = String::new();
        for der in ders {
            let mut child =
                Command::new("openssl").arg("base64").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
            child.stdin.take().unwrap().write_all(der).unwrap();
            let body = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
            text.push_str(&format!("-----BEGIN {kind}-----\n{body}-----END {kind}-----\n"));
        }
        std::fs::write(dir.join(name), text).unwrap();
    };
    let chain: Vec<&[u8]> = issued.leaf.chain.iter().map(AsRef::as_ref).collect();
    write("chain.pem", "CERTIFICATE", &chain);
    let PrivateKeyDer::Pkcs8(key) = &issued.leaf.key else { panic!("not PKCS#8") };
    write("key.pem", "PRIVATE KEY", &[key.secret_pkcs8_der()]);
    let roots = world.authority.roots();
    write("ca.pem", "CERTIFICATE", &roots.iter().map(AsRef::as_ref).collect::<Vec<_>>());
}

/// Asks over a new connection; gives all that openssl says of it, the answer included.
async fn ask(world: &World, dir: &Path, version: &str, session: &[&str]) -> String {
    let mut command = Command::new("timeout");
    command
        .args(["20", "openssl", "s_client", "-ign_eof", version, "-connect", &world.address().to_string()])
        .args(["-servername", "llm.test", "-CAfile", "ca.pem", "-verify_return_error"])
        .args(["-cert", "chain.pem", "-cert_chain", "chain.pem", "-key", "key.pem"])
        .args(session)
        .current_dir(dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let done = tokio::task::spawn_blocking(move || {
        let mut child = command.spawn().unwrap();
        let request = b"GET /v1/models HTTP/1.1\r\nHost: llm.test\r\nConnection: close\r\n\r\n";
        child.stdin.take().unwrap().write_all(request).unwrap();
        child.wait_with_output().unwrap()
    });
    let done = done.await.unwrap();
    format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr))
}

#[tokio::test]
async fn a_saved_session_is_no_way_around_a_revocation() {
    let stub = Stub::chatty().await;
    let world = Setup::new(&stub).listen("min_version = \"1.2\"").start().await;
    for (version, spoken) in [("-tls1_3", "TLSv1.3"), ("-tls1_2", "TLSv1.2")] {
        let name = format!("alice{}", version.replace('_', "-"));
        let alice = world.certificate(&name);
        let dir = tempfile::tempdir().unwrap();
        files(&world, &alice, dir.path());
        let first = ask(&world, dir.path(), version, &["-sess_out", "session"]).await;
        assert!(first.contains("HTTP/1.1 200") && first.contains(&format!("New, {spoken}")), "{first}");
        assert!(!first.contains("New Session Ticket arrived"), "{first}");

        // Of TLS 1.3 there is nothing to save; of 1.2 openssl saves what cannot be taken up.
        let saved = dir.path().join("session").exists();
        assert!(!(saved && spoken == "TLSv1.3"), "a ticket was given out");
        let again = ["-sess_in", "session"];
        let session: &[&str] = if saved { &again } else { &[] };
        let second = ask(&world, dir.path(), version, session).await;
        assert!(second.contains("HTTP/1.1 200") && second.contains(&format!("New, {spoken}")), "{second}");
        assert!(!second.contains("Reused"), "{second}");

        let before = world.generation();
        world.revoke_certificate(&alice.serial);
        world.changed_since(before).await;
        let third = ask(&world, dir.path(), version, session).await;
        assert!(third.contains("HTTP/1.1 401") && third.contains(&format!("New, {spoken}")), "{third}");
        assert!(!third.contains("Reused"), "{third}");
    }
}

/// The same with a session of a real one: that this openssl would resume, if it were let.
#[tokio::test]
async fn the_client_would_resume_if_it_could() {
    let stub = Stub::chatty().await;
    let world = World::open(&stub).await;
    let alice = world.certificate("alice");
    let dir = tempfile::tempdir().unwrap();
    files(&world, &alice, dir.path());
    let mut server = Command::new("openssl")
        .args(["s_server", "-accept", "127.0.0.1:0", "-www", "-cert", "chain.pem", "-key", "key.pem"])
        .current_dir(dir.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(server.stdout.take().unwrap()));
    let address = lines.find_map(|line| line.unwrap().strip_prefix("ACCEPT ").map(str::to_owned)).unwrap();
    let drain = std::thread::spawn(move || lines.count());
    let client = |session: [&'static str; 2]| {
        let done = Command::new("sh")
            .args([
                "-c",
                r#"printf 'GET / HTTP/1.0\r\n\r\n' | timeout 20 openssl s_client -ign_eof -connect "$@""#,
                "sh",
                &address,
            ])
            .args(session)
            .current_dir(dir.path())
            .output()
            .unwrap();
        String::from_utf8_lossy(&done.stdout).into_owned()
    };
    let (first, second) = (client(["-sess_out", "other"]), client(["-sess_in", "other"]));
    server.kill().unwrap();
    server.wait().unwrap();
    drain.join().unwrap();
    assert!(first.contains("New, TLSv1.3") && second.contains("Reused, TLSv1.3"), "{first}\n{second}");
}

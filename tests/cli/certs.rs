//! Certificates from the command line, judged by openssl and curl.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use super::{doorward, run_with, stderr, stdout};

fn openssl(dir: &Path, arguments: &str) -> Output {
    let output = Command::new("openssl").args(arguments.split(' ')).current_dir(dir).output().unwrap();
    assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

fn authority(dir: &Path) {
    run(dir, &["ca", "init", "--trust-domain", "corp.example"]);
}

/// A verb on a state directory; it may fail.
fn run(dir: &Path, arguments: &[&str]) -> Output {
    run_with(dir, &[arguments, &["--state", "state"]].concat())
}

#[test]
fn a_request_gets_the_name_that_the_operator_gives_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    authority(dir);
    let greedy = "-subj /CN=root -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign \
                  -addext extendedKeyUsage=serverAuth,codeSigning -addext subjectAltName=URI:spiffe://corp.example/operator/root,DNS:*.corp.example";
    openssl(
        dir,
        &format!("req -new -newkey ec -pkeyopt ec_paramgen_curve:P-384 -nodes -keyout ci.key -out ci.csr {greedy}"),
    );
    let out = dir.join("certs");
    let arguments = ["cert", "issue", "ci", "--csr", "ci.csr", "--out", "certs", "--output", "json"];
    let issued: Value = serde_json::from_slice(&run(dir, &arguments).stdout).unwrap();
    assert_eq!(issued["identity"], "spiffe://corp.example/client/ci");
    assert!(issued.get("key_file").is_none() && !out.join("ci.key").exists());

    openssl(&out, "verify -x509_strict -purpose sslclient -CAfile ca.crt -untrusted ci.crt ci.crt");
    let text = stdout(&openssl(&out, "x509 -in ci.crt -noout -text"));
    assert!(text.contains("URI:spiffe://corp.example/client/ci\n") && text.contains("Subject: CN = ci\n"), "{text}");
    for foreign in ["operator", "DNS:", "CA:TRUE", "Server Auth", "Code Signing", "Certificate Sign", "root\n"] {
        let about_itself = text.replace("Issuer: CN = corp.example issuer", "");
        assert!(!about_itself.contains(foreign), "{foreign}: {text}");
    }
    // It is for that key.
    let theirs = stdout(&openssl(dir, "pkey -in ci.key -pubout"));
    assert_eq!(stdout(&openssl(&out, "x509 -in ci.crt -noout -pubkey")), theirs);

    // The key of a request may lie where the certificate goes.
    fs::copy(dir.join("ci.key"), out.join("ci2.key")).unwrap();
    assert!(run(dir, &["cert", "issue", "ci2", "--csr", "ci.csr", "--out", "certs"]).status.success());
    let again = run(dir, &["cert", "issue", "ci2", "--csr", "ci.csr", "--out", "certs"]);
    assert!(stderr(&again).contains("ci2.crt exists already"), "{}", stderr(&again));

    // A compromised key is never certified again, whatever the name.
    let serial = issued["serial"].as_str().unwrap();
    run(dir, &["cert", "revoke", "--serial", serial, "--reason", "key-compromise"]);
    let refused = run(dir, &["cert", "issue", "ci3", "--csr", "ci.csr", "--out", "certs"]);
    assert!(stderr(&refused).contains("compromised"), "{}", stderr(&refused));
    assert!(!out.join("ci3.crt").exists());
}

#[test]
fn junk_is_no_request() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    authority(dir);
    openssl(dir, "req -new -newkey rsa:2048 -nodes -keyout k -out weak.csr -subj /CN=x");
    openssl(dir, "req -x509 -newkey ed25519 -nodes -keyout k -out certificate -subj /CN=x");
    fs::write(dir.join("empty"), "").unwrap();
    fs::write(dir.join("mebibyte"), vec![0x30; 1 << 20]).unwrap();
    fs::write(dir.join("more"), vec![0x30; (1 << 20) + 1]).unwrap();
    for (file, why) in [
        ("weak.csr", "3072"),
        ("certificate", "not a certificate request"),
        ("k", "not a certificate request"),
        ("empty", "not a certificate request"),
        ("mebibyte", "64 KiB"),
        ("more", "more than 1048576 bytes"),
        ("absent", "cannot read absent"),
    ] {
        // A revoked name is not reinstated on the way.
        run(dir, &["cert", "revoke", "--name", "mallory"]);
        let refused = run(dir, &["cert", "issue", "mallory", "--csr", file, "--reinstate"]);
        assert_eq!(refused.status.code(), Some(1), "{file}");
        assert!(stderr(&refused).contains(why), "{file}: {}", stderr(&refused));
        let again = run(dir, &["cert", "issue", "mallory"]);
        assert!(stderr(&again).contains("mallory is revoked"), "{file}");
    }
    assert_eq!(stdout(&run(dir, &["cert", "list"])).lines().count(), 1);
}

#[test]
fn the_line_for_pkcs12_makes_what_curl_presents() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    authority(dir);
    // A name that a shell would take apart.
    let said = stdout(&run(dir, &["cert", "issue", "alice", "--out", "my certs", "--format", "p12"]));
    let line = said.lines().find(|line| line.starts_with("openssl pkcs12")).unwrap();
    let made =
        Command::new("sh").args(["-c", &format!("{line} -passout pass:secret")]).current_dir(dir).output().unwrap();
    assert!(made.status.success(), "{line}: {}", stderr(&made));
    let certs = dir.join("my certs");
    let about = openssl(&certs, "pkcs12 -in alice.p12 -passin pass:secret -info -noout");
    let about = stderr(&about);
    assert!(about.contains("PBES2") && about.contains("AES-256-CBC") && about.contains("sha256"), "{about}");

    let mut server = Command::new("openssl")
        .args("s_server -accept 127.0.0.1:0 -www -Verify 3 -verify_return_error -CAfile ca.crt -cert alice.crt -key alice.key".split(' '))
        .current_dir(&certs)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(server.stdout.take().unwrap()).lines();
    let address = lines.find_map(|line| line.unwrap().strip_prefix("ACCEPT ").map(str::to_owned)).unwrap();
    let drain = std::thread::spawn(move || lines.count());
    // Java reads it too.
    let java = Command::new("keytool")
        .args("-list -storetype PKCS12 -keystore alice.p12 -storepass secret".split(' '))
        .current_dir(&certs)
        .output();
    if let Ok(java) = java {
        assert!(stdout(&java).contains("PrivateKeyEntry"), "{}", stdout(&java));
    }
    let curl = |more: &[&str]| {
        let url = format!("https://{address}/");
        Command::new("curl").args(["-sk", "--max-time", "10", &url]).args(more).current_dir(&certs).output().unwrap()
    };
    let with = curl(&["--cert-type", "P12", "--cert", "alice.p12:secret"]);
    let without = curl(&[]);
    server.kill().unwrap();
    server.wait().unwrap();
    drain.join().unwrap();
    assert!(stdout(&with).contains("client/alice"), "{} {}", stdout(&with), stderr(&with));
    assert!(!without.status.success());
}

#[test]
fn inspect_says_what_the_gateway_makes_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    authority(dir);
    let inspect = |file: &str| {
        let output = run(dir, &["cert", "inspect", file, "--output", "json"]);
        assert!(output.status.success(), "{file}: {}", stderr(&output));
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    let issued = run(dir, &["cert", "issue", "alice", "--output", "json"]);
    let issued: Value = serde_json::from_slice(&issued.stdout).unwrap();
    let alice = inspect("alice.crt");
    assert_eq!(alice["accepted"], true);
    assert_eq!(alice["serial"], issued["serial"]);
    assert_eq!(alice["names"][0], "URI:spiffe://corp.example/client/alice");
    assert_eq!(alice["authority"], "built-in");
    assert_eq!(alice["refused_from"], issued["not_after"]);
    let people = stdout(&run(dir, &["cert", "inspect", "alice.crt"]));
    assert!(people.ends_with("gateway   accepts it\n"), "{people}");
    let fingerprint = stdout(&openssl(dir, "x509 -in alice.crt -noout -fingerprint -sha256"));
    let plain = fingerprint.trim().rsplit('=').next().unwrap().replace(':', "").to_lowercase();
    assert_eq!(alice["sha256"], plain.as_str());

    // The leaf alone, in DER: the gateway knows its issuers.
    openssl(dir, "x509 -in alice.crt -outform DER -out alice.der");
    let alone = inspect("alice.der");
    assert_eq!((&alone["accepted"], &alone["sha256"]), (&Value::Bool(true), &alice["sha256"]));

    run(dir, &["cert", "revoke", "--name", "alice", "--reason", "superseded"]);
    let revoked = inspect("alice.crt");
    assert!(revoked["why"].as_str().unwrap().contains("superseded"), "{revoked}");
    assert_eq!(revoked["accepted"], false);

    openssl(dir, "req -x509 -newkey ed25519 -nodes -keyout k -out foreign -subj /O=a\u{1b}[2Jb/CN=x -days 1");
    let foreign = inspect("foreign");
    assert_eq!((&foreign["accepted"], &foreign["key"]), (&Value::Bool(false), &Value::from("Ed25519")));
    assert!(!foreign.to_string().contains('\u{1b}') && !foreign.to_string().contains("\\u001b"), "{foreign}");
    for file in ["alice.key", "absent"] {
        assert_eq!(run(dir, &["cert", "inspect", file]).status.code(), Some(1), "{file}");
    }
}

/// Killed for real, at each stage of a change: what is there works, and the next change sweeps up.
#[test]
fn a_rotation_that_is_killed_leaves_an_authority_that_works() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    authority(dir);
    let staging = dir.join("state/.ca.new");
    let mut killed = 0;
    for stage in 0..8 {
        let mut rotation = doorward(dir)
            .args(["ca", "rotate", "--issuer", "--state", "state"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let ended = loop {
            if let Some(ended) = rotation.try_wait().unwrap() {
                break ended;
            }
            if fs::read_dir(&staging).is_ok_and(|files| files.count() >= stage) {
                // SIGKILL.
                rotation.kill().unwrap();
                break rotation.wait().unwrap();
            }
        };
        killed += usize::from(!ended.success());
        let name = format!("after-{stage}");
        let issued = run(dir, &["cert", "issue", &name, "--out", "certs"]);
        assert!(issued.status.success(), "stage {stage}: {}", stderr(&issued));
        let verify = format!("verify -x509_strict -purpose sslclient -CAfile ca.crt -untrusted {name}.crt {name}.crt");
        openssl(&dir.join("certs"), &verify);
    }
    assert!(killed > 0, "no kill came in time");
    assert!(run(dir, &["ca", "rotate", "--issuer"]).status.success());
    assert!(!staging.exists());
}

/// The config says how the gateway is reached, and certificates and bundles say it on.
#[test]
fn certificates_name_their_list_and_bundles_their_gateway() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    authority(dir);
    let config = "state_dir = \"state\"\n[listen]\naddress = \"0.0.0.0:8443\"\nclient_auth = \"optional\"\n\
                  advertise = [\"gw.corp.example:443\"]\n\
                  names = { api = [\"llm.corp.example\"], enroll = [\"enroll.corp.example\"] }\n\
                  certificate = { chain = \"missing.crt\", key = \"${env:MISSING}\" }\n";
    fs::write(dir.join("doorward.toml"), config).unwrap();
    let with = |arguments: &[&str]| run_with(dir, &[arguments, &["--config", "doorward.toml"]].concat());
    let issued = with(&["cert", "issue", "alice", "--out", "certs"]);
    assert!(issued.status.success(), "{}", stderr(&issued));
    let text = stdout(&openssl(dir, "x509 -in certs/alice.crt -noout -text"));
    let (_, points) = text.split_once("X509v3 CRL Distribution Points").unwrap();
    assert!(points.contains("URI:https://enroll.corp.example/.doorward/v1/crl\n"), "{points}");
    openssl(&dir.join("certs"), "verify -x509_strict -purpose sslclient -CAfile ca.crt -untrusted alice.crt alice.crt");

    let made = with(&["enroll", "create", "bob", "--role", "client", "--network", "10.0.0.0/8", "--output", "json"]);
    assert_eq!(stderr(&made), "", "a document and nothing beside it");
    let made: Value = serde_json::from_slice(&made.stdout).unwrap();
    let fields: Vec<_> = made.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(fields, ["bundle", "expires_at", "id"]);
    let bundle = doorward::ca::bundle::Bundle::parse(made["bundle"].as_str().unwrap()).unwrap();
    assert_eq!(
        (bundle.addresses[0].to_string().as_str(), bundle.enroll.as_str()),
        ("gw.corp.example:443", "enroll.corp.example")
    );
    let root =
        stdout(&openssl(dir, "x509 -in certs/ca.crt -noout -fingerprint -sha256")).replace(':', "").to_lowercase();
    assert!(root.trim().ends_with(&bundle.pin.to_string()), "{root}");
    let id = made["id"].as_str().unwrap();
    let listed = stdout(&with(&["enroll", "list"]));
    assert!(listed.contains(id) && listed.contains("open") && listed.contains("10.0.0.0/8"), "{listed}");
    let shown = with(&["enroll", "create", "carol", "--role", "client", "--address", "10.0.0.1:8443"]);
    assert!(stdout(&shown).starts_with("dwe1.") && stdout(&shown).lines().count() == 1, "{}", stdout(&shown));
    assert!(!stderr(&shown).contains("dwe1."), "{}", stderr(&shown));

    assert_eq!(stdout(&with(&["enroll", "revoke", id])), format!("{id} is revoked\n"));
    assert_eq!(stdout(&with(&["enroll", "revoke", id])), format!("{id} was used or revoked before\n"));
    let revoked = stdout(&with(&["cert", "revoke", "--name", "carol"]));
    assert_eq!(revoked, "carol is revoked; 0 certificates ended, and 1 bundle that nobody had used\n");
    for (arguments, code, says) in [
        (&["enroll", "create", "carol", "--role", "client"][..], 1, "carol is revoked"),
        (&["enroll", "create", "ops", "--role", "operator"], 2, "operators are not enrolled"),
        (&["enroll", "create", "site", "--role", "connector"], 1, "no name for connectors"),
        (&["enroll", "create", "dave", "--role", "client", "--ttl", "25h"], 2, "must be 1m to 24h"),
        (&["enroll", "create", "dave", "--role", "client", "--network", "10.0.0.1/8"], 2, "--network"),
        (&["enroll", "create", "dave", "--role", "client", "--address", "gw"], 2, "HOST:PORT"),
        (&["enroll", "create", "dave"], 2, "--role"),
        (&["enroll", "revoke", "ffffffffffffffff"], 1, "no enrollment bundle has the id"),
        (&["enroll", "revoke", "x"], 2, "16 lower-case"),
    ] {
        let refused = with(arguments);
        assert_eq!(refused.status.code(), Some(code), "{arguments:?}: {}", stderr(&refused));
        assert!(stderr(&refused).contains(says), "{arguments:?}: {}", stderr(&refused));
    }
    // Without names or addresses: what to do is said.
    for (from, to, says) in [
        (", enroll = [\"enroll.corp.example\"]", "", "add one to names in [listen]"),
        ("advertise = [\"gw.corp.example:443\"]", "", "--address HOST:PORT"),
    ] {
        fs::write(dir.join("doorward.toml"), config.replace(from, to)).unwrap();
        let refused = with(&["enroll", "create", "dave", "--role", "client"]);
        assert!(!refused.status.success() && stderr(&refused).contains(says), "{}", stderr(&refused));
    }
    let stateless = run(dir, &["enroll", "create", "dave", "--role", "client"]);
    assert!(stderr(&stateless).contains("--config FILE"), "{}", stderr(&stateless));
}

//! Workloads of a SPIRE server: certificates as it makes them (X.509-SVID), by openssl, and its
//! bundle as it publishes it. Bundles come and go under a running gateway.

use std::fs;
use std::path::Path;
use std::process::Command;

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::AsyncReadExt;

use crate::support::{Caller, Leaf, Line, OPEN, Setup, Stub, World, chat, live};

/// The extensions of SPIRE's certificates: of a root or an issuer, and of a workload.
const EXTENSIONS: &str = "
[ca]
basicConstraints=critical,CA:TRUE
keyUsage=critical,keyCertSign,cRLSign
subjectKeyIdentifier=hash
subjectAltName=URI:spiffe://spire.test
[svid]
basicConstraints=critical,CA:FALSE
keyUsage=critical,digitalSignature
extendedKeyUsage=serverAuth,clientAuth
subjectKeyIdentifier=hash
authorityKeyIdentifier=keyid
";

/// A SPIRE server, as far as others see it.
struct Spire(TempDir);

impl Spire {
    /// With the root `root`.
    fn new() -> Self {
        let spire = Self(tempfile::tempdir().unwrap());
        spire.root("root");
        spire
    }

    fn run(&self, arguments: &[&str]) -> Vec<u8> {
        let done = Command::new("openssl").args(arguments).current_dir(self.0.path()).output().unwrap();
        assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
        done.stdout
    }

    fn key(&self, name: &str) {
        self.run(&[
            "genpkey",
            "-algorithm",
            "EC",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-out",
            &format!("{name}.key"),
        ]);
    }

    /// A root of the server's own.
    fn root(&self, name: &str) {
        fs::write(self.0.path().join("cnf"), format!("[req]\ndistinguished_name=dn\n[dn]\n{EXTENSIONS}")).unwrap();
        self.key(name);
        let (key, out) = (format!("{name}.key"), format!("{name}.crt"));
        let subject = format!("/C=US/O=SPIFFE/serialNumber={name}");
        self.run(&[
            "req",
            "-x509",
            "-new",
            "-config",
            "cnf",
            "-extensions",
            "ca",
            "-days",
            "1",
            "-subj",
            &subject,
            "-key",
            &key,
            "-out",
            &out,
        ]);
    }

    /// A certificate below `issuer`, with the extensions of a section and these besides.
    fn sign(&self, name: &str, issuer: &str, subject: &str, section: &str, more: &str) {
        self.key(name);
        fs::write(self.0.path().join("ext"), format!("{EXTENSIONS}[this]\n{}\n{more}\n", of(section))).unwrap();
        let files = [".key", ".csr", ".crt"].map(|end| format!("{name}{end}"));
        let [key, csr, out] = &files;
        self.run(&["req", "-new", "-config", "cnf", "-subj", subject, "-key", key, "-out", csr]);
        let (ca, ca_key) = (format!("{issuer}.crt"), format!("{issuer}.key"));
        self.run(&[
            "x509",
            "-req",
            "-in",
            csr,
            "-CA",
            &ca,
            "-CAkey",
            &ca_key,
            "-CAcreateserial",
            "-days",
            "1",
            "-extfile",
            "ext",
            "-extensions",
            "this",
            "-out",
            out,
        ]);
    }

    /// A workload's certificate as SPIRE makes it, of this SPIFFE ID.
    fn svid(&self, issuer: &str, id: &str) -> Leaf {
        self.sign("svid", issuer, "/C=US/O=SPIRE", "svid", &format!("subjectAltName=URI:{id}"));
        self.leaf(&["svid"])
    }

    /// The certificates of a chain, with the key of the first.
    fn leaf(&self, chain: &[&str]) -> Leaf {
        let read = |name: &&str| CertificateDer::from_pem_file(self.0.path().join(format!("{name}.crt"))).unwrap();
        let key = PrivateKeyDer::from_pem_file(self.0.path().join(format!("{}.key", chain[0]))).unwrap();
        Leaf::new(chain.iter().map(read).collect(), key)
    }

    /// The bundle with these roots, and a key for tokens as every SPIRE server has one.
    fn bundle(&self, roots: &[&str]) -> String {
        let mut keys = vec![json!({
            "kty": "EC", "use": "jwt-svid", "kid": "C6vs25welZOx6WksNYfbMfiw9l96pMnD", "crv": "P-256",
            "x": "kKh8EvJlNpXu5JvLLIGJExj5Sk3BAdXJLwzpFLLG2cY", "y": "MH_F8Jm_4U1r1-B2UMZkl4r4-OlVdmWlLVGGTMN9h4g",
        })];
        keys.extend(roots.iter().map(|root| self.entry(root)));
        json!({"keys": keys, "spiffe_sequence": roots.len(), "spiffe_refresh_hint": 300}).to_string()
    }

    fn entry(&self, root: &str) -> Value {
        let base64 = |bytes: &[u8]| {
            fs::write(self.0.path().join("bytes"), bytes).unwrap();
            String::from_utf8(self.run(&["base64", "-A", "-in", "bytes"])).unwrap().trim().to_owned()
        };
        let url = |bytes: &[u8]| base64(bytes).trim_end_matches('=').replace('+', "-").replace('/', "_");
        let der = self.run(&["x509", "-in", &format!("{root}.crt"), "-outform", "DER"]);
        let spki = self.run(&["pkey", "-in", &format!("{root}.key"), "-pubout", "-outform", "DER"]);
        let point = &spki[spki.len() - 64..];
        json!({
            "kty": "EC", "use": "x509-svid", "crv": "P-256", "x": url(&point[..32]), "y": url(&point[32..]),
            "x5c": [base64(&der)],
        })
    }
}

/// The lines of a section.
fn of(section: &str) -> &'static str {
    let start = EXTENSIONS.find(&format!("[{section}]\n")).unwrap() + section.len() + 3;
    EXTENSIONS[start..].split('[').next().unwrap()
}

fn trusting(stub: &Stub, bundle: &str) -> Setup {
    let mut setup = Setup::new(stub)
        .grants(&format!("{OPEN}\n[[identity]]\nmatch = \"spiffe://spire.test/*\"\nowner = \"acme/spire\"\n"));
    setup.more = r#"
[[trust]]
name = "spire"
roots = "spire.json"
map = "spiffe"
trust_domains = ["spire.test"]
"#
    .to_owned();
    setup.files = vec![("spire.json".to_owned(), bundle.to_owned())];
    setup
}

/// Puts another bundle in its place, and lets the gateway look; true when it is in force.
fn publish(world: &mut World, bundle: &str) -> bool {
    let before = world.server.gateway().view().settings.generation;
    let file = world.dir.path().join("spire.json");
    fs::write(file.with_extension("new"), bundle).unwrap();
    fs::rename(file.with_extension("new"), &file).unwrap();
    world.server.reload_if_due();
    world.server.gateway().view().settings.generation > before
}

async fn served(line: &mut Line, world: &World, identity: &str) {
    let answer = line.chat(&chat("llama")).await;
    answer.assert_served();
    let record = world.record(answer.request_id()).await;
    assert_eq!((&record["identity"], &record["owner"]), (&identity.into(), &"acme/spire".into()));
}

/// How the gateway ends the connection, which a TLS 1.3 client hears after its own handshake.
async fn refused(caller: Caller) -> String {
    let mut stream = caller.tls(&["http/1.1"]).await.unwrap();
    stream.read_to_end(&mut Vec::new()).await.unwrap_err().to_string()
}

#[tokio::test]
async fn a_certificate_of_spire_is_a_caller_as_it_comes() {
    let stub = Stub::chatty().await;
    let spire = Spire::new();
    let world = trusting(&stub, &spire.bundle(&["root"])).start().await;
    let id = "spiffe://spire.test/ns/prod/sa/chat-bot";
    let plain = spire.svid("root", id);

    // SPIRE names DNS names beside the URI when it is told to, and a common name.
    let san = format!("subjectAltName=URI:{id},DNS:chat.prod.svc,DNS:other");
    spire.sign("dns", "root", "/C=US/O=SPIRE/CN=chat.prod.svc", "svid", &san);
    let with_dns = spire.leaf(&["dns"]);

    // Without a subject the names are critical (RFC 5280, 4.1.2.6).
    spire.sign("nobody", "root", "/", "svid", &format!("subjectAltName=critical,URI:{id}"));
    let subject = spire.run(&["x509", "-in", "nobody.crt", "-noout", "-subject"]);
    assert_eq!(String::from_utf8(subject).unwrap().trim(), "subject=");
    let without_subject = spire.leaf(&["nobody"]);

    // Below an upstream authority the workload sends SPIRE's own issuer, and that of another server.
    spire.sign("issuer", "root", "/C=US/O=SPIFFE", "ca", "");
    spire.sign("nested", "issuer", "/C=US/O=SPIFFE/OU=nested", "ca", "");
    spire.svid("nested", id);
    let below = spire.leaf(&["svid", "nested", "issuer"]);

    for leaf in [&plain, &with_dns, &without_subject, &below] {
        for mut line in world.caller().leaf(leaf).both().await {
            served(&mut line, &world, id).await;
        }
    }
    // The issuers between are not known to the gateway: who leaves them out is unknown.
    assert!(refused(world.caller().leaf(&spire.leaf(&["svid"]))).await.contains("UnknownCA"));
}

#[tokio::test]
async fn what_the_specification_refuses_is_nobody() {
    let stub = Stub::chatty().await;
    let (spire, other) = (Spire::new(), Spire::new());
    let world = trusting(&stub, &spire.bundle(&["root"])).start().await;
    let id = "URI:spiffe://spire.test/ns/prod/sa/chat";
    let signs = |usage: &str| format!("keyUsage=critical,digitalSignature,{usage}\nsubjectAltName={id}");
    for (section, more) in [
        ("svid", format!("subjectAltName={id},URI:spiffe://spire.test/ns/prod/sa/other")),
        ("svid", format!("subjectAltName={id},URI:https://spire.test/")),
        ("svid", "subjectAltName=URI:spiffe://spire.test".to_owned()),
        ("svid", "subjectAltName=URI:spiffe://spire.test/".to_owned()),
        ("svid", "subjectAltName=URI:spiffe://other.test/ns/prod/sa/chat".to_owned()),
        ("svid", "subjectAltName=URI:spiffe://corp.test/client/alice".to_owned()),
        ("svid", "subjectAltName=URI:spiffe://spire.test/operator/root".to_owned()),
        ("svid", "subjectAltName=DNS:chat.prod.svc".to_owned()),
        ("svid", signs("keyCertSign")),
        ("svid", signs("cRLSign")),
        ("ca", String::new()),
    ] {
        spire.sign("bad", "root", "/C=US/O=SPIRE", section, &more);
        let said = refused(world.caller().leaf(&spire.leaf(&["bad"]))).await;
        assert!(said.contains("CertificateUnknown"), "{more}: {said}");
    }
    // The same names below another root; and tokens' keys vouch for nothing.
    let stranger = other.svid("root", "spiffe://spire.test/ns/prod/sa/chat");
    let said = refused(world.caller().leaf(&stranger)).await;
    assert!(said.contains("DecryptError") || said.contains("UnknownCA"), "{said}");
    stub.assert_untouched();
}

#[tokio::test]
async fn roots_come_and_go_with_the_bundle() {
    let stub = Stub::by_hand().await;
    let spire = Spire::new();
    let mut world = trusting(&stub, &spire.bundle(&["root"])).start().await;
    spire.root("next");
    let (old, new) =
        (spire.svid("root", "spiffe://spire.test/ns/a/sa/old"), spire.svid("next", "spiffe://spire.test/ns/a/sa/new"));
    let said = refused(world.caller().leaf(&new)).await;
    assert!(said.contains("UnknownCA"), "{said}");
    let mut staying = world.caller().leaf(&old).h2().await;
    assert_eq!(staying.get("/v1/models").await.status, 200);

    // A bad bundle changes nothing.
    for broken in
        ["", "{", "{\"keys\":[]}", &spire.bundle(&[]), &spire.bundle(&["root"]).replace("\"x\":\"", "\"x\":\"A")]
    {
        assert!(!publish(&mut world, broken), "{broken}");
        assert_eq!(world.caller().leaf(&old).h1().await.get("/v1/models").await.status, 200);
    }
    assert!(publish(&mut world, &spire.bundle(&["root", "next"])));
    for leaf in [&old, &new] {
        assert_eq!(world.caller().leaf(leaf).h1().await.get("/v1/models").await.status, 200);
    }
    assert_eq!(staying.get("/v1/models").await.status, 200);

    // The old root is gone: its callers too, on open connections and in live streams.
    let mut streaming = world.caller().leaf(&old).h1().await;
    let (flow, exchange) = live(&mut streaming, &stub).await;
    assert!(publish(&mut world, &spire.bundle(&["next"])));
    assert!(exchange.closed().await < std::time::Duration::from_secs(2));
    assert!(flow.end().await.1.is_some(), "aborted, never a clean end");
    assert_eq!(staying.get("/v1/models").await.status, 401);
    assert!(refused(world.caller().leaf(&old)).await.contains("UnknownCA"));
    assert_eq!(world.caller().leaf(&new).h1().await.get("/v1/models").await.status, 200);
    // PEM in its place is as good.
    let pem = fs::read_to_string(Path::new(spire.0.path()).join("root.crt")).unwrap();
    assert!(publish(&mut world, &pem));
    assert_eq!(staying.get("/v1/models").await.status, 200);
}

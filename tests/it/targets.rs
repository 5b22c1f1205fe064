//! Models with several targets, and backends that are reached over TLS.

use std::sync::Arc;

use doorward::tls::server::provider;
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::PrivateKeyDer;

use crate::support::{Setup, Stub, TlsFiles, World, chat, dead_port, json_reply};

/// Backends by the names `a`, `b`, … and one model with these targets.
fn backends(addresses: &[(&str, String, &str)], targets: &str) -> String {
    let backend =
        |(name, url, more): &(&str, String, &str)| format!("[[backend]]\nname = \"{name}\"\nurl = \"{url}\"\n{more}\n");
    let backends: String = addresses.iter().map(backend).collect();
    format!("{backends}[[model]]\nname = \"llama\"\ntargets = [{targets}]\n")
}

const OPENAI: &str = "dialects = [\"openai\"]";

async fn start(stub: &Stub, text: String) -> World {
    let mut setup = Setup::new(stub);
    setup.backends = text;
    setup.start().await
}

#[tokio::test]
async fn weights_share_the_traffic() {
    let (a, b) = (Stub::chatty().await, Stub::chatty().await);
    let addresses = [("a", format!("http://{}", a.address), OPENAI), ("b", format!("http://{}", b.address), OPENAI)];
    let targets = "{ backend = \"a\", model = \"m-a\", weight = 3 }, { backend = \"b\", model = \"m-b\" }";
    let world = start(&a, backends(&addresses, targets)).await;
    let mut line = world.caller().key(&world.key("acme/x").await).h1().await;
    for _ in 0..400 {
        let answer = line.chat(&chat("llama")).await;
        answer.assert_served();
    }
    let (to_a, to_b) = (a.seen().len(), b.seen().len());
    assert_eq!(to_a + to_b, 400);
    // 300 on average; six standard deviations are 52.
    assert!((248..=352).contains(&to_a), "{to_a}");
    assert!(a.seen().iter().all(|seen| seen.text().contains("\"m-a\"")));
    assert!(b.seen().iter().all(|seen| seen.text().contains("\"m-b\"")));
    let records = world.all_records(400).await;
    assert_eq!(records.iter().filter(|record| record["backend"] == "a" && record["target"] == "m-a").count(), to_a);
}

/// A higher number is tried only when no lower one can be reached; nothing is sent twice.
#[tokio::test]
async fn priorities_are_a_fallback() {
    let (a, b) = (Stub::by_hand().await, Stub::chatty().await);
    let dead = dead_port().await;
    let addresses = [
        ("dead", format!("http://{dead}"), OPENAI),
        ("a", format!("http://{}", a.address), OPENAI),
        ("b", format!("http://{}", b.address), OPENAI),
    ];
    let targets = "{ backend = \"b\", model = \"m\", priority = 3 }, { backend = \"dead\", model = \"m\" }, { backend = \"a\", model = \"m\", priority = 2 }";
    let world = start(&a, backends(&addresses, targets)).await;
    let caller = world.caller().key(&world.key("acme/x").await);
    let body = chat("llama");
    let (answer, ()) =
        tokio::join!(caller.chat(&body), async { a.next().await.reply(json_reply("{\"from\":\"a\"}")).await });
    answer.assert_served();
    assert_eq!(world.record(answer.request_id()).await["backend"], "a");
    assert!(world.metric("doorward_backend_connect_failures_total{backend=\"dead\"}").await > 0.5);
    // One that has seen the request and breaks is the end of it.
    let (answer, ()) = tokio::join!(caller.chat(&body), async { drop(a.next().await) });
    answer.assert_refused(&world, 502, "backend_broke").await;
    b.assert_untouched();
}

/// A target that names the endpoint is for it alone, and preferred; dialects are not mixed.
#[tokio::test]
async fn targets_serve_their_endpoints_and_dialects() {
    let (a, b) = (Stub::chatty().await, Stub::chatty().await);
    let both = "dialects = [\"openai\", \"ollama\"]";
    let addresses = [("a", format!("http://{}", a.address), both), ("b", format!("http://{}", b.address), OPENAI)];
    let targets =
        "{ backend = \"a\", model = \"m\" }, { backend = \"b\", model = \"m\", endpoints = [\"@embeddings\"] }";
    let world = start(&a, backends(&addresses, targets)).await;
    let mut line = world.caller().key(&world.key("acme/x").await).h1().await;
    for (path, from_a, from_b) in
        [("/v1/embeddings", 0, 1), ("/v1/chat/completions", 1, 1), ("/api/embed", 2, 1), ("/v1/embeddings", 2, 2)]
    {
        line.post(path, &chat("llama")).await.assert_served();
        assert_eq!((a.seen().len(), b.seen().len()), (from_a, from_b), "{path}");
    }
    line.post("/v1/messages", &chat("llama")).await.assert_refused(&world, 404, "model_not_found").await;
}

/// A base path stands in front; of the query, only what is listed survives.
#[tokio::test]
async fn the_path_at_the_backend_is_made_anew() {
    let a = Stub::chatty().await;
    let all = "dialects = [\"openai\", \"anthropic\"]";
    let addresses = [("a", format!("http://{}/serving/x", a.address), all)];
    let world = start(&a, backends(&addresses, "{ backend = \"a\", model = \"m\" }")).await;
    let mut line = world.caller().key(&world.key("acme/x").await).h1().await;
    line.post("/v1/messages?beta=true&debug=1&x=%2e", &chat("llama")).await.assert_served();
    line.post("/v1/chat/completions?beta=true", &chat("llama")).await.assert_served();
    let lines: Vec<_> = a.seen().iter().map(|seen| seen.line().to_owned()).collect();
    assert_eq!(
        lines,
        ["POST /serving/x/v1/messages?beta=true HTTP/1.1", "POST /serving/x/v1/chat/completions HTTP/1.1"]
    );
}

/// An authority for backends, with what it has signed: certificate and key in PEM.
struct BackendCa {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
    der: rustls_pki_types::CertificateDer<'static>,
}

impl BackendCa {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let certificate = params.self_signed(&key).unwrap();
        Self { pem: certificate.pem(), der: certificate.der().clone(), issuer: Issuer::new(params, key) }
    }

    fn sign(&self, name: &str, purpose: ExtendedKeyUsagePurpose) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.extended_key_usages = vec![purpose];
        (params.signed_by(&key, &self.issuer).unwrap(), key)
    }

    /// A server for `name` that asks for a certificate of `clients`.
    fn server(&self, name: &str, clients: &Self) -> TlsFiles {
        let mut roots = RootCertStore::empty();
        roots.add(clients.der.clone()).unwrap();
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider()).build().unwrap();
        let (certificate, key) = self.sign(name, ExtendedKeyUsagePurpose::ServerAuth);
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        TlsFiles { config: Arc::new(config) }
    }
}

/// Both sides prove who they are. Whoever cannot gets no request.
#[tokio::test]
async fn a_backend_over_mutual_tls() {
    let (ours, strange) = (BackendCa::new(), BackendCa::new());
    let cases = [
        // Who signed the backend, its name, who signed the gateway, and what becomes of it.
        (&ours, "127.0.0.1", Some(&ours), ""),
        // In TLS 1.3 a refused client hears of it after its request.
        (&ours, "127.0.0.1", Some(&strange), "backend_broke"),
        (&ours, "127.0.0.1", None, "backend_broke"),
        (&ours, "elsewhere.test", Some(&ours), "no_backend"),
        (&strange, "127.0.0.1", Some(&ours), "no_backend"),
    ];
    for (backend, name, gateway, code) in cases {
        let stub = Stub::over_tls(|_| json_reply("{}"), backend.server(name, &ours)).await;
        let mut setup = Setup::new(&stub);
        setup.files.push(("roots.pem".to_owned(), ours.pem.clone()));
        let mut tls = "ca_file = \"roots.pem\"".to_owned();
        if let Some(authority) = gateway {
            let (certificate, key) = authority.sign("gateway", ExtendedKeyUsagePurpose::ClientAuth);
            setup.files.push(("gw.crt".to_owned(), certificate.pem()));
            setup.files.push(("gw.key".to_owned(), key.serialize_pem()));
            tls.push_str(", client_certificate = \"gw.crt\", client_key = \"gw.key\"");
        }
        let more = format!("{OPENAI}\ntls = {{ {tls} }}");
        let addresses = [("a", format!("https://{}", stub.address), more.as_str())];
        setup.backends = backends(&addresses, "{ backend = \"a\", model = \"m\" }");
        let world = setup.start().await;
        let answer = world.caller().key(&world.key("acme/x").await).chat(&chat("llama")).await;
        if code.is_empty() {
            answer.assert_served();
            assert_eq!(stub.only().text(), chat("m"));
        } else {
            answer.assert_refused(&world, answer.status, code).await;
            assert!(stub.seen().is_empty());
        }
    }
}

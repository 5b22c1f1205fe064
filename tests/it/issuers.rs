//! Issuers that do what issuers do: rotate keys, go down, answer slowly or with something else; and
//! configs that no longer name them.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use doorward::tls::server::provider;
use doorward::token::fetch::Fetcher;
use doorward::token::location::{KeyUrl, Location};
use jsonwebtoken::Algorithm;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::ServerConfig;
use rustls_pki_types::PrivateKeyDer;
use serde_json::json;
use tokio::time::Instant;

use crate::support::{
    DISCOVERY, IssuerServer, KEYS, LONG, Line, Reply, Signer, Stub, World, chat, claims, dead_port, jwks, live, until,
};
use crate::tokens::{SECOND, discovered, entry, setup};

async fn cut(world: &World, line: &mut Line, stub: &Stub, act: impl Future<Output = ()>) {
    let (flow, exchange) = live(line, stub).await;
    let id = flow.request_id();
    act.await;
    let begun = Instant::now();
    let ((text, broke), _) = tokio::join!(flow.end(), exchange.closed());
    assert!(broke.is_some() && !text.contains("[DONE]"), "a clean end after {text:?}");
    assert!(begun.elapsed() < 2 * SECOND, "{:?}", begun.elapsed());
    let record = world.record(&id).await;
    assert_eq!((&record["outcome"], &record["code"]), (&json!("ended"), &json!("invalid_credentials")), "{record}");
}

/// The first token of a new key is served; when the old key is gone its tokens are refused, on
/// open connections and live streams too.
#[tokio::test]
async fn promise_02_keys_are_rotated_by_the_issuer() {
    let stub = Stub::by_hand().await;
    let (old, new, newer) =
        (Signer::new("1", Algorithm::ES256), Signer::new("2", Algorithm::RS256), Signer::new("3", Algorithm::ES256));
    let server = IssuerServer::start(&[&old]).await;
    let world = setup(&stub, &discovered(&server, "")).start().await;
    world.fetches_are("fetched", 1.0).await;
    let bearing = |signer: &Signer| world.bearing(&signer.token(&claims(&server.url(), "alice")));
    let [mut h1, mut h2] = bearing(&old).both().await;
    assert_eq!(h1.get("/v1/models").await.status, 200);
    // The issuer signs with a new key now and has given up the old one. The first who comes with
    // it is served, and with that the old one's are cut.
    cut(&world, &mut h2, &stub, async {
        server.has(&[&new]);
        assert_eq!(bearing(&new).h1().await.get("/v1/models").await.status, 200);
    })
    .await;
    assert_eq!((server.hits(DISCOVERY), server.hits(KEYS)), (2, 2));
    assert_eq!(h1.get("/v1/models").await.status, 401);
    // Whoever comes with names of keys that nobody has brings about no more fetches, and does not
    // wait for any.
    server.has(&[&newer]);
    let mut line = bearing(&newer).h1().await;
    let begun = Instant::now();
    for _ in 0..15 {
        assert_eq!(line.get("/v1/models").await.status, 401);
    }
    assert!(begun.elapsed() < SECOND, "{:?}", begun.elapsed());
    let refused = line.get("/v1/models").await.assert_refused(&world, 401, "invalid_credentials").await;
    assert_eq!(refused["detail"], "issuer sso: it has no key with the token's kid and algorithm");
    assert_eq!(server.hits(KEYS), 2);
    assert_eq!(bearing(&new).h1().await.get("/v1/models").await.status, 200);
}

/// Many callers come at once with tokens of a new key, to workers of different threads: all are
/// served, by one fetch.
#[tokio::test]
async fn a_rotation_is_one_fetch_for_all_who_wait() {
    let stub = Stub::chatty().await;
    let (old, new) = (Signer::new("1", Algorithm::ES256), Signer::new("2", Algorithm::ES256));
    let server = IssuerServer::start(&[&old]).await;
    let mut setup = setup(&stub, &discovered(&server, ""));
    setup.workers = 2;
    let world = setup.start().await;
    world.fetches_are("fetched", 1.0).await;
    let mut lines = Vec::new();
    for number in 0..50 {
        let token = new.token(&claims(&server.url(), &format!("user-{number}")));
        lines.push(world.bearing(&token).h1().await);
    }
    server.has(&[&old, &new]);
    let asked = lines.into_iter().map(|mut line| tokio::spawn(async move { line.get("/v1/models").await.status }));
    for answer in asked.collect::<Vec<_>>() {
        assert_eq!(answer.await.unwrap(), 200);
    }
    assert_eq!(server.hits(KEYS), 2);
}

/// Without anybody asking, too.
#[tokio::test]
async fn promise_02_a_key_that_left_the_issuer_ends_live_streams() {
    let stub = Stub::by_hand().await;
    let (leaving, staying) = (Signer::new("1", Algorithm::ES256), Signer::new("2", Algorithm::ES256));
    let server = IssuerServer::start(&[&leaving, &staying]).await;
    let world = setup(&stub, &discovered(&server, "refresh = \"1s\"")).start().await;
    let bearing = |signer: &Signer| world.bearing(&signer.token(&claims(&server.url(), "alice")));
    let mut other = bearing(&staying).h2().await;
    let (mut flow, mut exchange) = live(&mut other, &stub).await;
    let mut line = bearing(&leaving).h1().await;
    cut(&world, &mut line, &stub, async {
        server.has(&[&staying]);
        let fetches = server.hits(KEYS);
        until(LONG, "the keys are fetched again", || (server.hits(KEYS) > fetches).then_some(())).await;
    })
    .await;
    exchange.chunk("data: [DONE]\n\n").await;
    flow.until("[DONE]").await;
    exchange.end().await;
    assert_eq!(flow.end().await.1, None);
}

/// The gateway starts and serves others while the issuer is down; keys that were fetched stay in
/// force when it goes down later, and lapse after `stale_max`.
#[tokio::test]
async fn an_issuer_may_be_down() {
    let stub = Stub::chatty().await;
    let signer = Signer::new("1", Algorithm::ES256);
    let address = dead_port().await;
    let url = format!("http://{address}");
    let more = "refresh = \"1s\"\nstale_max = \"10m\"";
    let world = setup(&stub, &entry("sso", &format!("url = \"{url}\""), more)).manual_clock().start().await;
    let mut claims = claims(&url, "alice");
    claims["exp"] = json!(world.clock.now().as_seconds() + 7200);
    let caller = world.bearing(&signer.token(&claims));
    let refused = caller.chat(&chat("llama")).await.assert_refused(&world, 401, "invalid_credentials").await;
    assert_eq!(refused["detail"], "issuer sso: its keys have not been fetched yet");
    world.caller().key(&world.key("acme/x").await).chat(&chat("llama")).await.assert_served();
    // Up.
    let server = IssuerServer::start_at(&address.to_string(), &[&signer], None).await;
    world.fetches_are("fetched", 1.0).await;
    caller.chat(&chat("llama")).await.assert_served();
    // Down again.
    server.stop().await;
    let failed = world.fetches("failed").await;
    world.fetches_are("failed", failed + 1.0).await;
    caller.chat(&chat("llama")).await.assert_served();
    world.clock.advance(Duration::from_secs(599));
    caller.chat(&chat("llama")).await.assert_served();
    world.clock.advance(Duration::from_secs(10));
    let refused = caller.chat(&chat("llama")).await.assert_refused(&world, 401, "invalid_credentials").await;
    assert_eq!(refused["detail"], "issuer sso: its keys were fetched too long ago");
    // Up again.
    let _server = IssuerServer::start_at(&address.to_string(), &[&signer], None).await;
    let fetched = world.fetches("fetched").await;
    world.fetches_are("fetched", fetched + 1.0).await;
    caller.chat(&chat("llama")).await.assert_served();
}

/// A request waits for keys, and not for long.
#[tokio::test]
async fn an_issuer_may_be_slow() {
    let stub = Stub::chatty().await;
    let signer = Signer::new("1", Algorithm::ES256);
    let server = IssuerServer::start(&[&signer]).await;
    server.set(KEYS, Reply::Silence);
    let world = setup(&stub, &discovered(&server, "")).start().await;
    let caller = world.bearing(&signer.token(&claims(&server.url(), "alice")));
    let begun = Instant::now();
    caller.chat(&chat("llama")).await.assert_refused(&world, 401, "invalid_credentials").await;
    let waited = begun.elapsed();
    assert!((Duration::from_millis(1900)..Duration::from_millis(4000)).contains(&waited), "{waited:?}");
    // Nobody else waits.
    let key = world.key("acme/x").await;
    let begun = Instant::now();
    world.caller().key(&key).chat(&chat("llama")).await.assert_served();
    assert!(begun.elapsed() < SECOND);
    assert_eq!(server.hits(KEYS), 1);
}

/// Whatever an issuer answers instead of keys is refused, and nobody else is asked. (That the last
/// good keys stay in force then: [`an_issuer_may_be_down`].)
#[tokio::test]
async fn an_issuer_may_answer_with_anything() {
    let (signer, stranger) = (Signer::new("1", Algorithm::ES256), Signer::new("2", Algorithm::ES256));
    let server = IssuerServer::start(&[&signer]).await;
    let evil = IssuerServer::start(&[&stranger]).await;
    let location = Location::Discovery(KeyUrl::parse(&server.url()).unwrap());
    let fetcher = Fetcher::new(location, &[]).unwrap();
    assert_eq!(fetcher.keys().await.unwrap().len(), 1);
    let raw = |head: &str, body: &str| Reply::Raw(format!("HTTP/1.1 {head}\r\nConnection: close\r\n\r\n{body}").into());
    let document = |issuer: &str, keys: &str| Reply::Body(json!({ "issuer": issuer, "jwks_uri": keys }).to_string());
    let (url, keys) = (server.url(), format!("{}{KEYS}", server.url()));
    let theirs = jwks(&[&stranger]);
    let evil_keys = format!("{}{KEYS}", evil.url());
    let html = "<!doctype html><title>Sign in</title>";
    let huge = format!("{{\"x\":\"{}\",{}", "x".repeat(300_000), &theirs[1..]);
    let cases = [
        (KEYS, raw("200 OK\r\nContent-Type: text/html", html)),
        (KEYS, raw("500 Internal Server Error", &theirs)),
        (KEYS, raw("404 Not Found", &theirs)),
        (KEYS, raw("204 No Content", "")),
        (KEYS, raw(&format!("302 Found\r\nLocation: {evil_keys}"), "")),
        (KEYS, raw(&format!("307 Temporary Redirect\r\nLocation: {evil_keys}"), "")),
        (KEYS, raw("200 OK\r\nContent-Length: 100000", &theirs)),
        (KEYS, raw("200 OK\r\nContent-Encoding: gzip", "\u{1f}\u{8b}\u{8}")),
        (KEYS, raw("200 OK", &huge)),
        (KEYS, raw("200 OK", "")),
        (KEYS, Reply::Raw(b"\x00\xff\xfe not HTTP".to_vec())),
        (KEYS, Reply::Raw(Vec::new())),
        (DISCOVERY, document("https://evil.test", &evil_keys)),
        (DISCOVERY, document(&format!("{url}/"), &evil_keys)),
        (DISCOVERY, document(&url, "http://keys.evil.test/keys")),
        (DISCOVERY, document(&url, "file:///etc/passwd")),
        (DISCOVERY, document(&url, "")),
        (DISCOVERY, raw("200 OK", html)),
        (
            DISCOVERY,
            Reply::Body(format!("{{\"issuer\":\"{url}\",\"jwks_uri\":\"{evil_keys}\",\"jwks_uri\":\"{keys}\"}}")),
        ),
    ];
    for (path, reply) in cases {
        server.set(path, reply.clone());
        let why = fetcher.keys().await.expect_err(&format!("{reply:?}"));
        // For the log: neither what came, nor where it came from.
        assert!(!why.contains("evil") && !why.contains("Sign in") && !why.contains("127.0.0.1"), "{why}");
        server.has(&[&signer]);
        server.set(DISCOVERY, document(&url, &keys));
        assert_eq!(fetcher.keys().await.unwrap().len(), 1);
    }
    assert_eq!(evil.hits(KEYS), 0);
}

/// Over TLS, with the roots that the config names and no others.
#[tokio::test]
async fn an_issuer_is_verified_by_its_certificate() {
    let stub = Stub::chatty().await;
    let signer = Signer::new("1", Algorithm::ES256);
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let root = params.self_signed(&key).unwrap();
    let authority = Issuer::new(params, key);
    let stranger = CertificateParams::new(["stranger.test".to_owned()]).unwrap();
    let mut stranger = stranger;
    stranger.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let stranger = stranger.self_signed(&KeyPair::generate().unwrap()).unwrap();
    let server = |name: &str| {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new([name.to_owned()]).unwrap().signed_by(&key, &authority).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        Arc::new(config)
    };
    for (name, roots, served) in
        [("127.0.0.1", root.pem(), true), ("127.0.0.1", stranger.pem(), false), ("elsewhere.test", root.pem(), false)]
    {
        let server = IssuerServer::start_at("127.0.0.1:0", &[&signer], Some(server(name))).await;
        let mut setup = setup(&stub, &discovered(&server, "ca_file = \"issuer-roots.pem\""));
        setup.files.push(("issuer-roots.pem".to_owned(), roots));
        let world = setup.start().await;
        let caller = world.bearing(&signer.token(&claims(&server.url(), "alice")));
        let answer = caller.chat(&chat("llama")).await;
        assert_eq!(answer.status, if served { 200 } else { 401 }, "{name}");
        assert_eq!(server.hits(KEYS), usize::from(served));
    }
}

/// A reload reaches tokens too: an issuer that is gone, an owner that is another, a file of keys.
#[tokio::test]
async fn a_reload_decides_live_requests_of_tokens_again() {
    let stub = Stub::by_hand().await;
    let (signer, filed) = (Signer::new("1", Algorithm::ES256), Signer::new("f", Algorithm::EdDSA));
    let server = IssuerServer::start(&[&signer]).await;
    let file = entry("file", "jwks_file = \"keys.json\"\nissuer = \"batch\"", "algorithms = [\"EdDSA\"]");
    let with = |issuers: &str| {
        let mut setup = setup(&stub, issuers);
        setup.files.push(("keys.json".to_owned(), jwks(&[&filed])));
        setup
    };
    let both = with(&(discovered(&server, "") + &file));
    let (all, text) = (both.text(), |issuers: &str| with(issuers).text());
    let mut world = both.start().await;
    let by_url = world.bearing(&signer.token(&claims(&server.url(), "alice")));
    let by_file = world.bearing(&filed.token(&claims("batch", "nightly")));
    let mut first = by_url.h1().await;
    let mut second = by_file.h2().await;
    let (mut staying, mut staying_exchange) = live(&mut second, &stub).await;

    // Nothing changes for them, and nothing is fetched again.
    let (flow, exchange) = live(&mut first, &stub).await;
    world.reload(&all);
    assert_eq!(by_url.h1().await.get("/v1/models").await.status, 200);
    assert_eq!(server.hits(KEYS), 1);
    drop((flow, exchange));

    // Its callers belong elsewhere now, where nothing is granted.
    let (flow, exchange) = live(&mut by_url.h1().await, &stub).await;
    let id = flow.request_id();
    world.reload(&text(&(discovered(&server, "owner = \"other/{sub}\"") + &file)));
    let ((_, broke), _) = tokio::join!(flow.end(), exchange.closed());
    assert!(broke.is_some());
    assert_eq!(world.record(&id).await["code"], "no_grant");

    // The issuer is gone.
    world.reload(&all);
    let (flow, exchange) = live(&mut by_url.h2().await, &stub).await;
    let id = flow.request_id();
    world.reload(&text(&file));
    let ((_, broke), _) = tokio::join!(flow.end(), exchange.closed());
    assert!(broke.is_some());
    assert_eq!(world.record(&id).await["code"], "invalid_credentials");
    by_url.chat(&chat("llama")).await.assert_refused(&world, 401, "invalid_credentials").await;

    // The other one was not hit by any of it.
    staying_exchange.chunk("data: {\"n\":2}\n\n").await;
    staying.until("{\"n\":2}").await;

    // A damaged file changes nothing; one with other keys does.
    let path = world.file.parent().unwrap().join("keys.json");
    fs::write(&path, "<html>").unwrap();
    world.server.reload();
    assert_eq!(by_file.h1().await.get("/v1/models").await.status, 200);
    fs::write(&path, jwks(&[&Signer::new("g", Algorithm::EdDSA)])).unwrap();
    world.server.reload();
    let ((_, broke), _) = tokio::join!(staying.end(), staying_exchange.closed());
    assert!(broke.is_some());
    assert_eq!(by_file.h1().await.get("/v1/models").await.status, 401);
}

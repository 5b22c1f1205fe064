//! Callers with tokens of an issuer, through a real gateway; the issuer is a real server, and does
//! what issuers do: rotate keys, go down, answer slowly or with something else.

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
    Caller, DISCOVERY, IssuerServer, KEYS, LONG, Line, OPEN, Process, Reply, Setup, Signer, Stub, World, chat, claims,
    dead_port, jwks, live, until, within,
};

const SECOND: Duration = Duration::from_secs(1);

/// An `[[issuer]]` whose keys are at `place`.
fn entry(name: &str, place: &str, more: &str) -> String {
    let owner = if more.contains("owner") { "" } else { "owner = \"acme/sso/{sub}\"" };
    let algorithms = if more.contains("algorithms") { "" } else { "algorithms = [\"ES256\", \"RS256\"]" };
    format!("[[issuer]]\nname = \"{name}\"\n{place}\naudience = [\"doorward\"]\n{algorithms}\n{owner}\n{more}\n")
}

/// The same, found by its discovery document.
fn discovered(server: &IssuerServer, more: &str) -> String {
    entry("sso", &format!("url = \"{}\"", server.url()), more)
}

fn setup(stub: &Stub, issuers: &str) -> Setup {
    let mut setup = Setup::new(stub);
    issuers.clone_into(&mut setup.more);
    setup
}

impl World {
    fn bearing(&self, token: &str) -> Caller {
        self.caller().header("authorization", &format!("Bearer {token}"))
    }

    /// How often the keys of the issuer were fetched, or could not be.
    async fn fetches(&self, result: &str) -> f64 {
        self.metric(&format!("doorward_issuer_key_fetches_total{{issuer=\"sso\",result=\"{result}\"}}")).await
    }

    /// Waits until that has happened so often, or oftener.
    async fn fetches_are(&self, result: &str, times: f64) {
        within(LONG, "the keys are fetched, or not", async { while self.fetches(result).await < times {} }).await;
    }
}

#[tokio::test]
async fn a_token_is_a_credential_like_a_key() {
    let stub = Stub::chatty().await;
    let signer = Signer::new("1", Algorithm::ES256);
    let server = IssuerServer::start(&[&signer]).await;
    let world = setup(&stub, &discovered(&server, "")).start().await;
    let token = signer.token(&claims(&server.url(), "alice"));
    let caller = world.bearing(&token);
    for mut line in caller.both().await {
        let answer = line.chat(&chat("llama")).await;
        answer.assert_served();
        let record = world.record(answer.request_id()).await;
        assert_eq!((&record["owner"], &record["outcome"]), (&json!("acme/sso/alice"), &json!("forwarded")), "{record}");
        for absent in ["identity_owner", "key_id", "identity"] {
            assert_eq!(record[absent], json!(null), "{record}");
        }
        assert_eq!(line.get("/v1/models").await.status, 200);
    }
    // As large as tokens may be, on both protocols.
    let mut large = claims(&server.url(), "alice");
    large["groups"] = json!("x".repeat(5800));
    let large = signer.token(&large);
    assert!((7900..=8192).contains(&large.len()), "{}", large.len());
    for mut line in world.bearing(&large).both().await {
        line.chat(&chat("llama")).await.assert_served();
    }
    // Nothing of it goes on to the backend.
    assert!(stub.seen().iter().all(|seen| seen.values("authorization").is_empty() && !seen.head.contains(&token)));
    // The scheme is a word in any capitals; the certificate's path counts as well.
    let both =
        world.caller().header("authorization", &format!("bEARER {token}")).certificate(&world.certificate("bob"));
    let answer = both.chat(&chat("llama")).await;
    answer.assert_served();
    let record = world.record(answer.request_id()).await;
    assert_eq!((&record["owner"], &record["identity_owner"]), (&json!("acme/sso/alice"), &json!("acme/people")));
    assert_eq!(record["identity"], "spiffe://corp.test/client/bob");
    // A page may use a token, which it must have got itself; as with a key.
    caller.header("origin", "https://app.corp.test").chat(&chat("llama")).await.assert_served();
}

/// `require` counts a token as a key, and grants on its path hold.
#[tokio::test]
async fn grants_hold_for_tokens() {
    let stub = Stub::chatty().await;
    let signer = Signer::new("1", Algorithm::RS256);
    let server = IssuerServer::start(&[&signer]).await;
    let grant = |owner: &str, more: &str| format!("[[grant]]\nowner = \"{owner}\"\n{more}\n");
    let grants = OPEN.to_owned()
        + &grant("acme/sso/keyed", "require = \"key\"")
        + &grant("acme/sso/certified", "require = \"certificate\"")
        + &grant("acme/sso/both", "require = \"both\"")
        + &grant("acme/sso/narrow", "models = [\"same\"]\nendpoints = [\"@chat\"]")
        + &grant("acme/sso/far", "networks = [\"10.0.0.0/8\"]")
        + &grant("acme/sso/over", "expires_at = \"2020-01-01T00:00:00Z\"");
    let issuers = discovered(&server, "")
        + &entry(
            "other",
            &format!("jwks_url = \"{}{KEYS}\"\nissuer = \"other\"", server.url()),
            "owner = \"other/{sub}\"",
        );
    let world = setup(&stub, &issuers).grants(&grants).start().await;
    let bearing = |subject: &str| world.bearing(&signer.token(&claims(&server.url(), subject)));
    bearing("keyed").chat(&chat("llama")).await.assert_served();
    for (subject, status, code) in [
        ("certified", 401, "certificate_required"),
        ("both", 401, "certificate_required"),
        ("narrow", 404, "model_not_found"),
        ("far", 403, "network_not_allowed"),
        ("over", 401, "invalid_credentials"),
    ] {
        bearing(subject).chat(&chat("llama")).await.assert_refused(&world, status, code).await;
    }
    bearing("narrow").chat(&chat("same")).await.assert_served();
    let embeddings = bearing("narrow").post("/v1/embeddings", "{\"model\":\"same\",\"input\":\"x\"}").await;
    embeddings.assert_refused(&world, 403, "endpoint_not_allowed").await;
    // A certificate of the node or below makes it both; another's does not.
    let bob = world.certificate("bob");
    let both = bearing("both").certificate(&bob);
    both.chat(&chat("llama")).await.assert_refused(&world, 401, "certificate_required").await;
    // A path without a grant is closed, whoever vouches.
    let stranger = world.bearing(&signer.token(&claims("other", "alice")));
    stranger.chat(&chat("llama")).await.assert_refused(&world, 403, "no_grant").await;
}

/// Whatever is wrong with a token, and wherever it is: the same answer. The record tells.
#[tokio::test]
async fn refused_tokens_look_like_any_refused_credential() {
    let stub = Stub::chatty().await;
    let signer = Signer::new("1", Algorithm::ES256);
    let server = IssuerServer::start(&[&signer]).await;
    let world = setup(&stub, &discovered(&server, "leeway = \"0s\"")).start().await;
    world.fetches_are("fetched", 1.0).await;
    let key = world.key("acme/x").await;
    let good = claims(&server.url(), "alice");
    let token = signer.token(&good);
    let changed = |name: &str, value: serde_json::Value| {
        let mut claims = good.clone();
        claims[name] = value;
        signer.token(&claims)
    };
    let now = good["iat"].as_i64().unwrap();
    let cases = [
        (world.caller(), "no credential"),
        (world.bearing(&key.text.replace("dw_", "dx_")), "not the form of a key"),
        (world.bearing(&format!("{token}x")), "the form of a token"),
        (world.bearing(&"a.".repeat(5000)), "too long"),
        (world.bearing(&Signer::new("1", Algorithm::ES256).token(&good)), "wrong signature"),
        (world.bearing(&changed("iss", json!("https://evil.test"))), "no [[issuer]]"),
        (world.bearing(&changed("aud", json!("other"))), "aud"),
        (world.bearing(&changed("exp", json!(now - 1))), "expired"),
        (world.bearing(&changed("nbf", json!(now + 60))), "not valid yet"),
        (world.bearing(&changed("sub", json!("../admin"))), "not an owner segment"),
        (world.bearing(&changed("sub", json!(["alice"]))), "wrong type"),
        // A token is for one header.
        (world.caller().header("x-api-key", &token), "Authorization: Bearer only"),
        (world.caller().header("api-key", &token), "Authorization: Bearer only"),
        (world.bearing(&token).header("x-api-key", &token), "Authorization: Bearer only"),
        (world.caller().header("authorization", &format!("JWT {token}")), "not the form of a key"),
        (world.caller().header("authorization", &format!("DPoP {token}")), "not the form of a key"),
        (world.caller().header("authorization", &token), "not the form of a key"),
        // Two credentials are one too many.
        (world.bearing(&token).key(&key), "different credentials"),
        (world.bearing(&token).header("x-api-key", &key.text), "different credentials"),
        (world.bearing(&token).header("x-api-key", "certificate"), "different credentials"),
        (
            world.bearing(&token).header("authorization", &format!("Bearer {}", changed("sub", json!("bob")))),
            "different",
        ),
    ];
    let mut seen = None;
    for (caller, detail) in cases {
        let mut answer = caller.chat(&chat("llama")).await;
        let record = answer.assert_refused(&world, 401, "invalid_credentials").await;
        let said = record["detail"].as_str().unwrap();
        assert!(said.contains(detail), "{detail}: {record}");
        assert!(!said.contains("alice") && !said.contains("admin") && !said.contains("evil"), "{record}");
        answer.headers.remove("x-request-id");
        answer.headers.remove("date");
        let look = format!("{answer:?}");
        assert_eq!(*seen.get_or_insert_with(|| look.clone()), look, "{detail}");
    }
    let mut line = world.caller().h1().await;
    for path in [format!("/v1/models?access_token={token}"), format!("/v1/models?api_key={token}")] {
        line.get(&path).await.assert_refused(&world, 400, "credential_in_query").await;
    }
    // A bad token is not made good by a certificate.
    let certified = world.bearing(&changed("exp", json!(now - 1))).certificate(&world.certificate("bob"));
    certified.chat(&chat("llama")).await.assert_refused(&world, 401, "invalid_credentials").await;
    stub.assert_untouched();
    world.bearing(&token).chat(&chat("llama")).await.assert_served();
}

/// Not even at the finest level of the log.
#[tokio::test]
async fn promise_09_tokens_appear_nowhere() {
    let stub = Stub::chatty().await;
    let signer = Signer::new("canary-kid", Algorithm::ES256);
    let server = IssuerServer::start(&[&signer]).await;
    let process = Process::serve(&setup(&stub, &(discovered(&server, "") + "[log]\nlevel = \"trace\""))).await;
    let good = claims(&server.url(), "canary-subject");
    let mut expired = good.clone();
    expired["exp"] = json!(1);
    let unknown = Signer::new("canary-unknown", Algorithm::ES256).token(&good);
    let tokens = [signer.token(&good), signer.token(&expired), unknown, signer.token(&good) + "x"];
    for (token, status) in tokens.iter().zip([200, 401, 401, 401]) {
        for mut line in process.caller().header("authorization", &format!("Bearer {token}")).both().await {
            assert_eq!(line.chat(&chat("llama")).await.status, status);
        }
    }
    let records = || fs::read_to_string(process.files.state.join("records.jsonl")).unwrap_or_default();
    until(LONG, "the records are written", || (records().lines().count() >= 8).then_some(())).await;
    assert!(records().contains("acme/sso/canary-subject"));
    let said = process.log() + &records();
    for token in &tokens {
        for part in token.split('.') {
            assert!(!said.contains(&part[..part.len().min(20)]), "{said}");
        }
    }
    assert!(!said.contains("canary-kid") && !said.contains("canary-unknown"), "{said}");
    // Owners are for records; a subject that nobody placed is in neither.
    assert!(!process.log().contains("canary"), "{}", process.log());
}

/// Without an `[[issuer]]` there are no tokens.
#[tokio::test]
async fn a_token_without_issuers_is_no_credential() {
    let stub = Stub::chatty().await;
    let world = World::open(&stub).await;
    let token = Signer::new("1", Algorithm::ES256).token(&claims("https://sso.corp.test", "alice"));
    let record = world.bearing(&token).chat(&chat("llama")).await;
    let record = record.assert_refused(&world, 401, "invalid_credentials").await;
    assert_eq!(record["detail"], "not the form of a key");
}

/// Exact on open connections, with a warm memory of the token; live streams end.
#[tokio::test]
async fn promise_03_expiry_of_a_token_is_exact_on_reused_connections() {
    let stub = Stub::by_hand().await;
    let signer = Signer::new("1", Algorithm::ES256);
    let server = IssuerServer::start(&[&signer]).await;
    for (leeway, h2) in [(0, false), (60, true)] {
        let issuers = discovered(&server, &format!("leeway = \"{leeway}s\""));
        let world = setup(&stub, &issuers).manual_clock().start().await;
        world.fetches_are("fetched", 1.0).await;
        let mut claims = claims(&server.url(), "alice");
        let end = world.clock.now().as_seconds() + 100;
        claims["exp"] = json!(end);
        let caller = world.bearing(&signer.token(&claims));
        let mut line = if h2 { caller.h2().await } else { caller.h1().await };
        let mut idle = caller.h1().await;
        let (flow, exchange) = live(&mut line, &stub).await;
        let id = flow.request_id();
        assert_eq!(idle.get("/v1/models").await.status, 200);
        let left = (end + leeway) * 1000 - world.clock.now().as_millis();
        world.clock.advance(Duration::from_millis(u64::try_from(left).unwrap() - 1));
        assert_eq!(idle.get("/v1/models").await.status, 200);
        world.clock.advance(Duration::from_millis(1));
        let refused = idle.get("/v1/models").await.assert_refused(&world, 401, "invalid_credentials").await;
        assert_eq!(
            (&refused["detail"], &refused["owner"]),
            (&json!("issuer sso: the token is expired"), &json!("acme/sso/alice"))
        );
        let ((text, broke), took) = tokio::join!(flow.end(), exchange.closed());
        assert!(broke.is_some() && !text.contains("[DONE]") && took < 2 * SECOND, "{broke:?} {took:?}");
        let record = world.record(&id).await;
        assert_eq!((&record["outcome"], &record["code"]), (&json!("ended"), &json!("invalid_credentials")));
    }
}

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
    for _ in 0..50 {
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

/// A backend that asks who is calling hears it; no subject can make a header of its own.
#[tokio::test]
async fn backends_hear_the_subject() {
    let stub = Stub::chatty().await;
    let signer = Signer::new("1", Algorithm::ES256);
    let server = IssuerServer::start(&[&signer]).await;
    let setup =
        setup(&stub, &discovered(&server, "owner = \"acme/sso/{sub:hash}\"")).backend(&stub, "forward_identity = true");
    let world = setup.start().await;
    for (subject, said) in [
        ("alice@corp.test", Some("sso/alice@corp.test")),
        ("a\r\nx-doorward-owner: root", None),
        ("é", None),
        ("", Some("sso/")),
    ] {
        let token = signer.token(&claims(&server.url(), subject));
        world.bearing(&token).chat(&chat("llama")).await.assert_served();
        let seen = stub.seen().pop().unwrap();
        assert_eq!(seen.values("x-doorward-subject"), said.into_iter().collect::<Vec<_>>(), "{}", seen.head);
        let [owner] = seen.values("x-doorward-owner")[..] else { panic!("{}", seen.head) };
        assert!(owner.starts_with("acme/sso/h-") && owner.len() == 9 + 2 + 26, "{owner}");
        assert!(seen.values("x-doorward-key-id").is_empty());
    }
}

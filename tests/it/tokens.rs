//! Callers with tokens of an issuer, through a real gateway; the issuer is a real server.

use std::fs;
use std::time::Duration;

use jsonwebtoken::Algorithm;
use serde_json::json;

use crate::support::{
    Caller, IssuerServer, KEYS, LONG, OPEN, Process, Setup, Signer, Stub, World, chat, claims, live, until, within,
};

pub(crate) const SECOND: Duration = Duration::from_secs(1);

/// An `[[issuer]]` whose keys are at `place`.
pub(crate) fn entry(name: &str, place: &str, more: &str) -> String {
    let owner = if more.contains("owner") { "" } else { "owner = \"acme/sso/{sub}\"" };
    let algorithms = if more.contains("algorithms") { "" } else { "algorithms = [\"ES256\", \"RS256\"]" };
    format!("[[issuer]]\nname = \"{name}\"\n{place}\naudience = [\"doorward\"]\n{algorithms}\n{owner}\n{more}\n")
}

/// The same, found by its discovery document.
pub(crate) fn discovered(server: &IssuerServer, more: &str) -> String {
    entry("sso", &format!("url = \"{}\"", server.url()), more)
}

pub(crate) fn setup(stub: &Stub, issuers: &str) -> Setup {
    let mut setup = Setup::new(stub);
    issuers.clone_into(&mut setup.more);
    setup
}

impl World {
    pub(crate) fn bearing(&self, token: &str) -> Caller {
        self.caller().header("authorization", &format!("Bearer {token}"))
    }

    /// How often the keys of the issuer were fetched, or could not be.
    pub(crate) async fn fetches(&self, result: &str) -> f64 {
        self.metric(&format!("doorward_issuer_key_fetches_total{{issuer=\"sso\",result=\"{result}\"}}")).await
    }

    /// Waits until that has happened so often, or oftener.
    pub(crate) async fn fetches_are(&self, result: &str, times: f64) {
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

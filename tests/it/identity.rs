//! Who a caller is: certificates, external authorities, keys, and both at once.

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};
use rustls_pki_types::PrivateKeyDer;
use time::{Duration as Span, OffsetDateTime};

use crate::support::{Leaf, OPEN, Setup, Stub, World, chat};

/// An authority that is not the gateway's own.
struct External {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl External {
    fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let certificate = params.self_signed(&key).unwrap();
        Self { pem: certificate.pem(), issuer: Issuer::new(params, key) }
    }

    fn sign(&self, names: Vec<SanType>) -> Leaf {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.not_before = OffsetDateTime::now_utc() - Span::hours(1);
        params.not_after = OffsetDateTime::now_utc() + Span::hours(1);
        params.subject_alt_names = names;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Leaf::new(vec![certificate.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
    }
}

fn dns(name: &str) -> SanType {
    SanType::DnsName(name.try_into().unwrap())
}

fn uri(name: &str) -> SanType {
    SanType::URI(name.try_into().unwrap())
}

/// A gateway that trusts two authorities besides its own.
fn trusting(stub: &Stub, pki: &External, spire: &External) -> Setup {
    let grants = format!(
        r#"{OPEN}
[[identity]]
match = "spiffe://pki.test/client/*"
owner = "acme/pki"
[[identity]]
match = "spiffe://spire.test/*"
owner = "acme/spire"
"#
    );
    let mut setup = Setup::new(stub).grants(&grants);
    setup.more = r#"
[[trust]]
name = "pki"
roots = "pki.pem"
map = { from = "san_dns", to = "spiffe://pki.test/client/{}" }
[[trust]]
name = "spire"
roots = "spire.pem"
map = "spiffe"
trust_domains = ["spire.test"]
"#
    .to_owned();
    setup.files = vec![("pki.pem".to_owned(), pki.pem.clone()), ("spire.pem".to_owned(), spire.pem.clone())];
    setup
}

#[tokio::test]
async fn external_certificates_become_the_identities_of_their_authority() {
    let stub = Stub::chatty().await;
    let (pki, spire) = (External::new("pki"), External::new("spire"));
    let world = trusting(&stub, &pki, &spire).start().await;
    for (leaf, identity, owner) in [
        (pki.sign(vec![dns("build-7.corp")]), "spiffe://pki.test/client/build-7.corp", "acme/pki"),
        (
            spire.sign(vec![uri("spiffe://spire.test/ns/prod/sa/web")]),
            "spiffe://spire.test/ns/prod/sa/web",
            "acme/spire",
        ),
    ] {
        for mut line in world.caller().leaf(&leaf).both().await {
            let answer = line.chat(&chat("llama")).await;
            answer.assert_served();
            let record = world.record(answer.request_id()).await;
            assert_eq!((&record["identity"], &record["owner"]), (&identity.into(), &owner.into()));
        }
    }
}

/// An authority speaks for its own domains and roles only; what is ambiguous is nobody.
#[tokio::test]
async fn an_external_authority_cannot_speak_for_others() {
    let stub = Stub::chatty().await;
    let (pki, spire) = (External::new("pki"), External::new("spire"));
    let world = trusting(&stub, &pki, &spire).start().await;
    let forged = [
        spire.sign(vec![uri("spiffe://corp.test/client/alice")]),
        spire.sign(vec![uri("spiffe://pki.test/client/alice")]),
        spire.sign(vec![uri("spiffe://spire.test/a"), uri("spiffe://spire.test/b")]),
        spire.sign(vec![dns("alice")]),
        spire.sign(vec![]),
        pki.sign(vec![uri("spiffe://corp.test/client/alice")]),
        pki.sign(vec![dns("a.corp"), dns("b.corp")]),
        pki.sign(vec![dns("UPPER.corp")]),
        pki.sign(vec![dns("*.corp")]),
    ];
    for leaf in forged {
        // The refusal comes after a TLS 1.3 client's own end of the handshake.
        let Ok(mut stream) = world.caller().leaf(&leaf).tls(&["http/1.1"]).await else { continue };
        let request = b"GET /v1/models HTTP/1.1\r\nHost: llm.test\r\nConnection: close\r\n\r\n";
        let mut answer = Vec::new();
        let sent = tokio::io::AsyncWriteExt::write_all(&mut stream, request).await;
        let read = tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut answer).await;
        let answer = String::from_utf8_lossy(&answer);
        assert!(sent.is_err() || read.is_err() || answer.starts_with("HTTP/1.1 401"), "{answer}");
        assert!(!answer.contains(" 200 "), "{answer}");
    }
    assert!(world.records().iter().all(|record| record["identity"].is_null()));
    stub.assert_untouched();
}

/// An authority that is not trusted any more takes its callers with it, open connections included.
#[tokio::test]
async fn a_reload_that_drops_an_authority_reaches_open_connections() {
    let stub = Stub::chatty().await;
    let (pki, spire) = (External::new("pki"), External::new("spire"));
    let mut setup = trusting(&stub, &pki, &spire);
    let world_text = {
        let full = setup.text();
        let start = full.find("[[trust]]\nname = \"spire\"").unwrap();
        let end = full[start..].find("trust_domains = [\"spire.test\"]\n").unwrap() + start;
        format!("{}{}", &full[..start], &full[end + "trust_domains = [\"spire.test\"]\n".len()..])
    };
    let world_text =
        world_text.replace("[[identity]]\nmatch = \"spiffe://spire.test/*\"\nowner = \"acme/spire\"\n", "");
    setup.workers = 1;
    let mut world = setup.start().await;
    let leaf = spire.sign(vec![uri("spiffe://spire.test/web")]);
    let mut lines = world.caller().leaf(&leaf).both().await;
    for line in &mut lines {
        line.chat(&chat("llama")).await.assert_served();
    }
    world.reload(&world_text);
    assert!(world.metric("doorward_reloads_total{result=\"applied\"}").await > 0.5);
    for line in &mut lines {
        line.chat(&chat("llama")).await.assert_refused(&world, 401, "invalid_credentials").await;
    }
}

/// A certificate and a key: both paths apply, each only takes away, and the record names both.
#[tokio::test]
async fn a_certificate_and_a_key_on_different_paths() {
    let stub = Stub::chatty().await;
    let grants = r#"
[[grant]]
owner = "acme"
require = "either"
networks = ["*"]
endpoints = ["*"]
models = ["*"]
[[grant]]
owner = "acme/people"
models = ["llama"]
[[grant]]
owner = "acme/keys"
endpoints = ["@chat", "@models"]
[[grant]]
owner = "acme/certified"
require = "both"
[[identity]]
match = "spiffe://corp.test/client/a*"
owner = "acme/people"
[[identity]]
match = "spiffe://corp.test/client/c*"
owner = "acme/certified/c"
"#;
    let world = Setup::new(&stub).grants(grants).start().await;
    let (alice, nobody) = (world.certificate("alice"), world.certificate("nobody"));
    let (key, strict) = (world.key("acme/keys").await, world.key("acme/certified/x").await);

    let both = world.caller().certificate(&alice).key(&key);
    let answer = both.chat(&chat("llama")).await;
    answer.assert_served();
    let record = world.record(answer.request_id()).await;
    assert_eq!((&record["owner"], &record["identity_owner"]), (&"acme/keys".into(), &"acme/people".into()));
    assert_eq!(record["identity"], "spiffe://corp.test/client/alice");
    both.chat(&chat("same")).await.assert_refused(&world, 404, "model_not_found").await;
    both.post("/v1/embeddings", &chat("llama")).await.assert_refused(&world, 403, "endpoint_not_allowed").await;

    // An identity without an owner is nobody alone, and adds nothing to a key.
    world.caller().certificate(&nobody).chat(&chat("llama")).await.assert_refused(&world, 403, "no_grant").await;
    let answer = world.caller().certificate(&nobody).key(&key).chat(&chat("same")).await;
    answer.assert_served();
    assert!(world.record(answer.request_id()).await["identity_owner"].is_null());

    // A certificate counts for a node only from at or below it.
    for (certificate, code) in [(&alice, "certificate_required"), (&nobody, "certificate_required")] {
        let answer = world.caller().certificate(certificate).key(&strict).chat(&chat("llama")).await;
        answer.assert_refused(&world, 401, code).await;
    }
    let carol = world.certificate("carol");
    world.caller().certificate(&carol).chat(&chat("llama")).await.assert_refused(&world, 401, "key_required").await;
    world.caller().certificate(&carol).key(&strict).chat(&chat("llama")).await.assert_served();
}

/// Both are presented, so both must stand.
#[tokio::test]
async fn a_good_credential_does_not_cover_for_a_bad_one() {
    let stub = Stub::chatty().await;
    let world = World::open(&stub).await;
    let (alice, bob) = (world.certificate("alice"), world.certificate("bob"));
    let (good, bad) = (world.key("acme/x").await, world.key("acme/x").await);
    let before = world.generation();
    world.revoke_key(&bad.id);
    world.changed_since(before).await;
    let before = world.generation();
    world.revoke_certificate(&bob.serial);
    world.changed_since(before).await;
    for caller in [
        world.caller().certificate(&alice).key(&bad),
        world.caller().certificate(&bob).key(&good),
        world.caller().certificate(&alice).header("authorization", "Bearer nonsense"),
    ] {
        caller.chat(&chat("llama")).await.assert_refused(&world, 401, "invalid_credentials").await;
    }
    stub.assert_untouched();
    world.caller().certificate(&alice).key(&good).chat(&chat("llama")).await.assert_served();
}

/// SDKs insist on sending some key: `certificate` stands for none.
#[tokio::test]
async fn the_placeholder_key_stands_for_the_certificate() {
    let stub = Stub::chatty().await;
    let world = World::open(&stub).await;
    let alice = world.caller().certificate(&world.certificate("alice"));
    for (name, value) in
        [("authorization", "Bearer certificate"), ("x-api-key", "certificate"), ("api-key", "certificate")]
    {
        let answer = alice.clone().header(name, value).chat(&chat("llama")).await;
        answer.assert_served();
        let record = world.record(answer.request_id()).await;
        assert_eq!((&record["owner"], &record["key_id"]), (&"acme/people".into(), &serde_json::Value::Null));
    }
}

/// A key works in each of its headers, and in several at once if it is the same.
#[tokio::test]
async fn a_key_in_every_header() {
    let stub = Stub::chatty().await;
    let world = World::open(&stub).await;
    let (key, other) = (world.key("acme/x").await, world.key("acme/x").await);
    let bearer = format!("Bearer {}", key.text);
    for headers in [
        &[("authorization", bearer.as_str())][..],
        &[("authorization", &bearer.replace("Bearer", "bEARER"))],
        &[("x-api-key", &key.text)],
        &[("api-key", &key.text)],
        &[("authorization", &bearer), ("x-api-key", &key.text), ("api-key", &key.text)],
    ] {
        let caller = headers.iter().fold(world.caller(), |caller, (name, value)| caller.header(name, value));
        for mut line in caller.both().await {
            line.chat(&chat("llama")).await.assert_served();
        }
    }
    let seen = stub.seen().len();
    for headers in [
        &[("authorization", bearer.as_str()), ("x-api-key", &other.text)][..],
        &[("x-api-key", &key.text), ("x-api-key", &other.text)],
        &[("authorization", &bearer), ("x-api-key", "certificate")],
    ] {
        let caller = headers.iter().fold(world.caller(), |caller, (name, value)| caller.header(name, value));
        caller.chat(&chat("llama")).await.assert_refused(&world, 401, "invalid_credentials").await;
    }
    assert_eq!(stub.seen().len(), seen);
}

/// Without a certificate there is no connection, or none is asked for: as the operator wrote.
#[tokio::test]
async fn certificates_are_asked_for_as_configured() {
    let stub = Stub::chatty().await;
    let mut setup = Setup::new(&stub);
    setup.client_auth = "required";
    let world = setup.start().await;
    let key = world.key("acme/x").await;
    let mut stream = world.caller().tls(&["http/1.1"]).await.unwrap();
    let mut answer = Vec::new();
    assert!(tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut answer).await.is_err());
    world.metric_becomes("doorward_handshake_failures_total{reason=\"certificate\"}", 1.0).await;
    let alice = world.caller().certificate(&world.certificate("alice"));
    alice.chat(&chat("llama")).await.assert_served();
    alice.key(&key).chat(&chat("llama")).await.assert_served();

    let mut setup = Setup::new(&stub);
    setup.client_auth = "off";
    let world = setup.start().await;
    let alice = world.caller().certificate(&world.certificate("alice"));
    alice.chat(&chat("llama")).await.assert_refused(&world, 401, "invalid_credentials").await;
    alice.key(&world.key("acme/x").await).chat(&chat("llama")).await.assert_served();
}

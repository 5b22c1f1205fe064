//! The desk: first certificates for bundles, renewals, the list of what is revoked; over real TLS.

use std::collections::HashSet;
use std::time::Duration;

use doorward::ca::bundle::Bundle;
use doorward::ca::exchange::{CRL, Code, ENROLL, EnrollRequest, Granted, RENEW, ROOTS};
use doorward::clock::Clock;
use doorward::domain::identity::Role;
use doorward::gate::connection::Patience;
use http::Method;
use rcgen::{CertificateParams, KeyPair};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;

use crate::support::{Caller, LONG, Leaf, Setup, Stub, Whole, World, chat, until, within};

const ADDRESS: &str = "gw.corp.test:8443";

/// A key with a request for it.
struct Asker {
    key: KeyPair,
    csr: String,
}

impl Asker {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let csr = CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap();
        Self { key, csr }
    }

    fn request(&self, bundle: &Bundle) -> String {
        let request = EnrollRequest { id: bundle.id, secret: bundle.secret.clone(), csr: self.csr.clone() };
        String::from_utf8(request.reveal().unwrap().to_vec()).unwrap()
    }

    fn renewal(&self) -> String {
        json!({ "csr": self.csr }).to_string()
    }

    /// The key with the certificate that it got.
    #[track_caller]
    fn leaf(&self, answer: &Whole) -> Leaf {
        assert_eq!(answer.status, 201, "{}", answer.text());
        let granted = Granted::parse(&answer.body).unwrap();
        let chain = CertificateDer::pem_slice_iter(granted.certificate.as_bytes()).map(Result::unwrap).collect();
        Leaf::new(chain, PrivatePkcs8KeyDer::from(self.key.serialize_der()).into())
    }
}

trait AtDesk {
    /// Somebody who comes to the desk.
    fn visitor(&self) -> Caller;
    async fn bundle(&self, role: &str, name: &str) -> Bundle;
    async fn bundle_with(&self, body: Value) -> Bundle;
}

impl AtDesk for World {
    fn visitor(&self) -> Caller {
        self.caller().named("enroll.test")
    }

    async fn bundle(&self, role: &str, name: &str) -> Bundle {
        self.bundle_with(json!({ "role": role, "name": name, "addresses": [ADDRESS] })).await
    }

    async fn bundle_with(&self, body: Value) -> Bundle {
        let made = self.socket().await.post("/v1/enrollments", &body.to_string()).await;
        assert_eq!(made.status, 201, "{}", made.text());
        let made = made.json();
        let bundle = Bundle::parse(made["bundle"].as_str().unwrap()).unwrap();
        assert_eq!(
            (made["id"].as_str().unwrap(), made["expires_at"].as_str().unwrap()),
            (bundle.id.to_string().as_str(), bundle.expires_at.to_string().as_str())
        );
        assert_eq!(made.as_object().unwrap().len(), 3);
        bundle
    }
}

/// The desk refused; gives the record.
async fn assert_refused(world: &World, answer: &Whole, status: u16, code: &str) -> Value {
    let said = answer.json();
    assert_eq!((answer.status, said["code"].as_str(), &said["status"]), (status, Some(code), &status.into()), "{said}");
    assert_eq!(answer.header("content-type"), Some("application/problem+json"));
    assert_eq!(said["request_id"], answer.request_id());
    let record = world.record(answer.request_id()).await;
    assert_eq!(
        (&record["outcome"], &record["code"], &record["status"]),
        (&"refused".into(), &code.into(), &status.into()),
        "{record}"
    );
    record
}

#[tokio::test]
async fn a_bundle_becomes_a_certificate_that_callers_use() {
    let stub = Stub::chatty().await;
    let world = World::open(&stub).await;
    let bundle = world.bundle("client", "alice").await;
    assert_eq!(bundle.addresses[0].to_string(), ADDRESS);
    assert_eq!(
        (bundle.enroll.as_str(), bundle.connect.as_ref().unwrap().as_str(), bundle.api.to_string().as_str()),
        ("enroll.test", "connect.test", "llm.test")
    );
    let asker = Asker::new();
    let answer = world.visitor().post(ENROLL, &asker.request(&bundle)).await;
    let leaf = asker.leaf(&answer);
    assert_eq!(Granted::parse(&answer.body).unwrap().ca, world.authority.bundle_pem());
    let record = world.record(answer.request_id()).await;
    assert_eq!(
        (&record["endpoint"], &record["identity"], &record["status"]),
        (&"doorward.enroll".into(), &"spiffe://corp.test/client/alice".into(), &201.into())
    );
    world.caller().leaf(&leaf).chat(&chat("llama")).await.assert_served();
    // Once.
    let record = assert_refused(
        &world,
        &world.visitor().post(ENROLL, &Asker::new().request(&bundle)).await,
        401,
        "invalid_enrollment",
    )
    .await;
    assert!(record["detail"].as_str().unwrap().contains("used before"), "{record}");
    // The audit: who made it, what became of it.
    let events = world.events_with("bundle", &bundle.id.to_string(), 2).await;
    let words: Vec<_> = events.iter().map(|event| event["event"].as_str().unwrap()).collect();
    assert_eq!(words, ["bundle_created", "certificate_issued"]);
    assert!(events[0]["by"].as_str().unwrap().starts_with("uid "), "{}", events[0]);
    assert_eq!(
        (&events[1]["by"], &events[1]["client_ip"], &events[1]["request_id"]),
        (&format!("bundle {}", bundle.id).into(), &"127.0.0.1".into(), &answer.request_id().into())
    );
}

#[tokio::test]
async fn fifty_racing_joins_get_one_certificate() {
    let stub = Stub::chatty().await;
    let world = World::open(&stub).await;
    let bundle = world.bundle("client", "alice").await;
    let mut lines = Vec::new();
    for _ in 0..50 {
        lines.push((world.visitor().h1().await, Asker::new().request(&bundle)));
    }
    let tasks: Vec<_> =
        lines.into_iter().map(|(mut line, body)| tokio::spawn(async move { line.post(ENROLL, &body).await })).collect();
    let (mut won, mut lost) = (0, HashSet::new());
    for task in tasks {
        let answer = task.await.unwrap();
        if answer.status == 201 {
            won += 1;
        } else {
            assert_eq!(answer.status, 401, "{}", answer.text());
            let mut said = answer.json();
            said["request_id"] = Value::Null;
            lost.insert(said.to_string());
        }
    }
    assert_eq!((won, lost.len()), (1, 1), "one wins, and all others hear the same: {lost:?}");
    assert_eq!(world.store().list_certificates().unwrap().len(), 1);
}

#[tokio::test]
async fn whoever_has_not_the_root_finds_it_in_the_chain() {
    let stub = Stub::chatty().await;
    let world = World::open(&stub).await;
    let session = world.visitor().tls(&["http/1.1"]).await.unwrap();
    let chain = session.get_ref().1.peer_certificates().unwrap().to_vec();
    assert!(chain.contains(world.authority.root()), "the root is not among {} certificates", chain.len());
    let (_, leaf) = X509Certificate::from_der(&chain[0]).unwrap();
    let names = format!("{:?}", leaf.subject_alternative_name().unwrap().unwrap().value.general_names);
    assert!(names.contains("enroll.test") && !names.contains("llm.test"), "each role has its own certificate: {names}");
}

#[tokio::test]
async fn guesses_are_limited_and_winners_never() {
    let stub = Stub::chatty().await;
    let world = World::open(&stub).await;
    let bundle = world.bundle("client", "alice").await;
    let mut guess = bundle.clone();
    guess.secret = doorward::ca::bundle::BundleSecret::from_random([1; 32]);
    let mut line = world.visitor().h1().await;
    for _ in 0..20 {
        assert_eq!(line.post(ENROLL, &Asker::new().request(&guess)).await.status, 401);
    }
    let answer = line.post(ENROLL, &Asker::new().request(&guess)).await;
    assert!(answer.header("retry-after").is_some());
    assert_refused(&world, &answer, 429, "too_many_failures").await;
    let asker = Asker::new();
    asker.leaf(&line.post(ENROLL, &asker.request(&bundle)).await);
}

#[tokio::test]
async fn a_network_a_revocation_and_time_end_a_bundle() {
    let stub = Stub::chatty().await;
    let world = Setup::new(&stub).manual_clock().start().await;
    let elsewhere = json!({ "role": "client", "name": "a", "addresses": [ADDRESS], "networks": ["10.0.0.0/8"] });
    let elsewhere = world.bundle_with(elsewhere).await;
    let answer = world.visitor().post(ENROLL, &Asker::new().request(&elsewhere)).await;
    let record = assert_refused(&world, &answer, 401, "invalid_enrollment").await;
    assert!(record["detail"].as_str().unwrap().contains("network"), "{record}");
    let revoked = world.bundle("client", "b").await;
    let path = format!("/v1/enrollments/{}/revoke", revoked.id);
    assert_eq!(world.socket().await.post(&path, "").await.json()["newly"], true);
    assert_eq!(world.visitor().post(ENROLL, &Asker::new().request(&revoked)).await.status, 401);
    let named = world.bundle("connector", "c").await;
    let gone = world.socket().await.post("/v1/names/c/revoke", "{}").await.json();
    assert_eq!((&gone["bundles"], &gone["certificates"]), (&1.into(), &0.into()));
    assert_eq!(world.visitor().post(ENROLL, &Asker::new().request(&named)).await.status, 401);
    let late = world.bundle("client", "d").await;
    world.clock.advance(Duration::from_secs(15 * 60));
    assert_eq!(world.visitor().post(ENROLL, &Asker::new().request(&late)).await.status, 401);
    let listed = world.socket().await.get("/v1/enrollments").await.json();
    let states: Vec<_> = listed["items"].as_array().unwrap().iter().map(|one| one["state"].as_str().unwrap()).collect();
    assert_eq!(HashSet::from_iter(states), HashSet::from(["expired", "revoked"]));
    assert!(!listed.to_string().contains("secret"));
}

#[tokio::test]
async fn a_bad_body_costs_nothing() {
    let stub = Stub::chatty().await;
    let world = World::open(&stub).await;
    let bundle = world.bundle("client", "alice").await;
    let good = Asker::new();
    for body in ["", "{}", "[]", "null", "\u{feff}{}", r#"{"id":1,"secret":2,"csr":3}"#] {
        assert_refused(&world, &world.visitor().post(ENROLL, body).await, 400, "invalid_request").await;
    }
    let junk = good.request(&bundle).replace("REQUEST", "RUBBISH");
    assert_refused(&world, &world.visitor().post(ENROLL, &junk).await, 400, "bad_csr").await;
    let large = "x".repeat(1 << 20);
    assert_refused(&world, &world.visitor().post(ENROLL, &large).await, 413, "body_too_large").await;
    let mut line = world.visitor().header("content-type", "text/plain").h1().await;
    assert_refused(&world, &line.post(ENROLL, &good.request(&bundle)).await, 415, "unsupported_media_type").await;
    good.leaf(&world.visitor().post(ENROLL, &good.request(&bundle)).await);
}

#[tokio::test]
async fn the_desk_has_four_paths_one_name_and_nothing_of_the_api() {
    let stub = Stub::chatty().await;
    let world = World::open(&stub).await;
    let mut line = world.visitor().h1().await;
    assert_refused(&world, &line.chat(&chat("llama")).await, 404, "not_found").await;
    assert_refused(&world, &line.get("/.doorward/v1/enroll/").await, 404, "not_found").await;
    let wrong = line.get(ENROLL).await;
    assert_eq!(wrong.header("allow"), Some("POST"));
    assert_refused(&world, &wrong, 405, "method_not_allowed").await;
    assert_refused(&world, &line.ask(Method::PUT, CRL, "").await, 405, "method_not_allowed").await;
    let mut elsewhere = world.caller().named("enroll.test").h1().await;
    let mut request = elsewhere.json(ENROLL, "{}");
    request.headers_mut().insert("host", "llm.test".parse().unwrap());
    let answer = Whole::of(elsewhere.send(request).await.unwrap()).await;
    assert_refused(&world, &answer, 421, "misdirected").await;
    // A caller's connection has no desk, and the desk speaks HTTP/1.1 only.
    assert_eq!(world.caller().post(ENROLL, "{}").await.status, 401);
    assert!(world.visitor().tls(&["h2"]).await.is_err());
}

#[tokio::test]
async fn a_certificate_is_renewed_by_its_holder_until_it_ends_or_is_revoked() {
    let stub = Stub::chatty().await;
    let world = Setup::new(&stub).manual_clock().start().await;
    let issued = world.certificate_as(Role::Connector, "site", Some(Duration::from_secs(3600)));
    let holder = world.visitor().certificate(&issued);
    let asker = Asker::new();
    world.clock.advance(Duration::from_secs(2400));
    let answer = holder.post(RENEW, &asker.renewal()).await;
    let next = asker.leaf(&answer);
    let record = world.record(answer.request_id()).await;
    assert_eq!(
        (&record["endpoint"], &record["identity"]),
        (&"doorward.renew".into(), &"spiffe://corp.test/connector/site".into())
    );
    let (_, leaf) = X509Certificate::from_der(&next.chain[0]).unwrap();
    let validity = leaf.validity();
    assert_eq!(validity.not_after.timestamp(), world.clock.now().as_seconds() + 3600, "as long as the one before");

    assert_refused(&world, &world.visitor().post(RENEW, &Asker::new().renewal()).await, 401, "certificate_required")
        .await;
    let unread = world.visitor().post(RENEW, &"x".repeat(1 << 20)).await;
    assert_refused(&world, &unread, 401, "certificate_required").await;
    world.clock.advance(Duration::from_secs(1200));
    let late =
        assert_refused(&world, &holder.post(RENEW, &Asker::new().renewal()).await, 401, "certificate_required").await;
    assert!(late["detail"].as_str().unwrap().contains("ended"), "{late}");
    let holder = world.visitor().leaf(&next);
    asker_renews(&holder).await;
    world.revoke_name("site");
    assert_refused(&world, &holder.post(RENEW, &Asker::new().renewal()).await, 403, "certificate_revoked").await;

    let alice = world.certificate("alice");
    asker_renews(&world.visitor().certificate(&alice)).await;
    world.revoke_certificate(&alice.serial);
    let answer = world.visitor().certificate(&alice).post(RENEW, &Asker::new().renewal()).await;
    assert_refused(&world, &answer, 403, "certificate_revoked").await;
    // Of an authority that the gateway does not know.
    let other = Setup::new(&stub).write();
    let theirs = other.certificate("alice");
    let answer = world.visitor().certificate(&theirs).post(RENEW, &Asker::new().renewal()).await;
    assert_refused(&world, &answer, 401, "certificate_required").await;
}

async fn asker_renews(holder: &Caller) {
    let asker = Asker::new();
    asker.leaf(&holder.post(RENEW, &asker.renewal()).await);
}

/// The number of the list, and the serial numbers on it.
async fn list(world: &World) -> (u64, Vec<Vec<u8>>) {
    let answer = world.visitor().h1().await.get(CRL).await;
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/pkix-crl")), "{answer:?}");
    let (_, list) = CertificateRevocationList::from_der(&answer.body).unwrap();
    let (_, issuer) = X509Certificate::from_der(world.authority.issuer().unwrap()).unwrap();
    list.verify_signature(issuer.public_key()).unwrap();
    assert!(list.next_update().unwrap().timestamp() > world.clock.now().as_seconds());
    let number = list.crl_number().unwrap();
    let serials = list.iter_revoked_certificates().map(|one| {
        let serial = one.raw_serial();
        serial[usize::from(serial[0] == 0)..].to_vec()
    });
    (number.to_string().parse().unwrap(), serials.collect())
}

/// Waits for a list that is newer than `number`.
async fn newer(world: &World, number: u64) -> (u64, Vec<Vec<u8>>) {
    within(LONG, "a newer list", async {
        loop {
            let found = list(world).await;
            if found.0 > number {
                return found;
            }
            tokio::task::yield_now().await;
        }
    })
    .await
}

async fn first_list(world: &World) -> (u64, Vec<Vec<u8>>) {
    within(LONG, "a list", async {
        while world.visitor().h1().await.get(CRL).await.status == 503 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    list(world).await
}

#[tokio::test]
async fn the_list_follows_each_revocation_and_its_numbers_only_grow() {
    let stub = Stub::chatty().await;
    // In the past, so that what comes hours later is not in the future of those who ask.
    let clock = Clock::manual(Clock::System.now().before(Duration::from_secs(12 * 3600)));
    let world = Setup { clock, ..Setup::new(&stub) }.start().await;
    let (alice, bob) = (world.certificate("alice"), world.certificate("bob"));
    let (number, serials) = first_list(&world).await;
    assert!(serials.is_empty());
    world.revoke_certificate(&alice.serial);
    let (second, serials) = newer(&world, number).await;
    assert_eq!(serials, [alice.serial.as_bytes()]);
    world.revoke_name("bob");
    let (third, serials) = newer(&world, second).await;
    assert_eq!(
        HashSet::from_iter(serials),
        HashSet::from([alice.serial.as_bytes().to_vec(), bob.serial.as_bytes().to_vec()])
    );
    // Six hours later, though nothing happened.
    world.clock.advance(Duration::from_secs(6 * 3600));
    let (fourth, _) = newer(&world, third).await;
    let world = world.restart(1).await;
    let (fifth, serials) = first_list(&world).await;
    assert!(fifth > fourth && serials.len() == 2);
    let roots = world.visitor().h1().await.get(ROOTS).await;
    assert_eq!((roots.status, roots.text()), (200, world.authority.bundle_pem()));
    // HEAD says how long it is.
    let head = world.visitor().h1().await.fetch(Method::HEAD, CRL).await;
    assert!(head.body.is_empty() && head.header("content-length").unwrap().parse::<usize>().unwrap() > 100);
}

#[tokio::test]
async fn who_drips_is_cut_and_others_are_served_meanwhile() {
    let stub = Stub::chatty().await;
    let head = Duration::from_millis(300);
    let world = Setup { patience: Patience { head, ..Patience::default() }, ..Setup::new(&stub) }.start().await;
    let mut silent = world.visitor().raw().await;
    let mut half = world.visitor().raw().await;
    half.send("POST /.doorward/v1/enroll HTTP/1.1\r\nHost: enro").await;
    let mut body = world.visitor().raw().await;
    body.send("POST /.doorward/v1/enroll HTTP/1.1\r\nHost: enroll.test\r\nContent-Type: application/json\r\nContent-Length: 4000\r\n\r\n{\"id\"").await;
    let bundle = world.bundle("client", "alice").await;
    let asker = Asker::new();
    asker.leaf(&world.visitor().post(ENROLL, &asker.request(&bundle)).await);
    silent.read_to_end().await;
    half.read_to_end().await;
    let answer = body.answer().await;
    assert_eq!((answer.status, answer.body.contains("too slowly")), (400, true), "{answer:?}");
}

#[tokio::test]
async fn one_address_cannot_hold_all_of_the_desk() {
    let stub = Stub::chatty().await;
    let world = World::open(&stub).await;
    let mut held = Vec::new();
    for _ in 0..64 {
        held.push(world.visitor().raw().await);
    }
    let mut over = world.visitor().raw().await;
    over.read_to_end().await;
    let elsewhere = world.visitor().calling_from("127.0.0.2".parse().unwrap());
    assert_eq!(elsewhere.h1().await.get(ROOTS).await.status, 200);
    assert_eq!(world.caller().certificate(&world.certificate("alice")).h1().await.get("/v1/models").await.status, 200);
    drop(held);
    within(LONG, "places are given back", async {
        while world.visitor().tls(&["http/1.1"]).await.is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn what_is_done_elsewhere_is_in_the_records_too() {
    let stub = Stub::chatty().await;
    let world = Setup::new(&stub).admin_api().start().await;
    let alice = world.certificate("alice");
    let operator = world.certificate_as(Role::Operator, "ops", None);
    let path = format!("/v1/certificates/{}/revoke", alice.serial);
    let done = world.operator().certificate(&operator).post(&path, r#"{"reason":"superseded"}"#).await;
    assert_eq!(done.json()["newly"], true, "{}", done.text());
    let events = world.events_with("serial", &alice.serial.to_string(), 2).await;
    assert_eq!((&events[0]["event"], &events[0]["client_ip"]), (&"certificate_issued".into(), &Value::Null));
    assert_eq!((&events[1]["event"], &events[1]["detail"]), (&"certificate_revoked".into(), &"superseded".into()));
    assert_eq!(
        (&events[1]["by"], &events[1]["client_ip"]),
        (&"spiffe://corp.test/operator/ops".into(), &"127.0.0.1".into())
    );
    // Each once, and gone from the store once they are written.
    until(LONG, "the store has no line left", || world.store().pending_events(9).unwrap().is_empty().then_some(()))
        .await;
    assert_eq!(world.events().len(), 3);
    // What is done while no gateway runs is told by the next one.
    let (server, prepared) = world.into_parts();
    server.shut_down().await;
    prepared.revoke_name("alice");
    let waiting = prepared.store().pending_events(9).unwrap();
    assert_eq!(waiting.len(), 1);
    let world = World::again(prepared).await;
    until(LONG, "the line is written", || (world.events().len() == 4).then_some(())).await;
}

#[tokio::test]
async fn a_gateway_that_stops_answers_who_has_come() {
    let stub = Stub::chatty().await;
    let world = World::open(&stub).await;
    let bundle = world.bundle("client", "alice").await;
    let mut line = world.visitor().h1().await;
    let asker = Asker::new();
    let body = asker.request(&bundle);
    let joining = tokio::spawn(async move { line.post(ENROLL, &body).await });
    until(LONG, "the bundle is used", || {
        world.store().enrollment(&bundle.id.to_string()).unwrap().unwrap().used.map(|_| ())
    })
    .await;
    let (server, prepared) = world.into_parts();
    server.shut_down().await;
    asker.leaf(&joining.await.unwrap());
    drop(prepared);
}

#[tokio::test]
async fn a_rotation_reaches_holders_by_renewal() {
    use doorward::ca::authority::Authority;
    use doorward::ca::change::{self, Unlock};
    use doorward::cli::ca::directory;
    let stub = Stub::chatty().await;
    let mut world = World::open(&stub).await;
    let alice = world.certificate("alice");
    let before = world.bundle("client", "bob").await;
    change::rotate_root(&directory(&world.state), Unlock::default(), world.clock.now()).unwrap();
    world.server.reload_if_due();
    let rotated = Authority::open(&directory(&world.state)).unwrap();
    let asker = Asker::new();
    let answer = world.visitor().certificate(&alice).post(RENEW, &asker.renewal()).await;
    asker.leaf(&answer);
    assert_eq!(Granted::parse(&answer.body).unwrap().ca, rotated.bundle_pem());
    // Whoever knows only one of the roots, old or new, finds it in the chain and verifies it.
    for root in [world.authority.root(), rotated.root()] {
        let visitor = Caller::new(world.address(), vec![root.clone()]).named("enroll.test");
        let session = visitor.tls(&["http/1.1"]).await.unwrap();
        assert!(session.get_ref().1.peer_certificates().unwrap().contains(root));
    }
    // A bundle from before works after it.
    let asker = Asker::new();
    asker.leaf(&world.visitor().post(ENROLL, &asker.request(&before)).await);
}

/// Whatever certificate the `api` names show.
#[tokio::test]
async fn with_a_certificate_of_ones_own_the_desk_keeps_the_authoritys() {
    let stub = Stub::chatty().await;
    let key = KeyPair::generate().unwrap();
    let own = CertificateParams::new(["llm.test".to_owned()]).unwrap().self_signed(&key).unwrap();
    let mut setup = Setup::new(&stub).listen("certificate = { chain = \"own.crt\", key = \"own.key\" }");
    setup.files = vec![("own.crt".to_owned(), own.pem()), ("own.key".to_owned(), key.serialize_pem())];
    let world = setup.start().await;
    assert!(world.caller().tls(&["http/1.1"]).await.is_err(), "that is not the authority's");
    let bundle = world.bundle("client", "alice").await;
    let asker = Asker::new();
    let leaf = asker.leaf(&world.visitor().post(ENROLL, &asker.request(&bundle)).await);
    Caller::new(world.address(), vec![own.der().clone()]).leaf(&leaf).chat(&chat("llama")).await.assert_served();
}

/// Every code of the desk is documented, with its status.
#[test]
fn codes_are_documented() {
    let documentation = include_str!("../../docs/errors.md");
    let (_, desk) = documentation.split_once("At the [`enroll` name]").unwrap();
    for code in Code::ALL {
        let said = format!("`{}` ({})", code.as_str(), code.status());
        assert!(desk.contains(&said), "docs/errors.md does not say {said}");
    }
}

/// With the root's key elsewhere and the issuer's here.
#[tokio::test]
async fn an_offline_root_is_no_obstacle() {
    use doorward::ca::change;
    use doorward::ca::passphrase::Passphrase;
    use doorward::cli::ca::directory;
    let stub = Stub::chatty().await;
    let world = World::open(&stub).await;
    let file = world.dir.path().join("root.key.enc");
    change::export_root(
        &directory(&world.state),
        &file,
        &Passphrase::new("a long passphrase".to_owned().into()).unwrap(),
    )
    .unwrap();
    let world = world.restart(1).await;
    let bundle = world.bundle("client", "alice").await;
    let asker = Asker::new();
    asker.leaf(&world.visitor().post(ENROLL, &asker.request(&bundle)).await);
    first_list(&world).await;
}

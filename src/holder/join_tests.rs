use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use super::*;
use crate::ca::authority::Authority;
use crate::ca::exchange::{Code, Granted, Refused};
use crate::domain::gateway_address::GatewayAddress;
use crate::domain::identity::{Role, TrustDomain};
use crate::holder::credentials::Credentials;
use crate::holder::fault::Why;
use crate::holder::testing::{Desk, House, Reply, dead_address, grant, request_of};

async fn try_join(house: &House, addresses: Vec<GatewayAddress>) -> Result<Joined, HolderFault> {
    join(&house.bundle(addresses), house.place(), &Reach::default(), &house.clock).await
}

fn files(house: &House) -> Vec<PathBuf> {
    let entries = fs::read_dir(house.place().dir()).map(|entries| entries.map(|entry| entry.unwrap().path()).collect());
    entries.unwrap_or_default()
}

fn why(fault: &HolderFault) -> &[crate::holder::fault::Attempt] {
    let HolderFault::Unreached(attempts) = fault else { panic!("{fault}") };
    attempts
}

#[tokio::test]
async fn a_bundle_becomes_an_identity() {
    let house = House::new();
    let desk = Desk::start(&house, house.grants()).await;
    let joined = try_join(&house, vec![desk.address.clone()]).await.unwrap();
    assert_eq!(joined.identity.uri(), "spiffe://corp.test/client/alice");
    let credentials = Credentials::load(&joined.place, &house.clock).unwrap();
    assert_eq!((credentials.identity(), credentials.span()), (&joined.identity, joined.span));
    assert_eq!(credentials.roots(), house.authority.roots());
    assert_eq!(Origin::read(joined.place.dir()).unwrap(), Some(house.origin(&desk)));
    let seen = desk.seen();
    assert_eq!((seen.len(), seen[0].line().as_str()), (1, "POST /.doorward/v1/enroll HTTP/1.1"));
    assert!(seen[0].certificate.is_none(), "nobody yet");
    let request = EnrollRequest::parse(seen[0].body()).unwrap();
    let bundle = house.bundle(vec![]);
    assert_eq!((request.id, request.secret), (bundle.id, bundle.secret));
}

/// The promise of the pin: whoever is not the gateway gets a handshake and nothing else.
#[tokio::test]
async fn a_server_with_another_root_gets_nothing_secret() {
    let (house, stranger) = (House::new(), House::new());
    let desk = Desk::start(&stranger, stranger.grants()).await;
    let fault = try_join(&house, vec![desk.address.clone()]).await.unwrap_err();
    assert!(matches!(why(&fault)[0].why, Why::Pin { .. }), "{fault}");
    assert!(fault.hint().unwrap().contains("nothing was sent"));
    let seen = desk.seen();
    assert_eq!(seen.len(), 1);
    assert!(seen[0].request.is_empty(), "nothing came through TLS");
    // What came is a client's hello and an alert: record types 22 (and its compatible 20) and 21 or 23.
    let bundle = house.bundle(vec![]);
    let (id, secret) = (bundle.id.to_string(), bundle.secret.reveal());
    for word in [id.as_bytes(), secret.as_bytes(), &[0xab; 8], &[7; 32]] {
        assert!(!seen[0].raw.windows(word.len()).any(|window| window == word));
    }
    assert!(seen[0].raw.len() < 4096, "{} bytes", seen[0].raw.len());
    assert_eq!(files(&house), Vec::<PathBuf>::new());
}

/// The pinned root is no secret: showing it is not having it.
#[tokio::test]
async fn a_server_that_only_shows_the_root_gets_nothing() {
    let (house, stranger) = (House::new(), House::new());
    let (mut chain, key) = stranger.authority.issue_server(&["enroll.test"], stranger.clock.now()).unwrap();
    chain.extend([stranger.authority.root().clone(), house.authority.root().clone()]);
    let desk = Desk::with(&stranger, chain, key, stranger.grants()).await;
    let fault = try_join(&house, vec![desk.address.clone()]).await.unwrap_err();
    assert!(matches!(why(&fault)[0].why, Why::Pin { .. }), "{fault}");
    assert!(desk.seen()[0].request.is_empty());
}

#[tokio::test]
async fn a_chain_without_its_root_says_what_is_wrong() {
    let house = House::new();
    let (chain, key) = house.authority.issue_server(&["enroll.test"], house.clock.now()).unwrap();
    let desk = Desk::with(&house, chain, key, house.grants()).await;
    let fault = try_join(&house, vec![desk.address.clone()]).await.unwrap_err();
    assert!(matches!(why(&fault)[0].why, Why::Pin { .. }), "{fault}");
}

#[tokio::test]
async fn a_certificate_for_another_name_is_not_the_gateways() {
    let house = House::new();
    let (mut chain, key) = house.authority.issue_server(&["llm.test"], house.clock.now()).unwrap();
    chain.push(house.authority.root().clone());
    let desk = Desk::with(&house, chain, key, house.grants()).await;
    let fault = try_join(&house, vec![desk.address.clone()]).await.unwrap_err();
    assert!(matches!(&why(&fault)[0].why, Why::Name(name) if name == "enroll.test"), "{fault}");
    assert!(desk.seen()[0].request.is_empty());
}

#[tokio::test]
async fn every_address_is_tried() {
    let (house, stranger) = (House::new(), House::new());
    let desk = Desk::start(&house, house.grants()).await;
    let other = Desk::start(&stranger, stranger.grants()).await;
    let nowhere = GatewayAddress::parse("nowhere.invalid:8443").unwrap();
    let addresses = vec![dead_address().await, nowhere, other.address.clone()];
    let fault = try_join(&house, addresses.clone()).await.unwrap_err();
    let said = fault.to_string();
    assert_eq!(why(&fault).len(), 3);
    assert!(said.contains("connection refused") && said.contains("nowhere.invalid is not found"), "{said}");
    let addresses = addresses.into_iter().chain([desk.address.clone()]).collect();
    assert!(try_join(&house, addresses).await.is_ok());
}

#[tokio::test]
async fn an_answer_that_is_not_ours_changes_nothing() {
    let (house, stranger) = (House::new(), House::new());
    let desk = Desk::start(&house, house.grants()).await;
    type Answer = Box<dyn Fn(&[u8], crate::domain::timestamp::Timestamp) -> Granted + Send + Sync>;
    let good = |house: &House, role, name: &'static str| -> Answer {
        let authority = std::sync::Arc::clone(&house.authority);
        Box::new(move |spki, now| grant(&authority, spki, (role, name), now))
    };
    let roots = house.authority.bundle_pem().to_owned();
    let strange_roots = stranger.authority.bundle_pem().to_owned();
    let strange = good(&stranger, Role::Client, "alice");
    let strange_with_ours = good(&stranger, Role::Client, "alice");
    let no_roots = good(&house, Role::Client, "alice");
    let foreign = {
        let dir = tempfile::tempdir().unwrap();
        let domain = TrustDomain::parse("other.test").unwrap();
        Authority::init(&dir.path().join("ca"), &domain, house.clock.now()).unwrap()
    };
    let (both, other_domain) = (format!("{roots}{}", foreign.bundle_pem()), std::sync::Arc::new(foreign));
    let answers: Vec<(&str, Answer)> = vec![
        ("another key", {
            let authority = std::sync::Arc::clone(&house.authority);
            let other = rcgen::KeyPair::generate().unwrap();
            let spki = rcgen::PublicKeyData::subject_public_key_info(&other);
            Box::new(move |_, now| grant(&authority, &spki, (Role::Client, "alice"), now))
        }),
        ("is for spiffe://corp.test/client/bob", good(&house, Role::Client, "bob")),
        ("is for spiffe://corp.test/operator/alice", good(&house, Role::Operator, "alice")),
        ("do not hold the pinned one", strange),
        (
            "does not come from the trusted root",
            Box::new(move |spki, now| Granted {
                ca: format!("{roots}{strange_roots}"),
                ..strange_with_ours(spki, now)
            }),
        ),
        (
            "does not come from the trusted root",
            Box::new(move |spki, now| Granted {
                ca: both.clone(),
                ..grant(&other_domain, spki, (Role::Client, "alice"), now)
            }),
        ),
        ("the roots", Box::new(move |spki, now| Granted { ca: "nothing".to_owned(), ..no_roots(spki, now) })),
        ("the certificate", Box::new(|_, _| Granted { certificate: String::new(), ca: String::new() })),
    ];
    for (what, answer) in answers {
        desk.answer(Box::new(move |seen, now| Reply::Granted(answer(&request_of(seen), now))));
        let fault = try_join(&house, vec![desk.address.clone()]).await.unwrap_err();
        assert!(matches!(fault, HolderFault::Answer { .. }), "{what}: {fault}");
        assert!(fault.to_string().contains(what), "{what}: {fault}");
        assert_eq!(files(&house), Vec::<PathBuf>::new(), "{what}");
    }
    for junk in ["", "[]", "{\"certificate\":1}"] {
        desk.answer(Box::new(move |_, _| Reply::Status(201, junk.to_owned())));
        let fault = try_join(&house, vec![desk.address.clone()]).await.unwrap_err();
        assert!(matches!(fault, HolderFault::Answer { .. }), "{fault}");
    }
}

#[tokio::test]
async fn a_refusal_says_what_to_do_and_nothing_else_happens() {
    let house = House::new();
    let desk = Desk::start(&house, house.grants()).await;
    for (status, code, word, is_final) in [
        (401, Code::InvalidEnrollment, "another", true),
        (429, Code::TooManyFailures, "minute", false),
        (503, Code::Unavailable, "minute", false),
    ] {
        let body = serde_json::to_string(&Refused::new(code, "why\u{1b}[2J")).unwrap();
        desk.answer(Box::new(move |_, _| Reply::Status(status, body.clone())));
        let fault = try_join(&house, vec![desk.address.clone()]).await.unwrap_err();
        let said = fault.to_string();
        assert!(said.contains(code.as_str()) && said.contains(&status.to_string()), "{said}");
        assert!(!said.contains('\u{1b}'), "{said:?}");
        assert!(fault.hint().unwrap().contains(word), "{:?}", fault.hint());
        assert_eq!(fault.is_final(), is_final);
    }
    // A proxy's page, say.
    desk.answer(Box::new(|_, _| Reply::Status(502, "<html>".to_owned())));
    let fault = try_join(&house, vec![desk.address.clone()]).await.unwrap_err();
    assert!(fault.to_string().contains("(502)"), "{fault}");
    assert_eq!(files(&house), Vec::<PathBuf>::new());
    desk.answer(house.grants());
    assert!(try_join(&house, vec![desk.address.clone()]).await.is_ok());
}

#[tokio::test]
async fn a_lost_answer_says_that_the_bundle_may_be_used() {
    let house = House::new();
    let desk = Desk::start(&house, Box::new(|_, _| Reply::Nothing)).await;
    let fault = try_join(&house, vec![desk.address.clone(), desk.address.clone()]).await.unwrap_err();
    assert!(matches!(fault, HolderFault::AnswerLost { .. }), "{fault}");
    assert!(fault.hint().unwrap().contains("used the bundle up"));
    assert_eq!(desk.seen().len(), 1, "it is not sent twice");
}

#[tokio::test]
async fn an_expired_bundle_is_not_even_sent() {
    let house = House::new();
    let desk = Desk::start(&house, house.grants()).await;
    let bundle = house.bundle(vec![desk.address.clone()]);
    house.clock.advance(Duration::from_secs(900));
    let fault = join(&bundle, house.place(), &Reach::default(), &house.clock).await.unwrap_err();
    assert!(matches!(fault, HolderFault::BundleExpired { .. }), "{fault}");
    assert!(fault.to_string().contains(&house.clock.now().to_string()), "{fault}");
    assert!(fault.hint().unwrap().contains("clock"));
    assert_eq!(desk.seen().len(), 0);
}

/// A clock that is an hour behind, right after the gateway got its certificate; and one that is far
/// ahead.
#[tokio::test]
async fn a_wrong_clock_is_called_by_its_name() {
    let house = House::new();
    let desk = Desk::start(&house, house.grants()).await;
    let now = house.clock.now();
    for wrong in [now.before(Duration::from_secs(3600)), now.after(Duration::from_secs(3600 * 24 * 91))] {
        let clock = Clock::manual(wrong);
        let mut bundle = house.bundle(vec![desk.address.clone()]);
        bundle.expires_at = wrong.after(Duration::from_secs(1));
        let fault = join(&bundle, house.place(), &Reach::default(), &clock).await.unwrap_err();
        assert!(matches!(why(&fault)[0].why, Why::Clock(_)), "{fault}");
        let second = crate::domain::timestamp::Timestamp::from_seconds(wrong.as_seconds());
        assert!(fault.to_string().contains(&second.to_string()), "{fault}");
        assert!(fault.hint().unwrap().contains("clock"));
    }
    assert!(desk.seen().iter().all(|seen| seen.request.is_empty()));
}

#[tokio::test]
async fn a_clock_that_is_a_little_behind_does_no_harm() {
    let house = House::new();
    let desk = Desk::start(&house, house.grants()).await;
    let clock = Clock::manual(house.clock.now().before(Duration::from_secs(50)));
    let bundle = house.bundle(vec![desk.address.clone()]);
    assert!(join(&bundle, house.place(), &Reach::default(), &clock).await.is_ok());
}

#[tokio::test]
async fn what_is_there_stays_and_costs_no_bundle() {
    let house = House::new();
    let desk = Desk::start(&house, house.grants()).await;
    let place = house.joined(&desk).await;
    let before = fs::read_to_string(place.files().certificate).unwrap();
    let fault = try_join(&house, vec![desk.address.clone()]).await.unwrap_err();
    assert!(matches!(fault, HolderFault::Exists(_)), "{fault}");
    assert_eq!(fs::read_to_string(place.files().certificate).unwrap(), before);
    assert_eq!(desk.seen().len(), 1, "the gateway was not asked");
    // A file where the directory should be.
    let blocked = Place::new(&place.files().certificate, place.name());
    let bundle = house.bundle(vec![desk.address.clone()]);
    let fault = join(&bundle, blocked, &Reach::default(), &house.clock).await.unwrap_err();
    assert!(matches!(fault, HolderFault::File { .. }), "{fault}");
    assert_eq!(desk.seen().len(), 1);
}

#[tokio::test]
async fn nothing_that_is_said_shows_the_secret() {
    let house = House::new();
    let desk =
        Desk::start(&house, Box::new(|seen, _| Reply::Status(401, String::from_utf8_lossy(seen.body()).into_owned())))
            .await;
    let bundle = house.bundle(vec![desk.address.clone()]);
    let fault = join(&bundle, house.place(), &Reach::default(), &house.clock).await.unwrap_err();
    let said = format!("{fault} {fault:?} {:?}", fault.hint());
    assert!(!said.contains(bundle.secret.reveal().as_str()), "{said}");
}

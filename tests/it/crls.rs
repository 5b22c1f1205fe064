//! Lists of an external authority: what is on them is refused, new lists are noticed, and a broken
//! one changes nothing.

use std::fs;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber,
};
use rustls_pki_types::PrivatePkcs8KeyDer;
use time::{Duration, OffsetDateTime};
use tokio::io::AsyncReadExt;

use crate::support::{Caller, Leaf, OPEN, Setup, Stub, World, chat, live};

struct Pki {
    root: rcgen::Certificate,
    issuer: Issuer<'static, KeyPair>,
}

impl Pki {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        let root = params.self_signed(&key).unwrap();
        Self { root, issuer: Issuer::new(params, key) }
    }

    fn leaf(&self, name: &str, serial: u64) -> Leaf {
        let mut params = CertificateParams::default();
        params.serial_number = Some(SerialNumber::from(serial));
        params.not_before = OffsetDateTime::now_utc() - Duration::HOUR;
        params.not_after = OffsetDateTime::now_utc() + Duration::DAY;
        params.subject_alt_names = vec![SanType::DnsName(name.try_into().unwrap())];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Leaf::new(vec![certificate.into()], PrivatePkcs8KeyDer::from(key.serialize_der()).into())
    }

    fn list(&self, serials: &[u64]) -> String {
        let now = OffsetDateTime::now_utc();
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: now - Duration::HOUR,
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: now - Duration::HOUR,
            next_update: now + Duration::DAY,
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer).unwrap().pem().unwrap()
    }
}

fn setup(stub: &Stub, pki: &Pki, list: &str) -> Setup {
    let mut setup = Setup::new(stub)
        .grants(&format!("{OPEN}\n[[identity]]\nmatch = \"spiffe://pki.test/client/*\"\nowner = \"acme/pki\"\n"));
    setup.more = r#"
[[trust]]
name = "pki"
roots = "roots.pem"
crls = ["pki.crl"]
map = { from = "san_dns", to = "spiffe://pki.test/client/{}" }
"#
    .to_owned();
    setup.files = vec![("roots.pem".to_owned(), pki.root.pem()), ("pki.crl".to_owned(), list.to_owned())];
    setup
}

/// Puts another list in its place, as whoever publishes lists does, and lets the gateway look.
fn publish(world: &mut World, list: &str) -> bool {
    let before = world.server.gateway().view().settings.generation;
    let file = world.dir.path().join("pki.crl");
    fs::write(file.with_extension("new"), list).unwrap();
    fs::rename(file.with_extension("new"), &file).unwrap();
    world.server.reload_if_due();
    world.server.gateway().view().settings.generation > before
}

/// The alert that ends the handshake, which a TLS 1.3 client hears after its own end of it.
async fn alert(caller: Caller) -> String {
    let mut stream = caller.tls(&["http/1.1"]).await.unwrap();
    stream.read_to_end(&mut Vec::new()).await.unwrap_err().to_string()
}

#[tokio::test]
async fn a_listed_certificate_is_refused_on_new_and_open_connections() {
    let stub = Stub::chatty().await;
    let pki = Pki::new("Root");
    let mut world = setup(&stub, &pki, &pki.list(&[7])).start().await;
    let (alice, bob) = (pki.leaf("alice", 7), pki.leaf("bob", 8));
    assert!(alert(world.caller().leaf(&alice)).await.contains("CertificateRevoked"));
    let mut lines = vec![world.caller().leaf(&bob).h1().await, world.caller().leaf(&bob).h2().await];
    for line in &mut lines {
        line.chat(&chat("llama")).await.assert_served();
    }
    assert!(publish(&mut world, &pki.list(&[7, 8])));
    let seen = stub.seen().len();
    for line in &mut lines {
        assert_eq!(line.chat(&chat("llama")).await.status, 401);
    }
    assert_eq!(stub.seen().len(), seen);
    // Taken off the list (a hold that ended).
    assert!(publish(&mut world, &pki.list(&[7])));
    for line in &mut lines {
        line.chat(&chat("llama")).await.assert_served();
    }
}

#[tokio::test]
async fn a_broken_list_leaves_the_last_good_one_in_force() {
    let stub = Stub::chatty().await;
    let pki = Pki::new("Root");
    let mut world = setup(&stub, &pki, &pki.list(&[7])).start().await;
    let (alice, bob) = (pki.leaf("alice", 7), pki.leaf("bob", 8));
    for broken in ["", "junk", &pki.list(&[8])[..200], &Pki::new("Root").list(&[8])] {
        assert!(!publish(&mut world, broken), "{broken:?}");
        world.caller().leaf(&bob).h1().await.chat(&chat("llama")).await.assert_served();
        assert!(alert(world.caller().leaf(&alice)).await.contains("CertificateRevoked"));
    }
    assert!(publish(&mut world, &pki.list(&[])));
    world.caller().leaf(&alice).h1().await.chat(&chat("llama")).await.assert_served();
}

#[tokio::test]
async fn whoever_no_list_speaks_of_is_refused() {
    let stub = Stub::chatty().await;
    let (pki, other) = (Pki::new("Root"), Pki::new("Other"));
    let world = setup(&stub, &pki, &other.list(&[])).start().await;
    assert!(alert(world.caller().leaf(&pki.leaf("alice", 7))).await.contains("UnknownCA"));
    // The built-in authority's callers have nothing to do with it.
    let carol = world.certificate("carol");
    world.caller().certificate(&carol).h1().await.chat(&chat("llama")).await.assert_served();
}

#[tokio::test]
async fn a_new_list_ends_live_streams_within_two_seconds() {
    let stub = Stub::by_hand().await;
    let pki = Pki::new("Root");
    let mut world = setup(&stub, &pki, &pki.list(&[])).start().await;
    let mut line = world.caller().leaf(&pki.leaf("alice", 7)).h1().await;
    let (flow, exchange) = live(&mut line, &stub).await;
    assert!(publish(&mut world, &pki.list(&[7])));
    assert!(exchange.closed().await < std::time::Duration::from_secs(2));
    let (_, broken) = flow.end().await;
    assert!(broken.is_some(), "aborted, never a clean end");
}

//! Signing for bundles and renewals: who gets what, and what a crash, a race or a bad disk leaves.

use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Barrier;
use std::{fs, thread};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, PublicKeyData, SanType,
};
use rustls_pki_types::pem::PemObject;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;

use super::*;
use crate::ca::bundle::{BundleId, BundleSecret};
use crate::ca::change::{self, Unlock};
use crate::ca::exchange::Code;
use crate::config::ClientAuth;
use crate::domain::identity::{Role, TrustDomain};
use crate::domain::network::Networks;
use crate::store::durability_tests::Mount;
use crate::store::enrollment::NewEnrollment;
use crate::store::rows::{Reason, Revoked};
use crate::tls::server::provider;

const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);
const MINUTE: Duration = Duration::from_secs(60);
const CRL: &str = "https://enroll.corp.example/.doorward/v1/crl";

struct Fixture {
    office: Office,
    clock: Clock,
}

impl Fixture {
    fn new(dir: &Path) -> Self {
        let clock = Clock::manual(NOW);
        let domain = TrustDomain::parse("corp.example").unwrap();
        Authority::init(&dir.join("ca"), &domain, NOW.before(MINUTE)).unwrap();
        drop(Store::open(dir).unwrap());
        Self { office: office(dir, &clock), clock }
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn store(&self) -> Store {
        Store::open_existing(&self.office.state_dir).unwrap()
    }

    fn bundle(&self, number: u64) -> (BundleId, BundleSecret) {
        self.bundle_like(number, |new| new)
    }

    /// A bundle for the client `n<number>`, good for 15 minutes, that is made of a plain one.
    fn bundle_like(&self, number: u64, like: impl FnOnce(NewEnrollment) -> NewEnrollment) -> (BundleId, BundleSecret) {
        let (id, secret) =
            (BundleId::from_random(number.to_be_bytes()), BundleSecret::from_random([number.to_be_bytes()[7]; 32]));
        let name = IdentityName::parse(&format!("n{number}")).unwrap();
        let new = like(NewEnrollment {
            id: id.to_string(),
            identity: Identity::new(self.office.authority.trust_domain(), Role::Client, &name),
            secret_sha256: secret.hash(),
            networks: None,
            created_at: self.now(),
            expires_at: self.now().after(15 * MINUTE),
        });
        self.store().create_enrollment(&new, Timestamp::from_seconds(0)).unwrap();
        (id, secret)
    }

    fn enroll(&self, (id, secret): &(BundleId, BundleSecret), csr: &str) -> Result<Signed, Refusal> {
        let request = EnrollRequest { id: *id, secret: secret.clone(), csr: csr.to_owned() };
        self.office.enroll(&request, &visitor("10.0.0.7", Vec::new()), &self.clock)
    }

    fn renew(&self, signed: &Signed, csr: &str) -> Result<Signed, Refusal> {
        let request = RenewRequest { csr: csr.to_owned() };
        self.office.renew(&request, &visitor("10.0.0.8", chain(signed)), &self.clock)
    }
}

fn office(dir: &Path, clock: &Clock) -> Office {
    let authority = Authority::open(&dir.join("ca")).unwrap();
    let builtin = Some((authority.trust_domain().clone(), authority.anchors()));
    let verifier = CallerVerifier::new(ClientAuth::Required, builtin, &[], clock.clone(), provider()).unwrap();
    Office { state_dir: dir.to_owned(), authority, verifier, crl: Some(CRL.to_owned()) }
}

fn visitor(address: &str, chain: Vec<CertificateDer<'static>>) -> Visitor {
    Visitor { address: address.parse().unwrap(), chain, request_id: "a-request".to_owned() }
}

fn chain(signed: &Signed) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(signed.granted.certificate.as_bytes()).map(Result::unwrap).collect()
}

fn csr() -> String {
    CertificateParams::default().serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap()
}

#[test]
fn a_bundle_becomes_the_certificate_that_it_names_whatever_the_request_asks_for() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::new(dir.path());
    let key = KeyPair::generate().unwrap();
    let mut greedy = CertificateParams::default();
    greedy.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    greedy.distinguished_name.push(DnType::CommonName, "root");
    greedy.subject_alt_names = vec![
        SanType::URI("spiffe://corp.example/operator/root".try_into().unwrap()),
        SanType::DnsName("*.corp.example".try_into().unwrap()),
    ];
    greedy.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::Any];
    let greedy = greedy.serialize_request(&key).unwrap().pem().unwrap();
    let signed = fixture.enroll(&fixture.bundle(1), &greedy).unwrap();
    let chain = chain(&signed);
    assert_eq!(chain.len(), 2, "leaf and issuer, no root");
    let (_, leaf) = X509Certificate::from_der(&chain[0]).unwrap();
    assert_eq!(leaf.public_key().raw, key.subject_public_key_info());
    assert!(!leaf.is_ca());
    let names = leaf.subject_alternative_name().unwrap().unwrap().value.general_names.clone();
    assert_eq!(names, [GeneralName::URI("spiffe://corp.example/client/n1")]);
    let usage = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.client_auth && !usage.server_auth && !usage.any);
    let points = leaf.extensions().iter().find_map(|extension| {
        let ParsedExtension::CRLDistributionPoints(points) = extension.parsed_extension() else { return None };
        Some(format!("{points:?}"))
    });
    assert!(points.unwrap().contains(CRL));
    assert_eq!(signed.granted.ca, fixture.office.authority.bundle_pem());
    assert_eq!(signed.certificate.not_after, NOW.after(Duration::from_secs(24 * 3600)));
    assert_eq!(
        fixture.store().certificate(&signed.certificate.serial).unwrap().unwrap().certificate,
        signed.certificate
    );
}

/// Everything that is wrong with a bundle is one answer.
#[test]
fn bundles_that_cannot_be_used_look_alike() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::new(dir.path());
    let mut seen = Vec::new();
    let mut refused = |what: &str, bundle: &(BundleId, BundleSecret), guess: bool| {
        let refusal = fixture.enroll(bundle, &csr()).unwrap_err();
        assert!(refusal.why.contains(what), "{what}: {}", refusal.why);
        assert_eq!(refusal.is_guess, guess, "{what}");
        seen.push((refusal.code, refusal.detail));
    };
    let used = fixture.bundle(1);
    fixture.enroll(&used, &csr()).unwrap();
    refused("used before", &used, false);
    refused("unknown", &(BundleId::from_random([0xee; 8]), used.1.clone()), true);
    let other = fixture.bundle(2);
    refused("secret is wrong", &(other.0, BundleSecret::from_random([9; 32])), true);
    refused("secret is wrong", &(used.0, BundleSecret::from_random([0; 32])), true);
    let revoked = fixture.bundle(3);
    assert_eq!(fixture.store().revoke_enrollment(&revoked.0.to_string(), NOW).unwrap(), Revoked::Revoked);
    refused("revoked", &revoked, false);
    let networks = Networks::parse(&["10.0.1.0/24"]).unwrap();
    let elsewhere = fixture.bundle_like(4, |new| NewEnrollment { networks: Some(networks), ..new });
    refused("network", &elsewhere, false);
    let name = IdentityName::parse("n5").unwrap();
    let of_revoked = fixture.bundle(5);
    fixture.store().revoke_name(fixture.office.authority.trust_domain(), &name, Reason::Unspecified, NOW).unwrap();
    refused("revoked", &of_revoked, false);
    let foreign = Identity::new(&TrustDomain::parse("other.example").unwrap(), Role::Client, &name);
    refused("domain", &fixture.bundle_like(6, |new| NewEnrollment { identity: foreign, ..new }), false);
    let late = fixture.bundle(7);
    fixture.clock.advance(15 * MINUTE);
    refused("expired", &late, false);
    assert!(seen.iter().all(|said| said == &seen[0] && said.0 == Code::InvalidEnrollment), "{seen:?}");
    assert_eq!(fixture.store().list_certificates().unwrap().len(), 1);
}

#[test]
fn a_bad_request_does_not_burn_a_bundle() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::new(dir.path());
    let bundle = fixture.bundle(1);
    let good = csr();
    let der = CertificateParams::default().serialize_request(&KeyPair::generate().unwrap()).unwrap().der().to_vec();
    let mut forged = der.clone();
    let last = forged.len() - 1;
    forged[last] ^= 1;
    let pem = |der: &[u8]| pem::encode(&pem::Pem::new("CERTIFICATE REQUEST", der));
    let p521 = include_str!("testdata/p521.csr.pem");
    let rsa1024 = include_str!("testdata/rsa1024.csr.pem");
    let rsa2048 = include_str!("testdata/rsa2048.csr.pem");
    for (what, bad) in [
        ("nothing", String::new()),
        ("junk", "junk".repeat(1000)),
        ("a certificate", fixture.office.authority.bundle_pem().to_owned()),
        ("cut", good[..good.len() / 2].to_owned()),
        ("a bad signature", pem(&forged)),
        ("a curve", p521.to_owned()),
        ("a weak key", rsa1024.to_owned()),
        ("a weak key", rsa2048.to_owned()),
    ] {
        let refusal = fixture.enroll(&bundle, &bad).unwrap_err();
        assert_eq!((refusal.code, refusal.is_guess), (Code::BadCsr, false), "{what}: {refusal:?}");
        assert!(refusal.detail.contains("can still be used"), "{refusal:?}");
    }
    // Whoever has no bundle is not told what is wrong with a request.
    let stranger = (bundle.0, BundleSecret::from_random([8; 32]));
    assert_eq!(fixture.enroll(&stranger, "junk").unwrap_err().code, Code::InvalidEnrollment);
    fixture.enroll(&bundle, &good).unwrap();
}

#[test]
fn a_compromised_key_is_not_certified_and_the_bundle_lives() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::new(dir.path());
    let known = csr();
    let first = fixture.enroll(&fixture.bundle(1), &known).unwrap();
    fixture.store().revoke_certificate(&first.certificate.serial, Reason::KeyCompromise, NOW).unwrap();
    let bundle = fixture.bundle(2);
    let refusal = fixture.enroll(&bundle, &known).unwrap_err();
    assert_eq!(refusal.code, Code::BadCsr);
    fixture.enroll(&bundle, &csr()).unwrap();
}

#[test]
fn of_fifty_who_race_one_wins() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::new(dir.path());
    let bundle = fixture.bundle(1);
    let start = Barrier::new(50);
    let results: Vec<_> = thread::scope(|scope| {
        let racing = || {
            let csr = csr();
            start.wait();
            fixture.enroll(&bundle, &csr)
        };
        let threads: Vec<_> = (0..50).map(|_| scope.spawn(racing)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let (won, lost): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
    assert_eq!(won.len(), 1);
    for refusal in lost.into_iter().map(Result::unwrap_err) {
        assert_eq!((refusal.code, refusal.is_guess), (Code::InvalidEnrollment, false), "{refusal:?}");
    }
    let certificates = fixture.store().list_certificates().unwrap();
    assert_eq!(certificates.len(), 1);
    assert_eq!(certificates[0].certificate, won[0].as_ref().unwrap().certificate);
    let used = fixture.store().enrollment(&bundle.0.to_string()).unwrap().unwrap().used;
    assert_eq!(used.unwrap().1, certificates[0].certificate.serial);
}

#[test]
fn a_renewal_is_for_the_same_name_with_another_key() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::new(dir.path());
    let key = csr();
    let first = fixture.enroll(&fixture.bundle(1), &key).unwrap();
    assert_eq!(fixture.renew(&first, &key).unwrap_err().code, Code::BadCsr, "the same key");
    fixture.clock.advance(Duration::from_secs(16 * 3600));
    let second = fixture.renew(&first, &csr()).unwrap();
    assert_eq!(second.certificate.identity, first.certificate.identity);
    assert_ne!(second.certificate.spki_sha256, first.certificate.spki_sha256);
    let life = |signed: &Signed| signed.certificate.not_after.since(signed.certificate.issued_at);
    assert_eq!(life(&second), life(&first));
    // The one before stays good until its own end: whoever lost the answer asks again.
    fixture.renew(&first, &csr()).unwrap();

    // Ended, revoked by number, revoked by name, of nobody, of another authority.
    fixture.clock.advance(Duration::from_secs(8 * 3600));
    assert_eq!(fixture.renew(&first, &csr()).unwrap_err().code, Code::CertificateRequired);
    let third = fixture.renew(&second, &csr()).unwrap();
    fixture.store().revoke_certificate(&second.certificate.serial, Reason::Superseded, fixture.now()).unwrap();
    assert_eq!(fixture.renew(&second, &csr()).unwrap_err().code, Code::CertificateRevoked);
    let fourth = fixture.renew(&third, &csr()).unwrap();
    let name = IdentityName::parse("n1").unwrap();
    fixture.store().revoke_name(fixture.office.authority.trust_domain(), &name, Reason::Unspecified, NOW).unwrap();
    for signed in [&third, &fourth] {
        assert_eq!(fixture.renew(signed, &csr()).unwrap_err().code, Code::CertificateRevoked);
    }
    let request = RenewRequest { csr: csr() };
    let nobody = fixture.office.renew(&request, &visitor("10.0.0.8", Vec::new()), &fixture.clock).unwrap_err();
    assert_eq!(nobody.code, Code::CertificateRequired);
    let elsewhere = tempfile::tempdir().unwrap();
    let foreign = Fixture::new(elsewhere.path());
    foreign.clock.advance(Duration::from_secs(24 * 3600));
    let theirs = foreign.enroll(&foreign.bundle(1), &csr()).unwrap();
    assert_eq!(fixture.renew(&theirs, &csr()).unwrap_err().code, Code::CertificateRequired);
}

#[test]
fn who_renews_without_end_fills_no_disk() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::new(dir.path());
    let first = fixture.enroll(&fixture.bundle(1), &csr()).unwrap();
    for _ in 1..100 {
        fixture.renew(&first, &csr()).unwrap();
    }
    let refusal = fixture.renew(&first, &csr()).unwrap_err();
    assert_eq!((refusal.code, refusal.retry_after.is_some()), (Code::Unavailable, true), "{refusal:?}");
    assert_eq!(fixture.store().list_certificates().unwrap().len(), 100);
    // Others are not hit, and what has ended or was revoked does not count.
    let other = fixture.enroll(&fixture.bundle(2), &csr()).unwrap();
    fixture.renew(&other, &csr()).unwrap();
    let one = fixture.store().list_certificates().unwrap().swap_remove(50).certificate.serial;
    fixture.store().revoke_certificate(&one, Reason::Superseded, NOW).unwrap();
    fixture.renew(&first, &csr()).unwrap();
}

/// What is not on record, as after an old backup was put back, is not renewed.
#[test]
fn a_certificate_that_is_not_on_record_is_not_renewed() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::new(dir.path());
    let signed = fixture.enroll(&fixture.bundle(1), &csr()).unwrap();
    for suffix in ["", "-wal", "-shm"] {
        drop(fs::remove_file(dir.path().join(format!("doorward.db{suffix}"))));
    }
    drop(Store::open(dir.path()).unwrap());
    assert_eq!(fixture.renew(&signed, &csr()).unwrap_err().code, Code::CertificateRequired);
}

#[test]
fn a_clock_that_is_wrong_by_an_hour_opens_nothing_for_longer_than_an_hour() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::new(dir.path());
    let (bundle, other) = (fixture.bundle(1), fixture.bundle(2));
    let signed = fixture.enroll(&fixture.bundle(3), &csr()).unwrap();
    let hour = Duration::from_secs(3600);
    let behind = |at: Timestamp| office(dir.path(), &Clock::manual(at));
    // An hour ahead: the bundle's minutes are over.
    let ahead = NOW.after(hour);
    let request =
        |bundle: &(BundleId, BundleSecret)| EnrollRequest { id: bundle.0, secret: bundle.1.clone(), csr: csr() };
    let refusal =
        behind(ahead).enroll(&request(&bundle), &visitor("10.0.0.7", Vec::new()), &Clock::manual(ahead)).unwrap_err();
    assert_eq!(refusal.code, Code::InvalidEnrollment);
    // An hour behind, and before the authority: nothing is signed, nothing is burned, and a certificate
    // from the future is nobody's.
    let early = NOW.before(hour);
    let refusal =
        behind(early).enroll(&request(&bundle), &visitor("10.0.0.7", Vec::new()), &Clock::manual(early)).unwrap_err();
    assert_eq!(refusal.code, Code::Unavailable, "{refusal:?}");
    let renewal = RenewRequest { csr: csr() };
    let refusal =
        behind(early).renew(&renewal, &visitor("10.0.0.7", chain(&signed)), &Clock::manual(early)).unwrap_err();
    assert_eq!(refusal.code, Code::CertificateRequired);
    // Right again: it works, and ends when it should.
    fixture.enroll(&bundle, &csr()).unwrap();
    fixture.clock.advance(15 * MINUTE);
    assert_eq!(fixture.enroll(&other, &csr()).unwrap_err().code, Code::InvalidEnrollment);
}

#[test]
fn a_disk_that_is_read_only_or_full_burns_nothing() {
    let Some(mount) = Mount::new("size=700k,mode=700") else { return };
    let dir = mount.0.path();
    let fixture = Fixture::new(dir);
    let (bundle, other) = (fixture.bundle(1), fixture.bundle(2));
    mount.remount("remount,ro");
    let refusal = fixture.enroll(&bundle, &csr()).unwrap_err();
    assert_eq!((refusal.code, refusal.retry_after.is_some()), (Code::Unavailable, true), "{refusal:?}");
    mount.remount("remount,rw");
    let signed = fixture.enroll(&bundle, &csr()).unwrap();

    fs::write(dir.join("filler"), vec![0; 1 << 20]).unwrap_err();
    let refusal = fixture.enroll(&other, &csr()).unwrap_err();
    assert_eq!(refusal.code, Code::Unavailable, "{refusal:?}");
    assert_eq!(fixture.renew(&signed, &csr()).unwrap_err().code, Code::Unavailable);
    fs::remove_file(dir.join("filler")).unwrap();
    assert_eq!(fixture.store().list_certificates().unwrap().len(), 1);
    fixture.enroll(&other, &csr()).unwrap();
}

/// Set for a child process: where its state is, and the number of its first bundle.
const CHILD: &str = "DOORWARD_TEST_CHILD";
const CHILD_TEST: &str = "enroll::office::tests::child_process_enrolls_and_renews";

/// Not a test of its own: the body of the child processes below.
#[test]
fn child_process_enrolls_and_renews() {
    let Some(argument) = std::env::var_os(CHILD) else { return };
    let argument = argument.into_string().unwrap();
    let (first, dir) = argument.split_once(':').unwrap();
    let clock = Clock::manual(NOW);
    let fixture = Fixture { office: office(Path::new(dir), &clock), clock };
    let first: u64 = first.parse().unwrap();
    for number in first..first + 10_000 {
        let signed = fixture.enroll(&fixture.bundle(number), &csr()).unwrap();
        // Acknowledged: whatever happens to this process, it is on record.
        writeln!(io::stdout(), "ack {}", signed.certificate.serial).unwrap();
        let renewed = fixture.renew(&signed, &csr()).unwrap();
        writeln!(io::stdout(), "ack {}", renewed.certificate.serial).unwrap();
    }
}

/// No number is lost, no bundle is used twice or without a certificate, and each certificate has its
/// line: at whatever write the process was killed.
#[test]
fn kill_9_loses_no_number_and_uses_no_bundle_twice() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::new(dir.path());
    let mut acknowledged = Vec::new();
    for (round, after) in [1usize, 2, 3, 8, 21, 40].into_iter().enumerate() {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", CHILD_TEST, "--nocapture"])
            .env(CHILD, format!("{}:{}", round * 1_000_000, dir.path().display()))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut seen = 0;
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            if let Some((_, serial)) = line.unwrap().split_once("ack ")
                && let Ok(serial) = Serial::parse(serial)
            {
                acknowledged.push(serial);
                seen += 1;
            }
            if seen == after {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        assert!(seen >= after);
        let store = fixture.store();
        assert!(store.faults().unwrap().is_empty());
        for serial in &acknowledged {
            assert!(store.certificate(serial).unwrap().is_some(), "{serial} was handed out and is not on record");
        }
        let certificates = store.list_certificates().unwrap();
        let lines = store.pending_events(usize::MAX).unwrap();
        let issued = |word: &str| lines.iter().filter(|(_, line)| line.contains(word)).count();
        assert_eq!(issued("certificate_issued") + issued("certificate_renewed"), certificates.len());
        let bundles = store.list_enrollments().unwrap();
        let used: Vec<_> = bundles.iter().filter_map(|bundle| bundle.used.as_ref()).map(|(_, serial)| serial).collect();
        assert_eq!(used.len(), issued("certificate_issued"), "a bundle for each first certificate");
        assert!(used.iter().all(|serial| certificates.iter().any(|one| one.certificate.serial == **serial)));
        assert!(bundles.iter().filter(|bundle| bundle.used.is_none()).count() <= round + 1);
    }
}

/// The store has one writer, and others may be waited for: what ends meanwhile has ended.
#[test]
fn what_ends_while_others_write_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::new(dir.path());
    let (bundle, other) = (fixture.bundle(1), fixture.bundle(2));
    let signed = fixture.enroll(&fixture.bundle(3), &csr()).unwrap();
    let (mut writer, reader, started) = (fixture.store(), fixture.store(), Barrier::new(3));
    thread::scope(|scope| {
        let enrolling = scope.spawn(|| {
            started.wait();
            fixture.enroll(&bundle, &csr()).unwrap_err().code
        });
        let renewing = scope.spawn(|| {
            started.wait();
            fixture.renew(&signed, &csr()).unwrap_err().code
        });
        let given_up = writer.redeem::<(), Refusal>(&other.0.to_string(), NOW, |_| {
            started.wait();
            // Meanwhile both have come as far as they can.
            for _ in 0..2000 {
                reader.list_enrollments().unwrap();
            }
            fixture.clock.advance(Duration::from_secs(24 * 3600));
            Err(Refusal::unavailable("given up"))
        });
        assert!(given_up.is_err());
        assert_eq!(enrolling.join().unwrap(), Code::InvalidEnrollment);
        assert_eq!(renewing.join().unwrap(), Code::CertificateRequired);
    });
}

#[test]
fn what_an_issuer_at_its_end_cut_short_is_as_long_as_usual_under_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::new(dir.path());
    let end = fixture.office.authority.issuer_not_after();
    fixture.clock.advance(end.since(NOW) - 60 * MINUTE);
    let first = fixture.enroll(&fixture.bundle(1), &csr()).unwrap();
    fixture.clock.advance(40 * MINUTE);
    let second = fixture.renew(&first, &csr()).unwrap();
    assert_eq!([first.certificate.not_after, second.certificate.not_after], [end, end]);
    change::rotate_issuer(&dir.path().join("ca"), Unlock::default(), fixture.now()).unwrap();
    fixture.office = office(dir.path(), &fixture.clock);
    let third = fixture.renew(&second, &csr()).unwrap();
    assert_eq!(third.certificate.not_after, fixture.now().after(Duration::from_secs(24 * 3600)));
}

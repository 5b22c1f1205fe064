use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::sync::Arc;

use proptest::prelude::*;
use rustls_pki_types::pem::PemObject;

use super::*;
use crate::ca::plan::Serial;
use crate::clock::Clock;
use crate::config::ClientAuth;
use crate::tls::server::{certified_key, provider};
use crate::tls::testing::{handshake, now};
use crate::tls::verify::CallerVerifier;

fn domain() -> TrustDomain {
    TrustDomain::parse("corp.example").unwrap()
}

fn name(text: &str) -> IdentityName {
    IdentityName::parse(text).unwrap()
}

fn copy(from: &Path, to: &Path) {
    fs::copy(from, to).unwrap();
}

#[test]
fn init_makes_what_open_reads() {
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("state/ca");
    assert!(matches!(Authority::open(&ca), Err(CaError::Missing(_))));
    let made = Authority::init(&ca, &domain(), now()).unwrap();
    let opened = Authority::open(&ca).unwrap();
    assert_eq!(opened.trust_domain(), &domain());
    assert_eq!((opened.roots(), opened.bundle_pem()), (made.roots(), made.bundle_pem()));
    assert_eq!(opened.issuer_not_after(), now().after(make::ISSUER_LIFE));
    for file in files_in(&ca) {
        let mode = fs::metadata(&file).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, if file.extension().unwrap() == "key" { 0o600 } else { 0o644 }, "{}", file.display());
    }
    assert_eq!(fs::metadata(&ca).unwrap().permissions().mode() & 0o777, 0o700);
    assert!(!format!("{opened:?}").contains("PRIVATE"));
}

#[test]
fn an_authority_is_never_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("ca");
    Authority::init(&ca, &domain(), now()).unwrap();
    let before: Vec<_> = files_in(&ca).iter().map(|file| fs::read(file).unwrap()).collect();
    assert!(matches!(Authority::init(&ca, &domain(), now()), Err(CaError::Exists(_))));
    // Not even what is left of one.
    fs::remove_file(ca.join("root.crt")).unwrap();
    assert!(matches!(Authority::init(&ca, &domain(), now()), Err(CaError::Exists(_))));
    fs::write(ca.join("root.crt"), &before[0]).unwrap();
    let after: Vec<_> = files_in(&ca).iter().map(|file| fs::read(file).unwrap()).collect();
    assert_eq!(before, after);
}

#[test]
fn a_crash_leaves_no_half_authority() {
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("ca");
    let mut steps = 0;
    init(&dir.path().join("count"), (&domain(), None), now(), &mut || {
        steps += 1;
        Ok(())
    })
    .unwrap();
    assert_eq!(steps, 6);
    for last in 0..steps {
        let mut left = last;
        let crashed = init(&ca, (&domain(), None), now(), &mut || {
            left -= 1;
            if left < 0 { Err(io::Error::other("killed")) } else { Ok(()) }
        });
        assert!(crashed.is_err());
        assert!(matches!(Authority::open(&ca), Err(CaError::Missing(_))), "after {last} steps");
    }
    // A file that was being written when the power went.
    drop(fs::create_dir(dir.path().join(".ca.new")));
    fs::write(dir.path().join(".ca.new/root.key"), "-----BEGIN PRI").unwrap();
    Authority::init(&ca, &domain(), now()).unwrap();
    let names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 2, "{names:?}");
}

#[test]
fn racing_inits_make_one_authority() {
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("ca");
    let made = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| Authority::init(&ca, &domain(), now()).is_ok())).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).filter(|made| *made).count()
    });
    assert!(made <= 1, "{made}");
    drop(Authority::init(&ca, &domain(), now()));
    assert!(Authority::open(&ca).is_ok());
}

#[test]
fn parts_that_do_not_belong_together_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (ca, other) = (dir.path().join("ca"), dir.path().join("other"));
    Authority::init(&other, &domain(), now()).unwrap();
    let spoilt = |spoil: &dyn Fn(&Path), why: &str| {
        drop(fs::remove_dir_all(&ca));
        Authority::init(&ca, &domain(), now()).unwrap();
        spoil(&ca);
        let error = Authority::open(&ca).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    };
    let swap = |file: &'static str| {
        let from = other.join(file);
        move |ca: &Path| copy(&from, &ca.join(file))
    };
    spoilt(&swap("root.crt"), "did not sign it");
    spoilt(&swap("issuer.crt"), "did not sign it");
    spoilt(&swap("root.key"), "not the key of the certificate");
    spoilt(&swap("issuer.key"), "not the key of the certificate");
    for key in ["root.key", "issuer.key"] {
        let expose =
            |mode| move |ca: &Path| fs::set_permissions(ca.join(key), fs::Permissions::from_mode(mode)).unwrap();
        spoilt(&expose(0o640), key);
        spoilt(&expose(0o604), "chmod 600");
    }
    spoilt(&|ca| fs::write(ca.join("issuer.key"), "nothing").unwrap(), "not a private key");
    spoilt(&|ca| fs::write(ca.join("issuer.crt"), "nothing").unwrap(), "not a certificate");
    spoilt(&|ca| copy(&ca.join("root.crt"), &ca.join("issuer.crt")), "path length");
    spoilt(&|ca| copy(&ca.join("issuer.crt"), &ca.join("root.crt")), "did not sign it");
    spoilt(&|ca| fs::remove_file(ca.join("issuer.key")).unwrap(), "issuer.key");

    // An offline root is no fault.
    drop(fs::remove_dir_all(&ca));
    Authority::init(&ca, &domain(), now()).unwrap();
    fs::remove_file(ca.join("root.key")).unwrap();
    assert!(Authority::open(&ca).is_ok());
}

#[test]
fn what_it_issues_is_what_the_verifier_reads() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::init(&dir.path().join("ca"), &domain(), now()).unwrap();
    let clock = Clock::manual(now());
    let builtin = Some((domain(), authority.anchors()));
    let verifier = CallerVerifier::new(ClientAuth::Required, builtin, &[], clock.clone(), provider()).unwrap();
    for role in Role::ALL {
        let plan = authority.plan_client(role, &name("alice"), None, now()).unwrap();
        let key = KeyPair::generate().unwrap();
        let issued = authority.issue_client(&plan, &key.subject_public_key_info(), None).unwrap();
        let peer = verifier.identify(&issued.chain).unwrap();
        assert_eq!(peer.identity.uri(), format!("spiffe://corp.example/{}/alice", role.as_str()));
        assert_eq!(*peer.serial, *plan.serial().as_bytes());
        assert_eq!(peer.not_after, plan.span().not_after);
        assert_eq!(CertificateDer::pem_slice_iter(issued.pem.as_bytes()).count(), 2);
        // The issuer is known, and is no caller.
        assert!(verifier.identify(&issued.chain[..1]).is_some());
        assert!(verifier.identify(&issued.chain[1..]).is_none());
    }
    let (server, _) = authority.issue_server(&["gw.corp.example"], now()).unwrap();
    assert!(verifier.identify(&server).is_none());
}

#[test]
fn the_servers_certificate_serves() {
    let dir = tempfile::tempdir().unwrap();
    // The client in this test goes by the machine's clock.
    let now = Clock::System.now();
    let authority = Authority::init(&dir.path().join("ca"), &domain(), now).unwrap();
    let (chain, key) = authority.issue_server(&["gw.corp.example", "127.0.0.1", "::1"], now).unwrap();
    fs::write(dir.path().join("ca.pem"), authority.bundle_pem()).unwrap();
    for (file, der) in [("leaf.der", &chain[0]), ("issuer.der", &chain[1])] {
        fs::write(dir.path().join(file), der).unwrap();
    }
    let output = Command::new("openssl")
        .args("verify -x509_strict -purpose sslserver -verify_hostname gw.corp.example -CAfile ca.pem -untrusted issuer.der leaf.der".split(' '))
        .current_dir(dir.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    let certified = Arc::new(crate::tls::server::CurrentCertificate::new(certified_key(chain, key).unwrap()));
    let builtin = Some((domain(), authority.roots()));
    let verifier = CallerVerifier::new(ClientAuth::Optional, builtin, &[], Clock::System, provider()).unwrap();
    let server = Arc::new(crate::tls::server::api_config(verifier, certified, false).unwrap());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(authority.roots().remove(0)).unwrap();
    let client = rustls::ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let client = Arc::new(client);
    for good in ["gw.corp.example", "127.0.0.1", "::1"] {
        let done = handshake(&server, &client, good);
        assert_eq!((done.refused, done.alert), (None, None), "{good}");
    }
    assert!(handshake(&server, &client, "other.corp.example").alert.is_some());
}

#[test]
fn a_plan_is_for_one_authority() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::init(&dir.path().join("ca"), &domain(), now()).unwrap();
    let spki = KeyPair::generate().unwrap().subject_public_key_info();
    let elsewhere = TrustDomain::parse("other.example").unwrap();
    let far = Span { not_before: now(), not_after: Timestamp::FAR_FUTURE };
    let serial = Serial::from_random([1; 16]);
    let foreign = LeafPlan::new((&elsewhere, Role::Client, &name("a")), None, serial, far, now()).unwrap();
    assert!(matches!(authority.issue_client(&foreign, &spki, None), Err(CaError::NotAsPlanned(_))));
    let late = now().after(make::ISSUER_LIFE);
    let outliving = LeafPlan::new((&domain(), Role::Client, &name("a")), None, serial, far, late).unwrap();
    assert!(matches!(authority.issue_client(&outliving, &spki, None), Err(CaError::NotAsPlanned(_))));
    assert!(matches!(authority.plan_client(Role::Client, &name("a"), None, late), Err(CaError::Plan(_))));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// A trust domain of any length makes an authority whose common names fit.
    #[test]
    fn every_trust_domain_makes_an_authority(text in "[a-z0-9][a-z0-9_-]{0,30}(\\.[a-z0-9_-]{1,60}){0,3}") {
        let dir = tempfile::tempdir().unwrap();
        let domain = TrustDomain::parse(&text).unwrap();
        let authority = Authority::init(&dir.path().join("ca"), &domain, now()).unwrap();
        prop_assert_eq!(authority.trust_domain(), &domain);
    }
}

use std::process::Command;

use proptest::prelude::*;
use rcgen::{KeyPair, PublicKeyData};
use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::UnixTime;
use std::sync::Arc;

use super::*;
use crate::ca::change::{Unlock, rotate_issuer};
use crate::clock::Clock;
use crate::domain::identity::{IdentityName, Role, TrustDomain};
use crate::tls::server::provider;
use crate::tls::testing::now;

fn authority(dir: &Path, at: Timestamp) -> Authority {
    Authority::init(dir, &TrustDomain::parse("corp.example").unwrap(), at).unwrap()
}

fn caller(authority: &Authority, name: &str, at: Timestamp) -> (Vec<CertificateDer<'static>>, Vec<u8>, Timestamp) {
    let plan = authority.plan_client(Role::Client, &IdentityName::parse(name).unwrap(), None, at).unwrap();
    let key = KeyPair::generate().unwrap();
    let issued = authority.issue_client(&plan, &key.subject_public_key_info(), None).unwrap();
    (issued.chain, plan.serial().as_bytes().to_vec(), plan.span().not_after)
}

fn webpki_accepts(authority: &Authority, lists: &[Crl], chain: &[CertificateDer<'static>], at: Timestamp) -> bool {
    let mut roots = RootCertStore::empty();
    for root in authority.roots() {
        roots.add(root).unwrap();
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
        .with_crls(lists.iter().map(|list| list.der.clone()))
        .only_check_end_entity_revocation()
        .enforce_revocation_expiration()
        .build()
        .unwrap();
    let time = UnixTime::since_unix_epoch(at.since(Timestamp::from_seconds(0)));
    verifier.verify_client_cert(&chain[0], &chain[1..], time).is_ok()
}

#[test]
fn openssl_and_webpki_refuse_what_is_on_the_list() {
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("ca");
    let now = Clock::System.now();
    let first = authority(&ca, now);
    let (alice, alice_serial, not_after) = caller(&first, "alice", now);
    let (bob, _, _) = caller(&first, "bob", now);
    let second = rotate_issuer(&ca, Unlock::default(), now).unwrap();
    let (carol, carol_serial, _) = caller(&second, "carol", now);
    let (dave, _, _) = caller(&second, "dave", now);
    let revoked = |serial: &[u8], reason| Revoked { serial: serial.to_vec(), at: now, not_after, reason };
    let revoked = [revoked(&alice_serial, Reason::KeyCompromise), revoked(&carol_serial, Reason::Unspecified)];
    // One list for each issuer.
    let lists = issue(&ca, &second, &revoked, now).unwrap();
    assert_eq!(lists.len(), 2);

    let at = |name: &str| dir.path().join(name);
    fs::write(at("crls.pem"), lists.iter().map(|list| list.pem.as_str()).collect::<String>()).unwrap();
    fs::write(at("roots.pem"), second.bundle_pem()).unwrap();
    for (name, chain, good) in
        [("alice", &alice, false), ("bob", &bob, true), ("carol", &carol, false), ("dave", &dave, true)]
    {
        let pem = |der: &[u8]| pem::encode(&pem::Pem::new("CERTIFICATE", der));
        fs::write(at("leaf.pem"), pem(&chain[0])).unwrap();
        fs::write(at("issuer.pem"), pem(&chain[1])).unwrap();
        let arguments =
            "verify -x509_strict -crl_check -CRLfile crls.pem -CAfile roots.pem -untrusted issuer.pem leaf.pem";
        let output = Command::new("openssl").args(arguments.split(' ')).current_dir(dir.path()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.success(), good, "{name}: {said}");
        assert_eq!(said.contains("certificate revoked"), !good, "{name}: {said}");
        assert_eq!(webpki_accepts(&second, &lists, chain, now), good, "{name}");
        // A day later the list says nothing any more.
        assert!(!webpki_accepts(&second, &lists, chain, now.after(NEXT_UPDATE + BACKDATED)), "{name}");
    }
    let issuers = at("issuers.pem");
    fs::write(&issuers, pem::encode(&pem::Pem::new("CERTIFICATE", second.issuer().unwrap().to_vec()))).unwrap();
    fs::write(at("crl.pem"), &lists[0].pem).unwrap();
    let output = Command::new("openssl")
        .args("crl -in crl.pem -CAfile issuers.pem -noout -text -crlnumber".split(' '))
        .current_dir(dir.path())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
    for part in ["verify OK", "Version 2", "Key Compromise", "X509v3 CRL Number", "Authority Key Identifier"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert_eq!(text.matches("CRL Reason Code").count(), 1, "unspecified is not written: {text}");
}

#[test]
fn numbers_only_grow() {
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("ca");
    let authority = authority(&ca, now());
    let next = |at| next_number(&ca, at).unwrap();
    let first = next(now());
    assert_eq!(next(now()), first + 1);
    // The clock goes back.
    assert_eq!(next(now().before(Duration::from_secs(1000))), first + 2);
    // The file was lost.
    fs::remove_file(dir.path().join(NUMBER)).unwrap();
    assert!(next(now().after(Duration::from_secs(10))) > first + 2);
    // A crash between the number and the list loses a number.
    fs::write(dir.path().join(".crl-number.new"), "12").unwrap();
    let number = next(now());
    issue(&ca, &authority, &[], now()).unwrap();
    assert_eq!(next(now()), number + 2);
    fs::write(dir.path().join(NUMBER), "x").unwrap();
    assert!(issue(&ca, &authority, &[], now()).is_err());
}

#[test]
fn what_has_ended_leaves_the_list_an_hour_later() {
    let dir = tempfile::tempdir().unwrap();
    let authority = authority(&dir.path().join("ca"), now());
    let second = Duration::from_secs(1);
    let listed = |at: Timestamp| {
        let one = Revoked { serial: vec![5], at: now(), not_after: now(), reason: Reason::Superseded };
        let list = sign(authority.issuer().unwrap(), authority.signer(), (&[one], 1), at).unwrap();
        x509_parser::parse_x509_crl(&list.der).unwrap().1.iter_revoked_certificates().count()
    };
    assert_eq!(listed(now().after(KEPT).before(second)), 1);
    assert_eq!(listed(now().after(KEPT)), 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Whatever is revoked, and only that, is on the list, and webpki reads it.
    #[test]
    fn lists_hold_what_is_revoked(serials in prop::collection::hash_set(prop::collection::vec(1u8..=255, 1..16), 0..20)) {
        let dir = tempfile::tempdir().unwrap();
        let authority = authority(&dir.path().join("ca"), now());
        let not_after = now().after(NEXT_UPDATE);
        let one = |serial: &Vec<u8>| Revoked { serial: serial.clone(), at: now(), not_after, reason: Reason::Superseded };
        let revoked: Vec<_> = serials.iter().map(one).collect();
        let list = sign(authority.issuer().unwrap(), authority.signer(), (&revoked, 7), now()).unwrap();
        let (_, read) = x509_parser::parse_x509_crl(&list.der).unwrap();
        let unsigned = |bytes: &[u8]| bytes.iter().copied().skip_while(|b| *b == 0).collect::<Vec<u8>>();
        let found: std::collections::HashSet<_> = read.iter_revoked_certificates().map(|r| unsigned(r.raw_serial())).collect();
        prop_assert_eq!(found, serials);
        let (chain, _, _) = caller(&authority, "alice", now());
        prop_assert!(webpki_accepts(&authority, &[list], &chain, now()));
    }
}

use std::fs;
use std::process::Command;
use std::time::Duration;

use rcgen::PublicKeyData;
use rustls_pki_types::SubjectPublicKeyInfoDer;
use rustls_pki_types::pem::PemObject;

use super::*;
use crate::ca::plan::authority_span;
use crate::domain::identity::{IdentityName, Role, TrustDomain};
use crate::tls::testing::now;

struct Signer {
    issuer: Issuer,
    der: Vec<u8>,
    span: Span,
}

fn signer() -> Signer {
    let span = authority_span(now(), Duration::from_secs(365 * 24 * 3600));
    let serial = Serial::from_random([9; 16]);
    let profile = Profile::authority("test issuer".to_owned(), "spiffe://corp.example".to_owned(), 0, serial, span);
    let key = KeyPair::generate().unwrap();
    let params = profile.params().unwrap();
    let der = params.self_signed(&key).unwrap().der().to_vec();
    Signer { issuer: Issuer::new(params, key), der, span }
}

fn alice(signer: &Signer, serial: [u8; 16]) -> Profile {
    let domain = TrustDomain::parse("corp.example").unwrap();
    let name = IdentityName::parse("alice").unwrap();
    let serial = Serial::from_random(serial);
    let plan = LeafPlan::new((&domain, Role::Client, &name), None, serial, signer.span, now()).unwrap();
    Profile::client(&plan, Some("https://enroll.corp.example/.doorward/v1/crl"))
}

#[test]
fn serials_of_any_shape_survive() {
    let signer = signer();
    let spki = KeyPair::generate().unwrap().subject_public_key_info();
    for serial in [[0; 16], [0xff; 16], [0x80; 16], [0x7f; 16], [0, 0, 0x80, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13]]
    {
        issue(&alice(&signer, serial), &spki, &signer.issuer, &signer.der).unwrap();
    }
}

type Change = &'static dyn Fn(&mut CertificateParams);

#[test]
fn any_difference_from_the_plan_is_found() {
    let signer = signer();
    let spki = KeyPair::generate().unwrap().subject_public_key_info();
    let planned = alice(&signer, [7; 16]);
    let forge = |change: &dyn Fn(&mut CertificateParams)| {
        let mut params = planned.params().unwrap();
        change(&mut params);
        let key = SubjectPublicKeyInfo::from_der(&spki).unwrap();
        let der = params.signed_by(&key, &signer.issuer).unwrap().der().to_vec();
        check(&planned, &der, &spki, &signer.der)
    };
    forge(&|_| ()).unwrap();
    let changes: [(Change, &str); 15] = [
        (&|p| p.serial_number = Some(SerialNumber::from_slice(&[1])), "serial"),
        (&|p| p.not_before -= Duration::from_secs(1), "notBefore"),
        (&|p| p.not_after += Duration::from_secs(1), "notAfter"),
        (&|p| p.distinguished_name.push(DnType::CommonName, "bob"), "subject"),
        (&|p| p.distinguished_name.push(DnType::OrganizationName, "Corp"), "subject"),
        (&|p| p.subject_alt_names.push(SanType::DnsName("x".try_into().unwrap())), "names"),
        (&|p| p.subject_alt_names[0] = SanType::URI("spiffe://corp.example/client/bob".try_into().unwrap()), "names"),
        (&|p| p.subject_alt_names.clear(), "names"),
        (&|p| p.is_ca = IsCa::NoCa, "subject key id"),
        (&|p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained), "basic constraints"),
        (&|p| p.key_usages.push(KeyUsagePurpose::KeyCertSign), "key usage"),
        (&|p| p.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth), "extended key usage"),
        (&|p| p.use_authority_key_identifier_extension = false, "authority key id"),
        (&|p| p.crl_distribution_points[0].uris.push("https://x".to_owned()), "CRL address"),
        (
            &|p| p.custom_extensions = vec![rcgen::CustomExtension::from_oid_content(&[1, 2, 3], vec![5, 0])],
            "an extension that nobody planned",
        ),
    ];
    for (change, what) in changes {
        match forge(change) {
            Err(CaError::NotAsPlanned(found)) => assert_eq!(found, what),
            other => panic!("{what}: {other:?}"),
        }
    }
    let other = KeyPair::generate().unwrap().subject_public_key_info();
    let good = issue(&planned, &spki, &signer.issuer, &signer.der).unwrap();
    assert!(matches!(check(&planned, good.der(), &other, &signer.der), Err(CaError::NotAsPlanned("public key"))));
    let elsewhere = self::signer();
    assert!(check(&planned, good.der(), &spki, &elsewhere.der).is_err());
    let mut broken = good.der().to_vec();
    *broken.last_mut().unwrap() ^= 1;
    assert!(check(&planned, &broken, &spki, &signer.der).is_err());
}

#[test]
fn keys_of_other_kinds_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let signer = signer();
    let certify = |kind: &str, arguments: &str| {
        let run = |arguments: &str| {
            let output = Command::new("openssl").args(arguments.split(' ')).current_dir(dir.path()).output().unwrap();
            assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
        };
        run(&format!("genpkey -algorithm {kind} -out key.pem{arguments}"));
        run("pkey -in key.pem -pubout -out pub.pem");
        let spki = SubjectPublicKeyInfoDer::from_pem_file(dir.path().join("pub.pem")).unwrap();
        issue(&alice(&signer, [7; 16]), &spki, &signer.issuer, &signer.der).map(drop)
    };
    for (kind, arguments) in [
        ("EC", " -pkeyopt ec_paramgen_curve:P-256"),
        ("EC", " -pkeyopt ec_paramgen_curve:P-384"),
        ("ED25519", ""),
        ("RSA", " -pkeyopt rsa_keygen_bits:3072"),
    ] {
        certify(kind, arguments).unwrap_or_else(|error| panic!("{kind}{arguments}: {error}"));
    }
    for (kind, arguments, why) in [
        ("EC", " -pkeyopt ec_paramgen_curve:P-521", "curve"),
        ("EC", " -pkeyopt ec_paramgen_curve:secp256k1", "curve"),
        ("EC", " -pkeyopt ec_paramgen_curve:P-256 -pkeyopt ec_param_enc:explicit", "curve"),
        ("ED448", "", "it is not P-256"),
        ("X25519", "", "it is not P-256"),
        ("RSA", " -pkeyopt rsa_keygen_bits:2048", "3072"),
        ("RSA", " -pkeyopt rsa_keygen_bits:3071", "3072"),
        ("RSA", " -pkeyopt rsa_keygen_bits:3072 -pkeyopt rsa_keygen_pubexp:3", "exponent"),
    ] {
        match certify(kind, arguments) {
            Err(CaError::PublicKey(found)) => assert!(found.contains(why), "{kind}{arguments}: {found}"),
            other => panic!("{kind}{arguments}: {other:?}"),
        }
    }
    drop(fs::remove_file(dir.path().join("key.pem")));
}

#[test]
fn one_key_has_one_encoding() {
    let signer = signer();
    let key = KeyPair::generate().unwrap();
    let spki = key.subject_public_key_info();
    let certify = |spki: &[u8]| issue(&alice(&signer, [7; 16]), spki, &signer.issuer, &signer.der).map(drop);
    certify(&spki).unwrap();
    // The same point, compressed.
    let (head, point) = spki.split_at(spki.len() - 65);
    let mut compressed = head.to_vec();
    compressed.push(2 + (point[64] & 1));
    compressed.extend(&point[1..33]);
    compressed[1] -= 32;
    let bits = head.len() - 2;
    compressed[bits] -= 32;
    assert!(matches!(certify(&compressed), Err(CaError::PublicKey(why)) if why.contains("uncompressed")));
    let mut longer = spki.clone();
    longer.push(0);
    assert!(matches!(certify(&longer), Err(CaError::PublicKey(_))));
    assert!(matches!(certify(&[]), Err(CaError::PublicKey(_))));
}

#[test]
fn a_crl_address_must_be_one() {
    let signer = signer();
    let spki = KeyPair::generate().unwrap().subject_public_key_info();
    for wrong in ["https://a b", "https://ä", "https://x\n"] {
        let profile = Profile { crl: Some(wrong.to_owned()), ..alice(&signer, [7; 16]) };
        assert!(issue(&profile, &spki, &signer.issuer, &signer.der).is_err(), "{wrong:?}");
    }
}

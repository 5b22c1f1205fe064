//! A list of what is revoked: read or refused, never a panic, and none counts that names a root and is not
//! signed by it.

use std::sync::OnceLock;

use doorward::config::crls::{self, List};
use doorward::domain::timestamp::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, KeyPair, KeyUsagePurpose, SigningKey,
};
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{CertificateRevocationList, FromDer, X509Certificate};

use super::{der, values};

const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);

/// The first byte says how to read the rest: as a file, or as what stands behind the issuer in a list
/// that is signed as it should be, or by another, since nobody finds a signature by chance.
pub(super) fn check(input: &[u8]) {
    let Some((how, rest)) = input.split_first() else { return };
    match how % 3 {
        0 => file(rest.to_vec()),
        1 => signed_by_us(rest),
        _ => {
            let list = List::from(signed(rest, other_key()));
            assert!(crls::check(&list, &authority().roots, NOW).is_err());
        }
    }
}

fn file(bytes: Vec<u8>) {
    let Ok(lists) = crls::lists_in(bytes) else { return };
    for list in lists {
        if crls::check(&list, &authority().roots, NOW).is_ok() {
            // Our key has signed none of these.
            let (_, parsed) = CertificateRevocationList::from_der(&list).expect("it was read");
            assert_ne!(parsed.issuer().as_raw(), authority().subject);
        }
        let _ = crls::check(&list, &[], NOW).is_ok();
    }
}

fn signed_by_us(rest: &[u8]) {
    let list = List::from(signed(rest, &authority().key));
    if let Ok(warnings) = crls::check(&list, &authority().roots, NOW) {
        assert!(warnings.len() <= 2);
        // As another reader finds it: times, entries, extensions.
        let parts = values(rest).expect("what is read is DER");
        assert!(parts.iter().all(|(tag, _)| matches!(tag, 0x17 | 0x18 | 0x30 | 0xa0)), "{parts:?}");
        let (_, parsed) = CertificateRevocationList::from_der(&list).expect("it was read");
        let entries = parts.iter().find(|(tag, _)| *tag == 0x30).map_or(0, |(_, it)| values(it).expect("DER").len());
        assert_eq!(parsed.iter_revoked_certificates().count(), entries);
    }
}

struct Authority {
    key: KeyPair,
    roots: Vec<CertificateDer<'static>>,
    subject: Vec<u8>,
}

fn authority() -> &'static Authority {
    static AUTHORITY: OnceLock<Authority> = OnceLock::new();
    AUTHORITY.get_or_init(|| {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "root");
        let key = KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("a key");
        let root = CertificateDer::from(params.self_signed(&key).expect("a root"));
        let subject = X509Certificate::from_der(&root).expect("it is X.509").1.subject().as_raw().to_vec();
        Authority { key, roots: vec![root], subject }
    })
}

fn other_key() -> &'static KeyPair {
    static KEY: OnceLock<KeyPair> = OnceLock::new();
    KEY.get_or_init(|| KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("a key"))
}

/// A list (RFC 5280, section 5.1) of our authority, with anything behind the issuer.
fn signed(rest: &[u8], key: &KeyPair) -> Vec<u8> {
    // Ed25519, 1.3.101.112
    let algorithm = der(0x30, &[&[6, 3, 0x2b, 0x65, 0x70]]);
    let list = der(0x30, &[&[2, 1, 1], &algorithm, &authority().subject, rest]);
    let signature = key.sign(&list).expect("a key signs");
    der(0x30, &[&list, &algorithm, &der(3, &[&[0], &signature])])
}

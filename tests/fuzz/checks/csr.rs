//! Whatever request for a certificate is accepted: what is signed is a client's certificate for its key,
//! and nothing that it asks for besides.

use std::sync::OnceLock;

use doorward::ca::authority::Authority;
use doorward::ca::csr;
use doorward::domain::identity::{IdentityName, Role, TrustDomain};
use doorward::domain::timestamp::Timestamp;
use rcgen::{KeyPair, PublicKeyData, SigningKey};

use super::der;

const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);

/// The first byte says how to read the rest: as it is, or as subject, a byte 0xff and attributes of a
/// request that is signed as it should be, since nobody finds a signature by chance.
pub(super) fn check(input: &[u8]) {
    let Some((how, rest)) = input.split_first() else { return };
    if how % 2 == 0 {
        if let Ok(key) = csr::public_key(rest) {
            certify(&key);
        }
        return;
    }
    let mut parts = rest.splitn(2, |byte| *byte == 0xff);
    let (subject, attributes) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let key = own_key().subject_public_key_info();
    if let Ok(found) = csr::public_key(&signed(subject, attributes)) {
        assert_eq!(found, key);
        static ONCE: OnceLock<()> = OnceLock::new();
        ONCE.get_or_init(|| certify(&key));
    }
}

fn certify(key: &[u8]) {
    let name = IdentityName::parse("alice").expect("a name");
    let plan = authority().plan_client(Role::Client, &name, None, NOW).expect("a plan");
    // It reads back what it signs, and fails when that is not as planned.
    authority().issue_client(&plan, key, None).expect("a key that was accepted is certified");
}

/// A request (RFC 2986, section 4) with any subject and any attributes.
fn signed(subject: &[u8], attributes: &[u8]) -> Vec<u8> {
    let key = own_key();
    let (version, subject) = (der(2, &[&[0]]), der(0x30, &[subject]));
    let info = der(0x30, &[&version, &subject, &key.subject_public_key_info(), &der(0xa0, &[attributes])]);
    let signature = key.sign(&info).expect("a key signs");
    // Ed25519, 1.3.101.112
    let algorithm = der(0x30, &[&[6, 3, 0x2b, 0x65, 0x70]]);
    der(0x30, &[&info, &algorithm, &der(3, &[&[0], &signature])])
}

fn own_key() -> &'static KeyPair {
    static KEY: OnceLock<KeyPair> = OnceLock::new();
    KEY.get_or_init(|| KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("a key"))
}

fn authority() -> &'static Authority {
    static AUTHORITY: OnceLock<Authority> = OnceLock::new();
    AUTHORITY.get_or_init(|| {
        let dir = std::env::temp_dir().join(format!("doorward-fuzz-csr-{}", std::process::id()));
        let domain = TrustDomain::parse("corp.example").expect("a domain");
        let made = Authority::init(&dir.join("ca"), &domain, NOW).expect("an authority");
        std::fs::remove_dir_all(dir).expect("its files are not needed");
        made
    })
}

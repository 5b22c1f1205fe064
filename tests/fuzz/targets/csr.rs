//! Whatever request for a certificate is accepted: what is signed is a client's certificate for its key,
//! and nothing that it asks for besides.

#![no_main]

use std::sync::OnceLock;

use doorward::ca::authority::Authority;
use doorward::ca::csr;
use doorward::domain::identity::{IdentityName, Role, TrustDomain};
use doorward::domain::timestamp::Timestamp;
use libfuzzer_sys::fuzz_target;

const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);

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

fuzz_target!(|input: &[u8]| {
    if let Ok(key) = csr::public_key(input) {
        let name = IdentityName::parse("alice").expect("a name");
        let plan = authority().plan_client(Role::Client, &name, None, NOW).expect("a plan");
        // It reads back what it signs, and fails when that is not as planned.
        authority().issue_client(&plan, &key, None).expect("a key that was accepted is certified");
    }
});

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use super::*;
use crate::ca::change;
use crate::clock::Clock;
use crate::domain::identity::{IdentityName, Role, TrustDomain};

fn authority(dir: &Path, domain: &str) -> Authority {
    // openssl compares with the machine's clock.
    Authority::init(&dir.join("ca"), &TrustDomain::parse(domain).unwrap(), Clock::System.now()).unwrap()
}

fn leaf(authority: &Authority, name: &str) -> NewLeaf {
    let name = IdentityName::parse(name).unwrap();
    let plan = authority.plan_client(Role::Client, &name, None, Clock::System.now()).unwrap();
    generate(authority, &plan, Some("https://enroll.corp.example/.doorward/v1/crl")).unwrap()
}

fn write(leaf: &NewLeaf, bundle: &str, dir: &Path, name: &str, existing: Existing) -> Result<LeafFiles, CaError> {
    stage(leaf, bundle, dir, name, existing)?.place()
}

fn openssl(dir: &Path, arguments: &str) -> String {
    let output = Command::new("openssl").args(arguments.split_whitespace()).current_dir(dir).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments}: {text}");
    text
}

#[test]
fn openssl_accepts_the_files() {
    let dir = tempfile::tempdir().unwrap();
    let authority = authority(dir.path(), "corp.example");
    let out = dir.path().join("out");
    let paths = write(&leaf(&authority, "alice"), authority.bundle_pem(), &out, "alice", Existing::Keep).unwrap();
    assert_eq!(fs::metadata(&paths.key).unwrap().permissions().mode() & 0o777, 0o600);
    for purpose in ["sslclient", "any"] {
        openssl(&out, &format!("verify -x509_strict -purpose {purpose} -CAfile ca.crt -untrusted alice.crt alice.crt"));
    }
    let refused = Command::new("openssl")
        .args(["verify", "-purpose", "sslserver", "-CAfile", "ca.crt", "-untrusted", "alice.crt", "alice.crt"])
        .current_dir(&out)
        .output()
        .unwrap();
    assert!(!refused.status.success());
    let key = openssl(&out, "pkey -in alice.key -pubout");
    assert_eq!(key, openssl(&out, "x509 -in alice.crt -noout -pubkey"));
    let text = openssl(&out, "x509 -in alice.crt -noout -text");
    for part in [
        "Subject: CN = alice",
        "URI:spiffe://corp.example/client/alice",
        "Digital Signature",
        "TLS Web Client Authentication",
        "CA:FALSE",
        "URI:https://enroll.corp.example/.doorward/v1/crl",
    ] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    assert_eq!(fs::read_dir(&out).unwrap().count(), 3);
}

#[test]
fn nothing_is_replaced_unasked() {
    let dir = tempfile::tempdir().unwrap();
    let authority = authority(dir.path(), "corp.example");
    let out = dir.path().join("out");
    let write = |authority: &Authority, name: &str, existing| {
        write(&leaf(authority, name), authority.bundle_pem(), &out, name, existing)
    };
    let paths = write(&authority, "alice", Existing::Keep).unwrap();
    let before = (fs::read(&paths.key).unwrap(), fs::read(&paths.certificate).unwrap());
    let now = || (fs::read(&paths.key).unwrap(), fs::read(&paths.certificate).unwrap());

    assert!(matches!(write(&authority, "alice", Existing::Keep), Err(CaError::Exists(_))));
    assert_eq!(now(), before);
    fs::remove_file(&paths.key).unwrap();
    assert!(matches!(write(&authority, "alice", Existing::Keep), Err(CaError::Exists(_))));
    assert!(!paths.key.exists());

    // A crashed attempt left this.
    fs::write(out.join(".alice.key.new"), "half a k").unwrap();
    write(&authority, "alice", Existing::Replace).unwrap();
    assert_ne!(now(), before);
    assert_eq!(fs::metadata(&paths.key).unwrap().permissions().mode() & 0o777, 0o600);

    // Another name beside it shares the roots; another authority does not.
    write(&authority, "bob", Existing::Keep).unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let other = self::authority(elsewhere.path(), "other.example");
    assert!(matches!(write(&other, "carol", Existing::Keep), Err(CaError::Exists(_))));
    assert!(!out.join("carol.key").exists());
    assert!(matches!(write(&authority, "ca", Existing::Replace), Err(CaError::Broken { .. })));
}

#[test]
fn the_roots_follow_a_rotation() {
    let dir = tempfile::tempdir().unwrap();
    let first = authority(dir.path(), "corp.example");
    let out = dir.path().join("out");
    write(&leaf(&first, "alice"), first.bundle_pem(), &out, "alice", Existing::Keep).unwrap();
    let rotated = change::rotate_root(&dir.path().join("ca"), change::Unlock::default(), Clock::System.now()).unwrap();
    let paths = write(&leaf(&rotated, "bob"), rotated.bundle_pem(), &out, "bob", Existing::Keep).unwrap();
    assert_eq!(fs::read_to_string(&paths.roots).unwrap(), rotated.bundle_pem());
    for name in ["alice", "bob"] {
        openssl(
            &out,
            &format!("verify -x509_strict -purpose sslclient -CAfile ca.crt -untrusted {name}.crt {name}.crt"),
        );
    }
    // Over, and the bundle has one of the two roots.
    let finished = change::finish(&dir.path().join("ca")).unwrap();
    write(&leaf(&finished, "carol"), finished.bundle_pem(), &out, "carol", Existing::Keep).unwrap();
    assert_eq!(fs::read_to_string(&paths.roots).unwrap(), finished.bundle_pem());
}

#[test]
fn a_private_key_is_not_printed() {
    let dir = tempfile::tempdir().unwrap();
    let leaf = leaf(&authority(dir.path(), "corp.example"), "alice");
    assert!(!format!("{leaf:?}").contains("PRIVATE KEY"));
}

/// Between the two steps a certificate goes on record. Before, there is none that somebody could use; and
/// when it does not get there, nothing stays behind.
#[test]
fn what_is_prepared_is_no_certificate_yet() {
    let dir = tempfile::tempdir().unwrap();
    let authority = authority(dir.path(), "corp.example");
    let out = dir.path().join("out");
    let leaf = leaf(&authority, "alice");
    let stage = || stage(&leaf, authority.bundle_pem(), &out, "alice", Existing::Keep).unwrap();
    let staged = stage();
    let room = fs::read(out.join(".alice.crt.new")).unwrap();
    assert_eq!(room.len(), leaf.issued.pem.len(), "all the room that it takes");
    assert!(room.iter().all(|byte| *byte == b' '));
    assert_eq!(fs::metadata(out.join(".alice.key.new")).unwrap().permissions().mode() & 0o777, 0o600);
    drop(staged);
    assert_eq!(fs::read_dir(&out).unwrap().count(), 0);

    let staged = stage();
    fs::write(out.join("alice.crt"), "somebody else's").unwrap();
    assert!(matches!(staged.place(), Err(CaError::Exists(_))));
    assert_eq!(fs::read_dir(&out).unwrap().count(), 1);
    fs::remove_file(out.join("alice.crt")).unwrap();
    let paths = stage().place().unwrap();
    assert_eq!(fs::read_to_string(&paths.certificate).unwrap(), leaf.issued.pem);
    assert_eq!(fs::read_dir(&out).unwrap().count(), 3);
}

/// Several that are issued at once share a directory, and its roots. Of two of one name one counts, whole.
#[test]
fn two_at_once_are_not_mixed() {
    let dir = tempfile::tempdir().unwrap();
    let authority = authority(dir.path(), "corp.example");
    let out = dir.path().join("out");
    let stage = |leaf: &NewLeaf, name: &str| stage(leaf, authority.bundle_pem(), &out, name, Existing::Keep).unwrap();
    let (alice, bob) = (leaf(&authority, "alice"), leaf(&authority, "bob"));
    let both = [stage(&alice, "alice"), stage(&bob, "bob")];
    for staged in both {
        staged.place().unwrap();
    }
    assert_eq!(fs::read_dir(&out).unwrap().count(), 5);

    let (early, late) = (leaf(&authority, "carol"), leaf(&authority, "carol"));
    let both = (stage(&early, "carol"), stage(&late, "carol"));
    assert!(matches!(both.0.place(), Err(CaError::Broken { .. })));
    let paths = both.1.place().unwrap();
    assert_eq!(fs::read_to_string(&paths.certificate).unwrap(), late.issued.pem);
    assert_eq!(Some(fs::read_to_string(&paths.key).unwrap()), late.key_pem.as_deref().map(ToString::to_string));
    assert_eq!(fs::read_dir(&out).unwrap().count(), 7);
}

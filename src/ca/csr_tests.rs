use std::fs;
use std::path::Path;
use std::process::Command;

use proptest::prelude::*;

use super::*;

fn openssl(dir: &Path, arguments: &str) {
    let output = Command::new("openssl").args(arguments.split(' ')).current_dir(dir).output().unwrap();
    assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn requests_of_every_kind_that_is_certified() {
    let dir = tempfile::tempdir().unwrap();
    for (key, hash) in [
        ("ec -pkeyopt ec_paramgen_curve:P-256", "sha256"),
        ("ec -pkeyopt ec_paramgen_curve:P-256", "sha384"),
        ("ec -pkeyopt ec_paramgen_curve:P-384", "sha256"),
        ("ec -pkeyopt ec_paramgen_curve:P-384", "sha384"),
        ("ed25519", "sha256"),
        ("rsa:3072", "sha256"),
        ("rsa:3072", "sha512"),
    ] {
        openssl(dir.path(), &format!("req -new -newkey {key} -{hash} -nodes -keyout k -out r -subj /CN=x"));
        openssl(dir.path(), "req -in r -outform DER -out r.der");
        openssl(dir.path(), "pkey -in k -pubout -outform DER -out p");
        let expected = fs::read(dir.path().join("p")).unwrap();
        for form in ["r", "r.der"] {
            let found = public_key(&fs::read(dir.path().join(form)).unwrap());
            assert_eq!(found.unwrap_or_else(|error| panic!("{key} {hash}: {error}")), expected);
        }
    }
    for (key, hash, why) in [
        ("rsa:2048", "sha256", "3072"),
        ("rsa:3072", "sha1", "SHA-1"),
        ("ec -pkeyopt ec_paramgen_curve:P-521", "sha256", "curve"),
    ] {
        openssl(dir.path(), &format!("req -new -newkey {key} -{hash} -nodes -keyout k -out r -subj /CN=x"));
        let error = public_key(&fs::read(dir.path().join("r")).unwrap()).unwrap_err().to_string();
        assert!(error.contains(why), "{key}: {error}");
    }
}

#[test]
fn a_request_proves_that_its_sender_has_the_key() {
    let dir = tempfile::tempdir().unwrap();
    openssl(dir.path(), "req -new -newkey ed25519 -nodes -keyout k -outform DER -out r -subj /CN=x");
    let good = fs::read(dir.path().join("r")).unwrap();
    let key = public_key(&good).unwrap();
    // Whatever bit is another: no key but this one is ever taken.
    let (mut taken, mut refused) = (Vec::new(), 0);
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1;
        match public_key(&bad) {
            Ok(found) => {
                assert_eq!(found, key, "byte {at}");
                taken.push(at);
            }
            Err(_) => refused += 1,
        }
    }
    // What the signature does not cover: how its algorithm and its unused bits are written.
    let signature = good.len() - 64;
    let written = signature - "30 05 06 03 2b 65 70 03 41 00".split(' ').count()..signature;
    assert!(taken.iter().all(|at| written.contains(at)) && refused > 100, "{taken:?}");
    let mut longer = good.clone();
    longer.push(0);
    assert!(public_key(&longer).is_err());
    assert!(public_key(&vec![b'0'; 1 << 20]).unwrap_err().to_string().contains("64 KiB"));
    for junk in ["", "-----BEGIN CERTIFICATE REQUEST-----\n!\n-----END CERTIFICATE REQUEST-----\n"] {
        assert!(matches!(public_key(junk.as_bytes()), Err(CaError::Request(_))));
    }
}

proptest! {
    #[test]
    fn junk_is_refused(junk in prop::collection::vec(any::<u8>(), 0..300)) {
        let mut der = vec![0x30, 0x82];
        der.extend(&junk);
        prop_assert!(public_key(&junk).is_err());
        prop_assert!(public_key(&der).is_err());
    }
}

use std::fs;
use std::process::Command;

use proptest::prelude::*;
use rcgen::KeyPair;

use super::*;

fn passphrase(text: &str) -> Passphrase {
    Passphrase::new(Zeroizing::new(text.to_owned())).unwrap()
}

#[test]
fn openssl_reads_what_we_write_and_we_read_what_it_writes() {
    let dir = tempfile::tempdir().unwrap();
    let openssl = |arguments: &str| {
        let output = Command::new("openssl").args(arguments.split(' ')).current_dir(dir.path()).output().unwrap();
        (output.status.success(), String::from_utf8(output.stdout).unwrap())
    };
    let key = KeyPair::generate().unwrap();
    let right = passphrase("correct horse battery");
    let written = encrypt(key.serialized_der(), &right).unwrap();
    assert!(is_encrypted(&written));
    assert_eq!(*decrypt(&written, &right).unwrap(), key.serialized_der());
    assert_eq!(decrypt(&written, &passphrase("correct horse batterx")).unwrap_err(), Closed::Wrong);

    // One line for the passphrase of what is read, one for that of what is written.
    fs::write(dir.path().join("pass"), "correct horse battery\ncorrect horse battery\n").unwrap();
    fs::write(dir.path().join("a.key"), written.as_bytes()).unwrap();
    let (done, public) = openssl("pkey -in a.key -passin file:pass -pubout");
    assert!(done);
    assert_eq!(public, key.public_key_pem());

    let pkcs8 = "pkcs8 -topk8 -in a.key -passin file:pass -passout file:pass -out b.key";
    for way in ["", " -v2 aes-256-cbc", " -iter 5000"] {
        assert!(openssl(&format!("{pkcs8}{way}")).0);
        let theirs = fs::read_to_string(dir.path().join("b.key")).unwrap();
        assert!(KeyPair::try_from(decrypt(&theirs, &right).unwrap().as_slice()).is_ok(), "{way}");
    }
    for way in [" -v2 aes-128-cbc", " -v2prf hmacWithSHA512", " -scrypt"] {
        assert!(openssl(&format!("{pkcs8}{way}")).0, "{way}");
        let theirs = fs::read_to_string(dir.path().join("b.key")).unwrap();
        assert_eq!(decrypt(&theirs, &right).unwrap_err(), Closed::OtherWay, "{way}");
    }
}

#[test]
fn a_passphrase_is_one_long_enough_line() {
    for wrong in ["", "elevenbytes", "two lines\nof text", &"x".repeat(MAX_BYTES + 1)] {
        assert!(Passphrase::new(Zeroizing::new(wrong.to_owned())).is_err(), "{wrong:?}");
    }
    assert_eq!(format!("{:?}", passphrase("correct horse battery")), "Passphrase(..)");
}

proptest! {
    /// Nothing that a file can hold makes reading it panic.
    #[test]
    fn damaged_files_are_refused(junk in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(read(&junk).is_none());
        let text = pem::encode(&pem::Pem::new(LABEL, junk));
        prop_assert!(decrypt(&text, &passphrase("correct horse battery")).is_err());
    }
}

use std::os::unix::fs::PermissionsExt;

use proptest::prelude::*;

use super::*;
use crate::tls::testing::Ca;

const PIN: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

fn pin() -> RootPin {
    RootPin::parse(PIN).unwrap()
}

struct Pair {
    key: String,
    certificate: String,
}

fn place(dir: &Path) -> Place {
    Place::new(dir, &IdentityName::parse("alice").unwrap())
}

fn pair(ca: &Ca) -> Pair {
    let key = KeyPair::generate().unwrap();
    let params = crate::tls::testing::client_params(vec![crate::tls::testing::uri("spiffe://corp.test/client/alice")]);
    Pair { certificate: ca.sign_for(&params, &key), key: key.serialize_pem() }
}

fn new<'n>(pair: &'n Pair, roots: &'n str) -> NewFiles<'n> {
    NewFiles { key: &pair.key, certificate: &pair.certificate, roots, origin: None }
}

#[test]
fn what_is_written_is_read_and_the_key_is_for_its_owner_alone() {
    let dir = tempfile::tempdir().unwrap();
    let place = place(&dir.path().join("deep/er"));
    let (ca, lock) = (Ca::new("Root"), place.lock().unwrap());
    let pair = pair(&ca);
    let new = NewFiles { origin: Some("addresses = []"), ..new(&pair, "roots") };
    place.write(&new, &lock).unwrap();
    let read = place.read().unwrap();
    assert_eq!((read.key.as_str(), &read.certificate, read.roots.as_str()), (&*pair.key, &pair.certificate, "roots"));
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let files = place.files();
    assert_eq!([&files.key, &files.certificate, &files.roots].map(|file| mode(file)), [0o600, 0o644, 0o644]);
    assert_eq!(mode(place.dir()), 0o700);
    assert_eq!(fs::read_to_string(place.dir().join(origin::FILE)).unwrap(), "addresses = []");
    assert_eq!(fs::read_dir(place.dir()).unwrap().count(), 4, "nothing else is left");
    assert_eq!(Place::only(place.dir()).unwrap(), place);
}

#[test]
fn a_key_that_others_can_read_is_not_used() {
    let dir = tempfile::tempdir().unwrap();
    let place = place(dir.path());
    place.write(&new(&pair(&Ca::new("Root")), "roots"), &place.lock().unwrap()).unwrap();
    fs::set_permissions(place.files().key, fs::Permissions::from_mode(0o640)).unwrap();
    assert!(place.read().unwrap_err().to_string().contains("chmod 600"));
}

#[test]
fn one_process_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let place = place(dir.path());
    let lock = place.lock().unwrap();
    assert!(matches!(place.lock(), Err(HolderFault::Busy(_))));
    drop(lock);
    assert!(place.lock().is_ok());
}

#[test]
fn a_directory_with_no_or_several_identities_says_so() {
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(Place::only(&dir.path().join("none")), Err(HolderFault::Missing(_))));
    assert!(matches!(Place::only(dir.path()), Err(HolderFault::Missing(_))));
    for name in ["bob.key", "alice.key", "NOT-A-NAME.key", ".hidden.key", "alice.crt"] {
        fs::write(dir.path().join(name), "").unwrap();
    }
    let said = Place::only(dir.path()).unwrap_err().to_string();
    assert!(said.contains("alice, bob"), "{said}");
}

#[test]
fn a_name_that_would_overwrite_the_roots_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let place = Place::new(dir.path(), &IdentityName::parse("ca").unwrap());
    assert!(place.check_free(pin()).unwrap_err().to_string().contains("overwrite"));
}

#[test]
fn what_is_there_is_not_overwritten_unasked() {
    let dir = tempfile::tempdir().unwrap();
    let (place, ca) = (place(dir.path()), Ca::new("Root"));
    let bob = Place::new(dir.path(), &IdentityName::parse("bob").unwrap());
    assert!(place.check_free(pin()).is_ok());
    // Roots that nobody needs are what a crash has left.
    fs::write(place.files().roots, ca.root_pem()).unwrap();
    assert!(place.check_free(pin()).is_ok());
    bob.write(&new(&pair(&ca), &ca.root_pem()), &bob.lock().unwrap()).unwrap();
    let Err(HolderFault::Exists(file)) = place.check_free(pin()) else { panic!("bob needs other roots") };
    assert_eq!(file, place.files().roots);
    assert!(place.check_free(RootPin::of(&ca.root())).is_ok(), "the same roots");
    for file in [place.files().key, place.files().certificate] {
        fs::write(&file, "").unwrap();
        assert!(matches!(place.check_free(RootPin::of(&ca.root())), Err(HolderFault::Exists(found)) if found == file));
        fs::remove_file(&file).unwrap();
    }
}

#[test]
fn a_config_that_is_called_like_the_origin_is_not_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let (place, file) = (place(dir.path()), dir.path().join(origin::FILE));
    fs::write(&file, "state_dir = \"/var/lib/doorward\"\n[listen]\naddress = \"0.0.0.0:8443\"\n").unwrap();
    assert!(matches!(place.check_free(pin()), Err(HolderFault::Exists(found)) if found == file));
    // One that an earlier join has left makes way.
    fs::write(&file, "addresses = [\"gw.corp.example:8443\"]\nenroll = \"enroll.corp.example\"\n").unwrap();
    assert!(place.check_free(pin()).is_ok());
}

#[test]
fn a_key_with_another_certificate_is_no_identity() {
    let dir = tempfile::tempdir().unwrap();
    let (place, ca) = (place(dir.path()), Ca::new("Root"));
    place.write(&new(&pair(&ca), "roots"), &place.lock().unwrap()).unwrap();
    fs::write(place.files().certificate, pair(&ca).certificate).unwrap();
    assert!(place.read().unwrap_err().to_string().contains("does not belong"));
    fs::remove_file(place.files().certificate).unwrap();
    assert!(place.read().is_err());
}

/// Stops before the `at`-th change; how many there are otherwise.
fn write_until(place: &Place, new: &NewFiles<'_>, at: usize) -> Result<usize, HolderFault> {
    let lock = place.lock().unwrap();
    let mut done = 0;
    place.write_with(new, &lock, &mut || {
        done += 1;
        if done > at { Err(io::Error::other("crash")) } else { Ok(()) }
    })?;
    Ok(done)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// However often a renewal crashes, and wherever, a usable pair is left: the old one or a new one.
    #[test]
    fn a_crash_leaves_a_usable_pair(crashes in prop::collection::vec(0usize..12, 1..5)) {
        let dir = tempfile::tempdir().unwrap();
        let (place, ca) = (place(dir.path()), Ca::new("Root"));
        let mut pairs = vec![pair(&ca)];
        let steps = write_until(&place, &new(&pairs[0], "roots"), usize::MAX).unwrap();
        prop_assert_eq!(steps, 11);
        for at in crashes {
            pairs.push(pair(&ca));
            let crashed = write_until(&place, &new(pairs.last().unwrap(), "roots"), at).is_err();
            prop_assert_eq!(crashed, at < steps);
            let read = place.read().unwrap();
            let known = pairs.iter().find(|pair| *pair.key == **read.key).unwrap();
            prop_assert_eq!(&known.certificate, &read.certificate);
            // And what was found stays found.
            prop_assert_eq!(&place.read().unwrap().certificate, &read.certificate);
        }
        pairs.push(pair(&ca));
        place.write(&new(pairs.last().unwrap(), "other"), &place.lock().unwrap()).unwrap();
        prop_assert_eq!(&place.read().unwrap().certificate, &pairs.last().unwrap().certificate);
        prop_assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3);
    }
}

/// The first files too: what a crash leaves of them is an identity, or can be made anew.
#[test]
fn a_crash_while_joining_leaves_an_identity_or_none() {
    let ca = Ca::new("Root");
    for at in 0..11 {
        let dir = tempfile::tempdir().unwrap();
        let place = place(dir.path());
        let pair = pair(&ca);
        assert!(write_until(&place, &new(&pair, "roots"), at).is_err());
        match place.read() {
            Ok(read) => assert_eq!(*read.key, *pair.key, "{at}"),
            Err(_) => {
                assert!(!place.files().key.exists(), "{at}: a key without its certificate");
                assert!(place.check_free(pin()).is_ok());
            }
        }
    }
}

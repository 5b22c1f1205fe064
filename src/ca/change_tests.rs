use std::process::Command;
use std::time::Duration;

use rcgen::PublicKeyData;
use rustls_pki_types::CertificateDer;

use super::*;
use crate::clock::Clock;
use crate::config::ClientAuth;
use crate::tls::server::provider;
use crate::tls::testing::now;
use crate::tls::verify::CallerVerifier;

const HOUR: Duration = Duration::from_secs(3600);

fn domain() -> TrustDomain {
    TrustDomain::parse("corp.example").unwrap()
}

fn passphrase() -> Passphrase {
    Passphrase::new(Zeroizing::new("correct horse battery".to_owned())).unwrap()
}

fn caller(authority: &Authority, at: Timestamp) -> Vec<CertificateDer<'static>> {
    let name = IdentityName::parse("alice").unwrap();
    let plan = authority.plan_client(Role::Client, &name, None, at).unwrap();
    let key = KeyPair::generate().unwrap();
    authority.issue_client(&plan, &key.subject_public_key_info(), None).unwrap().chain
}

fn knows(authority: &Authority, chain: &[CertificateDer<'static>], at: Timestamp) -> bool {
    let builtin = Some((domain(), authority.anchors()));
    let verifier = CallerVerifier::new(ClientAuth::Required, builtin, &[], Clock::manual(at), provider()).unwrap();
    verifier.identify(chain).is_some()
}

/// True when a client that trusts `roots` accepts the gateway of `authority`, by openssl's judgement.
fn accepts(roots: &str, authority: &Authority, at: Timestamp) -> bool {
    let dir = tempfile::tempdir().unwrap();
    let (chain, _) = authority.issue_server(&["gw.corp.example"], at).unwrap();
    let pem = |der: &[u8]| pem::encode(&pem::Pem::new("CERTIFICATE", der));
    fs::write(dir.path().join("roots"), roots).unwrap();
    fs::write(dir.path().join("leaf"), pem(&chain[0])).unwrap();
    fs::write(dir.path().join("above"), chain[1..].iter().map(|der| pem(der)).collect::<String>()).unwrap();
    let second = at.as_seconds();
    let arguments = format!(
        "verify -x509_strict -attime {second} -purpose sslserver -verify_hostname gw.corp.example -CAfile roots -untrusted above leaf"
    );
    Command::new("openssl").args(arguments.split(' ')).current_dir(dir.path()).output().unwrap().status.success()
}

#[test]
fn a_new_issuer_leaves_what_the_old_one_signed() {
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("ca");
    let first = Authority::init(&ca, &domain(), now()).unwrap();
    let alice = caller(&first, now());
    let later = now().after(HOUR);
    let second = rotate_issuer(&ca, Unlock::default(), later).unwrap();
    assert_eq!(first.roots(), second.roots());
    assert_ne!(first.issuer(), second.issuer());
    assert_eq!(second.older_issuer_count(), 1);
    assert_eq!(second.issuer_since(), Some(later));
    let bob = caller(&second, later);
    assert_eq!(bob[1], *second.issuer().unwrap());
    for chain in [&alice, &bob] {
        assert!(knows(&second, chain, later));
    }
    assert!(accepts(first.bundle_pem(), &second, later));
    // A second time, and when the first issuer has ended it goes.
    let third = rotate_issuer(&ca, Unlock::default(), later).unwrap();
    assert_eq!(third.older_issuer_count(), 2);
    let much_later = now().after(make::ISSUER_LIFE + HOUR / 2);
    assert_eq!(rotate_issuer(&ca, Unlock::default(), much_later).unwrap().older_issuer_count(), 2);
    assert_eq!(finish(&ca).unwrap().older_issuer_count(), 0);
    assert!(matches!(finish(&ca), Err(CaError::NotNow(_))));
}

/// The root vouches for an issuer until that ends: whoever has stolen its key could issue for a year.
#[test]
fn an_issuer_that_was_replaced_for_good_makes_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("ca");
    let first = Authority::init(&ca, &domain(), now()).unwrap();
    let second = rotate_issuer(&ca, Unlock::default(), now()).unwrap();
    let (from_before, newest) = (caller(&first, now()), caller(&second, now()));
    assert!(knows(&second, &from_before, now()) && knows(&second, &newest, now()));
    let finished = finish(&ca).unwrap();
    assert!(!knows(&finished, &from_before, now()));
    assert!(knows(&finished, &newest, now()));
}

#[test]
fn a_new_root_goes_with_old_and_new_clients() {
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("ca");
    let first = Authority::init(&ca, &domain(), now()).unwrap();
    let alice = caller(&first, now());
    let later = now().after(HOUR);
    let second = rotate_root(&ca, Unlock::default(), later).unwrap();
    assert_eq!(second.roots().len(), 2);
    assert_eq!(second.roots()[1], first.roots()[0]);
    assert_ne!(second.root(), first.root());
    let bob = caller(&second, later);
    for chain in [&alice, &bob] {
        assert!(knows(&second, chain, later));
    }
    // Clients with the old bundle, and with the new one.
    assert!(accepts(first.bundle_pem(), &second, later));
    assert!(accepts(second.bundle_pem(), &second, later));
    assert_eq!(second.bundle_pem().matches("BEGIN CERTIFICATE").count(), 2);
    for again in [rotate_root(&ca, Unlock::default(), later), rotate_issuer(&ca, Unlock::default(), later)] {
        assert!(again.unwrap_err().to_string().contains("--finish"));
    }
    let third = finish(&ca).unwrap();
    assert_eq!(third.root(), second.root());
    assert!(!knows(&third, &alice, later));
    assert!(knows(&third, &bob, later));
    assert!(accepts(third.bundle_pem(), &third, later));
    assert!(!accepts(first.bundle_pem(), &third, later));
}

#[test]
fn a_root_goes_offline_and_is_used_from_there() {
    let dir = tempfile::tempdir().unwrap();
    let (ca, file) = (dir.path().join("ca"), dir.path().join("root.key"));
    let first = Authority::init(&ca, &domain(), now()).unwrap();
    assert_eq!(first.root_key(), RootKey::Here);
    let second = export_root(&ca, &file, &passphrase()).unwrap();
    assert_eq!(second.root_key(), RootKey::Offline);
    assert_eq!(files::mode(&file).unwrap(), 0o600);
    assert!(fs::read_to_string(&file).unwrap().contains("ENCRYPTED PRIVATE KEY"));
    let everywhere = Command::new("grep").args(["-rlE", "root.key|BEGIN PRIVATE"]).arg(dir.path()).output().unwrap();
    let left = String::from_utf8(everywhere.stdout).unwrap();
    assert_eq!(left.lines().count(), 1, "only the issuer's: {left}");

    assert!(matches!(export_root(&ca, &file, &passphrase()), Err(CaError::RootOffline(_))));
    assert!(matches!(rotate_issuer(&ca, Unlock::default(), now()), Err(CaError::RootOffline(_))));
    let at = |passphrase| Unlock { passphrase, file: Some(&file) };
    assert!(matches!(rotate_issuer(&ca, at(None), now()), Err(CaError::Locked(_))));
    let wrong = Passphrase::new(Zeroizing::new("another passphrase".to_owned())).unwrap();
    assert!(rotate_issuer(&ca, at(Some(&wrong)), now()).unwrap_err().to_string().contains("does not open"));
    let right = passphrase();
    let third = rotate_issuer(&ca, at(Some(&right)), now()).unwrap();
    assert_eq!(third.root_key(), RootKey::Offline);
    finish(&ca).unwrap();
    let fourth = rotate_root(&ca, at(Some(&right)), now()).unwrap();
    // As the old one was.
    assert_eq!(fourth.root_key(), RootKey::Encrypted);
}

#[test]
fn an_encrypted_root_opens_with_its_passphrase_only() {
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("ca");
    let made = Authority::init_with(&ca, &domain(), Some(&passphrase()), now()).unwrap();
    assert_eq!(made.root_key(), RootKey::Encrypted);
    caller(&made, now());
    assert!(matches!(rotate_issuer(&ca, Unlock::default(), now()), Err(CaError::Locked(_))));
    let right = passphrase();
    rotate_issuer(&ca, Unlock { passphrase: Some(&right), file: None }, now()).unwrap();
    // Somebody else's key, in the same form.
    let other = KeyPair::generate().unwrap();
    let file = dir.path().join("other.key");
    files::write_new(&file, passphrase::encrypt(other.serialized_der(), &right).unwrap().as_bytes(), files::SECRET)
        .unwrap();
    let error = rotate_issuer(&ca, Unlock { passphrase: Some(&right), file: Some(&file) }, now()).unwrap_err();
    assert!(error.to_string().contains("not the root's key"), "{error}");
}

/// What a kill between any two writes leaves is the old authority or the new one, and works.
#[test]
fn a_crash_leaves_the_old_authority_or_the_new_one() {
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("ca");
    let first = Authority::init(&ca, &domain(), now()).unwrap();
    let (mut seen_old, mut seen_new) = (0, 0);
    for last in 0.. {
        let before = Authority::open(&ca).unwrap();
        let mut left = last;
        let crashed = change_with(
            &ca,
            |contents, authority| {
                keep_issuer(contents, authority, now());
                let (key, _) = root_key(&ca, contents, authority, Unlock::default())?;
                let root = (authority.root(), &key);
                let span = span_of(authority.root())?;
                let (issuer, _) = make::issuer(authority.trust_domain(), root, None, (span, now()))?;
                contents.set(ISSUER_KEY, issuer.key.serialize_pem().into());
                contents.set(ISSUER_CRT, issuer.certificate.pem().into());
                Ok(())
            },
            &mut || {
                left -= 1;
                if left < 0 { Err(io::Error::other("killed")) } else { Ok(()) }
            },
        );
        let after = Authority::open(&ca).unwrap();
        assert_eq!(after.roots(), first.roots());
        assert!(knows(&after, &caller(&after, now()), now()));
        if after.issuer() == before.issuer() {
            seen_old += 1;
        } else {
            seen_new += 1;
        }
        if crashed.is_ok() {
            break;
        }
    }
    assert!(seen_old > 5 && seen_new == 2, "{seen_old} {seen_new}");
    // The next change sweeps up what is left.
    finish(&ca).unwrap();
    assert!(!dir.path().join(".ca.new").exists());
}

#[test]
fn a_root_is_never_in_no_place() {
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("ca");
    Authority::init(&ca, &domain(), now()).unwrap();
    for last in 0.. {
        let file = dir.path().join(format!("root-{last}.key"));
        let mut left = last;
        let done = export(&ca, (&file, &passphrase()), &mut || {
            left -= 1;
            if left < 0 { Err(io::Error::other("killed")) } else { Ok(()) }
        });
        let exported = fs::read_to_string(&file).is_ok_and(|text| passphrase::decrypt(&text, &passphrase()).is_ok());
        let here = Authority::open(&ca).unwrap().root_key() == RootKey::Here;
        assert!(exported || here, "after {last} steps");
        if done.is_ok() || !here {
            break;
        }
    }
    // Whatever a crash left of the key's old place goes with the next change.
    drop(Lock::take(&ca).unwrap());
    assert!(!dir.path().join(".ca.new").exists());
}

#[test]
fn readers_never_see_a_mixture() {
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("ca");
    Authority::init(&ca, &domain(), now()).unwrap();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for _ in 0..20 {
                rotate_issuer(&ca, Unlock::default(), now()).unwrap();
            }
        });
        let mut read = 0;
        while !writer.is_finished() || read == 0 {
            Authority::open(&ca).unwrap();
            read += 1;
        }
    });
}

/// An enterprise's own authority, by openssl: a root and one between.
struct Enterprise(tempfile::TempDir);

impl Enterprise {
    fn new() -> Self {
        let this = Self(tempfile::tempdir().unwrap());
        this.run("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-384 -nodes -keyout root.key -out root.crt -days 3000 -subj /C=DE/O=Corp/CN=CorpRoot -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign");
        this.run("req -newkey rsa:2048 -nodes -keyout mid.key -out mid.csr -subj /C=DE/O=Corp/CN=Middle");
        this.sign("mid.csr", "root", "mid.crt", "basicConstraints=critical,CA:TRUE,pathlen:1\nkeyUsage=critical,keyCertSign,cRLSign\nsubjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid", 2000);
        this
    }

    fn run(&self, arguments: &str) {
        let output = Command::new("openssl").args(arguments.split(' ')).current_dir(self.0.path()).output().unwrap();
        assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn sign(&self, csr: &str, by: &str, out: &str, extensions: &str, days: i32) {
        fs::write(self.0.path().join("ext"), extensions).unwrap();
        self.run(&format!(
            "x509 -req -in {csr} -CA {by}.crt -CAkey {by}.key -CAcreateserial -out {out} -days {days} -extfile ext"
        ));
    }

    fn read(&self, names: &[&str]) -> String {
        names.iter().map(|name| fs::read_to_string(self.0.path().join(name)).unwrap()).collect()
    }
}

const ISSUER: &str = "basicConstraints=critical,CA:TRUE,pathlen:0\nkeyUsage=critical,keyCertSign,cRLSign\nsubjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid";

#[test]
fn an_issuer_that_the_enterprise_signed_comes_into_force() {
    let (dir, enterprise) = (tempfile::tempdir().unwrap(), Enterprise::new());
    let ca = dir.path().join("state/ca");
    // openssl signs by the machine's clock, in a moment.
    let now = Clock::System.now().after(HOUR);
    assert!(import_issuer(&ca, "", now).unwrap_err().to_string().contains("no request"));
    let request = Request::make(&ca, &domain()).unwrap();
    assert_eq!(Request::make(&ca, &domain()).unwrap().key_pem(), request.key_pem());
    assert!(Request::make(&ca, &TrustDomain::parse("other.example").unwrap()).is_err());
    fs::write(enterprise.0.path().join("dw.csr"), request.pem().unwrap()).unwrap();
    enterprise.run("req -in dw.csr -verify -noout");

    let refused = |chain: &str, why: &str| {
        let error = import_issuer(&ca, chain, now).unwrap_err().to_string();
        assert!(error.contains(why), "{why}: {error}");
        assert!(!ca.exists());
    };
    let sign = |extensions: &str, days| enterprise.sign("dw.csr", "mid", "dw.crt", extensions, days);
    sign("basicConstraints=critical,CA:FALSE\nsubjectKeyIdentifier=hash", 300);
    refused(&enterprise.read(&["dw.crt", "mid.crt", "root.crt"]), "not the certificate of an authority");
    sign("basicConstraints=critical,CA:TRUE,pathlen:0\nkeyUsage=critical,keyCertSign\nsubjectKeyIdentifier=hash", 300);
    refused(&enterprise.read(&["dw.crt", "mid.crt", "root.crt"]), "CRLs");
    sign("basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign\nsubjectKeyIdentifier=hash", 300);
    refused(&enterprise.read(&["dw.crt", "mid.crt", "root.crt"]), "path length 0");
    sign(&format!("{ISSUER}\nsubjectAltName=URI:spiffe://other.example"), 300);
    refused(&enterprise.read(&["dw.crt", "mid.crt", "root.crt"]), "trust domain");
    sign(ISSUER, -1);
    refused(&enterprise.read(&["dw.crt", "mid.crt", "root.crt"]), "ended");
    sign(ISSUER, 300);
    refused("junk", "not a certificate");
    refused(&enterprise.read(&["dw.crt"]), "up to the root");
    refused(&enterprise.read(&["dw.crt", "mid.crt"]), "not a root");
    refused(&enterprise.read(&["dw.crt", "root.crt"]), "was not signed by");
    refused(&enterprise.read(&["root.crt", "mid.crt", "dw.crt"]), "come first");
    refused(&enterprise.read(&["mid.crt", "root.crt"]), "not for the key");

    let good = enterprise.read(&["dw.crt", "mid.crt", "root.crt"]);
    let authority = import_issuer(&ca, &good, now).unwrap();
    assert_eq!((authority.trust_domain(), authority.root_key()), (&domain(), RootKey::NotOurs));
    let alice = caller(&authority, now);
    assert_eq!(alice.len(), 3);
    assert!(knows(&authority, &alice, now));
    assert!(accepts(&enterprise.read(&["root.crt"]), &authority, now));
    assert!(rotate_root(&ca, Unlock::default(), now).unwrap_err().to_string().contains("somebody else's"));

    // Another authority of the enterprise names one of our operators: it is nobody's.
    enterprise
        .run("req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout evil.key -out evil.csr -subj /CN=evil");
    enterprise.sign("evil.csr", "mid", "evil.crt", "basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\nextendedKeyUsage=clientAuth\nsubjectAltName=URI:spiffe://corp.example/operator/evil", 1);
    let evil = x509::certificates(&enterprise.read(&["evil.crt", "mid.crt"])).unwrap();
    assert!(!knows(&authority, &evil, now));

    // A year later: another issuer of the same root; alice's certificate stays good.
    let request = Request::make(&ca, &domain()).unwrap();
    fs::write(enterprise.0.path().join("dw.csr"), request.pem().unwrap()).unwrap();
    sign(ISSUER, 300);
    let next = import_issuer(&ca, &enterprise.read(&["dw.crt", "mid.crt", "root.crt"]), now).unwrap();
    assert_ne!(next.issuer(), authority.issuer());
    assert!(knows(&next, &alice, now) && knows(&next, &caller(&next, now), now));
    assert!(!knows(&finish(&ca).unwrap(), &alice, now));
}

#[test]
fn an_own_root_makes_way_for_the_enterprises() {
    let (dir, enterprise) = (tempfile::tempdir().unwrap(), Enterprise::new());
    let (ca, now) = (dir.path().join("ca"), Clock::System.now().after(HOUR));
    let own = Authority::init(&ca, &domain(), now).unwrap();
    let alice = caller(&own, now);
    let request = Request::make(&ca, &domain()).unwrap();
    fs::write(enterprise.0.path().join("dw.csr"), request.pem().unwrap()).unwrap();
    enterprise.sign("dw.csr", "root", "dw.crt", ISSUER, 300);
    let chain = enterprise.read(&["dw.crt", "root.crt"]);
    assert!(import_issuer(&ca, &chain, now).unwrap_err().to_string().contains("export-root"));
    export_root(&ca, &dir.path().join("root.key"), &passphrase()).unwrap();
    let mut left = 3;
    let killed = import(&ca, &chain, now, &mut || {
        left -= 1;
        if left < 0 { Err(io::Error::other("killed")) } else { Ok(()) }
    });
    assert!(killed.is_err());
    let imported = import_issuer(&ca, &chain, now).unwrap();
    assert_eq!(imported.roots().len(), 2);
    for chain in [&alice, &caller(&imported, now)] {
        assert!(knows(&imported, chain, now));
    }
    assert!(!knows(&finish(&ca).unwrap(), &alice, now));
}

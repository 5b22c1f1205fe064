//! Certificates of every wrong kind, signed by the gateway's own issuer and root wherever it can be:
//! what such a key may at worst be made to sign. None opens the gate, none reaches the backend, and
//! after each the next caller is served.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType, DnValue, ExtendedKeyUsagePurpose,
    GeneralSubtree, IsCa, Issuer, KeyPair, KeyUsagePurpose, NameConstraints, SanType,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use time::{Duration, OffsetDateTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::client::{connect_with, others_are_served};
use crate::gateway::{Gateway, PATIENCE};

const ALICE: &str = "spiffe://hostile.example/client/alice";

/// The gateway's own authority, in the wrong hands.
struct Stolen {
    root: Issuer<'static, KeyPair>,
    issuer: Issuer<'static, KeyPair>,
    issuer_der: CertificateDer<'static>,
}

impl Stolen {
    fn from(gateway: &Gateway) -> Self {
        let dir = gateway.authority_directory();
        let read = |name: &str| fs::read_to_string(dir.join(name)).unwrap();
        let issuer = |name: &str| {
            let key = KeyPair::from_pem(&read(&format!("{name}.key"))).unwrap();
            Issuer::from_ca_cert_pem(&read(&format!("{name}.crt")), key).unwrap()
        };
        let issuer_der = rustls::pki_types::pem::PemObject::from_pem_slice(read("issuer.crt").as_bytes()).unwrap();
        Self { root: issuer("root"), issuer: issuer("issuer"), issuer_der }
    }

    /// What the gateway's own issuer might be made to sign, with the issuer beside it.
    fn leaf(&self, change: impl FnOnce(&mut CertificateParams)) -> Presented {
        let mut presented = sign(&alice(change), &self.issuer, &KeyPair::generate().unwrap());
        presented.chain.push(self.issuer_der.clone());
        presented
    }

    /// A leaf below another issuer, which `above` has signed.
    fn below(
        &self,
        above: &Issuer<'static, KeyPair>,
        change: impl FnOnce(&mut CertificateParams),
        leaf: impl FnOnce(&mut CertificateParams),
    ) -> Presented {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "between");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let between = params.signed_by(&key, above).unwrap();
        let mut presented = sign(&alice(leaf), &Issuer::new(params, key), &KeyPair::generate().unwrap());
        presented.chain.extend([between.into(), self.issuer_der.clone()]);
        presented
    }
}

struct Presented {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Presented {
    /// With one certificate of the chain changed in its bytes.
    fn bent(mut self, at: usize, bend: impl FnOnce(&mut Vec<u8>)) -> Self {
        let mut bytes = self.chain[at].to_vec();
        bend(&mut bytes);
        self.chain[at] = bytes.into();
        self
    }
}

/// A good caller's certificate, changed.
fn alice(change: impl FnOnce(&mut CertificateParams)) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.not_before = OffsetDateTime::now_utc() - Duration::HOUR;
    params.not_after = OffsetDateTime::now_utc() + Duration::HOUR;
    params.distinguished_name.push(DnType::CommonName, "alice");
    params.subject_alt_names = vec![uri(ALICE)];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    change(&mut params);
    params
}

fn sign(params: &CertificateParams, issuer: &Issuer<'static, KeyPair>, key: &KeyPair) -> Presented {
    let certificate = params.signed_by(key, issuer).unwrap();
    Presented { chain: vec![certificate.into()], key: PrivatePkcs8KeyDer::from(key.serialize_der()).into() }
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

fn dns(text: &str) -> SanType {
    SanType::DnsName(text.try_into().unwrap())
}

fn extension(oid: &[u64], content: Vec<u8>) -> CustomExtension {
    let mut extension = CustomExtension::from_oid_content(oid, content);
    extension.set_criticality(true);
    extension
}

/// Name constraints that permit URIs of one host only.
fn only_uris_of(host: &str) -> CustomExtension {
    let wrap = |tag: u8, content: Vec<u8>| [vec![tag, u8::try_from(content.len()).unwrap()], content].concat();
    let subtree = wrap(0x30, wrap(0x86, host.as_bytes().to_vec()));
    extension(&[2, 5, 29, 30], wrap(0x30, wrap(0xa0, subtree)))
}

/// Those that permit names of one organisation only.
fn only_names_of(organisation: &str) -> NameConstraints {
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, DnValue::Utf8String(organisation.to_owned()));
    NameConstraints { permitted_subtrees: vec![GeneralSubtree::DirectoryName(name)], excluded_subtrees: Vec::new() }
}

/// What came of it: the status of an answer, or how the gateway ended the connection.
async fn present(gateway: &Gateway, presented: &Presented) -> Result<u16, String> {
    let tls = gateway.tls_presenting(presented.chain.clone(), &presented.key);
    let mut stream = connect_with(gateway.address(), tls, "127.0.0.1", None).await.map_err(|why| why.to_string())?;
    let exchange = async {
        stream.write_all(b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await?;
        stream.flush().await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    let answer = timeout(PATIENCE, exchange).await.expect("the gateway neither answers nor closes");
    let answer = String::from_utf8_lossy(&answer.map_err(|why| why.to_string())?).into_owned();
    let status = answer.split(' ').nth(1).unwrap_or_else(|| panic!("no answer: {answer:?}"));
    Ok(status.parse().unwrap())
}

#[tokio::test]
async fn the_zoo() {
    let gateway = Gateway::start().await;
    let stolen = Stolen::from(&gateway);
    let good = |_: &mut CertificateParams| ();
    assert_eq!(present(&gateway, &stolen.leaf(good)).await, Ok(200), "a good one is served");

    let hours = |from: i64, to: i64| {
        move |params: &mut CertificateParams| {
            params.not_before = OffsetDateTime::now_utc() + Duration::hours(from);
            params.not_after = OffsetDateTime::now_utc() + Duration::hours(to);
        }
    };
    let names = |names: Vec<SanType>| move |params: &mut CertificateParams| params.subject_alt_names = names;
    let signer = |presented: Presented| presented.chain[0].clone();
    let own_root = |name: &str| {
        let key = KeyPair::generate().unwrap();
        let params = alice(|params| {
            params.distinguished_name.push(DnType::CommonName, name);
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        });
        Presented {
            chain: vec![params.self_signed(&key).unwrap().into()],
            key: PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
        }
    };
    let leaf_of_a_leaf = {
        let (params, key) = (alice(good), KeyPair::generate().unwrap());
        let middle = params.signed_by(&key, &stolen.issuer).unwrap();
        let mut presented = sign(
            &alice(names(vec![uri("spiffe://hostile.example/operator/root")])),
            &Issuer::new(params, key),
            &KeyPair::generate().unwrap(),
        );
        presented.chain.extend([middle.into(), stolen.issuer_der.clone()]);
        presented
    };
    let huge = |mut presented: Presented, count: usize| {
        presented.chain.resize(count, stolen.issuer_der.clone());
        presented
    };
    let unknown = extension(&[1, 3, 6, 1, 4, 1, 99999, 1], vec![5, 0]);
    let zoo: Vec<(&str, Presented, &str)> = vec![
        ("expired", stolen.leaf(hours(-2, -1)), "CertificateExpired"),
        ("not valid yet", stolen.leaf(hours(1, 2)), "CertificateExpired"),
        ("ends before it begins", stolen.leaf(hours(1, -1)), "CertificateExpired"),
        (
            "for servers",
            stolen.leaf(|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]),
            "UnsupportedCertificate",
        ),
        ("for no use", stolen.leaf(|params| params.extended_key_usages.clear()), "CertificateUnknown"),
        (
            "for any use",
            stolen.leaf(|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Any]),
            "UnsupportedCertificate",
        ),
        ("no key usage", stolen.leaf(|params| params.key_usages.clear()), "CertificateUnknown"),
        (
            "may sign certificates",
            stolen.leaf(|params| params.key_usages.push(KeyUsagePurpose::KeyCertSign)),
            "CertificateUnknown",
        ),
        (
            "an authority",
            stolen.leaf(|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
            "CertificateUnknown",
        ),
        ("two URIs", stolen.leaf(names(vec![uri(ALICE), uri(ALICE)])), "CertificateUnknown"),
        ("URI and DNS", stolen.leaf(names(vec![uri(ALICE), dns("alice.example")])), "CertificateUnknown"),
        ("no names", stolen.leaf(names(Vec::new())), "CertificateUnknown"),
        (
            "a foreign trust domain",
            stolen.leaf(names(vec![uri("spiffe://other.example/client/alice")])),
            "CertificateUnknown",
        ),
        (
            "a role that is none",
            stolen.leaf(names(vec![uri("spiffe://hostile.example/root/alice")])),
            "CertificateUnknown",
        ),
        (
            "unknown and critical",
            stolen.leaf(|params| params.custom_extensions = vec![unknown.clone()]),
            "CertificateUnknown",
        ),
        ("path length", stolen.below(&stolen.issuer, |_| (), good), "UnknownCA"),
        (
            "names that its issuer may not give",
            stolen.below(&stolen.root, |params| params.name_constraints = Some(only_names_of("Other")), good),
            "UnknownCA",
        ),
        (
            "URIs that its issuer may not give",
            stolen.below(&stolen.root, |params| params.custom_extensions = vec![only_uris_of("other.example")], good),
            "UnknownCA",
        ),
        (
            "an issuer with an unknown and critical extension",
            stolen.below(&stolen.root, |params| params.custom_extensions = vec![unknown.clone()], good),
            "UnknownCA",
        ),
        (
            "an issuer that is none",
            stolen.below(&stolen.root, |params| params.is_ca = IsCa::ExplicitNoCa, good),
            "UnknownCA",
        ),
        (
            "an issuer that may not sign",
            stolen.below(&stolen.root, |params| params.key_usages = vec![KeyUsagePurpose::CrlSign], good),
            "UnknownCA",
        ),
        ("a leaf of a leaf", leaf_of_a_leaf, "UnknownCA"),
        ("its own root, by the name of a caller", own_root("alice"), "CertificateUnknown"),
        ("its own root, by our issuer's name", own_root("hostile.example issuer"), "CertificateUnknown"),
        (
            "the issuer alone",
            Presented { chain: vec![stolen.issuer_der.clone()], key: stolen.leaf(good).key },
            "CertificateUnknown",
        ),
        (
            "somebody else's certificate",
            Presented { chain: stolen.leaf(good).chain, key: stolen.leaf(good).key },
            "DecryptError",
        ),
        ("bytes after its end", stolen.leaf(good).bent(0, |der| der.push(0)), "BadCertificate"),
        ("its end missing", stolen.leaf(good).bent(0, |der| der.truncate(der.len() - 1)), "BadCertificate"),
        ("a length that is too long", stolen.leaf(good).bent(0, |der| der[2] = 0x7f), "BadCertificate"),
        ("its signature bent", stolen.leaf(good).bent(0, |der| *der.last_mut().unwrap() ^= 1), "DecryptError"),
        (
            "its name bent",
            stolen.leaf(good).bent(0, |der| bend(der, b"/client/alice", b"/client/alicf")),
            "DecryptError",
        ),
        ("empty", stolen.leaf(good).bent(0, Vec::clear), "BadCertificate"),
        ("noise", stolen.leaf(good).bent(0, |der| der.fill(0x30)), "BadCertificate"),
        ("a chain of five", huge(stolen.leaf(good), 6), "CertificateUnknown"),
        // More than a message may hold: the client still writes when the gateway has hung up.
        ("a chain of thousands", huge(stolen.leaf(good), 4000), ""),
        ("a mebibyte", stolen.leaf(good).bent(1, |der| der.resize(1 << 20, 0)), ""),
        ("nearly a message", stolen.leaf(good).bent(1, |der| der.resize(60_000, 0)), "CertificateUnknown"),
        (
            "without the key",
            Presented { chain: vec![signer(stolen.leaf(good))], key: stolen.leaf(good).key },
            "DecryptError",
        ),
    ];
    for (what, presented, alert) in zoo {
        let refused = present(&gateway, &presented).await.expect_err(what);
        assert!(refused.contains(alert), "{what}: {refused}");
        // Said, and not just dropped.
        assert!(alert.is_empty() || refused.contains("alert"), "{what}: {refused}");
    }
    assert!(gateway.backend.take().is_empty(), "nobody reached the backend");
    // Nothing lingers: the good one again, and others.
    assert_eq!(present(&gateway, &stolen.leaf(good)).await, Ok(200));
    others_are_served(&gateway).await;
    gateway.backend.take();
    gateway.until_quiet().await;
}

fn bend(der: &mut [u8], from: &[u8], to: &[u8]) {
    let at = der.windows(from.len()).position(|window| window == from).unwrap();
    der[at..at + to.len()].copy_from_slice(to);
}

/// Other names of a right certificate: known, and no caller.
#[tokio::test]
async fn other_roles_prove_who_they_are_and_may_nothing() {
    let gateway = Gateway::start().await;
    let stolen = Stolen::from(&gateway);
    for role in ["connector", "operator"] {
        let id = uri(&format!("spiffe://hostile.example/{role}/alice"));
        let presented = stolen.leaf(|params| params.subject_alt_names = vec![id]);
        assert_eq!(present(&gateway, &presented).await, Ok(401), "{role}");
    }
    assert!(gateway.backend.take().is_empty());
}

/// Keys and signatures, by openssl, which makes weak ones too and presents them.
#[tokio::test]
async fn keys_of_every_kind() {
    let gateway = Gateway::start().await;
    let dir = tempfile::tempdir().unwrap();
    let root = gateway.authority_directory();
    let run = |arguments: &str| {
        let done = Command::new("openssl").args(arguments.split(' ')).current_dir(dir.path()).output().unwrap();
        assert!(done.status.success(), "{arguments}: {}", String::from_utf8_lossy(&done.stderr));
    };
    for name in ["issuer.crt", "issuer.key", "root.crt"] {
        fs::copy(root.join(name), dir.path().join(name)).unwrap();
    }
    let extensions = format!(
        "[leaf]\nbasicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\n\
         extendedKeyUsage=clientAuth\nsubjectAltName=URI:{ALICE}\n"
    );
    fs::write(dir.path().join("ext"), extensions).unwrap();
    for (name, kind, hash, accepted) in [
        ("p256", "ec -pkeyopt ec_paramgen_curve:P-256", "sha256", true),
        ("p384", "ec -pkeyopt ec_paramgen_curve:P-384", "sha256", true),
        // Never certified by `cert issue`; where an authority has certified one, it is a sound key.
        ("p521", "ec -pkeyopt ec_paramgen_curve:P-521", "sha256", true),
        ("ed25519", "ed25519", "sha256", true),
        ("rsa3072", "rsa:3072", "sha256", true),
        ("rsa1024", "rsa:1024", "sha256", false),
        ("secp256k1", "ec -pkeyopt ec_paramgen_curve:secp256k1", "sha256", false),
        ("sha1", "ec -pkeyopt ec_paramgen_curve:P-256", "sha1", false),
        ("md5", "ec -pkeyopt ec_paramgen_curve:P-256", "md5", false),
    ] {
        run(&format!("req -newkey {kind} -nodes -keyout {name}.key -out {name}.csr -subj /CN=alice"));
        let signing = format!(
            "x509 -req -in {name}.csr -CA issuer.crt -CAkey issuer.key -CAcreateserial -out {name}.crt -days 1 -{hash} \
             -extfile ext -extensions leaf"
        );
        // OpenSSL may be built, or told, not to sign so: then nobody can present it either.
        let done = Command::new("openssl").args(signing.split(' ')).current_dir(dir.path()).output().unwrap();
        if !done.status.success() && !accepted {
            continue;
        }
        assert!(done.status.success(), "{signing}: {}", String::from_utf8_lossy(&done.stderr));
        let came = s_client(dir.path(), &gateway, name).await;
        assert_eq!(came.contains("HTTP/1.1 200"), accepted, "{name}: {came}");
        // An honest client keeps a key to itself that the gateway does not ask for: then it is nobody.
        assert!(accepted || !came.contains("HTTP/1.1") || came.contains("HTTP/1.1 401"), "{name}: {came}");
    }
    assert!(gateway.backend.take().is_empty());
}

/// What openssl's own client reads, without any scruple about its key.
async fn s_client(dir: &Path, gateway: &Gateway, name: &str) -> String {
    let mut command = Command::new("timeout");
    command
        .args([&PATIENCE.as_secs().to_string(), "openssl", "s_client", "-quiet", "-ign_eof"])
        .args(["-cipher", "DEFAULT@SECLEVEL=0", "-sigalgs", SIGNATURES])
        .args(["-connect", &gateway.address().to_string(), "-servername", "localhost"])
        .args(["-CAfile", "root.crt", "-cert_chain", "issuer.crt"])
        .args(["-cert", &format!("{name}.crt"), "-key", &format!("{name}.key")])
        .current_dir(dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let client = tokio::task::spawn_blocking(move || {
        let mut child = command.spawn().unwrap();
        let request = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        // It may be turned down before it has read this.
        drop(child.stdin.take().unwrap().write_all(request));
        child.wait_with_output().unwrap()
    });
    let done = client.await.unwrap();
    assert_ne!(done.status.code(), Some(124), "{name}: neither answered nor closed");
    format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr))
}

const SIGNATURES: &str = "ECDSA+SHA256:ECDSA+SHA384:ECDSA+SHA512:ed25519:RSA-PSS+SHA256:RSA+SHA256:ECDSA+SHA1:RSA+SHA1";

use std::fs;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CrlDistributionPoint,
    CrlIssuingDistributionPoint, CrlScope, DnType, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    RevokedCertParams, SerialNumber, date_time_ymd,
};
use tempfile::TempDir;

use crate::config::{Config, Problem, load};

struct Authority {
    params: CertificateParams,
    key: KeyPair,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, name);
        Self { params, key: KeyPair::generate().unwrap() }
    }

    fn root(&self) -> String {
        self.params.self_signed(&self.key).unwrap().pem()
    }

    fn list(&self, change: impl FnOnce(&mut CertificateRevocationListParams)) -> rcgen::CertificateRevocationList {
        let mut list = CertificateRevocationListParams {
            this_update: date_time_ymd(2026, 1, 1),
            next_update: date_time_ymd(2096, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: vec![RevokedCertParams {
                serial_number: SerialNumber::from(7),
                revocation_time: date_time_ymd(2026, 1, 1),
                reason_code: None,
                invalidity_date: None,
            }],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        change(&mut list);
        list.signed_by(&Issuer::from_params(&self.params, &self.key)).unwrap()
    }
}

/// Loads a config whose authority is `root`, with these lists.
fn load_with(root: &Authority, lists: &[&[u8]]) -> Result<Config, Vec<Problem>> {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("roots.pem"), root.root()).unwrap();
    let names: Vec<_> = (0..lists.len()).map(|index| format!("\"{index}.crl\"")).collect();
    for (index, list) in lists.iter().enumerate() {
        fs::write(dir.path().join(format!("{index}.crl")), list).unwrap();
    }
    let text = format!(
        r#"
state_dir = "."
[listen]
address = "127.0.0.1:8443"
names = {{ api = ["a.example"] }}
client_auth = "required"
certificate = "internal"
[ca]
trust_domain = "corp.example"
[[trust]]
name = "pki"
roots = "roots.pem"
crls = [{}]
map = {{ from = "san_dns", to = "spiffe://pki.example/client/{{}}" }}
[[grant]]
owner = "acme"
require = "certificate"
networks = ["*"]
endpoints = ["*"]
models = ["*"]
[[backend]]
name = "b"
url = "http://127.0.0.1:1"
dialects = ["openai"]
[[model]]
name = "m"
targets = [{{ backend = "b", model = "m" }}]
"#,
        names.join(", ")
    );
    let file = dir.path().join("doorward.toml");
    fs::write(&file, text).unwrap();
    load(&file, &|_| None)
}

fn refused(root: &Authority, list: &[u8]) -> String {
    load_with(root, &[list]).unwrap_err().iter().map(ToString::to_string).collect()
}

#[test]
fn lists_are_read_in_both_forms_and_watched() {
    let root = Authority::new("Root");
    let between = Authority::new("Between");
    let (one, other) = (root.list(|_| {}), between.list(|_| {}));
    let both = format!("{}{}", one.pem().unwrap(), other.pem().unwrap());
    let config = load_with(&root, &[both.as_bytes(), one.der()]).unwrap_or_else(|problems| panic!("{problems:?}"));
    assert_eq!(config.trust[0].crls, [one.der().clone(), other.der().clone(), one.der().clone()]);
    assert!(config.watched.iter().any(|file| file.ends_with("1.crl")));
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
}

#[test]
fn what_is_no_list_is_refused() {
    let root = Authority::new("Root");
    let good = root.list(|_| {});
    assert!(refused(&root, b"").contains("holds no list"));
    assert!(refused(&root, b"junk").contains("holds no list"));
    assert!(refused(&root, root.root().as_bytes()).contains("holds no list"));
    assert!(refused(&root, b"-----BEGIN X509 CRL-----\n!\n-----END X509 CRL-----\n").contains("neither PEM nor DER"));
    assert!(refused(&root, &good.der()[..good.der().len() - 1]).contains("cannot be read"));
    assert!(refused(&root, &[good.der().as_ref(), b"\0"].concat()).contains("cannot be read"));
    assert!(load_with(&root, &[]).unwrap_err()[0].to_string().contains("empty list"));
    // Somebody who only calls himself the root.
    let impostor = Authority::new("Root").list(|_| {});
    assert!(refused(&root, impostor.der()).contains("not signed by that root"));
    let mut bent = good.der().to_vec();
    *bent.last_mut().unwrap() ^= 1;
    assert!(refused(&root, &bent).contains("not signed by that root"));
}

#[test]
fn a_list_that_covers_a_part_says_so_or_is_whole() {
    // rustls reads partitioned lists of end entities, and heeds which part they cover.
    let root = Authority::new("Root");
    let part = root.list(|list| {
        list.issuing_distribution_point = Some(CrlIssuingDistributionPoint {
            distribution_point: CrlDistributionPoint { uris: vec!["http://x/1.crl".to_owned()] },
            scope: Some(CrlScope::UserCertsOnly),
        });
    });
    assert!(load_with(&root, &[part.der()]).is_ok());
}

#[test]
fn a_list_out_of_its_time_is_in_force_with_a_warning() {
    let root = Authority::new("Root");
    let old = root.list(|list| {
        list.this_update = date_time_ymd(2020, 1, 1);
        list.next_update = date_time_ymd(2020, 1, 2);
    });
    let config = load_with(&root, &[old.der()]).unwrap_or_else(|problems| panic!("{problems:?}"));
    assert_eq!(config.trust[0].crls.len(), 1);
    assert!(config.warnings[0].to_string().contains("what was revoked since is not known"), "{:?}", config.warnings);
    let early = root.list(|list| list.this_update = date_time_ymd(2095, 1, 1));
    let config = load_with(&root, &[early.der()]).unwrap_or_else(|problems| panic!("{problems:?}"));
    assert!(config.warnings[0].to_string().contains("begins only"), "{:?}", config.warnings);
}

//! What config files refer to, made anew for each test.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyPair, date_time_ymd};
use tempfile::TempDir;

use super::*;
use crate::config::{Config, Problem, ServerCertificate, load};

/// A folder with a config and what it refers to.
struct Folder(TempDir);

const HEAD: &str = "[listen]\naddress = \"127.0.0.1:8443\"\nnames = { api = [\"a.example\"] }\nclient_auth = \"off\"\n";

impl Folder {
    fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        let key = KeyPair::generate().unwrap();
        folder.write("leaf.crt", &leaf(&key, |_| {}), 0o644);
        folder.write("leaf.key", &key.serialize_pem(), 0o600);
        let mut root = CertificateParams::default();
        root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        folder.write("roots.crt", &root.self_signed(&key).unwrap().pem(), 0o644);
        folder
    }

    fn write(&self, name: &str, text: &str, mode: u32) {
        let file = self.0.path().join(name);
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, Permissions::from_mode(mode)).unwrap();
    }

    /// Loads [`HEAD`] and what follows.
    fn load(&self, rest: &str) -> Result<Config, Vec<Problem>> {
        self.write("doorward.toml", &format!("{HEAD}{rest}"), 0o644);
        load(&self.0.path().join("doorward.toml"), &|_| None)
    }

    #[track_caller]
    fn refuses(&self, rest: &str, expected: &[&str]) {
        let problems = self.load(rest).unwrap_err();
        let found: Vec<_> = problems.iter().map(ToString::to_string).collect();
        assert_eq!(found, expected);
    }

    #[track_caller]
    fn warns(&self, rest: &str, expected: &str) -> Config {
        let config = self.load(rest).unwrap();
        let found: Vec<_> = config.warnings.iter().map(ToString::to_string).collect();
        assert_eq!(found.join("\n"), expected);
        config
    }
}

fn leaf(key: &KeyPair, change: impl FnOnce(&mut CertificateParams)) -> String {
    let mut leaf = CertificateParams::new(["a.example".to_owned()]).unwrap();
    change(&mut leaf);
    leaf.self_signed(key).unwrap().pem()
}

const FILES: &str = "certificate = { chain = \"leaf.crt\", key = \"leaf.key\", roots = \"roots.crt\" }\n";

#[test]
fn a_certificate_with_its_key_is_read() {
    let folder = Folder::new();
    let config = folder.warns(FILES, "");
    let ServerCertificate::Files { chain, roots, .. } = &config.listen.certificate else { panic!("files") };
    assert_eq!((chain.len(), roots.len()), (1, 1));
    let watched: Vec<_> = config.watched.iter().map(|file| file.file_name().unwrap().to_str().unwrap()).collect();
    assert_eq!(watched, ["leaf.crt", "leaf.key", "roots.crt"]);
    assert!(config.watched.iter().all(|file| file.is_absolute()));
    assert!(config.file.is_absolute() && config.state_dir.is_absolute());
}

#[test]
fn a_key_of_another_certificate_is_refused() {
    let folder = Folder::new();
    folder.write("leaf.key", &KeyPair::generate().unwrap().serialize_pem(), 0o600);
    folder.refuses(FILES, &["line 5: listen.certificate.key: does not belong to the first certificate of chain"]);
    let backend = "[ca]\ntrust_domain = \"a.example\"\n[[backend]]\nname = \"a\"\nurl = \"https://a.example\"\n\
                   dialects = [\"openai\"]\ntls = { client_certificate = \"leaf.crt\", client_key = \"leaf.key\" }\n";
    folder.refuses(
        backend,
        &["line 11: backend[0].tls.client_key: does not belong to the first certificate of client_certificate"],
    );
}

#[test]
fn files_that_hold_something_else_are_refused() {
    let folder = Folder::new();
    let no_key = "line 5: listen.certificate.key: leaf.key holds no private key in PEM: nothing of the kind is in it";
    folder.write("leaf.key", &fs::read_to_string(folder.0.path().join("leaf.crt")).unwrap(), 0o600);
    folder.refuses(FILES, &[no_key]);
    folder.write(
        "leaf.key",
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
        0o600,
    );
    folder.refuses(
        FILES,
        &["line 5: listen.certificate.key: the key in leaf.key is encrypted, and there is nobody to ask at start"],
    );

    let folder = Folder::new();
    folder.write("leaf.crt", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", 0o644);
    folder.refuses(FILES, &["line 5: listen.certificate.chain: certificate 1 of leaf.crt cannot be read"]);
    folder.write("leaf.crt", "-----BEGIN CERTIFICATE-----\nAAAA\n", 0o644);
    folder
        .refuses(FILES, &["line 5: listen.certificate.chain: leaf.crt is not PEM: an -----END …----- line is missing"]);
    folder.write("leaf.crt", "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n", 0o644);
    folder.refuses(FILES, &["line 5: listen.certificate.chain: leaf.crt is not PEM: its base64 is damaged"]);
    folder.write("leaf.crt", "", 0o644);
    folder.refuses(
        FILES,
        &["line 5: listen.certificate.chain: leaf.crt holds no certificate (-----BEGIN CERTIFICATE-----)"],
    );
}

#[test]
fn what_clients_will_turn_down_is_a_warning() {
    let folder = Folder::new();
    let key = KeyPair::generate().unwrap();
    folder.write("leaf.key", &key.serialize_pem(), 0o640);
    let old = leaf(&key, |params| {
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2021, 1, 1);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    });
    folder.write("leaf.crt", &old, 0o644);
    let place = "line 5: listen.certificate";
    folder.warns(
        FILES,
        &format!(
            "{place}.key: leaf.key can be read by others than its owner; chmod 600 it\n\
             {place}.chain: the certificate ended on Jan  1 00:00:00 2021 +00:00\n\
             {place}.chain: the certificate is not meant for servers: no serverAuth in its extended key usage"
        ),
    );
}

#[test]
fn a_trust_entry_reads_its_roots() {
    let folder = Folder::new();
    let entry = |roots: &str| {
        format!(
            "{FILES}[[trust]]\nname = \"t\"\nroots = \"{roots}\"\nmap = \"spiffe\"\ntrust_domains = [\"t.example\"]\n"
        )
    };
    assert_eq!(folder.warns(&entry("roots.crt"), "").trust[0].roots.len(), 1);
    folder.refuses(
        &entry("leaf.key"),
        &["line 8: trust[0].roots: leaf.key holds no certificate (-----BEGIN CERTIFICATE-----)"],
    );
}

#[test]
fn a_secret_comes_from_a_file() {
    let folder = Folder::new();
    let backend = format!(
        "{FILES}[[backend]]\nname = \"a\"\nurl = \"https://a.example\"\ndialects = [\"openai\"]\n\
         credential = \"${{file:secret}}\"\n"
    );
    let reveal = |config: &Config| config.backends[0].credential.as_ref().unwrap().reveal().to_owned();
    folder.write("secret", "hunter2\n", 0o600);
    let config = folder.warns(&backend, "");
    assert_eq!(reveal(&config), "hunter2");
    assert!(config.watched.iter().any(|file| file.ends_with("secret")));
    folder.write("secret", "hunter2\r\n", 0o600);
    assert_eq!(reveal(&folder.warns(&backend, "")), "hunter2");

    folder.write("secret", "hunter2", 0o604);
    let warning = "line 10: backend[0].credential: secret can be read by others than its owner; chmod 600 it";
    assert_eq!(reveal(&folder.warns(&backend, warning)), "hunter2");

    folder.write("secret", "\n", 0o600);
    folder.refuses(&backend, &["line 10: backend[0].credential: ${file:secret} is empty"]);
    folder.write("secret", "hunter2\nhunter3\n", 0o600);
    let unfit = "what ${file:secret} holds does not fit here (it is not shown: it may be a secret)";
    folder.refuses(&backend, &[&format!("line 10: backend[0].credential: {unfit}")]);
}

#[test]
fn a_huge_file_is_not_read_whole() {
    let error = read_bounded(Path::new("/dev/zero")).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
}

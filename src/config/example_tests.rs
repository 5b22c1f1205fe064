//! The example config, as written and with every commented default taken at its word.

use std::fs;
use std::path::Path;

use proptest::prelude::*;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, IsCa, Issuer, KeyIdMethod, KeyPair,
    SerialNumber, date_time_ymd,
};

use super::{Config, Problem, Webhook, load, parse};

const EXAMPLE: &str = include_str!("../../config/doorward.toml");

/// The public key of RFC 8037, appendix A.
const KEYS: &str = r#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;

fn environment(name: &str) -> Option<String> {
    match name {
        "VLLM_KEY" => Some("secret".to_owned()),
        "IAM_SECRET" => Some("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".to_owned()),
        _ => None,
    }
}

fn parse_example(text: &str) -> Result<Config, Vec<Problem>> {
    parse(text, Path::new("/nowhere/doorward.toml"), &environment)
}

#[test]
fn the_example_loads_without_a_warning() {
    let config = parse_example(EXAMPLE).unwrap();
    assert_eq!(config.warnings, []);
    assert_eq!(config.state_dir, Path::new("/nowhere/state"));
    assert_eq!(config.record.file.as_deref(), Some(Path::new("/nowhere/state/records.jsonl")));
}

/// Every `# name = value` and `# [[section]]`, uncommented.
fn uncommented() -> String {
    let is_setting = |line: &str| {
        let name = line.split_once(" = ").map(|(name, _)| name).unwrap_or_default();
        let bare = !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
        bare || line.starts_with('[')
    };
    let lines = EXAMPLE.lines().map(|line| match line.strip_prefix("# ") {
        Some(setting) if is_setting(setting) => setting,
        Some(_) | None => line,
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn the_commented_defaults_are_the_defaults() {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("certs")).unwrap();
    let write = |name: &str, text: String| fs::write(directory.path().join("certs").join(name), text).unwrap();
    let key = KeyPair::generate().unwrap();
    let mut root = CertificateParams::default();
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    write("corp-roots.pem", root.self_signed(&key).unwrap().pem());
    write("spire-bundle.json", include_str!("../../tests/config/valid/spire.json").to_owned());
    let list = CertificateRevocationListParams {
        this_update: date_time_ymd(2026, 1, 1),
        next_update: date_time_ymd(2096, 1, 1),
        crl_number: SerialNumber::from(1),
        issuing_distribution_point: None,
        revoked_certs: Vec::new(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    write("corp-roots.crl", list.signed_by(&Issuer::from_params(&root, &key)).unwrap().pem().unwrap());
    write("batch-keys.json", KEYS.to_owned());
    let leaf = CertificateParams::new(["gateway.corp.example".to_owned()]).unwrap();
    write("gateway.crt", leaf.self_signed(&key).unwrap().pem());
    write("gateway.key", key.serialize_pem());

    let file = directory.path().join("doorward.toml");
    fs::write(&file, uncommented()).unwrap();
    let spelled_out = load(&file, &environment).unwrap_or_else(|problems| panic!("{problems:#?}"));
    let plain = parse(EXAMPLE, &file, &environment).unwrap();

    assert_eq!(spelled_out.trust.len(), 2);
    assert_eq!(spelled_out.watched.len(), 6);
    assert_eq!(spelled_out.issuers.len(), 2);
    assert!(spelled_out.grants.iter().any(|grant| grant.expires_at.is_some()));
    assert!(spelled_out.grants.iter().any(|grant| grant.default_key_ttl < grant.max_key_ttl));
    assert!(spelled_out.backends.iter().any(|backend| backend.tls.client.is_some()));
    assert!(spelled_out.backends.iter().any(|backend| backend.credential.is_some()));
    let words: Vec<_> = spelled_out.grants.iter().filter_map(|grant| grant.webhook.as_ref()).collect();
    assert!(words.iter().all(|hooked| hooked.name.as_str() == "iam" && hooked.accept_fail_open) && words.len() == 1);
    // A webhook of which only the necessary is said has the defaults.
    let iam = &*spelled_out.webhooks[0];
    let needed = "\n[webhook.iam]\nurl = \"https://iam.corp.example/doorward\"\nsecrets = [\"${env:IAM_SECRET}\"]\n";
    let short = parse(&format!("{EXAMPLE}{needed}"), &file, &environment).unwrap();
    let said = |webhook: &Webhook| format!("{webhook:?}").split_once("secrets").unwrap().1.to_owned();
    assert_eq!(said(iam), said(&short.webhooks[0]));
    // Of what is not an example, nothing may differ.
    assert_eq!(format!("{:?}", spelled_out.listen), format!("{:?}", plain.listen));
    assert_eq!(format!("{:?}", spelled_out.admin), format!("{:?}", plain.admin));
    assert_eq!((spelled_out.log, &spelled_out.record), (plain.log, &plain.record));
    assert_eq!((&spelled_out.state_dir, &spelled_out.gateway_id), (&plain.state_dir, &plain.gateway_id));
    assert_eq!(spelled_out.models, plain.models);
    assert_eq!(spelled_out.connectors, plain.connectors);
    assert_eq!(spelled_out.state_stale_max, plain.state_stale_max);
    for (spelled_out, plain) in spelled_out.backends.iter().zip(&plain.backends) {
        assert_eq!(spelled_out.timeouts, plain.timeouts);
        assert_eq!(spelled_out.forward_identity, plain.forward_identity);
    }
}

/// What the design shows and this version builds is in the example, under its own name.
#[test]
fn the_example_names_every_setting() {
    let text = uncommented();
    let names = "
        state_dir gateway_id address names client_auth certificate min_version max_body_bytes max_buffered_bytes
        max_connections max_connections_per_address drain proxy_protocol trusted_proxies level format file when_full
        state_stale_max default_key_ttl webhook accept_fail_open secrets ca_file timeout connect_timeout on_error
        stale_max cache_allow cache_deny max_in_flight include allow_networks allow_overrides revalidate max_key_ttl
        sha256 not_before disabled bound_to labels note max_bytes keep engine trust_domain name roots map
        trust_domains match owner require networks endpoints models cors_origins expires_at issuer audience
        algorithms jwks_file leeway refresh url connector max_instances dialects credential tls timeouts
        forward_identity on_disconnect targets advertise events
    ";
    for name in names.split_whitespace() {
        assert!(text.lines().any(|line| line.starts_with(&format!("{name} = "))), "{name}");
    }
}

/// The parser's own bound on nesting holds: no text makes it run out of stack.
#[test]
fn nesting_is_bounded() {
    for deep in [
        format!("a = {}", "[".repeat(100_000)),
        format!("a = {}1{}", "[".repeat(100_000), "]".repeat(100_000)),
        format!("a = {}", "{a=".repeat(100_000)),
        format!("{}a = 1", "a.".repeat(100_000)),
        format!("[{}a]", "a.".repeat(100_000)),
    ] {
        assert!(parse_example(&deep).is_err());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// A damaged config is refused or taken, and never a panic. When it is refused, there is a
    /// reason, and each names a line of the file.
    #[test]
    fn no_damage_panics(damage in prop::collection::vec((0u8..5, any::<prop::sample::Index>(), any::<u8>()), 1..12)) {
        let full = uncommented();
        let mut lines: Vec<Vec<u8>> = full.lines().map(|line| line.as_bytes().to_vec()).collect();
        for (kind, at, byte) in damage {
            let at = at.index(lines.len());
            let column = usize::from(byte) % lines[at].len().max(1);
            match kind {
                0 if lines.len() > 1 => drop(lines.remove(at)),
                1 => lines.insert(at, lines[at].clone()),
                2 if column < lines[at].len() => lines[at][column] = byte,
                3 if column < lines[at].len() => drop(lines[at].remove(column)),
                _ => {
                    let other = usize::from(byte) % lines.len();
                    lines.swap(at, other);
                }
            }
        }
        let text = String::from_utf8_lossy(&lines.join(&b'\n')).into_owned();
        if let Err(problems) = parse_example(&text) {
            prop_assert!(!problems.is_empty());
            prop_assert!(problems.is_sorted_by_key(|problem| problem.line));
            prop_assert!(problems.iter().all(|problem| problem.line <= text.lines().count() + 1));
        }
    }

    /// The same for text that never was a config, and for values of every type in every place.
    #[test]
    fn no_type_panics(
        name in "(state_dir|listen|admin|log|record|store|ca|trust|identity|grant|backend|connector|model|webhook|key)",
        value in r#"(1|-9223372036854775808|0x7fffffffffffffff|1e400|nan|true|""|"\$\{"|"\$\{file:\}"|\[\]|\[\[\]\]|\{\}|\[\{\}\]|1979-05-27|\[1,"a",\{\}\])"#,
        field in "(address|names|targets|match|owner|networks|url|tls|timeouts|map|expires_at|dialects|engine|level)",
    ) {
        for text in [
            format!("{name} = {value}"),
            format!("[{name}]\n{field} = {value}"),
            format!("[[{name}]]\n{field} = {value}"),
        ] {
            prop_assert!(parse_example(&text).is_err());
        }
    }
}

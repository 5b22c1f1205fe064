use proptest::prelude::*;

use super::*;
use crate::domain::key::{KeyDigest, KeyId};

fn owner(path: &str) -> OwnerPath {
    OwnerPath::parse(path).unwrap()
}

fn grant(path: &str) -> Grant {
    Grant { owner: owner(path), require: None, networks: None, endpoints: None, models: None, expires_at: None }
}

fn open(path: &str) -> Grant {
    Grant {
        require: Some(Require::Either),
        networks: Some(Networks::Any),
        endpoints: Some(Endpoints::parse(&["*"]).unwrap()),
        models: Some(Models::parse(&["*"]).unwrap()),
        ..grant(path)
    }
}

fn with_key(path: &str) -> Credentials {
    let key = KeyRecord {
        id: KeyId::parse("0123456789ab").unwrap(),
        owner: owner(path),
        digest: KeyDigest::from_bytes([0; 32]),
        narrowing: Narrowing::default(),
        created_at: Timestamp::from_seconds(0),
        expires_at: None,
        revoked_at: None,
    };
    Credentials { key: Some(Arc::new(key)), certificate: None, token: None }
}

fn with_certificate(path: Option<&str>) -> Credentials {
    let certificate = Certified {
        identity: Arc::new(Identity::parse("spiffe://corp.example/client/alice").unwrap()),
        owner: path.map(owner),
        not_after: Timestamp::from_seconds(1000),
        revoked: false,
    };
    Credentials { key: None, certificate: Some(certificate), token: None }
}

fn with_both(key: &str, certificate: Option<&str>) -> Credentials {
    Credentials { key: with_key(key).key, certificate: with_certificate(certificate).certificate, token: None }
}

fn code<T: fmt::Debug>(result: Result<T, Refusal>) -> &'static str {
    result.map_or_else(|refusal| refusal.code().as_str(), |_| "ok")
}

#[track_caller]
fn check_required(grants: &[Grant], credentials: &Credentials, expected: &str) {
    let tree = GrantTree::new(grants.to_vec());
    assert_eq!(code(Standing::new(&tree, credentials).check_required()), expected);
}

#[test]
fn required_credentials_are_those_of_every_node() {
    let require = |path, kind| Grant { require: Some(kind), ..grant(path) };
    use Require::{Both, Certificate, Either, Key};

    check_required(&[require("a", Either)], &with_key("a/b"), "ok");
    check_required(&[require("a", Key)], &with_key("a/b"), "ok");
    check_required(&[require("a", Certificate)], &with_key("a/b"), "certificate_required");
    check_required(&[require("a", Certificate), require("a/b", Key)], &with_key("a/b"), "certificate_required");
    check_required(&[require("a", Certificate), require("a/b", Key)], &with_certificate(Some("a/b")), "key_required");
    check_required(&[require("a", Certificate), require("a/b", Key)], &with_both("a/b", Some("a/b")), "ok");
    check_required(&[require("a", Both)], &with_both("a", Some("a/x")), "ok");
    // A certificate of another tenant adds nothing to this one's key.
    check_required(&[require("a", Both), require("z", Either)], &with_both("a", Some("z")), "certificate_required");
    check_required(&[require("a", Both)], &with_both("a", None), "certificate_required");
    // A certificate above the node does not count for it either.
    check_required(&[require("a/b", Both), require("a", Either)], &with_both("a/b", Some("a")), "certificate_required");
    // Paths that say nothing are closed; each path must say something.
    check_required(&[], &with_key("a"), "no_grant");
    check_required(&[require("a/b", Either)], &with_key("a"), "no_grant");
    check_required(&[grant("a")], &with_key("a"), "no_grant");
    check_required(&[require("a", Either)], &with_both("a", Some("z")), "no_grant");
    check_required(&[require("a", Either)], &with_both("a", None), "ok");
    check_required(&[require("a", Either)], &with_certificate(None), "no_grant");
}

#[test]
fn lists_intersect_and_absent_means_none() {
    let models = |path, list: &[&str]| Grant { models: Some(Models::parse(list).unwrap()), ..grant(path) };
    let check = |grants: &[Grant], credentials: &Credentials, model: &str, expected: &str| {
        let tree = GrantTree::new(grants.to_vec());
        assert_eq!(code(Standing::new(&tree, credentials).check_model(model)), expected);
    };
    check(&[models("a", &["llama-*"])], &with_key("a/b"), "llama-3", "ok");
    check(&[models("a", &["llama-*"]), models("a/b", &["*-3"])], &with_key("a/b"), "llama-3", "ok");
    check(&[models("a", &["llama-*"]), models("a/b", &["*-3"])], &with_key("a/b"), "llama-4", "model_not_found");
    check(&[models("a", &["llama-*"]), models("a/b", &["*"])], &with_key("a/b"), "qwen", "model_not_found");
    check(&[grant("a")], &with_key("a/b"), "llama-3", "model_not_found");
    check(&[models("a", &["*"]), models("z", &["llama-*"])], &with_both("a", Some("z")), "qwen", "model_not_found");
    check(&[models("a", &["*"]), models("z", &["llama-*"])], &with_both("a", Some("z")), "llama-3", "ok");
}

#[test]
fn a_key_narrows_but_never_widens() {
    let mut credentials = with_key("a");
    let key = credentials.key.as_ref().unwrap();
    let narrowing = Narrowing {
        networks: Some(Networks::parse(&["10.0.0.0/8"]).unwrap()),
        endpoints: Some(Endpoints::parse(&["@chat"]).unwrap()),
        models: Some(Models::parse(&["*"]).unwrap()),
    };
    credentials.key = Some(Arc::new(KeyRecord { narrowing, ..KeyRecord::clone(key) }));
    let tree = GrantTree::new([Grant { models: Some(Models::parse(&["llama"]).unwrap()), ..open("a") }]);
    let standing = Standing::new(&tree, &credentials);
    assert_eq!(code(standing.check_network("10.1.1.1".parse().unwrap())), "ok");
    assert_eq!(code(standing.check_network("11.1.1.1".parse().unwrap())), "network_not_allowed");
    assert_eq!(code(standing.check_endpoint(Endpoint::OllamaChat)), "ok");
    assert_eq!(code(standing.check_endpoint(Endpoint::OllamaEmbed)), "endpoint_not_allowed");
    assert_eq!(code(standing.check_model("qwen")), "model_not_found");
}

#[test]
fn expiry_is_the_earliest_and_exact() {
    let at = Timestamp::from_seconds;
    let tree = GrantTree::new([
        Grant { expires_at: Some(at(500)), ..open("a") },
        Grant { expires_at: Some(at(400)), ..open("a/b") },
    ]);
    let mut credentials = with_both("a/b", Some("a"));
    let record = KeyRecord::clone(credentials.key.as_ref().unwrap());
    credentials.key = Some(Arc::new(KeyRecord { expires_at: Some(at(300)), ..record }));
    let standing = Standing::new(&tree, &credentials);
    assert_eq!(standing.expires_at(), at(300));
    assert_eq!(code(standing.check_status(Timestamp::from_millis(299_999))), "ok");
    assert_eq!(code(standing.check_status(at(300))), "invalid_credentials");

    let certificate = with_certificate(Some("z"));
    let standing = Standing::new(&tree, &certificate);
    assert_eq!(code(standing.check_status(Timestamp::from_millis(999_999))), "ok");
    assert_eq!(code(standing.check_status(at(1000))), "invalid_credentials");

    let key = with_key("a/b");
    assert_eq!(code(Standing::new(&tree, &key).check_status(at(400))), "invalid_credentials");
}

#[test]
fn what_is_revoked_stays_refused() {
    let tree = GrantTree::new([open("a")]);
    let now = Timestamp::from_seconds(1);
    let mut credentials = with_both("a", Some("a"));
    assert_eq!(code(Standing::new(&tree, &credentials).check_status(now)), "ok");
    credentials.certificate = credentials.certificate.map(|certificate| Certified { revoked: true, ..certificate });
    assert_eq!(code(Standing::new(&tree, &credentials).check_status(now)), "invalid_credentials");
    let record = KeyRecord { revoked_at: Some(now), ..KeyRecord::clone(with_key("a").key.as_ref().unwrap()) };
    let credentials = Credentials { key: Some(Arc::new(record)), certificate: None, token: None };
    assert_eq!(code(Standing::new(&tree, &credentials).check_status(now)), "invalid_credentials");
}

fn arbitrary_grant(path: &'static str) -> impl Strategy<Value = Option<Grant>> {
    let word = prop::sample::select(vec![None, Some("*"), Some("llama-*"), Some("qwen")]);
    let endpoint = prop::sample::select(vec![None, Some("*"), Some("@chat"), Some("ollama.*")]);
    let network = prop::sample::select(vec![None, Some("*"), Some("10.0.0.0/8"), Some("10.1.0.0/16")]);
    let require =
        prop::sample::select(vec![None, Some(Require::Key), Some(Require::Certificate), Some(Require::Either)]);
    (word, endpoint, network, require).prop_map(move |(m, e, n, require)| {
        Some(Grant {
            require,
            models: m.map(|m| Models::parse(&[m]).unwrap()),
            endpoints: e.map(|e| Endpoints::parse(&[e]).unwrap()),
            networks: n.map(|n| Networks::parse(&[n]).unwrap()),
            ..grant(path)
        })
    })
}

proptest! {
    /// Writing a list that a grant left open, or another `require`, on a path that already names
    /// it admits nothing more than before.
    #[test]
    fn a_further_grant_never_admits_more(
        root in arbitrary_grant("a"),
        child in arbitrary_grant("a/b"),
        both: bool,
        model in prop::sample::select(vec!["llama-3", "qwen"]),
        address in prop::sample::select(vec!["10.1.0.1", "10.2.0.1", "11.0.0.1"]),
        endpoint in prop::sample::select(Endpoint::ALL.to_vec()),
    ) {
        let root = root.unwrap();
        let credentials = if both { with_both("a/b", Some("a/b")) } else { with_key("a/b") };
        let narrow = GrantTree::new([open("a"), root.clone()].into_iter().skip(usize::from(root.models.is_some())));
        let narrower = GrantTree::new(narrow.0.values().map(|g| Grant::clone(g)).chain(child));
        let admits = |tree: &GrantTree| {
            let standing = Standing::new(tree, &credentials);
            [
                standing.check_required().is_ok(),
                standing.check_network(address.parse().unwrap()).is_ok(),
                standing.check_endpoint(endpoint).is_ok(),
                standing.check_model(model).is_ok(),
            ]
        };
        let named = {
            let g = narrow.0.get("a").unwrap();
            [g.require.is_some(), g.networks.is_some(), g.endpoints.is_some(), g.models.is_some()]
        };
        for (index, (before, after)) in admits(&narrow).into_iter().zip(admits(&narrower)).enumerate() {
            prop_assert!(!named[index] || before || !after, "check {index} was opened by a child grant");
        }
    }
}

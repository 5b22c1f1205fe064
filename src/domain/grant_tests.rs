//! What grants and keys let through, together.

use std::sync::LazyLock;

use proptest::prelude::*;

use super::*;
use crate::domain::explain::{Check, Question};
use crate::domain::key::{KeyDetails, KeyDigest, Uses};

pub(super) fn owner(path: &str) -> OwnerPath {
    OwnerPath::parse(path).unwrap()
}

pub(super) fn grant(path: &str) -> Grant {
    Grant::new(owner(path))
}

pub(super) fn open(path: &str) -> Grant {
    Grant {
        require: Some(Require::Either),
        networks: Some(Networks::Any),
        endpoints: Some(Endpoints::parse(&["*"]).unwrap()),
        models: Some(Models::parse(&["*"]).unwrap()),
        ..grant(path)
    }
}

pub(super) fn with_key(path: &str) -> Credentials {
    let id = KeyId::parse("0123456789ab").unwrap();
    let key = KeyRecord::new(id, owner(path), KeyDigest::from_bytes([0; 32]), Timestamp::from_seconds(0));
    Credentials { key: Some(Arc::new(key)), certificate: None, token: None }
}

pub(super) fn with_certificate(path: Option<&str>) -> Credentials {
    let certificate = Certified {
        identity: Arc::new(Identity::parse("spiffe://corp.example/client/alice").unwrap()),
        owner: path.map(owner),
        not_after: Timestamp::from_seconds(1000),
        revoked: false,
    };
    Credentials { key: None, certificate: Some(certificate), token: None }
}

pub(super) fn with_both(key: &str, certificate: Option<&str>) -> Credentials {
    Credentials { key: with_key(key).key, certificate: with_certificate(certificate).certificate, token: None }
}

/// Where `credentials` stand on a tree that is the config's alone.
pub(super) fn on<'a>(tree: &'a GrantTree, credentials: &'a Credentials) -> Standing<'a> {
    static NOTHING: LazyLock<(GrantTree, DisabledOwners)> = LazyLock::new(Default::default);
    let (store, disabled) = &*NOTHING;
    Standing::new(OwnerTree { config: tree, store, disabled }, credentials)
}

/// Whether any grant of a tree that is the config's alone lists the page.
fn lists_origin(tree: &GrantTree, origin: &str) -> bool {
    let (store, disabled) = Default::default();
    OwnerTree { config: tree, store: &store, disabled: &disabled }.lists_origin(origin)
}

/// The same credentials with another key record.
pub(super) fn with_record(credentials: &Credentials, change: impl FnOnce(KeyRecord) -> KeyRecord) -> Credentials {
    let record = KeyRecord::clone(credentials.key.as_ref().unwrap());
    Credentials { key: Some(Arc::new(change(record))), ..credentials.clone() }
}

pub(super) fn bound(record: KeyRecord, to: &str) -> KeyRecord {
    let bound_to = Some(Binding::parse(to).unwrap());
    KeyRecord { details: KeyDetails { bound_to, ..record.details() }.boxed(), ..record }
}

pub(super) fn code<T: fmt::Debug>(result: Result<T, Refusal>) -> &'static str {
    result.map_or_else(|refusal| refusal.code().as_str(), |_| "ok")
}

#[test]
fn lists_intersect_and_absent_means_none() {
    let models = |path, list: &[&str]| Grant { models: Some(Models::parse(list).unwrap()), ..grant(path) };
    let check = |grants: &[Grant], credentials: &Credentials, model: &str, expected: &str| {
        let tree = GrantTree::new(grants.to_vec());
        assert_eq!(code(on(&tree, credentials).check_model(model)), expected);
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
    let standing = on(&tree, &credentials);
    assert_eq!(code(standing.check_network("10.1.1.1".parse().unwrap())), "ok");
    assert_eq!(code(standing.check_network("11.1.1.1".parse().unwrap())), "network_not_allowed");
    assert_eq!(code(standing.check_endpoint(Endpoint::OllamaChat)), "ok");
    assert_eq!(code(standing.check_endpoint(Endpoint::OllamaEmbed)), "endpoint_not_allowed");
    assert_eq!(code(standing.check_model("qwen")), "model_not_found");
}

#[test]
fn grants_of_config_and_store_on_one_node_both_apply() {
    let at = Timestamp::from_seconds;
    let models = |list: &[&str]| Grant { models: Some(Models::parse(list).unwrap()), ..grant("a") };
    let config = GrantTree::new([Grant { expires_at: Some(at(500)), ..models(&["llama-*"]) }]);
    let store = GrantTree::new([
        Grant { expires_at: Some(at(400)), require: Some(Require::Key), ..models(&["*-3"]) },
        Grant { require: Some(Require::Certificate), ..grant("a/b") },
    ]);
    let disabled = DisabledOwners::default();
    let tree = OwnerTree { config: &config, store: &store, disabled: &disabled };
    let key = with_key("a");
    let standing = Standing::new(tree, &key);
    assert_eq!(code(standing.check_model("llama-3")), "ok");
    assert_eq!(code(standing.check_model("llama-4")), "model_not_found");
    assert_eq!(code(standing.check_model("qwen-3")), "model_not_found");
    assert_eq!(standing.expires_at(), at(400));
    assert_eq!(code(standing.check_status(at(400))), "invalid_credentials");
    assert_eq!(code(standing.check_required()), "ok", "the store's grant names require");
    assert_eq!(code(Standing::new(tree, &with_key("a/b")).check_required()), "certificate_required");
    let owners: Vec<_> = tree.on_path(&owner("a/b/c")).map(|grant| grant.owner.as_str()).collect();
    assert_eq!(owners, ["a", "a", "a/b"], "root first");
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
            let standing = on(tree, &credentials);
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

    /// A second grant on a node, in the store beside the config's, admits nothing more where the
    /// path names the thing already; nor does an owner that is switched off.
    #[test]
    fn a_grant_in_the_store_never_admits_more(
        config in arbitrary_grant("a"),
        store in arbitrary_grant("a"),
        below in arbitrary_grant("a/b"),
        off in prop::sample::select(vec![None, Some("a"), Some("a/b"), Some("a/x"), Some("z")]),
        both: bool,
        address in prop::sample::select(vec!["10.1.0.1", "10.2.0.1", "11.0.0.1"]),
        model in prop::sample::select(vec!["llama-3", "qwen"]),
        endpoint in prop::sample::select(Endpoint::ALL.to_vec()),
    ) {
        let credentials = if both { with_both("a/b", Some("a/b")) } else { with_key("a/b") };
        let config = GrantTree::new([Grant { require: Some(Require::Either), ..config.unwrap() }]);
        let more = GrantTree::new([store.unwrap(), below.unwrap()]);
        let admits = |store: &GrantTree, disabled: &DisabledOwners| {
            let standing = Standing::new(OwnerTree { config: &config, store, disabled }, &credentials);
            [
                standing.check_required().is_ok(),
                standing.check_network(address.parse().unwrap()).is_ok(),
                standing.check_endpoint(endpoint).is_ok(),
                standing.check_model(model).is_ok(),
                standing.check_status(Timestamp::from_seconds(1)).is_ok(),
            ]
        };
        let g = config.0.get("a").unwrap();
        let named = [true, g.networks.is_some(), g.endpoints.is_some(), g.models.is_some(), true];
        let before = admits(&GrantTree::default(), &DisabledOwners::default());
        let after = admits(&more, &off.map(owner).into_iter().collect());
        for (index, (before, after)) in before.into_iter().zip(after).enumerate() {
            prop_assert!(!named[index] || before || !after, "check {index} was opened by the store");
        }
    }

    /// Whatever is written into a key only takes away; a binding gives to the identity that it
    /// names, and to nobody else.
    #[test]
    fn a_narrower_key_never_admits_more(
        root in arbitrary_grant("a"),
        own in arbitrary_grant("a"),
        to in prop::sample::select(vec![None, Some("alice"), Some("al*"), Some("bob")]),
        certificate in prop::sample::select(vec![None, Some(None), Some(Some("a")), Some(Some("z"))]),
        (not_before, expires_at) in (prop::option::of(0i64..9), prop::option::of(0i64..9)),
        (disabled, left) in (any::<bool>(), prop::option::of(0u32..2)),
        address in prop::sample::select(vec!["10.1.0.1", "10.2.0.1", "11.0.0.1"]),
        model in prop::sample::select(vec!["llama-3", "qwen"]),
        endpoint in prop::sample::select(Endpoint::ALL.to_vec()),
        now in 0i64..9,
    ) {
        let root = root.unwrap();
        let own = own.unwrap();
        let tree = GrantTree::new([root.clone(), Grant { require: Some(Require::Either), ..open("z") }]);
        let plain = match certificate {
            None => with_key("a/b"),
            Some(owner) => with_both("a/b", owner),
        };
        let narrowed = with_record(&plain, |record| {
            let record = KeyRecord {
                narrowing: Narrowing { networks: own.networks, endpoints: own.endpoints, models: own.models },
                not_before: not_before.map(Timestamp::from_seconds),
                expires_at: expires_at.map(Timestamp::from_seconds),
                uses: left.map(|left| Uses { left, refund_on_failure: false }),
                disabled,
                ..record
            };
            match to {
                None => record,
                Some(name) => bound(record, &format!("spiffe://corp.example/client/{name}")),
            }
        });
        let admits = |credentials: &Credentials| {
            let standing = on(&tree, credentials);
            [
                standing.check_status(Timestamp::from_seconds(now)).is_ok() && standing.check_uses().is_ok(),
                standing.check_network(address.parse().unwrap()).is_ok(),
                standing.check_endpoint(endpoint).is_ok(),
                standing.check_model(model).is_ok(),
                standing.check_required().is_ok(),
            ]
        };
        let proven = certificate.is_some() && to.is_some_and(|name| name != "bob");
        let named = [true, root.networks.is_some(), root.endpoints.is_some(), root.models.is_some(), !proven];
        for (index, (before, after)) in admits(&plain).into_iter().zip(admits(&narrowed)).enumerate() {
            prop_assert!(!named[index] || before || !after, "check {index} was opened by the key");
        }
        prop_assert!(to.is_none() || proven || !admits(&narrowed)[4], "a bound key without its identity");
    }

    /// An explanation names whoever decided, and nobody who did not.
    #[test]
    fn an_explanation_names_who_refused(
        root in arbitrary_grant("a"),
        child in arbitrary_grant("a/b"),
        both: bool,
        address in prop::sample::select(vec!["10.1.0.1", "10.2.0.1", "11.0.0.1"]),
        model in prop::sample::select(vec!["llama-3", "qwen"]),
        endpoint in prop::sample::select(Endpoint::ALL.to_vec()),
    ) {
        let credentials = if both { with_both("a/b", Some("a/b")) } else { with_key("a/b") };
        let tree = GrantTree::new([root.unwrap(), child.unwrap()]);
        let standing = on(&tree, &credentials);
        let address = address.parse().unwrap();
        let question = Question { address, lent_to: None, endpoint, model: Some(model), model_exists: true };
        for check in [Check::Network, Check::Endpoint, Check::Model] {
            let voices = check.voices(&standing, &question);
            let by = match check.decide(&standing, &question, Timestamp::from_seconds(0)) {
                Ok(()) => None,
                Err(
                    Refusal::NetworkNotAllowed { by, .. }
                    | Refusal::EndpointNotAllowed { by, .. }
                    | Refusal::ModelNotFound { by: Some(by) },
                ) => Some(by),
                Err(other) => panic!("{check:?}: {other}"),
            };
            match by {
                None => prop_assert!(!voices.is_empty() && voices.iter().all(|voice| voice.admits)),
                Some(DecidedBy::Nobody) => prop_assert!(voices.is_empty()),
                Some(by) => prop_assert_eq!(voices.into_iter().find(|voice| !voice.admits).map(|voice| voice.by), Some(by)),
            }
        }
        let live: Vec<_> = Check::NEW.into_iter().filter(|check| *check != Check::Uses).collect();
        prop_assert_eq!(live, Check::LIVE);
    }
}

fn origins(path: &str, list: &[&str]) -> Grant {
    Grant { cors_origins: Some(Origins::parse(list).unwrap()), ..grant(path) }
}

#[test]
fn origins_intersect_and_absent_means_none() {
    let (one, two) = ("https://one.example", "https://two.example");
    let check = |grants: &[Grant], credentials: &Credentials, origin: &str, expected: &str| {
        let tree = GrantTree::new(grants.to_vec());
        assert_eq!(code(on(&tree, credentials).check_origin(origin)), expected);
    };
    check(&[origins("a", &[one, two])], &with_key("a/b"), one, "ok");
    check(&[origins("a", &[one, two]), origins("a/b", &[two])], &with_key("a/b"), one, "origin_not_allowed");
    check(&[origins("a", &[one]), origins("a/b", &[one, two])], &with_key("a/b"), two, "origin_not_allowed");
    check(&[origins("a", &[one]), origins("a/b", &[two])], &with_key("a/b"), two, "origin_not_allowed");
    check(&[open("a")], &with_key("a/b"), one, "origin_not_allowed");
    check(&[origins("a/c", &[one])], &with_key("a/b"), one, "origin_not_allowed");
    check(&[origins("a", &[one, two]), origins("z", &[one])], &with_both("a", Some("z")), two, "origin_not_allowed");
    check(&[origins("a", &[one, two]), origins("z", &[one])], &with_both("a", Some("z")), one, "ok");
    // Before a caller is known, any grant's page may ask.
    let tree = GrantTree::new([origins("a", &[one]), origins("z/y", &[two]), open("b")]);
    assert!(lists_origin(&tree, one) && lists_origin(&tree, two) && !lists_origin(&tree, "https://three.example"));
    assert!(!lists_origin(&GrantTree::new([open("b")]), one));
}

proptest! {
    /// A page that a caller's own grants let in was let ask, and a further grant on a path that
    /// names origins lets in no more.
    #[test]
    fn a_page_that_may_call_may_ask(
        root in prop::sample::subsequence(vec!["https://a", "https://b", "https://c"], 1..=3),
        child in prop::sample::subsequence(vec!["https://a", "https://b", "https://d"], 0..=3),
        origin in prop::sample::select(vec!["https://a", "https://b", "https://c", "https://d", "null"]),
    ) {
        let before = GrantTree::new([origins("a", &root)]);
        let further = (!child.is_empty()).then(|| origins("a/b", &child));
        let after = GrantTree::new([Some(origins("a", &root)), further].into_iter().flatten());
        let credentials = with_key("a/b");
        let calls = |tree: &GrantTree| on(tree, &credentials).check_origin(origin).is_ok();
        prop_assert!(calls(&before) || !calls(&after));
        prop_assert!(lists_origin(&after, origin) || !calls(&after));
        prop_assert_eq!(calls(&before), root.contains(&origin));
    }
}

proptest! {
    /// What is said to be covered is: whatever the narrower patterns admit, the wider ones admit.
    #[test]
    fn covered_models_are_admitted(
        wide in prop::collection::vec("[ab*]{1,4}", 1..3),
        narrow in prop::collection::vec("[ab*]{1,4}", 1..3),
        texts in prop::collection::vec("[ab]{0,6}", 1..20),
    ) {
        let (Ok(wide), Ok(narrow)) = (Models::parse(&wide), Models::parse(&narrow)) else { return Ok(()) };
        if wide.cover(&narrow) {
            for text in texts {
                prop_assert!(!narrow.admit(&text) || wide.admit(&text), "{text}");
            }
        }
        prop_assert!(wide.cover(&wide));
    }

    #[test]
    fn covered_networks_are_admitted(
        wide in prop::collection::vec((any::<u32>(), 1u8..=32), 1..3),
        narrow in prop::collection::vec((any::<u32>(), 1u8..=32), 1..3),
    ) {
        let parse = |nets: &[(u32, u8)]| {
            let entries: Vec<_> = nets.iter().map(|(address, length)| {
                let net = ipnet::Ipv4Net::new((*address).into(), *length).unwrap().trunc();
                net.to_string()
            }).collect();
            Networks::parse(&entries).unwrap()
        };
        let (wider, narrower) = (parse(&wide), parse(&narrow));
        let together = parse(&[wide.clone(), narrow.clone()].concat());
        prop_assert!(together.cover(&wider) && together.cover(&narrower) && Networks::Any.cover(&together));
        if wider.cover(&narrower) {
            for (address, length) in narrow {
                let net = ipnet::Ipv4Net::new(address.into(), length).unwrap().trunc();
                prop_assert!(wider.admit(net.network().into()) && wider.admit(net.broadcast().into()));
            }
        }
    }
}

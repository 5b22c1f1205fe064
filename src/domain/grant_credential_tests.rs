//! Which credentials count, where, and until when.

use super::tests::{bound, code, grant, on, open, owner, with_both, with_certificate, with_key, with_record};
use super::*;
use crate::domain::key::Uses;

#[track_caller]
fn check_required(grants: &[Grant], credentials: &Credentials, expected: &str) {
    let tree = GrantTree::new(grants.to_vec());
    assert_eq!(code(on(&tree, credentials).check_required()), expected);
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
fn expiry_is_the_earliest_and_exact() {
    let at = Timestamp::from_seconds;
    let tree = GrantTree::new([
        Grant { expires_at: Some(at(500)), ..open("a") },
        Grant { expires_at: Some(at(400)), ..open("a/b") },
    ]);
    let mut credentials = with_both("a/b", Some("a"));
    let record = KeyRecord::clone(credentials.key.as_ref().unwrap());
    credentials.key = Some(Arc::new(KeyRecord { expires_at: Some(at(300)), ..record }));
    let standing = on(&tree, &credentials);
    assert_eq!(standing.expires_at(), at(300));
    assert_eq!(code(standing.check_status(Timestamp::from_millis(299_999))), "ok");
    assert_eq!(code(standing.check_status(at(300))), "invalid_credentials");

    let certificate = with_certificate(Some("z"));
    let standing = on(&tree, &certificate);
    assert_eq!(code(standing.check_status(Timestamp::from_millis(999_999))), "ok");
    assert_eq!(code(standing.check_status(at(1000))), "invalid_credentials");

    let key = with_key("a/b");
    assert_eq!(code(on(&tree, &key).check_status(at(400))), "invalid_credentials");
}

#[test]
fn what_is_revoked_stays_refused() {
    let tree = GrantTree::new([open("a")]);
    let now = Timestamp::from_seconds(1);
    let mut credentials = with_both("a", Some("a"));
    assert_eq!(code(on(&tree, &credentials).check_status(now)), "ok");
    credentials.certificate = credentials.certificate.map(|certificate| Certified { revoked: true, ..certificate });
    assert_eq!(code(on(&tree, &credentials).check_status(now)), "invalid_credentials");
    let record = KeyRecord { revoked_at: Some(now), ..KeyRecord::clone(with_key("a").key.as_ref().unwrap()) };
    let credentials = Credentials { key: Some(Arc::new(record)), certificate: None, token: None };
    assert_eq!(code(on(&tree, &credentials).check_status(now)), "invalid_credentials");
}

#[test]
fn what_is_switched_off_or_to_come_is_refused_and_the_log_knows_why() {
    let tree = GrantTree::new([open("a")]);
    let (now, both) = (Timestamp::from_seconds(5), with_both("a/b", Some("a/c")));
    let fault = |disabled: &[&str], credentials: &Credentials| {
        let disabled = disabled.iter().copied().map(owner).collect();
        let tree = OwnerTree { config: &tree, store: &GrantTree::default(), disabled: &disabled };
        let refused = Standing::new(tree, credentials).check_status(now).err();
        refused.map(|refusal| (refusal.code().as_str(), refusal.to_string()))
    };
    let said = |why: &str| Some(("invalid_credentials", why.to_owned()));
    assert_eq!(fault(&[], &both), None);
    // A node of either path, and everything below it.
    assert_eq!(fault(&["a"], &both), said("owner a is disabled"));
    assert_eq!(fault(&["a/b"], &both), said("owner a/b is disabled"));
    assert_eq!(fault(&["a/c"], &both), said("owner a/c is disabled"));
    assert_eq!(fault(&["a/b/c", "a/d", "b"], &both), None);
    assert_eq!(fault(&["a/b"], &with_certificate(Some("a/c"))), None);

    let off = with_record(&both, |record| KeyRecord { disabled: true, ..record });
    assert_eq!(fault(&[], &off), said("key 0123456789ab is disabled"));
    let begins = |at| with_record(&both, |record| KeyRecord { not_before: Some(at), ..record });
    assert_eq!(fault(&[], &begins(Timestamp::from_millis(5001))), said("key 0123456789ab is not valid yet"));
    assert_eq!(fault(&[], &begins(now)), None);
}

#[test]
fn a_spent_key_is_refused_before_a_claim_and_not_after_it() {
    let tree = GrantTree::new([open("a")]);
    let left = |left| {
        with_record(&with_key("a"), |record| KeyRecord {
            uses: Some(Uses { left, refund_on_failure: false }),
            ..record
        })
    };
    assert_eq!(code(on(&tree, &left(1)).check_uses()), "ok");
    assert_eq!(code(on(&tree, &with_key("a")).check_uses()), "ok");
    assert_eq!(code(on(&tree, &with_certificate(Some("a"))).check_uses()), "ok");
    let refusal = on(&tree, &left(0)).check_uses().unwrap_err();
    assert_eq!((refusal.code().as_str(), &*refusal.to_string()), ("invalid_credentials", "key 0123456789ab is spent"));
    assert_eq!(code(on(&tree, &left(0)).check_status(Timestamp::from_seconds(1))), "ok");
}

#[test]
fn a_bound_key_works_with_its_identity_only() {
    let alice = "spiffe://corp.example/client/alice";
    let require = |path, kind| Grant { require: Some(kind), ..grant(path) };
    let to = |credentials: &Credentials, uri: &str| with_record(credentials, |record| bound(record, uri));
    for (credentials, expected) in [
        (to(&with_key("a"), alice), "key_bound_elsewhere"),
        (to(&with_both("a", Some("a")), alice), "ok"),
        (to(&with_both("a", None), alice), "ok"),
        (to(&with_both("a", Some("a")), "spiffe://corp.example/client/al*"), "ok"),
        (to(&with_both("a", Some("a")), "spiffe://corp.example/client/bob"), "key_bound_elsewhere"),
        (to(&with_both("a", Some("a")), "spiffe://other.example/client/alice"), "key_bound_elsewhere"),
    ] {
        check_required(&[require("a", Require::Either)], &credentials, expected);
    }
    // A missing kind of credential is told first.
    check_required(&[require("a", Require::Both)], &to(&with_key("a"), alice), "certificate_required");
    check_required(&[], &to(&with_key("a"), alice), "no_grant");
}

/// A certificate counts for a node above its owner, or when the key is bound to its identity,
/// wherever that sits.
#[test]
fn a_bound_certificate_counts_at_every_node_of_the_key() {
    let both = Grant { require: Some(Require::Both), ..grant("a") };
    let either = Grant { require: Some(Require::Either), ..grant("z") };
    let grants = [both, either];
    for elsewhere in [Some("z"), None] {
        let credentials = with_both("a/b", elsewhere);
        check_required(&grants, &credentials, "certificate_required");
        let ours = with_record(&credentials, |record| bound(record, "spiffe://corp.example/client/*"));
        check_required(&grants, &ours, "ok");
        let others = with_record(&credentials, |record| bound(record, "spiffe://corp.example/client/bob"));
        check_required(&grants, &others, "certificate_required");
    }
}

use std::collections::BTreeMap;
use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::config::parse_connector;

/// A backend: port, credential, limit, endpoint.
type Spec = (u16, bool, u32, bool);

fn sites(specs: &BTreeMap<String, Spec>, backwards: bool) -> Vec<SiteBackend> {
    let text: String = specs
        .iter()
        .map(|(name, (port, credential, limit, allow))| {
            let credential = if *credential { "credential = \"secret-of-it\"\n" } else { "" };
            let allow = if *allow { "allow = [\"@chat\"]\n" } else { "" };
            format!("[[backend]]\nname = \"{name}\"\nurl = \"http://127.0.0.1:{port}\"\nmax_concurrent = {limit}\n{credential}{allow}")
        })
        .collect();
    let config = parse_connector(&text, Path::new("/nowhere/connector.toml"), &|_| None);
    let mut sites = config.unwrap_or_else(|problems| panic!("{problems:#?}")).backends;
    if backwards {
        sites.reverse();
    }
    sites
}

fn specs() -> impl Strategy<Value = BTreeMap<String, Spec>> {
    let spec = (1u16..4, any::<bool>(), 1u32..4, any::<bool>());
    prop::collection::btree_map("[a-e]", spec, 1..5)
}

fn one(port: u16, limit: u32) -> Vec<SiteBackend> {
    sites(&BTreeMap::from([("a".to_owned(), (port, false, limit, false))]), false)
}

#[test]
fn what_is_gone_is_served_to_those_who_cannot_know() {
    let now = Instant::now();
    let old = Offered::new(one(1, 1), Duration::ZERO).unwrap();
    let other = sites(&BTreeMap::from([("b".to_owned(), (1, false, 1, false))]), false);
    let new = old.followed_by(other, Duration::ZERO, now).unwrap();
    assert!(new.find("a", now).is_some() && new.find("b", now).is_some() && new.find("c", now).is_none());
    assert_eq!(new.offers().len(), 1);
    let late = now + GRACE;
    assert!(new.find("a", late).is_none() && new.find("b", late).is_some());
    // Another reload does not begin the time anew.
    let again = sites(&BTreeMap::from([("b".to_owned(), (2, false, 1, false))]), false);
    let again = new.followed_by(again, Duration::ZERO, now + GRACE / 2).unwrap();
    assert!(again.find("a", late).is_none() && again.find("a", now + GRACE / 2).is_some());
    // Back in the config, it is what it was.
    let back = new.followed_by(one(1, 1), Duration::ZERO, now).unwrap();
    assert!(Arc::ptr_eq(back.find("a", late).unwrap(), old.find("a", now).unwrap()));
}

#[test]
fn requests_count_under_the_next_config() {
    let now = Instant::now();
    let old = Offered::new(one(1, 1), Duration::ZERO).unwrap();
    let slot = old.find("a", now).unwrap().slots.take(now).unwrap();
    let more = old.followed_by(one(1, 2), Duration::ZERO, now).unwrap();
    let second = more.find("a", now).unwrap().slots.take(now).unwrap();
    assert!(more.find("a", now).unwrap().slots.take(now).is_none());
    let elsewhere = more.followed_by(one(2, 1), Duration::ZERO, now).unwrap();
    assert!(elsewhere.find("a", now).unwrap().slots.take(now).is_some());
    drop((slot, second));
    assert!(more.find("a", now).unwrap().slots.take(now).is_some());
}

proptest! {
    /// For any two configs: every name is in exactly one of added, removed, changed and unchanged;
    /// gateways hear anew exactly when names or limits differ; and what is unchanged is the same
    /// thing, connections included.
    #[test]
    fn changes_are_told_exactly(before in specs(), after in specs(), backwards in any::<bool>()) {
        let now = Instant::now();
        let old = Offered::new(sites(&before, false), Duration::ZERO).unwrap();
        let new = old.followed_by(sites(&after, backwards), Duration::ZERO, now).unwrap();
        let Changes { added, removed, changed, declared_anew, gateway } = old.compare(&new);
        for name in before.keys().chain(after.keys()) {
            let told = (added.contains(name), removed.contains(name), changed.contains(name));
            let expected = match (before.get(name), after.get(name)) {
                (None, _) => (true, false, false),
                (_, None) => (false, true, false),
                (Some(one), Some(other)) => (false, false, one != other),
            };
            prop_assert_eq!(told, expected, "{}", name);
            if expected == (false, false, false) {
                prop_assert!(Arc::ptr_eq(old.find(name, now).unwrap(), new.find(name, now).unwrap()));
            }
        }
        let limits = |specs: &BTreeMap<String, Spec>| -> Vec<(String, u32)> {
            specs.iter().map(|(name, spec)| (name.clone(), spec.2)).collect()
        };
        prop_assert_eq!(declared_anew, limits(&before) != limits(&after));
        prop_assert!(!gateway);
        let names: Vec<_> = new.offers().into_iter().map(|offer| offer.name).collect();
        prop_assert_eq!(names.len(), after.len());
        prop_assert!(after.keys().all(|name| names.contains(name)));
    }
}

use proptest::prelude::*;

use super::*;
use crate::webhook::answer::{Denial, Narrowing};

const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn allow() -> Arc<Decision> {
    Arc::new(Decision { ruling: Ruling::Allow(Narrowing::default()), reason: None, ttl: None })
}

fn deny() -> Arc<Decision> {
    let denial = Denial { status: 403, message: "no".into(), retry_after: None };
    Arc::new(Decision { ruling: Ruling::Deny(denial), reason: None, ttl: None })
}

const fn key(n: u8) -> Key {
    [n; 32]
}

const fn keep(fresh: u64, stale: u64) -> Option<Keep> {
    Some(Keep { fresh: s(fresh), stale: s(stale) })
}

#[test]
fn decisions_count_for_their_time() {
    let mut cache = Cache::default();
    cache.put(key(1), "a", &allow(), keep(10, 30), s(0));
    assert!(cache.fresh(&key(1), s(9)).is_some());
    assert!(cache.fresh(&key(2), s(9)).is_none());
    assert!(cache.fresh(&key(1), s(10)).is_none());
    assert!(cache.stale(&key(1), s(29)).is_some());
    assert!(cache.stale(&key(1), s(30)).is_none());
    assert!(cache.fresh(&key(1), s(30)).is_none());
    assert!(cache.is_empty(), "what counts for nothing is not kept");
}

/// A later decision ends an earlier one, even when it is not remembered: a stale allow must not come
/// back behind a denial.
#[test]
fn a_later_decision_ends_the_earlier() {
    let mut cache = Cache::default();
    cache.put(key(1), "a", &allow(), keep(10, 300), s(0));
    cache.put(key(1), "a", &deny(), None, s(11));
    assert!(cache.stale(&key(1), s(12)).is_none());
    cache.put(key(1), "a", &deny(), keep(5, 300), s(20));
    assert!(cache.stale(&key(1), s(26)).is_none(), "a denial is never relied on when it is over");
}

#[test]
fn whose_decisions_are_forgotten() {
    let mut cache = Cache::default();
    for n in 0..10 {
        cache.put(key(n), if n % 2 == 0 { "a" } else { "b" }, &allow(), keep(10, 10), s(0));
    }
    assert_eq!(cache.forget(|holder| *holder == "a"), 5);
    assert_eq!(cache.len(), 5);
    assert!(cache.fresh(&key(1), s(1)).is_some() && cache.fresh(&key(2), s(1)).is_none());
    assert_eq!(cache.forget(|_| true), 5);
    assert!(cache.is_empty() && cache.shares.is_empty() && cache.share_of.is_empty());
}

#[test]
fn one_credential_cannot_push_others_out() {
    let mut cache = Cache::bounded(8, 3);
    cache.put(key(100), "quiet", &allow(), keep(10, 10), s(0));
    for n in 0..50 {
        cache.put(key(n), "loud", &allow(), keep(10, 10), s(0));
    }
    assert_eq!(cache.len(), 4);
    assert!(cache.fresh(&key(100), s(1)).is_some());
    assert!([47, 48, 49].iter().all(|n| cache.fresh(&key(*n), s(1)).is_some()));
}

fn decision(ttl: Option<u64>, expires_at: Option<Timestamp>, allows: bool) -> Decision {
    let decision = if allows { allow() } else { deny() };
    let mut decision = Decision { ttl: ttl.map(s), ..Decision::clone(&decision) };
    if let Ruling::Allow(narrowing) = &mut decision.ruling {
        narrowing.expires_at = expires_at;
    }
    decision
}

#[test]
fn the_shortest_time_counts() {
    let now = Timestamp::from_seconds(1000);
    let of = |ttl, allows, ends| Keep::of(&decision(ttl, None, allows), (s(30), s(5)), s(300), ends, now);
    let far = Timestamp::FAR_FUTURE;
    assert_eq!(of(None, true, far), keep(30, 330));
    assert_eq!(of(Some(20), true, far), keep(20, 320));
    assert_eq!(of(Some(3600), true, far), keep(30, 330));
    assert_eq!(of(Some(0), true, far), None);
    assert_eq!(of(None, false, far), keep(5, 5));
    assert_eq!(of(Some(3), false, far), keep(3, 3));
    assert_eq!(of(None, true, Timestamp::from_seconds(1010)), keep(10, 10));
    assert_eq!(of(None, true, now), None);
    let ends = Keep::of(&decision(None, Some(Timestamp::from_seconds(1007)), true), (s(30), s(5)), s(300), far, now);
    assert_eq!(ends, keep(7, 7));
    let off = Keep::of(&decision(None, None, true), (s(0), s(0)), s(0), far, now);
    assert_eq!(off, None);
}

proptest! {
    /// Never longer than anything that bounds it says.
    #[test]
    fn times_never_outlive_their_bounds(
        ttl in prop::option::of(0u64..1000), cap in 0u64..300, deny_cap in 0u64..60, stale in 0u64..1000,
        ends in 0i64..2000, allows: bool,
    ) {
        let now = Timestamp::from_seconds(1000);
        let caps = (s(cap), s(deny_cap));
        let ends = Timestamp::from_seconds(ends);
        if let Some(keep) = Keep::of(&decision(ttl, None, allows), caps, s(stale), ends, now) {
            let cap = if allows { caps.0 } else { caps.1 };
            prop_assert!(keep.fresh <= cap);
            prop_assert!(ttl.is_none_or(|ttl| keep.fresh <= s(ttl)));
            prop_assert!(keep.fresh <= keep.stale && keep.stale <= ends.since(now));
            prop_assert!(keep.stale <= keep.fresh + s(stale));
        }
    }

    /// The same as a plain list that is searched from its end.
    #[test]
    fn it_is_an_lru(steps in prop::collection::vec((0u8..3, 0u8..12, 0u8..3), 0..200)) {
        const MOST: usize = 6;
        const SHARE: usize = 3;
        let mut cache = Cache::bounded(MOST, SHARE);
        let mut model: Vec<(u8, u8)> = Vec::new();
        for (what, n, holder) in steps {
            match what {
                0 => {
                    cache.put(key(n), holder, &allow(), keep(10, 10), s(0));
                    model.retain(|(known, _)| *known != n);
                    model.push((n, holder));
                    if model.iter().filter(|(_, other)| *other == holder).count() > SHARE {
                        let oldest = model.iter().position(|(_, other)| *other == holder).unwrap();
                        model.remove(oldest);
                    } else if model.len() > MOST {
                        model.remove(0);
                    }
                }
                1 => {
                    let found = cache.fresh(&key(n), s(1)).is_some();
                    let known = model.iter().position(|(known, _)| *known == n);
                    prop_assert_eq!(found, known.is_some());
                    if let Some(at) = known {
                        let used = model.remove(at);
                        model.push(used);
                    }
                }
                _ => {
                    let before = model.len();
                    model.retain(|(_, other)| *other != holder);
                    prop_assert_eq!(cache.forget(|other| *other == holder), before - model.len());
                }
            }
            prop_assert_eq!(cache.len(), model.len());
            prop_assert_eq!(cache.places.len(), model.len());
            prop_assert_eq!(cache.shares.len(), cache.share_of.len());
            prop_assert!(cache.len() <= MOST);
        }
    }
}

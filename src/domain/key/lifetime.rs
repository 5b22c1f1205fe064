//! How long a key may live: `default_key_ttl` and `max_key_ttl` of the grants on its owner's path.
//!
//! Invariant: of several grants the shortest time counts, so a grant can only shorten a life.

use std::time::Duration;

use crate::domain::grant::Grant;
use crate::domain::owner::OwnerPath;
use crate::domain::timestamp::Timestamp;

/// What is asked for a key.
#[derive(Clone, Copy, Debug)]
pub struct Lifetime {
    /// When it was or is made: spans count from here.
    pub created_at: Timestamp,
    /// Before this moment it is to be refused.
    pub not_before: Option<Timestamp>,
    /// From this moment on it is to be refused; `None` when nobody said.
    pub expires_at: Option<Timestamp>,
}

/// Why a key may not live like that.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NotAllowed {
    /// It would be dead at once.
    #[error("the expiry {0} is not in the future")]
    Past(Timestamp),
    /// It would be dead before it comes alive.
    #[error("the expiry {expires_at} is not after {not_before}, from when on the key is valid")]
    BeforeItBegins {
        /// The expiry that was asked for.
        expires_at: Timestamp,
        /// The beginning that was asked for.
        not_before: Timestamp,
    },
    /// A grant allows less.
    #[error("the grant {by} lets a key live until {latest} at most (max_key_ttl)")]
    TooLong {
        /// The latest expiry that is allowed.
        latest: Timestamp,
        /// The node of the grant.
        by: OwnerPath,
    },
}

/// When a key ends for which `asked` is asked: what was asked if the grants on the path of its
/// owner (from the config and from the store) allow it; else the shortest `default_key_ttl`, else
/// the shortest `max_key_ttl`, else never.
///
/// # Errors
///
/// When the key would never be valid, or longer than a grant allows.
pub fn expiry_allowed<'g>(
    asked: Lifetime,
    now: Timestamp,
    grants: impl IntoIterator<Item = &'g Grant>,
) -> Result<Option<Timestamp>, NotAllowed> {
    let mut default: Option<Duration> = None;
    let mut max: Option<(Duration, &OwnerPath)> = None;
    for grant in grants {
        if let Some(ttl) = grant.default_key_ttl {
            default = Some(default.map_or(ttl, |shortest| shortest.min(ttl)));
        }
        if let Some(ttl) = grant.max_key_ttl
            && max.is_none_or(|(shortest, _)| ttl < shortest)
        {
            max = Some((ttl, &grant.owner));
        }
    }
    let latest = max.map(|(ttl, by)| (asked.created_at.after(ttl), by));
    let expires_at = match (asked.expires_at, latest) {
        (Some(expires_at), Some((latest, by))) if expires_at > latest => {
            return Err(NotAllowed::TooLong { latest, by: by.clone() });
        }
        (Some(expires_at), _) => Some(expires_at),
        (None, latest) => {
            let default = default.map(|ttl| asked.created_at.after(ttl));
            default.into_iter().chain(latest.map(|(latest, _)| latest)).min()
        }
    };
    match (expires_at, asked.not_before) {
        (Some(expires_at), _) if expires_at <= now => Err(NotAllowed::Past(expires_at)),
        (Some(expires_at), Some(not_before)) if expires_at <= not_before => {
            Err(NotAllowed::BeforeItBegins { expires_at, not_before })
        }
        (expires_at, _) => Ok(expires_at),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_seconds(seconds)
    }

    fn grant(owner: &str, default: Option<u64>, max: Option<u64>) -> Grant {
        Grant {
            default_key_ttl: default.map(Duration::from_secs),
            max_key_ttl: max.map(Duration::from_secs),
            ..Grant::new(OwnerPath::parse(owner).unwrap())
        }
    }

    fn asked(not_before: Option<i64>, expires_at: Option<i64>) -> Lifetime {
        Lifetime { created_at: at(1000), not_before: not_before.map(at), expires_at: expires_at.map(at) }
    }

    #[test]
    fn the_shortest_time_counts() {
        let check = |grants: &[Grant], expires_at: Option<i64>, expected: Result<Option<i64>, &str>| {
            let found = expiry_allowed(asked(None, expires_at), at(1000), grants);
            match (found, expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, expected.map(at)),
                (Err(why), Err(expected)) => assert!(why.to_string().contains(expected), "{why}"),
                (found, expected) => panic!("{found:?} instead of {expected:?}"),
            }
        };
        check(&[], None, Ok(None));
        check(&[], Some(2000), Ok(Some(2000)));
        check(&[], Some(1000), Err("not in the future"));
        check(&[grant("a", Some(30), None)], None, Ok(Some(1030)));
        check(&[grant("a", Some(30), None)], Some(2000), Ok(Some(2000)));
        check(&[grant("a", Some(30), None), grant("a/b", Some(60), None)], None, Ok(Some(1030)));
        check(&[grant("a", Some(60), Some(40))], None, Ok(Some(1040)));
        check(&[grant("a", None, Some(40))], None, Ok(Some(1040)));
        check(&[grant("a", None, Some(40))], Some(1040), Ok(Some(1040)));
        check(&[grant("a", None, Some(40)), grant("a/b", None, Some(90))], Some(1041), Err("the grant a lets"));
        check(&[grant("a", None, Some(90)), grant("a/b", None, Some(40))], Some(1041), Err("the grant a/b lets"));
    }

    #[test]
    fn a_key_that_would_never_be_valid_is_refused() {
        let refused = |not_before, expires_at| expiry_allowed(asked(not_before, expires_at), at(1000), []).is_err();
        assert!(refused(Some(3000), Some(2000)));
        assert!(refused(Some(2000), Some(2000)));
        assert!(!refused(Some(1999), Some(2000)));
        assert!(!refused(Some(3000), None));
    }

    proptest! {
        /// A further grant never lengthens a life, and never allows what was not allowed.
        #[test]
        fn a_further_grant_only_shortens(
            ttls in prop::collection::vec((prop::option::of(1u64..100), prop::option::of(1u64..100)), 1..5),
            expires_at in prop::option::of(900i64..1200),
        ) {
            let grants: Vec<_> = ttls.iter().map(|(default, max)| grant("a", *default, *max)).collect();
            let (_, fewer) = grants.split_last().unwrap();
            let ends = |grants| expiry_allowed(asked(None, expires_at), at(1000), grants)
                .map(|end: Option<Timestamp>| end.unwrap_or(Timestamp::FAR_FUTURE));
            match (ends(fewer), ends(&grants)) {
                (Ok(before), Ok(after)) => prop_assert!(after <= before),
                (Err(_), after) => prop_assert!(after.is_err()),
                (Ok(_), Err(_)) => {}
            }
        }
    }
}

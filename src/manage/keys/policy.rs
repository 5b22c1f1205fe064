//! What the grants on a key's path say about it: how long it may live, and what of it is in vain.

use std::fmt::Display;

use crate::domain::grant::Grant;
use crate::domain::key::{KeyRecord, Lifetime, NotAllowed, expiry_allowed};
use crate::domain::timestamp::Timestamp;
use crate::manage::Policy;
use crate::manage::fault::{Code, Fault};
use crate::manage::keys::Wanted;

/// When a key ends that is asked for.
pub(super) fn expiry(
    wanted: &Wanted,
    created_at: Timestamp,
    now: Timestamp,
    grants: &[Grant],
) -> Result<Option<Timestamp>, Fault> {
    let asked = Lifetime { created_at, not_before: wanted.not_before, expires_at: wanted.expires_at };
    expiry_allowed(asked, now, grants).map_err(|why| not_allowed(&why))
}

/// What is said of a life that is not allowed.
pub(super) fn not_allowed(why: &NotAllowed) -> Fault {
    match why {
        NotAllowed::Past(_) => Fault::field("expires_at", "is not in the future"),
        NotAllowed::BeforeItBegins { .. } => Fault::field("expires_at", why.to_string()),
        NotAllowed::TooLong { .. } => Fault {
            code: Code::NotAllowed,
            message: why.to_string(),
            hint: Some("let it end sooner, or change the grant".to_owned()),
            wrong: Fault::field("expires_at", why.to_string()).wrong,
        },
    }
}

/// What will surprise the owner of a key. Nothing here decides: the gate does, request by request.
pub(super) fn warnings(record: &KeyRecord, grants: &[Grant], policy: &Policy) -> Vec<String> {
    let mut warnings = Vec::new();
    if record.expires_at.is_none() {
        warnings.push("the key never expires; expires_at (--expires 30d) would end it".to_owned());
    }
    if !policy.knows_config() {
        warnings.push("no config was found, so its grants were not looked at; --config FILE names it".to_owned());
    } else if grants.iter().all(|grant| grant.require.is_none()) {
        warnings
            .push(format!("no grant on the path of {} names `require`, so the key opens nothing yet", record.owner));
    }
    let narrowing = &record.narrowing;
    for grant in grants {
        let owner = &grant.owner;
        let beyond = [
            (&narrowing.networks, &grant.networks).beyond("networks", owner, |wide, narrow| wide.cover(narrow)),
            (&narrowing.endpoints, &grant.endpoints).beyond("endpoints", owner, |wide, narrow| wide.cover(narrow)),
            (&narrowing.models, &grant.models).beyond("models", owner, |wide, narrow| wide.cover(narrow)),
        ];
        warnings.extend(beyond.into_iter().flatten());
        if let (Some(key), Some(grant)) = (record.expires_at, grant.expires_at)
            && key > grant
        {
            warnings.push(format!("the grant of {owner} ends at {grant}, before the key does"));
        }
    }
    warnings
}

trait Beyond<T> {
    /// What is said when the key's list goes beyond the grant's.
    fn beyond(self, field: &str, owner: &dyn Display, covers: impl Fn(&T, &T) -> bool) -> Option<String>;
}

impl<T> Beyond<T> for (&Option<T>, &Option<T>) {
    fn beyond(self, field: &str, owner: &dyn Display, covers: impl Fn(&T, &T) -> bool) -> Option<String> {
        let (key, grant) = (self.0.as_ref()?, self.1.as_ref()?);
        (!covers(grant, key))
            .then(|| format!("the key's {field} go beyond the grant of {owner}; it stays narrowed to what both allow"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Declared;
    use crate::domain::endpoint::Endpoints;
    use crate::domain::grant::{Models, Require};
    use crate::domain::key::{KeyDigest, KeyId, Narrowing};
    use crate::domain::network::Networks;
    use crate::domain::owner::OwnerPath;
    use crate::manage::enrollments::Enrollment;

    fn grant() -> Grant {
        Grant {
            require: Some(Require::Key),
            networks: Some(Networks::parse(&["10.0.0.0/8", "fd00::/8"]).unwrap()),
            endpoints: Some(Endpoints::parse(&["@chat", "@models"]).unwrap()),
            models: Some(Models::parse(&["llama-*", "qwen"]).unwrap()),
            ..Grant::new(OwnerPath::parse("acme").unwrap())
        }
    }

    fn known() -> Policy {
        let enrollment = Enrollment { reachable: Ok(None), root: None };
        Policy { config: Ok(Some(Declared::default())), trust_domain: None, enrollment }
    }

    fn key(networks: &[&str], endpoints: &[&str], models: &[&str]) -> KeyRecord {
        KeyRecord {
            narrowing: Narrowing {
                networks: Networks::parse(networks).ok(),
                endpoints: Endpoints::parse(endpoints).ok(),
                models: Models::parse(models).ok(),
            },
            expires_at: Some(Timestamp::from_seconds(9)),
            ..KeyRecord::new(
                KeyId::parse("0123456789ab").unwrap(),
                OwnerPath::parse("acme/x").unwrap(),
                KeyDigest::from_bytes([0; 32]),
                Timestamp::from_seconds(0),
            )
        }
    }

    #[test]
    fn a_key_within_its_grant_is_no_surprise() {
        for key in [
            key(&[], &[], &[]),
            key(&["10.1.0.0/16", "fd00:1::/64"], &["openai.chat_completions"], &["llama-3*", "qwen", "llama-*-q4"]),
            key(&["10.0.0.0/8"], &["@chat", "@models"], &["llama-*"]),
        ] {
            assert_eq!(warnings(&key, &[grant()], &known()), Vec::<String>::new());
        }
    }

    #[test]
    fn what_goes_beyond_is_named() {
        for (key, field) in [
            (key(&["10.0.0.0/7"], &[], &[]), "networks"),
            (key(&["*"], &[], &[]), "networks"),
            (key(&["192.168.0.0/16"], &[], &[]), "networks"),
            (key(&[], &["*"], &[]), "endpoints"),
            (key(&[], &["@chat", "@embeddings"], &[]), "endpoints"),
            (key(&[], &[], &["*"]), "models"),
            (key(&[], &[], &["llama*"]), "models"),
            (key(&[], &[], &["qwen*"]), "models"),
        ] {
            let said = warnings(&key, &[grant()], &known());
            assert!(said.len() == 1 && said[0].contains(field), "{said:?}");
        }
    }

    #[test]
    fn what_never_ends_and_what_opens_nothing_is_said() {
        let endless = KeyRecord { expires_at: None, ..key(&[], &[], &[]) };
        let said = warnings(&endless, &[], &known());
        assert!(said.len() == 2 && said[0].contains("never expires") && said[1].contains("opens nothing"), "{said:?}");
    }
}

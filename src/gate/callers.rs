//! Do all callers come from one address? Then something in front hides where they really are, and
//! networks decide nothing.
//!
//! Invariant: what is kept is one address and one name, however many callers there are, and once
//! two addresses were seen nothing is compared any more.

use std::net::IpAddr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::domain::grant::Credentials;

/// What was seen of callers since the start. Only those whose credentials were proven count.
#[derive(Default, Debug)]
pub struct Callers {
    first_address: OnceLock<IpAddr>,
    first_name: OnceLock<Box<str>>,
    several_addresses: AtomicBool,
    several_names: AtomicBool,
}

impl Callers {
    /// Notes a caller.
    pub fn seen(&self, address: IpAddr, credentials: &Credentials) {
        if self.several_addresses.load(Ordering::Relaxed) {
            return;
        }
        if *self.first_address.get_or_init(|| address) != address {
            self.several_addresses.store(true, Ordering::Relaxed);
            return;
        }
        let key = credentials.key.as_ref().map(|key| key.id.as_str());
        let token = || credentials.token.as_ref().map(|vouched| vouched.token.owner.as_str());
        let name = key
            .or_else(token)
            .or_else(|| credentials.certificate.as_ref().map(|certificate| certificate.identity.uri()));
        let Some(name) = name.filter(|_| !self.several_names.load(Ordering::Relaxed)) else { return };
        if **self.first_name.get_or_init(|| name.into()) != *name {
            self.several_names.store(true, Ordering::Relaxed);
        }
    }

    /// True when there were different callers, and all of them came from one address.
    #[must_use]
    pub fn share_an_address(&self) -> bool {
        self.several_names.load(Ordering::Relaxed) && !self.several_addresses.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::domain::grant::Certified;
    use crate::domain::identity::Identity;
    use crate::domain::timestamp::Timestamp;

    fn certificate(name: &str) -> Credentials {
        let identity = Arc::new(Identity::parse(&format!("spiffe://corp.example/client/{name}")).unwrap());
        let certified = Certified { identity, owner: None, not_after: Timestamp::from_seconds(0), revoked: false };
        Credentials { certificate: Some(certified), key: None, token: None }
    }

    #[test]
    fn different_callers_from_one_address_are_worth_a_word() {
        let (here, there): (IpAddr, IpAddr) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        let callers = Callers::default();
        assert!(!callers.share_an_address());
        callers.seen(here, &certificate("alice"));
        callers.seen(here, &certificate("alice"));
        assert!(!callers.share_an_address(), "one caller has one address");
        callers.seen(here, &certificate("bob"));
        assert!(callers.share_an_address());
        callers.seen(there, &certificate("bob"));
        assert!(!callers.share_an_address());
        callers.seen(here, &certificate("carol"));
        assert!(!callers.share_an_address(), "that stays so");
    }
}

//! What a caller may do: grants on the owner tree, and the checks 3, 4, 5, 6 and 8 of the gate.
//!
//! Invariant: every check is an intersection. A grant, a key's narrowing or a second credential
//! can only take away; what nobody on the path names is not allowed at all.

mod tree;

pub use tree::{GrantTree, OwnerTree};

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::domain::endpoint::{Endpoint, Endpoints};
use crate::domain::glob::Glob;
use crate::domain::identity::Identity;
use crate::domain::key::{Binding, KeyId, KeyRecord, KeyState, Narrowing};
use crate::domain::network::Networks;
use crate::domain::origin::Origins;
use crate::domain::owner::{DisabledOwners, OwnerPath};
use crate::domain::refusal::{CredentialFault, Refusal};
use crate::domain::timestamp::Timestamp;
use crate::domain::token::Vouched;
use crate::domain::webhook::Hooked;

/// Which models may be named: patterns over public aliases.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Models(Arc<[Glob]>);

impl Models {
    /// Reads a list of aliases and patterns.
    ///
    /// # Errors
    ///
    /// Every entry that is wrong, as its index and why. An empty list is wrong as a whole: index 0.
    pub fn parse<S: AsRef<str>>(entries: &[S]) -> Result<Self, Vec<(usize, String)>> {
        if entries.is_empty() {
            return Err(vec![(
                0,
                "an empty list allows no model; leave it out, or write [\"*\"] for every model".to_owned(),
            )]);
        }
        let (mut globs, mut wrong) = (Vec::new(), Vec::new());
        for (index, entry) in entries.iter().enumerate() {
            match Glob::parse(entry.as_ref()) {
                Ok(glob) => globs.push(glob),
                Err(why) => wrong.push((index, why)),
            }
        }
        if wrong.is_empty() { Ok(Self(globs.into())) } else { Err(wrong) }
    }

    /// True when `alias` fits one of the patterns.
    #[must_use]
    pub fn admit(&self, alias: &str) -> bool {
        self.0.iter().any(|glob| glob.matches(alias))
    }

    /// True when whatever fits a pattern of `narrower` fits one of these. Patterns that only together
    /// hold one of `narrower`'s do not count.
    #[must_use]
    pub fn cover(&self, narrower: &Self) -> bool {
        // A pattern whose text fits another as it stands, its stars taken as characters, fits it
        // with whatever the stars stand for: a literal of the other is never a star.
        narrower.0.iter().all(|narrow| self.admit(narrow.as_str()))
    }

    /// The patterns as written.
    #[must_use]
    pub fn entries(&self) -> Vec<String> {
        self.0.iter().map(ToString::to_string).collect()
    }
}

/// Which credentials a grant asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Require {
    /// A client certificate.
    Certificate,
    /// A virtual key.
    Key,
    /// Both at once.
    Both,
    /// Any one of them.
    Either,
}

impl Require {
    /// Every choice.
    pub const ALL: [Self; 4] = [Self::Certificate, Self::Key, Self::Both, Self::Either];

    /// The word in config.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Certificate => "certificate",
            Self::Key => "key",
            Self::Both => "both",
            Self::Either => "either",
        }
    }

    /// Reads the word.
    ///
    /// # Errors
    ///
    /// When `text` is not one of the choices; the message has them.
    pub fn parse(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|require| require.as_str() == text)
            .ok_or_else(|| format!("{text:?} is not one of {}", Self::ALL.map(Self::as_str).join(", ")))
    }
}

/// What may be done at and below one node of the owner tree. An absent list says nothing: the
/// path's other grants decide.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Grant {
    /// The node.
    pub owner: OwnerPath,
    /// Which credentials are asked for.
    pub require: Option<Require>,
    /// Where callers may come from.
    pub networks: Option<Networks>,
    /// What they may call.
    pub endpoints: Option<Endpoints>,
    /// Which models they may name.
    pub models: Option<Models>,
    /// Which web pages may call and read the answers.
    pub cors_origins: Option<Origins>,
    /// From this moment on everything below the node is refused.
    pub expires_at: Option<Timestamp>,
    /// How long a key lives that is made without an expiry.
    pub default_key_ttl: Option<Duration>,
    /// How long a key may live at most.
    pub max_key_ttl: Option<Duration>,
    /// Who has the last word on requests, besides the webhooks that other grants on the path name.
    pub webhook: Option<Hooked>,
}

impl Grant {
    /// A grant that says nothing yet.
    #[must_use]
    pub const fn new(owner: OwnerPath) -> Self {
        Self {
            owner,
            require: None,
            networks: None,
            endpoints: None,
            models: None,
            cors_origins: None,
            expires_at: None,
            default_key_ttl: None,
            max_key_ttl: None,
            webhook: None,
        }
    }
}

/// A caller whose credentials were proven, as far as decisions need to know it.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    /// What the client certificate proved.
    pub certificate: Option<Certified>,
    /// The key whose secret was proven.
    pub key: Option<Arc<KeyRecord>>,
    /// The token that an issuer vouches for. It stands in a key's place: there are never both.
    pub token: Option<Vouched>,
}

impl Credentials {
    /// The owner of the key, or of the token in its place.
    #[must_use]
    pub fn bearer_owner(&self) -> Option<&OwnerPath> {
        let token = || self.token.as_ref().map(|vouched| &vouched.token.owner);
        self.key.as_ref().map(|key| &key.owner).or_else(token)
    }
}

/// What a client certificate proved.
#[derive(Clone, Debug)]
pub struct Certified {
    /// Who it is.
    pub identity: Arc<Identity>,
    /// Where `[[identity]]` places it; `None` gives it no rights of its own.
    pub owner: Option<OwnerPath>,
    /// When the certificate ends.
    pub not_after: Timestamp,
    /// True when the certificate, its key or its subject was revoked.
    pub revoked: bool,
}

/// The two owner paths that a caller can stand on, with the grants that lie on them.
///
/// Made anew from the current [`OwnerTree`] for each decision, so that a change of grants decides
/// live requests again.
#[derive(Debug)]
pub struct Standing<'a> {
    credentials: &'a Credentials,
    disabled: &'a DisabledOwners,
    key_path: Vec<&'a Grant>,
    certificate_path: Vec<&'a Grant>,
}

impl<'a> Standing<'a> {
    /// Looks up the grants of a caller.
    #[must_use]
    pub fn new(tree: OwnerTree<'a>, credentials: &'a Credentials) -> Self {
        let grants = |owner: Option<&OwnerPath>| -> Vec<&'a Grant> {
            let Some(owner) = owner else { return Vec::new() };
            let mut grants = Vec::with_capacity(OwnerPath::MAX_SEGMENTS);
            grants.extend(tree.on_path(owner));
            grants
        };
        Self {
            credentials,
            disabled: tree.disabled,
            key_path: grants(credentials.bearer_owner()),
            certificate_path: grants(credentials.certificate.as_ref().and_then(|c| c.owner.as_ref())),
        }
    }

    /// The moment from which [`Self::check_status`] refuses: the earliest expiry of all that the
    /// caller stands on.
    #[must_use]
    pub fn expires_at(&self) -> Timestamp {
        let grants = self.grants().filter_map(|grant| grant.expires_at);
        let key = self.credentials.key.as_ref().and_then(|key| key.expires_at);
        let certificate = self.credentials.certificate.as_ref().map(|c| c.not_after);
        let token = self.credentials.token.as_ref().map(Vouched::ends_at);
        grants.chain(key).chain(token).chain(certificate).min().unwrap_or(Timestamp::FAR_FUTURE)
    }

    /// Check 3: nothing that the caller stands on is revoked, switched off, over, or to come.
    ///
    /// That a key is spent is not looked at here: a request that has claimed the last use goes on.
    /// See [`Self::check_uses`].
    ///
    /// # Errors
    ///
    /// The uniform 401, whatever it was.
    pub fn check_status(&self, now: Timestamp) -> Result<(), Refusal> {
        if let Some(key) = &self.credentials.key {
            let fault = match key.state(now) {
                KeyState::Active | KeyState::Spent => None,
                KeyState::Revoked => Some(CredentialFault::KeyRevoked(key.id)),
                KeyState::Expired => Some(CredentialFault::KeyExpired(key.id)),
                KeyState::Disabled => Some(CredentialFault::KeyDisabled(key.id)),
                KeyState::NotYet => Some(CredentialFault::KeyNotYetValid(key.id)),
            };
            if let Some(fault) = fault {
                return Err(Refusal::InvalidCredentials(fault));
            }
        }
        if let Some(token) = &self.credentials.token {
            token.check(now)?;
        }
        if let Some(certificate) = &self.credentials.certificate {
            if certificate.revoked {
                return Err(Refusal::InvalidCredentials(CredentialFault::CertificateRevoked));
            }
            if now >= certificate.not_after {
                return Err(Refusal::InvalidCredentials(CredentialFault::CertificateExpired));
            }
        }
        if let Some(node) = self.owners().find_map(|owner| self.disabled.on_path(owner)) {
            return Err(Refusal::InvalidCredentials(CredentialFault::OwnerDisabled(node.clone())));
        }
        match self.grants().find(|grant| grant.expires_at.is_some_and(|end| now >= end)) {
            Some(over) => Err(Refusal::InvalidCredentials(CredentialFault::GrantExpired(over.owner.clone()))),
            None => Ok(()),
        }
    }

    /// Check 3, for a request that has not claimed a use yet: the key is not spent.
    ///
    /// # Errors
    ///
    /// The uniform 401.
    pub fn check_uses(&self) -> Result<(), Refusal> {
        match &self.credentials.key {
            Some(key) if key.uses.is_some_and(|uses| uses.left == 0) => {
                Err(Refusal::InvalidCredentials(CredentialFault::KeySpent(key.id)))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Check 4: the caller stands on a path that says which credentials it takes, and has them; a
    /// bound key comes with the identity that it is bound to.
    ///
    /// # Errors
    ///
    /// `no_grant` when a path says nothing, `key_required` or `certificate_required` when one is
    /// missing, `key_bound_elsewhere`. A certificate counts for a node only if its owner is at or
    /// below that node, or the key is bound to its identity.
    pub fn check_required(&self) -> Result<(), Refusal> {
        let paths = [
            self.credentials.bearer_owner().map(|owner| (owner, &self.key_path)),
            self.credentials
                .certificate
                .as_ref()
                .and_then(|c| c.owner.as_ref())
                .map(|owner| (owner, &self.certificate_path)),
        ];
        if paths.iter().all(Option::is_none) {
            return Err(Refusal::NoGrant { owner: None });
        }
        for (owner, grants) in paths.into_iter().flatten() {
            if grants.iter().all(|grant| grant.require.is_none()) {
                return Err(Refusal::NoGrant { owner: Some(owner.clone()) });
            }
            for grant in grants {
                self.check_credential_kinds(grant)?;
            }
        }
        self.check_binding()
    }

    /// The key is not bound, or to the identity that the connection proved.
    fn check_binding(&self) -> Result<(), Refusal> {
        match self.credentials.key.as_ref().and_then(|key| Some((key.id, key.bound_to()?))) {
            Some((key, to)) if !self.proves(to) => Err(Refusal::KeyBoundElsewhere { key, to: to.clone() }),
            Some(_) | None => Ok(()),
        }
    }

    fn proves(&self, binding: &Binding) -> bool {
        self.credentials.certificate.as_ref().is_some_and(|certificate| binding.matches(&certificate.identity))
    }

    fn check_credential_kinds(&self, grant: &Grant) -> Result<(), Refusal> {
        let key = self.credentials.bearer_owner().is_some();
        let certificate = self.credentials.certificate.as_ref().is_some_and(|certificate| {
            let binds = || self.credentials.key.as_ref().and_then(|key| key.bound_to());
            certificate.owner.as_ref().is_some_and(|owner| owner.is_within(grant.owner.as_str()))
                || binds().is_some_and(|to| self.proves(to))
        });
        let (need_key, need_certificate) = match grant.require {
            None | Some(Require::Either) => (false, false),
            Some(Require::Key) => (true, false),
            Some(Require::Certificate) => (false, true),
            Some(Require::Both) => (true, true),
        };
        if need_certificate && !certificate {
            return Err(Refusal::CertificateRequired { by: grant.owner.clone() });
        }
        if need_key && !key {
            return Err(Refusal::KeyRequired { by: grant.owner.clone() });
        }
        Ok(())
    }

    /// Check 5: the caller's address is in every list of networks that applies, and in one at
    /// least.
    ///
    /// # Errors
    ///
    /// `network_not_allowed`, with who decided.
    pub fn check_network(&self, address: IpAddr) -> Result<(), Refusal> {
        self.intersect(|grant| grant.networks.as_ref(), |key| key.networks.as_ref(), |networks| networks.admit(address))
            .map_err(|by| Refusal::NetworkNotAllowed { address, by })
    }

    /// Check 6: the endpoint is in every list of endpoints that applies, and in one at least.
    ///
    /// # Errors
    ///
    /// `endpoint_not_allowed`, with who decided.
    pub fn check_endpoint(&self, endpoint: Endpoint) -> Result<(), Refusal> {
        self.intersect(
            |grant| grant.endpoints.as_ref(),
            |key| key.endpoints.as_ref(),
            |endpoints| endpoints.contain(endpoint),
        )
        .map_err(|by| Refusal::EndpointNotAllowed { endpoint, by })
    }

    /// Check 8: the alias is in every list of models that applies, and in one at least.
    ///
    /// # Errors
    ///
    /// `model_not_found`: whether the model exists is not for the caller to know.
    pub fn check_model(&self, alias: &str) -> Result<(), Refusal> {
        self.intersect(|grant| grant.models.as_ref(), |key| key.models.as_ref(), |models| models.admit(alias))
            .map_err(|by| Refusal::ModelNotFound { by: Some(by) })
    }

    /// Check 10: the webhooks that have the last word, each once, in the order of the paths, root first,
    /// the key's path before the certificate's. When one fails, requests pass only if every grant
    /// that names it accepts that.
    #[must_use]
    pub fn webhooks(&self) -> Vec<Hooked> {
        let mut all: Vec<Hooked> = Vec::new();
        for hooked in self.grants().filter_map(|grant| grant.webhook.as_ref()) {
            match all.iter_mut().find(|known| known.name == hooked.name) {
                Some(known) => known.accept_fail_open &= hooked.accept_fail_open,
                None => all.push(hooked.clone()),
            }
        }
        all
    }

    /// Beside check 4: the web page that the request comes from is in every list of origins that
    /// applies, and in one at least.
    ///
    /// # Errors
    ///
    /// `origin_not_allowed`, with who decided.
    pub fn check_origin(&self, origin: &str) -> Result<(), Refusal> {
        self.intersect(|grant| grant.cors_origins.as_ref(), |_| None, |origins| origins.admit(origin))
            .map_err(|by| Refusal::OriginNotAllowed { by })
    }

    /// The key that the caller presented.
    #[must_use]
    pub fn key(&self) -> Option<&'a KeyRecord> {
        self.credentials.key.as_deref()
    }

    /// True when the caller presented a key or a token: something that a page cannot borrow.
    #[must_use]
    pub fn has_bearer(&self) -> bool {
        self.credentials.bearer_owner().is_some()
    }

    /// Both owners that the caller stands for.
    fn owners(&self) -> impl Iterator<Item = &'a OwnerPath> {
        self.credentials
            .bearer_owner()
            .into_iter()
            .chain(self.credentials.certificate.as_ref().and_then(|c| c.owner.as_ref()))
    }

    /// The grants on both paths, root first, the key's path before the certificate's.
    pub fn grants(&self) -> impl Iterator<Item = &'a Grant> {
        self.key_path.iter().chain(&self.certificate_path).copied()
    }

    fn intersect<'s, T: 'a>(
        &'s self,
        of_grant: impl Fn(&'a Grant) -> Option<&'a T>,
        of_key: impl Fn(&'a Narrowing) -> Option<&'a T>,
        admits: impl Fn(&T) -> bool,
    ) -> Result<(), DecidedBy> {
        let mut named = false;
        for grant in self.grants() {
            if let Some(list) = of_grant(grant) {
                named = true;
                if !admits(list) {
                    return Err(DecidedBy::Grant(grant.owner.clone()));
                }
            }
        }
        if let Some(key) = &self.credentials.key
            && let Some(list) = of_key(&key.narrowing)
        {
            named = true;
            if !admits(list) {
                return Err(DecidedBy::Key(key.id));
            }
        }
        if named { Ok(()) } else { Err(DecidedBy::Nobody) }
    }
}

/// Who said no.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DecidedBy {
    /// The grant on this node.
    Grant(OwnerPath),
    /// The key's own narrowing.
    Key(KeyId),
    /// No grant on the path names the thing: absent means none.
    Nobody,
}

impl fmt::Display for DecidedBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Grant(owner) => write!(f, "grant {owner}"),
            Self::Key(id) => write!(f, "key {id}"),
            Self::Nobody => f.write_str("no grant on the path names any"),
        }
    }
}

#[cfg(test)]
#[path = "grant_credential_tests.rs"]
mod credential_tests;
#[cfg(test)]
#[path = "grant_tests.rs"]
mod tests;

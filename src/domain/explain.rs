//! The checks as a list: for live requests, which are decided again, and for an operator who asks
//! why something is refused.
//!
//! Invariant: nothing is decided in here. Each check is [`Standing`]'s, in the published order;
//! what an explanation adds is who has a say in it.

use std::net::IpAddr;

use crate::domain::endpoint::{Endpoint, Endpoints};
use crate::domain::grant::{DecidedBy, Grant, Models, Standing};
use crate::domain::key::Narrowing;
use crate::domain::network::Networks;
use crate::domain::origin::Origins;
use crate::domain::refusal::Refusal;
use crate::domain::timestamp::Timestamp;

/// What a caller wants to do, as far as checks 3 to 8 need to know it.
#[derive(Clone, Copy, Debug)]
pub struct Question<'q> {
    /// Where the caller comes from.
    pub address: IpAddr,
    /// The web page that calls with nothing but a certificate, if one does.
    pub lent_to: Option<&'q str>,
    /// What it calls.
    pub endpoint: Endpoint,
    /// The alias that it names; `None` where an endpoint takes none.
    pub model: Option<&'q str>,
    /// True when the gateway has a model of that name.
    pub model_exists: bool,
}

/// A check that a caller's standing decides.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Check {
    /// 3: nothing that the caller stands on is revoked, switched off, over, or to come.
    Status,
    /// 3, for requests that have not claimed a use yet: the key is not spent.
    Uses,
    /// 4: the required credentials are there, and a bound key comes with its identity.
    Credentials,
    /// Beside 4: the page that a certificate is lent to.
    Origin,
    /// 5: the caller's address.
    Network,
    /// 6: the endpoint.
    Endpoint,
    /// 8: the model.
    Model,
}

impl Check {
    /// The checks of a new request, in the published order.
    pub const NEW: [Self; 7] =
        [Self::Status, Self::Uses, Self::Credentials, Self::Origin, Self::Network, Self::Endpoint, Self::Model];
    /// The checks of a request in flight: what it has claimed is its own.
    pub const LIVE: [Self; 6] =
        [Self::Status, Self::Credentials, Self::Origin, Self::Network, Self::Endpoint, Self::Model];

    /// Its number in the published order.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Status | Self::Uses => 3,
            Self::Credentials | Self::Origin => 4,
            Self::Network => 5,
            Self::Endpoint => 6,
            Self::Model => 8,
        }
    }

    /// Its name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Uses => "uses",
            Self::Credentials => "credentials",
            Self::Origin => "origin",
            Self::Network => "network",
            Self::Endpoint => "endpoint",
            Self::Model => "model",
        }
    }

    /// Makes the check.
    ///
    /// # Errors
    ///
    /// The refusal of a caller who does not pass.
    pub fn decide(self, standing: &Standing<'_>, question: &Question<'_>, now: Timestamp) -> Result<(), Refusal> {
        match (self, question.model) {
            (Self::Status, _) => standing.check_status(now),
            (Self::Uses, _) => standing.check_uses(),
            (Self::Credentials, _) => standing.check_required(),
            (Self::Origin, _) => question.lent_to.map_or(Ok(()), |origin| standing.check_origin(origin)),
            (Self::Network, _) => standing.check_network(question.address),
            (Self::Endpoint, _) => standing.check_endpoint(question.endpoint),
            (Self::Model, None) => Ok(()),
            (Self::Model, Some(model)) => {
                standing.check_model(model)?;
                if question.model_exists { Ok(()) } else { Err(Refusal::ModelNotFound { by: None }) }
            }
        }
    }

    /// Everybody who has a say in it, in the order in which they are asked.
    #[must_use]
    pub fn voices(self, standing: &Standing<'_>, question: &Question<'_>) -> Vec<Voice> {
        let says = |setting, by, words: Vec<String>| Voice { by, setting, words, admits: true };
        let grants = || standing.grants().map(|grant| (DecidedBy::Grant(grant.owner.clone()), grant));
        match self {
            Self::Status => {
                let expiry =
                    |(by, grant): (_, &Grant)| Some(says("expires_at", by, vec![grant.expires_at?.to_string()]));
                let key = standing.key().and_then(|key| {
                    Some(says("expires_at", DecidedBy::Key(key.id), vec![key.expires_at?.to_string()]))
                });
                grants().filter_map(expiry).chain(key).collect()
            }
            Self::Uses => {
                let left = standing.key().and_then(|key| Some((key.id, key.uses?.left)));
                left.map(|(id, left)| says("uses_left", DecidedBy::Key(id), vec![left.to_string()]))
                    .into_iter()
                    .collect()
            }
            Self::Credentials => {
                let require =
                    |(by, grant): (_, &Grant)| Some(says("require", by, vec![grant.require?.as_str().to_owned()]));
                let bound = standing
                    .key()
                    .and_then(|key| Some(says("bound_to", DecidedBy::Key(key.id), vec![key.bound_to()?.to_string()])));
                grants().filter_map(require).chain(bound).collect()
            }
            Self::Origin => match question.lent_to {
                None => Vec::new(),
                Some(origin) => lists(
                    standing,
                    "cors_origins",
                    (|grant| grant.cors_origins.as_ref(), |_| None),
                    |origins: &Origins| (origins.entries(), origins.admit(origin)),
                ),
            },
            Self::Network => lists(
                standing,
                "networks",
                (|grant| grant.networks.as_ref(), |key| key.networks.as_ref()),
                |networks: &Networks| (networks.entries(), networks.admit(question.address)),
            ),
            Self::Endpoint => lists(
                standing,
                "endpoints",
                (|grant| grant.endpoints.as_ref(), |key| key.endpoints.as_ref()),
                |endpoints: &Endpoints| (endpoints.entries(), endpoints.contain(question.endpoint)),
            ),
            Self::Model => lists(
                standing,
                "models",
                (|grant| grant.models.as_ref(), |key| key.models.as_ref()),
                |models: &Models| (models.entries(), question.model.is_none_or(|model| models.admit(model))),
            ),
        }
    }
}

/// Where a list is in a grant, and in a key.
type Lists<'a, T> = (fn(&'a Grant) -> Option<&'a T>, fn(&'a Narrowing) -> Option<&'a T>);

fn lists<'a, T: 'a>(
    standing: &Standing<'a>,
    setting: &'static str,
    (of_grant, of_key): Lists<'a, T>,
    read: impl Fn(&T) -> (Vec<String>, bool),
) -> Vec<Voice> {
    let voice = |by, list: &T| {
        let (words, admits) = read(list);
        Voice { by, setting, words, admits }
    };
    let grants =
        standing.grants().filter_map(|grant| Some(voice(DecidedBy::Grant(grant.owner.clone()), of_grant(grant)?)));
    let key = standing.key().and_then(|key| Some(voice(DecidedBy::Key(key.id), of_key(&key.narrowing)?)));
    grants.chain(key).collect()
}

/// Somebody's say in a check.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Voice {
    /// Whose.
    pub by: DecidedBy,
    /// The setting.
    pub setting: &'static str,
    /// What it says.
    pub words: Vec<String>,
    /// False when this alone refuses the caller.
    pub admits: bool,
}

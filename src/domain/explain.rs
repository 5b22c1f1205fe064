//! The checks as a list: for live requests, which are decided again, and for an operator who asks
//! why something is refused.
//!
//! Invariant: nothing is decided in here. Each check is [`Standing`]'s, in the published order;
//! what an explanation adds is who has a say in it.

use std::net::IpAddr;

use crate::domain::endpoint::{Endpoint, Endpoints};
use crate::domain::grant::{DecidedBy, Grant, Models, Standing};
use crate::domain::key::{KeyRecord, Narrowing};
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
    pub fn voices<'a>(self, standing: &Standing<'a>, question: &Question<'_>) -> Vec<Voice<'a>> {
        match self {
            Self::Status => {
                let ends = |at: Option<Timestamp>| at.map(|at| vec![at.to_string()]);
                let of_key = standing.key().map(|key| {
                    let begins = key.not_before.map(|at| by_key(key, "not_before", vec![at.to_string()]));
                    let ends = ends(key.expires_at).map(|words| by_key(key, "expires_at", words));
                    [begins, ends]
                });
                said(standing, "expires_at", |grant| ends(grant.expires_at))
                    .chain(of_key.into_iter().flatten().flatten())
                    .collect()
            }
            Self::Uses => {
                let left = standing.key().and_then(|key| Some((key, key.uses?.left)));
                left.map(|(key, left)| by_key(key, "uses_left", vec![left.to_string()])).into_iter().collect()
            }
            Self::Credentials => {
                let bound =
                    standing.key().and_then(|key| Some(by_key(key, "bound_to", vec![key.bound_to()?.to_string()])));
                said(standing, "require", |grant| Some(vec![grant.require?.as_str().to_owned()])).chain(bound).collect()
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
) -> Vec<Voice<'a>> {
    let grants = standing.grants().filter_map(|grant| {
        let (words, admits) = read(of_grant(grant)?);
        Some(Voice { admits, ..by_grant(grant, setting, words) })
    });
    let key = standing.key().and_then(|key| {
        let (words, admits) = read(of_key(&key.narrowing)?);
        Some(Voice { admits, ..by_key(key, setting, words) })
    });
    grants.chain(key).collect()
}

/// What each grant says of a setting that is no list.
fn said<'a>(
    standing: &Standing<'a>,
    setting: &'static str,
    read: impl Fn(&Grant) -> Option<Vec<String>>,
) -> impl Iterator<Item = Voice<'a>> {
    standing.grants().filter_map(move |grant| Some(by_grant(grant, setting, read(grant)?)))
}

fn by_grant<'a>(grant: &'a Grant, setting: &'static str, words: Vec<String>) -> Voice<'a> {
    Voice { by: DecidedBy::Grant(grant.owner.clone()), grant: Some(grant), setting, words, admits: true }
}

fn by_key<'a>(key: &KeyRecord, setting: &'static str, words: Vec<String>) -> Voice<'a> {
    Voice { by: DecidedBy::Key(key.id), grant: None, setting, words, admits: true }
}

/// Somebody's say in a check.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Voice<'a> {
    /// Whose.
    pub by: DecidedBy,
    /// The grant, when it is one's.
    pub grant: Option<&'a Grant>,
    /// The setting.
    pub setting: &'static str,
    /// What it says.
    pub words: Vec<String>,
    /// False when this alone refuses the caller.
    pub admits: bool,
}

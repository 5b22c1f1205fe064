//! Why the gateway answers a request itself, and with which status and code: the only such table.
//!
//! Invariant: `Display` is for our log and the record's `detail`; the caller sees
//! [`Refusal::message`] and [`Refusal::code`], which say only what it may know. Neither ever holds
//! a secret, a prompt, a backend's address or a dial error.

mod code;
mod fault;

use std::net::IpAddr;
use std::time::Duration;

use http::StatusCode;

pub use code::Code;
pub use fault::CredentialFault;

use crate::domain::endpoint::Endpoint;
use crate::domain::grant::DecidedBy;
use crate::domain::key::{Binding, KeyId};
use crate::domain::owner::OwnerPath;
use crate::domain::token::TokenFault;
use crate::domain::webhook::WebhookName;

/// Why a request was refused.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    /// No credential that proves anything. All faults look the same from outside.
    #[error("{0}")]
    InvalidCredentials(CredentialFault),
    /// The same, from an address that has presented too many secrets that nothing knows.
    #[error("too many failures from this address: {fault}")]
    TooManyFailures {
        /// What was wrong.
        fault: CredentialFault,
        /// How long until the next failure is answered plainly.
        wait: Duration,
    },
    /// A grant asks for a key.
    #[error("grant {by} requires a key")]
    KeyRequired {
        /// The node of the grant.
        by: OwnerPath,
    },
    /// A grant asks for a certificate whose owner is at or below it.
    #[error("grant {by} requires a certificate of an owner at or below it")]
    CertificateRequired {
        /// The node of the grant.
        by: OwnerPath,
    },
    /// The key is bound to an identity that this connection did not prove.
    #[error("key {key} is bound to {to}")]
    KeyBoundElsewhere {
        /// The key.
        key: KeyId,
        /// What it is bound to.
        to: Binding,
    },
    /// The caller stands on no path, or on one that no grant opens.
    #[error("{}", no_grant(.owner.as_ref()))]
    NoGrant {
        /// The path; `None` when no `[[identity]]` places the certificate.
        owner: Option<OwnerPath>,
    },
    /// The caller's address is not allowed.
    #[error("address {address}: {by}")]
    NetworkNotAllowed {
        /// Where the caller came from.
        address: IpAddr,
        /// Who said no.
        by: DecidedBy,
    },
    /// The endpoint is not allowed.
    #[error("endpoint {endpoint}: {by}")]
    EndpointNotAllowed {
        /// What was asked for.
        endpoint: Endpoint,
        /// Who said no.
        by: DecidedBy,
    },
    /// A page of a foreign origin tried to use an installed certificate, or asked whether it may call.
    #[error("origin of a page: {by}")]
    OriginNotAllowed {
        /// Who said no.
        by: DecidedBy,
    },
    /// The Host or authority is missing, repeated or malformed.
    #[error("{0}")]
    InvalidHost(&'static str),
    /// The Host names something that this connection is not for.
    #[error("the Host is not a name of this role")]
    Misdirected,
    /// A credential in the query string, where logs and histories keep it.
    #[error("a credential in the query string")]
    CredentialInQuery,
    /// The path or query is not one that any endpoint could have.
    #[error("{0}")]
    InvalidPath(&'static str),
    /// No endpoint has this path.
    #[error("{0}")]
    NotFound(&'static str),
    /// The endpoint has another method.
    #[error("allowed: {allow}")]
    MethodNotAllowed {
        /// For the `Allow` header.
        allow: &'static str,
    },
    /// The body is longer than allowed.
    #[error("body over {limit} bytes")]
    BodyTooLarge {
        /// The limit in bytes.
        limit: u64,
    },
    /// The body's type or coding is not one that the endpoint reads.
    #[error("{0}")]
    UnsupportedMediaType(&'static str),
    /// The body is not what the endpoint reads.
    #[error("{0}")]
    InvalidBody(String),
    /// No such model for this caller: unknown and forbidden alike.
    #[error("{}", model_not_found(.by.as_ref()))]
    ModelNotFound {
        /// Who said no; `None` when no alias has the name.
        by: Option<DecidedBy>,
    },
    /// A webhook said no. It has the last word, and words of its own for the caller.
    #[error("webhook {name} denied{}", because(.reason.as_deref()))]
    DeniedByWebhook {
        /// Which one.
        name: WebhookName,
        /// Its choice of 401, 402, 403, 404 and 429.
        status: u16,
        /// What the caller is told.
        message: Box<str>,
        /// What the log is told.
        reason: Option<Box<str>>,
        /// When it wants the caller to try again.
        retry_after: Option<Duration>,
    },
    /// A webhook has no answer that counts, and nothing says that requests pass then.
    #[error("webhook {name}: {why}")]
    AuthorizationUnavailable {
        /// Which one.
        name: WebhookName,
        /// What went wrong.
        why: String,
    },
    /// The record could not be kept, so the request may not pass.
    #[error("the record queue is full")]
    RecordUnavailable,
    /// What is in force is not known, or a use could not be claimed durably.
    #[error("{0}")]
    StoreUnavailable(&'static str),
    /// No target could be reached.
    #[error("{0}")]
    NoBackend(String),
    /// A bound of the gateway as a whole is reached.
    #[error("{0}")]
    Overloaded(&'static str),
    /// The backend answered with something that cannot be passed on, or broke off.
    #[error("{0}")]
    BackendBroke(String),
    /// The backend did not answer in time.
    #[error("{0}")]
    BackendTimeout(&'static str),
    /// HTTP/1.0, where a truncated answer looks complete.
    #[error("HTTP/1.0")]
    HttpVersionNotSupported,
}

impl From<TokenFault> for Refusal {
    fn from(fault: TokenFault) -> Self {
        Self::InvalidCredentials(CredentialFault::Token(fault))
    }
}

impl Refusal {
    /// The code that callers and records see.
    #[must_use]
    pub const fn code(&self) -> Code {
        match self {
            Self::InvalidCredentials(_) => Code::InvalidCredentials,
            Self::TooManyFailures { .. } => Code::TooManyFailures,
            Self::KeyRequired { .. } => Code::KeyRequired,
            Self::CertificateRequired { .. } => Code::CertificateRequired,
            Self::KeyBoundElsewhere { .. } => Code::KeyBoundElsewhere,
            Self::NoGrant { .. } => Code::NoGrant,
            Self::NetworkNotAllowed { .. } => Code::NetworkNotAllowed,
            Self::EndpointNotAllowed { .. } => Code::EndpointNotAllowed,
            Self::OriginNotAllowed { .. } => Code::OriginNotAllowed,
            Self::InvalidHost(_) => Code::InvalidHost,
            Self::Misdirected => Code::Misdirected,
            Self::CredentialInQuery => Code::CredentialInQuery,
            Self::InvalidPath(_) => Code::InvalidPath,
            Self::NotFound(_) => Code::NotFound,
            Self::MethodNotAllowed { .. } => Code::MethodNotAllowed,
            Self::BodyTooLarge { .. } => Code::BodyTooLarge,
            Self::UnsupportedMediaType(_) => Code::UnsupportedMediaType,
            Self::InvalidBody(_) => Code::InvalidBody,
            Self::ModelNotFound { .. } => Code::ModelNotFound,
            Self::DeniedByWebhook { .. } => Code::DeniedByWebhook,
            Self::AuthorizationUnavailable { .. } => Code::AuthorizationUnavailable,
            Self::RecordUnavailable => Code::RecordUnavailable,
            Self::StoreUnavailable(_) => Code::StoreUnavailable,
            Self::NoBackend(_) => Code::NoBackend,
            Self::Overloaded(_) => Code::Overloaded,
            Self::BackendBroke(_) => Code::BackendBroke,
            Self::BackendTimeout(_) => Code::BackendTimeout,
            Self::HttpVersionNotSupported => Code::HttpVersionNotSupported,
        }
    }

    /// The HTTP status: that of the code, but for a webhook that chose another.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        let chosen =
            if let Self::DeniedByWebhook { status, .. } = self { StatusCode::from_u16(*status).ok() } else { None };
        chosen.unwrap_or(self.code().status())
    }

    /// What the caller is told: what was wrong and what to do, and nothing that it may not know.
    #[must_use]
    pub fn message(&self) -> String {
        match self {
            Self::InvalidCredentials(_) => {
                "The credentials are missing or not valid. Send a client certificate, or a key as Authorization: Bearer or x-api-key.".to_owned()
            }
            Self::TooManyFailures { .. } => {
                "Too many requests with keys that are not valid came from this address. Check the key, and wait.".to_owned()
            }
            Self::KeyRequired { .. } => "A key is required here, as Authorization: Bearer or x-api-key.".to_owned(),
            Self::CertificateRequired { .. } => "A client certificate is required here.".to_owned(),
            Self::KeyBoundElsewhere { .. } => "This key works only with the client certificate that it is bound to.".to_owned(),
            Self::NoGrant { .. } => "Nothing is granted to this caller.".to_owned(),
            Self::NetworkNotAllowed { address, .. } => format!("Requests from {address} are not allowed for this caller."),
            Self::EndpointNotAllowed { endpoint, .. } => format!("{endpoint} is not allowed for this caller."),
            Self::OriginNotAllowed { .. } => "Requests from this origin are not allowed.".to_owned(),
            Self::InvalidHost(why) | Self::InvalidPath(why) | Self::NotFound(why) | Self::UnsupportedMediaType(why) | Self::Overloaded(why) => {
                (*why).to_owned()
            }
            Self::Misdirected => "This connection is not for that host name.".to_owned(),
            Self::CredentialInQuery => {
                "Credentials do not belong into the URL, where logs keep them. Send the key as Authorization: Bearer or x-api-key, and replace this one.".to_owned()
            }
            Self::MethodNotAllowed { allow } => format!("This path takes {allow} only."),
            Self::BodyTooLarge { limit } => format!("The body is larger than {limit} bytes."),
            Self::InvalidBody(why) => why.clone(),
            Self::ModelNotFound { .. } => "The model does not exist or is not available to this caller.".to_owned(),
            Self::DeniedByWebhook { message, .. } => message.to_string(),
            Self::AuthorizationUnavailable { .. } => {
                "Whether this is allowed cannot be decided at the moment. Try again.".to_owned()
            }
            Self::RecordUnavailable => "The request could not be recorded and was not passed on. Try again.".to_owned(),
            Self::StoreUnavailable(_) => "What is allowed cannot be decided at the moment. Try again.".to_owned(),
            Self::NoBackend(_) => "No backend for this model can be reached at the moment. Try again.".to_owned(),
            Self::BackendBroke(_) => "The backend failed to answer.".to_owned(),
            Self::BackendTimeout(_) => "The backend did not answer in time.".to_owned(),
            Self::HttpVersionNotSupported => "HTTP/1.0 is not supported: a truncated answer could not be told from a whole one.".to_owned(),
        }
    }

    /// Whether and when trying again can help.
    #[must_use]
    pub const fn retry(&self) -> Retry {
        if let Self::TooManyFailures { wait, .. } = self {
            return Retry::After(*wait);
        }
        if let Self::DeniedByWebhook { retry_after: Some(wait), .. } = self {
            return Retry::After(*wait);
        }
        match self.code() {
            Code::RecordUnavailable | Code::StoreUnavailable | Code::Overloaded | Code::TooManyFailures => {
                Retry::After(Duration::from_secs(1))
            }
            Code::AuthorizationUnavailable => Retry::After(Duration::from_secs(5)),
            Code::NoBackend => Retry::After(Duration::from_secs(2)),
            Code::HttpVersionNotSupported => Retry::Never,
            Code::InvalidCredentials
            | Code::KeyRequired
            | Code::CertificateRequired
            | Code::KeyBoundElsewhere
            | Code::NoGrant
            | Code::NetworkNotAllowed
            | Code::EndpointNotAllowed
            | Code::OriginNotAllowed
            | Code::InvalidHost
            | Code::Misdirected
            | Code::CredentialInQuery
            | Code::InvalidPath
            | Code::NotFound
            | Code::MethodNotAllowed
            | Code::BodyTooLarge
            | Code::UnsupportedMediaType
            | Code::InvalidBody
            | Code::ModelNotFound
            | Code::DeniedByWebhook
            | Code::BackendBroke
            | Code::BackendTimeout => Retry::AsTheClientLikes,
        }
    }
}

/// Advice to the client's retry logic.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Retry {
    /// Say nothing: SDKs know what the status means.
    AsTheClientLikes,
    /// `Retry-After` and `retry-after-ms`.
    After(Duration),
    /// `x-should-retry: false`, where SDKs would otherwise try again in vain.
    Never,
}

fn no_grant(owner: Option<&OwnerPath>) -> String {
    owner.map_or_else(
        || "no [[identity]] places the certificate".to_owned(),
        |owner| format!("no grant on the path of {owner} names require"),
    )
}

fn because(reason: Option<&str>) -> String {
    reason.map_or_else(String::new, |reason| format!(": {reason}"))
}

fn model_not_found(by: Option<&DecidedBy>) -> String {
    by.map_or_else(|| "no such model".to_owned(), |by| format!("model: {by}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_distinct_and_listed_once() {
        for (index, code) in Code::ALL.iter().enumerate() {
            assert_eq!(*code as usize, index);
            assert_eq!(Code::ALL.iter().filter(|c| c.as_str() == code.as_str()).count(), 1);
        }
    }

    #[test]
    fn all_credential_faults_look_alike_to_the_caller() {
        let id = KeyId::parse("0123456789ab").unwrap();
        let message = Refusal::InvalidCredentials(CredentialFault::Nothing).message();
        for fault in [
            CredentialFault::UnknownKey(id),
            CredentialFault::KeyRevoked(id),
            CredentialFault::KeyNotYetValid(id),
            CredentialFault::KeyDisabled(id),
            CredentialFault::KeySpent(id),
            CredentialFault::OwnerDisabled(OwnerPath::parse("acme").unwrap()),
            CredentialFault::CertificateRevoked,
        ] {
            assert_eq!(Refusal::InvalidCredentials(fault).message(), message);
        }
    }
}

//! What was wrong with the credentials.

use crate::domain::key::KeyId;
use crate::domain::owner::OwnerPath;
use crate::domain::token::TokenFault;

/// What was wrong with the credentials. For the log only.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CredentialFault {
    /// Neither certificate nor key.
    #[error("no credential presented")]
    Nothing,
    /// Not the form of a key, or broken check characters.
    #[error("not the form of a key")]
    Malformed,
    /// Two headers carry different credentials.
    #[error("different credentials in two headers")]
    Conflicting,
    /// No key has this id.
    #[error("unknown key {0}")]
    UnknownKey(KeyId),
    /// The id exists, the secret is another.
    #[error("wrong secret for key {0}")]
    WrongSecret(KeyId),
    /// The key was revoked.
    #[error("key {0} is revoked")]
    KeyRevoked(KeyId),
    /// The key is over.
    #[error("key {0} is expired")]
    KeyExpired(KeyId),
    /// The key's time has not come.
    #[error("key {0} is not valid yet")]
    KeyNotYetValid(KeyId),
    /// The key is switched off.
    #[error("key {0} is disabled")]
    KeyDisabled(KeyId),
    /// The key was used as often as it may be.
    #[error("key {0} is spent")]
    KeySpent(KeyId),
    /// A node of an owner path is switched off.
    #[error("owner {0} is disabled")]
    OwnerDisabled(OwnerPath),
    /// The certificate was revoked.
    #[error("the certificate is revoked")]
    CertificateRevoked,
    /// The certificate is over, on a connection that outlived it.
    #[error("the certificate is expired")]
    CertificateExpired,
    /// The certificate is no caller's.
    #[error("the certificate's role is {0}, not client")]
    WrongRole(&'static str),
    /// The certificate's authority is not trusted any more.
    #[error("the certificate's authority is not trusted any more")]
    Untrusted,
    /// A grant on the path is over.
    #[error("grant {0} is expired")]
    GrantExpired(OwnerPath),
    /// The placeholder for "my certificate is my credential", without a certificate.
    #[error("the placeholder credential without a certificate")]
    PlaceholderWithoutCertificate,
    /// Something about a token of an issuer.
    #[error("{0}")]
    Token(TokenFault),
}

impl CredentialFault {
    /// True when a secret was presented that nothing proves: guesses are among these, and only
    /// these feed the limiter of failures. A secret that was right once and does not count any more
    /// is no guess, and nothing presented guesses nothing.
    #[must_use]
    pub const fn is_unproven_secret(&self) -> bool {
        match self {
            Self::Malformed | Self::UnknownKey(_) | Self::WrongSecret(_) => true,
            Self::Token(fault) => fault.is_unproven(),
            // Of two different ones none is tried, so nothing can be learnt by sending them.
            Self::Conflicting
            | Self::Nothing
            | Self::KeyRevoked(_)
            | Self::KeyExpired(_)
            | Self::KeyNotYetValid(_)
            | Self::KeyDisabled(_)
            | Self::KeySpent(_)
            | Self::OwnerDisabled(_)
            | Self::CertificateRevoked
            | Self::CertificateExpired
            | Self::WrongRole(_)
            | Self::Untrusted
            | Self::GrantExpired(_)
            | Self::PlaceholderWithoutCertificate => false,
        }
    }
}

//! Tokens of an issuer (JWT, RFC 7519), as far as decisions need to know them.
//!
//! Invariant: whoever holds a [`Vouched`] has asked its issuer's keys of now. A fault tells the log
//! what was wrong, and holds nothing of a stranger's making.

use std::sync::Arc;

use crate::domain::owner::OwnerPath;
use crate::domain::timestamp::Timestamp;

/// A signature algorithm that an issuer may be allowed (RFC 7518, RFC 8037). Each has a public and
/// a private key: with a shared secret, whoever can verify could also sign.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Algorithm {
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// ECDSA on P-384 with SHA-384.
    Es384,
    /// RSA, PKCS #1 v1.5 with SHA-256.
    Rs256,
    /// RSA, PKCS #1 v1.5 with SHA-384.
    Rs384,
    /// RSA, PKCS #1 v1.5 with SHA-512.
    Rs512,
    /// RSA, PSS with SHA-256.
    Ps256,
    /// RSA, PSS with SHA-384.
    Ps384,
    /// RSA, PSS with SHA-512.
    Ps512,
    /// EdDSA on Ed25519.
    EdDsa,
}

impl Algorithm {
    /// Every algorithm that can be allowed.
    pub const ALL: [Self; 9] = [
        Self::Es256,
        Self::Es384,
        Self::Rs256,
        Self::Rs384,
        Self::Rs512,
        Self::Ps256,
        Self::Ps384,
        Self::Ps512,
        Self::EdDsa,
    ];

    /// The name in `alg`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::Rs256 => "RS256",
            Self::Rs384 => "RS384",
            Self::Rs512 => "RS512",
            Self::Ps256 => "PS256",
            Self::Ps384 => "PS384",
            Self::Ps512 => "PS512",
            Self::EdDsa => "EdDSA",
        }
    }

    /// The algorithm of this name, in its exact spelling.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.as_str() == name)
    }

    /// Reads a name as it stands in config.
    ///
    /// # Errors
    ///
    /// Why the algorithm cannot be allowed.
    pub fn parse(name: &str) -> Result<Self, String> {
        if let Some(algorithm) = Self::named(name) {
            return Ok(algorithm);
        }
        if name.eq_ignore_ascii_case("none") {
            return Err(format!("{name:?} is no signature: anybody could make such a token"));
        }
        if name.get(..2).is_some_and(|start| start.eq_ignore_ascii_case("HS")) {
            return Err(format!(
                "{name:?} is signed with a shared secret: whoever can verify it can make it; let the issuer sign with a private key"
            ));
        }
        let known = Self::ALL.map(Self::as_str).join(", ");
        Err(format!("{name:?} is not an algorithm that can be allowed (known: {known})"))
    }
}

/// What a token proved.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Token {
    /// Name of the `[[issuer]]` that vouches for it.
    pub issuer: Arc<str>,
    /// Its `sub`, if it has one. Of the issuer's making: for logs and headers only where it fits.
    pub subject: Option<Box<str>>,
    /// Where its caller sits.
    pub owner: OwnerPath,
    /// Its `exp`, with the leeway that the issuer's clock is given.
    pub expires_at: Timestamp,
}

impl Token {
    /// `<issuer>/<subject>` where every character is visible ASCII: for headers.
    #[must_use]
    pub fn visible_subject(&self) -> Option<String> {
        let subject = self.subject.as_deref().filter(|text| text.bytes().all(|b| b.is_ascii_graphic()))?;
        Some(format!("{}/{subject}", self.issuer))
    }
}

/// A token as it stands now: its signature was proven once, its issuer still has the key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Vouched {
    /// What it proved.
    pub token: Arc<Token>,
    /// Until when the issuer's keys may be relied on without hearing from it.
    pub keys_until: Timestamp,
}

impl Vouched {
    /// The moment from which [`Self::check`] refuses, if nothing changes.
    #[must_use]
    pub fn ends_at(&self) -> Timestamp {
        self.token.expires_at.min(self.keys_until)
    }

    /// The token is not over, and its issuer was heard from.
    ///
    /// # Errors
    ///
    /// Which of them it is.
    pub fn check(&self, now: Timestamp) -> Result<(), TokenFault> {
        if now >= self.token.expires_at {
            return Err(TokenFault::Expired(Arc::clone(&self.token.issuer)));
        }
        if now >= self.keys_until {
            return Err(TokenFault::StaleKeys(Arc::clone(&self.token.issuer)));
        }
        Ok(())
    }
}

/// What was wrong with a token. For the log only: nothing in here is of the caller's making.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TokenFault {
    /// In another header than `Authorization: Bearer`.
    #[error("a token is presented as Authorization: Bearer only")]
    WrongHeader,
    /// Longer than any token that is read.
    #[error("the token is too long")]
    TooLong,
    /// Not three parts of strict base64url.
    #[error("not the form of a token: three parts of base64url without padding")]
    Malformed,
    /// A part is not one JSON object that every reader would read alike.
    #[error("the token's {0} is not strict JSON")]
    NotJson(&'static str),
    /// A field of the header or a registered claim has another type than it must have.
    #[error("the token's {0} is absent or of a wrong type")]
    Field(&'static str),
    /// A field of the header that asks for what is never done.
    #[error("the token's header has {0}")]
    ForbiddenHeader(&'static str),
    /// `typ` says that it is something else than an access or identity token.
    #[error("the token's typ is not that of a JWT")]
    WrongType,
    /// `cnf`: it is good only with a proof that its holder has a certain key (RFC 7800), and taking
    /// it without one would undo that.
    #[error("the token is bound to a key (cnf), and such tokens are not available in this version")]
    Bound,
    /// `alg` is no algorithm that could be allowed.
    #[error("the token's algorithm is none that can be allowed")]
    UnknownAlgorithm,
    /// `alg` is not on the issuer's list.
    #[error("issuer {0}: {algorithm} is not in its algorithms", algorithm = .1.as_str())]
    AlgorithmNotAllowed(Arc<str>, Algorithm),
    /// No `[[issuer]]` has its `iss`.
    #[error("no [[issuer]] has the token's iss")]
    UnknownIssuer,
    /// It is for somebody else.
    #[error("the token's aud is not an audience that its issuer is configured with")]
    WrongAudience,
    /// It is for two `[[issuer]]` entries at once.
    #[error("the token's aud fits more than one [[issuer]]")]
    AmbiguousIssuer,
    /// The issuer's keys were never fetched.
    #[error("issuer {0}: its keys have not been fetched yet")]
    NoKeys(Arc<str>),
    /// The issuer was not heard from for too long.
    #[error("issuer {0}: its keys were fetched too long ago")]
    StaleKeys(Arc<str>),
    /// The issuer has no such key, or not for this algorithm.
    #[error("issuer {0}: it has no key with the token's kid and algorithm")]
    UnknownKey(Arc<str>),
    /// More keys fit than are tried.
    #[error("issuer {0}: too many of its keys fit the token; it needs a kid")]
    AmbiguousKey(Arc<str>),
    /// Nobody signed this.
    #[error("issuer {0}: wrong signature")]
    WrongSignature(Arc<str>),
    /// It is over.
    #[error("issuer {0}: the token is expired")]
    Expired(Arc<str>),
    /// Its `nbf` is to come.
    #[error("issuer {0}: the token is not valid yet")]
    NotYetValid(Arc<str>),
    /// Its `iat` is to come.
    #[error("issuer {0}: the token was issued in the future")]
    IssuedInFuture(Arc<str>),
    /// The owner template names a claim that it does not have.
    #[error("the token has no claim {0:?}, which its issuer's owner names")]
    ClaimAbsent(Box<str>),
    /// The owner template names a claim that is an array, a number or an object.
    #[error("the token's claim {0:?} is not text")]
    ClaimNotText(Box<str>),
    /// The owner template names a claim whose text is no owner segment.
    #[error("the token's claim {0:?} is not an owner segment")]
    ClaimNoSegment(Box<str>),
    /// All segments fit and the path does not.
    #[error("the token's owner is not an owner path")]
    OwnerTooLong,
}

impl TokenFault {
    /// The issuer whose keys, fetched anew, could cure the fault.
    #[must_use]
    pub const fn cured_by_keys_of(&self) -> Option<&Arc<str>> {
        match self {
            Self::NoKeys(issuer) | Self::StaleKeys(issuer) | Self::UnknownKey(issuer) => Some(issuer),
            Self::WrongHeader
            | Self::TooLong
            | Self::Malformed
            | Self::NotJson(_)
            | Self::Field(_)
            | Self::ForbiddenHeader(_)
            | Self::WrongType
            | Self::Bound
            | Self::UnknownAlgorithm
            | Self::AlgorithmNotAllowed(..)
            | Self::UnknownIssuer
            | Self::WrongAudience
            | Self::AmbiguousIssuer
            | Self::AmbiguousKey(_)
            | Self::WrongSignature(_)
            | Self::Expired(_)
            | Self::NotYetValid(_)
            | Self::IssuedInFuture(_)
            | Self::ClaimAbsent(_)
            | Self::ClaimNotText(_)
            | Self::ClaimNoSegment(_)
            | Self::OwnerTooLong => None,
        }
    }

    /// True when nobody has proven to hold a token of the issuer: what guesses look like. False for
    /// a token with a right signature that is expired, not valid yet, or placed nowhere, and for
    /// the gateway's own lack of keys.
    #[must_use]
    pub const fn is_unproven(&self) -> bool {
        match self {
            Self::WrongHeader
            | Self::TooLong
            | Self::Malformed
            | Self::NotJson(_)
            | Self::Field(_)
            | Self::ForbiddenHeader(_)
            | Self::WrongType
            | Self::Bound
            | Self::UnknownAlgorithm
            | Self::AlgorithmNotAllowed(..)
            | Self::UnknownIssuer
            | Self::WrongAudience
            | Self::AmbiguousIssuer
            | Self::UnknownKey(_)
            | Self::AmbiguousKey(_)
            | Self::WrongSignature(_) => true,
            Self::NoKeys(_)
            | Self::StaleKeys(_)
            | Self::Expired(_)
            | Self::NotYetValid(_)
            | Self::IssuedInFuture(_)
            | Self::ClaimAbsent(_)
            | Self::ClaimNotText(_)
            | Self::ClaimNoSegment(_)
            | Self::OwnerTooLong => false,
        }
    }
}

#[cfg(test)]
#[path = "token_tests.rs"]
mod tests;

//! What may be certified, decided before any key is touched. Pure: time and randomness come in.
//!
//! Invariant: a plan lies within its issuer's validity and carries exactly the names that the
//! operator gave.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use crate::domain::identity::{Identity, IdentityName, Role, TrustDomain};
use crate::domain::timestamp::Timestamp;

/// Life of a caller's, connector's or operator's certificate when nobody says otherwise.
pub const DEFAULT_TTL: Duration = Duration::from_secs(24 * 3600);
/// The shortest life: below it, clocks that differ a little make trouble.
pub const MIN_TTL: Duration = Duration::from_secs(5 * 60);
/// The longest life.
pub const MAX_TTL: Duration = Duration::from_secs(90 * 24 * 3600);
/// Life of the gateway's own certificates.
pub const SERVER_TTL: Duration = MAX_TTL;
/// Certificates begin this much earlier, for machines whose clocks are behind.
const BACKDATED: Duration = Duration::from_secs(60);

/// A serial number: 128 random bits, positive.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Serial([u8; 16]);

impl Serial {
    /// Makes a serial number of random bytes.
    #[must_use]
    pub fn from_random(bytes: [u8; 16]) -> Self {
        // Zero is not positive.
        let number = u128::from_be_bytes(bytes).max(1);
        Self(number.to_be_bytes())
    }

    /// The number, big-endian, without leading zeros: as the deny set and the records hold it.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        let zeros = self.0.iter().take_while(|byte| **byte == 0).count();
        self.0.get(zeros..).unwrap_or_default()
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_bytes().iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// From when until when a certificate is valid, in whole seconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Span {
    /// Begin.
    pub not_before: Timestamp,
    /// End.
    pub not_after: Timestamp,
}

/// Why something may not be certified.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PlanFault {
    /// Too short or too long a life.
    #[error("a certificate lives 5m to 90d, not {} s", .0.as_secs())]
    Ttl(Duration),
    /// A longer life than the issuer's own.
    #[error(
        "the issuing certificate ends at {issuer_ends}, before the new one would; choose --ttl {}s or less",
        longest.as_secs()
    )]
    OutlivesIssuer {
        /// When the issuer ends.
        issuer_ends: Timestamp,
        /// The longest life that is possible now.
        longest: Duration,
    },
    /// The issuer ends too soon to certify anything.
    #[error(
        "the issuing certificate ends at {0}: too soon to issue anything; make a new one (doorward ca rotate --issuer), \
         or check this machine's clock"
    )]
    IssuerEnds(Timestamp),
    /// The issuer is not valid yet: a clock is wrong.
    #[error("the issuing certificate begins at {0}: check this machine's clock")]
    IssuerBegins(Timestamp),
    /// A server certificate without names.
    #[error("a server certificate needs at least one name")]
    NoNames,
    /// Not a host name or IP address.
    #[error("{0:?} is not a host name in lower case (such as gw.corp.example) or an IP address")]
    ServerName(String),
}

/// A certificate for a caller, a connector or an operator.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LeafPlan {
    identity: Identity,
    name: IdentityName,
    serial: Serial,
    span: Span,
}

impl LeafPlan {
    /// Plans a certificate for `name` in `role`.
    ///
    /// Without a `ttl` it lives for [`DEFAULT_TTL`], or until its issuer ends if that is sooner.
    ///
    /// # Errors
    ///
    /// When the `ttl` is out of bounds or goes past the issuer's end: who asks for a certain life
    /// must not get a shorter one in silence.
    pub fn new(
        (domain, role, name): (&TrustDomain, Role, &IdentityName),
        ttl: Option<Duration>,
        serial: Serial,
        issuer: Span,
        now: Timestamp,
    ) -> Result<Self, PlanFault> {
        if let Some(ttl) = ttl.filter(|ttl| !(MIN_TTL..=MAX_TTL).contains(ttl)) {
            return Err(PlanFault::Ttl(ttl));
        }
        let left = life_left(issuer, now)?;
        let ttl = match ttl {
            Some(ttl) if ttl > left => {
                return Err(PlanFault::OutlivesIssuer { issuer_ends: issuer.not_after, longest: left });
            }
            Some(ttl) => ttl,
            None => DEFAULT_TTL.min(left),
        };
        let span = span(issuer, now, ttl);
        Ok(Self { identity: Identity::new(domain, role, name), name: name.clone(), serial, span })
    }

    /// Who it is for; its URI is the only subject alternative name.
    #[must_use]
    pub const fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The common name: for people, never for decisions.
    #[must_use]
    pub const fn name(&self) -> &IdentityName {
        &self.name
    }

    /// The serial number.
    #[must_use]
    pub const fn serial(&self) -> Serial {
        self.serial
    }

    /// When it is valid.
    #[must_use]
    pub const fn span(&self) -> Span {
        self.span
    }
}

/// A name in a server certificate.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum ServerName {
    /// A host name.
    Dns(String),
    /// An address.
    Ip(IpAddr),
}

impl ServerName {
    /// Reads a host name in lower case or an IP address. Wildcards are refused.
    ///
    /// # Errors
    ///
    /// When it is neither.
    pub fn parse(text: &str) -> Result<Self, PlanFault> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Ip(address));
        }
        let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let label = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(inner)
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        // A last label of digits would be read as an address by some clients.
        let last_is_number = text.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()));
        if text.len() <= 253 && text.split('.').all(label) && !last_is_number {
            Ok(Self::Dns(text.to_owned()))
        } else {
            Err(PlanFault::ServerName(text.to_owned()))
        }
    }
}

/// A certificate for the gateway's own names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServerPlan {
    names: Vec<ServerName>,
    serial: Serial,
    span: Span,
}

impl ServerPlan {
    /// Plans a certificate for `names`; it lives 90 days or until its issuer ends.
    ///
    /// # Errors
    ///
    /// When there is no name, one is not a host name or address, or the issuer is at its end.
    pub fn new<S: AsRef<str>>(names: &[S], serial: Serial, issuer: Span, now: Timestamp) -> Result<Self, PlanFault> {
        let mut distinct = Vec::with_capacity(names.len());
        for name in names {
            let name = ServerName::parse(name.as_ref())?;
            if !distinct.contains(&name) {
                distinct.push(name);
            }
        }
        if distinct.is_empty() {
            return Err(PlanFault::NoNames);
        }
        let left = life_left(issuer, now)?;
        Ok(Self { names: distinct, serial, span: span(issuer, now, SERVER_TTL.min(left)) })
    }

    /// The subject alternative names, distinct.
    #[must_use]
    pub fn names(&self) -> &[ServerName] {
        &self.names
    }

    /// The serial number.
    #[must_use]
    pub const fn serial(&self) -> Serial {
        self.serial
    }

    /// When it is valid.
    #[must_use]
    pub const fn span(&self) -> Span {
        self.span
    }
}

/// The validity of the root or of an issuer that lives for `life`.
#[must_use]
pub fn authority_span(now: Timestamp, life: Duration) -> Span {
    let second = Timestamp::from_seconds(now.as_seconds());
    Span { not_before: second.before(BACKDATED), not_after: second.after(life) }
}

fn life_left(issuer: Span, now: Timestamp) -> Result<Duration, PlanFault> {
    if now < issuer.not_before {
        return Err(PlanFault::IssuerBegins(issuer.not_before));
    }
    let second = Timestamp::from_seconds(now.as_seconds());
    let left = Timestamp::from_seconds(issuer.not_after.as_seconds()).since(second);
    if left < MIN_TTL { Err(PlanFault::IssuerEnds(issuer.not_after)) } else { Ok(left) }
}

fn span(issuer: Span, now: Timestamp, life: Duration) -> Span {
    let second = Timestamp::from_seconds(now.as_seconds());
    let end = Timestamp::from_seconds(second.after(life).as_seconds());
    Span { not_before: second.before(BACKDATED).max(issuer.not_before), not_after: end }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;

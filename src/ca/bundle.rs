//! What somebody needs to get a certificate once: `dwe1.` and JSON in base64url.
//!
//! Invariant: one bundle has one spelling, and whatever is read or written passes the same checks. A
//! bundle that was cut, changed or put together by hand is refused as a whole. Its secret exists in
//! memory only while the bundle does, and cannot be printed but by [`Bundle::reveal`].
//!
//! A bundle is not signed: who can change it can also point it elsewhere. What makes it safe is that
//! it travels on a way that the operator trusts, works once, and for minutes.
//!
//! The JSON has exactly these members, in this order and without white space:
//!
//! | member | what |
//! |---|---|
//! | `addresses` | where to connect to, `HOST:PORT`, 1 to 8, tried in order |
//! | `enroll` | the gateway's name for enrollment and renewal: sent as SNI, never resolved |
//! | `connect` | the name for connectors; left out where the gateway has none |
//! | `api` | the first name for callers |
//! | `pin` | SHA-256 of the root's certificate in DER, 64 lower-case hexadecimal digits |
//! | `id` | 16 lower-case hexadecimal digits: names the bundle in lists and records |
//! | `secret` | 32 random bytes in base64url |
//! | `role`, `name` | whom the certificate will be for: `client` or `connector`, and its name |
//! | `expires_at` | until when it works, RFC 3339 in UTC with milliseconds |

use std::fmt;

use aws_lc_rs::constant_time;
use aws_lc_rs::digest::{SHA256, digest};
use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::domain::base64url;
use crate::domain::gateway_address::{GatewayAddress, GatewayName, HostName};
use crate::domain::identity::{IdentityName, Role};
use crate::domain::timestamp::Timestamp;

/// How a bundle begins.
pub const PREFIX: &str = "dwe1.";
/// Longest bundle that is read.
pub const MAX_BYTES: usize = 8 * 1024;
/// Most addresses of one bundle.
pub const MAX_ADDRESSES: usize = 8;

/// What somebody needs to get a certificate once.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Bundle {
    /// Where to connect to, in the order in which to try.
    pub addresses: Vec<GatewayAddress>,
    /// The gateway's name for enrollment and renewal.
    pub enroll: HostName,
    /// The gateway's name for connectors.
    pub connect: Option<HostName>,
    /// The gateway's first name for callers.
    pub api: GatewayName,
    /// The root that the gateway's certificate must come from.
    pub pin: RootPin,
    /// Which bundle this is.
    pub id: BundleId,
    /// What proves that its holder was given it.
    pub secret: BundleSecret,
    /// What the certificate will be for.
    pub role: Role,
    /// Whose it will be.
    pub name: IdentityName,
    /// From then on it is refused.
    pub expires_at: Timestamp,
}

/// Why a text is no bundle. Nothing of the text is repeated: it may be a secret.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BundleFault {
    /// It does not even begin like one.
    #[error("this is not an enrollment bundle: one begins with {PREFIX}")]
    NotABundle,
    /// It begins like one of another version.
    #[error(
        "this enrollment bundle is of another version than this program reads ({PREFIX}); use the version of the gateway"
    )]
    OtherVersion,
    /// More than [`MAX_BYTES`].
    #[error("this is too long for an enrollment bundle")]
    TooLong,
    /// Cut, changed, or with white space inside.
    #[error("the enrollment bundle is damaged: copy it again, whole and in one line")]
    Damaged,
    /// A member that makes no sense.
    #[error("the enrollment bundle is wrong: {0}")]
    Wrong(&'static str),
}

/// The JSON. What is borrowed was spelled without escapes: with them it would have two spellings.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Spelled<'a> {
    #[serde(borrow)]
    addresses: Vec<&'a str>,
    enroll: &'a str,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    connect: Option<&'a str>,
    api: &'a str,
    pin: &'a str,
    id: &'a str,
    secret: &'a str,
    role: &'a str,
    name: &'a str,
    expires_at: &'a str,
}

impl Bundle {
    /// Reads a bundle.
    ///
    /// # Errors
    ///
    /// When the text is not the one spelling of a bundle that makes sense.
    pub fn parse(text: &str) -> Result<Self, BundleFault> {
        if text.len() > MAX_BYTES {
            return Err(BundleFault::TooLong);
        }
        let Some(encoded) = text.strip_prefix(PREFIX) else {
            let version = text.strip_prefix("dwe").and_then(|rest| rest.split_once('.')).map(|(version, _)| version);
            let other =
                version.is_some_and(|version| !version.is_empty() && version.bytes().all(|b| b.is_ascii_digit()));
            return Err(if other { BundleFault::OtherVersion } else { BundleFault::NotABundle });
        };
        let json = base64url::decode(encoded.as_bytes()).map(Zeroizing::new).ok_or(BundleFault::Damaged)?;
        let spelled: Spelled<'_> = serde_json::from_slice(&json).map_err(|_| BundleFault::Damaged)?;
        let bundle = Self::of(&spelled)?;
        if *bundle.reveal()? == *text { Ok(bundle) } else { Err(BundleFault::Damaged) }
    }

    /// The whole bundle, secret included: for its holder and nobody else.
    ///
    /// # Errors
    ///
    /// When it makes no sense: see [`BundleFault::Wrong`].
    pub fn reveal(&self) -> Result<Zeroizing<String>, BundleFault> {
        self.check()?;
        let addresses: Vec<String> = self.addresses.iter().map(ToString::to_string).collect();
        let [api, pin, id, expires_at] =
            [self.api.to_string(), self.pin.to_string(), self.id.to_string(), self.expires_at.to_string()];
        let secret = self.secret.reveal();
        let spelled = Spelled {
            addresses: addresses.iter().map(String::as_str).collect(),
            enroll: self.enroll.as_str(),
            connect: self.connect.as_ref().map(HostName::as_str),
            api: &api,
            pin: &pin,
            id: &id,
            secret: &secret,
            role: self.role.as_str(),
            name: self.name.as_str(),
            expires_at: &expires_at,
        };
        // In one piece: a secret must not leave copies behind as its text grows.
        let mut json = Zeroizing::new(Vec::with_capacity(MAX_BYTES));
        serde_json::to_writer(&mut *json, &spelled).map_err(|_| BundleFault::Damaged)?;
        let encoded = Zeroizing::new(base64url::encode(&json));
        let mut text = Zeroizing::new(String::with_capacity(PREFIX.len() + encoded.len()));
        text.push_str(PREFIX);
        text.push_str(&encoded);
        if text.len() > MAX_BYTES { Err(BundleFault::TooLong) } else { Ok(text) }
    }

    fn of(spelled: &Spelled<'_>) -> Result<Self, BundleFault> {
        let wrong = BundleFault::Wrong;
        let addresses: Result<Vec<_>, _> = spelled.addresses.iter().map(|text| GatewayAddress::parse(text)).collect();
        let connect = spelled.connect.map(HostName::parse).transpose();
        let bundle = Self {
            addresses: addresses.map_err(|_| wrong("an address is not HOST:PORT"))?,
            enroll: HostName::parse(spelled.enroll).map_err(|_| wrong("the name for enrollment is no host name"))?,
            connect: connect.map_err(|_| wrong("the name for connectors is no host name"))?,
            api: GatewayName::parse(spelled.api).map_err(|_| wrong("the name for callers is no host name"))?,
            pin: RootPin::parse(spelled.pin).ok_or(wrong("the pin is not a SHA-256"))?,
            id: BundleId::parse(spelled.id).ok_or(wrong("the id is not 16 hexadecimal digits"))?,
            secret: BundleSecret::parse(spelled.secret).ok_or(wrong("the secret is not 32 bytes"))?,
            role: Role::parse(spelled.role).map_err(|_| wrong("there is no such role"))?,
            name: IdentityName::parse(spelled.name).map_err(|_| wrong("the name is not one for certificates"))?,
            expires_at: Timestamp::parse(spelled.expires_at).map_err(|_| wrong("it does not say when it expires"))?,
        };
        bundle.check()?;
        Ok(bundle)
    }

    fn check(&self) -> Result<(), BundleFault> {
        if !(1..=MAX_ADDRESSES).contains(&self.addresses.len()) {
            return Err(BundleFault::Wrong("it has 1 to 8 addresses"));
        }
        match self.role {
            Role::Client => Ok(()),
            Role::Connector if self.connect.is_some() => Ok(()),
            Role::Connector => Err(BundleFault::Wrong("it is for a connector, and the gateway has no name for those")),
            Role::Operator => Err(BundleFault::Wrong("operators are not enrolled: their certificates are issued")),
        }
    }
}

/// The SHA-256 of a root's certificate in DER, as `doorward ca show` and
/// `openssl x509 -outform der | sha256sum` print it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct RootPin([u8; 32]);

impl RootPin {
    /// The pin of a root.
    #[must_use]
    pub fn of(root: &CertificateDer<'_>) -> Self {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest(&SHA256, root).as_ref());
        Self(hash)
    }

    /// Reads 64 lower-case hexadecimal digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        from_hex(text).map(Self)
    }
}

impl fmt::Display for RootPin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        to_hex(&self.0, f)
    }
}

/// The public name of a bundle: safe in logs and lists.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct BundleId([u8; 8]);

impl BundleId {
    /// Makes an id of random bytes.
    #[must_use]
    pub const fn from_random(bytes: [u8; 8]) -> Self {
        Self(bytes)
    }

    /// Reads 16 lower-case hexadecimal digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        from_hex(text).map(Self)
    }
}

impl fmt::Display for BundleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        to_hex(&self.0, f)
    }
}

/// 256 random bits that prove that their holder was given the bundle.
#[derive(Clone)]
pub struct BundleSecret(Zeroizing<[u8; 32]>);

impl BundleSecret {
    /// Makes a secret of random bytes.
    #[must_use]
    pub fn from_random(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// Reads base64url.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = Zeroizing::new(base64url::decode(text.as_bytes())?);
        let mut secret = Zeroizing::new([0; 32]);
        if bytes.len() != secret.len() {
            return None;
        }
        secret.copy_from_slice(&bytes);
        Some(Self(secret))
    }

    /// The secret in base64url: for the bundle, and for the gateway that made it.
    #[must_use]
    pub fn reveal(&self) -> Zeroizing<String> {
        Zeroizing::new(base64url::encode(&*self.0))
    }

    /// What the gateway keeps of it: SHA-256 of the 32 bytes. They are random, so a guess is hopeless
    /// and a slow hash would serve nobody.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest(&SHA256, &*self.0).as_ref());
        hash
    }

    /// True when `hash` is of this secret. How long it takes does not depend on where they differ.
    #[must_use]
    pub fn has_hash(&self, hash: &[u8; 32]) -> bool {
        constant_time::verify_slices_are_equal(&self.hash(), hash).is_ok()
    }
}

impl PartialEq for BundleSecret {
    fn eq(&self, other: &Self) -> bool {
        constant_time::verify_slices_are_equal(&*self.0, &*other.0).is_ok()
    }
}

impl Eq for BundleSecret {}

impl fmt::Debug for BundleSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BundleSecret(redacted)")
    }
}

fn from_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |letter: u8| match letter {
        b'0'..=b'9' => Some(letter - b'0'),
        b'a'..=b'f' => Some(letter - b'a' + 10),
        _ => None,
    };
    if text.len() != N * 2 {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
        let [high, low] = pair else { return None };
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(bytes)
}

fn to_hex(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

#[cfg(test)]
#[path = "bundle_tests.rs"]
mod tests;

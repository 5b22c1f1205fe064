//! What goes into the store and comes out of it, besides [`KeyRecord`].

use std::fmt;
use std::time::Duration;

use crate::domain::identity::Identity;
use crate::domain::key::{KeyDigest, KeyId, KeyRecord, Uses};
use crate::domain::owner::OwnerPath;
use crate::domain::timestamp::Timestamp;

/// A key to be imported.
#[derive(Clone, Debug)]
pub struct KeyImport {
    /// What is to be stored.
    pub record: KeyRecord,
    /// True when its secret was made just now, because the import names none: then a key that
    /// exists under the same external id may have another id and secret.
    pub minted: bool,
}

impl KeyImport {
    /// True when an import need not change the key that exists. What has happened to that key
    /// since (uses that were claimed, a revocation) is no difference.
    #[must_use]
    pub fn agrees_with(&self, existing: &KeyRecord) -> bool {
        let policy = |record: &KeyRecord| KeyRecord {
            created_at: existing.created_at,
            revoked_at: None,
            uses: record.uses.map(|uses| Uses { left: 1, ..uses }),
            ..record.clone()
        };
        let mut new = policy(&self.record);
        if self.minted {
            new.id = existing.id;
            new.digest = existing.digest.clone();
        }
        new == policy(existing)
    }
}

/// What became of an imported key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Imported {
    /// It is there from now on.
    Created(KeyId),
    /// It was there, as this key.
    Unchanged(KeyId),
    /// This key has its external id or its id and differs from it; it was left alone.
    Conflict(KeyId),
}

/// What became of a change of a key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Updated {
    /// It is in force; the key as it is now.
    Changed(KeyRecord),
    /// The key was like that before.
    Unchanged(KeyRecord),
    /// There is no such key.
    Unknown,
}

/// A key that is to take the place of another.
#[derive(Clone, Debug)]
pub struct Rotation {
    /// Its public name.
    pub id: KeyId,
    /// The hash of it.
    pub digest: KeyDigest,
    /// When it ends.
    pub expires_at: Option<Timestamp>,
    /// How long the old one may be used beside it.
    pub overlap: Duration,
    /// The present.
    pub now: Timestamp,
}

/// What became of a rotation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Rotated {
    /// Both keys as they are now.
    Rotated {
        /// The new one.
        new: Box<KeyRecord>,
        /// The old one.
        old: Box<KeyRecord>,
    },
    /// There is no such key.
    Unknown,
    /// The key is revoked: nothing takes its place.
    Revoked,
    /// The key's time is over: nothing takes its place.
    Expired,
}

/// What became of the claim of a use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Claimed {
    /// One use is taken.
    Claimed,
    /// The key may be used as often as one likes; nothing was taken.
    Unlimited,
    /// None was left.
    Spent,
    /// There is no such key.
    Unknown,
}

/// An owner that the store knows of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OwnerRow {
    /// Its path.
    pub owner: OwnerPath,
    /// Since when it is switched off, if it is.
    pub disabled_at: Option<Timestamp>,
    /// How many keys belong to it, revoked ones included.
    pub keys: u64,
    /// True when the store has a grant on it.
    pub granted: bool,
}

/// What became of a revocation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Revoked {
    /// It is revoked from now on.
    Revoked,
    /// It was revoked before; the first time stays.
    AlreadyRevoked,
    /// There is no such thing.
    Unknown,
}

/// What became of the revocation of a certificate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CertificateRevoked {
    /// It is revoked from now on.
    Newly,
    /// It was revoked before, for another reason, and its key counts as compromised from now on; the first
    /// time stays.
    Compromised,
    /// It was revoked before; the first time and reason stay.
    Before,
    /// There is no such certificate.
    Unknown,
}

/// A certificate's serial number: big-endian bytes without leading zeros, so that one number has
/// one spelling.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Serial(Box<[u8]>);

impl Serial {
    /// Wraps the bytes of a DER integer or of a random number.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        Self(bytes.iter().skip(zeros).copied().collect())
    }

    /// Reads hexadecimal digits in either case; colons between bytes, as openssl prints them, are
    /// skipped.
    ///
    /// # Errors
    ///
    /// When `text` is not 1 to 20 bytes in hexadecimal, or zero.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not a serial number: up to 40 hexadecimal digits, such as 0a1b2c");
        let mut digits = Vec::with_capacity(40);
        for character in text.chars().filter(|character| *character != ':') {
            digits.push(character.to_digit(16).and_then(|digit| u8::try_from(digit).ok()).ok_or_else(wrong)?);
        }
        if digits.len() > 40 {
            return Err(wrong());
        }
        // An odd number of digits lost its leading zero somewhere.
        if digits.len() % 2 == 1 {
            digits.insert(0, 0);
        }
        let (pairs, _) = digits.as_chunks::<2>();
        let bytes: Vec<u8> = pairs.iter().map(|[high, low]| high << 4 | low).collect();
        let serial = Self::from_bytes(&bytes);
        if serial.0.is_empty() { Err(wrong()) } else { Ok(serial) }
    }

    /// The bytes, as [`PeerCertificate`](crate::tls::peer::PeerCertificate) has them.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for Serial {
    /// Lower-case hexadecimal digits, two for each byte.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Why a certificate was revoked: the reasons of RFC 5280, section 5.3.1, that fit end entities.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Reason {
    /// Nobody said.
    Unspecified,
    /// The private key is known to others: the public key is denied in every certificate.
    KeyCompromise,
    /// The holder does something else now.
    AffiliationChanged,
    /// Another certificate takes its place.
    Superseded,
    /// It is not needed any more.
    CessationOfOperation,
    /// The holder may not have it any more.
    PrivilegeWithdrawn,
}

impl Reason {
    /// Every reason.
    pub const ALL: [Self; 6] = [
        Self::Unspecified,
        Self::KeyCompromise,
        Self::AffiliationChanged,
        Self::Superseded,
        Self::CessationOfOperation,
        Self::PrivilegeWithdrawn,
    ];

    /// The word on the command line and in the store.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unspecified => "unspecified",
            Self::KeyCompromise => "key-compromise",
            Self::AffiliationChanged => "affiliation-changed",
            Self::Superseded => "superseded",
            Self::CessationOfOperation => "cessation-of-operation",
            Self::PrivilegeWithdrawn => "privilege-withdrawn",
        }
    }

    /// Reads the word.
    ///
    /// # Errors
    ///
    /// When `text` is not a reason; the message has the choices.
    pub fn parse(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == text).ok_or_else(|| {
            let known: Vec<_> = Self::ALL.into_iter().map(Self::as_str).collect();
            format!("{text:?} is not a reason ({})", known.join(", "))
        })
    }
}

/// A certificate that was issued.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewCertificate {
    /// Its number.
    pub serial: Serial,
    /// Who it says the holder is.
    pub identity: Identity,
    /// From when on it is valid.
    pub not_before: Timestamp,
    /// From this moment on it is refused.
    pub not_after: Timestamp,
    /// SHA-256 of the subject public key info.
    pub spki_sha256: [u8; 32],
    /// When it was signed.
    pub issued_at: Timestamp,
}

/// A certificate that was issued, with what became of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CertificateRecord {
    /// What was issued.
    pub certificate: NewCertificate,
    /// Since when and why it is revoked, for good.
    pub revoked: Option<(Timestamp, Reason)>,
}

/// What revoking a name did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NameRevoked {
    /// False when the name was revoked before.
    pub newly: bool,
    /// How many certificates ended by it.
    pub certificates: usize,
    /// How many that were revoked before, for another reason, count as compromised from now on.
    pub compromised: usize,
    /// How many enrollment bundles ended unused by it.
    pub bundles: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_serial_has_one_spelling() {
        for text in ["0a1b2c", "a1b2c", "0A:1B:2C", "000a1b2c"] {
            assert_eq!(Serial::parse(text).unwrap().to_string(), "0a1b2c", "{text}");
        }
        assert_eq!(Serial::from_bytes(&[0, 0x0a, 0x1b]).as_bytes(), [0x0a, 0x1b]);
        for wrong in ["", "00", "xyz", "0x12", ":", &"1".repeat(41)] {
            assert!(Serial::parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn reasons_read_back() {
        for reason in Reason::ALL {
            assert_eq!(Reason::parse(reason.as_str()), Ok(reason));
        }
        assert!(Reason::parse("keyCompromise").unwrap_err().contains("key-compromise"));
    }
}

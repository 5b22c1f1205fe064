//! Virtual keys: `dw_<id>_<secret><check>`.
//!
//! Invariant: the secret exists in memory only while it is shown once or compared; what is kept is
//! an HMAC under a pepper. 256 random bits need no slow hash (a guess is hopeless), and a slow one
//! would hand attackers a CPU flood.

use std::fmt;

use aws_lc_rs::{constant_time, hmac};
use zeroize::Zeroizing;

use crate::domain::endpoint::Endpoints;
use crate::domain::grant::Models;
use crate::domain::network::Networks;
use crate::domain::owner::OwnerPath;
use crate::domain::timestamp::Timestamp;

const PREFIX: &str = "dw_";
const ID_LENGTH: usize = 12;
const SECRET_LENGTH: usize = 43;
const CHECK_LENGTH: usize = 6;
/// Length of a whole key in bytes.
const KEY_LENGTH: usize = PREFIX.len() + ID_LENGTH + 1 + SECRET_LENGTH + CHECK_LENGTH;
const BASE36: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// The public name of a key: 12 characters of `[0-9a-z]`. Safe in logs and records.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId([u8; ID_LENGTH]);

impl KeyId {
    /// Reads a key id.
    ///
    /// # Errors
    ///
    /// When it is not 12 characters of `[0-9a-z]`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let bytes: [u8; ID_LENGTH] =
            text.as_bytes().try_into().map_err(|_| format!("a key id has {ID_LENGTH} characters of [0-9a-z]"))?;
        if bytes.iter().all(|b| BASE36.contains(b)) {
            Ok(Self(bytes))
        } else {
            Err(format!("a key id has {ID_LENGTH} characters of [0-9a-z]"))
        }
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    /// The id's bytes, for spreading keys over shards.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; ID_LENGTH] {
        &self.0
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyId({self})")
    }
}

/// A whole key that was just made: shown once, then gone.
pub struct NewKey {
    id: KeyId,
    text: Zeroizing<String>,
}

impl NewKey {
    /// Forms a key from random bytes: 8 for the id, 32 for the secret.
    #[must_use]
    pub fn from_random(id: [u8; 8], secret: &[u8; 32]) -> Self {
        let mut text = Zeroizing::new(String::with_capacity(KEY_LENGTH));
        let id_text = to_base(BASE36, &id, ID_LENGTH);
        text.push_str(PREFIX);
        text.push_str(&id_text);
        text.push('_');
        text.push_str(&to_base(BASE62, secret, SECRET_LENGTH));
        let check = check_of(text.as_bytes());
        text.push_str(&check);
        let mut id = [b'0'; ID_LENGTH];
        id.copy_from_slice(id_text.as_bytes());
        Self { id: KeyId(id), text }
    }

    /// The public id.
    #[must_use]
    pub const fn id(&self) -> KeyId {
        self.id
    }

    /// The whole key. To be shown to its owner once and to nobody else.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.text
    }
}

impl fmt::Debug for NewKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NewKey({}, redacted)", self.id)
    }
}

/// A well-formed key as a caller presented it: never logged, never stored.
#[derive(Clone, Copy)]
pub struct PresentedKey<'a> {
    id: KeyId,
    whole: &'a [u8],
}

impl<'a> PresentedKey<'a> {
    /// Reads a presented credential. `None` when it is not a key at all: wrong length, alphabet or
    /// check characters, so that typos are caught without a lookup.
    #[must_use]
    pub fn parse(text: &'a [u8]) -> Option<Self> {
        if text.len() != KEY_LENGTH {
            return None;
        }
        let rest = text.strip_prefix(PREFIX.as_bytes())?;
        let (id, rest) = rest.split_at_checked(ID_LENGTH)?;
        let (secret, check) = rest.strip_prefix(b"_")?.split_at_checked(SECRET_LENGTH)?;
        let id = KeyId::parse(std::str::from_utf8(id).ok()?).ok()?;
        let checked = text.get(..KEY_LENGTH - CHECK_LENGTH)?;
        let sound = secret.iter().all(u8::is_ascii_alphanumeric) && check_of(checked).as_bytes() == check;
        sound.then_some(Self { id, whole: text })
    }

    /// The public id.
    #[must_use]
    pub const fn id(&self) -> KeyId {
        self.id
    }
}

impl fmt::Debug for PresentedKey<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PresentedKey({}, redacted)", self.id)
    }
}

/// The secret under which keys are hashed. It lives outside of the database, so that a stolen
/// database cannot even verify guesses.
pub struct Pepper(hmac::Key);

impl Pepper {
    /// Wraps 32 secret bytes.
    #[must_use]
    pub fn new(secret: &[u8; 32]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, secret))
    }

    /// The form in which a freshly made key is stored.
    #[must_use]
    pub fn digest(&self, key: &NewKey) -> KeyDigest {
        self.digest_bytes(key.text.as_bytes())
    }

    /// True when `presented` is the key that `stored` was made of. Takes the same time whether it
    /// is or not; `None` (an unknown id) costs as much as a wrong secret.
    #[must_use]
    pub fn verifies(&self, presented: &PresentedKey<'_>, stored: Option<&KeyDigest>) -> bool {
        let digest = self.digest_bytes(presented.whole);
        let against = stored.map_or(&[0; 32], |digest| &digest.0);
        constant_time::verify_slices_are_equal(&digest.0, against).is_ok() && stored.is_some()
    }

    /// As much work as [`Self::verifies`] does, for what is no key at all.
    pub fn verifies_nothing(&self, text: &[u8]) {
        let as_long = [0; KEY_LENGTH];
        let digest = self.digest_bytes(text.get(..KEY_LENGTH).unwrap_or(&as_long));
        std::hint::black_box(constant_time::verify_slices_are_equal(&digest.0, &[0; 32]).is_ok());
    }

    /// A name for the pepper that reveals nothing of it: stored beside the keys.
    #[must_use]
    pub fn id(&self) -> String {
        let tag = hmac::sign(&self.0, b"doorward pepper id");
        tag.as_ref().iter().take(8).map(|b| format!("{b:02x}")).collect()
    }

    fn digest_bytes(&self, whole: &[u8]) -> KeyDigest {
        let mut digest = [0; 32];
        digest.copy_from_slice(hmac::sign(&self.0, whole).as_ref());
        KeyDigest(digest)
    }
}

impl fmt::Debug for Pepper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pepper({})", self.id())
    }
}

/// HMAC-SHA-256 of a whole key under the pepper.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyDigest([u8; 32]);

impl KeyDigest {
    /// Wraps a stored digest.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes to store.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for KeyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyDigest(redacted)")
    }
}

/// What is known about a key: its policy, which changes only through the store.
#[derive(Clone, Debug)]
pub struct KeyRecord {
    /// Public name.
    pub id: KeyId,
    /// Whom the key belongs to; its grants lie on this path.
    pub owner: OwnerPath,
    /// What the stored form of the secret is.
    pub digest: KeyDigest,
    /// Limits of the key itself, beyond its owner's grants.
    pub narrowing: Narrowing,
    /// When it was made.
    pub created_at: Timestamp,
    /// From this moment on it is refused.
    pub expires_at: Option<Timestamp>,
    /// Since when it is revoked, for good.
    pub revoked_at: Option<Timestamp>,
}

/// What a key may do at most, on top of its owner's grants. A list that is absent narrows nothing.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Narrowing {
    /// Where the key may be used from.
    pub networks: Option<Networks>,
    /// What the key may call.
    pub endpoints: Option<Endpoints>,
    /// Which models the key may name.
    pub models: Option<Models>,
}

/// Writes `bytes`, taken as one big-endian number, in exactly `length` digits of `alphabet`.
/// 32 bytes fit into 43 digits of base62, 8 bytes are more than 12 digits of base36 hold: there
/// the top bits fall away.
fn to_base(alphabet: &[u8], bytes: &[u8], length: usize) -> Zeroizing<String> {
    let base = u32::try_from(alphabet.len()).unwrap_or(1);
    let mut number = Zeroizing::new(bytes.to_vec());
    let mut digits = Zeroizing::new(vec![b'0'; length]);
    for digit in digits.iter_mut().rev() {
        let mut remainder = 0u32;
        for byte in number.iter_mut() {
            let value = remainder * 256 + u32::from(*byte);
            *byte = u8::try_from(value / base).unwrap_or(u8::MAX);
            remainder = value % base;
        }
        *digit = alphabet.get(remainder as usize).copied().unwrap_or(b'0');
    }
    Zeroizing::new(String::from_utf8_lossy(&digits).into_owned())
}

/// The check characters of `dw_<id>_<secret>`: CRC-32/IEEE in base62, zero-padded.
fn check_of(text: &[u8]) -> String {
    to_base(BASE62, &crc32fast::hash(text).to_be_bytes(), CHECK_LENGTH).to_string()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(seed: u8) -> NewKey {
        NewKey::from_random([seed; 8], &[seed; 32])
    }

    #[test]
    fn the_format_is_the_published_one() {
        let key = key(7);
        let text = key.reveal();
        assert_eq!(text.len(), 65);
        assert!(text.starts_with("dw_"));
        assert_eq!(&text[3..15], key.id().as_str());
        assert_eq!(&text[15..16], "_");
        // CRC-32/IEEE of "123456789" is cbf43926 = 3421780262 = "3jZRDu" in 0-9A-Za-z.
        let mut value = 0xcbf4_3926u32;
        let mut expected = Vec::new();
        for _ in 0..6 {
            expected.insert(0, BASE62[(value % 62) as usize]);
            value /= 62;
        }
        assert_eq!(check_of(b"123456789").as_bytes(), expected);
    }

    #[test]
    fn a_key_verifies_only_against_its_own_digest_and_pepper() {
        let (pepper, other) = (Pepper::new(&[1; 32]), Pepper::new(&[2; 32]));
        let made = key(7);
        let stored = pepper.digest(&made);
        let presented = PresentedKey::parse(made.reveal().as_bytes()).unwrap();
        assert!(pepper.verifies(&presented, Some(&stored)));
        assert!(!pepper.verifies(&presented, None));
        assert!(!other.verifies(&presented, Some(&stored)));
        assert!(!pepper.verifies(&presented, Some(&pepper.digest(&key(8)))));
        assert_ne!(pepper.id(), other.id());
    }

    #[test]
    fn nothing_prints_a_secret() {
        let made = key(7);
        let secret = made.reveal()[16..].to_owned();
        let presented = PresentedKey::parse(made.reveal().as_bytes()).unwrap();
        let pepper = Pepper::new(&[1; 32]);
        let printed = format!("{made:?} {presented:?} {pepper:?} {:?}", pepper.digest(&made));
        assert!(!printed.contains(&secret) && !printed.contains(&secret[..8]));
    }

    #[test]
    fn look_alikes_are_not_keys() {
        let good = key(7).reveal().to_owned();
        let cases = [
            String::new(),
            "certificate".to_owned(),
            format!("{good}0"),
            good[..64].to_owned(),
            format!(" {}", &good[..64]),
            good.replacen("dw_", "DW_", 1),
            good.to_ascii_uppercase(),
            format!("{}é", &good[..63]),
        ];
        for case in cases {
            assert!(PresentedKey::parse(case.as_bytes()).is_none(), "{case:?}");
        }
    }

    proptest! {
        #[test]
        fn every_key_reads_back(id: [u8; 8], secret: [u8; 32]) {
            let made = NewKey::from_random(id, &secret);
            prop_assert_eq!(PresentedKey::parse(made.reveal().as_bytes()).map(|p| p.id()), Some(made.id()));
        }

        /// One changed character is caught without a lookup.
        #[test]
        fn every_typo_is_caught(id: [u8; 8], secret: [u8; 32], at in 0usize..65, to in 0u8..=127) {
            let mut text = NewKey::from_random(id, &secret).reveal().as_bytes().to_vec();
            prop_assume!(text[at] != to);
            text[at] = to;
            prop_assert!(PresentedKey::parse(&text).is_none());
        }
    }
}

//! Virtual keys: `dw_<id>_<secret><check>`.
//!
//! Invariant: the secret exists in memory only while it is shown once or compared; what is kept is
//! an HMAC under a pepper, or, for keys that a config file lists, a plain SHA-256. 256 random bits
//! need no slow hash (a guess is hopeless), and a slow one would hand attackers a CPU flood.

mod binding;
mod labels;
mod lifetime;
mod record;

pub use binding::Binding;
pub use labels::{ExternalId, Labels, Note};
pub use lifetime::{Lifetime, NotAllowed, expiry_allowed};
pub use record::{KeyChange, KeyDetails, KeyRecord, KeyState, Narrowing, Uses};

use std::borrow::Cow;
use std::fmt;

use aws_lc_rs::{constant_time, digest, hmac};
use zeroize::Zeroizing;

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
        if bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()) {
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
        text.extend(check.map(char::from));
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
        let sound = secret.iter().all(u8::is_ascii_alphanumeric) && check_of(checked) == check;
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
    /// is or not, and whichever way it was hashed; `None` (an unknown id) costs as much as a wrong
    /// secret.
    #[must_use]
    pub fn verifies(&self, presented: &PresentedKey<'_>, stored: Option<&KeyDigest>) -> bool {
        let (peppered, plain) = (self.digest_bytes(presented.whole), KeyDigest::plain_of(presented.whole));
        let digest = match stored.map_or(Hashing::Peppered, |stored| stored.hashing) {
            Hashing::Peppered => peppered,
            Hashing::Plain => plain,
        };
        let against = stored.map_or(&[0; 32], |stored| &stored.bytes);
        constant_time::verify_slices_are_equal(&digest.bytes, against).is_ok() && stored.is_some()
    }

    /// As much work as [`Self::verifies`] does, for what is no key at all.
    pub fn verifies_nothing(&self, text: &[u8]) {
        let as_long = [0; KEY_LENGTH];
        let text = text.get(..KEY_LENGTH).unwrap_or(&as_long);
        let (peppered, plain) = (self.digest_bytes(text), KeyDigest::plain_of(text));
        std::hint::black_box(constant_time::verify_slices_are_equal(&peppered.bytes, &plain.bytes).is_ok());
    }

    /// A name for the pepper that reveals nothing of it: stored beside the keys.
    #[must_use]
    pub fn id(&self) -> String {
        let tag = hmac::sign(&self.0, b"doorward pepper id");
        tag.as_ref().iter().take(8).map(|b| format!("{b:02x}")).collect()
    }

    fn digest_bytes(&self, whole: &[u8]) -> KeyDigest {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(hmac::sign(&self.0, whole).as_ref());
        KeyDigest { bytes, hashing: Hashing::Peppered }
    }
}

impl fmt::Debug for Pepper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pepper({})", self.id())
    }
}

/// How a whole key was hashed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hashing {
    /// HMAC-SHA-256 under the pepper: keys that the store made.
    Peppered,
    /// SHA-256: keys that were made elsewhere, without the pepper.
    Plain,
}

impl Hashing {
    /// Every way.
    pub const ALL: [Self; 2] = [Self::Peppered, Self::Plain];

    /// The word in the store.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Peppered => "hmac-sha256",
            Self::Plain => "sha256",
        }
    }
}

/// The hash of a whole key.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyDigest {
    bytes: [u8; 32],
    hashing: Hashing,
}

impl KeyDigest {
    /// Wraps an HMAC-SHA-256 under the pepper.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self { bytes, hashing: Hashing::Peppered }
    }

    /// Wraps a digest that was made in this way.
    #[must_use]
    pub const fn new(bytes: [u8; 32], hashing: Hashing) -> Self {
        Self { bytes, hashing }
    }

    /// The plain SHA-256 of a key that was made elsewhere.
    #[must_use]
    pub fn plain(key: &PresentedKey<'_>) -> Self {
        Self::plain_of(key.whole)
    }

    /// Reads the plain SHA-256 of a whole key as `sha256sum` prints it.
    ///
    /// # Errors
    ///
    /// When it is not 64 hexadecimal digits in lower case.
    pub fn parse_sha256(text: &str) -> Result<Self, String> {
        let wrong =
            || "is not a SHA-256 in 64 lower-case hexadecimal digits (`doorward key hash` prints it)".to_owned();
        let digit = |byte: u8| match byte {
            b'0'..=b'9' => Ok(byte - b'0'),
            b'a'..=b'f' => Ok(byte - b'a' + 10),
            _ => Err(wrong()),
        };
        let (pairs, rest) = text.as_bytes().as_chunks::<2>();
        let mut bytes = [0; 32];
        if pairs.len() != bytes.len() || !rest.is_empty() {
            return Err(wrong());
        }
        for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
            *byte = digit(*high)? << 4 | digit(*low)?;
        }
        Ok(Self { bytes, hashing: Hashing::Plain })
    }

    /// The bytes to store.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.bytes
    }

    /// How it was made.
    #[must_use]
    pub const fn hashing(&self) -> Hashing {
        self.hashing
    }

    /// The bytes in hexadecimal digits: what a config file lists of a key that was hashed plainly.
    #[must_use]
    pub fn to_hex(&self) -> String {
        self.bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn plain_of(whole: &[u8]) -> Self {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest::digest(&digest::SHA256, whole).as_ref());
        Self { bytes, hashing: Hashing::Plain }
    }
}

impl fmt::Debug for KeyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyDigest(redacted)")
    }
}

/// The same text with every key in it cut down to its public id: for logs that repeat what somebody
/// sent, and may have sent in the wrong place.
#[must_use]
pub fn redacted(text: &str) -> Cow<'_, str> {
    let mut kept = String::new();
    let mut rest = text;
    while let Some((before, id, behind)) = find_key(rest) {
        kept.push_str(before);
        kept.push_str(PREFIX);
        kept.push_str(id);
        kept.push_str("_…");
        rest = behind;
    }
    if kept.is_empty() { Cow::Borrowed(text) } else { Cow::Owned(kept + rest) }
}

/// The first `dw_<id>_<secret>` of a text, whole or not: what is before it, its id, what is behind it.
fn find_key(text: &str) -> Option<(&str, &str, &str)> {
    text.match_indices(PREFIX).find_map(|(at, _)| {
        let (id, rest) = text.get(at + PREFIX.len()..)?.split_at_checked(ID_LENGTH)?;
        let rest = KeyId::parse(id).ok().and_then(|_| rest.strip_prefix('_'))?;
        let behind = rest.trim_start_matches(|c: char| c.is_ascii_alphanumeric());
        Some((text.get(..at)?, id, behind))
    })
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
fn check_of(text: &[u8]) -> [u8; CHECK_LENGTH] {
    let mut rest = crc32fast::hash(text);
    let mut digits = [b'0'; CHECK_LENGTH];
    for digit in digits.iter_mut().rev() {
        *digit = BASE62.get((rest % 62) as usize).copied().unwrap_or(b'0');
        rest /= 62;
    }
    digits
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
        assert_eq!(check_of(b"123456789"), *expected);
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
    fn a_key_hashed_plainly_verifies_whatever_the_pepper() {
        let made = key(7);
        let presented = PresentedKey::parse(made.reveal().as_bytes()).unwrap();
        let listed = KeyDigest::parse_sha256(&KeyDigest::plain(&presented).to_hex()).unwrap();
        assert!(Pepper::new(&[1; 32]).verifies(&presented, Some(&listed)));
        let other = key(8);
        assert!(
            !Pepper::new(&[1; 32]).verifies(&PresentedKey::parse(other.reveal().as_bytes()).unwrap(), Some(&listed))
        );
        // The same bytes, said to be hashed in the other way, are another digest.
        let mistaken = KeyDigest::new(*listed.as_bytes(), Hashing::Peppered);
        assert!(!Pepper::new(&[1; 32]).verifies(&presented, Some(&mistaken)));
        assert_ne!(mistaken, listed);
        // `printf abc | sha256sum`
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(KeyDigest::plain_of(b"abc").to_hex(), abc);
        for wrong in ["", "ab", &abc.to_uppercase(), &abc[1..], &format!("{abc}00"), &abc.replace('b', "g")] {
            assert!(KeyDigest::parse_sha256(wrong).is_err(), "{wrong}");
        }
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
    fn keys_in_text_are_cut_down_to_their_ids() {
        let (one, other) = (key(7), key(8));
        let text = format!("x {} dw_short {}, dw_0123456789AB_x", one.reveal(), other.reveal());
        let expected = format!("x dw_{}_… dw_short dw_{}_…, dw_0123456789AB_x", one.id(), other.id());
        assert_eq!(redacted(&text), expected);
        assert_eq!(redacted("nothing of the kind: dw_"), "nothing of the kind: dw_");
        // A part of one is as bad.
        assert_eq!(redacted(&one.reveal()[..40]), format!("dw_{}_…", one.id()));
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

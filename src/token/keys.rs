//! The keys of an issuer: a JWKS document (RFC 7517), and signatures under its keys.
//!
//! Invariant: a key verifies only by the algorithms that its own type allows, so a token cannot
//! have a public key taken for a secret, nor one kind of key for another. What of the document is
//! not a sound public key for signatures is passed over.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::digest::{Context, SHA256};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, EcdsaVerificationAlgorithm, ParsedPublicKey,
    RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256,
    RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512, RsaParameters, RsaPublicKeyComponents,
};
use serde_json::{Map, Value};

use crate::dialect::json;
use crate::domain::base64url;
use crate::domain::token::Algorithm;

/// Largest document that is read, in bytes.
pub const MAX_DOCUMENT: usize = 256 * 1024;

/// Most keys that a document may have.
pub const MAX_KEYS: usize = 64;

/// Most keys that one token is tried against. More fit only where keys share a `kid`, or have none.
pub const MAX_TRIED: usize = 4;

/// The algorithms of an RSA key, and how each verifies. Keys of less than 2048 bits never do.
const RSA: [(Algorithm, &RsaParameters); 6] = [
    (Algorithm::Rs256, &RSA_PKCS1_2048_8192_SHA256),
    (Algorithm::Rs384, &RSA_PKCS1_2048_8192_SHA384),
    (Algorithm::Rs512, &RSA_PKCS1_2048_8192_SHA512),
    (Algorithm::Ps256, &RSA_PSS_2048_8192_SHA256),
    (Algorithm::Ps384, &RSA_PSS_2048_8192_SHA384),
    (Algorithm::Ps512, &RSA_PSS_2048_8192_SHA512),
];
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// The public keys of an issuer that can verify signatures.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct KeySet {
    keys: Arc<[Key]>,
}

/// One public key.
#[derive(Clone)]
pub struct Key {
    kid: Option<Box<str>>,
    fingerprint: Fingerprint,
    verifiers: Box<[(Algorithm, ParsedPublicKey)]>,
}

/// SHA-256 of a key's type and public values: what makes it the same key in another document.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fingerprint([u8; 32]);

impl KeySet {
    /// Reads a JWKS document. Keys that cannot verify signatures of tokens are passed over; there
    /// may be none left.
    ///
    /// # Errors
    ///
    /// When it is no such document, or larger than any that is meant.
    pub fn parse(document: &[u8]) -> Result<Self, String> {
        if document.len() > MAX_DOCUMENT {
            return Err(format!("it has more than {MAX_DOCUMENT} bytes"));
        }
        json::scan(document, &[], &mut |_, _| ()).map_err(|_| "it is not strict JSON".to_owned())?;
        let document: Map<String, Value> = serde_json::from_slice(document).map_err(|_| "it is not JSON".to_owned())?;
        let keys = document.get("keys").and_then(Value::as_array);
        let keys = keys.ok_or("it is not a JWKS document: it has no list \"keys\"")?;
        if keys.len() > MAX_KEYS {
            return Err(format!("it has more than {MAX_KEYS} keys"));
        }
        Ok(Self { keys: keys.iter().filter_map(Key::read).collect() })
    }

    /// How many keys can verify something.
    #[must_use]
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// True when no key can verify anything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// True when some key can verify `algorithm`.
    #[must_use]
    pub fn has(&self, algorithm: Algorithm) -> bool {
        self.keys.iter().any(|key| key.verifier(algorithm).is_some())
    }

    /// The keys that a token with this header may be signed with: of its `kid`, or all when it
    /// names none.
    pub fn fitting(&self, kid: Option<&str>, algorithm: Algorithm) -> impl Iterator<Item = &Key> {
        let fits = move |key: &&Key| kid.is_none_or(|kid| key.kid.as_deref() == Some(kid));
        self.keys.iter().filter(fits).filter(move |key| key.verifier(algorithm).is_some())
    }

    /// True when this very key is still here, under the name and algorithm that a token was proven
    /// by.
    #[must_use]
    pub fn still_has(&self, fingerprint: Fingerprint, kid: Option<&str>, algorithm: Algorithm) -> bool {
        self.fitting(kid, algorithm).any(|key| key.fingerprint == fingerprint)
    }
}

impl Key {
    /// What makes it this key.
    #[must_use]
    pub const fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// True when `signature` over `signed` was made with this key's private half.
    #[must_use]
    pub fn verifies(&self, algorithm: Algorithm, signed: &[u8], signature: &[u8]) -> bool {
        self.verifier(algorithm).is_some_and(|key| key.verify_sig(signed, signature).is_ok())
    }

    fn verifier(&self, algorithm: Algorithm) -> Option<&ParsedPublicKey> {
        self.verifiers.iter().find(|(known, _)| *known == algorithm).map(|(_, key)| key)
    }

    fn read(key: &Value) -> Option<Self> {
        let key = key.as_object()?;
        let text = |name: &str| key.get(name).map(Value::as_str);
        let is_for_signatures = match (text("use"), key.get("key_ops")) {
            (Some(usage), _) if usage != Some("sig") => false,
            (_, Some(operations)) => operations.as_array()?.iter().any(|operation| operation == "verify"),
            (_, None) => true,
        };
        // A private key that was published is nobody's any more.
        if !is_for_signatures || key.contains_key("d") || key.contains_key("k") {
            return None;
        }
        let kid = match text("kid") {
            None => None,
            Some(kid) => Some(kid?.into()),
        };
        let bytes = |name: &str| base64url::decode(text(name)??.as_bytes());
        let (mut verifiers, material) = match (text("kty")??, text("crv").flatten()) {
            ("EC", Some("P-256")) => point(Algorithm::Es256, &ECDSA_P256_SHA256_FIXED, 32, bytes("x")?, &bytes("y")?)?,
            ("EC", Some("P-384")) => point(Algorithm::Es384, &ECDSA_P384_SHA384_FIXED, 48, bytes("x")?, &bytes("y")?)?,
            ("OKP", Some("Ed25519")) => {
                let x = bytes("x").filter(|x| x.len() == 32)?;
                (vec![(Algorithm::EdDsa, ParsedPublicKey::new(&ED25519, &x).ok()?)], x)
            }
            ("RSA", _) => rsa(&bytes("n")?, &bytes("e")?)?,
            _ => return None,
        };
        if let Some(only) = text("alg") {
            let only = only.and_then(Algorithm::named)?;
            verifiers.retain(|(algorithm, _)| *algorithm == only);
        }
        if verifiers.is_empty() {
            return None;
        }
        Some(Self { kid, fingerprint: Fingerprint::of(text("kty")??, &material), verifiers: verifiers.into() })
    }
}

type Verifiers = Vec<(Algorithm, ParsedPublicKey)>;

/// A point of a curve whose coordinates have `length` bytes each (RFC 7518, 6.2.1.2).
fn point(
    algorithm: Algorithm,
    verification: &'static EcdsaVerificationAlgorithm,
    length: usize,
    x: Vec<u8>,
    y: &[u8],
) -> Option<(Verifiers, Vec<u8>)> {
    if x.len() != length || y.len() != length {
        return None;
    }
    let uncompressed = [vec![4], x, y.to_vec()].concat();
    let key = ParsedPublicKey::new(verification, &uncompressed).ok()?;
    Some((vec![(algorithm, key)], uncompressed))
}

fn rsa(n: &[u8], e: &[u8]) -> Option<(Verifiers, Vec<u8>)> {
    // Some providers put a zero in front, as signed integers have it.
    let plain = |bytes: &[u8]| bytes.iter().copied().skip_while(|byte| *byte == 0).collect::<Vec<u8>>();
    let (n, e) = (plain(n), plain(e));
    let bits = (n.len() * 8).checked_sub(usize::try_from(n.first()?.leading_zeros()).ok()?)?;
    let sound_exponent = e.len() <= 4 && e.last().is_some_and(|last| last % 2 == 1) && e != [1];
    if !RSA_BITS.contains(&bits) || !sound_exponent {
        return None;
    }
    let components = RsaPublicKeyComponents { n: &n, e: &e };
    let parse = |(algorithm, parameters): (Algorithm, &'static RsaParameters)| {
        Some((algorithm, components.to_parsed_public_key(parameters).ok()?))
    };
    let verifiers = RSA.into_iter().map(parse).collect::<Option<_>>()?;
    Some((verifiers, [e.len().to_be_bytes().to_vec(), e, n].concat()))
}

impl Fingerprint {
    fn of(kind: &str, material: &[u8]) -> Self {
        let mut context = Context::new(&SHA256);
        context.update(kind.as_bytes());
        context.update(&[0]);
        context.update(material);
        let mut fingerprint = [0; 32];
        fingerprint.copy_from_slice(context.finish().as_ref());
        Self(fingerprint)
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        let algorithms = |key: &Self| key.verifiers.iter().map(|(algorithm, _)| *algorithm).collect::<Vec<_>>();
        self.kid == other.kid && self.fingerprint == other.fingerprint && algorithms(self) == algorithms(other)
    }
}

impl Eq for Key {}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("kid", &self.kid).field("fingerprint", &self.fingerprint).finish_non_exhaustive()
    }
}

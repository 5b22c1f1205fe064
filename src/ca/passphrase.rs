//! Private keys under a passphrase: PKCS#8 with PBES2 (RFC 8018), which openssl reads and writes.
//!
//! Invariant: one way to write (PBKDF2 with HMAC-SHA-256, AES-256-CBC) and the same way to read.
//! What openssl 3 writes by itself is that way; other ways are refused with the line that converts.

use std::fmt;
use std::num::NonZeroU32;

use aws_lc_rs::cipher::{
    AES_256, DecryptionContext, EncryptionContext, PaddedBlockDecryptingKey, PaddedBlockEncryptingKey, UnboundCipherKey,
};
use aws_lc_rs::iv::FixedLength;
use aws_lc_rs::{pbkdf2, rand};
use yasna::models::ObjectIdentifier;
use zeroize::Zeroizing;

use crate::ca::CaError;

/// The label of such keys in PEM.
pub(super) const LABEL: &str = "ENCRYPTED PRIVATE KEY";
/// Fewest bytes of a passphrase. It guards a root for ten years.
const MIN_BYTES: usize = 12;
/// Most bytes that are read of one.
pub const MAX_BYTES: usize = 1024;
/// Rounds of PBKDF2: what OWASP asks for HMAC-SHA-256.
const ROUNDS: u32 = 600_000;
/// Most rounds that are done for a file: a few seconds.
const MAX_ROUNDS: u32 = 20_000_000;
const KEY_BYTES: usize = 32;

const PBES2: &[u64] = &[1, 2, 840, 113_549, 1, 5, 13];
const PBKDF2: &[u64] = &[1, 2, 840, 113_549, 1, 5, 12];
const HMAC_SHA256: &[u64] = &[1, 2, 840, 113_549, 2, 9];
const AES_256_CBC: &[u64] = &[2, 16, 840, 1, 101, 3, 4, 1, 42];

/// What opens a private key. Never printed.
pub struct Passphrase(Zeroizing<String>);

impl Passphrase {
    /// Takes a passphrase of 12 bytes or more.
    ///
    /// # Errors
    ///
    /// When it is too short or too long, or has characters that cannot be typed.
    pub fn new(text: Zeroizing<String>) -> Result<Self, String> {
        if text.len() < MIN_BYTES {
            return Err(format!("a passphrase needs {MIN_BYTES} bytes or more"));
        }
        if text.len() > MAX_BYTES || text.chars().any(char::is_control) {
            return Err(format!("a passphrase is one line of at most {MAX_BYTES} bytes"));
        }
        Ok(Self(text))
    }
}

impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passphrase(..)")
    }
}

/// True when `pem` is a private key under a passphrase.
pub(super) fn is_encrypted(pem: &str) -> bool {
    pem.contains(LABEL)
}

/// Encrypts a private key in PKCS#8.
pub(super) fn encrypt(pkcs8: &[u8], passphrase: &Passphrase) -> Result<Zeroizing<String>, CaError> {
    let failed = || CaError::Crypto("the key could not be encrypted".to_owned());
    let (mut salt, mut iv) = ([0; 16], [0; 16]);
    rand::fill(&mut salt).map_err(|_| failed())?;
    rand::fill(&mut iv).map_err(|_| failed())?;
    let rounds = NonZeroU32::new(ROUNDS).ok_or_else(failed)?;
    let key = PaddedBlockEncryptingKey::cbc_pkcs7(cipher_key(passphrase, &salt, rounds)?).map_err(|_| failed())?;
    let mut text = pkcs8.to_vec();
    key.less_safe_encrypt(&mut text, EncryptionContext::Iv128(FixedLength::from(iv))).map_err(|_| failed())?;

    let der = yasna::construct_der(|writer| {
        writer.write_sequence(|info| {
            info.next().write_sequence(|algorithm| {
                algorithm.next().write_oid(&oid(PBES2));
                algorithm.next().write_sequence(|parameters| {
                    parameters.next().write_sequence(|derivation| {
                        derivation.next().write_oid(&oid(PBKDF2));
                        derivation.next().write_sequence(|parameters| {
                            parameters.next().write_bytes(&salt);
                            parameters.next().write_u32(ROUNDS);
                            parameters.next().write_sequence(|prf| {
                                prf.next().write_oid(&oid(HMAC_SHA256));
                                prf.next().write_null();
                            });
                        });
                    });
                    parameters.next().write_sequence(|cipher| {
                        cipher.next().write_oid(&oid(AES_256_CBC));
                        cipher.next().write_bytes(&iv);
                    });
                });
            });
            info.next().write_bytes(&text);
        });
    });
    let config = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    Ok(Zeroizing::new(pem::encode_config(&pem::Pem::new(LABEL, der), config)))
}

/// Why a private key could not be opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Closed {
    /// Another passphrase, or a damaged file: which of them nobody can tell.
    Wrong,
    /// Encrypted in a way that is not read.
    OtherWay,
}

impl Closed {
    pub(super) const fn why(self) -> &'static str {
        match self {
            Self::Wrong => "the passphrase does not open it",
            Self::OtherWay => {
                "it is encrypted in a way that is not read; convert it with: \
                 openssl pkcs8 -topk8 -v2 aes-256-cbc -v2prf hmacWithSHA256 -in OLD -out NEW"
            }
        }
    }
}

/// Opens a private key: the PKCS#8 in it.
pub(super) fn decrypt(text: &str, passphrase: &Passphrase) -> Result<Zeroizing<Vec<u8>>, Closed> {
    let section = pem::parse(text).ok().filter(|section| section.tag() == LABEL).ok_or(Closed::OtherWay)?;
    let (salt, rounds, iv, mut text) = read(section.contents()).ok_or(Closed::OtherWay)?;
    let key = cipher_key(passphrase, &salt, rounds).map_err(|_| Closed::OtherWay)?;
    let key = PaddedBlockDecryptingKey::cbc_pkcs7(key).map_err(|_| Closed::OtherWay)?;
    let plain = key.decrypt(&mut text, DecryptionContext::Iv128(FixedLength::from(iv))).map_err(|_| Closed::Wrong)?;
    Ok(Zeroizing::new(plain.to_vec()))
}

type Read = (Vec<u8>, NonZeroU32, [u8; 16], Zeroizing<Vec<u8>>);

fn read(der: &[u8]) -> Option<Read> {
    let known = |found: ObjectIdentifier, expected: &[u64]| {
        if found == oid(expected) { Ok(()) } else { Err(yasna::ASN1Error::new(yasna::ASN1ErrorKind::Invalid)) }
    };
    let (salt, rounds, iv, text) = yasna::parse_der(der, |reader| {
        reader.read_sequence(|info| {
            let (salt, rounds, iv) = info.next().read_sequence(|algorithm| {
                known(algorithm.next().read_oid()?, PBES2)?;
                algorithm.next().read_sequence(|parameters| {
                    let (salt, rounds) = parameters.next().read_sequence(|derivation| {
                        known(derivation.next().read_oid()?, PBKDF2)?;
                        derivation.next().read_sequence(|parameters| {
                            let salt = parameters.next().read_bytes()?;
                            let rounds = parameters.next().read_u32()?;
                            // The length of the key may be said, and follows from the cipher.
                            parameters.read_optional(|length| length.read_u32())?;
                            parameters.next().read_sequence(|prf| {
                                known(prf.next().read_oid()?, HMAC_SHA256)?;
                                prf.next().read_null()
                            })?;
                            Ok((salt, rounds))
                        })
                    })?;
                    let iv = parameters.next().read_sequence(|cipher| {
                        known(cipher.next().read_oid()?, AES_256_CBC)?;
                        cipher.next().read_bytes()
                    })?;
                    Ok((salt, rounds, iv))
                })
            })?;
            Ok((salt, rounds, iv, Zeroizing::new(info.next().read_bytes()?)))
        })
    })
    .ok()?;
    let rounds = NonZeroU32::new(rounds).filter(|rounds| rounds.get() <= MAX_ROUNDS)?;
    Some((salt, rounds, iv.try_into().ok()?, text))
}

fn cipher_key(passphrase: &Passphrase, salt: &[u8], rounds: NonZeroU32) -> Result<UnboundCipherKey, CaError> {
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, rounds, salt, passphrase.0.as_bytes(), key.as_mut_slice());
    UnboundCipherKey::new(&AES_256, key.as_slice()).map_err(|_| CaError::Crypto("no cipher".to_owned()))
}

fn oid(components: &[u64]) -> ObjectIdentifier {
    ObjectIdentifier::from_slice(components)
}

#[cfg(test)]
#[path = "passphrase_tests.rs"]
mod tests;

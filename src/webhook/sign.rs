//! Signatures of what is sent to webhooks: Standard Webhooks, version 1 (HMAC-SHA256).
//!
//! Invariants: what is signed is `id.timestamp.body`, of which the id has no dot and the timestamp
//! only digits, so that no two messages have one signed text; a secret cannot be printed.
//!
//! Source: the specification of Standard Webhooks, "Signature scheme" and "Symmetric signatures".

use std::fmt;

use aws_lc_rs::hmac;
use zeroize::Zeroizing;

use crate::webhook::base64;

/// What every secret begins with.
const PREFIX: &str = "whsec_";
/// How many bytes a secret may have.
const LENGTH: std::ops::RangeInclusive<usize> = 24..=64;

/// The header with the message's id.
pub const ID: &str = "webhook-id";
/// The header with the time of signing, in seconds since 1970.
pub const TIMESTAMP: &str = "webhook-timestamp";
/// The header with the signatures, one for each secret.
pub const SIGNATURE: &str = "webhook-signature";

/// A secret that messages are signed with.
#[derive(Clone)]
pub struct SigningSecret {
    key: hmac::Key,
    /// Tells secrets apart without showing them.
    print: [u8; 8],
}

impl SigningSecret {
    /// Reads `whsec_` and 24 to 64 bytes in base64.
    ///
    /// # Errors
    ///
    /// What is wrong. Messages never repeat the text.
    pub fn parse(text: &str) -> Result<Self, String> {
        let Some(encoded) = text.strip_prefix(PREFIX) else {
            return Err(format!("a secret begins with {PREFIX:?} (Standard Webhooks)"));
        };
        let bytes = base64::decode(encoded)
            .map(Zeroizing::new)
            .ok_or_else(|| format!("what follows {PREFIX:?} is base64, with its padding (Standard Webhooks)"))?;
        if !LENGTH.contains(&bytes.len()) {
            let (least, most) = (LENGTH.start(), LENGTH.end());
            return Err(format!("a secret has {least} to {most} bytes before base64, this one {}", bytes.len()));
        }
        let key = hmac::Key::new(hmac::HMAC_SHA256, &bytes);
        let tag = hmac::sign(&key, b"doorward webhook secret");
        let print = tag.as_ref().first_chunk().copied().unwrap_or_default();
        Ok(Self { key, print })
    }
}

impl PartialEq for SigningSecret {
    fn eq(&self, other: &Self) -> bool {
        self.print == other.print
    }
}

impl Eq for SigningSecret {}

impl fmt::Debug for SigningSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningSecret(redacted)")
    }
}

/// The value of [`SIGNATURE`]: a signature with each secret, in their order, with spaces between.
/// `seconds` is the value of [`TIMESTAMP`], `id` that of [`ID`].
#[must_use]
pub fn sign(secrets: &[SigningSecret], id: &str, seconds: i64, body: &[u8]) -> String {
    let mut signatures = String::with_capacity(secrets.len() * 48);
    for secret in secrets {
        let mut context = hmac::Context::with_key(&secret.key);
        context.update(id.as_bytes());
        context.update(b".");
        context.update(itoa::Buffer::new().format(seconds).as_bytes());
        context.update(b".");
        context.update(body);
        if !signatures.is_empty() {
            signatures.push(' ');
        }
        signatures.push_str("v1,");
        base64::encode_into(context.sign().as_ref(), &mut signatures);
    }
    signatures
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vector that the reference libraries of Standard Webhooks test themselves with.
    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const ID: &str = "msg_p5jXN8AQM9LWM0D4loKWxJek";
    const SECONDS: i64 = 1_614_265_330;
    const BODY: &[u8] = b"{\"test\": 2432232314}";
    const EXPECTED: &str = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";

    fn secret(text: &str) -> SigningSecret {
        SigningSecret::parse(text).unwrap()
    }

    #[test]
    fn the_reference_vector() {
        assert_eq!(sign(&[secret(SECRET)], ID, SECONDS, BODY), EXPECTED);
    }

    #[test]
    fn while_rotating_all_secrets_sign() {
        let new = format!("{PREFIX}{}", "QUJD".repeat(8));
        let both = sign(&[secret(&new), secret(SECRET)], ID, SECONDS, BODY);
        let (first, second) = both.split_once(' ').unwrap();
        assert_eq!(first, sign(&[secret(&new)], ID, SECONDS, BODY));
        assert_eq!(second, EXPECTED);
    }

    #[test]
    fn everything_is_signed() {
        let secrets = [secret(SECRET)];
        for changed in [
            sign(&secrets, "msg_p5jXN8AQM9LWM0D4loKWxJeK", SECONDS, BODY),
            sign(&secrets, ID, SECONDS + 1, BODY),
            sign(&secrets, ID, SECONDS, b"{\"test\": 2432232315}"),
        ] {
            assert_ne!(changed, EXPECTED);
        }
    }

    #[test]
    fn secrets_have_one_form_and_are_not_shown() {
        for bad in [
            "",
            "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            "whsec_",
            "whsec_hunter2",
            "WHSEC_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaS",
            "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n",
            &format!("whsec_{}", "QUJD".repeat(7)),
            &format!("whsec_{}QQ==", "QUJD".repeat(21)),
            &format!("whsec_{}", "QUJD".repeat(22)),
        ] {
            let error = match SigningSecret::parse(bad) {
                Ok(_) => String::new(),
                Err(error) => error,
            };
            let fits = bad == format!("whsec_{}QQ==", "QUJD".repeat(21));
            assert_eq!(error.is_empty(), fits, "{bad}: {error}");
            assert!(!error.contains("hunter2"));
        }
        assert_eq!(format!("{:?}", secret(SECRET)), "SigningSecret(redacted)");
        assert_eq!(secret(SECRET), secret(SECRET));
        assert_ne!(secret(SECRET), secret(&format!("{PREFIX}{}", "QUJD".repeat(8))));
    }
}

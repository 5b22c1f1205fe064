//! What holders of certificates and the gateway say to each other, on the `enroll` names: JSON over
//! HTTP, small and closed.
//!
//! Invariant: what comes from a holder is read strictly, byte for byte within [`MAX_REQUEST`]; what
//! comes from the gateway is read leniently, so that a newer gateway can say more, and is believed
//! only as far as the holder checks it.
//!
//! | request | answer |
//! |---|---|
//! | `POST` [`ENROLL`] with an [`EnrollRequest`]; no client certificate | 201 with a [`Granted`] |
//! | `POST` [`RENEW`] with a [`RenewRequest`] and the current client certificate | 201 with a [`Granted`] |
//! | anything else | a status of [`Code`] with a [`Refused`] |
//!
//! So that a holder can check [`crate::ca::bundle::RootPin`], the chain that the gateway shows on its
//! `enroll` names holds its roots as well, the newest and those from before: TLS leaves them out
//! elsewhere.

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::ca::bundle::{BundleId, BundleSecret};

/// Where a bundle is turned into a certificate.
pub const ENROLL: &str = "/.doorward/v1/enroll";
/// Where a certificate is renewed.
pub const RENEW: &str = "/.doorward/v1/renew";
/// Where the list of what is revoked is, for anybody: DER, signed by the newest issuer.
pub const CRL: &str = "/.doorward/v1/crl";
/// Where the roots are, for anybody: PEM.
pub const ROOTS: &str = "/.doorward/v1/ca";
/// Most bytes of a request's body.
pub const MAX_REQUEST: usize = 8 * 1024;
/// Most bytes of an answer's body: a chain and the roots.
pub const MAX_ANSWER: usize = 256 * 1024;
/// The media type of both.
pub const JSON: &str = "application/json";

/// A holder asks for its first certificate.
#[derive(Clone, Debug)]
pub struct EnrollRequest {
    /// Which bundle.
    pub id: BundleId,
    /// That the holder was given it.
    pub secret: BundleSecret,
    /// PKCS#10 in PEM: see [`crate::ca::csr::public_key`].
    pub csr: String,
}

/// A holder asks for its next certificate, for a new key.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RenewRequest {
    /// As in [`EnrollRequest::csr`].
    pub csr: String,
}

/// A certificate.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Granted {
    /// The chain in PEM, leaf first, without the root: `NAME.crt`.
    pub certificate: String,
    /// The roots in PEM, newest first: `ca.crt`.
    pub ca: String,
}

/// Why there is no certificate.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Refused {
    /// A word of [`Code`], or one that a newer gateway knows.
    pub code: String,
    /// What was wrong, for people.
    #[serde(default)]
    pub detail: String,
}

/// A body that is not what it must be. Nothing of it is repeated: it may hold a secret.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the body is not the JSON that is expected")]
pub struct Malformed;

/// The kinds of refusal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Code {
    /// The body is not the JSON of a request.
    InvalidRequest,
    /// The request for a certificate (PKCS#10) is not accepted; the bundle can still be used.
    BadCsr,
    /// The body is longer than [`MAX_REQUEST`].
    BodyTooLarge,
    /// The bundle is unknown, used, expired, revoked, not for this network, or the secret is wrong:
    /// which of these is not for a stranger.
    InvalidEnrollment,
    /// A renewal without a certificate, or with one that this gateway does not renew.
    CertificateRequired,
    /// The certificate, its key or its name is revoked. Only a new bundle helps.
    CertificateRevoked,
    /// Nobody answers at this path.
    NotFound,
    /// The path takes POST (or GET) only.
    MethodNotAllowed,
    /// The Host is not the name of this connection.
    Misdirected,
    /// The body is not announced as JSON.
    UnsupportedMediaType,
    /// Too many failures from this address; later is fine.
    TooManyFailures,
    /// The store or the authority cannot be used at the moment; later is fine.
    Unavailable,
}

impl Code {
    /// Every code.
    pub const ALL: [Self; 12] = [
        Self::InvalidRequest,
        Self::BadCsr,
        Self::BodyTooLarge,
        Self::InvalidEnrollment,
        Self::CertificateRequired,
        Self::CertificateRevoked,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::Misdirected,
        Self::UnsupportedMediaType,
        Self::TooManyFailures,
        Self::Unavailable,
    ];

    /// The word in [`Refused::code`].
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InvalidRequest => "invalid_request",
            Self::BadCsr => "bad_csr",
            Self::BodyTooLarge => "body_too_large",
            Self::InvalidEnrollment => "invalid_enrollment",
            Self::CertificateRequired => "certificate_required",
            Self::CertificateRevoked => "certificate_revoked",
            Self::NotFound => "not_found",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::Misdirected => "misdirected",
            Self::UnsupportedMediaType => "unsupported_media_type",
            Self::TooManyFailures => "too_many_failures",
            Self::Unavailable => "unavailable",
        }
    }

    /// The HTTP status.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::InvalidRequest | Self::BadCsr => 400,
            Self::InvalidEnrollment | Self::CertificateRequired => 401,
            Self::CertificateRevoked => 403,
            Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::BodyTooLarge => 413,
            Self::UnsupportedMediaType => 415,
            Self::Misdirected => 421,
            Self::TooManyFailures => 429,
            Self::Unavailable => 503,
        }
    }

    /// The code with this word.
    #[must_use]
    pub fn named(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|code| code.as_str() == word)
    }
}

/// The JSON of an [`EnrollRequest`].
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SpelledEnrollment<'a> {
    #[serde(borrow)]
    id: &'a str,
    secret: &'a str,
    csr: std::borrow::Cow<'a, str>,
}

impl EnrollRequest {
    /// Reads a body.
    ///
    /// # Errors
    ///
    /// When it is not the JSON of one, or an id or a secret cannot be those of any bundle.
    pub fn parse(body: &[u8]) -> Result<Self, Malformed> {
        if body.len() > MAX_REQUEST {
            return Err(Malformed);
        }
        let spelled: SpelledEnrollment<'_> = serde_json::from_slice(body).map_err(|_| Malformed)?;
        Ok(Self {
            id: BundleId::parse(spelled.id).ok_or(Malformed)?,
            secret: BundleSecret::parse(spelled.secret).ok_or(Malformed)?,
            csr: spelled.csr.into_owned(),
        })
    }

    /// The body, secret included: for the gateway whose root was found to be the pinned one.
    ///
    /// # Errors
    ///
    /// When it would be longer than [`MAX_REQUEST`].
    pub fn reveal(&self) -> Result<Zeroizing<Vec<u8>>, Malformed> {
        let (id, secret) = (self.id.to_string(), self.secret.reveal());
        let spelled = SpelledEnrollment { id: &id, secret: &secret, csr: self.csr.as_str().into() };
        let mut body = Zeroizing::new(Vec::with_capacity(MAX_REQUEST));
        serde_json::to_writer(&mut *body, &spelled).map_err(|_| Malformed)?;
        if body.len() > MAX_REQUEST { Err(Malformed) } else { Ok(body) }
    }
}

impl RenewRequest {
    /// Reads a body.
    ///
    /// # Errors
    ///
    /// When it is not the JSON of one.
    pub fn parse(body: &[u8]) -> Result<Self, Malformed> {
        if body.len() > MAX_REQUEST {
            return Err(Malformed);
        }
        serde_json::from_slice(body).map_err(|_| Malformed)
    }
}

impl Granted {
    /// Reads an answer.
    ///
    /// # Errors
    ///
    /// When it is not the JSON of one.
    pub fn parse(body: &[u8]) -> Result<Self, Malformed> {
        if body.len() > MAX_ANSWER {
            return Err(Malformed);
        }
        serde_json::from_slice(body).map_err(|_| Malformed)
    }
}

impl Refused {
    /// A refusal.
    #[must_use]
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self { code: code.as_str().to_owned(), detail: detail.into() }
    }

    /// Which of the kinds it is; `None` for one that a newer gateway knows.
    #[must_use]
    pub fn code(&self) -> Option<Code> {
        Code::named(&self.code)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn request(csr: &str) -> EnrollRequest {
        EnrollRequest {
            id: BundleId::from_random([0xab; 8]),
            secret: BundleSecret::from_random([7; 32]),
            csr: csr.to_owned(),
        }
    }

    /// The format is a contract: a gateway and a holder of different versions must agree.
    #[test]
    fn the_formats_are_these() {
        let body = request("-----BEGIN").reveal().unwrap();
        let text = std::str::from_utf8(&body).unwrap();
        let secret = "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc";
        assert_eq!(text, format!(r#"{{"id":"abababababababab","secret":"{secret}","csr":"-----BEGIN"}}"#));
        let renew = RenewRequest { csr: "x".to_owned() };
        assert_eq!(serde_json::to_string(&renew).unwrap(), r#"{"csr":"x"}"#);
        let granted = Granted { certificate: "a".to_owned(), ca: "b".to_owned() };
        assert_eq!(serde_json::to_string(&granted).unwrap(), r#"{"certificate":"a","ca":"b"}"#);
        let refused = Refused::new(Code::BadCsr, "why");
        assert_eq!(serde_json::to_string(&refused).unwrap(), r#"{"code":"bad_csr","detail":"why"}"#);
    }

    #[test]
    fn requests_are_read_strictly() {
        let good = String::from_utf8(request("x").reveal().unwrap().to_vec()).unwrap();
        assert!(EnrollRequest::parse(good.as_bytes()).is_ok());
        for wrong in [
            String::new(),
            "[]".to_owned(),
            good.replace('}', ",\"more\":1}"),
            good.replace('}', ",\"id\":\"abababababababab\"}"),
            good.replace("\"id\"", "\"ID\""),
            good.replace("abab", "ABAB"),
            good.replace("BwcH", "Bwc"),
            good.replace("\"x\"", "null"),
            format!("{good} x"),
            good.replace("\"x\"", &format!("\"{}\"", "x".repeat(MAX_REQUEST))),
        ] {
            assert!(EnrollRequest::parse(wrong.as_bytes()).is_err(), "{wrong}");
        }
        for wrong in ["", "{}", r#"{"csr":"x","name":"bob"}"#, r#"{"csr":"x","csr":"y"}"#, r#"{"csr":1}"#] {
            assert!(RenewRequest::parse(wrong.as_bytes()).is_err(), "{wrong}");
        }
        assert!(request(&"x".repeat(MAX_REQUEST)).reveal().is_err());
    }

    #[test]
    fn a_newer_gateway_may_say_more() {
        let granted = Granted::parse(br#"{"certificate":"a","ca":"b","more":1}"#).unwrap();
        assert_eq!((granted.certificate.as_str(), granted.ca.as_str()), ("a", "b"));
        let refused: Refused = serde_json::from_str(r#"{"type":"about:blank","code":"new_word"}"#).unwrap();
        assert_eq!(refused.code(), None);
        assert!(Granted::parse(&vec![b' '; MAX_ANSWER + 1]).is_err());
    }

    #[test]
    fn every_code_has_a_word_of_its_own() {
        for code in Code::ALL {
            assert_eq!(Code::named(code.as_str()), Some(code));
            assert!((400..600).contains(&code.status()));
        }
    }

    #[test]
    fn nothing_but_reveal_shows_the_secret() {
        assert!(!format!("{:?}", request("x")).contains("7, 7"));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(id: [u8; 8], secret: [u8; 32], csr: String) {
            let secret = BundleSecret::from_random(secret);
            let request = EnrollRequest { id: BundleId::from_random(id), secret, csr };
            let read = EnrollRequest::parse(&request.reveal().unwrap()).unwrap();
            prop_assert_eq!((read.id, read.secret, read.csr), (request.id, request.secret, request.csr));
        }
    }
}

//! A token as it was presented (JWS compact serialization, RFC 7515): read strictly, believed in
//! nothing.
//!
//! Invariant: what passes means the same to every reader. JSON with a member twice, base64 with a
//! second spelling, and header fields that would have us take a key from the token are refused.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::dialect::json;
use crate::domain::base64url;
use crate::domain::owner_template::Claim;
use crate::domain::timestamp::Timestamp;
use crate::domain::token::{Algorithm, TokenFault};

/// Longest token that is read, in bytes.
pub const MAX_BYTES: usize = 8 * 1024;

/// Longest `kid` that is looked up, in bytes.
const MAX_KID_BYTES: usize = 256;

/// Fields of a header that bring a key along, or change what is signed. None is ever needed: keys
/// are the issuer's.
const FORBIDDEN: [&str; 6] = ["crit", "b64", "jwk", "jku", "x5u", "x5c"];

/// True when a credential has the look of a token rather than of a key.
#[must_use]
pub fn is_token(credential: &[u8]) -> bool {
    credential.contains(&b'.')
}

/// A token in its parts. Nobody has vouched for any of it yet.
#[derive(Debug)]
pub struct Presented<'t> {
    /// What the signature is over.
    pub signed: &'t [u8],
    /// The signature.
    pub signature: Vec<u8>,
    /// How it says that it was signed.
    pub header: Header,
    /// What it says.
    pub claims: Claims,
}

/// How a token says that it was signed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Header {
    /// With which algorithm.
    pub algorithm: Algorithm,
    /// With which key: a string to look up, and nothing else.
    pub kid: Option<Box<str>>,
}

/// What a token says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Claims {
    /// `iss`
    pub issuer: Box<str>,
    /// `aud`; never empty.
    pub audience: Box<[Box<str>]>,
    /// `sub`
    pub subject: Option<Box<str>>,
    /// `exp`
    pub expires_at: Timestamp,
    /// `nbf`
    pub not_before: Option<Timestamp>,
    /// `iat`
    pub issued_at: Option<Timestamp>,
    /// Every claim at the top level; of those that are no text, that they are there. Lists of groups
    /// can be long, and claims are remembered.
    texts: BTreeMap<Box<str>, Option<Box<str>>>,
}

impl Claims {
    /// A top-level claim of this name.
    #[must_use]
    pub fn claim(&self, name: &str) -> Claim<'_> {
        match self.texts.get(name) {
            None => Claim::Absent,
            Some(None) => Claim::NotText,
            Some(Some(text)) => Claim::Text(text),
        }
    }
}

impl<'t> Presented<'t> {
    /// Reads a token.
    ///
    /// # Errors
    ///
    /// When it is no signed token in its one strict form.
    pub fn parse(token: &'t [u8]) -> Result<Self, TokenFault> {
        if token.len() > MAX_BYTES {
            return Err(TokenFault::TooLong);
        }
        let mut parts = token.split(|&byte| byte == b'.');
        let (Some(header), Some(payload), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(TokenFault::Malformed);
        };
        let decode = |part| base64url::decode(part).filter(|bytes| !bytes.is_empty()).ok_or(TokenFault::Malformed);
        let signed = token.get(..header.len() + 1 + payload.len()).ok_or(TokenFault::Malformed)?;
        let (header, payload, signature) = (decode(header)?, decode(payload)?, decode(signature)?);
        let header = read_header(&object(&header, "header")?)?;
        let claims = read_claims(&object(&payload, "payload")?)?;
        Ok(Self { signed, signature, header, claims })
    }
}

fn object(bytes: &[u8], part: &'static str) -> Result<Map<String, Value>, TokenFault> {
    json::scan(bytes, &[], &mut |_, _| ()).map_err(|_| TokenFault::NotJson(part))?;
    serde_json::from_slice(bytes).map_err(|_| TokenFault::NotJson(part))
}

fn read_header(header: &Map<String, Value>) -> Result<Header, TokenFault> {
    if let Some(field) = FORBIDDEN.into_iter().find(|field| header.contains_key(*field)) {
        return Err(TokenFault::ForbiddenHeader(field));
    }
    let algorithm = text(header, "alg")?.ok_or(TokenFault::Field("alg"))?;
    let algorithm = Algorithm::named(algorithm).ok_or(TokenFault::UnknownAlgorithm)?;
    if text(header, "typ")?.is_some_and(|typ| !is_jwt_type(typ)) {
        return Err(TokenFault::WrongType);
    }
    let kid = text(header, "kid")?;
    if kid.is_some_and(|kid| kid.is_empty() || kid.len() > MAX_KID_BYTES) {
        return Err(TokenFault::Field("kid"));
    }
    Ok(Header { algorithm, kid: kid.map(Into::into) })
}

/// `JWT` (RFC 7519) or `at+jwt` (RFC 9068), as a media type without regard to capitals. Tokens for
/// other ends (logout, proofs of possession, security events) name themselves so that they are
/// taken for nothing else (RFC 8725, 3.11).
fn is_jwt_type(typ: &str) -> bool {
    let typ = typ.to_ascii_lowercase();
    matches!(typ.strip_prefix("application/").unwrap_or(&typ), "jwt" | "at+jwt")
}

fn read_claims(all: &Map<String, Value>) -> Result<Claims, TokenFault> {
    if all.contains_key("cnf") {
        return Err(TokenFault::Bound);
    }
    // Of logouts and other security events (RFC 8417), which need not name their type.
    if all.contains_key("events") {
        return Err(TokenFault::WrongType);
    }
    let issuer = text(all, "iss")?.ok_or(TokenFault::Field("iss"))?.into();
    let subject = text(all, "sub")?.map(Into::into);
    let one = |value: &Value| value.as_str().map(Into::into).ok_or(TokenFault::Field("aud"));
    let audience: Box<[Box<str>]> = match all.get("aud") {
        Some(Value::Array(values)) if !values.is_empty() => values.iter().map(one).collect::<Result<_, _>>()?,
        Some(value) => Box::new([one(value)?]),
        None => return Err(TokenFault::Field("aud")),
    };
    let expires_at = time(all, "exp")?.ok_or(TokenFault::Field("exp"))?;
    let (not_before, issued_at) = (time(all, "nbf")?, time(all, "iat")?);
    let texts = all.iter().map(|(name, value)| (name.as_str().into(), value.as_str().map(Into::into))).collect();
    Ok(Claims { issuer, audience, subject, expires_at, not_before, issued_at, texts })
}

fn text<'m>(object: &'m Map<String, Value>, name: &'static str) -> Result<Option<&'m str>, TokenFault> {
    match object.get(name) {
        None => Ok(None),
        Some(value) => value.as_str().map(Some).ok_or(TokenFault::Field(name)),
    }
}

/// A `NumericDate`: seconds since 1970, which may have a fraction.
fn time(object: &Map<String, Value>, name: &'static str) -> Result<Option<Timestamp>, TokenFault> {
    const LATEST: f64 = 253_402_207_200.0;
    let Some(value) = object.get(name) else { return Ok(None) };
    if let Some(seconds) = value.as_i64() {
        let at = Timestamp::from_seconds(seconds);
        return if (Timestamp::from_seconds(0)..=Timestamp::FAR_FUTURE).contains(&at) {
            Ok(Some(at))
        } else {
            Err(TokenFault::Field(name))
        };
    }
    let seconds = value.as_f64().filter(|seconds| (0.0..=LATEST).contains(seconds)).ok_or(TokenFault::Field(name))?;
    #[expect(clippy::cast_possible_truncation, reason = "it is within bounds, and less than a millisecond is cut off")]
    Ok(Some(Timestamp::from_millis((seconds * 1000.0) as i64)))
}

#[cfg(test)]
#[path = "compact_tests.rs"]
mod tests;

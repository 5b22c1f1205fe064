//! Check 2: which credentials a request carries, and that they are proven.

use std::sync::Arc;

use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::domain::grant::{Certified, Credentials};
use crate::domain::identity::Role;
use crate::domain::key::{KeyDigest, KeyId, PresentedKey, Uses};
use crate::domain::refusal::{CredentialFault, Refusal};
use crate::domain::token::TokenFault;
use crate::gate::connection::{Connection, Identity};
use crate::gate::{Gateway, View};
use crate::token::compact::is_token;
use crate::token::issuers::Proof;

/// Headers that may carry a key besides `Authorization`: Anthropic's and Azure's.
const KEY_HEADERS: [HeaderName; 2] = [HeaderName::from_static("x-api-key"), HeaderName::from_static("api-key")];

/// SDKs insist on sending some key. This one means: no key, my certificate is my credential.
const PLACEHOLDER: &[u8] = b"certificate";

/// Proof that a request carried a credential that holds: the caller is known. What it may do is
/// not decided yet, nor whether its credential still stands.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Carries the certificate, if there is one.
    connection: Arc<Connection>,
    key: Option<(KeyId, KeyDigest)>,
    /// In the place of a key.
    token: Option<Arc<Proof>>,
}

/// Finds out who is calling.
///
/// # Errors
///
/// The uniform 401 when no credential, a malformed, unknown or wrong one, or two different ones
/// came; also for a certificate of another role than `client`. `store_unavailable` when what the
/// store said last is too old.
pub fn identify(
    gateway: &Gateway,
    view: &View,
    connection: &Arc<Connection>,
    headers: &HeaderMap,
) -> Result<Caller, Refusal> {
    let refused = |fault| Err(Refusal::InvalidCredentials(fault));
    let certificate = identity(view, connection)?;
    let (key, token) = match presented(headers)? {
        None if certificate.is_none() => return refused(CredentialFault::Nothing),
        None => (None, None),
        Some(PLACEHOLDER) if certificate.is_none() => return refused(CredentialFault::PlaceholderWithoutCertificate),
        Some(PLACEHOLDER) => (None, None),
        Some(text) if is_token(text) && !view.issuers.is_empty() => {
            (None, Some(prove_token(gateway, view, headers, text)?))
        }
        Some(text) => (Some(prove_key(gateway, view, text)?), None),
    };
    Ok(Caller { connection: Arc::clone(connection), key, token })
}

/// Who the certificate of `connection` names under the authorities that `view` trusts; `None` when
/// there is none. One that is not good is an error: it never makes an anonymous caller.
fn identity(view: &View, connection: &Connection) -> Result<Option<Arc<Identity>>, Refusal> {
    let refused = |fault| Err(Refusal::InvalidCredentials(fault));
    let identity = connection.identity(&view.settings);
    match identity.as_ref().map(|identity| identity.peer.identity.role()) {
        None if connection.chain.is_empty() => Ok(None),
        None => refused(CredentialFault::Untrusted),
        Some(Role::Client) => Ok(identity),
        Some(role) => refused(CredentialFault::WrongRole(role.as_str())),
    }
}

impl Caller {
    /// The connection that the caller came over.
    #[must_use]
    pub const fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    /// The caller's key, if it may be used a number of times only.
    #[must_use]
    pub fn limited_key(&self, view: &View) -> Option<(KeyId, Uses)> {
        let (id, _) = self.key.as_ref()?;
        Some((*id, view.key(id)?.uses?))
    }

    /// The caller's certificate and key or token as they stand now. The secret was proven once; whether
    /// the credential still counts is looked up anew each time, so that live requests are decided
    /// by the same code as new ones.
    ///
    /// # Errors
    ///
    /// The uniform 401 when the certificate's authority is not trusted any more, or the key is
    /// gone, or the token's issuer or its key is; `store_unavailable` when nobody knows whether they
    /// still stand.
    pub fn credentials(&self, view: &View) -> Result<Credentials, Refusal> {
        view.check_fresh()?;
        let refused = |fault| Err(Refusal::InvalidCredentials(fault));
        let key = match &self.key {
            None => None,
            Some((id, digest)) => match view.key(id) {
                Some(record) if record.digest == *digest => Some(Arc::clone(record)),
                Some(_) | None => return refused(CredentialFault::UnknownKey(*id)),
            },
        };
        let certificate = identity(view, &self.connection)?.map(|identity| Certified {
            identity: Arc::clone(&identity.peer.identity),
            owner: identity.owner.clone(),
            not_after: identity.peer.not_after,
            revoked: view.snapshot.denies(&identity.peer),
        });
        let token = self.token.as_ref().map(|proof| view.issuers.weigh(proof)).transpose()?;
        Ok(Credentials { certificate, key, token })
    }
}

/// True when the headers carry something in a place of keys, right or wrong.
#[must_use]
pub fn carries_credential(headers: &HeaderMap) -> bool {
    headers.contains_key(AUTHORIZATION) || KEY_HEADERS.iter().any(|name| headers.contains_key(name))
}

/// The one credential that the headers carry. The same one in several headers is fine.
fn presented(headers: &HeaderMap) -> Result<Option<&[u8]>, Refusal> {
    let bearer = headers.get_all(AUTHORIZATION).iter().map(bearer_token);
    let plain = KEY_HEADERS.into_iter().flat_map(|name| headers.get_all(name)).map(|value| Some(value.as_bytes()));
    let mut found = None;
    for credential in bearer.chain(plain) {
        let Some(credential) = credential else {
            return Err(Refusal::InvalidCredentials(CredentialFault::Malformed));
        };
        match found {
            Some(other) if other != credential => {
                return Err(Refusal::InvalidCredentials(CredentialFault::Conflicting));
            }
            Some(_) | None => found = Some(credential),
        }
    }
    Ok(found)
}

/// The token of `Bearer <token>`; the scheme is case-insensitive (RFC 9110, 11.1).
fn bearer_token(value: &HeaderValue) -> Option<&[u8]> {
    let (scheme, rest) = value.as_bytes().split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then_some(rest)
}

fn prove_key(gateway: &Gateway, view: &View, text: &[u8]) -> Result<(KeyId, KeyDigest), Refusal> {
    let refused = |fault| Err(Refusal::InvalidCredentials(fault));
    let Some(presented) = PresentedKey::parse(text) else {
        gateway.pepper.verifies_nothing(text);
        return refused(CredentialFault::Malformed);
    };
    // That a key is unknown cannot be said either.
    view.check_fresh()?;
    let id = presented.id();
    let record = view.key(&id);
    // An unknown id costs the same hashing as a wrong secret.
    let proven = gateway.pepper.verifies(&presented, record.map(|record| &record.digest));
    match record {
        Some(record) if proven => Ok((id, record.digest.clone())),
        Some(_) => refused(CredentialFault::WrongSecret(id)),
        None => refused(CredentialFault::UnknownKey(id)),
    }
}

/// A token comes in `Authorization` alone: the other headers are for keys, and reach more logs.
fn prove_token(gateway: &Gateway, view: &View, headers: &HeaderMap, text: &[u8]) -> Result<Arc<Proof>, Refusal> {
    if KEY_HEADERS.iter().any(|name| headers.contains_key(name)) {
        return Err(TokenFault::WrongHeader.into());
    }
    Ok(view.issuers.prove(text, gateway.clock.now())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(pairs: &[(&str, &str)], expected: Result<Option<&str>, ()>) {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(HeaderName::try_from(*name).unwrap(), HeaderValue::from_str(value).unwrap());
        }
        let found = presented(&headers).map_err(|_| ());
        assert_eq!(found, expected.map(|text| text.map(str::as_bytes)), "{pairs:?}");
    }

    #[test]
    fn one_credential_however_often() {
        check(&[], Ok(None));
        check(&[("authorization", "Bearer x")], Ok(Some("x")));
        check(&[("authorization", "bearer x"), ("x-api-key", "x"), ("api-key", "x")], Ok(Some("x")));
        check(&[("authorization", "Bearer x"), ("x-api-key", "y")], Err(()));
        check(&[("authorization", "Bearer x"), ("authorization", "Bearer y")], Err(()));
        check(&[("x-api-key", "x"), ("x-api-key", "y")], Err(()));
        check(&[("authorization", "Basic eDp5")], Err(()));
        check(&[("authorization", "Bearer")], Err(()));
        check(&[("authorization", "x")], Err(()));
        // What is behind the one space is the credential, as it stands.
        check(&[("authorization", "Bearer  x")], Ok(Some(" x")));
    }
}

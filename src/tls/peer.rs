//! From a verified client certificate to an identity.
//!
//! Invariant: a certificate is exactly one identity or none. What is ambiguous, spelled in an
//! unusual way or not understood is refused; nothing is normalised and nothing is guessed.
//! [`read`] only reads: the caller has verified the chain.

use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use rustls_pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::oid_registry::OID_X509_EXT_SUBJECT_ALT_NAME;
use x509_parser::prelude::FromDer;

use crate::config::{IdentityField, IdentityMap};
use crate::domain::identity::{Identity, IdentityName, Role, TrustDomain};
use crate::domain::timestamp::Timestamp;

/// What a verified client certificate says. Made once per certificate and shared.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerCertificate {
    /// Who it is.
    pub identity: Arc<Identity>,
    /// Serial number as bytes, big-endian, without leading zeros.
    pub serial: Box<[u8]>,
    /// SHA-256 of the subject public key info.
    pub spki_sha256: [u8; 32],
    /// From this moment on it is refused.
    ///
    /// It is the first instant of the second that `notAfter` names. RFC 5280 counts that second
    /// in, OpenSSL counts it out; with the earlier end nothing is ever served past `notAfter`,
    /// whichever way it is read. When an issuer in the chain ends sooner, it is the issuer's end.
    pub not_after: Timestamp,
    /// Which authority verified it.
    pub authority: Authority,
}

/// Which authority's root verified a chain.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Authority {
    /// The built-in CA.
    BuiltIn,
    /// The `[[trust]]` entry of this name.
    External(Arc<str>),
}

/// How certificates of one authority become identities.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Mapping {
    /// Certificates of the built-in CA: `spiffe://<this domain>/<role>/<name>` and nothing else.
    BuiltIn(TrustDomain),
    /// Certificates of an external authority.
    External(IdentityMap),
}

/// Why a verified certificate is nobody's.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PeerFault {
    /// The certificate, or one of the extensions that are read, is malformed or occurs twice.
    #[error("the certificate is malformed: {0}")]
    Malformed(&'static str),
    /// It is not made for signing handshakes as a client.
    #[error("the certificate is not made for this use: {0}")]
    Usage(&'static str),
    /// The field that names the caller is missing.
    #[error("the certificate has no {0}")]
    Missing(&'static str),
    /// A field that must occur once occurs more often.
    #[error("the certificate has more than one {0}")]
    Ambiguous(&'static str),
    /// A certificate of the built-in CA with names that this CA never gives.
    #[error("the certificate has other names beside its URI")]
    ForeignNames,
    /// The name is not in the grammar of identities.
    #[error("{0}")]
    Name(String),
    /// The name belongs to somebody else's trust domain.
    #[error("the authority does not speak for the trust domain {0:?}")]
    ForeignDomain(String),
}

/// Reads the identity in `leaf`, whose chain was verified up to a root of `authority`.
///
/// # Errors
///
/// When the certificate does not name exactly one identity that `authority` may name.
pub fn read(leaf: &CertificateDer<'_>, authority: &Authority, map: &Mapping) -> Result<PeerCertificate, PeerFault> {
    let certificate = parse(leaf)?;
    check_usage(&certificate, matches!(map, Mapping::BuiltIn(_)))?;
    let names = Names::of(&certificate)?;
    let identity = match map {
        Mapping::BuiltIn(domain) => built_in(&names, domain)?,
        Mapping::External(IdentityMap::Spiffe { trust_domains }) => external(&names, trust_domains)?,
        Mapping::External(IdentityMap::Field { from, trust_domain }) => {
            let value = names.field(*from, &certificate)?;
            let name = IdentityName::parse(value).map_err(PeerFault::Name)?;
            Identity::new(trust_domain, Role::Client, &name)
        }
    };
    Ok(PeerCertificate {
        identity: Arc::new(identity),
        serial: without_leading_zeros(certificate.raw_serial()).into(),
        spki_sha256: sha256(certificate.public_key().raw),
        not_after: Validity::of(&certificate).not_after,
        authority: authority.clone(),
    })
}

/// When a certificate may be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Validity {
    /// From here on, inclusive.
    pub(crate) not_before: Timestamp,
    /// Until here, exclusive: see [`PeerCertificate::not_after`].
    pub(crate) not_after: Timestamp,
}

impl Validity {
    pub(super) fn of(certificate: &X509Certificate<'_>) -> Self {
        let validity = certificate.validity();
        Self {
            not_before: Timestamp::from_seconds(validity.not_before.timestamp()),
            not_after: Timestamp::from_seconds(validity.not_after.timestamp()),
        }
    }
}

pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, bytes).as_ref());
    hash
}

pub(super) fn parse<'a>(certificate: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, PeerFault> {
    match X509Certificate::from_der(certificate) {
        Ok(([], certificate)) => Ok(certificate),
        Ok(_) => Err(PeerFault::Malformed("bytes after its end")),
        Err(_) => Err(PeerFault::Malformed("not X.509 in DER")),
    }
}

/// webpki has checked that an extended key usage, if there is one, holds clientAuth, and that the
/// certificate is not a CA. It does not look at the key usage.
fn check_usage(certificate: &X509Certificate<'_>, built_in: bool) -> Result<(), PeerFault> {
    let key_usage = certificate.key_usage().map_err(|_| PeerFault::Malformed("key usage"))?;
    match key_usage {
        Some(usage) if !usage.value.digital_signature() => return Err(PeerFault::Usage("no digitalSignature")),
        Some(usage) if usage.value.key_cert_sign() => return Err(PeerFault::Usage("it may sign certificates")),
        // X.509-SVID, 5.2.
        Some(usage) if usage.value.crl_sign() => return Err(PeerFault::Usage("it may sign lists of what is revoked")),
        None if built_in => return Err(PeerFault::Usage("no key usage")),
        Some(_) | None => {}
    }
    let extended = certificate.extended_key_usage().map_err(|_| PeerFault::Malformed("extended key usage"))?;
    match extended {
        Some(usage) if !usage.value.client_auth => Err(PeerFault::Usage("no clientAuth")),
        None if built_in => Err(PeerFault::Usage("no extended key usage")),
        Some(_) | None => Ok(()),
    }
}

/// The subject alternative names.
struct Names<'a>(&'a [GeneralName<'a>]);

impl<'a> Names<'a> {
    fn of(certificate: &'a X509Certificate<'_>) -> Result<Self, PeerFault> {
        let extension = certificate
            .subject_alternative_name()
            .map_err(|_| PeerFault::Malformed("subject alternative names, or more than one extension of them"))?;
        let names = extension.map_or(&[] as &[_], |extension| extension.value.general_names.as_slice());
        let mut extensions = certificate.extensions().iter().filter(|it| it.oid == OID_X509_EXT_SUBJECT_ALT_NAME);
        let plain = extensions.all(|extension| are_plain(extension.value));
        if !plain || names.iter().any(|name| matches!(name, GeneralName::Invalid(..))) {
            return Err(PeerFault::Malformed("an entry among the subject alternative names"));
        }
        let names = Self(names);
        // Two URIs are two SPIFFE IDs: refused even where the identity comes from another field.
        if names.uris().nth(1).is_some() {
            return Err(PeerFault::Ambiguous(URI));
        }
        Ok(names)
    }

    fn uris(&self) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter_map(|name| if let GeneralName::URI(uri) = name { Some(*uri) } else { None })
    }

    fn field(&self, field: IdentityField, certificate: &'a X509Certificate<'_>) -> Result<&'a str, PeerFault> {
        match field {
            IdentityField::SanDns => only(
                "DNS name",
                self.0.iter().filter_map(|name| if let GeneralName::DNSName(dns) = name { Some(*dns) } else { None }),
            ),
            IdentityField::SanEmail => only(
                "e-mail address",
                self.0.iter().filter_map(|name| if let GeneralName::RFC822Name(at) = name { Some(*at) } else { None }),
            ),
            IdentityField::SubjectCn => {
                let name = only("common name", certificate.subject().iter_common_name())?;
                if !has_plain_types(certificate.subject().as_raw()) {
                    return Err(PeerFault::Malformed("subject"));
                }
                name.as_str().map_err(|_| PeerFault::Malformed("common name"))
            }
        }
    }
}

/// True when those subject alternative names (RFC 5280, 4.2.1.6) that are read as text are of one piece, as
/// DER has them: the reader of certificates takes them made of pieces, too, and others see no name then.
fn are_plain(names: &[u8]) -> bool {
    const TEXTS: [u8; 3] = [1, 2, 6];
    let check = |tag: u8, _: &[u8]| tag & CONSTRUCTED == 0 || !TEXTS.contains(&(tag & TAG_NUMBER));
    matches!(element(names), Some((SEQUENCE, names, [])) if each(names, check))
}

/// True when the types in a distinguished name (RFC 5280, 4.1.2.4) are object identifiers: the reader of
/// certificates takes any tag for that of one, and others see another name then, or none.
fn has_plain_types(name: &[u8]) -> bool {
    let pair = |tag: u8, pair: &[u8]| {
        let Some((OBJECT_IDENTIFIER, _, value)) = element(pair) else { return false };
        tag == SEQUENCE && matches!(element(value), Some((_, _, [])))
    };
    // In any order: not every issuer sorts a part that has several attributes, as DER has it.
    let part = |tag: u8, pairs: &[u8]| tag == SET && each(pairs, pair);
    matches!(element(name), Some((SEQUENCE, parts, [])) if each(parts, part))
}

const OBJECT_IDENTIFIER: u8 = 6;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
/// The bit of an identifier that says that there are elements inside, and those of its number.
const CONSTRUCTED: u8 = 0x20;
const TAG_NUMBER: u8 = 0x1f;

/// True when all there is are elements of DER, and each is as `check` wants it.
fn each(mut der: &[u8], check: impl Fn(u8, &[u8]) -> bool) -> bool {
    while !der.is_empty() {
        let Some((tag, content, rest)) = element(der) else { return false };
        if !check(tag, content) {
            return false;
        }
        der = rest;
    }
    true
}

/// The first element of DER: its identifier, what is inside, and what follows. No number beyond 30 and no
/// length beyond 4 GiB is known here, nor one that is longer than it has to be.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81..=0x84 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(first - 0x80))?;
            let length = bytes.iter().fold(0usize, |length, byte| length << 8 | usize::from(*byte));
            (Some(length).filter(|length| *length >= 0x80)?, rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    (tag & TAG_NUMBER != TAG_NUMBER).then_some((tag, content, rest))
}

const URI: &str = "URI among its subject alternative names";

fn only<T>(what: &'static str, mut found: impl Iterator<Item = T>) -> Result<T, PeerFault> {
    let first = found.next().ok_or(PeerFault::Missing(what))?;
    if found.next().is_some() { Err(PeerFault::Ambiguous(what)) } else { Ok(first) }
}

fn built_in(names: &Names<'_>, domain: &TrustDomain) -> Result<Identity, PeerFault> {
    let uri = only(URI, names.uris())?;
    if names.0.len() != 1 {
        return Err(PeerFault::ForeignNames);
    }
    let identity = Identity::parse(uri).map_err(PeerFault::Name)?;
    if identity.trust_domain() == domain.as_str() {
        Ok(identity)
    } else {
        Err(PeerFault::ForeignDomain(identity.trust_domain().to_owned()))
    }
}

fn external(names: &Names<'_>, domains: &[TrustDomain]) -> Result<Identity, PeerFault> {
    let uri = only(URI, names.uris())?;
    let identity = Identity::external(uri).map_err(PeerFault::Name)?;
    if domains.iter().any(|domain| domain.as_str() == identity.trust_domain()) {
        Ok(identity)
    } else {
        Err(PeerFault::ForeignDomain(identity.trust_domain().to_owned()))
    }
}

fn without_leading_zeros(bytes: &[u8]) -> &[u8] {
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    bytes.get(zeros..).unwrap_or_default()
}

#[cfg(test)]
#[cfg(feature = "gateway")]
#[path = "peer_tests.rs"]
mod tests;

//! From a verified client certificate to an identity.

use std::sync::Arc;

use crate::domain::identity::Identity;
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

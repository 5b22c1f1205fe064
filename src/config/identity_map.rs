//! What `[[trust]]` says of names: how a certificate of an external authority becomes an identity.

use crate::domain::identity::TrustDomain;

/// How a certificate of an external authority becomes an identity.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum IdentityMap {
    /// Its one SPIFFE ID, in one of these trust domains.
    Spiffe {
        /// The domains that the entry owns; never empty.
        trust_domains: Vec<TrustDomain>,
    },
    /// One field of it becomes the name in `spiffe://<trust_domain>/client/<name>`.
    Field {
        /// The field; it must occur exactly once.
        from: IdentityField,
        /// The trust domain of `to`.
        trust_domain: TrustDomain,
    },
}

/// A field of a certificate that can name a caller.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IdentityField {
    /// The DNS name among the subject alternative names.
    SanDns,
    /// The e-mail address among the subject alternative names.
    SanEmail,
    /// The subject's common name.
    SubjectCn,
}

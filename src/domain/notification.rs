//! What webhooks are told of after it has happened.
//!
//! Invariant: a notification names what changed and holds no secret, no hash of one, no prompt and
//! no text that a caller has written.

use std::fmt;

use serde::Serialize;

use crate::domain::key::{KeyId, KeyRecord};
use crate::domain::owner::OwnerPath;
use crate::domain::timestamp::Timestamp;

/// What can be told. The names are a published contract.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Kind {
    /// A key was made, or imported.
    KeyCreated,
    /// Fields of a key have changed.
    KeyUpdated,
    /// A new key took the place of one, which ends.
    KeyRotated,
    /// A key was revoked for good.
    KeyRevoked,
    /// A key was forgotten.
    KeyDeleted,
    /// An owner was switched off, with everything below it.
    OwnerDisabled,
    /// An owner was switched on again.
    OwnerEnabled,
    /// A grant was put on a node, or another in its place.
    GrantSet,
    /// A grant was taken away.
    GrantDeleted,
    /// A certificate was issued.
    CertificateIssued,
    /// The holder of a certificate has fetched the next one.
    CertificateRenewed,
    /// A certificate was revoked, or a name with all of its certificates.
    CertificateRevoked,
    /// Another config is in force.
    ReloadSucceeded,
    /// The config could not be read anew; the last good one stays in force.
    ReloadFailed,
    /// A connector has come: the first of its tunnels is open.
    ConnectorUp,
    /// A connector has gone: none of its tunnels is open any more.
    ConnectorDown,
}

impl Kind {
    /// Every kind, in the order of the enum.
    pub const ALL: [Self; 16] = [
        Self::KeyCreated,
        Self::KeyUpdated,
        Self::KeyRotated,
        Self::KeyRevoked,
        Self::KeyDeleted,
        Self::OwnerDisabled,
        Self::OwnerEnabled,
        Self::GrantSet,
        Self::GrantDeleted,
        Self::CertificateIssued,
        Self::CertificateRenewed,
        Self::CertificateRevoked,
        Self::ReloadSucceeded,
        Self::ReloadFailed,
        Self::ConnectorUp,
        Self::ConnectorDown,
    ];

    /// The `type` of the message, and its name in config.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::KeyCreated => "doorward.event.key.created",
            Self::KeyUpdated => "doorward.event.key.updated",
            Self::KeyRotated => "doorward.event.key.rotated",
            Self::KeyRevoked => "doorward.event.key.revoked",
            Self::KeyDeleted => "doorward.event.key.deleted",
            Self::OwnerDisabled => "doorward.event.owner.disabled",
            Self::OwnerEnabled => "doorward.event.owner.enabled",
            Self::GrantSet => "doorward.event.grant.set",
            Self::GrantDeleted => "doorward.event.grant.deleted",
            Self::CertificateIssued => "doorward.event.certificate.issued",
            Self::CertificateRenewed => "doorward.event.certificate.renewed",
            Self::CertificateRevoked => "doorward.event.certificate.revoked",
            Self::ReloadSucceeded => "doorward.event.reload.succeeded",
            Self::ReloadFailed => "doorward.event.reload.failed",
            Self::ConnectorUp => "doorward.event.connector.up",
            Self::ConnectorDown => "doorward.event.connector.down",
        }
    }

    /// True for what has its name and is not told yet.
    #[must_use]
    pub const fn is_reserved(self) -> bool {
        matches!(self, Self::ConnectorUp | Self::ConnectorDown)
    }

    /// Reads the name of a kind.
    ///
    /// # Errors
    ///
    /// When there is none of that name.
    pub fn parse(text: &str) -> Result<Self, String> {
        let known = Self::ALL.into_iter().find(|kind| kind.as_str() == text);
        let example = Self::KeyRevoked.as_str();
        known.ok_or_else(|| format!("there is no event {text:?}: each is written out, such as {example:?}"))
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Something that has happened, before anybody is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Notification {
    /// What it is.
    pub kind: Kind,
    /// When it was done.
    pub at: Timestamp,
    /// What it was done to.
    pub data: Data,
}

/// What something was done to: the member `data` of the message. Field names are a contract.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(untagged)]
#[expect(missing_docs, reason = "the names are the published contract; docs/notifications.md explains each")]
pub enum Data {
    /// A key, as it is afterwards.
    Key {
        key_id: String,
        /// Null when the store cannot read any more what it kept of the key.
        owner: Option<String>,
        external_id: Option<String>,
        expires_at: Option<String>,
        disabled: bool,
        /// The key whose place it took.
        replaces: Option<String>,
    },
    /// A node of the owner tree.
    Owner { owner: String },
    /// A certificate.
    Certificate { serial: String, identity: String, not_after: String, reason: Option<&'static str> },
    /// A name, in every role.
    Name { trust_domain: String, name: String, certificates: usize, reason: &'static str },
    /// A config; of one that was refused there is more in the log.
    Config { revision: u64 },
    /// A connector, by the name in its certificate.
    Connector { connector: String },
}

impl Data {
    /// What is told of a key.
    #[must_use]
    pub fn key(record: &KeyRecord) -> Self {
        Self::Key {
            key_id: record.id.to_string(),
            owner: Some(record.owner.to_string()),
            external_id: record.external_id().map(|id| id.as_str().to_owned()),
            expires_at: record.expires_at.map(|at| at.to_string()),
            disabled: record.disabled,
            replaces: record.details().rotated_from.map(|id| id.to_string()),
        }
    }

    /// What is told of a key of which only the id is known.
    #[must_use]
    pub fn key_of_id(id: &KeyId) -> Self {
        let key_id = id.to_string();
        Self::Key { key_id, owner: None, external_id: None, expires_at: None, disabled: false, replaces: None }
    }

    /// What is told of a node.
    #[must_use]
    pub fn owner(owner: &OwnerPath) -> Self {
        Self::Owner { owner: owner.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back_and_differ() {
        for (place, kind) in Kind::ALL.into_iter().enumerate() {
            assert_eq!(Kind::parse(kind.as_str()), Ok(kind));
            assert_eq!(kind as usize, place);
            assert!(kind.as_str().starts_with("doorward.event."));
        }
        for wrong in ["", "*", "doorward.event.*", "doorward.event.key", "key.revoked", "DOORWARD.EVENT.KEY.REVOKED"] {
            assert!(Kind::parse(wrong).is_err_and(|why| why.contains("doorward.event.key.revoked")), "{wrong}");
        }
    }
}

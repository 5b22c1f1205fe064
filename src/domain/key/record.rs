//! What is known of a key, besides its secret: its policy, and how far it is used up.
//!
//! Invariant: a field can only take away. A key without any of them has what its owner's grants
//! give, so a field that is lost must be an error where it is read and never an open door.

use crate::domain::endpoint::Endpoints;
use crate::domain::grant::Models;
use crate::domain::key::binding::Binding;
use crate::domain::key::labels::{ExternalId, Labels, Note};
use crate::domain::key::{KeyDigest, KeyId};
use crate::domain::network::Networks;
use crate::domain::owner::OwnerPath;
use crate::domain::timestamp::Timestamp;

/// What is known about a key. What few keys have is behind one pointer, because a gateway holds
/// all keys in memory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyRecord {
    /// Public name.
    pub id: KeyId,
    /// Whom the key belongs to; its grants lie on this path.
    pub owner: OwnerPath,
    /// What the stored form of the secret is.
    pub digest: KeyDigest,
    /// Limits of the key itself, beyond its owner's grants.
    pub narrowing: Narrowing,
    /// When it was made.
    pub created_at: Timestamp,
    /// Before this moment it is refused.
    pub not_before: Option<Timestamp>,
    /// From this moment on it is refused.
    pub expires_at: Option<Timestamp>,
    /// Since when it is revoked, for good.
    pub revoked_at: Option<Timestamp>,
    /// How often it may be used; `None` is as often as one likes.
    pub uses: Option<Uses>,
    /// True while it is refused, until someone enables it again.
    pub disabled: bool,
    /// What few keys have; `None` when it has none of it. See [`KeyDetails::boxed`].
    pub details: Option<Box<KeyDetails>>,
}

/// What a key may do at most, on top of its owner's grants. A list that is absent narrows nothing.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Narrowing {
    /// Where the key may be used from.
    pub networks: Option<Networks>,
    /// What the key may call.
    pub endpoints: Option<Endpoints>,
    /// Which models the key may name.
    pub models: Option<Models>,
}

/// How often a key may still be used.
///
/// In a snapshot of the store `left` is exact only in being zero or not: it is counted in the
/// store, claim by claim, and the snapshot learns when it comes to zero or leaves it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Uses {
    /// How often; a key with none left is spent.
    pub left: u32,
    /// True when a use is given back whose backend failed: could not be reached, broke off, or said
    /// itself that it failed (5xx).
    pub refund_on_failure: bool,
}

/// What few keys have.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct KeyDetails {
    /// Over whose connections alone the key works.
    pub bound_to: Option<Binding>,
    /// The operator's own words about the key; never decide anything.
    pub labels: Labels,
    /// A remark; never decides anything.
    pub note: Option<Note>,
    /// The key that this one took the place of.
    pub rotated_from: Option<KeyId>,
    /// Its name in the system that it was imported from; no other key of the store has it.
    pub external_id: Option<ExternalId>,
}

impl KeyDetails {
    /// The form in which a record holds them: nothing at all when there are none.
    #[must_use]
    pub fn boxed(self) -> Option<Box<Self>> {
        (self != Self::default()).then(|| Box::new(self))
    }
}

/// What a key is good for at a moment, by itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KeyState {
    /// It can be used.
    Active,
    /// Its time has not come.
    NotYet,
    /// Its time is over.
    Expired,
    /// It was revoked, for good.
    Revoked,
    /// It is switched off.
    Disabled,
    /// It was used as often as it may be.
    Spent,
}

impl KeyState {
    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::NotYet => "not_yet",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
            Self::Disabled => "disabled",
            Self::Spent => "spent",
        }
    }
}

impl KeyRecord {
    /// A key that may do whatever its owner's grants say, for as long as they say it.
    #[must_use]
    pub const fn new(id: KeyId, owner: OwnerPath, digest: KeyDigest, created_at: Timestamp) -> Self {
        Self {
            id,
            owner,
            digest,
            narrowing: Narrowing { networks: None, endpoints: None, models: None },
            created_at,
            not_before: None,
            expires_at: None,
            revoked_at: None,
            uses: None,
            disabled: false,
            details: None,
        }
    }

    /// What the key is good for at `now`. Of several reasons against it the most final is told;
    /// [`KeyState::Spent`] only when there is no other.
    #[must_use]
    pub fn state(&self, now: Timestamp) -> KeyState {
        if self.revoked_at.is_some() {
            KeyState::Revoked
        } else if self.expires_at.is_some_and(|end| now >= end) {
            KeyState::Expired
        } else if self.disabled {
            KeyState::Disabled
        } else if self.not_before.is_some_and(|begin| now < begin) {
            KeyState::NotYet
        } else if self.uses.is_some_and(|uses| uses.left == 0) {
            KeyState::Spent
        } else {
            KeyState::Active
        }
    }

    /// Over whose connections alone the key works.
    #[must_use]
    pub fn bound_to(&self) -> Option<&Binding> {
        self.details.as_ref()?.bound_to.as_ref()
    }

    /// What few keys have, for reading and copying.
    #[must_use]
    pub fn details(&self) -> KeyDetails {
        self.details.as_deref().cloned().unwrap_or_default()
    }

    /// Its name in the system that it was imported from.
    #[must_use]
    pub fn external_id(&self) -> Option<&ExternalId> {
        self.details.as_ref()?.external_id.as_ref()
    }
}

/// What is to be different about a key. `None` leaves a field as it is, `Some(None)` clears it.
/// Whom a key belongs to and what it was made of never changes.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
#[expect(missing_docs, reason = "the fields are those of KeyRecord, KeyDetails and Narrowing")]
pub struct KeyChange {
    pub networks: Option<Option<Networks>>,
    pub endpoints: Option<Option<Endpoints>>,
    pub models: Option<Option<Models>>,
    pub not_before: Option<Option<Timestamp>>,
    pub expires_at: Option<Option<Timestamp>>,
    pub uses: Option<Option<Uses>>,
    pub disabled: Option<bool>,
    pub bound_to: Option<Option<Binding>>,
    pub labels: Option<Labels>,
    pub note: Option<Option<Note>>,
    pub external_id: Option<Option<ExternalId>>,
}

impl KeyChange {
    /// The record as it is after the change.
    #[must_use]
    pub fn applied_to(&self, record: &KeyRecord) -> KeyRecord {
        fn changed<T: Clone>(change: Option<&T>, old: &T) -> T {
            change.unwrap_or(old).clone()
        }
        let details = record.details();
        KeyRecord {
            narrowing: Narrowing {
                networks: changed(self.networks.as_ref(), &record.narrowing.networks),
                endpoints: changed(self.endpoints.as_ref(), &record.narrowing.endpoints),
                models: changed(self.models.as_ref(), &record.narrowing.models),
            },
            not_before: changed(self.not_before.as_ref(), &record.not_before),
            expires_at: changed(self.expires_at.as_ref(), &record.expires_at),
            uses: changed(self.uses.as_ref(), &record.uses),
            disabled: changed(self.disabled.as_ref(), &record.disabled),
            details: KeyDetails {
                bound_to: changed(self.bound_to.as_ref(), &details.bound_to),
                labels: changed(self.labels.as_ref(), &details.labels),
                note: changed(self.note.as_ref(), &details.note),
                external_id: changed(self.external_id.as_ref(), &details.external_id),
                rotated_from: details.rotated_from,
            }
            .boxed(),
            id: record.id,
            owner: record.owner.clone(),
            digest: record.digest.clone(),
            created_at: record.created_at,
            revoked_at: record.revoked_at,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_seconds(seconds)
    }

    fn key() -> KeyRecord {
        let id = KeyId::parse("0123456789ab").unwrap();
        KeyRecord::new(id, OwnerPath::parse("a/b").unwrap(), KeyDigest::from_bytes([1; 32]), at(0))
    }

    #[test]
    fn the_state_is_exact_and_the_most_final() {
        let uses = |left| Some(Uses { left, refund_on_failure: false });
        let check = |record: KeyRecord, now, state| assert_eq!(record.state(at(now)), state, "{record:?} at {now}");
        check(key(), 5, KeyState::Active);
        check(KeyRecord { not_before: Some(at(5)), ..key() }, 4, KeyState::NotYet);
        check(KeyRecord { not_before: Some(at(5)), ..key() }, 5, KeyState::Active);
        check(KeyRecord { expires_at: Some(at(5)), ..key() }, 4, KeyState::Active);
        check(KeyRecord { expires_at: Some(at(5)), ..key() }, 5, KeyState::Expired);
        check(KeyRecord { uses: uses(1), ..key() }, 5, KeyState::Active);
        check(KeyRecord { uses: uses(0), ..key() }, 5, KeyState::Spent);
        check(KeyRecord { uses: uses(0), disabled: true, ..key() }, 5, KeyState::Disabled);
        let dead = KeyRecord { revoked_at: Some(at(1)), expires_at: Some(at(2)), disabled: true, ..key() };
        check(dead, 5, KeyState::Revoked);
    }

    #[test]
    fn a_change_touches_what_it_names_and_nothing_else() {
        let details = KeyDetails {
            bound_to: Some(Binding::parse("spiffe://corp.example/client/alice").unwrap()),
            labels: Labels::parse([("team", "x")]).unwrap(),
            note: Some(Note::parse("for the demo").unwrap()),
            rotated_from: Some(KeyId::parse("ba9876543210").unwrap()),
            external_id: Some(ExternalId::parse("crm-17").unwrap()),
        };
        let full = KeyRecord {
            not_before: Some(at(1)),
            expires_at: Some(at(9)),
            uses: Some(Uses { left: 3, refund_on_failure: true }),
            disabled: true,
            details: details.boxed(),
            ..key()
        };
        assert_eq!(KeyChange::default().applied_to(&full), full);
        let change = KeyChange {
            not_before: Some(None),
            expires_at: Some(Some(at(7))),
            uses: Some(None),
            disabled: Some(false),
            bound_to: Some(None),
            labels: Some(Labels::default()),
            note: Some(None),
            external_id: Some(None),
            ..KeyChange::default()
        };
        let changed = change.applied_to(&full);
        let rotated = KeyDetails { rotated_from: full.details().rotated_from, ..KeyDetails::default() };
        assert_eq!(changed, KeyRecord { expires_at: Some(at(7)), details: rotated.boxed(), ..key() });
    }

    #[test]
    fn a_key_without_details_holds_none() {
        assert_eq!(KeyDetails::default().boxed(), None);
        assert!(size_of::<KeyRecord>() <= 256, "{} bytes for each of 100,000", size_of::<KeyRecord>());
    }
}

//! Enrollment bundles as the store keeps them.

use std::net::IpAddr;

use crate::domain::identity::Identity;
use crate::domain::network::Networks;
use crate::domain::timestamp::Timestamp;
use crate::store::rows::Serial;

/// A bundle that was made. Of its secret there is a hash only.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewEnrollment {
    /// Its public name: 16 lower-case hexadecimal digits.
    pub id: String,
    /// Whose certificate it will become.
    pub identity: Identity,
    /// SHA-256 of its secret.
    pub secret_sha256: [u8; 32],
    /// From where it works; `None` where that is not said.
    pub networks: Option<Networks>,
    /// When it was made.
    pub created_at: Timestamp,
    /// From this moment on it is refused.
    pub expires_at: Timestamp,
}

/// A bundle, with what became of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EnrollmentRecord {
    /// What was made.
    pub enrollment: NewEnrollment,
    /// When it was used, and the certificate that it became.
    pub used: Option<(Timestamp, Serial)>,
    /// When it was revoked, unused.
    pub revoked_at: Option<Timestamp>,
}

/// What can be done with a bundle.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum EnrollmentState {
    /// It can be used, once.
    Open,
    /// It was used.
    Used,
    /// It was revoked before.
    Revoked,
    /// It was not used in time.
    Expired,
}

impl EnrollmentState {
    /// The word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Used => "used",
            Self::Revoked => "revoked",
            Self::Expired => "expired",
        }
    }
}

impl EnrollmentRecord {
    /// What can be done with it at `now`.
    #[must_use]
    pub fn state(&self, now: Timestamp) -> EnrollmentState {
        if self.used.is_some() {
            EnrollmentState::Used
        } else if self.revoked_at.is_some() {
            EnrollmentState::Revoked
        } else if now >= self.enrollment.expires_at {
            EnrollmentState::Expired
        } else {
            EnrollmentState::Open
        }
    }

    /// True when it may be used from `address`.
    #[must_use]
    pub fn admits(&self, address: IpAddr) -> bool {
        self.enrollment.networks.as_ref().is_none_or(|networks| networks.admit(address))
    }
}

/// What became of a renewal.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Renewed<T> {
    /// The next certificate is on record.
    Renewed(T),
    /// No certificate of this number was issued here.
    Unknown,
    /// The certificate was revoked.
    Revoked,
    /// Its identity has as many good certificates as it may.
    TooMany,
}

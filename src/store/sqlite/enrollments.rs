//! Enrollment bundles, and the certificates that come of them and of renewals.
//!
//! Invariant: a bundle is taken, its certificate signed and recorded, and the line for the records
//! written in one transaction that holds the write lock from its start. So of many who use a bundle at
//! once one gets a certificate, and a crash leaves either all of it or nothing.

use rusqlite::{OptionalExtension, params};

use crate::domain::audit::{Deed, Event};
use crate::domain::notification::Kind;
use crate::domain::timestamp::Timestamp;
use crate::store::codec;
use crate::store::enrollment::{EnrollmentRecord, NewEnrollment, Renewed};
use crate::store::error::StoreError;
use crate::store::rows::{CertificateRecord, NewCertificate, Revoked, Serial};
use crate::store::sqlite::certificates::{self, is_subject_revoked, record};
use crate::store::sqlite::events::note;
use crate::store::sqlite::{Sqlite, all, new_row, next_revision, notifications};

impl Sqlite {
    /// Stores a bundle, durably. Bundles that ended before `forget` go: their certificates tell of
    /// them.
    ///
    /// # Errors
    ///
    /// [`StoreError::NameRevoked`] when its name is revoked; [`StoreError::Exists`] when its id is
    /// taken.
    pub fn create_enrollment(&mut self, new: &NewEnrollment, forget: Timestamp) -> Result<(), StoreError> {
        let uri = new.identity.uri();
        self.noting(|transaction, actor| {
            if is_subject_revoked(transaction, uri)? {
                return Err(StoreError::NameRevoked(uri.to_owned()));
            }
            transaction.execute("DELETE FROM enrollments WHERE expires_at < ?1", [forget.as_millis()])?;
            let networks = new.networks.as_ref().map(|networks| codec::list(&networks.entries()));
            let inserted = transaction.execute(
                "INSERT INTO enrollments (id, uri, secret_sha256, networks, created_at, expires_at)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                params![
                    new.id,
                    uri,
                    new.secret_sha256,
                    networks,
                    new.created_at.as_millis(),
                    new.expires_at.as_millis()
                ],
            );
            new_row(inserted, || format!("bundle {}", new.id))?;
            next_revision(transaction)?;
            let event =
                Event { bundle: Some(&new.id), identity: Some(uri), ..event(new.created_at, Deed::BundleCreated) };
            note(transaction, actor, &event)
        })
    }

    /// Every bundle that is not forgotten, oldest first.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    pub fn list_enrollments(&self) -> Result<Vec<EnrollmentRecord>, StoreError> {
        let sql = format!("SELECT {} FROM enrollments ORDER BY created_at, id", columns());
        all(&self.connection, &sql, &[], codec::enrollment)
    }

    /// The bundle of this id.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    pub fn enrollment(&self, id: &str) -> Result<Option<EnrollmentRecord>, StoreError> {
        let sql = format!("SELECT {} FROM enrollments WHERE id = ?1", columns());
        Ok(all(&self.connection, &sql, &[&id], codec::enrollment)?.pop())
    }

    /// Revokes a bundle that was not used, durably. One that was used is as good as revoked.
    ///
    /// # Errors
    ///
    /// When the store cannot be written.
    pub fn revoke_enrollment(&mut self, id: &str, now: Timestamp) -> Result<Revoked, StoreError> {
        self.noting(|transaction, actor| {
            let found: Option<(bool, String)> = transaction
                .query_row(
                    "SELECT used_at IS NULL AND revoked_at IS NULL, uri FROM enrollments WHERE id = ?1",
                    [id],
                    |row| Ok((row.get(0)?, row.get(1)?)),
                )
                .optional()?;
            let uri = match found {
                None => return Ok(Revoked::Unknown),
                Some((false, _)) => return Ok(Revoked::AlreadyRevoked),
                Some((true, uri)) => uri,
            };
            transaction
                .execute("UPDATE enrollments SET revoked_at = ?2 WHERE id = ?1", params![id, now.as_millis()])?;
            next_revision(transaction)?;
            let event = Event { bundle: Some(id), identity: Some(&uri), ..event(now, Deed::BundleRevoked) };
            note(transaction, actor, &event)?;
            Ok(Revoked::Revoked)
        })
    }

    /// Turns a bundle into a certificate. `sign` is told what the bundle is at this moment (`None`:
    /// there is none), decides, and signs; nobody else can use the bundle meanwhile. When it fails,
    /// nothing has changed.
    ///
    /// # Errors
    ///
    /// What `sign` says; [`StoreError::Exists`] when the bundle was used or revoked, whatever `sign`
    /// says; as [`Self::record_certificate`].
    pub fn redeem<T, E: From<StoreError>>(
        &mut self,
        id: &str,
        now: Timestamp,
        sign: impl FnOnce(Option<&EnrollmentRecord>) -> Result<(NewCertificate, T), E>,
    ) -> Result<T, E> {
        self.noting(|transaction, actor| {
            let sql = format!("SELECT {} FROM enrollments WHERE id = ?1", columns());
            let found = all(transaction, &sql, &[&id], codec::enrollment)?.pop();
            let (certificate, signed) = sign(found.as_ref())?;
            record(transaction, &certificate)?;
            let serial = certificate.serial.to_string();
            let claimed = transaction
                .execute(
                    "UPDATE enrollments SET used_at = ?2, serial = ?3
                     WHERE id = ?1 AND used_at IS NULL AND revoked_at IS NULL",
                    params![id, now.as_millis(), serial],
                )
                .map_err(StoreError::from)?;
            if claimed != 1 {
                return Err(StoreError::Exists(format!("a certificate of bundle {id}")).into());
            }
            let event = Event { bundle: Some(id), ..certificates::event_of(&certificate, Deed::CertificateIssued) };
            note(transaction, actor, &event)?;
            let data = || certificates::told(&certificate, None);
            notifications::queue(transaction, Kind::CertificateIssued, now, data)?;
            Ok(signed)
        })
    }

    /// Records the next certificate of the holder of `serial`. `sign` is told what is on record of that
    /// one, decides, and signs.
    ///
    /// # Errors
    ///
    /// What `sign` says; as [`Self::record_certificate`].
    pub fn renew<T, E: From<StoreError>>(
        &mut self,
        serial: &Serial,
        sign: impl FnOnce(&CertificateRecord) -> Result<(NewCertificate, T), E>,
    ) -> Result<Renewed<T>, E> {
        self.noting(|transaction, actor| {
            let Some(current) = certificates::find(transaction, serial)? else { return Ok(Renewed::Unknown) };
            let identity = current.certificate.identity.uri();
            if current.revoked.is_some()
                || is_subject_revoked(transaction, identity)?
                || certificates::is_compromised(transaction, &current.certificate.spki_sha256)?
            {
                return Ok(Renewed::Revoked);
            }
            let (certificate, signed) = sign(&current)?;
            record(transaction, &certificate)?;
            let before = format!("after {serial}");
            let event =
                Event { detail: Some(&before), ..certificates::event_of(&certificate, Deed::CertificateRenewed) };
            note(transaction, actor, &event)?;
            let data = || certificates::told(&certificate, None);
            notifications::queue(transaction, Kind::CertificateRenewed, certificate.issued_at, data)?;
            Ok(Renewed::Renewed(signed))
        })
    }
}

fn columns() -> String {
    codec::ENROLLMENT.join(", ")
}

/// An event that says nothing yet but what and when.
pub(super) const fn event<'a>(ts: Timestamp, event: Deed) -> Event<'a> {
    Event { ts, event, identity: None, serial: None, not_after: None, bundle: None, detail: None }
}

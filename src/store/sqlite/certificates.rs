//! Certificates that were issued, and what is revoked among them.

use std::time::Duration;

use rusqlite::{Connection, Transaction, params};

use crate::domain::audit::{Deed, Event};
use crate::domain::identity::{Identity, IdentityName, Role, TrustDomain};
use crate::domain::notification::{Data, Kind};
use crate::domain::timestamp::Timestamp;
use crate::store::codec;
use crate::store::error::StoreError;
use crate::store::rows::{CertificateRecord, CertificateRevoked, NameRevoked, NewCertificate, Reason, Serial};
use crate::store::snapshot::DenySet;
use crate::store::sqlite::events::note;
use crate::store::sqlite::{Sqlite, all, new_row, next_revision, notifications};

/// Certificates are on record this long after their end.
const KEPT: Duration = Duration::from_secs(30 * 24 * 3600);
/// And those that were revoked so long: should a clock be ahead for a while, what is revoked must not be
/// forgotten by it. A key that was compromised is never forgotten.
const KEPT_REVOKED: Duration = Duration::from_secs(400 * 24 * 3600);
/// So many are forgotten at once.
const FORGOTTEN_AT_ONCE: i64 = 100;

impl Sqlite {
    /// Stores an issued certificate. It is durable when this returns, so sign, record, hand out.
    ///
    /// # Errors
    ///
    /// [`StoreError::NameRevoked`] when its name was revoked, even in between;
    /// [`StoreError::KeyCompromised`] when its key was; [`StoreError::Exists`] when the serial number is
    /// taken.
    pub fn record_certificate(&mut self, certificate: &NewCertificate) -> Result<(), StoreError> {
        self.noting(|transaction, actor| {
            record(transaction, certificate)?;
            note(transaction, actor, &event_of(certificate, Deed::CertificateIssued))?;
            let data = || told(certificate, None);
            notifications::queue(transaction, Kind::CertificateIssued, certificate.issued_at, data)
        })
    }

    /// Every certificate, oldest first, expired and revoked ones included.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    pub fn list_certificates(&self) -> Result<Vec<CertificateRecord>, StoreError> {
        let sql = format!("SELECT {} FROM certificates ORDER BY issued_at, serial", columns());
        all(&self.connection, &sql, &[], codec::certificate)
    }

    /// For each role the moment at which somebody is left without a good certificate first, unless
    /// another is issued: of each identity its last certificate counts.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    pub fn soonest_ends(&self, now: Timestamp) -> Result<Vec<(Role, Timestamp)>, StoreError> {
        let sql = "SELECT role, min(last) FROM
                       (SELECT role, max(not_after) AS last FROM certificates WHERE revoked_at IS NULL GROUP BY uri)
                   WHERE last > ?1 GROUP BY role";
        let rows = all(&self.connection, sql, &[&now.as_millis()], |row| {
            let (role, last): (String, i64) = (row.get(0)?, row.get(1)?);
            Ok((role, Timestamp::from_millis(last)))
        })?;
        Ok(rows.into_iter().filter_map(|(role, last)| Some((Role::parse(&role).ok()?, last))).collect())
    }

    /// The certificate of this number.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    pub fn certificate(&self, serial: &Serial) -> Result<Option<CertificateRecord>, StoreError> {
        find(&self.connection, serial)
    }

    /// Every certificate that is revoked and ends after `since`, oldest revocation first.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    pub fn revoked_certificates(&self, since: Timestamp) -> Result<Vec<CertificateRecord>, StoreError> {
        let sql = format!(
            "SELECT {} FROM certificates WHERE revoked_at IS NOT NULL AND not_after > ?1 ORDER BY revoked_at, serial",
            columns()
        );
        all(&self.connection, &sql, &[&since.as_millis()], codec::certificate)
    }

    /// Revokes one certificate for good. It is durable when this returns. Of one that was revoked before,
    /// the reason can become that its key was compromised (RFC 5280, section 5.3.1, has it as the one that
    /// matters to whoever verifies what was signed); no other change of a reason denies more.
    ///
    /// # Errors
    ///
    /// When the store cannot be written.
    pub fn revoke_certificate(
        &mut self,
        serial: &Serial,
        reason: Reason,
        now: Timestamp,
    ) -> Result<CertificateRevoked, StoreError> {
        self.noting(|transaction, actor| {
            let Some(CertificateRecord { certificate, revoked }) = find(transaction, serial)? else {
                return Ok(CertificateRevoked::Unknown);
            };
            let (done, at, detail) = match revoked {
                None => (CertificateRevoked::Newly, now, reason.as_str().to_owned()),
                Some((at, before)) if reason == Reason::KeyCompromise && before != reason => {
                    let detail = format!("{}; it was revoked before: {}", reason.as_str(), before.as_str());
                    (CertificateRevoked::Compromised, at, detail)
                }
                Some(_) => return Ok(CertificateRevoked::Before),
            };
            transaction.execute(
                "UPDATE certificates SET revoked_at = ?2, reason = ?3, revision = ?4 WHERE serial = ?1",
                params![serial.to_string(), at.as_millis(), reason.as_str(), next_denied_revision(transaction)?],
            )?;
            let event = Event { ts: now, detail: Some(&detail), ..event_of(&certificate, Deed::CertificateRevoked) };
            note(transaction, actor, &event)?;
            notifications::queue(transaction, Kind::CertificateRevoked, now, || told(&certificate, Some(reason)))?;
            Ok(done)
        })
    }

    /// Revokes a name in every role, with all its certificates and unused bundles, for good, and with
    /// those that would be issued later, until [`Self::reinstate`]. A name without certificates can be
    /// revoked too. What was revoked before keeps its time, and its reason as with
    /// [`Self::revoke_certificate`].
    ///
    /// # Errors
    ///
    /// When the store cannot be written.
    pub fn revoke_name(
        &mut self,
        domain: &TrustDomain,
        name: &IdentityName,
        reason: Reason,
        now: Timestamp,
    ) -> Result<NameRevoked, StoreError> {
        let compromise = reason == Reason::KeyCompromise;
        let (reason, at) = (reason.as_str(), now.as_millis());
        self.noting(|transaction, actor| {
            let revision = next_denied_revision(transaction)?;
            let mut done = NameRevoked { newly: false, certificates: 0, compromised: 0, bundles: 0 };
            for identity in Role::ALL.map(|role| Identity::new(domain, role, name)) {
                let subjects = transaction.execute(
                    "INSERT INTO revocations (uri, revoked_at, reason, revision) VALUES (?1, ?2, ?3, ?4)
                     ON CONFLICT (uri) DO NOTHING",
                    params![identity.uri(), at, reason, revision],
                )?;
                done.newly |= subjects > 0;
                if compromise {
                    transaction.execute(
                        "UPDATE revocations SET reason = ?2, revision = ?3 WHERE uri = ?1 AND reason <> ?2",
                        params![identity.uri(), reason, revision],
                    )?;
                    done.compromised += transaction.execute(
                        "UPDATE certificates SET reason = ?2, revision = ?3
                         WHERE uri = ?1 AND revoked_at IS NOT NULL AND reason <> ?2",
                        params![identity.uri(), reason, revision],
                    )?;
                }
                done.certificates += transaction.execute(
                    "UPDATE certificates SET revoked_at = ?2, reason = ?3, revision = ?4
                     WHERE uri = ?1 AND revoked_at IS NULL",
                    params![identity.uri(), at, reason, revision],
                )?;
                done.bundles += transaction.execute(
                    "UPDATE enrollments SET revoked_at = ?2 WHERE uri = ?1 AND used_at IS NULL AND revoked_at IS NULL",
                    params![identity.uri(), at],
                )?;
            }
            if done.newly || done.certificates + done.compromised + done.bundles > 0 {
                let NameRevoked { certificates, compromised, bundles, .. } = done;
                let mut what = format!("{name} of {domain}: {reason}; {certificates} certificates, {bundles} bundles");
                if compromised > 0 {
                    what += &format!("; {compromised} certificates that were revoked before");
                }
                note(transaction, actor, &Event { detail: Some(&what), ..Event::new(now, Deed::NameRevoked) })?;
            }
            if done.newly || done.certificates + done.compromised > 0 {
                notifications::queue(transaction, Kind::CertificateRevoked, now, || Data::Name {
                    trust_domain: domain.to_string(),
                    name: name.to_string(),
                    certificates: done.certificates,
                    reason,
                })?;
            }
            Ok(done)
        })
    }

    /// True when the name is revoked as a whole.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    pub fn is_name_revoked(&self, domain: &TrustDomain, name: &IdentityName) -> Result<bool, StoreError> {
        let revoked =
            Role::ALL.map(|role| is_subject_revoked(&self.connection, Identity::new(domain, role, name).uri()));
        revoked.into_iter().try_fold(false, |any, one| Ok(any | one?))
    }

    /// Lets new certificates be issued for a revoked name; the old ones stay revoked. False when
    /// the name was not revoked.
    ///
    /// # Errors
    ///
    /// When the store cannot be written.
    pub fn reinstate(&mut self, domain: &TrustDomain, name: &IdentityName, now: Timestamp) -> Result<bool, StoreError> {
        self.noting(|transaction, actor| {
            next_denied_revision(transaction)?;
            let mut lifted = 0;
            for identity in Role::ALL.map(|role| Identity::new(domain, role, name)) {
                lifted += transaction.execute("DELETE FROM revocations WHERE uri = ?1", [identity.uri()])?;
            }
            if lifted > 0 {
                let what = format!("{name} of {domain}");
                note(transaction, actor, &Event { detail: Some(&what), ..Event::new(now, Deed::NameReinstated) })?;
            }
            Ok(lifted > 0)
        })
    }

    /// All that is revoked among certificates. A public key is denied when it was compromised:
    /// another reason does not speak against the key, which a later certificate may have again.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    pub fn denied(&self) -> Result<DenySet, StoreError> {
        denied(&self.connection)
    }
}

/// What webhooks are told of a certificate.
pub(super) fn told(certificate: &NewCertificate, reason: Option<Reason>) -> Data {
    Data::Certificate {
        serial: certificate.serial.to_string(),
        identity: certificate.identity.to_string(),
        not_after: certificate.not_after.to_string(),
        reason: reason.map(Reason::as_str),
    }
}

fn columns() -> String {
    codec::CERTIFICATE.join(", ")
}

pub(super) fn denied(connection: &Connection) -> Result<DenySet, StoreError> {
    let sql = format!("SELECT {} FROM certificates WHERE revoked_at IS NOT NULL", columns());
    let mut denied = DenySet::default();
    for record in all(connection, &sql, &[], codec::certificate)? {
        denied.serials.insert(record.certificate.serial.as_bytes().into());
        if matches!(record.revoked, Some((_, Reason::KeyCompromise))) {
            denied.public_keys.insert(record.certificate.spki_sha256);
        }
    }
    let subjects: Vec<String> = all(connection, "SELECT uri FROM revocations", &[], |row| Ok(row.get(0)?))?;
    denied.subjects.extend(subjects.into_iter().map(String::into_boxed_str));
    Ok(denied)
}

/// The certificate of this number.
pub(super) fn find(connection: &Connection, serial: &Serial) -> Result<Option<CertificateRecord>, StoreError> {
    let sql = format!("SELECT {} FROM certificates WHERE serial = ?1", columns());
    Ok(all(connection, &sql, &[&serial.to_string()], codec::certificate)?.pop())
}

/// Stores a certificate, unless its name or its key is revoked. A few that ended long ago go.
pub(super) fn record(transaction: &Transaction<'_>, certificate: &NewCertificate) -> Result<(), StoreError> {
    let identity = &certificate.identity;
    if is_subject_revoked(transaction, identity.uri())? {
        return Err(StoreError::NameRevoked(identity.uri().to_owned()));
    }
    if is_compromised(transaction, &certificate.spki_sha256)? {
        return Err(StoreError::KeyCompromised);
    }
    forget(transaction, certificate.issued_at)?;
    let revision = next_revision(transaction)?;
    let inserted = transaction.execute(
        "INSERT INTO certificates
             (serial, uri, role, name, not_before, not_after, spki_sha256, issued_at, revision)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        params![
            certificate.serial.to_string(),
            identity.uri(),
            identity.role().as_str(),
            codec::name_of(identity),
            certificate.not_before.as_millis(),
            certificate.not_after.as_millis(),
            certificate.spki_sha256,
            certificate.issued_at.as_millis(),
            revision
        ],
    );
    new_row(inserted, || format!("certificate {}", certificate.serial))
}

/// Forgets certificates that ended long ago, and the bundles that they came of: nothing can be done with
/// them any more. The records tell of them.
fn forget(transaction: &Transaction<'_>, now: Timestamp) -> Result<(), StoreError> {
    let (ended, revoked) = (now.before(KEPT).as_millis(), now.before(KEPT_REVOKED).as_millis());
    transaction.execute(
        "DELETE FROM enrollments WHERE id IN (SELECT id FROM enrollments WHERE expires_at < ?1 LIMIT ?2)",
        params![ended, FORGOTTEN_AT_ONCE],
    )?;
    transaction.execute(
        "DELETE FROM certificates WHERE serial IN (
             SELECT serial FROM certificates
             WHERE not_after < ?1
                 AND (revoked_at IS NULL OR (not_after < ?2 AND reason <> 'key-compromise'))
                 AND NOT EXISTS (SELECT 1 FROM enrollments WHERE enrollments.serial = certificates.serial)
             LIMIT ?3)",
        params![ended, revoked, FORGOTTEN_AT_ONCE],
    )?;
    Ok(())
}

/// What is written down of something that was done with a certificate: when it was signed, unless
/// that is said otherwise.
pub(super) fn event_of(certificate: &NewCertificate, deed: Deed) -> Event<'_> {
    Event {
        identity: Some(certificate.identity.uri()),
        serial: Some(certificate.serial.to_string()),
        not_after: Some(certificate.not_after),
        ..Event::new(certificate.issued_at, deed)
    }
}

/// True when a certificate of this key was revoked because others know the key.
pub(super) fn is_compromised(connection: &Connection, spki_sha256: &[u8; 32]) -> Result<bool, StoreError> {
    let sql = "SELECT EXISTS (SELECT 1 FROM certificates WHERE spki_sha256 = ?1 AND reason = 'key-compromise')";
    Ok(connection.query_row(sql, [spki_sha256], |row| row.get(0))?)
}

pub(super) fn is_subject_revoked(connection: &Connection, uri: &str) -> Result<bool, StoreError> {
    let sql = "SELECT EXISTS (SELECT 1 FROM revocations WHERE uri = ?1)";
    Ok(connection.query_row(sql, [uri], |row| row.get(0))?)
}

/// Notes that what is denied has changed, in this transaction.
fn next_denied_revision(transaction: &Transaction<'_>) -> rusqlite::Result<i64> {
    let revision = next_revision(transaction)?;
    transaction.execute("UPDATE meta SET denied_revision = ?1", [revision])?;
    Ok(revision)
}

//! Between rows and domain types.
//!
//! Invariant: a row is read whole or not at all. A narrowing that cannot be understood must not
//! become no narrowing, so it is an error that names the row.

use rusqlite::Row;
use rusqlite::types::FromSql;

use crate::domain::endpoint::Endpoints;
use crate::domain::grant::Models;
use crate::domain::identity::Identity;
use crate::domain::key::{KeyDigest, KeyId, KeyRecord, Narrowing};
use crate::domain::network::Networks;
use crate::domain::owner::OwnerPath;
use crate::domain::timestamp::Timestamp;
use crate::store::error::StoreError;
use crate::store::rows::{CertificateRecord, NewCertificate, Reason, Serial};

/// A list as it is stored: a JSON array of text.
pub(super) fn list(entries: &[String]) -> String {
    serde_json::Value::from(entries).to_string()
}

/// The last segment of a SPIFFE ID.
pub(super) fn name_of(identity: &Identity) -> &str {
    identity.path().rsplit('/').next().unwrap_or_default()
}

pub(super) fn key(row: &Row<'_>) -> Result<KeyRecord, StoreError> {
    let id: String = row.get("id")?;
    let read = Reader { row, what: &format!("key {id}") };
    Ok(KeyRecord {
        id: read.with("id", |text: String| KeyId::parse(&text))?,
        owner: read.with("owner", |text: String| OwnerPath::parse(&text))?,
        digest: read.with("digest", |bytes| Ok(KeyDigest::from_bytes(bytes)))?,
        narrowing: Narrowing {
            networks: read.list("networks", Networks::parse::<String>)?,
            endpoints: read.list("endpoints", Endpoints::parse::<String>)?,
            models: read.list("models", Models::parse::<String>)?,
        },
        created_at: read.time("created_at")?,
        expires_at: read.maybe_time("expires_at")?,
        revoked_at: read.maybe_time("revoked_at")?,
    })
}

pub(super) fn certificate(row: &Row<'_>) -> Result<CertificateRecord, StoreError> {
    let serial: String = row.get("serial")?;
    let read = Reader { row, what: &format!("certificate {serial}") };
    let revoked_at = read.maybe_time("revoked_at")?;
    let reason: Option<String> = row.get("reason")?;
    let reason = reason.map(|text| Reason::parse(&text)).transpose().map_err(|why| read.wrong("reason", &why))?;
    Ok(CertificateRecord {
        certificate: NewCertificate {
            serial: read.with("serial", |text: String| Serial::parse(&text))?,
            identity: read.with("uri", |text: String| Identity::parse(&text))?,
            not_before: read.time("not_before")?,
            not_after: read.time("not_after")?,
            spki_sha256: read.with("spki_sha256", Ok)?,
            issued_at: read.time("issued_at")?,
        },
        revoked: revoked_at.zip(reason),
    })
}

/// Reads the columns of one row; errors say which row and column.
struct Reader<'a> {
    row: &'a Row<'a>,
    what: &'a str,
}

impl Reader<'_> {
    fn with<T: FromSql, U>(&self, column: &str, parse: impl FnOnce(T) -> Result<U, String>) -> Result<U, StoreError> {
        parse(self.row.get(column).map_err(|error| self.wrong(column, &error.to_string()))?)
            .map_err(|why| self.wrong(column, &why))
    }

    fn time(&self, column: &str) -> Result<Timestamp, StoreError> {
        self.with(column, |millis| Ok(Timestamp::from_millis(millis)))
    }

    fn maybe_time(&self, column: &str) -> Result<Option<Timestamp>, StoreError> {
        self.with(column, |millis: Option<i64>| Ok(millis.map(Timestamp::from_millis)))
    }

    fn list<T>(
        &self,
        column: &str,
        parse: impl FnOnce(&[String]) -> Result<T, Vec<(usize, String)>>,
    ) -> Result<Option<T>, StoreError> {
        self.with(column, |text: Option<String>| {
            let Some(text) = text else { return Ok(None) };
            let entries: Vec<String> = serde_json::from_str(&text).map_err(|error| error.to_string())?;
            parse(&entries).map(Some).map_err(|wrong| {
                let reasons: Vec<_> = wrong.into_iter().map(|(_, why)| why).collect();
                reasons.join("; ")
            })
        })
    }

    fn wrong(&self, column: &str, why: &str) -> StoreError {
        StoreError::Row { what: self.what.to_owned(), why: format!("{column}: {why}") }
    }
}

//! Between rows and domain types.
//!
//! Invariant: a row is read whole or not at all. A narrowing that cannot be understood must not
//! become no narrowing, so it is an error that names the row.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use rusqlite::Row;
use rusqlite::types::FromSql;

use crate::domain::endpoint::Endpoints;
use crate::domain::grant::{Grant, Models, Require};
use crate::domain::identity::Identity;
use crate::domain::key::{
    Binding, ExternalId, Hashing, KeyDetails, KeyDigest, KeyId, KeyRecord, Labels, Narrowing, Note, Uses,
};
use crate::domain::network::Networks;
use crate::domain::origin::Origins;
use crate::domain::owner::OwnerPath;
use crate::domain::timestamp::Timestamp;
use crate::domain::webhook::{Hooked, WebhookName};
use crate::store::enrollment::{EnrollmentRecord, NewEnrollment};
use crate::store::error::StoreError;
use crate::store::rows::{CertificateRecord, NewCertificate, OwnerRow, Reason, Serial};

/// What [`key`] reads.
pub(super) const KEY: [&str; 19] = [
    "id",
    "owner",
    "digest",
    "hashing",
    "networks",
    "endpoints",
    "models",
    "created_at",
    "not_before",
    "expires_at",
    "revoked_at",
    "uses_left",
    "refund_on_failure",
    "disabled",
    "bound_to",
    "labels",
    "note",
    "rotated_from",
    "external_id",
];
/// What [`certificate`] reads.
pub(super) const CERTIFICATE: [&str; 8] =
    ["serial", "uri", "not_before", "not_after", "spki_sha256", "issued_at", "revoked_at", "reason"];
/// What [`enrollment`] reads.
pub(super) const ENROLLMENT: [&str; 9] =
    ["id", "uri", "secret_sha256", "networks", "created_at", "expires_at", "used_at", "serial", "revoked_at"];
/// What [`grant`] reads.
pub(super) const GRANT: [&str; 11] = [
    "owner",
    "require",
    "networks",
    "endpoints",
    "models",
    "cors_origins",
    "expires_at",
    "default_key_ttl",
    "max_key_ttl",
    "webhook",
    "accept_fail_open",
];
/// What [`owner`] reads.
const OWNER: [&str; 4] = ["path", "disabled_at", "keys", "granted"];

/// A list as it is stored: a JSON array of text.
pub(super) fn list(entries: &[String]) -> String {
    serde_json::Value::from(entries).to_string()
}

/// Labels as they are stored: a JSON object of text.
pub(super) fn labels(labels: &Labels) -> Option<String> {
    let object: serde_json::Map<_, _> = labels.iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
    (!labels.is_empty()).then(|| serde_json::Value::from(object).to_string())
}

/// A span as it is stored: milliseconds.
pub(super) fn millis(span: Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX)
}

/// The last segment of a SPIFFE ID.
pub(super) fn name_of(identity: &Identity) -> &str {
    identity.path().rsplit('/').next().unwrap_or_default()
}

/// Lists that were read before: many keys have the same ones, and then share them.
#[derive(Default)]
pub(super) struct Lists {
    networks: Known<Networks>,
    endpoints: Known<Endpoints>,
    models: Known<Models>,
    origins: Known<Origins>,
}

/// Lists by the text that they were stored as; bounded.
struct Known<T>(RefCell<HashMap<Box<str>, T>>);

impl<T> Default for Known<T> {
    fn default() -> Self {
        Self(RefCell::default())
    }
}

const MAX_KNOWN: usize = 1024;

pub(super) fn key(row: &Row<'_>, lists: &Lists) -> Result<KeyRecord, StoreError> {
    let read = Reader { row, kind: "key", columns: &KEY };
    let hashing = read.with("hashing", |text: String| {
        Hashing::ALL.into_iter().find(|way| way.as_str() == text).ok_or_else(|| format!("{text:?} is not known"))
    })?;
    let left = read.with("uses_left", |left: Option<u32>| Ok(left))?;
    let refund_on_failure = read.with("refund_on_failure", Ok)?;
    Ok(KeyRecord {
        id: read.with("id", |text: String| KeyId::parse(&text))?,
        owner: read.with("owner", |text: String| OwnerPath::parse(&text))?,
        digest: read.with("digest", |bytes| Ok(KeyDigest::new(bytes, hashing)))?,
        narrowing: Narrowing {
            networks: read.list("networks", &lists.networks, Networks::parse::<String>)?,
            endpoints: read.list("endpoints", &lists.endpoints, Endpoints::parse::<String>)?,
            models: read.list("models", &lists.models, Models::parse::<String>)?,
        },
        created_at: read.time("created_at")?,
        not_before: read.maybe_time("not_before")?,
        expires_at: read.maybe_time("expires_at")?,
        revoked_at: read.maybe_time("revoked_at")?,
        uses: left.map(|left| Uses { left, refund_on_failure }),
        disabled: read.with("disabled", Ok)?,
        details: KeyDetails {
            bound_to: read.maybe("bound_to", Binding::parse)?,
            labels: read.maybe("labels", labels_of)?.unwrap_or_default(),
            note: read.maybe("note", Note::parse)?,
            rotated_from: read.maybe("rotated_from", KeyId::parse)?,
            external_id: read.maybe("external_id", ExternalId::parse)?,
        }
        .boxed(),
    })
}

fn labels_of(text: &str) -> Result<Labels, String> {
    let labels: BTreeMap<String, String> = serde_json::from_str(text).map_err(|error| error.to_string())?;
    Labels::parse(labels).map_err(joined)
}

pub(super) fn grant(row: &Row<'_>) -> Result<Grant, StoreError> {
    let read = Reader { row, kind: "the grant of", columns: &GRANT };
    let lists = Lists::default();
    Ok(Grant {
        owner: read.with("owner", |text: String| OwnerPath::parse(&text))?,
        require: read.maybe("require", Require::parse)?,
        networks: read.list("networks", &lists.networks, Networks::parse::<String>)?,
        endpoints: read.list("endpoints", &lists.endpoints, Endpoints::parse::<String>)?,
        models: read.list("models", &lists.models, Models::parse::<String>)?,
        cors_origins: read.list("cors_origins", &lists.origins, Origins::parse::<String>)?,
        expires_at: read.maybe_time("expires_at")?,
        default_key_ttl: read.maybe_span("default_key_ttl")?,
        max_key_ttl: read.maybe_span("max_key_ttl")?,
        webhook: match read.maybe("webhook", WebhookName::parse)? {
            None => None,
            Some(name) => Some(Hooked { name, accept_fail_open: read.with("accept_fail_open", Ok)? }),
        },
    })
}

pub(super) fn owner(row: &Row<'_>) -> Result<OwnerRow, StoreError> {
    let read = Reader { row, kind: "owner", columns: &OWNER };
    Ok(OwnerRow {
        owner: read.with("path", |text: String| OwnerPath::parse(&text))?,
        disabled_at: read.maybe_time("disabled_at")?,
        keys: read.with("keys", |count: i64| u64::try_from(count).map_err(|error| error.to_string()))?,
        granted: read.with("granted", Ok)?,
    })
}

pub(super) fn certificate(row: &Row<'_>) -> Result<CertificateRecord, StoreError> {
    let read = Reader { row, kind: "certificate", columns: &CERTIFICATE };
    let revoked_at = read.maybe_time("revoked_at")?;
    let reason = read.maybe("reason", Reason::parse)?;
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

pub(super) fn enrollment(row: &Row<'_>) -> Result<EnrollmentRecord, StoreError> {
    let read = Reader { row, kind: "bundle", columns: &ENROLLMENT };
    let used_at = read.maybe_time("used_at")?;
    let serial = read.maybe("serial", Serial::parse)?;
    Ok(EnrollmentRecord {
        enrollment: NewEnrollment {
            id: read.with("id", Ok)?,
            identity: read.with("uri", |text: String| Identity::parse(&text))?,
            secret_sha256: read.with("secret_sha256", Ok)?,
            networks: read.list("networks", &Lists::default().networks, Networks::parse::<String>)?,
            created_at: read.time("created_at")?,
            expires_at: read.time("expires_at")?,
        },
        used: used_at.zip(serial),
        revoked_at: read.maybe_time("revoked_at")?,
    })
}

/// Reads the columns of one row; errors say which row and column.
struct Reader<'a> {
    row: &'a Row<'a>,
    /// What kind of row it is.
    kind: &'static str,
    /// The names of the columns, in the order that they were asked for; the first is the row's own
    /// name. SQLite is not asked for them: with 100,000 rows that would take a third of the time.
    columns: &'static [&'static str],
}

impl Reader<'_> {
    fn with<T: FromSql, U>(&self, column: &str, parse: impl FnOnce(T) -> Result<U, String>) -> Result<U, StoreError> {
        let index = self.columns.iter().position(|name| *name == column).unwrap_or(usize::MAX);
        parse(self.row.get(index).map_err(|error| self.wrong(column, &error.to_string()))?)
            .map_err(|why| self.wrong(column, &why))
    }

    fn time(&self, column: &str) -> Result<Timestamp, StoreError> {
        self.with(column, |millis| Ok(Timestamp::from_millis(millis)))
    }

    fn maybe_time(&self, column: &str) -> Result<Option<Timestamp>, StoreError> {
        self.with(column, |millis: Option<i64>| Ok(millis.map(Timestamp::from_millis)))
    }

    fn maybe_span(&self, column: &str) -> Result<Option<Duration>, StoreError> {
        self.with(column, |millis: Option<i64>| {
            millis.map(|millis| u64::try_from(millis).map(Duration::from_millis)).transpose().map_err(|e| e.to_string())
        })
    }

    fn maybe<T>(&self, column: &str, parse: impl FnOnce(&str) -> Result<T, String>) -> Result<Option<T>, StoreError> {
        self.with(column, |text: Option<String>| text.map(|text| parse(&text)).transpose())
    }

    fn list<T: Clone>(
        &self,
        column: &str,
        known: &Known<T>,
        parse: impl FnOnce(&[String]) -> Result<T, Vec<(usize, String)>>,
    ) -> Result<Option<T>, StoreError> {
        self.with(column, |text: Option<Box<str>>| {
            let Some(text) = text else { return Ok(None) };
            if let Some(list) = known.0.borrow().get(&text) {
                return Ok(Some(list.clone()));
            }
            let entries: Vec<String> = serde_json::from_str(&text).map_err(|error| error.to_string())?;
            let list = parse(&entries).map_err(joined)?;
            let mut known = known.0.borrow_mut();
            if known.len() < MAX_KNOWN {
                known.insert(text, list.clone());
            }
            Ok(Some(list))
        })
    }

    fn wrong(&self, column: &str, why: &str) -> StoreError {
        let name: String = self.row.get(0).unwrap_or_default();
        StoreError::Row { what: format!("{} {name}", self.kind), why: format!("{column}: {why}") }
    }
}

fn joined(wrong: Vec<(usize, String)>) -> String {
    let reasons: Vec<_> = wrong.into_iter().map(|(_, why)| why).collect();
    reasons.join("; ")
}

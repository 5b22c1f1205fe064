//! Certificates that were issued: listed and revoked. They are issued where the authority's key is.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::domain::identity::IdentityName;
use crate::domain::timestamp::{Timestamp, parse_span};
use crate::manage::Manager;
use crate::manage::fault::{Code, Fault};
use crate::manage::fields::Reading;
use crate::manage::operation::{Method, Operation};
use crate::manage::page::{self, Page};
use crate::store::rows::{CertificateRecord, CertificateRevoked, Reason, Serial};

/// A certificate, as verbs show it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Certificate {
    /// Its serial number: lower-case hexadecimal digits.
    pub serial: String,
    /// Who it says the holder is: a SPIFFE ID.
    pub identity: String,
    /// What can be done with it.
    pub state: CertificateState,
    /// When it was signed.
    pub issued_at: String,
    /// From this moment on it is refused.
    pub not_after: String,
    /// Since when it is revoked.
    pub revoked_at: Option<String>,
    /// Why it was revoked.
    pub reason: Option<String>,
}

/// What can be done with a certificate.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CertificateState {
    /// It is good.
    Active,
    /// It was revoked, for good.
    Revoked,
    /// It has ended.
    Expired,
}

impl CertificateState {
    /// The word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Revoked => "revoked",
            Self::Expired => "expired",
        }
    }
}

impl Certificate {
    fn new(record: &CertificateRecord, now: Timestamp) -> Self {
        let certificate = &record.certificate;
        let state = match record.revoked {
            Some(_) => CertificateState::Revoked,
            None if now >= certificate.not_after => CertificateState::Expired,
            None => CertificateState::Active,
        };
        Self {
            serial: certificate.serial.to_string(),
            identity: certificate.identity.to_string(),
            state,
            issued_at: certificate.issued_at.to_string(),
            not_after: certificate.not_after.to_string(),
            revoked_at: record.revoked.map(|(at, _)| at.to_string()),
            reason: record.revoked.map(|(_, reason)| reason.as_str().to_owned()),
        }
    }
}

/// Lists certificates, oldest first.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ListCertificates {
    /// Only those that are good now and end within this span, such as 7d.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expiring: Option<String>,
    /// `next` of the page before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// Most entries of a page: 1 to 1000, 100 when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub limit: Option<u32>,
}

impl Operation for ListCertificates {
    type Answer = Page<Certificate>;

    const NAME: &'static str = "listCertificates";
    const SUMMARY: &'static str = "List issued certificates";
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/v1/certificates";

    fn perform(self, manager: &mut Manager<'_>) -> Result<Self::Answer, Fault> {
        let now = manager.now;
        let mut reading = Reading::default();
        let span = reading.optional("expiring", self.expiring.as_deref(), parse_span);
        reading.finish()?;
        let limit = page::limit(self.limit)?;
        let soon = span.map(|span| now.after(span));
        let records = manager.store.list_certificates()?;
        let wanted = records.iter().filter(|record| {
            let end = record.certificate.not_after;
            soon.is_none_or(|soon| now < end && end <= soon && record.revoked.is_none())
        });
        let place = |record: &&CertificateRecord| {
            format!("{:015}-{}", record.certificate.issued_at.as_millis(), record.certificate.serial)
        };
        let page = page::cut(wanted, self.cursor.as_deref(), limit, place);
        let items = page.items.into_iter().map(|record| Certificate::new(record, now)).collect();
        Ok(Page { items, next: page.next })
    }
}

/// Revokes one certificate for good.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RevokeCertificate {
    /// Its serial number, in hexadecimal.
    pub serial: String,
    /// Why: one of the reasons of RFC 5280 that fit, such as key-compromise; "unspecified" when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A certificate that is revoked.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct RevokedCertificate {
    /// Its serial number.
    pub serial: String,
    /// False when it was revoked before; the first time stays, and the reason unless its key is compromised.
    pub newly: bool,
    /// True when it was revoked before, for another reason, and its key counts as compromised from now on.
    pub compromised: bool,
}

impl Operation for RevokeCertificate {
    type Answer = RevokedCertificate;

    const NAME: &'static str = "revokeCertificate";
    const SUMMARY: &'static str = "Revoke a certificate for good, within a second";
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/v1/certificates/{serial}/revoke";

    fn perform(self, manager: &mut Manager<'_>) -> Result<Self::Answer, Fault> {
        let mut reading = Reading::default();
        let serial = reading.value("serial", &self.serial, Serial::parse);
        let reason = read_reason(&mut reading, self.reason.as_deref());
        reading.finish()?;
        let serial = serial.ok_or_else(|| Fault::field("serial", "is missing"))?;
        let (newly, compromised) = match manager.store.revoke_certificate(&serial, reason, manager.now)? {
            CertificateRevoked::Newly => (true, false),
            CertificateRevoked::Compromised => (false, true),
            CertificateRevoked::Before => (false, false),
            CertificateRevoked::Unknown => {
                return Err(Fault::new(Code::NotFound, format!("no certificate has the serial number {serial}"))
                    .hint("`doorward cert list` shows all serial numbers"));
            }
        };
        Ok(RevokedCertificate { serial: serial.to_string(), newly, compromised })
    }
}

/// Revokes a name: every certificate and every unused bundle of it, in every role, now and later.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RevokeName {
    /// The name, such as alice.
    pub name: String,
    /// Why: one of the reasons of RFC 5280 that fit, such as key-compromise; "unspecified" when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A name that is revoked.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct RevokedName {
    /// The name.
    pub name: String,
    /// False when it was revoked before.
    pub newly: bool,
    /// How many certificates ended by it.
    pub certificates: usize,
    /// How many that were revoked before, for another reason, count as compromised from now on.
    pub compromised: usize,
    /// How many unused enrollment bundles ended by it.
    pub bundles: usize,
}

impl Operation for RevokeName {
    type Answer = RevokedName;

    const NAME: &'static str = "revokeName";
    const SUMMARY: &'static str = "Revoke a name with all its certificates, within a second";
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/v1/names/{name}/revoke";

    fn perform(self, manager: &mut Manager<'_>) -> Result<Self::Answer, Fault> {
        let mut reading = Reading::default();
        let name = reading.value("name", &self.name, IdentityName::parse);
        let reason = read_reason(&mut reading, self.reason.as_deref());
        reading.finish()?;
        let name = name.ok_or_else(|| Fault::field("name", "is missing"))?;
        let domain = manager.policy.trust_domain.as_ref().ok_or_else(|| {
            Fault::new(Code::Conflict, "there is no authority whose names could be revoked")
                .hint("`doorward ca init` makes one; certificates of other authorities are revoked by those")
        })?;
        let done = manager.store.revoke_name(domain, &name, reason, manager.now)?;
        Ok(RevokedName {
            name: name.to_string(),
            newly: done.newly,
            certificates: done.certificates,
            compromised: done.compromised,
            bundles: done.bundles,
        })
    }
}

fn read_reason(reading: &mut Reading, text: Option<&str>) -> Reason {
    reading.optional("reason", text, Reason::parse).unwrap_or(Reason::Unspecified)
}

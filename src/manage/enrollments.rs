//! Enrollment bundles: made, listed, revoked. They are used at the gateway's `enroll` name.

use std::borrow::Cow;
use std::time::Duration;

use aws_lc_rs::rand;
use rustls_pki_types::CertificateDer;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::ca::bundle::{Bundle, BundleId, BundleSecret, MAX_ADDRESSES, RootPin};
use crate::config::Reachable;
use crate::domain::audit::{Deed, Event};
use crate::domain::gateway_address::{GatewayAddress, GatewayName, HostName};
use crate::domain::identity::{Identity, IdentityName, Role, TrustDomain};
use crate::domain::network::Networks;
use crate::domain::timestamp::{Timestamp, parse_span};
use crate::manage::fault::{Code, Fault};
use crate::manage::fields::{Reading, Revealed};
use crate::manage::operation::{Method, Operation};
use crate::manage::page::{self, Page};
use crate::manage::{Manager, Policy};
use crate::store::enrollment::{EnrollmentRecord, EnrollmentState, NewEnrollment};
use crate::store::error::StoreError;
use crate::store::rows::Revoked;

/// How long a bundle works when nobody says.
pub const DEFAULT_TTL: Duration = Duration::from_secs(15 * 60);
const MIN_TTL: Duration = Duration::from_secs(60);
const MAX_TTL: Duration = Duration::from_secs(24 * 3600);
/// Bundles that ended so long ago are forgotten.
const KEPT: Duration = Duration::from_secs(30 * 24 * 3600);

/// What bundles say of the gateway.
#[derive(Clone, Debug)]
pub struct Enrollment {
    /// How it is reached, as its config says; `None` when there is no config to be found.
    pub reachable: Result<Option<Reachable>, Fault>,
    /// The newest root of the built-in authority.
    pub root: Option<CertificateDer<'static>>,
}

/// Makes a bundle with which somebody gets a certificate, once.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateEnrollment {
    /// Whom the certificate will be for, such as alice.
    pub name: String,
    /// client or connector.
    pub role: String,
    /// How long the bundle works: 1m to 24h, 15m when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<String>,
    /// Networks that it works from; from anywhere when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub networks: Option<Vec<String>>,
    /// Where its holder connects to, HOST:PORT, instead of what the config advertises.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub addresses: Option<Vec<String>>,
}

/// A bundle that was just made.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct NewBundle {
    /// The bundle itself, shown this once.
    pub bundle: RevealedBundle,
    /// Its name in lists and records.
    pub id: String,
    /// From this moment on it is refused.
    pub expires_at: String,
}

/// A bundle on its way to its holder, as [`Revealed`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RevealedBundle(Revealed);

impl RevealedBundle {
    /// The bundle itself, for the one place that shows it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        self.0.reveal()
    }
}

impl JsonSchema for RevealedBundle {
    fn schema_name() -> Cow<'static, str> {
        "Bundle".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        schemars::json_schema!({ "type": "string", "pattern": "^dwe1\\.[0-9A-Za-z_-]+$" })
    }
}

impl Operation for CreateEnrollment {
    type Answer = NewBundle;

    const NAME: &'static str = "createEnrollment";
    const SUMMARY: &'static str = "Make an enrollment bundle; it is shown in this answer and never again";
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/v1/enrollments";
    const CREATES: bool = true;

    fn perform(self, manager: &mut Manager<'_>) -> Result<Self::Answer, Fault> {
        let now = manager.now;
        let wanted = self.read(now)?;
        let (domain, bundle) = wanted.bundle(manager.policy)?;
        let new = NewEnrollment {
            id: bundle.id.to_string(),
            identity: Identity::new(domain, bundle.role, &bundle.name),
            secret_sha256: bundle.secret.hash(),
            networks: wanted.networks,
            created_at: now,
            expires_at: bundle.expires_at,
        };
        let text = bundle.reveal().map_err(|fault| unfit(&fault.to_string()))?;
        let created = manager.store.create_enrollment(&new, now.before(KEPT));
        if let Err(StoreError::NameRevoked(uri)) = &created {
            let refusal = Event::new(now, Deed::CertificateRefused);
            let why = Some("a bundle for a revoked name");
            manager.store.note(&Event { identity: Some(uri), detail: why, ..refusal })?;
            return Err(Fault::new(Code::Conflict, format!("{} is revoked", bundle.name))
                .hint("`doorward cert issue NAME --reinstate` lifts the revocation of a name"));
        }
        created?;
        let bundle = RevealedBundle(Revealed::new(&text));
        Ok(NewBundle { bundle, id: new.id, expires_at: new.expires_at.to_string() })
    }
}

/// A bundle that is asked for, its fields read.
struct Wanted {
    name: IdentityName,
    role: Role,
    expires_at: Timestamp,
    networks: Option<Networks>,
    addresses: Option<Vec<GatewayAddress>>,
}

impl CreateEnrollment {
    /// Fails when the request is wrong whatever the gateway is.
    ///
    /// # Errors
    ///
    /// All that is wrong.
    pub fn check(&self, now: Timestamp) -> Result<(), Fault> {
        self.read(now).map(drop)
    }

    fn read(&self, now: Timestamp) -> Result<Wanted, Fault> {
        let mut reading = Reading::default();
        let name = reading.value("name", &self.name, IdentityName::parse);
        let role = reading.value("role", &self.role, |text| match Role::parse(text)? {
            Role::Operator => {
                Err("operators are not enrolled; on the gateway's machine: doorward cert issue NAME --role operator"
                    .to_owned())
            }
            role @ (Role::Client | Role::Connector) => Ok(role),
        });
        let ttl = reading.optional("ttl", self.ttl.as_deref(), |text| {
            let ttl = parse_span(text)?;
            if (MIN_TTL..=MAX_TTL).contains(&ttl) { Ok(ttl) } else { Err("must be 1m to 24h".to_owned()) }
        });
        let networks = reading.list("networks", self.networks.as_ref(), Networks::parse);
        let addresses = reading.list("addresses", self.addresses.as_ref(), read_addresses);
        reading.finish()?;
        let (Some(name), Some(role)) = (name, role) else { return Err(Fault::field("name", "is missing")) };
        // Bundles say when they end to the millisecond, and lists to the second.
        let expires_at = Timestamp::from_seconds(now.after(ttl.unwrap_or(DEFAULT_TTL)).as_seconds());
        Ok(Wanted { name, role, expires_at, networks, addresses })
    }
}

fn read_addresses(entries: &[String]) -> Result<Vec<GatewayAddress>, Vec<(usize, String)>> {
    if !(1..=MAX_ADDRESSES).contains(&entries.len()) {
        return Err(vec![(0, format!("must be 1 to {MAX_ADDRESSES}"))]);
    }
    let (mut read, mut wrong) = (Vec::new(), Vec::new());
    for (index, entry) in entries.iter().enumerate() {
        match GatewayAddress::parse(entry) {
            Ok(address) => read.push(address),
            Err(why) => wrong.push((index, why)),
        }
    }
    if wrong.is_empty() { Ok(read) } else { Err(wrong) }
}

impl Wanted {
    /// The bundle, with a new secret.
    fn bundle<'p>(&self, policy: &'p Policy) -> Result<(&'p TrustDomain, Bundle), Fault> {
        let (Some(domain), Some(root)) = (&policy.trust_domain, &policy.enrollment.root) else {
            return Err(Fault::new(Code::Conflict, "there is no authority that could issue certificates")
                .hint("`doorward ca init` makes one"));
        };
        let reachable = policy.enrollment.reachable.as_ref().map_err(Clone::clone)?;
        let Some(reachable) = reachable else {
            return Err(Fault::new(Code::Conflict, "no config says how the gateway is reached")
                .hint("name the gateway's config: --config FILE"));
        };
        let names = &reachable.names;
        let Some(enroll) = names.enroll.first() else {
            return Err(Fault::new(Code::Conflict, "the gateway has no name for enrollment")
                .hint("add one to names in [listen], such as enroll = [\"enroll.corp.example\"]"));
        };
        let addresses = self.addresses.clone().unwrap_or_else(|| reachable.addresses.clone());
        if addresses.is_empty() {
            return Err(Fault::new(Code::Conflict, "nobody would know where to connect to")
                .hint("--address HOST:PORT, or advertise = [\"gw.corp.example:8443\"] in [listen]"));
        }
        if self.role == Role::Connector && names.connect.is_empty() {
            return Err(Fault::new(Code::Conflict, "the gateway has no name for connectors")
                .hint("add one to names in [listen], such as connect = [\"connect.corp.example\"]"));
        }
        let (mut id, mut secret) = ([0; 8], Zeroizing::new([0; 32]));
        rand::fill(&mut id)
            .and_then(|()| rand::fill(&mut *secret))
            .map_err(|_| Fault::new(Code::Failed, "the operating system gave no random bytes"))?;
        let bundle = Bundle {
            addresses,
            enroll: HostName::parse(enroll).map_err(|why| unfit(&why))?,
            connect: names.connect.first().map(|name| HostName::parse(name)).transpose().map_err(|why| unfit(&why))?,
            api: names
                .api
                .first()
                .map_or(Err("no name for callers".to_owned()), |name| GatewayName::parse(name))
                .map_err(|why| unfit(&why))?,
            pin: RootPin::of(root),
            id: BundleId::from_random(id),
            secret: BundleSecret::from_random(*secret),
            role: self.role,
            name: self.name.clone(),
            expires_at: self.expires_at,
        };
        Ok((domain, bundle))
    }
}

fn unfit(why: &str) -> Fault {
    Fault::new(Code::Failed, format!("no bundle can be made of what the config says: {why}"))
}

/// A bundle, as verbs show it: never with its secret.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Enrollment")]
pub struct ShownEnrollment {
    /// Its name in lists and records.
    pub id: String,
    /// Whom its certificate is for: a SPIFFE ID.
    pub identity: String,
    /// What can be done with it.
    pub state: ShownState,
    /// Networks that it works from; null when from anywhere.
    pub networks: Option<Vec<String>>,
    /// When it was made.
    pub created_at: String,
    /// From this moment on it is refused.
    pub expires_at: String,
    /// When it was used.
    pub used_at: Option<String>,
    /// The serial number of the certificate that it became.
    pub serial: Option<String>,
    /// When it was revoked.
    pub revoked_at: Option<String>,
}

/// What can be done with a bundle.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "EnrollmentState")]
pub enum ShownState {
    /// It can be used, once.
    Open,
    /// It became a certificate.
    Used,
    /// It was revoked, or its name.
    Revoked,
    /// It was not used in time.
    Expired,
}

impl ShownState {
    /// The word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => EnrollmentState::Open.as_str(),
            Self::Used => EnrollmentState::Used.as_str(),
            Self::Revoked => EnrollmentState::Revoked.as_str(),
            Self::Expired => EnrollmentState::Expired.as_str(),
        }
    }
}

impl From<EnrollmentState> for ShownState {
    fn from(state: EnrollmentState) -> Self {
        match state {
            EnrollmentState::Open => Self::Open,
            EnrollmentState::Used => Self::Used,
            EnrollmentState::Revoked => Self::Revoked,
            EnrollmentState::Expired => Self::Expired,
        }
    }
}

impl ShownEnrollment {
    fn new(record: &EnrollmentRecord, now: Timestamp) -> Self {
        let made = &record.enrollment;
        Self {
            id: made.id.clone(),
            identity: made.identity.to_string(),
            state: record.state(now).into(),
            networks: made.networks.as_ref().map(Networks::entries),
            created_at: made.created_at.to_string(),
            expires_at: made.expires_at.to_string(),
            used_at: record.used.as_ref().map(|(at, _)| at.to_string()),
            serial: record.used.as_ref().map(|(_, serial)| serial.to_string()),
            revoked_at: record.revoked_at.map(|at| at.to_string()),
        }
    }
}

/// Lists bundles, oldest first: those that are open, and those that ended in the last 30 days.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ListEnrollments {
    /// `next` of the page before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// Most entries of a page: 1 to 1000, 100 when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub limit: Option<u32>,
}

impl Operation for ListEnrollments {
    type Answer = Page<ShownEnrollment>;

    const NAME: &'static str = "listEnrollments";
    const SUMMARY: &'static str = "List enrollment bundles, without their secrets";
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/v1/enrollments";

    fn perform(self, manager: &mut Manager<'_>) -> Result<Self::Answer, Fault> {
        let limit = page::limit(self.limit)?;
        let records = manager.store.list_enrollments()?;
        let place = |record: &&EnrollmentRecord| {
            format!("{:015}-{}", record.enrollment.created_at.as_millis(), record.enrollment.id)
        };
        let page = page::cut(records.iter(), self.cursor.as_deref(), limit, place);
        let items = page.items.into_iter().map(|record| ShownEnrollment::new(record, manager.now)).collect();
        Ok(Page { items, next: page.next })
    }
}

/// Revokes a bundle that was not used.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RevokeEnrollment {
    /// Its id.
    pub id: String,
}

/// A bundle that cannot be used any more.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct RevokedEnrollment {
    /// Its id.
    pub id: String,
    /// False when it was used or revoked before.
    pub newly: bool,
    /// The serial number of the certificate that it had become, if it was used.
    pub serial: Option<String>,
}

impl Operation for RevokeEnrollment {
    type Answer = RevokedEnrollment;

    const NAME: &'static str = "revokeEnrollment";
    const SUMMARY: &'static str = "Revoke an enrollment bundle that was not used";
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/v1/enrollments/{id}/revoke";

    fn perform(self, manager: &mut Manager<'_>) -> Result<Self::Answer, Fault> {
        let id = BundleId::parse(&self.id)
            .ok_or_else(|| Fault::field("id", format!("{:?} is not 16 lower-case hexadecimal digits", self.id)))?;
        let id = id.to_string();
        let newly = match manager.store.revoke_enrollment(&id, manager.now)? {
            Revoked::Revoked => true,
            Revoked::AlreadyRevoked => false,
            Revoked::Unknown => {
                return Err(Fault::new(Code::NotFound, format!("no enrollment bundle has the id {id}"))
                    .hint("`doorward enroll list` shows all ids"));
            }
        };
        let used = manager.store.enrollment(&id)?.and_then(|record| record.used);
        Ok(RevokedEnrollment { id, newly, serial: used.map(|(_, serial)| serial.to_string()) })
    }
}

//! Where certificates are signed for those who come to the desk.
//!
//! Invariant: a bundle or a certificate is judged twice, by the same function: before anything is done
//! for its holder, without the store's write lock, and then within the transaction that signs. What is
//! signed is on record before anybody can see it, and names nobody but whom the bundle or the current
//! certificate names.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::CertificateDer;

use crate::ca::authority::{Authority, Issued};
use crate::ca::csr;
use crate::ca::exchange::{EnrollRequest, Granted, RenewRequest};
use crate::ca::plan::{DEFAULT_TTL, LeafPlan, MAX_TTL, MIN_TTL};
use crate::clock::Clock;
use crate::domain::audit::Actor;
use crate::domain::identity::{Identity, IdentityName};
use crate::domain::timestamp::Timestamp;
use crate::enroll::refusal::Refusal;
use crate::store::Store;
use crate::store::enrollment::{EnrollmentRecord, EnrollmentState, Renewed};
use crate::store::rows::{NewCertificate, Serial};
use crate::tls::peer::{self, Mapping, PeerCertificate, PeerFault};
use crate::tls::verify::CallerVerifier;

/// Everything that signing needs, as of one reload.
#[derive(Debug)]
pub struct Office {
    /// Where the store is.
    pub state_dir: PathBuf,
    /// Who signs.
    pub authority: Authority,
    /// Verifies certificates of the authority, and of no other.
    pub verifier: Arc<CallerVerifier>,
    /// Where the list of revoked certificates is, for certificates to say.
    pub crl: Option<String>,
}

/// Who is at the desk.
#[derive(Clone, Debug)]
pub struct Visitor {
    /// Where the request comes from.
    pub address: IpAddr,
    /// The certificate that was presented, leaf first; its key is the visitor's.
    pub chain: Vec<CertificateDer<'static>>,
    /// The id of the request.
    pub request_id: String,
}

/// What was issued.
#[derive(Clone, Debug)]
pub struct Signed {
    /// What the visitor gets.
    pub granted: Granted,
    /// What is on record.
    pub certificate: NewCertificate,
}

/// What is put on record of a certificate that `plan` became.
///
/// # Errors
///
/// When it does not read back as one of this authority.
pub fn row_of(
    authority: &Authority,
    plan: &LeafPlan,
    leaf: &CertificateDer<'_>,
    now: Timestamp,
) -> Result<NewCertificate, PeerFault> {
    let mapping = Mapping::BuiltIn(authority.trust_domain().clone());
    let read = peer::read(leaf, &peer::Authority::BuiltIn, &mapping)?;
    Ok(NewCertificate {
        serial: Serial::from_bytes(&read.serial),
        identity: read.identity.as_ref().clone(),
        not_before: plan.span().not_before,
        not_after: read.not_after,
        spki_sha256: read.spki_sha256,
        issued_at: now,
    })
}

impl Office {
    /// Turns a bundle into a certificate. Blocks.
    ///
    /// # Errors
    ///
    /// When it is not to be: nothing has changed then.
    pub fn enroll(&self, request: &EnrollRequest, visitor: &Visitor, clock: &Clock) -> Result<Signed, Refusal> {
        let id = request.id.to_string();
        let mut store = self.store(format!("bundle {id}"), visitor)?;
        let judge = |found: Option<&EnrollmentRecord>, now| self.judge(found, request, visitor.address, now);
        judge(store.enrollment(&id)?.as_ref(), clock.now())?;
        let key = csr::public_key(request.csr.as_bytes())?;
        store.redeem(&id, clock.now(), |found| {
            // Other writers may have been waited for: its time may be over by now.
            let now = clock.now();
            let identity = judge(found, now)?;
            self.sign(&identity, None, &key, now)
        })
    }

    /// Gives the holder of a certificate the next one. Blocks.
    ///
    /// # Errors
    ///
    /// When it is not to be: nothing has changed then.
    pub fn renew(&self, request: &RenewRequest, visitor: &Visitor, clock: &Clock) -> Result<Signed, Refusal> {
        let holder = self.holder(visitor)?;
        let key = csr::public_key(request.csr.as_bytes())?;
        if peer::sha256(&key) == holder.spki_sha256 {
            return Err(Refusal::csr("It is for the key of the current certificate: make another"));
        }
        let mut store = self.store(holder.identity.to_string(), visitor)?;
        let renewed = store.renew(&Serial::from_bytes(&holder.serial), |current| {
            let (current, now) = (&current.certificate, clock.now());
            // As with a bundle.
            self.holder(visitor)?;
            if current.identity != *holder.identity || current.spki_sha256 != holder.spki_sha256 {
                return Err(Refusal::certificate("it is not the one on record under its number"));
            }
            self.sign(&current.identity, Some(self.life_of(current, now)), &key, now)
        })?;
        match renewed {
            Renewed::Renewed(signed) => Ok(signed),
            Renewed::Unknown => Err(Refusal::certificate("no certificate of this number is on record")),
            Renewed::TooMany => Err(Refusal::too_many_good()),
            Renewed::Revoked => Err(Refusal::revoked("the certificate, its key or its name is revoked")),
        }
    }

    /// The holder of the certificate that was presented, when it is good now.
    ///
    /// # Errors
    ///
    /// When there is none, it has ended, or it is of another authority.
    pub fn holder(&self, visitor: &Visitor) -> Result<Arc<PeerCertificate>, Refusal> {
        if visitor.chain.is_empty() {
            return Err(Refusal::certificate("no certificate was presented"));
        }
        self.verifier.judge(&visitor.chain).map_err(Refusal::certificate)
    }

    /// Whose certificate a bundle may become, if it may now, for this visitor.
    fn judge(
        &self,
        found: Option<&EnrollmentRecord>,
        request: &EnrollRequest,
        address: IpAddr,
        now: Timestamp,
    ) -> Result<Identity, Refusal> {
        // A bundle that does not exist costs the same look.
        let nobodys = [0; 32];
        let hash = found.map_or(&nobodys, |record| &record.enrollment.secret_sha256);
        let is_right = request.secret.has_hash(hash);
        let (named, guess) = (
            |why: &str| Refusal::bundle(format!("bundle {}: {why}", request.id)),
            |why: &str| Refusal::guess(format!("bundle {}: {why}", request.id)),
        );
        let Some(record) = found else { return Err(guess("unknown")) };
        if !is_right {
            return Err(guess("the secret is wrong"));
        }
        match record.state(now) {
            EnrollmentState::Open => {}
            EnrollmentState::Used => return Err(named("used before")),
            EnrollmentState::Revoked => return Err(named("revoked")),
            EnrollmentState::Expired => return Err(named("expired")),
        }
        if !record.admits(address) {
            return Err(named("not for this network"));
        }
        if record.enrollment.identity.trust_domain() != self.authority.trust_domain().as_str() {
            return Err(named("of another trust domain"));
        }
        Ok(record.enrollment.identity.clone())
    }

    fn sign(
        &self,
        identity: &Identity,
        ttl: Option<Duration>,
        key: &[u8],
        now: Timestamp,
    ) -> Result<(NewCertificate, Signed), Refusal> {
        let name = identity.path().rsplit('/').next().unwrap_or_default();
        let name = IdentityName::parse(name).map_err(Refusal::unavailable)?;
        let plan = self.authority.plan_client(identity.role(), &name, ttl, now)?;
        let Issued { chain, pem } = self.authority.issue_client(&plan, key, self.crl.as_deref())?;
        let leaf = chain.first().ok_or_else(|| Refusal::unavailable("the authority issued nothing"))?;
        let certificate = row_of(&self.authority, &plan, leaf, now)
            .map_err(|fault| Refusal::unavailable(format!("the certificate cannot be read back: {fault}")))?;
        if certificate.identity != *identity {
            return Err(Refusal::unavailable("the certificate names somebody else"));
        }
        let granted = Granted { certificate: pem, ca: self.authority.bundle_pem().to_owned() };
        Ok((certificate.clone(), Signed { granted, certificate }))
    }

    /// A renewed certificate lives as long as the one before, and never past the issuer. What an issuer
    /// at its end has cut short does not stay so under the next one: holders that live for minutes do
    /// not outlive a gateway that is down for as long.
    fn life_of(&self, current: &NewCertificate, now: Timestamp) -> Duration {
        let second = Timestamp::from_seconds(now.as_seconds());
        let life = current.not_after.since(Timestamp::from_seconds(current.issued_at.as_seconds()));
        let least = if self.authority.has_older_issuer_until(current.not_after) { DEFAULT_TTL } else { MIN_TTL };
        life.clamp(least, MAX_TTL).min(self.authority.issuer_not_after().since(second))
    }

    fn store(&self, who: String, visitor: &Visitor) -> Result<Store, Refusal> {
        // Opened each time: a connection that was kept would go on writing to a file that was moved
        // away, and what it says there would count for nobody.
        let mut store = Store::open_existing(&self.state_dir)?;
        let client_ip = Some(visitor.address.to_string());
        store.act_as(Actor { who, client_ip, request_id: Some(visitor.request_id.clone()) });
        Ok(store)
    }
}

#[cfg(test)]
#[path = "office_tests.rs"]
mod tests;

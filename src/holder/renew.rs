//! The next certificate: with a new key, proven with the current one.
//!
//! Invariant: what is there stays usable until the next one is there whole; a refusal changes nothing.

use zeroize::Zeroizing;

use crate::ca::exchange::{RENEW, RenewRequest};
use crate::clock::Clock;
use crate::domain::identity::Identity;
use crate::holder::answer::{self, NewKey, Trusted};
use crate::holder::ask;
use crate::holder::credentials::Credentials;
use crate::holder::fault::HolderFault;
use crate::holder::files::{Lock, NewFiles, Place};
use crate::holder::origin::Origin;
use crate::holder::reach::Reach;

/// Renews the certificate in `place` now, however long the old one is still good, and puts the new
/// key, certificate and roots in its place.
///
/// # Errors
///
/// When the certificate has expired, no address leads to the gateway, or the gateway refuses.
pub async fn renew(place: &Place, origin: &Origin, reach: &Reach, clock: &Clock) -> Result<Credentials, HolderFault> {
    let lock = place.lock()?;
    let current = Credentials::load(place, clock)?;
    renew_locked(place, &current, (origin, reach), clock, &lock).await
}

/// As [`renew`], with the lock taken and the files read.
pub(super) async fn renew_locked(
    place: &Place,
    current: &Credentials,
    (origin, reach): (&Origin, &Reach),
    clock: &Clock,
    lock: &Lock,
) -> Result<Credentials, HolderFault> {
    current.check_alive(clock.now())?;
    let key = NewKey::generate()?;
    let body = serde_json::to_vec(&RenewRequest { csr: key.request()? });
    let body = body.map_err(|error| HolderFault::Crypto(error.to_string()))?;
    place.check_writable()?;
    let verified = ask::connect(&origin.addresses, &origin.enroll, current.config(), reach).await?;
    let address = verified.address.clone();
    let granted = ask::post(verified, RENEW, Zeroizing::new(body)).await?;
    let expected = |identity: &Identity| identity == current.identity();
    answer::check(&granted, &key, expected, &Trusted::Answered).map_err(|why| HolderFault::Answer { address, why })?;
    let new = NewFiles { key: &key.pem(), certificate: &granted.certificate, roots: &granted.ca, origin: None };
    place.write(&new, lock)?;
    Credentials::load(place, clock)
}

#[cfg(test)]
#[cfg(feature = "gateway")]
#[path = "renew_tests.rs"]
mod tests;

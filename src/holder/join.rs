//! The first certificate: from a bundle to files.
//!
//! Invariant: the bundle's secret leaves this machine only over a connection whose server has shown a
//! chain to the pinned root, and only once what the answer needs on this machine is there.

use crate::ca::bundle::Bundle;
use crate::ca::exchange::{ENROLL, EnrollRequest};
use crate::ca::plan::Span;
use crate::clock::Clock;
use crate::domain::identity::Identity;
use crate::holder::answer::{self, NewKey, Trusted};
use crate::holder::ask;
use crate::holder::fault::HolderFault;
use crate::holder::files::{NewFiles, Place};
use crate::holder::origin::Origin;
use crate::holder::reach::Reach;
use crate::holder::tls;

/// What came of it.
#[derive(Debug)]
pub struct Joined {
    /// Where the files are.
    pub place: Place,
    /// Who they make their holder.
    pub identity: Identity,
    /// When the certificate is valid, by the gateway's clock.
    pub span: Span,
}

/// Turns a bundle into an identity in `place`, whose name is the bundle's.
///
/// # Errors
///
/// When files are in the way, no address leads to the gateway, or the gateway refuses. Until the
/// gateway has answered, the bundle is not used up.
pub async fn join(bundle: &Bundle, place: Place, reach: &Reach, clock: &Clock) -> Result<Joined, HolderFault> {
    let lock = place.lock()?;
    place.check_free(bundle.pin)?;
    let now = clock.now();
    if now >= bundle.expires_at {
        return Err(HolderFault::BundleExpired { expired_at: bundle.expires_at, now });
    }
    let key = NewKey::generate()?;
    let request = EnrollRequest { id: bundle.id, secret: bundle.secret.clone(), csr: key.request()? };
    let body = request.reveal().map_err(|error| HolderFault::Crypto(error.to_string()))?;
    let origin = Origin::of(bundle).text()?;
    let config = tls::pinned_config(bundle.pin, clock).map_err(HolderFault::Crypto)?;
    let verified = ask::connect(&bundle.addresses, &bundle.enroll, config, reach).await?;
    let address = verified.address.clone();
    // A full disk must not cost the bundle.
    place.check_writable()?;
    let granted = ask::post(verified, ENROLL, body).await?;
    let path = format!("/{}/{}", bundle.role.as_str(), bundle.name);
    let expected = |identity: &Identity| identity.path() == path;
    let checked = answer::check(&granted, &key, expected, &Trusted::Pinned(bundle.pin))
        .map_err(|why| HolderFault::Answer { address, why })?;
    let new =
        NewFiles { key: &key.pem(), certificate: &granted.certificate, roots: &granted.ca, origin: Some(&origin) };
    place.write(&new, &lock)?;
    Ok(Joined { place, identity: checked.identity, span: checked.span })
}

#[cfg(test)]
#[cfg(feature = "gateway")]
#[path = "join_tests.rs"]
mod tests;

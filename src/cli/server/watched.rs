//! What a running gateway looks at from time to time: its files, and the ends of certificates.

use std::path::PathBuf;

use super::settings::open_authority;
use crate::ca::describe::Description;
use crate::cli::ca;
use crate::cli::output::Failure;
use crate::cli::seen::Seen;
use crate::config::{Config, ServerCertificate};
use crate::domain::timestamp::Timestamp;
use crate::store::Store;

/// When the first certificate of each role ends, in seconds since 1970.
pub(super) fn ends(config: &Config, now: Timestamp) -> Result<Vec<(&'static str, i64)>, Failure> {
    let store = Store::open(&config.state_dir).map_err(Failure::new)?;
    let issued = store.soonest_ends(now).map_err(Failure::new)?;
    let mut ends: Vec<_> = issued.into_iter().map(|(role, end)| (role.as_str(), end.as_seconds())).collect();
    if let Some(domain) = &config.trust_domain {
        ends.push(("issuer", open_authority(config, domain.as_str())?.issuer_not_after().as_seconds()));
    }
    // The internal one renews itself.
    if let ServerCertificate::Files { chain, .. } = &config.listen.certificate
        && let Some(leaf) = chain.first()
    {
        ends.push(("server", Description::read(leaf).map_err(Failure::new)?.span.not_after.as_seconds()));
    }
    Ok(ends)
}

/// How the files are that a reload looks at.
pub(super) fn seen(config: &Config) -> Seen {
    Seen::of(watched(config))
}

/// What a reload looks at. A changed authority is another directory in the place of the old one.
fn watched(config: &Config) -> impl Iterator<Item = PathBuf> {
    let authority = config.trust_domain.as_ref().map(|_| ca::directory(&config.state_dir));
    config.watched.iter().chain([&config.file]).cloned().chain(authority)
}

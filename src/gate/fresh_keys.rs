//! Check 2 for tokens whose key nobody here has seen yet: after an issuer has rotated its keys, the
//! first caller with a new token must not be turned away.

use std::sync::Arc;

use http::HeaderMap;
use tokio::time::Instant;

use crate::domain::refusal::{CredentialFault, Refusal};
use crate::gate::connection::Connection;
use crate::gate::identify::{Caller, identify};
use crate::gate::{Gateway, View};

/// As [`identify`]. When only fresher keys of an issuer could change a refusal, those are asked for
/// and waited for, within the bounds of [`Desk::fresh`](crate::token::desk::Desk::fresh); then the
/// caller is identified once more. The view that it was identified by is the one to go on with.
///
/// # Errors
///
/// As [`identify`].
pub async fn identify_with_fresh_keys(
    gateway: &Gateway,
    view: Arc<View>,
    connection: &Arc<Connection>,
    headers: &HeaderMap,
) -> Result<(Arc<View>, Caller), Refusal> {
    let refusal = match identify(gateway, &view, connection, headers) {
        Ok(caller) => return Ok((view, caller)),
        Err(refusal) => refusal,
    };
    let Refusal::InvalidCredentials(CredentialFault::Token(fault)) = &refusal else { return Err(refusal) };
    let Some(desk) = fault.cured_by_keys_of().and_then(|issuer| view.issuers.desk(issuer)) else { return Err(refusal) };
    let fetched = desk.fresh(Instant::now()).await;
    let now = gateway.view();
    // Without a fetch for us: the keys may have come between our view and our question.
    if !fetched && now.generation == view.generation {
        return Err(refusal);
    }
    identify(gateway, &now, connection, headers).map(|caller| (now, caller))
}

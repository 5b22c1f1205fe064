//! Check 11: a key of limited use is used once more, durably, before anything is forwarded.
//!
//! Invariant: forwarding takes a [`Claimed`], and of a limited key each of those is one use that
//! the store has counted. The losers of a race see what a spent key sees.

use crate::domain::event::Outcome;
use crate::domain::key::{KeyId, Uses};
use crate::domain::refusal::{Code, CredentialFault, Refusal};
use crate::gate::allow::Allowed;
use crate::gate::record::Record;
use crate::gate::replies;
use crate::gate::route::Routed;
use crate::gate::worker::Worker;
use crate::store::rows;
use crate::store::writer::Claims;

/// Proof of checks 1 to 11: nothing more can refuse the request.
#[derive(Debug)]
pub struct Claimed(Routed);

impl Claimed {
    /// What is to be forwarded.
    #[must_use]
    pub fn into_routed(self) -> Routed {
        self.0
    }
}

/// A use that the store has counted. Travels with the record, which knows how the request ends.
#[derive(Debug)]
pub struct ClaimedUse {
    claims: Claims,
    key: KeyId,
    refund_on_failure: bool,
}

impl ClaimedUse {
    /// The request is over: the use is given back if the key says so and its backend failed.
    pub fn over(self, outcome: Outcome, status: Option<u16>, code: Option<Code>) {
        if self.refund_on_failure && is_backend_failure(outcome, status, code) {
            self.claims.refund(self.key);
        }
    }
}

/// Claims a use, if the key of the request has a limited number of them. A caller who leaves
/// meanwhile gets it back, as does one whose request is refused meanwhile.
///
/// # Errors
///
/// The uniform 401 when none was left, `store_unavailable` when it could not be made durable,
/// whatever refuses the request meanwhile; `denied_by_webhook` as [`replies::check`] says, before that.
pub async fn claim(worker: &Worker, allowed: Allowed, body: &[u8], record: &mut Record) -> Result<Claimed, Refusal> {
    let routed = allowed.into_routed();
    // Here, since what is refused uses nothing up.
    replies::check(worker, &routed, body)?;
    let Some((key, Uses { refund_on_failure, .. })) = routed.admitted.limited_key else {
        return Ok(Claimed(routed));
    };
    let claims = &worker.gateway.claims;
    let outcome = tokio::select! {
        biased;
        refusal = routed.admitted.live.ended() => return Err(refusal),
        outcome = claims.claim(key) => outcome,
    };
    match outcome {
        Ok(rows::Claimed::Claimed) => {
            record.claimed(ClaimedUse { claims: claims.clone(), key, refund_on_failure });
            Ok(Claimed(routed))
        }
        // The limit was taken away a moment ago.
        Ok(rows::Claimed::Unlimited) => Ok(Claimed(routed)),
        Ok(rows::Claimed::Spent) => Err(Refusal::InvalidCredentials(CredentialFault::KeySpent(key))),
        Ok(rows::Claimed::Unknown) => Err(Refusal::InvalidCredentials(CredentialFault::UnknownKey(key))),
        Err(_) => Err(Refusal::StoreUnavailable("the use of the key could not be claimed durably")),
    }
}

/// True when a request ended as it did because of its backend: it could not be reached, broke off,
/// was silent for too long, or said itself that it failed.
const fn is_backend_failure(outcome: Outcome, status: Option<u16>, code: Option<Code>) -> bool {
    match outcome {
        Outcome::Refused => matches!(code, Some(Code::NoBackend | Code::BackendBroke | Code::BackendTimeout)),
        Outcome::Broken => true,
        Outcome::Forwarded => matches!(status, Some(500..)),
        Outcome::Answered | Outcome::CallerGone | Outcome::Ended => false,
    }
}

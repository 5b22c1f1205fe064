//! Checks 3 to 8: may this caller do this, from here, now?
//!
//! Two traps to know before changing anything on the request path:
//!
//! * Metering ends after the handler has returned: the record, the live guard (and with metering
//!   the reservation) travel with the response body.
//! * A caller who hangs up drops the handler's future at whatever `.await` it stands. What must
//!   happen lives in a `Drop` or on an owned task, never behind an `.await`.
//!
//! Invariant: [`Admitted`] has one constructor, [`Cleared::with_body`], and forwarding takes an
//! `Admitted`. That is the whole security argument: what was not admitted cannot be forwarded.

use std::sync::Arc;

use http::HeaderMap;
use http::header::ORIGIN;

use crate::dialect::body::Request;
use crate::domain::endpoint::Endpoint;
use crate::domain::grant::{Credentials, Standing};
use crate::domain::refusal::Refusal;
use crate::domain::timestamp::Timestamp;
use crate::gate::View;
use crate::gate::connection::Connection;
use crate::gate::identify::Caller;
use crate::gate::live::{LiveGuard, LiveRequests};

/// Proof of checks 3 to 5: the caller is live, has the required credentials, and comes from an
/// allowed network.
#[derive(Debug)]
pub struct Present {
    caller: Caller,
    credentials: Credentials,
}

/// Proof of checks 3 to 6: the caller may use the endpoint. Only now a body byte may be read.
#[derive(Debug)]
pub struct Cleared {
    present: Present,
    endpoint: Endpoint,
}

/// Proof of checks 1 to 8: the request may be forwarded. While it lives, the request is decided
/// again whenever something changes.
#[derive(Debug)]
pub struct Admitted {
    /// What was asked for.
    pub endpoint: Endpoint,
    /// What the body says.
    pub request: Request,
    /// Ends the request when it is refused later on.
    pub live: LiveGuard,
}

/// What a live request is decided by.
#[derive(Debug)]
pub struct Facts {
    caller: Caller,
    endpoint: Endpoint,
    model: Arc<str>,
}

impl Present {
    /// Checks 3 to 5.
    ///
    /// # Errors
    ///
    /// The first check that fails, in the published order.
    pub fn check(
        caller: Caller,
        credentials: Credentials,
        view: &View,
        headers: &HeaderMap,
        now: Timestamp,
    ) -> Result<Self, Refusal> {
        let standing = Standing::new(&view.settings.grants, &credentials);
        standing.check_status(now)?;
        standing.check_required()?;
        if credentials.bearer_owner().is_none() && headers.contains_key(ORIGIN) {
            // A web page must not lend itself the certificate that its reader installed.
            return Err(Refusal::OriginNotAllowed);
        }
        standing.check_network(caller.connection().address)?;
        Ok(Self { caller, credentials })
    }

    /// Check 6.
    ///
    /// # Errors
    ///
    /// `endpoint_not_allowed`.
    pub fn with_endpoint(self, view: &View, endpoint: Endpoint) -> Result<Cleared, Refusal> {
        Standing::new(&view.settings.grants, &self.credentials).check_endpoint(endpoint)?;
        Ok(Cleared { present: self, endpoint })
    }
}

impl Cleared {
    /// What was asked for.
    #[must_use]
    pub const fn endpoint(&self) -> Endpoint {
        self.endpoint
    }

    /// The aliases that the caller may name, of those given.
    pub fn allowed_models<'m>(&self, view: &View, names: impl Iterator<Item = &'m str>) -> Vec<&'m str> {
        let standing = Standing::new(&view.settings.grants, &self.present.credentials);
        names.filter(|name| standing.check_model(name).is_ok()).collect()
    }

    /// Check 8, and entry among the live requests. A body may have taken minutes, in which nobody
    /// decided anything again: so `view` and `now` are those of this moment, and checks 3 to 6 are
    /// made once more.
    ///
    /// # Errors
    ///
    /// `model_not_found` when the caller may not name the model, or there is none; whatever refuses
    /// the request since its head was read.
    pub fn with_body(
        self,
        view: &View,
        now: Timestamp,
        request: Request,
        live: &LiveRequests,
    ) -> Result<Admitted, Refusal> {
        let Self { present: Present { caller, .. }, endpoint } = self;
        let facts = Facts { caller, endpoint, model: request.model.as_str().into() };
        let expires_at = facts.decide(view, now)?;
        Ok(Admitted { endpoint, request, live: live.enter(facts, expires_at) })
    }
}

impl Facts {
    /// The connection that the request came over.
    #[must_use]
    pub const fn connection(&self) -> &Arc<Connection> {
        self.caller.connection()
    }

    /// Checks 3 to 8 once more, by the view of now. Gives the time until which the answer holds
    /// if nothing changes.
    ///
    /// # Errors
    ///
    /// The first check that fails.
    pub fn decide(&self, view: &View, now: Timestamp) -> Result<Timestamp, Refusal> {
        let credentials = self.caller.credentials(view)?;
        let standing = Standing::new(&view.settings.grants, &credentials);
        standing.check_status(now)?;
        standing.check_required()?;
        standing.check_network(self.connection().address)?;
        standing.check_endpoint(self.endpoint)?;
        standing.check_model(&self.model)?;
        if !view.settings.models.contains_key(&*self.model) {
            return Err(Refusal::ModelNotFound { by: None });
        }
        Ok(standing.expires_at())
    }
}

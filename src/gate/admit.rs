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

use tokio::time::Instant;

use crate::dialect::body::Request;
use crate::domain::endpoint::Endpoint;
use crate::domain::explain::{Check, Question};
use crate::domain::grant::{Credentials, Standing};
use crate::domain::key::{KeyId, Uses};
use crate::domain::refusal::Refusal;
use crate::domain::timestamp::Timestamp;
use crate::domain::webhook::Hooked;
use crate::gate::View;
use crate::gate::connection::Connection;
use crate::gate::cors::Page;
use crate::gate::identify::Caller;
use crate::gate::live::{LiveGuard, LiveRequests};

/// Proof of checks 3 to 5: the caller is live, has the required credentials, and comes from an
/// allowed network.
#[derive(Debug)]
pub struct Present<'v> {
    caller: Caller,
    standing: Standing<'v>,
    view: &'v View,
    /// The page that asks with nothing but the certificate.
    lent_to: Option<Arc<str>>,
}

/// Proof of checks 3 to 6: the caller may use the endpoint. Only now a body byte may be read.
#[derive(Debug)]
pub struct Cleared<'v> {
    present: Present<'v>,
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
    /// The key, if it may be used a number of times only.
    pub limited_key: Option<(KeyId, Uses)>,
    /// The webhooks that have the last word, in the order of the paths.
    pub hooks: Vec<Hooked>,
    /// Until when this holds, if nothing changes.
    pub until: Timestamp,
    /// No more tokens than this are asked of the backend.
    pub max_tokens: Option<u64>,
    /// Ends the request when it is refused later on.
    pub live: LiveGuard,
}

/// That checks 3 to 8 let a request through.
#[derive(Debug)]
pub struct Decided {
    /// Until when, if nothing changes.
    pub until: Timestamp,
    /// The webhooks that have the last word.
    pub hooks: Vec<Hooked>,
}

/// What a live request is decided by.
#[derive(Debug)]
pub struct Facts {
    caller: Caller,
    lent_to: Option<Arc<str>>,
    endpoint: Endpoint,
    model: Arc<str>,
}

impl<'v> Present<'v> {
    /// Checks 3 to 5.
    ///
    /// # Errors
    ///
    /// The first check that fails, in the published order.
    pub fn check(
        caller: Caller,
        standing: Standing<'v>,
        view: &'v View,
        page: &Page,
        now: Timestamp,
    ) -> Result<Self, Refusal> {
        standing.check_status(now)?;
        standing.check_uses()?;
        standing.check_required()?;
        // A web page must not lend itself the certificate that its reader installed.
        let lent_to = page.origin().filter(|_| !standing.has_bearer()).map(Arc::from);
        if let Some(origin) = &lent_to {
            standing.check_origin(origin)?;
        }
        standing.check_network(caller.connection().address)?;
        Ok(Self { caller, standing, view, lent_to })
    }

    /// The key that was used.
    #[must_use]
    pub fn key(&self) -> Option<KeyId> {
        self.standing.key().map(|key| key.id)
    }

    /// Check 6.
    ///
    /// # Errors
    ///
    /// `endpoint_not_allowed`.
    pub fn with_endpoint(self, endpoint: Endpoint) -> Result<Cleared<'v>, Refusal> {
        self.standing.check_endpoint(endpoint)?;
        Ok(Cleared { present: self, endpoint })
    }
}

impl Cleared<'_> {
    /// What was asked for.
    #[must_use]
    pub const fn endpoint(&self) -> Endpoint {
        self.endpoint
    }

    /// The aliases that the caller may name, of those given.
    pub fn allowed_models<'m>(&self, names: impl Iterator<Item = &'m str>) -> Vec<&'m str> {
        names.filter(|name| self.present.standing.check_model(name).is_ok()).collect()
    }

    /// Check 8, and entry among the live requests. A body may have taken minutes, in which nobody
    /// decided anything again: so `view` and `now` are those of this moment, and when either has
    /// moved past what checks 3 to 6 were made by, they are made once more.
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
        (live, arrived_at): (&LiveRequests, Instant),
    ) -> Result<Admitted, Refusal> {
        let Self { present: Present { caller, standing, view: before, lent_to }, endpoint } = self;
        let limited_key = caller.limited_key(view);
        let facts = Facts { caller, lent_to, endpoint, model: Arc::clone(&request.model) };
        let stood_until = standing.expires_at();
        let Decided { until, hooks } = if view.generation == before.generation && now < stood_until {
            Check::Model.decide(&standing, &facts.question(view), now)?;
            Decided { until: stood_until, hooks: standing.webhooks() }
        } else {
            facts.decide(view, now)?
        };
        let live = live.enter(facts, until, arrived_at);
        Ok(Admitted { endpoint, request, limited_key, hooks, until, max_tokens: None, live })
    }
}

impl Facts {
    /// The connection that the request came over.
    #[must_use]
    pub const fn connection(&self) -> &Arc<Connection> {
        self.caller.connection()
    }

    /// The caller's credentials as they stand now.
    ///
    /// # Errors
    ///
    /// As [`Caller::credentials`].
    pub fn credentials(&self, view: &View) -> Result<Credentials, Refusal> {
        self.caller.credentials(view)
    }

    /// The caller's key, if it may be used a number of times only.
    #[must_use]
    pub fn limited_key(&self, view: &View) -> Option<(KeyId, Uses)> {
        self.caller.limited_key(view)
    }

    /// Checks 3 to 8 once more, by the view of now.
    ///
    /// # Errors
    ///
    /// The first check that fails.
    pub fn decide(&self, view: &View, now: Timestamp) -> Result<Decided, Refusal> {
        let credentials = self.caller.credentials(view)?;
        let standing = view.standing(&credentials);
        let question = self.question(view);
        Check::LIVE.into_iter().try_for_each(|check| check.decide(&standing, &question, now))?;
        Ok(Decided { until: standing.expires_at(), hooks: standing.webhooks() })
    }

    fn question(&self, view: &View) -> Question<'_> {
        Question {
            address: self.connection().address,
            lent_to: self.lent_to.as_deref(),
            endpoint: self.endpoint,
            model: Some(&self.model),
            model_exists: view
                .settings
                .model(&self.model)
                .is_some_and(|model| model.serves(self.endpoint, view.settings.speaking(self.endpoint))),
        }
    }
}

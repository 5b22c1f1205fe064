//! Check 10: the webhooks that the caller's grants name have the last word.
//!
//! Invariants: claiming and forwarding take an [`Allowed`]; what a webhook says only narrows what
//! was admitted and routed, and nothing that it says makes a local refusal go away: whatever changed
//! while it was asked is decided again before anything goes on. A caller whose grants name no webhook
//! comes through here without a byte of memory or a look at a clock.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use http::request::Parts;
use tokio::time::Instant;

use crate::domain::refusal::Refusal;
use crate::domain::webhook::{Hooked, WebhookName};
use crate::gate::body::Buffered;
use crate::gate::record::Record;
use crate::gate::revalidate::revalidate;
use crate::gate::route::{Routed, route};
use crate::gate::subject::Subject;
use crate::gate::worker::Worker;
use crate::gate::{Gateway, View};
use crate::webhook::answer::{Narrowing, Ruling};
use crate::webhook::hook::Heard;
use crate::webhook::trouble::Trouble;

/// How often a request is asked about when what is in force changes meanwhile.
pub const ROUNDS: u32 = 3;

/// Proof of checks 1 to 10.
#[derive(Debug)]
pub struct Allowed(Routed);

impl Allowed {
    /// What is to be claimed.
    #[must_use]
    pub fn into_routed(self) -> Routed {
        self.0
    }
}

/// Asks the webhooks on the caller's paths, all at once. The first denial in the order of the paths
/// counts.
///
/// # Errors
///
/// `denied_by_webhook`; `authorization_unavailable` when there is no answer that counts;
/// `body_too_large` when a webhook is told of bodies and this one is longer than can be told;
/// whatever refuses the request meanwhile.
pub async fn allow(
    worker: &Worker,
    view: &Arc<View>,
    routed: Routed,
    (head, body): (&Parts, &Buffered),
    record: &mut Record,
) -> Result<Allowed, Refusal> {
    if routed.admitted.hooks.is_empty() {
        return Ok(Allowed(routed));
    }
    let subject = Subject::new(view, &routed, (head, body), record)?;
    // Nothing can change meanwhile: nobody is waited for.
    if let Some(heard) = recall(view, &routed.admitted.hooks, &subject)? {
        let narrowings = noted(heard, Duration::ZERO, record)?;
        return heed(&worker.gateway, view, routed, &narrowings, subject, record);
    }
    // In a box, so that the futures of all other requests stay small.
    Box::pin(ask(worker, Arc::clone(view), routed, (head, body), record)).await
}

async fn ask(
    worker: &Worker,
    mut view: Arc<View>,
    mut routed: Routed,
    (head, body): (&Parts, &Buffered),
    record: &mut Record,
) -> Result<Allowed, Refusal> {
    let gateway = &worker.gateway;
    for round in 0..ROUNDS {
        let subject = Subject::new(&view, &routed, (head, body), record)?;
        let begun = Instant::now();
        let hooks = &routed.admitted.hooks;
        let heard = tokio::select! {
            biased;
            refusal = routed.admitted.live.ended() => return Err(refusal),
            heard = hear(&view, hooks, &subject, (false, round)) => heard?,
        };
        let narrowings = noted(heard, begun.elapsed(), record)?;

        let latest = gateway.view();
        let now = gateway.clock.now();
        if latest.generation != view.generation || now >= routed.admitted.until {
            let decided = routed.admitted.live.facts().decide(&latest, now)?;
            routed.admitted.until = decided.until;
            routed.admitted.limited_key = routed.admitted.live.facts().limited_key(&latest);
            let reloaded = latest.settings.generation != view.settings.generation;
            if reloaded || decided.hooks != routed.admitted.hooks {
                // Others have a say now, or the same ones about something else.
                routed.admitted.hooks = decided.hooks;
                if reloaded {
                    routed = route(worker, &latest, routed.admitted)?;
                }
                view = latest;
                continue;
            }
        }
        return heed(gateway, &view, routed, &narrowings, subject, record);
    }
    Err(Refusal::Overloaded("What is allowed changes too often at the moment. Try again."))
}

/// What the webhooks said before of such a request, in the order of the paths; `None` when one has to
/// be asked.
fn recall(view: &View, hooks: &[Hooked], subject: &Subject) -> Result<Option<Vec<Heard>>, Refusal> {
    let mut all = Vec::with_capacity(hooks.len());
    for hooked in hooks {
        let Some(hook) = view.settings.webhooks.get(&hooked.name) else { return Ok(None) };
        let Some(decision) = hook.recall(&subject.told(view, hook.webhook())?) else { return Ok(None) };
        all.push((hook, decision));
    }
    // Not before: when one has to be asked, all are heard again.
    Ok(Some(all.into_iter().map(|(hook, decision)| hook.recalled(decision)).collect()))
}

/// Notes what webhooks said, and says what it comes to.
fn noted(heard: Vec<Heard>, waited: Duration, record: &mut Record) -> Result<Vec<(WebhookName, Narrowing)>, Refusal> {
    let settled = settle(&heard);
    record.heard(heard, waited);
    settled
}

/// Does what the webhooks said of a request that they allow.
fn heed(
    gateway: &Arc<Gateway>,
    view: &View,
    mut routed: Routed,
    narrowings: &[(WebhookName, Narrowing)],
    subject: Subject,
    record: &Record,
) -> Result<Allowed, Refusal> {
    for (name, narrowing) in narrowings {
        narrow(gateway, &mut routed, name, narrowing, record)?;
    }
    revalidate(gateway, &mut routed, view, subject);
    Ok(Allowed(routed))
}

/// Asks webhooks, all at once; gives what they say in the order of the paths. `anew`: past what is
/// remembered; `again`: how often that was done for this request before.
///
/// # Errors
///
/// As [`Subject::asking`].
pub async fn hear(
    view: &View,
    hooks: &[Hooked],
    subject: &Subject,
    (anew, again): (bool, u32),
) -> Result<Vec<Heard>, Refusal> {
    let webhooks = &view.settings.webhooks;
    let one = async |hooked: &Hooked| -> Result<Heard, Refusal> {
        match webhooks.get(&hooked.name) {
            Some(hook) => {
                let asking = subject.asking(view, hook.webhook(), anew, again)?;
                Ok(hook.decide(&asking, hooked.accept_fail_open).await)
            }
            // A grant of the store can name what the config does not have.
            None => Ok(Heard { name: hooked.name.clone(), result: Err(Trouble::Missing) }),
        }
    };
    match hooks {
        [only] => Ok(vec![one(only).await?]),
        several => join_all(several.iter().map(one)).await.into_iter().collect(),
    }
}

/// What the webhooks together say: the first denial counts, then the first that has no answer.
///
/// # Errors
///
/// `denied_by_webhook`, `authorization_unavailable`.
pub fn settle(heard: &[Heard]) -> Result<Vec<(WebhookName, Narrowing)>, Refusal> {
    let mut narrowings = Vec::new();
    let mut unavailable = None;
    for Heard { name, result } in heard {
        match result {
            Ok((decision, _)) => match &decision.ruling {
                Ruling::Deny(denial) => {
                    return Err(Refusal::DeniedByWebhook {
                        name: name.clone(),
                        status: denial.status,
                        message: denial.message.clone(),
                        reason: decision.reason.clone(),
                        retry_after: denial.retry_after,
                    });
                }
                Ruling::Allow(narrowing) if narrowing.is_nothing() => {}
                Ruling::Allow(narrowing) => narrowings.push((name.clone(), narrowing.clone())),
            },
            Err(trouble) if unavailable.is_none() => {
                unavailable = Some(Refusal::AuthorizationUnavailable { name: name.clone(), why: trouble.to_string() });
            }
            Err(_) => {}
        }
    }
    unavailable.map_or(Ok(narrowings), Err)
}

/// Narrows a request as one webhook says.
fn narrow(
    gateway: &Gateway,
    routed: &mut Routed,
    name: &WebhookName,
    narrowing: &Narrowing,
    record: &Record,
) -> Result<(), Refusal> {
    let Narrowing { max_tokens, deadline, expires_at, backend, labels: _ } = narrowing;
    let admitted = &mut routed.admitted;
    admitted.max_tokens = admitted.max_tokens.into_iter().chain(*max_tokens).min();
    if let Some(backend) = backend {
        routed.stops.retain(|stop| **stop.way.name() == **backend);
        if routed.stops.is_empty() {
            let why = "another webhook wants another backend".to_owned();
            return Err(Refusal::AuthorizationUnavailable { name: name.clone(), why });
        }
    }
    if let Some(deadline) = deadline {
        let at = record.received_at().after(*deadline);
        let over = Refusal::BackendTimeout("the time that a webhook gave the request is over");
        if gateway.clock.now() >= at {
            return Err(over);
        }
        admitted.live.limit(at, over);
    }
    if let Some(at) = expires_at {
        let over = over(name);
        if gateway.clock.now() >= *at {
            return Err(over);
        }
        admitted.live.limit(*at, over);
    }
    Ok(())
}

/// What ends a request whose allowed time is over.
#[must_use]
pub fn over(name: &WebhookName) -> Refusal {
    Refusal::DeniedByWebhook {
        name: name.clone(),
        status: 403,
        message: "The time that the organisation's policy gives this request is over.".into(),
        reason: Some("its expires_at has come".into()),
        retry_after: None,
    }
}

/// How often a live request is asked about again: as often as the one that wants it most.
#[must_use]
pub fn period(view: &View, hooks: &[Hooked]) -> Option<Duration> {
    let webhooks = &view.settings.webhooks;
    hooks.iter().filter_map(|hooked| webhooks.get(&hooked.name)?.webhook().revalidate).min()
}

#[cfg(test)]
#[path = "allow_tests.rs"]
mod tests;

//! THE FILE TO READ FIRST: what happens to a request.
//!
//! ```text
//! accept -> identify -> admit -> route -> allow -> forward -> (body drains) meter -> record
//! ```
//!
//! Each stage takes the proof of the stage before, so the order is checked by the compiler:
//! [`Connection`] -> [`Caller`](super::identify::Caller) -> [`Admitted`](super::admit::Admitted)
//! -> [`Routed`](super::route::Routed) -> [`Allowed`](super::allow::Allowed) -> [`Claimed`](super::claim::Claimed) -> [`Forwarded`]. To add a
//! check, find its place in the published order below, write the decision in `domain/`, and give
//! it a [`Refusal`].

use std::sync::Arc;

use http::request::Parts;
use http::{Request, Response, Version};
use hyper::body::Incoming;

use crate::dialect::errors::shape_of;
use crate::dialect::paths;
use crate::domain::refusal::Refusal;
use crate::gate::admit::Present;
use crate::gate::allow::allow;
use crate::gate::answer::{Answer, answer};
use crate::gate::claim::claim;
use crate::gate::connection::Connection;
use crate::gate::cors::{Leave, Page, Preflight};
use crate::gate::forward::{Forwarded, Outgoing, forward};
use crate::gate::fresh_keys::identify_with_fresh_keys;
use crate::gate::meter::meter;
use crate::gate::record::Record;
use crate::gate::route::route;
use crate::gate::stream::ReplyBody;
use crate::gate::worker::Worker;
use crate::gate::{body, failures, host, respond};

/// Answers one request. Never fails: a refusal is a response too.
pub async fn handle(worker: &Worker, connection: &Arc<Connection>, request: Request<Incoming>) -> Response<ReplyBody> {
    let (head, mut body) = request.into_parts();
    let shape = shape_of(head.uri.path());
    let mut page = Page::of(&head.headers);
    // Written when it is dropped: with the response body, or with this future if the caller leaves.
    let mut record = match Record::open(&worker.gateway, connection, connection.supervised.request_begins()).await {
        Ok(record) => record,
        Err(refusal) => return respond::refuse(&refusal, shape, &head, None),
    };
    let mut response = match serve(worker, connection, &head, &mut body, &mut page, &mut record).await {
        Ok(Served::Forwarded(forwarded)) => {
            let mut response = meter(*forwarded, shape, record);
            page.let_read(response.headers_mut());
            return response;
        }
        Ok(Served::Answered(answer)) => answer.into_response(&head, record),
        Ok(Served::Leave(leave)) => leave.into_response(&head, record),
        Err(refusal) => {
            tracing::debug!(request = record.id(), code = refusal.code().as_str(), %refusal, "refused");
            respond::refuse(&refusal, shape, &head, Some(record))
        }
    };
    page.let_read(response.headers_mut());
    respond::drain_or_close(&head, body, connection, &mut response);
    response
}

enum Served {
    Forwarded(Box<Forwarded>),
    Answered(Answer),
    Leave(Leave),
}

/// The checks, in their published order. Limits (9) will stand between `route`, which ends check 8,
/// and `allow`.
async fn serve(
    worker: &Worker,
    connection: &Arc<Connection>,
    head: &Parts,
    body: &mut Incoming,
    page: &mut Page,
    record: &mut Record,
) -> Result<Served, Refusal> {
    let gateway = &worker.gateway;
    let view = gateway.view();
    let query = head.uri.query();
    page.met(view.owners());

    // 1: the request is for this role of this gateway
    if head.version < Version::HTTP_11 {
        return Err(Refusal::HttpVersionNotSupported);
    }
    host::check(connection, head, &view.settings.config.listen.names)?;
    // 2: who is calling
    if query.is_some_and(paths::has_credential) {
        return Err(Refusal::CredentialInQuery);
    }
    // Or nobody yet: a browser asks whether a page may call.
    if let Some(preflight) = Preflight::of(head) {
        return preflight.decide(head, page, record).map(Served::Leave);
    }
    let (view, caller) = identify_with_fresh_keys(gateway, view, connection, &head.headers)
        .await
        .map_err(|refusal| failures::limited(gateway, connection, refusal))?;
    // 3, 4, 5: the credentials stand, are the required ones, and come from an allowed network
    let credentials = caller.credentials(&view)?;
    record.identified(&credentials);
    let standing = view.standing(&credentials);
    gateway.callers.seen(connection.address, &credentials);
    page.calls_for(&standing);
    let present = Present::check(caller, standing, &view, page, record.received_at())?;
    if let Some(key) = present.key() {
        worker.used.note(key, record.received_at());
    }
    // 6: the path is an endpoint's, and the caller may use it
    let found = paths::find(&head.method, head.uri.path())?;
    record.asked_for(found.endpoint);
    let cleared = present.with_endpoint(found.endpoint)?;
    let query = paths::check_query(found.endpoint, query)?;
    if paths::is_answered_here(found.endpoint) {
        return answer(&view, &cleared, &found).map(Served::Answered);
    }
    // 7: the body is small enough, and JSON that every reader reads alike
    let body = body::read(&view.settings, found.endpoint, head, body, record).await?;
    let (body, request) = body::parse(found.endpoint, body).await?;
    record.read(body.length(), body.arrived_at, &request);
    // 8: the model, and its targets; and 3 to 6 again, if anything changed while the body came
    let latest = gateway.view();
    let admitted = cleared.with_body(&latest, gateway.clock.now(), request, (&worker.live, body.arrived_at))?;
    let routed = route(worker, &latest, admitted)?;
    // 10: the webhooks on the caller's paths have the last word
    let allowed = allow(worker, &latest, routed, (head, &body), record).await?;
    // 11: the tokens that they allow are enough for all replies; of a key of limited use, one use is taken
    let claimed = claim(worker, allowed, &body.bytes, record).await?;
    // 12: forward
    let outgoing = Outgoing { headers: &head.headers, query, body };
    forward(worker, claimed, outgoing, record).await.map(|forwarded| Served::Forwarded(Box::new(forwarded)))
}

//! The admin API: what operators change, over a Unix socket and over TLS.
//!
//! Invariant: a request reaches [`crate::manage`] only from the gateway's own uid or root over the
//! socket, or with an operator's certificate of the built-in authority that holds *now*: it is
//! looked up again for every request, so that revoking an operator ends open connections' rights.
//! There are no operator keys, nothing is taken from web pages, and every change leaves a line in
//! the log that says who made it.

pub mod openapi;
pub mod operators;
pub mod problem;
mod read;
pub mod route;
mod serve;
pub mod socket;

use std::borrow::Cow;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, ORIGIN, RETRY_AFTER, X_CONTENT_TYPE_OPTIONS};
use http::request::Parts;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Body, Incoming};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::admin::api::operators::Operators;
use crate::admin::api::problem::Refusal;
use crate::admin::api::route::{Done, Fields, Route};
use crate::config::{Declared, Reachable, is_address_name};
use crate::domain::audit::Actor;
use crate::domain::key::redacted;
use crate::gate::respond::read_off;
use crate::gate::{Gateway, host};
use crate::manage::enrollments::Enrollment;
use crate::manage::fault::{Code, Fault};
use crate::manage::webhooks::{Memory, Whose};
use crate::manage::{Manager, Policy};
use crate::store::Store;

const JSON: &str = "application/json";
/// A body is small and comes at once.
const BODY: Duration = Duration::from_secs(30);
/// How long and how much of a refused body is read and thrown away.
const REST: Duration = Duration::from_secs(2);
const MAX_REST: usize = 256 * 1024;
/// Longer than the store waits for another process.
const OPERATION: Duration = Duration::from_secs(30);

/// What all connections of the API share.
#[derive(Debug)]
pub struct Api {
    gateway: Arc<Gateway>,
    state_dir: PathBuf,
    /// One operation at a time: the store takes one writer, and threads that wait for it would only
    /// be threads.
    turn: Arc<Semaphore>,
}

/// Who is at the other end of a connection, before it has said a word of HTTP.
#[derive(Clone, Debug)]
pub(super) enum Peer {
    /// Someone on the Unix socket whose uid was checked.
    Local {
        /// The uid.
        uid: u32,
    },
    /// Someone with a certificate.
    Remote {
        /// Where the certificate is judged.
        operators: Arc<Operators>,
        /// What was presented, leaf first.
        chain: Arc<[rustls_pki_types::CertificateDer<'static>]>,
        /// Where the connection comes from.
        address: IpAddr,
        /// Where it goes to.
        local: IpAddr,
    },
}

impl Api {
    /// An API that changes the store in `state_dir`.
    #[must_use]
    pub fn new(gateway: Arc<Gateway>, state_dir: PathBuf) -> Self {
        Self { gateway, state_dir, turn: Arc::new(Semaphore::new(1)) }
    }

    /// Answers one request.
    pub(super) async fn answer(self: &Arc<Self>, peer: &Peer, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (head, mut body) = request.into_parts();
        match self.handle(peer, &head, &mut body).await {
            Ok((status, body)) => response(status, JSON, body),
            Err(refusal) => {
                // Who is still sending when the connection closes may never see the answer.
                read_off(&mut body, MAX_REST, REST).await;
                refused(&refusal)
            }
        }
    }

    async fn handle(
        self: &Arc<Self>,
        peer: &Peer,
        head: &Parts,
        body: &mut Incoming,
    ) -> Result<(u16, Vec<u8>), Refusal> {
        self.identify(peer).inspect_err(|refusal| {
            if let Peer::Remote { address, .. } = peer {
                tracing::warn!(%address, ?refusal, "admin API: refused");
            }
        })?;
        if head.headers.contains_key(ORIGIN) {
            return Err(Refusal::Origin);
        }
        self.check_host(peer, head)?;
        if head.uri.path() == openapi::PATH {
            return if head.method == http::Method::GET {
                Ok((200, openapi::document().as_bytes().to_vec()))
            } else {
                Err(Refusal::Method("GET".to_owned()))
            };
        }
        let (route, mut fields) = find(head)?;
        if !route.method.has_body() && !body.is_end_stream() {
            return Err(Fault::new(Code::InvalidRequest, format!("{} has no body", route.name)).into());
        }
        if route.method.has_body() {
            let body = whole(route, head, body).await?;
            read::body_fields(&body, &mut fields)?;
            if head.uri.query().is_some() {
                return Err(Fault::new(Code::InvalidRequest, format!("{} has no query", route.name)).into());
            }
        } else {
            read::query_fields(route, head.uri.query(), &mut fields)?;
        }
        read::refuse_unknown(route, &fields)?;
        let answer =
            timeout(OPERATION, self.run(route, fields, peer.clone())).await.map_err(|_| Refusal::TimedOut)??;
        Ok((route.status, answer))
    }

    /// Who asks, as the log calls them.
    fn identify(&self, peer: &Peer) -> Result<String, Refusal> {
        match peer {
            Peer::Local { uid } => Ok(format!("uid {uid}")),
            Peer::Remote { operators, chain, address, .. } => {
                let operator = operators.identify(chain, &self.gateway.view())?;
                Ok(format!("{operator} at {address}"))
            }
        }
    }

    /// A browser that was led to this listener by a name of somebody else's says so here.
    fn check_host(&self, peer: &Peer, head: &Parts) -> Result<(), Refusal> {
        let named = host::named(&head.headers, &head.uri).map_err(|_| Refusal::InvalidHost)?;
        let name = named.ok_or(Refusal::InvalidHost)?;
        let ours = match peer {
            Peer::Local { .. } => name.eq_ignore_ascii_case("localhost"),
            Peer::Remote { local, .. } => {
                let view = self.gateway.view();
                let mut names = view.settings.config.listen.names.api.iter();
                names.any(|ours| ours.eq_ignore_ascii_case(name))
                    || is_address_name(name, *local)
                    || (local.is_loopback() && name.eq_ignore_ascii_case("localhost"))
            }
        };
        if ours { Ok(()) } else { Err(Refusal::Misdirected) }
    }

    /// Runs an operation where it may block. It runs to its end, and is logged, even when nobody
    /// waits for it any more. Who asks is judged again: a body and a turn can take half a minute
    /// each, in which an operator may have been revoked.
    async fn run(self: &Arc<Self>, route: &'static Route, fields: Fields, peer: Peer) -> Result<Vec<u8>, Refusal> {
        let gone = || Refusal::Fault(Fault::new(Code::Failed, "the operation broke off"));
        let turn = Arc::clone(&self.turn).acquire_owned().await.map_err(|_| gone())?;
        let api = Arc::clone(self);
        let done = spawn_blocking(move || {
            let _turn = turn;
            let who = api.identify(&peer)?;
            let asked = logged(route, &fields);
            let result = api.perform(route, fields, actor(&peer, &who));
            if route.changes {
                match &result {
                    Ok(done) => {
                        let id = done.id.as_deref().unwrap_or_default();
                        tracing::info!(who, operation = route.name, asked, id, "admin API: done");
                    }
                    Err(fault) => {
                        // Of what is not shown, the fault could quote a part.
                        let why = if route.logged_whole { redacted(&fault.message) } else { Cow::default() };
                        let code = fault.code.as_str();
                        tracing::info!(who, operation = route.name, asked, code, ?why, "admin API: not done");
                    }
                }
            }
            result.map_err(Refusal::from)
        });
        Ok(done.await.map_err(|_| gone())??.answer)
    }

    fn perform(&self, route: &Route, fields: Fields, actor: Actor) -> Result<Done, Fault> {
        let settings = Arc::clone(&self.gateway.view().settings);
        let config = &settings.config;
        let declared = Declared::of(config);
        let enrollment = Enrollment { reachable: Ok(Some(Reachable::of(&config.listen))), root: settings.root.clone() };
        let policy = Policy { config: Ok(Some(declared)), trust_domain: config.trust_domain.clone(), enrollment };
        // Opened each time: a connection that was kept would go on writing to a file that was moved
        // away, and a revocation there would count for nobody.
        let mut store = Store::open_existing(&self.state_dir)?;
        store.act_as(actor);
        let forget = |whose: &Whose| {
            settings.webhooks.forget(|holder| match whose {
                Whose::Key(id) => holder.key == Some(*id),
                Whose::Owner(owner) => {
                    let owners = [&holder.owner, &holder.identity_owner];
                    owners.into_iter().flatten().any(|path| path.is_within(owner.as_str()))
                }
                Whose::All => true,
            })
        };
        let mut manager = Manager {
            store: &mut store,
            state_dir: &self.state_dir,
            policy: &policy,
            memory: Some(Memory(&forget)),
            now: self.gateway.clock.now(),
            tunnels: Some(&self.gateway.tunnels),
        };
        (route.run)(fields, &mut manager)
    }
}

/// Who asks, as the records call them.
fn actor(peer: &Peer, who: &str) -> Actor {
    let client_ip = match peer {
        Peer::Local { .. } => None,
        Peer::Remote { address, .. } => Some(address.to_string()),
    };
    let name = client_ip.as_ref().and_then(|address| who.strip_suffix(&format!(" at {address}")));
    Actor { who: name.unwrap_or(who).to_owned(), client_ip, request_id: None }
}

/// The request as the log shows it.
fn logged(route: &Route, fields: &Fields) -> String {
    if !route.logged_whole {
        return "(not shown)".to_owned();
    }
    redacted(&serde_json::to_string(fields).unwrap_or_default()).into_owned()
}

/// The route of a request, with the fields in its path.
fn find(head: &Parts) -> Result<(&'static Route, Fields), Refusal> {
    let mut methods: Vec<&str> = Vec::new();
    // A path without fields is nearer than one with: /v1/keys/import is no key's.
    let mut matching: Vec<_> =
        route::all().iter().filter_map(|route| Some((route, read::path_fields(route, head.uri.path())?))).collect();
    matching.sort_by_key(|(_, fields)| fields.len());
    for (route, fields) in matching {
        if head.method == route.method.as_str() {
            return Ok((route, fields));
        }
        methods.push(route.method.as_str());
    }
    if methods.is_empty() { Err(Refusal::UnknownPath) } else { Err(Refusal::Method(methods.join(", "))) }
}

async fn whole(route: &Route, head: &Parts, body: &mut Incoming) -> Result<Bytes, Refusal> {
    if body.is_end_stream() {
        return Ok(Bytes::new());
    }
    let kind = head.headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if !kind.eq_ignore_ascii_case(JSON) {
        return Err(Refusal::MediaType);
    }
    let most = route.max_body;
    if body.size_hint().lower() > most as u64 {
        return Err(Refusal::BodyTooLarge(most));
    }
    match timeout(BODY, Limited::new(body, most).collect()).await {
        Ok(Ok(whole)) => Ok(whole.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(Refusal::BodyTooLarge(most)),
        Ok(Err(_)) | Err(_) => Err(Refusal::BodyBroken),
    }
}

fn refused(refusal: &Refusal) -> Response<Full<Bytes>> {
    let problem = refusal.problem();
    let body = serde_json::to_vec(&problem).unwrap_or_default();
    let mut response = response(problem.status, problem::CONTENT_TYPE, body);
    if problem.status == 503 {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    if let Refusal::Method(methods) = refusal
        && let Ok(methods) = HeaderValue::from_str(methods)
    {
        response.headers_mut().insert(ALLOW, methods);
    }
    response
}

fn response(status: u16, content_type: &'static str, body: Vec<u8>) -> Response<Full<Bytes>> {
    let length = HeaderValue::from(body.len());
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CONTENT_LENGTH, length);
    // Answers can hold a key that is shown once.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

//! Requests at the desk: HTTP/1.1, four paths, small bodies.
//!
//! Invariant: nothing of a body is kept but what [`EnrollRequest`] and [`RenewRequest`] are, and no
//! connection lives longer than [`LIFE`], whatever its peer sends or does not send.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, EXPECT, RETRY_AFTER, X_CONTENT_TYPE_OPTIONS};
use http::request::Parts;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::time::timeout;

use crate::ca::exchange::{CRL, Code, ENROLL, EnrollRequest, JSON, MAX_REQUEST, Malformed, RENEW, ROOTS, RenewRequest};
use crate::enroll::Desk;
use crate::enroll::office::{Signed, Visitor};
use crate::enroll::record::Record;
use crate::enroll::refusal::Refusal;
use crate::gate::Gateway;
use crate::gate::connection::Peer;
use crate::gate::headers::{X_DOORWARD_ORIGIN, X_REQUEST_ID};
use crate::gate::host::named;
use crate::gate::respond::read_off;
use crate::gate::roles::Arrived;

/// How long a connection takes requests, and how long the last one may take.
const LIFE: Duration = Duration::from_secs(60);
const LAST: Duration = Duration::from_secs(20);
/// How long and how much of a refused body is read and thrown away.
const REST: Duration = Duration::from_secs(2);
const MAX_REST: usize = 2 << 20;
const MAX_HEADERS: usize = 64;
const MAX_HEAD_BYTES: usize = 16 * 1024;

const PROBLEM: &str = "application/problem+json";
/// RFC 5280, section 4.2.1.13.
const PKIX_CRL: &str = "application/pkix-crl";
/// RFC 8555, section 9.1.
const PEM: &str = "application/pem-certificate-chain";

/// Serves a connection to its end.
pub(super) async fn connection(desk: &Desk, arrived: Arrived) {
    let Arrived { stream, peer, gateway, place: _place } = arrived;
    let peer = Arc::new(peer);
    let service = {
        let desk = desk.clone();
        service_fn(move |request: Request<Incoming>| {
            let (desk, gateway, peer) = (desk.clone(), Arc::clone(&gateway), Arc::clone(&peer));
            async move { Ok::<_, Infallible>(Box::pin(answer(&desk, &gateway, &peer, request)).await) }
        })
    };
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        // From one request to the end of the next one's head.
        .header_read_timeout(desk.0.patience.head)
        .max_headers(MAX_HEADERS)
        .max_header_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    let mut served = pin!(served);
    let mut closing = desk.0.closing.subscribe();
    tokio::select! {
        _ = served.as_mut() => return,
        () = tokio::time::sleep(LIFE) => {}
        _ = closing.wait_for(|closing| *closing) => {}
    }
    served.as_mut().graceful_shutdown();
    drop(timeout(LAST, served).await);
}

/// What there is at the desk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Path {
    Enroll,
    Renew,
    Crl,
    Roots,
}

impl Path {
    fn of(path: &str) -> Option<Self> {
        match path {
            ENROLL => Some(Self::Enroll),
            RENEW => Some(Self::Renew),
            CRL => Some(Self::Crl),
            ROOTS => Some(Self::Roots),
            _ => None,
        }
    }

    /// The word in records.
    const fn endpoint(self) -> &'static str {
        match self {
            Self::Enroll => "doorward.enroll",
            Self::Renew => "doorward.renew",
            Self::Crl => "doorward.crl",
            Self::Roots => "doorward.ca",
        }
    }

    const fn allow(self) -> &'static str {
        match self {
            Self::Enroll | Self::Renew => "POST",
            Self::Crl | Self::Roots => "GET, HEAD",
        }
    }

    fn takes(self, method: &Method) -> bool {
        match self {
            Self::Enroll | Self::Renew => method == Method::POST,
            Self::Crl | Self::Roots => method == Method::GET || method == Method::HEAD,
        }
    }
}

struct Answer {
    status: StatusCode,
    content_type: &'static str,
    body: Bytes,
}

async fn answer(desk: &Desk, gateway: &Arc<Gateway>, peer: &Peer, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let (head, mut body) = request.into_parts();
    let Some(mut record) = Record::open(gateway, peer).await else {
        let refusal = Refusal::unavailable("the record queue is full");
        let answer = said(&refusal, "");
        return response(answer, &head, "", refusal.retry_after);
    };
    let (answer, retry_after) = match handle(desk, gateway, (peer, &head), &mut body, &mut record).await {
        Ok(answer) => {
            record.answered(answer.status.as_u16(), answer.body.len());
            (answer, None)
        }
        Err(refusal) => {
            tracing::debug!(request = record.id(), code = refusal.code.as_str(), why = %refusal.why, "desk: refused");
            let answer = said(&refusal, record.id());
            record.refused(&refusal, answer.body.len());
            // Who is still sending when the connection closes may never see the answer. Who waits for leave to
            // send is given none.
            if !head.headers.contains_key(EXPECT) {
                read_off(&mut body, MAX_REST, REST).await;
            }
            (answer, refusal.retry_after)
        }
    };
    let mut response = response(answer, &head, record.id(), retry_after);
    if response.status() == StatusCode::METHOD_NOT_ALLOWED
        && let Some(path) = Path::of(head.uri.path())
    {
        response.headers_mut().insert(ALLOW, HeaderValue::from_static(path.allow()));
    }
    response
}

async fn handle(
    desk: &Desk,
    gateway: &Arc<Gateway>,
    (peer, head): (&Peer, &Parts),
    body: &mut Incoming,
    record: &mut Record,
) -> Result<Answer, Refusal> {
    check_host(gateway, head)?;
    let path = Path::of(head.uri.path()).ok_or_else(|| Refusal::new(Code::NotFound, "Nobody answers at this path."))?;
    record.asked_for(path.endpoint());
    if !path.takes(&head.method) {
        return Err(Refusal::new(Code::MethodNotAllowed, format!("This path takes {} only.", path.allow())));
    }
    let visitor = || Visitor { address: peer.address, chain: peer.chain.clone(), request_id: record.id().to_owned() };
    match path {
        Path::Enroll => {
            let visitor = visitor();
            let body = whole(head, body, desk.0.patience.head).await?;
            record.read(body.len());
            let request = EnrollRequest::parse(&body).map_err(|Malformed| malformed())?;
            let done =
                desk.sign(gateway, visitor, move |office, visitor, clock| office.enroll(&request, visitor, clock));
            signed(&done.await.map_err(|refusal| limited(gateway, peer, refusal))?, record)
        }
        Path::Renew => {
            let visitor = visitor();
            // Before anything is read of somebody who is nobody.
            let holder = desk.office()?.holder(&visitor)?;
            record.identified(holder.identity.to_string());
            let body = whole(head, body, desk.0.patience.head).await?;
            record.read(body.len());
            let request = RenewRequest::parse(&body).map_err(|Malformed| malformed())?;
            let done =
                desk.sign(gateway, visitor, move |office, visitor, clock| office.renew(&request, visitor, clock));
            signed(&done.await?, record)
        }
        Path::Crl => {
            let list = desk.0.list.load_full().ok_or_else(|| Refusal::unavailable("there is no list yet"))?;
            Ok(Answer { status: StatusCode::OK, content_type: PKIX_CRL, body: list.as_ref().clone() })
        }
        Path::Roots => {
            let body = Bytes::from(desk.office()?.authority.bundle_pem().to_owned());
            Ok(Answer { status: StatusCode::OK, content_type: PEM, body })
        }
    }
}

fn signed(signed: &Signed, record: &mut Record) -> Result<Answer, Refusal> {
    record.signed(signed);
    let body = serde_json::to_vec(&signed.granted).map_err(|error| Refusal::unavailable(error.to_string()))?;
    Ok(Answer { status: StatusCode::CREATED, content_type: JSON, body: body.into() })
}

/// Counts a secret that nothing proves; above the limit the refusal says so. Only who was refused
/// comes here: a bundle that is good is never counted, looked up, or refused for others' sake.
fn limited(gateway: &Gateway, peer: &Peer, refusal: Refusal) -> Refusal {
    if !refusal.is_guess {
        return refusal;
    }
    match gateway.failures.count(peer.address, gateway.clock.now()) {
        Ok(()) => refusal,
        Err(wait) => refusal.too_many(wait),
    }
}

fn malformed() -> Refusal {
    Refusal::new(Code::InvalidRequest, "The body is not the JSON that is expected.")
}

/// hyper compares neither SNI nor an absolute target with the Host.
fn check_host(gateway: &Gateway, head: &Parts) -> Result<(), Refusal> {
    let wrong = || Refusal::new(Code::InvalidRequest, "The Host is missing, repeated or malformed.");
    let host = named(&head.headers, &head.uri).ok().flatten().ok_or_else(wrong)?;
    let view = gateway.view();
    let ours = view.settings.config.listen.names.enroll.iter().any(|name| name.eq_ignore_ascii_case(host));
    if ours { Ok(()) } else { Err(Refusal::new(Code::Misdirected, "This connection is not for that host name.")) }
}

/// The whole body, when it is JSON and small, and comes within `patience`.
async fn whole(head: &Parts, body: &mut Incoming, patience: Duration) -> Result<Bytes, Refusal> {
    let kind = head.headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if !kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(JSON) {
        return Err(Refusal::new(Code::UnsupportedMediaType, "Send Content-Type: application/json."));
    }
    let too_large = || Refusal::new(Code::BodyTooLarge, format!("The body is longer than {MAX_REQUEST} bytes."));
    if body.size_hint().lower() > MAX_REQUEST as u64 {
        return Err(too_large());
    }
    match timeout(patience, Limited::new(body, MAX_REQUEST).collect()).await {
        Ok(Ok(whole)) => Ok(whole.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(_)) | Err(_) => Err(Refusal::new(Code::InvalidRequest, "The body broke off or came too slowly.")),
    }
}

fn said(refusal: &Refusal, request_id: &str) -> Answer {
    Answer { status: refusal.status(), content_type: PROBLEM, body: refusal.body(request_id).into() }
}

fn response(answer: Answer, head: &Parts, request_id: &str, retry_after: Option<Duration>) -> Response<Full<Bytes>> {
    let Answer { status, content_type, body } = answer;
    let length = HeaderValue::from(body.len());
    let mut response = Response::new(Full::new(if head.method == Method::HEAD { Bytes::new() } else { body }));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(http::header::CONTENT_LENGTH, length);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(X_DOORWARD_ORIGIN, HeaderValue::from_static("gateway"));
    if let Ok(id) = HeaderValue::from_str(request_id)
        && !request_id.is_empty()
    {
        headers.insert(X_REQUEST_ID, id);
    }
    if let Some(wait) = retry_after {
        headers.insert(RETRY_AFTER, HeaderValue::from(wait.as_secs().max(1)));
    }
    response
}

//! Check 12, second half: sending an admitted request to a backend, and judging the reply's head.
//!
//! Invariant: only a [`Claimed`], and so an admitted, request gets here; the upstream request is
//! built anew from the endpoint table, the body's checked bytes and the header allowlist.

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode, Version};
use tokio::time::{Instant, timeout_at};

use crate::backend::Upstream;
use crate::backend::reply::Fields;
use crate::backend::transport::{self, Passage, Ready, Transport};
use crate::dialect::paths::upstream_path;
use crate::dialect::relay::Mode;
use crate::domain::refusal::Refusal;
use crate::gate::body::Buffered;
use crate::gate::claim::Claimed;
use crate::gate::headers;
use crate::gate::record::Record;
use crate::gate::route::{Routed, Stop};
use crate::gate::worker::Worker;
use crate::overlay::protocol::passage;

/// A reply whose head came and may be passed on.
#[derive(Debug)]
pub struct Forwarded {
    /// What was forwarded.
    pub routed: Routed,
    /// Which of the stops answered.
    pub stop: usize,
    /// The reply's head.
    pub reply: Reply,
    /// How the reply's body is read.
    pub manner: Manner,
}

/// The head of a reply, and what its body comes over.
#[derive(Debug)]
pub struct Reply {
    /// Its status.
    pub status: StatusCode,
    /// Its headers, as the backend sent them.
    pub fields: Fields,
    /// Where its body comes from.
    pub passage: Passage,
    /// When the first event must have come.
    pub first_event_by: Instant,
}

/// How a reply's body is framed and read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Manner {
    /// What its lines are.
    pub mode: Mode,
    /// True when it ends with the connection, so that only its own terminator (the dialect's last
    /// event, the end of the JSON value) tells a whole reply from a truncated one.
    pub until_close: bool,
}

/// What the caller sent, as far as it goes on.
#[derive(Debug)]
pub struct Outgoing<'a> {
    /// Its headers.
    pub headers: &'a HeaderMap,
    /// The query parameters that survive.
    pub query: Option<String>,
    /// Its body.
    pub body: Buffered,
}

/// Sends the request to the first stop that can be reached.
///
/// # Errors
///
/// `no_backend` when none could be connected to; `backend_broke` and `backend_timeout` when one
/// was, and failed; the refusal that ended the request when it was refused meanwhile.
pub async fn forward(
    worker: &Worker,
    claimed: Claimed,
    outgoing: Outgoing<'_>,
    record: &mut Record,
) -> Result<Forwarded, Refusal> {
    let routed = claimed.into_routed();
    let mut now = Instant::now();
    record.handed_over(now);
    let mut unreachable = String::new();
    for (index, stop) in routed.stops.iter().enumerate() {
        let attempt = attempt(worker, &routed, stop, &outgoing, record, now);
        let attempt = tokio::select! {
            biased;
            result = attempt => result,
            refusal = routed.admitted.live.ended() => return Err(refusal),
        };
        match attempt {
            Ok(reply) => {
                let manner = judge(&reply, stop)?;
                return Ok(Forwarded { stop: index, routed, reply, manner });
            }
            Err(Failure::Unreachable(why)) => {
                worker.gateway.metrics.connect_failed(stop.way.name());
                unreachable = format!("{unreachable}{}: {why}; ", stop.way.name());
                now = Instant::now();
            }
            Err(Failure::Final(refusal)) => return Err(refusal),
        }
    }
    Err(Refusal::NoBackend(unreachable))
}

enum Failure {
    /// Nothing was sent: another stop may be tried.
    Unreachable(String),
    /// The backend may have seen the request: it is never sent twice.
    Final(Refusal),
}

impl Failure {
    fn of(failure: transport::Failure, backend: &str) -> Self {
        match failure {
            transport::Failure::Unreachable(why) => Self::Unreachable(why),
            transport::Failure::Broke(why) => Self::Final(Refusal::BackendBroke(format!("{backend}: {why}"))),
            transport::Failure::TimedOut => Self::Final(Refusal::BackendTimeout("no reply in time")),
        }
    }
}

async fn attempt(
    worker: &Worker,
    routed: &Routed,
    stop: &Stop,
    outgoing: &Outgoing<'_>,
    record: &mut Record,
    now: Instant,
) -> Result<Reply, Failure> {
    let way = &stop.way;
    let failed = |failure| Failure::of(failure, way.name());
    let transport = Transport { pools: &worker.pools, tunnels: &worker.gateway.tunnels };
    let ready = transport.reach(way, now).await.map_err(failed)?;
    record.forwarded_to(way, &stop.model);
    let timeouts = way.timeouts();
    let deadline = now + if routed.admitted.request.stream { timeouts.first_event } else { timeouts.first_byte };
    let replied = match ready {
        Ready::Wire(leased) => {
            let request = request(routed, (stop, leased.upstream), outgoing, record);
            timeout_at(deadline, leased.send(request)).await
        }
        Ready::Tunnel(seated) => {
            let (head, body) = tunnel_request(routed, stop, outgoing, record)?;
            // Boxed: requests keep room for this, and most need none.
            timeout_at(deadline, Box::pin(seated.send(head, body))).await
        }
    };
    let late = |_| Failure::Final(Refusal::BackendTimeout("no reply in time"));
    let (status, fields, passage) = replied.map_err(late)?.map_err(failed)?;
    Ok(Reply { status, fields, passage, first_event_by: deadline })
}

/// The request as it goes on the wire, in pieces.
fn request(
    routed: &Routed,
    (stop, upstream): (&Stop, &Upstream),
    outgoing: &Outgoing<'_>,
    record: &Record,
) -> Vec<Bytes> {
    let admitted = &routed.admitted;
    let target = (upstream.base_path.as_str(), upstream_path(admitted.endpoint), outgoing.query.as_deref());
    let mut pieces = admitted.request.edited(&outgoing.body.bytes, &stop.model);
    let length = pieces.iter().map(Bytes::len).sum();
    let mut head = headers::request_head(target, outgoing.headers, (&stop.way, upstream), record, length);
    if length <= head.capacity() - head.len() {
        // One piece costs the kernel less than several.
        pieces.drain(..).for_each(|piece| head.extend_from_slice(&piece));
    }
    pieces.insert(0, head.freeze());
    pieces
}

/// The request as it goes through a tunnel: to a name and an endpoint, never to a URL.
fn tunnel_request(
    routed: &Routed,
    stop: &Stop,
    outgoing: &Outgoing<'_>,
    record: &Record,
) -> Result<(Request<()>, Vec<Bytes>), Failure> {
    let admitted = &routed.admitted;
    let name = stop.way.name();
    let uri = passage::write(name, admitted.endpoint, outgoing.query.as_deref());
    let uri = uri.map_err(|why| Failure::Final(Refusal::BackendBroke(format!("{name}: {why}"))))?;
    let pieces = admitted.request.edited(&outgoing.body.bytes, &stop.model);
    let length = pieces.iter().map(Bytes::len).sum();
    let mut head = Request::new(());
    *head.method_mut() = passage::method(admitted.endpoint);
    *head.uri_mut() = uri;
    *head.version_mut() = Version::HTTP_2;
    *head.headers_mut() = headers::through_tunnel(outgoing.headers, &stop.way, record, length);
    Ok((head, pieces))
}

/// Decides whether a reply's head may be passed on.
fn judge(reply: &Reply, stop: &Stop) -> Result<Manner, Refusal> {
    let status = reply.status;
    let broke = |why: &str| Err(Refusal::BackendBroke(format!("{}: {why}", stop.way.name())));
    if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
        // Ours to have the right credential, not the caller's.
        return broke(&format!("the backend refused the gateway's own credential ({status})"));
    }
    if status.is_informational() || status.is_redirection() {
        return broke(&format!("status {status} is never passed on"));
    }
    let fields = &reply.fields;
    if fields.all("content-encoding").any(|coding| !coding.eq_ignore_ascii_case(b"identity")) {
        return broke("the reply is compressed though identity was asked for");
    }
    let mode = match fields.all("content-type").next().map(media_type) {
        Some(media) if media.eq_ignore_ascii_case(b"text/event-stream") => Mode::Sse,
        Some(media) if media.eq_ignore_ascii_case(b"application/x-ndjson") => Mode::Ndjson,
        Some(media) if media.eq_ignore_ascii_case(b"application/json") => Mode::Json,
        Some(_) | None => Mode::Opaque,
    };
    let until_close = reply.passage.ends_with_connection();
    if until_close && mode == Mode::Opaque {
        return broke("the reply has neither a length nor a terminator, so a truncated one would look whole");
    }
    Ok(Manner { mode, until_close })
}

fn media_type(value: &[u8]) -> &[u8] {
    value.split(|&b| b == b';').next().unwrap_or_default().trim_ascii()
}

//! One request through the tunnel, passed on to the backend that it names.
//!
//! Invariant: everything that goes to the backend is written here: the URL from this config, the
//! path from the endpoint table, the credential from this config, and of the gateway's headers only
//! those on the list. A reply that does not come to its own end never ends cleanly in the tunnel.

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::header::{ACCEPT_ENCODING, AUTHORIZATION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use tokio::time::{Instant, sleep, timeout_at};

use crate::backend::Upstream;
use crate::backend::pool::Lease;
use crate::backend::reply::Fields;
use crate::backend::wire::{Failure, Source};
use crate::overlay::agent::site::Site;
use crate::overlay::agent::slots::Slot;
use crate::overlay::protocol::passage::{Target, method, request_header_passes, response_header_passes};
use crate::overlay::protocol::{CONNECTOR_ENDS, CONNECTOR_ERROR, ConnectorError, ENDS_WITH_CONNECTION};

/// What is read ahead of a gateway that takes nothing, in bytes. It goes out as one frame then:
/// thousands of small ones, unread, would kill the connection for everybody.
const READ_AHEAD: usize = 64 * 1024;

/// Answers a request that no backend sees.
pub(super) fn refuse(respond: &mut SendResponse<Bytes>, error: ConnectorError, status: StatusCode) {
    let mut response = Response::new(());
    *response.status_mut() = status;
    response.headers_mut().insert(CONNECTOR_ERROR, HeaderValue::from_static(error.as_str()));
    // Whoever asked may be gone.
    let _ = respond.send_response(response, true).is_ok();
}

/// Why no reply of the backend can be passed on.
enum Stop {
    /// To be answered by us.
    Answer(ConnectorError, StatusCode),
    /// The backend may have seen the request, and there is no whole reply: the stream is reset, so
    /// that nobody takes what came for an answer.
    Broken(String),
    /// The gateway has reset the stream, or the connection is gone.
    Cancelled,
}

impl Stop {
    fn answer(error: ConnectorError) -> Self {
        Self::Answer(error, StatusCode::from_u16(error.status()).unwrap_or(StatusCode::BAD_GATEWAY))
    }
}

/// Serves a request to its end. Dropped, it closes the connection to the backend.
pub(super) async fn serve(
    site: &Arc<Site>,
    target: Target,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
) {
    let exchanged = tokio::select! {
        biased;
        _ = poll_fn(|context| respond.poll_reset(context)) => Err(Stop::Cancelled),
        exchanged = exchange(site, &target, request) => exchanged,
    };
    let stopped = match exchanged {
        Ok(reply) => pass_on(reply, &mut respond).await,
        Err(stop) => Err(stop),
    };
    match stopped {
        Ok(()) => {}
        Err(Stop::Answer(error, status)) => {
            tracing::debug!(backend = target.backend, endpoint = %target.endpoint, code = error.as_str(), "not served");
            refuse(&mut respond, error, status);
        }
        Err(Stop::Broken(why)) => {
            tracing::warn!(backend = target.backend, endpoint = %target.endpoint, "a request broke: {why}");
            // A reset overtakes what waits to be written: let the last events of a reply out first.
            tokio::task::yield_now().await;
            respond.send_reset(Reason::INTERNAL_ERROR);
        }
        Err(Stop::Cancelled) => {
            tracing::debug!(backend = target.backend, endpoint = %target.endpoint, "cancelled");
            respond.send_reset(Reason::CANCEL);
        }
    }
}

/// The head of a reply, and the connection that its body comes over.
struct Reply {
    status: StatusCode,
    fields: Fields,
    lease: Lease,
    idle: Duration,
    /// Held until the reply has ended.
    _slot: Slot,
    /// What was not read of the request: dropped sooner, it would be reset.
    _rest: Body,
}

/// Sends the request to its backend and waits for the head of the reply.
async fn exchange(site: &Site, target: &Target, request: Request<RecvStream>) -> Result<Reply, Stop> {
    let now = Instant::now();
    let served = site.find(&target.backend, now).ok_or_else(|| Stop::answer(ConnectorError::NotFound))?;
    if !served.site.allow.contain(target.endpoint) {
        tracing::warn!(backend = target.backend, endpoint = %target.endpoint, "the gateway asked for what is not allowed here");
        return Err(Stop::answer(ConnectorError::Refused));
    }
    // A server that does not expect a body here leaves it unread, and takes it for the next request
    // on the connection: one for any path.
    if method(target.endpoint) == Method::GET && !request.body().is_end_stream() {
        tracing::warn!(backend = target.backend, endpoint = %target.endpoint, "the gateway sent a body where none belongs");
        return Err(Stop::answer(ConnectorError::Refused));
    }
    let full = || Stop::Answer(ConnectorError::Refused, StatusCode::SERVICE_UNAVAILABLE);
    let slot = served.slots.take(now).ok_or_else(full)?;
    let upstream = &served.upstream;
    let pool = site.pools.of(upstream);
    let unreachable = |error: io::Error| {
        tracing::debug!(backend = target.backend, %error, "the backend cannot be connected to");
        Stop::answer(ConnectorError::ConnectFailed)
    };
    let mut lease = pool.lease(upstream, now).await.map_err(unreachable)?;
    let (parts, receive) = request.into_parts();
    let mut body = Body::new(receive, &parts.headers);
    let head = head(target, &parts.headers, upstream, body.framing());
    let deadline = now + upstream.timeouts.first_byte;
    loop {
        match timeout_at(deadline, lease.exchange_from(vec![head.clone()], &mut body)).await {
            Ok(Ok((status, fields))) => {
                let idle = upstream.timeouts.idle;
                return Ok(Reply { status, fields, lease, idle, _slot: slot, _rest: body });
            }
            // The backend had closed an idle connection: a new one shows whether it is there.
            Ok(Err(Failure::NothingSent)) if lease.is_reused() && body.is_untouched() => {
                lease = pool.lease_new(upstream).await.map_err(unreachable)?;
            }
            Ok(Err(Failure::NothingSent)) if body.is_untouched() => {
                return Err(Stop::answer(ConnectorError::ConnectFailed));
            }
            Ok(Err(failure)) => return Err(Stop::Broken(failure.to_string())),
            Err(_) => return Err(Stop::answer(ConnectorError::Timeout)),
        }
    }
}

/// The head of the request to a backend.
fn head(target: &Target, from_gateway: &HeaderMap, upstream: &Upstream, framing: Framing) -> Bytes {
    let mut head = BytesMut::with_capacity(1024);
    let query = target.query.as_deref();
    let method = method(target.endpoint);
    let query = [query.map_or("", |_| "?"), query.unwrap_or_default()];
    let line = [method.as_str(), " ", &upstream.base_path, target.path(), query[0], query[1], " HTTP/1.1\r\n"];
    line.into_iter().for_each(|part| head.extend_from_slice(part.as_bytes()));
    // A header's value cannot hold what would end its line: `HeaderValue` sees to that.
    let mut put = |name: &HeaderName, value: &[u8]| {
        for part in [name.as_str().as_bytes(), b": ", value, b"\r\n"] {
            head.extend_from_slice(part);
        }
    };
    put(&HOST, upstream.host.as_bytes());
    match framing {
        Framing::Length(length) => put(&CONTENT_LENGTH, length.to_string().as_bytes()),
        Framing::Chunked => put(&TRANSFER_ENCODING, b"chunked"),
        Framing::None => {}
    }
    put(&ACCEPT_ENCODING, b"identity");
    for (name, value) in from_gateway {
        if name != CONTENT_LENGTH && request_header_passes(name, value) {
            put(name, value.as_bytes());
        }
    }
    if let Some(credential) = &upstream.credential {
        put(&AUTHORIZATION, credential.as_bytes());
    }
    head.extend_from_slice(b"\r\n");
    head.freeze()
}

/// How the body of a request is framed towards the backend.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Framing {
    None,
    Length(u64),
    Chunked,
}

/// The body of a request, on its way from the tunnel to the backend.
struct Body {
    receive: RecvStream,
    framing: Framing,
    touched: bool,
    /// The last chunk was given.
    ended: bool,
}

impl Body {
    fn new(receive: RecvStream, headers: &HeaderMap) -> Self {
        // HTTP/2 has checked the length against what comes, and resets the stream where they differ.
        let length = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        let framing = match length {
            Some(length) => Framing::Length(length),
            None if receive.is_end_stream() => Framing::None,
            None => Framing::Chunked,
        };
        Self { receive, framing, touched: false, ended: false }
    }

    const fn framing(&self) -> Framing {
        self.framing
    }

    /// True while nothing was taken from it.
    const fn is_untouched(&self) -> bool {
        !self.touched
    }
}

impl Source for Body {
    fn poll_piece(&mut self, context: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        loop {
            let data = match ready!(self.receive.poll_data(context)) {
                Some(Ok(data)) => data,
                Some(Err(error)) => return Poll::Ready(Some(Err(io::Error::other(error)))),
                None if self.framing == Framing::Chunked && !self.ended => {
                    self.ended = true;
                    return Poll::Ready(Some(Ok(Bytes::from_static(b"0\r\n\r\n"))));
                }
                None => return Poll::Ready(None),
            };
            // An empty chunk would be the last one.
            if data.is_empty() {
                continue;
            }
            self.touched = true;
            let _ = self.receive.flow_control().release_capacity(data.len()).is_ok();
            if self.framing != Framing::Chunked {
                return Poll::Ready(Some(Ok(data)));
            }
            let mut chunk = BytesMut::with_capacity(data.len() + 16);
            for part in [format!("{:x}\r\n", data.len()).as_bytes(), &data, b"\r\n"] {
                chunk.extend_from_slice(part);
            }
            return Poll::Ready(Some(Ok(chunk.freeze())));
        }
    }
}

/// Passes a reply on, chunk by chunk.
async fn pass_on(mut reply: Reply, respond: &mut SendResponse<Bytes>) -> Result<(), Stop> {
    if reply.status.is_informational() {
        return Err(Stop::Broken(format!("status {} is never passed on", reply.status)));
    }
    let mut response = Response::new(());
    *response.status_mut() = reply.status;
    *response.headers_mut() = to_gateway(&reply.fields);
    if reply.lease.wire().ends_with_connection() {
        response.headers_mut().insert(CONNECTOR_ENDS, HeaderValue::from_static(ENDS_WITH_CONNECTION));
    }
    let empty = reply.lease.wire().is_complete();
    let mut stream = respond.send_response(response, empty).map_err(|_| Stop::Cancelled)?;
    if !empty {
        let mut relay = Relay { lease: &mut reply.lease, pending: Pending::default(), source: Flow::Open, moved: true };
        let mut idle = pin!(sleep(reply.idle));
        loop {
            if std::mem::take(&mut relay.moved) {
                idle.as_mut().reset(Instant::now() + reply.idle);
            }
            tokio::select! {
                biased;
                step = poll_fn(|context| relay.poll_step(context, &mut stream)) => match step? {
                    Step::Moved => {}
                    Step::Done => break,
                },
                () = &mut idle => return Err(Stop::Broken("nothing moved for too long".to_owned())),
            }
        }
    }
    reply.lease.give_back(Instant::now());
    Ok(())
}

/// What of a reply's head passes to the gateway.
fn to_gateway(fields: &Fields) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(8);
    let named = |name: &HeaderName| {
        let mut options = fields.all("connection").flat_map(|value| value.split(|&b| b == b','));
        options.any(|option| option.trim_ascii().eq_ignore_ascii_case(name.as_str().as_bytes()))
    };
    for (name, value) in fields.iter() {
        // The head's parser has passed them, so these are a formality.
        let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) else { continue };
        if response_header_passes(&name, named(&name)) {
            headers.append(name, value);
        }
    }
    headers
}

/// A reply's body on its way from the backend into the tunnel.
struct Relay<'r> {
    lease: &'r mut Lease,
    pending: Pending,
    source: Flow,
    /// Something has come or gone.
    moved: bool,
}

/// How far the backend's side is.
enum Flow {
    Open,
    Ended,
    Broken(String),
}

enum Step {
    Moved,
    Done,
}

impl Relay<'_> {
    /// Reads what is there, up to [`READ_AHEAD`], and sends what there is room for.
    fn poll_step(&mut self, context: &mut Context<'_>, stream: &mut SendStream<Bytes>) -> Poll<Result<Step, Stop>> {
        if stream.poll_reset(context).is_ready() {
            return Poll::Ready(Err(Stop::Cancelled));
        }
        while matches!(self.source, Flow::Open) && self.pending.len() < READ_AHEAD {
            match self.lease.poll_body(context) {
                Poll::Ready(Some(Ok(data))) => {
                    self.pending.push(data);
                    self.moved = true;
                    if self.lease.wire().is_complete() {
                        self.source = Flow::Ended;
                    }
                }
                Poll::Ready(Some(Err(error))) => self.source = Flow::Broken(error.to_string()),
                Poll::Ready(None) => self.source = Flow::Ended,
                Poll::Pending => break,
            }
        }
        if self.pending.len() == 0 {
            return match &self.source {
                Flow::Open => Poll::Pending,
                Flow::Ended => Poll::Ready(self.end(stream)),
                Flow::Broken(why) => Poll::Ready(Err(Stop::Broken(why.clone()))),
            };
        }
        stream.reserve_capacity(self.pending.len());
        while stream.capacity() == 0 {
            match ready!(stream.poll_capacity(context)) {
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Poll::Ready(Err(Stop::Cancelled)),
            }
        }
        let piece = self.pending.take(stream.capacity());
        let last = self.pending.len() == 0 && matches!(self.source, Flow::Ended) && self.trailers().is_empty();
        self.moved = true;
        match stream.send_data(piece, last) {
            Ok(()) if last => Poll::Ready(Ok(Step::Done)),
            Ok(()) => Poll::Ready(Ok(Step::Moved)),
            Err(_) => Poll::Ready(Err(Stop::Cancelled)),
        }
    }

    fn end(&self, stream: &mut SendStream<Bytes>) -> Result<Step, Stop> {
        let trailers = self.trailers();
        let ended =
            if trailers.is_empty() { stream.send_data(Bytes::new(), true) } else { stream.send_trailers(trailers) };
        ended.map(|()| Step::Done).map_err(|_| Stop::Cancelled)
    }

    fn trailers(&self) -> HeaderMap {
        let mut trailers = HeaderMap::new();
        for (name, value) in self.lease.wire().trailers() {
            // Framing is not a trailer's to say (RFC 9110, 6.5.1).
            if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value))
                && name != CONTENT_LENGTH
                && response_header_passes(&name, false)
            {
                trailers.append(name, value);
            }
        }
        trailers
    }
}

/// What waits for room: one chunk as it came, or several merged.
#[derive(Default)]
struct Pending {
    one: Bytes,
    merged: BytesMut,
}

impl Pending {
    fn len(&self) -> usize {
        self.one.len() + self.merged.len()
    }

    fn push(&mut self, data: Bytes) {
        if self.len() == 0 {
            self.one = data;
            return;
        }
        if !self.one.is_empty() {
            self.merged.extend_from_slice(&std::mem::take(&mut self.one));
        }
        self.merged.extend_from_slice(&data);
    }

    fn take(&mut self, most: usize) -> Bytes {
        if self.one.is_empty() {
            self.merged.split_to(most.min(self.merged.len())).freeze()
        } else {
            self.one.split_to(most.min(self.one.len()))
        }
    }
}

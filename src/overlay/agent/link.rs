//! One connection to a gateway: HTTP/2 with the roles reversed, since we dialled and are the server.
//!
//! Invariant: it never stalls for a stream. Streams are taken as they come and each has a task of
//! its own, the windows of all of them fit into the connection's, and a burst of cancelled requests
//! is no attack here: the gateway is authenticated, and callers do leave in crowds.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::server::{Builder, Connection, SendResponse};
use h2::{Ping, PingPong, Reason, RecvStream};
use http::{HeaderValue, Request, Response, StatusCode, header};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_rustls::client::TlsStream;

use crate::holder::fault::CertificateAlert;
use crate::overlay::agent::Identity;
use crate::overlay::agent::control::{self, Event, Order, Stream, Who};
use crate::overlay::agent::dial::dial;
use crate::overlay::agent::plan::Place;
use crate::overlay::agent::request;
use crate::overlay::agent::site::{Counted, Site};
use crate::overlay::backoff::Ended;
use crate::overlay::protocol::passage::{Asked, read};
use crate::overlay::protocol::{
    CONNECTION_WINDOW, CONTROL_TYPE, ConnectorError, MAX_HEADER_LIST, MAX_STREAMS, Retry, STREAM_WINDOW, Word,
};

/// From one PING to the next, and how long its answer may take: a dead link is noticed in 20 s.
const PING: Duration = Duration::from_secs(10);
/// How long the answer may take after the machine has slept.
const PING_AFTER_SLEEP: Duration = Duration::from_secs(3);
/// For the gateway's preface, its control stream and its `registered`, together.
const REGISTER: Duration = Duration::from_secs(20);
/// Streams that may have been reset before they were taken. All that can be outstanding, several
/// times over: on h2's default of 20, a crowd of callers that leave takes everybody with it.
const PENDING_RESETS: usize = 4096;
/// Most of what waits to be written of one stream, in bytes: more is merged before it gets here.
const SEND_BUFFER: usize = 64 * 1024;
/// Streams beside requests: the control stream, and some that are about to be refused.
const SPARE_STREAMS: u32 = 16;

/// A connection, as its keeper sees it. Dropped, it is left: it finishes what it has and closes.
#[derive(Debug)]
pub(super) struct Link {
    /// How far it is.
    pub(super) phase: watch::Receiver<Phase>,
    /// Resolves when it has ended.
    pub(super) over: oneshot::Receiver<Over>,
    leave: watch::Sender<bool>,
}

/// How far a connection is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Phase {
    /// Not registered yet.
    Opening,
    /// Requests may come.
    Registered,
    /// The gateway is about to close it.
    Draining,
}

/// How a connection ended.
#[derive(Debug)]
pub(super) struct Over {
    pub(super) ended: Ended,
    pub(super) why: String,
}

impl Over {
    pub(super) fn lost(why: impl Into<String>) -> Self {
        Self { ended: Ended::Lost(None), why: why.into() }
    }
}

/// What a connection is made from.
struct Opening {
    site: Arc<Site>,
    place: Place,
    index: u32,
    identity: Identity,
    /// True when it is time to go; closed when it is too late for that.
    stop: watch::Receiver<bool>,
    wake: watch::Receiver<u64>,
}

impl Link {
    /// Begins to dial. `stop` keeps the connector waiting until the connection has ended.
    pub(super) fn open(
        site: Arc<Site>,
        (place, index): (Place, u32),
        identity: Identity,
        (stop, wake): (watch::Receiver<bool>, watch::Receiver<u64>),
    ) -> Self {
        let (tell_phase, phase) = watch::channel(Phase::Opening);
        let (tell_over, over) = oneshot::channel();
        let (leave, left) = watch::channel(false);
        let opening = Opening { site, place, index, identity, stop, wake };
        // Not a task of the keeper's: an old connection outlives the interest in it.
        drop(tokio::spawn(async move {
            let over = opening.run(tell_phase, left).await;
            // Nobody asks how an old one ended.
            let _ = tell_over.send(over).is_ok();
        }));
        Self { phase, over, leave }
    }

    /// Has it take no new requests, finish what it has, and close.
    pub(super) fn leave(self) {
        drop(self);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.leave.send_replace(true);
    }
}

impl Opening {
    async fn run(self, phase: watch::Sender<Phase>, left: watch::Receiver<bool>) -> Over {
        let mut stop = self.stop.clone();
        let mut unwanted = left.clone();
        let opened = tokio::select! {
            opened = self.open() => opened,
            _ = stop.wait_for(|stop| *stop) => return Over::lost("the connector stops"),
            _ = unwanted.wait_for(|left| *left) => return Over::lost("it is not wanted any more"),
        };
        let mut connection = match opened {
            Ok(connection) => connection,
            Err(over) => return over,
        };
        let Some(pings) = connection.ping_pong() else { return Over::lost("it cannot be kept alive") };
        let (orders, _) = watch::channel(Order::Stay);
        let (tell, events) = mpsc::channel(8);
        let serving = Serving {
            connection,
            requests: JoinSet::new(),
            control: JoinSet::new(),
            orders,
            tell,
            phase,
            registered: None,
            opened_at: Instant::now(),
            leaving: false,
            closed_at: None,
            gone_by: None,
            opening: self,
        };
        serving.run(events, pings, left).await
    }

    async fn open(&self) -> Result<Connection<TlsStream<TcpStream>, Bytes>, Over> {
        let socket = dial(&self.place, &self.identity).await.map_err(|why| Over::lost(why.to_string()))?;
        let mut builder = Builder::new();
        builder
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_concurrent_streams(MAX_STREAMS + SPARE_STREAMS)
            .max_header_list_size(MAX_HEADER_LIST)
            .max_send_buffer_size(SEND_BUFFER)
            .max_pending_accept_reset_streams(PENDING_RESETS)
            .max_concurrent_reset_streams(PENDING_RESETS)
            .max_local_error_reset_streams(None);
        // The gateway's refusal of our certificate comes here: in TLS 1.3 our handshake ends first.
        match timeout(REGISTER, builder.handshake(socket)).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(error)) => Err(of_h2(&error, None)),
            Err(_) => Err(Over::lost("the gateway does not begin to speak HTTP/2")),
        }
    }
}

/// A connection that is open.
struct Serving {
    opening: Opening,
    connection: Connection<TlsStream<TcpStream>, Bytes>,
    /// A task for each request.
    requests: JoinSet<()>,
    /// The task of the control stream.
    control: JoinSet<()>,
    orders: watch::Sender<Order>,
    tell: mpsc::Sender<Event>,
    phase: watch::Sender<Phase>,
    registered: Option<(Instant, Counted)>,
    opened_at: Instant,
    /// No new requests are taken.
    leaving: bool,
    /// When the gateway has surely heard that, and a new request is one that it should not have sent.
    closed_at: Option<Instant>,
    /// When it is closed whatever is still under way, and whether that is firm: a gateway gives a
    /// connection that was replaced some time until we say that we leave it.
    gone_by: Option<(Instant, bool)>,
}

impl Serving {
    async fn run(
        mut self,
        mut events: mpsc::Receiver<Event>,
        pings: PingPong,
        mut left: watch::Receiver<bool>,
    ) -> Over {
        let mut alive = pin!(keep_alive(pings, self.opening.wake.clone()));
        let mut stop = self.opening.stop.clone();
        let mut stopping = false;
        loop {
            if self.leaving && self.requests.is_empty() {
                self.orders.send_if_modified(|order| std::mem::replace(order, Order::End) != Order::End);
            }
            let limit = if self.registered.is_some() {
                self.gone_by.map(|(by, _)| by)
            } else {
                Some(self.opened_at + REGISTER)
            };
            tokio::select! {
                incoming = self.connection.accept() => match incoming {
                    Some(Ok((request, respond))) => self.take(request, respond),
                    Some(Err(error)) => return of_h2(&error, self.span()),
                    None => return Over { ended: Ended::Lost(self.span()), why: "the gateway closed it".to_owned() },
                },
                Some(_) = self.requests.join_next(), if !self.requests.is_empty() => {}
                Some(event) = events.recv() => if let Some(over) = self.heed(event) { return over },
                why = &mut alive => return Over { ended: Ended::Lost(self.span()), why: why.to_owned() },
                () = until(limit) => return self.too_late(),
                changed = stop.wait_for(|stop| *stop), if !stopping => {
                    if changed.is_err() {
                        return Over::lost("the connector is gone");
                    }
                    stopping = true;
                    self.leave(self.opening.site.drain());
                }
                _ = left.wait_for(|left| *left), if !self.leaving => self.leave(LINGER),
            }
        }
    }

    /// A new stream: the control stream or a request. Nothing waits here.
    fn take(&mut self, request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
        let asked = match read(request.method(), request.uri()) {
            Ok(asked) => asked,
            Err(why) => {
                tracing::warn!(gateway = %self.opening.place.target, "a request was not passed on: {why}");
                return request::refuse(&mut respond, ConnectorError::Refused, StatusCode::FORBIDDEN);
            }
        };
        match asked {
            // HTTP/2 goes on taking streams until the gateway has acknowledged that we leave, and one that a config
            // has turned its back on might never do so.
            Asked::Backend(_) if self.closed_at.is_some_and(|at| at <= Instant::now()) => {
                respond.send_reset(Reason::REFUSED_STREAM);
            }
            Asked::Backend(target) => {
                let counted = self.opening.site.count_in_flight();
                let site = Arc::clone(&self.opening.site);
                self.requests.spawn(async move {
                    request::serve(&site, target, request, respond).await;
                    drop(counted);
                });
            }
            Asked::Control if self.control.is_empty() => {
                let mut response = Response::new(());
                response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTROL_TYPE));
                let Ok(send) = respond.send_response(response, false) else { return };
                let stream = Stream { receive: request.into_body(), send };
                let Opening { identity, index, place, .. } = &self.opening;
                let (connector, gateway) = (identity.name().to_owned(), place.target.clone());
                let who = Who { connector, index: *index, gateway };
                let (orders, tell) = (self.orders.subscribe(), self.tell.clone());
                self.control.spawn(control::speak(Arc::clone(&self.opening.site), who, stream, orders, tell));
            }
            Asked::Control => request::refuse(&mut respond, ConnectorError::Refused, StatusCode::CONFLICT),
        }
    }

    /// What the gateway says on the control stream. Something when the connection is over.
    fn heed(&mut self, event: Event) -> Option<Over> {
        match event {
            Event::Registered => {
                if self.registered.is_none() {
                    self.registered = Some((Instant::now(), self.opening.site.count_registered()));
                }
                self.phase.send_replace(Phase::Registered);
                None
            }
            // It has a successor, and its own time.
            Event::Drain { replaced: true, .. } if self.leaving => None,
            Event::Drain { deadline, replaced } => {
                // The gateway closes it; should it forget, we do.
                let by = Instant::now() + deadline.min(LONGEST_DRAIN) + GRACE;
                self.go_by(by, !replaced);
                self.phase.send_replace(Phase::Draining);
                None
            }
            Event::Error { code, retry, after } => {
                let ended = match (retry, after) {
                    (Retry::Never, _) => Ended::Hopeless,
                    (Retry::Later, Some(after)) => Ended::PutOff(after),
                    (Retry::Later, None) => Ended::Lost(self.span()),
                };
                Some(Over { ended, why: format!("the gateway said {code}{}", meaning(&code)) })
            }
            Event::Broken(why) => Some(Over { ended: Ended::Lost(self.span()), why }),
        }
    }

    /// Announces that no new requests are taken; those in flight go on for so long at most.
    fn leave(&mut self, within: Duration) {
        if !self.leaving {
            self.leaving = true;
            self.closed_at = Some(Instant::now() + HEARD);
            self.orders.send_replace(Order::Drain);
            self.connection.graceful_shutdown();
        }
        self.go_by(Instant::now() + within, true);
    }

    /// Ends by `by` at the latest. What is not `firm` holds until anything else is said.
    fn go_by(&mut self, by: Instant, firm: bool) {
        self.gone_by = Some(match self.gone_by {
            Some((earlier, true)) => (earlier.min(by), true),
            Some((earlier, false)) if !firm => (earlier.min(by), false),
            Some((_, false)) | None => (by, firm),
        });
    }

    fn too_late(&self) -> Over {
        if self.registered.is_none() {
            return Over::lost("the gateway did not register this connector in time");
        }
        let requests = self.requests.len();
        if requests > 0 {
            tracing::warn!(gateway = %self.opening.place.target, requests, "requests were cut off at the end of the drain time");
        }
        Over { ended: Ended::Lost(self.span()), why: "it was drained".to_owned() }
    }

    /// For how long it has been registered.
    fn span(&self) -> Option<Duration> {
        self.registered.as_ref().map(|(since, _)| since.elapsed())
    }
}

/// A connection that has a successor ends when its last request does: there is no haste, since the
/// gateway drains it before its certificate ends.
const LINGER: Duration = Duration::from_secs(60 * 60);
/// How long the gateway has to hear that no new requests are taken; those that it has sent until then are served.
const HEARD: Duration = Duration::from_secs(3);
/// No gateway may hold a connection in its drain for longer than this.
const LONGEST_DRAIN: Duration = Duration::from_secs(180);
/// Beyond its deadline, for the gateway to close the connection itself.
const GRACE: Duration = Duration::from_secs(5);

/// What a code of the gateway's means for whoever runs this connector.
fn meaning(code: &str) -> &'static str {
    match code {
        Word::DUPLICATE_INSTANCE => {
            ": another process is connected with this identity. Does this connector run twice, or is its key copied? \
             For replicas on purpose the gateway has [[connector]] max_instances"
        }
        Word::REVOKED => {
            ": the certificate is revoked. `doorward enroll create NAME --role connector` at the gateway makes a bundle for \
             another one"
        }
        Word::BAD_REGISTER | Word::BAD_MESSAGE => {
            ": it does not understand this connector. Are both of the same version?"
        }
        // Words of other versions, and those that say it all.
        _ => "",
    }
}

async fn until(limit: Option<Instant>) {
    match limit {
        Some(limit) => sleep_until(limit).await,
        None => std::future::pending().await,
    }
}

/// Resolves when the gateway does not answer any more.
async fn keep_alive(mut pings: PingPong, mut wake: watch::Receiver<u64>) -> &'static str {
    loop {
        let patience = tokio::select! {
            () = sleep(PING) => PING,
            Ok(()) = wake.changed() => PING_AFTER_SLEEP,
        };
        // An error of the connection is told by the connection.
        match timeout(patience, pings.ping(Ping::opaque())).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) => std::future::pending().await,
            Err(_) => return "the gateway does not answer PING",
        }
    }
}

/// An error of the connection. Where the gateway has refused our certificate, dialling again does
/// not help until somebody does something.
fn of_h2(error: &h2::Error, registered: Option<Duration>) -> Over {
    match error.get_io().and_then(|error| CertificateAlert::in_error(error)) {
        Some(what) => {
            Over { ended: Ended::Hopeless, why: format!("the gateway does not take our certificate: {what}") }
        }
        None => Over { ended: Ended::Lost(registered), why: error.to_string() },
    }
}

//! The record of a request: opened with its head, written when it is dropped.
//!
//! Invariant: whatever becomes of a request, its `Record` is dropped exactly once: at the end of
//! the response body, with a refusal, or with the future of a caller who hung up.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::rand;
use http::HeaderValue;
use tokio::time::Instant;

use crate::backend::transport::Way;
use crate::config::WhenFull;
use crate::dialect::body::Request;
use crate::domain::endpoint::Endpoint;
use crate::domain::event::{Consulted, Entry, Outcome};
use crate::domain::grant::Credentials;
use crate::domain::refusal::Refusal;
use crate::domain::timestamp::Timestamp;
use crate::gate::Gateway;
use crate::gate::claim::ClaimedUse;
use crate::gate::connection::{Connection, InFlight};
use crate::telemetry::records::{Place, line};
use crate::webhook::answer::Ruling;
use crate::webhook::hook::Heard;

/// How long a request waits for a place in a full queue.
pub const PATIENCE: Duration = Duration::from_secs(1);
/// Longest `detail` that is kept, in bytes.
const MAX_DETAIL: usize = 256;

/// What is known of a request so far.
#[derive(Debug)]
pub struct Record {
    gateway: Arc<Gateway>,
    connection: Arc<Connection>,
    place: Option<Place>,
    id: RequestId,
    received_at: Timestamp,
    begun: Instant,
    first_byte: Option<Duration>,
    outcome: Option<Outcome>,
    status: Option<u16>,
    refusal: Option<Refusal>,
    claimed: Option<ClaimedUse>,
    heard: Vec<Heard>,
    credentials: Option<Credentials>,
    endpoint: Option<Endpoint>,
    model: Option<Arc<str>>,
    target: Option<Arc<str>>,
    backend: Option<Arc<Way>>,
    stream: bool,
    /// For the body to arrive.
    waited: Duration,
    reply_work: Duration,
    bytes_in: u64,
    bytes_out: u64,
    /// The connection is busy until here.
    in_flight: InFlight,
}

impl Record {
    /// Opens the record of a request whose head is complete.
    ///
    /// # Errors
    ///
    /// `record_unavailable` when there is no room for it and the config says that then nothing
    /// passes.
    pub async fn open(
        gateway: &Arc<Gateway>,
        connection: &Arc<Connection>,
        in_flight: InFlight,
    ) -> Result<Self, Refusal> {
        let place = match (gateway.records.reserve(), gateway.records.when_full()) {
            (Some(place), _) => Some(place),
            (None, WhenFull::Drop) => None,
            (None, WhenFull::Block) => match gateway.records.reserve_within(PATIENCE).await {
                Some(place) => Some(place),
                None => return Err(Refusal::RecordUnavailable),
            },
        };
        let received_at = gateway.clock.now();
        gateway.metrics.request_begins();
        Ok(Self {
            gateway: Arc::clone(gateway),
            connection: Arc::clone(connection),
            place,
            id: RequestId::new(received_at),
            received_at,
            begun: Instant::now(),
            first_byte: None,
            outcome: None,
            status: None,
            refusal: None,
            claimed: None,
            heard: Vec::new(),
            credentials: None,
            endpoint: None,
            model: None,
            target: None,
            backend: None,
            stream: false,
            waited: Duration::ZERO,
            reply_work: Duration::ZERO,
            bytes_in: 0,
            bytes_out: 0,
            in_flight,
        })
    }

    /// The same moment, on the clock that only goes forward.
    #[must_use]
    pub const fn begun(&self) -> Instant {
        self.begun
    }

    /// When the request's head was complete.
    #[must_use]
    pub const fn received_at(&self) -> Timestamp {
        self.received_at
    }

    /// The request's id.
    #[must_use]
    pub fn id(&self) -> &str {
        self.id.as_str()
    }

    /// The request's id, to be kept.
    #[must_use]
    pub const fn request_id(&self) -> &RequestId {
        &self.id
    }

    /// The request's id as a header value.
    #[must_use]
    pub fn id_header(&self) -> HeaderValue {
        HeaderValue::from_str(self.id.as_str()).unwrap_or(HeaderValue::from_static("unknown"))
    }

    /// Notes who is calling.
    pub fn identified(&mut self, credentials: &Credentials) {
        self.credentials = Some(credentials.clone());
    }

    /// Notes that a use of the caller's key was claimed: how the request ends decides whether it is
    /// given back.
    pub fn claimed(&mut self, claimed: ClaimedUse) {
        self.claimed = Some(claimed);
    }

    /// Notes what webhooks said, and how long the request waited for it.
    pub fn heard(&mut self, heard: Vec<Heard>, waited: Duration) {
        self.heard = heard;
        self.waited += waited;
    }

    /// Notes what was asked for.
    pub const fn asked_for(&mut self, endpoint: Endpoint) {
        self.endpoint = Some(endpoint);
    }

    /// Notes what the body said, and when it had arrived. The alias is in its grammar by now, so it
    /// is safe to write down.
    pub fn read(&mut self, bytes: u64, arrived_at: Instant, request: &Request) {
        self.bytes_in = bytes;
        self.waited = arrived_at.saturating_duration_since(self.begun);
        self.model = Some(Arc::clone(&request.model));
        self.stream = request.stream;
    }

    /// Notes that the gateway has done its part of the request: the backend's begins.
    pub fn handed_over(&self, now: Instant) {
        let span = now.saturating_duration_since(self.begun);
        self.gateway.metrics.request_processed(span.saturating_sub(self.waited));
    }

    /// Notes time that the gateway spent on the reply.
    pub fn worked_on_reply(&mut self, span: Duration) {
        self.reply_work += span;
    }

    /// Notes where the request went.
    pub fn forwarded_to(&mut self, backend: &Arc<Way>, model: &Arc<str>) {
        self.backend = Some(Arc::clone(backend));
        self.target = Some(Arc::clone(model));
    }

    /// What the request path shares.
    #[must_use]
    pub const fn gateway(&self) -> &Arc<Gateway> {
        &self.gateway
    }

    /// Notes that nobody is there any more to hear an answer.
    pub const fn caller_left(&mut self) {
        self.outcome = Some(Outcome::CallerGone);
    }

    /// Notes that the gateway refused.
    pub fn refused(&mut self, refusal: &Refusal) {
        if self.outcome == Some(Outcome::CallerGone) {
            return;
        }
        self.outcome = Some(Outcome::Refused);
        self.status = Some(refusal.status().as_u16());
        self.refusal = Some(refusal.clone());
    }

    /// Notes that the gateway answered by itself.
    pub const fn answered(&mut self, status: u16) {
        self.outcome = Some(Outcome::Answered);
        self.status = Some(status);
    }

    /// Notes the head of the backend's reply.
    pub fn replied(&mut self, status: u16, now: Instant) {
        self.status = Some(status);
        self.first_byte = Some(now.saturating_duration_since(self.begun));
    }

    /// Notes bytes that were handed to the caller's connection.
    pub const fn sent(&mut self, bytes: usize) {
        self.bytes_out += bytes as u64;
    }

    /// Notes how a relayed reply ended.
    pub fn ended(&mut self, outcome: Outcome, refusal: Option<&Refusal>) {
        self.outcome = Some(outcome);
        self.refusal = refusal.cloned();
    }

    /// Who is calling, as headers for a backend whose config asks for that.
    #[must_use]
    pub fn identity(&self) -> Vec<(&'static str, String)> {
        let Some(credentials) = &self.credentials else { return Vec::new() };
        let certificate = credentials.certificate.as_ref();
        let key = credentials.key.as_ref();
        let owner = credentials.bearer_owner().or_else(|| certificate.and_then(|c| c.owner.as_ref()));
        let token = credentials.token.as_ref().and_then(|vouched| vouched.token.visible_subject());
        let values = [
            ("x-doorward-subject", certificate.map(|certificate| certificate.identity.to_string()).or(token)),
            ("x-doorward-owner", owner.map(ToString::to_string)),
            ("x-doorward-key-id", key.map(|key| key.id.to_string())),
            ("x-doorward-request-id", Some(self.id().to_owned())),
        ];
        values.into_iter().filter_map(|(name, value)| value.map(|value| (name, value))).collect()
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        // Nobody said how it ended: the caller left.
        let outcome = self.outcome.unwrap_or(Outcome::CallerGone);
        let now = Instant::now();
        let duration = now.saturating_duration_since(self.begun);
        self.in_flight.ends_at(now);
        let code = self.refusal.as_ref().map(|refusal| refusal.code().as_str());
        self.gateway.metrics.request_ends(outcome, code);
        if let Some(claimed) = self.claimed.take() {
            claimed.over(outcome, self.status, self.refusal.as_ref().map(Refusal::code));
        }
        if self.first_byte.is_some() {
            self.gateway.metrics.reply_processed(self.reply_work);
        }
        let Some(place) = self.place.take() else { return };
        let detail = self.refusal.as_ref().map(|refusal| cut(refusal.to_string()));
        let certificate = self.credentials.as_ref().and_then(|credentials| credentials.certificate.as_ref());
        let key = self.credentials.as_ref().and_then(|credentials| credentials.key.as_ref());
        let bearer_owner = self.credentials.as_ref().and_then(Credentials::bearer_owner);
        let identity_owner = certificate.and_then(|certificate| certificate.owner.as_ref());
        let webhooks: Vec<Consulted<'_>> = self.heard.iter().map(consulted).collect();
        let entry = Entry {
            ts: self.received_at,
            request_id: self.id.as_str(),
            outcome,
            status: self.status,
            code,
            owner: bearer_owner.or(identity_owner).map(|owner| owner.as_str()),
            identity_owner: bearer_owner.and(identity_owner).map(|owner| owner.as_str()),
            key_id: key.map(|key| key.id.as_str()),
            identity: certificate.map(|certificate| certificate.identity.uri()),
            client_ip: &self.connection.address_text,
            endpoint: self.endpoint.map(Endpoint::name),
            model: self.model.as_deref(),
            target: self.target.as_deref(),
            backend: self.backend.as_ref().map(|backend| &**backend.name()),
            stream: self.stream,
            bytes_in: self.bytes_in,
            bytes_out: self.bytes_out,
            ttfb: self.first_byte,
            duration,
            kx: Some(&self.connection.key_exchange),
            webhooks: &webhooks,
            detail: detail.as_deref(),
        };
        place.write(|waiting| line::write(&entry, waiting));
    }
}

fn consulted(heard: &Heard) -> Consulted<'_> {
    let labels = heard.result.as_ref().ok().and_then(|(decision, _)| match &decision.ruling {
        Ruling::Allow(narrowing) => narrowing.labels.as_deref(),
        Ruling::Deny(_) => None,
    });
    let source = heard.result.as_ref().ok().map(|(_, source)| *source);
    Consulted { name: heard.name.as_str(), verdict: heard.verdict(), source, labels }
}

fn cut(mut text: String) -> String {
    if text.len() > MAX_DETAIL {
        let end = (0..=MAX_DETAIL).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
        text.truncate(end);
    }
    text
}

/// A UUID of version 7 (RFC 9562): sortable by time. It is a name, never a secret.
#[derive(Clone, Debug)]
pub struct RequestId([u8; 36]);

impl RequestId {
    /// An id for a request that came now.
    #[must_use]
    pub fn new(now: Timestamp) -> Self {
        let random = DICE.with_borrow_mut(Dice::roll);
        let millis = u64::try_from(now.as_millis()).unwrap_or(0);
        let mut text = [0; 36];
        uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid().hyphenated().encode_lower(&mut text);
        Self(text)
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

/// Random bytes for ids, drawn for many at once: a draw costs ten times what the rest of an id does.
struct Dice {
    bytes: [u8; Self::AT_ONCE],
    used: usize,
}

thread_local! {
    static DICE: RefCell<Dice> = const { RefCell::new(Dice { bytes: [0; Dice::AT_ONCE], used: Dice::AT_ONCE }) };
}

impl Dice {
    const AT_ONCE: usize = 1280;

    fn roll(&mut self) -> [u8; 10] {
        if self.used >= Self::AT_ONCE {
            // Without randomness ids could collide; requests themselves are none the worse.
            let _ = rand::fill(&mut self.bytes).is_ok();
            self.used = 0;
        }
        let rolled = self.bytes.get(self.used..).and_then(|rest| rest.first_chunk()).copied().unwrap_or_default();
        self.used += rolled.len();
        rolled
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_two_ids_of_one_moment_are_equal() {
        let now = Timestamp::from_millis(1_700_000_000_000);
        let ids: HashSet<String> = (0..1000).map(|_| RequestId::new(now).as_str().to_owned()).collect();
        assert_eq!(ids.len(), 1000);
        assert!(ids.iter().all(|id| id.len() == 36 && id.as_bytes()[14] == b'7'));
    }
}

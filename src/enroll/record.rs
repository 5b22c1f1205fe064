//! The record of a request at the desk: the fields of every request's record, as far as they apply.
//!
//! Invariant: it is written when it is dropped, so each request leaves one, however it ends.

use std::sync::Arc;

use tokio::time::Instant;

use crate::config::WhenFull;
use crate::domain::event::{Entry, Outcome};
use crate::domain::timestamp::Timestamp;
use crate::enroll::office::Signed;
use crate::enroll::refusal::Refusal;
use crate::gate::Gateway;
use crate::gate::connection::Peer;
use crate::gate::record::{PATIENCE, RequestId};
use crate::telemetry::records::{Place, line};

/// Longest `detail` that is kept, in bytes.
const MAX_DETAIL: usize = 256;

/// What is known of a request so far.
pub(super) struct Record {
    gateway: Arc<Gateway>,
    place: Option<Place>,
    id: RequestId,
    received_at: Timestamp,
    begun: Instant,
    client_ip: String,
    key_exchange: Box<str>,
    endpoint: Option<&'static str>,
    outcome: Outcome,
    status: Option<u16>,
    code: Option<&'static str>,
    identity: Option<String>,
    detail: Option<String>,
    bytes_in: u64,
    bytes_out: u64,
}

impl Record {
    /// Opens the record of a request whose head is complete. `None` when there is no room for it, and
    /// the config says that then nothing passes.
    pub(super) async fn open(gateway: &Arc<Gateway>, peer: &Peer) -> Option<Self> {
        let place = match (gateway.records.reserve(), gateway.records.when_full()) {
            (Some(place), _) => Some(place),
            (None, WhenFull::Drop) => None,
            (None, WhenFull::Block) => Some(gateway.records.reserve_within(PATIENCE).await?),
        };
        let received_at = gateway.clock.now();
        gateway.metrics.request_begins();
        Some(Self {
            gateway: Arc::clone(gateway),
            place,
            id: RequestId::new(received_at),
            received_at,
            begun: Instant::now(),
            client_ip: peer.address.to_string(),
            key_exchange: peer.key_exchange.clone(),
            endpoint: None,
            outcome: Outcome::CallerGone,
            status: None,
            code: None,
            identity: None,
            detail: None,
            bytes_in: 0,
            bytes_out: 0,
        })
    }

    pub(super) fn id(&self) -> &str {
        self.id.as_str()
    }

    pub(super) const fn asked_for(&mut self, endpoint: &'static str) {
        self.endpoint = Some(endpoint);
    }

    pub(super) const fn read(&mut self, bytes: usize) {
        self.bytes_in = bytes as u64;
    }

    /// Notes whose certificate was presented, once that is known.
    pub(super) fn identified(&mut self, identity: String) {
        self.identity = Some(identity);
    }

    pub(super) fn signed(&mut self, signed: &Signed) {
        self.identity = Some(signed.certificate.identity.to_string());
        self.detail = Some(format!("serial {}", signed.certificate.serial));
    }

    pub(super) const fn answered(&mut self, status: u16, bytes: usize) {
        self.outcome = Outcome::Answered;
        self.status = Some(status);
        self.bytes_out = bytes as u64;
    }

    pub(super) fn refused(&mut self, refusal: &Refusal, bytes: usize) {
        self.outcome = Outcome::Refused;
        self.status = Some(refusal.code.status());
        self.code = Some(refusal.code.as_str());
        let end = refusal.why.floor_char_boundary(MAX_DETAIL);
        self.detail = refusal.why.get(..end).map(str::to_owned);
        self.bytes_out = bytes as u64;
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.gateway.metrics.request_ends(self.outcome, self.code);
        let Some(place) = self.place.take() else { return };
        let entry = Entry {
            ts: self.received_at,
            request_id: self.id.as_str(),
            outcome: self.outcome,
            status: self.status,
            code: self.code,
            owner: None,
            identity_owner: None,
            key_id: None,
            identity: self.identity.as_deref(),
            client_ip: &self.client_ip,
            endpoint: self.endpoint,
            model: None,
            target: None,
            backend: None,
            stream: false,
            bytes_in: self.bytes_in,
            bytes_out: self.bytes_out,
            ttfb: None,
            duration: self.begun.elapsed(),
            kx: Some(&self.key_exchange),
            webhooks: &[],
            detail: self.detail.as_deref(),
        };
        place.write(|waiting| line::write(&entry, waiting));
    }
}

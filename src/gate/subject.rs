//! What of a request webhooks are told of, kept for as long as they may be asked again.
//!
//! Invariant: whatever is told is what will be used: the caller as the gateway knows it, the model
//! and the caps that were read, the backends that may serve it. No key and no token is in here.

use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;
use http::request::Parts;

use crate::config::Webhook;
use crate::domain::endpoint::Endpoint;
use crate::domain::grant::Credentials;
use crate::domain::refusal::Refusal;
use crate::domain::timestamp::Timestamp;
use crate::domain::token::Vouched;
use crate::gate::View;
use crate::gate::body::Buffered;
use crate::gate::live::LiveHandle;
use crate::gate::record::{Record, RequestId};
use crate::gate::route::Routed;
use crate::webhook::hook::{Asking, Holder};
use crate::webhook::question::{MAX_BODY, Question, Told};

/// A request, as far as webhooks are told of it.
#[derive(Debug)]
pub struct Subject {
    live: LiveHandle,
    request_id: RequestId,
    method: http::Method,
    endpoint: Endpoint,
    model: Arc<str>,
    stream: bool,
    max_tokens: Option<u64>,
    /// When the first of what the caller stands on ends.
    until: Timestamp,
    candidates: Arc<[Arc<str>]>,
    content_length: u64,
    /// Empty when no webhook is told of any.
    headers: HeaderMap,
    /// `None` when no webhook is told of it.
    body: Option<Bytes>,
}

impl Subject {
    /// Gathers what the webhooks of a request want to know.
    ///
    /// # Errors
    ///
    /// `body_too_large` when one wants the body and that is longer than can be told: what a webhook
    /// cannot see it cannot judge, and to fail open would be the caller's choice then.
    pub fn new(
        view: &View,
        routed: &Routed,
        (head, body): (&Parts, &Buffered),
        record: &Record,
    ) -> Result<Self, Refusal> {
        let admitted = &routed.admitted;
        let webhooks = &view.settings.webhooks;
        let includes = admitted.hooks.iter().filter_map(|hooked| Some(&webhooks.get(&hooked.name)?.webhook().include));
        // Those that are told and no others: the credential is among them.
        let (mut headers, mut with_body) = (HeaderMap::new(), false);
        for include in includes {
            with_body |= include.body;
            for name in &include.headers {
                if !headers.contains_key(name) {
                    for value in head.headers.get_all(name) {
                        headers.append(name, value.clone());
                    }
                }
            }
        }
        if with_body && body.bytes.len() > MAX_BODY {
            return Err(Refusal::BodyTooLarge { limit: MAX_BODY as u64 });
        }
        let mut candidates: Vec<Arc<str>> = routed.stops.iter().map(|stop| Arc::clone(stop.way.name())).collect();
        candidates.sort_unstable();
        candidates.dedup();
        Ok(Self {
            live: admitted.live.handle(),
            request_id: record.request_id().clone(),
            method: head.method.clone(),
            endpoint: admitted.endpoint,
            model: Arc::clone(&admitted.request.model),
            stream: admitted.request.stream,
            max_tokens: admitted.request.max_tokens(&body.bytes),
            until: admitted.until,
            candidates: candidates.into(),
            content_length: body.length(),
            headers,
            body: with_body.then(|| body.bytes.clone()),
        })
    }

    /// The request that it is about.
    #[must_use]
    pub const fn live(&self) -> &LiveHandle {
        &self.live
    }

    /// What one webhook is told.
    ///
    /// # Errors
    ///
    /// When the caller's credentials do not stand any more.
    pub fn told(&self, view: &View, webhook: &Webhook) -> Result<Told, Refusal> {
        Ok(self.question(view, webhook, &self.live.facts().credentials(view)?))
    }

    /// The question to one webhook, which was asked about the request `again` times before.
    ///
    /// # Errors
    ///
    /// When the caller's credentials do not stand any more.
    pub fn asking(&self, view: &View, webhook: &Webhook, anew: bool, again: u32) -> Result<Asking, Refusal> {
        let credentials = self.live.facts().credentials(view)?;
        let token_of = |vouched: &Vouched| {
            let subject = vouched.token.subject.as_deref().unwrap_or_default();
            format!("{} {subject}", vouched.token.issuer).into_boxed_str()
        };
        let holder = Holder {
            key: credentials.key.as_ref().map(|key| key.id),
            owner: credentials.bearer_owner().cloned(),
            identity_owner: credentials.certificate.as_ref().and_then(|certificate| certificate.owner.clone()),
            other: credentials.token.as_ref().map(token_of).or(self.serial(view).map(String::into_boxed_str)),
        };
        Ok(Asking {
            told: Arc::new(self.question(view, webhook, &credentials)),
            holder: Arc::new(holder),
            request_id: self.request_id.as_str().into(),
            again,
            candidates: Arc::clone(&self.candidates),
            credential_ends: self.until,
            anew,
        })
    }

    fn question(&self, view: &View, webhook: &Webhook, credentials: &Credentials) -> Told {
        let connection = self.live.facts().connection();
        let (key, token) = (credentials.key.as_deref(), credentials.token.as_ref());
        let certificate = credentials.certificate.as_ref();
        let serial = self.serial(view);
        let bearer_owner = credentials.bearer_owner();
        let identity_owner = certificate.and_then(|certificate| certificate.owner.as_ref());
        let labels: Vec<(&str, &str)> = key
            .and_then(|key| key.details.as_deref())
            .map(|details| details.labels.iter().collect())
            .unwrap_or_default();
        let headers: Vec<(&str, Vec<u8>)> =
            webhook.include.headers.iter().filter_map(|name| self.header(name)).collect();
        let candidates: Vec<&str> = self.candidates.iter().map(|candidate| &**candidate).collect();
        let key_ends = key.and_then(|key| key.expires_at).or(token.map(|vouched| vouched.ends_at()));
        Question {
            gateway_id: &view.settings.config.gateway_id,
            config_revision: view.settings.generation,
            kind: match (certificate.is_some(), key.is_some(), token.is_some()) {
                (true, true, _) => "both",
                (true, false, true) => "certificate+token",
                (true, false, false) => "certificate",
                (false, true, _) => "key",
                (false, false, _) => "token",
            },
            owner: bearer_owner.or(identity_owner).map(|owner| owner.as_str()),
            identity_owner: bearer_owner.and(identity_owner).map(|owner| owner.as_str()),
            key_id: key.map(|key| key.id.as_str()),
            identity: certificate.map(|certificate| certificate.identity.uri()),
            certificate_serial: serial.as_deref(),
            certificate_expires_at: certificate.map(|certificate| certificate.not_after),
            key_expires_at: key_ends,
            labels: &labels,
            ip: &connection.address_text,
            tls: connection.tls,
            kx: &connection.key_exchange,
            sni: connection.sni.as_deref(),
            method: self.method.as_str(),
            dialect: self.endpoint.dialect().as_str(),
            endpoint: self.endpoint.name(),
            model: &self.model,
            stream: self.stream,
            max_tokens: self.max_tokens,
            headers: &headers,
            content_length: webhook.include.content_length.then_some(self.content_length),
            body: self.body.as_ref().filter(|_| webhook.include.body).map(text),
            candidates: &candidates,
        }
        .told()
    }

    /// The serial number of the caller's certificate.
    fn serial(&self, view: &View) -> Option<String> {
        self.live.facts().connection().identity(&view.settings).map(|identity| hex(&identity.peer.serial))
    }

    /// A header that a webhook is told of; several of one name as one (RFC 9110, 5.3).
    fn header<'n>(&self, name: &'n http::HeaderName) -> Option<(&'n str, Vec<u8>)> {
        let mut values = self.headers.get_all(name).iter();
        let mut all = values.next()?.as_bytes().to_vec();
        for value in values {
            all.extend_from_slice(b", ");
            all.extend_from_slice(value.as_bytes());
        }
        Some((name.as_str(), all))
    }
}

/// The body was read as UTF-8 before.
fn text(body: &Bytes) -> &str {
    std::str::from_utf8(body).unwrap_or_default()
}

fn hex(bytes: &[u8]) -> String {
    let digit = |nibble: u8| char::from_digit(nibble.into(), 16).unwrap_or('0');
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        text.push(digit(byte >> 4));
        text.push(digit(byte & 15));
    }
    text
}

//! What a webhook is told of a request.
//!
//! Invariants: what is sent is one JSON document whatever the caller wrote, and no secret is in it;
//! everything in it but the request's id and the time is [`Question::told`], of which the cache's
//! key is made: a decision is never remembered for a question that differs in anything.

use crate::dialect::json_text::{number, quoted, string, text, time, word};
use crate::domain::timestamp::Timestamp;

/// The type of these messages.
pub const TYPE: &str = "doorward.request.validate";
/// From this length on, what callers write is not remembered: it must not fill the cache.
const MAX_REMEMBERED: usize = 10_000;
/// Longest request body that is sent along.
pub const MAX_BODY: usize = 64 * 1024;

/// A request, as a webhook is told of it. Texts are as they will be used, after mapping.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the names are those of the contract; docs/webhook.md explains each")]
pub struct Question<'q> {
    pub gateway_id: &'q str,
    pub config_revision: u64,
    pub kind: &'static str,
    pub owner: Option<&'q str>,
    pub identity_owner: Option<&'q str>,
    pub key_id: Option<&'q str>,
    pub identity: Option<&'q str>,
    /// Lower-case hexadecimal.
    pub certificate_serial: Option<&'q str>,
    pub certificate_expires_at: Option<Timestamp>,
    pub key_expires_at: Option<Timestamp>,
    pub labels: &'q [(&'q str, &'q str)],
    pub ip: &'q str,
    pub tls: &'q str,
    pub kx: &'q str,
    pub sni: Option<&'q str>,
    pub method: &'q str,
    pub dialect: &'q str,
    pub endpoint: &'q str,
    pub model: &'q str,
    pub stream: bool,
    pub max_tokens: Option<u64>,
    /// Those that the config includes, in its order. Bytes outside of ASCII are taken as Latin-1.
    pub headers: &'q [(&'q str, Vec<u8>)],
    pub content_length: Option<u64>,
    pub body: Option<&'q str>,
    /// The backends that may serve it, each once.
    pub candidates: &'q [&'q str],
}

/// All of a question that stays the same when it is asked again.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Told {
    /// Members of a JSON object, from the first to the closing brace.
    members: Vec<u8>,
    /// False for what is never remembered.
    pub memorable: bool,
}

impl Question<'_> {
    /// Writes what does not change.
    #[must_use]
    pub fn told(&self) -> Told {
        let mut out = Vec::with_capacity(768);
        out.extend_from_slice(b"\"gateway\":{\"id\":");
        string(&mut out, self.gateway_id.as_bytes());
        out.extend_from_slice(b",\"config_revision\":");
        number(&mut out, self.config_revision);
        out.extend_from_slice(b"},\"caller\":{\"kind\":");
        quoted(&mut out, self.kind);
        text(&mut out, "owner", self.owner);
        text(&mut out, "identity_owner", self.identity_owner);
        text(&mut out, "key_id", self.key_id);
        text(&mut out, "identity", self.identity);
        text(&mut out, "certificate_serial", self.certificate_serial);
        time(&mut out, "certificate_expires_at", self.certificate_expires_at);
        time(&mut out, "key_expires_at", self.key_expires_at);
        out.extend_from_slice(b",\"labels\":");
        object(&mut out, self.labels.iter().map(|(name, value)| (*name, value.as_bytes())));
        out.extend_from_slice(b"},\"client\":{\"ip\":");
        quoted(&mut out, self.ip);
        word(&mut out, "tls", self.tls);
        word(&mut out, "kx", self.kx);
        text(&mut out, "sni", self.sni);
        out.extend_from_slice(b"},\"request\":{\"method\":");
        string(&mut out, self.method.as_bytes());
        word(&mut out, "dialect", self.dialect);
        word(&mut out, "endpoint", self.endpoint);
        text(&mut out, "model", Some(self.model));
        out.extend_from_slice(if self.stream { b",\"stream\":true" } else { b",\"stream\":false" });
        out.extend_from_slice(b",\"max_tokens\":");
        match self.max_tokens {
            Some(most) => number(&mut out, most),
            None => out.extend_from_slice(b"null"),
        }
        out.extend_from_slice(b",\"headers\":");
        object(&mut out, self.headers.iter().map(|(name, value)| (*name, value.as_slice())));
        if let Some(length) = self.content_length {
            out.extend_from_slice(b",\"content_length\":");
            number(&mut out, length);
        }
        if let Some(body) = self.body {
            text(&mut out, "body", Some(body));
        }
        out.extend_from_slice(b"},\"route\":{\"candidates\":[");
        for (index, candidate) in self.candidates.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            string(&mut out, candidate.as_bytes());
        }
        out.extend_from_slice(b"]}}");
        let of_caller = self.headers.iter().map(|(_, value)| value.len()).sum::<usize>();
        Told { members: out, memorable: self.body.is_none() && of_caller <= MAX_REMEMBERED }
    }
}

impl Told {
    /// The whole message for one request, at this time.
    #[must_use]
    pub fn message(&self, request_id: &str, now: Timestamp) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.members.len() + 192);
        out.extend_from_slice(b"{\"version\":1");
        word(&mut out, "type", TYPE);
        text(&mut out, "request_id", Some(request_id));
        time(&mut out, "timestamp", Some(now));
        out.push(b',');
        out.extend_from_slice(&self.members);
        out
    }

    /// What the cache's key is made of.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.members
    }
}

fn object<'a>(out: &mut Vec<u8>, members: impl Iterator<Item = (&'a str, &'a [u8])>) {
    out.push(b'{');
    for (index, (name, value)) in members.enumerate() {
        if index > 0 {
            out.push(b',');
        }
        string(out, name.as_bytes());
        out.push(b':');
        if std::str::from_utf8(value).is_ok() {
            string(out, value);
        } else {
            let latin: String = value.iter().map(|byte| char::from(*byte)).collect();
            string(out, latin.as_bytes());
        }
    }
    out.push(b'}');
}

#[cfg(test)]
#[path = "question_tests.rs"]
mod tests;

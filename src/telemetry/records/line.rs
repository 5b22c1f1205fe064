//! A record as a line of JSON.
//!
//! Invariant: what comes out is what `serde_json` would write for the same fields in the same
//! order; a test compares the two.

use std::time::Duration;

use crate::dialect::json_text::{escaped, moment, number, text, word};
use crate::domain::event::{Consulted, Entry};
use crate::domain::webhook::Source;

/// Appends `entry` to `line`, without a newline.
pub fn write(entry: &Entry<'_>, line: &mut Vec<u8>) {
    line.reserve(640);
    line.extend_from_slice(b"{\"ts\":\"");
    moment(line, entry.ts);
    line.push(b'"');
    text(line, "request_id", Some(entry.request_id));
    word(line, "outcome", entry.outcome.as_str());
    line.extend_from_slice(b",\"status\":");
    match entry.status {
        Some(status) => number(line, status.into()),
        None => line.extend_from_slice(b"null"),
    }
    text(line, "code", entry.code);
    text(line, "owner", entry.owner);
    text(line, "identity_owner", entry.identity_owner);
    text(line, "key_id", entry.key_id);
    text(line, "identity", entry.identity);
    text(line, "client_ip", Some(entry.client_ip));
    text(line, "endpoint", entry.endpoint);
    text(line, "model", entry.model);
    text(line, "target", entry.target);
    text(line, "backend", entry.backend);
    line.extend_from_slice(if entry.stream { b",\"stream\":true" } else { b",\"stream\":false" });
    line.extend_from_slice(b",\"bytes_in\":");
    number(line, entry.bytes_in);
    line.extend_from_slice(b",\"bytes_out\":");
    number(line, entry.bytes_out);
    line.extend_from_slice(b",\"ttfb_ms\":");
    match entry.ttfb {
        Some(span) => millis(line, span),
        None => line.extend_from_slice(b"null"),
    }
    line.extend_from_slice(b",\"duration_ms\":");
    millis(line, entry.duration);
    text(line, "kx", entry.kx);
    webhooks(line, entry.webhooks);
    text(line, "detail", entry.detail);
    line.push(b'}');
}

/// `[{name,decision,source}]`, and `labels` where there are some.
fn webhooks(line: &mut Vec<u8>, all: &[Consulted<'_>]) {
    line.extend_from_slice(b",\"webhooks\":[");
    for (index, Consulted { name, verdict, source, labels }) in all.iter().enumerate() {
        line.extend_from_slice(if index == 0 { b"{\"name\":\"" } else { b",{\"name\":\"" });
        escaped(line, name.as_bytes());
        line.push(b'"');
        word(line, "decision", verdict.as_str());
        text(line, "source", source.map(Source::as_str));
        if let Some(labels) = labels {
            line.extend_from_slice(b",\"labels\":{");
            for (index, (name, value)) in labels.iter().enumerate() {
                line.extend_from_slice(if index == 0 { b"\"wh." } else { b",\"wh." });
                escaped(line, name.as_bytes());
                line.extend_from_slice(b"\":\"");
                escaped(line, value.as_bytes());
                line.push(b'"');
            }
            line.push(b'}');
        }
        line.push(b'}');
    }
    line.push(b']');
}

/// Milliseconds to the microsecond, without zeros that say nothing: `12.0`, `0.034`.
fn millis(line: &mut Vec<u8>, span: Duration) {
    let micros = span.saturating_add(Duration::from_nanos(500)).as_micros();
    let micros = u64::try_from(micros).unwrap_or(u64::MAX);
    number(line, micros / 1000);
    line.push(b'.');
    let mut fraction = micros % 1000;
    loop {
        number(line, fraction / 100);
        fraction = fraction % 100 * 10;
        if fraction == 0 {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::domain::event::Outcome;
    use crate::domain::key::Labels;
    use crate::domain::timestamp::Timestamp;
    use crate::domain::webhook::Verdict;

    #[derive(serde::Serialize)]
    struct PlainWebhook<'a> {
        name: &'a str,
        decision: &'a str,
        source: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        labels: Option<BTreeMap<String, &'a str>>,
    }

    /// The same fields, for the serialiser that this file stands in for.
    #[derive(serde::Serialize)]
    struct Plain<'a> {
        ts: String,
        request_id: &'a str,
        outcome: &'a str,
        status: Option<u16>,
        code: Option<&'a str>,
        owner: Option<&'a str>,
        identity_owner: Option<&'a str>,
        key_id: Option<&'a str>,
        identity: Option<&'a str>,
        client_ip: &'a str,
        endpoint: Option<&'a str>,
        model: Option<&'a str>,
        target: Option<&'a str>,
        backend: Option<&'a str>,
        stream: bool,
        bytes_in: u64,
        bytes_out: u64,
        ttfb_ms: Option<f64>,
        duration_ms: f64,
        kx: Option<&'a str>,
        webhooks: Vec<PlainWebhook<'a>>,
        detail: Option<&'a str>,
    }

    fn as_millis(span: Duration) -> f64 {
        (span.as_secs_f64() * 1_000_000.0).round() / 1000.0
    }

    proptest! {
        #[test]
        fn writes_what_a_serialiser_would(
            texts in prop::collection::vec(prop::option::of(".{0,40}"), 6),
            micros in prop::option::of(0u64..100_000_000_000),
            duration in 0u64..10_000_000,
            status in prop::option::of(100u16..600),
            bytes: u64,
            outcome in 0usize..6,
        ) {
            let text = |index: usize| texts[index].as_deref();
            let ts = Timestamp::from_millis(i64::try_from(duration).unwrap() * 1000);
            let (ttfb, duration) = (micros.map(Duration::from_micros), Duration::from_micros(duration));
            let labels = Labels::parse([("team", text(3).unwrap_or("").replace(char::is_control, ""))]).unwrap_or_default();
            let webhooks = [
                Consulted { name: "iam", verdict: Verdict::Allow, source: Some(Source::Cached), labels: Some(&labels) },
                Consulted { name: "b", verdict: Verdict::Error, source: None, labels: None },
            ];
            let webhooks = webhooks.get(..usize::from(status.unwrap_or(0) % 3)).unwrap_or_default();
            let entry = Entry {
                ts,
                request_id: text(0).unwrap_or(""),
                outcome: Outcome::ALL[outcome],
                status,
                code: Some("no_backend"),
                owner: text(1),
                identity_owner: None,
                key_id: text(2),
                identity: text(3),
                client_ip: "10.0.0.1",
                endpoint: None,
                model: text(4),
                target: Some("a\"\\\u{1}\n"),
                backend: None,
                stream: bytes % 2 == 0,
                bytes_in: bytes,
                bytes_out: 7,
                ttfb,
                duration,
                kx: Some("X25519MLKEM768"),
                webhooks,
                detail: text(5),
            };
            let plain = Plain {
                ts: ts.to_string(),
                request_id: entry.request_id,
                outcome: entry.outcome.as_str(),
                status,
                code: entry.code,
                owner: entry.owner,
                identity_owner: None,
                key_id: entry.key_id,
                identity: entry.identity,
                client_ip: entry.client_ip,
                endpoint: None,
                model: entry.model,
                target: entry.target,
                backend: None,
                stream: entry.stream,
                bytes_in: bytes,
                bytes_out: 7,
                ttfb_ms: ttfb.map(as_millis),
                duration_ms: as_millis(duration),
                kx: entry.kx,
                webhooks: webhooks
                    .iter()
                    .map(|said| PlainWebhook {
                        name: said.name,
                        decision: said.verdict.as_str(),
                        source: said.source.map(Source::as_str),
                        labels: said
                            .labels
                            .map(|labels| labels.iter().map(|(name, value)| (format!("wh.{name}"), value)).collect()),
                    })
                    .collect(),
                detail: entry.detail,
            };
            let mut line = Vec::new();
            write(&entry, &mut line);
            prop_assert_eq!(String::from_utf8(line).unwrap(), serde_json::to_string(&plain).unwrap());
        }
    }
}

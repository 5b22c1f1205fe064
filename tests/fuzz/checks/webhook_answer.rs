//! What a webhook says, and what it is told: read or refused, never a panic, and never wider.

use doorward::config::Override;
use doorward::webhook::answer::{MAX_BYTES, Narrowing, Ruling, read};
use serde_json::Value;

use super::folded;

const ID: &str = "0193a6c0-0000-7000-8000-000000000001";
const CANDIDATES: [&str; 2] = ["vllm-a", "vllm-b"];
const KNOWN: [&str; 9] =
    ["version", "request_id", "decision", "reason", "public_message", "status", "ttl_s", "retry_after_s", "overrides"];

/// Which overrides are allowed, and the members of an answer, beside the first two: a fuzzer does not find
/// the id by itself. Without them when the first byte says so.
pub(super) fn check(input: &[u8]) {
    let Some((how, members)) = input.split_first() else { return };
    let framed = [b"{\"version\":1,\"request_id\":\"", ID.as_bytes(), b"\",", members, b"}"].concat();
    let body = if how & 0x80 == 0 { &framed } else { members };
    if body.len() > MAX_BYTES {
        return;
    }
    let allows = |index: usize| how >> index & 1 == 1;
    let allowed: Vec<Override> =
        Override::ALL.into_iter().enumerate().filter(|(index, _)| allows(*index)).map(|(_, one)| one).collect();
    let Ok(decision) = read(body, ID, &allowed, &CANDIDATES) else { return };
    assert!(decision.reason.as_ref().is_none_or(|reason| reason.len() <= 256 && !reason.chars().any(char::is_control)));
    // Every reader that takes it at all reads the same decision.
    // Lone surrogates in members that mean nothing are not taken by all.
    let Ok(value) = serde_json::from_slice::<Value>(body) else { return };
    assert_eq!(value["request_id"], ID);
    let keys = value.as_object().expect("an object").keys();
    keys.for_each(|key| assert!(KNOWN.contains(&&**key) || !KNOWN.contains(&&*folded(key)), "{key}"));
    match decision.ruling {
        Ruling::Allow(narrowing) => {
            assert_eq!(value["decision"], "allow");
            narrowed(&narrowing, &value["overrides"], &|kind| allowed.contains(&kind));
        }
        Ruling::Deny(denial) => {
            assert_eq!(value["decision"], "deny");
            assert!([401, 402, 403, 404, 429].contains(&denial.status));
            assert!(!denial.message.is_empty() && denial.message.len() <= 256);
            assert!(!denial.message.chars().any(char::is_control));
        }
    }
}

/// What was said counts, if it is allowed to, and nothing else.
fn narrowed(narrowing: &Narrowing, said: &Value, allowed: &dyn Fn(Override) -> bool) {
    let number = |name: &str, kind| said[name].as_u64().filter(|_| allowed(kind));
    assert_eq!(narrowing.max_tokens, number("max_tokens", Override::MaxTokens));
    let deadline = narrowing.deadline.and_then(|span| u64::try_from(span.as_millis()).ok());
    assert_eq!(deadline, number("deadline_ms", Override::DeadlineMs));
    assert_eq!(narrowing.expires_at.is_some(), said["expires_at"].is_string() && allowed(Override::ExpiresAt));
    let backend = said["backend"].as_str().filter(|_| allowed(Override::Backend));
    assert_eq!(narrowing.backend.as_deref(), backend);
    assert!(backend.is_none_or(|backend| CANDIDATES.contains(&backend)));
    let labels = said["labels"].as_object().filter(|labels| !labels.is_empty() && allowed(Override::Labels));
    assert_eq!(narrowing.labels.is_some(), labels.is_some());
}

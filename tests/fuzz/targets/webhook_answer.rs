//! What a webhook says, and what it is told: read or refused, never a panic, and never wider.

#![no_main]

use doorward::config::Override;
use doorward::webhook::answer::{MAX_BYTES, Ruling, read};
use libfuzzer_sys::fuzz_target;

const ID: &str = "0193a6c0-0000-7000-8000-000000000001";
const CANDIDATES: [&str; 2] = ["vllm-a", "vllm-b"];

fuzz_target!(|input: (&[u8], &[u8])| {
    let (whole, members) = input;
    // As it is, and as the members of an answer: a fuzzer does not find the id by itself.
    let framed = [b"{\"version\":1,\"request_id\":\"", ID.as_bytes(), b"\",", members, b"}"].concat();
    for body in [whole, framed.as_slice()] {
        if body.len() > MAX_BYTES {
            continue;
        }
        let Ok(decision) = read(body, ID, &Override::ALL, &CANDIDATES) else { continue };
        assert!(
            decision.reason.as_ref().is_none_or(|reason| reason.len() <= 256 && !reason.chars().any(char::is_control))
        );
        // Every reader that takes it at all reads the same decision.
        let value: serde_json::Value = serde_json::from_slice(body).unwrap();
        assert_eq!(value["request_id"], ID);
        match decision.ruling {
            Ruling::Allow(narrowing) => {
                assert_eq!(value["decision"], "allow");
                assert!(narrowing.backend.is_none_or(|backend| CANDIDATES.contains(&&*backend)));
                assert_eq!(narrowing.max_tokens, value["overrides"]["max_tokens"].as_u64());
            }
            Ruling::Deny(denial) => {
                assert_eq!(value["decision"], "deny");
                assert!([401, 402, 403, 404, 429].contains(&denial.status));
                assert!(!denial.message.is_empty() && denial.message.len() <= 256);
            }
        }
    }
});

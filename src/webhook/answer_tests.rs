use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const ID: &str = "0193a6c0-0000-7000-8000-000000000001";
const CANDIDATES: [&str; 2] = ["vllm-a", "vllm-b"];

fn heard(answer: &Value) -> Result<Decision, Trouble> {
    read(answer.to_string().as_bytes(), ID, &Override::ALL, &CANDIDATES)
}

fn answer(more: &Value) -> Value {
    let mut answer = json!({"version": 1, "request_id": ID, "decision": "allow"});
    for (name, value) in more.as_object().unwrap() {
        answer[name] = value.clone();
    }
    answer
}

fn malformed(result: &Result<Decision, Trouble>) -> bool {
    matches!(result, Err(Trouble::Malformed(_)))
}

#[test]
fn the_example_of_the_contract() {
    let decision = heard(&answer(&json!({
        "reason": "logged", "public_message": "shown", "status": 403, "ttl_s": 20, "retry_after_s": 30,
        "overrides": {"max_tokens": 256, "deadline_ms": 30000, "expires_at": "2026-11-22T23:10:00Z", "backend": "vllm-b",
                      "labels": {"cost_center": "9"}},
    })))
    .unwrap();
    assert_eq!(decision.reason.as_deref(), Some("logged"));
    assert_eq!(decision.ttl, Some(Duration::from_secs(20)));
    let Ruling::Allow(narrowing) = decision.ruling else { panic!("a denial") };
    assert_eq!(narrowing.max_tokens, Some(256));
    assert_eq!(narrowing.deadline, Some(Duration::from_secs(30)));
    assert_eq!(narrowing.expires_at, Some(Timestamp::parse("2026-11-22T23:10:00Z").unwrap()));
    assert_eq!(narrowing.backend.as_deref(), Some("vllm-b"));
    assert_eq!(narrowing.labels.unwrap().iter().collect::<Vec<_>>(), [("cost_center", "9")]);
}

#[test]
fn denials() {
    let deny = |more: Value| {
        let mut more = more;
        more["decision"] = json!("deny");
        heard(&answer(&more)).map(|decision| match decision.ruling {
            Ruling::Deny(denial) => denial,
            Ruling::Allow(_) => panic!("allowed"),
        })
    };
    let plainest = deny(json!({})).unwrap();
    assert_eq!((plainest.status, &*plainest.message, plainest.retry_after), (403, NO_MESSAGE, None));
    let full = deny(json!({"status": 429, "public_message": "Later.", "retry_after_s": 30})).unwrap();
    assert_eq!((full.status, &*full.message), (429, "Later."));
    assert_eq!(full.retry_after, Some(Duration::from_secs(30)));
    assert_eq!(deny(json!({"retry_after_s": 86400})).unwrap().retry_after, Some(MAX_WAIT));
    for status in [200, 302, 400, 405, 500, 503, 65536] {
        assert!(malformed(&deny(json!({"status": status})).map(|_| unreachable!())), "{status}");
    }
}

/// The answers that a denial cannot be told from, nor a leave.
#[test]
fn what_does_not_count() {
    for wrong in [
        json!({"version": 2}),
        json!({"version": "1"}),
        json!({"version": null}),
        json!({"decision": "maybe"}),
        json!({"decision": "ALLOW"}),
        json!({"decision": true}),
        json!({"decision": null}),
        json!({"request_id": null}),
        json!({"request_id": 7}),
        json!({"Decision": "deny"}),
        json!({"reason": 7}),
        json!({"ttl_s": -1}),
        json!({"ttl_s": 1.5}),
        json!({"ttl_s": "20"}),
        json!({"status": "403"}),
        json!({"overrides": []}),
        json!({"overrides": {"max_tokns": 1}}),
        json!({"overrides": {"Max_Tokens": 1}}),
        json!({"overrides": {"max_tokens": -1}}),
        json!({"overrides": {"max_tokens": "1"}}),
        json!({"overrides": {"deadline_ms": 1.5}}),
        json!({"overrides": {"expires_at": "tomorrow"}}),
        json!({"overrides": {"expires_at": "2026-11-22T23:10:00"}}),
        json!({"overrides": {"backend": "vllm-c"}}),
        json!({"overrides": {"labels": {"a": 1}}}),
        json!({"overrides": {"labels": {"A": "x"}}}),
        json!({"overrides": {"labels": {"a": "x\n"}}}),
    ] {
        let result = heard(&answer(&wrong));
        assert!(malformed(&result), "{wrong}: {result:?}");
    }
    for other in ["", "0193a6c0-0000-7000-8000-000000000002", &format!("{ID} ")] {
        assert_eq!(heard(&answer(&json!({"request_id": other}))), Err(Trouble::OtherRequest));
    }
    let many: serde_json::Map<_, _> = (0..17).map(|n| (format!("l{n}"), json!("x"))).collect();
    assert!(malformed(&heard(&answer(&json!({"overrides": {"labels": many}})))));
    let id = format!("\"version\":1,\"request_id\":\"{ID}\"");
    for raw in [
        String::new(),
        "allow".to_owned(),
        "[]".to_owned(),
        "<html>403 Forbidden</html>".to_owned(),
        format!("{{{id},\"decision\":\"deny\",\"decision\":\"allow\"}}"),
        format!("{{{id},\"decision\":\"allow\",\"d\\u0065cision\":\"deny\"}}"),
        format!("{{{id},\"decision\":\"allow\",\"overrides\":{{\"max_tokens\":1,\"max_tokens\":2}}}}"),
        format!("{{{id},\"decision\":\"allow\"}} {{}}"),
        format!("\u{feff}{{{id},\"decision\":\"allow\"}}"),
        format!("{{{id},\"decision\":\"allow\",\"x\":{}}}", "[".repeat(1000)),
        format!("{{{id},\"decision\":\"allow\""),
    ] {
        let result = read(raw.as_bytes(), ID, &Override::ALL, &CANDIDATES);
        assert!(malformed(&result), "{raw}: {result:?}");
    }
    assert!(malformed(&read(b"{\"version\":1\xff}", ID, &[], &CANDIDATES)));
}

#[test]
fn what_is_new_at_the_top_is_for_later_versions() {
    assert!(heard(&answer(&json!({"obligations": [1, {"a": null}], "reason": null, "overrides": null}))).is_ok());
}

#[test]
fn overrides_that_are_not_listed_do_not_count() {
    let overrides = json!({"overrides": {"max_tokens": 1, "deadline_ms": 1, "expires_at": "2026-11-22T23:10:00Z",
                                         "backend": "elsewhere", "labels": {"a": "x"}}});
    let decision = read(answer(&overrides).to_string().as_bytes(), ID, &[], &CANDIDATES).unwrap();
    assert_eq!(decision.ruling, Ruling::Allow(Narrowing::default()));
}

#[test]
fn texts_are_cut_and_cannot_forge_lines() {
    let long = format!("a\n\u{1b}[31mb\u{202e}c\u{61c}{}", "ä".repeat(300));
    let decision = heard(&answer(&json!({"reason": long, "decision": "deny", "public_message": "\r\n"}))).unwrap();
    let reason = decision.reason.unwrap();
    assert!(reason.len() <= 256 && !reason.chars().any(char::is_control), "{reason}");
    assert!(reason.starts_with("a  [31mb c "), "{reason}");
    let Ruling::Deny(denial) = decision.ruling else { panic!("allowed") };
    assert_eq!(&*denial.message, NO_MESSAGE);
}

proptest! {
    /// No bytes whatever make a decision unless they say the request's own id.
    #[test]
    fn noise_decides_nothing(body in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(read(&body, ID, &Override::ALL, &CANDIDATES).is_err());
    }

    /// An answer that was cut anywhere, or has a byte changed, allows nothing that it did not: it is
    /// trouble, or what it says of itself.
    #[test]
    fn what_is_damaged_does_not_widen(cut in 0usize..400, byte: u8) {
        let whole = answer(&json!({"overrides": {"max_tokens": 5, "backend": "vllm-a"}})).to_string().into_bytes();
        let cut = cut.min(whole.len() - 1);
        prop_assert!(read(&whole[..cut], ID, &Override::ALL, &CANDIDATES).is_err());
        let mut changed = whole.clone();
        changed[cut] = byte;
        if let Ok(Decision { ruling: Ruling::Allow(narrowing), .. }) = read(&changed, ID, &Override::ALL, &CANDIDATES) {
            prop_assert!(narrowing.backend.as_deref().is_none_or(|backend| CANDIDATES.contains(&backend)));
        }
    }
}

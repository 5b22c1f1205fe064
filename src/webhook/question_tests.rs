use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const ID: &str = "0193a6c0-0000-7000-8000-000000000001";

fn at(text: &str) -> Timestamp {
    Timestamp::parse(text).unwrap()
}

pub(super) fn question<'q>() -> Question<'q> {
    Question {
        gateway_id: "gw-1",
        config_revision: 42,
        kind: "both",
        owner: Some("acme/research/alice"),
        identity_owner: None,
        key_id: Some("k7f3k7f3k7f3"),
        identity: Some("spiffe://corp.example/client/alice"),
        certificate_serial: Some("4fa1"),
        certificate_expires_at: Some(at("2026-11-23T20:00:00Z")),
        key_expires_at: None,
        labels: &[("team", "a")],
        ip: "203.0.113.9",
        tls: "1.3",
        kx: "X25519MLKEM768",
        sni: Some("llm.corp.example"),
        method: "POST",
        dialect: "openai",
        endpoint: "openai.chat_completions",
        model: "llama-3",
        stream: true,
        max_tokens: Some(512),
        headers: &[],
        content_length: None,
        body: None,
        candidates: &["vllm-a", "vllm-b"],
    }
}

fn parsed(question: &Question<'_>) -> Value {
    serde_json::from_slice(&question.told().message(ID, at("2026-11-22T23:00:00Z"))).unwrap()
}

/// The example of the contract, to the letter.
#[test]
fn the_message_of_the_contract() {
    let expected = json!({
        "version": 1, "type": "doorward.request.validate", "request_id": ID, "timestamp": "2026-11-22T23:00:00.000Z",
        "gateway": {"id": "gw-1", "config_revision": 42},
        "caller": {"kind": "both", "owner": "acme/research/alice", "identity_owner": null, "key_id": "k7f3k7f3k7f3",
                   "identity": "spiffe://corp.example/client/alice", "certificate_serial": "4fa1",
                   "certificate_expires_at": "2026-11-23T20:00:00.000Z", "key_expires_at": null, "labels": {"team": "a"}},
        "client": {"ip": "203.0.113.9", "tls": "1.3", "kx": "X25519MLKEM768", "sni": "llm.corp.example"},
        "request": {"method": "POST", "dialect": "openai", "endpoint": "openai.chat_completions", "model": "llama-3",
                    "stream": true, "max_tokens": 512, "headers": {}},
        "route": {"candidates": ["vllm-a", "vllm-b"]},
    });
    assert_eq!(parsed(&question()), expected);
}

#[test]
fn what_is_included_is_told() {
    let headers = [("x-project", b"a\"b\\c".to_vec()), ("x-name", b"caf\xe9".to_vec())];
    let told = Question { headers: &headers, content_length: Some(812), body: Some("{\"model\":\"x\"}"), ..question() };
    let request = parsed(&told)["request"].clone();
    assert_eq!(request["headers"], json!({"x-project": "a\"b\\c", "x-name": "café"}));
    assert_eq!(request["content_length"], json!(812));
    assert_eq!(request["body"], json!("{\"model\":\"x\"}"));
}

#[test]
fn what_callers_write_at_length_is_not_remembered() {
    assert!(question().told().memorable);
    let long = [("x-project", vec![b'a'; MAX_REMEMBERED + 1])];
    assert!(!Question { headers: &long, ..question() }.told().memorable);
    assert!(!Question { body: Some(""), ..question() }.told().memorable);
}

proptest! {
    /// Whatever callers write is one string at its place, and changes nothing else; two questions
    /// have the same text only if they are the same.
    #[test]
    fn nothing_breaks_out(value in prop::collection::vec(any::<u8>(), 0..64), model: String, sni: String) {
        let headers = [("x-project", value.clone())];
        let told = Question { headers: &headers, model: &model, sni: Some(&sni), ..question() };
        let mut found = parsed(&told);
        prop_assert_eq!(&found["request"]["model"], &json!(model));
        prop_assert_eq!(&found["client"]["sni"], &json!(sni));
        let text = String::from_utf8(value.clone()).unwrap_or_else(|_| value.iter().map(|b| char::from(*b)).collect());
        prop_assert_eq!(&found["request"]["headers"]["x-project"], &json!(text));
        found["request"]["model"] = json!("llama-3");
        found["client"]["sni"] = json!("llm.corp.example");
        found["request"]["headers"] = json!({});
        prop_assert_eq!(found, parsed(&question()));
    }

    #[test]
    fn different_questions_have_different_texts(a: String, b: String) {
        let one = Question { owner: Some(&a), identity_owner: Some(&b), ..question() };
        let other = Question { owner: Some(&b), identity_owner: Some(&a), ..question() };
        prop_assert_eq!(one.told() == other.told(), a == b);
    }
}

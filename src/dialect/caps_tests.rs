use bytes::Bytes;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::dialect::body::read;
use crate::domain::endpoint::Endpoint;

const CHAT: Endpoint = Endpoint::OpenAiChatCompletions;

fn lowered(endpoint: Endpoint, body: &str, most: u64) -> String {
    let body = Bytes::copy_from_slice(body.as_bytes());
    let request = read(endpoint, &body).unwrap();
    String::from_utf8(request.edited(&body, "own", Some((endpoint, most))).concat()).unwrap()
}

#[track_caller]
fn check(endpoint: Endpoint, body: &str, expected: &str) {
    assert_eq!(lowered(endpoint, body, 256), expected);
}

#[test]
fn both_keys_of_a_chat_are_lowered() {
    check(CHAT, r#"{"model":"m","max_tokens":512}"#, r#"{"max_completion_tokens":256,"model":"own","max_tokens":256}"#);
    check(
        CHAT,
        r#" {"max_completion_tokens":5.0e2,"model":"m","max_tokens":7, "x":1}"#,
        r#" {"max_completion_tokens":256,"model":"own","max_tokens":7, "x":1}"#,
    );
    check(CHAT, r#"{"model":"m"}"#, r#"{"max_tokens":256,"max_completion_tokens":256,"model":"own"}"#);
    check(
        CHAT,
        r#"{"max_tokens":null,"model":"m"}"#,
        r#"{"max_completion_tokens":256,"max_tokens":256,"model":"own"}"#,
    );
}

/// llama.cpp reads its own key first: a cap that is not written there is none.
#[test]
fn a_key_of_llama_cpp_is_no_way_around() {
    check(
        CHAT,
        r#"{"n_predict":-1,"model":"m","max_tokens":5,"max_completion_tokens":5}"#,
        r#"{"n_predict":256,"model":"own","max_tokens":5,"max_completion_tokens":5}"#,
    );
    check(
        Endpoint::OpenAiCompletions,
        r#"{"model":"m","n_predict":7,"max_tokens":null}"#,
        r#"{"model":"own","n_predict":7,"max_tokens":256}"#,
    );
    check(
        Endpoint::OpenAiCompletions,
        r#"{"model":"m","max_completion_tokens":900,"max_tokens":5}"#,
        r#"{"model":"own","max_completion_tokens":256,"max_tokens":5}"#,
    );
    check(
        Endpoint::OpenAiResponses,
        r#"{"model":"m","n_predict":-1,"max_tokens":900,"max_output_tokens":5,"max_completion_tokens":900}"#,
        r#"{"model":"own","n_predict":256,"max_tokens":256,"max_output_tokens":5,"max_completion_tokens":256}"#,
    );
    let most = |body: &str| read(CHAT, body.as_bytes()).unwrap().max_tokens(body.as_bytes());
    assert_eq!(most(r#"{"model":"m","max_tokens":5,"n_predict":900}"#), Some(900));
    assert_eq!(most(r#"{"model":"m","max_tokens":5,"n_predict":-1}"#), None);
}

#[test]
fn other_endpoints_have_keys_of_their_own() {
    check(Endpoint::OpenAiCompletions, r#"{"model":"m"}"#, r#"{"max_tokens":256,"model":"own"}"#);
    check(Endpoint::OpenAiResponses, r#"{"model":"m"}"#, r#"{"max_output_tokens":256,"model":"own"}"#);
    check(Endpoint::AnthropicMessages, r#"{"max_tokens":9,"model":"m"}"#, r#"{"max_tokens":9,"model":"own"}"#);
    check(Endpoint::OpenAiEmbeddings, r#"{"model":"m"}"#, r#"{"model":"own"}"#);
}

#[test]
fn ollama_has_it_among_its_options() {
    let chat = Endpoint::OllamaChat;
    check(chat, r#"{"model":"m"}"#, r#"{"options":{"num_predict":256},"model":"own"}"#);
    check(chat, r#"{"model":"m","options":null}"#, r#"{"model":"own","options":{"num_predict":256}}"#);
    check(chat, r#"{"model":"m","options":{ }}"#, r#"{"model":"own","options":{"num_predict":256 }}"#);
    check(chat, r#"{"options":{"a":1},"model":"m"}"#, r#"{"options":{"num_predict":256,"a":1},"model":"own"}"#);
    check(
        Endpoint::OllamaGenerate,
        r#"{"options":{"num_predict":-1},"model":"m"}"#,
        r#"{"options":{"num_predict":256},"model":"own"}"#,
    );
    check(chat, r#"{"options":{"num_predict":4},"model":"m"}"#, r#"{"options":{"num_predict":4},"model":"own"}"#);
    check(
        chat,
        r#"{"options":{"num_predict":null,"b":2},"model":"m"}"#,
        r#"{"options":{"num_predict":256,"b":2},"model":"own"}"#,
    );
}

/// Ollama ends nothing at 0 tokens, whichever dialect they come in: 0 must neither be told as a low cap
/// nor be written as one.
#[test]
fn zero_is_no_way_around() {
    let generate = Endpoint::OllamaGenerate;
    check(generate, r#"{"options":{"num_predict":0},"model":"m"}"#, r#"{"options":{"num_predict":1},"model":"own"}"#);
    check(
        CHAT,
        r#"{"max_completion_tokens":0,"max_tokens":0.0,"model":"m"}"#,
        r#"{"max_completion_tokens":1,"max_tokens":1,"model":"own"}"#,
    );
    assert_eq!(lowered(generate, r#"{"model":"m"}"#, 0), r#"{"options":{"num_predict":1},"model":"own"}"#);
    let most = |endpoint, body: &str| read(endpoint, body.as_bytes()).unwrap().max_tokens(body.as_bytes());
    assert_eq!(most(generate, r#"{"model":"m","options":{"num_predict":0}}"#), None);
    assert_eq!(most(CHAT, r#"{"model":"m","max_tokens":0,"max_completion_tokens":7}"#), None);
}

#[test]
fn what_a_body_asks_for_is_the_most_that_any_key_says() {
    let most = |endpoint, body: &str| read(endpoint, body.as_bytes()).unwrap().max_tokens(body.as_bytes());
    assert_eq!(most(CHAT, r#"{"model":"m"}"#), None);
    assert_eq!(most(CHAT, r#"{"model":"m","max_tokens":null}"#), None);
    assert_eq!(most(CHAT, r#"{"model":"m","max_tokens":5,"max_completion_tokens":7}"#), Some(7));
    assert_eq!(most(CHAT, r#"{"model":"m","max_tokens":5e1,"max_completion_tokens":null}"#), Some(50));
    assert_eq!(most(Endpoint::OllamaChat, r#"{"model":"m","options":{"num_predict":-1}}"#), None);
    assert_eq!(most(Endpoint::OllamaChat, r#"{"model":"m","options":{"num_predict":3}}"#), Some(3));
}

/// A cap in a body is one of each reply, and ours one of all of them.
#[test]
fn several_replies_share_the_cap() {
    check(
        CHAT,
        r#"{"n":3,"model":"m","max_tokens":80}"#,
        r#"{"max_completion_tokens":85,"n":3,"model":"own","max_tokens":80}"#,
    );
    check(
        CHAT,
        r#"{"n":null,"model":"m"}"#,
        r#"{"max_tokens":256,"max_completion_tokens":256,"n":null,"model":"own"}"#,
    );
    check(CHAT, r#"{"n":0,"model":"m"}"#, r#"{"max_tokens":256,"max_completion_tokens":256,"n":0,"model":"own"}"#);
    let completions = |prompt: &str, each: u64| {
        check(
            Endpoint::OpenAiCompletions,
            &format!(r#"{{"n":1,"best_of":2e0,"prompt":{prompt},"model":"m"}}"#),
            &format!(r#"{{"max_tokens":{each},"n":1,"best_of":2e0,"prompt":{prompt},"model":"own"}}"#),
        );
    };
    completions(r#""a [\"b\", \"c\"]""#, 128);
    completions("[1, 2, 3]", 128);
    completions("[]", 128);
    completions(r#"["a", "b"]"#, 64);
    completions(r#"["a\"[", "b\\", "]"]"#, 42);
    completions(r#"[[1, 2], [3], ["x", "y"], {"prompt_string": ["z"]}]"#, 32);
    completions(r#"["a", "b"], "prompt_embeds": ["c", "d"]"#, 32);
    // llama.cpp's own key goes before the others there, and no key of one endpoint counts at another.
    check(
        Endpoint::OpenAiResponses,
        r#"{"n_cmpl":256,"n":1,"model":"m"}"#,
        r#"{"max_output_tokens":1,"n_cmpl":256,"n":1,"model":"own"}"#,
    );
    check(
        CHAT,
        r#"{"prompt":["a","b"],"model":"m","max_tokens":256}"#,
        r#"{"max_completion_tokens":256,"prompt":["a","b"],"model":"own","max_tokens":256}"#,
    );
    check(Endpoint::OllamaChat, r#"{"n":9,"model":"m"}"#, r#"{"options":{"num_predict":256},"n":9,"model":"own"}"#);
}

#[test]
fn what_a_body_asks_for_is_told_for_all_replies() {
    let asked = |endpoint, body: &str| {
        let request = read(endpoint, body.as_bytes()).unwrap();
        (request.max_tokens(body.as_bytes()), request.replies(body.as_bytes()))
    };
    let completions = Endpoint::OpenAiCompletions;
    assert_eq!(asked(CHAT, r#"{"model":"m","max_tokens":5,"n":3,"n_cmpl":2}"#), (Some(15), 3));
    assert_eq!(asked(CHAT, r#"{"model":"m","n":3}"#), (None, 3));
    assert_eq!(asked(completions, r#"{"model":"m","max_tokens":5,"prompt":["a","b"],"best_of":4}"#), (Some(40), 8));
    let huge = r#"{"model":"m","max_tokens":9e18,"n":9e18,"prompt":["a","b"]}"#;
    assert_eq!(asked(completions, huge), (Some(u64::MAX), 18_000_000_000_000_000_000));
}

/// Reads what a backend could make of a body, with a parser of somebody else's: the most replies and the
/// most tokens of each.
fn greediest(body: &Value) -> (u64, Option<u64>) {
    let number = |key: &str| format!("{:.0}", body[key].as_f64()?).parse::<u64>().ok();
    let replies = ["n", "best_of", "n_cmpl"].into_iter().filter_map(number).max().unwrap_or(1).max(1);
    let several = body["prompt"].as_array().filter(|list| !list.is_empty() && !list.iter().any(Value::is_number));
    let prompts = several.map_or(1, Vec::len) as u64;
    let each = ["max_tokens", "max_completion_tokens", "n_predict"].into_iter().filter_map(number).max();
    (replies * prompts, each)
}

proptest! {
    /// Whatever replies a body asks for: all of them together have no more tokens than the cap, as long
    /// as there is one for each.
    #[test]
    fn all_replies_together_stay_below_the_cap(
        endpoint in prop::sample::select(vec![CHAT, Endpoint::OpenAiCompletions]),
        numbers in prop::collection::btree_map(
            prop::sample::select(vec!["n", "best_of", "n_cmpl", "max_tokens", "max_completion_tokens", "n_predict"]),
            prop_oneof![Just(Value::Null), (0u64..40).prop_map(Value::from), (0u64..40).prop_map(|n| json!(n as f64))],
            0..7,
        ),
        prompt in prop_oneof![
            Just(Value::Null),
            r#"[a-z\[\]"\\{},]{0,9}"#.prop_map(Value::from),
            prop::collection::vec(r#"[a-z\[\]"\\{},]{0,9}"#, 0..6).prop_map(Value::from),
            prop::collection::vec(0u64..9, 0..6).prop_map(Value::from),
            prop::collection::vec(prop::collection::vec(0u64..9, 0..4), 0..6).prop_map(Value::from),
        ],
        cap in 0u64..3000,
    ) {
        let mut body = json!({"model": "m"});
        if endpoint != CHAT {
            body["prompt"] = prompt;
        }
        for (key, value) in numbers {
            body[key] = value;
        }
        let text = body.to_string();
        let request = read(endpoint, text.as_bytes()).unwrap();
        let (replies, before) = greediest(&body);
        prop_assert_eq!(request.replies(text.as_bytes()), replies);
        let sent: Value = serde_json::from_str(&lowered(endpoint, &text, cap)).unwrap();
        let (still, each) = greediest(&sent);
        let each = each.unwrap();
        prop_assert_eq!(still, replies);
        prop_assert!(each >= 1 && before.is_none_or(|before| each <= before.max(cap / replies).max(1)));
        // More replies than tokens are refused before anything is sent.
        prop_assert!(replies > cap.max(1) || each * replies <= cap.max(1), "{sent}");
    }

    /// Whatever a body asked for, and wherever: afterwards it is the lower of that and the cap, in
    /// every key, and never 0; nothing else changes.
    #[test]
    fn lowering_only_lowers(
        first in prop_oneof![Just(Value::Null), (0u64..2000).prop_map(Value::from), Just(json!("absent"))],
        second in prop_oneof![Just(Value::Null), (0u64..2000).prop_map(Value::from), Just(json!("absent"))],
        text in "\\PC{0,20}", cap in 0u64..1500,
    ) {
        let mut body = json!({"messages": [{"content": text}], "model": "m", "zeta": 1});
        for (key, value) in [("max_tokens", &first), ("max_completion_tokens", &second)] {
            if *value != json!("absent") {
                body[key] = value.clone();
            }
        }
        let mut found: Value = serde_json::from_str(&lowered(CHAT, &body.to_string(), cap)).unwrap();
        for (key, value) in [("max_tokens", first), ("max_completion_tokens", second)] {
            let expected = value.as_u64().map_or(cap, |value| value.min(cap)).max(1);
            prop_assert_eq!(found[key].as_u64(), Some(expected));
            found.as_object_mut().unwrap().remove(key);
            body.as_object_mut().unwrap().remove(key);
        }
        body["model"] = json!("own");
        prop_assert_eq!(found, body);
    }
}

use proptest::prelude::*;
use serde_json::Value;

use super::*;

const CHAT: Endpoint = Endpoint::OpenAiChatCompletions;

/// `expected` is a part of the message, or "" when the body is fine.
#[track_caller]
fn check(endpoint: Endpoint, body: &str, expected: &str) {
    match read(endpoint, body.as_bytes()) {
        Ok(_) => assert_eq!(expected, "", "accepted {body}"),
        Err(Refusal::InvalidBody(message)) => {
            assert!(!expected.is_empty() && message.contains(expected), "{body}: {message}");
        }
        Err(other) => panic!("{body}: {other:?}"),
    }
}

#[test]
fn every_body_names_a_model() {
    for endpoint in Endpoint::ALL {
        if fields(endpoint).is_none() {
            check(endpoint, r#"{"model":"m"}"#, "takes no body");
            continue;
        }
        check(endpoint, r#"{"model":"m","input":"x"}"#, "");
        check(endpoint, "{}", "\"model\" is missing");
        check(endpoint, r#"{"model":null}"#, "\"model\" is missing");
        check(endpoint, r#"{"model":1}"#, "\"model\" must be a string");
        check(endpoint, r#"{"Model":"m"}"#, "write \"model\"");
        check(endpoint, r#"{"model":"m","mod\u0065l":"n"}"#, "twice");
        check(endpoint, r#"["model"]"#, "one JSON object");
    }
}

#[test]
fn the_model_is_an_alias() {
    for wrong in ["", "a b", "modèle", "a\\u0000", "a\\\"", "\\ud800", "a,b", &"a".repeat(257)] {
        if wrong.is_empty() {
            check(CHAT, r#"{"model":""}"#, "1 to 256 characters");
        }
        check(CHAT, &format!(r#"{{"model":"{wrong}"}}"#), "1 to 256 characters");
    }
    let spelled = read(CHAT, br#"{"model":"org\/mod\u0065l"}"#).unwrap();
    assert_eq!(&*spelled.model, "org/model");
}

#[test]
fn streaming_is_asked_for_or_the_default() {
    let streams = |endpoint, body: &str| read(endpoint, body.as_bytes()).unwrap().stream;
    for (endpoint, default) in [
        (CHAT, false),
        (Endpoint::OpenAiCompletions, false),
        (Endpoint::OpenAiResponses, false),
        (Endpoint::AnthropicMessages, false),
        (Endpoint::OllamaChat, true),
        (Endpoint::OllamaGenerate, true),
    ] {
        assert_eq!(streams(endpoint, r#"{"model":"m"}"#), default);
        assert_eq!(streams(endpoint, r#"{"model":"m","stream":null}"#), default);
        assert!(streams(endpoint, r#"{"stream": true ,"model":"m"}"#));
        assert!(!streams(endpoint, r#"{"stream":false,"model":"m"}"#));
        check(endpoint, r#"{"model":"m","stream":"true"}"#, "\"stream\" must be true or false");
        check(endpoint, r#"{"model":"m","STREAM":true}"#, "write \"stream\"");
    }
    assert!(!streams(Endpoint::OpenAiEmbeddings, r#"{"model":"m","stream":true}"#));
}

#[test]
fn caps_and_options_have_their_types() {
    check(CHAT, r#"{"model":"m","max_tokens":5.0,"max_completion_tokens":5e0}"#, "");
    check(CHAT, r#"{"model":"m","max_tokens":-1}"#, "0 or more");
    check(CHAT, r#"{"model":"m","max_completion_tokens":"5"}"#, "\"max_completion_tokens\" must be a whole number");
    check(Endpoint::OpenAiResponses, r#"{"model":"m","max_output_tokens":0.5}"#, "\"max_output_tokens\"");
    check(Endpoint::AnthropicMessages, r#"{"model":"m","max_tokens":[]}"#, "\"max_tokens\"");
    check(CHAT, r#"{"model":"m","stream_options":{"include_usage":1}}"#, "\"include_usage\" must be true or false");
    check(CHAT, r#"{"model":"m","stream_options":{"continuous_usage_stats":"x"}}"#, "\"continuous_usage_stats\"");
    for endpoint in [Endpoint::OllamaChat, Endpoint::OllamaGenerate] {
        check(endpoint, r#"{"model":"m","options":{"num_predict":-2}}"#, "");
        check(endpoint, r#"{"model":"m","options":{"num_predict":-3}}"#, "-2 or more");
        check(endpoint, r#"{"model":"m","options":{"NUM_predict":1}}"#, "write \"num_predict\"");
        check(endpoint, r#"{"model":"m","options":"x"}"#, "\"options\" must be an object");
    }
    // Not reserved where nothing reads them.
    check(CHAT, r#"{"model":"m","options":"x","OPTIONS":1}"#, "");
    check(Endpoint::OpenAiEmbeddings, r#"{"model":"m","max_tokens":"x"}"#, "");
}

#[test]
fn show_takes_the_old_name_but_not_two() {
    let show = |body: &str| read(Endpoint::OllamaShow, body.as_bytes()).unwrap().model.to_string();
    assert_eq!(show(r#"{"model":"m","name":""}"#), "m");
    assert_eq!(show(r#"{"model":"","name":"m"}"#), "m");
    assert_eq!(show(r#"{"name":"m"}"#), "m");
    check(Endpoint::OllamaShow, r#"{"model":"m","name":"n"}"#, "send \"model\" only");
    check(Endpoint::OllamaShow, r#"{"model":"","name":null}"#, "\"model\" is missing");
    check(Endpoint::OllamaShow, r#"{"model":"m","Name":"n"}"#, "write \"name\"");
    let body = Bytes::from_static(br#"{"model":"","name":"m"}"#);
    let request = read(Endpoint::OllamaShow, &body).unwrap();
    assert_eq!(request.edited(&body, "own", None).concat(), br#"{"model":"","name":"own"}"#);
}

#[test]
fn an_edit_touches_nothing_else() {
    let body = Bytes::from_static(b" {\"b\" : 1.50,\"model\":\"m\" ,\"z\":[1e2, \"\\u0041\"]}\n");
    let request = read(CHAT, &body).unwrap();
    let pieces = request.edited(&body, "org/\"own\"\n", None);
    assert_eq!(pieces.concat(), b" {\"b\" : 1.50,\"model\":\"org/\\\"own\\\"\\n\" ,\"z\":[1e2, \"\\u0041\"]}\n");
    assert_eq!(pieces.len(), 3);
    assert!(body.as_ptr_range().contains(&pieces[2].as_ptr()));
    let same = request.edited(&body, "m", None);
    assert_eq!((same.len(), same[0].as_ptr()), (1, body.as_ptr()));
    let spelled = Bytes::from_static(br#"{"model":"\u006d"}"#);
    assert_eq!(read(CHAT, &spelled).unwrap().edited(&spelled, "m", None).concat(), br#"{"model":"m"}"#);
}

proptest! {
    /// Editing the bytes is editing the parsed body.
    #[test]
    fn an_edit_is_parse_edit_serialize(
        others in prop::collection::btree_map("[a-z]{1,4}", "[ -~é\n\"]{0,20}", 0..6),
        at in any::<prop::sample::Index>(),
        alias in "[A-Za-z0-9._:/@+-]{1,20}",
        own in "\\PC{0,20}",
    ) {
        let mut pairs: Vec<_> = others.iter().filter(|(key, _)| fields(CHAT).unwrap().iter().all(|f| f.name != key.as_str()))
            .map(|(key, value)| format!("{} : {}", Value::from(key.as_str()), Value::from(value.as_str()))).collect();
        pairs.insert(at.index(pairs.len() + 1), format!("\"model\":{}", Value::from(alias.as_str())));
        let body = Bytes::from(format!("{{{}}}", pairs.join(" ,\n")));
        let request = read(CHAT, &body).unwrap();
        prop_assert_eq!(&*request.model, &*alias);
        let mut expected: Value = serde_json::from_slice(&body).unwrap();
        expected["model"] = Value::from(own.as_str());
        let sent: Value = serde_json::from_slice(&request.edited(&body, &own, None).concat()).unwrap();
        prop_assert_eq!(sent, expected);
    }
}

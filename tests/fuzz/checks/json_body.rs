//! A body that passes names one model, and as many tokens as it may, to us and to another reader, before
//! and after the edit.

use bytes::Bytes;
use doorward::dialect::body;
use doorward::domain::endpoint::Endpoint;
use doorward::domain::refusal::Refusal;
use doorward::domain::route::is_alias;
use serde::Deserialize;
use serde_json::Value;

use super::folded;

/// Ignores everything else: lone surrogates and odd types in other values are no business of ours.
#[derive(Deserialize)]
struct Named {
    model: Option<String>,
}

/// The old spelling, which is reserved for one endpoint only.
#[derive(Deserialize)]
struct OldNamed {
    model: Option<String>,
    name: Option<String>,
}

/// Every key by which some backend reads a cap.
#[derive(Deserialize)]
struct Capped {
    max_tokens: Option<u64>,
    max_completion_tokens: Option<u64>,
    max_output_tokens: Option<u64>,
    n_predict: Option<u64>,
}

#[derive(Deserialize)]
struct OllamaCapped {
    options: Options,
}

#[derive(Deserialize)]
struct Options {
    num_predict: u64,
}

/// The endpoint, the cap, the body.
pub(super) fn check(input: &[u8]) {
    let Some(([which, cap], body)) = input.split_first_chunk() else { return };
    let endpoint = Endpoint::ALL[usize::from(*which) % Endpoint::ALL.len()];
    let request = match body::read(endpoint, body) {
        Ok(request) => request,
        Err(Refusal::InvalidBody(_)) => return,
        Err(other) => panic!("{other:?}"),
    };
    assert_eq!(named(endpoint, body), *request.model);
    // Nor does a reader who takes keys in any case see another model.
    if let Ok(Value::Object(members)) = serde_json::from_slice(body) {
        assert!(members.keys().all(|key| key == "model" || folded(key) != "model"));
    }
    let body = Bytes::copy_from_slice(body);
    let cap = u64::from(*cap);
    for lower in [None, Some((endpoint, cap))] {
        for name in [&*request.model, "own \"name\"\n"] {
            let sent = request.edited(&body, name, lower).concat();
            assert_eq!(named(endpoint, &sent), name);
            if lower.is_some() {
                capped(endpoint, &sent, cap.max(1));
            }
            // The gateway's own reading of what it sends is the same, too: nothing else moved.
            match body::read(endpoint, &sent) {
                Ok(again) => {
                    assert_eq!((&*again.model, again.stream), (name, request.stream));
                    let (before, after) = (request.max_tokens(&body), again.max_tokens(&sent));
                    assert!(if lower.is_none() {
                        before == after
                    } else {
                        after.is_none_or(|most| most <= cap.max(1))
                    });
                }
                Err(_) => assert!(!is_alias(name)),
            }
        }
    }
}

fn named(endpoint: Endpoint, body: &[u8]) -> String {
    let named = if endpoint == Endpoint::OllamaShow {
        let named: OldNamed = serde_json::from_slice(body).expect("what passes is JSON");
        named.model.filter(|model| !model.is_empty()).or(named.name)
    } else {
        serde_json::from_slice::<Named>(body).expect("what passes is JSON").model
    };
    named.expect("what passes names a model")
}

/// No key has another cap than 1 to `most`, and the endpoint's own have one.
fn capped(endpoint: Endpoint, body: &[u8], most: u64) {
    let within = |cap: u64| assert!((1..=most).contains(&cap), "{cap} of {most}");
    if matches!(endpoint, Endpoint::OllamaChat | Endpoint::OllamaGenerate) {
        let capped: OllamaCapped = serde_json::from_slice(body).expect("a cap among the options");
        return within(capped.options.num_predict);
    }
    let read = || serde_json::from_slice::<Capped>(body).expect("caps are whole numbers");
    let own = match endpoint {
        Endpoint::OpenAiChatCompletions => [read().max_tokens, read().max_completion_tokens].to_vec(),
        Endpoint::OpenAiCompletions | Endpoint::AnthropicMessages => vec![read().max_tokens],
        Endpoint::OpenAiResponses => vec![read().max_output_tokens],
        _ => return,
    };
    own.into_iter().for_each(|cap| within(cap.expect("a cap")));
    // What is not reserved at an endpoint is not read by any of its backends.
    if endpoint != Endpoint::AnthropicMessages {
        let all = read();
        let besides = [all.max_tokens, all.max_completion_tokens, all.n_predict];
        besides.into_iter().flatten().for_each(within);
        if endpoint == Endpoint::OpenAiResponses {
            all.max_output_tokens.into_iter().for_each(within);
        }
    }
}

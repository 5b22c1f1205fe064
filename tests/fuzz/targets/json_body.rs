//! A body that passes names one model, to us and to another reader, before and after the edit.

#![no_main]

use bytes::Bytes;
use doorward::dialect::body;
use doorward::domain::endpoint::Endpoint;
use doorward::domain::refusal::Refusal;
use libfuzzer_sys::fuzz_target;
use serde::Deserialize;

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

fn named(endpoint: Endpoint, body: &[u8]) -> String {
    let named = if endpoint == Endpoint::OllamaShow {
        let named: OldNamed = serde_json::from_slice(body).expect("what passes is JSON");
        named.model.filter(|model| !model.is_empty()).or(named.name)
    } else {
        serde_json::from_slice::<Named>(body).expect("what passes is JSON").model
    };
    named.expect("what passes names a model")
}

fuzz_target!(|input: (u8, &[u8])| {
    let (which, body) = input;
    let endpoint = Endpoint::ALL[usize::from(which) % Endpoint::ALL.len()];
    let request = match body::read(endpoint, body) {
        Ok(request) => request,
        Err(Refusal::InvalidBody(_)) => return,
        Err(other) => panic!("{other:?}"),
    };
    assert_eq!(named(endpoint, body), *request.model);
    let body = Bytes::copy_from_slice(body);
    for name in [&*request.model, "own \"name\"\n"] {
        let sent = request.edited(&body, name, None).concat();
        assert_eq!(named(endpoint, &sent), name);
        // The gateway's own reading of what it sends is the same, too: nothing else moved.
        match body::read(endpoint, &sent) {
            Ok(again) => assert_eq!((&*again.model, again.stream), (name, request.stream)),
            Err(_) => assert!(!doorward::domain::route::is_alias(name)),
        }
    }
});

use proptest::prelude::*;

use super::*;

#[test]
fn every_endpoint_is_found_by_its_own_path_and_method_only() {
    for endpoint in Endpoint::ALL {
        let path = if endpoint == Endpoint::OpenAiModel { "/v1/models/m" } else { upstream_path(endpoint) };
        for method in
            [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::DELETE, Method::OPTIONS, Method::PATCH]
        {
            match find(&method, path) {
                Ok(route) => {
                    assert_eq!(route.endpoint, endpoint);
                    assert!(allow(endpoint).split(", ").any(|m| m == method.as_str()));
                }
                Err(Refusal::MethodNotAllowed { allow: listed }) => {
                    assert_eq!(listed, allow(endpoint));
                    assert!(!listed.contains(method.as_str()) || method.as_str().len() < 3, "{method} {path}");
                }
                Err(other) => panic!("{method} {path}: {other:?}"),
            }
        }
    }
    assert_eq!(find(&Method::POST, "/").unwrap_err(), Refusal::MethodNotAllowed { allow: "GET, HEAD" });
    assert_eq!(find(&Method::GET, "/api/chat").unwrap_err(), Refusal::MethodNotAllowed { allow: "POST" });
    assert_eq!(find(&Method::POST, "/v1/models").unwrap_err(), Refusal::MethodNotAllowed { allow: "GET" });
}

#[track_caller]
fn check(path: &str, code: &str) {
    for method in [Method::GET, Method::POST] {
        let refusal = find(&method, path).unwrap_err();
        if !matches!(refusal, Refusal::MethodNotAllowed { .. }) {
            assert_eq!(refusal.code().as_str(), code, "{method} {path}");
        }
    }
    assert!(find(&Method::GET, path).is_err() && find(&Method::POST, path).is_err());
}

#[test]
fn odd_paths_are_400() {
    for path in [
        "",
        "*",
        "v1/models",
        "http://h/v1/models",
        "/v1/chat/completions%20",
        "/v1/chat%2Fcompletions",
        "/v1/%63hat/completions",
        "/v1/chat/completions%00",
        "/v1/chat/completions%",
        "/v1%2fmodels",
        "/%2e/v1/models",
        "/v1/chat/completions;x=1",
        "/v1/chat;/completions",
        "/;/v1/models",
        "\\v1\\models",
        "/v1\\chat\\completions",
        "/v1/chat\\..\\completions",
        "//v1/chat/completions",
        "/v1//chat/completions",
        "/v1/chat/completions//",
        "//",
        "/./v1/models",
        "/v1/./models",
        "/v1/chat/../models",
        "/v1/..",
        "/..",
        "/.",
        "/v1/models/..",
        "/v1/models/../chat",
        "/v1/chat/completions#x",
        "/v1/models#",
        "/v1/chat/completions\0",
        "/v1/chat/completions\n",
        "/v1/chat completions",
        "/v1/chat/completions\t",
        "/v1/chat/completions\u{7f}",
        "/v1/chat/complétions",
        "/v1/chat/completions\u{2028}",
        "/\u{ff0f}v1/models",
        "/v1/models?x",
        "/v1/models/%",
        "/v1/models/%2",
        "/v1/models/%252F",
        "/v1/models/a%2Gb",
        "/v1/models/%61",
        "/v1/models/a%20b",
        "/v1/models/a%00",
        "/v1/models/a;b",
        "/v1/models/a\\b",
        "/v1/models/a//b",
        "/v1/models/a%2F%2Fb",
        "/v1/models/..%2Fchat",
        "/v1/models/%2F..",
        "/v1/models/.%2Fa",
        "/v1/models/%2e%2e",
        "/v1/models/a#b",
        "/v1/models/é",
        "/v1/models//",
        "/v1/models/%2F",
    ] {
        check(path, "invalid_path");
    }
}

#[test]
fn unknown_paths_are_404() {
    for path in [
        "/v1",
        "/v1/",
        "/v1/models/",
        "/v1/Models",
        "/V1/models",
        "/v1/chat/completions/",
        "/v1/chat/completion",
        "/chat/completions",
        "/v1/v1/models",
        "/v1/chat",
        "/api",
        "/api/",
        "/api/chat/",
        "/API/chat",
        "/index.html",
        "/metrics",
        "/health",
        "/docs",
        "/openapi.json",
        "/invocations",
        "/slots",
        "/props",
        "/lora-adapters",
        "/v2/rerank",
        "/rerank",
        "/score",
        "/v1/tokenize",
        "/server_info",
        "/collective_rpc",
        "/sleep",
        "/wake_up",
        "/reset_prefix_cache",
        "/start_profile",
        "/v1/completions.",
        "/.well-known/x",
        "/.doorward/v1/enroll",
        "/v1/messages/",
        "/v1/messages/x",
        "/...",
        "/v1/chat/completions,",
        "/v1/chat/completions:x",
        "/v1/chat/completions'",
        "/v1/chat/completions|x",
    ] {
        check(path, "not_found");
    }
}

#[test]
fn what_is_not_there_yet_says_so() {
    for (path, text) in [
        ("/v1/realtime", "Realtime"),
        ("/v1/realtime/sessions", "Realtime"),
        ("/v1/responses/resp_1", "Stored objects"),
        ("/v1/responses/resp_1/cancel", "Stored objects"),
        ("/v1/files", "Stored objects"),
        ("/v1/files/f/content", "Stored objects"),
        ("/v1/batches", "Stored objects"),
        ("/v1/messages/batches", "Stored objects"),
        ("/v1/audio/transcriptions", "Audio uploads"),
        ("/v1/audio/translations", "Audio uploads"),
        ("/api/pull", "not administered"),
        ("/api/blobs/sha256:1", "not administered"),
        ("/v1/filesystem", "No endpoint"),
        ("/v1/realtimes", "No endpoint"),
    ] {
        match find(&Method::POST, path) {
            Err(Refusal::NotFound(message)) => assert!(message.starts_with(text) || message.contains(text), "{path}"),
            other => panic!("{path}: {other:?}"),
        }
    }
}

#[test]
fn the_id_of_a_model_is_the_rest_of_the_path() {
    for (path, id) in [
        ("/v1/models/llama-3.1:8b", "llama-3.1:8b"),
        ("/v1/models/llama-3.1%3A8b", "llama-3.1:8b"),
        ("/v1/models/llama-3.1%3a8b", "llama-3.1:8b"),
        ("/v1/models/meta%2Fllama", "meta/llama"),
        ("/v1/models/meta%2fllama", "meta/llama"),
        ("/v1/models/meta/llama", "meta/llama"),
        ("/v1/models/a@b+c_d", "a@b+c_d"),
        ("/v1/models/...", "..."),
    ] {
        let route = find(&Method::GET, path).unwrap();
        assert_eq!((route.endpoint, route.model_id.as_deref()), (Endpoint::OpenAiModel, Some(id)), "{path}");
    }
    for path in ["/v1/models/a,b", "/v1/models/a!", "/v1/models/a~b", &format!("/v1/models/{}", "a".repeat(257))] {
        assert_eq!(find(&Method::GET, path), Err(Refusal::ModelNotFound { by: None }), "{path}");
    }
    assert_eq!(find(&Method::GET, "/v1/models").unwrap().model_id, None);
}

#[test]
fn only_listed_parameters_pass() {
    let (messages, chat) = (Endpoint::AnthropicMessages, Endpoint::OpenAiChatCompletions);
    for (endpoint, query, expected) in [
        (messages, None, Ok(None)),
        (messages, Some(""), Ok(None)),
        (messages, Some("beta=true"), Ok(Some("beta=true"))),
        (messages, Some("x=1&beta=true&y"), Ok(Some("beta=true"))),
        (messages, Some("beta"), Ok(Some("beta"))),
        (messages, Some("beta=a.b_c,d-1"), Ok(Some("beta=a.b_c,d-1"))),
        (Endpoint::AnthropicCountTokens, Some("beta=true"), Ok(Some("beta=true"))),
        (chat, Some("beta=true"), Ok(None)),
        (chat, Some("api-version=2024-10-21"), Ok(None)),
        (messages, Some("%62eta=true"), Ok(None)),
        (messages, Some("beta=true&beta=false"), Err(())),
        (messages, Some("beta=a%20b"), Err(())),
        (messages, Some("beta=a/b"), Err(())),
        (messages, Some("beta=a=b"), Err(())),
        (chat, Some("model=x"), Err(())),
        (chat, Some("a=1&MODEL"), Err(())),
        (chat, Some("%6dodel=x"), Err(())),
        (Endpoint::OpenAiModels, Some("model=x"), Err(())),
        (chat, Some("models=x&amodel=1"), Ok(None)),
    ] {
        let result = check_query(endpoint, query);
        assert_eq!(result.as_ref().map(|kept| kept.as_deref()).map_err(|_| ()), expected, "{query:?}");
        if let Err(refusal) = result {
            assert!(matches!(refusal, Refusal::InvalidPath(_)));
        }
    }
    assert!(check_query(messages, Some(&format!("beta={}", "a".repeat(64)))).is_ok());
    assert!(check_query(messages, Some(&format!("beta={}", "a".repeat(65)))).is_err());
}

#[test]
fn credentials_in_queries_are_noticed() {
    for query in [
        "key=x",
        "KEY=x",
        "a=1&api_key=x",
        "api-key=x",
        "apikey=x",
        "ApiKey=",
        "access_token=x",
        "token=x",
        "auth=x",
        "authorization=Bearer+x",
        "x-api-key=x",
        "%6bey=x",
        "api%5Fkey=x",
        "q=dw_abc",
        "q=%64w_abc",
        "q=Bearer%20dw_abc",
        "q=bearer+dw_abc",
        "dw_abc",
        "a;key=x",
        "a=1;token=2",
        "q=+dw_abc",
    ] {
        assert!(has_credential(query), "{query}");
    }
    for query in
        ["", "beta=true", "api-version=2024-10-21", "keys=1", "max_tokens=5", "q=adw_x", "q=%", "q=%zz", "monkey=1"]
    {
        assert!(!has_credential(query), "{query}");
    }
}

proptest! {
    /// Whatever is found is spelled exactly as the table has it.
    #[test]
    fn nothing_but_the_table_is_found(path in "(/|/v1|/api|/chat|/models|/completions|/tags|%2F|\\.|;|a|:|\\PC){0,6}") {
        for method in [Method::GET, Method::POST] {
            if let Ok(route) = find(&method, &path) {
                match route.model_id {
                    Some(id) => prop_assert!(is_alias(&id) && path.starts_with(MODEL_PREFIX)),
                    None => prop_assert_eq!(upstream_path(route.endpoint), path.as_str()),
                }
            }
        }
        let _ = has_credential(&path);
    }
}

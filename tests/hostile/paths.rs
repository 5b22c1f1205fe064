//! Paths and queries: the set is closed, and no spelling of anything else gets through.

use crate::client::{connect, last, replies, talk};
use crate::gateway::{Gateway, OPEN};

/// Each with the status of `POST`.
const REFUSED: &[(&str, u16)] = &[
    ("/", 405),
    ("/v1/chat/completions/", 404),
    ("/v1/chat/completion", 404),
    ("/v1/chat", 404),
    ("/v1", 404),
    ("/V1/chat/completions", 404),
    ("/v1/Chat/completions", 404),
    ("/v1/chat/COMPLETIONS", 404),
    ("/chat/completions", 404),
    ("/v1/v1/chat/completions", 404),
    ("/openai/v1/chat/completions", 404),
    ("/v1/chat/completions.json", 404),
    ("/v1/chat/completions:x", 404),
    ("/v1/chat/completions,x", 404),
    ("/v1/chat/completions&model=x", 404),
    ("/v1/chat/completions=", 404),
    ("/v1/chat/completions!", 404),
    ("/v1/chat/completions~", 404),
    ("/v1/chat/completions+", 404),
    ("/v1/chat/completions*", 404),
    ("/v1/chat/completions'", 404),
    ("/v1/chat/completions$", 404),
    ("/v1/chat/completions@x", 404),
    ("//v1/chat/completions", 400),
    ("/v1//chat/completions", 400),
    ("/v1/chat//completions", 400),
    ("/v1/chat/completions//", 400),
    ("///", 400),
    ("/./v1/chat/completions", 400),
    ("/v1/./chat/completions", 400),
    ("/v1/chat/completions/.", 400),
    ("/v1/x/../chat/completions", 400),
    ("/v1/chat/completions/..", 400),
    ("/../v1/chat/completions", 400),
    ("/v1/chat/completions/../../../api/pull", 400),
    ("/v1/chat/.../completions", 404),
    ("/v1/chat/completions;", 400),
    ("/v1/chat/completions;x=1", 400),
    ("/v1;x/chat/completions", 400),
    ("/;/v1/chat/completions", 400),
    ("/v1/chat/..;/completions", 400),
    ("/v1\\chat\\completions", 400),
    ("/v1/chat\\completions", 400),
    ("/v1/chat/completions\\", 400),
    ("/v1/%63hat/completions", 400),
    ("/v1/chat%2Fcompletions", 400),
    ("/v1/chat%2fcompletions", 400),
    ("/v1/chat%5Ccompletions", 400),
    ("/v1/chat/completions%00", 400),
    ("/v1/chat/completions%0d%0aX:%20y", 400),
    ("/v1/chat/completions%0a", 400),
    ("/v1/chat/completions%20", 400),
    ("/v1/chat/completions%23", 400),
    ("/v1/chat/completions%3Fmodel=x", 400),
    ("/v1/chat/completions%3b", 400),
    ("/v1/%2e%2e/api/pull", 400),
    ("/v1/%2E/chat/completions", 400),
    ("/v1/%252e%252e/chat/completions", 400),
    ("/v1/chat/completions%", 400),
    ("/v1/chat/completions%zz", 400),
    ("/v1/chat/completions%c0%af", 400),
    ("/v1/chat/completions%u002f", 400),
    ("/v1/chat/compl\u{e9}tions", 400),
    ("/v1/\u{ff43}hat/completions", 400),
    ("/v1/chat\u{2215}completions", 400),
    ("/api/pull", 404),
    ("/api/push", 404),
    ("/api/create", 404),
    ("/api/copy", 404),
    ("/api/delete", 404),
    ("/api/blobs/sha256:0", 404),
    ("/API/chat", 404),
    ("/api/chat/", 404),
    ("/metrics", 404),
    ("/health", 404),
    ("/docs", 404),
    ("/openapi.json", 404),
    ("/v1/load_lora_adapter", 404),
    ("/v1/unload_lora_adapter", 404),
    ("/sleep", 404),
    ("/wake_up", 404),
    ("/start_profile", 404),
    ("/reset_prefix_cache", 404),
    ("/collective_rpc", 404),
    ("/invocations", 404),
    ("/slots", 404),
    ("/props", 404),
    ("/v1/responses/resp_1", 404),
    ("/v1/files", 404),
    ("/v1/batches", 404),
    ("/v1/realtime", 404),
    ("/v1/audio/transcriptions", 404),
    ("/v1/models/", 404),
    ("/v1/models/x", 405),
    ("/v1/models/..%2fchat", 400),
    ("/v1/models/%252F", 400),
    ("/.doorward/v1/enroll", 404),
    ("/v1/messages/batches", 404),
    ("/v1/chat/completions?model=secret", 400),
    ("/v1/chat/completions?MODEL=secret", 400),
    ("/v1/chat/completions?%6dodel=secret", 400),
    ("/v1/chat/completions?a=b&model", 400),
    ("/v1/chat/completions?key=x", 400),
    ("/v1/chat/completions?api_key=x", 400),
    ("/v1/chat/completions?x=dw_000000000000_x", 400),
    ("/v1/messages?beta=true&beta=false", 400),
    ("/v1/messages?beta=a%0d%0ab", 400),
];

/// Paths with a query that is dropped or passed, and what the backend gets.
const PASSED: &[(&str, &str)] = &[
    ("/v1/chat/completions", "/v1/chat/completions"),
    ("/v1/chat/completions?", "/v1/chat/completions"),
    ("/v1/chat/completions?api-version=1", "/v1/chat/completions"),
    ("/v1/chat/completions?beta=true", "/v1/chat/completions"),
    ("/v1/chat/completions?x=../../api/pull", "/v1/chat/completions"),
    ("/v1/messages?beta=true", "/v1/messages?beta=true"),
    ("/v1/messages?x=y&beta=a,b-c.d_e", "/v1/messages?beta=a,b-c.d_e"),
    ("/v1/messages?BETA=true", "/v1/messages"),
    ("/v1/messages?be%74a=true", "/v1/messages"),
    ("/api/chat?model[]=x", "/api/chat"),
];

#[tokio::test]
async fn paths() {
    let gateway = Gateway::start().await;
    let body = format!("{{\"model\":\"{OPEN}\"}}");
    let request = |path: &str| {
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            gateway.key,
            body.len()
        );
        [head.as_bytes(), &last(&gateway.key)].concat()
    };
    assert!(REFUSED.len() > 60);
    for (path, status) in REFUSED {
        let came = replies(&talk(connect(&gateway).await, &request(path)).await);
        assert_eq!(came.iter().map(|reply| reply.status).collect::<Vec<_>>(), [*status, 200], "{path}");
        assert_eq!(came[0].header("x-doorward-origin"), Some("gateway"), "{path}");
        assert!(!String::from_utf8_lossy(&came[0].body).contains("secret"), "{path} is echoed");
    }
    assert!(gateway.backend.take().is_empty());
    for (path, there) in PASSED {
        let came = replies(&talk(connect(&gateway).await, &request(path)).await);
        assert_eq!(came.iter().map(|reply| reply.status).collect::<Vec<_>>(), [200, 200], "{path}");
        let seen = gateway.backend.take();
        assert_eq!(seen.iter().map(|seen| seen.path.as_str()).collect::<Vec<_>>(), [*there], "{path}");
    }
    gateway.until_quiet().await;
}

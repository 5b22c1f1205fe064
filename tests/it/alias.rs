//! The name that callers use and the name that backends use: each side sees its own only.

use crate::support::{CHAT, Caller, Flow, Stub, World, chat_stream, chunk, json_reply};

async fn caller(world: &World) -> Caller {
    world.caller().key(&world.key("acme/x").await)
}

/// Only the value of `model` changes on the way in; every other byte goes on as it was written.
#[tokio::test]
async fn the_backend_gets_its_own_name_and_every_other_byte_as_sent() {
    let stub = Stub::scripted(|_| json_reply("{}")).await;
    let world = World::open(&stub).await;
    for mut line in caller(&world).await.both().await {
        for (sent, received) in [
            (
                "{ \"x\" : 1.0e2,\n\t\"model\"  :\"llama\" , \"tools\":[{\"Model\":\"llama\"}], \"ü\":\"\\u00fc\"}",
                "{ \"x\" : 1.0e2,\n\t\"model\"  :\"org/llama-8b\" , \"tools\":[{\"Model\":\"llama\"}], \"ü\":\"\\u00fc\"}",
            ),
            (
                "{\"model\":\"same\",\"seed\":123456789012345678901234567890}",
                "{\"model\":\"same\",\"seed\":123456789012345678901234567890}",
            ),
            // The caller's spelling never gets through.
            ("{\"model\":\"s\\u0061me\"}", "{\"model\":\"same\"}"),
        ] {
            line.chat(sent).await.assert_served();
            assert_eq!(stub.seen().last().unwrap().text(), received);
        }
    }
}

/// The reply names the alias, and has no length of before the edit.
#[tokio::test]
async fn a_whole_reply_names_the_alias() {
    let stub = Stub::scripted(|seen| {
        let model = if seen.text().contains("org/") { "org/llama-8b" } else { "same" };
        json_reply(&format!(
            "{{\"id\":1,\"model\":\"{model}\",\"choices\":[{{\"model\":\"{model}\"}}],\"note\":\"{model}\"}}"
        ))
    })
    .await;
    let world = World::open(&stub).await;
    for mut line in caller(&world).await.both().await {
        for path in [CHAT, "/v1/messages", "/api/chat", "/v1/embeddings", "/v1/completions"] {
            let answer = line.post(path, "{\"model\":\"llama\"}").await;
            answer.assert_served();
            let expected = r#"{"id":1,"model":"llama","choices":[{"model":"org/llama-8b"}],"note":"org/llama-8b"}"#;
            assert_eq!(answer.text(), expected);
            assert_eq!(answer.header("content-length"), None);
            let answer = line.post(path, "{\"model\":\"same\"}").await;
            assert_eq!(answer.header("content-length"), Some(answer.body.len().to_string().as_str()));
        }
    }
}

#[tokio::test]
async fn a_stream_names_the_alias() {
    let stub = Stub::by_hand().await;
    let world = World::open(&stub).await;
    let cases = [
        (
            CHAT,
            "text/event-stream",
            "data: {\"model\":\"@\",\"x\":1}\n\n: note\n\ndata: {\"x\":\"model\"}\r\n\r\ndata: {\"model\": \"@\"}\n\ndata: [DONE]\n\n",
        ),
        (
            "/v1/messages",
            "text/event-stream",
            "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"model\":\"@\"}}\n\nevent: message_stop\ndata: {}\n\n",
        ),
        (
            "/v1/responses",
            "text/event-stream",
            "event: response.created\ndata: {\"response\":{\"id\":\"1\",\"model\":\"@\"}}\n\nevent: response.completed\ndata: {}\n\n",
        ),
        (
            "/api/chat",
            "application/x-ndjson",
            "{\"model\":\"@\",\"done\":false}\n{\"model\":\"@\",\"options\":{\"model\":\"x\"},\"done\":true}\n",
        ),
    ];
    for (path, content_type, text) in cases {
        let reply = text.replace('@', "org/llama-8b");
        let expected = text.replace('@', "llama");
        // Cut anywhere, the same comes out.
        for size in [1, 7, 1000] {
            for mut line in caller(&world).await.both().await {
                let backend = async {
                    let mut exchange = stub.next().await;
                    exchange.begin(content_type).await;
                    let pieces = reply.as_bytes().chunks(size).map(|piece| std::str::from_utf8(piece).unwrap());
                    let pieces: String = pieces.map(chunk).collect();
                    exchange.send(pieces).await;
                    exchange.end().await;
                };
                let body = chat_stream("llama");
                let (response, ()) = tokio::join!(line.begin(path, &body), backend);
                assert_eq!(Flow::of(response).end().await, (expected.clone(), None));
            }
        }
    }
}

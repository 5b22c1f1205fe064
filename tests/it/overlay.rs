//! Gateway and connector, both real: what a caller sees of a backend that nothing can reach.

use std::net::SocketAddr;
use std::time::Duration;

use doorward::store::rows::Reason;
use serde_json::json;

use crate::support::{
    CHAT, Caller, Exchange, Flow, LONG, Line, RealConnector, Setup, Stub, World, chat, chat_stream, json_reply, until,
};

/// A model behind `site-a`.
const BACKENDS: &str = r#"
[[backend]]
name = "vllm-a"
connector = "site-a"
dialects = ["openai", "anthropic", "ollama"]

[[model]]
name = "llama"
targets = [{ backend = "vllm-a", model = "org/llama" }]
"#;

struct Scene {
    stub: Stub,
    world: World,
    connector: RealConnector,
    line: Line,
}

fn site(address: SocketAddr) -> String {
    format!("[[backend]]\nname = \"vllm-a\"\nurl = \"http://{address}\"\ncredential = \"its-own\"")
}

async fn world(stub: &Stub) -> World {
    let mut setup = Setup::new(stub);
    BACKENDS.clone_into(&mut setup.backends);
    setup.start().await
}

async fn caller(world: &World) -> Caller {
    world.caller().key(&world.key("acme/x").await)
}

async fn scene(stub: Stub) -> Scene {
    let world = world(&stub).await;
    let (directory, _) = world.connector("site-a");
    let connector = RealConnector::start(&[world.server.address()], &directory, &site(stub.address));
    up(&world).await;
    let line = caller(&world).await.h2().await;
    Scene { stub, world, connector, line }
}

/// Waits until a chat gets as far as the connector.
async fn up(world: &World) {
    let mut line = caller(world).await.h2().await;
    let mut tick = tokio::time::interval(Duration::from_millis(20));
    crate::support::within(LONG, "the tunnel is there", async {
        while line.ask(http::Method::POST, "/v1/embeddings", r#"{"model":"llama","input":"x"}"#).await.status == 503 {
            tick.tick().await;
        }
    })
    .await;
}

/// A stream with its first event.
async fn live(line: &mut Line, stub: &Stub) -> (Flow, Exchange) {
    let body = chat_stream("llama");
    let backend = async {
        let mut exchange = stub.next().await;
        exchange.begin("text/event-stream").await;
        exchange.chunk("data: {\"n\":1}\n\n").await;
        exchange
    };
    let (response, exchange) = tokio::join!(line.begin(CHAT, &body), backend);
    let mut flow = Flow::of(response);
    flow.until("data: {\"n\":1}\n\n").await;
    (flow, exchange)
}

#[tokio::test]
async fn a_chat_goes_through() {
    let mut scene = scene(Stub::scripted(|_| json_reply(r#"{"model":"org/llama","choices":[]}"#)).await).await;
    let whole = scene.line.chat(&chat("llama")).await;
    whole.assert_served();
    assert_eq!(whole.json()["model"], "llama");
    let seen = scene.stub.seen().pop().unwrap();
    assert_eq!(seen.line(), "POST /v1/chat/completions HTTP/1.1");
    assert_eq!(seen.values("authorization"), ["Bearer its-own"]);
    assert_eq!(serde_json::from_str::<serde_json::Value>(seen.text()).unwrap()["model"], json!("org/llama"));
    let record = scene.world.record(whole.request_id()).await;
    assert_eq!(record["backend"], "vllm-a");
}

//! A real gateway in this process, backends that do as they are told, and callers.
//!
//! Nothing in here sleeps for a while and hopes: what must happen is waited for, and a wait that
//! takes longer than [`LONG`] fails the test.

mod caller;
mod client;
mod connect_proxy;
mod daemon;
mod hand_gateway;
mod hook;
mod issuer;
mod process;
mod receiver;
mod site;
mod stub;
mod tool;
mod world;

pub(crate) use caller::{Caller, Flow, Leaf, Line, Whole, full};
pub(crate) use client::{ChannelBody, RawLine};
pub(crate) use connect_proxy::ConnectProxy;
pub(crate) use daemon::Daemon;
pub(crate) use hand_gateway::{HandGateway, RealConnector, Tunnel, unread};
pub(crate) use hook::{Answer, Hook, Message, Play, status};
pub(crate) use issuer::{AUDIENCE, DISCOVERY, IssuerServer, KEYS, Reply, Signer, base64url, claims, jwks, rsa_key};
pub(crate) use process::{Process, doorward};
pub(crate) use receiver::{Manner, Receiver};
pub(crate) use site::{Asked, Site, dialler, register, reset_of};
pub(crate) use stub::{Exchange, Stub, TlsFiles, chunk, dead_port, json_reply};
pub(crate) use tool::{DialSetup, Tool};
pub(crate) use world::{Issued, Key, OPEN, Prepared, Setup, World};

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use tokio::time::{interval, timeout};

/// No wait of a test takes longer, unless something is broken.
pub(crate) const LONG: Duration = Duration::from_secs(10);

/// Waits for something that must happen.
#[track_caller]
pub(crate) fn within<T>(span: Duration, what: &str, wait: impl Future<Output = T>) -> impl Future<Output = T> {
    let place = std::panic::Location::caller();
    async move { timeout(span, wait).await.unwrap_or_else(|_| panic!("{place}: {what}: not within {span:?}")) }
}

/// Looks again and again until `probe` finds something.
#[track_caller]
pub(crate) fn until<T>(span: Duration, what: &str, mut probe: impl FnMut() -> Option<T>) -> impl Future<Output = T> {
    within(span, what, async move {
        let mut tick = interval(Duration::from_millis(2));
        loop {
            tick.tick().await;
            if let Some(found) = probe() {
                return found;
            }
        }
    })
}

/// A chat request for `model`, as small as can be.
pub(crate) fn chat(model: &str) -> String {
    format!(r#"{{"model":"{model}","messages":[{{"role":"user","content":"hi"}}]}}"#)
}

/// The same, to be answered as a stream.
pub(crate) fn chat_stream(model: &str) -> String {
    format!(r#"{{"model":"{model}","stream":true,"messages":[{{"role":"user","content":"hi"}}]}}"#)
}

/// Where chat requests go.
pub(crate) const CHAT: &str = "/v1/chat/completions";

/// Asks for a chat, and has the backend answer if it gets so far.
pub(crate) async fn ask(line: &mut Line, stub: &Stub) -> Whole {
    let body = chat("llama");
    let mut asking = pin!(line.chat(&body));
    loop {
        tokio::select! {
            whole = &mut asking => return whole,
            mut exchange = stub.coming() => {
                // It may be that of an earlier request, whose connection is gone.
                if exchange.try_send(json_reply("{}")).await.is_ok() {
                    exchange.keep();
                }
            }
        }
    }
}

/// Asks until chats are served, several in a row: each link of a connector says by itself how the
/// backend is, so that one may call it down, as of before it was asked, when another has it up.
pub(crate) async fn served_within(span: Duration, caller: &Caller, stub: &Stub) {
    within(span, "chats are served", async {
        let mut tick = interval(Duration::from_millis(20));
        let mut in_a_row = 0;
        while in_a_row < 10 {
            tick.tick().await;
            let is_served = ask(&mut caller.h1().await, stub).await.status == 200;
            in_a_row = if is_served { in_a_row + 1 } else { 0 };
        }
    })
    .await;
}

/// Begins a stream: its first event is here, and the backend's end of it is in hand.
pub(crate) async fn live(line: &mut Line, stub: &Stub) -> (Flow, Exchange) {
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

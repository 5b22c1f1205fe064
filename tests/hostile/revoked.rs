//! What is revoked is over: before the backend hears of it, and however slowly the caller goes.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::client::{chat, chat_head, connect, connect_with, others_are_served, replies, talk};
use crate::frames::{self, H2};
use crate::gateway::{Gateway, OPEN};

/// A body that takes its time is decided by what is in force when it is whole.
#[tokio::test]
async fn a_key_revoked_while_its_body_comes_reaches_no_backend() {
    let mut gateway = Gateway::start().await;
    let key = gateway.new_key("team/wide").await;
    let body = format!("{{\"model\":\"{OPEN}\"}}");
    let mut stream = connect(&gateway).await;
    let head = chat_head(&key, &format!("Connection: close\r\nContent-Length: {}\r\n", body.len()));
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&body.as_bytes()[..5]).await.unwrap();
    stream.flush().await.unwrap();
    gateway
        .until("the body is being read", || {
            gateway.server.gateway().buffered.load(std::sync::atomic::Ordering::SeqCst) == 5
        })
        .await;
    gateway.revoke(&key).await;
    let replies = replies(&talk(stream, &body.as_bytes()[5..]).await);
    assert_eq!(replies.iter().map(|reply| reply.status).collect::<Vec<_>>(), [401]);
    assert!(gateway.backend.take().is_empty());
    gateway.until_quiet().await;
}

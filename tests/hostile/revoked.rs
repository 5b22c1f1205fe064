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

/// hyper asks a reply for more only when the caller takes what it has. Whoever takes nothing must
/// not keep a stream for ever: not the backend's, and not the connection.
#[tokio::test]
async fn a_stalled_stream_of_a_revoked_key_ends() {
    let mut gateway = Gateway::start().await;
    let key = gateway.new_key("team/wide").await;
    let say = r#","say":"stream""#;
    let mut stalled = H2::open_with(&gateway, &[(4, 100)]).await;
    assert!(stalled.send(&frames::chat(&key, 1, say)).await);
    let tls = gateway.tls(&[b"http/1.1"], false);
    let mut stream = connect_with(gateway.address(), tls, "127.0.0.1", Some(4096)).await.unwrap();
    stream.write_all(&chat(&key, "", say)).await.unwrap();
    stream.flush().await.unwrap();
    gateway.until("both stream", || gateway.backend.count() == 2 && gateway.backend.streamed() > 0).await;
    // Both are stuck once the backend can write no more.
    let (mut streamed, mut looks) = (0, 0);
    let stands_still = || {
        let now = gateway.backend.streamed();
        looks = if now == streamed { looks + 1 } else { 0 };
        streamed = now;
        looks == 50
    };
    gateway.until("nothing is streamed any more", stands_still).await;
    assert_eq!(gateway.in_flight(), 2);
    let begun = tokio::time::Instant::now();
    gateway.revoke(&key).await;
    gateway.until_quiet().await;
    assert!(begun.elapsed() < std::time::Duration::from_secs(3), "{:?}", begun.elapsed());
    // What the caller still finds in its socket has no clean end.
    let mut came = Vec::new();
    let ended = stream.read_to_end(&mut came).await;
    assert!(ended.is_err() || !came.ends_with(b"0\r\n\r\n"));
    assert!(stalled.until(|frame| frame.kind == frames::DATA && frame.flags & frames::END_STREAM != 0).await.is_none());
    gateway.backend.take();
    others_are_served(&gateway).await;
}

/// A stream that is being read ends as well, with an error.
#[tokio::test]
async fn a_stream_of_a_revoked_key_ends_with_an_error() {
    let mut gateway = Gateway::start().await;
    let key = gateway.new_key("team/wide").await;
    let mut h2 = H2::open(&gateway).await;
    assert!(h2.send(&frames::chat(&key, 1, r#","say":"stream""#)).await);
    h2.until(|frame| frame.kind == frames::DATA).await.unwrap();
    gateway.revoke(&key).await;
    let window = |stream| frames::frame(frames::WINDOW_UPDATE, 0, stream, &(1u32 << 20).to_be_bytes());
    let end = loop {
        h2.send(&[window(0), window(1)].concat()).await;
        match h2.next().await {
            Some(frame) if frame.kind == frames::DATA => assert_eq!(frame.flags & frames::END_STREAM, 0),
            Some(frame) if frame.kind == frames::RST_STREAM => break Some(frame.error()),
            Some(_) => {}
            None => break None,
        }
    };
    assert!(matches!(end, None | Some(2)), "INTERNAL_ERROR, not {end:?}");
    gateway.backend.take();
    gateway.until_quiet().await;
}

/// A certificate that no authority vouches for any more ends its streams.
#[tokio::test]
async fn a_stream_ends_when_its_certificate_is_not_trusted_any_more() {
    let mut gateway = Gateway::start().await;
    let tls = gateway.tls(&[b"http/1.1"], true);
    let mut stream = connect_with(gateway.address(), tls, "127.0.0.1", None).await.unwrap();
    let body = format!("{{\"model\":\"{OPEN}\",\"say\":\"stream\"}}");
    let head = chat_head("certificate", &format!("Content-Length: {}\r\n", body.len()));
    stream.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
    stream.flush().await.unwrap();
    assert_eq!(stream.read_u8().await.unwrap(), b'H');
    gateway.reload_with_client_auth("off");
    let came = talk(stream, b"").await;
    assert!(!came.ends_with(b"0\r\n\r\n"));
    assert_eq!(gateway.backend.take().len(), 1);
    gateway.until_quiet().await;
}

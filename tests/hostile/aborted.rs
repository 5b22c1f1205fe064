//! Callers that leave, and backends that answer out of turn.

use std::fs;

use tokio::io::AsyncWriteExt;

use crate::client::{chat, chat_head, connect, last, others_are_served, replies, talk};
use crate::frames::{H2, RST_STREAM, frame};
use crate::gateway::{Gateway, OPEN, SAME};

const BATCH: u32 = 50;

/// A thousand requests whose callers leave in every phase. Each leaves one record and nothing else.
#[tokio::test]
async fn a_thousand_aborted_requests_leave_nothing_behind() {
    let gateway = Gateway::start().await;
    let mut begun = 0;
    for round in 0..5 {
        // While the backend thinks, over HTTP/1.1 and HTTP/2.
        let say = if round % 2 == 0 { r#","say":"hang""# } else { r#","say":"stream""# };
        let before = gateway.backend.count();
        let mut callers = Vec::new();
        for _ in 0..BATCH {
            let mut stream = connect(&gateway).await;
            stream.write_all(&chat(&gateway.key, "", say)).await.unwrap();
            stream.flush().await.unwrap();
            callers.push(stream);
        }
        let mut streams = H2::open(&gateway).await;
        for n in 0..BATCH {
            assert!(streams.send(&crate::frames::chat(&gateway.key, 2 * n + 1, say)).await);
        }
        begun += u64::from(2 * BATCH);
        let expected = before + usize::try_from(2 * BATCH).unwrap();
        gateway.until("the backend has them", || gateway.backend.count() == expected).await;
        drop(callers);
        for n in 0..BATCH {
            streams.send(&frame(RST_STREAM, 0, 2 * n + 1, &8u32.to_be_bytes())).await;
        }
        gateway.until("they are over", || gateway.in_flight() == 0).await;
        drop(streams);
        // While their bodies come.
        let half = chat_head(&gateway.key, "Content-Length: 100000\r\n");
        let mut callers = Vec::new();
        for _ in 0..2 * BATCH {
            let mut stream = connect(&gateway).await;
            stream.write_all(half.as_bytes()).await.unwrap();
            stream.write_all(&[b' '; 1000]).await.unwrap();
            stream.flush().await.unwrap();
            callers.push(stream);
        }
        begun += u64::from(2 * BATCH);
        let buffered = || gateway.server.gateway().buffered.load(std::sync::atomic::Ordering::SeqCst);
        gateway.until("they are being read", || buffered() == u64::from(2 * BATCH) * 1000).await;
        drop(callers);
        gateway.until_quiet().await;
    }
    assert_eq!(begun, 1000);
    gateway.until("each left a record", || gateway.server.gateway().records.written() == begun).await;
    gateway.backend.take();
    others_are_served(&gateway).await;
    gateway.until_quiet().await;
}

/// What a backend says behind an answer, or before it is asked, reaches no caller.
#[tokio::test]
async fn a_reply_meets_its_own_request_only() {
    let gateway = Gateway::start().await;
    for row in 0..50 {
        let say = if row % 3 == 0 { r#","say":"early""# } else { "" };
        let bytes = [chat(&gateway.key, "", &format!(",\"row\":{row}{say}")), last(&gateway.key)].concat();
        let came = replies(&talk(connect(&gateway).await, &bytes).await);
        assert_eq!(came.iter().map(|reply| reply.status).collect::<Vec<_>>(), [200, 200]);
        let answer: serde_json::Value = serde_json::from_slice(&came[0].body).unwrap();
        assert_eq!(answer["row"], row);
        // Another caller leaves in the middle of a reply.
        let mut leaver = connect(&gateway).await;
        leaver.write_all(&chat(&gateway.key, "", r#","say":"stream""#)).await.unwrap();
        leaver.flush().await.unwrap();
    }
    gateway.backend.take();
    gateway.until_quiet().await;
}

/// A stream of announced length that breaks off does not end well, whatever is said in-band.
#[tokio::test]
async fn a_stream_of_announced_length_cannot_be_filled_up() {
    let gateway = Gateway::start().await;
    let bytes = chat(&gateway.key, "", r#","say":"sized events, cut""#);
    // The name stays what it is, so the reply is not edited and keeps its length.
    let bytes = String::from_utf8(bytes).unwrap().replacen(OPEN, SAME, 1).into_bytes();
    let came = talk(connect(&gateway).await, &bytes).await;
    let text = String::from_utf8(came).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
    assert!(body.len() < length.parse().unwrap(), "{text}");
    gateway.backend.take();
    gateway.until_quiet().await;
}

/// Nothing that a caller or backend said is in the records, and every line is one JSON object.
#[tokio::test]
async fn records_hold_no_content() {
    let gateway = Gateway::start().await;
    let canary = "canary-7f3a";
    let odd = format!("\\u001b[2J\\r\\n{canary}");
    for bytes in [
        chat(&gateway.key, "", &format!(",\"user\":\"{odd}\",\"say\":\"echo\"")),
        chat(&format!("dw_{canary}"), "", ""),
        chat(&gateway.key, &format!("accept: {canary}\r\nuser-agent: {canary}\r\ncookie: {canary}\r\n"), ""),
        chat_head(&gateway.key, "").replacen("/v1/chat", &format!("/{canary}"), 1).into_bytes(),
        chat_head(&gateway.key, "")
            .replacen("completions", &format!("completions?x={canary}&key={canary}"), 1)
            .into_bytes(),
        chat_head(&gateway.key, "").replacen("Host: localhost", &format!("Host: {canary}.example"), 1).into_bytes(),
        chat(&gateway.key, "", &format!(",\"{canary}\":1,\"{canary}\":2")),
        chat(&gateway.key, "", &format!("\"{canary}")),
    ] {
        let came = talk(connect(&gateway).await, &[bytes, last(&gateway.key)].concat()).await;
        let text = String::from_utf8_lossy(&came);
        assert!(!text.contains(canary), "{text}");
    }
    gateway.backend.take();
    gateway.until_quiet().await;
    gateway.until("all is written", || gateway.server.gateway().records.written() == 16).await;
    let state = gateway.server.gateway().view().settings.config.state_dir.clone();
    let text = fs::read_to_string(state.join("records.jsonl")).unwrap();
    assert_eq!(text.lines().count(), 16);
    assert!(text.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).unwrap().is_object()));
    let secret = gateway.key.rsplit('_').next().unwrap();
    assert!(!text.contains(canary) && !text.contains(secret), "{text}");
}

//! Peers that take their time pay with their own connection.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use doorward::gate::connection::Patience;

use crate::client::{chat_head, connect, others_are_served, replies, talk};
use crate::frames::{END_HEADERS, END_STREAM, H2, HEADERS, PING, block, chat_headers, frame};
use crate::gateway::{Gateway, PATIENCE, Setup};

fn hasty() -> Setup {
    let patience = Patience { head: Duration::from_secs(1), idle: Duration::from_secs(2) };
    Setup { patience, ..Default::default() }
}

/// Sends `bytes` one by one until the gateway closes.
async fn drip(mut stream: impl AsyncReadExt + AsyncWriteExt + Unpin, bytes: &[u8]) -> Vec<u8> {
    let mut came = Vec::new();
    let mut bytes = bytes.iter().cycle();
    let dripping = async {
        let mut piece = [0; 4096];
        loop {
            match timeout(Duration::from_millis(100), stream.read(&mut piece)).await {
                Ok(Ok(0) | Err(_)) => return,
                Ok(Ok(count)) => came.extend_from_slice(&piece[..count]),
                Err(_) => {
                    // A gateway that has closed is noticed by the next read.
                    let _sent = stream.write_all(&[*bytes.next().unwrap()]).await.is_ok();
                    let _flushed = stream.flush().await.is_ok();
                }
            }
        }
    };
    timeout(PATIENCE, dripping).await.expect("the gateway is patient without end");
    came
}

#[tokio::test]
async fn handshakes() {
    let gateway = Gateway::start().await;
    let silent = async {
        let mut tcp = TcpStream::connect(gateway.address()).await.unwrap();
        assert!(timeout(PATIENCE, tcp.read_u8()).await.expect("a silent peer stays").is_err());
    };
    let dripping = async {
        // A record of a handshake that never ends.
        let hello = [&[0x16, 3, 1, 0x40, 0, 1, 0, 0x3f, 0xfc, 3, 3][..], &[0; 64]].concat();
        drip(TcpStream::connect(gateway.address()).await.unwrap(), &hello).await;
    };
    let begun = Instant::now();
    let busy = async {
        sleep(Duration::from_millis(200)).await;
        others_are_served(&gateway).await;
    };
    tokio::join!(silent, dripping, busy);
    assert!(begun.elapsed() < Duration::from_secs(10));
    gateway.backend.take();
    gateway.until_quiet().await;
}

#[tokio::test]
async fn heads_and_idle_connections() {
    let gateway = Gateway::with(hasty()).await;
    let slow_head = async {
        let came = drip(connect(&gateway).await, chat_head(&gateway.key, "").as_bytes()).await;
        assert!(came.is_empty());
    };
    let slow_second_head = async {
        let mut stream = connect(&gateway).await;
        let first =
            format!("GET /v1/models HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\n\r\n", gateway.key);
        stream.write_all(first.as_bytes()).await.unwrap();
        let came = drip(stream, b"GET /v1/models HTTP/1.1\r\nx: ").await;
        assert_eq!(replies(&came).len(), 1);
    };
    let silent = async {
        let mut stream = connect(&gateway).await;
        assert!(timeout(PATIENCE, stream.read_u8()).await.expect("a silent peer stays").is_err());
    };
    tokio::join!(slow_head, slow_second_head, silent);
    gateway.until_quiet().await;
}

/// Answers to pings are no sign of life, nor is a head that never ends.
#[tokio::test]
async fn idle_http2_connections() {
    let gateway = Gateway::with(hasty()).await;
    let pinging = async {
        let mut h2 = H2::open(&gateway).await;
        let ping = async {
            while h2.send(&frame(PING, 0, 0, b"12345678")).await {
                sleep(Duration::from_millis(100)).await;
            }
        };
        timeout(PATIENCE, ping).await.expect("pings keep a connection open");
    };
    let dripping = async {
        let mut h2 = H2::open(&gateway).await;
        let head = frame(HEADERS, END_HEADERS, 1, &block(&chat_headers(&gateway.key)));
        for byte in &head[..head.len() - 1] {
            if !h2.send(&[*byte]).await {
                return;
            }
            sleep(Duration::from_millis(100)).await;
        }
        panic!("a head may take for ever");
    };
    let parked = async {
        let mut h2 = H2::open_with(&gateway, &[(4, 0)]).await;
        let mut headers = chat_headers("");
        headers.retain(|(name, _)| name != "authorization");
        assert!(h2.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(&headers))).await);
        h2.pong_until_closed().await;
    };
    tokio::join!(pinging, dripping, timeout(PATIENCE, parked)).2.expect("an unread refusal keeps a connection open");
    gateway.until_quiet().await;
}

/// A body that trickles is given up; one that comes at a modest pace is not.
#[tokio::test]
async fn bodies() {
    let gateway = Gateway::start().await;
    let head = chat_head(&gateway.key, "Connection: close\r\nContent-Length: 100000\r\n");
    let trickling = async {
        let mut stream = connect(&gateway).await;
        stream.write_all(head.as_bytes()).await.unwrap();
        let came = replies(&drip(stream, b" ").await);
        assert_eq!(came.iter().map(|reply| reply.status).collect::<Vec<_>>(), [400]);
    };
    let silent = async {
        let came = replies(&talk(connect(&gateway).await, head.as_bytes()).await);
        assert_eq!(came.iter().map(|reply| reply.status).collect::<Vec<_>>(), [400]);
    };
    tokio::join!(trickling, silent, others_are_served(&gateway));
    assert_eq!(gateway.backend.take().len(), 1);
    gateway.until_quiet().await;
}

//! More of everything: frames, streams, connections. The connection that floods ends or is ignored,
//! and others are served meanwhile.

use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::time::timeout;

use crate::client::{connect_with, others_are_served};
use crate::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, H2, HEADERS, PING, RST_STREAM, SETTINGS, WINDOW_UPDATE, block,
    chat_headers, frame,
};
use crate::gateway::{Gateway, PATIENCE, Setup};

const ENHANCE_YOUR_CALM: u32 = 11;
/// Far more than any bound allows.
const ROUNDS: u32 = 20_000;

/// Sends rounds until the gateway closes; gives the error of its GOAWAY.
async fn flood(gateway: &Gateway, first: Vec<u8>, round: impl Fn(u32) -> Vec<u8>) -> Option<u32> {
    let mut h2 = H2::open(gateway).await;
    h2.send(&first).await;
    for index in 0..ROUNDS {
        if !h2.send(&round(index)).await {
            break;
        }
    }
    h2.until(|frame| frame.kind == GOAWAY).await.map(|frame| frame.error())
}

fn head(stream: u32, flags: u8, key: Option<&str>) -> Vec<u8> {
    let mut headers = chat_headers(key.unwrap_or_default());
    headers.retain(|(name, _)| key.is_some() || name != "authorization");
    frame(HEADERS, flags, stream, &block(&headers))
}

#[tokio::test]
async fn floods_of_frames_end_their_connection_only() {
    let gateway = Gateway::start().await;
    let key = Some(gateway.key.as_str());
    let reset = |stream| frame(RST_STREAM, 0, stream, &8u32.to_be_bytes());
    let opened = head(1, END_HEADERS, key);
    let many = |bytes: Vec<u8>| bytes.repeat(100);
    let rapid = |n: u32, key, flags| [head(2 * n + 1, END_HEADERS | flags, key), reset(2 * n + 1)].concat();
    let calm = |name: &str, error: Option<u32>| {
        // A gateway that is still being written to may reset the socket before the reason is read.
        assert!(matches!(error, None | Some(ENHANCE_YOUR_CALM)), "{name}: {error:?}");
    };
    calm("streams opened and reset", flood(&gateway, vec![], |n| rapid(n, key, 0)).await);
    calm("the same by nobody", flood(&gateway, vec![], |n| rapid(n, None, END_STREAM)).await);
    let begun = head(1, 0, key);
    let more = frame(CONTINUATION, 0, 1, &block(&[("x", "y".repeat(100))]).repeat(50));
    calm("continuations", flood(&gateway, begun.clone(), |_| more.clone()).await);
    let empty = many(frame(CONTINUATION, 0, 1, b""));
    calm("empty continuations", flood(&gateway, begun, |_| empty.clone()).await);
    let empty = many(frame(DATA, 0, 1, b""));
    calm("empty data", flood(&gateway, opened.clone(), |_| empty.clone()).await);
    let padded = many(frame(DATA, 8, 1, &[&[255][..], &[0; 255]].concat()));
    calm("padding", flood(&gateway, opened.clone(), |_| padded.clone()).await);
    let malformed = |n: u32| frame(HEADERS, END_HEADERS | END_STREAM, 2 * n + 1, &block(&[(":method", "GET")]));
    calm("malformed heads", flood(&gateway, vec![], malformed).await);
    // One entry of the table of headers, named thousands of times.
    let entry = [&[0x40, 1, b'x', 0x7f, 0xbd, 0x1d][..], &[b'y'; 3900]].concat();
    let seed = frame(HEADERS, END_HEADERS | END_STREAM, 1, &[block(&chat_headers("x")), entry].concat());
    let bomb = |n: u32| {
        frame(HEADERS, END_HEADERS | END_STREAM, 2 * n + 3, &[block(&chat_headers("x")), vec![0xbe; 12_000]].concat())
    };
    calm("a bomb", flood(&gateway, seed, bomb).await);
    others_are_served(&gateway).await;
    assert_eq!(gateway.backend.take().len(), 1);
    gateway.until_quiet().await;
}

/// Frames that must be answered or taken note of, on a connection that reads nothing.
#[tokio::test]
async fn floods_of_control_frames_disturb_nobody() {
    let gateway = Gateway::start().await;
    let floods = [
        frame(PING, 0, 0, b"12345678"),
        frame(SETTINGS, 0, 0, b""),
        frame(WINDOW_UPDATE, 0, 0, &1u32.to_be_bytes()),
        frame(2, 0, 1, &[0, 0, 0, 0, 1]),
        frame(0xee, 0, 0, &[0; 1000]),
    ];
    for frame in floods {
        let mut h2 = H2::open(&gateway).await;
        let piece = frame.repeat(500);
        for _ in 0..200 {
            // A gateway that waits for its own answers to be read reads no more: well done.
            if !h2.send_within(&piece, Duration::from_millis(500)).await {
                break;
            }
        }
        others_are_served(&gateway).await;
    }
    gateway.backend.take();
    gateway.until_quiet().await;
}

/// Bytes one by one, each in a frame of its own: slow work for the gateway, and little of it.
#[tokio::test]
async fn tiny_frames_end_their_connection_only() {
    let gateway = Gateway::start().await;
    let opened = head(1, END_HEADERS, Some(&gateway.key));
    let tiny = frame(DATA, 0, 1, b" ").repeat(100);
    let error = flood(&gateway, opened, |_| tiny.clone()).await;
    assert!(matches!(error, None | Some(ENHANCE_YOUR_CALM)), "{error:?}");
    others_are_served(&gateway).await;
    assert_eq!(gateway.backend.take().len(), 1);
    gateway.until_quiet().await;
}

/// Refusals that nobody reads hold no place among the records and keep no connection busy.
#[tokio::test]
async fn refusals_that_are_not_read_hold_nothing() {
    let gateway = Gateway::start().await;
    let written = || gateway.server.gateway().records.written();
    let mut parked = Vec::new();
    for _ in 0..10 {
        // A window of 0: no byte of a body may be sent.
        let mut h2 = H2::open_with(&gateway, &[(4, 0)]).await;
        for n in 0..100 {
            assert!(h2.send(&head(2 * n + 1, END_HEADERS | END_STREAM, None)).await);
        }
        parked.push(h2);
    }
    gateway.until("all are recorded", || written() == 1000).await;
    assert_eq!(gateway.in_flight(), 0);
    others_are_served(&gateway).await;
    drop(parked);
    gateway.backend.take();
    gateway.until_quiet().await;
}

#[tokio::test]
async fn connections_are_bounded_by_address_and_in_all() {
    let listen = "max_connections = 30\nmax_connections_per_address = 20";
    let gateway = Gateway::with(Setup { listen, ..Default::default() }).await;
    let open = async |from: &str| {
        let connected = connect_with(gateway.address(), gateway.tls(&[b"http/1.1"], false), from, None).await;
        connected.ok()
    };
    let mut held = Vec::new();
    for _ in 0..20 {
        held.push(open("127.0.0.1").await.unwrap());
    }
    for _ in 0..50 {
        assert!(open("127.0.0.1").await.is_none());
    }
    for _ in 0..10 {
        held.push(open("127.0.0.2").await.unwrap());
    }
    for from in ["127.0.0.2", "127.0.0.3"] {
        assert!(open(from).await.is_none());
    }
    held.truncate(5);
    gateway.until("places are given back", || gateway.figure("doorward_connections") == 5).await;
    others_are_served(&gateway).await;
    // Those that were turned away heard it at once.
    let mut late = open("127.0.0.3").await.unwrap();
    drop(held);
    assert!(timeout(Duration::from_millis(50), late.read_u8()).await.is_err(), "and this one is not closed");
    drop(late);
    timeout(PATIENCE, gateway.until_quiet()).await.unwrap();
}

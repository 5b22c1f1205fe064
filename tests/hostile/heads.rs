//! HTTP/2 requests that no library would write.

use crate::client::others_are_served;
use crate::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, H2, HEADERS, PING, RST_STREAM, WINDOW_UPDATE, block, chat,
    chat_headers, frame,
};
use crate::gateway::{Gateway, OPEN, SECRET};

#[derive(PartialEq, Eq, Debug)]
enum End {
    Status(u16),
    /// The stream is reset.
    Reset,
    /// The connection is ended.
    Gone,
}

const PROTOCOL_ERROR: End = End::Reset;

/// How stream 1 ends.
async fn end_of(gateway: &Gateway, bytes: &[u8]) -> End {
    let mut h2 = H2::open(gateway).await;
    h2.send(bytes).await;
    let mut status = None;
    loop {
        match h2.next().await {
            None => return End::Gone,
            Some(frame) if frame.kind == GOAWAY => return End::Gone,
            Some(frame) if frame.stream != 1 => {}
            Some(frame) if frame.kind == RST_STREAM => return status.map_or(End::Reset, End::Status),
            Some(frame) => {
                if frame.kind == HEADERS && status.is_none() {
                    status = Some(frame.status());
                }
                if frame.flags & END_STREAM != 0 {
                    return End::Status(status.unwrap());
                }
            }
        }
    }
}

type Headers = Vec<(String, String)>;

fn with(mut headers: Headers, name: &str, value: &str) -> Headers {
    match headers.iter_mut().find(|(n, _)| n == name) {
        Some(header) => value.clone_into(&mut header.1),
        None => headers.push((name.to_owned(), value.to_owned())),
    }
    headers
}

fn without(mut headers: Headers, name: &str) -> Headers {
    headers.retain(|(n, _)| n != name);
    headers
}

fn in_front(mut headers: Headers, name: &str, value: &str) -> Headers {
    headers.insert(0, (name.to_owned(), value.to_owned()));
    headers
}

fn behind(mut headers: Headers, name: &str, value: &str) -> Headers {
    headers.push((name.to_owned(), value.to_owned()));
    headers
}

#[tokio::test]
async fn heads_of_requests() {
    let gateway = Gateway::start().await;
    let plain = || chat_headers(&gateway.narrow);
    let mut rows = vec![
        (plain(), End::Status(200)),
        (in_front(plain(), ":path", "/v1/models"), PROTOCOL_ERROR),
        (in_front(plain(), ":authority", "localhost"), PROTOCOL_ERROR),
        (in_front(plain(), ":method", "GET"), PROTOCOL_ERROR),
        (behind(plain(), ":path", "/v1/models"), PROTOCOL_ERROR),
        (behind(plain(), ":nothing", "x"), End::Gone),
        (in_front(plain(), ":status", "200"), PROTOCOL_ERROR),
        (without(plain(), ":path"), PROTOCOL_ERROR),
        (without(plain(), ":method"), PROTOCOL_ERROR),
        (without(plain(), ":scheme"), PROTOCOL_ERROR),
        (with(plain(), ":path", ""), PROTOCOL_ERROR),
        (with(plain(), ":path", "*"), End::Status(400)),
        (with(plain(), ":path", "v1/chat/completions"), PROTOCOL_ERROR),
        (with(plain(), ":path", "https://localhost/v1/chat/completions"), PROTOCOL_ERROR),
        (with(plain(), ":path", "/v1/chat/completions HTTP/1.1\r\nX: y"), PROTOCOL_ERROR),
        (with(plain(), ":path", "/v1/chat/completions\r\n"), PROTOCOL_ERROR),
        (with(plain(), ":path", "/v1/chat completions"), PROTOCOL_ERROR),
        (with(plain(), ":path", "/v1/chat/completions\0"), PROTOCOL_ERROR),
        (with(plain(), ":path", "//v1/chat/completions"), End::Status(400)),
        (with(plain(), ":path", "/v1/../v1/chat/completions"), End::Status(400)),
        (with(plain(), ":path", "/v1/chat/completions?model=secret"), End::Status(400)),
        (with(plain(), ":method", "GET"), End::Status(405)),
        (with(plain(), "host", "evil.example"), End::Status(400)),
        (with(plain(), "host", "localhost"), End::Status(200)),
        (with(without(plain(), ":authority"), "host", "localhost"), End::Status(200)),
        (behind(with(without(plain(), ":authority"), "host", "localhost"), "host", "localhost"), End::Status(400)),
        (without(plain(), ":authority"), End::Status(400)),
        (with(plain(), ":authority", ""), PROTOCOL_ERROR),
        (with(plain(), ":authority", "x@localhost"), End::Status(400)),
        (with(plain(), ":authority", "evil.example"), End::Status(421)),
        (with(plain(), ":authority", "localhost\r\nx: y"), PROTOCOL_ERROR),
        (with(plain(), ":authority", "localhost/x"), PROTOCOL_ERROR),
        (with(plain(), ":scheme", "x y"), PROTOCOL_ERROR),
        (with(plain(), "connection", "close"), PROTOCOL_ERROR),
        (with(plain(), "transfer-encoding", "chunked"), PROTOCOL_ERROR),
        (with(plain(), "te", "gzip"), PROTOCOL_ERROR),
        (with(plain(), "upgrade", "h2c"), PROTOCOL_ERROR),
        (with(plain(), "keep-alive", "1"), PROTOCOL_ERROR),
        (with(plain(), "proxy-connection", "x"), PROTOCOL_ERROR),
        (with(plain(), "Accept", "x"), End::Gone),
        (with(plain(), "a b", "x"), End::Gone),
        (with(plain(), "a\r\nb", "x"), End::Gone),
        (with(plain(), "", "x"), End::Gone),
        (with(plain(), "accept", "a\r\nx: y"), End::Gone),
        (with(plain(), "accept", "a\0b"), End::Gone),
        (with(plain(), "accept", " a "), End::Status(200)),
        (with(plain(), "x_under_score", "x"), End::Status(200)),
        (with(plain(), "x-doorward-subject", "x"), End::Status(200)),
        (with(plain(), "content-length", "3"), PROTOCOL_ERROR),
        (with(plain(), "content-length", "300"), PROTOCOL_ERROR),
        (with(plain(), "content-length", "016"), End::Status(400)),
        (with(plain(), "content-length", "x"), PROTOCOL_ERROR),
        (behind(with(plain(), "content-length", "16"), "content-length", "3"), PROTOCOL_ERROR),
        (with(plain(), "content-length", "16"), End::Status(200)),
        (with(plain(), "content-encoding", "gzip"), End::Status(415)),
        (with(plain(), "authorization", "Bearer dw_nobody"), End::Status(401)),
        (
            in_front(
                with(without(without(plain(), ":path"), ":scheme"), ":method", "CONNECT"),
                ":protocol",
                "websocket",
            ),
            PROTOCOL_ERROR,
        ),
        (with(without(without(plain(), ":path"), ":scheme"), ":method", "CONNECT"), End::Status(400)),
    ];
    rows.push(((0..1000).fold(plain(), |headers, n| behind(headers, &format!("x{n}"), "y")), End::Status(431)));
    let body = format!("{{\"model\":\"{OPEN}\"}}");
    assert_eq!(body.len(), 16);
    let mut admitted = 0;
    for (headers, expected) in rows {
        let bytes = [frame(HEADERS, END_HEADERS, 1, &block(&headers)), frame(DATA, END_STREAM, 1, body.as_bytes())];
        assert_eq!(
            end_of(&gateway, &bytes.concat()).await,
            expected,
            "{headers:.300?}",
            headers = format!("{headers:?}")
        );
        admitted += usize::from(expected == End::Status(200));
        let seen = gateway.backend.take();
        assert_eq!(seen.len(), usize::from(expected == End::Status(200)), "{headers:?}");
    }
    assert!(admitted > 5);
    gateway.until_quiet().await;
}

/// Frames out of order: a stream says one thing and then another.
#[tokio::test]
async fn frames_out_of_order() {
    let gateway = Gateway::start().await;
    let head = frame(HEADERS, END_HEADERS, 1, &block(&chat_headers(&gateway.narrow)));
    let (open, secret) = (format!("{{\"model\":\"{OPEN}\"}}"), format!("{{\"model\":\"{SECRET}\"}}"));
    let data = |flags, text: &str| frame(DATA, flags, 1, text.as_bytes());
    let trailers = |flags, pairs: &[(&str, &str)]| frame(HEADERS, flags, 1, &block(pairs));
    let rows = [
        (vec![head.clone(), data(END_STREAM, &open)], vec![End::Status(200)]),
        (vec![head.clone(), data(0, &open[..5]), data(0, ""), data(END_STREAM, &open[5..])], vec![End::Status(200)]),
        (vec![head.clone(), data(0, &open), trailers(END_HEADERS | END_STREAM, &[("x", "y")])], vec![End::Status(200)]),
        (
            vec![
                head.clone(),
                data(0, &open),
                trailers(END_HEADERS | END_STREAM, &[("content-length", "1"), ("transfer-encoding", "chunked")]),
            ],
            vec![End::Reset],
        ),
        (
            vec![head.clone(), data(0, &open), trailers(END_HEADERS, &[("x", "y")]), data(END_STREAM, "")],
            vec![End::Reset],
        ),
        // Whether the first body was already judged is a race; the second never counts.
        (
            vec![head.clone(), data(END_STREAM, &open), data(END_STREAM, &secret)],
            vec![End::Gone, End::Reset, End::Status(200)],
        ),
        (vec![head.clone(), data(END_STREAM, &open), head.clone()], vec![End::Gone, End::Reset, End::Status(200)]),
        (vec![frame(DATA, END_STREAM, 0, b"x")], vec![End::Gone]),
        (vec![frame(DATA, END_STREAM, 5, b"x")], vec![End::Gone]),
        (vec![frame(HEADERS, END_HEADERS, 2, &block(&chat_headers(&gateway.narrow)))], vec![End::Gone]),
        (vec![head.clone(), frame(DATA, END_STREAM | 8, 1, &[&[255][..], open.as_bytes()].concat())], vec![End::Gone]),
        (
            vec![frame(HEADERS, 0, 1, &block(&chat_headers(&gateway.narrow))), frame(PING, 0, 0, b"12345678")],
            vec![End::Gone],
        ),
        (
            vec![
                frame(HEADERS, 0, 1, &block(&chat_headers(&gateway.narrow))),
                frame(CONTINUATION, END_HEADERS, 3, b""),
            ],
            vec![End::Gone],
        ),
        (vec![frame(CONTINUATION, END_HEADERS, 1, b"")], vec![End::Gone]),
        (vec![frame(WINDOW_UPDATE, 0, 0, &[0; 4])], vec![End::Gone]),
        (vec![frame(WINDOW_UPDATE, 0, 0, &0x7fff_ffffu32.to_be_bytes())], vec![End::Gone]),
        (
            vec![frame(5, END_HEADERS, 1, &[&[0, 0, 0, 2][..], &block(&chat_headers(&gateway.narrow))].concat())],
            vec![End::Gone],
        ),
        (vec![vec![0x10, 0, 0, DATA, 0, 0, 0, 0, 1]], vec![End::Gone]),
        (vec![frame(HEADERS, END_HEADERS, 1, b"\xff\xff\xff\xff\xff\xff\xff")], vec![End::Gone]),
        (vec![b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec()], vec![End::Gone]),
    ];
    for (index, (frames, expected)) in rows.into_iter().enumerate() {
        let end = end_of(&gateway, &frames.concat()).await;
        assert!(expected.contains(&end), "row {index}: {end:?}, not {expected:?}");
        let seen = gateway.backend.take();
        assert!(
            seen.iter().all(|seen| !String::from_utf8_lossy(&seen.body).contains("secret")),
            "row {index}: {seen:?}"
        );
        if expected.len() == 1 {
            assert_eq!(seen.len(), usize::from(end == End::Status(200)), "row {index}");
        }
    }
    others_are_served(&gateway).await;
    gateway.until_quiet().await;
}

/// Two streams of one connection, two keys: each has its own rights.
#[tokio::test]
async fn streams_do_not_share_rights() {
    let gateway = Gateway::start().await;
    let mut h2 = H2::open(&gateway).await;
    let body = |stream, key: &str| {
        let text = format!("{{\"model\":\"{SECRET}\"}}");
        [
            frame(HEADERS, END_HEADERS, stream, &block(&chat_headers(key))),
            frame(DATA, END_STREAM, stream, text.as_bytes()),
        ]
        .concat()
    };
    let bytes =
        [body(1, &gateway.key), body(3, &gateway.narrow), chat(&gateway.narrow, 5, ""), body(7, "nobody")].concat();
    assert!(h2.send(&bytes).await);
    let mut kinds = Vec::new();
    while kinds.len() < 4 {
        let frame = h2.until(|frame| frame.kind == HEADERS).await.unwrap();
        // Only the first of a status is a literal.
        kinds.push((frame.stream, matches!(frame.payload.first(), Some(0x88))));
    }
    kinds.sort_unstable();
    assert_eq!(kinds, [(1, true), (3, false), (5, true), (7, false)]);
    assert_eq!(gateway.backend.take().len(), 2);
    drop(h2);
    gateway.until_quiet().await;
}

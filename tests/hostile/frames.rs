//! HTTP/2 by hand: frames that no library would write.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::client::{Tls, connect_with};
use crate::gateway::{Gateway, OPEN, PATIENCE};

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;
const ACK: u8 = 1;

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend_from_slice(&[kind, flags]);
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// Headers as literals that go into no table.
pub fn block<N: AsRef<[u8]>, V: AsRef<[u8]>>(headers: &[(N, V)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in headers {
        bytes.push(0);
        for text in [name.as_ref(), value.as_ref()] {
            integer(text.len(), &mut bytes);
            bytes.extend_from_slice(text);
        }
    }
    bytes
}

/// RFC 7541, 5.1, with a prefix of seven bits.
fn integer(value: usize, bytes: &mut Vec<u8>) {
    let Some(mut rest) = value.checked_sub(127) else {
        return bytes.push(u8::try_from(value).unwrap());
    };
    bytes.push(127);
    while rest >= 128 {
        bytes.push(u8::try_from(rest % 128 + 128).unwrap());
        rest /= 128;
    }
    bytes.push(u8::try_from(rest).unwrap());
}

/// The headers of an honest chat request.
pub fn chat_headers(key: &str) -> Vec<(String, String)> {
    [
        (":method", "POST"),
        (":scheme", "https"),
        (":path", "/v1/chat/completions"),
        (":authority", "localhost"),
        ("authorization", &format!("Bearer {key}")),
        ("content-type", "application/json"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .to_vec()
}

/// An honest chat request on `stream`. `more` are more members of the body.
pub fn chat(key: &str, stream: u32, more: &str) -> Vec<u8> {
    let mut bytes = frame(HEADERS, END_HEADERS, stream, &block(&chat_headers(key)));
    bytes.extend(frame(DATA, END_STREAM, stream, format!("{{\"model\":\"{OPEN}\"{more}}}").as_bytes()));
    bytes
}

#[derive(Clone, Debug)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    /// The status of a HEADERS frame: the gateway writes it first, from the static table or as
    /// a literal of three digits.
    pub fn status(&self) -> u16 {
        match self.payload.as_slice() {
            [indexed @ 0x88..=0x8e, ..] => [200, 204, 206, 304, 400, 404, 500][usize::from(indexed - 0x88)],
            [0x48, 3, a, b, c, ..] => [a, b, c].iter().fold(0, |n, digit| n * 10 + u16::from(**digit - b'0')),
            [0x48, length, huffman @ ..] if *length == 0x82 || *length == 0x83 => digits(huffman),
            other => panic!("no status in {other:02x?}"),
        }
    }

    /// Why a stream or connection was ended.
    pub fn error(&self) -> u32 {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }
}

/// Three digits in the Huffman code of RFC 7541.
fn digits(bytes: &[u8]) -> u16 {
    let mut bits = bytes.iter().take(3).flat_map(|byte| (0..8).rev().map(move |bit| u16::from(byte >> bit) & 1));
    let mut take = |count: usize| bits.by_ref().take(count).fold(0, |value, bit| value * 2 + bit);
    (0..3).fold(0, |number, _| {
        let five = take(5);
        // 0, 1 and 2 have five bits, the other digits six: 011001 is 3.
        let digit = if five < 3 { five } else { five * 2 + take(1) - 0b01_1001 + 3 };
        number * 10 + digit
    })
}

/// A connection that has said hello.
pub struct H2 {
    stream: Tls,
    buffer: Vec<u8>,
}

impl H2 {
    pub async fn open(gateway: &Gateway) -> Self {
        Self::open_with(gateway, &[]).await
    }

    /// `settings` as identifier and value.
    pub async fn open_with(gateway: &Gateway, settings: &[(u16, u32)]) -> Self {
        let tls = gateway.tls(&[b"h2"], false);
        let stream = connect_with(gateway.address(), tls, "127.0.0.1", None).await.unwrap();
        let mut payload = Vec::new();
        for (id, value) in settings {
            payload.extend_from_slice(&id.to_be_bytes());
            payload.extend_from_slice(&value.to_be_bytes());
        }
        let mut h2 = Self { stream, buffer: Vec::new() };
        assert!(h2.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await);
        assert!(h2.send(&frame(SETTINGS, 0, 0, &payload)).await);
        h2
    }

    /// False when the gateway has closed.
    pub async fn send(&mut self, bytes: &[u8]) -> bool {
        let sent = async { self.stream.write_all(bytes).await.is_ok() && self.stream.flush().await.is_ok() };
        timeout(PATIENCE, sent).await.expect("the gateway reads no more")
    }

    /// As [`Self::send`], of what a gateway may well not read for a while: false then, too.
    pub async fn send_within(&mut self, bytes: &[u8], patience: Duration) -> bool {
        let sent = async { self.stream.write_all(bytes).await.is_ok() && self.stream.flush().await.is_ok() };
        timeout(patience, sent).await.unwrap_or(false)
    }

    /// The next frame; `None` when the connection is over.
    pub async fn next(&mut self) -> Option<Frame> {
        timeout(PATIENCE, self.read()).await.expect("the gateway neither answers nor closes")
    }

    async fn read(&mut self) -> Option<Frame> {
        loop {
            if let [a, b, c, kind, flags, s0, s1, s2, s3, rest @ ..] = self.buffer.as_slice() {
                let length = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
                if let Some(payload) = rest.get(..length) {
                    let stream = u32::from_be_bytes([*s0, *s1, *s2, *s3]);
                    let frame = Frame { kind: *kind, flags: *flags, stream, payload: payload.to_vec() };
                    self.buffer.drain(..9 + length);
                    return Some(frame);
                }
            }
            let mut piece = vec![0; 16 * 1024];
            match self.stream.read(&mut piece).await {
                Ok(0) | Err(_) => return None,
                Ok(count) => self.buffer.extend_from_slice(&piece[..count]),
            }
        }
    }

    /// The first frame that `wanted` takes; `None` when the connection ended before.
    pub async fn until(&mut self, mut wanted: impl FnMut(&Frame) -> bool) -> Option<Frame> {
        loop {
            let frame = self.next().await?;
            if wanted(&frame) {
                return Some(frame);
            }
        }
    }

    /// Answers pings until the connection is over; gives the error of the last GOAWAY.
    pub async fn pong_until_closed(mut self) -> Option<u32> {
        let mut error = None;
        while let Some(frame) = self.next().await {
            if frame.kind == GOAWAY {
                error = Some(frame.error());
            } else if frame.kind == PING && frame.flags & ACK == 0 {
                self.send(&super::frames::frame(PING, ACK, 0, &frame.payload)).await;
            }
        }
        error
    }
}

//! The head of a backend's reply, and how its body is framed (RFC 9112, section 6.3).
//!
//! Invariant: pure; framing that two readers could take differently is a fault, not a guess.

use std::mem::MaybeUninit;
use std::ops::Range;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, StatusCode};

use crate::backend::chunked::Decoder;

/// Longest head in bytes.
pub const MAX_HEAD: usize = 64 * 1024;
const MAX_HEADERS: usize = 128;

/// A reply without its body.
#[derive(Debug)]
pub struct Head {
    /// Its status; never informational, except 101.
    pub status: StatusCode,
    /// Its headers, as sent.
    pub fields: Fields,
    /// How the body is framed.
    pub framing: Framing,
    /// True when the connection may carry another exchange after this one.
    pub keep_alive: bool,
}

/// Header fields as they came: names in any capitals, in their order. Most of them never reach the
/// caller, so nothing is made of a field before somebody wants it.
#[derive(Clone, Default, Debug)]
pub struct Fields {
    head: Bytes,
    /// Where each name and its value are in `head`.
    places: Vec<(Range<usize>, Range<usize>)>,
}

impl Fields {
    /// The fields of a reply that came another way than as the text of HTTP/1.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Self {
        let mut head = BytesMut::with_capacity(512);
        let mut put = |part: &[u8]| {
            let start = head.len();
            head.extend_from_slice(part);
            start..head.len()
        };
        let places =
            headers.iter().map(|(name, value)| (put(name.as_str().as_bytes()), put(value.as_bytes()))).collect();
        Self { head: head.freeze(), places }
    }

    /// Every field, as name and value.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let text = |place: &Range<usize>| self.head.get(place.clone()).unwrap_or_default();
        self.places.iter().map(move |(name, value)| (text(name), text(value)))
    }

    /// Every value of the field called `name`.
    pub fn all<'f>(&'f self, name: &'f str) -> impl Iterator<Item = &'f [u8]> {
        self.iter().filter(|(other, _)| other.eq_ignore_ascii_case(name.as_bytes())).map(|(_, value)| value)
    }
}

/// How a body ends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Framing {
    /// After so many bytes.
    Length(u64),
    /// With the last chunk.
    Chunked(Decoder),
    /// With the connection.
    UntilClose,
}

/// Why a head is not one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum HeadFault {
    /// Not HTTP.
    #[error("the reply is not HTTP/1")]
    NotHttp,
    /// Too long, or too many headers.
    #[error("the reply's head is too large")]
    TooLarge,
    /// The body's end is not well-defined.
    #[error("the reply's framing is ambiguous")]
    Ambiguous,
}

/// Takes the head of a reply from `buffer`, once it is whole. Informational replies before it are
/// dropped.
///
/// # Errors
///
/// When the bytes are no head of a reply.
pub fn take_head(buffer: &mut BytesMut) -> Result<Option<Head>, HeadFault> {
    while !buffer.is_empty() {
        let mut storage = [const { MaybeUninit::uninit() }; MAX_HEADERS];
        let mut reply = httparse::Response::new(&mut []);
        let parser = httparse::ParserConfig::default();
        let length = match parser.parse_response_with_uninit_headers(&mut reply, buffer, &mut storage) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) if buffer.len() > MAX_HEAD => return Err(HeadFault::TooLarge),
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(httparse::Error::TooManyHeaders) => return Err(HeadFault::TooLarge),
            Err(_) => return Err(HeadFault::NotHttp),
        };
        if length > MAX_HEAD {
            return Err(HeadFault::TooLarge);
        }
        let status = reply.code.and_then(|code| StatusCode::from_u16(code).ok()).ok_or(HeadFault::NotHttp)?;
        let is_http11 = reply.version == Some(1);
        let place = |part: &[u8]| {
            let start = part.as_ptr().addr().saturating_sub(buffer.as_ptr().addr());
            start..start + part.len()
        };
        let places = reply.headers.iter().map(|header| (place(header.name.as_bytes()), place(header.value))).collect();
        let fields = Fields { places, head: buffer.split_to(length).freeze() };
        if status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS {
            continue;
        }
        let framing = framing(status, &fields, is_http11)?;
        let keep_alive = is_http11 && framing != Framing::UntilClose && !says_close(&fields);
        return Ok(Some(Head { status, fields, framing, keep_alive }));
    }
    Ok(None)
}

fn framing(status: StatusCode, fields: &Fields, is_http11: bool) -> Result<Framing, HeadFault> {
    let mut codings = fields.all("transfer-encoding");
    let mut lengths = fields.all("content-length");
    if matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED | StatusCode::SWITCHING_PROTOCOLS) {
        return Ok(Framing::Length(0));
    }
    match (codings.next(), codings.next(), lengths.next(), lengths.next()) {
        (None, _, None, _) => Ok(Framing::UntilClose),
        (None, _, Some(length), None) => content_length(length).map(Framing::Length),
        (Some(coding), None, None, _) if is_http11 && coding.eq_ignore_ascii_case(b"chunked") => {
            Ok(Framing::Chunked(Decoder::default()))
        }
        (Some(_), ..) | (None, _, Some(_), Some(_)) => Err(HeadFault::Ambiguous),
    }
}

fn content_length(text: &[u8]) -> Result<u64, HeadFault> {
    let plain = !text.is_empty() && text.len() <= 18 && text.iter().all(u8::is_ascii_digit);
    let number = std::str::from_utf8(text).ok().filter(|_| plain).and_then(|text| text.parse().ok());
    number.ok_or(HeadFault::Ambiguous)
}

fn says_close(fields: &Fields) -> bool {
    let mut options = fields.all("connection").flat_map(|value| value.split(|&b| b == b','));
    options.any(|option| option.trim_ascii().eq_ignore_ascii_case(b"close"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    #[expect(clippy::needless_pass_by_value, reason = "rows of a table read better without an ampersand")]
    fn check(text: &str, expected: Result<Option<(u16, Framing, bool)>, HeadFault>) {
        let mut buffer = BytesMut::from(text);
        let got = take_head(&mut buffer).map(|head| head.map(|h| (h.status.as_u16(), h.framing, h.keep_alive)));
        assert_eq!(got, expected, "{text:?}");
    }

    #[test]
    fn framing_is_exact_or_refused() {
        let chunked = || Framing::Chunked(Decoder::default());
        check("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc", Ok(Some((200, Framing::Length(3), true))));
        check("HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\n\r\n", Ok(Some((200, chunked(), true))));
        check(
            "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 3\r\n\r\n",
            Ok(Some((200, Framing::Length(3), false))),
        );
        check(
            "HTTP/1.1 200 OK\r\nconnection: x, Close\r\ncontent-length: 3\r\n\r\n",
            Ok(Some((200, Framing::Length(3), false))),
        );
        check("HTTP/1.1 200 OK\r\n\r\n", Ok(Some((200, Framing::UntilClose, false))));
        check("HTTP/1.0 200 OK\r\ncontent-length: 3\r\n\r\n", Ok(Some((200, Framing::Length(3), false))));
        check("HTTP/1.1 204 No Content\r\n\r\n", Ok(Some((204, Framing::Length(0), true))));
        check(
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
            Ok(Some((200, Framing::Length(0), true))),
        );
        check("HTTP/1.1 101 Switching Protocols\r\n\r\n", Ok(Some((101, Framing::Length(0), true))));
        check("HTTP/1.1 200 OK\r\ncontent-le", Ok(None));
        for ambiguous in [
            "content-length: 3\r\ncontent-length: 3",
            "content-length: 3\r\ntransfer-encoding: chunked",
            "transfer-encoding: gzip, chunked",
            "transfer-encoding: chunked\r\ntransfer-encoding: chunked",
            "content-length: +3",
            "content-length: 3, 3",
            "content-length: ",
            "content-length: 99999999999999999999",
        ] {
            check(&format!("HTTP/1.1 200 OK\r\n{ambiguous}\r\n\r\n"), Err(HeadFault::Ambiguous));
        }
        check("HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", Err(HeadFault::Ambiguous));
        check("SSH-2.0-OpenSSH\r\n", Err(HeadFault::NotHttp));
        check("HTTP/1.1 200 OK\r\n bad: fold\r\n\r\n", Err(HeadFault::NotHttp));
        check(&format!("HTTP/1.1 200 OK\r\nx: {}", "y".repeat(MAX_HEAD)), Err(HeadFault::TooLarge));
        check(&format!("HTTP/1.1 200 OK\r\n{}\r\n", "x: y\r\n".repeat(200)), Err(HeadFault::TooLarge));
    }

    proptest! {
        /// No bytes make it panic, and what is not taken stays.
        #[test]
        fn survives_anything(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut buffer = BytesMut::from(&b"HTTP/1.1 200 OK\r\n"[..]);
            buffer.extend_from_slice(&bytes);
            let before = buffer.len();
            if !matches!(take_head(&mut buffer), Ok(Some(_))) {
                prop_assert!(buffer.len() <= before);
            }
        }
    }
}

//! Check 7: the body's size, coding and type, its bytes, and that they are JSON.
//!
//! Invariant: what is buffered is bounded per request and in all, and a body that trickles pays
//! with its own request only.

use std::error::Error;
use std::io;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, TRANSFER_ENCODING};
use http::request::Parts;
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout_at};

use crate::dialect::body as json_body;
use crate::dialect::body::Request;
use crate::domain::endpoint::{Dialect, Endpoint};
use crate::domain::refusal::Refusal;
use crate::gate::Settings;
use crate::gate::record::Record;
use crate::gate::turn::give_up_turn;

/// A body may be silent for this long before a rate is asked of it.
const GRACE: Duration = Duration::from_secs(10);
/// What a body must bring on average from then on, in bytes a second.
const MINIMUM_RATE: u64 = 1024;
/// However fast it is, a body must be here after this time.
const WHOLE: Duration = Duration::from_secs(120);

/// After so many bytes the worker looks at what its other callers sent, even when there is more of this
/// body: a fast sender's 15 MB would be read to their end first, in ten milliseconds.
const STRIDE: u64 = 256 * 1024;

/// A request body in memory, charged against the gateway's bound until it is dropped.
#[derive(Debug)]
pub struct Buffered {
    /// The whole body.
    pub bytes: Bytes,
    /// When its last byte was here.
    pub arrived_at: Instant,
    charge: Charge,
}

/// Reads the whole body of a request for `endpoint`.
///
/// # Errors
///
/// `body_too_large`, `unsupported_media_type`, `invalid_body` when the framing is odd or the body
/// breaks off or trickles, `overloaded` when the bodies of all requests together are too large.
pub async fn read(
    settings: &Settings,
    endpoint: Endpoint,
    head: &Parts,
    body: &mut Incoming,
    record: &mut Record,
) -> Result<Buffered, Refusal> {
    let limit = settings.config.listen.max_body_bytes;
    let too_large = || Refusal::BodyTooLarge { limit };
    if body.size_hint().lower() > limit {
        return Err(too_large());
    }
    check_type(endpoint, &head.headers)?;
    if !is_plainly_framed(&head.headers) {
        return Err(invalid(
            "The body is framed in a way that is not read here: send one plain Content-Length or Transfer-Encoding: chunked.",
        ));
    }
    let mut charge = Charge { all: Arc::clone(&record.gateway().buffered), bytes: 0 };
    let mut gathered = Gathered::default();
    let begun = record.begun();
    while !body.is_end_stream() {
        let earned = Duration::from_secs(charge.bytes / MINIMUM_RATE);
        let deadline = begun + (GRACE + earned).min(WHOLE);
        let frame = match timeout_at(deadline, body.frame()).await {
            Err(_) => return Err(invalid("The body came too slowly.")),
            Ok(None) => break,
            Ok(Some(Err(error))) => {
                if caller_left(&error) {
                    record.caller_left();
                }
                return Err(invalid("The body broke off or was not framed as announced."));
            }
            Ok(Some(Ok(frame))) => frame,
        };
        if let Ok(data) = frame.into_data() {
            if charge.bytes + data.len() as u64 > limit {
                return Err(too_large());
            }
            let strides = charge.bytes / STRIDE;
            charge.add(data.len() as u64, settings.config.listen.max_buffered_bytes)?;
            gathered.add(data);
            if charge.bytes / STRIDE > strides {
                give_up_turn().await;
            }
        }
    }
    let (bytes, charge) = if charge.bytes < LARGE as u64 {
        (gathered.join(), charge)
    } else {
        // What it is charged goes along: the memory is taken until then, even when the caller leaves.
        spawn_blocking(move || (gathered.join(), charge)).await.map_err(|_| LOST)?
    };
    Ok(Buffered { bytes, arrived_at: Instant::now(), charge })
}

/// From this length on a body is put together and read on another thread, since the worker's other
/// callers would wait: to copy 16 MiB into fresh memory takes 10 ms, and the worst that can be
/// written into them a quarter of a second to read.
const LARGE: usize = 1024 * 1024;

/// The other thread is gone.
const LOST: Refusal = Refusal::Overloaded("The request could not be read. Try again.");

/// Check 7, second half: the body is JSON that every reader reads alike.
///
/// # Errors
///
/// `invalid_body`; `overloaded` when the reading was lost.
pub async fn parse(endpoint: Endpoint, body: Buffered) -> Result<(Buffered, Request), Refusal> {
    let small = body.bytes.len() < LARGE;
    let read = move || json_body::read(endpoint, &body.bytes).map(|request| (body, request));
    if small { read() } else { spawn_blocking(read).await.unwrap_or(Err(LOST)) }
}

/// True when nobody is there any more to hear an answer. On HTTP/1.1 that is the end of the
/// connection within the body; on HTTP/2 any error of a body is the end of its stream.
fn caller_left(error: &hyper::Error) -> bool {
    match error.source().and_then(|source| source.downcast_ref::<io::Error>()) {
        Some(cause) => matches!(cause.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset),
        None => true,
    }
}

/// The pieces of a body, as they come.
#[derive(Default)]
struct Gathered {
    pieces: Vec<Bytes>,
    /// Small pieces in a row, behind `pieces`: each would cost memory of its own, many times what
    /// it is charged for.
    small: BytesMut,
}

impl Gathered {
    /// Pieces from this length on are kept as they are.
    const LARGE: usize = 4096;

    fn add(&mut self, piece: Bytes) {
        // Most bodies come in one piece, which is not copied.
        if self.pieces.is_empty() || piece.len() >= Self::LARGE {
            self.close_small();
            self.pieces.push(piece);
        } else {
            self.small.extend_from_slice(&piece);
        }
    }

    fn close_small(&mut self) {
        if !self.small.is_empty() {
            self.pieces.push(mem::take(&mut self.small).freeze());
        }
    }

    /// One piece of what came in many.
    fn join(mut self) -> Bytes {
        self.close_small();
        if self.pieces.len() <= 1 {
            return self.pieces.pop().unwrap_or_default();
        }
        let mut whole = BytesMut::with_capacity(self.pieces.iter().map(Bytes::len).sum());
        for piece in self.pieces {
            whole.extend_from_slice(&piece);
        }
        whole.freeze()
    }
}

impl Buffered {
    /// How many bytes the caller sent.
    #[must_use]
    pub const fn length(&self) -> u64 {
        self.charge.bytes
    }
}

#[derive(Debug)]
struct Charge {
    /// What is buffered in all.
    all: Arc<AtomicU64>,
    bytes: u64,
}

impl Charge {
    fn add(&mut self, bytes: u64, limit: u64) -> Result<(), Refusal> {
        self.bytes += bytes;
        let all = self.all.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if all > limit { Err(Refusal::Overloaded("Too many large requests at once. Try again.")) } else { Ok(()) }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.all.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

fn invalid(why: &str) -> Refusal {
    Refusal::InvalidBody(why.to_owned())
}

/// Ollama reads JSON whatever the type says (curl -d sends a form's); the others insist, and so do
/// we: what a backend would read as something else must not pass as JSON here.
fn check_type(endpoint: Endpoint, headers: &HeaderMap) -> Result<(), Refusal> {
    if headers.get_all(CONTENT_ENCODING).iter().any(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity")) {
        return Err(Refusal::UnsupportedMediaType("Send the body without Content-Encoding."));
    }
    let mut types = headers.get_all(CONTENT_TYPE).iter();
    let is_json = matches!((types.next(), types.next()), (Some(only), None) if is_json(only.as_bytes()));
    match endpoint.dialect() {
        Dialect::OpenAi | Dialect::Anthropic if !is_json => {
            Err(Refusal::UnsupportedMediaType("Send the body as Content-Type: application/json."))
        }
        Dialect::OpenAi | Dialect::Anthropic | Dialect::Ollama => Ok(()),
    }
}

fn is_json(value: &[u8]) -> bool {
    let media_type = value.split(|&b| b == b';').next().unwrap_or_default();
    media_type.trim_ascii().eq_ignore_ascii_case(b"application/json")
}

/// True unless hyper passes a framing that another reader might take differently.
#[must_use]
pub fn is_plainly_framed(headers: &HeaderMap) -> bool {
    let chunked = |value: &[u8]| value.eq_ignore_ascii_case(b"chunked");
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let coding_is_plain = match (codings.next(), codings.next()) {
        (None, _) => true,
        (Some(only), None) => chunked(only.as_bytes()),
        (Some(_), Some(_)) => false,
    };
    let length_is_plain = headers.get_all(CONTENT_LENGTH).iter().all(|length| {
        let digits = length.as_bytes();
        digits == b"0" || (digits.first().is_some_and(|b| *b != b'0') && digits.iter().all(u8::is_ascii_digit))
    });
    coding_is_plain && length_is_plain
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use http::HeaderValue;

    use super::*;

    #[track_caller]
    fn check_headers(pairs: &[(http::HeaderName, &str)], endpoint: Endpoint, expected: &str) {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(name, HeaderValue::from_str(value).unwrap());
        }
        let result = check_type(endpoint, &headers);
        assert_eq!(result.map_or_else(|refusal| refusal.code().as_str(), |()| "ok"), expected, "{pairs:?}");
    }

    #[test]
    fn types_and_codings() {
        let chat = Endpoint::OpenAiChatCompletions;
        check_headers(&[(CONTENT_TYPE, "application/json")], chat, "ok");
        check_headers(&[(CONTENT_TYPE, "Application/JSON; charset=utf-8")], chat, "ok");
        check_headers(&[], chat, "unsupported_media_type");
        check_headers(&[], Endpoint::OllamaChat, "ok");
        check_headers(&[(CONTENT_TYPE, "application/x-www-form-urlencoded")], Endpoint::OllamaChat, "ok");
        check_headers(
            &[(CONTENT_TYPE, "application/x-www-form-urlencoded")],
            Endpoint::AnthropicMessages,
            "unsupported_media_type",
        );
        check_headers(
            &[(CONTENT_TYPE, "application/json"), (CONTENT_TYPE, "text/plain")],
            chat,
            "unsupported_media_type",
        );
        check_headers(
            &[(CONTENT_TYPE, "application/json"), (CONTENT_ENCODING, "gzip")],
            chat,
            "unsupported_media_type",
        );
        check_headers(&[(CONTENT_TYPE, "application/json"), (CONTENT_ENCODING, "identity")], chat, "ok");
    }

    #[test]
    fn a_body_in_crumbs_costs_what_it_weighs() {
        let mut gathered = Gathered::default();
        let mut whole = Vec::new();
        for n in 0..200_000u32 {
            let byte = u8::try_from(n % 251).unwrap();
            let length = if n % 50_000 == 49_999 { Gathered::LARGE } else { 1 };
            whole.extend(std::iter::repeat_n(byte, length));
            gathered.add(Bytes::from(vec![byte; length]));
        }
        assert!(gathered.pieces.len() <= 10, "{}", gathered.pieces.len());
        assert!(gathered.join() == whole);
    }

    /// A caller who leaves while its body is read on another thread gives back nothing that is still taken.
    #[test]
    fn a_body_counts_as_long_as_it_is_held() {
        let runtime = tokio::runtime::Builder::new_current_thread().max_blocking_threads(1).build().unwrap();
        let all = Arc::new(AtomicU64::new(0));
        runtime.block_on(async {
            let (free, busy) = std::sync::mpsc::channel::<()>();
            let busy = spawn_blocking(move || busy.recv().is_err());
            let bytes = Bytes::from(vec![b' '; LARGE]);
            let mut charge = Charge { all: Arc::clone(&all), bytes: 0 };
            charge.add(LARGE as u64, u64::MAX).unwrap();
            let body = Buffered { bytes, arrived_at: Instant::now(), charge };
            assert!(parse(Endpoint::OpenAiChatCompletions, body).now_or_never().is_none());
            assert_eq!(all.load(Ordering::Relaxed), LARGE as u64);
            drop(free);
            assert!(busy.await.unwrap());
            spawn_blocking(|| ()).await.unwrap();
            assert_eq!(all.load(Ordering::Relaxed), 0);
        });
    }

    #[test]
    fn framing() {
        for (pairs, plain) in [
            (&[(TRANSFER_ENCODING, "chunked")] as &[_], true),
            (&[(TRANSFER_ENCODING, "gzip, chunked")], false),
            (&[(TRANSFER_ENCODING, "chunked"), (TRANSFER_ENCODING, "chunked")], false),
            (&[(CONTENT_LENGTH, "003")], false),
            (&[(CONTENT_LENGTH, "0")], true),
            (&[(CONTENT_LENGTH, "30")], true),
            (&[], true),
        ] {
            let headers = pairs.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))).collect();
            assert_eq!(is_plainly_framed(&headers), plain, "{pairs:?}");
        }
    }
}

//! Chunked transfer coding (RFC 9112, section 7.1), decoded strictly and as it comes.
//!
//! Invariant: pure; what comes out depends on the bytes and not on how they were cut. Whatever is
//! not exactly the grammar is a fault: a coding that is read leniently is one that two readers
//! read differently.

use bytes::{Buf, Bytes, BytesMut};

/// Longest line of a chunk's size with its extensions, or of a trailer, in bytes.
const MAX_LINE: usize = 1024;
/// All trailers together, in bytes.
const MAX_TRAILERS: usize = 16 * 1024;

/// Where in the coding the reader is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Decoder {
    state: State,
    trailer_bytes: usize,
    /// Each line of the trailers, without its end.
    trailers: Vec<Bytes>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Size,
    Data(u64),
    DataEnd,
    Trailers,
    Done,
}

/// The bytes are not the chunked coding.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the chunked coding is broken")]
pub struct Broken;

impl Default for Decoder {
    fn default() -> Self {
        Self { state: State::Size, trailer_bytes: 0, trailers: Vec::new() }
    }
}

impl Decoder {
    /// Takes what it can from `buffer` and gives the data in it: several small chunks as one
    /// piece, since each piece costs the caller's side a write of its own. `None`: more is needed,
    /// or all is done.
    ///
    /// # Errors
    ///
    /// When the bytes are not the coding.
    pub fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Bytes>, Broken> {
        let mut first: Option<Bytes> = None;
        let mut joined: Option<BytesMut> = None;
        while let Some(data) = self.next_data(buffer)? {
            match (&mut joined, first.take()) {
                (Some(joined), _) => joined.extend_from_slice(&data),
                (None, None) => first = Some(data),
                (None, Some(before)) => {
                    let mut both = BytesMut::with_capacity(before.len() + data.len() + buffer.len());
                    both.extend_from_slice(&before);
                    both.extend_from_slice(&data);
                    joined = Some(both);
                }
            }
        }
        Ok(joined.map(BytesMut::freeze).or(first))
    }

    /// The trailers read so far, as name and value. What is no field is left out.
    pub fn trailers(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.trailers.iter().filter_map(|line| {
            let (name, value) = line.split_at(memchr::memchr(b':', line)?);
            Some((name, value.get(1..).unwrap_or_default().trim_ascii()))
        })
    }

    /// True once the last chunk and the trailers were read.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// The data of the chunk at hand, as far as it is there.
    fn next_data(&mut self, buffer: &mut BytesMut) -> Result<Option<Bytes>, Broken> {
        loop {
            match self.state {
                State::Size => {
                    let Some(line) = take_line(buffer)? else { return Ok(None) };
                    self.state = match chunk_size(&line)? {
                        0 => State::Trailers,
                        size => State::Data(size),
                    };
                }
                State::Data(left) => {
                    if buffer.is_empty() {
                        return Ok(None);
                    }
                    let length = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
                    let data = buffer.split_to(length).freeze();
                    let left = left - length as u64;
                    self.state = if left == 0 { State::DataEnd } else { State::Data(left) };
                    return Ok(Some(data));
                }
                State::DataEnd => {
                    if buffer.len() < 2 {
                        // A wrong first byte is seen at once, so that nobody waits for a second.
                        return if matches!(buffer.first(), None | Some(b'\r')) { Ok(None) } else { Err(Broken) };
                    }
                    if !buffer.starts_with(b"\r\n") {
                        return Err(Broken);
                    }
                    buffer.advance(2);
                    self.state = State::Size;
                }
                State::Trailers => {
                    let Some(line) = take_line(buffer)? else { return Ok(None) };
                    self.trailer_bytes += line.len();
                    if line.is_empty() {
                        self.state = State::Done;
                    } else if self.trailer_bytes > MAX_TRAILERS {
                        return Err(Broken);
                    } else {
                        self.trailers.push(line.freeze());
                    }
                }
                State::Done => return Ok(None),
            }
        }
    }
}

/// A line without its CRLF, once it is whole. It holds no control character but tabs.
fn take_line(buffer: &mut BytesMut) -> Result<Option<BytesMut>, Broken> {
    let Some(end) = memchr::memchr(b'\n', buffer) else {
        return if buffer.len() > MAX_LINE { Err(Broken) } else { Ok(None) };
    };
    if end > MAX_LINE {
        return Err(Broken);
    }
    let mut line = buffer.split_to(end + 1);
    line.truncate(end);
    if line.last() != Some(&b'\r') {
        return Err(Broken);
    }
    line.truncate(end - 1);
    // A lone CR among them is the end of a line to some readers.
    if line.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t') {
        return Err(Broken);
    }
    Ok(Some(line))
}

/// The number before the extensions. Extensions are allowed and mean nothing to anybody.
fn chunk_size(line: &[u8]) -> Result<u64, Broken> {
    let end = line.iter().position(|byte| !byte.is_ascii_hexdigit()).unwrap_or(line.len());
    let (digits, rest) = line.split_at(end);
    // 15 digits are more than any reply has, and never overflow.
    if digits.is_empty() || digits.len() > 15 || !matches!(rest.trim_ascii_start().first(), None | Some(b';')) {
        return Err(Broken);
    }
    let digit = |byte: u8| char::from(byte).to_digit(16).map_or(0, u64::from);
    Ok(digits.iter().fold(0, |size, byte| size * 16 + digit(*byte)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// All data that comes out when `bytes` go in, cut after `cut` bytes.
    fn decode(bytes: &[u8], cut: usize) -> Result<(Vec<u8>, bool, usize), Broken> {
        let (mut decoder, mut data, mut buffer) = (Decoder::default(), Vec::new(), BytesMut::new());
        let (head, tail) = bytes.split_at(cut.min(bytes.len()));
        for part in [head, tail] {
            buffer.extend_from_slice(part);
            while let Some(piece) = decoder.decode(&mut buffer)? {
                data.extend_from_slice(&piece);
            }
        }
        Ok((data, decoder.is_done(), buffer.len()))
    }

    #[test]
    fn reads_the_grammar_and_nothing_else() {
        let check = |bytes: &str, expected: Result<&str, Broken>| {
            for cut in 0..=bytes.len() {
                let got = decode(bytes.as_bytes(), cut).map(|(data, ..)| String::from_utf8(data).unwrap());
                assert_eq!(got.as_deref().map_err(|e| *e), expected, "{bytes:?} cut at {cut}");
            }
        };
        check("5\r\nhello\r\n0\r\n\r\n", Ok("hello"));
        check("2\r\nhe\r\n3\r\nllo\r\n0\r\nX: y\r\n\r\n", Ok("hello"));
        check("A;name=value\r\n0123456789\r\n0\r\n\r\n", Ok("0123456789"));
        check("5 \t;x\r\nhello\r\n0\r\n\r\n", Ok("hello"));
        check("5\r\nhel", Ok("hel"));
        check("5\nhello\r\n0\r\n\r\n", Err(Broken));
        check("5\r\nhelloX\r\n", Err(Broken));
        check("+5\r\nhello\r\n", Err(Broken));
        check("0x5\r\nhello\r\n", Err(Broken));
        check(" 5\r\nhello\r\n", Err(Broken));
        check("-1\r\n", Err(Broken));
        check("\r\n", Err(Broken));
        check("g\r\n", Err(Broken));
        check("ffffffffffffffff1\r\n", Err(Broken));
        check("5 x\r\nhello\r\n", Err(Broken));
        check("5\r\r\nhello\r\n", Err(Broken));
        check("5;a\rb\r\nhello\r\n", Err(Broken));
        check("5\x0c\r\nhello\r\n", Err(Broken));
        check("0\r\nX: a\rY: b\r\n\r\n", Err(Broken));
    }

    #[test]
    fn bounds_lines_and_trailers() {
        assert_eq!(decode(&[b'1'; 2000], 0), Err(Broken));
        let long = format!("5;{}\r\n", "x".repeat(2000));
        assert_eq!(decode(long.as_bytes(), 0), Err(Broken));
        let trailers = format!("0\r\n{}", "X: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n".repeat(1000));
        assert_eq!(decode(trailers.as_bytes(), 0), Err(Broken));
    }

    #[test]
    fn trailers_are_kept() {
        let (mut decoder, mut buffer) =
            (Decoder::default(), BytesMut::from("0\r\nX-A: 1 \r\nnot a field\r\nB:\r\n\r\n"));
        assert_eq!(decoder.decode(&mut buffer), Ok(None));
        let trailers: Vec<_> = decoder.trailers().collect();
        assert_eq!(trailers, [(&b"X-A"[..], &b"1"[..]), (b"B", b"")]);
    }

    #[test]
    fn bytes_behind_the_end_are_left() {
        assert_eq!(decode(b"0\r\n\r\nHTTP/1.1", 3), Ok((Vec::new(), true, 8)));
    }

    proptest! {
        /// Whatever was encoded comes back, however it is cut.
        #[test]
        fn decodes_what_was_encoded(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..8), cut in 0usize..400) {
            let mut encoded = Vec::new();
            for chunk in &chunks {
                encoded.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                encoded.extend_from_slice(chunk);
                encoded.extend_from_slice(b"\r\n");
            }
            encoded.extend_from_slice(b"0\r\n\r\n");
            prop_assert_eq!(decode(&encoded, cut), Ok((chunks.concat(), true, 0)));
        }

        /// No bytes make it panic.
        #[test]
        fn survives_anything(bytes in prop::collection::vec(any::<u8>(), 0..300), cut in 0usize..300) {
            let _ = decode(&bytes, cut).is_ok();
        }
    }
}

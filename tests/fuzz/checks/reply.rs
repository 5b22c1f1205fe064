//! A backend's reply: how it was cut changes nothing, and a body ends where another reader sees its end.

use bytes::{Bytes, BytesMut};
use doorward::backend::chunked::{Broken, Decoder};
use doorward::backend::reply::{Framing, Head, HeadFault, take_head};

/// How it is cut, and the reply.
pub(super) fn check(input: &[u8]) {
    let Some((cut, bytes)) = input.split_first() else { return };
    let cut = usize::from(*cut).max(1);
    let (whole, rest) = head(bytes, bytes.len());
    assert_eq!(shown(&whole), shown(&head(bytes, cut).0));
    let Ok(Some(head)) = whole else { return };
    let all = |name| head.fields.all(name).collect::<Vec<_>>();
    let (lengths, codings) = (all("content-length"), all("transfer-encoding"));
    let without_body = [101, 204, 304].contains(&head.status.as_u16());
    assert!(!head.status.is_informational() || head.status.as_u16() == 101);
    match &head.framing {
        _ if without_body => assert_eq!(head.framing, Framing::Length(0)),
        Framing::Length(length) => {
            assert!(codings.is_empty());
            let number = |text: &&[u8]| std::str::from_utf8(text).ok().and_then(|text| text.parse::<u64>().ok());
            assert_eq!(lengths.iter().map(number).collect::<Vec<_>>(), [Some(*length)]);
        }
        Framing::Chunked(_) => {
            assert!(lengths.is_empty() && codings.len() == 1 && codings[0].eq_ignore_ascii_case(b"chunked"));
            chunks(&rest, cut);
        }
        Framing::UntilClose => assert!(lengths.is_empty() && codings.is_empty() && !head.keep_alive),
    }
    let close = all("connection").concat().eq_ignore_ascii_case(b"close");
    assert!(!(close && head.keep_alive));
}

fn shown(head: &Result<Option<Head>, HeadFault>) -> String {
    match head {
        Ok(Some(Head { status, fields, framing, keep_alive })) => {
            format!("{status} {:?} {framing:?} {keep_alive}", fields.iter().collect::<Vec<_>>())
        }
        Ok(None) => "more".to_owned(),
        Err(fault) => fault.to_string(),
    }
}

fn head(bytes: &[u8], cut: usize) -> (Result<Option<Head>, HeadFault>, Vec<u8>) {
    let mut buffer = BytesMut::new();
    let mut chunks = bytes.chunks(cut.max(1));
    while let Some(chunk) = chunks.next() {
        buffer.extend_from_slice(chunk);
        let taken = take_head(&mut buffer);
        if !matches!(taken, Ok(None)) {
            return (taken, chunks.fold(buffer.to_vec(), |rest, chunk| [&rest, chunk].concat()));
        }
    }
    (Ok(None), buffer.to_vec())
}

fn chunks(bytes: &[u8], cut: usize) {
    let whole = decoded(bytes, bytes.len());
    assert_eq!(decoded(bytes, cut), whole);
    assert_eq!(decoded(bytes, 1), whole);
    if let Ok((data, true)) = whole {
        assert_eq!(otherwise_decoded(bytes), Some(data), "another reader sees another body");
    }
}

/// The data, and whether that is all.
fn decoded(bytes: &[u8], cut: usize) -> Result<(Vec<u8>, bool), Broken> {
    let (mut decoder, mut buffer, mut data) = (Decoder::default(), BytesMut::new(), Vec::new());
    for chunk in bytes.chunks(cut.max(1)) {
        buffer.extend_from_slice(chunk);
        while let Some(piece) = decoder.decode(&mut buffer)? {
            assert_ne!(piece, Bytes::new());
            data.extend_from_slice(&piece);
        }
    }
    Ok((data, decoder.is_done()))
}

/// As hyper's own parser has it.
fn otherwise_decoded(mut bytes: &[u8]) -> Option<Vec<u8>> {
    let mut data = Vec::new();
    loop {
        let Ok(httparse::Status::Complete((line, size))) = httparse::parse_chunk_size(bytes) else { return None };
        bytes = bytes.get(line..)?;
        if size == 0 {
            return Some(data);
        }
        let (chunk, rest) = bytes.split_at_checked(usize::try_from(size).ok()?)?;
        data.extend_from_slice(chunk);
        bytes = rest.strip_prefix(b"\r\n")?;
    }
}

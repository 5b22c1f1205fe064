//! How a reply was cut into chunks changes nothing, and without an alias no byte changes.

use std::collections::VecDeque;

use bytes::Bytes;
use doorward::dialect::relay::{Mode, Rewriter};
use doorward::domain::endpoint::Endpoint;

/// How to read it, whose reply it is, how it was cut, and the reply.
pub(super) fn check(input: &[u8]) {
    let Some(([mode, endpoint, cuts @ ..], reply)) = input.split_first_chunk::<6>() else { return };
    let mode = [Mode::Sse, Mode::Ndjson, Mode::Json, Mode::Opaque][usize::from(*mode) % 4];
    let endpoint = Endpoint::ALL[usize::from(*endpoint) % Endpoint::ALL.len()];
    let rewriter = |alias| Rewriter::new(mode, alias, Some(endpoint));
    let whole = run(rewriter(Some("alias")), reply, &[]);
    assert_eq!(run(rewriter(Some("alias")), reply, cuts), whole);
    assert_eq!(run(rewriter(Some("alias")), reply, &[1]), whole);
    let untouched = run(rewriter(None), reply, cuts);
    assert_eq!(untouched.0, reply);
    assert_eq!((untouched.1, untouched.2), (whole.1, whole.2));
}

fn run(mut rewriter: Rewriter, reply: &[u8], cuts: &[u8]) -> (Vec<u8>, bool, bool) {
    let mut out = VecDeque::new();
    let mut rest = reply;
    let mut cuts = cuts.iter().cycle();
    while !rest.is_empty() {
        let length = cuts.next().map_or(rest.len(), |cut| usize::from(*cut).clamp(1, rest.len()));
        let (chunk, tail) = rest.split_at(length);
        rewriter.push(Bytes::copy_from_slice(chunk), &mut out);
        rest = tail;
    }
    rewriter.finish(&mut out);
    assert!(out.iter().all(|piece| !piece.is_empty()));
    (Vec::from(out).concat(), rewriter.saw_event(), rewriter.saw_terminator())
}

//! The control stream of a tunnel: how it was cut changes nothing, what is read can be written, and
//! what is said of the rest begins no line of its own in a log.

use doorward::overlay::protocol::lines::Lines;
use doorward::overlay::protocol::{Fault, FromConnector, FromGateway, MAX_OBJECT, Message, decode, encode};

pub(super) fn check(input: &[u8]) {
    let Some((cut, bytes)) = input.split_first() else { return };
    let whole = lines(bytes, bytes.len());
    assert_eq!(lines(bytes, usize::from(*cut)), whole);
    for line in &whole.0 {
        read::<FromConnector>(line);
        read::<FromGateway>(line);
    }
}

fn lines(bytes: &[u8], cut: usize) -> (Vec<Vec<u8>>, Option<Fault>) {
    let (mut lines, mut found) = (Lines::default(), Vec::new());
    for chunk in bytes.chunks(cut.max(1)) {
        lines.push(chunk);
        loop {
            match lines.next_line() {
                Ok(Some(line)) => found.push(line.to_vec()),
                Ok(None) => break,
                Err(fault) => return (found, Some(fault)),
            }
        }
    }
    (found, None)
}

fn read<M: Message + PartialEq + std::fmt::Debug>(line: &[u8]) {
    match decode::<M>(line) {
        Ok(Some(message)) => match encode(&message) {
            Ok(written) => assert_eq!(decode::<M>(&written[..written.len() - 1]), Ok(Some(message))),
            // Escapes may be spelled out, so it can grow beyond what an object may be.
            Err(fault) => assert!(fault == Fault::TooLong && line.len() > MAX_OBJECT / 8),
        },
        Ok(None) => {}
        Err(fault) => assert!(!fault.to_string().chars().any(char::is_control), "{fault:?}"),
    }
}

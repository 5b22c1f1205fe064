//! However a PROXY header comes in pieces, the same is read of it, and nothing behind it is taken.

use doorward::domain::proxy_header::{Announced, Fault, MAX_BYTES, ProxyHeader};

/// Whether it begins as it should, how it is split, and what a connection begins with.
pub(super) fn check(input: &[u8]) {
    let Some(([signed, piece], bytes)) = input.split_first_chunk() else { return };
    let bytes = if signed % 2 == 1 { [&b"\r\n\r\n\0\r\nQUIT\n"[..], bytes].concat() } else { bytes.to_vec() };
    let (result, taken) = feed(&bytes, usize::from(*piece));
    assert!(taken <= MAX_BYTES && taken <= bytes.len());
    assert_eq!(feed(&bytes, 1).0, result);
    match result {
        Ok(Some(Announced::Caller { address, reached })) => {
            assert!(!address.is_unspecified() && !address.is_multicast());
            assert!(address.to_canonical() == address && reached.ip().to_canonical() == reached.ip());
            // Its length is what it says.
            assert_eq!(taken, 16 + usize::from(u16::from_be_bytes([bytes[14], bytes[15]])));
        }
        Ok(Some(Announced::Probe)) => assert_eq!(bytes[12], 0x20),
        Ok(None) => assert_eq!(taken, bytes.len()),
        Err(_) => {}
    }
}

fn feed(bytes: &[u8], piece: usize) -> (Result<Option<Announced>, Fault>, usize) {
    let mut header = ProxyHeader::default();
    let mut at = 0;
    while at < bytes.len() {
        let end = bytes.len().min(at + piece.clamp(1, header.missing()));
        let result = header.take(&bytes[at..end]);
        at = end;
        if !matches!(result, Ok(None)) {
            return (result, at);
        }
    }
    (Ok(None), at)
}

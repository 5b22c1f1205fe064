use proptest::prelude::*;

use super::*;

/// A header as the specification writes it.
fn header(version_command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
    [&SIGNATURE[..], &[version_command, family], &length, rest].concat()
}

fn tcp(source: SocketAddr, destination: SocketAddr, tlvs: &[u8]) -> Vec<u8> {
    let ports = [source.port().to_be_bytes(), destination.port().to_be_bytes()].concat();
    let (family, addresses) = match (source.ip(), destination.ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => (0x11, [source.octets(), destination.octets()].concat()),
        (IpAddr::V6(source), IpAddr::V6(destination)) => (0x21, [source.octets(), destination.octets()].concat()),
        _ => panic!("two families"),
    };
    header(0x21, family, &[&addresses[..], &ports, tlvs].concat())
}

/// Feeds `bytes` in pieces of at most these sizes, never more than is asked for. Gives what came of
/// it and how many bytes were taken.
fn feed(bytes: &[u8], sizes: &[usize]) -> (Result<Option<Announced>, Fault>, usize) {
    let mut header = ProxyHeader::default();
    let (mut at, mut sizes) = (0usize, sizes.iter().copied().cycle());
    loop {
        let size = sizes.next().unwrap_or(usize::MAX).clamp(1, header.missing());
        let piece = &bytes[at..bytes.len().min(at.saturating_add(size))];
        if piece.is_empty() {
            return (Ok(None), at);
        }
        at += piece.len();
        match header.take(piece) {
            Ok(None) => {}
            over => return (over, at),
        }
    }
}

fn whole(bytes: &[u8]) -> Result<Option<Announced>, Fault> {
    feed(bytes, &[]).0
}

#[test]
fn reads_what_the_specification_shows() {
    let caller = |source: &str, destination: &str, address: &str, reached: &str| {
        let bytes = tcp(source.parse().unwrap(), destination.parse().unwrap(), b"");
        let expected = Announced::Caller { address: address.parse().unwrap(), reached: reached.parse().unwrap() };
        assert_eq!(whole(&bytes), Ok(Some(expected)), "{source}");
    };
    caller("192.0.2.7:40000", "198.51.100.1:443", "192.0.2.7", "198.51.100.1:443");
    caller("[2001:db8::7]:40000", "[2001:db8::1]:443", "2001:db8::7", "[2001:db8::1]:443");
    caller("[::ffff:192.0.2.7]:1", "[::ffff:198.51.100.1]:443", "192.0.2.7", "198.51.100.1:443");
    // A proxy's own connection, with and without what it may say beside.
    for (family, rest) in [(0, &b""[..]), (0x11, &[0; 12]), (0x31, &[7; 300])] {
        assert_eq!(whole(&header(0x20, family, rest)), Ok(Some(Announced::Probe)));
    }
}

#[test]
fn refuses_what_names_no_caller_in_tcp() {
    let tcp4 = [192, 0, 2, 7, 198, 51, 100, 1, 0, 1, 1, 187];
    let check = |bytes: &[u8], fault| assert_eq!(whole(bytes), Err(fault), "{bytes:?}");
    check(b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 443\r\n", Fault::NotAHeader);
    check(&[0x16, 3, 1, 2, 0, 1], Fault::NotAHeader);
    check(b"\r\n\r\n\0\r\nQUIT\r", Fault::NotAHeader);
    check(&header(0x11, 0x11, &tcp4), Fault::NotAHeader);
    check(&header(0x31, 0x11, &tcp4), Fault::NotAHeader);
    check(&header(0x22, 0x11, &tcp4), Fault::Command);
    check(&header(0x2f, 0x11, &tcp4), Fault::Command);
    // Unspecified, UDP, Unix, and families that do not exist.
    for family in [0x00, 0x01, 0x10, 0x12, 0x13, 0x20, 0x22, 0x30, 0x31, 0x32, 0x41, 0xff] {
        check(&header(0x21, family, &[1; 216]), Fault::Family);
    }
    check(&header(0x21, 0x11, &tcp4[..11]), Fault::TooShort);
    check(&header(0x21, 0x21, &[1; 35]), Fault::TooShort);
    check(&header(0x21, 0x11, &vec![1; MAX_BYTES]), Fault::TooLong);
    check(&header(0x20, 0x00, &vec![1; MAX_BYTES]), Fault::TooLong);
    for address in ["0.0.0.0:1", "224.0.0.1:1"] {
        check(&tcp(address.parse().unwrap(), "198.51.100.1:443".parse().unwrap(), b""), Fault::Address);
    }
    for address in ["[::]:1", "[::ffff:0.0.0.0]:1", "[ff02::1]:1"] {
        check(&tcp(address.parse().unwrap(), "[2001:db8::1]:443".parse().unwrap(), b""), Fault::Address);
    }
}

/// A wrong byte is noticed when it comes: nobody is waited for that is not a proxy.
#[test]
fn what_is_no_header_is_known_at_once() {
    for at in 0..FIXED - 3 {
        let mut bytes = header(0x21, 0x11, &[1; 12]);
        bytes[at] ^= 0x40;
        let (result, taken) = feed(&bytes, &[1]);
        assert_eq!((result, taken), (Err(Fault::NotAHeader), at + 1));
    }
}

proptest! {
    /// However the bytes arrive, the same is read, and not one byte of what follows is taken.
    #[test]
    fn any_split_reads_the_same(
        v6: bool, source: ([u8; 16], u16), destination: ([u8; 16], u16),
        tlvs in prop::collection::vec(any::<u8>(), 0..1000),
        behind in prop::collection::vec(any::<u8>(), 0..50),
        sizes in prop::collection::vec(1usize..700, 1..20),
    ) {
        let address = |(bytes, port): ([u8; 16], u16)| {
            let [a, b, c, d, ..] = bytes;
            let ip = if v6 { IpAddr::from(bytes) } else { IpAddr::from([a, b, c, d]) };
            SocketAddr::new(ip, port)
        };
        let (source, destination) = (address(source), address(destination));
        let bytes = tcp(source, destination, &tlvs);
        let expected = match source.ip().to_canonical() {
            ip if ip.is_unspecified() || ip.is_multicast() => Err(Fault::Address),
            ip => Ok(Some(Announced::Caller {
                address: ip,
                reached: SocketAddr::new(destination.ip().to_canonical(), destination.port()),
            })),
        };
        let followed = [&bytes[..], &behind].concat();
        prop_assert_eq!(feed(&followed, &sizes), (expected, bytes.len()));
        prop_assert_eq!(feed(&followed, &[usize::MAX]), (expected, bytes.len()));
        // A part of it says nothing yet.
        prop_assert_eq!(feed(&bytes[..bytes.len() - 1], &sizes).0, Ok(None));
    }

    /// No bytes panic, nothing is taken beyond the bound, and a fault is the same in every split.
    #[test]
    fn any_bytes_are_bounded(
        signed: bool,
        bytes in prop::collection::vec(any::<u8>(), 0..6000),
        sizes in prop::collection::vec(1usize..700, 1..20),
    ) {
        let bytes = if signed { [&SIGNATURE[..], &bytes].concat() } else { bytes };
        let (result, taken) = feed(&bytes, &sizes);
        prop_assert!(taken <= MAX_BYTES);
        prop_assert_eq!(feed(&bytes, &[1]).0, result);
        if result.is_err() {
            prop_assert!(whole(&bytes).is_err());
        }
    }
}

//! The PROXY protocol, version 2: which caller a proxy in front says that a connection is from.
//! Source: "The PROXY protocol", section 2.2, of the HAProxy project.
//!
//! Invariant: a [`ProxyHeader`] never asks for a byte beyond the header, so that what follows (TLS)
//! stays in the socket; and it is bounded by [`MAX_BYTES`], whatever length the header claims.
//! Only what names a caller's address in TCP is taken: an address of another family would be
//! believed as much as an empty list admits everybody, so the rest is a [`Fault`].

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// What every header begins with.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family, length of the rest.
const FIXED: usize = 16;
/// Two addresses and two ports.
const TCP4: usize = 12;
const TCP6: usize = 36;

/// Longest header that is read. Proxies are asked to stay below 536 bytes; those that describe the
/// caller's own TLS session need more.
pub const MAX_BYTES: usize = 4096;

/// A header on its way in.
#[derive(Clone, Debug)]
pub struct ProxyHeader {
    /// The fixed part and the addresses. What may follow those (TLVs) is counted and not kept.
    kept: [u8; FIXED + TCP6],
    taken: usize,
    total: usize,
}

/// What a whole header says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Announced {
    /// The proxy passes a caller on.
    Caller {
        /// Where the caller comes from; never IPv4 in IPv6 clothes.
        address: IpAddr,
        /// What it connected to at the proxy; never IPv4 in IPv6 clothes.
        reached: SocketAddr,
    },
    /// The proxy itself connects, to see whether we are there.
    Probe,
}

/// Why a header is not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Fault {
    /// Something else than a PROXY header came.
    #[error("not a PROXY protocol version 2 header (version 1 is not taken: send-proxy-v2)")]
    NotAHeader,
    /// Neither LOCAL nor PROXY.
    #[error("a command other than LOCAL and PROXY")]
    Command,
    /// The caller came over UDP, a Unix socket, or an unknown protocol.
    #[error("a family other than TCP over IPv4 and IPv6")]
    Family,
    /// There is no room for the addresses.
    #[error("too short for its addresses")]
    TooShort,
    /// Longer than [`MAX_BYTES`].
    #[error("longer than {MAX_BYTES} bytes")]
    TooLong,
    /// No connection comes from such an address.
    #[error("the caller's address is none that a connection can come from")]
    Address,
}

impl Default for ProxyHeader {
    fn default() -> Self {
        Self { kept: [0; FIXED + TCP6], taken: 0, total: FIXED }
    }
}

impl ProxyHeader {
    /// How many bytes surely still belong to the header; 0 when it is whole. More may turn out to
    /// belong to it once these are taken.
    #[must_use]
    pub const fn missing(&self) -> usize {
        self.total - self.taken
    }

    /// True when nothing was taken yet.
    #[must_use]
    pub const fn is_untouched(&self) -> bool {
        self.taken == 0
    }

    /// Takes the next bytes: at most [`Self::missing`] of them; what is beyond is left out. Gives
    /// what the header says when it is whole.
    ///
    /// # Errors
    ///
    /// At the first byte that makes it none that is taken.
    pub fn take(&mut self, bytes: &[u8]) -> Result<Option<Announced>, Fault> {
        let bytes = bytes.get(..self.missing()).unwrap_or(bytes);
        let end = self.taken + bytes.len();
        if let Some(room) = self.kept.get_mut(self.taken..) {
            room.iter_mut().zip(bytes).for_each(|(room, byte)| *room = *byte);
        }
        self.taken = end;
        self.check()?;
        if self.missing() == 0 { self.read().map(Some) } else { Ok(None) }
    }

    /// Judges what is here by now, and learns the length as soon as it is known.
    fn check(&mut self) -> Result<(), Fault> {
        let [.., version_command, family, high, low] = self.fixed();
        let signed = self.kept.iter().zip(SIGNATURE).take(self.taken).all(|(found, wanted)| *found == wanted);
        if !signed || (self.taken > SIGNATURE.len() && version_command >> 4 != 2) {
            return Err(Fault::NotAHeader);
        }
        if self.taken > SIGNATURE.len() && version_command & 0xf > 1 {
            return Err(Fault::Command);
        }
        if self.taken < FIXED {
            return Ok(());
        }
        let length = usize::from(u16::from_be_bytes([high, low]));
        let needed = match (version_command & 0xf, family) {
            (0, _) => 0,
            (_, 0x11) => TCP4,
            (_, 0x21) => TCP6,
            (_, _) => return Err(Fault::Family),
        };
        if length < needed {
            return Err(Fault::TooShort);
        }
        if FIXED + length > MAX_BYTES {
            return Err(Fault::TooLong);
        }
        self.total = FIXED + length;
        Ok(())
    }

    fn read(&self) -> Result<Announced, Fault> {
        let [.., version_command, family, _, _] = self.fixed();
        if version_command & 0xf == 0 {
            return Ok(Announced::Probe);
        }
        let [address, reached] = if family == 0x11 {
            let ip = |at| IpAddr::V4(Ipv4Addr::from(self.array::<4>(at)));
            [(ip(0), 8), (ip(4), 10)]
        } else {
            // Canonical: a proxy that listens on both families says IPv4 in IPv6 clothes.
            let ip = |at| IpAddr::V6(Ipv6Addr::from(self.array::<16>(at))).to_canonical();
            [(ip(0), 32), (ip(16), 34)]
        }
        .map(|(ip, port)| SocketAddr::new(ip, u16::from_be_bytes(self.array(port))));
        let address = address.ip();
        if address.is_unspecified() || address.is_multicast() {
            return Err(Fault::Address);
        }
        Ok(Announced::Caller { address, reached })
    }

    fn fixed(&self) -> [u8; FIXED] {
        let mut fixed = [0; FIXED];
        fixed.iter_mut().zip(self.kept).for_each(|(room, byte)| *room = byte);
        fixed
    }

    /// The bytes of the addresses from `at` on.
    fn array<const N: usize>(&self, at: usize) -> [u8; N] {
        let mut array = [0; N];
        array.iter_mut().zip(self.kept.iter().skip(FIXED + at)).for_each(|(room, byte)| *room = *byte);
        array
    }
}

#[cfg(test)]
#[path = "proxy_header_tests.rs"]
mod tests;

//! Where a gateway is reached, and under which names it answers: two things that are never mixed.
//! A holder connects to an address and sends a name; it does not resolve the name.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

/// Where to connect to: a host (name or IP address) and a port.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct GatewayAddress {
    host: Box<str>,
    port: u16,
}

impl GatewayAddress {
    /// Reads `HOST:PORT`; an IPv6 address has brackets.
    ///
    /// # Errors
    ///
    /// When it is anything else; the message shows how it is written.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not HOST:PORT such as gw.corp.example:8443, 10.0.0.1:8443 or [::1]:8443");
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        // One spelling: no sign, no leading zero.
        let port: u16 = port.parse().ok().filter(|n: &u16| *n > 0 && n.to_string() == port).ok_or_else(wrong)?;
        let host = match host.strip_prefix('[') {
            Some(rest) => {
                let inner = rest.strip_suffix(']').ok_or_else(wrong)?;
                inner.parse::<Ipv6Addr>().map_err(|_| wrong())?.to_string()
            }
            None if host.contains(':') => return Err(wrong()),
            None => GatewayName::parse(host).map_err(|_| wrong())?.to_string(),
        };
        Ok(Self { host: host.into(), port })
    }

    /// The host: a name, or an IP address without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }
}

impl fmt::Display for GatewayAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// A name that the gateway's certificate carries: a host name in lower case, or an IP address. A
/// host name is sent as SNI; an address never is (RFC 6066, section 3).
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum GatewayName {
    /// A host name.
    Dns(HostName),
    /// An address.
    Ip(IpAddr),
}

impl GatewayName {
    /// Reads a host name in lower case, or an IP address without brackets.
    ///
    /// # Errors
    ///
    /// When it is neither.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(address) => Ok(Self::Ip(address)),
            Err(_) => HostName::parse(text).map(Self::Dns),
        }
    }
}

impl fmt::Display for GatewayName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns(name) => write!(f, "{name}"),
            Self::Ip(address) => write!(f, "{address}"),
        }
    }
}

/// True when readers of URLs, and resolvers, take a name for an IPv4 address: `0x7f.1` is 127.0.0.1
/// (WHATWG URL, "ends in a number").
pub(crate) fn ends_in_number(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or_default();
    let hexadecimal = last.strip_prefix("0x").or_else(|| last.strip_prefix("0X"));
    last.bytes().all(|b| b.is_ascii_digit())
        || hexadecimal.is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// A host name in lower case. `_` is let through, as container networks use it; a name that ends in
/// a number is not, as it is a mistyped address.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct HostName(Box<str>);

impl HostName {
    /// Reads a host name.
    ///
    /// # Errors
    ///
    /// When it is none, or not in lower case.
    pub fn parse(text: &str) -> Result<Self, String> {
        let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
        let label = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(inner)
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        if text.len() <= 253 && text.split('.').all(label) && !ends_in_number(text) {
            Ok(Self(text.into()))
        } else {
            Err(format!("{text:?} is not a host name in lower case such as gw.corp.example"))
        }
    }

    /// The name as written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_address_is_a_host_and_a_port() {
        for (text, host, port) in [
            ("gw.corp.example:8443", "gw.corp.example", 8443),
            ("localhost:1", "localhost", 1),
            ("10.0.0.1:65535", "10.0.0.1", 65535),
            ("[::1]:8443", "::1", 8443),
            ("gate_way:443", "gate_way", 443),
        ] {
            let address = GatewayAddress::parse(text).unwrap();
            assert_eq!((address.host(), address.port()), (host, port));
            assert_eq!(address.to_string(), text);
        }
        for wrong in [
            "",
            "gw.corp.example",
            "gw.corp.example:",
            "gw.corp.example:0",
            "gw.corp.example:08443",
            "gw.corp.example:+8443",
            "gw.corp.example:65536",
            "::1:8443",
            "[::1]",
            "[::1:8443",
            "[10.0.0.1]:8443",
            "[fe80::1%eth0]:8443",
            "https://gw.corp.example:8443",
            "gw.corp.example:8443/",
            "user@gw.corp.example:8443",
            "GW.corp.example:8443",
            "-gw:8443",
            "10.0.0.256:8443",
            "0x7f000001:8443",
            "gw.0x:8443",
            " gw:8443",
            "gw:8443\n",
            ":8443",
        ] {
            assert!(GatewayAddress::parse(wrong).unwrap_err().contains("HOST:PORT"), "{wrong:?}");
        }
    }

    proptest! {
        #[test]
        fn an_address_that_is_read_is_written_the_same(text in "[a-z0-9.:\\[\\]-]{1,30}:[0-9]{1,6}") {
            if let Ok(address) = GatewayAddress::parse(&text) {
                prop_assert_eq!(GatewayAddress::parse(&address.to_string()), Ok(address));
            }
        }
    }
}

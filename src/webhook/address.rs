//! Which addresses a webhook may be at, whatever its name resolves to.
//!
//! Invariant: a name that somebody points at this network's inside leads nowhere. Only addresses of
//! the public Internet, of this machine, and of networks that the config lists are connected to, and
//! the address that was looked at is the one that is connected to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::domain::network::Networks;
use crate::webhook::url::WebhookUrl;

/// Most addresses of one name that are tried.
const MAX_ADDRESSES: usize = 4;

/// Where connections to a webhook may lead.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reach {
    /// True when nothing is encrypted: then only this machine is reached.
    plain: bool,
    allow: Option<Networks>,
}

impl Reach {
    /// The reach of a URL, with the networks that the config lists beyond the public ones.
    #[must_use]
    pub const fn new(url: &WebhookUrl, allow: Option<Networks>) -> Self {
        Self { plain: !url.https, allow }
    }

    /// Says of an address whether it may be connected to.
    ///
    /// # Errors
    ///
    /// What kind of address it is.
    pub fn check(&self, address: IpAddr) -> Result<(), &'static str> {
        // In plain clothes only: to a translator an embedded one is its own, not this machine.
        if address.to_canonical().is_loopback() {
            return Ok(());
        }
        let address = embedded(address);
        if self.plain {
            return Err("not on this machine, and the URL is http");
        }
        // Systems connect to themselves there; that is what 127.0.0.1 is for.
        if address.is_unspecified() {
            return Err("no address");
        }
        match special(address) {
            None => Ok(()),
            Some(_) if self.allow.as_ref().is_some_and(|networks| networks.admit(address)) => Ok(()),
            Some(kind) => Err(kind),
        }
    }

    /// The addresses that may be connected to, of those that a name has; at most a few.
    ///
    /// # Errors
    ///
    /// The first address, and what kind it is, when none may be.
    pub fn filter(&self, found: &[IpAddr], port: u16) -> Result<Vec<SocketAddr>, (Option<IpAddr>, &'static str)> {
        let mut refused = (None, "has no address");
        let mut allowed = Vec::new();
        for &address in found {
            match self.check(address) {
                Ok(()) => allowed.push(SocketAddr::new(address, port)),
                Err(kind) if refused.0.is_none() => refused = (Some(address), kind),
                Err(_) => {}
            }
        }
        allowed.truncate(MAX_ADDRESSES);
        if allowed.is_empty() { Err(refused) } else { Ok(allowed) }
    }
}

/// The address that packets to `address` end at: IPv4 travels in several kinds of IPv6 clothes.
fn embedded(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address.to_canonical() else { return address.to_canonical() };
    let v4 = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        IpAddr::V4(Ipv4Addr::new(a, b, c, d))
    };
    match v6.segments() {
        // NAT64 (RFC 6052); addresses that are IPv4-compatible (RFC 4291, 2.5.5.1); 6to4 (RFC 3056).
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => v4(high, low),
        [0, 0, 0, 0, 0, 0, high, low] if high != 0 => v4(high, low),
        [0x2002, high, low, ..] => v4(high, low),
        _ => IpAddr::V6(v6),
    }
}

/// What is special about an address, if anything is (IANA's registries of special-purpose addresses).
fn special(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(v4) => special_v4(v4),
        IpAddr::V6(v6) => special_v6(v6),
    }
}

fn special_v4(address: Ipv4Addr) -> Option<&'static str> {
    match address.octets() {
        [169, 254, ..] => Some("link-local, where clouds keep their metadata"),
        [10, ..] | [192, 168, ..] => Some("private"),
        [172, b, ..] if (16..32).contains(&b) => Some("private"),
        [100, b, ..] if (64..128).contains(&b) => Some("of a carrier's inside (100.64.0.0/10)"),
        [127, ..] => Some("another machine's own"),
        [0, ..] => Some("of \"this network\" (0.0.0.0/8)"),
        [192, 0, 0 | 2, _] | [198, 18 | 19, ..] | [198, 51, 100, _] | [203, 0, 113, _] | [192, 88, 99, _] => {
            Some("reserved")
        }
        [224..=239, ..] => Some("multicast"),
        [240..=255, ..] => Some("reserved"),
        // Azure's metadata and agents answer here, on an address that looks public.
        [168, 63, 129, 16] => Some("a cloud's metadata"),
        _ => None,
    }
}

fn special_v6(address: Ipv6Addr) -> Option<&'static str> {
    match address.segments() {
        [first, ..] if first & 0xffc0 == 0xfe80 => Some("link-local"),
        [first, ..] if first & 0xfe00 == 0xfc00 => Some("private (fc00::/7)"),
        [first, ..] if first & 0xffc0 == 0xfec0 => Some("site-local"),
        [first, ..] if first & 0xff00 == 0xff00 => Some("multicast"),
        // What is not global unicast (2000::/3) leads nowhere on the Internet.
        [first, ..] if first & 0xe000 != 0x2000 => Some("reserved"),
        [0x2001, second, ..] if second < 0x200 => Some("reserved"),
        [0x2001, 0xdb8, ..] => Some("reserved"),
        [0x3fff, second, ..] if second < 0x1000 => Some("reserved"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reach(url: &str, allow: &[&str]) -> Reach {
        let allow = (!allow.is_empty()).then(|| Networks::parse(allow).unwrap());
        Reach::new(&WebhookUrl::parse(url).unwrap(), allow)
    }

    #[track_caller]
    fn check(reach: &Reach, address: &str, expected: bool) {
        assert_eq!(reach.check(address.parse().unwrap()).is_ok(), expected, "{address}");
    }

    #[test]
    fn the_inside_is_out_of_reach() {
        let reach = reach("https://iam.corp.example", &[]);
        for public in ["93.184.215.14", "1.1.1.1", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "64:ff9b::101:101"] {
            check(&reach, public, true);
        }
        for here in ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"] {
            check(&reach, here, true);
        }
        for inside in [
            "169.254.169.254",
            "169.254.0.1",
            "168.63.129.16",
            "10.0.0.1",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "100.64.0.1",
            "100.100.100.200",
            "0.0.0.0",
            "0.1.2.3",
            "192.0.0.192",
            "198.18.0.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "fe80::1",
            "fd00:ec2::254",
            "fc00::1",
            "fec0::1",
            "ff02::1",
            "100::1",
            "2001:db8::1",
            // Private addresses in IPv6 clothes.
            "::ffff:169.254.169.254",
            "::ffff:10.0.0.1",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::a9fe:a9fe",
            "2002:a9fe:a9fe::1",
            "::10.0.0.1",
            // Which of these is this machine's own is the translator's to say.
            "64:ff9b::7f00:1",
            "2002:7f00:1::1",
            "::127.0.0.1",
        ] {
            check(&reach, inside, false);
        }
    }

    #[test]
    fn listed_networks_are_within_reach_and_nothing_beside_them() {
        let reach = reach("https://iam.corp.example", &["10.20.0.0/16", "fd00:20::/64", "169.254.1.0/24"]);
        for listed in ["10.20.3.4", "::ffff:10.20.3.4", "fd00:20::7", "169.254.1.1", "1.1.1.1"] {
            check(&reach, listed, true);
        }
        for other in ["10.21.0.1", "fd00:21::7", "169.254.169.254"] {
            check(&reach, other, false);
        }
    }

    #[test]
    fn plain_http_stays_on_this_machine() {
        let reach = reach("http://localhost/x", &["10.0.0.0/8"]);
        check(&reach, "127.0.0.1", true);
        check(&reach, "10.0.0.1", false);
        check(&reach, "1.1.1.1", false);
        check(&reach, "64:ff9b::7f00:1", false);
    }

    #[test]
    fn of_several_addresses_those_are_taken_that_may_be() {
        let reach = reach("https://iam.corp.example", &[]);
        let found = ["169.254.169.254", "1.1.1.1"].map(|text| text.parse().unwrap());
        assert_eq!(reach.filter(&found, 443), Ok(vec!["1.1.1.1:443".parse().unwrap()]));
        let (address, kind) = reach.filter(&found[..1], 443).unwrap_err();
        assert_eq!(address, Some(found[0]));
        assert!(kind.contains("link-local"), "{kind}");
        assert_eq!(reach.filter(&[], 443), Err((None, "has no address")));
    }
}

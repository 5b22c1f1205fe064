//! Where a caller may come from.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;

/// Address ranges a caller may connect from. Never empty; "everywhere" is the explicit word `*`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Networks {
    /// The word `*`: every address.
    Any,
    /// One of these ranges.
    Listed(Arc<[IpNet]>),
}

impl Networks {
    /// Reads a list as it stands in config or on the command line.
    ///
    /// # Errors
    ///
    /// Every entry that is wrong, as its index and what to write instead. An empty list is wrong
    /// as a whole: index 0.
    pub fn parse<S: AsRef<str>>(entries: &[S]) -> Result<Self, Vec<(usize, String)>> {
        if let [only] = entries
            && only.as_ref() == "*"
        {
            return Ok(Self::Any);
        }
        if entries.is_empty() {
            return Err(vec![(
                0,
                "an empty list admits nobody; leave it out, or write [\"*\"] for every network".to_owned(),
            )]);
        }
        let (mut nets, mut wrong) = (Vec::new(), Vec::new());
        for (index, entry) in entries.iter().enumerate() {
            match parse_network(entry.as_ref()) {
                Ok(net) => nets.push(net),
                Err(why) => wrong.push((index, why)),
            }
        }
        if wrong.is_empty() { Ok(Self::Listed(nets.into())) } else { Err(wrong) }
    }

    /// True when `address` lies in one of the ranges. An IPv4-mapped IPv6 address
    /// (`::ffff:10.0.0.1`) is judged as the IPv4 address that it carries.
    #[must_use]
    pub fn admit(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        match self {
            Self::Any => true,
            Self::Listed(nets) => nets.iter().any(|net| net.contains(&address)),
        }
    }

    /// True when every address of `narrower` lies in one of these ranges. Ranges that only
    /// together hold one of `narrower`'s do not count.
    #[must_use]
    pub fn cover(&self, narrower: &Self) -> bool {
        match (self, narrower) {
            (Self::Any, _) => true,
            (Self::Listed(_), Self::Any) => false,
            (Self::Listed(wide), Self::Listed(narrow)) => {
                narrow.iter().all(|net| wide.iter().any(|wide| wide.contains(net)))
            }
        }
    }

    /// The entries as they would be written in config.
    #[must_use]
    pub fn entries(&self) -> Vec<String> {
        match self {
            Self::Any => vec!["*".to_owned()],
            Self::Listed(nets) => nets.iter().map(ToString::to_string).collect(),
        }
    }
}

/// What counts as one address where addresses are counted: an IPv6 customer has a whole /64.
#[must_use]
pub const fn block_of(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
    }
}

/// Reads one range; a bare address is the range of that one address.
fn parse_network(text: &str) -> Result<IpNet, String> {
    if text == "*" {
        return Err("\"*\" means every network and stands alone in its list".to_owned());
    }
    let net = match text.parse::<IpNet>() {
        Ok(net) => net,
        Err(_) => match text.parse::<IpAddr>() {
            Ok(address) => IpNet::from(address),
            Err(_) => return Err(format!("{text:?} is not a network such as 10.20.0.0/16 or fd00:20::/64")),
        },
    };
    if net.prefix_len() == 0 {
        return Err(format!("{text} is every address of its family; if that is meant, write \"*\""));
    }
    if let IpNet::V6(v6) = net
        && let Some(v4) = v6.addr().to_ipv4_mapped()
    {
        let hint = v6.prefix_len().checked_sub(96).map_or_else(String::new, |len| format!("; write {v4}/{len}"));
        return Err(format!("{text} is IPv4 mapped into IPv6 and would never match{hint}"));
    }
    if net != net.trunc() {
        return Err(format!("{text} has host bits set; did you mean {} or {}?", net.trunc(), IpNet::from(net.addr())));
    }
    Ok(net)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn admits_only_listed_ranges() {
        check(&["10.0.0.0/8"], "10.1.2.3", true);
        check(&["10.0.0.0/8"], "11.0.0.0", false);
        check(&["10.0.0.0/8"], "::ffff:10.1.2.3", true);
        check(&["10.0.0.0/8"], "::10.1.2.3", false);
        check(&["fd00:20::/64"], "fd00:20::7", true);
        check(&["fd00:20::/64"], "fd00:21::7", false);
        check(&["127.0.0.1"], "127.0.0.1", true);
        check(&["127.0.0.1"], "127.0.0.2", false);
        check(&["10.0.0.0/8"], "2001:db8::1", false);
        check(&["*"], "2001:db8::1", true);
    }

    #[track_caller]
    fn check(nets: &[&str], address: &str, expected: bool) {
        let nets = Networks::parse(nets).unwrap();
        assert_eq!(nets.admit(address.parse().unwrap()), expected, "{address} against {nets:?}");
    }

    #[test]
    fn refuses_ranges_that_would_mislead() {
        for (wrong, hint) in [
            ("10.1.2.3/8", "10.0.0.0/8"),
            ("0.0.0.0/0", "\"*\""),
            ("::/0", "\"*\""),
            ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
            ("::ffff:10.0.0.1", "10.0.0.1/32"),
            ("10.0.0/8", "not a network"),
            ("10.0.0.0/33", "not a network"),
            ("fe80::1%eth0", "not a network"),
            ("localhost", "not a network"),
        ] {
            let why = Networks::parse(&[wrong]).unwrap_err();
            assert!(why[0].1.contains(hint), "{wrong}: {}", why[0].1);
        }
        assert!(Networks::parse::<&str>(&[]).is_err());
        assert_eq!(Networks::parse(&["*", "10.0.0.0/8"]).unwrap_err().len(), 1);
    }

    proptest! {
        /// Agrees with the bitwise definition of a prefix, for every address and length.
        #[test]
        fn matches_prefix_definition(base: u32, noise: u32, shared in 0u32..32, len in 1u8..=32) {
            let mask = u32::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0);
            let source = base ^ (noise >> shared);
            let net = format!("{}/{len}", Ipv4Addr::from(base & mask));
            let nets = Networks::parse(&[net]).unwrap();
            let mapped = Ipv4Addr::from(source).to_ipv6_mapped();
            let expected = source & mask == base & mask;
            prop_assert_eq!(nets.admit(IpAddr::V4(source.into())), expected);
            prop_assert_eq!(nets.admit(IpAddr::V6(mapped)), expected);
        }
    }
}

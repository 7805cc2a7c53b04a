//! Networks in CIDR notation (RFC 4632), looked up in one search however many there are.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, de};

/// Networks as the settings name them; an address is a network of its own.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Networks {
    /// Sorted, and no two touch. IPv4 stands among IPv6 as mapped addresses (RFC 4291 section 2.5.5.2).
    ranges: Vec<(u128, u128)>,
}

impl Networks {
    /// Of these networks, in whatever order.
    #[must_use]
    pub fn new(networks: impl IntoIterator<Item = IpNet>) -> Self {
        let mut all: Vec<_> =
            networks.into_iter().map(|net| (bits(net.network()), bits(net.broadcast()))).collect();
        all.sort_unstable();
        let mut ranges: Vec<(u128, u128)> = Vec::with_capacity(all.len());
        for (start, end) in all {
            match ranges.last_mut() {
                Some((_, last)) if start <= last.saturating_add(1) => *last = end.max(*last),
                _ => ranges.push((start, end)),
            }
        }
        Networks { ranges }
    }

    /// Is the address in one of them, in whatever notation it came?
    #[must_use]
    pub fn contain(&self, address: IpAddr) -> bool {
        let address = bits(address);
        let after = self.ranges.partition_point(|(start, _)| *start <= address);
        let found = after.checked_sub(1).and_then(|before| self.ranges.get(before));
        found.is_some_and(|(_, end)| address <= *end)
    }

    /// Is there none?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

impl<'de> Deserialize<'de> for Networks {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let texts = Vec::<String>::deserialize(deserializer)?;
        if texts.len() > NETWORKS_MAX {
            return Err(de::Error::custom(format!("{} networks, at most {NETWORKS_MAX}", texts.len())));
        }
        let networks = texts.iter().map(|text| network(text)).collect::<Result<Vec<_>, _>>();
        networks.map(Networks::new).map_err(de::Error::custom)
    }
}

fn network(text: &str) -> Result<IpNet, String> {
    let wrong = || format!("`{text}` is no network; write 192.0.2.0/24, 2001:db8::/32 or one address");
    let network = match text.parse::<IpAddr>() {
        Ok(address) => IpNet::from(address),
        Err(_) => text.parse::<IpNet>().map_err(|_| wrong())?,
    };
    // Bits behind the prefix are a slip of whoever wrote it, and it is not ours to guess which.
    if network.addr() == network.network() {
        Ok(network)
    } else {
        Err(format!("`{text}` has bits behind its prefix; write {}", network.trunc()))
    }
}

const NETWORKS_MAX: usize = 65_536;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn networks(texts: &[&str]) -> Networks {
        serde_json::from_value(serde_json::json!(texts)).unwrap()
    }

    #[test]
    fn an_address_is_in_its_networks_and_just_beside_them_it_is_not() {
        let networks = networks(&["10.1.0.0/16", "192.0.2.7", "2001:db8::/32", "10.0.0.0/16", "10.1.2.0/24"]);
        for inside in ["10.0.0.0", "10.1.255.255", "192.0.2.7", "::ffff:10.0.3.4", "2001:db8:ffff::1"] {
            assert!(networks.contain(inside.parse().unwrap()), "{inside}");
        }
        for outside in
            ["9.255.255.255", "10.2.0.0", "192.0.2.6", "192.0.2.8", "2001:db9::", "::1", "::10.0.0.1"]
        {
            assert!(!networks.contain(outside.parse().unwrap()), "{outside}");
        }
        assert!(!Networks::default().contain([0, 0, 0, 0].into()));
        assert_eq!(networks.ranges.len(), 3, "those that touch are one");
    }

    #[test]
    fn rejects_what_is_no_network_and_bits_behind_a_prefix() {
        for bad in ["", "10.0.0.0/33", "10.0.0", "10.0.0.1/8", "example.com", "2001:db8::1/32", "10.0.0.0/8 "]
        {
            assert!(serde_json::from_value::<Networks>(serde_json::json!([bad])).is_err(), "{bad}");
        }
    }

    #[test]
    fn rejects_one_network_more_than_are_kept() {
        let many = |count: usize| serde_json::json!(vec!["10.0.0.0/8"; count]);
        assert!(serde_json::from_value::<Networks>(many(NETWORKS_MAX)).is_ok());
        assert!(serde_json::from_value::<Networks>(many(NETWORKS_MAX + 1)).is_err());
    }
}

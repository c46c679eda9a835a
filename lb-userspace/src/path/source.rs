//! The address that probes of a VIP come from.
//!
//! It must be this host's, of the VIP's family, and one that backends answer to over a link that leads here. VIPs are not: their packets
//! may come to another node.

use std::collections::HashSet;
use std::io;
use std::net::IpAddr;

/// This host's usable addresses with the index of their interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sources(Vec<(IpAddr, u32)>);

impl Sources {
    /// Those that this thread's network namespace has now, without loopback's, link-local ones and `vips`.
    ///
    /// # Errors
    /// getifaddrs(3).
    pub fn of_host(vips: &HashSet<IpAddr>) -> io::Result<Self> {
        let mut indices = std::collections::HashMap::new();
        let mut found = Vec::new();
        for one in nix::ifaddrs::getifaddrs()? {
            let Some(address) = one.address.as_ref().and_then(|address| {
                let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
                v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
            }) else {
                continue;
            };
            if !usable(address) || vips.contains(&address) {
                continue;
            }
            let index = *indices
                .entry(one.interface_name.clone())
                .or_insert_with(|| nix::net::if_::if_nametoindex(one.interface_name.as_str()).unwrap_or(0));
            found.push((address, index));
        }
        Ok(Self(found))
    }

    /// The address for probes of `vip`: `preferred` if it is of the family and no VIP, else one of the interface that the probe
    /// leaves by, else of the others named, else any.
    pub fn choose(&self, vip: IpAddr, preferred: Option<IpAddr>, way: u32, others: &[u32]) -> Option<IpAddr> {
        let same = |address: &IpAddr| address.is_ipv4() == vip.is_ipv4();
        let known = |address: &IpAddr| self.0.iter().any(|(known, _)| known == address);
        if let Some(preferred) = preferred.filter(same).filter(known) {
            return Some(preferred);
        }
        let on = |index: u32| {
            let mut here = self.0.iter().filter(|(address, at)| same(address) && *at == index);
            here.next().map(|(address, _)| *address)
        };
        on(way)
            .or_else(|| others.iter().find_map(|index| on(*index)))
            .or_else(|| self.0.iter().map(|(address, _)| *address).find(same))
    }

    /// The interface that has the address.
    pub fn interface_of(&self, address: IpAddr) -> Option<u32> {
        self.0
            .iter()
            .find(|(known, _)| *known == address)
            .map(|(_, index)| *index)
    }
}

fn usable(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => !v4.is_loopback() && !v4.is_link_local() && !v4.is_unspecified(),
        IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unicast_link_local() && !v6.is_unspecified(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_nearest_address_of_the_family() {
        let sources = Sources(vec![
            (ip("198.51.100.5"), 2),
            (ip("10.0.0.5"), 3),
            (ip("10.0.0.6"), 3),
            (ip("2001:db8:c::5"), 2),
        ]);
        let check = |vip, preferred: Option<&str>, way, others: &[u32], expected: Option<&str>| {
            let chosen = sources.choose(ip(vip), preferred.map(ip), way, others);
            assert_eq!(chosen, expected.map(ip), "{vip} {preferred:?} {way}");
        };
        let vip = "192.0.2.10";
        check(vip, Some("10.0.0.6"), 3, &[2], Some("10.0.0.6"));
        // Of the other family, as for IPv4 in IPv6; not this host's, as a VIP is.
        check(vip, Some("2001:db8:b::5"), 3, &[2], Some("10.0.0.5"));
        check(vip, Some("192.0.2.99"), 3, &[2], Some("10.0.0.5"));
        check(vip, None, 9, &[2], Some("198.51.100.5"));
        check(vip, None, 9, &[], Some("198.51.100.5"));
        check("2001:db8::10", None, 3, &[], Some("2001:db8:c::5"));
        assert_eq!(Sources::default().choose(ip(vip), None, 3, &[2]), None);
        assert_eq!(sources.interface_of(ip("10.0.0.6")), Some(3));
    }
}

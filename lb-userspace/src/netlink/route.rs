//! Routes: the question of which way a packet to one address would go, and its answer.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteLwEnCapType, RouteMessage, RouteMetric, RouteType, RouteVia,
};

use super::{Refusal, Unreachable};

/// The first and the last IPv4 address.
pub(super) const EVERY_IPV4: (IpAddr, IpAddr) = (IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V4(Ipv4Addr::BROADCAST));
/// The first and the last IPv6 address.
pub(super) const EVERY_IPV6: (IpAddr, IpAddr) = (
    IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    IpAddr::V6(Ipv6Addr::from_bits(u128::MAX)),
);

/// Where the kernel would send a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Route {
    /// The interface that it leaves by.
    pub(super) ifindex: u32,
    /// The next router, of either family; nothing: the destination is on the link.
    pub(super) gateway: Option<IpAddr>,
    /// The source address that the kernel would choose.
    pub(super) source: Option<IpAddr>,
    /// Whether the route itself names that source (`ip route … src`). Not in the answer: see [`entry_request`].
    pub(super) names_source: bool,
    /// How long the answer holds at most. What comes after is not announced: the kernel removes an expired IPv6 route half a minute
    /// late, and passes it over until then.
    pub(super) lifetime: Option<Duration>,
    /// The route's own limit on the size of IP packets, in bytes.
    pub(super) mtu: Option<u32>,
}

/// The question of how a packet to `address` would go; from `source`, of the same family, if that is given: rules may go by it.
pub(super) fn request(address: IpAddr, source: Option<IpAddr>) -> RouteMessage {
    let mut message = RouteMessage::default();
    let (family, length) = match address {
        IpAddr::V4(_) => (AddressFamily::Inet, 32),
        IpAddr::V6(_) => (AddressFamily::Inet6, 128),
    };
    message.header.address_family = family;
    message.header.destination_prefix_length = length;
    message.attributes.push(RouteAttribute::Destination(address.into()));
    if let Some(source) = source {
        message.header.source_prefix_length = length;
        message.attributes.push(RouteAttribute::Source(source.into()));
    }
    message
}

/// The question of the table's entry that decides how such a packet would go. It names a source if the operator has named one, and says
/// when it expires: of IPv6, the answer to [`request`] has neither.
pub(super) fn entry_request(address: IpAddr, source: Option<IpAddr>) -> RouteMessage {
    let mut message = request(address, source);
    message.header.flags |= RouteFlags::FibMatch;
    message
}

/// The reason why an address should not even be looked up.
///
/// Every link has a route to the link-local addresses of IPv6, and the kernel would answer with any of them.
pub(super) fn refused(address: IpAddr) -> Option<Unreachable> {
    match address {
        IpAddr::V6(v6) if v6.is_unicast_link_local() => Some(Unreachable::LinkLocal { address }),
        _ => None,
    }
}

impl Route {
    /// Adds what only the table's entry says.
    pub(super) fn complete(&mut self, entry: &RouteMessage) {
        for attribute in &entry.attributes {
            match attribute {
                RouteAttribute::PrefSource(_) => self.names_source = true,
                RouteAttribute::CacheInfo(info) => {
                    self.lifetime = self.lifetime.into_iter().chain(lifetime(info.expires)).min();
                }
                _ => {}
            }
        }
    }

    /// Reads the kernel's answer.
    pub(super) fn from_message(address: IpAddr, message: &RouteMessage) -> Result<Self, Unreachable> {
        let rejected = |kind| Err(Unreachable::Rejected { address, kind });
        match message.header.kind {
            RouteType::Unicast => {}
            RouteType::Local => return Err(Unreachable::LocalAddress { address }),
            RouteType::Broadcast | RouteType::Anycast | RouteType::Multicast => {
                return Err(Unreachable::NotUnicast { address });
            }
            RouteType::BlackHole => return rejected(Refusal::Blackhole),
            RouteType::Unreachable => return rejected(Refusal::Unreachable),
            RouteType::Prohibit => return rejected(Refusal::Prohibit),
            _ => return Err(Unreachable::NoRoute { address }),
        }
        let mut ifindex = None;
        let mut route = Route {
            ifindex: 0,
            gateway: None,
            source: None,
            names_source: false,
            lifetime: None,
            mtu: None,
        };
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Oif(value) => ifindex = Some(*value),
                RouteAttribute::Gateway(value) => route.gateway = ip(value),
                RouteAttribute::Via(RouteVia::Inet(value)) => route.gateway = Some((*value).into()),
                RouteAttribute::Via(RouteVia::Inet6(value)) => route.gateway = Some((*value).into()),
                RouteAttribute::PrefSource(value) => {
                    route.source = ip(value).filter(|source| !source.is_unspecified());
                }
                RouteAttribute::CacheInfo(info) => route.lifetime = lifetime(info.expires),
                RouteAttribute::Metrics(metrics) => {
                    route.mtu = metrics.iter().find_map(|metric| match metric {
                        RouteMetric::Mtu(mtu) if *mtu > 0 => Some(*mtu),
                        _ => None,
                    });
                }
                RouteAttribute::EncapType(kind) if *kind != RouteLwEnCapType::None => {
                    return Err(Unreachable::Encapsulated { address });
                }
                _ => {}
            }
        }
        route.ifindex = ifindex.ok_or(Unreachable::NoRoute { address })?;
        Ok(route)
    }
}

/// Reads an error number that the kernel gave as its answer: routes that refuse have one each.
pub(super) fn from_errno(address: IpAddr, errno: i32) -> Unreachable {
    let rejected = |kind| Unreachable::Rejected { address, kind };
    match errno {
        libc::ENETUNREACH | libc::EAGAIN | libc::ESRCH => Unreachable::NoRoute { address },
        libc::EINVAL => rejected(Refusal::Blackhole),
        libc::EHOSTUNREACH => rejected(Refusal::Unreachable),
        libc::EACCES => rejected(Refusal::Prohibit),
        _ => Unreachable::RouteFailed { address, errno },
    }
}

/// The first and the last address of the prefix that a message about a route is for.
pub(super) fn prefix(message: &RouteMessage) -> Option<(IpAddr, IpAddr)> {
    let destination = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(address) => Some(address),
        _ => None,
    });
    let length = u32::from(message.header.destination_prefix_length);
    match (message.header.address_family, destination) {
        (AddressFamily::Inet, None) => Some(EVERY_IPV4),
        (AddressFamily::Inet6, None) => Some(EVERY_IPV6),
        (AddressFamily::Inet, Some(RouteAddress::Inet(address))) => {
            let first = address.to_bits();
            let rest = u32::MAX.checked_shr(length).unwrap_or(0);
            Some((IpAddr::V4((first & !rest).into()), IpAddr::V4((first | rest).into())))
        }
        (AddressFamily::Inet6, Some(RouteAddress::Inet6(address))) => {
            let first = address.to_bits();
            let rest = u128::MAX.checked_shr(length).unwrap_or(0);
            Some((IpAddr::V6((first & !rest).into()), IpAddr::V6((first | rest).into())))
        }
        _ => None,
    }
}

/// Reads `rta_expires`: a signed number of hundredths of a second (`USER_HZ`), 0 without an end. The kernel drops the part of a hundredth
/// and says 0 in the last one, too; the lifetime ends after that, and a tick of the kernel's (at most 10 ms) later.
fn lifetime(expires: u32) -> Option<Duration> {
    match expires.cast_signed() {
        0 => None,
        expires => Some(Duration::from_millis(
            10 * u64::from(expires.max(0).cast_unsigned()) + 20,
        )),
    }
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn answer(kind: RouteType, attributes: Vec<RouteAttribute>) -> Result<Route, Unreachable> {
        let mut message = request(address("192.0.2.1"), None);
        message.header.kind = kind;
        message.attributes.extend(attributes);
        Route::from_message(address("192.0.2.1"), &message)
    }

    #[test]
    fn gateways_of_both_families() {
        let source = || RouteAttribute::PrefSource(address("10.0.0.5").into());
        let expected = |gateway| {
            Ok(Route {
                ifindex: 3,
                gateway,
                source: Some(address("10.0.0.5")),
                names_source: false,
                lifetime: None,
                mtu: None,
            })
        };
        let on_link = vec![RouteAttribute::Oif(3), source()];
        assert_eq!(answer(RouteType::Unicast, on_link), expected(None));
        let gateway = vec![
            RouteAttribute::Oif(3),
            RouteAttribute::Gateway(address("10.0.0.1").into()),
            source(),
        ];
        assert_eq!(answer(RouteType::Unicast, gateway), expected(Some(address("10.0.0.1"))));
        let via = vec![
            RouteAttribute::Oif(3),
            RouteAttribute::Via(address("fe80::1").into()),
            source(),
        ];
        assert_eq!(answer(RouteType::Unicast, via), expected(Some(address("fe80::1"))));
    }

    #[test]
    fn mtu_of_a_route() {
        let metrics = |mtu| RouteAttribute::Metrics(vec![RouteMetric::Hoplimit(9), RouteMetric::Mtu(mtu)]);
        let mtu = |mtu| {
            answer(RouteType::Unicast, vec![RouteAttribute::Oif(3), metrics(mtu)])
                .unwrap()
                .mtu
        };
        assert_eq!(mtu(1400), Some(1400));
        assert_eq!(mtu(0), None);
    }

    #[test]
    fn routes_that_lead_nowhere() {
        let at = address("192.0.2.1");
        let oif = || vec![RouteAttribute::Oif(3)];
        let rejected = |kind| Err(Unreachable::Rejected { address: at, kind });
        assert_eq!(
            answer(RouteType::Local, oif()),
            Err(Unreachable::LocalAddress { address: at })
        );
        assert_eq!(
            answer(RouteType::Multicast, oif()),
            Err(Unreachable::NotUnicast { address: at })
        );
        assert_eq!(answer(RouteType::BlackHole, oif()), rejected(Refusal::Blackhole));
        assert_eq!(answer(RouteType::Unreachable, oif()), rejected(Refusal::Unreachable));
        assert_eq!(answer(RouteType::Prohibit, oif()), rejected(Refusal::Prohibit));
        assert_eq!(
            answer(RouteType::Unicast, vec![]),
            Err(Unreachable::NoRoute { address: at })
        );
        let mpls = vec![
            RouteAttribute::Oif(3),
            RouteAttribute::EncapType(RouteLwEnCapType::Mpls),
        ];
        assert_eq!(
            answer(RouteType::Unicast, mpls),
            Err(Unreachable::Encapsulated { address: at })
        );
    }

    #[test]
    fn lifetimes() {
        assert_eq!(lifetime(0), None);
        assert_eq!(lifetime(250), Some(Duration::from_millis(2_520)));
        assert_eq!(lifetime((-3i32).cast_unsigned()), Some(Duration::from_millis(20)));
        assert_eq!(lifetime(i32::MAX.cast_unsigned()).unwrap().as_secs(), 21_474_836);
    }

    #[test]
    fn prefixes() {
        let check = |destination: &str, length, first: &str, last: &str| {
            let mut message = request(address(destination), None);
            message.header.destination_prefix_length = length;
            if length == 0 {
                message.attributes.clear();
            }
            assert_eq!(
                prefix(&message),
                Some((address(first), address(last))),
                "{destination}/{length}"
            );
        };
        check("192.0.2.0", 24, "192.0.2.0", "192.0.2.255");
        check("192.0.2.9", 32, "192.0.2.9", "192.0.2.9");
        check("0.0.0.0", 0, "0.0.0.0", "255.255.255.255");
        check("128.0.0.0", 1, "128.0.0.0", "255.255.255.255");
        check("2001:db8::", 64, "2001:db8::", "2001:db8::ffff:ffff:ffff:ffff");
        check("2001:db8::9", 128, "2001:db8::9", "2001:db8::9");
        check("::", 0, "::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff");
    }

    #[test]
    fn link_local_addresses_are_not_looked_up() {
        assert!(refused(address("fe80::1")).is_some());
        assert!(refused(address("2001:db8::1")).is_none());
        assert!(refused(address("169.254.1.1")).is_none());
    }
}

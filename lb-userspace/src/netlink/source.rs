//! The choice of a source address: one rule for the outer headers of tunnels and for the probes that take the VIP's path.

use std::collections::HashSet;
use std::net::IpAddr;

use super::Unreachable;
use super::address::{AddressState, Addresses, OwnAddress};

/// What a source is wanted for.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// The destination: the source is of its family.
    pub to: IpAddr,
    /// The operator's word (`node.tunnel_source_*`), if there is one.
    pub configured: Option<IpAddr>,
    /// What the kernel would choose for the route.
    pub preferred: Option<IpAddr>,
    /// What was chosen before for the same interface.
    pub in_use: Option<IpAddr>,
    /// The interface that packets leave by.
    pub egress: u32,
    /// Interfaces whose addresses come next.
    pub others: &'a [u32],
}

/// The source to use, from this host's addresses. Never one of `vips`: packets to a VIP may come to another node. Never one that is
/// link-local, loopback, multicast, tentative or a duplicate.
///
/// In this order: what is configured; what the kernel prefers; of all the rest, those that are not deprecated, before them what is in
/// use already, then the egress interface's, the other interfaces' in their order, any; of these the global ones, those that are not
/// temporary, the lowest.
///
/// Nothing if no address fits.
pub fn choose(addresses: &Addresses, vips: &HashSet<IpAddr>, wanted: &Wanted<'_>) -> Option<IpAddr> {
    let fits = |own: &OwnAddress| {
        own.address.is_ipv4() == wanted.to.is_ipv4() && own.is_usable() && !vips.contains(&own.address)
    };
    let known = |address: IpAddr| addresses.find(address).any(fits);
    if let Some(named) = [wanted.configured, wanted.preferred]
        .into_iter()
        .flatten()
        .find(|address| known(*address))
    {
        return Some(named);
    }
    let place = |ifindex: u32| {
        let others = wanted.others.iter().position(|other| *other == ifindex);
        if ifindex == wanted.egress {
            0
        } else {
            others.map_or(usize::MAX, |position| position + 1)
        }
    };
    let rank = |own: &&OwnAddress| {
        (
            own.state != AddressState::Preferred,
            wanted.in_use != Some(own.address),
            place(own.ifindex),
            own.reach,
            own.secondary,
            own.address,
        )
    };
    let mut fitting = addresses.iter().filter(|own| fits(own));
    let first = fitting.next()?;
    Some(
        fitting
            .fold(first, |best, own| if rank(&own) < rank(&best) { own } else { best })
            .address,
    )
}

/// The source of a tunnel's outer headers: [`choose`], but an operator's word counts also if it is no address of this host, since nobody
/// answers to it.
///
/// # Errors
/// [`Unreachable::NoSource`], or [`Unreachable::SourceIsVip`] if a VIP is configured.
pub fn of_tunnel(addresses: &Addresses, vips: &HashSet<IpAddr>, wanted: &Wanted<'_>) -> Result<IpAddr, Unreachable> {
    let address = wanted.to;
    match wanted.configured {
        Some(source) if vips.contains(&source) => Err(Unreachable::SourceIsVip { address, outer: source }),
        Some(source) => Ok(source),
        None => choose(addresses, vips, wanted).ok_or(Unreachable::NoSource { address }),
    }
}

#[cfg(test)]
mod tests {
    use super::super::address::Reach;
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn own(text: &str, ifindex: u32) -> OwnAddress {
        OwnAddress {
            address: ip(text),
            ifindex,
            state: AddressState::Preferred,
            reach: Reach::Global,
            secondary: false,
        }
    }

    fn chosen(all: &[OwnAddress], wanted: Wanted<'_>) -> Option<String> {
        let vips = HashSet::from([ip("192.0.2.10"), ip("2001:db8::10")]);
        let chosen = choose(&Addresses::new(all.iter().copied()), &vips, &wanted)?;
        Some(chosen.to_string())
    }

    const PLAIN: Wanted<'_> = Wanted {
        to: IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED),
        configured: None,
        preferred: None,
        in_use: None,
        egress: 3,
        others: &[2],
    };

    #[test]
    fn the_named_ones_first_if_they_fit() {
        let all = [
            own("10.0.0.5", 3),
            own("10.0.0.6", 3),
            own("10.0.0.7", 3),
            own("192.0.2.10", 3),
        ];
        let named = |configured: Option<&str>, preferred: Option<&str>, in_use: Option<&str>| {
            let wanted = Wanted {
                to: ip("10.0.0.9"),
                configured: configured.map(ip),
                preferred: preferred.map(ip),
                in_use: in_use.map(ip),
                ..PLAIN
            };
            chosen(&all, wanted).unwrap()
        };
        assert_eq!(named(Some("10.0.0.7"), Some("10.0.0.6"), None), "10.0.0.7");
        assert_eq!(named(None, Some("10.0.0.6"), Some("10.0.0.7")), "10.0.0.6");
        // A VIP, though this host has it; of another family; not this host's.
        for unfit in ["192.0.2.10", "2001:db8::1", "10.0.0.99"] {
            assert_eq!(named(Some(unfit), Some(unfit), Some("10.0.0.7")), "10.0.0.7");
            assert_eq!(named(None, Some(unfit), Some(unfit)), "10.0.0.5");
        }
    }

    #[test]
    fn the_nearest_of_the_rest() {
        let all = [
            own("2001:db8:c::5", 2),
            own("2001:db8:b::6", 3),
            own("2001:db8:a::5", 7),
        ];
        let at = |egress, others| {
            let wanted = Wanted {
                egress,
                others,
                ..PLAIN
            };
            chosen(&all, wanted).unwrap()
        };
        assert_eq!(at(3, &[2]), "2001:db8:b::6");
        assert_eq!(at(9, &[2]), "2001:db8:c::5");
        assert_eq!(at(9, &[8, 7, 2]), "2001:db8:a::5");
        assert_eq!(at(9, &[]), "2001:db8:a::5");
    }

    #[test]
    fn the_better_of_one_interface() {
        let worst_first = [
            OwnAddress {
                state: AddressState::Deprecated,
                ..own("2001:db8::a1", 3)
            },
            OwnAddress {
                reach: Reach::Site,
                ..own("2001:db8::a2", 3)
            },
            OwnAddress {
                secondary: true,
                ..own("2001:db8::a3", 3)
            },
            own("2001:db8::a5", 3),
            own("2001:db8::a4", 3),
        ];
        for from in 0..worst_first.len() {
            let best = worst_first[from..].iter().map(|own| own.address).next_back().unwrap();
            assert_eq!(chosen(&worst_first[from..], PLAIN).unwrap(), best.to_string());
        }
        let without = |count: usize| chosen(&worst_first[..count], PLAIN).unwrap();
        assert_eq!(
            [4, 3, 2, 1].map(without),
            ["2001:db8::a5", "2001:db8::a3", "2001:db8::a2", "2001:db8::a1"]
        );
    }

    #[test]
    fn the_one_in_use_stays_until_it_is_deprecated_and_another_is_not() {
        let nearer = own("2001:db8::1", 3);
        let in_use = own("2001:db8::9", 2);
        let wanted = Wanted {
            in_use: Some(ip("2001:db8::9")),
            ..PLAIN
        };
        assert_eq!(chosen(&[nearer, in_use], wanted).unwrap(), "2001:db8::9");
        let deprecated = OwnAddress {
            state: AddressState::Deprecated,
            ..in_use
        };
        assert_eq!(chosen(&[nearer, deprecated], wanted).unwrap(), "2001:db8::1");
        let both = OwnAddress {
            state: AddressState::Deprecated,
            ..nearer
        };
        assert_eq!(chosen(&[both, deprecated], wanted).unwrap(), "2001:db8::9");
    }

    #[test]
    fn nothing_fits() {
        let unfit = [
            OwnAddress {
                state: AddressState::Tentative,
                ..own("2001:db8::1", 3)
            },
            OwnAddress {
                state: AddressState::Duplicate,
                ..own("2001:db8::2", 3)
            },
            OwnAddress {
                reach: Reach::Link,
                ..own("fe80::1", 3)
            },
            OwnAddress {
                reach: Reach::Host,
                ..own("::1", 1)
            },
            own("2001:db8::10", 3),
            own("10.0.0.5", 3),
        ];
        let wanted = Wanted {
            preferred: Some(ip("fe80::1")),
            in_use: Some(ip("2001:db8::1")),
            ..PLAIN
        };
        assert_eq!(chosen(&unfit, wanted), None);
        assert_eq!(chosen(&[], wanted), None);
    }
}

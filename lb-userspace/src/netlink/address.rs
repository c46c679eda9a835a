//! This host's own addresses, with what the kernel says of each.

use std::net::IpAddr;
use std::sync::Arc;

use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};

/// One address of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct OwnAddress {
    /// The address.
    pub address: IpAddr,
    /// Its interface's number.
    pub ifindex: u32,
    /// Whether packets may come from it.
    pub state: AddressState,
    /// How far it is known.
    pub reach: Reach,
    /// A temporary IPv6 address (RFC 8981), or one that is not its IPv4 subnet's first: `IFA_F_SECONDARY`.
    pub secondary: bool,
}

/// Whether packets may come from an address, the best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AddressState {
    /// They may.
    Preferred,
    /// Those of connections that have it already; its preferred lifetime is over (RFC 4862, 5.5.4).
    Deprecated,
    /// Not yet: whether another host has it is still being found out.
    Tentative,
    /// Another host has it: duplicate address detection failed.
    Duplicate,
}

/// How far an address is known, the farthest first (`RT_SCOPE_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reach {
    /// Everywhere.
    Global,
    /// Within a site, or a scope of the operator's own.
    Site,
    /// On the link.
    Link,
    /// On this host alone.
    Host,
}

/// All addresses of this host, sorted; cheap to hand on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses(Arc<[OwnAddress]>);

impl Addresses {
    /// These.
    pub fn new(addresses: impl IntoIterator<Item = OwnAddress>) -> Self {
        let mut all: Vec<OwnAddress> = addresses.into_iter().collect();
        all.sort_unstable();
        Self(all.into())
    }

    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = &OwnAddress> {
        self.0.iter()
    }

    /// What is known of an address, once for each interface that has it.
    pub fn find(&self, address: IpAddr) -> impl Iterator<Item = &OwnAddress> {
        let first = self.0.partition_point(|own| own.address < address);
        self.0[first..].iter().take_while(move |own| own.address == address)
    }
}

impl OwnAddress {
    /// Whether another host may get packets from it, and answer them: it is valid, and known beyond its link.
    pub fn is_usable(&self) -> bool {
        matches!(self.state, AddressState::Preferred | AddressState::Deprecated)
            && self.reach != Reach::Host
            && is_unicast(self.address)
    }

    /// Reads a message about an address.
    pub(super) fn from_message(message: &AddressMessage) -> Option<Self> {
        // On a point-to-point interface ADDRESS is the peer's, and LOCAL this host's.
        let mut local = None;
        let mut address = None;
        let mut flags = AddressFlags::from_bits_retain(u32::from(message.header.flags.bits()));
        for attribute in &message.attributes {
            match attribute {
                AddressAttribute::Local(value) => local = Some(*value),
                AddressAttribute::Address(value) => address = Some(*value),
                AddressAttribute::Flags(value) => flags = *value,
                _ => {}
            }
        }
        let optimistic = flags.contains(AddressFlags::Optimistic);
        let state = if flags.contains(AddressFlags::Dadfailed) {
            AddressState::Duplicate
        } else if flags.contains(AddressFlags::Tentative) && !optimistic {
            AddressState::Tentative
        } else if flags.contains(AddressFlags::Deprecated) || optimistic {
            // An optimistic one (RFC 4429) may be used, but others are better until it is known to be unique.
            AddressState::Deprecated
        } else {
            AddressState::Preferred
        };
        Some(Self {
            address: local.or(address)?,
            ifindex: message.header.index,
            state,
            reach: match message.header.scope {
                AddressScope::Universe => Reach::Global,
                AddressScope::Link => Reach::Link,
                AddressScope::Host | AddressScope::Nowhere => Reach::Host,
                _ => Reach::Site,
            },
            secondary: flags.contains(AddressFlags::Secondary),
        })
    }
}

/// Whether an address names one host, and not only on its link.
fn is_unicast(address: IpAddr) -> bool {
    let named = !(address.is_unspecified() || address.is_loopback() || address.is_multicast());
    named
        && match address {
            IpAddr::V4(v4) => !v4.is_link_local() && !v4.is_broadcast(),
            IpAddr::V6(v6) => !v6.is_unicast_link_local(),
        }
}

#[cfg(test)]
mod tests {
    use netlink_packet_route::address::AddressHeaderFlags;

    use super::*;

    fn read(flags: AddressFlags, scope: AddressScope, attributes: Vec<AddressAttribute>) -> Option<OwnAddress> {
        let mut message = AddressMessage::default();
        message.header.index = 3;
        message.header.scope = scope;
        message.attributes = attributes;
        message.attributes.push(AddressAttribute::Flags(flags));
        OwnAddress::from_message(&message)
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn states() {
        let state = |flags| {
            let address = vec![AddressAttribute::Address(ip("2001:db8::1"))];
            read(flags, AddressScope::Universe, address).unwrap().state
        };
        use AddressFlags as F;
        assert_eq!(state(F::Permanent), AddressState::Preferred);
        assert_eq!(state(F::Tentative), AddressState::Tentative);
        assert_eq!(state(F::Tentative | F::Deprecated), AddressState::Tentative);
        assert_eq!(state(F::Tentative | F::Optimistic), AddressState::Deprecated);
        assert_eq!(state(F::Tentative | F::Dadfailed), AddressState::Duplicate);
        assert_eq!(state(F::Dadfailed | F::Optimistic), AddressState::Duplicate);
        assert_eq!(state(F::Deprecated), AddressState::Deprecated);
    }

    #[test]
    fn flags_of_the_header_count_when_there_is_no_attribute() {
        let mut message = AddressMessage::default();
        message.header.flags = AddressHeaderFlags::Dadfailed;
        message.attributes = vec![AddressAttribute::Address(ip("2001:db8::1"))];
        assert_eq!(
            OwnAddress::from_message(&message).unwrap().state,
            AddressState::Duplicate
        );
    }

    #[test]
    fn the_local_end_of_a_point_to_point_link() {
        let ends = vec![
            AddressAttribute::Address(ip("10.0.0.9")),
            AddressAttribute::Local(ip("10.0.0.5")),
        ];
        let own = read(AddressFlags::Secondary, AddressScope::Link, ends).unwrap();
        assert_eq!(
            (own.address, own.reach, own.secondary),
            (ip("10.0.0.5"), Reach::Link, true)
        );
        assert_eq!(read(AddressFlags::empty(), AddressScope::Universe, vec![]), None);
    }

    #[test]
    fn which_may_be_used() {
        let usable = |text, state, reach| {
            let own = OwnAddress {
                address: ip(text),
                ifindex: 3,
                state,
                reach,
                secondary: false,
            };
            own.is_usable()
        };
        use AddressState::{Deprecated, Duplicate, Preferred, Tentative};
        for (text, state, reach, expected) in [
            ("10.0.0.5", Preferred, Reach::Global, true),
            ("10.0.0.5", Preferred, Reach::Link, true),
            ("10.0.0.5", Preferred, Reach::Host, false),
            ("2001:db8::1", Deprecated, Reach::Global, true),
            ("2001:db8::1", Tentative, Reach::Global, false),
            ("2001:db8::1", Duplicate, Reach::Global, false),
            ("fe80::1", Preferred, Reach::Link, false),
            ("169.254.1.1", Preferred, Reach::Global, false),
            ("127.0.0.2", Preferred, Reach::Global, false),
            ("::1", Preferred, Reach::Global, false),
            ("0.0.0.0", Preferred, Reach::Global, false),
            ("224.0.0.1", Preferred, Reach::Global, false),
            ("ff02::1", Preferred, Reach::Global, false),
        ] {
            assert_eq!(usable(text, state, reach), expected, "{text} {state:?} {reach:?}");
        }
    }

    #[test]
    fn an_address_of_two_interfaces_is_found_twice() {
        let own = |text, ifindex| OwnAddress {
            address: ip(text),
            ifindex,
            state: AddressState::Preferred,
            reach: Reach::Global,
            secondary: false,
        };
        let all = Addresses::new([
            own("10.0.0.6", 3),
            own("10.0.0.5", 9),
            own("10.0.0.5", 2),
            own("10.0.0.4", 2),
        ]);
        let found: Vec<u32> = all.find(ip("10.0.0.5")).map(|own| own.ifindex).collect();
        assert_eq!(found, [2, 9]);
        assert_eq!(all.find(ip("10.0.0.7")).count(), 0);
    }
}

//! Neighbours: who on a link has which Ethernet address, and how to make the kernel find out.

use std::net::IpAddr;

use lb_common::encap::Mac;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};

/// A neighbour's name: an address, on a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Key {
    /// The link.
    pub(super) ifindex: u32,
    /// The address.
    pub(super) address: IpAddr,
}

/// What the kernel knows of a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Neighbour {
    /// Set by an operator, or by the nature of the link; never to be asked for.
    Fixed(Mac),
    /// Known, or just being confirmed.
    Fresh(Mac),
    /// Known, but not heard of lately.
    Stale(Mac),
    /// Being asked for.
    Asked,
    /// It did not answer.
    Failed,
    /// There is an entry, but it says nothing.
    Unknown,
}

impl Neighbour {
    /// The address that packets can be sent to.
    pub(super) fn mac(self) -> Option<Mac> {
        match self {
            Neighbour::Fixed(mac) | Neighbour::Fresh(mac) | Neighbour::Stale(mac) => Some(mac),
            Neighbour::Asked | Neighbour::Failed | Neighbour::Unknown => None,
        }
    }
}

/// Reads a neighbour message; nothing if it is about a bridge's table or a proxied address.
pub(super) fn read(message: &NeighbourMessage) -> Option<(Key, Neighbour)> {
    if message.header.flags.contains(NeighbourFlags::Proxy) {
        return None;
    }
    let mut address = None;
    let mut mac = None;
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(value)) => address = Some(IpAddr::V4(*value)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(value)) => address = Some(IpAddr::V6(*value)),
            NeighbourAttribute::LinkLayerAddress(value) => mac = Mac::try_from(value.as_slice()).ok(),
            _ => {}
        }
    }
    let key = Key {
        ifindex: message.header.ifindex,
        address: address?,
    };
    let state = match message.header.state {
        NeighbourState::Permanent | NeighbourState::Noarp => mac.map(Neighbour::Fixed),
        NeighbourState::Reachable | NeighbourState::Delay | NeighbourState::Probe => mac.map(Neighbour::Fresh),
        NeighbourState::Stale => mac.map(Neighbour::Stale),
        NeighbourState::Incomplete => Some(Neighbour::Asked),
        NeighbourState::Failed => Some(Neighbour::Failed),
        _ => None,
    };
    Some((key, state.unwrap_or(Neighbour::Unknown)))
}

/// The message that makes the kernel ask for a neighbour as if a packet were to be sent there.
pub(super) fn use_request(key: Key) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = match key.address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    };
    message.header.ifindex = key.ifindex;
    message.header.flags = NeighbourFlags::Use;
    message
        .attributes
        .push(NeighbourAttribute::Destination(key.address.into()));
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: Key = Key {
        ifindex: 4,
        address: IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1)),
    };
    const MAC: Mac = [2, 0, 0, 0, 0, 9];

    fn message(state: NeighbourState, mac: &[u8]) -> NeighbourMessage {
        let mut message = use_request(KEY);
        message.header.flags = NeighbourFlags::empty();
        message.header.state = state;
        message
            .attributes
            .push(NeighbourAttribute::LinkLayerAddress(mac.to_vec()));
        message
    }

    #[test]
    fn states() {
        for (state, expected) in [
            (NeighbourState::Permanent, Neighbour::Fixed(MAC)),
            (NeighbourState::Noarp, Neighbour::Fixed(MAC)),
            (NeighbourState::Reachable, Neighbour::Fresh(MAC)),
            (NeighbourState::Delay, Neighbour::Fresh(MAC)),
            (NeighbourState::Probe, Neighbour::Fresh(MAC)),
            (NeighbourState::Stale, Neighbour::Stale(MAC)),
            (NeighbourState::Incomplete, Neighbour::Asked),
            (NeighbourState::Failed, Neighbour::Failed),
            (NeighbourState::None, Neighbour::Unknown),
        ] {
            assert_eq!(read(&message(state, &MAC)), Some((KEY, expected)), "{state}");
        }
    }

    #[test]
    fn an_address_of_another_length_is_no_mac() {
        assert_eq!(
            read(&message(NeighbourState::Reachable, &[1; 20])),
            Some((KEY, Neighbour::Unknown))
        );
    }

    #[test]
    fn proxied_and_bridge_entries_are_not_neighbours() {
        let mut proxied = message(NeighbourState::Permanent, &MAC);
        proxied.header.flags = NeighbourFlags::Proxy;
        assert_eq!(read(&proxied), None);
        let mut forwarding = message(NeighbourState::Permanent, &MAC);
        forwarding.attributes.remove(0);
        assert_eq!(read(&forwarding), None);
    }
}

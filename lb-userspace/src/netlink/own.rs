//! Which Ethernet addresses are this host's own on an interface, and what changes them.
//!
//! Frames that arrive by an interface are for this host if they are addressed to the interface itself; to the bond, team or bridge that it is
//! a port of; or to a macvlan (as keepalived makes them for VRRP's addresses) or VLAN device on any of these, in this network namespace. A
//! macvlan that was given to a container is that one's, and a macvtap is a virtual machine's.
//!
//! A bond runs its native program on its ports (Linux 5.15), and Hyper-V's network adapter on its virtual function. There the program sees the
//! port's index, so each port has a set of its own beside the interface that was named.

use std::collections::{BTreeMap, BTreeSet};

use lb_common::encap::Mac;
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkLayerType, LinkMessage};

use super::NetlinkError;
use super::link::all_links;

/// What of an interface decides whose frames are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnLink {
    ifindex: u32,
    mac: Option<Mac>,
    kind: Kind,
    /// The interface that it is a port of.
    master: Option<u32>,
    /// The interface in this network namespace that it stands on.
    lower: Option<u32>,
}

/// What kind of interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A team or bridge: its ports take in its frames.
    Aggregate,
    /// A bond, or hardware's interface with a port, as Hyper-V's: besides, its ports run its program.
    Bond,
    /// A macvlan or VLAN device: the interface that it stands on takes in its frames.
    Upper,
    Other,
}

/// Every interface of this thread's network namespace.
///
/// # Errors
/// The failure to ask.
pub async fn own_links() -> Result<Vec<OwnLink>, NetlinkError> {
    Ok(all_links().await?.into_iter().map(|link| link.own).collect())
}

/// The host's own addresses on each of these interfaces that is there, the interface's own first; and on each port that runs the program of one.
pub fn own_addresses<'a>(links: impl IntoIterator<Item = &'a OwnLink>, interfaces: &[u32]) -> BTreeMap<u32, Vec<Mac>> {
    let links: Vec<&OwnLink> = links.into_iter().collect();
    let mut own = BTreeMap::new();
    for link in links.iter().filter(|link| interfaces.contains(&link.ifindex)) {
        let mut addresses = addresses_of(&links, link.ifindex);
        for port in running_ports(&links, link.ifindex) {
            own.insert(port.ifindex, addresses_of(&links, port.ifindex));
            // A generic program sees what a port took in with the port's own address.
            addresses.extend(port.mac.filter(|mac| !addresses.contains(mac)));
        }
        own.insert(link.ifindex, addresses);
    }
    own
}

/// Indices of the ports that run the program of an interface.
pub fn ports<'a>(links: impl IntoIterator<Item = &'a OwnLink>, ifindex: u32) -> Vec<u32> {
    let links: Vec<&OwnLink> = links.into_iter().collect();
    running_ports(&links, ifindex).map(|port| port.ifindex).collect()
}

fn running_ports<'a>(links: &[&'a OwnLink], ifindex: u32) -> impl Iterator<Item = &'a OwnLink> {
    let is_bond = |link: &&&OwnLink| link.ifindex == ifindex && link.kind == Kind::Bond;
    let bond = links.iter().find(is_bond).map(|link| link.ifindex);
    links
        .iter()
        .copied()
        .filter(move |link| bond.is_some() && link.master == bond)
}

fn addresses_of(links: &[&OwnLink], ifindex: u32) -> Vec<Mac> {
    let mut macs = Vec::new();
    let mut seen = BTreeSet::from([ifindex]);
    let mut next = vec![ifindex];
    // A device may stand on others to any depth: a macvlan on a VLAN of a bond. `seen` ends what the kernel would not allow.
    while let Some(index) = next.pop() {
        let link = links.iter().find(|link| link.ifindex == index);
        if let Some(mac) = link.and_then(|link| link.mac).filter(|mac| !macs.contains(mac)) {
            macs.push(mac);
        }
        let is_above = |other: &&&OwnLink| match other.kind {
            Kind::Aggregate | Kind::Bond => link.is_some_and(|link| link.master == Some(other.ifindex)),
            Kind::Upper => other.lower == Some(index),
            Kind::Other => false,
        };
        for above in links.iter().filter(is_above) {
            if seen.insert(above.ifindex) {
                next.push(above.ifindex);
            }
        }
    }
    macs
}

impl OwnLink {
    /// Reads a link message.
    pub(super) fn from_message(message: &LinkMessage) -> Self {
        let mut link = Self {
            ifindex: message.header.index,
            mac: None,
            // Without any information, hardware's.
            kind: Kind::Bond,
            master: None,
            lower: None,
        };
        let mut elsewhere = false;
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::Address(mac) if message.header.link_layer_type == LinkLayerType::Ether => {
                    link.mac = Mac::try_from(mac.as_slice()).ok();
                }
                LinkAttribute::Controller(master) => link.master = Some(*master).filter(|master| *master != 0),
                LinkAttribute::Link(lower) => link.lower = Some(*lower),
                // The index is one of another namespace's.
                LinkAttribute::LinkNetNsId(_) => elsewhere = true,
                LinkAttribute::LinkInfo(infos) => link.kind = kind(infos),
                _ => {}
            }
        }
        if elsewhere {
            link.lower = None;
        }
        link
    }
}

fn kind(infos: &[LinkInfo]) -> Kind {
    let kind = infos.iter().find_map(|info| match info {
        LinkInfo::Kind(kind) => Some(kind),
        _ => None,
    });
    match kind {
        Some(InfoKind::Bridge | InfoKind::Team) => Kind::Aggregate,
        // Hardware's interfaces have no kind.
        Some(InfoKind::Bond) | None => Kind::Bond,
        Some(InfoKind::MacVlan | InfoKind::Vlan) => Kind::Upper,
        _ => Kind::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(ifindex: u32, mac: u8, kind: Option<InfoKind>, attributes: &[LinkAttribute]) -> LinkMessage {
        let mut message = LinkMessage::default();
        message.header.index = ifindex;
        message.header.link_layer_type = LinkLayerType::Ether;
        message.attributes = vec![LinkAttribute::Address(vec![2, 0, 0, 0, 0, mac])];
        message.attributes.extend_from_slice(attributes);
        if let Some(kind) = kind {
            message
                .attributes
                .push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind)]));
        }
        message
    }

    #[track_caller]
    fn check(messages: &[LinkMessage], ifindex: u32, expected: &[u8]) {
        let links: Vec<OwnLink> = messages.iter().map(OwnLink::from_message).collect();
        let own = own_addresses(&links, &[ifindex]);
        let mut found: Vec<u8> = own.get(&ifindex).into_iter().flatten().map(|mac| mac[5]).collect();
        assert_eq!(found.first(), expected.first(), "the interface's own is the first");
        found.sort_unstable();
        assert_eq!(found, expected);
    }

    #[test]
    fn an_interface_alone() {
        let links = [message(2, 2, None, &[]), message(3, 3, None, &[])];
        check(&links, 2, &[2]);
        check(&links, 4, &[]);
    }

    #[test]
    fn macvlans_and_vlans_on_it_but_not_a_virtual_machines() {
        use LinkAttribute::Link;
        let links = [
            message(2, 2, None, &[]),
            message(3, 3, Some(InfoKind::MacVlan), &[Link(2)]),
            message(4, 4, Some(InfoKind::Vlan), &[Link(2)]),
            message(5, 5, Some(InfoKind::MacVtap), &[Link(2)]),
            // One end of a veth pair stands on the other.
            message(6, 6, Some(InfoKind::Veth), &[Link(2)]),
            message(7, 7, Some(InfoKind::MacVlan), &[Link(6)]),
        ];
        check(&links, 2, &[2, 3, 4]);
        // What stands on it takes in its own frames alone.
        check(&links, 3, &[3]);
    }

    #[test]
    fn a_container_s_macvlan_is_somebody_elses() {
        use LinkAttribute::{Link, LinkNetNsId};
        // Here is a macvlan whose lower interface, number 2 as well, is in another namespace.
        let links = [
            message(2, 2, None, &[]),
            message(3, 3, Some(InfoKind::MacVlan), &[Link(2), LinkNetNsId(0)]),
            message(4, 4, Some(InfoKind::MacVlan), &[LinkNetNsId(0), Link(2)]),
        ];
        check(&links, 2, &[2]);
    }

    #[test]
    fn a_bond_or_bridge_that_it_is_a_port_of() {
        use LinkAttribute::{Controller, Link};
        let links = [
            message(2, 2, None, &[Controller(10)]),
            message(3, 3, None, &[Controller(10)]),
            message(10, 10, Some(InfoKind::Bond), &[Controller(11)]),
            message(11, 11, Some(InfoKind::Bridge), &[]),
            message(12, 12, Some(InfoKind::Vlan), &[Link(11)]),
            message(13, 13, Some(InfoKind::MacVlan), &[Link(12)]),
            message(14, 14, Some(InfoKind::Vlan), &[Link(13)]),
            message(15, 15, Some(InfoKind::Bridge), &[]),
        ];
        // Not the other port's: its frames arrive there.
        check(&links, 2, &[2, 10, 11, 12, 13, 14]);
        // A routing domain has an address of its own that is nobody's.
        let links = [
            message(2, 2, None, &[Controller(10)]),
            message(10, 10, Some(InfoKind::Vrf), &[]),
        ];
        check(&links, 2, &[2]);
        // Without a master the attribute is absent, or 0.
        let links = [
            message(2, 2, None, &[Controller(0)]),
            message(0, 9, Some(InfoKind::Bond), &[]),
        ];
        check(&links, 2, &[2]);
    }

    #[test]
    fn an_address_that_several_share_is_named_once() {
        use LinkAttribute::{Controller, Link};
        let links = [
            message(2, 2, None, &[Controller(10)]),
            message(10, 2, Some(InfoKind::Bond), &[]),
            message(11, 2, Some(InfoKind::Vlan), &[Link(10)]),
        ];
        check(&links, 2, &[2]);
    }

    /// All sets, by their last bytes.
    fn sets(messages: &[LinkMessage], interfaces: &[u32]) -> Vec<(u32, Vec<u8>)> {
        let links: Vec<OwnLink> = messages.iter().map(OwnLink::from_message).collect();
        let last = |macs: Vec<Mac>| macs.iter().map(|mac| mac[5]).collect();
        let own = own_addresses(&links, interfaces).into_iter();
        own.map(|(ifindex, macs)| (ifindex, last(macs))).collect()
    }

    #[test]
    fn a_bond_s_ports_run_its_program_and_a_bridge_s_do_not() {
        use LinkAttribute::{Controller, Link};
        let bond = |kind| {
            [
                message(2, 10, Some(InfoKind::Veth), &[Controller(10)]),
                message(3, 3, None, &[Controller(10)]),
                message(4, 4, None, &[]),
                message(10, 10, kind, &[]),
                message(12, 12, Some(InfoKind::Vlan), &[Link(10)]),
            ]
        };
        let expected = [(2, vec![10, 12]), (3, vec![3, 10, 12]), (10, vec![10, 12, 3])];
        assert_eq!(sets(&bond(Some(InfoKind::Bond)), &[10]), expected);
        // Hyper-V's interface has a virtual function as its port, and no kind.
        assert_eq!(sets(&bond(None), &[10]), expected);
        let alone = sets(&bond(Some(InfoKind::Bond)), &[10, 4]);
        assert_eq!(alone[2], (4, vec![4]), "the other interface's is its own");
        for kind in [InfoKind::Bridge, InfoKind::Team] {
            assert_eq!(sets(&bond(Some(kind)), &[10]), [(10, vec![10, 12])]);
        }
        // A port that is named itself, beside the bond or alone.
        assert_eq!(sets(&bond(Some(InfoKind::Bond)), &[3, 10]), expected);
        assert_eq!(sets(&bond(Some(InfoKind::Bond)), &[3]), [(3, vec![3, 10, 12])]);
        // One that is gone has no set.
        assert_eq!(sets(&bond(Some(InfoKind::Bond)), &[10, 99]), expected);
    }
}

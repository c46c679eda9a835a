//! Which Ethernet addresses are this host's own on an interface, and what changes them.
//!
//! Frames that arrive by an interface are for this host if they are addressed to the interface itself; to the bond, team or bridge that it is
//! a port of; or to a macvlan (as keepalived makes them for VRRP's addresses) or VLAN device on any of these, in this network namespace. A
//! macvlan that was given to a container is that one's, and a macvtap is a virtual machine's.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use lb_common::encap::Mac;
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkLayerType, LinkMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::MulticastGroup;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout_at};
use tracing::{debug, warn};

use super::NetlinkError;
use super::socket::{Change, Changes, Requests};

/// Changes that come within this time are taken together.
const DEBOUNCE: Duration = Duration::from_millis(5);
/// After the links were read they are not read again for as long as that took, and this: so endless changes take half of one core at most.
const REST: Duration = Duration::from_millis(20);
/// Links are read anew this often, in case a change was not announced.
const SNAPSHOT: Duration = Duration::from_secs(60);
/// The pause before trying again when the kernel cannot be asked.
const RETRY: Duration = Duration::from_secs(1);

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
    /// A bond, team or bridge: its ports take in its frames.
    Aggregate,
    /// A macvlan or VLAN device: the interface that it stands on takes in its frames.
    Upper,
    Other,
}

/// Every interface of this thread's network namespace.
///
/// # Errors
/// The failure to ask.
pub async fn own_links() -> Result<Vec<OwnLink>, NetlinkError> {
    read(&Requests::open()?).await
}

async fn read(requests: &Requests) -> Result<Vec<OwnLink>, NetlinkError> {
    Ok(requests
        .links()
        .await?
        .iter()
        .filter_map(OwnLink::from_message)
        .collect())
}

/// The host's own addresses on each of these interfaces, the interface's own first.
pub fn own_addresses(links: &[OwnLink], interfaces: &[u32]) -> BTreeMap<u32, Vec<Mac>> {
    interfaces
        .iter()
        .map(|ifindex| (*ifindex, addresses_of(links, *ifindex)))
        .collect()
}

fn addresses_of(links: &[OwnLink], ifindex: u32) -> Vec<Mac> {
    let mut macs = Vec::new();
    let mut seen = BTreeSet::from([ifindex]);
    let mut next = vec![ifindex];
    // A device may stand on others to any depth: a macvlan on a VLAN of a bond. `seen` ends what the kernel would not allow.
    while let Some(index) = next.pop() {
        let link = links.iter().find(|link| link.ifindex == index);
        if let Some(mac) = link.and_then(|link| link.mac).filter(|mac| !macs.contains(mac)) {
            macs.push(mac);
        }
        let is_above = |other: &&OwnLink| match other.kind {
            Kind::Aggregate => link.is_some_and(|link| link.master == Some(other.ifindex)),
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

/// Sends all interfaces whenever something of them has changed that matters here, in a task of its own that ends when nobody listens any
/// more. A change is known within some 30 ms.
///
/// # Errors
/// No socket could be opened.
pub fn follow_links(sender: mpsc::Sender<Vec<OwnLink>>) -> Result<(), NetlinkError> {
    let sockets = open()?;
    tokio::spawn(follow(sockets, sender));
    Ok(())
}

fn open() -> Result<(Requests, Changes), NetlinkError> {
    Ok((Requests::open()?, Changes::open_for(&[MulticastGroup::Link])?))
}

async fn follow((mut requests, mut changes): (Requests, Changes), sender: mpsc::Sender<Vec<OwnLink>>) {
    let mut last = Vec::new();
    loop {
        let begun = Instant::now();
        match read(&requests).await {
            Ok(links) if links == last => {}
            Ok(links) => {
                debug!(links = links.len(), "interfaces have changed");
                last = links.clone();
                if sender.send(links).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                warn!("own addresses are not followed at present: {error}");
                sleep(RETRY).await;
                continue;
            }
        }
        sleep(begun.elapsed() + REST).await;
        if wait(&mut changes, Instant::now() + SNAPSHOT).await.is_none() {
            match open() {
                Ok(sockets) => (requests, changes) = sockets,
                Err(error) => warn!("own addresses are not followed at present: {error}"),
            }
            // Also after success: a socket that fails at once must not keep the core busy.
            sleep(RETRY).await;
        }
        if sender.is_closed() {
            return;
        }
    }
}

/// Waits until an interface has changed, and all that changes with it; or until then. Nothing: the socket is broken.
async fn wait(changes: &mut Changes, until: Instant) -> Option<()> {
    use RouteNetlinkMessage::{DelLink, NewLink};
    loop {
        match timeout_at(until, changes.next()).await {
            Err(_) => return Some(()),
            Ok(Change::Closed) => return None,
            Ok(Change::Message(NewLink(_) | DelLink(_)) | Change::Lost) => break,
            Ok(Change::Message(_) | Change::Routes) => {}
        }
    }
    let until = Instant::now() + DEBOUNCE;
    while let Ok(change) = timeout_at(until, changes.next()).await {
        if matches!(change, Change::Closed) {
            return None;
        }
    }
    Some(())
}

impl OwnLink {
    /// Reads a link message; nothing if it is about a bridge's port.
    fn from_message(message: &LinkMessage) -> Option<Self> {
        if message.header.interface_family != AddressFamily::Unspec {
            return None;
        }
        let mut link = Self {
            ifindex: message.header.index,
            mac: None,
            kind: Kind::Other,
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
        Some(link)
    }
}

fn kind(infos: &[LinkInfo]) -> Kind {
    let kind = infos.iter().find_map(|info| match info {
        LinkInfo::Kind(kind) => Some(kind),
        _ => None,
    });
    match kind {
        Some(InfoKind::Bond | InfoKind::Bridge | InfoKind::Team) => Kind::Aggregate,
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
        let links: Vec<OwnLink> = messages.iter().filter_map(OwnLink::from_message).collect();
        let own = own_addresses(&links, &[ifindex]);
        let mut found: Vec<u8> = own[&ifindex].iter().map(|mac| mac[5]).collect();
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

    #[test]
    fn a_bridge_s_view_of_a_port_is_no_link() {
        let mut port = message(2, 2, None, &[]);
        port.header.interface_family = AddressFamily::Bridge;
        assert_eq!(OwnLink::from_message(&port), None);
    }
}

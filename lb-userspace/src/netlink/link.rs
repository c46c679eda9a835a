//! Interfaces: what the kernel says of one, and this host's addresses.

use std::net::IpAddr;

use lb_common::encap::Mac;
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkLayerType, LinkMessage, LinkXdp, XdpAttached};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::NetlinkError;
use super::address::OwnAddress;
use super::own::OwnLink;
use super::socket::Requests;

/// An interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its number.
    pub ifindex: u32,
    /// Its name.
    pub name: String,
    /// Its Ethernet address; nothing: it is not an Ethernet interface.
    pub mac: Option<Mac>,
    /// The largest IP packet in bytes.
    pub mtu: u32,
    /// It was set up.
    pub up: bool,
    /// It has a carrier: a cable, or a peer that is up.
    pub carrier: bool,
    /// The XDP program attached to it.
    pub xdp: Option<XdpState>,
    /// What of it decides which frames are for this host.
    pub own: OwnLink,
}

/// An XDP program on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct XdpState {
    /// How it is attached.
    pub mode: XdpAttachment,
    /// The program's number. Of several, the one that sees a packet first.
    pub program_id: u32,
}

/// How an XDP program is attached, as the kernel reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XdpAttachment {
    /// By the driver.
    Native,
    /// By the network stack.
    Generic,
    /// On the card.
    Offload,
    /// In several of these ways at once.
    Multi,
}

/// The interface of that name, in this thread's network namespace.
///
/// # Errors
/// [`NetlinkError::NoInterface`] if there is none, or the failure to ask.
pub async fn link_by_name(name: &str) -> Result<Link, NetlinkError> {
    let message = Requests::open()?.link(name).await?;
    Link::from_message(&message).ok_or(NetlinkError::NoAnswer { request: "show a link" })
}

/// All interfaces of this thread's network namespace.
///
/// # Errors
/// The failure to ask.
pub async fn all_links() -> Result<Vec<Link>, NetlinkError> {
    let messages = Requests::open()?.links().await?;
    let link = |message: &RouteNetlinkMessage| match message {
        RouteNetlinkMessage::NewLink(link) => Link::from_message(link),
        _ => None,
    };
    Ok(messages.iter().filter_map(link).collect())
}

/// This host's own addresses with the number of their interface, loopback's included.
///
/// # Errors
/// The failure to ask.
pub async fn local_addresses() -> Result<Vec<(IpAddr, u32)>, NetlinkError> {
    let messages = Requests::open()?.addresses().await?;
    let own = messages.iter().filter_map(OwnAddress::from_message);
    Ok(own.map(|own| (own.address, own.ifindex)).collect())
}

impl Link {
    /// Reads a link message; nothing if it is about a bridge port or lacks a name.
    pub(super) fn from_message(message: &LinkMessage) -> Option<Self> {
        if message.header.interface_family != AddressFamily::Unspec {
            return None;
        }
        let ethernet = message.header.link_layer_type == LinkLayerType::Ether;
        let mut name = None;
        let mut mac = None;
        let mut mtu = 0;
        let mut xdp = None;
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(value) => name = Some(value.clone()),
                LinkAttribute::Address(value) if ethernet => mac = Mac::try_from(value.as_slice()).ok(),
                LinkAttribute::Mtu(value) => mtu = *value,
                LinkAttribute::Xdp(value) => xdp = XdpState::from_attributes(value),
                _ => {}
            }
        }
        Some(Self {
            ifindex: message.header.index,
            name: name?,
            mac,
            mtu,
            up: message.header.flags.contains(LinkFlags::Up),
            carrier: message.header.flags.contains(LinkFlags::LowerUp),
            xdp,
            own: OwnLink::from_message(message),
        })
    }
}

impl XdpState {
    fn from_attributes(attributes: &[LinkXdp]) -> Option<Self> {
        let mode = attributes.iter().find_map(|attribute| match attribute {
            LinkXdp::Attached(XdpAttached::Driver) => Some(XdpAttachment::Native),
            LinkXdp::Attached(XdpAttached::SocketBuffer) => Some(XdpAttachment::Generic),
            LinkXdp::Attached(XdpAttached::Hardware) => Some(XdpAttachment::Offload),
            LinkXdp::Attached(XdpAttached::Multiple) => Some(XdpAttachment::Multi),
            _ => None,
        })?;
        // Attached in several ways, each has an attribute of its own, and the single one is absent.
        let program_id = attributes
            .iter()
            .filter_map(|attribute| match attribute {
                LinkXdp::ProgId(id) => Some((0, *id)),
                LinkXdp::HwProgId(id) => Some((1, *id)),
                LinkXdp::DrvProgId(id) => Some((2, *id)),
                LinkXdp::SkbProgId(id) => Some((3, *id)),
                _ => None,
            })
            .min()?
            .1;
        Some(Self { mode, program_id })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: LinkLayerType, attributes: Vec<LinkAttribute>) -> LinkMessage {
        let mut message = LinkMessage::default();
        message.header.index = 7;
        message.header.link_layer_type = kind;
        message.header.flags = LinkFlags::Up;
        message.attributes = attributes;
        message
    }

    #[test]
    fn an_ethernet_link_has_a_mac() {
        let attributes = vec![
            LinkAttribute::IfName("eth0".into()),
            LinkAttribute::Address(vec![2, 0, 0, 0, 0, 1]),
            LinkAttribute::Mtu(1500),
        ];
        let message = message(LinkLayerType::Ether, attributes);
        let expected = Link {
            ifindex: 7,
            name: "eth0".into(),
            mac: Some([2, 0, 0, 0, 0, 1]),
            mtu: 1500,
            up: true,
            carrier: false,
            xdp: None,
            own: OwnLink::from_message(&message),
        };
        assert_eq!(Link::from_message(&message), Some(expected));
    }

    #[test]
    fn other_links_have_none() {
        // Loopback's address has six bytes too; InfiniBand's has twenty.
        for (kind, address) in [
            (LinkLayerType::Loopback, vec![0; 6]),
            (LinkLayerType::Infiniband, vec![1; 20]),
        ] {
            let attributes = vec![LinkAttribute::IfName("x".into()), LinkAttribute::Address(address)];
            assert_eq!(
                Link::from_message(&message(kind, attributes)).unwrap().mac,
                None,
                "{kind:?}"
            );
        }
    }

    #[test]
    fn a_bridge_ports_message_is_not_a_link() {
        let mut port = message(LinkLayerType::Ether, vec![LinkAttribute::IfName("eth0".into())]);
        port.header.interface_family = AddressFamily::Bridge;
        assert_eq!(Link::from_message(&port), None);
    }

    #[test]
    fn xdp_modes() {
        let check = |attributes: &[LinkXdp], expected: Option<(XdpAttachment, u32)>| {
            let state = XdpState::from_attributes(attributes);
            assert_eq!(
                state.map(|state| (state.mode, state.program_id)),
                expected,
                "{attributes:?}"
            );
        };
        check(&[LinkXdp::Attached(XdpAttached::None)], None);
        check(
            &[
                LinkXdp::Attached(XdpAttached::Driver),
                LinkXdp::ProgId(5),
                LinkXdp::DrvProgId(5),
            ],
            Some((XdpAttachment::Native, 5)),
        );
        check(
            &[LinkXdp::Attached(XdpAttached::SocketBuffer), LinkXdp::ProgId(6)],
            Some((XdpAttachment::Generic, 6)),
        );
        check(
            &[
                LinkXdp::Attached(XdpAttached::Multiple),
                LinkXdp::SkbProgId(8),
                LinkXdp::DrvProgId(9),
            ],
            Some((XdpAttachment::Multi, 9)),
        );
    }
}

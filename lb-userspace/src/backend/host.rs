//! This host as netlink shows it: interfaces, addresses, and the way back to clients.

use std::net::{IpAddr, Ipv4Addr};

use futures_util::{StreamExt as _, TryStreamExt as _};
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressMessage, AddressProtocol, AddressScope, CacheInfo,
};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkLayerType, LinkMessage, LinkXdp};
use netlink_packet_route::route::RouteAttribute;
use rtnetlink::{Handle, MulticastGroup, RouteMessageBuilder};
use tokio::sync::mpsc;

use super::BackendError;

/// The index that the loopback interface has in every network namespace.
const LO: u32 = 1;
/// Marks the addresses that are ours (`IFA_PROTO`, kept by the kernel since Linux 5.18; `ip -d address` shows it).
const MARK: AddressProtocol = AddressProtocol::Other(0xED);
const FOREVER: u32 = u32::MAX;

/// One interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its index.
    pub index: u32,
    /// Whether it is up.
    pub up: bool,
    /// Whether it is a loopback interface.
    pub loopback: bool,
    /// Whether its frames have Ethernet headers.
    pub ethernet: bool,
    /// Whether it resolves addresses by ARP.
    pub arp: bool,
    /// The XDP program attached to it.
    pub program: Option<u32>,
}

/// One address of this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// Index of its interface.
    pub index: u32,
    /// The address.
    pub address: IpAddr,
    /// Whether it was put there by [`Host::add_vip`].
    pub ours: bool,
}

impl Address {
    /// Whether the address is on `lo`.
    pub fn is_on_lo(&self) -> bool {
        self.index == LO
    }
}

/// A netlink connection.
pub struct Host {
    handle: Handle,
    changes: mpsc::Receiver<()>,
}

impl Host {
    /// Opens a connection that also hears of every change of addresses and interfaces. Needs a tokio runtime.
    ///
    /// # Errors
    ///
    /// If the kernel does not give a netlink socket.
    pub fn connect() -> Result<Self, BackendError> {
        let groups = [
            MulticastGroup::Link,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Ifaddr,
        ];
        let (connection, handle, mut messages) =
            rtnetlink::new_multicast_connection(&groups).map_err(|source| BackendError::System {
                what: "a netlink socket",
                source,
            })?;
        tokio::spawn(connection);
        // One pending note is enough: whoever takes it reads all addresses anew.
        let (note, changes) = mpsc::channel(1);
        tokio::spawn(async move {
            while messages.next().await.is_some() {
                if matches!(note.try_send(()), Err(mpsc::error::TrySendError::Closed(()))) {
                    break;
                }
            }
        });
        Ok(Host { handle, changes })
    }

    /// Waits until an address or an interface has come, gone or changed. Never returns if the connection is lost.
    pub async fn changed(&mut self) {
        if self.changes.recv().await.is_none() {
            std::future::pending::<()>().await;
        }
    }

    /// All interfaces.
    ///
    /// # Errors
    ///
    /// If netlink fails.
    pub async fn interfaces(&self) -> Result<Vec<Interface>, BackendError> {
        let links: Vec<LinkMessage> = self
            .handle
            .link()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(netlink("the interfaces"))?;
        Ok(links.iter().filter_map(interface).collect())
    }

    /// All addresses.
    ///
    /// # Errors
    ///
    /// If netlink fails.
    pub async fn addresses(&self) -> Result<Vec<Address>, BackendError> {
        let messages: Vec<AddressMessage> = self
            .handle
            .address()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(netlink("the addresses"))?;
        Ok(messages.iter().filter_map(address).collect())
    }

    /// Puts a VIP on `lo`, such that this host never chooses it for connections of its own: of scope host (IPv4) or deprecated
    /// (IPv6).
    ///
    /// # Errors
    ///
    /// If netlink refuses, for example because IPv6 is disabled.
    pub async fn add_vip(&self, vip: IpAddr) -> Result<(), BackendError> {
        let mut request = self.handle.address().add(LO, vip, host_prefix(vip));
        let message = request.message_mut();
        message.attributes.push(AddressAttribute::Protocol(MARK));
        if vip.is_ipv4() {
            message.header.scope = AddressScope::Host;
        } else {
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
            let mut lifetimes = CacheInfo::default();
            lifetimes.ifa_preferred = 0;
            lifetimes.ifa_valid = FOREVER;
            message.attributes.push(AddressAttribute::CacheInfo(lifetimes));
        }
        request.execute().await.map_err(netlink(format!("put {vip} on lo")))
    }

    /// Takes a VIP off `lo` again, if it is there and was put there by [`Host::add_vip`]; says whether it was.
    ///
    /// # Errors
    ///
    /// If netlink refuses.
    pub async fn remove_vip(&self, vip: IpAddr) -> Result<bool, BackendError> {
        let addresses = self.addresses().await?;
        if !addresses
            .iter()
            .any(|found| found.address == vip && found.is_on_lo() && found.ours)
        {
            return Ok(false);
        }
        let mut message = AddressMessage::default();
        message.header.family = if vip.is_ipv4() {
            netlink_packet_route::AddressFamily::Inet
        } else {
            netlink_packet_route::AddressFamily::Inet6
        };
        message.header.index = LO;
        message.header.prefix_len = host_prefix(vip);
        message.attributes.push(AddressAttribute::Local(vip));
        message.attributes.push(AddressAttribute::Address(vip));
        let removed = self.handle.address().del(message).execute().await;
        removed.map_err(netlink(format!("take {vip} off lo")))?;
        Ok(true)
    }

    /// Index of the interface by which packets to far-away IPv4 clients leave; nothing if there is no such route.
    pub async fn way_to_clients(&self) -> Option<u32> {
        // An address set aside for documentation (RFC 5737): it stands for everywhere.
        let anywhere = Ipv4Addr::new(203, 0, 113, 1);
        let question = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(anywhere, 32)
            .build();
        let mut routes = Box::pin(self.handle.route().get(question).execute());
        let route = routes.try_next().await.ok().flatten()?;
        route.attributes.iter().find_map(|attribute| match attribute {
            RouteAttribute::Oif(index) => Some(*index),
            _ => None,
        })
    }
}

fn interface(link: &LinkMessage) -> Option<Interface> {
    let flags = link.header.flags;
    let mut name = None;
    let mut program = None;
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::IfName(text) => name = Some(text.clone()),
            LinkAttribute::Xdp(details) => {
                program = details.iter().find_map(|detail| match detail {
                    // With programs in several modes at once there is no common one: any of them is in the way.
                    LinkXdp::ProgId(id) | LinkXdp::DrvProgId(id) | LinkXdp::SkbProgId(id) | LinkXdp::HwProgId(id) => {
                        (*id != 0).then_some(*id)
                    }
                    _ => None,
                });
            }
            _ => {}
        }
    }
    Some(Interface {
        name: name?,
        index: link.header.index,
        up: flags.contains(LinkFlags::Up),
        loopback: flags.contains(LinkFlags::Loopback),
        ethernet: link.header.link_layer_type == LinkLayerType::Ether,
        arp: !flags.contains(LinkFlags::Noarp),
        program,
    })
}

fn address(message: &AddressMessage) -> Option<Address> {
    let mut local = None;
    let mut remote = None;
    let mut ours = false;
    for attribute in &message.attributes {
        match attribute {
            // On point-to-point interfaces IFA_ADDRESS is the other end, and IFA_LOCAL is ours.
            AddressAttribute::Local(address) => local = Some(*address),
            AddressAttribute::Address(address) => remote = Some(*address),
            AddressAttribute::Protocol(protocol) => ours = *protocol == MARK,
            _ => {}
        }
    }
    Some(Address {
        index: message.header.index,
        address: local.or(remote)?,
        ours,
    })
}

/// The prefix length of a single address.
fn host_prefix(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn netlink(what: impl Into<String>) -> impl FnOnce(rtnetlink::Error) -> BackendError {
    let what = what.into();
    move |source| BackendError::Netlink { what, source }
}

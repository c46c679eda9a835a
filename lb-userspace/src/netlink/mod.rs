//! Next hops, found through the kernel: which interface, and which Ethernet addresses, a packet to a backend needs.
//!
//! [`Watcher`] answers for a set of addresses and follows every change of link, address, route, rule and neighbour. It is
//! made of parts that can be read, and tested, one by one:
//!
//! - [`link`], `route` and `neighbour` read one kind of message each, and know nothing of the others;
//! - `table` holds what the kernel said and decides: what to look up, whom to ask (by the rules of `asking`), what to
//!   report. It does no input or output, and time is passed in;
//! - [`links`] follows the interfaces for everybody else;
//! - `socket` talks to the kernel;
//! - [`watcher`] is the loop between them.
//!
//! Apart from it, [`own`] says which Ethernet addresses are this host's own.
//!
//! The kernel's own tables decide: rules, several routing tables, several next hops and gateways of the other family
//! (an IPv4 route by way of an IPv6 neighbour, kernel 5.2) are all followed, because every address is looked up in the
//! kernel (`RTM_GETROUTE`) as a packet of this host would be, without a mark or an input interface, and with a source if it is configured. Of a route with
//! several next hops one is used for one backend: the one that the kernel's hash picks.
//!
//! # Neighbours
//!
//! The kernel forgets neighbours that nobody uses, and the balanced packets never pass its stack. So a neighbour that is
//! missing is asked for, and one that went stale is confirmed, with `RTM_NEWNEIGH` and `NTF_USE`: to the kernel it looks
//! as if a packet had been sent there. A gateway shared by thousands of backends is asked for once.
//!
//! `NTF_EXT_MANAGED` (kernel 5.16) would let the kernel repeat this by itself. It is not used: it does the same at the
//! same pace, and its entries would outlive a daemon that was killed, as litter that nobody takes away. What [`Watcher`]
//! leaves behind are ordinary entries that age.
//!
//! An entry that an operator set (`PERMANENT`) is used and never touched: `NTF_USE` would take its permanence away.
//!
//! # How fast
//!
//! A change that the kernel announces is followed within some 25 ms, or 50 ms if a new neighbour has to be asked for. The
//! kernel is late itself with three things:
//!
//! - a lost carrier is announced within a second;
//! - a neighbour that stops answering has failed three seconds after the kernel began to doubt it;
//! - a new MAC address that its owner does not announce is found when the old one has failed, within a minute or so.
//!
//! Health checks see the last two earlier.
//!
//! Several changes have no message about the routes that they change. What goes with them is followed instead: next-hop objects, links,
//! addresses (IPv4 routes go with them), settings of interfaces, gateways that begin or cease to answer. Routes that expire
//! are asked for again when they do. What has no message at all is found within a minute: ICMP redirects, a path MTU that the
//! kernel learnt, `net.ipv4.fib_multipath_hash_policy`.

pub mod address;
mod asking;
mod error;
pub mod link;
pub mod links;
mod neighbour;
pub mod own;
mod route;
mod socket;
pub mod source;
mod table;
pub mod watcher;

use std::net::IpAddr;

use lb_common::encap::Mac;

pub use address::{Addresses, OwnAddress};
pub use error::{NetlinkError, Refusal, Unreachable};
pub use link::{Link, XdpAttachment, XdpState, all_links, link_by_name, local_addresses};
pub use links::{LinkChanges, LinkTable};
pub use own::{OwnLink, own_addresses, own_links, ports};
pub use watcher::Watcher;

/// The way to one address: what the Ethernet header of a packet to it needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextHop {
    /// The interface that the packet leaves by.
    pub ifindex: u32,
    /// That interface's address.
    pub source_mac: Mac,
    /// The neighbour's address.
    pub destination_mac: Mac,
    /// The neighbour: the route's gateway, of either family, or the address itself when it is on the link.
    pub neighbour: IpAddr,
    /// The source address that the kernel would choose, for outer headers; nothing: this host has none of the family.
    pub preferred_source: Option<IpAddr>,
    /// The largest IP packet in bytes: the interface's MTU, or the route's if that is smaller.
    pub mtu: u32,
}

/// What is known of an address.
pub type Answer = Result<NextHop, Unreachable>;

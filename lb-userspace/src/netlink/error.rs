//! What can be wrong with netlink itself, and with the way to one address.

use std::fmt;
use std::io;
use std::net::IpAddr;

/// Talking to the kernel failed.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// No socket.
    #[error("cannot open a netlink socket: {0}")]
    Open(#[source] io::Error),
    /// The kernel answered a request with an error.
    #[error("the kernel refuses to {request}: {source}")]
    Refused {
        /// What was asked.
        request: &'static str,
        /// Its answer.
        #[source]
        source: io::Error,
    },
    /// The answer never came, or could not be read.
    #[error("no readable answer from the kernel to \"{request}\"")]
    NoAnswer {
        /// What was asked.
        request: &'static str,
    },
    /// There is no such interface in this network namespace.
    #[error("there is no interface \"{name}\": `ip link` shows those there are")]
    NoInterface {
        /// The name asked for.
        name: String,
    },
    /// The watcher has ended.
    #[error("the watcher of next hops has ended")]
    Ended,
}

/// Why no packet can be sent to an address at present.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreachable {
    /// No route matches.
    #[error("there is no route to {address}: `ip route get {address}` must show one")]
    NoRoute {
        /// The address that was looked up.
        address: IpAddr,
    },
    /// The route that matches refuses packets.
    #[error("the route to {address} is of type {kind}: `ip route get {address}` must show a gateway or an interface")]
    Rejected {
        /// The address that was looked up.
        address: IpAddr,
        /// How it refuses.
        kind: Refusal,
    },
    /// The address is this host's own.
    #[error("{address} is an address of this host: a backend must be another host")]
    LocalAddress {
        /// The address that was looked up.
        address: IpAddr,
    },
    /// The address stands for several hosts.
    #[error("{address} is a broadcast, anycast or multicast address: a backend must be one host")]
    NotUnicast {
        /// The address that was looked up.
        address: IpAddr,
    },
    /// A link-local address, which means a host only together with an interface.
    #[error("{address} is link-local, so it names no single host: use the backend's global or unique local address")]
    LinkLocal {
        /// The address that was looked up.
        address: IpAddr,
    },
    /// The route puts packets into a tunnel of its own.
    #[error("the route to {address} encapsulates (MPLS, SRv6 or the like): only plain routes can be followed")]
    Encapsulated {
        /// The address that was looked up.
        address: IpAddr,
    },
    /// Looking up the route failed in another way.
    #[error("looking up the route to {address} failed: {}", io::Error::from_raw_os_error(*.errno))]
    RouteFailed {
        /// The address that was looked up.
        address: IpAddr,
        /// The kernel's error number.
        errno: i32,
    },
    /// The route's interface is unknown; it may have been removed just now.
    #[error("the route to {address} leaves by interface number {ifindex}, which does not exist (any more)")]
    NoInterface {
        /// The address that was looked up.
        address: IpAddr,
        /// The interface's number.
        ifindex: u32,
    },
    /// The route's interface cannot send.
    #[error(
        "{address} is behind {interface}, which {}",
        if *.carrier { "is down: `ip link set {interface} up`" } else { "has no carrier: check the cable or the peer" }
    )]
    InterfaceDown {
        /// The address that was looked up.
        address: IpAddr,
        /// The interface's name.
        interface: String,
        /// Whether it has a carrier; then it was set down.
        carrier: bool,
    },
    /// The route's interface has no Ethernet header.
    #[error("{address} is behind {interface}, which is not an Ethernet interface: XDP cannot send there")]
    NotEthernet {
        /// The address that was looked up.
        address: IpAddr,
        /// The interface's name.
        interface: String,
    },
    /// The neighbour does not answer.
    #[error(
        "{neighbour} does not answer on {interface}, so {address} has no Ethernet address: is it up, and on that link?"
    )]
    NoNeighbour {
        /// The address that was looked up.
        address: IpAddr,
        /// The gateway, or the address itself.
        neighbour: IpAddr,
        /// The interface's name.
        interface: String,
    },
    /// The kernel's neighbour table is full.
    #[error(
        "the kernel's neighbour table has no room for {neighbour} on {interface}, so {address} has no Ethernet address: \
         raise the sysctl net.{}.neigh.default.gc_thresh3 above the number of hosts on the link",
        if .neighbour.is_ipv4() { "ipv4" } else { "ipv6" }
    )]
    NeighbourTableFull {
        /// The address that was looked up.
        address: IpAddr,
        /// The gateway, or the address itself.
        neighbour: IpAddr,
        /// The interface's name.
        interface: String,
    },
    /// The kernel would not ask for the neighbour.
    #[error(
        "the kernel does not look for {neighbour} on {interface}, so {address} has no Ethernet address: {}",
        io::Error::from_raw_os_error(*.errno)
    )]
    NeighbourRefused {
        /// The address that was looked up.
        address: IpAddr,
        /// The gateway, or the address itself.
        neighbour: IpAddr,
        /// The interface's name.
        interface: String,
        /// The kernel's error number.
        errno: i32,
    },
    /// This host has no address that a tunnel there could come from.
    #[error(
        "no source address for a tunnel to {address}: this host needs an IPv{} address that is neither link-local, tentative nor a VIP; \
         add one, or set node.tunnel_source_v{}",
        family(.address),
        family(.address)
    )]
    NoSource {
        /// The tunnel's end.
        address: IpAddr,
    },
    /// The source that is configured for tunnels is a service's address.
    #[error(
        "node.tunnel_source_v{} {outer} is a VIP, which backends have too: a tunnel to {address} needs another source",
        family(.address)
    )]
    SourceIsVip {
        /// The tunnel's end.
        address: IpAddr,
        /// What is configured.
        outer: IpAddr,
    },
    /// Nothing is known in time.
    #[error("nothing is known yet of the way to {address}")]
    NotYet {
        /// The address that was to be looked up.
        address: IpAddr,
    },
}

fn family(address: &IpAddr) -> u8 {
    if address.is_ipv4() { 4 } else { 6 }
}

impl Unreachable {
    /// Whether nothing is missing but an address that a tunnel could come from.
    pub fn is_about_the_source(&self) -> bool {
        matches!(self, Unreachable::NoSource { .. } | Unreachable::SourceIsVip { .. })
    }
}

/// How a route refuses packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Dropped without a word.
    Blackhole,
    /// Answered with "host unreachable".
    Unreachable,
    /// Answered with "administratively prohibited".
    Prohibit,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Refusal::Blackhole => "blackhole",
            Refusal::Unreachable => "unreachable",
            Refusal::Prohibit => "prohibit",
        })
    }
}

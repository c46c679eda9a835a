//! The networks of the tests and of the demo.
//!
//! ```text
//!  two arms                                     one arm
//!
//!  client ──┬── edge (eth0)                     client ──┬
//!           │    │ XDP redirect                          │
//!         fabric │                                     fabric ──┬── edge (eth0)  XDP_TX
//!           │    │ (eth1)                                       │
//!           └────┴─┬── web-1                                    ├── web-1
//!                  ├── web-2                                    ├── web-2
//!                  └── web-3                                    └── web-3
//! ```
//!
//! The fabric holds a bridge for the clients' subnet and one for the servers', and routes between them. So the backends' answers go
//! to the client past the edge (direct server return). The VIPs are no host's subnet: they are routed to the edge.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Result;

use super::bpf::Program;
use super::host::Host;

/// The servers' MTU: a full packet of the clients', 1,500 bytes, fits with any outer header.
const SERVER_MTU: u32 = 1_600;
const CLIENT_MTU: u32 = 1_500;

/// How many interfaces the edge has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arms {
    /// Clients and backends are behind the same one: `XDP_TX`.
    One,
    /// Clients are behind `eth0`, backends behind `eth1`: redirect through the device map.
    Two,
}

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// A client, an edge and some backends.
#[derive(Debug)]
pub struct Topology {
    /// Where requests come from; its interface is `eth0`.
    pub client: Host,
    /// Where `lbd` runs.
    pub edge: Host,
    /// `web-1`, `web-2`, …
    pub backends: Vec<Backend>,
    /// The switches, and the router between them.
    pub fabric: Host,
    /// How many interfaces the edge has.
    pub arms: Arms,
}

/// A backend; its interface is `eth0`.
#[derive(Debug)]
pub struct Backend {
    /// The host.
    pub host: Host,
    /// Its address.
    pub v4: Ipv4Addr,
    /// Its other address.
    pub v6: Ipv6Addr,
}

impl Topology {
    /// The interface where clients' packets reach the edge.
    pub const EDGE_INTERFACE: &'static str = "eth0";

    /// Builds the hosts and connects them; `backends` is 1 ..= 100.
    pub fn new(arms: Arms, backends: u8) -> Result<Self> {
        let mut fabric = Host::new("fabric")?;
        for (bridge, last) in [("clients", 1), ("servers", 2)] {
            // A port that learns from the first frame on forwards at once; spanning tree would wait 30 s. Without an address of its own a
            // bridge has the lowest of its ports': it would change when a port is made again, and hosts would lose their gateway.
            fabric.ip(&format!(
                "link add {bridge} address 02:fa:b0:00:00:{last:02x} type bridge forward_delay 0 stp_state 0 mcast_snooping 0"
            ))?;
        }
        fabric.ip_batch(&[
            "addr add 198.51.100.1/24 dev clients".into(),
            "addr add 2001:db8:c::1/64 dev clients nodad".into(),
            "addr add 10.0.0.1/24 dev servers".into(),
            "addr add 2001:db8:b::1/64 dev servers nodad".into(),
            "link set clients up".into(),
            "link set servers up".into(),
        ])?;
        fabric.sysctl("net/ipv4/conf/all/forwarding", "1")?;
        fabric.sysctl("net/ipv6/conf/all/forwarding", "1")?;

        let client = Host::new("client")?;
        plug(&client, "eth0", &fabric, "client", "clients")?;
        client.ip_batch(&addresses("eth0", client_v4(10), client_v6(10)))?;
        client.ip_batch(&default_routes(client_v4(1), client_v6(1)))?;

        let edge = Host::new("edge")?;
        let back_port = match arms {
            Arms::One => Self::EDGE_INTERFACE,
            Arms::Two => "eth1",
        };
        if arms == Arms::Two {
            plug(&edge, Self::EDGE_INTERFACE, &fabric, "edge-front", "clients")?;
            edge.ip_batch(&addresses(Self::EDGE_INTERFACE, client_v4(5), client_v6(5)))?;
            client.ip_batch(&vip_routes(client_v4(5), client_v6(5)))?;
            fabric.attach("edge-front", &Program::PASS)?;
        } else {
            fabric.ip_batch(&vip_routes(server_v4(5), server_v6(5)))?;
        }
        plug(&edge, back_port, &fabric, "edge-back", "servers")?;
        edge.ip_batch(&addresses(back_port, server_v4(5), server_v6(5)))?;
        edge.ip_batch(&default_routes(server_v4(1), server_v6(1)))?;
        fabric.attach("edge-back", &Program::PASS)?;

        let backends = (1..=backends)
            .map(|number| backend(&fabric, number))
            .collect::<Result<_>>()?;
        Ok(Self {
            client,
            edge,
            backends,
            fabric,
            arms,
        })
    }

    /// A VIP, 1 ..= 254: any number is routed to the edge. No host has it yet.
    pub fn vip(family: Family, number: u8) -> IpAddr {
        match family {
            Family::V4 => Ipv4Addr::new(192, 0, 2, number).into(),
            Family::V6 => Ipv6Addr::new(0x2001, 0xDB8, 0, 0, 0, 0, 0, same_digits(number)).into(),
        }
    }

    /// The backend of this name.
    pub fn backend(&self, name: &str) -> Option<&Backend> {
        self.backends.iter().find(|backend| backend.host.name() == name)
    }
}

impl Backend {
    /// Its name: `web-1`, `web-2`, …
    pub fn name(&self) -> &str {
        self.host.name()
    }

    /// Its address of a family.
    pub fn address(&self, family: Family) -> IpAddr {
        match family {
            Family::V4 => self.v4.into(),
            Family::V6 => self.v6.into(),
        }
    }
}

fn backend(fabric: &Host, number: u8) -> Result<Backend> {
    let host = Host::new(&format!("web-{number}"))?;
    let (v4, v6) = (server_v4(10 + number), server_v6(10 + number));
    plug(&host, "eth0", fabric, host.name(), "servers")?;
    host.ip_batch(&addresses("eth0", v4, v6))?;
    host.ip_batch(&default_routes(server_v4(1), server_v6(1)))?;
    Ok(Backend { host, v4, v6 })
}

fn plug(host: &Host, device: &str, fabric: &Host, port: &str, bridge: &str) -> Result<()> {
    let mtu = if bridge == "servers" { SERVER_MTU } else { CLIENT_MTU };
    host.connect(device, fabric, port, mtu)?;
    fabric.ip(&format!("link set {port} master {bridge}"))?;
    Ok(())
}

fn addresses(device: &str, v4: Ipv4Addr, v6: Ipv6Addr) -> [String; 2] {
    [
        format!("addr add {v4}/24 dev {device}"),
        format!("addr add {v6}/64 dev {device} nodad"),
    ]
}

fn default_routes(v4: Ipv4Addr, v6: Ipv6Addr) -> [String; 2] {
    [
        format!("route add default via {v4}"),
        format!("route add default via {v6}"),
    ]
}

fn vip_routes(v4: Ipv4Addr, v6: Ipv6Addr) -> [String; 2] {
    [
        format!("route add 192.0.2.0/24 via {v4}"),
        format!("route add 2001:db8::/64 via {v6}"),
    ]
}

fn client_v4(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(198, 51, 100, number)
}

fn client_v6(number: u8) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xDB8, 0xC, 0, 0, 0, 0, same_digits(number))
}

fn server_v4(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, number)
}

fn server_v6(number: u8) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xDB8, 0xB, 0, 0, 0, 0, same_digits(number))
}

/// The number whose hexadecimal digits are this one's decimal ones: `10.0.0.11` goes with `2001:db8:b::11`.
fn same_digits(number: u8) -> u16 {
    let number = u16::from(number);
    0x100 * (number / 100) + 0x10 * (number / 10 % 10) + number % 10
}

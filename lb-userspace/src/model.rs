//! What the balancer is to do: a configuration that cannot be wrong.
//!
//! Made from a file by `config`, which reports every error with its place. What holds here, holds everywhere below: names are
//! unique, no two services share VIP, protocol and port, no backend stands twice in a service, every number is in
//! its range.

mod alert;
mod check;
mod policy;
mod secret;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use lb_common::encap::Mac;
use lb_common::map::ServiceKey;

pub use alert::{Alert, AlertWay, SmtpTls};
pub use check::{Check, Dns, Exec, Grpc, Http, Statuses, Tls, Udp};
pub use policy::{Damping, Failback, Failover, Policy, Weights};
pub use secret::{Secret, SecretSource};

/// Everything that a configuration file says.
#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    /// This host.
    pub node: Node,
    /// Who is told of events, sorted by name.
    pub alerts: Vec<Alert>,
    /// The services, sorted by name.
    pub services: Vec<Service>,
}

/// The host that balances.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Names of the interfaces where the program is attached; at least one, no two alike.
    pub interfaces: Vec<String>,
    /// How it is attached.
    pub xdp_mode: XdpMode,
    /// What becomes of offloads that hide something from the program.
    pub offloads: Offloads,
    /// Seed of the flow hash, the same on every node of a fleet.
    pub hash_seed: u64,
    /// MAC address of every next hop; found through netlink when absent.
    pub gateway_mac: Option<Mac>,
    /// Source of outer IPv4 headers; found through the route when absent.
    pub tunnel_source_v4: Option<Ipv4Addr>,
    /// Source of outer IPv6 headers; found through the route when absent.
    pub tunnel_source_v6: Option<Ipv6Addr>,
    /// How large the tables are.
    pub capacity: Capacity,
}

/// How the program is attached to an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XdpMode {
    /// Native where the driver can, else generic, and that is said.
    Auto,
    /// Native, or not at all.
    Native,
    /// By the network stack, with any driver.
    Generic,
}

/// What becomes of offloads that hide VLAN tags from the program, or join packets before it sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offloads {
    /// They are switched off where the program is.
    Disable,
    /// The program is not put where one is on.
    Refuse,
    /// They stay as they are, and that is said.
    Keep,
}

/// How many entries the tables have room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Services: 1 ..= 1,000,000.
    pub services: u32,
    /// Pairs of service and backend: 1 ..= 4,000,000.
    pub backends: u32,
    /// Slots of all rings together; nothing: as many as the configuration needs, with room to grow.
    pub ring_slots: Option<u32>,
    /// Flows that can be remembered, of all services together: 1,024 ..= 16,777,216.
    pub flows: u32,
}

impl Default for Capacity {
    fn default() -> Self {
        Self {
            services: 10_000,
            backends: 200_000,
            ring_slots: None,
            flows: 524_288,
        }
    }
}

/// One VIP with its protocol and port, and how its traffic is spread.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// Unique among the services.
    pub name: String,
    /// The address that clients use.
    pub vip: IpAddr,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// 1 ..= 65,535.
    pub port: u16,
    /// What of a packet chooses its slot.
    pub hash: HashInput,
    /// Which flows are remembered while slots change owner.
    pub tracking: Tracking,
    /// How long flows of a slot that changed owner stay with the old one without being remembered: 1 s ..= 24 h. A flow that is
    /// silent for longer may move.
    pub drain_time: Duration,
    /// How many new connections, and how many established flows, are remembered in a second at most: 1 ..= 10,000,000.
    pub flow_inserts: u32,
    /// Slots of the ring: a prime, larger than the number of backends.
    pub ring_size: u32,
    /// How backends are checked; nothing: they are always up.
    pub health: Option<Health>,
    /// How backends are taken out of service and brought back.
    pub policy: Policy,
    /// The backends, sorted by name. May be empty.
    pub backends: Vec<Backend>,
}

/// A transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// What of a packet goes into the flow hash, besides the service itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HashInput {
    /// Both addresses, both ports, the protocol.
    FiveTuple,
    /// The client's address.
    Source,
    /// The client's address and the destination port.
    SourceDport,
    /// The destination port.
    Dport,
}

/// Which flows are remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tracking {
    /// Those of slots that change owner while the old owner serves.
    Adaptive,
    /// All.
    Always,
    /// None.
    Never,
}

/// One real server of a service.
#[derive(Clone, Debug, PartialEq)]
pub struct Backend {
    /// Unique within the service. The ring knows the backend by it: a new address under the same name moves no slot.
    pub name: String,
    /// Where packets go; unique within the service.
    pub address: IpAddr,
    /// Its share relative to the other backends': 0 ..= 65,535. 0 gets no traffic.
    pub weight: u32,
    /// How packets go there.
    pub forward: Forward,
    /// Its tier: backends of the lowest number serve first. 0 ..= 255.
    pub priority: u32,
    /// It serves only when nothing else is up.
    pub sorry: bool,
}

/// A forward mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forward {
    /// New Ethernet addresses, nothing else: the backend must be on the same link and of the VIP's address family.
    L2,
    /// IP in IP, of any pair of families.
    Ipip,
}

/// How a service's backends are checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Health {
    /// What a probe does.
    pub check: Check,
    /// Port that is probed; the service's own by default.
    pub port: u16,
    /// Time between the starts of two probes of one backend: 10 ms ..= 1 h.
    pub interval: Duration,
    /// The same while results speak against the verdict, and before the first one: 10 ms ..= `interval`.
    pub fast_interval: Duration,
    /// When an unanswered probe has failed: 1 ms ..= `interval`.
    pub timeout: Duration,
    /// Successes in a row that bring a backend up: 1 ..= 100.
    pub rise: u32,
    /// Failures in a row that take it down: 1 ..= 100.
    pub fall: u32,
    /// Share of the interval by which each probe is moved at random, so that probes do not march in step: 0.0 ..= 0.5.
    pub jitter: f64,
    /// How probes travel.
    pub via: Via,
}

/// How a probe travels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Via {
    /// To the VIP, as a client's packet would reach the backend.
    #[default]
    Vip,
    /// To the backend's own address.
    Direct,
}

impl Protocol {
    /// The protocol's number in IP headers.
    pub const fn number(self) -> u8 {
        match self {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
        }
    }
}

impl Service {
    /// What the program finds the service by.
    pub fn key(&self) -> ServiceKey {
        let port = self.port.to_be_bytes();
        match self.vip {
            IpAddr::V4(vip) => ServiceKey::v4(vip.octets(), self.protocol.number(), port),
            IpAddr::V6(vip) => ServiceKey::v6(vip.octets(), self.protocol.number(), port),
        }
    }
}

/// The hash by which the ring and the kernel's rows know a backend: XXH3-64 of its name, never 0.
pub fn identity(backend_name: &str) -> u64 {
    xxhash_rust::xxh3::xxh3_64(backend_name.as_bytes()).max(1)
}

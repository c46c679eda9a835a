//! What the daemon shows of itself.
//!
//! Points in time are milliseconds since 1970 (UTC), named `…_unix_ms`. Bytes and bits are those of the IP packets as they
//! arrived: without Ethernet header, padding and outer headers. Rates are means over the last full second.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

pub use super::names::{
    Acceptance, Admin, AttachMode, Forward, FoundBy, FullSize, HashInput, Health, Protocol, Tracking, Via,
};
pub use super::standing::{ServiceMode, Standing, StandingState};
use crate::model;
use crate::policy::ramp::Ramp;

/// The daemon and its host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Name of the host.
    pub node: String,
    /// Version of the daemon.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// Seconds since it started. The maps may be older: they outlive it.
    pub uptime_seconds: u64,
    /// Number of configurations accepted since the maps were made.
    pub generation: u64,
    /// Where the configuration in force came from.
    pub config: ConfigSource,
    /// Where the program is attached.
    pub interfaces: Vec<Interface>,
    /// Configured interfaces without the program: none of their packets is balanced. Empty when all is well.
    pub detached: Vec<Detached>,
    /// Packets of all interfaces together.
    pub totals: Totals,
    /// Number of services.
    pub services: u32,
    /// The backends of all services together, counted once for each service.
    pub backends: BackendCounts,
    /// How full the tables are.
    pub capacity: Capacity,
    /// What does not work as well as it could, one sentence each; empty when all is well.
    pub warnings: Vec<String>,
}

/// Where the configuration in force came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigSource {
    /// Path of the file, as whoever gave it named it; nothing if it was read from a pipe.
    pub file: Option<String>,
    /// When it was accepted.
    pub accepted_unix_ms: u64,
    /// How it came.
    pub by: Acceptance,
    /// Why a newer one does not count: the file was refused at the start or when it was read again; nothing if all is well.
    #[serde(default)]
    pub problem: Option<String>,
}

/// An interface that the program is attached to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its index.
    pub ifindex: u32,
    /// How the program is attached.
    pub xdp_mode: AttachMode,
    /// The kernel's id of the program, as `bpftool prog` lists it.
    pub program_id: u32,
    /// Largest IP packet that it sends, in bytes.
    pub mtu: u32,
    /// Whether it is up and has a carrier.
    pub up: bool,
    /// Offloads that hid something from the program, and were switched off; the kernel's names of them.
    pub offloads_disabled: Vec<String>,
    /// Offloads that hide something from the program, and are on.
    pub offloads_active: Vec<String>,
}

/// A configured interface without the program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Detached {
    /// Its name.
    pub interface: String,
    /// Why, for people.
    pub message: String,
    /// Since when.
    pub since_unix_ms: u64,
}

/// Packets by what became of them, since the maps were made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Totals {
    /// All packets that the program saw.
    pub received: u64,
    /// Those sent to a backend.
    pub forwarded: u64,
    /// Those left to the host's own network stack.
    pub passed: u64,
    /// Those dropped.
    pub dropped: u64,
    /// Bytes of the packets sent to a backend.
    pub forwarded_bytes: u64,
    /// Packets received per second.
    pub received_per_second: f64,
    /// What was sent to backends.
    #[serde(flatten)]
    pub rate: Rate,
}

/// Traffic sent to backends, as a mean over the last full second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Rate {
    /// Packets per second.
    pub packets_per_second: f64,
    /// Bits per second.
    pub bits_per_second: f64,
}

/// How many backends are in which state. Every backend is in exactly one of `up`, `down`, `starting`, and in exactly one of
/// enabled, `draining`, `disabled`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendCounts {
    /// All of them.
    pub total: u32,
    /// Health: up.
    pub up: u32,
    /// Health: down.
    pub down: u32,
    /// Health: not known yet.
    pub starting: u32,
    /// Draining by an operator's word.
    pub draining: u32,
    /// Disabled by an operator's word.
    pub disabled: u32,
    /// Those that no way is known to: no route, or no neighbour answered.
    pub unresolved: u32,
    /// Those that own slots of the ring, and so get new connections.
    pub serving: u32,
    /// Those that are up while others serve: later tiers, sorry backends.
    pub standby: u32,
    /// Those that are up and held out: they changed too often, or wait for their failback.
    pub held: u32,
}

/// How full the tables are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capacity {
    /// Services.
    pub services: Usage,
    /// Pairs of service and backend.
    pub backends: Usage,
    /// Slots of all rings together.
    pub ring_slots: Usage,
}

/// How much of a table is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Entries in use.
    pub used: u64,
    /// Entries that there is room for.
    pub total: u64,
}

/// One service in the list of all.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServiceSummary {
    /// Its name.
    pub name: String,
    /// The address that clients use.
    pub vip: IpAddr,
    /// Its transport protocol.
    pub protocol: Protocol,
    /// Its port.
    pub port: u16,
    /// How packets go to its backends, unless a backend says otherwise.
    pub forward: Forward,
    /// How it is served.
    pub mode: ServiceMode,
    /// Its backends.
    pub backends: BackendCounts,
    /// Packets sent to its backends since the service exists.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The same per second.
    #[serde(flatten)]
    pub rate: Rate,
}

/// One service with its backends.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServiceDetail {
    /// Its name.
    pub name: String,
    /// The address that clients use.
    pub vip: IpAddr,
    /// Its transport protocol.
    pub protocol: Protocol,
    /// Its port.
    pub port: u16,
    /// How packets go to its backends, unless a backend says otherwise.
    pub forward: Forward,
    /// How it is served.
    pub mode: ServiceMode,
    /// The priorities that serve, in the mode `normal`.
    pub tiers: Vec<u32>,
    /// What is unusual, one sentence each; empty when all is well.
    pub warnings: Vec<String>,
    /// Slots of its ring.
    pub ring_size: u32,
    /// What of a packet chooses its slot.
    pub hash: HashInput,
    /// Which flows are remembered while slots change owner.
    pub tracking: Tracking,
    /// Slots that have changed owner within the drain time, while the old owner serves.
    pub slots_moving: u32,
    /// Slots that have done so before, and whose flows may still be remembered; all of them if every flow is.
    pub slots_settled: u32,
    /// Flows that were remembered when the flow table was last read: every few seconds, and only while a slot is not at rest.
    pub flows_remembered: u64,
    /// How its backends are checked; nothing: they are always up.
    pub check: Option<Check>,
    /// Its backends, sorted by name.
    pub backends: Vec<BackendDetail>,
    /// Packets sent to its backends since the service exists.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The same per second.
    #[serde(flatten)]
    pub rate: Rate,
}

/// How a service's backends are checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// `tcp`, `http`, …
    pub kind: String,
    /// What is asked for, if the kind asks for something: the path of `http`.
    pub target: Option<String>,
    /// Port that is probed.
    pub port: u16,
    /// How probes travel.
    pub via: Via,
    /// Milliseconds between the starts of two probes of one backend.
    pub interval_ms: u64,
    /// The same while results speak against the verdict.
    pub fast_interval_ms: u64,
    /// Milliseconds after which an unanswered probe has failed.
    pub timeout_ms: u64,
    /// Successes in a row that bring a backend up.
    pub rise: u32,
    /// Failures in a row that take it down.
    pub fall: u32,
}

/// One backend of one service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BackendDetail {
    /// Its name, unique within the service.
    pub name: String,
    /// Where packets go.
    pub address: IpAddr,
    /// Its weight in force: the file's, or the operator's override.
    pub weight: u32,
    /// Its weight in the file.
    pub configured_weight: u32,
    /// How packets go there.
    pub forward: Forward,
    /// What its checks say.
    pub health: Health,
    /// Since when they say so; nothing where there are no checks.
    pub health_since_unix_ms: Option<u64>,
    /// The last probe; nothing before the first one, or where there are no checks.
    pub last_probe: Option<Probe>,
    /// What the operator says.
    pub admin: Admin,
    /// Its tier: backends of the lowest number serve first.
    pub priority: u32,
    /// It serves only when nothing else is up.
    pub sorry: bool,
    /// Where it stands by its service's policy.
    pub standing: Standing,
    /// The part of its weight that its load leaves it, 0 to 1; nothing where weights do not follow load.
    pub load: Option<f64>,
    /// Flows of it that were remembered when the flow table was last read.
    pub flows_remembered: u64,
    /// What of this is not as the file has it.
    #[serde(rename = "override")]
    pub overridden: Option<Override>,
    /// Slots of the ring that it owns now.
    pub slots: u32,
    /// The same as a share of the ring: 0.0 ..= 1.0.
    pub share: f64,
    /// The way to it.
    pub next_hop: NextHop,
    /// Why clients' full-size packets do not fit that way; nothing: they do, as far as this host knows.
    pub path_mtu: Option<PathMtu>,
    /// What probes of that size say.
    pub full_size: FullSize,
    /// Packets sent to it since it exists in the service.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The same per second.
    #[serde(flatten)]
    pub rate: Rate,
}

/// The last probe of a backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// When it ended.
    pub ended_unix_ms: u64,
    /// Whether it succeeded.
    pub success: bool,
    /// What it found: `status 200`, `connection refused`, `no answer in 100 ms`.
    pub reason: String,
    /// Microseconds until the answer; nothing if there was none.
    pub rtt_us: Option<u64>,
}

/// What an operator has set differently from the file. It survives a restart and a new configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Override {
    /// `draining` or `disabled`; nothing: as the file has it.
    pub admin: Option<Admin>,
    /// Another weight; nothing: the file's.
    pub weight: Option<u32>,
    /// When it was last changed.
    pub since_unix_ms: u64,
    /// When a drain ends and the backend is disabled; nothing: not by itself.
    pub drain_until_unix_ms: Option<u64>,
    /// The weight's way to `weight`; nothing: it is there.
    pub ramp: Option<Ramp>,
}

/// The way to a backend: the neighbour that packets are handed to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextHop {
    /// Interface that packets leave by.
    pub interface: Option<String>,
    /// The gateway; nothing where the backend is on the link itself.
    pub gateway: Option<IpAddr>,
    /// The next hop's Ethernet address; nothing while it is not known, and then no packet goes to the backend.
    pub mac: Option<String>,
    /// Why the address is not known; nothing if it is.
    pub unresolved: Option<String>,
}

/// A way that is too small for clients' full-size packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathMtu {
    /// What such a packet needs with its outer header, in bytes.
    pub needed: u32,
    /// The largest packet that the way takes, in bytes; nothing where that is not known, or not yet.
    pub mtu: Option<u32>,
    /// How it is known that the way is too small.
    pub found_by: FoundBy,
}

/// Counters since the maps were made.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Stats {
    /// All services, sorted by name.
    pub services: Vec<ServiceStats>,
    /// Packets by reason, as [`lb_common::reason::Reason::name`] names them; every reason stands here, 0 or not.
    pub reasons: BTreeMap<String, u64>,
    /// All packets that the program saw: the sum of `reasons`.
    pub received: u64,
}

/// One service's counters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceStats {
    /// Its name.
    pub name: String,
    /// Packets sent to its backends: the sum of theirs.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Its backends, sorted by name.
    pub backends: Vec<BackendStats>,
}

/// One backend's counters in one service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendStats {
    /// Its name.
    pub name: String,
    /// Packets sent to it.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Where the loaded program sends a flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lookup {
    /// The service that was asked about.
    pub service: String,
    /// The client.
    pub source: SocketAddr,
    /// The service's VIP and port.
    pub destination: SocketAddr,
    /// Its transport protocol.
    pub protocol: Protocol,
    /// What becomes of the packet, as [`lb_common::reason::Reason::name`] names it.
    pub reason: String,
    /// The backend that it goes to; nothing if it goes to none.
    pub backend: Option<String>,
    /// The backend's address.
    pub address: Option<IpAddr>,
    /// The flow's slot in the ring.
    pub slot: u32,
    /// Slots of the ring.
    pub ring_size: u32,
}

impl From<&model::Health> for Check {
    fn from(health: &model::Health) -> Self {
        let milliseconds = |duration: std::time::Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Check {
            kind: health.check.kind().to_owned(),
            target: health.check.target(),
            port: health.port,
            via: health.via.into(),
            interval_ms: milliseconds(health.interval),
            fast_interval_ms: milliseconds(health.fast_interval),
            timeout_ms: milliseconds(health.timeout),
            rise: health.rise,
            fall: health.fall,
        }
    }
}

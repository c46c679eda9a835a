//! What can keep a host from being a backend.

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use lb_common::decap::SourceKey;

use super::record::Record;
use crate::netlink::NetlinkError;

/// What can keep a host from being a backend.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// No interface was named.
    #[error("no interface: name those where tunnelled packets arrive with --interface")]
    NoInterface,
    /// Own Ethernet addresses are unknown.
    #[error("cannot list the interfaces, whose Ethernet addresses frames must be for: {0}")]
    Links(#[source] NetlinkError),
    /// No VIP was named.
    #[error("no VIP: name those whose packets are unwrapped with --vip")]
    NoVip,
    /// More prefixes than the decapsulator has room for.
    #[error("{0} prefixes in --from, {max} at most: name larger ones", max = SourceKey::MAX_PREFIXES)]
    TooManyPrefixes(usize),
    /// The address cannot be a VIP.
    #[error("{vip} cannot be a VIP: it is {what}")]
    BadVip {
        /// The address.
        vip: IpAddr,
        /// What it is instead.
        what: &'static str,
    },
    /// The process may not do what it has to.
    #[error("missing {0}: run as root")]
    NotPrivileged(&'static str),
    /// There is no such interface.
    #[error("no interface {0}: `ip link` lists those of this host")]
    UnknownInterface(String),
    /// The interface cannot carry tunnelled packets.
    #[error("{0} is the loopback interface: tunnelled packets do not arrive there")]
    Loopback(String),
    /// The decapsulator reads Ethernet frames.
    #[error("{0} is no Ethernet interface: the decapsulator cannot read its frames")]
    NotEthernet(String),
    /// The loopback interface is down, and so the VIPs would not be reachable.
    #[error("lo is down, so no address on it can be reached: `ip link set lo up`")]
    LoDown,
    /// Another program has the place.
    #[error(
        "{interface} already has the XDP program {id} (`bpftool prog show id {id}`): detach it first, for example with \
         `ip link set {interface} xdp off`"
    )]
    ForeignProgram {
        /// The interface.
        interface: String,
        /// The program's id.
        id: u32,
    },
    /// Another instance runs in this network namespace.
    #[error("another instance runs here, process {pid}: stop it first, or give it all interfaces and VIPs")]
    Running {
        /// Its process id; 0 if it is not visible from here.
        pid: i32,
    },
    /// It was told to stop and did not.
    #[error("process {pid} still runs (0: not visible from here): stop it first")]
    StillRunning {
        /// Its process id; 0 if it is not visible from here.
        pid: i32,
    },
    /// The kernel did not take the decapsulator.
    #[error("the kernel did not take the decapsulator")]
    Program(#[from] aya::programs::ProgramError),
    /// The decapsulator's object file could not be loaded.
    #[error("the decapsulator could not be loaded")]
    Load(#[from] aya::EbpfError),
    /// A map of the decapsulator could not be used.
    #[error("the decapsulator's map {name}")]
    Map {
        /// The map's name.
        name: &'static str,
        /// Why.
        source: aya::maps::MapError,
    },
    /// The object file is not the decapsulator's.
    #[error("the object file has no {0}: it is not the decapsulator")]
    NotTheDecapsulator(&'static str),
    /// It could not be attached.
    #[error("{interface}: the decapsulator could not be attached ({mode})")]
    Attach {
        /// The interface.
        interface: String,
        /// How it was tried.
        mode: &'static str,
        /// Why.
        source: aya::programs::ProgramError,
    },
    /// A file could not be read or written.
    #[error("{}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The record of what was changed cannot be understood.
    #[error("{} is not a record of changes: {source}; set the host right by hand and remove the file", path.display())]
    BadRecord {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// Netlink did not answer as expected.
    #[error("netlink: {what}")]
    Netlink {
        /// What was asked.
        what: String,
        /// Why.
        source: rtnetlink::Error,
    },
    /// The kernel refused something else.
    #[error("{what}")]
    System {
        /// What was tried.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// Some changes could not be undone; they stay on record.
    #[error("not undone: {0}; they stay on record, try again with --remove")]
    NotUndone(Record),
}

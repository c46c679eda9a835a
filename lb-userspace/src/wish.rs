//! From the model and the state of things to what the kernel should hold: pure.

use std::net::IpAddr;

use lb_common::encap::{self, Mac};
use lb_common::map::{FAMILY_V4, FAMILY_V6, Rewrite, flag, idle_units};

use crate::model::{Backend, Forward, HashInput, Service, Tracking, identity};
use crate::plan::transition::Rule;
use crate::plan::{WantedBackend, WantedService};
use crate::ring::{Member, Ring, Share};

/// The way to a backend, as far as a rewrite needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// Index of the interface that packets leave by; 0: the one they came from.
    pub ifindex: u32,
    /// That interface's address.
    pub source_mac: Mac,
    /// The next hop's address.
    pub destination_mac: Mac,
    /// Source of outer headers, of the backend's family; only a tunnel needs it.
    pub tunnel_source: Option<IpAddr>,
}

/// What is known of one backend besides its configuration.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BackendNow {
    /// How packets go there; nothing while the way is not known.
    pub rewrite: Option<Rewrite>,
    /// How much of its weight in the ring it serves with.
    pub share: Share,
    /// Whether it serves the flows that it has: it is up, enabled or draining, and the way to it is known.
    pub serves: bool,
}

/// The members of a service's ring. `weights` are those in force, one for each backend: an operator's may be above the file's.
pub fn members(service: &Service, weights: &[u32]) -> Vec<Member> {
    let members = service.backends.iter().zip(weights);
    members
        .map(|(backend, weight)| Member {
            identity: identity(&backend.name),
            weight: *weight,
        })
        .collect()
}

/// What the kernel should hold for a service: `now` has one entry for each backend. One without a way serves nobody.
pub fn wanted(service: &Service, ring: &Ring, now: &[BackendNow]) -> WantedService {
    let share = |now: &BackendNow| if now.rewrite.is_some() { now.share } else { Share::OUT };
    let shares: Vec<Share> = now.iter().map(share).collect();
    let backends = service
        .backends
        .iter()
        .zip(now)
        .map(|(backend, now)| wanted_backend(backend, now));
    WantedService {
        key: service.key(),
        flags: flags(service.hash)
            | if service.tracking == Tracking::Always {
                flag::TRACK_ALWAYS
            } else {
                0
            },
        inserts: inserts_per_cpu(service.flow_inserts),
        idle: idle(service),
        rule: match service.tracking {
            Tracking::Adaptive => Rule::Adaptive,
            Tracking::Always => Rule::Always,
            Tracking::Never => Rule::Never,
        },
        ring_size: service.ring_size,
        backends: backends.collect(),
        owners: ring.lend(&shares),
    }
}

/// What the kernel should hold for one backend.
pub fn wanted_backend(backend: &Backend, now: &BackendNow) -> WantedBackend {
    WantedBackend {
        identity: identity(&backend.name),
        rewrite: now.rewrite.unwrap_or_default(),
        serves: now.serves,
    }
}

/// [`WantedService::idle`] of a service.
pub fn idle(service: &Service) -> u32 {
    match service.tracking {
        Tracking::Adaptive | Tracking::Always => {
            idle_units(u64::try_from(service.drain_time.as_nanos()).unwrap_or(u64::MAX))
        }
        Tracking::Never => 0,
    }
}

/// A CPU's part of what a service may remember in a second: packets of one flow come to one CPU, and flows to all alike.
fn inserts_per_cpu(inserts: u32) -> u32 {
    let cpus = std::thread::available_parallelism().map_or(1, |cpus| cpus.get() as u32);
    inserts.div_ceil(cpus)
}

pub(crate) fn flags(hash: HashInput) -> u32 {
    match hash {
        HashInput::FiveTuple => flag::HASH_FLOW,
        HashInput::Source | HashInput::SourceDport => flag::HASH_ADDRESS,
        // The destination port is the service's own: all its flows have the same.
        HashInput::Dport => 0,
    }
}

/// The header bytes for a backend's packets.
///
/// # Errors
/// In words, when the way does not suit the forward mode.
pub fn rewrite(vip: IpAddr, backend: &Backend, way: &Way) -> Result<Rewrite, String> {
    let Way {
        ifindex,
        source_mac,
        destination_mac,
        tunnel_source,
    } = *way;
    let inner = if vip.is_ipv4() { FAMILY_V4 } else { FAMILY_V6 };
    let rewrite = match (backend.forward, backend.address, tunnel_source) {
        (Forward::L2, _, _) => encap::l2(destination_mac, source_mac),
        (Forward::Ipip, IpAddr::V4(address), Some(IpAddr::V4(source))) => {
            encap::ipip_v4(destination_mac, source_mac, source.octets(), address.octets(), inner)
        }
        (Forward::Ipip, IpAddr::V6(address), Some(IpAddr::V6(source))) => {
            encap::ipip_v6(destination_mac, source_mac, source.octets(), address.octets(), inner)
        }
        (Forward::Ipip, address, _) => {
            let setting = if address.is_ipv4() {
                "node.tunnel_source_v4"
            } else {
                "node.tunnel_source_v6"
            };
            return Err(format!(
                "this host has no source address for a tunnel to {address}: set {setting}"
            ));
        }
    };
    Ok(Rewrite { ifindex, ..rewrite })
}

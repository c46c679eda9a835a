//! The decapsulator in the kernel: loaded, attached, its address table and its counters.

use std::collections::HashSet;
use std::fmt;
use std::hash::Hash;
use std::net::IpAddr;

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{HashMap, MapData, MapError, PerCpuArray};
use aya::programs::{Xdp, xdp};
use aya::{Ebpf, EbpfLoader, Pod, programs::ProgramError};
use lb_common::decap::{AddressKey, DecapReason, SourceKey, name};
use lb_common::encap::Mac;
use lb_common::local_mac::{LocalMac, is_group};

use super::BackendError;
use super::from::Prefix;
use super::host::Interface;
use super::output::{caution, say};
use crate::bpf::local_macs::OwnAddresses;
use crate::model::XdpMode;

/// The decapsulator's name in its object file.
pub const PROGRAM: &str = "decap";

/// The decapsulator, loaded. Dropped, it detaches itself from its interfaces; so does the kernel when the process dies.
pub struct Decapsulator {
    ebpf: Ebpf,
    id: u32,
    locals: HashMap<MapData, AddressKey, u8>,
    known: HashSet<AddressKey>,
    macs: HashMap<MapData, LocalMac, u8>,
    known_macs: HashSet<LocalMac>,
    counters: PerCpuArray<MapData, u64>,
    /// Where tunnels may begin; none: everywhere.
    from: Vec<Prefix>,
}

/// How a program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attached {
    /// In the driver.
    Native,
    /// In the network stack.
    Generic,
}

impl fmt::Display for Attached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Attached::Native => "native XDP",
            Attached::Generic => "generic XDP (slower: by the network stack, not the driver)",
        })
    }
}

/// What the decapsulator has counted since it was loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stats(Vec<u64>);

impl Stats {
    /// Every reason with its packets.
    pub fn iter(&self) -> impl Iterator<Item = (DecapReason, u64)> {
        DecapReason::ALL.into_iter().zip(self.0.iter().copied())
    }

    /// The packets of one reason.
    pub fn of(&self, reason: DecapReason) -> u64 {
        self.0[reason as usize]
    }
}

impl Decapsulator {
    /// Loads the program from its object file, with the VIPs and where tunnels may begin (`from`; none: everywhere). It is attached nowhere yet.
    ///
    /// # Errors
    ///
    /// If the kernel's verifier refuses it, or the file is another program's.
    pub fn load(object: &[u8], vips: &[IpAddr], from: &[Prefix]) -> Result<Self, BackendError> {
        let limited = u32::from(!from.is_empty());
        let mut ebpf = EbpfLoader::new()
            .override_global(name::SOURCES_LIMITED, &limited, true)
            .load(object)?;
        let mut vip_map: HashMap<MapData, AddressKey, u8> = take(&mut ebpf, name::VIPS)?;
        for vip in vips {
            vip_map
                .insert(AddressKey::from(*vip), 0, 0)
                .map_err(map_error(name::VIPS))?;
        }
        let mut sources: LpmTrie<MapData, SourceKey, u8> = take(&mut ebpf, name::SOURCES)?;
        for prefix in from {
            let (bits, key) = prefix.key();
            sources
                .insert(&Key::new(bits, key), 0, 0)
                .map_err(map_error(name::SOURCES))?;
        }
        let locals = take(&mut ebpf, name::LOCALS)?;
        let macs = take(&mut ebpf, name::LOCAL_MACS)?;
        let counters = take(&mut ebpf, name::DECAP_REASONS)?;
        let program = program(&mut ebpf)?;
        program.load()?;
        let id = program.info()?.id();
        Ok(Decapsulator {
            ebpf,
            id,
            locals,
            known: HashSet::new(),
            macs,
            known_macs: HashSet::new(),
            counters,
            from: from.to_vec(),
        })
    }

    /// The program's id, as `bpftool` shows it.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Attaches the program to an interface and says how.
    ///
    /// # Errors
    ///
    /// If the driver has no native XDP and `mode` insists on it, or the kernel refuses generic XDP too.
    pub fn attach(&mut self, interface: &Interface, mode: XdpMode) -> Result<Attached, BackendError> {
        let attached = |mode, source| BackendError::Attach {
            interface: interface.name.clone(),
            mode,
            source,
        };
        let program = program(&mut self.ebpf)?;
        if mode != XdpMode::Generic {
            match program.attach_to_if_index(interface.index, xdp::XdpMode::Driver) {
                Ok(_) => return Ok(Attached::Native),
                Err(error) if mode == XdpMode::Native => return Err(attached("native", error)),
                Err(error) => caution!("{}: no native XDP: {}", interface.name, cause(&error)),
            }
        }
        program
            .attach_to_if_index(interface.index, xdp::XdpMode::Skb)
            .map_err(|error| attached("generic", error))?;
        Ok(Attached::Generic)
    }

    /// Makes `addresses` the ones where tunnels may end: those of this host.
    ///
    /// # Errors
    ///
    /// If there are more than 65,536 of them.
    pub fn set_locals(&mut self, addresses: impl IntoIterator<Item = IpAddr>) -> Result<(), BackendError> {
        let wanted = addresses.into_iter().map(AddressKey::from).collect();
        replace(&mut self.locals, name::LOCALS, &mut self.known, wanted)
    }

    /// Makes these the host's own Ethernet addresses, by the index of the interface that frames for them arrive by.
    ///
    /// # Errors
    ///
    /// If there are more than 65,536 of them.
    pub fn set_own_addresses(&mut self, own: &OwnAddresses) -> Result<(), BackendError> {
        let of = |(ifindex, macs): (&u32, &Vec<Mac>)| {
            let ifindex = *ifindex;
            macs.iter()
                .map(move |mac| LocalMac::new(*mac, ifindex))
                .collect::<Vec<_>>()
        };
        let wanted = own.iter().flat_map(of).filter(|key| !is_group(key.mac)).collect();
        replace(&mut self.macs, name::LOCAL_MACS, &mut self.known_macs, wanted)
    }

    /// What it has counted.
    ///
    /// # Errors
    ///
    /// If the kernel refuses to show the counters.
    pub fn stats(&self) -> Result<Stats, BackendError> {
        let counts = (0..DecapReason::COUNT as u32).map(|index| {
            let per_cpu = self.counters.get(&index, 0).map_err(map_error(name::DECAP_REASONS))?;
            Ok(per_cpu.iter().sum())
        });
        Ok(Stats(counts.collect::<Result<_, BackendError>>()?))
    }

    /// Where tunnels may begin, as text.
    pub(super) fn edges(&self) -> String {
        if self.from.is_empty() {
            return "everywhere".to_owned();
        }
        let prefixes: Vec<_> = self.from.iter().map(ToString::to_string).collect();
        prefixes.join(", ")
    }

    /// Warns if tunnels may begin everywhere.
    pub(super) fn warn_if_open(&self) {
        if self.from.is_empty() {
            caution!(
                "no --from: tunnelled packets from every address are unwrapped, so a host that reaches this one gets past \
                 firewalls that look at the outer header alone; name the edges: --from PREFIX (FROM=PREFIX in the unit's file)"
            );
        }
    }

    /// Prints a line for each reason that packets had.
    pub(super) fn say_counters(&self) {
        self.warn_if_open();
        match self.stats() {
            Ok(stats) => {
                for (reason, packets) in stats.iter().filter(|(_, packets)| *packets != 0) {
                    say!("{:<20} {packets}", reason.name());
                }
            }
            Err(error) => caution!("no counters: {error}"),
        }
    }
}

fn program(ebpf: &mut Ebpf) -> Result<&mut Xdp, BackendError> {
    let program = ebpf
        .program_mut(PROGRAM)
        .ok_or(BackendError::NotTheDecapsulator(PROGRAM))?;
    Ok(program.try_into()?)
}

fn take<M: TryFrom<aya::maps::Map, Error = MapError>>(ebpf: &mut Ebpf, name: &'static str) -> Result<M, BackendError> {
    let map = ebpf.take_map(name).ok_or(BackendError::NotTheDecapsulator(name))?;
    M::try_from(map).map_err(map_error(name))
}

fn map_error(name: &'static str) -> impl Fn(MapError) -> BackendError {
    move |source| BackendError::Map { name, source }
}

/// The innermost error: the kernel's own words.
fn cause(error: &ProgramError) -> String {
    let mut innermost: &dyn std::error::Error = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

/// Makes `wanted` the only keys of a map that has those that are `known`; new ones first.
fn replace<K: Pod + Eq + Hash>(
    map: &mut HashMap<MapData, K, u8>,
    name: &'static str,
    known: &mut HashSet<K>,
    wanted: HashSet<K>,
) -> Result<(), BackendError> {
    for key in wanted.difference(known) {
        map.insert(key, 0, 0).map_err(map_error(name))?;
    }
    for key in known.difference(&wanted) {
        match map.remove(key) {
            Err(error) if !matches!(error, MapError::KeyNotFound) => return Err(map_error(name)(error)),
            _ => {}
        }
    }
    *known = wanted;
    Ok(())
}

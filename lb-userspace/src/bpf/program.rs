//! The balancer in the kernel: its object loaded, its maps made or taken over, its program run.

use std::fs;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use aya::maps::xdp::{DevMapHash, XdpMapError};
use aya::maps::{Array, Map, MapData, MapError, PerCpuArray};
use aya::programs::{ProgramError, TestRun as _, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};
use lb_common::hash::HashKeys;
use lb_common::map::{Counter, Meta, name};
use lb_common::reason::Reason;
use tracing::warn;

use super::error::{KernelError, refusal};
use super::link::{Value, link};
use super::local_macs::{LocalMacs, OwnAddresses};
use super::mapping::Mapping;
use super::shape::{self, Access::ByKey};
use super::tables::{Lengths, Tables};

/// What the program is loaded with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How long the tables are.
    pub lengths: Lengths,
    /// The fleet's seed.
    pub hash_seed: u64,
    /// Bytes of the longest value of a map, where it is to be less than the kernel takes: for tests of what other kernels get.
    pub longest_value: Option<u32>,
}

/// The loaded program with its maps.
pub struct Balancer {
    ebpf: Ebpf,
    /// The tables that packets read.
    pub tables: Tables,
    pub(super) pairs: Mapping<Counter>,
    pub(super) reasons: PerCpuArray<MapData, u64>,
    devices: DevMapHash<MapData>,
    local_macs: LocalMacs,
    pub(super) meta: Array<MapData, Meta>,
    balance: &'static str,
    lookup: &'static str,
    /// Whether the maps were there before, filled by an earlier daemon.
    pub taken_over: bool,
}

/// Interfaces that packets can be redirected to.
pub const DEVICES: u32 = 4_096;

/// Index of the loopback interface in every network namespace.
const LOOPBACK: u32 = 1;

impl Balancer {
    /// Loads the program with maps of its own that go when it goes.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn load(object: &[u8], settings: Settings) -> Result<Self, KernelError> {
        Self::load_with(object, settings, None)
    }

    /// Loads the program with the maps pinned in `folder`, or with new ones pinned there.
    ///
    /// Maps that are there are used only if every one has the shape and the version that this daemon writes; see [`shape::fits`].
    ///
    /// # Errors
    /// If the kernel refuses, or the folder cannot be used.
    pub fn load_pinned(object: &[u8], settings: Settings, folder: &Path) -> Result<Self, KernelError> {
        fs::create_dir_all(folder).map_err(|source| KernelError::File {
            path: folder.to_owned(),
            source,
        })?;
        Self::load_with(object, settings, Some(folder))
    }

    /// Loads the program for tables that are one value each; if the verifier does not follow it there, the one that looks them up by key.
    fn load_with(object: &[u8], settings: Settings, pins: Option<&Path>) -> Result<Self, KernelError> {
        let fresh = pins.is_none_or(|folder| !folder.join(name::META).exists());
        match Self::try_load(object, settings, pins) {
            Err(KernelError::Program {
                name,
                source: source @ ProgramError::LoadError { .. },
            }) if fresh && !ByKey.programs().contains(&name) => {
                let why = format!(
                    "the kernel refuses the program {name}: {}",
                    refusal(&source).replace("\n  ", " | ")
                );
                warn!(why, "a slower program is used, which looks tables up by key");
                shape::use_no_large_values(why);
                for pin in pins
                    .into_iter()
                    .flat_map(|folder| name::PINNED.map(|map| folder.join(map)))
                {
                    // Of this attempt; what cannot be removed is found by the next one.
                    _ = fs::remove_file(pin);
                }
                Self::try_load(object, settings, pins)
            }
            result => result,
        }
    }

    fn try_load(object: &[u8], settings: Settings, pins: Option<&Path>) -> Result<Self, KernelError> {
        let Settings {
            lengths,
            hash_seed,
            longest_value,
        } = settings;
        let HashKeys(keys) = HashKeys::from_seed(hash_seed);
        let taken_over = pins.is_some_and(|folder| folder.join(name::META).exists());
        let maps = shape::Tables::open(lengths, longest_value, pins)?;
        let [balance, lookup] = maps.access().programs();
        let mut symbols = maps.symbols();
        let names = ["HASH_KEY_0", "HASH_KEY_1", "HASH_KEY_2", "HASH_KEY_3"];
        symbols.extend(names.into_iter().zip(keys.map(Value::Constant)));
        let object = link(object, &symbols)?;
        let mut loader = EbpfLoader::new();
        loader
            .map_max_entries(name::BASELINES, shape::baselines(lengths))
            .map_max_entries(name::FLOWS, lengths.flows)
            .map_max_entries(name::INSERTS, lengths.services)
            .map_max_entries(name::DEVICES, DEVICES);
        // Of these aya knows only those that the object defines.
        for map in name::PINNED {
            if let Some(folder) = pins {
                loader.map_pin_path(map, folder.join(map));
            }
        }
        let mut ebpf = loader.load(&object)?;
        let tables = Tables::new(
            maps.services()?,
            maps.ring()?,
            maps.backends()?,
            mapped::<Counter>(&mut ebpf, name::BASELINES, shape::baselines(lengths))?,
            lengths.flows,
        );
        let pairs = maps.pairs()?;
        let reasons = typed(&mut ebpf, name::REASONS)?;
        let devices = typed(&mut ebpf, name::DEVICES)?;
        let local_macs = LocalMacs::new(maps.local_macs()?, typed(&mut ebpf, name::LOCAL_MAC_SET)?)?;
        let meta = typed(&mut ebpf, name::META)?;
        let mut balancer = Self {
            ebpf,
            tables,
            pairs,
            reasons,
            devices,
            local_macs,
            meta,
            balance,
            lookup,
            taken_over,
        };
        for program in [balancer.balance, balancer.lookup] {
            balancer
                .program_mut(program)?
                .load()
                .map_err(|source| KernelError::Program { name: program, source })?;
        }
        Ok(balancer)
    }

    fn program_mut(&mut self, name: &'static str) -> Result<&mut Xdp, KernelError> {
        let program = self.ebpf.program_mut(name).ok_or(KernelError::Missing(name))?;
        program
            .try_into()
            .map_err(|source| KernelError::Program { name, source })
    }

    fn run(&self, name: &'static str, frame: &[u8], out: &mut [u8]) -> Result<(u32, usize), KernelError> {
        let program = self.ebpf.program(name).ok_or(KernelError::Missing(name))?;
        let program: &Xdp = program
            .try_into()
            .map_err(|source| KernelError::Program { name, source })?;
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(out),
            ..TestRunOptions::new()
        };
        let result = program
            .test_run(options)
            .map_err(|source| KernelError::Program { name, source })?;
        Ok((result.return_value, result.data_size_out as usize))
    }

    /// The program that is attached to interfaces.
    ///
    /// # Errors
    /// If the object has none.
    pub fn balance_mut(&mut self) -> Result<&mut Xdp, KernelError> {
        self.program_mut(self.balance)
    }

    /// Why the program is not the fastest one for this kernel, if it is not.
    pub fn slower(&self) -> Option<&'static str> {
        shape::no_large_values()
    }

    /// How many instructions the verifier processed for each program; nothing before Linux 5.16.
    ///
    /// # Errors
    /// The kernel's.
    pub fn verified_instructions(&mut self) -> Result<[(&'static str, Option<u32>); 2], KernelError> {
        let (balance, lookup) = (self.balance, self.lookup);
        let mut count = |name| {
            let info = self.program_mut(name)?.info();
            let info = info.map_err(|source| KernelError::Program { name, source })?;
            Ok::<_, KernelError>((name, info.verified_instruction_count()))
        };
        Ok([count(balance)?, count(lookup)?])
    }

    /// The attached program's id in the kernel.
    ///
    /// # Errors
    /// The kernel's.
    pub fn program_id(&mut self) -> Result<u32, KernelError> {
        let info = self.balance_mut()?.info();
        Ok(info
            .map_err(|source| KernelError::Program {
                name: self.balance,
                source,
            })?
            .id())
    }

    /// Runs the program on one frame, with all its effects on counters: the verdict (`enum xdp_action`) and the frame as it
    /// would leave.
    ///
    /// # Errors
    /// If the kernel does not take the frame: it wants 14 bytes at least.
    pub fn run_balance(&self, frame: &[u8]) -> Result<(u32, Vec<u8>), KernelError> {
        let mut out = vec![0; frame.len() + 256];
        let (verdict, length) = self.run(self.balance, frame, &mut out)?;
        out.truncate(length);
        Ok((verdict, out))
    }

    /// Asks the program which row of `BACKENDS` a frame's flow has, and changes and counts nothing.
    ///
    /// # Errors
    /// As [`run_balance`](Self::run_balance).
    pub fn run_lookup(&self, frame: &[u8]) -> Result<Result<u32, Reason>, KernelError> {
        let mut out = vec![0; frame.len().max(8)];
        self.run(self.lookup, frame, &mut out)?;
        let word = |at: usize| u32::from_ne_bytes([out[at], out[at + 1], out[at + 2], out[at + 3]]);
        Ok(match Reason::ALL.get(word(4) as usize) {
            Some(Reason::Forwarded) => Ok(word(0)),
            Some(reason) => Err(*reason),
            None => Err(Reason::BrokenTable),
        })
    }

    /// The flow table's descriptor, for reading it from another thread.
    ///
    /// # Errors
    /// The kernel's.
    pub fn flows_fd(&self) -> Result<OwnedFd, KernelError> {
        let map = self.ebpf.map(name::FLOWS).ok_or(KernelError::Missing(name::FLOWS))?;
        let Map::LruHashMap(data) = map else {
            return Err(KernelError::Missing(name::FLOWS));
        };
        let failed = |source| KernelError::Mapping {
            name: name::FLOWS,
            source,
        };
        data.fd().as_fd().try_clone_to_owned().map_err(failed)
    }

    /// Says which Ethernet addresses are the host's own, on every interface that the program is on: frames for others are passed
    /// untouched. Until it is called on new maps, all are.
    ///
    /// # Errors
    /// The kernel's.
    pub fn set_own_addresses(&mut self, own: &OwnAddresses) -> Result<(), KernelError> {
        self.local_macs.replace(own)
    }

    /// Makes the destination of a frame that comes from no interface the host's own: for `BPF_PROG_TEST_RUN`, whose frames
    /// come from the loopback interface. A group's address never is.
    ///
    /// # Errors
    /// The kernel's.
    pub fn own_as_destination(&mut self, frame: &[u8]) -> Result<(), KernelError> {
        let mac = frame.first_chunk().copied();
        self.set_own_addresses(&OwnAddresses::from([(LOOPBACK, mac.into_iter().collect())]))
    }

    /// Whether packets can be redirected to an interface.
    pub fn allows_redirect(&self, ifindex: u32) -> bool {
        self.devices.get(ifindex, 0).is_ok()
    }

    /// Lets packets be redirected to an interface.
    ///
    /// # Errors
    /// The kernel's; `E2BIG` beyond [`DEVICES`] interfaces.
    pub fn allow_redirect(&mut self, ifindex: u32) -> Result<(), KernelError> {
        self.devices
            .insert(ifindex, ifindex, None, 0)
            .map_err(|source| KernelError::Map {
                name: name::DEVICES,
                source: match source {
                    XdpMapError::MapError(error) => error,
                    other @ XdpMapError::ChainedProgramNotSupported => MapError::IoError(io::Error::other(other)),
                },
            })
    }
}

fn mapped<T: bytemuck::Pod>(ebpf: &mut Ebpf, name: &'static str, elements: u32) -> Result<Mapping<T>, KernelError> {
    let map = ebpf.map(name).ok_or(KernelError::Missing(name))?;
    let Map::Array(data) = map else {
        return Err(KernelError::Missing(name));
    };
    Mapping::of_map(data.fd(), elements).map_err(|source| KernelError::Mapping { name, source })
}

fn typed<T: TryFrom<Map, Error = MapError>>(ebpf: &mut Ebpf, name: &'static str) -> Result<T, KernelError> {
    let map = ebpf.take_map(name).ok_or(KernelError::Missing(name))?;
    T::try_from(map).map_err(|source| KernelError::Map { name, source })
}

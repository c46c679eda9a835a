//! The balancer in the kernel: its object loaded, its maps made or taken over, its counters read.

use std::fs;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use aya::maps::xdp::{DevMapHash, XdpMapError};
use aya::maps::{Array, Map, MapData, MapError, PerCpuArray};
use aya::pin::PinError;
use aya::programs::{ProgramError, TestRun as _, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfError, EbpfLoader};
use lb_common::hash::HashKeys;
use lb_common::map::{Counter, Meta, name};
use lb_common::reason::Reason;
use thiserror::Error;
use tracing::warn;

use super::link::{LinkError, Value, link};
use super::mapping::Mapping;
use super::shape::{self, Access::ByKey};
use super::tables::{Lengths, Tables};

/// Why the balancer cannot be brought into the kernel, or be asked.
#[derive(Debug, Error)]
pub enum KernelError {
    /// The object or its maps were refused.
    #[error("the kernel refuses the balancer's maps: {0}; memory asked for follows [node.capacity]")]
    Object(#[from] EbpfError),
    /// The verifier or another check refused the program.
    #[error("the kernel refuses the program `{name}`: {}", refusal(.source))]
    Program {
        /// Which one.
        name: &'static str,
        /// What it said.
        source: ProgramError,
    },
    /// The object could not be linked.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// A table could not be made.
    #[error("the kernel refuses the table {name} of {bytes} bytes: {source}; its length follows [node.capacity]")]
    TooLarge {
        /// Which one.
        name: &'static str,
        /// How long it would be.
        bytes: u64,
        /// Why.
        source: io::Error,
    },
    /// A map could not be used.
    #[error("map {name}: {source}")]
    Map {
        /// Which one.
        name: &'static str,
        /// Why.
        source: MapError,
    },
    /// A map could not be mapped into memory.
    #[error("map {name} cannot be mapped into memory: {source}; Linux 5.5 or newer is needed")]
    Mapping {
        /// Which one.
        name: &'static str,
        /// Why.
        source: io::Error,
    },
    /// Something is missing from the object: a build that went wrong.
    #[error("the object file has no `{0}`: build again with `cargo xtask build`")]
    Missing(&'static str),
    /// A pin could not be made, read or removed.
    #[error("pin {path}: {source}")]
    Pin {
        /// Where.
        path: PathBuf,
        /// Why.
        source: PinError,
    },
    /// A pin's file could not be handled.
    #[error("{path}: {source}")]
    File {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

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
    pairs: Mapping<Counter>,
    reasons: PerCpuArray<MapData, u64>,
    devices: DevMapHash<MapData>,
    meta: Array<MapData, Meta>,
    balance: &'static str,
    lookup: &'static str,
    /// Whether the maps were there before, filled by an earlier daemon.
    pub taken_over: bool,
}

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
    /// Maps that are there are used only if every one has the shape and the version that this daemon writes; see [`fits`].
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
            Err(KernelError::Program { name, source })
                if fresh && !ByKey.programs().contains(&name) && matches!(source, ProgramError::LoadError { .. }) =>
            {
                let reason = refusal(&source);
                warn!(%reason, "the verifier refuses the program {name}: a slower one is used, which looks tables up by key");
                shape::use_no_large_values();
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
            .map_max_entries(name::INSERTS, lengths.services);
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
        let meta = typed(&mut ebpf, name::META)?;
        let mut balancer = Self {
            ebpf,
            tables,
            pairs,
            reasons,
            devices,
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

    /// What a row of `PAIRS` has counted since the maps were made, over all CPUs.
    ///
    /// # Errors
    /// If there is no such row.
    pub fn raw_pair(&self, row: u32) -> Result<Counter, KernelError> {
        let rows = self.tables.lengths().rows;
        if row >= rows {
            return Err(KernelError::Map {
                name: name::PAIRS,
                source: MapError::OutOfBounds {
                    index: row,
                    max_entries: rows,
                },
            });
        }
        let counts = (row as usize..self.pairs.len())
            .step_by(rows as usize)
            .map(|index| self.pairs.read(index));
        Ok(counts.fold(Counter::default(), |sum, count| Counter {
            packets: sum.packets.wrapping_add(count.packets),
            bytes: sum.bytes.wrapping_add(count.bytes),
        }))
    }

    /// What a row has counted for its present backend.
    ///
    /// # Errors
    /// If there is no such row.
    pub fn pair(&self, row: u32) -> Result<Counter, KernelError> {
        let raw = self.raw_pair(row)?;
        let baseline = self.tables.baseline(row);
        Ok(Counter {
            packets: raw.packets.wrapping_sub(baseline.packets),
            bytes: raw.bytes.wrapping_sub(baseline.bytes),
        })
    }

    /// Packets by reason, over all CPUs; their sum is the packets received.
    ///
    /// # Errors
    /// The kernel's.
    pub fn reasons(&self) -> Result<[u64; Reason::COUNT], KernelError> {
        let mut counts = [0; Reason::COUNT];
        for (number, count) in counts.iter_mut().enumerate() {
            let values = self.reasons.get(&(number as u32), 0);
            let values = values.map_err(|source| KernelError::Map {
                name: name::REASONS,
                source,
            })?;
            let from = self.tables.baseline(self.reason_baseline(number)).packets;
            *count = values
                .iter()
                .fold(0_u64, |sum, value| sum.wrapping_add(*value))
                .wrapping_sub(from);
        }
        // What was forwarded is counted in the rows only.
        let meta = self.meta()?;
        let mut forwarded = meta.forwarded_before;
        for row in 0..meta.rows_used {
            forwarded = forwarded.wrapping_add(self.raw_pair(row)?.packets);
        }
        counts[Reason::Forwarded as usize] = forwarded;
        Ok(counts)
    }

    /// Continues the counters of the maps that these replace, whatever these have counted themselves by now.
    ///
    /// # Errors
    /// The kernel's.
    pub fn continue_reasons(&mut self, counts: &[u64; Reason::COUNT]) -> Result<(), KernelError> {
        // The program alone writes its counters, and never a packet less: what came before is a baseline below zero.
        for (number, count) in counts.iter().enumerate() {
            let baseline = Counter {
                packets: count.wrapping_neg(),
                bytes: 0,
            };
            self.tables.set_baseline(self.reason_baseline(number), baseline);
        }
        let meta = self.meta()?;
        self.set_meta(Meta {
            forwarded_before: counts[Reason::Forwarded as usize],
            ..meta
        })
    }

    /// Where in `BASELINES` a reason's is: behind those of the rows.
    fn reason_baseline(&self, number: usize) -> u32 {
        self.tables.lengths().rows + number as u32
    }

    /// What the maps say of themselves.
    ///
    /// # Errors
    /// The kernel's.
    pub fn meta(&self) -> Result<Meta, KernelError> {
        self.meta.get(&0, 0).map_err(|source| KernelError::Map {
            name: name::META,
            source,
        })
    }

    /// Writes what the maps say of themselves.
    ///
    /// # Errors
    /// The kernel's.
    pub fn set_meta(&mut self, meta: Meta) -> Result<(), KernelError> {
        self.meta.set(0, meta, 0).map_err(|source| KernelError::Map {
            name: name::META,
            source,
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

    /// Lets packets be redirected to an interface.
    ///
    /// # Errors
    /// The kernel's; `ENOSPC` beyond 64 interfaces.
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

/// Why the kernel refused a program, without the verifier's whole account: its last words, where the reason stands.
fn refusal(error: &ProgramError) -> String {
    let ProgramError::LoadError { io_error, verifier_log } = error else {
        return error.to_string();
    };
    let log = verifier_log.to_string();
    let words: Vec<&str> = log.lines().filter(|line| !line.trim().is_empty()).collect();
    let last = words[words.len().saturating_sub(LAST_WORDS)..].join("\n  ");
    let hint = match io_error.raw_os_error() {
        Some(libc::EPERM) => "; it takes root, or CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON",
        _ => "",
    };
    if last.is_empty() {
        format!("{io_error}{hint}")
    } else {
        format!("{io_error}{hint}; the verifier's last words:\n  {last}")
    }
}

/// Lines of the verifier's account that an error shows.
const LAST_WORDS: usize = 6;

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

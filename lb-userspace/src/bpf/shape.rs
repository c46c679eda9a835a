//! The shapes of the maps: how many values each has and how long they are, for the kernel's limits and for what is pinned.
//!
//! The three tables that every packet reads are one large value each, where the kernel takes one: the program then needs no look-up
//! to come to an element (see `Table` in the program's `tables.rs`). Else they have a value for each element. In memory, and so for
//! [`Mapping`], it is the same. aya makes the other maps, these are made here: it does not let a
//! loader say how long a value is.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::path::Path;
use std::sync::OnceLock;

use aya::maps::{Array, Map, MapData, MapError, MapInfo, MapType};
use lb_common::local_mac::WORDS;
use lb_common::map::{ABI_VERSION, BackendRow, Counter, FlowEntry, InsertWindow, Meta, ServiceEntry, SlotPair, name};
use lb_common::reason::Reason;

use super::error::KernelError;
use super::link::Value;
use super::mapping::Mapping;
use super::tables::Lengths;

/// The shape of a table that packets read by index.
#[derive(Clone, Copy, Debug)]
struct Shape {
    name: &'static str,
    elements: u32,
    /// Bytes of an element: a multiple of 8.
    size: usize,
    /// Whether the table is one value.
    whole: bool,
}

/// How a program comes to the elements of the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Each table is one value.
    Whole,
    /// The ring has a value for each pair of slots: it is longer than what a program can reach in one.
    LargeRing,
    /// Each table has a value for each element: what kernels before 6.2 or so take.
    ByKey,
}

impl Access {
    /// The names of the programs in the object: the one that balances, and the one that is asked.
    pub const fn programs(self) -> [&'static str; 2] {
        match self {
            Access::Whole => ["balance", "lookup"],
            Access::LargeRing => ["balance_large_ring", "lookup_large_ring"],
            Access::ByKey => ["balance_by_key", "lookup_by_key"],
        }
    }
}

/// The tables as maps.
pub struct Tables {
    services: Table,
    ring: Table,
    backends: Table,
    pairs: Table,
    local_macs: Table,
}

struct Table {
    shape: Shape,
    map: MapData,
}

/// The shapes for a kernel whose longest value has `longest` bytes.
fn shapes(lengths: Lengths, longest: u32) -> [Shape; 4] {
    let shape = |name, elements, size| Shape {
        name,
        elements,
        size,
        whole: u64::from(elements) * size as u64 <= longest.into(),
    };
    // One counter for each row and CPU.
    let counters = lengths.rows.saturating_mul(cpus());
    let [services, ring, backends, pairs] = [
        shape(name::SERVICES, lengths.services, size_of::<ServiceEntry>()),
        shape(name::RING, lengths.slots / 2, size_of::<SlotPair>()),
        shape(name::BACKENDS, lengths.rows, size_of::<BackendRow>()),
        shape(name::PAIRS, counters, size_of::<Counter>()),
    ];
    // For these mixtures there are programs.
    let most = services.whole && backends.whole && pairs.whole;
    let with = |shape, whole| Shape { whole, ..shape };
    [
        with(services, most),
        with(ring, most && ring.whole),
        with(backends, most),
        with(pairs, most),
    ]
}

/// One value on every kernel: half a MiB, where the oldest take four.
const LOCAL_MACS: Shape = Shape {
    name: name::LOCAL_MACS,
    elements: WORDS,
    size: size_of::<u64>(),
    whole: true,
};
/// Entries of `LOCAL_MAC_SET`, as the object has it.
const MOST_LOCAL_MACS: u32 = 65_536;

impl Tables {
    /// Makes the maps, or takes those that are pinned. `longest` are the bytes of the longest value, if less than the kernel takes.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open(lengths: Lengths, longest: Option<u32>, pins: Option<&Path>) -> Result<Self, KernelError> {
        let most = longest_value();
        let [services, ring, backends, pairs] = shapes(lengths, longest.unwrap_or(most).min(most));
        Ok(Self {
            services: Table::open(services, pins)?,
            ring: Table::open(ring, pins)?,
            backends: Table::open(backends, pins)?,
            pairs: Table::open(pairs, pins)?,
            local_macs: Table::open(LOCAL_MACS, pins)?,
        })
    }

    /// What the program's symbols stand for.
    pub fn symbols(&self) -> Vec<(&'static str, Value<'_>)> {
        let Self {
            services,
            ring,
            backends,
            pairs,
            local_macs,
        } = self;
        let length = |table: &Table, units| Value::Constant(u64::from(table.shape.elements) * units);
        let mask = u64::from(services.shape.elements) - 1;
        vec![
            ("SERVICES_START", services.start()),
            ("SERVICES_MAP", Value::Map(services.fd())),
            ("SERVICE_MASK", Value::Constant(mask)),
            ("RING_START", ring.start()),
            ("RING_MAP", Value::Map(ring.fd())),
            // The program counts slots there, of which a pair has two.
            ("RING_LENGTH", length(ring, 2)),
            ("BACKENDS_START", backends.start()),
            ("BACKENDS_MAP", Value::Map(backends.fd())),
            ("BACKENDS_LENGTH", length(backends, 1)),
            ("PAIRS_START", pairs.start()),
            ("PAIRS_MAP", Value::Map(pairs.fd())),
            ("PAIRS_LENGTH", length(pairs, 1)),
            ("LOCAL_MACS_START", local_macs.start()),
        ]
    }

    /// Which of the programs can use the tables.
    pub fn access(&self) -> Access {
        match (self.services.shape.whole, self.ring.shape.whole) {
            (true, true) => Access::Whole,
            (true, false) => Access::LargeRing,
            (false, _) => Access::ByKey,
        }
    }

    /// The tables in memory.
    ///
    /// # Errors
    /// The kernel's.
    pub fn services(&self) -> Result<Mapping<ServiceEntry>, KernelError> {
        self.services.mapping()
    }

    /// As [`services`](Self::services).
    ///
    /// # Errors
    /// The kernel's.
    pub fn ring(&self) -> Result<Mapping<SlotPair>, KernelError> {
        self.ring.mapping()
    }

    /// As [`services`](Self::services).
    ///
    /// # Errors
    /// The kernel's.
    pub fn backends(&self) -> Result<Mapping<BackendRow>, KernelError> {
        self.backends.mapping()
    }

    /// As [`services`](Self::services): for each CPU in turn, a counter for each row.
    ///
    /// # Errors
    /// The kernel's.
    pub fn pairs(&self) -> Result<Mapping<Counter>, KernelError> {
        self.pairs.mapping()
    }

    /// As [`services`](Self::services): the words of [`lb_common::local_mac`].
    ///
    /// # Errors
    /// The kernel's.
    pub fn local_macs(&self) -> Result<Mapping<u64>, KernelError> {
        self.local_macs.mapping()
    }
}

impl Table {
    fn open(shape: Shape, pins: Option<&Path>) -> Result<Self, KernelError> {
        let name = shape.name;
        let failed = |source: MapError| KernelError::Map { name, source };
        let pin = pins.map(|folder| folder.join(name));
        if let Some(pin) = pin.as_ref().filter(|pin| pin.exists()) {
            let map = MapData::from_pin(pin).map_err(failed)?;
            return Ok(Self { shape, map });
        }
        let fd = create(name, shape.value_size() as u32, shape.entries()).map_err(|source| KernelError::TooLarge {
            name,
            bytes: shape.bytes(),
            source,
        })?;
        let map = MapData::from_fd(fd).map_err(failed)?;
        if let Some(path) = pin {
            map.pin(&path).map_err(|source| KernelError::Pin { path, source })?;
        }
        Ok(Self { shape, map })
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.map.fd().as_fd()
    }

    fn start(&self) -> Value<'_> {
        // The programs that take the start are not loaded if there is none.
        if self.shape.whole {
            Value::Start(self.fd())
        } else {
            Value::Constant(0)
        }
    }

    fn mapping<T: bytemuck::Pod>(&self) -> Result<Mapping<T>, KernelError> {
        let name = self.shape.name;
        Mapping::of_map(self.fd(), self.shape.elements).map_err(|source| KernelError::Mapping { name, source })
    }
}

impl Shape {
    fn bytes(&self) -> u64 {
        u64::from(self.elements) * self.size as u64
    }

    /// How many values the map has.
    fn entries(&self) -> u32 {
        if self.whole { 1 } else { self.elements }
    }

    /// How long a value is, in bytes.
    fn value_size(&self) -> usize {
        if self.whole {
            self.size * self.elements as usize
        } else {
            self.size
        }
    }
}

/// Every kernel takes a value of this many bytes: `KMALLOC_MAX_SIZE` on machines with pages of 4 KiB.
const SMALL_LIMIT: u32 = 4 << 20;
/// Offsets that a program adds to a value's start may be this large (`BPF_MAX_VAR_OFF`, Linux 6.1 to 7.2).
const LARGE_LIMIT: u32 = (1 << 29) - 4096;

/// Bytes of the longest value that the kernel takes in an array. Asked once, by making one that is longer than older kernels allow.
fn longest_value() -> u32 {
    if no_large_values().is_some() {
        return 0;
    }
    static LONGEST: OnceLock<u32> = OnceLock::new();
    *LONGEST.get_or_init(|| match create("probe", 2 * SMALL_LIMIT, 1) {
        Ok(_) => LARGE_LIMIT,
        Err(_) => SMALL_LIMIT,
    })
}

/// Why no table is one value: the verifier has refused a program that goes into them.
static NO_LARGE_VALUES: OnceLock<String> = OnceLock::new();

/// From now on, and until this process ends, every table has a value for each element. The first reason is kept.
pub fn use_no_large_values(why: impl Into<String>) {
    NO_LARGE_VALUES.get_or_init(|| why.into());
}

/// Why that is so, if it is.
pub fn no_large_values() -> Option<&'static str> {
    NO_LARGE_VALUES.get().map(String::as_str)
}

/// Makes an array map that can be mapped into memory.
fn create(name: &str, value_size: u32, entries: u32) -> io::Result<OwnedFd> {
    /// The head of `union bpf_attr` for `BPF_MAP_CREATE`; the kernel takes the rest for zeros.
    #[repr(C)]
    struct Create {
        map_type: u32,
        key_size: u32,
        value_size: u32,
        max_entries: u32,
        map_flags: u32,
        inner_map_fd: u32,
        numa_node: u32,
        /// Ends with a zero.
        map_name: [u8; 16],
    }
    const BPF_MAP_CREATE: libc::c_long = 0;
    const BPF_F_MMAPABLE: u32 = 1 << 10;
    let mut map_name = [0; 16];
    let bytes = CString::new(name)?.into_bytes();
    map_name[..bytes.len()].copy_from_slice(&bytes);
    let create = Create {
        map_type: MapType::Array as u32,
        key_size: 4,
        value_size,
        max_entries: entries,
        map_flags: BPF_F_MMAPABLE,
        inner_map_fd: 0,
        numa_node: 0,
        map_name,
    };
    // SAFETY: the kernel reads as many bytes as it is told, from a live value.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, BPF_MAP_CREATE, &raw const create, size_of::<Create>()) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just opened, and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// How many CPUs there may be: indices of CPUs are below it.
fn cpus() -> u32 {
    static CPUS: OnceLock<u32> = OnceLock::new();
    // Without an answer the table would be too short for some CPU's packets to be counted: rather one that is too long.
    *CPUS.get_or_init(|| aya::util::nr_cpus().map_or(1024, |cpus| cpus as u32))
}

/// Entries of `BASELINES`: one for each row, then one for each reason, and one for the number of the life that begins next.
pub fn baselines(lengths: Lengths) -> u32 {
    lengths.rows + Reason::COUNT as u32 + 1
}

/// Whether the maps pinned in `folder` can be taken over: all there, of the right shapes and of this ABI.
///
/// The kernel would load the program with whatever is pinned, also with tables shorter than the mask says.
///
/// # Errors
/// Why they cannot, in words.
pub fn fits(folder: &Path, lengths: Lengths) -> Result<(), String> {
    fits_where(folder, lengths, longest_value())
}

/// The same for tables with a value for each element: an earlier daemon made them on a kernel that refused the faster program.
///
/// # Errors
/// As of [`fits`].
pub fn fits_by_key(folder: &Path, lengths: Lengths) -> Result<(), String> {
    fits_where(folder, lengths, 0)
}

fn fits_where(folder: &Path, lengths: Lengths, longest: u32) -> Result<(), String> {
    let others = [
        (name::META, MapType::Array, size_of::<Meta>(), 1),
        (name::FLOWS, MapType::LruHash, size_of::<FlowEntry>(), lengths.flows),
        (
            name::INSERTS,
            MapType::PerCpuArray,
            size_of::<InsertWindow>(),
            lengths.services,
        ),
        (
            name::BASELINES,
            MapType::Array,
            size_of::<Counter>(),
            baselines(lengths),
        ),
        (
            name::REASONS,
            MapType::PerCpuArray,
            size_of::<u64>(),
            Reason::COUNT as u32,
        ),
        (name::LOCAL_MAC_SET, MapType::Hash, size_of::<u8>(), MOST_LOCAL_MACS),
    ];
    let tables = shapes(lengths, longest)
        .into_iter()
        .chain([LOCAL_MACS])
        .map(|shape| (shape.name, MapType::Array, shape.value_size(), shape.entries()));
    for (map, map_type, value_size, entries) in tables.into_iter().chain(others) {
        let info = MapInfo::from_pin(folder.join(map)).map_err(|error| format!("map {map}: {error}"))?;
        let found = (info.map_type().ok(), info.value_size() as usize, info.max_entries());
        if found != (Some(map_type), value_size, entries) {
            return Err(format!(
                "map {map} has {} values of {} bytes, and {entries} of {value_size} are needed",
                info.max_entries(),
                info.value_size(),
            ));
        }
    }
    MapInfo::from_pin(folder.join(name::DEVICES)).map_err(|error| format!("map {}: {error}", name::DEVICES))?;
    let meta = pinned_meta(folder).map_err(|error| format!("map {}: {error}", name::META))?;
    match meta.abi_version {
        ABI_VERSION => Ok(()),
        0 => Err("they were never filled: a daemon stopped while it made them".to_owned()),
        other => Err(format!(
            "they have ABI version {other}, and this daemon writes {ABI_VERSION}"
        )),
    }
}

/// How long the tables pinned in `folder` are, if there are any.
pub fn pinned_lengths(folder: &Path) -> Option<Lengths> {
    let info = |map: &str| MapInfo::from_pin(folder.join(map)).ok();
    let elements = |map: &str, size: usize| {
        let info = info(map)?;
        let bytes = u64::from(info.value_size()) * u64::from(info.max_entries());
        u32::try_from(bytes / size as u64).ok()
    };
    Some(Lengths {
        services: elements(name::SERVICES, size_of::<ServiceEntry>())?,
        slots: elements(name::RING, size_of::<SlotPair>())?.checked_mul(2)?,
        rows: elements(name::BACKENDS, size_of::<BackendRow>())?,
        flows: info(name::FLOWS)?.max_entries(),
    })
}

fn pinned_meta(folder: &Path) -> Result<Meta, MapError> {
    let map = Map::from_map_data(MapData::from_pin(folder.join(name::META))?)?;
    Array::<_, Meta>::try_from(map)?.get(&0, 0)
}

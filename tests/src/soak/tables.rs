//! The balancer's pinned tables, read by code of our own: offsets and lengths are written out here, so that the daemon and this reader
//! cannot be wrong in the same way.

use std::ffi::{CString, c_uint};
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZero;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

/// One service as the tables hold it.
#[derive(Clone, Debug)]
pub struct Service {
    /// The VIP and the port.
    pub vip: (IpAddr, u16),
    /// Its slots, in order.
    pub slots: Vec<Slot>,
    /// Its rows by number; nothing where a row is free.
    pub rows: Vec<Option<Row>>,
}

/// A slot's two halves: numbers of rows, [`NONE`] for no backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// The owner.
    pub current: u16,
    /// The owner before; the same in a stable slot.
    pub previous: u16,
}

/// No backend.
pub const NONE: u16 = 0xFFFF;

/// One backend's row, as far as the oracle asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Whether the row says that its backend serves the flows that it has.
    pub serves: bool,
    /// Where its packets go.
    pub goal: Goal,
}

/// Where a row's packets go, as their headers say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// The next hop is not known.
    Nowhere,
    /// To this MAC address, without a tunnel.
    Mac([u8; 6]),
    /// Through a tunnel to this address.
    Tunnel(IpAddr),
}

/// The length of a service's entry and the offsets in it.
const ENTRY: usize = 64;
const ENTRY_ADDRESS_HIGH: usize = 0;
const ENTRY_ADDRESS_LOW: usize = 8;
/// Port in network order, protocol, family.
const ENTRY_WORD: usize = 16;
const ENTRY_RING_SIZE: usize = 20;
/// First slot, then first row.
const ENTRY_BASES: usize = 24;
/// Rows, in groups of four.
const ENTRY_GROUPS: usize = 48;

/// The same of a row.
const ROW: usize = 192;
const ROW_ACTIVE: usize = 0;
const ROW_LIFE: usize = 4;
const ROW_REWRITES: usize = 8;
const ROW_IDENTITY: usize = 184;
const REWRITE: usize = 88;
const REWRITE_HEADER: usize = 16;

/// Reads all services from the tables that the daemon with this process id has pinned.
///
/// # Errors
/// If there are none, or if they point outside of themselves.
pub fn read(daemon: u32) -> Result<Vec<Service>> {
    let folder = folder(daemon)?;
    let [services, ring, rows] = ["SERVICES", "RING", "BACKENDS"].map(|name| Mapping::open(&folder.join(name)));
    let (services, ring, rows) = (services?, ring?, rows?);
    let mut found = Vec::new();
    for entry in services.bytes().chunks_exact(ENTRY) {
        let [port_high, port_low, _, family] = at::<4>(entry, ENTRY_WORD);
        let address = match family {
            0 => continue,
            4 => {
                let [a, b, c, d, ..] = at::<8>(entry, ENTRY_ADDRESS_LOW);
                IpAddr::from([a, b, c, d])
            }
            6 => IpAddr::from(at::<16>(entry, ENTRY_ADDRESS_HIGH)),
            other => bail!("a service of family {other}"),
        };
        let (size, base) = (word(entry, ENTRY_RING_SIZE), word(entry, ENTRY_BASES));
        let groups = u16::from_ne_bytes(at(entry, ENTRY_GROUPS));
        let (first_row, count) = (word(entry, ENTRY_BASES + 4), u32::from(groups) * 4);
        let slots = piece(ring.bytes(), base, size, 4).with_context(|| format!("{address}: the ring"))?;
        let rows = piece(rows.bytes(), first_row, count, ROW).with_context(|| format!("{address}: the rows"))?;
        found.push(Service {
            vip: (address, u16::from_be_bytes([port_high, port_low])),
            slots: slots.chunks_exact(4).map(slot).collect(),
            rows: rows.chunks_exact(ROW).map(row).collect::<Result<_>>()?,
        });
    }
    Ok(found)
}

fn slot(bytes: &[u8]) -> Slot {
    let both = word(bytes, 0);
    Slot {
        current: both as u16,
        previous: (both >> 16) as u16,
    }
}

fn row(bytes: &[u8]) -> Result<Option<Row>> {
    if at::<8>(bytes, ROW_IDENTITY) == [0; 8] {
        return Ok(None);
    }
    let copy = (word(bytes, ROW_ACTIVE) & 1) as usize;
    let rewrite = &bytes[ROW_REWRITES + copy * REWRITE..][..REWRITE];
    let header = &rewrite[REWRITE_HEADER..];
    let goal = match word(rewrite, 0) {
        0 => Goal::Nowhere,
        1 => Goal::Mac(at(header, 0)),
        // Ethernet, then the outer header: its destination is 16 or 24 bytes into it.
        2 => Goal::Tunnel(Ipv4Addr::from(at::<4>(header, 14 + 16)).into()),
        3 => Goal::Tunnel(Ipv6Addr::from(at::<16>(header, 14 + 24)).into()),
        other => bail!("a row of mode {other}"),
    };
    Ok(Some(Row {
        serves: word(bytes, ROW_LIFE) != 0,
        goal,
    }))
}

fn piece(bytes: &[u8], first: u32, count: u32, size: usize) -> Result<&[u8]> {
    let (first, count) = (first as usize * size, count as usize * size);
    let piece = bytes.get(first..first + count);
    piece.with_context(|| format!("{count} bytes at {first} of {}", bytes.len()))
}

fn at<const N: usize>(bytes: &[u8], offset: usize) -> [u8; N] {
    let mut field = [0; N];
    field.copy_from_slice(&bytes[offset..offset + N]);
    field
}

fn word(bytes: &[u8], offset: usize) -> u32 {
    u32::from_ne_bytes(at(bytes, offset))
}

/// The folder of pins, seen through the daemon's own mounts.
fn folder(daemon: u32) -> Result<PathBuf> {
    let all = format!("/proc/{daemon}/root/sys/fs/bpf/edgelb");
    let entries = fs::read_dir(&all).with_context(|| all.clone())?;
    let mut folders = entries.map(|entry| entry.map(|entry| entry.path().join("tables")));
    let folder = folders.next().with_context(|| format!("{all} is empty"))??;
    ensure!(folders.next().is_none(), "{all} holds more than one instance");
    Ok(folder)
}

/// A pinned array map in memory, for reading.
struct Mapping {
    start: std::ptr::NonNull<std::ffi::c_void>,
    length: usize,
}

impl Mapping {
    fn open(pin: &Path) -> Result<Self> {
        let map = obj_get(pin).with_context(|| pin.display().to_string())?;
        let length = map_length(&map)?;
        let Some(whole) = NonZero::new(length) else {
            bail!("{}: an empty map", pin.display());
        };
        // SAFETY: a new mapping of the whole map, at an address that the kernel chooses.
        let start = unsafe { mmap(None, whole, ProtFlags::PROT_READ, MapFlags::MAP_SHARED, &map, 0) }?;
        Ok(Self { start, length })
    }

    /// The bytes. They change while they are read, one aligned word at a time: callers look when nothing is being changed.
    fn bytes(&self) -> &[u8] {
        // SAFETY: mapped for reading until `self` is dropped. Another process writes there; a torn read is a wrong number and no more,
        // as each byte is only ever copied.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr().cast(), self.length) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped by `open`, and not used any more.
        _ = unsafe { munmap(self.start, self.length) };
    }
}

/// `union bpf_attr` for `BPF_OBJ_GET`.
#[repr(C)]
struct ObjectGet {
    path: u64,
    fd: u32,
    flags: u32,
}

/// The same for `BPF_OBJ_GET_INFO_BY_FD`.
#[repr(C)]
struct ObjectInfo {
    fd: u32,
    length: u32,
    info: u64,
}

/// The beginning of `struct bpf_map_info`.
#[repr(C)]
#[derive(Default)]
struct MapInfo {
    kind: u32,
    id: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
}

const BPF_OBJ_GET: c_uint = 7;
const BPF_OBJ_GET_INFO_BY_FD: c_uint = 15;

fn obj_get(pin: &Path) -> Result<OwnedFd> {
    let path = CString::new(pin.as_os_str().to_owned().into_vec())?;
    let mut attributes = ObjectGet {
        path: path.as_ptr() as u64,
        fd: 0,
        flags: 0,
    };
    let fd = bpf(BPF_OBJ_GET, &mut attributes)?;
    // SAFETY: the command returns a new descriptor, which nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// How many bytes an array map is in memory.
fn map_length(map: &OwnedFd) -> Result<usize> {
    let mut info = MapInfo::default();
    let mut attributes = ObjectInfo {
        fd: map.as_raw_fd().cast_unsigned(),
        length: size_of::<MapInfo>() as u32,
        info: (&raw mut info) as u64,
    };
    bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attributes)?;
    Ok((info.value_size as usize).next_multiple_of(8) * info.max_entries as usize)
}

fn bpf<T>(command: c_uint, attributes: &mut T) -> io::Result<i32> {
    // SAFETY: a `repr(C)` struct laid out as the kernel's for this command, with its size; what it points to lives in the caller.
    let answer = unsafe {
        nix::libc::syscall(
            nix::libc::SYS_bpf,
            command,
            std::ptr::from_mut(attributes),
            size_of::<T>() as c_uint,
        )
    };
    if answer < 0 {
        return Err(io::Error::last_os_error());
    }
    i32::try_from(answer).map_err(io::Error::other)
}

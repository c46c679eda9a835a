//! The flow table read as a whole, from any thread.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};

use lb_common::map::FlowEntry;

/// The kernel's command numbers (`enum bpf_cmd`, Linux 5.6 for the batch).
const MAP_LOOKUP_ELEM: libc::c_long = 1;
const MAP_DELETE_ELEM: libc::c_long = 3;
const MAP_LOOKUP_BATCH: libc::c_long = 24;

/// `union bpf_attr` as the batch command reads it.
#[repr(C)]
#[derive(Default)]
struct Batch {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// `union bpf_attr` as the command for one element reads it.
#[repr(C)]
#[derive(Default)]
struct Element {
    map_fd: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// Shows every entry of the flow table to `see`, some twice or not at all if they come or go meanwhile, and deletes those for
/// which it says so.
///
/// # Errors
/// The kernel's.
pub fn sweep(map: &OwnedFd, mut see: impl FnMut(u64, FlowEntry) -> Keep) -> io::Result<()> {
    const AT_ONCE: usize = 4096;
    let mut keys = vec![0_u64; AT_ONCE];
    let mut values = vec![FlowEntry::default(); AT_ONCE];
    let (mut position, mut next) = (0_u32, 0_u32);
    let mut first = true;
    loop {
        let mut batch = Batch {
            in_batch: if first { 0 } else { &raw mut position as u64 },
            out_batch: &raw mut next as u64,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count: AT_ONCE as u32,
            map_fd: map.as_raw_fd() as u32,
            ..Batch::default()
        };
        // SAFETY: the kernel writes at most `count` keys and values of the map's sizes, which are those of the arrays.
        let answer = unsafe { libc::syscall(libc::SYS_bpf, MAP_LOOKUP_BATCH, &raw mut batch, size_of::<Batch>()) };
        let end = if answer == 0 {
            false
        } else {
            let error = io::Error::last_os_error();
            if error.raw_os_error() != Some(libc::ENOENT) {
                return Err(error);
            }
            true
        };
        let count = (batch.count as usize).min(AT_ONCE);
        for (key, value) in keys[..count].iter().zip(&values[..count]) {
            // It may have been written anew since: a client that uses a port again.
            if see(*key, *value) == Keep::No && look_up(map, *key)? == Some(*value) {
                delete(map, *key)?;
            }
        }
        if end {
            return Ok(());
        }
        position = next;
        first = false;
    }
}

/// Whether an entry stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// It stays.
    Yes,
    /// It goes.
    No,
}

/// The entry as it is now. Between this and what follows from it there are microseconds, not the time that a batch takes.
fn look_up(map: &OwnedFd, key: u64) -> io::Result<Option<FlowEntry>> {
    let mut value = FlowEntry::default();
    let mut element = Element {
        map_fd: map.as_raw_fd() as u32,
        key: &raw const key as u64,
        value: &raw mut value as u64,
        ..Element::default()
    };
    // SAFETY: the kernel reads one key of 8 bytes, and writes one value of the map's size, which is that of `value`.
    let answer = unsafe { libc::syscall(libc::SYS_bpf, MAP_LOOKUP_ELEM, &raw mut element, size_of::<Element>()) };
    let error = io::Error::last_os_error();
    match (answer, error.raw_os_error()) {
        (0, _) => Ok(Some(value)),
        (_, Some(libc::ENOENT)) => Ok(None),
        _ => Err(error),
    }
}

fn delete(map: &OwnedFd, key: u64) -> io::Result<()> {
    let mut element = Element {
        map_fd: map.as_raw_fd() as u32,
        key: &raw const key as u64,
        ..Element::default()
    };
    // SAFETY: the kernel reads one key of 8 bytes.
    let answer = unsafe { libc::syscall(libc::SYS_bpf, MAP_DELETE_ELEM, &raw mut element, size_of::<Element>()) };
    let error = io::Error::last_os_error();
    if answer == 0 || error.raw_os_error() == Some(libc::ENOENT) {
        Ok(())
    } else {
        Err(error)
    }
}

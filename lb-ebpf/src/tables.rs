//! The maps and the load-time globals, and the one way that the packet's path reads each.
//!
//! Userspace writes `SERVICES`, `RING` and `BACKENDS` through memory mappings while packets read them; `lb_common::map` says
//! in which order, and why no reader sees half of anything.

use aya_ebpf::bindings::BPF_F_MMAPABLE;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, DevMapHash, LruHashMap, PerCpuArray};
use lb_common::hash::{HashKeys, service_places};
use lb_common::map::{BackendRow, Counter, FlowEntry, InsertWindow, Meta, ServiceEntry, ServiceKey, Slot, SlotPair};
use lb_common::reason::Reason;

// Lengths here are placeholders: userspace sets each map's from the configured capacity before it loads the program.

#[map]
static META: Array<Meta> = Array::with_max_entries(1, 0);
#[map]
static SERVICES: Array<ServiceEntry> = Array::with_max_entries(1, BPF_F_MMAPABLE);
#[map]
static RING: Array<SlotPair> = Array::with_max_entries(1, BPF_F_MMAPABLE);
#[map]
static BACKENDS: Array<BackendRow> = Array::with_max_entries(1, BPF_F_MMAPABLE);
#[map]
static PAIRS: PerCpuArray<Counter> = PerCpuArray::with_max_entries(1, 0);
#[map]
static BASELINES: Array<Counter> = Array::with_max_entries(1, BPF_F_MMAPABLE);
#[map]
static REASONS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Reason::COUNT as u32, 0);
#[map]
static FLOWS: LruHashMap<u64, FlowEntry> = LruHashMap::with_max_entries(1, 0);
#[map]
static INSERTS: PerCpuArray<InsertWindow> = PerCpuArray::with_max_entries(1, 0);
#[map]
static DEVICES: DevMapHash = DevMapHash::with_max_entries(64, 0);

#[unsafe(no_mangle)]
static SERVICE_MASK: u32 = 0;
#[unsafe(no_mangle)]
static HASH_KEYS: HashKeys = HashKeys([0; 4]);

/// The service with this key: in one of its two places, or nowhere.
#[inline(always)]
pub fn service(key: ServiceKey, v6: bool) -> Option<&'static ServiceEntry> {
    // SAFETY: a global that userspace set before the program was loaded; volatile, or the compiler would use the zero here.
    let mask = unsafe { core::ptr::read_volatile(&SERVICE_MASK) };
    let (first, second) = service_places(key, mask);
    let entry = SERVICES.get(first)?;
    if is(entry, key, v6) {
        return Some(entry);
    }
    // Almost no key is in its second place, and a packet that is for nobody here should not pay for looking.
    if entry.overflow == 0 {
        return None;
    }
    let entry = SERVICES.get(second)?;
    if is(entry, key, v6) { Some(entry) } else { None }
}

#[inline(always)]
fn is(entry: &ServiceEntry, key: ServiceKey, v6: bool) -> bool {
    // The word tells the families apart, and all IPv4 entries have the same high half: for them the compiler drops the last
    // comparison.
    entry.word == key.word && entry.address_low == key.address_low && (!v6 || entry.address_high == key.address_high)
}

/// Both bases of a service in one load.
#[inline(always)]
pub fn bases(service: &ServiceEntry) -> u64 {
    // SAFETY: an aligned field of a live map value; volatile, so that it is one load of 8 bytes.
    unsafe { core::ptr::read_volatile(&service.bases) }
}

/// A slot, in one load.
#[inline(always)]
pub fn slot(index: u64) -> Result<Slot, Reason> {
    // In 64 bits: a 32-bit shift costs the target a mask.
    let pair = RING.get_ptr((index >> 1) as u32).ok_or(Reason::BrokenTable)?;
    // SAFETY: an aligned live map value of two slots; volatile, so that both halves of the slot come from one load.
    Ok(unsafe { core::ptr::read_volatile(pair.cast::<Slot>().add((index & 1) as usize)) })
}

/// A backend's row.
#[inline(always)]
pub fn backend(index: u32) -> Result<&'static BackendRow, Reason> {
    BACKENDS.get(index).ok_or(Reason::BrokenTable)
}

/// What is remembered of a flow.
#[inline(always)]
pub fn flow(hash: u64) -> Option<*mut FlowEntry> {
    FLOWS.get_ptr_mut(hash)
}

/// Remembers a flow; false if the table does not take it.
#[inline(always)]
pub fn insert_flow(hash: u64, entry: &FlowEntry) -> bool {
    FLOWS.insert(hash, entry, 0).is_ok()
}

/// How many flows this CPU has remembered lately for a service.
#[inline(always)]
pub fn insert_window(index: u32) -> Option<*mut InsertWindow> {
    INSERTS.get_ptr_mut(index)
}

/// The flow hash's key. IPv4 does without the last word.
#[inline(always)]
pub fn hash_keys(v6: bool) -> HashKeys {
    // SAFETY: as in `service`; one load for each word that is used.
    let word = |index: usize| unsafe { core::ptr::read_volatile(&HASH_KEYS.0[index]) };
    HashKeys([word(0), word(1), word(2), if v6 { word(3) } else { 0 }])
}

/// Counts a packet that was forwarded; `length` in bytes.
#[inline(always)]
pub fn count_pair(row_index: u32, length: u32) {
    if let Some(counter) = PAIRS.get_ptr_mut(row_index) {
        // SAFETY: this CPU's own copy of a live map value; XDP programs do not interrupt each other on a CPU.
        unsafe {
            (*counter).packets += 1;
            (*counter).bytes += u64::from(length);
        }
    }
}

/// Counts a packet that was not.
#[inline(always)]
pub fn count_reason(reason: Reason) {
    if let Some(packets) = REASONS.get_ptr_mut(reason as u32) {
        // SAFETY: as in `count_pair`.
        unsafe { *packets += 1 };
    }
}

/// Sends the packet out by another interface. The kernel's answer is `XDP_REDIRECT`, or 0 if the map does not have it.
#[inline(always)]
pub fn redirect(ifindex: u32) -> Result<u32, Reason> {
    DEVICES.redirect(ifindex, 0).map_err(|_| Reason::NoNextHop)
}

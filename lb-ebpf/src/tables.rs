//! The maps and the linked constants, and the one way that the packet's path reads each.
//!
//! Userspace writes `SERVICES`, `RING` and `BACKENDS` through memory mappings while packets read them; `lb_common::map` says
//! in which order, and why no reader sees half of anything.

use aya_ebpf::bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC};
use aya_ebpf::helpers::{bpf_get_smp_processor_id, bpf_map_lookup_elem};
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, DevMapHash, HashMap, LruHashMap, PerCpuArray};
use aya_ebpf::programs::XdpContext;
use lb_common::hash::{HashKeys, service_places_wide};
use lb_common::local_mac::{self, LocalMac};
use lb_common::map::{BackendRow, Counter, FlowEntry, InsertWindow, Meta, ServiceEntry, ServiceKey, Slot, SlotPair};
use lb_common::reason::Reason;

// Lengths here are placeholders: userspace sets each map's from the configured capacity before it loads the program.

#[map]
static META: Array<Meta> = Array::with_max_entries(1, 0);
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
/// Room for every address that a host may have on all its interfaces; without preallocation it costs nothing.
const MOST_LOCAL_MACS: u32 = 65_536;
#[map]
static LOCAL_MAC_SET: HashMap<LocalMac, u8> = HashMap::with_max_entries(MOST_LOCAL_MACS, BPF_F_NO_PREALLOC);

// What userspace links the program with (`bpf::link` there): the address of each symbol is its value, as that of a linker script's.
// So the verifier and the JIT compiler find constants, where a global would have to be loaded for every packet.
unsafe extern "C" {
    /// The first element of `SERVICES`, if the map is one value that holds the whole table.
    static SERVICES_START: u8;
    static RING_START: u8;
    static BACKENDS_START: u8;
    static PAIRS_START: u8;
    /// The first word of `LOCAL_MACS`, which is always one value: every kernel takes one of its length.
    static LOCAL_MACS_START: u8;
    /// How many elements it has.
    static RING_LENGTH: u8;
    static BACKENDS_LENGTH: u8;
    static PAIRS_LENGTH: u8;
    /// The map, if it has a value for each element.
    static SERVICES_MAP: u8;
    static RING_MAP: u8;
    static BACKENDS_MAP: u8;
    static PAIRS_MAP: u8;
    /// The length of `SERVICES` less one.
    static SERVICE_MASK: u8;
    /// The words of [`HashKeys`].
    static HASH_KEY_0: u8;
    static HASH_KEY_1: u8;
    static HASH_KEY_2: u8;
    static HASH_KEY_3: u8;
}

/// The number that a symbol was linked with.
macro_rules! linked {
    ($symbol:ident) => {
        (&raw const $symbol) as u64
    };
}

/// A copy of a number, of which the compiler does not know that it is one.
///
/// An index that is needed again later may stand on the stack when it is compared with a table's length. Verifiers before Linux 6.8 then know
/// the bound of the register that was compared, and not that of the number on the stack, which is read again for the access.
#[inline(always)]
pub fn in_register(number: u64) -> u64 {
    #[cfg(target_arch = "bpf")]
    {
        let copy: u64;
        // SAFETY: one register is copied to another. With no instruction at all its line would have none, which the kernel refuses.
        unsafe {
            core::arch::asm!("{0} = {1}", out(reg) copy, in(reg) number, options(pure, nomem, nostack, preserves_flags));
        }
        copy
    }
    #[cfg(not(target_arch = "bpf"))]
    number
}

/// How the elements of the three tables are found.
pub trait Access: Copy {
    /// The service entry at a place, which is within the mask.
    fn service(self, place: u64) -> Option<&'static ServiceEntry>;

    /// A slot, in one load.
    ///
    /// # Errors
    /// If it is beyond the table's end.
    fn slot(self, index: u64) -> Result<Slot, Reason>;

    /// A backend's row.
    ///
    /// # Errors
    /// If it is beyond the table's end.
    fn backend(self, index: u64) -> Result<&'static BackendRow, Reason>;

    /// A counter, by its index in `PAIRS`.
    fn counter(self, index: u64) -> Option<*mut Counter>;
}

/// Each table is one value: an addition is all that stands between index and element.
#[derive(Clone, Copy)]
pub struct Whole;

/// As [`Whole`], but slots are looked up by index: for rings that are together longer than what a program may reach in one value.
#[derive(Clone, Copy)]
pub struct LargeRing;

/// Each element is a value, looked up by its index: for kernels that bound the length of a value. It takes three times the
/// instructions.
#[derive(Clone, Copy)]
pub struct ByKey;

impl Access for Whole {
    #[inline(always)]
    fn service(self, place: u64) -> Option<&'static ServiceEntry> {
        let start = (&raw const SERVICES_START).cast::<ServiceEntry>();
        // SAFETY: the mask bounds the place, as the verifier sees too. Live; userspace writes it so that no reader matches half of it.
        Some(unsafe { &*start.add(place as usize) })
    }

    #[inline(always)]
    fn slot(self, index: u64) -> Result<Slot, Reason> {
        if index >= linked!(RING_LENGTH) {
            return Err(Reason::BrokenTable);
        }
        let start = (&raw const RING_START).cast::<Slot>();
        // SAFETY: within the table and aligned; volatile, so that both halves of the slot come from one load.
        Ok(unsafe { start.add(index as usize).read_volatile() })
    }

    #[inline(always)]
    fn backend(self, index: u64) -> Result<&'static BackendRow, Reason> {
        if index >= linked!(BACKENDS_LENGTH) {
            return Err(Reason::BrokenTable);
        }
        let start = (&raw const BACKENDS_START).cast::<BackendRow>();
        // SAFETY: within the table; userspace writes it so that a packet sees the old bytes or the new ones.
        Ok(unsafe { &*start.add(index as usize) })
    }

    #[inline(always)]
    fn counter(self, index: u64) -> Option<*mut Counter> {
        if index >= linked!(PAIRS_LENGTH) {
            return None;
        }
        let start = (&raw const PAIRS_START).cast_mut().cast::<Counter>();
        // SAFETY: within the table.
        Some(unsafe { start.add(index as usize) })
    }
}

impl Access for LargeRing {
    #[inline(always)]
    fn service(self, place: u64) -> Option<&'static ServiceEntry> {
        Whole.service(place)
    }

    #[inline(always)]
    fn slot(self, index: u64) -> Result<Slot, Reason> {
        ByKey.slot(index)
    }

    #[inline(always)]
    fn backend(self, index: u64) -> Result<&'static BackendRow, Reason> {
        // For large rings only: for all others the compiler keeps it there of itself, and it would cost them an instruction.
        Whole.backend(in_register(index))
    }

    #[inline(always)]
    fn counter(self, index: u64) -> Option<*mut Counter> {
        Whole.counter(index)
    }
}

impl Access for ByKey {
    #[inline(always)]
    fn service(self, place: u64) -> Option<&'static ServiceEntry> {
        // SAFETY: as for `Whole`.
        unsafe { look_up::<ServiceEntry>(&raw const SERVICES_MAP, place).as_ref() }
    }

    #[inline(always)]
    fn slot(self, index: u64) -> Result<Slot, Reason> {
        // A value is a pair of slots. In 64 bits: a 32-bit shift costs the target a mask.
        let pair = look_up::<SlotPair>(&raw const RING_MAP, index >> 1);
        if pair.is_null() {
            return Err(Reason::BrokenTable);
        }
        // SAFETY: as for `Whole`; one of the two.
        Ok(unsafe { pair.cast::<Slot>().add((index & 1) as usize).read_volatile() })
    }

    #[inline(always)]
    fn backend(self, index: u64) -> Result<&'static BackendRow, Reason> {
        // SAFETY: as for `Whole`.
        unsafe { look_up::<BackendRow>(&raw const BACKENDS_MAP, index).as_ref() }.ok_or(Reason::BrokenTable)
    }

    #[inline(always)]
    fn counter(self, index: u64) -> Option<*mut Counter> {
        let counter = look_up::<Counter>(&raw const PAIRS_MAP, index).cast_mut();
        if counter.is_null() { None } else { Some(counter) }
    }
}

#[inline(always)]
fn look_up<T>(map: *const u8, index: u64) -> *const T {
    let key = index as u32;
    // SAFETY: an array map, whose keys are 4 bytes; the kernel's answer is a value or nothing.
    unsafe { bpf_map_lookup_elem(map.cast_mut().cast(), (&raw const key).cast()) }
        .cast_const()
        .cast()
}

/// The service with this key: in one of its two places, or nowhere.
#[inline(always)]
pub fn service<T: Access>(tables: T, key: ServiceKey, v6: bool) -> Option<&'static ServiceEntry> {
    let (first, second) = service_places_wide(key, linked!(SERVICE_MASK));
    let entry = tables.service(first)?;
    if is(entry, key, v6) {
        return Some(entry);
    }
    // Almost no key is in its second place, and a packet that is for nobody here should not pay for looking.
    if entry.overflow == 0 {
        return None;
    }
    let entry = tables.service(second)?;
    if is(entry, key, v6) { Some(entry) } else { None }
}

#[inline(always)]
fn is(entry: &ServiceEntry, key: ServiceKey, v6: bool) -> bool {
    // The word tells the families apart, and all IPv4 entries have the same high half: for them the compiler drops the last
    // comparison.
    entry.word == key.word && entry.address_low == key.address_low && (!v6 || entry.address_high == key.address_high)
}

/// Whether a frame that begins with these 8 bytes is for this host, as far as a comparison or two tell: of a few addresses that collide, one.
#[inline(always)]
pub fn is_local_at_once(ctx: &XdpContext, head: u64) -> bool {
    let start = (&raw const LOCAL_MACS_START).cast::<u64>();
    // SAFETY: the table has a first word; volatile, because userspace may write it at any time.
    if unsafe { start.read_volatile() } == local_mac::only(head) {
        return true;
    }
    let (place, word) = local_mac::place(head, ctx.ingress_ifindex() as u32);
    // SAFETY: a place is within the table, as the verifier sees too.
    word == unsafe { start.add(place as usize).read_volatile() }
}

/// Whether a frame that begins with these 8 bytes is for this host.
#[inline(always)]
pub fn is_local(head: u64, ifindex: u32) -> bool {
    LOCAL_MAC_SET.get_ptr(LocalMac::of_frame(head, ifindex)).is_some()
}

/// Both bases of a service in one load.
#[inline(always)]
pub fn bases(service: &ServiceEntry) -> u64 {
    // SAFETY: an aligned field of a live map value; volatile, so that it is one load of 8 bytes.
    unsafe { core::ptr::read_volatile(&service.bases) }
}

/// The life that a backend is in, in one load.
#[inline(always)]
pub fn life(row: &BackendRow) -> u32 {
    // SAFETY: an aligned field of a live map value; volatile, so that what is checked is what is used.
    unsafe { core::ptr::read_volatile(&row.life) }
}

/// What is remembered of a flow, by the hash of its address and port.
#[inline(always)]
pub fn flow(hash: u64) -> Option<*mut FlowEntry> {
    FLOWS.get_ptr_mut(hash)
}

/// Remembers a flow; false if the table does not take it.
#[inline(always)]
pub fn insert_flow(hash: u64, entry: &FlowEntry) -> bool {
    FLOWS.insert(hash, entry, 0).is_ok()
}

/// Forgets a flow.
#[inline(always)]
pub fn forget_flow(hash: u64) {
    // That it is gone already is as good.
    let _ = FLOWS.remove(hash);
}

/// How many flows this CPU has remembered lately for a service.
#[inline(always)]
pub fn insert_window(index: u32) -> Option<*mut InsertWindow> {
    INSERTS.get_ptr_mut(index)
}

/// The flow hash's key. IPv4 does without the last word.
#[inline(always)]
pub fn hash_keys(v6: bool) -> HashKeys {
    let last = if v6 { linked!(HASH_KEY_3) } else { 0 };
    HashKeys([linked!(HASH_KEY_0), linked!(HASH_KEY_1), linked!(HASH_KEY_2), last])
}

/// Counts a packet that was forwarded; `length` in bytes.
///
/// Each CPU has counters of its own, one behind the other, in an array like any other: a per-CPU array would cost another load, and
/// userspace a system call for each row that it reads.
#[inline(always)]
pub fn count_pair<T: Access>(tables: T, row_index: u64, length: u32) {
    // SAFETY: a helper without arguments.
    let cpu = u64::from(unsafe { bpf_get_smp_processor_id() });
    if let Some(counter) = tables.counter(cpu * linked!(BACKENDS_LENGTH) + row_index) {
        // SAFETY: a live counter, this CPU's own; XDP programs do not interrupt each other on a CPU.
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

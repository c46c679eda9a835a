//! The types in the BPF maps.
//!
//! Written once, for both sides. No padding that is not named, no `bool`, no `Option`, no data-carrying enum: every bit pattern
//! is a value. Any change to a type here bumps [`ABI_VERSION`], and a daemon that finds maps of another version builds new
//! ones instead of reading them.

use bytemuck::{Pod, Zeroable};

/// The version of everything in this module; it stands in the map `META`, so that a daemon knows what it finds.
pub const ABI_VERSION: u32 = 2;

/// The names of the maps, as the kernel shows them and the object file has those that it defines.
pub mod name {
    /// Array of [`Meta`](super::Meta), one entry, written and read by userspace only.
    pub const META: &str = "META";
    /// Memory-mapped array of [`ServiceEntry`](super::ServiceEntry): a two-choice hash table, its length a power of two.
    pub const SERVICES: &str = "SERVICES";
    /// Memory-mapped array of [`SlotPair`](super::SlotPair)s: the rings of all services.
    pub const RING: &str = "RING";
    /// Memory-mapped array of [`BackendRow`](super::BackendRow): the backends of all services.
    pub const BACKENDS: &str = "BACKENDS";
    /// Memory-mapped array of [`Counter`](super::Counter): for each CPU in turn, one for each row of `BACKENDS`. Never set back, so that
    /// their sum is every packet ever forwarded.
    pub const PAIRS: &str = "PAIRS";
    /// Memory-mapped array of [`Counter`](super::Counter), one for each row of `BACKENDS`, of userspace only: what `PAIRS`
    /// held when the row got its present backend. Behind them what the reasons' counters held; in the last one's packets the
    /// [life](super::BackendRow::life) that begins next.
    pub const BASELINES: &str = "BASELINES";
    /// Per-CPU array of `u64` packets, one for each [`Reason`](crate::reason::Reason).
    pub const REASONS: &str = "REASONS";
    /// LRU hash of [`FlowEntry`](super::FlowEntry)s: the flows that a ring alone would not send where they were. By the flow hash of
    /// address and port, whatever of them the service's ring hashes.
    pub const FLOWS: &str = "FLOWS";
    /// Per-CPU array of [`InsertWindow`](super::InsertWindow), one for each place of `SERVICES`.
    pub const INSERTS: &str = "INSERTS";
    /// Device map, hashed by interface index: where packets are redirected to.
    pub const DEVICES: &str = "DEVICES";
    /// Memory-mapped array of [`WORDS`](crate::local_mac::WORDS) of 8 bytes: the host's own Ethernet addresses, for the fast path.
    pub const LOCAL_MACS: &str = "LOCAL_MACS";
    /// Hash of [`LocalMac`](crate::local_mac::LocalMac) to a `u8` of no meaning: all of them.
    pub const LOCAL_MAC_SET: &str = "LOCAL_MAC_SET";
    /// Every map of the balancer that is pinned and taken over by the next daemon.
    pub const PINNED: [&str; 12] = [
        META,
        SERVICES,
        RING,
        BACKENDS,
        PAIRS,
        BASELINES,
        REASONS,
        FLOWS,
        INSERTS,
        DEVICES,
        LOCAL_MACS,
        LOCAL_MAC_SET,
    ];
}

/// What the maps say of themselves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Meta {
    /// [`ABI_VERSION`] of the daemon that made the maps; 0 until they are ready for use.
    pub abi_version: u32,
    /// Rows of `BACKENDS` below this index may have been used; none at or above it ever was.
    pub rows_used: u32,
    /// Packets forwarded before these maps were made, by the maps that they replaced.
    pub forwarded_before: u64,
    /// Number of configurations accepted since the first maps were made.
    pub generation: u64,
}

/// The exact match: a VIP with its protocol and port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ServiceKey {
    /// IPv6: the address's first 8 bytes as they are on the wire. IPv4: 0.
    pub address_high: u64,
    /// IPv6: the address's last 8 bytes as they are on the wire. IPv4: the address's 4 bytes, zero-extended.
    pub address_low: u64,
    /// Port, protocol and address family, see [`key_word`]; never 0 in the key of a service.
    pub word: u32,
}

/// IPv4's number in a key.
pub const FAMILY_V4: u8 = 4;
/// IPv6's number in a key.
pub const FAMILY_V6: u8 = 6;

/// Packs port (as on the wire), protocol number and family ([`FAMILY_V4`], [`FAMILY_V6`]) into [`ServiceKey::word`].
#[inline(always)]
pub const fn key_word(port: [u8; 2], protocol: u8, family: u8) -> u32 {
    u32::from_ne_bytes([port[0], port[1], protocol, family])
}

impl ServiceKey {
    /// The key of an IPv4 service; `port` as on the wire.
    #[inline(always)]
    pub const fn v4(address: [u8; 4], protocol: u8, port: [u8; 2]) -> Self {
        Self {
            address_high: 0,
            address_low: u32::from_ne_bytes(address) as u64,
            word: key_word(port, protocol, FAMILY_V4),
        }
    }

    /// The key of an IPv6 service; `port` as on the wire.
    #[inline(always)]
    pub const fn v6(address: [u8; 16], protocol: u8, port: [u8; 2]) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = address;
        Self {
            address_high: u64::from_ne_bytes([a, b, c, d, e, f, g, h]),
            address_low: u64::from_ne_bytes([i, j, k, l, m, n, o, p]),
            word: key_word(port, protocol, FAMILY_V6),
        }
    }
}

/// One service as the program finds it.
///
/// Userspace is the only writer: the value first, `word` last, so that a reader never matches half an entry. A freed
/// entry is written again only after an RCU grace period, when no program can still be reading it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C, align(64))]
pub struct ServiceEntry {
    /// As [`ServiceKey::address_high`].
    pub address_high: u64,
    /// As [`ServiceKey::address_low`].
    pub address_low: u64,
    /// As [`ServiceKey::word`]; written last.
    pub word: u32,
    /// Slots of the ring, a prime; 0 in a free entry.
    pub ring_size: u32,
    /// Position of the ring's first slot (low 32 bits) and of the backends' first row in `BACKENDS` (high 32 bits): one
    /// aligned store moves both.
    pub bases: u64,
    /// Tells apart the flows of two services in the flow hash; computed from the service's key.
    pub salt: u64,
    /// [`flag`]s.
    pub flags: u32,
    /// Slots reserved at the ring's base: at least `ring_size`.
    pub ring_room: u32,
    /// Rows reserved at the backends' base, in groups of [`ROWS_OF_A_GROUP`]. A backend's number is below it.
    pub backend_groups: u16,
    /// Of the place, not of the service in it: how many services have this as their first place and are in their second, or the most
    /// that fits. It is raised before such a one is inserted and lowered after it is removed.
    pub overflow: u16,
    /// How many [`time_unit`]s after its last packet a flow is forgotten: the drain time, rounded up. 0: what is remembered says nothing
    /// of the slots as they are (no flows are, or the ring is being made anew).
    pub idle: u32,
    /// How many flows a CPU may remember for the service in each [`time_unit`], of each kind (see [`InsertWindow`]).
    pub inserts: u32,
    /// Index in `INSERTS`: the place that the entry is in.
    pub window: u32,
}

/// How many rows the unit of [`ServiceEntry::backend_groups`] is.
pub const ROWS_OF_A_GROUP: u32 = 4;

/// Bits of [`ServiceEntry::flags`].
pub mod flag {
    /// The client's address goes into the flow hash.
    pub const HASH_ADDRESS: u32 = 1 << 0;
    /// The client's port goes into the flow hash.
    pub const HASH_PORT: u32 = 1 << 1;
    /// Every flow is remembered. The slots of such a service are settled, never stable.
    pub const TRACK_ALWAYS: u32 = 1 << 2;
    /// Both do: what most services have.
    pub const HASH_FLOW: u32 = HASH_ADDRESS | HASH_PORT;
}

/// One slot of a ring: who owns it, and who owned it before.
///
/// `current` in the low 16 bits, `previous` in the high 16: numbers of backends within the service.
///
/// | state | halves | a packet goes to |
/// | --- | --- | --- |
/// | stable | equal | `current`; the flow table is not read |
/// | moving | different | the flow table's answer; without one a new connection goes to `current`, any other flow to `previous` |
/// | settled | `previous` is [`NOBODY`] | the flow table's answer; without one to `current`; a new connection to `current`, and what was remembered of its ports is forgotten |
///
/// A flow that a moving slot sends somewhere is remembered. `current` may be [`NOBODY`] in a moving slot: its last flows end
/// where they began, and new ones are dropped.
///
/// What of the flow table [counts](FlowEntry::counts) for a flow of a stable slot names the slot's owner: only then is a slot made stable.
/// So nothing in it is wrong when the slot moves on, although a stable slot's packets neither read nor renew it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Pod, Zeroable)]
#[repr(transparent)]
pub struct Slot(pub u32);

/// A backend's number within its service; its row is the service's base plus this. [`NOBODY`] is no backend.
pub type BackendNumber = u16;

/// The owner of a slot when no backend of the service serves.
pub const NOBODY: BackendNumber = 0xFFFF;

/// Two neighbouring slots: the value of `RING`, because the kernel rounds an array's values up to 8 bytes and a slot of its
/// own would waste half of the cache.
pub type SlotPair = [Slot; 2];

impl Slot {
    /// A slot that nobody serves.
    pub const EMPTY: Slot = Slot::stable(NOBODY);

    /// A slot that has not changed owner.
    pub const fn stable(owner: BackendNumber) -> Self {
        Slot(owner as u32 | (owner as u32) << 16)
    }

    /// A slot that is `current`'s, and whose older flows are `previous`'s.
    pub const fn moving(current: BackendNumber, previous: BackendNumber) -> Self {
        Slot(current as u32 | (previous as u32) << 16)
    }

    /// A slot that is `current`'s but for the flows that are remembered.
    pub const fn settled(current: BackendNumber) -> Self {
        Slot::moving(current, NOBODY)
    }

    /// Whether the ring alone says where its packets go.
    #[inline(always)]
    pub const fn is_stable(self) -> bool {
        self.current() == self.previous()
    }

    /// Whether it is settled: neither stable nor moving.
    pub const fn is_settled(self) -> bool {
        !self.is_stable() && self.previous() == NOBODY
    }

    /// The backend that owns the slot.
    pub const fn current(self) -> BackendNumber {
        self.0 as u16
    }

    /// The backend that owned it before; equal to `current` in a stable slot.
    pub const fn previous(self) -> BackendNumber {
        (self.0 >> 16) as u16
    }
}

/// How a packet is rewritten for a backend: the ready-made bytes, and what to do with them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Rewrite {
    /// [`Mode`] as a number; 0 ([`Mode::Unresolved`]) while the next hop is not known.
    pub mode: u32,
    /// Index of the interface that the packet leaves by; 0: always the one it came from.
    pub ifindex: u32,
    /// IPv4 outer header: the one's complement sum of `header`'s 16-bit words as they lie in memory, with total length,
    /// type of service and checksum zero; folded to 16 bits.
    pub checksum: u32,
    /// Zero.
    pub reserved: u32,
    /// Ethernet header, then the outer headers, byte for byte as they go on the wire, in words of 8 so that they are
    /// copied as such.
    pub header: [u64; HEADER_WORDS],
}

/// Room for Ethernet and outer headers in a [`Rewrite`], in words of 8 bytes.
pub const HEADER_WORDS: usize = 9;

/// How a packet goes to its backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Mode {
    /// The next hop is not known.
    Unresolved = 0,
    /// The Ethernet header alone is replaced.
    L2 = 1,
    /// Encapsulated in IPv4 (RFC 2003 for IPv4 in it, RFC 4213 for IPv6 in it).
    IpipV4 = 2,
    /// Encapsulated in IPv6 (RFC 2473).
    IpipV6 = 3,
}

impl Default for Rewrite {
    fn default() -> Self {
        Zeroable::zeroed()
    }
}

/// One backend of one service.
///
/// It holds its rewrite twice. Userspace writes the copy that is not active, then flips `active` in one store, and waits
/// for an RCU grace period before it writes again: a packet sees the old bytes or the new ones, never half of each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C, align(64))]
pub struct BackendRow {
    /// Which of the two rewrites is in use: its lowest bit.
    pub active: u32,
    /// The number of the life that the backend is in: from when it serves (it is up, or drains) until it no longer does. No other row
    /// and no other life of this one has the same. 0: it does not serve, and remembered flows do not go to it.
    pub life: u32,
    /// The two copies.
    pub rewrites: [Rewrite; 2],
    /// Hash of the backend's name; 0: the row is free. Userspace finds by it which backend a number belongs to.
    pub identity: u64,
}

/// Where a flow goes, remembered.
///
/// It [counts](Self::counts) in one life of one backend, and until the flow is silent for too long. So a number may be given to another
/// backend at any time, rows may move, and a backend that comes back, even under the same name, is not sent flows of before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct FlowEntry {
    /// [`BackendRow::life`] of the backend; never 0.
    pub life: u32,
    /// The upper half of the flow hash as the service's ring has it: userspace finds the flow's slot by it.
    pub place: u32,
    /// When a packet of the flow was last seen, in [`time_unit`]s.
    pub seen: u32,
    /// The backend's number within the service.
    pub number: BackendNumber,
    /// Zero.
    pub reserved: u16,
}

impl FlowEntry {
    /// Whether it says where the flow goes, when the row that `number` leads to is in this `life`; `idle` is the service's.
    ///
    /// Another CPU's clock, or a reading that began a while ago, may be behind `seen`: such an entry is new.
    #[inline(always)]
    pub const fn counts(&self, life: u32, now: u32, idle: u32) -> bool {
        self.life == life && now.wrapping_sub(self.seen) as i32 <= idle as i32
    }

    /// The flow's slot in a ring.
    pub const fn slot(&self, ring_size: u32) -> u32 {
        crate::hash::slot((self.place as u64) << 32, ring_size)
    }
}

/// How many flows a CPU has remembered for a service within the present [`time_unit`]. New connections and established flows are
/// counted apart: a flood of one cannot use up the other's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct InsertWindow {
    /// The time unit that the counts belong to.
    pub unit: u32,
    /// New connections.
    pub new: u32,
    /// Established flows.
    pub established: u32,
    /// Zero.
    pub reserved: u32,
}

/// Nanoseconds of `CLOCK_MONOTONIC` in units of 2³⁰ ns, some 1.07 s: seconds without a division.
#[inline(always)]
pub const fn time_unit(nanoseconds: u64) -> u32 {
    (nanoseconds >> 30) as u32
}

/// [`ServiceEntry::idle`] of a drain time: a silence of as many nanoseconds is never more units than that, whenever it begins.
pub const fn idle_units(nanoseconds: u64) -> u32 {
    let units = (nanoseconds >> 30) + 1;
    if units > i32::MAX as u64 {
        i32::MAX as u32
    } else {
        units as u32
    }
}

/// Packets and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Counter {
    /// Packets.
    pub packets: u64,
    /// Bytes of the IP packets as they arrived: without Ethernet header, padding and outer headers.
    pub bytes: u64,
}

impl ServiceEntry {
    /// The entry's key; its word is 0 if the entry is free.
    pub const fn key(&self) -> ServiceKey {
        ServiceKey {
            address_high: self.address_high,
            address_low: self.address_low,
            word: self.word,
        }
    }

    /// Packs where the ring begins in `RING` and the rows in `BACKENDS`.
    pub const fn pack_bases(ring: u32, backends: u32) -> u64 {
        ring as u64 | (backends as u64) << 32
    }

    /// Position of the ring's first slot among all slots; `RING`'s index is half of it.
    #[inline(always)]
    pub const fn ring_base(&self) -> u32 {
        self.bases as u32
    }

    /// Rows reserved at the backends' base.
    pub const fn backend_room(&self) -> u32 {
        self.backend_groups as u32 * ROWS_OF_A_GROUP
    }

    /// Index in `BACKENDS` of backend number 0.
    #[inline(always)]
    pub const fn backend_base(&self) -> u32 {
        (self.bases >> 32) as u32
    }
}

const _: () = {
    assert!(size_of::<Meta>() == 24);
    assert!(size_of::<ServiceEntry>() == 64);
    assert!(size_of::<Slot>() == 4);
    assert!(size_of::<Rewrite>() == 88);
    assert!(size_of::<BackendRow>() == 192);
    assert!(size_of::<Counter>() == 16);
    assert!(size_of::<FlowEntry>() == 16);
    assert!(size_of::<InsertWindow>() == 16);
};

#[cfg(feature = "user")]
mod user {
    // SAFETY: all of these are `Pod`: any bytes are a value, and none of them are padding.
    unsafe impl aya::Pod for super::Meta {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::ServiceEntry {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Slot {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::BackendRow {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Rewrite {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Counter {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::FlowEntry {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::InsertWindow {}
}

#[cfg(test)]
mod tests;

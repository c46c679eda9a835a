//! The balancer's tables as memory: what plans are made from and applied to.

use std::io;
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};

use lb_common::map::{BackendRow, Counter, NOBODY, ROWS_OF_A_GROUP, Rewrite, ServiceEntry, Slot, SlotPair};

use super::mapping::Mapping;

/// How long each table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lengths {
    /// Entries of `SERVICES`: a power of two.
    pub services: u32,
    /// Slots in `RING`: even.
    pub slots: u32,
    /// Rows of `BACKENDS` and `PAIRS`.
    pub rows: u32,
    /// Entries of `FLOWS`.
    pub flows: u32,
}

impl Lengths {
    /// What the capacity asked for needs. Services get two and a half times their number of places, and more: a two-choice
    /// table fills to a half at most; rows
    /// and slots get a quarter more, which services that move to new regions need while they do.
    pub fn for_capacity(services: u32, backends: u32, slots: u32, flows: u32) -> Self {
        let with_room = |n: u64| (n + n / 4).next_multiple_of(64).min(u64::from(u32::MAX - 63)) as u32;
        Self {
            services: u64::from(services)
                .saturating_mul(5)
                .div_ceil(2)
                .next_power_of_two()
                .clamp(64, 1 << 31) as u32,
            slots: with_room(u64::from(slots)),
            rows: with_room(u64::from(backends) + 3 * u64::from(services)),
            flows,
        }
    }
}

/// The memory-mapped tables.
#[derive(Debug)]
pub struct Tables {
    services: Mapping<ServiceEntry>,
    ring: Mapping<SlotPair>,
    backends: Mapping<BackendRow>,
    baselines: Mapping<Counter>,
    flows: u32,
}

impl Tables {
    /// From mappings of the four maps, and the length of `FLOWS`, which is not mapped.
    pub fn new(
        services: Mapping<ServiceEntry>,
        ring: Mapping<SlotPair>,
        backends: Mapping<BackendRow>,
        baselines: Mapping<Counter>,
        flows: u32,
    ) -> Self {
        Self {
            services,
            ring,
            backends,
            baselines,
            flows,
        }
    }

    /// Plain memory that no program reads, to try plans on.
    ///
    /// # Errors
    /// If there is not enough memory.
    pub fn private(lengths: Lengths) -> io::Result<Self> {
        Ok(Self {
            services: Mapping::private(lengths.services)?,
            ring: Mapping::private(lengths.slots / 2)?,
            backends: Mapping::private(lengths.rows)?,
            baselines: Mapping::private(lengths.rows + 1)?,
            flows: lengths.flows,
        })
    }

    /// How long the tables are.
    pub fn lengths(&self) -> Lengths {
        Lengths {
            services: self.services.len() as u32,
            slots: self.ring.len() as u32 * 2,
            rows: self.backends.len() as u32,
            flows: self.flows,
        }
    }

    /// The mask that the program finds places with.
    pub fn service_mask(&self) -> u32 {
        self.services.len() as u32 - 1
    }

    /// The service entry at `place`.
    pub fn service(&self, place: u32) -> ServiceEntry {
        self.services.read(place as usize)
    }

    /// Fills a free place: the value first, the word that makes it found last.
    pub fn insert_service(&self, place: u32, entry: ServiceEntry) {
        // These two are the place's own.
        let (overflow, window) = (self.service(place).overflow, place);
        self.services.write(
            place as usize,
            ServiceEntry {
                word: 0,
                overflow,
                window,
                ..entry
            },
        );
        self.word(place).store(entry.word, Ordering::Release);
    }

    /// Frees a place. It may be filled again after a grace period.
    pub fn remove_service(&self, place: u32) {
        self.word(place).store(0, Ordering::Release);
    }

    /// Records how many services have this as their first place and are in their second, as far as the number fits.
    pub fn set_overflow(&self, place: u32, overflow: u32) {
        let entry = self.services.pointer(place as usize);
        let overflow = overflow_mark(overflow);
        // SAFETY: as in `word`.
        unsafe { AtomicU16::from_ptr(&raw mut (*entry).overflow) }.store(overflow, Ordering::Release);
    }

    fn word(&self, place: u32) -> &AtomicU32 {
        let entry = self.services.pointer(place as usize);
        // SAFETY: an aligned field of a live mapping, stored and loaded atomically only.
        unsafe { AtomicU32::from_ptr(&raw mut (*entry).word) }
    }

    /// Moves a service's ring and rows at once.
    pub fn set_bases(&self, place: u32, bases: u64) {
        let entry = self.services.pointer(place as usize);
        // SAFETY: as in `word`.
        unsafe { AtomicU64::from_ptr(&raw mut (*entry).bases) }.store(bases, Ordering::Release);
    }

    /// Changes how many slots a service's ring has.
    pub fn set_ring_size(&self, place: u32, ring_size: u32) {
        let entry = self.services.pointer(place as usize);
        // SAFETY: as in `word`.
        unsafe { AtomicU32::from_ptr(&raw mut (*entry).ring_size) }.store(ring_size, Ordering::Release);
    }

    /// Changes what of a packet is hashed and whether all flows are remembered, how many may be, and for how long.
    pub fn set_flags(&self, place: u32, flags: u32, inserts: u32, idle: u32) {
        let entry = self.services.pointer(place as usize);
        // SAFETY: as in `word`.
        unsafe {
            AtomicU32::from_ptr(&raw mut (*entry).inserts).store(inserts, Ordering::Release);
            AtomicU32::from_ptr(&raw mut (*entry).idle).store(idle, Ordering::Release);
            AtomicU32::from_ptr(&raw mut (*entry).flags).store(flags, Ordering::Release);
        }
    }

    /// Records how much room a service's regions have; only userspace reads it.
    pub fn set_rooms(&self, place: u32, ring_room: u32, backend_room: u32) {
        let entry = self.services.pointer(place as usize);
        // SAFETY: as in `word`.
        unsafe {
            AtomicU32::from_ptr(&raw mut (*entry).ring_room).store(ring_room, Ordering::Release);
            AtomicU16::from_ptr(&raw mut (*entry).backend_groups).store(groups(backend_room), Ordering::Release);
        }
    }

    fn slot_cell(&self, position: u32) -> &AtomicU32 {
        let pair = self.ring.pointer((position / 2) as usize).cast::<u32>();
        // SAFETY: one of the two aligned slots of a pair in a live mapping, stored and loaded atomically only.
        unsafe { AtomicU32::from_ptr(pair.add((position % 2) as usize)) }
    }

    /// The slot at a position.
    pub fn slot(&self, position: u32) -> Slot {
        Slot(self.slot_cell(position).load(Ordering::Relaxed))
    }

    /// Gives a slot to another owner, in one store.
    pub fn set_slot(&self, position: u32, slot: Slot) {
        self.slot_cell(position).store(slot.0, Ordering::Release);
    }

    /// The row at `index`.
    pub fn row(&self, index: u32) -> BackendRow {
        self.backends.read(index as usize)
    }

    /// Fills a row that no slot points to; `life` as [`BackendRow::life`].
    pub fn fill_row(&self, index: u32, identity: u64, rewrite: Rewrite, life: u32) {
        self.backends.write(
            index as usize,
            BackendRow {
                rewrites: [rewrite, rewrite],
                identity,
                life,
                ..BackendRow::default()
            },
        );
    }

    /// Frees a row that no slot points to.
    pub fn free_row(&self, index: u32) {
        self.backends.write(index as usize, BackendRow::default());
    }

    /// Ends the life that a backend is in, or begins another ([`BackendRow::life`]).
    pub fn set_life(&self, index: u32, life: u32) {
        let row = self.backends.pointer(index as usize);
        // SAFETY: as in `word`.
        unsafe { AtomicU32::from_ptr(&raw mut (*row).life) }.store(life, Ordering::Release);
    }

    /// The number of the life that begins next. None that is in use was given since this number.
    pub fn next_life(&self) -> u32 {
        (self.baseline(self.last_baseline()).packets as u32).max(1)
    }

    /// Records it: before any row has one of the numbers that are taken.
    pub fn set_next_life(&self, life: u32) {
        let next = Counter {
            packets: life.into(),
            bytes: 0,
        };
        self.set_baseline(self.last_baseline(), next);
    }

    fn last_baseline(&self) -> u32 {
        self.baselines.len() as u32 - 1
    }

    /// Changes how packets are rewritten for a live row: the copy out of use first, then the switch. Again for the same row
    /// only after a grace period.
    pub fn set_rewrite(&self, index: u32, rewrite: Rewrite) {
        let row = self.backends.pointer(index as usize);
        // SAFETY: aligned fields of a live mapping; the copy that is written here is the one that no packet reads.
        unsafe {
            let active = AtomicU32::from_ptr(&raw mut (*row).active);
            let other = active.load(Ordering::Relaxed) & 1 ^ 1;
            (&raw mut (*row).rewrites[other as usize]).write_volatile(rewrite);
            active.store(other, Ordering::Release);
        }
    }

    /// What a row's counters are counted from; beyond the rows, what the reasons' are (see `Balancer::continue_reasons`), and last the
    /// number of the life that begins next.
    pub fn baseline(&self, row: u32) -> Counter {
        self.baselines.read(row as usize)
    }

    /// Sets what a row's counters are counted from.
    pub fn set_baseline(&self, row: u32, baseline: Counter) {
        self.baselines.write(row as usize, baseline);
    }
}

/// An overflow mark of so many: all that matters is whether it is 0, and that it is raised before and lowered after.
pub fn overflow_mark(overflow: u32) -> u16 {
    u16::try_from(overflow).unwrap_or(u16::MAX)
}

/// Rows as [`ServiceEntry::backend_groups`].
pub fn groups(rows: u32) -> u16 {
    // A service's numbers end before this does.
    u16::try_from(rows.div_ceil(ROWS_OF_A_GROUP)).unwrap_or(u16::MAX)
}

/// Numbers of backends within a service: fewer than [`NOBODY`].
pub const MOST_BACKENDS_OF_A_SERVICE: u32 = NOBODY as u32;

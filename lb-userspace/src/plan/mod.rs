//! From what is installed to what is wanted: an ordered list of writes, made purely, carried out without a choice.
//!
//! [`plan`](make::plan) reads the tables and the wish and makes a [`Plan`]; [`apply`](apply::apply) carries it out. After every
//! prefix of a plan, whatever stops it, each packet finds either the old way or the new one:
//!
//! - a ring is filled before a service points to it, and a row before a slot does;
//! - what was freed is not written again within the plan, so that no packet on its way reads it;
//! - a row is freed after a grace period since the last slot that named it;
//! - what is remembered of flows counts only for slots that have not been made anew since: where a ring's size or hash changes, or flows are
//!   remembered again, `idle` is 0 until each backend is in a new life.
//!
//! The tables describe themselves (a service's entry holds its key and regions, a row its backend's identity), so a daemon
//! that starts where another one stopped reads what is installed and plans from there.

pub mod apply;
pub mod layout;
pub mod make;
mod places;
mod regions;
#[cfg(test)]
mod tests;
pub mod transition;

use lb_common::map::{BackendNumber, NOBODY, Rewrite, ServiceEntry, ServiceKey, Slot};
use thiserror::Error;

use transition::Rule;

/// What one service should be.
#[derive(Clone, Debug, PartialEq)]
pub struct WantedService {
    /// What the program finds it by.
    pub key: ServiceKey,
    /// [`lb_common::map::flag`]s.
    pub flags: u32,
    /// How many flows a CPU may remember in each time unit, of each kind.
    pub inserts: u32,
    /// After how many time units without a packet a flow is forgotten; 0 by [`Rule::Never`], and by no other.
    pub idle: u32,
    /// Which flows are remembered.
    pub rule: Rule,
    /// Slots of the ring: `owners.len()`.
    pub ring_size: u32,
    /// The backends; one that is out of the ring stays here while it is configured, and keeps its number.
    pub backends: Vec<WantedBackend>,
    /// For each slot the index in `backends` of its owner, or [`NOBODY`].
    pub owners: Vec<u16>,
}

/// What one backend should be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WantedBackend {
    /// [`identity`](crate::model::identity) of its name; unique within the service.
    pub identity: u64,
    /// How packets are rewritten for it.
    pub rewrite: Rewrite,
    /// Whether it serves the flows that it has: up, or draining.
    pub serves: bool,
}

/// Which services a plan is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All: what is installed and not wanted is removed.
    Everything,
    /// The wanted ones: all others are left alone.
    TheseOnly,
}

/// One step. Positions are those of slots among all slots, rows and places those of their tables.
#[derive(Clone, Debug, PartialEq)]
#[expect(
    missing_docs,
    reason = "a step's fields are the arguments of the function of `Tables` that carries it out"
)]
pub enum Write {
    /// Fills a row that nothing points to. Its counters begin at zero, or go on from another row's.
    FillRow {
        row: u32,
        identity: u64,
        rewrite: Rewrite,
        life: u32,
        continues: Option<u32>,
    },
    /// Changes the rewrite of a live row.
    SetRewrite { row: u32, rewrite: Rewrite },
    /// Records that lives below this number are given.
    SetNextLife { life: u32 },
    /// Ends the life that a row's backend is in, or begins another.
    SetLife { row: u32, life: u32 },
    /// Fills a region that no service points to.
    FillRing { position: u32, slots: Vec<Slot> },
    /// Changes slots of a live ring.
    SetSlots { slots: Vec<(u32, Slot)> },
    /// Puts a service into a free place.
    Insert { place: u32, entry: ServiceEntry },
    /// Frees a service's place.
    Remove { place: u32 },
    /// Sets a place's overflow mark.
    SetOverflow { place: u32, overflow: u32 },
    /// Moves a service's ring and rows at once.
    SetBases { place: u32, bases: u64 },
    /// Sets how many slots the ring has.
    SetRingSize { place: u32, ring_size: u32 },
    /// Records the room of a service's regions.
    SetRooms {
        place: u32,
        ring_room: u32,
        backend_room: u32,
    },
    /// Sets the flags, the bound on remembered flows, and how long they count.
    SetFlags {
        place: u32,
        flags: u32,
        inserts: u32,
        idle: u32,
    },
    /// Waits until no packet can be reading what was made unreachable.
    Grace,
    /// Frees a row that nothing points to.
    FreeRow { row: u32 },
}

/// What a plan does, for people and for counting.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Services that come.
    pub services_added: usize,
    /// Services that go.
    pub services_removed: usize,
    /// Services that change.
    pub services_changed: usize,
    /// Backends that come.
    pub backends_added: usize,
    /// Backends that go.
    pub backends_removed: usize,
    /// Backends whose packets are rewritten differently.
    pub rewrites_changed: usize,
    /// Slots of rings that stay and get another owner.
    pub slots_moved: usize,
    /// Slots of rings that stay.
    pub slots_kept: usize,
}

/// The steps in their order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// What to do.
    pub writes: Vec<Write>,
    /// What it amounts to.
    pub summary: Summary,
    /// Per service that stays and whose ring keeps its size: how many slots get another owner.
    pub moved: Vec<(ServiceKey, usize)>,
}

impl Plan {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }
}

/// Why there is no plan: a table is full.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PlanError {
    /// The service table.
    #[error(
        "the service table has {places} places, and {wanted} services do not fit; about {fit} do: raise node.capacity.services"
    )]
    Services {
        /// Places.
        places: u32,
        /// Services wanted.
        wanted: usize,
        /// Services that fit.
        fit: u32,
    },
    /// The rows.
    #[error(
        "no room for {wanted} backends in one piece among {rows} rows; {free} are free: raise node.capacity.backends"
    )]
    Rows {
        /// Rows in all.
        rows: u32,
        /// Rows wanted.
        wanted: u32,
        /// The largest free piece.
        free: u32,
    },
    /// The slots.
    #[error(
        "no room for a ring of {wanted} slots in one piece among {slots} slots; {free} are free: raise node.capacity.ring_slots"
    )]
    Slots {
        /// Slots in all.
        slots: u32,
        /// Slots wanted.
        wanted: u32,
        /// The largest free piece.
        free: u32,
    },
    /// A service's numbers.
    #[error("a service has {0} backends; its slots can name {max}", max = crate::bpf::tables::MOST_BACKENDS_OF_A_SERVICE)]
    Numbers(usize),
}

/// An owner's number; [`NOBODY`] is nobody's.
fn number_of(owner: u16, numbers: &[BackendNumber]) -> BackendNumber {
    numbers.get(usize::from(owner)).copied().unwrap_or(NOBODY)
}

/// A slot of a ring that no flow has used.
fn fresh_slot(owner: u16, numbers: &[BackendNumber], rule: Rule) -> Slot {
    let owner = Slot::stable(number_of(owner, numbers));
    transition::transition(owner, owner.current(), rule, |_| false)
}

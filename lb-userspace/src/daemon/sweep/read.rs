//! The flow table read as a whole: which flows are remembered, where; what does not count goes.

use std::collections::HashMap;
use std::io;
use std::time::Instant;

use lb_common::hash::service_salt;
use lb_common::map::{FlowEntry, ServiceKey, time_unit};
use tokio::sync::mpsc::UnboundedSender;

use crate::bpf::flows::{self, Keep};
use crate::bpf::tables::Tables;
use crate::daemon::Event;
use crate::plan::layout::Layout;

/// What one reading of the flow table has found.
pub(in crate::daemon) struct Sweep {
    /// When it began.
    pub(super) begun: Instant,
    /// By service.
    pub(super) live: HashMap<u32, Live>,
    /// Whether the whole table was read.
    pub(super) outcome: io::Result<()>,
}

/// The live entries of one service.
#[derive(Default)]
pub(super) struct Live {
    /// Slots that have one, and whom theirs name.
    pub(super) slots: HashMap<u32, Named>,
    /// How many name a backend, by the low half of its identity.
    pub(super) owners: HashMap<u32, u64>,
    pub(super) count: u64,
}

/// Whom the live entries of a slot name, by the low half of their identity.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Named {
    /// One backend alone.
    One(u32),
    /// More than one.
    Several,
}

/// What a service is called here.
pub(in crate::daemon) fn tag(key: ServiceKey) -> u32 {
    service_salt(key) as u32
}

/// Whose each life is, when a reading of the flow table begins.
pub(super) struct Lives {
    backends: HashMap<u32, Alive>,
    /// Lives from this number on have begun since.
    next: u32,
}

/// A backend that serves, and what must be known of its service.
#[derive(Clone, Copy)]
struct Alive {
    service: u32,
    identity: u32,
    ring_size: u32,
    idle: u32,
}

impl Lives {
    pub(super) fn read(tables: &Tables, layout: &Layout) -> Self {
        // First: whoever begins to serve meanwhile has a later number.
        let next = tables.next_life();
        let mut backends = HashMap::new();
        for (key, service) in &layout.services {
            let rows = (service.entry.backend_base()..).zip(&service.identities);
            for (row, identity) in rows.filter(|(_, identity)| **identity != 0) {
                let alive = Alive {
                    service: tag(*key),
                    identity: *identity as u32,
                    ring_size: service.entry.ring_size,
                    idle: service.entry.idle,
                };
                backends.insert(tables.row(row).life, alive);
            }
        }
        backends.remove(&0);
        Self { backends, next }
    }

    /// Whose a life is that had begun by then, and has not ended.
    fn of(&self, life: u32) -> Whose {
        match self.backends.get(&life) {
            Some(alive) => Whose::Alive(*alive),
            None if life.wrapping_sub(self.next) as i32 >= 0 => Whose::Later,
            None => Whose::Nobody,
        }
    }
}

enum Whose {
    Alive(Alive),
    /// It had not begun.
    Later,
    /// It has ended.
    Nobody,
}

pub(super) fn sweep(map: &std::os::fd::OwnedFd, lives: &Lives, events: &UnboundedSender<Event>) {
    let begun = Instant::now();
    let now = monotonic_unit();
    let mut live: HashMap<u32, Live> = HashMap::new();
    let outcome = flows::sweep(map, |_, entry| see(&mut live, lives, now, &entry));
    // The daemon is gone if nobody listens.
    let _ = events.send(Event::Swept(Sweep { begun, live, outcome }));
}

/// Notes an entry that counts; one that does not goes.
pub(super) fn see(live: &mut HashMap<u32, Live>, lives: &Lives, now: u32, entry: &FlowEntry) -> Keep {
    let alive = match lives.of(entry.life) {
        Whose::Alive(alive) => alive,
        Whose::Later => return Keep::Yes,
        Whose::Nobody => return Keep::No,
    };
    if !entry.counts(entry.life, now, alive.idle) {
        return Keep::No;
    }
    let live = live.entry(alive.service).or_default();
    let named = Named::One(alive.identity);
    live.slots
        .entry(entry.slot(alive.ring_size))
        .and_modify(|before| {
            if *before != named {
                *before = Named::Several;
            }
        })
        .or_insert(named);
    *live.owners.entry(alive.identity).or_insert(0) += 1;
    live.count += 1;
    Keep::Yes
}

fn monotonic_unit() -> u32 {
    let clock = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC);
    clock.map_or(0, |time| {
        time_unit(time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64)
    })
}

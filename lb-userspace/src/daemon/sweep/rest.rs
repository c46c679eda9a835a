//! Which slots are on their way, since when, and which have come to rest.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{Duration, Instant};

use lb_common::map::{BackendNumber, NOBODY, ServiceKey, Slot};

use super::read::{Named, Sweep, tag};
use crate::bpf::tables::Tables;
use crate::model::Tracking;
use crate::plan::layout::InstalledService;

/// A slot's position, its state when it was seen first, and when that was.
pub(in crate::daemon) type Since = (u32, Slot, Instant);

/// Slots on their way, and what is remembered.
#[derive(Default)]
pub(in crate::daemon) struct Transitions {
    /// Services that may have slots that are not stable.
    pub(in crate::daemon) services: HashSet<ServiceKey>,
    /// Since when a slot that is not stable has the state that it has, by rising position.
    pub(super) since: HashMap<ServiceKey, Vec<Since>>,
    /// Since when no slot names a backend that left.
    pub(super) unnamed: HashMap<(ServiceKey, u64), Instant>,
    pub(super) sweeping: bool,
    pub(super) last_sweep: Option<Instant>,
    /// Remembered flows by service, at the last sweep.
    pub(in crate::daemon) remembered: HashMap<u32, u64>,
    /// The same by service and low half of the backend's identity.
    pub(super) remembered_by: HashMap<(u32, u32), u64>,
    /// When the last sweep that was read to its end began.
    pub(in crate::daemon) swept: Option<Instant>,
}

impl Transitions {
    /// With services that may have slots that are not stable.
    pub(in crate::daemon) fn of(services: HashSet<ServiceKey>) -> Self {
        Self {
            services,
            ..Self::default()
        }
    }

    /// Takes over since when slots move.
    pub(in crate::daemon) fn resume(&mut self, since: Vec<(ServiceKey, Vec<Since>)>) {
        self.since.extend(since);
    }

    /// Since when slots of a service move away from each backend, by its number: the last of the times, in milliseconds since the host was booted.
    pub(super) fn moving(&self, key: ServiceKey) -> BTreeMap<BackendNumber, u64> {
        let mut moving = BTreeMap::new();
        for (_, slot, at) in self.since.get(&key).into_iter().flatten() {
            if !slot.is_settled() {
                let last = moving.entry(slot.previous()).or_insert(0);
                *last = boot_ms(*at).max(*last);
            }
        }
        moving
    }

    /// Flows of a backend that were remembered at the last sweep.
    pub(in crate::daemon) fn remembered_of(&self, key: ServiceKey, identity: u64) -> u64 {
        self.remembered_by
            .get(&(tag(key), identity as u32))
            .copied()
            .unwrap_or(0)
    }

    /// After another configuration: who leaves now may have left before.
    pub(in crate::daemon) fn forget_unnamed(&mut self) {
        self.unnamed.clear();
    }

    /// Settles slots whose drain time has passed; says how many are not stable.
    ///
    /// `clock` is read anew for a slot that settles: a reading of the flow table that began before this says nothing of it.
    pub(super) fn tend(
        &mut self,
        tables: &Tables,
        (key, drain_time): (ServiceKey, Duration),
        base: u32,
        size: u32,
        clock: impl Fn() -> Instant,
    ) -> usize {
        let earlier = self.since.remove(&key).unwrap_or_default();
        let mut earlier = earlier.into_iter().peekable();
        let mut since = Vec::new();
        let now = clock();
        for n in 0..size {
            let slot = tables.slot(base + n);
            if slot.is_stable() {
                continue;
            }
            while earlier.next_if(|(position, ..)| *position < n).is_some() {}
            let known = earlier.next_if(|(position, ..)| *position == n);
            let (seen, at) = match known {
                // Only the way away from `previous` counts: a new `current` does not begin the time anew.
                Some((_, seen, at)) if seen.previous() == slot.previous() => (seen, at),
                _ => (slot, now),
            };
            // Where nobody is to have the slot, what is remembered would count no more once it is settled.
            let settles = !slot.is_settled() && slot.current() != NOBODY;
            if settles && now.duration_since(at) >= drain_time {
                let next = Slot::settled(slot.current());
                tables.set_slot(base + n, next);
                since.push((n, next, clock()));
            } else {
                since.push((n, seen, at));
            }
        }
        let restless = since.len();
        if restless > 0 {
            self.since.insert(key, since);
        }
        restless
    }

    /// Makes settled slots stable that nothing which counts belongs to, but what names their owner; says how many. Nobody's slots are
    /// empty when the last of their flows is over.
    pub(super) fn calm(
        &self,
        tables: &Tables,
        (key, drain_time): (ServiceKey, Duration),
        tracking: Tracking,
        installed: &InstalledService,
        sweep: &Sweep,
    ) -> usize {
        let mut calmed = 0;
        let live = sweep.live.get(&tag(key)).map(|live| &live.slots);
        let since = self.since.get(&key);
        for n in 0..installed.entry.ring_size {
            let position = installed.entry.ring_base() + n;
            let slot = tables.slot(position);
            let nobodys = slot.current() == NOBODY;
            if slot.is_stable() || slot.is_settled() == nobodys {
                continue;
            }
            if !nobodys && tracking == Tracking::Always {
                continue;
            }
            // Memories that say what the slot says keep nothing from resting.
            let owner = installed.identities.get(usize::from(slot.current()));
            let owner = owner.map(|identity| Named::One(*identity as u32));
            let named = live.and_then(|live| live.get(&n)).copied();
            if named.is_some() && named != owner {
                continue;
            }
            // Settled before the reading began: nothing was remembered since. Where there is no owner to settle for, whoever has not spoken
            // for the drain time is not remembered.
            let settled = since.and_then(|since| {
                let found = since.binary_search_by_key(&n, |(position, ..)| *position).ok()?;
                Some(since[found])
            });
            let long_enough = |(_, seen, at): (u32, Slot, Instant)| {
                if nobodys {
                    seen.previous() == slot.previous() && at + drain_time < sweep.begun
                } else {
                    seen.is_settled() && at < sweep.begun
                }
            };
            if settled.is_some_and(long_enough) {
                tables.set_slot(position, Slot::stable(slot.current()));
                calmed += 1;
            }
        }
        calmed
    }
}

/// Milliseconds between the host's boot and a time. `Instant` is this clock (`CLOCK_MONOTONIC`), which nobody sets, and which the tables do not
/// outlive.
fn boot_ms(at: Instant) -> u64 {
    let ago = u64::try_from(at.elapsed().as_millis()).unwrap_or(u64::MAX);
    // Rounded, so that the same time is the same number each time that it is asked for.
    (boot_now_ms().saturating_sub(ago) + BOOT_STEP / 2) / BOOT_STEP * BOOT_STEP
}

/// The time that is so many milliseconds after the host's boot; now, if that is to come.
pub(in crate::daemon) fn boot_instant(ms: u64) -> Option<Instant> {
    Instant::now().checked_sub(Duration::from_millis(boot_now_ms().saturating_sub(ms)))
}

fn boot_now_ms() -> u64 {
    let clock = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC);
    clock.map_or(0, |time| {
        time.tv_sec() as u64 * 1_000 + time.tv_nsec() as u64 / 1_000_000
    })
}

/// How exactly drain times are kept over a restart, in milliseconds.
const BOOT_STEP: u64 = 100;

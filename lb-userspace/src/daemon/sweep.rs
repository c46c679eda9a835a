//! The way of slots back to rest: moving → settled when the drain time has passed, settled → stable when no flow is remembered.
//!
//! The flow table is read in a thread of its own, and only while some slot is not stable.

use std::collections::{HashMap, HashSet};
use std::io;
use std::time::{Duration, Instant};

use lb_common::hash::{service_salt, slot};
use lb_common::map::{BackendNumber, NOBODY, ServiceKey, Slot, time_unit};
use tokio::sync::mpsc::UnboundedSender;
use tracing::{debug, error};

use super::{Daemon, Event};
use crate::bpf::flows::{self, Keep};
use crate::model::{Service, Tracking, identity};

/// What one reading of the flow table has found.
pub(super) struct Sweep {
    /// When it began.
    begun: Instant,
    /// By service.
    live: HashMap<u32, Live>,
    /// Whether the whole table was read.
    outcome: io::Result<()>,
}

/// The live entries of one service.
#[derive(Default)]
struct Live {
    /// Slots that have one, and whom theirs name.
    slots: HashMap<u32, Named>,
    /// How many name a backend, by the low half of its identity.
    owners: HashMap<u32, u64>,
    count: u64,
}

/// Whom the live entries of a slot name, by the low half of their identity.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Named {
    /// One backend alone.
    One(u32),
    /// More than one.
    Several,
}

/// Slots on their way, and what is remembered.
#[derive(Default)]
pub(super) struct Transitions {
    /// Services that may have slots that are not stable.
    pub(super) services: HashSet<ServiceKey>,
    /// Since when a slot that is not stable has the state that it has, by rising position.
    since: HashMap<ServiceKey, Vec<(u32, Slot, Instant)>>,
    /// Since when no slot names a backend that left.
    unnamed: HashMap<(ServiceKey, u64), Instant>,
    sweeping: bool,
    last_sweep: Option<Instant>,
    /// Remembered flows by service, at the last sweep.
    pub(super) remembered: HashMap<u32, u64>,
    /// The same by service and low half of the backend's identity.
    remembered_by: HashMap<(u32, u32), u64>,
    /// When the last sweep that was read to its end began.
    pub(super) swept: Option<Instant>,
}

impl Transitions {
    /// With services that may have slots that are not stable.
    pub(super) fn of(services: HashSet<ServiceKey>) -> Self {
        Self {
            services,
            ..Self::default()
        }
    }

    /// Flows of a backend that were remembered at the last sweep.
    pub(super) fn remembered_of(&self, key: ServiceKey, identity: u64) -> u64 {
        self.remembered_by
            .get(&(tag(key), identity as u32))
            .copied()
            .unwrap_or(0)
    }

    /// After another configuration: who leaves now may have left before.
    pub(super) fn forget_unnamed(&mut self) {
        self.unnamed.clear();
    }
}

/// How often the flow table is read at most.
const SWEEP_INTERVAL: Duration = Duration::from_secs(5);

/// The tag of a service in the flow table.
pub(super) fn tag(key: ServiceKey) -> u32 {
    service_salt(key) as u32
}

impl Daemon {
    /// Looks after slots that are not stable; called every second.
    pub(super) fn tend_slots(&mut self) {
        let keys: Vec<ServiceKey> = self.transitions.services.iter().copied().collect();
        if keys.is_empty() {
            return;
        }
        let services = self.world.model.services.iter().enumerate();
        let by_key: HashMap<ServiceKey, usize> = services.map(|(index, service)| (service.key(), index)).collect();
        let layout = self.kernel.layout();
        for key in keys {
            let service = by_key.get(&key).map(|index| &self.world.model.services[*index]);
            match (service, layout.services.get(&key)) {
                (Some(service), Some(installed)) => {
                    let (drain_time, base, size) = (
                        service.drain_time,
                        installed.entry.ring_base(),
                        installed.entry.ring_size,
                    );
                    let always = service.tracking == Tracking::Always;
                    let restless = self.tend_service(key, drain_time, base, size);
                    let leaving = self.tend_leaving(key, &installed.identities, base, size);
                    if restless == 0 && leaving == 0 && !always {
                        self.transitions.services.remove(&key);
                        self.transitions.remembered.remove(&tag(key));
                        self.transitions
                            .remembered_by
                            .retain(|(tagged, _), _| *tagged != tag(key));
                    }
                }
                _ => {
                    self.transitions.services.remove(&key);
                    self.transitions.since.remove(&key);
                }
            }
        }
        self.start_sweep();
    }

    /// Settles slots whose drain time has passed; says how many are not stable.
    fn tend_service(&mut self, key: ServiceKey, drain_time: Duration, base: u32, size: u32) -> usize {
        let tables = &self.kernel.balancer.tables;
        let earlier = self.transitions.since.remove(&key).unwrap_or_default();
        let mut earlier = earlier.into_iter().peekable();
        let mut since = Vec::new();
        let now = Instant::now();
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
            if !slot.is_settled() && now.duration_since(at) >= drain_time {
                let next = Slot::settled(slot.current());
                tables.set_slot(base + n, next);
                // Not `now`: a reading of the flow table that began before this says nothing of the slot.
                since.push((n, next, Instant::now()));
            } else {
                since.push((n, seen, at));
            }
        }
        let restless = since.len();
        if restless > 0 {
            self.transitions.since.insert(key, since);
        }
        restless
    }

    /// Notes which backends that left are not named by a slot any more; says how many have left.
    fn tend_leaving(&mut self, key: ServiceKey, identities: &[u64], base: u32, size: u32) -> usize {
        let leaving = self.world.leaving(key);
        if leaving.is_empty() {
            return 0;
        }
        let tables = &self.kernel.balancer.tables;
        let mut named: HashSet<BackendNumber> = HashSet::new();
        for slot in (base..base + size).map(|position| tables.slot(position)) {
            named.extend([slot.current(), slot.previous()]);
        }
        let named: HashSet<u64> = named
            .iter()
            .filter_map(|number| identities.get(usize::from(*number)).copied())
            .collect();
        for backend in leaving {
            let identity = identity(&backend.name);
            let unnamed = &mut self.transitions.unnamed;
            if named.contains(&identity) {
                unnamed.remove(&(key, identity));
            } else {
                unnamed.entry((key, identity)).or_insert_with(Instant::now);
            }
        }
        leaving.len()
    }

    /// Frees the rows of backends that left and that neither a slot nor a remembered flow names.
    fn dismiss_leaving(&mut self, sweep: &Sweep) {
        let mut dismissed = 0;
        let services = self.world.model.services.iter();
        let known: Vec<(ServiceKey, String)> = services.map(|service| (service.key(), service.name.clone())).collect();
        for (key, name) in known {
            let before = self.world.leaving(key).len();
            if before == 0 {
                continue;
            }
            let owners = sweep.live.get(&tag(key)).map(|live| &live.owners);
            let unnamed = &self.transitions.unnamed;
            self.world.dismiss(key, |backend| {
                let identity = identity(&backend.name);
                let unnamed = unnamed.get(&(key, identity)).is_some_and(|since| *since < sweep.begun);
                unnamed && !owners.is_some_and(|owners| owners.contains_key(&(identity as u32)))
            });
            let gone = before - self.world.leaving(key).len();
            if gone > 0 {
                dismissed += gone;
                self.stale.insert(name);
            }
        }
        if dismissed > 0 {
            debug!(dismissed, "backends that left have no flow any more");
            let world = &self.world;
            self.transitions.unnamed.retain(|(key, gone), _| {
                let mut leaving = world.leaving(*key).iter();
                leaving.any(|backend| identity(&backend.name) == *gone)
            });
            self.follow();
        }
    }

    fn start_sweep(&mut self) {
        let transitions = &mut self.transitions;
        let due = transitions
            .last_sweep
            .is_none_or(|last| last.elapsed() >= SWEEP_INTERVAL);
        if transitions.services.is_empty() || transitions.sweeping || !due {
            return;
        }
        let map = match self.kernel.balancer.flows_fd() {
            Ok(map) => map,
            Err(error) => return error!(%error, "the flow table cannot be read"),
        };
        let services: HashMap<u32, (u32, u32)> = self
            .world
            .model
            .services
            .iter()
            .map(|service| (tag(service.key()), (service.ring_size, idle(service))))
            .collect();
        transitions.sweeping = true;
        let events = self.events.clone();
        std::thread::spawn(move || sweep(&map, &services, &events));
    }

    /// Makes settled slots stable that no live entry belongs to.
    pub(super) fn note_sweep(&mut self, sweep: Sweep) {
        self.transitions.sweeping = false;
        self.transitions.last_sweep = Some(Instant::now());
        if let Err(error) = &sweep.outcome {
            return error!(%error, "the flow table could not be read to its end");
        }
        self.transitions.remembered = sweep.live.iter().map(|(tag, live)| (*tag, live.count)).collect();
        let tags = sweep.live.iter();
        let owners =
            tags.flat_map(|(tag, live)| live.owners.iter().map(move |(owner, count)| ((*tag, *owner), *count)));
        self.transitions.remembered_by = owners.collect();
        self.transitions.swept = Some(sweep.begun);
        self.dismiss_leaving(&sweep);
        let layout = self.kernel.layout();
        let tables = &self.kernel.balancer.tables;
        let mut calmed = 0;
        for service in self
            .world
            .model
            .services
            .iter()
            .filter(|service| service.tracking != Tracking::Always)
        {
            let key = service.key();
            if !self.transitions.services.contains(&key) {
                continue;
            }
            let Some(installed) = layout.services.get(&key) else {
                continue;
            };
            let live = sweep.live.get(&tag(key)).map(|live| &live.slots);
            let since = self.transitions.since.get(&key);
            for n in 0..installed.entry.ring_size {
                let position = installed.entry.ring_base() + n;
                let slot = tables.slot(position);
                if !slot.is_settled() || slot.current() == NOBODY {
                    continue;
                }
                // Memories that say what the slot says keep nothing from resting.
                let owner = installed.identities.get(usize::from(slot.current()));
                let owner = owner.map(|identity| Named::One(*identity as u32));
                let named = live.and_then(|live| live.get(&n)).copied();
                if named.is_some() && named != owner {
                    continue;
                }
                // Settled before the reading began: nothing was remembered since.
                let settled = since.and_then(|since| {
                    let found = since.binary_search_by_key(&n, |(position, ..)| *position).ok()?;
                    Some(since[found])
                });
                if settled.is_some_and(|(_, seen, at)| seen.is_settled() && at < sweep.begun) {
                    tables.set_slot(position, Slot::stable(slot.current()));
                    calmed += 1;
                }
            }
        }
        debug!(calmed, "slots are stable again");
    }
}

/// Time units after which an entry that was not seen is dead.
fn idle(service: &Service) -> u32 {
    time_unit(u64::try_from(service.drain_time.as_nanos()).unwrap_or(u64::MAX)) + 1
}

fn sweep(map: &std::os::fd::OwnedFd, services: &HashMap<u32, (u32, u32)>, events: &UnboundedSender<Event>) {
    let begun = Instant::now();
    let now = monotonic_unit();
    let mut live: HashMap<u32, Live> = HashMap::new();
    let outcome = flows::sweep(map, |hash, entry| {
        let Some((ring_size, idle)) = services.get(&entry.service) else {
            return Keep::No;
        };
        if now.wrapping_sub(entry.seen) > *idle && now > entry.seen {
            return Keep::No;
        }
        let live = live.entry(entry.service).or_default();
        let named = Named::One(entry.identity);
        live.slots
            .entry(slot(hash, *ring_size))
            .and_modify(|before| {
                if *before != named {
                    *before = Named::Several;
                }
            })
            .or_insert(named);
        *live.owners.entry(entry.identity).or_insert(0) += 1;
        live.count += 1;
        Keep::Yes
    });
    // The daemon is gone if nobody listens.
    let _ = events.send(Event::Swept(Sweep { begun, live, outcome }));
}

fn monotonic_unit() -> u32 {
    let clock = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC);
    clock.map_or(0, |time| {
        time_unit(time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64)
    })
}

//! The way of slots back to rest: moving → settled when the drain time has passed, settled → stable when no flow is remembered.
//!
//! The flow table is read in a thread of its own, and only while some slot is not stable.

use std::collections::{HashMap, HashSet};
use std::io;
use std::time::{Duration, Instant};

use lb_common::hash::{service_salt, slot};
use lb_common::map::{NOBODY, ServiceKey, Slot, time_unit};
use tokio::sync::mpsc::UnboundedSender;
use tracing::{debug, error};

use super::{Daemon, Event};
use crate::bpf::flows::{self, Keep};
use crate::model::{Service, Tracking};

/// What one reading of the flow table has found.
pub(super) struct Sweep {
    /// When it began.
    begun: Instant,
    /// By service: which slots have a live entry, and how many entries there are.
    live: HashMap<u32, (HashSet<u32>, u64)>,
    /// Whether the whole table was read.
    outcome: io::Result<()>,
}

/// Slots on their way, and what is remembered.
#[derive(Default)]
pub(super) struct Transitions {
    /// Services that may have slots that are not stable.
    pub(super) services: HashSet<ServiceKey>,
    /// Since when a slot has the state that it has.
    since: HashMap<ServiceKey, HashMap<u32, (Slot, Instant)>>,
    sweeping: bool,
    last_sweep: Option<Instant>,
    /// Remembered flows by service, at the last sweep.
    pub(super) remembered: HashMap<u32, u64>,
}

impl Transitions {
    /// With services that may have slots that are not stable.
    pub(super) fn of(services: HashSet<ServiceKey>) -> Self {
        Self {
            services,
            ..Self::default()
        }
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
        let layout = self.kernel.layout();
        for key in keys {
            let service = self.world.model.services.iter().find(|service| service.key() == key);
            match (service, layout.services.get(&key)) {
                (Some(service), Some(installed)) => {
                    let (drain_time, base, size) = (
                        service.drain_time,
                        installed.entry.ring_base(),
                        installed.entry.ring_size,
                    );
                    let always = service.tracking == Tracking::Always;
                    if self.tend_service(key, drain_time, base, size) == 0 && !always {
                        self.transitions.services.remove(&key);
                        self.transitions.remembered.remove(&tag(key));
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
        // Most services have no slot in it: then stable ones cost a read each, of millions perhaps.
        let mut since = self.transitions.since.remove(&key).unwrap_or_default();
        let mut restless = 0;
        for n in 0..size {
            let slot = tables.slot(base + n);
            if slot.is_stable() {
                if !since.is_empty() {
                    since.remove(&n);
                }
                continue;
            }
            restless += 1;
            let now = Instant::now();
            let (seen, at) = since.entry(n).or_insert((slot, now));
            // Only the way away from `previous` counts: a new `current` does not begin the time anew.
            if seen.previous() != slot.previous() {
                (*seen, *at) = (slot, now);
            }
            if !slot.is_settled() && at.elapsed() >= drain_time {
                let next = Slot::settled(slot.current());
                tables.set_slot(base + n, next);
                (*seen, *at) = (next, now);
            }
        }
        if !since.is_empty() {
            self.transitions.since.insert(key, since);
        }
        restless
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
        self.transitions.remembered = sweep.live.iter().map(|(tag, (_, count))| (*tag, *count)).collect();
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
            let live = sweep.live.get(&tag(key)).map(|(slots, _)| slots);
            let since = self.transitions.since.get(&key);
            for n in 0..installed.entry.ring_size {
                let position = installed.entry.ring_base() + n;
                let slot = tables.slot(position);
                if !slot.is_settled() || slot.current() == NOBODY || live.is_some_and(|live| live.contains(&n)) {
                    continue;
                }
                // Settled before the reading began: nothing was remembered since.
                let settled = since.and_then(|since| since.get(&n));
                if settled.is_some_and(|(seen, at)| seen.is_settled() && *at < sweep.begun) {
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
    let mut live: HashMap<u32, (HashSet<u32>, u64)> = HashMap::new();
    let outcome = flows::sweep(map, |hash, entry| {
        let Some((ring_size, idle)) = services.get(&entry.service) else {
            return Keep::No;
        };
        if now.wrapping_sub(entry.seen) > *idle && now > entry.seen {
            return Keep::No;
        }
        let (slots, count) = live.entry(entry.service).or_default();
        slots.insert(slot(hash, *ring_size));
        *count += 1;
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

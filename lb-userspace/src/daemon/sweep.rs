//! The way of slots back to rest: moving → settled when the drain time has passed, settled → stable when no flow is remembered.
//!
//! The flow table is read in a thread of its own, and only while some slot is not stable.

mod read;
mod rest;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{Duration, Instant};

use lb_common::map::{BackendNumber, ServiceKey};
use tracing::{debug, error};

use self::read::Lives;
pub(super) use self::read::{Sweep, tag};
pub(super) use self::rest::{Since, Transitions, boot_instant};
use super::Daemon;
use super::trouble::Topic;
use crate::model::{Tracking, identity};

/// How often the flow table is read at most.
const SWEEP_INTERVAL: Duration = Duration::from_secs(5);

impl Daemon {
    /// Since when slots move, for the next daemon: by service, and by the identity of the backend that they move away from.
    pub(super) fn moving(&self) -> BTreeMap<String, BTreeMap<String, u64>> {
        let layout = self.kernel.layout();
        let mut all = BTreeMap::new();
        for service in self
            .world
            .model
            .services
            .iter()
            .filter(|service| self.transitions.since.contains_key(&service.key()))
        {
            let Some(installed) = layout.services.get(&service.key()) else {
                continue;
            };
            let by_number = self.transitions.moving(service.key()).into_iter();
            let named = by_number.filter_map(|(number, ms)| {
                let identity = installed.identities.get(usize::from(number))?;
                Some((format!("{identity:016x}"), ms))
            });
            all.insert(service.name.clone(), named.collect());
        }
        all
    }

    /// Looks after slots that are not stable; called every second.
    pub(super) fn tend_slots(&mut self) {
        let keys: Vec<ServiceKey> = self.transitions.services.iter().copied().collect();
        if keys.is_empty() {
            return;
        }
        let moved = !self.transitions.since.is_empty();
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
                    let restless = self.transitions.tend(
                        &self.kernel.balancer.tables,
                        (key, drain_time),
                        base,
                        size,
                        Instant::now,
                    );
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
        // Since when they move is kept.
        self.positions.stale |= moved || !self.transitions.since.is_empty();
        self.start_sweep();
    }

    /// Looks at the slots of services that a plan has just changed: a slot that went on and came back within a second must not be taken
    /// for one that stayed, of which an earlier reading of the flow table says something.
    pub(super) fn note_slots(&mut self, changed: &HashSet<ServiceKey>) {
        if changed.is_empty() {
            return;
        }
        let layout = self.kernel.layout();
        let services = self.world.model.services.iter();
        let services = services.filter(|service| changed.contains(&service.key()));
        let services: Vec<(ServiceKey, Duration)> =
            services.map(|service| (service.key(), service.drain_time)).collect();
        for (key, drain_time) in services {
            if let Some(installed) = layout.services.get(&key) {
                let (base, size) = (installed.entry.ring_base(), installed.entry.ring_size);
                self.transitions.tend(
                    &self.kernel.balancer.tables,
                    (key, drain_time),
                    base,
                    size,
                    Instant::now,
                );
            }
        }
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
        let lives = Lives::read(&self.kernel.balancer.tables, &self.kernel.layout());
        transitions.sweeping = true;
        let events = self.events.clone();
        std::thread::spawn(move || read::sweep(&map, &lives, &events));
    }

    /// Makes settled slots stable that no live entry belongs to.
    pub(super) fn note_sweep(&mut self, sweep: Sweep) {
        self.transitions.sweeping = false;
        self.transitions.last_sweep = Some(Instant::now());
        if let Err(error) = &sweep.outcome {
            let line = format!(
                "the flow table could not be read to its end, so slots that moved do not come to rest: {error}"
            );
            error!("{line}");
            self.troubles.set(Topic::Flows, Some(line));
            return;
        }
        self.troubles.set(Topic::Flows, None);
        self.transitions.remembered = sweep.live.iter().map(|(tag, live)| (*tag, live.count)).collect();
        let tags = sweep.live.iter();
        let owners =
            tags.flat_map(|(tag, live)| live.owners.iter().map(move |(owner, count)| ((*tag, *owner), *count)));
        self.transitions.remembered_by = owners.collect();
        self.transitions.swept = Some(sweep.begun);
        self.dismiss_leaving(&sweep);
        let layout = self.kernel.layout();
        let tables = &self.kernel.balancer.tables;
        let services = self.world.model.services.iter();
        let calmed: usize = services
            .filter(|service| self.transitions.services.contains(&service.key()))
            .filter_map(|service| Some((service, layout.services.get(&service.key())?)))
            .map(|(service, installed)| {
                let pace = (service.key(), service.drain_time);
                self.transitions.calm(tables, pace, service.tracking, installed, &sweep)
            })
            .sum();
        debug!(calmed, "slots are stable again");
    }
}

//! What an earlier daemon left: what the tables that were taken over tell, and where backends stood on their way.

use std::collections::{BTreeSet, HashMap};

use lb_common::map::{ServiceKey, Slot};

use super::kernel::{Kernel, serving};
use super::positions::Positions;
use super::sweep::{Since, boot_instant};
use super::world::World;
use crate::health::TargetId;
use crate::model::{Backend, Failback, Service, identity};
use crate::plan::layout::Layout;
use crate::policy::Now;

/// The backends that served in the tables that were taken over; those that were not down where an earlier daemon's tables are of another
/// version. `fresh`: nothing was installed.
pub(super) fn served(kernel: &Kernel, world: &World, positions: &Positions, fresh: bool) -> BTreeSet<TargetId> {
    if fresh {
        return BTreeSet::new();
    }
    if !kernel.taken_over() {
        return world.assumed_up(positions.kept());
    }
    let layout = kernel.layout();
    let mut served = BTreeSet::new();
    for service in world.model.services.iter().filter(|service| service.health.is_some()) {
        let identities: HashMap<u64, &str> = service
            .backends
            .iter()
            .map(|backend| (identity(&backend.name), backend.name.as_str()))
            .collect();
        let owners = serving(&kernel.balancer, &layout, service.key());
        let names = owners.iter().filter_map(|identity| identities.get(identity));
        served.extend(names.map(|backend| TargetId::new(&service.name, backend)));
    }
    served
}

/// Who was out in the tables that were taken over, of services that do not take backends back by themselves: the tables
/// remember what an operator has not confirmed yet.
pub(super) fn out(kernel: &Kernel, world: &World, now: Now) -> Vec<TargetId> {
    if !kernel.taken_over() {
        return Vec::new();
    }
    let layout = kernel.layout();
    let mut out = Vec::new();
    let waits = |service: &&Service| service.health.is_some() && service.policy.failback != Failback::Auto;
    for service in world.model.services.iter().filter(waits) {
        let Some((installed, owners)) = owners(kernel, &layout, service) else {
            continue;
        };
        let serves = |backend: &Backend| owners.contains(&identity(&backend.name));
        // Later tiers have no slots while all is well.
        let serving = service.backends.iter().filter(|backend| serves(backend));
        let last = serving.map(|backend| backend.priority).max();
        for backend in &service.backends {
            let there = installed.contains(&identity(&backend.name));
            let allowed = world.is_allowed(service, backend, now.unix_ms);
            let expected = !backend.sorry && last.is_some_and(|last| backend.priority <= last);
            if there && allowed && expected && !serves(backend) {
                out.push(TargetId::new(&service.name, &backend.name));
            }
        }
    }
    out
}

/// Who was there in the tables that were taken over, and who had slots. By the slots: a backend that waits for its failback serves the
/// flows that it has, and has no slot.
fn owners(kernel: &Kernel, layout: &Layout, service: &Service) -> Option<(BTreeSet<u64>, BTreeSet<u64>)> {
    let installed = layout.services.get(&service.key())?;
    let ring = installed.entry.ring_base()..installed.entry.ring_base() + installed.entry.ring_size;
    let owners: BTreeSet<u16> = ring.map(|slot| kernel.balancer.tables.slot(slot).current()).collect();
    let owners = owners
        .iter()
        .filter_map(|number| installed.identities.get(usize::from(*number)));
    Some((
        installed.identities.iter().copied().collect(),
        owners.copied().collect(),
    ))
}

/// Takes over the backends that were taken out of the configuration and may have flows: their rows must be wanted.
pub(super) fn resume_leaving(world: &mut World, kernel: &Kernel, positions: &Positions) {
    if !kernel.taken_over() {
        return;
    }
    let layout = kernel.layout();
    for (name, left) in positions.kept().iter().filter(|(_, left)| !left.leaving.is_empty()) {
        let Some(service) = world.service(name) else { continue };
        let serving = serving(&kernel.balancer, &layout, service.key());
        world.resume_leaving(name, left, |backend| serving.contains(&identity(backend)));
    }
}

/// Since when the slots of the tables that were taken over move, as far as that was kept; before anything is written to them.
pub(super) fn moving(world: &World, kernel: &Kernel, positions: &Positions) -> Vec<(ServiceKey, Vec<Since>)> {
    if !kernel.taken_over() {
        return Vec::new();
    }
    let layout = kernel.layout();
    let mut all = Vec::new();
    for (name, left) in positions.kept().iter().filter(|(_, left)| !left.moving.is_empty()) {
        let Some(service) = world.service(name) else { continue };
        let Some(installed) = layout.services.get(&service.key()) else {
            continue;
        };
        let of = |slot: Slot| {
            let identity = installed.identities.get(usize::from(slot.previous()))?;
            boot_instant(*left.moving.get(&format!("{identity:016x}"))?)
        };
        let base = installed.entry.ring_base();
        let slots = (0..installed.entry.ring_size).map(|n| (n, kernel.balancer.tables.slot(base + n)));
        let moving = slots.filter(|(_, slot)| !slot.is_stable() && !slot.is_settled());
        let since: Vec<Since> = moving.filter_map(|(n, slot)| Some((n, slot, of(slot)?))).collect();
        all.push((service.key(), since));
    }
    all
}

/// Takes over where backends stood on their way.
pub(super) fn resume(world: &mut World, kernel: &Kernel, positions: &Positions, now: Now) {
    let layout = kernel.layout();
    for (name, left) in positions.kept() {
        let Some(service) = world.service(name) else { continue };
        let had = owners(kernel, &layout, service).map_or_else(BTreeSet::new, |(_, owners)| owners);
        world.resume(name, left, |backend| had.contains(&identity(backend)), now);
    }
}

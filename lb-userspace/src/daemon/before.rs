//! What an earlier daemon left: what the tables that were taken over tell, and where backends stood on their way.

use std::collections::{BTreeSet, HashMap};

use super::kernel::{Kernel, serving};
use super::positions::Positions;
use super::world::World;
use crate::health::TargetId;
use crate::model::{Backend, Failback, Service, identity};
use crate::plan::layout::Layout;
use crate::policy::Now;

/// Who served in the tables that were taken over.
pub(super) fn served(kernel: &Kernel, world: &World) -> BTreeSet<TargetId> {
    if !kernel.taken_over() {
        return BTreeSet::new();
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

/// Takes over where backends stood on their way.
pub(super) fn resume(world: &mut World, kernel: &Kernel, positions: &Positions, now: Now) {
    let layout = kernel.layout();
    for (name, left) in positions.kept() {
        let Some(service) = world.service(name) else { continue };
        let had = owners(kernel, &layout, service).map_or_else(BTreeSet::new, |(_, owners)| owners);
        world.resume(name, left, |backend| had.contains(&identity(backend)), now);
    }
}

//! The rings of the services: populated by the configuration and the operator's weights, whatever anybody's health.

use std::sync::Arc;

use super::{ServiceRing, World};
use crate::model::{Backend, Service};
use crate::ring::{Member, Ring};
use crate::wish;

impl World {
    /// Populates the rings whose members or size have changed, on all CPUs. Only a changed file repopulates, or a weight
    /// that an operator raises above the file's.
    pub fn populate_rings(&mut self) {
        let mut missing: Vec<(&Service, Vec<Member>)> = Vec::new();
        for service in &self.model.services {
            let members = wish::members(service, &self.ring_weights(service));
            let same = |ring: &Arc<ServiceRing>| ring.size == service.ring_size && ring.members == members;
            if !self.rings.get(&service.name).is_some_and(same) {
                missing.push((service, members));
            }
        }
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let chunk = missing.len().div_ceil(threads).max(1);
        let populated: Vec<(String, Arc<ServiceRing>)> = std::thread::scope(|scope| {
            let workers: Vec<_> = missing
                .chunks(chunk)
                .map(|services| {
                    scope.spawn(|| {
                        let populate = |(service, members): &(&Service, Vec<Member>)| {
                            let ring = Ring::populate(members, service.ring_size);
                            let ring = ServiceRing {
                                members: members.clone(),
                                size: service.ring_size,
                                ring,
                            };
                            (service.name.clone(), Arc::new(ring))
                        };
                        services.iter().map(populate).collect::<Vec<_>>()
                    })
                })
                .collect();
            workers
                .into_iter()
                .flat_map(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
                .collect()
        });
        self.rings.extend(populated);
    }

    /// The weights that a service's ring is made for, one for each backend: the largest that each has or will have.
    pub(super) fn ring_weights(&self, service: &Service) -> Vec<u32> {
        let weight = |backend: &Backend| {
            let overridden = self.overridden(&service.name, &backend.name);
            overridden.map_or(backend.weight, |overridden| overridden.most_weight(backend.weight))
        };
        service.backends.iter().map(weight).collect()
    }
}

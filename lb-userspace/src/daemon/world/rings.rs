//! The rings of the services: populated by the configuration and the operator's weights, whatever anybody's health.

use std::collections::HashMap;
use std::sync::Arc;

use lb_common::map::BackendNumber;

use super::{Overrides, ServiceRing, World};
use crate::model::{Backend, Model, Service};
use crate::ring::{Member, Ring};
use crate::wish;

impl ServiceRing {
    /// For each slot the number of its owner among the members, or [`lb_common::map::NOBODY`].
    pub fn owners(&self) -> &[BackendNumber] {
        self.ring.owners()
    }

    /// Who the members are.
    pub fn identities(&self) -> impl Iterator<Item = u64> {
        self.members.iter().map(|member| member.identity)
    }
}

/// Rings of services, by name.
pub struct Rings(HashMap<String, Arc<ServiceRing>>);

impl Rings {
    /// The rings as a configuration needs them, made of these where they suit. It takes long.
    pub fn become_those_of(self, model: Model, overrides: Overrides) -> Self {
        let nobody = Model {
            services: Vec::new(),
            ..model.clone()
        };
        let mut world = World::new(nobody, overrides);
        world.rings = self.0;
        world.replace_model(model);
        Self(world.rings)
    }
}

impl World {
    /// The rings as they are.
    pub fn rings(&self) -> Rings {
        Rings(self.rings.clone())
    }

    /// Has rings at hand for the configuration that is to come. Those that do not suit it are populated anew.
    pub fn have_rings(&mut self, rings: Rings) {
        self.rings.extend(rings.0);
    }

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

    /// A service's ring, by the configuration alone, whatever anybody's health.
    pub fn ring(&self, service: &str) -> Option<&Arc<ServiceRing>> {
        self.rings.get(service)
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

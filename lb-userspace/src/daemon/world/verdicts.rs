//! What the checks say: whom they are about, and whose verdicts count under another configuration.

use std::collections::HashMap;
use std::net::IpAddr;

use lb_common::map::ServiceKey;

use super::World;
use crate::health::{State as Health, Target, TargetId, Via};
use crate::model::{Backend, Model, Service};

impl World {
    /// Whom the checks are about. Who is up or down when they begin stays so until they say otherwise.
    pub fn targets(&self, via: impl Fn(&TargetId) -> Via) -> Vec<Target> {
        let mut targets = Vec::new();
        for service in &self.model.services {
            let Some(health) = &service.health else { continue };
            for backend in self.served(service) {
                let id = TargetId::new(&service.name, &backend.name);
                let initial = match self.health.get(&id) {
                    Some(Health::Up) => Some(true),
                    Some(Health::Down) => Some(false),
                    Some(Health::Starting) | None => None,
                };
                targets.push(Target {
                    via: via(&id),
                    id,
                    address: backend.address,
                    health: health.clone(),
                    initial,
                });
            }
        }
        targets
    }

    /// Takes in what the checks of an address say now; whether that is about a backend of today. It is about a predecessor of that
    /// name if the address is another.
    pub fn take_verdict(&mut self, id: &TargetId, address: IpAddr, verdict: Health) -> bool {
        let same = |backend: &Backend| backend.name == *id.backend && backend.address == address;
        let service = self.service(&id.service).filter(|service| service.health.is_some());
        let known = service.is_some_and(|service| self.served(service).any(same));
        if known {
            self.health.insert(id.clone(), verdict);
        }
        known
    }

    /// What the checks say of a backend; up if there are none.
    pub fn health_of(&self, service: &Service, backend: &str) -> Health {
        match service.health {
            None => Health::Up,
            Some(_) => {
                let id = TargetId::new(&service.name, backend);
                self.health.get(&id).copied().unwrap_or(Health::Starting)
            }
        }
    }

    /// What is known of the health of the present model's backends by an earlier one's: a backend of the same name and address
    /// in a service of the same name, or of the same VIP, protocol and port. So a service that gets checks, or another name,
    /// serves on until its checks say otherwise; and another address is another server, of which nothing is known.
    pub(super) fn inherited_health(
        &self,
        earlier: &Model,
        left_earlier: &HashMap<ServiceKey, Vec<Backend>>,
    ) -> HashMap<TargetId, Health> {
        let mut known = HashMap::new();
        for service in &earlier.services {
            let left = left_earlier.get(&service.key()).into_iter().flatten();
            for backend in service.backends.iter().chain(left) {
                let health = self.health_of(service, &backend.name);
                known.insert((service.key(), backend.name.as_str(), backend.address), health);
            }
        }
        let by_name: HashMap<&str, ServiceKey> = earlier
            .services
            .iter()
            .map(|service| (service.name.as_str(), service.key()))
            .collect();
        let mut health = HashMap::new();
        for service in self.model.services.iter().filter(|service| service.health.is_some()) {
            let keys = [Some(service.key()), by_name.get(service.name.as_str()).copied()];
            for backend in self.served(service) {
                let mut of = keys
                    .iter()
                    .flatten()
                    .filter_map(|key| known.get(&(*key, backend.name.as_str(), backend.address)));
                if let Some(verdict) = of.next() {
                    health.insert(TargetId::new(&service.name, &backend.name), *verdict);
                }
            }
        }
        health
    }
}

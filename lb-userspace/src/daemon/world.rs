//! What the daemon knows: the model, the operator's word, the backends' health, the ways to them. Pure: it asks nobody.

mod blocked;
mod left;
mod policy;
mod rings;
mod sources;
#[cfg(test)]
mod storm;
#[cfg(test)]
pub(super) mod tests;
mod verdicts;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use lb_common::encap::IPV6_LEN;
use lb_common::map::{Rewrite, ServiceKey};

use super::state::Override;
use crate::health::{State as Health, TargetId};
use crate::model::{Backend, Forward, Model, Protocol, Service, Tracking};
use crate::netlink::{Addresses, Answer, NextHop};
use crate::plan::WantedService;
use crate::policy::Machine;
use crate::ring::{Member, Ring, Share};
use crate::wish::{self, BackendNow, Way};
pub use left::{Left, LeftBackend};
pub use policy::{Agent, Decided, Load};
pub use rings::Rings;

/// Overrides by service and backend.
pub type Overrides = BTreeMap<String, BTreeMap<String, Override>>;

/// Everything that decides what the kernel should hold.
#[derive(Clone)]
pub struct World {
    /// The configuration in force.
    pub model: Model,
    /// The operator's overrides.
    pub overrides: Overrides,
    /// Verdicts of the checks; services without checks have none.
    pub health: HashMap<TargetId, Health>,
    /// The interfaces that the program is attached to.
    pub interfaces: Vec<u32>,
    /// This host's own addresses.
    pub own_addresses: Addresses,
    /// What the kernel says of the ways.
    answers: HashMap<IpAddr, Answer>,
    /// The ways, with the sources that were chosen.
    ways: HashMap<IpAddr, Answer>,
    /// The last way to an address that is unreachable now: its rows keep it.
    last_ways: HashMap<IpAddr, NextHop>,
    rings: HashMap<String, Arc<ServiceRing>>,
    /// The services' policies at work, by name.
    machines: HashMap<String, Machine>,
    /// What they decided last, by name.
    decided: HashMap<String, Decided>,
    /// What backends report of their load, and how fast they answer.
    pub loads: HashMap<TargetId, Load>,
    /// Interfaces that no packets can be sent by, and why: who is behind them is out of reach.
    pub blocked: BTreeMap<u32, String>,
    /// Backends that are not configured any more and still serve the flows that they have.
    leaving: HashMap<ServiceKey, Vec<Backend>>,
}

/// The ring of one service, and what it was made of.
pub struct ServiceRing {
    members: Vec<Member>,
    size: u32,
    ring: Ring,
}

impl World {
    /// A world in which nothing is known but the configuration.
    pub fn new(model: Model, overrides: Overrides) -> Self {
        let mut world = Self {
            model: Model {
                services: Vec::new(),
                ..model.clone()
            },
            overrides,
            health: HashMap::new(),
            interfaces: Vec::new(),
            own_addresses: Addresses::default(),
            answers: HashMap::new(),
            ways: HashMap::new(),
            last_ways: HashMap::new(),
            rings: HashMap::new(),
            machines: HashMap::new(),
            decided: HashMap::new(),
            loads: HashMap::new(),
            blocked: BTreeMap::new(),
            leaving: HashMap::new(),
        };
        world.replace_model(model);
        world
    }

    /// Puts another configuration in force. What is known of backends that stay, stays; overrides of those that go, go.
    ///
    /// A backend that goes while it serves keeps the flows that it has, until [`dismiss`](Self::dismiss).
    pub fn replace_model(&mut self, model: Model) {
        let leaving = self.leaving_after(&model);
        self.forget_loads(&model);
        let earlier = std::mem::replace(&mut self.model, model);
        let left_earlier = std::mem::replace(&mut self.leaving, leaving);
        self.health = self.inherited_health(&earlier, &left_earlier);
        let services: HashMap<&str, &Service> = self
            .model
            .services
            .iter()
            .map(|service| (service.name.as_str(), service))
            .collect();
        let known = |service: &str, backend: &str| {
            services
                .get(service)
                .is_some_and(|service| service.backends.iter().any(|known| known.name == backend))
        };
        self.overrides.retain(|service, backends| {
            backends.retain(|backend, _| known(service, backend));
            !backends.is_empty()
        });
        self.rings.retain(|service, _| services.contains_key(service.as_str()));
        self.machines
            .retain(|service, _| services.contains_key(service.as_str()));
        // What was decided is about other backends: nothing counts until it is decided anew.
        self.decided.clear();
        let addresses: BTreeSet<IpAddr> = self.addresses();
        self.answers.retain(|address, _| addresses.contains(address));
        self.ways.retain(|address, _| addresses.contains(address));
        self.last_ways.retain(|address, _| addresses.contains(address));
        // Other VIPs, or another source for tunnels.
        let ways = self.chosen_ways();
        self.set_ways(ways);
        self.populate_rings();
    }

    /// The backends that are to be gone once the model is another: they serve, and flows of theirs may be remembered.
    fn leaving_after(&self, model: &Model) -> HashMap<ServiceKey, Vec<Backend>> {
        let earlier: HashMap<ServiceKey, &Service> = self
            .model
            .services
            .iter()
            .map(|service| (service.key(), service))
            .collect();
        let mut leaving = HashMap::new();
        for service in model.services.iter().filter(|service| remembers(service)) {
            let Some(earlier) = earlier.get(&service.key()) else {
                continue;
            };
            let stays = |name: &str| {
                let known = &service.backends;
                known.binary_search_by(|other| other.name.as_str().cmp(name)).is_ok()
            };
            let left = self.served(earlier).filter(|backend| {
                !stays(&backend.name) && self.serves(earlier, backend) && self.usable_way(backend).is_ok()
            });
            let left: Vec<Backend> = left.cloned().collect();
            if !left.is_empty() {
                leaving.insert(service.key(), left);
            }
        }
        leaving
    }

    /// All that a service's packets may go to: its backends, and those that left it and still have flows.
    pub fn served<'a>(&'a self, service: &'a Service) -> impl Iterator<Item = &'a Backend> {
        service.backends.iter().chain(self.leaving(service.key()))
    }

    /// The backends that left a service and still have flows.
    pub fn leaving(&self, key: ServiceKey) -> &[Backend] {
        self.leaving.get(&key).map_or(&[], Vec::as_slice)
    }

    /// Lets go of backends that left a service and have no flow any more.
    pub fn dismiss(&mut self, key: ServiceKey, gone: impl Fn(&Backend) -> bool) {
        if let Some(backends) = self.leaving.get_mut(&key) {
            backends.retain(|backend| !gone(backend));
            if backends.is_empty() {
                self.leaving.remove(&key);
            }
        }
    }

    /// Lets go of all backends that left: there is no room for them, or nothing is remembered any more.
    pub fn dismiss_all(&mut self) {
        self.leaving.clear();
    }

    /// Every backend's address.
    pub fn addresses(&self) -> BTreeSet<IpAddr> {
        self.model
            .services
            .iter()
            .flat_map(|service| self.served(service))
            .map(|backend| backend.address)
            .collect()
    }

    /// The service of that name.
    pub fn service(&self, name: &str) -> Option<&Service> {
        let services = &self.model.services;
        services
            .binary_search_by(|service| service.name.as_str().cmp(name))
            .ok()
            .map(|index| &services[index])
    }

    /// Notes what is known of the ways to some addresses; says which services that concerns.
    pub fn set_ways(&mut self, ways: impl IntoIterator<Item = (IpAddr, Answer)>) -> BTreeSet<String> {
        let mut changed = BTreeSet::new();
        for (address, way) in ways {
            if let Ok(way) = way {
                self.last_ways.insert(address, way);
            }
            changed.insert(address);
            self.ways.insert(address, way);
        }
        let concerned = |service: &&Service| self.served(service).any(|backend| changed.contains(&backend.address));
        self.model
            .services
            .iter()
            .filter(concerned)
            .map(|service| service.name.clone())
            .collect()
    }

    /// What is known of the way to an address.
    pub fn way(&self, address: IpAddr) -> Option<&Answer> {
        self.ways.get(&address)
    }

    /// The MTUs of ways that may be too small for packets of so many bytes with an outer header, by address.
    pub fn small_ways(&self, full: u32) -> HashMap<IpAddr, u32> {
        let ways = self.ways.iter();
        let small = ways.filter_map(|(address, way)| Some((*address, way.as_ref().ok()?.mtu)));
        small.filter(|(_, mtu)| *mtu < full + IPV6_LEN as u32).collect()
    }

    /// The operator's override of a backend.
    pub fn overridden(&self, service: &str, backend: &str) -> Option<Override> {
        self.overrides.get(service)?.get(backend).copied()
    }

    /// The way as the header bytes need it, or why there is none now.
    pub fn usable_way(&self, backend: &Backend) -> Result<NextHop, String> {
        let way = match self.ways.get(&backend.address) {
            None => return Err(format!("the way to {} is still being looked up", backend.address)),
            Some(Err(unreachable)) => return Err(unreachable.to_string()),
            Some(Ok(way)) => *way,
        };
        self.suits(backend, way)
    }

    fn suits(&self, backend: &Backend, way: NextHop) -> Result<NextHop, String> {
        if backend.forward == Forward::L2 && way.neighbour != backend.address && self.model.node.gateway_mac.is_none() {
            return Err(format!(
                "{} is behind the gateway {}: forward mode l2 needs it on the same link; ipip does not",
                backend.address, way.neighbour
            ));
        }
        Ok(way)
    }

    /// The header bytes for probes of a backend by the users' path, with the interface they leave by; and that way. One that is
    /// lost now is the last that there was, as in the backend's row.
    ///
    /// # Errors
    /// In words, if there never was one, or it does not suit the forward mode.
    pub fn probe_way(&self, service: &Service, backend: &Backend) -> Result<(Rewrite, NextHop), String> {
        let way = match (self.ways.get(&backend.address), self.last_ways.get(&backend.address)) {
            (Some(Err(_)), Some(last)) => self.suits(backend, *last)?,
            _ => self.usable_way(backend)?,
        };
        let now = self.rewrite_with(service, backend, &way)?;
        let rewrite = now.rewrite.ok_or("its header bytes are not known")?;
        let ifindex = way.ifindex;
        Ok((Rewrite { ifindex, ..rewrite }, way))
    }

    fn rewrite_with(&self, service: &Service, backend: &Backend, way: &NextHop) -> Result<BackendNow, String> {
        let way = Way {
            ifindex: if self.interfaces == [way.ifindex] {
                0
            } else {
                way.ifindex
            },
            source_mac: way.source_mac,
            destination_mac: way.destination_mac,
            tunnel_source: way.preferred_source,
        };
        let rewrite = wish::rewrite(service.vip, backend, &way)?;
        Ok(BackendNow {
            rewrite: Some(rewrite),
            share: Share::FULL,
            serves: true,
        })
    }

    /// What stands between a backend and its traffic, or how it is served.
    pub fn backend_now(&self, service: &Service, backend: &Backend) -> Result<BackendNow, String> {
        let way = self.open_way(backend)?;
        let now = self.rewrite_with(service, backend, &way)?;
        Ok(BackendNow {
            share: self.share(service, backend),
            serves: self.serves(service, backend),
            ..now
        })
    }

    /// What the kernel should hold for a service.
    pub fn wanted(&self, service: &Service) -> Option<WantedService> {
        let ring = self.rings.get(&service.name)?;
        let now = |backend| self.backend_or_last(service, backend);
        let configured: Vec<BackendNow> = service.backends.iter().map(now).collect();
        let mut wanted = wish::wanted(service, &ring.ring, &configured);
        let leaving = self.leaving(service.key()).iter();
        wanted
            .backends
            .extend(leaving.map(|backend| wish::wanted_backend(backend, &now(backend))));
        Some(wanted)
    }

    fn backend_or_last(&self, service: &Service, backend: &Backend) -> BackendNow {
        self.backend_now(service, backend).unwrap_or_else(|_| {
            // Out, and its row keeps the last way: nothing points to it.
            let last = self.last_ways.get(&backend.address);
            let last = last.and_then(|way| self.rewrite_with(service, backend, way).ok());
            BackendNow {
                rewrite: last.and_then(|last| last.rewrite),
                share: Share::OUT,
                serves: false,
            }
        })
    }

    /// What the kernel should hold for all services.
    pub fn wanted_all(&self) -> Vec<WantedService> {
        self.model
            .services
            .iter()
            .filter_map(|service| self.wanted(service))
            .collect()
    }

    /// Names of the services by their keys.
    pub fn names(&self) -> HashMap<ServiceKey, &str> {
        self.model
            .services
            .iter()
            .map(|service| (service.key(), service.name.as_str()))
            .collect()
    }
}

/// Whether flows of a service are ever remembered.
fn remembers(service: &Service) -> bool {
    match service.tracking {
        Tracking::Never => false,
        Tracking::Adaptive => service.protocol == Protocol::Tcp,
        Tracking::Always => true,
    }
}

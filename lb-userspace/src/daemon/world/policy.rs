//! Who serves and with what share: the policies, fed with what is known.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::World;
use crate::api::types::Admin;
use crate::health::{State as Health, TargetId};
use crate::model::{Backend, Model, Service, Weights};
use crate::policy::{Change, Confirm, Decision, Now, Outcome, Seen, WHOLE};
use crate::ring::Share;

/// What was decided for a service, and the weights in force then.
#[derive(Clone, Debug)]
pub struct Decided {
    /// The policy's answer.
    pub outcome: Outcome,
    /// The weights in force, one for each backend, in the service's order.
    pub weights: Vec<u32>,
    /// When it may be another although nothing new is known.
    pub next: Option<Instant>,
}

/// What is known of a backend's load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Load {
    /// The part of its weight that its load leaves it, in 65,535ths; 0: it gets no new connections.
    pub factor: u16,
    /// What it says of itself.
    pub agent: Agent,
}

/// What a backend's agent says besides a share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Agent {
    /// Nothing that keeps it from serving.
    #[default]
    Ready,
    /// No new connections.
    Drain,
    /// No packets.
    Maintenance,
    /// It is down.
    Down,
}

impl Default for Load {
    fn default() -> Self {
        Self {
            factor: WHOLE,
            agent: Agent::Ready,
        }
    }
}

impl World {
    /// Decides anew who serves; says what has changed.
    pub fn decide(&mut self, name: &str, now: Now) -> Vec<Change> {
        let services = &self.model.services;
        let Ok(index) = services.binary_search_by(|service| service.name.as_str().cmp(name)) else {
            return Vec::new();
        };
        let service = &self.model.services[index];
        let weights: Vec<u32> = service
            .backends
            .iter()
            .map(|backend| self.weight(service, backend, now.unix_ms))
            .collect();
        let seen = service.backends.iter().zip(&weights);
        let seen: Vec<Seen> = seen
            .map(|(backend, weight)| self.seen(service, backend, *weight))
            .collect();
        let ramps = service.backends.iter().filter_map(|backend| {
            let ramp = self.overridden(name, &backend.name)?.ramp?;
            Some(now.instant + Duration::from_millis(ramp.next_ms(now.unix_ms)?))
        });
        let ramp = ramps.min();
        let machine = self.machines.entry(name.to_owned()).or_default();
        let mut outcome = machine.step(service, &seen, now.instant);
        let changes = std::mem::take(&mut outcome.changes);
        let decided = Decided {
            next: outcome.next.into_iter().chain(ramp).min(),
            outcome,
            weights,
        };
        self.decided.insert(name.to_owned(), decided);
        changes
    }

    /// Decides anew for all services; says what has changed, and where.
    pub fn decide_all(&mut self, now: Now) -> Vec<(String, Change)> {
        let names: Vec<String> = self.model.services.iter().map(|service| service.name.clone()).collect();
        let mut all = Vec::new();
        for name in names {
            let changes = self.decide(&name, now);
            all.extend(changes.into_iter().map(|change| (name.clone(), change)));
        }
        all
    }

    /// What was decided last for a service.
    pub fn decided(&self, service: &str) -> Option<&Decided> {
        self.decided.get(service)
    }

    /// Forgets what is known of loads that says nothing in another model: shares depend on something else there, or the address is another
    /// server.
    pub(super) fn forget_loads(&mut self, model: &Model) {
        let backend = |model: &Model, id: &TargetId| {
            let service = model.services.iter().find(|service| service.name == *id.service)?;
            let backend = service.backends.iter().find(|backend| backend.name == *id.backend)?;
            let kind = std::mem::discriminant(&service.policy.weights);
            let follows = service.policy.weights != Weights::Static;
            follows.then_some((kind, backend.address))
        };
        let earlier = &self.model;
        self.loads.retain(|id, _| {
            let then = backend(model, id);
            then.is_some() && then == backend(earlier, id)
        });
    }

    /// Whether an operator lets a backend have new connections.
    pub fn is_allowed(&self, service: &Service, backend: &Backend, now_unix_ms: u64) -> bool {
        let overridden = self.overridden(&service.name, &backend.name);
        overridden.is_none_or(|one| one.admin.is_none()) && self.weight(service, backend, now_unix_ms) > 0
    }

    /// When something may have to be decided anew by time alone.
    pub fn next_decision(&self) -> Option<Instant> {
        self.decided.values().filter_map(|decided| decided.next).min()
    }

    /// The services for which it is time.
    pub fn due(&self, now: Instant) -> impl Iterator<Item = &str> {
        let due = move |decided: &Decided| decided.next.is_some_and(|next| next <= now);
        self.decided
            .iter()
            .filter(move |(_, decided)| due(decided))
            .map(|(name, _)| name.as_str())
    }

    /// What was decided last for a backend.
    pub fn decision(&self, service: &Service, backend: &str) -> Option<&Decision> {
        let backends = &service.backends;
        let index = backends
            .binary_search_by(|known| known.name.as_str().cmp(backend))
            .ok()?;
        self.decided.get(&service.name)?.outcome.backends.get(index)
    }

    /// Confirms what a policy waits for; says whom that concerned.
    pub fn confirm(&mut self, service: &str, what: Confirm, backend: Option<&str>) -> Vec<String> {
        let machine = self.machines.get_mut(service);
        machine.map_or(Vec::new(), |machine| machine.confirm(what, backend))
    }

    /// Notes that a backend was out when an earlier daemon stopped.
    pub fn was_out(&mut self, service: &str, backend: &str, now: Instant) {
        self.machines
            .entry(service.to_owned())
            .or_default()
            .was_out(backend, now);
    }

    /// The weight in force: the file's, or the operator's.
    pub fn weight(&self, service: &Service, backend: &Backend, now_unix_ms: u64) -> u32 {
        let overridden = self.overridden(&service.name, &backend.name);
        let weight = overridden.and_then(|overridden| overridden.weight_at(now_unix_ms));
        weight.unwrap_or(backend.weight)
    }

    fn seen(&self, service: &Service, backend: &Backend, weight: u32) -> Seen {
        let load = self.loads.get(&TargetId::new(&service.name, &backend.name));
        let agent = load.map_or(Agent::Ready, |load| load.agent);
        let idle = load.is_some_and(|load| load.factor == 0);
        let overridden = self.overridden(&service.name, &backend.name);
        let operator = overridden.and_then(|overridden| overridden.admin);
        Seen {
            health: match agent {
                Agent::Down => Health::Down,
                _ => self.health_of(service, &backend.name),
            },
            reachable: self.is_reachable(service, backend),
            admin: match (operator.unwrap_or(Admin::Enabled), agent) {
                // The stricter word counts.
                (Admin::Disabled, _) | (_, Agent::Maintenance) => Admin::Disabled,
                (Admin::Draining, _) | (_, Agent::Drain) => Admin::Draining,
                _ if idle => Admin::Draining,
                (Admin::Enabled, _) => Admin::Enabled,
            },
            weighted: weight > 0,
            by_agent: agent == Agent::Down,
        }
    }

    fn is_reachable(&self, service: &Service, backend: &Backend) -> bool {
        let way = self.open_way(backend);
        way.is_ok_and(|way| self.rewrite_with(service, backend, &way).is_ok())
    }

    /// Whether a backend serves the flows that it has. One that left the configuration does while it is up.
    pub(super) fn serves(&self, service: &Service, backend: &Backend) -> bool {
        match self.decision(service, &backend.name) {
            Some(decision) => decision.serves,
            None => self.health_of(service, &backend.name) == Health::Up,
        }
    }

    /// The share of its weight in the ring that a backend has now.
    pub(super) fn share(&self, service: &Service, backend: &Backend) -> Share {
        let backends = &service.backends;
        let index = backends.binary_search_by(|known| known.name.as_str().cmp(&backend.name));
        let (Ok(index), Some(decided)) = (index, self.decided.get(&service.name)) else {
            return Share::OUT;
        };
        let (Some(decision), Some(weight)) = (decided.outcome.backends.get(index), decided.weights.get(index)) else {
            return Share::OUT;
        };
        let overridden = self.overridden(&service.name, &backend.name);
        let most = overridden.map_or(backend.weight, |overridden| overridden.most_weight(backend.weight));
        let load = self.loads.get(&TargetId::new(&service.name, &backend.name));
        let factor = load.map_or(WHOLE, |load| load.factor);
        product(
            decision.fraction,
            &[(*weight, most), (u32::from(factor), u32::from(WHOLE))],
        )
    }
}

/// A fraction of parts of wholes. Not nothing unless one of them is, however small.
fn product(fraction: u16, parts: &[(u32, u32)]) -> Share {
    let mut share = u64::from(fraction);
    for (part, whole) in parts {
        if *part == 0 {
            return Share::OUT;
        }
        if part < whole {
            share = share * u64::from(*part) / u64::from(*whole);
        }
    }
    Share(share.max(u64::from(fraction > 0)) as u16)
}

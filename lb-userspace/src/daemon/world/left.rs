//! What a daemon leaves the next one, besides what the tables tell.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{Agent, Load, World, remembers};
use crate::api;
use crate::health::{State as Health, TargetId};
use crate::model::{Backend, Service, Weights};
use crate::policy::{Mode, Now, Position, Way};

/// Of a service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Left {
    /// How it was served, if not as it should be.
    pub mode: Option<Mode>,
    /// Of whom something is to be remembered.
    pub backends: BTreeMap<String, LeftBackend>,
    /// Backends that were taken out of the configuration, and serve the flows that they have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub leaving: BTreeMap<String, Leaving>,
    /// Since when slots move away from a backend (its identity, in hexadecimal digits): milliseconds since this host was booted, as long as the
    /// tables live. Of several times the last.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub moving: BTreeMap<String, u64>,
}

/// A backend that was taken out of the configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Leaving {
    /// Where its packets go.
    pub address: IpAddr,
    /// How they go there.
    pub forward: api::types::Forward,
}

/// Of a backend.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeftBackend {
    /// Whose it is: another address is another server.
    pub address: IpAddr,
    /// Its checks have said that it is down.
    pub down: bool,
    /// It has been told that there is no way to it.
    pub away: bool,
    /// Where it is on its way.
    pub position: Option<Position>,
    /// What it said of its load, or how fast it answered.
    pub load: Option<Load>,
}

impl World {
    /// What is to be left, by service; `away` says of which addresses it has been told that there is no way to them.
    pub fn left(&self, away: impl Fn(IpAddr) -> bool, now: Now) -> BTreeMap<String, Left> {
        let of_service = |service: &Service| {
            let machine = self.machines.get(&service.name);
            let mut positions = machine.map_or_else(BTreeMap::new, |machine| machine.positions(service, now));
            let of_backend = |backend: &Backend| {
                let id = TargetId::new(&service.name, &backend.name);
                let left = LeftBackend {
                    address: backend.address,
                    down: service.health.is_some() && self.health.get(&id) == Some(&Health::Down),
                    away: away(backend.address),
                    position: positions.remove(&backend.name),
                    load: self.loads.get(&id).copied().filter(|load| *load != Load::default()),
                };
                let some = left.down || left.away || left.position.is_some() || left.load.is_some();
                some.then(|| (backend.name.clone(), left))
            };
            let backends: BTreeMap<_, _> = service.backends.iter().filter_map(of_backend).collect();
            let mode = self.decided(&service.name).map(|decided| decided.outcome.mode);
            let mode = mode.filter(|mode| !matches!(mode, Mode::Normal | Mode::Starting));
            let leaving = self.leaving(service.key()).iter();
            let leaving = leaving.map(|one| {
                let (address, forward) = (one.address, one.forward.into());
                (one.name.clone(), Leaving { address, forward })
            });
            let left = Left {
                mode,
                backends,
                leaving: leaving.collect(),
                moving: BTreeMap::new(),
            };
            (left != Left::default()).then(|| (service.name.clone(), left))
        };
        self.model.services.iter().filter_map(of_service).collect()
    }

    /// Takes over the backends that were taken out of a service under an earlier daemon; `serves` says which rows serve.
    pub fn resume_leaving(&mut self, name: &str, left: &Left, serves: impl Fn(&str) -> bool) {
        let Some(service) = self.service(name) else { return };
        let stays = |name: &str| service.backends.iter().any(|backend| backend.name == name);
        let leaving = left.leaving.iter().filter(|(name, _)| !stays(name) && serves(name));
        let leaving: Vec<Backend> = leaving
            .map(|(name, one)| Backend {
                name: name.clone(),
                address: one.address,
                weight: 0,
                forward: one.forward.into(),
                priority: 0,
                sorry: false,
            })
            .collect();
        if leaving.is_empty() || !remembers(service) {
            return;
        }
        let (key, service) = (service.key(), service.name.clone());
        let ids = leaving.iter().map(|backend| TargetId::new(&service, &backend.name));
        self.health.extend(ids.map(|id| (id, Health::Up)));
        self.leaving.insert(key, leaving);
    }

    /// Backends that count as up until their checks say otherwise, where an earlier daemon's tables serve and cannot be read: all that it did
    /// not leave as down. Packets would find no backend until the first checks have passed.
    pub fn assumed_up(&self, left: &BTreeMap<String, Left>) -> BTreeSet<TargetId> {
        let of_service = |service: &Service| {
            let left = left.get(&service.name);
            let known = |backend: &Backend| left.and_then(|left| left.backends.get(&backend.name));
            let down =
                |backend: &Backend| known(backend).is_some_and(|known| known.down && known.address == backend.address);
            let up = service.backends.iter().filter(|backend| !down(backend));
            up.map(|backend| TargetId::new(&service.name, &backend.name))
                .collect::<Vec<_>>()
        };
        let checked = self.model.services.iter().filter(|service| service.health.is_some());
        checked.flat_map(of_service).collect()
    }

    /// Takes over what an earlier daemon left of a service; `had` says who had slots.
    pub fn resume(&mut self, name: &str, left: &Left, had: impl Fn(&str) -> bool, now: Now) {
        let Some(service) = self.model.services.iter().find(|service| service.name == name) else {
            return;
        };
        let machine = self.machines.entry(service.name.clone()).or_default();
        machine.was(left.mode);
        for backend in &service.backends {
            let id = TargetId::new(&service.name, &backend.name);
            let left_of = left.backends.get(&backend.name);
            let known = left_of.filter(|known| known.address == backend.address);
            let position = known.and_then(|known| known.position.as_ref());
            let down = service.health.is_some() && known.is_some_and(|known| known.down);
            // In panic slots do not say that somebody is up.
            let on_its_way = matches!(
                position.and_then(|position| position.way),
                Some(Way::Falling | Way::Pending)
            );
            let forced = down && left.mode == Some(Mode::Panic) && !on_its_way;
            let had = had(&backend.name) && !forced;
            let goes = machine.resume(service, backend, position, had, now);
            // The tables are newer.
            let served = had || !forced && self.health.get(&id) == Some(&Health::Up);
            if goes || down && !served {
                self.health.insert(id.clone(), Health::Down);
            }
            let fits = |load: &Load| match service.policy.weights {
                Weights::Static => false,
                Weights::Latency => load.agent == Agent::Ready,
                Weights::Agent { .. } => true,
            };
            if let Some(load) = known.and_then(|known| known.load).filter(fits) {
                self.loads.insert(id, load);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::world;
    use super::*;
    use crate::api::events::EventKind;

    fn id(one: u8) -> TargetId {
        TargetId::new("web", &format!("b{one}"))
    }

    /// Another daemon's world after what the first one left, as from the file; those of `had` have slots. And what it tells at its start.
    fn next(first: &World, lines: &str, had: &[u8], now: Now) -> (World, Vec<EventKind>) {
        let text = serde_json::to_string(&first.left(|_| false, now)).expect("JSON");
        let left: BTreeMap<String, Left> = serde_json::from_str(&text).expect("the same");
        let (mut world, _) = world(lines, 3);
        world.machines.clear();
        world.health.clear();
        let names: Vec<String> = had.iter().map(|one| format!("b{one}")).collect();
        world.health.extend(had.iter().map(|one| (id(*one), Health::Up)));
        if let Some(left) = left.get("web") {
            world.resume("web", left, |name| names.iter().any(|had| had == name), now);
        }
        let changes = world.decide_all(now);
        (world, changes.into_iter().map(|(_, change)| change.kind).collect())
    }

    #[test]
    fn who_was_down_is_down_and_that_is_no_news() {
        let (mut first, now) = world("", 3);
        assert_eq!(first.left(|_| false, now), BTreeMap::new());
        first.health.insert(id(1), Health::Down);
        first.decide("web", now);
        let (second, told) = next(&first, "", &[2, 3], now);
        assert_eq!((second.health.get(&id(1)), told), (Some(&Health::Down), vec![]));
        // The tables are newer than the file.
        let (second, _) = next(&first, "", &[1, 2, 3], now);
        assert_eq!(second.health.get(&id(1)), Some(&Health::Up));
    }

    #[test]
    fn where_tables_cannot_be_read_who_was_not_down_is_up() {
        let (mut first, now) = world("", 3);
        first.health.insert(id(1), Health::Down);
        first.decide("web", now);
        let left = first.left(|_| false, now);
        let (mut second, _) = world("", 3);
        second.machines.clear();
        second.health.clear();
        let up = second.assumed_up(&left);
        assert_eq!(up, [id(2), id(3)].into());
        second.health.extend(up.into_iter().map(|id| (id, Health::Up)));
        second.resume("web", &left["web"], |_| false, now);
        second.decide_all(now);
        let service = second.service("web").expect("there");
        let shares: Vec<bool> = ["b1", "b2", "b3"]
            .iter()
            .map(|name| second.decision(service, name).expect("decided").fraction > 0)
            .collect();
        assert_eq!(shares, [false, true, true]);
        assert_eq!(second.assumed_up(&BTreeMap::new()).len(), 3);
    }

    #[test]
    fn panic_and_a_lost_service_are_told_once() {
        let panic = "panic_threshold = 0.5";
        for (lines, had, mode) in [(panic, &[1, 2, 3][..], Mode::Panic), ("", &[], Mode::Nobody)] {
            let (mut first, now) = world(lines, 3);
            first.health.extend((1..=3).map(|one| (id(one), Health::Down)));
            assert!(first.decide("web", now).len() >= 4);
            let (mut second, told) = next(&first, lines, had, now);
            assert_eq!(
                (told, second.decided("web").expect("decided").outcome.mode),
                (vec![], mode)
            );
            assert!((1..=3).all(|one| second.health.get(&id(one)) == Some(&Health::Down)));
            second.health.extend((1..=3).map(|one| (id(one), Health::Up)));
            let told: Vec<EventKind> = second
                .decide("web", now)
                .into_iter()
                .map(|change| change.kind)
                .collect();
            let over = if mode == Mode::Panic {
                EventKind::PanicOff
            } else {
                EventKind::ServiceBack
            };
            assert!(told.contains(&over), "{told:?}");
        }
    }

    #[test]
    fn what_waits_for_a_failovers_word_goes_on_waiting() {
        let manual = "failover = \"manual\"";
        let (mut first, now) = world(manual, 3);
        first.health.insert(id(1), Health::Down);
        first.decide("web", now);
        let (second, told) = next(&first, manual, &[1, 2, 3], now);
        assert_eq!((second.health.get(&id(1)), told), (Some(&Health::Down), vec![]));
        let service = second.service("web").expect("there");
        let decision = second.decision(service, "b1").expect("decided");
        assert_eq!(decision.standing, crate::policy::Standing::Pending);
    }

    #[test]
    fn what_an_agent_said_is_kept_for_the_same_server() {
        let agent = "weights = \"agent\"\nagent_port = 9";
        let (mut first, now) = world(agent, 3);
        let drain = Load {
            factor: 7,
            agent: Agent::Drain,
        };
        first.loads.insert(id(1), drain);
        first.decide("web", now);
        let (second, _) = next(&first, agent, &[2, 3], now);
        assert_eq!(second.loads.get(&id(1)), Some(&drain));
        let service = second.service("web").expect("there");
        assert_eq!(second.decision(service, "b1").expect("decided").fraction, 0);
        for lines in ["", "weights = \"latency\""] {
            assert_eq!(next(&first, lines, &[2, 3], now).0.loads.get(&id(1)), None);
        }
        first.model.services[0].backends[0].address = [10, 0, 0, 9].into();
        assert_eq!(next(&first, agent, &[2, 3], now).0.loads.get(&id(1)), None);
    }
}

//! Weights that follow load: from what backends say, and how fast they answer, to the share that they keep.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::Daemon;
use super::world::{Load, World};
use crate::api::events::{Cause, EventKind};
use crate::health::{Outcome, State as Health, TargetId};
use crate::journal::Note;
use crate::load::agent::{Report, Target, Word};
use crate::load::{by_latency, mean, toward};
use crate::model::{Service, Weights};
use crate::policy::WHOLE;

/// How often shares follow response times.
const PAUSE: Duration = Duration::from_secs(5);

/// Response times of the services whose weights follow them.
#[derive(Default)]
pub(super) struct Latencies {
    means: HashMap<TargetId, (Duration, Instant)>,
    last: Option<Instant>,
}

impl Daemon {
    /// Tells the agents' thread whom to ask.
    pub(super) fn follow_agents(&mut self) {
        let Some(agents) = &mut self.agents else { return };
        let mut targets = Vec::new();
        for service in &self.world.model.services {
            let Weights::Agent { port, interval } = service.policy.weights else {
                continue;
            };
            targets.extend(service.backends.iter().map(|backend| Target {
                id: TargetId::new(&service.name, &backend.name),
                address: SocketAddr::new(backend.address, port),
                interval,
            }));
        }
        let asked: HashMap<&TargetId, SocketAddr> = targets.iter().map(|target| (&target.id, target.address)).collect();
        self.silent_agents
            .retain(|id, (address, _)| asked.get(id) == Some(address));
        agents.set(targets);
    }

    /// Takes in what a backend says of itself, or that it says nothing.
    pub(super) fn note_word(&mut self, id: TargetId, word: Word) {
        let known = self.world.service(&id.service).is_some_and(|service| {
            matches!(service.policy.weights, Weights::Agent { .. })
                && service.backends.iter().any(|backend| backend.name == *id.backend)
        });
        if !known {
            return;
        }
        let before = self.world.loads.get(&id).copied().unwrap_or_default();
        let note = |kind| Note::new(kind, Cause::Load).backend(&id.service, &id.backend);
        match word {
            Word::Silent { address, why } => {
                let note = note(EventKind::AgentSilent).change("answers", "silent");
                if self.silent_agents.insert(id, (address, why.clone())).is_none() {
                    self.tell(note.because(format!("{why}; its last word holds: {}", words(before))));
                }
            }
            Word::Says(report) => {
                if self.silent_agents.remove(&id).is_some() {
                    self.tell(note(EventKind::AgentHeard).change("silent", "answers"));
                }
                self.set_load(id, before, reported(before, report));
            }
        }
    }

    /// Follows response times; called every second.
    pub(super) fn tend_latencies(&mut self) {
        let mut news = Vec::new();
        let follows = self
            .world
            .model
            .services
            .iter()
            .filter(|service| service.policy.weights == Weights::Latency);
        let latencies = &mut self.latencies;
        let due = latencies.last.is_none_or(|last| last.elapsed() >= PAUSE);
        if due {
            latencies.last = Some(Instant::now());
        }
        for service in follows {
            let ids: Vec<TargetId> = service
                .backends
                .iter()
                .map(|backend| TargetId::new(&service.name, &backend.name))
                .collect();
            for id in &ids {
                let last = self.checker.status(id).and_then(|status| status.last);
                let Some(last) = last.filter(|last| last.outcome == Outcome::Passed) else {
                    continue;
                };
                let before = latencies.means.get(id).copied();
                if before.is_none_or(|(_, at)| at < last.at) {
                    let mean = mean(before.map(|(mean, _)| mean), last.took);
                    latencies.means.insert(id.clone(), (mean, last.at));
                }
            }
            if !due {
                continue;
            }
            let Some(best) = fastest(&self.world, service, &latencies.means) else {
                continue;
            };
            for id in ids {
                let Some((mine, _)) = latencies.means.get(&id) else {
                    continue;
                };
                let before = self.world.loads.get(&id).copied().unwrap_or_default();
                let factor = toward(before.factor, by_latency(*mine, best));
                news.push((id, before, Load { factor, ..before }));
            }
        }
        for (id, before, after) in news {
            self.set_load(id, before, after);
        }
        let loads = &self.world.loads;
        self.latencies
            .means
            .retain(|id, (_, at)| loads.contains_key(id) || at.elapsed() < Duration::from_secs(3600));
    }

    fn set_load(&mut self, id: TargetId, before: Load, after: Load) {
        if before == after {
            return;
        }
        let note = Note::new(EventKind::BackendLoad, Cause::Load).backend(&id.service, &id.backend);
        self.tell(note.change(words(before), words(after)));
        self.stale.insert(id.service.to_string());
        self.world.loads.insert(id, after);
    }
}

/// For people: the share that is left, or the agent's word that leaves none.
fn words(load: Load) -> String {
    let percent = (u32::from(load.factor) * 100 + 32_000) / u32::from(WHOLE);
    match load.agent {
        super::world::Agent::Ready => format!("{percent} %"),
        other => format!("{other:?}").to_lowercase(),
    }
}

/// What follows from an answer. A share of 0 % ends new connections at once, as in HAProxy; others are gone to step by step.
fn reported(before: Load, report: Report) -> Load {
    let factor = match report.percent {
        None => before.factor,
        Some(0) => 0,
        Some(percent) => toward(before.factor, (u32::from(WHOLE) * u32::from(percent) / 100) as u16),
    };
    Load {
        factor,
        agent: report.word.unwrap_or(before.agent),
    }
}

/// The fastest of those that serve: how fast one was that is down now is no measure for the others.
fn fastest(world: &World, service: &Service, means: &HashMap<TargetId, (Duration, Instant)>) -> Option<Duration> {
    let serves = |name: &str| {
        let decision = world.decision(service, name);
        world.health_of(service, name) == Health::Up && decision.is_some_and(|decision| decision.fraction > 0)
    };
    let serving = service.backends.iter().filter(|backend| serves(&backend.name));
    let means = serving.filter_map(|backend| means.get(&TargetId::new(&service.name, &backend.name)));
    means.map(|(mean, _)| *mean).min()
}

#[cfg(test)]
mod tests {
    use super::super::world::{Agent, tests::world};
    use super::*;

    #[test]
    fn nothing_of_its_weight_is_no_new_connection() {
        let percent = |percent| Report {
            percent: Some(percent),
            word: None,
        };
        let idle = reported(Load::default(), percent(0));
        assert_eq!(
            idle,
            Load {
                factor: 0,
                agent: Agent::Ready
            }
        );
        let back = reported(idle, percent(50));
        assert!(back.factor > 0 && back.factor <= WHOLE / 10, "{back:?}");
        let word = Report {
            percent: None,
            word: Some(Agent::Drain),
        };
        assert_eq!(
            reported(idle, word),
            Load {
                factor: 0,
                agent: Agent::Drain
            }
        );
    }

    #[test]
    fn who_is_down_or_has_no_share_is_not_the_fastest() {
        let (mut world, now) = world("weights = \"latency\"", 3);
        let id = |one: u8| TargetId::new("web", &format!("b{one}"));
        let ms = Duration::from_millis;
        let means = [(id(1), ms(1)), (id(2), ms(20)), (id(3), ms(30))];
        let means: HashMap<_, _> = means.map(|(id, mean)| (id, (mean, now.instant))).into();
        let service = world.service("web").expect("there").clone();
        assert_eq!(fastest(&world, &service, &means), Some(ms(1)));
        world.health.insert(id(1), Health::Down);
        world.decide("web", now);
        assert_eq!(fastest(&world, &service, &means), Some(ms(20)));
        let idle = Load {
            factor: 0,
            agent: Agent::Ready,
        };
        world.loads.insert(id(2), idle);
        world.decide("web", now);
        assert_eq!(fastest(&world, &service, &means), Some(ms(30)));
        world.health.insert(id(3), Health::Down);
        world.decide("web", now);
        assert_eq!(fastest(&world, &service, &means), None);
    }
}

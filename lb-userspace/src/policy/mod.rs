//! Who of a service's backends serves: from what the checks and the operator say, by the service's policy. Pure.
//!
//! | module | what it does |
//! | --- | --- |
//! | `member` | one backend: going down and coming back, step by step; damping |
//! | `select` | of those that can serve, who does: tiers, panic, the last resort, the sorry backends |
//! | [`ramp`] | a weight on its way from one value to another |
//!
//! A [`Machine`] sees everything that is known of one service, and the time, and says for each backend which fraction of its share it
//! has, whether it serves the flows that it has, and where it stands. It never leaves a service without a backend while one
//! that the policy allows is up, and uses none that is down, except where the policy says so: in panic, while a gradual failover is
//! under way, and until a manual one is confirmed.

mod member;
pub mod ramp;
mod select;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use crate::api::events::EventKind;
use crate::api::types::Admin;
use crate::health::State as Health;
use crate::model::Service;
use member::Member;
use select::{Candidate, Selection};

pub use member::position::{Position, Way};
pub use select::Mode;

/// A whole share, in the unit of [`crate::ring::Share`].
pub const WHOLE: u16 = u16::MAX;

/// The time by both clocks: one that only goes on, and the one that people and restarts know.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// For what begins and ends while the daemon runs.
    pub instant: Instant,
    /// Milliseconds since 1970.
    pub unix_ms: u64,
}

/// What is known of one backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// What its checks say.
    pub health: Health,
    /// Whether there is a way to it.
    pub reachable: bool,
    /// What the operator says of it.
    pub admin: Admin,
    /// Whether its weight in force is above 0.
    pub weighted: bool,
    /// Whether it is down by its agent's word, whatever its checks say.
    pub by_agent: bool,
}

/// The policy's answer for one service.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// One for each backend of the service, in its order.
    pub backends: Vec<Decision>,
    /// How the service is served.
    pub mode: Mode,
    /// The priorities that serve, ascending; empty unless the mode is [`Mode::Normal`].
    pub tiers: Vec<u32>,
    /// What has changed since the last step.
    pub changes: Vec<Change>,
    /// When the answer may be another although nothing new is known.
    pub next: Option<Instant>,
}

/// The policy's answer for one backend.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Decision {
    /// The part of its share that it has, in 65,535ths.
    pub fraction: u16,
    /// Whether it serves the flows that it has.
    pub serves: bool,
    /// Where it stands.
    pub standing: Standing,
}

/// Where a backend stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Its checks have said nothing yet.
    Starting,
    /// It serves with its whole share.
    Serving,
    /// It is coming back.
    Rising,
    /// It is down, and its share goes to others step by step.
    Falling,
    /// It is down, and serves until an operator confirms the failover.
    Pending,
    /// It is down.
    Down,
    /// There is no way to it.
    Unreachable,
    /// It is up, and stays out because it changed too often.
    Damped {
        /// Until when, if it does not change again.
        until: Instant,
    },
    /// It is up, and not back yet.
    Waiting {
        /// Until when; nothing: until an operator confirms.
        until: Option<Instant>,
    },
    /// It is up, and other tiers serve.
    Standby,
    /// It is up, and serves only when nothing else is.
    Sorry,
    /// An operator lets it end its connections.
    Draining,
    /// An operator gives it no packets.
    Disabled,
    /// Its weight is 0.
    Weightless,
}

/// One change, for an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// What.
    pub kind: EventKind,
    /// The backend; nothing: the service.
    pub backend: Option<String>,
    /// What was.
    pub from: String,
    /// What is.
    pub to: String,
    /// Why.
    pub why: String,
}

/// What an operator confirms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confirm {
    /// That a backend that is down shall be out.
    Failover,
    /// That a backend that is up again shall serve.
    Failback,
}

/// The policy of one service at work.
#[derive(Clone, Debug, Default)]
pub struct Machine {
    members: HashMap<String, Member>,
    mode: Option<Mode>,
    tiers: Vec<u32>,
    /// Since when nobody serves because nothing is known yet.
    starting: Option<Instant>,
}

/// How long nothing may be known of a service's backends, besides the time that a probe may take, before it counts as lost.
const FIRST_WORD: Duration = Duration::from_secs(5);

impl Machine {
    /// Takes in what is known now. `seen` has one entry for each backend of the service, in its order.
    pub fn step(&mut self, service: &Service, seen: &[Seen], now: Instant) -> Outcome {
        let names: BTreeSet<&str> = service.backends.iter().map(|backend| backend.name.as_str()).collect();
        self.members.retain(|name, _| names.contains(name.as_str()));
        let mut changes = Vec::new();
        let mut next: Option<Instant> = None;
        // Where nobody serves, nobody has to be spared: the first ones come with their whole share.
        let served = self.members.values().any(Member::is_in);
        for (backend, seen) in service.backends.iter().zip(seen) {
            let member = self.members.entry(backend.name.clone()).or_default();
            let policy = policy_of(service, backend);
            member.advance(policy, seen, served, now, tell_of(&backend.name, &mut changes));
            let due = member.next(policy, seen, now);
            next = next.into_iter().chain(due).min();
        }
        let candidates: Vec<Candidate> = service
            .backends
            .iter()
            .zip(seen)
            .map(|(backend, seen)| self.candidate(backend, seen, service, now))
            .collect();
        let Selection { fractions, mode, tiers } = select::select(service, &candidates);
        if matches!(mode, Mode::LastResort | Mode::Sorry) {
            for backend in &service.backends {
                let member = self.members.entry(backend.name.clone()).or_default();
                member.give_way(tell_of(&backend.name, &mut changes));
            }
        }
        let (mode, patience) = self.patient(service, mode, &candidates, now);
        next = next.into_iter().chain(patience).min();
        self.tell(service, mode, &tiers, &candidates, &mut changes);
        let decisions = service.backends.iter().zip(seen).zip(&fractions);
        let decisions = decisions.map(|((backend, seen), fraction)| {
            let member = &self.members[&backend.name];
            let forced = *fraction > 0 && matches!(mode, Mode::Panic | Mode::LastResort);
            Decision {
                fraction: *fraction,
                serves: seen.reachable
                    && seen.admin != Admin::Disabled
                    && (seen.health == Health::Up || member.is_tolerated() || forced),
                standing: member.standing(backend.sorry, seen, *fraction, &service.policy, now),
            }
        });
        Outcome {
            backends: decisions.collect(),
            mode,
            tiers,
            changes,
            next,
        }
    }

    /// Does what an operator confirms, for one backend or all; returns whom it concerned. The next step shows what follows.
    pub fn confirm(&mut self, what: Confirm, backend: Option<&str>) -> Vec<String> {
        let concerned = self
            .members
            .iter_mut()
            .filter(|(name, _)| backend.is_none_or(|backend| backend == name.as_str()))
            .filter_map(|(name, member)| member.confirm(what).then(|| name.clone()));
        let mut concerned: Vec<String> = concerned.collect();
        concerned.sort();
        concerned
    }

    /// Notes that a backend was out when an earlier daemon stopped: it comes back as the policy says.
    pub fn was_out(&mut self, backend: &str, now: Instant) {
        self.members.insert(backend.to_owned(), Member::out(now));
    }

    /// Notes how an earlier daemon's service was served: what it has told of is not news.
    pub fn was(&mut self, mode: Option<Mode>) {
        self.mode = mode;
    }

    /// What the next daemon cannot know otherwise, by backend.
    pub fn positions(&self, service: &Service, now: Now) -> BTreeMap<String, Position> {
        let position = |backend: &crate::model::Backend| {
            let position = self
                .members
                .get(&backend.name)?
                .position(policy_of(service, backend), now)?;
            Some((backend.name.clone(), position))
        };
        service.backends.iter().filter_map(position).collect()
    }

    /// Takes over what an earlier daemon left of a backend, of which the tables say whether it `had` slots. Says whether it goes on its
    /// way down: then it is to be seen as down until its checks say otherwise.
    pub fn resume(
        &mut self,
        service: &Service,
        backend: &crate::model::Backend,
        position: Option<&Position>,
        had: bool,
        now: Now,
    ) -> bool {
        let member = self.members.entry(backend.name.clone()).or_default();
        member.resume(position, had, policy_of(service, backend), now)
    }

    fn candidate(&self, backend: &crate::model::Backend, seen: &Seen, service: &Service, now: Instant) -> Candidate {
        let member = &self.members[&backend.name];
        Candidate {
            usable: seen.reachable && seen.admin == Admin::Enabled && seen.weighted,
            counted: seen.admin == Admin::Enabled && seen.weighted,
            up: seen.health == Health::Up,
            starting: seen.health == Health::Starting,
            damped: member.is_held_out(),
            fraction: member.fraction(&service.policy, now),
            steady: member.is_steady(),
        }
    }

    /// What it means that nobody serves: that nothing is known yet, for a while at the beginning; then, and until somebody does, that the
    /// service is lost. And when that while is over.
    fn patient(
        &mut self,
        service: &Service,
        mode: Mode,
        candidates: &[Candidate],
        now: Instant,
    ) -> (Mode, Option<Instant>) {
        let fresh = matches!(self.mode, None | Some(Mode::Starting));
        let waits = match mode {
            Mode::Starting => !candidates.is_empty(),
            // Up as far as anybody knows, and the way is still looked for.
            Mode::Nobody => fresh && candidates.iter().any(|one| one.counted && one.up && !one.usable),
            _ => false,
        };
        if mode == Mode::Starting && self.mode == Some(Mode::Nobody) {
            return (Mode::Nobody, None);
        }
        if !waits {
            self.starting = None;
            return (mode, None);
        }
        let timeout = service.health.as_ref().map_or(Duration::ZERO, |health| health.timeout);
        let until = *self.starting.get_or_insert(now) + FIRST_WORD + timeout;
        if now < until {
            (Mode::Starting, Some(until))
        } else {
            (Mode::Nobody, None)
        }
    }

    /// What has changed for the service as a whole.
    fn tell(
        &mut self,
        service: &Service,
        mode: Mode,
        tiers: &[u32],
        candidates: &[Candidate],
        changes: &mut Vec<Change>,
    ) {
        let before = self.mode.replace(mode);
        if before != Some(mode) {
            let from = before.unwrap_or(Mode::Starting);
            let mut tell = |kind, why: String| {
                let (from, to) = (from.name().to_owned(), mode.name().to_owned());
                changes.push(Change {
                    kind,
                    backend: None,
                    from,
                    to,
                    why,
                });
            };
            match from {
                Mode::Panic => tell(EventKind::PanicOff, String::new()),
                Mode::Sorry => tell(EventKind::SorryOff, String::new()),
                Mode::Nobody => tell(EventKind::ServiceBack, String::new()),
                Mode::LastResort if mode == Mode::Normal => tell(EventKind::ServiceBack, String::new()),
                _ => {}
            }
            match mode {
                Mode::Panic => tell(EventKind::PanicOn, select::panic_reason(service, candidates)),
                Mode::Sorry => tell(EventKind::SorryOn, "no other backend is up".to_owned()),
                Mode::Nobody => {
                    let unknown = candidates
                        .iter()
                        .any(|one| one.counted && (one.starting || !one.usable));
                    let why = match from {
                        Mode::Starting if unknown => "no backend could be checked and reached so far",
                        _ => "no backend is up",
                    };
                    tell(EventKind::ServiceLost, format!("{why}: its packets are dropped"));
                }
                Mode::LastResort => tell(
                    EventKind::LastResort,
                    "no other backend is up: those that are held out serve".to_owned(),
                ),
                Mode::Normal | Mode::Starting => {}
            }
        }
        if mode == Mode::Normal && self.tiers != tiers {
            let spare = service
                .backends
                .iter()
                .any(|backend| backend.priority != service.backends[0].priority);
            if !self.tiers.is_empty() && spare {
                let names = |tiers: &[u32]| tiers.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
                changes.push(Change {
                    kind: EventKind::Tier,
                    backend: None,
                    from: names(&self.tiers),
                    to: names(tiers),
                    why: format!(
                        "priorities that serve, for at least {} to be up",
                        service.policy.min_healthy
                    ),
                });
            }
            self.tiers = tiers.to_vec();
        }
    }
}

/// Takes down what becomes of a backend.
fn tell_of(backend: &str, changes: &mut Vec<Change>) -> impl FnMut(EventKind, String, String, String) {
    |kind, from, to, why| {
        changes.push(Change {
            kind,
            backend: Some(backend.to_owned()),
            from,
            to,
            why,
        });
    }
}

fn policy_of<'s>(service: &'s Service, backend: &crate::model::Backend) -> &'s crate::model::Policy {
    if backend.sorry { &SORRY } else { &service.policy }
}

/// Sorry backends are there at once, whatever the policy of the others.
static SORRY: crate::model::Policy = crate::model::Policy {
    failover: crate::model::Failover::Fast,
    failback: crate::model::Failback::Auto,
    slow_start: Duration::ZERO,
    min_healthy: 1,
    panic_threshold: 0,
    damping: None,
    weights: crate::model::Weights::Static,
};

//! What the policies do that people should know: modes, tiers, who is held out, who waits for a word.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use super::Daemon;
use super::answers::unix_ms_of;
use super::configure::unix_ms;
use crate::api::types::{Admin, ServiceMode, Standing, StandingState};
use crate::health::{Outcome, TargetId};
use crate::model::{Backend, Forward, Service, Weights, identity};
use crate::policy::{self, Mode, WHOLE};

/// Services that a node's status speaks of one by one.
const SERVICES: usize = 20;
/// Reasons for skipped checks that it names.
const REASONS: usize = 5;
/// So many skipped probes are worth a line: one may be by chance.
const SKIPS: u64 = 3;

impl Daemon {
    /// What is unusual on this node, service by service.
    pub(super) fn unusual(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let mut more = 0;
        for service in &self.world.model.services {
            let of_service = self.unusual_of(service);
            if lines.len() < SERVICES {
                lines.extend(
                    of_service
                        .into_iter()
                        .map(|line| format!("service {}: {line}", service.name)),
                );
            } else {
                more += usize::from(!of_service.is_empty());
            }
        }
        if more > 0 {
            lines.push(format!(
                "{more} more services are not served as they should be: `lbctl service list`"
            ));
        }
        lines.extend(self.skipped());
        if let Some(late) = self.checker.behind() {
            let late = late.as_secs_f64();
            lines.push(format!(
                "health checks begin late, by {late:.1} s: this host cannot make as many as its services ask for, and finds dead backends later"
            ));
        }
        lines
    }

    /// Checks that cannot be made, by reason.
    fn skipped(&self) -> Vec<String> {
        let mut reasons: BTreeMap<Arc<str>, (usize, TargetId)> = BTreeMap::new();
        for status in self.checker.snapshot() {
            let last = status.last.filter(|last| last.outcome == Outcome::Skipped);
            if let Some(last) = last.filter(|_| status.skipped >= SKIPS) {
                reasons.entry(last.text).or_insert((0, status.id)).0 += 1;
            }
        }
        if let Some(problem) = self.paths.problem() {
            // Said of the node.
            reasons.retain(|reason, _| !reason.contains(problem));
        }
        let line = |(reason, (count, id)): (&Arc<str>, &(usize, TargetId))| {
            let more = and_more(count - 1);
            format!(
                "service {}: backend {}{more} cannot be checked, verdicts stay as they are: {reason}",
                id.service, id.backend
            )
        };
        let mut lines: Vec<String> = reasons.iter().take(REASONS).map(line).collect();
        if reasons.len() > REASONS {
            let more = reasons.len() - REASONS;
            lines.push(format!(
                "checks cannot be made for {more} more reasons: `lbctl service show`"
            ));
        }
        lines
    }

    /// What is unusual in one service.
    pub(super) fn unusual_of(&self, service: &Service) -> Vec<String> {
        let Some(decided) = self.world.decided(&service.name) else {
            return Vec::new();
        };
        let outcome = &decided.outcome;
        let mut lines = Vec::new();
        match outcome.mode {
            Mode::Panic => {
                lines.push("PANIC: too few backends are healthy, so all are used whatever their checks say".to_owned())
            }
            Mode::LastResort => {
                lines.push("LAST RESORT: only backends that are held out are up, and they serve".to_owned())
            }
            Mode::Sorry => lines.push("SORRY: no backend is up, the sorry backends serve".to_owned()),
            Mode::Nobody if !service.backends.is_empty() => {
                lines.push("no backend serves: its packets are dropped".to_owned());
            }
            Mode::Nobody | Mode::Normal | Mode::Starting => {}
        }
        let first = service
            .backends
            .iter()
            .filter(|backend| !backend.sorry)
            .map(|backend| backend.priority)
            .min();
        if outcome.mode == Mode::Normal && outcome.tiers.first().copied() != first || outcome.tiers.len() > 1 {
            let tiers: Vec<String> = outcome.tiers.iter().map(u32::to_string).collect();
            lines.push(format!(
                "backends of priority {} serve: too few of the first are up",
                tiers.join(", ")
            ));
        }
        let named = |wanted: fn(&policy::Standing) -> bool| {
            let backends = service.backends.iter().zip(&outcome.backends);
            let names = backends
                .filter(|(_, decision)| wanted(&decision.standing))
                .map(|(backend, _)| backend.name.as_str());
            names.collect::<Vec<_>>().join(", ")
        };
        let pending = named(|standing| *standing == policy::Standing::Pending);
        if !pending.is_empty() {
            let name = &service.name;
            lines.push(format!(
                "{pending}: down and serving until you confirm with `lbctl failover {name}`"
            ));
        }
        let waiting = named(|standing| matches!(standing, policy::Standing::Waiting { until: None }));
        if !waiting.is_empty() {
            let name = &service.name;
            lines.push(format!(
                "{waiting}: up and out until you confirm with `lbctl failback {name}`"
            ));
        }
        let damped = named(|standing| matches!(standing, policy::Standing::Damped { .. }));
        if !damped.is_empty() {
            lines.push(format!("{damped}: up and held out, after changing too often"));
        }
        lines.extend(self.without_source_of(service));
        lines.extend(self.silent_agents_of(service));
        lines.extend(self.misfit(service));
        lines.extend(self.leaving_of(service));
        lines
    }

    /// Backends that no tunnel can lead to for want of a source address, in a line.
    fn without_source_of(&self, service: &Service) -> Option<String> {
        let lacks = |backend: &&Backend| match self.world.way(backend.address) {
            Some(Ok(way)) => backend.forward == Forward::Ipip && way.preferred_source.is_none(),
            Some(Err(unreachable)) => unreachable.is_about_the_source(),
            None => false,
        };
        let mut lacking = service.backends.iter().filter(lacks);
        let first = lacking.next()?;
        let why = self.world.backend_now(service, first).err()?;
        Some(format!("{}{}: {why}", first.name, and_more(lacking.count())))
    }

    /// Backends that were taken out of the configuration and are not gone yet, in a line.
    fn leaving_of(&self, service: &Service) -> Option<String> {
        let leaving = self.world.leaving(service.key());
        let first = leaving.first()?;
        let flows = |backend: &Backend| self.transitions.remembered_of(service.key(), identity(&backend.name));
        let remembered: u64 = leaving.iter().map(flows).sum();
        Some(format!(
            "{}{}: taken out of the configuration, still served for the connections that are open ({remembered} remembered); new tables or `lbd detach` would end these",
            first.name,
            and_more(leaving.len() - 1)
        ))
    }

    /// Agents that do not answer, in a line.
    fn silent_agents_of(&self, service: &Service) -> Option<String> {
        if self.silent_agents.is_empty() {
            return None;
        }
        let silent = |backend: &Backend| {
            let id = TargetId::new(&service.name, &backend.name);
            Some((id.backend.clone(), &self.silent_agents.get(&id)?.1))
        };
        let mut silent = service.backends.iter().filter_map(silent);
        let (first, why) = silent.next()?;
        let more = and_more(silent.count());
        Some(format!(
            "{first}{more}: agents do not answer, what they said last holds: {why}"
        ))
    }

    /// How a service is served.
    pub(super) fn mode_of(&self, service: &str) -> ServiceMode {
        let decided = self.world.decided(service);
        decided.map_or(ServiceMode::Starting, |decided| decided.outcome.mode.into())
    }

    /// Where a backend stands.
    pub(super) fn standing(&self, service: &Service, backend: &Backend) -> Standing {
        let overridden = self.world.overridden(&service.name, &backend.name);
        let Some(decision) = self.world.decision(service, &backend.name) else {
            return Standing {
                state: StandingState::Starting,
                until_unix_ms: None,
            };
        };
        let until_unix_ms = match decision.standing {
            policy::Standing::Damped { until } | policy::Standing::Waiting { until: Some(until) } => {
                Some(unix_ms_at(until))
            }
            policy::Standing::Draining => overridden
                .filter(|one| one.admin == Some(Admin::Draining))
                .and_then(|one| one.drain_until_unix_ms),
            _ => None,
        };
        Standing {
            state: StandingState::from(&decision.standing),
            until_unix_ms,
        }
    }

    /// The part of its weight that a backend's load leaves it.
    pub(super) fn load_of(&self, service: &Service, backend: &Backend) -> Option<f64> {
        if service.policy.weights == Weights::Static {
            return None;
        }
        let load = self.world.loads.get(&TargetId::new(&service.name, &backend.name));
        let factor = load.map_or(WHOLE, |load| load.factor);
        Some((f64::from(factor) / f64::from(WHOLE) * 1000.0).round() / 1000.0)
    }
}

/// A time to come by the clock of the wall.
fn unix_ms_at(instant: Instant) -> u64 {
    match instant.checked_duration_since(Instant::now()) {
        Some(left) => unix_ms() + u64::try_from(left.as_millis()).unwrap_or(0),
        None => unix_ms_of(instant),
    }
}

/// What follows the first of some: nothing, or ` and 3 more`.
fn and_more(more: usize) -> String {
    match more {
        0 => String::new(),
        more => format!(" and {more} more"),
    }
}

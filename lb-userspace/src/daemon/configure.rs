//! Another configuration: what it would change, and making it the one in force, wholly or not at all.

use std::collections::{BTreeMap, HashSet};
use std::time::{SystemTime, UNIX_EPOCH};

use lb_common::map::ServiceKey;
use tracing::{error, info, warn};

use super::Daemon;
use super::accepted::Accepted;
use super::ahead::{Purpose, Ready, Understood};
use super::state::State;
use super::sweep::tag;
use super::trouble::Topic;
use super::world::World;
use super::{inputs, offloads};
use crate::api::error::{ApiError, ErrorKind};
use crate::api::events::{Cause, EventKind};
use crate::api::report::{ApplyReport, Finding, PlanReport};
use crate::api::types::{Acceptance, Admin, ConfigSource};
use crate::config::{ConfigError, finding};
use crate::fit;
use crate::journal::Note;
use crate::model::{Model, Service};
use crate::netlink::Watcher;
use crate::plan::{Plan, Scope, WantedService, Write};
use crate::policy::Change;

mod diff;

/// A configuration that was understood, and what it comes to.
struct Candidate {
    world: World,
    wanted: Vec<WantedService>,
    /// Nothing: the tables must be made anew.
    plan: Option<Plan>,
    warnings: Vec<ConfigError>,
    /// What the policies make of it.
    changes: Vec<(String, Change)>,
}

impl Daemon {
    /// Shows what a configuration would change, or makes it the one in force.
    pub(super) async fn take_config(&mut self, ready: Ready) {
        self.check_interfaces().await;
        // What is compared with must not be older than what was told.
        self.converge();
        let Ready {
            purpose,
            file,
            toml,
            own_file,
            read,
        } = ready;
        let text = toml.as_deref().unwrap_or_default();
        match purpose {
            Purpose::Plan(answer) => {
                let candidate = read.and_then(|understood| self.candidate(understood));
                answer.send(candidate.map(|candidate| self.report(&candidate)));
            }
            Purpose::Apply(answer) => {
                let from = Origin {
                    file,
                    own_file,
                    by: Acceptance::Apply,
                };
                answer.send(self.apply_config(text, from, read).await);
            }
            Purpose::Reload(answer) => {
                let name = file.clone().unwrap_or_default();
                let from = Origin {
                    file,
                    own_file,
                    by: Acceptance::Reload,
                };
                let done = self.apply_config(text, from, read).await;
                if let Err(refused) = &done {
                    error!(file = name, error = %refused, "the file was not accepted; the configuration before stays");
                    for finding in &refused.details {
                        error!("{name}:{}: {}", place(finding), finding.message);
                    }
                    self.source.problem = Some(format!("{}: the configuration before stays", first_of(&name, refused)));
                }
                if let Some(answer) = answer {
                    answer.send(done);
                }
            }
        }
    }

    /// Makes a configuration the one in force. On an error, the one before is.
    async fn apply_config(
        &mut self,
        toml: &str,
        from: Origin,
        read: Result<Understood, ApiError>,
    ) -> Result<ApplyReport, ApiError> {
        let cause = if from.by == Acceptance::Apply {
            Cause::Operator
        } else {
            Cause::File
        };
        let name = from.file.clone().unwrap_or_else(|| "standard input".to_owned());
        let done = match read {
            Ok(understood) => self.try_config(toml, from, understood).await,
            Err(error) => Err(error),
        };
        match &done {
            Ok(report) => {
                let note = Note::new(EventKind::ConfigApplied, cause);
                let (before, after) = (report.generation.saturating_sub(1), report.generation);
                self.tell(note.change(before, after).because(name));
                self.remind_of_detached(cause);
            }
            Err(refused) => self.tell(Note::new(EventKind::ConfigRefused, cause).because(first_of(&name, refused))),
        }
        done
    }

    async fn try_config(
        &mut self,
        toml: &str,
        Origin { file, own_file, by }: Origin,
        understood: Understood,
    ) -> Result<ApplyReport, ApiError> {
        let asked = understood.asked;
        let candidate = self.candidate(understood)?;
        let report = self.report(&candidate);
        let accepted_unix_ms = unix_ms();
        let accepted = Accepted {
            toml: toml.to_owned(),
            file: file.clone(),
            by,
            accepted_unix_ms,
            own_file,
        };
        let state = State {
            overrides: candidate.world.overrides.clone(),
        };
        // Kept before the kernel knows: what was accepted must not be lost, and what cannot be kept is not accepted.
        if let Err(error) = self.record.save(&accepted).and_then(|()| self.store.save(&state)) {
            self.keep_as_before();
            return Err(refused(error));
        }
        let Candidate {
            world,
            wanted,
            plan,
            warnings,
            changes,
        } = candidate;
        if let Err(error) = self.bring_to_kernel(&world.model, &wanted, plan.as_ref()).await {
            self.keep_as_before();
            return Err(error);
        }
        let resized = self.world.model.services.iter().filter(|before| {
            let now = world.service(&before.name);
            now.is_some_and(|now| now.ring_size != before.ring_size)
        });
        let resized = resized.map(|service| service.key());
        let moved = plan.iter().flat_map(|plan| plan.moved.iter().map(|(key, _)| *key));
        let changed: HashSet<ServiceKey> = moved.chain(resized).collect();
        self.state = state;
        self.accepted = accepted;
        let gateway_changed = self.world.model.node.gateway_mac != world.model.node.gateway_mac;
        let new = world
            .model
            .services
            .iter()
            .filter(|service| self.world.service(&service.name).is_none());
        let new: Vec<String> = new.map(|service| service.name.clone()).collect();
        new.into_iter().for_each(|name| self.hold(name));
        self.world = world;
        self.positions.stale = true;
        if !self.kernel.allow_redirects(&wanted).is_empty() {
            // Who is behind such an interface is found, and put out, when all services are decided anew.
            let all = self.world.model.services.iter();
            self.stale.extend(all.map(|service| service.name.clone()));
        }
        if let Some(alerts) = &mut self.alerts {
            for (name, waiting) in alerts.set(&self.world.model.alerts) {
                let note = Note::new(EventKind::AlertsLost, Cause::Operator);
                self.tell(note.because(format!(
                    "alert {name:?} is removed; events that waited for it: {waiting}"
                )));
            }
        }
        for (service, change) in changes {
            self.tell_changes(&service, vec![change]);
        }
        self.transitions.forget_unnamed();
        self.transitions.services = self.world.model.services.iter().map(|service| service.key()).collect();
        self.note_slots(&changed);
        if gateway_changed {
            match Watcher::start(self.ways.clone(), self.world.model.node.gateway_mac) {
                Ok(watcher) => {
                    inputs::watch_addresses(watcher.addresses(), &self.events);
                    self.watcher = watcher;
                    self.troubles.set(Topic::Watcher, None);
                }
                Err(error) => {
                    let line = format!("next hops are followed with the earlier gateway_mac, restart lbd: {error}");
                    error!("{line}");
                    self.troubles.set(Topic::Watcher, Some(line));
                }
            }
        }
        self.follow();
        self.follow_agents();
        self.source = ConfigSource {
            file,
            accepted_unix_ms,
            by,
            problem: None,
        };
        self.config_warnings = warnings.iter().map(|warning| warning.headline().to_string()).collect();
        self.check_interfaces().await;
        self.check_offloads();
        let generation = self.kernel.next_generation().map_err(internal)?;
        let took_ms = u64::try_from(asked.elapsed().as_millis()).unwrap_or(u64::MAX);
        info!(
            generation,
            took_ms,
            services = self.world.model.services.len(),
            "configuration in force"
        );
        Ok(ApplyReport {
            generation,
            took_ms,
            plan: report,
            detached: self.attached.detached(),
        })
    }

    /// Keeps the configuration in force and its overrides again, after another one was refused. On the disk before the refusal is answered: a
    /// daemon that is killed then would start with what was refused, and have no last good one.
    fn keep_as_before(&self) {
        let kept = self
            .record
            .save(&self.accepted)
            .and_then(|()| self.store.save(&self.state));
        if kept.is_err() {
            self.record.save_later(self.accepted.clone());
            self.store.save_later(self.state.clone());
        }
    }

    fn candidate(&self, understood: Understood) -> Result<Candidate, ApiError> {
        let Understood { parsed, rings, .. } = understood;
        let mut world = self.world.clone();
        world.have_rings(rings);
        world.replace_model(parsed.model);
        world.interfaces = Vec::new();
        let awaited = self.attached.awaited();
        for interface in &world.model.node.interfaces {
            let known = self.world.model.node.interfaces.contains(interface);
            if !known || self.world.model.node.offloads != world.model.node.offloads {
                let policy = world.model.node.offloads;
                for device in offloads::devices(&self.links, std::slice::from_ref(interface)) {
                    offloads::allow(&device, policy).map_err(refused)?;
                }
            }
            let held = self.kernel.attachment(interface).map(|attachment| attachment.ifindex);
            match nix::net::if_::if_nametoindex(interface.as_str()) {
                Ok(index) => world.interfaces.push(index),
                // Known to be missing: the rest of the configuration need not wait for it.
                Err(_) if awaited.contains(interface) => world.interfaces.extend(held),
                Err(_) => {
                    return Err(refused(format!(
                        "node.interfaces: this host has no interface {interface:?}; see `ip link`"
                    )));
                }
            }
        }
        let changes = world.decide_all(super::now());
        let mut wanted = world.wanted_all();
        let plan = if self.kernel.needs_reload(&world.model) {
            None
        } else {
            // On an error what is left is in pieces, but it fits into new tables: the file was checked against their length.
            self.kernel.plan(&wanted, Scope::Everything).ok()
        };
        if plan.is_none() {
            // New tables remember no flow of those that left, and the file alone is sure to fit.
            world.dismiss_all();
            wanted = world.wanted_all();
        }
        Ok(Candidate {
            world,
            wanted,
            plan,
            warnings: parsed.warnings,
            changes,
        })
    }

    async fn bring_to_kernel(
        &mut self,
        model: &Model,
        wanted: &[WantedService],
        plan: Option<&Plan>,
    ) -> Result<(), ApiError> {
        let awaited = self.attached.awaited();
        let Some(plan) = plan else {
            warn!("the tables are made anew: another seed, other capacities, or no room left in the present ones");
            return self.kernel.reload(model, wanted, &awaited).await.map_err(refused);
        };
        let node = &self.world.model.node;
        if model.node.interfaces != node.interfaces || model.node.xdp_mode != node.xdp_mode {
            self.kernel
                .attach(&model.node.interfaces, model.node.xdp_mode, &awaited)
                .await
                .map_err(refused)?;
        }
        self.kernel.allow_redirects(wanted);
        self.kernel.apply(plan).map_err(internal)
    }

    fn report(&self, candidate: &Candidate) -> PlanReport {
        let mut writes = BTreeMap::new();
        let mut count = |what: &str, n: usize| *writes.entry(what.to_owned()).or_insert(0) += n as u64;
        let mut services = HashSet::new();
        for write in candidate.plan.iter().flat_map(|plan| &plan.writes) {
            match write {
                Write::FillRow { .. } | Write::SetRewrite { .. } | Write::SetLife { .. } | Write::FreeRow { .. } => {
                    count("backends", 1)
                }
                Write::FillRing { slots, .. } => count("ring slots", slots.len()),
                Write::SetSlots { slots } => count("ring slots", slots.len()),
                Write::Insert { place, .. }
                | Write::Remove { place }
                | Write::SetBases { place, .. }
                | Write::SetRingSize { place, .. }
                | Write::SetRooms { place, .. }
                | Write::SetFlags { place, .. } => {
                    if services.insert(*place) {
                        count("services", 1);
                    }
                }
                Write::SetOverflow { .. } | Write::SetNextLife { .. } | Write::Grace => {}
            }
        }
        if candidate.plan.is_none() {
            count("services", candidate.wanted.len());
            count(
                "backends",
                candidate.wanted.iter().map(|service| service.backends.len()).sum(),
            );
            count(
                "ring slots",
                candidate.wanted.iter().map(|service| service.owners.len()).sum(),
            );
        }
        PlanReport {
            changes: diff::changes(&self.world.model, &candidate.world.model),
            rings: diff::rings(&self.world, &candidate.world, |service, backend| {
                self.rates.of(service, backend).packets_per_second
            }),
            writes,
            warnings: candidate
                .warnings
                .iter()
                .map(finding)
                .chain(fit::warnings(&candidate.world.model))
                .collect(),
            disruptions: self.disruptions(candidate),
        }
    }

    /// Changes that break nearly all connections of a service, or those of slots that move. How many are open is not known: a slot at rest keeps no flow. What is known
    /// is said, packets per second and remembered flows.
    fn disruptions(&self, candidate: &Candidate) -> Vec<String> {
        let known = |service: &Service| {
            let remembered = self.remembered(service);
            let rate = self.rate_of(service).packets_per_second;
            format!(
                "{rate:.0} packets/s now; {remembered} flows are remembered, and those of slots at rest are not counted"
            )
        };
        let mut lines = Vec::new();
        for (service, changes) in diff::disruptions(&self.world.model, &candidate.world.model) {
            lines.push(format!(
                "service {:?}: {} sends nearly every open connection to another backend, which breaks it: {}",
                service.name,
                changes.join(", "),
                known(service)
            ));
        }
        if candidate.plan.is_none() {
            // Slots that move or have moved lead their flows by what is remembered, and new tables remember nothing.
            let stays = |service: &&Service| {
                let mut after = candidate.world.model.services.iter();
                after.any(|one| one.key() == service.key())
            };
            let in_motion = |service: &&Service| {
                let overrides = self.world.overrides.get(&service.name).into_iter().flatten();
                let draining = overrides
                    .map(|(_, one)| one.admin)
                    .any(|admin| admin == Some(Admin::Draining));
                draining || !self.world.leaving(service.key()).is_empty() || self.remembered(service) > 0
            };
            let services = self.world.model.services.iter().filter(stays).filter(in_motion);
            lines.extend(services.map(|service| {
                format!(
                    "service {:?}: the tables are made anew, which breaks connections at backends that drain or were removed, and those \
                     of slots that moved: {}",
                    service.name,
                    known(service)
                )
            }));
        }
        lines
    }

    /// How many of a service's flows are remembered.
    fn remembered(&self, service: &Service) -> u64 {
        let remembered = self.transitions.remembered.get(&tag(service.key()));
        remembered.copied().unwrap_or(0)
    }
}

/// Where a configuration comes from.
struct Origin {
    /// The file's name; nothing: a pipe.
    file: Option<String>,
    /// Hash of the file named on the command line, taken when this one was read.
    own_file: Option<u64>,
    by: Acceptance,
}

/// A refusal with the first of its errors.
fn first_of(name: &str, refused: &ApiError) -> String {
    match refused.details.first() {
        Some(first) => format!("{refused}, the first is {name}:{}: {}", place(first), first.message),
        None => refused.to_string(),
    }
}

fn place(finding: &Finding) -> String {
    match (finding.line, finding.column) {
        (Some(line), Some(column)) => format!("{line}:{column}"),
        _ => "file".to_owned(),
    }
}

pub(super) fn refused(error: impl std::fmt::Display) -> ApiError {
    ApiError::new(ErrorKind::Refused, format!("{error}; nothing was changed"))
}

pub(super) fn internal(error: impl std::fmt::Display) -> ApiError {
    ApiError::new(ErrorKind::Internal, error.to_string())
}

/// Milliseconds since 1970.
pub(super) fn unix_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

//! What the tables may and must say, worked out anew from what has happened: from probes' results, the operator's words, the ways and
//! the file, and not from what the policies decided.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::Instant;

use lb_common::encap;
use lb_common::map::{NOBODY, Rewrite};
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use super::stage::{OWN_MAC, Stage, mac};
use crate::api::report::BackendAction;
use crate::api::types::Admin;
use crate::daemon::world::{Agent, World};
use crate::health::{Outcome, State as Health, TargetId};
use crate::model::{Backend, Failover, Service, identity};
use crate::plan::layout::Layout;
use crate::policy::{Confirm, Mode, Now};

const RISE: u32 = 2;
const FALL: u32 = 3;

/// Service and backend.
type Name = (String, String);

#[derive(Default)]
pub(super) struct Oracle {
    /// What the probes of an address come to. Of services without checks all are up.
    verdicts: HashMap<(String, String, IpAddr), Verdict>,
    admin: HashMap<Name, (Admin, Option<u64>)>,
    /// Who may serve on although he is down: by name, since when.
    excused: HashMap<Name, Instant>,
    /// How each was when last looked at.
    seen: HashMap<Name, Health>,
    had_checks: HashMap<String, bool>,
    /// Where there is a way to.
    ways: BTreeSet<IpAddr>,
    /// When the file was last read.
    reloaded: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Verdict {
    health: Health,
    run: u32,
}

/// What a backend may do.
struct May {
    /// New flows, if it is up.
    get: bool,
    /// The flows that it has, if it is up.
    keep: bool,
    health: Health,
    /// It may although it is down.
    excused: bool,
}

impl Verdict {
    const fn new(health: Health) -> Self {
        Self { health, run: 0 }
    }

    fn take(&mut self, how: Outcome) {
        let (to, needed) = match (self.health, how) {
            (_, Outcome::Skipped) => return,
            (Health::Starting, Outcome::Passed) => (Health::Up, 1),
            (Health::Starting, Outcome::Failed) => (Health::Down, 1),
            (Health::Up, Outcome::Failed) => (Health::Down, FALL),
            (Health::Down, Outcome::Passed) => (Health::Up, RISE),
            _ => return self.run = 0,
        };
        self.run += 1;
        if self.run == needed {
            *self = Self::new(to);
        }
    }
}

fn name(service: &str, backend: &str) -> Name {
    (service.to_owned(), backend.to_owned())
}

impl Oracle {
    pub(super) fn probed(&mut self, service: &str, address: IpAddr, how: Outcome) {
        for ((of, _, at), verdict) in &mut self.verdicts {
            if of == service && *at == address {
                verdict.take(how);
            }
        }
    }

    pub(super) fn way(&mut self, address: IpAddr, there: bool) {
        if there {
            self.ways.insert(address);
        } else {
            self.ways.remove(&address);
        }
    }

    pub(super) fn said(&mut self, service: &str, backend: &str, action: BackendAction, now: u64) {
        let name = name(service, backend);
        match action {
            BackendAction::Drain { timeout_ms } => {
                let until = timeout_ms.map(|timeout| now + timeout);
                self.admin.insert(name, (Admin::Draining, until));
            }
            BackendAction::Disable => drop(self.admin.insert(name, (Admin::Disabled, None))),
            BackendAction::Enable | BackendAction::Reset => drop(self.admin.remove(&name)),
            BackendAction::Weight { .. } => {}
        }
    }

    pub(super) fn tick(&mut self, now: u64) {
        for (admin, until) in self.admin.values_mut() {
            if until.is_some_and(|until| until <= now) {
                (*admin, *until) = (Admin::Disabled, None);
            }
        }
    }

    pub(super) fn confirmed(&mut self, service: &str, what: Confirm, backend: Option<&str>) {
        if what == Confirm::Failover {
            self.excused
                .retain(|(of, one), _| of != service || backend.is_some_and(|backend| backend != one));
        }
    }

    /// Before another file.
    pub(super) fn before(&mut self, world: &World) {
        let services = world.model.services.iter();
        self.had_checks = services.map(|one| (one.name.clone(), one.health.is_some())).collect();
    }

    /// With another file: a verdict is about a name and an address, and without checks everybody is up.
    pub(super) fn after(&mut self, world: &World, now: Now) {
        self.reloaded = Some(now.instant);
        let addresses = world.addresses();
        self.ways.retain(|address| addresses.contains(address));
        let before = std::mem::take(&mut self.verdicts);
        let mut configured = BTreeSet::new();
        for service in &world.model.services {
            let had_checks = self.had_checks.get(&service.name).copied().unwrap_or(false);
            for backend in world.served(service) {
                let key = (service.name.clone(), backend.name.clone(), backend.address);
                let verdict = match before.get(&key) {
                    _ if service.health.is_none() => Verdict::new(Health::Up),
                    Some(verdict) if had_checks => *verdict,
                    Some(_) => Verdict::new(Health::Up),
                    None => Verdict::new(Health::Starting),
                };
                self.verdicts.insert(key, verdict);
            }
            configured.extend(service.backends.iter().map(|one| name(&service.name, &one.name)));
        }
        self.admin.retain(|name, _| configured.contains(name));
        self.excused.retain(|name, _| configured.contains(name));
        self.seen.retain(|name, _| configured.contains(name));
    }

    /// Some that had left were let go.
    pub(super) fn dismissed(&mut self, world: &World) {
        self.verdicts.retain(|(of, one, _), _| {
            let service = world.service(of);
            service.is_some_and(|service| world.served(service).any(|known| known.name == *one))
        });
    }

    /// Looks at a service when its policy does: who goes down while he serves may be excused.
    pub(super) fn observe(&mut self, world: &World, service: &Service, now: Now) {
        for backend in &service.backends {
            let name = name(&service.name, &backend.name);
            let health = self.health(world, service, backend);
            let before = self.seen.insert(name.clone(), health);
            if health == Health::Down && before == Some(Health::Up) {
                self.excused.insert(name.clone(), now.instant);
            }
            let there = self.ways.contains(&backend.address);
            if health != Health::Down || !there || backend.sorry || !self.is_excused(service, &name, now) {
                self.excused.remove(&name);
            }
        }
    }

    /// Whether the policy's patience with one who went down is not at its end.
    fn is_excused(&self, service: &Service, name: &Name, now: Now) -> bool {
        let Some(since) = self.excused.get(name).copied() else {
            return false;
        };
        match service.policy.failover {
            Failover::Fast => false,
            Failover::Manual => true,
            Failover::Gradual { over } => Some(since)
                .max(self.reloaded)
                .is_some_and(|since| now.instant < since + over),
        }
    }

    fn health(&self, world: &World, service: &Service, backend: &Backend) -> Health {
        let load = world.loads.get(&TargetId::new(&service.name, &backend.name));
        if load.is_some_and(|load| load.agent == Agent::Down) {
            return Health::Down;
        }
        let key = (service.name.clone(), backend.name.clone(), backend.address);
        self.verdicts[&key].health
    }

    fn may(&self, world: &World, service: &Service, backend: &Backend, now: Now) -> May {
        let name = name(&service.name, &backend.name);
        let load = world.loads.get(&TargetId::new(&service.name, &backend.name));
        let agent = load.map_or(Agent::Ready, |load| load.agent);
        let admin = self.admin.get(&name).map_or(Admin::Enabled, |(admin, _)| *admin);
        let there = self.ways.contains(&backend.address);
        let weight = world.weight(service, backend, now.unix_ms);
        let idle = load.is_some_and(|load| load.factor == 0);
        let told = admin == Admin::Enabled && !idle && !matches!(agent, Agent::Drain | Agent::Maintenance);
        May {
            get: there && told && weight > 0,
            keep: there && admin != Admin::Disabled && agent != Agent::Maintenance,
            health: self.health(world, service, backend),
            excused: self.is_excused(service, &name, now),
        }
    }

    /// Whether fewer are healthy than the policy wants, of those that the operator allows.
    fn panics(&self, world: &World, service: &Service, now: Now) -> bool {
        let threshold = usize::from(service.policy.panic_threshold);
        if threshold > 0 && service.policy.damping.is_some() {
            // Who is damped is not healthy, and how long that lasts is its own test's affair.
            return world
                .decided(&service.name)
                .is_some_and(|decided| decided.outcome.mode == Mode::Panic);
        }
        let (mut healthy, mut all) = (0, 0);
        for backend in service.backends.iter().filter(|backend| !backend.sorry) {
            let may = self.may(world, service, backend, now);
            let there = self.ways.contains(&backend.address);
            if may.get || !there && self.allowed(world, service, backend, now) {
                all += 1;
                healthy += usize::from(may.health == Health::Starting || there && may.health == Health::Up);
            }
        }
        healthy * 1000 < threshold * all
    }

    /// As [`May::get`], whether there is a way or not.
    fn allowed(&self, world: &World, service: &Service, backend: &Backend, now: Now) -> bool {
        let load = world.loads.get(&TargetId::new(&service.name, &backend.name));
        !self.admin.contains_key(&name(&service.name, &backend.name))
            && load.is_none_or(|load| load.factor > 0 && matches!(load.agent, Agent::Ready | Agent::Down))
            && world.weight(service, backend, now.unix_ms) > 0
    }

    /// Compares all of it with the tables.
    pub(super) fn holds(&self, stage: &Stage) -> Result<(), TestCaseError> {
        let layout = Layout::read(&stage.tables);
        let services = &stage.world.model.services;
        prop_assert_eq!(layout.services.len(), services.len(), "a removed service is served");
        services
            .iter()
            .try_for_each(|service| self.service_holds(stage, service, &layout))
    }

    fn service_holds(&self, stage: &Stage, service: &Service, layout: &Layout) -> Result<(), TestCaseError> {
        let (world, tables, now) = (&stage.world, &stage.tables, stage.now);
        let installed = &layout.services[&service.key()];
        let panics = self.panics(world, service, now);
        let may = |backend: &Backend| self.may(world, service, backend, now);
        for backend in world.served(service) {
            let key = (service.name.clone(), backend.name.clone(), backend.address);
            let verdict = self.verdicts[&key].health;
            prop_assert_eq!(world.health_of(service, &backend.name), verdict, "{}", &backend.name);
        }
        let known: HashMap<u64, &Backend> = service
            .backends
            .iter()
            .map(|backend| (identity(&backend.name), backend))
            .collect();
        let left: HashMap<u64, &Backend> = world
            .leaving(service.key())
            .iter()
            .map(|backend| (identity(&backend.name), backend))
            .collect();
        let better = service.backends.iter().any(|backend| {
            let may = may(backend);
            may.get && may.health == Health::Up && !backend.sorry
        });
        let keeps = |backend: &Backend| {
            let may = may(backend);
            may.keep && (may.health == Health::Up || may.excused || panics)
        };
        let up = |backend: &Backend| self.health(world, service, backend) == Health::Up;
        let (mut nobody, mut of_the_up) = (0, 0);
        for n in 0..installed.entry.ring_size {
            let slot = tables.slot(installed.entry.ring_base() + n);
            if slot.current() == NOBODY {
                nobody += 1;
            } else {
                let number = usize::from(slot.current());
                let backend = known.get(&installed.identities[number]);
                prop_assert!(backend.is_some(), "slot {n} is a removed backend's");
                let backend = backend.expect("asserted");
                let (name, may) = (&backend.name, may(backend));
                prop_assert!(may.get, "slot {n} is {name}'s, who must get nothing");
                let serves = may.health == Health::Up || may.excused || panics;
                prop_assert!(serves, "slot {n} is {name}'s, who is {:?}", may.health);
                of_the_up += u32::from(may.health == Health::Up);
                prop_assert!(
                    !backend.sorry || !better,
                    "slot {n} is {name}'s, and better ones are up"
                );
                let row = tables.row(installed.entry.backend_base() + number as u32);
                let bytes: Rewrite = encap::l2(mac(backend.address), OWN_MAC);
                prop_assert_eq!(
                    row.rewrites[(row.active & 1) as usize],
                    bytes,
                    "{}'s row leads elsewhere",
                    name
                );
            }
            if !slot.is_stable() && !slot.is_settled() && slot.previous() != NOBODY {
                let old = installed.identities[usize::from(slot.previous())];
                match (known.get(&old), left.get(&old)) {
                    (Some(backend), _) => prop_assert!(keeps(backend), "slot {n} still is {}'s", backend.name),
                    (None, Some(backend)) => prop_assert!(up(backend), "slot {n} still is {}'s", backend.name),
                    (None, None) => prop_assert!(false, "slot {n} still is a removed backend's"),
                }
            }
        }
        for (number, old) in installed.identities.iter().enumerate().filter(|(_, old)| **old != 0) {
            let row = tables.row(installed.entry.backend_base() + number as u32);
            if row.life == 0 {
                continue;
            }
            match (known.get(old), left.get(old)) {
                (Some(backend), _) => prop_assert!(keeps(backend), "{} serves its flows", backend.name),
                (None, Some(backend)) => prop_assert!(up(backend), "{} left, and serves its flows", backend.name),
                (None, None) => prop_assert!(false, "a removed backend serves its flows"),
            }
        }
        let mut able = service.backends.iter().filter(|backend| {
            let may = may(backend);
            may.get && may.health == Health::Up
        });
        let able = able.next().map(|backend| &backend.name);
        prop_assert!(
            able.is_none() || nobody == 0,
            "{nobody} slots are nobody's, and {able:?} could serve"
        );
        let waits = service.policy.failover == Failover::Manual;
        prop_assert!(
            able.is_none() || waits || panics || of_the_up > 0,
            "all slots are of those who are down, and {able:?} could serve"
        );
        Ok(())
    }
}

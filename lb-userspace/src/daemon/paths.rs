//! How the probes of each backend travel: kept in step with what is known of the ways there.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::{error, info, warn};

use super::world::World;
use crate::health::{TargetId, Via, VipPath};
use crate::model;
use crate::object;
use crate::path::UsersPath;
use crate::path::program::Hook;

/// How long to wait before what could not be set up is tried again.
const PATIENCE: Duration = Duration::from_secs(2);

/// The users' path, and who is on it.
pub(super) struct Paths {
    hook: Hook,
    /// Nothing: nobody needs it, or it could not be set up.
    path: Option<UsersPath>,
    /// Why there is none, or why it is not whole, and when that was found.
    problem: Option<(String, Instant)>,
    /// Targets keep their numbers, and no number is given twice.
    numbers: HashMap<TargetId, u32>,
    last_number: u32,
    vias: HashMap<TargetId, Via>,
}

impl Paths {
    pub(super) fn new() -> Self {
        Self {
            hook: Hook::of_kernel(),
            path: None,
            problem: None,
            numbers: HashMap::new(),
            last_number: 0,
            vias: HashMap::new(),
        }
    }

    /// How probes of a target travel.
    pub(super) fn via(&self, id: &TargetId) -> Via {
        self.vias.get(id).cloned().unwrap_or(Via::Direct)
    }

    /// What keeps probes from the users' path, for people.
    pub(super) fn problem(&self) -> Option<&str> {
        self.problem.as_ref().map(|(problem, _)| problem.as_str())
    }

    /// Brings everything in step; says whether the probes of any target travel in another way now.
    pub(super) fn follow(&mut self, world: &World) -> bool {
        let targets = wanted(world);
        if targets.is_empty() {
            self.path = None;
            self.problem = None;
            self.numbers.clear();
            let had = !self.vias.is_empty();
            self.vias.clear();
            return had;
        }
        if let Some(path) = &self.path
            && !path.is_whole()
        {
            warn!("the interface of the health probes has gone: it is made again");
            self.path = None;
            self.problem = None;
        }
        if self.path.is_none() && self.problem.as_ref().is_none_or(|(_, at)| at.elapsed() >= PATIENCE) {
            self.set_up();
        }
        let vias = match (&mut self.path, &self.problem) {
            (Some(_), _) => self.furnish(world, targets),
            (None, problem) => {
                let why = problem.as_ref().map_or("not set up", |(problem, _)| problem.as_str());
                let why: Arc<str> = format!("probes cannot take the users' path: {why}").into();
                targets
                    .into_iter()
                    .map(|(id, ..)| (id, Via::Blocked(Arc::clone(&why))))
                    .collect()
            }
        };
        let changed = self.vias != vias;
        self.vias = vias;
        changed
    }

    /// The kernel has removed interfaces; says whether answers of probes were expected there.
    pub(super) fn forget_interfaces(&mut self, gone: &BTreeSet<u32>) -> bool {
        let path = self.path.as_mut();
        path.is_some_and(|path| path.forget_interfaces(|ifindex| gone.contains(&ifindex)))
    }

    /// What a moment's passing asks for: another try.
    pub(super) fn tend(&mut self, world: &World) -> bool {
        let lost = self.path.as_ref().map_or(HashSet::new(), UsersPath::lost_interfaces);
        if !lost.is_empty()
            && let Some(path) = &mut self.path
        {
            warn!(interfaces = ?lost, "the program for the probes' answers was taken off: it is put back");
            path.forget_interfaces(|ifindex| lost.contains(&ifindex));
            return self.follow(world);
        }
        let due = match (&self.path, &self.problem) {
            (None, None) => false,
            (_, Some((_, at))) => at.elapsed() >= PATIENCE,
            (Some(path), None) => !path.is_whole(),
        };
        due && self.follow(world)
    }

    fn set_up(&mut self) {
        match UsersPath::set_up(object::PROBE, self.hook) {
            Ok(path) => {
                info!(hook = ?self.hook, "health probes take the users' path");
                self.path = Some(path);
                self.problem = None;
            }
            Err(problem) => self.complain(problem.to_string()),
        }
    }

    fn complain(&mut self, problem: String) {
        if self.problem() != Some(&problem) {
            error!(%problem, "health probes by the users' path");
        }
        self.problem = Some((problem, Instant::now()));
    }

    fn furnish(&mut self, world: &World, targets: Vec<Wanted<'_>>) -> HashMap<TargetId, Via> {
        let Some(path) = &mut self.path else {
            return HashMap::new();
        };
        let mut problem = None;
        let vips = world.vips();
        let mut vias = HashMap::with_capacity(targets.len());
        let mut numbers = HashMap::with_capacity(targets.len());
        let mut rows = HashMap::with_capacity(targets.len());
        let mut chosen = HashSet::new();
        let mut interfaces: HashSet<u32> = world.interfaces.iter().copied().collect();
        for (id, service, backend) in targets {
            let number = self.numbers.get(&id).copied().unwrap_or_else(|| {
                self.last_number += 1;
                self.last_number
            });
            numbers.insert(id.clone(), number);
            let (rewrite, way) = match world.probe_way(service, backend) {
                Ok(found) => found,
                Err(why) => {
                    vias.insert(id, Via::Blocked(why.into()));
                    continue;
                }
            };
            let in_use = match self.vias.get(&id) {
                Some(Via::Vip(path)) => Some(path.source),
                _ => None,
            };
            let Some(source) = world.probe_source(service.vip, &way, in_use, &vips) else {
                let family = if service.vip.is_ipv4() { "IPv4" } else { "IPv6" };
                let why = format!(
                    "this host has no {family} address that {} could answer to: link-local and tentative ones and VIPs do not count",
                    service.vip
                );
                vias.insert(id, Via::Blocked(why.into()));
                continue;
            };
            rows.insert(number, rewrite);
            chosen.insert(source);
            interfaces.insert(way.ifindex);
            interfaces.extend(world.own_addresses.find(source).map(|own| own.ifindex));
            let path = VipPath {
                vip: service.vip,
                source,
                number,
                tunnel: backend.forward != model::Forward::L2,
                namespace: path.namespace(),
            };
            vias.insert(id, Via::Vip(path));
        }
        self.numbers = numbers;
        for done in [
            path.add_sources(chosen),
            path.set_targets(rows),
            path.expect_answers(&interfaces),
        ] {
            if let Err(error) = done {
                problem.get_or_insert(error.to_string());
            }
        }
        match problem {
            Some(problem) => self.complain(problem),
            None => self.problem = None,
        }
        vias
    }
}

type Wanted<'a> = (TargetId, &'a model::Service, &'a model::Backend);

/// Who is to be probed by the users' path.
fn wanted(world: &World) -> Vec<Wanted<'_>> {
    let by_vip = |service: &&model::Service| {
        let health = service.health.as_ref();
        health.is_some_and(|health| health.via == model::Via::Vip)
    };
    let services = world.model.services.iter().filter(by_vip);
    let backends = services.flat_map(|service| {
        let target = move |backend: &'_ model::Backend| TargetId::new(&service.name, &backend.name);
        world
            .served(service)
            .map(move |backend| (target(backend), service, backend))
    });
    backends.collect()
}

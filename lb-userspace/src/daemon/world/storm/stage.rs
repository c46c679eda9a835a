//! A daemon without kernel and network: the world, the schedule of its probes, tables in plain memory, and time as it is told.

use std::collections::{BTreeSet, HashMap};
use std::convert::Infallible;
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use lb_common::map::{Counter, NOBODY, Slot};
use proptest::test_runner::TestCaseError;

use super::{Act, File, Oracle, POLICIES, Row, SERVICES};
use crate::bpf::tables::{Lengths, Tables};
use crate::config;
use crate::daemon::operator::{end_overrides, say};
use crate::daemon::world::{Load, Overrides, World};
use crate::health::rehearsal::Rehearsal;
use crate::health::{Outcome, TargetId, Via};
use crate::model::{Model, Tracking, identity};
use crate::netlink::{Answer, NextHop, Unreachable};
use crate::plan::layout::Layout;
use crate::plan::{Scope, apply, make};
use crate::policy::Now;

/// The ports of the services, which their checks go to.
const PORTS: [u16; 2] = [80, 53];
/// How often the daemon looks after drains and ramps.
const TICK: Duration = Duration::from_secs(1);
/// Verdicts: `rise` is the default, `fall` too.
const CHECKS: &str =
    "health = { kind = \"tcp\", via = \"direct\", interval = \"3s\", fast_interval = \"1s\", rise = 2, fall = 3 }";

pub(super) struct Stage {
    pub(super) world: World,
    pub(super) tables: Tables,
    pub(super) now: Now,
    oracle: Oracle,
    probes: Rehearsal,
    answers: HashMap<SocketAddr, Outcome>,
    lost: BTreeSet<IpAddr>,
    stale: BTreeSet<String>,
    next_tick: Instant,
}

pub(super) fn address(number: u8, moved: bool) -> IpAddr {
    [10, 0, 0, if moved { 100 + number } else { number }].into()
}

/// The link-layer address of whoever has an address.
pub(super) fn mac(address: IpAddr) -> [u8; 6] {
    match address {
        IpAddr::V4(address) => [2, 0, 0, 0, 0, address.octets()[3]],
        IpAddr::V6(_) => [0; 6],
    }
}

pub(super) const OWN_MAC: [u8; 6] = [2, 0, 0, 0, 0, 255];

fn way(address: IpAddr, there: bool) -> (IpAddr, Answer) {
    let hop = NextHop {
        ifindex: 1,
        source_mac: OWN_MAC,
        destination_mac: mac(address),
        neighbour: address,
        preferred_source: None,
        mtu: 1500,
    };
    let answer = if there {
        Ok(hop)
    } else {
        Err(Unreachable::NoRoute { address })
    };
    (address, answer)
}

fn model(file: &File) -> Model {
    let mut text = "[node]\ninterfaces = [\"lo\"]\nhash_seed = 1\n".to_owned();
    for (index, shape) in file.services.iter().enumerate() {
        let (name, port) = (SERVICES[index], PORTS[index]);
        let protocol = if index == 0 { "tcp" } else { "udp" };
        let (checks, policy) = (if shape.checks { CHECKS } else { "" }, POLICIES[shape.policy]);
        // Writing to a string cannot fail.
        _ = write!(
            text,
            "[[service]]\nname = \"{name}\"\nvip = \"192.0.2.1\"\nprotocol = \"{protocol}\"\nport = {port}\nring_size = 61\n\
             forward = \"l2\"\n{checks}\n{policy}\n"
        );
        for row in &shape.backends {
            let Row {
                number,
                weight,
                priority,
                sorry,
                moved,
            } = row;
            _ = write!(
                text,
                "[[service.backend]]\nname = \"b{number}\"\naddress = \"{}\"\nweight = {weight}\npriority = {priority}\n\
                 sorry = {sorry}\n",
                address(*number, *moved)
            );
        }
    }
    let parsed = config::parse(&text, "test");
    parsed.unwrap_or_else(|errors| panic!("{text}\n{errors}")).model
}

impl Stage {
    pub(super) fn new(file: &File, seed: u64) -> Result<Self, TestCaseError> {
        let model = model(file);
        let lengths = Lengths {
            services: 64,
            slots: 1024,
            rows: 64,
            flows: 64,
        };
        let instant = Instant::now();
        let mut stage = Self {
            world: World::new(
                Model {
                    services: Vec::new(),
                    ..model.clone()
                },
                Overrides::new(),
            ),
            tables: Tables::private(lengths).expect("memory"),
            now: Now {
                instant,
                unix_ms: 1_000_000,
            },
            oracle: Oracle::default(),
            probes: Rehearsal::new(seed),
            answers: HashMap::new(),
            lost: BTreeSet::new(),
            stale: BTreeSet::new(),
            next_tick: instant + TICK,
        };
        stage.reload(model)?;
        Ok(stage)
    }

    pub(super) fn act(&mut self, act: Act) -> Result<(), TestCaseError> {
        match act {
            Act::Answer(of, one, moved, how) => {
                let to = SocketAddr::new(address(one, moved), PORTS[of]);
                self.answers.insert(to, how);
            }
            Act::Way(one, moved, there) => {
                let address = address(one, moved);
                if there {
                    self.lost.remove(&address);
                } else {
                    self.lost.insert(address);
                }
                if self.world.addresses().contains(&address) {
                    self.oracle.way(address, there);
                    self.stale.extend(self.world.set_ways([way(address, there)]));
                }
            }
            Act::Operator(of, one, action) => {
                let (service, backend) = (SERVICES[of], format!("b{one}"));
                if let Some(weight) = self.weight(service, &backend) {
                    let overrides = &mut self.world.overrides;
                    say(overrides, (service, &backend), action, weight, self.now.unix_ms);
                    self.world.populate_rings();
                    self.stale.insert(service.to_owned());
                    self.oracle.said(service, &backend, action, self.now.unix_ms);
                }
            }
            Act::Confirm(of, what, one) => {
                let name = one.map(|one| format!("b{one}"));
                self.world.confirm(SERVICES[of], what, name.as_deref());
                self.oracle.confirmed(SERVICES[of], what, name.as_deref());
                if self.world.service(SERVICES[of]).is_some() {
                    self.stale.insert(SERVICES[of].to_owned());
                }
            }
            Act::Load(of, one, factor, agent) => {
                let backend = format!("b{one}");
                if self.weight(SERVICES[of], &backend).is_some() {
                    let id = TargetId::new(SERVICES[of], &backend);
                    self.world.loads.insert(id, Load { factor, agent });
                    self.stale.insert(SERVICES[of].to_owned());
                }
            }
            Act::Reload(file) => return self.reload(model(&file)),
            Act::Sweep => self.sweep(),
            Act::Wait(ms) => return self.wait(Duration::from_millis(ms)),
        }
        self.converge()
    }

    /// The weight in force of a backend that is configured.
    fn weight(&self, service: &str, backend: &str) -> Option<u32> {
        let service = self.world.service(service)?;
        let backend = service.backends.iter().find(|known| known.name == backend)?;
        Some(self.world.weight(service, backend, self.now.unix_ms))
    }

    fn reload(&mut self, model: Model) -> Result<(), TestCaseError> {
        self.oracle.before(&self.world);
        self.world.replace_model(model);
        self.world.interfaces = vec![1];
        self.oracle.after(&self.world, self.now);
        self.world.decide_all(self.now);
        for service in &self.world.model.services {
            self.oracle.observe(&self.world, service, self.now);
        }
        let wanted = self.world.wanted_all();
        let plan = make::plan(&self.tables, &wanted, Scope::Everything).expect("there is room");
        let Ok(()) = apply::apply(&plan, &self.tables, no_counts);
        self.follow();
        self.oracle.holds(self)
    }

    fn follow(&mut self) {
        let targets = self.world.targets(|_| Via::Direct);
        self.probes.set(targets, self.now.instant);
    }

    /// Lets time pass, from one thing that happens to the next.
    fn wait(&mut self, time: Duration) -> Result<(), TestCaseError> {
        let end = self.now.instant + time;
        // Ways to new backends are found.
        let unknown: Vec<IpAddr> = self.world.addresses().into_iter().collect();
        let unknown = unknown.into_iter().filter(|address| self.world.way(*address).is_none());
        let found: Vec<_> = unknown
            .map(|address| way(address, !self.lost.contains(&address)))
            .collect();
        for (address, answer) in &found {
            self.oracle.way(*address, answer.is_ok());
        }
        self.stale.extend(self.world.set_ways(found));
        self.converge()?;
        loop {
            let coming = [self.probes.next_due(), self.world.next_decision(), Some(self.next_tick)];
            let next = coming.into_iter().flatten().min().filter(|next| *next <= end);
            self.pass(next.unwrap_or(end));
            if next.is_none() {
                return self.oracle.holds(self);
            }
            let (answers, oracle) = (&self.answers, &mut self.oracle);
            let changes = self.probes.probe(self.now.instant, |to| {
                let how = answers.get(&to).copied().unwrap_or(Outcome::Passed);
                let service = if to.port() == PORTS[0] {
                    SERVICES[0]
                } else {
                    SERVICES[1]
                };
                oracle.probed(service, to.ip(), how);
                how
            });
            for change in changes {
                if self
                    .world
                    .take_verdict(&change.id, change.address.ip(), change.transition.to)
                {
                    self.stale.insert(change.id.service.to_string());
                }
            }
            let due: Vec<String> = self.world.due(self.now.instant).map(str::to_owned).collect();
            self.stale.extend(due);
            if self.now.instant >= self.next_tick {
                self.next_tick = self.now.instant + TICK;
                let mut overrides = self.world.overrides.clone();
                let ended = end_overrides(&mut overrides, self.now.unix_ms);
                if !ended.is_empty() {
                    self.world.overrides = overrides;
                    self.world.populate_rings();
                    self.stale.extend(ended.into_iter().map(|(service, ..)| service));
                }
                self.oracle.tick(self.now.unix_ms);
            }
            self.converge()?;
        }
    }

    /// Both clocks go on in whole milliseconds: there is no moment between two of the wall's.
    fn pass(&mut self, to: Instant) {
        let ms = to
            .saturating_duration_since(self.now.instant)
            .as_nanos()
            .div_ceil(1_000_000) as u64;
        self.now.instant += Duration::from_millis(ms);
        self.now.unix_ms += ms;
    }

    /// Reads the flow table, in which nothing is: slots come to rest, and whoever left is let go.
    fn sweep(&mut self) {
        let layout = Layout::read(&self.tables);
        let services: Vec<_> = self
            .world
            .model
            .services
            .iter()
            .map(|one| (one.key(), one.name.clone()))
            .collect();
        for (key, name) in services {
            let Some(installed) = layout.services.get(&key) else {
                continue;
            };
            let always = self
                .world
                .service(&name)
                .is_some_and(|one| one.tracking == Tracking::Always);
            let mut named: BTreeSet<u64> = BTreeSet::new();
            for position in (installed.entry.ring_base()..).take(installed.entry.ring_size as usize) {
                let slot = self.tables.slot(position);
                if !slot.is_stable() && slot.current() != NOBODY {
                    let rest = if always { Slot::settled } else { Slot::stable };
                    self.tables.set_slot(position, rest(slot.current()));
                }
                let slot = self.tables.slot(position);
                let numbers = [slot.current(), slot.previous()].map(usize::from);
                named.extend(
                    numbers
                        .iter()
                        .filter_map(|number| installed.identities.get(*number))
                        .copied(),
                );
            }
            let before = self.world.leaving(key).len();
            self.world
                .dismiss(key, |backend| !named.contains(&identity(&backend.name)));
            if self.world.leaving(key).len() < before {
                self.stale.insert(name);
            }
        }
        self.oracle.dismissed(&self.world);
        self.follow();
    }

    /// Decides, plans and applies for the services that something has changed for, as the daemon does.
    fn converge(&mut self) -> Result<(), TestCaseError> {
        let stale = std::mem::take(&mut self.stale);
        for name in &stale {
            self.world.decide(name, self.now);
        }
        let services: Vec<_> = stale.iter().filter_map(|name| self.world.service(name)).collect();
        for service in &services {
            self.oracle.observe(&self.world, service, self.now);
        }
        let wanted: Vec<_> = services.into_iter().filter_map(|one| self.world.wanted(one)).collect();
        let plan = make::plan(&self.tables, &wanted, Scope::TheseOnly).expect("there is room");
        let Ok(()) = apply::apply(&plan, &self.tables, no_counts);
        self.oracle.holds(self)
    }
}

fn no_counts(_: u32) -> Result<Counter, Infallible> {
    Ok(Counter::default())
}

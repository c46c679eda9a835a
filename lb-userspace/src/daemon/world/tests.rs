//! The world under random events: who the tables name after the plans that it leads to.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use lb_common::map::{Counter, NOBODY, row_flag};
use proptest::prelude::*;

use super::*;
use crate::api::types::Admin;
use crate::bpf::tables::{Lengths, Tables};
use crate::config;
use crate::daemon::state::Override;
use crate::model::{Failover, identity};
use crate::netlink::Unreachable;
use crate::plan::layout::Layout;
use crate::plan::{Scope, apply, make};
use crate::policy::Now;
use crate::policy::ramp::Ramp;
use crate::policy::{Confirm, Mode, Standing, WHOLE};

const FILES: [&str; 4] = [
    "b1 b2 b3*|",
    "b2 b3 b4|failover = \"gradual\"\nfailover_time = \"10s\"\nslow_start = \"5s\"",
    "b1/1 b2/1 b4/2 b5*|failover = \"manual\"\nfailback = \"manual\"\nmin_healthy = 2",
    "b1 b2 b3 b4|panic_threshold = 0.5\ndamping = { half_life = \"5s\", max_out = \"30s\" }\ntracking = \"always\"",
];

fn model(file: usize) -> Model {
    let (backends, lines) = FILES[file].split_once('|').expect("two parts");
    let mut text = format!(
        "[node]\ninterfaces = [\"lo\"]\nhash_seed = 1\n[[service]]\nname = \"web\"\nvip = \"192.0.2.1\"\nprotocol = \"tcp\"\n\
         port = 80\nring_size = 61\nhealth = {{ kind = \"tcp\" }}\n{lines}\n"
    );
    for backend in backends.split(' ') {
        let (name, sorry) = (backend.trim_end_matches('*'), backend.ends_with('*'));
        let (name, priority) = name.split_once('/').unwrap_or((name, "0"));
        let address = &name[1..];
        text += &format!(
            "[[service.backend]]\nname = \"{name}\"\naddress = \"10.0.0.{address}\"\npriority = {priority}\nsorry = {sorry}\nforward = \"l2\"\n"
        );
    }
    config::parse(&text, "test")
        .unwrap_or_else(|errors| panic!("{errors}"))
        .model
}

/// A service with these lines and so many backends, all up; and the time there.
pub(in crate::daemon) fn world(lines: &str, backends: u8) -> (World, Now) {
    let mut world = World::new(with(lines, backends), Overrides::new());
    world.interfaces = vec![1];
    world.set_ways((1..=backends).map(|number| way(number, true)));
    for number in 1..=backends {
        world
            .health
            .insert(TargetId::new("web", &format!("b{number}")), Health::Up);
    }
    let now = Now {
        instant: Instant::now(),
        unix_ms: 1_000_000,
    };
    world.decide_all(now);
    (world, now)
}

fn with(lines: &str, backends: u8) -> Model {
    let mut text = format!(
        "[node]\ninterfaces = [\"lo\"]\nhash_seed = 1\n[[service]]\nname = \"web\"\nvip = \"192.0.2.1\"\nprotocol = \"tcp\"\n\
         port = 80\nring_size = 61\nhealth = {{ kind = \"tcp\" }}\n{lines}\n"
    );
    for number in 1..=backends {
        text +=
            &format!("[[service.backend]]\nname = \"b{number}\"\naddress = \"10.0.0.{number}\"\nforward = \"l2\"\n");
    }
    let parsed = config::parse(&text, "test");
    parsed.unwrap_or_else(|errors| panic!("{errors}")).model
}

fn address(number: u8) -> IpAddr {
    [10, 0, 0, number].into()
}

fn way(number: u8, there: bool) -> (IpAddr, Answer) {
    let address = address(number);
    let hop = NextHop {
        ifindex: 1,
        source_mac: [2, 0, 0, 0, 0, 1],
        destination_mac: [2, 0, 0, 0, 0, number],
        neighbour: address,
        preferred_source: None,
        mtu: 1500,
    };
    (
        address,
        if there {
            Ok(hop)
        } else {
            Err(Unreachable::NoRoute { address })
        },
    )
}

#[derive(Clone, Debug)]
enum Act {
    Health(u8, Health),
    Way(u8, bool),
    Admin(u8, Admin),
    Weight(u8, u32),
    Ramp(u8, u32, u64),
    Confirm(Confirm, Option<u8>),
    Load(u8, u16, Agent),
    Reload(usize),
    Wait(u64),
}

fn act() -> impl Strategy<Value = Act> {
    let health = prop::sample::select(vec![Health::Up, Health::Up, Health::Down]);
    let admin = prop::sample::select(vec![Admin::Enabled, Admin::Enabled, Admin::Draining, Admin::Disabled]);
    let what = prop::sample::select(vec![Confirm::Failover, Confirm::Failback]);
    let agent = prop::sample::select(vec![
        Agent::Ready,
        Agent::Ready,
        Agent::Drain,
        Agent::Maintenance,
        Agent::Down,
    ]);
    let weight = prop::sample::select(vec![0, 1, 50, 100, 300]);
    prop_oneof![
        8 => (1..6_u8, health).prop_map(|(one, health)| Act::Health(one, health)),
        1 => (1..6_u8, any::<bool>()).prop_map(|(one, there)| Act::Way(one, there)),
        2 => (1..6_u8, admin).prop_map(|(one, admin)| Act::Admin(one, admin)),
        1 => (1..6_u8, weight.clone()).prop_map(|(one, weight)| Act::Weight(one, weight)),
        1 => (1..6_u8, weight, 0..20_000_u64).prop_map(|(one, weight, over)| Act::Ramp(one, weight, over)),
        1 => (what, prop::option::of(1..6_u8)).prop_map(|(what, one)| Act::Confirm(what, one)),
        1 => (1..6_u8, 1..u16::MAX, agent).prop_map(|(one, factor, agent)| Act::Load(one, factor, agent)),
        2 => (0..FILES.len()).prop_map(Act::Reload),
        3 => (0..20_000_u64).prop_map(Act::Wait),
    ]
}

/// A world with tables, and the time there.
struct Stage {
    world: World,
    tables: Tables,
    now: Now,
}

impl Stage {
    fn new(file: usize) -> Self {
        let mut world = World::new(model(file), Overrides::new());
        world.interfaces = vec![1];
        world.set_ways((1..6).map(|number| way(number, true)));
        let lengths = Lengths {
            services: 64,
            slots: 1024,
            rows: 64,
            flows: 64,
        };
        Self {
            world,
            tables: Tables::private(lengths).expect("memory"),
            now: Now {
                instant: Instant::now(),
                unix_ms: 1_000_000,
            },
        }
    }

    fn overridden(&mut self, one: u8, change: impl FnOnce(&mut Override)) {
        let name = format!("b{one}");
        let service = self.world.service("web").expect("it stays");
        if service.backends.iter().any(|backend| backend.name == name) {
            let backends = self.world.overrides.entry("web".into()).or_default();
            change(backends.entry(name).or_default());
            self.world.populate_rings();
        }
    }

    fn act(&mut self, act: Act) {
        let id = |one: u8| TargetId::new("web", &format!("b{one}"));
        let world = &mut self.world;
        match act {
            Act::Health(one, health) => drop(world.health.insert(id(one), health)),
            Act::Way(one, there) => {
                world.set_ways([way(one, there)]);
            }
            Act::Admin(one, admin) => self.overridden(one, |one| one.admin = Some(admin)),
            Act::Weight(one, weight) => self.overridden(one, |one| (one.weight, one.ramp) = (Some(weight), None)),
            Act::Ramp(one, to, over) => {
                let now = self.now.unix_ms;
                self.overridden(one, |one| {
                    let from = one.weight_at(now).unwrap_or(100);
                    one.weight = Some(to);
                    one.ramp = Some(Ramp {
                        from,
                        to,
                        begin_unix_ms: now,
                        end_unix_ms: now + over,
                    });
                });
            }
            Act::Confirm(what, one) => {
                let name = one.map(|one| format!("b{one}"));
                world.confirm("web", what, name.as_deref());
            }
            Act::Load(one, factor, agent) => drop(world.loads.insert(id(one), Load { factor, agent })),
            Act::Reload(file) => {
                world.replace_model(model(file));
                world.set_ways((1..6).map(|number| way(number, true)));
            }
            Act::Wait(ms) => {
                self.now.instant += Duration::from_millis(ms);
                self.now.unix_ms += ms;
            }
        }
    }

    /// Decides, plans and applies, as the daemon does.
    fn converge(&mut self) {
        self.world.decide_all(self.now);
        let wanted = self.world.wanted_all();
        let plan = make::plan(&self.tables, &wanted, Scope::Everything).expect("there is room");
        let no_counts = |_: u32| -> Result<Counter, Infallible> { Ok(Counter::default()) };
        let Ok(()) = apply::apply(&plan, &self.tables, no_counts);
    }

    /// What the tables may and must say.
    fn holds(&self) -> Result<(), TestCaseError> {
        let world = &self.world;
        let service = world.service("web").expect("it stays");
        let layout = Layout::read(&self.tables);
        let installed = &layout.services[&service.key()];
        let mode = world.decided("web").expect("decided").outcome.mode;
        let allowed = |backend: &Backend| {
            let overridden = world.overridden("web", &backend.name);
            let load = world.loads.get(&TargetId::new("web", &backend.name));
            let agent = load.map_or(Agent::Ready, |load| load.agent);
            let admin = overridden.and_then(|one| one.admin).unwrap_or(Admin::Enabled);
            let gets = admin == Admin::Enabled
                && !matches!(agent, Agent::Drain | Agent::Maintenance)
                && world.weight(service, backend, self.now.unix_ms) > 0;
            let keeps = admin != Admin::Disabled && agent != Agent::Maintenance;
            let up = world.health_of(service, &backend.name) == Health::Up && agent != Agent::Down;
            let there = matches!(world.way(backend.address), Some(Ok(_)));
            let tolerated = service.policy.failover != Failover::Fast && !backend.sorry || mode == Mode::Panic;
            (there && gets, there && keeps, up, tolerated)
        };
        let known: HashMap<u64, &Backend> = service
            .backends
            .iter()
            .map(|backend| (identity(&backend.name), backend))
            .collect();
        let left: BTreeSet<u64> = world
            .leaving(service.key())
            .iter()
            .map(|backend| identity(&backend.name))
            .collect();
        let mut nobody = 0;
        for n in 0..installed.entry.ring_size {
            let slot = self.tables.slot(installed.entry.ring_base() + n);
            if slot.current() == NOBODY {
                nobody += 1;
            } else {
                let backend = known.get(&installed.identities[usize::from(slot.current())]);
                prop_assert!(backend.is_some(), "slot {n} is a removed backend's");
                let backend = backend.expect("asserted");
                let (gets, _, up, tolerated) = allowed(backend);
                prop_assert!(gets, "slot {n} is {}'s, who must get nothing", backend.name);
                prop_assert!(up || tolerated, "slot {n} is {}'s, who is down", backend.name);
            }
            if !slot.is_stable() && !slot.is_settled() && slot.previous() != NOBODY {
                let old = installed.identities[usize::from(slot.previous())];
                match known.get(&old) {
                    Some(backend) => {
                        let (_, keeps, up, tolerated) = allowed(backend);
                        prop_assert!(keeps && (up || tolerated), "slot {n} still is {}'s", backend.name);
                    }
                    None => prop_assert!(left.contains(&old), "slot {n} still is a removed backend's"),
                }
            }
        }
        for (number, old) in installed.identities.iter().enumerate().filter(|(_, old)| **old != 0) {
            let row = self.tables.row(installed.entry.backend_base() + number as u32);
            if row.flags & row_flag::SERVES == 0 {
                continue;
            }
            if let Some(backend) = known.get(old) {
                let (_, keeps, up, tolerated) = allowed(backend);
                prop_assert!(keeps && (up || tolerated), "{} serves its flows", backend.name);
            }
        }
        let could = service.backends.iter().any(|backend| {
            let (gets, _, up, _) = allowed(backend);
            gets && up
        });
        prop_assert!(
            !could || nobody == 0,
            "{nobody} slots are nobody's, and there is somebody: {mode:?}"
        );
        Ok(())
    }
}

#[test]
fn what_an_agent_said_goes_when_shares_follow_something_else_or_the_address_is_another() {
    let agent = "weights = \"agent\"\nagent_port = 9";
    let id = TargetId::new("web", "b1");
    let down = Load {
        factor: WHOLE,
        agent: Agent::Down,
    };
    let after = |change: &dyn Fn(&str) -> Model| {
        let (mut world, now) = world(agent, 2);
        world.loads.insert(id.clone(), down);
        assert_eq!(world.decide("web", now)[0].why, "its agent says that it is down");
        world.replace_model(change(agent));
        world.loads.get(&id).copied()
    };
    assert_eq!(after(&|lines| with(lines, 3)), Some(down));
    assert_eq!(after(&|_| with("weights = \"latency\"", 2)), None);
    assert_eq!(after(&|_| with("", 2)), None);
    let elsewhere = |lines: &str| {
        let mut model = with(lines, 2);
        model.services[0].backends[0].address = address(9);
        model
    };
    assert_eq!(after(&elsewhere), None);
}

#[test]
fn a_share_of_nothing_is_a_drain() {
    let (mut world, now) = world("weights = \"agent\"\nagent_port = 9", 2);
    world.loads.insert(
        TargetId::new("web", "b1"),
        Load {
            factor: 0,
            agent: Agent::Ready,
        },
    );
    world.decide("web", now);
    let service = world.service("web").expect("there");
    let decision = world.decision(service, "b1").expect("decided");
    assert_eq!((decision.standing, decision.serves), (Standing::Draining, true));
    assert_eq!(world.share(service, &service.backends[0]), Share::OUT);
}

#[test]
fn another_weight_does_not_keep_one_out_of_the_rotation_and_a_drain_does() {
    let (mut world, now) = world("", 2);
    let mut allowed = |change: Override| {
        world.overrides.insert("web".into(), [("b1".into(), change)].into());
        let service = world.service("web").expect("there");
        world.is_allowed(service, &service.backends[0], now.unix_ms)
    };
    assert!(allowed(Override {
        weight: Some(50),
        ..Override::default()
    }));
    assert!(!allowed(Override {
        weight: Some(0),
        ..Override::default()
    }));
    assert!(!allowed(Override {
        admin: Some(Admin::Draining),
        ..Override::default()
    }));
    assert!(allowed(Override::default()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn the_tables_never_name_who_must_not_serve(file in 0..FILES.len(), acts in prop::collection::vec(act(), 1..40)) {
        let mut stage = Stage::new(file);
        stage.converge();
        for act in acts {
            stage.act(act);
            stage.converge();
            stage.holds()?;
        }
    }
}

#[test]
fn who_is_behind_an_interface_that_takes_no_packets_is_out_until_it_does() {
    let mut stage = Stage::new(0);
    stage.world.interfaces = vec![7];
    let up = (1..4).map(|one| (TargetId::new("web", &format!("b{one}")), Health::Up));
    stage.world.health.extend(up);
    let (moved, way) = way(2, true);
    stage
        .world
        .set_ways([(moved, way.map(|way| NextHop { ifindex: 65, ..way }))]);
    let owners = |stage: &mut Stage| {
        stage.world.decide_all(stage.now);
        let wanted = stage
            .world
            .wanted(stage.world.service("web").expect("it is"))
            .expect("rings");
        (
            wanted.owners.contains(&1),
            wanted.backends[1].serves,
            wanted.backends[1].rewrite.ifindex,
        )
    };
    assert_eq!(owners(&mut stage), (true, true, 65));
    assert_eq!(stage.world.block(65, "full".into()), ["web".to_owned()].into());
    assert_eq!(owners(&mut stage), (false, false, 65));
    assert!(stage.world.leads_by(65));
    stage.world.unblock(65);
    assert_eq!(owners(&mut stage), (true, true, 65));
}

//! The world under random events: who the tables name after the plans that it leads to.

mod oracle;
mod stage;

use proptest::prelude::*;

use super::policy::Agent;
use crate::api::report::BackendAction;
use crate::health::{Outcome, State as Health, TargetId};
use crate::policy::Confirm;
use oracle::Oracle;
use stage::Stage;

/// The services: the first is always there.
const SERVICES: [&str; 2] = ["web", "dns"];
/// A service's policies, with how long a gradual failover takes.
const POLICIES: [&str; 9] = [
    "",
    "failover = \"gradual\"\nfailover_time = \"10s\"\nslow_start = \"5s\"",
    "failover = \"manual\"\nfailback = \"manual\"\nmin_healthy = 2",
    "panic_threshold = 0.5\ndamping = { half_life = \"5s\", max_out = \"30s\" }\ntracking = \"always\"",
    "panic_threshold = 1.0\nfailover = \"gradual\"\nfailover_time = \"10s\"\nmin_healthy = 3",
    "failback = \"delay\"\nfailback_delay = \"20s\"\nslow_start = \"10s\"\ntracking = \"never\"",
    "damping = { changes = 2, half_life = \"60s\" }\nfailback = \"manual\"\nmin_healthy = 2",
    "panic_threshold = 0.3\nfailover = \"manual\"\nslow_start = \"30s\"",
    "failover = \"gradual\"\nfailover_time = \"10s\"\nfailback = \"manual\"",
];
/// What backends of a file are named after: `b1` to `b5`.
const BACKENDS: std::ops::Range<u8> = 1..6;

/// A configuration file.
#[derive(Clone, Debug)]
struct File {
    services: Vec<Shape>,
}

/// A service of a file.
#[derive(Clone, Debug)]
struct Shape {
    policy: usize,
    checks: bool,
    backends: Vec<Row>,
}

/// A backend of a file.
#[derive(Clone, Debug)]
struct Row {
    number: u8,
    weight: u32,
    priority: u8,
    sorry: bool,
    /// It has another address than usual: it is another server.
    moved: bool,
}

/// What may happen. A service and a backend are numbers; whoever is not there is left alone.
#[derive(Clone, Debug)]
enum Act {
    /// From now on probes of it end so.
    Answer(usize, u8, bool, Outcome),
    /// The way to it is found or lost.
    Way(u8, bool, bool),
    Operator(usize, u8, BackendAction),
    Confirm(usize, Confirm, Option<u8>),
    Load(usize, u8, u16, Agent),
    Reload(File),
    /// The flow table is read, and no flow is left.
    Sweep,
    /// Milliseconds pass: probes are made, policies and overrides take their course.
    Wait(u64),
}

fn file() -> impl Strategy<Value = File> {
    let row = |number| {
        let weight = prop::sample::select(vec![100, 100, 100, 1, 300, 0]);
        let odd = prop::bool::weighted(0.15);
        (prop::bool::weighted(0.7), weight, 0..3_u8, odd, odd).prop_map(
            move |(there, weight, priority, sorry, moved)| {
                there.then_some(Row {
                    number,
                    weight,
                    priority,
                    sorry,
                    moved,
                })
            },
        )
    };
    let rows: Vec<_> = BACKENDS.map(row).collect();
    // Not all may be without weight or sorry ones.
    let backends = rows.prop_map(|rows| {
        let mut backends: Vec<Row> = rows.into_iter().flatten().collect();
        if let Some(first) = backends.first_mut() {
            (first.weight, first.sorry) = (first.weight.max(1), false);
        }
        backends
    });
    let shape = (0..POLICIES.len(), prop::bool::weighted(0.9), backends);
    let shape = shape.prop_map(|(policy, checks, backends)| Shape {
        policy,
        checks,
        backends,
    });
    prop::collection::vec(shape, 1..=SERVICES.len()).prop_map(|services| File { services })
}

fn action() -> impl Strategy<Value = BackendAction> {
    let weight = prop::sample::select(vec![0, 1, 50, 100, 300]);
    let time = || prop::option::of(0..20_000_u64);
    prop_oneof![
        2 => time().prop_map(|timeout_ms| BackendAction::Drain { timeout_ms }),
        2 => Just(BackendAction::Disable),
        3 => Just(BackendAction::Enable),
        2 => Just(BackendAction::Reset),
        3 => (weight, time()).prop_map(|(weight, over_ms)| BackendAction::Weight { weight, over_ms }),
    ]
}

fn act() -> impl Strategy<Value = Act> {
    let service = || 0..SERVICES.len();
    let one = || BACKENDS;
    let moved = || prop::bool::weighted(0.15);
    let answer = prop::sample::select(vec![
        Outcome::Passed,
        Outcome::Passed,
        Outcome::Passed,
        Outcome::Failed,
        Outcome::Failed,
        Outcome::Skipped,
    ]);
    let what = prop::sample::select(vec![Confirm::Failover, Confirm::Failback]);
    let ready = Agent::Ready;
    let agent = prop::sample::select(vec![ready, ready, Agent::Drain, Agent::Maintenance, Agent::Down]);
    prop_oneof![
        8 => (service(), one(), moved(), answer).prop_map(|(of, one, moved, how)| Act::Answer(of, one, moved, how)),
        2 => (one(), moved(), prop::bool::weighted(0.6)).prop_map(|(one, moved, there)| Act::Way(one, moved, there)),
        4 => (service(), one(), action()).prop_map(|(of, one, action)| Act::Operator(of, one, action)),
        2 => (service(), what, prop::option::of(one())).prop_map(|(of, what, one)| Act::Confirm(of, what, one)),
        1 => (service(), one(), prop_oneof![3 => 1..u16::MAX, 1 => Just(0)], agent).prop_map(|(of, one, part, word)| Act::Load(of, one, part, word)),
        3 => file().prop_map(Act::Reload),
        1 => Just(Act::Sweep),
        8 => (0..12_000_u64).prop_map(Act::Wait),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// No service is without a backend while one that its policy allows is up, and no slot leads to one that is down, disabled or
    /// removed: whatever probes, operators, files, agents and time have done, in the tables themselves.
    #[test]
    fn the_tables_name_somebody_and_never_who_must_not_serve(
        first in file(), seed in any::<u64>(), acts in prop::collection::vec(act(), 1..50)
    ) {
        let mut stage = Stage::new(&first, seed)?;
        for act in acts {
            stage.act(act)?;
        }
    }
}

/// A verdict may come in after the file has changed.
#[test]
fn a_late_verdict_is_about_the_server_that_was_probed() {
    let file = |moved| File {
        services: vec![Shape {
            policy: 0,
            checks: true,
            backends: vec![Row {
                number: 1,
                weight: 100,
                priority: 0,
                sorry: false,
                moved,
            }],
        }],
    };
    let mut stage = Stage::new(&file(false), 1).expect("nothing has happened");
    stage.act(Act::Reload(file(true))).expect("it holds");
    let world = &mut stage.world;
    let id = TargetId::new("web", "b1");
    assert!(!world.take_verdict(&id, stage::address(1, false), Health::Up));
    assert_eq!(world.health.get(&id), None);
    assert!(world.take_verdict(&id, stage::address(1, true), Health::Up));
    assert!(!world.take_verdict(&TargetId::new("web", "b2"), stage::address(1, true), Health::Up));
    assert!(!world.take_verdict(&TargetId::new("dns", "b1"), stage::address(1, true), Health::Up));
}

//! Policies at work: what each setting does, and what none of them may ever do.

use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use crate::config;

mod damping;
mod modes;
mod positions;

const UP: Seen = Seen {
    health: Health::Up,
    reachable: true,
    admin: Admin::Enabled,
    weighted: true,
    by_agent: false,
};
const DOWN: Seen = Seen {
    health: Health::Down,
    ..UP
};
const STARTING: Seen = Seen {
    health: Health::Starting,
    ..UP
};

/// A service with these lines, and with a backend for each line of `backends`.
fn service(lines: &str, backends: &[&str]) -> Service {
    let mut text = format!(
        "[node]\ninterfaces = [\"lo\"]\nhash_seed = 1\n[[service]]\nname = \"web\"\nvip = \"192.0.2.1\"\nprotocol = \"tcp\"\n\
         port = 80\nring_size = 251\nhealth = {{ kind = \"tcp\" }}\n{lines}\n"
    );
    for (index, lines) in backends.iter().enumerate() {
        text += &format!(
            "[[service.backend]]\nname = \"b{index}\"\naddress = \"10.0.0.{}\"\n{lines}\n",
            index + 1
        );
    }
    let parsed = config::parse(&text, "test").unwrap_or_else(|errors| panic!("{errors}"));
    parsed.model.services.into_iter().next().expect("one service")
}

/// A service and its machine, at a time.
struct Bench {
    service: Service,
    machine: Machine,
    now: Instant,
}

impl Bench {
    fn new(lines: &str, backends: &[&str]) -> Self {
        Self {
            service: service(lines, backends),
            machine: Machine::default(),
            now: Instant::now(),
        }
    }

    /// All up from the start.
    fn running(lines: &str, backends: &[&str]) -> Self {
        let mut bench = Self::new(lines, backends);
        bench.see(&vec![UP; backends.len()]);
        bench
    }

    fn step(&mut self, seen: &[Seen]) -> Outcome {
        self.machine.step(&self.service, seen, self.now)
    }

    /// The fractions in percent.
    fn see(&mut self, seen: &[Seen]) -> Vec<u32> {
        let outcome = self.step(seen);
        let percent = |decision: &Decision| (u32::from(decision.fraction) * 100 + 32_767) / u32::from(WHOLE);
        outcome.backends.iter().map(percent).collect()
    }

    fn after(&mut self, seconds: f64) -> &mut Self {
        self.now += Duration::from_secs_f64(seconds);
        self
    }

    fn kinds(&mut self, seen: &[Seen]) -> Vec<EventKind> {
        self.step(seen).changes.iter().map(|change| change.kind).collect()
    }
}

#[test]
fn by_default_what_is_known_is_done_at_once() {
    let mut bench = Bench::new("", &["", "", ""]);
    assert_eq!(bench.see(&[STARTING; 3]), [0, 0, 0]);
    assert_eq!(bench.see(&[UP, UP, STARTING]), [100, 100, 0]);
    assert_eq!(bench.see(&[UP; 3]), [100; 3]);
    assert_eq!(bench.kinds(&[UP, DOWN, UP]), [EventKind::Failover]);
    assert_eq!(bench.see(&[UP, DOWN, UP]), [100, 0, 100]);
    assert_eq!(bench.kinds(&[UP; 3]), [EventKind::Failback]);
    let away = Seen { reachable: false, ..UP };
    assert_eq!(bench.see(&[away, UP, UP]), [0, 100, 100]);
    assert_eq!(bench.see(&[UP; 3]), [100; 3]);
    let outcome = bench.step(&[DOWN; 3]);
    assert_eq!((outcome.mode, outcome.next), (Mode::Nobody, None));
    assert!(
        outcome
            .changes
            .iter()
            .any(|change| change.kind == EventKind::ServiceLost)
    );
    assert!(bench.kinds(&[UP, DOWN, DOWN]).contains(&EventKind::ServiceBack));
    let draining = Seen {
        admin: Admin::Draining,
        ..UP
    };
    let disabled = Seen {
        admin: Admin::Disabled,
        ..UP
    };
    let outcome = bench.step(&[draining, disabled, UP]);
    let serves: Vec<bool> = outcome.backends.iter().map(|decision| decision.serves).collect();
    assert_eq!(serves, [true, false, true]);
}

#[test]
fn a_gradual_failover_moves_in_steps_and_turns_back() {
    let mut bench = Bench::running("failover = \"gradual\"\nfailover_time = \"10s\"", &["", ""]);
    assert_eq!(bench.see(&[DOWN, UP]), [90, 100]);
    assert_eq!(bench.step(&[DOWN, UP]).next, Some(bench.now + Duration::from_secs(1)));
    assert!(bench.step(&[DOWN, UP]).backends[0].serves);
    assert_eq!(bench.after(5.0).see(&[DOWN, UP]), [40, 100]);
    assert_eq!(bench.see(&[UP, UP]), [100, 100]);
    assert_eq!(bench.see(&[DOWN, UP]), [90, 100]);
    assert_eq!(bench.after(9.5).see(&[DOWN, UP]), [0, 100]);
    assert_eq!(bench.after(0.5).kinds(&[DOWN, UP]), [EventKind::Failover]);
    let outcome = bench.step(&[DOWN, UP]);
    assert_eq!((outcome.next, outcome.backends[0].serves), (None, false));
}

#[test]
fn who_fades_out_hides_nobody_who_is_up() {
    let lines = "failover = \"gradual\"\nfailover_time = \"10s\"\nfailback = \"manual\"";
    let mut bench = Bench::running(lines, &["", "", "sorry = true"]);
    assert_eq!(bench.see(&[DOWN, UP, UP]), [90, 100, 0]);
    let outcome = bench.after(1.0).step(&[DOWN, DOWN, UP]);
    let fractions: Vec<u16> = outcome.backends.iter().map(|decision| decision.fraction).collect();
    assert_eq!((outcome.mode, fractions), (Mode::Sorry, vec![0, 0, WHOLE]));
    let told: Vec<_> = outcome
        .changes
        .iter()
        .map(|change| (change.kind, change.backend.as_deref(), change.to.as_str()))
        .collect();
    let out = |name| (EventKind::Failover, Some(name), "out");
    assert_eq!(
        told,
        [
            (EventKind::Failover, Some("b1"), "going"),
            out("b0"),
            out("b1"),
            (EventKind::SorryOn, None, "sorry")
        ]
    );
    assert!(outcome.backends[..2].iter().all(|decision| !decision.serves));
    // One that waits for its failback is better than the sorry one, and none that was given up comes back with it.
    assert_eq!(bench.after(1.0).see(&[UP, DOWN, UP]), [100, 0, 0]);
    assert_eq!(bench.step(&[UP, DOWN, UP]).mode, Mode::LastResort);
    assert_eq!(bench.machine.confirm(Confirm::Failback, None), ["b0"]);
    let outcome = bench.step(&[UP, DOWN, UP]);
    let back = outcome.changes.iter().find(|change| change.kind == EventKind::Failback);
    assert_eq!(back.map(|change| change.why.as_str()), Some("an operator confirmed it"));
    assert_eq!(bench.see(&[UP, DOWN, UP]), [100, 0, 0]);
    // Without anybody who is up, those on their way down have their time: the checks may be wrong.
    let mut bench = Bench::running(lines, &["", "", "sorry = true"]);
    assert_eq!(bench.see(&[DOWN, DOWN, DOWN]), [90, 90, 0]);
    assert_eq!(bench.after(5.0).see(&[DOWN, DOWN, DOWN]), [40, 40, 0]);
    assert_eq!(bench.after(5.0).step(&[DOWN, DOWN, DOWN]).mode, Mode::Nobody);
}

#[test]
fn a_manual_failover_waits_for_a_word() {
    let mut bench = Bench::running("failover = \"manual\"", &["", ""]);
    assert_eq!(bench.kinds(&[DOWN, UP]), [EventKind::FailoverPending]);
    let outcome = bench.after(1000.0).step(&[DOWN, UP]);
    assert_eq!(
        (outcome.backends[0].fraction, outcome.backends[0].standing),
        (WHOLE, Standing::Pending)
    );
    assert_eq!(bench.kinds(&[UP, UP]), [EventKind::Failback]);
    bench.see(&[DOWN, UP]);
    assert_eq!(bench.machine.confirm(Confirm::Failover, Some("b1")), [""; 0]);
    assert_eq!(bench.machine.confirm(Confirm::Failback, None), [""; 0]);
    assert_eq!(bench.machine.confirm(Confirm::Failover, None), ["b0"]);
    let changes = bench.step(&[DOWN, UP]).changes;
    assert_eq!(changes[0].why, "an operator confirmed it");
    assert_eq!(bench.see(&[DOWN, UP]), [0, 100]);
    assert_eq!(bench.see(&[UP, UP]), [100, 100]);
}

#[test]
fn who_comes_back_starts_slowly_but_not_alone() {
    let mut bench = Bench::new("slow_start = \"20s\"", &["", ""]);
    assert_eq!(bench.see(&[UP, STARTING]), [100, 0]);
    assert_eq!(bench.see(&[UP, UP]), [100, 10]);
    assert_eq!(bench.after(10.0).see(&[UP, UP]), [100, 60]);
    assert_eq!(bench.after(10.0).see(&[UP, UP]), [100, 100]);
    assert_eq!(bench.see(&[UP, DOWN]), [100, 0]);
    assert_eq!(bench.see(&[UP, UP]), [100, 10]);
    // All went: the first to be back is needed wholly.
    bench.see(&[DOWN, DOWN]);
    assert_eq!(bench.see(&[UP, DOWN]), [100, 0]);
    // The operator's way back is slow, too.
    bench.after(30.0).see(&[UP, UP]);
    bench.after(30.0).see(&[UP, UP]);
    let disabled = Seen {
        admin: Admin::Disabled,
        ..UP
    };
    assert_eq!(bench.see(&[UP, disabled]), [100, 0]);
    assert_eq!(bench.see(&[UP, UP]), [100, 10]);
}

#[test]
fn failback_waits_for_a_time_or_a_word_unless_nothing_else_is_up() {
    let mut bench = Bench::running("failback = \"delay\"\nfailback_delay = \"60s\"", &["", ""]);
    bench.see(&[DOWN, UP]);
    assert_eq!(bench.kinds(&[UP, UP]), [EventKind::FailbackPending]);
    assert_eq!(bench.after(59.0).see(&[UP, UP]), [0, 100]);
    assert_eq!(bench.after(1.0).see(&[UP, UP]), [100, 100]);

    let mut bench = Bench::running("failback = \"manual\"", &["", ""]);
    bench.see(&[DOWN, UP]);
    assert_eq!(bench.after(9999.0).see(&[UP, UP]), [0, 100]);
    let outcome = bench.step(&[UP, DOWN]);
    assert_eq!((outcome.mode, outcome.backends[0].fraction), (Mode::LastResort, WHOLE));
    bench.see(&[UP, UP]);
    assert_eq!(bench.machine.confirm(Confirm::Failback, None), ["b0", "b1"]);
    assert_eq!(bench.see(&[UP, UP]), [100, 100]);
    // One that an earlier daemon had out stays out.
    let mut bench = Bench::new("failback = \"manual\"", &["", ""]);
    bench.machine.was_out("b0", bench.now);
    assert_eq!(bench.see(&[STARTING, UP]), [0, 100]);
    assert_eq!(bench.see(&[UP, UP]), [0, 100]);
}

#[test]
fn the_next_tier_helps_while_too_few_of_the_first_are_up() {
    let tiers = &[
        "priority = 1",
        "priority = 1",
        "priority = 2",
        "priority = 3",
        "sorry = true",
    ];
    let mut bench = Bench::running("min_healthy = 2", tiers);
    assert_eq!(bench.see(&[UP; 5]), [100, 100, 0, 0, 0]);
    let outcome = bench.step(&[UP, DOWN, UP, UP, UP]);
    assert_eq!(outcome.tiers, [1, 2]);
    assert!(
        outcome
            .changes
            .iter()
            .any(|change| change.kind == EventKind::Tier && change.to == "1, 2")
    );
    assert_eq!(bench.see(&[DOWN, DOWN, UP, UP, UP]), [0, 0, 100, 100, 0]);
    assert_eq!(bench.see(&[DOWN, DOWN, DOWN, UP, UP]), [0, 0, 0, 100, 0]);
    let outcome = bench.step(&[DOWN, DOWN, DOWN, DOWN, UP]);
    assert_eq!((outcome.mode, outcome.backends[4].fraction), (Mode::Sorry, WHOLE));
    assert!(outcome.changes.iter().any(|change| change.kind == EventKind::SorryOn));
    assert_eq!(bench.step(&[DOWN; 5]).mode, Mode::Nobody);
    assert_eq!(bench.see(&[UP; 5]), [100, 100, 0, 0, 0]);
    assert_eq!(bench.step(&[UP; 5]).backends[2].standing, Standing::Standby);
    assert_eq!(bench.step(&[UP; 5]).backends[4].standing, Standing::Sorry);
}

#[test]
fn a_standby_fades_in_as_the_first_fades_out_and_back() {
    let lines = "failover = \"gradual\"\nfailover_time = \"10s\"\nslow_start = \"10s\"";
    let mut bench = Bench::running(lines, &["priority = 1", "priority = 2"]);
    assert_eq!(bench.see(&[UP, UP]), [100, 0]);
    assert_eq!(bench.see(&[DOWN, UP]), [90, 10]);
    assert_eq!(bench.after(5.0).see(&[DOWN, UP]), [40, 60]);
    assert_eq!(bench.after(5.0).see(&[DOWN, UP]), [0, 100]);
    assert_eq!(bench.see(&[UP, UP]), [10, 90]);
    assert_eq!(bench.after(10.0).see(&[UP, UP]), [100, 0]);
}

const LINES: [&str; 10] = [
    "",
    "failover = \"gradual\"\nfailover_time = \"10s\"\nslow_start = \"5s\"",
    "failover = \"manual\"\nfailback = \"manual\"",
    "failback = \"delay\"\nfailback_delay = \"20s\"\nslow_start = \"10s\"\nmin_healthy = 2",
    "panic_threshold = 0.4\ndamping = { half_life = \"5s\", max_out = \"30s\" }",
    "panic_threshold = 1.0\nfailover = \"gradual\"",
    "damping = { changes = 2, half_life = \"60s\" }\nfailback = \"manual\"\nmin_healthy = 3",
    "failover = \"manual\"\nslow_start = \"30s\"\npanic_threshold = 0.3\nmin_healthy = 2",
    "failover = \"gradual\"\nfailover_time = \"30s\"\ndamping = { half_life = \"20s\" }\nslow_start = \"5s\"",
    "failover = \"manual\"\ndamping = { changes = 2 }\npanic_threshold = 0.6",
];
const BACKENDS: [&[&str]; 3] = [
    &["", "", "sorry = true"],
    &["priority = 1", "priority = 1", "priority = 2", "priority = 3"],
    &[
        "priority = 1",
        "priority = 2",
        "priority = 2",
        "sorry = true",
        "sorry = true",
    ],
];

#[derive(Clone, Debug)]
enum Act {
    See(usize, Health),
    Reach(usize, bool),
    Admin(usize, Admin),
    Weigh(usize, bool),
    Confirm(Confirm, Option<usize>),
    Reload(usize, usize),
    Wait(u64),
}

fn act() -> impl Strategy<Value = Act> {
    let health = prop::sample::select(vec![
        Health::Up,
        Health::Up,
        Health::Down,
        Health::Down,
        Health::Starting,
    ]);
    let admin = prop::sample::select(vec![Admin::Enabled, Admin::Enabled, Admin::Draining, Admin::Disabled]);
    let what = prop::sample::select(vec![Confirm::Failover, Confirm::Failback]);
    prop_oneof![
        8 => (0..5_usize, health).prop_map(|(one, health)| Act::See(one, health)),
        1 => (0..5_usize, any::<bool>()).prop_map(|(one, way)| Act::Reach(one, way)),
        2 => (0..5_usize, admin).prop_map(|(one, admin)| Act::Admin(one, admin)),
        1 => (0..5_usize, any::<bool>()).prop_map(|(one, some)| Act::Weigh(one, some)),
        1 => (what, prop::option::of(0..5_usize)).prop_map(|(what, one)| Act::Confirm(what, one)),
        1 => (0..LINES.len(), 0..BACKENDS.len()).prop_map(|(lines, backends)| Act::Reload(lines, backends)),
        4 => (0..40_000_u64).prop_map(Act::Wait),
    ]
}

/// What must hold whatever has happened.
fn holds(service: &Service, seen: &[Seen], outcome: &Outcome) -> Result<(), TestCaseError> {
    let usable = |seen: &Seen| seen.reachable && seen.admin == Admin::Enabled && seen.weighted;
    let serves = outcome.backends.iter().any(|decision| decision.fraction > 0);
    let allowed = seen.iter().any(|seen| usable(seen) && seen.health == Health::Up);
    prop_assert!(serves || !allowed, "nobody serves, and one could: {outcome:?}");
    let tolerant = service.policy.failover != crate::model::Failover::Fast;
    for ((backend, seen), decision) in service.backends.iter().zip(seen).zip(&outcome.backends) {
        let name = &backend.name;
        let may = tolerant && !backend.sorry || outcome.mode == Mode::Panic;
        if decision.fraction > 0 {
            prop_assert!(usable(seen), "{name} serves and must not: {seen:?}");
            prop_assert!(decision.serves, "{name} gets new flows and not its own");
            prop_assert!(
                seen.health == Health::Up || may,
                "{name} is not up: {seen:?} {outcome:?}"
            );
            let others = service.backends.iter().zip(&outcome.backends);
            let mut others = others.filter(|(other, decision)| !other.sorry && decision.fraction > 0);
            prop_assert!(
                !backend.sorry || others.next().is_none(),
                "{name} is for when nothing else is up"
            );
        }
        if decision.serves {
            prop_assert!(seen.reachable && seen.admin != Admin::Disabled, "{name}: {seen:?}");
            prop_assert!(seen.health == Health::Up || may, "{name}: {seen:?}");
        }
    }
    prop_assert!(outcome.mode != Mode::Panic || service.policy.panic_threshold > 0);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn whatever_happens_somebody_serves_and_nobody_who_must_not(
        lines in 0..LINES.len(), backends in 0..BACKENDS.len(), acts in prop::collection::vec(act(), 1..60)
    ) {
        let mut bench = Bench::new(LINES[lines], BACKENDS[backends]);
        let mut seen = [STARTING; 5];
        for act in acts {
            match act {
                Act::See(one, health) => seen[one].health = health,
                Act::Reach(one, way) => seen[one].reachable = way,
                Act::Admin(one, admin) => seen[one].admin = admin,
                Act::Weigh(one, some) => seen[one].weighted = some,
                Act::Confirm(what, one) => {
                    let name = one.map(|one| format!("b{one}"));
                    bench.machine.confirm(what, name.as_deref());
                }
                Act::Reload(lines, backends) => bench.service = service(LINES[lines], BACKENDS[backends]),
                Act::Wait(ms) => bench.now += Duration::from_millis(ms),
            }
            let seen = &seen[..bench.service.backends.len()];
            let outcome = bench.step(seen);
            holds(&bench.service, seen, &outcome)?;
            // Nothing new: nothing changes, and nothing is told twice.
            let again = bench.step(seen);
            prop_assert_eq!(&again.backends, &outcome.backends);
            prop_assert_eq!(again.changes, vec![]);
            prop_assert!(again.next.is_none_or(|next| next > bench.now), "a time that has passed: {:?}", again.next);
        }
        // By time alone every backend that is down goes, unless a word is waited for.
        bench.now += Duration::from_secs(48 * 3600);
        let seen = &seen[..bench.service.backends.len()];
        let outcome = bench.step(seen);
        if bench.service.policy.failover != crate::model::Failover::Manual && outcome.mode != Mode::Panic {
            for (seen, decision) in seen.iter().zip(&outcome.backends) {
                prop_assert!(decision.fraction == 0 || seen.health == Health::Up);
            }
        }
    }
}

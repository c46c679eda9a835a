use super::super::{State, Transition};
use super::*;
use crate::model::{Health, Http};

mod times;

const INTERVAL: Duration = Duration::from_millis(1_000);

fn health(rise: u32, fall: u32) -> Health {
    Health {
        check: Check::Tcp,
        port: 80,
        interval: INTERVAL,
        fast_interval: INTERVAL,
        timeout: INTERVAL / 2,
        rise,
        fall,
        jitter: 0.0,
        via: crate::model::Via::Direct,
    }
}

fn target(service: &str, backend: u8, health: Health) -> Target {
    Target {
        id: TargetId::new(service, &format!("b{backend}")),
        address: [127, 0, 0, backend].into(),
        via: Via::Direct,
        health,
        initial: None,
    }
}

fn roster() -> Roster {
    Roster::new(fastrand::Rng::with_seed(1))
}

fn result(outcome: Outcome, at: Instant) -> LastProbe {
    LastProbe {
        outcome,
        text: "told so".into(),
        took: Duration::from_millis(1),
        at,
    }
}

/// Runs due probes for `time`, each answered at once by `answer`; returns when each of them started.
fn run(
    roster: &mut Roster,
    from: Instant,
    time: Duration,
    mut answer: impl FnMut(&Job) -> Outcome,
) -> Vec<(Duration, SocketAddr)> {
    let mut starts = Vec::new();
    while let Some(due) = roster.next_due().filter(|due| *due <= from + time) {
        if let Some((id, job)) = roster.take_due(due, Duration::ZERO) {
            starts.push((due - from, job.to));
            roster.record(id, result(answer(&job), due));
        }
    }
    starts
}

fn states(roster: &Roster) -> Vec<(String, State)> {
    let name = |status: Status| (format!("{}/{}", status.id.service, status.id.backend), status.state);
    let mut states: Vec<_> = roster.snapshot().into_iter().map(name).collect();
    states.sort_by(|a, b| a.0.cmp(&b.0));
    states
}

#[test]
fn one_probe_serves_all_who_want_the_same() {
    let start = Instant::now();
    let mut roster = roster();
    let services: Vec<String> = (0..500).map(|n| format!("s{n}")).collect();
    let of_service = |service: &String| {
        (1..=20)
            .map(|backend| target(service, backend, health(2, 3)))
            .collect::<Vec<_>>()
    };
    roster.set(services.iter().flat_map(of_service).collect(), start);
    assert_eq!((roster.probes(), roster.snapshot().len()), (20, 10_000));

    let starts = run(&mut roster, start, INTERVAL, |_| Outcome::Passed);
    assert!(starts.len() <= 40, "{} probes in one interval", starts.len());
    let changes = roster.take_changes();
    assert_eq!(changes.len(), 10_000, "each of them is told");
    assert!(roster.snapshot().iter().all(|status| status.state == State::Up));
}

#[test]
fn whatever_differs_is_a_probe_of_its_own() {
    let start = Instant::now();
    let mut roster = roster();
    let http = |path: &str, host: Option<&str>| {
        Check::Http(Http {
            host: host.map(str::to_owned),
            ..Http::get(path)
        })
    };
    let with = |change: &dyn Fn(&mut Health)| {
        let mut health = health(2, 3);
        change(&mut health);
        health
    };
    let all = [
        with(&|_| ()),
        with(&|health| health.port = 81),
        with(&|health| health.interval *= 2),
        with(&|health| health.timeout /= 2),
        with(&|health| health.jitter = 0.1),
        with(&|health| health.check = http("/", None)),
        with(&|health| health.check = http("/x", None)),
        with(&|health| health.check = http("/", Some("h"))),
        // Rise and fall are the judge's affair, not the probe's.
        with(&|health| health.rise = 9),
        with(&|health| health.fall = 9),
    ];
    let targets = all.iter().enumerate();
    let targets = targets
        .map(|(n, health)| target(&n.to_string(), 1, health.clone()))
        .collect();
    roster.set(targets, start);
    assert_eq!(roster.probes(), 8);
}

#[test]
fn sharers_have_their_own_rise_and_fall() {
    let start = Instant::now();
    let mut roster = roster();
    roster.set(
        vec![target("fast", 1, health(1, 1)), target("slow", 1, health(1, 3))],
        start,
    );
    run(&mut roster, start, Duration::ZERO, |_| Outcome::Passed);
    roster.take_changes();
    run(&mut roster, start, INTERVAL, |_| Outcome::Failed);
    let changes = roster.take_changes();
    let [change] = changes.as_slice() else {
        panic!("{changes:?}");
    };
    assert_eq!(&*change.id.service, "fast");
    assert_eq!(
        change.transition,
        Transition {
            from: State::Up,
            to: State::Down
        }
    );
    assert_eq!(&*change.reason, "told so");
}

#[test]
fn a_new_set_keeps_what_is_the_same() {
    let start = Instant::now();
    let mut roster = roster();
    roster.set(vec![target("s", 1, health(2, 3)), target("s", 2, health(2, 3))], start);
    run(&mut roster, start, INTERVAL / 2, |_| Outcome::Passed);
    let due = roster.next_due();
    roster.take_changes();

    let now = start + INTERVAL / 2;
    roster.set(vec![target("s", 1, health(2, 3)), target("s", 3, health(2, 3))], now);
    let up_and_new = [("s/b1".to_owned(), State::Up), ("s/b3".to_owned(), State::Starting)];
    assert_eq!(states(&roster), up_and_new);
    let starts = run(&mut roster, now, INTERVAL * 2, |_| Outcome::Passed);
    let of = |n: u8| SocketAddr::from(([127, 0, 0, n], 80));
    assert_eq!(
        starts.iter().filter(|(_, address)| *address == of(2)).count(),
        0,
        "removed"
    );
    let first = starts
        .iter()
        .find(|(_, address)| *address == of(1))
        .map(|(at, _)| now + *at);
    assert_eq!(first, due, "on its old schedule");
    assert_eq!(
        starts.first().map(|(_, address)| *address),
        Some(of(3)),
        "the new one at once"
    );
}

#[test]
fn changed_settings_keep_the_verdict_but_another_address_does_not() {
    let start = Instant::now();
    let mut roster = roster();
    let set_and_state = |roster: &mut Roster, changed: Target| {
        roster.set(vec![target("s", 1, health(2, 3))], start);
        run(roster, start, Duration::ZERO, |_| Outcome::Passed);
        roster.set(vec![changed], start);
        let state = states(roster)[0].1;
        roster.set(Vec::new(), start);
        assert_eq!(
            (roster.probes(), roster.next_due().is_some()),
            (0, true),
            "stale entries only"
        );
        state
    };
    let with = |change: &dyn Fn(&mut Target)| {
        let mut target = target("s", 1, health(2, 3));
        change(&mut target);
        target
    };
    for (name, changed, expected) in [
        ("nothing", with(&|_| ()), State::Up),
        (
            "initial counts for new ones only",
            with(&|target| target.initial = Some(false)),
            State::Up,
        ),
        ("fall", with(&|target| target.health.fall = 1), State::Up),
        ("interval", with(&|target| target.health.interval /= 2), State::Up),
        ("port", with(&|target| target.health.port = 81), State::Up),
        (
            "address",
            with(&|target| target.address = [127, 0, 0, 9].into()),
            State::Starting,
        ),
    ] {
        assert_eq!(set_and_state(&mut roster, changed), expected, "{name}");
    }
}

#[test]
fn a_restart_begins_with_what_was_known() {
    let start = Instant::now();
    let mut roster = roster();
    let known = |n, initial| Target {
        initial,
        ..target("s", n, health(2, 3))
    };
    roster.set(vec![known(1, Some(true)), known(2, Some(false)), known(3, None)], start);
    let expected = [State::Up, State::Down, State::Starting].into_iter().zip(1..);
    let expected: Vec<_> = expected.map(|(state, n)| (format!("s/b{n}"), state)).collect();
    assert_eq!(states(&roster), expected);
    assert!(roster.take_changes().is_empty(), "that is no change");
}

#[test]
fn who_joins_a_running_probe_knows_what_it_knows() {
    let start = Instant::now();
    let mut roster = roster();
    let first = target("first", 1, health(2, 3));
    roster.set(vec![first.clone()], start);
    run(&mut roster, start, Duration::ZERO, |_| Outcome::Passed);
    roster.take_changes();
    roster.set(vec![first, target("second", 1, health(2, 3))], start);
    let changes = roster.take_changes();
    let told: Vec<_> = changes
        .iter()
        .map(|change| (&*change.id.service, change.transition.to))
        .collect();
    assert_eq!(told, [("second", State::Up)]);
}

#[test]
fn results_of_removed_probes_are_dropped() {
    let start = Instant::now();
    let mut roster = roster();
    let only = target("s", 1, health(1, 1));
    roster.set(vec![only.clone()], start);
    let (old, _) = roster.take_due(start, Duration::ZERO).expect("the first");
    roster.set(Vec::new(), start);
    assert!(!roster.wants(old));
    roster.set(vec![only.clone()], start);
    roster.record(old, result(Outcome::Failed, start));
    assert!(roster.take_changes().is_empty(), "it was about the predecessor");
    let status = roster.status(&only.id).expect("it is in the set");
    assert_eq!((status.state, status.failed), (State::Starting, 0));
}

#[test]
fn skipped_probes_are_counted_and_decide_nothing() {
    let start = Instant::now();
    let mut roster = roster();
    let only = target("s", 1, health(1, 1));
    roster.set(vec![only.clone()], start);
    run(&mut roster, start, Duration::ZERO, |_| Outcome::Skipped);
    let (_, job) = roster.take_due(start + INTERVAL, Duration::ZERO).expect("the second");
    assert!(!job.excuse_stall, "no second excuse in a row");
    let status = roster.status(&only.id).expect("it is in the set");
    assert_eq!((status.state, status.skipped, status.failed), (State::Starting, 1, 0));
    assert!(roster.take_changes().is_empty());
}

#[test]
fn the_same_target_twice_is_one() {
    let start = Instant::now();
    let mut roster = roster();
    let other = Target {
        address: [127, 0, 0, 2].into(),
        ..target("s", 1, health(1, 1))
    };
    roster.set(vec![target("s", 1, health(1, 1)), other], start);
    assert_eq!((roster.probes(), roster.snapshot().len()), (1, 1));
    assert_eq!(
        roster.snapshot()[0].address.ip(),
        std::net::IpAddr::from([127, 0, 0, 2])
    );
}

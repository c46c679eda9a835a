//! What one daemon leaves the next.

use std::collections::BTreeMap;

use super::*;

/// When the tests begin, by the wall.
const BEGIN: u64 = 1_772_366_400_000;

/// The positions at a time that is `bench.now`, so many seconds after the beginning.
fn left(bench: &Bench, seconds: u64) -> BTreeMap<String, Position> {
    let now = Now {
        instant: bench.now,
        unix_ms: BEGIN + seconds * 1000,
    };
    let left = bench.machine.positions(&bench.service, now);
    // As from the file.
    let text = serde_json::to_string(&left).expect("JSON");
    serde_json::from_str(&text).expect("the same")
}

/// Another daemon, so many seconds after the beginning; those of `had` have slots. Says who goes on falling.
fn next(bench: &mut Bench, left: &BTreeMap<String, Position>, had: &[&str], seconds: u64) -> Vec<String> {
    bench.machine = Machine::default();
    let now = Now {
        instant: bench.now,
        unix_ms: BEGIN + seconds * 1000,
    };
    let falling = bench.service.backends.iter().filter(|backend| {
        let name = backend.name.as_str();
        bench
            .machine
            .resume(&bench.service, backend, left.get(name), had.contains(&name), now)
    });
    falling.map(|backend| backend.name.clone()).collect()
}

#[test]
fn a_slow_start_goes_on() {
    let mut bench = Bench::running("slow_start = \"20s\"", &["", ""]);
    bench.see(&[DOWN, UP]);
    bench.see(&[UP, UP]);
    assert_eq!(bench.after(10.0).see(&[UP, UP]), [60, 100]);
    let positions = left(&bench, 10);
    assert_eq!(positions.keys().collect::<Vec<_>>(), ["b0"]);
    next(&mut bench, &positions, &["b0", "b1"], 10);
    assert_eq!(bench.see(&[UP, UP]), [60, 100]);
    assert_eq!(bench.after(10.0).see(&[UP, UP]), [100, 100]);
    assert_eq!(left(&bench, 20), BTreeMap::new());
}

#[test]
fn a_gradual_failover_goes_on() {
    let mut bench = Bench::running("failover = \"gradual\"\nfailover_time = \"10s\"", &["", ""]);
    bench.see(&[DOWN, UP]);
    assert_eq!(bench.after(5.0).see(&[DOWN, UP]), [40, 100]);
    let positions = left(&bench, 5);
    assert_eq!(next(&mut bench, &positions, &["b0", "b1"], 5), ["b0"]);
    assert_eq!(bench.see(&[DOWN, UP]), [40, 100]);
    assert_eq!(bench.after(5.0).see(&[DOWN, UP]), [0, 100]);
    // The tables are newer than the file.
    assert_eq!(next(&mut bench, &positions, &["b1"], 10), [""; 0]);
    assert_eq!(bench.see(&[STARTING, UP]), [0, 100]);
}

#[test]
fn who_waits_for_a_time_waits_on() {
    let mut bench = Bench::running("failback = \"delay\"\nfailback_delay = \"60s\"", &["", ""]);
    bench.see(&[DOWN, UP]);
    bench.see(&[UP, UP]);
    assert_eq!(bench.after(50.0).see(&[UP, UP]), [0, 100]);
    let positions = left(&bench, 50);
    next(&mut bench, &positions, &["b1"], 50);
    let outcome = bench.step(&[STARTING, UP]);
    assert_eq!((outcome.backends[0].fraction, outcome.next), (0, None));
    assert_eq!(outcome.backends[0].standing, Standing::Starting);
    let until = Some(bench.now + Duration::from_secs(10));
    assert_eq!(bench.step(&[UP, UP]).backends[0].standing, Standing::Waiting { until });
    assert_eq!(bench.after(10.0).see(&[UP, UP]), [100, 100]);
    // Down when the next one comes: it waits anew.
    next(&mut bench, &positions, &["b1"], 60);
    assert_eq!(bench.see(&[DOWN, UP]), [0, 100]);
    assert_eq!(bench.see(&[UP, UP]), [0, 100]);
    assert_eq!(bench.after(59.0).see(&[UP, UP]), [0, 100]);
    // It has slots: it came back after the file was written.
    next(&mut bench, &positions, &["b0", "b1"], 60);
    assert_eq!(bench.see(&[UP, UP]), [100, 100]);
}

#[test]
fn who_is_out_until_a_word_comes_stays_out_without_tables_too() {
    let mut bench = Bench::running("failback = \"manual\"", &["", ""]);
    bench.see(&[DOWN, UP]);
    let positions = left(&bench, 1);
    assert_eq!(positions.keys().collect::<Vec<_>>(), ["b0"]);
    next(&mut bench, &positions, &[], 2);
    assert_eq!(bench.see(&[STARTING, UP]), [0, 100]);
    assert_eq!(bench.after(9999.0).see(&[UP, UP]), [0, 100]);
    bench.machine.confirm(Confirm::Failback, None);
    assert_eq!(bench.see(&[UP, UP]), [100, 100]);
    // The tables are newer than the file.
    next(&mut bench, &positions, &["b0", "b1"], 2);
    assert_eq!(bench.see(&[UP, UP]), [100, 100]);
    // Another policy takes back whoever is up.
    bench.service = service("", &["", ""]);
    next(&mut bench, &positions, &[], 2);
    assert_eq!(bench.see(&[UP, UP]), [100, 100]);
}

#[test]
fn who_flaps_is_remembered() {
    let damping = "damping = { changes = 3, half_life = \"10s\", max_out = \"60s\" }";
    let mut bench = Bench::running(damping, &["", ""]);
    for _ in 0..2 {
        bench.after(1.0).see(&[DOWN, UP]);
        bench.after(1.0).see(&[UP, UP]);
    }
    // Not held out yet, but close to it: over a restart, too.
    let positions = left(&bench, 4);
    next(&mut bench, &positions, &["b0", "b1"], 4);
    assert_eq!(bench.see(&[UP, UP]), [100, 100]);
    assert_eq!(
        bench.after(1.0).kinds(&[DOWN, UP]),
        [EventKind::BackendDamped, EventKind::Failover]
    );
    bench.see(&[UP, UP]);
    let Standing::Damped { until } = bench.step(&[UP, UP]).backends[0].standing else {
        panic!("not held out")
    };
    let positions = left(&bench, 5);
    bench.after(3.0);
    next(&mut bench, &positions, &["b1"], 8);
    assert_eq!(bench.see(&[STARTING, UP]), [0, 100]);
    let Standing::Damped { until: then } = bench.step(&[UP, UP]).backends[0].standing else {
        panic!("not held out any more")
    };
    let apart = then.max(until) - then.min(until);
    assert!(apart < Duration::from_millis(10), "{apart:?}");
    bench.now = then;
    assert_eq!(bench.see(&[UP, UP]), [100, 100]);
    // Without damping there is nothing to remember.
    bench.service = service("", &["", ""]);
    next(&mut bench, &positions, &["b1"], 8);
    assert_eq!(bench.see(&[UP, UP]), [100, 100]);
}

#[test]
fn a_clock_that_was_set_and_a_strange_number_do_no_harm() {
    let lines = "failback = \"delay\"\nfailback_delay = \"60s\"\ndamping = { half_life = \"10s\", max_out = \"60s\" }";
    let mut bench = Bench::running(lines, &["", ""]);
    for (since, penalty) in [(u64::MAX, f64::MAX), (0, -1.0), (BEGIN + 999_000, 0.0)] {
        let strange = Position {
            way: Some(Way::Waiting),
            since_unix_ms: since,
            penalty,
            penalty_unix_ms: since,
            damped: false,
        };
        let positions = [("b0".to_owned(), strange), ("gone".to_owned(), strange)].into();
        next(&mut bench, &positions, &["b1"], 0);
        let outcome = bench.step(&[UP, UP]);
        assert!(outcome.next.is_none_or(|next| next > bench.now), "{outcome:?}");
        assert_eq!(outcome.backends[1].fraction, WHOLE);
    }
}

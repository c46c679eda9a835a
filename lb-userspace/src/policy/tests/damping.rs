//! Who changes too often.

use super::*;

#[test]
fn who_flaps_stays_out_for_longer_and_longer() {
    let damping = "damping = { changes = 3, half_life = \"10s\", max_out = \"60s\" }";
    let mut bench = Bench::running(damping, &["", ""]);
    let mut outs = Vec::new();
    for flap in 1..=12 {
        bench.after(1.0).see(&[DOWN, UP]);
        let outcome = bench.after(1.0).step(&[UP, UP]);
        match outcome.backends[0].standing {
            Standing::Serving => assert!(flap < 3, "{flap}"),
            Standing::Damped { until } => {
                assert_eq!(outcome.next, Some(until));
                outs.push(until - bench.now);
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(outs.is_sorted() && outs[0] >= Duration::from_secs(10), "{outs:?}");
    let most = outs[outs.len() - 1];
    assert!(most <= Duration::from_secs(61) && most > outs[0], "{outs:?}");
    assert_eq!(bench.see(&[UP, UP]), [0, 100]);
    // Nothing else is up: better one that flaps than none.
    assert_eq!(bench.step(&[UP, DOWN]).mode, Mode::LastResort);
    bench.see(&[UP, UP]);
    bench.now += most + Duration::from_secs(1);
    assert_eq!(
        bench.kinds(&[UP, UP]),
        [EventKind::BackendReleased, EventKind::Failback]
    );
    assert_eq!(bench.see(&[UP, UP]), [100, 100]);
}

const EAGER: &str = "damping = { changes = 3, half_life = \"10s\", max_out = \"60s\" }\npanic_threshold = 0.6";

#[test]
fn a_gradual_failover_does_not_keep_one_that_flaps_in() {
    let lines = format!("failover = \"gradual\"\nfailover_time = \"30s\"\n{EAGER}");
    let mut bench = Bench::running(&lines, &["", "", ""]);
    for _ in 0..2 {
        bench.after(1.0).see(&[DOWN, UP, UP]);
        assert_eq!(bench.after(1.0).see(&[UP; 3]), [100; 3]);
    }
    let outcome = bench.after(1.0).step(&[DOWN, UP, UP]);
    let damped = outcome
        .changes
        .iter()
        .find(|change| change.kind == EventKind::BackendDamped);
    assert!(damped.expect("said").to.starts_with("held out for"), "{outcome:?}");
    let outcome = bench.after(1.0).step(&[UP; 3]);
    assert!(
        matches!(outcome.backends[0].standing, Standing::Damped { .. }),
        "{outcome:?}"
    );
    assert_eq!((outcome.backends[0].fraction, outcome.mode), (0, Mode::Normal));
    let failover = outcome.changes.iter().find(|change| change.kind == EventKind::Failover);
    assert_eq!(failover.expect("said").why, "it changed too often");
    bench.now = outcome.next.expect("a time");
    assert_eq!(bench.see(&[UP; 3]), [100; 3]);
}

#[test]
fn a_manual_failover_keeps_one_that_flaps_and_says_so() {
    let lines = format!("failover = \"manual\"\n{EAGER}");
    let mut bench = Bench::running(&lines, &["", ""]);
    for _ in 0..2 {
        bench.after(1.0).see(&[DOWN, UP]);
        bench.after(1.0).see(&[UP; 2]);
    }
    let outcome = bench.after(1.0).step(&[DOWN, UP]);
    let damped = outcome
        .changes
        .iter()
        .find(|change| change.kind == EventKind::BackendDamped);
    assert!(
        damped.expect("said").to.starts_with("serving on; held out for"),
        "{outcome:?}"
    );
    // It serves: it counts as healthy, and nothing waits for a word.
    let outcome = bench.after(1.0).step(&[UP; 2]);
    assert_eq!((outcome.backends[0].fraction, outcome.mode), (WHOLE, Mode::Normal));
    assert_eq!(bench.machine.confirm(Confirm::Failback, None), [""; 0]);
    // Confirmed, it is out, and stays out.
    bench.after(1.0).see(&[DOWN, UP]);
    bench.machine.confirm(Confirm::Failover, None);
    bench.step(&[DOWN, UP]);
    let outcome = bench.after(1.0).step(&[UP; 2]);
    assert!(
        matches!(outcome.backends[0].standing, Standing::Damped { .. }),
        "{outcome:?}"
    );
}

//! Panic, and services that nobody serves.

use super::*;

#[test]
fn in_panic_all_are_used() {
    let mut bench = Bench::running("panic_threshold = 0.5", &["", "", "", "", "sorry = true"]);
    assert_eq!(bench.see(&[UP, UP, DOWN, DOWN, UP]), [100, 100, 0, 0, 0]);
    let outcome = bench.step(&[UP, DOWN, DOWN, DOWN, UP]);
    assert_eq!(outcome.mode, Mode::Panic);
    let panic = outcome
        .changes
        .iter()
        .find(|change| change.kind == EventKind::PanicOn)
        .expect("said");
    assert_eq!(panic.why, "1 of 4 backends are healthy, fewer than 50 %: all are used");
    assert_eq!(bench.see(&[DOWN; 5]), [100, 100, 100, 100, 0]);
    // Who is disabled or out of reach is not used, and who is disabled does not count.
    let disabled = Seen {
        admin: Admin::Disabled,
        ..DOWN
    };
    let away = Seen {
        reachable: false,
        ..DOWN
    };
    assert_eq!(bench.see(&[DOWN, disabled, away, DOWN, UP]), [100, 0, 0, 100, 0]);
    assert!(bench.kinds(&[UP, UP, UP, DOWN, UP]).contains(&EventKind::PanicOff));
    // Nothing is known at the beginning: that is no panic.
    let mut bench = Bench::new("panic_threshold = 0.5", &["", ""]);
    assert_eq!(bench.step(&[STARTING; 2]).mode, Mode::Starting);
    assert_eq!(bench.step(&[DOWN, STARTING]).mode, Mode::Starting);
    assert_eq!(bench.step(&[DOWN, DOWN]).mode, Mode::Panic);
}

/// Who has no way, as the daemon finds it.
const AWAY: Seen = Seen { reachable: false, ..UP };

#[test]
fn a_service_that_never_gets_a_verdict_is_lost_after_a_while() {
    let never = Seen {
        reachable: false,
        ..STARTING
    };
    for seen in [[STARTING; 2], [never; 2], [AWAY; 2], [DOWN, STARTING], [DOWN, AWAY]] {
        let mut bench = Bench::new("", &["", ""]);
        let outcome = bench.step(&seen);
        assert_eq!((outcome.mode, outcome.changes), (Mode::Starting, vec![]), "{seen:?}");
        let until = outcome.next.expect("it does not wait for ever");
        assert!(
            until >= bench.now + FIRST_WORD && until < bench.now + 2 * FIRST_WORD,
            "{seen:?}"
        );
        assert_eq!(bench.after(4.0).step(&seen).next, Some(until));
        bench.now = until;
        let outcome = bench.step(&seen);
        assert_eq!((outcome.mode, outcome.next), (Mode::Nobody, None), "{seen:?}");
        let lost: Vec<EventKind> = outcome.changes.iter().map(|change| change.kind).collect();
        assert_eq!(lost, [EventKind::ServiceLost], "{seen:?}");
        assert_eq!(bench.kinds(&seen), []);
        let back = bench.kinds(&[UP, STARTING]);
        assert!(back.contains(&EventKind::ServiceBack), "{seen:?}: {back:?}");
    }
    // A start that goes well says nothing, and nothing comes back that was not lost.
    let mut bench = Bench::new("", &["", ""]);
    bench.step(&[AWAY, STARTING]);
    assert_eq!(bench.after(1.0).kinds(&[UP, STARTING]), []);
    // Without anybody to serve there is nothing to wait for.
    let disabled = Seen {
        admin: Admin::Disabled,
        ..UP
    };
    let mut bench = Bench::new("", &["", ""]);
    assert_eq!(bench.kinds(&[disabled; 2]), [EventKind::ServiceLost]);
}

#[test]
fn a_lost_service_is_back_when_somebody_serves_and_not_before() {
    let mut bench = Bench::running("", &["", ""]);
    assert!(bench.kinds(&[DOWN; 2]).contains(&EventKind::ServiceLost));
    let outcome = bench.step(&[DOWN, STARTING]);
    assert_eq!((outcome.mode, outcome.changes), (Mode::Nobody, vec![]));
    assert!(bench.kinds(&[DOWN, UP]).contains(&EventKind::ServiceBack));
}

#[test]
fn an_event_names_who_says_that_it_is_down() {
    for (by_agent, why) in [(false, "its checks fail"), (true, "its agent says that it is down")] {
        let mut bench = Bench::running("", &["", ""]);
        let outcome = bench.step(&[Seen { by_agent, ..DOWN }, UP]);
        assert_eq!(outcome.changes[0].why, why);
    }
}

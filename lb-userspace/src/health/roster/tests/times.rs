//! When probes start.

use super::*;

#[test]
fn first_probes_are_soon_and_spread() {
    // (targets, interval in ms, the time within which all have been probed once)
    for (count, interval, window) in [
        (1, 1_000, 0),
        (20, 1_000, 100),
        (20, 50, 50),
        (5_000, 60_000, 1_000),
        (10_000, 1_000, 1_000),
    ] {
        let start = Instant::now();
        let mut roster = roster();
        let health = Health {
            interval: Duration::from_millis(interval),
            ..health(1, 1)
        };
        let of = |n: u32| Target {
            address: std::net::Ipv4Addr::from(0x7f00_0001 + n).into(),
            ..target(&n.to_string(), 1, health.clone())
        };
        roster.set((0..count).map(of).collect(), start);
        let window = Duration::from_millis(window);
        let first = run(&mut roster, start, window, |_| Outcome::Passed);
        assert!(
            roster.snapshot().iter().all(|status| status.passed > 0),
            "{count} targets"
        );
        // No tenth of the window has more than its share and what rounding adds.
        let tenth =
            |(at, _): &(Duration, SocketAddr)| (at.as_secs_f64() / window.as_secs_f64().max(0.001) * 10.0) as usize;
        let in_tenth = |n| first.iter().filter(|start| tenth(start) == n).count() as u32;
        let most = (0..10).map(in_tenth).max().unwrap_or(0);
        // The second round may begin before the first is through.
        assert!(
            most <= count / 10 * 2 + 2,
            "{most} of {count} probes in one tenth of the window"
        );
    }
}

/// A hundred targets, all up, whose probes are spread over the interval; and when they began, two intervals before.
fn a_hundred_up(fall: u32) -> (Roster, Instant) {
    let start = Instant::now();
    let mut roster = roster();
    roster.set((1..=100).map(|n| target("s", n, health(1, fall))).collect(), start);
    run(&mut roster, start, 2 * INTERVAL, |_| Outcome::Passed);
    (roster, start)
}

#[test]
fn second_probes_spread_over_the_interval() {
    let (mut roster, start) = a_hundred_up(1);
    let steady = run(&mut roster, start, 3 * INTERVAL, |_| Outcome::Passed);
    assert_eq!(steady.len(), 100, "one probe an interval each");
    for tenth in 20..30 {
        let inside = |(at, _): &&(Duration, SocketAddr)| at.as_millis() / 100 == tenth;
        let probes = steady.iter().filter(inside).count();
        assert!((8..=12).contains(&probes), "{probes} probes in tenth {tenth}");
    }
}

#[test]
fn jitter_moves_probes_and_keeps_their_mean() {
    let start = Instant::now();
    let mut roster = roster();
    let jittered = Health {
        jitter: 0.2,
        via: crate::model::Via::Direct,
        ..health(1, 1)
    };
    roster.set(vec![target("s", 1, jittered)], start);
    let starts = run(&mut roster, start, 1_000 * INTERVAL, |_| Outcome::Passed);
    let gaps: Vec<f64> = starts
        .windows(2)
        .skip(1)
        .map(|pair| (pair[1].0 - pair[0].0).as_secs_f64())
        .collect();
    let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
    assert!((mean - 1.0).abs() < 0.02, "mean {mean}");
    let (least, most) = gaps.iter().fold((f64::MAX, 0.0_f64), |(least, most), gap| {
        (least.min(*gap), most.max(*gap))
    });
    assert!(least >= 0.8 && most <= 1.2, "{least} to {most}");
    assert!(
        least < 0.85 && most > 1.15,
        "{least} to {most}: the whole of the jitter is used"
    );
}

#[test]
fn a_probe_never_overlaps_itself() {
    let start = Instant::now();
    let mut roster = roster();
    roster.set(vec![target("s", 1, health(1, 1))], start);
    let (id, _) = roster.take_due(start, Duration::ZERO).expect("the first");
    assert!(
        roster.take_due(start + INTERVAL, Duration::ZERO).is_none(),
        "it still runs"
    );
    assert!(roster.take_due(start + 3 * INTERVAL, Duration::ZERO).is_none());
    let end = start + 3 * INTERVAL + INTERVAL / 4;
    roster.record(id, result(Outcome::Failed, end));
    assert!(roster.take_due(end, Duration::ZERO).is_some(), "overdue: at once");
    assert!(roster.take_due(end, Duration::ZERO).is_none(), "and only once");
    assert_eq!(roster.next_due(), Some(end + INTERVAL));
}

#[test]
fn a_lone_target_keeps_its_interval() {
    let start = Instant::now();
    let mut roster = roster();
    roster.set(vec![target("s", 1, health(1, 1))], start);
    let starts = run(&mut roster, start, 3 * INTERVAL, |_| Outcome::Passed);
    let starts: Vec<_> = starts.into_iter().map(|(at, _)| at).collect();
    assert_eq!(starts, [0, 1, 2, 3].map(|n| n * INTERVAL));
}

#[test]
fn missed_time_is_not_made_up_for() {
    let start = Instant::now();
    let mut roster = roster();
    roster.set(vec![target("s", 1, health(1, 1))], start);
    run(&mut roster, start, Duration::ZERO, |_| Outcome::Passed);
    let late = start + 100 * INTERVAL;
    let (id, _) = roster.take_due(late, Duration::ZERO).expect("due long since");
    roster.record(id, result(Outcome::Passed, late));
    assert!(
        roster.take_due(late, Duration::ZERO).is_none(),
        "one probe, not a hundred"
    );
    assert_eq!(roster.next_due(), Some(late + INTERVAL));
}

#[test]
fn who_never_catches_up_is_behind() {
    let (mut roster, start) = a_hundred_up(1);
    // Of a hundred a second, ninety begin: one every 11 ms.
    let mut now = start + 2 * INTERVAL;
    let begin = |roster: &mut Roster, now: Instant| {
        if let Some((id, _)) = roster.take_due(now, Duration::ZERO) {
            roster.record(id, result(Outcome::Passed, now));
        }
        roster.note_pace(now);
        roster.behind(now)
    };
    let lates: Vec<Option<Duration>> = (0..2_000)
        .map(|_| {
            now += Duration::from_micros(11_111);
            begin(&mut roster, now)
        })
        .collect();
    assert!(
        lates[..270].iter().all(Option::is_none),
        "nothing in the first three seconds"
    );
    assert!(lates[400..].iter().all(Option::is_some), "and it is said from then on");
    assert!(lates.iter().flatten().all(|late| *late < 2 * INTERVAL));
    assert!(lates.iter().flatten().any(|late| *late > INTERVAL / 2));
}

#[test]
fn who_may_be_dead_does_not_wait_for_a_backlog() {
    let (mut roster, start) = a_hundred_up(3);
    // All are due; the first one fails, twice more at once, and nobody else's turn comes before his.
    let mut now = start + 4 * INTERVAL;
    let (id, job) = roster.take_due(now, Duration::ZERO).expect("a hundred are due");
    roster.record(id, result(Outcome::Failed, now));
    for _ in 0..2 {
        now += INTERVAL;
        let (again, _) = roster.take_due(now, Duration::ZERO).expect("due");
        assert_eq!(again, id, "{}", job.to);
        roster.record(id, result(Outcome::Failed, now));
    }
    assert_eq!(roster.take_changes().len(), 100 + 1);
    // That is decided: the others' turn.
    let mut others = 0;
    while let Some((other, _)) = roster.take_due(now, Duration::ZERO) {
        assert_ne!(other, id);
        roster.record(other, result(Outcome::Passed, now));
        others += 1;
    }
    assert_eq!(others, 99);
}

#[test]
fn who_starts_early_is_not_early_the_next_time() {
    const SLACK: Duration = Duration::from_millis(3);
    let (mut roster, _) = a_hundred_up(1);
    // From now on they are due one every 10 ms, and each time round at the same moment as before.
    let due = roster.next_due().expect("a hundred");
    for round in 0..5 {
        let due = due + round * INTERVAL;
        assert!(roster.take_due(due - SLACK - Duration::from_micros(1), SLACK).is_none());
        for n in 0..100 {
            let now = due + n * INTERVAL / 100 - SLACK;
            let (id, _) = roster.take_due(now, SLACK).expect("it will be due");
            assert!(roster.take_due(now, SLACK).is_none(), "alone");
            roster.record(id, result(Outcome::Passed, now));
        }
    }
    // Whoever is due within the slack comes along, but not much before his time.
    let due = due + 5 * INTERVAL;
    let mut early = |slack| std::iter::from_fn(|| roster.take_due(due, slack)).count();
    assert_eq!(early(INTERVAL / 45), 3);
    assert_eq!(early(INTERVAL), 1, "INTERVAL / 32: 10 ms each");
}

#[test]
fn undecided_ones_are_asked_faster() {
    let start = Instant::now();
    let mut roster = roster();
    let quick = Health {
        fast_interval: INTERVAL / 10,
        jitter: 0.0,
        ..health(2, 3)
    };
    roster.set(vec![target("a", 1, quick)], start);
    // One probe decides, and the next comes at the usual pace; then three failures in a row, then silence until it answers.
    let mut number = 0;
    let starts = run(&mut roster, start, 4 * INTERVAL, |_| {
        number += 1;
        if number == 1 { Outcome::Passed } else { Outcome::Failed }
    });
    let gaps: Vec<Duration> = starts.windows(2).map(|pair| pair[1].0 - pair[0].0).collect();
    let quick = gaps.iter().filter(|gap| **gap == INTERVAL / 10).count();
    assert_eq!(quick, 2, "between the three failures: {gaps:?}");
    assert!(gaps[3..].iter().all(|gap| *gap > INTERVAL / 2), "decided: {gaps:?}");
}

/// Its jitter moves probes both ways while nothing is the matter, and only forward once a verdict is near.
#[test]
fn a_run_of_failures_is_never_put_off() {
    let start = Instant::now();
    let mut roster = roster();
    let jittered = Health {
        jitter: 0.5,
        ..health(1, 100)
    };
    roster.set(vec![target("s", 1, jittered)], start);
    let mut number = 0;
    let starts = run(&mut roster, start, 60 * INTERVAL, |_| {
        number += 1;
        if number == 1 { Outcome::Passed } else { Outcome::Failed }
    });
    let gaps: Vec<Duration> = starts.windows(2).skip(1).map(|pair| pair[1].0 - pair[0].0).collect();
    assert!((60..100).contains(&gaps.len()), "{}", gaps.len());
    assert!(
        gaps.iter().all(|gap| (INTERVAL / 2..=INTERVAL).contains(gap)),
        "{gaps:?}"
    );
}

#[test]
fn what_is_expedited_starts_now_but_not_too_often() {
    let start = Instant::now();
    let mut roster = roster();
    roster.set(vec![target("a", 1, health(2, 3)), target("b", 2, health(2, 3))], start);
    let settled = start + 2 * INTERVAL;
    run(&mut roster, start, settled - start, |_| Outcome::Passed);
    let address = target("a", 1, health(2, 3)).address;
    let now = roster.next_due().expect("probes") - Duration::from_micros(1);
    let due = roster.next_due();
    if roster.expedite(address, false, now) {
        let (id, job) = roster.take_due(now, Duration::ZERO).expect("due at once");
        assert_eq!(job.to.ip(), address);
        assert!(!roster.expedite(address, false, now), "it runs");
        roster.record(id, result(Outcome::Passed, now));
        assert!(!roster.expedite(address, false, now), "it has just run");
        assert!(roster.take_due(now, Duration::ZERO).is_none(), "and only once");
    } else {
        panic!("nothing was expedited, next due {due:?}");
    }
    assert!(
        !roster.expedite([192, 0, 2, 99].into(), false, now + INTERVAL),
        "nobody's"
    );
}

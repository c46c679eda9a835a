//! When rounds are due, and what their results come to.

use std::sync::Arc;

use super::*;
use crate::model::{self, Check};

const FULL: u16 = 1_500;

fn target(name: &str, up: bool) -> Target {
    Target {
        id: TargetId::new("web", name),
        address: [10, 0, 0, 1].into(),
        via: Via::Direct,
        health: model::Health {
            check: Check::Tcp,
            port: 80,
            interval: Duration::from_secs(2),
            fast_interval: Duration::from_millis(500),
            timeout: Duration::from_millis(100),
            rise: 2,
            fall: 3,
            jitter: 0.1,
            via: model::Via::Vip,
        },
        initial: Some(up),
    }
}

/// A schedule of one backend, `b1`, that is up.
fn one(now: Instant) -> Schedule {
    let mut schedule = Schedule::default();
    schedule.set(vec![target("b1", true)], now);
    assert!(schedule.set_full(FULL, now));
    schedule
}

fn b1() -> TargetId {
    TargetId::new("web", "b1")
}

/// Takes a round, which must be due, and ends it so; returns what it was to do.
#[track_caller]
fn end(schedule: &mut Schedule, now: Instant, result: Answer, size: u16) -> Due {
    let due = schedule.take_due(now).expect("one is due");
    let passes = (result == Answer::TooSmall && due.measure.wanted(size)).then_some(Some(1_380));
    schedule.record(&due, Round { size, result }, passes, now);
    due
}

/// As [`end`], when the next one is due; returns the time.
#[track_caller]
fn end_next(schedule: &mut Schedule, result: Answer, size: u16) -> Instant {
    let at = schedule.next_due().expect("one is to come");
    end(schedule, at, result, size);
    at
}

#[test]
fn those_that_are_up_are_asked_at_once_and_then_every_ten_seconds() {
    let now = Instant::now();
    let mut schedule = Schedule::default();
    schedule.set(vec![target("b1", true), target("b2", false)], now);
    assert_eq!(schedule.next_due(), None, "what is full is not known");
    assert!(schedule.set_full(FULL, now) && !schedule.set_full(FULL, now));
    assert_eq!(schedule.state(&b1()), Some(FullSizeState::Pending));
    let due = end(&mut schedule, now, Answer::Fits, FULL);
    assert_eq!((due.target.id, due.full, due.first), (b1(), FULL, FULL));
    assert_eq!(schedule.state(&b1()), Some(FullSizeState::Passed));
    assert_eq!(schedule.next_due(), Some(now + INTERVAL));
    // The other one comes up.
    let later = now + Duration::from_secs(1);
    schedule.set_up(&TargetId::new("web", "b2"), true, later);
    assert_eq!(schedule.next_due(), Some(later));
    schedule.set_up(&TargetId::new("web", "b2"), false, later);
    assert_eq!(schedule.next_due(), Some(now + INTERVAL));
    schedule.set_up(&TargetId::new("web", "b3"), true, later);
    assert_eq!(schedule.state(&TargetId::new("web", "b3")), None);
    // It stays so when its target is set again.
    schedule.set(vec![target("b1", true)], later);
    assert_eq!(schedule.next_due(), Some(now + INTERVAL));
    assert!(schedule.notable().is_empty());
}

#[test]
fn a_finding_takes_fall_failures_in_a_row_and_ends_after_rise_passes() {
    let now = Instant::now();
    let mut schedule = one(now);
    for result in [
        Answer::TooSmall,
        Answer::TooSmall,
        Answer::Fits,
        Answer::TooSmall,
        Answer::Unknown,
    ] {
        end_next(&mut schedule, result, FULL);
    }
    let before = end_next(&mut schedule, Answer::TooSmall, FULL);
    assert!(schedule.notable().is_empty());
    assert_eq!(schedule.state(&b1()), Some(FullSizeState::Pending));
    let found = end_next(&mut schedule, Answer::TooSmall, FULL);
    assert_eq!(found - before, Duration::from_millis(500), "doubt is settled soon");
    assert_eq!(schedule.state(&b1()), Some(FullSizeState::TooSmall));
    let notable = Notable {
        size: 1_500,
        too_small: true,
        passes: Some(1_380),
    };
    assert_eq!(schedule.notable()[&b1()], notable);
    // It is asked on as before, and passes end it.
    assert_eq!(end_next(&mut schedule, Answer::TooSmall, FULL) - found, INTERVAL);
    let first = end_next(&mut schedule, Answer::Fits, FULL);
    assert_eq!(schedule.state(&b1()), Some(FullSizeState::TooSmall));
    assert!(end_next(&mut schedule, Answer::Fits, FULL) - first < INTERVAL);
    assert_eq!(schedule.state(&b1()), Some(FullSizeState::Passed));
    assert!(schedule.notable().is_empty());
}

#[test]
fn what_passes_is_measured_when_it_decides_and_for_each_size() {
    let now = Instant::now();
    let mut schedule = one(now);
    let mut measures = Vec::new();
    for (seconds, size) in [
        (0, 1_500),
        (10, 1_500),
        (20, 1_500),
        (30, 1_500),
        (40, 1_400),
        (50, 1_400),
        (400, 1_400),
    ] {
        let due = end(
            &mut schedule,
            now + Duration::from_secs(seconds),
            Answer::TooSmall,
            size,
        );
        measures.push(due.measure.wanted(size));
    }
    assert_eq!(measures, [false, false, true, false, true, false, true]);
}

#[test]
fn a_smaller_segment_is_remembered() {
    let now = Instant::now();
    let mut schedule = one(now);
    end_next(&mut schedule, Answer::Fits, 1_400);
    let notable = Notable {
        size: 1_400,
        too_small: false,
        passes: None,
    };
    assert_eq!(schedule.notable()[&b1()], notable);
    let due = end(&mut schedule, now + INTERVAL, Answer::Fits, 1_400);
    assert_eq!(due.first, 1_400);
    // Clients of smaller interfaces.
    assert!(schedule.set_full(1_300, now));
    let due = end(&mut schedule, now, Answer::Fits, 1_300);
    assert_eq!((due.full, due.first), (1_300, 1_400));
    assert!(schedule.notable().is_empty());
}

#[test]
fn silence_of_padded_packets_alone_is_no_finding() {
    let now = Instant::now();
    let mut schedule = one(now);
    for _ in 0..3 {
        assert_eq!(schedule.state(&b1()), Some(FullSizeState::Pending));
        end_next(&mut schedule, Answer::Unanswered, FULL);
    }
    assert_eq!(schedule.state(&b1()), Some(FullSizeState::Unanswered));
    assert!(schedule.notable().is_empty());
    end_next(&mut schedule, Answer::Fits, FULL);
    assert_eq!(schedule.state(&b1()), Some(FullSizeState::Passed));
}

#[test]
fn a_finding_outlasts_a_path_that_is_made_anew() {
    let now = Instant::now();
    let mut schedule = one(now);
    for _ in 0..3 {
        end_next(&mut schedule, Answer::TooSmall, FULL);
    }
    let blocked = |name| Target {
        via: Via::Blocked(Arc::from("its interface is gone")),
        ..target(name, true)
    };
    schedule.set(vec![blocked("b1"), blocked("b2")], now);
    schedule.set_up(&b1(), true, now);
    assert_eq!(schedule.next_due(), None);
    assert_eq!(schedule.state(&b1()), Some(FullSizeState::TooSmall));
    assert_eq!(schedule.state(&TargetId::new("web", "b2")), None);
    schedule.set(vec![target("b1", true)], now);
    assert_eq!(schedule.next_due(), Some(now));
    assert_eq!(schedule.state(&b1()), Some(FullSizeState::TooSmall));
}

#[test]
fn what_comes_late_is_dropped() {
    let now = Instant::now();
    let mut schedule = one(now);
    let late = schedule.take_due(now).expect("one is due");
    assert_eq!(schedule.next_due(), None, "it runs");
    // Another address: another server.
    let mut other = target("b1", true);
    other.address = [10, 0, 0, 2].into();
    schedule.set(vec![other], now);
    let round = Round {
        size: FULL,
        result: Answer::Fits,
    };
    schedule.record(&late, round, None, now);
    assert_eq!(schedule.state(&b1()), Some(FullSizeState::Pending));
    assert_eq!(schedule.next_due(), Some(now));
    // Another full size meanwhile: asked again at once.
    let due = schedule.take_due(now).expect("one is due");
    assert!(schedule.set_full(1_400, now));
    schedule.record(&due, round, None, now);
    assert_eq!(schedule.next_due(), Some(now));
    schedule.set(Vec::new(), now);
    schedule.record(&due, round, None, now);
    assert_eq!((schedule.state(&b1()), schedule.next_due()), (None, None));
}

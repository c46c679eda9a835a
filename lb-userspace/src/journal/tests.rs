//! The journal over restarts, with broken files and disks that take nothing.

use std::fs;
use std::io::Write as _;

use super::*;

fn note(service: &str) -> Note {
    Note::new(EventKind::BackendDown, Cause::Check)
        .backend(service, "web-1")
        .change("up", "down")
        .because("connection refused")
}

fn ids(journal: &Journal, query: &EventQuery) -> Vec<u64> {
    journal.select(query).0.iter().map(|event| event.id).collect()
}

#[test]
fn events_outlive_the_daemon_and_their_numbers_go_on() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut journal = Journal::open(folder.path());
    for at in [10, 20, 30] {
        journal.add(note("web"), at);
    }
    let before = journal.select(&EventQuery::default());
    drop(journal);
    let mut journal = Journal::open(folder.path());
    assert_eq!(journal.select(&EventQuery::default()), before);
    assert_eq!(journal.add(note("dns"), 40).id, 4);
    assert_eq!(journal.problem(), None);
}

#[test]
fn what_is_asked_for_is_what_comes() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut journal = Journal::open(folder.path());
    for (at, service) in [(10, "web"), (20, "dns"), (30, "web"), (40, "dns")] {
        journal.add(note(service), at);
    }
    let all = EventQuery::default();
    assert_eq!(ids(&journal, &all), [1, 2, 3, 4]);
    let since = EventQuery {
        since_unix_ms: Some(20),
        ..all.clone()
    };
    assert_eq!(ids(&journal, &since), [2, 3, 4]);
    let web = EventQuery {
        service: Some("web".into()),
        ..all.clone()
    };
    assert_eq!(ids(&journal, &web), [1, 3]);
    let latest = EventQuery {
        limit: Some(2),
        ..all.clone()
    };
    assert_eq!(ids(&journal, &latest), [3, 4]);
    let next = EventQuery {
        after: Some(1),
        limit: Some(2),
        ..all.clone()
    };
    assert_eq!(ids(&journal, &next), [2, 3]);
    let none = EventQuery { after: Some(9), ..all };
    assert_eq!(ids(&journal, &none), [0_u64; 0]);
}

#[test]
fn half_a_last_line_costs_that_event_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut journal = Journal::open(folder.path());
    journal.add(note("web"), 10);
    journal.add(note("web"), 20);
    drop(journal);
    let path = folder.path().join("events.jsonl");
    let mut text = fs::read(&path).expect("written");
    text.truncate(text.len() - 20);
    text.extend([0xff, 0xfe]);
    fs::write(&path, text).expect("broken");
    let mut journal = Journal::open(folder.path());
    assert_eq!(ids(&journal, &EventQuery::default()), [1]);
    journal.add(note("web"), 30);
    drop(journal);
    let journal = Journal::open(folder.path());
    let times: Vec<u64> = journal
        .select(&EventQuery::default())
        .0
        .iter()
        .map(|event| event.at_unix_ms)
        .collect();
    assert_eq!(times, [10, 30]);
}

#[test]
fn a_long_file_is_put_aside_and_both_are_read() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("events.jsonl");
    let mut journal = Journal::open(folder.path());
    journal.add(note("web"), 10);
    drop(journal);
    let mut file = fs::OpenOptions::new().append(true).open(&path).expect("there");
    file.write_all(&vec![b' '; 12 << 20]).expect("long");
    drop(file);
    let mut journal = Journal::open(folder.path());
    journal.add(note("web"), 20);
    journal.add(note("web"), 30);
    drop(journal);
    assert!(fs::metadata(&path).expect("a new one").len() < 4096);
    let journal = Journal::open(folder.path());
    assert_eq!(ids(&journal, &EventQuery::default()), [1, 2, 3]);
    remove(folder.path()).expect("removed");
    assert_eq!(fs::read_dir(folder.path()).expect("there").count(), 0);
}

/// A folder where the file should be, as a disk that takes nothing.
#[test]
fn a_disk_that_takes_nothing_is_said_and_costs_the_file_only() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::create_dir(folder.path().join("events.jsonl")).expect("in the way");
    let mut journal = Journal::open(folder.path());
    for at in 0..100 {
        journal.add(note("web"), at);
    }
    assert_eq!(journal.select(&EventQuery::default()).0.len(), 100);
    let patience = std::time::Instant::now();
    while journal.problem().is_none() && patience.elapsed().as_secs() < 5 {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let problem = journal.problem().expect("said");
    assert!(problem.contains("events are missing in the events' file"), "{problem}");
}

#[test]
fn an_outage_is_kept_whole_and_a_flood_takes_nothing_from_what_is_rare() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut journal = Journal::open(folder.path());
    journal.add(Note::new(EventKind::ConfigApplied, Cause::File), 0);
    let kinds = [EventKind::BackendDown, EventKind::Failover, EventKind::ServiceLost];
    for number in 0..10_000 {
        let note = |kind| Note::new(kind, Cause::Policy).backend(&format!("s{number}"), "b");
        for kind in kinds {
            journal.add(note(kind), 1);
        }
    }
    let all = journal.select(&EventQuery::default()).0;
    assert_eq!(all.len(), 30_001, "10,000 backends of 10,000 services");
    assert!(all.is_sorted_by_key(|event| event.id));
    // One backend that flaps for long.
    for at in 0..2 * MOST as u64 {
        journal.add(note("web"), at);
    }
    let all = journal.select(&EventQuery::default()).0;
    let count = |kind| all.iter().filter(|event| event.kind == kind).count();
    assert_eq!(all.len(), MOST);
    assert_eq!(count(EventKind::ServiceLost), 10_000);
    assert_eq!(count(EventKind::Failover), 10_000);
    assert_eq!(all[0].kind, EventKind::ConfigApplied);
    assert!(all.is_sorted_by_key(|event| event.id));
}

//! Receivers that hang, are away, refuse and come back: over real sockets.

use std::collections::BTreeSet;
use std::fs::Permissions;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use serde::Deserialize;

use super::*;
use crate::model::SecretSource;
use crate::run_as::NamedUser;

pub(super) const PATIENCE: Duration = Duration::from_secs(20);

pub(super) fn event(id: u64) -> Arc<Event> {
    Arc::new(Event {
        id,
        at_unix_ms: 1_772_366_400_000,
        kind: EventKind::Failover,
        severity: Severity::Warning,
        service: Some("web".into()),
        backend: Some("web-1".into()),
        from: "in".into(),
        to: "out".into(),
        why: "its checks fail".into(),
        by: Cause::Policy,
    })
}

/// What a receiver was told in one message.
#[derive(Debug, Deserialize)]
pub(super) struct Told {
    #[serde(flatten)]
    event: Event,
    pub(super) count: u64,
    also: Vec<Also>,
}

#[derive(Debug, Deserialize)]
struct Also {
    id: u64,
}

impl Told {
    pub(super) fn ids(&self) -> Vec<u64> {
        let others = self.also.iter().map(|also| also.id);
        std::iter::once(self.event.id).chain(others).collect()
    }
}

pub(super) fn webhook(address: SocketAddr) -> Alert {
    Alert {
        name: "hook".into(),
        way: AlertWay::Webhook {
            url: SecretSource::Inline(format!("http://{address}/in?token=1").into()),
            ca_file: None,
        },
        least: Severity::Warning,
        kinds: Vec::new(),
        timeout: Duration::from_secs(2),
    }
}

pub(super) fn alerts(alert: Alert) -> Alerts {
    let mut alerts = Alerts::start().expect("a thread");
    alerts.set(&[alert]);
    alerts
}

/// Answers each POST with the next of `statuses`, then with 204, and passes on what it took.
pub(super) fn receiver(listener: TcpListener, statuses: Vec<u16>) -> Receiver<Told> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        let mut statuses = statuses.into_iter();
        let mut known = BTreeSet::new();
        while let Ok((stream, _)) = listener.accept() {
            let Some(told) = request(&stream) else { continue };
            let status = statuses.next().unwrap_or(204);
            let answer = format!("HTTP/1.1 {status} x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            let _ = (&stream).write_all(answer.as_bytes());
            // One that was given up as unanswered may have arrived all the same: it has the number and the kind that it had.
            let is_new = (200..300).contains(&status) && known.insert((told.event.id, told.event.kind));
            if is_new && sender.send(told).is_err() {
                return;
            }
        }
    });
    receiver
}

fn request(stream: &TcpStream) -> Option<Told> {
    let mut reader = BufReader::new(stream);
    let mut length = 0;
    let mut first = String::new();
    reader.read_line(&mut first).ok()?;
    assert_eq!(first, "POST /in?token=1 HTTP/1.1\r\n");
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        if line == "\r\n" {
            break;
        }
        if let Some(value) = line.to_lowercase().strip_prefix("content-length: ") {
            length = value.trim().parse().ok()?;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    serde_json::from_slice(&body).ok()
}

/// The next `count` events, of however many messages.
fn ids(told: &Receiver<Told>, count: usize) -> Vec<u64> {
    let mut ids = Vec::new();
    while ids.len() < count {
        ids.extend(told.recv_timeout(PATIENCE).expect("in time").ids());
    }
    ids
}

#[test]
fn one_that_hangs_holds_nobody_up_and_is_told_of_all_the_critical_first() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let alerts = alerts(webhook(listener.local_addr().expect("bound")));
    let begun = Instant::now();
    let brimming: Vec<Brimming> = (1..=8_000).flat_map(|id| alerts.send(&event(id))).collect();
    for id in 8_001..=8_400 {
        let lost = Event {
            kind: EventKind::ServiceLost,
            severity: Severity::Critical,
            ..Event::clone(&event(id))
        };
        assert!(alerts.send(&Arc::new(lost)).is_empty());
    }
    let took = begun.elapsed();
    println!("8,400 events for a receiver that hangs: {took:?}");
    let said = Brimming {
        alert: "hook".into(),
        severity: Severity::Warning,
        bound: 5_000,
    };
    assert_eq!(brimming, [said], "said once");
    assert!(took < Duration::from_millis(500), "{took:?}");
    let patience = Instant::now();
    while alerts.problems().is_empty() && patience.elapsed() < PATIENCE {
        thread::sleep(Duration::from_millis(20));
    }
    let problems = alerts.problems();
    assert!(
        problems[0].contains("alerts to \"hook\" fail since")
            && problems[0].contains("no answer within 2s")
            && problems[0].contains("wait: 8400 (400 critical, 8000 warning)"),
        "{problems:?}"
    );
    // It wakes up.
    let told = receiver(listener, Vec::new());
    let mut all = Vec::new();
    while all.iter().map(|told: &Told| told.count).sum::<u64>() < 8_400 {
        all.push(told.recv_timeout(PATIENCE).expect("in time"));
    }
    let critical = all.iter().position(|told| told.event.severity == Severity::Critical);
    let critical = critical.expect("told of");
    println!("{} messages, the critical one is number {}", all.len(), critical + 1);
    // One that had been on its way may come before.
    assert!(critical <= 1, "{critical}");
    assert_eq!(
        (all[critical].count, all[critical].ids()),
        (400, (8_001..=8_400).collect())
    );
    all.remove(critical);
    let named: Vec<u64> = all.iter().flat_map(Told::ids).collect();
    assert!(
        named.is_sorted() && named[0] == 1 && named.len() >= 5_000,
        "{}",
        named.len()
    );
    assert!(alerts.problems().is_empty());
}

#[test]
fn one_that_is_away_gets_all_in_order_when_it_is_back() {
    let address = {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.local_addr().expect("bound")
    };
    let alerts = alerts(webhook(address));
    for id in 1..=50 {
        assert!(alerts.send(&event(id)).is_empty());
    }
    thread::sleep(Duration::from_secs(2));
    assert!(alerts.problems()[0].contains(", lost: 0"));
    // Still unwell: it refuses some for now.
    let events = receiver(
        TcpListener::bind(address).expect("the port again"),
        vec![500, 503, 204, 429, 204],
    );
    assert_eq!(ids(&events, 50), (1..=50).collect::<Vec<_>>());
}

#[test]
fn what_a_receiver_refuses_for_good_does_not_block_the_next() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let alerts = alerts(webhook(listener.local_addr().expect("bound")));
    let events = receiver(listener, vec![204, 400, 204]);
    for (id, kind) in [
        (1, EventKind::Failover),
        (2, EventKind::Tier),
        (3, EventKind::BackendDown),
    ] {
        alerts.send(&Arc::new(Event {
            kind,
            ..Event::clone(&event(id))
        }));
    }
    assert_eq!(ids(&events, 2), [1, 3]);
}

#[test]
fn what_is_too_long_for_a_receiver_comes_short_and_counts_all_the_same() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let alerts = alerts(webhook(listener.local_addr().expect("bound")));
    let told = receiver(listener, vec![413, 204, 413, 204]);
    for id in 1..=3 {
        alerts.send(&event(id));
    }
    let short = told.recv_timeout(PATIENCE).expect("in time");
    assert_eq!((short.ids(), short.count), (vec![1], 3));
    // One event cannot be shorter.
    alerts.send(&event(4));
    thread::sleep(2 * GATHER);
    alerts.send(&event(5));
    assert_eq!(ids(&told, 1), [5]);
}

#[test]
fn only_what_is_asked_for_is_sent_and_a_change_of_others_loses_nothing() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let hook = Alert {
        kinds: vec![EventKind::Failover, EventKind::DaemonStarted],
        ..webhook(listener.local_addr().expect("bound"))
    };
    let mut alerts = alerts(hook.clone());
    let events = receiver(listener, Vec::new());
    alerts.send(&Arc::new(Event {
        kind: EventKind::PanicOn,
        ..Event::clone(&event(1))
    }));
    alerts.send(&Arc::new(Event {
        severity: Severity::Info,
        ..Event::clone(&event(2))
    }));
    alerts.send(&event(3));
    let other = Alert {
        name: "other".into(),
        ..webhook(([127, 0, 0, 1], 1).into())
    };
    alerts.set(&[other, hook]);
    alerts.send(&event(4));
    assert_eq!(ids(&events, 2), [3, 4]);
    alerts.set(&[]);
    assert!(alerts.send(&event(5)).is_empty());
}

#[test]
fn other_settings_keep_what_waits_and_a_receiver_that_goes_tells_what_it_leaves() {
    let away = {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.local_addr().expect("bound")
    };
    let mut alerts = alerts(webhook(away));
    for id in 1..=300 {
        assert!(alerts.send(&event(id)).is_empty());
    }
    thread::sleep(Duration::from_millis(300));
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let there = webhook(listener.local_addr().expect("bound"));
    let changed = Alert {
        least: Severity::Critical,
        timeout: Duration::from_secs(7),
        ..there
    };
    let events = receiver(listener, Vec::new());
    assert!(alerts.set(std::slice::from_ref(&changed)).is_empty());
    assert_eq!(ids(&events, 300), (1..=300).collect::<Vec<_>>());
    // The new filter holds.
    assert!(alerts.send(&event(301)).is_empty());
    let again = Alert {
        least: Severity::Warning,
        ..webhook(away)
    };
    assert!(alerts.set(&[again]).is_empty());
    for id in 302..=304 {
        assert!(alerts.send(&event(id)).is_empty());
    }
    thread::sleep(Duration::from_millis(300));
    let left = alerts.set(&[]);
    let left: Vec<(&str, String)> = left
        .iter()
        .map(|(name, tally)| (name.as_str(), tally.to_string()))
        .collect();
    assert_eq!(left, [("hook", "3 (3 warning)".to_owned())]);
    assert!(events.try_recv().is_err());
}

#[test]
fn a_program_gets_the_event_and_one_that_hangs_is_killed() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("seen");
    let script = format!(
        "read line; echo \"$EDGELB_KIND $line\" >> {}; [ -e {0}.hang ] && {{ sleep 1000 & echo $! >> {0}.pids; wait; }}; exit 0",
        file.display()
    );
    let alerts = alerts(Alert {
        name: "run".into(),
        way: AlertWay::Exec {
            command: vec!["/bin/sh".into(), "-c".into(), script],
            run_as: None,
        },
        timeout: Duration::from_millis(700),
        ..webhook(([127, 0, 0, 1], 1).into())
    });
    std::fs::write(folder.path().join("seen.hang"), "").expect("written");
    alerts.send(&event(1));
    thread::sleep(Duration::from_millis(1_200));
    alerts.send(&event(2));
    std::fs::remove_file(folder.path().join("seen.hang")).expect("there");
    let patience = Instant::now();
    let seen = loop {
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        if text.contains("{\"id\":2") || patience.elapsed() > PATIENCE {
            break text;
        }
        thread::sleep(Duration::from_millis(20));
    };
    let ids: Vec<&str> = seen
        .lines()
        .map(|line| if line.contains("{\"id\":1,") { "1" } else { "2" })
        .collect();
    assert!(ids.len() >= 3 && ids.is_sorted() && ids[0] == "1", "{seen}");
    assert!(seen.starts_with("failover {"), "{seen}");
    // What it had started is gone with it.
    let pids = std::fs::read_to_string(folder.path().join("seen.pids")).expect("it hung once");
    let runs = |pid: &str| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
        // One that nobody has waited for yet is a zombie.
        stat.is_ok_and(|stat| stat.contains("(sleep)") && !stat.contains(") Z "))
    };
    let patience = Instant::now();
    while pids.lines().any(runs) {
        assert!(patience.elapsed() < PATIENCE, "some of these run on:\n{pids}");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_program_runs_as_the_user_that_is_named_and_is_killed_all_the_same() {
    if !nix::unistd::geteuid().is_root() {
        // Only root becomes somebody else.
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    // The user that it runs as has to write there.
    std::fs::set_permissions(folder.path(), Permissions::from_mode(0o777)).expect("ours");
    let file = folder.path().join("seen");
    let script = format!(
        "echo $(id -un) $HOME $EDGELB_KIND > {0}; mv {0} {0}.whole; sleep 1000",
        file.display()
    );
    let alerts = alerts(Alert {
        name: "run".into(),
        way: AlertWay::Exec {
            command: vec!["/bin/sh".into(), "-c".into(), script],
            run_as: Some(NamedUser::look_up("nobody")),
        },
        timeout: Duration::from_secs(3),
        ..webhook(([127, 0, 0, 1], 1).into())
    });
    alerts.send(&event(1));
    let whole = folder.path().join("seen.whole");
    let patience = Instant::now();
    while !whole.exists() {
        assert!(patience.elapsed() < PATIENCE, "{:?}", alerts.problems());
        thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(
        std::fs::read_to_string(&whole).expect("text"),
        "nobody /nonexistent failover\n"
    );
    let owner = std::fs::metadata(&whole).expect("there").uid();
    assert_ne!(owner, 0);
    let patience = Instant::now();
    while !alerts
        .problems()
        .iter()
        .any(|problem| problem.contains("no answer within 3s"))
    {
        assert!(patience.elapsed() < PATIENCE, "{:?}", alerts.problems());
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_user_who_may_not_run_the_program_is_named() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let program = folder.path().join("roots");
    std::fs::write(&program, "#!/bin/sh\n").expect("written");
    std::fs::set_permissions(&program, Permissions::from_mode(0o700)).expect("ours");
    let alerts = alerts(Alert {
        name: "run".into(),
        way: AlertWay::Exec {
            command: vec![program.display().to_string()],
            run_as: Some(NamedUser::look_up("nobody")),
        },
        ..webhook(([127, 0, 0, 1], 1).into())
    });
    alerts.send(&event(1));
    let patience = Instant::now();
    while !alerts
        .problems()
        .iter()
        .any(|problem| problem.contains("roots as user \"nobody\": Permission denied"))
    {
        assert!(patience.elapsed() < PATIENCE, "{:?}", alerts.problems());
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_user_who_is_unknown_is_named_and_asked_for_again() {
    let alerts = alerts(Alert {
        name: "run".into(),
        way: AlertWay::Exec {
            command: vec!["/bin/true".into()],
            run_as: Some(NamedUser::look_up("no-such-user")),
        },
        ..webhook(([127, 0, 0, 1], 1).into())
    });
    alerts.send(&event(1));
    let patience = Instant::now();
    let said = |problem: &String| {
        problem.contains("/bin/true as user \"no-such-user\": user") && problem.contains("is unknown")
    };
    while !alerts.problems().iter().any(said) {
        assert!(patience.elapsed() < PATIENCE, "{:?}", alerts.problems());
        thread::sleep(Duration::from_millis(20));
    }
}

//! Receivers that hang, are away, refuse and come back: over real sockets.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use super::*;
use crate::api::events::Severity;
use crate::model::{SecretSource, SmtpTls};

const PATIENCE: Duration = Duration::from_secs(20);

pub(super) fn event(id: u64) -> Event {
    Event {
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
    }
}

fn webhook(address: SocketAddr) -> Alert {
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

fn alerts(alert: Alert) -> Alerts {
    let mut alerts = Alerts::start().expect("a thread");
    alerts.set(&[alert]);
    alerts
}

/// Answers each POST with the next of `statuses`, then with 204, and passes on what it took.
fn receiver(listener: TcpListener, statuses: Vec<u16>) -> Receiver<Event> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        let mut statuses = statuses.into_iter();
        let mut last = None;
        while let Ok((stream, _)) = listener.accept() {
            let Some(event) = request(&stream) else { continue };
            let status = statuses.next().unwrap_or(204);
            let answer = format!("HTTP/1.1 {status} x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            let _ = (&stream).write_all(answer.as_bytes());
            // One that was given up as unanswered may have arrived all the same.
            let taken = (200..300).contains(&status);
            let again = taken && last.replace((event.id, event.kind)) == Some((event.id, event.kind));
            if taken && !again && sender.send(event).is_err() {
                return;
            }
        }
    });
    receiver
}

fn request(stream: &TcpStream) -> Option<Event> {
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

fn ids(events: &Receiver<Event>, count: usize) -> Vec<u64> {
    let next = |_| events.recv_timeout(PATIENCE).expect("in time").id;
    (0..count).map(next).collect()
}

#[test]
fn one_that_hangs_holds_nobody_up_and_hears_what_it_missed() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let alerts = alerts(webhook(listener.local_addr().expect("bound")));
    let begun = Instant::now();
    let full: Vec<String> = (1..=3_000).flat_map(|id| alerts.send(&event(id))).collect();
    let took = begun.elapsed();
    println!("3,000 events for a receiver that hangs: {took:?}");
    assert_eq!(full, ["hook"], "said once");
    assert!(took < Duration::from_millis(500), "{took:?}");
    let patience = Instant::now();
    while alerts.problems().is_empty() && patience.elapsed() < PATIENCE {
        thread::sleep(Duration::from_millis(20));
    }
    let problems = alerts.problems();
    assert!(
        problems[0].contains("alerts to \"hook\" fail since") && problems[0].contains("no answer within 2s"),
        "{problems:?}"
    );
    // It wakes up: what waited comes in order, then a word on what did not find room.
    let events = receiver(listener, Vec::new());
    let first: Vec<u64> = ids(&events, QUEUE);
    assert!(first.is_sorted() && first[0] == 1, "{first:?}");
    assert!(alerts.send(&event(5_000)).is_empty());
    let rest = std::iter::from_fn(|| {
        events
            .recv_timeout(PATIENCE)
            .ok()
            .filter(|event| event.id != 5_000 || event.kind == EventKind::AlertsLost)
    });
    let rest: Vec<Event> = rest.collect();
    let word = rest.last().expect("a word");
    assert_eq!(word.kind, EventKind::AlertsLost);
    assert_ne!(
        word.id, 5_000,
        "whoever drops ids that it knows would drop the next event"
    );
    let lost: u64 = word
        .why
        .split(' ')
        .next()
        .and_then(|number| number.parse().ok())
        .expect("a number");
    assert_eq!(lost as usize + QUEUE + rest.len() - 1, 3_000, "{}", word.why);
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
    assert!(alerts.problems()[0].contains(", 0 are lost"));
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
    for id in 1..=3 {
        alerts.send(&event(id));
    }
    assert_eq!(ids(&events, 2), [1, 3]);
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
    alerts.send(&Event {
        kind: EventKind::PanicOn,
        ..event(1)
    });
    alerts.send(&Event {
        severity: Severity::Info,
        ..event(2)
    });
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
    assert_eq!(alerts.set(&[]), [("hook".to_owned(), 3)]);
    assert!(events.try_recv().is_err());
}

/// A mail server that takes one mail, as far as RFC 5321 needs, and returns all that it was told.
fn mail_sink(listener: TcpListener) -> Receiver<String> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        let (stream, _) = listener.accept().expect("a client");
        let mut said = String::new();
        let mut reader = BufReader::new(&stream);
        let say = |line: &str| {
            (&stream)
                .write_all(format!("{line}\r\n").as_bytes())
                .expect("it listens")
        };
        say("220 sink");
        let mut inside = false;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                break;
            }
            said.push_str(&line);
            match line.trim_end() {
                "." if inside => {
                    inside = false;
                    say("250 taken");
                }
                _ if inside => {}
                "DATA" => {
                    inside = true;
                    say("354 go on");
                }
                "QUIT" => {
                    say("221 bye");
                    break;
                }
                _ => say("250 sink"),
            }
        }
        let _ = sender.send(said);
    });
    receiver
}

#[test]
fn a_mail_says_what_has_happened() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let alerts = alerts(Alert {
        name: "mail".into(),
        way: AlertWay::Smtp {
            server: "127.0.0.1".into(),
            port: listener.local_addr().expect("bound").port(),
            tls: SmtpTls::None,
            from: "Edge <edge@example.com>".into(),
            to: vec!["ops@example.com".into(), "boss@example.com".into()],
            login: None,
            ca_file: None,
        },
        ..webhook(([127, 0, 0, 1], 1).into())
    });
    let mail = mail_sink(listener);
    alerts.send(&event(7));
    let said = mail.recv_timeout(PATIENCE).expect("a mail");
    for part in [
        "MAIL FROM:<edge@example.com>",
        "RCPT TO:<ops@example.com>",
        "RCPT TO:<boss@example.com>",
        "warning: web/web-1 failover",
        "its checks fail",
    ] {
        assert!(said.contains(part), "{part} is not in\n{said}");
    }
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
        },
        timeout: Duration::from_millis(700),
        ..webhook(([127, 0, 0, 1], 1).into())
    });
    std::fs::write(folder.path().join("seen.hang"), "").expect("written");
    alerts.send(&event(1));
    alerts.send(&event(2));
    thread::sleep(Duration::from_millis(1_000));
    std::fs::remove_file(folder.path().join("seen.hang")).expect("there");
    let patience = Instant::now();
    let seen = loop {
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        if text.contains("\"id\":2") || patience.elapsed() > PATIENCE {
            break text;
        }
        thread::sleep(Duration::from_millis(20));
    };
    let ids: Vec<&str> = seen
        .lines()
        .map(|line| if line.contains("\"id\":1,") { "1" } else { "2" })
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

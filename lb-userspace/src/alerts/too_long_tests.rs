//! Messages that are longer than their receivers take, and whose receivers do not say that this is why: over real sockets.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use super::tests::{PATIENCE, Told, alerts, event, receiver, webhook};
use super::*;
use crate::model::SmtpTls;

const EVENTS: u64 = 100;

fn send(alerts: &Alerts, ids: impl IntoIterator<Item = u64>) {
    for id in ids {
        alerts.send(&event(id));
    }
}

fn numbers(told: &Receiver<Told>) -> (Vec<u64>, u64) {
    let told = told.recv_timeout(PATIENCE).expect("in time");
    (told.ids(), told.count)
}

#[test]
fn a_long_message_that_is_refused_comes_short_once() {
    for status in [400, 422, 413] {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let alerts = alerts(webhook(listener.local_addr().expect("bound")));
        let told = receiver(listener, vec![status, 204, status, status, 204]);
        send(&alerts, 1..=EVENTS);
        assert_eq!(numbers(&told), (vec![1], EVENTS), "{status}");
        // Refused when it is short too, it is lost, and holds up no other.
        send(&alerts, [201, 202]);
        thread::sleep(2 * GATHER);
        send(&alerts, [203]);
        assert_eq!(numbers(&told), (vec![203], 1), "{status}");
    }
}

fn fill(shared: &Shared) {
    for id in 1..=EVENTS {
        assert!(!shared.state().queue.push(&event(id)));
    }
}

/// Tries once, without the queue's pauses.
async fn attempt_next(alert: &Alert, shared: &Shared) -> bool {
    let message = shared.state().take_next().expect("a message waits");
    deliver(alert, message, shared).await
}

#[tokio::test]
async fn a_long_message_that_is_answered_with_an_error_again_and_again_comes_short() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let alert = webhook(listener.local_addr().expect("bound"));
    let statuses: Vec<u16> = std::iter::repeat_n(502, UNTAKEN_AT_MOST as usize)
        .chain([204])
        .collect();
    let told = receiver(listener, statuses);
    let shared = Shared::default();
    fill(&shared);
    for _ in 0..UNTAKEN_AT_MOST {
        assert!(attempt_next(&alert, &shared).await, "it is tried again");
    }
    assert!(!attempt_next(&alert, &shared).await, "it is delivered");
    assert_eq!(numbers(&told), (vec![1], EVENTS));
}

#[tokio::test]
async fn a_receiver_that_is_away_or_asks_to_wait_gets_the_long_message() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let alert = webhook(listener.local_addr().expect("bound"));
    drop(listener);
    let shared = Shared::default();
    fill(&shared);
    for _ in 0..2 * UNTAKEN_AT_MOST {
        assert!(attempt_next(&alert, &shared).await, "it is tried again");
    }
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let alert = webhook(listener.local_addr().expect("bound"));
    let statuses: Vec<u16> = std::iter::repeat_n(429, UNTAKEN_AT_MOST as usize)
        .chain([204])
        .collect();
    let told = receiver(listener, statuses);
    for _ in 0..UNTAKEN_AT_MOST {
        assert!(attempt_next(&alert, &shared).await, "it is tried again");
    }
    assert!(!attempt_next(&alert, &shared).await, "it is delivered");
    assert_eq!(numbers(&told), ((1..=EVENTS).collect(), EVENTS));
}

/// A mail server that takes no mail of more than `most` bytes (RFC 5321 section 4.2.3: 552), and passes on those that it takes.
fn small_mailbox(listener: TcpListener, most: usize) -> Receiver<String> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            let mut reader = BufReader::new(&stream);
            let say = |line: &str| drop((&stream).write_all(format!("{line}\r\n").as_bytes()));
            say("220 sink");
            let (mut inside, mut mail) = (false, String::new());
            let mut line = String::new();
            while reader.read_line(&mut line).is_ok_and(|read| read > 0) {
                match line.trim_end() {
                    "." if inside => {
                        inside = false;
                        let mail = std::mem::take(&mut mail);
                        match mail.len() > most {
                            true => say("552 message size exceeds fixed limit"),
                            false => {
                                say("250 taken");
                                let _ = sender.send(mail);
                            }
                        }
                    }
                    _ if inside => mail.push_str(&line),
                    "DATA" => {
                        inside = true;
                        say("354 go on");
                    }
                    "QUIT" => say("221 bye"),
                    _ => say("250 sink"),
                }
                line.clear();
            }
        }
    });
    receiver
}

#[test]
fn a_mail_that_is_too_large_comes_short() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let alerts = alerts(Alert {
        name: "mail".into(),
        way: AlertWay::Smtp {
            server: "127.0.0.1".into(),
            port: listener.local_addr().expect("bound").port(),
            tls: SmtpTls::None,
            from: "edge@example.com".into(),
            to: vec!["ops@example.com".into()],
            login: None,
            ca_file: None,
        },
        ..webhook(([127, 0, 0, 1], 1).into())
    });
    // Many events' sentences alone are longer.
    let mails = small_mailbox(listener, 4_000);
    send(&alerts, 1..=EVENTS);
    let mail = mails.recv_timeout(PATIENCE).expect("a mail");
    for part in [
        "100 events failover: web/web-1",
        "and 80 more",
        "\"count\": 100",
        "its checks fail",
    ] {
        assert!(mail.contains(part), "{part} is not in\n{mail}");
    }
}

//! Mails: over real sockets, to a server that knows what of SMTP is needed.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use super::tests::{PATIENCE, alerts, event, webhook};
use super::*;
use crate::model::SmtpTls;

/// A mail server (RFC 5321) that takes no mail of more than `most` bytes (section 4.2.3: 552). Of each that it takes it returns all that it was
/// told in that connection.
fn mailbox(listener: TcpListener, most: usize) -> Receiver<String> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            let mut reader = BufReader::new(&stream);
            let say = |line: &str| drop((&stream).write_all(format!("{line}\r\n").as_bytes()));
            say("220 sink");
            let (mut said, mut mail_begins) = (String::new(), None);
            let mut line = String::new();
            while reader.read_line(&mut line).is_ok_and(|read| read > 0) {
                said.push_str(&line);
                match (line.trim_end(), mail_begins) {
                    (".", Some(begins)) => {
                        mail_begins = None;
                        if said.len() - begins > most {
                            say("552 message size exceeds fixed limit");
                        } else {
                            say("250 taken");
                            let _ = sender.send(said.clone());
                        }
                    }
                    (_, Some(_)) => {}
                    ("DATA", None) => {
                        mail_begins = Some(said.len());
                        say("354 go on");
                    }
                    ("QUIT", None) => say("221 bye"),
                    _ => say("250 sink"),
                }
                line.clear();
            }
        }
    });
    receiver
}

/// Sends events as mails to a server that takes so many bytes; the first that it takes has these parts.
fn says(most: usize, events: impl IntoIterator<Item = u64>, parts: &[&str]) {
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
    let mails = mailbox(listener, most);
    for id in events {
        alerts.send(&event(id));
    }
    let said = mails.recv_timeout(PATIENCE).expect("a mail");
    for part in parts {
        assert!(said.contains(part), "{part} is not in\n{said}");
    }
}

#[test]
fn a_mail_says_what_has_happened() {
    let parts = [
        "MAIL FROM:<edge@example.com>",
        "RCPT TO:<ops@example.com>",
        "RCPT TO:<boss@example.com>",
        "warning: web/web-1 failover",
        "its checks fail",
    ];
    says(usize::MAX, [7], &parts);
}

#[test]
fn a_mail_that_is_too_large_comes_short() {
    let parts = [
        "100 events failover: web/web-1",
        "and 80 more",
        "\"count\": 100",
        "its checks fail",
    ];
    // Many events' sentences alone are longer.
    says(4_000, 1..=100, &parts);
}

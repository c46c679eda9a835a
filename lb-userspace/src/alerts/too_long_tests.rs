//! Messages that are longer than their receivers take, and whose receivers do not say that this is why: over real sockets.

use std::net::TcpListener;
use std::sync::mpsc::Receiver;
use std::thread;

use super::tests::{PATIENCE, Told, alerts, event, receiver, webhook};
use super::*;

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

/// Tries until it is delivered, without the queue's pauses: this many tries fail, each with that status.
async fn deliver_after(failures: u32, status: u16, shared: &Shared) -> (Vec<u64>, u64) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let alert = webhook(listener.local_addr().expect("bound"));
    let statuses = std::iter::repeat_n(status, failures as usize).chain([204]);
    let told = receiver(listener, statuses.collect());
    for _ in 0..failures {
        assert!(attempt_next(&alert, shared).await, "it is tried again");
    }
    assert!(!attempt_next(&alert, shared).await, "it is delivered");
    numbers(&told)
}

/// Tries once, without the queue's pauses.
async fn attempt_next(alert: &Alert, shared: &Shared) -> bool {
    let message = shared.state().take_next().expect("a message waits");
    deliver(alert, message, shared).await
}

#[tokio::test]
async fn a_long_message_that_is_answered_with_an_error_again_and_again_comes_short() {
    let shared = Shared::default();
    fill(&shared);
    assert_eq!(deliver_after(UNTAKEN_AT_MOST, 502, &shared).await, (vec![1], EVENTS));
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
    let all = ((1..=EVENTS).collect(), EVENTS);
    assert_eq!(deliver_after(UNTAKEN_AT_MOST, 429, &shared).await, all);
}

//! Receivers of alerts that hang, and that are away for a whole minute: nobody's failover waits for them, and they hear of everything.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, channel};
use std::thread::sleep;
use std::time::{SystemTime, UNIX_EPOCH};

use super::*;

/// How long the receivers do not answer.
const AWAY: Duration = Duration::from_secs(60);
/// The pauses between attempts grow to 15 s.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

#[test]
fn receivers_that_hang_or_are_away_for_a_minute_slow_no_failover_and_lose_nothing() -> Result<()> {
    let site = Site::new(3)?;
    let quiet = {
        let mut edge = site.edge("", "", &["", "", ""])?;
        all_up(&edge, 3)?;
        let times = evictions(&site, &edge, Duration::from_secs(20))?;
        edge.stop()?;
        times
    };
    let bind = |address: &str| site.net.edge.enter(|| TcpListener::bind(address));
    let hangs = bind("127.0.0.1:0")??;
    let absent = bind("127.0.0.1:0")??.local_addr()?;
    let alert = |name: &str, address: SocketAddr| {
        format!(
            "[[alert]]\nname = \"{name}\"\nkind = \"webhook\"\nurl = \"http://{address}/\"\nseverity = \"info\"\ntimeout = \"2s\"\n"
        )
    };
    let alerts = alert("hangs", hangs.local_addr()?) + &alert("away", absent);
    let edge = site.edge(&alerts, "", &["", "", ""])?;
    all_up(&edge, 3)?;
    let begun = Instant::now();
    let alerted = evictions(&site, &edge, AWAY)?;
    sleep(AWAY.saturating_sub(begun.elapsed()));
    let status = edge.lbctl(&["status"])?;
    ensure!(
        status.contains("alerts to \"hangs\" fail") && status.contains("alerts to \"away\" fail"),
        "{status}"
    );
    let waited = newest(&edge)?;
    let back = bind(&absent.to_string())??;
    let received = [("hangs", receive(hangs)), ("away", receive(back))];
    // Something that happens after their return.
    site.set(&[true, false, true]);
    wait_for(&edge, "its eviction", |service| service["backends"][1]["slots"] == 0)?;
    let last = newest(&edge)?;
    ensure!(last > waited, "nothing has happened");
    let begun = Instant::now();
    let all = edge.api()?.get(&format!("/v1/events?limit={last}"))?;
    let all = all.as_array().context("a list")?;
    // The start is the first thing that this daemon tells.
    let started = all.iter().rfind(|event| event["kind"] == "daemon_started");
    let started = started.and_then(|event| event["id"].as_u64()).context("a start")?;
    let expected: Vec<u64> = (started..=last).collect();
    for (name, events) in received {
        let mut messages: Vec<Told> = Vec::new();
        let mut again = 0;
        let mut seen = BTreeSet::new();
        while seen.len() < expected.len() {
            let told = events
                .recv_timeout(LONGEST_PAUSE * 2)
                .with_context(|| format!("{name}: {seen:?} of {expected:?}\n{}", edge.log()))?;
            // One that was taken without a word in time comes again, with the same numbers.
            if messages.contains(&told) {
                again += 1;
                continue;
            }
            ensure!(told.ids.is_sorted(), "{name}: {told:?}");
            ensure!(
                told.ids.iter().all(|id| seen.insert(*id)),
                "{name}: some of {told:?} came before"
            );
            // What matters more overtakes; what matters as much does not.
            let before = messages.iter().rfind(|message| message.severity == told.severity);
            ensure!(
                before.is_none_or(|before| before.ids[0] < told.ids[0]),
                "{name}: {told:?} after {before:?}"
            );
            messages.push(told);
        }
        let late = begun.elapsed();
        println!(
            "{name}: {} events in {} messages {late:?} after the minute, {again} of them more than once",
            seen.len(),
            messages.len()
        );
        let all: Vec<u64> = seen.into_iter().collect();
        ensure!(all == expected, "{name}: {all:?} instead of {expected:?}");
        ensure!(all.len() > 40, "{name}: {} events", all.len());
        ensure!(name == "hangs" || again == 0, "{name}: {again} came twice");
    }
    let status = edge.lbctl(&["status"])?;
    ensure!(!status.contains("alerts to"), "{status}");
    let (quiet, alerted) = (sorted(quiet), sorted(alerted));
    println!("evictions after, in ms: {quiet:?} without alerts, {alerted:?} while both receivers fail");
    let (usual, now) = (quiet[quiet.len() / 2], alerted[alerted.len() / 2]);
    ensure!(now < usual + 200, "{now} ms instead of {usual}");
    Ok(())
}

fn sorted(mut times: Vec<u64>) -> Vec<u64> {
    times.sort_unstable();
    times
}

fn newest(edge: &Edge) -> Result<u64> {
    edge.api()?.get("/v1/events?limit=1")?[0]["id"]
        .as_u64()
        .context("an event")
}

/// Takes one backend out and back, again and again; returns the milliseconds from each first bad answer to the event that it is out.
fn evictions(site: &Site, edge: &Edge, how_long: Duration) -> Result<Vec<u64>> {
    let begun = Instant::now();
    let mut times = Vec::new();
    while begun.elapsed() < how_long {
        let last = newest(edge)?;
        let at = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis() as u64;
        site.set(&[true, false, true]);
        let mut out = None;
        wait_until("its eviction", PATIENCE, || {
            let events = edge.api()?.get(&format!("/v1/events?after={last}"))?;
            let found = events
                .as_array()
                .into_iter()
                .flatten()
                .find(|event| event["kind"] == "failover");
            out = found.and_then(|event| event["at_unix_ms"].as_u64());
            Ok(out.is_some())
        })?;
        times.push(out.context("a time")?.saturating_sub(at));
        site.set(&[true; 3]);
        wait_for(edge, "its return", |service| service["backends"][1]["slots"] != 0)?;
        sleep(Duration::from_millis(1500));
    }
    Ok(times)
}

/// What a message says.
#[derive(Debug, PartialEq)]
struct Told {
    severity: String,
    /// The numbers of its events: one at least.
    ids: Vec<u64>,
}

/// A receiver that answers everything with 204, and passes on what it was told.
fn receive(listener: TcpListener) -> Receiver<Told> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let Some(message) = message(&mut stream) else { continue };
            let others = message["also"].as_array().into_iter().flatten();
            let ids = std::iter::once(&message)
                .chain(others)
                .filter_map(|event| event["id"].as_u64());
            let told = Told {
                severity: message["severity"].as_str().unwrap_or("?").to_owned(),
                ids: ids.collect(),
            };
            if !told.ids.is_empty() && sender.send(told).is_err() {
                return;
            }
        }
    });
    receiver
}

/// Reads a POST and answers it with 204.
pub(super) fn message(stream: &mut std::net::TcpStream) -> Option<Value> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 65_536];
    _ = stream.set_read_timeout(Some(Duration::from_secs(2)));
    let body = loop {
        let text = String::from_utf8_lossy(&bytes);
        let whole = text
            .split_once("\r\n\r\n")
            .and_then(|(_, body)| serde_json::from_str(body).ok());
        if let Some(body) = whole {
            break body;
        }
        match stream.read(&mut buffer) {
            Ok(length) if length > 0 => bytes.extend_from_slice(&buffer[..length]),
            _ => return None,
        }
    };
    // Who has given up does not read it.
    _ = write!(stream, "HTTP/1.1 204 x\r\nconnection: close\r\n\r\n");
    Some(body)
}

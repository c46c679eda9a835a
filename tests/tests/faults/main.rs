//! Everything that goes wrong with a backend, in every forward mode and pair of families: who finds it, how fast, who suffers.
//!
//! The checks are as an operator would have them, every 100 ms, three of which must fail, by the users' path. All modes stand beside each other on the
//! same hosts, so each fault is made once and found by every service. `cargo test -p lb-tests --test faults -- --nocapture`
//! prints a table. Times are measured, not judged: what must hold is that nobody else's flows move, that nothing begun after the eviction
//! fails, and that the event tells the cause.
//!
//! Needs root and the release builds of `lbd` and `lbctl` (`LBD_BIN`, `LBCTL_BIN`).

mod fault;
mod measure;
mod whole;

use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use lb_tests::edge::{Edge, Programs, Service, configuration, every_mode, join};
use lb_tests::net::{Arms, Process, Scratch, Topology, wait_until};
use lb_tests::serve::Nginx;
use serde_json::Value;

use fault::Fault;
use measure::{Seen, Watch};

const PATIENCE: Duration = Duration::from_secs(30);
const CHECKS: &str =
    "kind = \"http\"\npath = \"/healthz\"\ninterval = \"100ms\"\ntimeout = \"100ms\"\nrise = 2\nfall = 3\n";
/// The backend that fails; the others are healthy.
const VICTIM: usize = 1;
const VICTIM_NAME: &str = "web-2";
/// An event is told in the same turn of the daemon's loop in which the kernel learns of it, a little before.
const SETTLE: Duration = Duration::from_millis(50);

/// What does not change.
struct Site {
    scratch: Scratch,
    programs: Programs,
    net: Topology,
    services: Vec<Service>,
}

/// What breaks.
struct Parts {
    servers: Vec<Nginx>,
    joined: Vec<Option<Process>>,
}

impl Site {
    fn new() -> Result<(Self, Parts)> {
        let site = Self {
            scratch: Scratch::new()?,
            programs: Programs::find()?,
            net: Topology::new(Arms::Two, 3)?,
            services: every_mode(CHECKS),
        };
        let vips = site.vips();
        let (mut servers, mut joined) = (Vec::new(), Vec::new());
        for backend in &site.net.backends {
            servers.push(Nginx::start(&backend.host, &site.scratch)?);
            joined.push(Some(join(backend, &site.programs, &site.scratch, &vips)?));
        }
        Ok((site, Parts { servers, joined }))
    }

    fn vips(&self) -> Vec<IpAddr> {
        self.services.iter().map(|service| service.vip).collect()
    }

    /// The configuration; `lines` for every service.
    fn file(&self, lines: &str) -> String {
        let text = configuration(&self.net, &self.services);
        text.replace("\n[service.health]\n", &format!("{lines}\n[service.health]\n"))
    }

    fn edge(&self) -> Result<Edge<'_>> {
        Edge::start(&self.net, &self.programs, &self.scratch, &self.file(""))
    }
}

/// One line of the table.
struct Row {
    service: String,
    fault: &'static str,
    /// From the fault to the event that says so.
    evicted: Duration,
    seen: Seen,
    event: String,
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            service,
            fault,
            evicted,
            seen,
            event,
        } = self;
        let last = match seen.last_failure {
            Some(at) => format!("{} ms", at.as_millis()),
            None => "none".to_owned(),
        };
        write!(
            f,
            "| {service} | {fault} | {} ms | {last} | {} of {} | {} of {} | {} of {} | {} of {} | {event} |",
            evicted.as_millis(),
            seen.failed_before,
            seen.before,
            seen.failed_after,
            seen.after,
            seen.moved,
            seen.flows,
            seen.broken,
            seen.sessions
        )
    }
}

const HEADER: &str = "| service | fault | evicted after | last failure began after | failed before | failed after | others' flows moved | others' connections broken | event |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |";

#[test]
fn every_fault_is_found_in_every_mode_and_moves_nobody_else() -> Result<()> {
    let (site, mut parts) = Site::new()?;
    let edge = site.edge()?;
    all_up(&site, &edge)?;
    let mut rows = Vec::new();
    let mut wrong = Vec::new();
    println!("\n{HEADER}");
    for fault in Fault::ALL {
        let found = one_fault(&site, &edge, &mut parts, *fault)
            .with_context(|| format!("{}\n{}", fault.name(), tail(&edge.log())))?;
        for row in found {
            if !fault.words().iter().any(|words| row.event.contains(words)) {
                wrong.push(format!("the event does not tell the cause: {row}"));
            }
            println!("{row}");
            rows.push(row);
        }
    }
    let whole = whole::all_down(&site, &edge, &mut parts).with_context(|| tail(&edge.log()))?;
    whole.iter().for_each(|row| println!("{row}"));
    let flapping = whole::flapping(&site, &edge, &parts, &mut wrong).with_context(|| tail(&edge.log()))?;
    flapping.iter().for_each(|row| println!("{row}"));
    rows.extend(whole.into_iter().chain(flapping));
    for row in &rows {
        wrong.extend(
            row.seen
                .wrong()
                .map(|what| format!("{what}: {row} {:?}", row.seen.first_after)),
        );
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

/// Makes a fault, watches, and takes it back.
fn one_fault(site: &Site, edge: &Edge, parts: &mut Parts, fault: Fault) -> Result<Vec<Row>> {
    let concerned: Vec<&Service> = site.services.iter().filter(|service| fault.concerns(service)).collect();
    let watches: Vec<Watch> = concerned
        .iter()
        .map(|service| Watch::start(site, edge, service))
        .collect::<Result<_>>()?;
    let last = newest(edge)?;
    std::thread::sleep(Duration::from_millis(300));
    let begun = SystemTime::now();
    let offsets: Vec<Duration> = watches.iter().map(Watch::now).collect();
    fault.make(site, parts)?;
    let mut evictions = Vec::new();
    for service in &concerned {
        let event = wait_event(edge, last, "failover", &service.name, Some(VICTIM_NAME))?;
        evictions.push(at(&event)?.duration_since(begun).unwrap_or_default());
    }
    // What users meet from now on.
    std::thread::sleep(Duration::from_millis(1500));
    let events = events_after(edge, last)?;
    let mut rows = Vec::new();
    for (((watch, service), offset), evicted) in watches.into_iter().zip(&concerned).zip(offsets).zip(evictions) {
        let seen = watch.stop(edge, offset, evicted)?;
        let down = events
            .iter()
            .find(|event| is(event, "backend_down", &service.name, Some(VICTIM_NAME)));
        let down = down.with_context(|| format!("{}: no backend_down: {events:#?}", service.name))?;
        rows.push(Row {
            service: service.name.clone(),
            fault: fault.name(),
            evicted,
            seen,
            event: sentence(down),
        });
    }
    fault.heal(site, parts)?;
    all_up(site, edge)?;
    Ok(rows)
}

/// Waits until every service is served by all of its backends, with all of their slots.
fn all_up(site: &Site, edge: &Edge) -> Result<()> {
    let api = edge.api()?;
    for service in &site.services {
        let mut seen = Value::Null;
        let waited = wait_until(&format!("{} to be whole", service.name), PATIENCE, || {
            seen = api.get(&format!("/v1/services/{}", service.name))?;
            let backends = seen["backends"].as_array().context("backends")?;
            Ok(backends
                .iter()
                .all(|one| one["standing"]["state"] == "serving" && one["slots"] != 0))
        });
        waited.with_context(|| format!("{seen:#}\n{}", tail(&edge.log())))?;
    }
    Ok(())
}

fn newest(edge: &Edge) -> Result<u64> {
    edge.api()?.get("/v1/events?limit=1")?[0]["id"]
        .as_u64()
        .context("an event")
}

fn events_after(edge: &Edge, last: u64) -> Result<Vec<Value>> {
    let events = edge.api()?.get(&format!("/v1/events?after={last}"))?;
    Ok(events.as_array().context("a list")?.clone())
}

fn is(event: &Value, kind: &str, service: &str, backend: Option<&str>) -> bool {
    event["kind"] == kind && event["service"] == service && event["backend"].as_str() == backend
}

fn wait_event(edge: &Edge, after: u64, kind: &str, service: &str, backend: Option<&str>) -> Result<Value> {
    let mut found = None;
    wait_until(&format!("{kind} of {service}"), PATIENCE, || {
        let events = events_after(edge, after)?;
        found = events.into_iter().find(|event| is(event, kind, service, backend));
        Ok(found.is_some())
    })?;
    found.context("found")
}

fn at(event: &Value) -> Result<SystemTime> {
    let ms = event["at_unix_ms"].as_u64().context("a time")?;
    Ok(UNIX_EPOCH + Duration::from_millis(ms))
}

fn sentence(event: &Value) -> String {
    let word = |key: &str| event[key].as_str().unwrap_or("").to_owned();
    format!("{} → {}: {}", word("from"), word("to"), word("why"))
}

/// The end of a log: all of it is much.
fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(60)..].join("\n")
}

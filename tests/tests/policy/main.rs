//! Failing over and recovering as an operator sees it: real programs on hosts of their own, checks every 100 ms.
//!
//! Needs root and the release builds of `lbd` and `lbctl` (`LBD_BIN`, `LBCTL_BIN`).

mod alerts;
mod drain;
mod eviction;
mod failing;
mod followed;
mod memory;
mod outage;
mod restart;
mod ways;

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lb_tests::edge::{Edge, Programs, join};
use lb_tests::load::{Demand, Load, Sample, Session, sessions};
use lb_tests::net::{Arms, Family, Host, Process, Scratch, Topology, wait_until};
use lb_tests::serve::Nginx;
use lb_tests::turns::Turns;
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(20);
/// Where the answers to the checks come from: not the users' server.
const CHECK_PORT: u16 = 8080;
const CHECKS: &str =
    "kind = \"http\"\nport = 8080\nvia = \"direct\"\ninterval = \"100ms\"\ntimeout = \"100ms\"\nrise = 2\nfall = 3\n";

/// Of tests with very many backends, one at a time: with several the others' clocks would mean little.
static HEAVY: Turns = Turns::new(1);

/// Backends that serve, and whose checks say what a test wants.
struct Site {
    scratch: Scratch,
    programs: Programs,
    net: Topology,
    healths: Vec<Health>,
    _servers: Vec<(Process, Nginx)>,
}

impl Site {
    fn new(backends: u8) -> Result<Self> {
        let scratch = Scratch::new()?;
        let programs = Programs::find()?;
        let net = Topology::new(Arms::Two, backends)?;
        let mut servers = Vec::new();
        let mut healths = Vec::new();
        for backend in &net.backends {
            let joined = join(backend, &programs, &scratch, &[Topology::vip(Family::V4, 10)])?;
            servers.push((joined, Nginx::start(&backend.host, &scratch)?));
            healths.push(Health::start(&backend.host)?);
        }
        Ok(Self {
            scratch,
            programs,
            net,
            healths,
            _servers: servers,
        })
    }

    /// An edge with one service of these lines, and for each backend these lines.
    fn edge(&self, top: &str, lines: &str, backends: &[&str]) -> Result<Edge<'_>> {
        Edge::start(
            &self.net,
            &self.programs,
            &self.scratch,
            &self.file(top, lines, backends),
        )
    }

    fn file(&self, top: &str, lines: &str, backends: &[&str]) -> String {
        let vip = Topology::vip(Family::V4, 10);
        let interface = Topology::EDGE_INTERFACE;
        let mut text = format!(
            "[node]\ninterfaces = [\"{interface}\"]\nhash_seed = \"0x5eed\"\n{top}\n[[service]]\nname = \"web\"\nvip = \"{vip}\"\n\
             protocol = \"tcp\"\nport = 80\nforward = \"ipip\"\n{lines}\n[service.health]\n{CHECKS}"
        );
        for (backend, lines) in self.net.backends.iter().zip(backends) {
            let address = backend.address(Family::V4);
            // Writing to a string cannot fail.
            _ = write!(
                text,
                "\n[[service.backend]]\nname = \"{}\"\naddress = \"{address}\"\n{lines}\n",
                backend.name()
            );
        }
        text
    }

    fn load(&self, rate: u32) -> Result<Load> {
        let demand = Demand {
            target: target(),
            rate,
            workers: 16,
            timeout: Duration::from_secs(2),
        };
        Load::start(&self.net.client, demand)
    }

    /// Connections that stay open, with who answered each.
    fn sessions(&self, count: usize) -> Result<Vec<(Session, String)>> {
        sessions(&self.net.client, target(), count, PATIENCE)
    }

    fn set(&self, well: &[bool]) {
        for (health, well) in self.healths.iter().zip(well) {
            health.set(*well);
        }
    }
}

fn target() -> SocketAddr {
    SocketAddr::new(Topology::vip(Family::V4, 10), 80)
}

/// An HTTP server for checks alone: 200 or 500.
struct Health {
    well: Arc<AtomicBool>,
    /// Before each answer, in milliseconds.
    pause: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl Health {
    fn start(host: &Host) -> Result<Self> {
        let listener = host.enter(|| TcpListener::bind(("0.0.0.0", CHECK_PORT)))??;
        listener.set_nonblocking(true)?;
        let (well, stop) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(false)));
        let pause = Arc::new(AtomicU64::new(0));
        let (answer, before, until) = (Arc::clone(&well), Arc::clone(&pause), Arc::clone(&stop));
        std::thread::spawn(move || {
            while !until.load(Ordering::Relaxed) {
                let Ok((mut stream, _)) = listener.accept() else {
                    std::thread::sleep(Duration::from_millis(1));
                    continue;
                };
                let status = if answer.load(Ordering::Relaxed) {
                    "200 OK"
                } else {
                    "500 Broken"
                };
                let mut request = [0; 1024];
                // Whoever goes away without an answer has his reasons.
                _ = stream.set_nonblocking(false);
                _ = stream.set_read_timeout(Some(Duration::from_millis(200)));
                _ = stream.read(&mut request);
                std::thread::sleep(Duration::from_millis(before.load(Ordering::Relaxed)));
                _ = write!(
                    stream,
                    "HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
                );
            }
        });
        Ok(Self { well, pause, stop })
    }

    fn slow(&self, pause: Duration) {
        self.pause.store(pause.as_millis() as u64, Ordering::Relaxed);
    }

    fn set(&self, well: bool) {
        self.well.store(well, Ordering::Relaxed);
    }
}

impl Drop for Health {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Waits for a field of `service show`; returns how long that took.
fn wait_for(edge: &Edge, what: &str, holds: impl Fn(&Value) -> bool) -> Result<Duration> {
    wait_within(edge, what, PATIENCE, holds)
}

fn wait_within(edge: &Edge, what: &str, patience: Duration, holds: impl Fn(&Value) -> bool) -> Result<Duration> {
    let begun = Instant::now();
    let mut seen = Value::Null;
    let waited = wait_until(what, patience, || {
        seen = edge.api()?.get("/v1/services/web")?;
        Ok(holds(&seen))
    });
    waited.with_context(|| format!("{seen:#}\n{}", edge.log()))?;
    Ok(begun.elapsed())
}

/// How many slots a backend has now.
fn slots(edge: &Edge, index: usize) -> Result<u64> {
    let shown = edge.api()?.get("/v1/services/web")?;
    shown["backends"][index]["slots"].as_u64().context("no slots")
}

/// The standing of a backend.
fn standing<'v>(service: &'v Value, name: &str) -> &'v str {
    let backends = service["backends"].as_array().map(Vec::as_slice).unwrap_or_default();
    let backend = backends.iter().find(|backend| backend["name"] == name);
    backend
        .and_then(|backend| backend["standing"]["state"].as_str())
        .unwrap_or("?")
}

/// The kinds of all events so far, with the backend's name, in order.
fn events(edge: &Edge) -> Result<Vec<(String, String)>> {
    let events = edge.api()?.get("/v1/events")?;
    let word = |value: &Value| value.as_str().unwrap_or("").to_owned();
    let events = events.as_array().context("a list")?;
    Ok(events
        .iter()
        .map(|event| (word(&event["kind"]), word(&event["backend"])))
        .collect())
}

fn has(events: &[(String, String)], kind: &str, backend: &str) -> bool {
    events.iter().any(|(k, b)| k == kind && b == backend)
}

/// How many requests failed, with the first failure.
fn failures(samples: &[Sample]) -> (usize, String) {
    let failed: Vec<&Sample> = samples.iter().filter(|sample| sample.outcome.is_err()).collect();
    (
        failed.len(),
        failed.first().map_or(String::new(), |sample| format!("{sample:?}")),
    )
}

fn who(samples: &[Sample]) -> std::collections::BTreeSet<String> {
    samples
        .iter()
        .filter_map(|sample| sample.outcome.clone().ok())
        .collect()
}

fn all_up(edge: &Edge, count: usize) -> Result<()> {
    wait_for(edge, "all to be up", |service| {
        let backends = service["backends"].as_array().map_or(0, |all| {
            all.iter()
                .filter(|backend| backend["health"] == "up" && !backend["next_hop"]["mac"].is_null())
                .count()
        });
        backends == count
    })?;
    ensure!(edge.json(&["service", "list"])?[0]["mode"] == "normal");
    Ok(())
}

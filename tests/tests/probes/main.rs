//! Health probes by the users' path: what they find that probes of a backend's own address do not, and what they leave behind.
//!
//! Needs root and the release builds of `lbd` and `lbctl` (`LBD_BIN`, `LBCTL_BIN`).

mod faults;
mod full_size;
mod generic;
mod kinds;
mod mtu;
mod remains;
mod sources;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use lb_tests::edge::{Edge, Programs, QUICK_HTTP_CHECKS, Service, configuration, join};
use lb_tests::net::{Arms, Family, Process, Scratch, Topology, wait_until};
use lb_tests::serve::Nginx;
use lb_tests::turns::{Turn, Turns};
use nix::sys::signal::Signal;

const PATIENCE: Duration = Duration::from_secs(20);

/// What every test stands on: backends that serve all VIPs through every mode.
struct Site {
    scratch: Scratch,
    programs: Programs,
    net: Topology,
    services: Vec<Service>,
    /// The decapsulators, by backend.
    joined: Vec<Option<Process>>,
    _servers: Vec<Nginx>,
}

impl Site {
    /// Has `lbd backend` of a host stand still: it would put back what is taken away. Its program goes on.
    fn stop_keeper(&self, backend: usize) -> Result<()> {
        let role = self.joined[backend].as_ref().context("it runs")?;
        role.signal(Signal::SIGSTOP)
    }

    fn new(arms: Arms, services: Vec<Service>) -> Result<Self> {
        let (scratch, programs) = (Scratch::new()?, Programs::find()?);
        let net = Topology::new(arms, 3)?;
        let vips: Vec<IpAddr> = services.iter().map(|service| service.vip).collect();
        let mut joined = Vec::new();
        let mut servers = Vec::new();
        for backend in &net.backends {
            servers.push(Nginx::start(&backend.host, &scratch)?);
            joined.push(Some(join(backend, &programs, &scratch, &vips)?));
        }
        Ok(Self {
            scratch,
            programs,
            net,
            services,
            joined,
            _servers: servers,
        })
    }

    fn edge(&self) -> Result<Edge<'_>> {
        let text = configuration(&self.net, &self.services);
        Edge::start(&self.net, &self.programs, &self.scratch, &text)
    }
}

/// A web server behind a VIP of its own.
fn web(number: u8, forward: &'static str, family: Family, backend_family: Family) -> Service {
    Service {
        name: format!("{forward}-{family:?}-to-{backend_family:?}").to_lowercase(),
        vip: Topology::vip(family, number),
        protocol: "tcp",
        port: 80,
        forward,
        backend_family,
        health: Some(QUICK_HTTP_CHECKS),
    }
}

/// What a service's checks say of its backends, with the latest probe's words.
fn verdicts(edge: &Edge, service: &str) -> Result<BTreeMap<String, (String, String)>> {
    let shown = edge.json(&["service", "show", service])?;
    let text = |value: &serde_json::Value| value.as_str().unwrap_or("").to_owned();
    let backends = shown["backends"].as_array().context("no backends")?;
    let verdict = |backend: &serde_json::Value| {
        let words = text(&backend["last_probe"]["reason"]);
        (text(&backend["name"]), (text(&backend["health"]), words))
    };
    Ok(backends.iter().map(verdict).collect())
}

/// Waits until a service's backends have these states; returns how long that took and the words of the first that is not up.
fn wait_for(edge: &Edge, service: &str, states: [&str; 3]) -> Result<(Duration, String)> {
    let begin = Instant::now();
    let mut seen = BTreeMap::new();
    let waited = wait_until(&format!("{service}: {states:?}"), PATIENCE, || {
        seen = verdicts(edge, service)?;
        Ok(seen.values().map(|(state, _)| state.as_str()).eq(states))
    });
    waited.with_context(|| format!("{seen:?}\n{}", edge.log()))?;
    let words = seen.into_values().find(|(state, _)| state != "up");
    Ok((begin.elapsed(), words.map(|(_, words)| words).unwrap_or_default()))
}

const ALL_UP: [&str; 3] = ["up", "up", "up"];

/// Two at a time: hosts of more topologies are too many for a small machine.
fn turn() -> Turn<'static> {
    static TURNS: Turns = Turns::new(2);
    TURNS.take()
}

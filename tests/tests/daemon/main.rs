//! The daemon under everything that people do to it: with the real programs, on hosts of their own.
//!
//! Needs root and the release builds of `lbd` and `lbctl` (`LBD_BIN`, `LBCTL_BIN`).

mod apply;
mod bounds;
mod counters;
mod last_good;
mod lifecycle;
mod lookup;
mod meanwhile;
mod next_hops;
mod operator;
mod scale;
mod supervised;
mod tables;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result};
use lb_tests::api::Api;
use lb_tests::edge::{Edge, Programs, join};
use lb_tests::net::{Arms, Backend, Family, Process, Scratch, Topology};
use lb_tests::serve::UdpResponder;
use lb_tests::turns::Turns;
use serde_json::Value;

/// Of tests that compute for seconds, one at a time: with several the others' clocks would mean little.
static HEAVY: Turns = Turns::new(1);

/// What every test stands on.
struct Site {
    scratch: Scratch,
    programs: Programs,
    net: Topology,
}

impl Site {
    fn new(arms: Arms, backends: u8) -> Result<Self> {
        Ok(Self {
            scratch: Scratch::new()?,
            programs: Programs::find()?,
            net: Topology::new(arms, backends)?,
        })
    }

    fn edge(&self, file: &File) -> Result<Edge<'_>> {
        Edge::start(&self.net, &self.programs, &self.scratch, &file.to_string())
    }

    /// UDP servers for services on all backends, behind the decapsulator.
    fn serve(&self, services: &[Svc]) -> Result<Vec<(Process, Vec<UdpResponder>)>> {
        let targets: Vec<SocketAddr> = services.iter().map(Svc::target).collect::<Result<_>>()?;
        let vips: BTreeSet<IpAddr> = targets.iter().map(SocketAddr::ip).collect();
        let vips: Vec<IpAddr> = vips.into_iter().collect();
        let serve = |backend: &Backend| -> Result<_> {
            let joined = join(backend, &self.programs, &self.scratch, &vips)?;
            let start = |target: &SocketAddr| UdpResponder::start(&backend.host, *target);
            Ok((joined, targets.iter().map(start).collect::<Result<_>>()?))
        };
        self.net.backends.iter().map(serve).collect()
    }
}

/// A configuration file.
#[derive(Clone, Debug)]
struct File {
    node: String,
    services: Vec<Svc>,
}

/// One service of it.
#[derive(Clone, Debug)]
struct Svc {
    name: String,
    vip: String,
    port: u16,
    /// More lines.
    more: String,
    /// Name, address, more lines.
    backends: Vec<(String, String, String)>,
}

impl File {
    fn new(services: impl IntoIterator<Item = Svc>) -> Self {
        Self {
            node: "interfaces = [\"eth0\"]\nhash_seed = \"0x5eed\"\n".into(),
            services: services.into_iter().collect(),
        }
    }
}

impl Svc {
    /// UDP port 53 of an IPv4 VIP, by ipip, with the topology's first backends: `web-1`, `web-2`, …
    fn new(name: &str, vip: u8, backends: u8) -> Self {
        Self {
            name: name.into(),
            vip: format!("192.0.2.{vip}"),
            port: 53,
            more: String::new(),
            backends: (1..=backends).map(backend).collect(),
        }
    }

    fn target(&self) -> Result<SocketAddr> {
        Ok(SocketAddr::new(self.vip.parse()?, self.port))
    }
}

fn backend(number: u8) -> (String, String, String) {
    (
        format!("web-{number}"),
        format!("10.0.0.{}", 10 + number),
        String::new(),
    )
}

impl std::fmt::Display for File {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "[node]\n{}", self.node)?;
        for service in &self.services {
            let Svc {
                name,
                vip,
                port,
                more,
                backends,
            } = service;
            writeln!(
                f,
                "[[service]]\nname = \"{name}\"\nvip = \"{vip}\"\nprotocol = \"udp\"\nport = {port}\nforward = \"ipip\"\n{more}"
            )?;
            for (name, address, more) in backends {
                writeln!(
                    f,
                    "[[service.backend]]\nname = \"{name}\"\naddress = \"{address}\"\n{more}"
                )?;
            }
        }
        Ok(())
    }
}

/// Clients whose flows are looked up.
fn clients(count: u16) -> impl Iterator<Item = SocketAddr> {
    (0..count).map(|number| ([198, 51, 100, 77], 30_000 + number).into())
}

/// How many flows have which owner, in words.
fn shares(owners: &[Option<String>]) -> String {
    let mut names: Vec<&str> = owners.iter().map(|owner| owner.as_deref().unwrap_or("-")).collect();
    names.sort_unstable();
    let mut text = String::new();
    for group in names.chunk_by(|a, b| a == b) {
        // Writing to a string cannot fail.
        _ = write!(text, "{}: {} ", group[0], group.len());
    }
    text
}

/// Everything that must be the same when nothing was changed: without uptime, rates and what traffic counts.
fn snapshot(api: &Api, services: &[&str]) -> Result<Value> {
    let status = api.get("/v1/status")?;
    let mut shown = vec![
        status["generation"].clone(),
        status["config"].clone(),
        status["interfaces"].clone(),
        status["capacity"].clone(),
    ];
    for name in services {
        let mut service = api.get(&format!("/v1/services/{name}"))?;
        forget_counters(&mut service);
        shown.push(service);
        let owners = api.owners(name, clients(100))?;
        shown.push(owners.into_iter().map(Value::from).collect());
    }
    Ok(Value::Array(shown))
}

fn forget_counters(value: &mut Value) {
    if let Some(fields) = value.as_object_mut() {
        for name in ["packets", "bytes", "rate", "last_probe"] {
            fields.remove(name);
        }
        fields.values_mut().for_each(forget_counters);
    } else if let Some(items) = value.as_array_mut() {
        items.iter_mut().for_each(forget_counters);
    }
}

/// One backend as `service show` has it.
fn shown(api: &Api, service: &str, backend: &str) -> Result<Value> {
    let detail = api.get(&format!("/v1/services/{service}"))?;
    let backends = detail["backends"].as_array().context("no backends")?;
    let found = backends.iter().find(|one| one["name"] == backend);
    found
        .cloned()
        .with_context(|| format!("{service} has no {backend}: {detail}"))
}

fn client_v4(port: u16) -> SocketAddr {
    ([198, 51, 100, 10], port).into()
}

fn vip_v6(number: u8) -> String {
    Topology::vip(Family::V6, number).to_string()
}

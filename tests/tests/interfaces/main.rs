//! Interfaces that go, come back, or lose what was put on them; and who may keep a daemon from starting.
//!
//! Needs root and the builds of `lbd` and `lbctl` (`LBD_BIN`, `LBCTL_BIN`).

mod egress;
mod front;
mod locks;
mod modes;
mod offloads;
mod role;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lb_tests::edge::{Edge, Programs, Service, configuration, join};
use lb_tests::net::{Arms, Family, Process, Program, Scratch, Topology, XdpLink, wait_until};
use lb_tests::serve::{UdpResponder, ask_udp};
use serde_json::Value;

/// On a machine that others use, too.
const PATIENCE: Duration = Duration::from_secs(15);

/// A client, an edge with two interfaces, and backends that answer by UDP.
struct Site {
    scratch: Scratch,
    programs: Programs,
    net: Topology,
    text: String,
    target: SocketAddr,
    joined: Vec<Process>,
    _servers: Vec<UdpResponder>,
}

impl Site {
    fn new(health: Option<&'static str>) -> Result<Self> {
        let (scratch, programs) = (Scratch::new()?, Programs::find()?);
        let net = Topology::new(Arms::Two, 2)?;
        let service = Service {
            name: "web".into(),
            vip: Topology::vip(Family::V4, 10),
            protocol: "udp",
            port: 53,
            forward: "ipip",
            backend_family: Family::V4,
            health,
        };
        let target = SocketAddr::new(service.vip, service.port);
        let mut joined = Vec::new();
        let mut servers = Vec::new();
        for backend in &net.backends {
            joined.push(join(backend, &programs, &scratch, &[service.vip])?);
            servers.push(UdpResponder::start(&backend.host, target)?);
        }
        Ok(Self {
            text: configuration(&net, &[service]),
            scratch,
            programs,
            net,
            target,
            joined,
            _servers: servers,
        })
    }

    fn edge(&self) -> Result<Edge<'_>> {
        Edge::start(&self.net, &self.programs, &self.scratch, &self.text)
    }

    /// How many of so many packets, each of its own flow, are answered.
    fn answered(&self, packets: u16) -> Result<usize> {
        self.net.client.enter(|| {
            let answered = |port: &u16| ask_udp(self.target, *port, Duration::from_millis(300)).is_ok();
            (33_000..33_000 + packets).filter(answered).count()
        })
    }

    /// Waits until a packet is answered; says how long that took.
    fn wait_answer(&self, edge: &Edge<'_>) -> Result<Duration> {
        let begun = Instant::now();
        wait_until("an answer", PATIENCE, || Ok(self.answered(1)? == 1)).with_context(|| {
            let stats = edge.lbctl(&["stats"]).unwrap_or_else(|error| format!("{error:#}"));
            format!("{}\n{stats}", edge.log())
        })?;
        Ok(begun.elapsed())
    }

    /// Makes one of the edge's interfaces again as it was, as a driver that is loaded anew does, with this index if one is given.
    fn make_again(&self, wire: &Wire, mac: [u8; 6], index: Option<&str>) -> Result<XdpLink> {
        let (edge, fabric) = (&self.net.edge, &self.net.fabric);
        let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
        let index = index.map_or(String::new(), |index| format!("index {index}"));
        let Wire {
            device,
            port,
            bridge,
            mtu,
            address,
        } = wire;
        edge.ip(&format!(
            "link add {device} {index} address {mac} mtu {mtu} type veth peer name {port} mtu {mtu} netns {}",
            fabric.net_path().display()
        ))?;
        edge.run("ethtool", &["-K", device, "tx", "off"])?;
        fabric.run("ethtool", &["-K", port, "tx", "off"])?;
        fabric.ip(&format!("link set {port} master {bridge} up"))?;
        edge.ip(&format!("link set {device} up"))?;
        edge.ip(&format!("addr add {address} dev {device}"))?;
        // What is redirected to a veth is only taken if its peer has a program.
        fabric.attach_until_dropped(port, &Program::PASS)
    }
}

/// One of the edge's wires.
struct Wire {
    device: &'static str,
    port: &'static str,
    bridge: &'static str,
    mtu: u32,
    address: &'static str,
}

/// Where clients' packets come in.
const FRONT: Wire = Wire {
    device: "eth0",
    port: "edge-front",
    bridge: "clients",
    mtu: 1_500,
    address: "198.51.100.5/24",
};

/// Where they leave to the backends.
const BACK: Wire = Wire {
    device: "eth1",
    port: "edge-back",
    bridge: "servers",
    mtu: 1_600,
    address: "10.0.0.5/24",
};

/// The messages of all events of a kind.
fn events(edge: &Edge<'_>, kind: &str) -> Result<Vec<String>> {
    let events = edge.api()?.get("/v1/events")?;
    let events = events.as_array().context("no events")?;
    let of_kind = events.iter().filter(|event| event["kind"] == kind);
    Ok(of_kind.map(Value::to_string).collect())
}

/// What `lbctl` says when it must not say that all is well: its exit code is 1, and the interface is named first.
fn complaint(edge: &Edge<'_>, args: &[&str]) -> Result<String> {
    let error = match edge.lbctl(args) {
        Ok(text) => anyhow::bail!("lbctl {args:?} ended well: {text}"),
        Err(error) => format!("{error:#}"),
    };
    ensure!(error.contains("exit status: 1\n"), "{error}");
    let first = error.lines().nth(1).unwrap_or_default();
    ensure!(
        first.starts_with("error: interface eth0 has no program"),
        "{first:?} comes first in {error}"
    );
    Ok(error)
}

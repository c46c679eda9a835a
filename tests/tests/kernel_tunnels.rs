//! Backends without our decapsulator: the kernel's own tunnel devices unwrap what the balancer sends.
//!
//! So our outer headers are what another implementation takes, and a backend needs nothing of ours. Needs root, the release builds
//! of `lbd` and `lbctl`, and the modules ipip, sit and ip6_tunnel, which `cargo xtask kernels` has.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lb_tests::edge::{Edge, Programs, Service, configuration};
use lb_tests::kernel;
use lb_tests::load::Session;
use lb_tests::net::{Arms, Backend, Family, Host, Scratch, Topology};
use lb_tests::serve::{Nginx, UdpResponder, ask_udp};

const PATIENCE: Duration = Duration::from_secs(5);

/// A device of the kernel's that unwraps packets of one pair of families.
struct Tunnel {
    /// As `ip link` calls it.
    kind: &'static str,
    /// What else it is made with.
    options: &'static str,
    /// Of the packets within.
    inner: Family,
    /// Of the packets around them.
    outer: Family,
    /// The Linux since which it does this; all are older than the oldest that we run on.
    since: (u32, u32),
}

#[test]
fn ipip_takes_ipv4_in_ipv4() -> Result<()> {
    check(&Tunnel {
        kind: "ipip",
        options: "",
        inner: Family::V4,
        outer: Family::V4,
        since: (2, 6),
    })
}

#[test]
fn sit_takes_ipv6_in_ipv4() -> Result<()> {
    check(&Tunnel {
        kind: "sit",
        options: "mode ip6ip",
        inner: Family::V6,
        outer: Family::V4,
        since: (2, 6),
    })
}

#[test]
fn ip6tnl_takes_ipv6_in_ipv6() -> Result<()> {
    check(&Tunnel {
        kind: "ip6tnl",
        options: "mode ip6ip6",
        inner: Family::V6,
        outer: Family::V6,
        since: (2, 6),
    })
}

#[test]
fn ip6tnl_takes_ipv4_in_ipv6() -> Result<()> {
    check(&Tunnel {
        kind: "ip6tnl",
        options: "mode ipip6",
        inner: Family::V4,
        outer: Family::V6,
        since: (2, 6),
    })
}

/// TCP and UDP through the balancer to backends with this device: all of them answer, no request fails, and the device has counted
/// what it unwrapped.
fn check(tunnel: &Tunnel) -> Result<()> {
    let _alone = alone();
    let trial = Host::new("trial")?;
    // With an address of its own: one without is the device that the module brings.
    let local = match tunnel.outer {
        Family::V4 => "127.0.0.1",
        Family::V6 => "::1",
    };
    let made = trial.ip(&format!("link add trial type {} local {local}", tunnel.kind));
    if !kernel::has(&format!("{} device", tunnel.kind), tunnel.since, made)? {
        return Ok(());
    }
    through(tunnel).with_context(|| format!("{} at the backends", tunnel.kind))
}

fn through(tunnel: &Tunnel) -> Result<()> {
    let scratch = Scratch::new()?;
    let programs = Programs::find()?;
    let net = Topology::new(Arms::Two, 2)?;
    let vip = Topology::vip(tunnel.inner, 10);
    let service = |name: &str, protocol, port| Service {
        name: name.into(),
        vip,
        protocol,
        port,
        forward: "ipip",
        backend_family: tunnel.outer,
        health: None,
    };
    let services = [service("web", "tcp", 80), service("names", "udp", 53)];
    let mut servers = Vec::new();
    for backend in &net.backends {
        terminate(tunnel, backend, vip)?;
        let nginx = Nginx::start(&backend.host, &scratch)?;
        servers.push((nginx, UdpResponder::start(&backend.host, SocketAddr::new(vip, 53))?));
    }
    let edge = Edge::start(&net, &programs, &scratch, &configuration(&net, &services))?;
    let names: Vec<&str> = net.backends.iter().map(Backend::name).collect();
    for service in &services {
        edge.wait_up(&service.name, &names, Duration::from_secs(20))?;
        let target = SocketAddr::new(vip, service.port);
        let answers = net.client.enter(|| ask(service.protocol, target))?.with_context(|| {
            let stats = edge.lbctl(&["stats"]).unwrap_or_else(|error| format!("{error:#}"));
            format!("{}\n{stats}\n{}", service.name, edge.log())
        })?;
        ensure!(answers.keys().eq(names.iter()), "{}: {answers:?}", service.name);
    }
    for backend in &net.backends {
        let links: serde_json::Value = serde_json::from_str(&backend.host.ip("-j -s link show dev tunnel")?)?;
        let unwrapped = links[0]["stats64"]["rx"]["packets"].as_u64();
        // Some 20 connections of at least four packets each.
        ensure!(
            unwrapped > Some(40),
            "{}: unwrapped {unwrapped:?} packets",
            backend.name()
        );
    }
    Ok(())
}

/// Makes a backend unwrap packets for the VIP, from any balancer.
fn terminate(tunnel: &Tunnel, backend: &Backend, vip: IpAddr) -> Result<()> {
    let local = backend.address(tunnel.outer);
    let any = match tunnel.outer {
        Family::V4 => "0.0.0.0",
        Family::V6 => "::",
    };
    let length = match tunnel.inner {
        Family::V4 => 32,
        Family::V6 => 128,
    };
    backend.host.ip_batch(&[
        format!(
            "link add tunnel type {} local {local} remote {any} {}",
            tunnel.kind, tunnel.options
        ),
        "link set tunnel up".into(),
        format!("addr add {vip}/{length} dev lo"),
    ])
}

/// Answers by backend of 40 flows; some connections also send a body of many full-sized packets.
fn ask(protocol: &str, target: SocketAddr) -> Result<BTreeMap<String, u32>> {
    let mut answers = BTreeMap::new();
    for number in 0..40 {
        let name = if protocol == "tcp" {
            let mut session = Session::open(target, PATIENCE).with_context(|| format!("connection {number}"))?;
            let name = session.ask(0).with_context(|| format!("request {number}"))?;
            if number % 10 == 0 {
                let again = session.ask(100_000).with_context(|| format!("upload {number}"))?;
                ensure!(again == name, "{name} became {again} in one connection");
            }
            name
        } else {
            ask_udp(target, 20_000 + number, PATIENCE).with_context(|| format!("datagram {number}"))?
        };
        *answers.entry(name).or_default() += 1;
    }
    Ok(answers)
}

/// One at a time: hosts of several topologies are too many for a small machine.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

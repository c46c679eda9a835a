//! The balancer as its users meet it: clients and servers on hosts of their own, `lbd` in between.
//!
//! Needs root and the release builds of `lbd` and `lbctl` (`LBD_BIN`, `LBCTL_BIN`).

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lb_tests::edge::{Edge, Programs, QUICK_HTTP_CHECKS, Service, configuration, join};
use lb_tests::load::{self, Demand, Load, Session};
use lb_tests::net::{Arms, Family, Process, Scratch, Topology};
use lb_tests::serve::{Nginx, UdpResponder, ask_udp};

const PATIENCE: Duration = Duration::from_secs(2);
const NAMES: [&str; 3] = ["web-1", "web-2", "web-3"];

/// What is asked of the network takes its time: one test at once, so that their clocks mean something.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn every_mode_and_family_through_two_arms() -> Result<()> {
    every_mode_and_family(Arms::Two)
}

#[test]
fn every_mode_and_family_through_one_arm() -> Result<()> {
    every_mode_and_family(Arms::One)
}

/// l2 and ipip of every pair of families, TCP and UDP: all backends answer, and no request fails.
fn every_mode_and_family(arms: Arms) -> Result<()> {
    use Family::{V4, V6};
    let _alone = alone();
    let mut services = Vec::new();
    for (number, forward, family, backend_family) in [
        (10, "l2", V4, V4),
        (10, "l2", V6, V6),
        (20, "ipip", V4, V4),
        (20, "ipip", V6, V6),
        (30, "ipip", V4, V6),
        (30, "ipip", V6, V4),
    ] {
        for (protocol, port) in [("tcp", 80), ("udp", 53)] {
            services.push(Service {
                name: format!("{forward}-{family:?}-to-{backend_family:?}-{protocol}").to_lowercase(),
                vip: Topology::vip(family, number),
                protocol,
                port,
                forward,
                backend_family,
                health: None,
            });
        }
    }
    let vips: BTreeSet<IpAddr> = services.iter().map(|service| service.vip).collect();
    let vips: Vec<IpAddr> = vips.into_iter().collect();

    let scratch = Scratch::new()?;
    let programs = Programs::find()?;
    let net = Topology::new(arms, 3)?;
    let pool = Pool::start(&net, &programs, &scratch, &vips)?;
    let mut responders = Vec::new();
    for backend in &net.backends {
        for vip in &vips {
            responders.push(UdpResponder::start(&backend.host, SocketAddr::new(*vip, 53))?);
        }
    }
    let edge = Edge::start(&net, &programs, &scratch, &configuration(&net, &services))?;
    for service in &services {
        edge.wait_up(&service.name, &NAMES, Duration::from_secs(10))?;
        let target = SocketAddr::new(service.vip, service.port);
        let what = || format!("{arms:?}: {}\n{}\n{}", service.name, evidence(&edge), edge.log());
        let answers = net.client.enter(|| ask_all(service, target))?.with_context(what)?;
        ensure!(answers.keys().eq(NAMES.iter()), "{answers:?} {}", what());
    }
    let stats = edge.json(&["stats"])?;
    let sum: u64 = stats["reasons"]
        .as_object()
        .context("no reasons")?
        .values()
        .filter_map(|count| count.as_u64())
        .sum();
    assert_eq!(stats["received"].as_u64(), Some(sum), "{stats}");
    drop(pool);
    Ok(())
}

/// Answers by backend of 60 flows; over TCP each also sends a body of many full-sized packets.
fn ask_all(service: &Service, target: SocketAddr) -> Result<BTreeMap<String, u32>> {
    let mut answers = BTreeMap::new();
    for number in 0..60 {
        let name = if service.protocol == "tcp" {
            let mut session = Session::open(target, PATIENCE).with_context(|| format!("connection {number}"))?;
            let name = session.ask(0).with_context(|| format!("request {number}"))?;
            if number % 10 == 0 {
                let again = session
                    .ask(200_000)
                    .with_context(|| format!("upload {number} to {name}"))?;
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

/// A backend dies: after a second nothing goes to it, and no flow of another backend has moved, then or when it is back.
#[test]
fn a_backend_that_dies_takes_no_other_flow_with_it() -> Result<()> {
    let _alone = alone();
    let scratch = Scratch::new()?;
    let programs = Programs::find()?;
    let net = Topology::new(Arms::Two, 3)?;
    let service = web(Family::V4, "ipip");
    let target = SocketAddr::new(service.vip, service.port);
    let mut pool = Pool::start(&net, &programs, &scratch, &[service.vip])?;
    let edge = Edge::start(&net, &programs, &scratch, &configuration(&net, &[service]))?;
    edge.wait_up("web", &NAMES, Duration::from_secs(10))?;

    let mut sessions = load::sessions(&net.client, target, 90, PATIENCE)?;
    let owners = |edge: &Edge| -> Result<Vec<String>> {
        (0..300)
            .map(|number| edge.lookup("web", ([198, 51, 100, 77], 30_000 + number).into()))
            .collect()
    };
    for (session, name) in &sessions {
        assert_eq!(
            edge.lookup("web", session.source()?)?,
            *name,
            "lookup and traffic disagree"
        );
    }
    let before = owners(&edge)?;

    let load = Load::start(&net.client, demand(target))?;
    sleep(Duration::from_secs(1));
    let killed = load.now();
    pool.servers[1].kill()?;
    sleep(Duration::from_secs(3));
    let without = owners(&edge)?;
    let until = load.now();
    let samples = load.stop()?;

    let early: Vec<_> = samples
        .iter()
        .filter(|sample| sample.at < killed && sample.at + sample.took < killed)
        .collect();
    assert!(
        early.iter().all(|sample| sample.outcome.is_ok()),
        "failures before the kill"
    );
    let late = samples
        .iter()
        .filter(|sample| sample.at > killed + Duration::from_secs(1));
    let late_failures: Vec<_> = late.clone().filter(|sample| sample.outcome.is_err()).collect();
    assert!(
        late_failures.is_empty(),
        "{} of them, first {:?}, killed {killed:?}",
        late_failures.len(),
        late_failures[0]
    );
    assert!(late.clone().all(|sample| sample.outcome.as_deref() != Ok("web-2")));
    assert!(
        late.count() > 100 && until > killed + Duration::from_secs(2),
        "too few to mean anything"
    );

    let mut moved = 0;
    for (is, was) in without.iter().zip(&before) {
        assert_ne!(is, "web-2");
        moved += usize::from(was != "web-2" && is != was);
    }
    assert_eq!(moved, 0, "flows of living backends that moved, by lookup");
    sessions.retain(|(_, name)| name != "web-2");
    assert!(
        (30..90).contains(&sessions.len()),
        "{} connections to the living",
        sessions.len()
    );
    check_sessions(&mut sessions)?;

    pool.servers[1].start_again(&net.backends[1].host)?;
    edge.wait_up("web", &NAMES, Duration::from_secs(5))?;
    assert_eq!(owners(&edge)?, before, "back as it was");
    check_sessions(&mut sessions)
}

fn check_sessions(sessions: &mut [(Session, String)]) -> Result<()> {
    for (session, name) in sessions {
        let source = session.source()?;
        let answer = session
            .ask(0)
            .with_context(|| format!("the connection from {source} to {name} broke"))?;
        assert_eq!(answer, *name, "the connection from {source} moved");
    }
    Ok(())
}

/// SIGKILL, three quarters of a second without a daemon, a new start: nobody notices.
#[test]
fn a_killed_daemon_costs_nothing() -> Result<()> {
    let _alone = alone();
    let scratch = Scratch::new()?;
    let programs = Programs::find()?;
    let net = Topology::new(Arms::One, 3)?;
    let service = web(Family::V4, "ipip");
    let target = SocketAddr::new(service.vip, service.port);
    let pool = Pool::start(&net, &programs, &scratch, &[service.vip])?;
    let mut edge = Edge::start(&net, &programs, &scratch, &configuration(&net, &[service]))?;
    edge.wait_up("web", &NAMES, Duration::from_secs(10))?;
    let mut sessions = load::sessions(&net.client, target, 30, PATIENCE)?;

    let load = Load::start(&net.client, demand(target))?;
    for _ in 0..2 {
        sleep(Duration::from_millis(500));
        edge.kill()?;
        sleep(Duration::from_millis(750));
        check_sessions(&mut sessions)?;
        edge.start_again()?;
        edge.wait_up("web", &NAMES, Duration::from_secs(10))?;
    }
    sleep(Duration::from_millis(500));
    edge.stop()?;
    sleep(Duration::from_millis(500));
    let samples = load.stop()?;
    let failures = load::failures(&samples);
    assert!(
        failures.is_empty(),
        "{} of {} failed, first {:?}",
        failures.len(),
        samples.len(),
        failures[0]
    );
    assert!(samples.len() > 500, "{} requests", samples.len());
    check_sessions(&mut sessions)?;
    drop(pool);
    Ok(())
}

/// The backends' side: a server and the decapsulator on each.
struct Pool {
    servers: Vec<Nginx>,
    _joined: Vec<Process>,
}

impl Pool {
    fn start(net: &Topology, programs: &Programs, scratch: &Scratch, vips: &[IpAddr]) -> Result<Self> {
        let servers = net
            .backends
            .iter()
            .map(|backend| Nginx::start(&backend.host, scratch))
            .collect::<Result<_>>()?;
        let joined = net
            .backends
            .iter()
            .map(|backend| join(backend, programs, scratch, vips))
            .collect::<Result<_>>()?;
        Ok(Self {
            servers,
            _joined: joined,
        })
    }
}

fn web(family: Family, forward: &'static str) -> Service {
    Service {
        name: "web".into(),
        vip: Topology::vip(family, 10),
        protocol: "tcp",
        port: 80,
        forward,
        backend_family: family,
        health: Some(QUICK_HTTP_CHECKS),
    }
}

fn demand(target: SocketAddr) -> Demand {
    Demand {
        target,
        rate: 200,
        workers: 32,
        timeout: Duration::from_secs(1),
    }
}

/// What a failure's message should show.
fn evidence(edge: &Edge) -> String {
    let of = |args: &[&str]| edge.lbctl(args).unwrap_or_else(|error| format!("{error:#}"));
    of(&["status"]) + &of(&["stats"])
}

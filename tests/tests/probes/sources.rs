//! The addresses of the edge change: probes go on from the one they have, and find another when it goes.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lb_tests::edge::Edge;
use lb_tests::load::{Demand, Load, failures};
use lb_tests::net::{Arms, Family, wait_until};

use super::{ALL_UP, Site, turn, verdicts, wait_for, web};

/// Addresses that come, are found to be another host's, age and go, beside the one that probes of an IPv6 VIP come from.
#[test]
fn addresses_that_come_and_go_lose_nothing() -> Result<()> {
    let _turn = turn();
    let site = Site::new(Arms::Two, vec![web(10, "ipip", Family::V6, Family::V4)])?;
    let edge = site.edge()?;
    let service = &site.services[0];
    wait_for(&edge, &service.name, ALL_UP)?;
    let host = &site.net.edge;
    // Duplicates are looked for, as on any host; and another host has one of the addresses.
    host.sysctl("net/ipv6/conf/eth1/accept_dad", "1")?;
    site.net.backends[1]
        .host
        .ip("addr add 2001:db8:b::88/64 dev eth0 nodad")?;
    let before = events(&edge)?;
    let demand = Demand {
        target: SocketAddr::new(service.vip, service.port),
        rate: 100,
        workers: 32,
        timeout: Duration::from_millis(900),
    };
    let load = Load::start(&site.net.client, demand)?;
    let changes = [
        // Each of these begins as tentative: it may be another host's. The kernel names the newest first.
        "addr add 2001:db8:b::77/64 dev eth1",
        "addr add 2001:db8:b::88/64 dev eth1",
        "addr change 2001:db8:b::77/64 dev eth1 preferred_lft 0",
        "addr add 2001:db8:b::99/64 dev eth1 valid_lft 60 preferred_lft 30",
        "addr add 2001:db8:c::99/64 dev eth0",
        "addr del 2001:db8:b::77/64 dev eth1",
        "addr del 2001:db8:c::99/64 dev eth0",
    ];
    for change in changes {
        host.ip(change)?;
        std::thread::sleep(Duration::from_millis(2_200));
    }
    let shown = host.ip("-6 addr show dev eth1")?;
    ensure!(
        shown.contains("dadfailed"),
        "no address failed duplicate detection: {shown}"
    );
    host.ip("addr del 2001:db8:b::88/64 dev eth1")?;
    std::thread::sleep(Duration::from_millis(500));
    let samples = load.stop()?;
    let failed = failures(&samples);
    println!("{} requests, {} failed", samples.len(), failed.len());
    let events = events(&edge)?;
    ensure!(
        failed.is_empty(),
        "{} of {} failed: {:?}",
        failed.len(),
        samples.len(),
        failed.first()
    );
    ensure!(events == before, "unexpected: {:?}", &events[before.len()..]);

    // Now the one in use goes: its successor is found.
    host.ip("addr del 2001:db8:b::5/64 dev eth1")?;
    let changed = Instant::now();
    std::thread::sleep(Duration::from_secs(2));
    wait_for(&edge, &service.name, ALL_UP)?;
    println!("the one in use is gone: all up after {:?}", changed.elapsed());
    // And it was the successor that made them so: without any, no probe can be answered.
    host.ip("addr del 2001:db8:b::99/64 dev eth1")?;
    host.ip("addr del 2001:db8:c::5/64 dev eth0")?;
    wait_until("the probes to say what is missing", Duration::from_secs(4), || {
        let words = verdicts(&edge, &service.name)?;
        Ok(words.values().all(|(_, words)| words.contains("no IPv6 address")))
    })
    .with_context(|| format!("{:?}", verdicts(&edge, &service.name)))
}

/// All events so far.
fn events(edge: &Edge) -> Result<Vec<String>> {
    let events = edge.api()?.get("/v1/events")?;
    let events = events.as_array().context("a list")?;
    Ok(events.iter().map(ToString::to_string).collect())
}

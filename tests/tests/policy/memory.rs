//! What is remembered of flows: it counts for the connection that it was made for, in the life of the backend that it names.

use std::collections::BTreeSet;
use std::thread::sleep;

use super::drain::broken;
use super::*;

/// Longer than a test takes: no memory is too old.
const DRAIN_TIME: &str = "drain_time = \"60s\"";
/// The daemon reads the flow table every five seconds, and looks after slots every second.
const AT_REST: Duration = Duration::from_secs(7);

fn others(sessions: &[(Session, String)], name: &str) -> usize {
    sessions.iter().filter(|(_, other)| other != name).count()
}

/// A rolling restart where a client's connections share a slot: drained, stopped, started again while it still drains.
#[test]
fn a_restart_during_a_drain_breaks_nothing_of_who_went_elsewhere() -> Result<()> {
    let site = Site::new(2)?;
    let edge = site.edge("", &format!("hash = \"source\"\n{DRAIN_TIME}"), &["", ""])?;
    all_up(&edge, 2)?;
    let mut before = site.sessions(12)?;
    let drained = before[0].1.clone();
    ensure!(others(&before, &drained) == 0, "a client's connections are at several");
    let number = usize::from(site.net.backends[0].name() != drained);
    let other = site.net.backends[1 - number].name();

    edge.lbctl(&["backend", "drain", "web", &drained])?;
    let mut meanwhile = site.sessions(3)?;
    ensure!(
        others(&meanwhile, other) == 0,
        "{drained} drains, and gets new connections"
    );
    let lost = broken(&mut before) + broken(&mut meanwhile);
    ensure!(lost == 0, "{lost} broken by the drain");
    let set = |well| site.healths[number].set(well);
    set(false);
    wait_for(&edge, "the stop", |service| {
        service["backends"][number]["health"] == "down"
    })?;
    ensure!(broken(&mut before) == 12, "its connections end with it");
    let mut after = site.sessions(12)?;
    set(true);
    wait_for(&edge, "the start", |service| {
        service["backends"][number]["health"] == "up"
    })?;
    for round in 0..2 {
        let mut new = site.sessions(3)?;
        ensure!(others(&new, other) == 0, "{drained} drains, and gets new connections");
        let lost = broken(&mut after) + broken(&mut meanwhile) + broken(&mut new);
        ensure!(
            lost == 0,
            "{lost} of 18 broken in round {round}, and {other} never failed"
        );
    }
    Ok(())
}

/// A client goes round its ports: connections of ports that are used again begin in slots at rest, and the slots move later.
#[test]
fn a_port_that_is_used_again_is_not_led_back() -> Result<()> {
    let site = Site::new(2)?;
    site.net.client.sysctl("net/ipv4/ip_local_port_range", "40000 40063")?;
    let edge = site.edge("", DRAIN_TIME, &["", ""])?;
    all_up(&edge, 2)?;
    let (first, second) = (site.net.backends[0].name(), site.net.backends[1].name());
    let all = site.sessions(64)?;
    let (mut on_it, mut elsewhere): (Vec<_>, Vec<_>) = all.into_iter().partition(|(_, name)| name == first);
    let count = on_it.len();
    ensure!(count > 10, "{count} connections");
    // Each is remembered where it is.
    edge.lbctl(&["backend", "drain", "web", first])?;
    let lost = broken(&mut on_it) + broken(&mut elsewhere);
    ensure!(lost == 0, "{lost} broken by the drain");
    edge.lbctl(&["backend", "enable", "web", first])?;
    sleep(AT_REST);

    site.healths[0].set(false);
    wait_for(&edge, "the stop", |service| service["backends"][0]["health"] == "down")?;
    let ports = |sessions: &[(Session, String)]| -> Result<BTreeSet<u16>> {
        let port = |(session, _): &(Session, String)| Ok(session.source()?.port());
        sessions.iter().map(port).collect()
    };
    let used = ports(&on_it)?;
    ensure!(broken(&mut on_it) == count, "its connections end with it");
    drop(on_it);
    let mut again = site.sessions(count)?;
    ensure!(ports(&again)? == used, "the same ports");
    ensure!(others(&again, second) == 0, "{first} is down");
    site.healths[0].set(true);
    wait_for(&edge, "the start", |service| service["backends"][0]["health"] == "up")?;
    for _ in 0..2 {
        let lost = broken(&mut again);
        ensure!(
            lost == 0,
            "{lost} of {count} were led to {first}, and {second} never failed"
        );
        ensure!(broken(&mut elsewhere) == 0);
    }
    Ok(())
}

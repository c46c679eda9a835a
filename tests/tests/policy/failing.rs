//! All checks fail at once; nothing is up; a word is waited for; somebody flaps.

use std::net::{IpAddr, SocketAddr};
use std::thread::sleep;

use anyhow::bail;

use super::*;

#[test]
fn when_all_checks_fail_at_once_traffic_still_flows() -> Result<()> {
    let site = Site::new(3)?;
    let edge = site.edge("", "panic_threshold = 0.5", &["", "", ""])?;
    all_up(&edge, 3)?;
    let load = site.load(100)?;
    sleep(Duration::from_millis(500));
    site.set(&[false; 3]);
    let took = wait_for(&edge, "panic", |service| service["mode"] == "panic")?;
    sleep(Duration::from_secs(2));
    let shown = edge.lbctl(&["service", "show", "web"])?;
    ensure!(shown.contains("PANIC"), "{shown}");
    let status = edge.lbctl(&["status"])?;
    ensure!(status.contains("PANIC"), "{status}");
    site.set(&[true; 3]);
    wait_for(&edge, "no panic", |service| service["mode"] == "normal")?;
    let samples = load.stop()?;
    let (failed, first) = failures(&samples);
    println!(
        "all checks fail: panic after {took:?}, {failed} of {} requests failed",
        samples.len()
    );
    ensure!(failed == 0, "{first}");
    let events = events(&edge)?;
    ensure!(
        has(&events, "panic_on", "") && has(&events, "panic_off", ""),
        "{events:?}"
    );
    Ok(())
}

#[test]
fn when_nothing_is_up_the_sorry_backend_serves() -> Result<()> {
    let site = Site::new(3)?;
    let edge = site.edge("", "", &["", "", "sorry = true"])?;
    all_up(&edge, 3)?;
    let load = site.load(100)?;
    sleep(Duration::from_secs(1));
    ensure!(!who(&load.samples(0)).contains("web-3"), "{:?}", who(&load.samples(0)));
    site.set(&[false, false, true]);
    let took = wait_for(&edge, "sorry", |service| service["mode"] == "sorry")?;
    let seen = load.samples(0).len();
    sleep(Duration::from_secs(1));
    let during = load.samples(seen + 20);
    ensure!(who(&during) == ["web-3".to_owned()].into(), "{:?}", who(&during));
    site.set(&[true; 3]);
    wait_for(&edge, "normal", |service| service["mode"] == "normal")?;
    sleep(Duration::from_millis(300));
    let seen = load.samples(0).len();
    sleep(Duration::from_secs(1));
    ensure!(!who(&load.samples(seen)).contains("web-3"));
    let samples = load.stop()?;
    println!(
        "all down: the sorry backend after {took:?}; {} of {} requests failed",
        failures(&samples).0,
        samples.len()
    );
    // All of them down, the sorry one too: dropped, and said.
    site.set(&[false; 3]);
    wait_for(&edge, "nobody", |service| service["mode"] == "nobody")?;
    let events = events(&edge)?;
    for kind in ["sorry_on", "sorry_off", "service_lost"] {
        ensure!(has(&events, kind, ""), "{kind}: {events:?}");
    }
    Ok(())
}

#[test]
fn a_manual_failover_waits_for_the_operator_over_a_restart_too() -> Result<()> {
    let site = Site::new(3)?;
    let mut edge = site.edge("", "failover = \"manual\"\nfailback = \"manual\"", &["", "", ""])?;
    all_up(&edge, 3)?;
    // Another weight changes nothing about it.
    edge.lbctl(&["backend", "weight", "web", "web-2", "50"])?;
    site.set(&[true, false, true]);
    wait_for(&edge, "pending", |service| standing(service, "web-2") == "pending")?;
    let (failed, first) = failures(&short_load(&site)?);
    ensure!(failed == 0, "it serves on: {first}");
    edge.kill()?;
    edge.start_again()?;
    wait_for(&edge, "pending again", |service| {
        standing(service, "web-2") == "pending"
    })?;
    edge.lbctl(&["failover", "web"])?;
    let shown = edge.api()?.get("/v1/services/web")?;
    ensure!(standing(&shown, "web-2") == "down", "{shown:#}");
    ensure!(edge.lbctl(&["failover", "web"]).is_err(), "nothing waits any more");
    site.set(&[true; 3]);
    wait_for(&edge, "waiting", |service| standing(service, "web-2") == "waiting")?;
    edge.kill()?;
    edge.start_again()?;
    wait_for(&edge, "waiting again", |service| {
        standing(service, "web-2") == "waiting"
    })?;
    ensure!(!who(&short_load(&site)?).contains("web-2"));
    edge.lbctl(&["failback", "web", "web-2"])?;
    ensure!(who(&short_load(&site)?).len() == 3);
    let events = events(&edge)?;
    for kind in ["failover_pending", "failover", "failback_pending", "failback"] {
        ensure!(has(&events, kind, "web-2"), "{kind}: {events:?}");
    }
    Ok(())
}

fn short_load(site: &Site) -> Result<Vec<Sample>> {
    let load = site.load(100)?;
    sleep(Duration::from_secs(1));
    load.stop()
}

#[test]
fn who_flaps_every_second_is_held_out_and_moves_nobody_else() -> Result<()> {
    let site = Site::new(3)?;
    let edge = site.edge("", "damping = { half_life = \"20s\", max_out = \"2m\" }", &["", "", ""])?;
    all_up(&edge, 3)?;
    let clients: Vec<SocketAddr> = (0..400)
        .map(|port| ([198, 51, 100, 77], 30_000 + port).into())
        .collect();
    let before = edge.api()?.owners("web", clients.clone())?;
    let mut moved = 0;
    for round in 0..10 {
        site.set(&[true, round % 2 == 1, true]);
        sleep(Duration::from_secs(1));
        let now = edge.api()?.owners("web", clients.clone())?;
        let others = before
            .iter()
            .zip(&now)
            .filter(|(before, _)| before.as_deref() != Some("web-2"));
        moved += others.filter(|(before, now)| before != now).count();
    }
    site.set(&[true; 3]);
    let shown = edge.api()?.get("/v1/services/web")?;
    ensure!(standing(&shown, "web-2") == "damped", "{shown:#}");
    let until = shown["backends"][1]["standing"]["until_unix_ms"].as_u64();
    ensure!(until.is_some(), "{shown:#}");
    let events = events(&edge)?;
    let failovers = events
        .iter()
        .filter(|(kind, backend)| kind == "failover" && backend == "web-2")
        .count();
    println!("flapping every second: {failovers} failovers, then held out; {moved} flows of others moved");
    ensure!(
        moved == 0 && has(&events, "backend_damped", "web-2") && failovers == 3,
        "{events:?}"
    );
    let text = edge.lbctl(&["service", "show", "web"])?;
    ensure!(text.contains("held out"), "{text}");
    edge.lbctl(&["failback", "web", "web-2"])?;
    ensure!(edge.api()?.owners("web", clients)? == before);
    Ok(())
}

#[test]
fn who_never_was_there_and_a_service_without_anybody_are_told_of() -> Result<()> {
    let site = Site::new(2)?;
    let IpAddr::V4(there) = site.net.backends[0].address(Family::V4) else {
        bail!("asked for IPv4")
    };
    let [a, b, c, _] = there.octets();
    let ghost = format!("[[service.backend]]\nname = \"ghost\"\naddress = \"{a}.{b}.{c}.250\"\n");
    let vip = Topology::vip(Family::V4, 10);
    let dark = format!(
        "[[service]]\nname = \"dark\"\nvip = \"{vip}\"\nprotocol = \"tcp\"\nport = 81\nforward = \"ipip\"\n{ghost}\
         [service.health]\nkind = \"tcp\"\n"
    );
    let text = format!("{}\n{ghost}\n{dark}", site.file("", "", &["", ""]));
    let mut edge = Edge::start(&site.net, &site.programs, &site.scratch, &text)?;
    wait_for(&edge, "the two that are there", |service| {
        service["backends"][1]["health"] == "up" && service["backends"][2]["health"] == "up"
    })?;
    let begun = Instant::now();
    let told = |edge: &Edge, kind: &str, backend: &str| -> Result<usize> {
        let event = (kind.to_owned(), backend.to_owned());
        Ok(events(edge)?.into_iter().filter(|one| *one == event).count())
    };
    while told(&edge, "way_lost", "ghost")? < 2 || told(&edge, "service_lost", "")? < 1 {
        ensure!(begun.elapsed() < PATIENCE, "{:?}", events(&edge)?);
        sleep(Duration::from_millis(100));
    }
    println!("told of after {:?}", begun.elapsed());
    for expected in ["service dark: no backend serves", "backend ghost cannot be checked"] {
        while !edge.api()?.get("/v1/status")?["warnings"]
            .to_string()
            .contains(expected)
        {
            ensure!(begun.elapsed() < PATIENCE, "{expected}");
            sleep(Duration::from_millis(100));
        }
    }
    // Not once more by the next daemon.
    sleep(Duration::from_millis(1_500));
    edge.kill()?;
    edge.start_again()?;
    sleep(Duration::from_secs(8));
    let (ways, lost) = (told(&edge, "way_lost", "ghost")?, told(&edge, "service_lost", "")?);
    ensure!((ways, lost) == (2, 1), "{:?}", events(&edge)?);
    Ok(())
}

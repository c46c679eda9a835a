//! A path that is too small for a tunnel's packets is reported before the first upload hangs on it.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use lb_tests::edge::{Edge, Service};
use lb_tests::load::Session;
use lb_tests::net::{Arms, Family, wait_until};
use serde_json::Value;

use super::{ALL_UP, PATIENCE, Site, turn, wait_for, web};

/// What an upload may take that does not hang.
const UPLOAD: Duration = Duration::from_secs(3);

/// The edge's link to its backends has Ethernet's MTU: status, service, check, plan and an event say so, and that it is mended.
#[test]
fn a_link_without_room_for_the_outer_header_is_reported() -> Result<()> {
    let _turn = turn();
    let site = Site::new(
        Arms::Two,
        vec![
            web(10, "ipip", Family::V4, Family::V4),
            web(11, "ipip", Family::V6, Family::V6),
            web(12, "l2", Family::V4, Family::V4),
        ],
    )?;
    let edge = site.edge()?;
    for service in &site.services {
        wait_for(&edge, &service.name, ALL_UP)?;
        upload(&site, service)?;
    }
    let [v4, v6, l2] = &site.services[..] else {
        unreachable!("three services")
    };
    ensure!(said(&edge)?.is_empty(), "{:?}", said(&edge)?);
    ensure!(warned(&edge, "check")?.is_empty() && warned(&edge, "plan")?.is_empty());

    site.net.edge.ip("link set eth1 mtu 1500")?;
    wait_for_said(&edge, 2)?;
    let lines = said(&edge)?;
    println!("{}", lines.join("\n"));
    for (line, service, needed, segment, ip) in [
        (&lines[0], v4, "1520", "advmss 1440", "`ip route change"),
        (&lines[1], v6, "1540", "advmss 1400", "`ip -6 route change"),
    ] {
        for part in [&service.name, needed, segment, ip, "web-1 and 2 more"] {
            ensure!(line.contains(part), "no {part:?} in {line}");
        }
    }
    for (service, needed) in [(v4, 1_520), (v6, 1_540)] {
        let shown = edge.json(&["service", "show", &service.name])?;
        let found = &shown["backends"][1]["path_mtu"];
        ensure!(
            *found == serde_json::json!({"needed": needed, "mtu": 1_500, "found_by": "route"}),
            "{found}"
        );
    }
    let shown = edge.json(&["service", "show", &l2.name])?;
    ensure!(shown["backends"][0]["path_mtu"].is_null(), "{shown}");
    for verb in ["check", "plan"] {
        let warnings = warned(&edge, verb)?;
        ensure!(
            warnings.len() == 2 && warnings[0].contains("1520"),
            "{verb}: {warnings:?}"
        );
    }
    ensure!(events(&edge, "path_mtu_too_small")? == [&*v4.name, &*v6.name]);
    ensure!(events(&edge, "path_mtu_ok")?.is_empty());
    // The checks do not notice it, because their packets are small.
    wait_for(&edge, &v4.name, ALL_UP)?;
    ensure!(upload(&site, v4).is_err(), "an upload through 1,500 bytes came through");

    // Enough for an outer IPv4 header.
    site.net.edge.ip("link set eth1 mtu 1520")?;
    wait_for_said(&edge, 1)?;
    ensure!(said(&edge)?[0].contains(&v6.name));
    upload(&site, v4)?;
    site.net.edge.ip("link set eth1 mtu 1540")?;
    wait_for_said(&edge, 0)?;
    upload(&site, v6)?;
    ensure!(events(&edge, "path_mtu_ok")? == [&*v4.name, &*v6.name]);

    // A route's own MTU, of one backend.
    let route = "route replace 10.0.0.12/32 dev eth1";
    site.net.edge.ip(&format!("{route} mtu 1500"))?;
    wait_for_said(&edge, 1)?;
    ensure!(said(&edge)?[0].contains("web-2: "), "{:?}", said(&edge)?);
    site.net.edge.ip(&route.replace("replace", "del"))?;
    wait_for_said(&edge, 0)?;
    Ok(())
}

/// One interface for both, raised for the tunnel: what clients send is still no larger than Ethernet's.
#[test]
fn one_arm_that_was_raised_for_the_tunnel_is_large_enough() -> Result<()> {
    let _turn = turn();
    let site = Site::new(Arms::One, vec![web(10, "ipip", Family::V4, Family::V6)])?;
    site.net.edge.ip("link set eth0 mtu 1540")?;
    let edge = site.edge()?;
    let service = &site.services[0];
    wait_for(&edge, &service.name, ALL_UP)?;
    upload(&site, service)?;
    // Looked at each second.
    std::thread::sleep(Duration::from_millis(2_500));
    ensure!(said(&edge)?.is_empty(), "{:?}", said(&edge)?);
    site.net.edge.ip("link set eth0 mtu 1500")?;
    wait_for_said(&edge, 1)?;
    ensure!(said(&edge)?[0].contains("1540"), "{:?}", said(&edge)?);
    Ok(())
}

pub(crate) fn upload(site: &Site, service: &Service) -> Result<()> {
    let target = SocketAddr::new(service.vip, service.port);
    let done = site.net.client.enter(|| -> Result<()> {
        let mut session = Session::open(target, UPLOAD)?;
        session.ask(0)?;
        session.ask(200_000).map(drop).context("an upload")?;
        Ok(())
    })?;
    done.with_context(|| service.name.clone())
}

/// The node's warnings about MTUs.
pub(crate) fn said(edge: &Edge) -> Result<Vec<String>> {
    Ok(about_mtus(&edge.json(&["status"])?["warnings"]))
}

fn about_mtus(warnings: &Value) -> Vec<String> {
    let texts = warnings.as_array().into_iter().flatten();
    let texts = texts.filter_map(|one| one.as_str().or_else(|| one["message"].as_str()));
    texts
        .filter(|text| text.contains("path MTU"))
        .map(str::to_owned)
        .collect()
}

pub(crate) fn wait_for_said(edge: &Edge, count: usize) -> Result<()> {
    let mut lines = Vec::new();
    let waited = wait_until(&format!("{count} warnings about MTUs"), PATIENCE, || {
        lines = said(edge)?;
        Ok(lines.len() == count)
    });
    waited.with_context(|| format!("{lines:?}\n{}", edge.log()))
}

/// What a verb warns of, asked with the daemon's own file.
fn warned(edge: &Edge, verb: &str) -> Result<Vec<String>> {
    let file = edge.configuration().display().to_string();
    Ok(about_mtus(&edge.json(&[verb, &file])?["warnings"]))
}

/// The services of the events of a kind, in the order of their names.
pub(crate) fn events(edge: &Edge, kind: &str) -> Result<Vec<String>> {
    let text = edge.lbctl(&["-o", "json", "events"])?;
    let mut services = Vec::new();
    for line in text.lines() {
        let event: Value = serde_json::from_str(line)?;
        if event["kind"] == kind {
            services.extend(event["service"].as_str().map(str::to_owned));
        }
    }
    services.sort();
    Ok(services)
}

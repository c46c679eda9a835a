//! An edge in generic mode, as an interface gets it whose driver has no native XDP: every forward mode and every kind of probe.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use lb_tests::edge::{Edge, QUICK_HTTP_CHECKS, Service, configuration, every_mode};
use lb_tests::load::Session;
use lb_tests::net::{Arms, Family};
use lb_tests::xdp;

use super::kinds::{Kinds, TIMES, kinds};
use super::{ALL_UP, PATIENCE, Site, turn, wait_for, web};

/// Large enough for many full-sized packets, and for what the network stack makes one of several.
const UPLOAD: usize = 200_000;

/// Every forward mode and pair of families, requests and uploads; and a VIP that goes missing is found through each.
#[test]
fn in_generic_mode_every_forward_mode_serves_and_is_checked_with_one_arm() -> Result<()> {
    let _turn = turn();
    let site = Site::new(Arms::One, every_mode(QUICK_HTTP_CHECKS))?;
    let edge = start(&site)?;
    serves(&site, &edge)
}

/// The same by redirect, with the other kinds of probe beside.
#[test]
fn in_generic_mode_every_kind_of_probe_is_answered_with_two_arms() -> Result<()> {
    let _turn = turn();
    let Kinds { mut services, servers } = kinds(&[(Family::V4, Family::V4), (Family::V6, Family::V4)])?;
    let more = |number, kind: &str, name: &str| Service {
        name: format!("{name}-{number}"),
        health: Some(Box::leak(format!("{kind}{TIMES}").into_boxed_str())),
        ..web(number, "ipip", Family::V4, Family::V6)
    };
    services.push(more(40, "kind = \"tcp\"\n", "tcp"));
    services.extend(
        every_mode(QUICK_HTTP_CHECKS)
            .into_iter()
            .zip(50..)
            .map(|(service, number)| Service {
                vip: lb_tests::net::Topology::vip(family_of(&service), number),
                ..service
            }),
    );
    let site = Site::new(Arms::Two, services)?;
    let _servers = servers.start(&site)?;
    let edge = start(&site)?;
    serves(&site, &edge)
}

fn family_of(service: &Service) -> Family {
    if service.vip.is_ipv4() { Family::V4 } else { Family::V6 }
}

fn start(site: &Site) -> Result<Edge<'_>> {
    let text = configuration(&site.net, &site.services).replacen("[node]\n", &xdp::generic_node(), 1);
    let edge = Edge::start(&site.net, &site.programs, &site.scratch, &text)?;
    let status = edge.json(&["status"])?;
    let mode = &status["interfaces"][0]["xdp_mode"];
    ensure!(mode == "generic", "{status}");
    Ok(edge)
}

/// All backends come up; web servers answer requests and take uploads; then the second backend loses its VIPs.
fn serves(site: &Site, edge: &Edge) -> Result<()> {
    for service in &site.services {
        wait_for(edge, &service.name, ALL_UP)?;
    }
    for service in site.services.iter().filter(|service| service.port == 80) {
        let target = SocketAddr::new(service.vip, service.port);
        let what = || {
            format!(
                "{}\n{}",
                service.name,
                edge.json(&["stats"]).unwrap_or_default()["reasons"]
            )
        };
        site.net
            .client
            .enter(|| -> Result<()> {
                for _ in 0..6 {
                    let mut session = Session::open(target, PATIENCE)?;
                    let name = session.ask(0).context("a request")?;
                    ensure!(session.ask(UPLOAD).context("an upload")? == name);
                }
                Ok(())
            })?
            .with_context(what)?;
    }
    site.stop_keeper(1)?;
    let host = &site.net.backends[1].host;
    for service in &site.services {
        let length = if service.vip.is_ipv4() { 32 } else { 128 };
        host.ip(&format!("addr del {}/{length} dev lo", service.vip))?;
    }
    for service in &site.services {
        let (took, words) = wait_for(edge, &service.name, ["up", "down", "up"])?;
        println!(
            "generic, {}: VIP missing on the backend: out after {took:?}, {words}",
            service.name
        );
    }
    Ok(())
}

//! Faults that only a user's packet meets.

use std::net::IpAddr;

use anyhow::{Context as _, Result, ensure};
use lb_tests::edge::{QUICK_HTTP_CHECKS, every_mode};
use lb_tests::net::{Arms, Backend, Host};
use nix::sys::signal::Signal;

use super::{ALL_UP, Site, turn, wait_for};

#[test]
fn a_missing_vip_and_a_missing_decapsulator_with_one_arm() -> Result<()> {
    missing_parts(Arms::One, false)
}

#[test]
fn a_missing_vip_and_a_missing_decapsulator_with_two_arms() -> Result<()> {
    missing_parts(Arms::Two, false)
}

/// The edge has the VIPs itself, and filters by reverse path: what its own stack would take for martians comes back nevertheless.
#[test]
fn the_same_if_the_edge_holds_the_vips() -> Result<()> {
    missing_parts(Arms::Two, true)
}

fn missing_parts(arms: Arms, edge_holds_vips: bool) -> Result<()> {
    let _turn = turn();
    let mut site = Site::new(arms, every_mode(QUICK_HTTP_CHECKS))?;
    if edge_holds_vips {
        let edge = &site.net.edge;
        for service in &site.services {
            edge.ip(&format!("addr add {} dev lo", with_length(service.vip)))?;
        }
        for device in ["all", "default", "eth0", "eth1"] {
            edge.sysctl(&format!("net/ipv4/conf/{device}/rp_filter"), "1")?;
        }
    }
    let mut joined = std::mem::take(&mut site.joined);
    let edge = site.edge()?;
    for service in &site.services {
        wait_for(&edge, &service.name, ALL_UP)?;
    }
    for service in &site.services {
        // `lbd backend` would put it back.
        let role = joined[1].as_ref().context("it runs")?;
        role.signal(Signal::SIGSTOP)?;
        set_vip(&site.net.backends[1], "del", service.vip)?;
        let (took, words) = wait_for(&edge, &service.name, ["up", "down", "up"])?;
        println!(
            "{arms:?} {}: VIP missing on the backend: out after {took:?}, {words}",
            service.name
        );
        set_vip(&site.net.backends[1], "add", service.vip)?;
        role.signal(Signal::SIGCONT)?;
        wait_for(&edge, &service.name, ALL_UP)?;
    }
    // The VIPs stay when it is killed, the program does not.
    if let Some(mut process) = joined[2].take() {
        process.kill()?;
    }
    for service in &site.services {
        let expected = if service.forward == "l2" {
            ALL_UP
        } else {
            ["up", "up", "down"]
        };
        let (took, words) = wait_for(&edge, &service.name, expected)?;
        if service.forward != "l2" {
            println!(
                "{arms:?} {}: decapsulator missing: out after {took:?}, {words}",
                service.name
            );
        }
    }
    let status = edge.json(&["status"])?;
    let warnings = status["warnings"].to_string();
    ensure!(!warnings.contains("probe"), "{warnings}");
    Ok(())
}

fn set_vip(backend: &Backend, verb: &str, vip: IpAddr) -> Result<()> {
    let host: &Host = &backend.host;
    let quick = if vip.is_ipv6() && verb == "add" { " nodad" } else { "" };
    host.ip(&format!("addr {verb} {} dev lo{quick}", with_length(vip)))?;
    Ok(())
}

fn with_length(vip: IpAddr) -> String {
    format!("{vip}/{}", if vip.is_ipv4() { 32 } else { 128 })
}

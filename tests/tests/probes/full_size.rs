//! A small link between edge and backend that the edge knows nothing of, and that says nothing: found by probes of full size.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use lb_tests::edge::{Edge, Service};
use lb_tests::net::{Arms, Family, wait_until};
use serde_json::{Value, json};

use super::kinds::{Kinds, TIMES, kinds};
use super::mtu::{events, said, upload, wait_for_said};
use super::{ALL_UP, PATIENCE, Site, turn, wait_for, web};

/// Makes the switch's port to `web-1` drop packets of more bytes, without a word.
fn narrow(site: &Site, mtu: u32) -> Result<()> {
    let port = format!("link set web-1 mtu {mtu}");
    site.net.fabric.ip(&port).map(drop)
}

/// How long it is waited for that nothing is said: some rounds.
const QUIET: Duration = Duration::from_secs(3);

/// All families, backends that refuse echo: found though checks pass, with what mends it; ended by either cure.
#[test]
fn a_small_link_in_the_middle_is_found_and_either_cure_ends_it() -> Result<()> {
    use Family::{V4, V6};
    let _turn = turn();
    let site = Site::new(
        Arms::Two,
        vec![
            web(10, "ipip", V4, V4),
            web(11, "ipip", V4, V6),
            web(12, "ipip", V6, V4),
            web(13, "ipip", V6, V6),
            web(14, "l2", V4, V4),
        ],
    )?;
    for backend in &site.net.backends {
        for setting in ["net/ipv4/icmp_echo_ignore_all", "net/ipv6/icmp/echo_ignore_all"] {
            backend.host.sysctl(setting, "1")?;
        }
    }
    let edge = site.edge()?;
    let (tunnelled, l2) = site.services.split_at(4);
    for service in &site.services {
        wait_for(&edge, &service.name, ALL_UP)?;
    }
    for service in tunnelled {
        wait_for_sizes(&edge, service, ["passed", "passed", "passed"])?;
        upload(&site, service)?;
    }
    ensure!(sizes(&edge, &l2[0])? == ["not-probed"; 3]);
    ensure!(said(&edge)?.is_empty(), "{:?}", said(&edge)?);

    // All new connections go to the backend behind the small link.
    for service in &site.services {
        for other in ["web-2", "web-3"] {
            edge.lbctl(&["backend", "disable", &service.name, other])?;
        }
    }
    narrow(&site, 1_400)?;
    let begin = Instant::now();
    wait_for_said(&edge, 4)?;
    println!("found after {:?}:\n{}", begin.elapsed(), said(&edge)?.join("\n"));
    for ((service, line), (needed, segment, ip)) in tunnelled.iter().zip(said(&edge)?).zip([
        ("1520", "advmss 1340", "`ip route change"),
        ("1540", "advmss 1320", "`ip route change"),
        ("1520", "advmss 1320", "`ip -6 route change"),
        ("1540", "advmss 1300", "`ip -6 route change"),
    ]) {
        for part in [
            &service.name,
            "web-1: packets of 1500 bytes",
            "path MTU is 1400 as probes show",
            needed,
            segment,
            ip,
        ] {
            ensure!(line.contains(part), "no {part:?} in {line}");
        }
        let shown = edge.json(&["service", "show", &service.name])?;
        let needed: u32 = needed.parse()?;
        let found = &shown["backends"][0]["path_mtu"];
        ensure!(
            *found == json!({"needed": needed, "mtu": 1_400, "found_by": "probe"}),
            "{found}"
        );
        ensure!(sizes(&edge, service)? == ["too-small", "passed", "passed"]);
        // It is no verdict, and what it says is so.
        wait_for(&edge, &service.name, ALL_UP)?;
        ensure!(
            upload(&site, service).is_err(),
            "{}: an upload came through",
            service.name
        );
    }
    let mut names: Vec<&str> = tunnelled.iter().map(|service| &*service.name).collect();
    names.sort_unstable();
    ensure!(events(&edge, "path_mtu_too_small")? == names);
    ensure!(events(&edge, "path_mtu_ok")?.is_empty());

    let begin = Instant::now();
    narrow(&site, 1_600)?;
    wait_for_said(&edge, 0)?;
    println!("mended by the MTU, noticed after {:?}", begin.elapsed());
    ensure!(events(&edge, "path_mtu_ok")? == names);

    // The other cure: the backend asks for smaller segments, of its own link's clients as well.
    narrow(&site, 1_400)?;
    wait_for_said(&edge, 4)?;
    let begin = Instant::now();
    site.net.backends[0].host.ip_batch(&[
        "route change 10.0.0.0/24 dev eth0 proto kernel scope link src 10.0.0.11 advmss 1320".into(),
        "route change default via 10.0.0.1 advmss 1320".into(),
        "route change 2001:db8:b::/64 dev eth0 proto kernel metric 256 advmss 1300".into(),
        "route change default via 2001:db8:b::1 dev eth0 advmss 1300".into(),
    ])?;
    wait_for_said(&edge, 0)?;
    println!("mended by advmss, noticed after {:?}", begin.elapsed());
    for service in tunnelled {
        wait_for_sizes(&edge, service, ["passed", "passed", "passed"])?;
        upload(&site, service)?;
    }
    // What the edge knows of its own link counts for the segments that are asked for, too.
    site.net.edge.ip("link set eth1 mtu 1500")?;
    wait_for_said(&edge, 4)?;
    for line in said(&edge)? {
        ensure!(line.contains("web-2 and 1 more: "), "{line}");
    }
    Ok(())
}

/// Each kind of check is asked at full size, over one interface, with servers that answer a SYN by a cookie. A path that takes it is never
/// reported.
#[test]
fn every_kind_of_check_is_probed_at_full_size() -> Result<()> {
    let _turn = turn();
    let Kinds { mut services, servers } = kinds(&[(Family::V4, Family::V4), (Family::V6, Family::V6)])?;
    for (number, health) in [(30, "kind = \"tcp\"\n"), (31, "kind = \"tcp\"\nvia = \"direct\"\n")] {
        services.push(Service {
            name: format!("tcp-{number}"),
            health: Some(Box::leak(format!("{health}{TIMES}").into_boxed_str())),
            ..web(number, "ipip", Family::V4, Family::V6)
        });
    }
    let site = Site::new(Arms::One, services)?;
    for backend in &site.net.backends {
        backend.host.sysctl("net/ipv4/tcp_syncookies", "2")?;
    }
    let _servers = servers.start(&site)?;
    let edge = site.edge()?;
    let Some((direct, probed)) = site.services.split_last() else {
        unreachable!("there are services")
    };
    for service in &site.services {
        wait_for(&edge, &service.name, ALL_UP)?;
    }
    for service in probed {
        wait_for_sizes(&edge, service, ["passed"; 3])?;
    }
    std::thread::sleep(QUIET);
    ensure!(said(&edge)?.is_empty(), "{:?}", said(&edge)?);
    // What is not probed says so.
    ensure!(sizes(&edge, direct)? == ["not-probed"; 3]);
    let shown = edge.lbctl(&["service", "show", &direct.name])?;
    ensure!(shown.contains("full-size packets are not probed"), "{shown}");

    narrow(&site, 1_519)?;
    for service in probed {
        wait_for_sizes(&edge, service, ["too-small", "passed", "passed"])?;
    }
    wait_for_said(&edge, probed.len())?;
    for line in said(&edge)? {
        ensure!(line.contains("path MTU is 1519 as probes show"), "{line}");
    }
    Ok(())
}

/// What probes of full size say of a service's backends.
fn sizes(edge: &Edge, service: &Service) -> Result<Vec<String>> {
    let shown = edge.json(&["service", "show", &service.name])?;
    let backends = shown["backends"].as_array().context("no backends")?;
    let size = |backend: &Value| backend["full_size"].as_str().unwrap_or("").to_owned();
    Ok(backends.iter().map(size).collect())
}

fn wait_for_sizes(edge: &Edge, service: &Service, wanted: [&str; 3]) -> Result<()> {
    let mut seen = Vec::new();
    let waited = wait_until(&format!("{}: {wanted:?}", service.name), PATIENCE, || {
        seen = sizes(edge, service)?;
        Ok(seen == wanted)
    });
    waited.with_context(|| format!("{seen:?}\n{}", edge.log()))
}

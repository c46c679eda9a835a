//! The kernel's tables change under traffic: no datagram is lost.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use lb_tests::edge::Edge;
use lb_tests::load::Datagrams;
use lb_tests::net::{Arms, wait_until};
use serde_json::Value;

use super::{File, Site, Svc, backend, clients, shown};

/// Goes on for a moment, so that a loss would be seen.
fn moment() {
    sleep(Duration::from_millis(300));
}

fn received(edge: &Edge) -> Result<u64> {
    edge.api()?.get("/v1/stats")?["received"].as_u64().context("no sum")
}

/// Stops the traffic; an error if anything was lost.
fn lossless(traffic: Datagrams, edge: &Edge) -> Result<()> {
    let (answered, lost) = traffic.stop()?;
    assert!(
        lost.is_empty(),
        "{} lost, {answered} answered: {lost:?}\n{}",
        lost.len(),
        edge.log()
    );
    assert!(answered > 200, "{answered} answers say little");
    Ok(())
}

#[test]
fn rings_seeds_and_capacities_change_under_traffic() -> Result<()> {
    let site = Site::new(Arms::Two, 3)?;
    let mut file = File::new([Svc::new("web", 10, 3), Svc::new("other", 11, 2)]);
    let _servers = site.serve(&file.services[..1])?;
    let mut edge = site.edge(&file)?;
    let traffic = Datagrams::start(&site.net.client, file.services[0].target()?)?;
    let mut counted = 0;
    let mut check = |edge: &Edge| -> Result<()> {
        moment();
        let now = received(edge)?;
        assert!(now > counted, "{now} after {counted}");
        counted = now;
        Ok(())
    };
    let before = edge.api()?.owners("web", clients(300))?;
    for (field, value) in [
        ("ring_size", "4093"),
        ("ring_size", "131071"),
        ("hash", "\"source-dport\""),
        ("hash", "\"5-tuple\""),
    ] {
        file.services[0].more = format!("{field} = {value}\n");
        edge.apply(&file.to_string())?;
        check(&edge)?;
    }
    file.services[0].more.clear();
    edge.apply(&file.to_string())?;
    assert_eq!(edge.api()?.owners("web", clients(300))?, before);

    let program =
        |edge: &Edge| -> Result<Value> { Ok(edge.api()?.get("/v1/status")?["interfaces"][0]["program_id"].clone()) };
    let first = program(&edge)?;
    file.node = file.node.replace("5eed", "beef");
    edge.apply(&file.to_string())?;
    assert_ne!(program(&edge)?, first, "another seed is another program");
    assert_ne!(edge.api()?.owners("web", clients(300))?, before);
    check(&edge)?;
    file.node = file.node.replace("beef", "5eed") + "[node.capacity]\nservices = 50\nbackends = 100\n";
    edge.apply(&file.to_string())?;
    assert_eq!(edge.api()?.owners("web", clients(300))?, before);
    check(&edge)?;

    // The same by a restart, and after SIGKILL.
    file.node = file.node.replace("services = 50", "services = 5000");
    edge.rewrite(&file.to_string())?;
    edge.kill()?;
    edge.start_again()?;
    assert_eq!(edge.api()?.get("/v1/status")?["capacity"]["services"]["total"], 5000);
    assert_eq!(edge.api()?.owners("web", clients(300))?, before);
    check(&edge)?;
    lossless(traffic, &edge)
}

#[test]
fn interfaces_come_and_go_under_traffic() -> Result<()> {
    let site = Site::new(Arms::Two, 2)?;
    let file = File::new([Svc::new("web", 10, 2)]);
    let _servers = site.serve(&file.services)?;
    let mut edge = site.edge(&file)?;
    let traffic = Datagrams::start(&site.net.client, file.services[0].target()?)?;
    let attached =
        |device: &str| -> Result<bool> { Ok(site.net.edge.ip(&format!("link show dev {device}"))?.contains("xdp")) };
    let mut both = file.clone();
    both.node = both.node.replace("\"eth0\"", "\"eth0\", \"eth1\"");
    for _ in 0..2 {
        edge.apply(&both.to_string())?;
        assert!(attached("eth0")? && attached("eth1")?);
        assert_eq!(edge.api()?.get("/v1/status")?["interfaces"][1]["name"], "eth1");
        moment();
        edge.kill()?;
        edge.start_again()?;
        assert!(attached("eth0")? && attached("eth1")?);
        edge.apply(&file.to_string())?;
        assert!(attached("eth0")? && !attached("eth1")?);
        moment();
    }
    lossless(traffic, &edge)
}

/// Killed again and again in the middle of what it does: what it leaves is whole, and serves.
#[test]
fn a_daemon_killed_while_it_applies_leaves_nothing_half_done() -> Result<()> {
    let site = Site::new(Arms::Two, 4)?;
    let many = |from: u8, size: u32| {
        (from..from + 40).map(move |number| {
            let mut service = Svc::new(&format!("service-{number}"), number, 1 + number % 4);
            service.more = format!("ring_size = {size}\n");
            service
        })
    };
    let base = File::new([Svc::new("web", 10, 3)]);
    let file = |node: &str, services: &mut dyn Iterator<Item = Svc>| {
        let mut file = base.clone();
        file.node += node;
        file.services.extend(services);
        file.to_string()
    };
    let mut grown = base.clone();
    grown.services[0].backends.extend([4].map(backend));
    grown.services.extend(many(60, 4093));
    let files = [
        file("", &mut many(100, 4093)),
        file("", &mut many(120, 8191)),
        file(
            "[node.capacity]\nservices = 200\nbackends = 1000\n",
            &mut many(20, 65_537),
        ),
        base.to_string(),
    ];
    let _servers = site.serve(&base.services)?;
    let mut edge = site.edge(&base)?;
    let owners = edge.api()?.owners("web", clients(100))?;
    let traffic = Datagrams::start(&site.net.client, base.services[0].target()?)?;
    let mut in_force = files[3].clone();
    let mut taken = 0;
    for round in 0..12 {
        let next = &files[round % files.len()];
        let api = edge.api()?;
        let text = next.clone();
        let applying = std::thread::spawn(move || api.post("/v1/apply", &text).is_ok());
        // No random numbers: moments that have nothing to do with each other.
        let begun = Instant::now();
        sleep(Duration::from_micros((round as u64 * 7_919) % 60_000));
        edge.kill()?;
        let lived = begun.elapsed();
        // Whether the answer came before the end does not matter.
        _ = applying.join();
        edge.start_again()?;
        let api = edge.api()?;
        let unchanged = |text: &str| -> Result<bool> {
            let (status, plan) = api.post("/v1/plan", text)?;
            assert_eq!(status, 200, "{plan}");
            Ok(plan["changes"] == serde_json::json!([]))
        };
        let (new, old) = (unchanged(next)?, unchanged(&in_force)?);
        assert!(
            new || old,
            "round {round}, killed after {lived:?}: neither the old configuration nor the new one"
        );
        if new {
            in_force.clone_from(next);
            taken += 1;
        }
        // What the kernel holds is what the configuration says, once all next hops are known.
        wait_until("nothing to be left to write", Duration::from_secs(5), || {
            let (_, plan) = api.post("/v1/plan", &in_force)?;
            Ok(plan["writes"].as_object().is_some_and(serde_json::Map::is_empty))
        })
        .with_context(|| format!("round {round}, killed after {lived:?}\n{}", edge.log()))?;
        assert_eq!(api.owners("web", clients(100))?, owners, "round {round}");
        for service in api.get("/v1/services")?.as_array().into_iter().flatten() {
            let name = service["name"].as_str().unwrap_or_default();
            let answers = api.owners(name, clients(5))?;
            assert!(answers.iter().all(Option::is_some), "round {round}: {name}: {service}");
        }
        let stats = api.get("/v1/stats")?;
        assert_eq!(
            stats["received"].as_u64(),
            Some(
                stats["reasons"]
                    .as_object()
                    .into_iter()
                    .flatten()
                    .filter_map(|(_, n)| n.as_u64())
                    .sum()
            )
        );
    }
    println!("{taken} of 12 were in force when the daemon was killed");
    lossless(traffic, &edge)?;
    edge.apply(&grown.to_string())?;
    wait_until("web-4 to serve", Duration::from_secs(3), || {
        Ok(shown(&edge.api()?, "web", "web-4")?["slots"].as_u64() > Some(0))
    })
}

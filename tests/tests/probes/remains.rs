//! What is made on the edge for probes: it is known by its name, comes back, and goes.

use std::time::Duration;

use anyhow::{Result, ensure};
use lb_tests::edge::Edge;
use lb_tests::net::{Arms, Family, wait_until};

use super::{ALL_UP, Site, turn, verdicts, wait_for, web};

fn services() -> Vec<lb_tests::edge::Service> {
    vec![web(10, "ipip", Family::V4, Family::V4)]
}

/// Whether the edge's interfaces and filters show anything of the probes.
fn remains(site: &Site) -> Result<String> {
    let edge = &site.net.edge;
    let links = edge.ip("-o link show")?;
    let mut found: Vec<String> = links
        .lines()
        .filter(|line| line.contains("lb-probe"))
        .map(str::to_owned)
        .collect();
    for device in ["eth0", "eth1"] {
        let filters = edge.run("tc", &["filter", "show", "dev", device, "ingress"])?;
        found.extend(
            filters
                .lines()
                .filter(|line| line.contains("lb_probe"))
                .map(str::to_owned),
        );
    }
    Ok(found.join("\n"))
}

#[test]
fn a_kill_leaves_nothing_that_the_next_start_does_not_take() -> Result<()> {
    let _turn = turn();
    let site = Site::new(Arms::Two, services())?;
    let mut edge = site.edge()?;
    let name = site.services[0].name.clone();
    wait_for(&edge, &name, ALL_UP)?;
    ensure!(remains(&site)?.contains("lb-probe"), "nothing there while it runs");
    for _ in 0..3 {
        edge.kill()?;
        edge.start_again()?;
        wait_for(&edge, &name, ALL_UP)?;
        let found = remains(&site)?;
        ensure!(found.matches(" lb-probe").count() == 1, "{found}");
    }
    edge.kill()?;
    let detach = || site.net.edge.run(&site.programs.lbd, &["detach"]);
    detach()?;
    ensure!(remains(&site)?.is_empty(), "{}", remains(&site)?);
    detach()?;
    Ok(())
}

/// Somebody else's interface has the name: that is said, nothing is probed in another way, and it is tried again.
#[test]
fn a_path_that_cannot_be_made_is_said() -> Result<()> {
    let _turn = turn();
    let site = Site::new(Arms::Two, services())?;
    let name = site.services[0].name.clone();
    site.net.edge.ip("link add lb-probe type bridge")?;
    let edge = site.edge()?;
    let warns = |edge: &Edge| -> Result<bool> {
        let status = edge.json(&["status"])?;
        Ok(status["warnings"]
            .to_string()
            .contains("there is an interface lb-probe"))
    };
    wait_until("the warning", Duration::from_secs(5), || warns(&edge))?;
    ensure!(edge.log().contains("there is an interface lb-probe"), "{}", edge.log());
    wait_until("the first probes to be skipped", Duration::from_secs(5), || {
        let all = verdicts(&edge, &name)?;
        ensure!(all.values().all(|(state, _)| state == "starting"), "{all:?}");
        Ok(all.values().all(|(_, words)| words.contains("users' path")))
    })?;
    site.net.edge.ip("link del lb-probe")?;
    wait_for(&edge, &name, ALL_UP)?;
    ensure!(!warns(&edge)?, "still warns");
    Ok(())
}

/// The interface vanishes: no backend is blamed, and it is made again.
#[test]
fn a_lost_interface_comes_back() -> Result<()> {
    let _turn = turn();
    let site = Site::new(Arms::Two, services())?;
    let name = site.services[0].name.clone();
    let edge = site.edge()?;
    wait_for(&edge, &name, ALL_UP)?;
    for _ in 0..3 {
        site.net.edge.ip("link del lb-probe")?;
        wait_until("the interface", Duration::from_secs(15), || {
            Ok(site.net.edge.ip("link show lb-probe").is_ok())
        })?;
    }
    std::thread::sleep(Duration::from_secs(4));
    wait_for(&edge, &name, ALL_UP)?;
    ensure!(!edge.log().contains("backend is down"), "{}", edge.log());
    Ok(())
}

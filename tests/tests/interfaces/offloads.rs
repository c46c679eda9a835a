//! Offloads that hide from the program what it would have to see.

use super::*;

/// Whether the edge's `eth0` strips VLAN tags.
fn strips(site: &Site) -> Result<bool> {
    let features = site.net.edge.run("ethtool", &["-k", "eth0"])?;
    let line = features.lines().find(|line| line.starts_with("rx-vlan-offload:"));
    Ok(line.context("no such feature")?.contains(": on"))
}

#[test]
fn tags_are_not_stripped_while_the_program_is_there() -> Result<()> {
    let site = Site::new(None)?;
    ensure!(strips(&site)?, "a veth strips tags");
    let mut edge = site.edge()?;
    ensure!(!strips(&site)?, "{}", edge.log());
    let shown = edge.json(&["status"])?["interfaces"][0]["offloads_disabled"].to_string();
    ensure!(shown.contains("rx-vlan-hw-parse"), "{shown}");
    ensure!(events(&edge, "offload_disabled")?.len() == 1, "{}", edge.log());
    // Somebody switches it on.
    site.net.edge.run("ethtool", &["-K", "eth0", "rxvlan", "on"])?;
    wait_until("it to be off again", PATIENCE, || Ok(!strips(&site)?))?;
    wait_until("the event", PATIENCE, || {
        Ok(events(&edge, "offload_disabled")?.len() == 2)
    })?;
    ensure!(site.answered(10)? == 10, "{}", edge.log());
    // A restart keeps what was before.
    edge.kill()?;
    edge.start_again()?;
    edge.stop()?;
    site.net.edge.run(&site.programs.lbd, &["detach"])?;
    ensure!(strips(&site)?, "on again, as it was before");

    let with = |policy: &str| {
        site.text
            .replace("[node]\n", &format!("[node]\noffloads = \"{policy}\"\n"))
    };
    edge.rewrite(&with("keep"))?;
    edge.start_again()?;
    ensure!(strips(&site)?, "kept");
    ensure!(edge.lbctl(&["status"])?.contains("rx-vlan-hw-parse"), "it is said");
    let refused = format!("{:#}", edge.apply(&with("refuse")).expect_err("one is on"));
    ensure!(refused.contains("offloads = \\\"refuse\\\""), "{refused}");
    edge.apply(&with("disable"))?;
    ensure!(!strips(&site)?, "switched off");
    edge.apply(&with("keep"))?;
    ensure!(strips(&site)?, "on again");
    edge.stop()
}

//! The interface by which packets leave to the backends, and where the answers of probes arrive.

use super::*;

/// Checks by the users' path: their answers arrive where packets leave.
const CHECKS: &str = "kind = \"udp\"\ninterval = \"200ms\"\ntimeout = \"100ms\"\nrise = 2\nfall = 3\nsend = \"who\"\n";

#[test]
fn one_that_was_in_another_namespace_is_used_again() -> Result<()> {
    let site = Site::new(None)?;
    let edge = site.edge()?;
    ensure!(site.answered(10)? == 10, "all is well at first");
    let (host, elsewhere) = (&site.net.edge, site.net.client.net_path());
    for round in 0..2 {
        host.ip(&format!("link set eth1 netns {}", elsewhere.display()))?;
        wait_until("the backends to be out", PATIENCE, || Ok(site.answered(1)? == 0))?;
        let back = host.net_path();
        site.net.client.ip(&format!("link set eth1 netns {}", back.display()))?;
        host.ip("link set eth1 up")?;
        host.ip("addr add 10.0.0.5/24 dev eth1")?;
        let took = site.wait_answer(&edge)?;
        println!("round {round}: the first answer after {took:?}");
        ensure!(site.answered(20)? == 20, "{}", edge.log());
    }
    Ok(())
}

#[test]
fn one_made_again_under_its_index_is_used_and_probes_return() -> Result<()> {
    let site = Site::new(Some(CHECKS))?;
    let edge = site.edge()?;
    edge.wait_up("web", &["web-1", "web-2"], PATIENCE)?;
    ensure!(site.answered(10)? == 10, "all is well at first");
    let host = &site.net.edge;
    let mac = host.mac("eth1")?;
    let index: u32 = host.run("cat", &["/sys/class/net/eth1/ifindex"])?.trim().parse()?;
    for index in [index, index + 1_000] {
        host.ip("link del eth1")?;
        let _pass = site.make_again(&BACK, mac, Some(&index.to_string()))?;
        host.ip("route add default via 10.0.0.1")?;
        edge.wait_up("web", &["web-1", "web-2"], PATIENCE)?;
        let took = site.wait_answer(&edge)?;
        println!("under index {index}: the first answer after {took:?}");
        // Long enough for checks to fail.
        std::thread::sleep(Duration::from_secs(2));
        ensure!(edge.up("web")? == ["web-1", "web-2"], "{}", edge.log());
        ensure!(site.answered(20)? == 20, "{}", edge.log());
    }
    Ok(())
}

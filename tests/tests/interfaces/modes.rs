//! XDP modes that a driver refuses.

use super::*;

/// A change of the mode that is refused changes nothing, and is no loss: the program is attached anew in the mode before.
#[test]
fn a_mode_that_is_refused_is_no_loss() -> Result<()> {
    let mut site = Site::new(None)?;
    site.text = site.text.replacen("[node]\n", "[node]\nxdp_mode = \"generic\"\n", 1);
    let edge = site.edge()?;
    ensure!(site.answered(20)? == 20, "all is well at first");
    // A veth takes no native program while its peer sends by more queues than it receives by.
    site.net.fabric.run("ethtool", &["-L", FRONT.port, "tx", "2"])?;
    edge.rewrite(&site.text.replace("generic", "native"))?;
    let path = edge.configuration().display().to_string();
    let refused = edge.lbctl(&["apply", &path]).err().context("it was accepted")?;
    let refused = format!("{refused:#}");
    ensure!(refused.contains("refuses native XDP"), "{refused}");
    // Each second the daemon looks whether it is still attached.
    std::thread::sleep(Duration::from_millis(2_500));
    let lost = events(&edge, "xdp_detached")?;
    ensure!(lost.is_empty(), "{lost:?}\n{}", edge.log());
    let status = edge.api()?.get("/v1/status")?;
    ensure!(status["interfaces"][0]["xdp_mode"] == "generic", "{status}");
    ensure!(site.answered(20)? == 20, "{}", edge.log());
    Ok(())
}

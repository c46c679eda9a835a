//! `lbd backend`: its interface is made again, its VIP is taken off.

use super::*;

#[test]
fn a_backend_gets_its_interface_and_its_vip_back() -> Result<()> {
    let site = Site::new(None)?;
    let edge = site.edge()?;
    ensure!(site.answered(10)? == 10, "all is well at first");
    let (host, role) = (&site.net.backends[0].host, &site.joined[0]);
    let vip = site.target.ip();

    let begun = Instant::now();
    host.ip(&format!("addr del {vip}/32 dev lo"))?;
    wait_until("the VIP", PATIENCE, || {
        Ok(host.ip("addr show dev lo")?.contains(&format!(" {vip}/")))
    })
    .with_context(|| role.log())?;
    println!("the VIP is back after {:?}", begun.elapsed());
    let said = format!("{vip}: somebody took it off this host");
    ensure!(role.log().contains(&said), "{}", role.log());

    let mac = host.mac("eth0")?.map(|byte| format!("{byte:02x}")).join(":");
    host.ip("link del eth0")?;
    wait_until("what is said", PATIENCE, || {
        Ok(role.log().contains("there is no such interface"))
    })
    .with_context(|| role.log())?;
    host.ip(&format!(
        "link add eth0 address {mac} mtu 1600 type veth peer name web-1 mtu 1600 netns {}",
        site.net.fabric.net_path().display()
    ))?;
    host.run("ethtool", &["-K", "eth0", "tx", "off"])?;
    site.net.fabric.run("ethtool", &["-K", "web-1", "tx", "off"])?;
    site.net.fabric.ip("link set web-1 master servers up")?;
    for command in [
        "link set eth0 up",
        "addr add 10.0.0.11/24 dev eth0",
        "route add default via 10.0.0.1",
    ] {
        host.ip(command)?;
    }
    let begun = Instant::now();
    wait_until("the decapsulator", PATIENCE, || {
        Ok(host.ip("link show dev eth0")?.contains("xdp"))
    })
    .with_context(|| role.log())?;
    println!("the decapsulator is back after {:?}", begun.elapsed());
    let silent = host.run("cat", &["/proc/sys/net/ipv4/conf/eth0/arp_ignore"])?;
    ensure!(
        silent.trim() == "1",
        "a new interface answers ARP for the VIP: {silent}"
    );
    wait_until("all answers", PATIENCE, || Ok(site.answered(20)? == 20)).with_context(|| edge.log())?;
    Ok(())
}

//! The ways to backends change: followed within a second or so.

use std::time::{Duration, Instant};

use anyhow::Result;
use lb_tests::net::{Arms, wait_until};
use lb_tests::serve::ask_udp;

use super::{File, Site, Svc, clients, shown};

const SOON: Duration = Duration::from_secs(4);

#[test]
fn a_backend_with_another_card_is_found_again() -> Result<()> {
    let site = Site::new(Arms::Two, 2)?;
    let file = File::new([Svc::new("web", 10, 1)]);
    let _servers = site.serve(&file.services)?;
    let edge = site.edge(&file)?;
    let target = file.services[0].target()?;
    let ask = || {
        site.net
            .client
            .enter(|| ask_udp(target, 33_000, Duration::from_millis(100)).is_ok())
    };
    wait_until("the first answer", SOON, ask)?;
    let host = &site.net.backends[0].host;
    // As a machine that is replaced announces itself.
    host.sysctl("net/ipv4/conf/eth0/arp_notify", "1")?;
    host.ip("link set dev eth0 address 02:00:00:00:77:01")?;
    let changed = Instant::now();
    wait_until("an answer from the new card", SOON, ask)?;
    println!("another card: answers after {:?}", changed.elapsed());
    wait_until("the new address to be shown", SOON, || {
        Ok(shown(&edge.api()?, "web", "web-1")?["next_hop"]["mac"] == "02:00:00:00:77:01")
    })
}

#[test]
fn a_route_that_moves_is_followed() -> Result<()> {
    let site = Site::new(Arms::Two, 2)?;
    let mut file = File::new([Svc::new("web", 10, 1)]);
    file.services[0].backends[0].1 = "10.9.9.9".into();
    let _servers = site.serve(&file.services)?;
    for backend in &site.net.backends {
        backend.host.ip("addr add 10.9.9.9/32 dev lo")?;
    }
    site.net.edge.ip("route add 10.9.9.9/32 via 10.0.0.11")?;
    let edge = site.edge(&file)?;
    let target = file.services[0].target()?;
    let ask = || {
        site.net
            .client
            .enter(|| ask_udp(target, 33_000, Duration::from_millis(100)).unwrap_or_default())
    };
    wait_until("web-1 to answer", SOON, || Ok(ask()? == "web-1"))?;
    site.net.edge.ip("route replace 10.9.9.9/32 via 10.0.0.12")?;
    let changed = Instant::now();
    wait_until("web-2 to answer", SOON, || Ok(ask()? == "web-2"))?;
    println!("another route: answers after {:?}", changed.elapsed());
    let hop = &shown(&edge.api()?, "web", "web-1")?["next_hop"];
    assert_eq!(
        (&hop["gateway"], &hop["interface"]),
        (&"10.0.0.12".into(), &"eth1".into())
    );
    site.net.edge.ip("route replace blackhole 10.9.9.9/32")?;
    wait_until("the backend to have no way", SOON, || {
        Ok(shown(&edge.api()?, "web", "web-1")?["slots"] == 0)
    })?;
    let hop = &shown(&edge.api()?, "web", "web-1")?["next_hop"];
    assert!(!hop["unresolved"].is_null(), "{hop}");
    site.net.edge.ip("route replace 10.9.9.9/32 via 10.0.0.11")?;
    wait_until("web-1 to answer again", SOON, || Ok(ask()? == "web-1"))
}

#[test]
fn a_backend_that_falls_silent_lends_its_slots() -> Result<()> {
    let site = Site::new(Arms::Two, 3)?;
    let file = File::new([Svc::new("web", 10, 3)]);
    // The edge's kernel believes an answer for half a minute; here for a second.
    for (setting, value) in [
        ("base_reachable_time_ms", "1000"),
        ("delay_first_probe_time", "1"),
        ("retrans_time_ms", "200"),
    ] {
        site.net.edge.sysctl(&format!("net/ipv4/neigh/eth1/{setting}"), value)?;
    }
    let edge = site.edge(&file)?;
    let api = edge.api()?;
    let before = api.owners("web", clients(300))?;
    let host = &site.net.backends[1].host;
    host.ip("link set dev eth0 down")?;
    let changed = Instant::now();
    wait_until("web-2 to have no slots", Duration::from_secs(20), || {
        Ok(shown(&api, "web", "web-2")?["slots"] == 0)
    })?;
    println!("silent: noticed after {:?}", changed.elapsed());
    let without = api.owners("web", clients(300))?;
    for (is, was) in without.iter().zip(&before) {
        assert_ne!(is.as_deref(), Some("web-2"));
        assert!(is == was || was.as_deref() == Some("web-2"), "{was:?} became {is:?}");
    }
    host.ip("link set dev eth0 up")?;
    let changed = Instant::now();
    wait_until("web-2 to have its slots again", Duration::from_secs(20), || {
        Ok(api.owners("web", clients(300))? == before)
    })?;
    println!("back: noticed after {:?}", changed.elapsed());
    Ok(())
}

#[test]
fn an_interface_that_is_gone_holds_no_new_tables_up() -> Result<()> {
    let site = Site::new(Arms::Two, 2)?;
    let mut file = File::new([Svc::new("web", 10, 2)]);
    file.services[0].backends[0].1 = "10.9.9.9".into();
    let _servers = site.serve(&file.services)?;
    let host = &site.net.edge;
    host.ip("link add link eth1 name gone type macvlan mode bridge")?;
    host.ip("addr add 10.0.9.1/24 dev gone")?;
    host.ip("link set gone up")?;
    let first = &site.net.backends[0].host;
    first.ip("addr add 10.0.9.11/24 dev eth0")?;
    host.ip("route add 10.9.9.9/32 via 10.0.9.11 dev gone")?;
    let edge = site.edge(&file)?;
    wait_until("a way by the interface", SOON, || {
        Ok(shown(&edge.api()?, "web", "web-1")?["next_hop"]["interface"] == "gone")
    })?;
    host.ip("route replace blackhole 10.9.9.9/32")?;
    wait_until("the backend to have no way", SOON, || {
        Ok(shown(&edge.api()?, "web", "web-1")?["slots"] == 0)
    })?;
    host.ip("link delete gone")?;
    file.node += "[node.capacity]\nservices = 50\nbackends = 100\n";
    edge.apply(&file.to_string())?;
    assert_eq!(shown(&edge.api()?, "web", "web-1")?["slots"], 0);
    let target = file.services[0].target()?;
    let ask = || {
        site.net
            .client
            .enter(|| ask_udp(target, 33_000, Duration::from_millis(100)).unwrap_or_default())
    };
    wait_until("web-2 to answer", SOON, || Ok(ask()? == "web-2"))
}

//! The ways to backends change: followed within a second or so.

use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use lb_tests::net::{Arms, wait_until};
use lb_tests::serve::ask_udp;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, socket};

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

/// A tunnel to an IPv6 backend from an edge that has nothing but link-local addresses goes nowhere; that is said, and mended.
#[test]
fn no_tunnel_comes_from_a_link_local_address() -> Result<()> {
    let site = Site::new(Arms::Two, 1)?;
    let mut file = File::new([Svc::new("web", 10, 1)]);
    file.services[0].backends[0].1 = site.net.backends[0].v6.to_string();
    let _servers = site.serve(&file.services)?;
    let host = &site.net.edge;
    host.ip("addr del 2001:db8:b::5/64 dev eth1")?;
    host.ip("addr del 2001:db8:c::5/64 dev eth0")?;
    host.ip("-6 route replace 2001:db8:b::/64 dev eth1")?;
    let edge = site.edge(&file)?;
    let api = edge.api()?;
    wait_until("the cure to be named", SOON, || {
        let shown = shown(&api, "web", "web-1")?;
        let why = shown["next_hop"]["unresolved"].as_str().unwrap_or("");
        Ok(shown["slots"] == 0 && why.contains("tunnel_source_v6"))
    })
    .with_context(|| format!("{}", shown(&api, "web", "web-1").unwrap_or_default()))?;
    wait_until("an event", Duration::from_secs(10), || {
        let events = edge.lbctl(&["events"])?;
        Ok(events.contains("tunnel_source_v6"))
    })?;
    let status = edge.lbctl(&["status"])?;
    assert!(status.contains("tunnel_source_v6"), "{status}");
    let target = file.services[0].target()?;
    let ask = || {
        site.net
            .client
            .enter(|| ask_udp(target, 33_000, Duration::from_millis(100)).is_ok())
    };
    host.ip("addr add 2001:db8:b::7/64 dev eth1 nodad")?;
    wait_until("answers from a global address", SOON, ask)?;
    host.ip("addr del 2001:db8:b::7/64 dev eth1")?;
    host.ip("-6 route replace 2001:db8:b::/64 dev eth1")?;
    wait_until("the backend to be out again", SOON, || {
        Ok(shown(&api, "web", "web-1")?["slots"] == 0)
    })
}

/// A VIP that the edge has itself is what its kernel names here; a backend, which has it too, would not take packets from it.
#[test]
fn no_tunnel_comes_from_a_vip() -> Result<()> {
    let site = Site::new(Arms::Two, 1)?;
    let file = File::new([Svc::new("web", 10, 1)]);
    let host = &site.net.edge;
    host.ip("addr add 192.0.2.10/32 dev eth1")?;
    host.ip("route replace 10.0.0.0/24 dev eth1 src 192.0.2.10")?;
    let _edge = site.edge(&file)?;
    let target = file.services[0].target()?;
    let backend = &site.net.backends[0].host;
    let outer = || -> Result<Option<Ipv4Addr>> {
        let seen = backend.enter(tunnels)??;
        site.net
            .client
            .enter(|| ask_udp(target, 33_000, Duration::from_millis(20)).is_ok())?;
        Ok(source_of_tunnel(&seen))
    };
    wait_until("a tunnel from the interface's own address", SOON, || {
        Ok(outer()? == Some([10, 0, 0, 5].into()))
    })
    .with_context(|| format!("it comes from {:?}", outer()))?;
    // Without another one of that interface, another interface's.
    host.ip("addr del 10.0.0.5/24 dev eth1")?;
    host.ip("route replace 10.0.0.0/24 dev eth1 src 192.0.2.10")?;
    wait_until("a tunnel from another interface's address", SOON, || {
        Ok(outer()? == Some([198, 51, 100, 5].into()))
    })
}

/// A socket that gets all that comes to a host.
fn tunnels() -> Result<OwnedFd> {
    let kind = (SockType::Raw, SockFlag::SOCK_NONBLOCK);
    Ok(socket(AddressFamily::Packet, kind.0, kind.1, SockProtocol::EthAll)?)
}

/// Where the first IPv4 packet with IPv4 in it, protocol 4, of those that came says that it is from.
fn source_of_tunnel(seen: &OwnedFd) -> Option<Ipv4Addr> {
    let mut frame = [0; 2_048];
    while let Ok(length) = recv(seen.as_raw_fd(), &mut frame, MsgFlags::empty()) {
        if let [_, _, _, _, _, _, _, _, _, _, _, _, 8, 0, ip @ ..] = &frame[..length]
            && let [_, _, _, _, _, _, _, _, _, 4, _, _, a, b, c, d, ..] = ip
        {
            return Some(Ipv4Addr::new(*a, *b, *c, *d));
        }
    }
    None
}

/// Rules by source: the tunnels' configured source is part of the question for the route.
#[test]
fn a_rule_by_the_tunnels_source_is_followed() -> Result<()> {
    let site = Site::new(Arms::Two, 2)?;
    let mut file = File::new([Svc::new("web", 10, 1)]);
    file.services[0].backends[0].1 = "10.9.9.9".into();
    let _servers = site.serve(&file.services)?;
    for backend in &site.net.backends {
        backend.host.ip("addr add 10.9.9.9/32 dev lo")?;
    }
    let host = &site.net.edge;
    host.ip("addr add 10.0.0.6/24 dev eth1")?;
    host.ip("route add 10.9.9.9/32 via 10.0.0.11")?;
    host.ip("route add 10.9.9.9/32 via 10.0.0.12 table 77")?;
    host.ip("rule add from 10.0.0.6 table 77")?;
    file.node += "tunnel_source_v4 = \"10.0.0.6\"\n";
    let edge = site.edge(&file)?;
    let gateway = || -> Result<_> { Ok(shown(&edge.api()?, "web", "web-1")?["next_hop"]["gateway"].clone()) };
    wait_until("the rule's gateway", SOON, || Ok(gateway()? == "10.0.0.12"))
        .with_context(|| format!("{:?}", gateway()))?;
    host.ip("rule del from 10.0.0.6 table 77")?;
    let changed = Instant::now();
    wait_until("the other gateway", SOON, || Ok(gateway()? == "10.0.0.11"))?;
    println!("a rule by source is gone: after {:?}", changed.elapsed());
    // A source that is no address of this host has no rules of its own, and is no mistake.
    host.ip("addr del 10.0.0.6/24 dev eth1")?;
    wait_until("the way without it", SOON, || Ok(gateway()? == "10.0.0.11"))
}

#[test]
fn a_next_hop_object_that_goes_is_noticed() -> Result<()> {
    let site = Site::new(Arms::Two, 2)?;
    let mut file = File::new([Svc::new("web", 10, 1)]);
    file.services[0].backends[0].1 = "10.9.9.9".into();
    let host = &site.net.edge;
    host.ip("nexthop add id 7 via 10.0.0.12 dev eth1")?;
    host.ip("route add 10.9.9.9/32 via 10.0.0.11 metric 200")?;
    host.ip("route add 10.9.9.9/32 nhid 7 metric 100")?;
    let edge = site.edge(&file)?;
    let gateway = || -> Result<_> { Ok(shown(&edge.api()?, "web", "web-1")?["next_hop"]["gateway"].clone()) };
    wait_until("the object's gateway", SOON, || Ok(gateway()? == "10.0.0.12"))?;
    host.ip("nexthop del id 7")?;
    let changed = Instant::now();
    wait_until("the other route's gateway", SOON, || Ok(gateway()? == "10.0.0.11"))?;
    println!("a next-hop object is gone: noticed after {:?}", changed.elapsed());
    Ok(())
}

//! What a next hop is found to be.

use std::time::Duration;

use lb_userspace::netlink::{NextHop, Refusal, Unreachable, Watcher};

use crate::hosts::{EDGE_MAC, Host, PEER_MAC, Watch, address, ifindex, ip, ip_shows, on, pair};

#[test]
fn on_link() {
    let (edge, _peer) = pair();
    on(&edge, || async {
        let watch = Watch::start(&["10.1.0.2", "2001:db8:1::2"]);
        let begun = std::time::Instant::now();
        let answers = watch.watcher.resolve_all(Duration::from_secs(2)).await.unwrap();
        println!("on the link: first answers after {:?}", begun.elapsed());
        for (at, source) in [("10.1.0.2", "10.1.0.1"), ("2001:db8:1::2", "2001:db8:1::1")] {
            let expected = NextHop {
                ifindex: ifindex("eth0"),
                source_mac: EDGE_MAC,
                destination_mac: PEER_MAC,
                neighbour: address(at),
                preferred_source: Some(address(source)),
                mtu: 1500,
            };
            assert_eq!(answers[&address(at)], Ok(expected));
        }
    });
}

#[test]
fn by_way_of_gateways() {
    let (edge, _peer) = pair();
    on(&edge, || async {
        ip("route add 192.0.2.0/24 via 10.1.0.2 mtu 1400");
        ip("route add 198.51.100.0/24 via inet6 2001:db8:1::2");
        ip("-6 route add 2001:db8:2::/64 via 2001:db8:1::2");
        ip("nexthop add id 7 via 10.1.0.2 dev eth0");
        ip("route add 203.0.113.0/24 nhid 7");
        let watch = Watch::start(&["192.0.2.1", "198.51.100.1", "2001:db8:2::1", "203.0.113.1"]);
        let answers = watch.watcher.resolve_all(Duration::from_secs(2)).await.unwrap();
        for (at, neighbour, source, mtu) in [
            ("192.0.2.1", "10.1.0.2", "10.1.0.1", 1400),
            ("198.51.100.1", "2001:db8:1::2", "10.1.0.1", 1500),
            ("2001:db8:2::1", "2001:db8:1::2", "2001:db8:1::1", 1500),
            ("203.0.113.1", "10.1.0.2", "10.1.0.1", 1500),
        ] {
            let next_hop = answers[&address(at)].clone().unwrap();
            assert_eq!(next_hop.neighbour, address(neighbour), "{at}");
            assert_eq!(next_hop.preferred_source, Some(address(source)), "{at}");
            assert_eq!((next_hop.destination_mac, next_hop.mtu), (PEER_MAC, mtu), "{at}");
        }
    });
}

#[test]
fn addresses_that_lead_nowhere() {
    let edge = Host::new();
    let peer = Host::new();
    edge.cable("eth0", &peer, "eth0");
    edge.ip("addr add 10.1.0.1/24 dev eth0; addr add 2001:db8:1::1/64 dev eth0 nodad; tuntap add tun0 mode tun");
    on(&edge, || async {
        for kind in ["blackhole", "unreachable", "prohibit"] {
            let number = kind.len();
            ip(&format!("route add {kind} 192.0.2.{number}"));
            ip(&format!("-6 route add {kind} 2001:db8:2::{number}"));
        }
        ip("link set tun0 up");
        ip("route add 203.0.113.0/24 dev tun0");
        let rejected = |at, kind| Unreachable::Rejected {
            address: address(at),
            kind,
        };
        let interface = || "tun0".to_owned();
        let expected = [
            ("192.0.2.9", rejected("192.0.2.9", Refusal::Blackhole)),
            ("192.0.2.11", rejected("192.0.2.11", Refusal::Unreachable)),
            ("192.0.2.8", rejected("192.0.2.8", Refusal::Prohibit)),
            ("2001:db8:2::9", rejected("2001:db8:2::9", Refusal::Blackhole)),
            ("2001:db8:2::11", rejected("2001:db8:2::11", Refusal::Unreachable)),
            ("2001:db8:2::8", rejected("2001:db8:2::8", Refusal::Prohibit)),
            (
                "192.0.2.77",
                Unreachable::NoRoute {
                    address: address("192.0.2.77"),
                },
            ),
            (
                "2001:db8:9::1",
                Unreachable::NoRoute {
                    address: address("2001:db8:9::1"),
                },
            ),
            (
                "10.1.0.1",
                Unreachable::LocalAddress {
                    address: address("10.1.0.1"),
                },
            ),
            (
                "127.0.0.5",
                Unreachable::LocalAddress {
                    address: address("127.0.0.5"),
                },
            ),
            (
                "::1",
                Unreachable::LocalAddress {
                    address: address("::1"),
                },
            ),
            (
                "10.1.0.255",
                Unreachable::NotUnicast {
                    address: address("10.1.0.255"),
                },
            ),
            (
                "fe80::9",
                Unreachable::LinkLocal {
                    address: address("fe80::9"),
                },
            ),
            (
                "203.0.113.1",
                Unreachable::NotEthernet {
                    address: address("203.0.113.1"),
                    interface: interface(),
                },
            ),
        ];
        let watch = Watch::start(&expected.each_ref().map(|(at, _)| *at));
        let answers = watch.watcher.resolve_all(Duration::from_secs(2)).await.unwrap();
        for (at, error) in expected {
            println!("{error}");
            assert_eq!(answers[&address(at)], Err(error), "{at}");
        }
    });
}

#[test]
fn nobody_there_is_said_after_a_second() {
    let (edge, _peer) = pair();
    on(&edge, || async {
        let begun = std::time::Instant::now();
        let watch = Watch::start(&["10.1.0.99"]);
        let answers = watch.watcher.resolve_all(Duration::from_secs(5)).await.unwrap();
        let took = begun.elapsed();
        println!("nobody there: said after {took:?}");
        assert!(
            took > Duration::from_millis(900) && took < Duration::from_millis(1600),
            "{took:?}"
        );
        let error = Unreachable::NoNeighbour {
            address: address("10.1.0.99"),
            neighbour: address("10.1.0.99"),
            interface: "eth0".into(),
        };
        println!("{error}");
        assert_eq!(answers[&address("10.1.0.99")], Err(error));
    });
}

#[test]
fn a_static_gateway_mac_asks_nobody() {
    let (edge, _peer) = pair();
    on(&edge, || async {
        let mac = [2, 0, 0, 0, 0, 77];
        let mut watch = Watch::with_gateway_mac(&["10.1.0.99"], Some(mac));
        watch
            .next_hop("static MAC", "10.1.0.99", |next_hop| next_hop.destination_mac == mac)
            .await;
        watch.silence(Duration::from_millis(600)).await;
        assert!(!ip_shows("neighbour").contains("10.1.0.99"));
    });
}

#[test]
fn an_operators_entry_is_used_and_left_alone() {
    let (edge, _peer) = pair();
    on(&edge, || async {
        ip("neighbour add 10.1.0.50 lladdr 02:00:00:00:00:50 dev eth0 nud permanent");
        let mut watch = Watch::start(&["10.1.0.50"]);
        watch
            .next_hop("permanent", "10.1.0.50", |next_hop| next_hop.destination_mac[5] == 0x50)
            .await;
        watch.silence(Duration::from_secs(1)).await;
        assert!(ip_shows("neighbour show 10.1.0.50").contains("PERMANENT"));
    });
}

#[test]
fn answers_are_known_though_nobody_reads_the_events() {
    let (edge, _peer) = pair();
    on(&edge, || async {
        let (sender, mut events) = tokio::sync::mpsc::channel(1);
        let watcher = Watcher::start(sender, None).unwrap();
        for at in ["10.1.0.1", "10.1.0.2"] {
            watcher.watch([(address(at), None)].into());
            let answers = watcher.resolve_all(Duration::from_secs(2)).await.unwrap();
            assert!(
                !matches!(answers[&address(at)], Err(Unreachable::NotYet { .. })),
                "{at}"
            );
        }
        // The first one's event filled the channel; the second one's comes once there is room.
        assert_eq!(events.recv().await.unwrap()[0].0, address("10.1.0.1"));
        assert_eq!(events.recv().await.unwrap()[0].0, address("10.1.0.2"));
    });
}

//! How changes are followed.

use std::time::Duration;

use lb_userspace::netlink::{Answer, Unreachable};

use crate::hosts::{Host, PEER_MAC, Watch, address, ifindex, ip, ip_shows, on, pair, plainly};

#[test]
fn a_neighbour_that_appears_late() {
    let (edge, peer) = pair();
    on(&edge, move || async move {
        let both = ["10.1.0.9", "2001:db8:1::9"];
        let mut watch = Watch::start(&both);
        watch
            .until_within(Duration::from_secs(4), "nobody yet", &both, |answer| answer.is_err())
            .await;
        // Until the kernel has given up, and for a while after.
        tokio::time::sleep(Duration::from_secs(4)).await;
        watch.begin();
        peer.ip("addr add 10.1.0.9/24 dev eth0; addr add 2001:db8:1::9/64 dev eth0 nodad");
        // Nobody tells the edge: it is found when the kernel asks next, at most 8 s and one question later.
        watch
            .until_within(Duration::from_secs(10), "a late neighbour", &both, |answer| {
                answer.is_ok()
            })
            .await;
    });
}

#[test]
fn a_new_mac() {
    let (edge, peer) = pair();
    peer.sysctl("ipv4/conf/eth0/arp_notify", "1");
    peer.sysctl("ipv6/conf/eth0/ndisc_notify", "1");
    on(&edge, move || async move {
        let both = ["10.1.0.2", "2001:db8:1::2"];
        let mut watch = Watch::start(&both);
        watch.watcher.resolve_all(Duration::from_secs(2)).await.unwrap();
        watch.begin();
        peer.ip("link set eth0 address 02:00:00:00:00:99");
        let new = |answer: &Answer| {
            answer
                .as_ref()
                .is_ok_and(|next_hop| next_hop.destination_mac[5] == 0x99)
        };
        watch
            .until_within(Duration::from_secs(1), "a new MAC", &both, new)
            .await;
    });
}

#[test]
fn a_route_that_moves() {
    let (edge, peer) = pair();
    edge.cable("eth1", &peer, "eth1");
    edge.ip("addr add 10.2.0.1/24 dev eth1");
    peer.ip("addr add 10.2.0.2/24 dev eth1");
    on(&edge, || async {
        ip("route add 192.0.2.0/24 via 10.1.0.2");
        let (eth0, eth1) = (ifindex("eth0"), ifindex("eth1"));
        let mut watch = Watch::start(&["192.0.2.1"]);
        watch
            .next_hop("first", "192.0.2.1", |next_hop| next_hop.ifindex == eth0)
            .await;

        watch.begin();
        ip("route replace 192.0.2.0/24 via 10.2.0.2");
        let moved = watch
            .next_hop("a route to another device", "192.0.2.1", |next_hop| {
                next_hop.ifindex == eth1
            })
            .await;
        assert_eq!(moved.preferred_source, Some(address("10.2.0.1")));

        watch.begin();
        ip("route add 192.0.2.1/32 via 10.1.0.2");
        watch
            .next_hop("a longer prefix", "192.0.2.1", |next_hop| next_hop.ifindex == eth0)
            .await;

        watch.begin();
        ip("route del 192.0.2.1/32");
        watch
            .next_hop("its removal", "192.0.2.1", |next_hop| next_hop.ifindex == eth1)
            .await;

        watch.begin();
        ip("route add 192.0.2.0/24 via 10.1.0.2 table 77");
        ip("rule add to 192.0.2.0/24 table 77");
        watch
            .next_hop("a rule", "192.0.2.1", |next_hop| next_hop.ifindex == eth0)
            .await;
        watch.begin();
        ip("rule del to 192.0.2.0/24 table 77");
        watch
            .next_hop("its removal", "192.0.2.1", |next_hop| next_hop.ifindex == eth1)
            .await;

        watch.begin();
        ip("route del 192.0.2.0/24");
        let gone = watch
            .until("a route deleted", "192.0.2.1", |answer| answer.is_err())
            .await;
        assert_eq!(
            gone,
            Err(Unreachable::NoRoute {
                address: address("192.0.2.1")
            })
        );
    });
}

#[test]
fn a_next_hop_object_that_changes() {
    let (edge, peer) = pair();
    edge.cable("eth1", &peer, "eth1");
    edge.ip("addr add 10.2.0.1/24 dev eth1");
    peer.ip("addr add 10.2.0.2/24 dev eth1");
    on(&edge, || async {
        ip("nexthop add id 7 via 10.1.0.2 dev eth0");
        ip("route add 192.0.2.0/24 nhid 7");
        let eth1 = ifindex("eth1");
        let mut watch = Watch::start(&["192.0.2.1"]);
        watch.next_hop("first", "192.0.2.1", |_| true).await;
        watch.begin();
        ip("nexthop replace id 7 via 10.2.0.2 dev eth1");
        watch
            .next_hop("a next-hop object replaced", "192.0.2.1", |next_hop| {
                next_hop.ifindex == eth1
            })
            .await;
    });
}

#[test]
fn a_link_that_goes_down() {
    let (edge, peer) = pair();
    on(&edge, move || async move {
        let mut watch = Watch::start(&["10.1.0.2"]);
        watch.next_hop("first", "10.1.0.2", |_| true).await;

        watch.begin();
        peer.ip("link set eth0 down");
        // The kernel may take a second to announce it.
        let bound = Duration::from_millis(1500);
        let down = watch
            .until_within(bound, "no carrier", &["10.1.0.2"], Result::is_err)
            .await;
        let expected = Unreachable::InterfaceDown {
            address: address("10.1.0.2"),
            interface: "eth0".into(),
            carrier: false,
        };
        assert_eq!(down, [Err(expected)]);
        watch.begin();
        peer.ip("link set eth0 up");
        watch
            .until_within(bound, "carrier again", &["10.1.0.2"], Result::is_ok)
            .await;

        watch.begin();
        ip("link set eth0 down");
        let down = watch.until("link down", "10.1.0.2", |answer| answer.is_err()).await;
        assert_eq!(
            down,
            Err(Unreachable::NoRoute {
                address: address("10.1.0.2")
            })
        );
        watch.begin();
        ip("link set eth0 up");
        watch.next_hop("link up", "10.1.0.2", |_| true).await;

        watch.begin();
        ip("link set eth0 mtu 1400");
        watch
            .next_hop("a new MTU", "10.1.0.2", |next_hop| next_hop.mtu == 1400)
            .await;
        watch.begin();
        ip("link set eth0 address 02:00:00:00:00:33");
        watch
            .next_hop("a new MAC of our own", "10.1.0.2", |next_hop| {
                next_hop.source_mac[5] == 0x33
            })
            .await;

        watch.begin();
        ip("link del eth0");
        let _ = watch.until("link removed", "10.1.0.2", |answer| answer.is_err()).await;
    });
}

#[test]
fn addresses_of_this_host() {
    let (edge, _peer) = pair();
    on(&edge, || async {
        let mut watch = Watch::start(&["10.1.0.2"]);
        watch.next_hop("first", "10.1.0.2", |_| true).await;

        watch.begin();
        ip("addr add 10.1.0.2/32 dev lo");
        let own = watch
            .until("the backend's address here", "10.1.0.2", |answer| answer.is_err())
            .await;
        assert_eq!(
            own,
            Err(Unreachable::LocalAddress {
                address: address("10.1.0.2")
            })
        );
        watch.begin();
        ip("addr del 10.1.0.2/32 dev lo");
        watch.next_hop("and gone again", "10.1.0.2", |_| true).await;

        watch.begin();
        ip("addr add 10.1.0.7/24 dev eth0");
        ip("addr del 10.1.0.1/24 dev eth0");
        ip("addr add 10.1.0.7/24 dev eth0");
        let source = Some(address("10.1.0.7"));
        watch
            .next_hop("another source", "10.1.0.2", |next_hop| {
                next_hop.preferred_source == source
            })
            .await;
        watch.begin();
        ip("addr del 10.1.0.7/24 dev eth0");
        let _ = watch
            .until("address removed", "10.1.0.2", |answer| answer.is_err())
            .await;
    });
}

#[test]
fn a_forgotten_neighbour_is_asked_for_again_without_a_word() {
    let (edge, _peer) = pair();
    on(&edge, || async {
        let mut watch = Watch::start(&["10.1.0.2", "2001:db8:1::2"]);
        watch.watcher.resolve_all(Duration::from_secs(2)).await.unwrap();
        watch.begin();
        ip("neighbour flush dev eth0");
        watch.silence(Duration::from_secs(5)).await;
        let table = ip_shows("neighbour show dev eth0");
        assert!(
            table.contains("10.1.0.2 lladdr") && table.contains("2001:db8:1::2 lladdr"),
            "{table}"
        );
    });
}

#[test]
fn a_neighbour_that_died() {
    let (edge, peer) = pair();
    on(&edge, move || async move {
        let mut watch = Watch::start(&["10.1.0.2"]);
        watch.next_hop("first", "10.1.0.2", |_| true).await;
        watch.begin();
        peer.ip("addr del 10.1.0.2/24 dev eth0");
        ip("neighbour change 10.1.0.2 dev eth0 nud probe");
        let bound = Duration::from_secs(5);
        let dead = watch
            .until_within(bound, "dead (the kernel asks for 3 s)", &["10.1.0.2"], Result::is_err)
            .await;
        assert!(matches!(dead[0], Err(Unreachable::NoNeighbour { .. })));
    });
}

#[test]
fn a_stale_neighbour_is_confirmed() {
    let (edge, peer) = pair();
    edge.sysctl("ipv4/neigh/eth0/delay_first_probe_time", "1");
    on(&edge, move || async move {
        let mut watch = Watch::start(&["10.1.0.2"]);
        watch.next_hop("first", "10.1.0.2", |_| true).await;
        watch.begin();
        // A change of the MAC that is not announced: only asking can tell.
        peer.ip("link set eth0 address 02:00:00:00:00:98");
        ip("neighbour change 10.1.0.2 dev eth0 nud stale");
        let bound = Duration::from_secs(12);
        let new = |answer: &Answer| {
            answer
                .as_ref()
                .is_ok_and(|next_hop| next_hop.destination_mac != PEER_MAC)
        };
        watch
            .until_within(bound, "a silent change of a stale neighbour's MAC", &["10.1.0.2"], new)
            .await;
    });
}

#[test]
fn another_set_of_addresses() {
    let (edge, _peer) = pair();
    on(&edge, || async {
        let mut watch = Watch::start(&["10.1.0.2"]);
        watch.next_hop("first", "10.1.0.2", |_| true).await;
        watch.begin();
        watch
            .watcher
            .watch(plainly([address("10.1.0.2"), address("2001:db8:1::2")]));
        watch.next_hop("an address added", "2001:db8:1::2", |_| true).await;
        watch.watcher.watch(plainly([address("2001:db8:1::2")]));
        ip("route add unreachable 10.1.0.2/32");
        watch.silence(Duration::from_millis(500)).await;
        let answers = watch.watcher.resolve_all(Duration::from_secs(1)).await.unwrap();
        assert_eq!(answers.len(), 1);
    });
}

#[test]
fn the_watcher_ends_with_its_owner() {
    let edge = Host::new();
    on(&edge, || async {
        let mut watch = Watch::start(&["192.0.2.1"]);
        let _ = watch.until("first", "192.0.2.1", |answer| answer.is_err()).await;
        let Watch {
            watcher, mut events, ..
        } = watch;
        drop(watcher);
        let end = tokio::time::timeout(Duration::from_secs(1), events.recv()).await;
        assert_eq!(end.expect("the task goes on"), None);
    });
}

//! What the kernel changes without a message about the route: found within a second all the same.

use std::time::Duration;

use lb_userspace::netlink::Unreachable;

use crate::hosts::{Host, Watch, address, ifindex, ip, on, pair};

const AT: &str = "192.0.2.1";

/// An edge with two ways to the peer: 10.1.0.2 on `eth0`, 10.2.0.2 on `eth1`.
fn two_ways() -> (Host, Host) {
    let (edge, peer) = pair();
    edge.cable("eth1", &peer, "eth1");
    edge.ip("addr add 10.2.0.1/24 dev eth1; addr add 2001:db8:2::1/64 dev eth1 nodad");
    peer.ip("addr add 10.2.0.2/24 dev eth1; addr add 2001:db8:2::2/64 dev eth1 nodad");
    (edge, peer)
}

/// With `compat`, the kernel tells of some of these as changes of routes.
fn next_hop_objects(compat: &str) {
    let (edge, _peer) = two_ways();
    edge.sysctl("ipv4/nexthop_compat_mode", compat);
    on(&edge, || async {
        let six = "2001:db8:f::1";
        ip("nexthop add id 7 via 10.1.0.2 dev eth0");
        ip("nexthop add id 8 via 2001:db8:1::2 dev eth0");
        ip("route add 192.0.2.0/24 nhid 7 metric 10");
        ip("route add 192.0.2.0/24 via 10.2.0.2 metric 20");
        ip("route add 2001:db8:f::/64 nhid 8 metric 10");
        ip("route add 2001:db8:f::/64 via 2001:db8:2::2 metric 20");
        let (eth0, eth1) = (ifindex("eth0"), ifindex("eth1"));
        let mut watch = Watch::start(&[AT, six]);
        watch.next_hop("first", AT, |hop| hop.ifindex == eth0).await;
        watch.next_quiet().await;

        for (what, command, to) in [
            ("replaced", "nexthop replace id 7 via 10.2.0.2 dev eth1", eth1),
            ("replaced again", "nexthop replace id 7 via 10.1.0.2 dev eth0", eth0),
            ("deleted", "nexthop del id 7", eth1),
        ] {
            watch.begin();
            ip(command);
            watch.next_hop(what, AT, |hop| hop.ifindex == to).await;
        }
        watch.begin();
        ip("nexthop del id 8");
        watch.next_hop("deleted, IPv6", six, |hop| hop.ifindex == eth1).await;

        ip("nexthop add id 9 via 10.1.0.2 dev eth0");
        ip("nexthop add id 10 group 9");
        ip("route add 192.0.2.0/24 nhid 10 metric 5");
        watch.next_hop("a group", AT, |hop| hop.ifindex == eth0).await;
        watch.begin();
        ip("nexthop del id 9");
        watch
            .next_hop("a group's last member deleted", AT, |hop| hop.ifindex == eth1)
            .await;
    });
}

#[test]
fn next_hop_objects_that_go_or_change() {
    next_hop_objects("1");
}

#[test]
fn next_hop_objects_without_messages_about_routes() {
    next_hop_objects("0");
}

#[test]
fn routes_that_go_with_an_address() {
    let (edge, _peer) = two_ways();
    on(&edge, || async {
        ip("addr add 10.1.0.77/32 dev eth0");
        ip("route add 192.0.2.0/24 via 10.1.0.2 src 10.1.0.77 metric 10");
        ip("route add 192.0.2.0/24 via 10.2.0.2 metric 20");
        let (eth0, eth1) = (ifindex("eth0"), ifindex("eth1"));
        let mut watch = Watch::start(&[AT]);
        watch.next_hop("first", AT, |hop| hop.ifindex == eth0).await;
        watch.begin();
        ip("addr del 10.1.0.77/32 dev eth0");
        watch
            .next_hop("the route's source deleted", AT, |hop| hop.ifindex == eth1)
            .await;
    });
}

#[test]
fn a_setting_that_passes_links_without_carrier_over() {
    let (edge, peer) = two_ways();
    on(&edge, move || async move {
        ip("route add 192.0.2.0/24 via 10.1.0.2 metric 10");
        ip("route add 192.0.2.0/24 via 10.2.0.2 metric 20");
        let eth1 = ifindex("eth1");
        let mut watch = Watch::start(&[AT]);
        watch.next_hop("first", AT, |_| true).await;
        peer.ip("link set eth0 down");
        let bound = Duration::from_secs(3);
        watch.until_within(bound, "no carrier", &[AT], Result::is_err).await;
        watch.next_quiet().await;
        watch.begin();
        std::fs::write("/proc/sys/net/ipv4/conf/eth0/ignore_routes_with_linkdown", "1").unwrap();
        watch.next_hop("the other route", AT, |hop| hop.ifindex == eth1).await;
    });
}

#[test]
fn an_ipv6_route_that_expires() {
    let (edge, _peer) = two_ways();
    on(&edge, || async {
        let at = "2001:db8:f::1";
        ip("route add 2001:db8:f::/64 via 2001:db8:1::2 metric 10 expires 2");
        ip("route add 2001:db8:f::/64 via 2001:db8:2::2 metric 20");
        let (eth0, eth1) = (ifindex("eth0"), ifindex("eth1"));
        let mut watch = Watch::start(&[at]);
        watch.next_hop("first", at, |hop| hop.ifindex == eth0).await;
        // The kernel itself removes it up to half a minute later.
        let (bound, places) = (Duration::from_secs(4), [at]);
        let moved = watch.until_within(bound, "expired", &places, |answer| {
            answer.as_ref().is_ok_and(|hop| hop.ifindex == eth1)
        });
        moved.await;
    });
}

#[test]
fn several_next_hops_of_which_one_falls_silent() {
    let (edge, peer) = two_ways();
    edge.sysctl("ipv4/fib_multipath_use_neigh", "1");
    on(&edge, move || async move {
        ip("route add 192.0.2.0/24 nexthop via 10.1.0.2 dev eth0 nexthop via 10.2.0.2 dev eth1");
        let mut watch = Watch::start(&[AT]);
        let first = watch.next_hop("first", AT, |_| true).await;
        let (mine, other) = if first.ifindex == ifindex("eth0") {
            (("10.1.0.2", "eth0"), "10.2.0.2")
        } else {
            (("10.2.0.2", "eth1"), "10.1.0.2")
        };
        peer.ip(&format!("addr del {}/24 dev {}", mine.0, mine.1));
        watch.begin();
        ip(&format!("neighbour change {} dev {} nud probe", mine.0, mine.1));
        // It asks for three seconds; then the kernel takes the other one.
        let bound = Duration::from_secs(6);
        let moved = watch.until_within(bound, "silent", &[AT], |answer| {
            answer.as_ref().is_ok_and(|hop| hop.neighbour == address(other))
        });
        moved.await;
    });
}

#[test]
fn a_rule_by_source() {
    let (edge, _peer) = two_ways();
    on(&edge, || async {
        ip("addr add 10.2.0.7/24 dev eth1");
        ip("route add 192.0.2.0/24 via 10.1.0.2");
        ip("route add 192.0.2.0/24 via 10.2.0.2 table 77");
        ip("rule add from 10.2.0.7 table 77");
        let (eth0, eth1) = (ifindex("eth0"), ifindex("eth1"));
        let mut watch = Watch::start(&[AT]);
        watch.next_hop("without a source", AT, |hop| hop.ifindex == eth0).await;
        watch.begin();
        watch.watcher.watch([(address(AT), Some(address("10.2.0.7")))].into());
        watch.next_hop("from its source", AT, |hop| hop.ifindex == eth1).await;
        watch.begin();
        ip("rule del from 10.2.0.7 table 77");
        watch.next_hop("the rule deleted", AT, |hop| hop.ifindex == eth0).await;
        ip("rule add from 10.2.0.7 table 77");
        watch.next_hop("the rule again", AT, |hop| hop.ifindex == eth1).await;
        // The kernel knows IPv4 routes from its own addresses only.
        watch.begin();
        ip("addr del 10.2.0.7/24 dev eth1");
        watch
            .next_hop("the source is not ours", AT, |hop| hop.ifindex == eth0)
            .await;
    });
}

/// An IPv6 address that comes is what the kernel prefers from then on; a route that names its source is followed.
#[test]
fn the_source_in_use_stays() {
    let (edge, _peer) = pair();
    on(&edge, || async {
        let at = "2001:db8:f::1";
        ip("route add 2001:db8:f::/64 via 2001:db8:1::2");
        let mut watch = Watch::start(&[at]);
        let source = Some(address("2001:db8:1::1"));
        watch.next_hop("first", at, |hop| hop.preferred_source == source).await;
        watch.next_quiet().await;
        // Closer to the destination by its first bits.
        ip("addr add 2001:db8:f:1::9/64 dev eth0 nodad");
        watch.silence(Duration::from_secs(1)).await;
        watch.begin();
        ip("route replace 2001:db8:f::/64 via 2001:db8:1::2 src 2001:db8:f:1::9");
        let named = Some(address("2001:db8:f:1::9"));
        watch
            .next_hop("named by the route", at, |hop| hop.preferred_source == named)
            .await;
        watch.begin();
        ip("addr change 2001:db8:f:1::9/64 dev eth0 preferred_lft 0");
        ip("route replace 2001:db8:f::/64 via 2001:db8:1::2");
        watch
            .next_hop("deprecated", at, |hop| hop.preferred_source == source)
            .await;
        watch.begin();
        ip("addr del 2001:db8:1::1/64 dev eth0");
        let _ = watch
            .until("deleted", at, |answer| match answer {
                Ok(hop) => hop.preferred_source == named,
                Err(Unreachable::NoRoute { .. }) => true,
                Err(_) => false,
            })
            .await;
    });
}

use std::net::{Ipv4Addr, Ipv6Addr};

use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkLayerType, LinkMessage};
use netlink_packet_route::neighbour::{NeighbourAttribute, NeighbourFlags, NeighbourState};
use netlink_packet_route::route::RouteAttribute;

use super::*;

const MAC: Mac = [2, 0, 0, 0, 0, 1];
const PEER: Mac = [2, 0, 0, 0, 0, 2];
const GATEWAY: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
const A: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
const B: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1));
const SIX: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));

fn link(up: bool, mtu: u32) -> RouteNetlinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = 3;
    message.header.link_layer_type = LinkLayerType::Ether;
    message.header.flags = if up {
        LinkFlags::Up | LinkFlags::LowerUp
    } else {
        LinkFlags::LowerUp
    };
    message.attributes = vec![
        LinkAttribute::IfName("eth0".into()),
        LinkAttribute::Address(MAC.to_vec()),
        LinkAttribute::Mtu(mtu),
    ];
    RouteNetlinkMessage::NewLink(message)
}

fn neighbour(state: NeighbourState) -> RouteNetlinkMessage {
    let mut message = neighbour::use_request(Key {
        ifindex: 3,
        address: GATEWAY,
    });
    message.header.flags = NeighbourFlags::empty();
    message.header.state = state;
    message
        .attributes
        .push(NeighbourAttribute::LinkLayerAddress(PEER.to_vec()));
    RouteNetlinkMessage::NewNeighbour(message)
}

fn forgotten() -> RouteNetlinkMessage {
    match neighbour(NeighbourState::Failed) {
        RouteNetlinkMessage::NewNeighbour(message) => RouteNetlinkMessage::DelNeighbour(message),
        other => other,
    }
}

fn route(mtu: Option<u32>) -> Route {
    Route {
        ifindex: 3,
        gateway: Some(GATEWAY),
        source: None,
        names_source: false,
        lifetime: None,
        mtu,
    }
}

/// A table that wants `A`, knows its route, and has taken in the messages.
fn table(now: Instant, messages: &[RouteNetlinkMessage]) -> Table {
    let mut table = Table::new(None);
    table.replace(messages);
    table.want(plainly([A]), now);
    assert_eq!(unrouted(&mut table, 9), [A]);
    table.routed(A, Ok(route(None)), now);
    table
}

/// Addresses for which no source is known beforehand.
fn plainly(addresses: impl IntoIterator<Item = IpAddr>) -> BTreeMap<IpAddr, Option<IpAddr>> {
    addresses.into_iter().map(|address| (address, None)).collect()
}

fn unrouted(table: &mut Table, limit: usize) -> Vec<IpAddr> {
    let taken = table.take_unrouted(limit).into_iter();
    taken.map(|(address, _)| address).collect()
}

/// Looks the route of `A` up again, which is what it was.
fn look_up(table: &mut Table, now: Instant) {
    assert_eq!(unrouted(table, 9), [A]);
    table.routed(A, Ok(route(None)), now);
}

fn next_hop(mtu: u32) -> Answer {
    let destination_mac = PEER;
    Ok(NextHop {
        ifindex: 3,
        source_mac: MAC,
        destination_mac,
        neighbour: GATEWAY,
        preferred_source: None,
        mtu,
    })
}

fn no_neighbour() -> Answer {
    Err(Unreachable::NoNeighbour {
        address: A,
        neighbour: GATEWAY,
        interface: "eth0".into(),
    })
}

#[test]
fn an_answer_is_given_once() {
    let now = Instant::now();
    let mut table = table(now, &[link(true, 1500), neighbour(NeighbourState::Reachable)]);
    assert!(!table.is_complete());
    assert_eq!(table.take_changes(now), [(A, next_hop(1500))]);
    assert!(table.is_complete());
    assert!(!table.apply(&neighbour(NeighbourState::Reachable)));
    assert!(table.apply(&neighbour(NeighbourState::Stale)));
    assert_eq!(table.take_changes(now), []);
}

#[test]
fn an_answer_counts_before_it_is_taken() {
    let now = Instant::now();
    let mut table = table(now, &[link(true, 1500), neighbour(NeighbourState::Reachable)]);
    table.decide(now);
    assert!(table.is_complete());
    assert_eq!(table.answers(), [(A, next_hop(1500))].into());
    table.apply(&link(true, 1400));
    assert_eq!(unrouted(&mut table, 9), [A]);
    table.routed(A, Ok(route(None)), now);
    assert_eq!(table.take_changes(now), [(A, next_hop(1400))]);
    assert_eq!(table.take_changes(now), []);
}

#[test]
fn the_smaller_mtu_counts() {
    let now = Instant::now();
    let mut table = table(now, &[link(true, 1500), neighbour(NeighbourState::Reachable)]);
    for (own, expected) in [(1400, 1400), (9000, 1500)] {
        table.routed(A, Ok(route(Some(own))), now);
        assert_eq!(table.take_changes(now), [(A, next_hop(expected))]);
    }
}

#[test]
fn the_first_answer_waits_for_the_neighbour_but_a_second_at_most() {
    let now = Instant::now();
    let mut table = table(now, &[link(true, 1500)]);
    assert_eq!(table.take_due(9, now).len(), 1);
    assert_eq!(table.take_changes(now), []);
    table.apply(&neighbour(NeighbourState::Incomplete));
    assert_eq!(table.take_changes(now + Duration::from_millis(900)), []);
    assert_eq!(table.take_changes(now + FIRST_ANSWER), [(A, no_neighbour())]);
    // Said once, also while it is asked for again.
    table.apply(&neighbour(NeighbourState::Failed));
    table.apply(&neighbour(NeighbourState::Incomplete));
    look_up(&mut table, now);
    assert_eq!(table.take_changes(now + FIRST_ANSWER), []);
    table.apply(&neighbour(NeighbourState::Reachable));
    assert_eq!(table.take_changes(now + FIRST_ANSWER), [(A, next_hop(1500))]);
}

#[test]
fn a_forgotten_neighbour_keeps_its_mac_until_it_is_known_to_have_failed() {
    let now = Instant::now();
    let mut table = table(now, &[link(true, 1500), neighbour(NeighbourState::Reachable)]);
    table.take_changes(now);
    table.apply(&forgotten());
    assert_eq!(table.take_due(9, now).len(), 1);
    table.apply(&neighbour(NeighbourState::Incomplete));
    assert_eq!(table.take_changes(now + Duration::from_secs(2)), []);
    table.apply(&neighbour(NeighbourState::Failed));
    // The kernel may know another gateway.
    assert_eq!(table.take_changes(now + Duration::from_secs(3)), []);
    look_up(&mut table, now);
    assert_eq!(table.take_changes(now + Duration::from_secs(3)), [(A, no_neighbour())]);
}

#[test]
fn a_full_neighbour_table_is_named() {
    let now = Instant::now();
    let mut table = table(now, &[link(true, 1500)]);
    let (key, known) = table.take_due(9, now)[0];
    assert!(!known);
    table.refused(key, libc::ENOBUFS);
    let full = Unreachable::NeighbourTableFull {
        address: A,
        neighbour: GATEWAY,
        interface: "eth0".into(),
    };
    assert!(full.to_string().contains("net.ipv4.neigh.default.gc_thresh3"));
    assert_eq!(table.take_changes(now), [(A, Err(full))]);
}

#[test]
fn a_shared_gateway_is_asked_for_once() {
    let now = Instant::now();
    let mut table = Table::new(None);
    table.apply(&link(true, 1500));
    table.want(plainly([A, B]), now);
    for address in unrouted(&mut table, 9) {
        table.routed(address, Ok(route(None)), now);
    }
    assert_eq!(
        table.take_due(9, now),
        [(
            Key {
                ifindex: 3,
                address: GATEWAY
            },
            false
        )]
    );
}

#[test]
fn only_what_a_route_may_concern_is_looked_up_again() {
    let now = Instant::now();
    let mut table = Table::new(None);
    table.want(plainly([A, B, SIX]), now);
    unrouted(&mut table, 9);
    let mut check = |destination: &str, length, expected: &[IpAddr]| {
        let mut message = route::request(destination.parse().unwrap(), None);
        message.header.destination_prefix_length = length;
        if length == 0 {
            message
                .attributes
                .retain(|attribute| !matches!(attribute, RouteAttribute::Destination(_)));
        }
        let matters = table.apply(&RouteNetlinkMessage::DelRoute(message));
        assert_eq!(unrouted(&mut table, 9), expected, "{destination}/{length}");
        assert_eq!(matters, !expected.is_empty());
    };
    check("192.0.2.0", 24, &[A]);
    check("203.0.113.0", 24, &[]);
    check("0.0.0.0", 0, &[A, B]);
    check("::", 0, &[SIX]);
    check("2001:db8::1", 128, &[SIX]);
}

#[test]
fn a_link_matters_when_packets_would_notice() {
    let now = Instant::now();
    let mut table = table(now, &[link(true, 1500), neighbour(NeighbourState::Reachable)]);
    table.take_changes(now);
    assert!(!table.apply(&link(true, 1500)));
    assert!(table.apply(&link(false, 1500)));
    // Nothing is said before the route was looked up again: it may lead elsewhere now.
    assert_eq!(table.take_changes(now), []);
    assert_eq!(unrouted(&mut table, 9), [A]);
    table.routed(A, Ok(route(None)), now);
    let down = Unreachable::InterfaceDown {
        address: A,
        interface: "eth0".into(),
        carrier: true,
    };
    assert_eq!(table.take_changes(now), [(A, Err(down))]);
}

#[test]
fn a_link_missing_from_a_snapshot_is_gone() {
    let now = Instant::now();
    let mut table = table(now, &[link(true, 1500), neighbour(NeighbourState::Reachable)]);
    table.take_changes(now);
    table.replace(&[]);
    assert_eq!(unrouted(&mut table, 9), [A]);
    assert_eq!(
        table.take_changes(now),
        [(A, Err(Unreachable::NoInterface { address: A, ifindex: 3 }))]
    );
}

#[test]
fn addresses_that_change_all_the_time_do_not_keep_others_waiting() {
    let mut table = Table::new(None);
    table.want(plainly([A, B]), Instant::now());
    assert_eq!(unrouted(&mut table, 1), [A]);
    table.not_routed(A);
    assert_eq!(unrouted(&mut table, 1), [B]);
    assert_eq!(unrouted(&mut table, 1), [A]);
}

#[test]
fn every_address_is_swept() {
    let begin = Instant::now();
    let mut table = Table::new(None);
    let all: BTreeSet<IpAddr> = (0..100).map(|n| IpAddr::from([192, 0, 2, n])).collect();
    table.want(plainly(all.clone()), begin);
    unrouted(&mut table, 100);
    let mut swept = BTreeSet::new();
    let mut most = 0;
    for tick in 0..=4 * SWEEP.as_secs() {
        table.sweep(begin + Duration::from_millis(250 * tick));
        let turn = unrouted(&mut table, 100);
        most = most.max(turn.len());
        swept.extend(turn);
    }
    assert_eq!(swept, all);
    assert!(most <= 2, "{most} at once");
}

#[test]
fn an_answer_without_an_end_does_not_hide_the_end_that_is_near() {
    let now = Instant::now();
    let mut table = table(now, &[]);
    let ends = Route {
        lifetime: Some(Duration::from_millis(100)),
        ..route(None)
    };
    table.sweep(now);
    unrouted(&mut table, 9);
    table.routed(A, Ok(ends), now);
    // What the kernel says in the last hundredth of a second.
    table.routed(A, Ok(route(None)), now + Duration::from_millis(95));
    table.sweep(now + Duration::from_millis(99));
    assert_eq!(unrouted(&mut table, 9), [] as [IpAddr; 0]);
    table.sweep(now + Duration::from_millis(100));
    assert_eq!(unrouted(&mut table, 9), [A]);
    table.sweep(now + Duration::from_millis(200));
    assert_eq!(unrouted(&mut table, 9), [] as [IpAddr; 0], "asked once");
}

#[test]
fn what_is_not_wanted_any_more_is_forgotten() {
    let now = Instant::now();
    let mut table = table(now, &[link(true, 1500), neighbour(NeighbourState::Stale)]);
    table.want(plainly([B]), now);
    assert_eq!(unrouted(&mut table, 9), [B]);
    assert_eq!(table.take_due(9, now), []);
    assert_eq!(table.answers(), [(B, Err(Unreachable::NotYet { address: B }))].into());
}

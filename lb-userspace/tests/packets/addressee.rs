//! Whose frames are balanced: those for the host's own Ethernet addresses alone, on the interface that they came by. Frames written out
//! byte by byte.

use lb_common::reason::Reason;
use lb_tests::packet::hex;
use lb_userspace::bpf::local_macs::OwnAddresses;

use crate::edge::{Edge, LOOPBACK, own};
use crate::reference::TX;

/// A whole packet for the VIP of a tunnel over IPv4 (`.20`), and one for that of `l2` (`::10`); all but the destination address.
const PACKETS: [&str; 2] = [
    "0200000000c1 0800
     45 00 0020 0007 4000 40 11 4e77 c6336407 c0000214
     d903 0035 000c 6db9 61736b21",
    "0200000000c1 86dd
     60000000 000a 11 40
     2001 0db8 000c 0000 0000 0000 0000 0007
     2001 0db8 0000 0000 0000 0000 0000 0010
     d903 0035 000a 62a3 6869",
];

fn frames(destination: &str) -> [Vec<u8>; 2] {
    PACKETS.map(|packet| hex(&format!("{destination} {packet}")))
}

#[track_caller]
fn takes(edge: &mut Edge, what: &str, destination: &str) {
    for frame in frames(destination) {
        let outcome = edge.agrees(what, &frame);
        assert_eq!((outcome.verdict, outcome.reason), (TX, Reason::Forwarded), "{what}");
    }
}

#[track_caller]
fn leaves_alone(edge: &mut Edge, what: &str, destination: &str) {
    for frame in frames(destination) {
        edge.refuses(what, &frame, Reason::OtherHost);
        edge.agrees(what, &frame);
    }
}

#[test]
fn only_frames_for_the_host_are_balanced() {
    for mut edge in Edge::of_every_kind() {
        takes(&mut edge, "the interface's own", "0200000000ed");
        for (what, destination) in [
            ("broadcast", "ffffffffffff"),
            ("IPv4 multicast", "01005e000001"),
            ("IPv6 multicast", "333300000001"),
            ("the own address with the group's bit", "0300000000ed"),
            ("a neighbour's", "0200000000ee"),
            ("one that differs in its first byte", "0000000000ed"),
            ("one that differs in its second byte", "0201000000ed"),
            ("one that differs in its third byte", "0200010000ed"),
            ("one that differs in its fourth byte", "0200000100ed"),
            ("one that differs in its fifth byte", "0200000001ed"),
            ("no address", "000000000000"),
        ] {
            leaves_alone(&mut edge, what, destination);
        }
        edge.sum_is_right();
    }
}

/// What is for nobody here stays what it was: the address is looked at only when a service is found.
#[test]
fn what_is_for_no_vip_is_told_as_before() {
    let mut edge = Edge::new();
    let packet = PACKETS[0]
        .replace("c0000214", "c0000263")
        .replace("6db9", "6d6a")
        .replace("4e77", "4e28");
    let frame = hex(&format!("ffffffffffff {packet}"));
    edge.refuses("broadcast to an address that is no VIP", &frame, Reason::NotAVip);
}

/// A macvlan's, as keepalived's for VRRP, and more of them that fall into one place of the fast path's table.
#[test]
fn several_addresses_on_one_interface() {
    let macs = [
        [0x02, 0, 0, 0, 0, 0xED],
        [0, 0, 0x5E, 0, 1, 7],
        [0, 0, 0x5E, 0, 2, 7],
        [0x06, 1, 2, 3, 0, 0xED],
        [0x0A, 1, 2, 3, 0, 0xED],
    ];
    for mut edge in Edge::of_every_kind() {
        edge.set_own(OwnAddresses::from([(LOOPBACK, macs.to_vec())]));
        for destination in [
            "0200000000ed",
            "00005e000107",
            "00005e000207",
            "0601020300ed",
            "0a01020300ed",
        ] {
            takes(&mut edge, destination, destination);
        }
        for destination in ["00005e000108", "0e01020300ed", "0601020400ed"] {
            leaves_alone(&mut edge, destination, destination);
        }
        // One goes, and it is the one whose place another now takes.
        edge.set_own(OwnAddresses::from([(LOOPBACK, vec![macs[3], macs[1]])]));
        leaves_alone(&mut edge, "gone", "0200000000ed");
        takes(&mut edge, "stays", "00005e000107");
        takes(&mut edge, "stays", "0601020300ed");
        leaves_alone(&mut edge, "gone", "0a01020300ed");
        edge.set_own(own());
        takes(&mut edge, "back", "0200000000ed");
        leaves_alone(&mut edge, "gone", "00005e000107");
    }
}

/// A frame for another interface of the host is that one's to forward: both receive it where a switch floods.
#[test]
fn an_address_is_own_on_its_interface_alone() {
    let ours = [0x02, 0, 0, 0, 0, 0xED];
    let mut edge = Edge::new();
    // Indices that differ from loopback's in every part that the table tells apart.
    for other in [2, 3, 0x0001_0001, 0x7FFF_0001, 0x0000_ED01] {
        edge.set_own(OwnAddresses::from([
            (LOOPBACK, vec![[0x02, 0, 0, 0, 0, 0xEE]]),
            (other, vec![ours]),
        ]));
        leaves_alone(&mut edge, "the other interface's", "0200000000ed");
        takes(&mut edge, "this interface's", "0200000000ee");
    }
    edge.set_own(OwnAddresses::new());
    leaves_alone(&mut edge, "before anything is known", "0200000000ee");
    leaves_alone(&mut edge, "before anything is known", "000000000000");
}

/// The last hop: `l2` sends the packet on as a router does, and a router does not.
#[test]
fn the_last_hop_is_not_sent_on_by_l2() {
    for mut edge in Edge::of_every_kind() {
        for (what, packet) in [
            (
                "TTL 1",
                "0200000000ed 0200000000c1 0800
                 45 00 001c 0007 4000 01 11 8d85 c6336407 c000020a  d903 0035 0008 3a60",
            ),
            (
                "TTL 0",
                "0200000000ed 0200000000c1 0800
                 45 00 001c 0007 4000 00 11 8e85 c6336407 c000020a  d903 0035 0008 3a60",
            ),
            (
                "hop limit 1",
                "0200000000ed 0200000000c1 86dd
                 60000000 000a 11 01
                 2001 0db8 000c 0000 0000 0000 0000 0007  2001 0db8 0000 0000 0000 0000 0000 0010
                 d903 0035 000a 62a3 6869",
            ),
            (
                "hop limit 0",
                "0200000000ed 0200000000c1 86dd
                 60000000 000a 11 00
                 2001 0db8 000c 0000 0000 0000 0000 0007  2001 0db8 0000 0000 0000 0000 0000 0010
                 d903 0035 000a 62a3 6869",
            ),
        ] {
            let frame = hex(packet);
            edge.refuses(what, &frame, Reason::TtlExceeded);
            edge.agrees(what, &frame);
        }
        edge.sum_is_right();
    }
}

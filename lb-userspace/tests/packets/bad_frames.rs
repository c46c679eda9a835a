//! What is not balanced: each frame with its reason, passed untouched or dropped, and counted once.

use lb_common::map::ServiceEntry;
use lb_common::reason::Reason;
use lb_tests::packet::{Packet, hex};

use crate::edge::{CLIENT_V4, CLIENT_V6, Edge, address, key, vip};

fn client(v6: bool) -> &'static str {
    if v6 { CLIENT_V6 } else { CLIENT_V4 }
}

fn to(v6: bool, number: u8) -> Packet {
    Packet::ip(client(v6), &address(v6, number))
}

fn tcp(v6: bool, number: u8) -> Packet {
    to(v6, number).tcp(40_000, 80).payload(b"GET / ")
}

fn udp(v6: bool, number: u8) -> Packet {
    to(v6, number).udp(40_000, 53).payload(b"ask!")
}

const FAMILIES: [bool; 2] = [false, true];
const MODES: [u8; 3] = [vip::L2, vip::IPIP_V4, vip::IPIP_V6];

#[test]
fn not_for_a_vip() {
    let mut edge = Edge::new();
    let mut refuses = |what, frame: &[u8], reason| edge.refuses(what, frame, reason);
    let arp = hex("ffffffffffff 0200000000c1 0806 0001 0800 06 04 0001 0200000000c1 c6336407 000000000000 c000020a");
    refuses("ARP for a VIP", &arp, Reason::NotIp);
    refuses("LLDP", &tcp(false, vip::L2).ethertype(0x88CC).build(), Reason::NotIp);
    refuses(
        "a length, not a type",
        &tcp(false, vip::L2).ethertype(38).build(),
        Reason::NotIp,
    );
    for v6 in FAMILIES {
        refuses("a tag", &tcp(v6, vip::L2).vlan(100).build(), Reason::Vlan);
        refuses(
            "a service tag",
            &tcp(v6, vip::L2).service_vlan(7).vlan(100).build(),
            Reason::Vlan,
        );
        refuses("another address", &tcp(v6, vip::NONE).build(), Reason::NotAVip);
        refuses(
            "another TCP port",
            &to(v6, vip::L2).tcp(40_000, 81).build(),
            Reason::NotAVip,
        );
        refuses(
            "another UDP port",
            &to(v6, vip::L2).udp(40_000, 54).build(),
            Reason::NotAVip,
        );
        refuses(
            "the port of the other protocol",
            &to(v6, vip::L2).udp(40_000, 80).build(),
            Reason::NotAVip,
        );
        refuses(
            "the port as source",
            &to(v6, vip::L2).tcp(80, 40_000).build(),
            Reason::NotAVip,
        );
        refuses(
            "ICMP",
            &to(v6, vip::L2).icmp(8, 0, [0, 1, 0, 1]).build(),
            Reason::NotTcpOrUdp,
        );
        refuses(
            "a tunnel",
            &to(v6, vip::L2).carrying(&tcp(false, vip::L2).ip_bytes()).build(),
            Reason::NotTcpOrUdp,
        );
        refuses(
            "GRE",
            &to(v6, vip::L2).bare(47).payload(&[0; 60]).build(),
            Reason::NotTcpOrUdp,
        );
    }
    edge.sum_is_right();
}

#[test]
fn headers_that_are_not_for_this_version() {
    let mut edge = Edge::new();
    for number in MODES {
        for (offset, more) in [(0, true), (1, true), (185, false)] {
            for v6 in FAMILIES {
                edge.refuses(
                    "a fragment",
                    &udp(v6, number).fragment(offset, more).build(),
                    Reason::Fragment,
                );
            }
        }
        // RFC 6946: a fragment header of a packet that is whole; still not looked behind.
        edge.refuses(
            "an atomic fragment",
            &udp(true, number).fragment(0, false).build(),
            Reason::Fragment,
        );
        for extension in [0, 43, 51, 60, 135, 139, 140] {
            let packet = tcp(true, number).extension(extension, &[0, 1, 4, 0, 0, 0, 0]);
            edge.refuses("an extension header", &packet.build(), Reason::Ipv6Extension);
        }
        edge.refuses(
            "no next header",
            &to(true, number).bare(59).payload(&[0; 40]).build(),
            Reason::NotTcpOrUdp,
        );
    }
    edge.sum_is_right();
}

/// IPv4 options are read over, of every length.
#[test]
fn ipv4_options_are_balanced() {
    let mut edge = Edge::new();
    for number in MODES {
        for words in 1..=10 {
            let frame = tcp(false, number).options(&[1].repeat(words * 4)).build();
            assert_eq!(edge.agrees("options", &frame).reason, Reason::Forwarded);
        }
    }
    edge.sum_is_right();
}

#[test]
fn headers_that_contradict_themselves() {
    let mut edge = Edge::new();
    for number in MODES {
        for first in (0..=u8::MAX).filter(|first| !(0x45..=0x4F).contains(first)) {
            edge.refuses(
                "IPv4's first byte",
                &tcp(false, number).first_byte(first).build(),
                Reason::BadIpHeader,
            );
        }
        for first in (0..=u8::MAX).filter(|first| first >> 4 != 6) {
            edge.refuses(
                "IPv6's first byte",
                &tcp(true, number).first_byte(first).build(),
                Reason::BadIpHeader,
            );
        }
        for length in 0..20 {
            edge.refuses(
                "total length",
                &udp(false, number).length(length).build(),
                Reason::BadIpHeader,
            );
        }
        // Into the transport header, and beyond the frame by one byte and by many.
        for length in (20..28).chain([33, 34, 1500, 0xFFFF]) {
            edge.refuses(
                "total length",
                &udp(false, number).length(length).build(),
                Reason::Truncated,
            );
        }
        for length in (0..8).chain([13, 14, 1500, 0xFFFF]) {
            edge.refuses(
                "payload length",
                &udp(true, number).length(length).build(),
                Reason::Truncated,
            );
        }
        for length in 20..40 {
            edge.refuses("TCP cut", &tcp(false, number).length(length).build(), Reason::Truncated);
            edge.refuses(
                "TCP cut",
                &tcp(true, number).length(length - 20).build(),
                Reason::Truncated,
            );
        }
    }
    edge.sum_is_right();
}

#[test]
fn every_truncation() {
    let mut edge = Edge::new();
    for v6 in FAMILIES {
        for number in MODES {
            for packet in [tcp(v6, number), udp(v6, number), tcp(v6, number).payload_len(1460)] {
                let frame = packet.build();
                let step = if frame.len() > 1000 { 37 } else { 1 };
                // The kernel itself refuses test frames of less than an Ethernet header.
                for length in (14..frame.len()).step_by(step) {
                    edge.refuses("cut", &frame[..length], Reason::Truncated);
                }
                assert_eq!(edge.agrees("whole", &frame).reason, Reason::Forwarded);
            }
        }
    }
    edge.sum_is_right();
}

#[test]
fn nowhere_to_go() {
    let mut edge = Edge::new();
    for v6 in FAMILIES {
        for (number, reason) in [
            (vip::NO_BACKEND, Reason::NoBackend),
            (vip::UNRESOLVED, Reason::NoNextHop),
            (vip::LOST_INTERFACE, Reason::NoNextHop),
        ] {
            edge.refuses("TCP", &tcp(v6, number).build(), reason);
            edge.refuses("UDP", &udp(v6, number).build(), reason);
            edge.refuses(
                "cut, and then it does not matter",
                &udp(v6, number).padding(0).truncate(60).build(),
                if v6 { Reason::Truncated } else { reason },
            );
        }
    }
    edge.sum_is_right();
}

/// 16 bits of outer length: the longest that fits is sent, one more is dropped.
#[test]
fn too_long_for_the_outer_header() {
    let mut edge = Edge::new();
    for (v6, number, longest) in [
        (false, vip::IPIP_V4, Some(65_515)),
        (true, vip::IPIP_V4, Some(65_515)),
        (false, vip::IPIP_V6, None),
        (true, vip::IPIP_V6, Some(65_535)),
        (false, vip::L2, None),
        (true, vip::L2, None),
    ] {
        let headers = if v6 { 48 } else { 28 };
        let any = if v6 { 65_575 } else { 65_535 };
        let of_length = |length: usize| to(v6, number).udp(40_000, 53).payload_len(length - headers).build();
        let longest = longest.unwrap_or(any);
        for length in [longest - 1, longest] {
            assert_eq!(
                edge.agrees("long", &of_length(length)).reason,
                Reason::Forwarded,
                "{length}"
            );
        }
        if longest < any {
            for length in [longest + 1, any] {
                edge.refuses("too long", &of_length(length), Reason::TooLong);
            }
        }
    }
    edge.sum_is_right();
}

/// A frame of several buffers, of which the program reads the first alone: all of it counts for the length.
#[test]
fn frames_of_several_buffers() {
    let mut edge = Edge::new();
    for v6 in FAMILIES {
        for number in MODES {
            // A page less headroom and tailroom is the first buffer of a test run: about 3,500 bytes.
            for length in [3_000, 3_400, 3_500, 3_520, 3_600, 4_096, 8_191, 9_001, 30_000] {
                let packet = to(v6, number).tcp(40_000, 80).payload_len(length);
                let frame = packet.build();
                assert_eq!(edge.agrees("whole", &frame).reason, Reason::Forwarded, "{length}");
                edge.refuses("one byte less", &frame[..frame.len() - 1], Reason::Truncated);
                edge.refuses("a page less", &frame[..length / 2], Reason::Truncated);
                assert_eq!(
                    edge.agrees("padded", &packet.padding(1000).build()).reason,
                    Reason::Forwarded
                );
            }
        }
    }
    edge.sum_is_right();
}

/// Tables that point outside of themselves: dropped and counted, not read.
#[test]
fn broken_tables() {
    let mut edge = Edge::new();
    for v6 in FAMILIES {
        let key = key(v6, vip::IPIP_V4, true);
        let frame = tcp(v6, vip::IPIP_V4).build();
        for (ring, rows) in [
            (64 * 1024, 0),
            (u32::MAX - 251, 0),
            (u32::MAX, 0),
            (0, 256),
            (0, u32::MAX - 300),
            (0, u32::MAX),
        ] {
            // A ring of real slots, whose numbers are then added to a base that is beyond the rows.
            let before = edge.move_service(key, 0);
            let ring = if ring == 0 { before as u32 } else { ring };
            edge.move_service(key, ServiceEntry::pack_bases(ring, rows));
            edge.refuses("broken", &frame, Reason::BrokenTable);
            edge.move_service(key, before);
            assert_eq!(edge.agrees("mended", &frame).reason, Reason::Forwarded);
        }
    }
    edge.sum_is_right();
}

#[test]
fn nonsense() {
    let mut edge = Edge::new();
    for length in (14..200).chain([1514, 9014]) {
        for byte in [0x00, 0xFF, 0x45, 0x86] {
            let reason = if length < 34 { Reason::Truncated } else { Reason::NotIp };
            edge.refuses("one byte again and again", &vec![byte; length], reason);
        }
    }
    edge.sum_is_right();
}

//! Random and mutated packets: the program and the model must agree on verdict, reason, counters and bytes.

use fastrand::Rng;
use lb_common::reason::Reason;
use lb_tests::kernel::random_packets;
use lb_tests::packet::{Packet, RECEIVER_MAC, SENDER_MAC};

use crate::edge::{Edge, address, vip};

const PACKETS: u32 = 20_000;
const SEED: u64 = 0xED6E;

#[test]
fn program_and_model_agree() {
    Edge::of_every_kind().into_iter().for_each(agree);
}

fn agree(mut edge: Edge) {
    assert!(
        edge.second_places() > 0,
        "no service is in its second place: the test would not see it"
    );
    let mut rng = Rng::with_seed(SEED);
    let packets = random_packets(PACKETS);
    for number in 0..packets {
        let frame = frame(&mut rng);
        edge.agrees(&format!("packet {number}"), &frame);
    }
    edge.sum_is_right();
    assert_eq!(edge.runs(), u64::from(packets));
    let counts: Vec<_> = Reason::ALL
        .iter()
        .map(|reason| (reason.name(), edge.count(*reason)))
        .collect();
    println!("{packets} packets: {counts:?}");
    // A test that no longer reaches a reason has lost its teeth.
    for reason in Reason::ALL {
        let rare = matches!(reason, Reason::NoHeadroom | Reason::BrokenTable);
        assert!(
            rare || edge.count(*reason) > 5,
            "{} was hardly seen: {counts:?}",
            reason.name()
        );
    }
}

pub(crate) fn frame(rng: &mut Rng) -> Vec<u8> {
    let mut frame = match rng.u8(..20) {
        0 => (0..rng.usize(14..200)).map(|_| rng.u8(..)).collect(),
        1 => long(rng),
        _ => good(rng).build(),
    };
    // Half of the packets stay whole.
    if rng.bool() {
        for _ in 0..rng.usize(1..4) {
            mutate(rng, &mut frame);
        }
    }
    frame
}

fn good(rng: &mut Rng) -> Packet {
    let v6 = rng.bool();
    let numbers = [
        vip::L2,
        vip::L2,
        vip::IPIP_V4,
        vip::IPIP_V4,
        vip::IPIP_V4,
        vip::IPIP_V6,
        vip::IPIP_V6,
        vip::IPIP_V6,
        vip::NO_BACKEND,
        vip::UNRESOLVED,
        vip::OTHER_INTERFACE,
        vip::LOST_INTERFACE,
        vip::MIXED,
        vip::MIXED,
        vip::MIXED + 1,
        vip::MIXED + 2,
        vip::MIXED + 3,
        vip::NONE,
    ];
    let client = if v6 {
        format!("2001:db8:{:x}::{:x}", rng.u16(..), rng.u16(..))
    } else {
        format!("198.51.{}.{}", rng.u8(..), rng.u8(..))
    };
    let packet = Packet::ip(&client, &address(v6, numbers[rng.usize(..numbers.len())]))
        .traffic_class(rng.u8(..))
        .flow_label(rng.u32(..))
        .ttl(if rng.bool() { rng.u8(..) } else { rng.u8(..3) })
        .macs(destination(rng), SENDER_MAC)
        .padding(if rng.u8(..4) == 0 { rng.usize(..30) } else { 0 });
    let packet = match rng.u8(..16) {
        0 => packet.options(&[1].repeat(rng.usize(..=40))),
        1 => packet.vlan(rng.u16(..4096)),
        2 => packet.fragment(rng.u16(..8192), rng.bool()),
        3 => packet.extension([0, 43, 60][rng.usize(..3)], &[0, 1, 4, 0, 0, 0, 0]),
        _ => packet,
    };
    let port = rng.u16(..);
    let packet = match rng.u8(..16) {
        0 => packet.icmp(8, 0, [0; 4]),
        1 => packet.bare(rng.u8(..)),
        2 => packet.tcp(port, rng.u16(..)),
        n if n % 2 == 0 => packet.tcp(port, 80),
        _ => packet.udp(port, 53),
    };
    let most = if rng.u8(..8) == 0 { 5_000 } else { 120 };
    packet.payload_len(rng.usize(..most))
}

/// Near the largest that there is.
fn long(rng: &mut Rng) -> Vec<u8> {
    let v6 = rng.bool();
    let client = if v6 { "2001:db8:c::1" } else { "198.51.100.1" };
    let number = [vip::L2, vip::IPIP_V4, vip::IPIP_V6, vip::MIXED][rng.usize(..4)];
    let packet = Packet::ip(client, &address(v6, number)).udp(rng.u16(..), 53);
    packet.payload_len(rng.usize(65_450..=65_507)).build()
}

pub(crate) fn mutate(rng: &mut Rng, frame: &mut Vec<u8>) {
    // Most of what matters is in the headers.
    let near = frame.len().min(80);
    let at = rng.usize(..near);
    match rng.u8(..10) {
        0 => frame[at] ^= 1 << rng.u8(..8),
        1 => frame[at] = rng.u8(..),
        2 => frame[at] = [0, 1, 0x7F, 0x80, 0xFF, 0x45, 0x60][rng.usize(..7)],
        3 => frame.truncate(rng.usize(14..=frame.len())),
        4 => frame.truncate(rng.usize(14..=near)),
        5 => frame.extend((0..rng.usize(..64)).map(|_| 0xEE)),
        // A length: IPv4's total length or IPv6's payload length, near the right one or anything.
        6 | 7 if frame.len() >= 20 => {
            let field = if frame[12] == 0x08 { 16 } else { 18 };
            let before = u16::from_be_bytes([frame[field], frame[field + 1]]);
            let after = match rng.u8(..3) {
                0 => rng.u16(..),
                1 => rng.u16(..64),
                _ => before.wrapping_add(rng.u16(..5)).wrapping_sub(2),
            };
            frame[field..field + 2].copy_from_slice(&after.to_be_bytes());
        }
        8 => {
            let byte = frame[at];
            frame.insert(at, byte);
        }
        _ if frame.len() > 15 => {
            frame.remove(at);
        }
        _ => {}
    }
}

/// The host's own address mostly, else another's or a group's.
fn destination(rng: &mut Rng) -> [u8; 6] {
    match rng.u8(..16) {
        0 => [0xFF; 6],
        1 => [0x33, 0x33, 0, 0, 0, 1],
        // One that differs in a single bit.
        2 => {
            let mut mac = RECEIVER_MAC;
            mac[rng.usize(..6)] ^= 1 << rng.u8(..8);
            mac
        }
        _ => RECEIVER_MAC,
    }
}

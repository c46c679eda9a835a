//! Every pair of families, both protocols, many lengths: as the model says, and sound to a checker that shares no code with it.

use lb_common::reason::Reason;
use lb_tests::packet::{Packet, describe};

use crate::edge::{CLIENT_V4, CLIENT_V6, Edge, address, vip};

/// Lengths of a payload: all short ones, around a full packet of either protocol and tunnel, around the first buffer's end, and
/// the longest that fits everywhere.
fn lengths() -> impl Iterator<Item = usize> {
    let long = [
        1432, 1439, 1440, 1441, 1451, 1452, 1459, 1460, 1461, 1471, 1472, 1473, 3463, 8961, 32_768, 65_000,
    ];
    (0..=100).chain(long).chain((500..1500).step_by(97))
}

#[test]
fn all_pairs_of_all_lengths() {
    let mut edge = Edge::new();
    for number in [vip::L2, vip::IPIP_V4, vip::IPIP_V6] {
        for v6 in [false, true] {
            for tcp in [false, true] {
                for (length, port) in lengths().zip(1024..) {
                    let client = if v6 { CLIENT_V6 } else { CLIENT_V4 };
                    let packet = Packet::ip(client, &address(v6, number))
                        .traffic_class((length * 7) as u8)
                        .flow_label(length as u32 * 977);
                    let packet = if tcp {
                        packet.tcp(port, 80)
                    } else {
                        packet.udp(port, 53)
                    };
                    let packet = packet.payload_len(length).pad_to(60);
                    check(&mut edge, &packet, number);
                }
            }
        }
    }
    edge.sum_is_right();
}

fn check(edge: &mut Edge, packet: &Packet, number: u8) {
    let (frame, inner) = (packet.build(), packet.ip_bytes());
    let what = format!("{} bytes to {number}", inner.len());
    let outcome = edge.agrees(&what, &frame);
    assert_eq!(outcome.reason, Reason::Forwarded, "{what}");
    assert_eq!(
        outcome.counted.map(|(_, bytes)| bytes as usize),
        Some(inner.len()),
        "{what}"
    );
    let (outer, protocol) = match number {
        vip::IPIP_V4 => (20, Some("ipv4")),
        vip::IPIP_V6 => (40, Some("ipv6")),
        _ => (0, None),
    };
    assert_eq!(outcome.frame.len(), frame.len() + outer, "{what}");
    // `l2` is a hop.
    let hop_on = packet.clone().ttl(63).build();
    let as_it_leaves = if outer == 0 { &hop_on } else { &frame };
    assert_eq!(
        outcome.frame[14 + outer..],
        as_it_leaves[14..],
        "{what}: inner packet and padding"
    );
    let description = describe(&outcome.frame);
    assert!(description.sound(), "{what}\n{description}");
    if let Some(layer) = protocol {
        // IPv6 does not count its own header.
        let length = inner.len() + if layer == "ipv4" { 20 } else { 0 };
        let field = |name: &str| description.value(&format!("{layer}.{name}"));
        assert_eq!(field("length"), Some(length.to_string().as_str()), "{what}");
        let inside =
            |v4: &str, v6: &str| description.value(&format!("inner.{}", if inner[0] >> 4 == 4 { v4 } else { v6 }));
        let class = inside("ipv4.tos", "ipv6.traffic_class");
        let outer_class = field(if layer == "ipv4" { "tos" } else { "traffic_class" });
        assert_eq!(outer_class, class, "{what}");
    }
}

//! Packets that meet again: few clients, all flags.

use fastrand::Rng;
use lb_tests::packet::{Packet, flag};

use super::fleet::SERVICES;
use crate::edge::address;
use crate::mutations;

/// A packet, most likely one for a service.
pub(super) fn frame(rng: &mut Rng) -> Vec<u8> {
    // What the test of stable slots sends, too: other services' addresses, anything at all.
    if rng.u8(..16) == 0 {
        return mutations::frame(rng);
    }
    let mut frame = flow(rng).build();
    if rng.u8(..4) == 0 {
        for _ in 0..rng.usize(1..4) {
            mutations::mutate(rng, &mut frame);
        }
    }
    frame
}

fn flow(rng: &mut Rng) -> Packet {
    let v6 = rng.bool();
    let host = rng.u8(1..16);
    let client = if v6 {
        // Clients that differ in the upper half, the lower, or both.
        format!("2001:db8:{:x}::{:x}", host / 4, host % 4)
    } else {
        format!("198.51.100.{host}")
    };
    let number = SERVICES[rng.usize(..SERVICES.len())];
    let port = 40_000 + rng.u16(..12);
    let packet = Packet::ip(&client, &address(v6, number)).traffic_class(rng.u8(..));
    let packet = if rng.u8(..4) == 0 {
        packet.udp(port, 53)
    } else {
        let flags = [
            flag::SYN,
            flag::SYN,
            flag::ACK,
            flag::ACK,
            flag::ACK | flag::PSH,
            flag::ACK | flag::FIN,
            flag::RST,
            flag::SYN | flag::ACK,
            rng.u8(..),
        ];
        packet.tcp(port, 80).flags(flags[rng.usize(..flags.len())])
    };
    let packet = if !v6 && rng.u8(..8) == 0 {
        // The flags are further back.
        packet.options(&[1].repeat(rng.usize(..=40)))
    } else {
        packet
    };
    match rng.u16(..256) {
        0 => packet.payload_len(rng.usize(65_400..=65_470)),
        1..16 => packet.payload_len(rng.usize(..4_000)),
        _ => packet.payload_len(rng.usize(..100)),
    }
}

//! Where the fuzzers begin: good packets of every kind, made by the tests' own builder, so that no binary file is kept.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};
use lb_tests::packet::{Packet, flag};

/// Writes a target's seeds into its corpus; says how many. What the fuzzer found there earlier stays.
pub(super) fn write(target: &str, corpus: &Path) -> Result<usize> {
    fs::create_dir_all(corpus).with_context(|| format!("creating {}", corpus.display()))?;
    let frames = if target == "decap" { tunnelled() } else { plain() };
    // What comes before the frame: see the head of each target.
    let before: &[u8] = match target {
        "tunnel" => &[0x5A; 40],
        _ => &[0xFF],
    };
    for (number, frame) in frames.iter().enumerate() {
        let file = corpus.join(format!("seed-{number:02}"));
        fs::write(&file, [before, frame].concat()).with_context(|| format!("writing {}", file.display()))?;
    }
    Ok(frames.len())
}

/// A client and a VIP, of either family.
const ENDS: [(&str, &str); 2] = [("198.51.100.7", "192.0.2.10"), ("2001:db8:c::7", "2001:db8::10")];

fn packets() -> Vec<Packet> {
    let mut packets = Vec::new();
    for (client, vip) in ENDS {
        let packet = || Packet::ip(client, vip);
        packets.extend([
            packet().tcp(40_000, 80).flags(flag::SYN),
            packet().tcp(40_000, 80).flags(flag::ACK | flag::PSH).payload(b"GET / "),
            packet()
                .tcp(40_000, 443)
                .tcp_options(&[2, 4, 5, 0xB4])
                .traffic_class(0xB9),
            packet().udp(55_555, 53).payload(b"ask!").traffic_class(3),
            packet().udp(55_555, 53).padding(18),
            packet().icmp(8, 0, [0, 1, 0, 2]),
            packet().fragment(185, true).udp(1, 2),
            packet().extension(60, &[0, 1, 4, 0, 0, 0, 0]).tcp(1, 2),
            packet().options(&[1, 1, 1, 0]).tcp(1, 2),
            packet().vlan(100).tcp(1, 2),
            packet().bare(47).payload_len(24),
        ]);
    }
    packets
}

fn plain() -> Vec<Vec<u8>> {
    packets().iter().map(Packet::build).collect()
}

fn tunnelled() -> Vec<Vec<u8>> {
    let mut frames = plain();
    for packet in packets() {
        let inner = packet.ip_bytes();
        for (from, to) in [("10.0.0.5", "10.0.0.11"), ("2001:db8:b::5", "2001:db8:b::11")] {
            let outer = || Packet::ip(from, to).carrying(&inner);
            frames.push(outer().build());
            // Marked on its way; and as Linux's ip6tnl sends it.
            frames.push(outer().traffic_class(3).build());
            frames.push(outer().extension(60, &[0, 4, 1, 4, 1, 1, 0]).build());
        }
    }
    frames
}

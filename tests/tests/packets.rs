//! The builder and the checker against frames written out by hand.

use lb_tests::capture;
use lb_tests::net::Scratch;
use lb_tests::packet::{Packet, assert_same, describe, difference, flag, hex};

#[track_caller]
fn check(built: &Packet, by_hand: &str) {
    assert_same(&built.build(), &hex(by_hand), "built");
}

/// The header that the encyclopaedias compute: 192.168.0.1 to 192.168.0.199, UDP, 115 bytes, checksum b861.
#[test]
fn a_well_known_ipv4_header() {
    let packet = Packet::ip("192.168.0.1", "192.168.0.199")
        .udp(1, 2)
        .payload_len(115 - 28)
        .ip_bytes();
    assert_eq!(packet[..20], hex("4500 0073 0000 4000 4011 b861 c0a8 0001 c0a8 00c7"));
}

#[test]
fn tcp_in_ipv4_with_padding() {
    let packet = Packet::ip("198.51.100.1", "192.0.2.10")
        .identification(7)
        .tcp(40_000, 80)
        .payload(b"GET / ");
    check(
        &packet.pad_to(62),
        "0200000000ed 0200000000c1 0800
         45 00 002e 0007 4000 40 06 4e84 c6336401 c000020a
         9c40 0050 01020304 00000000 50 02 faf0 5d90 0000   # SYN
         474554202f20
         eeee",
    );
}

#[test]
fn udp_in_ipv6_of_odd_length() {
    check(
        &Packet::ip("2001:db8:c::a", "2001:db8::a")
            .ttl(7)
            .traffic_class(0xB8)
            .flow_label(0x12345)
            .udp(0xD903, 53)
            .payload(b"odd"),
        "0200000000ed 0200000000c1 86dd
         6b81 2345 000b 11 07
         2001 0db8 000c 0000 0000 0000 0000 000a
         2001 0db8 0000 0000 0000 0000 0000 000a
         d903 0035 000b f7a8
         6f6464",
    );
}

#[test]
fn a_tunnel_in_a_vlan() {
    let inner = Packet::ip("198.51.100.1", "192.0.2.10")
        .identification(7)
        .tcp(40_000, 80)
        .payload(b"GET / ")
        .padding(9);
    check(
        &Packet::ip("10.0.0.5", "10.0.0.11")
            .macs([2; 6], [4; 6])
            .vlan(100)
            .carrying(&inner.ip_bytes()),
        "020202020202 040404040404 8100 0064 0800
         45 00 0042 0000 4000 40 04 26a9 0a000005 0a00000b
         45 00 002e 0007 4000 40 06 4e84 c6336401 c000020a
         9c40 0050 01020304 00000000 50 02 faf0 5d90 0000
         474554202f20",
    );
}

#[test]
fn a_later_fragment_with_options() {
    check(
        &Packet::ip("198.51.100.1", "192.0.2.10")
            .identification(9)
            .options(&[0x94, 0x04, 0x00, 0x00])
            .fragment(1, true)
            .bare(17)
            .payload(&hex("0001020304050607")),
        "0200000000ed 0200000000c1 0800
         46 00 0020 0009 2001 40 11 d97f c6336401 c000020a 94040000
         0001020304050607",
    );
}

#[test]
fn extension_headers_are_chained() {
    check(
        &Packet::ip("2001:db8:c::a", "2001:db8::a")
            .extension(0, &hex("00 01 04 00000000"))
            .identification(0x1234)
            .fragment(185, false)
            .bare(17)
            .payload(&[0xAA]),
        "0200000000ed 0200000000c1 86dd
         60000000 0011 00 40
         20010db8000c0000000000000000000a 20010db800000000000000000000000a
         2c 00 01 04 00000000           # hop by hop: padding
         11 00 05c8 00001234            # fragment 185 of 8 bytes each
         aa",
    );
}

#[test]
fn everything_can_be_wrong() {
    let good = || Packet::ip("198.51.100.1", "192.0.2.10").udp(1, 2).payload(b"abcd");
    let wrong = [
        (good().length(99), "IPv4 total length 99, but 32 bytes are there"),
        (good().length(19), "IPv4 first byte 0x45, total length 19"),
        (good().first_byte(0x65), "IPv4 first byte 0x65, total length 32"),
        (good().header_checksum(1), "ipv4.checksum is 0x0001, right would be "),
        (good().checksum(1), "udp.checksum is 0x0001, right would be "),
        (good().udp_length(7), "UDP length 7, but the IP header leaves 12"),
        (good().truncate(13), "Ethernet header cut: 13 of 14 bytes"),
        (good().truncate(30), "IPv4 header cut: 16 of 20 bytes"),
        (good().truncate(38), "UDP header cut: 4 of 8 bytes"),
        (good().first_byte(0x4F), "IPv4 first byte 0x4f, total length 32"),
    ];
    assert!(describe(&good().build()).sound());
    for (packet, fault) in wrong {
        let seen = describe(&packet.build());
        assert!(
            seen.faults.iter().any(|text| text.starts_with(fault)),
            "expected {fault:?} in\n{seen}"
        );
    }
    let none = describe(&good().checksum(0).build());
    assert!(none.sound() && none.value("udp.checksum") == Some("none"), "{none}");
    let inner = good().header_checksum(1).ip_bytes();
    let tunnel = describe(&Packet::ip("2001:db8::1", "2001:db8::2").carrying(&inner).build());
    assert!(
        tunnel.faults[0].starts_with("inner.ipv4.checksum is 0x0001"),
        "{tunnel}"
    );
}

#[test]
fn no_bytes_make_the_checker_panic() {
    let seeds = [
        Packet::ip("198.51.100.1", "192.0.2.10")
            .vlan(1)
            .options(&[1; 8])
            .tcp(1, 2)
            .tcp_options(&[1; 8])
            .payload_len(40),
        Packet::ip("2001:db8:c::a", "2001:db8::a")
            .extension(0, &[0; 7])
            .fragment(0, true)
            .udp(1, 2)
            .payload_len(40),
        Packet::ip("2001:db8::1", "2001:db8::2")
            .carrying(&Packet::ip("10.0.0.1", "10.0.0.2").icmp(8, 0, [0; 4]).ip_bytes()),
    ];
    for frame in seeds.map(|seed| seed.build()) {
        for at in 0..frame.len() {
            describe(&frame[..at]);
            for byte in 0..=255 {
                let mut changed = frame.clone();
                changed[at] = byte;
                describe(&changed);
            }
        }
    }
}

#[test]
fn a_difference_names_the_fields() {
    let base = Packet::ip("198.51.100.1", "192.0.2.10").tcp(40_000, 80);
    let other = base.clone().ttl(63).flags(flag::SYN | flag::ACK);
    assert_eq!(difference(&base.build(), &base.build()), None);
    let text = difference(&base.build(), &other.build()).unwrap_or_default();
    for line in [
        "ipv4.ttl                 is 64, expected 63",
        "tcp.flags                is 0x02, expected 0x12",
        "[40]",
    ] {
        assert!(text.contains(line), "no {line:?} in\n{text}");
    }
    assert!(!text.contains("tcp.source"), "{text}");
}

#[test]
fn a_capture_comes_back_as_it_was() -> anyhow::Result<()> {
    let scratch = Scratch::new()?;
    let path = scratch.path().join("frames.pcap");
    let frames: Vec<_> = [0, 1, 1_472]
        .map(|size| Packet::ip("10.0.0.1", "10.0.0.2").udp(1, 2).payload_len(size).build())
        .into();
    capture::write(&path, &frames)?;
    assert_eq!(capture::read(&path)?, frames);
    std::fs::write(&path, "not a capture, but long enough to have a header")?;
    assert!(capture::read(&path).is_err());
    Ok(())
}

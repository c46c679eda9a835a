//! IPv6 (RFC 8200).

use super::*;

/// 2001:db8:c::a to 2001:db8::a, TCP, 26 bytes of payload.
const HEADER_TCP: &[u8] = &[
    0x60, 0x00, 0x00, 0x00, 0x00, 0x1A, 0x06, 0x40, //
    0x20, 0x01, 0x0D, 0xB8, 0x00, 0x0C, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x0A, //
    0x20, 0x01, 0x0D, 0xB8, 0x00, 0x00, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x0A,
];
/// The same with UDP, 8 bytes of payload, traffic class 0xB9, flow label 0x12345.
const HEADER_UDP: &[u8] = &[
    0x6B, 0x91, 0x23, 0x45, 0x00, 0x08, 0x11, 0x40, //
    0x20, 0x01, 0x0D, 0xB8, 0x00, 0x0C, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x0A, //
    0x20, 0x01, 0x0D, 0xB8, 0x00, 0x00, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x0A,
];
const VIP: [u8; 16] = [0x20, 0x01, 0x0D, 0xB8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x0A];
const LENGTH: usize = 14 + 4;
const NEXT_HEADER: usize = 14 + 6;

fn tcp() -> Vec<u8> {
    [ETH_V6, HEADER_TCP, TCP, b"GET / "].concat()
}

fn udp() -> Vec<u8> {
    [ETH_V6, HEADER_UDP, UDP].concat()
}

fn flow(length: u32, traffic_class: u8) -> Flow {
    Flow {
        source_high: u64::from_ne_bytes([0x20, 0x01, 0x0D, 0xB8, 0x00, 0x0C, 0, 0]),
        source_low: u64::from_ne_bytes([0, 0, 0, 0, 0, 0, 0, 0x0A]),
        source_port: SOURCE_PORT,
        length,
        traffic_class,
        v6: true,
    }
}

#[test]
fn deconstruct() {
    let key = ServiceKey::v6(VIP, 6, [0x00, 0x50]);
    assert_eq!(read(tcp().as_slice()), Ok((key, flow(66, 0))));
    let key = ServiceKey::v6(VIP, 17, [0x00, 0x35]);
    assert_eq!(read(udp().as_slice()), Ok((key, flow(48, 0xB9))));
}

/// Each byte of the addresses has its own place in key and flow.
#[test]
fn every_byte_of_the_addresses() {
    for i in 0..16 {
        let frame = with(&tcp(), 14 + 24 + i, &[0x5A]);
        let mut vip = VIP;
        vip[i] = 0x5A;
        let key = ServiceKey::v6(vip, 6, [0x00, 0x50]);
        assert_eq!(read(frame.as_slice()), Ok((key, flow(66, 0))), "destination's byte {i}");

        let frame = with(&tcp(), 14 + 8 + i, &[0x5A]);
        let mut source = [0; 16];
        source.copy_from_slice(&frame[22..38]);
        let [high, low] = bytemuck::cast(source);
        let (_, flow) = read(frame.as_slice()).expect("good");
        assert_eq!((flow.source_high, flow.source_low), (high, low), "source's byte {i}");
    }
}

#[test]
fn every_truncation() {
    for frame in [tcp(), udp()] {
        for length in 0..frame.len() {
            refused(&frame[..length], Reason::Truncated, "a prefix");
        }
        every_split(&frame, 14 + 40 + 4);
    }
}

#[test]
fn every_first_byte() {
    for first in 0..=u8::MAX {
        let read = read(with(&tcp(), 14, &[first]).as_slice()).map(|(_, flow)| flow.traffic_class);
        let expected = if first >> 4 == 6 {
            Ok(first << 4)
        } else {
            Err(Reason::BadIpHeader)
        };
        assert_eq!(read, expected, "{first:#04x}");
    }
}

#[test]
fn every_traffic_class() {
    for class in 0..=u8::MAX {
        // The flow label's bits are all set: none of them may get into the class.
        let start = [0x60 | class >> 4, class << 4 | 0x0F, 0xFF, 0xFF];
        let read = read(with(&tcp(), 14, &start).as_slice());
        assert_eq!(read.map(|(_, flow)| flow), Ok(flow(66, class)));
    }
}

#[test]
fn impossible_lengths() {
    for (frame, transport) in [(tcp(), 20), (udp(), 8)] {
        let with_length = |length: usize| with(&frame, LENGTH, &(length as u16).to_be_bytes());
        let most = frame.len() - 54;
        // A payload length of 0 is a jumbogram's (RFC 2675), which needs a hop-by-hop header that is not here.
        for length in 0..transport {
            refused(
                &with_length(length),
                Reason::Truncated,
                "shorter than its transport header",
            );
        }
        for length in transport..=most {
            let read = read(with_length(length).as_slice()).map(|(_, flow)| flow.length as usize);
            assert_eq!(read, Ok(length + 40));
        }
        for length in [most + 1, most + 2, 1460, 0x7FFF, 0x8000, 0xFFFF] {
            refused(&with_length(length), Reason::Truncated, "longer than the frame");
        }
    }
}

#[test]
fn the_longest() {
    let mut frame = with(&udp(), LENGTH, &[0xFF, 0xFF]);
    frame.resize(14 + 40 + 65_535, 0);
    assert_eq!(read(frame.as_slice()).map(|(_, flow)| flow.length), Ok(65_575));
    frame.pop();
    refused(&frame, Reason::Truncated, "one byte less");
}

/// The extension headers are those that IANA lists; "encapsulating security payload" (50) is encrypted and none to us.
#[test]
fn every_next_header() {
    for number in 0..=u8::MAX {
        let read = read(with(&tcp(), NEXT_HEADER, &[number]).as_slice()).map(|(key, _)| key);
        let expected = match number {
            6 | 17 => Ok(ServiceKey::v6(VIP, number, [0x00, 0x50])),
            44 => Err(Reason::Fragment),
            0 | 43 | 51 | 60 | 135 | 139 | 140 => Err(Reason::Ipv6Extension),
            _ => Err(Reason::NotTcpOrUdp),
        };
        assert_eq!(read, expected, "{number}");
    }
}

#[test]
fn padding_is_not_the_packet() {
    let frame = [&udp()[..], &[0xEE; 30]].concat();
    assert_eq!(read(frame.as_slice()).map(|(_, flow)| flow.length), Ok(48));
}

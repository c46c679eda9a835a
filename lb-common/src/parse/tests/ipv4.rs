//! IPv4 (RFC 791).

use super::*;

/// 198.51.100.1 to 192.0.2.10, TCP, 46 bytes, "don't fragment".
pub(super) const HEADER_TCP: &[u8] = &[
    0x45, 0x00, 0x00, 0x2E, 0x00, 0x07, 0x40, 0x00, 0x40, 0x06, 0x4E, 0x84, 198, 51, 100, 1, 192, 0, 2, 10,
];
/// The same with UDP, 28 bytes, type of service 0xBA (expedited forwarding, ECT(0)).
const HEADER_UDP: &[u8] = &[
    0x45, 0xBA, 0x00, 0x1C, 0x00, 0x07, 0x40, 0x00, 0x40, 0x11, 0x4D, 0xD1, 198, 51, 100, 1, 192, 0, 2, 10,
];
const LENGTH: usize = 14 + 2;
const FRAGMENT: usize = 14 + 6;
const PROTOCOL: usize = 14 + 9;

fn tcp() -> Vec<u8> {
    [ETH_V4, HEADER_TCP, TCP, b"GET / "].concat()
}

fn udp() -> Vec<u8> {
    [ETH_V4, HEADER_UDP, UDP].concat()
}

fn flow(length: u32, traffic_class: u8) -> Flow {
    Flow {
        source_high: 0,
        source_low: u32::from_ne_bytes([198, 51, 100, 1]).into(),
        source_port: SOURCE_PORT,
        length,
        traffic_class,
        v6: false,
    }
}

#[test]
fn deconstruct() {
    let key = ServiceKey::v4([192, 0, 2, 10], 6, [0x00, 0x50]);
    assert_eq!(read(tcp().as_slice()), Ok((key, flow(46, 0))));
    let key = ServiceKey::v4([192, 0, 2, 10], 17, [0x00, 0x35]);
    assert_eq!(read(udp().as_slice()), Ok((key, flow(28, 0xBA))));
}

#[test]
fn every_truncation() {
    for frame in [tcp(), udp()] {
        for length in 0..frame.len() {
            refused(&frame[..length], Reason::Truncated, "a prefix");
        }
        every_split(&frame, 14 + 20 + 4);
    }
}

/// The first byte is version and header length: 4 and 5 to 15 words, nothing else.
#[test]
fn every_first_byte() {
    for first in 0..=u8::MAX {
        let mut frame = with(&tcp(), 14, &[first]);
        frame.resize(200, 0);
        let frame = with(&frame, LENGTH, &[0, 120]);
        let read = read(frame.as_slice()).map(|(_, flow)| flow.length);
        let good = (0x45..=0x4F).contains(&first);
        let expected = if good { Ok(120) } else { Err(Reason::BadIpHeader) };
        assert_eq!(read, expected, "{first:#04x}");
    }
}

#[test]
fn options_move_the_ports() {
    for words in 0..=10_usize {
        let options = [0x01].repeat(words * 4);
        let frame = [ETH_V4, HEADER_TCP, &options, TCP, b"GET / "].concat();
        let frame = with(&frame, 14, &[0x45 + words as u8]);
        let total = 46 + words * 4;
        let frame = with(&frame, LENGTH, &[0, total as u8]);
        let key = ServiceKey::v4([192, 0, 2, 10], 6, [0x00, 0x50]);
        assert_eq!(
            read(frame.as_slice()),
            Ok((key, flow(total as u32, 0))),
            "{words} words"
        );
        every_split(&frame, 14 + 20 + words * 4 + 4);
        // The header says that it is longer than the packet.
        let frame = with(&frame, LENGTH, &[0, (19 + words * 4) as u8]);
        refused(&frame, Reason::BadIpHeader, "total length within the header");
    }
}

#[test]
fn impossible_lengths() {
    for (frame, transport) in [(tcp(), 20), (udp(), 8)] {
        let with_length = |length: usize| with(&frame, LENGTH, &(length as u16).to_be_bytes());
        let most = frame.len() - 14;
        for length in 0..20 {
            refused(&with_length(length), Reason::BadIpHeader, "shorter than its header");
        }
        for length in 20..20 + transport {
            refused(
                &with_length(length),
                Reason::Truncated,
                "shorter than its transport header",
            );
        }
        for length in 20 + transport..=most {
            let read = read(with_length(length).as_slice()).map(|(_, flow)| flow.length as usize);
            assert_eq!(read, Ok(length));
        }
        for length in [most + 1, most + 2, 1500, 0x7FFF, 0x8000, 0xFFFF] {
            refused(&with_length(length), Reason::Truncated, "longer than the frame");
        }
    }
}

#[test]
fn padding_is_not_the_packet() {
    let frame = [&udp()[..], &[0xEE; 18]].concat();
    assert_eq!(frame.len(), 60);
    assert_eq!(read(frame.as_slice()).map(|(_, flow)| flow.length), Ok(28));
}

#[test]
fn the_longest() {
    let mut frame = with(&udp(), LENGTH, &[0xFF, 0xFF]);
    frame.resize(14 + 65_535, 0);
    assert_eq!(read(frame.as_slice()).map(|(_, flow)| flow.length), Ok(65_535));
    frame.pop();
    refused(&frame, Reason::Truncated, "one byte less");
}

/// "Don't fragment" and the reserved bit are no fragment; "more fragments" and any offset are.
#[test]
fn every_fragment_bit() {
    for bit in 0..16 {
        let field = 1_u16 << bit;
        let frame = with(&tcp(), FRAGMENT, &field.to_be_bytes());
        let read = read(frame.as_slice()).map(|(_, flow)| flow.length);
        let expected = if bit >= 14 { Ok(46) } else { Err(Reason::Fragment) };
        assert_eq!(read, expected, "{field:#06x}");
    }
    refused(&with(&tcp(), FRAGMENT, &[0x60, 0x00]), Reason::Fragment, "both flags");
    refused(
        &with(&tcp(), FRAGMENT, &[0x00, 0xB9]),
        Reason::Fragment,
        "a last fragment",
    );
}

#[test]
fn every_protocol() {
    for protocol in 0..=u8::MAX {
        let frame = with(&tcp(), PROTOCOL, &[protocol]);
        let read = read(frame.as_slice()).map(|(key, _)| key);
        let expected = match protocol {
            6 | 17 => Ok(ServiceKey::v4([192, 0, 2, 10], protocol, [0x00, 0x50])),
            _ => Err(Reason::NotTcpOrUdp),
        };
        assert_eq!(read, expected, "{protocol}");
    }
}

/// Neither checksums nor time to live are the balancer's business: the backend's stack looks at them.
#[test]
fn what_is_not_looked_at() {
    let expected = read(tcp().as_slice());
    let changes: [(usize, &[u8]); 5] = [
        (0, &[0xFF; 12]),
        (18, &[0xFF; 2]),
        (22, &[0]),
        (24, &[0, 0]),
        (38, &[0xFF; 16]),
    ];
    for (at, bytes) in changes {
        assert_eq!(read(with(&tcp(), at, bytes).as_slice()), expected, "byte {at}");
    }
}

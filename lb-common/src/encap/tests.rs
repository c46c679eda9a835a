//! Outer headers against bytes and checksums worked out by hand, and against a checksum computed the slow way.

use super::*;

const TO: Mac = [2, 0, 0, 0, 0, 1];
const FROM: Mac = [2, 0, 0, 0, 0, 2];
/// 198.51.100.1 and 10.0.0.11.
const TUNNEL_V4: ([u8; 4], [u8; 4]) = ([198, 51, 100, 1], [10, 0, 0, 11]);
/// 2001:db8::1 and 2001:db8:b::2.
const TUNNEL_V6: ([u8; 16], [u8; 16]) = (
    [0x20, 0x01, 0x0D, 0xB8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
    [0x20, 0x01, 0x0D, 0xB8, 0, 0x0B, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2],
);

fn v4(rewrite: &Rewrite, length: u32, class: u8) -> Vec<u8> {
    let (words, tail) = ipv4_header(rewrite, length, class);
    let words = words.iter().flat_map(|word| word.to_ne_bytes());
    words.chain(tail.to_ne_bytes()).collect()
}

fn v6(rewrite: &Rewrite, length: u32, class: u8, hash: u64) -> Vec<u8> {
    let (words, middle, tail) = ipv6_header(rewrite, length, class, hash);
    let words = words.iter().flat_map(|word| word.to_ne_bytes());
    words.chain(middle.to_ne_bytes()).chain(tail.to_ne_bytes()).collect()
}

/// RFC 1071, the slow and obvious way; over a header with its right checksum it is 0.
fn checksum(header: &[u8]) -> u16 {
    let mut sum: u32 = header
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]))
        .sum();
    while sum > 0xFFFF {
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    !(sum as u16)
}

#[test]
fn an_l2_template() {
    let rewrite = l2(TO, FROM);
    let bytes: [u8; 72] = bytemuck::cast(rewrite.header);
    assert_eq!(bytes[..12], [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2]);
    assert_eq!(bytes[12..], [0; 60]);
    assert_eq!(
        (rewrite.mode, rewrite.ifindex, rewrite.checksum, rewrite.reserved),
        (1, 0, 0, 0)
    );
}

/// 4500 + 0042 + 4000 + 4004 + c633 + 6401 + 0a00 + 000b = 1f985, folded f986, complement 0679.
#[test]
fn an_ipv4_header_by_hand() {
    let rewrite = ipip_v4(TO, FROM, TUNNEL_V4.0, TUNNEL_V4.1, FAMILY_V4);
    assert_eq!(rewrite.mode, 2);
    let expected = [
        0x02, 0, 0, 0, 0, 0x01, 0x02, 0, 0, 0, 0, 0x02, 0x08, 0x00, // Ethernet
        0x45, 0x00, 0x00, 0x42, 0x00, 0x00, 0x40, 0x00, 0x40, 0x04, 0x06, 0x79, // 66 bytes, atomic, IPv4 in it
        198, 51, 100, 1, 10, 0, 0, 11,
    ];
    assert_eq!(v4(&rewrite, 46, 0), expected);
}

/// 45ba + 05dc + 4000 + 4029 + c633 + 6401 + 0a00 + 000b = 1fffe, folded ffff, complement 0.
#[test]
fn an_ipv4_header_whose_checksum_is_zero() {
    let rewrite = ipip_v4(TO, FROM, TUNNEL_V4.0, TUNNEL_V4.1, FAMILY_V6);
    let header = v4(&rewrite, 1480, 0xBA);
    assert_eq!(
        header[14..18],
        [0x45, 0xBA, 0x05, 0xDC],
        "1,500 bytes with type of service"
    );
    assert_eq!(header[23], 41, "IPv6 in it");
    assert_eq!(header[24..26], [0, 0]);
}

/// Every length that fits, and every type of service: nothing overflows, and the checksum is right.
#[test]
fn every_ipv4_length_and_class() {
    let widest = ipip_v4([0xFF; 6], [0xFF; 6], [0xFF; 4], [0xFF; 4], FAMILY_V6);
    let narrow = ipip_v4([0; 6], [0; 6], [0; 4], [0; 4], FAMILY_V4);
    let usual = ipip_v4(TO, FROM, TUNNEL_V4.0, TUNNEL_V4.1, FAMILY_V4);
    for rewrite in [usual, widest, narrow] {
        let check = |length: u32, class: u8| {
            let header = v4(&rewrite, length, class);
            assert_eq!(checksum(&header[14..]), 0, "{length} bytes, class {class:#04x}");
            assert_eq!(header[15], class);
            assert_eq!(header[16..18], (length as u16 + 20).to_be_bytes());
            let template: [u8; 72] = bytemuck::cast(rewrite.header);
            for at in (0..34).filter(|at| ![15, 16, 17, 24, 25].contains(at)) {
                assert_eq!(header[at], template[at], "byte {at}");
            }
        };
        (28..=LONGEST_IN_IPV4).for_each(|length| check(length, length as u8));
        (0..=u8::MAX).for_each(|class| check(1480, class));
    }
    assert_eq!(LONGEST_IN_IPV4, 65_515);
}

/// Addresses for which the sum before folding passes each multiple of 65,536: the carries of one fold are enough.
#[test]
fn every_carry() {
    for low in 0..=u16::MAX {
        let [a, b] = low.to_be_bytes();
        for high in [0x00, 0x7F, 0xFF] {
            let rewrite = ipip_v4(TO, FROM, [high, high, high, high], [high, high, a, b], FAMILY_V4);
            assert_eq!(checksum(&v4(&rewrite, 46, 3)[14..]), 0, "{low:#06x}, {high:#04x}");
        }
    }
}

#[test]
fn an_ipv6_header_by_hand() {
    for (inner, next) in [(FAMILY_V4, 4), (FAMILY_V6, 41)] {
        let rewrite = ipip_v6(TO, FROM, TUNNEL_V6.0, TUNNEL_V6.1, inner);
        assert_eq!((rewrite.mode, rewrite.checksum), (3, 0));
        #[rustfmt::skip]
        let expected = [
            0x02, 0, 0, 0, 0, 0x01, 0x02, 0, 0, 0, 0, 0x02, 0x86, 0xDD, // Ethernet
            0x6B, 0xA5, 0x67, 0x89, 0x05, 0xDB, next, 0x40, // class 0xBA, label 0x56789, 1,499 bytes
            0x20, 0x01, 0x0D, 0xB8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x01,
            0x20, 0x01, 0x0D, 0xB8, 0, 0x0B, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x02,
        ];
        assert_eq!(v6(&rewrite, 1499, 0xBA, 0x5678_9FED_CBA9_8765), expected);
    }
}

/// Length, class and label meet in neighbouring bits, and none touches the other.
#[test]
fn ipv6_fields_do_not_mix() {
    let rewrite = ipip_v6(TO, FROM, [0xFF; 16], [0xFF; 16], FAMILY_V6);
    let template: [u8; 72] = bytemuck::cast(rewrite.header);
    for length in [48, 49, 255, 256, 1500, LONGEST_IN_IPV6] {
        for class in [0, 1, 3, 0x0F, 0xF0, 0xB8, 0xFF] {
            for hash in [0, 1, 1 << 43, 1 << 44, 1 << 63, u64::MAX, 0xFFF_FFFF_FFFF] {
                let header = v6(&rewrite, length, class, hash);
                assert_eq!(header.len(), 54);
                let first = u32::from_be_bytes([header[14], header[15], header[16], header[17]]);
                assert_eq!(first, 6 << 28 | u32::from(class) << 20 | (hash >> 44) as u32);
                assert_eq!(header[18..20], (length as u16).to_be_bytes());
                assert_eq!(header[..14], template[..14]);
                assert_eq!(header[20..], template[20..54]);
            }
        }
    }
    assert_eq!(LONGEST_IN_IPV6, 65_535);
}

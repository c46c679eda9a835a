//! Frames written by hand, and what is decided about each.

use super::*;

const MACS: &str = "02 00 00 00 00 02  02 00 00 00 00 01";
const OWN_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
/// IPv4 from 10.0.0.1 to 10.0.0.2, carrying IPv4; 20 + 29 bytes; no ECN.
const OUTER_V4: &str = "45 00 00 31  00 00 40 00  40 04 26 c7  0a 00 00 01  0a 00 00 02";
/// UDP from 198.51.100.7 to 192.0.2.10, 20 + 8 + 1 bytes, ECT(0).
const INNER_V4: &str = "45 02 00 1d  12 34 40 00  3f 11 3d 55  c6 33 64 07  c0 00 02 0a  04 d2 00 35  00 09 00 00  78";
/// IPv6 from 2001:db8::1 to 2001:db8::2, carrying IPv6; 40 + 49 bytes; no ECN.
const OUTER_V6: &str = "60 00 00 00  00 31 29 40  20 01 0d b8 00 00 00 00 00 00 00 00 00 00 00 01 \
                        20 01 0d b8 00 00 00 00 00 00 00 00 00 00 00 02";
/// UDP from 2001:db8:f::7 to 2001:db8:1::a, 40 + 8 + 1 bytes, ECT(0), flow label 0x12345.
const INNER_V6: &str = "60 21 23 45  00 09 11 3f  20 01 0d b8 00 0f 00 00 00 00 00 00 00 00 00 07 \
                        20 01 0d b8 00 01 00 00 00 00 00 00 00 00 00 0a  04 d2 00 35  00 09 00 00  78";

fn bytes(hex: &str) -> Vec<u8> {
    hex.split_whitespace()
        .map(|byte| u8::from_str_radix(byte, 16).unwrap())
        .collect()
}

fn frame(ethertype: &str, outer: &str, inner: &str) -> Vec<u8> {
    [MACS, ethertype, outer, inner]
        .iter()
        .flat_map(|part| bytes(part))
        .collect()
}

fn v4_in_v4() -> Vec<u8> {
    frame("08 00", OUTER_V4, INNER_V4)
}

fn v6_in_v6() -> Vec<u8> {
    frame("86 dd", OUTER_V6, INNER_V6)
}

/// A frame with some bytes replaced: `(offset, byte)`.
fn with(mut frame: Vec<u8>, changes: &[(usize, u8)]) -> Vec<u8> {
    for &(at, byte) in changes {
        frame[at] = byte;
    }
    frame
}

fn decided(frame: &[u8]) -> Result<Unwrap, DecapReason> {
    let is_local = ["10.0.0.2", "2001:db8::2"];
    let is_vip = ["192.0.2.10", "2001:db8:1::a"];
    let one_of = |list: [&'static str; 2]| {
        move |key: &AddressKey| {
            list.iter()
                .any(|text| AddressKey::from(text.parse::<IpAddr>().unwrap()) == *key)
        }
    };
    let is_edge = ["10.0.0.1", "2001:db8::1"];
    // As every frame here begins.
    let is_own = |head: u64| head.to_le_bytes().starts_with(&OWN_MAC);
    decide(frame, is_own, one_of(is_local), one_of(is_vip), one_of(is_edge))
}

fn unwrap_of(outer_len: usize, ethertype: [u8; 2], remark: Remark) -> Result<Unwrap, DecapReason> {
    Ok(Unwrap {
        outer_len,
        ethertype: u16::from_ne_bytes(ethertype),
        remark,
    })
}

const IPV4: [u8; 2] = [0x08, 0x00];
const IPV6: [u8; 2] = [0x86, 0xDD];

#[test]
fn all_four_pairs() {
    assert_eq!(decided(&v4_in_v4()), unwrap_of(20, IPV4, Remark::None));
    assert_eq!(decided(&v6_in_v6()), unwrap_of(40, IPV6, Remark::None));
    // The outer lengths and protocols of the mixed pairs: 20 + 49 and 29 bytes.
    let v6_in_v4 = with(frame("08 00", OUTER_V4, INNER_V6), &[(17, 0x45), (23, 41)]);
    assert_eq!(decided(&v6_in_v4), unwrap_of(20, IPV6, Remark::None));
    let v4_in_v6 = with(frame("86 dd", OUTER_V6, INNER_V4), &[(19, 29), (20, 4)]);
    assert_eq!(decided(&v4_in_v6), unwrap_of(40, IPV4, Remark::None));
}

#[test]
fn the_encapsulation_limit_that_linux_adds_is_stepped_over() {
    let outer = |options: &str| with(bytes(&format!("{OUTER_V6} {options}")), &[(5, 57), (6, 60)]);
    let check = |options: &str, expected| {
        let frame = [bytes(MACS), vec![0x86, 0xDD], outer(options), bytes(INNER_V6)].concat();
        assert_eq!(decided(&frame), expected, "{options}");
    };
    check("29 00 04 01 04 01 01 00", unwrap_of(48, IPV6, Remark::None));
    check("29 00 04 01 00 01 01 00", unwrap_of(48, IPV6, Remark::None));
    check("29 01 04 01 04 01 01 00", Err(DecapReason::OuterOptions));
    check("29 00 c2 01 04 01 01 00", Err(DecapReason::OuterOptions));
    check("29 00 04 01 04 1e 01 00", Err(DecapReason::OuterOptions));
    check("06 00 04 01 04 01 01 00", Err(DecapReason::NotATunnel));
    let short = [bytes(MACS), vec![0x86, 0xDD], outer("29 00 04 01 04 01 01 00")].concat();
    assert_eq!(decided(&with(short, &[(19, 7)])), Err(DecapReason::BadOuterHeader));
}

#[test]
fn ethernet_padding_is_harmless() {
    let mut frame = v4_in_v4();
    frame.resize(200, 0xEE);
    assert_eq!(decided(&frame), unwrap_of(20, IPV4, Remark::None));
}

#[test]
fn an_inner_packet_shorter_than_the_outer_one_says_is_unwrapped() {
    let frame = with([v4_in_v4(), vec![0; 3]].concat(), &[(17, 0x34)]);
    assert_eq!(decided(&frame), unwrap_of(20, IPV4, Remark::None));
}

#[test]
fn every_prefix_of_a_frame_is_truncated() {
    for frame in [v4_in_v4(), v6_in_v6()] {
        for length in 0..frame.len() {
            assert_eq!(decided(&frame[..length]), Err(DecapReason::Truncated), "{length} bytes");
        }
    }
}

#[test]
fn the_rest_is_named() {
    let check =
        |what: &str, frame: Vec<u8>, expected: DecapReason| assert_eq!(decided(&frame), Err(expected), "{what}");
    let v4 = |changes: &[(usize, u8)]| with(v4_in_v4(), changes);
    let v6 = |changes: &[(usize, u8)]| with(v6_in_v6(), changes);
    check("ARP", v4(&[(13, 6)]), DecapReason::NotIp);
    check("802.1Q", v4(&[(12, 0x81)]), DecapReason::Vlan);
    check("TCP", v4(&[(23, 6)]), DecapReason::NotATunnel);
    check("TCP", v6(&[(20, 6)]), DecapReason::NotATunnel);
    check("ICMPv6", v6(&[(20, 58)]), DecapReason::NotATunnel);
    check("version 5", v4(&[(14, 0x55)]), DecapReason::BadOuterHeader);
    check(
        "version 4 in an IPv6 frame",
        v6(&[(14, 0x45)]),
        DecapReason::BadOuterHeader,
    );
    check("16-byte header", v4(&[(14, 0x44)]), DecapReason::BadOuterHeader);
    check("total length 19", v4(&[(17, 19)]), DecapReason::BadOuterHeader);
    check("options", v4(&[(14, 0x46)]), DecapReason::OuterOptions);
    check("a stranger", v4(&[(26, 11)]), DecapReason::SourceNotAllowed);
    check("a stranger", v6(&[(37, 9)]), DecapReason::SourceNotAllowed);
    // What a stranger sends for other tunnels of this host is theirs.
    check("a stranger's, no VIP", v4(&[(26, 11), (53, 11)]), DecapReason::NotAVip);
    check("more fragments", v4(&[(20, 0x20)]), DecapReason::OuterFragment);
    check("fragment offset", v4(&[(21, 0x01)]), DecapReason::OuterFragment);
    check("fragment header", v6(&[(20, 44)]), DecapReason::OuterFragment);
    check(
        "total length beyond the frame",
        v4(&[(17, 0x32)]),
        DecapReason::Truncated,
    );
    check("payload beyond the frame", v6(&[(19, 0x32)]), DecapReason::Truncated);
    check("another host", v4(&[(33, 3)]), DecapReason::NotLocal);
    for (at, byte) in [(0, 3), (0, 0), (3, 1), (5, 3)] {
        check("another host's frame", v4(&[(at, byte)]), DecapReason::OtherHost);
        check("another host's frame", v6(&[(at, byte)]), DecapReason::OtherHost);
    }
    // The source address does not matter.
    check(
        "no VIP",
        v4(&[(6, 9), (11, 9), (14 + 20 + 19, 11)]),
        DecapReason::NotAVip,
    );
    check("another host", v6(&[(53, 3)]), DecapReason::NotLocal);
    check(
        "inner header cut off",
        v4_in_v4()[..53].to_vec(),
        DecapReason::Truncated,
    );
    check(
        "inner header cut off, and said so",
        with(v4_in_v4()[..53].to_vec(), &[(17, 39)]),
        DecapReason::InnerTruncated,
    );
    check(
        "inner header cut off, and said so",
        with(v6_in_v6()[..93].to_vec(), &[(19, 39)]),
        DecapReason::InnerTruncated,
    );
    check(
        "nothing inside",
        with(v4_in_v4()[..34].to_vec(), &[(17, 20)]),
        DecapReason::InnerTruncated,
    );
    check(
        "inner version 6 under protocol 4",
        v4(&[(34, 0x65)]),
        DecapReason::BadInnerHeader,
    );
    check(
        "inner version 4 under protocol 41",
        v6(&[(54, 0x45)]),
        DecapReason::BadInnerHeader,
    );
    check("inner 16-byte header", v4(&[(34, 0x44)]), DecapReason::BadInnerHeader);
    check("inner total length 19", v4(&[(37, 19)]), DecapReason::BadInnerHeader);
    check("another inner address", v4(&[(53, 11)]), DecapReason::NotAVip);
    check("another inner address", v6(&[(93, 11)]), DecapReason::NotAVip);
    check("inner packet too long", v4(&[(37, 30)]), DecapReason::InnerTooLong);
    check("inner packet too long", v6(&[(59, 10)]), DecapReason::InnerTooLong);
    check(
        "padding does not count as inner packet",
        with([v4_in_v4(), vec![0; 20]].concat(), &[(37, 30)]),
        DecapReason::InnerTooLong,
    );
}

#[test]
fn a_cut_off_inner_header_is_not_read_from_the_padding() {
    // The outer header says 10 bytes; a whole inner packet stands in what is padding then.
    assert_eq!(decided(&with(v4_in_v4(), &[(17, 30)])), Err(DecapReason::InnerTooLong),);
}

#[test]
fn congestion_marks_as_rfc_6040_says() {
    // Rows: inner Not-ECT, ECT(0), ECT(1), CE. Columns: outer Not-ECT, ECT(0), ECT(1), CE. Figure 4 of the RFC.
    let (not, ect0, ect1, ce) = (0, 2, 1, 3);
    let outers = [not, ect0, ect1, ce];
    let table = [
        (not, [Some(not), Some(not), Some(not), None]),
        (ect0, [Some(ect0), Some(ect0), Some(ect1), Some(ce)]),
        (ect1, [Some(ect1), Some(ect1), Some(ect1), Some(ce)]),
        (ce, [Some(ce), Some(ce), Some(ce), Some(ce)]),
    ];
    for (inner, row) in table {
        for (outer, expected) in outers.into_iter().zip(row) {
            let what = format!("inner {inner:02b}, outer {outer:02b}");
            // DSCP 46 outside is not carried over.
            let v4 = with(v4_in_v4(), &[(15, 46 << 2 | outer), (35, 0x28 | inner)]);
            let v6 = with(
                v6_in_v6(),
                &[(14, 0x6B), (15, 0x80 | outer << 4), (55, 0x81 | inner << 4)],
            );
            match expected {
                None => {
                    assert_eq!(decided(&v4), Err(DecapReason::CongestionLost), "{what}");
                    assert_eq!(decided(&v6), Err(DecapReason::CongestionLost), "{what}");
                }
                Some(same) if same == inner => {
                    assert_eq!(decided(&v4), unwrap_of(20, IPV4, Remark::None), "{what}");
                    assert_eq!(decided(&v6), unwrap_of(40, IPV6, Remark::None), "{what}");
                }
                Some(ecn) => {
                    match decided(&v4).unwrap().remark {
                        Remark::V4 { start, .. } => assert_eq!(start.to_ne_bytes(), [0x45, 0x28 | ecn], "{what}"),
                        other => panic!("{what}: {other:?}"),
                    }
                    let start = u16::from_ne_bytes([0x60, 0x81 | ecn << 4]);
                    assert_eq!(decided(&v6), unwrap_of(40, IPV6, Remark::V6 { start }), "{what}");
                }
            }
        }
    }
}

#[test]
fn the_checksum_follows_the_mark() {
    // 0x3d55 with type of service 2; one more (ECT(0) → CE) is one less in the checksum.
    let marked = with(v4_in_v4(), &[(15, 3)]);
    let expected = Remark::V4 {
        start: u16::from_ne_bytes([0x45, 0x03]),
        checksum: u16::from_ne_bytes([0x3d, 0x54]),
    };
    assert_eq!(decided(&marked), unwrap_of(20, IPV4, expected));
    // Whatever the checksum is, a header that summed up before sums up after.
    for identification in 0..=u16::MAX {
        let mut header = bytes(INNER_V4);
        header.truncate(20);
        header[4..6].copy_from_slice(&identification.to_be_bytes());
        header[10..12].fill(0);
        let checksum = !sum(&header);
        header[10..12].copy_from_slice(&checksum.to_be_bytes());
        let halfword = |at: usize| u16::from_ne_bytes([header[at], header[at + 1]]);
        let (start, check) = (halfword(0), halfword(10));
        let start_after = u16::from_ne_bytes([0x45, 0x03]);
        let updated = updated_checksum(check, start, start_after);
        header[1] = 3;
        header[10..12].copy_from_slice(&updated.to_ne_bytes());
        assert_eq!(sum(&header), 0xFFFF, "identification {identification}");
    }
}

/// The one's complement sum of the halfwords as RFC 1071 defines it, folded.
fn sum(header: &[u8]) -> u16 {
    let mut sum: u32 = header
        .chunks_exact(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    while sum > 0xFFFF {
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    sum as u16
}

#[test]
fn the_hand_written_inner_header_has_a_right_checksum() {
    assert_eq!(sum(&bytes(INNER_V4)[..20]), 0xFFFF);
    assert_eq!(sum(&bytes(OUTER_V4)), 0xFFFF);
}

#[test]
fn an_allowed_source_is_a_key_that_begins_with_its_family() {
    let key = |text: &str| SourceKey::from(&AddressKey::from(text.parse::<IpAddr>().unwrap()));
    let bytes = |text: &str| bytemuck::cast::<SourceKey, [u8; 20]>(key(text));
    assert_eq!(
        bytes("10.1.2.3")[4..],
        [10, 1, 2, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
    );
    assert_eq!(
        bytes("2001:db8::7")[4..],
        [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7]
    );
    assert_ne!(bytes("10.1.2.3")[..4], bytes("::")[..4]);
}

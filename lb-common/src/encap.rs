//! Outer headers: the template that a backend's row holds, and the fields that each packet adds to it.
//!
//! A template is complete but for what differs from packet to packet: lengths, traffic class, flow label, checksum. Those are
//! zero in it, so a packet's header is the template's words with the packet's fields or-ed in.

use crate::map::{FAMILY_V4, FAMILY_V6, HEADER_WORDS, Mode, Rewrite};

/// A MAC address, as on the wire.
pub type Mac = [u8; 6];

/// Length of an Ethernet header.
pub const ETH_LEN: usize = 14;
/// Bytes that encapsulation in IPv4 adds.
pub const IPV4_LEN: usize = 20;
/// Bytes that encapsulation in IPv6 adds.
pub const IPV6_LEN: usize = 40;
/// Outer hop limit: the recommended default for IPv4's time to live and IPv6's hop limit.
pub const OUTER_TTL: u8 = 64;

const PROTO_IPV4_IN_IP: u8 = 4;
const PROTO_IPV6_IN_IP: u8 = 41;

/// Replaces the Ethernet addresses and leaves the rest alone.
pub fn l2(destination: Mac, source: Mac) -> Rewrite {
    let mut bytes = [0; HEADER_WORDS * 8];
    bytes[..6].copy_from_slice(&destination);
    bytes[6..12].copy_from_slice(&source);
    template(Mode::L2, bytes, 0)
}

/// Encapsulates in IPv4; `inner` is [`FAMILY_V4`] or [`FAMILY_V6`].
///
/// The outer packet is atomic (RFC 6864): "don't fragment" is set and its identification is 0.
pub fn ipip_v4(destination: Mac, source: Mac, outer_source: [u8; 4], outer_destination: [u8; 4], inner: u8) -> Rewrite {
    let mut bytes = [0; HEADER_WORDS * 8];
    bytes[..6].copy_from_slice(&destination);
    bytes[6..12].copy_from_slice(&source);
    bytes[12..14].copy_from_slice(&[0x08, 0x00]);
    bytes[14] = 0x45;
    bytes[20] = 0x40;
    bytes[22] = OUTER_TTL;
    bytes[23] = protocol_of(inner);
    bytes[26..30].copy_from_slice(&outer_source);
    bytes[30..34].copy_from_slice(&outer_destination);
    let mut checksum: u32 = bytes[ETH_LEN..ETH_LEN + IPV4_LEN]
        .chunks_exact(2)
        .map(|pair| u32::from(u16::from_ne_bytes([pair[0], pair[1]])))
        .sum();
    while checksum > 0xFFFF {
        checksum = (checksum & 0xFFFF) + (checksum >> 16);
    }
    template(Mode::IpipV4, bytes, checksum)
}

/// Encapsulates in IPv6; `inner` is [`FAMILY_V4`] or [`FAMILY_V6`].
pub fn ipip_v6(
    destination: Mac,
    source: Mac,
    outer_source: [u8; 16],
    outer_destination: [u8; 16],
    inner: u8,
) -> Rewrite {
    let mut bytes = [0; HEADER_WORDS * 8];
    bytes[..6].copy_from_slice(&destination);
    bytes[6..12].copy_from_slice(&source);
    bytes[12..14].copy_from_slice(&[0x86, 0xDD]);
    bytes[14] = 0x60;
    bytes[20] = protocol_of(inner);
    bytes[21] = OUTER_TTL;
    bytes[22..38].copy_from_slice(&outer_source);
    bytes[38..54].copy_from_slice(&outer_destination);
    template(Mode::IpipV6, bytes, 0)
}

fn template(mode: Mode, bytes: [u8; HEADER_WORDS * 8], checksum: u32) -> Rewrite {
    Rewrite {
        mode: mode as u32,
        checksum,
        header: bytemuck::cast(bytes),
        ..Rewrite::default()
    }
}

fn protocol_of(inner: u8) -> u8 {
    match inner {
        FAMILY_V4 => PROTO_IPV4_IN_IP,
        FAMILY_V6 => PROTO_IPV6_IN_IP,
        other => unreachable!("address family {other}"),
    }
}

/// The longest packet, its header included, that fits into IPv4: its total length has 16 bits (RFC 791).
pub const LONGEST_IN_IPV4: u32 = 0xFFFF - IPV4_LEN as u32;
/// The longest packet, its header included, that fits into IPv6: the payload length has 16 bits (RFC 8200).
pub const LONGEST_IN_IPV6: u32 = 0xFFFF;

/// Ethernet and outer IPv4 header of one packet: 34 bytes, as four words and the last two bytes.
///
/// `length` is the inner packet's, in bytes: at most [`LONGEST_IN_IPV4`].
#[inline(always)]
pub fn ipv4_header(rewrite: &Rewrite, length: u32, traffic_class: u8) -> ([u64; 4], u16) {
    let total = ((length + IPV4_LEN as u32) as u16).to_be();
    let class = u16::from_ne_bytes([0, traffic_class]);
    // Three numbers of 16 bits: what is carried out of the first fold is 1 at most. In 64 bits, for the target's sake.
    let mut sum = u64::from(rewrite.checksum) + u64::from(total) + u64::from(class);
    sum = (sum & 0xFFFF) + (sum >> 16);
    sum += sum >> 16;
    let checksum = !sum as u16;
    let header = &rewrite.header;
    let words = [
        header[0],
        header[1] | at(14, class),
        header[2] | at(16, total),
        header[3] | at(24, checksum),
    ];
    (words, halfword(header[4], 0))
}

/// Ethernet and outer IPv6 header of one packet: 54 bytes, as six words, four bytes and two.
///
/// `length` is the inner packet's, in bytes: at most [`LONGEST_IN_IPV6`]. The flow label is the upper 20 bits of `flow_hash`, so
/// that routers and the backend's queues can tell the flows of one tunnel apart (RFC 6438).
#[inline(always)]
pub fn ipv6_header(rewrite: &Rewrite, length: u32, traffic_class: u8, flow_hash: u64) -> ([u64; 6], u32, u16) {
    // Version (in the template), traffic class and flow label: the first 4 bytes.
    let label = (u32::from(traffic_class) << 20 | (flow_hash >> 44) as u32).to_be_bytes();
    let (first, second) = (
        u16::from_ne_bytes([label[0], label[1]]),
        u16::from_ne_bytes([label[2], label[3]]),
    );
    let header = &rewrite.header;
    let words = [
        header[0],
        header[1] | at(14, first),
        header[2] | at(16, second) | at(18, (length as u16).to_be()),
        header[3],
        header[4],
        header[5],
    ];
    let middle = if cfg!(target_endian = "little") {
        header[6] as u32
    } else {
        (header[6] >> 32) as u32
    };
    (words, middle, halfword(header[6], 4))
}

/// The word that has `field` at byte `offset` of the header, and zeros elsewhere.
#[inline(always)]
const fn at(offset: u32, field: u16) -> u64 {
    let byte = offset % 8;
    if cfg!(target_endian = "little") {
        (field as u64) << (8 * byte)
    } else {
        (field as u64) << (8 * (6 - byte))
    }
}

/// Two bytes of a word, from its byte `byte` on.
#[inline(always)]
const fn halfword(word: u64, byte: u32) -> u16 {
    if cfg!(target_endian = "little") {
        (word >> (8 * byte)) as u16
    } else {
        (word >> (8 * (6 - byte))) as u16
    }
}

#[cfg(test)]
mod tests;

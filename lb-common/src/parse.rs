//! Ethernet → IPv4 or IPv6 → TCP or UDP, as far as the balancer needs it.
//!
//! The same code reads a frame in the kernel and in a test: [`Packet`] is the only seam, and each of its reads is checked
//! against the frame's end once per header. Offsets are those of the header structs of `network-types`.

use core::mem::{offset_of, size_of};

use bytemuck::AnyBitPattern;
use network_types::eth::EthHdr;
use network_types::ip::{Ipv4Hdr, Ipv6Hdr};
use network_types::tcp::TcpHdr;
use network_types::udp::UdpHdr;

use crate::map::ServiceKey;
use crate::reason::Reason;

/// A frame that can be read.
pub trait Packet {
    /// `N` bytes from `offset` on, or nothing if the directly readable part of the frame ends before.
    fn bytes<const N: usize>(&self, offset: usize) -> Option<&[u8; N]>;

    /// Whether the whole frame has at least `length` bytes, also those that cannot be read directly (XDP fragments).
    fn holds(&self, length: usize) -> bool;
}

impl Packet for [u8] {
    fn bytes<const N: usize>(&self, offset: usize) -> Option<&[u8; N]> {
        self.get(offset..)?.first_chunk()
    }

    fn holds(&self, length: usize) -> bool {
        self.len() >= length
    }
}

/// A packet of a flow that a service could have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Where it goes: the key that a service would have.
    pub key: ServiceKey,
    /// The client's address, as [`ServiceKey`] holds the VIP.
    pub source_high: u64,
    /// The client's address, as [`ServiceKey`] holds the VIP.
    pub source_low: u64,
    /// Source port and destination port, 4 bytes as on the wire.
    pub ports: u32,
    /// Length of the IP packet in bytes, its header included: 28 ..= 65,575.
    pub length: u32,
    /// IPv4's type of service or IPv6's traffic class: DSCP and ECN.
    pub traffic_class: u8,
    /// Whether it is IPv6.
    pub v6: bool,
}

const ETH_LEN: usize = size_of::<EthHdr>();
const ETHERTYPE_IPV4: u16 = u16::from_be_bytes([0x08, 0x00]).to_be();
const ETHERTYPE_IPV6: u16 = u16::from_be_bytes([0x86, 0xDD]).to_be();
const ETHERTYPE_8021Q: u16 = u16::from_be_bytes([0x81, 0x00]).to_be();
const ETHERTYPE_8021AD: u16 = u16::from_be_bytes([0x88, 0xA8]).to_be();
const PROTO_TCP: u8 = 6;
const PROTO_UDP: u8 = 17;
/// "More fragments" and the 13 bits of the fragment's offset (RFC 791).
const IPV4_FRAGMENT_BITS: u16 = 0x3FFF_u16.to_be();

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// Reads the headers of a frame, or says why it is none of ours.
#[inline(always)]
pub fn parse<P: Packet + ?Sized>(packet: &P) -> Result<Flow, Reason> {
    match family(packet)? {
        Family::V4 => ipv4(packet),
        Family::V6 => ipv6(packet),
    }
}

/// What the Ethernet header says that follows it.
#[inline(always)]
pub fn family<P: Packet + ?Sized>(packet: &P) -> Result<Family, Reason> {
    let eth = packet.bytes::<ETH_LEN>(0).ok_or(Reason::Truncated)?;
    match load::<u16>(eth, offset_of!(EthHdr, ether_type)) {
        ETHERTYPE_IPV4 => Ok(Family::V4),
        ETHERTYPE_IPV6 => Ok(Family::V6),
        ETHERTYPE_8021Q | ETHERTYPE_8021AD => Err(Reason::Vlan),
        _ => Err(Reason::NotIp),
    }
}

/// Reads an IPv4 packet's headers.
#[inline(always)]
pub fn ipv4<P: Packet + ?Sized>(packet: &P) -> Result<Flow, Reason> {
    let ip = packet.bytes::<{ Ipv4Hdr::LEN }>(ETH_LEN).ok_or(Reason::Truncated)?;
    let version_and_words = load::<u8>(ip, offset_of!(Ipv4Hdr, vihl));
    let header_len = usize::from(version_and_words & 0x0F) * 4;
    let length = u16::from_be(load(ip, offset_of!(Ipv4Hdr, tot_len)));
    if version_and_words >> 4 != 4 || header_len < Ipv4Hdr::LEN {
        return Err(Reason::BadIpHeader);
    }
    if load::<u16>(ip, offset_of!(Ipv4Hdr, frags)) & IPV4_FRAGMENT_BITS != 0 {
        return Err(Reason::Fragment);
    }
    let protocol = load::<u8>(ip, offset_of!(Ipv4Hdr, proto));
    let ports = ports(
        packet,
        protocol,
        ETH_LEN + header_len,
        (length as usize).wrapping_sub(header_len),
    )?;
    if !packet.holds(ETH_LEN + length as usize) {
        return Err(Reason::Truncated);
    }
    Ok(Flow {
        key: ServiceKey {
            address_high: 0,
            address_low: load::<u32>(ip, offset_of!(Ipv4Hdr, dst_addr)).into(),
            word: key_word_of(ports, protocol, crate::map::FAMILY_V4),
        },
        source_high: 0,
        source_low: load::<u32>(ip, offset_of!(Ipv4Hdr, src_addr)).into(),
        ports,
        length: length.into(),
        traffic_class: load(ip, offset_of!(Ipv4Hdr, tos)),
        v6: false,
    })
}

/// Reads an IPv6 packet's headers.
#[inline(always)]
pub fn ipv6<P: Packet + ?Sized>(packet: &P) -> Result<Flow, Reason> {
    let ip = packet.bytes::<{ Ipv6Hdr::LEN }>(ETH_LEN).ok_or(Reason::Truncated)?;
    let version_and_class = u16::from_be(load(ip, offset_of!(Ipv6Hdr, vcf)));
    if version_and_class >> 12 != 6 {
        return Err(Reason::BadIpHeader);
    }
    let payload = u16::from_be(load(ip, offset_of!(Ipv6Hdr, payload_len)));
    let protocol = load::<u8>(ip, offset_of!(Ipv6Hdr, next_hdr));
    match protocol {
        44 => return Err(Reason::Fragment),
        // Hop-by-hop, routing, destination options, AH, mobility, HIP, shim6 (RFC 7045's list).
        0 | 43 | 51 | 60 | 135 | 139 | 140 => return Err(Reason::Ipv6Extension),
        _ => {}
    }
    let ports = ports(packet, protocol, ETH_LEN + Ipv6Hdr::LEN, payload as usize)?;
    let length = payload as usize + Ipv6Hdr::LEN;
    if !packet.holds(ETH_LEN + length) {
        return Err(Reason::Truncated);
    }
    let source = offset_of!(Ipv6Hdr, src_addr);
    let destination = offset_of!(Ipv6Hdr, dst_addr);
    Ok(Flow {
        key: ServiceKey {
            address_high: load(ip, destination),
            address_low: load(ip, destination + 8),
            word: key_word_of(ports, protocol, crate::map::FAMILY_V6),
        },
        source_high: load(ip, source),
        source_low: load(ip, source + 8),
        ports,
        length: length as u32,
        traffic_class: (version_and_class >> 4) as u8,
        v6: true,
    })
}

/// The two ports, if the transport header is whole: `room` is what the IP header says that it has. Only the ports are read, so
/// only they must be in the directly readable part.
#[inline(always)]
fn ports<P: Packet + ?Sized>(packet: &P, protocol: u8, offset: usize, room: usize) -> Result<u32, Reason> {
    const { assert!(offset_of!(TcpHdr, source) == offset_of!(UdpHdr, src)) };
    let needed = match protocol {
        PROTO_TCP => TcpHdr::LEN,
        PROTO_UDP => UdpHdr::LEN,
        _ => return Err(Reason::NotTcpOrUdp),
    };
    // `room` has wrapped below zero if the IP packet ends within its own header.
    if room > u16::MAX as usize {
        return Err(Reason::BadIpHeader);
    }
    if room < needed {
        return Err(Reason::Truncated);
    }
    let ports = packet.bytes::<4>(offset).ok_or(Reason::Truncated)?;
    Ok(load(ports, 0))
}

/// [`map::key_word`](crate::map::key_word) from a flow's ports.
#[inline(always)]
fn key_word_of(ports: u32, protocol: u8, family: u8) -> u32 {
    // The destination port is the second half on the wire: the upper half of a little-endian word.
    if cfg!(target_endian = "little") {
        ports >> 16 | (protocol as u32) << 16 | (family as u32) << 24
    } else {
        (ports & 0xFFFF) << 16 | (protocol as u32) << 8 | family as u32
    }
}

/// A field of a header whose bounds are already checked, in the machine's own byte order.
#[inline(always)]
fn load<T: AnyBitPattern>(header: &[u8], at: usize) -> T {
    debug_assert!(at + size_of::<T>() <= header.len());
    let field = header[at..].as_ptr().cast::<T>();
    // SAFETY: `at` is a field of the header, which `header` covers. On BPF the read is made as if it were aligned: the
    // backend would else load byte by byte and shift them together, and the verifier admits any alignment in packets
    // on machines with efficient unaligned access (x86-64, arm64; `check_ptr_alignment`, Linux 6.1 to 6.18).
    unsafe {
        if cfg!(target_arch = "bpf") {
            field.read()
        } else {
            field.read_unaligned()
        }
    }
}

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

use crate::map::{FAMILY_V4, FAMILY_V6, ServiceKey, key_word};
use crate::reason::Reason;

/// A frame that can be read.
pub trait Packet {
    /// Whether only plain packets are wanted: IPv4 without options. Others are [`Reason::BadIpHeader`] then, for the caller to read
    /// again in another way.
    const PLAIN: bool = false;

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

/// A packet that may be for a service: its addresses and ports are known, nothing else is checked yet.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    /// Where it goes: the key that a service would have.
    pub key: ServiceKey,
    /// The client's port, as on the wire.
    source_port: u16,
    /// What the transport header has at least, in bytes.
    transport_len: usize,
    header: Header<'a>,
}

#[derive(Clone, Copy, Debug)]
enum Header<'a> {
    V4 { ip: &'a [u8; Ipv4Hdr::LEN], len: usize },
    V6 { ip: &'a [u8; Ipv6Hdr::LEN] },
}

/// A whole packet of a flow that a service could have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// The client's address, as [`ServiceKey`] holds the VIP.
    pub source_high: u64,
    /// The client's address, as [`ServiceKey`] holds the VIP.
    pub source_low: u64,
    /// The client's port, as on the wire.
    pub source_port: u16,
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

/// Reads the addresses and ports of a frame, or says why it is none of ours.
#[inline(always)]
pub fn parse<P: Packet + ?Sized>(packet: &P) -> Result<Candidate<'_>, Reason> {
    match family(packet)? {
        Family::V4 => ipv4(packet),
        Family::V6 => ipv6(packet),
    }
}

/// What the Ethernet header says that follows it.
///
/// A frame too short for an IPv4 header is [`Reason::Truncated`] whatever it holds (Ethernet pads to 60 bytes): one comparison
/// with the frame's end then serves both headers.
#[inline(always)]
pub fn family<P: Packet + ?Sized>(packet: &P) -> Result<Family, Reason> {
    let eth = packet.bytes::<{ ETH_LEN + Ipv4Hdr::LEN }>(0).ok_or(Reason::Truncated)?;
    // No `match`: the compiler would make a search tree of it, and IPv4's packets would pay for a comparison more.
    let ethertype = load::<u16>(eth, offset_of!(EthHdr, ether_type));
    if ethertype == ETHERTYPE_IPV4 {
        return Ok(Family::V4);
    }
    if ethertype == ETHERTYPE_IPV6 {
        return Ok(Family::V6);
    }
    Err(match ethertype {
        ETHERTYPE_8021Q | ETHERTYPE_8021AD => Reason::Vlan,
        _ => Reason::NotIp,
    })
}

/// The frame's first 8 bytes, the first in the lowest bits: its destination and the beginning of its source, see
/// [`crate::local_mac`].
///
/// As many bytes are asked for as by [`family`], so that the comparison with the frame's end is made once.
#[inline(always)]
pub fn destination<P: Packet + ?Sized>(packet: &P) -> Result<u64, Reason> {
    let eth = packet.bytes::<{ ETH_LEN + Ipv4Hdr::LEN }>(0).ok_or(Reason::Truncated)?;
    Ok(u64::from_le(load(eth, offset_of!(EthHdr, dst_addr))))
}

/// Reads an IPv4 packet's addresses and ports.
#[inline(always)]
pub fn ipv4<P: Packet + ?Sized>(packet: &P) -> Result<Candidate<'_>, Reason> {
    let ip = packet.bytes::<{ Ipv4Hdr::LEN }>(ETH_LEN).ok_or(Reason::Truncated)?;
    let vihl = load::<u8>(ip, offset_of!(Ipv4Hdr, vihl));
    let len = if P::PLAIN {
        if vihl != 0x45 {
            return Err(Reason::BadIpHeader);
        }
        Ipv4Hdr::LEN
    } else {
        // Version 4 and a header of 5 to 15 words, in one comparison.
        let words = vihl.wrapping_sub(0x40);
        if words.wrapping_sub(5) > 10 {
            return Err(Reason::BadIpHeader);
        }
        usize::from(words) * 4
    };
    // Fragments and protocol in one load and one comparison; the TTL is between them.
    const { assert!(offset_of!(Ipv4Hdr, frags) + 3 == offset_of!(Ipv4Hdr, proto)) };
    let telling = load::<u32>(ip, offset_of!(Ipv4Hdr, frags)) & ipv4_telling(IPV4_FRAGMENT_BITS, 0xFF);
    let (protocol, transport_len) = if telling == ipv4_telling(0, PROTO_TCP) {
        (PROTO_TCP, TcpHdr::LEN)
    } else if telling == ipv4_telling(0, PROTO_UDP) {
        (PROTO_UDP, UdpHdr::LEN)
    } else if telling & ipv4_telling(IPV4_FRAGMENT_BITS, 0) != 0 {
        return Err(Reason::Fragment);
    } else {
        return Err(Reason::NotTcpOrUdp);
    };
    let (source_port, port) = ports(packet, ETH_LEN + len)?;
    let key = ServiceKey {
        address_high: 0,
        address_low: load::<u32>(ip, offset_of!(Ipv4Hdr, dst_addr)).into(),
        word: key_word(port.to_ne_bytes(), protocol, FAMILY_V4),
    };
    Ok(Candidate {
        key,
        source_port,
        transport_len,
        header: Header::V4 { ip, len },
    })
}

/// Reads an IPv6 packet's addresses and ports.
#[inline(always)]
pub fn ipv6<P: Packet + ?Sized>(packet: &P) -> Result<Candidate<'_>, Reason> {
    let ip = packet.bytes::<{ Ipv6Hdr::LEN }>(ETH_LEN).ok_or(Reason::Truncated)?;
    if load::<u8>(ip, offset_of!(Ipv6Hdr, vcf)) >> 4 != 6 {
        return Err(Reason::BadIpHeader);
    }
    // No `match`, as in `family`, and what it is instead is read anew: TCP's packets would pay for a search tree of all extension headers.
    let next = load::<u8>(ip, offset_of!(Ipv6Hdr, next_hdr));
    let (protocol, transport_len) = if next == PROTO_TCP {
        (PROTO_TCP, TcpHdr::LEN)
    } else if next == PROTO_UDP {
        (PROTO_UDP, UdpHdr::LEN)
    } else {
        return Err(neither_in_ipv6(load_alone::<u8>(ip, offset_of!(Ipv6Hdr, next_hdr))));
    };
    let (source_port, port) = ports(packet, ETH_LEN + Ipv6Hdr::LEN)?;
    let destination = offset_of!(Ipv6Hdr, dst_addr);
    let key = ServiceKey {
        address_high: load(ip, destination),
        address_low: load(ip, destination + 8),
        word: key_word(port.to_ne_bytes(), protocol, FAMILY_V6),
    };
    Ok(Candidate {
        key,
        source_port,
        transport_len,
        header: Header::V6 { ip },
    })
}

impl Candidate<'_> {
    /// Whether it is IPv6.
    #[inline(always)]
    pub const fn v6(&self) -> bool {
        matches!(self.header, Header::V6 { .. })
    }

    /// Reads the rest of what the balancer needs, now that the packet is known to be for a service: all that its IP header
    /// promises must be there.
    #[inline(always)]
    pub fn complete<P: Packet + ?Sized>(&self, packet: &P) -> Result<Flow, Reason> {
        let Self {
            source_port,
            transport_len,
            ..
        } = *self;
        let flow = match self.header {
            Header::V4 { ip, len } => {
                let length = usize::from(u16::from_be(load(ip, offset_of!(Ipv4Hdr, tot_len))));
                if length < len + transport_len {
                    return Err(if length < len {
                        Reason::BadIpHeader
                    } else {
                        Reason::Truncated
                    });
                }
                Flow {
                    source_high: 0,
                    source_low: load::<u32>(ip, offset_of!(Ipv4Hdr, src_addr)).into(),
                    source_port,
                    length: length as u32,
                    traffic_class: load(ip, offset_of!(Ipv4Hdr, tos)),
                    v6: false,
                }
            }
            Header::V6 { ip } => {
                let payload = usize::from(u16::from_be(load(ip, offset_of!(Ipv6Hdr, payload_len))));
                if payload < transport_len {
                    return Err(Reason::Truncated);
                }
                let source = offset_of!(Ipv6Hdr, src_addr);
                Flow {
                    source_high: load(ip, source),
                    // In halves: a load of 8 bytes stalls when something has just written 4 of them.
                    source_low: pair(load_alone(ip, source + 8), load_alone(ip, source + 12)),
                    source_port,
                    length: (payload + Ipv6Hdr::LEN) as u32,
                    traffic_class: (u16::from_be(load(ip, offset_of!(Ipv6Hdr, vcf))) >> 4) as u8,
                    v6: true,
                }
            }
        };
        if packet.holds(ETH_LEN + flow.length as usize) {
            Ok(flow)
        } else {
            Err(Reason::Truncated)
        }
    }
}

/// Where a packet's transport header is, and which: for the stages that look at TCP's flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transport {
    /// Bytes from the frame's start: 34 ..= 74.
    pub offset: usize,
    /// Whether it is TCP.
    pub tcp: bool,
}

/// Where the transport header is; for the few packets that need to know, and have been parsed before.
#[inline(always)]
pub fn transport<P: Packet + ?Sized>(packet: &P) -> Result<Transport, Reason> {
    let (protocol, len) = match family(packet)? {
        Family::V4 => {
            let ip = packet.bytes::<{ Ipv4Hdr::LEN }>(ETH_LEN).ok_or(Reason::Truncated)?;
            let len = usize::from(load::<u8>(ip, offset_of!(Ipv4Hdr, vihl)) & 0x0F) * 4;
            (load::<u8>(ip, offset_of!(Ipv4Hdr, proto)), len)
        }
        Family::V6 => {
            let ip = packet.bytes::<{ Ipv6Hdr::LEN }>(ETH_LEN).ok_or(Reason::Truncated)?;
            (load::<u8>(ip, offset_of!(Ipv6Hdr, next_hdr)), Ipv6Hdr::LEN)
        }
    };
    Ok(Transport {
        offset: ETH_LEN + len,
        tcp: protocol == PROTO_TCP,
    })
}

/// Whether the TCP header at `offset` begins a connection: SYN without ACK (RFC 9293).
#[inline(always)]
pub fn is_syn<P: Packet + ?Sized>(packet: &P, offset: usize) -> bool {
    const SYN: u8 = 0x02;
    const ACK: u8 = 0x10;
    // Data offset, reserved bits and flags: the 13th and 14th byte.
    match packet.bytes::<14>(offset) {
        Some(header) => load::<u8>(header, 13) & (SYN | ACK) == SYN,
        None => false,
    }
}

/// The four bytes of an IPv4 header that begin with flags and offset and end with the protocol, but for the TTL.
#[inline(always)]
const fn ipv4_telling(fragment: u16, protocol: u8) -> u32 {
    let [first, second] = fragment.to_ne_bytes();
    u32::from_ne_bytes([first, second, 0, protocol])
}

/// Source and destination port, as on the wire; TCP and UDP have them in the same place.
#[inline(always)]
fn ports<P: Packet + ?Sized>(packet: &P, offset: usize) -> Result<(u16, u16), Reason> {
    const { assert!(offset_of!(TcpHdr, source) == offset_of!(UdpHdr, src)) };
    const { assert!(offset_of!(TcpHdr, dest) == offset_of!(UdpHdr, dst)) };
    let ports = packet.bytes::<4>(offset).ok_or(Reason::Truncated)?;
    Ok((
        load(ports, offset_of!(UdpHdr, src)),
        load(ports, offset_of!(UdpHdr, dst)),
    ))
}

/// Eight bytes of the wire from two loads of four.
#[inline(always)]
fn pair(first: u32, second: u32) -> u64 {
    if cfg!(target_endian = "little") {
        u64::from(first) | u64::from(second) << 32
    } else {
        u64::from(first) << 32 | u64::from(second)
    }
}

/// What a next header is that is neither TCP nor UDP; the extension headers are those of RFC 7045.
#[inline(always)]
fn neither_in_ipv6(protocol: u8) -> Reason {
    match protocol {
        44 => Reason::Fragment,
        0 | 43 | 51 | 60 | 135 | 139 | 140 => Reason::Ipv6Extension,
        _ => Reason::NotTcpOrUdp,
    }
}

/// As [`load`], and the compiler neither merges it with a neighbouring load nor moves it.
#[inline(always)]
fn load_alone<T: AnyBitPattern>(header: &[u8], at: usize) -> T {
    if cfg!(target_arch = "bpf") {
        debug_assert!(at + size_of::<T>() <= header.len());
        // SAFETY: as in `load`.
        unsafe { header[at..].as_ptr().cast::<T>().read_volatile() }
    } else {
        load(header, at)
    }
}

/// A field of a header whose bounds are already checked, in the machine's own byte order.
#[inline(always)]
pub(crate) fn load<T: AnyBitPattern>(header: &[u8], at: usize) -> T {
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

#[cfg(test)]
mod tests;

//! The backends' side: is this a tunnelled packet for a VIP of this host, and how is it unwrapped?
//!
//! [`decide`] is the decapsulator's whole decision. It only reads: the program moves the packet's start and writes the few bytes
//! that an [`Unwrap`] names.

use core::mem::{offset_of, size_of};
use core::net::IpAddr;

use bytemuck::{Pod, Zeroable};
use network_types::eth::EthHdr;
use network_types::ip::{Ipv4Hdr, Ipv6Hdr};

use crate::map::{FAMILY_V4, FAMILY_V6};
use crate::parse::{Packet, destination, load};

mod reason;

pub use reason::{DecapFate, DecapReason};

/// The names of the maps, as the decapsulator's object file has them.
pub mod name {
    /// Hash of [`AddressKey`](super::AddressKey) to a `u8` of no meaning: the VIPs, whose packets are unwrapped.
    pub const VIPS: &str = "VIPS";
    /// Hash of [`AddressKey`](super::AddressKey) to a `u8` of no meaning: this host's addresses, where tunnels may end.
    pub const LOCALS: &str = "LOCALS";
    /// Hash of [`LocalMac`](crate::local_mac::LocalMac) to a `u8` of no meaning: this host's own Ethernet addresses.
    pub const LOCAL_MACS: &str = "LOCAL_MACS";
    /// Longest-prefix-match trie of [`SourceKey`](super::SourceKey) to a `u8` of no meaning: where tunnels may begin, the edges.
    pub const SOURCES: &str = "SOURCES";
    /// Constant of a `u32`, set before the program is loaded: 0 if tunnels may begin everywhere, and `SOURCES` is not asked.
    pub const SOURCES_LIMITED: &str = "SOURCES_LIMITED";
    /// Per-CPU array of `u64` packets, one for each [`DecapReason`](super::DecapReason).
    pub const DECAP_REASONS: &str = "DECAP_REASONS";
}

/// An address as a key of a map.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Pod, Zeroable)]
#[repr(C)]
pub struct AddressKey {
    /// IPv6: the address's first 8 bytes as they are on the wire. IPv4: 0.
    pub high: u64,
    /// IPv6: the address's last 8 bytes as they are on the wire. IPv4: the address's 4 bytes, zero-extended.
    pub low: u64,
    /// [`FAMILY_V4`] or [`FAMILY_V6`].
    pub family: u32,
    /// Zero.
    pub reserved: u32,
}

const _: () = assert!(size_of::<AddressKey>() == 24);

impl From<IpAddr> for AddressKey {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => Self::v4(u32::from_ne_bytes(address.octets())),
            IpAddr::V6(address) => {
                let [high, low] = bytemuck::cast(address.octets());
                Self::v6(high, low)
            }
        }
    }
}

impl AddressKey {
    #[inline(always)]
    const fn v4(word: u32) -> Self {
        Self {
            high: 0,
            low: word as u64,
            family: FAMILY_V4 as u32,
            reserved: 0,
        }
    }

    #[inline(always)]
    const fn v6(high: u64, low: u64) -> Self {
        Self {
            high,
            low,
            family: FAMILY_V6 as u32,
            reserved: 0,
        }
    }
}

/// An address as a key of the trie of allowed outer sources.
///
/// The family comes first, so that a prefix of one family never holds an address of the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Pod, Zeroable)]
#[repr(C)]
pub struct SourceKey {
    /// [`FAMILY_V4`] or [`FAMILY_V6`].
    pub family: u32,
    /// The address's bytes as they are on the wire; IPv4: the first 4, and 12 of zero.
    pub address: [u32; 4],
}

const _: () = assert!(size_of::<SourceKey>() == 20);

impl SourceKey {
    /// Bits of the family, which every prefix in the trie includes.
    pub const FAMILY_BITS: u32 = u32::BITS;
    /// How many prefixes the trie has room for.
    pub const MAX_PREFIXES: usize = 1_024;
    /// The length of the longest prefix, in bits: a whole key.
    pub const BITS: u32 = size_of::<Self>() as u32 * u8::BITS;
}

impl From<&AddressKey> for SourceKey {
    #[inline(always)]
    fn from(key: &AddressKey) -> Self {
        let address = if key.family == FAMILY_V4 as u32 {
            [key.low as u32, 0, 0, 0]
        } else {
            bytemuck::cast([key.high, key.low])
        };
        Self {
            family: key.family,
            address,
        }
    }
}

/// How a packet is unwrapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unwrap {
    /// Bytes between the Ethernet header and the inner packet: 20, 40 or 48.
    pub outer_len: usize,
    /// Ethertype of the inner packet, in the bytes of the wire.
    pub ethertype: u16,
    /// Whether the outer header's congestion mark changes the inner one, and to what.
    pub remark: Remark,
}

/// What of the inner header changes, because the outer header has been marked on its way (RFC 6040).
///
/// All fields are the bytes of the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remark {
    /// Nothing changes.
    None,
    /// IPv4: a new first halfword (version, header length, type of service), and the checksum that follows from it.
    V4 {
        /// Bytes 0 and 1.
        start: u16,
        /// Bytes 10 and 11.
        checksum: u16,
    },
    /// IPv6: a new first halfword (version, traffic class, the flow label's first bits).
    V6 {
        /// Bytes 0 and 1.
        start: u16,
    },
}

const ETH_LEN: usize = size_of::<EthHdr>();
const ETHERTYPE_IPV4: u16 = u16::from_be_bytes([0x08, 0x00]).to_be();
const ETHERTYPE_IPV6: u16 = u16::from_be_bytes([0x86, 0xDD]).to_be();
const ETHERTYPE_8021Q: u16 = u16::from_be_bytes([0x81, 0x00]).to_be();
const ETHERTYPE_8021AD: u16 = u16::from_be_bytes([0x88, 0xA8]).to_be();
const PROTO_IPV4_IN_IP: u8 = 4;
const PROTO_IPV6_IN_IP: u8 = 41;
const PROTO_FRAGMENT: u8 = 44;
const PROTO_DESTINATION_OPTIONS: u8 = 60;
/// "More fragments" and the 13 bits of the fragment's offset (RFC 791).
const IPV4_FRAGMENT_BITS: u16 = 0x3FFF_u16.to_be();
/// A destination options header of 8 bytes that holds the tunnel encapsulation limit (RFC 2473, section 4.1.1) and the
/// padding after it. Linux's ip6tnl puts it into every packet unless told `encaplimit none`.
const LIMIT_OPTION: u64 = u64::from_ne_bytes([0, 0, 4, 1, 0, 1, 1, 0]);
/// All but the next header's number and the limit itself.
const LIMIT_OPTION_MASK: u64 = u64::from_ne_bytes([0, 0xFF, 0xFF, 0xFF, 0, 0xFF, 0xFF, 0xFF]);

/// The outer header, as far as it matters.
struct Outer {
    source: AddressKey,
    destination: AddressKey,
    /// Its own length with its options, in bytes.
    header_len: usize,
    /// Protocol number of what it carries.
    carries: u8,
    /// What it says that it carries, in bytes.
    payload: usize,
    traffic_class: u8,
}

/// The inner header, as far as it matters.
struct Inner {
    destination: AddressKey,
    /// Its total length, header included.
    length: usize,
    ethertype: u16,
    /// Its first two bytes, as on the wire.
    start: u16,
    /// IPv4: its checksum, as on the wire.
    checksum: u16,
}

/// Decides about one frame. `is_own` says whether its first 8 bytes (the first in the lowest bits, see [`crate::local_mac`]) are addressed to
/// this host, `is_local` whether an address is this host's, `is_vip` whether it is a VIP named, `is_edge` whether tunnels may begin at it.
#[inline(always)]
pub fn decide<P: Packet + ?Sized>(
    packet: &P,
    is_own: impl FnOnce(u64) -> bool,
    is_local: impl FnOnce(&AddressKey) -> bool,
    is_vip: impl FnOnce(&AddressKey) -> bool,
    is_edge: impl FnOnce(&AddressKey) -> bool,
) -> Result<Unwrap, DecapReason> {
    let outer = outer(packet)?;
    if !packet.holds(ETH_LEN + outer.header_len + outer.payload) {
        return Err(DecapReason::Truncated);
    }
    if !is_local(&outer.destination) {
        return Err(DecapReason::NotLocal);
    }
    if !is_own(destination(packet).map_err(|_| DecapReason::Truncated)?) {
        return Err(DecapReason::OtherHost);
    }
    let inner = inner(packet, &outer)?;
    if !is_vip(&inner.destination) {
        return Err(DecapReason::NotAVip);
    }
    // After the VIP: what a stranger sends for another tunnel of this host is not ours to drop.
    if !is_edge(&outer.source) {
        return Err(DecapReason::SourceNotAllowed);
    }
    if inner.length > outer.payload {
        return Err(DecapReason::InnerTooLong);
    }
    Ok(Unwrap {
        outer_len: outer.header_len,
        ethertype: inner.ethertype,
        remark: remark(&inner, outer.traffic_class)?,
    })
}

#[inline(always)]
fn outer<P: Packet + ?Sized>(packet: &P) -> Result<Outer, DecapReason> {
    let eth = packet.bytes::<ETH_LEN>(0).ok_or(DecapReason::Truncated)?;
    match load::<u16>(eth, offset_of!(EthHdr, ether_type)) {
        ETHERTYPE_IPV4 => outer_v4(packet),
        ETHERTYPE_IPV6 => outer_v6(packet),
        ETHERTYPE_8021Q | ETHERTYPE_8021AD => Err(DecapReason::Vlan),
        _ => Err(DecapReason::NotIp),
    }
}

#[inline(always)]
fn outer_v4<P: Packet + ?Sized>(packet: &P) -> Result<Outer, DecapReason> {
    let ip = packet
        .bytes::<{ Ipv4Hdr::LEN }>(ETH_LEN)
        .ok_or(DecapReason::Truncated)?;
    let carries = load::<u8>(ip, offset_of!(Ipv4Hdr, proto));
    if carries != PROTO_IPV4_IN_IP && carries != PROTO_IPV6_IN_IP {
        return Err(DecapReason::NotATunnel);
    }
    let version_and_words = load::<u8>(ip, offset_of!(Ipv4Hdr, vihl));
    let total = usize::from(u16::from_be(load(ip, offset_of!(Ipv4Hdr, tot_len))));
    if version_and_words >> 4 != 4 || version_and_words & 0x0F < 5 || total < Ipv4Hdr::LEN {
        return Err(DecapReason::BadOuterHeader);
    }
    if version_and_words != 0x45 {
        return Err(DecapReason::OuterOptions);
    }
    if load::<u16>(ip, offset_of!(Ipv4Hdr, frags)) & IPV4_FRAGMENT_BITS != 0 {
        return Err(DecapReason::OuterFragment);
    }
    Ok(Outer {
        source: AddressKey::v4(load(ip, offset_of!(Ipv4Hdr, src_addr))),
        destination: AddressKey::v4(load(ip, offset_of!(Ipv4Hdr, dst_addr))),
        header_len: Ipv4Hdr::LEN,
        carries,
        payload: total - Ipv4Hdr::LEN,
        traffic_class: load(ip, offset_of!(Ipv4Hdr, tos)),
    })
}

#[inline(always)]
fn outer_v6<P: Packet + ?Sized>(packet: &P) -> Result<Outer, DecapReason> {
    let ip = packet
        .bytes::<{ Ipv6Hdr::LEN }>(ETH_LEN)
        .ok_or(DecapReason::Truncated)?;
    let version_and_class = u16::from_be(load(ip, offset_of!(Ipv6Hdr, vcf)));
    let payload = usize::from(u16::from_be(load(ip, offset_of!(Ipv6Hdr, payload_len))));
    let options_len;
    let carries;
    match load::<u8>(ip, offset_of!(Ipv6Hdr, next_hdr)) {
        plain @ (PROTO_IPV4_IN_IP | PROTO_IPV6_IN_IP) => {
            options_len = 0;
            carries = plain;
        }
        PROTO_DESTINATION_OPTIONS => {
            options_len = size_of::<u64>();
            carries = after_limit_option(packet, payload)?;
        }
        PROTO_FRAGMENT => return Err(DecapReason::OuterFragment),
        _ => return Err(DecapReason::NotATunnel),
    }
    if version_and_class >> 12 != 6 {
        return Err(DecapReason::BadOuterHeader);
    }
    let (source, destination) = (offset_of!(Ipv6Hdr, src_addr), offset_of!(Ipv6Hdr, dst_addr));
    Ok(Outer {
        source: AddressKey::v6(load(ip, source), load(ip, source + 8)),
        destination: AddressKey::v6(load(ip, destination), load(ip, destination + 8)),
        header_len: Ipv6Hdr::LEN + options_len,
        carries,
        payload: payload - options_len,
        traffic_class: (version_and_class >> 4) as u8,
    })
}

/// What follows a destination options header that holds the tunnel encapsulation limit and nothing else.
#[inline(always)]
fn after_limit_option<P: Packet + ?Sized>(packet: &P, payload: usize) -> Result<u8, DecapReason> {
    let options = packet
        .bytes::<{ size_of::<u64>() }>(ETH_LEN + Ipv6Hdr::LEN)
        .ok_or(DecapReason::Truncated)?;
    if load::<u64>(options, 0) & LIMIT_OPTION_MASK != LIMIT_OPTION {
        return Err(DecapReason::OuterOptions);
    }
    if payload < size_of::<u64>() {
        return Err(DecapReason::BadOuterHeader);
    }
    match load::<u8>(options, 0) {
        carries @ (PROTO_IPV4_IN_IP | PROTO_IPV6_IN_IP) => Ok(carries),
        _ => Err(DecapReason::NotATunnel),
    }
}

#[inline(always)]
fn inner<P: Packet + ?Sized>(packet: &P, outer: &Outer) -> Result<Inner, DecapReason> {
    let at = ETH_LEN + outer.header_len;
    if outer.carries == PROTO_IPV4_IN_IP {
        let ip = packet
            .bytes::<{ Ipv4Hdr::LEN }>(at)
            .ok_or(DecapReason::InnerTruncated)?;
        let version_and_words = load::<u8>(ip, offset_of!(Ipv4Hdr, vihl));
        let header_len = usize::from(version_and_words & 0x0F) * 4;
        let length = usize::from(u16::from_be(load(ip, offset_of!(Ipv4Hdr, tot_len))));
        if version_and_words >> 4 != 4 || header_len < Ipv4Hdr::LEN || length < header_len {
            return Err(DecapReason::BadInnerHeader);
        }
        Ok(Inner {
            destination: AddressKey::v4(load(ip, offset_of!(Ipv4Hdr, dst_addr))),
            length,
            ethertype: ETHERTYPE_IPV4,
            start: load(ip, 0),
            checksum: load(ip, offset_of!(Ipv4Hdr, check)),
        })
    } else {
        let ip = packet
            .bytes::<{ Ipv6Hdr::LEN }>(at)
            .ok_or(DecapReason::InnerTruncated)?;
        let start = load::<u16>(ip, offset_of!(Ipv6Hdr, vcf));
        if u16::from_be(start) >> 12 != 6 {
            return Err(DecapReason::BadInnerHeader);
        }
        let destination = offset_of!(Ipv6Hdr, dst_addr);
        Ok(Inner {
            destination: AddressKey::v6(load(ip, destination), load(ip, destination + 8)),
            length: usize::from(u16::from_be(load(ip, offset_of!(Ipv6Hdr, payload_len)))) + Ipv6Hdr::LEN,
            ethertype: ETHERTYPE_IPV6,
            start,
            checksum: 0,
        })
    }
}

const NOT_ECT: u8 = 0;
const ECT_1: u8 = 1;
const ECT_0: u8 = 2;
const CE: u8 = 3;

/// The inner header's ECN field after the tunnel (RFC 6040, figure 4); nothing: the packet is to be dropped.
#[inline(always)]
const fn egress_ecn(inner: u8, outer: u8) -> Option<u8> {
    match (inner, outer) {
        (NOT_ECT, CE) => None,
        (NOT_ECT, _) => Some(NOT_ECT),
        (_, CE) => Some(CE),
        (ECT_0, ECT_1) => Some(ECT_1),
        _ => Some(inner),
    }
}

#[inline(always)]
fn remark(inner: &Inner, outer_class: u8) -> Result<Remark, DecapReason> {
    let v4 = inner.ethertype == ETHERTYPE_IPV4;
    // The ECN bits of the first halfword: IPv4's lowest two, IPv6's in the middle of the second byte.
    let shift = if v4 { 0 } else { 4 };
    let start = u16::from_be(inner.start);
    let before = (start >> shift) as u8 & 3;
    let Some(after) = egress_ecn(before, outer_class & 3) else {
        return Err(DecapReason::CongestionLost);
    };
    if after == before {
        return Ok(Remark::None);
    }
    let start = (start ^ u16::from(before ^ after) << shift).to_be();
    Ok(if v4 {
        Remark::V4 {
            start,
            checksum: updated_checksum(inner.checksum, inner.start, start),
        }
    } else {
        Remark::V6 { start }
    })
}

/// An internet checksum after one of its halfwords has changed (RFC 1624, equation 3); all as on the wire.
#[inline(always)]
const fn updated_checksum(checksum: u16, before: u16, after: u16) -> u16 {
    let sum = !checksum as u32 + !before as u32 + after as u32;
    let sum = (sum & 0xFFFF) + (sum >> 16);
    let sum = (sum & 0xFFFF) + (sum >> 16);
    !sum as u16
}

#[cfg(feature = "user")]
mod user {
    // SAFETY: it is `Pod`: any bytes are a value, and none of them are padding.
    unsafe impl aya::Pod for super::AddressKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::SourceKey {}
}

#[cfg(test)]
mod tests;

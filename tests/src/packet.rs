//! Frames for tests: [`Packet`] builds them, [`describe`] takes them apart, [`hex`] reads those written by hand.
//!
//! Nothing here shares a line with `lb-common`: a test must not compute its expectation with the code that it tests. What is
//! not set by hand (lengths, checksums, protocol numbers) is right; everything can be made wrong on purpose.
//!
//! ```
//! use lb_tests::packet::Packet;
//!
//! let inner = Packet::ip("198.51.100.1", "192.0.2.10").tcp(40_000, 80).payload(b"GET /");
//! let outer = Packet::ip("10.0.0.5", "10.0.0.11").carrying(&inner.ip_bytes());
//! assert_eq!(outer.build().len(), inner.build().len() + 20);
//! ```

mod describe;
mod emit;
mod hex;
mod sum;

use std::net::IpAddr;

pub use describe::{Description, Field, assert_same, describe, difference};
pub use hex::{dump, hex};

/// TCP's flag bits, as in the header's 14th byte.
pub mod flag {
    /// The sender is done.
    pub const FIN: u8 = 0x01;
    /// The first segment of a connection.
    pub const SYN: u8 = 0x02;
    /// The connection is no more.
    pub const RST: u8 = 0x04;
    /// Hand over at once.
    pub const PSH: u8 = 0x08;
    /// The acknowledgement number counts.
    pub const ACK: u8 = 0x10;
}

/// The sender's MAC address unless told otherwise.
pub const SENDER_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0xC1];
/// The receiver's MAC address unless told otherwise.
pub const RECEIVER_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0xED];

/// A frame to be built. Every setter takes and returns it, so that a test reads as one sentence.
#[derive(Clone, Debug)]
pub struct Packet {
    destination_mac: [u8; 6],
    source_mac: [u8; 6],
    /// EtherType and tag, outermost first.
    tags: Vec<(u16, u16)>,
    ethertype: Option<u16>,
    source: IpAddr,
    destination: IpAddr,
    ttl: u8,
    traffic_class: u8,
    flow_label: u32,
    identification: u16,
    dont_fragment: bool,
    more_fragments: bool,
    /// In units of 8 bytes.
    fragment_offset: u16,
    fragmented: bool,
    options: Vec<u8>,
    /// IPv6 extension headers: number and bytes, the first byte of which is filled in.
    extensions: Vec<(u8, Vec<u8>)>,
    protocol: Option<u8>,
    first_byte: Option<u8>,
    length: Option<u16>,
    header_checksum: Option<u16>,
    body: Body,
    payload: Vec<u8>,
    padding: usize,
    pad_to: usize,
    truncate: Option<usize>,
}

#[derive(Clone, Debug)]
enum Body {
    /// No transport header: `payload` follows the IP header.
    Bare {
        protocol: u8,
    },
    Tcp(Tcp),
    Udp(Udp),
    Icmp {
        kind: u8,
        code: u8,
        rest: [u8; 4],
    },
}

#[derive(Clone, Debug)]
struct Tcp {
    ports: (u16, u16),
    sequence: u32,
    acknowledgement: u32,
    flags: u8,
    window: u16,
    options: Vec<u8>,
    checksum: Option<u16>,
}

#[derive(Clone, Debug)]
struct Udp {
    ports: (u16, u16),
    length: Option<u16>,
    checksum: Option<u16>,
}

impl Packet {
    /// A packet between two addresses of one family.
    ///
    /// # Panics
    ///
    /// If one is not an address, or the families differ: the test's own mistake.
    #[track_caller]
    pub fn ip(source: &str, destination: &str) -> Self {
        let parse = |text: &str| {
            text.parse::<IpAddr>()
                .unwrap_or_else(|_| panic!("not an IP address: {text}"))
        };
        Self::between(parse(source), parse(destination))
    }

    /// As [`Packet::ip`], of addresses.
    ///
    /// # Panics
    ///
    /// If the families differ.
    #[track_caller]
    pub fn between(source: IpAddr, destination: IpAddr) -> Self {
        assert_eq!(
            source.is_ipv4(),
            destination.is_ipv4(),
            "two families: {source}, {destination}"
        );
        Self {
            destination_mac: RECEIVER_MAC,
            source_mac: SENDER_MAC,
            tags: Vec::new(),
            ethertype: None,
            source,
            destination,
            ttl: 64,
            traffic_class: 0,
            flow_label: 0,
            identification: 0,
            dont_fragment: true,
            more_fragments: false,
            fragment_offset: 0,
            fragmented: false,
            options: Vec::new(),
            extensions: Vec::new(),
            protocol: None,
            first_byte: None,
            length: None,
            header_checksum: None,
            body: Body::Bare { protocol: 59 },
            payload: Vec::new(),
            padding: 0,
            pad_to: 0,
            truncate: None,
        }
    }

    /// Ethernet destination and source.
    pub fn macs(mut self, destination: [u8; 6], source: [u8; 6]) -> Self {
        (self.destination_mac, self.source_mac) = (destination, source);
        self
    }

    /// Adds an 802.1Q tag (identifier 0 ..= 4,095) inside those already there.
    pub fn vlan(mut self, identifier: u16) -> Self {
        self.tags.push((0x8100, identifier));
        self
    }

    /// Adds an 802.1ad service tag inside those already there.
    pub fn service_vlan(mut self, identifier: u16) -> Self {
        self.tags.push((0x88A8, identifier));
        self
    }

    /// Another EtherType than the address family's.
    pub fn ethertype(mut self, ethertype: u16) -> Self {
        self.ethertype = Some(ethertype);
        self
    }

    /// Time to live or hop limit; 64 unless set.
    pub fn ttl(mut self, ttl: u8) -> Self {
        self.ttl = ttl;
        self
    }

    /// Type of service or traffic class: DSCP and ECN.
    pub fn traffic_class(mut self, class: u8) -> Self {
        self.traffic_class = class;
        self
    }

    /// IPv6's flow label, 20 bits.
    pub fn flow_label(mut self, label: u32) -> Self {
        self.flow_label = label & 0xF_FFFF;
        self
    }

    /// IPv4's identification, or that of IPv6's fragment header.
    pub fn identification(mut self, identification: u16) -> Self {
        self.identification = identification;
        self
    }

    /// IPv4: clears "don't fragment", which is set otherwise.
    pub fn may_fragment(mut self) -> Self {
        self.dont_fragment = false;
        self
    }

    /// Makes it a fragment at `offset` (units of 8 bytes). The transport header, if there is one, is written whatever the offset: leave it out
    /// for a later fragment. IPv6 gets a fragment header.
    pub fn fragment(mut self, offset: u16, more: bool) -> Self {
        (self.fragment_offset, self.more_fragments, self.fragmented) = (offset, more, true);
        self.dont_fragment = false;
        self
    }

    /// IPv4 options, padded with zeros to a multiple of 4 bytes; at most 40.
    pub fn options(mut self, options: &[u8]) -> Self {
        self.options = options.to_vec();
        self.options.resize(options.len().next_multiple_of(4), 0);
        self
    }

    /// Adds an IPv6 extension header: its number, and its bytes after "next header" (the length byte first).
    pub fn extension(mut self, number: u8, rest: &[u8]) -> Self {
        self.extensions.push((number, rest.to_vec()));
        self
    }

    /// Another protocol number than the body's, in the last header before it.
    pub fn protocol(mut self, protocol: u8) -> Self {
        self.protocol = Some(protocol);
        self
    }

    /// Another first byte of the IP header: version, and IPv4's header length in words.
    pub fn first_byte(mut self, byte: u8) -> Self {
        self.first_byte = Some(byte);
        self
    }

    /// Another value in IPv4's total length or IPv6's payload length.
    pub fn length(mut self, length: u16) -> Self {
        self.length = Some(length);
        self
    }

    /// Another IPv4 header checksum.
    pub fn header_checksum(mut self, checksum: u16) -> Self {
        self.header_checksum = Some(checksum);
        self
    }

    /// A TCP segment, SYN unless [`Packet::flags`] says otherwise.
    pub fn tcp(mut self, source: u16, destination: u16) -> Self {
        self.body = Body::Tcp(Tcp {
            ports: (source, destination),
            sequence: 0x0102_0304,
            acknowledgement: 0,
            flags: flag::SYN,
            window: 64_240,
            options: Vec::new(),
            checksum: None,
        });
        self
    }

    /// A UDP datagram.
    pub fn udp(mut self, source: u16, destination: u16) -> Self {
        self.body = Body::Udp(Udp {
            ports: (source, destination),
            length: None,
            checksum: None,
        });
        self
    }

    /// An ICMP or, in IPv6, ICMPv6 message; `rest` is the second half of its header, the payload follows.
    pub fn icmp(mut self, kind: u8, code: u8, rest: [u8; 4]) -> Self {
        self.body = Body::Icmp { kind, code, rest };
        self
    }

    /// No transport header: this protocol number and then the payload.
    pub fn bare(mut self, protocol: u8) -> Self {
        self.body = Body::Bare { protocol };
        self
    }

    /// A tunnel: an IP packet as payload, with the protocol number of its version (4 or 41).
    pub fn carrying(self, ip: &[u8]) -> Self {
        let protocol = if ip.first().is_some_and(|byte| byte >> 4 == 6) {
            41
        } else {
            4
        };
        self.bare(protocol).payload(ip)
    }

    /// TCP flags, see [`flag`]. Nothing without a TCP header.
    pub fn flags(mut self, flags: u8) -> Self {
        if let Body::Tcp(tcp) = &mut self.body {
            tcp.flags = flags;
        }
        self
    }

    /// TCP sequence and acknowledgement number. Nothing without a TCP header.
    pub fn sequence(mut self, sequence: u32, acknowledgement: u32) -> Self {
        if let Body::Tcp(tcp) = &mut self.body {
            (tcp.sequence, tcp.acknowledgement) = (sequence, acknowledgement);
        }
        self
    }

    /// TCP options, padded with zeros to a multiple of 4 bytes; at most 40. Nothing without a TCP header.
    pub fn tcp_options(mut self, options: &[u8]) -> Self {
        if let Body::Tcp(tcp) = &mut self.body {
            tcp.options = options.to_vec();
            tcp.options.resize(options.len().next_multiple_of(4), 0);
        }
        self
    }

    /// Another value in UDP's length field. Nothing without a UDP header.
    pub fn udp_length(mut self, length: u16) -> Self {
        if let Body::Udp(udp) = &mut self.body {
            udp.length = Some(length);
        }
        self
    }

    /// Another TCP or UDP checksum; UDP's 0 says that there is none.
    pub fn checksum(mut self, checksum: u16) -> Self {
        match &mut self.body {
            Body::Tcp(tcp) => tcp.checksum = Some(checksum),
            Body::Udp(udp) => udp.checksum = Some(checksum),
            Body::Bare { .. } | Body::Icmp { .. } => {}
        }
        self
    }

    /// What follows the transport header.
    pub fn payload(mut self, payload: &[u8]) -> Self {
        self.payload = payload.to_vec();
        self
    }

    /// A payload of so many bytes, each different from its neighbours.
    pub fn payload_len(mut self, length: usize) -> Self {
        self.payload = (0..length).map(|i| (i % 251) as u8).collect();
        self
    }

    /// Bytes (0xEE) after the end of the IP packet, as short Ethernet frames have.
    pub fn padding(mut self, length: usize) -> Self {
        self.padding = length;
        self
    }

    /// Padding up to a frame of at least this length; Ethernet's own minimum is 60.
    pub fn pad_to(mut self, length: usize) -> Self {
        self.pad_to = length;
        self
    }

    /// Cuts the finished frame after so many bytes, headers or not.
    pub fn truncate(mut self, length: usize) -> Self {
        self.truncate = Some(length);
        self
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

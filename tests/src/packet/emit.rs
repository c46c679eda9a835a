//! From a [`Packet`] to its bytes, the innermost part first.

use super::{Body, Packet, Tcp, Udp, octets, sum};

impl Packet {
    /// The IP packet alone: no Ethernet header, no padding, not truncated.
    pub fn ip_bytes(&self) -> Vec<u8> {
        let body = self.body_bytes();
        if self.source.is_ipv4() {
            self.ipv4_bytes(&body)
        } else {
            self.ipv6_bytes(&body)
        }
    }

    /// The frame, from the Ethernet header to the padding; no frame check sequence.
    pub fn build(&self) -> Vec<u8> {
        let mut frame = Vec::new();
        frame.extend(self.destination_mac);
        frame.extend(self.source_mac);
        for (ethertype, tag) in &self.tags {
            frame.extend(ethertype.to_be_bytes());
            frame.extend(tag.to_be_bytes());
        }
        let family = if self.source.is_ipv4() { 0x0800 } else { 0x86DD };
        frame.extend(self.ethertype.unwrap_or(family).to_be_bytes());
        frame.extend(self.ip_bytes());
        let end = (frame.len() + self.padding).max(self.pad_to);
        frame.resize(end, 0xEE);
        if let Some(length) = self.truncate {
            frame.truncate(length);
        }
        frame
    }

    fn ipv4_bytes(&self, body: &[u8]) -> Vec<u8> {
        let words = 5 + self.options.len() / 4;
        let length = words * 4 + body.len();
        let fragment =
            u16::from(self.dont_fragment) << 14 | u16::from(self.more_fragments) << 13 | self.fragment_offset;
        let mut header = vec![self.first_byte.unwrap_or(0x40 | words as u8), self.traffic_class];
        header.extend(self.length.unwrap_or(length as u16).to_be_bytes());
        header.extend(self.identification.to_be_bytes());
        header.extend(fragment.to_be_bytes());
        header.extend([self.ttl, self.protocol.unwrap_or(self.body_protocol()), 0, 0]);
        header.extend(octets(self.source));
        header.extend(octets(self.destination));
        header.extend(&self.options);
        let checksum = self.header_checksum.unwrap_or_else(|| sum::checksum(&[&header]));
        header[10..12].copy_from_slice(&checksum.to_be_bytes());
        header.extend(body);
        header
    }

    fn ipv6_bytes(&self, body: &[u8]) -> Vec<u8> {
        let mut extensions = self.extensions.clone();
        if self.fragmented {
            let field = self.fragment_offset << 3 | u16::from(self.more_fragments);
            let mut rest = vec![0];
            rest.extend(field.to_be_bytes());
            rest.extend([0, 0]);
            rest.extend(self.identification.to_be_bytes());
            extensions.push((44, rest));
        }
        let mut chain = Vec::new();
        let mut next = self.protocol.unwrap_or(self.body_protocol());
        for (number, rest) in extensions.iter().rev() {
            let mut bytes = vec![next];
            bytes.extend(rest);
            chain.splice(0..0, bytes);
            next = *number;
        }
        let first = u32::from(self.first_byte.unwrap_or(0x60)) << 24 | u32::from(self.traffic_class) << 20;
        let mut header = (first | self.flow_label).to_be_bytes().to_vec();
        let length = (chain.len() + body.len()) as u16;
        header.extend(self.length.unwrap_or(length).to_be_bytes());
        header.extend([next, self.ttl]);
        header.extend(octets(self.source));
        header.extend(octets(self.destination));
        header.extend(chain);
        header.extend(body);
        header
    }

    fn body_protocol(&self) -> u8 {
        match self.body {
            Body::Bare { protocol } => protocol,
            Body::Tcp(_) => 6,
            Body::Udp(_) => 17,
            Body::Icmp { .. } if self.source.is_ipv4() => 1,
            Body::Icmp { .. } => 58,
        }
    }

    fn body_bytes(&self) -> Vec<u8> {
        let (mut bytes, checksum_at, given) = match &self.body {
            Body::Bare { .. } => return self.payload.clone(),
            Body::Tcp(tcp) => (tcp.header(), 16, tcp.checksum),
            Body::Udp(udp) => (udp.header(self.payload.len()), 6, udp.checksum),
            Body::Icmp { kind, code, rest } => (vec![*kind, *code, 0, 0, rest[0], rest[1], rest[2], rest[3]], 2, None),
        };
        bytes.extend(&self.payload);
        let protocol = self.body_protocol();
        let checksum = given.unwrap_or_else(|| match protocol {
            1 => sum::checksum(&[&bytes]),
            _ => sum::with_pseudo_header(self.source, self.destination, protocol, &bytes),
        });
        bytes[checksum_at..checksum_at + 2].copy_from_slice(&checksum.to_be_bytes());
        bytes
    }
}

impl Tcp {
    fn header(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(self.ports.0.to_be_bytes());
        bytes.extend(self.ports.1.to_be_bytes());
        bytes.extend(self.sequence.to_be_bytes());
        bytes.extend(self.acknowledgement.to_be_bytes());
        bytes.extend([((5 + self.options.len() / 4) as u8) << 4, self.flags]);
        bytes.extend(self.window.to_be_bytes());
        bytes.extend([0; 4]);
        bytes.extend(&self.options);
        bytes
    }
}

impl Udp {
    fn header(&self, payload: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(self.ports.0.to_be_bytes());
        bytes.extend(self.ports.1.to_be_bytes());
        bytes.extend(self.length.unwrap_or(8 + payload as u16).to_be_bytes());
        bytes.extend([0; 2]);
        bytes
    }
}

//! Frames, put together from plain fields.

use std::net::IpAddr;

pub(crate) const MACS: [u8; 12] = [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];

/// An Ethernet frame around an IP packet.
pub(crate) fn ethernet(macs: [u8; 12], packet: &[u8]) -> Vec<u8> {
    let ethertype: [u8; 2] = if packet[0] >> 4 == 4 {
        [0x08, 0x00]
    } else {
        [0x86, 0xDD]
    };
    [&macs[..], &ethertype, packet].concat()
}

/// `payload` in IP, of the addresses' family; `class` is type of service or traffic class.
pub(crate) fn ip(source: &str, destination: &str, protocol: u8, class: u8, payload: &[u8]) -> Vec<u8> {
    match (source.parse().unwrap(), destination.parse().unwrap()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let length = (20 + payload.len() as u16).to_be_bytes();
            let mut header = vec![0x45, class, length[0], length[1], 0, 0, 0x40, 0, 63, protocol, 0, 0];
            header.extend(source.octets());
            header.extend(destination.octets());
            let checksum = checksum(&header);
            header[10..12].copy_from_slice(&checksum);
            [&header[..], payload].concat()
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let length = (payload.len() as u16).to_be_bytes();
            let mut header = vec![0x60 | class >> 4, class << 4, 0, 0, length[0], length[1], protocol, 63];
            header.extend(source.octets());
            header.extend(destination.octets());
            [&header[..], payload].concat()
        }
        _ => panic!("{source} and {destination} are of two families"),
    }
}

/// An IP packet in an IP packet.
pub(crate) fn tunnel(source: &str, destination: &str, class: u8, inner: &[u8]) -> Vec<u8> {
    let protocol = if inner[0] >> 4 == 4 { 4 } else { 41 };
    ip(source, destination, protocol, class, inner)
}

/// A UDP datagram in IP.
pub(crate) fn udp(source: &str, destination: &str, ports: (u16, u16), class: u8, data: &[u8]) -> Vec<u8> {
    let length = 8 + data.len() as u16;
    let mut datagram = [
        ports.0.to_be_bytes(),
        ports.1.to_be_bytes(),
        length.to_be_bytes(),
        [0, 0],
    ]
    .concat();
    datagram.extend(data);
    let mut summed = Vec::new();
    for address in [source, destination] {
        match address.parse().unwrap() {
            IpAddr::V4(address) => summed.extend(address.octets()),
            IpAddr::V6(address) => summed.extend(address.octets()),
        }
    }
    summed.extend([0, 17]);
    summed.extend(length.to_be_bytes());
    summed.extend(&datagram);
    let checksum = checksum(&summed);
    datagram[6..8].copy_from_slice(&checksum);
    ip(source, destination, 17, class, &datagram)
}

/// The internet checksum (RFC 1071).
pub(crate) fn checksum(bytes: &[u8]) -> [u8; 2] {
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)])))
        .sum();
    while sum > 0xFFFF {
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    (!sum as u16).to_be_bytes()
}

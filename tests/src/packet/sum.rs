//! The Internet checksum (RFC 1071), the slow and obvious way.

use std::net::IpAddr;

/// The checksum over all parts one after the other; each but the last must have an even length. Over bytes that already
/// hold their right checksum it is 0.
pub(super) fn checksum(parts: &[&[u8]]) -> u16 {
    let mut sum: u64 = 0;
    for part in parts {
        for pair in part.chunks(2) {
            let low = pair.get(1).copied().unwrap_or(0);
            sum += u64::from(u16::from_be_bytes([pair[0], low]));
        }
    }
    while sum > 0xFFFF {
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    !(sum as u16)
}

/// The checksum of a transport header and its payload. A UDP checksum that comes out as 0 is sent as 0xFFFF (RFC 768).
pub(super) fn with_pseudo_header(source: IpAddr, destination: IpAddr, protocol: u8, body: &[u8]) -> u16 {
    let pseudo = pseudo_header(source, destination, protocol, body.len());
    match checksum(&[&pseudo, body]) {
        0 if protocol == 17 => 0xFFFF,
        sum => sum,
    }
}

/// What transport checksums cover besides the transport's own bytes (RFC 9293, RFC 8200).
pub(super) fn pseudo_header(source: IpAddr, destination: IpAddr, protocol: u8, length: usize) -> Vec<u8> {
    let mut bytes = super::octets(source);
    bytes.extend(super::octets(destination));
    if source.is_ipv4() {
        bytes.extend([0, protocol]);
        bytes.extend((length as u16).to_be_bytes());
    } else {
        bytes.extend((length as u32).to_be_bytes());
        bytes.extend([0, 0, 0, protocol]);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_rfc_1071() {
        assert_eq!(checksum(&[&[0x00, 0x01, 0xF2, 0x03, 0xF4, 0xF5, 0xF6, 0xF7]]), !0xDDF2);
    }

    #[test]
    fn an_odd_length_counts_its_last_byte_as_the_high_one() {
        assert_eq!(checksum(&[&[0x01]]), !0x0100);
        assert_eq!(checksum(&[&[0xFF, 0xFF], &[0x01]]), !0x0100);
    }
}

//! Packets read the slow and obvious way, byte by byte from the RFCs, without a line of `lb-common`'s parsers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lb_common::reason::Reason;

/// What the balancer must find in a frame that it may forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// The client.
    pub source: IpAddr,
    /// The VIP.
    pub destination: IpAddr,
    /// TCP's or UDP's number.
    pub protocol: u8,
    /// The client's port.
    pub source_port: u16,
    /// The service's port.
    pub port: u16,
    /// Of the IP packet, in bytes.
    pub length: usize,
    /// Type of service or traffic class.
    pub class: u8,
    /// Where the transport header begins.
    pub transport: usize,
    /// Whether it begins a TCP connection.
    pub syn: bool,
}

/// Two bytes of a frame as a number; 0 beyond its end.
pub fn number(frame: &[u8], at: usize) -> u16 {
    let byte = |at: usize| u16::from(frame.get(at).copied().unwrap_or(0));
    byte(at) << 8 | byte(at + 1)
}

/// IPv6's address at `at`.
pub fn v6(frame: &[u8], at: usize) -> Ipv6Addr {
    let part = |index: usize| number(frame, at + 2 * index);
    Ipv6Addr::new(part(0), part(1), part(2), part(3), part(4), part(5), part(6), part(7))
}

/// IPv4's address at `at`.
pub fn v4(frame: &[u8], at: usize) -> Ipv4Addr {
    Ipv4Addr::new(frame[at], frame[at + 1], frame[at + 2], frame[at + 3])
}

/// Reads a frame; whatever it is for, as far as ports go. Beyond them only `service` frames are looked at.
pub fn read(frame: &[u8], service: impl FnOnce(IpAddr, u8, u16) -> bool) -> Result<Packet, Reason> {
    if frame.len() < 34 {
        return Err(Reason::Truncated);
    }
    let (source, destination, protocol, class, transport, claims): (IpAddr, IpAddr, _, _, _, _) =
        match number(frame, 12) {
            0x0800 => {
                let header = usize::from(frame[14] & 15) * 4;
                if frame[14] >> 4 != 4 || header < 20 {
                    return Err(Reason::BadIpHeader);
                }
                if number(frame, 20) & 0x3FFF != 0 {
                    return Err(Reason::Fragment);
                }
                let claims = usize::from(number(frame, 16));
                (
                    v4(frame, 26).into(),
                    v4(frame, 30).into(),
                    frame[23],
                    frame[15],
                    14 + header,
                    claims,
                )
            }
            0x86DD => {
                if frame.len() < 54 {
                    return Err(Reason::Truncated);
                }
                if frame[14] >> 4 != 6 {
                    return Err(Reason::BadIpHeader);
                }
                let class = frame[14] << 4 | frame[15] >> 4;
                let claims = 40 + usize::from(number(frame, 18));
                (v6(frame, 22).into(), v6(frame, 38).into(), frame[20], class, 54, claims)
            }
            0x8100 | 0x88A8 => return Err(Reason::Vlan),
            _ => return Err(Reason::NotIp),
        };
    let least = match protocol {
        6 => 20,
        17 => 8,
        44 if destination.is_ipv6() => return Err(Reason::Fragment),
        0 | 43 | 51 | 60 | 135 | 139 | 140 if destination.is_ipv6() => return Err(Reason::Ipv6Extension),
        _ => return Err(Reason::NotTcpOrUdp),
    };
    if frame.len() < transport + 4 {
        return Err(Reason::Truncated);
    }
    let port = number(frame, transport + 2);
    if !service(destination, protocol, port) {
        return Err(Reason::NotAVip);
    }
    if claims < transport - 14 {
        return Err(Reason::BadIpHeader);
    }
    if claims < transport - 14 + least || frame.len() < 14 + claims {
        return Err(Reason::Truncated);
    }
    Ok(Packet {
        source,
        destination,
        protocol,
        source_port: number(frame, transport),
        port,
        length: claims,
        class,
        transport,
        syn: protocol == 6 && frame[transport + 13] & 0x12 == 0x02,
    })
}

/// The internet checksum (RFC 1071) over a header that includes its own: 0 if it is right.
pub fn checksum(header: &[u8]) -> u16 {
    let sum = (0..header.len())
        .step_by(2)
        .fold(0_u32, |sum, at| sum + u32::from(number(header, at)));
    let folded = (sum & 0xFFFF) + (sum >> 16);
    !((folded & 0xFFFF) + (folded >> 16)) as u16
}

/// The inner ECN field after a tunnel (RFC 6040, figure 4); nothing: drop.
pub fn after_tunnel(inner: u8, outer: u8) -> Option<u8> {
    match (inner & 3, outer & 3) {
        (0, 3) => None,
        (0, _) => Some(0),
        (1, 3) | (2, 3) | (3, _) => Some(3),
        (2, 1) | (1, _) => Some(1),
        (2, _) => Some(2),
        _ => unreachable!("two bits each"),
    }
}

//! The smallest frame of a flow, for asking the program about it.

use std::net::{IpAddr, SocketAddr};

use crate::model::Protocol;

/// A frame from `source` to `destination`, both of one family: enough headers for the program to read, no checksums.
///
/// Nothing if they are of different families.
pub fn probe(protocol: Protocol, source: SocketAddr, destination: SocketAddr) -> Option<Vec<u8>> {
    let transport_len: u16 = match protocol {
        Protocol::Tcp => 20,
        Protocol::Udp => 8,
    };
    let mut frame = vec![0; 12];
    match (source.ip(), destination.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            frame.extend([0x08, 0x00, 0x45, 0]);
            frame.extend((20 + transport_len).to_be_bytes());
            frame.extend([0, 0, 0, 0, 64, protocol.number(), 0, 0]);
            frame.extend(from.octets());
            frame.extend(to.octets());
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            frame.extend([0x86, 0xDD, 0x60, 0, 0, 0]);
            frame.extend(transport_len.to_be_bytes());
            frame.extend([protocol.number(), 64]);
            frame.extend(from.octets());
            frame.extend(to.octets());
        }
        _ => return None,
    }
    frame.extend(source.port().to_be_bytes());
    frame.extend(destination.port().to_be_bytes());
    frame.resize(frame.len() - 4 + usize::from(transport_len), 0);
    Some(frame)
}

#[cfg(test)]
mod tests {
    use super::*;
    use lb_common::map::ServiceKey;
    use lb_common::parse::parse;

    #[test]
    fn the_parser_reads_what_was_meant() {
        let source: SocketAddr = "198.51.100.7:40000".parse().expect("an address");
        let frame = probe(Protocol::Udp, source, "192.0.2.10:53".parse().expect("an address")).expect("one family");
        let packet = frame.as_slice();
        let candidate = parse(packet).expect("parsed");
        assert_eq!(candidate.key, ServiceKey::v4([192, 0, 2, 10], 17, [0, 53]));
        let flow = candidate.complete(packet).expect("whole");
        assert_eq!((flow.source_port.to_be(), flow.length, flow.v6), (40000, 28, false));
        let other = "[2001:db8::1]:53".parse().expect("an address");
        assert_eq!(probe(Protocol::Udp, source, other), None);
        let frame = probe(Protocol::Tcp, other, "[2001:db8::2]:443".parse().expect("an address")).expect("one family");
        assert_eq!(frame.len(), 14 + 40 + 20);
        assert!(
            parse(frame.as_slice())
                .expect("parsed")
                .complete(frame.as_slice())
                .is_ok()
        );
    }
}

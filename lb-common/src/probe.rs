//! The users' path of health probes: what the probe programs and the daemon must agree on.
//!
//! A probe's socket lives in a network namespace of its own and has a mark, the number of its target. Three programs carry its packets:
//! one writes the mark into the frame ([`Label`]), because marks do not cross namespaces; one finds the target's [`Rewrite`](crate::map::Rewrite)
//! by it, remembers the [`ProbeFlow`] and sends the packet as the balancer would; and one hands what comes back on that flow to
//! the namespace.

use bytemuck::{Pod, Zeroable};

use crate::map::{FAMILY_V4, FAMILY_V6};

/// The names of maps and programs, as the object file has them.
pub mod name {
    /// Hash of [`Rewrite`](crate::map::Rewrite)s by target number: where probes go.
    pub const PROBES: &str = "PROBES";
    /// LRU hash by [`ProbeFlow`](super::ProbeFlow): the interface (`u32` index) that leads to the prober.
    pub const PROBE_FLOWS: &str = "PROBE_FLOWS";
    /// On the prober's interface, outgoing: writes the label.
    pub const LABEL: &str = "lb_probe_label";
    /// On the other end of its wire, incoming: sends to the target.
    pub const SEND: &str = "lb_probe_send";
    /// On interfaces that answers come to, incoming: hands them to the prober. 15 characters: the most that the kernel keeps.
    pub const ANSWER: &str = "lb_probe_answer";
}

/// The conversation of one probe with a VIP, seen from this host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Pod, Zeroable)]
#[repr(C)]
pub struct ProbeFlow {
    /// The VIP; IPv4 in the first four bytes.
    pub vip: [u8; 16],
    /// This host's address; IPv4 in the first four bytes.
    pub host: [u8; 16],
    /// The VIP's port as on the wire; 0 for ICMP.
    pub vip_port: [u8; 2],
    /// This host's port as on the wire; for ICMP the echo's identifier.
    pub host_port: [u8; 2],
    /// The protocol's number.
    pub protocol: u8,
    /// [`FAMILY_V4`] or [`FAMILY_V6`].
    pub family: u8,
    /// Zero.
    pub reserved: [u8; 2],
}

/// Which way a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// To the VIP.
    Out,
    /// Back from it.
    Back,
}

/// The beginning of labels: a locally administered unicast address.
const LABEL_PREFIX: [u8; 2] = [0x02, 0x6C];

/// Length of a label: both Ethernet addresses.
pub const LABEL_LEN: usize = 12;

/// What a label says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Label {
    /// The target's number: the socket's mark.
    pub number: u32,
    /// Length in bytes up to which the packet is padded inside of the tunnel; 0: it is sent as it is. The socket's priority.
    pub padded: u16,
}

impl Label {
    /// The Ethernet addresses that say it. The source names the target, the destination the length.
    #[inline(always)]
    pub const fn bytes(self) -> [u8; LABEL_LEN] {
        let [a, b, c, d] = self.number.to_be_bytes();
        let [high, low] = self.padded.to_be_bytes();
        let [first, second] = LABEL_PREFIX;
        [first, second, 0, 0, high, low, first, second, a, b, c, d]
    }

    /// What the Ethernet addresses of a frame say; nothing: they are no label.
    #[inline(always)]
    pub const fn read(bytes: &[u8; LABEL_LEN]) -> Option<Self> {
        let [to, to_second, _, _, high, low, from, from_second, a, b, c, d] = *bytes;
        let [first, second] = LABEL_PREFIX;
        if to != first || to_second != second || from != first || from_second != second {
            return None;
        }
        Some(Self {
            number: u32::from_be_bytes([a, b, c, d]),
            padded: u16::from_be_bytes([high, low]),
        })
    }
}

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP_V6: u8 = 58;

/// The flow of an IPv4 packet, by its header and the first 8 bytes behind it; nothing if probes have no such packets: with options,
/// fragments, other protocols.
#[inline(always)]
pub fn flow_v4(header: &[u8; 20], transport: &[u8; 8], direction: Direction) -> Option<ProbeFlow> {
    // "More fragments" or an offset; "don't fragment" is no matter.
    if header[0] != 0x45 || header[6] & 0x3F != 0 || header[7] != 0 {
        return None;
    }
    let mut source = [0; 16];
    let mut destination = [0; 16];
    source[..4].copy_from_slice(&header[12..16]);
    destination[..4].copy_from_slice(&header[16..20]);
    flow(FAMILY_V4, header[9], source, destination, transport, direction)
}

/// As [`flow_v4`], of an IPv6 packet; without extension headers.
#[inline(always)]
pub fn flow_v6(header: &[u8; 40], transport: &[u8; 8], direction: Direction) -> Option<ProbeFlow> {
    let mut source = [0; 16];
    let mut destination = [0; 16];
    source.copy_from_slice(&header[8..24]);
    destination.copy_from_slice(&header[24..40]);
    flow(FAMILY_V6, header[6], source, destination, transport, direction)
}

#[inline(always)]
fn flow(
    family: u8,
    protocol: u8,
    source: [u8; 16],
    destination: [u8; 16],
    transport: &[u8; 8],
    direction: Direction,
) -> Option<ProbeFlow> {
    let [a, b, c, d, e, f, ..] = *transport;
    let (source_port, destination_port) = match (family, protocol) {
        (_, TCP | UDP) => ([a, b], [c, d]),
        // The identifier is this host's in both directions.
        (FAMILY_V4, ICMP) | (FAMILY_V6, ICMP_V6) => {
            if a != echo(family, direction) {
                return None;
            }
            match direction {
                Direction::Out => ([e, f], [0, 0]),
                Direction::Back => ([0, 0], [e, f]),
            }
        }
        _ => return None,
    };
    let (vip, host, vip_port, host_port) = match direction {
        Direction::Out => (destination, source, destination_port, source_port),
        Direction::Back => (source, destination, source_port, destination_port),
    };
    Some(ProbeFlow {
        vip,
        host,
        vip_port,
        host_port,
        protocol,
        family,
        reserved: [0; 2],
    })
}

#[inline(always)]
const fn echo(family: u8, direction: Direction) -> u8 {
    match (family, direction) {
        (FAMILY_V4, Direction::Out) => 8,
        (FAMILY_V4, Direction::Back) => 0,
        (_, Direction::Out) => 128,
        (_, Direction::Back) => 129,
    }
}

/// Whether this is an ICMP error (RFC 792 type 3, RFC 4443 type 1) that quotes, 8 bytes further on, the packet that could not be
/// delivered.
#[inline(always)]
pub const fn is_unreachable(family: u8, protocol: u8, transport: &[u8; 8]) -> bool {
    match (family, protocol) {
        (FAMILY_V4, ICMP) => transport[0] == 3,
        (FAMILY_V6, ICMP_V6) => transport[0] == 1,
        _ => false,
    }
}

const _: () = assert!(size_of::<ProbeFlow>() == 40);

#[cfg(feature = "user")]
// SAFETY: `Pod`: any bytes are a value, and none of them are padding.
unsafe impl aya::Pod for ProbeFlow {}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: [u8; 4] = [10, 0, 0, 5];
    const VIP: [u8; 4] = [192, 0, 2, 10];

    fn v4(protocol: u8, source: [u8; 4], destination: [u8; 4]) -> [u8; 20] {
        let mut header = [0; 20];
        header[0] = 0x45;
        header[6] = 0x40;
        header[9] = protocol;
        header[12..16].copy_from_slice(&source);
        header[16..].copy_from_slice(&destination);
        header
    }

    fn v6(protocol: u8, source: u8, destination: u8) -> [u8; 40] {
        let mut header = [0; 40];
        header[0] = 0x60;
        header[6] = protocol;
        header[23] = source;
        header[39] = destination;
        header
    }

    #[test]
    fn labels() {
        for (number, padded) in [(1, 0), (0xABCD, 1_500), (u32::MAX, u16::MAX)] {
            let label = Label { number, padded };
            assert_eq!(Label::read(&label.bytes()), Some(label));
        }
        let label = Label {
            number: 0x0102_0304,
            padded: 0x0506,
        };
        assert_eq!(label.bytes(), [0x02, 0x6C, 0, 0, 5, 6, 0x02, 0x6C, 1, 2, 3, 4]);
        for byte in [0, 1, 6, 7] {
            let mut other = label.bytes();
            other[byte] ^= 1;
            assert_eq!(Label::read(&other), None, "byte {byte}");
        }
    }

    #[test]
    fn an_answer_has_the_flow_of_its_question() {
        let there = [0x9C, 0x40, 0, 80, 1, 2, 3, 4];
        let back = [0, 80, 0x9C, 0x40, 9, 9, 9, 9];
        for protocol in [TCP, UDP] {
            let out = flow_v4(&v4(protocol, HOST, VIP), &there, Direction::Out);
            assert!(out.is_some_and(|flow| flow.host_port == [0x9C, 0x40] && flow.vip[..4] == VIP));
            assert_eq!(out, flow_v4(&v4(protocol, VIP, HOST), &back, Direction::Back));
            assert_ne!(out, flow_v4(&v4(protocol, HOST, VIP), &there, Direction::Back));
            let out = flow_v6(&v6(protocol, 1, 2), &there, Direction::Out);
            assert!(out.is_some_and(|flow| flow.family == FAMILY_V6 && flow.vip[15] == 2));
            assert_eq!(out, flow_v6(&v6(protocol, 2, 1), &back, Direction::Back));
        }
    }

    #[test]
    fn an_echo_is_known_by_its_identifier() {
        let out = flow_v4(&v4(ICMP, HOST, VIP), &[8, 0, 0, 0, 0xAB, 0xCD, 0, 1], Direction::Out);
        let back = flow_v4(&v4(ICMP, VIP, HOST), &[0, 0, 0, 0, 0xAB, 0xCD, 0, 1], Direction::Back);
        assert!(out.is_some());
        assert_eq!(out, back);
        let out = flow_v6(&v6(ICMP_V6, 1, 2), &[128, 0, 0, 0, 0xAB, 0xCD, 0, 1], Direction::Out);
        let back = flow_v6(&v6(ICMP_V6, 2, 1), &[129, 0, 0, 0, 0xAB, 0xCD, 0, 1], Direction::Back);
        assert!(out.is_some());
        assert_eq!(out, back);
        // Somebody pings this host.
        let asked = flow_v4(&v4(ICMP, VIP, HOST), &[8, 0, 0, 0, 0xAB, 0xCD, 0, 1], Direction::Back);
        assert_eq!(asked, None);
    }

    #[test]
    fn what_probes_do_not_send() {
        let check = |change: fn(&mut [u8; 20])| {
            let mut header = v4(TCP, VIP, HOST);
            change(&mut header);
            assert_eq!(flow_v4(&header, &[0; 8], Direction::Back), None, "{header:?}");
        };
        check(|header| header[0] = 0x46);
        check(|header| header[6] = 0x20);
        check(|header| header[7] = 1);
        check(|header| header[9] = 47);
        // ICMPv6 in IPv4.
        check(|header| header[9] = ICMP_V6);
    }

    #[test]
    fn unreachable() {
        for (family, protocol, kind, expected) in [
            (FAMILY_V4, ICMP, 3, true),
            (FAMILY_V4, ICMP, 11, false),
            (FAMILY_V6, ICMP_V6, 1, true),
            (FAMILY_V6, ICMP_V6, 3, false),
            (FAMILY_V4, TCP, 3, false),
        ] {
            assert_eq!(is_unreachable(family, protocol, &[kind, 0, 0, 0, 0, 0, 0, 0]), expected);
        }
    }
}

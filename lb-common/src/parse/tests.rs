//! Frames as byte arrays, written by hand: what is read from good ones, and the reason of each bad one.

use super::*;

mod ipv4;
mod ipv6;

/// Destination and source of every frame here, and the Ethertype.
const ETH_V4: &[u8] = &[2, 0, 0, 0, 0, 0xED, 2, 0, 0, 0, 0, 0xC1, 0x08, 0x00];
const ETH_V6: &[u8] = &[2, 0, 0, 0, 0, 0xED, 2, 0, 0, 0, 0, 0xC1, 0x86, 0xDD];
/// From port 40,000 to 80, SYN.
const TCP: &[u8] = &[
    0x9C, 0x40, 0x00, 0x50, 1, 2, 3, 4, 0, 0, 0, 0, 0x50, 0x02, 0xFA, 0xF0, 0x5D, 0x90, 0, 0,
];
/// From port 40,000 to 53, no payload, no checksum.
const UDP: &[u8] = &[0x9C, 0x40, 0x00, 0x35, 0x00, 0x08, 0x00, 0x00];
const SOURCE_PORT: u16 = u16::from_ne_bytes([0x9C, 0x40]);

/// Key and flow, as the program asks for them: the flow only after the service is known.
fn read<P: Packet + ?Sized>(packet: &P) -> Result<(ServiceKey, Flow), Reason> {
    let candidate = parse(packet)?;
    let flow = candidate.complete(packet)?;
    assert_eq!(candidate.v6(), flow.v6);
    Ok((candidate.key, flow))
}

#[track_caller]
fn refused(frame: &[u8], reason: Reason, what: &str) {
    assert_eq!(read(frame).map(|_| ()), Err(reason), "{what}: {frame:02x?}");
}

/// `frame` with some of its bytes replaced.
fn with(frame: &[u8], at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    frame[at..at + bytes.len()].copy_from_slice(bytes);
    frame
}

/// A frame of which only the first `readable` bytes can be read directly, as of a driver that uses several buffers.
struct Parts<'a> {
    readable: &'a [u8],
    total: usize,
}

impl Packet for Parts<'_> {
    fn bytes<const N: usize>(&self, offset: usize) -> Option<&[u8; N]> {
        self.readable.bytes(offset)
    }

    fn holds(&self, length: usize) -> bool {
        self.total >= length
    }
}

/// Every split of a good frame into a readable part and the rest: enough to read means accepted, and never what the
/// frame as a whole does not have.
#[track_caller]
fn every_split(frame: &[u8], needed: usize) {
    let whole = read(frame).expect("a good frame");
    for end in 0..=frame.len() {
        let total = frame.len();
        let readable = &frame[..end];
        let expected = if end < needed {
            Err(Reason::Truncated)
        } else {
            Ok(whole)
        };
        assert_eq!(
            read(&Parts { readable, total }),
            expected,
            "{end} of {total} bytes readable"
        );
        let total = total - 1;
        let readable = &frame[..end.min(total)];
        assert_eq!(
            read(&Parts { readable, total }),
            Err(Reason::Truncated),
            "{end} of {total} bytes"
        );
    }
}

#[test]
fn ethertypes() {
    // As long as Ethernet makes any frame: 60 bytes.
    let frame = |ethertype: [u8; 2]| with(&[0; 60], 12, &ethertype);
    for ethertype in 0..=u16::MAX {
        let expected = match ethertype {
            0x0800 => Ok(Family::V4),
            0x86DD => Ok(Family::V6),
            0x8100 | 0x88A8 => Err(Reason::Vlan),
            _ => Err(Reason::NotIp),
        };
        assert_eq!(
            family(frame(ethertype.to_be_bytes()).as_slice()),
            expected,
            "{ethertype:#06x}"
        );
    }
}

#[test]
fn a_tagged_packet_is_not_read_through() {
    for tag in [[0x81, 0x00, 0x00, 0x64], [0x88, 0xA8, 0x00, 0x64]] {
        let inner = [&ETH_V4[12..], ipv4::HEADER_TCP, TCP].concat();
        refused(&[&ETH_V4[..12], &tag[..], &inner].concat(), Reason::Vlan, "tagged");
    }
}

#[test]
fn frames_that_are_hardly_there() {
    for length in 0..34 {
        for frame in [vec![0; length], vec![0xFF; length]] {
            refused(&frame, Reason::Truncated, "short");
        }
    }
    refused(&[0; 34], Reason::NotIp, "zeros");
    refused(&[0xFF; 1514], Reason::NotIp, "ones");
}

/// Whatever the bytes: no panic, and what is accepted lies within the frame.
#[test]
fn any_bytes() {
    let mut state = 1_u64;
    let mut random = move || {
        state = state.wrapping_add(1);
        crate::hash::finish(state)
    };
    let mut accepted = 0;
    for round in 0..200_000 {
        let length = random() as usize % 120;
        let mut frame: Vec<u8> = (0..length).map(|_| random() as u8).collect();
        // Most random frames would end at the first check: pull these towards an IP packet.
        if length > 40 && round % 4 != 0 {
            let v4 = random() % 2 == 0;
            frame[12..14].copy_from_slice(if v4 { &[0x08, 0x00] } else { &[0x86, 0xDD] });
            frame[14] = if v4 { 0x45 | random() as u8 & 7 } else { 0x60 };
            frame[if v4 { 20 } else { 18 }] = 0;
            frame[if v4 { 16 } else { 18 }] = 0;
            if v4 {
                frame[21] = 0;
            }
            frame[if v4 { 23 } else { 20 }] = [6, 17, 58, 1][random() as usize % 4];
        }
        if let Ok((_, flow)) = read(frame.as_slice()) {
            accepted += 1;
            assert!(ETH_LEN + flow.length as usize <= frame.len(), "{frame:02x?}");
            assert!(flow.length >= if flow.v6 { 48 } else { 28 }, "{frame:02x?}");
        }
    }
    assert!(accepted > 4_000, "the test tests little: {accepted} accepted");
}

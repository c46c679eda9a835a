//! Whose a frame is: the host's own Ethernet addresses, for each interface that the program is on.
//!
//! A frame that a switch floods, or that a promiscuous interface takes in, arrives at hosts that it is not for. The program may
//! balance it only if its destination is the host's own, on the interface that it came by: a host with two interfaces on one link
//! receives such a frame twice, and must forward it once.
//!
//! Userspace keeps every own address in a hash map ([`LocalMac`] is the key), which the slow path asks. The fast path compares words of
//! an array. The first is [`only`]: where the program is on one interface, which is the rule, or on a bond, no packet needs to look further. Then
//! each pair of address and interface has one [`place`], and place and word together name the pair without doubt. Of two pairs
//! with one place, the other is found by the slow path.

use bytemuck::{Pod, Zeroable};

/// Words of the array: [`only`], and as many places as [`place`] gives.
pub const WORDS: u32 = 1 + (1 << 16);
/// The array's first word if no address is one on every interface that the program is on: no [`only`] is odd.
pub const NOT_ONLY: u64 = 1;

/// An address of this host's on an interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
#[repr(C)]
pub struct LocalMac {
    /// The six bytes as on the wire, the first one in the lowest bits; the upper 16 bits are zero.
    pub mac: u64,
    /// Index of the interface that frames for it arrive by.
    pub ifindex: u32,
    /// Zero.
    pub reserved: u32,
}

const _: () = assert!(size_of::<LocalMac>() == 16);

impl LocalMac {
    /// An address on an interface.
    pub const fn new(mac: [u8; 6], ifindex: u32) -> Self {
        let [a, b, c, d, e, f] = mac;
        Self::of_frame(u64::from_le_bytes([a, b, c, d, e, f, 0, 0]), ifindex)
    }

    /// The destination of a frame that begins with these 8 bytes, the first in the lowest bits.
    #[inline(always)]
    pub const fn of_frame(head: u64, ifindex: u32) -> Self {
        Self {
            mac: head & 0xFFFF_FFFF_FFFF,
            ifindex,
            reserved: 0,
        }
    }
}

/// The array's first word, if this is the host's own address on every interface that the program is on.
///
/// `head` are the frame's first 8 bytes, the first in the lowest bits; the last two of them do not matter.
#[inline(always)]
pub const fn only(head: u64) -> u64 {
    head << 16
}

/// The place of a frame's destination in the array, 1 to 65,536, and the word that stands there if it is this host's own.
///
/// `head` are the frame's first 8 bytes, the first in the lowest bits; the last two of them do not matter. The word is never 0, which is a
/// free place: an interface's index has 31 bits.
#[inline(always)]
pub const fn place(head: u64, ifindex: u32) -> (u64, u64) {
    let ifindex = ifindex as u64;
    (
        1 + ((head >> 32 ^ ifindex) & 0xFFFF),
        (head << 16) + (ifindex >> 16) + 1,
    )
}

/// Whether a frame that begins with these 8 bytes is for a group: broadcast or multicast (IEEE 802.3: the first byte's lowest bit).
#[inline(always)]
pub const fn is_group(head: u64) -> bool {
    head & 1 != 0
}

#[cfg(feature = "user")]
mod user {
    // SAFETY: it is `Pod`: any bytes are a value, and none of them are padding.
    unsafe impl aya::Pod for super::LocalMac {}
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The destination again, from place and word.
    fn back(place: u64, word: u64) -> (u64, u64) {
        let (mac, upper) = (word >> 16, (word & 0xFFFF) - 1);
        (mac, upper << 16 | ((place - 1) ^ mac >> 32) & 0xFFFF)
    }

    #[test]
    fn place_and_word_name_address_and_interface_without_doubt() {
        for mac in [
            [0, 0, 0, 0, 0, 0],
            [2, 0, 0, 0, 0, 1],
            [0xFE, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF],
            [0, 0, 0x5E, 0, 1, 0xFF],
        ] {
            for ifindex in [1, 2, 0xFFFF, 0x1_0000, 0x1_0002, i32::MAX as u32] {
                let key = LocalMac::new(mac, ifindex);
                let (place, word) = place(key.mac, ifindex);
                assert!((1..WORDS.into()).contains(&place) && word != 0);
                assert_eq!(only(key.mac | 0xABCD << 48), key.mac << 16);
                assert_ne!(only(key.mac), NOT_ONLY);
                assert_eq!(back(place, word), (key.mac, ifindex.into()), "{mac:02x?} on {ifindex}");
                // The source address that follows in a frame changes nothing.
                assert_eq!(super::place(key.mac | 0xABCD << 48, ifindex), (place, word));
                assert_eq!(LocalMac::of_frame(key.mac | 0xABCD << 48, ifindex), key);
            }
        }
    }

    #[test]
    fn groups_are_told_by_the_first_bit_on_the_wire() {
        for (mac, group) in [
            ([0xFF; 6], true),
            ([0x01, 0, 0x5E, 0, 0, 1], true),
            ([0x33, 0x33, 0, 0, 0, 1], true),
            ([0x02, 0, 0, 0, 0, 1], false),
            ([0, 0, 0x5E, 0, 1, 7], false),
        ] {
            assert_eq!(is_group(LocalMac::new(mac, 1).mac), group, "{mac:02x?}");
        }
    }
}

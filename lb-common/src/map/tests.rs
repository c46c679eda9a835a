//! Keys are bytes of the wire; halves of slots and bases do not mix.

use super::*;

#[test]
fn keys_are_the_bytes_of_the_wire() {
    let v4 = ServiceKey::v4([192, 0, 2, 10], 6, [0x00, 0x50]);
    assert_eq!(v4.address_high, 0);
    assert_eq!(v4.address_low, u64::from(u32::from_ne_bytes([192, 0, 2, 10])));
    assert_eq!(v4.word.to_ne_bytes(), [0x00, 0x50, 6, 4]);
    let address = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16];
    let v6 = ServiceKey::v6(address, 17, [0x1F, 0x90]);
    assert_eq!(v6.address_high.to_ne_bytes(), address[..8]);
    assert_eq!(v6.address_low.to_ne_bytes(), address[8..]);
    assert_eq!(v6.word.to_ne_bytes(), [0x1F, 0x90, 17, 6]);
}

/// An IPv4 service is never one of IPv6, whatever the addresses: `::192.0.2.10` is not 192.0.2.10.
#[test]
fn families_have_keys_of_their_own() {
    let mut address = [0; 16];
    address[8..12].copy_from_slice(&[192, 0, 2, 10]);
    let (v4, v6) = (
        ServiceKey::v4([192, 0, 2, 10], 6, [0, 80]),
        ServiceKey::v6(address, 6, [0, 80]),
    );
    assert_eq!((v4.address_high, v4.address_low), (v6.address_high, v6.address_low));
    assert_ne!(v4, v6);
}

#[test]
fn slots_have_two_halves() {
    for (current, previous) in [(0, 0), (1, 0), (0, 1), (0xFFFE, 3), (NOBODY, 7), (7, NOBODY)] {
        let slot = Slot(u32::from(previous) << 16 | u32::from(current));
        assert_eq!((slot.current(), slot.previous()), (current, previous));
    }
    for owner in [0, 1, 0x8000, NOBODY] {
        let slot = Slot::stable(owner);
        assert_eq!((slot.current(), slot.previous()), (owner, owner));
    }
    assert_eq!(Slot::EMPTY.current(), NOBODY);
}

#[test]
fn bases_have_two_halves() {
    for (ring, backends) in [(0, 0), (1, 2), (u32::MAX, 0), (0, u32::MAX), (0x1234_5678, 0x9ABC_DEF0)] {
        let entry = ServiceEntry {
            bases: ServiceEntry::pack_bases(ring, backends),
            ..ServiceEntry::default()
        };
        assert_eq!((entry.ring_base(), entry.backend_base()), (ring, backends));
    }
}

#[test]
fn an_entry_knows_its_key() {
    let key = ServiceKey::v4([192, 0, 2, 10], 6, [0, 80]);
    let entry = ServiceEntry {
        address_high: key.address_high,
        address_low: key.address_low,
        word: key.word,
        ..ServiceEntry::default()
    };
    assert_eq!(entry.key(), key);
    assert_eq!(ServiceEntry::default().key().word, 0, "free");
}

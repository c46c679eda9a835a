//! The hashes are a contract of the whole fleet: nodes of two releases must pick the same backend for a flow.
//!
//! The golden values come from a program of its own, written from the descriptions in this module; a change to any of them is a
//! change of the contract, never of the test.
#![cfg(target_endian = "little")]

use super::*;

const V4: ServiceKey = ServiceKey::v4([192, 0, 2, 10], 6, [0x00, 0x50]);
/// 2001:db8::a, UDP, port 53.
const V6: ServiceKey = ServiceKey::v6(
    [0x20, 0x01, 0x0D, 0xB8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x0A],
    17,
    [0x00, 0x35],
);
/// 198.51.100.1 and port 40,000, as they lie on the wire.
const CLIENT_V4: u64 = u32::from_le_bytes([198, 51, 100, 1]) as u64;
const PORT: u16 = u16::from_le_bytes([0x9C, 0x40]);
/// 2001:db8:c::a.
const CLIENT_V6: (u64, u64) = (
    u64::from_le_bytes([0x20, 0x01, 0x0D, 0xB8, 0x00, 0x0C, 0, 0]),
    u64::from_le_bytes([0, 0, 0, 0, 0, 0, 0, 0x0A]),
);
const KEYS: HashKeys = HashKeys::from_seed(0x5EED);

#[test]
fn golden_keys() {
    for (seed, keys) in [
        // SplitMix64's own published sequence for the state 0, the last three made odd.
        (
            0,
            [
                0xE220_A839_7B1D_CDAF,
                0x6E78_9E6A_A1B9_65F5,
                0x06C4_5D18_8009_454F,
                0xF88B_B8A8_724C_81ED,
            ],
        ),
        (
            1,
            [
                0x910A_2DEC_8902_5CC1,
                0xBEEB_8DA1_658E_EC67,
                0xF893_A2EE_FB32_555F,
                0x71C1_8690_EE42_C90B,
            ],
        ),
        (
            0x5EED,
            [
                0x09F1_FD9D_03F0_A9B4,
                0x5532_7416_1BBF_8475,
                0x5D5B_CA46_96B3_43B3,
                0x70D2_9B6C_7D22_528D,
            ],
        ),
        (
            u64::MAX,
            [
                0xE4D9_7177_1B65_2C20,
                0xE99F_F867_DBF6_82C9,
                0x382F_F84C_B272_81E9,
                0x6D1D_B36C_CBA9_82D3,
            ],
        ),
    ] {
        assert_eq!(HashKeys::from_seed(seed), HashKeys(keys), "{seed:#x}");
    }
}

#[test]
fn golden_salts() {
    assert_eq!(service_salt(V4), 0x895F_5AD2_96C2_0F61);
    assert_eq!(service_salt(V6), 0xCE23_BA7B_1166_ABE7);
}

#[test]
fn golden_places() {
    for (mask, v4, v6) in [
        (0, (0, 0), (0, 0)),
        (63, (31, 49), (60, 1)),
        (0x7FFF, (799, 4_977), (9_980, 25_153)),
        (u32::MAX, (7_045_919, 2_189_693_809), (11_708_156, 1_758_028_353)),
    ] {
        assert_eq!(
            (service_places(V4, mask), service_places(V6, mask)),
            (v4, v6),
            "{mask:#x}"
        );
    }
}

/// What of a flow is hashed (5-tuple, address, port, nothing), its hash, and its slot among 65,537 and among 251.
#[test]
fn golden_hashes_and_slots() {
    let salt = service_salt(V4);
    for (address, port, hash, slots) in [
        (CLIENT_V4, PORT, 0xA5C4_502C_3E16_67C1, (42_436, 162)),
        (CLIENT_V4, 0, 0x9A60_A909_F690_D435, (39_521, 151)),
        (0, PORT, 0xC67C_F5D0_A206_1D8A, (50_813, 194)),
        (0, 0, 0x09F8_3723_9418_CE16, (2_552, 9)),
    ] {
        let found = flow_hash(&KEYS, salt, false, 0, address, port);
        assert_eq!(found, hash, "{found:#018x}");
        assert_eq!((slot(found, 65_537), slot(found, 251)), slots, "{found:#018x}");
    }
    let salt = service_salt(V6);
    for ((high, low), port, hash, slots) in [
        (CLIENT_V6, PORT, 0x7679_AC09_E248_87DB, (30_330, 116)),
        (CLIENT_V6, 0, 0x01D5_59D9_DD92_79D1, (469, 1)),
        ((0, 0), PORT, 0x7CD6_02A5_7021_24EB, (31_958, 122)),
        ((0, 0), 0, 0x9015_F834_734F_5FED, (36_886, 141)),
    ] {
        let found = flow_hash(&KEYS, salt, true, high, low, port);
        assert_eq!(found, hash, "{found:#018x}");
        assert_eq!((slot(found, 65_537), slot(found, 251)), slots, "{found:#018x}");
    }
}

#[test]
fn slots_at_the_edges() {
    for size in [1, 2, 251, 65_537, u32::MAX] {
        assert_eq!(slot(0, size), 0);
        assert_eq!(slot(u64::MAX, size), size - 1);
    }
    for hash in [0, 1, u64::from(u32::MAX), u64::MAX] {
        assert_eq!(slot(hash, 0), 0, "an empty ring");
    }
    // The low half of the hash has no say.
    assert_eq!(slot(0xFFFF_FFFF, 65_537), 0);
}

/// Flows of one client network, as an edge sees them: neighbouring addresses, neighbouring ports. The slots get the same share
/// of them, to the extent that chance gives (chi-squared with 250 degrees of freedom: mean 250, deviation 22).
#[test]
fn slots_are_spread_evenly() {
    const SLOTS: u32 = 251;
    const FLOWS: u32 = 251 * 400;
    for seed in [0, 0x5EED, u64::MAX] {
        let keys = HashKeys::from_seed(seed);
        type Flows = fn(u32) -> (bool, u64, u64, u16);
        let patterns: [(&str, Flows); 6] = [
            ("ports of one address", |i| {
                (false, 0, CLIENT_V4 + u64::from(i >> 16 << 24), (i as u16).to_be())
            }),
            ("addresses, one port", |i| (false, 0, u64::from(i.to_be()), PORT)),
            ("both", |i| {
                (false, 0, u64::from((i / 400).to_be()), ((i % 400) as u16).to_be())
            }),
            ("IPv6 ports", |i| {
                (
                    true,
                    CLIENT_V6.0,
                    CLIENT_V6.1 + u64::from(i >> 16 << 24),
                    (i as u16).to_be(),
                )
            }),
            ("IPv6 hosts", |i| (true, CLIENT_V6.0, u64::from(i).to_be(), PORT)),
            ("IPv6 networks", |i| (true, u64::from(i).to_be(), CLIENT_V6.1, PORT)),
        ];
        for (name, flow) in patterns {
            let mut counts = [0_u32; SLOTS as usize];
            for i in 0..FLOWS {
                let (v6, high, low, port) = flow(i);
                let salt = service_salt(if v6 { V6 } else { V4 });
                counts[slot(flow_hash(&keys, salt, v6, high, low, port), SLOTS) as usize] += 1;
            }
            let expected = f64::from(FLOWS / SLOTS);
            let squares = counts.iter().map(|count| (f64::from(*count) - expected).powi(2));
            let chi = squares.sum::<f64>() / expected;
            assert!(
                (120.0..380.0).contains(&chi),
                "{name}, seed {seed:#x}: chi-squared {chi:.0}"
            );
        }
    }
}

/// For one IPv4 service no two flows share a hash.
#[test]
fn ipv4_hashes_are_distinct() {
    let salt = service_salt(V4);
    let mut hashes: Vec<u64> = (0..200_000_u64)
        .map(|i| flow_hash(&KEYS, salt, false, 0, i >> 4, (i & 15) as u16))
        .collect();
    hashes.sort_unstable();
    hashes.dedup();
    assert_eq!(hashes.len(), 200_000);
}

/// Who changes one bit of seed, address, port or service gets another slot, on average half of the hash's bits.
#[test]
fn every_bit_counts() {
    let hash = |seed: u64, key: ServiceKey, v6, high, low, port| {
        flow_hash(&HashKeys::from_seed(seed), service_salt(key), v6, high, low, port)
    };
    for v6 in [false, true] {
        let key = if v6 { V6 } else { V4 };
        let (high, low) = if v6 { CLIENT_V6 } else { (0, CLIENT_V4) };
        let before = hash(7, key, v6, high, low, PORT);
        let mut changed = Vec::new();
        for bit in 0..64 {
            changed.push(hash(7 ^ 1 << bit, key, v6, high, low, PORT));
            if v6 || bit < 32 {
                changed.push(hash(7, key, v6, high, low ^ 1 << bit, PORT));
            }
            if v6 {
                changed.push(hash(7, key, v6, high ^ 1 << bit, low, PORT));
            }
            if bit < 16 {
                changed.push(hash(7, key, v6, high, low, PORT ^ 1 << bit));
            }
            if bit < 24 {
                let word = key.word ^ 1 << bit;
                changed.push(hash(7, ServiceKey { word, ..key }, v6, high, low, PORT));
            }
        }
        for after in &changed {
            // The slot comes from the upper half: that is where the change must show.
            assert_ne!(before >> 32, after >> 32);
        }
        let flipped: u32 = changed.iter().map(|after| ((before ^ after) >> 32).count_ones()).sum();
        let share = f64::from(flipped) / (32 * changed.len()) as f64;
        assert!((0.4..0.6).contains(&share), "{share}");
    }
}

/// Two places for 4,000 services of common shapes in a table of 16,384: first and second rarely collide, both are spread.
#[test]
fn places_are_spread() {
    const MASK: u32 = 16_383;
    type Keys = fn(u32) -> ServiceKey;
    let patterns: [(&str, Keys); 3] = [
        ("one network, one port", |i| {
            let [a, b, c, d] = (0xC000_0000 | i).to_be_bytes();
            ServiceKey::v4([a, b, c, d], 6, [0, 80])
        }),
        ("one address, all ports", |i| {
            ServiceKey::v4([192, 0, 2, 10], 17, (i as u16).to_be_bytes())
        }),
        ("IPv6", |i| {
            let mut vip = [0x20, 0x01, 0x0D, 0xB8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            vip[12..].copy_from_slice(&i.to_be_bytes());
            ServiceKey::v6(vip, 6, [0x01, 0xBB])
        }),
    ];
    for (name, key) in patterns {
        let mut first = vec![0_u32; MASK as usize + 1];
        let mut second = first.clone();
        let mut same = 0;
        for i in 0..4_000 {
            let (one, two) = service_places(key(i), MASK);
            first[one as usize] += 1;
            second[two as usize] += 1;
            same += u32::from(one == two);
        }
        assert!(same <= 8, "{name}: {same} services with one place only");
        for counts in [first, second] {
            // With a quarter of a service a place, chance makes 6 in one place a rarity.
            assert!(counts.iter().all(|count| *count <= 8), "{name}");
        }
    }
}

/// Services of common shapes, in a table of which they fill two fifths: every one finds a place of its own.
///
/// That is so if no connected part of the graph, whose edges are the services and whose corners are the places, has more edges than
/// corners.
#[test]
fn services_find_their_places() {
    type Keys = fn(u32) -> ServiceKey;
    let patterns: [(&str, Keys); 4] = [
        ("neighbours, one port", |i| {
            let [a, b, c, d] = (0xC000_0200 + i).to_be_bytes();
            ServiceKey::v4([a, b, c, d], 6, [0, 80])
        }),
        ("neighbours, three ports each", |i| {
            let [a, b, c, d] = (0xC000_0200 + i / 3).to_be_bytes();
            let (protocol, port) = [(6, 80_u16), (6, 443), (17, 443)][i as usize % 3];
            ServiceKey::v4([a, b, c, d], protocol, port.to_be_bytes())
        }),
        ("one address, many ports", |i| {
            ServiceKey::v4([192, 0, 2, 10], 6, (8000 + i as u16).to_be_bytes())
        }),
        ("neighbours in IPv6, three ports each", |i| {
            let mut vip = [0x20, 0x01, 0x0D, 0xB8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            vip[12..].copy_from_slice(&(i / 3).to_be_bytes());
            let (protocol, port) = [(6, 80_u16), (6, 443), (17, 443)][i as usize % 3];
            ServiceKey::v6(vip, protocol, port.to_be_bytes())
        }),
    ];
    for places in [256, 1024, 2048, 16_384_u32] {
        for (name, key) in patterns {
            let edges = (0..places * 2 / 5).map(|i| service_places(key(i), places - 1));
            assert_eq!(homeless(edges, places as usize), 0, "{name}: {places} places");
        }
    }
}

/// How many edges are beyond what the corners of their part can take.
fn homeless(edges: impl Iterator<Item = (u32, u32)>, corners: usize) -> usize {
    let mut parent: Vec<usize> = (0..corners).collect();
    let mut room = vec![1_usize; corners];
    let root = |parent: &[usize], mut at: usize| {
        while parent[at] != at {
            at = parent[at];
        }
        at
    };
    let mut homeless = 0;
    for (one, two) in edges {
        let (one, two) = (root(&parent, one as usize), root(&parent, two as usize));
        if one != two {
            parent[two] = one;
            room[one] += room[two];
        }
        match room[one].checked_sub(1) {
            Some(left) => room[one] = left,
            None => homeless += 1,
        }
    }
    homeless
}

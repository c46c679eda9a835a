//! The three computations that pick something for a packet: its places in the service table, its flow hash, its slot.
//!
//! The flow hash is keyed: who does not know the fleet's seed cannot choose source ports that all land on one backend.
//! Every node with the same seed computes the same hash.

use crate::map::ServiceKey;

/// The flow hash's key, expanded from the fleet's seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct HashKeys(pub [u64; 4]);

// SAFETY: four integers, nothing else.
unsafe impl bytemuck::Zeroable for HashKeys {}
// SAFETY: as above; transparent over an array of integers.
unsafe impl bytemuck::Pod for HashKeys {}

impl HashKeys {
    /// Expands a seed with SplitMix64 (Steele, Lea, Flood: "Fast Splittable Pseudorandom Number Generators", 2014). The last three
    /// words are multipliers and therefore made odd.
    pub const fn from_seed(seed: u64) -> Self {
        let mut state = seed;
        let mut keys = [0; 4];
        let mut i = 0;
        while i < keys.len() {
            state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
            keys[i] = finish(state);
            if i > 0 {
                keys[i] |= 1;
            }
            i += 1;
        }
        HashKeys(keys)
    }
}

/// SplitMix64's output function: a bijection in which every input bit reaches every output bit.
pub const fn finish(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

/// What tells the flows of two services apart; it goes into [`flow_hash`]. Known to anyone: the seed is the secret.
pub const fn service_salt(key: ServiceKey) -> u64 {
    finish(finish(key.address_high) ^ key.address_low.rotate_left(32) ^ key.word as u64)
}

/// The keyed 64-bit hash of a flow: the client's address and port, as far as the service hashes them, and the service.
///
/// `address_high` and `address_low` hold the client's address as [`ServiceKey`] holds the VIP. The salt stands for VIP,
/// protocol and destination port. It comes in last, so that a CPU that executes out of order computes all before it
/// while the service is still being looked up. For one service and IPv4 the hash is a bijection: no two flows share one.
#[inline(always)]
pub const fn flow_hash(keys: &HashKeys, salt: u64, v6: bool, address_high: u64, address_low: u64, port: u16) -> u64 {
    let HashKeys([start, first, second, third]) = *keys;
    let mut x = address_low ^ start;
    if v6 {
        x = x.wrapping_mul(third);
        x ^= x >> 32;
        x = (x ^ address_high).wrapping_mul(second);
        x ^= x >> 32;
        x ^= port as u64;
    } else {
        x ^= (port as u64) << 32;
    }
    x = x.wrapping_mul(first);
    x ^= x >> 32;
    // The upper bits are the good ones, and all that is used of the hash begins there.
    (x ^ salt).wrapping_mul(second)
}

/// The slot of a flow, by multiply-shift: `0 ..= ring_size - 1` (0 if `ring_size` is 0). No division.
#[inline(always)]
pub const fn slot(hash: u64, ring_size: u32) -> u32 {
    (((hash >> 32) * ring_size as u64) >> 32) as u32
}

/// The two places where a service may be in the table; `mask` is the table's length less one, a power of two less one.
///
/// Not keyed: only the operator's own services are in the table.
#[inline(always)]
pub const fn service_places(key: ServiceKey, mask: u32) -> (u32, u32) {
    let (first, second) = service_places_wide(key, mask as u64);
    (first as u32, second as u32)
}

/// The same in the target's own words: where BPF has to make 32 bits of 64, it shifts twice.
#[inline(always)]
pub const fn service_places_wide(key: ServiceKey, mask: u64) -> (u64, u64) {
    // Fibonacci hashing: the low bits of a product depend on the low bits of the key alone, so they are not used.
    let x = key.address_high.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ key.address_low ^ (key.word as u64) << 32;
    let x = (x ^ x >> 32).wrapping_mul(0xD6E8_FEB8_6659_FD93);
    // Other bits of the same product would not do: neighbouring addresses that share the one place would share the other.
    ((x >> 40) & mask, finish(x) & mask)
}

#[cfg(test)]
mod tests;

//! The population of a ring over its configured members.
//!
//! Each member has Maglev's preference list of slots: a walk through all of them from a hashed offset by a hashed skip. All
//! walk at once, each at a pace that follows its weight; a free slot is taken by whoever comes to it first, and a member that has its
//! quota stops. Maglev itself walks in turns, and in its turn a member walks on until it finds a free slot. Then a slot taken by
//! somebody else changes when a member comes to everything after it, and that is where the extra movement comes from when a
//! member leaves the file. Here a slot's owner hangs on the slot's own visitors alone until the first quotas are reached, with
//! only a few slots left.

use lb_common::map::NOBODY;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::Member;
use super::quota::quotas;

/// Which member owns each slot.
pub(super) fn populate(members: &[Member], size: u32) -> Vec<u16> {
    let mut walks = walks(members, size);
    // Many steps at a time are twice as fast, and coarse only where the ring is small.
    if size >= 4096 {
        fill::<16>(&mut walks, size)
    } else {
        fill::<1>(&mut walks, size)
    }
}

/// One member on its way through the slots.
struct Walk {
    /// The slot that it comes to next.
    slot: u32,
    /// From one slot of its list to the next.
    skip: u32,
    /// Slots that it may still take.
    wanted: u32,
    /// Its index among the members.
    member: u16,
    /// A batch of steps is due when this reaches [`BATCH`].
    credit: u64,
    /// What a round adds to `credit`.
    pace: u64,
    /// What a batch takes from `pace`.
    fatigue: u64,
}

/// The credit that a batch of steps costs.
const BATCH: u64 = 1 << 32;

/// Seeds of XXH3-64 over the identity's 8 bytes, little-endian. They are part of what all nodes of a fleet must have in common.
const OFFSET_SEED: u64 = 1;
const SKIP_SEED: u64 = 2;

/// The members that are to have slots, at the start of their lists, in canonical order.
fn walks(members: &[Member], size: u32) -> Vec<Walk> {
    let mut order: Vec<u16> = (0..members.len() as u16)
        .filter(|&i| members[usize::from(i)].weight > 0)
        .collect();
    // Members of like pace side by side: the processor then guesses right how many batches each makes.
    order.sort_by_key(|&i| (members[usize::from(i)].weight, members[usize::from(i)].identity));
    let weights: Vec<u64> = order
        .iter()
        .map(|&i| u64::from(members[usize::from(i)].weight))
        .collect();
    let quotas = quotas(&weights, size);

    // A round is half a batch to one batch for a member of mean weight. By powers of 2, so that when one member leaves, the others'
    // rounds are mostly what they were.
    let mean = weights.iter().sum::<u64>() / (weights.len() as u64).max(1);
    let shift = 64 - mean.leading_zeros();
    order
        .iter()
        .zip(weights)
        .zip(quotas)
        .filter(|&(_, wanted)| wanted > 0)
        .map(|((&member, weight), wanted)| {
            let identity = members[usize::from(member)].identity.to_le_bytes();
            let pace = ((weight << 32) >> shift).max(1);
            Walk {
                slot: scale(xxh3_64_with_seed(&identity, OFFSET_SEED), size),
                skip: 1 + scale(xxh3_64_with_seed(&identity, SKIP_SEED), size - 1),
                wanted,
                member,
                credit: BATCH / 2,
                pace,
                fatigue: 0,
            }
        })
        .collect()
}

/// Lets all walk until every slot is taken, in batches of `STEPS`.
fn fill<const STEPS: u32>(walks: &mut Vec<Walk>, size: u32) -> Vec<u16> {
    // First come, first served gives shares in proportion to the paces only if time is exponential: who has seen the
    // part x of the slots walks at 1 - x of the first pace. Without it heavy members would be ahead of their quotas.
    for walk in walks.iter_mut() {
        walk.fatigue = (u128::from(walk.pace) * u128::from(STEPS) / u128::from(size)) as u64;
    }
    let mut owners = vec![NOBODY; size as usize];
    while !walks.is_empty() {
        let mut arrived = false;
        for walk in walks.iter_mut() {
            walk.credit += walk.pace;
            while walk.credit >= BATCH && walk.wanted > 0 {
                walk.credit -= BATCH;
                walk.pace = walk.pace.saturating_sub(walk.fatigue).max(1);
                walk.batch::<STEPS>(&mut owners, size);
            }
            arrived |= walk.wanted == 0;
        }
        if arrived {
            walks.retain(|walk| walk.wanted > 0);
            hurry(walks);
        }
    }
    owners
}

impl Walk {
    /// Takes what is free of the next `STEPS` slots.
    ///
    /// Whether a slot is free cannot be guessed: everything here is a conditional move, and no branch depends on it.
    #[inline]
    fn batch<const STEPS: u32>(&mut self, owners: &mut [u16], size: u32) {
        let (mut slot, mut taken) = (self.slot, 0);
        if self.wanted >= STEPS {
            for _ in 0..STEPS {
                let owner = &mut owners[slot as usize];
                let free = *owner == NOBODY;
                *owner = if free { self.member } else { *owner };
                taken += u32::from(free);
                slot = advance(slot, self.skip, size);
            }
        } else {
            for _ in 0..STEPS {
                let owner = &mut owners[slot as usize];
                let free = (*owner == NOBODY) & (taken < self.wanted);
                *owner = if free { self.member } else { *owner };
                taken += u32::from(free);
                slot = advance(slot, self.skip, size);
            }
        }
        self.slot = slot;
        self.wanted -= taken;
    }
}

/// Doubles all paces until the fastest makes at least half a batch a round: light members need not wait for nobody.
fn hurry(walks: &mut [Walk]) {
    let fastest = walks.iter().map(|walk| walk.pace).max().unwrap_or(BATCH);
    let shift = fastest.leading_zeros().saturating_sub((BATCH / 2).leading_zeros());
    for walk in walks {
        walk.pace <<= shift;
        walk.fatigue <<= shift;
    }
}

/// The slot one skip further round the ring; `slot` and `skip` are below `size`.
#[inline]
fn advance(slot: u32, skip: u32, size: u32) -> u32 {
    let next = slot + skip;
    // The subtraction wraps to something huge exactly if `next` is still on the ring.
    next.min(next.wrapping_sub(size))
}

/// A hash as a number below `range`, by multiply-shift.
pub(super) fn scale(hash: u64, range: u32) -> u32 {
    ((u128::from(hash) * u128::from(range)) >> 64) as u32
}

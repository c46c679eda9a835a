//! Lending: who serves the slots that their owners do not.
//!
//! Every slot has a fixed list of slots after it, drawn by hash from the whole ring. A slot that its owner does not keep is
//! served by the owner of the first slot on its list that *is* kept. Kept slots are there in proportion to weight × share, so the
//! lent ones are spread in that proportion too, without a hash for every backend; and because the list is fixed, whoever
//! leaves or comes back changes only the slots whose first kept slot is his.

use std::cell::OnceCell;

use lb_common::map::NOBODY;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::populate::scale;
use super::{Ring, Share};

/// Who serves each slot. There are as many shares as members.
pub(super) fn lend(ring: &Ring, shares: &[Share]) -> Vec<u16> {
    if shares.iter().all(|&share| share == Share::FULL) {
        return ring.owners.clone();
    }
    let kept = kept(ring, shares);
    if !kept.contains(&true) {
        // Every draw would be in vain: a new service before the ways to its backends are known, say.
        return vec![NOBODY; kept.len()];
    }
    let behind = OnceCell::new();
    let mut slots = ring.owners.clone();
    for (slot, &keeps) in kept.iter().enumerate() {
        if !keeps {
            let lender = drawn(&kept, slot as u32)
                .or_else(|| {
                    let last = draw(slot as u32, DRAWS, ring.owners.len() as u32);
                    behind.get_or_init(|| next_kept(&kept))[last]
                })
                .map_or(NOBODY, |lender| ring.owners[lender]);
            slots[slot] = lender;
        }
    }
    slots
}

/// Slots drawn by hash for one that is not kept, before the ring is walked on from where the next one would be. With one twentieth of
/// the weight serving, four in five slots find a kept one so.
const DRAWS: u32 = 32;

/// Which slots their owners keep.
fn kept(ring: &Ring, shares: &[Share]) -> Vec<bool> {
    let partial = |owner: u16| !matches!(shares[usize::from(owner)], Share::OUT | Share::FULL);
    let mut kept = vec![false; ring.owners.len()];
    let mut own: Vec<Vec<(u64, u32)>> = vec![Vec::new(); shares.len()];
    for (slot, &owner) in ring.owners.iter().enumerate() {
        if owner == NOBODY {
            continue;
        }
        kept[slot] = shares[usize::from(owner)] != Share::OUT;
        if partial(owner) {
            let rank = xxh3_64_with_seed(&(slot as u32).to_le_bytes(), ring.identities[usize::from(owner)]);
            own[usize::from(owner)].push((rank, slot as u32));
        }
    }
    for (own, share) in own.iter_mut().zip(shares) {
        let keeps = (own.len() * usize::from(share.0) + usize::from(Share::FULL.0) / 2) / usize::from(Share::FULL.0);
        let keeps = keeps.max(1);
        if keeps < own.len() {
            own.select_nth_unstable(keeps);
            for &(_, slot) in &own[keeps..] {
                kept[slot as usize] = false;
            }
        }
    }
    kept
}

/// The first kept slot among those drawn for `slot`.
fn drawn(kept: &[bool], slot: u32) -> Option<usize> {
    (0..DRAWS)
        .map(|nth| draw(slot, nth, kept.len() as u32))
        .find(|&other| kept[other])
}

/// The `nth` slot drawn for `slot`: XXH3-64 of the slot's 4 bytes, little-endian, with this seed. All nodes of a fleet must have
/// it in common.
fn draw(slot: u32, nth: u32, size: u32) -> usize {
    scale(xxh3_64_with_seed(&slot.to_le_bytes(), u64::from(nth)), size) as usize
}

/// For each slot the next one round the ring, itself included, that is kept; nothing if none is.
fn next_kept(kept: &[bool]) -> Vec<Option<usize>> {
    let mut next = kept.iter().position(|&keeps| keeps);
    let mut nexts = vec![None; kept.len()];
    for slot in (0..kept.len()).rev() {
        if kept[slot] {
            next = Some(slot);
        }
        nexts[slot] = next;
    }
    nexts
}

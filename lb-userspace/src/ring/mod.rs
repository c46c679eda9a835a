//! The ring: which backend owns each slot.
//!
//! In two steps, both pure. [`Ring::populate`] gives every slot to a *configured* backend, whatever anybody's health;
//! [`Ring::lend`] passes on the slots of those that do not serve, or not fully. Both depend on the set of backends and on their
//! shares alone, not on order or history, and compute in integers: every node of a fleet gets the same bits.
//!
//! `docs/ring.md` says why it is done so, and what it measures.

mod lend;
mod populate;
mod quota;

use lb_common::map::NOBODY;

/// One backend of a ring, as configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// [`identity`](crate::model::identity) of its name; no two members of a ring have the same.
    pub identity: u64,
    /// Its share relative to the other members': 0 ..= 65,535. 0 owns no slot.
    pub weight: u32,
}

/// How much of its configured weight a member serves with, in 65,535ths: an integer, so that all nodes agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Share(pub u16);

impl Share {
    /// It does not serve: sick, disabled or draining.
    pub const OUT: Share = Share(0);
    /// It serves with its whole weight.
    pub const FULL: Share = Share(u16::MAX);
}

/// Which configured member owns each slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ring {
    /// For each slot its owner's index among the members as they were given, or [`NOBODY`].
    owners: Vec<u16>,
    /// The members' identities, in the order in which they were given.
    identities: Vec<u64>,
}

impl Ring {
    /// Spreads `size` slots over the members, each within one slot of its weight's share.
    ///
    /// Every member with a weight above 0 owns at least one slot. If there are more such members than slots, the
    /// heaviest own one each (among equals, those of the lowest identity) and the others none. If there are none, every slot is
    /// [`NOBODY`]'s.
    ///
    /// # Panics
    ///
    /// If `size` is not a prime below 2³¹, or there are more than 65,535 members. A [`Model`](crate::model::Model) holds neither.
    pub fn populate(members: &[Member], size: u32) -> Ring {
        assert!(
            is_prime(size) && size < 1 << 31,
            "ring of {size} slots, expected a prime below 2^31"
        );
        assert!(
            members.len() <= usize::from(NOBODY),
            "ring of {} members, expected at most 65535",
            members.len()
        );
        Ring {
            owners: populate::populate(members, size),
            identities: members.iter().map(|member| member.identity).collect(),
        }
    }

    /// Who serves each slot when each member serves with its share; [`NOBODY`] if all are out.
    ///
    /// A slot whose owner serves fully is its owner's. A member with less than its full share keeps that part of its own
    /// slots (at least one), always the same ones first; the rest, and all of a member that is out, are lent to members that
    /// serve, in proportion to weight × share. When a share falls, only slots that its member served change; when it rises,
    /// slots change to its member only.
    ///
    /// # Panics
    ///
    /// If there are not as many shares as members.
    pub fn lend(&self, shares: &[Share]) -> Vec<u16> {
        assert_eq!(shares.len(), self.identities.len(), "shares and members of a ring");
        lend::lend(self, shares)
    }

    /// For each slot its owner's index among the members as they were given, or [`NOBODY`].
    pub fn owners(&self) -> &[u16] {
        &self.owners
    }
}

/// How many of the slots each of `members` members has.
pub fn tally(slots: &[u16], members: usize) -> Vec<u32> {
    let mut counts = vec![0; members];
    for &member in slots {
        if let Some(count) = counts.get_mut(usize::from(member)) {
            *count += 1;
        }
    }
    counts
}

/// Whether a number is prime, as a ring's size must be.
pub fn is_prime(number: u32) -> bool {
    number >= 2
        && (2..)
            .take_while(|divisor| divisor * divisor <= u64::from(number))
            .all(|divisor| u64::from(number) % divisor != 0)
}

#[cfg(test)]
mod tests;

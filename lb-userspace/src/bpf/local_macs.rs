//! The host's own Ethernet addresses, as the program finds them; see [`lb_common::local_mac`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};

use aya::maps::{HashMap, MapData, MapError};
use lb_common::encap::Mac;
use lb_common::local_mac::{LocalMac, NOT_ONLY, is_group, only, place};
use lb_common::map::name;

use super::error::KernelError;
use super::mapping::Mapping;

/// Own addresses by the index of the interface that frames for them arrive by. The interface's own is the first of each.
pub type OwnAddresses = BTreeMap<u32, Vec<Mac>>;

/// Both maps, and what they hold.
pub struct LocalMacs {
    words: Mapping<u64>,
    set: HashMap<MapData, LocalMac, u8>,
    installed: BTreeSet<LocalMac>,
    /// The words that are not 0, by their place.
    placed: BTreeMap<u64, u64>,
}

impl LocalMacs {
    /// From the two maps, which an earlier daemon may have filled.
    ///
    /// # Errors
    /// The kernel's.
    pub fn new(words: Mapping<u64>, set: HashMap<MapData, LocalMac, u8>) -> Result<Self, KernelError> {
        let installed = set.keys().collect::<Result<_, _>>().map_err(failed)?;
        // Maps are made of zeros, which must not be the address of that name.
        if words.read(0) == 0 {
            Self::store(&words, 0, NOT_ONLY);
        }
        let placed = (0..words.len())
            .map(|at| (at as u64, words.read(at)))
            .filter(|(_, word)| *word != 0)
            .collect();
        Ok(Self {
            words,
            set,
            installed,
            placed,
        })
    }

    /// Makes these the only ones. An address that stays is found at any moment meanwhile.
    ///
    /// # Errors
    /// The kernel's; `E2BIG` if there are more than 65,536.
    pub fn replace(&mut self, own: &OwnAddresses) -> Result<(), KernelError> {
        let wanted: BTreeSet<LocalMac> = ranked(own).collect();
        // What moves out of its place is found in the set.
        for key in wanted.difference(&self.installed) {
            self.set.insert(key, 0, 0).map_err(failed)?;
        }
        let placed = places(own);
        for at in self.placed.keys().filter(|at| !placed.contains_key(at)) {
            self.write(*at, 0);
        }
        for (at, word) in &placed {
            if self.placed.get(at) != Some(word) {
                self.write(*at, *word);
            }
        }
        self.placed = placed;
        for key in self.installed.difference(&wanted) {
            match self.set.remove(key) {
                Err(MapError::KeyNotFound) | Ok(()) => {}
                Err(error) => return Err(failed(error)),
            }
        }
        self.installed = wanted;
        Ok(())
    }

    fn write(&self, at: u64, word: u64) {
        Self::store(&self.words, at, word);
    }

    fn store(words: &Mapping<u64>, at: u64, word: u64) {
        let cell = words.pointer(at as usize);
        // SAFETY: an aligned word of a live mapping, stored atomically.
        unsafe { AtomicU64::from_ptr(cell) }.store(word, Ordering::Release);
    }
}

/// Every address that can be one, the interfaces' own first. A group's never is.
fn ranked(own: &OwnAddresses) -> impl Iterator<Item = LocalMac> {
    let of = |rank: fn(&[Mac]) -> &[Mac]| {
        own.iter()
            .flat_map(move |(ifindex, macs)| rank(macs).iter().map(|mac| LocalMac::new(*mac, *ifindex)))
    };
    let first = of(|macs| macs.split_at(macs.len().min(1)).0);
    let others = of(|macs| macs.split_at(macs.len().min(1)).1);
    first.chain(others).filter(|key| !is_group(key.mac))
}

/// What stands in the array's first word and in each place that is not free: of those that have one place, the first in rank.
///
/// The first word is the first address that is one on every interface, as a bond's is on all its ports.
fn places(own: &OwnAddresses) -> BTreeMap<u64, u64> {
    let everywhere = |key: &LocalMac| {
        let is_on =
            |(ifindex, macs): (&u32, &Vec<Mac>)| macs.iter().any(|mac| LocalMac::new(*mac, *ifindex).mac == key.mac);
        own.iter().all(is_on)
    };
    let first = ranked(own).find(everywhere);
    let mut placed = BTreeMap::from([(0, first.map_or(NOT_ONLY, |key| only(key.mac)))]);
    for key in ranked(own) {
        let (at, word) = place(key.mac, key.ifindex);
        placed.entry(at).or_insert(word);
    }
    placed
}

fn failed(source: MapError) -> KernelError {
    KernelError::Map {
        name: name::LOCAL_MAC_SET,
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: Mac = [2, 0, 0, 0, 0, 1];

    #[test]
    fn the_interfaces_own_address_comes_before_others_in_its_place() {
        // The last two bytes choose the place: these three have one.
        let others = [[2, 9, 0, 0, 0, 1], [2, 8, 0, 0, 0, 1]];
        for others in [[others[0], others[1]], [others[1], others[0]]] {
            let own = OwnAddresses::from([(7, vec![OWN, others[0], others[1]])]);
            let (at, word) = place(LocalMac::new(OWN, 7).mac, 7);
            let first = (0, u64::from_le_bytes([0, 0, 2, 0, 0, 0, 0, 1]));
            assert_eq!(places(&own), BTreeMap::from([first, (at, word)]));
            assert_eq!(ranked(&own).count(), 3);
        }
        // Interface 6 comes first, and its second address has the place of interface 7's own.
        let second = [2, 9, 0, 0, 1, 1];
        let own = OwnAddresses::from([(6, vec![[2, 5, 0, 0, 0, 9], second]), (7, vec![OWN])]);
        let (at, word) = place(LocalMac::new(OWN, 7).mac, 7);
        assert_eq!(place(LocalMac::new(second, 6).mac, 6).0, at);
        assert_eq!(places(&own)[&at], word);
        assert_eq!(places(&own)[&0], NOT_ONLY, "there are two interfaces");
        // A bond's address is one on all its ports.
        let own = OwnAddresses::from([(5, vec![second, OWN]), (6, vec![OWN]), (7, vec![OWN])]);
        assert_eq!(places(&own)[&0], only(LocalMac::new(OWN, 7).mac));
        assert_eq!(places(&OwnAddresses::new()), BTreeMap::from([(0, NOT_ONLY)]));
    }

    #[test]
    fn group_addresses_are_never_own() {
        let own = OwnAddresses::from([(7, vec![[0xFF; 6], [1, 0, 0x5E, 0, 0, 1], OWN])]);
        assert_eq!(ranked(&own).collect::<Vec<_>>(), [LocalMac::new(OWN, 7)]);
        assert_eq!(ranked(&OwnAddresses::from([(7, vec![])])).count(), 0);
    }
}

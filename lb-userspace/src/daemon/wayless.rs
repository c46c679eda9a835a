//! Backends without a way: when that is worth an event.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::Daemon;
use super::positions::Positions;
use crate::netlink::Answer;

/// How long a way may be missing at the beginning: a normal start says nothing.
const GRACE: Duration = Duration::from_secs(5);

/// Addresses without a way.
#[derive(Debug, Default)]
pub(super) struct Wayless {
    /// Those that never had one, and since when.
    since: HashMap<IpAddr, Instant>,
    /// Those that have been told of.
    told: HashSet<IpAddr>,
}

/// What is to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum News {
    Lost,
    Found,
}

impl Wayless {
    /// What an earlier daemon has told of is not told again.
    pub(super) fn resume(positions: &Positions) -> Self {
        let backends = positions.kept().values().flat_map(|left| left.backends.values());
        Self {
            since: HashMap::new(),
            told: backends.filter(|one| one.away).map(|one| one.address).collect(),
        }
    }

    /// Whether it has been told that there is no way to an address.
    pub(super) fn is_told(&self, address: IpAddr) -> bool {
        self.told.contains(&address)
    }

    /// Takes in what is known of an address now.
    pub(super) fn take_in(
        &mut self,
        address: IpAddr,
        before: Option<&Answer>,
        way: &Answer,
        now: Instant,
    ) -> Option<News> {
        match (before, way) {
            (_, Ok(_)) => {
                self.since.remove(&address);
                self.told.remove(&address).then_some(News::Found)
            }
            (Some(Ok(_)), Err(_)) => self.told.insert(address).then_some(News::Lost),
            (_, Err(_)) => {
                if !self.told.contains(&address) {
                    self.since.entry(address).or_insert(now);
                }
                None
            }
        }
    }

    /// Those that never had a way and should have one by now. Each is named once.
    pub(super) fn overdue(&mut self, now: Instant) -> Vec<IpAddr> {
        let due = |since: Instant| now.saturating_duration_since(since) >= GRACE;
        let due = self.since.iter().filter(|(_, since)| due(**since));
        let due: Vec<IpAddr> = due.map(|(address, _)| *address).collect();
        for address in &due {
            self.since.remove(address);
            self.told.insert(*address);
        }
        due
    }

    /// Forgets those that nobody wants any more.
    pub(super) fn retain(&mut self, wanted: impl Fn(IpAddr) -> bool) {
        self.since.retain(|address, _| wanted(*address));
        self.told.retain(|address| wanted(*address));
    }
}

impl Daemon {
    /// Tells of backends that never had a way; called every second.
    pub(super) fn tend_ways(&mut self) {
        let world = &self.world;
        self.wayless.retain(|address| world.way(address).is_some());
        let mut due = self.wayless.overdue(Instant::now());
        due.sort_unstable();
        self.positions.stale |= !due.is_empty();
        for address in due {
            if let Some(Err(unreachable)) = self.world.way(address) {
                self.tell_of_loss(address, unreachable.to_string());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::{NextHop, Unreachable};

    #[test]
    fn a_way_that_never_was_is_told_once_and_a_normal_start_is_quiet() {
        let address = IpAddr::from([10, 0, 0, 1]);
        let there: Answer = Ok(NextHop {
            ifindex: 1,
            source_mac: [2, 0, 0, 0, 0, 1],
            destination_mac: [2, 0, 0, 0, 0, 2],
            neighbour: address,
            preferred_source: None,
            mtu: 1500,
        });
        let away: Answer = Err(Unreachable::NoRoute { address });
        let begin = Instant::now();
        let mut wayless = Wayless::default();
        // Found in time.
        assert_eq!(wayless.take_in(address, None, &away, begin), None);
        assert!(wayless.overdue(begin + GRACE / 2).is_empty());
        assert_eq!(wayless.take_in(address, Some(&away), &there, begin), None);
        assert!(wayless.overdue(begin + 2 * GRACE).is_empty());
        // Lost and found.
        assert_eq!(wayless.take_in(address, Some(&there), &away, begin), Some(News::Lost));
        assert!(wayless.overdue(begin + 2 * GRACE).is_empty());
        assert_eq!(wayless.take_in(address, Some(&away), &there, begin), Some(News::Found));
        // Never there.
        assert_eq!(wayless.take_in(address, None, &away, begin), None);
        assert_eq!(wayless.take_in(address, Some(&away), &away, begin + GRACE / 2), None);
        assert_eq!(wayless.overdue(begin + GRACE), [address]);
        assert!(wayless.overdue(begin + 2 * GRACE).is_empty());
        assert_eq!(wayless.take_in(address, Some(&away), &away, begin), None);
        assert!(wayless.overdue(begin + 3 * GRACE).is_empty());
        assert_eq!(wayless.take_in(address, Some(&away), &there, begin), Some(News::Found));
        // Forgotten with its backend.
        wayless.take_in(address, None, &away, begin);
        wayless.retain(|_| false);
        assert!(wayless.overdue(begin + GRACE).is_empty());
    }
}

//! Whom the kernel is made to ask for, and when: often enough to learn of a change, seldom enough not to flood a link.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use super::neighbour::{Key, Neighbour};

/// How often a stale neighbour is confirmed at most. The kernel does so to managed entries at the same pace.
const REFRESH: Duration = Duration::from_secs(5);
/// The kernel's own time for asking: three questions, a second apart.
const ASKING: Duration = Duration::from_secs(3);
/// The longest pause after a neighbour did not answer.
const LONGEST_PAUSE: Duration = Duration::from_secs(8);
/// After so long without being asked for, earlier failures do not count.
const FORGIVEN: Duration = Duration::from_secs(30);

/// What was asked.
#[derive(Default)]
pub(super) struct Asking(HashMap<Key, Asked>);

/// How one neighbour was asked for.
pub(super) struct Asked {
    times: u32,
    /// When it was last.
    pub(super) last: Instant,
    /// The error number with which the kernel refused.
    pub(super) errno: Option<i32>,
}

impl Asking {
    /// Those to ask for now, at most `limit`, each with whether the kernel has an entry for it. They count as asked for
    /// from here on.
    pub(super) fn take_due(
        &mut self,
        needed: &BTreeSet<Key>,
        neighbours: &HashMap<Key, Neighbour>,
        limit: usize,
        now: Instant,
    ) -> Vec<(Key, bool)> {
        let mut due = Vec::new();
        for &key in needed {
            if due.len() == limit {
                break;
            }
            let state = neighbours.get(&key).copied();
            let failing = match state {
                Some(Neighbour::Fixed(_) | Neighbour::Fresh(_) | Neighbour::Asked) => continue,
                Some(Neighbour::Stale(_)) => false,
                Some(Neighbour::Failed | Neighbour::Unknown) | None => true,
            };
            let mut times = 0;
            if let Some(asked) = self.0.get(&key) {
                let since = now.duration_since(asked.last);
                if since < if failing { pause(asked.times) } else { REFRESH } {
                    continue;
                }
                times = if since < FORGIVEN { asked.times } else { 0 };
            }
            let times = if failing { times + 1 } else { 0 };
            self.0.insert(
                key,
                Asked {
                    times,
                    last: now,
                    errno: None,
                },
            );
            due.push((key, state.is_some()));
        }
        due
    }

    /// Takes note of the error number with which the kernel refused.
    pub(super) fn refused(&mut self, key: Key, errno: i32) {
        if let Some(asked) = self.0.get_mut(&key) {
            asked.errno = Some(errno);
        }
    }

    /// How a neighbour was asked for.
    pub(super) fn find(&self, key: Key) -> Option<&Asked> {
        self.0.get(&key)
    }

    /// Forgets whom this is false for.
    pub(super) fn retain(&mut self, keep: impl Fn(&Key) -> bool) {
        self.0.retain(|key, _| keep(key));
    }
}

/// How long to wait after asking for the `times`-th time in vain.
fn pause(times: u32) -> Duration {
    match times {
        0 => Duration::ZERO,
        _ => ASKING + Duration::from_secs(1 << (times - 1).min(8)).min(LONGEST_PAUSE),
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

    /// The seconds, of the first `until`, at which the one neighbour is asked for if it is in the state all the time.
    fn times(state: Option<Neighbour>, until: u64) -> Vec<u64> {
        let key = key(1);
        let begin = Instant::now();
        let neighbours = state.map(|state| (key, state)).into_iter().collect();
        let mut asking = Asking::default();
        let mut due = |second: &u64| {
            let now = begin + Duration::from_secs(*second);
            let due = asking.take_due(&[key].into(), &neighbours, 10, now);
            assert!(due.iter().all(|due| *due == (key, state.is_some())));
            !due.is_empty()
        };
        (0..until).filter(|second| due(second)).collect()
    }

    fn key(number: u8) -> Key {
        Key {
            ifindex: 1,
            address: Ipv4Addr::new(192, 0, 2, number).into(),
        }
    }

    #[test]
    fn who_does_not_answer_is_asked_less_and_less() {
        let expected = [0, 4, 9, 16, 27, 38, 49];
        assert_eq!(times(None, 50), expected);
        assert_eq!(times(Some(Neighbour::Failed), 50), expected);
        assert_eq!(times(Some(Neighbour::Unknown), 50), expected);
    }

    #[test]
    fn who_is_stale_is_confirmed() {
        assert_eq!(times(Some(Neighbour::Stale(MAC)), 12), [0, 5, 10]);
    }

    #[test]
    fn who_is_known_or_being_asked_is_left_alone() {
        for state in [Neighbour::Fixed(MAC), Neighbour::Fresh(MAC), Neighbour::Asked] {
            assert_eq!(times(Some(state), 50), [0; 0], "{state:?}");
        }
    }

    #[test]
    fn who_fails_after_being_stale_is_asked_at_once() {
        let begin = Instant::now();
        let mut asking = Asking::default();
        let mut due = |state, seconds| {
            let now = begin + Duration::from_secs(seconds);
            asking
                .take_due(&[key(1)].into(), &[(key(1), state)].into(), 10, now)
                .len()
        };
        assert_eq!(due(Neighbour::Stale(MAC), 0), 1);
        assert_eq!(due(Neighbour::Failed, 1), 1);
        assert_eq!(due(Neighbour::Failed, 4), 0);
        // Forgotten and failing again long after: from the beginning.
        assert_eq!(due(Neighbour::Failed, 100), 1);
        assert_eq!(due(Neighbour::Failed, 104), 1);
    }

    #[test]
    fn not_all_at_once() {
        let needed: BTreeSet<Key> = (0..25).map(key).collect();
        let mut asking = Asking::default();
        let now = Instant::now();
        let mut turn = || asking.take_due(&needed, &HashMap::new(), 10, now).len();
        assert_eq!([turn(), turn(), turn(), turn()], [10, 10, 5, 0]);
    }
}

//! The wall clock as drains and ramps know it: steady while the daemon runs.
//!
//! They are kept in wall-clock time, so that they go on after a restart; but a wall clock may be set. Here it goes on evenly from what it showed at
//! first. When it was set, [`Daemon::tend_clock`] moves the times of all that is under way by as much, together with this one.

use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Instant;

use tracing::info;

use super::Daemon;
use super::configure::unix_ms;
use super::state::Override;
use super::world::Overrides;

/// A difference that is worth to be followed, in milliseconds.
const WORTH: u64 = 1_000;

static CLOCK: LazyLock<Mutex<Steady>> = LazyLock::new(|| Mutex::new(Steady::since(Instant::now(), unix_ms())));

/// Milliseconds since 1970, whatever is done to the wall clock meanwhile.
pub(super) fn steady_ms() -> u64 {
    clock(|clock| clock.at(Instant::now()))
}

fn clock<R>(with: impl FnOnce(&mut Steady) -> R) -> R {
    with(&mut CLOCK.lock().unwrap_or_else(PoisonError::into_inner))
}

struct Steady {
    begun: Instant,
    unix_ms: u64,
}

impl Steady {
    fn since(begun: Instant, unix_ms: u64) -> Self {
        Self { begun, unix_ms }
    }

    fn at(&self, now: Instant) -> u64 {
        let past = now.saturating_duration_since(self.begun).as_millis();
        self.unix_ms.saturating_add(u64::try_from(past).unwrap_or(u64::MAX))
    }

    /// Follows the wall clock; says by how much it was set, if that is worth it.
    fn follow(&mut self, now: Instant, wall: u64) -> Option<i64> {
        let here = self.at(now);
        if here.abs_diff(wall) < WORTH {
            return None;
        }
        *self = Self::since(now, wall);
        Some(i64::try_from(i128::from(wall) - i128::from(here)).unwrap_or(0))
    }
}

/// Moves all that is under way.
fn shift(overrides: &mut Overrides, by: i64) -> bool {
    let mut moved = false;
    for one in overrides.values_mut().flat_map(|backends| backends.values_mut()) {
        let Override {
            drain_until_unix_ms,
            ramp,
            ..
        } = one;
        for time in drain_until_unix_ms.iter_mut().chain(
            ramp.iter_mut()
                .flat_map(|ramp| [&mut ramp.begin_unix_ms, &mut ramp.end_unix_ms]),
        ) {
            *time = time.saturating_add_signed(by);
            moved = true;
        }
    }
    moved
}

impl Daemon {
    /// Notices that the wall clock was set; called every second.
    pub(super) fn tend_clock(&mut self) {
        let Some(by) = clock(|clock| clock.follow(Instant::now(), unix_ms())) else {
            return;
        };
        info!(
            by_ms = by,
            "the wall clock was set: drains and ramps go on as they were"
        );
        let mut overrides = self.world.overrides.clone();
        if shift(&mut overrides, by) {
            self.keep_later(overrides);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::policy::ramp::Ramp;

    #[test]
    fn a_clock_that_is_set_ends_no_drain_and_no_ramp() {
        let begun = Instant::now();
        let mut clock = Steady::since(begun, 1_000_000);
        let one = Override {
            drain_until_unix_ms: Some(1_600_000),
            ramp: Some(Ramp {
                from: 0,
                to: 100,
                begin_unix_ms: 1_000_000,
                end_unix_ms: 1_600_000,
            }),
            ..Override::default()
        };
        let mut overrides: Overrides = [("web".to_owned(), [("web-1".to_owned(), one)].into())].into();
        let left = |overrides: &Overrides, clock: &Steady, now| {
            let one = overrides["web"]["web-1"];
            let now = clock.at(now);
            (one.drain_until_unix_ms.expect("it drains") - now, one.weight_at(now))
        };
        // Half an hour on, half an hour back, and no change: after a minute there are nine left each time.
        for set in [1_800_000, -1_800_000, 0_i64] {
            let now = begun + Duration::from_secs(60);
            let wall = clock.at(now).saturating_add_signed(set);
            // Until it is noticed it is not felt.
            assert_eq!(left(&overrides, &clock, now), (540_000, Some(10)), "{set}");
            let by = clock.follow(now, wall);
            assert_eq!(by, (set != 0).then_some(set));
            assert!(shift(&mut overrides, by.unwrap_or(0)));
            assert_eq!(clock.at(now), wall);
            assert_eq!(left(&overrides, &clock, now), (540_000, Some(10)), "{set}");
        }
        assert!(!shift(&mut Overrides::new(), 5));
    }
}

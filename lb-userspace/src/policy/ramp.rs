//! A weight on its way from one value to another. Pure; it counts in wall-clock time, so that it goes on after a restart.

use serde::{Deserialize, Serialize};

/// Steps are no shorter than this, in milliseconds.
const SHORTEST_STEP: u64 = 1_000;
/// A ramp has no more steps than this.
const STEPS: u64 = 100;

/// A weight that moves evenly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ramp {
    /// The weight at the beginning.
    pub from: u32,
    /// The weight at the end.
    pub to: u32,
    /// When it begins.
    pub begin_unix_ms: u64,
    /// When it ends.
    pub end_unix_ms: u64,
}

impl Ramp {
    /// The weight at a time. It moves in steps, so that the ring changes a bounded number of times.
    pub fn weight(&self, now_unix_ms: u64) -> u32 {
        if self.is_over(now_unix_ms) {
            return self.to;
        }
        let past = now_unix_ms.saturating_sub(self.begin_unix_ms);
        let past = past - past % self.step();
        let (from, to) = (i128::from(self.from), i128::from(self.to));
        let weight = from + (to - from) * i128::from(past) / i128::from(self.length());
        // Between two 32-bit numbers.
        weight as u32
    }

    /// Whether it has ended.
    pub fn is_over(&self, now_unix_ms: u64) -> bool {
        now_unix_ms >= self.end_unix_ms
    }

    /// Milliseconds until the next step; nothing if it has ended.
    pub fn next_ms(&self, now_unix_ms: u64) -> Option<u64> {
        if self.is_over(now_unix_ms) {
            return None;
        }
        let past = now_unix_ms.saturating_sub(self.begin_unix_ms);
        let step = self.step() - past % self.step();
        Some(step.min(self.end_unix_ms - now_unix_ms))
    }

    fn length(&self) -> u64 {
        self.end_unix_ms.saturating_sub(self.begin_unix_ms).max(1)
    }

    fn step(&self) -> u64 {
        self.length().div_ceil(STEPS).max(SHORTEST_STEP)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UP: Ramp = Ramp {
        from: 0,
        to: 200,
        begin_unix_ms: 1_000_000,
        end_unix_ms: 1_600_000,
    };

    #[test]
    fn it_moves_evenly_and_in_steps() {
        for (at, weight) in [
            (0, 0),
            (1_000_000, 0),
            (1_005_999, 0),
            (1_006_000, 2),
            (1_300_000, 100),
            (1_599_999, 198),
            (1_600_000, 200),
            (u64::MAX, 200),
        ] {
            assert_eq!(UP.weight(at), weight, "{at}");
        }
        let down = Ramp { from: 200, to: 0, ..UP };
        assert_eq!((down.weight(1_006_000), down.weight(1_300_000)), (198, 100));
        assert_eq!(UP.next_ms(1_000_001), Some(5_999));
        assert_eq!(UP.next_ms(1_600_000), None);
    }

    #[test]
    fn a_short_one_has_steps_of_a_second_and_one_without_length_is_over() {
        let short = Ramp {
            end_unix_ms: 1_002_500,
            ..UP
        };
        assert_eq!(
            [0, 999, 1_000, 2_000, 2_500].map(|past| short.weight(1_000_000 + past)),
            [0, 0, 80, 160, 200]
        );
        assert_eq!(short.next_ms(1_002_100), Some(400));
        let none = Ramp { end_unix_ms: 0, ..UP };
        assert_eq!(none.weight(5), 200);
        let extreme = Ramp {
            from: 65_535,
            to: 0,
            begin_unix_ms: 0,
            end_unix_ms: u64::MAX,
        };
        assert_eq!(extreme.weight(1), 65_535);
    }
}

//! How many probes began late, lately.

use std::time::{Duration, Instant};

/// Late probes are counted for so long at a time.
pub const WINDOW: Duration = Duration::from_secs(10);

/// Probes that began more than their interval after they were due.
#[derive(Default)]
pub(super) struct Late {
    begun: Option<Instant>,
    /// Since then, and in the window before.
    count: u64,
    before: u64,
}

impl Late {
    pub(super) fn add(&mut self, now: Instant) {
        let begun = *self.begun.get_or_insert(now);
        let passed = now.saturating_duration_since(begun);
        if passed >= WINDOW {
            self.before = if passed < 2 * WINDOW { self.count } else { 0 };
            self.count = 0;
            self.begun = Some(now);
        }
        self.count += 1;
    }

    /// In the window that has just ended, or already since.
    pub(super) fn lately(&self, now: Instant) -> u64 {
        let passed = self.begun.map(|begun| now.saturating_duration_since(begun));
        match passed {
            Some(passed) if passed < WINDOW => self.count.max(self.before),
            Some(passed) if passed < 2 * WINDOW => self.count,
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_forgotten_after_a_while() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut late = Late::default();
        assert_eq!(late.lately(at(0)), 0);
        for _ in 0..5 {
            late.add(at(1));
        }
        assert_eq!(
            (late.lately(at(2)), late.lately(at(12)), late.lately(at(21))),
            (5, 5, 0)
        );
        late.add(at(13));
        assert_eq!(
            (late.lately(at(14)), late.lately(at(24)), late.lately(at(40))),
            (5, 1, 0)
        );
        late.add(at(60));
        assert_eq!(late.lately(at(60)), 1);
    }
}

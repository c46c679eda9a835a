//! For tests of what follows from verdicts: who is probed and when as ever, and every probe answered at once.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::roster::Roster;
use super::{HealthEvent, LastProbe, Outcome, Target};

/// Targets and their schedule, without a network.
pub(crate) struct Rehearsal(Roster);

impl Rehearsal {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Roster::new(fastrand::Rng::with_seed(seed)))
    }

    pub(crate) fn set(&mut self, targets: Vec<Target>, now: Instant) {
        self.0.set(targets, now);
    }

    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.0.next_due()
    }

    /// Makes the probes that are due; says what has changed.
    pub(crate) fn probe(&mut self, now: Instant, mut answer: impl FnMut(SocketAddr) -> Outcome) -> Vec<HealthEvent> {
        while let Some((id, job)) = self.0.take_due(now, Duration::ZERO) {
            let result = LastProbe {
                outcome: answer(job.to),
                text: Arc::from("rehearsed"),
                took: Duration::ZERO,
                at: now,
            };
            self.0.record(id, result);
        }
        self.0.take_changes()
    }
}

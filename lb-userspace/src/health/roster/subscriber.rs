//! What one target makes of a probe's results, which it may share with others.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use super::super::{HealthEvent, Judge, LastProbe, Outcome, Target, TargetId};

pub(super) struct Subscriber {
    pub(super) judge: Judge,
    pub(super) passed: u64,
    pub(super) failed: u64,
    pub(super) skipped: u64,
}

impl Subscriber {
    /// The same address under other settings keeps its verdict: a reload must not take a good backend out. Another address is
    /// another server, of which nothing is known.
    pub(super) fn succeed(before: Option<(SocketAddr, Subscriber)>, target: &Target, now: Instant) -> Self {
        let (rise, fall) = (target.health.rise, target.health.fall);
        match before {
            Some((address, mut subscriber)) if address.ip() == target.address => {
                subscriber.judge.retune(rise, fall);
                subscriber.judge.forget_run();
                subscriber
            }
            _ => Self {
                judge: match target.initial {
                    Some(up) => Judge::resume(rise, fall, up, now),
                    None => Judge::new(rise, fall, now),
                },
                passed: 0,
                failed: 0,
                skipped: 0,
            },
        }
    }

    pub(super) fn record(&mut self, id: &TargetId, address: SocketAddr, result: &LastProbe) -> Option<HealthEvent> {
        match result.outcome {
            Outcome::Passed => self.passed += 1,
            Outcome::Failed => self.failed += 1,
            Outcome::Skipped => self.skipped += 1,
        }
        let transition = self.judge.record(result.outcome, result.at)?;
        Some(HealthEvent {
            id: id.clone(),
            address,
            transition,
            reason: Arc::clone(&result.text),
            at: result.at,
        })
    }
}

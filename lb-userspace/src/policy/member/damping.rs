//! Counts how often a backend goes down, and holds out whoever does so too often.

use std::time::{Duration, Instant};

use super::{Health, Member, elapsed};
use crate::api::events::EventKind;
use crate::model::{Damping, Failover, Policy};

/// What each time down adds to the penalty; out until it is down to this again.
pub(super) const PENALTY: f64 = 1000.0;

impl Member {
    /// Counts the times it goes down, and lets the penalty decay.
    pub(super) fn damp(
        &mut self,
        policy: &Policy,
        health: Health,
        now: Instant,
        tell: &mut impl FnMut(EventKind, String, String, String),
    ) {
        let Some(damping) = policy.damping else {
            (self.damped, self.penalty) = (false, 0.0);
            return;
        };
        self.penalty = self.penalty_now(damping, now);
        self.penalty_at = Some(now);
        if self.health == Health::Up && health == Health::Down {
            self.penalty = (self.penalty + PENALTY).min(ceiling(damping));
        }
        let limit = (f64::from(damping.changes) - 0.5) * PENALTY;
        if !self.damped && self.penalty >= limit.min(ceiling(damping)) {
            self.damped = true;
            let out = damping.half_life.mul_f64((self.penalty / PENALTY).log2().max(0.0));
            let why = format!("{} times down in a short time", damping.changes);
            let seconds = out.as_secs_f64().round();
            let to = if policy.failover == Failover::Manual && self.is_in() {
                format!("serving on; held out for {seconds} s if its failover is confirmed")
            } else {
                format!("held out for {seconds} s")
            };
            tell(EventKind::BackendDamped, String::new(), to, why);
        } else if self.damped && self.penalty <= PENALTY {
            self.damped = false;
            let why = "it has not changed for long enough".to_owned();
            let was = if self.is_in() { "serving on" } else { "held out" };
            tell(EventKind::BackendReleased, was.to_owned(), String::new(), why);
        }
    }

    pub(super) fn penalty_now(&self, damping: Damping, now: Instant) -> f64 {
        let Some(at) = self.penalty_at else { return 0.0 };
        let halvings = elapsed(at, now).as_secs_f64() / damping.half_life.as_secs_f64();
        self.penalty * (-halvings).exp2()
    }

    /// When the penalty will be low enough.
    pub(super) fn release(&self, damping: Damping, now: Instant) -> Instant {
        let halvings = (self.penalty_now(damping, now) / PENALTY).log2().max(0.0);
        // A little later: then it surely is.
        now + damping.half_life.mul_f64(halvings) + Duration::from_millis(1)
    }

    /// Whether it is held out for changing too often. With a manual failover it may be damped and serve.
    pub(in crate::policy) fn is_held_out(&self) -> bool {
        self.damped && !self.is_in()
    }
}

/// The penalty from which it takes `max_out` to get low enough.
fn ceiling(damping: Damping) -> f64 {
    let halvings = damping.max_out.as_secs_f64() / damping.half_life.as_secs_f64();
    PENALTY * halvings.min(60.0).exp2()
}

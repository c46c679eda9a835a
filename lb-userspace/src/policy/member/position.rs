//! Where a backend stands on its way, for the next daemon: in wall-clock time.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::damping::PENALTY;
use super::{Health, Member, Phase, earlier, elapsed};
use crate::model::{Failback, Failover, Policy};
use crate::policy::Now;

/// A smaller penalty is none.
const LEAST_PENALTY: f64 = 1.0;

/// What a daemon leaves the next one of a backend, besides what the tables tell.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Position {
    /// Where it is on its way, if it is on one.
    pub way: Option<Way>,
    /// Since when.
    pub since_unix_ms: u64,
    /// The penalty for changing too often.
    pub penalty: f64,
    /// When it was that high.
    pub penalty_unix_ms: u64,
    /// It is held out for it.
    pub damped: bool,
}

/// A way that takes time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    /// Its share grows.
    Rising,
    /// Its share shrinks: it is down.
    Falling,
    /// It is up, and waits.
    Waiting,
    /// It is out, and does not come back by itself.
    Out,
    /// It is down, and serves until an operator confirms.
    Pending,
}

impl Now {
    fn wall(self, at: Instant) -> u64 {
        let past = u64::try_from(elapsed(at, self.instant).as_millis()).unwrap_or(u64::MAX);
        self.unix_ms.saturating_sub(past)
    }

    /// What lies in the future is now: the clock was set.
    fn instant(self, unix_ms: u64) -> Instant {
        earlier(
            self.instant,
            Duration::from_millis(self.unix_ms.saturating_sub(unix_ms)),
        )
    }
}

impl Member {
    /// What the next daemon cannot know otherwise; nothing if there is no such thing.
    pub(in crate::policy) fn position(&self, policy: &Policy, now: Now) -> Option<Position> {
        let way = match self.phase {
            Phase::Rising(since) => Some((Way::Rising, since)),
            Phase::Falling(since) => Some((Way::Falling, since)),
            Phase::Waiting(since) => Some((Way::Waiting, since)),
            // Whoever comes back by itself does so anyway.
            Phase::Out if policy.failback != Failback::Auto => Some((Way::Out, now.instant)),
            Phase::Pending => Some((Way::Pending, now.instant)),
            Phase::Starting | Phase::In | Phase::Out => None,
        };
        let penalty = policy
            .damping
            .map_or(0.0, |damping| self.penalty_now(damping, now.instant));
        (way.is_some() || penalty >= LEAST_PENALTY).then(|| Position {
            way: way.map(|(way, _)| way),
            since_unix_ms: match way {
                None | Some((Way::Out | Way::Pending, _)) => 0,
                Some((_, since)) => now.wall(since),
            },
            penalty,
            penalty_unix_ms: now.unix_ms,
            damped: self.damped,
        })
    }

    /// Takes over what an earlier daemon left. `had`: the tables say that it had slots, and they are newer; says whether it goes on its way
    /// down.
    pub(in crate::policy) fn resume(
        &mut self,
        position: Option<&Position>,
        had: bool,
        policy: &Policy,
        now: Now,
    ) -> bool {
        if had {
            // Not as one that comes: others must not make it start slowly.
            self.phase = Phase::In;
        }
        let Some(position) = position else { return false };
        let since = now.instant(position.since_unix_ms);
        let gradual = matches!(policy.failover, Failover::Gradual { .. });
        match position.way {
            Some(Way::Rising) if had => self.phase = Phase::Rising(since),
            Some(Way::Falling) if had && gradual => {
                (self.phase, self.health) = (Phase::Falling(since), Health::Down);
            }
            Some(Way::Pending) if had && policy.failover == Failover::Manual => {
                (self.phase, self.health) = (Phase::Pending, Health::Down);
            }
            Some(Way::Waiting) if !had => self.phase = Phase::Waiting(since),
            Some(Way::Out) if !had && policy.failback != Failback::Auto => self.phase = Phase::Out,
            _ => {}
        }
        if policy.damping.is_some() {
            // From a file: as large as it may say, it is not infinite.
            self.penalty = position.penalty.clamp(0.0, PENALTY * 60_f64.exp2());
            self.penalty_at = Some(now.instant(position.penalty_unix_ms));
            self.damped = position.damped;
            if self.damped && self.phase == Phase::Starting {
                self.phase = Phase::Out;
            }
        }
        self.is_tolerated()
    }
}

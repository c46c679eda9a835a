//! One backend on its way down and back up.

mod damping;
pub(super) mod position;

use std::time::{Duration, Instant};

use super::{Confirm, Seen, Standing, WHOLE};
use crate::api::events::EventKind;
use crate::api::types::Admin;
use crate::health::State as Health;
use crate::model::{Failback, Failover, Policy};

/// Steps in which a share rises or falls.
const STEPS: u32 = 10;

/// One backend.
#[derive(Clone, Debug)]
pub(super) struct Member {
    phase: Phase,
    /// What its checks said at the last step.
    health: Health,
    admin: Admin,
    penalty: f64,
    /// When the penalty was that high.
    penalty_at: Option<Instant>,
    damped: bool,
    /// An operator has confirmed what is waited for.
    confirmed: bool,
}

/// Where it is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Nothing is known yet.
    Starting,
    /// It serves.
    In,
    /// It comes back, since then.
    Rising(Instant),
    /// It is down and goes, since then.
    Falling(Instant),
    /// It is down and serves until it is confirmed.
    Pending,
    /// It is out.
    Out,
    /// It is up and waits, since then.
    Waiting(Instant),
}

impl Default for Member {
    fn default() -> Self {
        Self {
            phase: Phase::Starting,
            health: Health::Starting,
            admin: Admin::Enabled,
            penalty: 0.0,
            penalty_at: None,
            damped: false,
            confirmed: false,
        }
    }
}

/// Why something happens that an operator has been waited for.
const CONFIRMED: &str = "an operator confirmed it";

impl Member {
    /// One that was out before.
    pub(super) fn out(_now: Instant) -> Self {
        Self {
            phase: Phase::Out,
            ..Self::default()
        }
    }

    /// Takes in what is known; `tell` gets what has changed. `served`: others of the service serve already.
    pub(super) fn advance(
        &mut self,
        policy: &Policy,
        seen: &Seen,
        served: bool,
        now: Instant,
        mut tell: impl FnMut(EventKind, String, String, String),
    ) {
        let before = self.phase;
        self.damp(policy, seen.health, now, &mut tell);
        let returns = self.admin != Admin::Enabled && seen.admin == Admin::Enabled;
        (self.health, self.admin) = (seen.health, seen.admin);
        self.phase = if !seen.reachable {
            match self.phase {
                Phase::Starting => Phase::Starting,
                _ => Phase::Out,
            }
        } else {
            match seen.health {
                Health::Starting => match self.phase {
                    Phase::Out => Phase::Out,
                    // An earlier daemon has seen it up.
                    Phase::Waiting(since) => Phase::Waiting(since),
                    _ => Phase::Starting,
                },
                Health::Down => self.going(policy, now),
                Health::Up => self.coming(policy, returns, served, now),
            }
        };
        if self.phase != before {
            self.tell(before, policy, seen, &mut tell);
        }
        self.confirmed = false;
    }

    /// Others take over for one that is on its way down: then it has no time left.
    pub(super) fn give_way(&mut self, tell: impl FnOnce(EventKind, String, String, String)) {
        if matches!(self.phase, Phase::Falling(_)) {
            let was = self.phase.words().to_owned();
            self.phase = Phase::Out;
            let why = "it is down, and others take over at once".to_owned();
            tell(EventKind::Failover, was, self.phase.words().to_owned(), why);
        }
    }

    /// Down: how it goes.
    fn going(&self, policy: &Policy, now: Instant) -> Phase {
        match (self.phase, policy.failover) {
            (Phase::Starting | Phase::Waiting(_) | Phase::Out, _) => Phase::Out,
            (_, Failover::Fast) => Phase::Out,
            (_, Failover::Manual) if self.confirmed => Phase::Out,
            (_, Failover::Manual) => Phase::Pending,
            (Phase::Falling(since), Failover::Gradual { over }) if elapsed(since, now) >= over => Phase::Out,
            (Phase::Falling(since), Failover::Gradual { .. }) if !self.confirmed => Phase::Falling(since),
            (_, Failover::Gradual { .. }) if self.confirmed => Phase::Out,
            (_, Failover::Gradual { over }) => {
                let gone = WHOLE - self.fraction(policy, now).unwrap_or(0);
                Phase::Falling(earlier(now, part_of(over, gone)))
            }
        }
    }

    /// Up: how it comes.
    fn coming(&self, policy: &Policy, returns: bool, served: bool, now: Instant) -> Phase {
        let enter = |from: u16| {
            if policy.slow_start.is_zero() || !served || from == WHOLE {
                Phase::In
            } else {
                Phase::Rising(earlier(now, part_of(policy.slow_start, from)))
            }
        };
        match self.phase {
            Phase::Starting => enter(0),
            Phase::In if returns => enter(0),
            // One that nobody has confirmed to be out stays: so says a manual failover, damped or not.
            Phase::In | Phase::Pending => Phase::In,
            Phase::Falling(_) if self.damped => Phase::Out,
            Phase::Falling(_) => enter(self.fraction(policy, now).unwrap_or(0)),
            Phase::Rising(since) if elapsed(since, now) >= policy.slow_start => Phase::In,
            Phase::Rising(since) => Phase::Rising(since),
            Phase::Out | Phase::Waiting(_) if self.confirmed => enter(0),
            Phase::Out | Phase::Waiting(_) if self.damped => Phase::Out,
            Phase::Out => match policy.failback {
                Failback::Auto => enter(0),
                Failback::Delay { .. } | Failback::Manual => Phase::Waiting(now),
            },
            Phase::Waiting(since) => match policy.failback {
                Failback::Auto => enter(0),
                Failback::Delay { after } if elapsed(since, now) >= after => enter(0),
                Failback::Delay { .. } | Failback::Manual => Phase::Waiting(since),
            },
        }
    }

    /// What it could serve with; nothing: it is out.
    pub(super) fn fraction(&self, policy: &Policy, now: Instant) -> Option<u16> {
        let part = |step: u32| (u32::from(WHOLE) * step.min(STEPS) / STEPS) as u16;
        match self.phase {
            Phase::In | Phase::Pending => Some(WHOLE),
            Phase::Rising(since) => Some(part(step(since, policy.slow_start, now) + 1)),
            Phase::Falling(since) => {
                let Failover::Gradual { over } = policy.failover else {
                    return Some(WHOLE);
                };
                Some(WHOLE - part(step(since, over, now) + 1))
            }
            Phase::Starting | Phase::Out | Phase::Waiting(_) => None,
        }
    }

    /// When it changes by time alone.
    pub(super) fn next(&self, policy: &Policy, seen: &Seen, now: Instant) -> Option<Instant> {
        let next_step = |since: Instant, over: Duration| since + over * (step(since, over, now) + 1) / STEPS;
        let phase = match (self.phase, policy.failover, policy.failback) {
            // Its next probe decides.
            _ if seen.health == Health::Starting => None,
            (Phase::Rising(since), _, _) => Some(next_step(since, policy.slow_start)),
            (Phase::Falling(since), Failover::Gradual { over }, _) => Some(next_step(since, over)),
            (Phase::Waiting(since), _, Failback::Delay { after }) => Some(since + after),
            _ => None,
        };
        let release = policy
            .damping
            .filter(|_| self.damped && seen.health == Health::Up)
            .map(|damping| self.release(damping, now));
        phase.into_iter().chain(release).min()
    }

    /// Whether it serves, or could.
    pub(super) fn is_in(&self) -> bool {
        matches!(
            self.phase,
            Phase::In | Phase::Rising(_) | Phase::Falling(_) | Phase::Pending
        )
    }

    /// Whether it is neither coming nor going.
    pub(super) fn is_steady(&self) -> bool {
        matches!(self.phase, Phase::In | Phase::Pending)
    }

    /// Whether it serves although it is down: the policy says so.
    pub(super) fn is_tolerated(&self) -> bool {
        matches!(self.phase, Phase::Falling(_) | Phase::Pending)
    }

    /// Takes in an operator's word; says whether it was waited for.
    pub(super) fn confirm(&mut self, what: Confirm) -> bool {
        let waited_for = match what {
            Confirm::Failover => self.is_tolerated(),
            Confirm::Failback => {
                matches!(self.phase, Phase::Waiting(_)) || self.is_held_out() && self.health == Health::Up
            }
        };
        if waited_for {
            self.confirmed = true;
            if what == Confirm::Failback {
                (self.damped, self.penalty) = (false, 0.0);
            }
        }
        waited_for
    }

    pub(super) fn standing(&self, sorry: bool, seen: &Seen, fraction: u16, policy: &Policy, now: Instant) -> Standing {
        match seen.admin {
            Admin::Draining => return Standing::Draining,
            Admin::Disabled => return Standing::Disabled,
            Admin::Enabled => {}
        }
        if !seen.reachable {
            return Standing::Unreachable;
        }
        match self.phase {
            Phase::Starting => Standing::Starting,
            Phase::Out => match policy.damping {
                Some(damping) if self.damped && seen.health == Health::Up => Standing::Damped {
                    until: self.release(damping, now),
                },
                _ if seen.health == Health::Starting => Standing::Starting,
                _ => Standing::Down,
            },
            Phase::Waiting(_) if seen.health == Health::Starting => Standing::Starting,
            Phase::Waiting(since) => Standing::Waiting {
                until: match policy.failback {
                    Failback::Delay { after } => Some(since + after),
                    _ => None,
                },
            },
            _ if !seen.weighted => Standing::Weightless,
            Phase::Falling(_) => Standing::Falling,
            Phase::Pending => Standing::Pending,
            Phase::In | Phase::Rising(_) if fraction == 0 && sorry => Standing::Sorry,
            Phase::In | Phase::Rising(_) if fraction == 0 => Standing::Standby,
            Phase::In => Standing::Serving,
            Phase::Rising(_) => Standing::Rising,
        }
    }

    /// Says what a new phase means for the backend's traffic.
    fn tell(
        &self,
        before: Phase,
        policy: &Policy,
        seen: &Seen,
        tell: &mut impl FnMut(EventKind, String, String, String),
    ) {
        let why = || match (self.confirmed, seen.reachable) {
            (true, _) => CONFIRMED.to_owned(),
            (_, true) if seen.health == Health::Up => "it changed too often".to_owned(),
            (_, true) if seen.by_agent => "its agent says that it is down".to_owned(),
            (_, true) => "its checks fail".to_owned(),
            (_, false) => "there is no way to it".to_owned(),
        };
        let was = before.words().to_owned();
        let now = self.phase.words().to_owned();
        let served = matches!(
            before,
            Phase::In | Phase::Rising(_) | Phase::Falling(_) | Phase::Pending
        );
        match self.phase {
            Phase::Out if served => tell(EventKind::Failover, was, now, why()),
            Phase::Falling(_) => {
                let over = match policy.failover {
                    Failover::Gradual { over } => format!("{}; over {} s", why(), over.as_secs_f64()),
                    _ => why(),
                };
                tell(EventKind::Failover, was, now, over);
            }
            Phase::Pending => {
                let why = "failover is manual: `lbctl failover` confirms it".to_owned();
                tell(EventKind::FailoverPending, was, now, why);
            }
            Phase::Waiting(_) => {
                let why = match policy.failback {
                    Failback::Delay { after } => format!("it must have been up for {} s", after.as_secs_f64()),
                    _ => "failback is manual: `lbctl failback` confirms it".to_owned(),
                };
                tell(EventKind::FailbackPending, was, now, why);
            }
            Phase::In | Phase::Rising(_)
                if matches!(
                    before,
                    Phase::Out | Phase::Waiting(_) | Phase::Falling(_) | Phase::Pending
                ) =>
            {
                let why = match before {
                    Phase::Out | Phase::Waiting(_) if self.confirmed => CONFIRMED,
                    _ => "its checks pass",
                };
                tell(EventKind::Failback, was, now, why.to_owned());
            }
            _ => {}
        }
    }
}

impl Phase {
    fn words(self) -> &'static str {
        match self {
            Phase::Starting => "starting",
            Phase::In => "in",
            Phase::Rising(_) => "coming back",
            Phase::Falling(_) => "going",
            Phase::Pending => "down, serving on",
            Phase::Out => "out",
            Phase::Waiting(_) => "up, waiting",
        }
    }
}

/// Which step it is, 0 ..= `STEPS`.
fn step(since: Instant, over: Duration, now: Instant) -> u32 {
    if over.is_zero() {
        return STEPS;
    }
    let steps = elapsed(since, now).as_nanos() * u128::from(STEPS) / over.as_nanos();
    steps.min(u128::from(STEPS)) as u32
}

fn elapsed(since: Instant, now: Instant) -> Duration {
    now.saturating_duration_since(since)
}

fn earlier(now: Instant, by: Duration) -> Instant {
    now.checked_sub(by).unwrap_or(now)
}

fn part_of(whole: Duration, part: u16) -> Duration {
    whole * u32::from(part) / u32::from(WHOLE)
}

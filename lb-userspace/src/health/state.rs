//! When a backend counts as up or down: rise and fall.
//!
//! Pure: a [`Judge`] sees one target's results in order and is told the time.

use std::fmt;
use std::time::Instant;

use serde::Serialize;

/// Turns one target's probe results into a verdict.
///
/// | state | a passed probe | a failed probe |
/// | --- | --- | --- |
/// | starting | up at once | down at once |
/// | up | ends a run of failures | down after `fall` in a row |
/// | down | up after `rise` in a row | ends a run of passes |
///
/// A starting backend serves nobody yet, so there is nothing that rise and fall would have to keep from flapping: a good
/// backend need not wait for `rise` intervals, and a bad one is shown as down, with the reason, after its first probe.
/// After that first failure it needs `rise` passes like any other. A skipped probe says nothing about
/// the backend and changes nothing.
#[derive(Clone, Debug)]
pub struct Judge {
    rise: u32,
    fall: u32,
    state: State,
    /// Results in a row that speak against `state`.
    run: u32,
    since: Instant,
}

/// What is thought of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// No probe has ended yet: it gets no traffic.
    Starting,
    /// It serves.
    Up,
    /// It does not.
    Down,
}

/// How one probe ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// The backend answered as it should.
    Passed,
    /// It did not.
    Failed,
    /// This host could not ask: that is not the backend's fault.
    Skipped,
}

/// A change of state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transition {
    /// The state until now.
    pub from: State,
    /// The state from now on.
    pub to: State,
}

impl Judge {
    /// Knows nothing of its target yet. `rise` and `fall` of 0 count as 1.
    pub fn new(rise: u32, fall: u32, now: Instant) -> Self {
        Self {
            rise,
            fall,
            state: State::Starting,
            run: 0,
            since: now,
        }
    }

    /// Takes over a target that is known to serve or not to serve, from before a restart.
    pub fn resume(rise: u32, fall: u32, up: bool, now: Instant) -> Self {
        let state = if up { State::Up } else { State::Down };
        Self {
            state,
            ..Self::new(rise, fall, now)
        }
    }

    /// Takes in one result; says so when it changes the state.
    pub fn record(&mut self, outcome: Outcome, now: Instant) -> Option<Transition> {
        let (to, needed) = match (self.state, outcome) {
            (_, Outcome::Skipped) => return None,
            (State::Starting, Outcome::Passed) => (State::Up, 1),
            (State::Starting, Outcome::Failed) => (State::Down, 1),
            (State::Up, Outcome::Failed) => (State::Down, self.fall),
            (State::Down, Outcome::Passed) => (State::Up, self.rise),
            (State::Up, Outcome::Passed) | (State::Down, Outcome::Failed) => {
                self.run = 0;
                return None;
            }
        };
        self.run += 1;
        if self.run < needed {
            return None;
        }
        let transition = Transition { from: self.state, to };
        self.state = to;
        self.run = 0;
        self.since = now;
        Some(transition)
    }

    /// Keeps the state under other settings. A run that had begun is forgotten if they differ.
    pub fn retune(&mut self, rise: u32, fall: u32) {
        if (self.rise, self.fall) != (rise, fall) {
            (self.rise, self.fall) = (rise, fall);
            self.run = 0;
        }
    }

    /// Forgets a run that had begun, because what is probed changed.
    pub fn forget_run(&mut self) {
        self.run = 0;
    }

    /// The present state.
    pub fn state(&self) -> State {
        self.state
    }

    /// Results in a row that speak against the present state; below `rise` or `fall`.
    pub fn run(&self) -> u32 {
        self.run
    }

    /// When the present state began.
    pub fn since(&self) -> Instant {
        self.since
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            State::Starting => "starting",
            State::Up => "up",
            State::Down => "down",
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Feeds `results` (`+` passed, `-` failed, `?` skipped) and writes the state after each: `s`, `u` or `d`.
    fn states(mut judge: Judge, results: &str) -> String {
        let now = Instant::now();
        let record = |result| {
            let outcome = match result {
                '+' => Outcome::Passed,
                '-' => Outcome::Failed,
                _ => Outcome::Skipped,
            };
            let before = judge.state();
            let transition = judge.record(outcome, now);
            let after = judge.state();
            let expected = (before != after).then_some(Transition {
                from: before,
                to: after,
            });
            assert_eq!(transition, expected, "a transition exactly when the state changes");
            after.to_string().chars().next().unwrap_or(' ')
        };
        results.chars().map(record).collect()
    }

    #[test]
    fn verdicts() {
        let now = Instant::now();
        let fresh = |rise, fall| Judge::new(rise, fall, now);
        let was = |up, rise, fall| Judge::resume(rise, fall, up, now);
        for (name, judge, results, expected) in [
            ("one pass decides at the start", fresh(3, 3), "+", "u"),
            ("one failure decides at the start", fresh(3, 3), "-", "d"),
            ("after it, rise counts", fresh(2, 3), "-++", "ddu"),
            ("fall in a row", fresh(2, 3), "+---", "uuud"),
            (
                "a pass in between ends the run",
                fresh(2, 3),
                "+--+--+---",
                "uuuuuuuuud",
            ),
            ("rise in a row", fresh(2, 1), "+-+-++", "uddddu"),
            ("skipped ones leave a start open", fresh(1, 1), "??+", "ssu"),
            (
                "skipped ones neither add to a run nor end it",
                fresh(2, 3),
                "+-?-?-",
                "uuuuud",
            ),
            ("resumed as up: still fall", was(true, 2, 3), "---", "uud"),
            ("resumed as down: still rise", was(false, 2, 3), "-++", "ddu"),
            ("rise 1 and fall 1 follow every result", was(true, 1, 1), "-+-+", "dudu"),
            ("zeros count as one", was(true, 0, 0), "-+", "du"),
            (
                "flapping each probe never reaches fall 2",
                was(true, 2, 2),
                "-+-+-+",
                "uuuuuu",
            ),
        ] {
            assert_eq!(states(judge, results), expected, "{name}");
        }
    }

    #[test]
    fn since_is_the_last_change() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut judge = Judge::new(1, 2, start);
        judge.record(Outcome::Passed, at(10));
        assert_eq!(judge.since(), at(10));
        judge.record(Outcome::Failed, at(20));
        assert_eq!((judge.since(), judge.run()), (at(10), 1));
        judge.record(Outcome::Failed, at(30));
        assert_eq!((judge.since(), judge.run()), (at(30), 0));
    }

    #[test]
    fn retuning_keeps_the_state() {
        let now = Instant::now();
        let mut judge = Judge::resume(2, 3, true, now);
        judge.record(Outcome::Failed, now);
        judge.retune(2, 3);
        assert_eq!(judge.run(), 1, "the same settings change nothing");
        judge.retune(2, 2);
        assert_eq!((judge.state(), judge.run()), (State::Up, 0));
    }
}

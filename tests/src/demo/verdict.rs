//! Whether the failover was right, from the requests alone.

use std::time::Duration;

use anyhow::{Result, bail};

use crate::load::Sample;

/// When things were done, on the load's clock.
#[derive(Clone, Copy, Debug)]
pub struct Marks {
    /// A server was killed.
    pub killed: Duration,
    /// It was started again.
    pub back: Duration,
    /// The load ended.
    pub end: Duration,
}

/// What the requests say.
#[derive(Clone, Debug)]
pub struct Verdict {
    requests: usize,
    failed: usize,
    /// From the kill to the end of the last request that failed.
    last_failure: Option<Duration>,
    /// From the new start to the first request that it answered.
    returned: Option<Duration>,
    problem: Option<String>,
}

/// Three checks 200 ms apart and the last one's 100 ms, a moment to write the ring, and a busy machine.
const DETECTION: Duration = Duration::from_millis(1_000);
/// Two checks 200 ms apart must succeed; the same allowance.
const RETURN: Duration = Duration::from_millis(1_500);

/// Judges requests to the backends `names`, of which `victim` was killed.
pub fn judge(samples: &[Sample], names: &[&str], victim: &str, marks: &Marks) -> Verdict {
    let end = |sample: &Sample| sample.at + sample.took;
    let failed = samples.iter().filter(|sample| sample.outcome.is_err());
    let answered_by = |name: &str, from: Duration, to: Duration| {
        samples
            .iter()
            .any(|sample| sample.at >= from && sample.at < to && sample.outcome.as_deref() == Ok(name))
    };
    let last_failure = failed.clone().map(end).max().map(|at| at.saturating_sub(marks.killed));
    let returned = samples
        .iter()
        .filter(|sample| sample.at >= marks.back && sample.outcome.as_deref() == Ok(victim))
        .map(|sample| sample.at - marks.back)
        .min();

    let problem = || -> Option<String> {
        if let Some(name) = names
            .iter()
            .find(|name| !answered_by(name, Duration::ZERO, marks.killed))
        {
            return Some(format!("{name} answered nothing before the kill"));
        }
        if let Some(sample) = failed.clone().find(|sample| end(sample) < marks.killed) {
            return Some(format!(
                "a request failed before the kill, at {:.1} s",
                sample.at.as_secs_f64()
            ));
        }
        if failed.clone().next().is_none() {
            return Some(format!(
                "no request failed although {victim} was killed: it had no traffic"
            ));
        }
        if let Some(last) = last_failure.filter(|last| *last > DETECTION) {
            return Some(format!(
                "requests failed until {last:.2?} after the kill, {DETECTION:.0?} were allowed"
            ));
        }
        if answered_by(victim, marks.killed + DETECTION, marks.back) {
            return Some(format!("{victim} answered while it was dead"));
        }
        // In steps of half a second: whoever carries on answers some 50 requests in each.
        let mut from = marks.killed;
        while from + HALF_SECOND <= marks.end {
            let silent = |name: &&&str| **name != victim && !answered_by(name, from, from + HALF_SECOND);
            if let Some(name) = names.iter().find(silent) {
                return Some(format!("{name} did not carry on at {:.1} s", from.as_secs_f64()));
            }
            from += HALF_SECOND;
        }
        match returned {
            None => Some(format!("{victim} did not come back")),
            Some(after) if after > RETURN => Some(format!(
                "{victim} came back only {after:.2?} after its new start, {RETURN:.1?} were allowed"
            )),
            Some(_) => None,
        }
    };
    Verdict {
        requests: samples.len(),
        failed: failed.clone().count(),
        last_failure,
        returned,
        problem: problem(),
    }
}

const HALF_SECOND: Duration = Duration::from_millis(500);

impl Verdict {
    /// For people.
    pub fn lines(&self, victim: &str) -> Vec<String> {
        let mut lines = vec![format!("{} of {} requests failed", self.failed, self.requests)];
        if let Some(last) = self.last_failure {
            lines[0] += &format!(", the last one {:.2} s after the kill", last.as_secs_f64());
        }
        match self.returned {
            Some(after) => lines.push(format!(
                "{victim} answered again {:.2} s after its new start",
                after.as_secs_f64()
            )),
            None => lines.push(format!("{victim} did not answer again")),
        }
        if self.problem.is_none() {
            lines.push("the other two carried on throughout".into());
        }
        lines
    }

    /// An error, in one sentence, if the failover was not right.
    pub fn check(&self) -> Result<()> {
        match &self.problem {
            Some(problem) => bail!("the failover was not right: {problem}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Failure;

    const MARKS: Marks = Marks {
        killed: Duration::from_secs(2),
        back: Duration::from_secs(5),
        end: Duration::from_secs(8),
    };

    /// A request every 10 ms, round the three; what goes to `b` while it is dead fails until `detected`, then goes to `c`.
    fn story(detected: u64, up_again: u64) -> Vec<Sample> {
        let outcome = |at: u64| match (at / 10 % 3, at) {
            (0, _) => Ok("a"),
            (1, 2_000..) if at < detected => Err(Failure::Refused),
            (1, 2_000..) if at < up_again => Ok("c"),
            (1, _) => Ok("b"),
            _ => Ok("c"),
        };
        let sample = |at| Sample {
            at: Duration::from_millis(at),
            took: Duration::from_millis(2),
            outcome: outcome(at).map(str::to_owned),
        };
        (0..800).map(|n| sample(n * 10)).collect()
    }

    #[track_caller]
    fn check(samples: &[Sample], expected: &str) {
        let verdict = judge(samples, &["a", "b", "c"], "b", &MARKS);
        let problem = verdict.check().err().map(|error| error.to_string()).unwrap_or_default();
        assert!(
            problem.contains(expected) && (problem.is_empty() == expected.is_empty()),
            "{problem:?}, expected {expected:?}"
        );
    }

    #[test]
    fn a_good_failover() {
        let samples = story(2_600, 5_400);
        check(&samples, "");
        let lines = judge(&samples, &["a", "b", "c"], "b", &MARKS).lines("b");
        assert_eq!(
            lines[0],
            "20 of 800 requests failed, the last one 0.59 s after the kill"
        );
        assert_eq!(lines[1], "b answered again 0.41 s after its new start");
    }

    #[test]
    fn every_way_to_fail() {
        check(&story(3_100, 5_400), "requests failed until 1.0");
        check(&story(2_600, 9_999), "b did not come back");
        check(&story(2_600, 6_600), "b came back only 1.6");
        check(&story(2_000, 5_400), "no request failed although b was killed");
        let change = |from: u64, to: u64, name: &str, outcome: Result<&str, Failure>| {
            let mut samples = story(2_600, 5_400);
            for sample in &mut samples {
                let inside = (from..to).contains(&(sample.at.as_millis() as u64));
                if inside && sample.outcome.as_deref() == Ok(name) {
                    sample.outcome = outcome.clone().map(str::to_owned);
                }
            }
            samples
        };
        check(
            &change(1_000, 1_030, "a", Err(Failure::Reset)),
            "a request failed before the kill, at 1.0 s",
        );
        check(
            &change(4_000, 4_030, "a", Err(Failure::TimedOut)),
            "requests failed until 2.0",
        );
        check(
            &change(7_000, 7_030, "b", Err(Failure::TimedOut)),
            "requests failed until 5.0",
        );
        check(&change(0, 8_000, "c", Ok("a")), "c answered nothing before the kill");
        check(&change(4_000, 4_500, "c", Ok("a")), "c did not carry on at 4.0 s");
        check(&change(4_000, 4_030, "a", Ok("b")), "b answered while it was dead");
    }
}

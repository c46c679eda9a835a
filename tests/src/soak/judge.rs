//! Which of the connections' troubles have a cause.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::stage::{BACKENDS, DRAIN_TIME, SERVICES, Wanted};
use super::talk::{Outcome, Report};

/// Why connections of a backend may break.
#[derive(Clone, Copy, Debug)]
pub struct Cause {
    /// Of one service or of all.
    pub service: Option<usize>,
    /// The backend.
    pub backend: usize,
    /// When it began.
    pub from: Instant,
    /// When its effect was over.
    pub until: Instant,
    /// What it is.
    pub what: &'static str,
}

/// What has come of all connections so far.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Connections that were opened.
    pub opened: u64,
    /// Broken ones with a cause, by what it was.
    pub caused: BTreeMap<&'static str, u64>,
    /// Those that broke without one.
    pub without_cause: Vec<String>,
    /// New connections that were given to a backend that takes none.
    pub misplaced: Vec<String>,
    /// New connections that failed without a cause.
    pub refused: Vec<String>,
}

/// A time without new connections: since when, and until when if it is over.
type Closed = (Instant, Option<Instant>);

/// Judges reports by what was done.
pub struct Judge {
    started: Instant,
    causes: Vec<Cause>,
    /// By service and backend: since when it takes no new connections, and how long it did not before.
    closed: [[Vec<Closed>; BACKENDS]; SERVICES.len()],
    /// What was found.
    pub verdict: Verdict,
}

/// A report may be noticed a moment after what it reports.
const SLACK: Duration = Duration::from_millis(100);

impl Default for Judge {
    /// Without a past.
    fn default() -> Self {
        Self {
            started: Instant::now(),
            causes: Vec::new(),
            closed: Default::default(),
            verdict: Verdict::default(),
        }
    }
}

impl Judge {
    /// Notes what a step has done: it began at `begun`, and has shown by now.
    pub fn note(&mut self, begun: Instant, causes: Vec<Cause>, wanted: &Wanted) {
        self.causes.extend(causes);
        let now = Instant::now();
        for (service, backends) in self.closed.iter_mut().enumerate() {
            for (backend, times) in backends.iter_mut().enumerate() {
                let open = times.last_mut().filter(|(_, until)| until.is_none());
                match (wanted.accepts(service, backend), open) {
                    (true, Some((_, until))) => *until = Some(begun),
                    (false, None) => times.push((now, None)),
                    _ => {}
                }
            }
        }
    }

    /// Judges reports, by the backends' numbers that `number` knows.
    pub fn judge(&mut self, reports: Vec<Report>, number: impl Fn(&str) -> Option<usize>) {
        for report in reports {
            let service = report.ends.service;
            let after = |at: Instant| at.duration_since(self.started).as_secs_f32();
            let whose = format!("{} from {}", SERVICES[service].name, report.ends.source);
            match report.outcome {
                Outcome::Opened { owner, begun } => {
                    self.verdict.opened += 1;
                    let Some(backend) = number(&owner) else {
                        self.verdict.misplaced.push(format!("{whose}: {owner:?} is no backend"));
                        continue;
                    };
                    let mut closed = self.closed[service][backend].iter();
                    if closed.any(|(from, until)| begun > *from && until.is_none_or(|until| begun < until)) {
                        let text = format!("{whose} after {:.1} s: {owner} takes none", after(begun));
                        self.verdict.misplaced.push(text);
                    }
                }
                Outcome::Refused { begun, why } => {
                    let of_service = |cause: &&Cause| cause.service.is_none_or(|of| of == service);
                    let mut causes = self.causes.iter().filter(of_service);
                    if !causes.any(|cause| cause.from <= report.at && begun <= cause.until + SLACK) {
                        self.verdict
                            .refused
                            .push(format!("{whose} after {:.1} s: {why}", after(begun)));
                    }
                }
                Outcome::Broken {
                    owner,
                    opened,
                    answered,
                    why,
                } => {
                    let backend = number(&owner);
                    let concerns =
                        |cause: &&Cause| Some(cause.backend) == backend && cause.service.is_none_or(|of| of == service);
                    let mut causes = self.causes.iter().filter(concerns);
                    let cause = causes.find(|cause| cause.from <= report.at && answered <= cause.until + SLACK);
                    let what = match cause {
                        Some(cause) => Some(cause.what),
                        // The client's own fault: the machine was too busy to ask in time.
                        None => (report.at.duration_since(answered) > DRAIN_TIME).then_some("silent for too long"),
                    };
                    match what {
                        Some(what) => *self.verdict.caused.entry(what).or_default() += 1,
                        None => self.verdict.without_cause.push(format!(
                            "{whose} with {owner} since {:.1} s, which answered last at {:.1} s: {why} at {:.1} s",
                            after(opened),
                            after(answered),
                            after(report.at)
                        )),
                    }
                }
            }
        }
    }
}

impl Verdict {
    /// Broken connections that had a cause.
    pub fn with_cause(&self) -> u64 {
        self.caused.values().sum()
    }
}

//! When each backend's round is due, and what its results come to. Pure: the time is passed in.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use super::super::{Judge, Outcome, State, Target, TargetId, Via};
use super::round::{Answer, Round};
use super::{FullSizeState, Notable};

/// Time between two rounds of a backend.
pub(super) const INTERVAL: Duration = Duration::from_secs(10);
/// The least between them while there is doubt.
const LEAST_GAP: Duration = Duration::from_millis(200);
/// For so long the largest size that was answered counts.
const MEASURED_FOR: Duration = Duration::from_secs(300);

/// Number of a target's life in the schedule: what comes late for an earlier one is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Serial(u64);

/// What a round needs to know.
#[derive(Clone, Debug)]
pub(super) struct Due {
    pub(super) target: Target,
    pub(super) serial: Serial,
    /// The largest packet that users can send.
    pub(super) full: u16,
    /// The size to begin with.
    pub(super) first: u16,
    /// The size for which the largest that is answered need not be looked for, because that is known or does not matter yet.
    pub(super) measure: Measure,
}

/// Whether a round that fails is to find the largest size that is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Measure {
    /// Not yet: a failure decides nothing.
    No,
    /// Yes.
    Yes,
    /// If the size is not this one.
    Unless(u16),
}

impl Measure {
    pub(super) fn wanted(self, size: u16) -> bool {
        match self {
            Measure::No => false,
            Measure::Yes => true,
            Measure::Unless(known) => known != size,
        }
    }
}

/// The largest size that was answered when `size` was not.
#[derive(Clone, Copy, Debug)]
struct Measured {
    size: u16,
    passes: Option<u16>,
    at: Instant,
}

struct Entry {
    target: Target,
    serial: Serial,
    /// Whether its plain checks pass: only then a silence means something.
    up: bool,
    running: bool,
    next: Instant,
    judge: Judge,
    /// Rounds in a row in which no padded packet was answered.
    unanswered: u32,
    /// The largest packet that users send; nothing before the first result.
    size: Option<u16>,
    measured: Option<Measured>,
}

/// All backends that are asked, and when.
#[derive(Default)]
pub(super) struct Schedule {
    entries: HashMap<TargetId, Entry>,
    /// Those that can be asked, are up and not running, by when they are due.
    queue: BTreeSet<(Instant, TargetId)>,
    full: Option<u16>,
    serials: u64,
}

impl Schedule {
    /// Replaces the set of targets; those that serve by `initial` are asked at once. What is known of one that cannot be asked now stays.
    pub(super) fn set(&mut self, targets: Vec<Target>, now: Instant) {
        let mut before = std::mem::take(&mut self.entries);
        self.queue.clear();
        for target in targets {
            let known = before.remove(&target.id).filter(|entry| entry.is_about(&target));
            let mut entry = match known {
                Some(known) => known,
                None if is_blocked(&target) => continue,
                None => {
                    self.serials += 1;
                    Entry::new(&target, Serial(self.serials), now)
                }
            };
            entry.judge.retune(target.health.rise, target.health.fall);
            if entry.target.via != target.via || entry.target.health.check != target.health.check {
                entry.next = now;
            }
            entry.up = target.initial == Some(true);
            entry.target = target;
            entry.enqueue(&mut self.queue);
            self.entries.insert(entry.target.id.clone(), entry);
        }
    }

    /// The largest packet that users can send; another one has everything asked anew.
    pub(super) fn set_full(&mut self, full: u16, now: Instant) -> bool {
        let changed = self.full != Some(full);
        if changed {
            self.full = Some(full);
            self.queue.clear();
            for entry in self.entries.values_mut() {
                entry.next = now;
                entry.enqueue(&mut self.queue);
            }
        }
        changed
    }

    /// A backend's plain checks pass now, or do not. One that has come up is asked at once.
    pub(super) fn set_up(&mut self, id: &TargetId, up: bool, now: Instant) {
        let Some(entry) = self.entries.get_mut(id) else { return };
        self.queue.remove(&(entry.next, id.clone()));
        if up && !entry.up {
            entry.next = now;
        }
        entry.up = up;
        entry.enqueue(&mut self.queue);
    }

    /// The next one that is due; it counts as running until [`Self::record`].
    pub(super) fn take_due(&mut self, now: Instant) -> Option<Due> {
        let full = self.full?;
        let (due, _) = self.queue.first()?;
        if *due > now {
            return None;
        }
        let (_, id) = self.queue.pop_first()?;
        let entry = self.entries.get_mut(&id)?;
        entry.running = true;
        Some(Due {
            target: entry.target.clone(),
            serial: entry.serial,
            full,
            first: entry.size.unwrap_or(full),
            measure: entry.measure(now),
        })
    }

    /// When the next one is due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.full?;
        self.queue.first().map(|(due, _)| *due)
    }

    /// Takes in a round's result; `passes` is the largest size that was answered, if it was looked for.
    pub(super) fn record(&mut self, due: &Due, round: Round, passes: Option<Option<u16>>, now: Instant) {
        let Some(entry) = self.entries.get_mut(&due.target.id) else {
            return;
        };
        if entry.serial != due.serial {
            return;
        }
        entry.running = false;
        entry.take_in(round, passes, now);
        // What was asked for another full size, or another way, is asked again at once.
        let current = self.full == Some(due.full) && entry.target.via == due.target.via;
        entry.next = if current { now + entry.gap() } else { now };
        entry.enqueue(&mut self.queue);
    }

    /// What is known of one backend; nothing: it is not asked.
    pub(super) fn state(&self, id: &TargetId) -> Option<FullSizeState> {
        self.entries.get(id).map(Entry::state)
    }

    /// What is to be known of those that are not as usual.
    pub(super) fn notable(&self) -> HashMap<TargetId, Notable> {
        let Some(full) = self.full else {
            return HashMap::new();
        };
        let notable = self.entries.iter().filter_map(|(id, entry)| {
            let size = entry.size?;
            let too_small = entry.judge.state() == State::Down;
            (too_small || size < full).then(|| {
                // What was measured for a larger size may be more than this one.
                let measured = entry.measured.and_then(|measured| measured.passes);
                let passes = measured.filter(|passes| !too_small || *passes < size);
                let notable = Notable {
                    size: size.into(),
                    too_small,
                    passes: passes.map(u32::from),
                };
                (id.clone(), notable)
            })
        });
        notable.collect()
    }
}

/// Whether this host has no way to ask it now.
fn is_blocked(target: &Target) -> bool {
    matches!(target.via, Via::Blocked(_))
}

impl Entry {
    fn new(target: &Target, serial: Serial, now: Instant) -> Self {
        let health = &target.health;
        Self {
            target: target.clone(),
            serial,
            up: false,
            running: false,
            next: now,
            // Large enough until shown otherwise.
            judge: Judge::resume(health.rise, health.fall, true, now),
            unanswered: 0,
            size: None,
            measured: None,
        }
    }

    /// Whether what is known is about this target, too.
    fn is_about(&self, target: &Target) -> bool {
        (self.target.address, self.target.health.port) == (target.address, target.health.port)
    }

    fn enqueue(&self, queue: &mut BTreeSet<(Instant, TargetId)>) {
        if self.up && !self.running && !is_blocked(&self.target) {
            queue.insert((self.next, self.target.id.clone()));
        }
    }

    fn take_in(&mut self, round: Round, passes: Option<Option<u16>>, now: Instant) {
        let outcome = match round.result {
            Answer::Fits => Outcome::Passed,
            Answer::TooSmall => Outcome::Failed,
            Answer::Unanswered | Answer::Unknown => Outcome::Skipped,
        };
        self.judge.record(outcome, now);
        match round.result {
            Answer::Unanswered => self.unanswered += 1,
            Answer::Unknown => {}
            Answer::Fits | Answer::TooSmall => {
                self.unanswered = 0;
                self.size = Some(round.size);
            }
        }
        if let Some(passes) = passes {
            let size = round.size;
            self.measured = Some(Measured { size, passes, at: now });
        }
        if self.judge.state() == State::Up && self.judge.run() == 0 {
            self.measured = None;
        }
    }

    fn measure(&self, now: Instant) -> Measure {
        let fall = self.target.health.fall.max(1);
        let decides = self.judge.state() == State::Down || self.judge.run() + 1 >= fall;
        let fresh = |measured: &Measured| now.saturating_duration_since(measured.at) < MEASURED_FOR;
        match self.measured.filter(fresh) {
            _ if !decides => Measure::No,
            None => Measure::Yes,
            Some(measured) => Measure::Unless(measured.size),
        }
    }

    fn gap(&self) -> Duration {
        let doubt = self.judge.run() > 0 || self.unanswered > 0 && self.unanswered < self.target.health.fall;
        if doubt || self.size.is_none() && self.unanswered == 0 {
            self.target.health.fast_interval.clamp(LEAST_GAP, INTERVAL)
        } else {
            INTERVAL.max(self.target.health.interval)
        }
    }

    fn state(&self) -> FullSizeState {
        match self.judge.state() {
            State::Down => FullSizeState::TooSmall,
            _ if self.unanswered >= self.target.health.fall.max(1) => FullSizeState::Unanswered,
            _ if self.size.is_none() || self.judge.run() > 0 => FullSizeState::Pending,
            _ => FullSizeState::Passed,
        }
    }
}

#[cfg(test)]
mod tests;

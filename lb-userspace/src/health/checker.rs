//! The thread that makes the probes.
//!
//! It is one of its own: an `apply` that keeps the rest of the daemon busy delays no probe. It sleeps until the next probe is
//! due, starts it as a light task, and takes in results as they come. The roster behind the mutex is all that it shares. Where there are more
//! probes than it can make, others make some of them (`lanes`).

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::runtime::Builder;
use tokio::sync::Notify;
use tokio::task::{AbortHandle, JoinError, JoinSet};

use super::lanes::Lanes;
use super::limits::probes_in_flight;
use super::probe;
use super::roster::{ProbeId, Roster};
use super::{HealthEvent, LastProbe, Outcome, Status, Target, TargetId};

/// Probes that are due within this time, or within a part of their interval if that is shorter, start with the one that the thread wakes
/// up for: thousands of wake-ups cost more than the probes themselves. Who starts early is due for the next time when he would have been.
const SLACK: Duration = Duration::from_millis(50);

/// Probes that start before those under way, and what has come for them, get their turn; fewer while such a turn takes [long](LONG_TURN). A host
/// that cannot make as many as it is asked for starts them late then, one after another; if all that are due began at once, most
/// would run out of time for want of the processor, and good backends be taken for dead.
const TURN: usize = 128;
const LEAST_TURN: usize = 8;
/// A turn of the others takes long if it takes longer: handshakes of TLS cost a hundred times what a connection does.
const LONG_TURN: Duration = Duration::from_millis(20);

/// How often this host's own faults are logged, at most.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(60);

/// Checks the health of a set of targets until it is dropped.
pub struct Checker {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// Why there is no checker.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The runtime of its thread could not be made.
    #[error("cannot set up the health checks: {0}")]
    Runtime(#[source] io::Error),
    /// The thread could not be made.
    #[error("cannot start the thread of the health checks: {0}")]
    Thread(#[source] io::Error),
}

struct Shared {
    roster: Mutex<Roster>,
    /// The set of targets has changed, or it is time to stop.
    changed: Notify,
    stop: AtomicBool,
}

impl Checker {
    /// Starts with no targets. `report` gets every change of state, in order, those of one moment together; it runs on
    /// the checker's thread and must not block: hand them to an unbounded channel.
    ///
    /// Raise the limit of open files before ([`super::raise_file_limit`]): the number of probes in flight is bounded by what it is now.
    pub fn start(report: impl FnMut(Vec<HealthEvent>) + Send + 'static) -> Result<Self, StartError> {
        let shared = Arc::new(Shared {
            roster: Mutex::new(Roster::new(fastrand::Rng::new())),
            changed: Notify::new(),
            stop: AtomicBool::new(false),
        });
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(StartError::Runtime)?;
        let engine = Engine::new(Arc::clone(&shared), Lanes::new(runtime.handle().clone()), report);
        let thread = std::thread::Builder::new().name("health".into());
        let thread = thread.spawn(move || {
            // As a task: each probe that ends wakes it, and to wake what a runtime blocks on takes a system call.
            if let Err(error) = runtime.block_on(runtime.spawn(engine.run())) {
                // Verdicts would stay as they are for ever, with nobody to notice. Started again it knows what it knew.
                tracing::error!(%error, "the health checks have crashed, which is a bug: this process ends");
                std::process::abort();
            }
        });
        let thread = thread.map_err(StartError::Thread)?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// Replaces the set of targets.
    ///
    /// Whoever is in both sets, with the same address, keeps its state, and its schedule too if the probe is the same. Removed
    /// ones are probed no more once this returns, and probes of theirs under way are broken off. New ones are first probed
    /// within the smaller of their interval and 100 ms (more where thousands start at once).
    pub fn set(&self, targets: Vec<Target>) {
        self.shared.roster().set(targets, Instant::now());
        self.shared.changed.notify_one();
    }

    /// Probes an address at once, whatever its interval: something has shown that it may be gone. Asked for often, it happens
    /// at most 20 times a second. `refused`: its host says that it unwraps no tunnels.
    pub fn expedite(&self, address: IpAddr, refused: bool) {
        if self.shared.roster().expedite(address, refused, Instant::now()) {
            self.shared.changed.notify_one();
        }
    }

    /// What is known of every target, sorted by service and backend.
    pub fn snapshot(&self) -> Vec<Status> {
        let mut all = self.shared.roster().snapshot();
        all.sort_unstable_by(|a, b| a.id.cmp(&b.id));
        all
    }

    /// What is known of one target.
    pub fn status(&self, id: &TargetId) -> Option<Status> {
        self.shared.roster().status(id)
    }

    /// By how much probes begin late, or did within the last minute, if more are due than this host can make. Verdicts come later
    /// then, and are none the worse.
    pub fn behind(&self) -> Option<Duration> {
        self.shared.roster().behind(Instant::now())
    }

    /// How many different probes the targets need: those that want the same one share it.
    pub fn probes(&self) -> usize {
        self.shared.roster().probes()
    }
}

impl Drop for Checker {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.shared.changed.notify_one();
        // A thread that panicked has said so already.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

impl Shared {
    fn roster(&self) -> MutexGuard<'_, Roster> {
        self.roster.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Engine<R> {
    shared: Arc<Shared>,
    report: R,
    most_in_flight: usize,
    tasks: JoinSet<(ProbeId, LastProbe)>,
    running: HashMap<ProbeId, AbortHandle>,
    skipped: Complaints,
    late: Complaints,
    /// Probes that may start at a time.
    turn: usize,
    /// Last: it ends the threads that tasks may run on.
    lanes: Lanes,
}

impl<R: FnMut(Vec<HealthEvent>)> Engine<R> {
    fn new(shared: Arc<Shared>, lanes: Lanes, report: R) -> Self {
        Self {
            shared,
            report,
            most_in_flight: probes_in_flight(),
            tasks: JoinSet::new(),
            running: HashMap::new(),
            skipped: Complaints::default(),
            late: Complaints::default(),
            turn: TURN,
            lanes,
        }
    }

    async fn run(mut self) {
        while !self.shared.stop.load(Ordering::Acquire) {
            let next = match self.start_due() {
                Next::At(due) => Some(due),
                Next::More => {
                    let begun = Instant::now();
                    tokio::task::yield_now().await;
                    let now = Instant::now();
                    self.turn = next_turn(self.turn, now - begun);
                    Some(now)
                }
                Next::Unknown => None,
            };
            let sleep = tokio::time::sleep_until(next.unwrap_or_else(Instant::now).into());
            tokio::select! {
                () = self.shared.changed.notified() => self.break_off_unwanted(),
                Some(ended) = self.tasks.join_next() => self.take_in(ended),
                () = sleep, if next.is_some() => {}
            }
            self.report_changes();
        }
        self.tasks.shutdown().await;
    }

    /// Starts what is due, [a turn](TURN) of it at most.
    fn start_due(&mut self) -> Next {
        let now = Instant::now();
        self.lanes.weigh(now);
        let mut roster = self.shared.roster();
        // Nobody is early for a result that comes in: only with somebody who is due.
        match roster.next_due() {
            None => return Next::Unknown,
            Some(due) if due > now => return Next::At(due),
            Some(_) => {}
        }
        let mut next = Next::More;
        for _ in 0..self.turn {
            if self.tasks.len() >= self.most_in_flight {
                next = Next::Unknown;
                break;
            }
            let Some((id, job)) = roster.take_due(now, SLACK) else {
                next = roster.next_due().map_or(Next::Unknown, Next::At);
                break;
            };
            let probe = async move { (id, probe::run(job).await) };
            let task = self.tasks.spawn_on(probe, self.lanes.next());
            self.running.insert(id, task);
        }
        roster.note_pace(now);
        if let Some(late) = roster.behind(now)
            && self.late.add(now).is_some()
        {
            tracing::warn!(
                ?late,
                "health checks begin late: there are more than this host can make"
            );
        }
        next
    }

    /// Takes in the result that has come, and those that have come with it.
    fn take_in(&mut self, ended: Result<(ProbeId, LastProbe), JoinError>) {
        let shared = Arc::clone(&self.shared);
        let mut roster = shared.roster();
        let mut next = Some(ended);
        while let Some(ended) = next {
            if let Some((id, result)) = self.result_of(ended) {
                self.running.remove(&id);
                if result.outcome == Outcome::Skipped
                    && let Some(probes) = self.skipped.add(result.at)
                {
                    tracing::warn!(probes, "health checks skipped: {}", result.text);
                }
                roster.record(id, result);
            }
            next = self.tasks.try_join_next();
        }
    }

    /// A probe that was broken off has no result, and nobody waits for it; one that panicked, or whose thread did, must not be waited for for ever.
    fn result_of(&self, ended: Result<(ProbeId, LastProbe), JoinError>) -> Option<(ProbeId, LastProbe)> {
        let error = match ended {
            Ok(result) => return Some(result),
            Err(error) => error,
        };
        let (id, _) = self.running.iter().find(|(_, task)| task.id() == error.id())?;
        let result = LastProbe {
            outcome: Outcome::Skipped,
            text: "the probe crashed, which is a bug".into(),
            took: Duration::ZERO,
            at: Instant::now(),
        };
        Some((*id, result))
    }

    fn break_off_unwanted(&mut self) {
        let roster = self.shared.roster();
        self.running.retain(|id, task| {
            let wanted = roster.wants(*id);
            if !wanted {
                task.abort();
            }
            wanted
        });
    }

    fn report_changes(&mut self) {
        let changes = self.shared.roster().take_changes();
        if !changes.is_empty() {
            (self.report)(changes);
        }
    }
}

/// When the engine is to look again.
#[derive(Debug, PartialEq)]
enum Next {
    /// When the next probe is due.
    At(Instant),
    /// As soon as others have had their turn: more are due.
    More,
    /// When a probe has ended, or the targets have changed: there are none, or no room for one more.
    Unknown,
}

/// How many probes may start the next time, if the others' turn took so long.
fn next_turn(turn: usize, took: Duration) -> usize {
    let next = match took {
        _ if took > LONG_TURN => turn / 2,
        _ if took < LONG_TURN / 2 => turn * 2,
        _ => turn,
    };
    next.clamp(LEAST_TURN, TURN)
}

/// Keeps this host's own faults from filling the log.
#[derive(Default)]
struct Complaints {
    last: Option<Instant>,
    since: u64,
}

impl Complaints {
    /// One more. How many there were since the last complaint, if it is time for another.
    fn add(&mut self, at: Instant) -> Option<u64> {
        self.since += 1;
        let silent = |last| at.duration_since(last) < COMPLAINT_INTERVAL;
        if self.last.is_some_and(silent) {
            return None;
        }
        self.last = Some(at);
        Some(std::mem::take(&mut self.since))
    }
}

#[cfg(test)]
mod tests;

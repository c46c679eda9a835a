//! The threads that probes run on: one, and more while that is not enough.
//!
//! Some thousand probes a second are work for one thread, and one is cheapest: nothing wakes anybody else. Only when it has been busy for
//! most of a moment do others share in it, in turn, as many as there are processors. Each has a runtime of its own: a probe stays on the thread that
//! it began on. Who is needed no longer sleeps until it is. Busy is who has something to do, also while others have the processor: on a
//! crowded machine they join sooner.

use std::io;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

use crate::aside::Aside;

/// How long their work is looked at.
const MOMENT: Duration = Duration::from_millis(250);
/// Another one joins if they are busy for more than this part of the time, on average, or the first of them is.
const MUCH: f64 = 0.6;
/// One leaves if the others would be busy for less than this part of it, and the first is.
const LITTLE: f64 = 0.4;
/// One has enough if so many probes wait to begin on it.
const WAITING: usize = 64;
/// However many processors there are: what one thread shares with the others, who is due and what came of it, gets scarce.
const MOST: usize = 8;

/// The threads.
pub(super) struct Lanes {
    /// The checker's own, and those that joined, each at most once.
    all: Vec<Lane>,
    /// So many of them get probes; at least the first.
    used: usize,
    most: usize,
    turn: usize,
    /// When their work was last looked at.
    looked: Instant,
}

struct Lane {
    runtime: Handle,
    /// For how long it had been busy by then.
    done: Duration,
    /// Its thread; the checker's own is not kept here.
    _thread: Option<Aside>,
}

impl Lanes {
    /// With the checker's own runtime, and for as many threads as may run at once.
    pub(super) fn new(first: Handle) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            all: vec![Lane::new(first, None)],
            used: 1,
            most: processors.min(MOST),
            turn: 0,
            looked: Instant::now(),
        }
    }

    /// So many as they are, whatever there is to do.
    #[cfg(test)]
    pub(super) fn of(first: Handle, threads: usize) -> Self {
        let mut lanes = Self::new(first);
        let others = (2..=threads).map(|number| Lane::start(number).expect("a thread"));
        lanes.all.extend(others);
        // One is never looked at.
        (lanes.used, lanes.most) = (threads, 1);
        lanes
    }

    /// Where the next probe is to run. Those that do not keep up are passed over. The first never is: all probes come from it, so that it
    /// begins fewer if it has too many itself.
    pub(super) fn next(&mut self) -> &Handle {
        for _ in 1..self.used {
            self.turn = (self.turn + 1) % self.used;
            if self.turn == 0 || self.all[self.turn].runtime.metrics().global_queue_depth() < WAITING {
                return &self.all[self.turn].runtime;
            }
        }
        self.turn = 0;
        &self.all[0].runtime
    }

    /// Looks at their work, if it is time to, and has one more or one less share in it.
    pub(super) fn weigh(&mut self, now: Instant) {
        let time = now.saturating_duration_since(self.looked);
        if time < MOMENT || self.most == 1 {
            return;
        }
        self.looked = now;
        let mut shares = self.all.iter_mut().map(|lane| lane.share(time));
        let first = shares.next().unwrap_or_default();
        let work = first + shares.sum::<f64>();
        let wanted = wanted(self.used, work, first).min(self.most);
        if wanted > self.all.len() {
            match Lane::start(wanted) {
                Ok(lane) => self.all.push(lane),
                Err(error) => {
                    tracing::warn!(%error, "no further thread for the health checks: {} make them", self.used);
                    self.most = self.all.len();
                    return;
                }
            }
        }
        if wanted != self.used {
            tracing::debug!(threads = wanted, busy = work, "threads of the health checks");
            self.used = wanted;
        }
    }
}

/// How many are to share in the work from now on; `work` is how many it would keep busy all the time, `first` the first one's part, who has more
/// to do than the others.
fn wanted(used: usize, work: f64, first: f64) -> usize {
    let each = |threads: usize| first.max(work / threads as f64);
    if each(used) > MUCH {
        used + 1
    } else if used > 1 && each(used - 1) < LITTLE {
        used - 1
    } else {
        used
    }
}

impl Lane {
    fn start(number: usize) -> io::Result<Self> {
        let thread = Aside::start(&format!("health-{number}"))?;
        Ok(Self::new(thread.runtime().clone(), Some(thread)))
    }

    fn new(runtime: Handle, thread: Option<Aside>) -> Self {
        Self {
            runtime,
            done: Duration::ZERO,
            _thread: thread,
        }
    }

    /// For which part of the time it was busy since this was last called.
    fn share(&mut self, time: Duration) -> f64 {
        let done = self.runtime.metrics().worker_total_busy_duration(0);
        let before = std::mem::replace(&mut self.done, done);
        done.saturating_sub(before).as_secs_f64() / time.as_secs_f64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_more_when_busy_one_less_when_not_and_no_swinging() {
        for (used, work, expected) in [
            (1, 0.0, 1),
            (1, 0.59, 1),
            (1, 0.61, 2),
            (2, 1.1, 2),
            (2, 1.3, 3),
            (3, 0.9, 3),
            (3, 0.7, 2),
            (2, 0.5, 2),
            (2, 0.3, 1),
        ] {
            let first = work / used as f64;
            assert_eq!(wanted(used, work, first), expected, "{used} threads, {work}");
        }
        // One thread's own work is not the others'.
        assert_eq!((wanted(3, 1.7, 0.95), wanted(3, 0.7, 0.5)), (4, 3));
        // Whatever the work is, it comes to rest.
        for (hundredths, own) in (0..400).flat_map(|work| [0.0, 0.1, 0.3, 0.5].map(|own| (work, own))) {
            let shared = f64::from(hundredths) / 100.0;
            let next = |used: usize| wanted(used, own + shared, own + shared / used as f64);
            let mut used = 1;
            for _ in 0..50 {
                used = next(used);
            }
            assert_eq!(next(used), used, "{own} and {shared}");
        }
    }

    #[test]
    fn busy_ones_get_help_and_probes_take_turns() {
        let first = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let mut lanes = Lanes::new(first.handle().clone());
        lanes.most = 2;
        assert_eq!(lanes.next().id(), first.handle().id());
        let begun = Instant::now();
        first.block_on(async {
            tokio::spawn(async move { while begun.elapsed() < 2 * MOMENT {} })
                .await
                .expect("no panic");
            // What it did counts once it waits.
            tokio::time::sleep(Duration::from_millis(1)).await;
        });
        lanes.weigh(begun + 2 * MOMENT);
        assert_eq!(lanes.used, 2);
        let there: Vec<_> = (0..4).map(|_| lanes.next().id()).collect();
        assert!(there[0] != there[1] && there[0] == there[2] && there[1] == there[3]);
        let other = lanes.all[1].runtime.clone();
        let name = first.block_on(other.spawn(async { std::thread::current().name().map(str::to_owned) }));
        assert_eq!(name.expect("it ran").as_deref(), Some("health-2"));
        // One that is held up gets no more than a few; the other always gets some.
        let (hold, held) = std::sync::mpsc::channel::<()>();
        other.spawn(async move { held.recv() });
        for _ in 0..10 * WAITING {
            drop(lanes.next().spawn(async {}));
        }
        let depth = other.metrics().global_queue_depth();
        assert!((WAITING / 2..=WAITING).contains(&depth), "{depth} wait");
        drop(hold);
        // Nothing to do: it leaves, and comes back without another thread.
        lanes.weigh(begun + 1_000 * MOMENT);
        assert_eq!((lanes.used, lanes.all.len()), (1, 2));
    }
}

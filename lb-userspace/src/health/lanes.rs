//! The threads that probes run on: one, and more while that is not enough.
//!
//! Some thousand probes a second are work for one thread, and one is cheapest: nothing wakes anybody else. Only when it has been busy for
//! most of a moment do others share in it, in turn, as many as there are processors. Each has a runtime of its own: a probe stays on the thread that
//! it began on. Who is needed no longer sleeps until it is.

use std::io;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::oneshot;

/// How long their work is looked at.
const MOMENT: Duration = Duration::from_millis(250);
/// Another one joins if they are busy for more than this part of the time, on average.
const MUCH: f64 = 0.6;
/// One leaves if the others would be busy for less than this part of it.
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
    /// When their work was last looked at, and what had been done by then.
    looked: Instant,
    done: Duration,
}

struct Lane {
    runtime: Handle,
    /// The thread and what ends it; the checker's own is somebody else's.
    own: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
}

impl Lanes {
    /// With the checker's own runtime, and for as many threads as may run at once.
    pub(super) fn new(first: Handle) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            all: vec![Lane {
                runtime: first,
                own: None,
            }],
            used: 1,
            most: processors.min(MOST),
            turn: 0,
            looked: Instant::now(),
            done: Duration::ZERO,
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

    /// Where the next probe is to run. One that does not keep up is passed over: the first, from which all probes come, would
    /// begin fewer if it had too many itself.
    pub(super) fn next(&mut self) -> &Handle {
        self.turn = (self.turn + 1) % self.used;
        let chosen = &self.all[self.turn].runtime;
        if self.turn > 0 && chosen.metrics().global_queue_depth() >= WAITING {
            return &self.all[0].runtime;
        }
        chosen
    }

    /// Looks at their work, if it is time to, and has one more or one less share in it.
    pub(super) fn weigh(&mut self, now: Instant) {
        let time = now.saturating_duration_since(self.looked);
        if time < MOMENT || self.most == 1 {
            return;
        }
        let done: Duration = self.all.iter().map(Lane::busy).sum();
        let work = done.saturating_sub(self.done).as_secs_f64() / time.as_secs_f64();
        (self.looked, self.done) = (now, done);
        let wanted = wanted(self.used, work).min(self.most);
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

/// How many are to share in the work from now on; `work` is how many it would keep busy all the time.
fn wanted(used: usize, work: f64) -> usize {
    let each = |threads: usize| work / threads as f64;
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
        let runtime: Runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = std::thread::Builder::new().name(format!("health-{number}"));
        let thread = thread.spawn(move || {
            // Sent or dropped: both mean that it is over.
            let _ = runtime.block_on(stopped);
        })?;
        Ok(Self {
            runtime: handle,
            own: Some((stop, thread)),
        })
    }

    fn busy(&self) -> Duration {
        self.runtime.metrics().worker_total_busy_duration(0)
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.own.take() {
            drop(stop);
            // One that panicked has said so already.
            let _ = thread.join();
        }
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
            assert_eq!(wanted(used, work), expected, "{used} threads, {work}");
        }
        // Whatever the work is, it comes to rest.
        for hundredths in 0..400 {
            let work = f64::from(hundredths) / 100.0;
            let mut used = 1;
            for _ in 0..10 {
                used = wanted(used, work);
            }
            assert_eq!(wanted(used, work), used, "{work}");
        }
    }

    #[test]
    fn busy_ones_get_help_and_probes_take_turns() {
        let first = Builder::new_current_thread().enable_all().build().expect("a runtime");
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
        lanes.weigh(begun + 4 * MOMENT);
        assert_eq!((lanes.used, lanes.all.len()), (1, 2));
    }
}

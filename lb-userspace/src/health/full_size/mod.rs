//! Whether packets of users' full size get to each backend through its tunnel.
//!
//! The plain checks' packets are small: they pass where a full-size packet is lost, and so do requests. Here each backend that is up is
//! asked by the same check with its packets padded, every 10 s, and at once when it has come up. Only silence at
//! full size beside an answer to a small padded packet counts, `fall` times in a row; `rise` answers end it. No verdict follows: the backend
//! serves on.
//!
//! | module | what it does |
//! | --- | --- |
//! | `schedule` | who is asked, when, and what the results come to. Pure |
//! | `round` | the sizes of one round |
//!
//! It has a thread of its own, so that it delays no check, and starts 100 rounds a second at most.

mod round;
mod schedule;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lb_common::encap::{IPV4_LEN, IPV6_LEN};
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;

use super::probe::{Job, Reply, ask_padded};
use super::{StartError, Target, TargetId, Via};
use crate::aside::Aside;
use crate::model::Check;
use round::{Answer, Round, largest_answered, round};
use schedule::{Due, Measure, Schedule};

/// Rounds start by turns, so many in each.
const TURN: usize = 10;
/// Time from one turn to the next.
const TURN_GAP: Duration = Duration::from_millis(100);
/// Rounds under way, at most. Each has a socket.
const MOST_IN_FLIGHT: usize = 256;
/// Of those, so many look for the largest packet that is answered, each with [several](round::AT_ONCE) sockets and for several timeouts.
const MOST_MEASURING: usize = 16;
/// A TCP header without options, in bytes.
const TCP_LEN: usize = 20;

/// What is known of one backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FullSizeState {
    /// No result yet, or one that decides nothing.
    Pending,
    /// Users' largest packets are answered.
    Passed,
    /// They are not, and small ones are.
    TooSmall,
    /// No padded packet is answered, whatever its size, while plain ones are: nothing can be told.
    Unanswered,
}

/// What is not as usual with one backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Notable {
    /// The largest packet that users send to it, in bytes, without the tunnel's header: less than an interface takes where the server asks
    /// for smaller segments.
    pub size: u32,
    /// Such a packet is not answered.
    pub too_small: bool,
    /// The largest that is, in bytes, without the tunnel's header; nothing where that is not known, or not yet.
    pub passes: Option<u32>,
}

/// Asks a set of backends until it is dropped.
pub struct FullSize {
    shared: Arc<Shared>,
    _thread: Aside,
}

#[derive(Default)]
struct Shared {
    schedule: Mutex<Schedule>,
    changed: Notify,
}

impl FullSize {
    /// Starts with no targets, and asks nothing before [`Self::set_full`].
    ///
    /// # Errors
    /// If there can be no thread.
    pub fn start() -> Result<Self, StartError> {
        let thread = Aside::start("full-size").map_err(StartError::Thread)?;
        let shared = Arc::new(Shared::default());
        thread.runtime().spawn(run(Arc::clone(&shared)));
        Ok(Self {
            shared,
            _thread: thread,
        })
    }

    /// Replaces the set of targets. Those that are not probed are left out.
    pub fn set(&self, targets: &[Target]) {
        let targets = targets.iter().filter(|target| is_probed(target)).cloned().collect();
        self.shared.schedule().set(targets, Instant::now());
        self.shared.changed.notify_one();
    }

    /// A backend's checks pass now, or do not.
    pub fn set_up(&self, id: &TargetId, up: bool) {
        self.shared.schedule().set_up(id, up, Instant::now());
        self.shared.changed.notify_one();
    }

    /// The largest packet that users can send, in bytes.
    pub fn set_full(&self, full: u32) {
        let full = full.try_into().unwrap_or(u16::MAX);
        if self.shared.schedule().set_full(full, Instant::now()) {
            self.shared.changed.notify_one();
        }
    }

    /// What is known of one backend; nothing: it is not asked.
    pub fn state(&self, id: &TargetId) -> Option<FullSizeState> {
        self.shared.schedule().state(id)
    }

    /// The backends that are not as usual.
    pub fn notable(&self) -> HashMap<TargetId, Notable> {
        self.shared.schedule().notable()
    }
}

/// Whether a target's packets can be padded: they go through a tunnel, and this host makes them itself. Or could, if it had a way.
fn is_probed(target: &Target) -> bool {
    let tunnel = match &target.via {
        Via::Vip(path) => path.tunnel,
        Via::Blocked(_) => true,
        Via::Direct => false,
    };
    tunnel && !matches!(target.health.check, Check::Exec(_))
}

impl Shared {
    fn schedule(&self) -> MutexGuard<'_, Schedule> {
        self.schedule.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn run(shared: Arc<Shared>) {
    let mut rounds = JoinSet::new();
    let measuring = Arc::new(Semaphore::new(MOST_MEASURING));
    let mut turn = Instant::now();
    loop {
        let now = Instant::now();
        if now >= turn {
            turn = now + TURN_GAP;
            let mut schedule = shared.schedule();
            for _ in 0..TURN.min(MOST_IN_FLIGHT - rounds.len()) {
                let Some(due) = schedule.take_due(now) else { break };
                rounds.spawn(ask(due, Arc::clone(&measuring)));
            }
        }
        // Not before the next turn; and where as many as may are under way, not before one of them has ended.
        let next = shared.schedule().next_due().map(|next| next.max(turn));
        let next = next.filter(|_| rounds.len() < MOST_IN_FLIGHT);
        let sleep = tokio::time::sleep_until(next.unwrap_or(now).into());
        tokio::select! {
            () = shared.changed.notified() => {}
            Some(ended) = rounds.join_next() => match ended {
                Ok((due, round, passes)) => shared.schedule().record(&due, round, passes, Instant::now()),
                Err(error) => tracing::error!(%error, "a full-size probe has crashed, which is a bug"),
            },
            () = sleep, if next.is_some() => {}
        }
    }
}

/// Makes one round; where it fails and that is wanted, also says which is the largest packet that is answered.
async fn ask(due: Due, measuring: Arc<Semaphore>) -> (Due, Round, Option<Option<u16>>) {
    let target = &due.target;
    let job = Job {
        to: target
            .via
            .destination(SocketAddr::new(target.address, target.health.port)),
        via: target.via.clone(),
        check: target.health.check.clone(),
        timeout: target.health.timeout,
        subject: None,
        own: None,
        excuse_stall: true,
        padding: None,
    };
    let ip = if job.to.is_ipv4() { IPV4_LEN } else { IPV6_LEN };
    let headers = (ip + TCP_LEN) as u32;
    let probe = |size| ask_padded(job.clone(), size);
    let round = round(due.full, due.first, headers, &probe).await;
    let passes = measure(due.measure, round, &measuring, &probe).await;
    (due, round, passes)
}

/// Looks for the largest packet that is answered, where a round's failure wants that and few others do so now. Nothing: it is left to a later
/// round. The finding itself must not wait: where a common link is too small, all backends behind it want to be measured at once.
async fn measure<F>(
    measure: Measure,
    round: Round,
    measuring: &Semaphore,
    probe: impl Fn(u16) -> F,
) -> Option<Option<u16>>
where
    F: Future<Output = Reply>,
{
    if round.result != Answer::TooSmall || !measure.wanted(round.size) {
        return None;
    }
    let _permit = measuring.try_acquire().ok()?;
    Some(largest_answered(round.size, probe).await)
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn a_finding_does_not_wait_until_others_are_measured() {
        let measuring = Semaphore::new(1);
        let round = |result| Round { size: 1_500, result };
        let too_small = round(Answer::TooSmall);
        let fits = |size| match size {
            ..=1_400 => ready(Reply::Answered { mss: None }),
            _ => ready(Reply::Silent),
        };
        let passes = measure(Measure::Yes, too_small, &measuring, fits).now_or_never();
        assert_eq!(passes, Some(Some(Some(1_400))));
        // One that is measured has the only permit.
        let mut other = Box::pin(measure(Measure::Yes, too_small, &measuring, |_| pending()));
        assert!(other.as_mut().now_or_never().is_none());
        let passes = measure(Measure::Yes, too_small, &measuring, fits).now_or_never();
        assert_eq!(passes, Some(None));
        drop(other);
        for (wanted, round) in [
            (Measure::No, too_small),
            (Measure::Unless(1_500), too_small),
            (Measure::Yes, round(Answer::Unanswered)),
        ] {
            let passes = measure(wanted, round, &measuring, fits).now_or_never();
            assert_eq!(passes, Some(None), "{wanted:?}");
        }
        let passes = measure(Measure::Unless(1_480), too_small, &measuring, fits).now_or_never();
        assert_eq!(passes, Some(Some(Some(1_400))));
    }
}

//! Who is probed, when next, and what is known of everyone.
//!
//! Pure: it starts nothing and reads no clock. Targets that want the very same probe (a host that stands in five hundred
//! services) share one; each keeps its own judge, so their rise and fall may differ.

mod pace;
mod subscriber;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::probe::{Job, NO_CONNECTION};
use super::{HealthEvent, LastProbe, Outcome, State, Status, Target, TargetId, Via};
use crate::model::Check;
use pace::Pace;
use subscriber::Subscriber;

/// New probes start at most this close together, as long as the first interval allows it.
const START_SPACING: Duration = Duration::from_micros(200);
/// New probes are spread over at least this long, however few they are.
const START_WINDOW: Duration = Duration::from_millis(100);

/// For so long it counts that a host has refused a tunnelled packet; it says so once a second, more or less.
const REFUSAL: Duration = Duration::from_secs(3);

/// A probe starts early by this part of its fast interval at most.
const EARLY: u32 = 32;

/// An expedited probe starts no sooner than this after the one before.
const LEAST_GAP: Duration = Duration::from_millis(50);

/// A probe's number. Never used twice, so that what comes late for a removed probe finds nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct ProbeId(u64);

/// All targets, their probes and the order in which these are due.
pub(super) struct Roster {
    probes: HashMap<ProbeId, Probe>,
    by_key: HashMap<ProbeKey, ProbeId>,
    homes: HashMap<TargetId, ProbeId>,
    /// For each probe an entry at its `next`, unless it is overdue. Entries of other times, and of removed probes, fall out when their
    /// time comes.
    queue: Queue,
    /// The same for those whose result may decide something. They come first: with more due than can be made, whoever may be dead is not to wait
    /// for all the others each time.
    urgent: Queue,
    changes: Vec<HealthEvent>,
    pace: Pace,
    next_id: u64,
    rng: fastrand::Rng,
}

type Queue = BinaryHeap<Reverse<(Instant, ProbeId)>>;

/// What makes two targets' probes the same probe.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct ProbeKey {
    /// The backend's.
    address: SocketAddr,
    via: Via,
    check: Check,
    interval: Duration,
    fast_interval: Duration,
    timeout: Duration,
    /// A check that is told whom it is about is shared with nobody.
    subject: Option<TargetId>,
    /// The bits of the jitter's `f64`, which itself cannot be a key.
    jitter: u64,
}

struct Probe {
    key: ProbeKey,
    subscribers: BTreeMap<TargetId, Subscriber>,
    running: bool,
    /// When it is due; what else the queue says of it does not count.
    next: Option<Instant>,
    /// When it was last started.
    started: Option<Instant>,
    /// It fell due while it was running: it starts again as soon as it ends.
    overdue: bool,
    /// Time from the first probe to the second, which spreads probes that began together over their interval.
    first_gap: Option<Duration>,
    last: Option<LastProbe>,
    /// When its host last refused a tunnelled packet.
    refused: Option<Instant>,
}

impl Roster {
    pub(super) fn new(rng: fastrand::Rng) -> Self {
        Self {
            probes: HashMap::new(),
            by_key: HashMap::new(),
            homes: HashMap::new(),
            queue: Queue::new(),
            urgent: Queue::new(),
            changes: Vec::new(),
            pace: Pace::default(),
            next_id: 0,
            rng,
        }
    }

    /// Replaces the set of targets. Of two with the same id the later one counts.
    pub(super) fn set(&mut self, wanted: Vec<Target>, now: Instant) {
        let mut left = std::mem::take(&mut self.homes);
        let mut born = Vec::new();
        for target in wanted {
            let key = ProbeKey::of(&target);
            let home = left.remove(&target.id).or_else(|| self.homes.get(&target.id).copied());
            let stays = home.filter(|home| self.by_key.get(&key) == Some(home));
            if let Some(home) = stays {
                self.retune(home, &target);
                self.homes.insert(target.id, home);
                continue;
            }
            let before = home.and_then(|home| self.leave(home, &target.id));
            let subscriber = Subscriber::succeed(before, &target, now);
            let home = *self.by_key.entry(key.clone()).or_insert_with(|| {
                let id = ProbeId(self.next_id);
                self.next_id += 1;
                self.probes.insert(id, Probe::new(key));
                born.push(id);
                id
            });
            self.homes.insert(target.id.clone(), home);
            self.join(home, target.id, subscriber, now);
        }
        for (id, home) in left {
            self.leave(home, &id);
        }
        self.probes.retain(|_, probe| !probe.subscribers.is_empty());
        self.by_key.retain(|_, id| self.probes.contains_key(id));
        self.schedule_first(&born, now);
    }

    /// The next probe that is due now, or will be within `slack` and [a part of its interval](EARLY), which from now on counts as
    /// running; nothing if none is.
    pub(super) fn take_due(&mut self, now: Instant, slack: Duration) -> Option<(ProbeId, Job)> {
        while let Some((due, id, urgent)) = self.first(now) {
            let probe = self.probes.get_mut(&id).filter(|probe| probe.next == Some(due));
            let slack = probe
                .as_ref()
                .map_or(slack, |probe| slack.min(probe.key.fast_interval / EARLY));
            if due > now + slack {
                return None;
            }
            if urgent { &mut self.urgent } else { &mut self.queue }.pop();
            let Some(probe) = probe else { continue };
            if probe.running {
                probe.overdue = true;
                continue;
            }
            probe.running = true;
            probe.started = Some(now);
            // A probe that could not start for a whole interval does not make up for what it missed.
            let late = now.duration_since(due) > probe.key.interval;
            let from = if late { now } else { due };
            let regular = probe.key.gap(probe.key.interval, self.rng.f64());
            let gap = probe.first_gap.take().unwrap_or(regular);
            probe.next = Some(from + gap);
            self.queue.push(Reverse((from + gap, id)));
            return Some((id, probe.job()));
        }
        None
    }

    /// When the next probe is due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        let first = [self.queue.peek(), self.urgent.peek()].into_iter().flatten();
        first.map(|Reverse((due, _))| *due).min()
    }

    /// The first entry, and whether it is an urgent one: that is, if one is due, or is before all others.
    fn first(&self, now: Instant) -> Option<(Instant, ProbeId, bool)> {
        let entry = |queue: &Queue, urgent| queue.peek().map(|&Reverse((due, id))| (due, id, urgent));
        let (regular, urgent) = (entry(&self.queue, false), entry(&self.urgent, true));
        match (regular, urgent) {
            (Some(regular), Some(urgent)) if urgent.0 > now.max(regular.0) => Some(regular),
            (regular, None) => regular,
            (_, urgent) => urgent,
        }
    }

    /// Takes in the result of a probe, for everyone who shares it. That of a removed probe is dropped.
    pub(super) fn record(&mut self, id: ProbeId, result: LastProbe) {
        let Some(probe) = self.probes.get_mut(&id) else { return };
        let result = probe.explain(result);
        probe.running = false;
        let overdue = std::mem::take(&mut probe.overdue).then_some(result.at);
        for (target, subscriber) in &mut probe.subscribers {
            let event = subscriber.record(target, probe.key.address, &result);
            self.changes.extend(event);
        }
        let quick = probe.undecided().then(|| {
            // Not later than said: what a verdict may take at most counts then.
            let gap = probe.key.gap(probe.key.fast_interval, self.rng.f64() / 2.0);
            probe.started.map_or(result.at, |started| started + gap).max(result.at)
        });
        // Whatever comes first, if that is before its time.
        let sooner = overdue.into_iter().chain(quick).min();
        let sooner = sooner.filter(|at| overdue.is_some() || probe.next.is_none_or(|next| *at < next));
        let doubted = probe.doubted();
        if let Some(at) = sooner {
            probe.next = Some(at);
        }
        match probe.next {
            // Maybe in both queues then: who comes first finds the other entry's time over.
            Some(at) if doubted => self.urgent.push(Reverse((at, id))),
            Some(at) if sooner.is_some() => self.queue.push(Reverse((at, id))),
            _ => {}
        }
        probe.last = Some(result);
    }

    /// Makes the probes of an address due now: something else has shown that it may be gone. Not those that run, nor those that
    /// were started within [`LEAST_GAP`]. `refused`: its host says that it unwraps no tunnels. Says whether there are any.
    pub(super) fn expedite(&mut self, address: IpAddr, refused: bool, now: Instant) -> bool {
        let mut any = false;
        for (id, probe) in &mut self.probes {
            if probe.key.address.ip() == address && refused {
                probe.refused = Some(now);
            }
            let recent = |started| now.saturating_duration_since(started) < LEAST_GAP;
            if probe.key.address.ip() != address || probe.running || probe.started.is_some_and(recent) {
                continue;
            }
            if probe.next.is_none_or(|next| next > now) {
                probe.next = Some(now);
                self.urgent.push(Reverse((now, *id)));
                any = true;
            }
        }
        any
    }

    /// The changes of state since this was last called, in order.
    pub(super) fn take_changes(&mut self) -> Vec<HealthEvent> {
        std::mem::take(&mut self.changes)
    }

    /// Takes note of whether all that were due have begun; called when as many of them have as may for now.
    pub(super) fn note_pace(&mut self, now: Instant) {
        let late = self.next_due().and_then(|due| now.checked_duration_since(due));
        self.pace.note(late, now);
    }

    /// By how much probes begin late, if more are due than begin.
    pub(super) fn behind(&self, now: Instant) -> Option<Duration> {
        self.pace.behind(now)
    }

    /// Whether a probe still has somebody who wants it.
    pub(super) fn wants(&self, id: ProbeId) -> bool {
        self.probes.contains_key(&id)
    }

    /// How many different probes there are.
    pub(super) fn probes(&self) -> usize {
        self.probes.len()
    }

    /// What is known of every target, in no order.
    pub(super) fn snapshot(&self) -> Vec<Status> {
        let of_probe = |probe: &'_ Probe| -> Vec<Status> {
            let subscribers = probe.subscribers.iter();
            subscribers
                .map(|(id, subscriber)| probe.status(id, subscriber))
                .collect()
        };
        self.probes.values().flat_map(of_probe).collect()
    }

    /// What is known of one target.
    pub(super) fn status(&self, id: &TargetId) -> Option<Status> {
        let probe = self.probes.get(self.homes.get(id)?)?;
        Some(probe.status(id, probe.subscribers.get(id)?))
    }

    fn retune(&mut self, home: ProbeId, target: &Target) {
        let probe = self.probes.get_mut(&home);
        if let Some(subscriber) = probe.and_then(|probe| probe.subscribers.get_mut(&target.id)) {
            subscriber.judge.retune(target.health.rise, target.health.fall);
        }
    }

    fn leave(&mut self, home: ProbeId, id: &TargetId) -> Option<(SocketAddr, Subscriber)> {
        let probe = self.probes.get_mut(&home)?;
        Some((probe.key.address, probe.subscribers.remove(id)?))
    }

    /// A target that joins a probe others have already learns its last result at once.
    fn join(&mut self, home: ProbeId, id: TargetId, mut subscriber: Subscriber, now: Instant) {
        let Some(probe) = self.probes.get_mut(&home) else {
            return;
        };
        if let Some(last) = &probe.last {
            let known = LastProbe {
                at: now,
                ..last.clone()
            };
            self.changes.extend(subscriber.record(&id, probe.key.address, &known));
        }
        probe.subscribers.insert(id, subscriber);
    }

    /// The first probes come soon but not all at once, the second ones spread over the interval.
    fn schedule_first(&mut self, born: &[ProbeId], now: Instant) {
        let count = born.len().max(1) as f64;
        let window = START_WINDOW.max(START_SPACING * born.len() as u32);
        for (position, id) in born.iter().enumerate() {
            let Some(probe) = self.probes.get_mut(id) else {
                continue;
            };
            let interval = probe.key.interval;
            let window = window.min(interval);
            let share = position as f64 / count;
            let first = now + window.mul_f64(share);
            let second = now + window + interval.mul_f64((position + 1) as f64 / count);
            probe.first_gap = Some(second.duration_since(first).min(interval));
            probe.next = Some(first);
            self.queue.push(Reverse((first, *id)));
        }
    }
}

impl ProbeKey {
    fn of(target: &Target) -> Self {
        let health = &target.health;
        Self {
            address: SocketAddr::new(target.address, health.port),
            via: target.via.clone(),
            check: health.check.clone(),
            interval: health.interval,
            fast_interval: health.fast_interval,
            subject: matches!(health.check, Check::Exec(_)).then(|| target.id.clone()),
            timeout: health.timeout,
            jitter: health.jitter.to_bits(),
        }
    }

    /// Time to the next probe; `random` is from 0 to 1. The mean over all is `interval`.
    fn gap(&self, interval: Duration, random: f64) -> Duration {
        let jitter = f64::from_bits(self.jitter).clamp(0.0, 0.5);
        interval.mul_f64(1.0 + jitter * (2.0 * random - 1.0))
    }
}

impl Probe {
    fn new(key: ProbeKey) -> Self {
        Self {
            key,
            subscribers: BTreeMap::new(),
            running: false,
            next: None,
            started: None,
            overdue: false,
            first_gap: None,
            last: None,
            refused: None,
        }
    }

    /// Whether the last results speak against somebody's verdict.
    fn doubted(&self) -> bool {
        self.subscribers.values().any(|subscriber| subscriber.judge.run() > 0)
    }

    /// Whether somebody's verdict may be about to change.
    fn undecided(&self) -> bool {
        let open = |subscriber: &Subscriber| subscriber.judge.run() > 0 || subscriber.judge.state() == State::Starting;
        self.subscribers.values().any(open)
    }

    /// A tunnel that leads nowhere, where its end has said so.
    fn explain(&self, result: LastProbe) -> LastProbe {
        let tunnel = matches!(&self.key.via, Via::Vip(path) if path.tunnel);
        let lately = |refused| result.at.saturating_duration_since(refused) < REFUSAL;
        if !tunnel || result.outcome != Outcome::Failed || !self.refused.is_some_and(lately) {
            return result;
        }
        let Some(rest) = result.text.strip_prefix(NO_CONNECTION) else {
            return result;
        };
        let within = rest.split(';').next().unwrap_or(rest);
        let text = format!("{NO_CONNECTION}{within}; its host refuses the tunnel: decapsulator missing");
        LastProbe {
            text: text.into(),
            ..result
        }
    }

    /// Whether it is worth to look closer: by the users' path, over TCP, and somebody is down or about to be.
    fn suspected(&self) -> bool {
        let connects = matches!(self.key.check, Check::Tcp | Check::Http(_) | Check::Grpc(_));
        let doubted = |subscriber: &Subscriber| match subscriber.judge.state() {
            State::Starting => false,
            State::Up => subscriber.judge.run() > 0,
            State::Down => true,
        };
        connects && matches!(self.key.via, Via::Vip(_)) && self.subscribers.values().any(doubted)
    }

    fn job(&self) -> Job {
        let skipped_last = self.last.as_ref().is_some_and(|last| last.outcome == Outcome::Skipped);
        Job {
            to: self.key.via.destination(self.key.address),
            via: self.key.via.clone(),
            check: self.key.check.clone(),
            timeout: self.key.timeout,
            subject: self.key.subject.clone(),
            own: self.suspected().then_some(self.key.address),
            excuse_stall: !skipped_last,
            padding: None,
        }
    }

    fn status(&self, id: &TargetId, subscriber: &Subscriber) -> Status {
        Status {
            id: id.clone(),
            address: self.key.address,
            state: subscriber.judge.state(),
            since: subscriber.judge.since(),
            run: subscriber.judge.run(),
            passed: subscriber.passed,
            failed: subscriber.failed,
            skipped: subscriber.skipped,
            last: self.last.clone(),
        }
    }
}

#[cfg(test)]
mod tests;

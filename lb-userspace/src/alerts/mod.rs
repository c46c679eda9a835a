//! Alerts: events on their way to those who want to know.
//!
//! | module | what it does |
//! | --- | --- |
//! | `webhook` | a POST over HTTP or HTTPS |
//! | `smtp` | a mail |
//! | `exec` | a program |
//! | `queue` | what waits: the most severe first, what belongs together as one message |
//!
//! Each receiver has a bounded queue and a task of its own, all in one thread beside the daemon's loop. [`Alerts::send`] never waits. What is critical
//! goes first, whatever waited before it; within a severity, order is kept. What happens at about the same time gathers for `GATHER`, and goes as one
//! message for each kind. A message that fails is tried again, with longer and longer pauses, and what is more severe overtakes it.

mod exec;
#[cfg(test)]
mod mail_tests;
mod queue;
mod smtp;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tls_tests;
#[cfg(test)]
mod too_long_tests;
mod webhook;

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;
use tracing::{info, warn};

use crate::api::events::{Cause, Event, EventKind, Severity};
use crate::aside::Aside;
use crate::config;
use crate::model::{Alert, AlertWay};
use queue::{Message, Queue};

pub use queue::Tally;

/// How long the first event after a silence waits for others that belong to it.
const GATHER: Duration = Duration::from_millis(250);
/// The pause after the first failure; it doubles with each one.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// How long an event is tried to be delivered.
const PATIENCE: Duration = Duration::from_secs(3600);
/// The same for a program: one that fails will go on failing.
const PATIENCE_WITH_PROGRAMS: Duration = Duration::from_secs(60);
/// After so many tries at which its receiver was there and did not take it, a message that names many events is tried without most of them: its
/// length may be why. That is after some 30 s.
const UNTAKEN_AT_MOST: u32 = 7;

/// All receivers.
pub struct Alerts {
    thread: Aside,
    receivers: Vec<Receiver>,
}

/// Why a delivery failed.
#[derive(Debug)]
enum Failure {
    /// It may succeed later.
    Later(String),
    /// The receiver was there and did not take it. It may succeed later.
    Untaken(String),
    /// It never will, unless the message is shorter.
    Never(String),
}

impl Failure {
    fn into_why(self) -> String {
        match self {
            Failure::Later(why) | Failure::Untaken(why) | Failure::Never(why) => why,
        }
    }
}

struct Receiver {
    alert: Alert,
    /// The task's copy of `alert`.
    settings: watch::Sender<Alert>,
    shared: Arc<Shared>,
    task: AbortHandle,
}

/// Between the loop and the task. Neither holds the lock for longer than it takes to move an event.
#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// Something waits.
    waits: Notify,
}

#[derive(Debug, Default)]
struct State {
    queue: Queue,
    /// What is being tried.
    on_its_way: Tally,
    delivered: u64,
    /// All that were lost, for whatever reason.
    lost: Tally,
    /// Those of them that were given up after a long time, and the number of the last one: the receiver hears of them when it is back.
    given_up: Option<(Tally, u64)>,
    /// Since when it fails, and why.
    failing: Option<(Instant, String)>,
}

/// Some events that wait for a receiver are only counted: so many of this severity wait already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Brimming {
    /// The receiver.
    pub alert: String,
    /// Whose bound is reached.
    pub severity: Severity,
    /// How many are kept with all that they say.
    pub bound: usize,
}

impl Alerts {
    /// Starts the thread, without receivers.
    ///
    /// # Errors
    /// If there can be no thread.
    pub fn start() -> io::Result<Self> {
        Ok(Self {
            thread: Aside::start("alerts")?,
            receivers: Vec::new(),
        })
    }

    /// Replaces the receivers. One whose name stays keeps its queue, and what is on its way, with whatever other settings. Returns the names of
    /// those that go while events wait, and how many.
    pub fn set(&mut self, alerts: &[Alert]) -> Vec<(String, Tally)> {
        let mut dropped = Vec::new();
        self.receivers.retain(|receiver| {
            let stays = alerts.iter().any(|alert| alert.name == receiver.alert.name);
            if !stays {
                receiver.task.abort();
                let waiting = receiver.waiting();
                if waiting.total() > 0 {
                    warn!(
                        alert = receiver.alert.name,
                        %waiting, "this receiver is removed, and events that waited for it are lost"
                    );
                    dropped.push((receiver.alert.name.clone(), waiting));
                }
            }
            stays
        });
        for alert in alerts {
            match self
                .receivers
                .iter_mut()
                .find(|receiver| receiver.alert.name == alert.name)
            {
                None => self
                    .receivers
                    .push(Receiver::start(alert.clone(), self.thread.runtime())),
                Some(receiver) if receiver.alert == *alert => {}
                Some(receiver) => {
                    receiver.alert = alert.clone();
                    receiver.settings.send_replace(alert.clone());
                }
            }
        }
        dropped
    }

    /// Sends an event to all who want it; returns those for whom the first of its severity is only counted. Never waits.
    pub fn send(&self, event: &Arc<Event>) -> Vec<Brimming> {
        let mut brimming = Vec::new();
        for receiver in self.receivers.iter().filter(|receiver| receiver.wants(event)) {
            if receiver.send(event) {
                brimming.push(Brimming {
                    alert: receiver.alert.name.clone(),
                    severity: event.severity,
                    bound: queue::named(event.severity),
                });
            }
        }
        brimming
    }

    /// What is wrong with receivers, one sentence each.
    pub fn problems(&self) -> Vec<String> {
        let problem = |receiver: &Receiver| {
            let state = receiver.shared.state();
            let (since, why) = state.failing.as_ref()?;
            let seconds = since.elapsed().as_secs();
            Some(format!(
                "alerts to {:?} fail since {seconds} s: {why}; events that wait: {}, delivered: {}, lost: {}",
                receiver.alert.name,
                state.waiting(),
                state.delivered,
                state.lost
            ))
        };
        self.receivers.iter().filter_map(problem).collect()
    }
}

impl Receiver {
    fn start(alert: Alert, runtime: &Handle) -> Self {
        let shared = Arc::new(Shared::default());
        let (settings, changes) = watch::channel(alert.clone());
        let task = runtime.spawn(deliver_all(changes, Arc::clone(&shared)));
        Self {
            alert,
            settings,
            shared,
            task: task.abort_handle(),
        }
    }

    /// How many events it has not got yet.
    fn waiting(&self) -> Tally {
        self.shared.state().waiting()
    }

    fn wants(&self, event: &Event) -> bool {
        let alert = &self.alert;
        event.severity >= alert.least && (alert.kinds.is_empty() || alert.kinds.contains(&event.kind))
    }

    /// Whether it is the first of its severity that is only counted.
    fn send(&self, event: &Arc<Event>) -> bool {
        let first_counted = self.shared.state().queue.push(event);
        self.shared.waits.notify_one();
        first_counted
    }
}

impl State {
    fn waiting(&self) -> Tally {
        let mut all = self.queue.waiting();
        all.join(self.on_its_way);
        all
    }

    fn take_next(&mut self) -> Option<Message> {
        let message = self.queue.pop()?;
        self.on_its_way = message.tally();
        Some(message)
    }

    /// Has arrived. Who was away for so long that events were given up hears of it now; returns since when it had failed.
    fn delivered(&mut self, message: &Message) -> Option<Instant> {
        self.on_its_way = Tally::default();
        self.delivered += message.count;
        if let Some((lost, last)) = self.given_up.take() {
            let word = word_of_loss(message.first(), last, lost);
            self.queue.push(&Arc::new(word));
        }
        self.failing.take().map(|(since, _)| since)
    }

    /// Has failed; whether it is the first that does.
    fn failed(&mut self, why: String) -> bool {
        self.on_its_way = Tally::default();
        let was_well = self.failing.is_none();
        let since = self.failing.as_ref().map_or_else(Instant::now, |(since, _)| *since);
        self.failing = Some((since, why));
        was_well
    }

    fn lose(&mut self, message: &Message, why: String) {
        self.lost.join(message.tally());
        self.failed(why);
    }

    fn give_up(&mut self, message: &Message) {
        let (lost, last) = self.given_up.get_or_insert_default();
        lost.join(message.tally());
        *last = message.last_id();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An event that says that others are missing before `next`. It has the id of the last of them: receivers that know an id already drop what comes
/// with it, and that one never came.
fn word_of_loss(next: &Event, last: u64, lost: Tally) -> Event {
    Event {
        id: last,
        at_unix_ms: next.at_unix_ms,
        kind: EventKind::AlertsLost,
        severity: EventKind::AlertsLost.severity(),
        service: None,
        backend: None,
        from: String::new(),
        to: String::new(),
        why: format!("events given up while this receiver did not take them: {lost}; `lbctl events` has them"),
        by: Cause::Daemon,
    }
}

async fn deliver_all(mut settings: watch::Receiver<Alert>, shared: Arc<Shared>) {
    loop {
        shared.waits.notified().await;
        tokio::time::sleep(GATHER).await;
        deliver_waiting(&mut settings, &shared).await;
    }
}

/// Until nothing waits any more.
async fn deliver_waiting(settings: &mut watch::Receiver<Alert>, shared: &Shared) {
    let mut pause = FIRST_PAUSE;
    loop {
        let Some(message) = shared.state().take_next() else {
            return;
        };
        let alert = settings.borrow_and_update().clone();
        if !deliver(&alert, message, shared).await {
            pause = FIRST_PAUSE;
            continue;
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            // Other settings are tried at once.
            Ok(()) = settings.changed() => {}
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Tries once; whether it waits again, to be tried later.
async fn deliver(alert: &Alert, mut message: Message, shared: &Shared) -> bool {
    let begun = *message.begun.get_or_insert_with(Instant::now);
    let failure = match tokio::time::timeout(alert.timeout, attempt(alert, &message)).await {
        Ok(Ok(())) => {
            if let Some(since) = shared.state().delivered(&message) {
                let seconds = since.elapsed().as_secs();
                info!(alert = alert.name, seconds, "alerts get through again");
            }
            return false;
        }
        Ok(Err(failure)) => failure,
        Err(_) => Failure::Later(format!("no answer within {:?}", alert.timeout)),
    };
    let patience = match alert.way {
        AlertWay::Exec { .. } => PATIENCE_WITH_PROGRAMS,
        AlertWay::Webhook { .. } | AlertWay::Smtp { .. } => PATIENCE,
    };
    let (id, kind, count) = (message.first().id, message.first().kind, message.count);
    let severity = message.first().severity.name();
    let mut state = shared.state();
    let is_over = begun.elapsed() >= patience;
    // Few receivers say that a message is too long for them.
    let may_be_too_long = match failure {
        Failure::Never(_) => true,
        Failure::Later(_) => is_over,
        Failure::Untaken(_) => {
            message.untaken += 1;
            is_over || message.untaken >= UNTAKEN_AT_MOST
        }
    };
    if may_be_too_long && message.shorten() {
        let why = failure.into_why();
        warn!(alert = alert.name, id, %kind, severity, count, "alert is tried again without its further events: {why}");
        state.failed(why);
        state.queue.put_back(message);
        return true;
    }
    match failure {
        Failure::Later(why) | Failure::Untaken(why) if !is_over => {
            if state.failed(why.clone()) {
                warn!(alert = alert.name, id, %kind, "alert is tried again: {why}");
            }
            state.queue.put_back(message);
            return true;
        }
        Failure::Later(why) | Failure::Untaken(why) => {
            state.give_up(&message);
            state.lose(&message, why.clone());
            warn!(alert = alert.name, id, %kind, severity, count, "alert is lost after {patience:?}: {why}");
        }
        Failure::Never(why) => {
            state.lose(&message, why.clone());
            warn!(alert = alert.name, id, %kind, severity, count, "alert is lost: {why}");
        }
    }
    false
}

async fn attempt(alert: &Alert, message: &Message) -> Result<(), Failure> {
    match &alert.way {
        AlertWay::Webhook { url, ca_file } => {
            let read = url.read().map_err(Failure::Later)?;
            if !config::is_webhook_url(read.expose()) {
                return Err(Failure::Later(format!(
                    "its url_file does not hold {}",
                    config::WEBHOOK_URL
                )));
            }
            webhook::post(&read, ca_file.as_deref(), message).await
        }
        AlertWay::Smtp {
            server,
            port,
            tls,
            from,
            to,
            login,
            ca_file,
        } => {
            let mail = smtp::Mail {
                server,
                port: *port,
                tls: *tls,
                from,
                to,
                login: login.as_ref(),
                ca_file: ca_file.as_deref(),
                timeout: alert.timeout,
            };
            mail.send(message).await
        }
        AlertWay::Exec { command, run_as } => exec::run(command, run_as.as_ref(), message).await,
    }
}

//! Alerts: events on their way to those who want to know.
//!
//! | module | what it does |
//! | --- | --- |
//! | `webhook` | a POST over HTTP or HTTPS |
//! | `smtp` | a mail |
//! | `exec` | a program |
//!
//! Each receiver has a bounded queue and a task of its own, all in one thread beside the daemon's loop. [`Alerts::send`] never waits: when a
//! queue is full, the event is counted as lost, and the receiver is told how many were when there is room again. Deliveries to one receiver are in
//! order; one that fails is tried again, with longer and longer pauses.

mod exec;
mod smtp;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tls_tests;
mod webhook;

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tracing::{info, warn};

use crate::api::events::{Cause, Event, EventKind};
use crate::aside::Aside;
use crate::config;
use crate::model::{Alert, AlertWay};

/// Events that may wait for one receiver.
pub const QUEUE: usize = 1_000;
/// The pause after the first failure; it doubles with each one.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// How long an event is tried to be delivered.
const PATIENCE: Duration = Duration::from_secs(3600);
/// The same for a program: one that fails will go on failing.
const PATIENCE_WITH_PROGRAMS: Duration = Duration::from_secs(60);

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
    /// It never will.
    Never(String),
}

struct Receiver {
    alert: Alert,
    queue: mpsc::Sender<Arc<Event>>,
    /// The task's copy of `alert`.
    settings: watch::Sender<Alert>,
    shared: Arc<Shared>,
    task: AbortHandle,
}

/// What the task says.
#[derive(Default)]
struct Shared {
    /// Events that found no room, since the receiver was last told.
    unsent: AtomicU64,
    /// The last of them.
    last_unsent: AtomicU64,
    /// Whether one is on its way.
    busy: AtomicBool,
    state: Mutex<State>,
}

#[derive(Clone, Debug, Default)]
struct State {
    delivered: u64,
    /// All that were lost, for whatever reason.
    lost: u64,
    /// Since when it fails, and why.
    failing: Option<(Instant, String)>,
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
    pub fn set(&mut self, alerts: &[Alert]) -> Vec<(String, u64)> {
        let mut dropped = Vec::new();
        self.receivers.retain(|receiver| {
            let stays = alerts.iter().any(|alert| alert.name == receiver.alert.name);
            if !stays {
                receiver.task.abort();
                let waiting = receiver.waiting();
                if waiting > 0 {
                    warn!(
                        alert = receiver.alert.name,
                        waiting, "this receiver is removed, and events that waited for it are lost"
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

    /// Sends an event to all who want it; returns the names of those whose queue has just become full. Never waits.
    pub fn send(&self, event: &Event) -> Vec<String> {
        let mut shared = None;
        let mut full = Vec::new();
        for receiver in self.receivers.iter().filter(|receiver| receiver.wants(event)) {
            let event = shared.get_or_insert_with(|| Arc::new(event.clone()));
            if !receiver.send(event) && receiver.shared.unsent.load(Ordering::Relaxed) == 1 {
                full.push(receiver.alert.name.clone());
            }
        }
        full
    }

    /// What is wrong with receivers, one sentence each.
    pub fn problems(&self) -> Vec<String> {
        let problem = |receiver: &Receiver| {
            let state = receiver.shared.state().clone();
            let unsent = receiver.shared.unsent.load(Ordering::Relaxed);
            let (since, why) = state.failing?;
            let waiting = QUEUE - receiver.queue.capacity();
            let seconds = since.elapsed().as_secs();
            let lost = state.lost + unsent;
            Some(format!(
                "alerts to {:?} fail since {seconds} s: {why}; {waiting} events wait, {} were delivered, {lost} are lost",
                receiver.alert.name, state.delivered
            ))
        };
        self.receivers.iter().filter_map(problem).collect()
    }
}

impl Receiver {
    fn start(alert: Alert, runtime: &Handle) -> Self {
        let (queue, events) = mpsc::channel(QUEUE);
        let shared = Arc::new(Shared::default());
        let (settings, changes) = watch::channel(alert.clone());
        let task = runtime.spawn(deliver_all(changes, events, Arc::clone(&shared)));
        Self {
            alert,
            queue,
            settings,
            shared,
            task: task.abort_handle(),
        }
    }

    /// How many events it has not got yet.
    fn waiting(&self) -> u64 {
        let queued = QUEUE - self.queue.capacity();
        let busy = self.shared.busy.load(Ordering::Relaxed);
        queued as u64 + u64::from(busy) + self.shared.unsent.load(Ordering::Relaxed)
    }

    fn wants(&self, event: &Event) -> bool {
        let alert = &self.alert;
        event.severity >= alert.least && (alert.kinds.is_empty() || alert.kinds.contains(&event.kind))
    }

    /// Whether there was room. Who lost events hears of it before the next one.
    fn send(&self, event: &Arc<Event>) -> bool {
        let unsent = self.shared.unsent.load(Ordering::Relaxed);
        if unsent > 0 {
            let last = self.shared.last_unsent.load(Ordering::Relaxed);
            let word = Arc::new(word_of_loss(event, last, unsent));
            if self.queue.try_send(word).is_ok() {
                self.shared.unsent.store(0, Ordering::Relaxed);
                self.shared.state().lost += unsent;
            }
        }
        if self.shared.unsent.load(Ordering::Relaxed) == 0 && self.queue.try_send(Arc::clone(event)).is_ok() {
            return true;
        }
        self.shared.last_unsent.store(event.id, Ordering::Relaxed);
        self.shared.unsent.fetch_add(1, Ordering::Relaxed);
        false
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An event that says that others are missing before `next`. It has the id of the last of them: receivers that know an id already drop what comes
/// with it, and that one never came.
fn word_of_loss(next: &Event, last: u64, lost: u64) -> Event {
    Event {
        id: last,
        at_unix_ms: next.at_unix_ms,
        kind: EventKind::AlertsLost,
        severity: EventKind::AlertsLost.severity(),
        service: None,
        backend: None,
        from: String::new(),
        to: String::new(),
        why: format!("{lost} events found no room in this receiver's queue: `lbctl events` has them"),
        by: Cause::Daemon,
    }
}

async fn deliver_all(
    mut settings: watch::Receiver<Alert>,
    mut events: mpsc::Receiver<Arc<Event>>,
    shared: Arc<Shared>,
) {
    while let Some(event) = events.recv().await {
        shared.busy.store(true, Ordering::Relaxed);
        deliver(&mut settings, &event, &shared).await;
        shared.busy.store(false, Ordering::Relaxed);
    }
}

/// Tries until it succeeds, or there is no point any more; each time by the settings of that time.
async fn deliver(settings: &mut watch::Receiver<Alert>, event: &Event, shared: &Shared) {
    let begun = Instant::now();
    let mut pause = FIRST_PAUSE;
    loop {
        let alert = &settings.borrow_and_update().clone();
        let patience = match alert.way {
            AlertWay::Exec { .. } => PATIENCE_WITH_PROGRAMS,
            AlertWay::Webhook { .. } | AlertWay::Smtp { .. } => PATIENCE,
        };
        let failure = match tokio::time::timeout(alert.timeout, attempt(alert, event)).await {
            Ok(Ok(())) => {
                let mut state = shared.state();
                state.delivered += 1;
                if let Some((since, _)) = state.failing.take() {
                    let seconds = since.elapsed().as_secs();
                    info!(alert = alert.name, seconds, "alerts get through again");
                }
                return;
            }
            Ok(Err(failure)) => failure,
            Err(_) => Failure::Later(format!("no answer within {:?}", alert.timeout)),
        };
        let (why, over) = match failure {
            Failure::Later(why) => (why, begun.elapsed() >= patience),
            Failure::Never(why) => (why, true),
        };
        {
            let mut state = shared.state();
            if over {
                state.lost += 1;
                warn!(alert = alert.name, id = event.id, kind = %event.kind, "alert is lost: {why}");
            } else if state.failing.is_none() {
                warn!(alert = alert.name, id = event.id, kind = %event.kind, "alert is tried again: {why}");
            }
            let since = state.failing.as_ref().map_or_else(Instant::now, |(since, _)| *since);
            state.failing = Some((since, why));
        }
        if over {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            // Other settings are tried at once.
            Ok(()) = settings.changed() => {}
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

async fn attempt(alert: &Alert, event: &Event) -> Result<(), Failure> {
    match &alert.way {
        AlertWay::Webhook { url, ca_file } => {
            let read = url.read().map_err(Failure::Later)?;
            if !config::is_webhook_url(read.expose()) {
                return Err(Failure::Later(format!(
                    "its url_file does not hold {}",
                    config::WEBHOOK_URL
                )));
            }
            webhook::post(&read, ca_file.as_deref(), event).await
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
            mail.send(event).await
        }
        AlertWay::Exec { command } => exec::run(command, event).await,
    }
}

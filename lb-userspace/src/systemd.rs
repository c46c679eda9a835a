//! What systemd is told: that the process serves, that its loop still turns, that it stops.
//!
//! Without systemd (`NOTIFY_SOCKET` is not set) nothing is told to anybody. `sd_notify(3)` and `sd_watchdog_enabled(3)` have the protocol.

use std::time::{Duration, Instant};

use sd_notify::NotifyState;
use tracing::warn;

/// The variables by which systemd tells a service where its messages go. They are not for the programs that the service starts.
pub(crate) const NOTIFY_SOCKET: &str = "NOTIFY_SOCKET";
/// How long the service may be silent, in microseconds.
pub(crate) const WATCHDOG_USEC: &str = "WATCHDOG_USEC";
/// Which process it is that may be silent for so long.
pub(crate) const WATCHDOG_PID: &str = "WATCHDOG_PID";

/// The loop's line to systemd.
///
/// The loop itself holds it, and no other thread does: a loop that hangs says nothing, and systemd starts the service again.
#[derive(Debug)]
pub(crate) struct Supervisor {
    /// How often it is said that the loop turns; nothing: systemd does not want to know.
    pace: Option<Duration>,
    /// When something was said last.
    said: Option<Instant>,
    /// One line that `systemctl status` shows.
    status: Option<String>,
}

/// What is to be said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Due {
    Ready,
    Alive,
}

impl Supervisor {
    /// As systemd wants it, by the process's environment. `systemctl status` shows `status`.
    pub(crate) fn of_environment(status: Option<String>) -> Self {
        let mut limit = 0;
        let watched = sd_notify::watchdog_enabled(false, &mut limit);
        Self::new(watched.then(|| Duration::from_micros(limit)), status)
    }

    /// `limit` is how long it may be silent.
    fn new(limit: Option<Duration>, status: Option<String>) -> Self {
        Self {
            // Twice within the limit, and once more for a turn that comes late.
            pace: limit.map(|limit| limit / 3),
            said: None,
            status,
        }
    }

    /// The loop has turned: the first time this means that the service is ready, then that it is alive.
    ///
    /// It waits while systemd reads nothing and its queue is full, as every service that systemd watches does.
    pub(crate) fn turned(&mut self, now: Instant) {
        match self.due(now) {
            Some(Due::Ready) => {
                let status = self.status.as_deref().map(NotifyState::Status);
                tell(&[[NotifyState::Ready].as_slice(), status.as_slice()].concat());
            }
            Some(Due::Alive) => tell(&[NotifyState::Watchdog]),
            None => return,
        }
        self.said = Some(now);
    }

    fn due(&self, now: Instant) -> Option<Due> {
        let Some(said) = self.said else {
            return Some(Due::Ready);
        };
        let since = now.saturating_duration_since(said);
        self.pace.is_some_and(|pace| since >= pace).then_some(Due::Alive)
    }

    /// The service is about to end.
    pub(crate) fn stopping() {
        tell(&[NotifyState::Stopping]);
    }
}

fn tell(states: &[NotifyState<'_>]) {
    // The variables stay: there is more to say.
    if let Err(error) = sd_notify::notify(false, states) {
        warn!(%error, "cannot notify systemd: its watchdog may start the service again");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_once_and_then_alive_three_times_within_the_limit() {
        let start = Instant::now();
        let mut supervisor = Supervisor::new(Some(Duration::from_secs(30)), None);
        let mut said = Vec::new();
        for second in 0..60 {
            let now = start + Duration::from_secs(second);
            if let Some(due) = supervisor.due(now) {
                said.push((second, due));
                supervisor.said = Some(now);
            }
        }
        let alive = [10, 20, 30, 40, 50].map(|second| (second, Due::Alive));
        assert_eq!(said, [&[(0, Due::Ready)][..], &alive].concat());
    }

    #[test]
    fn without_a_watchdog_it_is_ready_and_says_no_more() {
        let start = Instant::now();
        let mut supervisor = Supervisor::new(None, None);
        assert_eq!(supervisor.due(start), Some(Due::Ready));
        supervisor.said = Some(start);
        assert_eq!(supervisor.due(start + Duration::from_secs(3_600)), None);
    }
}

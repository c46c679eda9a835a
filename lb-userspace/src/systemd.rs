//! What systemd is told: that the process serves, that its loop still turns, that it stops.
//!
//! Without systemd (`NOTIFY_SOCKET` is not set) nothing is told to anybody. `sd_notify(3)` has the protocol.

use sd_notify::NotifyState;
use tracing::warn;

/// The variables by which systemd tells a service of itself. They are not for the programs that the service starts.
pub(crate) const VARIABLES: [&str; 3] = ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"];

/// The loop's line to systemd.
///
/// Only the loop itself holds it: a loop that hangs tells nothing, and systemd starts the service again.
#[derive(Debug, Default)]
pub(crate) struct Supervisor {
    ready: bool,
}

impl Supervisor {
    /// The loop has turned: the first time this means that the service is ready, then that it is alive.
    pub(crate) fn turned(&mut self) {
        if std::mem::replace(&mut self.ready, true) {
            tell(NotifyState::Watchdog);
        } else {
            tell(NotifyState::Ready);
        }
    }

    /// The service is about to end.
    pub(crate) fn stopping() {
        tell(NotifyState::Stopping);
    }
}

fn tell(state: NotifyState<'_>) {
    // The variables stay: there is more to tell.
    if let Err(error) = sd_notify::notify(false, &[state]) {
        warn!(%error, "systemd cannot be told: its watchdog may start the service again");
    }
}

//! The process group of a program that the daemon runs: whatever the program has started ends with it.

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::process::Child;

/// The process group that a child leads (`process_group(0)`). Dropped, all in it are killed.
pub(crate) struct Group(Option<Pid>);

impl Group {
    pub(crate) fn of(leader: &Child) -> Self {
        let id = leader.id().and_then(|id| i32::try_from(id).ok());
        Self(id.map(Pid::from_raw))
    }

    /// What the program has left running, it may have meant to.
    pub(crate) fn spare(mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // Also if its leader has ended: there may be others in it. The kernel gives its number away only after all others.
            let _ = killpg(group, Signal::SIGKILL);
        }
    }
}

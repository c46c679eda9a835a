//! Ctrl-C: noticed between two steps, so that everything is dropped in order. A second one ends the process at once, and the
//! kernel clears up.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use nix::libc::c_int;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// SIGINT and SIGTERM are caught from its making on.
pub(super) struct Interrupt(());

impl Interrupt {
    /// Catches the first of each.
    pub(super) fn catch() -> Result<Self> {
        let action = SigAction::new(SigHandler::Handler(note), SaFlags::SA_RESETHAND, SigSet::empty());
        for signal in [Signal::SIGINT, Signal::SIGTERM] {
            // SAFETY: the handler stores to an atomic and does nothing else.
            unsafe { sigaction(signal, &action) }?;
        }
        Ok(Self(()))
    }

    /// An error once a signal has come.
    pub(super) fn check(&self) -> Result<()> {
        if INTERRUPTED.load(Ordering::Relaxed) {
            bail!("interrupted; nothing is left behind");
        }
        Ok(())
    }

    /// Sleeps, unless a signal comes.
    pub(super) fn sleep(&self, duration: Duration) -> Result<()> {
        let end = Instant::now() + duration;
        loop {
            self.check()?;
            match end.saturating_duration_since(Instant::now()) {
                Duration::ZERO => return Ok(()),
                left => sleep(left.min(Duration::from_millis(20))),
            }
        }
    }
}

extern "C" fn note(_signal: c_int) {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

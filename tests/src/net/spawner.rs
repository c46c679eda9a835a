//! The one thread that starts all processes.
//!
//! The kernel sends the death signal of a child (`PR_SET_PDEATHSIG`) when the *thread* that forked it ends. A process started
//! by a test's thread, or by a helper thread, would die at a time that nobody expects. This one lives as long as the process.

use std::io;
use std::process::{Child, Command};
use std::sync::OnceLock;
use std::sync::mpsc::{Sender, channel};
use std::thread;

type Request = (Command, Sender<io::Result<Child>>);

/// Starts a command.
pub(super) fn spawn(command: Command) -> io::Result<Child> {
    static SPAWNER: OnceLock<Sender<Request>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (requests, inbox) = channel::<Request>();
        thread::spawn(move || {
            for (mut command, answer) in inbox {
                // Who asked may be gone; then the child is dropped, and dies with us at the latest.
                _ = answer.send(command.spawn());
            }
        });
        requests
    });
    let gone = || io::Error::other("the thread that starts processes is gone");
    let (answer, result) = channel();
    spawner.send((command, answer)).map_err(|_| gone())?;
    result.recv().map_err(|_| gone())?
}

//! A process on a host: its log, its end.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::spawner;

/// A running process. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    shown: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    pub(super) fn start(shown: String, mut command: Command, log: &Path) -> Result<Self> {
        let out = File::options().create(true).append(true).open(log);
        let out = out.with_context(|| format!("cannot write {}", log.display()))?;
        command.stdout(out.try_clone()?).stderr(out);
        let child = spawner::spawn(command).with_context(|| format!("cannot start {shown}"))?;
        Ok(Self {
            shown,
            child,
            log: log.to_owned(),
        })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// All that it wrote so far, and those before it with the same log.
    pub fn log(&self) -> String {
        std::fs::read(&self.log).map_or_else(
            |error| error.to_string(),
            |text| String::from_utf8_lossy(&text).into_owned(),
        )
    }

    /// Sends a signal; nothing happens if it has already ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        match kill(Pid::from_raw(self.child.id().cast_signed()), signal) {
            Ok(()) | Err(Errno::ESRCH) => Ok(()),
            Err(error) => Err(error).with_context(|| format!("cannot send {signal} to {}", self.shown)),
        }
    }

    /// Ends it at once (SIGKILL) and waits for its end.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Asks it to end (SIGTERM) and waits for that; it is killed, and an error, if that takes longer than `patience`.
    pub fn stop(&mut self, patience: Duration) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        let deadline = Instant::now() + patience;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > deadline {
                self.kill()?;
                bail!(
                    "{} did not end within {patience:?} of SIGTERM\n{}",
                    self.shown,
                    self.log()
                );
            }
            sleep(Duration::from_millis(5));
        }
    }

    /// An error with the log's text if it has ended.
    pub fn check(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            Some(status) => bail!("{} has ended: {status}\n{}", self.shown, self.log()),
            None => Ok(()),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended on its own.
        _ = self.kill();
    }
}

/// Asks every 10 ms until the answer is yes; an error if that takes longer than `patience`.
pub fn wait_until(what: &str, patience: Duration, mut question: impl FnMut() -> Result<bool>) -> Result<()> {
    let start = Instant::now();
    while !question()? {
        if start.elapsed() > patience {
            bail!("{what}: not within {patience:?}");
        }
        sleep(Duration::from_millis(10));
    }
    Ok(())
}

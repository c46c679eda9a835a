//! Where backends stand on their way, kept for the next daemon.
//!
//! A file beside the state, rewritten at most once a second and when the daemon stops, in a thread of its own: no failover waits for a disk. It is
//! not synced: what a crash of the machine takes with it goes with the tables.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tracing::warn;

use super::Daemon;
use super::later::Later;
use super::trouble::{Topic, Troubles};
use super::world::Left;
use crate::private::{self, Durability};

/// How long a daemon that stops waits for the disk.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// By service.
pub type All = BTreeMap<String, Left>;

/// The file, and what stands in it.
pub struct Positions {
    later: Later<All>,
    kept: All,
    /// Something has been decided since.
    pub stale: bool,
    /// The last one was not written.
    failing: Arc<AtomicBool>,
}

impl Positions {
    /// Those in a folder, as an earlier daemon left them. What cannot be read is nothing: they are a help, no more.
    pub fn load(folder: &Path, troubles: &Troubles) -> Self {
        let path = path_in(folder);
        let read = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| error.to_string()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(All::new()),
            Err(error) => Err(error.to_string()),
        };
        let kept = read.unwrap_or_else(|error| {
            warn!(path = %path.display(), error, "not read: {LOST}");
            // A file that stays in the way is written over.
            if let Err(error) = private::set_aside(&path) {
                warn!(path = %path.display(), %error, "cannot be moved away");
            }
            All::new()
        });
        let failing = Arc::new(AtomicBool::new(false));
        let failed = Arc::clone(&failing);
        let troubles = troubles.clone();
        Self {
            later: Later::new(move |all| {
                let written = write(&path, all);
                let line = written
                    .as_ref()
                    .err()
                    .map(|error| format!("where backends stand on their way is not kept: {error}"));
                if let Some(line) = line.as_ref().filter(|_| !failed.load(Ordering::Relaxed)) {
                    warn!("{line}");
                }
                troubles.set(Topic::Positions, line);
                failed.store(written.is_err(), Ordering::Relaxed);
            }),
            kept,
            // What is over by now.
            stale: true,
            failing,
        }
    }

    /// What an earlier daemon left, before anything was kept.
    pub fn kept(&self) -> &All {
        &self.kept
    }

    /// Has them written if they differ from what stands there.
    fn keep(&mut self, now: All) {
        self.stale = false;
        if now != self.kept || self.failing.load(Ordering::Relaxed) {
            self.kept = now.clone();
            self.later.put(now);
        }
    }

    /// Whether there may be something to write.
    fn is_stale(&self) -> bool {
        self.stale || self.failing.load(Ordering::Relaxed)
    }

    /// Waits for the disk, a little.
    pub fn finish(&self) {
        self.later.finish(PATIENCE);
    }
}

/// What a daemon that cannot read them does not know.
pub const LOST: &str =
    "damping, slow starts, drain times and delayed failbacks begin anew, and who is down is reported again";

/// Where they are in a state folder.
pub fn path_in(folder: &Path) -> PathBuf {
    folder.join("positions.json")
}

fn write(path: &Path, all: &All) -> io::Result<()> {
    private::replace(path, &serde_json::to_vec(all)?, Durability::Unsynced).map_err(io::Error::other)
}

impl Daemon {
    /// Keeps where backends stand, if that may have changed; called every second.
    pub(super) fn tend_positions(&mut self) {
        if self.positions.is_stale() {
            let mut left = self.world.left(|address| self.wayless.is_told(address), super::now());
            for (service, moving) in self.moving() {
                if !moving.is_empty() {
                    left.entry(service).or_default().moving = moving;
                }
            }
            self.positions.keep(left);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::world::LeftBackend;
    use crate::policy::{Position, Way};

    #[test]
    fn what_is_kept_is_read_and_what_is_strange_is_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut positions = Positions::load(folder.path(), &Troubles::default());
        assert_eq!(positions.kept(), &All::new());
        let one = Position {
            way: Some(Way::Waiting),
            since_unix_ms: 7,
            penalty: 1234.5,
            penalty_unix_ms: 8,
            damped: true,
        };
        let one = LeftBackend {
            address: [10, 0, 0, 1].into(),
            down: true,
            away: true,
            position: Some(one),
            load: None,
        };
        let web = Left {
            mode: Some(crate::policy::Mode::LastResort),
            backends: [("web-1".to_owned(), one)].into(),
            moving: [("0123456789abcdef".to_owned(), 77)].into(),
            ..Left::default()
        };
        let all: All = [("web".to_owned(), web)].into();
        positions.keep(all.clone());
        positions.finish();
        assert!(!positions.is_stale());
        assert_eq!(Positions::load(folder.path(), &Troubles::default()).kept(), &all);
        fs::write(folder.path().join("positions.json"), "[1").expect("written");
        assert_eq!(Positions::load(folder.path(), &Troubles::default()).kept(), &All::new());
        private::remove(&path_in(folder.path())).expect("removed");
        assert_eq!(Positions::load(folder.path(), &Troubles::default()).kept(), &All::new());
    }

    #[test]
    fn one_that_cannot_be_written_is_tried_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut positions = Positions::load(&folder.path().join("missing"), &Troubles::default());
        positions.keep([("web".to_owned(), Left::default())].into());
        positions.finish();
        assert!(positions.is_stale());
        fs::create_dir(folder.path().join("missing")).expect("a folder");
        positions.keep([("web".to_owned(), Left::default())].into());
        positions.finish();
        assert!(!positions.is_stale() && folder.path().join("missing/positions.json").exists());
    }
}

//! Where backends stand on their way, kept for the next daemon.
//!
//! A file beside the state, rewritten at most once a second and when the daemon stops. It is not synced: what a crash of the machine takes with it
//! goes with the tables, and no failover waits for a disk.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use tracing::warn;

use super::Daemon;
use super::world::Left;

/// By service.
pub type All = BTreeMap<String, Left>;

/// The file, and what stands in it.
#[derive(Debug)]
pub struct Positions {
    path: PathBuf,
    kept: All,
    /// Something has been decided since.
    pub stale: bool,
    failing: bool,
}

impl Positions {
    /// Those in a folder, as an earlier daemon left them. What cannot be read is nothing: they are a help, no more.
    pub fn load(folder: &Path) -> Self {
        let path = folder.join("positions.json");
        let kept = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|error| {
                warn!(path = %path.display(), %error, "not read: damping, slow starts and delayed failbacks begin anew, and who is down is told of again");
                All::new()
            }),
            Err(_) => All::new(),
        };
        Self {
            path,
            kept,
            // What is over by now.
            stale: true,
            failing: false,
        }
    }

    /// What an earlier daemon left.
    pub fn kept(&self) -> &All {
        &self.kept
    }

    /// Writes them if they differ from what stands there.
    fn keep(&mut self, now: All) {
        self.stale = false;
        if now == self.kept {
            return;
        }
        let new = self.path.with_extension("json.new");
        let write = || -> io::Result<()> {
            fs::write(&new, serde_json::to_vec(&now)?)?;
            fs::rename(&new, &self.path)
        };
        match write() {
            Ok(()) => (self.kept, self.failing) = (now, false),
            Err(error) => {
                if !self.failing {
                    warn!(path = %self.path.display(), %error, "where backends stand on their way is not kept");
                }
                (self.failing, self.stale) = (true, true);
            }
        }
    }
}

/// Forgets them.
///
/// # Errors
/// If the file cannot be removed.
pub fn remove(folder: &Path) -> io::Result<()> {
    match fs::remove_file(folder.join("positions.json")) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

impl Daemon {
    /// Keeps where backends stand, if that may have changed; called every second.
    pub(super) fn tend_positions(&mut self) {
        if self.positions.stale {
            let left = self.world.left(|address| self.wayless.is_told(address), super::now());
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
        let mut positions = Positions::load(folder.path());
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
        };
        let all: All = [("web".to_owned(), web)].into();
        positions.keep(all.clone());
        assert!(!positions.stale);
        assert_eq!(Positions::load(folder.path()).kept(), &all);
        fs::write(folder.path().join("positions.json"), "[1").expect("written");
        assert_eq!(Positions::load(folder.path()).kept(), &All::new());
        remove(folder.path()).expect("removed");
        remove(folder.path()).expect("gone already");
        assert_eq!(Positions::load(folder.path()).kept(), &All::new());
    }

    #[test]
    fn one_that_cannot_be_written_is_tried_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut positions = Positions::load(&folder.path().join("missing"));
        positions.keep([("web".to_owned(), Left::default())].into());
        assert!(positions.stale && positions.kept().is_empty());
    }
}

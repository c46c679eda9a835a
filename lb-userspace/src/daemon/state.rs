//! What must survive a crash: the operator's overrides. The configuration that was accepted last has a file of its own: [`accepted`](super::accepted).
//!
//! One JSON file, written beside its place, synced, and renamed into it: whenever the process or the machine stops, the old
//! state is there or the new one.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tracing::error;

use super::later::Later;
use super::positions::PATIENCE;
use super::trouble::{Topic, Troubles};
use crate::api::types::Admin;
use crate::policy::ramp::Ramp;
use crate::private::{self, Durability, ReplaceError};

/// Why the state could not be read or kept.
#[derive(Debug, Error)]
pub enum StateError {
    /// The file system.
    #[error(transparent)]
    File(#[from] ReplaceError),
    /// The file is not what this daemon writes.
    #[error("{path} is not a state file of this version ({problem})")]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        problem: serde_json::Error,
    },
}

/// The state.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// The operator's overrides: service, backend.
    pub overrides: BTreeMap<String, BTreeMap<String, Override>>,
}

/// As files have it: earlier versions kept there what `lbctl apply` had brought last.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    overrides: BTreeMap<String, BTreeMap<String, Override>>,
    #[serde(default)]
    applied: Option<IgnoredAny>,
}

/// What is read of a state's file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Loaded {
    /// The state.
    pub state: State,
    /// The file has an applied configuration of an earlier version, which does not count.
    pub has_applied: bool,
}

/// What an operator has set differently from the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Override {
    /// `draining` or `disabled`.
    pub admin: Option<Admin>,
    /// Another weight: where a ramp leads, if there is one.
    pub weight: Option<u32>,
    /// When it was last changed.
    pub since_unix_ms: u64,
    /// When a drain ends, whether there are connections left or not.
    #[serde(default)]
    pub drain_until_unix_ms: Option<u64>,
    /// The weight on its way.
    #[serde(default)]
    pub ramp: Option<Ramp>,
}

impl Override {
    /// The operator's weight at a time, if there is one.
    pub fn weight_at(&self, now_unix_ms: u64) -> Option<u32> {
        match self.ramp {
            Some(ramp) => Some(ramp.weight(now_unix_ms)),
            None => self.weight,
        }
    }

    /// The largest weight that it has or will have: a ring is made for that one.
    pub fn most_weight(&self, configured: u32) -> u32 {
        let ramp = self.ramp.map_or(0, |ramp| ramp.from.max(ramp.to));
        configured.max(self.weight.unwrap_or(0)).max(ramp)
    }
}

/// The file that holds the state.
#[derive(Clone)]
pub struct Store {
    path: PathBuf,
    later: Later<State>,
}

impl Store {
    /// The store in a folder.
    pub fn in_folder(folder: &Path, troubles: Troubles) -> Self {
        let path = path_in(folder);
        let place = path.clone();
        Self {
            path,
            later: Later::new(move |state| {
                let line = write(&place, state).err();
                let line = line.map(|error| format!("the overrides on the disk are old: {error}"));
                if let Some(line) = &line {
                    error!("{line}");
                }
                troubles.set(Topic::Overrides, line);
            }),
        }
    }

    /// Reads the state; there is none before the first [`save`](Self::save).
    ///
    /// # Errors
    /// If there is a file and it cannot be read.
    pub fn load(&self) -> Result<Loaded, StateError> {
        let bytes = match fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Loaded::default()),
            Err(source) => {
                return Err(ReplaceError {
                    action: "read",
                    path: self.path.clone(),
                    source,
                }
                .into());
            }
        };
        let kept: Kept = serde_json::from_slice(&bytes).map_err(|problem| StateError::Unreadable {
            path: self.path.clone(),
            problem,
        })?;
        Ok(Loaded {
            state: State {
                overrides: kept.overrides,
            },
            has_applied: kept.applied.is_some(),
        })
    }

    /// Replaces the state; on the disk when this returns.
    ///
    /// # Errors
    /// If it could not be written; then the old one is still there.
    pub fn save(&self, state: &State) -> Result<(), StateError> {
        self.later.instead(|| write(&self.path, state))
    }

    /// Replaces the state soon. The caller does not wait for the disk, and what fails is in the log alone.
    pub fn save_later(&self, state: State) {
        self.later.put(state);
    }

    /// Waits for what is to be saved, a little.
    pub fn finish(&self) {
        self.later.finish(PATIENCE);
    }
}

/// Where it is in a state folder.
pub fn path_in(folder: &Path) -> PathBuf {
    folder.join("state.json")
}

/// On the disk when this returns.
fn write(path: &Path, state: &State) -> Result<(), StateError> {
    let mut json = serde_json::to_vec_pretty(state).map_err(|problem| StateError::Unreadable {
        path: path.to_owned(),
        problem,
    })?;
    json.push(b'\n');
    Ok(private::replace(path, &json, Durability::Synced)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> State {
        let one = Override {
            admin: Some(Admin::Draining),
            weight: None,
            since_unix_ms: 7,
            drain_until_unix_ms: Some(9),
            ramp: None,
        };
        State {
            overrides: [("web".to_owned(), [("web-1".to_owned(), one)].into())].into(),
        }
    }

    #[test]
    fn what_is_saved_is_loaded_and_half_a_file_changes_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::in_folder(folder.path(), Troubles::default());
        assert_eq!(store.load().expect("no file is no state").state, State::default());
        store.save(&state()).expect("saved");
        fs::write(folder.path().join("state.json.new"), "{ \"appl").expect("written");
        assert_eq!(store.load().expect("loaded").state, state());
        private::remove(&path_in(folder.path())).expect("removed");
        assert_eq!(store.load().expect("loaded").state, State::default());
        store.save_later(state());
        store.finish();
        assert_eq!(store.load().expect("loaded").state, state());
    }

    #[test]
    fn a_state_that_cannot_be_written_leaves_the_old_one() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::in_folder(folder.path(), Troubles::default());
        store.save(&state()).expect("saved");
        fs::create_dir(folder.path().join("state.json.new")).expect("a folder in the way");
        let error = store.save(&State::default()).expect_err("a folder is in the way");
        assert!(error.to_string().starts_with("cannot write "), "{error}");
        assert_eq!(store.load().expect("loaded").state, state());
    }

    #[test]
    fn the_overrides_of_an_earlier_version_count() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::in_folder(folder.path(), Troubles::default());
        let overrides = serde_json::to_string(&state().overrides).expect("JSON");
        for (applied, has_applied) in [("null", false), ("{\"toml\": \"x\", \"file\": null}", true)] {
            let text = format!("{{\"applied\": {applied}, \"overrides\": {overrides}}}");
            fs::write(path_in(folder.path()), text).expect("written");
            let loaded = store.load().expect("loaded");
            assert_eq!((loaded.state, loaded.has_applied), (state(), has_applied), "{applied}");
        }
        fs::write(path_in(folder.path()), "{\"overrides\": {}, \"other\": 1}").expect("written");
        assert!(store.load().is_err());
    }

    #[test]
    fn a_strange_file_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("state.json"), "[]").expect("written");
        let error = Store::in_folder(folder.path(), Troubles::default())
            .load()
            .expect_err("not a state");
        assert!(error.to_string().contains("state.json is not a state file"), "{error}");
    }
}

//! The configuration that was accepted last, kept for the next start; and which one counts then.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tracing::error;
use xxhash_rust::xxh3::xxh3_64;

use super::later::Later;
use super::positions::PATIENCE;
use super::state::StateError;
use super::trouble::{Topic, Troubles};
use crate::api::types::Acceptance;
use crate::private::{self, Durability, ReplaceError};

/// A configuration that was accepted, and when.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Accepted {
    /// Its text.
    pub toml: String,
    /// The file's name, as its sender gave it; nothing: it came from a pipe.
    pub file: Option<String>,
    /// How it came.
    pub by: Acceptance,
    /// When.
    pub accepted_unix_ms: u64,
    /// [`hash`] of the file named on the command line at that moment; nothing: it could not be read then.
    pub own_file: Option<u64>,
}

// The text holds secrets.
impl fmt::Debug for Accepted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, by, own_file, .. } = self;
        write!(f, "Accepted({file:?} by {by:?}, own file {own_file:?})")
    }
}

/// XXH3-64 of a file's text: whether it has changed.
pub fn hash(text: &[u8]) -> u64 {
    xxh3_64(text)
}

/// The file named on the command line, at a start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileNow {
    /// It has no error; its [`hash`].
    Good(u64),
    /// It cannot be read, or has errors.
    Bad,
}

/// What is on record at a start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OnRecord {
    /// How it came.
    pub by: Acceptance,
    /// [`hash`] of its text.
    pub text: u64,
    /// As [`Accepted::own_file`].
    pub own_file: Option<u64>,
    /// This version understands it.
    pub good: bool,
}

/// Which configuration counts at a start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// The file.
    File,
    /// The file: it has changed since another configuration was applied, which is dropped.
    FileChanged,
    /// The file: what was applied is not accepted by this version.
    AppliedRefused,
    /// What was applied: the file has not changed since.
    Applied,
    /// What was accepted last: the file is not good.
    LastGood,
    /// None: the file is not good, and nothing good is on record.
    Nothing,
}

/// Decides which configuration counts at a start.
pub fn choose(file: FileNow, last: Option<OnRecord>) -> Choice {
    match (file, last) {
        (FileNow::Good(_), None) => Choice::File,
        (FileNow::Good(now), Some(last)) => {
            if last.by != Acceptance::Apply || last.text == now {
                Choice::File
            } else if last.own_file != Some(now) {
                Choice::FileChanged
            } else if last.good {
                Choice::Applied
            } else {
                Choice::AppliedRefused
            }
        }
        (FileNow::Bad, Some(last)) if last.good => Choice::LastGood,
        (FileNow::Bad, _) => Choice::Nothing,
    }
}

/// The file that holds what was accepted last.
#[derive(Clone)]
pub struct Record {
    path: PathBuf,
    later: Later<Accepted>,
}

impl Record {
    /// The one in a folder.
    pub fn in_folder(folder: &Path, troubles: Troubles) -> Self {
        let path = path_in(folder);
        let place = path.clone();
        Self {
            path,
            later: Later::new(move |accepted| {
                let line = write(&place, accepted).err().map(|error| {
                    format!("the configuration in force is not kept for the next start, should the file be bad then: {error}")
                });
                if let Some(line) = line.as_ref().filter(|_| !troubles.has(Topic::LastGood)) {
                    error!("{line}");
                }
                troubles.set(Topic::LastGood, line);
            }),
        }
    }

    /// Reads it; there is none before the first configuration.
    ///
    /// # Errors
    /// If there is a file and it cannot be read.
    pub fn load(&self) -> Result<Option<Accepted>, StateError> {
        match fs::read(&self.path) {
            Ok(bytes) => match serde_json::from_slice(&bytes) {
                Ok(accepted) => Ok(Some(accepted)),
                Err(problem) => Err(StateError::Unreadable {
                    path: self.path.clone(),
                    problem,
                }),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(StateError::from(ReplaceError {
                action: "read",
                path: self.path.clone(),
                source,
            })),
        }
    }

    /// Replaces it; on the disk when this returns.
    ///
    /// # Errors
    /// If it could not be written; then the old one is still there.
    pub fn save(&self, accepted: &Accepted) -> Result<(), StateError> {
        self.later.instead(|| write(&self.path, accepted))
    }

    /// Replaces it soon. The caller does not wait for the disk; what fails is a [`Troubles`] line.
    pub fn save_later(&self, accepted: Accepted) {
        self.later.put(accepted);
    }

    /// Waits for what is to be saved, a little.
    pub fn finish(&self) {
        self.later.finish(PATIENCE);
    }
}

/// Where it is in a state folder.
pub fn path_in(folder: &Path) -> PathBuf {
    folder.join("config.json")
}

fn write(path: &Path, accepted: &Accepted) -> Result<(), StateError> {
    let json = serde_json::to_vec(accepted).map_err(|problem| StateError::Unreadable {
        path: path.to_owned(),
        problem,
    })?;
    Ok(private::replace(path, &json, Durability::Synced)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use Acceptance::{Apply, Reload, Start};
    use Choice::*;

    #[test]
    fn the_last_apply_counts_until_the_file_changes_and_a_bad_file_stops_nobody() {
        let on_record = |by, text, own_file, good| {
            Some(OnRecord {
                by,
                text,
                own_file,
                good,
            })
        };
        let good = FileNow::Good;
        let cases = [
            ("first start", good(1), None, File),
            ("first start, bad file", FileNow::Bad, None, Nothing),
            ("as before", good(1), on_record(Start, 1, Some(1), true), File),
            ("edited", good(2), on_record(Start, 1, Some(1), true), File),
            (
                "edited after SIGHUP",
                good(2),
                on_record(Reload, 1, Some(1), true),
                File,
            ),
            (
                "other text applied",
                good(1),
                on_record(Apply, 7, Some(1), true),
                Applied,
            ),
            // Edited, applied, another applied: the file is as it was at the last apply.
            ("two applied", good(2), on_record(Apply, 7, Some(2), true), Applied),
            // Edited, applied, the old text restored: the file has changed since.
            ("restored", good(1), on_record(Apply, 2, Some(2), true), FileChanged),
            (
                "the file itself was applied",
                good(2),
                on_record(Apply, 2, Some(2), true),
                File,
            ),
            (
                "edited to what was applied",
                good(7),
                on_record(Apply, 7, Some(1), true),
                File,
            ),
            (
                "no file at the apply",
                good(1),
                on_record(Apply, 7, None, true),
                FileChanged,
            ),
            (
                "older version's",
                good(1),
                on_record(Apply, 7, Some(1), false),
                AppliedRefused,
            ),
            (
                "older version's, changed",
                good(2),
                on_record(Apply, 7, Some(1), false),
                FileChanged,
            ),
            (
                "bad after start",
                FileNow::Bad,
                on_record(Start, 1, Some(1), true),
                LastGood,
            ),
            (
                "bad after SIGHUP",
                FileNow::Bad,
                on_record(Reload, 1, Some(1), true),
                LastGood,
            ),
            (
                "bad after apply",
                FileNow::Bad,
                on_record(Apply, 7, Some(1), true),
                LastGood,
            ),
            (
                "bad at the apply, too",
                FileNow::Bad,
                on_record(Apply, 7, None, true),
                LastGood,
            ),
            ("both bad", FileNow::Bad, on_record(Start, 1, Some(1), false), Nothing),
        ];
        for (what, file, last, expected) in cases {
            assert_eq!(choose(file, last), expected, "{what}");
        }
    }

    #[test]
    fn what_was_accepted_is_kept_and_not_shown() {
        let folder = tempfile::tempdir().expect("a folder");
        let troubles = Troubles::default();
        let record = Record::in_folder(folder.path(), troubles.clone());
        assert_eq!(record.load().expect("none"), None);
        let accepted = Accepted {
            toml: "url = \"https://token\"".into(),
            file: None,
            by: Apply,
            accepted_unix_ms: 1,
            own_file: Some(u64::MAX),
        };
        assert!(!format!("{accepted:?}").contains("token"));
        record.save(&accepted).expect("saved");
        assert_eq!(record.load().expect("loaded"), Some(accepted.clone()));
        fs::write(path_in(folder.path()), "{").expect("written");
        assert!(record.load().is_err());
        fs::create_dir(folder.path().join("config.json.new")).expect("in the way");
        record.save_later(accepted.clone());
        record.finish();
        assert!(
            troubles.lines()[0].contains("not kept for the next start"),
            "{troubles:?}"
        );
        fs::remove_dir(folder.path().join("config.json.new")).expect("removed");
        record.save_later(accepted);
        record.finish();
        assert_eq!(troubles.lines(), Vec::<String>::new());
    }
}
